//! What is mounted into a task, and where.

use model::workload::MountSource;
use model::{PoolPolicy, WorkloadSpec};

use super::{Refusal, forbidden, invalid, is_clean_absolute, shown};

/// Files of `/proc` that may be replaced: they tell a task how large its machine is (lxcfs does so).
const PROC_FILES: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/net/dev",
];

/// Checks mounts.
pub(super) fn check(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    let mut targets = std::collections::BTreeSet::new();
    for mount in &spec.task.mounts {
        let target = mount.target.trim_end_matches('/');
        if !is_clean_absolute(target) || target.contains("//") {
            return Err(invalid(
                "mounts.target",
                "must be an absolute path other than /, without //, . and ..",
            ));
        }
        check_target(target, &mount.source)?;
        if !targets.insert(target) {
            return Err(invalid("mounts.target", format!("{target} is given twice")));
        }
        match &mount.source {
            MountSource::HostPath { path, .. } => check_host_path(path, policy)?,
            MountSource::Volume { name, .. } => {
                if !name.is_empty() && (model::Name::parse(name).is_err() || name.len() < 2) {
                    return Err(invalid(
                        "mounts.volume",
                        "must be 2 to 128 letters, digits, '_', '.' or '-'",
                    ));
                }
            }
            MountSource::Tmpfs { options, .. } => {
                if let Some(bad) = options.iter().find(|option| !is_tmpfs_option(option)) {
                    return Err(invalid(
                        "mounts.tmpfs",
                        format!("option \"{}\" is not allowed", shown(bad)),
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Where a task cannot do without the kernel's own file systems, or nothing can be created to mount on.
fn check_target(target: &str, source: &MountSource) -> Result<(), Refusal> {
    let below = |root: &str| {
        target
            .strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let of_host = match source {
        MountSource::HostPath { .. } => true,
        MountSource::Volume { .. } | MountSource::Tmpfs { .. } => false,
    };
    let reason = if below("/proc") && !(of_host && PROC_FILES.contains(&target)) {
        "nothing can be mounted on or below /proc"
    } else if below("/sys") && !of_host {
        "only a path of the host can be mounted on or below /sys"
    } else if matches!(target, "/dev" | "/dev/pts") && !of_host {
        "the task's devices are there; mount below /dev, for example on /dev/shm"
    } else {
        return Ok(());
    };
    Err(invalid("mounts.target", format!("{target}: {reason}")))
}

fn is_tmpfs_option(option: &str) -> bool {
    let number = |text: &str| {
        !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit())
    };
    match option.split_once('=') {
        None => {
            matches!(
                option,
                "exec"
                    | "noexec"
                    | "suid"
                    | "nosuid"
                    | "dev"
                    | "nodev"
                    | "ro"
                    | "rw"
                    | "sync"
                    | "async"
                    | "noatime"
            )
        }
        Some(("uid" | "gid" | "nr_inodes", value)) => number(value),
        Some(_) => false,
    }
}

fn check_host_path(path: &str, policy: &PoolPolicy) -> Result<(), Refusal> {
    if !is_clean_absolute(path) || path.contains("//") {
        return Err(invalid(
            "mounts.host_path",
            "must be an absolute path without //, . and ..",
        ));
    }
    let inside = |root: &str| {
        let root = root.trim_end_matches('/');
        path == root
            || path
                .strip_prefix(root)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    if !policy.host_paths.iter().any(|root| inside(root)) {
        return Err(forbidden(
            "mounts.host_path",
            "the pool's policy does not allow this host path",
        ));
    }
    Ok(())
}
