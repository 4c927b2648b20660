//! What a task may take: values that some host can set.

use model::workload::{MountSource, Resources};
use model::{CpuSet, TaskSpec, WorkloadSpec, cpuset};

use super::{Refusal, invalid};

/// Least memory limit in bytes: below it the runtime itself cannot start a process (as Docker: 6 MiB).
const MEMORY_MIN_BYTES: u64 = 6 << 20;

/// Least CPU limit in thousandths of a core: the kernel takes no quota below 1 ms, and a period is 100 ms (as Docker:
/// 0.01 cores).
const CPU_MIN_MILLIS: u64 = 10;

/// Bounds of the CFS period in microseconds (the kernel's).
const PERIOD_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// Least CFS quota in microseconds (the kernel's).
const QUOTA_MIN_US: i64 = 1_000;

/// Bounds of CPU shares (the kernel's; it would clamp silently what is outside).
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Least limit of processes: while a task starts, up to four processes of the runtime are in its cgroup.
const PIDS_MIN: i64 = 4;

/// Most processes the kernel can number (`PID_MAX_LIMIT`).
const PIDS_MAX: i64 = 4 << 20;

/// Most memory that the memory file systems of a task without a memory limit may take together, in bytes.
///
/// Their pages belong to no process: when memory runs out, the kernel kills others' tasks and not the one that filled
/// them. With a memory limit they count against it, and only the task itself is hit.
const MEMORY_FILES_MAX_BYTES: u64 = 1 << 30;

/// Checks limits and logging.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), Refusal> {
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
    check_cpu(resources)?;
    check_pids(resources.pids_limit)?;
    check_memory_files(&spec.task)?;
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

fn check_cpu(resources: &Resources) -> Result<(), Refusal> {
    let cpus = u64::from(cpuset::CPUS_MAX);
    if let Some(millis) = resources.cpu_limit_millis
        && !(CPU_MIN_MILLIS..=cpus * 1000).contains(&millis)
    {
        return Err(invalid(
            "cpus",
            format!("must be between 0.01 and {cpus} cores"),
        ));
    }
    let period = resources.cpu_period_us.filter(|period| *period != 0);
    if period.is_some_and(|period| !PERIOD_US.contains(&period)) {
        return Err(invalid(
            "cpu_period",
            "must be between 1000 and 1000000 microseconds",
        ));
    }
    if let Some(quota) = resources.cpu_quota_us.filter(|quota| *quota != 0) {
        if quota < -1 || (quota > 0 && quota < QUOTA_MIN_US) {
            return Err(invalid(
                "cpu_quota",
                "must be -1 or at least 1000 microseconds",
            ));
        }
        if u64::try_from(quota).is_ok_and(|quota| quota > cpus * PERIOD_US.end()) {
            return Err(invalid(
                "cpu_quota",
                format!("is more than {cpus} cores can give"),
            ));
        }
    }
    if resources
        .cpu_shares
        .is_some_and(|shares| shares != 0 && !SHARES.contains(&shares))
    {
        return Err(invalid(
            "cpu_shares",
            format!("must be between {} and {}", SHARES.start(), SHARES.end()),
        ));
    }
    for (field, set) in [
        ("cpuset_cpus", &resources.cpuset_cpus),
        ("cpuset_mems", &resources.cpuset_mems),
    ] {
        if let Some(set) = set.as_deref().filter(|set| !set.is_empty()) {
            CpuSet::parse(set).map_err(|error| invalid(field, error.to_string()))?;
        }
    }
    Ok(())
}

fn check_pids(limit: Option<i64>) -> Result<(), Refusal> {
    match limit {
        Some(limit) if limit < -1 => Err(invalid("pids_limit", "must be -1 or more")),
        Some(limit) if limit > PIDS_MAX => Err(invalid(
            "pids_limit",
            format!("must be at most {PIDS_MAX}, Linux has no more"),
        )),
        Some(limit) if limit > 0 && limit < PIDS_MIN => Err(invalid(
            "pids_limit",
            format!("must be at least {PIDS_MIN}: with less the task cannot be started"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Sizes of `/dev/shm` and of each tmpfs.
fn check_memory_files(task: &TaskSpec) -> Result<(), Refusal> {
    let mut sum = task.shm_size();
    if task.shm_bytes == Some(0) {
        return Err(invalid("shm_size", "must be more than 0"));
    }
    for mount in &task.mounts {
        let MountSource::Tmpfs { size_bytes, .. } = &mount.source else {
            continue;
        };
        if *size_bytes == Some(0) {
            return Err(invalid("mounts.tmpfs", "the size must be more than 0"));
        }
        sum = sum.saturating_add(task.tmpfs_size(*size_bytes).unwrap_or(0));
    }
    // Beyond it the kernel's own arithmetic of file sizes ends.
    if i64::try_from(sum).is_err() {
        return Err(invalid("shm_size", "is larger than any file system"));
    }
    if task.resources.memory_limit.is_none() && sum > MEMORY_FILES_MAX_BYTES {
        return Err(invalid(
            "shm_size",
            format!(
                "/dev/shm and tmpfs mounts could take {} MiB, at most {} MiB are allowed without a memory limit; set one (docker run --memory), it bounds them too",
                sum >> 20,
                MEMORY_FILES_MAX_BYTES >> 20
            ),
        ));
    }
    Ok(())
}
