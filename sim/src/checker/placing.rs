//! What must hold of where workloads are: lost hosts, maintenance, what is held, and how often things move.

use model::{DesiredState, HoldKind, HostId, HostLoss, QuotaKey, Resource, Workload};

use super::{HostView, World};

/// Times a workload may be started on another host once nothing breaks any more: away from a host in maintenance, or for
/// an owner, and once more because that was decided before the first one had ended.
const MOVES_MAX: usize = 3;

/// After a host was left because it was lost, something may live on there. After every other move nothing may.
pub(super) fn twice_only_by_loss(world: &World) -> Result<(), String> {
    for (host, view) in known(world) {
        for (id, _) in view.living() {
            let left = world
                .workloads
                .get(id)
                .is_some_and(|it| it.left.contains_key(host));
            let lost = (id.clone(), host.clone());
            if left && !world.past.left_by_loss.contains(&lost) {
                return Err(format!(
                    "{id} was moved away from {host}, which was not lost, and lives on there"
                ));
            }
        }
    }
    Ok(())
}

/// What must never run twice does not, whatever is cut off from whatever. (A removed host is gone by an operator's
/// word.)
pub(super) fn at_most_one_runs_once(world: &World) -> Result<(), String> {
    let mut seen = std::collections::BTreeMap::new();
    for (host, view) in known(world) {
        for (id, _) in view.living() {
            let only = world.workloads.get(id);
            if only.is_none_or(|it| it.spec.on_host_loss != Some(HostLoss::AtMostOne)) {
                continue;
            }
            if let Some(other) = seen.insert(id, host) {
                return Err(format!(
                    "{id} must never run twice, and runs on {other} and on {host}"
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn one_host(world: &World) -> Result<(), String> {
    let mut seen = std::collections::BTreeMap::new();
    for (host, view) in known(world) {
        for (id, _) in view.living() {
            if let Some(other) = seen.insert(id, host) {
                return Err(format!("{id} runs on {other} and on {host}"));
            }
        }
    }
    Ok(())
}

pub(super) fn left_is_cleared(world: &World) -> Result<(), String> {
    for workload in world.workloads.values() {
        if let Some(host) = workload.left.keys().next() {
            let known = world
                .hosts
                .get(host)
                .is_some_and(|view| view.record.is_some());
            return Err(format!(
                "{} is still left on {host}, which is {}",
                workload.id,
                if known { "there" } else { "no host any more" }
            ));
        }
    }
    Ok(())
}

pub(super) fn nothing_is_lost(world: &World) -> Result<(), String> {
    match known(world).find(|(_, view)| {
        let record = view.record.as_ref();
        record.is_some_and(|record| record.status.lost_at.is_some())
    }) {
        Some((host, _)) => Err(format!("{host} is connected and taken as lost")),
        None => Ok(()),
    }
}

fn known(world: &World) -> impl Iterator<Item = (&HostId, &HostView)> {
    world.hosts.iter().filter(|(_, view)| view.record.is_some())
}

fn is_wanted(workload: &Workload) -> bool {
    matches!(
        workload.desired,
        DesiredState::Running | DesiredState::Paused
    )
}

/// What waits does not run, says why, and has no room.
pub(super) fn held_waits_rightly(world: &World) -> Result<(), String> {
    for workload in world.workloads.values() {
        let Some(hold) = &workload.hold else { continue };
        let id = &workload.id;
        if !is_wanted(workload) {
            return Err(format!("{id} waits, and is not wanted to run"));
        }
        let lives = |(_, view): &(&HostId, &HostView)| view.living().any(|(it, _)| it == id);
        if let Some((host, _)) = known(world).find(lives) {
            return Err(format!("{id} is {:?} and runs on {host}", hold.kind));
        }
        match &hold.kind {
            HoldKind::Queued | HoldKind::Parked => {}
            HoldKind::Moving | HoldKind::Awaiting { .. } => {
                return Err(format!("{id} is still {:?}: {}", hold.kind, hold.reason));
            }
        }
        if hold.reason.is_empty() {
            return Err(format!("{id} is {:?}, and nothing says why", hold.kind));
        }
        if hold.not_before > world.now {
            return Err(format!("the pause of {id} is not over"));
        }
        if let Some(host) = room_for(world, workload) {
            return Err(format!(
                "{id} is {:?} ({}), and there is room on {host}",
                hold.kind, hold.reason
            ));
        }
    }
    Ok(())
}

/// A host that has room for the next run of a workload, if its pools have.
fn room_for(world: &World, workload: &Workload) -> Option<HostId> {
    let mut next = workload.clone();
    next.run += 1;
    next.hold = None;
    let claim = model::Claim::of(&next);
    let before = model::Charge::of(workload);
    let ledger = world.ledger();
    ledger.admit(&claim.pool, before, claim.charge).ok()?;
    let need = workload.spec.task.resources.charge();
    let own = workload.host.as_ref().filter(|_| workload.run > 0);
    let bound = own.filter(|own| {
        let there = world.hosts.get(*own);
        there.is_some_and(|view| view.record.is_some()) && world.stays(workload)
    });
    let fits = |host: &&HostId| {
        let usable = world.hosts.get(*host).is_some_and(HostView::takes_work);
        usable
            && bound.is_none_or(|own| own == *host)
            && !workload.left.contains_key(*host)
            && world.free(host).fits(need)
    };
    known(world).map(|(host, _)| host).find(fits).cloned()
}

/// What is inside its pool's reservation does not wait while others have borrowed its room.
pub(super) fn reserved_is_served(world: &World) -> Result<(), String> {
    let mut cluster = None;
    let ledger = world.ledger();
    for workload in world.workloads.values() {
        let waits = workload.hold.is_some() && is_wanted(workload);
        if !waits || workload.may_be_alive() {
            continue;
        }
        let mut next = workload.clone();
        next.run += 1;
        next.hold = None;
        let claim = model::Claim::of(&next);
        let before = model::Charge::of(workload);
        if !plan::displace::is_reserved(&ledger, &claim, before) {
            continue;
        }
        let cluster = cluster.get_or_insert_with(|| cluster_of(world));
        let own = workload.host.as_ref().filter(|_| workload.run > 0);
        let asked = plan::displace::Asked {
            wanted: plan::place::Wanted {
                pinned: own.filter(|_| world.stays(workload)),
                ..wanted(workload)
            },
            claim: &claim,
            before,
        };
        let lodgers = |host: &HostId| lodgers(world, host);
        let Some(room) = plan::displace::make_room(cluster, &ledger, asked, lodgers) else {
            continue;
        };
        let mut cleared = ledger.clone();
        for victim in &room.victims {
            cleared.set(victim, None);
        }
        if cleared.admit(&claim.pool, before, claim.charge).is_ok() {
            return Err(format!(
                "{} waits inside its pool's reservation, and {:?} have borrowed its room on {}",
                workload.id, room.victims, room.host
            ));
        }
    }
    Ok(())
}

fn cluster_of(world: &World) -> plan::place::Cluster {
    let records = world.hosts.values().filter_map(|view| view.record.as_ref());
    let mut cluster = plan::place::Cluster::new(records);
    for workload in world.workloads.values() {
        cluster.workload_put(workload);
    }
    cluster
}

fn wanted(workload: &Workload) -> plan::place::Wanted<'_> {
    plan::place::Wanted {
        id: Some(&workload.id),
        pool: &workload.pool,
        spec: &workload.spec,
        architecture: "",
        image_bytes: 0,
        pinned: None,
        not_on: &[],
        policy: model::PlacementPolicy::default(),
        pool_hosts: &[],
        seed: 0,
    }
}

fn lodgers<'a>(world: &'a World, host: &HostId) -> Vec<plan::displace::Lodger<'a>> {
    let there = world
        .workloads
        .values()
        .filter(|it| it.host.as_ref() == Some(host) && it.takes_room() && it.hold.is_none());
    there
        .map(|workload| plan::displace::Lodger {
            workload,
            priority: world.priority(workload),
            memory_used: 0,
        })
        .collect()
}

/// A host in maintenance is empty, but for what cannot move or finds no room.
pub(super) fn drained_is_empty(world: &World) -> Result<(), String> {
    for (host, view) in known(world) {
        let Some(drain) = view.record.as_ref().and_then(|record| record.drain) else {
            continue;
        };
        for workload in world.workloads.values() {
            let there = workload.host.as_ref() == Some(host) && workload.takes_room();
            if !there || !is_wanted(workload) {
                continue;
            }
            if world.stays(workload) {
                if drain.stop_rest {
                    return Err(format!(
                        "{} cannot leave {host}, and was not stopped",
                        workload.id
                    ));
                }
                continue;
            }
            let need = workload.spec.task.resources.charge();
            let fits = |other: &&HostId| {
                *other != host
                    && world.hosts.get(*other).is_some_and(HostView::takes_work)
                    && world.free(other).fits(need)
            };
            if let Some(other) = known(world).map(|(id, _)| id).find(fits) {
                return Err(format!(
                    "{} is still on {host}, which is in maintenance, with room on {other}",
                    workload.id
                ));
            }
        }
    }
    Ok(())
}

/// Once nothing breaks and nobody asks for anything, moves come to an end.
pub(super) fn moves_end(world: &World) -> Result<(), String> {
    let Some(healed) = world.past.healed else {
        return Ok(());
    };
    for (id, moves) in &world.past.moves {
        let count = moves.iter().filter(|at| **at >= healed).count();
        if count > MOVES_MAX {
            return Err(format!("{id} was moved {count} times while all was calm"));
        }
    }
    Ok(())
}

/// A restart of all servers moves nothing, starts nothing and stops nothing.
pub(super) fn restart_moves_nothing(world: &World) -> Result<(), String> {
    let Some([before, after]) = &world.past.restarted else {
        return Ok(());
    };
    for (id, place) in before {
        if after.get(id) != Some(place) {
            return Err(format!(
                "{id} was {place:?} before the servers were started anew, and is {:?} now",
                after.get(id)
            ));
        }
    }
    match after.keys().find(|id| !before.contains_key(*id)) {
        Some(id) => Err(format!("{id} came by a restart")),
        None => Ok(()),
    }
}

/// Requests of everything on a host, by key.
pub(super) fn amount(of: model::Capacity, resource: Resource) -> u64 {
    match resource {
        Resource::Cpu => of.cpu.0,
        Resource::Memory => of.memory.0,
    }
}

/// A key by its resource.
pub(super) fn key(resource: Resource) -> QuotaKey {
    QuotaKey::Resource(resource)
}
