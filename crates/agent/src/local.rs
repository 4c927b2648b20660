//! An agent whose sessions somebody else carries: for simulations, where no byte crosses a socket.
//!
//! What it is not: it dials nobody and knows no certificate. Whoever runs it hands it one session after the other;
//! everything else (owner, ledger, jobs, outbox, streams) is what [`Agent::run`] uses.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use model::{Digest, HostFacts};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::link::{Frame, FromHost, Hello, PROTOCOL_VERSION, StreamRequest, ToHost};

use crate::agent::{Agent, AgentError, Assembly};
use crate::core::Event;
use crate::driver::{BlobSource, ByteStream, DriverError, ErrorClass};
use crate::lease::{Beats, Lease, period};
use crate::outbox::Outbox;
use crate::streams::{self, StreamContext};

/// Frames that wait in each direction of a stream, as over HTTP/2.
const FRAMES: usize = 8;

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

/// The server of the present session, for blobs.
#[derive(Default)]
struct Relay {
    server: Mutex<Option<Arc<dyn LocalServer>>>,
}

impl Relay {
    fn set(&self, server: Option<Arc<dyn LocalServer>>) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }
}

#[async_trait]
impl BlobSource for Relay {
    async fn open(&self, digest: &Digest) -> Result<ByteStream, DriverError> {
        let server = self
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let server = server.ok_or_else(|| {
            let message = format!("cannot fetch blob {digest}: no server is reachable");
            DriverError::new(ErrorClass::Failed, message)
        })?;
        server.blob(digest).await
    }
}

/// What one session needs.
struct Local {
    facts: HostFacts,
    generation: watch::Receiver<u64>,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<Event>,
    lease: Arc<Lease>,
    streams: StreamContext,
}

impl Agent {
    /// Runs as [`Agent::run`] does, over sessions that are handed in; a new one ends the one before. No identity is
    /// needed. Dropping the future is like killing the agent.
    ///
    /// # Errors
    /// When the ledger cannot be opened.
    pub async fn run_local(
        self,
        mut sessions: mpsc::Receiver<LocalSession>,
        shutdown: CancellationToken,
    ) -> Result<(), AgentError> {
        let relay = Arc::new(Relay::default());
        let facts = self.facts().clone();
        let assembly = Assembly::new(self, 1, relay.clone()).await?;
        let local = Local {
            facts,
            generation: assembly.generation.clone(),
            outbox: assembly.outboxes.first().cloned().unwrap_or_default(),
            events: assembly.events.clone(),
            lease: assembly.lease.clone(),
            streams: assembly.streams.clone(),
        };
        let talk = async {
            let mut next = sessions.recv().await;
            while let Some(session) = next {
                relay.set(Some(session.server.clone()));
                next = tokio::select! {
                    biased;
                    newer = sessions.recv() => newer,
                    () = local.talk(session) => {
                        relay.set(None);
                        local.outbox.close();
                        sessions.recv().await
                    }
                };
                local.outbox.close();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = assembly.core.run(assembly.queue, shutdown) => {}
            () = talk => {}
        }
        Ok(())
    }
}

impl Local {
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
                let _ = self.events.send(Event::LinkUp { link: 0 }).await;
            }
            ToHost::Desired(update) => {
                let _ = self.events.send(Event::Desired { link: 0, update }).await;
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
