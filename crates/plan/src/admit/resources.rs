//! What a task may take: values that some host can set.

use model::WorkloadSpec;

use super::{Refusal, invalid};

/// Least memory limit in bytes: below it the runtime itself cannot start a process (as Docker: 6 MiB).
const MEMORY_MIN_BYTES: u64 = 6 << 20;

#[expect(
    clippy::too_many_lines,
    reason = "a flat list of independent checks, one after the other"
)]
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
