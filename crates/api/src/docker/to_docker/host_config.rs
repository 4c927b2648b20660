//! `HostConfig` and `Mounts` of an inspected container.

use model::workload::{Mount, MountSource, Seccomp};
use model::{RestartPolicy, WorkloadSpec};
use serde_json::{Map, Value, json};

use super::network::{network_mode, port_bindings};

/// Billionths of a core in a thousandth.
const NANOS_PER_MILLI: u64 = 1_000_000;

/// Size of `/dev/shm` if none was asked for.
const SHM_DEFAULT_BYTES: u64 = 64 << 20;

/// What the request said about the host's side, read back from the specification.
pub(in crate::docker) fn host_config(spec: &WorkloadSpec) -> Value {
    let task = &spec.task;
    let security = &task.security;
    let mut config = json!({
        "Binds": binds(&task.mounts),
        "ContainerIDFile": "",
        "LogConfig": log_config(spec),
        "NetworkMode": network_mode(&spec.network),
        "PortBindings": port_bindings(&spec.ports),
        "RestartPolicy": restart(spec.restart),
        "AutoRemove": spec.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [0, 0],
        "CapAdd": list_or_null(&security.cap_add),
        "CapDrop": list_or_null(&security.cap_drop),
        "CgroupnsMode": "private",
        "Dns": spec.dns.servers,
        "DnsOptions": spec.dns.options,
        "DnsSearch": spec.dns.search,
        "ExtraHosts": extra_hosts(spec),
        "GroupAdd": list_or_null(&task.groups),
        "IpcMode": if task.namespaces.host_ipc { "host" } else { "private" },
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": task.resources.oom_score_adj.unwrap_or(0),
        "PidMode": if task.namespaces.host_pid { "host" } else { "" },
        "Privileged": security.privileged,
        "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": security.readonly_rootfs,
        "SecurityOpt": security_opt(spec),
        "UTSMode": if task.namespaces.host_uts { "host" } else { "" },
        "UsernsMode": "",
        "ShmSize": task.shm_bytes.unwrap_or(SHM_DEFAULT_BYTES),
        "Runtime": task.runtime.as_deref().unwrap_or("plimsoll"),
        "Isolation": "",
        "MaskedPaths": security.masked_paths,
        "ReadonlyPaths": security.readonly_paths,
    });
    if let Value::Object(map) = &mut config {
        if let Value::Object(resources) = resources(spec) {
            map.extend(resources);
        }
        if let Some(tmpfs) = tmpfs(&task.mounts) {
            map.insert("Tmpfs".into(), tmpfs);
        }
        if !task.sysctls.is_empty() {
            map.insert("Sysctls".into(), json!(task.sysctls));
        }
        if task.init {
            map.insert("Init".into(), Value::Bool(true));
        }
    }
    config
}

fn resources(spec: &WorkloadSpec) -> Value {
    let task = &spec.task;
    let it = &task.resources;
    json!({
        "CpuShares": it.cpu_shares.unwrap_or(0),
        "Memory": it.memory_limit.unwrap_or(0),
        "NanoCpus": it.cpu_limit_millis.unwrap_or(0).saturating_mul(NANOS_PER_MILLI),
        "CgroupParent": "",
        "BlkioWeight": it.blkio_weight.unwrap_or(0),
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
        "CpuPeriod": it.cpu_period_us.unwrap_or(0),
        "CpuQuota": it.cpu_quota_us.unwrap_or(0),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": it.cpuset_cpus.as_deref().unwrap_or(""),
        "CpusetMems": it.cpuset_mems.as_deref().unwrap_or(""),
        "Devices": task.devices.iter().map(|d| json!({
            "PathOnHost": d.host_path,
            "PathInContainer": d.path,
            "CgroupPermissions": d.permissions,
        })).collect::<Vec<_>>(),
        "DeviceCgroupRules": null,
        "DeviceRequests": device_requests(task),
        "MemoryReservation": it.memory_reservation.unwrap_or(0),
        "MemorySwap": it.memory_swap.unwrap_or(0),
        "MemorySwappiness": it.memory_swappiness,
        "OomKillDisable": it.oom_kill_disable,
        "PidsLimit": it.pids_limit,
        "Ulimits": task.ulimits.iter().map(|u| json!({
            "Name": u.name, "Hard": u.hard, "Soft": u.soft,
        })).collect::<Vec<_>>(),
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    })
}

fn list_or_null(list: &[String]) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn extra_hosts(spec: &WorkloadSpec) -> Value {
    let lines: Vec<String> = spec
        .extra_hosts
        .iter()
        .map(|(name, address)| format!("{name}:{address}"))
        .collect();
    list_or_null(&lines)
}

fn security_opt(spec: &WorkloadSpec) -> Value {
    let security = &spec.task.security;
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &security.seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Custom(json) => options.push(format!("seccomp={json}")),
    }
    list_or_null(&options)
}

fn log_config(spec: &WorkloadSpec) -> Value {
    let log = &spec.task.log;
    if !log.keep {
        return json!({ "Type": "none", "Config": {} });
    }
    json!({
        "Type": "json-file",
        "Config": {
            "max-size": format!("{}", log.max_file_bytes),
            "max-file": format!("{}", log.max_files),
        },
    })
}

/// `RestartPolicy`.
pub(in crate::docker) fn restart(policy: RestartPolicy) -> Value {
    let (name, count) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries),
    };
    json!({ "Name": name, "MaximumRetryCount": count })
}

fn binds(mounts: &[Mount]) -> Value {
    let lines: Vec<String> = mounts
        .iter()
        .filter_map(|mount| {
            let mode = if mount.read_only { ":ro" } else { "" };
            match &mount.source {
                MountSource::HostPath { path, .. } => {
                    Some(format!("{path}:{}{mode}", mount.target))
                }
                MountSource::Volume { name, .. } if !name.is_empty() => {
                    Some(format!("{name}:{}{mode}", mount.target))
                }
                MountSource::Volume { .. } | MountSource::Tmpfs { .. } => None,
            }
        })
        .collect();
    list_or_null(&lines)
}

fn tmpfs(mounts: &[Mount]) -> Option<Value> {
    let mut map = Map::new();
    for mount in mounts {
        if let MountSource::Tmpfs {
            size_bytes,
            mode,
            options,
        } = &mount.source
        {
            let mut words = options.clone();
            words.extend(size_bytes.map(|bytes| format!("size={bytes}")));
            words.extend(mode.map(|mode| format!("mode={mode:o}")));
            if mount.read_only {
                words.push("ro".to_owned());
            }
            map.insert(mount.target.clone(), Value::String(words.join(",")));
        }
    }
    (!map.is_empty()).then_some(Value::Object(map))
}

/// `Mounts` of lists and inspects.
pub(in crate::docker) fn mounts(mounts: &[Mount]) -> Vec<Value> {
    mounts
        .iter()
        .map(|mount| {
            let writable = !mount.read_only;
            match &mount.source {
                MountSource::HostPath {
                    path, propagation, ..
                } => json!({
                    "Type": "bind",
                    "Source": path,
                    "Destination": mount.target,
                    "Mode": if writable { "" } else { "ro" },
                    "RW": writable,
                    "Propagation": if propagation.is_empty() { "rprivate" } else { propagation },
                }),
                MountSource::Volume { name, .. } => json!({
                    "Type": "volume",
                    "Name": name,
                    "Source": "",
                    "Destination": mount.target,
                    "Driver": "local",
                    "Mode": "",
                    "RW": writable,
                    "Propagation": "",
                }),
                MountSource::Tmpfs { .. } => json!({
                    "Type": "tmpfs",
                    "Source": "",
                    "Destination": mount.target,
                    "Mode": "",
                    "RW": writable,
                    "Propagation": "",
                }),
            }
        })
        .collect()
}

/// GPUs as `--gpus` asks for them.
fn device_requests(task: &model::TaskSpec) -> Value {
    let Some(gpus) = &task.gpus else {
        return Value::Null;
    };
    let mut capabilities = vec!["gpu"];
    capabilities.extend(gpus.capabilities.iter().map(String::as_str));
    let named = !gpus.devices.is_empty();
    json!([{
        "Driver": "",
        "Count": if named { 0 } else { gpus.count },
        "DeviceIDs": if named { json!(gpus.devices) } else { Value::Null },
        "Capabilities": [capabilities],
        "Options": {},
    }])
}
