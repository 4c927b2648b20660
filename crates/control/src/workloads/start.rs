//! Start: a place, a run number, and the wait until the host has begun.

use std::time::Duration;

use model::{Claim, DesiredState, Hold, HoldKind, Object, Phase, PoolId, Workload, WorkloadId};
use store::{Revision, Snapshot, Transaction};

use super::create::{admit, fill_defaults};
use super::find::live;
use super::{Changed, RemoveOptions};
use crate::admission::{Step, refused};
use crate::caller::{Action, Caller, Grant, Scope};
use crate::core::{Control, Seen, now, random};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Counters;
use crate::networks::expecting_networks;

/// How long a start may wait while the host cannot be reached.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(10);

/// How to start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// Whether it waits in its pool's queue when there is no room for it now, instead of failing.
    pub queue: bool,
}

impl Control {
    /// Starts a workload and waits until it runs, has ended, or could not be started.
    ///
    /// # Errors
    /// When no host fits (the sentence of the placement's report), or the host could not start it.
    pub async fn workload_start(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        options: StartOptions,
    ) -> Result<Changed> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        let committed = self.commit_start(&grant, pool, id, false).await;
        if let Err(error) = &committed
            && error.kind == ErrorKind::Exhausted
            && options.queue
        {
            self.enqueue(&grant, pool, id, &error.message).await?;
            return Ok(Changed::Yes);
        }
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

    /// There is no room: it waits in its pool's queue, with the refusal as its reason.
    async fn enqueue(
        &self,
        grant: &Grant,
        pool: &PoolId,
        id: &WorkloadId,
        why: &str,
    ) -> Result<()> {
        self.change(grant, |snapshot| {
            let row = live(snapshot, pool, id)?;
            let mut changed = row.value().clone();
            changed.desired = DesiredState::Running;
            changed.hold = Some(Hold {
                kind: HoldKind::Queued,
                reason: why.to_owned(),
                since: now(),
                not_before: now(),
                grace_seconds: 0,
            });
            let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
            Ok((Some(tx), ()))
        })
        .await
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

    /// Places the workload if need be and asks for its next run; `None` if it runs already.
    async fn commit_start(
        &self,
        grant: &Grant,
        pool: &PoolId,
        id: &WorkloadId,
        again: bool,
    ) -> Result<Option<u64>> {
        let seed = random()?;
        let seed = u64::from_le_bytes(seed[..8].try_into().unwrap_or_default());
        let claiming = self.inner.placing.begin(id);
        let _assigning = self.inner.addressing.begin(id);
        let started = self
            .change_admitted(grant, |snapshot| {
                let row = live(snapshot, pool, id)?;
                let asked = matches!(row.desired, DesiredState::Running | DesiredState::Paused);
                if asked && is_busy(row.value()) && !again {
                    if row.desired == DesiredState::Paused {
                        return Err(Error::conflict(
                            "cannot start a paused container, try unpause instead",
                        ));
                    }
                    return Ok((None, None));
                }
                let mut changed = row.value().clone();
                fill_defaults(snapshot, pool, &mut changed.spec);
                admit(snapshot, pool, &changed.spec)?;
                let run = changed.run + 1;
                let step = self.step_of_start(snapshot, changed, row.revision(), seed)?;
                Ok((Some(step), Some(run)))
            })
            .await;
        match &started {
            Ok(Some(_)) => claiming.keep(),
            Ok(None) => {}
            Err(error) if error.kind == ErrorKind::Exhausted => {
                Counters::add(&self.inner.counters.placements_refused, 1);
            }
            Err(_) => {}
        }
        started
    }

    /// The commit of a start: with a host that has room, else with one that others clear.
    fn step_of_start(
        &self,
        snapshot: &Snapshot,
        before: Workload,
        revision: Revision,
        seed: u64,
    ) -> Result<Step> {
        let mut changed = before;
        changed.desired = DesiredState::Running;
        changed.hold = None;
        let mut starting = changed.clone();
        starting.run += 1;
        let claim = Claim::of(&starting);
        let why = match self.find_room(snapshot, &mut starting, &claim, seed) {
            Ok(()) => {
                self.find_addresses(snapshot, &mut starting)?;
                let tx = expecting_networks(&starting).update(revision, Object::Workload(starting));
                return Ok(Step::new(tx, changed.id, claim));
            }
            Err(why) => why,
        };
        // What has a host already stays there, since its files are there.
        let placed = changed.host.as_ref().and_then(|host| snapshot.host(host));
        if why.kind != ErrorKind::Exhausted || placed.is_some() {
            return Err(why);
        }
        changed.host = None;
        let step = self.step_of_clearing(snapshot, changed, revision)?;
        step.ok_or(why)
    }

    /// Room in its pools, and a host. What a pool ran out of is said first; if it is all hosts together, the report on each
    /// of them says more.
    fn find_room(
        &self,
        snapshot: &Snapshot,
        workload: &mut Workload,
        claim: &Claim,
        seed: u64,
    ) -> Result<()> {
        let id = workload.id.clone();
        match self.would_admit(snapshot, &id, claim) {
            Err(refusal) if refusal.exhausted.is_some() => Err(refused(&refusal)),
            Err(refusal) => {
                self.find_place(snapshot, workload, seed)?;
                Err(refused(&refusal))
            }
            Ok(()) => self.find_place(snapshot, workload, seed),
        }
    }

    /// The host of a workload: where it is already, since its files are there, else the best, whose room is claimed.
    fn find_place(&self, snapshot: &Snapshot, workload: &mut Workload, seed: u64) -> Result<()> {
        let there = workload.host.clone();
        if let Some(host) = there.filter(|host| snapshot.host(host).is_some()) {
            let claimed = self.inner.placing.claim_again(snapshot, workload, &host);
            workload.gpus = claimed.map_err(|why| Error::new(ErrorKind::Exhausted, why))?;
            workload
                .placement
                .get_or_insert_with(|| "it was there before".into());
            return Ok(());
        }
        let placement = self.inner.placing.claim(snapshot, workload, seed);
        let sentence = placement.sentence();
        let Some(host) = placement.host else {
            return Err(Error::new(ErrorKind::Exhausted, sentence));
        };
        workload.host = Some(host);
        workload.gpus = placement.gpus;
        workload.placement = Some(sentence);
        Ok(())
    }

    /// Waits until the host has begun with a run.
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
                let waits = workload.hold.as_ref();
                if let Some(hold) = waits.filter(|hold| hold.kind == HoldKind::Queued) {
                    return Some(Err(Error::new(ErrorKind::Exhausted, hold.reason.clone())));
                }
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
}

/// Whether a start has nothing to do: it runs, is about to, or others clear its place.
fn is_busy(workload: &Workload) -> bool {
    match workload.hold.as_ref().map(|hold| &hold.kind) {
        None => !workload.status.phase.is_final() || workload.status.run < workload.run,
        Some(HoldKind::Queued | HoldKind::Parked) => workload.may_be_alive(),
        Some(HoldKind::Moving | HoldKind::Awaiting { .. }) => true,
    }
}
