//! What this server may promise hosts, and what it knows of its store.
//!
//! A host lets what may run on one host only go on for as long as a server's word reaches (`wire::link`, under Leases).
//! Such a word stands on the present state of the store. So it is confirmed twice a second that nothing was committed
//! that this server has not seen and told; a heartbeat is answered with how long ago that was.
//!
//! What it is not: it does not say which hosts are lost (`crate::loss`), and keeps nothing in the store.
//!
//! What always holds: when a snapshot is taken as confirmed, every host linked here was sent all that follows from it
//! before; a host that the confirmed or the newest snapshot shows as not connected or lost gets no lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::HostId;
use store::{ConfirmError, Revision, Snapshot};
use tokio::sync::watch;
use wire::link::ToHost;

use crate::admission::installation;
use crate::core::Control;
use crate::links::LinkSession;

/// How often the store is asked: half a second of a host's lease at most is spent on old knowledge, for two reads of one
/// key a second.
const CONFIRM_EVERY: Duration = Duration::from_millis(500);

/// How long hosts may take to be sent what a confirmed snapshot says: that is done as it is committed; a server that is
/// seconds behind with it asks again rather than promise anything.
const TOLD_LIMIT: Duration = Duration::from_secs(5);

/// What the server knows of its store and what it has told.
pub(crate) struct Leases {
    /// All that follows from commits up to here was handed to the links it concerns.
    told: watch::Sender<Revision>,
    confirmed: Mutex<Option<Confirmed>>,
}

struct Confirmed {
    /// When the store was asked, by [`wire::boot`].
    at_ms: u64,
    /// Holds everything that was committed before that.
    snapshot: Snapshot,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            told: watch::Sender::new(Revision::ZERO),
            confirmed: Mutex::default(),
        }
    }
}

impl Leases {
    fn confirmed(&self) -> MutexGuard<'_, Option<Confirmed>> {
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to this revision was handed to the links it concerns.
    pub(crate) fn told_up_to(&self, revision: Revision) {
        self.told.send_replace(revision);
    }
}

/// Whether a host may be given a lease, as far as this snapshot goes.
fn may_be_leased(snapshot: &Snapshot, host: &HostId) -> bool {
    snapshot
        .host(host)
        .is_some_and(|host| host.status.connected && host.status.lost_at.is_none())
}

impl Control {
    /// Keeps asking the store, for as long as there are hosts to whom it matters.
    pub(crate) fn keep_store_confirmed(&self) {
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let mut failing = false;
            loop {
                let Some(inner) = inner.upgrade() else {
                    return;
                };
                let control = Control { inner };
                if control.snapshot().hosts().next().is_some() {
                    match control.confirm_store().await {
                        Ok(()) => failing = false,
                        Err(ConfirmError::Closed) => return,
                        Err(error) if !failing => {
                            failing = true;
                            tracing::warn!(
                                ?error,
                                "the store does not answer: hosts get no leases"
                            );
                        }
                        Err(_) => {}
                    }
                }
                drop(control);
                tokio::time::sleep(CONFIRM_EVERY).await;
            }
        });
    }

    async fn confirm_store(&self) -> Result<(), ConfirmError> {
        let at_ms = wire::boot::millis();
        self.inner.store.confirm().await?;
        let snapshot = self.snapshot();
        let mut told = self.inner.leases.told.subscribe();
        let told = told.wait_for(|told| *told >= snapshot.revision);
        match tokio::time::timeout(TOLD_LIMIT, told).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(ConfirmError::Closed),
            Err(_) => {
                return Err(ConfirmError::Late {
                    seconds: TOLD_LIMIT.as_secs(),
                });
            }
        }
        *self.inner.leases.confirmed() = Some(Confirmed { at_ms, snapshot });
        Ok(())
    }

    /// How old this server's confirmed knowledge of its store is; `None`: it was never confirmed.
    #[must_use]
    pub fn store_confirmed_ago(&self) -> Option<Duration> {
        let at_ms = self.inner.leases.confirmed().as_ref()?.at_ms;
        Some(Duration::from_millis(
            wire::boot::millis().saturating_sub(at_ms),
        ))
    }

    /// How old the knowledge is by which a host may be given a lease, in milliseconds; `None`: it may not.
    fn lease_of(&self, host: &HostId) -> Option<u64> {
        let newest = self.snapshot();
        let confirmed = self.inner.leases.confirmed();
        let confirmed = confirmed.as_ref()?;
        if !may_be_leased(&confirmed.snapshot, host) || !may_be_leased(&newest, host) {
            return None;
        }
        let age_ms = wire::boot::millis().saturating_sub(confirmed.at_ms);
        let lost_after_ms = u64::from(installation(&newest).host_loss_seconds) * 1000;
        (age_ms < lost_after_ms).then_some(age_ms)
    }

    /// Answers a heartbeat.
    pub(crate) fn answer_heartbeat(&self, session: &LinkSession, number: u64) {
        let answer = ToHost::Heartbeat {
            number,
            fresh_ms: self.lease_of(&session.host),
        };
        self.inner.hub.answer(session, answer);
    }

    /// How long ago this server last heard anything of a host, whether or not it still has a link; `None`: never.
    pub(crate) fn host_heard_ago(&self, host: &HostId) -> Option<Duration> {
        self.inner.hub.heard_ago(host)
    }

    /// How long a host has been silent at the end of its link, in milliseconds, as far as nobody can have heard it
    /// later: other servers of the same store may have.
    pub(crate) fn silent_ms(&self, host: &HostId) -> u64 {
        if self.inner.store.is_shared() {
            return 0;
        }
        let silent = self.host_heard_ago(host).unwrap_or_default();
        u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)
    }
}
