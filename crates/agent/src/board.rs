//! The last report of every workload, for whoever in the agent waits for one to change.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

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

    /// Drops what is reported no longer, unless someone follows it.
    pub fn forget(&self, id: &WorkloadId) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.get(id).is_some_and(|s| s.receiver_count() == 0) {
            entries.remove(id);
        }
    }
}
