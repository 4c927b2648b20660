//! One round: from what is measured to what every host is told of the pools next.
//!
//! Start with [`round`]. What always holds: a pool's limit is never passed by the sum of what its hosts may have in
//! force ([`shift`]); small differences are not told, so that steady demand leads to silence.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Capacity, CpuMillis, Division, HostId, HostPool, MemoryBytes, PoolId, Resource,
    division::Unconfirmed,
};

use super::hosts::{self, Sample};
use super::lower::host_pools;
use super::pools::{Demand, Entitlement, entitle};
use super::shift::{self, Standing};
use crate::pools::Tree;

/// A host as it stands.
#[derive(Debug, Clone)]
pub struct HostView<'a> {
    /// Which.
    pub id: &'a HostId,
    /// What it has for pools.
    pub room: Capacity,
    /// Whether it can be told something now.
    pub reachable: bool,
    /// What it was told last.
    pub division: Option<&'a Division>,
    /// Whether it has said that this is in force.
    pub confirmed: bool,
    /// What pools do there, by their own workloads. A pool with none is not named.
    pub pools: BTreeMap<PoolId, Local>,
}

/// What a pool's own workloads do on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Local {
    /// What they would use if nobody held them back.
    pub demand: Capacity,
    /// What they are charged.
    pub requests: Capacity,
    /// Whether any of them runs. What has not begun yet waits for its pool's part, if there is a limit.
    pub alive: bool,
}

/// A difference of more than one in so many is told.
const NEWS_PART: u64 = 10;

/// What the hosts are to be told now; a host that is to be told nothing new is not named.
#[must_use]
pub fn round(tree: &Tree, views: &[HostView<'_>]) -> BTreeMap<HostId, Division> {
    let wanted = wanted(tree, views);
    let mut parts: Vec<BTreeMap<PoolId, HostPool>> = views
        .iter()
        .map(|view| wanted.get(view.id).cloned().unwrap_or_default())
        .collect();
    let alive: Vec<BTreeSet<usize>> = views.iter().map(|view| alive(tree, view)).collect();
    for resource in Resource::ALL {
        shift_limits(tree, resource, views, &alive, &mut parts);
    }
    let mut news = BTreeMap::new();
    for ((view, alive), pools) in views.iter().zip(&alive).zip(parts) {
        let quiet = match view.division {
            None => pools.is_empty(),
            // What is confirmed now need not be reckoned with any more; that is written with the next news.
            Some(old) => same(&old.pools, &pools),
        };
        if view.reachable && !quiet {
            let bounds = |pool: &PoolId| {
                let alive = tree.index(pool).is_some_and(|at| alive.contains(&at));
                Resource::ALL.map(|resource| stands(view, pool, resource, alive))
            };
            news.insert(view.id.clone(), next(view.id, pools, bounds));
        }
    }
    news
}

/// Nodes of which something runs on a host.
fn alive(tree: &Tree, view: &HostView<'_>) -> BTreeSet<usize> {
    let running = view.pools.iter().filter(|(_, local)| local.alive);
    let nodes = running.filter_map(|(pool, _)| tree.index(pool));
    nodes.flat_map(|at| tree.upwards(at)).collect()
}

/// What every host would be told if it were in force at once.
fn wanted(tree: &Tree, views: &[HostView<'_>]) -> BTreeMap<HostId, BTreeMap<PoolId, HostPool>> {
    let ids: Vec<HostId> = views.iter().map(|view| view.id.clone()).collect();
    let divide = |resource| {
        let rooms: Vec<u64> = views.iter().map(|view| of(view.room, resource)).collect();
        let given: Vec<Entitlement> = entitle(tree, resource, &demands(tree, resource, views));
        let division = hosts::divide(
            tree,
            resource,
            &given,
            &rooms,
            &samples(tree, resource, views),
        );
        (division, rooms)
    };
    let ((cpu, rooms), (memory, _)) = (divide(Resource::Cpu), divide(Resource::Memory));
    host_pools(tree, (&cpu, &memory), &ids, &rooms)
}

/// What every node of the tree may use now, for people: CPU and memory.
#[must_use]
pub fn entitlements(tree: &Tree, views: &[HostView<'_>]) -> [Vec<Entitlement>; 2] {
    Resource::ALL.map(|resource| entitle(tree, resource, &demands(tree, resource, views)))
}

fn of(amount: Capacity, resource: Resource) -> u64 {
    match resource {
        Resource::Cpu => amount.cpu.0,
        Resource::Memory => amount.memory.0,
    }
}

fn demands(tree: &Tree, resource: Resource, views: &[HostView<'_>]) -> Vec<Demand> {
    let mut own = vec![Demand::default(); tree.nodes.len()];
    for (pool, local) in views.iter().flat_map(|view| &view.pools) {
        if let Some(at) = tree.index(pool) {
            own[at].demand = own[at].demand.saturating_add(of(local.demand, resource));
            own[at].requests = own[at]
                .requests
                .saturating_add(of(local.requests, resource));
        }
    }
    own
}

fn samples(tree: &Tree, resource: Resource, views: &[HostView<'_>]) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (host, view) in (0u32..).zip(views) {
        for (pool, local) in &view.pools {
            if let Some(node) = tree.index(pool).and_then(|at| u32::try_from(at).ok()) {
                let demand = of(local.demand, resource);
                samples.push(Sample { node, host, demand });
            }
        }
    }
    samples
}

fn limit(pool: &HostPool, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Cpu => pool.cpu_limit.map(|it| it.0),
        Resource::Memory => pool.memory_limit.map(|it| it.0),
    }
}

fn set_limit(pool: &mut HostPool, resource: Resource, value: u64) {
    match resource {
        Resource::Cpu => pool.cpu_limit = Some(CpuMillis(value)),
        Resource::Memory => {
            pool.memory_limit = Some(MemoryBytes(value));
            pool.memory_high = pool.memory_high.map(|high| high.min(MemoryBytes(value)));
        }
    }
}

/// Of the limits that are wanted, those that can be told now.
fn shift_limits(
    tree: &Tree,
    resource: Resource,
    views: &[HostView<'_>],
    alive: &[BTreeSet<usize>],
    parts: &mut [BTreeMap<PoolId, HostPool>],
) {
    for (at, node) in tree.nodes.iter().enumerate() {
        let (Some(pool), Some(whole)) = (&node.pool, node.line(resource).limit) else {
            continue;
        };
        let mut targets: BTreeMap<usize, u64> = BTreeMap::new();
        let mut standing: BTreeMap<usize, Standing> = BTreeMap::new();
        for (host, view) in views.iter().enumerate() {
            let part = parts[host].get(pool);
            targets.extend(part.and_then(|part| Some((host, limit(part, resource)?))));
            // Also where nothing of it is any more: until its part was taken back, what is placed there starts under it.
            let alive = alive[host].contains(&at);
            standing.extend(stands(view, pool, resource, alive).map(|it| (host, it)));
        }
        if still_good(whole, &targets, &standing) {
            let told = |host: &usize| standing.get(host).and_then(|it| it.told);
            for (host, target) in &mut targets {
                *target = told(host).unwrap_or(*target);
            }
        }
        let news = shift::step(whole, &targets, &standing);
        for host in targets.keys() {
            let told = standing.get(host).and_then(|it| it.told);
            if let (Some(part), Some(now)) =
                (parts[*host].get_mut(pool), news.get(host).copied().or(told))
            {
                // A first part is large enough to begin in, or empty.
                let begins = told.is_none_or(|told| told == 0) && !alive[*host].contains(&at);
                let least = || least(tree, at, &views[*host], resource).min(targets[host]);
                let empty = begins && now < least();
                set_limit(part, resource, if empty { 0 } else { now });
            }
        }
    }
}

/// What a first part must have at least, so that what waits for it can begin: what that is charged.
fn least(tree: &Tree, at: usize, view: &HostView<'_>, resource: Resource) -> u64 {
    let inside = |pool: &PoolId| {
        let node = tree.index(pool);
        node.is_some_and(|node| tree.upwards(node).any(|it| it == at))
    };
    let pools = view.pools.iter().filter(|(pool, _)| inside(pool));
    pools
        .map(|(_, local)| of(local.requests, resource))
        .fold(0, u64::saturating_add)
}

/// Whether what was told is near enough to what is wanted, and inside the limit.
fn still_good(
    whole: u64,
    targets: &BTreeMap<usize, u64>,
    standing: &BTreeMap<usize, Standing>,
) -> bool {
    let sum = |told: &mut dyn Iterator<Item = u64>| told.fold(0, u64::saturating_add);
    let all = sum(&mut standing.values().filter_map(|it| it.told));
    let wanted = standing
        .iter()
        .filter(|(host, _)| targets.contains_key(host));
    let told = sum(&mut wanted.filter_map(|(_, it)| it.told));
    all <= whole
        && near(told, sum(&mut targets.values().copied()))
        && targets.iter().all(|(host, wanted)| {
            let told = standing.get(host).and_then(|it| it.told);
            told.is_some_and(|told| near(told, *wanted))
        })
}

/// How a pool's limit stands on a host where it has workloads; `None`: nothing of it is in force there, because those
/// workloads wait for its part.
fn stands(view: &HostView<'_>, pool: &PoolId, resource: Resource, alive: bool) -> Option<Standing> {
    let division = view.division;
    let reachable = view.reachable;
    let Some(part) = division.and_then(|division| division.pools.get(pool)) else {
        // What runs without a part was there before the limit was.
        let unbounded = Standing {
            told: None,
            most: u64::MAX,
            reachable,
        };
        return alive.then_some(unbounded);
    };
    let told = limit(part, resource);
    let before = division
        .and_then(|division| division.unconfirmed.get(pool))
        .map(|it| it.of(resource).unwrap_or(u64::MAX));
    let now = told.unwrap_or(u64::MAX);
    let most = if view.confirmed {
        now
    } else {
        now.max(before.unwrap_or(now))
    };
    Some(Standing {
        told,
        most,
        reachable,
    })
}

/// The division to store: the new parts, and what may still be in force of those before.
fn next(
    host: &HostId,
    pools: BTreeMap<PoolId, HostPool>,
    bounds: impl Fn(&PoolId) -> [Option<Standing>; Resource::ALL.len()],
) -> Division {
    let mut unconfirmed = BTreeMap::new();
    for (pool, part) in &pools {
        let [cpu, memory] = bounds(pool).map(|it| it.map_or(0, |it| it.most));
        let lowered = |most, resource| most > limit(part, resource).unwrap_or(u64::MAX);
        if lowered(cpu, Resource::Cpu) || lowered(memory, Resource::Memory) {
            let before = Unconfirmed {
                cpu: (cpu < u64::MAX).then_some(CpuMillis(cpu)),
                memory: (memory < u64::MAX).then_some(MemoryBytes(memory)),
            };
            unconfirmed.insert(pool.clone(), before);
        }
    }
    Division {
        host: host.clone(),
        pools,
        unconfirmed,
    }
}

/// Whether the difference is too small to tell.
fn same(old: &BTreeMap<PoolId, HostPool>, new: &BTreeMap<PoolId, HostPool>) -> bool {
    old.len() == new.len()
        && old
            .iter()
            .zip(new)
            .all(|((a, old), (b, new))| a == b && same_part(old, new))
}

fn near(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a.max(b) / NEWS_PART
}

fn same_part(old: &HostPool, new: &HostPool) -> bool {
    let high = |it: &HostPool| it.memory_high.map_or(u64::MAX, |it| it.0);
    old.parent == new.parent
        && near(u64::from(old.cpu_weight), u64::from(new.cpu_weight))
        && (old.cpu_limit, old.memory_limit) == (new.cpu_limit, new.memory_limit)
        && near(high(old), high(new))
        && near(old.memory_low.0, new.memory_low.0)
        && old.pids_limit == new.pids_limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::testing::{pool, pool_id, room, slice};
    use model::{Installation, Pool};
    use proptest::prelude::*;
    use serde_json::json;

    fn id(n: u8) -> HostId {
        HostId::from_bytes(&[n; 32])
    }

    const ROOM: Capacity = Capacity {
        cpu: CpuMillis(4000),
        memory: MemoryBytes(8 << 30),
    };

    fn tree(pools: &[Pool]) -> Tree {
        Tree::resolve(
            pools,
            &[room(4, 8), room(4, 8), room(4, 8)],
            &Installation::default(),
        )
    }

    fn busy(cpu: u64, alive: bool) -> Local {
        let amount = Capacity {
            cpu: CpuMillis(cpu),
            memory: MemoryBytes(cpu << 20),
        };
        Local {
            demand: amount,
            requests: amount,
            alive,
        }
    }

    fn view<'a>(
        host: &'a HostId,
        division: Option<&'a Division>,
        confirmed: bool,
        pools: &[(u8, Local)],
    ) -> HostView<'a> {
        HostView {
            id: host,
            room: ROOM,
            reachable: true,
            division,
            confirmed,
            pools: pools
                .iter()
                .map(|(n, local)| (pool_id(*n), *local))
                .collect(),
        }
    }

    fn limited(cpu: u64) -> Vec<Pool> {
        vec![
            pool(1, None, slice(json!({"cpu": {"limit": {"absolute": cpu}}}))),
            pool(2, Some(1), slice(json!({}))),
        ]
    }

    #[test]
    fn a_limit_follows_demand_and_steady_demand_is_silence() {
        let tree = tree(&limited(3000));
        let (a, b) = (id(1), id(2));
        let demand = [(2, busy(2000, false))];
        let first = round(
            &tree,
            &[
                view(&a, None, false, &demand),
                view(&b, None, false, &demand),
            ],
        );
        let cpu = |divisions: &BTreeMap<HostId, Division>, host: &HostId, n| {
            divisions[host].pools[&pool_id(n)].cpu_limit.map(|it| it.0)
        };
        assert_eq!(cpu(&first, &a, 1), Some(1500));
        assert_eq!(cpu(&first, &a, 2), None, "it has no limit of its own");
        assert_eq!(first[&a].pools[&pool_id(2)].parent, Some(pool_id(1)));
        let alive = [(2, busy(2000, true))];
        let still = [(2, busy(2050, true))];
        let idle = [(2, busy(100, true))];
        let steady = round(
            &tree,
            &[
                view(&a, Some(&first[&a]), true, &still),
                view(&b, Some(&first[&b]), true, &alive),
            ],
        );
        assert_eq!(steady, BTreeMap::new());
        // Demand leaves the first host: it shrinks at once, the second grows when that is confirmed.
        let second = round(
            &tree,
            &[
                view(&a, Some(&first[&a]), true, &idle),
                view(&b, Some(&first[&b]), true, &alive),
            ],
        );
        let small = cpu(&second, &a, 1).unwrap();
        assert!(small < 1000, "{small}");
        assert_eq!(
            second[&a].unconfirmed[&pool_id(1)].cpu,
            Some(CpuMillis(1500))
        );
        assert!(
            second
                .get(&b)
                .is_none_or(|it| it.pools[&pool_id(1)].cpu_limit == Some(CpuMillis(1500)))
        );
        let wait = round(
            &tree,
            &[
                view(&a, Some(&second[&a]), false, &idle),
                view(&b, Some(&first[&b]), true, &alive),
            ],
        );
        assert!(
            wait.get(&b)
                .is_none_or(|it| it.pools[&pool_id(1)].cpu_limit == Some(CpuMillis(1500)))
        );
        let third = round(
            &tree,
            &[
                view(&a, Some(&second[&a]), true, &idle),
                view(&b, Some(&first[&b]), true, &alive),
            ],
        );
        assert_eq!(cpu(&third, &b, 1), Some(3000 - small));
    }

    #[test]
    fn a_first_part_is_large_enough_to_begin_in_or_empty() {
        let tree = tree(&limited(3000));
        let (a, b) = (id(1), id(2));
        let there = [(2, busy(2500, true))];
        let whole = round(&tree, &[view(&a, None, true, &there)])[&a].clone();
        assert_eq!(whole.pools[&pool_id(1)].cpu_limit, Some(CpuMillis(3000)));
        let begins = [(2, busy(1000, false))];
        let told = round(
            &tree,
            &[
                view(&a, Some(&whole), true, &there),
                view(&b, None, false, &begins),
            ],
        );
        // All of the limit is in force elsewhere.
        let empty = Some(CpuMillis(0));
        assert_eq!(told[&b].pools[&pool_id(1)].cpu_limit, empty);
        let less = told[&a].pools[&pool_id(1)].cpu_limit.unwrap().0;
        assert!(less < 2500, "{less}");
        let next = |confirmed| {
            round(
                &tree,
                &[
                    view(&a, Some(&told[&a]), confirmed, &there),
                    view(&b, Some(&told[&b]), true, &begins),
                ],
            )
        };
        assert!(!next(false).contains_key(&b), "nobody gave anything up yet");
        let part = next(true)[&b].pools[&pool_id(1)].cpu_limit.unwrap().0;
        assert_eq!(part, 3000 - less);
    }

    #[test]
    fn a_part_counts_until_it_was_taken_back() {
        let tree = tree(&limited(3000));
        let (a, b) = (id(1), id(2));
        let busy = [(2, busy(2000, true))];
        let both = [view(&a, None, false, &busy), view(&b, None, false, &busy)];
        let told = round(&tree, &both);
        // The first has nothing any more, and cannot be told: something may be placed there again at any time.
        let mut away = view(&a, Some(&told[&a]), true, &[]);
        away.reachable = false;
        let here = |division| view(&b, Some(division), true, &busy);
        let cpu = |news: &BTreeMap<HostId, Division>| {
            let part = &news.get(&b).unwrap_or(&told[&b]).pools[&pool_id(1)];
            part.cpu_limit.map(|it| it.0)
        };
        assert_eq!(cpu(&round(&tree, &[away, here(&told[&b])])), Some(1500));
        let back = round(
            &tree,
            &[view(&a, Some(&told[&a]), true, &[]), here(&told[&b])],
        );
        assert_eq!((back[&a].pools.len(), cpu(&back)), (0, Some(1500)));
        let taken = view(&a, Some(&back[&a]), false, &[]);
        let grown = round(&tree, &[taken, here(&told[&b])]);
        assert_eq!(cpu(&grown), Some(3000));
    }

    /// A host that hears late: divisions stored for it, how many of them it has taken, what it runs.
    #[derive(Default)]
    struct Real {
        stored: Vec<Division>,
        taken: usize,
        /// How many were stored when something was placed there: it hears of that after them.
        since: usize,
    }

    impl Real {
        /// What bounds what runs there; `None`: nothing does, because it waits for its part.
        fn bound(&self, demand: u64) -> Option<u64> {
            let taken = self.stored.get(self.taken.checked_sub(1)?)?;
            let part = taken.pools.get(&pool_id(1))?.cpu_limit.map(|it| it.0);
            part.filter(|part| demand > 0 && *part > 0 && self.taken >= self.since)
        }
    }

    proptest! {
        /// Whatever hosts take and when, and wherever workloads come and go, a pool's limit is not passed by what is in
        /// force where something of it is.
        #[test]
        fn a_limit_is_not_passed_at_any_step(
            steps in proptest::collection::vec((0..3usize, 0..4000u64, 0..3usize, any::<bool>()), 1..60),
        ) {
            let tree = tree(&limited(3000));
            let ids = [id(1), id(2), id(3)];
            let mut hosts: [Real; 3] = Default::default();
            let mut demand = [0u64; 3];
            for (changes, to, takes, all) in steps {
                // Every now and then there is nothing any more.
                let to = to.saturating_sub(1000);
                if std::mem::replace(&mut demand[changes], to) == 0 {
                    hosts[changes].since = hosts[changes].stored.len();
                }
                let locals: Vec<Vec<(u8, Local)>> = (0..3)
                    .map(|h| {
                        let local = (2, busy(demand[h], hosts[h].bound(demand[h]).is_some()));
                        (demand[h] > 0).then_some(local).into_iter().collect()
                    })
                    .collect();
                let views: Vec<HostView<'_>> = (0..3)
                    .map(|h| {
                        let confirmed = hosts[h].taken == hosts[h].stored.len();
                        view(&ids[h], hosts[h].stored.last(), confirmed, &locals[h])
                    })
                    .collect();
                for (host, division) in round(&tree, &views) {
                    let at = ids.iter().position(|id| *id == host).unwrap();
                    hosts[at].stored.push(division);
                }
                for (at, host) in hosts.iter_mut().enumerate() {
                    if all || at == takes {
                        host.taken = host.stored.len();
                    }
                }
                let in_force: u64 = hosts.iter().zip(demand).filter_map(|(it, demand)| it.bound(demand)).sum();
                prop_assert!(in_force <= 3000, "{in_force}");
            }
        }
    }
}
