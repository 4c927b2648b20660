//! The cgroups of pools: their parts of this host are written there, and what they do is measured there.
//!
//! What it is: bringing `plimsoll/<host>/<pool>[/<pool>…]` to the parts of a [`HostPool`] each, and reading use and
//! demand. What it is not: deciding parts (the server's `plan`). Start with [`Pools::apply`] and [`Pools::measure`].
//!
//! What always holds: parts shrink before others grow, from the innermost outwards, because cgroup v1 refuses a CPU
//! quota that a cgroup below exceeds; a memory limit below what is in use is not forced, since that would kill tasks,
//! but tried again with pressure on until it holds.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::division::HEAVIEST_MAX;
use model::workload::Resources;
use model::{CpuMillis, HostPool, HostWorkload, MemoryBytes, PoolId, PoolUsage, WorkloadId};

use super::cgroup::{Cgroup, CgroupError, Cgroups, write};

/// The period of quotas in microseconds, the kernel's default.
const PERIOD_US: u64 = 100_000;
/// Deepest nesting of pools that is followed: a ring in a document must not hang the host. The server allows 16.
const DEPTH_MAX: usize = 32;
/// Threads whose waiting is read per round: bounds the time of a measurement to some 50 ms when a bomb went off.
const THREADS_MAX: usize = 4096;
/// cgroup v1's word for no memory limit.
const V1_UNLIMITED: &str = "-1";

/// Why parts are not in force yet.
#[derive(Debug, thiserror::Error)]
pub enum PoolsError {
    /// A cgroup could not be written.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// More memory is in use than the part allows; the kernel reclaims, and it is tried again.
    #[error("pool {pool} uses {used} bytes of memory, its part is {limit}: waiting until it fits")]
    InUse {
        /// Which.
        pool: PoolId,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

/// The pools of this host.
pub(super) struct Pools {
    cgroups: Cgroups,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    parts: BTreeMap<PoolId, HostPool>,
    last: Option<Sample>,
}

/// What was read at one moment.
struct Sample {
    at: Instant,
    pools: BTreeMap<PoolId, Counters>,
    /// Nanoseconds each thread has waited for a CPU.
    waited: HashMap<i32, u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    cpu_ns: u64,
    periods: u64,
    throttled: u64,
}

impl Pools {
    pub(super) fn new(cgroups: Cgroups) -> Self {
        Self {
            cgroups,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a task's cgroup with its limits, and that of its pool with its part if it was not there.
    pub(super) fn place(&self, workload: &HostWorkload) -> Result<(), PoolsError> {
        let state = self.lock();
        let pool = self.cgroups.pool_of(workload);
        let missing = !pool.exists();
        let own = self.cgroups.workload(workload);
        own.create()?;
        if missing {
            let path: Vec<&PoolId> = workload.pool_path.iter().chain([&workload.pool]).collect();
            for depth in 1..=path.len() {
                if let Some(part) = state.parts.get(path[depth - 1]) {
                    let cgroup = self.cgroups.pool(&path[..depth]);
                    write_part(
                        &cgroup,
                        path[depth - 1],
                        part,
                        self.cpu(&state, path[depth - 1]),
                    )?;
                }
            }
        }
        own.limit(&self.capped(&state, workload, &workload.spec.task.resources))?;
        Ok(())
    }

    /// Writes a running task's limits.
    pub(super) fn limit(
        &self,
        workload: &HostWorkload,
        resources: &Resources,
    ) -> Result<(), PoolsError> {
        let state = self.lock();
        let own = self.cgroups.workload(workload);
        Ok(own.limit(&self.capped(&state, workload, resources))?)
    }

    /// Brings all pools to their parts. Pools without one are set free.
    pub(super) fn apply(
        &self,
        parts: &BTreeMap<PoolId, HostPool>,
        members: &[Arc<HostWorkload>],
    ) -> Result<(), PoolsError> {
        let mut state = self.lock();
        let gone: Vec<(PoolId, HostPool)> = state
            .parts
            .iter()
            .filter(|(id, _)| !parts.contains_key(*id))
            .map(|(id, part)| {
                (
                    id.clone(),
                    HostPool {
                        parent: part.parent.clone(),
                        ..HostPool::default()
                    },
                )
            })
            .collect();
        let mut wanted = parts.clone();
        wanted.extend(gone.iter().cloned());
        state.parts = wanted;
        let mut order: Vec<(Vec<PoolId>, PoolId)> = state
            .parts
            .keys()
            .map(|id| (path_of(&state.parts, id), id.clone()))
            .collect();
        // Outermost first.
        order.sort_by_key(|(path, _)| path.len());
        let mut waiting = None;
        for (path, id) in order.iter().rev() {
            self.shrink_cpu(&state, path, id)?;
        }
        for (path, id) in &order {
            let cgroup = self.cgroups.pool(&path.iter().collect::<Vec<_>>());
            cgroup.create()?;
            let cpu = self.cpu(&state, id);
            match write_part(&cgroup, id, &state.parts[id], cpu) {
                Err(PoolsError::InUse { pool, used, limit }) => {
                    waiting = Some(PoolsError::InUse { pool, used, limit });
                }
                other => other?,
            }
            self.follow(&state, id, members)?;
        }
        for (id, _) in gone {
            state.parts.remove(&id);
        }
        waiting.map_or(Ok(()), Err)
    }

    /// The CPU a pool may use at most: its own part and those above it.
    fn cpu(&self, state: &State, id: &PoolId) -> Option<CpuMillis> {
        path_of(&state.parts, id)
            .iter()
            .filter_map(|id| state.parts.get(id)?.cpu_limit)
            .min()
    }

    /// On cgroup v1 a task's quota may not be above its pool's.
    fn capped(&self, state: &State, workload: &HostWorkload, resources: &Resources) -> Resources {
        let mut resources = resources.clone();
        let cap = workload
            .pool_path
            .iter()
            .chain([&workload.pool])
            .filter_map(|id| state.parts.get(id)?.cpu_limit)
            .min();
        let Some(cap) = cap.filter(|_| !self.cgroups.is_v2()) else {
            return resources;
        };
        if let Some((quota, period)) = super::limits::cpu_quota(&resources)
            && u64::try_from(quota).is_ok_and(|quota| quota > quota_in(cap, period))
        {
            resources.cpu_limit_millis = None;
            resources.cpu_period_us = Some(period);
            resources.cpu_quota_us = i64::try_from(quota_in(cap, period)).ok();
        }
        resources
    }

    fn shrink_cpu(&self, state: &State, path: &[PoolId], id: &PoolId) -> Result<(), PoolsError> {
        let cgroup = self.cgroups.pool(&path.iter().collect::<Vec<_>>());
        let (Some(dir), Some(cap)) = (
            cgroup
                .dir("cpu")
                .filter(|dir| dir.exists() && !cgroup.is_v2()),
            self.cpu(state, id),
        ) else {
            return Ok(());
        };
        let now = read_number(&dir.join("cpu.cfs_quota_us"));
        if now.is_some_and(|now| now <= quota_us(cap)) {
            return Ok(());
        }
        Ok(press_quota_v1(&dir, cap, 0)?)
    }

    /// Brings the quotas of a pool's own tasks to what its part allows.
    fn follow(
        &self,
        state: &State,
        id: &PoolId,
        members: &[Arc<HostWorkload>],
    ) -> Result<(), PoolsError> {
        if self.cgroups.is_v2() {
            return Ok(());
        }
        for member in members.iter().filter(|member| member.pool == *id) {
            let cgroup = self.cgroups.workload(member);
            let own = &member.spec.task.resources;
            let capped = self.capped(state, member, own);
            if let (Some(dir), Some((quota, period))) =
                (cgroup.dir("cpu"), super::limits::cpu_quota(&capped))
            {
                gone_is_fine(write(&dir.join("cpu.cfs_period_us"), &period.to_string()))?;
                gone_is_fine(write(&dir.join("cpu.cfs_quota_us"), &quota.to_string()))?;
            }
        }
        Ok(())
    }

    /// What every pool with a part or a cgroup does since the last call; the first call has no rates.
    pub(super) fn measure(&self, members: &[Arc<HostWorkload>]) -> BTreeMap<PoolId, PoolUsage> {
        let mut state = self.lock();
        let mut pools: BTreeMap<PoolId, Vec<PoolId>> = state
            .parts
            .keys()
            .map(|id| (id.clone(), path_of(&state.parts, id)))
            .collect();
        for w in members {
            for depth in 0..=w.pool_path.len() {
                let path: Vec<PoolId> = w
                    .pool_path
                    .iter()
                    .chain([&w.pool])
                    .take(depth + 1)
                    .cloned()
                    .collect();
                if let Some(id) = path.last().cloned() {
                    pools.entry(id).or_insert(path);
                }
            }
        }
        let mut sample = Sample {
            at: Instant::now(),
            pools: BTreeMap::new(),
            waited: HashMap::new(),
        };
        let mut usage = BTreeMap::new();
        for (id, path) in pools {
            let cgroup = self.cgroups.pool(&path.iter().collect::<Vec<_>>());
            if !cgroup.exists() {
                continue;
            }
            let counters = counters(&cgroup);
            let waited = self.waited(&cgroup, &mut sample, state.last.as_ref());
            let mut now = usage_now(&cgroup);
            if let Some(last) = &state.last
                && let Some(before) = last.pools.get(&id)
            {
                counters.rates(*before, waited, sample.at.duration_since(last.at), &mut now);
            }
            now.heaviest = self.heaviest(members.iter().filter(|it| it.pool == id));
            usage.insert(id.clone(), now);
            sample.pools.insert(id, counters);
        }
        state.last = Some(sample);
        usage
    }

    /// What the largest workloads of a pool work with.
    fn heaviest<'a>(
        &self,
        members: impl Iterator<Item = &'a Arc<HostWorkload>>,
    ) -> BTreeMap<WorkloadId, MemoryBytes> {
        let mut all: Vec<(MemoryBytes, &WorkloadId)> = members
            .filter_map(|member| {
                let (_, working_set) = memory_now(&self.cgroups.workload(member))?;
                Some((working_set, &member.id))
            })
            .collect();
        all.sort_by(|a, b| b.cmp(a));
        let largest = all.into_iter().take(HEAVIEST_MAX);
        largest.map(|(bytes, id)| (id.clone(), bytes)).collect()
    }

    /// Nanoseconds that the threads in a cgroup and below it have waited for a CPU since the last sample. The kernel
    /// counts this in the second field of `schedstat` (Documentation/scheduler/sched-stats), throttled or not.
    fn waited(&self, cgroup: &Cgroup, sample: &mut Sample, last: Option<&Sample>) -> u64 {
        let Some(dir) = cgroup.dir("cpu") else {
            return 0;
        };
        let file = if cgroup.is_v2() {
            "cgroup.threads"
        } else {
            "tasks"
        };
        let mut threads = Vec::new();
        threads_below(&dir, file, &mut threads, 0);
        let mut sum = 0;
        for thread in threads {
            let now = match sample.waited.get(&thread) {
                Some(now) => *now,
                None if sample.waited.len() >= THREADS_MAX => continue,
                None => {
                    let Some(now) = run_delay(thread) else {
                        continue;
                    };
                    sample.waited.insert(thread, now);
                    now
                }
            };
            let before = last.and_then(|last| last.waited.get(&thread).copied());
            // A lower count is another thread that got the number of one that is gone.
            sum += before
                .filter(|before| *before <= now)
                .map_or(now, |before| now - before);
        }
        sum
    }
}

/// The pool with those above it, outermost first.
fn path_of(parts: &BTreeMap<PoolId, HostPool>, id: &PoolId) -> Vec<PoolId> {
    let parent = |id: &PoolId| parts.get(id).and_then(|part| part.parent.clone());
    let mut path: Vec<PoolId> = std::iter::successors(Some(id.clone()), parent)
        .take(DEPTH_MAX)
        .collect();
    path.reverse();
    path
}

fn quota_us(cpu: CpuMillis) -> u64 {
    quota_in(cpu, PERIOD_US)
}

/// The quota in a period, both in microseconds.
fn quota_in(cpu: CpuMillis, period_us: u64) -> u64 {
    // The kernel takes no quota below one millisecond.
    (cpu.0.saturating_mul(period_us) / 1000).max(1000)
}

fn write_quota_v1(dir: &Path, cpu: Option<CpuMillis>) -> Result<(), CgroupError> {
    let quota = cpu.map_or("-1".to_owned(), |cpu| quota_us(cpu).to_string());
    write(&dir.join("cpu.cfs_quota_us"), &quota)
}

/// Lowers the quotas of a cgroup and of all below it to a bound, the innermost first.
fn press_quota_v1(dir: &Path, cap: CpuMillis, depth: usize) -> Result<(), CgroupError> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if depth < DEPTH_MAX {
            press_quota_v1(&entry.path(), cap, depth + 1)?;
        }
    }
    let number = |file: &str| read_number(&dir.join(file));
    let most = quota_in(cap, number("cpu.cfs_period_us").unwrap_or(PERIOD_US));
    // "-1" is not a number: below, what is above bounds it; at the top, it is to be bounded.
    if number("cpu.cfs_quota_us").map_or(depth == 0, |quota| quota > most) {
        gone_is_fine(write(&dir.join("cpu.cfs_quota_us"), &most.to_string()))?;
    }
    Ok(())
}

fn write_part(
    cgroup: &Cgroup,
    id: &PoolId,
    part: &HostPool,
    cpu: Option<CpuMillis>,
) -> Result<(), PoolsError> {
    let pids = part.pids_limit.map_or("max".to_owned(), |n| n.to_string());
    if cgroup.is_v2() {
        let Some(dir) = cgroup.dir("") else {
            return Ok(());
        };
        let cpu_max = cpu.map_or("max".to_owned(), |cpu| quota_us(cpu).to_string());
        write(
            &dir.join("cpu.weight"),
            &part.cpu_weight.clamp(1, 10_000).to_string(),
        )?;
        write(&dir.join("cpu.max"), &format!("{cpu_max} {PERIOD_US}"))?;
        write(&dir.join("memory.low"), &part.memory_low.0.to_string())?;
        write(&dir.join("pids.max"), &pids)?;
        return write_memory_v2(&dir, id, part);
    }
    if let Some(dir) = cgroup.dir("cpu") {
        write(
            &dir.join("cpu.shares"),
            &shares(part.cpu_weight).to_string(),
        )?;
        write_quota_v1(&dir, cpu)?;
    }
    if let Some(dir) = cgroup.dir("pids") {
        write(&dir.join("pids.max"), &pids)?;
    }
    match cgroup.dir("memory") {
        Some(dir) => write_memory_v1(&dir, id, part),
        None => Ok(()),
    }
}

fn write_memory_v1(dir: &Path, id: &PoolId, part: &HostPool) -> Result<(), PoolsError> {
    let text = |bytes: Option<MemoryBytes>| {
        bytes.map_or(V1_UNLIMITED.to_owned(), |bytes| bytes.0.to_string())
    };
    write(
        &dir.join("memory.soft_limit_in_bytes"),
        &text(part.memory_high),
    )?;
    let written = write(&dir.join("memory.limit_in_bytes"), &text(part.memory_limit));
    // The kernel has reclaimed what it could and could not come below.
    in_use(written, dir, "memory.usage_in_bytes", id, part)
}

fn write_memory_v2(dir: &Path, id: &PoolId, part: &HostPool) -> Result<(), PoolsError> {
    let text =
        |bytes: Option<MemoryBytes>| bytes.map_or("max".to_owned(), |bytes| bytes.0.to_string());
    let used = read_number(&dir.join("memory.current")).unwrap_or(0);
    let high = [part.memory_high, part.memory_limit]
        .into_iter()
        .flatten()
        .min();
    match part.memory_limit {
        Some(limit) if used > limit.0 => {
            // Writing it now would kill: press first.
            write(&dir.join("memory.high"), &text(high))?;
            let left = read_number(&dir.join("memory.current")).unwrap_or(0);
            if left > limit.0 {
                return Err(PoolsError::InUse {
                    pool: id.clone(),
                    used: left,
                    limit: limit.0,
                });
            }
        }
        _ => {}
    }
    write(&dir.join("memory.max"), &text(part.memory_limit))?;
    write(&dir.join("memory.high"), &text(part.memory_high))?;
    Ok(())
}

fn in_use(
    written: Result<(), CgroupError>,
    dir: &Path,
    usage: &str,
    id: &PoolId,
    part: &HostPool,
) -> Result<(), PoolsError> {
    match (written, part.memory_limit) {
        (Err(CgroupError::File { source, .. }), Some(limit))
            if source.kind() == io::ErrorKind::ResourceBusy =>
        {
            Err(PoolsError::InUse {
                pool: id.clone(),
                used: read_number(&dir.join(usage)).unwrap_or(0),
                limit: limit.0,
            })
        }
        (written, _) => Ok(written?),
    }
}

/// Of cgroup v2's weights (100 is usual) what cgroup v1 calls shares (1,024 is usual).
fn shares(weight: u32) -> u64 {
    (u64::from(weight.clamp(1, 10_000)) * 1024 / 100).clamp(2, 262_144)
}

/// A task may end at any moment, and its cgroup with it.
fn gone_is_fine(result: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match result {
        Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn counters(cgroup: &Cgroup) -> Counters {
    let stat = |dir: Option<PathBuf>| {
        dir.map(|dir| super::stats::table(&dir, "cpu.stat"))
            .unwrap_or_default()
    };
    let of = super::stats::of;
    let table = stat(cgroup.dir("cpu"));
    let cpu_ns = if cgroup.is_v2() {
        of(&table, "usage_usec") * 1000
    } else {
        let dir = cgroup.dir("cpuacct");
        dir.and_then(|dir| read_number(&dir.join("cpuacct.usage")))
            .unwrap_or(0)
    };
    Counters {
        cpu_ns,
        periods: of(&table, "nr_periods"),
        throttled: of(&table, "nr_throttled"),
    }
}

/// What can be read at one moment: memory and processes.
fn usage_now(cgroup: &Cgroup) -> PoolUsage {
    let pids = cgroup.dir("pids");
    let mut usage = PoolUsage {
        pids: pids
            .and_then(|dir| read_number(&dir.join("pids.current")))
            .unwrap_or(0),
        ..PoolUsage::default()
    };
    if let Some((used, working_set)) = memory_now(cgroup) {
        usage.memory_used = used;
        usage.memory_working_set = working_set;
    }
    usage
}

/// Memory charged to a cgroup, and that without page cache that has not been used lately; `None`: it is not there.
fn memory_now(cgroup: &Cgroup) -> Option<(MemoryBytes, MemoryBytes)> {
    let dir = cgroup.dir("memory")?;
    let (current, inactive) = if cgroup.is_v2() {
        ("memory.current", "inactive_file")
    } else {
        ("memory.usage_in_bytes", "total_inactive_file")
    };
    let used = read_number(&dir.join(current))?;
    let inactive = super::stats::of(&super::stats::table(&dir, "memory.stat"), inactive);
    Some((
        MemoryBytes(used),
        MemoryBytes(used.saturating_sub(inactive)),
    ))
}

impl Counters {
    /// Adds what happened since `before`; `waited_ns` of all threads together.
    fn rates(self, before: Self, waited_ns: u64, time: Duration, usage: &mut PoolUsage) {
        let nanos = time.as_nanos().max(1);
        let per_time = |ns: u64| {
            let millis = u128::from(ns) * 1000 / nanos;
            CpuMillis(u64::try_from(millis).unwrap_or(u64::MAX))
        };
        let used = self.cpu_ns.saturating_sub(before.cpu_ns);
        usage.cpu_used = per_time(used);
        usage.cpu_demand = per_time(used.saturating_add(waited_ns));
        let periods = self.periods.saturating_sub(before.periods);
        let throttled = self.throttled.saturating_sub(before.throttled).min(periods);
        usage.cpu_throttled = u32::try_from(throttled * 1000 / periods.max(1)).unwrap_or(0);
    }
}

fn threads_below(dir: &Path, file: &str, threads: &mut Vec<i32>, depth: usize) {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    threads.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth >= DEPTH_MAX {
        return;
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        threads_below(&entry.path(), file, threads, depth + 1);
    }
}

fn run_delay(thread: i32) -> Option<u64> {
    // Any thread's number is found here, though only leaders are listed (proc(5)).
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    text.split(' ').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
