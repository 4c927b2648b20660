//! Workloads that are taken from their place, and those that wait for one.
//!
//! One loop ([`keep_placed`]) looks at the newest snapshot again and again: hosts that are lost or in maintenance,
//! workloads that are held ([`model::Hold`]), hosts over their line. Level triggered: every step is a commit that is compared with what
//! it was decided on, so that it does not matter which server does it, how often, or where it was interrupted.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::{
    Claim, DesiredState, Hold, HoldKind, Host, HostId, Key, Object, Phase, TaskStatus, Workload,
    WorkloadId,
};
use store::{Expect, Revision, Row, Snapshot, Transaction, WatchError};
use tokio::task::JoinHandle;

use crate::admission::Step;
use crate::core::{Control, now, random};
use crate::error::{Error, ErrorKind, Result};
use crate::loss::obstacle;
use crate::maintenance::Outlook;
use crate::workloads::priority_of;

/// Time between two looks if nothing happens: time runs out without anybody saying so.
const TICK: Duration = Duration::from_millis(500);

/// Least pause between two looks: what happens at once is seen together.
const PAUSE: Duration = Duration::from_millis(50);

/// A pause is at least this many times what the last look took.
const PAUSE_TIMES: u32 = 5;

/// Workloads that leave one host in maintenance at once: each stops and starts elsewhere, and the others keep serving.
const LEAVING_MAX: usize = 4;

/// Docker's default time between stop signal and kill, in seconds.
const GRACE_SECONDS: u32 = 10;

/// What was tried in vain, with the state it was tried on: it is not tried again before something has changed.
#[derive(Default)]
pub(crate) struct Displacing {
    failed: Mutex<HashMap<WorkloadId, Revision>>,
}

impl Displacing {
    /// Whether something has changed since it was tried in vain.
    pub(crate) fn is_due(&self, snapshot: &Snapshot, id: &WorkloadId) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(id).is_none_or(|at| *at < snapshot.revision)
    }

    /// It was tried in vain on this state.
    pub(crate) fn failed(&self, snapshot: &Snapshot, id: &WorkloadId) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|id, _| snapshot.workload(id).is_some());
        failed.insert(id.clone(), snapshot.revision);
    }
}

/// Why a workload leaves its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// The host is lost: nothing can be heard of it.
    Lost,
    /// It has ended there.
    Ended,
}

/// Starts looking after places; goes on until the store is closed, or the task is aborted.
pub fn keep_placed(control: &Control) -> JoinHandle<()> {
    let control = control.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let Ok(mut watch) = control.store().watch(control.snapshot().revision) else {
            return;
        };
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                event = watch.next() => match event {
                    Ok(event) if event.changes.iter().any(|change| matters(change.key().kind())) => {}
                    Ok(_) => continue,
                    Err(WatchError::Closed) => return,
                    Err(WatchError::Compacted { .. } | WatchError::Lagged { .. }) => {
                        match control.store().watch(control.snapshot().revision) {
                            Ok(anew) => watch = anew,
                            Err(_) => return,
                        }
                    }
                },
            }
            let begin = std::time::Instant::now();
            if let Err(error) = control.keep_placed_once().await {
                tracing::warn!(?error, "could not look after places, trying again");
            }
            tokio::time::sleep(PAUSE.max(begin.elapsed() * PAUSE_TIMES)).await;
        }
    })
}

fn matters(kind: model::Kind) -> bool {
    match kind {
        model::Kind::Pool
        | model::Kind::Workload
        | model::Kind::Host
        | model::Kind::Installation => true,
        model::Kind::Image
        | model::Kind::Principal
        | model::Kind::AccessToken
        | model::Kind::JoinToken
        | model::Kind::Setting
        | model::Kind::DroppedImage
        | model::Kind::Division
        | model::Kind::Network => false,
    }
}

impl Control {
    /// One look at everything that may have to move, end or start.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn keep_placed_once(&self) -> Result<()> {
        self.conclude_losses().await?;
        self.replace_lost().await?;
        self.empty_drained().await?;
        self.serve_held().await?;
        self.relieve_hosts().await
    }

    /// Lets what can move leave hosts in maintenance.
    async fn empty_drained(&self) -> Result<()> {
        let snapshot = self.snapshot();
        let mut rehearsal = None;
        for host in snapshot.hosts().filter(|host| host.drain.is_some()) {
            let there = || snapshot.workloads_on(&host.value().id);
            let leaving = there().filter(|it| is_moving(it)).count();
            let mut left = LEAVING_MAX.saturating_sub(leaving);
            let mut order: Vec<&Workload> = there().map(|row| row.value()).collect();
            plan::loss::order(&mut order, |it| priority_of(&snapshot, it));
            let order = order.into_iter().filter_map(|it| snapshot.workload(&it.id));
            for row in order.filter(|it| it.hold.is_none() && it.takes_room()) {
                if !matches!(row.desired, DesiredState::Running | DesiredState::Paused) {
                    continue;
                }
                let reason = format!("host {} is in maintenance", host.name);
                let stop_rest = host.drain.is_some_and(|drain| drain.stop_rest);
                match obstacle(&snapshot, &row) {
                    Some(_) if stop_rest => {
                        self.hold(&row, HoldKind::Parked, reason).await?;
                    }
                    Some(_) => {}
                    // Whoever shares a namespace follows when the other one has arrived.
                    None if left == 0 || shares_here(&snapshot, &row) => {}
                    None => {
                        let rehearsal = rehearsal.get_or_insert_with(|| self.rehearsal(&snapshot));
                        if let Outlook::Moves(_) = rehearsal.leave(&snapshot, &row) {
                            self.hold(&row, HoldKind::Moving, reason).await?;
                            left -= 1;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether another host would take a workload.
    pub(crate) fn fits_elsewhere(&self, snapshot: &Snapshot, workload: &Workload) -> bool {
        let mut away = workload.clone();
        if let Some(host) = away.host.take() {
            away.left.insert(host, now());
        }
        self.inner.placing.would_fit(snapshot, &away)
    }

    /// Stops a workload where it is.
    async fn hold(&self, row: &Row<'_, Workload>, kind: HoldKind, reason: String) -> Result<()> {
        let grant = self.displacing_grant()?;
        let mut changed = row.value().clone();
        let own = changed.spec.task.stop_grace_seconds;
        changed.hold = Some(Hold {
            kind,
            reason,
            since: now(),
            not_before: now(),
            grace_seconds: own.unwrap_or(GRACE_SECONDS),
        });
        let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
        match self.commit(&grant, tx).await {
            // Decided again on what it is now.
            Ok(_) | Err(store::CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes on with everything that is held and can go on.
    async fn serve_held(&self) -> Result<()> {
        let snapshot = self.snapshot();
        let mut held: Vec<&Workload> = snapshot.workloads_held().map(|row| row.value()).collect();
        let priority = |it: &Workload| priority_of(&snapshot, it);
        held.sort_by_key(|it| {
            let since = it.hold.as_ref().map(|hold| hold.since);
            (std::cmp::Reverse(priority(it)), since, it.id.clone())
        });
        for workload in held {
            let Some(hold) = &workload.hold else { continue };
            let running = matches!(
                workload.desired,
                DesiredState::Running | DesiredState::Paused
            );
            let ready =
                now() >= hold.not_before && self.inner.displacing.is_due(&snapshot, &workload.id);
            let result = match &hold.kind {
                _ if !running => Ok(()),
                HoldKind::Moving => match &workload.host {
                    Some(host) if !workload.may_be_alive() && ready => {
                        self.arrive(workload, host, &hold.reason).await
                    }
                    Some(_) | None => Ok(()),
                },
                HoldKind::Parked | HoldKind::Queued => {
                    if workload.may_be_alive() || !ready {
                        continue;
                    }
                    self.resume(&workload.id).await
                }
                HoldKind::Awaiting { victims } => {
                    self.begin_awaited(&snapshot, workload, victims).await
                }
            };
            match result {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::Exhausted => {
                    self.inner.displacing.failed(&snapshot, &workload.id);
                }
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A moving workload has ended where it was: it is started elsewhere, or waits for room.
    async fn arrive(&self, workload: &Workload, from: &HostId, why: &str) -> Result<()> {
        match self.relocate(&workload.id, from, Away::Ended, why).await {
            Err(error) if error.kind == ErrorKind::Exhausted => {
                let snapshot = self.snapshot();
                if let Some(row) = snapshot.workload(&workload.id) {
                    let reason = format!("{why}; {}", error.message);
                    self.hold(&row, HoldKind::Parked, reason).await?;
                }
                Err(error)
            }
            other => other,
        }
    }

    /// Starts a workload on another host than `from`, which it leaves for good.
    pub(crate) async fn relocate(
        &self,
        id: &WorkloadId,
        from: &HostId,
        away: Away,
        why: &str,
    ) -> Result<()> {
        let grant = self.displacing_grant()?;
        let seed = seed()?;
        let claiming = self.inner.placing.begin(id);
        let moved = self
            .try_admitted(&grant, |snapshot| {
                let Some((row, host)) = leaves(snapshot, id, from, away) else {
                    return Ok((None, false));
                };
                let mut changed = row.value().clone();
                changed.host = None;
                changed.gpus = Vec::new();
                changed.left.insert(from.clone(), now());
                changed.desired = DesiredState::Running;
                changed.displaced.moved_at = Some(now());
                let still = Expect::Revision(host.revision());
                let placed = match self.place_anew(snapshot, &mut changed, seed) {
                    Ok(placed) => placed,
                    Err(full) => {
                        let cleared = self.clear_or(snapshot, changed, row.revision(), full)?;
                        let tx = cleared.tx.expect(Key::Host(from.clone()), still);
                        return Ok((Some(Step { tx, ..cleared }), true));
                    }
                };
                changed.placement = Some(format!("{why}; {placed}"));
                let tx = Transaction::new()
                    .expect(Key::Host(from.clone()), still)
                    .update(row.revision(), Object::Workload(changed.clone()));
                let claim = Claim::of(&changed);
                Ok((Some(Step::new(tx, id.clone(), claim)), true))
            })
            .await?;
        if moved {
            claiming.keep();
            tracing::info!(workload = %id, %from, why, "moved");
        }
        Ok(())
    }

    /// A parked or queued workload gets its next run: on any host if it may move or was never anywhere, else on its own.
    async fn resume(&self, id: &WorkloadId) -> Result<()> {
        let grant = self.displacing_grant()?;
        let seed = seed()?;
        let claiming = self.inner.placing.begin(id);
        let _assigning = self.inner.addressing.begin(id);
        let resumed = self
            .try_admitted(&grant, |snapshot| {
                let Some(row) = snapshot.workload(id).filter(|row| may_resume(row)) else {
                    return Ok((None, false));
                };
                let mut changed = row.value().clone();
                let waited = changed.hold.take().map(|hold| hold.reason);
                let waited = waited.unwrap_or_default();
                let own = own_host(snapshot, &changed);
                let stays = own.is_some() && obstacle(snapshot, &changed).is_some();
                let placed = match self.place_again(snapshot, &mut changed, own.as_ref(), seed) {
                    Ok(placed) => placed,
                    Err(full) if stays => return Err(full),
                    Err(full) => {
                        changed.host = None;
                        changed.left.extend(own.map(|host| (host, now())));
                        let cleared = self.clear_or(snapshot, changed, row.revision(), full)?;
                        return Ok((Some(cleared), true));
                    }
                };
                changed.placement = Some(format!("{placed} (it had waited: {waited})"));
                self.find_addresses(snapshot, &mut changed)?;
                let claim = Claim::of(&changed);
                let tx = crate::networks::expecting_networks(&changed)
                    .update(row.revision(), Object::Workload(changed));
                Ok((Some(Step::new(tx, id.clone(), claim)), true))
            })
            .await?;
        if resumed {
            claiming.keep();
            tracing::info!(workload = %id, "there is room for it again");
        }
        Ok(())
    }

    /// A place for the next run of a held workload: on its own host, else, if it may move, on the best other one.
    fn place_again(
        &self,
        snapshot: &Snapshot,
        workload: &mut Workload,
        own: Option<&HostId>,
        seed: u64,
    ) -> Result<String> {
        self.check_room(snapshot, workload)?;
        if let Some(host) = own {
            match self.place_there(snapshot, workload, host, seed) {
                Err(_) if obstacle(snapshot, workload).is_none() => {
                    workload.left.insert(host.clone(), now());
                }
                there => return there,
            }
        }
        workload.host = None;
        self.place_anew(snapshot, workload, seed)
    }

    /// The commit of a start on a host that borrowers clear for it; `full`, why there is no room, if nobody has to.
    fn clear_or(
        &self,
        snapshot: &Snapshot,
        mut workload: Workload,
        revision: Revision,
        full: Error,
    ) -> Result<Step> {
        if full.kind != ErrorKind::Exhausted {
            return Err(full);
        }
        // Whatever it was before, nothing of it runs that anybody would still count on.
        if workload.run > 0 && !workload.status.phase.is_final() {
            workload.status.phase = Phase::Exited;
        }
        let cleared = self.step_of_clearing(snapshot, workload, revision)?;
        cleared.ok_or(full)
    }

    /// Room in its pools: said before hosts are looked at, because it is the clearer reason.
    fn check_room(&self, snapshot: &Snapshot, workload: &Workload) -> Result<()> {
        let mut next = workload.clone();
        next.run += 1;
        self.would_admit(snapshot, &workload.id, &Claim::of(&next))
            .map_err(|refusal| crate::admission::refused(&refusal))
    }

    /// The best host for the next run of a workload without a place.
    fn place_anew(
        &self,
        snapshot: &Snapshot,
        workload: &mut Workload,
        seed: u64,
    ) -> Result<String> {
        let placement = self.inner.placing.claim(snapshot, workload, seed);
        let sentence = placement.sentence();
        let Some(host) = placement.host else {
            return Err(Error::new(ErrorKind::Exhausted, sentence));
        };
        workload.host = Some(host);
        workload.gpus = placement.gpus;
        begin_run(workload);
        Ok(sentence)
    }

    /// The next run of a workload on a given host, if there is room.
    fn place_there(
        &self,
        snapshot: &Snapshot,
        workload: &mut Workload,
        host: &HostId,
        seed: u64,
    ) -> Result<String> {
        let placement = self
            .inner
            .placing
            .claim_on(snapshot, workload, Some(host), seed);
        if placement.host.is_none() {
            return Err(Error::new(ErrorKind::Exhausted, placement.sentence()));
        }
        workload.gpus = placement.gpus;
        begin_run(workload);
        Ok("its place has room again".into())
    }

    /// Those who make room for it have gone: it starts.
    async fn begin_awaited(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        victims: &BTreeSet<WorkloadId>,
    ) -> Result<()> {
        let host = workload.host.as_ref().and_then(|id| snapshot.host(id));
        let usable = host.is_some_and(|host| host.status.lost_at.is_none() && !host.cordoned);
        let there = |id: &WorkloadId| {
            let row = snapshot.workload(id);
            row.is_some_and(|row| row.takes_room() && row.host == workload.host)
        };
        if usable && victims.iter().any(there) {
            return Ok(());
        }
        let grant = self.displacing_grant()?;
        let at = self.change(&grant, |snapshot| {
            let Some(row) = snapshot.workload(&workload.id) else {
                return Ok((None, ()));
            };
            let awaits = row
                .hold
                .as_ref()
                .is_some_and(|hold| matches!(hold.kind, HoldKind::Awaiting { .. }));
            if !awaits {
                return Ok((None, ()));
            }
            let mut changed = row.value().clone();
            if usable {
                changed.hold = None;
                begin_run(&mut changed);
            } else if let Some(hold) = &mut changed.hold {
                hold.kind = HoldKind::Queued;
                hold.reason = "the host it was to start on cannot be used any more".into();
                // Nothing of it was there.
                changed.host = None;
            }
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Workload(changed))),
                (),
            ))
        });
        at.await
    }
}

/// The next run begins: nothing is known of it yet.
pub(crate) fn begin_run(workload: &mut Workload) {
    workload.run += 1;
    workload.hold = None;
    workload.status = TaskStatus {
        phase: Phase::Pending,
        run: workload.status.run,
        ..TaskStatus::default()
    };
}

fn seed() -> Result<u64> {
    let seed = random()?;
    Ok(u64::from_le_bytes(seed[..8].try_into().unwrap_or_default()))
}

/// Whether a workload shares the network namespace of one that is on the same host.
fn shares_here(snapshot: &Snapshot, workload: &Workload) -> bool {
    let with = plan::loss::shares_with(&workload.spec).and_then(|id| snapshot.workload(id));
    with.is_some_and(|with| with.host == workload.host)
}

/// The host that a held workload was on, if it still is one.
fn own_host(snapshot: &Snapshot, workload: &Workload) -> Option<HostId> {
    let own = workload.host.clone().filter(|_| workload.run > 0);
    own.filter(|host| snapshot.host(host).is_some())
}

fn is_moving(workload: &Workload) -> bool {
    workload
        .hold
        .as_ref()
        .is_some_and(|hold| hold.kind == HoldKind::Moving)
}

/// Whether a held workload may start by itself.
fn may_resume(row: &Row<'_, Workload>) -> bool {
    let held = row.hold.as_ref().is_some_and(|hold| {
        matches!(hold.kind, HoldKind::Parked | HoldKind::Queued) && hold.not_before <= now()
    });
    let wanted = matches!(row.desired, DesiredState::Running | DesiredState::Paused);
    held && wanted && !row.may_be_alive()
}

/// The workload and the host it leaves, if it still does.
fn leaves<'a>(
    snapshot: &'a Snapshot,
    id: &WorkloadId,
    from: &HostId,
    away: Away,
) -> Option<(Row<'a, Workload>, Row<'a, Host>)> {
    let row = snapshot.workload(id)?;
    let host = snapshot.host(from)?;
    let wanted = matches!(row.desired, DesiredState::Running | DesiredState::Paused);
    let gone = match away {
        Away::Lost => host.status.lost_at.is_some() && !host.status.connected,
        Away::Ended => !row.may_be_alive() && is_moving(&row),
    };
    (wanted && gone && row.host.as_ref() == Some(from)).then_some((row, host))
}
