//! Down the pool tree: weighted max–min fairness in two passes.
//!
//! First pass: nobody below what it needs of its reservation, nobody above what it needs inside its limit, the rest by
//! shares until demand is met. Second pass: what is left is handed out by shares up to the limits, so that a sudden
//! spike has room before the next round.

use model::{Resource, Shares};

use super::fair::{self, Part};
use crate::pools::Tree;
use crate::pools::tree::{Line, ROOT};

/// What the own workloads of a pool need and ask for, in thousandths of a core or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Measured: what they would use if nobody held them back.
    pub demand: u64,
    /// Sum of their requests: what they weigh.
    pub requests: u64,
}

/// What a pool may use now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entitlement {
    /// What it and everything below it need, inside its limit.
    pub demand: u64,
    /// What it and everything below it may use.
    pub amount: u64,
    /// Of this, what its own workloads may use.
    pub own: u64,
    /// How much of its demand is guaranteed.
    pub floor: u64,
    /// How much of its own workloads' demand is guaranteed.
    pub own_floor: u64,
    /// What it weighs against its siblings.
    pub weight: u64,
}

/// What weights count in, so that they fit: a hundredth of a core, 16 MiB.
fn unit(resource: Resource) -> u64 {
    match resource {
        Resource::Cpu => 10,
        Resource::Memory => 16 << 20,
    }
}

/// Most units that weigh: with the most shares still below [`Part::weight`]'s bound.
const UNITS_MAX: u64 = 1 << 24;

fn weight(shares: u64, amount: u64, resource: Resource) -> u64 {
    shares.max(1) * (amount / unit(resource)).clamp(1, UNITS_MAX)
}

/// The entitlements of all nodes of the tree, given the demand of each node's own workloads.
///
/// The root's amount is the whole capacity; the parts of a node's children and its own workloads add up to its amount,
/// unless nobody below may have more.
#[must_use]
pub fn entitle(tree: &Tree, resource: Resource, own: &[Demand]) -> Vec<Entitlement> {
    let mut given = gather(tree, resource, own);
    given[ROOT].amount = tree.nodes[ROOT].line(resource).ceiling;
    for at in 0..tree.nodes.len() {
        divide(tree, resource, own, &mut given, at);
    }
    given
}

/// Bottom up: demand, floor and weight of every node.
fn gather(tree: &Tree, resource: Resource, own: &[Demand]) -> Vec<Entitlement> {
    let mut given = vec![Entitlement::default(); tree.nodes.len()];
    let mut requests: Vec<u64> = own.iter().map(|it| it.requests).collect();
    requests.resize(tree.nodes.len(), 0);
    for at in (0..tree.nodes.len()).rev() {
        let node = &tree.nodes[at];
        let line = node.line(resource);
        let own_demand = own.get(at).map_or(0, |it| it.demand);
        let below = |pick: fn(&Entitlement) -> u64| {
            node.children
                .iter()
                .map(|child| pick(&given[*child]))
                .fold(0, u64::saturating_add)
        };
        let demand = own_demand
            .saturating_add(below(|it| it.demand))
            .min(line.ceiling);
        let unreserved = line
            .reservation
            .saturating_sub(tree.taken_below(at, resource));
        let own_floor = own_demand.min(unreserved);
        let floors = own_floor.saturating_add(below(|it| it.floor));
        let floor = floors.max(line.reservation).min(demand);
        given[at] = Entitlement {
            demand,
            floor,
            own_floor,
            weight: weight(line.shares, line.nominal.unwrap_or(requests[at]), resource),
            ..Entitlement::default()
        };
        if let Some(parent) = node.parent {
            requests[parent] = requests[parent].saturating_add(requests[at]);
        }
    }
    given
}

/// Divides what a node has among its children and its own workloads.
fn divide(tree: &Tree, resource: Resource, own: &[Demand], given: &mut [Entitlement], at: usize) {
    let children = &tree.nodes[at].children;
    let amount = given[at].amount;
    let mine = own.get(at).copied().unwrap_or_default();
    let has_own = mine.demand > 0 || mine.requests > 0;
    let mut parts: Vec<Part> = Vec::with_capacity(children.len() + 1);
    let mut tops: Vec<u64> = Vec::with_capacity(children.len() + 1);
    for child in children {
        let (line, it): (&Line, &Entitlement) = (tree.nodes[*child].line(resource), &given[*child]);
        parts.push(Part {
            weight: it.weight,
            low: it.floor,
            high: it.demand,
        });
        tops.push(line.ceiling.min(amount));
    }
    if has_own {
        parts.push(Part {
            weight: weight(u64::from(Shares::NORMAL), mine.requests, resource),
            low: given[at].own_floor,
            high: mine.demand,
        });
        tops.push(amount);
    }
    let mut shares = fair::divide(amount, &parts);
    let left = amount - shares.iter().sum::<u64>();
    if left > 0 {
        for ((part, share), top) in parts.iter_mut().zip(&shares).zip(&tops) {
            (part.low, part.high) = (0, top.saturating_sub(*share));
        }
        for (share, more) in shares.iter_mut().zip(fair::divide(left, &parts)) {
            *share += more;
        }
    }
    for (child, share) in children.iter().zip(&shares) {
        given[*child].amount = *share;
    }
    given[at].own = if has_own { shares[children.len()] } else { 0 };
}
