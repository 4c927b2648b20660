//! What hosts report reaches those who wait for it, whatever the store does meanwhile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use control::testing::RawHost;
use control::workloads::{RemoveOptions, WaitCondition};
use control::{Caller, Control, ControlConfig};
use model::{DesiredState, Name, Phase, PoolId, TaskStatus, Workload, WorkloadId};
use store::{
    CommitError, ConfirmError, Metrics, Revision, Snapshot, Store, Transaction, Watch, WatchError,
};
use tokio::sync::watch;
use wire::link::FromHost;

/// A store whose disk is full at will.
struct Disk {
    inner: Arc<dyn Store>,
    full: AtomicBool,
    refused: AtomicU64,
}

#[async_trait]
impl Store for Disk {
    fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        if self.full.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(CommitError::Full {
                place: "the test's disk".to_owned(),
            });
        }
        self.inner.commit(tx).await
    }

    async fn confirm(&self) -> Result<(), ConfirmError> {
        self.inner.confirm().await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        self.inner.watch(from)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.revisions()
    }

    fn metrics(&self) -> Metrics {
        self.inner.metrics()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct World {
    control: Control,
    disk: Arc<Disk>,
    pool: PoolId,
    id: WorkloadId,
    host: RawHost,
}

fn admin() -> Caller {
    Caller::local_admin()
}

fn running(pid: u32) -> TaskStatus {
    TaskStatus {
        phase: Phase::Running,
        run: 1,
        pid,
        ..TaskStatus::default()
    }
}

/// One workload that runs on a host that says what the test says.
async fn world() -> World {
    let disk = Arc::new(Disk {
        inner: store::open_memory(),
        full: AtomicBool::new(false),
        refused: AtomicU64::new(0),
    });
    let config = ControlConfig {
        address: "127.0.0.1:7440".into(),
    };
    let control = Control::open(disk.clone(), config).await.unwrap();
    let host = control.raw_host("h1").await.unwrap();
    let pool = control.test_pool("red").await.unwrap();
    let image = control.test_image(&pool, "web").await.unwrap();
    let spec = serde_json::from_value(serde_json::json!({
        "task": {"image": "web", "image_id": image, "args": ["sleep"]}
    }))
    .unwrap();
    let name = Some(Name::parse("web").unwrap());
    let made = control
        .workload_create(&admin(), &pool, name, spec)
        .await
        .unwrap();
    let w = World {
        control,
        disk,
        pool,
        id: made.id.clone(),
        host,
    };
    let (control, pool, id) = (w.control.clone(), w.pool.clone(), w.id.clone());
    let start = tokio::spawn(async move {
        control
            .workload_start(&admin(), &pool, &id, Default::default())
            .await
    });
    w.until(|workload| workload.run == 1).await;
    w.host.report([(w.id.clone(), Some(running(1)))]).await;
    start.await.unwrap().unwrap();
    w
}

impl World {
    fn workload(&self) -> Workload {
        let snapshot = self.control.snapshot();
        snapshot.workload(&self.id).unwrap().value().clone()
    }

    async fn until(&self, is: impl Fn(&Workload) -> bool) {
        let mut revisions = self.disk.revisions();
        while !is(&self.workload()) {
            revisions.changed().await.unwrap();
        }
    }

    /// Waits until the store has refused once more.
    async fn refused(&self) {
        let before = self.disk.refused.load(Ordering::SeqCst);
        while self.disk.refused.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_report_is_kept_while_the_store_refuses() {
    let w = world().await;
    w.disk.full.store(true, Ordering::SeqCst);
    let exited = TaskStatus {
        phase: Phase::Exited,
        run: 1,
        exit_code: 7,
        ..TaskStatus::default()
    };
    // A host says everything once only.
    w.host.report([(w.id.clone(), Some(exited))]).await;
    w.refused().await;
    assert_eq!(w.workload().status.phase, Phase::Running);
    w.disk.full.store(false, Ordering::SeqCst);
    w.until(|workload| workload.status.phase == Phase::Exited)
        .await;
    assert_eq!(w.workload().status.exit_code, 7);
}

#[tokio::test]
async fn what_was_kept_does_not_come_after_what_is_newer() {
    let w = world().await;
    w.disk.full.store(true, Ordering::SeqCst);
    w.host.report([(w.id.clone(), Some(running(2)))]).await;
    w.refused().await;
    w.host.report([(w.id.clone(), Some(running(3)))]).await;
    w.refused().await;
    let before = w.control.snapshot().revision;
    w.disk.full.store(false, Ordering::SeqCst);
    w.until(|workload| workload.status.pid != 1).await;
    assert_eq!(w.workload().status.pid, 3);
    assert_eq!(w.control.snapshot().revision, before.next());
}

#[tokio::test]
async fn a_wait_for_a_workload_removed_by_force_is_answered_with_137() {
    for condition in [WaitCondition::NotRunning, WaitCondition::Removed] {
        let w = world().await;
        let wait = w
            .control
            .workload_wait_begin(&admin(), &w.pool, &w.id, condition)
            .unwrap();
        let wait = tokio::spawn(wait);
        let (control, pool, id) = (w.control.clone(), w.pool.clone(), w.id.clone());
        let remove = tokio::spawn(async move {
            let options = RemoveOptions {
                force: true,
                volumes: false,
            };
            control.workload_remove(&admin(), &pool, &id, options).await
        });
        w.until(|workload| workload.desired == DesiredState::Removed)
            .await;
        // The host killed and removed it before it said anything of the end.
        w.host.report([(w.id.clone(), None)]).await;
        remove.await.unwrap().unwrap();
        let outcome = wait.await.unwrap().unwrap();
        assert_eq!(outcome.exit_code, 137, "{condition:?}");
    }
}

#[tokio::test]
async fn a_complete_report_does_not_delete_what_it_does_not_name() {
    let w = world().await;
    let reports = Vec::new();
    w.host
        .say(FromHost::Status {
            reports,
            complete: true,
        })
        .await;
    // And not what it names as gone, unless that was asked for.
    w.host.report([(w.id.clone(), None)]).await;
    w.host.report([(w.id.clone(), Some(running(2)))]).await;
    w.until(|workload| workload.status.pid == 2).await;
    assert_eq!(w.workload().status.phase, Phase::Running);
    assert_eq!(w.workload().desired, DesiredState::Running);
}

/// Found by the simulator with seeds 1099 and 1530.
#[tokio::test]
async fn a_wait_that_ends_with_a_failed_restart_says_why_it_failed() {
    for phase in [Phase::Restarting, Phase::Failed] {
        let w = world().await;
        let wait = w
            .control
            .workload_wait_begin(&admin(), &w.pool, &w.id, WaitCondition::NextExit)
            .unwrap();
        let failed = TaskStatus {
            phase,
            run: 1,
            restart_count: 1,
            exit_code: 128,
            error: "no space left on the device".to_owned(),
            finished_at: Some(model::Timestamp(9)),
            ..TaskStatus::default()
        };
        w.host.report([(w.id.clone(), Some(failed))]).await;
        let outcome = wait.await.unwrap();
        assert_eq!(outcome.exit_code, 128);
        let error = outcome.error.as_deref();
        assert_eq!(error, Some("no space left on the device"), "{phase:?}");
    }
}
