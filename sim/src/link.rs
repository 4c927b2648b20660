//! Carries the sessions between hosts and servers, with delays, cuts, half-dead links, lost and doubled messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use agent::driver::{ByteStream, DriverError, ErrorClass};
use agent::local::{LocalEvent, LocalServer, LocalSession};
use async_trait::async_trait;
use control::{Control, ErrorKind, LinkStream};
use futures::StreamExt as _;
use model::{Digest, HostId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use wire::link::{Frame, FromHost, SILENCE_SECONDS, ToHost};

use crate::checker::Past;
use crate::script::SERVERS;
use crate::trace::Trace;

/// Messages on their way in each direction.
const QUEUE: usize = 16;
/// Wait before dialling again.
const REDIAL: Duration = Duration::from_millis(150);
/// How long servers must say that a host was removed, and none welcome it, before that is believed; as in `agent`.
const REMOVED_SURE: Duration = Duration::from_secs(5);

/// What the links of a host depend on.
#[derive(Clone, Default)]
pub struct Wires {
    /// The servers that run.
    pub controls: [Option<Control>; SERVERS],
    /// The ways into the agent, if it runs, one for each server.
    pub sessions: [Option<mpsc::Sender<LocalEvent>>; SERVERS],
    /// To which servers nothing gets through.
    pub blocked: [bool; SERVERS],
    /// Grows with each cut.
    pub cuts: u64,
    /// Whether servers do not notice the end of a link for a while.
    pub unnoticed: bool,
    /// How long a message takes.
    pub latency: Duration,
    /// Whether what the host says is lost.
    pub loses_up: bool,
    /// Whether what is said to the host is lost.
    pub loses_down: bool,
}

impl Wires {
    fn usable(&self, server: usize) -> bool {
        self.controls[server].is_some() && self.sessions[server].is_some() && !self.blocked[server]
    }

    fn still(&self, server: usize, cuts: u64) -> bool {
        self.usable(server) && self.cuts == cuts
    }
}

/// What all links of one host share.
#[derive(Debug, Default)]
pub struct Shared {
    /// So many messages more come twice.
    pub twice: AtomicU64,
    /// Links that are open.
    open: AtomicUsize,
}

impl Shared {
    fn comes_twice(&self) -> bool {
        let less = |n: u64| n.checked_sub(1);
        self.twice
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

/// The link of a host to a server.
pub struct Link {
    /// Which host.
    pub host: HostId,
    /// Which server.
    pub server: usize,
    /// What it depends on.
    pub wires: watch::Receiver<Wires>,
    /// What it shares with the host's other links.
    pub shared: Arc<Shared>,
    /// Where what it sees is remembered.
    pub past: Past,
    /// Where it is told.
    pub trace: Trace,
}

/// What a server gives an agent beside the session.
struct Server {
    control: Control,
    host: HostId,
    number: usize,
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
        let (wires, number, cuts) = (self.wires.clone(), self.number, self.cuts);
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
                () = gone(wires, number, cuts) => {}
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

/// How the beginning of a session went.
enum Greeting {
    Welcome(control::links::LinkSession, mpsc::Receiver<ToHost>),
    Removed,
    Failed,
}

impl Link {
    /// Keeps the host connected for as long as its wires let it.
    pub async fn keep(mut self) {
        let mut removed: Option<Instant> = None;
        loop {
            let server = self.server;
            let now = match self.wires.wait_for(|wires| wires.usable(server)).await {
                Ok(now) => now.clone(),
                Err(_) => return,
            };
            let (Some(control), Some(sessions)) =
                (now.controls[server].clone(), now.sessions[server].clone())
            else {
                return;
            };
            let known = self.session(control, &sessions, now.cuts).await;
            removed = match known {
                true => None,
                false if self.shared.open.load(Ordering::Relaxed) > 0 => None,
                false => removed.or_else(|| Some(Instant::now())),
            };
            if removed.is_some_and(|since| since.elapsed() >= REMOVED_SURE) {
                self.trace.line(format!("removed {}", short(&self.host)));
                let _ = sessions.send(LocalEvent::Removed).await;
            }
            tokio::time::sleep(REDIAL).await;
        }
    }

    /// One session, or the attempt; `false`: the server says that it does not know the host.
    async fn session(
        &self,
        control: Control,
        sessions: &mpsc::Sender<LocalEvent>,
        cuts: u64,
    ) -> bool {
        let (to_agent, to_host) = mpsc::channel(QUEUE);
        let (from_host, from_agent) = mpsc::channel(QUEUE);
        let session = LocalSession {
            to_host,
            from_host,
            server: Arc::new(Server {
                control: control.clone(),
                host: self.host.clone(),
                number: self.server,
                wires: self.wires.clone(),
                cuts,
            }),
        };
        let mut from_agent = from_agent;
        let greeting = tokio::select! {
            greeting = self.greet(&control, sessions, session, &mut from_agent) => greeting,
            () = self.gone(cuts) => Greeting::Failed,
        };
        let (session, outgoing) = match greeting {
            Greeting::Welcome(session, outgoing) => (session, outgoing),
            Greeting::Removed => return false,
            Greeting::Failed => return true,
        };
        self.trace
            .line(format!("link {} {} open", short(&self.host), self.server));
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        self.past.link_opened(&self.host);
        let mut outgoing = outgoing;
        let ended = session.ended.clone();
        tokio::select! {
            () = self.carry_up(&control, &session, &mut from_agent, cuts) => {}
            () = self.carry_down(&mut outgoing, &to_agent, cuts) => {}
            () = ended.cancelled() => {}
            () = self.gone(cuts) => {}
        }
        self.trace
            .line(format!("link {} {} over", short(&self.host), self.server));
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.past.link_closed(&self.host);
        let unnoticed = {
            let wires = self.wires.borrow();
            wires.unnoticed && !wires.still(self.server, cuts)
        };
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
        true
    }

    async fn greet(
        &self,
        control: &Control,
        sessions: &mpsc::Sender<LocalEvent>,
        session: LocalSession,
        from_agent: &mut mpsc::Receiver<FromHost>,
    ) -> Greeting {
        if sessions.send(LocalEvent::Session(session)).await.is_err() {
            return Greeting::Failed;
        }
        let Some(FromHost::Hello(hello)) = from_agent.recv().await else {
            return Greeting::Failed;
        };
        let latency = self.wires.borrow().latency;
        tokio::time::sleep(latency).await;
        self.past
            .accepted(&self.host, self.server, hello.generation);
        match control.link_connect(&self.host, b"", hello).await {
            Ok((session, outgoing)) => Greeting::Welcome(session, outgoing),
            Err(error) if error.kind == ErrorKind::NotFound => Greeting::Removed,
            Err(_) => Greeting::Failed,
        }
    }

    async fn carry_up(
        &self,
        control: &Control,
        session: &control::links::LinkSession,
        from_agent: &mut mpsc::Receiver<FromHost>,
        cuts: u64,
    ) {
        while let Some(message) = from_agent.recv().await {
            self.delay().await;
            if !self.still(cuts) {
                return;
            }
            if self.wires.borrow().loses_up {
                continue;
            }
            if let FromHost::Accepted { generation } = &message {
                self.past.accepted(&self.host, self.server, *generation);
            }
            self.past.heard(&self.host);
            if self.shared.comes_twice() {
                control.link_message(session, message.clone()).await;
            }
            control.link_message(session, message).await;
        }
    }

    async fn carry_down(
        &self,
        outgoing: &mut mpsc::Receiver<ToHost>,
        to_agent: &mpsc::Sender<ToHost>,
        cuts: u64,
    ) {
        while let Some(message) = outgoing.recv().await {
            self.delay().await;
            if !self.still(cuts) {
                return;
            }
            if self.wires.borrow().loses_down {
                continue;
            }
            if self.shared.comes_twice() && to_agent.send(message.clone()).await.is_err() {
                return;
            }
            if to_agent.send(message).await.is_err() {
                return;
            }
        }
    }

    fn still(&self, cuts: u64) -> bool {
        self.wires.borrow().still(self.server, cuts)
    }

    async fn gone(&self, cuts: u64) {
        gone(self.wires.clone(), self.server, cuts).await;
    }

    async fn delay(&self) {
        let latency = self.wires.borrow().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }
}

/// Waits until a link of this number of cuts cannot live any more.
async fn gone(mut wires: watch::Receiver<Wires>, server: usize, cuts: u64) {
    let _ = wires.wait_for(|w| !w.still(server, cuts)).await;
}

/// The first digits of an id.
#[must_use]
pub fn short(id: &HostId) -> String {
    id.as_str().chars().take(6).collect()
}
