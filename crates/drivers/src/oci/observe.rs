//! What is true of a task, from its shim if one answers, else from what it left on disk.
//!
//! Start with [`look`]. Always holds: an attempt that ran is reported with an exit, known or not; nothing
//! is concluded from a process number alone.

use agent::driver::ObservedTask;
use model::workload::Phase as TaskPhase;
use model::{TaskStatus, Timestamp, WorkloadId};
use shim::message::{Failure, Phase};
use shim::process::{ProcessId, boot_id};
use shim::state::{EXIT_FILE, ExitRecord, STATE_FILE, ShimState};

use super::client::Connection;
use super::task_dir::{RunDir, read_or_quarantine};

/// Why a shim has ended its task.
const FENCED: &str = "stopped: neither the host's agent nor a server was heard in time, and it may run on one host only";

/// An attempt as it was found.
#[derive(Debug)]
pub(super) enum Found {
    /// A shim answers; its task runs or is about to.
    Living {
        /// The way to it.
        connection: Connection,
        /// The shim.
        shim: ProcessId,
        /// How far it is.
        phase: Phase,
    },
    /// It has ended.
    Ended(TaskStatus),
    /// The task runs, but nobody holds its streams any more.
    Orphaned(ProcessId),
    /// It was prepared and never started.
    NeverStarted,
}

/// Looks at the newest attempt of a workload.
pub(super) async fn look(run: &RunDir) -> Found {
    if let Ok(connection) = Connection::connect(&run.path).await {
        let life = connection.life().borrow().clone();
        if let (Some(shim), Some(phase)) = (life.shim, life.phase) {
            match phase {
                Phase::Exited { exit } => return Found::Ended(exited(&exit, run)),
                Phase::Prepared
                | Phase::Starting
                | Phase::Running { .. }
                | Phase::Failed { .. } => {
                    return Found::Living {
                        connection,
                        shim,
                        phase,
                    };
                }
            }
        }
    }
    if let Some(exit) = read_or_quarantine::<ExitRecord>(&run.path.join(EXIT_FILE)) {
        return Found::Ended(exited(&exit, run));
    }
    let Some(state) = read_or_quarantine::<ShimState>(&run.path.join(STATE_FILE)) else {
        // Without the file nothing says that it ever ran; the log may.
        return Found::NeverStarted;
    };
    let Some(task) = state.task else {
        return Found::NeverStarted;
    };
    if boot_id().is_ok_and(|boot| boot == state.boot) {
        if task.is_alive() {
            return Found::Orphaned(task);
        }
        return Found::Ended(unknown_end(
            run,
            "its supervisor ended without recording how the task did",
        ));
    }
    Found::Ended(unknown_end(run, "the host was restarted while it ran"))
}

/// Status of an attempt whose exit nobody saw. 137 is what it would be had it been killed, which is likely.
pub(super) fn unknown_end(run: &RunDir, why: &str) -> TaskStatus {
    TaskStatus {
        phase: TaskPhase::Exited,
        run: run.run,
        restart_count: run.attempt,
        exit_code: 137,
        error: why.to_owned(),
        started_at: started_at(run),
        finished_at: Some(now()),
        ..TaskStatus::default()
    }
}

/// Status of an attempt that ended.
pub(super) fn exited(exit: &ExitRecord, run: &RunDir) -> TaskStatus {
    TaskStatus {
        phase: if exit.failure.is_some() {
            TaskPhase::Failed
        } else {
            TaskPhase::Exited
        },
        run: run.run,
        restart_count: run.attempt,
        exit_code: exit.code,
        oom_killed: exit.oom,
        fenced: exit.fenced,
        error: match &exit.failure {
            Some(failure) => failure.reason.clone(),
            None if exit.fenced => FENCED.to_owned(),
            None => String::new(),
        },
        started_at: Some(timestamp(exit.started_ns)),
        finished_at: Some(timestamp(exit.ended_ns)),
        ..TaskStatus::default()
    }
}

/// Status of an attempt that could not be started.
pub(super) fn failed(failure: &Failure, run: &RunDir) -> TaskStatus {
    TaskStatus {
        phase: TaskPhase::Failed,
        run: run.run,
        restart_count: run.attempt,
        exit_code: match failure.kind {
            shim::message::FailureKind::NotFound => 127,
            shim::message::FailureKind::NotExecutable => 126,
            shim::message::FailureKind::User
            | shim::message::FailureKind::Value
            | shim::message::FailureKind::NoTask
            | shim::message::FailureKind::Other => 128,
        },
        error: failure.reason.clone(),
        finished_at: Some(now()),
        ..TaskStatus::default()
    }
}

/// Status of an attempt that runs.
pub(super) fn running(task: ProcessId, run: &RunDir, started_ns: u64, frozen: bool) -> TaskStatus {
    // Only the shim knows when it was; 0 is from one that did not tell, or from nobody.
    let started_at = match started_ns {
        0 => started_at(run),
        ns => Some(timestamp(ns)),
    };
    TaskStatus {
        phase: if frozen {
            TaskPhase::Paused
        } else {
            TaskPhase::Running
        },
        run: run.run,
        restart_count: run.attempt,
        pid: u32::try_from(task.pid).unwrap_or(0),
        started_at,
        ..TaskStatus::default()
    }
}

/// When an attempt began, from the file of its shim.
fn started_at(run: &RunDir) -> Option<Timestamp> {
    read_or_quarantine::<ShimState>(&run.path.join(STATE_FILE))?
        .started_ns
        .map(timestamp)
}

/// As the agent wants it.
pub(super) fn observed(
    id: &WorkloadId,
    status: TaskStatus,
    shim: Option<ProcessId>,
) -> ObservedTask {
    let alive = status.phase.is_alive() || status.phase == TaskPhase::Preparing;
    ObservedTask {
        id: id.clone(),
        status,
        namespace_pid: shim
            .filter(|_| alive)
            .and_then(|shim| u32::try_from(shim.pid).ok()),
    }
}

/// Nanoseconds since 1970 as a time stamp.
pub(super) fn timestamp(ns: u64) -> Timestamp {
    Timestamp(i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX))
}

/// Now.
pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
