//! What must hold of a cluster, looked at after every commit and, more sharply, when everything has settled.
//!
//! [`World`] is plain data, so that a test can break it; [`invariants`] holds one function for each thing that must
//! hold; [`Past`] remembers what a present state cannot show.

pub mod invariants;
mod past;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use model::{HostDesired, HostId, ImageId, Pool, PoolId, TaskStatus, Workload, WorkloadId};
use store::Snapshot;

pub use invariants::{ALL, Invariant, When};
pub use past::{Imports, Past, PastView, Wait};

/// A cluster as data.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Revision of the store.
    pub revision: u64,
    /// Records of workloads.
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// Images that pools have.
    pub images: BTreeSet<ImageId>,
    /// Pools.
    pub pools: BTreeMap<PoolId, Pool>,
    /// Hosts, as they are and as they are recorded.
    pub hosts: BTreeMap<HostId, HostView>,
    /// What happened before.
    pub past: PastView,
}

/// A host as it is.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// Its tasks.
    pub tasks: BTreeMap<WorkloadId, TaskStatus>,
    /// Images complete on it.
    pub images: BTreeSet<ImageId>,
    /// Images complete on it by its record.
    pub recorded_images: BTreeSet<ImageId>,
    /// Whether its record says that it is connected.
    pub connected: bool,
    /// The document in its ledger, and the one it should have; only known at the very end.
    pub documents: Option<(HostDesired, HostDesired)>,
}

impl World {
    /// Takes the records in.
    pub fn take_snapshot(&mut self, snapshot: &Snapshot) {
        self.revision = snapshot.revision.0;
        self.workloads = snapshot
            .workloads()
            .map(|w| (w.id.clone(), w.value().clone()))
            .collect();
        self.images = snapshot.images().map(|it| it.id.clone()).collect();
        self.pools = snapshot
            .pools()
            .map(|p| (p.id.clone(), p.value().clone()))
            .collect();
        for host in snapshot.hosts() {
            let view = self.hosts.entry(host.id.clone()).or_default();
            view.connected = host.status.connected;
            view.recorded_images.clone_from(&host.status.images);
        }
    }

    /// The first thing that does not hold.
    #[must_use]
    pub fn broken(&self, when: When) -> Option<(&'static str, String)> {
        ALL.iter()
            .filter(|invariant| invariant.when <= when)
            .find_map(|invariant| {
                let why = (invariant.check)(self).err()?;
                Some((invariant.name, why))
            })
    }
}
