//! The cluster as placement sees it, kept up with the store.
//!
//! A placement claims its room here at once and is committed afterwards, so that placements of this server never count
//! on the same room and do not wait for each other's commits. Another server's placement is caught by the host.
//!
//! What always holds: apart from claims that wait for their commit, the cluster is a function of the snapshot seen.

use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{DesiredState, GpuShare, HostId, Workload, WorkloadId};
use plan::place::{Cluster, Explanation, Placement};
use store::Snapshot;

use crate::workloads::Circumstances;

/// The cluster, and the snapshot it was brought up to.
#[derive(Default)]
pub(crate) struct Placing {
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    seen: Snapshot,
    cluster: Cluster,
}

impl Placing {
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Picks a host and claims the room; [`Placing::release`] must follow if it is not committed.
    pub(crate) fn claim(&self, snapshot: &Snapshot, workload: &Workload, seed: u64) -> Placement {
        let circumstances = Circumstances::of(snapshot, workload);
        let mut index = self.lock();
        index.catch_up(snapshot);
        let placement = plan::place::place(&index.cluster, circumstances.wanted(workload, seed));
        if let Some(host) = &placement.host {
            index.put_claim(workload, host, &placement.gpus);
        }
        placement
    }

    /// Claims the room of a workload that stays on its host, and GPUs there.
    ///
    /// # Errors
    /// When its GPUs cannot be had there: why, in one sentence.
    pub(crate) fn claim_again(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        host: &HostId,
    ) -> Result<Vec<GpuShare>, String> {
        let circumstances = Circumstances::of(snapshot, workload);
        let mut index = self.lock();
        index.catch_up(snapshot);
        let wanted = circumstances.wanted(workload, 0);
        let gpus = if workload.takes_room() {
            workload.gpus.clone()
        } else {
            plan::place::gpus_on(&index.cluster, wanted, host)?
        };
        index.put_claim(workload, host, &gpus);
        Ok(gpus)
    }

    /// Gives up what was claimed for a workload: only what the store says of it counts.
    pub(crate) fn release(&self, id: &WorkloadId) {
        let mut index = self.lock();
        let Index { seen, cluster } = &mut *index;
        match seen.workload(id) {
            Some(row) => cluster.workload_put(&row),
            None => cluster.workload_remove(id),
        }
    }

    /// Every host with its verdict, as it is now.
    pub(crate) fn explain(&self, snapshot: &Snapshot, workload: &Workload) -> Explanation {
        let circumstances = Circumstances::of(snapshot, workload);
        let mut index = self.lock();
        index.catch_up(snapshot);
        plan::place::explain(&index.cluster, circumstances.wanted(workload, 0))
    }
}

impl Index {
    fn put_claim(&mut self, workload: &Workload, host: &HostId, gpus: &[GpuShare]) {
        self.cluster.workload_put(&Workload {
            host: Some(host.clone()),
            gpus: gpus.to_vec(),
            desired: DesiredState::Running,
            run: workload.run + 1,
            ..workload.clone()
        });
    }

    fn catch_up(&mut self, snapshot: &Snapshot) {
        if snapshot.revision <= self.seen.revision {
            return;
        }
        let hosts: Vec<_> = snapshot.hosts_changed(&self.seen).collect();
        self.cluster.hosts_put(
            hosts
                .iter()
                .filter_map(|(_, now)| Some(now.as_ref()?.value())),
        );
        for (id, now) in snapshot.workloads_changed(&self.seen) {
            match now {
                Some(row) => self.cluster.workload_put(&row),
                None => self.cluster.workload_remove(&id),
            }
        }
        for (id, _) in hosts.iter().filter(|(_, now)| now.is_none()) {
            self.cluster.host_remove(id);
        }
        self.seen = snapshot.clone();
    }
}
