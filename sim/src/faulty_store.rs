//! The way of one server to its view of the store: it dies with the server, and can be slow, full, or lose its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use store::{
    CommitError, ConfirmError, Metrics, Revision, Snapshot, Store, Transaction, Watch, WatchError,
};
use tokio::sync::watch;

/// One server's way to the store.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    shared: bool,
    dead: AtomicBool,
    lose_answers: AtomicU64,
    refuse: AtomicU64,
    delay_ms: AtomicU64,
}

impl FaultyStore {
    /// A way without faults; `shared`: other servers may use the store too.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, shared: bool) -> Arc<Self> {
        Arc::new(Self {
            inner,
            shared,
            dead: AtomicBool::new(false),
            lose_answers: AtomicU64::new(0),
            refuse: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
        })
    }

    /// So many commits are made, but nobody hears of it.
    pub fn lose_answers(&self, count: u64) {
        self.lose_answers.store(count, Ordering::Relaxed);
    }

    /// So many commits find the disk full.
    pub fn refuse(&self, count: u64) {
        self.refuse.store(count, Ordering::Relaxed);
    }

    /// Every commit takes so long.
    pub fn delay(&self, millis: u64) {
        self.delay_ms.store(millis, Ordering::Relaxed);
    }

    /// Takes back all faults but death.
    pub fn heal(&self) {
        self.lose_answers(0);
        self.refuse(0);
        self.delay(0);
    }

    fn take(counter: &AtomicU64) -> bool {
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        let delay = self.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if self.dead.load(Ordering::Relaxed) {
            return Err(CommitError::Closed);
        }
        if Self::take(&self.refuse) {
            return Err(CommitError::Full {
                place: "the simulated disk".to_owned(),
            });
        }
        let result = self.inner.commit(tx).await;
        if result.is_ok() && Self::take(&self.lose_answers) {
            return Err(CommitError::Backend {
                doing: "hearing of a commit",
                outcome_unknown: true,
                source: "the answer was lost".into(),
            });
        }
        result
    }

    async fn confirm(&self) -> Result<(), ConfirmError> {
        if self.dead.load(Ordering::Relaxed) {
            return Err(ConfirmError::Closed);
        }
        self.inner.confirm().await
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        if self.dead.load(Ordering::Relaxed) {
            return Err(WatchError::Closed);
        }
        self.inner.watch(from)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.revisions()
    }

    fn metrics(&self) -> Metrics {
        self.inner.metrics()
    }

    async fn close(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.inner.close().await;
    }
}
