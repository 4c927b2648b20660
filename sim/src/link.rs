//! Carries the sessions between hosts and the server, with delays, cuts and half-dead links.

use std::sync::Arc;
use std::time::Duration;

use agent::driver::{ByteStream, DriverError, ErrorClass};
use agent::local::{LocalServer, LocalSession};
use async_trait::async_trait;
use control::{Control, LinkStream};
use futures::StreamExt as _;
use model::{Digest, HostId};
use tokio::sync::{mpsc, watch};
use wire::link::{Frame, FromHost, SILENCE_SECONDS};

use crate::checker::Past;
use crate::trace::Trace;

/// Messages on their way in each direction.
const QUEUE: usize = 16;
/// Wait before dialling again.
const REDIAL: Duration = Duration::from_millis(150);

/// What a link depends on.
#[derive(Clone, Default)]
pub struct Wires {
    /// The server, if it runs.
    pub control: Option<Control>,
    /// The way into the agent, if it runs.
    pub sessions: Option<mpsc::Sender<LocalSession>>,
    /// Whether nothing gets through.
    pub blocked: bool,
    /// Grows with each cut.
    pub cuts: u64,
    /// Whether the server does not notice the last cut for a while.
    pub unnoticed: bool,
    /// How long a message takes.
    pub latency: Duration,
}

impl Wires {
    fn usable(&self) -> bool {
        self.control.is_some() && self.sessions.is_some() && !self.blocked
    }

    fn still(&self, cuts: u64) -> bool {
        self.usable() && self.cuts == cuts
    }
}

/// What a server gives an agent beside the session.
struct Server {
    control: Control,
    host: HostId,
    wires: watch::Receiver<Wires>,
    cuts: u64,
}

#[async_trait]
impl LocalServer for Server {
    fn claim(&self, stream: &str) -> Option<(mpsc::Sender<Frame>, mpsc::Receiver<Frame>)> {
        let LinkStream { send, recv } = self.control.link_claim(&self.host, stream)?;
        // Streams run over the same wire: a cut ends them.
        let (to_server, mut from_agent) = mpsc::channel::<Frame>(QUEUE);
        let (to_agent, from_server) = mpsc::channel::<Frame>(QUEUE);
        let (wires, cuts) = (self.wires.clone(), self.cuts);
        tokio::spawn(async move {
            let mut recv = recv;
            let up = async {
                while let Some(frame) = from_agent.recv().await {
                    if send.send(frame).await.is_err() {
                        return;
                    }
                }
            };
            let down = async {
                while let Some(frame) = recv.recv().await {
                    if to_agent.send(frame).await.is_err() {
                        break;
                    }
                }
                drop(to_agent);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = up => {}
                () = down => {}
                () = gone(wires, cuts) => {}
            }
        });
        Some((to_server, from_server))
    }

    async fn blob(&self, digest: &Digest) -> Result<ByteStream, DriverError> {
        let failed = |why: String| DriverError::new(ErrorClass::Failed, why);
        let stream = self.control.link_blob(&self.host, digest).await;
        let stream = stream.map_err(|e| failed(e.message))?;
        let bytes = futures::stream::unfold(stream, |mut stream| async {
            let piece = stream.next().await?;
            Some((piece.map_err(|e| std::io::Error::other(e.message)), stream))
        });
        Ok(bytes.boxed())
    }
}

/// Keeps a host connected for as long as its wires let it.
pub async fn keep_connected(
    host: HostId,
    mut wires: watch::Receiver<Wires>,
    past: Past,
    trace: Trace,
) {
    loop {
        let now = match wires.wait_for(Wires::usable).await {
            Ok(now) => now.clone(),
            Err(_) => return,
        };
        session(&host, now, &wires, &past, &trace).await;
        tokio::time::sleep(REDIAL).await;
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one loop over everything a session hears"
)]
async fn session(
    host: &HostId,
    now: Wires,
    wires: &watch::Receiver<Wires>,
    past: &Past,
    trace: &Trace,
) {
    let (Some(control), Some(sessions)) = (now.control, now.sessions) else {
        return;
    };
    let cuts = now.cuts;
    let (to_agent, to_host) = mpsc::channel(QUEUE);
    let (from_host, mut from_agent) = mpsc::channel(QUEUE);
    let server = Arc::new(Server {
        control: control.clone(),
        host: host.clone(),
        wires: wires.clone(),
        cuts,
    });
    let session = LocalSession {
        to_host,
        from_host,
        server,
    };
    let greet = async {
        sessions.send(session).await.ok()?;
        let FromHost::Hello(hello) = from_agent.recv().await? else {
            return None;
        };
        let latency = wires.borrow().latency;
        tokio::time::sleep(latency).await;
        past.greeted(host, hello.generation);
        control.link_connect(host, b"", hello).await.ok()
    };
    let opened = tokio::select! {
        opened = greet => opened,
        () = gone(wires.clone(), cuts) => None,
    };
    let Some((session, outgoing)) = opened else {
        return;
    };
    trace.line(format!("link {} open", short(host)));
    let ended = session.ended.clone();
    let (session, mut outgoing) = (session, outgoing);
    let up = async {
        while let Some(message) = from_agent.recv().await {
            delay(wires).await;
            if let FromHost::Accepted { generation } = &message {
                past.accepted(host, *generation);
            }
            control.link_message(&session, message).await;
        }
    };
    let down = async {
        while let Some(message) = outgoing.recv().await {
            delay(wires).await;
            if to_agent.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        () = ended.cancelled() => {}
        () = gone(wires.clone(), cuts) => {}
    }
    let unnoticed = wires.borrow().unnoticed && wires.borrow().cuts != cuts;
    trace.line(format!("link {} over", short(host)));
    if unnoticed {
        // The server's end lives until it finds the host silent, or until the host comes again.
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(SILENCE_SECONDS)) => {}
                () = ended.cancelled() => {}
            }
            drop((session, outgoing));
        });
    }
}

/// Waits until a link of this number of cuts cannot live any more.
async fn gone(mut wires: watch::Receiver<Wires>, cuts: u64) {
    let _ = wires.wait_for(|w| !w.still(cuts)).await;
}

async fn delay(wires: &watch::Receiver<Wires>) {
    let latency = wires.borrow().latency;
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

/// The first digits of an id.
#[must_use]
pub fn short(id: &HostId) -> String {
    id.as_str().chars().take(6).collect()
}
