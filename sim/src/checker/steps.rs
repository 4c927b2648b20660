//! What must hold of every commit, seen against what was so before it.

use std::collections::BTreeSet;

use model::{
    Amount, Capacity, Charge, Claim, Counted, HoldKind, Host, HostId, Object, PoolId, QuotaKey,
    Resource, Workload, WorkloadId,
};
use plan::pools::{Ledger, ROOT, Tree};
use store::{Change, Event, Stored as _};

use super::World;
use super::placing::{amount, key};

/// A commit and what was before it.
pub struct Step<'a> {
    /// Before.
    pub before: &'a World,
    /// The commit.
    pub event: &'a Event,
}

/// Something that must hold of a commit.
#[derive(Clone, Copy)]
pub struct StepInvariant {
    /// Name, for reports.
    pub name: &'static str,
    /// Whether it may have been decided on a state of a moment before: what lowers usage needs no turn.
    pub late: bool,
    /// Whether it holds; else why not.
    pub check: fn(&Step<'_>) -> Result<(), String>,
}

const fn step(
    name: &'static str,
    late: bool,
    check: fn(&Step<'_>) -> Result<(), String>,
) -> StepInvariant {
    StepInvariant { name, late, check }
}

/// All of them.
pub const STEPS: [StepInvariant; 9] = [
    step("runs-grow", false, runs_grow),
    step("moves-have-a-cause", false, moves_have_a_cause),
    step("lost-was-silent", false, lost_was_silent),
    step("victims-borrow", true, victims_borrow),
    step("victims-are-needed", true, victims_are_needed),
    step("the-squeezed-borrow", false, the_squeezed_borrow),
    step("pools-are-not-overbooked", true, pools_are_not_overbooked),
    step("admissions-hold", true, admissions_hold),
    step("hosts-are-not-overfilled", true, hosts_are_not_overfilled),
];

impl<'a> Step<'a> {
    /// Workloads that are changed: before and after.
    fn workloads(&self) -> impl Iterator<Item = (Option<&'a Workload>, &'a Workload)> + use<'a> {
        let before = self.before;
        self.event.changes.iter().filter_map(|change| match change {
            Change::Put(versioned) => {
                let after = Workload::of(&versioned.object)?;
                Some((before.workloads.get(&after.id), after))
            }
            Change::Delete { .. } => None,
        })
    }

    fn hosts(&self) -> impl Iterator<Item = (Option<&'a Host>, &'a Host)> + use<'a> {
        let before = self.before;
        self.event.changes.iter().filter_map(|change| match change {
            Change::Put(versioned) => {
                let after = Host::of(&versioned.object)?;
                Some((record(before, &after.id), after))
            }
            Change::Delete { .. } => None,
        })
    }

    /// Starts that others clear room for: workload, and who they are.
    fn cleared(&self) -> impl Iterator<Item = (&'a Workload, &'a BTreeSet<WorkloadId>)> + use<'a> {
        self.workloads().filter_map(|(before, after)| {
            let HoldKind::Awaiting { victims } = &after.hold.as_ref()?.kind else {
                return None;
            };
            let new = before.is_none_or(|before| before.hold != after.hold);
            new.then_some((after, victims))
        })
    }
}

fn record<'a>(world: &'a World, host: &HostId) -> Option<&'a Host> {
    world.hosts.get(host)?.record.as_ref()
}

fn runs_grow(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.workloads() {
        if let Some(before) = before
            && after.run < before.run
        {
            return Err(format!(
                "{} went from run {} to {}",
                after.id, before.run, after.run
            ));
        }
    }
    Ok(())
}

/// A workload leaves its host when that is lost or removed, or when it has ended there and waits.
fn moves_have_a_cause(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.workloads() {
        let Some(before) = before else { continue };
        let Some(from) = &before.host else { continue };
        let Some(host) = record(step.before, from) else {
            continue;
        };
        let leaves = after.host.as_ref() != Some(from)
            && before.run > 0
            && after.desired != model::DesiredState::Removed;
        if !leaves {
            continue;
        }
        let id = &after.id;
        if !after.left.contains_key(from) {
            return Err(format!("{id} left {from}, and nobody tells that host"));
        }
        if after.run <= before.run {
            return Err(format!("{id} left {from} without a new run"));
        }
        let lost = host.status.lost_at.is_some() && !host.status.connected;
        let ended = before.hold.is_some() && !before.may_be_alive();
        if !lost && !ended {
            return Err(format!(
                "{id} left {from}, which is not lost, as {:?} with {:?}",
                before.status.phase, before.hold
            ));
        }
    }
    Ok(())
}

/// Clocks of a simulation are exact, but a server may have begun to count when it sent its last question.
const SLACK_MS: i64 = 100;

/// A host is taken as lost when it was not heard for the installation's time, and not before: by servers that could write
/// that down.
fn lost_was_silent(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.hosts() {
        let lost = after.status.lost_at.is_some();
        let new = lost && before.is_none_or(|before| before.status.lost_at.is_none());
        if !new {
            continue;
        }
        let links = &step.before.past.links;
        let link = links.get(&after.id).copied().unwrap_or_default();
        if link.open > 0 {
            return Err(format!("{} is taken as lost and has a link", after.id));
        }
        let silent = step.before.now.millis() - link.heard.millis();
        let least = i64::from(step.before.installation.host_loss_seconds) * 1000;
        let mute = step.before.past.mute_until > step.before.now;
        if silent + SLACK_MS < least && !mute {
            return Err(format!(
                "{} is taken as lost, and was heard {silent} ms ago",
                after.id
            ));
        }
    }
    Ok(())
}

/// A start that others clear room for, in numbers.
struct Clearing<'a> {
    ledger: Ledger,
    host: &'a HostId,
    asking: usize,
    /// How much more its pool is charged.
    more: Charge,
    /// What lacks on the host.
    lacking: Vec<Resource>,
    free: Capacity,
    need: Capacity,
    /// Node and charge of each.
    victims: Vec<(&'a Workload, usize, Charge)>,
}

impl<'a> Clearing<'a> {
    fn of(
        world: &'a World,
        after: &'a Workload,
        victims: &BTreeSet<WorkloadId>,
    ) -> Result<Self, String> {
        let host = after.host.as_ref().ok_or("it has no host")?;
        let ledger = world.ledger();
        let node = |pool: &PoolId| ledger.tree().index(pool).ok_or("its pool is not there");
        let mut all = Vec::new();
        for id in victims {
            let it = world
                .workloads
                .get(id)
                .ok_or_else(|| format!("victim {id} is not there"))?;
            if it.host.as_ref() != Some(host) || !it.takes_room() || it.hold.is_some() {
                return Err(format!("victim {id} takes no room on {host}: {it:?}"));
            }
            all.push((it, node(&it.pool)?, Charge::of(it)));
        }
        let before = world.workloads.get(&after.id);
        let charged = before.map(Charge::of).unwrap_or_default();
        let (free, need) = (world.free(host), after.spec.task.resources.charge());
        let lacks = |it: &Resource| amount(need, *it) > amount(free, *it);
        Ok(Self {
            asking: node(&after.pool)?,
            more: Charge::of(after).minus(charged),
            lacking: Resource::ALL.into_iter().filter(lacks).collect(),
            host,
            free,
            need,
            victims: all,
            ledger,
        })
    }

    fn tree(&self) -> &Tree {
        self.ledger.tree()
    }

    fn is_below(&self, at: usize, above: usize) -> bool {
        self.tree().upwards(at).any(|it| it == above)
    }

    /// What a node is charged when all victims have gone but one.
    fn charged(&self, at: usize, resource: Resource, but: Option<&WorkloadId>) -> u64 {
        let gone = self
            .victims
            .iter()
            .filter(|(it, node, _)| Some(&it.id) != but && self.is_below(*node, at));
        let gone = gone
            .map(|(_, _, charge)| charge[key(resource)])
            .fold(0, u64::saturating_add);
        self.ledger.book(at).sum[key(resource)].saturating_sub(gone)
    }

    /// Nodes from one up to what it has in common with another.
    fn below_common(&self, at: usize, other: usize) -> Vec<usize> {
        let upwards = self.tree().upwards(at);
        upwards
            .take_while(|it| *it != ROOT && !self.is_below(other, *it))
            .collect()
    }

    /// Whether a victim borrows what lacks, even when all the others have gone, from one whose reservation covers it.
    fn borrows(&self, victim: &Workload, node: usize, charge: Charge) -> bool {
        let own = self.below_common(node, self.asking);
        let asking = self.below_common(self.asking, node);
        self.lacking.iter().any(|resource| {
            let reserved = |at: usize| self.tree().nodes[at].line(*resource).reservation;
            let beyond =
                |at: &usize| self.charged(*at, *resource, Some(&victim.id)) > reserved(*at);
            charge[key(*resource)] > 0 && !own.is_empty() && own.iter().all(beyond)
        }) && self.lacking.iter().all(|resource| {
            let covered = |at: &usize| {
                let sum = self.charged(*at, *resource, None) + self.more[key(*resource)];
                sum <= self.tree().nodes[*at].line(*resource).reservation
            };
            asking.iter().any(covered)
        })
    }

    /// What is free when all victims but one have gone.
    fn free_without(&self, but: Option<&WorkloadId>) -> Capacity {
        let going = self.victims.iter().filter(|(it, _, _)| Some(&it.id) != but);
        going.fold(self.free, |sum, (it, _, _)| {
            sum.plus(it.spec.task.resources.charge())
        })
    }
}

/// Who has to go for a start has borrowed, and is told to go in the same commit.
fn victims_borrow(step: &Step<'_>) -> Result<(), String> {
    for (after, victims) in step.cleared() {
        let clearing = Clearing::of(step.before, after, victims)?;
        for (victim, node, charge) in &clearing.victims {
            if !clearing.borrows(victim, *node, *charge) {
                return Err(format!(
                    "{} has to go from {} for {}, and has borrowed nothing of what lacks ({:?})",
                    victim.id, clearing.host, after.id, clearing.lacking
                ));
            }
            let told = step.workloads().any(|(_, it)| {
                let kind = it.hold.as_ref().map(|hold| &hold.kind);
                it.id == victim.id && matches!(kind, Some(HoldKind::Parked | HoldKind::Moving))
            });
            if !told {
                return Err(format!("{} has to go, and is not told so", victim.id));
            }
        }
    }
    Ok(())
}

/// They are enough, and leaving out any would not be.
fn victims_are_needed(step: &Step<'_>) -> Result<(), String> {
    for (after, victims) in step.cleared() {
        let clearing = Clearing::of(step.before, after, victims)?;
        // The host's own memory may be overdrawn; what goes pays that back first.
        let overdrawn = clearing.free == Capacity::default();
        if !overdrawn && !clearing.free_without(None).fits(clearing.need) {
            return Err(format!("{victims:?} are not enough for {}", after.id));
        }
        let spare = |(it, _, _): &&(&Workload, usize, Charge)| {
            clearing.free_without(Some(&it.id)).fits(clearing.need)
        };
        if let Some((it, _, _)) = clearing.victims.iter().find(spare)
            && !overdrawn
        {
            return Err(format!("{} need not have gone for {}", it.id, after.id));
        }
    }
    Ok(())
}

/// Who has to go from a host whose memory is overdrawn works with more than its pools have reserved.
fn the_squeezed_borrow(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.workloads() {
        let hold = after.hold.as_ref();
        let new = before.is_some_and(|before| before.hold.is_none());
        let squeezed = hold.is_some_and(|hold| hold.reason.starts_with("the memory of host"));
        if !new || !squeezed {
            continue;
        }
        let tree = step.before.tree();
        for pool in step.before.path(&after.pool) {
            let Some(node) = tree.node(&pool) else {
                continue;
            };
            let used = step.before.past.used_most(&pool);
            if used <= node.memory.reservation {
                return Err(format!(
                    "{} has to go, and pool {} used no more than {used} of the {} it has reserved",
                    after.id, node.name, node.memory.reservation
                ));
            }
        }
    }
    Ok(())
}

/// No change of pools makes anything lack that was there before.
fn pools_are_not_overbooked(step: &Step<'_>) -> Result<(), String> {
    let mut after = World {
        pools: step.before.pools.clone(),
        installation: step.before.installation,
        hosts: Default::default(),
        ..World::default()
    };
    let mut changed = false;
    for change in step.event.changes.iter() {
        if let Change::Put(versioned) = change {
            match &versioned.object {
                Object::Pool(pool) => {
                    changed = true;
                    after.pools.insert(pool.id.clone(), pool.clone());
                }
                Object::Installation(it) => {
                    changed = true;
                    after.installation = *it;
                }
                _ => {}
            }
        }
    }
    if !changed {
        return Ok(());
    }
    after.hosts = step
        .before
        .hosts
        .iter()
        .map(|(id, view)| {
            let record = view.record.clone();
            let view = super::HostView {
                record,
                ..Default::default()
            };
            (id.clone(), view)
        })
        .collect();
    let (before, after) = (step.before.tree(), after.tree());
    for node in &after.nodes {
        let was = match &node.pool {
            Some(pool) => before.node(pool),
            None => before.nodes.first(),
        };
        for resource in Resource::ALL {
            let short = node.line(resource).short();
            let before = was.map_or(0, |node| node.line(resource).short());
            if short > before {
                return Err(format!(
                    "a change of pools makes {} lack {short} of {}, it was {before} before",
                    node.name,
                    resource.as_str()
                ));
            }
        }
    }
    Ok(())
}

/// What a pool may have at most of a key, if that depends on nothing but the pool itself.
fn own_bound(world: &World, pool: &PoolId, key: QuotaKey) -> Option<u64> {
    let slice = &world.pools.get(pool)?.slice;
    match key {
        QuotaKey::Counted(counted) => slice.quotas.get(&counted).copied(),
        QuotaKey::Resource(resource) => {
            let portion = slice.portion(resource);
            let Some(Amount::Absolute(limit)) = portion.limit else {
                return None;
            };
            let ratio = world.installation.overcommit(resource);
            Some(portion.overcommit.unwrap_or(ratio).of(limit))
        }
    }
}

/// What is made or started stays inside the limits and quotas of its pools, at every level.
fn admissions_hold(step: &Step<'_>) -> Result<(), String> {
    if step.cleared().next().is_some() {
        return Ok(());
    }
    let mut ledger: Option<Ledger> = None;
    for (before, after) in step.workloads() {
        let admitted = before.is_none_or(|before| after.run > before.run);
        if !admitted {
            continue;
        }
        let ledger = ledger.get_or_insert_with(|| step.before.ledger());
        let was = before.map(Charge::of).unwrap_or_default();
        ledger.set(&after.id, Some(&Claim::of(after)));
        let more = Charge::of(after).minus(was);
        let keys = [
            QuotaKey::Resource(Resource::Cpu),
            QuotaKey::Resource(Resource::Memory),
            QuotaKey::Counted(Counted::Workloads),
        ];
        for key in keys.into_iter().filter(|key| more[*key] > 0) {
            for pool in step.before.path(&after.pool) {
                let Some(bound) = own_bound(step.before, &pool, key) else {
                    continue;
                };
                let sum = ledger.usage(&pool).map_or(0, |book| book.sum[key]);
                if sum > bound {
                    return Err(format!(
                        "{} was admitted, and {pool} has {sum} of {bound} {} then",
                        after.id,
                        key.as_str()
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What is newly placed on a host fits there.
fn hosts_are_not_overfilled(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.workloads() {
        let Some(host) = &after.host else { continue };
        let placed = before.is_none_or(|before| before.host.as_ref() != Some(host));
        if !placed || after.hold.is_some() || !after.takes_room() {
            continue;
        }
        let need = after.spec.task.resources.charge();
        if !step.before.free(host).fits(need) {
            return Err(format!(
                "{} was placed on {host}, which has {:?} left, and needs {need:?}",
                after.id,
                step.before.free(host)
            ));
        }
    }
    Ok(())
}
