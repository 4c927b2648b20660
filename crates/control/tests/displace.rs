//! Lost hosts, maintenance, and room that is taken back: by scripted hosts, with a clock that is wound forward.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use control::maintenance::{DrainOptions, Outlook};
use control::pools::{PoolCreate, PoolUpdate};
use control::testing::{RawHost, TestHost};
use control::whatif::{Assumption, Fate, LineKind};
use control::workloads::{StartOptions, StopOptions};
use control::{Caller, Control, ControlConfig};
use model::division::Division;
use model::rule::Rule;
use model::{
    DesiredState, Hold, HoldKind, HostPool, MemoryBytes, Name, Object, Phase, PoolId, PoolUsage,
    Workload, WorkloadId, WorkloadSpec,
};
use serde_json::{Value, json};
use store::Transaction;
use wire::link::FromHost;

const GIB: u64 = 1 << 30;

fn admin() -> Caller {
    Caller::local_admin()
}

async fn pool(control: &Control, name: &str, slice: Value) -> PoolId {
    let create = PoolCreate {
        name: Name::parse(name).unwrap(),
        parent: None,
        description: String::new(),
        labels: Default::default(),
        policy: Default::default(),
        slice: serde_json::from_value(slice).unwrap(),
    };
    control
        .pool_create(&admin(), create)
        .await
        .unwrap()
        .id
        .clone()
}

fn reserve(gib: u64) -> Value {
    json!({"memory": {"reservation": {"absolute": gib * GIB}}})
}

/// A workload of so many GiB; `more` is merged into its specification.
async fn made(control: &Control, pool: &PoolId, name: &str, gib: u64, more: Value) -> WorkloadId {
    let image = control.test_image(pool, "web").await.unwrap();
    let request = json!({"cpu_millis": 10, "memory_bytes": gib * GIB});
    let task = json!({"image": "web", "image_id": image, "args": ["sleep"], "resources": {"request": request}});
    let mut spec = json!({ "task": task });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let spec: WorkloadSpec = serde_json::from_value(spec).unwrap();
    let name = Some(Name::parse(name).unwrap());
    let made = control.workload_create(&admin(), pool, name, spec).await;
    made.unwrap().id.clone()
}

async fn started(
    control: &Control,
    pool: &PoolId,
    name: &str,
    gib: u64,
    more: Value,
) -> WorkloadId {
    let id = made(control, pool, name, gib, more).await;
    control
        .workload_start(&admin(), pool, &id, StartOptions::default())
        .await
        .unwrap();
    id
}

fn always() -> Value {
    json!({"restart": {"policy": "always"}})
}

fn get(control: &Control, id: &WorkloadId) -> Workload {
    control.snapshot().workload(id).unwrap().value().clone()
}

fn host_name(control: &Control, workload: &Workload) -> String {
    let snapshot = control.snapshot();
    let host = workload.host.as_ref().and_then(|id| snapshot.host(id));
    host.map_or_else(String::new, |host| host.name.to_string())
}

/// Looks again and again, with the clock wound forward in between, until something is so.
async fn until(control: &Control, what: &str, so: impl Fn(&Control) -> bool) {
    for _ in 0..4000 {
        if so(control) {
            return;
        }
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await; // tidy: sleep: the paused clock goes on by it
    }
    let held: Vec<_> = control
        .snapshot()
        .workloads()
        .map(|row| {
            (
                row.name.to_string(),
                row.desired,
                row.hold.clone(),
                row.status.phase,
                row.host.clone(),
            )
        })
        .collect();
    panic!("never happened: {what}; {held:#?}");
}

async fn hosts(control: &Control, count: usize) -> Vec<TestHost> {
    let mut hosts = Vec::new();
    for number in 1..=count {
        hosts.push(control.test_host(&format!("h{number}")).await.unwrap());
    }
    hosts
}

fn runs(control: &Control, id: &WorkloadId) -> bool {
    let row = get(control, id);
    row.status.phase == Phase::Running && row.status.run == row.run && row.hold.is_none()
}

/// The host a workload is on goes silent, after the controller has seen it.
async fn cut(control: &Control, hosts: &mut Vec<TestHost>, id: &WorkloadId) -> String {
    control.keep_placed_once().await.unwrap();
    let workload = get(control, id);
    let name = host_name(control, &workload);
    let host = workload.host.unwrap();
    hosts.retain(|it| it.id != host);
    name
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_host_ran_is_started_elsewhere_if_that_was_agreed() {
    let control = Control::for_tests().await.unwrap();
    let mut all = hosts(&control, 3).await;
    // A server that has just started waits longer.
    tokio::time::sleep(Duration::from_secs(60)).await; // tidy: sleep: the paused clock goes on by it
    let red = pool(&control, "red", json!({})).await;
    let moves = started(&control, &red, "moves", 1, always()).await;
    let on = get(&control, &moves).host.unwrap();
    let stays = started(&control, &red, "stays", 1, json!({})).await;
    let own = json!({"on_host_loss": "keep", "restart": {"policy": "always"}});
    let kept = started(&control, &red, "kept", 1, own).await;
    let lost = cut(&control, &mut all, &moves).await;
    let began = tokio::time::Instant::now();
    until(&control, "it runs elsewhere", |control| {
        let row = get(control, &moves);
        row.host.as_ref() != Some(&on) && runs(control, &moves)
    })
    .await;
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(10),
        "{took:?}: not before the host is lost"
    );
    assert!(took <= Duration::from_secs(12), "{took:?}");
    let row = get(&control, &moves);
    assert!(row.left.contains_key(&on));
    assert!(
        row.placement
            .unwrap()
            .contains(&format!("its host {lost} was lost"))
    );
    for id in [&stays, &kept] {
        let row = get(&control, id);
        assert_eq!((row.run, row.left.len()), (1, 0), "nobody agreed to that");
    }
    // The host comes back: it removes what was moved, and says so.
    all.push(control.test_host(&lost).await.unwrap());
    until(&control, "nothing is left behind", |control| {
        get(control, &moves).left.is_empty()
    })
    .await;
    assert!(runs(&control, &moves));
    let snapshot = control.snapshot();
    assert!(snapshot.host(&on).unwrap().status.lost_at.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_comes_back_in_time_keeps_everything() {
    let control = Control::for_tests().await.unwrap();
    let mut all = hosts(&control, 2).await;
    tokio::time::sleep(Duration::from_secs(60)).await; // tidy: sleep: the paused clock goes on by it
    let red = pool(&control, "red", json!({})).await;
    let id = started(&control, &red, "w", 1, always()).await;
    let before = get(&control, &id);
    let name = cut(&control, &mut all, &id).await;
    for _ in 0..16 {
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await; // tidy: sleep: the paused clock goes on by it
    }
    all.push(control.test_host(&name).await.unwrap());
    for _ in 0..60 {
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await; // tidy: sleep: the paused clock goes on by it
    }
    let after = get(&control, &id);
    assert_eq!(
        (after.host, after.run, after.left),
        (before.host, before.run, before.left)
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_just_started_moves_nothing() {
    let before = Control::for_tests().await.unwrap();
    let mut all = hosts(&before, 2).await;
    let red = pool(&before, "red", json!({})).await;
    let id = started(&before, &red, "w", 1, always()).await;
    let on = get(&before, &id).host;
    let stays = all.iter().find(|host| Some(&host.id) != on.as_ref());
    let stays = get_host(&before, &stays.unwrap().id);
    all.clear();
    // The next server knows that both were there, and that neither is now.
    let config = ControlConfig {
        address: "127.0.0.1:7440".into(),
    };
    let control = Control::open(before.store().clone(), config).await.unwrap();
    all.push(control.test_host(&stays).await.unwrap());
    for _ in 0..50 {
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await; // tidy: sleep: the paused clock goes on by it
    }
    assert_eq!(
        get(&control, &id).host,
        on,
        "30 s are for hosts to come back"
    );
    until(&control, "it moves in the end", |control| {
        get(control, &id).host != on
    })
    .await;
}

fn get_host(control: &Control, id: &model::HostId) -> String {
    control.snapshot().host(id).unwrap().name.to_string()
}

#[tokio::test(start_paused = true)]
async fn when_many_hosts_vanish_they_are_replaced_one_after_the_other() {
    let control = Control::for_tests().await.unwrap();
    let mut all = hosts(&control, 4).await;
    tokio::time::sleep(Duration::from_secs(60)).await; // tidy: sleep: the paused clock goes on by it
    let red = pool(&control, "red", json!({})).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        let spread = json!({"placement": {"spread": "w"}, "restart": {"policy": "always"}});
        ids.push(started(&control, &red, &format!("w{number}"), 1, spread).await);
    }
    let survivor = get(&control, &ids[3]).host.unwrap();
    control.keep_placed_once().await.unwrap();
    all.retain(|host| host.id == survivor);
    let began = tokio::time::Instant::now();
    let moved = |control: &Control| {
        ids.iter()
            .filter(|id| get(control, id).host.as_ref() == Some(&survivor))
            .count()
    };
    let mut times = Vec::new();
    for count in 2..=4 {
        until(&control, "one more moves", |control| {
            moved(control) == count
        })
        .await;
        times.push(began.elapsed().as_secs());
    }
    assert!((10..=12).contains(&times[0]), "{times:?}");
    assert!(
        (38..=45).contains(&times[1]) && (68..=76).contains(&times[2]),
        "{times:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_in_maintenance_is_emptied_of_what_can_move() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 2).await;
    let red = pool(&control, "red", json!({})).await;
    let moves = started(&control, &red, "moves", 1, always()).await;
    let from = get(&control, &moves).host.unwrap();
    let beside = started(&control, &red, "stays", 1, json!({})).await;
    let host = control.snapshot().host(&from).unwrap().value().clone();
    let drained = |stop_rest| {
        let mut host = host.clone();
        host.cordoned = true;
        host.drain = Some(model::Drain {
            since: control::now(),
            stop_rest,
        });
        // Whatever is there of it: only the operator's word counts here.
        host.status = control.snapshot().host(&from).unwrap().status.clone();
        Transaction::new().put(Object::Host(host))
    };
    let other = get(&control, &beside);
    control.store().commit(drained(false)).await.unwrap();
    until(&control, "it moved", |control| {
        get(control, &moves).host.as_ref() != Some(&from) && runs(control, &moves)
    })
    .await;
    let row = get(&control, &moves);
    assert!(
        row.placement
            .as_ref()
            .unwrap()
            .contains("is in maintenance"),
        "{row:?}"
    );
    until(&control, "nothing of it is left there", |control| {
        get(control, &moves).left.is_empty()
    })
    .await;
    if other.host.as_ref() == Some(&from) {
        assert!(runs(&control, &beside), "what cannot move keeps running");
        control.store().commit(drained(true)).await.unwrap();
        until(&control, "it is stopped", |control| {
            get(control, &beside).status.phase == Phase::Exited
        })
        .await;
        assert!(matches!(
            get(&control, &beside).hold.unwrap().kind,
            HoldKind::Parked
        ));
        let mut back = host.clone();
        back.status = control.snapshot().host(&from).unwrap().status.clone();
        control
            .store()
            .commit(Transaction::new().put(Object::Host(back)))
            .await
            .unwrap();
        until(&control, "it starts again where its files are", |control| {
            runs(control, &beside) && get(control, &beside).host.as_ref() == Some(&from)
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_takes_back_its_reservation_and_the_borrower_waits_its_turn() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let owner = pool(&control, "owner", reserve(4)).await;
    let borrower = pool(&control, "borrower", reserve(1)).await;
    let first = started(&control, &borrower, "first", 3, json!({})).await;
    let second = started(&control, &borrower, "second", 3, json!({})).await;
    let mine = made(&control, &owner, "mine", 3, json!({})).await;
    let starting = {
        let (control, owner, mine) = (control.clone(), owner.clone(), mine.clone());
        tokio::spawn(async move {
            let options = StartOptions::default();
            control
                .workload_start(&admin(), &owner, &mine, options)
                .await
        })
    };
    until(&control, "the owner runs", |control| runs(control, &mine)).await;
    starting.await.unwrap().unwrap();
    let victim = get(&control, &second);
    let hold = victim.hold.clone().unwrap();
    assert_eq!(
        hold.kind,
        HoldKind::Parked,
        "the one that started last goes"
    );
    assert!(
        hold.reason
            .contains("pool owner takes back what it has reserved, for mine"),
        "{hold:?}"
    );
    assert_eq!(
        (victim.desired, victim.status.phase),
        (DesiredState::Running, Phase::Exited)
    );
    assert!(runs(&control, &first));
    let told = get(&control, &mine).placement.unwrap();
    assert!(told.contains("second of pool borrower make room"), "{told}");
    // Still no room, whatever time passes.
    for _ in 0..60 {
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep: the paused clock goes on by it
    }
    assert!(get(&control, &second).hold.is_some());
    // The owner stops: the borrower comes back by itself.
    control
        .workload_stop(&admin(), &owner, &mine, StopOptions::default())
        .await
        .unwrap();
    until(&control, "it runs again", |control| runs(control, &second)).await;
    assert_eq!(get(&control, &second).run, 2);
    assert_eq!(control.audit_ledger(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_beyond_its_reservation_makes_nobody_go() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let owner = pool(&control, "owner", reserve(2)).await;
    let borrower = pool(&control, "borrower", reserve(1)).await;
    let there = started(&control, &borrower, "there", 6, json!({})).await;
    let mine = made(&control, &owner, "mine", 3, json!({})).await;
    let refused = control
        .workload_start(&admin(), &owner, &mine, StartOptions::default())
        .await
        .unwrap_err();
    assert_eq!(refused.kind, control::ErrorKind::Exhausted);
    assert!(runs(&control, &there));
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_a_pool_is_served_by_priority_and_then_by_age() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let limit = json!({"memory": {"limit": {"absolute": 3 * GIB}}});
    let red = pool(&control, "red", limit).await;
    let there = started(&control, &red, "there", 2, json!({})).await;
    let mut ids = Vec::new();
    for (name, priority) in [("late", 0), ("later", 0), ("important", 5)] {
        let id = made(&control, &red, name, 2, json!({ "priority": priority })).await;
        let queue = StartOptions { queue: true };
        control
            .workload_start(&admin(), &red, &id, queue)
            .await
            .unwrap();
        let hold = get(&control, &id).hold.unwrap();
        assert_eq!(hold.kind, HoldKind::Queued);
        assert!(
            hold.reason.contains("pool red has not enough memory left"),
            "{}",
            hold.reason
        );
        ids.push(id);
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep: the paused clock goes on by it
    }
    let mut running = there;
    for next in [&ids[2], &ids[0], &ids[1]] {
        control
            .workload_stop(&admin(), &red, &running, StopOptions::default())
            .await
            .unwrap();
        until(&control, "the next one runs", |control| runs(control, next)).await;
        let others = ids
            .iter()
            .filter(|id| *id != next && runs(&control, id))
            .count();
        assert_eq!(others, 0, "the limit is for one at a time");
        running = next.clone();
    }
    // Who stops something that waits takes it out of the queue.
    let id = made(&control, &red, "given-up", 2, json!({})).await;
    let queue = StartOptions { queue: true };
    control
        .workload_start(&admin(), &red, &id, queue)
        .await
        .unwrap();
    control
        .workload_stop(&admin(), &red, &id, StopOptions::default())
        .await
        .unwrap();
    let row = get(&control, &id);
    assert!(
        row.hold.is_none() && matches!(row.desired, DesiredState::Stopped { .. }),
        "{row:?}"
    );
}

/// Says what a pool's only workload works with on the host, in GiB.
async fn measures(host: &RawHost, control: &Control, all: &[(&PoolId, &WorkloadId, u64)]) {
    let usage: BTreeMap<PoolId, PoolUsage> = all
        .iter()
        .map(|(pool, id, gib)| {
            let bytes = MemoryBytes(gib * GIB);
            let usage = PoolUsage {
                memory_used: bytes,
                memory_working_set: bytes,
                heaviest: BTreeMap::from([((*id).clone(), bytes)]),
                ..PoolUsage::default()
            };
            ((*pool).clone(), usage)
        })
        .collect();
    host.say(FromHost::Pools { applied: 0, usage }).await;
    control.keep_placed_once().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_host_over_its_line_parks_who_is_beyond_its_part() {
    let control = Control::for_tests().await.unwrap();
    let host = control.raw_host("h1").await.unwrap();
    let owner = pool(&control, "owner", reserve(4)).await;
    let borrower = pool(&control, "borrower", json!({})).await;
    let mut ids = Vec::new();
    for (pool, name) in [(&owner, "mine"), (&borrower, "hog")] {
        let id = made(&control, pool, name, 1, json!({})).await;
        let mut row = get(&control, &id);
        row.desired = DesiredState::Running;
        row.run = 1;
        row.host = Some(host.session.host.clone());
        row.status.phase = Phase::Running;
        row.status.run = 1;
        control
            .store()
            .commit(Transaction::new().put(Object::Workload(row)))
            .await
            .unwrap();
        ids.push(id);
    }
    let (mine, hog) = (&ids[0], &ids[1]);
    let part = |gib: u64| HostPool {
        memory_high: Some(MemoryBytes(gib * GIB)),
        ..HostPool::default()
    };
    let division = Division {
        host: host.session.host.clone(),
        pools: BTreeMap::from([(owner.clone(), part(4)), (borrower.clone(), part(3))]),
        unconfirmed: BTreeMap::new(),
    };
    control
        .store()
        .commit(Transaction::new().put(Object::Division(division)))
        .await
        .unwrap();
    let pause = Duration::from_millis(2100);
    measures(&host, &control, &[(&owner, mine, 1), (&borrower, hog, 6)]).await;
    tokio::time::sleep(pause).await; // tidy: sleep: the paused clock goes on by it
    measures(&host, &control, &[(&owner, mine, 1), (&borrower, hog, 6)]).await;
    assert!(
        get(&control, hog).hold.is_none(),
        "the host is not over its line"
    );
    measures(&host, &control, &[(&owner, mine, 3), (&borrower, hog, 6)]).await;
    assert!(get(&control, hog).hold.is_none(), "squeezed first");
    tokio::time::sleep(pause).await; // tidy: sleep: the paused clock goes on by it
    measures(&host, &control, &[(&owner, mine, 3), (&borrower, hog, 6)]).await;
    let hold = get(&control, hog).hold.unwrap();
    assert_eq!((hold.kind, hold.grace_seconds), (HoldKind::Parked, 5));
    assert!(
        hold.reason.contains("memory of host h1 is needed by owner"),
        "{}",
        hold.reason
    );
    assert!(get(&control, mine).hold.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_foretold_of_a_lost_host_is_what_happens() {
    let control = Control::for_tests().await.unwrap();
    let mut all = hosts(&control, 3).await;
    tokio::time::sleep(Duration::from_secs(60)).await; // tidy: sleep: the paused clock goes on by it
    let red = pool(&control, "red", json!({})).await;
    let mut ids = Vec::new();
    // 15 of 22.8 GiB, two to a host at most: without one host, not all find room.
    for number in 0..5 {
        ids.push(started(&control, &red, &format!("w{number}"), 3, always()).await);
    }
    let first = get(&control, &ids[0]);
    let name = host_name(&control, &first);
    let before: Vec<Workload> = ids.iter().map(|id| get(&control, id)).collect();
    let assumption = Assumption::WithoutHost {
        host: name.clone(),
        drained: false,
    };
    let foretold = control.what_if(&admin(), &assumption).unwrap();
    let after: Vec<Workload> = ids.iter().map(|id| get(&control, id)).collect();
    assert_eq!(before, after, "asking changes nothing");
    assert!(!foretold.placed.is_empty(), "{foretold:?}");
    let lost = cut(&control, &mut all, &ids[0]).await;
    assert_eq!(lost, name);
    let moved = |control: &Control| -> Vec<String> {
        let rows = ids.iter().map(|id| get(control, id));
        rows.filter(|row| !row.left.is_empty())
            .map(|row| row.name.to_string())
            .collect()
    };
    until(&control, "as many move as was foretold", |control| {
        moved(control).len() == foretold.placed.len()
    })
    .await;
    let mut names: Vec<String> = foretold.placed.iter().map(|it| it.name.clone()).collect();
    names.sort();
    assert_eq!(moved(&control), names);
    // And no more, however long one waits.
    for _ in 0..30 {
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await; // tidy: sleep: the paused clock goes on by it
    }
    assert_eq!(moved(&control), names);
}

#[tokio::test(start_paused = true)]
async fn what_was_foretold_of_more_workloads_is_what_happens() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let owner = pool(&control, "owner", reserve(4)).await;
    let borrower = pool(&control, "borrower", json!({})).await;
    started(&control, &borrower, "hog", 5, json!({})).await;
    let like = made(&control, &owner, "web", 2, json!({})).await;
    let assumption = Assumption::Add {
        count: 4,
        pool: owner.clone(),
        like: like.clone(),
    };
    let foretold = control.what_if(&admin(), &assumption).unwrap();
    let names = |fates: &[Fate]| fates.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&foretold.placed), ["web+1", "web+2", "web+3"]);
    assert_eq!(names(&foretold.parked), ["hog"]);
    assert_eq!(
        names(&foretold.refused),
        ["web+4"],
        "beyond what is reserved it parks nobody"
    );
    // A member sees that others make room, not who they are.
    let member = Caller::endpoint("member".into(), owner.clone());
    let seen = control.what_if(&member, &assumption).unwrap();
    assert_eq!(
        (names(&seen.parked), seen.parked[0].pool.as_str()),
        (vec![String::new()], "")
    );
    let host = Assumption::WithoutHost {
        host: "h1".into(),
        drained: false,
    };
    assert!(control.what_if(&member, &host).is_err());
    let mut running = Vec::new();
    for number in 0..4 {
        let id = made(&control, &owner, &format!("real{number}"), 2, json!({})).await;
        let starting = {
            let (control, owner, id) = (control.clone(), owner.clone(), id.clone());
            tokio::spawn(async move {
                let options = StartOptions::default();
                control.workload_start(&admin(), &owner, &id, options).await
            })
        };
        for _ in 0..100 {
            control.keep_placed_once().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await; // tidy: sleep: the paused clock goes on by it
        }
        running.push(starting.await.unwrap().is_ok());
    }
    assert_eq!(running, [true, true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_limit_is_shown_before_it_is_set() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let red = pool(&control, "red", json!({})).await;
    started(&control, &red, "web", 3, json!({})).await;
    let limit = |gib: u64| Assumption::Pool {
        pool: "red".into(),
        slice: Box::new(
            serde_json::from_value(json!({"memory": {"limit": {"absolute": gib * GIB}}})).unwrap(),
        ),
    };
    assert!(control.what_if(&admin(), &limit(4)).unwrap().is_fine());
    let outcome = control.what_if(&admin(), &limit(2)).unwrap();
    assert_eq!(outcome.lines.len(), 1);
    let line = &outcome.lines[0];
    assert_eq!(
        (line.pool.as_str(), line.what, line.amount),
        ("red", LineKind::AboveLimit, GIB)
    );
}

/// A specification that prefers a host.
fn near(host: &str, mut more: Value) -> Value {
    let rule = Rule::parse(&format!("node==~{host}")).unwrap();
    more["placement"]["hosts"] = json!([rule.about_hosts()]);
    more
}

async fn hold(control: &Control, id: &WorkloadId, kind: HoldKind) {
    let edit = |workload: &mut Workload| {
        workload.hold = Some(Hold {
            kind: kind.clone(),
            reason: "for a test".into(),
            since: control::now(),
            not_before: control::now(),
            grace_seconds: 1,
        });
    };
    control.test_workload_edit(id, edit).await.unwrap();
}

/// Begins a start that has to wait for others.
fn starting(
    control: &Control,
    pool: &PoolId,
    id: &WorkloadId,
) -> tokio::task::JoinHandle<Result<(), control::Error>> {
    let (control, pool, id) = (control.clone(), pool.clone(), id.clone());
    tokio::spawn(async move {
        let options = StartOptions::default();
        let started = control.workload_start(&admin(), &pool, &id, options).await;
        started.map(drop)
    })
}

#[tokio::test(start_paused = true)]
async fn a_workload_between_two_hosts_keeps_its_pools_room() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 2).await;
    let limit = json!({"memory": {"limit": {"absolute": 3 * GIB}}});
    let red = pool(&control, "red", limit).await;
    let moves = started(&control, &red, "moves", 2, always()).await;
    let other = made(&control, &red, "other", 2, json!({})).await;
    let from = get(&control, &moves).host;
    hold(&control, &moves, HoldKind::Moving).await;
    while get(&control, &moves).may_be_alive() {
        tokio::time::sleep(Duration::from_millis(10)).await; // tidy: sleep: pause of a poll loop
    }
    let refused = control
        .workload_start(&admin(), &red, &other, StartOptions::default())
        .await
        .unwrap_err();
    assert!(
        refused.message.contains("pool red has not enough memory"),
        "{}",
        refused.message
    );
    until(&control, "it arrives", |control| runs(control, &moves)).await;
    assert_ne!(get(&control, &moves).host, from);
    assert_eq!(control.audit_ledger(), 0);
}

/// Two hosts that replicas of a borrower fill so far that an owner's start needs one of their places; what becomes of
/// the one that goes.
async fn victim_of_two(edit: impl Fn(&mut Workload)) -> HoldKind {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 2).await;
    let owner = pool(&control, "owner", reserve(5)).await;
    let borrower = pool(&control, "borrower", json!({})).await;
    let replica = json!({"placement": {"spread": "r"}, "restart": {"policy": "always"}});
    let mut replicas = Vec::new();
    for name in ["r1", "r2"] {
        replicas.push(started(&control, &borrower, name, 3, replica.clone()).await);
        let filler = json!({"placement": {"spread": "f"}});
        started(&control, &borrower, &format!("f-{name}"), 1, filler).await;
    }
    for id in &replicas {
        control.test_workload_edit(id, &edit).await.unwrap();
    }
    let mine = made(&control, &owner, "mine", 5, json!({})).await;
    let starting = starting(&control, &owner, &mine);
    let held = |control: &Control| replicas.iter().find_map(|id| get(control, id).hold);
    while held(&control).is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await; // tidy: sleep: pause of a poll loop
    }
    let kind = held(&control).unwrap().kind;
    until(&control, "the owner runs", |control| runs(control, &mine)).await;
    starting.await.unwrap().unwrap();
    kind
}

#[tokio::test(start_paused = true)]
async fn who_was_moved_just_before_is_parked_instead_of_being_moved_again() {
    assert_eq!(victim_of_two(|_| {}).await, HoldKind::Moving);
    let moved = |workload: &mut Workload| workload.displaced.moved_at = Some(control::now());
    assert_eq!(victim_of_two(moved).await, HoldKind::Parked);
}

#[tokio::test(start_paused = true)]
async fn a_borrower_is_parked_if_its_pools_room_is_needed_and_not_only_its_hosts() {
    let control = Control::for_tests().await.unwrap();
    let all = hosts(&control, 2).await;
    // More may be placed there than counts for pools.
    control
        .test_host_edit(&all[1].id, |host| host.overcommit.memory_percent = 300)
        .await
        .unwrap();
    let owner = pool(&control, "owner", reserve(5)).await;
    let borrower = pool(&control, "borrower", json!({})).await;
    let replica = json!({"placement": {"spread": "r"}, "restart": {"policy": "always"}});
    let mut replicas = Vec::new();
    for name in ["h1", "h2"] {
        let near = near(name, replica.clone());
        replicas.push(started(&control, &borrower, name, 6, near).await);
    }
    let rule = Rule::parse("node==h1").unwrap().about_hosts();
    let here = json!({ "placement": { "hosts": [rule] } });
    let mine = made(&control, &owner, "mine", 5, here).await;
    let starting = starting(&control, &owner, &mine);
    until(&control, "the owner runs", |control| runs(control, &mine)).await;
    starting.await.unwrap().unwrap();
    let hold = get(&control, &replicas[0]).hold.unwrap();
    assert_eq!(hold.kind, HoldKind::Parked);
    assert_eq!(control.audit_ledger(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_a_host_first_is_said_by_its_priority_or_its_pools() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 2).await;
    let red = pool(&control, "red", json!({})).await;
    let gold = pool(&control, "gold", json!({"priority": 5})).await;
    let near = |more| near("h1", more);
    let mut plain = Vec::new();
    for number in 0..5 {
        plain.push(started(&control, &red, &format!("w{number}"), 1, near(always())).await);
    }
    let golden = started(&control, &gold, "golden", 1, near(always())).await;
    let own = json!({"restart": {"policy": "always"}, "priority": 9});
    let own = started(&control, &red, "own", 1, near(own)).await;
    let options = DrainOptions::default();
    control.host_drain(&admin(), "h1", options).await.unwrap();
    control.keep_placed_once().await.unwrap();
    let leaves = |id: &WorkloadId| get(&control, id).hold.is_some();
    assert!(leaves(&own) && leaves(&golden));
    assert!(leaves(&plain[0]) && leaves(&plain[1]), "then the older");
    assert!(!plain[2..].iter().any(leaves), "four at once");
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_comes_to_be_inside_a_reservation_makes_borrowers_go() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let owner = pool(&control, "owner", json!({})).await;
    let borrower = pool(&control, "borrower", json!({})).await;
    let hog = started(&control, &borrower, "hog", 6, json!({})).await;
    let mine = made(&control, &owner, "mine", 3, json!({})).await;
    let queue = StartOptions { queue: true };
    let queued = control.workload_start(&admin(), &owner, &mine, queue).await;
    queued.unwrap();
    for _ in 0..20 {
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await; // tidy: sleep: the paused clock goes on by it
    }
    assert!(runs(&control, &hog), "nothing is reserved");
    let update = PoolUpdate {
        slice: Some(serde_json::from_value(reserve(4)).unwrap()),
        ..PoolUpdate::default()
    };
    control
        .pool_update(&admin(), "owner", update)
        .await
        .unwrap();
    until(&control, "it runs", |control| runs(control, &mine)).await;
    assert_eq!(get(&control, &hog).hold.unwrap().kind, HoldKind::Parked);
    assert_eq!(control.audit_ledger(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_inside_a_reservation_makes_borrowers_go_elsewhere() {
    let control = Control::for_tests().await.unwrap();
    let mut all = hosts(&control, 2).await;
    tokio::time::sleep(Duration::from_secs(60)).await; // tidy: sleep: the paused clock goes on by it
    let owner = pool(&control, "owner", reserve(4)).await;
    let borrower = pool(&control, "borrower", json!({})).await;
    let mine = started(&control, &owner, "mine", 3, near("h1", always())).await;
    let hog = started(&control, &borrower, "hog", 6, near("h2", json!({}))).await;
    assert_eq!(cut(&control, &mut all, &mine).await, "h1");
    until(&control, "it runs elsewhere", |control| {
        runs(control, &mine) && host_name(control, &get(control, &mine)) == "h2"
    })
    .await;
    let row = get(&control, &mine);
    assert_eq!(row.run, 2);
    let why = row.placement.unwrap();
    assert!(why.contains("hog of pool borrower make room"), "{why}");
    assert_eq!(get(&control, &hog).hold.unwrap().kind, HoldKind::Parked);
    assert_eq!(control.audit_ledger(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_foretold_of_a_drain_is_what_happens() {
    let control = Control::for_tests().await.unwrap();
    let all = hosts(&control, 3).await;
    let red = pool(&control, "red", json!({})).await;
    let gold = pool(&control, "gold", json!({"priority": 1})).await;
    // 0.6 GiB are free on h2, 2.6 on h3.
    for (name, gib) in [("h2", 7), ("h3", 5)] {
        started(&control, &red, name, gib, near(name, json!({}))).await;
    }
    started(&control, &red, "waits", 2, near("h1", always())).await;
    started(&control, &gold, "moves", 2, near("h1", always())).await;
    started(&control, &red, "stays", 1, near("h1", json!({}))).await;
    let outlook = control.host_outlook(&admin(), "h1", false).unwrap();
    let fates: BTreeMap<String, Outlook> = outlook
        .workloads
        .into_iter()
        .map(|it| (it.workload.name.to_string(), it.outlook))
        .collect();
    assert_eq!(fates["moves"], Outlook::Moves(all[2].id.clone()));
    assert!(matches!(fates["waits"], Outlook::Waits(_)), "{fates:?}");
    assert!(matches!(fates["stays"], Outlook::Stays(_)), "{fates:?}");
    let options = DrainOptions::default();
    control.host_drain(&admin(), "h1", options).await.unwrap();
    let by_name = |control: &Control, name: &str| {
        let snapshot = control.snapshot();
        let row = snapshot.workloads().find(|row| row.name.as_str() == name);
        row.unwrap().value().clone()
    };
    until(&control, "it moved", |control| {
        host_name(control, &by_name(control, "moves")) == "h3"
    })
    .await;
    for _ in 0..30 {
        control.keep_placed_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await; // tidy: sleep: the paused clock goes on by it
    }
    assert!(runs(&control, &by_name(&control, "moves").id));
    for name in ["waits", "stays"] {
        let row = by_name(&control, name);
        assert_eq!((host_name(&control, &row).as_str(), row.run), ("h1", 1));
        assert!(runs(&control, &row.id), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_servers_write_nothing_while_there_is_no_room_for_what_waits() {
    let one = Control::for_tests().await.unwrap();
    let config = ControlConfig {
        address: "127.0.0.1:7441".into(),
    };
    let other = Control::open(one.store().clone(), config).await.unwrap();
    let _all = hosts(&one, 1).await;
    let limit = json!({"memory": {"limit": {"absolute": 3 * GIB}}});
    let red = pool(&one, "red", limit).await;
    let there = started(&one, &red, "there", 2, json!({})).await;
    let waits = made(&other, &red, "waits", 2, json!({})).await;
    let queue = StartOptions { queue: true };
    other
        .workload_start(&admin(), &red, &waits, queue)
        .await
        .unwrap();
    let look = || async {
        for control in [&one, &other] {
            control.keep_placed_once().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep: the paused clock goes on by it
    };
    look().await;
    let before = one.snapshot().revision;
    for _ in 0..5 {
        look().await;
    }
    assert_eq!(one.snapshot().revision, before);
    one.workload_stop(&admin(), &red, &there, StopOptions::default())
        .await
        .unwrap();
    until(&one, "it runs", |control| runs(control, &waits)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_removed_when_it_ends_is_removed_when_it_is_stopped_while_it_waits() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let red = pool(&control, "red", json!({})).await;
    let id = started(&control, &red, "once", 1, json!({"auto_remove": true})).await;
    until(&control, "it runs", |control| runs(control, &id)).await;
    let mut parked = get(&control, &id);
    parked.hold = Some(model::Hold {
        kind: HoldKind::Parked,
        reason: "a test".into(),
        since: control::now(),
        not_before: control::now().plus_millis(3_600_000),
        grace_seconds: 1,
    });
    let tx = Transaction::new().put(Object::Workload(parked));
    control.store().commit(tx).await.unwrap();
    until(&control, "it has ended", |control| {
        get(control, &id).status.phase == Phase::Exited
    })
    .await;
    assert!(get(&control, &id).hold.is_some(), "it starts again");
    control
        .workload_stop(&admin(), &red, &id, StopOptions::default())
        .await
        .unwrap();
    until(&control, "it is removed", |control| {
        control.snapshot().workload(&id).is_none()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_is_forgotten_with_its_host_is_told_so() {
    let control = Control::for_tests().await.unwrap();
    let _all = hosts(&control, 1).await;
    let red = pool(&control, "red", json!({})).await;
    let id = started(&control, &red, "web", 1, json!({})).await;
    until(&control, "it runs", |control| runs(control, &id)).await;
    let condition = control::workloads::WaitCondition::NotRunning;
    let wait = control
        .workload_wait_begin(&admin(), &red, &id, condition)
        .unwrap();
    let host = host_name(&control, &get(&control, &id));
    control.host_remove(&admin(), &host, true).await.unwrap();
    let outcome = wait.await.unwrap();
    assert_eq!(outcome.exit_code, 255);
    assert!(outcome.error.unwrap().contains("removed"));
}
