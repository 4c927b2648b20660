//! The supervisor: one loop over clients, streams and children.
//!
//! Start with [`run`]. Always holds: the exit is written to `exit.json` before anybody is told; nothing
//! here blocks for long; a shim whose task has ended, or that has nothing to do, ends when its last
//! client goes.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use shim::frame::Kind;
use shim::log::{LogWriter, Stream};
use shim::message::{
    Call, Event, Failure, FailureKind, PROTOCOL, Phase, Request, Runtime, SOCKET, Start, What,
};
use shim::process::{ProcessId, boot_id};
use shim::state::{self, EXIT_FILE, ExitRecord, STATE_FILE, STATE_VERSION, ShimState};

use super::client::Client;
use super::creator::{self, Creator, Order, Report};
use super::fence::Fence;
use super::streams::{Streams, now_ns};
use super::{Net, RunError, external, namespaces};

/// A shim has a handful of clients: the agent, and attached streams.
const MAX_CLIENTS: usize = 64;

struct Supervisor {
    dir: PathBuf,
    me: ProcessId,
    listener: UnixListener,
    signals: SignalFd,
    clients: Vec<Client>,
    creator: Option<OwnedFd>,
    streams: Streams,
    phase: Phase,
    /// The call that asked for the start: (client index is unstable, so the id only) answered by event.
    start_call: Option<u64>,
    run: u64,
    started_ns: u64,
    /// Counts out-of-memory kills; open because the path may be hidden later.
    oom: Option<File>,
    oom_before: u64,
    external: Option<(PathBuf, String)>,
    fence: Fence,
}

/// Becomes the supervisor of the task whose state directory this is.
pub(crate) fn run(dir: &Path, net: &Net) -> Result<(), RunError> {
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::env::set_current_dir(dir).map_err(|error| RunError::io("state directory", error))?;
    let dir = std::env::current_dir().map_err(|error| RunError::io("state directory", error))?;
    // The kernel should kill the task rather than the one who knows how it ended. Tasks set their own value.
    let _ = fs::write("/proc/self/oom_score_adj", "-900");
    // Executed from memory, it would be named after a descriptor.
    let _ = nix::sys::prctl::set_name(c"plimsoll-shim");
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|error| RunError::io("sub-reaper", error))?;
    let mut supervisor = prepare(dir, net)?;
    supervisor.serve()
}

fn prepare(dir: PathBuf, net: &Net) -> Result<Supervisor, RunError> {
    let first = first_client()?;
    let listener = UnixListener::bind(SOCKET).map_err(|error| RunError::io("socket", error))?;
    listener
        .set_nonblocking(true)
        .map_err(|error| RunError::io("socket", error))?;
    namespaces::enter(net)?;
    let me = ProcessId::current().map_err(|error| RunError::io("own process", error))?;
    let (streams, theirs) = Streams::new().map_err(|error| RunError::io("pipes", error))?;
    let (ours, channel) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|error| RunError::io("creator", error))?;
    let network = match net {
        Net::New | Net::Join(_) => Some(me.pid),
        Net::Host => None,
    };
    let creator = Creator {
        dir: dir.clone(),
        network,
        streams: Some(theirs),
        channel,
        placed: None,
    };
    let creator = Some(fork_creator(creator, ours)?);
    let all = SigSet::all();
    all.thread_set_mask()
        .map_err(|error| RunError::io("signals", error))?;
    let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| RunError::io("signals", error))?;
    let mut supervisor = Supervisor {
        dir,
        me,
        listener,
        signals,
        clients: Vec::new(),
        creator,
        streams,
        phase: Phase::Prepared,
        start_call: None,
        run: 0,
        started_ns: 0,
        oom: None,
        oom_before: 0,
        external: None,
        fence: Fence::default(),
    };
    if let Some(stream) = first {
        supervisor.welcome(stream);
    }
    Ok(supervisor)
}

/// The driver's own connection comes as standard input, so that it need not wait for the socket to appear.
#[expect(unsafe_code, reason = "standard input is taken over as a socket")]
fn first_client() -> Result<Option<UnixStream>, RunError> {
    use nix::sys::socket::{UnixAddr, getsockname};
    if getsockname::<UnixAddr>(0).is_err() {
        return Ok(None);
    }
    let copy = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| RunError::io("standard input", error))?;
    let null: OwnedFd = File::open("/dev/null")
        .map_err(|error| RunError::io("/dev/null", error))?
        .into();
    nix::unistd::dup2_stdin(&null).map_err(|error| RunError::io("standard input", error))?;
    let raw = std::os::fd::IntoRawFd::into_raw_fd(copy);
    // SAFETY: the descriptor was just made and is owned by nobody else.
    Ok(Some(unsafe { UnixStream::from_raw_fd(raw) }))
}

#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn fork_creator(creator: Creator, ours: OwnedFd) -> Result<OwnedFd, RunError> {
    // SAFETY: the process is single-threaded; signal handlers are set to their defaults only.
    match unsafe { fork() }.map_err(|error| RunError::io("creator", error))? {
        ForkResult::Parent { .. } => Ok(ours),
        ForkResult::Child => {
            drop(ours);
            // Rust ignores SIGPIPE, and a task would inherit that.
            // SAFETY: sets a default action, no handler runs.
            let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
            let _ = SigSet::empty().thread_set_mask();
            let code = i32::from(creator::serve(creator).is_err());
            // SAFETY: ends the process; nothing of the supervisor's state may be torn down here.
            unsafe { libc::_exit(code) }
        }
    }
}

enum Ready {
    Listener,
    Signals,
    Creator,
    Output(Stream),
    Input,
    Client(usize),
    Fence,
}

impl Supervisor {
    fn serve(&mut self) -> Result<(), RunError> {
        loop {
            if self.finished() {
                return Ok(());
            }
            for (what, flags) in self.wait().map_err(|error| RunError::io("wait", error))? {
                match what {
                    Ready::Listener => self.accept(),
                    Ready::Signals => self.children(),
                    Ready::Creator => self.creator_answered(),
                    Ready::Output(stream) => {
                        self.streams.read_output(stream);
                    }
                    Ready::Input => self.streams.write_input(),
                    Ready::Client(index) => self.client_ready(index, flags),
                    Ready::Fence => self.fence_rang(),
                }
            }
            self.feed_clients();
            let end = self.streams.log_end();
            for client in &mut self.clients {
                client.tell_log(end);
            }
            self.clients.retain(|client| !client.gone);
        }
    }

    fn finished(&self) -> bool {
        match self.phase {
            Phase::Prepared | Phase::Failed { .. } | Phase::Exited { .. } => {
                self.clients.is_empty()
            }
            Phase::Starting | Phase::Running { .. } => false,
        }
    }

    /// Some client holds back output and is too far behind.
    fn held(&self) -> bool {
        let (end, window) = (self.streams.log_end(), self.streams.hold_window());
        self.clients
            .iter()
            .filter_map(|client| client.follows)
            .any(|follows| follows.hold && end.saturating_sub(follows.offset) >= window)
    }

    fn wait(&self) -> io::Result<Vec<(Ready, PollFlags)>> {
        let mut fds = vec![
            (
                Ready::Listener,
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ),
            (
                Ready::Signals,
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ),
        ];
        if let Some(creator) = &self.creator {
            fds.push((
                Ready::Creator,
                PollFd::new(creator.as_fd(), PollFlags::POLLIN),
            ));
        }
        if matches!(self.phase, Phase::Running { .. }) && !self.held() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = self.streams.output_fd(stream) {
                    fds.push((Ready::Output(stream), PollFd::new(fd, PollFlags::POLLIN)));
                }
            }
        }
        if let Some(fd) = self.fence.fd() {
            fds.push((Ready::Fence, PollFd::new(fd, PollFlags::POLLIN)));
        }
        if let Some(fd) = self.streams.input_fd() {
            fds.push((Ready::Input, PollFd::new(fd, PollFlags::POLLOUT)));
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if !client.feeds || self.streams.wants_input() {
                flags |= PollFlags::POLLIN;
            }
            if client.has_pending() {
                flags |= PollFlags::POLLOUT;
            }
            fds.push((
                Ready::Client(index),
                PollFd::new(client.stream.as_fd(), flags),
            ));
        }
        let (kinds, mut fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = kinds.into_iter().zip(&fds).filter_map(|(kind, fd)| {
            let flags = fd.revents().unwrap_or(PollFlags::empty());
            (!flags.is_empty()).then_some((kind, flags))
        });
        Ok(ready.collect())
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < MAX_CLIENTS {
                self.welcome(stream);
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream) {
        if let Ok(mut client) = Client::new(stream) {
            client.send(&Event::Hello {
                protocol: PROTOCOL,
                shim: self.me,
                phase: self.phase.clone(),
                fence_until_ms: self.fence.until_ms(),
            });
            self.clients.push(client);
        }
    }

    fn broadcast(&mut self, event: &Event) {
        for client in &mut self.clients {
            client.send(event);
        }
    }

    fn client_ready(&mut self, index: usize, flags: PollFlags) {
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        if flags.contains(PollFlags::POLLOUT) {
            client.flush();
        }
        if flags.contains(PollFlags::POLLIN) {
            client.fill();
        } else if flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            client.gone = true;
        }
    }

    /// Acts on whole frames, as long as there is room for input.
    fn feed_clients(&mut self) {
        for index in 0..self.clients.len() {
            while self.streams.wants_input() || !self.clients[index].feeds {
                let Some((kind, payload)) = self.clients[index].next_frame() else {
                    break;
                };
                match kind {
                    Kind::Stdin => {
                        self.clients[index].feeds = true;
                        self.streams.push_input(&payload);
                    }
                    Kind::Message => match serde_json::from_slice::<Call>(&payload) {
                        Ok(call) => self.call(index, call),
                        Err(_) => self.clients[index].gone = true,
                    },
                }
            }
        }
    }

    fn call(&mut self, index: usize, call: Call) {
        let id = call.id;
        match self.carry_out(index, call) {
            // Answered when the creator has.
            Ok(false) => {}
            Ok(true) => self.clients[index].send(&Event::Done { id }),
            Err(failure) => self.clients[index].send(&Event::Refused { id, failure }),
        }
    }

    fn carry_out(&mut self, index: usize, call: Call) -> Result<bool, Failure> {
        match call.request {
            Request::Place(placement) => {
                if let Some(path) = &placement.oom {
                    self.oom = File::open(path).ok();
                    self.oom_before = self.oom_kills();
                }
                self.order(&Order::Place(placement))?;
                Ok(true)
            }
            Request::Start(start) => {
                self.start(call.id, start)?;
                Ok(false)
            }
            Request::Resize(size) => self.streams.resize(size).map(|()| true).map_err(refused),
            Request::Signal { signal } => self.signal(signal).map(|()| true),
            Request::CloseStdin => {
                self.streams.close_input();
                Ok(true)
            }
            Request::Subscribe(subscribe) => {
                self.clients[index].follows = Some(subscribe);
                Ok(true)
            }
            Request::Ack { offset } => {
                if let Some(follows) = &mut self.clients[index].follows {
                    follows.offset = follows.offset.max(offset);
                }
                // No answer: acknowledgements are frequent.
                Ok(false)
            }
            Request::Fence(fence) => self.fence.take(&fence).map(|()| true).map_err(refused),
            Request::Shutdown => match self.phase {
                Phase::Starting | Phase::Running { .. } => Err(refused("the task is running")),
                Phase::Prepared | Phase::Failed { .. } | Phase::Exited { .. } => {
                    self.clients[index].send(&Event::Done { id: call.id });
                    self.clients
                        .iter_mut()
                        .for_each(|client| client.gone = true);
                    Ok(false)
                }
            },
        }
    }

    fn order(&self, order: &Order) -> Result<(), Failure> {
        let creator = self
            .creator
            .as_ref()
            .ok_or_else(|| refused("the task was started already"))?;
        creator::send(creator, order, None).map_err(refused)
    }

    fn start(&mut self, id: u64, start: Box<Start>) -> Result<(), Failure> {
        if self.phase != Phase::Prepared {
            return Err(refused("the task was started already"));
        }
        let mut log =
            LogWriter::open(start.log.clone()).map_err(|error| refused(format!("log: {error}")))?;
        // Its time may be over since that was said; then it ends as soon as it runs.
        self.fence.arm().map_err(refused)?;
        self.run = start.run;
        self.started_ns = now_ns();
        log.append(
            Stream::RunStart,
            self.started_ns,
            start.run.to_string().as_bytes(),
        );
        self.streams.open(log, start.stdin);
        if let (Runtime::External { program }, What::Task { id, .. }) =
            (&start.runtime, &start.what)
        {
            self.external = Some((program.clone(), id.clone()));
        }
        self.order(&Order::Start(start))?;
        self.start_call = Some(id);
        self.phase = Phase::Starting;
        Ok(())
    }

    /// The task's time is over.
    fn fence_rang(&mut self) {
        match &self.phase {
            // Nothing that could do harm lives; a start sets it again.
            Phase::Prepared | Phase::Failed { .. } | Phase::Exited { .. } => self.fence.put_off(),
            Phase::Starting => self.fence.rang(),
            Phase::Running { task, .. } => {
                self.fence.strike(task.pid);
                self.fence.rang();
            }
        }
    }

    fn signal(&self, number: i32) -> Result<(), Failure> {
        let Phase::Running { task, .. } = &self.phase else {
            return Err(refused("the task is not running"));
        };
        // Not reaped yet, so the number still belongs to the task.
        #[expect(unsafe_code, reason = "real-time signals have no safe wrapper")]
        // SAFETY: no pointers are passed.
        let result = unsafe { libc::kill(task.pid, number) };
        if result == 0 {
            Ok(())
        } else {
            Err(refused(io::Error::last_os_error()))
        }
    }

    fn creator_answered(&mut self) {
        let Some(channel) = self.creator.take() else {
            return;
        };
        let answer = creator::receive::<Report>(&channel);
        let outcome = match answer {
            Ok(Some((Report::Running { pid }, terminal))) => self.now_running(pid, terminal),
            Ok(Some((Report::Failed(failure), _))) => Err(failure),
            Ok(None) | Err(_) => Err(refused("the creator process ended unexpectedly")),
        };
        if let Err(failure) = outcome {
            self.failed(failure);
        }
        // A task that has ended already was left unreaped until its number was known.
        self.children();
    }

    fn now_running(&mut self, pid: i32, terminal: Option<OwnedFd>) -> Result<(), Failure> {
        let task = ProcessId::of(pid).map_err(refused)?;
        if let Some(master) = terminal {
            let stdin = self.streams.has_input();
            self.streams.use_terminal(master, stdin).map_err(refused)?;
        }
        let started_ns = self.started_ns;
        self.phase = Phase::Running { task, started_ns };
        // Without the file the task is found by its socket; a full disk must not end it.
        let _ = self.write_state(task);
        self.broadcast(&Event::Started { task, started_ns });
        self.answer_start();
        Ok(())
    }

    fn answer_start(&mut self) {
        if let Some(id) = self.start_call.take() {
            self.broadcast(&Event::Done { id });
        }
    }

    fn failed(&mut self, failure: Failure) {
        let code = match failure.kind {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable => 126,
            FailureKind::User | FailureKind::Value | FailureKind::NoTask | FailureKind::Other => {
                128
            }
        };
        self.phase = Phase::Failed {
            failure: failure.clone(),
        };
        let record = ExitRecord {
            run: self.run,
            code,
            signal: None,
            oom: false,
            started_ns: self.started_ns,
            ended_ns: now_ns(),
            fenced: false,
            failure: Some(failure.clone()),
        };
        if self.start_call.is_some() {
            let _ = state::write(&self.dir, EXIT_FILE, &record);
        }
        if let Some(id) = self.start_call.take() {
            self.broadcast(&Event::Refused { id, failure });
        }
        self.children();
    }

    /// Reaps. Before the task's number is known nothing is reaped, so that its status cannot be lost.
    fn children(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        if self.creator.is_some() && self.phase == Phase::Starting {
            return;
        }
        let mut ended = None;
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => break,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => break,
                Ok(status) => status,
            };
            if let Phase::Running { task, .. } = &self.phase {
                match status {
                    WaitStatus::Exited(pid, code) if pid.as_raw() == task.pid => {
                        ended = Some((code, None))
                    }
                    WaitStatus::Signaled(pid, signal, _) if pid.as_raw() == task.pid => {
                        ended = Some((128 + signal as i32, Some(signal as i32)));
                    }
                    _ => {}
                }
            }
        }
        if let Some((code, signal)) = ended {
            self.ended(code, signal);
        }
    }

    fn ended(&mut self, code: i32, signal: Option<i32>) {
        let ended_ns = now_ns();
        self.streams.drain();
        let oom = self.oom_kills() > self.oom_before;
        let record = ExitRecord {
            run: self.run,
            code,
            signal,
            oom,
            started_ns: self.started_ns,
            ended_ns,
            fenced: self.fence.struck && signal == Some(Signal::SIGKILL as i32),
            failure: None,
        };
        self.fence.put_away();
        let written = state::write(&self.dir, EXIT_FILE, &record);
        self.phase = Phase::Exited {
            exit: record.clone(),
        };
        let end = self.streams.log_end();
        for client in &mut self.clients {
            client.tell_log(end);
        }
        self.broadcast(&Event::Exited { exit: record });
        // Now that nobody waits for it.
        if let Ok(file) = written {
            let _ = state::make_durable(&file, &self.dir);
        }
        if let Some((program, id)) = self.external.take() {
            external::delete(&self.dir, &program, &id);
        }
    }

    fn oom_kills(&mut self) -> u64 {
        let Some(file) = &mut self.oom else { return 0 };
        let mut text = String::new();
        if file.rewind().is_err() || file.read_to_string(&mut text).is_err() {
            return 0;
        }
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }

    fn write_state(&mut self, task: ProcessId) -> io::Result<()> {
        let state = ShimState {
            version: STATE_VERSION,
            boot: boot_id()?,
            shim: self.me,
            task: Some(task),
            run: Some(self.run),
            started_ns: Some(self.started_ns),
        };
        state::write(&self.dir, STATE_FILE, &state).map(drop)
    }
}

fn refused(reason: impl std::fmt::Display) -> Failure {
    Failure {
        kind: FailureKind::Other,
        reason: reason.to_string(),
    }
}
