//! What happened so far, as far as the checker needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use control::workloads::WaitOutcome;
use model::{
    DesiredState, HoldKind, HostId, HostLoss, ImageId, Object, PoolId, Resource, RestartPolicy,
    Timestamp, Workload, WorkloadId,
};
use store::{Change, Event};

use super::World;

/// How long what pools used is remembered, in milliseconds: servers decide by measurements that are some seconds old.
const USAGE_MS: i64 = 20_000;

/// An answered wait.
#[derive(Debug, Clone)]
pub struct Wait {
    /// For which workload.
    pub id: WorkloadId,
    /// The answer.
    pub outcome: WaitOutcome,
    /// Highest run that was asked for by then.
    pub runs: u64,
}

/// Images of pulls and loads whose users were not told that they worked. A record may have come of each, but nothing
/// was promised.
#[derive(Debug, Clone, Default)]
pub struct Imports(BTreeSet<ImageId>);

impl Imports {
    /// A request begins, or has failed.
    pub fn doubt(&mut self, image: &ImageId) {
        self.0.insert(image.clone());
    }

    /// A user was told that the image is there, whatever became of requests before.
    pub fn done(&mut self, image: &ImageId) {
        self.0.remove(image);
    }

    /// Whether an image may be missing.
    #[must_use]
    pub fn in_doubt(&self, image: &ImageId) -> bool {
        self.0.contains(image)
    }
}

/// Links of a host to servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Linked {
    /// How many are open.
    pub open: u32,
    /// When a server heard the host last.
    pub heard: Timestamp,
}

/// Where a workload is, and whether it is to run there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its host.
    pub host: Option<HostId>,
    /// Its run.
    pub run: u64,
    /// What it waits for.
    pub hold: Option<HoldKind>,
}

impl Place {
    /// The place of a workload.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        Self {
            host: workload.host.clone(),
            run: workload.run,
            hold: workload.hold.as_ref().map(|hold| hold.kind.clone()),
        }
    }
}

/// What happened so far.
#[derive(Debug, Clone, Default)]
pub struct PastView {
    /// Commits that should not have been made: what did not hold, and why.
    pub wrong_steps: Vec<(&'static str, String)>,
    /// Links of hosts.
    pub links: BTreeMap<HostId, Linked>,
    /// Until when servers may be unable to write down what they hear.
    pub mute_until: Timestamp,
    /// How often a machine has lost everything.
    pub wipes: BTreeMap<HostId, usize>,
    /// Hosts that workloads were taken away from because they were lost: only there may something live on.
    pub left_by_loss: BTreeSet<(WorkloadId, HostId)>,
    /// When hosts were seen to be lost last.
    pub lost: BTreeMap<HostId, Timestamp>,
    /// Workloads that a host may end and start again by itself, because it hears no server.
    pub fenced: BTreeSet<WorkloadId>,
    /// When workloads were started on another host than before.
    pub moves: BTreeMap<WorkloadId, Vec<Timestamp>>,
    /// What hosts together have in force of pools' limits.
    pub in_force: BTreeMap<(PoolId, Resource), u64>,
    /// Memory that pools have used on hosts lately.
    pub usage: BTreeMap<(HostId, PoolId), Vec<(Timestamp, u64)>>,
    /// When nothing broke any more, and nobody asked for anything any more.
    pub healed: Option<Timestamp>,
    /// Where everything was before all servers were started anew, and long after; only at the end.
    pub restarted: Option<[BTreeMap<WorkloadId, Place>; 2]>,
    /// Hosts on which an attempt began: workload, run, restarts by policy before it.
    pub starts: BTreeMap<(WorkloadId, u64, u32), Vec<HostId>>,
    /// Exit codes of attempts.
    pub ends: BTreeMap<WorkloadId, BTreeMap<(u64, u32), i32>>,
    /// Removals that hosts carried out.
    pub removals: BTreeSet<(HostId, WorkloadId)>,
    /// Removals that were asked for.
    pub removals_named: BTreeSet<(HostId, WorkloadId)>,
    /// Images that hosts dropped.
    pub drops: BTreeSet<(HostId, ImageId)>,
    /// Pulls and loads.
    pub imports: Imports,
    /// Images that were named for dropping.
    pub drops_named: BTreeSet<ImageId>,
    /// Restart policies a workload had.
    pub policies: BTreeMap<WorkloadId, Vec<RestartPolicy>>,
    /// Highest run that was asked for.
    pub runs: BTreeMap<WorkloadId, u64>,
    /// Revisions in the order they were heard of: the last two.
    pub revisions: (u64, u64),
    /// Generations in the order hosts named them to each server: the last two.
    pub generations: BTreeMap<(HostId, usize), (u64, u64)>,
    /// Exit codes of execs whose streams came to their end.
    pub execs: Vec<(WorkloadId, Option<i32>)>,
    /// Answered waits.
    pub waits: Vec<Wait>,
    /// Workloads that lost power.
    pub lost_power: BTreeSet<HostId>,
    /// Revisions before and after a long time in which nobody asked for anything; only at the end.
    pub idle: Option<(u64, u64)>,
}

/// Shared by whoever sees something happen.
#[derive(Debug, Clone, Default)]
pub struct Past(Arc<Mutex<PastView>>);

impl Past {
    /// Changes or reads it.
    pub fn with<T>(&self, change: impl FnOnce(&mut PastView) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes it out, to be looked at together with the present; to be given back at once.
    #[must_use]
    pub fn take(&self) -> PastView {
        self.with(std::mem::take)
    }

    /// Gives back what was taken.
    pub fn give_back(&self, view: PastView) {
        self.with(|past| *past = view);
    }

    /// A host says to a server that it has written the document of this generation down.
    pub fn accepted(&self, host: &HostId, server: usize, generation: u64) {
        self.with(|past| {
            let known = past.generations.entry((host.clone(), server));
            let (before, last) = known.or_default();
            (*before, *last) = (*last, generation);
        });
    }

    /// A host has a link.
    pub fn link_opened(&self, host: &HostId) {
        self.with(|past| past.links.entry(host.clone()).or_default().open += 1);
        self.heard(host);
    }

    /// A server hears a host.
    pub fn heard(&self, host: &HostId) {
        self.with(|past| past.links.entry(host.clone()).or_default().heard = control::now());
    }

    /// A link of a host is over.
    pub fn link_closed(&self, host: &HostId) {
        self.with(|past| {
            let link = past.links.entry(host.clone()).or_default();
            link.open = link.open.saturating_sub(1);
        });
    }

    /// A commit was made to what was so before.
    pub fn committed(&self, before: &World, event: &Event) {
        self.with(|past| {
            past.revisions = (past.revisions.1, event.revision.0);
            for change in event.changes.iter() {
                let versioned = match change {
                    Change::Put(versioned) => versioned,
                    Change::Delete { last, .. } => {
                        if let Object::Host(host) = &last.object {
                            past.host_removed(before, &host.id);
                            past.in_force.clear();
                        }
                        continue;
                    }
                };
                match &versioned.object {
                    Object::Workload(workload) => {
                        let run = past.runs.entry(workload.id.clone()).or_default();
                        *run = (*run).max(workload.run);
                        let policies = past.policies.entry(workload.id.clone()).or_default();
                        if !policies.contains(&workload.spec.restart) {
                            policies.push(workload.spec.restart);
                        }
                        let removed = workload.desired == DesiredState::Removed;
                        let own = workload.host.iter().filter(|_| removed);
                        for host in own.chain(workload.left.keys()) {
                            past.removals_named
                                .insert((host.clone(), workload.id.clone()));
                        }
                        past.moved(before, workload);
                        let own = workload.spec.on_host_loss;
                        let answer = own.or_else(|| before.pool_on_host_loss(&workload.pool));
                        if answer == Some(HostLoss::AtMostOne) {
                            past.fenced.insert(workload.id.clone());
                        }
                    }
                    Object::DroppedImage(image) => {
                        past.drops_named.insert(image.id.clone());
                    }
                    // Limits are others now: what is in force of them begins anew.
                    Object::Installation(_) => past.in_force.clear(),
                    // Shares of what all hosts have are others then.
                    Object::Host(host) => {
                        if !before.counts_like(host) {
                            past.in_force.clear();
                        }
                    }
                    Object::Pool(pool) => {
                        past.in_force.clear();
                        if pool.slice.on_host_loss == Some(HostLoss::AtMostOne) {
                            past.fenced.extend(before.workloads.keys().cloned());
                        }
                    }
                    Object::Image(_)
                    | Object::Principal(_)
                    | Object::AccessToken(_)
                    | Object::JoinToken(_)
                    | Object::Setting(_)
                    | Object::Division(_)
                    | Object::Network(_) => {}
                }
            }
        });
    }
}

impl PastView {
    /// A machine has lost everything.
    pub fn wiped(&mut self, host: &HostId, images: &BTreeSet<ImageId>) {
        *self.wipes.entry(host.clone()).or_default() += 1;
        self.generations.retain(|(of, _), _| of != host);
        for image in images {
            self.imports.doubt(image);
        }
    }

    /// What is only on a host that is not in the installation any more cannot be had.
    fn host_removed(&mut self, before: &World, host: &HostId) {
        let images = before.hosts.get(host).map(|view| &view.images);
        for image in images.into_iter().flatten() {
            self.imports.doubt(image);
        }
    }

    fn moved(&mut self, before: &World, now: &Workload) {
        let Some(was) = before.workloads.get(&now.id) else {
            return;
        };
        for host in now.left.keys().filter(|host| !was.left.contains_key(*host)) {
            let record = before.hosts.get(host).and_then(|view| view.record.as_ref());
            if record.is_some_and(|record| record.status.lost_at.is_some()) {
                self.left_by_loss.insert((now.id.clone(), host.clone()));
            }
        }
        if was.host.is_some() && now.host.is_some() && was.host != now.host {
            let at = before.now;
            self.moves.entry(now.id.clone()).or_default().push(at);
        }
    }

    /// What pools use on a host now.
    pub fn used(&mut self, now: Timestamp, host: &HostId, pool: &PoolId, bytes: u64) {
        let seen = self.usage.entry((host.clone(), pool.clone())).or_default();
        seen.retain(|(at, _)| at.plus_millis(USAGE_MS) >= now);
        seen.push((now, bytes));
    }

    /// The most a pool has used lately, on all hosts together.
    #[must_use]
    pub fn used_most(&self, pool: &PoolId) -> u64 {
        let of = self.usage.iter().filter(|((_, of), _)| of == pool);
        of.map(|(_, seen)| seen.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0))
            .fold(0, u64::saturating_add)
    }
}
