//! What a host does next about one workload.
//!
//! [`plan`] takes what is wanted ([`HostWorkload`]), what was seen ([`Seen`]) and what is remembered ([`Memory`]) and
//! gives ordered [`Step`]s with reasons, the memory after taking the observation in, the moment to ask again, and
//! the status to report. [`Memory::record`] takes in how a step went. Both are pure; the agent executes.
//!
//! What always holds:
//! - Level-triggered: every answer follows from the present alone, so that any number of repetitions, restarts of the
//!   agent and lost events ends in the same state. After a plan's steps were applied, planning again gives none.
//! - A run number is begun at most once; only the restart policy begins further attempts of it.
//! - What a limit of a pool bounds is started only under the pool's part of it ([`Parts`]).
//! - What may run on one host only lives by a lease ([`fence`]): without one it is ended and not started.
//! - A task that is not wanted in the document is never touched: [`plan`] is asked only for workloads in it.

pub mod fence;
mod images;
mod memory;
mod parts;
mod status;
#[cfg(test)]
mod tests;

use fence::Grip;
use model::workload::{NetworkStatus, Resources};
use model::{DesiredState, HostWorkload, Phase, TaskStatus, Timestamp};

pub use fence::Heard;
pub use images::{DiskRoom, Fetch, FetchFailure, Import, copy_fits, images_to_drop, next_fetch};
pub use memory::{Chore, End, Failure, Fenced, Memory, StopSent, exit_code_of_failed_start};
pub use parts::Parts;

/// SIGTERM on every Linux architecture.
const SIGTERM: i32 = 15;
/// SIGKILL on every Linux architecture.
const SIGKILL: i32 = 9;
/// Seconds between stop signal and kill when nobody said otherwise; Docker's number.
const DEFAULT_GRACE_SECONDS: u32 = 10;
/// After how long a kill that showed no effect is repeated: the exit may have been missed, or the kernel is slow to
/// reap a large process.
const KILL_AGAIN_MS: i64 = 5_000;

/// One thing to do on the host. Steps of a list are done in order; [`Step::EnsureImage`] and [`Step::Prepare`] do not
/// depend on each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the image complete.
    EnsureImage,
    /// Make state folder and namespaces of an attempt.
    Prepare {
        /// Restarts by policy before it.
        attempt: u32,
    },
    /// Connect the prepared namespace.
    Attach,
    /// Start the prepared attempt.
    Start {
        /// Restarts by policy before it.
        attempt: u32,
    },
    /// Signal the first process.
    Signal {
        /// Number.
        signal: i32,
    },
    /// Kill every process, prepared ones too.
    Kill,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Change limits of the running task.
    Update {
        /// To these.
        resources: Box<Resources>,
    },
    /// Take the network away.
    Detach,
    /// Delete everything that belongs to it.
    Remove,
}

/// A step and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What.
    pub step: Step,
    /// Why, for people.
    pub why: &'static str,
}

/// What was seen of one workload on its host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// What the runtime says of its task. [`Phase::Pending`] and [`Phase::Preparing`] mean a prepared attempt.
    pub task: Option<&'a TaskStatus>,
    /// Its network, if one is attached.
    pub network: Option<&'a NetworkStatus>,
    /// The parts of pools there; `None`: nothing is known of them.
    pub parts: Option<Parts<'a>>,
}

/// What to do next about a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// To do now, in this order.
    pub steps: Vec<Planned>,
    /// The memory with the observation taken in.
    pub memory: Memory,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<Timestamp>,
    /// In how many milliseconds of the leases' clock to plan again at the latest.
    pub fence_in_ms: Option<u64>,
    /// What to report; `None`: nothing of it is left.
    pub status: Option<TaskStatus>,
}

/// Where the task is, sorted out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Prepared { run: u64, attempt: u32 },
    Alive { run: u64, paused: bool },
    Ended,
}

impl Seen<'_> {
    fn state(&self) -> State {
        let Some(task) = self.task else {
            return State::Nothing;
        };
        match task.phase {
            Phase::Pending | Phase::Preparing => State::Prepared {
                run: task.run,
                attempt: task.restart_count,
            },
            Phase::Running => State::Alive {
                run: task.run,
                paused: false,
            },
            Phase::Paused => State::Alive {
                run: task.run,
                paused: true,
            },
            Phase::Restarting | Phase::Exited | Phase::Failed | Phase::Unknown => State::Ended,
        }
    }
}

/// Decides what to do next about a workload that the host's document names.
#[must_use]
pub fn plan(
    want: &HostWorkload,
    seen: Seen<'_>,
    memory: &Memory,
    now: Timestamp,
    heard: Heard,
) -> Plan {
    let grip = fence::grip(want, heard);
    let mut memory = memory.clone();
    memory.observe(want, seen, now, grip);
    let mut next = Next {
        want,
        seen,
        now,
        grip,
        memory,
        steps: Vec::new(),
        wake_at: None,
    };
    next.decide(heard);
    let status = status::status(want, seen, &next.memory, grip);
    Plan {
        steps: next.steps,
        memory: next.memory,
        wake_at: next.wake_at,
        fence_in_ms: match grip {
            Grip::Held(ms) | Grip::Waiting(ms) | Grip::Ending(ms) => Some(ms),
            Grip::Free | Grip::Over => None,
        },
        status,
    }
}
/// The signal that stops a workload gently.
#[must_use]
pub fn stop_signal(want: &HostWorkload) -> i32 {
    want.spec
        .task
        .stop_signal
        .or_else(|| {
            want.image
                .config
                .stop_signal
                .as_deref()
                .and_then(signal_number)
        })
        .unwrap_or(SIGTERM)
}

/// A signal by name (`SIGTERM`, `TERM`) or number, as image configurations have it.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset
            .parse::<i32>()
            .ok()
            .filter(|n| (0..=30).contains(n))
            .map(|n| 34 + n);
    }
    // x86 and ARM numbers; the other architectures Linux names differently are not supported.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match name {
        "RTMIN" => return Some(34),
        "RTMAX" => return Some(64),
        _ => {}
    }
    NAMES
        .iter()
        .position(|n| *n == name)
        .and_then(|i| i32::try_from(i + 1).ok())
}

/// A plan in the making.
struct Next<'a> {
    want: &'a HostWorkload,
    seen: Seen<'a>,
    now: Timestamp,
    grip: Grip,
    memory: Memory,
    steps: Vec<Planned>,
    wake_at: Option<Timestamp>,
}

impl Next<'_> {
    fn decide(&mut self, heard: Heard) {
        if let State::Alive { .. } = self.seen.state() {
            match self.grip {
                Grip::Over => return self.fence(heard, Some(0)),
                // What is being stopped or replaced anyway had its signal.
                Grip::Ending(_) if fence::is_wanted(self.want) && !self.is_outdated() => {
                    return self.fence(heard, None);
                }
                Grip::Free | Grip::Held(_) | Grip::Waiting(_) | Grip::Ending(_) => {}
            }
        }
        match self.want.desired {
            DesiredState::Created => {}
            DesiredState::Running | DesiredState::Paused => self.running(),
            DesiredState::Stopped {
                grace_seconds,
                signal,
            } => self.stopped(signal, grace_seconds),
            DesiredState::Removed => self.removed(),
        }
    }

    /// Whether what lives is of an earlier run than the one that is wanted.
    fn is_outdated(&self) -> bool {
        matches!(self.seen.state(), State::Alive { run, .. } if run < self.want.run)
    }

    /// Ends what lives because its lease runs out: with a grace of nothing at once, else by signal; the kill comes with
    /// the end of the lease.
    fn fence(&mut self, heard: Heard, grace_seconds: Option<u32>) {
        if fence::is_wanted(self.want) {
            self.memory.fenced_at(self.now, heard.age());
        }
        let why = "no server was heard, and it may run on one host only";
        self.stop_live(None, grace_seconds, why);
    }

    fn step(&mut self, step: Step, why: &'static str) {
        self.steps.push(Planned { step, why });
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    /// A step outside the way to a start; left out while an earlier failure of it is fresh.
    fn chore(&mut self, chore: Chore, step: Step, why: &'static str) -> bool {
        match self.memory.chore_blocked_until(chore, self.now) {
            Some(until) => {
                self.wake(until);
                false
            }
            None => {
                self.step(step, why);
                true
            }
        }
    }

    fn running(&mut self) {
        match self.seen.state() {
            State::Alive { run, .. } if run < self.want.run => {
                let task = &self.want.spec.task;
                let grace = task.stop_grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
                self.stop_live(None, Some(grace), "a newer run is wanted");
            }
            State::Alive { paused, .. } => self.keep_alive(paused),
            State::Prepared { run, attempt }
                if self.memory.settled || (run, attempt) != self.memory.attempt_key() =>
            {
                self.kill("what was prepared is not wanted any more");
            }
            State::Nothing | State::Ended if self.memory.settled => self.release(),
            State::Nothing | State::Prepared { .. } | State::Ended => self.start(),
        }
    }

    fn keep_alive(&mut self, paused: bool) {
        let wanted = &self.want.spec.task.resources;
        if self.memory.limits.as_deref() != Some(wanted) {
            let resources = Box::new(wanted.clone());
            self.chore(
                Chore::Update,
                Step::Update { resources },
                "its limits were changed",
            );
        }
        let pause = self.want.desired == DesiredState::Paused;
        if pause && !paused {
            self.chore(Chore::Pause, Step::Pause, "it is to be frozen");
        } else if !pause && paused {
            self.chore(Chore::Pause, Step::Resume, "it is to go on");
        }
    }

    fn start(&mut self) {
        match self.grip {
            Grip::Free | Grip::Held(_) => {}
            // Asked again when a server is heard.
            Grip::Waiting(_) | Grip::Ending(_) | Grip::Over => return,
        }
        if !parts::are_there(self.want, self.seen.parts) {
            // Asked again when they are.
            return;
        }
        if let Some(at) = self.memory.start_blocked_until(self.now) {
            self.wake(at);
            return;
        }
        let (_, attempt) = self.memory.attempt_key();
        let why = if attempt == 0 {
            "its run has not begun"
        } else if self.memory.end.as_ref().is_some_and(|end| end.fenced) {
            "a server is heard again"
        } else {
            "its restart policy says so"
        };
        self.step(Step::EnsureImage, why);
        self.step(Step::Prepare { attempt }, why);
        self.step(Step::Attach, why);
        self.step(Step::Start { attempt }, why);
        if self.want.desired == DesiredState::Paused {
            self.step(Step::Pause, "it is to be frozen");
        }
    }

    fn stopped(&mut self, signal: Option<i32>, grace_seconds: Option<u32>) {
        match self.seen.state() {
            State::Alive { .. } => self.stop_live(signal, grace_seconds, "it is to stop"),
            State::Prepared { .. } => self.kill("it is to stop"),
            State::Nothing | State::Ended => self.release(),
        }
    }

    fn removed(&mut self) {
        if self.memory.removed {
            return;
        }
        match self.seen.state() {
            State::Alive { .. } | State::Prepared { .. } => self.kill("it is to be removed"),
            State::Nothing | State::Ended => {
                // Without this the network would be taken away again and again until the rest may be tried again.
                if let Some(until) = self.memory.chore_blocked_until(Chore::Remove, self.now) {
                    self.wake(until);
                    return;
                }
                // Both are asked for even if nothing was seen: a crash may have left half of it behind.
                if !self.chore(Chore::Detach, Step::Detach, "it is to be removed") {
                    return;
                }
                self.chore(Chore::Remove, Step::Remove, "it is to be removed");
            }
        }
    }

    /// Gives back what an ended task does not need.
    fn release(&mut self) {
        if self.seen.network.is_some() {
            self.chore(Chore::Detach, Step::Detach, "its task has ended");
        }
    }

    fn stop_live(&mut self, signal: Option<i32>, grace_seconds: Option<u32>, why: &'static str) {
        let signal = signal.unwrap_or_else(|| stop_signal(self.want));
        if signal == SIGKILL || grace_seconds == Some(0) {
            self.kill(why);
            return;
        }
        let sent = self.memory.stop.filter(|sent| sent.signal == signal);
        let Some(sent) = sent else {
            self.step(Step::Signal { signal }, why);
            if let State::Alive { paused: true, .. } = self.seen.state() {
                self.step(Step::Resume, "a frozen task cannot act on its stop signal");
            }
            return;
        };
        let Some(grace) = grace_seconds else { return };
        let deadline = sent.at.plus_millis(i64::from(grace) * 1000);
        if self.now < deadline {
            self.wake(deadline);
        } else {
            self.kill("its time to stop by itself is over");
        }
    }

    fn kill(&mut self, why: &'static str) {
        let again = self
            .memory
            .kill_sent
            .map(|at| at.plus_millis(KILL_AGAIN_MS))
            .filter(|again| self.now < *again);
        match again {
            Some(again) => self.wake(again),
            None => self.step(Step::Kill, why),
        }
    }
}
