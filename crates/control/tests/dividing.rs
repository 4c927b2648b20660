//! Pools are divided among hosts by what the hosts measure, and a limit follows only what they confirm.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use control::pools::PoolCreate;
use control::testing::RawHost;
use control::{Caller, Control};
use model::{
    CpuMillis, DesiredState, HostId, HostPool, MemoryBytes, Name, Object, Phase, Pool, PoolId,
    PoolUsage, WorkloadId, WorkloadSpec,
};
use store::Transaction;
use wire::link::{FromHost, ToHost};

struct World {
    control: Control,
    pool: PoolId,
    hosts: Vec<RawHost>,
}

/// A pool with a limit of three cores, and a running workload of it on each of two hosts.
async fn world() -> World {
    let control = Control::for_tests().await.unwrap();
    let hosts = vec![
        control.raw_host("h1").await.unwrap(),
        control.raw_host("h2").await.unwrap(),
    ];
    let create = PoolCreate {
        name: Name::parse("red").unwrap(),
        parent: None,
        description: String::new(),
        labels: BTreeMap::new(),
        policy: model::PoolPolicy::default(),
        slice: serde_json::from_value(serde_json::json!({"cpu": {"limit": {"absolute": 3000}}}))
            .unwrap(),
    };
    let admin = Caller::local_admin();
    let pool = control.pool_create(&admin, create).await.unwrap();
    let pool = Pool::clone(&pool).id;
    control.test_image(&pool, "web").await.unwrap();
    let world = World {
        control,
        pool,
        hosts,
    };
    for at in 0..2 {
        world.place(at, Phase::Running).await;
    }
    world
}

impl World {
    /// A workload that asks for a core is on a host and begins there, or runs.
    async fn place(&self, at: usize, phase: Phase) -> WorkloadId {
        let control = &self.control;
        let image = control.snapshot().images().next().unwrap().id.clone();
        let spec: WorkloadSpec = serde_json::from_value(serde_json::json!({
            "task": {
                "image": "web", "image_id": image, "args": ["server"],
                "resources": {"request": {"cpu_millis": 1000}},
            }
        }))
        .unwrap();
        let name = Some(Name::parse(&format!("w{at}")).unwrap());
        let made = control
            .workload_create(&Caller::local_admin(), &self.pool, name, spec)
            .await
            .unwrap();
        let mut workload = model::Workload::clone(&made);
        workload.desired = DesiredState::Running;
        workload.run = 1;
        workload.host = Some(self.host(at).clone());
        workload.status.phase = phase;
        workload.status.run = u64::from(phase.is_alive());
        let id = workload.id.clone();
        let tx = Transaction::new().put(Object::Workload(workload));
        control.store().commit(tx).await.unwrap();
        id
    }

    fn host(&self, at: usize) -> &HostId {
        &self.hosts[at].session.host
    }

    fn cpu(&self, at: usize) -> u64 {
        let snapshot = self.control.snapshot();
        let division = snapshot.division(self.host(at)).unwrap();
        division.pools[&self.pool].cpu_limit.unwrap().0
    }

    /// The host says what its pool wants, and that the newest division is in force or not.
    async fn says(&self, at: usize, cpu: u64, confirms: bool) {
        let revision = self
            .control
            .snapshot()
            .division(self.host(at))
            .map_or(0, |division| division.revision().0);
        let before = self
            .control
            .host_measures()
            .get(self.host(at))
            .map_or(0, |measure| measure.applied);
        let usage = PoolUsage {
            cpu_used: CpuMillis(cpu),
            cpu_demand: CpuMillis(cpu),
            memory_working_set: MemoryBytes(64 << 20),
            ..PoolUsage::default()
        };
        let message = FromHost::Pools {
            applied: if confirms { revision } else { before },
            usage: BTreeMap::from([(self.pool.clone(), usage)]),
        };
        self.hosts[at].say(message).await;
    }
}

#[tokio::test]
async fn a_limit_goes_where_the_demand_is_and_only_after_the_others_gave_it_up() {
    let mut world = world().await;
    world.says(0, 2000, true).await;
    world.says(1, 2000, true).await;
    assert_eq!(world.control.divide_once().await.unwrap(), 2);
    assert_eq!((world.cpu(0), world.cpu(1)), (1500, 1500));
    // The hosts are told in their documents.
    let part = loop {
        match world.hosts[0].outgoing.recv().await.unwrap() {
            ToHost::Desired(update) if update.pools.as_ref().is_some_and(|p| !p.is_empty()) => {
                break update.pools.unwrap()[&world.pool].clone();
            }
            ToHost::Desired(_) | ToHost::Welcome { .. } | ToHost::Heartbeat { .. } => {}
            ToHost::OpenStream { .. } => unreachable!(),
        }
    };
    let expected = HostPool {
        cpu_limit: Some(CpuMillis(1500)),
        ..part.clone()
    };
    assert_eq!(part, expected);
    for at in 0..2 {
        world.says(at, 2000, true).await;
    }
    assert_eq!(
        world.control.divide_once().await.unwrap(),
        0,
        "steady demand is silence"
    );
    // The first is idle now: it gives up at once, the second grows when that is in force.
    world.says(0, 50, true).await;
    world.control.divide_once().await.unwrap();
    let small = world.cpu(0);
    assert!(small < 1000, "{small}");
    assert_eq!(world.cpu(1), 1500);
    world.says(0, 50, false).await;
    world.control.divide_once().await.unwrap();
    assert_eq!(world.cpu(1), 1500);
    world.says(0, 50, true).await;
    world.control.divide_once().await.unwrap();
    assert_eq!(world.cpu(0) + world.cpu(1), 3000);
    // A host that is gone keeps its part: what runs there goes on.
    let last = world.cpu(1);
    let gone = world.hosts.pop().unwrap();
    let id = gone.session.host.clone();
    drop(gone);
    world.says(0, 3000, true).await;
    world.control.divide_once().await.unwrap();
    let snapshot = world.control.snapshot();
    let kept = snapshot.division(&id).unwrap().pools[&world.pool].cpu_limit;
    assert_eq!(kept, Some(CpuMillis(last)));
    assert!(world.cpu(0) + last <= 3000);
}

#[tokio::test]
async fn what_begins_where_its_pool_has_nothing_waits_until_others_have_given_something_up() {
    let mut world = world().await;
    for at in 0..2 {
        world.says(at, 2000, true).await;
    }
    world.control.divide_once().await.unwrap();
    let third = world.control.raw_host("h3").await.unwrap();
    world.hosts.push(third);
    let begins = world.place(2, Phase::Pending).await;
    let told = loop {
        match world.hosts[2].outgoing.recv().await.unwrap() {
            ToHost::Desired(mut update) => {
                if let Some(told) = update.upsert.remove(&begins) {
                    break told;
                }
            }
            ToHost::Welcome { .. } | ToHost::Heartbeat { .. } => {}
            ToHost::OpenStream { .. } => unreachable!(),
        }
    };
    assert!(told.bounded);
    for at in 0..2 {
        world.says(at, 2000, true).await;
    }
    world.control.divide_once().await.unwrap();
    let left = world.cpu(0) + world.cpu(1);
    assert_eq!((world.cpu(2), left < 2500), (0, true), "{left}");
    world.says(0, 2000, true).await;
    world.control.divide_once().await.unwrap();
    assert!(world.cpu(2) == 0 || world.cpu(2) + world.cpu(0) + 1500 <= 3000);
    for (at, demand) in [2000, 2000, 0].into_iter().enumerate() {
        world.says(at, demand, true).await;
    }
    world.control.divide_once().await.unwrap();
    assert!(world.cpu(2) > 0);
    assert!(world.cpu(0) + world.cpu(1) + world.cpu(2) <= 3000);
}

#[tokio::test]
async fn what_was_stopped_keeps_its_part_until_its_host_says_that_it_ended() {
    let world = world().await;
    for _ in 0..2 {
        for at in 0..2 {
            world.says(at, 2000, true).await;
        }
        world.control.divide_once().await.unwrap();
    }
    let change = async |change: &dyn Fn(&mut model::Workload)| {
        let snapshot = world.control.snapshot();
        let mut on = snapshot.workloads_on(world.host(0));
        let mut workload = on.next().unwrap().value().clone();
        change(&mut workload);
        let tx = Transaction::new().put(Object::Workload(workload));
        world.control.store().commit(tx).await.unwrap();
    };
    // It was started and stopped, and nothing was heard of it yet.
    change(&|it| {
        it.desired = DesiredState::Stopped {
            grace_seconds: None,
            signal: None,
        };
        it.status.phase = Phase::Pending;
    })
    .await;
    world.says(0, 0, false).await;
    world.control.divide_once().await.unwrap();
    let there = |at: usize| {
        let snapshot = world.control.snapshot();
        let division = snapshot.division(world.host(at)).unwrap();
        division.pools.contains_key(&world.pool)
    };
    assert!(there(0));
    assert_eq!(world.cpu(1), 1500, "it may still have its part");
    change(&|it| it.status.phase = Phase::Exited).await;
    world.control.divide_once().await.unwrap();
    assert!(!there(0));
    world.control.divide_once().await.unwrap();
    assert_eq!(world.cpu(1), 3000);
}

#[tokio::test]
async fn a_host_is_not_believed_to_use_more_than_it_has() {
    let world = world().await;
    world.says(0, u64::MAX, true).await;
    let measures = world.control.host_measures();
    let usage = &measures[world.host(0)].usage[&world.pool];
    assert_eq!(usage.cpu_used, CpuMillis(4000));
    // A pool that is not there is not kept.
    let strange = BTreeMap::from([(PoolId::from_bytes(&[9; 32]), PoolUsage::default())]);
    let message = FromHost::Pools {
        applied: 1,
        usage: strange,
    };
    world.hosts[0].say(message).await;
    assert!(
        world.control.host_measures()[world.host(0)]
            .usage
            .is_empty()
    );
}
