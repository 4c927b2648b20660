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
    let weights = Weights::new(tree, cpu, rooms);
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
            let amount = weights.amount(at, part);
            entry(part, &|line| {
                let weight = model::amount::scale(amount, WEIGHT_MAX, room.max(1));
                line.cpu_weight = u32::try_from(weight.clamp(1, WEIGHT_MAX)).unwrap_or(1);
                line.cpu_limit = part.limit.map(CpuMillis);
            });
        }
        for part in &memory.nodes[at] {
            entry(part, &|line| {
                line.memory_low = MemoryBytes(part.guaranteed);
                let most = part.limit.unwrap_or(u64::MAX);
                line.memory_high = Some(MemoryBytes(part.amount.min(most)));
                line.memory_limit = part.limit.map(MemoryBytes);
            });
        }
    }
    told
}

/// What CPU weights stand for.
///
/// A pool that sleeps keeps the weight of what is guaranteed to it, and those who borrow that meanwhile count only as far
/// as there is more than all guarantees: so the owner has its CPU back in the moment it wakes up, before anything is
/// measured or told.
struct Weights<'a> {
    tree: &'a Tree,
    division: &'a Division,
    rooms: &'a [u64],
    /// By node and host, of all of its children together: what is guaranteed, and what they may use beyond that.
    children: Vec<BTreeMap<u32, (u64, u64)>>,
}

impl<'a> Weights<'a> {
    fn new(tree: &'a Tree, division: &'a Division, rooms: &'a [u64]) -> Self {
        let mut children = vec![BTreeMap::new(); tree.nodes.len()];
        for (at, node) in tree.nodes.iter().enumerate() {
            let Some(parent) = node.parent else { continue };
            for part in &division.nodes[at] {
                let sums: &mut (u64, u64) = children[parent].entry(part.host).or_default();
                sums.0 = sums.0.saturating_add(part.guaranteed);
                sums.1 = sums.1.saturating_add(beyond(part));
            }
        }
        Self {
            tree,
            division,
            rooms,
            children,
        }
    }

    /// What the weight of a node on a host stands for, in thousandths of a core.
    fn amount(&self, at: usize, part: &HostPart) -> u64 {
        let Some(parent) = self.tree.nodes[at].parent else {
            return part.amount;
        };
        let sums = self.children[parent].get(&part.host).copied();
        let (guaranteed, all_beyond) = sums.unwrap_or_default();
        let free = self.whole(parent, part.host).saturating_sub(guaranteed);
        let beyond = beyond(part);
        let lent = if all_beyond <= free {
            beyond
        } else {
            model::amount::scale(beyond, free, all_beyond)
        };
        part.guaranteed.saturating_add(lent)
    }

    /// What a node has on a host for its children.
    fn whole(&self, at: usize, host: u32) -> u64 {
        let room = self.rooms.get(host as usize).copied().unwrap_or(0);
        if at == ROOT {
            return room;
        }
        let parts = &self.division.nodes[at];
        let found = parts.binary_search_by_key(&host, |it| it.host);
        found.map_or(room, |it| parts[it].amount.max(parts[it].guaranteed))
    }
}

/// What a pool may use on a host beyond what is guaranteed to it.
fn beyond(part: &HostPart) -> u64 {
    part.amount.saturating_sub(part.guaranteed)
}
