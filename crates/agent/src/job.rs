//! Executes the steps of one plan for one workload, in order, and tells the owner how each went.
//!
//! What always holds: at most one job per workload; a job that is cancelled ends after the step it is in (fetching an
//! image ends at once); what it leaves half-done is for the next plan, exactly as after a crash.

use std::sync::Arc;
use std::time::Duration;

use model::{HostWorkload, WorkloadId};
use plan::steps::{Planned, Step};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use wire::link::ImageProgress;

use crate::background::Urgent;
use crate::board::Board;
use crate::core::Event;
use crate::driver::{
    BlobSource, DriverError, Drivers, LayerLease, NetworkAttachment, ObservedTask, Prepared,
    TaskPlan,
};
use crate::lease::Lease;

/// Steps at one time on a host. Each costs processes and disk; more would only make all of them slower.
const PARALLEL_STEPS: usize = 16;
/// Images fetched at one time: the network is the narrow place.
const PARALLEL_FETCHES: usize = 4;
/// How often progress is reported while an image is fetched.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Progress lines a store may be ahead of us; more is dropped or waited for by the store.
const PROGRESS_QUEUE: usize = 16;
/// Longest a removal waits for those who read the task's last output: what is written is read in milliseconds, and a
/// client that does not read must not hold a host's resources.
const READ_OUT_LIMIT: Duration = Duration::from_secs(2);

/// What all jobs share.
#[derive(Clone)]
pub(crate) struct JobContext {
    pub(crate) drivers: Drivers,
    pub(crate) relay: Arc<dyn BlobSource>,
    pub(crate) events: mpsc::Sender<Event>,
    board: Arc<Board>,
    lease: Arc<Lease>,
    steps: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    /// Fetches that starts wait for: those in the background give way to them.
    pub(crate) urgent: Arc<Urgent>,
}

impl JobContext {
    pub(crate) fn new(
        drivers: Drivers,
        relay: Arc<dyn BlobSource>,
        events: mpsc::Sender<Event>,
        board: Arc<Board>,
        lease: Arc<Lease>,
    ) -> Self {
        Self {
            drivers,
            relay,
            events,
            board,
            lease,
            steps: Arc::new(Semaphore::new(PARALLEL_STEPS)),
            fetches: Arc::new(Semaphore::new(PARALLEL_FETCHES)),
            urgent: Arc::default(),
        }
    }
}

/// What a step that worked led to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Prepared(Prepared),
    Attached(NetworkAttachment),
    Started(Box<ObservedTask>),
}

/// How a step went.
#[derive(Debug)]
pub(crate) struct StepReport {
    pub(crate) want: Arc<HostWorkload>,
    pub(crate) planned: Planned,
    pub(crate) result: Result<Outcome, DriverError>,
}

/// One plan's steps for one workload.
pub(crate) struct Job {
    pub(crate) want: Arc<HostWorkload>,
    pub(crate) steps: Vec<Planned>,
    pub(crate) image_is_complete: bool,
    pub(crate) cancel: CancellationToken,
}

struct Running<'a> {
    job: &'a Job,
    context: &'a JobContext,
    lease: Option<LayerLease>,
    prepared: Option<Prepared>,
    network: Option<NetworkAttachment>,
}

impl Job {
    pub(crate) async fn run(self, context: JobContext) {
        let mut running = Running {
            job: &self,
            context: &context,
            lease: None,
            prepared: None,
            network: None,
        };
        running.all().await;
        let id = self.want.id.clone();
        let _ = context.events.send(Event::JobEnded { id }).await;
    }
}

impl Running<'_> {
    async fn all(&mut self) {
        let mut steps = self.job.steps.iter().peekable();
        while let Some(planned) = steps.next() {
            if self.job.cancel.is_cancelled() {
                return;
            }
            if matches!(planned.step, Step::Start { .. }) && !self.may_start() {
                return;
            }
            let next = steps.peek().map(|p| &p.step);
            let ok = match (&planned.step, next) {
                (Step::EnsureImage, Some(Step::Prepare { attempt })) => {
                    let attempt = *attempt;
                    let Some(prepare) = steps.next() else { return };
                    self.image_and_namespace(planned, prepare, attempt).await
                }
                _ => {
                    let result = self.one(&planned.step).await;
                    self.tell(planned, result).await
                }
            };
            if !ok {
                return;
            }
        }
    }

    /// Fetching an image takes as long as it takes: the lease may be over since the start was planned. The next plan
    /// says so.
    fn may_start(&self) -> bool {
        plan::steps::fence::may_start(&self.job.want, self.context.lease.heard())
    }

    /// Reports a step; says whether to go on.
    async fn tell(&self, planned: &Planned, result: Result<Outcome, DriverError>) -> bool {
        let ok = result.is_ok();
        let report = StepReport {
            want: self.job.want.clone(),
            planned: planned.clone(),
            result,
        };
        let sent = self
            .context
            .events
            .send(Event::Step(Box::new(report)))
            .await;
        ok && sent.is_ok()
    }

    /// Makes the image complete and the namespaces at the same time: both take milliseconds at best, and neither
    /// needs the other.
    async fn image_and_namespace(
        &mut self,
        ensure: &Planned,
        prepare: &Planned,
        attempt: u32,
    ) -> bool {
        let prepare_failed = CancellationToken::new();
        let preparing = async {
            let result = self.prepare(attempt).await;
            if result.is_err() {
                prepare_failed.cancel();
            }
            result
        };
        let ensuring = async {
            tokio::select! {
                result = self.ensure_image() => Some(result),
                () = prepare_failed.cancelled() => None,
                () = self.job.cancel.cancelled() => None,
            }
        };
        let (ensured, prepared) = tokio::join!(ensuring, preparing);
        match prepared {
            Ok(prepared) => {
                self.prepared = Some(prepared.clone());
                if !self.tell(prepare, Ok(Outcome::Prepared(prepared))).await {
                    return false;
                }
            }
            Err(e) => return self.tell(prepare, Err(e)).await,
        }
        match ensured {
            Some(Ok(lease)) => {
                self.lease = Some(lease);
                self.tell(ensure, Ok(Outcome::Done)).await
            }
            Some(Err(e)) => self.tell(ensure, Err(e)).await,
            None => false,
        }
    }

    fn task_plan(&self, attempt: u32) -> TaskPlan {
        TaskPlan {
            workload: self.job.want.clone(),
            attempt,
            layers: self
                .lease
                .as_ref()
                .map_or_else(Vec::new, |l| l.layers.clone()),
            network: self.network.clone(),
            fence_until: self
                .context
                .lease
                .from()
                .and_then(|from| plan::steps::fence::supervised_until(&self.job.want, from)),
        }
    }

    async fn prepare(&self, attempt: u32) -> Result<Prepared, DriverError> {
        let _permit = self.context.steps.acquire().await;
        let plan = self.task_plan(attempt);
        self.context.drivers.runtime.prepare(&plan).await
    }

    async fn ensure_image(&self) -> Result<LayerLease, DriverError> {
        let _permit = if self.job.image_is_complete {
            None
        } else {
            let urgent = self.context.urgent.begin(&self.job.want.image);
            Some((urgent, self.context.fetches.acquire().await))
        };
        let (sender, mut progress) = mpsc::channel::<ImageProgress>(PROGRESS_QUEUE);
        let images = &self.context.drivers.images;
        let ensure = images.ensure(&self.job.want.image, &*self.context.relay, sender);
        tokio::pin!(ensure);
        let mut told: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                result = &mut ensure => return result,
                Some(line) = progress.recv() => {
                    if told.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
                        told = Some(tokio::time::Instant::now());
                        let id = self.job.want.id.clone();
                        let text = progress_text(&line);
                        // The owner may be busy: progress is not worth waiting for.
                        let _ = self.context.events.try_send(Event::Progress { id, text });
                    }
                }
            }
        }
    }

    async fn one(&mut self, step: &Step) -> Result<Outcome, DriverError> {
        if let Step::EnsureImage = step {
            self.lease = Some(self.ensure_image().await?);
            return Ok(Outcome::Done);
        }
        if let Step::Prepare { attempt } = step {
            let prepared = self.prepare(*attempt).await?;
            self.prepared = Some(prepared.clone());
            return Ok(Outcome::Prepared(prepared));
        }
        let id: &WorkloadId = &self.job.want.id;
        if let Step::Remove = step {
            // `docker run --rm` removes a task the moment it ends; its last output is still on its way.
            self.context.board.read_out(id, READ_OUT_LIMIT).await;
        }
        let _permit = self.context.steps.acquire().await;
        let runtime = &self.context.drivers.runtime;
        let network = &self.context.drivers.network;
        match step {
            Step::EnsureImage | Step::Prepare { .. } => {}
            Step::Attach => {
                let prepared = self.prepared.as_ref();
                let attachment = network.attach(&self.job.want, prepared).await?;
                self.network = Some(attachment.clone());
                return Ok(Outcome::Attached(attachment));
            }
            Step::Start { attempt } => {
                let observed = runtime.start(&self.task_plan(*attempt)).await?;
                return Ok(Outcome::Started(Box::new(observed)));
            }
            Step::Signal { signal } => runtime.signal(id, *signal).await?,
            Step::Kill => runtime.kill(id).await?,
            Step::Pause => runtime.pause(id).await?,
            Step::Resume => runtime.resume(id).await?,
            Step::Update { resources } => runtime.update(id, resources).await?,
            Step::Detach => network.detach(id).await?,
            Step::Remove => runtime.remove(id).await?,
        }
        Ok(Outcome::Done)
    }
}

fn progress_text(line: &ImageProgress) -> String {
    let mut text = line.status.clone();
    if !line.id.is_empty() {
        text = format!("{}: {text}", line.id);
    }
    if let (Some(current), Some(total)) = (line.current, line.total) {
        text = format!("{text} ({current} of {total} bytes)");
    }
    text
}
