//! The creator: a child of the supervisor that makes the task's processes and ends.
//!
//! It is forked before anything is known of the task, so that it can be put into cgroups early, and it
//! runs libcontainer, so that libcontainer's memory is gone when the task runs. What it starts is
//! inherited by the supervisor, which is a sub-reaper.
//! Start with [`serve`]. Always holds: it answers a start with exactly one [`Report`].

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shim::message::{Failure, FailureKind, Placement, Runtime, Start, What, WindowSize};

use super::confine::{CapabilitySets, Confine, capability_bit};
use super::identity::{self, Identity};
use super::outward::outward;
use super::{external, init, mounts, paths, seed};

/// Orders and reports are smaller than this (the longest part is a list of layers).
const MAX_ORDER: usize = 128 * 1024;

/// What the supervisor tells the creator.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Place(Placement),
    Start(Box<Start>),
}

/// What the creator answers to a start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The task's first process; the terminal's master comes along if there is one.
    Running {
        pid: i32,
    },
    Failed(Failure),
}

/// The task's ends of its streams.
pub(crate) struct TaskStreams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// One start, with everything about it resolved.
pub(crate) struct Job<'a> {
    pub(crate) start: &'a Start,
    /// Id for the runtime.
    pub(crate) id: &'a str,
    pub(crate) identity: Identity,
    /// The OCI spec of a task, the process description of an exec.
    pub(crate) document: Value,
}

/// What the task's first process inherits besides its streams.
struct Inherited {
    cgroup_view: Option<Rc<OwnedFd>>,
    failures: OwnedFd,
}

/// What the creator knows from its birth.
pub(crate) struct Creator {
    /// State directory of the shim, absolute.
    pub(crate) dir: PathBuf,
    /// Process whose network namespace the task gets; `None` for the host's.
    pub(crate) network: Option<i32>,
    pub(crate) streams: Option<TaskStreams>,
    pub(crate) channel: OwnedFd,
    pub(crate) placed: Option<Result<Option<Rc<OwnedFd>>, String>>,
}

pub(crate) fn send(
    channel: impl AsFd,
    message: &impl Serialize,
    fd: Option<RawFd>,
) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(io::Error::other)?;
    let fds: Vec<RawFd> = fd.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(
        channel.as_fd().as_raw_fd(),
        &[IoSlice::new(&text)],
        control,
        flags,
        None,
    )?;
    Ok(())
}

/// Receives one message; `None` when the other side is gone.
#[expect(unsafe_code, reason = "received descriptors come as numbers")]
pub(crate) fn receive<T: for<'a> Deserialize<'a>>(
    channel: impl AsFd,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut buffer = vec![0; MAX_ORDER];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let (len, fd) = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let raw = channel.as_fd().as_raw_fd();
        let message = recvmsg::<UnixAddr>(
            raw,
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut fd = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: the kernel has just handed this descriptor to us alone.
                fd = fds.first().map(|&raw| unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        (message.bytes, fd)
    };
    if len == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[..len]).map_err(io::Error::other)?;
    Ok(Some((message, fd)))
}

fn failure(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure {
        kind: FailureKind::Other,
        reason: format!("{what}: {error}"),
    }
}

/// Waits for orders until the start, or until the supervisor is gone.
pub(crate) fn serve(mut creator: Creator) -> io::Result<()> {
    while let Some((order, _)) = receive(&creator.channel)? {
        match order {
            Order::Place(placement) => {
                creator.placed = Some(creator.place(&placement).map_err(|error| error.to_string()));
            }
            Order::Start(start) => {
                let (report, terminal) = match creator.start(&start) {
                    Ok((pid, terminal)) => (Report::Running { pid }, terminal),
                    Err(failure) => {
                        // Whole in the shim's own log; others are not told where the host keeps things.
                        eprintln!("start: {}", failure.reason);
                        let failure = outward(failure, &start, &creator.dir);
                        (Report::Failed(failure), None)
                    }
                };
                return send(
                    &creator.channel,
                    &report,
                    terminal.as_ref().map(AsRawFd::as_raw_fd),
                );
            }
        }
    }
    Ok(())
}

impl Creator {
    fn place(&self, placement: &Placement) -> io::Result<Option<Rc<OwnedFd>>> {
        for procs in &placement.procs {
            fs::write(procs, "0").map_err(|error| io::Error::other(format!("join: {error}")))?;
        }
        if placement.view.is_empty() {
            return Ok(None);
        }
        mounts::cgroup_view(&placement.view, &self.dir.join("rootfs"))
            .map(|view| Some(Rc::new(view)))
    }

    fn start(&mut self, start: &Start) -> Result<(i32, Option<OwnedFd>), Failure> {
        let view = match self.placed.take() {
            Some(Ok(view)) => view,
            Some(Err(reason)) => return Err(failure("cgroup", reason)),
            None => None,
        };
        match &start.what {
            What::Task { .. } => self.start_task(start, view),
            What::Exec { .. } => self.start_exec(start),
        }
    }

    fn start_task(
        &mut self,
        start: &Start,
        view: Option<Rc<OwnedFd>>,
    ) -> Result<(i32, Option<OwnedFd>), Failure> {
        let What::Task {
            id,
            rootfs,
            spec,
            volumes,
        } = &start.what
        else {
            return Err(failure("start", "not a task"));
        };
        let root = self.dir.join("rootfs");
        fs::create_dir_all(&root).map_err(|error| failure("root directory", error))?;
        mounts::mount_root(rootfs, &root)
            .map_err(|error| failure("mount the root file system", error))?;
        let root_fd =
            paths::open_root(&root).map_err(|error| failure("root file system", error))?;
        let mut document = read_json(spec)?;
        let identity = identity::resolve(&root_fd, &start.user, &start.groups)?;
        if let Some(cwd) = document.pointer("/process/cwd").and_then(Value::as_str) {
            paths::make_dir_in(&root_fd, Path::new(cwd))
                .map_err(|error| failure(&format!("working directory {cwd}"), error))?;
        }
        for volume in volumes {
            seed::seed(&root_fd, volume).map_err(|error| {
                failure(&format!("volume at {}", volume.target.display()), error)
            })?;
        }
        drop(root_fd);
        self.complete_spec(&mut document, &root);
        set_oom_score(&mut document)?;
        self.set_network_parameters(&mut document)?;
        let job = Job {
            start,
            id,
            identity,
            document,
        };
        match &start.runtime {
            Runtime::BuiltIn => self.run_task(job, view),
            Runtime::External { program } => external::run_task(self, job, program),
        }
    }

    fn start_exec(&mut self, start: &Start) -> Result<(i32, Option<OwnedFd>), Failure> {
        let What::Exec {
            id,
            task_dir,
            task,
            process,
        } = &start.what
        else {
            return Err(failure("start", "not an exec"));
        };
        if !task.is_alive() {
            return Err(Failure {
                kind: FailureKind::NoTask,
                reason: "the task is not running".to_owned(),
            });
        }
        let root = paths::open_root(&PathBuf::from(format!("/proc/{}/root", task.pid)))
            .map_err(|error| failure("root file system", error))?;
        let document = read_json(process)?;
        let identity = identity::resolve(&root, &start.user, &start.groups)?;
        if let Some(cwd) = document.get("cwd").and_then(Value::as_str) {
            check_directory(&root, cwd)?;
        }
        drop(root);
        let job = Job {
            start,
            id,
            identity,
            document,
        };
        match &start.runtime {
            Runtime::BuiltIn => self.run_exec(job, task_dir),
            Runtime::External { program } => external::run_exec(self, job, program, task_dir),
        }
    }

    /// Fills in what only the shim knows.
    fn complete_spec(&self, document: &mut Value, root: &Path) {
        if let Some(place) = document.pointer_mut("/root/path") {
            *place = json!(root);
        }
        if let (Some(pid), Some(Value::Array(list))) =
            (self.network, document.pointer_mut("/linux/namespaces"))
        {
            for namespace in list {
                if namespace["type"] == "network" {
                    namespace["path"] = json!(format!("/proc/{pid}/ns/net"));
                }
            }
        }
    }

    /// Kernel parameters of the network: written here, in the task's namespace, because runtimes take a
    /// namespace that they were started in for the host's.
    fn set_network_parameters(&self, document: &mut Value) -> Result<(), Failure> {
        let Some(Value::Object(parameters)) = document.pointer_mut("/linux/sysctl") else {
            return Ok(());
        };
        if self.network.is_none() {
            return Ok(());
        }
        let names: Vec<String> = parameters
            .keys()
            .filter(|name| name.starts_with("net."))
            .cloned()
            .collect();
        for name in names {
            let value = parameters.remove(&name);
            let value = value.as_ref().and_then(Value::as_str).unwrap_or_default();
            let path = PathBuf::from(name.replace('.', "/"));
            paths::open_root(Path::new("/proc/sys"))
                .and_then(|root| paths::open_in(root, &path, OFlag::O_WRONLY))
                .and_then(|file| File::from(file).write_all(value.as_bytes()))
                .map_err(|error| failure(&format!("kernel parameter {name}"), error))?;
        }
        Ok(())
    }

    fn run_task(
        &mut self,
        job: Job<'_>,
        cgroup_view: Option<Rc<OwnedFd>>,
    ) -> Result<(i32, Option<OwnedFd>), Failure> {
        let Job {
            start,
            id,
            identity,
            mut document,
        } = job;
        // The task is in its cgroups and the driver has written their limits.
        mounts::hide_cgroups().map_err(|error| failure("hide cgroups", error))?;
        if let Some(Value::Object(linux)) = document.get_mut("linux") {
            linux.remove("resources");
            linux.remove("seccomp");
        }
        if let Some(Value::Array(list)) = document.get_mut("mounts") {
            list.retain(|mount| mount["type"] != "cgroup");
        }
        let (failures_in, failures) = failure_pipe()?;
        let process = document
            .get_mut("process")
            .ok_or_else(|| failure("spec", "no process"))?;
        let inherited = Inherited {
            cgroup_view,
            failures,
        };
        let confine = take_confinement(start, process, identity, inherited)?;
        write_json(&self.dir.join("config.json"), &document)?;
        let runtime = self.dir.join("runtime");
        fs::create_dir_all(&runtime).map_err(|error| failure("runtime directory", error))?;
        let console = self.console(start.terminal)?;
        let builder = self.builder(start, id, &runtime, confine)?;
        let result = builder
            .as_init(&self.dir)
            .with_systemd(false)
            .with_detach(true)
            .build()
            .and_then(|mut container| container.start().map(|()| container.pid()));
        let pid = finish(result, failures_in)?;
        let pid = pid
            .ok_or_else(|| failure("create", "the runtime reported no process"))?
            .as_raw();
        Ok((pid, accept_console(console, start.terminal)?))
    }

    fn run_exec(
        &mut self,
        job: Job<'_>,
        task_dir: &Path,
    ) -> Result<(i32, Option<OwnedFd>), Failure> {
        let Job {
            start,
            id,
            identity,
            document: mut process,
        } = job;
        mounts::hide_cgroups().map_err(|error| failure("hide cgroups", error))?;
        let (failures_in, failures) = failure_pipe()?;
        let inherited = Inherited {
            cgroup_view: None,
            failures,
        };
        let confine = take_confinement(start, &mut process, identity, inherited)?;
        let file = self.dir.join("process.json");
        write_json(&file, &process)?;
        let console = self.console(start.terminal)?;
        let builder = self.builder(start, id, &task_dir.join("runtime"), confine)?;
        let result = builder
            .as_tenant()
            .with_detach(true)
            .with_process(Some(&file))
            .build();
        let pid = finish(result, failures_in)?.as_raw();
        Ok((pid, accept_console(console, start.terminal)?))
    }

    fn builder(
        &mut self,
        start: &Start,
        id: &str,
        runtime: &Path,
        confine: Confine,
    ) -> Result<ContainerBuilder, Failure> {
        let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
            .with_executor(confine)
            .with_root_path(runtime)
            .and_then(ContainerBuilder::validate_id)
            .map_err(|error| failure("create", error))?;
        if start.terminal.is_some() {
            self.streams = None;
            return Ok(builder.with_console_socket(Some(self.dir.join("console"))));
        }
        let streams = self
            .streams
            .take()
            .ok_or_else(|| failure("streams", "used already"))?;
        let stdin = if start.stdin { streams.stdin } else { null()? };
        Ok(builder
            .with_stdin(stdin)
            .with_stdout(streams.stdout)
            .with_stderr(streams.stderr))
    }

    pub(crate) fn console(
        &self,
        terminal: Option<WindowSize>,
    ) -> Result<Option<UnixListener>, Failure> {
        if terminal.is_none() {
            return Ok(None);
        }
        // The working directory is the state directory: a long path would not fit into a socket address.
        std::env::set_current_dir(&self.dir).map_err(|error| failure("state directory", error))?;
        UnixListener::bind("console")
            .map(Some)
            .map_err(|error| failure("console socket", error))
    }
}

/// Set here, for what is started inherits it, and because runtimes do not say what failed.
fn set_oom_score(document: &mut Value) -> Result<(), Failure> {
    let score = match document.pointer_mut("/process") {
        Some(Value::Object(process)) => process.remove("oomScoreAdj"),
        _ => None,
    };
    let score = score.as_ref().and_then(Value::as_i64).unwrap_or(0);
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // What a host that may not lower it has is no more than what was to be said.
        Err(error) if score != 0 => Err(Failure {
            kind: FailureKind::Value,
            reason: format!("oom_score_adj {score} is not allowed on this host: {error}"),
        }),
        Err(_) | Ok(()) => Ok(()),
    }
}

/// Takes the last steps out of the process description: they are ours, see [`super::confine`].
fn take_confinement(
    start: &Start,
    process: &mut Value,
    identity: Identity,
    inherited: Inherited,
) -> Result<Confine, Failure> {
    complete_env(process, &identity);
    let list = |value: &Value| -> Vec<String> {
        serde_json::from_value(value.clone()).unwrap_or_default()
    };
    let filter = match &start.seccomp_program {
        Some(path) => Some(Rc::new(
            fs::read(path).map_err(|error| failure("seccomp filter", error))?,
        )),
        None => None,
    };
    let umask = process["user"]["umask"]
        .as_u64()
        .and_then(|umask| u32::try_from(umask).ok())
        .unwrap_or(0o022);
    let init = start.init.then(init::Arguments::of_this_process);
    let init = init
        .transpose()
        .map_err(|error| failure("arguments", error))?;
    let confine = Confine {
        args: list(&process["args"]),
        env: list(&process["env"]),
        identity,
        umask,
        capabilities: capability_sets(&process["capabilities"])?,
        no_new_privileges: process["noNewPrivileges"].as_bool().unwrap_or(false),
        filter,
        cgroup_view: inherited.cgroup_view,
        init,
        terminal: start.terminal,
        failures: Rc::new(inherited.failures),
    };
    if let Value::Object(process) = process {
        process.remove("capabilities");
        process.remove("noNewPrivileges");
        process.insert("user".to_owned(), json!({"uid": 0, "gid": 0}));
        process.insert("terminal".to_owned(), json!(start.terminal.is_some()));
    }
    Ok(confine)
}

pub(crate) fn null() -> Result<OwnedFd, Failure> {
    Ok(File::open("/dev/null")
        .map_err(|error| failure("/dev/null", error))?
        .into())
}

pub(crate) fn read_json(path: &Path) -> Result<Value, Failure> {
    let text = fs::read(path).map_err(|error| failure("spec", error))?;
    serde_json::from_slice(&text).map_err(|error| failure("spec", error))
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| failure("bundle", error))?;
    }
    fs::write(path, value.to_string()).map_err(|error| failure("bundle", error))
}

/// `HOME` comes from the image's user database unless it was set.
pub(crate) fn complete_env(process: &mut Value, identity: &Identity) {
    if let Some(Value::Array(env)) = process.get_mut("env") {
        let has = |name: &str| {
            env.iter()
                .any(|pair| pair.as_str().is_some_and(|pair| pair.starts_with(name)))
        };
        let (home, path) = (has("HOME="), has("PATH="));
        if !home {
            env.push(json!(format!("HOME={}", identity.home)));
        }
        if !path {
            env.push(json!(
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            ));
        }
    }
}

fn capability_sets(value: &Value) -> Result<CapabilitySets, Failure> {
    let set = |name: &str| -> Result<u64, Failure> {
        let mut bits = 0;
        for capability in value[name].as_array().into_iter().flatten() {
            let name = capability.as_str().unwrap_or_default();
            bits |= capability_bit(name).ok_or_else(|| failure("unknown capability", name))?;
        }
        Ok(bits)
    };
    Ok(CapabilitySets {
        bounding: set("bounding")?,
        effective: set("effective")?,
        permitted: set("permitted")?,
        inheritable: set("inheritable")?,
        ambient: set("ambient")?,
    })
}

/// An exec's directory must be there; other than a task's it is not made. What cannot be looked at is left to the runtime.
fn check_directory(root: &OwnedFd, path: &str) -> Result<(), Failure> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match paths::open_in(root, Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Err(Failure {
            kind: FailureKind::NotFound,
            reason: format!(
                "working directory {path}: {}",
                if error.kind() == NotFound {
                    "no such directory in the container"
                } else {
                    "not a directory"
                }
            ),
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn failure_pipe() -> Result<(File, OwnedFd), Failure> {
    let (read, write) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| failure("pipe", error))?;
    Ok((File::from(read), write))
}

/// Waits until the program runs or has failed to. The writing end lives in the executor, which is gone with
/// the builder, and in the task's first process until `execve`.
fn finish<T>(
    result: Result<T, libcontainer::error::LibcontainerError>,
    mut failures: File,
) -> Result<T, Failure> {
    let mut text = Vec::new();
    failures
        .read_to_end(&mut text)
        .map_err(|error| failure("wait for the program", error))?;
    if let Ok(found) = serde_json::Deserializer::from_slice(&text)
        .into_iter::<Failure>()
        .next()
        .transpose()
        && let Some(found) = found
    {
        return Err(found);
    }
    result.map_err(|error| {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !reason.contains(&cause_text) {
                reason = format!("{reason}: {cause_text}");
            }
            source = cause.source();
        }
        failure("create", reason)
    })
}

/// Takes the terminal's master from the runtime and sets its first size.
pub(crate) fn accept_console(
    listener: Option<UnixListener>,
    size: Option<WindowSize>,
) -> Result<Option<OwnedFd>, Failure> {
    let (Some(listener), Some(size)) = (listener, size) else {
        return Ok(None);
    };
    // The runtime has sent it by now; nothing is waited for but a runtime that lied.
    let (socket, _) = listener
        .accept()
        .map_err(|error| failure("console", error))?;
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut name = [0; 4096];
    let mut slices = [IoSliceMut::new(&mut name)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)
        .map_err(|error| failure("console", error))?;
    let master = take_fd(message.cmsgs().map_err(|error| failure("console", error))?);
    let master = master.ok_or_else(|| failure("console", "no terminal was sent"))?;
    super::streams::resize(&master, size).map_err(|error| failure("terminal size", error))?;
    Ok(Some(master))
}

#[expect(unsafe_code, reason = "received descriptors come as numbers")]
fn take_fd(messages: nix::sys::socket::CmsgIterator<'_>) -> Option<OwnedFd> {
    for control in messages {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just handed this descriptor to us alone.
            return fds.first().map(|&raw| unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
    None
}
