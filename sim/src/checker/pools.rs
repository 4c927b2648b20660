//! What must hold of pools: the tree, the ledger, entitlements, and what is in force on hosts.

use std::collections::BTreeMap;

use model::{HostId, HostPool, PoolId, Resource};
use plan::pools::{ROOT, Tree};

use super::{HostView, World};

/// What is reserved directly below a pool fits into it, or servers mark one of them as over-committed.
pub(super) fn reservations_fit(world: &World) -> Result<(), String> {
    let tree = world.tree();
    for (at, node) in tree.nodes.iter().enumerate() {
        for resource in Resource::ALL {
            let line = node.line(resource);
            let below = || node.children.iter().map(|child| &tree.nodes[*child]);
            let reserved = below()
                .map(|child| child.line(resource).reservation)
                .fold(0, u64::saturating_add);
            let fixed = at == ROOT || !line.expandable;
            if !fixed || reserved <= line.reservation {
                continue;
            }
            let unmarked = world.said.iter().any(|said| {
                let mut concerned = below().chain([node]).filter_map(|it| it.pool.clone());
                !concerned.any(|pool| said.marked.contains(&(pool, resource)))
            });
            if unmarked {
                return Err(format!(
                    "{} has {} of {}, {reserved} are reserved below it, and nothing is marked",
                    node.name,
                    line.reservation,
                    resource.as_str()
                ));
            }
        }
    }
    Ok(())
}

/// The ledgers of servers are what they would be if they were made anew.
pub(super) fn ledgers_are_right(world: &World) -> Result<(), String> {
    match world.audits.iter().find(|found| **found > 0) {
        Some(found) => Err(format!("an audit found {found} differences in a ledger")),
        None => Ok(()),
    }
}

/// What a pool may use is not below what it needs of its reservation, and not above its limit.
pub(super) fn entitlements_are_between(world: &World) -> Result<(), String> {
    let tree = world.tree();
    let sound = Resource::ALL.map(|resource| {
        let mut nodes = tree.nodes.iter().map(|node| node.line(resource));
        nodes.all(|line| {
            line.missing == 0 && line.taken <= line.honoured && line.taken <= line.ceiling
        })
    });
    let all = world.said.iter().flat_map(|said| &said.uses);
    for (pool, uses) in all {
        for ((resource, used), sound) in Resource::ALL.into_iter().zip(uses).zip(sound) {
            let what = resource.as_str();
            if used.entitled > used.ceiling {
                return Err(format!(
                    "pool {pool} may use {} of {what}, and its limit is {}",
                    used.entitled, used.ceiling
                ));
            }
            let least = used.demand.min(used.reservation).min(used.ceiling);
            if sound && used.entitled < least {
                return Err(format!(
                    "pool {pool} may use {} of {what}, needs {} and has {} reserved",
                    used.entitled, used.demand, used.reservation
                ));
            }
        }
    }
    Ok(())
}

/// Nothing is left unused while a pool needs more, inside its limit.
pub(super) fn nothing_is_idle_in_need(world: &World) -> Result<(), String> {
    let tree = world.tree();
    for said in &world.said {
        for (at, resource) in Resource::ALL.into_iter().enumerate() {
            let top = said.uses.iter().filter(|(pool, _)| {
                let pool = world.pools.get(*pool);
                pool.is_some_and(|pool| pool.parent.is_none())
            });
            let top: Vec<_> = top.map(|(pool, uses)| (pool, uses[at])).collect();
            let given = top.iter().map(|(_, used)| used.entitled).sum::<u64>();
            let all = tree.nodes[ROOT].line(resource).reservation;
            let unmet = top
                .iter()
                .find(|(_, used)| used.entitled < used.demand.min(used.ceiling));
            if let Some((pool, used)) = unmet
                && given < all
            {
                return Err(format!(
                    "of {all} {} only {given} are given to pools, and {pool} needs {} and gets {}",
                    resource.as_str(),
                    used.demand,
                    used.entitled
                ));
            }
        }
    }
    Ok(())
}

fn limit(part: &HostPool, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Cpu => part.cpu_limit.map(|it| it.0),
        Resource::Memory => part.memory_limit.map(|it| it.0),
    }
}

/// What is in force of a pool's limit on all hosts where something of it is, or may be started. What is on lost hosts is
/// not reckoned with.
fn in_force(world: &World, pool: &PoolId, resource: Resource) -> u64 {
    let reckoned = world.hosts.iter().filter(|(host, view)| {
        let told = world.divisions.get(*host);
        let told = told.is_some_and(|division| division.pools.contains_key(pool));
        view.record.is_some() && !world.was_lost(host) && (told || lives(world, host, view, pool))
    });
    let parts = reckoned.filter_map(|(_, view)| view.parts.get(pool));
    parts
        .filter_map(|part| limit(part, resource))
        .fold(0, u64::saturating_add)
}

/// Whether something of a pool that is placed on a host runs there.
fn lives(world: &World, host: &HostId, view: &HostView, pool: &PoolId) -> bool {
    view.living().any(|(id, _)| {
        let workload = world.workloads.get(id);
        workload
            .is_some_and(|it| it.host.as_ref() == Some(host) && world.path(&it.pool).contains(pool))
    })
}

/// What all hosts have in force of every limit now.
#[must_use]
pub fn all_in_force(world: &World, tree: &Tree) -> BTreeMap<(PoolId, Resource), u64> {
    let mut all = BTreeMap::new();
    for node in &tree.nodes {
        let Some(pool) = &node.pool else { continue };
        for resource in Resource::ALL {
            if node.line(resource).limit.is_some() {
                let sum = in_force(world, pool, resource);
                all.insert((pool.clone(), resource), sum);
            }
        }
    }
    all
}

/// What hosts have in force of a pool's limit never passes it: one gives up before another gets more. What was above a
/// limit when that was lowered may only become less.
pub(super) fn limits_hold_everywhere(world: &World) -> Result<(), String> {
    let tree = world.tree();
    for ((pool, resource), now) in all_in_force(world, &tree) {
        let Some(node) = tree.node(&pool) else {
            continue;
        };
        let Some(limit) = node.line(resource).limit else {
            continue;
        };
        // Where it was not known before, the limit is new.
        let Some(before) = world.past.in_force.get(&(pool, resource)) else {
            continue;
        };
        if now > limit.max(*before) {
            return Err(format!(
                "hosts have {now} {} of pool {} in force, its limit is {limit} and it was {before} before",
                resource.as_str(),
                node.name
            ));
        }
    }
    Ok(())
}

/// In rest, every limit is in force wherever something of its pool lives, and no more than the limit altogether.
pub(super) fn limits_are_in_force(world: &World) -> Result<(), String> {
    let tree = world.tree();
    for ((pool, resource), sum) in all_in_force(world, &tree) {
        let Some(node) = tree.node(&pool) else {
            continue;
        };
        let bound = node.line(resource).limit.unwrap_or(u64::MAX);
        let (name, what) = (&node.name, resource.as_str());
        if sum > bound {
            return Err(format!(
                "hosts have {sum} {what} of pool {name} in force, its limit is {bound}"
            ));
        }
        for (host, view) in &world.hosts {
            let lives = view.record.is_some() && lives(world, host, view, &pool);
            let part = view.parts.get(&pool);
            if lives && part.and_then(|part| limit(part, resource)).is_none() {
                return Err(format!(
                    "pool {name} lives on {host} without a part of its limit of {bound} {what}: {part:?}"
                ));
            }
        }
    }
    Ok(())
}
