//! Fragmentation of GPUs: how much of what is free cannot be used by what is asked for here.
//!
//! For each class of requests seen, what is usable of a host is what is free on devices that have what the class needs
//! of each, but no more than the host's free CPU and memory let be used at the class's own proportion of them to GPU;
//! nothing, if not even one of the class fits. The rest of what is free is unusable for it. The mean over the classes,
//! weighed by how often each is asked for, is the host's fragmentation; a workload goes where it grows least.
//!
//! That is fragmentation gradient descent (Weng et al., "Beware of Fragmentation", USENIX ATC 2023) but for the
//! proportion: there a host is as good as any while one more of the class fits. So GPUs behind too little CPU are seen
//! to be lost only when it is too late, which costs 1 to 10 % of the GPUs on pod lists made from their trace.
//! What is asked for is learned from the workloads that exist, not from figures given in advance.

use std::collections::BTreeMap;

use model::placement::GpuRequest;
use model::{Capacity, WorkloadSpec};

use super::gpus;
use super::host::HostState;
use super::intern::Interner;
use super::query::Query;

/// Requests that count as the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    cpu_millis: u64,
    memory_bytes: u64,
    gpus: GpuRequest,
}

impl Class {
    /// The class of a workload; `None`: it asks for no GPU.
    pub(super) fn of(spec: &WorkloadSpec) -> Option<Self> {
        let charge = spec.task.resources.charge();
        let mut gpus = spec.task.gpus.clone()?;
        gpus.devices.clear();
        gpus.capabilities.clear();
        Some(Self {
            cpu_millis: charge.cpu.0,
            memory_bytes: charge.memory.0,
            gpus,
        })
    }
}

/// How often each class is asked for by the workloads that exist.
#[derive(Debug, Clone, Default)]
pub(super) struct Mix {
    counts: BTreeMap<Class, u32>,
}

/// Classes that are looked at, the most frequent ones: the rest is rare.
const CLASSES_MAX: usize = 128;

impl Mix {
    pub(super) fn add(&mut self, class: Class) {
        *self.counts.entry(class).or_default() += 1;
    }

    pub(super) fn remove(&mut self, class: &Class) {
        if let Some(count) = self.counts.get_mut(class) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(class);
            }
        }
    }

    /// What is asked for, compiled; `None`: nothing.
    pub(super) fn demand(&self, texts: &Interner) -> Option<Demand> {
        let mut counts: Vec<(&Class, u32)> = self.counts.iter().map(|(c, n)| (c, *n)).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.truncate(CLASSES_MAX);
        let mut demand = Demand {
            typical: Vec::with_capacity(counts.len()),
            kinds: Vec::new(),
            sum: counts.iter().map(|it| i64::from(it.1)).sum(),
        };
        for (class, count) in counts {
            let models = &class.gpus.models;
            let kind = Kind {
                millis: class.gpus.millis,
                models: (!models.is_empty())
                    .then(|| models.iter().flat_map(|it| texts.matching(it)).collect()),
            };
            demand.add(class, count, kind);
        }
        (!demand.typical.is_empty()).then_some(demand)
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    /// The most frequent first.
    typical: Vec<Typical>,
    /// What is asked of single devices: many kinds of requests ask the same.
    kinds: Vec<Kind>,
    /// Of all weights.
    sum: i64,
}

#[derive(Debug, Clone)]
struct Typical {
    weight: i64,
    charge: Capacity,
    count: u32,
    /// Index of what it asks of each device.
    kind: usize,
    /// Thousandths of all its devices together.
    total: u64,
}

/// What is asked of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    millis: u32,
    models: Option<Vec<u32>>,
}

/// What is free on the devices of a host that do for a [`Kind`].
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    /// Thousandths together.
    millis: u32,
    devices: u32,
}

impl Kind {
    fn does(&self, model: u32, free: u32) -> bool {
        free >= self.millis && self.models.as_ref().is_none_or(|it| it.contains(&model))
    }
}

impl Typical {
    /// Thousandths that workloads like this one could use of a host with so much free, and so much on the devices that
    /// do for them.
    fn usable(&self, free: Capacity, room: Room) -> i64 {
        if room.devices < self.count || !free.fits(self.charge) {
            return 0;
        }
        let usable = u64::from(room.millis);
        let usable = self.in_proportion(usable, free.cpu.0, self.charge.cpu.0);
        let usable = self.in_proportion(usable, free.memory.0, self.charge.memory.0);
        i64::try_from(usable).unwrap_or(i64::MAX)
    }

    /// What is usable when each of this kind needs `each` of something of which so much is free.
    fn in_proportion(&self, usable: u64, free: u64, each: u64) -> u64 {
        // Free memory is below 2^43 bytes and a request below 2^20 thousandths, so that the products fit.
        let enough = free.saturating_mul(self.total);
        if usable.saturating_mul(each) <= enough {
            usable
        } else {
            enough / each
        }
    }
}

impl Demand {
    fn add(&mut self, class: &Class, count: u32, kind: Kind) {
        let known = self.kinds.iter().position(|it| *it == kind);
        let at = known.unwrap_or(self.kinds.len());
        if known.is_none() {
            self.kinds.push(kind);
        }
        self.typical.push(Typical {
            weight: i64::from(count),
            charge: Capacity {
                cpu: model::CpuMillis(class.cpu_millis),
                memory: model::MemoryBytes(class.memory_bytes),
            },
            count: class.gpus.count,
            kind: at,
            total: class.gpus.total_millis(),
        });
    }

    /// So many thousandths that are unusable for everything.
    pub(super) fn scale(&self, millis: u64) -> i64 {
        self.sum
            .saturating_mul(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// What is free on devices, for each kind; `gpus`: model and free thousandths of each.
    fn rooms(&self, gpus: impl Iterator<Item = (u32, u32)> + Clone) -> Vec<Room> {
        let of = |kind: &Kind| {
            let does = gpus
                .clone()
                .filter(|(model, free)| kind.does(*model, *free));
            does.fold(Room::default(), |room, (_, free)| Room {
                millis: room.millis + free,
                devices: room.devices + 1,
            })
        };
        self.kinds.iter().map(of).collect()
    }

    /// The same after a device has given away a part of what it had free.
    fn take(&self, rooms: &mut [Room], model: u32, free: u32, millis: u32) {
        for (kind, room) in self.kinds.iter().zip(rooms) {
            if kind.does(model, free) {
                room.millis -= free;
                room.devices -= 1;
                let left = free - millis;
                if kind.does(model, left) {
                    room.millis += left;
                    room.devices += 1;
                }
            }
        }
    }

    /// What is not usable any more, weighed; `None`: more than `at_most`.
    fn lost(
        &self,
        before: (Capacity, &[Room]),
        after: (Capacity, &[Room]),
        at_most: i64,
    ) -> Option<i64> {
        let mut lost = 0;
        for typical in &self.typical {
            let usable = typical.usable(before.0, before.1[typical.kind]);
            // Nothing becomes usable by placing something: the sum only grows.
            if usable > 0 {
                lost += typical.weight * (usable - typical.usable(after.0, after.1[typical.kind]));
                if lost > at_most {
                    return None;
                }
            }
        }
        Some(lost)
    }
}

/// By how much the fragmentation of a host grows, weighed, when the workload is placed on it as well as can be; `None`:
/// by more than `at_most`.
pub(super) fn of_placing(query: &Query<'_>, host: &HostState, at_most: i64) -> Option<i64> {
    let Some(demand) = query.demand.filter(|_| !host.gpus.is_empty()) else {
        return (at_most >= 0).then_some(0);
    };
    // What it takes itself is not free any more, and so not unusable.
    let taken = query
        .gpus
        .as_ref()
        .map_or(0, |ask| demand.scale(ask.request.total_millis()));
    let lost = best(demand, query, host, at_most.saturating_add(taken));
    lost.map(|(lost, _)| lost - taken)
}

/// The devices a workload gets on a host: those that leave the least unusable, if that is what is looked at.
pub(super) fn devices(query: &Query<'_>, host: &HostState) -> Vec<usize> {
    let Some(ask) = &query.gpus else {
        return Vec::new();
    };
    match query.demand {
        Some(demand) => best(demand, query, host, i64::MAX).map(|(_, devices)| devices),
        None => gpus::choices(ask, host).into_iter().next(),
    }
    .unwrap_or_default()
}

/// The devices with which the least is lost, and how much that is; `None`: more than `at_most` with each.
fn best(
    demand: &Demand,
    query: &Query<'_>,
    host: &HostState,
    mut at_most: i64,
) -> Option<(i64, Vec<usize>)> {
    let gpus = &host.gpus;
    let rooms = demand.rooms(gpus.iter().map(|it| (it.model, it.free)));
    let before = (host.free(), rooms.as_slice());
    let free = host.free().minus(query.charge);
    let Some(ask) = &query.gpus else {
        let lost = demand.lost(before, (free, &rooms), at_most)?;
        return Some((lost, Vec::new()));
    };
    let mut best = None;
    for devices in gpus::choices(ask, host) {
        let mut left = rooms.clone();
        for device in &devices {
            let gpu = &gpus[*device];
            demand.take(&mut left, gpu.model, gpu.free, ask.request.millis);
        }
        if let Some(lost) = demand.lost(before, (free, &left), at_most) {
            // Of equal ones the first.
            at_most = lost - 1;
            best = Some((lost, devices));
        }
    }
    best
}
