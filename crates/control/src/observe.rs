//! Takes in what hosts report.
//!
//! A host can report only on what is placed on it. Reports are batched per host: while one commit is under way the
//! next reports gather, of each workload only the newest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::host::WorkloadReport;
use model::{DesiredState, HostId, Key, Object, Phase, TaskStatus, Workload, WorkloadId};
use store::{Snapshot, Transaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::caller::Action;
use crate::core::Control;
use crate::error::Result;
use crate::metrics::Counters;
use crate::streams::Attaching;

/// Reports of one host that wait to be committed.
pub(crate) struct Reports {
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    reports: Mutex<Batch>,
    more: Notify,
}

#[derive(Default)]
struct Batch {
    reports: BTreeMap<WorkloadId, Option<TaskStatus>>,
    complete: bool,
}

/// Workloads changed in one transaction: below the store's limit of 64 changes.
const BATCH_MAX: usize = 60;

impl Reports {
    /// Starts the task that commits a host's reports until the session ends.
    pub(crate) fn start(control: Control, host: HostId, ended: CancellationToken) -> Self {
        let waiting = Arc::new(Waiting::default());
        let task = Arc::clone(&waiting);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = task.more.notified() => {}
                    () = ended.cancelled() => return,
                }
                let batch = std::mem::take(
                    &mut *task.reports.lock().unwrap_or_else(PoisonError::into_inner),
                );
                if let Err(error) = control.take_reports(&host, batch).await {
                    tracing::error!(%host, ?error, "could not record what the host reported");
                }
            }
        });
        Self { waiting }
    }

    /// Adds reports; newer ones replace older ones of the same workload.
    pub(crate) fn add(&self, reports: Vec<WorkloadReport>, complete: bool) {
        let mut batch = self
            .waiting
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        batch.complete |= complete;
        for report in reports {
            batch.reports.insert(report.id, report.status);
        }
        drop(batch);
        self.waiting.more.notify_one();
    }
}

impl Control {
    async fn take_reports(&self, host: &HostId, mut batch: Batch) -> Result<()> {
        Counters::add(&self.inner.counters.reports, batch.reports.len() as u64);
        if batch.complete {
            for workload in self.snapshot().workloads_on(host) {
                batch.reports.entry(workload.id.clone()).or_insert(None);
            }
        }
        let reports: Vec<(WorkloadId, Option<TaskStatus>)> = batch.reports.into_iter().collect();
        let grant = self.own_grant(Action::WorkloadControl)?;
        for part in reports.chunks(BATCH_MAX) {
            self.change(&grant, |snapshot| {
                Ok((transaction(snapshot, host, part, &self.inner.attaching), ()))
            })
            .await?;
        }
        Ok(())
    }
}

fn transaction(
    snapshot: &Snapshot,
    host: &HostId,
    reports: &[(WorkloadId, Option<TaskStatus>)],
    attaching: &Attaching,
) -> Option<Transaction> {
    let mut tx = Transaction::new();
    for (id, status) in reports {
        let Some(row) = snapshot.workload(id) else {
            continue;
        };
        if row.host.as_ref() != Some(host) {
            continue;
        }
        match status {
            None if row.desired == DesiredState::Removed => {
                tx = tx.delete_unchanged(row.revision(), Key::Workload(id.clone()));
            }
            None => {}
            Some(status) if status.run < row.status.run => {}
            Some(status) => {
                let changed = observed(row.value(), status, attaching);
                if changed != *row.value() {
                    tx = tx.update(row.revision(), Object::Workload(changed));
                }
            }
        }
    }
    (!tx.is_empty()).then_some(tx)
}

/// The workload with its new status; one that is to be removed when it ends is marked for removal in the same step,
/// which also frees its name.
fn observed(workload: &Workload, status: &TaskStatus, attaching: &Attaching) -> Workload {
    let mut changed = workload.clone();
    changed.status = status.clone();
    if is_to_go(&changed) && !attaching.any(&workload.id) {
        mark_removed(&mut changed);
    }
    changed
}

/// Whether it ended and was to be removed then.
pub(crate) fn is_to_go(workload: &Workload) -> bool {
    let status = &workload.status;
    let over = status.phase.is_final() && status.run == workload.run && workload.run > 0;
    over && workload.spec.auto_remove && workload.desired != DesiredState::Removed
}

impl Control {
    /// Removes a workload whose removal waited for an attach.
    pub(crate) async fn remove_ended(&self, id: &WorkloadId) {
        let removed = async {
            let grant = self.own_grant(Action::WorkloadDelete)?;
            self.change(&grant, |snapshot| {
                let Some(row) = snapshot.workload(id).filter(|row| is_to_go(row)) else {
                    return Ok((None, ()));
                };
                let mut changed = row.value().clone();
                mark_removed(&mut changed);
                let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
                Ok((Some(tx), ()))
            })
            .await
        };
        if let Err(error) = removed.await {
            tracing::warn!(%id, ?error, "could not remove an ended workload");
        }
    }
}

/// Marks a workload for removal: from now on it is gone for its pool, and its name is free (the store counts no names
/// of workloads that are being removed).
pub(crate) fn mark_removed(workload: &mut Workload) {
    workload.desired = DesiredState::Removed;
}

/// The phase as far as can be known: unknown if the host cannot be reached.
pub(crate) fn known_phase(snapshot: &Snapshot, workload: &Workload) -> Phase {
    let Some(host) = &workload.host else {
        return workload.status.phase;
    };
    let connected = snapshot
        .host(host)
        .is_some_and(|host| host.status.connected);
    if connected || workload.status.phase.is_final() {
        workload.status.phase
    } else {
        Phase::Unknown
    }
}
