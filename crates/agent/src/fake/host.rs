//! The fake host's state, its journal and its scripted troubles.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use model::{
    Digest, HostPool, ImageId, Phase, PoolId, PoolUsage, TaskStatus, Timestamp, WorkloadId,
};
use tokio::sync::{broadcast, watch};

use super::script::Script;
use crate::clock::Clock;
use crate::driver::{DriverError, Drivers, NetworkAttachment, ObservedTask, TaskEvent};

/// Events a slow agent may be behind before it is told that it lagged.
const EVENTS: usize = 1024;
/// Operations kept in the journal.
const JOURNAL: usize = 100_000;

/// An operation of a driver that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// `ImageStore::ensure`.
    Ensure,
    /// `TaskRuntime::prepare`.
    Prepare,
    /// `NetworkDriver::attach`.
    Attach,
    /// `TaskRuntime::start`.
    Start,
    /// `TaskRuntime::signal`.
    Signal,
    /// `TaskRuntime::kill`.
    Kill,
    /// `TaskRuntime::pause`.
    Pause,
    /// `TaskRuntime::resume`.
    Resume,
    /// `TaskRuntime::update`.
    Update,
    /// `NetworkDriver::detach`.
    Detach,
    /// `TaskRuntime::remove`.
    Remove,
    /// `TaskRuntime::divide`.
    Divide,
    /// `ImageStore::drop_image`.
    DropImage,
    /// `TaskRuntime::dismantle`.
    DismantleRuntime,
    /// `NetworkDriver::dismantle`.
    DismantleNetwork,
}

/// Where the host stops dead, as if the agent were killed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// Before the operation with this number (from 0) has any effect.
    Before(usize),
    /// After its effect, before the agent hears of it.
    After(usize),
}

/// One task of a fake host.
#[derive(Debug)]
pub(super) struct FakeTask {
    pub(super) status: TaskStatus,
    pub(super) script: Script,
    pub(super) namespace: bool,
    /// Output of all runs: run, attempt, piece.
    pub(super) output: Vec<(u64, crate::driver::Output)>,
    pub(super) signals: Vec<i32>,
    /// Until when its supervisor lets it live, by [`Clock::since_boot`]; `None`: for ever.
    pub(super) fence: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tasks: BTreeMap<WorkloadId, FakeTask>,
    pub(super) attached: BTreeMap<WorkloadId, NetworkAttachment>,
    pub(super) execs: BTreeMap<String, super::output::FakeExec>,
    pub(super) images: BTreeSet<ImageId>,
    pub(super) leases: BTreeMap<ImageId, u32>,
    pub(super) room: Option<plan::steps::DiskRoom>,
    pub(super) blobs: BTreeMap<Digest, bytes::Bytes>,
    pub(super) contents: BTreeMap<Digest, bytes::Bytes>,
    pub(super) journal: VecDeque<(Op, String)>,
    pub(super) operations: usize,
    pub(super) halt: Option<Halt>,
    pub(super) halted: bool,
    pub(super) failures: BTreeMap<Op, VecDeque<DriverError>>,
    pub(super) hangs: BTreeSet<Op>,
    pub(super) next_pid: u32,
    pub(super) next_address: u32,
    pub(super) pulls: BTreeMap<String, crate::driver::ImportedImage>,
    pub(super) registries: BTreeMap<String, crate::driver::Credentials>,
    pub(super) starts: Vec<(WorkloadId, u64, u32)>,
    pub(super) ends: Vec<(WorkloadId, u64, u32, i32)>,
    pub(super) slow: std::time::Duration,
    pub(super) parts: BTreeMap<PoolId, HostPool>,
    pub(super) usage: BTreeMap<PoolId, PoolUsage>,
}

/// A host in memory; all three drivers at once.
#[derive(Debug)]
pub struct FakeHost {
    pub(super) state: Mutex<State>,
    pub(super) events: broadcast::Sender<TaskEvent>,
    pub(super) image_changes: watch::Sender<u64>,
    /// Told at every change, for those who wait.
    pub(super) changed: watch::Sender<u64>,
    pub(crate) clock: Clock,
    pub(super) me: Weak<Self>,
}

impl FakeHost {
    /// An empty host.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            state: Mutex::new(State {
                next_pid: 1000,
                next_address: 2,
                ..State::default()
            }),
            events: broadcast::channel(EVENTS).0,
            image_changes: watch::channel(0).0,
            changed: watch::channel(0).0,
            clock,
        })
    }

    /// It as drivers.
    #[must_use]
    pub fn drivers(self: &Arc<Self>) -> Drivers {
        Drivers {
            runtime: self.clone(),
            images: self.clone(),
            network: self.clone(),
        }
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|n| *n += 1);
        result
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does an operation, unless a failure or a halt is scripted for it.
    pub(super) async fn operation<T>(
        &self,
        op: Op,
        subject: &str,
        effect: impl FnOnce(&mut State) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        enum Way<T> {
            Halt,
            Done(Result<T, DriverError>),
        }
        let slow = self.look(|s| s.slow);
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let way = self.with(|state| {
            let number = state.operations;
            if state.halted || state.halt == Some(Halt::Before(number)) {
                state.halted = true;
                return Way::Halt;
            }
            state.operations += 1;
            if state.journal.len() == JOURNAL {
                state.journal.pop_front();
            }
            state.journal.push_back((op, subject.to_owned()));
            if state.hangs.remove(&op) {
                return Way::Halt;
            }
            let scripted = state.failures.get_mut(&op).and_then(VecDeque::pop_front);
            let result = match scripted {
                Some(error) => Err(error),
                None => effect(state),
            };
            if state.halt == Some(Halt::After(number)) {
                state.halted = true;
                return Way::Halt;
            }
            Way::Done(result)
        });
        match way {
            Way::Halt => std::future::pending().await,
            Way::Done(result) => result,
        }
    }

    /// Every operation takes so long from now on.
    pub fn slow(&self, each: std::time::Duration) {
        self.with(|s| s.slow = each);
    }

    /// Takes back scripted failures, halts and slowness that have not come yet. What hangs goes on hanging.
    pub fn heal(&self) {
        self.with(|s| {
            s.failures.clear();
            s.hangs.clear();
            s.slow = std::time::Duration::ZERO;
        });
        self.go_on();
    }

    /// The next operation of this kind fails.
    pub fn fail_next(&self, op: Op, error: DriverError) {
        self.with(|s| s.failures.entry(op).or_default().push_back(error));
    }

    /// Scripted failures that did not happen yet will not.
    pub fn no_failures(&self) {
        self.with(|s| s.failures.clear());
    }

    /// Workloads with a task here.
    #[must_use]
    pub fn tasks(&self) -> Vec<WorkloadId> {
        self.look(|s| s.tasks.keys().cloned().collect())
    }

    /// Workloads with a network here.
    #[must_use]
    pub fn networks(&self) -> Vec<WorkloadId> {
        self.look(|s| s.attached.keys().cloned().collect())
    }

    /// The next operation of this kind never comes back, and has no effect.
    pub fn hang_next(&self, op: Op) {
        self.with(|s| s.hangs.insert(op));
    }

    /// Everything stops at this point, until [`FakeHost::go_on`].
    pub fn halt_at(&self, halt: Halt) {
        self.with(|s| s.halt = Some(halt));
    }

    /// Operations work again.
    pub fn go_on(&self) {
        self.with(|s| {
            s.halt = None;
            s.halted = false;
        });
    }

    /// Whether the scripted halt was reached.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.look(|s| s.halted)
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.look(|s| s.operations)
    }

    /// What was done, with the workload's or image's id.
    #[must_use]
    pub fn journal(&self) -> Vec<(Op, String)> {
        self.look(|s| s.journal.iter().cloned().collect())
    }

    /// What was done since so many operations had been done, and how many that makes.
    #[must_use]
    pub fn journal_since(&self, known: usize) -> (Vec<(Op, String)>, usize) {
        self.look(|s| {
            let first = s.operations - s.journal.len();
            let skip = known.saturating_sub(first);
            (s.journal.iter().skip(skip).cloned().collect(), s.operations)
        })
    }

    /// Every task on the host, with its state.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<WorkloadId, TaskStatus> {
        self.look(|s| {
            let tasks = s.tasks.iter();
            tasks
                .map(|(id, t)| (id.clone(), t.status.clone()))
                .collect()
        })
    }

    /// Waits until something is true of the host.
    pub async fn wait(&self, done: impl Fn(&FakeHost) -> bool) {
        let mut changed = self.changed.subscribe();
        while !done(self) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// The state of a task.
    #[must_use]
    pub fn task(&self, id: &WorkloadId) -> Option<TaskStatus> {
        self.look(|s| s.tasks.get(id).map(|t| t.status.clone()))
    }

    /// Every attempt that began: workload, run, restarts by policy before it.
    #[must_use]
    pub fn starts(&self) -> Vec<(WorkloadId, u64, u32)> {
        self.look(|s| s.starts.clone())
    }

    /// Attempts that began after so many others.
    #[must_use]
    pub fn starts_since(&self, known: usize) -> Vec<(WorkloadId, u64, u32)> {
        self.look(|s| s.starts.iter().skip(known).cloned().collect())
    }

    /// Attempts that ended after so many others, each with its exit code.
    #[must_use]
    pub fn ends_since(&self, known: usize) -> Vec<(WorkloadId, u64, u32, i32)> {
        self.look(|s| s.ends.iter().skip(known).cloned().collect())
    }

    /// Signals a task got.
    #[must_use]
    pub fn signals(&self, id: &WorkloadId) -> Vec<i32> {
        self.look(|s| {
            s.tasks
                .get(id)
                .map(|t| t.signals.clone())
                .unwrap_or_default()
        })
    }

    /// Whether a workload is attached to the network.
    #[must_use]
    pub fn is_attached(&self, id: &WorkloadId) -> bool {
        self.look(|s| s.attached.contains_key(id))
    }

    /// The parts of pools in force.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<PoolId, HostPool> {
        self.look(|s| s.parts.clone())
    }

    /// What pools do from now on.
    pub fn use_pools(&self, usage: BTreeMap<PoolId, PoolUsage>) {
        self.with(|s| s.usage = usage);
    }

    /// Puts an image on the host.
    pub fn add_image(&self, id: ImageId) {
        self.with(|s| s.images.insert(id));
        self.image_changes.send_modify(|n| *n += 1);
    }

    /// What a pull of this reference brings.
    pub fn add_pull(&self, reference: &str, image: crate::driver::ImportedImage) {
        self.with(|s| s.pulls.insert(reference.to_owned(), image));
    }

    /// The credentials that a registry accepts.
    pub fn add_registry(&self, registry: &str, credentials: crate::driver::Credentials) {
        self.with(|s| s.registries.insert(registry.to_owned(), credentials));
    }

    /// Ends a task, as if it had by itself.
    pub fn end(&self, id: &WorkloadId, exit_code: i32) {
        self.finish(id, None, exit_code);
    }

    /// The kernel kills a task because memory ran out.
    pub fn run_out_of_memory(&self, id: &WorkloadId) {
        self.with(|s| {
            if let Some(task) = s.tasks.get_mut(id) {
                task.status.oom_killed = true;
            }
        });
        self.finish(id, None, 137);
    }

    /// As after a loss of power: nothing lives, namespaces and networks are gone.
    pub fn reboot(&self) {
        self.with(|s| {
            s.attached.clear();
            s.execs.clear();
            for (id, task) in &mut s.tasks {
                task.namespace = false;
                if task.status.phase.is_alive() {
                    let key = (task.status.run, task.status.restart_count);
                    s.ends.push((id.clone(), key.0, key.1, 255));
                    task.status.phase = Phase::Exited;
                    task.status.exit_code = 255;
                    task.status.pid = 0;
                    task.status.finished_at = Some(self.clock.now());
                }
            }
            s.tasks.retain(|_, t| t.status.phase.is_final());
        });
    }

    /// A task that no document names.
    pub fn add_stranger(&self, id: WorkloadId) {
        let status = TaskStatus {
            phase: Phase::Running,
            run: 1,
            pid: 77,
            started_at: Some(self.clock.now()),
            ..TaskStatus::default()
        };
        let task = FakeTask {
            status,
            script: Script::of(&[]),
            namespace: true,
            output: Vec::new(),
            signals: Vec::new(),
            fence: None,
        };
        self.with(|s| s.tasks.insert(id, task));
    }

    /// A task's supervisor, which outlives agents: ends it when its time is over.
    pub(super) fn supervise(&self, id: &WorkloadId, until: u64) {
        let Some(host) = self.me.upgrade() else {
            return;
        };
        let id = id.clone();
        let wait = until.saturating_sub(self.clock.since_boot());
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
            let now = host.clock.since_boot();
            let over = host.with(|s| {
                let task = s.tasks.get_mut(&id)?;
                let over = task.status.phase.is_alive() && task.fence.is_some_and(|it| it <= now);
                task.status.fenced |= over;
                over.then_some((task.status.run, task.status.restart_count))
            });
            if over.is_some() {
                host.finish(&id, over, 137);
            }
        });
    }

    /// Ends a living task; with `only`, only that run and attempt.
    pub(super) fn finish(&self, id: &WorkloadId, only: Option<(u64, u32)>, exit_code: i32) {
        let now = self.clock.now();
        let ended = self.with(|s| {
            let task = s.tasks.get_mut(id)?;
            let key = (task.status.run, task.status.restart_count);
            if !task.status.phase.is_alive() || only.is_some_and(|only| only != key) {
                return None;
            }
            end_status(&mut task.status, exit_code, now);
            task.namespace = false;
            let ended = observed(id, task);
            s.ends.push((id.clone(), key.0, key.1, exit_code));
            Some(ended)
        });
        if let Some(task) = ended {
            // Nobody listening is a dead agent: it will observe.
            let _ = self.events.send(TaskEvent::Changed(task));
        }
    }
}

fn end_status(status: &mut TaskStatus, exit_code: i32, now: Timestamp) {
    status.phase = Phase::Exited;
    status.exit_code = exit_code;
    status.pid = 0;
    status.finished_at = Some(now);
}

pub(super) fn observed(id: &WorkloadId, task: &FakeTask) -> ObservedTask {
    ObservedTask {
        id: id.clone(),
        status: task.status.clone(),
        namespace_pid: task.namespace.then_some(task.status.pid.max(1)),
    }
}
