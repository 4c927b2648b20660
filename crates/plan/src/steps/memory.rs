//! What a host remembers of a workload between plans: which attempt it is at, when to try again, what was sent.
//!
//! It is kept in the host's ledger. Losing it costs back-off and counters, never a second start of the same attempt:
//! what was observed overrules it.

use model::workload::Resources;
use model::{DesiredState, HostWorkload, Phase, RestartPolicy, TaskStatus, Timestamp};
use serde::{Deserialize, Serialize};

use super::fence::{self, Grip};
use super::{DEFAULT_GRACE_SECONDS, Seen, Step};

/// Wait before the first restart or retry; Docker's number.
const BACKOFF_FIRST_MS: i64 = 100;
/// Longest wait between restarts or retries; Docker's number.
const BACKOFF_LONGEST_MS: i64 = 60_000;
/// A task that ran so long was healthy: its next restart is quick again; Docker's number.
const HEALTHY_MS: i64 = 10_000;
/// Tries of image, preparation and network before a first start fails: about three seconds, so that a hiccup does not
/// fail `docker run` and a broken registry does not make it wait long.
const TRIES: u32 = 5;
/// How long after its grace an end is still taken as the effect of a stop signal, when the lease is back meanwhile: what
/// a busy host takes to reap and tell.
const FENCED_LINGER_MS: i64 = 5_000;
/// Exit code Docker gives a task whose host lost it.
const EXIT_LOST: i32 = 255;

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub message: String,
    /// Whether the same step may work later without anyone changing the workload.
    pub retry: bool,
}

/// How an attempt ended, or why it could not begin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// The attempt.
    pub attempt: u32,
    /// Exit code; 128 + signal if killed by one.
    pub exit_code: i32,
    /// What went wrong; empty: nothing.
    pub error: String,
    /// Whether it never began.
    pub failed: bool,
    /// Whether the kernel killed a process because memory ran out.
    pub oom_killed: bool,
    /// Whether it was ended because its lease was over: it goes on as a further attempt, whatever the policy.
    pub fenced: bool,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// A stop signal that was sent to the living attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSent {
    /// Which.
    pub signal: i32,
    /// When.
    pub at: Timestamp,
}

/// An order to end the living attempt because its lease runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// When it was given first.
    pub at: Timestamp,
    /// How long no server had been heard then, in milliseconds.
    pub silent_ms: u64,
}

/// Steps that are repeated with a back-off of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chore {
    /// Pause and resume.
    Pause,
    /// New limits.
    Update,
    /// Detach.
    Detach,
    /// Remove.
    Remove,
}

/// A chore that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retry {
    chore: Chore,
    tries: u32,
    at: Timestamp,
}

/// What a host remembers of a workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The run that is current; 0: none yet.
    pub run: u64,
    /// Current or next attempt of that run: restarts by policy before it.
    pub attempt: u32,
    /// Whether that attempt has begun.
    pub begun: bool,
    /// Whether the run is over for good.
    pub settled: bool,
    /// How the last attempt of the run ended.
    pub end: Option<End>,
    /// Ends in a row without a healthy time between.
    pub quick_ends: u32,
    /// The attempt is not begun before this moment.
    pub not_before: Option<Timestamp>,
    /// Failed tries to begin this attempt.
    pub tries: u32,
    /// Why the last try or chore failed; empty: it did not.
    pub error: String,
    /// Stop signal sent to the living attempt.
    pub stop: Option<StopSent>,
    /// When a kill was last sent to it.
    pub kill_sent: Option<Timestamp>,
    /// That it is being ended because its lease runs out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fenced: Option<Fenced>,
    /// Limits it runs with, as far as known.
    pub limits: Option<Box<Resources>>,
    /// Everything of it was deleted.
    pub removed: bool,
    /// Chores that failed last time; at most one entry of each.
    pub(super) retries: Vec<Retry>,
}

fn backoff(earlier: u32) -> i64 {
    BACKOFF_FIRST_MS
        .saturating_mul(1_i64 << earlier.min(20))
        .min(BACKOFF_LONGEST_MS)
}

/// The exit code Docker gives a task that could not be started, by what went wrong.
#[must_use]
pub fn exit_code_of_failed_start(message: &str) -> i32 {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| message.contains(w));
    if says(&[
        "executable file not found",
        "no such file or directory",
        "not a directory",
    ]) {
        127
    } else if says(&["permission denied", "exec format error"]) {
        126
    } else {
        128
    }
}

impl Memory {
    /// Run and number of the current or next attempt.
    #[must_use]
    pub fn attempt_key(&self) -> (u64, u32) {
        (self.run, self.attempt)
    }

    /// Moment before which the attempt must not begin, if that is not over. A clock that was set back cannot make it
    /// wait longer than the longest back-off.
    pub(super) fn start_blocked_until(&self, now: Timestamp) -> Option<Timestamp> {
        blocked(self.not_before, now)
    }

    pub(super) fn chore_blocked_until(&self, chore: Chore, now: Timestamp) -> Option<Timestamp> {
        let retry = self.retries.iter().find(|r| r.chore == chore)?;
        blocked(Some(retry.at), now)
    }

    fn end_is_known(&self) -> bool {
        self.end.as_ref().is_some_and(|e| e.attempt == self.attempt)
    }

    fn next_run(&mut self, run: u64) {
        *self = Self {
            run,
            ..Self::default()
        };
    }

    /// It is being ended because its lease runs out.
    pub(super) fn fenced_at(&mut self, now: Timestamp, silent_ms: u64) {
        self.fenced.get_or_insert(Fenced { at: now, silent_ms });
    }

    /// The lease is back and the attempt lives: a signal that was sent shows its effect within the grace or not at all.
    fn leased_again(&mut self, want: &HostWorkload, now: Timestamp) {
        let grace = want.spec.task.stop_grace_seconds;
        let grace = i64::from(grace.unwrap_or(DEFAULT_GRACE_SECONDS)) * 1000;
        let over = |fenced: &Fenced| fenced.at.plus_millis(grace + FENCED_LINGER_MS) < now;
        if self.fenced.as_ref().is_some_and(over) {
            self.fenced = None;
        }
    }

    /// Takes in what was seen.
    pub(super) fn observe(
        &mut self,
        want: &HostWorkload,
        seen: Seen<'_>,
        now: Timestamp,
        grip: Grip,
    ) {
        let alive = seen.task.is_some_and(|t| t.phase.is_alive());
        match seen.task {
            Some(task) => self.observe_task(want, task, now),
            None if self.begun && !self.end_is_known() => {
                let end = End {
                    exit_code: EXIT_LOST,
                    error: "its host lost it".to_owned(),
                    finished_at: Some(now),
                    ..End::default()
                };
                self.end_attempt(want, end, now);
            }
            None => {}
        }
        let prepared = seen
            .task
            .is_some_and(|t| matches!(t.phase, Phase::Pending | Phase::Preparing));
        if !alive && !prepared {
            self.stop = None;
            self.kill_sent = None;
        }
        match want.desired {
            DesiredState::Created => {}
            DesiredState::Running | DesiredState::Paused => {
                if alive && self.run >= want.run {
                    match grip {
                        Grip::Free | Grip::Held(_) | Grip::Waiting(_) => {
                            // A stop that was called off.
                            self.stop = None;
                            self.kill_sent = None;
                            self.leased_again(want, now);
                        }
                        Grip::Ending(_) | Grip::Over => {}
                    }
                } else if !alive && want.run > self.run {
                    self.next_run(want.run);
                }
            }
            DesiredState::Stopped { .. } if !alive && !prepared => self.settle_stopped(want, now),
            DesiredState::Stopped { .. } => {}
            DesiredState::Removed => {
                self.settled = true;
                if seen.task.is_some() {
                    self.removed = false;
                }
            }
        }
    }

    fn settle_stopped(&mut self, want: &HostWorkload, now: Timestamp) {
        if want.run > self.run {
            self.next_run(want.run);
        }
        if self.run > 0 && self.end.is_none() {
            self.end = Some(End {
                attempt: self.attempt,
                exit_code: 137,
                error: "stopped before it was started".to_owned(),
                finished_at: Some(now),
                ..End::default()
            });
        }
        self.settled = true;
        self.not_before = None;
    }

    fn observe_task(&mut self, want: &HostWorkload, task: &TaskStatus, now: Timestamp) {
        let key = (task.run, task.restart_count);
        let prepared = matches!(task.phase, Phase::Pending | Phase::Preparing);
        let alive = task.phase.is_alive();
        let newer =
            key > self.attempt_key() || (alive && task.run == self.run && self.attempt != key.1);
        if newer {
            // The ledger was lost or did not get the last record.
            if task.run > self.run {
                self.next_run(task.run);
            }
            self.attempt = key.1;
            self.begun = false;
            self.settled = false;
            self.not_before = None;
        }
        if key != self.attempt_key() || prepared {
            return;
        }
        self.begun = true;
        self.tries = 0;
        self.not_before = None;
        if alive {
            self.settled = false;
            self.end = self.end.take().filter(|e| e.attempt < key.1);
        } else if !self.end_is_known() {
            let fenced = self.fenced.map(|it| fence::ended_text(it.silent_ms));
            let end = End {
                attempt: key.1,
                exit_code: task.exit_code,
                fenced: fenced.is_some() || task.fenced,
                error: fenced.unwrap_or_else(|| task.error.clone()),
                failed: task.phase == Phase::Failed,
                oom_killed: task.oom_killed,
                started_at: task.started_at,
                finished_at: task.finished_at.or(Some(now)),
            };
            self.end_attempt(want, end, now);
        }
    }

    /// The current attempt is over: the restart policy decides, unless it had to end for want of a lease.
    fn end_attempt(&mut self, want: &HostWorkload, end: End, now: Timestamp) {
        let lived = match (end.started_at, end.finished_at) {
            (Some(from), Some(to)) => to.millis().saturating_sub(from.millis()),
            _ => 0,
        };
        if lived >= HEALTHY_MS {
            self.quick_ends = 0;
        }
        let wanted = matches!(want.desired, DesiredState::Running | DesiredState::Paused)
            && want.run <= self.run;
        // As Docker: a run whose very first start fails is an error for the one who started it, not a restart.
        let first_start_failed = end.failed && self.attempt == 0;
        let again = wanted
            && !first_start_failed
            && (end.fenced || restarts(want.spec.restart, end.exit_code, self.attempt));
        let fenced = end.fenced;
        self.stop = None;
        self.kill_sent = None;
        self.fenced = None;
        self.tries = 0;
        self.error.clear();
        self.begun = true;
        self.end = Some(End {
            attempt: self.attempt,
            ..end
        });
        if again {
            self.attempt = self.attempt.saturating_add(1);
            self.begun = false;
            // An end for want of a lease is no failure: it goes on as soon as the lease is back.
            self.not_before = (!fenced).then(|| now.plus_millis(backoff(self.quick_ends)));
            self.quick_ends = self.quick_ends.saturating_add(u32::from(!fenced));
        } else {
            self.settled = true;
            self.not_before = None;
        }
    }

    /// Takes in how a step went. `want` is what the step was done for.
    pub fn record(
        &mut self,
        want: &HostWorkload,
        step: &Step,
        result: Result<(), &Failure>,
        now: Timestamp,
    ) {
        if self.is_past(want, step) {
            return;
        }
        match (step, result) {
            (Step::EnsureImage | Step::Prepare { .. } | Step::Attach, Ok(())) => {}
            (
                Step::EnsureImage | Step::Prepare { .. } | Step::Attach | Step::Start { .. },
                Err(failure),
            ) => {
                let retry = failure.retry && !matches!(step, Step::Start { .. });
                self.start_failed(want, failure, retry, now);
            }
            (Step::Start { attempt }, Ok(())) => {
                self.run = self.run.max(want.run);
                self.attempt = *attempt;
                self.begun = true;
                self.tries = 0;
                self.not_before = None;
                self.error.clear();
                self.stop = None;
                self.kill_sent = None;
                self.fenced = None;
                self.retries.clear();
                self.limits = Some(Box::new(want.spec.task.resources.clone()));
            }
            // A signal that could not be delivered does not stop the clock: the kill comes.
            (Step::Signal { signal }, Ok(()) | Err(_)) => {
                self.stop = Some(StopSent {
                    signal: *signal,
                    at: now,
                });
            }
            (Step::Kill, Ok(()) | Err(_)) => self.kill_sent = Some(now),
            (Step::Pause | Step::Resume, result) => self.chore(Chore::Pause, result, now),
            (Step::Update { resources }, result) => {
                if result.is_ok() {
                    self.limits = Some(resources.clone());
                }
                self.chore(Chore::Update, result, now);
            }
            (Step::Detach, result) => self.chore(Chore::Detach, result, now),
            (Step::Remove, result) => {
                self.removed = result.is_ok();
                self.chore(Chore::Remove, result, now);
            }
        }
    }

    /// Whether a step belongs to a run or attempt that is over: its end was heard before the step's result, or a newer
    /// run is wanted.
    fn is_past(&self, want: &HostWorkload, step: &Step) -> bool {
        match step {
            Step::EnsureImage | Step::Attach => want.run < self.run,
            Step::Prepare { attempt } => (want.run, *attempt) < self.attempt_key(),
            Step::Start { attempt } => {
                let key = (want.run, *attempt);
                key < self.attempt_key() || (key == self.attempt_key() && self.end_is_known())
            }
            Step::Signal { .. }
            | Step::Kill
            | Step::Pause
            | Step::Resume
            | Step::Update { .. }
            | Step::Detach
            | Step::Remove => false,
        }
    }

    fn start_failed(
        &mut self,
        want: &HostWorkload,
        failure: &Failure,
        retry: bool,
        now: Timestamp,
    ) {
        if retry && self.tries + 1 < TRIES {
            self.not_before = Some(now.plus_millis(backoff(self.tries)));
            self.tries += 1;
            self.error.clone_from(&failure.message);
            return;
        }
        let end = End {
            exit_code: exit_code_of_failed_start(&failure.message),
            error: failure.message.clone(),
            failed: true,
            finished_at: Some(now),
            ..End::default()
        };
        self.end_attempt(want, end, now);
    }

    fn chore(&mut self, chore: Chore, result: Result<(), &Failure>, now: Timestamp) {
        let earlier = self.retries.iter().position(|r| r.chore == chore);
        let earlier = earlier.map(|index| self.retries.swap_remove(index));
        match result {
            Ok(()) if earlier.is_some() => self.error.clear(),
            Ok(()) => {}
            Err(failure) => {
                let tries = earlier.map_or(0, |r| r.tries);
                self.error.clone_from(&failure.message);
                self.retries.push(Retry {
                    chore,
                    tries: tries.saturating_add(1),
                    at: now.plus_millis(backoff(tries)),
                });
            }
        }
    }
}

fn blocked(until: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let until = until?.min(now.plus_millis(BACKOFF_LONGEST_MS));
    (now < until).then_some(until)
}

fn restarts(policy: RestartPolicy, exit_code: i32, restarts: u32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_retries } => {
            exit_code != 0 && (max_retries == 0 || restarts < max_retries)
        }
    }
}
