//! What of each pool a host may give: the pools' entitlements, limits and reservations divided to hosts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amount::Resource;
use crate::{CpuMillis, HostId, MemoryBytes, PoolId, WorkloadId};

/// The parts of all pools on one host; stored, so that every server divides from the same state and the last division
/// stays when no server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    /// The host.
    pub host: HostId,
    /// Each pool's part. A pool without one is not bounded there.
    pub pools: BTreeMap<PoolId, HostPool>,
    /// Limits of earlier divisions that may still be in force, until the host has said that this one is. Nobody else may
    /// count on what is between these and the new ones.
    #[serde(default)]
    pub unconfirmed: BTreeMap<PoolId, Unconfirmed>,
}

/// The most a host may still have in force of a pool; `None`: it may be without bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// CPU.
    pub cpu: Option<CpuMillis>,
    /// Memory.
    pub memory: Option<MemoryBytes>,
}

impl Unconfirmed {
    /// Of one resource, in thousandths of a core or bytes.
    #[must_use]
    pub fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Cpu => self.cpu.map(|it| it.0),
            Resource::Memory => self.memory.map(|it| it.0),
        }
    }
}

/// A pool's part of one host, for the pool's cgroup there; it bounds the pool with everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostPool {
    /// The pool it is a slice of.
    pub parent: Option<PoolId>,
    /// Weight against siblings when CPU is short: 1 to 10,000, 100 is usual (cgroup v2 `cpu.weight`).
    pub cpu_weight: u32,
    /// Never more CPU than this; `None`: what the host has.
    pub cpu_limit: Option<CpuMillis>,
    /// Never more memory than this; `None`: what the host has.
    pub memory_limit: Option<MemoryBytes>,
    /// Memory above this is reclaimed first; `None`: no such line.
    pub memory_high: Option<MemoryBytes>,
    /// Memory up to this is protected from other pools' pressure.
    pub memory_low: MemoryBytes,
    /// Never more processes than this; `None`: what the host allows.
    pub pids_limit: Option<u64>,
}

impl Default for HostPool {
    fn default() -> Self {
        Self {
            parent: None,
            cpu_weight: 100,
            cpu_limit: None,
            memory_limit: None,
            memory_high: None,
            memory_low: MemoryBytes(0),
            pids_limit: None,
        }
    }
}

/// What a pool does on one host, measured over some seconds; the pool with everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolUsage {
    /// CPU it used, in thousandths of a core.
    pub cpu_used: CpuMillis,
    /// CPU it would have used: used, and what its threads waited for a CPU, throttled or not.
    pub cpu_demand: CpuMillis,
    /// Part of the time during which it was throttled by its limit, in thousandths.
    pub cpu_throttled: u32,
    /// Memory charged to it, page cache included.
    pub memory_used: MemoryBytes,
    /// Memory it works with: charged, without page cache that has not been used lately.
    pub memory_working_set: MemoryBytes,
    /// Number of processes and threads.
    pub pids: u64,
    /// Memory that the largest of its own workloads work with, at most [`HEAVIEST_MAX`] of them: who could give some
    /// back.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub heaviest: BTreeMap<WorkloadId, MemoryBytes>,
}

/// Workloads named in [`PoolUsage::heaviest`]: reclaiming takes the largest first, and the next measurement names more.
pub const HEAVIEST_MAX: usize = 32;
