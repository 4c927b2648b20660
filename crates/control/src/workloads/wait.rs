//! What can be waited for, and when it has happened.

use std::time::Duration;

use model::{DesiredState, Phase, PoolId, Timestamp, Workload, WorkloadId};

use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, Seen};
use crate::error::Result;

/// Whether a verb changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Yes,
    /// Everything was so already.
    Already,
}
/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run; answers at once if it does not.
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is removed.
    Removed,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitOutcome {
    /// Exit code.
    pub exit_code: i32,
    /// What went wrong, if it could not run.
    pub error: Option<String>,
}

/// How long to wait for a host to carry out something that takes no time of its own.
pub(super) const HOST_LIMIT: Duration = Duration::from_secs(30);

impl Control {
    /// Waits until no process of the workload's current run exists.
    pub(super) async fn wait_ended(&self, id: &WorkloadId, limit: Option<Duration>) -> Result<()> {
        self.wait_workload(id, limit, |_, seen| match seen {
            Seen::Gone(_) => Some(Ok(())),
            Seen::There(w) if w.status.phase.is_final() && w.status.run >= w.run => Some(Ok(())),
            Seen::There(_) => None,
        })
        .await
    }

    /// Checks that a wait is allowed, and gives the wait itself, so that a caller can answer in between.
    ///
    /// # Errors
    /// When there is no such workload.
    pub fn workload_wait_begin(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Result<WaitOutcome>> + Send + 'static> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::WorkloadRead, Scope::Pool(pool))?;
        let workload = self.workload_get(&snapshot, pool, id)?;
        let (control, id) = (self.clone(), id.clone());
        let (first_run, first_end) = (workload.status.run, workload.status.finished_at);
        Ok(async move {
            control
                .wait_workload(&id, None, move |_, seen| match seen {
                    Seen::Gone(last) => Some(Ok(last.map(last_outcome).unwrap_or_default())),
                    Seen::There(workload) => waited(workload, condition, first_run, first_end)
                        .then(|| Ok(outcome(workload))),
                })
                .await
        })
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// When there is no such workload.
    pub async fn workload_wait(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        condition: WaitCondition,
    ) -> Result<WaitOutcome> {
        self.workload_wait_begin(caller, pool, id, condition)?.await
    }
}

/// Exit code of what was killed, and of what was stopped before it was started.
const KILLED: i32 = 137;

/// Exit code of what nobody knows anything of.
const FORGOTTEN: i32 = 255;

/// How it ended when its record went: with its host, if its removal was not asked for.
fn last_outcome(workload: &Workload) -> WaitOutcome {
    let forgotten = workload.desired != DesiredState::Removed && workload.may_be_alive();
    if !forgotten {
        return outcome(workload);
    }
    WaitOutcome {
        exit_code: FORGOTTEN,
        error: Some("its host was removed from the installation while it ran".into()),
    }
}

fn outcome(workload: &Workload) -> WaitOutcome {
    let status = &workload.status;
    let error = &status.error;
    // A host may say only that a removed workload is gone: what lived, or was about to, was then killed.
    let unheard = match status.phase {
        Phase::Running | Phase::Paused | Phase::Unknown => true,
        Phase::Pending | Phase::Preparing => workload.run > 0,
        Phase::Restarting | Phase::Exited | Phase::Failed => false,
    };
    // What is to be tried again has an error only if it could not be started.
    let failed = matches!(status.phase, Phase::Failed | Phase::Restarting);
    let killed = unheard && workload.desired == DesiredState::Removed;
    WaitOutcome {
        exit_code: if killed { KILLED } else { status.exit_code },
        error: (failed && !error.is_empty()).then(|| error.clone()),
    }
}

fn waited(
    workload: &Workload,
    condition: WaitCondition,
    first_run: u64,
    first_end: Option<Timestamp>,
) -> bool {
    let status = &workload.status;
    let over = workload.run == 0 || (status.phase.is_final() && status.run >= workload.run);
    // What has run or may run is over when its host says so: the record goes then.
    let removed =
        workload.desired == DesiredState::Removed && (workload.run == 0 || status.phase.is_final());
    let ended_anew =
        status.finished_at.is_some() && (status.finished_at != first_end || status.run > first_run);
    match condition {
        // As with dockerd, an end counts although the restart policy starts it again.
        WaitCondition::NotRunning => over || removed || ended_anew,
        WaitCondition::NextExit => {
            let failed_anew = status.phase == Phase::Failed && status.run > first_run;
            ended_anew || failed_anew || removed
        }
        WaitCondition::Removed => removed,
    }
}
