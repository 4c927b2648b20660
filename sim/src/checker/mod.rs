//! What must hold of a cluster, looked at after every commit and, more sharply, when everything has settled.
//!
//! [`World`] is plain data, so that a test can break it; [`invariants`], [`placing`] and [`pools`] hold one function for
//! each thing that must hold of it, [`steps`] for each thing that must hold of a commit; [`Past`] remembers what a
//! present state cannot show.

pub mod invariants;
mod past;
pub mod placing;
pub mod pools;
pub mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use control::dividing::ResourceUse;
use model::{
    Capacity, Division, Host, HostDesired, HostId, HostPool, ImageId, Installation, Object, Pool,
    PoolId, Resource, TaskStatus, Timestamp, Workload, WorkloadId, resources::host_reserve,
};
use plan::pools::{HostRoom, Ledger, Tree};
use store::{Change, Event, Snapshot};

pub use invariants::{ALL, Invariant, When};
pub use past::{Imports, Past, PastView, Place, Wait};

/// After how many milliseconds a host that was lost must have heard what became of it meanwhile.
const HEARS_MS: i64 = 30_000;

/// A cluster as data.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// The time.
    pub now: Timestamp,
    /// Revision of the store.
    pub revision: u64,
    /// Records of workloads.
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// Images that pools have.
    pub images: BTreeSet<(PoolId, ImageId)>,
    /// Pools.
    pub pools: BTreeMap<PoolId, Pool>,
    /// What holds for the whole installation.
    pub installation: Installation,
    /// What hosts were told of pools last.
    pub divisions: BTreeMap<HostId, Division>,
    /// Machines by the ids they joined with last, and hosts as they are recorded.
    pub hosts: BTreeMap<HostId, HostView>,
    /// What each server says of pools; only at the end.
    pub said: Vec<Said>,
    /// Differences that audits of the servers' ledgers have found.
    pub audits: Vec<usize>,
    /// What happened before.
    pub past: PastView,
}

/// What a server says of pools.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// What each pool does and may do: CPU and memory.
    pub uses: BTreeMap<PoolId, [ResourceUse; 2]>,
    /// Pools that are marked as over-committed.
    pub marked: BTreeSet<(PoolId, Resource)>,
}

/// A host as it is.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// Its record; `None`: it was removed.
    pub record: Option<Host>,
    /// Its tasks.
    pub tasks: BTreeMap<WorkloadId, TaskStatus>,
    /// Images complete on it.
    pub images: BTreeSet<ImageId>,
    /// Parts of pools that are in force.
    pub parts: BTreeMap<PoolId, HostPool>,
    /// Tasks of a time when its machine was another host, with their runs: nobody takes care of them.
    pub forgotten: BTreeMap<WorkloadId, u64>,
    /// The document in its ledger, and the one it should have; only known at the very end.
    pub documents: Option<(HostDesired, HostDesired)>,
}

impl HostView {
    /// Whether its record says that it is connected.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.status.connected)
    }

    /// Whether new work may be placed on it.
    #[must_use]
    pub fn takes_work(&self) -> bool {
        self.record.as_ref().is_some_and(|record| {
            record.status.connected && !record.cordoned && record.status.lost_at.is_none()
        })
    }

    /// Its living tasks that somebody takes care of.
    pub fn living(&self) -> impl Iterator<Item = (&WorkloadId, &TaskStatus)> {
        self.tasks.iter().filter(|(id, task)| {
            task.phase.is_alive() && self.forgotten.get(*id) != Some(&task.run)
        })
    }
}

impl World {
    /// Takes the records in.
    pub fn take_snapshot(&mut self, snapshot: &Snapshot) {
        self.revision = snapshot.revision.0;
        for object in snapshot.objects() {
            self.put(&object.object);
        }
    }

    /// Takes in what was committed.
    pub fn apply(&mut self, event: &Event) {
        self.revision = event.revision.0;
        for change in event.changes.iter() {
            match change {
                Change::Put(versioned) => self.put(&versioned.object),
                Change::Delete { last, .. } => self.delete(&last.object),
            }
        }
    }

    fn put(&mut self, object: &Object) {
        match object {
            Object::Workload(it) => drop(self.workloads.insert(it.id.clone(), it.clone())),
            Object::Pool(it) => drop(self.pools.insert(it.id.clone(), it.clone())),
            Object::Image(it) => drop(self.images.insert((it.pool.clone(), it.id.clone()))),
            Object::Host(it) => {
                self.hosts.entry(it.id.clone()).or_default().record = Some(it.clone());
            }
            Object::Installation(it) => self.installation = *it,
            Object::Division(it) => drop(self.divisions.insert(it.host.clone(), it.clone())),
            Object::Principal(_)
            | Object::AccessToken(_)
            | Object::JoinToken(_)
            | Object::Setting(_)
            | Object::DroppedImage(_)
            | Object::Network(_) => {}
        }
    }

    fn delete(&mut self, object: &Object) {
        match object {
            Object::Workload(it) => drop(self.workloads.remove(&it.id)),
            Object::Pool(it) => drop(self.pools.remove(&it.id)),
            Object::Image(it) => drop(self.images.remove(&(it.pool.clone(), it.id.clone()))),
            Object::Host(it) => self.hosts.entry(it.id.clone()).or_default().record = None,
            Object::Installation(_) => self.installation = Installation::default(),
            Object::Division(it) => drop(self.divisions.remove(&it.host)),
            Object::Principal(_)
            | Object::AccessToken(_)
            | Object::JoinToken(_)
            | Object::Setting(_)
            | Object::DroppedImage(_)
            | Object::Network(_) => {}
        }
    }

    /// The first thing that does not hold.
    #[must_use]
    pub fn broken(&self, when: When) -> Option<(&'static str, String)> {
        if let Some((name, why)) = self.past.wrong_steps.first() {
            return Some((name, why.clone()));
        }
        ALL.iter()
            .filter(|invariant| invariant.when <= when)
            .find_map(|invariant| {
                let why = (invariant.check)(self).err()?;
                Some((invariant.name, why))
            })
    }

    /// Takes what has to be compared with what comes next into what happened.
    pub fn remember(&mut self) {
        for (host, view) in &self.hosts {
            let record = view.record.as_ref();
            if record.is_some_and(|record| record.status.lost_at.is_some()) {
                self.past.lost.insert(host.clone(), self.now);
            }
        }
        self.past.in_force = pools::all_in_force(self, &self.tree());
    }

    /// Whether a host is lost, or was until some moments ago: others have taken its place, and it may not have heard yet.
    #[must_use]
    pub fn was_lost(&self, host: &HostId) -> bool {
        let record = self.hosts.get(host).and_then(|view| view.record.as_ref());
        let is_lost = record.is_some_and(|record| record.status.lost_at.is_some());
        let last = self.past.lost.get(host);
        is_lost || last.is_some_and(|at| at.plus_millis(HEARS_MS) > self.now)
    }

    /// A pool and all above it.
    #[must_use]
    pub fn path(&self, pool: &PoolId) -> Vec<PoolId> {
        let above = |id: &PoolId| self.pools.get(id)?.parent.clone();
        std::iter::successors(Some(pool.clone()), above).collect()
    }

    /// Whether a host counts for pools as it did before.
    fn counts_like(&self, host: &Host) -> bool {
        let counted = |host: &Host| {
            let usable = !host.cordoned && host.status.lost_at.is_none();
            usable.then(|| (host.labels.clone(), host.status.facts.capacity))
        };
        let known = self.hosts.get(&host.id);
        let known = known.and_then(|view| view.record.as_ref());
        known.and_then(counted) == counted(host)
    }

    /// The pool tree in absolute numbers.
    #[must_use]
    pub fn tree(&self) -> Tree {
        let usable = |record: &&Host| !record.cordoned && record.status.lost_at.is_none();
        let records = self.hosts.values().filter_map(|view| view.record.as_ref());
        let rooms: Vec<HostRoom<'_>> = records
            .filter(usable)
            .map(|record| {
                let total = record.status.facts.capacity;
                HostRoom {
                    labels: &record.labels,
                    room: total.minus(host_reserve(total)),
                }
            })
            .collect();
        Tree::resolve(self.pools.values(), &rooms, &self.installation)
    }

    /// What every pool is charged.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let claims = self.workloads.values();
        let claims = claims.map(|it| (it.id.clone(), model::Claim::of(it)));
        Ledger::new(self.tree(), claims)
    }

    /// What requests on a host add up to.
    #[must_use]
    pub fn requested(&self, host: &HostId) -> Capacity {
        let there = self
            .workloads
            .values()
            .filter(|it| it.host.as_ref() == Some(host) && it.takes_room());
        there.fold(Capacity::default(), |sum, it| {
            sum.plus(it.spec.task.resources.charge())
        })
    }

    /// What is left of what requests on a host may add up to.
    #[must_use]
    pub fn free(&self, host: &HostId) -> Capacity {
        let record = self.hosts.get(host).and_then(|view| view.record.as_ref());
        let room = record.map(Host::room).unwrap_or_default();
        room.minus(self.requested(host))
    }

    /// What a pool, or the nearest above that says anything, says of lost hosts.
    #[must_use]
    pub fn pool_on_host_loss(&self, pool: &PoolId) -> Option<model::HostLoss> {
        let path = self.path(pool);
        path.iter()
            .find_map(|id| self.pools.get(id)?.slice.on_host_loss)
    }

    /// Priority of a workload in its pool.
    #[must_use]
    pub fn priority(&self, workload: &Workload) -> i32 {
        let of_pool = || {
            let pool = self.pools.get(&workload.pool);
            pool.map_or(0, |pool| pool.slice.priority)
        };
        workload.spec.priority.unwrap_or_else(of_pool)
    }

    /// Whether a workload may not be started on another host.
    #[must_use]
    pub fn stays(&self, workload: &Workload) -> bool {
        plan::loss::obstacle(&workload.spec, self.pool_on_host_loss(&workload.pool)).is_some()
    }
}
