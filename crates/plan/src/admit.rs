//! Whether a workload may exist: form and policy of its specification.
//!
//! Everything is refused unless safe or named by the pool's policy; the decision is made on the lowered specification,
//! the same value that is executed, so that no second decoder can disagree. A refusal names the field.

use model::workload::{MountSource, NetworkMode, Seccomp};
use model::{PoolPolicy, WorkloadSpec};

/// Why a specification was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which part of the specification.
    pub field: &'static str,
    /// What is wrong, for people.
    pub reason: String,
    /// Whether a policy could allow it (else it can never be right).
    pub policy: bool,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Refusal {
    Refusal {
        field,
        reason: reason.into(),
        policy: false,
    }
}

fn forbidden(field: &'static str, reason: impl Into<String>) -> Refusal {
    Refusal {
        field,
        reason: reason.into(),
        policy: true,
    }
}

/// Capabilities every task may have: Docker's default set.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All capabilities the kernel knows (capabilities(7), Linux 5.9 and later).
pub const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

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

/// Least memory limit in bytes: below it the runtime itself cannot start a process (as Docker: 6 MiB).
const MEMORY_MIN_BYTES: u64 = 6 << 20;

/// Most of any list in a specification: bounds the size of what is stored and sent.
const LIST_MAX: usize = 4096;

/// Most published ports of one workload.
const PORTS_MAX: usize = 1024;

/// Checks a specification against form and policy; all in one place, before anything is stored and again at start.
///
/// # Errors
/// The first thing that may not be.
pub fn admit(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    check_form(spec)?;
    check_resources(spec)?;
    check_security(spec, policy)?;
    check_namespaces(spec, policy)?;
    check_mounts(spec, policy)?;
    check_devices_and_kernel(spec, policy)
}

#[expect(
    clippy::too_many_lines,
    reason = "a flat list of independent checks, one after the other"
)]
fn check_form(spec: &WorkloadSpec) -> Result<(), Refusal> {
    let task = &spec.task;
    if task.entrypoint.is_empty() && task.args.is_empty() {
        return Err(invalid(
            "command",
            "no command specified, and the image has none",
        ));
    }
    for (field, list) in [
        ("entrypoint", &task.entrypoint),
        ("args", &task.args),
        ("env", &task.env),
        ("groups", &task.groups),
        ("dns.servers", &spec.dns.servers),
        ("dns.search", &spec.dns.search),
        ("dns.options", &spec.dns.options),
    ] {
        if list.len() > LIST_MAX {
            return Err(invalid(
                field,
                format!("has {} entries, at most {LIST_MAX} are allowed", list.len()),
            ));
        }
        if list.iter().any(|item| item.contains('\0')) {
            return Err(invalid(field, "must not contain NUL bytes"));
        }
    }
    for (field, list) in [
        ("dns.servers", &spec.dns.servers),
        ("dns.search", &spec.dns.search),
        ("dns.options", &spec.dns.options),
    ] {
        if list.len() > 32
            || list
                .iter()
                .any(|item| item.chars().any(|c| c.is_control() || c == ' '))
        {
            return Err(invalid(
                field,
                "must have at most 32 entries without spaces or control characters",
            ));
        }
    }
    if let Some(bad) = spec
        .dns
        .servers
        .iter()
        .find(|s| s.parse::<std::net::IpAddr>().is_err())
    {
        return Err(invalid(
            "dns.servers",
            format!("\"{}\" is not an IP address", bad.escape_debug()),
        ));
    }
    if !is_hostname(&spec.hostname) || !is_hostname(&spec.domainname) {
        return Err(invalid(
            "hostname",
            "must be at most 63 letters, digits, '-' or '.'",
        ));
    }
    for (name, address) in &spec.extra_hosts {
        let address_ok = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
        if name.is_empty()
            || name.len() > 253
            || !address_ok
            || name.chars().any(|c| c.is_control() || c == ' ')
        {
            return Err(invalid(
                "extra_hosts",
                "each must be a name and an IP address or host-gateway",
            ));
        }
    }
    if spec.extra_hosts.len() > LIST_MAX
        || spec.labels.len() > LIST_MAX
        || spec.ports.len() > PORTS_MAX
    {
        return Err(invalid(
            "labels, ports or extra_hosts",
            "has too many entries",
        ));
    }
    if !task.working_dir.is_empty() && !is_clean_absolute(&task.working_dir) {
        return Err(invalid("working_dir", "must be an absolute path"));
    }
    if let Some(bad) = task
        .env
        .iter()
        .find(|pair| pair.is_empty() || pair.starts_with('='))
    {
        return Err(invalid(
            "env",
            format!("\"{}\" has no name", bad.escape_debug()),
        ));
    }
    for mapping in &spec.ports {
        if mapping.port == 0
            || (!mapping.host_ip.is_empty() && mapping.host_ip.parse::<std::net::IpAddr>().is_err())
        {
            return Err(invalid(
                "ports",
                "needs a port between 1 and 65535 and an IP address",
            ));
        }
    }
    Ok(())
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 63
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// Absolute, without NUL, control characters, `.` or `..` segments.
fn is_clean_absolute(path: &str) -> bool {
    path.starts_with('/')
        && path.len() < 4096
        && !path.chars().any(char::is_control)
        && !path
            .split('/')
            .any(|segment| segment == ".." || segment == ".")
}

#[expect(
    clippy::too_many_lines,
    reason = "a flat list of independent checks, one after the other"
)]
fn check_resources(spec: &WorkloadSpec) -> Result<(), Refusal> {
    let resources = &spec.task.resources;
    let memory = resources.memory_limit;
    if memory.is_some_and(|bytes| bytes < MEMORY_MIN_BYTES) {
        return Err(invalid("memory", "the limit must be at least 6 MiB"));
    }
    if let (Some(limit), Some(reservation)) = (memory, resources.memory_reservation)
        && reservation > limit
    {
        return Err(invalid(
            "memory_reservation",
            "must not be above the memory limit",
        ));
    }
    if let Some(swap) = resources.memory_swap {
        match memory {
            None if swap != -1 && swap != 0 => {
                return Err(invalid("memory_swap", "needs a memory limit"));
            }
            Some(limit) if swap > 0 && u64::try_from(swap).is_ok_and(|swap| swap < limit) => {
                return Err(invalid("memory_swap", "must not be below the memory limit"));
            }
            _ if swap < -1 => {
                return Err(invalid("memory_swap", "must be -1 or a number of bytes"));
            }
            _ => {}
        }
    }
    if resources.memory_swappiness.is_some_and(|n| n > 100) {
        return Err(invalid("memory_swappiness", "must be between 0 and 100"));
    }
    if resources
        .oom_score_adj
        .is_some_and(|n| !(-1000..=1000).contains(&n))
    {
        return Err(invalid("oom_score_adj", "must be between -1000 and 1000"));
    }
    if resources
        .blkio_weight
        .is_some_and(|n| n != 0 && !(10..=1000).contains(&n))
    {
        return Err(invalid("blkio_weight", "must be between 10 and 1000"));
    }
    if resources
        .cpu_period_us
        .is_some_and(|n| n != 0 && !(1_000..=1_000_000).contains(&n))
    {
        return Err(invalid(
            "cpu_period",
            "must be between 1000 and 1000000 microseconds",
        ));
    }
    if resources.cpu_quota_us.is_some_and(|n| n > 0 && n < 1_000) {
        return Err(invalid("cpu_quota", "must be at least 1000 microseconds"));
    }
    if resources.cpu_limit_millis.is_some_and(|n| n == 0) {
        return Err(invalid("cpus", "must be more than 0"));
    }
    if resources.pids_limit.is_some_and(|n| n < -1) {
        return Err(invalid("pids_limit", "must be -1 or more"));
    }
    for (field, set) in [
        ("cpuset_cpus", &resources.cpuset_cpus),
        ("cpuset_mems", &resources.cpuset_mems),
    ] {
        if let Some(set) = set
            && !set
                .bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-'))
        {
            return Err(invalid(field, "must be a list such as 0-1,3"));
        }
    }
    if spec.task.log.max_files == 0 || spec.task.log.max_file_bytes < 4096 {
        return Err(invalid(
            "log",
            "needs at least one file of at least 4096 bytes",
        ));
    }
    if spec
        .task
        .log
        .max_file_bytes
        .saturating_mul(u64::from(spec.task.log.max_files))
        > LOG_MAX_BYTES
    {
        return Err(invalid("log", "may keep at most 10 GiB of output"));
    }
    Ok(())
}

/// Most output kept per workload, in bytes: a tenant cannot fill a host by asking for it.
const LOG_MAX_BYTES: u64 = 10 << 30;

fn check_security(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    let security = &spec.task.security;
    if security.privileged && !policy.privileged {
        return Err(forbidden(
            "privileged",
            "the pool's policy does not allow privileged workloads",
        ));
    }
    for cap in security.cap_add.iter().chain(&security.cap_drop) {
        if cap != "ALL" && !ALL_CAPABILITIES.contains(&cap.as_str()) {
            return Err(invalid(
                "capabilities",
                format!("unknown capability \"{}\"", cap.escape_debug()),
            ));
        }
    }
    if !security.privileged {
        for cap in &security.cap_add {
            let allowed =
                DEFAULT_CAPABILITIES.contains(&cap.as_str()) || policy.capabilities.contains(cap);
            if !allowed {
                return Err(forbidden(
                    "cap_add",
                    format!("the pool's policy does not allow {cap}"),
                ));
            }
        }
    }
    let custom = match &security.seccomp {
        Seccomp::Default => false,
        Seccomp::Unconfined | Seccomp::Custom(_) => true,
    };
    if custom && !policy.custom_seccomp && !security.privileged {
        return Err(forbidden(
            "seccomp",
            "the pool's policy allows only the default system call filter",
        ));
    }
    let unmasked = security.masked_paths.is_some() || security.readonly_paths.is_some();
    if unmasked && !policy.privileged {
        return Err(forbidden(
            "masked_paths",
            "the pool's policy allows only the default masked and read-only paths",
        ));
    }
    if let Some(runtime) = &spec.task.runtime
        && !policy.runtimes.contains(runtime)
    {
        let shown: String = runtime
            .chars()
            .take(80)
            .flat_map(char::escape_default)
            .collect();
        return Err(forbidden(
            "runtime",
            format!("the pool's policy does not name the runtime \"{shown}\""),
        ));
    }
    Ok(())
}

fn check_namespaces(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    let modes = &spec.task.namespaces;
    let host_network = match spec.network {
        NetworkMode::Host => true,
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Workload { .. } => false,
    };
    for (wanted, name, field) in [
        (host_network, "network", "network"),
        (modes.host_pid, "pid", "namespaces.pid"),
        (modes.host_ipc, "ipc", "namespaces.ipc"),
        (modes.host_uts, "uts", "namespaces.uts"),
    ] {
        if wanted && !policy.host_namespaces.contains(name) {
            return Err(forbidden(
                field,
                format!("the pool's policy does not allow the host's {name} namespace"),
            ));
        }
    }
    if host_network && !spec.ports.is_empty() {
        return Err(invalid(
            "ports",
            "cannot be published with the host's own network",
        ));
    }
    Ok(())
}

fn check_mounts(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    let mut targets = std::collections::BTreeSet::new();
    for mount in &spec.task.mounts {
        let target = mount.target.trim_end_matches('/');
        if !is_clean_absolute(&mount.target) || target.is_empty() {
            return Err(invalid(
                "mounts.target",
                "must be an absolute path other than /, without . and ..",
            ));
        }
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
                    let shown: String = bad
                        .chars()
                        .take(80)
                        .flat_map(char::escape_default)
                        .collect();
                    return Err(invalid(
                        "mounts.tmpfs",
                        format!("option \"{shown}\" is not allowed"),
                    ));
                }
            }
        }
    }
    Ok(())
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

fn check_devices_and_kernel(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
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
            let shown: String = key
                .chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect();
            return Err(forbidden(
                "sysctls",
                format!("\"{shown}\" is not in the list of safe kernel parameters"),
            ));
        }
        if value.chars().any(char::is_control) {
            return Err(invalid("sysctls", "must not contain control characters"));
        }
    }
    for limit in &spec.task.ulimits {
        if !ULIMITS.contains(&limit.name.as_str()) {
            let shown: String = limit
                .name
                .chars()
                .take(40)
                .flat_map(char::escape_default)
                .collect();
            return Err(invalid("ulimits", format!("unknown limit \"{shown}\"")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn spec(patch: serde_json::Value) -> WorkloadSpec {
        let mut base = serde_json::json!({
            "task": {"image": "web", "image_id": format!("sha256:{}", "a".repeat(64)), "args": ["true"]}
        });
        merge(&mut base, patch);
        serde_json::from_value(base).unwrap()
    }

    fn merge(base: &mut serde_json::Value, patch: serde_json::Value) {
        match (base, patch) {
            (serde_json::Value::Object(base), serde_json::Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(base.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (base, patch) => *base = patch,
        }
    }

    /// `expect`: empty = admitted, else `field` with `!` in front if no policy could allow it.
    fn check(patch: serde_json::Value, policy: &PoolPolicy, expect: &str) {
        let got = match admit(&spec(patch.clone()), policy) {
            Ok(()) => String::new(),
            Err(refusal) => format!("{}{}", if refusal.policy { "" } else { "!" }, refusal.field),
        };
        assert_eq!(got, expect, "{patch}");
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn nothing_dangerous_without_a_policy() {
        let none = PoolPolicy::default();
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        for (patch, expect) in [
            (r#"{}"#, ""),
            (r#"{"task":{"security":{"privileged":true}}}"#, "privileged"),
            (
                r#"{"task":{"security":{"cap_add":["CAP_SYS_ADMIN"]}}}"#,
                "cap_add",
            ),
            (r#"{"task":{"security":{"cap_add":["ALL"]}}}"#, "cap_add"),
            (
                r#"{"task":{"security":{"cap_add":["CAP_NO_SUCH"]}}}"#,
                "!capabilities",
            ),
            (
                r#"{"task":{"security":{"cap_drop":["ALL"],"cap_add":["CAP_NET_BIND_SERVICE"]}}}"#,
                "",
            ),
            (
                r#"{"task":{"security":{"seccomp":{"profile":"unconfined"}}}}"#,
                "seccomp",
            ),
            (
                r#"{"task":{"security":{"masked_paths":[]}}}"#,
                "masked_paths",
            ),
            (r#"{"task":{"runtime":"/bin/sh"}}"#, "runtime"),
            (r#"{"network":{"mode":"host"}}"#, "network"),
            (
                r#"{"task":{"namespaces":{"host_pid":true}}}"#,
                "namespaces.pid",
            ),
            (
                r#"{"task":{"mounts":[{"target":"/h","source":{"type":"host-path","path":"/"}}]}}"#,
                "mounts.host_path",
            ),
            (
                r#"{"task":{"mounts":[{"target":"/h","source":{"type":"host-path","path":"/a/../b"}}]}}"#,
                "!mounts.host_path",
            ),
            (
                r#"{"task":{"mounts":[{"target":"/","source":{"type":"tmpfs"}}]}}"#,
                "!mounts.target",
            ),
            (
                r#"{"task":{"mounts":[{"target":"/t","source":{"type":"tmpfs","options":["lowerdir=/"]}}]}}"#,
                "!mounts.tmpfs",
            ),
            (
                r#"{"task":{"mounts":[{"target":"/t","source":{"type":"volume","name":"../x"}}]}}"#,
                "!mounts.volume",
            ),
            (
                r#"{"task":{"devices":[{"host_path":"/dev/mem","path":"/dev/mem","permissions":"rwm"}]}}"#,
                "devices",
            ),
            (
                r#"{"task":{"sysctls":{"kernel.core_pattern":"|/x"}}}"#,
                "sysctls",
            ),
            (
                r#"{"task":{"sysctls":{"net.ipv4.tcp_syncookies":"1"}}}"#,
                "",
            ),
            (r#"{"task":{"resources":{"memory_limit":1}}}"#, "!memory"),
            (r#"{"task":{"resources":{"pids_limit":-7}}}"#, "!pids_limit"),
            (r#"{"hostname":"a b!"}"#, "!hostname"),
            (
                r#"{"dns":{"options":["ndots:1\nnameserver 1.2.3.4"]}}"#,
                "!dns.options",
            ),
        ] {
            check(json(patch), &none, expect);
        }
    }

    #[test]
    fn a_policy_allows_what_it_names_and_nothing_beside_it() {
        let policy = PoolPolicy {
            host_paths: BTreeSet::from(["/srv/data".to_owned()]),
            capabilities: BTreeSet::from(["CAP_NET_ADMIN".to_owned()]),
            ..PoolPolicy::default()
        };
        let mount = |path: &str| serde_json::json!({"task":{"mounts":[{"target":"/h","source":{"type":"host-path","path":path}}]}});
        check(mount("/srv/data"), &policy, "");
        check(mount("/srv/data/a"), &policy, "");
        check(mount("/srv/database"), &policy, "mounts.host_path");
        check(mount("/srv"), &policy, "mounts.host_path");
        check(mount("/srv/data//x"), &policy, "!mounts.host_path");
        check(
            serde_json::json!({"task":{"security":{"cap_add":["CAP_NET_ADMIN"]}}}),
            &policy,
            "",
        );
        check(
            serde_json::json!({"task":{"security":{"cap_add":["CAP_SYS_ADMIN"]}}}),
            &policy,
            "cap_add",
        );
    }
}
