//! What was borrowed is given back: for a start inside its pool's reservation, and for a host over its line.
//!
//! CPU needs nothing of this: weights give it back at once. For memory the division has lowered what borrowers may use
//! (their pools' `memory.high` or soft limit) before anybody is asked to go; then who can move moves, and who cannot is parked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use model::{
    Charge, Claim, GpuShare, Hold, HoldKind, Host, HostId, Object, PoolId, Timestamp, Workload,
    WorkloadId,
};
use plan::displace::{Asked, Lodger, Pressure};
use plan::pools::Ledger;
use store::{CommitError, Revision, Row, Snapshot, Transaction};

use crate::admission::Step;
use crate::core::{Control, now};
use crate::error::Result;
use crate::events::Subject;
use crate::loss::obstacle;
use crate::networks::expecting_networks;
use crate::workloads::{Circumstances, priority_of};

/// Measurements over the line before anybody has to go: the first one lowers what borrowers may use, which lets the
/// kernel take back what it can.
const MEASUREMENTS: u32 = 2;

/// Hosts that were over their line when they were measured last.
#[derive(Default)]
pub(crate) struct Relief {
    over: Mutex<HashMap<HostId, Over>>,
}

#[derive(Clone, Copy)]
struct Over {
    /// The measurement that was counted last.
    at: Timestamp,
    times: u32,
}

impl Relief {
    /// Counts a measurement; whether it is one too many.
    fn too_often(&self, host: &HostId, at: Timestamp, over: bool) -> bool {
        let mut hosts = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if !over {
            hosts.remove(host);
            return false;
        }
        let known = hosts.entry(host.clone()).or_insert(Over { at, times: 1 });
        if known.at != at {
            *known = Over {
                at,
                times: known.times + 1,
            };
        }
        known.times >= MEASUREMENTS
    }

    /// Somebody was asked to go: the next measurements show what came of it.
    fn acted(&self, host: &HostId) {
        let mut hosts = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.remove(host);
    }
}

/// A host that others clear for a start.
struct Cleared {
    host: HostId,
    gpus: Vec<GpuShare>,
    /// Their records, changed.
    victims: Vec<Workload>,
    /// For the one that starts.
    sentence: String,
}

/// Where a victim may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Going {
    /// To another host, if it can.
    Anywhere,
    /// Nowhere: its pool's room is needed, which it would take there as well.
    Nowhere,
}

impl Control {
    /// The commit of a start that no host has room for, on one that others clear, `changed` being what starts, without a
    /// host; `None`: it has no claim to that, or nobody can.
    ///
    /// # Errors
    /// When there is no address left for it.
    pub(crate) fn step_of_clearing(
        &self,
        snapshot: &Snapshot,
        mut changed: Workload,
        revision: Revision,
    ) -> Result<Option<Step>> {
        let mut starting = changed.clone();
        starting.run += 1;
        starting.hold = None;
        let claim = Claim::of(&starting);
        let Some(cleared) = self.clear_for(snapshot, &changed, &claim) else {
            return Ok(None);
        };
        let placing = &self.inner.placing;
        placing.claim_cleared(snapshot, &changed, (&cleared.host, &cleared.gpus));
        self.find_addresses(snapshot, &mut changed)?;
        let mut tx = expecting_networks(&changed);
        let mut victims = BTreeSet::new();
        let mut clears = Vec::new();
        for victim in cleared.victims {
            let at = snapshot.workload(&victim.id).map(|row| row.revision());
            victims.insert(victim.id.clone());
            if is_parked(&victim) {
                clears.push(victim.id.clone());
            }
            tx = tx.update(at.unwrap_or_default(), Object::Workload(victim));
        }
        changed.host = Some(cleared.host);
        changed.gpus = cleared.gpus;
        changed.placement = Some(cleared.sentence.clone());
        changed.hold = Some(Hold {
            kind: HoldKind::Awaiting { victims },
            reason: cleared.sentence,
            since: now(),
            not_before: now(),
            grace_seconds: 0,
        });
        let (id, claim) = (changed.id.clone(), Claim::of(&changed));
        let tx = tx.update(revision, Object::Workload(changed));
        Ok(Some(Step {
            clears,
            ..Step::new(tx, id, claim)
        }))
    }

    /// Who has to make room for a start that no host has room for; `None`: it has no claim, or nobody can.
    fn clear_for(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        claim: &Claim,
    ) -> Option<Cleared> {
        let before = self.with_ledger(|ledger| ledger.claim(&workload.id).unwrap_or_default())?;
        let reserved =
            self.with_ledger(|ledger| plan::displace::is_reserved(ledger, claim, before))?;
        if !reserved {
            return None;
        }
        let cluster = self.inner.placing.cluster_without(snapshot, &workload.id);
        let circumstances = Circumstances::of(snapshot, workload);
        let asked = Asked {
            wanted: circumstances.wanted(workload, 0),
            claim,
            before,
        };
        let lodgers = |host: &HostId| lodgers(snapshot, host, &BTreeMap::new());
        let room = self
            .with_ledger(|ledger| plan::displace::make_room(&cluster, ledger, asked, lodgers))??;
        let owner = snapshot.pool(&workload.pool)?.name.clone();
        let name = snapshot.host(&room.host)?.name.clone();
        let reason = format!(
            "pool {owner} takes back what it has reserved, for {} on host {name}",
            workload.name
        );
        let changed = |going| -> Vec<Workload> {
            let rows = room.victims.iter().filter_map(|id| snapshot.workload(id));
            rows.map(|row| self.displaced(snapshot, &row, &reason, going))
                .collect()
        };
        let mut victims = changed(Going::Anywhere);
        // Who only moves gives back the host's room, not what its pool has borrowed.
        if !self.with_ledger(|ledger| admits_after(ledger, claim, before, &victims))? {
            victims = changed(Going::Nowhere);
        }
        let who: Vec<String> = victims.iter().map(|it| of_pool(snapshot, it)).collect();
        Some(Cleared {
            host: room.host,
            gpus: room.gpus,
            sentence: format!(
                "on host {name}, where what its pool has reserved is taken back: {} make room",
                who.join(", ")
            ),
            victims,
        })
    }

    /// A victim's record: it moves if it was not moved just before, others like it keep serving and a host has room, else
    /// it is parked.
    fn displaced(
        &self,
        snapshot: &Snapshot,
        row: &Row<'_, Workload>,
        reason: &str,
        going: Going,
    ) -> Workload {
        let mut changed = row.value().clone();
        let moves = going == Going::Anywhere
            && plan::displace::may_move(changed.displaced, now())
            && obstacle(snapshot, &changed).is_none()
            && has_replicas(snapshot, &changed)
            && self.fits_elsewhere(snapshot, &changed);
        let (displaced, until) = plan::displace::pause(changed.displaced, now());
        let (kind, not_before) = if moves {
            (HoldKind::Moving, now())
        } else {
            changed.displaced = displaced;
            (HoldKind::Parked, until)
        };
        changed.hold = Some(Hold {
            kind,
            reason: reason.to_owned(),
            since: now(),
            not_before,
            grace_seconds: plan::displace::grace_seconds(&changed),
        });
        changed
    }

    /// Asks borrowers to go from hosts whose pools work with more memory than there is.
    pub(crate) async fn relieve_hosts(&self) -> Result<()> {
        let snapshot = self.snapshot();
        let measures = self.host_measures();
        for (id, measure) in &measures {
            let Some(host) = snapshot.host(id) else {
                continue;
            };
            let pressure = pressure(&snapshot, &host, &measures);
            let Some(tree) = self.with_ledger(|ledger| ledger.tree().clone()) else {
                return Ok(());
            };
            let used: BTreeMap<WorkloadId, u64> = measure
                .usage
                .values()
                .flat_map(|usage| &usage.heaviest)
                .map(|(id, bytes)| (id.clone(), bytes.0))
                .collect();
            let lodgers = lodgers(&snapshot, id, &used);
            let victims = plan::displace::relieve(&tree, &pressure, &lodgers);
            let over = !victims.is_empty();
            if self.inner.relief.too_often(id, measure.at, over) {
                self.park_for_line(&snapshot, &host, &victims).await?;
                self.inner.relief.acted(id);
            }
        }
        Ok(())
    }

    async fn park_for_line(
        &self,
        snapshot: &Snapshot,
        host: &Row<'_, Host>,
        victims: &[WorkloadId],
    ) -> Result<()> {
        let grant = self.displacing_grant()?;
        let owners = owners(self, snapshot, &host.id);
        let reason = format!(
            "the memory of host {} is needed by {}, who has it reserved",
            host.name,
            if owners.is_empty() {
                "others".to_owned()
            } else {
                owners.join(", ")
            }
        );
        for id in victims {
            let Some(row) = snapshot.workload(id) else {
                continue;
            };
            let changed = self.displaced(snapshot, &row, &reason, Going::Anywhere);
            let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
            match self.commit(&grant, tx).await {
                Ok(_) => self.say_reclaimed(snapshot, &row, &owners),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The owners' side of it.
    pub(crate) fn say_reclaimed(&self, snapshot: &Snapshot, victim: &Workload, owners: &[String]) {
        for owner in owners {
            let Ok(name) = model::Name::parse(owner) else {
                continue;
            };
            let Some(pool) = snapshot.pool_by_name(&name) else {
                continue;
            };
            let attributes = BTreeMap::from([
                ("name".to_owned(), owner.clone()),
                ("from".to_owned(), pool_name(snapshot, &victim.pool)),
            ]);
            let log = &self.inner.events;
            log.push(
                Some(pool.id.clone()),
                Subject::Pool,
                "reclaimed",
                pool.id.as_str(),
                attributes,
            );
        }
    }
}

/// Whether a claim is admitted once those victims that are parked have gone.
fn admits_after(ledger: &Ledger, claim: &Claim, before: Charge, victims: &[Workload]) -> bool {
    let parked = || victims.iter().filter(|it| is_parked(it));
    if parked().next().is_none() {
        return ledger.admit(&claim.pool, before, claim.charge).is_ok();
    }
    let mut after = ledger.clone();
    for victim in parked() {
        after.set(&victim.id, None);
    }
    after.admit(&claim.pool, before, claim.charge).is_ok()
}

fn is_parked(workload: &Workload) -> bool {
    let hold = workload.hold.as_ref();
    hold.is_some_and(|hold| hold.kind == HoldKind::Parked)
}

/// What could be asked to go from a host: it runs there, and is not on its way already.
fn lodgers<'a>(
    snapshot: &'a Snapshot,
    host: &HostId,
    used: &BTreeMap<WorkloadId, u64>,
) -> Vec<Lodger<'a>> {
    let there = snapshot.workloads_on(host).map(|row| row.value());
    there
        .filter(|it| it.takes_room() && it.hold.is_none())
        .map(|workload| Lodger {
            workload,
            priority: priority_of(snapshot, workload),
            memory_used: used.get(&workload.id).copied().unwrap_or(0),
        })
        .collect()
}

/// How the memory of a host stands. What is on its way out already counts as gone.
fn pressure(
    snapshot: &Snapshot,
    host: &Row<'_, Host>,
    measures: &BTreeMap<HostId, std::sync::Arc<crate::measures::HostMeasure>>,
) -> Pressure {
    let total = host.status.facts.capacity;
    let room = total.minus(model::resources::host_reserve(total)).memory.0;
    let mut pressure = Pressure {
        room,
        ..Pressure::default()
    };
    for measure in measures.values() {
        for (pool, usage) in &measure.usage {
            *pressure.everywhere.entry(pool.clone()).or_default() += usage.memory_working_set.0;
        }
    }
    let Some(measure) = measures.get(&host.id) else {
        return pressure;
    };
    for (pool, usage) in &measure.usage {
        pressure
            .used
            .insert(pool.clone(), usage.memory_working_set.0);
    }
    for (pool, usage) in &measure.usage {
        let going = |id: &WorkloadId| {
            let row = snapshot.workload(id);
            row.is_none_or(|row| row.hold.is_some() || row.host.as_ref() != Some(&host.id))
        };
        let leaving: u64 = usage
            .heaviest
            .iter()
            .filter(|(id, _)| going(id))
            .map(|(_, bytes)| bytes.0)
            .sum();
        for pool in crate::caller::ancestors(snapshot, pool) {
            for map in [&mut pressure.used, &mut pressure.everywhere] {
                if let Some(amount) = map.get_mut(&pool) {
                    *amount = amount.saturating_sub(leaving);
                }
            }
        }
    }
    if let Some(division) = snapshot.division(&host.id) {
        for (pool, part) in &division.pools {
            if let Some(high) = part.memory_high {
                pressure.entitled.insert(pool.clone(), high.0);
            }
        }
    }
    pressure
}

/// Pools on a host that work with more than they did and are inside their reservations: on whose behalf others go.
fn owners(control: &Control, snapshot: &Snapshot, host: &HostId) -> Vec<String> {
    let measures = control.host_measures();
    let Some(measure) = measures.get(host) else {
        return Vec::new();
    };
    let inside = |pool: &PoolId, used: u64| {
        let line = control
            .with_ledger(|ledger| ledger.tree().node(pool).map(|node| node.memory.reservation));
        line.flatten()
            .is_some_and(|reserved| used > 0 && used <= reserved)
    };
    measure
        .usage
        .iter()
        .filter(|(pool, usage)| inside(pool, usage.memory_working_set.0))
        .map(|(pool, _)| pool_name(snapshot, pool))
        .collect()
}

/// Whether others like it run elsewhere, so that it can stop for a moment.
fn has_replicas(snapshot: &Snapshot, workload: &Workload) -> bool {
    let Some(word) = &workload.spec.placement.spread else {
        return false;
    };
    snapshot.workloads_of(&workload.pool).any(|other| {
        other.id != workload.id
            && other.hold.is_none()
            && other.status.phase.is_alive()
            && other.spec.placement.spread.as_ref() == Some(word)
    })
}

fn pool_name(snapshot: &Snapshot, pool: &PoolId) -> String {
    snapshot
        .pool(pool)
        .map_or_else(String::new, |pool| pool.name.to_string())
}

/// A workload with its pool, for people.
fn of_pool(snapshot: &Snapshot, workload: &Workload) -> String {
    format!(
        "{} of pool {}",
        workload.name,
        pool_name(snapshot, &workload.pool)
    )
}
