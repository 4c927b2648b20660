//! Taking in documents, results of steps, observations and ledger writes.

use std::collections::BTreeSet;

use model::{Phase, TaskStatus, WorkloadId};
use plan::steps::{Failure, Step};
use tracing::{info, warn};
use wire::link::{DesiredUpdate, ErrorClass};

use super::{Core, Event, WRITE_AGAIN};
use crate::driver::{DriverError, ObservedTask, Prepared};
use crate::job::{Outcome, StepReport};
use crate::ledger::{DocumentError, Ledger, LedgerError, Taken, take};

/// Documents that may wait for the disk; beyond that one whole document takes their place.
const WAITING_DOCUMENTS: usize = 32;

impl Core {
    pub(super) fn desired(&mut self, link: usize, update: DesiredUpdate) {
        let before = if update.base.is_none() {
            self.desired.workloads.clone()
        } else {
            Default::default()
        };
        match take(&mut self.desired, &update) {
            Ok(Taken::New) => {}
            Ok(Taken::Already) => {
                self.told = true;
                self.check_images();
                let durable = *self.generation.borrow();
                if let Some(outbox) = self.outboxes.get(link)
                    && durable >= update.generation
                {
                    outbox.accepted(durable);
                }
                return;
            }
            Err(e) => {
                self.metrics.documents_refused.add(1);
                warn!(error = %e, link, "document refused");
                if let (DocumentError::WrongBase { .. }, Some(outbox)) =
                    (e, self.outboxes.get(link))
                {
                    outbox.resync();
                }
                return;
            }
        }
        self.metrics.documents.add(1);
        self.told = true;
        self.imports.document(self.desired.generation);
        self.tell_parts();
        self.tell_need();
        let mut touched: BTreeSet<WorkloadId> = update
            .upsert
            .keys()
            .chain(&update.remove)
            .cloned()
            .collect();
        touched.extend(before.into_keys());
        self.keep_document(update);
        for id in touched {
            self.want_changed(&id);
        }
        self.check_images();
        self.check_copies();
    }

    fn keep_document(&mut self, update: DesiredUpdate) {
        if self.batch.desired.len() >= WAITING_DOCUMENTS {
            self.batch.desired = vec![DesiredUpdate::whole(&self.desired)];
        } else {
            self.batch.desired.push(update);
        }
    }

    fn want_changed(&mut self, id: &WorkloadId) {
        let want = self.desired.workloads.get(id).cloned();
        if want.is_none() && !self.entries.contains_key(id) {
            return;
        }
        let entry = self.entries.entry(id.clone()).or_default();
        let course = |w: &model::HostWorkload| (w.desired, w.run);
        if let Some(job) = &entry.job
            && entry.want.as_deref().map(course) != want.as_deref().map(course)
        {
            job.cancel.cancel();
        }
        entry.want = want;
        self.refresh(id);
    }

    pub(super) fn step_done(&mut self, report: StepReport) {
        let StepReport {
            want,
            planned,
            result,
        } = report;
        let id = want.id.clone();
        let now = self.clock.now();
        self.version += 1;
        let version = self.version;
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let recorded = match &result {
            Ok(_) => {
                self.metrics.steps.add(1);
                entry.memory.record(&want, &planned.step, Ok(()), now);
                None
            }
            Err(e) => {
                self.metrics.step_failures.add(1);
                warn!(workload = %id, step = ?planned.step, why = planned.why, error = %chain(e), "step failed");
                let failure = failure(e);
                entry
                    .memory
                    .record(&want, &planned.step, Err(&failure), now);
                Some(e.class)
            }
        };
        self.batch
            .memories
            .insert(id.clone(), Some(entry.memory.clone()));
        match (planned.step, result) {
            (Step::Prepare { attempt }, Ok(Outcome::Prepared(prepared))) => {
                entry.observe(prepared_task(&id, want.run, attempt, &prepared), version);
            }
            (Step::Attach, Ok(Outcome::Attached(attachment))) => {
                *self.network_of(&id) = Some(attachment);
            }
            (Step::Start { attempt }, Ok(Outcome::Started(mut task))) => {
                // The plan's own numbers: a runtime that tells others would be started again for ever.
                task.status.run = want.run;
                task.status.restart_count = attempt;
                entry.observe(*task, version);
                self.metrics.starts.add(1);
            }
            (Step::Kill, Ok(_)) => {
                if entry.observed.as_ref().is_some_and(is_prepared) {
                    entry.observed = None;
                    entry.version = version;
                }
            }
            (Step::Pause, Ok(_)) => entry.set_frozen(true),
            (Step::Resume, Ok(_)) => entry.set_frozen(false),
            (Step::Detach, Ok(_)) => *self.network_of(&id) = None,
            (Step::Remove, Ok(_)) => {
                entry.observed = None;
                entry.version = version;
                self.check_images();
            }
            (Step::Kill | Step::Signal { .. } | Step::Start { .. }, Err(_)) => self.observe_again(),
            (_, Ok(_) | Err(_)) => {}
        }
        if recorded.is_some() {
            info!(workload = %id, "planning again after a failure");
        }
        self.refresh(&id);
    }

    pub(super) fn task_changed(&mut self, task: ObservedTask) {
        self.version += 1;
        let version = self.version;
        let id = task.id.clone();
        if self
            .entries
            .entry(id.clone())
            .or_default()
            .observe(task, version)
        {
            self.refresh(&id);
        }
    }

    /// Observes everything anew, in the background and once at a time.
    pub(super) fn observe_again(&mut self) {
        if self.observing {
            return;
        }
        self.observing = true;
        let runtime = self.drivers.runtime.clone();
        let events = self.context.events.clone();
        let since = self.version;
        self.jobs.spawn(async move {
            let result = runtime.observe().await;
            let _ = events.send(Event::Observed { result, since }).await;
        });
    }

    pub(super) fn observed(&mut self, result: Result<Vec<ObservedTask>, DriverError>, since: u64) {
        self.observing = false;
        let tasks = match result {
            Ok(tasks) => tasks,
            Err(e) => {
                warn!(error = %chain(&e), "cannot observe this host");
                return;
            }
        };
        let seen: BTreeSet<WorkloadId> = tasks.iter().map(|t| t.id.clone()).collect();
        for task in tasks {
            self.task_changed(task);
        }
        let vanished: Vec<WorkloadId> = self
            .entries
            .iter()
            .filter(|(id, entry)| {
                entry.observed.is_some()
                    && entry.job.is_none()
                    && entry.version <= since
                    && !seen.contains(*id)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in vanished {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.observed = None;
            }
            self.refresh(&id);
        }
    }

    /// Writes what waits, if nothing is being written.
    pub(super) fn write_ledger(&mut self) {
        let too_early = self
            .write_not_before
            .is_some_and(|at| tokio::time::Instant::now() < at);
        if self.batch.is_empty() || too_early {
            return;
        }
        let Some(mut ledger) = self.ledger.take() else {
            return;
        };
        self.write_not_before = None;
        let batch = std::mem::take(&mut self.batch);
        let generation = self.desired.generation;
        let events = self.context.events.clone();
        let block = self.block;
        self.jobs.spawn(async move {
            let write = move || {
                let result = ledger.write(&batch);
                (ledger, result)
            };
            let written = if block {
                Ok(write())
            } else {
                tokio::task::spawn_blocking(write).await
            };
            if let Ok((ledger, result)) = written {
                let ledger = Box::new(ledger);
                let event = Event::Written {
                    ledger,
                    result,
                    generation,
                };
                let _ = events.send(event).await;
            }
        });
    }

    pub(super) fn written(
        &mut self,
        ledger: Ledger,
        result: Result<(), LedgerError>,
        generation: u64,
    ) {
        self.ledger = Some(ledger);
        match result {
            Ok(()) => {
                if generation > *self.generation.borrow() {
                    self.generation.send_replace(generation);
                    for outbox in &self.outboxes {
                        outbox.accepted(generation);
                    }
                }
            }
            Err(e) => {
                self.metrics.ledger_failures.add(1);
                warn!(error = %chain(&e), "cannot write the ledger, trying again");
                self.write_not_before = Some(tokio::time::Instant::now() + WRITE_AGAIN);
                // Something to write must be there, or nobody would try again.
                let document = DesiredUpdate::whole(&self.desired);
                self.batch.desired.insert(0, document);
                self.batch.desired.truncate(1);
            }
        }
    }
}

impl super::entry::Entry {
    fn set_frozen(&mut self, frozen: bool) {
        if let Some(task) = &mut self.observed
            && task.status.phase.is_alive()
        {
            task.status.phase = if frozen {
                Phase::Paused
            } else {
                Phase::Running
            };
        }
    }
}

fn is_prepared(task: &ObservedTask) -> bool {
    matches!(task.status.phase, Phase::Pending | Phase::Preparing)
}

fn prepared_task(id: &WorkloadId, run: u64, attempt: u32, prepared: &Prepared) -> ObservedTask {
    ObservedTask {
        id: id.clone(),
        status: TaskStatus {
            phase: Phase::Preparing,
            run,
            restart_count: attempt,
            ..TaskStatus::default()
        },
        namespace_pid: Some(prepared.pid),
    }
}

/// Whether a failure may go away by itself depends on its class: what is missing, taken, full or wrong stays so.
fn failure(error: &DriverError) -> Failure {
    let retry = match error.class {
        ErrorClass::Lost | ErrorClass::Failed => true,
        ErrorClass::NotFound
        | ErrorClass::Conflict
        | ErrorClass::Invalid
        | ErrorClass::Unauthorized
        | ErrorClass::Full => false,
    };
    Failure {
        message: chain(error),
        retry,
    }
}

/// An error with what lies behind it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
