//! Stop, restart, signal, freeze and thaw.

use std::time::Duration;

use model::{DesiredState, Object, Phase, PoolId, Workload, WorkloadId};
use store::Transaction;
use wire::link::StreamRequest;

use super::Changed;
use super::find::{live, running_host};
use super::start::StartOptions;
use super::wait::HOST_LIMIT;
use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, Seen};
use crate::error::{Error, Result};
use crate::observe::{is_to_go, mark_removed};

/// How to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Seconds until it is killed: `None`: the workload's own; `Some(None)`: never.
    pub grace_seconds: Option<Option<u32>>,
    /// Signal instead of the workload's own.
    pub signal: Option<i32>,
}

impl Control {
    /// Stops a workload and waits until it has ended.
    ///
    /// # Errors
    /// When there is none, or its host cannot be reached.
    pub async fn workload_stop(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        options: StopOptions,
    ) -> Result<Changed> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        let changed = self
            .change(&grant, |snapshot| {
                let row = live(snapshot, pool, id)?;
                let over = !row.may_be_alive();
                if over && !matches!(row.desired, DesiredState::Running | DesiredState::Paused) {
                    return Ok((None, Changed::Already));
                }
                let mut changed = row.value().clone();
                changed.desired = DesiredState::Stopped {
                    grace_seconds: grace(row.value(), options),
                    signal: options.signal,
                };
                changed.hold = None;
                // What was held ended without being removed: it was to start again.
                if is_to_go(&changed) {
                    mark_removed(&mut changed);
                }
                let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
                Ok((Some(tx), if over { Changed::Already } else { Changed::Yes }))
            })
            .await?;
        if changed == Changed::Yes {
            let workload = self.workload_get(&self.snapshot(), pool, id)?;
            self.wait_ended(id, stop_limit(options, &workload)).await?;
        }
        Ok(changed)
    }

    /// Stops (if it runs) and starts again.
    ///
    /// # Errors
    /// As [`Control::workload_stop`] and [`Control::workload_start`].
    pub async fn workload_restart(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        options: StopOptions,
    ) -> Result<()> {
        self.workload_stop(caller, pool, id, options).await?;
        self.workload_start(caller, pool, id, StartOptions::default())
            .await?;
        let workload = self.workload_get(&self.snapshot(), pool, id)?;
        self.inner.events.workload(&workload, "restart", &[]);
        Ok(())
    }

    /// Sends a signal to the first process. SIGKILL waits until it has ended, and, like the stop signal, counts as a
    /// stop by a person: the restart policy does not start it again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn workload_kill(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        signal: i32,
    ) -> Result<()> {
        const SIGKILL: i32 = 9;
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        let workload = self.workload_get(&snapshot, pool, id)?;
        let host = running_host(&workload)?;
        if signal != SIGKILL {
            self.request_host(
                &host,
                StreamRequest::Signal {
                    id: id.clone(),
                    signal,
                },
            )
            .await?;
            self.inner
                .events
                .workload(&workload, "kill", &[("signal", signal.to_string())]);
            return Ok(());
        }
        self.change(&grant, |snapshot| {
            let row = live(snapshot, pool, id)?;
            let mut changed = row.value().clone();
            changed.desired = DesiredState::Stopped {
                grace_seconds: Some(0),
                signal: Some(SIGKILL),
            };
            changed.hold = None;
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Workload(changed))),
                (),
            ))
        })
        .await?;
        self.wait_ended(id, Some(HOST_LIMIT)).await
    }

    /// Freezes a running workload.
    ///
    /// # Errors
    /// When it does not run or is frozen already.
    pub async fn workload_pause(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
    ) -> Result<()> {
        self.freeze(caller, pool, id, true).await
    }

    /// Thaws a frozen workload.
    ///
    /// # Errors
    /// When it is not frozen.
    pub async fn workload_resume(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
    ) -> Result<()> {
        self.freeze(caller, pool, id, false).await
    }

    async fn freeze(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        frozen: bool,
    ) -> Result<()> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        self.change(&grant, |snapshot| {
            let row = live(snapshot, pool, id)?;
            running_host(row.value())?;
            match (row.desired, frozen) {
                (DesiredState::Paused, true) => {
                    return Err(Error::conflict(format!("Container {id} is already paused")));
                }
                (DesiredState::Paused, false) | (DesiredState::Running, true) => {}
                _ => return Err(Error::conflict(format!("Container {id} is not paused"))),
            }
            let mut changed = row.value().clone();
            changed.desired = if frozen {
                DesiredState::Paused
            } else {
                DesiredState::Running
            };
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Workload(changed))),
                (),
            ))
        })
        .await?;
        let wanted = if frozen {
            Phase::Paused
        } else {
            Phase::Running
        };
        self.wait_workload(id, Some(HOST_LIMIT), |_, seen| match seen {
            Seen::There(w) if w.status.phase == wanted => Some(Ok(())),
            Seen::There(w) if w.status.phase.is_alive() => None,
            Seen::There(_) | Seen::Gone(_) => Some(Err(Error::conflict(format!(
                "Container {id} is not running"
            )))),
        })
        .await
    }
}

/// Docker's default: ten seconds.
const DEFAULT_GRACE_SECONDS: u32 = 10;

fn grace(workload: &Workload, options: StopOptions) -> Option<u32> {
    match options.grace_seconds {
        Some(grace) => grace,
        None => Some(
            workload
                .spec
                .task
                .stop_grace_seconds
                .unwrap_or(DEFAULT_GRACE_SECONDS),
        ),
    }
}

fn stop_limit(options: StopOptions, workload: &Workload) -> Option<Duration> {
    grace(workload, options).map(|seconds| HOST_LIMIT + Duration::from_secs(u64::from(seconds)))
}
