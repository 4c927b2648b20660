//! Networks, volumes: what every pool has; making more is a later part.

use axum::response::Response;
use model::Timestamp;
use serde_json::{Value, json};

use super::failure::{Failure, Result};
use super::filters::Filters;
use super::reply;
use super::request::Call;
use super::to_docker::network::{NETWORKS, network, network_id};
use super::to_docker::text::{rfc3339, rfc3339_or_never};
use super::value::shown;

fn all(call: &Call) -> Result<Vec<(String, Value)>> {
    let pool = call.control.pool_find(&call.caller, call.pool.as_str())?;
    let created = rfc3339(pool.created_at);
    Ok(NETWORKS
        .iter()
        .map(|name| ((*name).to_owned(), network(&call.pool, name, &created)))
        .collect())
}

/// `GET /networks`.
pub(super) fn list(call: &Call) -> Result<Response> {
    let known = ["dangling", "driver", "id", "label", "name", "scope", "type"];
    let filters = Filters::from_query(&call.query, &known)?;
    let shown: Vec<Value> = all(call)?
        .into_iter()
        .filter(|(name, value)| {
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            filters.any("name", |wanted| name.contains(wanted))
                && filters.any("id", |wanted| text("Id").contains(wanted))
                && filters.any("driver", |wanted| text("Driver") == wanted)
                && filters.any("scope", |wanted| text("Scope") == wanted)
                && filters.any("type", |wanted| wanted == "builtin")
                && filters.any("dangling", |wanted| matches!(wanted, "false" | "0"))
                && filters.labels(&std::collections::BTreeMap::new())
        })
        .map(|(_, value)| value)
        .collect();
    Ok(reply::ok(&shown))
}

/// `GET /networks/{id}`.
pub(super) fn inspect(call: &Call) -> Result<Response> {
    let wanted = call.subject();
    let found = all(call)?.into_iter().find(|(name, _)| {
        let id = network_id(&call.pool, name);
        name == wanted || id == wanted || (wanted.len() >= 4 && id.starts_with(wanted))
    });
    let Some((name, mut value)) = found else {
        return Err(Failure::not_found(format!(
            "network {} not found",
            shown(wanted)
        )));
    };
    value["Containers"] = attached(call, &name)?;
    Ok(reply::ok(&value))
}

fn attached(call: &Call, network: &str) -> Result<Value> {
    let workloads = call.control.workload_list(&call.caller, &call.pool)?;
    let map = workloads
        .iter()
        .filter(|w| w.status.phase.is_alive())
        .filter(|w| super::to_docker::network::network_mode(&w.spec.network) == network)
        .map(|w| {
            let it = &w.status.network;
            let address = if it.ip.is_empty() {
                String::new()
            } else {
                format!("{}/{}", it.ip, it.prefix)
            };
            let value = json!({
                "Name": w.name.as_str(),
                "EndpointID": w.id.as_str(),
                "MacAddress": it.mac,
                "IPv4Address": address,
                "IPv6Address": "",
            });
            (w.id.to_string(), value)
        })
        .collect();
    Ok(Value::Object(map))
}

/// `GET /volumes`: named volumes exist only with the workloads that name them.
pub(super) fn volume_list(call: &Call) -> Result<Response> {
    let known = ["dangling", "driver", "label", "name"];
    let filters = Filters::from_query(&call.query, &known)?;
    let volumes: Vec<Value> = names(call)?
        .into_iter()
        .filter(|(name, _)| {
            filters.any("name", |wanted| name.contains(wanted))
                && filters.any("driver", |wanted| wanted == "local")
                && filters.any("dangling", |wanted| matches!(wanted, "false" | "0"))
                && filters.labels(&std::collections::BTreeMap::new())
        })
        .map(|(name, created)| volume(&name, created))
        .collect();
    Ok(reply::ok(&json!({ "Volumes": volumes, "Warnings": null })))
}

/// Names of volumes in use, with the time of their oldest user.
fn names(call: &Call) -> Result<std::collections::BTreeMap<String, Timestamp>> {
    let mut names = std::collections::BTreeMap::new();
    for workload in call.control.workload_list(&call.caller, &call.pool)? {
        for mount in &workload.spec.task.mounts {
            if let model::workload::MountSource::Volume { name, .. } = &mount.source
                && !name.is_empty()
            {
                let oldest = names.entry(name.clone()).or_insert(workload.created_at);
                *oldest = (*oldest).min(workload.created_at);
            }
        }
    }
    Ok(names)
}

fn volume(name: &str, created: Timestamp) -> Value {
    json!({
        "Name": name,
        "Driver": "local",
        "Mountpoint": "",
        "CreatedAt": rfc3339_or_never(Some(created)),
        "Status": {},
        "Labels": null,
        "Options": null,
        "Scope": "local",
    })
}

/// `GET /volumes/{name}`.
pub(super) fn volume_inspect(call: &Call) -> Result<Response> {
    let wanted = call.subject();
    match names(call)?.get(wanted) {
        Some(created) => Ok(reply::ok(&volume(wanted, *created))),
        None => Err(Failure::not_found(format!(
            "get {}: no such volume",
            shown(wanted)
        ))),
    }
}
