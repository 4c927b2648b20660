//! Tests of entitlements and their division: cases, and properties over random trees, hosts and demands.

use std::collections::BTreeMap;

use model::{HostId, Installation, Pool, Resource};
use proptest::prelude::*;
use serde_json::json;

use super::pools::entitle;
use super::{Demand, Sample, hosts, lower};
use crate::pools::testing::{pool, pool_id, room, slice};
use crate::pools::{ROOT, Tree};

const CPU: Resource = Resource::Cpu;

fn tree(pools: &[Pool], cores: u64) -> Tree {
    Tree::resolve(pools, &[room(cores, 8)], &Installation::default())
}

fn need(demand: u64, requests: u64) -> Demand {
    Demand { demand, requests }
}

fn amounts(tree: &Tree, own: &[Demand]) -> Vec<u64> {
    let given = entitle(tree, CPU, own);
    given[1..].iter().map(|it| it.amount).collect()
}

#[test]
fn who_is_idle_lends_and_who_needs_gets_by_shares() {
    let pools = [
        pool(
            1,
            None,
            slice(json!({"cpu": {"reservation": {"absolute": 4000}}})),
        ),
        pool(2, None, slice(json!({}))),
        pool(3, None, slice(json!({"cpu": {"shares": "high"}}))),
    ];
    let tree = tree(&pools, 8);
    let busy = need(8000, 1000);
    let idle = need(0, 1000);
    let none = Demand::default();
    assert_eq!(
        amounts(&tree, &[none, busy, busy, busy]),
        [4000, 1334, 2666]
    );
    assert_eq!(amounts(&tree, &[none, idle, busy, busy]), [0, 2667, 5333]);
}

#[test]
fn what_nobody_needs_is_room_for_spikes_up_to_the_limits() {
    let pools = [
        pool(
            1,
            None,
            slice(json!({"cpu": {"limit": {"absolute": 2000}}})),
        ),
        pool(2, None, slice(json!({}))),
    ];
    let tree = tree(&pools, 8);
    let small = need(500, 1000);
    assert_eq!(
        amounts(&tree, &[Demand::default(), small, small]),
        [2000, 6000]
    );
}

#[test]
fn splitting_a_workload_makes_a_pool_neither_stronger_nor_weaker() {
    let pools = [
        pool(1, None, slice(json!({}))),
        pool(2, None, slice(json!({}))),
    ];
    let tree = tree(&pools, 4);
    let none = Demand::default();
    // One of two cores against ten of a fifth of a core: the same requests, the same part.
    assert_eq!(
        amounts(&tree, &[none, need(8000, 2000), need(8000, 10 * 200)]),
        [2000, 2000]
    );
    // Twice as much that asks gets twice as much, so that each workload gets what it would get alone.
    assert_eq!(
        amounts(&tree, &[none, need(8000, 2000), need(8000, 6000)]),
        [1000, 3000]
    );
}

#[test]
fn sizes_weigh_what_they_stand_for() {
    let pools = [
        pool(1, None, slice(json!({"size": 2500}))),
        pool(2, None, slice(json!({"size": 7500}))),
    ];
    let tree = tree(&pools, 8);
    let crowd = need(80_000, 50_000);
    let one = need(80_000, 10);
    let parts = amounts(&tree, &[Demand::default(), crowd, one]);
    assert_eq!(parts, [2000, 6000]);
}

fn host(number: u8) -> HostId {
    HostId::from_bytes(&[number; 32])
}

#[test]
fn a_host_is_told_every_pool_up_to_the_root() {
    let pools = [
        pool(
            1,
            None,
            slice(json!({"cpu": {"limit": {"absolute": 2000}}})),
        ),
        pool(2, Some(1), slice(json!({}))),
    ];
    let tree = tree(&pools, 8);
    let demand = need(1000, 1000);
    let given = entitle(&tree, CPU, &[Demand::default(), Demand::default(), demand]);
    let samples = [Sample {
        node: 2,
        host: 0,
        demand: 1000,
    }];
    let cpu = hosts::divide(&tree, CPU, &given, &[8000], &samples);
    let told = lower::host_pools(&tree, (&cpu, &cpu), &[host(1)], &[8000]);
    let pools = &told[&host(1)];
    assert_eq!(pools[&pool_id(2)].parent, Some(pool_id(1)));
    assert_eq!(pools[&pool_id(1)].parent, None);
    assert_eq!(pools[&pool_id(1)].cpu_limit, Some(model::CpuMillis(2000)));
    assert_eq!(pools[&pool_id(2)].cpu_limit, None);
    assert_eq!(pools[&pool_id(1)].cpu_weight, 2500);
}

#[test]
fn a_sleeping_owner_keeps_the_weight_of_its_reservation() {
    let reserving = |number, cpu: u64| {
        let reservation = json!({"cpu": {"reservation": {"absolute": cpu}}});
        pool(number, None, slice(reservation))
    };
    let tree = tree(&[reserving(1, 4000), reserving(2, 0), reserving(3, 0)], 8);
    // Pool 1 sleeps; the others want more than there is.
    let own = [
        Demand::default(),
        Demand::default(),
        need(9000, 10),
        need(9000, 10),
    ];
    let given = entitle(&tree, CPU, &own);
    assert_eq!(given[1].amount + given[2].amount + given[3].amount, 8000);
    let sample = |node, demand| Sample {
        node,
        host: 0,
        demand,
    };
    let samples = [sample(1, 0), sample(2, 9000), sample(3, 9000)];
    let cpu = hosts::divide(&tree, CPU, &given, &[8000], &samples);
    let told = lower::host_pools(&tree, (&cpu, &cpu), &[host(1)], &[8000]);
    let weight = |number| told[&host(1)][&pool_id(number)].cpu_weight;
    assert_eq!([weight(1), weight(2), weight(3)], [5000, 2500, 2500]);
}

#[test]
fn what_is_borrowed_goes_by_shares_also_where_everything_is_reserved() {
    let reservation = |cpu: u64| json!({"cpu": {"reservation": {"absolute": cpu}}});
    let pools = [
        pool(1, None, slice(reservation(6000))),
        pool(2, None, slice(json!({}))),
        pool(3, None, slice(json!({"cpu": {"shares": "high"}}))),
        pool(4, None, slice(reservation(2000))),
    ];
    let tree = tree(&pools, 8);
    let greedy = need(9000, 1000);
    let own = [Demand::default(), need(0, 1000), greedy, greedy, greedy];
    let given = entitle(&tree, CPU, &own);
    let samples: Vec<Sample> = (1..5).map(|node| sample_of(node, 0, &own)).collect();
    let cpu = hosts::divide(&tree, CPU, &given, &[8000], &samples);
    let told = lower::host_pools(&tree, (&cpu, &cpu), &[host(1)], &[8000]);
    let weight = |number| told[&host(1)][&pool_id(number)].cpu_weight;
    assert_eq!([weight(1), weight(4)], [7500, 2500]);
    assert!((30..40).contains(&weight(2)), "{}", weight(2));
    assert!(weight(3).abs_diff(2 * weight(2)) <= 1, "{}", weight(3));
}

#[test]
fn a_crowded_host_is_divided_by_what_is_wanted_there() {
    let pools = [
        pool(1, None, slice(json!({}))),
        pool(2, None, slice(json!({}))),
    ];
    let tree = tree(&pools, 2);
    let own = [Demand::default(), need(1500, 1500), need(500, 500)];
    let given = entitle(&tree, CPU, &own);
    let samples = [sample_of(1, 0, &own), sample_of(2, 0, &own)];
    let cpu = hosts::divide(&tree, CPU, &given, &[1000, 1000], &samples);
    let amounts = [1, 2].map(|node| cpu.nodes[node][0].amount);
    assert_eq!(amounts, [750, 250]);
}

/// All that a node's own workloads want, on one host.
fn sample_of(node: u32, host: u32, own: &[Demand]) -> Sample {
    let demand = own[node as usize].demand;
    Sample { node, host, demand }
}

// Properties.

fn amount() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!(null)),
        (0..8000u64).prop_map(|units| json!({"absolute": units})),
        (0..=10_000u32).prop_map(|hundredths| json!({"percent": hundredths})),
    ]
}

/// Random pools, each with the demand of its own workloads; reservations and limits may contradict each other.
fn pools() -> impl Strategy<Value = Vec<(Pool, Demand)>> {
    pools_of(amount().boxed(), amount().boxed())
}

/// Random pools whose reservations mostly fit.
fn modest_pools() -> impl Strategy<Value = Vec<(Pool, Demand)>> {
    let reservation = (0..900u64).prop_map(|units| json!({"absolute": units}));
    let limit = (6000..20_000u64).prop_map(|units| json!({"absolute": units}));
    let limit = prop_oneof![Just(json!(null)), limit];
    pools_of(reservation.boxed(), limit.boxed())
}

type Wish = BoxedStrategy<serde_json::Value>;

fn pools_of(reservation: Wish, limit: Wish) -> impl Strategy<Value = Vec<(Pool, Demand)>> {
    let size = prop::option::weighted(0.2, 1..10_000u32);
    let demand = (0..6000u64, 0..6000u64).prop_map(|(demand, requests)| need(demand, requests));
    let demand = prop_oneof![Just(Demand::default()), demand];
    let one = (
        any::<prop::sample::Index>(),
        reservation,
        limit,
        1..9u32,
        size,
        demand,
    );
    proptest::collection::vec(one, 1..10).prop_map(|list| {
        let pools = list.into_iter().enumerate();
        pools
            .map(|(at, (parent, reservation, limit, shares, size, demand))| {
                let number = u8::try_from(at).unwrap() + 1;
                let parent = parent.index(at + 1);
                let parent = (parent > 0).then(|| u8::try_from(parent).unwrap());
                let cpu = json!({"reservation": reservation, "limit": limit, "shares": {"number": shares * 1000}});
                (pool(number, parent, slice(json!({"cpu": cpu, "size": size}))), demand)
            })
            .collect()
    })
}

/// The tree and each node's own demand, by node.
fn resolved(pools: &[(Pool, Demand)], cores: u64) -> (Tree, Vec<Demand>) {
    let list: Vec<Pool> = pools.iter().map(|(pool, _)| pool.clone()).collect();
    let tree = tree(&list, cores);
    let mut own = vec![Demand::default(); tree.nodes.len()];
    for (pool, demand) in pools {
        own[tree.index(&pool.id).unwrap()] = *demand;
    }
    (tree, own)
}

/// Whether everything that is reserved can be kept, and no limit is below what is reserved under it.
fn sound(tree: &Tree) -> bool {
    tree.nodes.iter().all(|node| {
        let line = node.line(CPU);
        line.missing == 0 && line.taken <= line.honoured && line.taken <= line.ceiling
    })
}

proptest! {
    /// Invariant 2, and that parts add up: min(demand, reservation) ≤ entitlement ≤ limit.
    #[test]
    fn entitlements_are_between_what_is_guaranteed_and_the_limit(pools in pools(), cores in 0..40u64) {
        let (tree, own) = resolved(&pools, cores);
        let given = entitle(&tree, CPU, &own);
        let sound = sound(&tree);
        for (at, (node, it)) in tree.nodes.iter().zip(&given).enumerate() {
            prop_assert!(it.amount <= node.line(CPU).ceiling);
            prop_assert!(!sound || it.amount >= it.demand.min(node.line(CPU).reservation), "{} {:?}", node.name, it);
            let parts: u64 = node.children.iter().map(|child| given[*child].amount).sum();
            prop_assert!(parts + it.own <= it.amount, "node {at}");
        }
    }

    /// Invariant 2 again, where reservations fit: there the lower bound always holds.
    #[test]
    fn what_is_guaranteed_is_given(pools in modest_pools(), cores in 9..20u64) {
        let (tree, own) = resolved(&pools, cores);
        prop_assert!(sound(&tree));
        for (node, it) in tree.nodes.iter().zip(entitle(&tree, CPU, &own)) {
            prop_assert!(it.amount >= it.demand.min(node.line(CPU).reservation), "{} {it:?}", node.name);
        }
    }

    /// Invariant 3: nothing is left unused at a node while a child, or its own workloads, need more inside a limit.
    #[test]
    fn nothing_is_left_while_somebody_needs_it(pools in pools(), cores in 0..40u64) {
        let (tree, own) = resolved(&pools, cores);
        let given = entitle(&tree, CPU, &own);
        for (at, node) in tree.nodes.iter().enumerate() {
            let parts: u64 = node.children.iter().map(|child| given[*child].amount).sum();
            let left = given[at].amount - parts - given[at].own;
            let unmet = node.children.iter().any(|child| given[*child].amount < given[*child].demand);
            prop_assert!(left == 0 || !(unmet || given[at].own < own[at].demand));
        }
    }

    /// Invariant 9: one more sibling never lowers anybody below what it needs of its reservation.
    #[test]
    fn a_new_sibling_takes_nothing_that_is_guaranteed(pools in modest_pools(), more in modest_pools(), cores in 9..20u64) {
        let (mut newcomer, demand) = more[0].clone();
        newcomer.id = pool_id(99);
        newcomer.parent = None;
        let mut all = pools.clone();
        all.push((newcomer, demand));
        let (tree, own) = resolved(&all, cores);
        prop_assert!(sound(&tree));
        let given = entitle(&tree, CPU, &own);
        for (pool, _) in &pools {
            let at = tree.index(&pool.id).unwrap();
            prop_assert!(given[at].amount >= given[at].demand.min(tree.nodes[at].line(CPU).reservation));
        }
    }

    /// Whoever sleeps and wakes up: by its weight every pool gets at least what is guaranteed to it on the host.
    #[test]
    fn weights_keep_every_guarantee(pools in modest_pools(), cores in 9..20u64) {
        let (tree, own) = resolved(&pools, cores);
        let given = entitle(&tree, CPU, &own);
        let nodes = 1..u32::try_from(tree.nodes.len()).unwrap();
        let samples: Vec<Sample> = nodes.map(|node| sample_of(node, 0, &own)).collect();
        let room = cores * 1000;
        let cpu = hosts::divide(&tree, CPU, &given, &[room], &samples);
        let told = lower::host_pools(&tree, (&cpu, &cpu), &[host(1)], &[room]);
        let weight = |at: usize| {
            let pool = tree.nodes[at].pool.as_ref().unwrap();
            u64::from(told[&host(1)][pool].cpu_weight)
        };
        let top: Vec<usize> = tree.nodes[ROOT].children.clone();
        let all: u64 = top.iter().map(|at| weight(*at)).sum();
        for at in &top {
            let guaranteed = cpu.nodes[*at][0].guaranteed;
            // Weights are whole numbers of ten thousandths; borrowers weigh a hundredth where everything is guaranteed.
            let slack = room / 1000 + 1;
            let kept = guaranteed * 100 / 101;
            prop_assert!(weight(*at) * room / all.max(1) + slack >= kept, "{} of {all}: {guaranteed}", weight(*at));
        }
    }

    /// Invariant 4, in rest: divided parts add up, inside each host's capacity; divided limits never exceed the limit.
    #[test]
    fn divided_parts_add_up_inside_every_host(
        pools in pools(),
        rooms in proptest::collection::vec(0..4000u64, 1..6),
        spread in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3000u64), 0..40),
    ) {
        let list: Vec<Pool> = pools.iter().map(|(pool, _)| pool.clone()).collect();
        let labels = BTreeMap::new();
        let hosts_room: Vec<_> = rooms
            .iter()
            .map(|cpu| crate::pools::HostRoom {
                labels: &labels,
                room: model::Capacity { cpu: model::CpuMillis(*cpu), ..Default::default() },
            })
            .collect();
        let tree = Tree::resolve(&list, &hosts_room, &Installation::default());
        let samples: Vec<Sample> = spread
            .iter()
            .map(|(node, host, demand)| Sample {
                node: u32::try_from(node.index(list.len())).unwrap() + 1,
                host: u32::try_from(host.index(rooms.len())).unwrap(),
                demand: *demand,
            })
            .collect();
        let mut own = vec![Demand::default(); tree.nodes.len()];
        for sample in &samples {
            let it = &mut own[sample.node as usize];
            *it = need(it.demand + sample.demand, it.requests + sample.demand);
        }
        let given = entitle(&tree, CPU, &own);
        let division = hosts::divide(&tree, CPU, &given, &rooms, &samples);
        prop_assert_eq!(&division, &hosts::divide(&tree, CPU, &given, &rooms, &samples));
        let mut used = vec![0; rooms.len()];
        for part in &division.nodes[ROOT] {
            used[part.host as usize] += part.amount;
        }
        for (used, room) in used.iter().zip(&rooms) {
            prop_assert!(used <= room);
        }
        for (at, node) in tree.nodes.iter().enumerate() {
            let parts = &division.nodes[at];
            let sum: u64 = parts.iter().map(|part| part.amount).sum();
            prop_assert!(sum <= given[at].amount);
            let guaranteed: u64 = parts.iter().map(|part| part.guaranteed).sum();
            prop_assert!(guaranteed <= node.line(CPU).reservation.max(sum));
            prop_assert!(parts.iter().all(|part| part.guaranteed >= part.reserved));
            let reserved: u64 = parts.iter().map(|part| part.reserved).sum();
            prop_assert_eq!(reserved, node.line(CPU).reservation.min(sum));
            if let (Some(limit), Some(_)) = (node.line(CPU).limit, &node.pool) {
                let limits: u64 = parts.iter().filter_map(|part| part.limit).sum();
                prop_assert!(limits <= limit);
                prop_assert!(parts.iter().all(|part| part.limit.is_some_and(|it| it >= part.amount)));
            }
        }
    }
}
