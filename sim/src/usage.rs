//! What tasks of fake hosts use: as much as they asked for, unless a step says otherwise.

use std::collections::BTreeMap;

use model::{CpuMillis, MemoryBytes, PoolId, PoolUsage, WorkloadId, division::HEAVIEST_MAX};

use crate::checker::{HostView, World};

/// What workloads work with, in percent of what they asked for; who is not named: all of it.
#[derive(Debug, Clone, Default)]
pub struct Appetites(BTreeMap<WorkloadId, u64>);

impl Appetites {
    /// From now on a workload works with so much.
    pub fn set(&mut self, id: WorkloadId, percent: u64) {
        self.0.insert(id, percent);
    }

    /// Nobody works with more than asked for.
    pub fn calm(&mut self) {
        self.0.retain(|_, percent| *percent <= 100);
    }

    /// What pools use on a host, as it would measure it.
    #[must_use]
    pub fn usage(&self, world: &World, host: &HostView) -> BTreeMap<PoolId, PoolUsage> {
        let mut usage: BTreeMap<PoolId, PoolUsage> = BTreeMap::new();
        for pool in host.parts.keys() {
            usage.insert(pool.clone(), PoolUsage::default());
        }
        let living = host.tasks.iter().filter(|(_, task)| task.phase.is_alive());
        for (id, _) in living {
            let Some(workload) = world.workloads.get(id) else {
                continue;
            };
            let asked = workload.spec.task.resources.charge();
            let percent = self.0.get(id).copied().unwrap_or(100);
            let (cpu, memory) = (asked.cpu.0 * percent / 100, asked.memory.0 * percent / 100);
            for pool in world.path(&workload.pool) {
                let it = usage.entry(pool).or_default();
                it.cpu_used = CpuMillis(it.cpu_used.0 + cpu);
                it.cpu_demand = CpuMillis(it.cpu_demand.0 + cpu);
                it.memory_used = MemoryBytes(it.memory_used.0 + memory);
                it.memory_working_set = MemoryBytes(it.memory_working_set.0 + memory);
                it.pids += 1;
            }
            let own = usage.entry(workload.pool.clone()).or_default();
            if own.heaviest.len() < HEAVIEST_MAX {
                own.heaviest.insert(id.clone(), MemoryBytes(memory));
            }
        }
        usage
    }
}
