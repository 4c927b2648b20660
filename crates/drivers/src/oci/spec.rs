//! The OCI runtime spec of a task: a pure function of the workload and a few paths.
//!
//! Start with [`task_spec`]. Always holds: what is not allowed here by name is not in the task; users,
//! root and network are filled in by the shim, which alone can see into the task's root.

use std::path::Path;

use model::HostWorkload;
use model::capability;
use model::workload::{NetworkMode, Seccomp, TaskSpec, Ulimit};
use serde_json::{Value, json};

use super::mounts;
use super::seccomp::{self, ProfileError, Target};

const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A workload that cannot be run as it is.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Nothing to run.
    #[error("no command specified")]
    NoCommand,
    /// An unknown capability.
    #[error("unknown capability \"{0}\"")]
    Capability(String),
    /// An unknown process limit.
    #[error("unknown limit \"{0}\"")]
    Limit(String),
    /// More open files than this host allows anybody.
    #[error("ulimit nofile {wanted} is above {max}, the most this host allows (its fs.nr_open)")]
    OpenFiles {
        /// What is wanted.
        wanted: u64,
        /// What there can be.
        max: u64,
    },
    /// A mount target that is not an absolute path inside.
    #[error("mount target \"{0}\" must be an absolute path without ..")]
    Target(String),
    /// An option outside the closed list.
    #[error("tmpfs option \"{0}\" is not allowed")]
    TmpfsOption(String),
    /// A device that the host does not have.
    #[error("\"{0}\" is not a device of the host")]
    Device(String),
    /// A system call filter that cannot be used.
    #[error(transparent)]
    Seccomp(#[from] ProfileError),
}

/// What the spec needs besides the workload.
#[derive(Clone)]
pub struct Surroundings<'a> {
    /// Path below the cgroup mount points.
    pub cgroup: String,
    /// Files bound over `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
    pub etc: &'a Path,
    /// Where anonymous volumes of the task lie.
    pub volumes: &'a Path,
    /// Where named volumes of its pool lie.
    pub pool_volumes: &'a Path,
    /// `x86_64` or `aarch64`.
    pub arch: &'a str,
    /// Kernel release.
    pub kernel: (u32, u32),
    /// Most open files of a process (`fs.nr_open`).
    pub open_files_max: u64,
    /// Looks at a device of the host.
    pub device: &'a (dyn Fn(&str) -> Option<super::devices::Node> + Sync),
}

/// The whole spec. The shim fills in root, user and network.
///
/// # Errors
/// When the workload asks for something that does not exist.
pub fn task_spec(workload: &HostWorkload, around: &Surroundings<'_>) -> Result<Value, SpecError> {
    let spec = &workload.spec;
    let task = &spec.task;
    let hostname = if spec.hostname.is_empty() {
        workload.id.short()
    } else {
        &spec.hostname
    };
    let capabilities = capabilities(task)?;
    let mut linux = json!({
        "cgroupsPath": around.cgroup,
        "namespaces": namespaces(workload),
        "sysctl": task.sysctls,
        "resources": resources(task, around),
        "rootfsPropagation": "private",
    });
    if !task.security.privileged {
        let paths = |own: &Option<Vec<String>>, default: &[&str]| {
            own.clone()
                .unwrap_or_else(|| default.iter().map(|path| (*path).to_owned()).collect())
        };
        linux["maskedPaths"] = json!(paths(&task.security.masked_paths, &MASKED_PATHS));
        linux["readonlyPaths"] = json!(paths(&task.security.readonly_paths, &READONLY_PATHS));
    }
    if let Some(filter) = filter(task, around.arch, around.kernel, &capabilities)? {
        linux["seccomp"] = filter;
    }
    let devices = devices(task, around)?;
    if !devices.is_empty() {
        linux["devices"] = Value::Array(devices);
    }
    let mut document = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": task.security.readonly_rootfs},
        "process": process(task, hostname, &capabilities, around.open_files_max)?,
        "mounts": mounts::all(workload, around)?,
        "linux": linux,
    });
    if !task.namespaces.host_uts {
        document["hostname"] = json!(hostname);
        if !spec.domainname.is_empty() {
            document["domainname"] = json!(spec.domainname);
        }
    }
    Ok(document)
}

/// The process of an exec: the task's, with other arguments.
///
/// # Errors
/// As [`task_spec`].
pub fn exec_process(
    workload: &HostWorkload,
    request: &agent::driver::ExecRequest,
) -> Result<Value, SpecError> {
    let task = &workload.spec.task;
    let hostname = if workload.spec.hostname.is_empty() {
        workload.id.short()
    } else {
        &workload.spec.hostname
    };
    let own = TaskSpec {
        entrypoint: Vec::new(),
        args: request.args.clone(),
        env: task.env.iter().chain(&request.env).cloned().collect(),
        working_dir: if request.working_dir.is_empty() {
            task.working_dir.clone()
        } else {
            request.working_dir.clone()
        },
        tty: request.tty,
        ..task.clone()
    };
    let capabilities = if request.privileged {
        capability::ALL
            .iter()
            .map(|name| (*name).to_owned())
            .collect()
    } else {
        capabilities(task)?
    };
    // An exec has the limits of its task, which could be started with them.
    process(&own, hostname, &capabilities, u64::MAX)
}

fn process(
    task: &TaskSpec,
    hostname: &str,
    capabilities: &[String],
    open_files_max: u64,
) -> Result<Value, SpecError> {
    let args: Vec<&String> = task.entrypoint.iter().chain(&task.args).collect();
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let rlimits: Vec<Value> = task
        .ulimits
        .iter()
        .map(|limit| rlimit(limit, open_files_max))
        .collect::<Result<_, _>>()?;
    Ok(json!({
        "terminal": task.tty,
        "args": args,
        "env": environment(task, hostname),
        "cwd": if task.working_dir.is_empty() { "/" } else { &task.working_dir },
        "user": {"uid": 0, "gid": 0},
        // Nothing inheritable: that would survive the execve of a file with capabilities (CVE-2022-24769).
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "rlimits": rlimits,
        "noNewPrivileges": task.security.no_new_privileges,
        "oomScoreAdj": task.resources.oom_score_adj.unwrap_or(0),
    }))
}

/// Docker's order: defaults first, what was given replaces them; of two values for a name the last counts.
fn environment(task: &TaskSpec, hostname: &str) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if task.tty {
        env.push("TERM=xterm".to_owned());
    }
    for pair in &task.env {
        let name = pair.split('=').next().unwrap_or(pair);
        let same = |old: &String| old.split('=').next() == Some(name);
        match env.iter_mut().find(|old| same(old)) {
            // A name without value takes the variable away.
            Some(_) if !pair.contains('=') => env.retain(|old| !same(old)),
            Some(old) => old.clone_from(pair),
            None if pair.contains('=') => env.push(pair.clone()),
            None => {}
        }
    }
    env
}

fn rlimit(limit: &Ulimit, open_files_max: u64) -> Result<Value, SpecError> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if !NAMES.contains(&limit.name.as_str()) {
        return Err(SpecError::Limit(limit.name.clone()));
    }
    // -1 is "no limit", which is the largest number.
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    let wanted = value(limit.hard).max(value(limit.soft));
    if limit.name == "nofile" && wanted > open_files_max {
        return Err(SpecError::OpenFiles {
            wanted,
            max: open_files_max,
        });
    }
    let name = format!("RLIMIT_{}", limit.name.to_uppercase());
    Ok(json!({"type": name, "soft": value(limit.soft), "hard": value(limit.hard)}))
}

/// The bounding set: default, plus added, minus dropped; `ALL` in Docker's sense.
pub(super) fn capabilities(task: &TaskSpec) -> Result<Vec<String>, SpecError> {
    let all = || capability::ALL.iter().map(|name| (*name).to_owned());
    if task.security.privileged {
        return Ok(all().collect());
    }
    let normal = |list: &[String]| -> Result<Vec<String>, SpecError> {
        list.iter()
            .map(|name| {
                let upper = name.to_uppercase();
                let upper = if upper == "ALL" || upper.starts_with("CAP_") {
                    upper
                } else {
                    format!("CAP_{upper}")
                };
                if upper == "ALL" || upper == "CAP_ALL" || capability::ALL.contains(&upper.as_str())
                {
                    Ok(upper.replace("CAP_ALL", "ALL"))
                } else {
                    Err(SpecError::Capability(name.clone()))
                }
            })
            .collect()
    };
    let (add, drop) = (
        normal(&task.security.cap_add)?,
        normal(&task.security.cap_drop)?,
    );
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    let set = all().filter(|name| {
        if has(&drop, name) {
            return false;
        }
        let base = if has(&add, "ALL") {
            true
        } else {
            !has(&drop, "ALL") && capability::DEFAULT.contains(&name.as_str())
        };
        base || has(&add, name)
    });
    Ok(set.collect())
}

/// The filter of an exec: its task's; a privileged one has none.
///
/// # Errors
/// As [`task_spec`].
pub fn exec_filter(
    workload: &HostWorkload,
    privileged: bool,
    arch: &str,
    kernel: (u32, u32),
) -> Result<Option<Value>, SpecError> {
    let task = &workload.spec.task;
    if privileged {
        return Ok(None);
    }
    filter(task, arch, kernel, &capabilities(task)?)
}

fn filter(
    task: &TaskSpec,
    arch: &str,
    kernel: (u32, u32),
    capabilities: &[String],
) -> Result<Option<Value>, SpecError> {
    let profile = match &task.security.seccomp {
        _ if task.security.privileged => return Ok(None),
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => seccomp::DEFAULT_PROFILE,
        Seccomp::Custom(profile) => profile,
    };
    let target = Target {
        arch,
        kernel,
        capabilities,
    };
    Ok(Some(seccomp::lower(profile, &target)?))
}

fn namespaces(workload: &HostWorkload) -> Vec<Value> {
    let modes = &workload.spec.task.namespaces;
    let mut list = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    for (shared, name) in [
        (modes.host_pid, "pid"),
        (modes.host_ipc, "ipc"),
        (modes.host_uts, "uts"),
    ] {
        if !shared {
            list.push(json!({"type": name}));
        }
    }
    match workload.spec.network {
        NetworkMode::Host => {}
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Workload { .. } => {
            list.push(json!({"type": "network"}));
        }
    }
    list
}

/// For external runtimes, which write the limits themselves; the built-in one finds them written.
fn resources(task: &TaskSpec, around: &Surroundings<'_>) -> Value {
    let r = &task.resources;
    let mut rules = vec![json!({"allow": task.security.privileged, "access": "rwm"})];
    if !task.security.privileged {
        for rule in super::devices::rules_with(&task.devices, around.device) {
            let mut value =
                json!({"allow": true, "type": rule.kind.to_string(), "access": rule.access});
            if let Some(major) = rule.major {
                value["major"] = json!(major);
            }
            if let Some(minor) = rule.minor {
                value["minor"] = json!(minor);
            }
            rules.push(value);
        }
    }
    let mut memory = json!({});
    for (name, value) in [
        ("limit", r.memory_limit.map(|v| json!(v))),
        ("reservation", r.memory_reservation.map(|v| json!(v))),
        ("swap", super::limits::memory_and_swap(r).map(|v| json!(v))),
        ("swappiness", r.memory_swappiness.map(|v| json!(v))),
        (
            "disableOOMKiller",
            r.oom_kill_disable.then_some(json!(true)),
        ),
    ] {
        if let Some(value) = value {
            memory[name] = value;
        }
    }
    let mut cpu = json!({});
    let quota = super::limits::cpu_quota(r);
    for (name, value) in [
        ("shares", r.cpu_shares.filter(|v| *v > 0).map(|v| json!(v))),
        ("quota", quota.map(|(quota, _)| json!(quota))),
        ("period", quota.map(|(_, period)| json!(period))),
        ("cpus", r.cpuset_cpus.as_ref().map(|v| json!(v))),
        ("mems", r.cpuset_mems.as_ref().map(|v| json!(v))),
    ] {
        if let Some(value) = value {
            cpu[name] = value;
        }
    }
    let mut all = json!({"devices": rules, "memory": memory, "cpu": cpu});
    if let Some(limit) = r.pids_limit {
        all["pids"] = json!({"limit": limit.max(0)});
    }
    all
}

fn devices(task: &TaskSpec, around: &Surroundings<'_>) -> Result<Vec<Value>, SpecError> {
    task.devices
        .iter()
        .map(|device| {
            let node = (around.device)(&device.host_path).ok_or_else(|| SpecError::Device(device.host_path.clone()))?;
            mounts::check_target(&device.path)?;
            Ok(json!({
                "path": device.path, "type": node.kind.to_string(), "major": node.major, "minor": node.minor,
                "fileMode": node.mode, "uid": 0, "gid": 0,
            }))
        })
        .collect()
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
