//! From what a pool may use to what it may use on each of its hosts: by local demand, inside each host's capacity.
//!
//! Only hosts on which a pool has workloads get a part. What finds no room on them stays undivided: nothing runs
//! elsewhere that could use it.

use model::Resource;

use super::fair::{self, Part};
use super::pools::Entitlement;
use crate::pools::Tree;

/// What the own workloads of one pool need on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Index of the pool's node.
    pub node: u32,
    /// Index of the host.
    pub host: u32,
    /// In thousandths of a core or bytes.
    pub demand: u64,
}

/// A pool's part of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostPart {
    /// Index of the host.
    pub host: u32,
    /// What its workloads, and those below it, need there.
    pub demand: u64,
    /// What they may use there now.
    pub amount: u64,
    /// Of this, what is guaranteed.
    pub reserved: u64,
    /// Its part of the whole reservation, needed now or not: what it finds there at once when it wakes up.
    pub guaranteed: u64,
    /// What they may never pass there; `None`: the pool has no limit.
    pub limit: Option<u64>,
}

/// Every pool's parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Division {
    /// By node; each sorted by host.
    pub nodes: Vec<Vec<HostPart>>,
}

/// Divides entitlements among hosts.
///
/// `rooms` is what each host has; `samples` may name a pool and host several times.
#[must_use]
pub fn divide(
    tree: &Tree,
    resource: Resource,
    given: &[Entitlement],
    rooms: &[u64],
    samples: &[Sample],
) -> Division {
    let mut cells = Cells::gather(tree.nodes.len(), rooms, samples);
    cells.meet_demand(given);
    cells.spread_rest(given);
    let mut nodes = cells.by_node(tree.nodes.len());
    for at in (0..tree.nodes.len()).rev() {
        let mut parts = std::mem::take(&mut nodes[at]);
        for child in &tree.nodes[at].children {
            parts.extend_from_slice(&nodes[*child]);
        }
        nodes[at] = summed(parts);
    }
    for (at, parts) in nodes.iter_mut().enumerate() {
        let line = tree.nodes[at].line(resource);
        reserve(parts, line.reservation);
        guarantee(parts, line.reservation, rooms);
        // The root's limit is what the hosts have; no group enforces it.
        if let (Some(limit), Some(_)) = (line.limit, &tree.nodes[at].pool) {
            limit_parts(parts, limit, rooms);
        }
    }
    Division { nodes }
}

/// Parts of one host put together.
fn summed(mut parts: Vec<HostPart>) -> Vec<HostPart> {
    parts.sort_by_key(|part| part.host);
    parts.dedup_by(|next, sum| {
        let same = next.host == sum.host;
        if same {
            sum.demand = sum.demand.saturating_add(next.demand);
            sum.amount += next.amount;
        }
        same
    });
    for part in &mut parts {
        (part.reserved, part.guaranteed, part.limit) = (0, 0, None);
    }
    parts
}

fn reserve(parts: &mut [HostPart], reservation: u64) {
    let amounts: Vec<u64> = parts.iter().map(|part| part.amount).collect();
    for (part, reserved) in parts
        .iter_mut()
        .zip(fair::in_proportion(reservation, &amounts))
    {
        part.reserved = reserved;
    }
}

/// The whole reservation by demand, in equal parts where nothing is demanded.
fn guarantee(parts: &mut [HostPart], reservation: u64, rooms: &[u64]) {
    let shift = shift(parts.iter().map(|part| part.demand));
    let wanted: Vec<Part> = parts
        .iter()
        .map(|part| Part {
            weight: part.demand >> shift,
            low: part.reserved,
            high: rooms[part.host as usize].max(part.reserved),
        })
        .collect();
    for (part, guaranteed) in parts.iter_mut().zip(fair::divide(reservation, &wanted)) {
        part.guaranteed = guaranteed;
    }
}

fn limit_parts(parts: &mut [HostPart], limit: u64, rooms: &[u64]) {
    let shift = shift(parts.iter().map(|part| part.demand));
    let wanted: Vec<Part> = parts
        .iter()
        .map(|part| Part {
            weight: part.demand >> shift,
            low: part.amount,
            high: rooms[part.host as usize].max(part.amount),
        })
        .collect();
    for (part, limit) in parts.iter_mut().zip(fair::divide(limit, &wanted)) {
        part.limit = Some(limit);
    }
}

/// By how many bits amounts that are weights are shortened, so that the largest keeps the bound of [`Part::weight`].
fn shift(amounts: impl Iterator<Item = u64>) -> u32 {
    const WEIGHT_BITS: u32 = 44;
    let largest = amounts.max().unwrap_or(0);
    (u64::BITS - largest.leading_zeros()).saturating_sub(WEIGHT_BITS)
}

/// One pool on one host.
struct Cell {
    node: u32,
    host: u32,
    demand: u64,
    amount: u64,
}

/// All pools on all hosts where they have workloads, by pool, then host.
struct Cells {
    cells: Vec<Cell>,
    /// Range of each pool's cells.
    ranges: Vec<(usize, usize)>,
    /// Cells of each host: `by_host[starts[h]..starts[h + 1]]`.
    by_host: Vec<u32>,
    starts: Vec<usize>,
    free: Vec<u64>,
}

impl Cells {
    fn gather(nodes: usize, rooms: &[u64], samples: &[Sample]) -> Self {
        let mut order: Vec<(u64, &Sample)> = samples
            .iter()
            .filter(|it| (it.node as usize) < nodes && (it.host as usize) < rooms.len())
            .map(|it| (u64::from(it.node) << 32 | u64::from(it.host), it))
            .collect();
        order.sort_unstable_by_key(|(key, _)| *key);
        let mut cells: Vec<Cell> = Vec::with_capacity(order.len());
        for (_, sample) in order {
            match cells.last_mut() {
                Some(last) if (last.node, last.host) == (sample.node, sample.host) => {
                    last.demand = last.demand.saturating_add(sample.demand);
                }
                _ => cells.push(Cell {
                    node: sample.node,
                    host: sample.host,
                    demand: sample.demand,
                    amount: 0,
                }),
            }
        }
        let mut ranges = vec![(0, 0); nodes];
        let mut from = 0;
        for run in cells.chunk_by(|a, b| a.node == b.node) {
            ranges[run[0].node as usize] = (from, from + run.len());
            from += run.len();
        }
        let (by_host, starts) = grouped_by_host(&cells, rooms.len());
        Self {
            cells,
            ranges,
            by_host,
            starts,
            free: rooms.to_vec(),
        }
    }

    /// Gives every pool what it needs, as far as it is entitled to it and its hosts have room. On a host where that
    /// does not fit, what is guaranteed goes first; what a pool lost there it may get on its other hosts.
    fn meet_demand(&mut self, given: &[Entitlement]) {
        /// Later rounds only move what was lost on crowded hosts.
        const ROUNDS: usize = 3;
        for round in 0..ROUNDS {
            let mut asked = vec![0; self.cells.len()];
            let mut floors = vec![0; self.cells.len()];
            let mut any = false;
            for (node, (from, to)) in self.ranges.iter().enumerate() {
                let cells = &self.cells[*from..*to];
                let has: u64 = cells.iter().map(|cell| cell.amount).sum();
                let left = given[node].own.saturating_sub(has);
                let unmet: Vec<u64> = cells
                    .iter()
                    .map(|cell| self.unmet(cell, round > 0))
                    .collect();
                let shares = fair::in_proportion(left, &unmet);
                any |= shares.iter().any(|it| *it > 0);
                let floor = given[node].own_floor.saturating_sub(has);
                floors[*from..*to].copy_from_slice(&fair::in_proportion(floor, &shares));
                asked[*from..*to].copy_from_slice(&shares);
            }
            if !any {
                return;
            }
            self.grant(&asked, &floors);
        }
    }

    fn unmet(&self, cell: &Cell, only_with_room: bool) -> u64 {
        let unmet = cell.demand - cell.amount.min(cell.demand);
        if only_with_room {
            unmet.min(self.free[cell.host as usize])
        } else {
            unmet
        }
    }

    /// Spreads what pools are entitled to beyond their demand.
    fn spread_rest(&mut self, given: &[Entitlement]) {
        let mut asked = vec![0; self.cells.len()];
        for (node, (from, to)) in self.ranges.iter().enumerate() {
            let cells = &self.cells[*from..*to];
            let has: u64 = cells.iter().map(|cell| cell.amount).sum();
            let left = given[node].own.saturating_sub(has);
            if cells.is_empty() || left == 0 {
                continue;
            }
            let room: Vec<u64> = cells
                .iter()
                .map(|cell| self.free[cell.host as usize])
                .collect();
            asked[*from..*to].copy_from_slice(&fair::in_proportion(left, &room));
        }
        let floors = vec![0; asked.len()];
        self.grant(&asked, &floors);
    }

    /// Grants what is asked for, host by host, inside what is free there.
    fn grant(&mut self, asked: &[u64], floors: &[u64]) {
        for (host, free) in self.free.iter_mut().enumerate() {
            let here = &self.by_host[self.starts[host]..self.starts[host + 1]];
            let sum: u128 = here.iter().map(|at| u128::from(asked[*at as usize])).sum();
            if sum == 0 {
                continue;
            }
            if sum <= u128::from(*free) {
                for at in here {
                    self.cells[*at as usize].amount += asked[*at as usize];
                    *free -= asked[*at as usize];
                }
                continue;
            }
            let shift = shift(here.iter().map(|at| asked[*at as usize]));
            let parts: Vec<Part> = here
                .iter()
                .map(|at| Part {
                    weight: asked[*at as usize] >> shift,
                    low: floors[*at as usize],
                    high: asked[*at as usize],
                })
                .collect();
            for (at, share) in here.iter().zip(fair::divide(*free, &parts)) {
                self.cells[*at as usize].amount += share;
                *free -= share;
            }
        }
    }

    fn by_node(&self, nodes: usize) -> Vec<Vec<HostPart>> {
        let mut parts = vec![Vec::new(); nodes];
        for (into, (from, to)) in parts.iter_mut().zip(&self.ranges) {
            into.extend(self.cells[*from..*to].iter().map(|cell| HostPart {
                host: cell.host,
                demand: cell.demand,
                amount: cell.amount,
                ..HostPart::default()
            }));
        }
        parts
    }
}

/// A counting sort of the cells by host.
fn grouped_by_host(cells: &[Cell], hosts: usize) -> (Vec<u32>, Vec<usize>) {
    let mut starts = vec![0; hosts + 1];
    for cell in cells {
        starts[cell.host as usize + 1] += 1;
    }
    for host in 0..hosts {
        starts[host + 1] += starts[host];
    }
    let mut next = starts.clone();
    let mut by_host = vec![0; cells.len()];
    for (at, cell) in cells.iter().enumerate() {
        let slot = &mut next[cell.host as usize];
        by_host[*slot] = u32::try_from(at).unwrap_or(u32::MAX);
        *slot += 1;
    }
    (by_host, starts)
}
