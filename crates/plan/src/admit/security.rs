//! Privileges and namespaces: only what the pool's policy names.

use model::workload::{NetworkMode, Seccomp};
use model::{PoolPolicy, WorkloadSpec, capability};

use super::{Refusal, forbidden, invalid, shown};

/// Checks privileges and namespaces.
pub(super) fn check(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    check_privileges(spec, policy)?;
    check_namespaces(spec, policy)
}

fn check_privileges(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    let security = &spec.task.security;
    if security.privileged && !policy.privileged {
        return Err(forbidden(
            "privileged",
            "the pool's policy does not allow privileged workloads",
        ));
    }
    for cap in security.cap_add.iter().chain(&security.cap_drop) {
        if cap != "ALL" && !capability::ALL.contains(&cap.as_str()) {
            return Err(invalid(
                "capabilities",
                format!("unknown capability \"{}\"", cap.escape_debug()),
            ));
        }
    }
    if !security.privileged {
        for cap in &security.cap_add {
            let allowed =
                capability::DEFAULT.contains(&cap.as_str()) || policy.capabilities.contains(cap);
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
        return Err(forbidden(
            "runtime",
            format!(
                "the pool's policy does not name the runtime \"{}\"",
                shown(runtime)
            ),
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
