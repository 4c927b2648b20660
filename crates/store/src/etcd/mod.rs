//! The shared store: several servers on one etcd.
//!
//! What always holds: the snapshot is built only from the list at one revision and the watch after it, in order; a
//! commit is one etcd transaction that compares what it relied on, and is acknowledged when the watch has shown it.
//! etcd's leases and locks are not used: a lock can be held twice, a comparison in the same transaction cannot.
//!
//! Keys below the prefix: `o/KIND/ID` objects, `n/KIND/POOL/NAME` who has a name, `form` the version of this layout,
//! `s/STORE` written to make the watch show that it is up to date. The value of an object begins with the
//! transaction's mark, so that a store can tell its own writes when an answer was lost.

mod client;
mod commit;
mod confirm;
mod follow;
mod keys;
mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinHandle;

use crate::feed::Feed;
use crate::metrics::Counters;
use crate::prepare::prepare;
use crate::{
    CommitError, ConfirmError, HistoryLimits, Metrics, OpenError, Revision, Snapshot, Store,
    Transaction, Watch, WatchError,
};
pub use client::EtcdTls;
use keys::{Keys, Mark};

/// How an etcd store behaves and who it is.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// How far back events are kept.
    pub history: HistoryLimits,
    /// User and password, if etcd asks for them.
    pub user: Option<(String, String)>,
    /// Certificates, for `https` endpoints.
    pub tls: Option<EtcdTls>,
}

struct EtcdStore {
    shared: Arc<Shared>,
    /// Held shared by commits; taken alone by `close`. The value: whether it is closed.
    closed: RwLock<bool>,
    follower: Mutex<Option<JoinHandle<()>>>,
}

/// What commits and the follower share.
struct Shared {
    client: client::Client,
    keys: Keys,
    feed: Arc<Feed>,
    counters: Counters,
    /// Last revision of any key below the prefix that the watch has shown; at least the snapshot's.
    shown: watch::Sender<Revision>,
    /// Transactions on the way, and where the watch has shown them.
    pending: Mutex<HashMap<Mark, Option<Revision>>>,
}

/// Opens the store below `prefix` of the etcd at `endpoints` (`http://host:2379`).
///
/// # Errors
/// When etcd does not answer, or what is stored cannot be read by this program.
pub async fn open_etcd<E: AsRef<str>>(
    endpoints: &[E],
    prefix: &str,
    options: EtcdOptions,
) -> Result<Arc<dyn Store>, OpenError> {
    let client = client::Client::connect(endpoints, &options).await?;
    let keys = Keys::new(prefix);
    client.check_form(&keys).await?;
    let listed = follow::list(&client, &keys).await?;
    let revision = listed.state.revision;
    let shared = Arc::new(Shared {
        client,
        keys,
        feed: Feed::new(listed.state.snapshot(), options.history),
        counters: Counters::default(),
        shown: watch::Sender::new(revision),
        pending: Mutex::new(HashMap::new()),
    });
    let follower = tokio::spawn(follow::run(Arc::clone(&shared), listed.state));
    Ok(Arc::new(EtcdStore {
        shared,
        closed: RwLock::new(false),
        follower: Mutex::new(Some(follower)),
    }))
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<Mark, Option<Revision>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EtcdStore {
    async fn submit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        let tx = prepare(tx)?;
        let closed = self.closed.read().await;
        if *closed || self.shared.feed.is_closed() {
            return Err(CommitError::Closed);
        }
        commit::commit(&self.shared, tx).await
    }

    fn stop_following(&self) {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follower) = follower.take() {
            follower.abort();
        }
        self.shared.feed.close();
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.stop_following();
    }
}

#[async_trait]
impl Store for EtcdStore {
    fn snapshot(&self) -> Snapshot {
        self.shared.feed.snapshot()
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        self.submit(tx)
            .await
            .inspect_err(|error| self.shared.counters.refused(error))
    }

    async fn confirm(&self) -> Result<(), ConfirmError> {
        confirm::confirm(&self.shared).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        self.shared.feed.watch(from)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.shared.feed.revisions()
    }

    fn metrics(&self) -> Metrics {
        self.shared.counters.read()
    }

    async fn close(&self) {
        *self.closed.write().await = true;
        self.stop_following();
    }
}
