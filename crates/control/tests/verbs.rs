//! The verbs against scripted hosts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use control::workloads::{Changed, RemoveOptions, StopOptions, WaitCondition};
use control::{Caller, Control, ErrorKind};
use model::{DesiredState, Name, Phase, PoolId, WorkloadSpec};

struct World {
    control: Control,
    pool: PoolId,
    image: model::Digest,
    hosts: Vec<control::testing::TestHost>,
}

async fn world() -> World {
    let control = Control::for_tests().await.unwrap();
    let hosts = vec![
        control.test_host("h1").await.unwrap(),
        control.test_host("h2").await.unwrap(),
    ];
    let pool = control.test_pool("red").await.unwrap();
    let image = control.test_image(&pool, "web").await.unwrap();
    World {
        control,
        pool,
        image,
        hosts,
    }
}

impl World {
    fn spec(&self, args: &[&str]) -> WorkloadSpec {
        serde_json::from_value(serde_json::json!({
            "task": {"image": "web", "image_id": self.image, "args": args}
        }))
        .unwrap()
    }

    async fn create(&self, name: &str, args: &[&str]) -> control::Kept<model::Workload> {
        let name = Some(Name::parse(name).unwrap());
        self.control
            .workload_create(&admin(), &self.pool, name, self.spec(args))
            .await
            .unwrap()
    }
}

fn admin() -> Caller {
    Caller::local_admin()
}

#[tokio::test]
async fn a_workload_runs_stops_and_goes() {
    let w = world().await;
    let made = w.create("a", &["sleep"]).await;
    let caller = admin();
    assert_eq!(
        w.control
            .workload_start(&caller, &w.pool, &made.id, Default::default())
            .await
            .unwrap(),
        Changed::Yes
    );
    assert_eq!(
        w.control
            .workload_start(&caller, &w.pool, &made.id, Default::default())
            .await
            .unwrap(),
        Changed::Already
    );
    let found = w.control.workload_find(&caller, &w.pool, "a").unwrap();
    assert_eq!(found.status.phase, Phase::Running);
    let error = w
        .control
        .workload_remove(&caller, &w.pool, &made.id, RemoveOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let stopped = w
        .control
        .workload_stop(&caller, &w.pool, &made.id, StopOptions::default())
        .await
        .unwrap();
    assert_eq!(stopped, Changed::Yes);
    let again = w
        .control
        .workload_stop(&caller, &w.pool, &made.id, StopOptions::default())
        .await
        .unwrap();
    assert_eq!(again, Changed::Already);
    let outcome = w
        .control
        .workload_wait(&caller, &w.pool, &made.id, WaitCondition::NotRunning)
        .await
        .unwrap();
    assert_eq!(outcome.exit_code, 143);
    w.control
        .workload_remove(&caller, &w.pool, &made.id, RemoveOptions::default())
        .await
        .unwrap();
    assert!(w.control.workload_find(&caller, &w.pool, "a").is_err());
    w.create("a", &["sleep"]).await;
}

#[tokio::test]
async fn run_and_remove_waits_for_the_exit_code_without_losing_it() {
    let w = world().await;
    let caller = admin();
    for _ in 0..50 {
        let mut spec = w.spec(&["exit", "7"]);
        spec.auto_remove = true;
        let made = w
            .control
            .workload_create(&caller, &w.pool, None, spec)
            .await
            .unwrap();
        let wait = w
            .control
            .workload_wait_begin(&caller, &w.pool, &made.id, WaitCondition::Removed)
            .unwrap();
        w.control
            .workload_start(&caller, &w.pool, &made.id, Default::default())
            .await
            .unwrap();
        assert_eq!(wait.await.unwrap().exit_code, 7);
    }
    assert!(
        w.control
            .workload_list(&caller, &w.pool)
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_failed_start_says_what_the_host_said() {
    let w = world().await;
    let made = w.create("a", &["nosuch"]).await;
    let error = w
        .control
        .workload_start(&admin(), &w.pool, &made.id, Default::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("executable file not found"));
}

#[tokio::test]
async fn a_pool_sees_nothing_of_another() {
    let w = world().await;
    let made = w.create("a", &["sleep"]).await;
    let other = w.control.test_pool("blue").await.unwrap();
    let foreign = Caller::pool_socket(&w.control.pool_find(&admin(), "blue").unwrap());
    for reference in [made.id.as_str(), "a", &made.id.as_str()[..12]] {
        let error = w
            .control
            .workload_find(&foreign, &other, reference)
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
    let error = w
        .control
        .workload_start(&foreign, &w.pool, &made.id, Default::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.kind,
        ErrorKind::NotFound,
        "a foreign pool cannot even be probed"
    );
    assert_eq!(w.control.pool_list(&foreign).unwrap().len(), 1);
}

#[tokio::test]
async fn names_are_unique_in_a_pool_also_in_a_race() {
    let w = world().await;
    let tries = (0..16).map(|_| {
        let (control, pool, spec) = (w.control.clone(), w.pool.clone(), w.spec(&["sleep"]));
        tokio::spawn(async move {
            control
                .workload_create(&admin(), &pool, Some(Name::parse("one").unwrap()), spec)
                .await
                .is_ok()
        })
    });
    let mut made = 0;
    for attempt in tries.collect::<Vec<_>>() {
        made += usize::from(attempt.await.unwrap());
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn no_host_means_an_error_that_says_so() {
    let control = Control::for_tests().await.unwrap();
    let pool = control.test_pool("red").await.unwrap();
    let image = control.test_image(&pool, "web").await.unwrap();
    let spec = serde_json::from_value(serde_json::json!({
        "task": {"image": "web", "image_id": image, "args": ["true"]}
    }))
    .unwrap();
    let made = control
        .workload_create(&admin(), &pool, None, spec)
        .await
        .unwrap();
    let error = control
        .workload_start(&admin(), &pool, &made.id, Default::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains("no host"), "{}", error.message);
    assert_eq!(
        control.snapshot().workload(&made.id).unwrap().desired,
        DesiredState::Created
    );
}

#[tokio::test]
async fn pause_resume_kill_and_restart() {
    let w = world().await;
    let caller = admin();
    let made = w.create("a", &["sleep"]).await;
    w.control
        .workload_start(&caller, &w.pool, &made.id, Default::default())
        .await
        .unwrap();
    w.control
        .workload_pause(&caller, &w.pool, &made.id)
        .await
        .unwrap();
    assert_eq!(
        w.control
            .snapshot()
            .workload(&made.id)
            .unwrap()
            .status
            .phase,
        Phase::Paused
    );
    assert!(
        w.control
            .workload_pause(&caller, &w.pool, &made.id)
            .await
            .is_err()
    );
    w.control
        .workload_resume(&caller, &w.pool, &made.id)
        .await
        .unwrap();
    w.control
        .workload_kill(&caller, &w.pool, &made.id, 9)
        .await
        .unwrap();
    let found = w.control.workload_find(&caller, &w.pool, "a").unwrap();
    assert_eq!(
        (found.status.phase, found.status.exit_code),
        (Phase::Exited, 137)
    );
    w.control
        .workload_restart(&caller, &w.pool, &made.id, StopOptions::default())
        .await
        .unwrap();
    let found = w.control.workload_find(&caller, &w.pool, "a").unwrap();
    assert_eq!((found.status.phase, found.run), (Phase::Running, 2));
}

#[tokio::test]
async fn images_come_get_names_and_go() {
    let w = world().await;
    let caller = admin();
    let reference = model::ImageReference::parse("localhost:5000/app:1").unwrap();
    let mut steps = w
        .control
        .image_pull(&caller, &w.pool, reference, None, None)
        .await
        .unwrap();
    let mut done = false;
    while let Some(step) = steps.recv().await {
        done = matches!(step, control::images::ImportEvent::Done(_));
    }
    assert!(done);
    let target = model::ImageReference::parse("app:stable").unwrap();
    w.control
        .image_tag(&caller, &w.pool, "localhost:5000/app:1", &target)
        .await
        .unwrap();
    let removed = w
        .control
        .image_remove(&caller, &w.pool, "app:stable", false)
        .await
        .unwrap();
    assert_eq!(removed.len(), 1, "only the name goes");
    let removed = w
        .control
        .image_remove(&caller, &w.pool, "localhost:5000/app:1", false)
        .await
        .unwrap();
    assert!(matches!(
        removed.last(),
        Some(control::images::ImageRemoval::Deleted(_))
    ));
    assert_eq!(
        w.control.snapshot().dropped_images().count(),
        1,
        "hosts are told by name"
    );
    let made = w.create("a", &["sleep"]).await;
    let error = w
        .control
        .image_remove(&caller, &w.pool, "web", true)
        .await
        .unwrap_err();
    assert!(error.message.contains(made.id.short()));
}

/// Pulls an image; the revision at which the host was told that it is recorded.
async fn pulled(w: &World, pool: &PoolId) -> u64 {
    let reference = model::ImageReference::parse("localhost:5000/again:1").unwrap();
    let mut steps = w
        .control
        .image_pull(&admin(), pool, reference, None, None)
        .await
        .unwrap();
    let mut last = None;
    while let Some(step) = steps.recv().await {
        last = Some(step);
    }
    assert!(
        matches!(last, Some(control::images::ImportEvent::Done(_))),
        "{last:?}"
    );
    w.hosts[0].images.borrow().recorded
}

#[tokio::test]
async fn orders_to_delete_an_image_are_told_from_earlier_ones_and_from_imports() {
    let w = world().await;
    let mut told = w.hosts[0].images.clone();
    let mut before = 0;
    for _ in 0..3 {
        let recorded = pulled(&w, &w.pool).await;
        assert!(recorded > before, "{recorded} {before}");
        told.wait_for(|told| told.orders.is_empty()).await.unwrap();
        w.control
            .image_remove(&admin(), &w.pool, "localhost:5000/again:1", false)
            .await
            .unwrap();
        let told = told.wait_for(|told| !told.orders.is_empty()).await.unwrap();
        before = *told.orders.values().next().unwrap();
        assert!(before > recorded, "{before} {recorded}");
    }
}

#[tokio::test]
async fn an_image_that_a_pool_has_is_not_ordered_to_be_deleted_whatever_is_named() {
    let w = world().await;
    let mut told = w.hosts[0].images.clone();
    let web = w.control.image_find(&admin(), &w.pool, "web").unwrap();
    // As when another pool lets go of it in the very moment in which this one gets it.
    let order = model::object::DroppedImage {
        id: web.id.clone(),
        dropped_at: model::Timestamp(0),
    };
    let order = model::Object::DroppedImage(order);
    w.control
        .store()
        .commit(store::Transaction::new().put(order))
        .await
        .unwrap();
    pulled(&w, &w.pool).await;
    w.control
        .image_remove(&admin(), &w.pool, "localhost:5000/again:1", false)
        .await
        .unwrap();
    let told_now = told.wait_for(|told| !told.orders.is_empty()).await.unwrap();
    assert!(!told_now.orders.contains_key(&web.id), "{told_now:?}");
}

#[tokio::test]
async fn join_tokens_work_once() {
    let control = Control::for_tests().await.unwrap();
    let (token, _) = control.host_token_create(&admin(), 60).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    let request = |token: &str, name: &str| wire::link::JoinRequest {
        token: token.to_owned(),
        name: name.to_owned(),
        zone: String::new(),
        labels: std::collections::BTreeMap::new(),
        csr_pem: csr.clone(),
    };
    let identity = control.host_join(&request(&token, "h1")).await.unwrap();
    assert_eq!(control.snapshot().hosts().count(), 1);
    let again = control.host_join(&request(&token, "h2")).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Unauthenticated);
    assert!(again.message.contains("used already"));
    let mut forged = token.clone();
    forged.replace_range(forged.len() - 4.., "0000");
    assert_eq!(
        control
            .host_join(&request(&forged, "h3"))
            .await
            .unwrap_err()
            .kind,
        ErrorKind::Unauthenticated
    );
    assert_eq!(control.snapshot().hosts().count(), 1);
    assert!(identity.certificate_pem.contains("BEGIN CERTIFICATE"));

    let (_, pem) = x509_parser::pem::parse_x509_pem(identity.certificate_pem.as_bytes()).unwrap();
    let host = control.host_authenticate(&pem.contents).unwrap();
    assert_eq!(host, identity.host);
    control.host_remove(&admin(), "h1", false).await.unwrap();
    let gone = control.host_authenticate(&pem.contents).unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound, "{}", gone.message);
}

#[tokio::test]
async fn more_than_fits_into_one_transaction_goes_too() {
    let w = world().await;
    for i in 0..30 {
        w.control
            .test_image(&w.pool, &format!("image{i}"))
            .await
            .unwrap();
    }
    let host = w.hosts[0].id.clone();
    w.control.host_cordon(&admin(), "h2").await.unwrap();
    for i in 0..120 {
        let made = w.create(&format!("w{i}"), &["true"]).await;
        w.control
            .workload_start(&admin(), &w.pool, &made.id, Default::default())
            .await
            .unwrap();
    }
    assert_eq!(w.control.snapshot().workloads_on(&host).count(), 120);
    let refused = w.control.host_remove(&admin(), "h1", false).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Conflict);
    w.control.host_remove(&admin(), "h1", true).await.unwrap();
    assert_eq!(w.control.snapshot().workloads().count(), 0);
    w.control.pool_delete(&admin(), "red").await.unwrap();
    assert_eq!(w.control.snapshot().images().count(), 0);
}

/// After a restart of this server a host is still linked to another one, and dials this one a moment later.
#[tokio::test]
async fn a_host_that_is_linked_to_another_server_is_waited_for() {
    let w = world().await;
    let caller = admin();
    let made = w.create("a", &["sleep"]).await;
    w.control
        .workload_start(&caller, &w.pool, &made.id, Default::default())
        .await
        .unwrap();
    let placed = w.control.workload_find(&caller, &w.pool, "a").unwrap();
    let host = placed.host.clone().unwrap();
    let World {
        control,
        pool,
        hosts,
        ..
    } = w;
    drop(hosts);
    // The link's end is recorded; the other server says that the host is there.
    let mut revisions = control.store().revisions();
    let gone = |control: &Control| !control.snapshot().host(&host).unwrap().status.connected;
    while !gone(&control) {
        revisions.changed().await.unwrap();
    }
    let mut record = model::Host::clone(&control.snapshot().host(&host).unwrap());
    record.status.connected = true;
    let name = record.name.clone();
    let tx = store::Transaction::new().put(model::Object::Host(record));
    control.store().commit(tx).await.unwrap();
    let asked = {
        let (control, pool, id) = (control.clone(), pool.clone(), made.id.clone());
        tokio::spawn(async move { control.workload_top(&admin(), &pool, &id, "").await })
    };
    let _back = control.test_host(name.as_str()).await.unwrap();
    let table = asked.await.unwrap().unwrap();
    assert_eq!(table.rows.len(), 1);
}
