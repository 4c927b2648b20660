//! Several stores on one etcd, and etcd's own troubles: a killed member, compaction, a lost connection, a newer layout.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/etcd.rs"]
#[allow(dead_code, reason = "shared between test programs")]
mod etcd;
#[path = "common/objects.rs"]
#[allow(dead_code, reason = "shared between test programs")]
mod objects;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etcd::Etcd;
use etcd_client::Client;
use objects::*;
use store::{
    Change, CommitError, ConfirmError, EtcdOptions, OpenError, Revision, Store, Transaction,
    WatchError, open_etcd,
};
use tokio::time::timeout;

/// Longer than anything here takes; only failures wait for it.
const LONG: Duration = Duration::from_secs(90);

async fn start(members: usize) -> Etcd {
    tokio::task::spawn_blocking(move || Etcd::start(members))
        .await
        .unwrap()
}

async fn open(etcd: &Etcd) -> Arc<dyn Store> {
    open_etcd(&etcd.endpoints(), "test", EtcdOptions::default())
        .await
        .unwrap()
}

async fn reaches(store: &Arc<dyn Store>, revision: Revision) {
    let mut revisions = store.revisions();
    let reached = revisions.wait_for(|now| *now >= revision);
    timeout(LONG, reached).await.unwrap().unwrap();
}

async fn increment(store: &Arc<dyn Store>) -> Result<Revision, CommitError> {
    let snapshot = store.snapshot();
    let row = snapshot.setting("counter").unwrap();
    let next = row.value().value.parse::<u64>().unwrap() + 1;
    let tx = Transaction::new().update(row.revision(), setting("counter", next.to_string()));
    store.commit(tx).await
}

fn counter(store: &Arc<dyn Store>) -> u64 {
    store
        .snapshot()
        .setting("counter")
        .unwrap()
        .value()
        .value
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_see_and_exclude_each_other() {
    let etcd = start(1).await;
    let (one, two) = (open(&etcd).await, open(&etcd).await);
    let mut watch = two.watch(two.snapshot().revision).unwrap();
    let made = one
        .commit(Transaction::new().create(pool(1, "red")))
        .await
        .unwrap();
    let event = timeout(LONG, watch.next()).await.unwrap().unwrap();
    assert_eq!(event.revision, made);
    assert!(matches!(&event.changes[..], [Change::Put(it)] if it.created == made));
    assert_eq!(
        two.snapshot()
            .pool_by_name(&name("red"))
            .unwrap()
            .revision(),
        made
    );
    let taken = two.commit(Transaction::new().create(pool(2, "red"))).await;
    assert!(matches!(taken, Err(CommitError::NameTaken { .. })));
    // A name given up on one server is free on the other at once, however far its snapshot is.
    for round in 0..20 {
        let (from, to) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        from.commit(Transaction::new().put(pool(1, "green")))
            .await
            .unwrap();
        to.commit(Transaction::new().put(pool(2, "red")))
            .await
            .unwrap();
        to.commit(Transaction::new().delete(pool(2, "red").key()))
            .await
            .unwrap();
        from.commit(Transaction::new().put(pool(1, "red")))
            .await
            .unwrap();
    }
    let last = one
        .commit(Transaction::new().put(setting("a", "1")))
        .await
        .unwrap();
    reaches(&two, last).await;
    let all = |store: &Arc<dyn Store>| store.snapshot().objects().cloned().collect::<Vec<_>>();
    assert_eq!(all(&one), all(&two));
    assert_eq!(all(&open(&etcd).await), all(&one));
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_three_servers_are_not_lost() {
    let etcd = start(1).await;
    let stores = [open(&etcd).await, open(&etcd).await, open(&etcd).await];
    let made = stores[0]
        .commit(Transaction::new().put(setting("counter", "0")))
        .await
        .unwrap();
    let tasks = stores.clone().map(|store| {
        tokio::spawn(async move {
            reaches(&store, made).await;
            let mut done = 0;
            while done < 30 {
                let seen = store.snapshot().revision;
                match increment(&store).await {
                    Ok(_) => done += 1,
                    Err(CommitError::Conflict { .. }) => reaches(&store, seen.next()).await,
                    Err(other) => panic!("{other:?}"),
                }
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    let checked = stores[1]
        .commit(Transaction::new().put(setting("end", "")))
        .await
        .unwrap();
    assert!(checked > made);
    assert_eq!(counter(&stores[1]), 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_do_not_mix() {
    let etcd = start(1).await;
    let one = open(&etcd).await;
    let endpoints = etcd.endpoints();
    let other = open_etcd(&endpoints, "test2", EtcdOptions::default())
        .await
        .unwrap();
    one.commit(Transaction::new().create(pool(1, "red")))
        .await
        .unwrap();
    other
        .commit(Transaction::new().create(pool(2, "red")))
        .await
        .unwrap();
    assert_eq!(one.snapshot().pools().count(), 1);
    let again = open_etcd(&endpoints, "test2/", EtcdOptions::default())
        .await
        .unwrap();
    assert_eq!(
        again.snapshot().pool_by_name(&name("red")).unwrap().id,
        pool_id(2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_and_an_absent_server_are_told() {
    let etcd = start(1).await;
    drop(open(&etcd).await);
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    client.put("test/form", "2", None).await.unwrap();
    let endpoints = etcd.endpoints();
    let refused = open_etcd(&endpoints, "test", EtcdOptions::default())
        .await
        .err()
        .unwrap();
    assert!(
        matches!(refused, OpenError::TooNew { found: 2, .. }),
        "{refused}"
    );
    client.put("test/form", "1", None).await.unwrap();
    client
        .put(
            "test/o/pool/0000000000000001",
            "0123456789abcdef{\"v\":9}",
            None,
        )
        .await
        .unwrap();
    let refused = open_etcd(&endpoints, "test", EtcdOptions::default())
        .await
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("pool/0000000000000001"),
        "{refused}"
    );
    drop(etcd);
    let absent = open_etcd(&endpoints, "test", EtcdOptions::default())
        .await
        .err()
        .unwrap();
    assert!(absent.to_string().contains(&endpoints[0]), "{absent}");
}

/// Lists as many pages as it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_lists_everything() {
    let etcd = start(1).await;
    let store = open(&etcd).await;
    for from in (0..1000u64).step_by(50) {
        let tx = (from..from + 50).fold(Transaction::new(), |tx, at| {
            tx.create(pool(at, &format!("p{at}")))
        });
        store.commit(tx).await.unwrap();
    }
    store.close().await;
    let again = open(&etcd).await;
    let all = |store: &Arc<dyn Store>| store.snapshot().objects().cloned().collect::<Vec<_>>();
    assert_eq!(all(&again), all(&store));
    assert_eq!(again.snapshot().revision, store.snapshot().revision);
}

/// A connection to etcd that can be cut: everything goes through a forwarder.
struct Cuttable {
    endpoint: String,
    open: Arc<AtomicBool>,
    /// Changes whenever connections are to be dropped.
    cut: tokio::sync::watch::Sender<u64>,
}

impl Cuttable {
    async fn new(etcd: &Etcd) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let to = etcd.endpoints()[0].trim_start_matches("http://").to_owned();
        let open = Arc::new(AtomicBool::new(true));
        let cut = tokio::sync::watch::Sender::new(0);
        let (is_open, cuts) = (Arc::clone(&open), cut.clone());
        tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let (to, mut cuts) = (to.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self {
            endpoint,
            open,
            cut,
        }
    }

    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.drop_connections();
    }

    fn drop_connections(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    fn reopen(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_the_watch_goes_on_without_a_gap() {
    let etcd = start(1).await;
    let line = Cuttable::new(&etcd).await;
    let endpoints = [line.endpoint.clone()];
    let far = open_etcd(&endpoints, "test", EtcdOptions::default())
        .await
        .unwrap();
    let near = open(&etcd).await;
    let mut watch = far.watch(far.snapshot().revision).unwrap();
    let mut expected = Vec::new();
    for round in 0..30 {
        if round == 10 {
            line.close();
        }
        if round == 20 {
            line.reopen();
        }
        let tx = Transaction::new().put(setting("a", round.to_string()));
        expected.push(near.commit(tx).await.unwrap());
    }
    for revision in expected {
        let event = timeout(LONG, watch.next()).await.unwrap().unwrap();
        assert_eq!(event.revision, revision);
    }
    far.commit(Transaction::new().put(setting("b", "1")))
        .await
        .unwrap();
    assert_eq!(far.metrics().resyncs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_compaction_everything_is_read_anew() {
    let etcd = start(1).await;
    let line = Cuttable::new(&etcd).await;
    let endpoints = [line.endpoint.clone()];
    let far = open_etcd(&endpoints, "test", EtcdOptions::default())
        .await
        .unwrap();
    let near = open(&etcd).await;
    let both = Transaction::new()
        .put(setting("stays", "1"))
        .put(setting("goes", "1"));
    let before = near.commit(both).await.unwrap();
    reaches(&far, before).await;
    let mut watch = far.watch(before).unwrap();
    line.close();
    near.commit(Transaction::new().delete(setting_key("goes")))
        .await
        .unwrap();
    let last = near
        .commit(Transaction::new().put(setting("comes", "1")))
        .await
        .unwrap();
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    client
        .compact(i64::try_from(last.0).unwrap(), None)
        .await
        .unwrap();
    line.reopen();
    reaches(&far, last).await;
    let lagged = timeout(LONG, watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(lagged, WatchError::Lagged { .. }), "{lagged}");
    let snapshot = far.snapshot();
    let called: Vec<_> = snapshot.settings().map(|it| it.name.to_string()).collect();
    assert_eq!(called, ["comes", "stays"]);
    assert_eq!(far.metrics().resyncs, 1);
    let mut watch = far.watch(snapshot.revision).unwrap();
    let next = far
        .commit(Transaction::new().put(setting("goes", "2")))
        .await
        .unwrap();
    assert_eq!(
        timeout(LONG, watch.next()).await.unwrap().unwrap().revision,
        next
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_has_committed_is_in_the_snapshot_once_that_is_confirmed() {
    let etcd = start(1).await;
    let (one, two) = (open(&etcd).await, open(&etcd).await);
    assert!(one.is_shared());
    let mut other = Client::connect(etcd.endpoints(), None).await.unwrap();
    for round in 0..50 {
        let tx = Transaction::new().put(setting("a", round.to_string()));
        let made = one.commit(tx).await.unwrap();
        if round % 5 == 0 {
            // What others keep in the same etcd moves its revision on, and the watch does not show it.
            other.put("elsewhere", "", None).await.unwrap();
        }
        timeout(LONG, two.confirm()).await.unwrap().unwrap();
        assert!(two.snapshot().revision >= made, "round {round}");
    }
}

/// Longer than a store may take to say that it cannot tell, with what a busy machine adds.
const CANNOT_TELL: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_nothing_is_confirmed() {
    let mut etcd = start(1).await;
    let line = Cuttable::new(&etcd).await;
    let endpoints = [line.endpoint.clone()];
    let far = open_etcd(&endpoints, "test", EtcdOptions::default())
        .await
        .unwrap();
    let near = open(&etcd).await;
    far.confirm().await.unwrap();
    line.close();
    // What is committed on the other side is not there, so it must not be said to be.
    let made = near
        .commit(Transaction::new().put(setting("a", "1")))
        .await
        .unwrap();
    let confirmed = timeout(CANNOT_TELL, far.confirm()).await;
    let refused = confirmed.expect("an answer in time").unwrap_err();
    assert!(
        matches!(
            refused,
            ConfirmError::Backend { .. } | ConfirmError::Late { .. }
        ),
        "{refused}"
    );
    assert!(far.snapshot().revision < made);
    line.reopen();
    let confirmed = async {
        while far.confirm().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, confirmed).await.unwrap();
    assert!(far.snapshot().revision >= made);
    etcd.members.clear();
    let confirmed = timeout(CANNOT_TELL, far.confirm()).await;
    assert!(confirmed.expect("an answer in time").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_of_etcd_confirms_nothing() {
    let mut etcd = start(3).await;
    let store = open(&etcd).await;
    store.confirm().await.unwrap();
    drop(etcd.members.remove(0));
    // Two of three are enough, once they have agreed on who leads.
    let confirmed = async {
        while store.confirm().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, confirmed).await.unwrap();
    drop(etcd.members.remove(0));
    let confirmed = timeout(CANNOT_TELL, store.confirm()).await;
    assert!(confirmed.expect("an answer in time").is_err());
}

/// Connections break all the time under load: every answer is the truth.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_are_looked_up() {
    let etcd = start(1).await;
    let line = Cuttable::new(&etcd).await;
    let endpoints = [line.endpoint.clone()];
    let far = open_etcd(&endpoints, "test", EtcdOptions::default())
        .await
        .unwrap();
    far.commit(Transaction::new().put(setting("counter", "0")))
        .await
        .unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (far, done) = (Arc::clone(&far), Arc::clone(&done));
            tokio::spawn(async move {
                while done.load(Ordering::SeqCst) < 100 {
                    match increment(&far).await {
                        Ok(_) => drop(done.fetch_add(1, Ordering::SeqCst)),
                        Err(CommitError::Conflict { .. }) => tokio::task::yield_now().await,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    // A cut whenever something has gone through, twenty times.
    for cut in 1..=20 {
        while done.load(Ordering::SeqCst) < cut * 4 && tasks.iter().any(|it| !it.is_finished()) {
            // tidy: sleep: pause between two looks
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        line.drop_connections();
    }
    for task in tasks {
        task.await.unwrap();
    }
    // One too many: answered "no", but written. One too few: answered "yes", but not written.
    assert_eq!(counter(&far), done.load(Ordering::SeqCst));
}

/// What never left this machine is not "perhaps written".
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_found_nobody_to_send_it_to_was_not_made() {
    let mut etcd = start(1).await;
    let store = open(&etcd).await;
    store
        .commit(Transaction::new().put(setting("a", "1")))
        .await
        .unwrap();
    etcd.members.clear();
    // The first ones may still find the old connection, which ends under them: of these the outcome is not known.
    let mut last = None;
    for value in 2..20 {
        let put = Transaction::new().put(setting("a", value.to_string()));
        let error = store.commit(put).await.unwrap_err();
        let known = matches!(
            &error,
            CommitError::Backend {
                outcome_unknown: false,
                ..
            }
        );
        if known {
            return;
        }
        last = Some(error);
    }
    panic!("nothing was sent, and that is not known: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_goes_on_without_one() {
    let mut etcd = start(3).await;
    let (one, two) = (open(&etcd).await, open(&etcd).await);
    let made = one
        .commit(Transaction::new().put(setting("counter", "0")))
        .await
        .unwrap();
    reaches(&two, made).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let tasks = [&one, &two].map(|store| {
        let (store, acknowledged) = (Arc::clone(store), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            while acknowledged.load(Ordering::SeqCst) < 300 {
                match increment(&store).await {
                    Ok(_) => drop(acknowledged.fetch_add(1, Ordering::SeqCst)),
                    Err(CommitError::Conflict { .. }) => tokio::task::yield_now().await,
                    Err(other) => panic!("{other:?}"),
                }
            }
        })
    });
    while acknowledged.load(Ordering::SeqCst) < 50 {
        // tidy: sleep: pause between two looks
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whether it leads or not: both servers talk to all members.
    drop(etcd.members.remove(0));
    for task in tasks {
        timeout(LONG, task).await.unwrap().unwrap();
    }
    // Without an expectation: what was never sent, because the member is gone, is sent to another one.
    for round in 0..30 {
        one.commit(Transaction::new().put(setting("round", round.to_string())))
            .await
            .unwrap();
    }
    let last = one
        .commit(Transaction::new().create(setting("end", "")))
        .await
        .unwrap();
    reaches(&two, last).await;
    assert_eq!(counter(&one), acknowledged.load(Ordering::SeqCst));
    assert_eq!(counter(&two), counter(&one));
}
