//! A host whose pools use more memory than it has.

use std::collections::BTreeMap;

use model::{PoolId, WorkloadId};

use super::Lodger;
use super::borrow::node;
use crate::pools::tree::Tree;

/// How the memory of a host stands, in bytes.
#[derive(Debug, Clone, Default)]
pub struct Pressure {
    /// What it has for pools.
    pub room: u64,
    /// What each pool works with there, with everything below it.
    pub used: BTreeMap<PoolId, u64>,
    /// What each pool may use there now.
    pub entitled: BTreeMap<PoolId, u64>,
    /// What each pool works with on all hosts together, with everything below it.
    pub everywhere: BTreeMap<PoolId, u64>,
}

/// Who has to go from a host so that what is left fits; empty: nobody, or nobody who may be asked to.
///
/// Victims are workloads of pools that use more than they are entitled to there and more than their reservation
/// altogether, at every level; the pool that is furthest beyond goes first, in it the least important workload, then
/// the one started last. Each one that turned out not to be needed is let off.
#[must_use]
pub fn relieve(tree: &Tree, pressure: &Pressure, lodgers: &[Lodger<'_>]) -> Vec<WorkloadId> {
    let mut state = State::new(tree, pressure);
    let mut picked: Vec<&Lodger<'_>> = Vec::new();
    while state.over > 0 {
        let next = lodgers
            .iter()
            .filter(|it| it.memory_used > 0)
            .filter(|it| {
                picked
                    .iter()
                    .all(|other| other.workload.id != it.workload.id)
            })
            .filter_map(|it| Some((state.beyond(it)?, it)))
            .min_by(|a, b| {
                (std::cmp::Reverse(a.0), a.1.order()).cmp(&(std::cmp::Reverse(b.0), b.1.order()))
            });
        let Some((_, next)) = next else { break };
        state.goes(next, 1);
        picked.push(next);
    }
    if state.over > 0 {
        // It helps as far as it goes.
        return picked.iter().map(|it| it.workload.id.clone()).collect();
    }
    let mut order = picked.clone();
    order.sort_by(|a, b| b.order().cmp(&a.order()));
    for lodger in order {
        if state.over + signed(lodger.memory_used) <= 0 {
            state.goes(lodger, -1);
            picked.retain(|it| it.workload.id != lodger.workload.id);
        }
    }
    picked.iter().map(|it| it.workload.id.clone()).collect()
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

struct State<'a> {
    tree: &'a Tree,
    over: i64,
    /// By node: beyond what it may use on the host, and beyond its reservation altogether.
    beyond: Vec<(i64, i64)>,
}

impl<'a> State<'a> {
    fn new(tree: &'a Tree, pressure: &Pressure) -> Self {
        let of = |map: &BTreeMap<PoolId, u64>, pool: &PoolId| map.get(pool).map(|it| signed(*it));
        let beyond = tree.nodes.iter().map(|node| {
            let Some(pool) = &node.pool else {
                return (i64::MAX, i64::MAX);
            };
            let used = of(&pressure.used, pool).unwrap_or(0);
            // What has no part there yet is not beyond it.
            let part = of(&pressure.entitled, pool).unwrap_or(i64::MAX);
            let everywhere = of(&pressure.everywhere, pool).unwrap_or(used);
            let reserved = signed(node.memory.reservation);
            (
                used.saturating_sub(part),
                everywhere.saturating_sub(reserved),
            )
        });
        let top = tree
            .nodes
            .iter()
            .filter(|node| node.parent == Some(crate::pools::tree::ROOT));
        let used: i64 = top
            .filter_map(|node| of(&pressure.used, node.pool.as_ref()?))
            .fold(0, i64::saturating_add);
        Self {
            tree,
            over: used.saturating_sub(signed(pressure.room)),
            beyond: beyond.collect(),
        }
    }

    /// By how much the least indebted pool on the way up is beyond; `None`: the workload is inside of something.
    fn beyond(&self, lodger: &Lodger<'_>) -> Option<i64> {
        let pool = node(self.tree, &lodger.workload.pool)?;
        let on_the_way = self.tree.upwards(pool).map(|at| self.beyond[at]);
        let least = on_the_way.map(|(here, all)| here.min(all)).min()?;
        (least > 0).then_some(least)
    }

    fn goes(&mut self, lodger: &Lodger<'_>, times: i64) {
        let amount = signed(lodger.memory_used).saturating_mul(times);
        self.over = self.over.saturating_sub(amount);
        let Some(pool) = node(self.tree, &lodger.workload.pool) else {
            return;
        };
        for at in self.tree.upwards(pool) {
            let (here, all) = &mut self.beyond[at];
            *here = here.saturating_sub(amount);
            *all = all.saturating_sub(amount);
        }
    }
}
