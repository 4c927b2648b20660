//! The store that forgets: for tests and for what needs no disk. Same semantics, no durability.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::feed::{Feed, kept_bytes};
use crate::metrics::Counters;
use crate::prepare::prepare;
use crate::state::State;
use crate::{
    CommitError, ConfirmError, HistoryLimits, Metrics, Revision, Snapshot, Store, Transaction,
    Watch, WatchError,
};

struct MemoryStore {
    state: Mutex<State>,
    feed: Arc<Feed>,
    counters: Counters,
}

/// An empty store in memory.
#[must_use]
pub fn open_memory() -> Arc<dyn Store> {
    open_memory_with(HistoryLimits::default())
}

/// An empty store in memory that keeps so many events.
#[must_use]
pub fn open_memory_with(history: HistoryLimits) -> Arc<dyn Store> {
    let state = State::default();
    Arc::new(MemoryStore {
        feed: Feed::new(state.snapshot(), history),
        state: Mutex::new(state),
        counters: Counters::default(),
    })
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_now(&self, tx: Transaction) -> Result<Revision, CommitError> {
        let started = Instant::now();
        let mut tx = prepare(tx)?;
        let mut state = self.state();
        // Checked under the lock, so that nothing is published after `close` returned.
        if self.feed.is_closed() {
            return Err(CommitError::Closed);
        }
        if let Some(event) = state.apply(&mut tx)? {
            let bytes = kept_bytes(&event, tx.bytes);
            self.feed.publish(state.snapshot(), vec![(event, bytes)]);
        }
        self.counters.batch(1, started.elapsed());
        Ok(state.revision)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn snapshot(&self) -> Snapshot {
        self.feed.snapshot()
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        self.commit_now(tx)
            .inspect_err(|error| self.counters.refused(error))
    }

    async fn confirm(&self) -> Result<(), ConfirmError> {
        if self.feed.is_closed() {
            return Err(ConfirmError::Closed);
        }
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        self.feed.watch(from)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.feed.revisions()
    }

    fn metrics(&self) -> Metrics {
        self.counters.read()
    }

    async fn close(&self) {
        let _state = self.state();
        self.feed.close();
    }
}
