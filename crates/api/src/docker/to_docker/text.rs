//! Texts as Docker writes them: times, durations, commands.

use model::Timestamp;

/// Go's zero time, which Docker shows for "never".
pub(in crate::docker) const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with a fraction, UTC.
pub(in crate::docker) fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.millis())
        .map_or_else(|_| NEVER.to_owned(), |stamp| format!("{stamp:.3}"))
}

/// RFC 3339, or Go's zero time.
pub(in crate::docker) fn rfc3339_or_never(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), rfc3339)
}

/// RFC 3339 with nine digits after the point, as `docker logs --timestamps` prints it.
pub(in crate::docker) fn rfc3339_nano(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| NEVER.to_owned(), |stamp| format!("{stamp:.9}"))
}

/// A length of time for people, as Docker's `units.HumanDuration`.
pub(in crate::docker) fn human_duration(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (..1, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., ..48) => format!("{hours} hours"),
        (.., ..336) => format!("{} days", hours / 24),
        (.., ..1440) => format!("{} weeks", hours / 24 / 7),
        (.., ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// A command in one line; words with spaces are quoted.
pub(in crate::docker) fn command_line<'a>(words: impl Iterator<Item = &'a String>) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        if word.contains(char::is_whitespace) {
            line.push('\'');
            line.push_str(word);
            line.push('\'');
        } else {
            line.push_str(word);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3_599, "59 minutes"),
            (3_600, "About an hour"),
            (7_200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 21, "3 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(human_duration(seconds * 1000), text, "{seconds}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(
            rfc3339(Timestamp(1_700_000_000_123)),
            "2023-11-14T22:13:20.123Z"
        );
        assert_eq!(
            rfc3339_nano(1_700_000_000_123),
            "2023-11-14T22:13:20.123000000Z"
        );
        assert_eq!(rfc3339_or_never(None), NEVER);
    }
}
