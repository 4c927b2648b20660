//! The form of a user or group of a task; names are looked up in the task's own files, by its shim.

/// Highest user or group id: above it ids would wrap around in places (as Docker).
const ID_MAX: u32 = i32::MAX.unsigned_abs();

/// Longest name in bytes (`LOGIN_NAME_MAX` of Linux).
const NAME_MAX_BYTES: usize = 256;

/// Checks `user[:group]`, each a name or a number; empty: root.
///
/// # Errors
/// What is wrong, for people.
pub fn check_user(text: &str) -> Result<(), String> {
    let mut parts = text.split(':');
    let (user, group) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        return Err(format!("\"{}\" must be user or user:group", shown(text)));
    }
    check_part(user)?;
    group.map_or(Ok(()), check_part)
}

/// Checks a group by name or number.
///
/// # Errors
/// What is wrong, for people.
pub fn check_group(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains(':') {
        return Err(format!(
            "\"{}\" must be the name or number of a group",
            shown(text)
        ));
    }
    check_part(text)
}

fn check_part(text: &str) -> Result<(), String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if numeric && (digits != text || text.parse::<u32>().map_or(true, |id| id > ID_MAX)) {
        return Err(format!(
            "ids must be between 0 and {ID_MAX}, not {}",
            shown(text)
        ));
    }
    if text.len() > NAME_MAX_BYTES || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!(
            "\"{}\" must be a name of at most {NAME_MAX_BYTES} bytes without blanks and control characters",
            shown(text)
        ));
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_a_name_or_number_and_perhaps_a_group() {
        for good in [
            "",
            "0",
            "0:0",
            "web",
            "web:logs",
            ":0",
            "2147483647",
            "a.b-c_d$",
        ] {
            assert_eq!(check_user(good), Ok(()), "{good}");
        }
        for bad in [
            "0:0:0",
            "a\nb",
            "a b",
            "4294967296",
            "4294967295",
            "2147483648",
            "0:-1",
            "-1",
            "+1",
            "a\u{0}",
        ] {
            assert!(check_user(bad).is_err(), "{bad:?}");
        }
        assert!(check_user(&"u".repeat(257)).is_err());
    }

    #[test]
    fn a_group_is_one_name_or_number() {
        assert_eq!(check_group("audio"), Ok(()));
        for bad in ["", "a:b", "4294967295", "-5", "a\tb"] {
            assert!(check_group(bad).is_err(), "{bad:?}");
        }
    }
}
