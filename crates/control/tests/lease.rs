//! What a server promises hosts, and what it records when it hears of one no more.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use control::testing::RawHost;
use control::{Control, ControlConfig};
use model::{Host, HostId, Object, Timestamp};
use store::{
    CommitError, ConfirmError, Metrics, Revision, Snapshot, Store, Transaction, Watch, WatchError,
};
use tokio::sync::watch;
use wire::link::{FromHost, ToHost};

/// Longer than anything here takes; only failures wait for it.
const LONG: Duration = Duration::from_secs(30);

/// A store that can stop answering, and that others may share.
struct Backend {
    inner: Arc<dyn Store>,
    answers: AtomicBool,
    shared: bool,
}

#[async_trait]
impl Store for Backend {
    fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        self.inner.commit(tx).await
    }

    async fn confirm(&self) -> Result<(), ConfirmError> {
        if self.answers.load(Ordering::SeqCst) {
            self.inner.confirm().await
        } else {
            Err(ConfirmError::Late { seconds: 5 })
        }
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        self.inner.watch(from)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.revisions()
    }

    fn metrics(&self) -> Metrics {
        self.inner.metrics()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

async fn open(answers: bool, shared: bool) -> (Control, Arc<Backend>) {
    let backend = Arc::new(Backend {
        inner: store::open_memory(),
        answers: AtomicBool::new(answers),
        shared,
    });
    let config = ControlConfig {
        address: "127.0.0.1:7440".into(),
    };
    let control = Control::open(backend.clone(), config).await.unwrap();
    (control, backend)
}

/// Sends a heartbeat and gives the promise that comes with its answer.
async fn beat(host: &mut RawHost, number: u64) -> Option<u64> {
    host.say(FromHost::Heartbeat { number }).await;
    loop {
        let message = tokio::time::timeout(LONG, host.outgoing.recv()).await;
        if let ToHost::Heartbeat {
            number: answered,
            fresh_ms,
        } = message.unwrap().unwrap()
        {
            assert_eq!(answered, number);
            return fresh_ms;
        }
    }
}

/// Sends heartbeats until one is answered as wanted.
async fn beat_until(host: &mut RawHost, wanted: impl Fn(Option<u64>) -> bool) {
    let all = async {
        for number in 1.. {
            if wanted(beat(host, number).await) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, all).await.expect("the answer");
}

fn record(control: &Control, id: &HostId) -> Host {
    control.snapshot().host(id).unwrap().value().clone()
}

async fn edit(control: &Control, id: &HostId, edit: impl FnOnce(&mut Host)) {
    let mut host = record(control, id);
    edit(&mut host);
    let tx = Transaction::new().put(Object::Host(host));
    control.store().commit(tx).await.unwrap();
}

async fn until(control: &Control, id: &HostId, done: impl Fn(&Host) -> bool) -> Host {
    let mut revisions = control.store().revisions();
    let all = async {
        while !done(&record(control, id)) {
            revisions.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(LONG, all).await;
    assert!(waited.is_ok(), "{:?}", record(control, id).status);
    record(control, id)
}

#[tokio::test]
async fn every_heartbeat_is_answered_at_once_and_promises_what_the_store_stands_for() {
    let (control, _) = open(true, false).await;
    let mut host = control.raw_host("h1").await.unwrap();
    beat_until(&mut host, |fresh| fresh.is_some_and(|ms| ms < 8000)).await;
    assert!(control.store_confirmed_ago().unwrap() < LONG);
    // Whatever else the host says in between, and however fast they come.
    for number in 100..200 {
        host.say(FromHost::Accepted { generation: number }).await;
        assert!(beat(&mut host, number).await.is_some());
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_no_ground_for_a_promise() {
    let (control, backend) = open(false, false).await;
    let mut host = control.raw_host("h1").await.unwrap();
    for number in 1..50 {
        assert_eq!(beat(&mut host, number).await, None);
    }
    assert_eq!(control.store_confirmed_ago(), None);
    backend.answers.store(true, Ordering::SeqCst);
    beat_until(&mut host, |fresh| fresh.is_some()).await;
}

#[tokio::test]
async fn a_host_that_is_taken_as_lost_is_promised_nothing() {
    let (control, _) = open(true, false).await;
    let mut host = control.raw_host("h1").await.unwrap();
    let id = host.session.host.clone();
    beat_until(&mut host, |fresh| fresh.is_some()).await;
    edit(&control, &id, |host| {
        host.status.lost_at = Some(Timestamp(1));
    })
    .await;
    assert_eq!(beat(&mut host, 1000).await, None, "at once");
    edit(&control, &id, |host| host.status.lost_at = None).await;
    beat_until(&mut host, |fresh| fresh.is_some()).await;
}

#[tokio::test]
async fn an_older_session_of_a_host_gets_no_answer() {
    let (control, _) = open(true, false).await;
    let mut old = control.raw_host("h1").await.unwrap();
    let mut new = control.raw_host("h1").await.unwrap();
    old.say(FromHost::Heartbeat { number: 77 }).await;
    beat_until(&mut new, |fresh| fresh.is_some()).await;
    while let Ok(message) = old.outgoing.try_recv() {
        assert!(!matches!(message, ToHost::Heartbeat { .. }), "{message:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_link_is_recorded_with_how_long_the_host_had_been_silent() {
    let (control, _) = open(true, false).await;
    let host = control.raw_host("h1").await.unwrap();
    let id = host.session.host.clone();
    tokio::time::advance(Duration::from_secs(3)).await;
    host.say(FromHost::Heartbeat { number: 1 }).await;
    tokio::time::advance(Duration::from_secs(7)).await;
    drop(host);
    let gone = until(&control, &id, |host| !host.status.connected).await;
    assert!(
        (7000..8000).contains(&gone.status.silent_ms),
        "{}",
        gone.status.silent_ms
    );
    let host = control.raw_host("h1").await.unwrap();
    assert_eq!(record(&control, &id).status.silent_ms, 0);
    drop(host);
}

#[tokio::test(start_paused = true)]
async fn with_several_servers_nobody_says_how_long_a_host_was_silent() {
    let (control, _) = open(true, true).await;
    let host = control.raw_host("h1").await.unwrap();
    let id = host.session.host.clone();
    tokio::time::advance(Duration::from_secs(7)).await;
    drop(host);
    let gone = until(&control, &id, |host| !host.status.connected).await;
    assert_eq!(gone.status.silent_ms, 0, "another server may have heard it");
}

#[tokio::test]
async fn a_host_that_takes_its_messages_too_slowly_is_recorded_as_gone() {
    let (control, _) = open(true, false).await;
    let host = control.raw_host("h1").await.unwrap();
    let id = host.session.host.clone();
    let mut number = 0;
    while !host.session.ended.is_cancelled() {
        number += 1;
        host.say(FromHost::Heartbeat { number }).await;
        assert!(number < 1_000_000, "never cut off");
    }
    drop(host);
    until(&control, &id, |host| !host.status.connected).await;
}
