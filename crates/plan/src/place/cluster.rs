//! What placement knows of a cluster, kept up to date object by object.

use std::collections::BTreeMap;

use model::placement::{Direction, Neighbour, Strength};
use model::workload::Protocol;
use model::{Capacity, Host, HostId, ImageId, Phase, PoolId, Workload, WorkloadId};

use super::block::{BLOCK, Block, Lean};
use super::fragments::{Class, Demand, Mix};
use super::host::HostState;
use super::intern::{Interner, Map};
use super::terms::{self, Relation, Terms};

/// What placement knows: hosts, and what is on them.
///
/// What always holds: it is the same whatever the order in which hosts and workloads were put and removed, as far as
/// decisions go.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub(super) hosts: Vec<Option<HostState>>,
    pub(super) by_id: Map<HostId, u32>,
    /// Hosts by zone and id, in blocks of one zone each; empty places at the end of a block.
    pub(super) lean: Vec<Lean>,
    pub(super) blocks: Vec<Block>,
    /// Positions of the hosts that have an image, one bit each.
    images: Map<ImageId, Vec<u64>>,
    /// Positions of the hosts that have an attribute of a value.
    by_attribute: Map<(u32, u32), Vec<u32>>,
    pub(super) texts: Interner,
    pub(super) terms: Terms,
    /// Whether any workload keeps away from others.
    pub(super) any_avoids: bool,
    placed: Map<WorkloadId, Placed>,
    mix: Mix,
    /// What is asked for of GPUs, compiled; `None`: nothing.
    demand: Option<Demand>,
}

/// What a workload takes of its host.
#[derive(Debug, Clone)]
struct Placed {
    host: u32,
    /// Number of its pool's id.
    pool: u32,
    charge: Capacity,
    /// Whether it is a load, or only the trace of one that could not be started.
    load: bool,
    terms: Box<[(u32, Relation)]>,
    ports: Box<[(Protocol, u16)]>,
    /// Devices by the number of their UUID, with thousandths.
    gpus: Box<[(u32, u32)]>,
    class: Option<Box<Class>>,
}

impl Cluster {
    /// A cluster of these hosts, with nothing placed yet.
    #[must_use]
    pub fn new<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> Self {
        let mut cluster = Self::default();
        cluster.hosts_put(hosts);
        cluster
    }

    /// Number of hosts.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.by_id.len()
    }

    /// Number of workloads that are a load of a host.
    #[must_use]
    pub fn workload_count(&self) -> usize {
        self.placed.values().filter(|it| it.load).count()
    }

    /// All hosts, in no particular order that means anything.
    pub fn host_ids(&self) -> impl Iterator<Item = &HostId> {
        self.hosts.iter().flatten().map(|host| &host.id)
    }

    /// What requests may still take of a host.
    #[must_use]
    pub fn free(&self, host: &HostId) -> Option<Capacity> {
        let number = self.by_id.get(host).copied()?;
        self.host(number).map(HostState::free)
    }

    /// The host a workload takes room on.
    #[must_use]
    pub fn host_of(&self, workload: &WorkloadId) -> Option<&HostId> {
        let placed = self.placed.get(workload).filter(|it| it.load)?;
        self.host(placed.host).map(|host| &host.id)
    }

    /// Adds hosts or takes over what their records say now.
    pub fn hosts_put<'a>(&mut self, hosts: impl IntoIterator<Item = &'a Host>) {
        let mut order_changes = false;
        for host in hosts {
            order_changes |= self.put(host);
        }
        if order_changes {
            self.order();
        }
    }

    /// Adds a host or takes over what its record says now.
    pub fn host_put(&mut self, host: &Host) {
        self.hosts_put([host]);
    }

    /// Forgets a host, and what is placed on it.
    pub fn host_remove(&mut self, id: &HostId) {
        let Some(number) = self.by_id.get(id).copied() else {
            return;
        };
        let lost: Vec<WorkloadId> = self
            .placed
            .iter()
            .filter(|(_, placed)| placed.host == number)
            .map(|(id, _)| id.clone())
            .collect();
        for workload in &lost {
            self.workload_remove(workload);
        }
        self.by_id.remove(id);
        self.hosts[number as usize] = None;
        self.order();
    }

    /// Takes over what a workload's record says now: a load, the trace of a failure, or nothing.
    pub fn workload_put(&mut self, workload: &Workload) {
        let placed = self.placed_of(workload);
        self.replace(&workload.id, placed);
    }

    /// Forgets a workload.
    pub fn workload_remove(&mut self, id: &WorkloadId) {
        self.replace(id, None);
    }

    pub(super) fn host(&self, number: u32) -> Option<&HostState> {
        self.hosts.get(number as usize)?.as_ref()
    }

    /// Host and zone of a workload of a pool.
    pub(super) fn whereabouts(&self, pool: &PoolId, id: &WorkloadId) -> Option<(u32, u32)> {
        let pool = self.texts.find(pool.as_str())?;
        let placed = self.placed.get(id)?;
        let host = self.host(placed.host)?;
        (placed.load && placed.pool == pool).then_some((placed.host, host.zone))
    }

    /// Positions of the hosts that have an image.
    pub(super) fn images_of(&self, image: &ImageId) -> Option<&[u64]> {
        self.images.get(image).map(Vec::as_slice)
    }

    /// Positions of the hosts that have an attribute of one of these values, one bit each.
    pub(super) fn having(&self, key: u32, values: &[u32]) -> Vec<u64> {
        let mut bits = vec![0; self.blocks.len()];
        let lists = values
            .iter()
            .filter_map(|it| self.by_attribute.get(&(key, *it)));
        for position in lists.flatten() {
            bits[*position as usize / BLOCK] |= 1 << (position % 64);
        }
        bits
    }

    /// What is asked for of GPUs.
    pub(super) fn demand(&self) -> Option<&Demand> {
        self.demand.as_ref()
    }

    /// Takes over a host's record; whether the order of hosts changes by it.
    fn put(&mut self, host: &Host) -> bool {
        if let Some(number) = self.by_id.get(&host.id).copied() {
            let Some(state) = self.hosts[number as usize].as_mut() else {
                return false;
            };
            let position = state.position;
            let attributes = state.attributes.clone();
            let images = (state.images != host.status.images).then(|| state.images.clone());
            state.update(host, &mut self.texts);
            if state.attributes != attributes {
                self.index_attributes();
            }
            if let Some(old) = images {
                self.images_changed(&old, &host.status.images, position);
            }
            self.refresh(number);
            return false;
        }
        let number = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        let state = HostState::new(host, &mut self.texts);
        self.hosts.push(Some(state));
        self.by_id.insert(host.id.clone(), number);
        true
    }

    fn images_changed<'a>(
        &mut self,
        old: impl IntoIterator<Item = &'a ImageId>,
        new: impl IntoIterator<Item = &'a ImageId>,
        position: u32,
    ) {
        let (word, bit) = (position as usize / 64, 1_u64 << (position % 64));
        for image in old {
            if let Some(words) = self.images.get_mut(image) {
                if let Some(word) = words.get_mut(word) {
                    *word &= !bit;
                }
                if words.iter().all(|word| *word == 0) {
                    self.images.remove(image);
                }
            }
        }
        let words = self.blocks.len();
        for image in new {
            let set = self.images.entry(image.clone()).or_default();
            set.resize(words.max(set.len()), 0);
            if let Some(word) = set.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// Puts the hosts in order: by zone's name and id, each zone in blocks of its own.
    fn order(&mut self) {
        let mut zones: BTreeMap<String, Vec<(HostId, u32)>> = BTreeMap::new();
        for (number, host) in (0_u32..).zip(&self.hosts) {
            if let Some(host) = host {
                let zone = self.texts.text(host.zone).to_owned();
                zones
                    .entry(zone)
                    .or_default()
                    .push((host.id.clone(), number));
            }
        }
        self.lean.clear();
        self.blocks.clear();
        self.images.clear();
        for hosts in zones.values_mut() {
            hosts.sort();
            for chunk in hosts.chunks(BLOCK) {
                let start = self.lean.len();
                self.lean.resize(start + BLOCK, Lean::default());
                self.blocks.push(Block::default());
                for (at, (_, number)) in chunk.iter().enumerate() {
                    if let Some(host) = self.hosts[*number as usize].as_mut() {
                        host.position = u32::try_from(start + at).unwrap_or(u32::MAX);
                        self.lean[start + at] = Lean::of(*number, host);
                    }
                }
            }
        }
        for at in 0..self.blocks.len() {
            self.summarise(at);
        }
        self.index_images();
        self.index_attributes();
    }

    fn index_attributes(&mut self) {
        self.by_attribute.clear();
        for host in self.hosts.iter().flatten() {
            for attribute in &host.attributes {
                let positions = self.by_attribute.entry(*attribute).or_default();
                positions.push(host.position);
            }
        }
    }

    fn index_images(&mut self) {
        let words = self.blocks.len();
        for host in self.hosts.iter().flatten() {
            let (word, bit) = (host.position as usize / 64, 1_u64 << (host.position % 64));
            for image in &host.images {
                let set = self.images.entry(image.clone()).or_default();
                set.resize(words, 0);
                set[word] |= bit;
            }
        }
    }

    fn summarise(&mut self, block: usize) {
        let hosts = &self.lean[block * BLOCK..(block + 1) * BLOCK];
        let zone = hosts
            .first()
            .and_then(|lean| self.hosts.get(lean.host.checked_sub(1)? as usize)?.as_ref())
            .map_or(0, |host| host.zone);
        self.blocks[block] = Block::of(zone, hosts);
    }

    /// Brings the first look at a host, and its block, up to date.
    fn refresh(&mut self, number: u32) {
        let Some(host) = self.hosts.get(number as usize).and_then(Option::as_ref) else {
            return;
        };
        let position = host.position as usize;
        if position < self.lean.len() && self.lean[position].host == number + 1 {
            self.lean[position] = Lean::of(number, host);
            self.summarise(position / BLOCK);
        }
    }

    /// What a workload takes, if it takes anything.
    fn placed_of(&mut self, workload: &Workload) -> Option<Placed> {
        let host = self.by_id.get(workload.host.as_ref()?).copied()?;
        let zone = self.host(host)?.zone;
        let load = workload.takes_room();
        if !load && workload.status.phase != Phase::Failed {
            return None;
        }
        let relations = relations(workload, load);
        let terms = relations
            .iter()
            .map(|(name, relation)| (self.terms.add(name, *relation, host, zone), *relation))
            .collect();
        let spec = &workload.spec;
        let pool = self.texts.number(workload.pool.as_str());
        if !load {
            return Some(Placed {
                host,
                pool,
                charge: Capacity::default(),
                load,
                terms,
                ports: Box::default(),
                gpus: Box::default(),
                class: None,
            });
        }
        self.any_avoids |= relations
            .iter()
            .any(|(_, relation)| matches!(relation, Relation::Avoids(_)));
        let ports = spec.ports.iter();
        let gpus = workload.gpus.iter();
        Some(Placed {
            host,
            pool,
            charge: spec.task.resources.charge(),
            load,
            terms,
            ports: ports
                .filter_map(|it| Some((it.protocol, it.host_port?)))
                .collect(),
            gpus: gpus
                .map(|share| (self.texts.number(&share.uuid), share.millis))
                .collect(),
            class: Class::of(spec).map(Box::new),
        })
    }

    fn replace(&mut self, id: &WorkloadId, new: Option<Placed>) {
        let now_on = new.as_ref().map(|new| new.host);
        let mut classes = false;
        let old = if let Some(new) = new {
            classes |= self.charge(&new);
            self.placed.insert(id.clone(), new)
        } else {
            self.placed.remove(id)
        };
        if let Some(old) = &old {
            classes |= self.release(old);
        }
        if classes {
            self.demand = self.mix.demand(&self.texts);
        }
        let was_on = old.map(|old| old.host);
        if let Some(host) = was_on {
            self.refresh(host);
        }
        if let Some(host) = now_on.filter(|host| was_on != Some(*host)) {
            self.refresh(host);
        }
    }

    fn charge(&mut self, placed: &Placed) -> bool {
        let Some(host) = self.hosts[placed.host as usize].as_mut() else {
            return false;
        };
        host.charged = host.charged.plus(placed.charge);
        host.workloads += u32::from(placed.load);
        for port in &placed.ports {
            *host.ports.entry(*port).or_default() += 1;
        }
        for (device, millis) in &placed.gpus {
            host.gpu_take(*device, *millis);
        }
        if let Some(class) = &placed.class {
            self.mix.add(Class::clone(class));
        }
        placed.class.is_some()
    }

    fn release(&mut self, placed: &Placed) -> bool {
        let Some(host) = self.hosts[placed.host as usize].as_mut() else {
            return false;
        };
        let zone = host.zone;
        host.charged = host.charged.minus(placed.charge);
        host.workloads -= u32::from(placed.load);
        for port in &placed.ports {
            if let Some(uses) = host.ports.get_mut(port) {
                *uses -= 1;
                if *uses == 0 {
                    host.ports.remove(port);
                }
            }
        }
        for (device, millis) in &placed.gpus {
            host.gpu_give_back(*device, *millis);
        }
        for (term, relation) in &placed.terms {
            self.terms.remove(*term, *relation, placed.host, zone);
        }
        if let Some(class) = &placed.class {
            self.mix.remove(class);
        }
        placed.class.is_some()
    }
}

/// What a workload has and keeps away from, by the names of the terms.
fn relations(workload: &Workload, load: bool) -> Vec<(String, Relation)> {
    let (pool, spec) = (&workload.pool, &workload.spec);
    if !load {
        let image = spec.task.image_id.as_str();
        return vec![(terms::failed(pool, image), Relation::Has)];
    }
    let labels = spec.labels.iter();
    let mut all: Vec<(String, Relation)> = labels
        .map(|(key, value)| (terms::label(pool, key, value), Relation::Has))
        .collect();
    if let Some(word) = &spec.placement.spread {
        all.push((terms::alike(pool, word), Relation::Has));
    }
    for rule in &spec.placement.affinities {
        if rule.direction != Direction::Away || rule.strength != Strength::Must {
            continue;
        }
        let name = match &rule.to {
            Neighbour::Label { key, value } => terms::label(pool, key, value),
            Neighbour::Workload { id } => terms::one(pool, id.as_str()),
            Neighbour::Image { .. } => continue,
        };
        all.push((name, Relation::Avoids(rule.within)));
    }
    all
}
