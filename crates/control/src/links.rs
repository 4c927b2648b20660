//! Where hosts are connected: sessions, and streams through to them.
//!
//! `api::link` carries the bytes; here are only channels. A host has at most one session per server: a new one ends
//! the old one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::HostId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::link::{
    ErrorClass, FRAME_MAX_BYTES, Frame, FrameKind, FromHost, Hello, PROTOCOL_VERSION, StreamReply,
    StreamRequest, ToHost,
};

use crate::core::{Control, now, random};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Counters;
use crate::observe::Reports;

/// Messages that may wait for a host. One that lets more pile up is cut off and gets the whole document when it comes
/// back.
const OUTGOING_MAX: usize = 1024;

/// Frames that may wait in each direction of a stream: bounds a slow reader's memory to 16 frames.
const STREAM_FRAMES_MAX: usize = 16;

/// How long a host that is linked to another server may take to link to this one: longer than its pause between two
/// attempts.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(15);

/// How long a host may take to open a stream it was asked for.
const STREAM_OPEN_LIMIT: Duration = Duration::from_secs(15);

/// Streams that were asked for and not opened yet, over all hosts.
const PENDING_MAX: usize = 4096;

/// How often and how long it is tried to record that a host has gone: a day of a store that cannot be written.
const LEFT_TRIES: u32 = 17_280;
const LEFT_AGAIN: Duration = Duration::from_secs(5);

/// One end of a stream: frames to the other end and from it.
pub struct LinkStream {
    /// To the other end.
    pub send: mpsc::Sender<Frame>,
    /// From the other end; after [`FrameKind::End`] or [`FrameKind::Error`] nothing follows.
    pub recv: mpsc::Receiver<Frame>,
}

impl LinkStream {
    /// Two connected ends.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (a_send, a_recv) = mpsc::channel(STREAM_FRAMES_MAX);
        let (b_send, b_recv) = mpsc::channel(STREAM_FRAMES_MAX);
        (
            Self {
                send: a_send,
                recv: b_recv,
            },
            Self {
                send: b_send,
                recv: a_recv,
            },
        )
    }

    /// The next JSON frame, skipping nothing: anything else is an error.
    ///
    /// # Errors
    /// When the stream ends or carries something else first.
    pub async fn next_json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        match self.recv.recv().await {
            Some(frame) if frame.kind == FrameKind::Json => frame.parse().map_err(protocol),
            Some(frame) if frame.kind == FrameKind::Error => Err(stream_error(&frame)),
            Some(_) => Err(Error::new(
                ErrorKind::Internal,
                "the host sent an unexpected frame",
            )),
            None => Err(host_gone()),
        }
    }
}

/// The error an [`FrameKind::Error`] frame carries.
#[must_use]
pub fn stream_error(frame: &Frame) -> Error {
    match frame.parse::<wire::link::StreamError>() {
        Ok(error) => Error::new(kind_of(error.class), error.message),
        Err(error) => protocol(error),
    }
}

fn kind_of(class: ErrorClass) -> ErrorKind {
    match class {
        ErrorClass::NotFound => ErrorKind::NotFound,
        ErrorClass::Conflict => ErrorKind::Conflict,
        ErrorClass::Invalid => ErrorKind::Invalid,
        ErrorClass::Unauthorized => ErrorKind::Forbidden,
        ErrorClass::Full => ErrorKind::Full,
        ErrorClass::Lost => ErrorKind::Unavailable,
        ErrorClass::Failed => ErrorKind::Internal,
    }
}

fn protocol(error: wire::link::ProtocolError) -> Error {
    Error::new(ErrorKind::Internal, "the host sent something unreadable").with_context(error)
}

pub(crate) fn host_gone() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the connection to the host was lost: try again when it is back",
    )
}

struct Link {
    serial: u64,
    outgoing: mpsc::Sender<ToHost>,
    ended: CancellationToken,
}

struct Pending {
    host: HostId,
    end: LinkStream,
}

#[derive(Default)]
struct HubInner {
    serial: u64,
    links: HashMap<HostId, Link>,
    /// When something was last heard of a host, kept after its link ended; as many as there are hosts.
    heard: HashMap<HostId, Instant>,
    pending: HashMap<String, Pending>,
}

/// All sessions of this server.
pub(crate) struct Hub {
    inner: Mutex<HubInner>,
    /// Counts sessions, for those who wait for a host to come back.
    arrivals: watch::Sender<u64>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            arrivals: watch::Sender::new(0),
        }
    }
}

impl HubInner {
    fn send(&mut self, host: &HostId, message: ToHost) -> bool {
        let Some(link) = self.links.get(host) else {
            return false;
        };
        if link.outgoing.try_send(message).is_ok() {
            return true;
        }
        tracing::warn!(%host, "host takes its messages too slowly: cut off");
        link.ended.cancel();
        self.links.remove(host);
        false
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, HubInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever a host opens a session.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    pub(crate) fn is_connected(&self, host: &HostId) -> bool {
        self.lock().links.contains_key(host)
    }

    /// Hands a message over for sending; a link that is full is cut off.
    pub(crate) fn send(&self, host: &HostId, message: ToHost) -> bool {
        self.lock().send(host, message)
    }

    /// Answers on a session, if it still is the present one of its host.
    pub(crate) fn answer(&self, session: &LinkSession, message: ToHost) {
        let mut inner = self.lock();
        let present = |link: &Link| link.serial == session.serial;
        if inner.links.get(&session.host).is_some_and(present) {
            inner.send(&session.host, message);
        }
    }

    /// Notes that something was heard of a host, over a link that is open.
    fn hear(&self, host: &HostId) {
        let mut inner = self.lock();
        if inner.links.contains_key(host) {
            inner.heard.insert(host.clone(), Instant::now());
        }
    }

    pub(crate) fn heard_ago(&self, host: &HostId) -> Option<Duration> {
        self.lock().heard.get(host).map(Instant::elapsed)
    }

    /// Forgets when hosts were heard that are not there any more.
    pub(crate) fn forget_unknown(&self, snapshot: &store::Snapshot) {
        let mut inner = self.lock();
        inner.heard.retain(|id, _| snapshot.host(id).is_some());
    }

    pub(crate) fn disconnect(&self, host: &HostId) {
        if let Some(link) = self.lock().links.remove(host) {
            link.ended.cancel();
        }
    }
}

/// A host's session; dropping it says that the link is gone.
pub struct LinkSession {
    control: Control,
    /// Which host.
    pub host: HostId,
    serial: u64,
    /// Cancelled when this session must end: a newer one came, or the host was removed.
    pub ended: CancellationToken,
    reports: Reports,
}

impl Drop for LinkSession {
    fn drop(&mut self) {
        let newer = {
            let mut inner = self.control.inner.hub.lock();
            let link = inner.links.get(&self.host);
            let newer = link.is_some_and(|link| link.serial != self.serial);
            if !newer {
                inner.links.remove(&self.host);
            }
            newer
        };
        self.ended.cancel();
        if newer {
            return;
        }
        self.control.inner.documents.forget(&self.host);
        self.control.inner.measures.forget(&self.host);
        let (control, host) = (self.control.clone(), self.host.clone());
        tracing::info!(%host, "link to host lost");
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { control.host_left(&host).await });
        }
    }
}

impl Control {
    /// Opens a host's session; also gives what is to be sent to it, beginning with everything it must run.
    ///
    /// # Errors
    /// When the host is not known any more or speaks a newer protocol.
    pub async fn link_connect(
        &self,
        host: &HostId,
        certificate_der: &[u8],
        hello: Hello,
    ) -> Result<(LinkSession, mpsc::Receiver<ToHost>)> {
        if hello.protocol > PROTOCOL_VERSION {
            return Err(Error::invalid(format!(
                "the host speaks protocol {}, this server up to {PROTOCOL_VERSION}: update the server first",
                hello.protocol
            )));
        }
        let used = crate::core::sha256_hex(certificate_der);
        let images = crate::observe::bounded_images(host, hello.images);
        self.host_change(host, |record| {
            if record.certificate_sha256 == used {
                record.previous_certificate_sha256 = None;
            }
            record.status.connected = true;
            record.status.lost_at = None;
            record.status.silent_ms = 0;
            record.status.last_seen = Some(now());
            record.status.facts = hello.facts.clone();
            record.status.images.clone_from(&images);
        })
        .await?;
        let (send, outgoing) = mpsc::channel(OUTGOING_MAX);
        let ended = CancellationToken::new();
        let serial = {
            let mut inner = self.inner.hub.lock();
            inner.serial += 1;
            let serial = inner.serial;
            let link = Link {
                serial,
                outgoing: send.clone(),
                ended: ended.clone(),
            };
            if let Some(old) = inner.links.insert(host.clone(), link) {
                old.ended.cancel();
            }
            inner.heard.insert(host.clone(), Instant::now());
            serial
        };
        let session = LinkSession {
            control: self.clone(),
            host: host.clone(),
            serial,
            ended: ended.clone(),
            reports: Reports::start(self.clone(), host.clone(), ended),
        };
        // An earlier link of this host may have been recorded as lost after this one was recorded as open.
        self.record_link(host).await?;
        let _ = send.try_send(ToHost::Welcome {
            host: host.clone(),
            protocol: PROTOCOL_VERSION,
        });
        self.send_whole_document(host);
        self.inner.waiters.wake_all();
        self.inner.hub.arrivals.send_modify(|count| *count += 1);
        tracing::info!(%host, generation = hello.generation, "host connected");
        Ok((session, outgoing))
    }

    async fn host_left(&self, host: &HostId) {
        if self.inner.hub.is_connected(host) {
            return;
        }
        for _ in 0..LEFT_TRIES {
            let left = self
                .host_change(host, |record| {
                    record.status.connected = false;
                    record.status.last_seen = Some(now());
                    record.status.silent_ms = self.silent_ms(host);
                })
                .await;
            match left {
                Err(error) if error.kind != ErrorKind::NotFound => {
                    tracing::warn!(%host, ?error, "could not record that the host is gone, trying again");
                    tokio::time::sleep(LEFT_AGAIN).await;
                    let closed = self.store().watch(self.snapshot().revision).is_err();
                    if closed || self.inner.hub.is_connected(host) {
                        return;
                    }
                }
                Ok(()) | Err(_) => break,
            }
        }
        if let Err(error) = self.record_link(host).await {
            tracing::warn!(%host, ?error, "could not record whether the host is connected");
        }
        self.inner.waiters.wake_all();
    }

    /// Records whether a host has a link until the record is right: links come and go while a commit is under way.
    async fn record_link(&self, host: &HostId) -> Result<()> {
        loop {
            let connected = self.inner.hub.is_connected(host);
            let snapshot = self.snapshot();
            let right = |record: &model::Host| record.status.connected == connected;
            if snapshot.host(host).is_none_or(|record| right(&record)) {
                return Ok(());
            }
            self.host_change(host, |record| {
                record.status.connected = connected;
                if connected {
                    record.status.lost_at = None;
                } else {
                    record.status.silent_ms = self.silent_ms(host);
                }
            })
            .await?;
        }
    }

    /// Takes in a message of a host.
    pub async fn link_message(&self, session: &LinkSession, message: FromHost) {
        // Before anything is answered: what is promised counts from before this.
        self.inner.hub.hear(&session.host);
        match message {
            FromHost::Hello(_) => {}
            FromHost::Heartbeat { number } => self.answer_heartbeat(session, number),
            FromHost::Accepted { generation } => {
                tracing::debug!(host = %session.host, generation, "document accepted");
            }
            // A whole report says nothing more than its entries: what is missing in it may be news to the host.
            FromHost::Status { reports, .. } => session.reports.add(reports),
            FromHost::Images { images } => session.reports.images(images),
            FromHost::Pools { applied, usage } => self.take_measure(&session.host, applied, usage),
        }
    }

    /// Gives the host's end of a stream it was asked to open; each id works once and only for that host.
    #[must_use]
    pub fn link_claim(&self, host: &HostId, stream: &str) -> Option<LinkStream> {
        let mut inner = self.inner.hub.lock();
        if inner.pending.get(stream)?.host != *host {
            return None;
        }
        inner.pending.remove(stream).map(|pending| pending.end)
    }

    /// A host that is linked to another server will dial this one too: after a restart of this server it is waited for.
    async fn await_link(&self, host: &HostId) {
        let mut arrivals = self.inner.hub.arrivals();
        let arrived = async {
            loop {
                arrivals.borrow_and_update();
                let elsewhere = || {
                    self.snapshot()
                        .host(host)
                        .is_some_and(|it| it.status.connected)
                };
                if self.inner.hub.is_connected(host) || !elsewhere() {
                    return;
                }
                if arrivals.changed().await.is_err() {
                    return;
                }
            }
        };
        // What comes of it, sending tells.
        let _ = tokio::time::timeout(ARRIVAL_LIMIT, arrived).await;
    }

    /// Opens a stream to a host and waits for its first answer.
    pub(crate) async fn open_stream(
        &self,
        host: &HostId,
        request: StreamRequest,
    ) -> Result<LinkStream> {
        Counters::add(&self.inner.counters.streams, 1);
        self.await_link(host).await;
        let id = hex::encode(random()?);
        let (mut near, far) = LinkStream::pair();
        {
            let mut inner = self.inner.hub.lock();
            if inner.pending.len() >= PENDING_MAX {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "too many streams are being opened: try again",
                ));
            }
            inner.pending.insert(
                id.clone(),
                Pending {
                    host: host.clone(),
                    end: far,
                },
            );
        }
        let _guard = PendingGuard {
            hub: &self.inner.hub,
            id: &id,
        };
        if !self.inner.hub.send(
            host,
            ToHost::OpenStream {
                id: id.clone(),
                request,
            },
        ) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the host cannot be reached: see `plimsoll host ls`",
            ));
        }
        let reply = tokio::time::timeout(STREAM_OPEN_LIMIT, near.next_json::<StreamReply>())
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Unavailable,
                    "the host did not answer in time: try again",
                )
            })??;
        match reply {
            StreamReply::Ok => Ok(near),
            StreamReply::Error(error) => Err(Error::new(kind_of(error.class), error.message)),
        }
    }

    /// Opens a stream whose only answer is that it was done.
    pub(crate) async fn request_host(&self, host: &HostId, request: StreamRequest) -> Result<()> {
        self.open_stream(host, request).await.map(drop)
    }
}

/// Forgets a stream that was not claimed in time.
struct PendingGuard<'a> {
    hub: &'a Hub,
    id: &'a str,
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.hub.lock().pending.remove(self.id);
    }
}

/// Splits bytes into frames no longer than allowed.
pub fn frames(kind: FrameKind, bytes: &bytes::Bytes) -> impl Iterator<Item = Frame> + '_ {
    let parts = bytes.len().div_ceil(FRAME_MAX_BYTES);
    (0..parts).map(move |i| {
        let end = bytes.len().min((i + 1) * FRAME_MAX_BYTES);
        Frame::new(kind, bytes.slice(i * FRAME_MAX_BYTES..end))
    })
}
