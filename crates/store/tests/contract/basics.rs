//! Compare-and-swap, atomicity, read-your-writes, names, limits, closing.

use std::collections::BTreeMap;

use model::{Key, Object};
use store::{
    Change, CommitError, ConfirmError, Expect, HistoryLimits, MAX_OBJECT_BYTES, MAX_OPERATIONS,
    NameKey, Revision, Transaction, WatchError,
};

use crate::backend::Fresh;
use crate::objects::*;

contract! {
    starts_empty,
    writes_are_read_at_once,
    absent_refuses_what_exists,
    revision_refuses_what_has_changed,
    exists_refuses_what_is_absent,
    all_or_nothing,
    delete_and_recreate_get_new_revisions,
    a_transaction_without_changes_is_only_checked,
    names_are_unique_where_they_must_be,
    names_can_be_swapped_and_taken_over_in_one_transaction,
    indexes_follow_changes,
    differences_of_snapshots_are_what_changed,
    what_is_too_large_is_refused,
    a_key_is_changed_once_per_transaction,
    big_objects_are_kept_whole,
    closed_is_closed,
    an_open_store_knows_that_its_snapshot_holds_everything,
}

fn kept() -> HistoryLimits {
    HistoryLimits::default()
}

async fn an_open_store_knows_that_its_snapshot_holds_everything<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    store.confirm().await.unwrap();
    let tx = Transaction::new().put(setting("a", "1"));
    let made = store.commit(tx).await.unwrap();
    store.confirm().await.unwrap();
    assert!(store.snapshot().revision >= made);
    store.close().await;
    let refused = store.confirm().await.unwrap_err();
    assert!(matches!(refused, ConfirmError::Closed), "{refused}");
}

async fn differences_of_snapshots_are_what_changed<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    for number in 0..40 {
        let called = format!("w{number}");
        let tx = Transaction::new().put(Object::Workload(workload(number, 1, &called, None)));
        store.commit(tx).await.unwrap();
    }
    let before = store.snapshot();
    let tx = Transaction::new()
        .put(Object::Workload(workload(7, 1, "renamed", None)))
        .put(Object::Workload(workload(99, 1, "new", None)))
        .delete(Key::Workload(workload_id(13)));
    store.commit(tx).await.unwrap();
    let now = store.snapshot();
    let found: BTreeMap<_, _> = now
        .workloads_changed(&before)
        .map(|(id, row)| (id, row.map(|row| row.name.to_string())))
        .collect();
    let expected = BTreeMap::from([
        (workload_id(7), Some("renamed".to_owned())),
        (workload_id(99), Some("new".to_owned())),
        (workload_id(13), None),
    ]);
    assert_eq!(found, expected);
    assert_eq!(now.hosts_changed(&before).count(), 0);
    assert_eq!(now.workloads_changed(&now).count(), 0);
}

async fn starts_empty<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let fresh = open(kept()).await;
    let snapshot = fresh.snapshot();
    assert_eq!(snapshot.objects().count(), 0);
    assert!(snapshot.setting("ca").is_none());
    assert!(fresh.watch(snapshot.revision).is_ok());
}

async fn writes_are_read_at_once<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let store = open(kept()).await;
    let before = store.snapshot();
    let mut last = before.revision;
    for round in 0..20 {
        let value = round.to_string();
        let tx = Transaction::new().put(setting("counter", &value));
        let revision = store.commit(tx).await.unwrap();
        assert!(revision > last, "revisions grow");
        last = revision;
        let snapshot = store.snapshot();
        assert!(snapshot.revision >= revision);
        let row = snapshot.setting("counter").unwrap();
        assert_eq!((&row.value, row.revision()), (&value, revision));
    }
    assert!(
        before.setting("counter").is_none(),
        "a snapshot stays as it was"
    );
}

async fn absent_refuses_what_exists<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let store = open(kept()).await;
    store
        .commit(Transaction::new().create(setting("a", "1")))
        .await
        .unwrap();
    let again = store
        .commit(Transaction::new().create(setting("a", "2")))
        .await;
    assert!(matches!(again, Err(CommitError::Conflict { key }) if key == setting_key("a")));
    assert_eq!(store.snapshot().setting("a").unwrap().value().value, "1");
}

async fn revision_refuses_what_has_changed<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let first = store
        .commit(Transaction::new().put(setting("a", "1")))
        .await
        .unwrap();
    let second = store
        .commit(Transaction::new().update(first, setting("a", "2")))
        .await
        .unwrap();
    let stale = store
        .commit(Transaction::new().update(first, setting("a", "3")))
        .await;
    assert!(matches!(stale, Err(CommitError::Conflict { .. })));
    let stale = store
        .commit(Transaction::new().delete_unchanged(first, setting_key("a")))
        .await;
    assert!(matches!(stale, Err(CommitError::Conflict { .. })));
    store
        .commit(Transaction::new().delete_unchanged(second, setting_key("a")))
        .await
        .unwrap();
    let gone = store
        .commit(Transaction::new().update(second, setting("a", "4")))
        .await;
    assert!(matches!(gone, Err(CommitError::Conflict { .. })));
    assert!(store.snapshot().setting("a").is_none());
}

async fn exists_refuses_what_is_absent<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let needs_pool = || {
        Transaction::new()
            .expect(pool(1, "red").key(), Expect::Exists)
            .put(setting("a", "1"))
    };
    assert!(matches!(
        store.commit(needs_pool()).await,
        Err(CommitError::Conflict { key }) if key == pool(1, "red").key()
    ));
    store
        .commit(Transaction::new().put(pool(1, "red")))
        .await
        .unwrap();
    store.commit(needs_pool()).await.unwrap();
}

async fn all_or_nothing<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let store = open(kept()).await;
    let first = store
        .commit(Transaction::new().put(setting("old", "1")))
        .await
        .unwrap();
    let failing = Transaction::new()
        .create(setting("new", "1"))
        .create(setting("old", "2"))
        .delete(setting_key("old"));
    assert!(matches!(
        store.commit(failing).await,
        Err(CommitError::Duplicate { key }) if key == setting_key("old")
    ));
    let failing = Transaction::new()
        .create(setting("new", "1"))
        .create(setting("old", "2"));
    assert!(matches!(
        store.commit(failing).await,
        Err(CommitError::Conflict { .. })
    ));
    let snapshot = store.snapshot();
    assert!(snapshot.setting("new").is_none());
    assert_eq!(snapshot.setting("old").unwrap().revision(), first);
    let both = Transaction::new()
        .create(setting("new", "1"))
        .delete(setting_key("old"));
    let mut watch = store.watch(first).unwrap();
    let second = store.commit(both).await.unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!(event.revision, second);
    assert_eq!(event.changes.len(), 2);
    let deleted = event.changes.iter().find_map(|change| match change {
        Change::Delete { key, last } => Some((key, last)),
        Change::Put(_) => None,
    });
    let (key, last) = deleted.unwrap();
    assert_eq!(*key, setting_key("old"));
    assert_eq!((setting_value(&last.object), last.revision), ("1", first));
}

async fn delete_and_recreate_get_new_revisions<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let made = store
        .commit(Transaction::new().put(setting("a", "1")))
        .await
        .unwrap();
    let changed = store
        .commit(Transaction::new().put(setting("a", "2")))
        .await
        .unwrap();
    let row = store.snapshot().get(&setting_key("a")).cloned().unwrap();
    assert_eq!((row.created, row.revision), (made, changed));
    let deleted = store
        .commit(Transaction::new().delete(setting_key("a")))
        .await
        .unwrap();
    let made_again = store
        .commit(Transaction::new().create(setting("a", "2")))
        .await
        .unwrap();
    assert!(made < changed && changed < deleted && deleted < made_again);
    let row = store.snapshot().get(&setting_key("a")).cloned().unwrap();
    assert_eq!((row.created, row.revision), (made_again, made_again));
}

async fn a_transaction_without_changes_is_only_checked<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let first = store
        .commit(Transaction::new().put(setting("a", "1")))
        .await
        .unwrap();
    let held = Transaction::new().expect(setting_key("a"), Expect::Revision(first));
    assert_eq!(store.commit(held).await.unwrap(), first);
    let broken = Transaction::new().expect(setting_key("a"), Expect::Absent);
    assert!(matches!(
        store.commit(broken).await,
        Err(CommitError::Conflict { .. })
    ));
    let nothing = Transaction::new().delete(setting_key("b"));
    assert_eq!(store.commit(nothing).await.unwrap(), first);
    assert_eq!(store.commit(Transaction::new()).await.unwrap(), first);
    assert_eq!(store.snapshot().revision, first);
}

async fn names_are_unique_where_they_must_be<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let put = |object| store.commit(Transaction::new().put(object));
    put(pool(1, "red")).await.unwrap();
    let taken = put(pool(2, "red")).await.unwrap_err();
    let CommitError::NameTaken {
        name: taken,
        holder,
    } = taken
    else {
        panic!("{taken}");
    };
    assert_eq!(holder, pool(1, "red").key());
    assert_eq!(taken, NameKey::of(&pool(9, "red")).unwrap());
    let web = |number, pool| model::Object::Workload(workload(number, pool, "web", None));
    put(web(1, 1)).await.unwrap();
    put(web(2, 2)).await.unwrap();
    assert!(matches!(
        put(web(3, 1)).await,
        Err(CommitError::NameTaken { .. })
    ));
    let twice = Transaction::new().put(pool(3, "blue")).put(pool(4, "blue"));
    assert!(matches!(
        store.commit(twice).await,
        Err(CommitError::NameTaken { .. })
    ));
    // The same object keeps its name; a freed name is free.
    put(pool(1, "red")).await.unwrap();
    put(pool(1, "green")).await.unwrap();
    put(pool(2, "red")).await.unwrap();
    store
        .commit(Transaction::new().delete(pool(1, "green").key()))
        .await
        .unwrap();
    put(pool(3, "green")).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!(
        snapshot.pool_by_name(&name("green")).unwrap().id,
        pool_id(3)
    );
    assert_eq!(snapshot.pool_by_name(&name("red")).unwrap().id, pool_id(2));
}

async fn names_can_be_swapped_and_taken_over_in_one_transaction<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let both = Transaction::new().put(pool(1, "red")).put(pool(2, "blue"));
    store.commit(both).await.unwrap();
    let swap = Transaction::new().put(pool(1, "blue")).put(pool(2, "red"));
    store.commit(swap).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.pool_by_name(&name("blue")).unwrap().id, pool_id(1));
    assert_eq!(snapshot.pool_by_name(&name("red")).unwrap().id, pool_id(2));
    let replace = Transaction::new()
        .put(pool(3, "red"))
        .delete(pool(2, "red").key());
    store.commit(replace).await.unwrap();
    assert_eq!(
        store.snapshot().pool_by_name(&name("red")).unwrap().id,
        pool_id(3)
    );
    let taken = store.commit(Transaction::new().put(pool(4, "blue"))).await;
    assert!(matches!(taken, Err(CommitError::NameTaken { .. })));
}

async fn indexes_follow_changes<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let store = open(kept()).await;
    let put = |it| store.commit(Transaction::new().put(model::Object::Workload(it)));
    put(workload(1, 1, "a", None)).await.unwrap();
    put(workload(2, 1, "b", Some(7))).await.unwrap();
    put(workload(3, 2, "c", Some(7))).await.unwrap();
    let before = store.snapshot();
    put(workload(1, 1, "a2", Some(8))).await.unwrap();
    put(workload(3, 2, "c", Some(8))).await.unwrap();
    store
        .commit(Transaction::new().delete(model::Key::Workload(workload_id(2))))
        .await
        .unwrap();
    let after = store.snapshot();
    let of = |snapshot: &store::Snapshot, pool| snapshot.workloads_of(&pool_id(pool)).count();
    let on = |snapshot: &store::Snapshot, host| snapshot.workloads_on(&host_id(host)).count();
    assert_eq!(
        (
            of(&before, 1),
            of(&before, 2),
            on(&before, 7),
            on(&before, 8)
        ),
        (2, 1, 2, 0)
    );
    assert_eq!(
        (of(&after, 1), of(&after, 2), on(&after, 7), on(&after, 8)),
        (1, 1, 0, 2)
    );
    assert!(after.workload_by_name(&pool_id(1), &name("a")).is_none());
    assert!(after.workload_by_name(&pool_id(1), &name("b")).is_none());
    let found = after.workload_by_name(&pool_id(1), &name("a2")).unwrap();
    assert_eq!(found.id, workload_id(1));
}

async fn what_is_too_large_is_refused<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let huge = setting("a", "x".repeat(MAX_OBJECT_BYTES));
    let refused = store.commit(Transaction::new().put(huge)).await;
    assert!(matches!(refused, Err(CommitError::TooLarge { .. })));
    let half = || "x".repeat(MAX_OBJECT_BYTES / 10 * 7);
    let two = Transaction::new()
        .put(setting("a", half()))
        .put(setting("b", half()));
    assert!(matches!(
        store.commit(two).await,
        Err(CommitError::TooLarge { .. })
    ));
    let many = |count: usize| {
        (0..count as u64).fold(Transaction::new(), |tx, at| {
            tx.create(pool(at, &format!("p{at}")))
        })
    };
    let refused = store.commit(many(MAX_OPERATIONS + 1)).await;
    assert!(matches!(refused, Err(CommitError::TooLarge { .. })));
    assert_eq!(store.snapshot().objects().count(), 0);
    store.commit(many(MAX_OPERATIONS)).await.unwrap();
    assert_eq!(store.snapshot().pools().count(), MAX_OPERATIONS);
}

async fn a_key_is_changed_once_per_transaction<F: Future<Output = Fresh>>(
    open: impl Fn(HistoryLimits) -> F,
) {
    let store = open(kept()).await;
    let twice = Transaction::new()
        .put(setting("a", "1"))
        .put(setting("a", "2"));
    assert!(matches!(
        store.commit(twice).await,
        Err(CommitError::Duplicate { .. })
    ));
}

async fn big_objects_are_kept_whole<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let store = open(kept()).await;
    for length in [0, 1, 4095, 4096, 65_537, MAX_OBJECT_BYTES - 200] {
        let value: String = ('a'..='z').cycle().take(length).collect();
        store
            .commit(Transaction::new().put(setting("big", &value)))
            .await
            .unwrap();
        let snapshot = store.snapshot();
        assert!(
            snapshot.setting("big").unwrap().value().value == value,
            "{length}"
        );
    }
}

async fn closed_is_closed<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let fresh = open(kept()).await;
    let store = &fresh;
    let mut watch = store
        .watch(Revision::ZERO.max(store.snapshot().revision))
        .unwrap();
    let last = store
        .commit(Transaction::new().put(setting("a", "1")))
        .await
        .unwrap();
    store.close().await;
    store.close().await;
    let late = store
        .commit(Transaction::new().put(setting("a", "2")))
        .await;
    assert!(matches!(late, Err(CommitError::Closed)));
    assert_eq!(watch.next().await.unwrap().revision, last);
    assert_eq!(watch.next().await.unwrap_err(), WatchError::Closed);
    assert!(matches!(store.watch(last), Err(WatchError::Closed)));
    assert_eq!(store.snapshot().setting("a").unwrap().value().value, "1");
}
