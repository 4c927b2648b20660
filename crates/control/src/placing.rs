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

    /// What will give up whatever is claimed for a workload, unless the claim is kept.
    pub(crate) fn begin(&self, id: &WorkloadId) -> Claiming<'_> {
        Claiming {
            placing: self,
            id: id.clone(),
            kept: false,
        }
    }

    /// Picks a host and claims the room, between [`Placing::begin`] and the commit.
    pub(crate) fn claim(&self, snapshot: &Snapshot, workload: &Workload, seed: u64) -> Placement {
        self.claim_on(snapshot, workload, None, seed)
    }

    /// The same, on one host only if one is given.
    pub(crate) fn claim_on(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        only: Option<&HostId>,
        seed: u64,
    ) -> Placement {
        let circumstances = Circumstances::of(snapshot, workload);
        let mut index = self.lock();
        index.catch_up(snapshot);
        index.release(&workload.id);
        let mut wanted = circumstances.wanted(workload, seed);
        wanted.pinned = only.or(wanted.pinned);
        let placement = plan::place::place(&index.cluster, wanted);
        if let Some(host) = &placement.host {
            index.put_claim(workload, host, &placement.gpus);
        }
        placement
    }

    /// Whether any host would take a workload as things stand; claims nothing.
    pub(crate) fn would_fit(&self, snapshot: &Snapshot, workload: &Workload) -> bool {
        let circumstances = Circumstances::of(snapshot, workload);
        let mut index = self.lock();
        index.catch_up(snapshot);
        let wanted = circumstances.wanted(workload, 0);
        plan::place::place(&index.cluster, wanted).host.is_some()
    }

    /// Claims the room of a workload on a host that others still have to clear.
    pub(crate) fn claim_cleared(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        (host, gpus): (&HostId, &[GpuShare]),
    ) {
        let mut index = self.lock();
        index.catch_up(snapshot);
        index.put_claim(workload, host, gpus);
    }

    /// The cluster as it stands, without what is claimed for one workload.
    pub(crate) fn cluster_without(&self, snapshot: &Snapshot, id: &WorkloadId) -> Cluster {
        let mut index = self.lock();
        index.catch_up(snapshot);
        index.release(id);
        index.cluster.clone()
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
        index.release(&workload.id);
        let stored = index.seen.workload(&workload.id);
        let held = stored.filter(|row| row.takes_room());
        let gpus = match held.map(|row| row.gpus.clone()) {
            Some(gpus) => gpus,
            None => {
                // Whoever started since it stopped may have got what it had.
                let wanted = circumstances.wanted(workload, 0);
                plan::place::gpus_on(&index.cluster, wanted, host)?
            }
        };
        index.put_claim(workload, host, &gpus);
        Ok(gpus)
    }

    /// The cluster as it is now, for thinking ahead.
    pub(crate) fn cluster(&self, snapshot: &Snapshot) -> Cluster {
        let mut index = self.lock();
        index.catch_up(snapshot);
        index.cluster.clone()
    }

    /// Every host with its verdict, as it is now.
    pub(crate) fn explain(&self, snapshot: &Snapshot, workload: &Workload) -> Explanation {
        let circumstances = Circumstances::of(snapshot, workload);
        let mut index = self.lock();
        index.catch_up(snapshot);
        plan::place::explain(&index.cluster, circumstances.wanted(workload, 0))
    }
}

/// A placement between the decision and its commit.
///
/// A caller may go away at any moment, for example because its client did: what it claimed is given up then.
pub(crate) struct Claiming<'a> {
    placing: &'a Placing,
    id: WorkloadId,
    kept: bool,
}

impl Claiming<'_> {
    /// It is committed.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.placing.lock().release(&self.id);
        }
    }
}

impl Index {
    /// Gives up what was claimed for a workload: only what the store says of it counts.
    fn release(&mut self, id: &WorkloadId) {
        match self.seen.workload(id) {
            Some(row) => self.cluster.workload_put(&row),
            None => self.cluster.workload_remove(id),
        }
    }

    fn put_claim(&mut self, workload: &Workload, host: &HostId, gpus: &[GpuShare]) {
        self.cluster.workload_put(&Workload {
            host: Some(host.clone()),
            gpus: gpus.to_vec(),
            desired: DesiredState::Running,
            run: workload.run + 1,
            hold: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Caller, Control};
    use model::placement::Gpu;
    use model::{Name, Object, PoolId, Workload};
    use store::Transaction;

    struct World {
        control: Control,
        pool: PoolId,
        _host: crate::testing::TestHost,
        spec: serde_json::Value,
    }

    /// One host with one GPU.
    async fn world() -> World {
        let control = Control::for_tests().await.unwrap();
        let host = control.test_host("h1").await.unwrap();
        let pool = control.test_pool("red").await.unwrap();
        let image = control.test_image(&pool, "web").await.unwrap();
        let snapshot = control.snapshot();
        let row = snapshot.hosts().next().unwrap();
        let mut record = row.value().clone();
        record.status.facts.gpus = vec![Gpu {
            uuid: "GPU-1".into(),
            model: "T4".into(),
            ..Gpu::default()
        }];
        let tx = Transaction::new().update(row.revision(), Object::Host(record));
        control.store().commit(tx).await.unwrap();
        let task = serde_json::json!({
            "image": "web", "image_id": image, "args": ["sleep"], "gpus": { "count": 1 },
        });
        World {
            control,
            pool,
            _host: host,
            spec: serde_json::json!({ "task": task }),
        }
    }

    impl World {
        async fn create(&self, name: &str) -> crate::Kept<Workload> {
            let spec = serde_json::from_value(self.spec.clone()).unwrap();
            let name = Some(Name::parse(name).unwrap());
            let caller = Caller::local_admin();
            self.control
                .workload_create(&caller, &self.pool, name, spec)
                .await
                .unwrap()
        }

        async fn start(&self, id: &WorkloadId) -> crate::Result<()> {
            let caller = Caller::local_admin();
            let started = self
                .control
                .workload_start(&caller, &self.pool, id, Default::default())
                .await;
            started.map(|_| ())
        }

        async fn stop(&self, id: &WorkloadId) {
            let (caller, options) = (Caller::local_admin(), Default::default());
            self.control
                .workload_stop(&caller, &self.pool, id, options)
                .await
                .unwrap();
        }

        fn gpus(&self, id: &WorkloadId) -> Vec<String> {
            let snapshot = self.control.snapshot();
            let row = snapshot.workload(id).unwrap();
            row.gpus.iter().map(|share| share.uuid.clone()).collect()
        }
    }

    #[tokio::test]
    async fn a_gpu_is_never_given_out_twice_over_a_restart() {
        let w = world().await;
        let (a, b) = (w.create("a").await, w.create("b").await);
        w.start(&a.id).await.unwrap();
        assert_eq!(w.gpus(&a.id), ["GPU-1"]);
        let refused = w.start(&b.id).await.unwrap_err();
        assert!(
            refused.message.contains("has 0 whole GPUs free"),
            "{refused:?}"
        );
        w.stop(&a.id).await;
        w.start(&b.id).await.unwrap();
        let refused = w.start(&a.id).await.unwrap_err();
        assert_eq!(refused.message, "h1 has 0 whole GPUs free, 1 are requested");
        w.stop(&b.id).await;
        w.start(&a.id).await.unwrap();
        assert_eq!(w.gpus(&a.id), ["GPU-1"]);
    }

    #[tokio::test]
    async fn a_claim_that_is_dropped_leaves_its_room() {
        let w = world().await;
        let (a, b) = (w.create("a").await, w.create("b").await);
        let (placing, snapshot) = (&w.control.inner.placing, w.control.snapshot());
        let claiming = placing.begin(&a.id);
        assert!(placing.claim(&snapshot, &a, 1).host.is_some());
        assert!(
            placing.claim(&snapshot, &a, 1).host.is_some(),
            "its own claim is not in its way when it tries again"
        );
        assert!(placing.claim(&snapshot, &b, 1).host.is_none());
        drop(claiming);
        assert!(placing.claim(&snapshot, &b, 1).host.is_some());
    }
}
