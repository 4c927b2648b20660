//! Who reads a task's output, so that removing the task does not take it away under a reader that comes to its end.
//!
//! What always holds: a reader is counted until its [`Reading`] is dropped; waiting for readers is bounded by the caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::WorkloadId;
use tokio::sync::watch;

/// All readers of one runtime.
#[derive(Debug)]
pub(super) struct Readers {
    /// The run each reader waits for or reads; `None`: what is there.
    open: Mutex<HashMap<WorkloadId, Vec<Option<u64>>>>,
    /// Counts departures.
    changed: watch::Sender<u64>,
}

/// One reader.
#[derive(Debug)]
pub(super) struct Reading {
    readers: Arc<Readers>,
    id: WorkloadId,
    run: Option<u64>,
}

impl Readers {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    /// Counts a reader.
    pub(super) fn enter(self: &Arc<Self>, id: &WorkloadId, run: Option<u64>) -> Reading {
        self.open().entry(id.clone()).or_default().push(run);
        Reading {
            readers: Arc::clone(self),
            id: id.clone(),
            run,
        }
    }

    /// Returns when nobody reads output of runs up to `run`; those who wait for a later run do not count.
    pub(super) async fn done(&self, id: &WorkloadId, run: u64) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let busy = self
                .open()
                .get(id)
                .is_some_and(|runs| runs.iter().any(|wanted| wanted.is_none_or(|r| r <= run)));
            if !busy || changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<WorkloadId, Vec<Option<u64>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut open = self.readers.open();
        if let Some(runs) = open.get_mut(&self.id) {
            if let Some(at) = runs.iter().position(|run| *run == self.run) {
                runs.swap_remove(at);
            }
            if runs.is_empty() {
                open.remove(&self.id);
            }
        }
        drop(open);
        self.readers
            .changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn removing_waits_for_readers_of_past_runs_only() {
        let readers = Readers::new();
        let id = WorkloadId::parse(&"a".repeat(64)).unwrap();
        readers.done(&id, 1).await;
        let later = readers.enter(&id, Some(2));
        readers.done(&id, 1).await;
        let (now, any) = (readers.enter(&id, Some(1)), readers.enter(&id, None));
        let mut waiting = Box::pin(readers.done(&id, 1));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(now);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(any);
        waiting.await;
        drop(later);
        assert!(readers.open().is_empty());
    }
}
