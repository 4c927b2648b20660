//! The control's own parts, and how it commits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{PoolId, Timestamp, Workload, WorkloadId};
use store::{CommitError, Revision, Snapshot, Store, Transaction};

use crate::caller::{Action, Caller, Grant, Scope, authorise};
use crate::documents::Documents;
use crate::error::{Error, ErrorKind, Result};
use crate::events::EventLog;
use crate::exec::Execs;
use crate::kept::Kept;
use crate::links::Hub;
use crate::measures::Measures;
use crate::metrics::{Counters, Metrics};
use crate::pki::Authority;
use crate::placing::Placing;
use crate::wait::Waiters;

/// What a control needs to know of its surroundings.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Address hosts and remote clients reach this server at, `host:port`; goes into join instructions.
    pub address: String,
}

/// The verbs. Cloning copies a pointer.
#[derive(Clone)]
pub struct Control {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: ControlConfig,
    pub(crate) authority: Authority,
    pub(crate) hub: Hub,
    pub(crate) leases: crate::lease::Leases,
    pub(crate) documents: Documents,
    pub(crate) measures: Measures,
    pub(crate) waiters: Waiters,
    pub(crate) events: EventLog,
    pub(crate) execs: Execs,
    pub(crate) attaching: crate::streams::Attaching,
    pub(crate) counters: Counters,
    pub(crate) placing: Placing,
    pub(crate) addressing: crate::addressing::Addressing,
    pub(crate) admissions: crate::admission::Admissions,
    pub(crate) losses: crate::loss::Losses,
    pub(crate) displacing: crate::displace::Displacing,
    pub(crate) doubts: crate::relay::Doubts,
    pub(crate) relief: crate::reclaim::Relief,
}

/// How often a change is decided again when somebody else was faster: each loser means a winner, so that far fewer are
/// enough.
const COMMIT_TRIES: usize = 32;

/// How long the last state of a removed workload may take to be remembered.
const GONE_LIMIT: Duration = Duration::from_secs(2);

/// What a waiter sees of a workload.
pub(crate) enum Seen<'a> {
    /// Its record.
    There(&'a Workload),
    /// Its record is gone; this was its last state, if it is still remembered.
    Gone(Option<&'a Workload>),
}

impl Control {
    /// Opens the control over a store: makes or reads the installation's CA and begins to follow the store.
    ///
    /// # Errors
    /// When the CA cannot be made or read.
    pub async fn open(store: Arc<dyn Store>, config: ControlConfig) -> Result<Self> {
        let authority = Authority::load_or_create(&*store, now()).await?;
        let control = Self {
            inner: Arc::new(Inner {
                store,
                config,
                authority,
                hub: Hub::default(),
                leases: crate::lease::Leases::default(),
                documents: Documents::default(),
                measures: Measures::default(),
                waiters: Waiters::default(),
                events: EventLog::default(),
                execs: Execs::default(),
                attaching: crate::streams::Attaching::default(),
                counters: Counters::default(),
                placing: Placing::default(),
                addressing: Default::default(),
                admissions: crate::admission::Admissions::new()?,
                losses: crate::loss::Losses::default(),
                displacing: crate::displace::Displacing::default(),
                doubts: crate::relay::Doubts::default(),
                relief: crate::reclaim::Relief::default(),
            }),
        };
        control.mark_all_hosts_disconnected().await?;
        control.ensure_default_networks().await?;
        crate::documents::follow_store(&control);
        control.keep_store_confirmed();
        control.start_audit();
        Ok(control)
    }

    /// The newest committed state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.store.snapshot()
    }

    /// The store below, for its metrics and for closing it.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// Counters since the start.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.inner.counters.read()
    }

    /// Where this server is reached.
    #[must_use]
    pub fn config(&self) -> &ControlConfig {
        &self.inner.config
    }

    /// The installation's certificate authority.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    pub(crate) fn grant(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        action: Action,
        scope: Scope<'_>,
    ) -> Result<Grant> {
        authorise(snapshot, caller, action, scope)
            .inspect_err(|_| Counters::add(&self.inner.counters.denied, 1))
    }

    /// Decides on the newest snapshot and commits; decides again if somebody else was faster.
    ///
    /// `decide` must be free of effects. `None` as transaction: nothing to do.
    pub(crate) async fn change<T>(
        &self,
        grant: &Grant,
        mut decide: impl FnMut(&Snapshot) -> Result<(Option<Transaction>, T)>,
    ) -> Result<T> {
        for _ in 0..COMMIT_TRIES {
            let snapshot = self.snapshot();
            let (transaction, value) = decide(&snapshot)?;
            let Some(transaction) = transaction else {
                return Ok(value);
            };
            match self.commit(grant, transaction).await {
                Ok(_) => return Ok(value),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::conflict(
            "it is being changed by many others at the same time: try again",
        ))
    }

    pub(crate) async fn commit(
        &self,
        grant: &Grant,
        tx: Transaction,
    ) -> std::result::Result<Revision, CommitError> {
        tracing::debug!(caller = grant.caller, action = ?grant.action, operations = tx.ops.len(), "commit");
        self.inner.store.commit(tx).await
    }

    /// Waits until `ready` has an answer about a workload, looking at every change of it.
    pub(crate) async fn wait_workload<T>(
        &self,
        id: &WorkloadId,
        limit: Option<Duration>,
        mut ready: impl FnMut(&Snapshot, Seen<'_>) -> Option<Result<T>>,
    ) -> Result<T> {
        let mut changed = self.inner.waiters.subscribe(id);
        let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
        let mut missed = false;
        loop {
            changed.borrow_and_update();
            let snapshot = self.snapshot();
            let last;
            let seen = match snapshot.workload(id) {
                Some(row) => Some(Seen::There(row.value())),
                None => {
                    last = self.inner.waiters.last_of(id);
                    // The record goes from the snapshot a moment before its last state is remembered.
                    (last.is_some() || missed).then_some(Seen::Gone(last.as_ref()))
                }
            };
            let wait_until = match (&seen, deadline) {
                (None, _) => Some(tokio::time::Instant::now() + GONE_LIMIT),
                (Some(_), deadline) => deadline,
            };
            let unknown = seen.is_none();
            if let Some(answer) = seen.and_then(|seen| ready(&snapshot, seen)) {
                return answer;
            }
            let woken = async { changed.changed().await };
            match wait_until {
                None => {
                    let _ = woken.await;
                }
                Some(until) => {
                    let late = tokio::time::timeout_at(until, woken).await.is_err();
                    if late && !unknown {
                        return Err(Error::new(
                            ErrorKind::Unavailable,
                            "the host did not report in time: look at the workload's state and try again",
                        ));
                    }
                    missed |= late;
                }
            }
        }
    }

    /// A workload of a pool by id.
    pub(crate) fn workload_get(
        &self,
        snapshot: &Snapshot,
        pool: &PoolId,
        id: &WorkloadId,
    ) -> Result<Kept<Workload>> {
        snapshot
            .workload(id)
            .filter(|workload| workload.pool == *pool)
            .map(Kept::from)
            .ok_or_else(|| Error::not_found("container", id.as_str()))
    }
}

/// The time now. The one clock of the server's core; `plan` gets it as an argument.
///
/// Where the runtime's clock was wound forward (simulations, tests), this one is forward by as much.
#[must_use]
pub fn now() -> Timestamp {
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let real = SystemTime::now().duration_since(UNIX_EPOCH);
    let (runtime, machine) = (
        tokio::time::Instant::now().into_std(),
        std::time::Instant::now(),
    );
    let ahead = millis(runtime.saturating_duration_since(machine));
    Timestamp(real.map_or(0, millis).saturating_add(ahead))
}

/// 32 bytes from the kernel.
pub(crate) fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(ErrorKind::Internal, "the kernel gives no random numbers")
            .with_context(e.to_string())
    })?;
    Ok(bytes)
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}
