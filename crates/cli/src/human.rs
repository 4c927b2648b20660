//! Amounts and times as people read them.

use wire::native::Reference;
use wire::native::workload::{HoldKind, Phase, PortMapping, Protocol, Workload};

/// Milliseconds since the epoch, now.
#[must_use]
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A size such as `1.5 GiB`.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut whole = bytes;
    while whole >= 1024 * 10 && unit + 1 < UNITS.len() || (whole >= 1024 && unit + 1 < UNITS.len())
    {
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let step = 1u128 << (10 * unit);
    let tenths = (u128::from(bytes) * 10 + step / 2) / step;
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", (tenths + 5) / 10, UNITS[unit])
    }
}

/// A number of cores such as `1.5`.
#[must_use]
pub(crate) fn cores(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A span such as `5m` or `3d`.
#[must_use]
pub(crate) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        172_800..63_072_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

/// How long ago an RFC 3339 time is; `-` if it is none.
#[must_use]
pub(crate) fn age(time: &str, now_ms: i64) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => span((now_ms - then.as_millisecond()) / 1000),
        Err(_) => "-".into(),
    }
}

/// The first twelve characters of an id, without the digest's algorithm.
#[must_use]
pub(crate) fn short(id: &str) -> String {
    id.strip_prefix("sha256:")
        .unwrap_or(id)
        .chars()
        .take(12)
        .collect()
}

/// An image's name as people write it: without `docker.io/library/`.
#[must_use]
pub(crate) fn image_name(full: &str) -> &str {
    full.strip_prefix("docker.io/library/")
        .or_else(|| full.strip_prefix("docker.io/"))
        .unwrap_or(full)
}

/// Ports such as `8080->80, 53->53/udp`.
#[must_use]
pub(crate) fn ports(ports: &[PortMapping]) -> String {
    let mut seen = Vec::new();
    for port in ports {
        let protocol = match port.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
            Protocol::Sctp => "/sctp",
        };
        let address = match port.host_ip.as_str() {
            "" | "0.0.0.0" | "::" => String::new(),
            address if address.contains(':') => format!("[{address}]:"),
            address => format!("{address}:"),
        };
        let text = match port.host_port {
            Some(host) => format!("{address}{host}->{}{protocol}", port.port),
            None => format!("{}{protocol}", port.port),
        };
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen.join(", ")
}

/// What a workload does, in a few words.
#[must_use]
pub(crate) fn state(workload: &Workload, now_ms: i64) -> String {
    let status = &workload.status;
    if let Some(hold) = &workload.hold {
        return format!("{} {}", hold_word(hold.kind), age(&hold.since, now_ms));
    }
    let since = |time: &Option<String>| {
        time.as_deref()
            .map_or_else(|| "-".into(), |time| age(time, now_ms))
    };
    match status.phase {
        Phase::Created => "created".into(),
        Phase::Pending => "pending".into(),
        Phase::Preparing if status.progress.is_empty() => "preparing".into(),
        Phase::Preparing => format!("preparing: {}", status.progress),
        Phase::Running => format!("running {}", since(&status.started_at)),
        Phase::Paused => "paused".into(),
        Phase::Restarting => format!("restarting ({})", status.exit_code),
        Phase::Exited => format!(
            "exited ({}) {} ago",
            status.exit_code,
            since(&status.finished_at)
        ),
        Phase::Failed => "failed".into(),
        Phase::Unknown => "unknown".into(),
    }
}

/// Why a workload does not run, in a word or two.
#[must_use]
pub(crate) fn hold_word(kind: HoldKind) -> &'static str {
    match kind {
        HoldKind::Queued => "queued",
        HoldKind::Parked => "parked",
        HoldKind::Moving => "moving",
        HoldKind::Awaiting => "waiting for room",
    }
}

/// What is to be known of a workload's state beyond a word: why it waits, what went wrong, who still has to remove it.
#[must_use]
pub(crate) fn reason(workload: &Workload) -> String {
    let mut parts = Vec::new();
    if let Some(hold) = &workload.hold {
        parts.push(hold.reason.clone());
    } else if matches!(workload.status.phase, Phase::Failed | Phase::Pending) {
        parts.push(workload.status.error.clone());
    } else if workload.status.phase == Phase::Unknown {
        parts.push("its host cannot be reached".to_owned());
    }
    let left: Vec<String> = workload.left.iter().map(|it| named(&it.host)).collect();
    if !left.is_empty() {
        parts.push(format!("still to be removed from {}", left.join(", ")));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

/// The name of what is referred to; the beginning of its id if it is not known any more.
#[must_use]
pub(crate) fn named(it: &Reference) -> String {
    if it.name.is_empty() {
        short(&it.id)
    } else {
        it.name.clone()
    }
}

/// The beginning of a text, at most so many characters.
#[must_use]
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The names out of `known` that `wrong` may have meant, nearest first, at most three.
#[must_use]
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (wrong.chars().count() / 3).clamp(1, 3);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let distance = distance(wrong, name);
            let near = distance <= limit || (wrong.len() >= 3 && name.contains(wrong));
            near.then_some((distance, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Edit distance (Levenshtein) with neighbouring letters swapped counting once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            (512 << 20, "512 MiB"),
            (3 << 29, "1.5 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn cores_and_spans() {
        assert_eq!(
            (cores(1500), cores(2000), cores(50)),
            ("1.5".into(), "2".into(), "0.05".into())
        );
        assert_eq!(
            (span(59), span(600), span(90_000), span(-5)),
            ("59s".into(), "10m".into(), "25h".into(), "0s".into())
        );
    }

    #[test]
    fn slips_of_the_keyboard_are_found() {
        assert_eq!(nearest("wbe", ["web", "db", "cache"]), ["web"]);
        assert_eq!(
            nearest("team", ["team-a", "team-b", "ops"]),
            ["team-a", "team-b"]
        );
        assert!(nearest("xyz", ["web", "db"]).is_empty());
    }

    #[test]
    fn ports_are_short() {
        let port = |host_ip: &str, host_port, port, protocol| PortMapping {
            port,
            protocol,
            host_ip: host_ip.into(),
            host_port,
        };
        let all = [
            port("0.0.0.0", Some(8080), 80, Protocol::Tcp),
            port("::", Some(8080), 80, Protocol::Tcp),
            port("127.0.0.1", Some(53), 53, Protocol::Udp),
            port("", None, 9, Protocol::Tcp),
        ];
        assert_eq!(ports(&all), "8080->80, 127.0.0.1:53->53/udp, 9");
    }
}
