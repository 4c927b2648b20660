//! The agent's side of a shim: launching it and talking to it.
//!
//! Start with [`Launcher`] and [`Connection`]. Always holds: a shim is executed from a sealed copy in
//! memory, so that nothing that runs in a task can change the program (CVE-2019-5736); a connection that
//! is dropped ends nothing but itself.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use shim::frame::{Decoder, Kind, encode, encode_message};
use shim::message::{
    Call, Event, Failure, FailureKind, Fence, PROTOCOL, PROTOCOL_FENCE, Phase, Request, SOCKET,
};
use shim::process::ProcessId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

/// Calls and input waiting to be written; the sender waits beyond that.
const QUEUE: usize = 16;
/// A shim says hello within milliseconds; a host that is out of memory may take longer.
const HELLO_PATIENCE: Duration = Duration::from_secs(20);

/// A shim that cannot be started or does not answer. Folders of the host are for its log, not for messages.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShimError {
    /// The program cannot be read or made executable.
    #[error("shim program {path}")]
    Program {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be launched or reached.
    #[error("its supervisor cannot be reached")]
    Io {
        /// State directory.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended or said nothing.
    #[error("its supervisor ended: {reason}")]
    Ended {
        /// State directory.
        dir: String,
        /// What it wrote last.
        reason: String,
    },
}

/// Which network namespace a shim makes or joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Net {
    /// A new one.
    New,
    /// The host's.
    Host,
    /// That of a process.
    Of(u32),
}

/// Starts shims.
#[derive(Debug)]
pub(super) struct Launcher {
    program: OwnedFd,
}

impl Launcher {
    /// Copies the program into sealed memory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn new(path: &Path) -> Result<Launcher, ShimError> {
        let failed = |source: io::Error| ShimError::Program {
            path: path.display().to_string(),
            source,
        };
        let bytes = fs::read(path).map_err(failed)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memory = memfd_create(c"plimsoll-shim", flags).map_err(|error| failed(error.into()))?;
        let mut file = File::from(memory);
        file.write_all(&bytes).map_err(failed)?;
        let seals = SealFlag::F_SEAL_WRITE
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|error| failed(error.into()))?;
        // Opened again for reading: a file that is open for writing cannot be executed.
        let read_only =
            File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?;
        Ok(Launcher {
            program: read_only.into(),
        })
    }

    fn command(&self) -> tokio::process::Command {
        let mut command =
            tokio::process::Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.env_clear().kill_on_drop(false);
        command
    }

    /// Starts a shim for a state directory and waits until its namespaces are there.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) async fn launch(&self, dir: &Path, net: &Net) -> Result<Connection, ShimError> {
        let failed = |source: io::Error| ShimError::Io {
            dir: dir.display().to_string(),
            source,
        };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let log = File::create(dir.join("shim.log")).map_err(failed)?;
        let net = match net {
            Net::New => "new".to_owned(),
            Net::Host => "host".to_owned(),
            Net::Of(pid) => format!("/proc/{pid}/ns/net"),
        };
        let mut command = self.command();
        command
            .arg0("plimsoll-shim")
            .arg("supervise")
            .arg(dir)
            .arg("--net")
            .arg(net);
        command
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log);
        let mut child = command.spawn().map_err(failed)?;
        drop(command);
        tokio::spawn(async move {
            // Only to reap it; how it ended is seen by its connection.
            let _ = child.wait().await;
        });
        Connection::adopt(ours, dir).await
    }

    /// Compiles a system call filter.
    ///
    /// # Errors
    /// When the filter cannot be compiled.
    pub(super) async fn compile_filter(
        &self,
        filter: &serde_json::Value,
    ) -> Result<Vec<u8>, ShimError> {
        let failed = |source: io::Error| ShimError::Io {
            dir: "seccomp".to_owned(),
            source,
        };
        let mut command = self.command();
        command
            .arg("seccomp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            input
                .write_all(filter.to_string().as_bytes())
                .await
                .map_err(failed)?;
        }
        let output = child.wait_with_output().await.map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ShimError::Ended {
            dir: "seccomp".to_owned(),
            reason,
        })
    }
}

/// What is known of a shim.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    /// The shim itself, once it said hello.
    pub(super) shim: Option<ProcessId>,
    /// Which protocol it speaks.
    protocol: u32,
    /// Until when its task might live when it said hello.
    fence_until_ms: Option<u64>,
    /// How far its task is.
    pub(super) phase: Option<Phase>,
    /// Last known end of the log; 0 if not subscribed.
    pub(super) log_end: u64,
    /// The connection is closed.
    pub(super) gone: bool,
}

enum Outgoing {
    Call {
        request: Request,
        answer: oneshot::Sender<Result<(), Failure>>,
    },
    Notice(Request),
    Input {
        bytes: Bytes,
        written: oneshot::Sender<()>,
    },
}

/// A connection to a shim.
#[derive(Debug)]
pub(super) struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    life: watch::Receiver<Life>,
    dir: PathBuf,
    /// The shim was told that its task may live for some time only.
    fenced: AtomicBool,
}

fn no_shim() -> Failure {
    Failure {
        kind: FailureKind::NoTask,
        reason: "the task's supervisor is gone".to_owned(),
    }
}

impl Connection {
    /// Connects to the shim of a state directory.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(super) async fn connect(dir: &Path) -> Result<Connection, ShimError> {
        let failed = |source: io::Error| ShimError::Io {
            dir: dir.display().to_string(),
            source,
        };
        // Through a descriptor: a long path does not fit into a socket address.
        let folder = File::open(dir).map_err(failed)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
        let stream = UnixStream::connect(&path).await.map_err(failed)?;
        Connection::start(stream, dir).await
    }

    async fn adopt(
        stream: std::os::unix::net::UnixStream,
        dir: &Path,
    ) -> Result<Connection, ShimError> {
        let failed = |source: io::Error| ShimError::Io {
            dir: dir.display().to_string(),
            source,
        };
        stream.set_nonblocking(true).map_err(failed)?;
        Connection::start(UnixStream::from_std(stream).map_err(failed)?, dir).await
    }

    async fn start(stream: UnixStream, dir: &Path) -> Result<Connection, ShimError> {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (sender, mut life) = watch::channel(Life::default());
        tokio::spawn(serve(stream, queue, sender));
        let hello = life.wait_for(|life| life.phase.is_some() || life.gone);
        let ok = tokio::time::timeout(HELLO_PATIENCE, hello)
            .await
            .is_ok_and(|life| life.is_ok_and(|life| !life.gone));
        if !ok {
            let text = fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
            let reason = text.lines().last().unwrap_or("no answer").to_owned();
            return Err(ShimError::Ended {
                dir: dir.display().to_string(),
                reason,
            });
        }
        let fenced = life.borrow().fence_until_ms.is_some();
        Ok(Connection {
            outgoing,
            life,
            dir: dir.to_owned(),
            fenced: AtomicBool::new(fenced),
        })
    }

    /// The shim's state directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is known now, and how it changes.
    pub(super) fn life(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// What the shim refuses, or that it is gone.
    pub(super) async fn call(&self, request: Request) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        let call = Outgoing::Call { request, answer };
        self.outgoing.send(call).await.map_err(|_| no_shim())?;
        answered.await.map_err(|_| no_shim())?
    }

    /// Says until when the task may live. A shim from before there was such a word is not asked: it would cut us off, and
    /// the agent ends its task as long as there is one.
    ///
    /// # Errors
    /// That the shim cannot do so, or is gone.
    pub(super) async fn fence(&self, fence: Fence) -> Result<(), Failure> {
        let knows = self.life.borrow().protocol >= PROTOCOL_FENCE;
        let fences = fence.until_ms.is_some();
        if !knows || !(fences || self.fenced.load(Ordering::Relaxed)) {
            return Ok(());
        }
        self.fenced.store(true, Ordering::Relaxed);
        self.call(Request::Fence(fence)).await?;
        self.fenced.store(fences, Ordering::Relaxed);
        Ok(())
    }

    /// Says something that is not answered.
    pub(super) async fn notice(&self, request: Request) {
        // A shim that is gone needs no notice.
        let _ = self.outgoing.send(Outgoing::Notice(request)).await;
    }

    /// Sends input; waits while the task does not read. Afterwards it is in the shim's socket, which outlives this
    /// process.
    ///
    /// # Errors
    /// When the shim is gone.
    pub(super) async fn input(&self, bytes: Bytes) -> Result<(), Failure> {
        let (written, waiting) = oneshot::channel();
        self.outgoing
            .send(Outgoing::Input { bytes, written })
            .await
            .map_err(|_| no_shim())?;
        waiting.await.map_err(|_| no_shim())
    }
}

async fn serve(stream: UnixStream, mut queue: mpsc::Receiver<Outgoing>, life: watch::Sender<Life>) {
    let (mut reading, mut writing) = stream.into_split();
    let mut decoder = Decoder::default();
    let mut answers: HashMap<u64, oneshot::Sender<Result<(), Failure>>> = HashMap::new();
    let counter = AtomicU64::new(1);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            read = reading.read(&mut buffer) => match read {
                Ok(len) if len > 0 => {
                    decoder.push(&buffer[..len]);
                    if !take_events(&mut decoder, &mut answers, &life) {
                        break;
                    }
                }
                Ok(_) | Err(_) => break,
            },
            next = queue.recv() => {
                let Some(next) = next else { break };
                let mut out = Vec::new();
                let mut sent = None;
                if !encode_outgoing(next, &counter, &mut answers, &mut out, &mut sent)
                    || writing.write_all(&out).await.is_err()
                {
                    break;
                }
                if let Some(sent) = sent {
                    // Whoever wrote may have stopped waiting.
                    let _ = sent.send(());
                }
            }
        }
    }
    // What was answered before the end counts, also when the end was noticed while writing.
    while let Ok(len) = reading.try_read(&mut buffer) {
        if len == 0 {
            break;
        }
        decoder.push(&buffer[..len]);
        take_events(&mut decoder, &mut answers, &life);
    }
    life.send_modify(|life| life.gone = true);
}

fn encode_outgoing(
    next: Outgoing,
    counter: &AtomicU64,
    answers: &mut HashMap<u64, oneshot::Sender<Result<(), Failure>>>,
    out: &mut Vec<u8>,
    sent: &mut Option<oneshot::Sender<()>>,
) -> bool {
    let id = counter.fetch_add(1, Ordering::Relaxed);
    match next {
        Outgoing::Call { request, answer } => {
            answers.insert(id, answer);
            encode_message(&Call { id, request }, out).is_ok()
        }
        Outgoing::Notice(request) => encode_message(&Call { id, request }, out).is_ok(),
        // Half of what the shim buffers, so that no frame is ever too large for it.
        Outgoing::Input { bytes, written } => {
            *sent = Some(written);
            bytes
                .chunks(32 * 1024)
                .all(|piece| encode(Kind::Stdin, piece, out).is_ok())
        }
    }
}

fn take_events(
    decoder: &mut Decoder,
    answers: &mut HashMap<u64, oneshot::Sender<Result<(), Failure>>>,
    life: &watch::Sender<Life>,
) -> bool {
    loop {
        let payload = match decoder.next_frame() {
            Ok(Some((Kind::Message, payload))) => payload,
            Ok(Some((Kind::Stdin, _))) | Err(_) => return false,
            Ok(None) => return true,
        };
        let Ok(event) = serde_json::from_slice::<Event>(&payload) else {
            return false;
        };
        let mut answer = |id: u64, result| {
            if let Some(waiting) = answers.remove(&id) {
                // Whoever asked may have stopped waiting.
                let _ = waiting.send(result);
            }
        };
        match event {
            Event::Hello {
                protocol,
                shim,
                phase,
                fence_until_ms,
            } => {
                if protocol != PROTOCOL {
                    tracing::info!(protocol, "a shim of another version");
                }
                life.send_modify(|life| {
                    life.shim = Some(shim);
                    life.protocol = protocol;
                    life.fence_until_ms = fence_until_ms;
                    life.phase = Some(phase);
                });
            }
            Event::Done { id } => answer(id, Ok(())),
            Event::Refused { id, failure } => {
                life.send_modify(|life| {
                    if matches!(life.phase, Some(Phase::Starting)) {
                        life.phase = Some(Phase::Failed {
                            failure: failure.clone(),
                        });
                    }
                });
                answer(id, Err(failure));
            }
            Event::Started { task, started_ns } => {
                life.send_modify(|life| life.phase = Some(Phase::Running { task, started_ns }));
            }
            Event::LogGrew { offset } => life.send_modify(|life| life.log_end = offset),
            Event::Exited { exit } => {
                life.send_modify(|life| life.phase = Some(Phase::Exited { exit }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shim as it was before leases: it cuts off whoever asks for one.
    async fn old_shim(dir: &Path) -> (Connection, UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut theirs = UnixStream::from_std(theirs).unwrap();
        let hello = serde_json::json!({"hello": {
            "protocol": 1, "shim": {"pid": 1, "start": 1}, "phase": "prepared",
        }});
        let mut bytes = Vec::new();
        encode_message(&hello, &mut bytes).unwrap();
        theirs.write_all(&bytes).await.unwrap();
        (Connection::adopt(ours, dir).await.unwrap(), theirs)
    }

    #[tokio::test]
    async fn a_shim_that_knows_no_leases_is_not_asked_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let (connection, mut shim) = old_shim(dir.path()).await;
        for until_ms in [Some(1), None] {
            let fence = Fence {
                until_ms,
                ..Fence::default()
            };
            connection.fence(fence).await.unwrap();
        }
        // The next thing it hears is what it understands.
        connection.notice(Request::CloseStdin).await;
        let mut decoder = Decoder::default();
        let frame = loop {
            if let Some((_, payload)) = decoder.next_frame().unwrap() {
                break payload;
            }
            let mut buffer = [0; 1024];
            let len = shim.read(&mut buffer).await.unwrap();
            assert!(len > 0);
            decoder.push(&buffer[..len]);
        };
        let call: Call = serde_json::from_slice(&frame).unwrap();
        assert_eq!(call.request, Request::CloseStdin);
    }
}
