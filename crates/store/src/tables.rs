//! The persistent maps a snapshot is made of, with their secondary indexes.
//!
//! Cloning is a clone of one pointer per map; a change copies only the path to the changed leaf. What always holds:
//! every index entry points at an object that is there and says the same.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use model::{
    HostId, ImageId, Key, Name, NetworkId, Object, PoolId, PrincipalId, TokenId, Workload,
    WorkloadId,
};

use crate::types::{NameKey, Versioned};

/// A table of one kind.
pub(crate) type Table<K> = OrdMap<K, Arc<Versioned>>;

#[derive(Clone, Default)]
pub(crate) struct Tables {
    pub(crate) pools: Table<PoolId>,
    pub(crate) hosts: Table<HostId>,
    pub(crate) workloads: Table<WorkloadId>,
    pub(crate) images: OrdMap<PoolId, Table<ImageId>>,
    pub(crate) principals: Table<PrincipalId>,
    pub(crate) access_tokens: Table<TokenId>,
    pub(crate) join_tokens: Table<TokenId>,
    pub(crate) settings: Table<Name>,
    pub(crate) dropped_images: Table<ImageId>,
    pub(crate) installation: Option<Arc<Versioned>>,
    pub(crate) divisions: Table<HostId>,
    pub(crate) networks: Table<NetworkId>,
    pub(crate) networks_by_pool: OrdMap<PoolId, OrdSet<NetworkId>>,
    pub(crate) workloads_by_network: OrdMap<NetworkId, OrdSet<WorkloadId>>,
    /// Who has an address on a network.
    pub(crate) addresses: OrdMap<(NetworkId, Ipv4Addr), WorkloadId>,
    pub(crate) workloads_by_pool: OrdMap<PoolId, OrdSet<WorkloadId>>,
    pub(crate) workloads_by_host: OrdMap<HostId, OrdSet<WorkloadId>>,
    /// Workloads that were taken away from a host and may still have something there.
    pub(crate) workloads_by_left: OrdMap<HostId, OrdSet<WorkloadId>>,
    /// Workloads that something keeps from running.
    pub(crate) workloads_held: OrdSet<WorkloadId>,
    pub(crate) names: OrdMap<NameKey, Key>,
}

impl Tables {
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Versioned>> {
        match key {
            Key::Pool(id) => self.pools.get(id),
            Key::Host(id) => self.hosts.get(id),
            Key::Workload(id) => self.workloads.get(id),
            Key::Image(pool, id) => self.images.get(pool)?.get(id),
            Key::Principal(id) => self.principals.get(id),
            Key::AccessToken(id) => self.access_tokens.get(id),
            Key::JoinToken(id) => self.join_tokens.get(id),
            Key::Setting(name) => self.settings.get(name),
            Key::DroppedImage(id) => self.dropped_images.get(id),
            Key::Installation => self.installation.as_ref(),
            Key::Division(host) => self.divisions.get(host),
            Key::Network(id) => self.networks.get(id),
        }
    }

    /// Every object, by kind and then id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Versioned>> {
        self.pools
            .values()
            .chain(self.hosts.values())
            .chain(self.workloads.values())
            .chain(self.images.values().flat_map(|of| of.values()))
            .chain(self.principals.values())
            .chain(self.access_tokens.values())
            .chain(self.join_tokens.values())
            .chain(self.settings.values())
            .chain(self.dropped_images.values())
            .chain(self.installation.as_ref())
            .chain(self.divisions.values())
            .chain(self.networks.values())
    }

    /// Puts an object; returns what was there.
    pub(crate) fn insert(&mut self, new: Arc<Versioned>) -> Option<Arc<Versioned>> {
        let old = match &new.object {
            Object::Pool(it) => self.pools.insert(it.id.clone(), Arc::clone(&new)),
            Object::Host(it) => self.hosts.insert(it.id.clone(), Arc::clone(&new)),
            Object::Workload(it) => self.workloads.insert(it.id.clone(), Arc::clone(&new)),
            Object::Image(it) => self
                .images
                .entry(it.pool.clone())
                .or_default()
                .insert(it.id.clone(), Arc::clone(&new)),
            Object::Principal(it) => self.principals.insert(it.id.clone(), Arc::clone(&new)),
            Object::AccessToken(it) => self.access_tokens.insert(it.id.clone(), Arc::clone(&new)),
            Object::JoinToken(it) => self.join_tokens.insert(it.id.clone(), Arc::clone(&new)),
            Object::Setting(it) => self.settings.insert(it.name.clone(), Arc::clone(&new)),
            Object::DroppedImage(it) => self.dropped_images.insert(it.id.clone(), Arc::clone(&new)),
            Object::Installation(_) => self.installation.replace(Arc::clone(&new)),
            Object::Division(it) => self.divisions.insert(it.host.clone(), Arc::clone(&new)),
            Object::Network(it) => self.networks.insert(it.id.clone(), Arc::clone(&new)),
        };
        self.reindex(old.as_deref(), Some(&new));
        old
    }

    /// Deletes an object; returns what was there.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Versioned>> {
        let old = match key {
            Key::Pool(id) => self.pools.remove(id),
            Key::Host(id) => self.hosts.remove(id),
            Key::Workload(id) => self.workloads.remove(id),
            Key::Image(pool, id) => {
                let of_pool = self.images.get_mut(pool)?;
                let old = of_pool.remove(id);
                if of_pool.is_empty() {
                    self.images.remove(pool);
                }
                old
            }
            Key::Principal(id) => self.principals.remove(id),
            Key::AccessToken(id) => self.access_tokens.remove(id),
            Key::JoinToken(id) => self.join_tokens.remove(id),
            Key::Setting(name) => self.settings.remove(name),
            Key::DroppedImage(id) => self.dropped_images.remove(id),
            Key::Installation => self.installation.take(),
            Key::Division(host) => self.divisions.remove(host),
            Key::Network(id) => self.networks.remove(id),
        }?;
        self.reindex(Some(&old), None);
        Some(old)
    }

    /// Brings the indexes from `old` to `new`; both are versions of the same key.
    fn reindex(&mut self, old: Option<&Versioned>, new: Option<&Versioned>) {
        let old_name = old.and_then(|it| NameKey::of(&it.object));
        let new_name = new.and_then(|it| NameKey::of(&it.object));
        if old_name != new_name {
            // When names are swapped in one transaction, the old name may already be the other's.
            if let (Some(name), Some(old)) = (old_name, old)
                && self.names.get(&name) == Some(&old.object.key())
            {
                self.names.remove(&name);
            }
            if let (Some(name), Some(new)) = (new_name, new) {
                self.names.insert(name, new.object.key());
            }
        }
        self.reindex_network(old, new);
        let old = old.and_then(workload);
        let new = new.and_then(workload);
        let Some(id) = old.or(new).map(|it| &it.id) else {
            return;
        };
        let pools = (old.map(|it| &it.pool), new.map(|it| &it.pool));
        regroup(&mut self.workloads_by_pool, pools, id);
        let hosts = (
            old.and_then(|it| it.host.as_ref()),
            new.and_then(|it| it.host.as_ref()),
        );
        regroup(&mut self.workloads_by_host, hosts, id);
        match new {
            Some(it) if it.hold.is_some() => {
                self.workloads_held.insert(id.clone());
            }
            Some(_) | None => {
                self.workloads_held.remove(id);
            }
        }
        let mut left: Vec<&HostId> = [old, new]
            .into_iter()
            .flatten()
            .flat_map(|it| it.left.keys())
            .collect();
        left.sort();
        left.dedup();
        for host in left {
            let of = |it: Option<&Workload>| it.is_some_and(|it| it.left.contains_key(host));
            let groups = (of(old).then_some(host), of(new).then_some(host));
            regroup(&mut self.workloads_by_left, groups, id);
        }
        self.reindex_endpoints(old, new, id);
    }

    fn reindex_network(&mut self, old: Option<&Versioned>, new: Option<&Versioned>) {
        let network = |it: &Versioned| match &it.object {
            Object::Network(it) => Some((it.id.clone(), it.pool.clone())),
            _ => None,
        };
        let (old, new) = (old.and_then(network), new.and_then(network));
        let Some(id) = old.as_ref().or(new.as_ref()).map(|(id, _)| id.clone()) else {
            return;
        };
        let pools = (
            old.as_ref().map(|(_, pool)| pool),
            new.as_ref().map(|(_, pool)| pool),
        );
        regroup(&mut self.networks_by_pool, pools, &id);
    }

    fn reindex_endpoints(
        &mut self,
        old: Option<&Workload>,
        new: Option<&Workload>,
        id: &WorkloadId,
    ) {
        let endpoints = |it: Option<&Workload>| it.map_or(&[][..], |it| &it.endpoints[..]).to_vec();
        let (old, new) = (endpoints(old), endpoints(new));
        if old == new {
            return;
        }
        let networks: BTreeSet<&NetworkId> = old.iter().chain(&new).map(|it| &it.network).collect();
        for network in networks {
            let on = |of: &[model::Endpoint]| of.iter().any(|it| it.network == *network);
            let groups = (on(&old).then_some(network), on(&new).then_some(network));
            regroup(&mut self.workloads_by_network, groups, id);
        }
        for (network, address) in old.iter().filter_map(holding) {
            // Two workloads may swap addresses in one transaction: the other may have it by now.
            let key = (network.clone(), address);
            if self.addresses.get(&key) == Some(id) {
                self.addresses.remove(&key);
            }
        }
        for (network, address) in new.iter().filter_map(holding) {
            self.addresses
                .insert((network.clone(), address), id.clone());
        }
    }
}

fn holding(endpoint: &model::Endpoint) -> Option<(&NetworkId, Ipv4Addr)> {
    Some((&endpoint.network, endpoint.address?))
}

fn workload(versioned: &Versioned) -> Option<&Workload> {
    match &versioned.object {
        Object::Workload(it) => Some(it),
        _ => None,
    }
}

/// Moves `member` from one group to another.
fn regroup<G: Ord + Clone, M: Ord + Clone>(
    groups: &mut OrdMap<G, OrdSet<M>>,
    (old, new): (Option<&G>, Option<&G>),
    member: &M,
) {
    if old == new {
        return;
    }
    if let Some(group) = old
        && let Some(members) = groups.get_mut(group)
    {
        members.remove(member);
        if members.is_empty() {
            groups.remove(group);
        }
    }
    if let Some(group) = new {
        groups
            .entry(group.clone())
            .or_default()
            .insert(member.clone());
    }
}
