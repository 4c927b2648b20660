//! Pools with a line: admission, delegation, live changes, over-commitment, the audit, and two servers on one store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use control::pools::{PoolCreate, PoolUpdate};
use control::workloads::{RemoveOptions, StartOptions};
use control::{Caller, Control, ControlConfig, ErrorKind};
use model::{
    Binding, Counted, Name, PoolId, Principal, PrincipalId, QuotaKey, Resource, Role, Slice,
    Timestamp, WorkloadId, WorkloadSpec,
};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;
const MEMORY: QuotaKey = QuotaKey::Resource(Resource::Memory);

fn admin() -> Caller {
    Caller::local_admin()
}

fn slice(json: Value) -> Slice {
    serde_json::from_value(json).unwrap()
}

fn limit(gib: u64) -> Value {
    json!({"memory": {"limit": {"absolute": gib * GIB}}})
}

fn reserve(gib: u64) -> Value {
    json!({"memory": {"reservation": {"absolute": gib * GIB}}})
}

async fn pool(
    control: &Control,
    caller: &Caller,
    name: &str,
    parent: Option<&str>,
    wanted: Value,
) -> control::Result<PoolId> {
    let create = PoolCreate {
        name: Name::parse(name).unwrap(),
        parent: parent.map(str::to_owned),
        description: String::new(),
        labels: Default::default(),
        policy: Default::default(),
        slice: slice(wanted),
    };
    Ok(control.pool_create(caller, create).await?.id.clone())
}

async fn update(
    control: &Control,
    caller: &Caller,
    name: &str,
    wanted: Value,
) -> control::Result<()> {
    let update = PoolUpdate {
        slice: Some(slice(wanted)),
        ..PoolUpdate::default()
    };
    control.pool_update(caller, name, update).await.map(drop)
}

/// Two hosts of 4 cores and 8 GiB each.
async fn world() -> (Control, Vec<control::testing::TestHost>) {
    let control = Control::for_tests().await.unwrap();
    let hosts = vec![
        control.test_host("h1").await.unwrap(),
        control.test_host("h2").await.unwrap(),
    ];
    (control, hosts)
}

async fn workload(
    control: &Control,
    pool: &PoolId,
    name: &str,
    gib: u64,
) -> control::Result<WorkloadId> {
    let image = control.test_image(pool, "web").await?;
    let spec: WorkloadSpec = serde_json::from_value(json!({
        "task": {"image": "web", "image_id": image, "args": ["sleep"],
                 "resources": {"request": {"cpu_millis": 10, "memory_bytes": gib * GIB}}}
    }))
    .unwrap();
    let name = Some(Name::parse(name).unwrap());
    let made = control.workload_create(&admin(), pool, name, spec).await?;
    Ok(made.id.clone())
}

async fn started(
    control: &Control,
    pool: &PoolId,
    name: &str,
    gib: u64,
) -> control::Result<WorkloadId> {
    let id = workload(control, pool, name, gib).await?;
    control
        .workload_start(&admin(), pool, &id, Default::default())
        .await?;
    Ok(id)
}

fn used(control: &Control, pool: &PoolId) -> u64 {
    control.pool_standing(&admin(), pool).unwrap().sum[MEMORY] / GIB
}

#[tokio::test]
async fn a_start_beyond_the_limit_of_a_pool_above_is_refused_and_changes_nothing() {
    let (control, _hosts) = world().await;
    let above = pool(&control, &admin(), "above", None, limit(3))
        .await
        .unwrap();
    let below = pool(&control, &admin(), "below", Some("above"), json!({}))
        .await
        .unwrap();
    let first = started(&control, &below, "a", 2).await.unwrap();
    assert_eq!(used(&control, &above), 2);
    let second = workload(&control, &below, "b", 2).await.unwrap();
    let refused = control
        .workload_start(&admin(), &below, &second, Default::default())
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Exhausted);
    assert_eq!(
        refused.message,
        "pool above (above below) has not enough memory left: 2GiB wanted, 2GiB of the limit of 3GiB in use; stop \
         something, ask for less, or ask for a higher limit"
    );
    assert_eq!(used(&control, &above), 2);
    let force = RemoveOptions {
        force: true,
        ..RemoveOptions::default()
    };
    control
        .workload_remove(&admin(), &below, &first, force)
        .await
        .unwrap();
    control
        .workload_start(&admin(), &below, &second, Default::default())
        .await
        .unwrap();
    update(&control, &admin(), "above", limit(4)).await.unwrap();
    started(&control, &below, "c", 2).await.unwrap();
    assert_eq!(used(&control, &above), 4);
    assert_eq!(control.audit_ledger(), 0);
}

#[tokio::test]
async fn counted_quotas_hold_at_creation() {
    let (control, _hosts) = world().await;
    let wanted = json!({"quotas": {"workloads": 1}});
    let red = pool(&control, &admin(), "red", None, wanted).await.unwrap();
    workload(&control, &red, "a", 0).await.unwrap();
    let refused = workload(&control, &red, "b", 0).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Exhausted);
    assert_eq!(
        refused.message,
        "pool red has its quota of 1 workloads used up: 1 in use, 1 more wanted; remove some, or ask for a higher quota"
    );
    let standing = control.pool_standing(&admin(), &red).unwrap();
    assert_eq!(standing.sum[QuotaKey::Counted(Counted::Workloads)], 1);
}

#[tokio::test]
async fn gpus_are_charged_while_a_workload_takes_room() {
    let (control, hosts) = world().await;
    control
        .test_host_edit(&hosts[0].id, |host| {
            host.status.facts.gpus = (0..2)
                .map(|index| model::placement::Gpu {
                    index,
                    uuid: format!("GPU-{index}"),
                    model: "T4".into(),
                    ..Default::default()
                })
                .collect();
        })
        .await
        .unwrap();
    let wanted = json!({"quotas": {"gpus": 1500}});
    let red = pool(&control, &admin(), "red", None, wanted).await.unwrap();
    let image = control.test_image(&red, "web").await.unwrap();
    let made = async |millis: u32| {
        let spec = serde_json::from_value(json!({"task": {
            "image": "web", "image_id": image, "args": ["sleep"], "gpus": {"count": 1, "millis": millis},
        }}))
        .unwrap();
        let made = control.workload_create(&admin(), &red, None, spec).await;
        made.unwrap().id.clone()
    };
    let start = async |id: &WorkloadId| {
        let caller = admin();
        let started = control.workload_start(&caller, &red, id, Default::default());
        started.await.map(drop)
    };
    let used = || {
        let standing = control.pool_standing(&admin(), &red).unwrap();
        standing.sum[QuotaKey::Counted(Counted::Gpus)]
    };
    let (whole, part) = (made(1000).await, made(750).await);
    assert_eq!(used(), 0, "what does not run has none");
    start(&whole).await.unwrap();
    let refused = start(&part).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Exhausted);
    assert_eq!(
        refused.message,
        "pool red has its quota of 1.5 gpus used up: 1 in use, 0.75 more wanted; stop something, or ask for a higher \
         quota"
    );
    assert_eq!(used(), 1000);
    let force = RemoveOptions {
        force: true,
        ..RemoveOptions::default()
    };
    control
        .workload_remove(&admin(), &red, &whole, force)
        .await
        .unwrap();
    start(&part).await.unwrap();
    assert_eq!(used(), 750);
    assert_eq!(control.audit_ledger(), 0);
}

#[tokio::test]
async fn what_says_nothing_gets_the_pools_defaults() {
    let (control, _hosts) = world().await;
    let wanted = json!({"defaults": {"memory_request": 64 << 20, "memory_limit": 256 << 20}});
    let red = pool(&control, &admin(), "red", None, wanted).await.unwrap();
    let image = control.test_image(&red, "web").await.unwrap();
    let spec = serde_json::from_value(
        json!({"task": {"image": "web", "image_id": image, "args": ["sleep"]}}),
    )
    .unwrap();
    let made = control
        .workload_create(&admin(), &red, None, spec)
        .await
        .unwrap();
    assert_eq!(made.spec.task.resources.memory_limit, Some(256 << 20));
    control
        .workload_start(&admin(), &red, &made.id, Default::default())
        .await
        .unwrap();
    let charged = control.pool_standing(&admin(), &red).unwrap().sum;
    assert_eq!(charged[MEMORY], 64 << 20);
    assert_eq!(
        charged[QuotaKey::Resource(Resource::Cpu)],
        10,
        "of the installation"
    );
}

async fn pool_admin(control: &Control, pool: &PoolId) -> Caller {
    let principal = Principal {
        id: PrincipalId::from_bytes(&[9; 32]),
        name: Name::parse("ann").unwrap(),
        bindings: vec![Binding {
            role: Role::PoolAdmin,
            pool: Some(pool.clone()),
        }],
        created_at: Timestamp(0),
    };
    let _ = control;
    Caller::from_principal(&principal)
}

#[tokio::test]
async fn a_pools_admin_makes_pools_inside_it_but_cannot_raise_it() {
    let (control, _hosts) = world().await;
    let team = pool(&control, &admin(), "team", None, reserve(4))
        .await
        .unwrap();
    let ann = pool_admin(&control, &team).await;
    pool(&control, &ann, "ci", Some("team"), reserve(3))
        .await
        .unwrap();
    update(&control, &ann, "ci", reserve(4)).await.unwrap();
    let raised = update(&control, &ann, "team", reserve(5))
        .await
        .unwrap_err();
    assert_eq!(raised.kind, ErrorKind::Forbidden, "{raised}");
    let around = update(&control, &ann, "ci", reserve(5)).await.unwrap_err();
    assert_eq!(around.kind, ErrorKind::Forbidden, "{around}");
    assert!(
        around.message.contains("more than pool team has"),
        "{around}"
    );
    let own =
        json!({"memory": {"reservation": {"absolute": 4 * GIB}}, "defaults": {"cpu_request": 50}});
    update(&control, &ann, "team", own).await.unwrap();
    update(&control, &admin(), "ci", reserve(5)).await.unwrap();
}

#[tokio::test]
async fn bad_changes_are_refused_and_nothing_is_half_done() {
    let (control, _hosts) = world().await;
    pool(&control, &admin(), "a", None, reserve(8))
        .await
        .unwrap();
    pool(&control, &admin(), "b", Some("a"), json!({}))
        .await
        .unwrap();
    let too_much = pool(&control, &admin(), "c", None, reserve(8))
        .await
        .unwrap_err();
    assert!(
        too_much
            .message
            .starts_with("memory: 8GiB cannot be reserved: the installation has 15"),
        "{too_much}"
    );
    assert!(control.pool_find(&admin(), "c").is_err());
    let crossed = json!({"memory": {"reservation": {"absolute": 2}, "limit": {"absolute": 1}}});
    assert_eq!(
        update(&control, &admin(), "a", crossed)
            .await
            .unwrap_err()
            .kind,
        ErrorKind::Invalid
    );
    let moved = |to: &str| PoolUpdate {
        parent: Some(Some(to.into())),
        ..PoolUpdate::default()
    };
    let cycle = control
        .pool_update(&admin(), "a", moved("b"))
        .await
        .unwrap_err();
    assert_eq!(
        cycle.message,
        "pool a cannot be moved into itself or a pool below it"
    );
    let seen = control.pool_find(&admin(), "a").unwrap().revision().0;
    update(&control, &admin(), "a", reserve(7)).await.unwrap();
    let late = PoolUpdate {
        slice: Some(slice(reserve(6))),
        revision: Some(seen),
        ..PoolUpdate::default()
    };
    let conflict = control.pool_update(&admin(), "a", late).await.unwrap_err();
    assert_eq!(conflict.kind, ErrorKind::Conflict);
    let kept = control
        .pool_standing(&admin(), &control.pool_find(&admin(), "a").unwrap().id)
        .unwrap();
    assert_eq!(kept.node.memory.reservation, 7 * GIB);
}

#[tokio::test]
async fn sizes_follow_the_overcommit_ratio() {
    let (control, _hosts) = world().await;
    pool(&control, &admin(), "a", None, json!({"size": 8000}))
        .await
        .unwrap();
    let more = json!({"size": 4000});
    let refused = pool(&control, &admin(), "b", None, more.clone())
        .await
        .unwrap_err();
    assert!(
        refused.message.starts_with("size: 40% is not left"),
        "{refused}"
    );
    let twice = |settings: &mut model::Installation| {
        settings.cpu_overcommit = model::Ratio(2000);
        settings.memory_overcommit = model::Ratio(2000);
    };
    control.installation_update(&admin(), twice).await.unwrap();
    let b = pool(&control, &admin(), "b", None, more).await.unwrap();
    let line = control.pool_standing(&admin(), &b).unwrap().node.cpu;
    assert_eq!(
        line.reservation, 1520,
        "a fifth of what two hosts have less their reserve"
    );
    let once = |settings: &mut model::Installation| *settings = model::Installation::default();
    let refused = control
        .installation_update(&admin(), once)
        .await
        .unwrap_err();
    assert!(refused.message.contains("is not left"), "{refused}");
}

#[tokio::test]
async fn a_cordoned_host_marks_pools_over_committed_and_back() {
    let (control, _hosts) = world().await;
    let a = pool(&control, &admin(), "a", None, reserve(12))
        .await
        .unwrap();
    let short = |control: &Control| {
        control
            .pool_standing(&admin(), &a)
            .unwrap()
            .node
            .memory
            .short()
    };
    assert_eq!(short(&control), 0);
    let events = control.events(&admin(), Some(&a), Some(0), None).unwrap();
    control.host_cordon(&admin(), "h2").await.unwrap();
    assert!(short(&control) > 4 * GIB);
    control.host_uncordon(&admin(), "h2").await.unwrap();
    assert_eq!(short(&control), 0);
    let told: Vec<String> = {
        use futures::StreamExt as _;
        let actions = events.map(|event| event.action).filter(|action| {
            let of_pools = action == "over-committed" || action == "honoured";
            async move { of_pools }
        });
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, actions.take(2).collect())
            .await
            .unwrap()
    };
    assert_eq!(told, ["over-committed", "honoured"]);
}

#[tokio::test]
async fn the_audit_repairs_a_wrong_ledger_and_says_so() {
    let (control, _hosts) = world().await;
    let red = pool(&control, &admin(), "red", None, json!({}))
        .await
        .unwrap();
    let id = started(&control, &red, "a", 2).await.unwrap();
    control.test_spoil_ledger(&id);
    assert_eq!(used(&control, &red), 0);
    assert!(control.audit_ledger() > 0);
    assert_eq!(used(&control, &red), 2);
    assert_eq!(control.audit_ledger(), 0);
    assert!(control.metrics().ledger_repairs > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_starts_never_pass_a_limit_and_use_all_of_it() {
    let (control, _hosts) = world().await;
    let red = pool(&control, &admin(), "red", None, limit(5))
        .await
        .unwrap();
    let mut ids = Vec::new();
    for at in 0..12 {
        ids.push(
            workload(&control, &red, &format!("w{at}"), 1)
                .await
                .unwrap(),
        );
    }
    let starts = ids.iter().map(|id| {
        let (control, red, id) = (control.clone(), red.clone(), id.clone());
        tokio::spawn(async move {
            control
                .workload_start(&admin(), &red, &id, Default::default())
                .await
                .is_ok()
        })
    });
    let results = futures::future::join_all(starts.collect::<Vec<_>>()).await;
    let fine = results
        .into_iter()
        .filter(|it| *it.as_ref().unwrap())
        .count();
    assert_eq!(fine, 5);
    assert_eq!(used(&control, &red), 5);
    assert_eq!(control.audit_ledger(), 0);
}

/// A store whose commits are long on their way: what is decided meanwhile elsewhere is not known here.
struct Distant(Arc<dyn store::Store>);

#[async_trait::async_trait]
impl store::Store for Distant {
    fn snapshot(&self) -> store::Snapshot {
        self.0.snapshot()
    }

    async fn commit(&self, tx: store::Transaction) -> Result<store::Revision, store::CommitError> {
        // tidy: sleep: the way to a distant store is what is tested
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        self.0.commit(tx).await
    }

    async fn confirm(&self) -> Result<(), store::ConfirmError> {
        self.0.confirm().await
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    fn watch(&self, from: store::Revision) -> Result<store::Watch, store::WatchError> {
        self.0.watch(from)
    }

    fn revisions(&self) -> tokio::sync::watch::Receiver<store::Revision> {
        self.0.revisions()
    }

    fn metrics(&self) -> store::Metrics {
        self.0.metrics()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// What a host reports meanwhile of a workload that is being admitted takes nothing out of the ledger.
#[tokio::test(start_paused = true)]
async fn a_claim_stays_entered_while_its_commit_is_on_its_way() {
    let behind = store::open_memory();
    let store: Arc<dyn store::Store> = Arc::new(Distant(Arc::clone(&behind)));
    let config = ControlConfig {
        address: "127.0.0.1:7440".into(),
    };
    let control = Control::open(store, config).await.unwrap();
    let slice = json!({"quotas": {"workloads": 1}});
    let red = pool(&control, &admin(), "red", None, slice).await.unwrap();
    control.test_image(&red, "web").await.unwrap();
    workload(&control, &red, "w", 0).await.unwrap();
    let _host = control.raw_host("h1").await.unwrap();
    let id = control
        .snapshot()
        .workloads_of(&red)
        .next()
        .unwrap()
        .id
        .clone();
    let start = tokio::spawn({
        let (control, red, id) = (control.clone(), red.clone(), id.clone());
        async move {
            let options = StartOptions::default();
            control.workload_start(&admin(), &red, &id, options).await
        }
    });
    // tidy: sleep: the start is on its way to the store then
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let mut reported = behind.snapshot().workload(&id).unwrap().value().clone();
    reported.spec.priority = Some(1);
    let tx = store::Transaction::new().put(model::Object::Workload(reported));
    behind.commit(tx).await.unwrap();
    assert_eq!(control.audit_ledger(), 0);
    let mut revisions = behind.revisions();
    let begun = || behind.snapshot().workload(&id).unwrap().run == 1;
    while !begun() {
        revisions.changed().await.unwrap();
    }
    start.abort();
    assert_eq!(control.audit_ledger(), 0);
}

/// Two servers on one store: whoever decides on what the other one does not know yet, loses the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_never_admit_more_than_there_is() {
    let store: Arc<dyn store::Store> = Arc::new(Distant(store::open_memory()));
    let config = || ControlConfig {
        address: "127.0.0.1:7440".into(),
    };
    let one = Control::open(Arc::clone(&store), config()).await.unwrap();
    let red = pool(
        &one,
        &admin(),
        "red",
        None,
        json!({"quotas": {"workloads": 20}}),
    )
    .await
    .unwrap();
    let two = Control::open(Arc::clone(&store), config()).await.unwrap();
    one.test_image(&red, "web").await.unwrap();
    let makes = (0..60).map(|at| {
        let control = if at % 2 == 0 {
            one.clone()
        } else {
            two.clone()
        };
        let red = red.clone();
        tokio::spawn(async move { workload(&control, &red, &format!("w{at}"), 0).await.is_ok() })
    });
    let results = futures::future::join_all(makes.collect::<Vec<_>>()).await;
    let fine = results
        .into_iter()
        .filter(|it| *it.as_ref().unwrap())
        .count();
    assert_eq!(fine, 20);
    assert_eq!(one.snapshot().workloads_of(&red).count(), 20);
    for control in [&one, &two] {
        assert_eq!(control.audit_ledger(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pools_deletion_waits_for_what_is_being_removed_already() {
    let control = Control::for_tests().await.unwrap();
    let host = control.raw_host("h1").await.unwrap();
    let red = pool(&control, &admin(), "red", None, json!({}))
        .await
        .unwrap();
    let image = control.test_image(&red, "web").await.unwrap();
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let task = json!({"image": "web", "image_id": image, "args": ["sleep"]});
        let spec: WorkloadSpec = serde_json::from_value(json!({ "task": task })).unwrap();
        let name = Some(Name::parse(name).unwrap());
        let made = control.workload_create(&admin(), &red, name, spec).await;
        let id = made.unwrap().id.clone();
        let ended = |workload: &mut model::Workload| {
            workload.host = Some(host.session.host.clone());
            workload.run = 1;
            workload.status.run = 1;
            workload.status.phase = model::Phase::Exited;
        };
        control.test_workload_edit(&id, ended).await.unwrap();
        ids.push(id);
    }
    let remove = async |id: &WorkloadId| {
        let options = RemoveOptions::default();
        let removed = control.workload_remove(&admin(), &red, id, options).await;
        removed.unwrap();
    };
    remove(&ids[0]).await;
    let why = control.pool_delete(&admin(), "red").await.unwrap_err();
    assert!(why.message.contains("remove them first"), "{}", why.message);
    remove(&ids[1]).await;
    // The host says nothing.
    let began = tokio::time::Instant::now();
    let why = control.pool_delete(&admin(), "red").await.unwrap_err();
    assert!(
        why.kind == ErrorKind::Conflict && why.message.contains("2 workloads that are being"),
        "{}",
        why.message
    );
    assert!(began.elapsed().as_secs() >= 20, "it has waited");
    // It says so while the deletion waits.
    let deleting = {
        let control = control.clone();
        tokio::spawn(async move { control.pool_delete(&admin(), "red").await })
    };
    tokio::time::sleep(std::time::Duration::from_secs(1)).await; // tidy: sleep: the paused clock goes on by it
    assert!(!deleting.is_finished());
    host.report(ids.iter().map(|id| (id.clone(), None))).await;
    deleting.await.unwrap().unwrap();
    assert!(control.snapshot().pool(&red).is_none());
}
