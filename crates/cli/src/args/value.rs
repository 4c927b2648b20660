//! Values as people write them: sizes, spans, times, signals, ports, mounts, pairs.

use std::time::Duration;

use wire::native::workload::{Mount, MountSource, PortMapping, Protocol, RestartPolicy};

/// A moment: absolute, or so long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// Milliseconds since the epoch.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

impl Time {
    /// Milliseconds since the epoch.
    #[must_use]
    pub fn millis(self, now_ms: i64) -> i64 {
        match self {
            Time::At(ms) => ms,
            Time::Ago(span) => {
                now_ms.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
            }
        }
    }
}

/// Parses `512m`, `1.5g`, `2GiB`, `1048576`; units count in 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bad =
        || format!("\"{text}\" is not a size: write a number and b, k, m, g or t, as in 512m");
    let lower = text.trim().to_ascii_lowercase();
    let split = lower
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let part: f64 = number.parse().map_err(|_| bad())?;
    let value = part * f64::from(2u32).powi(shift);
    if !(0.0..1e18).contains(&value) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked above"
    )]
    Ok(value as u64)
}

/// Parses memory and swap together: a size, or `-1` for no limit.
pub fn swap(text: &str) -> Result<i64, String> {
    if text.trim() == "-1" {
        return Ok(-1);
    }
    let size = bytes(text).map_err(|why| format!("{why}; or -1 for no limit"))?;
    i64::try_from(size).map_err(|_| format!("\"{text}\" is more than any machine has"))
}

/// Parses a number of CPUs such as `0.5` or `2` into thousandths.
pub fn cpus(text: &str) -> Result<u64, String> {
    let bad = || format!("\"{text}\" is not a number of CPUs: write for example 0.5 or 2");
    let value: f64 = text.parse().map_err(|_| bad())?;
    if !(0.001..=65536.0).contains(&value) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked above"
    )]
    Ok((value * 1000.0).round() as u64)
}

/// Parses `90s`, `10m`, `1h30m`, `7d`, or seconds.
pub fn span(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("\"{text}\" is not a span of time: write for example 90s, 10m, 1h30m or 7d");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0u64;
    let mut number = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let factor = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(bad()),
        };
        let count: u64 = number.parse().map_err(|_| bad())?;
        number.clear();
        total = count
            .checked_mul(factor)
            .and_then(|span| total.checked_add(span))
            .ok_or_else(bad)?;
    }
    if !number.is_empty() || text.is_empty() {
        return Err(bad());
    }
    Ok(Duration::from_secs(total))
}

/// Parses RFC 3339, seconds since the epoch (with an optional fraction), or an age.
pub fn time(text: &str) -> Result<Time, String> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(Time::At(moment.as_millisecond()));
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if digits
        && text.len() >= 9
        && let Ok(seconds) = text.parse::<f64>()
        && seconds < 1e11
    {
        #[expect(clippy::cast_possible_truncation, reason = "below 1e14")]
        return Ok(Time::At((seconds * 1000.0) as i64));
    }
    span(text).map(Time::Ago).map_err(|_| {
        format!("\"{text}\" is not a time: write 2026-01-31T12:00:00Z, or an age such as 10m")
    })
}

/// Parses `TERM`, `SIGTERM` or `15`.
pub fn signal(text: &str) -> Result<i32, String> {
    let bad = || format!("\"{text}\" is not a signal: write a name such as TERM or a number");
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(bad())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse::<nix::sys::signal::Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| bad())
}

/// Parses `NAME=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        None if !text.is_empty() => Ok((text.to_owned(), String::new())),
        _ => Err(format!("\"{text}\" is not of the form NAME=value")),
    }
}

/// A change of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChange {
    /// It gets this value.
    Set(String, String),
    /// It goes.
    Remove(String),
}

/// Parses `KEY=VALUE`, or `KEY-` to take it away.
pub fn label_change(text: &str) -> Result<LabelChange, String> {
    let bad = || format!("\"{text}\" changes no label: write KEY=VALUE, or KEY- to take it away");
    if let Some((key, value)) = text.split_once('=') {
        return if key.is_empty() {
            Err(bad())
        } else {
            Ok(LabelChange::Set(key.to_owned(), value.to_owned()))
        };
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() => Ok(LabelChange::Remove(key.to_owned())),
        _ => Err(bad()),
    }
}

/// Parses a whole percentage such as `150%` or `150`.
pub fn percent(text: &str) -> Result<u32, String> {
    let number = text.trim().trim_end_matches('%').trim_end();
    number
        .parse()
        .map_err(|_| format!("\"{text}\" is not a percentage: write for example 150%"))
}

/// Parses `[[address:][host port]:]port[-port][/tcp|udp|sctp]`.
pub fn ports(text: &str) -> Result<Ports, String> {
    let bad = || {
        format!(
            "\"{text}\" does not name ports: write [ADDRESS:][HOST_PORT:]PORT[/tcp|udp], as in 8080:80"
        )
    };
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((rest, "sctp")) => (rest, Protocol::Sctp),
        Some(_) => return Err(bad()),
    };
    let (outer, inside) = match rest.rsplit_once(':') {
        Some((outer, inside)) => (Some(outer), inside),
        None => (None, rest),
    };
    let (address, host) = match outer.and_then(|outer| outer.rsplit_once(':')) {
        Some((address, host)) => (address.trim_matches(['[', ']']), Some(host)),
        None => ("", outer),
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(bad());
    }
    let (first, last) = range(inside).ok_or_else(bad)?;
    let host = match host {
        None | Some("") => None,
        Some(host) => Some(range(host).ok_or_else(bad)?),
    };
    if host.is_some_and(|(low, high)| high - low != last - first) {
        return Err(format!(
            "\"{text}\": both ranges of ports must be of the same length"
        ));
    }
    Ok(Ports(
        (first..=last)
            .map(|port| PortMapping {
                port,
                protocol,
                host_ip: address.to_owned(),
                host_port: host.map(|(low, _)| low + (port - first)),
            })
            .collect(),
    ))
}

/// Ports one option names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(pub Vec<PortMapping>);

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match text.split_once('-') {
        Some((low, high)) => {
            let (low, high) = (port(low)?, port(high)?);
            (low <= high).then_some((low, high))
        }
        None => port(text).map(|port| (port, port)),
    }
}

/// Parses `/host/path:/target[:ro]`, `volume:/target[:ro]` or `/target`.
pub fn volume(text: &str) -> Result<Mount, String> {
    let bad = || {
        format!(
            "\"{text}\" is not a mount: write VOLUME:/TARGET[:ro], /HOST/PATH:/TARGET[:ro] or /TARGET"
        )
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, "rw"),
        [source, target] => (source, target, "rw"),
        [source, target, mode] => (source, target, mode),
        _ => return Err(bad()),
    };
    if !target.starts_with('/') || !matches!(mode, "ro" | "rw") {
        return Err(bad());
    }
    let source = if source.starts_with('/') {
        MountSource::HostPath {
            path: source.to_owned(),
        }
    } else if source.starts_with('.') {
        return Err(format!("\"{text}\": a host path must be absolute"));
    } else {
        MountSource::Volume {
            name: source.to_owned(),
        }
    };
    Ok(Mount {
        target: target.to_owned(),
        read_only: mode == "ro",
        source,
    })
}

/// Parses `/target[:size=64m]`.
pub fn tmpfs(text: &str) -> Result<Mount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut size_bytes = None;
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => size_bytes = Some(bytes(size)?),
            None if option == "ro" => read_only = true,
            None if option == "rw" => read_only = false,
            _ => {
                return Err(format!(
                    "\"{option}\" is not known here: write size=SIZE, ro or rw"
                ));
            }
        }
    }
    if !target.starts_with('/') {
        return Err(format!("\"{text}\" is not of the form /TARGET[:size=SIZE]"));
    }
    Ok(Mount {
        target: target.to_owned(),
        read_only,
        source: MountSource::Tmpfs { size_bytes },
    })
}

/// Parses `no`, `always`, `unless-stopped`, `on-failure[:times]`.
pub fn restart(text: &str) -> Result<RestartPolicy, String> {
    let (policy, times) = match text.split_once(':') {
        Some((policy, times)) => (policy, Some(times)),
        None => (text, None),
    };
    match (policy, times) {
        ("no", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", None) => Ok(RestartPolicy::OnFailure { max_retries: 0 }),
        ("on-failure", Some(times)) if times.parse::<u32>().is_ok() => {
            Ok(RestartPolicy::OnFailure {
                max_retries: times.parse().unwrap_or(0),
            })
        }
        _ => Err(format!(
            "\"{text}\" is not a restart policy: write no, always, unless-stopped or on-failure[:TIMES]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, value) in [
            ("0", 0),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("10k", 10240),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text).unwrap(), value, "{text}");
        }
        for bad in ["", "m", "1x", "-1", "1.2.3g", "99999999999t"] {
            assert!(bytes(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn spans_and_times() {
        assert_eq!(span("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(span("45").unwrap().as_secs(), 45);
        for bad in ["", "h", "1", "1x", "5m3"]
            .iter()
            .filter(|text| **text != "1")
        {
            assert!(span(bad).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(time("10m").unwrap(), Time::Ago(Duration::from_secs(600)));
        assert_eq!(time("1970-01-01T00:00:01Z").unwrap(), Time::At(1000));
        assert_eq!(time("1700000000").unwrap(), Time::At(1_700_000_000_000));
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn signals() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal(text).unwrap(), 15);
        }
        for bad in ["0", "65", "NOPE", ""] {
            assert!(signal(bad).is_err());
        }
    }

    #[test]
    fn port_mappings() {
        let one = |text: &str| ports(text).unwrap().0.remove(0);
        assert_eq!((one("80").port, one("80").host_port), (80, None));
        assert_eq!(
            (one("8080:80").port, one("8080:80").host_port),
            (80, Some(8080))
        );
        let full = one("127.0.0.1:53:5353/udp");
        assert_eq!(
            (
                full.host_ip.as_str(),
                full.host_port,
                full.port,
                full.protocol
            ),
            ("127.0.0.1", Some(53), 5353, Protocol::Udp)
        );
        assert_eq!(one("127.0.0.1::80").host_port, None);
        assert_eq!(one("[::1]:8080:80").host_ip, "::1");
        let many = ports("8000-8002:80-82").unwrap().0;
        assert_eq!(many.len(), 3);
        assert_eq!((many[2].host_port, many[2].port), (Some(8002), 82));
        for bad in ["", "0", "70000", "a:80", "80/xyz", "1-2:3", "2-1", "x:1:2"] {
            assert!(ports(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn mounts() {
        assert_eq!(
            volume("data:/var:ro").unwrap(),
            Mount {
                target: "/var".into(),
                read_only: true,
                source: MountSource::Volume {
                    name: "data".into()
                }
            }
        );
        assert!(matches!(
            volume("/a:/b").unwrap().source,
            MountSource::HostPath { .. }
        ));
        assert!(matches!(
            tmpfs("/run:size=64m").unwrap().source,
            MountSource::Tmpfs {
                size_bytes: Some(67_108_864)
            }
        ));
        for bad in ["", "a", "a:b", "a:/b:xx", "./a:/b", "a:/b:ro:z"] {
            assert!(volume(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn labels_and_percentages() {
        let set = |key: &str, value: &str| LabelChange::Set(key.into(), value.into());
        for (text, change) in [
            ("disk=ssd", set("disk", "ssd")),
            ("odd-=x", set("odd-", "x")),
            ("empty=", set("empty", "")),
            ("disk-", LabelChange::Remove("disk".into())),
        ] {
            assert_eq!(label_change(text).unwrap(), change);
        }
        for bad in ["", "-", "disk", "=ssd"] {
            assert!(label_change(bad).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(
            (percent("150%").unwrap(), percent("90").unwrap()),
            (150, 90)
        );
        for bad in ["", "%", "1.5", "-1", "many"] {
            assert!(percent(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn restart_policies() {
        assert_eq!(
            restart("on-failure:3").unwrap(),
            RestartPolicy::OnFailure { max_retries: 3 }
        );
        for bad in ["", "always:1", "on-failure:x", "never"] {
            assert!(restart(bad).is_err());
        }
    }
}
