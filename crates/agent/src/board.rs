//! The last report of every workload, for whoever in the agent waits for one to change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{TaskStatus, WorkloadId};
use tokio::sync::watch;

/// What is known of a workload.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Known {
    /// Nothing was reported of it yet.
    #[default]
    Nothing,
    /// This was reported last.
    Status(Box<TaskStatus>),
    /// It is gone.
    Gone,
}

/// Shared by the owner of the state, who writes, and streams, who wait. It holds one entry per workload on the host
/// and per waiter.
#[derive(Debug, Default)]
pub struct Board {
    entries: Mutex<HashMap<WorkloadId, watch::Sender<Known>>>,
    readers: watch::Sender<HashMap<WorkloadId, usize>>,
}

/// Somebody reads a workload's output to its end; says so until dropped.
#[derive(Debug)]
pub struct Reading {
    board: Arc<Board>,
    id: WorkloadId,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.board.readers.send_modify(|readers| {
            let left = readers.get(&self.id).map_or(0, |count| count - 1);
            if left == 0 {
                readers.remove(&self.id);
            } else {
                readers.insert(self.id.clone(), left);
            }
        });
    }
}

impl Board {
    /// Says what is known of a workload now.
    pub fn publish(&self, id: &WorkloadId, known: Known) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.entry(id.clone()).or_default().send_replace(known);
    }

    /// Follows a workload; begins with what is known now.
    pub fn follow(&self, id: &WorkloadId) -> watch::Receiver<Known> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.entry(id.clone()).or_default().subscribe()
    }

    /// Says that somebody reads the workload's output to its end.
    pub fn reading(self: &Arc<Self>, id: &WorkloadId) -> Reading {
        self.readers
            .send_modify(|readers| *readers.entry(id.clone()).or_default() += 1);
        Reading {
            board: Arc::clone(self),
            id: id.clone(),
        }
    }

    /// Waits until nobody reads the workload's output any more, at most so long.
    pub async fn read_out(&self, id: &WorkloadId, limit: Duration) {
        let mut readers = self.readers.subscribe();
        let nobody = readers.wait_for(|readers| !readers.contains_key(id));
        // A reader that does not read must not keep a workload from being removed.
        let _ = tokio::time::timeout(limit, nobody).await;
    }

    /// Drops what is reported no longer, unless someone follows it.
    pub fn forget(&self, id: &WorkloadId) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.get(id).is_some_and(|s| s.receiver_count() == 0) {
            entries.remove(id);
        }
    }
}
