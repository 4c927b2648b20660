//! What a host is told of the pools on it: the numbers its control groups need.

use std::collections::BTreeMap;

use model::{CpuMillis, HostId, HostPool, MemoryBytes, PoolId};

use super::hosts::{Division, HostPart};
use crate::pools::Tree;
use crate::pools::tree::ROOT;

/// Highest weight of cgroup v2's `cpu.weight`.
const WEIGHT_MAX: u64 = 10_000;

/// What every host is told, given the divisions of CPU and memory; `rooms` is what each host has, CPU in thousandths
/// of a core.
///
/// Every pool above a pool with workloads on a host is named too: protection that an ancestor does not have is void.
#[must_use]
pub fn host_pools(
    tree: &Tree,
    (cpu, memory): (&Division, &Division),
    hosts: &[HostId],
    rooms: &[u64],
) -> BTreeMap<HostId, BTreeMap<PoolId, HostPool>> {
    let mut told: BTreeMap<HostId, BTreeMap<PoolId, HostPool>> = BTreeMap::new();
    for (at, node) in tree.nodes.iter().enumerate() {
        let Some(pool) = &node.pool else { continue };
        let parent = node
            .parent
            .filter(|parent| *parent != ROOT)
            .and_then(|parent| tree.nodes[parent].pool.clone());
        let mut entry = |part: &HostPart, set: &dyn Fn(&mut HostPool)| {
            let Some(host) = hosts.get(part.host as usize) else {
                return;
            };
            let of_host = told.entry(host.clone()).or_default();
            let line = of_host.entry(pool.clone()).or_insert_with(|| HostPool {
                parent: parent.clone(),
                ..HostPool::default()
            });
            set(line);
        };
        for part in &cpu.nodes[at] {
            let room = rooms.get(part.host as usize).copied().unwrap_or(0);
            entry(part, &|line| {
                let weight = model::amount::scale(part.amount, WEIGHT_MAX, room.max(1));
                line.cpu_weight = u32::try_from(weight.clamp(1, WEIGHT_MAX)).unwrap_or(1);
                line.cpu_limit = part.limit.map(CpuMillis);
            });
        }
        for part in &memory.nodes[at] {
            entry(part, &|line| {
                line.memory_low = MemoryBytes(part.reserved);
                let most = part.limit.unwrap_or(u64::MAX);
                line.memory_high = Some(MemoryBytes(part.amount.min(most)));
                line.memory_limit = part.limit.map(MemoryBytes);
            });
        }
    }
    told
}
