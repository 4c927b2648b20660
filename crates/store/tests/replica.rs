//! A server's view of a store that others share: late, cut, and never back.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use store::{CommitError, ConfirmError, Replica, Store, Transaction};
use tokio::time::Instant;

#[path = "common/objects.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod objects;
use objects::setting;

const LAG: Duration = Duration::from_millis(40);

fn tx(value: &str) -> Transaction {
    Transaction::new().put(setting("a", value))
}

#[tokio::test(start_paused = true)]
async fn what_others_commit_is_seen_later_and_ones_own_at_once() {
    let inner = store::open_memory();
    let replica = Replica::of(inner.clone());
    replica.lag(LAG);
    let theirs = inner.commit(tx("theirs")).await.unwrap();
    let began = Instant::now();
    let mut revisions = replica.revisions();
    assert!(replica.snapshot().revision < theirs);
    revisions.wait_for(|it| *it >= theirs).await.unwrap();
    assert!(began.elapsed() >= LAG);
    let mine = replica.commit(tx("mine")).await.unwrap();
    assert!(replica.snapshot().revision >= mine);
    let late = inner.commit(tx("late")).await.unwrap();
    replica.confirm().await.unwrap();
    assert!(replica.snapshot().revision >= late);
    assert!(replica.is_shared());
}

#[tokio::test(start_paused = true)]
async fn who_lost_sees_what_it_lost_to() {
    let inner = store::open_memory();
    let replica = Replica::of(inner.clone());
    replica.lag(LAG);
    let theirs = inner.commit(tx("theirs")).await.unwrap();
    let late = Transaction::new().create(setting("a", "mine"));
    let lost = replica.commit(late).await.unwrap_err();
    assert!(matches!(lost, CommitError::Conflict { .. }), "{lost}");
    assert!(replica.snapshot().revision >= theirs);
}

#[tokio::test(start_paused = true)]
async fn a_cut_way_shows_nothing_and_takes_nothing() {
    let inner = store::open_memory();
    let replica = Replica::of(inner.clone());
    replica.cut(true);
    let refused = replica.commit(tx("mine")).await.unwrap_err();
    let outcome =
        matches!(refused, CommitError::Backend { outcome_unknown, .. } if !outcome_unknown);
    assert!(outcome, "{refused}");
    assert_eq!(inner.snapshot().revision, replica.snapshot().revision);
    let theirs = inner.commit(tx("theirs")).await.unwrap();
    let unknown = replica.confirm().await.unwrap_err();
    assert!(matches!(unknown, ConfirmError::Backend { .. }), "{unknown}");
    assert!(replica.snapshot().revision < theirs);
    replica.cut(false);
    replica.confirm().await.unwrap();
    assert_eq!(replica.snapshot().revision, theirs);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_cut_on_its_way_back_may_have_been_made() {
    let inner = store::open_memory();
    let replica = Replica::of(inner.clone());
    replica.lag(LAG);
    let mut made = inner.revisions();
    let before = *made.borrow_and_update();
    let cutting = async {
        made.wait_for(|it| *it > before).await.unwrap();
        replica.cut(true);
    };
    let (answer, ()) = tokio::join!(replica.commit(tx("mine")), cutting);
    let unknown = answer.unwrap_err();
    let outcome =
        matches!(unknown, CommitError::Backend { outcome_unknown, .. } if outcome_unknown);
    assert!(outcome, "{unknown}");
    assert_eq!(replica.snapshot().revision, before);
}
