//! Content of `/etc/resolv.conf` and `/etc/hosts` of workloads. Pure: the host's own files are parameters.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use model::workload::DnsSpec;

use super::NetworkError;

/// Longest single setting; names of the domain name system have at most 253 bytes.
const SETTING_BYTES: usize = 255;

/// `resolv.conf` for a workload with its own address: what the host says, unless the specification says otherwise.
/// Name servers that cannot be reached from inside (the host's loopback, IPv6) are left out; if none is left, those of
/// `upstream` (the real settings behind a resolver on the host's loopback) are taken.
pub(super) fn resolv_conf(
    dns: &DnsSpec,
    host: &str,
    upstream: &str,
) -> Result<String, NetworkError> {
    let mut servers = usable_servers(host);
    if servers.is_empty() {
        servers = usable_servers(upstream);
    }
    if !dns.servers.is_empty() {
        servers.clear();
        for server in &dns.servers {
            servers.push(server.parse().map_err(|_| setting("name server", server))?);
        }
    }
    let mut out = String::new();
    for server in &servers {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "nameserver {server}");
    }
    if servers.is_empty() {
        out.push_str("# This host names no resolver that can be reached from here.\n");
    }
    list(&mut out, "search", &dns.search, &domains(host))?;
    list(&mut out, "options", &dns.options, &values(host, "options"))?;
    Ok(out)
}

fn usable_servers(file: &str) -> Vec<IpAddr> {
    let servers = values(file, "nameserver");
    let servers = servers
        .iter()
        .filter_map(|text| text.parse::<Ipv4Addr>().ok());
    servers
        .filter(|address| !address.is_loopback())
        .map(IpAddr::V4)
        .collect()
}

fn domains(file: &str) -> Vec<String> {
    let search = values(file, "search");
    if search.is_empty() {
        values(file, "domain")
    } else {
        search
    }
}

fn values(file: &str, keyword: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in file.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some(keyword) {
            found.extend(words.map(str::to_owned));
        }
    }
    found
}

/// Writes one line: what is wanted, else what the host has. A single `.` asks for an empty list, as Docker's
/// `--dns-search .` does.
fn list(
    out: &mut String,
    keyword: &'static str,
    wanted: &[String],
    host: &[String],
) -> Result<(), NetworkError> {
    let words = if wanted.is_empty() { host } else { wanted };
    let words: Vec<&String> = words.iter().filter(|word| *word != ".").collect();
    for word in &words {
        let plain = word.bytes().all(|b| b.is_ascii_graphic());
        if word.is_empty() || word.len() > SETTING_BYTES || !plain {
            return Err(setting("resolver setting", word));
        }
    }
    if !words.is_empty() {
        let words: Vec<&str> = words.into_iter().map(String::as_str).collect();
        let _ = writeln!(out, "{keyword} {}", words.join(" "));
    }
    Ok(())
}

/// Who a workload is, for its `/etc/hosts`.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity<'a> {
    /// Its address; `None` if it has none of its own.
    pub(super) address: Option<Ipv4Addr>,
    /// Host name inside.
    pub(super) hostname: &'a str,
    /// Domain; may be empty.
    pub(super) domain: &'a str,
}

/// What every `/etc/hosts` begins with, as Docker writes it.
const HOSTS_HEAD: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// `/etc/hosts` of a workload. `base` replaces the usual beginning (the host's own file in the host's network);
/// `gateway` stands for `host-gateway`.
pub(super) fn hosts(
    base: Option<&str>,
    extra: &[(String, String)],
    gateway: Ipv4Addr,
    identity: &Identity<'_>,
) -> Result<String, NetworkError> {
    let mut out = base.unwrap_or(HOSTS_HEAD).to_owned();
    if !out.ends_with('\n') {
        out.push('\n');
    }
    for (name, address) in extra {
        let address = match address.as_str() {
            "host-gateway" => IpAddr::V4(gateway),
            other => other
                .parse()
                .map_err(|_| setting("address of an extra host", other))?,
        };
        let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if name.is_empty() || name.len() > SETTING_BYTES || !plain {
            return Err(setting("name of an extra host", name));
        }
        let _ = writeln!(out, "{address}\t{name}");
    }
    if let Some(address) = identity.address {
        let (name, domain) = (identity.hostname, identity.domain);
        let _ = if domain.is_empty() {
            writeln!(out, "{address}\t{name}")
        } else {
            writeln!(out, "{address}\t{name}.{domain} {name}")
        };
    }
    Ok(out)
}

fn setting(what: &'static str, value: &str) -> NetworkError {
    let value = value
        .chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect();
    NetworkError::Setting { what, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_resolvers_are_replaced() {
        let stub = "# x\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let upstream = "nameserver 192.0.2.53\nnameserver fe80::1%2\n";
        assert_eq!(
            resolv_conf(&DnsSpec::default(), stub, upstream).unwrap(),
            "nameserver 192.0.2.53\nsearch lan\noptions edns0 trust-ad\n"
        );
        let none = resolv_conf(&DnsSpec::default(), stub, "").unwrap();
        assert!(none.starts_with("# This host names no resolver"), "{none}");
        let plain = "nameserver 127.0.0.1\nnameserver 10.0.0.2\nnameserver ::1\ndomain a.b\n";
        assert_eq!(
            resolv_conf(&DnsSpec::default(), plain, upstream).unwrap(),
            "nameserver 10.0.0.2\nsearch a.b\n"
        );
    }

    #[test]
    fn settings_win_and_cannot_add_lines() {
        let dns = |server: &str, search: &str, option: &str| DnsSpec {
            servers: vec![server.to_owned()],
            search: vec![search.to_owned()],
            options: vec![option.to_owned()],
        };
        let host = "nameserver 10.0.0.2\nsearch lan\n";
        assert_eq!(
            resolv_conf(&dns("1.1.1.1", ".", "ndots:2"), host, "").unwrap(),
            "nameserver 1.1.1.1\noptions ndots:2\n"
        );
        for bad in [
            dns("1.1.1.1\nx", "a", "b"),
            dns("1.1.1.1", "a\nnameserver 6.6.6.6", "b"),
            dns("1.1.1.1", "a", "b c"),
            dns("1.1.1.1", "a", ""),
        ] {
            assert!(resolv_conf(&bad, host, "").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_end_with_the_workload_itself() {
        let gateway = Ipv4Addr::new(172, 30, 0, 1);
        let identity = Identity {
            address: Some(Ipv4Addr::new(172, 30, 0, 2)),
            hostname: "web",
            domain: "example.org",
        };
        let extra = [
            ("up".to_owned(), "host-gateway".to_owned()),
            ("six".to_owned(), "fd00::1".to_owned()),
        ];
        let text = hosts(None, &extra, gateway, &identity).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("172.30.0.1\tup\nfd00::1\tsix\n172.30.0.2\tweb.example.org web\n"));
        for bad in [
            ("a b", "1.1.1.1"),
            ("a\nb", "1.1.1.1"),
            ("", "1.1.1.1"),
            ("a", "x"),
        ] {
            let extra = [(bad.0.to_owned(), bad.1.to_owned())];
            assert!(
                hosts(None, &extra, gateway, &Identity::default()).is_err(),
                "{bad:?}"
            );
        }
    }
}
