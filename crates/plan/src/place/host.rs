//! A host as placement sees it.

use std::collections::{BTreeMap, BTreeSet};

use model::placement::{GPU_MILLIS, Gpu, HostAttribute};
use model::workload::Protocol;
use model::{Capacity, Host, HostId, ImageId};

use super::intern::Interner;

/// Whether anything can be placed on a host now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Yes.
    Ready,
    /// No link to it.
    NotReady,
    /// Taken out of use by an operator.
    Cordoned,
}

/// A GPU and what is free of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GpuState {
    pub(super) gpu: Gpu,
    /// Number of its model's name.
    pub(super) model: u32,
    /// Number of its UUID.
    pub(super) uuid: u32,
    /// Thousandths nobody has.
    pub(super) free: u32,
}

/// A host with what is placed on it.
#[derive(Debug, Clone)]
pub(super) struct HostState {
    pub(super) id: HostId,
    pub(super) name: String,
    /// Number of its zone's name.
    pub(super) zone: u32,
    pub(super) readiness: Readiness,
    /// All attributes and labels as numbers, sorted.
    pub(super) attributes: Vec<(u32, u32)>,
    /// CPU architecture; empty: not known.
    pub(super) architecture: String,
    /// All it has.
    pub(super) total: Capacity,
    /// What requests may add up to.
    pub(super) room: Capacity,
    /// What they add up to.
    pub(super) charged: Capacity,
    /// Workloads placed on it that are to run.
    pub(super) workloads: u32,
    /// Host ports in use, with how many use each.
    pub(super) ports: BTreeMap<(Protocol, u16), u32>,
    pub(super) images: BTreeSet<ImageId>,
    pub(super) gpus: Vec<GpuState>,
    /// Thousandths that workloads have of each device, also of one the host does not show at the moment.
    gpus_taken: BTreeMap<u32, u32>,
    /// Where it is in the order of hosts.
    pub(super) position: u32,
}

/// The name an attribute is interned under; labels cannot clash with the others.
pub(super) fn attribute_name(attribute: &HostAttribute) -> String {
    match attribute {
        HostAttribute::Host => "host".into(),
        HostAttribute::Zone => "zone".into(),
        HostAttribute::Architecture => "architecture".into(),
        HostAttribute::Os => "os".into(),
        HostAttribute::Kernel => "kernel".into(),
        HostAttribute::Label(key) => format!("label {key}"),
    }
}

impl HostState {
    pub(super) fn new(host: &Host, texts: &mut Interner) -> Self {
        let mut state = Self {
            id: host.id.clone(),
            name: String::new(),
            zone: texts.number(&host.zone),
            readiness: Readiness::Ready,
            attributes: Vec::new(),
            architecture: String::new(),
            total: Capacity::default(),
            room: Capacity::default(),
            charged: Capacity::default(),
            workloads: 0,
            ports: BTreeMap::new(),
            images: BTreeSet::new(),
            gpus: Vec::new(),
            gpus_taken: BTreeMap::new(),
            position: 0,
        };
        state.update(host, texts);
        state
    }

    /// Takes over what the record says; what is placed on it stays. The zone of a host is fixed.
    pub(super) fn update(&mut self, host: &Host, texts: &mut Interner) {
        let facts = &host.status.facts;
        self.name = host.name.to_string();
        self.readiness = if !host.status.connected {
            Readiness::NotReady
        } else if host.cordoned {
            Readiness::Cordoned
        } else {
            Readiness::Ready
        };
        self.architecture.clone_from(&facts.architecture);
        self.total = facts.capacity;
        self.room = host.room();
        self.attributes = attributes(host, texts);
        if self.images != host.status.images {
            self.images.clone_from(&host.status.images);
        }
        self.gpus.clear();
        for gpu in &facts.gpus {
            let uuid = texts.number(&gpu.uuid);
            let taken = self.gpus_taken.get(&uuid).copied().unwrap_or(0);
            self.gpus.push(GpuState {
                gpu: gpu.clone(),
                model: texts.number(&gpu.model),
                uuid,
                free: GPU_MILLIS.saturating_sub(taken),
            });
        }
    }

    /// A workload has got a part of a device.
    pub(super) fn gpu_take(&mut self, uuid: u32, millis: u32) {
        *self.gpus_taken.entry(uuid).or_default() += millis;
        self.gpu_refresh(uuid);
    }

    /// A workload has given up a part of a device.
    pub(super) fn gpu_give_back(&mut self, uuid: u32, millis: u32) {
        if let Some(taken) = self.gpus_taken.get_mut(&uuid) {
            *taken = taken.saturating_sub(millis);
            if *taken == 0 {
                self.gpus_taken.remove(&uuid);
            }
        }
        self.gpu_refresh(uuid);
    }

    fn gpu_refresh(&mut self, uuid: u32) {
        let taken = self.gpus_taken.get(&uuid).copied().unwrap_or(0);
        for gpu in self.gpus.iter_mut().filter(|gpu| gpu.uuid == uuid) {
            gpu.free = GPU_MILLIS.saturating_sub(taken);
        }
    }

    /// What is free.
    pub(super) fn free(&self) -> Capacity {
        self.room.minus(self.charged)
    }

    pub(super) fn has_one_of(&self, key: u32, values: &[u32]) -> bool {
        let from = self.attributes.partition_point(|it| it.0 < key);
        self.attributes[from..]
            .iter()
            .take_while(|it| it.0 == key)
            .any(|it| values.contains(&it.1))
    }
}

fn attributes(host: &Host, texts: &mut Interner) -> Vec<(u32, u32)> {
    let facts = &host.status.facts;
    let mut all = Vec::with_capacity(host.labels.len() + 6);
    let mut add = |attribute: &HostAttribute, value: &str| {
        all.push((
            texts.number(&attribute_name(attribute)),
            texts.number(value),
        ));
    };
    add(&HostAttribute::Host, host.name.as_str());
    add(&HostAttribute::Host, host.id.as_str());
    add(&HostAttribute::Zone, &host.zone);
    add(&HostAttribute::Architecture, &facts.architecture);
    add(&HostAttribute::Os, &facts.os);
    add(&HostAttribute::Kernel, &facts.kernel);
    for (key, value) in &host.labels {
        add(&HostAttribute::Label(key.clone()), value);
    }
    all.sort_unstable();
    all
}
