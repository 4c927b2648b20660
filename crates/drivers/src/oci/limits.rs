//! Limits of a task as the kernel's files want them, for cgroup v1 and v2.

use std::path::Path;

use model::CpuSet;
use model::workload::Resources;

use super::cgroup::{Cgroup, CgroupError, write};

impl Cgroup {
    /// Writes limits; also for a running task.
    ///
    /// # Errors
    /// When the kernel refuses a value.
    pub fn limit(&self, resources: &Resources) -> Result<(), CgroupError> {
        if self.is_v2() {
            self.limit_v2(resources)
        } else {
            self.limit_v1(resources)
        }
    }

    fn limit_v1(&self, r: &Resources) -> Result<(), CgroupError> {
        if let Some(dir) = self.dir("memory") {
            self.limit_memory_v1(&dir, r)?;
        }
        if let Some(dir) = self.dir("cpu") {
            if let Some(shares) = r.cpu_shares.filter(|shares| *shares > 0) {
                write(&dir.join("cpu.shares"), &shares.to_string())?;
            }
            if let Some((quota, period)) = cpu_quota(r) {
                write(&dir.join("cpu.cfs_period_us"), &period.to_string())?;
                write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
        }
        self.limit_cpuset(r)?;
        if let (Some(dir), Some(limit)) = (self.dir("pids"), r.pids_limit) {
            write(&dir.join("pids.max"), &pids_max(limit))?;
        }
        if let (Some(dir), Some(weight)) = (
            self.dir("blkio"),
            r.blkio_weight.filter(|weight| *weight > 0),
        ) {
            // Only some I/O schedulers have weights; without one there is nothing to weigh.
            let files = ["blkio.weight", "blkio.bfq.weight"];
            if let Some(file) = files
                .into_iter()
                .map(|name| dir.join(name))
                .find(|file| file.exists())
            {
                write(&file, &weight.to_string())?;
            }
        }
        Ok(())
    }

    fn limit_memory_v1(&self, dir: &Path, r: &Resources) -> Result<(), CgroupError> {
        let (limit, both) = (
            dir.join("memory.limit_in_bytes"),
            dir.join("memory.memsw.limit_in_bytes"),
        );
        let swap = memory_and_swap(r).filter(|_| both.exists());
        if let Some(bytes) = r.memory_limit {
            // The sum may never be below the memory limit: which comes first depends on the old values.
            match (write(&limit, &bytes.to_string()), swap) {
                (Err(_), Some(swap)) => {
                    write(&both, &swap.to_string())?;
                    write(&limit, &bytes.to_string())?;
                }
                (result, _) => result?,
            }
        }
        if let Some(swap) = swap {
            write(&both, &swap.to_string())?;
        }
        if let Some(bytes) = r.memory_reservation {
            write(&dir.join("memory.soft_limit_in_bytes"), &bytes.to_string())?;
        }
        if let Some(swappiness) = r.memory_swappiness {
            write(&dir.join("memory.swappiness"), &swappiness.to_string())?;
        }
        if r.oom_kill_disable {
            write(&dir.join("memory.oom_control"), "1")?;
        }
        Ok(())
    }

    fn limit_cpuset(&self, r: &Resources) -> Result<(), CgroupError> {
        let Some(dir) = self.dir("cpuset") else {
            return Ok(());
        };
        for (what, file, value) in [
            ("CPUs", "cpuset.cpus", &r.cpuset_cpus),
            ("memory nodes", "cpuset.mems", &r.cpuset_mems),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                check_available(&dir, what, file, value)?;
                write(&dir.join(file), value)?;
            }
        }
        Ok(())
    }

    fn limit_v2(&self, r: &Resources) -> Result<(), CgroupError> {
        let Some(dir) = self.dir("") else {
            return Ok(());
        };
        if let Some(bytes) = r.memory_limit {
            write(&dir.join("memory.max"), &bytes.to_string())?;
            let swap = dir.join("memory.swap.max");
            if let Some(both) = memory_and_swap(r).filter(|_| swap.exists()) {
                let only = u64::try_from(both)
                    .ok()
                    .map(|both| both.saturating_sub(bytes));
                write(
                    &swap,
                    &only.map_or("max".to_owned(), |only| only.to_string()),
                )?;
            }
        }
        if let Some(bytes) = r.memory_reservation {
            write(&dir.join("memory.low"), &bytes.to_string())?;
        }
        if let Some(shares) = r.cpu_shares.filter(|shares| *shares > 0) {
            write(&dir.join("cpu.weight"), &cpu_weight(shares).to_string())?;
        }
        if let Some((quota, period)) = cpu_quota(r) {
            let quota = if quota < 0 {
                "max".to_owned()
            } else {
                quota.to_string()
            };
            write(&dir.join("cpu.max"), &format!("{quota} {period}"))?;
        }
        self.limit_cpuset(r)?;
        if let Some(limit) = r.pids_limit {
            write(&dir.join("pids.max"), &pids_max(limit))?;
        }
        let weight = dir.join("io.weight");
        if let Some(value) = r.blkio_weight.filter(|value| *value > 0 && weight.exists()) {
            // 10..1000 becomes 1..10000, as runc does it.
            let value = 1 + (u64::from(value.max(10)) - 10) * 9999 / 990;
            write(&weight, &format!("default {value}"))?;
        }
        Ok(())
    }
}

/// Says in words what the kernel would refuse with "permission denied" (v1), or ignore (v2).
fn check_available(
    dir: &Path,
    what: &'static str,
    file: &str,
    wanted: &str,
) -> Result<(), CgroupError> {
    let above = dir.parent().unwrap_or(dir);
    // Only v2 has the first; there the second is empty unless somebody has set it.
    let text = [format!("{file}.effective"), file.to_owned()]
        .iter()
        .find_map(|file| std::fs::read_to_string(above.join(file)).ok())
        .unwrap_or_default();
    // If either cannot be read, the kernel is the one to judge.
    let (Ok(available), Ok(wanted)) = (CpuSet::parse(&text), CpuSet::parse(wanted)) else {
        return Ok(());
    };
    let missing = wanted.missing_from(&available);
    if missing.is_empty() {
        return Ok(());
    }
    Err(CgroupError::Missing {
        what,
        available,
        missing,
    })
}

/// Memory and swap together, as Docker defines it: twice the memory unless said otherwise; -1 for no limit.
pub(super) fn memory_and_swap(r: &Resources) -> Option<i64> {
    match (r.memory_swap.filter(|swap| *swap != 0), r.memory_limit) {
        (Some(swap), _) => Some(swap.max(-1)),
        (None, Some(limit)) => i64::try_from(limit.saturating_mul(2)).ok(),
        (None, None) => None,
    }
}

/// Quota (-1: none) and period in microseconds.
pub(super) fn cpu_quota(r: &Resources) -> Option<(i64, u64)> {
    const PERIOD: u64 = 100_000;
    if let Some(millis) = r.cpu_limit_millis.filter(|millis| *millis > 0) {
        // The kernel takes no quota below one millisecond.
        let quota = (millis.saturating_mul(PERIOD) / 1000).max(1000);
        return Some((i64::try_from(quota).ok()?, PERIOD));
    }
    let period = r.cpu_period_us.filter(|period| *period > 0);
    let quota = r.cpu_quota_us.filter(|quota| *quota != 0);
    if period.is_none() && quota.is_none() {
        return None;
    }
    Some((quota.unwrap_or(-1).max(-1), period.unwrap_or(PERIOD)))
}

pub(super) fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

pub(super) fn pids_max(limit: i64) -> String {
    if limit < 1 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}
