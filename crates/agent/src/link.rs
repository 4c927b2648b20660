//! The host's side of the link: dials every server it knows and keeps a session with each.
//!
//! What it is not: it keeps no state of workloads; what is to be said waits in the outbox of the owner.
//!
//! What always holds: a link that is silent is cut and dialled again with a back-off; nothing here blocks the owner.

mod blobs;
mod session;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::HostFacts;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wire::client::http2;
use wire::link::ProtocolError;

use crate::core::{Event, chain};
use crate::identity::{Credentials, IdentityError};
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::streams::StreamContext;

pub(crate) use blobs::LinkBlobs;

/// First wait before dialling again.
const REDIAL_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before dialling again when nobody was reached. A host that was cut off is to be back within five seconds
/// of the end of that: with what the kernel's own repetitions leave open (`http2::TCP_TIMEOUT`) it asks at least every two
/// and a half seconds. Such a dial is a few packets and no work for a server: five thousand hosts whose server is down ask
/// some 3,300 times a second, and its machine's kernel refuses them.
const REDIAL_UNREACHED_LONGEST: Duration = Duration::from_secs(2);
/// Longest wait before dialling again when a server was reached and no session came of it: it had the work of a TLS
/// handshake, about a millisecond, for nothing. With this, those of five thousand hosts that a server which has just
/// started could not take in time ask again at most some 700 times a second, two thirds of a core, and do not hold up each
/// other.
const REDIAL_LONGEST: Duration = Duration::from_secs(10);
/// A session that lasted so long was good: dial again at once.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// Streams a server may have open on one link; as many as HTTP/2 peers commonly allow.
const STREAMS: usize = 1024;
/// How long servers must say that this host was removed, and none welcome it, before that is believed: a server hears
/// within milliseconds of a host that has just joined by way of another one.
const REMOVED_SURE: Duration = Duration::from_secs(5);
/// Longest text taken from a refusal.
const REFUSAL_MAX: usize = 2000;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot use the host's identity")]
    Identity(#[from] IdentityError),
    #[error("cannot connect")]
    Connect(#[from] http2::ConnectError),
    #[error("the exchange broke")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the server refused ({status}): {message}")]
    Refused { status: u16, message: String },
    #[error("the server says that this host was removed from the installation")]
    Removed,
    #[error("the server broke the protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the server speaks protocol {0}, which this agent does not")]
    Version(u32),
    #[error("the server takes this host for {0}")]
    Mistaken(String),
    #[error("the server was silent for {0} s")]
    Silent(u64),
    #[error("the server ended the session")]
    Ended,
    #[error("beginning anew, because the server built on a document that is not at hand")]
    Resync,
    #[error("beginning anew with a renewed certificate")]
    Renewed,
    #[error("the agent ends")]
    Shutdown,
}

/// The connections that are open now, for requests outside sessions.
#[derive(Debug)]
pub(crate) struct Links {
    open: Mutex<Vec<(String, http2::Sender)>>,
    opened: watch::Sender<u64>,
    /// Since when servers say that this host was removed, while none welcomes it.
    removed_since: Mutex<Option<Instant>>,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            opened: watch::Sender::new(0),
            removed_since: Mutex::default(),
        }
    }
}

impl Links {
    fn with<T>(&self, change: impl FnOnce(&mut Vec<(String, http2::Sender)>) -> T) -> T {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, server: &str, sender: http2::Sender) {
        self.with(|open| {
            open.retain(|(known, _)| known != server);
            open.push((server.to_owned(), sender));
            self.said_removed(None);
        });
        self.opened.send_modify(|n| *n += 1);
    }

    fn remove(&self, server: &str) {
        self.with(|open| open.retain(|(known, _)| known != server));
    }

    /// A server says that this host was removed; whether that can be believed by now.
    fn removed(&self, now: Instant) -> bool {
        self.with(|open| self.said_removed(open.is_empty().then_some(now)))
    }

    fn said_removed(&self, at: Option<Instant>) -> bool {
        let mut since = self
            .removed_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *since = at.map(|now| since.unwrap_or(now));
        at.zip(*since)
            .is_some_and(|(now, since)| now.duration_since(since) >= REMOVED_SURE)
    }

    /// Changes when one is opened.
    pub(crate) fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// One of them.
    pub(crate) fn any(&self) -> Option<(String, http2::Sender)> {
        self.with(|open| open.first().cloned())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(String, http2::Sender)> {
        self.with(|open| open.clone())
    }
}

/// What the link to one server needs.
pub(crate) struct Link {
    pub(crate) index: usize,
    pub(crate) server: String,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) links: Arc<Links>,
    pub(crate) facts: HostFacts,
    pub(crate) generation: watch::Receiver<u64>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) streams: StreamContext,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) slots: Arc<Semaphore>,
}

impl Link {
    pub(crate) fn stream_slots() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(STREAMS))
    }

    /// Keeps a session with the server until the agent ends.
    pub(crate) async fn run(self) {
        let mut failures: u32 = 0;
        loop {
            let began = Instant::now();
            let Err(error) = self.session().await;
            self.outbox.close();
            self.links.remove(&self.server);
            if matches!(error, LinkError::Removed)
                && self.links.removed(Instant::now())
                && self.events.send(Event::HostRemoved).await.is_err()
            {
                return;
            }
            let wait = match &error {
                LinkError::Shutdown => return,
                LinkError::Resync | LinkError::Renewed => {
                    info!(server = %self.server, "{error}");
                    failures = 0;
                    Duration::ZERO
                }
                _ => {
                    self.metrics.session_failures.add(1);
                    if began.elapsed() >= GOOD_SESSION {
                        failures = 0;
                    }
                    let wait = redial_wait(failures, longest_wait(&error));
                    failures = failures.saturating_add(1);
                    warn!(server = %self.server, error = %chain(&error), again_in = ?wait, "no session");
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }
}

/// How long to wait at most before dialling again, by why there is no session.
fn longest_wait(error: &LinkError) -> Duration {
    let unreached = match error {
        LinkError::Connect(error) => error.is_unreached(),
        // It said nothing, so that it has no work with us either.
        LinkError::Silent(_) => true,
        LinkError::Identity(_)
        | LinkError::Exchange(_)
        | LinkError::Refused { .. }
        | LinkError::Removed
        | LinkError::Protocol(_)
        | LinkError::Version(_)
        | LinkError::Mistaken(_)
        | LinkError::Ended
        | LinkError::Resync
        | LinkError::Renewed
        | LinkError::Shutdown => false,
    };
    if unreached {
        REDIAL_UNREACHED_LONGEST
    } else {
        REDIAL_LONGEST
    }
}

/// Doubling, with jitter so that the hosts of a restarted server, or those behind a healed network, do not come all at
/// once: they are spread over half of the longest wait.
fn redial_wait(failures: u32, longest: Duration) -> Duration {
    let full = REDIAL_FIRST
        .saturating_mul(1 << failures.min(10))
        .min(longest);
    let mut byte = [0_u8; 1];
    // Without randomness there is no jitter, and nothing else is lost.
    let _ = getrandom::fill(&mut byte);
    full.mul_f64(0.5 + f64::from(byte[0]) / 510.0)
}

/// The readable part of a refusal: the `message` of a JSON document, else the text itself, bounded.
pub(crate) fn refusal_text(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let text = match serde_json::from_slice::<Message>(body) {
        Ok(message) => message.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.trim().chars().take(REFUSAL_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_reaches_nobody_asks_every_few_seconds_and_not_with_all_others() {
        let unreached = LinkError::Connect(http2::ConnectError::Timeout {
            address: "server:7440".to_owned(),
            stage: http2::Stage::Tcp,
            limit: http2::TCP_TIMEOUT,
        });
        let refused = LinkError::Refused {
            status: 503,
            message: String::new(),
        };
        for (error, longest) in [
            (&unreached, REDIAL_UNREACHED_LONGEST),
            (&LinkError::Silent(7), REDIAL_UNREACHED_LONGEST),
            (&refused, REDIAL_LONGEST),
        ] {
            assert_eq!(longest_wait(error), longest, "{error}");
            let waits: Vec<Duration> = (0..200).map(|_| redial_wait(99, longest)).collect();
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*least >= longest / 2 && *most <= longest);
            assert!(
                *most - *least > longest / 4,
                "they come together: {waits:?}"
            );
            assert!(redial_wait(0, longest) <= REDIAL_FIRST);
        }
    }

    #[test]
    fn a_removal_is_believed_when_it_is_said_for_a_while_and_nobody_welcomes() {
        let links = Links::default();
        let start = Instant::now();
        assert!(!links.removed(start));
        assert!(!links.removed(start + REMOVED_SURE / 2));
        assert!(links.removed(start + REMOVED_SURE));
        // A welcome in between.
        links.said_removed(None);
        assert!(!links.removed(start + REMOVED_SURE * 2));
        assert!(links.removed(start + REMOVED_SURE * 3));
    }
}
