//! An agent whose sessions somebody else carries: for simulations, where no byte crosses a socket.
//!
//! What it is not: it dials nobody and knows no certificate. Whoever runs it hands it one session after the other;
//! everything else (owner, ledger, jobs, outbox, streams) is what [`Agent::run`] uses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use model::{Digest, HostFacts};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::link::{Frame, FromHost, Hello, PROTOCOL_VERSION, StreamRequest, ToHost};

use crate::agent::{Agent, AgentError, Assembly, dismantle};
use crate::core::{Ended, Event};
use crate::driver::{BlobSource, ByteStream, DriverError, ErrorClass};
use crate::lease::{Beats, Lease, period};
use crate::outbox::Outbox;
use crate::streams::{self, StreamContext};

/// Frames that wait in each direction of a stream, as over HTTP/2.
const FRAMES: usize = 8;

/// What the way to a server brings.
pub enum LocalEvent {
    /// A session; it ends the one before.
    Session(LocalSession),
    /// The server says that this host was removed from the installation, and that is to be believed.
    Removed,
}

/// A session as the host sees it. It ends when either channel closes.
pub struct LocalSession {
    /// What the server says, beginning with its welcome.
    pub to_host: mpsc::Receiver<ToHost>,
    /// What the host says, beginning with its greeting.
    pub from_host: mpsc::Sender<FromHost>,
    /// Streams and blobs beside the session.
    pub server: Arc<dyn LocalServer>,
}

/// What a server gives beside the session.
#[async_trait]
pub trait LocalServer: Send + Sync {
    /// Both directions of a stream the server asked for: to the server, from the server.
    fn claim(&self, stream: &str) -> Option<(mpsc::Sender<Frame>, mpsc::Receiver<Frame>)>;

    /// A blob of an image, from another host.
    async fn blob(&self, digest: &Digest) -> Result<ByteStream, DriverError>;
}

/// The servers of the present sessions, for blobs.
#[derive(Default)]
struct Relay {
    servers: Mutex<BTreeMap<usize, Arc<dyn LocalServer>>>,
}

impl Relay {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<usize, Arc<dyn LocalServer>>) -> T) -> T {
        change(&mut self.servers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl BlobSource for Relay {
    async fn open(&self, digest: &Digest) -> Result<ByteStream, DriverError> {
        let servers: Vec<_> = self.with(|servers| servers.values().cloned().collect());
        let message = format!("cannot fetch blob {digest}: no server is reachable");
        let mut last = DriverError::new(ErrorClass::Failed, message);
        for server in servers {
            match server.blob(digest).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// What the sessions with one server need.
struct Local {
    link: usize,
    relay: Arc<Relay>,
    facts: HostFacts,
    generation: watch::Receiver<u64>,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<Event>,
    lease: Arc<Lease>,
    streams: StreamContext,
}

impl Agent {
    /// Runs as [`Agent::run`] does, over sessions that are handed in, for each server by a way of its own. No identity is
    /// needed. Dropping the future is like killing the agent.
    ///
    /// # Errors
    /// When the ledger cannot be opened, or the host was removed and something cannot be taken back.
    pub async fn run_local(
        self,
        servers: Vec<mpsc::Receiver<LocalEvent>>,
        shutdown: CancellationToken,
    ) -> Result<Ended, AgentError> {
        let relay = Arc::new(Relay::default());
        let facts = self.facts().clone();
        let drivers = self.drivers().clone();
        let assembly = Assembly::new(self, servers.len(), relay.clone()).await?;
        let mut side = JoinSet::new();
        let outboxes = assembly.outboxes.iter().cloned();
        for ((link, sessions), outbox) in servers.into_iter().enumerate().zip(outboxes) {
            let local = Local {
                link,
                relay: relay.clone(),
                facts: facts.clone(),
                generation: assembly.generation.clone(),
                outbox,
                events: assembly.events.clone(),
                lease: assembly.lease.clone(),
                streams: assembly.streams.clone(),
            };
            side.spawn(local.run(sessions));
        }
        let ended = assembly.core.run(assembly.queue, shutdown).await;
        side.shutdown().await;
        if ended == Ended::Removed {
            dismantle(&drivers).await.map_err(AgentError::Dismantle)?;
        }
        Ok(ended)
    }
}

impl Local {
    /// One session after the other, for as long as somebody may bring one.
    async fn run(self, mut sessions: mpsc::Receiver<LocalEvent>) {
        let mut next = sessions.recv().await;
        while let Some(event) = next {
            let session = match event {
                LocalEvent::Session(session) => session,
                LocalEvent::Removed => {
                    let _ = self.events.send(Event::HostRemoved).await;
                    next = sessions.recv().await;
                    continue;
                }
            };
            let server = session.server.clone();
            self.relay.with(|servers| servers.insert(self.link, server));
            let newer = tokio::select! {
                biased;
                newer = sessions.recv() => Some(newer),
                () = self.talk(session) => None,
            };
            self.relay.with(|servers| servers.remove(&self.link));
            self.outbox.close();
            next = match newer {
                Some(newer) => newer,
                None => sessions.recv().await,
            };
        }
    }

    async fn talk(&self, mut session: LocalSession) {
        let hello = FromHost::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            facts: self.facts.clone(),
            generation: *self.generation.borrow(),
            images: self.streams.drivers.images.complete(),
        });
        if session.from_host.send(hello).await.is_err() {
            return;
        }
        let mut beats = self.lease.beats();
        let mut beat_at = tokio::time::Instant::now();
        let mut needed = self.lease.needed();
        loop {
            tokio::select! {
                message = session.to_host.recv() => match message {
                    Some(message) => self.take(&session, &mut beats, message).await,
                    None => return,
                },
                () = tokio::time::sleep_until(beat_at) => {
                    beat_at = tokio::time::Instant::now() + period(*needed.borrow());
                    if session.from_host.send(beats.next()).await.is_err() {
                        return;
                    }
                }
                Ok(()) = needed.changed() => {
                    let next = tokio::time::Instant::now() + period(*needed.borrow_and_update());
                    beat_at = beat_at.min(next);
                }
                () = self.outbox.changed() => {
                    let Ok(messages) = self.outbox.take() else { return };
                    for message in messages {
                        if session.from_host.send(message).await.is_err() {
                            return;
                        }
                    }
                }
                () = session.from_host.closed() => return,
            }
        }
    }

    async fn take(&self, session: &LocalSession, beats: &mut Beats, message: ToHost) {
        match message {
            ToHost::Welcome { .. } => {
                let link = self.link;
                let _ = self.events.send(Event::LinkUp { link }).await;
            }
            ToHost::Desired(update) => {
                let link = self.link;
                let _ = self.events.send(Event::Desired { link, update }).await;
            }
            ToHost::OpenStream { id, request } => {
                if let Some((send, receive)) = session.server.claim(&id) {
                    serve(self.streams.clone(), request, send, receive);
                }
            }
            ToHost::Heartbeat { number, fresh_ms } => {
                if let Some(from) = beats.answered(number, fresh_ms) {
                    let _ = self.events.send(Event::Leased { from }).await;
                }
            }
        }
    }
}

/// Serves a stream in the background, as [`crate::link`] does over HTTP/2.
fn serve(
    context: StreamContext,
    request: StreamRequest,
    send: mpsc::Sender<Frame>,
    receive: mpsc::Receiver<Frame>,
) {
    tokio::spawn(async move {
        let (out, mut bytes) = mpsc::channel::<Bytes>(FRAMES);
        let pump = async {
            let mut buffer = BytesMut::new();
            while let Some(piece) = bytes.recv().await {
                buffer.extend_from_slice(&piece);
                while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
                    if send.send(frame).await.is_err() {
                        return;
                    }
                }
            }
        };
        let serve = streams::serve(&context, request, receive, out);
        tokio::join!(
            async {
                tokio::select! {
                    () = serve => {}
                    () = send.closed() => {}
                }
            },
            pump
        );
    });
}
