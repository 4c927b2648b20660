//! Devices, kernel parameters, process limits.

use model::{PoolPolicy, WorkloadSpec};

use super::{Refusal, forbidden, invalid, is_clean_absolute, shown};

/// Kernel parameters that touch nothing but the task's own namespaces (Kubernetes' Pod Security Standards, "safe").
const SAFE_SYSCTLS: [&str; 9] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
];

/// Checks devices, kernel parameters and process limits.
pub(super) fn check(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    for device in &spec.task.devices {
        if !is_clean_absolute(&device.path)
            || !device
                .permissions
                .bytes()
                .all(|b| matches!(b, b'r' | b'w' | b'm'))
        {
            return Err(invalid(
                "devices",
                "needs an absolute path and permissions out of r, w and m",
            ));
        }
        if !policy.devices.contains(&device.host_path) && !policy.privileged {
            return Err(forbidden(
                "devices",
                "the pool's policy does not allow this device",
            ));
        }
    }
    for (key, value) in &spec.task.sysctls {
        if !SAFE_SYSCTLS.contains(&key.as_str()) && !policy.privileged {
            return Err(forbidden(
                "sysctls",
                format!(
                    "\"{}\" is not in the list of safe kernel parameters",
                    shown(key)
                ),
            ));
        }
        if value.chars().any(char::is_control) {
            return Err(invalid("sysctls", "must not contain control characters"));
        }
    }
    for limit in &spec.task.ulimits {
        if !ULIMITS.contains(&limit.name.as_str()) {
            return Err(invalid(
                "ulimits",
                format!("unknown limit \"{}\"", shown(&limit.name)),
            ));
        }
        if limit.soft < -1 || limit.hard < -1 {
            return Err(invalid(
                "ulimits",
                format!("{}: must be -1 (no limit) or more", limit.name),
            ));
        }
        let files = limit.soft.max(limit.hard);
        if limit.name == "nofile" && (limit.hard == -1 || files > NOFILE_MAX) {
            return Err(invalid(
                "ulimits",
                format!("nofile: must be a number up to {NOFILE_MAX}, Linux allows no more"),
            ));
        }
        if limit.hard != -1 && (limit.soft > limit.hard || limit.soft == -1) {
            return Err(invalid(
                "ulimits",
                format!("{}: the soft limit is above the hard limit", limit.name),
            ));
        }
    }
    Ok(())
}

/// Most open files any host can allow (the highest `fs.nr_open` of Linux on 64 bits); hosts commonly allow less, which
/// they say when the task starts.
const NOFILE_MAX: i64 = 2_147_483_584;

/// Names of process limits, without `RLIMIT_` (getrlimit(2)).
const ULIMITS: [&str; 16] = [
    "as",
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
