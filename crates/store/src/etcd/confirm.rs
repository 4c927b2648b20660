//! Whether the snapshot holds everything: etcd is asked for its present revision, and the watch must have shown it.

use std::time::Duration;

use tokio::time::timeout;

use super::Shared;
use super::client::CallError;
use super::commit::revision_of;
use crate::{ConfirmError, Revision};

/// How long it may take in all. Who asks wants to act on it within seconds; a later answer would only hold up the next
/// question.
const LIMIT: Duration = Duration::from_secs(5);

/// How far the watch may be behind an answer of etcd without anything being wrong: both come from the same member most
/// of the time, so that this is a matter of milliseconds.
const WATCH_LAG: Duration = Duration::from_millis(100);

pub(super) async fn confirm(shared: &Shared) -> Result<(), ConfirmError> {
    if shared.feed.is_closed() {
        return Err(ConfirmError::Closed);
    }
    match timeout(LIMIT, caught_up(shared)).await {
        Ok(Ok(())) if shared.feed.is_closed() => Err(ConfirmError::Closed),
        Ok(result) => result,
        Err(_) => Err(ConfirmError::Late {
            seconds: LIMIT.as_secs(),
        }),
    }
}

async fn caught_up(shared: &Shared) -> Result<(), ConfirmError> {
    let failed = |doing| {
        move |error: CallError| ConfirmError::Backend {
            doing,
            source: error.into(),
        }
    };
    // Linearizable, which is etcd's default: a member that is cut off from the others does not answer.
    let answer = shared.client.get(shared.keys.sync(), None).await;
    let answer = answer.map_err(failed("read from etcd"))?;
    let now = answer.header().map(|header| revision_of(header.revision()));
    let now = now.ok_or(ConfirmError::Backend {
        doing: "read from etcd",
        source: "etcd did not tell its revision".into(),
    })?;
    let seen = all_shown(shared, now).await;
    seen.map_err(failed("write to etcd"))
}

/// Waits until everything up to a revision that etcd named is in the snapshot.
pub(super) async fn all_shown(shared: &Shared, revision: Revision) -> Result<(), CallError> {
    if timeout(WATCH_LAG, shown(shared, revision)).await.is_ok() {
        return Ok(());
    }
    // That revision may be a write of somebody else outside of the prefix, which the watch does not show. A write of our
    // own is shown, after everything before it. (etcd can be asked how far a watch is, but before 3.4.25 and 3.5.8 its
    // answer overtook events.)
    let written = shared.client.put(shared.keys.sync()).await?;
    shown(shared, revision_of(written)).await;
    Ok(())
}

/// Waits until the watch has shown `revision`, and with it the snapshot holds it.
async fn shown(shared: &Shared, revision: Revision) {
    let mut shown = shared.shown.subscribe();
    if shown.wait_for(|now| *now >= revision).await.is_err() {
        // Its sender lives as long as `shared`; without it nothing would be shown any more.
        std::future::pending::<()>().await;
    }
}
