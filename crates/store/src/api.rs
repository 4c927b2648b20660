//! The trait all backends implement.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{CommitError, Metrics, Revision, Snapshot, Transaction, Watch, WatchError};

/// The state of an installation.
///
/// The same contract suite runs on every implementation; see the crate's `tests/`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed state. Never blocks; costs the clone of one pointer.
    fn snapshot(&self) -> Snapshot;

    /// Commits `tx` if its expectations hold, and answers with its revision once it is durable.
    ///
    /// Afterwards [`Store::snapshot`] contains it. A caller that gives up waiting does not undo the transaction.
    ///
    /// # Errors
    /// When an expectation does not hold or the backend refuses; see [`CommitError`]. Unless it says that the outcome
    /// is unknown, nothing was written.
    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError>;

    /// Events after `from`, in order, without gap or duplicate: first those that are kept, then as they happen.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when `from` is too far back; [`WatchError::Closed`] after [`Store::close`].
    fn watch(&self, from: Revision) -> Result<Watch, WatchError>;

    /// Tells of every new revision (only the newest is kept): for waiting until a snapshot satisfies a condition.
    fn revisions(&self) -> watch::Receiver<Revision>;

    /// Counters since the store was opened.
    fn metrics(&self) -> Metrics;

    /// Refuses further commits, finishes those already taken, and lets go of files and connections.
    ///
    /// The last snapshot stays readable. Closing twice does nothing.
    async fn close(&self);
}
