//! Watch: replay and live without gap or duplicate, lag, compaction; snapshots that stay as they are.

use std::time::Duration;

use store::{Change, HistoryLimits, Revision, Store, Transaction, Watch, WatchError};
use tokio::time::timeout;

use crate::backend::Fresh;
use crate::objects::*;

contract! {
    replay_and_live_are_one_stream,
    watchers_from_every_revision_see_the_same,
    a_watch_from_now_waits,
    a_slow_watcher_is_told_and_others_are_not_held_up,
    what_is_no_longer_kept_is_refused,
    the_snapshot_has_what_an_event_tells,
    snapshots_stay_as_they_are,
    ten_thousand_objects,
}

/// Longer than anything here takes; only failures wait for it.
const LONG: Duration = Duration::from_secs(60);

fn kept() -> HistoryLimits {
    HistoryLimits::default()
}

async fn next(watch: &mut Watch) -> store::Event {
    timeout(LONG, watch.next()).await.unwrap().unwrap()
}

async fn count_up(store: &dyn Store, from: u64, to: u64) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for at in from..to {
        let tx = Transaction::new().put(setting("counter", at.to_string()));
        revisions.push(store.commit(tx).await.unwrap());
    }
    revisions
}

fn counted(event: &store::Event) -> u64 {
    match &event.changes[..] {
        [Change::Put(it)] => setting_value(&it.object).parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn replay_and_live_are_one_stream<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let fresh = open(kept()).await;
    let start = fresh.snapshot().revision;
    count_up(&**fresh, 0, 100).await;
    let store = std::sync::Arc::clone(&fresh.store);
    let writer = tokio::spawn(async move { count_up(&*store, 100, 300).await });
    let mut watch = fresh.watch(start).unwrap();
    let mut last = start;
    for expected in 0..300 {
        let event = next(&mut watch).await;
        assert_eq!(counted(&event), expected);
        assert!(event.revision > last);
        last = event.revision;
    }
    writer.await.unwrap();
    assert_eq!(watch.try_next().unwrap().map(|it| it.revision), None);
    assert_eq!(watch.seen(), last);
}

async fn watchers_from_every_revision_see_the_same<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let fresh = open(kept()).await;
    let start = fresh.snapshot().revision;
    let revisions = count_up(&**fresh, 0, 30).await;
    for (skip, from) in std::iter::once(&start).chain(&revisions).enumerate() {
        let mut watch = fresh.watch(*from).unwrap();
        for expected in &revisions[skip..] {
            assert_eq!(next(&mut watch).await.revision, *expected);
        }
        assert!(watch.try_next().unwrap().is_none());
    }
}

async fn a_watch_from_now_waits<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let fresh = open(kept()).await;
    let mut watch = fresh.watch(fresh.snapshot().revision).unwrap();
    // Dropped while waiting, twice: nothing is lost.
    for _ in 0..2 {
        assert!(
            timeout(Duration::from_millis(1), watch.next())
                .await
                .is_err()
        );
    }
    let mut revisions = fresh.revisions();
    let revision = count_up(&**fresh, 0, 1).await[0];
    timeout(LONG, revisions.wait_for(|now| *now >= revision))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(next(&mut watch).await.revision, revision);
}

async fn a_slow_watcher_is_told_and_others_are_not_held_up<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let few = HistoryLimits {
        events: 10,
        ..kept()
    };
    let fresh = open(few).await;
    let mut slow = fresh.watch(fresh.snapshot().revision).unwrap();
    let mut quick = fresh.watch(fresh.snapshot().revision).unwrap();
    for round in 0..50 {
        let revision = count_up(&**fresh, round, round + 1).await[0];
        assert_eq!(next(&mut quick).await.revision, revision);
    }
    let Err(WatchError::Lagged { oldest }) = slow.next().await else {
        panic!("should have fallen behind");
    };
    assert!(
        matches!(slow.try_next(), Err(WatchError::Lagged { .. })),
        "it stays so"
    );
    let snapshot = fresh.snapshot();
    assert!(oldest <= snapshot.revision);
    let mut again = fresh.watch(snapshot.revision).unwrap();
    let revision = count_up(&**fresh, 50, 51).await[0];
    assert_eq!(next(&mut again).await.revision, revision);
}

async fn what_is_no_longer_kept_is_refused<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let few = HistoryLimits {
        bytes: 64 * 1024,
        ..kept()
    };
    let fresh = open(few).await;
    let start = fresh.snapshot().revision;
    for at in 0..20 {
        let big = setting("big", format!("{at}{}", "x".repeat(16 * 1024)));
        fresh.commit(Transaction::new().put(big)).await.unwrap();
    }
    let Err(WatchError::Compacted { oldest }) = fresh.watch(start) else {
        panic!("should be gone");
    };
    assert!(oldest > start);
    let mut watch = fresh.watch(oldest).unwrap();
    assert!(next(&mut watch).await.revision > oldest);
}

async fn the_snapshot_has_what_an_event_tells<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let fresh = open(kept()).await;
    let mut watch = fresh.watch(fresh.snapshot().revision).unwrap();
    let store = std::sync::Arc::clone(&fresh.store);
    let writer = tokio::spawn(async move { count_up(&*store, 0, 500).await });
    for _ in 0..500 {
        let event = next(&mut watch).await;
        let snapshot = fresh.snapshot();
        assert!(snapshot.revision >= event.revision);
        assert!(snapshot.setting("counter").unwrap().revision() >= event.revision);
    }
    writer.await.unwrap();
}

async fn snapshots_stay_as_they_are<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let fresh = open(kept()).await;
    let store = std::sync::Arc::clone(&fresh.store);
    let writer = tokio::spawn(async move {
        for round in 0..100u64 {
            // Three objects always say the same, in every state anybody can see.
            let tx = ["a", "b", "c"]
                .iter()
                .fold(Transaction::new(), |tx, called| {
                    tx.put(setting(called, round.to_string()))
                });
            store.commit(tx).await.unwrap();
        }
    });
    let mut revisions = fresh.revisions();
    while !writer.is_finished() {
        let snapshot = fresh.snapshot();
        let said = |called| snapshot.setting(called).map(|it| it.value().value.clone());
        let first = said("a");
        tokio::select! {
            changed = revisions.changed() => changed.unwrap(),
            // tidy: sleep: pause between two looks
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        assert_eq!(
            (said("a"), said("b"), said("c")),
            (first.clone(), first.clone(), first)
        );
    }
    writer.await.unwrap();
}

async fn ten_thousand_objects<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let fresh = open(kept()).await;
    let many = (0..10_000u64).collect::<Vec<_>>();
    for chunk in many.chunks(64) {
        let tx = chunk.iter().fold(Transaction::new(), |tx, at| {
            let object = workload(*at, at % 10, &format!("w{at}"), Some(at % 7));
            tx.create(model::Object::Workload(object))
        });
        fresh.commit(tx).await.unwrap();
    }
    let snapshot = fresh.snapshot();
    assert_eq!(snapshot.workloads().count(), 10_000);
    assert_eq!(snapshot.workloads_of(&pool_id(3)).count(), 1000);
    assert_eq!(snapshot.workloads_on(&host_id(0)).count(), 1429);
    for chunk in many[..9_000].chunks(64) {
        let tx = chunk.iter().fold(Transaction::new(), |tx, at| {
            tx.delete(model::Key::Workload(workload_id(*at)))
        });
        fresh.commit(tx).await.unwrap();
    }
    assert_eq!(fresh.snapshot().objects().count(), 1000);
    assert_eq!(snapshot.objects().count(), 10_000);
}
