//! From what pools say to absolute numbers.
//!
//! What 100 % are: of a reservation, the parent's reservation if it has one of its own (or a size), else what the
//! parent could use at most; of a limit, what the parent could use at most. The root has all capacity, reserved.

use std::collections::{BTreeMap, HashMap};

use model::{
    Amount, Capacity, Counted, HostLoss, Installation, Percent, PlacementPolicy, Pool, PoolId,
    Portion, Resource, Shares, WorkloadDefaults,
};

use crate::entitle::fair;

/// A schedulable host as the tree sees it.
#[derive(Debug, Clone, Copy)]
pub struct HostRoom<'a> {
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// What it has, less its reserve.
    pub room: Capacity,
}

/// Index of the root in [`Tree::nodes`].
pub const ROOT: usize = 0;

/// All pools with absolute numbers; parents come before their children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The root first.
    pub nodes: Vec<Node>,
    by_pool: HashMap<PoolId, usize>,
}

/// A pool, or the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Which; `None`: the root.
    pub pool: Option<PoolId>,
    /// For people.
    pub name: String,
    /// Index of the node above.
    pub parent: Option<usize>,
    /// Indices of the nodes below, by id.
    pub children: Vec<usize>,
    /// CPU in thousandths of a core.
    pub cpu: Line,
    /// Memory in bytes.
    pub memory: Line,
    /// Highest counts.
    pub quotas: BTreeMap<Counted, u64>,
    /// What its workloads get that do not say, ancestors and installation included.
    pub defaults: WorkloadDefaults,
    /// How hosts are chosen, inherited.
    pub placement: PlacementPolicy,
    /// What becomes of workloads whose host is lost, inherited.
    pub on_host_loss: HostLoss,
    /// Labels a host must have, those of the ancestors included.
    pub hosts: BTreeMap<String, String>,
}

/// A pool's numbers of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// Guaranteed, as it was asked for.
    pub reservation: u64,
    /// What is taken from the parent for it and for what is reserved below: at least the reservation.
    pub taken: u64,
    /// What can be kept of `taken` with the capacity there is.
    pub honoured: u64,
    /// By how much the reservations directly below do not fit into this node.
    pub missing: u64,
    /// Its own limit.
    pub limit: Option<u64>,
    /// The most it could use: the least limit on the way up, and what its hosts have.
    pub ceiling: u64,
    /// Requests may add up to so much.
    pub bound: Option<u64>,
    /// Weight against siblings, per unit of what the pool weighs: `nominal`, else what its workloads ask for.
    pub shares: u64,
    /// What its size stands for; `None`: it has none, and weighs as much as its workloads ask for.
    pub nominal: Option<u64>,
    /// Whether it may take more than its reservation.
    pub expandable: bool,
    /// How much of the unused reservation others may borrow.
    pub lendable: u64,
}

impl Line {
    /// Whether it cannot be given all that is reserved for it, or cannot give what it reserved.
    #[must_use]
    pub fn over_committed(&self) -> bool {
        self.short() > 0
    }

    /// The missing amount: of its own reservation, or of those below it.
    #[must_use]
    pub fn short(&self) -> u64 {
        self.missing.max(self.taken - self.honoured.min(self.taken))
    }
}

impl Node {
    /// The numbers of a resource.
    #[must_use]
    pub fn line(&self, resource: Resource) -> &Line {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
        }
    }

    fn line_mut(&mut self, resource: Resource) -> &mut Line {
        match resource {
            Resource::Cpu => &mut self.cpu,
            Resource::Memory => &mut self.memory,
        }
    }
}

impl Tree {
    /// Makes absolute numbers of what `pools` say, for the capacity of `hosts`.
    #[must_use]
    pub fn resolve<'a>(
        pools: impl IntoIterator<Item = &'a Pool>,
        hosts: &[HostRoom<'_>],
        installation: &Installation,
    ) -> Self {
        let pools = sorted(pools);
        let mut tree = Self {
            nodes: vec![root(hosts, installation)],
            by_pool: HashMap::with_capacity(pools.len()),
        };
        for (pool, parent) in pools {
            let parent = parent
                .and_then(|id| tree.by_pool.get(id).copied())
                .unwrap_or(ROOT);
            tree.push(pool, parent, hosts, installation);
        }
        for resource in Resource::ALL {
            tree.take(resource);
            tree.honour(resource);
        }
        tree
    }

    /// The index of a pool.
    #[must_use]
    pub fn index(&self, pool: &PoolId) -> Option<usize> {
        self.by_pool.get(pool).copied()
    }

    /// The node of a pool.
    #[must_use]
    pub fn node(&self, pool: &PoolId) -> Option<&Node> {
        self.nodes.get(self.index(pool)?)
    }

    /// The node itself and all above it, up to the root.
    pub fn upwards(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(from), |at| self.nodes[*at].parent)
    }

    fn push(
        &mut self,
        pool: &Pool,
        parent: usize,
        hosts: &[HostRoom<'_>],
        installation: &Installation,
    ) {
        let above = &self.nodes[parent];
        let slice = &pool.slice;
        let mut labels = above.hosts.clone();
        labels.extend(slice.hosts.clone());
        let room = if slice.hosts.is_empty() {
            None
        } else {
            Some(room_of(hosts, &labels, &slice.hosts, &above.hosts))
        };
        let line = |resource| {
            let outer = Outer {
                line: above.line(resource),
                ratio: installation.overcommit(resource),
                room: room.map(|room| amount(room, resource)),
            };
            outer.line(slice.portion(resource), slice.size, slice.hard)
        };
        let node = Node {
            pool: Some(pool.id.clone()),
            name: pool.name.to_string(),
            parent: Some(parent),
            children: Vec::new(),
            cpu: line(Resource::Cpu),
            memory: line(Resource::Memory),
            quotas: slice.quotas.clone(),
            defaults: slice.defaults.or(above.defaults),
            placement: slice.placement.unwrap_or(above.placement),
            on_host_loss: slice.on_host_loss.unwrap_or(above.on_host_loss),
            hosts: labels,
        };
        let at = self.nodes.len();
        self.nodes.push(node);
        self.nodes[parent].children.push(at);
        self.by_pool.insert(pool.id.clone(), at);
    }

    /// Bottom up: what every node takes from its parent.
    fn take(&mut self, resource: Resource) {
        for at in (0..self.nodes.len()).rev() {
            let below = self.taken_below(at, resource);
            let line = self.nodes[at].line_mut(resource);
            line.taken = if line.expandable {
                line.reservation.max(below)
            } else {
                line.reservation
            };
        }
    }

    /// Sum of what the children of a node take.
    #[must_use]
    pub fn taken_below(&self, at: usize, resource: Resource) -> u64 {
        self.nodes[at]
            .children
            .iter()
            .map(|child| self.nodes[*child].line(resource).taken)
            .fold(0, u64::saturating_add)
    }

    /// Top down: what can be kept of it.
    fn honour(&mut self, resource: Resource) {
        let root = self.nodes[ROOT].line_mut(resource);
        root.taken = root.reservation;
        root.honoured = root.reservation;
        for at in 0..self.nodes.len() {
            let below = self.taken_below(at, resource);
            let line = self.nodes[at].line(resource);
            let room = line.honoured.min(line.limit.unwrap_or(u64::MAX));
            let owed = line.taken.min(line.limit.unwrap_or(u64::MAX));
            self.nodes[at].line_mut(resource).missing = below.saturating_sub(owed);
            let children = self.nodes[at].children.clone();
            let wanted: Vec<u64> = children
                .iter()
                .map(|child| self.nodes[*child].line(resource).taken)
                .collect();
            for (child, kept) in children.iter().zip(fair::in_proportion(room, &wanted)) {
                self.nodes[*child].line_mut(resource).honoured = kept;
            }
        }
    }
}

/// Parents before children, siblings by id. A pool whose parent is missing, or that is its own ancestor, counts as one
/// directly below the root: `change` refuses such trees, but what is stored must never be lost from the sums.
fn sorted<'a>(pools: impl IntoIterator<Item = &'a Pool>) -> Vec<(&'a Pool, Option<&'a PoolId>)> {
    let all: BTreeMap<&PoolId, &Pool> = pools.into_iter().map(|pool| (&pool.id, pool)).collect();
    let mut below: BTreeMap<Option<&PoolId>, Vec<&Pool>> = BTreeMap::new();
    for pool in all.values() {
        let parent = pool.parent.as_ref().filter(|id| all.contains_key(*id));
        below.entry(parent).or_default().push(pool);
    }
    let mut order: Vec<(&Pool, Option<&PoolId>)> = Vec::with_capacity(all.len());
    let mut reached: std::collections::BTreeSet<&PoolId> = std::collections::BTreeSet::new();
    let mut walk = |order: &mut Vec<(&'a Pool, Option<&'a PoolId>)>, mut at: usize| {
        while let Some((pool, _)) = order.get(at).copied() {
            at += 1;
            for child in below.get(&Some(&pool.id)).into_iter().flatten() {
                if reached.insert(&child.id) {
                    order.push((child, Some(&pool.id)));
                }
            }
        }
    };
    order.extend(
        below
            .get(&None)
            .into_iter()
            .flatten()
            .map(|pool| (*pool, None)),
    );
    walk(&mut order, 0);
    let cycles: Vec<&Pool> = {
        let known: std::collections::BTreeSet<&PoolId> =
            order.iter().map(|(pool, _)| &pool.id).collect();
        all.values()
            .copied()
            .filter(|pool| !known.contains(&pool.id))
            .collect()
    };
    order.extend(cycles.into_iter().map(|pool| (pool, None)));
    order
}

fn amount(room: Capacity, resource: Resource) -> u64 {
    match resource {
        Resource::Cpu => room.cpu.0,
        Resource::Memory => room.memory.0,
    }
}

/// What the hosts with these labels have. Two pools on the way that ask for different values of a label leave none.
fn room_of(
    hosts: &[HostRoom<'_>],
    labels: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
    above: &BTreeMap<String, String>,
) -> Capacity {
    let clash = own
        .iter()
        .any(|(key, value)| above.get(key).is_some_and(|other| other != value));
    if clash {
        return Capacity::default();
    }
    hosts
        .iter()
        .filter(|host| matches(host.labels, labels))
        .fold(Capacity::default(), |sum, host| sum.plus(host.room))
}

/// Whether a host's labels say all that is asked for.
#[must_use]
pub fn matches(labels: &BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> bool {
    asked
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn root(hosts: &[HostRoom<'_>], installation: &Installation) -> Node {
    let all = hosts
        .iter()
        .fold(Capacity::default(), |sum, host| sum.plus(host.room));
    let line = |resource| {
        let capacity = amount(all, resource);
        Line {
            reservation: capacity,
            taken: capacity,
            honoured: capacity,
            limit: Some(capacity),
            ceiling: capacity,
            bound: Some(installation.overcommit(resource).of(capacity)),
            shares: u64::from(Shares::NORMAL),
            expandable: false,
            ..Line::default()
        }
    };
    Node {
        pool: None,
        name: "the installation".into(),
        parent: None,
        children: Vec::new(),
        cpu: line(Resource::Cpu),
        memory: line(Resource::Memory),
        quotas: BTreeMap::new(),
        defaults: installation.defaults,
        placement: PlacementPolicy::default(),
        on_host_loss: HostLoss::default(),
        hosts: BTreeMap::new(),
    }
}

/// What a pool is cut out of.
struct Outer<'a> {
    line: &'a Line,
    ratio: model::Ratio,
    room: Option<u64>,
}

impl Outer<'_> {
    fn line(&self, portion: &Portion, size: Option<Percent>, hard: bool) -> Line {
        let above = self.line;
        let guaranteed = if above.reservation > 0 {
            above.reservation
        } else {
            above.ceiling
        };
        let sized = size.map_or(0, |size| self.ratio.divide(size.of(guaranteed)));
        let reservation = portion
            .reservation
            .map_or(sized, |amount| amount.of(guaranteed));
        let hard_limit = size.filter(|_| hard).map(Amount::Percent);
        let limit = portion
            .limit
            .or(hard_limit)
            .map(|amount| amount.of(above.ceiling));
        let ceiling = [limit, self.room]
            .into_iter()
            .flatten()
            .fold(above.ceiling, u64::min);
        let ratio = portion.overcommit.unwrap_or(self.ratio);
        Line {
            reservation,
            limit,
            ceiling,
            bound: limit.map(|limit| ratio.of(limit)),
            shares: u64::from(portion.shares.unwrap_or_default().number()),
            nominal: size.map(|size| size.of(guaranteed)),
            expandable: portion.expandable,
            lendable: portion
                .lendable
                .map_or(u64::MAX, |amount| amount.of(reservation)),
            ..Line::default()
        }
    }
}
