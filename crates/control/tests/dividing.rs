//! Pools are divided among hosts by what the hosts measure, and a limit follows only what they confirm.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use control::pools::PoolCreate;
use control::testing::RawHost;
use control::{Caller, Control};
use model::{
    CpuMillis, DesiredState, HostId, HostPool, MemoryBytes, Name, Object, Phase, Pool, PoolId,
    PoolUsage, WorkloadSpec,
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
    let image = control.test_image(&pool, "web").await.unwrap();
    for (n, host) in hosts.iter().enumerate() {
        let spec: WorkloadSpec = serde_json::from_value(serde_json::json!({
            "task": {"image": "web", "image_id": image, "args": ["server"]}
        }))
        .unwrap();
        let name = Some(Name::parse(&format!("w{n}")).unwrap());
        let made = control
            .workload_create(&admin, &pool, name, spec)
            .await
            .unwrap();
        let mut workload = model::Workload::clone(&made);
        workload.desired = DesiredState::Running;
        workload.run = 1;
        workload.host = Some(host.session.host.clone());
        workload.status.phase = Phase::Running;
        workload.status.run = 1;
        let tx = Transaction::new().put(Object::Workload(workload));
        control.store().commit(tx).await.unwrap();
    }
    World {
        control,
        pool,
        hosts,
    }
}

impl World {
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
