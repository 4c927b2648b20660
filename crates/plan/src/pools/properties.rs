//! Tests of the pool tree, the ledger and admission: cases, and properties over random trees and claims.

use model::{Charge, Counted, Installation, Pool, QuotaKey, Ratio, Resource};
use proptest::prelude::*;
use serde_json::json;

use super::admit::Rule;
use super::testing::{charge, claim, pool, pool_id, room, slice, workload_id};
use super::{Ledger, ROOT, Tree, change};

const GIB: u64 = 1 << 30;

fn tree(pools: &[Pool]) -> Tree {
    Tree::resolve(pools, &[room(4, 8), room(4, 8)], &Installation::default())
}

fn percent(of: u32) -> serde_json::Value {
    json!({ "percent": of * 100 })
}

#[test]
fn percentages_follow_the_capacity() {
    let pools = [
        pool(
            1,
            None,
            slice(json!({"memory": {"reservation": percent(25), "limit": percent(50)}})),
        ),
        pool(
            2,
            Some(1),
            slice(json!({"memory": {"reservation": percent(50)}})),
        ),
    ];
    let tree = tree(&pools);
    let memory = |at: u8| tree.node(&pool_id(at)).unwrap().memory;
    assert_eq!(
        (memory(1).reservation, memory(1).limit),
        (4 * GIB, Some(8 * GIB))
    );
    assert_eq!(
        memory(2).reservation,
        2 * GIB,
        "half of the parent's reservation"
    );
    let less = Tree::resolve(&pools, &[room(4, 8)], &Installation::default());
    assert_eq!(less.node(&pool_id(1)).unwrap().memory.reservation, 2 * GIB);
}

#[test]
fn a_size_is_a_reservation_by_the_ratio_and_shares() {
    let installation = Installation {
        cpu_overcommit: Ratio(2000),
        memory_overcommit: Ratio(2000),
        ..Installation::default()
    };
    let elastic = pool(1, None, slice(json!({"size": 5000})));
    let hard = pool(2, None, slice(json!({"size": 2500, "hard": true})));
    let tree = Tree::resolve([&elastic, &hard], &[room(8, 16)], &installation);
    let (first, second) = (
        tree.node(&pool_id(1)).unwrap(),
        tree.node(&pool_id(2)).unwrap(),
    );
    assert_eq!((first.cpu.reservation, first.cpu.limit), (2000, None));
    assert_eq!(
        (second.cpu.reservation, second.cpu.limit),
        (1000, Some(2000))
    );
    assert_eq!(
        (first.cpu.nominal, second.cpu.nominal),
        (Some(4000), Some(2000))
    );
    let more = |size: u32| {
        let third = pool(3, None, slice(json!({"size": size})));
        change::check_sizes(&third, [&elastic, &hard].into_iter(), &installation)
    };
    assert_eq!(more(12_500), Ok(()), "200 % in all");
    assert_eq!(
        more(12_600).unwrap_err().to_string(),
        "size: 126% is not left: the sizes of its siblings add up to 75%, and all together may be 200% with an \
         overcommit ratio of 2; ask for at most 125%, or raise the ratio"
    );
}

#[test]
fn a_pool_confined_to_hosts_can_use_no_more_than_they_have() {
    let labels = std::collections::BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let ssd = super::HostRoom {
        labels: &labels,
        ..room(2, 4)
    };
    let pools = [pool(1, None, slice(json!({"hosts": {"disk": "ssd"}})))];
    let tree = Tree::resolve(&pools, &[room(8, 16), ssd], &Installation::default());
    assert_eq!(tree.node(&pool_id(1)).unwrap().cpu.ceiling, 2000);
}

#[test]
fn less_capacity_than_reservations_marks_and_names_what_is_missing() {
    let pools = [
        pool(
            1,
            None,
            slice(json!({"memory": {"reservation": {"absolute": 6 * GIB}}})),
        ),
        pool(
            2,
            None,
            slice(json!({"memory": {"reservation": {"absolute": 6 * GIB}}})),
        ),
    ];
    assert!(
        !tree(&pools)
            .nodes
            .iter()
            .any(|node| node.memory.over_committed())
    );
    let less = Tree::resolve(&pools, &[room(4, 8)], &Installation::default());
    assert_eq!(less.nodes[ROOT].memory.short(), 4 * GIB);
    for node in &less.nodes[1..] {
        assert_eq!(node.memory.short(), 2 * GIB, "{}", node.name);
    }
    assert!(!less.nodes[1].cpu.over_committed());
}

#[test]
fn a_refusal_names_the_ancestor_that_ran_out() {
    let pools = [
        pool(
            1,
            None,
            slice(json!({"memory": {"limit": {"absolute": 2 * GIB}}, "quotas": {"workloads": 2}})),
        ),
        pool(2, Some(1), slice(json!({}))),
    ];
    let mut ledger = Ledger::new(tree(&pools), []);
    ledger.set(&workload_id(1), Some(&claim(1, charge(0, GIB))));
    let refusal = ledger
        .admit(&pool_id(2), Charge::NONE, charge(0, GIB + 1))
        .unwrap_err();
    assert_eq!(
        (
            refusal.key,
            refusal.rule,
            refusal.exhausted.clone(),
            refusal.limit,
            refusal.usage,
            refusal.wanted
        ),
        (
            QuotaKey::Resource(Resource::Memory),
            Rule::Limit,
            Some(pool_id(1)),
            2 * GIB,
            GIB,
            GIB + 1
        )
    );
    assert_eq!(
        refusal.to_string(),
        "pool p1 (above p2) has not enough memory left: 1GiB wanted, 1GiB of the limit of 2GiB in use; stop something, \
         ask for less, or ask for a higher limit"
    );
    ledger.set(&workload_id(2), Some(&claim(2, charge(0, 0))));
    let refusal = ledger
        .admit(&pool_id(2), Charge::NONE, charge(0, 0))
        .unwrap_err();
    assert_eq!(refusal.rule, Rule::Quota);
    assert_eq!(
        refusal.to_string(),
        "pool p1 (above p2) has its quota of 2 workloads used up: 2 in use, 1 more wanted; remove some, or ask for a \
         higher quota"
    );
}

#[test]
fn gpus_are_counted_in_parts() {
    let quotas = json!({"gpus": 2500});
    let pools = [pool(1, None, slice(json!({ "quotas": quotas })))];
    let mut ledger = Ledger::new(tree(&pools), []);
    let gpus = |millis| {
        let mut charge = charge(0, 0);
        charge[QuotaKey::Counted(Counted::Gpus)] = millis;
        charge
    };
    ledger.set(&workload_id(1), Some(&claim(1, gpus(2000))));
    let ask = |millis| ledger.admit(&pool_id(1), Charge::NONE, gpus(millis));
    assert!(ask(500).is_ok());
    assert_eq!(
        ask(750).unwrap_err().to_string(),
        "pool p1 has its quota of 2.5 gpus used up: 2 in use, 0.75 more wanted; stop something, or ask for a higher \
         quota"
    );
}

#[test]
fn beyond_its_reservation_a_pool_takes_from_above_and_then_borrows() {
    let reserved = |lendable| {
        let memory = json!({"reservation": {"absolute": 12 * GIB}, "lendable": lendable});
        pool(1, None, slice(json!({ "memory": memory })))
    };
    let guest = pool(2, None, slice(json!({})));
    let ledger = Ledger::new(tree(&[reserved(json!(null)), guest.clone()]), []);
    let ask = |ledger: &Ledger, gib: u64| {
        ledger
            .admit(&pool_id(2), Charge::NONE, charge(0, gib * GIB))
            .map(|admitted| admitted.borrows[QuotaKey::Resource(Resource::Memory)] / GIB)
    };
    assert_eq!(ask(&ledger, 4), Ok(0), "four are unreserved");
    assert_eq!(ask(&ledger, 6), Ok(2), "two are lent");
    assert_eq!(ask(&ledger, 17).unwrap_err().rule, Rule::Limit);
    let stingy = Ledger::new(tree(&[reserved(json!({"absolute": GIB})), guest]), []);
    assert_eq!(ask(&stingy, 5), Ok(1));
    let refusal = ask(&stingy, 6).unwrap_err();
    assert_eq!((refusal.rule, refusal.exhausted), (Rule::Capacity, None));
}

#[test]
fn the_owner_is_admitted_within_its_reservation_although_it_is_lent() {
    let pools = [
        pool(
            1,
            None,
            slice(json!({"memory": {"reservation": {"absolute": 12 * GIB}}})),
        ),
        pool(2, None, slice(json!({}))),
    ];
    let mut ledger = Ledger::new(tree(&pools), []);
    ledger.set(&workload_id(1), Some(&claim(2, charge(0, 4 * GIB))));
    let admitted = ledger
        .admit(&pool_id(1), Charge::NONE, charge(0, 12 * GIB))
        .unwrap();
    assert_eq!(admitted.borrows, Charge::NONE);
}

#[test]
fn a_fixed_pool_gets_no_more_than_its_reservation() {
    let memory = json!({"reservation": {"absolute": 2 * GIB}, "expandable": false});
    let pools = [
        pool(1, None, slice(json!({"memory": memory}))),
        pool(2, Some(1), slice(json!({}))),
    ];
    let ledger = Ledger::new(tree(&pools), []);
    assert!(
        ledger
            .admit(&pool_id(2), Charge::NONE, charge(0, 2 * GIB))
            .is_ok()
    );
    let refusal = ledger
        .admit(&pool_id(2), Charge::NONE, charge(0, 3 * GIB))
        .unwrap_err();
    assert_eq!(
        (refusal.rule, refusal.exhausted),
        (Rule::Fixed, Some(pool_id(1)))
    );
}

fn checked(before: &[Pool], after: &[Pool], changed: u8) -> Result<usize, String> {
    change::check_tree(&tree(before), &tree(after), &pool_id(changed))
        .map(|raised| raised.len())
        .map_err(|why| why.to_string())
}

#[test]
fn reservations_that_do_not_fit_are_refused_with_what_is_left() {
    let big = pool(
        1,
        None,
        slice(json!({"memory": {"reservation": {"absolute": 12 * GIB}}})),
    );
    let more = pool(
        2,
        None,
        slice(json!({"memory": {"reservation": {"absolute": 6 * GIB}}})),
    );
    assert_eq!(
        checked(std::slice::from_ref(&big), &[big.clone(), more], 2).unwrap_err(),
        "memory: 6GiB cannot be reserved: the installation has 16GiB, of which 12GiB are reserved already; ask for at \
         most 4GiB, or make room there first"
    );
    let crossed = pool(
        3,
        None,
        slice(json!({"cpu": {"reservation": {"absolute": 2000}, "limit": {"absolute": 1000}}})),
    );
    assert_eq!(
        checked(&[], &[crossed], 3).unwrap_err(),
        "cpu: the limit of 1 core is below the reservation of 2 cores; raise the limit or lower the reservation"
    );
}

#[test]
fn a_pool_cannot_shrink_below_what_is_reserved_in_it() {
    let parent = |gib: u64| {
        let memory = json!({"reservation": {"absolute": gib * GIB}, "expandable": false});
        pool(1, None, slice(json!({ "memory": memory })))
    };
    let child = pool(
        2,
        Some(1),
        slice(json!({"memory": {"reservation": {"absolute": 3 * GIB}}})),
    );
    assert_eq!(
        checked(&[parent(4), child.clone()], &[parent(2), child], 1).unwrap_err(),
        "memory: pool p1 would have 2GiB, but 3GiB are reserved by the pools below it; lower those first"
    );
}

#[test]
fn taking_from_above_is_told_to_whoever_decides() {
    let parent = pool(
        1,
        None,
        slice(json!({"memory": {"reservation": {"absolute": 2 * GIB}}})),
    );
    let child = |gib: u64| {
        pool(
            2,
            Some(1),
            slice(json!({"memory": {"reservation": {"absolute": gib * GIB}}})),
        )
    };
    let before = [parent.clone()];
    assert_eq!(
        checked(&before, &[parent.clone(), child(2)], 2),
        Ok(0),
        "fits into the parent"
    );
    assert_eq!(
        checked(&before, &[parent, child(3)], 2),
        Ok(1),
        "the parent grows"
    );
}

#[test]
fn forms_that_can_never_be_right_are_refused() {
    for (bad, why) in [
        (json!({"hard": true}), "hard: needs a size"),
        (json!({"size": 0}), "size: 0% is nothing"),
        (
            json!({"cpu": {"limit": percent(150)}}),
            "cpu: a limit of 150% is more than there is",
        ),
        (
            json!({"defaults": {"cpu_request": 2, "cpu_limit": 1}}),
            "defaults: the cpu request is above",
        ),
    ] {
        let refused = change::check_form(&slice(bad)).unwrap_err().to_string();
        assert!(refused.starts_with(why), "{refused}");
    }
}

// Properties.

fn amount(most: u64) -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!(null)),
        (0..=most).prop_map(|units| json!({"absolute": units})),
        (0..=10_000u32).prop_map(|hundredths| json!({"percent": hundredths})),
    ]
}

fn portion(most: u64) -> impl Strategy<Value = serde_json::Value> {
    (amount(most), amount(most), amount(most), any::<bool>(), 1..5u32).prop_map(
        |(reservation, limit, lendable, expandable, shares)| {
            json!({"reservation": reservation, "limit": limit, "lendable": lendable, "expandable": expandable,
                   "shares": {"number": shares * 1000}})
        },
    )
}

/// Up to nine pools; each is below the root or below one with a lower number.
pub(crate) fn pools() -> impl Strategy<Value = Vec<Pool>> {
    let one = (
        any::<prop::sample::Index>(),
        portion(8000),
        portion(16 * GIB),
        prop::option::of(0..10u64),
        prop::option::of(0..5000u64),
    );
    proptest::collection::vec(one, 0..10).prop_map(|list| {
        let pools = list.into_iter().enumerate();
        pools
            .map(|(at, (parent, cpu, memory, quota, gpus))| {
                let number = u8::try_from(at).unwrap() + 1;
                let parent = parent.index(at + 1);
                let parent = (parent > 0).then(|| u8::try_from(parent).unwrap());
                let mut wanted = json!({"cpu": cpu, "memory": memory, "quotas": {}});
                if let Some(quota) = quota {
                    wanted["quotas"]["workloads"] = json!(quota);
                }
                if let Some(gpus) = gpus {
                    wanted["quotas"]["gpus"] = json!(gpus);
                }
                pool(number, parent, slice(wanted))
            })
            .collect()
    })
}

/// A claim on a pool, perhaps one that is not there.
fn claims() -> impl Strategy<Value = Vec<(u32, Option<(u8, Charge)>)>> {
    let gpus = prop_oneof![2 => Just(0), 1 => 0..2000u64];
    let one = (0..11u8, 0..4000u64, 0..8 * GIB, gpus).prop_map(|(pool, cpu, memory, gpus)| {
        let mut charge = charge(cpu, memory);
        charge[QuotaKey::Counted(Counted::Gpus)] = gpus;
        (pool, charge)
    });
    proptest::collection::vec((0..20u32, prop::option::weighted(0.8, one)), 0..60)
}

fn apply(ledger: &mut Ledger, events: &[(u32, Option<(u8, Charge)>)]) {
    for (id, event) in events {
        let event = event.map(|(pool, charge)| claim(pool, charge));
        ledger.set(&workload_id(*id), event.as_ref());
    }
}

fn last(events: &[(u32, Option<(u8, Charge)>)]) -> Vec<(model::WorkloadId, model::Claim)> {
    let state: std::collections::BTreeMap<_, _> = events.iter().copied().collect();
    let held = state
        .into_iter()
        .filter_map(|(id, it)| it.map(|it| (id, it)));
    held.map(|(id, (pool, charge))| (workload_id(id), claim(pool, charge)))
        .collect()
}

proptest! {
    /// Invariant 1: reservations fit, or the node is marked; what is honoured always fits.
    #[test]
    fn reservations_fit_or_are_marked(pools in pools(), hosts in 0..4usize) {
        let rooms = vec![room(2, 4); hosts];
        let tree = Tree::resolve(&pools, &rooms, &Installation::default());
        for resource in Resource::ALL {
            for (at, node) in tree.nodes.iter().enumerate() {
                let line = node.line(resource);
                let honoured: u64 = node.children.iter().map(|c| tree.nodes[*c].line(resource).honoured).sum();
                prop_assert!(honoured <= line.honoured);
                let fits = tree.taken_below(at, resource) <= line.honoured.min(line.limit.unwrap_or(u64::MAX));
                prop_assert!(fits || line.over_committed());
                prop_assert!(line.ceiling <= tree.nodes[ROOT].line(resource).ceiling);
            }
        }
    }

    /// Invariant 5: the ledger kept claim by claim is the one made anew, also when the tree changes meanwhile.
    #[test]
    fn the_ledger_is_a_function_of_the_claims(pools in pools(), other in pools(), first in claims(), second in claims()) {
        let mut kept = Ledger::new(tree(&other), []);
        apply(&mut kept, &first);
        kept.set_tree(tree(&pools));
        apply(&mut kept, &second);
        let all: Vec<_> = first.into_iter().chain(second).collect();
        let anew = Ledger::new(tree(&pools), last(&all));
        prop_assert_eq!(kept.books(), anew.books());
        prop_assert_eq!(kept.differences(&anew), []);
        prop_assert_eq!(kept.len(), anew.len());
    }

    /// Admission holds every line at every level, and what is admitted one by one never passes them.
    #[test]
    fn what_is_admitted_stays_inside_every_line(pools in pools(), asked in claims()) {
        let mut ledger = Ledger::new(tree(&pools), []);
        let mut homes = std::collections::BTreeMap::new();
        for (number, event) in asked {
            let id = workload_id(number);
            let before = ledger.claim(&id).unwrap_or_default();
            let Some((to, wanted)) = event else {
                ledger.set(&id, None);
                continue;
            };
            if ledger.claim(&id).is_some() && homes.get(&number) != Some(&to) {
                // A workload never changes its pool: this one goes first.
                ledger.set(&id, None);
                continue;
            }
            homes.insert(number, to);
            let Some(at) = ledger.tree().index(&pool_id(to)) else { continue };
            let books = ledger.books().to_vec();
            let answer = ledger.admit(&pool_id(to), before, wanted);
            prop_assert_eq!(ledger.books(), &books[..], "asking has no effect");
            if answer.is_err() {
                continue;
            }
            let more = wanted.minus(before);
            ledger.set(&id, Some(&claim(to, wanted)));
            for up in ledger.tree().upwards(at) {
                let (node, book) = (&ledger.tree().nodes[up], ledger.book(up));
                for resource in Resource::ALL {
                    let key = QuotaKey::Resource(resource);
                    let bound = node.line(resource).bound.unwrap_or(u64::MAX);
                    prop_assert!(more[key] == 0 || book.sum[key] <= bound);
                }
                for (counted, quota) in &node.quotas {
                    let key = QuotaKey::Counted(*counted);
                    prop_assert!(more[key] == 0 || book.sum[key] <= *quota);
                }
            }
        }
    }
}
