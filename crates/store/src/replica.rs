//! A store as one of several servers has it: what the others commit is seen later, and the way to it can break.
//!
//! For simulations and tests of servers that share a store: over a memory store it behaves as etcd does, with delays and
//! cuts that somebody decides on. What it is not: a cache for production; the backends have their own.
//!
//! What always holds: as with every store, a commit that was answered is in the snapshot, or what it lost to, and the
//! snapshot never goes back. Closing it closes this server's view only.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::feed::Feed;
use crate::{
    CommitError, ConfirmError, HistoryLimits, Metrics, Revision, Snapshot, Store, Transaction,
    Watch, WatchError,
};

/// How long [`Store::confirm`] may take, as with etcd.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);

/// One server's view of a store.
pub struct Replica {
    inner: Arc<dyn Store>,
    feed: Arc<Feed>,
    way: watch::Sender<Way>,
}

/// The way to the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Way {
    /// How long it takes until a commit of somebody else is seen, and half of a commit of one's own.
    lag: Duration,
    cut: bool,
    closed: bool,
}

impl Replica {
    /// A view that is up to date. Call it inside of a runtime: it follows the store in a task of its own.
    #[must_use]
    pub fn of(inner: Arc<dyn Store>) -> Arc<Self> {
        Self::of_with(inner, HistoryLimits::default())
    }

    /// The same, with so many events kept.
    #[must_use]
    pub fn of_with(inner: Arc<dyn Store>, history: HistoryLimits) -> Arc<Self> {
        let snapshot = inner.snapshot();
        let replica = Arc::new(Self {
            feed: Feed::new(snapshot.clone(), history),
            way: watch::Sender::default(),
            inner,
        });
        let follower = Follower {
            inner: Arc::clone(&replica.inner),
            feed: Arc::clone(&replica.feed),
            way: replica.way.subscribe(),
        };
        tokio::spawn(follower.run(snapshot.revision));
        replica
    }

    /// From now on it takes so long until commits of others are seen.
    pub fn lag(&self, lag: Duration) {
        self.way.send_modify(|way| way.lag = lag);
    }

    /// From now on nothing is seen of the store and no commit reaches it, or both do again.
    pub fn cut(&self, cut: bool) {
        self.way.send_modify(|way| way.cut = cut);
    }

    /// Waits until what is committed at `revision` is seen.
    ///
    /// # Errors
    /// When the way breaks before.
    async fn seen(&self, revision: Revision) -> Result<(), Gone> {
        let (mut shown, mut way) = (self.feed.revisions(), self.way.subscribe());
        tokio::select! {
            biased;
            shown = shown.wait_for(|now| *now >= revision) => shown.map(drop).map_err(|_| Gone::Closed),
            broken = way.wait_for(|way| way.cut || way.closed) => Err(match broken {
                Ok(way) if way.closed => Gone::Closed,
                Ok(_) => Gone::Cut,
                Err(_) => Gone::Closed,
            }),
        }
    }

    /// One half of the way there and back.
    ///
    /// # Errors
    /// When it is broken at the end.
    async fn half_way(&self) -> Result<(), Gone> {
        let half = self.way.borrow().lag / 2;
        if !half.is_zero() {
            tokio::time::sleep(half).await;
        }
        match *self.way.borrow() {
            Way { closed: true, .. } => Err(Gone::Closed),
            Way { cut: true, .. } => Err(Gone::Cut),
            Way { .. } => Ok(()),
        }
    }
}

/// Why the store is not reached.
enum Gone {
    Closed,
    Cut,
}

impl Gone {
    fn commit_error(&self, doing: &'static str, outcome_unknown: bool) -> CommitError {
        match self {
            Gone::Closed => CommitError::Closed,
            Gone::Cut => CommitError::Backend {
                doing,
                outcome_unknown,
                source: "the way to the store is cut".into(),
            },
        }
    }
}

impl From<Gone> for ConfirmError {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Closed => ConfirmError::Closed,
            Gone::Cut => ConfirmError::Backend {
                doing: "ask the store for its revision",
                source: "the way to the store is cut".into(),
            },
        }
    }
}

/// Shows in one feed what happens in another store.
struct Follower {
    inner: Arc<dyn Store>,
    feed: Arc<Feed>,
    way: watch::Receiver<Way>,
}

impl Follower {
    async fn run(mut self, from: Revision) {
        let Ok(mut watch) = self.inner.watch(from) else {
            self.feed.close();
            return;
        };
        let mut way = self.way.clone();
        loop {
            let first = tokio::select! {
                first = watch.next_sized() => first,
                _ = way.wait_for(|way| way.closed) => return,
            };
            if !self.arrives().await {
                return;
            }
            let mut events = match first {
                Ok(event) => vec![event],
                Err(WatchError::Closed) => break,
                Err(WatchError::Compacted { .. } | WatchError::Lagged { .. }) => {
                    let snapshot = self.inner.snapshot();
                    match self.inner.watch(snapshot.revision) {
                        Ok(anew) => watch = anew,
                        Err(_) => break,
                    }
                    self.feed.publish_gap(snapshot);
                    continue;
                }
            };
            let snapshot = self.inner.snapshot();
            while watch.seen() < snapshot.revision {
                match watch.next_sized().await {
                    Ok(event) => events.push(event),
                    Err(_) => break,
                }
            }
            self.feed.publish(snapshot, events);
        }
        self.feed.close();
    }

    /// Waits until something that happened is seen here; `false`: nothing will be any more.
    async fn arrives(&mut self) -> bool {
        let lag = self.way.borrow().lag;
        if !lag.is_zero() {
            tokio::time::sleep(lag).await;
        }
        let way = self.way.wait_for(|way| !way.cut || way.closed).await;
        way.is_ok_and(|way| !way.closed)
    }
}

#[async_trait]
impl Store for Replica {
    fn snapshot(&self) -> Snapshot {
        self.feed.snapshot()
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        self.half_way()
            .await
            .map_err(|gone| gone.commit_error("reach the store", false))?;
        let revision = self.inner.commit(tx).await;
        let unknown = |gone: Gone| gone.commit_error("hear of a commit", true);
        self.half_way().await.map_err(unknown)?;
        match revision {
            Ok(revision) => {
                self.seen(revision).await.map_err(unknown)?;
                Ok(revision)
            }
            Err(error) => {
                // What it lost to; if that cannot be had, the answer is the same.
                let _ = self.seen(self.inner.snapshot().revision).await;
                Err(error)
            }
        }
    }

    async fn confirm(&self) -> Result<(), ConfirmError> {
        let asked = async {
            self.half_way().await?;
            self.inner.confirm().await?;
            let now = self.inner.snapshot().revision;
            self.half_way().await?;
            Ok(self.seen(now).await?)
        };
        let answer = tokio::time::timeout(CONFIRM_LIMIT, asked).await;
        answer.unwrap_or(Err(ConfirmError::Late {
            seconds: CONFIRM_LIMIT.as_secs(),
        }))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        self.feed.watch(from)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.feed.revisions()
    }

    fn metrics(&self) -> Metrics {
        self.inner.metrics()
    }

    async fn close(&self) {
        self.way.send_modify(|way| way.closed = true);
        self.feed.close();
    }
}
