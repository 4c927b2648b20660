//! Many writers at once: exactly one wins where only one may.

use std::sync::Arc;

use store::{CommitError, HistoryLimits, Revision, Store, Transaction};

use crate::backend::Fresh;
use crate::objects::*;

contract! {
    one_of_64_gets_the_name,
    one_of_64_makes_the_object,
    no_increment_is_lost,
    who_lost_sees_what_it_lost_to,
    renames_never_double_a_name,
}

const WRITERS: u64 = 64;

async fn open<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) -> Fresh {
    open(HistoryLimits::default()).await
}

/// Commits all at once and returns the answers.
async fn all_at_once(
    store: &Arc<dyn Store>,
    transactions: impl Iterator<Item = Transaction>,
) -> Vec<Result<Revision, CommitError>> {
    let tasks: Vec<_> = transactions
        .map(|tx| {
            let store = Arc::clone(store);
            tokio::spawn(async move { store.commit(tx).await })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

async fn one_of_64_gets_the_name<F: Future<Output = Fresh>>(how: impl Fn(HistoryLimits) -> F) {
    let fresh = open(how).await;
    for round in 0..5u64 {
        let called = format!("web{round}");
        let web = |at| {
            let object = workload(round * WRITERS + at, 1, &called, None);
            Transaction::new().create(model::Object::Workload(object))
        };
        let answers = all_at_once(&fresh, (0..WRITERS).map(web)).await;
        assert_eq!(answers.iter().filter(|it| it.is_ok()).count(), 1);
        for refused in answers.iter().filter_map(|it| it.as_ref().err()) {
            assert!(
                matches!(refused, CommitError::NameTaken { .. }),
                "{refused:?}"
            );
        }
    }
    assert_eq!(fresh.snapshot().workloads().count(), 5);
}

async fn one_of_64_makes_the_object<F: Future<Output = Fresh>>(how: impl Fn(HistoryLimits) -> F) {
    let fresh = open(how).await;
    let make = |at: u64| Transaction::new().create(setting("leader", at.to_string()));
    let answers = all_at_once(&fresh, (0..WRITERS).map(make)).await;
    let winners: Vec<usize> = (answers.iter().enumerate())
        .filter_map(|(at, answer)| answer.is_ok().then_some(at))
        .collect();
    let snapshot = fresh.snapshot();
    let leader = &snapshot.setting("leader").unwrap().value().value;
    assert_eq!(winners, [leader.parse::<usize>().unwrap()]);
}

async fn no_increment_is_lost<F: Future<Output = Fresh>>(how: impl Fn(HistoryLimits) -> F) {
    const EACH: u64 = 10;
    let fresh = open(how).await;
    fresh
        .commit(Transaction::new().create(setting("counter", "0")))
        .await
        .unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&fresh.store);
            tokio::spawn(async move {
                let mut done = 0;
                while done < EACH {
                    let snapshot = store.snapshot();
                    let row = snapshot.setting("counter").unwrap();
                    let next = row.value().value.parse::<u64>().unwrap() + 1;
                    let tx = Transaction::new()
                        .update(row.revision(), setting("counter", next.to_string()));
                    match store.commit(tx).await {
                        Ok(_) => done += 1,
                        Err(CommitError::Conflict { .. }) => tokio::task::yield_now().await,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let snapshot = fresh.snapshot();
    assert_eq!(
        snapshot.setting("counter").unwrap().value().value,
        (8 * EACH).to_string()
    );
    assert!(fresh.metrics().commits > 8 * EACH);
}

/// Whoever decides again at once, without waiting for anything, does it on the state that made it lose.
async fn who_lost_sees_what_it_lost_to<F: Future<Output = Fresh>>(
    how: impl Fn(HistoryLimits) -> F,
) {
    let fresh = open(how).await;
    let mut known = fresh
        .commit(Transaction::new().create(setting("counter", "0")))
        .await
        .unwrap();
    for round in 0..10 {
        let tasks: Vec<_> = (0..WRITERS)
            .map(|at| {
                let store = Arc::clone(&fresh.store);
                let object = setting("counter", format!("{at} {round}"));
                tokio::spawn(async move {
                    let tx = Transaction::new().update(known, object);
                    let answer = store.commit(tx).await;
                    let seen = store.snapshot();
                    (answer, seen.setting("counter").unwrap().revision())
                })
            })
            .collect();
        let before = known;
        for task in tasks {
            let (answer, seen) = task.await.unwrap();
            assert!(seen > before, "round {round}: {answer:?}, seen {seen}");
            known = seen;
        }
    }
    // What was deleted meanwhile is seen to be gone.
    let gone = Transaction::new().delete(setting_key("counter"));
    fresh.commit(gone).await.unwrap();
    let late = Transaction::new().update(known, setting("counter", "late"));
    let lost = fresh.commit(late).await.unwrap_err();
    assert!(matches!(lost, CommitError::Conflict { .. }), "{lost}");
    assert!(fresh.snapshot().setting("counter").is_none());
}

async fn renames_never_double_a_name<F: Future<Output = Fresh>>(how: impl Fn(HistoryLimits) -> F) {
    let fresh = open(how).await;
    let four = (0..4).fold(Transaction::new(), |tx, at| {
        tx.put(pool(at, &format!("n{at}")))
    });
    fresh.commit(four).await.unwrap();
    // Four pools, five names, everybody moves blindly.
    for round in 0..4u64 {
        let moves = (0..32u64).map(|at| {
            let to = (at * 7 + round * 3 + at / 5) % 5;
            Transaction::new().put(pool(at % 4, &format!("n{to}")))
        });
        for answer in all_at_once(&fresh, moves).await {
            assert!(
                matches!(answer, Ok(_) | Err(CommitError::NameTaken { .. })),
                "{answer:?}"
            );
        }
        let snapshot = fresh.snapshot();
        let mut names: Vec<_> = snapshot.pools().map(|it| it.name.clone()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 4);
        for pool in snapshot.pools() {
            assert_eq!(snapshot.pool_by_name(&pool.name).unwrap().id, pool.id);
        }
    }
    // Nothing stays reserved: every name that nobody has can be had.
    let snapshot = fresh.snapshot();
    let free = (0..5).map(|at| format!("n{at}"));
    let free: Vec<_> = free
        .filter(|it| snapshot.pool_by_name(&name(it)).is_none())
        .collect();
    assert_eq!(free.len(), 1);
    fresh
        .commit(Transaction::new().put(pool(9, &free[0])))
        .await
        .unwrap();
}
