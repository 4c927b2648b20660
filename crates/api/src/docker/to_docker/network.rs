//! Networks and attachments.

use model::workload::{NetworkMode, PortMapping};
use model::{PoolId, Workload};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The networks every pool has.
pub(in crate::docker) const NETWORKS: [&str; 3] = ["bridge", "host", "none"];

/// A stable id for a pool's network; the same name in another pool has another id.
pub(in crate::docker) fn network_id(pool: &PoolId, name: &str) -> String {
    id_of(&["network", pool.as_str(), name])
}

fn id_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}

/// `HostConfig.NetworkMode`.
pub(in crate::docker) fn network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Workload { id } => format!("container:{id}"),
    }
}

/// `NetworkSettings.Networks`.
pub(in crate::docker) fn attachments(workload: &Workload) -> Value {
    let name = match &workload.spec.network {
        NetworkMode::Bridge => "bridge",
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
        NetworkMode::Workload { .. } => return json!({}),
    };
    let network = &workload.status.network;
    let alive = workload.status.phase.is_alive();
    let endpoint = if alive {
        id_of(&["endpoint", workload.id.as_str(), name])
    } else {
        String::new()
    };
    let text = |value: &str| {
        if alive {
            value.to_owned()
        } else {
            String::new()
        }
    };
    let mut networks = Map::new();
    networks.insert(
        name.to_owned(),
        json!({
            "IPAMConfig": null,
            "Links": null,
            "Aliases": null,
            "MacAddress": text(&network.mac),
            "DriverOpts": null,
            "GwPriority": 0,
            "NetworkID": network_id(&workload.pool, name),
            "EndpointID": endpoint,
            "Gateway": text(&network.gateway),
            "IPAddress": text(&network.ip),
            "IPPrefixLen": if alive { network.prefix } else { 0 },
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": null,
        }),
    );
    Value::Object(networks)
}

/// `NetworkSettings` of an inspected container.
pub(in crate::docker) fn settings(workload: &Workload) -> Value {
    let alive = workload.status.phase.is_alive();
    let bridge = matches!(workload.spec.network, NetworkMode::Bridge) && alive;
    let network = &workload.status.network;
    let text = |value: &str| {
        if bridge {
            value.to_owned()
        } else {
            String::new()
        }
    };
    let sandbox = if alive {
        id_of(&[
            "sandbox",
            workload.id.as_str(),
            &workload.status.run.to_string(),
        ])
    } else {
        String::new()
    };
    json!({
        "Bridge": "",
        "SandboxID": sandbox,
        "SandboxKey": "",
        "Ports": if alive { port_map(workload) } else { json!({}) },
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": if bridge { id_of(&["endpoint", workload.id.as_str(), "bridge"]) } else { String::new() },
        "Gateway": text(&network.gateway),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": text(&network.ip),
        "IPPrefixLen": if bridge { network.prefix } else { 0 },
        "IPv6Gateway": "",
        "MacAddress": text(&network.mac),
        "Networks": attachments(workload),
    })
}

/// Exposed ports, with the host ports in use for those that are published.
fn port_map(workload: &Workload) -> Value {
    let mut map: Map<String, Value> = workload
        .spec
        .task
        .exposed_ports
        .iter()
        .map(|port| (port.clone(), Value::Null))
        .collect();
    for mapping in &workload.status.network.ports {
        let entry = map.entry(port_key(mapping)).or_insert(Value::Null);
        let binding = json!({
            "HostIp": shown_ip(mapping),
            "HostPort": mapping.host_port.map(|p| p.to_string()).unwrap_or_default(),
        });
        match entry {
            Value::Array(bindings) => bindings.push(binding),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => {
                *entry = Value::Array(vec![binding]);
            }
        }
    }
    Value::Object(map)
}

/// `HostConfig.PortBindings`: as the request had it.
pub(in crate::docker) fn port_bindings(ports: &[PortMapping]) -> Value {
    let mut map: Map<String, Value> = Map::new();
    for mapping in ports {
        let binding = json!({
            "HostIp": mapping.host_ip,
            "HostPort": mapping.host_port.map(|p| p.to_string()).unwrap_or_default(),
        });
        if let Value::Array(bindings) = map.entry(port_key(mapping)).or_insert_with(|| json!([])) {
            bindings.push(binding);
        }
    }
    Value::Object(map)
}

/// `Ports` of a list entry.
pub(in crate::docker) fn port_list(workload: &Workload) -> Vec<Value> {
    if !workload.status.phase.is_alive() {
        return Vec::new();
    }
    let published = &workload.status.network.ports;
    let mut list: Vec<Value> = published
        .iter()
        .map(|mapping| {
            json!({
                "IP": shown_ip(mapping),
                "PrivatePort": mapping.port,
                "PublicPort": mapping.host_port.unwrap_or(0),
                "Type": mapping.protocol.as_str(),
            })
        })
        .collect();
    for exposed in &workload.spec.task.exposed_ports {
        let Some((port, protocol)) = exposed.split_once('/') else {
            continue;
        };
        let taken = published.iter().any(|m| port_key(m) == *exposed);
        if let (Ok(port), false) = (port.parse::<u16>(), taken) {
            list.push(json!({ "PrivatePort": port, "Type": protocol }));
        }
    }
    list
}

fn port_key(mapping: &PortMapping) -> String {
    format!("{}/{}", mapping.port, mapping.protocol.as_str())
}

fn shown_ip(mapping: &PortMapping) -> &str {
    if mapping.host_ip.is_empty() {
        "0.0.0.0"
    } else {
        &mapping.host_ip
    }
}

/// An entry of `GET /networks`.
pub(in crate::docker) fn network(pool: &PoolId, name: &str, created: &str) -> Value {
    let driver = if name == "none" { "null" } else { name };
    json!({
        "Name": name,
        "Id": network_id(pool, name),
        "Created": created,
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [] },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {},
    })
}
