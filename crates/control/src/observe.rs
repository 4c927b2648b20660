//! Takes in what hosts report.
//!
//! A host is not trusted. It can report only on what is placed on it, and only of runs that were asked for; everything
//! else is counted and dropped before it is kept, so that what waits is bounded by what is placed on the host.
//! Reports are batched per host: while one commit is under way the next reports gather, of each workload only the
//! newest. What the store refuses is kept and tried again: a host says everything once only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::host::WorkloadReport;
use model::{DesiredState, HostId, ImageId, Key, Object, Phase, TaskStatus, Workload, WorkloadId};
use store::{Row, Snapshot, Transaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::caller::Action;
use crate::core::Control;
use crate::error::{ErrorKind, Result};
use crate::metrics::Counters;
use crate::streams::Attaching;

/// Reports of one host that wait to be committed.
pub(crate) struct Reports {
    control: Control,
    host: HostId,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    reports: Mutex<Batch>,
    more: Notify,
}

#[derive(Default, Clone)]
struct Batch {
    reports: BTreeMap<WorkloadId, Option<TaskStatus>>,
    images: Option<BTreeSet<ImageId>>,
}

/// Workloads changed in one transaction: below the store's limit of 64 changes.
const BATCH_MAX: usize = 60;

/// Images recorded of a host: their digests stay well below the store's limit of 1 MiB for an object.
const IMAGES_MAX: usize = 10_000;

/// Bytes of an error's text that are recorded: several screens.
const ERROR_MAX: usize = 16 << 10;

/// Pause before what the store refused is tried again: a full disk or a lost store does not mend faster.
const AGAIN: Duration = Duration::from_secs(1);

impl Reports {
    /// Starts the task that commits a host's reports until the session ends.
    pub(crate) fn start(control: Control, host: HostId, ended: CancellationToken) -> Self {
        let waiting = Arc::new(Waiting::default());
        let task = Arc::clone(&waiting);
        let reports = Self {
            control: control.clone(),
            host: host.clone(),
            waiting,
        };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = task.more.notified() => {}
                    () = ended.cancelled() => return,
                }
                let mut batch = std::mem::take(&mut *task.lock());
                if let Err(error) = control.take_batch(&host, &mut batch).await {
                    tracing::error!(%host, ?error, "could not record what the host reported, trying again");
                    task.put_back(batch);
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = ended.cancelled() => return,
                    }
                }
            }
        });
        reports
    }

    /// Adds reports; newer ones replace older ones of the same workload.
    pub(crate) fn add(&self, reports: Vec<WorkloadReport>) {
        let snapshot = self.control.snapshot();
        let all = reports.len();
        let credible: Vec<_> = reports
            .into_iter()
            .filter(|report| is_credible(&snapshot, &self.host, &report.id, report.status.as_ref()))
            .map(|report| (report.id, report.status.map(bounded)))
            .collect();
        let ignored = all - credible.len();
        if ignored > 0 {
            tracing::debug!(host = %self.host, ignored, "reports on what is not placed on the host");
            Counters::add(&self.control.inner.counters.reports_ignored, ignored as u64);
        }
        if credible.is_empty() {
            return;
        }
        self.waiting.lock().reports.extend(credible);
        self.waiting.more.notify_one();
    }

    /// The images that are complete on the host.
    pub(crate) fn images(&self, images: BTreeSet<ImageId>) {
        self.waiting.lock().images = Some(bounded_images(&self.host, images));
        self.waiting.more.notify_one();
    }
}

/// Whether a host can know what it reports: the workload is placed on it, and the run was asked for; or it was taken
/// away from it, and nothing of it is left there.
fn is_credible(
    snapshot: &Snapshot,
    host: &HostId,
    id: &WorkloadId,
    status: Option<&TaskStatus>,
) -> bool {
    snapshot.workload(id).is_some_and(|row| {
        let there = row.host.as_ref() == Some(host);
        let gone = status.is_none() && row.left.contains_key(host);
        gone || (there && status.is_none_or(|status| status.run <= row.run))
    })
}

/// A status whose text is no longer than what is recorded.
fn bounded(mut status: TaskStatus) -> TaskStatus {
    if status.error.len() > ERROR_MAX {
        let end = status.error.floor_char_boundary(ERROR_MAX);
        status.error.truncate(end);
    }
    status
}

/// No more images than what is recorded of a host.
pub(crate) fn bounded_images(host: &HostId, mut images: BTreeSet<ImageId>) -> BTreeSet<ImageId> {
    if images.len() > IMAGES_MAX {
        tracing::warn!(%host, images = images.len(), "a host names more images than are recorded of one");
        images = images.into_iter().take(IMAGES_MAX).collect();
    }
    images
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came meanwhile is newer.
    fn put_back(&self, old: Batch) {
        let mut batch = self.lock();
        for (id, status) in old.reports {
            batch.reports.entry(id).or_insert(status);
        }
        if batch.images.is_none() {
            batch.images = old.images;
        }
        drop(batch);
        self.more.notify_one();
    }
}

impl Control {
    /// Records a batch; what could not be recorded stays in it.
    async fn take_batch(&self, host: &HostId, batch: &mut Batch) -> Result<()> {
        Counters::add(&self.inner.counters.reports, batch.reports.len() as u64);
        let grant = self.own_grant(Action::WorkloadControl)?;
        let mut most = BATCH_MAX;
        while !batch.reports.is_empty() {
            let part: Vec<_> = batch
                .reports
                .iter()
                .take(most)
                .map(|(id, status)| (id.clone(), status.clone()))
                .collect();
            let recorded = self
                .change(&grant, |snapshot| {
                    let tx = transaction(snapshot, host, &part, &self.inner.attaching);
                    Ok((tx, ()))
                })
                .await;
            match recorded {
                Err(error) if error.kind == ErrorKind::TooLarge && part.len() > 1 => {
                    most = part.len() / 2;
                    continue;
                }
                Err(error) if error.kind == ErrorKind::TooLarge => {
                    tracing::error!(%host, ?error, "a report is too large to be recorded");
                }
                recorded => recorded?,
            }
            for (id, _) in &part {
                batch.reports.remove(id);
                self.remove_left_over(id).await;
            }
        }
        if let Some(images) = &batch.images {
            let recorded = self
                .host_change(host, |host| host.status.images.clone_from(images))
                .await;
            match recorded {
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => batch.images = None,
            }
        }
        Ok(())
    }
}

impl Control {
    /// An attach that was connecting when an end was decided on may have connected before the end was committed: it
    /// found nothing to remove, and nobody else would.
    async fn remove_left_over(&self, id: &WorkloadId) {
        let left = self
            .snapshot()
            .workload(id)
            .is_some_and(|row| is_to_go(&row));
        if left && !self.inner.attaching.any(id) {
            self.remove_ended(id).await;
        }
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
        // Looked at again: it may have been waiting for long.
        if !is_credible(snapshot, host, id, status.as_ref()) {
            continue;
        }
        let Some(row) = snapshot.workload(id) else {
            continue;
        };
        match status {
            None => tx = nothing_left(tx, &row, host),
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

/// A host says that nothing of a workload is left on it: the record goes when that is true of every host.
pub(crate) fn nothing_left(tx: Transaction, row: &Row<'_, Workload>, host: &HostId) -> Transaction {
    let mut changed = row.value().clone();
    let was_left = changed.left.remove(host).is_some();
    let own = !was_left && changed.desired == DesiredState::Removed;
    if own {
        changed.host = None;
        if !changed.status.phase.is_final() {
            changed.status.phase = Phase::Exited;
        }
    }
    let over = changed.desired == DesiredState::Removed && changed.host.is_none();
    if over && changed.left.is_empty() {
        tx.delete_unchanged(row.revision(), Key::Workload(changed.id))
    } else if was_left || own {
        tx.update(row.revision(), Object::Workload(changed))
    } else {
        tx
    }
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
    over && workload.spec.auto_remove
        && workload.hold.is_none()
        && workload.desired != DesiredState::Removed
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
    workload.hold = None;
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
