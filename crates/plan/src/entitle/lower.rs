//! What a host is told of the pools on it: the numbers its control groups need.

use std::collections::BTreeMap;

use model::{CpuMillis, HostId, HostPool, MemoryBytes, PoolId};

use super::fair::{self, Part};
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
        for (part, amount) in cpu.nodes[at].iter().zip(&weights.parts[at]) {
            let room = rooms.get(part.host as usize).copied().unwrap_or(0);
            entry(part, &|line| {
                let weight = model::amount::scale(*amount, WEIGHT_MAX, room.max(1));
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

/// What CPU weights stand for, by node and part.
///
/// A pool that sleeps keeps the weight of what is guaranteed to it, so that it has its CPU back in the moment it wakes up,
/// before anything is measured or told. Whoever may use more than what is guaranteed to it weighs as much of it as there
/// is room for beside all guarantees, by what each may use.
///
/// Where guarantees take the whole host, a hundredth more is weighed for those who borrow: else they could not be told
/// apart, and what nobody needs of its guarantee would not go by shares among them.
struct Weights {
    parts: Vec<Vec<u64>>,
}

/// Of a host that is guaranteed as a whole, borrowers weigh one in so many.
const SPARE_PART: u64 = 100;

impl Weights {
    fn new(tree: &Tree, division: &Division, rooms: &[u64]) -> Self {
        let sizes = division.nodes.iter().map(Vec::len);
        let mut parts: Vec<Vec<u64>> = sizes.map(|size| vec![0; size]).collect();
        for (parent, node) in tree.nodes.iter().enumerate() {
            let mut siblings: Vec<(u32, usize, usize)> = Vec::new();
            for child in &node.children {
                let hosts = division.nodes[*child].iter().enumerate();
                siblings.extend(hosts.map(|(at, part)| (part.host, *child, at)));
            }
            siblings.sort_unstable();
            for here in siblings.chunk_by(|a, b| a.0 == b.0) {
                let whole = whole(division, rooms, parent, here[0].0);
                let theirs: Vec<&HostPart> = here
                    .iter()
                    .map(|(_, child, at)| &division.nodes[*child][*at])
                    .collect();
                for ((_, child, at), amount) in here.iter().zip(weigh(whole, &theirs)) {
                    parts[*child][*at] = amount;
                }
            }
        }
        Self { parts }
    }
}

/// What siblings on a host weigh.
fn weigh(whole: u64, parts: &[&HostPart]) -> Vec<u64> {
    let guaranteed = parts
        .iter()
        .map(|part| part.guaranteed)
        .fold(0, u64::saturating_add);
    let budget = whole.max(guaranteed.saturating_add(whole / SPARE_PART));
    let wanted: Vec<Part> = parts
        .iter()
        .map(|part| Part {
            weight: part.amount,
            low: part.guaranteed,
            high: part.amount.max(part.guaranteed),
        })
        .collect();
    fair::divide(budget, &wanted)
}

/// What a node has on a host for its children.
fn whole(division: &Division, rooms: &[u64], at: usize, host: u32) -> u64 {
    let room = rooms.get(host as usize).copied().unwrap_or(0);
    if at == ROOT {
        return room;
    }
    let parts = &division.nodes[at];
    let found = parts.binary_search_by_key(&host, |it| it.host);
    found.map_or(room, |it| parts[it].amount.max(parts[it].guaranteed))
}
