//! What must hold when everybody has let go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use model::{DesiredState, Phase, RestartPolicy, TaskStatus, Workload, WorkloadId};

use crate::loopback::world::{POLL, World};

/// Waits until everything holds; fails with what does not.
///
/// # Errors
/// When it does not in time.
pub async fn settled(world: &World, limit: Duration) -> Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let wrong = wrongs(world);
        if wrong.is_empty() {
            return begun_once(world);
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("after {limit:?} of calm:\n  {}", wrong.join("\n  "));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How many containers are in which state.
#[must_use]
pub fn census(world: &World) -> String {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for workload in world.server.control.snapshot().workloads() {
        *counts
            .entry(format!("{:?}", workload.status.phase).to_lowercase())
            .or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(phase, n)| format!("{n} {phase}"))
        .collect();
    counts.join(", ")
}

fn wrongs(world: &World) -> Vec<String> {
    let snapshot = world.server.control.snapshot();
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for workload in snapshot.workloads() {
        known.insert(workload.id.clone());
        let tasks: Vec<_> = world
            .hosts
            .iter()
            .filter_map(|host| Some((host, host.fake.task(&workload.id)?)))
            .collect();
        for (host, _) in &tasks {
            if workload.host.as_ref() != Some(&host.id) {
                wrong.push(format!(
                    "{} is on host {}, where it was not placed",
                    workload.id, host.id
                ));
            }
        }
        let task = tasks.first().map(|(_, task)| task);
        if let Some(problem) = disagreement(&workload, task) {
            wrong.push(format!(
                "{} ({:?}, run {}): {problem}; recorded {:?} run {} of {} {:?}, seen {:?}",
                workload.id.short(),
                workload.desired,
                workload.run,
                workload.status.phase,
                workload.status.run,
                workload.spec.task.args.join(" "),
                workload.spec.restart,
                task.map(|t| (t.phase, t.run, t.restart_count)),
            ));
        }
    }
    for host in &world.hosts {
        for id in host.fake.tasks() {
            if !known.contains(&id) {
                wrong.push(format!("{} is left over on host {}", id.short(), host.id));
            }
        }
        for id in host.fake.networks() {
            if !known.contains(&id) {
                wrong.push(format!(
                    "the network of {} is left over on host {}",
                    id.short(),
                    host.id
                ));
            }
        }
    }
    wrong
}

/// What is wrong between what is wanted, recorded and there.
fn disagreement(workload: &Workload, task: Option<&TaskStatus>) -> Option<&'static str> {
    let recorded = workload.status.phase;
    let alive = task.is_some_and(|t| t.phase.is_alive());
    if recorded.is_alive() != alive {
        return Some("recorded is not what is there");
    }
    let restarts = matches!(
        workload.spec.restart,
        RestartPolicy::Always | RestartPolicy::UnlessStopped
    );
    let command = workload.spec.task.args.first().map_or("", String::as_str);
    let lasting = matches!(command, "server" | "stubborn");
    match workload.desired {
        DesiredState::Created => alive.then_some("runs, but was never started"),
        DesiredState::Stopped { .. } => alive.then_some("runs, but should not"),
        DesiredState::Removed => Some("is not gone"),
        DesiredState::Running | DesiredState::Paused => {
            let frozen = workload.desired == DesiredState::Paused;
            match recorded {
                Phase::Running if frozen => Some("is not frozen"),
                Phase::Paused if !frozen => Some("is frozen"),
                Phase::Running | Phase::Paused => None,
                Phase::Exited if restarts => Some("should have been started again"),
                Phase::Exited | Phase::Failed if workload.status.run < workload.run => {
                    Some("its last run was never begun")
                }
                Phase::Exited | Phase::Failed => None,
                Phase::Restarting if lasting => Some("does not come back"),
                Phase::Restarting => None,
                Phase::Pending | Phase::Preparing | Phase::Unknown => Some("hangs"),
            }
        }
    }
}

/// No attempt began twice, and no workload on two hosts.
fn begun_once(world: &World) -> Result<()> {
    let mut hosts: BTreeMap<WorkloadId, &model::HostId> = BTreeMap::new();
    for host in &world.hosts {
        let mut seen = BTreeSet::new();
        for (id, run, attempt) in host.fake.starts() {
            if !seen.insert((id.clone(), run, attempt)) {
                bail!("attempt {attempt} of run {run} of {id} began twice");
            }
            if let Some(other) = hosts.insert(id.clone(), &host.id)
                && *other != host.id
            {
                bail!("{id} began on {} and on {other}", host.id);
            }
        }
    }
    Ok(())
}
