//! A good world breaks nothing, and each thing that must hold can fail.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;

use control::workloads::WaitOutcome;
use model::{
    DesiredState, Digest, HostDesired, HostId, HostWorkload, Phase, PoolId, TaskStatus, Workload,
    WorkloadId,
};
use serde_json::json;

use super::{ALL, Wait, When, World};

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

/// Workload 1 runs on host 1; host 2 has a copy of its image and does nothing.
fn good() -> World {
    let mut world = World {
        revision: 9,
        ..World::default()
    };
    world.workloads.insert(id(1), workload(1));
    for n in 1..=2 {
        let view = world.hosts.entry(host(n)).or_default();
        view.connected = true;
        view.documents = Some(Default::default());
    }
    for view in world.hosts.values_mut() {
        view.images = BTreeSet::from([image()]);
        view.recorded_images.clone_from(&view.images);
    }
    let view = world.hosts.get_mut(&host(1)).unwrap();
    view.tasks.insert(id(1), running(1));
    let document = HostDesired {
        generation: 9,
        workloads: [(id(1), told(1))].into(),
        ..HostDesired::default()
    };
    view.documents = Some((document.clone(), document));
    world.images.insert(image());
    world.past.runs.insert(id(1), 1);
    world.past.starts.insert((id(1), 1, 0), vec![host(1)]);
    world.past.revisions = (8, 9);
    world.past.idle = Some((9, 9));
    world.past.generations.insert(host(1), (8, 9));
    world
}

fn first(world: &mut World) -> &mut Workload {
    world.workloads.get_mut(&id(1)).unwrap()
}

fn on_host(world: &mut World, n: u8) -> &mut super::HostView {
    world.hosts.get_mut(&host(n)).unwrap()
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

/// Breaks what has this name.
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
        "generations-grow" => drop(world.past.generations.insert(host(1), (9, 8))),
        "revisions-grow" => world.past.revisions = (9, 9),
        "waits-true" => waited(world, 3),
        "execs-true" => world.past.execs.push((id(1), Some(137))),
        "hosts-connected" => on_host(world, 2).connected = false,
        "removed-is-gone" => first(world).desired = DesiredState::Removed,
        "running-as-wanted" => first(world).status.phase = Phase::Pending,
        "stopped-is-dead" => {
            first(world).desired = DesiredState::Stopped {
                grace_seconds: Some(1),
                signal: None,
            };
        }
        "status-true" => drop(on_host(world, 1).tasks.remove(&id(1))),
        "images-recorded" => on_host(world, 1).recorded_images.clear(),
        "images-kept" => {
            for view in world.hosts.values_mut() {
                view.images.clear();
                view.recorded_images.clear();
            }
        }
        "images-copied" => {
            on_host(world, 2).images.clear();
            on_host(world, 2).recorded_images.clear();
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
