//! One function for each thing that must hold.

use std::collections::{BTreeMap, BTreeSet};

use model::{DesiredState, Phase, Resource, RestartPolicy, Workload};

use super::{World, placing, pools};

/// When something must hold. Later ones include earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// After every commit.
    Always,
    /// When everything was healed and came to rest.
    Settled,
    /// After a long rest, with the ledgers read.
    Ended,
}

/// Something that must hold.
#[derive(Debug, Clone, Copy)]
pub struct Invariant {
    /// Name, for reports.
    pub name: &'static str,
    /// When.
    pub when: When,
    /// Whether it does; else why not.
    pub check: fn(&World) -> Result<(), String>,
}

const fn invariant(
    name: &'static str,
    when: When,
    check: fn(&World) -> Result<(), String>,
) -> Invariant {
    Invariant { name, when, check }
}

/// All of them.
pub const ALL: [Invariant; 40] = [
    invariant("unique-names", When::Always, unique_names),
    invariant("started-is-placed", When::Always, started_is_placed),
    invariant("status-not-ahead", When::Always, status_not_ahead),
    invariant("only-placed-runs", When::Always, only_placed_runs),
    invariant(
        "twice-only-by-loss",
        When::Always,
        placing::twice_only_by_loss,
    ),
    invariant("at-most-one", When::Always, placing::at_most_one_runs_once),
    invariant("attempt-once", When::Always, attempt_once),
    invariant("attempts-by-policy", When::Always, attempts_by_policy),
    invariant("runs-as-asked", When::Always, runs_as_asked),
    invariant("removals-named", When::Always, removals_named),
    invariant("drops-named", When::Always, drops_named),
    invariant("generations-grow", When::Always, generations_grow),
    invariant("revisions-grow", When::Always, revisions_grow),
    invariant("waits-true", When::Always, waits_true),
    invariant("execs-true", When::Always, execs_true),
    invariant("images-kept", When::Always, images_kept),
    invariant("ledgers-are-right", When::Always, pools::ledgers_are_right),
    invariant(
        "limits-hold-everywhere",
        When::Always,
        pools::limits_hold_everywhere,
    ),
    invariant("hosts-connected", When::Settled, hosts_connected),
    invariant("nothing-is-lost", When::Settled, placing::nothing_is_lost),
    invariant("left-is-cleared", When::Settled, placing::left_is_cleared),
    invariant("one-host", When::Settled, placing::one_host),
    invariant("removed-is-gone", When::Settled, removed_is_gone),
    invariant(
        "held-waits-rightly",
        When::Settled,
        placing::held_waits_rightly,
    ),
    invariant(
        "reserved-is-served",
        When::Settled,
        placing::reserved_is_served,
    ),
    invariant("drained-is-empty", When::Settled, placing::drained_is_empty),
    invariant("running-as-wanted", When::Settled, running_as_wanted),
    invariant("stopped-is-dead", When::Settled, stopped_is_dead),
    invariant("status-true", When::Settled, status_true),
    invariant("images-recorded", When::Settled, images_recorded),
    invariant("images-copied", When::Settled, images_copied),
    invariant(
        "limits-are-in-force",
        When::Settled,
        pools::limits_are_in_force,
    ),
    invariant("moves-end", When::Settled, placing::moves_end),
    invariant("reservations-fit", When::Ended, pools::reservations_fit),
    invariant(
        "entitlements-are-between",
        When::Ended,
        pools::entitlements_are_between,
    ),
    invariant(
        "nothing-is-idle-in-need",
        When::Ended,
        pools::nothing_is_idle_in_need,
    ),
    invariant(
        "restart-moves-nothing",
        When::Ended,
        placing::restart_moves_nothing,
    ),
    invariant("images-dropped", When::Ended, images_dropped),
    invariant("documents-agree", When::Ended, documents_agree),
    invariant("idle-is-quiet", When::Ended, idle_is_quiet),
];

fn unique_names(world: &World) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    // The name of one that is being removed is free.
    let named = world.workloads.values();
    for workload in named.filter(|w| w.desired != DesiredState::Removed) {
        let key = (&workload.pool, &workload.name);
        if let Some(other) = seen.insert(key, &workload.id) {
            return Err(format!(
                "{} and {other} are both named {}",
                workload.id, workload.name
            ));
        }
    }
    Ok(())
}

fn started_is_placed(world: &World) -> Result<(), String> {
    for workload in world.workloads.values() {
        // One that is being removed may be gone from its host, and have to be removed from others yet.
        let removed = workload.desired == DesiredState::Removed;
        if workload.run > 0 && workload.host.is_none() && !removed {
            return Err(format!(
                "{} has run {} and no host",
                workload.id, workload.run
            ));
        }
    }
    Ok(())
}

fn status_not_ahead(world: &World) -> Result<(), String> {
    for workload in world.workloads.values() {
        if workload.status.run > workload.run {
            return Err(format!(
                "{}: run {} is reported, {} was asked for",
                workload.id, workload.status.run, workload.run
            ));
        }
    }
    Ok(())
}

fn only_placed_runs(world: &World) -> Result<(), String> {
    for (host, view) in &world.hosts {
        if view.record.is_none() {
            continue;
        }
        for (id, _) in view.living() {
            match world.workloads.get(id) {
                Some(workload)
                    if workload.host.as_ref() == Some(host) || workload.left.contains_key(host) => {
                }
                Some(workload) => {
                    return Err(format!(
                        "{id} runs on {host}, but is placed on {:?}",
                        workload.host
                    ));
                }
                None => return Err(format!("{id} runs on {host}, but has no record")),
            }
        }
    }
    Ok(())
}

fn attempt_once(world: &World) -> Result<(), String> {
    for ((id, run, attempt), hosts) in &world.past.starts {
        // A machine that has lost everything does not know what it did.
        let wipes = |host| world.past.wipes.get(host).copied().unwrap_or(0);
        let allowed = 1 + hosts.first().map_or(0, wipes);
        let elsewhere = hosts.iter().any(|host| Some(host) != hosts.first());
        if hosts.len() > allowed || elsewhere {
            return Err(format!(
                "attempt {attempt} of run {run} of {id} began {} times: {hosts:?}",
                hosts.len()
            ));
        }
    }
    Ok(())
}

fn attempts_by_policy(world: &World) -> Result<(), String> {
    for (id, run, attempt) in world.past.starts.keys() {
        let policies = world.past.policies.get(id).map_or(&[][..], |p| &p[..]);
        let allowed = *attempt == 0
            || world.past.fenced.contains(id)
            || policies.iter().any(|policy| match policy {
                RestartPolicy::No => false,
                RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
                RestartPolicy::OnFailure { max_retries } => {
                    *max_retries == 0 || attempt <= max_retries
                }
            });
        if !allowed {
            return Err(format!(
                "attempt {attempt} of run {run} of {id} with {policies:?}"
            ));
        }
    }
    Ok(())
}

fn runs_as_asked(world: &World) -> Result<(), String> {
    for (id, run, _) in world.past.starts.keys() {
        let asked = world.past.runs.get(id).copied().unwrap_or(0);
        if *run > asked {
            return Err(format!("run {run} of {id} began, {asked} was asked for"));
        }
    }
    Ok(())
}

fn removals_named(world: &World) -> Result<(), String> {
    let past = &world.past;
    match past.removals.difference(&past.removals_named).next() {
        Some((host, id)) => Err(format!("{host} removed {id}, which nobody asked for")),
        None => Ok(()),
    }
}

fn drops_named(world: &World) -> Result<(), String> {
    let past = &world.past;
    match past
        .drops
        .iter()
        .find(|(_, id)| !past.drops_named.contains(id))
    {
        Some((host, id)) => Err(format!("{host} dropped {id}, which nobody asked for")),
        None => Ok(()),
    }
}

fn generations_grow(world: &World) -> Result<(), String> {
    for ((host, _), (before, after)) in &world.past.generations {
        if after < before {
            return Err(format!("{host} went from document {before} to {after}"));
        }
    }
    Ok(())
}

fn revisions_grow(world: &World) -> Result<(), String> {
    let (before, after) = world.past.revisions;
    if before > 0 && after <= before {
        return Err(format!("revision {after} came after {before}"));
    }
    Ok(())
}

/// Exit codes of attempts that could not be started.
const FAILED_START: std::ops::RangeInclusive<i32> = 126..=128;
/// Exit code of a task that was stopped before it was started.
const NEVER_STARTED: i32 = 137;
/// Exit code of a task its host lost.
const LOST: i32 = 255;

fn waits_true(world: &World) -> Result<(), String> {
    for wait in &world.past.waits {
        let code = wait.outcome.exit_code;
        let real = world
            .past
            .ends
            .get(&wait.id)
            .is_some_and(|ends| ends.values().any(|end| *end == code));
        let runs = wait.runs;
        let begun = |run| {
            let of_run = (wait.id.clone(), run, 0)..=(wait.id.clone(), run, u32::MAX);
            world.past.starts.range(of_run).next().is_some()
        };
        let made_up = (runs == 0 && code == 0)
            || (FAILED_START.contains(&code) && wait.outcome.error.is_some())
            || (code == NEVER_STARTED && (1..=runs).any(|run| !begun(run)))
            // A machine that has lost everything does not know that it ran.
            || (code == NEVER_STARTED && !world.past.wipes.is_empty())
            || (code == LOST && !world.past.lost_power.is_empty())
            || (code == LOST && wait.outcome.error.is_some());
        if !real && !made_up {
            return Err(format!(
                "a wait for {} was answered with {:?}, but it ended as {:?}",
                wait.id,
                wait.outcome,
                world.past.ends.get(&wait.id)
            ));
        }
    }
    Ok(())
}

/// Execs outlive agents and links: if the client was not told otherwise, the exit code is the true one.
fn execs_true(world: &World) -> Result<(), String> {
    let wanted = Some(crate::verbs::EXEC_CODE);
    match world.past.execs.iter().find(|(_, code)| *code != wanted) {
        Some((id, code)) => Err(format!(
            "an exec in {id} is said to have ended with {code:?}"
        )),
        None => Ok(()),
    }
}

fn hosts_connected(world: &World) -> Result<(), String> {
    let known = |view: &super::HostView| view.record.is_some();
    match world
        .hosts
        .iter()
        .find(|(_, view)| known(view) && !view.connected())
    {
        Some((host, _)) => Err(format!("{host} is not connected")),
        None => Ok(()),
    }
}

fn removed_is_gone(world: &World) -> Result<(), String> {
    for workload in world.workloads.values() {
        if workload.desired == DesiredState::Removed {
            return Err(format!(
                "{} is still being removed: {:?}",
                workload.id, workload.status
            ));
        }
    }
    for (host, view) in world.hosts.iter().filter(|(_, view)| view.record.is_some()) {
        for (id, task) in &view.tasks {
            let forgotten = view.forgotten.get(id) == Some(&task.run);
            if !world.workloads.contains_key(id) && !forgotten {
                return Err(format!("{id} was removed and is still on {host}: {task:?}"));
            }
        }
    }
    Ok(())
}

/// Whether a workload may rest as it is although it is wanted to run.
fn may_rest(workload: &Workload) -> bool {
    let status = &workload.status;
    if !status.phase.is_final() {
        return false;
    }
    let first_start_failed = status.phase == Phase::Failed && status.restart_count == 0;
    match workload.spec.restart {
        RestartPolicy::No => true,
        RestartPolicy::OnFailure { max_retries } => {
            first_start_failed
                || status.exit_code == 0
                || (max_retries > 0 && status.restart_count >= max_retries)
        }
        RestartPolicy::Always | RestartPolicy::UnlessStopped => first_start_failed,
    }
}

/// Whether a pool above a workload has a limit of nothing: a part of what all hosts have that take work, and none does.
fn is_starved(world: &World, workload: &Workload) -> bool {
    let tree = world.tree();
    let path = world.path(&workload.pool);
    let mut nodes = path.iter().filter_map(|pool| tree.node(pool));
    nodes.any(|node| {
        Resource::ALL
            .map(|it| node.line(it).limit)
            .contains(&Some(0))
    })
}

fn running_as_wanted(world: &World) -> Result<(), String> {
    for workload in world.workloads.values().filter(|it| it.hold.is_none()) {
        let paused = match workload.desired {
            DesiredState::Running => false,
            DesiredState::Paused => true,
            DesiredState::Created | DesiredState::Stopped { .. } | DesiredState::Removed => {
                continue;
            }
        };
        let status = &workload.status;
        let wanted = if paused {
            Phase::Paused
        } else {
            Phase::Running
        };
        // The policy of an ended run may have been changed since: that is no new start.
        let changed = world
            .past
            .policies
            .get(&workload.id)
            .is_some_and(|policies| policies.len() > 1);
        let rests = may_rest(workload) || (changed && status.phase.is_final());
        let differs = status.run != workload.run || (status.phase != wanted && !rests);
        if differs && !is_starved(world, workload) {
            return Err(format!(
                "{} is wanted {:?} in run {} with {:?}, and is {status:?}",
                workload.id, workload.desired, workload.run, workload.spec.restart
            ));
        }
    }
    Ok(())
}

fn stopped_is_dead(world: &World) -> Result<(), String> {
    for workload in world.workloads.values() {
        let stopped = matches!(
            workload.desired,
            DesiredState::Stopped { .. } | DesiredState::Created
        );
        let mut hosts = world.hosts.values().filter(|view| view.record.is_some());
        let alive = hosts.any(|view| view.living().any(|(id, _)| *id == workload.id));
        if stopped && alive {
            return Err(format!("{} is wanted stopped and lives", workload.id));
        }
    }
    Ok(())
}

fn status_true(world: &World) -> Result<(), String> {
    for workload in world.workloads.values() {
        let Some(host) = &workload.host else { continue };
        let Some(view) = world.hosts.get(host) else {
            continue;
        };
        let status = &workload.status;
        let task = view.tasks.get(&workload.id);
        let lives = task.is_some_and(|task| task.phase.is_alive());
        if status.phase.is_alive() != lives {
            return Err(format!(
                "{} is recorded as {:?} and is {task:?}",
                workload.id, status.phase
            ));
        }
        let Some(task) = task else { continue };
        let same = (task.run, task.restart_count) == (status.run, status.restart_count);
        if same && task.phase == Phase::Exited && task.exit_code != status.exit_code {
            return Err(format!(
                "{} ended with {}, recorded is {}",
                workload.id, task.exit_code, status.exit_code
            ));
        }
    }
    Ok(())
}

fn images_recorded(world: &World) -> Result<(), String> {
    for (host, view) in &world.hosts {
        let Some(record) = &view.record else { continue };
        if view.images != record.status.images {
            return Err(format!(
                "{host} has {:?}, recorded is {:?}",
                view.images, record.status.images
            ));
        }
    }
    Ok(())
}

fn images_kept(world: &World) -> Result<(), String> {
    let known = |view: &&super::HostView| view.record.is_some();
    let there = |id: &model::ImageId| {
        let mut hosts = world.hosts.values().filter(known);
        hosts.any(|view| view.images.contains(id))
    };
    match world
        .images
        .iter()
        .map(|(_, id)| id)
        .find(|id| !there(id) && !world.past.imports.in_doubt(id))
    {
        Some(id) => Err(format!("a pool has {id}, which is on no host any more")),
        None => Ok(()),
    }
}

/// What is on some host is on two of them that stay, as far as there are hosts that take work.
fn images_copied(world: &World) -> Result<(), String> {
    let stays = |view: &&super::HostView| {
        let record = view.record.as_ref();
        record.is_some_and(|it| it.status.lost_at.is_none() && it.drain.is_none())
    };
    let images: BTreeSet<_> = world.images.iter().map(|(_, id)| id).collect();
    for id in images {
        let has = |view: &&super::HostView| view.images.contains(id);
        let copies = world.hosts.values().filter(stays).filter(has).count();
        let mut others = world.hosts.values().filter(|view| !has(view));
        let lacks = others.any(super::HostView::takes_work);
        // What no host has is for `images_kept`.
        let there = world
            .hosts
            .values()
            .any(|view| view.connected() && has(&view));
        if there && lacks && copies < plan::copies::COPIES {
            return Err(format!(
                "{id} is on {copies} hosts that stay, and one could take it"
            ));
        }
    }
    Ok(())
}

fn images_dropped(world: &World) -> Result<(), String> {
    for (host, view) in &world.hosts {
        let Some((_, wanted)) = &view.documents else {
            continue;
        };
        // Nobody knows what images tasks need that are not in the document.
        if !view.forgotten.is_empty() {
            continue;
        }
        let used = |id: &model::ImageId| wanted.workloads.values().any(|w| w.image.id == *id);
        if let Some(id) = wanted.drop_images.keys().find(|id| !used(id)) {
            return Err(format!("{host} still has {id}, which is to be dropped"));
        }
    }
    Ok(())
}

fn documents_agree(world: &World) -> Result<(), String> {
    for (host, view) in &world.hosts {
        let Some((ledger, wanted)) = &view.documents else {
            continue;
        };
        if let Some(change) = plan::lower::desired_change(ledger, wanted) {
            return Err(format!(
                "the ledger of {host} is not the document: change {:?}, remove {:?}, images {}",
                change.upsert.keys(),
                change.remove,
                change.drop_images
            ));
        }
    }
    Ok(())
}

fn idle_is_quiet(world: &World) -> Result<(), String> {
    match world.past.idle {
        Some((before, after)) if before != after => Err(format!(
            "{} commits were made although nothing happened",
            after - before
        )),
        Some(_) | None => Ok(()),
    }
}
