//! One committed state, immutable and cheap to keep.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use model::{
    AccessToken, Division, Host, HostId, Image, ImageId, Installation, JoinToken, Key, Kind, Name,
    Network, NetworkId, Object, Pool, PoolId, Principal, PrincipalId, TokenId, Workload,
    WorkloadId,
    object::{DroppedImage, Setting},
};

use crate::tables::{Table, Tables};
use crate::types::{NameKey, Revision, Versioned};

/// One committed state. Cloning costs one pointer; it stays as it is however long it is kept.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Which state.
    pub revision: Revision,
    pub(crate) tables: Arc<Tables>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// An object of known type in a snapshot; use it like a `&T`.
pub struct Row<'a, T> {
    value: &'a T,
    versioned: &'a Arc<Versioned>,
}

impl<T> Clone for Row<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Row<'_, T> {}
impl<T> Deref for Row<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value
    }
}
impl<T: fmt::Debug> fmt::Debug for Row<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.value, self.versioned.revision)
    }
}

impl<'a, T: Stored> Row<'a, T> {
    fn of(versioned: &'a Arc<Versioned>) -> Option<Self> {
        let value = T::of(&versioned.object)?;
        Some(Self { value, versioned })
    }

    /// Revision of its last change: what to expect when it is written back.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.versioned.revision
    }

    /// Revision it was made at.
    #[must_use]
    pub fn created(&self) -> Revision {
        self.versioned.created
    }

    /// The object for as long as the snapshot lives.
    #[must_use]
    pub fn value(&self) -> &'a T {
        self.value
    }

    /// The object with its revisions; clone the `Arc` to keep it beyond the snapshot.
    #[must_use]
    pub fn versioned(&self) -> &'a Arc<Versioned> {
        self.versioned
    }
}

/// A type that is stored.
pub trait Stored: Sized {
    /// Its kind.
    const KIND: Kind;
    /// The value in `object`, if it is of this type.
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! stored {
    ($($kind:ident: $type:ty),* $(,)?) => {$(
        impl Stored for $type {
            const KIND: Kind = Kind::$kind;
            fn of(object: &Object) -> Option<&Self> {
                if let Object::$kind(it) = object { Some(it) } else { None }
            }
        }
    )*};
}
stored! {
    Pool: Pool, Host: Host, Workload: Workload, Image: Image, Principal: Principal,
    AccessToken: AccessToken, JoinToken: JoinToken, Setting: Setting, DroppedImage: DroppedImage,
    Installation: Installation,
    Division: Division,
    Network: Network,
}

/// What became of an object between two snapshots, by id: as it is now, or gone.
fn changes<'a, K: Ord + Clone, T: Stored + 'a>(
    old: &'a Table<K>,
    new: &'a Table<K>,
) -> impl Iterator<Item = (K, Option<Row<'a, T>>)> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(id, now) | DiffItem::Update { new: (id, now), .. } => {
            (id.clone(), Row::of(now))
        }
        DiffItem::Remove(id, _) => (id.clone(), None),
    })
}

fn rows<'a, K: Ord, T: Stored + 'a>(table: &'a Table<K>) -> impl Iterator<Item = Row<'a, T>> {
    table.values().filter_map(Row::of)
}

impl Snapshot {
    /// The object of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Versioned>> {
        self.tables.get(key)
    }

    /// Every object, by kind and then id.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Versioned>> {
        self.tables.iter()
    }

    /// Hosts that are not as they were in an older snapshot, by id: as they are now, or gone. Costs what changed, not
    /// what there is.
    pub fn hosts_changed<'a>(
        &'a self,
        since: &'a Snapshot,
    ) -> impl Iterator<Item = (HostId, Option<Row<'a, Host>>)> {
        changes(&since.tables.hosts, &self.tables.hosts)
    }

    /// Workloads that are not as they were in an older snapshot, by id: as they are now, or gone. Costs what changed,
    /// not what there is.
    pub fn workloads_changed<'a>(
        &'a self,
        since: &'a Snapshot,
    ) -> impl Iterator<Item = (WorkloadId, Option<Row<'a, Workload>>)> {
        changes(&since.tables.workloads, &self.tables.workloads)
    }

    /// Who has a name that must be unique.
    #[must_use]
    pub fn holder(&self, name: &NameKey) -> Option<&Key> {
        self.tables.names.get(name)
    }

    /// A pool.
    #[must_use]
    pub fn pool(&self, id: &PoolId) -> Option<Row<'_, Pool>> {
        self.tables.pools.get(id).and_then(Row::of)
    }

    /// All pools, by id.
    pub fn pools(&self) -> impl Iterator<Item = Row<'_, Pool>> {
        rows(&self.tables.pools)
    }

    /// The pool of a name.
    #[must_use]
    pub fn pool_by_name(&self, name: &Name) -> Option<Row<'_, Pool>> {
        self.by_name(Kind::Pool, None, name)
    }

    /// A host.
    #[must_use]
    pub fn host(&self, id: &HostId) -> Option<Row<'_, Host>> {
        self.tables.hosts.get(id).and_then(Row::of)
    }

    /// All hosts, by id.
    pub fn hosts(&self) -> impl Iterator<Item = Row<'_, Host>> {
        rows(&self.tables.hosts)
    }

    /// The host of a name.
    #[must_use]
    pub fn host_by_name(&self, name: &Name) -> Option<Row<'_, Host>> {
        self.by_name(Kind::Host, None, name)
    }

    /// A workload.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId) -> Option<Row<'_, Workload>> {
        self.tables.workloads.get(id).and_then(Row::of)
    }

    /// All workloads, by id.
    pub fn workloads(&self) -> impl Iterator<Item = Row<'_, Workload>> {
        rows(&self.tables.workloads)
    }

    /// The workloads of a pool itself (not of pools below it), by id.
    pub fn workloads_of(&self, pool: &PoolId) -> impl Iterator<Item = Row<'_, Workload>> {
        let ids = self.tables.workloads_by_pool.get(pool);
        ids.into_iter()
            .flat_map(|ids| ids.iter())
            .filter_map(|id| self.workload(id))
    }

    /// The workloads placed on a host, by id.
    pub fn workloads_on(&self, host: &HostId) -> impl Iterator<Item = Row<'_, Workload>> {
        let ids = self.tables.workloads_by_host.get(host);
        ids.into_iter()
            .flat_map(|ids| ids.iter())
            .filter_map(|id| self.workload(id))
    }

    /// The workloads that were taken away from a host and may still have something there, by id.
    pub fn workloads_left_on(&self, host: &HostId) -> impl Iterator<Item = Row<'_, Workload>> {
        let ids = self.tables.workloads_by_left.get(host);
        ids.into_iter()
            .flat_map(|ids| ids.iter())
            .filter_map(|id| self.workload(id))
    }

    /// The workloads that something keeps from running, by id.
    pub fn workloads_held(&self) -> impl Iterator<Item = Row<'_, Workload>> {
        let ids = self.tables.workloads_held.iter();
        ids.filter_map(|id| self.workload(id))
    }

    /// The workload of a name in a pool.
    #[must_use]
    pub fn workload_by_name(&self, pool: &PoolId, name: &Name) -> Option<Row<'_, Workload>> {
        self.by_name(Kind::Workload, Some(pool), name)
    }

    /// An image of a pool.
    #[must_use]
    pub fn image(&self, pool: &PoolId, id: &ImageId) -> Option<Row<'_, Image>> {
        self.tables.images.get(pool)?.get(id).and_then(Row::of)
    }

    /// All images, by pool and then id.
    pub fn images(&self) -> impl Iterator<Item = Row<'_, Image>> {
        self.tables.images.values().flat_map(rows)
    }

    /// The images of a pool, by id.
    pub fn images_of(&self, pool: &PoolId) -> impl Iterator<Item = Row<'_, Image>> {
        self.tables.images.get(pool).into_iter().flat_map(rows)
    }

    /// A principal.
    #[must_use]
    pub fn principal(&self, id: &PrincipalId) -> Option<Row<'_, Principal>> {
        self.tables.principals.get(id).and_then(Row::of)
    }

    /// All principals, by id.
    pub fn principals(&self) -> impl Iterator<Item = Row<'_, Principal>> {
        rows(&self.tables.principals)
    }

    /// The principal of a name.
    #[must_use]
    pub fn principal_by_name(&self, name: &Name) -> Option<Row<'_, Principal>> {
        self.by_name(Kind::Principal, None, name)
    }

    /// An access token.
    #[must_use]
    pub fn access_token(&self, id: &TokenId) -> Option<Row<'_, AccessToken>> {
        self.tables.access_tokens.get(id).and_then(Row::of)
    }

    /// All access tokens, by id.
    pub fn access_tokens(&self) -> impl Iterator<Item = Row<'_, AccessToken>> {
        rows(&self.tables.access_tokens)
    }

    /// A join token.
    #[must_use]
    pub fn join_token(&self, id: &TokenId) -> Option<Row<'_, JoinToken>> {
        self.tables.join_tokens.get(id).and_then(Row::of)
    }

    /// All join tokens, by id.
    pub fn join_tokens(&self) -> impl Iterator<Item = Row<'_, JoinToken>> {
        rows(&self.tables.join_tokens)
    }

    /// A named value of the installation.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<Row<'_, Setting>> {
        self.tables.settings.get(name).and_then(Row::of)
    }

    /// All named values, by name.
    pub fn settings(&self) -> impl Iterator<Item = Row<'_, Setting>> {
        rows(&self.tables.settings)
    }

    /// An image no pool knows any more.
    #[must_use]
    pub fn dropped_image(&self, id: &ImageId) -> Option<Row<'_, DroppedImage>> {
        self.tables.dropped_images.get(id).and_then(Row::of)
    }

    /// All images no pool knows any more, by id.
    pub fn dropped_images(&self) -> impl Iterator<Item = Row<'_, DroppedImage>> {
        rows(&self.tables.dropped_images)
    }

    /// What holds for the whole installation, as far as it was ever changed.
    #[must_use]
    pub fn installation(&self) -> Option<Row<'_, Installation>> {
        self.tables.installation.as_ref().and_then(Row::of)
    }

    /// The pools' parts of a host.
    #[must_use]
    pub fn division(&self, host: &HostId) -> Option<Row<'_, Division>> {
        self.tables.divisions.get(host).and_then(Row::of)
    }

    /// The pools' parts of all hosts, by host.
    pub fn divisions(&self) -> impl Iterator<Item = Row<'_, Division>> {
        rows(&self.tables.divisions)
    }

    /// A network.
    #[must_use]
    pub fn network(&self, id: &NetworkId) -> Option<Row<'_, Network>> {
        self.tables.networks.get(id).and_then(Row::of)
    }

    /// All networks, by id.
    pub fn networks(&self) -> impl Iterator<Item = Row<'_, Network>> {
        rows(&self.tables.networks)
    }

    /// The networks of a pool, by id.
    pub fn networks_of(&self, pool: &PoolId) -> impl Iterator<Item = Row<'_, Network>> {
        let ids = self.tables.networks_by_pool.get(pool);
        ids.into_iter()
            .flat_map(|ids| ids.iter())
            .filter_map(|id| self.network(id))
    }

    /// The network of a name in a pool.
    #[must_use]
    pub fn network_by_name(&self, pool: &PoolId, name: &Name) -> Option<Row<'_, Network>> {
        self.by_name(Kind::Network, Some(pool), name)
    }

    /// The workloads that are on a network, placed or not, by id.
    pub fn workloads_in(&self, network: &NetworkId) -> impl Iterator<Item = Row<'_, Workload>> {
        let ids = self.tables.workloads_by_network.get(network);
        ids.into_iter()
            .flat_map(|ids| ids.iter())
            .filter_map(|id| self.workload(id))
    }

    /// The workload that has an address on a network.
    #[must_use]
    pub fn address_holder(&self, network: &NetworkId, address: Ipv4Addr) -> Option<&WorkloadId> {
        self.tables.addresses.get(&(network.clone(), address))
    }

    /// The highest address a workload has on a network.
    #[must_use]
    pub fn last_address(&self, network: &NetworkId) -> Option<Ipv4Addr> {
        let all = (network.clone(), Ipv4Addr::UNSPECIFIED)..=(network.clone(), Ipv4Addr::BROADCAST);
        let ((_, address), _) = self.tables.addresses.range(all).next_back()?;
        Some(*address)
    }

    fn by_name<T: Stored>(
        &self,
        kind: Kind,
        scope: Option<&PoolId>,
        name: &Name,
    ) -> Option<Row<'_, T>> {
        let name = NameKey {
            kind,
            scope: scope.cloned(),
            name: name.clone(),
        };
        let key = self.tables.names.get(&name)?;
        self.tables.get(key).and_then(Row::of)
    }
}
