//! Verbs on workloads: write desired state, then wait for it to be observed.

use std::time::Duration;

use model::workload::{NetworkMode, Resources, RestartPolicy};
use model::{
    DesiredState, HostId, Key, Name, Object, Phase, PoolId, TaskStatus, Timestamp, Workload,
    WorkloadId, WorkloadSpec,
};
use plan::place::{Candidate, Wanted};
use store::{Expect, Row, Snapshot, Transaction};
use wire::link::StreamRequest;

use crate::caller::{Action, Caller, Grant, Scope};
use crate::core::{Control, Seen, now, random};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;
use crate::metrics::Counters;
use crate::observe::{known_phase, mark_removed};

/// Whether a verb changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Yes,
    /// Everything was so already.
    Already,
}

/// How to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Seconds until it is killed: `None`: the workload's own; `Some(None)`: never.
    pub grace_seconds: Option<Option<u32>>,
    /// Signal instead of the workload's own.
    pub signal: Option<i32>,
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

/// What is to change; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct WorkloadUpdate {
    /// Limits, as a whole.
    pub resources: Option<Resources>,
    /// Restart policy.
    pub restart: Option<RestartPolicy>,
}

/// How to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Also if it runs: it is killed.
    pub force: bool,
    /// With its anonymous volumes (they always go with it in this version).
    pub volumes: bool,
}

/// Workloads of one pool: bounds what a runaway client can create.
const WORKLOADS_PER_POOL_MAX: usize = 100_000;

/// How long to wait for a host to carry out something that takes no time of its own.
const HOST_LIMIT: Duration = Duration::from_secs(30);

/// How long a start may wait while the host cannot be reached.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(10);

/// Whether a workload counts as a load of its host and a charge of its pool.
pub(crate) fn counts(workload: &Workload) -> bool {
    match workload.desired {
        DesiredState::Running | DesiredState::Paused => {
            !workload.status.phase.is_final() || workload.status.run < workload.run
        }
        DesiredState::Created | DesiredState::Stopped { .. } | DesiredState::Removed => {
            workload.status.phase.is_alive()
        }
    }
}

impl Control {
    /// Workloads of a pool, newest first, without those being removed.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn workload_list(&self, caller: &Caller, pool: &PoolId) -> Result<Vec<Kept<Workload>>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::WorkloadRead, Scope::Pool(pool))?;
        let mut list: Vec<Kept<Workload>> = visible(&snapshot, pool).map(Kept::from).collect();
        list.sort_by(|a, b| {
            b.created_at
                .cmp(&a.created_at)
                .then_with(|| a.id.cmp(&b.id))
        });
        Ok(list)
    }

    /// A workload by full id, name, or unique beginning of its id; only the pool's own are looked at.
    ///
    /// # Errors
    /// When there is none, or several begin so.
    pub fn workload_find(
        &self,
        caller: &Caller,
        pool: &PoolId,
        reference: &str,
    ) -> Result<Kept<Workload>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::WorkloadRead, Scope::Pool(pool))?;
        find(&snapshot, pool, reference)
    }

    /// The phase as far as can be known now.
    #[must_use]
    pub fn workload_phase(&self, workload: &Workload) -> Phase {
        known_phase(&self.snapshot(), workload)
    }

    /// Makes a workload. Nothing runs yet.
    ///
    /// # Errors
    /// When form or policy do not allow it, the image is missing, or the name is taken.
    pub async fn workload_create(
        &self,
        caller: &Caller,
        pool: &PoolId,
        name: Option<Name>,
        spec: WorkloadSpec,
    ) -> Result<Kept<Workload>> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::WorkloadCreate, Scope::Pool(pool))?;
        admit(&snapshot, pool, &spec)?;
        if snapshot.image(pool, &spec.task.image_id).is_none() {
            return Err(Error::not_found("image", &spec.task.image));
        }
        if let NetworkMode::Workload { id } = &spec.network {
            self.workload_get(&snapshot, pool, id)?;
        }
        if snapshot
            .workloads_of(pool)
            .take(WORKLOADS_PER_POOL_MAX)
            .count()
            >= WORKLOADS_PER_POOL_MAX
        {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the pool has {WORKLOADS_PER_POOL_MAX} workloads already: remove some first"
                ),
            ));
        }
        let random_bytes = random()?;
        let id = WorkloadId::from_bytes(&random_bytes);
        let name = match name {
            Some(name) => name,
            None => self.free_name(&snapshot, pool)?,
        };
        let image_key = Key::Image(pool.clone(), spec.task.image_id.clone());
        let workload = Workload {
            id: id.clone(),
            pool: pool.clone(),
            name: name.clone(),
            spec,
            desired: DesiredState::Created,
            run: 0,
            host: None,
            placement: None,
            status: TaskStatus::default(),
            created_at: now(),
        };
        let tx = Transaction::new()
            .expect(Key::Pool(pool.clone()), Expect::Exists)
            .expect(image_key, Expect::Exists)
            .create(Object::Workload(workload));
        match self.commit(&grant, tx).await {
            Ok(_) => {}
            Err(store::CommitError::NameTaken { holder, .. }) => {
                let holder = match &holder {
                    Key::Workload(id) => id.to_string(),
                    other => other.to_string(),
                };
                return Err(Error::conflict(format!(
                    "the name \"/{name}\" is already in use by container \"{holder}\": remove or rename that one, or \
                     use another name"
                )));
            }
            Err(error) => return Err(error.into()),
        }
        self.workload_get(&self.snapshot(), pool, &id)
    }

    fn free_name(&self, snapshot: &Snapshot, pool: &PoolId) -> Result<Name> {
        for _ in 0..64 {
            let text = crate::names::friendly(&random()?);
            let name =
                Name::parse(&text).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
            if snapshot.workload_by_name(pool, &name).is_none() {
                return Ok(name);
            }
        }
        Err(Error::conflict("no free name was found: give one"))
    }

    /// Starts a workload and waits until it runs, has ended, or could not be started.
    ///
    /// # Errors
    /// When no host fits (the sentence of the placement's report), or the host could not start it.
    pub async fn workload_start(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
    ) -> Result<Changed> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        let committed = self.commit_start(&grant, pool, id, false).await;
        if let Err(error) = &committed {
            self.remove_unstarted(caller, pool, id, error).await;
        }
        match committed? {
            None => Ok(Changed::Already),
            Some(run) => {
                Counters::add(&self.inner.counters.starts, 1);
                self.wait_started(id, run).await?;
                Ok(Changed::Yes)
            }
        }
    }

    /// What is to be removed when it ends, and could not even be placed, is removed now: whoever waits for its removal
    /// (`docker run --rm`) would wait for ever.
    async fn remove_unstarted(&self, caller: &Caller, pool: &PoolId, id: &WorkloadId, why: &Error) {
        if matches!(why.kind, ErrorKind::NotFound | ErrorKind::Conflict) {
            return;
        }
        let never_ran = self
            .snapshot()
            .workload(id)
            .is_some_and(|workload| workload.spec.auto_remove && workload.run == 0);
        if never_ran
            && let Err(error) = self
                .workload_remove(caller, pool, id, RemoveOptions::default())
                .await
        {
            tracing::debug!(%id, ?error, "could not remove what could not be started");
        }
    }

    /// Places the workload if need be and asks for its next run; `None` if it runs already. One placement at a time.
    async fn commit_start(
        &self,
        grant: &Grant,
        pool: &PoolId,
        id: &WorkloadId,
        again: bool,
    ) -> Result<Option<u64>> {
        let seed = random()?;
        let seed = u64::from_le_bytes(seed[..8].try_into().unwrap_or_default());
        let _one_at_a_time = self.inner.placing.lock().await;
        let started = self
            .change(grant, |snapshot| {
                let row = live(snapshot, pool, id)?;
                let asked = matches!(row.desired, DesiredState::Running | DesiredState::Paused);
                let busy = !row.status.phase.is_final() || row.status.run < row.run;
                if asked && busy && !again {
                    if row.desired == DesiredState::Paused {
                        return Err(Error::conflict(
                            "cannot start a paused container, try unpause instead",
                        ));
                    }
                    return Ok((None, None));
                }
                admit(snapshot, pool, &row.spec)?;
                let mut changed = row.value().clone();
                let (host, sentence) = choose_host(snapshot, row.value(), seed)?;
                changed.host = Some(host);
                changed.placement = Some(sentence);
                changed.desired = DesiredState::Running;
                changed.run += 1;
                let run = changed.run;
                Ok((
                    Some(Transaction::new().update(row.revision(), Object::Workload(changed))),
                    Some(run),
                ))
            })
            .await;
        if let Err(error) = &started
            && error.kind == ErrorKind::Exhausted
        {
            Counters::add(&self.inner.counters.placements_refused, 1);
        }
        started
    }

    async fn wait_started(&self, id: &WorkloadId, run: u64) -> Result<()> {
        let answer = |_: &Snapshot, seen: Seen<'_>| {
            let workload = match &seen {
                Seen::There(workload) | Seen::Gone(Some(workload)) => *workload,
                Seen::Gone(None) => {
                    return Some(Err(Error::conflict(
                        "it was removed while it was being started",
                    )));
                }
            };
            let status = &workload.status;
            if status.run < run {
                let gone = matches!(seen, Seen::Gone(_));
                return gone
                    .then(|| Err(Error::conflict("it was removed while it was being started")));
            }
            match status.phase {
                Phase::Failed => Some(Err(Error::new(
                    if status.exit_code == 126 || status.exit_code == 127 {
                        ErrorKind::Invalid
                    } else {
                        ErrorKind::Internal
                    },
                    status.error.clone(),
                ))),
                Phase::Running | Phase::Paused | Phase::Exited | Phase::Restarting => Some(Ok(())),
                Phase::Pending | Phase::Preparing | Phase::Unknown => None,
            }
        };
        let unreachable = async {
            loop {
                let reachable = || {
                    let snapshot = self.snapshot();
                    let host = snapshot.workload(id).and_then(|w| w.host.clone());
                    host.and_then(|host| snapshot.host(&host).map(|h| h.status.connected))
                        .unwrap_or(false)
                };
                tokio::time::sleep(UNREACHABLE_LIMIT).await;
                if !reachable() {
                    return;
                }
            }
        };
        tokio::select! {
            answer = self.wait_workload(id, None, answer) => answer,
            () = unreachable => Err(Error::new(
                ErrorKind::Unavailable,
                "its host cannot be reached: it starts there as soon as the host is back; see `plimsoll host ls`",
            )),
        }
    }

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
                let over =
                    row.run == 0 || (row.status.phase.is_final() && row.status.run >= row.run);
                if over && !matches!(row.desired, DesiredState::Running | DesiredState::Paused) {
                    return Ok((None, Changed::Already));
                }
                let mut changed = row.value().clone();
                changed.desired = DesiredState::Stopped {
                    grace_seconds: grace(row.value(), options),
                    signal: options.signal,
                };
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

    /// Waits until no process of the workload's current run exists.
    async fn wait_ended(&self, id: &WorkloadId, limit: Option<Duration>) -> Result<()> {
        self.wait_workload(id, limit, |_, seen| match seen {
            Seen::Gone(_) => Some(Ok(())),
            Seen::There(w) if w.status.phase.is_final() && w.status.run >= w.run => Some(Ok(())),
            Seen::There(_) => None,
        })
        .await
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
        self.workload_start(caller, pool, id).await?;
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
                    Seen::Gone(last) => Some(Ok(last.map(outcome).unwrap_or_default())),
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

    /// Gives a workload another name.
    ///
    /// # Errors
    /// When the name is taken.
    pub async fn workload_rename(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        name: Name,
    ) -> Result<()> {
        let grant = self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        self.change(&grant, |snapshot| {
            let row = live(snapshot, pool, id)?;
            if row.name == name {
                return Err(Error::invalid(
                    "Renaming a container with the same name as its current name",
                ));
            }
            let changed = Workload {
                name: name.clone(),
                ..row.value().clone()
            };
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Workload(changed))),
                (),
            ))
        })
        .await
    }

    /// Changes limits or restart policy; a running task feels it at once.
    ///
    /// # Errors
    /// When form or policy do not allow it.
    pub async fn workload_update(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        update: WorkloadUpdate,
    ) -> Result<()> {
        let grant = self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        self.change(&grant, |snapshot| {
            let row = live(snapshot, pool, id)?;
            let mut changed = row.value().clone();
            if let Some(resources) = &update.resources {
                changed.spec.task.resources.clone_from(resources);
            }
            if let Some(restart) = update.restart {
                if changed.spec.auto_remove && restart != RestartPolicy::No {
                    return Err(Error::conflict(
                        "a restart policy cannot be set together with auto-remove",
                    ));
                }
                changed.spec.restart = restart;
            }
            admit(snapshot, pool, &changed.spec)?;
            if changed == *row.value() {
                return Ok((None, ()));
            }
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Workload(changed))),
                (),
            ))
        })
        .await
    }

    /// Removes a workload with its output and writable files.
    ///
    /// # Errors
    /// When it runs and `force` is not given.
    pub async fn workload_remove(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        options: RemoveOptions,
    ) -> Result<()> {
        let grant = self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadDelete,
            Scope::Pool(pool),
        )?;
        let wait = self
            .change(&grant, |snapshot| {
                let row = live(snapshot, pool, id)?;
                let lost = row.host.as_ref().is_some_and(|host| snapshot.host(host).is_none());
                if row.host.is_none() || lost {
                    return Ok((Some(Transaction::new().delete_unchanged(row.revision(), Key::Workload(id.clone()))), false));
                }
                let active = row.status.phase.is_alive()
                    || (counts(row.value()) && !row.status.phase.is_final());
                if active && !options.force {
                    let state = if row.status.phase == Phase::Paused { "paused" } else { "running" };
                    return Err(Error::conflict(format!(
                        "cannot remove container \"/{}\": container is {state}: stop the container before removing or \
                         force remove",
                        row.name
                    )));
                }
                let mut changed = row.value().clone();
                mark_removed(&mut changed);
                Ok((Some(Transaction::new().update(row.revision(), Object::Workload(changed))), active))
            })
            .await?;
        if wait {
            self.wait_workload(id, Some(HOST_LIMIT), |_, seen| match seen {
                Seen::There(w) if w.status.phase.is_alive() => None,
                Seen::There(_) | Seen::Gone(_) => Some(Ok(())),
            })
            .await?;
        }
        Ok(())
    }
}

fn visible<'a>(snapshot: &'a Snapshot, pool: &PoolId) -> impl Iterator<Item = Row<'a, Workload>> {
    snapshot
        .workloads_of(pool)
        .filter(|workload| workload.desired != DesiredState::Removed)
}

/// A workload of the pool that is not being removed.
fn live<'a>(snapshot: &'a Snapshot, pool: &PoolId, id: &WorkloadId) -> Result<Row<'a, Workload>> {
    snapshot
        .workload(id)
        .filter(|workload| workload.pool == *pool && workload.desired != DesiredState::Removed)
        .ok_or_else(|| Error::not_found("container", id.as_str()))
}

fn find(snapshot: &Snapshot, pool: &PoolId, reference: &str) -> Result<Kept<Workload>> {
    let missing = || Error::not_found("container", reference);
    let reference = reference.strip_prefix('/').unwrap_or(reference);
    if let Ok(id) = WorkloadId::parse(reference)
        && let Ok(row) = live(snapshot, pool, &id)
    {
        return Ok(row.into());
    }
    if let Ok(name) = Name::parse(reference)
        && let Some(row) = snapshot.workload_by_name(pool, &name)
        && row.desired != DesiredState::Removed
    {
        return Ok(row.into());
    }
    if reference.is_empty()
        || !reference
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(missing());
    }
    let mut matches = visible(snapshot, pool).filter(|w| w.id.as_str().starts_with(reference));
    match (matches.next(), matches.next()) {
        (Some(row), None) => Ok(row.into()),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "multiple IDs found with provided prefix: {reference}: give more digits"
        ))),
        (None, _) => Err(missing()),
    }
}

fn admit(snapshot: &Snapshot, pool: &PoolId, spec: &WorkloadSpec) -> Result<()> {
    let pool = snapshot
        .pool(pool)
        .ok_or_else(|| Error::not_found("pool", pool.as_str()))?;
    plan::admit::admit(spec, &pool.policy).map_err(|refusal| {
        let kind = if refusal.policy {
            ErrorKind::Forbidden
        } else {
            ErrorKind::Invalid
        };
        Error::new(kind, refusal.to_string())
    })
}

/// The host of a workload: where it is already, since its files are there, else the best.
fn choose_host(snapshot: &Snapshot, workload: &Workload, seed: u64) -> Result<(HostId, String)> {
    if let Some(host) = &workload.host
        && snapshot.host(host).is_some()
    {
        let kept = workload
            .placement
            .clone()
            .unwrap_or_else(|| "it was there before".into());
        return Ok((host.clone(), kept));
    }
    let image = snapshot.image(&workload.pool, &workload.spec.task.image_id);
    let image_bytes: u64 = image.as_ref().map_or(0, |image| {
        image
            .content
            .layers
            .iter()
            .map(|layer| layer.blob_bytes)
            .sum()
    });
    let hosts: Vec<Row<'_, model::Host>> = snapshot.hosts().collect();
    let candidates: Vec<Candidate<'_>> = hosts
        .iter()
        .map(|host| {
            let mut candidate = Candidate {
                host: host.value(),
                charged: model::Capacity::default(),
                workloads: 0,
                ports: std::collections::BTreeSet::new(),
                missing_image_bytes: plan::place::missing_image_bytes(
                    host.value(),
                    &workload.spec.task.image_id,
                    image_bytes,
                ),
            };
            for other in snapshot
                .workloads_on(&host.id)
                .filter(|other| counts(other))
            {
                candidate.charged = candidate.charged.plus(other.spec.task.resources.charge());
                candidate.workloads += 1;
                let ports = other
                    .spec
                    .ports
                    .iter()
                    .filter_map(|p| Some((p.protocol, p.host_port?)));
                candidate.ports.extend(ports);
            }
            candidate
        })
        .collect();
    let pinned = match &workload.spec.network {
        NetworkMode::Workload { id } => snapshot.workload(id).and_then(|other| other.host.clone()),
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Host => None,
    };
    let architecture = image.as_ref().map_or("", |image| {
        image.value().config.platform.architecture.as_str()
    });
    let wanted = Wanted {
        spec: &workload.spec,
        architecture,
        pinned: pinned.as_ref(),
        seed,
    };
    let placement = plan::place::place(wanted, &candidates);
    let sentence = placement.sentence();
    match placement.host {
        Some(host) => Ok((host, sentence)),
        None => Err(Error::new(ErrorKind::Exhausted, sentence)),
    }
}

/// The host of a workload that runs.
pub(crate) fn running_host(workload: &Workload) -> Result<HostId> {
    let not_running = || Error::conflict(format!("Container {} is not running", workload.id));
    if !workload.status.phase.is_alive() {
        return Err(not_running());
    }
    workload.host.clone().ok_or_else(not_running)
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

/// Exit code of what was killed, and of what was stopped before it was started.
const KILLED: i32 = 137;

fn outcome(workload: &Workload) -> WaitOutcome {
    let status = &workload.status;
    let error = &status.error;
    // A host may say only that a removed workload is gone: what lived, or was about to, was then killed.
    let unheard = match status.phase {
        Phase::Running | Phase::Paused | Phase::Unknown => true,
        Phase::Pending | Phase::Preparing => workload.run > 0,
        Phase::Restarting | Phase::Exited | Phase::Failed => false,
    };
    let killed = unheard && workload.desired == DesiredState::Removed;
    WaitOutcome {
        exit_code: if killed { KILLED } else { status.exit_code },
        error: (workload.status.phase == Phase::Failed && !error.is_empty()).then(|| error.clone()),
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
    match condition {
        WaitCondition::NotRunning => over || removed,
        WaitCondition::NextExit => {
            let ended_anew = status.finished_at.is_some()
                && (status.finished_at != first_end || status.run > first_run);
            let failed_anew = status.phase == Phase::Failed && status.run > first_run;
            ended_anew || failed_anew || removed
        }
        WaitCondition::Removed => removed,
    }
}
