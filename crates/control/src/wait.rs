//! Waking those who wait for a workload to change.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use model::{Workload, WorkloadId};
use store::Versioned;
use tokio::sync::watch;

/// Removed workloads whose last state is remembered for late waiters.
const GONE_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Waiters {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    subjects: HashMap<WorkloadId, watch::Sender<u64>>,
    gone: HashMap<WorkloadId, Arc<Versioned>>,
    gone_order: VecDeque<WorkloadId>,
}

impl Waiters {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receiver that changes whenever the workload does.
    pub(crate) fn subscribe(&self, id: &WorkloadId) -> watch::Receiver<u64> {
        let mut inner = self.lock();
        if inner.subjects.len() > 64 {
            inner
                .subjects
                .retain(|_, sender| sender.receiver_count() > 0);
        }
        inner
            .subjects
            .entry(id.clone())
            .or_insert_with(|| watch::channel(0).0)
            .subscribe()
    }

    /// Wakes those who wait for the workload.
    pub(crate) fn wake(&self, id: &WorkloadId) {
        if let Some(sender) = self.lock().subjects.get(id) {
            sender.send_modify(|n| *n += 1);
        }
    }

    /// Wakes everybody: a host came or went.
    pub(crate) fn wake_all(&self) {
        for sender in self.lock().subjects.values() {
            sender.send_modify(|n| *n += 1);
        }
    }

    /// Remembers the last state of a removed workload for those who still wait for it.
    pub(crate) fn remember(&self, id: &WorkloadId, last: Arc<Versioned>) {
        let mut inner = self.lock();
        if inner.gone.insert(id.clone(), last).is_none() {
            inner.gone_order.push_back(id.clone());
        }
        while inner.gone_order.len() > GONE_MAX {
            if let Some(oldest) = inner.gone_order.pop_front() {
                inner.gone.remove(&oldest);
            }
        }
    }

    /// The last state of a removed workload.
    pub(crate) fn last_of(&self, id: &WorkloadId) -> Option<Workload> {
        let inner = self.lock();
        <Workload as store::Stored>::of(&inner.gone.get(id)?.object).cloned()
    }
}
