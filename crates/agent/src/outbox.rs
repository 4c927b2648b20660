//! What waits to be said to one server: coalesced, so that it is bounded by the number of workloads however slow the
//! server is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use model::host::WorkloadReport;
use model::{ImageId, TaskStatus, WorkloadId};
use tokio::sync::Notify;
use wire::link::FromHost;

use crate::core::Usage;

/// Reports per message: keeps a message near 100 kB, so that one slow parse does not hold up what is behind it.
const REPORTS_PER_MESSAGE: usize = 128;

/// The reports of one session to come.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whether the session was given all reports already; before that nothing is collected.
    begun: bool,
    complete: bool,
    accepted: Option<u64>,
    images: Option<BTreeSet<ImageId>>,
    pools: Option<(u64, Usage)>,
    /// What was told of pools last, to say only what is new.
    told: Option<(u64, Usage)>,
    reports: BTreeMap<WorkloadId, Option<TaskStatus>>,
    resync: bool,
}

impl Outbox {
    fn with<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut waiting)
    }

    /// A session began: all reports.
    pub(crate) fn begin(&self, reports: BTreeMap<WorkloadId, Option<TaskStatus>>) {
        self.with(|w| {
            *w = Waiting {
                begun: true,
                complete: true,
                reports,
                ..Waiting::default()
            };
        });
        self.notify.notify_one();
    }

    /// The session is over.
    pub(crate) fn close(&self) {
        self.with(|w| *w = Waiting::default());
    }

    /// One report; replaces an earlier one of the same workload.
    pub(crate) fn report(&self, id: &WorkloadId, status: Option<&TaskStatus>) {
        let wake = self.with(|w| {
            if w.begun {
                w.reports.insert(id.clone(), status.cloned());
            }
            w.begun
        });
        if wake {
            self.notify.notify_one();
        }
    }

    /// The document of this generation is durable.
    pub(crate) fn accepted(&self, generation: u64) {
        self.with(|w| w.accepted = w.accepted.max(Some(generation)));
        self.notify.notify_one();
    }

    /// The set of complete images changed.
    pub(crate) fn images(&self, images: &BTreeSet<ImageId>) {
        self.with(|w| w.images = Some(images.clone()));
        self.notify.notify_one();
    }

    /// The parts of pools in the document of this generation are in force.
    pub(crate) fn applied(&self, generation: u64) {
        let usage = self.with(|w| w.told.clone().map(|(_, usage)| usage));
        self.pools(generation, &usage.unwrap_or_default());
    }

    /// What pools do, and which parts of them are in force; only the newest waits.
    pub(crate) fn pools(&self, applied: u64, usage: &Usage) {
        let news = self.with(|w| {
            let same = w
                .told
                .as_ref()
                .is_some_and(|(a, u)| *a == applied && u == usage);
            let nothing = w.told.is_none() && usage.is_empty() && applied == 0;
            if !w.begun || same || nothing {
                return false;
            }
            w.told = Some((applied, usage.clone()));
            w.pools.clone_from(&w.told);
            true
        });
        if news {
            self.notify.notify_one();
        }
    }

    /// The session must be begun anew, because the server builds on a document that is not at hand.
    pub(crate) fn resync(&self) {
        self.with(|w| w.resync = true);
        self.notify.notify_one();
    }

    /// Waits until something is waiting.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Takes what is waiting; `Err`: begin a new session.
    pub(crate) fn take(&self) -> Result<Vec<FromHost>, Resync> {
        let (complete, accepted, images, pools, reports, resync) = self.with(|w| {
            (
                std::mem::take(&mut w.complete),
                w.accepted.take(),
                w.images.take(),
                w.pools.take(),
                std::mem::take(&mut w.reports),
                w.resync,
            )
        });
        if resync {
            return Err(Resync);
        }
        let mut messages = Vec::new();
        if let Some(generation) = accepted {
            messages.push(FromHost::Accepted { generation });
        }
        let mut reports = reports
            .into_iter()
            .map(|(id, status)| WorkloadReport { id, status })
            .peekable();
        if complete {
            messages.push(FromHost::Status {
                reports: reports.collect(),
                complete,
            });
        } else {
            while reports.peek().is_some() {
                messages.push(FromHost::Status {
                    reports: reports.by_ref().take(REPORTS_PER_MESSAGE).collect(),
                    complete: false,
                });
            }
        }
        if let Some(images) = images {
            messages.push(FromHost::Images { images });
        }
        if let Some((applied, usage)) = pools {
            messages.push(FromHost::Pools { applied, usage });
        }
        Ok(messages)
    }
}

/// A new session is needed.
#[derive(Debug)]
pub(crate) struct Resync;
