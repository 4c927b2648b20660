//! Fragmentation of GPUs: how much of what is free cannot be used by what is asked for here.
//!
//! For each class of requests seen, what is free on a host is unusable if the host cannot take one of that class at
//! all, and otherwise what is free on devices with less than the class needs of each. Weighed by how much GPU the class
//! asks for in all, that is the host's fragmentation; a workload goes where it grows least (fragmentation gradient
//! descent; Weng et al., "Beware of Fragmentation", USENIX ATC 2023, who weigh by how often it is asked for: that
//! gives out 0.2 to 0.7 % less of the GPUs of their trace). What is asked for is learned from the workloads that exist,
//! not from figures given in advance.

use std::collections::BTreeMap;

use model::placement::GpuRequest;
use model::{Capacity, WorkloadSpec};

use super::gpus::{self, GpuAsk};
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
        let typical = counts.iter().map(|(class, count)| {
            let models = &class.gpus.models;
            Typical {
                weight: i64::from(*count) * i64::try_from(class.gpus.total_millis()).unwrap_or(1),
                charge: Capacity {
                    cpu: model::CpuMillis(class.cpu_millis),
                    memory: model::MemoryBytes(class.memory_bytes),
                },
                count: class.gpus.count,
                millis: class.gpus.millis,
                models: (!models.is_empty())
                    .then(|| models.iter().flat_map(|it| texts.matching(it)).collect()),
            }
        });
        let typical: Vec<Typical> = typical.collect();
        (!typical.is_empty()).then(|| Demand {
            sum: typical.iter().map(|it| it.weight).sum(),
            typical,
        })
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    typical: Vec<Typical>,
    /// Of all weights.
    sum: i64,
}

#[derive(Debug, Clone)]
struct Typical {
    weight: i64,
    charge: Capacity,
    count: u32,
    millis: u32,
    models: Option<Vec<u32>>,
}

impl Demand {
    /// So many thousandths that are unusable for everything.
    pub(super) fn scale(&self, millis: u64) -> i64 {
        self.sum
            .saturating_mul(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// Fragmentation of a host with so much free; `gpus`: model and free thousandths of each device.
    fn unusable(&self, free: Capacity, gpus: &[(u32, u32)]) -> i64 {
        let all: u32 = gpus.iter().map(|gpu| gpu.1).sum();
        let mut sum = 0;
        for typical in &self.typical {
            let mut usable = 0;
            let mut devices = 0;
            if free.fits(typical.charge) {
                for (model, free) in gpus {
                    let model = typical.models.as_ref().is_none_or(|it| it.contains(model));
                    if model && *free >= typical.millis {
                        usable += *free;
                        devices += 1;
                    }
                }
            }
            if devices < typical.count {
                usable = 0;
            }
            sum += typical.weight * i64::from(all - usable);
        }
        sum
    }
}

/// By how much the fragmentation of a host grows, weighed, when the workload is placed on it as well as can be.
pub(super) fn of_placing(query: &Query<'_>, host: &HostState) -> i64 {
    let Some(demand) = query.demand else {
        return 0;
    };
    if host.gpus.is_empty() {
        return 0;
    }
    let mut gpus: Vec<(u32, u32)> = host.gpus.iter().map(|it| (it.model, it.free)).collect();
    let before = demand.unusable(host.free(), &gpus);
    let free = host.free().minus(query.charge);
    let after = match &query.gpus {
        None => demand.unusable(free, &gpus),
        Some(ask) => best(demand, ask, host, free, &mut gpus).map_or(before, |(after, _)| after),
    };
    after - before
}

/// The devices a workload gets on a host: those that leave the least unusable, if that is what is looked at.
pub(super) fn devices(query: &Query<'_>, host: &HostState) -> Vec<usize> {
    let Some(ask) = &query.gpus else {
        return Vec::new();
    };
    let free = host.free().minus(query.charge);
    let mut gpus: Vec<(u32, u32)> = host.gpus.iter().map(|it| (it.model, it.free)).collect();
    match query.demand {
        Some(demand) => best(demand, ask, host, free, &mut gpus).map(|(_, devices)| devices),
        None => gpus::choices(ask, host).into_iter().next(),
    }
    .unwrap_or_default()
}

fn best(
    demand: &Demand,
    ask: &GpuAsk<'_>,
    host: &HostState,
    free: Capacity,
    gpus: &mut [(u32, u32)],
) -> Option<(i64, Vec<usize>)> {
    let mut best: Option<(i64, Vec<usize>)> = None;
    for devices in gpus::choices(ask, host) {
        for device in &devices {
            gpus[*device].1 -= ask.request.millis;
        }
        let after = demand.unusable(free, gpus);
        for device in &devices {
            gpus[*device].1 += ask.request.millis;
        }
        if best.as_ref().is_none_or(|(least, _)| after < *least) {
            best = Some((after, devices));
        }
    }
    best
}
