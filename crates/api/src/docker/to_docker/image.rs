//! Images in lists and inspects.

use std::collections::BTreeSet;

use model::{Image, ImageReference};
use serde_json::{Map, Value, json};

use super::text::{NEVER, rfc3339};

/// Names as people write them.
fn familiar(names: &BTreeSet<String>) -> Vec<String> {
    names
        .iter()
        .map(|name| ImageReference::parse(name).map_or_else(|_| name.clone(), |r| r.familiar()))
        .collect()
}

/// Seconds since the epoch at which the image says it was made.
fn created_seconds(image: &Image) -> i64 {
    image
        .config
        .created
        .as_deref()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map_or(0, jiff::Timestamp::as_second)
}

/// An entry of `GET /images/json`.
pub(in crate::docker) fn list_entry(image: &Image, containers: i64, digests: bool) -> Value {
    let tags = familiar(&image.tags);
    let by_digest = familiar(&image.digests);
    let digests_shown = if digests || tags.is_empty() || !by_digest.is_empty() {
        json!(by_digest)
    } else {
        json!([])
    };
    json!({
        "Id": image.id.as_str(),
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": digests_shown,
        "Created": created_seconds(image),
        "Size": image.config.size_bytes,
        "VirtualSize": image.config.size_bytes,
        "SharedSize": -1,
        "Labels": if image.config.labels.is_empty() { Value::Null } else { json!(image.config.labels) },
        "Containers": containers,
    })
}

/// `GET /images/{name}/json`.
pub(in crate::docker) fn inspect(image: &Image) -> Value {
    let config = &image.config;
    let layers: Vec<&str> = image
        .content
        .layers
        .iter()
        .map(|l| l.diff_id.as_str())
        .collect();
    json!({
        "Id": image.id.as_str(),
        "RepoTags": familiar(&image.tags),
        "RepoDigests": familiar(&image.digests),
        "Parent": "",
        "Comment": "",
        "Created": config.created.as_deref().unwrap_or(NEVER),
        "DockerVersion": "",
        "Author": "",
        "Config": image_config(image),
        "Architecture": config.platform.architecture,
        "Os": config.platform.os,
        "Size": config.size_bytes,
        "VirtualSize": config.size_bytes,
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": rfc3339(image.added_at) },
    })
}

fn image_config(image: &Image) -> Value {
    let config = &image.config;
    let list_or_null = |list: &[String]| {
        if list.is_empty() {
            Value::Null
        } else {
            json!(list)
        }
    };
    let set = |keys: &BTreeSet<String>| {
        let map: Map<String, Value> = keys.iter().map(|key| (key.clone(), json!({}))).collect();
        if map.is_empty() {
            Value::Null
        } else {
            Value::Object(map)
        }
    };
    let mut value = json!({
        "Hostname": "",
        "Domainname": "",
        "User": config.user,
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "Env": list_or_null(&config.env),
        "Cmd": list_or_null(&config.cmd),
        "Image": "",
        "Volumes": set(&config.volumes),
        "WorkingDir": config.working_dir,
        "Entrypoint": list_or_null(&config.entrypoint),
        "OnBuild": null,
        "Labels": if config.labels.is_empty() { Value::Null } else { json!(config.labels) },
    });
    if let Value::Object(map) = &mut value {
        let exposed = set(&config.exposed_ports);
        if exposed != Value::Null {
            map.insert("ExposedPorts".into(), exposed);
        }
        if let Some(signal) = &config.stop_signal {
            map.insert("StopSignal".into(), json!(signal));
        }
    }
    value
}

/// `GET /images/{name}/history`, newest first.
pub(in crate::docker) fn history(image: &Image) -> Value {
    let config = &image.config;
    let count = config.history.len();
    let mut sizes = image.content.layers.iter().map(|layer| layer.blob_bytes);
    let mut entries: Vec<Value> = config
        .history
        .iter()
        .enumerate()
        .map(|(at, step)| {
            let newest = at + 1 == count;
            let created = step
                .created
                .as_deref()
                .and_then(|text| text.parse::<jiff::Timestamp>().ok())
                .map_or(0, jiff::Timestamp::as_second);
            json!({
                "Id": if newest { image.id.as_str() } else { "<missing>" },
                "Created": created,
                "CreatedBy": step.created_by.as_deref().unwrap_or(""),
                "Tags": if newest { json!(familiar(&image.tags)) } else { Value::Null },
                "Size": if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
                "Comment": step.comment.as_deref().unwrap_or(""),
            })
        })
        .collect();
    entries.reverse();
    if entries.is_empty() {
        entries.push(json!({
            "Id": image.id.as_str(),
            "Created": created_seconds(image),
            "CreatedBy": "",
            "Tags": familiar(&image.tags),
            "Size": config.size_bytes,
            "Comment": "",
        }));
    }
    Value::Array(entries)
}
