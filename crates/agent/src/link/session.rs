//! One session: greeting, documents in, reports out, heartbeats and their answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;
use wire::client::http2;
use wire::link::{
    FromHost, Hello, PROTOCOL_VERSION, SILENCE_SECONDS, ToHost, decode_message, encode_message,
};

use super::{Link, LinkError, refusal_text, stream};
use crate::core::Event;
use crate::lease::{Beats, period};

/// Messages that wait for the connection; more wait in the outbox, where they are coalesced.
const OUT_QUEUE: usize = 4;
/// Longest refusal read.
const REFUSAL_BYTES: usize = 16 << 10;

const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);

fn broken(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LinkError {
    LinkError::Exchange(e.into())
}

impl Link {
    /// One session, from dialling to its end.
    pub(super) async fn session(&self) -> Result<Infallible, LinkError> {
        let shown = self.credentials.show()?;
        let result = tokio::select! {
            result = self.connected(shown.tls.clone(), shown.on_trial) => result,
            () = self.shutdown.cancelled() => Err(LinkError::Shutdown),
        };
        if shown.on_trial {
            // A no-op if it was welcomed. A server that cannot be reached says nothing about the certificate.
            match &result {
                Err(LinkError::Connect(http2::ConnectError::Tls { .. }))
                | Err(LinkError::Refused {
                    status: 401 | 403, ..
                }) => self.credentials.does_not_work(),
                _ => {}
            }
        }
        result
    }

    async fn connected(
        &self,
        tls: Arc<rustls::ClientConfig>,
        on_trial: bool,
    ) -> Result<Infallible, LinkError> {
        let connection = Arc::new(http2::connect(&self.server, tls).await?);
        let result = self.greet_and_talk(connection.clone(), on_trial).await;
        match &result {
            // Streams on the old connection go on until they end.
            Err(LinkError::Renewed | LinkError::Resync) => {}
            _ => connection.close(),
        }
        result
    }

    async fn greet_and_talk(
        &self,
        connection: Arc<http2::Connection>,
        on_trial: bool,
    ) -> Result<Infallible, LinkError> {
        let (out, body) = mpsc::channel::<Bytes>(OUT_QUEUE);
        let hello = FromHost::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            facts: self.facts.clone(),
            generation: *self.generation.borrow(),
            images: self.streams.drivers.images.complete(),
        });
        out.send(encode_message(&hello)?).await.map_err(broken)?;
        let request = http::Request::post(format!("https://{}/link/v1/session", self.server))
            .body(http2::channel(body))
            .map_err(broken)?;
        let mut sender = connection.sender.clone();
        let response = tokio::time::timeout(SILENCE, sender.send_request(request))
            .await
            .map_err(|_| LinkError::Silent(SILENCE_SECONDS))?
            .map_err(broken)?;
        let status = response.status();
        if status == http::StatusCode::GONE {
            return Err(LinkError::Removed);
        }
        if !status.is_success() {
            let limited = http_body_util::Limited::new(response.into_body(), REFUSAL_BYTES);
            let read = tokio::time::timeout(SILENCE, limited.collect()).await;
            let text = match read {
                Ok(Ok(body)) => refusal_text(&body.to_bytes()),
                Ok(Err(_)) | Err(_) => String::new(),
            };
            return Err(LinkError::Refused {
                status: status.as_u16(),
                message: text,
            });
        }
        let session = Session {
            link: self,
            connection,
            out,
            on_trial,
            welcomed: false,
            beats: self.lease.beats(),
        };
        session.talk(response.into_body()).await
    }
}

struct Session<'a> {
    link: &'a Link,
    connection: Arc<http2::Connection>,
    out: mpsc::Sender<Bytes>,
    on_trial: bool,
    welcomed: bool,
    beats: Beats,
}

impl Session<'_> {
    async fn talk(mut self, mut incoming: Incoming) -> Result<Infallible, LinkError> {
        let mut buffer = BytesMut::new();
        let mut queue = std::collections::VecDeque::<FromHost>::new();
        let mut heard = Instant::now();
        // The first goes out at once: what lives by a lease waits for its answer.
        let mut beat_at = heard;
        let mut needed = self.link.lease.needed();
        let out = self.out.clone();
        let mut renewals = self.link.credentials.renewals();
        loop {
            let waiting = !queue.is_empty();
            let due = Instant::now() >= beat_at;
            tokio::select! {
                frame = incoming.frame() => {
                    let frame = frame.ok_or(LinkError::Ended)?.map_err(broken)?;
                    heard = Instant::now();
                    if let Ok(data) = frame.into_data() {
                        buffer.extend_from_slice(&data);
                        while let Some(message) = decode_message::<ToHost>(&mut buffer)? {
                            self.take(message).await?;
                        }
                    }
                }
                permit = out.reserve(), if waiting || due => {
                    let permit = permit.map_err(|_| LinkError::Ended)?;
                    if due {
                        // Before whatever else waits, and not counted from before it goes out.
                        permit.send(encode_message(&self.beats.next())?);
                        beat_at = Instant::now() + period(*needed.borrow());
                    } else if let Some(message) = queue.pop_front() {
                        permit.send(encode_message(&message)?);
                    }
                }
                () = self.link.outbox.changed(), if !waiting => {
                    match self.link.outbox.take() {
                        Ok(messages) => queue.extend(messages),
                        Err(crate::outbox::Resync) => return Err(LinkError::Resync),
                    }
                }
                () = tokio::time::sleep_until(beat_at), if !due => {}
                Ok(()) = needed.changed() => {
                    beat_at = beat_at.min(Instant::now() + period(*needed.borrow_and_update()));
                }
                () = tokio::time::sleep_until(heard + SILENCE) => {
                    return Err(LinkError::Silent(SILENCE_SECONDS));
                }
                Ok(()) = renewals.changed() => return Err(LinkError::Renewed),
            }
        }
    }

    async fn take(&mut self, message: ToHost) -> Result<(), LinkError> {
        match message {
            ToHost::Welcome { host, protocol } => self.welcome(&host, protocol).await,
            ToHost::Desired(update) => {
                let event = Event::Desired {
                    link: self.link.index,
                    update,
                };
                self.tell(event).await
            }
            ToHost::OpenStream { id, request } => {
                stream::open(self.link, self.connection.clone(), id, request);
                Ok(())
            }
            ToHost::Heartbeat { number, fresh_ms } => match self.beats.answered(number, fresh_ms) {
                Some(from) => self.tell(Event::Leased { from }).await,
                None => Ok(()),
            },
        }
    }

    async fn welcome(&mut self, host: &model::HostId, protocol: u32) -> Result<(), LinkError> {
        if protocol != PROTOCOL_VERSION {
            return Err(LinkError::Version(protocol));
        }
        if host != self.link.credentials.host() {
            return Err(LinkError::Mistaken(host.to_string()));
        }
        if self.welcomed {
            return Ok(());
        }
        self.welcomed = true;
        if self.on_trial {
            self.link.credentials.works();
        }
        self.link.metrics.sessions.add(1);
        self.link
            .links
            .add(&self.link.server, self.connection.sender.clone());
        info!(server = %self.link.server, "session with the server");
        self.tell(Event::LinkUp {
            link: self.link.index,
        })
        .await
    }

    async fn tell(&self, event: Event) -> Result<(), LinkError> {
        self.link
            .events
            .send(event)
            .await
            .map_err(|_| LinkError::Shutdown)
    }
}
