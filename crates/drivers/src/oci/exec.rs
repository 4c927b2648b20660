//! Further processes in a running task: a shim each, with the task's confinement.
//!
//! What always holds: the folder of an exec, with its output and exit, is there until both have arrived or [`KEPT_FOR`]
//! after its end, also if the agent dies meanwhile.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent::driver::{
    DriverError, ErrorClass, ExecExit, ExecRequest, ExecResume, ExecSession, TaskInput,
};
use async_trait::async_trait;
use bytes::Bytes;
use shim::message::{LogTarget, Phase, Request, Runtime, Start, What, WindowSize};
use shim::process::ProcessId;
use shim::state::{EXIT_FILE, ExitRecord};

use super::attempt::kernel_release;
use super::client::{Connection, Net};
use super::follow::exec_output;
use super::runtime::{Inner, Task, failed, not_running, refused, unknown};
use super::spec;
use super::task_dir::read_or_quarantine;

/// Output of an exec is kept only until its reader has taken it; the reader is waited for.
const EXEC_LOG: (u64, u32) = (1 << 20, 3);

/// The OCI process description in an exec's folder.
const PROCESS_FILE: &str = "exec.json";

/// How long output and exit are kept after the end, or after the agent's start if that is later, for a server that
/// could not be reached: a break of the network that is longer is repaired by people.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// Input of a task or exec over a connection of its own.
pub(super) struct ShimInput {
    connection: Arc<Connection>,
}

#[async_trait]
impl TaskInput for ShimInput {
    async fn write(&mut self, bytes: Bytes) -> Result<(), DriverError> {
        self.connection
            .input(bytes)
            .await
            .map_err(|failure| refused(&failure))
    }

    async fn close(&mut self) -> Result<(), DriverError> {
        self.connection
            .call(Request::CloseStdin)
            .await
            .map_err(|failure| refused(&failure))
    }
}

/// The way into a task's first process; waits for a task that is about to start.
pub(super) async fn input(
    inner: &Arc<Inner>,
    id: &model::WorkloadId,
) -> Result<Box<dyn TaskInput>, DriverError> {
    let task = inner.task(id).ok_or_else(|| unknown(id))?;
    if !task.workload().spec.task.stdin_open {
        return Err(DriverError::new(
            ErrorClass::Conflict,
            format!("standard input of task {} is not open", id.short()),
        ));
    }
    let connection = task.connection.ok_or_else(|| not_running(id))?;
    let mut life = connection.life();
    let begun = life
        .wait_for(|life| {
            life.gone || !matches!(life.phase, Some(Phase::Prepared | Phase::Starting) | None)
        })
        .await
        .map_err(|_| not_running(id))?
        .phase
        .clone();
    if !matches!(begun, Some(Phase::Running { .. })) {
        return Err(not_running(id));
    }
    let connection = Arc::new(Connection::connect(connection.dir()).await?);
    Ok(Box::new(ShimInput { connection }))
}

/// Changes the size of a terminal.
pub(super) async fn resize(
    inner: &Arc<Inner>,
    id: &model::WorkloadId,
    exec: Option<&str>,
    size: WindowSize,
) -> Result<(), DriverError> {
    let connection = match exec {
        Some(exec) => {
            let kept = inner.execs.get(exec);
            kept.and_then(|kept| kept.connection()).ok_or_else(|| {
                DriverError::new(
                    ErrorClass::NotFound,
                    format!("no exec {exec} is running in task {}", id.short()),
                )
            })?
        }
        None => inner.running(id)?.1,
    };
    connection
        .call(Request::Resize(size))
        .await
        .map_err(|failure| refused(&failure))
}

fn check_id(exec: &str) -> Result<(), DriverError> {
    let fine = !exec.is_empty()
        && exec.len() <= 64
        && exec.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if fine {
        Ok(())
    } else {
        Err(DriverError::new(ErrorClass::Invalid, "invalid exec id"))
    }
}

fn start_request(task: &Task, request: &ExecRequest, what: What, log: PathBuf) -> Start {
    let own = &task.workload().spec.task;
    let (rows, cols) = request
        .size
        .filter(|(rows, cols)| *rows > 0 && *cols > 0)
        .unwrap_or((24, 80));
    Start {
        run: task.run.run,
        what,
        user: if request.user.is_empty() {
            own.user.clone()
        } else {
            request.user.clone()
        },
        groups: own.groups.clone(),
        terminal: request.tty.then_some(WindowSize { rows, cols }),
        stdin: request.stdin,
        log: LogTarget {
            dir: log,
            max_file_bytes: EXEC_LOG.0,
            max_files: EXEC_LOG.1,
        },
        runtime: Runtime::BuiltIn,
        init: false,
        seccomp_program: None,
    }
}

/// Runs a process in a running task.
pub(super) async fn exec(
    inner: &Arc<Inner>,
    request: &ExecRequest,
) -> Result<ExecSession, DriverError> {
    check_id(&request.exec)?;
    let id = &request.id;
    let (task, _, process) = inner.running(id)?;
    let workload = task.workload();
    let cgroup = inner.cgroups.workload(workload);
    if cgroup.is_frozen() {
        return Err(DriverError::new(
            ErrorClass::Conflict,
            format!("task {} is paused", id.short()),
        ));
    }
    let description = spec::exec_process(workload, request)?;
    let dir = inner.dir(id).sub("exec").join(&request.exec);
    if dir.exists() {
        let message = format!("exec {} exists already", request.exec);
        return Err(DriverError::new(ErrorClass::Conflict, message));
    }
    fs::create_dir_all(&dir).map_err(|error| failed("exec folder", error))?;
    let folder = Folder(dir.clone());
    fs::write(dir.join(PROCESS_FILE), description.to_string())
        .map_err(|error| failed("exec folder", error))?;
    let connection = Arc::new(inner.launcher.launch(&dir, &Net::Host).await?);
    launch(inner, &task, process, request, &connection).await?;
    let kept = Kept::running(&request.exec, Arc::clone(&connection));
    inner.execs.add(&kept);
    keep(inner, &kept, folder);
    let session = session(&dir, Some(connection), &kept, Some(0), request.stdin).await;
    // The session's own connection holds from here on, for as long as it lives.
    if let Some(first) = kept.connection() {
        first
            .notice(Request::Subscribe(shim::message::Subscribe {
                hold: false,
                offset: 0,
            }))
            .await;
    }
    session
}

/// Starts the process through a shim that is there, with the task's confinement; nothing of its output is rotated away
/// before it is read.
async fn launch(
    inner: &Arc<Inner>,
    task: &Task,
    process: ProcessId,
    request: &ExecRequest,
    connection: &Connection,
) -> Result<(), DriverError> {
    let (workload, dir) = (task.workload(), connection.dir());
    let id = &request.id;
    let cgroup = inner.cgroups.workload(workload);
    let mut placement = cgroup.placement();
    placement.view.clear();
    let runtime = inner.check_runtime(workload)?;
    if runtime != Runtime::BuiltIn {
        placement.procs.clear();
    }
    connection.notice(Request::Place(placement)).await;
    let filter = spec::exec_filter(
        workload,
        request.privileged,
        std::env::consts::ARCH,
        kernel_release(),
    )?;
    let seccomp_program = match (&runtime, filter) {
        (Runtime::BuiltIn, Some(filter)) => Some(inner.filter_program(&filter).await?),
        _ => None,
    };
    let what = What::Exec {
        id: id.as_str().to_owned(),
        task_dir: task.run.path.clone(),
        task: process,
        process: dir.join(PROCESS_FILE),
    };
    let start = Start {
        runtime,
        seccomp_program,
        ..start_request(task, request, what, dir.join("log"))
    };
    // The reader must hold before the first byte: the log of an exec is small.
    let subscribe = shim::message::Subscribe {
        hold: true,
        offset: 0,
    };
    connection
        .call(Request::Subscribe(subscribe))
        .await
        .map_err(|failure| refused(&failure))?;
    connection
        .call(Request::Start(Box::new(start)))
        .await
        .map_err(|failure| refused(&failure))
}

/// Goes on with an exec, wherever it is by now.
pub(super) async fn resume(
    inner: &Arc<Inner>,
    request: &ExecResume,
) -> Result<ExecSession, DriverError> {
    check_id(&request.exec)?;
    let dir = inner.dir(&request.id).sub("exec").join(&request.exec);
    let kept = adopt(inner, &request.exec, &dir).await.ok_or_else(|| {
        DriverError::new(
            ErrorClass::NotFound,
            format!("exec {} is not known any more", request.exec),
        )
    })?;
    session(
        &dir,
        kept.connection(),
        &kept,
        request.position,
        request.stdin,
    )
    .await
}

/// Execs that run, or whose end has not arrived yet, by id.
#[derive(Default)]
pub(super) struct Execs(Mutex<HashMap<String, Arc<Kept>>>);

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, exec: &str) -> Option<Arc<Kept>> {
        self.lock().get(exec).cloned()
    }

    fn add(&self, kept: &Arc<Kept>) {
        self.lock().insert(kept.exec.clone(), Arc::clone(kept));
    }
}

/// One of them.
struct Kept {
    exec: String,
    /// The way to its shim while it runs.
    connection: Mutex<Option<Arc<Connection>>>,
    /// Told when everything of it has arrived.
    arrived: tokio::sync::Notify,
}

impl Kept {
    fn running(exec: &str, connection: Arc<Connection>) -> Arc<Kept> {
        Arc::new(Kept {
            exec: exec.to_owned(),
            connection: Mutex::new(Some(connection)),
            arrived: tokio::sync::Notify::new(),
        })
    }

    fn ended(exec: &str) -> Arc<Kept> {
        Arc::new(Kept {
            exec: exec.to_owned(),
            connection: Mutex::new(None),
            arrived: tokio::sync::Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Option<Arc<Connection>> {
        self.lock().clone()
    }
}

/// Removes an exec's folder.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // It goes with the task at the latest.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Keeps an exec's folder for as long as somebody may ask for it.
fn keep(inner: &Arc<Inner>, kept: &Arc<Kept>, folder: Folder) {
    let (inner, kept) = (Arc::clone(inner), Arc::clone(kept));
    tokio::spawn(async move {
        if let Some(connection) = kept.connection() {
            // An error means that the connection is gone, as its end does.
            let _ = connection.life().wait_for(is_over).await;
        }
        // The shim ends when nobody is connected any more.
        kept.lock().take();
        let _ = tokio::time::timeout(KEPT_FOR, kept.arrived.notified()).await;
        drop(folder);
        inner.execs.lock().remove(&kept.exec);
    });
}

/// An exec this agent does not know may be of an earlier one.
async fn adopt(inner: &Arc<Inner>, exec: &str, dir: &Path) -> Option<Arc<Kept>> {
    if let Some(kept) = inner.execs.get(exec) {
        return Some(kept);
    }
    if !dir.exists() {
        return None;
    }
    let kept = match Connection::connect(dir).await {
        Ok(connection) => Kept::running(exec, Arc::new(connection)),
        Err(_) => Kept::ended(exec),
    };
    {
        let mut execs = inner.execs.lock();
        // Somebody else may have been quicker.
        if let Some(known) = execs.get(exec) {
            return Some(Arc::clone(known));
        }
        execs.insert(exec.to_owned(), Arc::clone(&kept));
    }
    keep(inner, &kept, Folder(dir.to_owned()));
    Some(kept)
}

/// Takes over what an earlier agent left of a task's execs.
pub(super) async fn adopt_all(inner: &Arc<Inner>, id: &model::WorkloadId) {
    let entries = fs::read_dir(inner.dir(id).sub("exec"));
    for entry in entries.into_iter().flatten().flatten() {
        if let Some(exec) = entry.file_name().to_str()
            && check_id(exec).is_ok()
        {
            adopt(inner, exec, &entry.path()).await;
        }
    }
}

fn is_over(life: &super::client::Life) -> bool {
    life.gone
        || matches!(
            life.phase,
            Some(Phase::Exited { .. } | Phase::Failed { .. })
        )
}

/// How an exec ended, from its shim or from what that left.
async fn exit(dir: PathBuf, connection: Option<Arc<Connection>>) -> Result<ExecExit, DriverError> {
    let mut pid = 0;
    if let Some(connection) = connection {
        let mut life = connection.life();
        if let Some(Phase::Running { task, .. }) = &life.borrow().phase {
            pid = u32::try_from(task.pid).unwrap_or(0);
        }
        let phase = life.wait_for(is_over).await.ok();
        if let Some(Phase::Exited { exit }) = phase.and_then(|life| life.phase.clone()) {
            let exit_code = exit.code;
            return Ok(ExecExit { exit_code, pid });
        }
    }
    match read_or_quarantine::<ExitRecord>(&dir.join(EXIT_FILE)) {
        Some(exit) => Ok(ExecExit {
            exit_code: exit.code,
            pid,
        }),
        None => Err(DriverError::new(
            ErrorClass::Failed,
            "the supervisor of the exec ended",
        )),
    }
}

/// The stream of an exec; `position` is where its output begins, `None` if none is wanted.
async fn session(
    dir: &Path,
    connection: Option<Arc<Connection>>,
    kept: &Arc<Kept>,
    position: Option<u64>,
    stdin: bool,
) -> Result<ExecSession, DriverError> {
    let over = connection
        .as_ref()
        .is_none_or(|connection| is_over(&connection.life().borrow()));
    // Refused only by a shim that has just ended: its log is complete then.
    let own = match Connection::connect(dir).await {
        Ok(own) if !over => Some(Arc::new(own)),
        Ok(_) | Err(_) => None,
    };
    if let (Some(own), Some(offset)) = (&own, position) {
        let subscribe = shim::message::Subscribe { hold: true, offset };
        // As above.
        let _ = own.call(Request::Subscribe(subscribe)).await;
    }
    let input: Option<Box<dyn TaskInput>> = match &own {
        Some(_) if stdin => {
            let connection = Arc::new(Connection::connect(dir).await?);
            Some(Box::new(ShimInput { connection }))
        }
        Some(_) | None => None,
    };
    let output: agent::driver::OutputStream = match position {
        Some(position) => exec_output(dir.join("log"), own, position),
        None => Box::pin(futures::stream::empty()),
    };
    let kept = Arc::clone(kept);
    Ok(ExecSession {
        output,
        input,
        exit: Box::pin(exit(dir.to_owned(), connection)),
        arrived: Box::new(move || kept.arrived.notify_one()),
    })
}
