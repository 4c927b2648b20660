//! Exposed and published ports.

use std::collections::BTreeSet;

use model::workload::{PortMapping, Protocol};

use super::super::failure::{Failure, Result};
use super::super::value::{Fields, shown};

/// Most published or exposed ports of one container: each costs kernel rules on its host.
const PORTS_MAX: usize = 1024;

/// `80`, `80/tcp` or `80-82/udp`.
fn port_range(text: &str, path: &str) -> Result<(u16, u16, Protocol)> {
    let bad = || Failure::invalid(format!("{path}: invalid port \"{}\"", shown(text)));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(bad()),
    };
    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
    let low: u16 = low.parse().map_err(|_| bad())?;
    let high: u16 = high.parse().map_err(|_| bad())?;
    if low == 0 || high < low {
        return Err(bad());
    }
    Ok((low, high, protocol))
}

/// Takes `ExposedPorts` out of a container's configuration.
pub(in crate::docker) fn take_exposed(fields: &mut Fields) -> Result<BTreeSet<String>> {
    let path = fields.name("ExposedPorts");
    let mut exposed = BTreeSet::new();
    for text in fields.set("ExposedPorts")? {
        let (low, high, protocol) = port_range(&text, &path)?;
        if exposed.len() + usize::from(high - low) >= PORTS_MAX {
            return Err(Failure::invalid(format!(
                "{path}: at most {PORTS_MAX} ports can be exposed"
            )));
        }
        exposed.extend((low..=high).map(|port| format!("{port}/{}", protocol.as_str())));
    }
    Ok(exposed)
}

/// Takes `PortBindings` out of `HostConfig`.
pub(in crate::docker) fn take_bindings(fields: &mut Fields) -> Result<Vec<PortMapping>> {
    let path = fields.name("PortBindings");
    let mut mappings = Vec::new();
    for (key, value) in fields.map("PortBindings")? {
        let path = format!("{path}.{}", shown(&key));
        let (port, high, protocol) = port_range(&key, &path)?;
        if port != high {
            return Err(Failure::unsupported(format!(
                "{path}: ranges must be written port by port"
            )));
        }
        let mut bindings = value.into_list(&path)?;
        if bindings.is_empty() {
            // Docker: no binding means a free port.
            bindings.push(super::super::value::Value::Null);
        }
        for binding in bindings {
            let mut binding = Fields::open(binding, &path)?;
            let host_ip = binding.text("HostIp")?;
            let host_port = binding.text("HostPort")?;
            binding.finish()?;
            mappings.push(PortMapping {
                port,
                protocol,
                host_ip: host_address(&host_ip, &path)?,
                host_port: self::host_port(&host_port, &path)?,
            });
            if mappings.len() > PORTS_MAX {
                return Err(Failure::invalid(format!(
                    "PortBindings: at most {PORTS_MAX} ports can be published"
                )));
            }
        }
    }
    mappings.sort_by_key(|m| (m.port, m.protocol));
    Ok(mappings)
}

fn host_address(text: &str, path: &str) -> Result<String> {
    if text.is_empty() || text.parse::<std::net::IpAddr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err(Failure::invalid(format!(
            "{path}.HostIp: \"{}\" is not an IP address",
            shown(text)
        )))
    }
}

fn host_port(text: &str, path: &str) -> Result<Option<u16>> {
    match text {
        "" | "0" => Ok(None),
        text if text.contains('-') => Err(Failure::unsupported(format!(
            "{path}.HostPort: a range to choose from is not supported, leave it empty for any free port"
        ))),
        text => text.parse().map(Some).map_err(|_| {
            Failure::invalid(format!(
                "{path}.HostPort: invalid port specification: \"{}\"",
                shown(text)
            ))
        }),
    }
}
