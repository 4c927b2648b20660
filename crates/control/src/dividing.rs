//! The controller that divides pools among hosts: from what is measured to what hosts may give, again and again.
//!
//! Level triggered: every round looks at the newest snapshot and at what hosts said last, so that it does not matter
//! which server does it, how often, or what came of the round before. Two servers that divide at once are told apart
//! by the revisions they read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{
    Capacity, CpuMillis, HostId, Installation, MemoryBytes, Object, Pool, PoolId, PoolUsage,
    Resource, resources::host_reserve,
};
use plan::entitle::pools::Entitlement;
use plan::entitle::round::{HostView, Local, entitlements, round};
use plan::pools::{HostRoom, Tree};
use store::{CommitError, Snapshot, Transaction, WatchError};
use tokio::task::JoinHandle;
use wire::link::MEASURE_SECONDS;

use crate::caller::{Action, Caller};
use crate::core::Control;
use crate::error::Result;
use crate::kept::Kept;
use crate::measures::HostMeasure;

/// Least pause between two rounds: what happens at once is seen together.
const PAUSE: Duration = Duration::from_millis(100);

/// A round may take so much of the time: a pause is at least this many times what the last round took.
const PAUSE_TIMES: u32 = 10;

/// Starts dividing; goes on until the store is closed, or the task is aborted.
pub fn divide_pools(control: &Control) -> JoinHandle<()> {
    let control = control.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(MEASURE_SECONDS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = control.inner.measures.confirmed();
        let Ok(mut watch) = control.store().watch(control.snapshot().revision) else {
            return;
        };
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = heard.changed() => {}
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
            if let Err(error) = control.divide_once().await {
                tracing::warn!(
                    ?error,
                    "could not divide the pools among hosts, trying again"
                );
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
    /// One round: divides and tells the hosts concerned. Gives the number of hosts that are told something.
    ///
    /// # Errors
    /// When the store refuses, or another server was faster.
    pub async fn divide_once(&self) -> Result<usize> {
        let grant = self.own_grant(Action::HostManage)?;
        let snapshot = self.snapshot();
        let measures = self.host_measures();
        let reachable = |host: &HostId| self.inner.hub.is_connected(host);
        let news = decide(&snapshot, &measures, &reachable);
        let told = news.len();
        for (host, division) in news {
            // Each host by itself: what one gives up, the others get only when it has said so.
            let key = model::Key::Division(host);
            let tx = Transaction::new();
            let tx = match snapshot.get(&key) {
                Some(old) => tx.update(old.revision, Object::Division(division)),
                None => tx.create(Object::Division(division)),
            };
            match self.commit(&grant, tx).await {
                // Another server divides too.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.forget_divisions(&snapshot).await?;
        Ok(told)
    }

    /// Divisions of hosts that are not known any more go.
    async fn forget_divisions(&self, snapshot: &Snapshot) -> Result<()> {
        let grant = self.own_grant(Action::HostManage)?;
        for division in snapshot.divisions() {
            if snapshot.host(&division.host).is_none() {
                let key = model::Key::Division(division.host.clone());
                self.commit(
                    &grant,
                    Transaction::new().delete_unchanged(division.revision(), key),
                )
                .await?;
            }
        }
        Ok(())
    }
}

/// What a pool does and may do now, over all hosts.
#[derive(Debug, Clone)]
pub struct PoolUse {
    /// The pool.
    pub pool: Kept<Pool>,
    /// CPU in thousandths of a core.
    pub cpu: ResourceUse,
    /// Memory in bytes.
    pub memory: ResourceUse,
    /// Processes and threads.
    pub pids: u64,
}

/// One resource of a pool; the pool with everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResourceUse {
    /// Guaranteed.
    pub reservation: u64,
    /// Never exceeded.
    pub limit: Option<u64>,
    /// The most it could use, by limits and hosts.
    pub ceiling: u64,
    /// What it may use now.
    pub entitled: u64,
    /// What it would use if nobody held it back.
    pub demand: u64,
    /// What it uses, as hosts measured it last.
    pub used: u64,
}

impl Control {
    /// What every pool that the caller may see does and may do now, by name.
    ///
    /// # Errors
    /// When the caller is not known.
    pub fn pool_uses(&self, caller: &Caller) -> Result<Vec<PoolUse>> {
        let pools = self.pool_list(caller)?;
        let snapshot = self.snapshot();
        let measures = self.host_measures();
        let tree = tree(&snapshot);
        let views = views(&snapshot, &tree, &measures, &|_| true);
        let [cpu, memory] = entitlements(&tree, &views);
        let uses = pools.into_iter().filter_map(|pool| {
            let at = tree.index(&pool.id)?;
            let mut sum = PoolUsage::default();
            for usage in measures.values().filter_map(|it| it.usage.get(&pool.id)) {
                sum.cpu_used.0 += usage.cpu_used.0;
                sum.memory_working_set.0 += usage.memory_working_set.0;
                sum.pids += usage.pids;
            }
            let of = |resource, given: &[Entitlement], used| {
                let line = tree.nodes[at].line(resource);
                ResourceUse {
                    reservation: line.reservation,
                    limit: line.limit,
                    ceiling: line.ceiling,
                    entitled: given[at].amount,
                    demand: given[at].demand,
                    used,
                }
            };
            Some(PoolUse {
                cpu: of(Resource::Cpu, &cpu, sum.cpu_used.0),
                memory: of(Resource::Memory, &memory, sum.memory_working_set.0),
                pids: sum.pids,
                pool,
            })
        });
        Ok(uses.collect())
    }
}

type Measured = BTreeMap<HostId, Arc<HostMeasure>>;

/// What hosts are to be told now.
fn decide(
    snapshot: &Snapshot,
    measures: &Measured,
    reachable: &dyn Fn(&HostId) -> bool,
) -> BTreeMap<HostId, model::Division> {
    let tree = tree(snapshot);
    round(&tree, &views(snapshot, &tree, measures, reachable))
}

/// What a host has for pools.
fn room(host: &model::Host) -> Capacity {
    let total = host.status.facts.capacity;
    total.minus(host_reserve(total))
}

fn tree(snapshot: &Snapshot) -> Tree {
    let rooms: Vec<HostRoom<'_>> = snapshot
        .hosts()
        .filter(|host| !host.cordoned && host.status.lost_at.is_none())
        .map(|host| HostRoom {
            labels: &host.value().labels,
            room: room(host.value()),
        })
        .collect();
    let installation = snapshot
        .installation()
        .map_or_else(Installation::default, |it| *it);
    Tree::resolve(
        snapshot.pools().map(|pool| pool.value()),
        &rooms,
        &installation,
    )
}

fn views<'a>(
    snapshot: &'a Snapshot,
    tree: &Tree,
    measures: &Measured,
    reachable: &dyn Fn(&HostId) -> bool,
) -> Vec<HostView<'a>> {
    let view = |host: store::Row<'a, model::Host>| {
        let division = snapshot.division(&host.id);
        let measure = measures.get(&host.id);
        let confirmed = division.is_some_and(|division| {
            measure.is_some_and(|measure| measure.applied >= division.revision().0)
        });
        HostView {
            id: &host.value().id,
            room: room(host.value()),
            reachable: reachable(&host.id),
            division: division.map(|division| division.value()),
            confirmed,
            pools: locals(snapshot, tree, &host.id, measure.map(|it| &it.usage)),
        }
    };
    // What is on a lost host is not reckoned with: others go on in its place, and it is told so when it comes back.
    let there = snapshot.hosts().filter(|it| it.status.lost_at.is_none());
    there.map(view).collect()
}

/// What each pool's own workloads do on a host: as measured, and as requested where nothing is measured yet.
fn locals(
    snapshot: &Snapshot,
    tree: &Tree,
    host: &HostId,
    usage: Option<&BTreeMap<PoolId, PoolUsage>>,
) -> BTreeMap<PoolId, Local> {
    let mut locals: BTreeMap<PoolId, Local> = BTreeMap::new();
    for workload in snapshot.workloads_on(host) {
        // What was stopped before it was said to run may run until its host says that it does not.
        if !workload.takes_room() && !workload.may_be_alive() {
            continue;
        }
        let local = locals.entry(workload.pool.clone()).or_default();
        if !workload.takes_room() {
            continue;
        }
        let request = workload.spec.task.resources.charge();
        local.requests = local.requests.plus(request);
        // Under a limit, nothing that has not begun yet does so without a part.
        local.alive |= workload.status.phase.is_alive();
        if !workload.status.phase.is_alive() {
            // It begins now: nothing of it is measured.
            local.demand = local.demand.plus(request);
        }
    }
    for (pool, local) in &mut locals {
        let measured = usage.and_then(|usage| own_demand(tree, pool, usage));
        local.demand = match measured {
            Some(measured) => local.demand.plus(measured),
            None => local.requests,
        };
    }
    locals
}

/// What is measured of a pool, without the pools below it.
fn own_demand(tree: &Tree, pool: &PoolId, usage: &BTreeMap<PoolId, PoolUsage>) -> Option<Capacity> {
    let demand = |usage: &PoolUsage| Capacity {
        cpu: CpuMillis(usage.cpu_demand.0),
        memory: MemoryBytes(usage.memory_working_set.0),
    };
    let whole = demand(usage.get(pool)?);
    let below = tree
        .node(pool)?
        .children
        .iter()
        .filter_map(|child| usage.get(tree.nodes[*child].pool.as_ref()?))
        .fold(Capacity::default(), |sum, it| sum.plus(demand(it)));
    Some(whole.minus(below))
}
