//! What hosts say of their pools: use, demand, and which parts are in force. Kept in memory, of connected hosts only.
//!
//! What always holds: a host is believed only about pools that exist, and never to use more than it has.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use model::division::HEAVIEST_MAX;
use model::{Capacity, CpuMillis, HostId, MemoryBytes, PoolId, PoolUsage, Timestamp};

use crate::core::{Control, now};

/// What one host said last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostMeasure {
    /// When it was heard.
    pub at: Timestamp,
    /// Generation of the document whose parts of pools are in force there.
    pub applied: u64,
    /// Each pool with everything below it.
    pub usage: BTreeMap<PoolId, PoolUsage>,
}

/// What all connected hosts said last.
#[derive(Default)]
pub(crate) struct Measures {
    hosts: Mutex<HashMap<HostId, Arc<HostMeasure>>>,
    /// Changes when a host says that other parts are in force.
    confirmed: watch::Sender<u64>,
}

impl Measures {
    fn lock(&self) -> MutexGuard<'_, HashMap<HostId, Arc<HostMeasure>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever a host says that other parts are in force.
    pub(crate) fn confirmed(&self) -> watch::Receiver<u64> {
        self.confirmed.subscribe()
    }

    pub(crate) fn forget(&self, host: &HostId) {
        self.lock().remove(host);
    }
}

impl Control {
    /// Takes in what a host says of its pools.
    pub(crate) fn take_measure(
        &self,
        host: &HostId,
        applied: u64,
        usage: BTreeMap<PoolId, PoolUsage>,
    ) {
        let snapshot = self.snapshot();
        let Some(record) = snapshot.host(host) else {
            return;
        };
        let has = record.status.facts.capacity;
        let measure = HostMeasure {
            at: now(),
            applied,
            usage: usage
                .into_iter()
                .filter(|(pool, _)| snapshot.pool(pool).is_some())
                .map(|(pool, usage)| {
                    let usage = bounded(usage, has);
                    (pool, on_host(&snapshot, host, usage))
                })
                .collect(),
        };
        let measures = &self.inner.measures;
        let before = measures.lock().insert(host.clone(), Arc::new(measure));
        if before.is_none_or(|before| before.applied != applied) {
            measures.confirmed.send_modify(|count| *count += 1);
        }
    }

    /// What each connected host said of its pools last.
    #[must_use]
    pub fn host_measures(&self) -> BTreeMap<HostId, Arc<HostMeasure>> {
        let hosts = self.inner.measures.lock();
        hosts
            .iter()
            .map(|(id, measure)| (id.clone(), Arc::clone(measure)))
            .collect()
    }
}

/// Demand may be above what there is, but not without measure: more than this many times the host's CPUs says no more.
const DEMAND_TIMES: u64 = 64;

fn bounded(usage: PoolUsage, has: Capacity) -> PoolUsage {
    let memory = |bytes: MemoryBytes| bytes.min(has.memory);
    PoolUsage {
        cpu_used: usage.cpu_used.min(has.cpu),
        cpu_demand: usage
            .cpu_demand
            .min(CpuMillis(has.cpu.0.saturating_mul(DEMAND_TIMES))),
        cpu_throttled: usage.cpu_throttled.min(1000),
        memory_used: memory(usage.memory_used),
        memory_working_set: memory(usage.memory_working_set),
        pids: usage.pids,
        heaviest: usage
            .heaviest
            .into_iter()
            .take(HEAVIEST_MAX)
            .map(|(id, bytes)| (id, memory(bytes)))
            .collect(),
    }
}

/// Only what is placed on the host counts of what it says of single workloads.
fn on_host(snapshot: &store::Snapshot, host: &HostId, mut usage: PoolUsage) -> PoolUsage {
    usage.heaviest.retain(|id, _| {
        let row = snapshot.workload(id);
        row.is_some_and(|row| row.host.as_ref() == Some(host))
    });
    usage
}
