//! What would become of everything if something changed: decided by the functions that act, on copies of what they act on.
//!
//! Nothing is written, and nothing is claimed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{
    Charge, Claim, DesiredState, HostId, PoolId, QuotaKey, Resource, Slice, TaskStatus, Workload,
    WorkloadId,
};
use plan::displace::{Asked, Begin, Lodger};
use plan::place::Cluster;
use plan::pools::Ledger;
use store::Snapshot;

use crate::admission::{shortage, tree_of};
use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, random};
use crate::error::{Error, Result};
use crate::workloads::{Circumstances, priority_of};

/// Workloads that can be added in thought: a question must not take longer than its answer is worth.
const ADD_MAX: u32 = 10_000;

/// What is assumed.
#[derive(Debug, Clone)]
pub enum Assumption {
    /// A host is lost, or put into maintenance for good.
    WithoutHost {
        /// Name or id.
        host: String,
        /// Whether it is emptied in order, so that what cannot move keeps running.
        drained: bool,
    },
    /// A pool's slice is another one.
    Pool {
        /// Name.
        pool: String,
        /// The slice it has then.
        slice: Box<Slice>,
    },
    /// More workloads like one that there is.
    Add {
        /// How many.
        count: u32,
        /// The pool of the one.
        pool: PoolId,
        /// The one.
        like: WorkloadId,
    },
}

/// One workload's part of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Its name; of one that is only thought, the name of the one it is like and a number.
    pub name: String,
    /// Its pool's name.
    pub pool: String,
    /// Where it is now.
    pub from: Option<String>,
    /// Where it would be.
    pub to: Option<String>,
    /// Why.
    pub reason: String,
}

/// What a pool would lack, or be beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLine {
    /// Its name; empty: the installation.
    pub pool: String,
    /// Of what.
    pub key: QuotaKey,
    /// Whether its reservation cannot be kept, or its limit is passed.
    pub what: LineKind,
    /// By how much, in units of the key.
    pub amount: u64,
}

/// How a pool's line would be crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// So much of what is reserved cannot be kept.
    OverCommitted,
    /// Requests in it are so much above what they may add up to: what runs goes on, nothing more starts.
    AboveLimit,
}

/// What would become of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// These would be started, elsewhere or for the first time.
    pub placed: Vec<Fate>,
    /// These would stay as they are, although they cannot move.
    pub stay: Vec<Fate>,
    /// These would not run.
    pub refused: Vec<Fate>,
    /// These would be parked to make room.
    pub parked: Vec<Fate>,
    /// Pools that would lack something and do not now.
    pub lines: Vec<PoolLine>,
}

impl Control {
    /// What would become of everything under an assumption.
    ///
    /// # Errors
    /// When the caller may not see enough, or the assumption names what is not there.
    pub fn what_if(&self, caller: &Caller, assumption: &Assumption) -> Result<Outcome> {
        let snapshot = self.snapshot();
        match assumption {
            Assumption::WithoutHost { host, drained } => {
                self.grant(&snapshot, caller, Action::HostManage, Scope::Installation)?;
                self.thought(&snapshot)?.without_host(host, *drained)
            }
            Assumption::Pool { pool, slice } => {
                self.grant(&snapshot, caller, Action::HostRead, Scope::Installation)?;
                self.thought(&snapshot)?.with_slice(pool, slice)
            }
            Assumption::Add { count, pool, like } => {
                self.grant(&snapshot, caller, Action::WorkloadCreate, Scope::Pool(pool))?;
                let row = snapshot.workload(like).filter(|row| row.pool == *pool);
                let like = row.ok_or_else(|| Error::not_found("container", like.as_str()))?;
                if *count == 0 || *count > ADD_MAX {
                    return Err(Error::invalid(format!(
                        "add between 1 and {ADD_MAX} workloads"
                    )));
                }
                let mut outcome = self.thought(&snapshot)?.with_more(*count, &like)?;
                let all = self
                    .grant(&snapshot, caller, Action::HostRead, Scope::Installation)
                    .is_ok();
                if !all {
                    hide_others(&mut outcome, &pool_name(&snapshot, pool));
                }
                Ok(outcome)
            }
        }
    }

    fn thought<'a>(&self, snapshot: &'a Snapshot) -> Result<Thought<'a>> {
        let ledger = self.with_ledger(Ledger::clone).ok_or_else(|| {
            Error::new(crate::ErrorKind::Unavailable, "the server is being stopped")
        })?;
        Ok(Thought {
            snapshot,
            ledger,
            cluster: self.inner.placing.cluster(snapshot),
            gone: BTreeSet::new(),
            added: HashMap::new(),
            outcome: Outcome::default(),
        })
    }
}

/// The installation in thought.
struct Thought<'a> {
    snapshot: &'a Snapshot,
    ledger: Ledger,
    cluster: Cluster,
    /// Parked, or moved away, in thought.
    gone: BTreeSet<WorkloadId>,
    /// Where workloads are in thought that are elsewhere, or nowhere, by the snapshot.
    added: HashMap<HostId, Vec<Workload>>,
    outcome: Outcome,
}

impl Thought<'_> {
    fn without_host(mut self, reference: &str, drained: bool) -> Result<Outcome> {
        let snapshot = self.snapshot;
        let host = crate::hosts::find(snapshot, reference)?;
        let before = shortage(self.ledger.tree());
        let mut there: Vec<&Workload> = snapshot
            .workloads_on(&host.id)
            .map(|row| row.value())
            .filter(|it| matches!(it.desired, DesiredState::Running | DesiredState::Paused))
            .filter(|it| it.takes_room())
            .collect();
        plan::loss::order(&mut there, |it| priority_of(snapshot, it));
        let hosts: Vec<_> = snapshot.hosts().filter(|it| it.id != host.id).collect();
        let tree = crate::admission::tree_with_hosts(snapshot, hosts.iter().map(|row| row.value()));
        self.ledger.set_tree(tree);
        let (stay, leave): (Vec<&Workload>, Vec<&Workload>) = there
            .into_iter()
            .partition(|it| crate::loss::obstacle(snapshot, it).is_some());
        self.cluster.host_remove(&host.id);
        for workload in stay {
            let reason = crate::loss::obstacle(snapshot, workload).unwrap_or_default();
            let fate = self.fate(workload, None, reason);
            if drained {
                self.outcome.stay.push(fate);
            } else {
                self.ledger.set(&workload.id, None);
                self.outcome.refused.push(fate);
            }
        }
        for workload in leave {
            self.ledger.set(&workload.id, None);
            self.gone.insert(workload.id.clone());
            let mut moved = workload.clone();
            moved.host = None;
            moved.left.insert(host.id.clone(), workload.created_at);
            self.start(&moved, Some(host.name.to_string()));
        }
        self.lines(&before);
        Ok(self.outcome)
    }

    fn with_slice(mut self, pool: &str, slice: &Slice) -> Result<Outcome> {
        let name = model::Name::parse(pool).map_err(|e| Error::invalid(e.to_string()))?;
        let row = self.snapshot.pool_by_name(&name);
        let row = row.ok_or_else(|| Error::not_found("pool", pool))?;
        let before = shortage(self.ledger.tree());
        let mut changed = row.value().clone();
        changed.slice = slice.clone();
        self.ledger.set_tree(tree_of(self.snapshot, Some(&changed)));
        self.lines(&before);
        // What waits now may find room then.
        let snapshot = self.snapshot;
        let mut waiting: Vec<&Workload> = snapshot
            .workloads_held()
            .map(|row| row.value())
            .filter(|it| !it.takes_room() && !it.may_be_alive())
            .collect();
        waiting.sort_by_key(|it| {
            let since = it.hold.as_ref().map(|hold| hold.since);
            (std::cmp::Reverse(priority_of(snapshot, it)), since)
        });
        for workload in waiting {
            let mut next = workload.clone();
            let from = self.host_name(next.host.as_ref());
            next.host = None;
            next.hold = None;
            self.start(&next, from);
        }
        Ok(self.outcome)
    }

    fn with_more(mut self, count: u32, like: &Workload) -> Result<Outcome> {
        for number in 1..=count {
            let mut more = like.clone();
            more.id = WorkloadId::from_bytes(&random()?);
            let name = format!("{}+{number}", like.name);
            more.name = model::Name::parse(&name).unwrap_or_else(|_| like.name.clone());
            more.host = None;
            more.hold = None;
            more.run = 0;
            more.status = TaskStatus::default();
            let placed = self.outcome.placed.len();
            self.start(&more, None);
            if let Some(fate) = self.outcome.placed.get_mut(placed) {
                fate.name.clone_from(&name);
            } else if let Some(fate) = self.outcome.refused.last_mut() {
                fate.name = name;
            }
        }
        Ok(self.outcome)
    }

    /// Starts a workload in thought that has no place.
    fn start(&mut self, workload: &Workload, from: Option<String>) {
        let mut starting = workload.clone();
        starting.desired = DesiredState::Running;
        starting.hold = None;
        starting.run += 1;
        let claim = Claim::of(&starting);
        let before = self.ledger.claim(&workload.id).unwrap_or(Charge::NONE);
        let circumstances = Circumstances::of(self.snapshot, &starting);
        let asked = Asked {
            wanted: circumstances.wanted(&starting, 0),
            claim: &claim,
            before,
        };
        let lodgers = |host: &HostId| self.lodgers(host);
        match plan::displace::begin(&self.cluster, &self.ledger, asked, lodgers) {
            Begin::Fits(placement) => {
                let reason = placement.sentence();
                if let Some(host) = placement.host {
                    starting.gpus = placement.gpus;
                    self.put(starting, host, from, reason);
                }
            }
            Begin::Clears(room) => {
                let name = starting.name.clone();
                let pool = self.pool_name(&starting.pool);
                for id in &room.victims {
                    self.park(
                        id,
                        format!("{name} of pool {pool} takes back what is reserved"),
                    );
                }
                starting.gpus.clone_from(&room.gpus);
                let reason = format!("{} borrowers make room", room.victims.len());
                self.put(starting, room.host, from, reason);
            }
            Begin::Refused(reason) => {
                self.ledger.set(&workload.id, None);
                let fate = Fate {
                    from,
                    ..self.fate(workload, None, reason)
                };
                self.outcome.refused.push(fate);
            }
        }
    }

    fn put(&mut self, mut workload: Workload, host: HostId, from: Option<String>, reason: String) {
        workload.host = Some(host.clone());
        self.ledger.set(&workload.id, Some(&Claim::of(&workload)));
        self.cluster.workload_put(&workload);
        let to = self.host_name(Some(&host));
        let fate = Fate {
            from,
            to,
            ..self.fate(&workload, None, reason)
        };
        self.outcome.placed.push(fate);
        self.added.entry(host).or_default().push(workload);
    }

    fn park(&mut self, id: &WorkloadId, reason: String) {
        let known = self.snapshot.workload(id).map(|row| row.value().clone());
        let added = self
            .added
            .values()
            .flatten()
            .find(|it| it.id == *id)
            .cloned();
        let Some(victim) = added.or(known) else {
            return;
        };
        for there in self.added.values_mut() {
            there.retain(|it| it.id != *id);
        }
        self.gone.insert(id.clone());
        self.ledger.set(id, None);
        self.cluster.workload_remove(id);
        let fate = self.fate(&victim, None, reason);
        self.outcome.parked.push(fate);
    }

    /// What is on a host in thought.
    fn lodgers(&self, host: &HostId) -> Vec<Lodger<'_>> {
        let known = self.snapshot.workloads_on(host).map(|row| row.value());
        let known = known.filter(|it| !self.gone.contains(&it.id));
        let added = self.added.get(host).into_iter().flatten();
        known
            .chain(added)
            .filter(|it| it.takes_room() && it.hold.is_none())
            .map(|workload| Lodger {
                workload,
                priority: priority_of(self.snapshot, workload),
                memory_used: 0,
            })
            .collect()
    }

    fn fate(&self, workload: &Workload, to: Option<String>, reason: String) -> Fate {
        Fate {
            name: workload.name.to_string(),
            pool: self.pool_name(&workload.pool),
            from: self.host_name(workload.host.as_ref()),
            to,
            reason,
        }
    }

    fn pool_name(&self, pool: &PoolId) -> String {
        pool_name(self.snapshot, pool)
    }

    fn host_name(&self, host: Option<&HostId>) -> Option<String> {
        let host = self.snapshot.host(host?)?;
        Some(host.name.to_string())
    }

    /// What pools lack now and did not before.
    fn lines(&mut self, before: &BTreeMap<(PoolId, Resource), u64>) {
        let tree = self.ledger.tree();
        let mut lines = Vec::new();
        for ((pool, resource), amount) in shortage(tree) {
            if before.get(&(pool.clone(), resource)) != Some(&amount) {
                lines.push(PoolLine {
                    pool: self.pool_name(&pool),
                    key: QuotaKey::Resource(resource),
                    what: LineKind::OverCommitted,
                    amount,
                });
            }
        }
        for (at, node) in tree.nodes.iter().enumerate() {
            for resource in Resource::ALL {
                let key = QuotaKey::Resource(resource);
                let used = self.ledger.book(at).sum[key];
                let bound = node.line(resource).bound.unwrap_or(u64::MAX);
                if used > bound {
                    lines.push(PoolLine {
                        pool: node
                            .pool
                            .as_ref()
                            .map_or_else(String::new, |it| self.pool_name(it)),
                        key,
                        what: LineKind::AboveLimit,
                        amount: used - bound,
                    });
                }
            }
        }
        self.outcome.lines = lines;
    }
}

/// Of other pools a tenant learns only that they have to make room.
fn hide_others(outcome: &mut Outcome, own: &str) {
    for fate in &mut outcome.parked {
        if fate.pool != own {
            fate.name = String::new();
            fate.pool = String::new();
            fate.from = None;
            fate.reason = "it borrows from this pool".into();
        }
    }
}

fn pool_name(snapshot: &Snapshot, pool: &PoolId) -> String {
    let row = snapshot.pool(pool);
    row.map_or_else(String::new, |pool| pool.name.to_string())
}

impl Outcome {
    /// Whether everything that runs or is asked for would run, and every pool would have what it reserved.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.refused.is_empty() && self.parked.is_empty() && self.lines.is_empty()
    }
}
