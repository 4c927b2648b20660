//! Small texts of Docker: signals, sizes, numbers.

use super::super::failure::{Failure, Result};
use super::super::value::shown;

/// Signals by number (signal(7), Linux on x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First and last real-time signal a program may use (the C library keeps 32 and 33).
const REALTIME: (i32, i32) = (34, 64);

/// A signal by number or name, with or without `SIG`.
pub(in crate::docker) fn signal(text: &str) -> Result<i32> {
    let bad = || Failure::invalid(format!("invalid signal: {}", shown(text)));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=REALTIME.1).contains(&number) {
            Ok(number)
        } else {
            Err(bad())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        "UNUSED" => "SYS",
        other => other,
    };
    if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).map_err(|_| bad());
    }
    let (base, rest, sign) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (REALTIME.0, rest.strip_prefix('+').unwrap_or(rest), 1)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        (REALTIME.1, rest.strip_prefix('-').unwrap_or(rest), -1)
    } else {
        return Err(bad());
    };
    let offset: i32 = if rest.is_empty() {
        0
    } else {
        rest.parse().map_err(|_| bad())?
    };
    let number = base + sign * offset.clamp(-64, 64);
    if (REALTIME.0..=REALTIME.1).contains(&number) {
        Ok(number)
    } else {
        Err(bad())
    }
}

/// A signal's name with `SIG`, for showing.
pub(in crate::docker) fn signal_name(number: i32) -> String {
    usize::try_from(number)
        .ok()
        .and_then(|n| n.checked_sub(1))
        .and_then(|index| SIGNALS.get(index))
        .map_or_else(|| number.to_string(), |name| format!("SIG{name}"))
}

/// A size in bytes as `docker/go-units` reads it: a number and an optional `b`, `k`, `m`, `g` or `t` (powers of 1024),
/// each optionally followed by `b` or `ib`.
pub(in crate::docker) fn size_bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits_end);
    let number: f64 = number.parse().ok()?;
    let factor: u64 = match unit.trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded below; fractions of a byte have no meaning"
    )]
    {
        let bytes = number * factor as f64;
        (bytes.is_finite() && (0.0..9.0e18).contains(&bytes)).then_some(bytes as u64)
    }
}

/// A boolean of a query, as Docker reads it: everything but these words is true.
pub(in crate::docker) fn query_bool(text: &str) -> bool {
    !matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "" | "0" | "no" | "false" | "none"
    )
}

/// Makes an absolute path lexically clean; `None` if it is relative, climbs with `..` or has control characters.
pub(in crate::docker) fn clean_absolute(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => {
                out.push('/');
                out.push_str(part);
            }
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_any_name() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGCLD", 17),
        ] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "65",
            "SIGFOO",
            "RTMIN+99",
            "RTMIN+x",
            "99999999999",
        ] {
            assert!(signal(bad).is_err(), "{bad}");
        }
        assert_eq!(signal_name(15), "SIGTERM");
        assert_eq!(signal_name(40), "40");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64m", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("10", Some(10)),
            ("2GiB", Some(2 << 30)),
            ("-1", None),
            ("x", None),
            ("", None),
            ("99999999999t", None),
        ] {
            assert_eq!(size_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn paths() {
        assert_eq!(clean_absolute("//a/./b/").as_deref(), Some("/a/b"));
        assert_eq!(clean_absolute("/").as_deref(), Some("/"));
        for bad in ["", "a", "/a/../b", "/a\nb"] {
            assert_eq!(clean_absolute(bad), None);
        }
    }
}
