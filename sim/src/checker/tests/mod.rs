//! A good world breaks nothing, and each thing that must hold can fail.
#![allow(clippy::unwrap_used, reason = "tests")]

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control::dividing::ResourceUse;
use control::workloads::WaitOutcome;
use model::{
    DesiredState, Digest, Hold, HoldKind, Host, HostDesired, HostId, HostPool, HostWorkload,
    MemoryBytes, Name, Phase, Pool, PoolId, Resource, TaskStatus, Timestamp, Workload, WorkloadId,
};
use serde_json::json;

use super::{ALL, Place, Said, Wait, When, World};

fn id(n: u8) -> WorkloadId {
    WorkloadId::from_bytes(&[n; 32])
}

fn host(n: u8) -> HostId {
    HostId::from_bytes(&[n; 32])
}

fn image() -> Digest {
    Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap()
}

fn running(run: u64) -> TaskStatus {
    TaskStatus {
        phase: Phase::Running,
        run,
        ..TaskStatus::default()
    }
}

fn workload(n: u8) -> Workload {
    serde_json::from_value(json!({
        "id": id(n),
        "pool": PoolId::from_bytes(&[1; 32]),
        "name": format!("w{n}"),
        "spec": { "task": { "image": "web", "image_id": image(), "args": ["server"] } },
        "desired": DesiredState::Running,
        "run": 1,
        "host": host(1),
        "status": running(1),
        "created_at": 0,
    }))
    .unwrap()
}

fn told(n: u8) -> Arc<HostWorkload> {
    let image_record = json!({
        "id": image(),
        "pool": PoolId::from_bytes(&[1; 32]),
        "content": { "config": image(), "config_bytes": 1, "layers": [] },
        "config": { "platform": { "architecture": "amd64", "os": "linux" } },
        "added_at": 0,
    });
    let record = workload(n);
    Arc::new(
        serde_json::from_value(json!({
            "id": record.id,
            "pool": record.pool,
            "pool_name": "team",
            "name": record.name,
            "spec": record.spec,
            "image": image_record,
            "desired": record.desired,
            "run": record.run,
        }))
        .unwrap(),
    )
}

fn pool_id(n: u8) -> PoolId {
    PoolId::from_bytes(&[n; 32])
}

/// A pool with this slice.
fn pool(n: u8, slice: serde_json::Value) -> Pool {
    let name = Name::parse(&format!("pool{n}")).unwrap();
    let mut pool = control::testing::pool_record(&pool_id(n), name);
    pool.slice = serde_json::from_value(slice).unwrap();
    pool
}

/// A connected host of 4 cores and 8 GiB.
fn record(n: u8) -> Host {
    serde_json::from_value(json!({
        "id": host(n),
        "name": format!("host{n}"),
        "certificate_sha256": "",
        "joined_at": 0,
        "status": {
            "connected": true,
            "facts": { "capacity": { "cpu": 4000, "memory": 8_u64 << 30 }, "architecture": "amd64" },
        },
    }))
    .unwrap()
}

/// Workload 1 of pool 1 runs on host 1; host 2 has a copy of its image and does nothing.
fn good() -> World {
    let mut world = World {
        now: Timestamp(1_000_000),
        revision: 9,
        ..World::default()
    };
    world.pools.insert(pool_id(1), pool(1, json!({})));
    world.workloads.insert(id(1), workload(1));
    for n in 1..=2 {
        let view = world.hosts.entry(host(n)).or_default();
        view.images = BTreeSet::from([image()]);
        let mut record = record(n);
        record.status.images.clone_from(&view.images);
        view.record = Some(record);
        view.documents = Some(Default::default());
    }
    let view = world.hosts.get_mut(&host(1)).unwrap();
    view.tasks.insert(id(1), running(1));
    let document = HostDesired {
        generation: 9,
        workloads: [(id(1), told(1))].into(),
        ..HostDesired::default()
    };
    view.documents = Some((document.clone(), document));
    world.images.insert((pool_id(1), image()));
    world.said.push(Said::default());
    world.past.runs.insert(id(1), 1);
    world.past.starts.insert((id(1), 1, 0), vec![host(1)]);
    world.past.revisions = (8, 9);
    world.past.idle = Some((9, 9));
    world.past.generations.insert((host(1), 0), (8, 9));
    let places = BTreeMap::from([(id(1), Place::of(&workload(1)))]);
    world.past.restarted = Some([places.clone(), places]);
    world
}

fn first(world: &mut World) -> &mut Workload {
    world.workloads.get_mut(&id(1)).unwrap()
}

fn on_host(world: &mut World, n: u8) -> &mut super::HostView {
    world.hosts.get_mut(&host(n)).unwrap()
}

fn host_record(world: &mut World, n: u8) -> &mut Host {
    on_host(world, n).record.as_mut().unwrap()
}

fn waited(world: &mut World, exit_code: i32) {
    world.past.waits.push(Wait {
        id: id(1),
        outcome: WaitOutcome {
            exit_code,
            error: None,
        },
        runs: 1,
    });
}

/// The first workload is stopped where it is, and waits.
fn hold(world: &mut World, kind: HoldKind) {
    let held = first(world);
    held.hold = Some(Hold {
        kind,
        reason: "no room".into(),
        since: Timestamp(0),
        not_before: Timestamp(0),
        grace_seconds: 1,
    });
    held.status.phase = Phase::Exited;
    let task = on_host(world, 1).tasks.get_mut(&id(1)).unwrap();
    task.phase = Phase::Exited;
}

/// The first workload asks for so many GiB of memory.
fn asks(world: &mut World, n: u8, gib: u64) {
    let it = world.workloads.get_mut(&id(n)).unwrap();
    it.spec.task.resources.request.memory_bytes = Some(gib << 30);
}

/// Something of pool 2 fills the first host, and the second takes nothing.
fn fill(world: &mut World) {
    world.pools.insert(pool_id(2), pool(2, json!({})));
    let mut other = workload(2);
    other.pool = pool_id(2);
    world.workloads.insert(id(2), other);
    asks(world, 2, 7);
    on_host(world, 1).tasks.insert(id(2), running(1));
    host_record(world, 2).cordoned = true;
}

/// A server says that a pool may use so much CPU, with so much demand, a reservation of 1000 and a limit of 2000.
fn says(world: &mut World, entitled: u64, demand: u64) {
    let cpu = ResourceUse {
        reservation: 1000,
        ceiling: 2000,
        entitled,
        demand,
        ..ResourceUse::default()
    };
    let uses = [cpu, ResourceUse::default()];
    world.said[0].uses.insert(pool_id(1), uses);
}

fn reserve_more_than_there_is(world: &mut World) {
    let slice = json!({"memory": {"reservation": {"absolute": 100_u64 << 30}}});
    world.pools.insert(pool_id(1), pool(1, slice));
}

/// Breaks what has this name.
#[allow(clippy::too_many_lines, reason = "one arm per thing that must hold")]
fn harm(world: &mut World, name: &str) {
    match name {
        "unique-names" => {
            let mut twin = workload(2);
            twin.name = first(world).name.clone();
            world.workloads.insert(id(2), twin);
        }
        "started-is-placed" => first(world).host = None,
        "status-not-ahead" => first(world).status.run = 2,
        "only-placed-runs" => first(world).host = Some(host(2)),
        "twice-only-by-loss" => {
            first(world).left.insert(host(2), Timestamp(0));
            on_host(world, 2).tasks.insert(id(1), running(1));
        }
        "at-most-one" => {
            first(world).spec.on_host_loss = Some(model::HostLoss::AtMostOne);
            on_host(world, 2).tasks.insert(id(1), running(1));
        }
        "one-host" => drop(on_host(world, 2).tasks.insert(id(1), running(1))),
        "attempt-once" => world
            .past
            .starts
            .get_mut(&(id(1), 1, 0))
            .unwrap()
            .push(host(1)),
        "attempts-by-policy" => {
            world.past.starts.insert((id(1), 1, 1), vec![host(1)]);
        }
        "runs-as-asked" => {
            world.past.starts.insert((id(1), 2, 0), vec![host(1)]);
        }
        "removals-named" => drop(world.past.removals.insert((host(1), id(1)))),
        "drops-named" => drop(world.past.drops.insert((host(1), image()))),
        "generations-grow" => drop(world.past.generations.insert((host(1), 0), (9, 8))),
        "revisions-grow" => world.past.revisions = (9, 9),
        "waits-true" => waited(world, 3),
        "execs-true" => world.past.execs.push((id(1), Some(137))),
        "ledgers-are-right" => world.audits.push(1),
        "limits-hold-everywhere" => {
            let slice = json!({"memory": {"limit": {"absolute": 1 << 30}}});
            world.pools.insert(pool_id(1), pool(1, slice));
            let key = (pool_id(1), Resource::Memory);
            world.past.in_force.insert(key, 1 << 30);
            let part = HostPool {
                memory_limit: Some(MemoryBytes(2 << 30)),
                ..HostPool::default()
            };
            on_host(world, 1).parts.insert(pool_id(1), part);
        }
        "hosts-connected" => host_record(world, 2).status.connected = false,
        "nothing-is-lost" => host_record(world, 2).status.lost_at = Some(Timestamp(1)),
        "left-is-cleared" => drop(first(world).left.insert(host(2), Timestamp(0))),
        "removed-is-gone" => first(world).desired = DesiredState::Removed,
        "held-waits-rightly" => hold(world, HoldKind::Parked),
        "reserved-is-served" => {
            fill(world);
            hold(world, HoldKind::Parked);
            asks(world, 1, 2);
            let slice = json!({"memory": {"reservation": {"absolute": 3_u64 << 30}}});
            world.pools.insert(pool_id(1), pool(1, slice));
        }
        "drained-is-empty" => {
            let host = host_record(world, 1);
            host.cordoned = true;
            host.drain = Some(model::Drain {
                since: Timestamp(0),
                stop_rest: true,
            });
        }
        "running-as-wanted" => first(world).status.phase = Phase::Pending,
        "stopped-is-dead" => {
            first(world).desired = DesiredState::Stopped {
                grace_seconds: Some(1),
                signal: None,
            };
        }
        "status-true" => drop(on_host(world, 1).tasks.remove(&id(1))),
        "images-recorded" => host_record(world, 1).status.images.clear(),
        "images-kept" => {
            for n in 1..=2 {
                on_host(world, n).images.clear();
                host_record(world, n).status.images.clear();
            }
        }
        "images-copied" => {
            on_host(world, 2).images.clear();
            host_record(world, 2).status.images.clear();
        }
        "limits-are-in-force" => {
            let slice = json!({"memory": {"limit": {"absolute": 1 << 30}}});
            world.pools.insert(pool_id(1), pool(1, slice));
        }
        "moves-end" => {
            world.past.healed = Some(Timestamp(0));
            world.past.moves.insert(id(1), vec![Timestamp(1); 4]);
        }
        "reservations-fit" => reserve_more_than_there_is(world),
        "entitlements-are-between" => says(world, 2001, 0),
        "nothing-is-idle-in-need" => says(world, 1000, 1500),
        "restart-moves-nothing" => {
            let [_, after] = world.past.restarted.as_mut().unwrap();
            after.get_mut(&id(1)).unwrap().run = 2;
        }
        "images-dropped" => {
            let view = on_host(world, 2);
            let (ledger, wanted) = view.documents.as_mut().unwrap();
            ledger.drop_images.insert(image(), 1);
            wanted.drop_images.insert(image(), 1);
        }
        "documents-agree" => {
            let (ledger, _) = on_host(world, 1).documents.as_mut().unwrap();
            ledger.workloads.clear();
        }
        "idle-is-quiet" => world.past.idle = Some((8, 9)),
        unknown => panic!("no harm is known for {unknown}"),
    }
}

#[test]
fn a_good_world_breaks_nothing() {
    assert_eq!(good().broken(When::Ended), None);
}

#[test]
fn each_thing_that_must_hold_can_fail() {
    for invariant in ALL {
        let mut world = good();
        harm(&mut world, invariant.name);
        assert!(
            (invariant.check)(&world).is_err(),
            "{} does not see its own breach",
            invariant.name
        );
    }
}

#[test]
fn what_is_asked_later_is_not_asked_before() {
    let mut world = good();
    harm(&mut world, "idle-is-quiet");
    assert_eq!(world.broken(When::Settled), None);
    assert!(world.broken(When::Ended).is_some());
}

#[test]
fn a_wait_is_true_if_the_task_ended_so() {
    let mut world = good();
    waited(&mut world, 3);
    world.past.ends.entry(id(1)).or_default().insert((1, 0), 3);
    assert_eq!(world.broken(When::Always), None);
}

fn fails(world: &World, name: &str) -> Option<String> {
    let invariant = ALL.iter().find(|it| it.name == name).unwrap();
    (invariant.check)(world).err()
}

#[test]
fn what_waits_must_be_stopped_say_why_and_have_no_room() {
    let full = |world: &mut World| {
        fill(world);
        hold(world, HoldKind::Queued);
        asks(world, 1, 2);
    };
    let mut world = good();
    full(&mut world);
    assert_eq!(
        fails(&world, "held-waits-rightly"),
        None,
        "there is no room"
    );
    let harms: [fn(&mut World); 6] = [
        |world| on_host(world, 1).tasks.get_mut(&id(1)).unwrap().phase = Phase::Running,
        |world| first(world).hold.as_mut().unwrap().kind = HoldKind::Moving,
        |world| first(world).hold.as_mut().unwrap().reason.clear(),
        |world| first(world).hold.as_mut().unwrap().not_before = Timestamp(i64::MAX),
        |world| first(world).desired = DesiredState::Created,
        |world| asks(world, 1, 0),
    ];
    for (at, harm) in harms.iter().enumerate() {
        let mut world = good();
        full(&mut world);
        harm(&mut world);
        assert!(fails(&world, "held-waits-rightly").is_some(), "{at}");
    }
}

#[test]
fn what_may_move_has_left_a_host_in_maintenance_if_there_is_room() {
    let mut world = good();
    harm(&mut world, "drained-is-empty");
    host_record(&mut world, 1).drain.as_mut().unwrap().stop_rest = false;
    assert_eq!(fails(&world, "drained-is-empty"), None, "it may not move");
    first(&mut world).spec.restart = model::RestartPolicy::Always;
    assert!(fails(&world, "drained-is-empty").is_some());
    host_record(&mut world, 2).cordoned = true;
    assert_eq!(fails(&world, "drained-is-empty"), None, "there is no room");
}

#[test]
fn what_was_forgotten_with_its_host_concerns_nobody() {
    let mut world = good();
    on_host(&mut world, 2).tasks.insert(id(1), running(1));
    assert!(fails(&world, "one-host").is_some());
    on_host(&mut world, 2).forgotten.insert(id(1), 1);
    assert_eq!(fails(&world, "one-host"), None);
    assert_eq!(fails(&world, "only-placed-runs"), None);
    on_host(&mut world, 2).forgotten.insert(id(1), 7);
    assert!(
        fails(&world, "one-host").is_some(),
        "a new run is somebody's"
    );
}

#[test]
fn what_may_run_twice_is_told_from_what_must_not() {
    let mut world = good();
    harm(&mut world, "at-most-one");
    assert!(fails(&world, "at-most-one").is_some());
    let removed = on_host(&mut world, 2).record.take();
    assert_eq!(fails(&world, "at-most-one"), None, "it is gone by word");
    on_host(&mut world, 2).record = removed;
    first(&mut world).spec.on_host_loss = Some(model::HostLoss::Restart);
    assert_eq!(fails(&world, "at-most-one"), None);
}

#[test]
fn what_is_in_force_on_lost_hosts_is_not_reckoned_with() {
    let mut world = good();
    harm(&mut world, "limits-hold-everywhere");
    host_record(&mut world, 1).status.lost_at = Some(Timestamp(1));
    assert_eq!(fails(&world, "limits-hold-everywhere"), None);
    world.remember();
    host_record(&mut world, 1).status.lost_at = None;
    let key = (pool_id(1), Resource::Memory);
    world.past.in_force.insert(key, 0);
    assert_eq!(fails(&world, "limits-hold-everywhere"), None, "just back");
    world.now = world.now.plus_millis(60_000);
    assert!(fails(&world, "limits-hold-everywhere").is_some());
}

#[test]
fn a_limit_that_was_lowered_is_approached_from_above() {
    let mut world = good();
    harm(&mut world, "limits-hold-everywhere");
    let key = (pool_id(1), Resource::Memory);
    world.past.in_force.insert(key.clone(), 3 << 30);
    assert_eq!(fails(&world, "limits-hold-everywhere"), None);
    assert!(fails(&world, "limits-are-in-force").is_some(), "in rest");
    world.past.in_force.remove(&key);
    assert_eq!(fails(&world, "limits-hold-everywhere"), None, "it is new");
}

#[test]
fn entitlements_have_a_lower_bound_too() {
    let mut world = good();
    says(&mut world, 999, 1500);
    assert!(fails(&world, "entitlements-are-between").is_some());
    says(&mut world, 1000, 1500);
    assert_eq!(fails(&world, "entitlements-are-between"), None);
}
