//! The owner: one task that holds all state of the host, takes in every event and starts jobs.
//!
//! What always holds: nobody else changes this state; the owner never waits for a driver, a disk or a server; every
//! event ends in asking `plan` again about the workloads it concerns.

pub(crate) use apply::chain;
pub use leave::Ended;
pub(crate) use pools::Usage;

mod apply;
mod copies;
mod entry;
mod fences;
mod images;
mod leave;
mod pools;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::{HostDesired, HostPool, ImageId, PoolId, Timestamp, WorkloadId};
use plan::steps;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use wire::link::DesiredUpdate;

use crate::board::{Board, Known};
use crate::clock::Clock;
use crate::driver::{DriverError, Drivers, NetworkAttachment, ObservedTask, TaskEvent};
use crate::imports::{Dropping, Imports};
use crate::job::{Job, JobContext, StepReport};
use crate::lease::Lease;
use crate::ledger::{Batch, Ledger, LedgerError, Recovered};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use entry::{Entry, RunningJob};

/// Events that may wait for the owner: jobs wait beyond that, which slows them instead of filling memory.
pub(crate) const EVENT_QUEUE: usize = 1024;
/// How often the network driver is asked to put back what someone took away.
const REASSERT_EVERY: Duration = Duration::from_secs(60);
/// Wait before observing again when the drivers do not answer.
const OBSERVE_AGAIN: Duration = Duration::from_millis(500);
/// Wait before a failed ledger write is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Everything that can happen to the owner.
#[derive(Debug)]
pub(crate) enum Event {
    /// A server sent a document.
    Desired { link: usize, update: DesiredUpdate },
    /// A session began.
    LinkUp { link: usize },
    /// These parts of pools are in force.
    Parts(BTreeMap<PoolId, HostPool>),
    /// Leases count from this moment, in milliseconds since the start of the machine.
    Leased { from: u64 },
    /// Servers say that this host was removed from the installation.
    HostRemoved,
    /// A step of a job was done or failed.
    Step(Box<StepReport>),
    /// A job has ended; its steps were told before.
    JobEnded { id: WorkloadId },
    /// An image is being fetched.
    Progress { id: WorkloadId, text: String },
    /// The runtime was observed anew. Entries changed since then are not overruled.
    Observed {
        result: Result<Vec<ObservedTask>, DriverError>,
        since: u64,
    },
    /// A batch was written.
    Written {
        ledger: Box<Ledger>,
        result: Result<(), LedgerError>,
        generation: u64,
    },
    /// An image that was fetched in the background is there or not; `None`: it was given up.
    CopyEnded {
        id: ImageId,
        result: Option<Result<(), DriverError>>,
    },
    /// An image was dropped or not.
    ImageDropped {
        id: ImageId,
        result: Result<(), DriverError>,
        dropping: Dropping,
    },
}

/// What the owner is made with.
pub(crate) struct CoreParts {
    pub(crate) drivers: Drivers,
    pub(crate) clock: Clock,
    pub(crate) lease: Arc<Lease>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Arc<Board>,
    pub(crate) imports: Arc<Imports>,
    pub(crate) outboxes: Vec<Arc<Outbox>>,
    /// Durable generation, for greetings.
    pub(crate) generation: watch::Sender<u64>,
    pub(crate) context: JobContext,
    pub(crate) ledger: Ledger,
    pub(crate) recovered: Recovered,
    /// Write the ledger in the owner's own thread: for simulations, which must not depend on other threads' speed.
    pub(crate) block: bool,
}

/// All state of the host.
pub(crate) struct Core {
    drivers: Drivers,
    clock: Clock,
    lease: Arc<Lease>,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    imports: Arc<Imports>,
    outboxes: Vec<Arc<Outbox>>,
    generation: watch::Sender<u64>,
    context: JobContext,
    desired: HostDesired,
    entries: BTreeMap<WorkloadId, Entry>,
    wakes: BTreeSet<(Timestamp, WorkloadId)>,
    /// Like `wakes`, on the clock of leases.
    fence_wakes: BTreeSet<(u64, WorkloadId)>,
    /// Until when tasks may live, for their supervisors.
    untils: watch::Sender<fences::Untils>,
    /// `None` while a batch is being written.
    ledger: Option<Ledger>,
    block: bool,
    batch: Batch,
    write_not_before: Option<tokio::time::Instant>,
    complete: BTreeSet<ImageId>,
    /// Whether a server has sent a document since the start. Before that orders to delete images do not count: an
    /// import may have voided them without the ledger's knowing.
    told: bool,
    /// What of each pool this host may give, for the keeper of it.
    parts: watch::Sender<pools::Parts>,
    /// Those that are in force.
    in_force: BTreeMap<PoolId, HostPool>,
    drop_again_at: Option<Timestamp>,
    copies: copies::Copies,
    jobs: JoinSet<()>,
    observing: bool,
    /// The installation has removed this host.
    removed: bool,
    /// Counts changes of entries, to tell what an observation cannot know yet.
    version: u64,
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        let complete = parts.drivers.images.complete();
        let mut core = Self {
            drivers: parts.drivers,
            clock: parts.clock,
            lease: parts.lease,
            metrics: parts.metrics,
            board: parts.board,
            imports: parts.imports,
            outboxes: parts.outboxes,
            generation: parts.generation,
            context: parts.context,
            desired: HostDesired::default(),
            entries: BTreeMap::new(),
            wakes: BTreeSet::new(),
            fence_wakes: BTreeSet::new(),
            untils: watch::Sender::default(),
            ledger: Some(parts.ledger),
            block: parts.block,
            batch: Batch::default(),
            write_not_before: None,
            complete,
            told: false,
            parts: watch::Sender::default(),
            in_force: BTreeMap::new(),
            drop_again_at: None,
            copies: copies::Copies::default(),
            jobs: JoinSet::new(),
            observing: false,
            removed: false,
            version: 0,
        };
        for (id, memory) in parts.recovered.memories {
            core.entries.entry(id).or_default().memory = memory;
        }
        for (id, want) in &parts.recovered.desired.workloads {
            core.entries.entry(id.clone()).or_default().want = Some(want.clone());
        }
        core.generation
            .send_replace(parts.recovered.desired.generation);
        core.desired = parts.recovered.desired;
        core.imports.document(core.desired.generation);
        core.tell_need();
        core.tell_parts();
        core
    }

    /// Learns what is on the host, as often as it takes. Nothing is done before that.
    pub(crate) async fn take_stock(&mut self) {
        loop {
            match self.observe_all().await {
                Ok(()) => return,
                Err(e) => warn!(error = %e, "cannot observe this host, trying again"),
            }
            tokio::time::sleep(OBSERVE_AGAIN).await;
        }
    }

    async fn observe_all(&mut self) -> Result<(), DriverError> {
        self.drivers.network.reassert().await?;
        let attached = self.drivers.network.attached().await?;
        let observed = self.drivers.runtime.observe().await?;
        for (id, network) in attached {
            self.entries.entry(id).or_default().network = Some(network);
        }
        for task in observed {
            let entry = self.entries.entry(task.id.clone()).or_default();
            entry.observed = Some(task);
        }
        Ok(())
    }

    /// Runs until cancelled, or until the host was removed and nothing of it is left.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        shutdown: CancellationToken,
    ) -> Ended {
        let mut task_events = self.drivers.runtime.events();
        let mut image_changes = self.drivers.images.changes();
        self.take_stock().await;
        let mut imports_ended = self.imports.ended();
        self.refresh_all();
        // What came in before the changes were followed.
        self.images_changed();
        self.check_copies();
        let keeper = pools::Keeper {
            runtime: self.drivers.runtime.clone(),
            outboxes: self.outboxes.clone(),
            events: self.context.events.clone(),
            wanted: self.parts.subscribe(),
        };
        self.jobs.spawn(keeper.run());
        let keeper = fences::Keeper {
            runtime: self.drivers.runtime.clone(),
            untils: self.untils.subscribe(),
        };
        self.jobs.spawn(keeper.run());
        let mut reassert = tokio::time::interval(REASSERT_EVERY);
        reassert.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        reassert.reset();
        let ended = loop {
            if self.may_leave() {
                break Ended::Removed;
            }
            self.write_ledger();
            let alarm = self.alarm();
            let armed = alarm.is_some();
            let alarm = tokio::time::sleep_until(alarm.unwrap_or_else(tokio::time::Instant::now));
            tokio::select! {
                () = shutdown.cancelled() => break Ended::Shutdown,
                Some(event) = events.recv() => self.handle(event),
                event = task_events.recv() => match event {
                    Ok(TaskEvent::Changed(task)) => self.task_changed(task),
                    Ok(TaskEvent::Lagged) | Err(broadcast::error::RecvError::Lagged(_)) => self.observe_again(),
                    Err(broadcast::error::RecvError::Closed) => {
                        warn!("the runtime has stopped telling events");
                        break Ended::Shutdown;
                    }
                },
                Ok(()) = image_changes.changed() => self.images_changed(),
                Ok(()) = imports_ended.changed() => self.check_images(),
                () = alarm, if armed => self.ring(),
                _ = reassert.tick() => self.reassert(),
                Some(ended) = self.jobs.join_next() => {
                    if let Err(e) = ended && e.is_panic() {
                        self.job_panicked(e.id());
                    }
                }
            }
        };
        self.jobs.shutdown().await;
        self.last_write();
        ended
    }

    /// Ends with the ledger up to date, so that the next start need not find out again.
    fn last_write(&mut self) {
        if let Some(ledger) = &mut self.ledger
            && let Err(e) = ledger.write(&self.batch)
        {
            warn!(error = %e, "cannot write the ledger at the end");
        }
    }

    fn alarm(&self) -> Option<tokio::time::Instant> {
        let next = self.wakes.first().map(|(at, _)| *at);
        let others = [self.drop_again_at, self.copies.again_at];
        let next = others.into_iter().chain([next]).flatten().min();
        let now = self.clock.now();
        let wake = next.map(|at| {
            let wait = u64::try_from(at.millis().saturating_sub(now.millis())).unwrap_or(0);
            tokio::time::Instant::now() + Duration::from_millis(wait)
        });
        let write = self.write_not_before.filter(|_| !self.batch.is_empty());
        [wake, write, self.fence_alarm()]
            .into_iter()
            .flatten()
            .min()
    }

    fn ring(&mut self) {
        let now = self.clock.now();
        while let Some((at, id)) = self.wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, id.clone()));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.wake = None;
                if entry.memory.kill_sent.is_some() {
                    // It should be dead: perhaps its end was missed.
                    self.observe_again();
                }
            }
            self.refresh(&id);
        }
        if self.drop_again_at.is_some_and(|at| at <= now) {
            self.drop_again_at = None;
            self.check_images();
        }
        self.ring_fences();
        if self.copies.again_at.is_some_and(|at| at <= now) {
            self.check_copies();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Desired { link, update } => self.desired(link, update),
            Event::LinkUp { link } => self.link_up(link),
            Event::Parts(pools) => self.parts_in_force(pools),
            Event::Leased { from } => self.leased(from),
            Event::HostRemoved => self.host_removed(),
            Event::Step(report) => self.step_done(*report),
            Event::JobEnded { id } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.job = None;
                    entry.progress.clear();
                }
                self.refresh(&id);
            }
            Event::Progress { id, text } => {
                if let Some(entry) = self.entries.get_mut(&id)
                    && entry.job.is_some()
                {
                    entry.progress = text;
                    self.refresh(&id);
                }
            }
            Event::Observed { result, since } => self.observed(result, since),
            Event::Written {
                ledger,
                result,
                generation,
            } => self.written(*ledger, result, generation),
            Event::CopyEnded { id, result } => self.copy_ended(&id, result),
            Event::ImageDropped {
                id,
                result,
                dropping,
            } => {
                drop(dropping);
                self.image_dropped(&id, result);
            }
        }
    }

    fn link_up(&mut self, link: usize) {
        self.removed = false;
        if let Some(outbox) = self.outboxes.get(link) {
            let reports = self
                .entries
                .iter()
                .filter_map(|(id, entry)| Some((id.clone(), entry.reported.clone()?)))
                .collect();
            outbox.begin(reports);
            outbox.images(&self.complete);
        }
        self.retry_copies();
    }

    fn job_panicked(&mut self, task: tokio::task::Id) {
        let id = self.entries.iter().find_map(|(id, entry)| {
            let job = entry.job.as_ref()?;
            (job.task == task).then(|| id.clone())
        });
        if let Some(id) = id {
            warn!(workload = %id, "a job ended by a defect");
            self.handle(Event::JobEnded { id });
        }
        self.copy_panicked(task);
    }

    fn refresh_all(&mut self) {
        let ids: Vec<WorkloadId> = self.entries.keys().cloned().collect();
        for id in ids {
            self.refresh(&id);
        }
    }

    /// Asks what to do next about a workload, reports it and starts a job if there is something to do.
    fn refresh(&mut self, id: &WorkloadId) {
        let now = self.clock.now();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(want) = entry.want.clone() else {
            self.refresh_unwanted(id);
            return;
        };
        let parts = steps::Parts {
            told: &self.desired.pools,
            in_force: &self.in_force,
        };
        let seen = entry.seen(parts);
        let plan = steps::plan(&want, seen, &entry.memory, now, self.lease.heard());
        if plan.memory != entry.memory {
            entry.memory = plan.memory;
            self.batch
                .memories
                .insert(id.clone(), Some(entry.memory.clone()));
        }
        if let Some(old) = entry.wake.take() {
            self.wakes.remove(&(old, id.clone()));
        }
        if let Some(at) = plan.wake_at {
            entry.wake = Some(at);
            self.wakes.insert((at, id.clone()));
        }
        let status = plan.status.map(|status| entry.with_progress(status));
        self.wake_for_fence(id, plan.fence_in_ms);
        self.supervise(id);
        self.report(id, status);
        if !plan.steps.is_empty() {
            self.start_job(id, plan.steps);
        }
    }

    /// A workload the document does not name: reported while it is there, never touched.
    fn refresh_unwanted(&mut self, id: &WorkloadId) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.job.is_some() {
            return;
        }
        if let Some(wake) = entry.wake.take() {
            self.wakes.remove(&(wake, id.clone()));
        }
        self.wake_for_fence(id, None);
        self.supervise(id);
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        let status = entry.observed.as_ref().map(|t| t.status.clone());
        let there = status.is_some() || entry.network.is_some();
        if there {
            self.report(id, status);
        } else {
            let reported = entry.reported.clone().flatten().is_some();
            if reported {
                self.report(id, None);
            }
            self.entries.remove(id);
            self.batch.memories.insert(id.clone(), None);
            self.board.forget(id);
        }
    }

    fn report(&mut self, id: &WorkloadId, status: Option<model::TaskStatus>) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.reported.as_ref() == Some(&status) {
            return;
        }
        for outbox in &self.outboxes {
            outbox.report(id, status.as_ref());
        }
        self.metrics.reports.add(1);
        let known = status
            .clone()
            .map_or(Known::Gone, |s| Known::Status(Box::new(s)));
        self.board.publish(id, known);
        entry.reported = Some(status);
    }

    fn start_job(&mut self, id: &WorkloadId, steps: Vec<steps::Planned>) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let (Some(want), None) = (&entry.want, &entry.job) else {
            return;
        };
        debug!(workload = %id, why = steps.first().map_or("", |s| s.why), steps = steps.len(), "begin");
        let mut want = want.clone();
        if want.run != entry.memory.run && entry.memory.run > 0 {
            Arc::make_mut(&mut want).run = entry.memory.run;
        }
        let cancel = CancellationToken::new();
        let job = Job {
            image_is_complete: self.complete.contains(&want.image.id),
            want,
            steps,
            cancel: cancel.clone(),
        };
        let task = self.jobs.spawn(job.run(self.context.clone())).id();
        entry.job = Some(RunningJob { cancel, task });
    }

    fn reassert(&mut self) {
        let network = self.drivers.network.clone();
        self.jobs.spawn(async move {
            if let Err(e) = network.reassert().await {
                warn!(error = %e, "cannot put the host's network back in order");
            }
        });
    }

    /// Hands the parts of pools in the document to their keeper.
    fn tell_parts(&self) {
        self.parts.send_replace(pools::Parts {
            generation: self.desired.generation,
            pools: self.desired.pools.clone(),
        });
    }

    fn network_of(&mut self, id: &WorkloadId) -> &mut Option<NetworkAttachment> {
        &mut self.entries.entry(id.clone()).or_default().network
    }
}
