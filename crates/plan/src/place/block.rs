//! Blocks of hosts with a summary, so that most hosts need not be looked at.
//!
//! A block's [`Block::bound`] is never above what any of its hosts would cost. It may be below: then the block is
//! looked at in vain, and the decision is the same.

use model::Capacity;

use super::host::{HostState, Readiness};
use super::judge::{self, Cost};
use super::query::Query;
use model::PlacementPolicy as Policy;

/// Hosts of a block: as many as there are bits in a word of [`super::cluster::Cluster::images`].
pub(super) const BLOCK: usize = 64;

/// What the first look at a host needs, side by side in memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lean {
    /// Number of the host plus one; 0: nobody is here.
    pub(super) host: u32,
    /// Workloads placed on it that are to run.
    pub(super) workloads: u32,
    pub(super) ready: bool,
    pub(super) has_gpus: bool,
    pub(super) free: Capacity,
    pub(super) charged: Capacity,
    pub(super) total: Capacity,
}

impl Lean {
    pub(super) fn of(number: u32, host: &HostState) -> Self {
        Self {
            host: number + 1,
            workloads: host.workloads,
            ready: host.readiness == Readiness::Ready,
            has_gpus: !host.gpus.is_empty(),
            free: host.free(),
            charged: host.charged,
            total: host.total,
        }
    }
}

impl Lean {
    /// The host does not cost less; what is known of it only elsewhere is left out.
    pub(super) fn bound(&self, query: &Query<'_>, zone_alike: u32, image: bool) -> Cost {
        let used = self.charged.plus(query.charge);
        let fetch = if image { 0 } else { query.fetch_cost };
        let (fragments, load) = match query.wanted.policy {
            Policy::Balance => (
                0,
                judge::load(used, self.total) + judge::crowd(self.workloads),
            ),
            Policy::Pack => {
                let fragments = if self.has_gpus {
                    query.least_fragments()
                } else {
                    0
                };
                (fragments, judge::slack(used, self.total))
            }
        };
        Cost {
            failures: 0,
            zone_alike,
            host_alike: 0,
            fragments,
            load: load + fetch,
        }
    }
}

/// The summary of a block; of its ready hosts only.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block {
    /// Number of the zone all its hosts are in.
    pub(super) zone: u32,
    any_ready: bool,
    any_gpus: bool,
    most_free: Capacity,
    least_charged: Capacity,
    most_charged: Capacity,
    smallest: Capacity,
    largest: Capacity,
    fewest_workloads: u32,
}

impl Block {
    pub(super) fn of(zone: u32, hosts: &[Lean]) -> Self {
        let mut block = Self {
            zone,
            ..Self::default()
        };
        for lean in hosts.iter().filter(|lean| lean.host > 0 && lean.ready) {
            if !block.any_ready {
                block.any_ready = true;
                block.least_charged = lean.charged;
                block.smallest = lean.total;
                block.fewest_workloads = lean.workloads;
            }
            block.any_gpus |= lean.has_gpus;
            block.most_free = most(block.most_free, lean.free);
            block.least_charged = least(block.least_charged, lean.charged);
            block.most_charged = most(block.most_charged, lean.charged);
            block.smallest = least(block.smallest, lean.total);
            block.largest = most(block.largest, lean.total);
            block.fewest_workloads = block.fewest_workloads.min(lean.workloads);
        }
        block
    }

    /// Workloads like the one wanted in the block's zone.
    pub(super) fn zone_alike(&self, query: &Query<'_>) -> u32 {
        query.alike.map_or(0, |term| term.zones.of(self.zone))
    }

    /// No host of the block costs less; `None`: none of them fits. `images` has a bit for each host with the image.
    pub(super) fn bound(&self, query: &Query<'_>, images: u64) -> Option<Cost> {
        if !self.any_ready || !self.most_free.fits(query.charge) {
            return None;
        }
        if query.gpus.is_some() && !self.any_gpus {
            return None;
        }
        let fetch = if images == 0 { query.fetch_cost } else { 0 };
        let (fragments, load) = match query.wanted.policy {
            Policy::Balance => {
                let used = self.least_charged.plus(query.charge);
                (
                    0,
                    judge::load(used, self.largest) + judge::crowd(self.fewest_workloads),
                )
            }
            Policy::Pack => {
                let used = self.most_charged.plus(query.charge);
                let fragments = if self.any_gpus {
                    query.least_fragments()
                } else {
                    0
                };
                (fragments, judge::slack(used, self.smallest))
            }
        };
        Some(Cost {
            failures: 0,
            zone_alike: self.zone_alike(query),
            host_alike: 0,
            fragments,
            load: load + fetch,
        })
    }
}

fn most(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu: a.cpu.max(b.cpu),
        memory: a.memory.max(b.memory),
    }
}

fn least(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu: a.cpu.min(b.cpu),
        memory: a.memory.min(b.memory),
    }
}
