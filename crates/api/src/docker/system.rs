//! The system as a pool sees it.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::failure::Result;
use super::reply;
use super::request::Call;
use super::to_docker::container::{ListContext, State, list_entry};
use super::to_docker::image;
use super::version::ApiVersion;

/// What is shown as the engine's version: clients compare it with Docker's own.
const ENGINE_VERSION: &str = "28.0.0";

/// `GET` and `HEAD /_ping`.
pub(super) fn ping(call: &Call) -> Response {
    let _ = call;
    let mut response = Response::new(Body::from("OK"));
    let headers = response.headers_mut();
    for (name, value) in [
        ("builder-version", "1"),
        ("swarm", "inactive"),
        ("pragma", "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// `GET /version`.
pub(super) fn version(call: &Call) -> Response {
    let _ = call;
    let kernel = kernel_release();
    let architecture = go_architecture();
    let details = json!({
        "ApiVersion": ApiVersion::NEWEST.text(),
        "Arch": architecture,
        "KernelVersion": kernel,
        "MinAPIVersion": ApiVersion::OLDEST.text(),
        "Os": "linux",
    });
    reply::ok(&json!({
        "Platform": { "Name": format!("Plimsoll {}", env!("CARGO_PKG_VERSION")) },
        "Components": [
            { "Name": "Engine", "Version": ENGINE_VERSION, "Details": details },
            { "Name": "Plimsoll", "Version": env!("CARGO_PKG_VERSION"), "Details": {} },
        ],
        "Version": ENGINE_VERSION,
        "ApiVersion": ApiVersion::NEWEST.text(),
        "MinAPIVersion": ApiVersion::OLDEST.text(),
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture,
        "KernelVersion": kernel,
        "BuildTime": "",
    }))
}

/// Kernel of the server; hosts may have others.
fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The architecture this was built for, in Go's words.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The same as `uname -m`.
fn machine() -> &'static str {
    std::env::consts::ARCH
}

/// `GET /info`: of the pool, not of one machine.
pub(super) fn info(call: &Call) -> Result<Response> {
    let pool = call.control.pool_find(&call.caller, call.pool.as_str())?;
    let usage = call.control.pool_usage(&call.caller, &call.pool)?;
    let capacity = call.control.pool_capacity(&call.caller, &call.pool)?;
    let now = jiff::Timestamp::now();
    let mut warnings = Vec::new();
    if capacity.ready != capacity.hosts {
        warnings.push(format!(
            "WARNING: {} of {} hosts cannot be used now",
            capacity.hosts - capacity.ready,
            capacity.hosts
        ));
    }
    if cgroup_versions(&capacity.cgroups).len() > 1 {
        warnings.push(
            "WARNING: some hosts have cgroup v1, others v2; the version of the former is shown"
                .to_owned(),
        );
    }
    Ok(reply_info(
        &pool,
        &usage,
        &capacity,
        &now.to_string(),
        &warnings,
    ))
}

fn reply_info(
    pool: &model::Pool,
    usage: &control::pools::PoolUsage,
    capacity: &control::pools::PoolCapacity,
    now: &str,
    warnings: &[String],
) -> Response {
    let labels: Vec<String> = pool
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let mut runtimes = serde_json::Map::new();
    runtimes.insert("plimsoll".into(), json!({ "path": "plimsoll-shim" }));
    for name in &pool.policy.runtimes {
        runtimes.insert(name.clone(), json!({ "path": name }));
    }
    let mut info = json!({
        "ID": pool.id.as_str(),
        "Name": pool.name.as_str(),
        "Containers": usage.workloads,
        "ContainersRunning": usage.running.saturating_sub(usage.paused),
        "ContainersPaused": usage.paused,
        "ContainersStopped": usage.workloads.saturating_sub(usage.running),
        "Images": usage.images,
        "Driver": "overlay2",
        "DriverStatus": [
            ["Pool", pool.name.as_str()],
            ["Hosts", capacity.hosts.to_string()],
            ["Hosts ready", capacity.ready.to_string()],
        ],
        "SystemStatus": [],
    });
    let rest = json!({
        "KernelVersion": kernel_release(),
        "OperatingSystem": format!("Plimsoll pool \"{}\"", pool.name),
        "OSVersion": env!("CARGO_PKG_VERSION"),
        "OSType": "linux",
        "Architecture": machine(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": [],
            "IndexConfigs": {},
            "Mirrors": [],
        },
        "NCPU": capacity.cpus,
        "MemTotal": capacity.capacity.memory.0,
        "GenericResources": null,
        "DockerRootDir": "",
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Labels": labels,
        "ExperimentalBuild": false,
        "ServerVersion": ENGINE_VERSION,
        "Runtimes": runtimes,
        "DefaultRuntime": "plimsoll",
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "plimsoll-shim",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
        "ProductLicense": "Apache-2.0",
        "DefaultAddressPools": [],
        "Warnings": warnings,
    });
    for part in [features(now), cgroups(&capacity.cgroups), rest] {
        if let (Value::Object(info), Value::Object(part)) = (&mut info, part) {
            info.extend(part);
        }
    }
    reply::ok(&info)
}

/// What every pool can do.
fn features(now: &str) -> Value {
    json!({
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": ["json-file", "local", "none"],
        },
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "OomKillDisable": false,
        "Debug": false,
        "NFd": 0,
        "NGoroutines": 0,
        "SystemTime": now,
        "LoggingDriver": "json-file",
        "NEventsListener": 0,
    })
}

/// Docker's versions of what hosts say (`v1`, `hybrid`, `v2`): a hybrid host has its controllers on v1.
fn cgroup_versions(hosts: &BTreeSet<String>) -> BTreeSet<&'static str> {
    let version = |host: &String| if host == "v2" { "2" } else { "1" };
    hosts.iter().map(version).collect()
}

/// The version that the pool's hosts have in common, or the older one; without a host nobody knows, and the common one
/// is shown.
fn cgroups(hosts: &BTreeSet<String>) -> Value {
    let version = cgroup_versions(hosts).first().copied().unwrap_or("2");
    json!({ "CgroupDriver": "cgroupfs", "CgroupVersion": version })
}

/// `GET /system/df`: images and containers; writable layers and volumes are not measured.
pub(super) fn disk_usage(call: &Call) -> Result<Response> {
    let images = call.control.image_list(&call.caller, &call.pool)?;
    let workloads = call.control.workload_list(&call.caller, &call.pool)?;
    let now = model::Timestamp(jiff::Timestamp::now().as_millisecond());
    let containers: Vec<_> = workloads
        .iter()
        .map(|workload| {
            list_entry(
                workload,
                &ListContext {
                    image: &workload.spec.task.image,
                    reachable: true,
                    now,
                    image_bytes: None,
                },
            )
        })
        .collect();
    let used = |image: &model::Image| {
        workloads
            .iter()
            .filter(|w| w.spec.task.image_id == image.id && State::of(w) != State::Removing)
            .count()
    };
    let shown: Vec<_> = images
        .iter()
        .map(|it| image::list_entry(it, i64::try_from(used(it)).unwrap_or(i64::MAX), true))
        .collect();
    let mut layers = std::collections::BTreeMap::new();
    for image in &images {
        for layer in &image.content.layers {
            layers.insert(layer.diff_id.as_str(), layer.blob_bytes);
        }
    }
    Ok(reply::ok(&json!({
        "LayersSize": layers.values().sum::<u64>(),
        "Images": shown,
        "Containers": containers,
        "Volumes": [],
        "BuildCache": [],
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_version_is_that_of_the_hosts_controllers() {
        let version = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            cgroups(&hosts)["CgroupVersion"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(version(&["v2"]), "2");
        assert_eq!(version(&["hybrid"]), "1");
        assert_eq!(version(&["v1"]), "1");
        assert_eq!(version(&["v2", "hybrid"]), "1");
        assert_eq!(version(&[]), "2");
    }
}
