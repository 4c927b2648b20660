//! The trait all backends implement.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    CommitError, ConfirmError, Metrics, Revision, Snapshot, Transaction, Watch, WatchError,
};

/// The state of an installation.
///
/// The same contract suite runs on every implementation; see the crate's `tests/`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed state. Never blocks; costs the clone of one pointer.
    fn snapshot(&self) -> Snapshot;

    /// Commits `tx` if its expectations hold, and answers with its revision once it is durable.
    ///
    /// Afterwards [`Store::snapshot`] contains it, or, after a conflict, what it lost to: as far as that can be had within a
    /// moment, so that who decides again decides on news. A caller that gives up waiting does not undo the transaction.
    ///
    /// # Errors
    /// When an expectation does not hold or the backend refuses; see [`CommitError`]. Unless it says that the outcome
    /// is unknown, nothing was written.
    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError>;

    /// Answers once [`Store::snapshot`] is known to hold everything that was committed before this was called, by
    /// whomever.
    ///
    /// A store that only this program writes to knows that at once, as long as it can write at all. A full disk is no
    /// reason to refuse: what is there is known.
    ///
    /// # Errors
    /// When that cannot be told within some seconds; see [`ConfirmError`].
    async fn confirm(&self) -> Result<(), ConfirmError>;

    /// Whether other programs may commit to the same state.
    fn is_shared(&self) -> bool;

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
