//! Networks of pools, and addresses of workloads on them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use control::workloads::{RemoveOptions, StopOptions};
use control::{Caller, Control, ErrorKind};
use model::{EndpointSpec, Name, PoolId, Workload, WorkloadId, WorkloadSpec};
use plan::network::NewNetwork;

struct World {
    control: Control,
    caller: Caller,
    pool: PoolId,
    image: model::ImageId,
    _host: control::testing::TestHost,
}

async fn world() -> World {
    let control = Control::for_tests().await.unwrap();
    let host = control.test_host("h1").await.unwrap();
    let pool = control.test_pool("red").await.unwrap();
    let image = control.test_image(&pool, "web").await.unwrap();
    World {
        control,
        caller: Caller::local_admin(),
        pool,
        image,
        _host: host,
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

impl World {
    async fn network(&self, called: &str, subnet: &str) -> control::Result<()> {
        let new = NewNetwork {
            subnet: Some(subnet.parse().unwrap()),
            ..NewNetwork::default()
        };
        let made = self
            .control
            .network_create(&self.caller, &self.pool, name(called), new);
        made.await.map(drop)
    }

    async fn create(&self, networks: Vec<EndpointSpec>) -> control::Result<WorkloadId> {
        let spec = serde_json::json!({
            "networks": networks,
            "task": { "image": "web", "image_id": self.image, "args": ["sleep"] },
        });
        let spec: WorkloadSpec = serde_json::from_value(spec).unwrap();
        let made = self
            .control
            .workload_create(&self.caller, &self.pool, None, spec);
        made.await.map(|workload| workload.id.clone())
    }

    async fn start(&self, id: &WorkloadId) -> control::Result<()> {
        let started = self
            .control
            .workload_start(&self.caller, &self.pool, id, Default::default());
        started.await.map(drop)
    }

    fn workload(&self, id: &WorkloadId) -> Workload {
        self.control
            .snapshot()
            .workload(id)
            .unwrap()
            .value()
            .clone()
    }

    fn address(&self, id: &WorkloadId) -> Ipv4Addr {
        self.workload(id).endpoints[0].address.unwrap()
    }

    async fn remove(&self, id: &WorkloadId) {
        let options = RemoveOptions {
            force: true,
            ..RemoveOptions::default()
        };
        self.control
            .workload_remove(&self.caller, &self.pool, id, options)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_pool_has_a_default_network_from_its_beginning_to_its_end() {
    let w = world().await;
    let list = w.control.network_list(&w.caller, &w.pool).unwrap();
    assert_eq!(list.len(), 1);
    assert!(list[0].is_default());
    let other = w.control.test_pool("blue").await.unwrap();
    let others = w.control.network_list(&w.caller, &other).unwrap();
    assert_eq!(others[0].subnet, list[0].subnet, "pools may overlap");
    assert_ne!(others[0].vni, list[0].vni);
    let refused = w.control.network_remove(&w.caller, &other, "default").await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Forbidden);
    let missing = w
        .control
        .network_find(&w.caller, &other, list[0].id.as_str());
    assert_eq!(
        missing.unwrap_err().kind,
        ErrorKind::NotFound,
        "another pool's network is not there"
    );
    w.control.pool_delete(&w.caller, "blue").await.unwrap();
    assert_eq!(w.control.snapshot().networks().count(), 1);
}

#[tokio::test]
async fn workloads_that_start_at_once_get_different_addresses_and_keep_them() {
    let w = world().await;
    let mut ids = Vec::new();
    for _ in 0..16 {
        ids.push(w.create(Vec::new()).await.unwrap());
    }
    let started = futures::future::join_all(ids.iter().map(|id| w.start(id))).await;
    assert!(started.iter().all(Result::is_ok), "{started:?}");
    let addresses: BTreeSet<Ipv4Addr> = ids.iter().map(|id| w.address(id)).collect();
    assert_eq!(addresses.len(), ids.len());
    assert!(
        !addresses.contains(&Ipv4Addr::new(172, 17, 0, 1)),
        "the gateway's"
    );
    let before = w.address(&ids[3]);
    let stopped = w
        .control
        .workload_stop(&w.caller, &w.pool, &ids[3], StopOptions::default());
    stopped.await.unwrap();
    w.start(&ids[3]).await.unwrap();
    assert_eq!(w.address(&ids[3]), before);
    w.remove(&ids[3]).await;
    let next = w.create(Vec::new()).await.unwrap();
    w.start(&next).await.unwrap();
    assert!(
        !addresses.contains(&w.address(&next)),
        "what was given back rests"
    );
}

#[tokio::test]
async fn an_address_that_is_asked_for_is_had_by_one_only() {
    let w = world().await;
    w.network("web", "10.5.0.0/24").await.unwrap();
    let wish = |address: &str| {
        vec![EndpointSpec {
            address: Some(address.parse().unwrap()),
            ..EndpointSpec::on("web")
        }]
    };
    for bad in ["10.5.0.0", "10.5.0.1", "10.5.0.255", "10.6.0.7"] {
        let refused = w.create(wish(bad)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid, "{bad}: {refused:?}");
    }
    let (a, b) = (
        w.create(wish("10.5.0.7")).await.unwrap(),
        w.create(wish("10.5.0.7")).await.unwrap(),
    );
    let (first, second) = futures::join!(w.start(&a), w.start(&b));
    let refused = [first, second].into_iter().find_map(Result::err).unwrap();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused:?}");
    assert!(refused.message.contains("10.5.0.7"), "{refused:?}");
}

#[tokio::test]
async fn a_network_ends_when_nobody_that_runs_is_on_it() {
    let w = world().await;
    w.network("web", "10.5.0.0/24").await.unwrap();
    assert_eq!(
        w.network("web", "10.6.0.0/24").await.unwrap_err().kind,
        ErrorKind::Conflict
    );
    assert_eq!(
        w.network("other", "10.5.0.128/25").await.unwrap_err().kind,
        ErrorKind::Invalid
    );
    let id = w.create(vec![EndpointSpec::on("web")]).await.unwrap();
    w.start(&id).await.unwrap();
    let refused = w.control.network_remove(&w.caller, &w.pool, "web").await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Forbidden);
    let options = StopOptions::default();
    w.control
        .workload_stop(&w.caller, &w.pool, &id, options)
        .await
        .unwrap();
    w.control
        .network_remove(&w.caller, &w.pool, "web")
        .await
        .unwrap();
    let refused = w.start(&id).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound, "{refused:?}");
}

#[tokio::test]
async fn a_running_workload_comes_to_networks_and_leaves_them() {
    let w = world().await;
    w.network("web", "10.5.0.0/24").await.unwrap();
    let id = w.create(Vec::new()).await.unwrap();
    w.start(&id).await.unwrap();
    let connect = |wish: EndpointSpec| w.control.network_connect(&w.caller, &w.pool, &id, wish);
    connect(EndpointSpec::on("web")).await.unwrap();
    assert_eq!(
        w.workload(&id).endpoints[1].address,
        Some(Ipv4Addr::new(10, 5, 0, 2))
    );
    let again = connect(EndpointSpec::on("web")).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Forbidden);
    let disconnect = |from| w.control.network_disconnect(&w.caller, &w.pool, &id, from);
    disconnect("web").await.unwrap();
    assert_eq!(
        disconnect("web").await.unwrap_err().kind,
        ErrorKind::Forbidden
    );
    disconnect("default").await.unwrap();
    assert!(w.workload(&id).endpoints.is_empty());
    connect(EndpointSpec::on("web")).await.unwrap();
    assert_eq!(w.workload(&id).endpoints.len(), 1);
    assert_eq!(
        w.control
            .network_prune(&w.caller, &w.pool, |_| true)
            .await
            .unwrap(),
        Vec::<Name>::new()
    );
    w.remove(&id).await;
}
