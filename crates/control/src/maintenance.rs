//! Operators' words on hosts: labels, overcommit, cordon, maintenance; and what becomes of what is on a host.
//!
//! Verbs here write what is wanted of a host. Moving, stopping and starting elsewhere is the controllers' work; what
//! they have done, and what is left for them, is said by [`Control::host_outlook`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::host::{Drain, Overcommit};
use model::{
    Capacity, DesiredState, GpuShare, HoldKind, Host, HostId, Object, Workload, WorkloadId,
};
use plan::copies::OnlyCopy;
use plan::place::Cluster;
use store::{Snapshot, Transaction};

use crate::caller::{Action, Caller, Scope};
use crate::copies::{OnlyImage, lost_with};
use crate::core::{Control, now};
use crate::error::{Error, Result};
use crate::hosts::find;
use crate::kept::Kept;
use crate::workloads::{Circumstances, priority_of};

/// Labels of a host: as many as it may join with.
const LABELS_MAX: usize = 256;

/// Longest key of a label, in bytes.
const KEY_MAX: usize = 128;

/// Longest value of a label, in bytes: rules compare with no longer ones.
const VALUE_MAX: usize = 256;

/// What a host's requests may add up to, in percent of what it has: below the first, nothing of it would be left; above
/// the last, a number was mistyped.
const OVERCOMMIT_RANGE: std::ops::RangeInclusive<u32> = 10..=10_000;

/// Keys that mean a host's own attribute in rules ([`model::rule::Rule::about_hosts`]): a label of that name could not be
/// asked for.
const OWN_ATTRIBUTES: [&str; 6] = [
    "node",
    "host",
    "zone",
    "architecture",
    "operatingsystem",
    "kernelversion",
];

/// A change of a host; what is not named stays. Its zone is fixed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostUpdate {
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Labels to take away, by key.
    pub labels_removed: BTreeSet<String>,
    /// How far CPU requests may go beyond what it has, in percent of it.
    pub cpu_percent: Option<u32>,
    /// How far memory requests may go beyond what it has, in percent of it.
    pub memory_percent: Option<u32>,
}

/// How to begin maintenance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainOptions {
    /// Whether what cannot move is stopped.
    pub stop_rest: bool,
    /// Also if no other host takes workloads.
    pub force: bool,
}

/// How a host is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCondition {
    /// It takes workloads.
    Ready,
    /// Nothing new is placed on it.
    Cordoned,
    /// It is in maintenance, and something still runs on it, or an image has no copy elsewhere yet that can have one.
    Draining,
    /// It is in maintenance, and nothing runs on it any more, nor would an image that can be copied be lost with it.
    Drained,
    /// No link to it is open.
    Unreachable,
    /// It has been silent for so long that what may run elsewhere is started there.
    Lost,
}

/// What the workloads of a host ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLoad {
    /// Requests of those that take room.
    pub requested: Capacity,
    /// Thousandths they have of each GPU, by UUID.
    pub gpus: BTreeMap<String, u32>,
}

/// A workload of a host, and what becomes of it when the host is emptied.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// The workload.
    pub workload: Kept<Workload>,
    /// What becomes of it.
    pub outlook: Outlook,
}

/// What becomes of a workload when its host is emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// It moves; there is room for it on this host now.
    Moves(HostId),
    /// It is on its way: it ends here, then it starts on another host.
    Moving,
    /// It is on another host, or nowhere yet; this one still has to remove what it has of it.
    Moved(Option<HostId>),
    /// It may move, but no host has room for it now: why.
    Waits(String),
    /// It cannot move: why.
    Stays(String),
    /// It cannot move, and is stopped: why it cannot.
    Stops(String),
    /// It does not run, and its files stay: what is known of why.
    Idle(String),
}

/// Maintenance of a host: what is wanted, and what is left to be done.
#[derive(Debug, Clone)]
pub struct HostOutlook {
    /// The host.
    pub host: Kept<Host>,
    /// How it is.
    pub condition: HostCondition,
    /// What is or was on it.
    pub workloads: Vec<Leaving>,
    /// Images that would be lost with it, by name.
    pub images: Vec<OnlyImage>,
}

impl Control {
    /// Changes labels and overcommit of a host.
    ///
    /// # Errors
    /// When there is none, the caller may not, or a label or a percentage is not possible.
    pub async fn host_update(
        &self,
        caller: &Caller,
        reference: &str,
        update: &HostUpdate,
    ) -> Result<Kept<Host>> {
        check_update(update)?;
        self.host_edit(caller, reference, |_, host| {
            for key in &update.labels_removed {
                host.labels.remove(key);
            }
            host.labels.extend(update.labels.clone());
            if host.labels.len() > LABELS_MAX {
                return Err(Error::invalid(format!(
                    "labels: a host has at most {LABELS_MAX}: remove some"
                )));
            }
            let before = host.overcommit;
            host.overcommit = Overcommit {
                cpu_percent: update.cpu_percent.unwrap_or(before.cpu_percent),
                memory_percent: update.memory_percent.unwrap_or(before.memory_percent),
            };
            Ok(())
        })
        .await
    }

    /// Takes a host out of use for new work.
    ///
    /// # Errors
    /// When there is none or the caller may not.
    pub async fn host_cordon(&self, caller: &Caller, reference: &str) -> Result<Kept<Host>> {
        self.host_edit(caller, reference, |_, host| {
            host.cordoned = true;
            Ok(())
        })
        .await
    }

    /// Takes a host into use again: ends its maintenance, too.
    ///
    /// # Errors
    /// When there is none or the caller may not.
    pub async fn host_uncordon(&self, caller: &Caller, reference: &str) -> Result<Kept<Host>> {
        self.host_edit(caller, reference, |_, host| {
            host.cordoned = false;
            host.drain = None;
            Ok(())
        })
        .await
    }

    /// Begins maintenance: nothing new is placed on the host, and what can move leaves it. [`Control::host_uncordon`]
    /// ends it.
    ///
    /// # Errors
    /// When there is none, the caller may not, or no other host takes workloads and `force` is not given.
    pub async fn host_drain(
        &self,
        caller: &Caller,
        reference: &str,
        options: DrainOptions,
    ) -> Result<Kept<Host>> {
        let at = now();
        self.host_edit(caller, reference, |snapshot, host| {
            let mut others = snapshot.hosts().filter(|other| other.id != host.id);
            let last = Self::host_ready(host) && !others.any(|other| Self::host_ready(&other));
            if last && !options.force {
                return Err(Error::conflict(format!(
                    "host {} is the last one that is ready and not cordoned, so that nothing on it could move and \
                     nothing new could start anywhere: add or uncordon another host first, or use force",
                    host.name
                )));
            }
            host.cordoned = true;
            host.drain = Some(Drain {
                since: host.drain.map_or(at, |drain| drain.since),
                stop_rest: options.stop_rest,
            });
            Ok(())
        })
        .await
    }

    /// Commits a change of a host's record that an operator asked for.
    async fn host_edit(
        &self,
        caller: &Caller,
        reference: &str,
        edit: impl Fn(&Snapshot, &mut Host) -> Result<()>,
    ) -> Result<Kept<Host>> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::HostManage, Scope::Installation)?;
        let id = find(&snapshot, reference)?.id.clone();
        self.change(&grant, |snapshot| {
            let row = snapshot
                .host(&id)
                .ok_or_else(|| Error::not_found("host", reference))?;
            let mut changed = row.value().clone();
            edit(snapshot, &mut changed)?;
            if changed == *row.value() {
                return Ok((None, ()));
            }
            let tx = Transaction::new().update(row.revision(), Object::Host(changed));
            Ok((Some(tx), ()))
        })
        .await?;
        find(&self.snapshot(), id.as_str())
    }

    /// How a host is, in one word.
    #[must_use]
    pub fn host_condition(&self, host: &Host) -> HostCondition {
        condition(&self.snapshot(), host)
    }

    /// What the workloads of a host ask for.
    #[must_use]
    pub fn host_load(&self, host: &HostId) -> HostLoad {
        let mut load = HostLoad::default();
        for workload in self.snapshot().workloads_on(host) {
            if !workload.takes_room() {
                continue;
            }
            let charge = workload.spec.task.resources.charge();
            load.requested = load.requested.plus(charge);
            for GpuShare { uuid, millis, .. } in &workload.gpus {
                *load.gpus.entry(uuid.clone()).or_default() += millis;
            }
        }
        load
    }

    /// What becomes of everything on a host when it is emptied, or has become of it; changes nothing. Without
    /// `stop_rest`, what cannot move is stopped only if the host's maintenance says so already.
    ///
    /// # Errors
    /// When there is none or the caller may not.
    pub fn host_outlook(
        &self,
        caller: &Caller,
        reference: &str,
        stop_rest: bool,
    ) -> Result<HostOutlook> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::HostRead, Scope::Installation)?;
        let host = find(&snapshot, reference)?;
        let stop_rest = stop_rest || host.drain.is_some_and(|drain| drain.stop_rest);
        let mut outlooks = self.outlooks(&snapshot, &host);
        if stop_rest {
            for outlook in outlooks.values_mut() {
                if let Outlook::Stays(why) = outlook {
                    *outlook = Outlook::Stops(std::mem::take(why));
                }
            }
        }
        let kept = |(id, outlook)| {
            let workload = snapshot.workload(&id).map(Kept::from)?;
            Some(Leaving { workload, outlook })
        };
        let mut workloads: Vec<Leaving> = outlooks.into_iter().filter_map(kept).collect();
        workloads.sort_by(|a, b| {
            let of = |it: &Leaving| (it.workload.pool.clone(), it.workload.name.clone());
            of(a).cmp(&of(b))
        });
        Ok(HostOutlook {
            condition: condition(&snapshot, &host),
            images: lost_with(&snapshot, &host.id),
            host,
            workloads,
        })
    }

    /// What becomes of each workload of a host if it is emptied now: one after the other finds its place on the hosts
    /// that are left, as the controllers let them go.
    fn outlooks(&self, snapshot: &Snapshot, host: &Host) -> HashMap<WorkloadId, Outlook> {
        let mut found: HashMap<WorkloadId, Outlook> = snapshot
            .workloads_left_on(&host.id)
            .map(|it| (it.id.clone(), Outlook::Moved(it.host.clone())))
            .collect();
        let rows: Vec<_> = snapshot.workloads_on(&host.id).collect();
        let mut movable: Vec<&Workload> = Vec::new();
        for workload in rows.iter().map(store::Row::value) {
            match settled(snapshot, workload) {
                Some(outlook) => {
                    found.insert(workload.id.clone(), outlook);
                }
                None => movable.push(workload),
            }
        }
        if movable.is_empty() {
            return found;
        }
        plan::loss::order(&mut movable, |it| priority_of(snapshot, it));
        let mut rehearsal = self.rehearsal(snapshot);
        rehearsal.cluster.host_put(&Host {
            cordoned: true,
            ..host.clone()
        });
        for workload in movable {
            let outlook = rehearsal.leave(snapshot, workload);
            found.insert(workload.id.clone(), outlook);
        }
        found
    }

    /// Moves that are thought through, those that are under way first: they have no place yet.
    pub(crate) fn rehearsal(&self, snapshot: &Snapshot) -> Rehearsal {
        let mut rehearsal = Rehearsal {
            cluster: self.inner.placing.cluster(snapshot),
            moved: HashMap::new(),
        };
        for row in snapshot.workloads_held() {
            let hold = row.hold.as_ref().map(|hold| &hold.kind);
            if hold == Some(&HoldKind::Moving) && row.keeps_claim() {
                rehearsal.leave(snapshot, &row);
            }
        }
        rehearsal
    }
}

/// Moves that are thought through, one after the other, on a cluster of its own; nothing is changed by it.
pub(crate) struct Rehearsal {
    cluster: Cluster,
    moved: HashMap<WorkloadId, HostId>,
}

impl Rehearsal {
    /// Finds a place for a workload that leaves its host, and takes it there in thought.
    pub(crate) fn leave(&mut self, snapshot: &Snapshot, workload: &Workload) -> Outlook {
        let mut away = workload.clone();
        if let Some(host) = away.host.take() {
            away.left.insert(host, now());
        }
        let circumstances = Circumstances::of(snapshot, &away);
        self.cluster.workload_remove(&workload.id);
        let mut wanted = circumstances.wanted(&away, 0);
        // Whoever shares a namespace follows the one it shares it with.
        let with = plan::loss::shares_with(&workload.spec);
        wanted.pinned = with.and_then(|id| self.moved.get(id)).or(wanted.pinned);
        let placement = plan::place::place(&self.cluster, wanted);
        let Some(host) = placement.host else {
            self.cluster.workload_put(workload);
            return Outlook::Waits(placement.refusal);
        };
        self.cluster.workload_put(&Workload {
            host: Some(host.clone()),
            gpus: placement.gpus,
            hold: None,
            run: workload.run + 1,
            ..workload.clone()
        });
        self.moved.insert(workload.id.clone(), host.clone());
        Outlook::Moves(host)
    }
}

/// What can be said of a workload without looking for another host; `None`: it may move.
fn settled(snapshot: &Snapshot, workload: &Workload) -> Option<Outlook> {
    let hold = workload.hold.as_ref();
    match (workload.desired, hold.map(|hold| &hold.kind)) {
        (DesiredState::Removed, _) => Some(Outlook::Idle("it is being removed".into())),
        (DesiredState::Created | DesiredState::Stopped { .. }, _) => {
            Some(Outlook::Idle("it was not asked to run".into()))
        }
        (DesiredState::Running | DesiredState::Paused, Some(HoldKind::Moving)) => {
            Some(Outlook::Moving)
        }
        (DesiredState::Running | DesiredState::Paused, _) if !workload.takes_room() => {
            let reason = hold.map_or("it has ended", |hold| hold.reason.as_str());
            Some(Outlook::Idle(reason.into()))
        }
        (DesiredState::Running | DesiredState::Paused, _) => {
            crate::loss::obstacle(snapshot, workload).map(Outlook::Stays)
        }
    }
}

/// How a host is, in one word.
pub(crate) fn condition(snapshot: &Snapshot, host: &Host) -> HostCondition {
    if host.status.lost_at.is_some() {
        HostCondition::Lost
    } else if !host.status.connected {
        HostCondition::Unreachable
    } else if host.drain.is_some() {
        if is_empty(snapshot, &host.id) {
            HostCondition::Drained
        } else {
            HostCondition::Draining
        }
    } else if host.cordoned {
        HostCondition::Cordoned
    } else {
        HostCondition::Ready
    }
}

/// Whether nothing runs on a host or is to be removed from it, and no image has to be copied first. What does not run is
/// no reason to wait: its files stay. Neither is an image that no other host can have.
fn is_empty(snapshot: &Snapshot, host: &HostId) -> bool {
    let busy = |workload: &Workload| {
        let hold = workload.hold.as_ref().map(|hold| &hold.kind);
        workload.takes_room()
            || workload.status.phase.is_alive()
            || workload.desired == DesiredState::Removed
            || hold == Some(&HoldKind::Moving)
    };
    !snapshot.workloads_on(host).any(|row| busy(&row))
        && snapshot.workloads_left_on(host).next().is_none()
        && !lost_with(snapshot, host)
            .iter()
            .any(|it| it.fate == OnlyCopy::Leaves)
}

fn check_update(update: &HostUpdate) -> Result<()> {
    for (key, value) in &update.labels {
        let shown: String = key
            .chars()
            .take(80)
            .flat_map(char::escape_default)
            .collect();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if key.is_empty() || key.len() > KEY_MAX || !key.chars().all(good) {
            return Err(Error::invalid(format!(
                "labels: \"{shown}\" cannot be a key: use letters, digits, '.', '_', '-' and '/', at most {KEY_MAX}"
            )));
        }
        if OWN_ATTRIBUTES.contains(&key.as_str()) {
            return Err(Error::invalid(format!(
                "labels: \"{shown}\" is a host's own attribute in rules: use another key"
            )));
        }
        if value.len() > VALUE_MAX || value.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "labels: the value of \"{shown}\" is too long or has control characters: use at most {VALUE_MAX} bytes"
            )));
        }
        if update.labels_removed.contains(key) {
            return Err(Error::invalid(format!(
                "labels: \"{shown}\" is set and removed at once: choose one"
            )));
        }
    }
    for (field, percent) in [
        ("cpu", update.cpu_percent),
        ("memory", update.memory_percent),
    ] {
        if percent.is_some_and(|percent| !OVERCOMMIT_RANGE.contains(&percent)) {
            return Err(Error::invalid(format!(
                "{field}: overcommit must be from {} % to {} %",
                OVERCOMMIT_RANGE.start(),
                OVERCOMMIT_RANGE.end()
            )));
        }
    }
    Ok(())
}
