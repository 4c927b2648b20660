//! A good commit breaks nothing, and each thing that must hold of one can fail.

use model::{Hold, HoldKind, Object, Timestamp};
use serde_json::json;
use store::{Change, Event, Revision, Versioned};

use super::super::steps::{STEPS, Step};
use super::*;

/// What one commit puts.
fn event(objects: impl IntoIterator<Item = Object>) -> Event {
    let put = |object| {
        let versioned = Versioned {
            revision: Revision(10),
            created: Revision(1),
            object,
        };
        Change::Put(Arc::new(versioned))
    };
    Event {
        revision: Revision(10),
        changes: objects.into_iter().map(put).collect(),
    }
}

/// What does not hold of a commit.
fn broken(before: &World, event: &Event) -> Vec<&'static str> {
    let step = Step { before, event };
    let wrong = STEPS.iter().filter(|it| (it.check)(&step).is_err());
    wrong.map(|it| it.name).collect()
}

fn held(mut it: Workload, kind: HoldKind, reason: &str) -> Workload {
    it.hold = Some(Hold {
        kind,
        reason: reason.into(),
        since: Timestamp(0),
        not_before: Timestamp(0),
        grace_seconds: 1,
    });
    it
}

/// Pool 2 has borrowed host 1 with a small and a large workload; workload 1 of pool 1 is to start there inside its
/// pool's reservation, for which the large one has to go.
fn reclaiming() -> (World, Vec<Workload>) {
    let mut world = good();
    let slice = json!({"memory": {"reservation": {"absolute": 3_u64 << 30}}});
    world.pools.insert(pool_id(1), pool(1, slice));
    fill(&mut world);
    asks(&mut world, 2, 5);
    let mut small = world.workloads[&id(2)].clone();
    small.id = id(3);
    small.name = Name::parse("small").unwrap();
    world.workloads.insert(id(3), small);
    asks(&mut world, 3, 1);
    asks(&mut world, 1, 3);
    let starts = first(&mut world);
    starts.run = 0;
    starts.host = None;
    starts.status = TaskStatus::default();
    starts.desired = DesiredState::Created;
    let victims = BTreeSet::from([id(2)]);
    let mut after = held(starts.clone(), HoldKind::Awaiting { victims }, "x");
    after.desired = DesiredState::Running;
    after.host = Some(host(1));
    let victim = held(world.workloads[&id(2)].clone(), HoldKind::Parked, "x");
    (world, vec![after, victim])
}

fn of(workloads: Vec<Workload>) -> Event {
    event(workloads.into_iter().map(Object::Workload))
}

#[test]
fn good_commits_break_nothing() {
    let (world, workloads) = reclaiming();
    assert_eq!(broken(&world, &of(workloads)), [""; 0]);
    let mut world = good();
    let mut moved = first(&mut world).clone();
    host_record(&mut world, 1).status.lost_at = Some(Timestamp(1));
    host_record(&mut world, 1).status.connected = false;
    moved.left.insert(host(1), Timestamp(1));
    moved.host = Some(host(2));
    moved.run = 2;
    assert_eq!(broken(&world, &of(vec![moved])), [""; 0]);
    let lost = record(2);
    let mut world = good();
    world.past.links.entry(host(2)).or_default().heard = Timestamp(980_000);
    let mut after = lost.clone();
    after.status.lost_at = Some(world.now);
    assert_eq!(broken(&world, &event([Object::Host(after)])), [""; 0]);
}

#[test]
fn each_thing_that_must_hold_of_a_commit_can_fail() {
    for invariant in STEPS {
        let (world, event) = harm(invariant.name);
        let step = Step {
            before: &world,
            event: &event,
        };
        assert!(
            (invariant.check)(&step).is_err(),
            "{} does not see its own breach",
            invariant.name
        );
    }
}

/// A commit that breaks what has this name.
fn harm(name: &str) -> (World, Event) {
    let mut world = good();
    match name {
        "runs-grow" => {
            let mut it = first(&mut world).clone();
            it.run = 0;
            (world, of(vec![it]))
        }
        "moves-have-a-cause" => {
            let mut it = first(&mut world).clone();
            it.left.insert(host(1), Timestamp(1));
            it.host = Some(host(2));
            it.run = 2;
            (world, of(vec![it]))
        }
        "lost-was-silent" => {
            world.past.links.entry(host(2)).or_default().heard = Timestamp(995_000);
            let mut it = record(2);
            it.status.lost_at = Some(world.now);
            (world, event([Object::Host(it)]))
        }
        "victims-borrow" => {
            let (mut world, workloads) = reclaiming();
            let slice = json!({"memory": {"reservation": {"absolute": 6_u64 << 30}}});
            world.pools.insert(pool_id(2), pool(2, slice));
            (world, of(workloads))
        }
        "victims-are-needed" => {
            let (world, mut workloads) = reclaiming();
            let victims = BTreeSet::from([id(2), id(3)]);
            workloads[0].hold.as_mut().unwrap().kind = HoldKind::Awaiting { victims };
            let more = held(world.workloads[&id(3)].clone(), HoldKind::Parked, "x");
            workloads.push(more);
            (world, of(workloads))
        }
        "the-squeezed-borrow" => {
            let it = first(&mut world).clone();
            let reason = "the memory of host host1 is needed by others";
            (world, of(vec![held(it, HoldKind::Parked, reason)]))
        }
        "pools-are-not-overbooked" => {
            let slice = json!({"memory": {"reservation": {"absolute": 100_u64 << 30}}});
            (world, event([Object::Pool(pool(1, slice))]))
        }
        "admissions-hold" => {
            let slice = json!({"memory": {"limit": {"absolute": 1 << 30}}});
            world.pools.insert(pool_id(1), pool(1, slice));
            let mut it = workload(2);
            it.spec.task.resources.request.memory_bytes = Some(2 << 30);
            (world, of(vec![it]))
        }
        "hosts-are-not-overfilled" => {
            let mut it = workload(2);
            it.spec.task.resources.request.memory_bytes = Some(9 << 30);
            (world, of(vec![it]))
        }
        unknown => panic!("no harm is known for {unknown}"),
    }
}

#[test]
fn a_move_without_a_note_to_the_old_host_is_seen() {
    let mut world = good();
    host_record(&mut world, 1).status.lost_at = Some(Timestamp(1));
    host_record(&mut world, 1).status.connected = false;
    let mut moved = first(&mut world).clone();
    moved.host = Some(host(2));
    moved.run = 2;
    assert_eq!(broken(&world, &of(vec![moved])), ["moves-have-a-cause"]);
}

#[test]
fn a_host_with_a_link_is_not_lost() {
    let mut world = good();
    world.past.links.entry(host(2)).or_default().open = 1;
    let mut it = record(2);
    it.status.lost_at = Some(world.now);
    assert_eq!(
        broken(&world, &event([Object::Host(it)])),
        ["lost-was-silent"]
    );
}

#[test]
fn too_few_victims_and_those_that_are_not_told_are_seen() {
    let (mut world, workloads) = reclaiming();
    asks(&mut world, 1, 3);
    asks(&mut world, 2, 1);
    asks(&mut world, 3, 5);
    assert!(broken(&world, &of(workloads)).contains(&"victims-are-needed"));
    let (world, mut workloads) = reclaiming();
    workloads.truncate(1);
    assert_eq!(broken(&world, &of(workloads)), ["victims-borrow"]);
}

#[test]
fn a_quota_is_a_limit_too() {
    let mut world = good();
    let slice = json!({"quotas": {"workloads": 1}});
    world.pools.insert(pool_id(1), pool(1, slice));
    assert_eq!(broken(&world, &of(vec![workload(2)])), ["admissions-hold"]);
}
