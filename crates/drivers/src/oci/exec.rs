//! Further processes in a running task: a shim each, with the task's confinement.

use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use agent::driver::{DriverError, ErrorClass, ExecExit, ExecRequest, ExecSession, TaskInput};
use async_trait::async_trait;
use bytes::Bytes;
use shim::message::{LogTarget, Phase, Request, Runtime, Start, What, WindowSize};

use super::attempt::kernel_release;
use super::client::{Connection, Net};
use super::follow::exec_output;
use super::runtime::{Inner, Task, failed, not_running, refused, unknown};
use super::spec;

/// Output of an exec is kept only until its reader has taken it; the reader is waited for.
const EXEC_LOG: (u64, u32) = (1 << 20, 3);

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
            let execs = inner.execs.lock().unwrap_or_else(PoisonError::into_inner);
            execs.get(exec).cloned().ok_or_else(|| {
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
    let guard = Folder {
        path: dir.clone(),
        keep: false,
    };
    let process_file = dir.join("exec.json");
    fs::write(&process_file, description.to_string())
        .map_err(|error| failed("exec folder", error))?;
    let connection = Arc::new(inner.launcher.launch(&dir, &Net::Host).await?);
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
        process: process_file,
    };
    let start = Start {
        runtime,
        seccomp_program,
        ..start_request(&task, request, what, dir.join("log"))
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
        .map_err(|failure| refused(&failure))?;
    session(inner, request, connection, guard).await
}

/// Removes an exec's folder when nobody needs it any more.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // It goes with the task at the latest.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

async fn session(
    inner: &Arc<Inner>,
    request: &ExecRequest,
    connection: Arc<Connection>,
    guard: Folder,
) -> Result<ExecSession, DriverError> {
    let exec = request.exec.clone();
    inner
        .execs
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(exec.clone(), Arc::clone(&connection));
    let input: Option<Box<dyn TaskInput>> = if request.stdin {
        let connection = Arc::new(Connection::connect(connection.dir()).await?);
        Some(Box::new(ShimInput { connection }))
    } else {
        None
    };
    let mut life = connection.life();
    let pid = match &life.borrow().phase {
        Some(Phase::Running { task }) => u32::try_from(task.pid).unwrap_or(0),
        _ => 0,
    };
    let guard = Arc::new(guard);
    let (ended, result) = tokio::sync::oneshot::channel();
    let (watching, keeping) = (Arc::clone(inner), Arc::clone(&guard));
    tokio::spawn(async move {
        let over = |life: &super::client::Life| {
            life.gone
                || matches!(
                    life.phase,
                    Some(Phase::Exited { .. } | Phase::Failed { .. })
                )
        };
        let phase = life
            .wait_for(over)
            .await
            .ok()
            .and_then(|life| life.phase.clone());
        watching
            .execs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&exec);
        let exit = match phase {
            Some(Phase::Exited { exit }) => Ok(ExecExit {
                exit_code: exit.code,
                pid,
            }),
            _ => Err(DriverError::new(
                ErrorClass::Failed,
                "the supervisor of the exec ended",
            )),
        };
        // Whoever asked may have stopped waiting.
        let _ = ended.send(exit);
        drop(keeping);
    });
    let exit: Pin<Box<dyn Future<Output = Result<ExecExit, DriverError>> + Send>> =
        Box::pin(async move {
            match result.await {
                Ok(exit) => exit,
                Err(_) => Err(DriverError::new(
                    ErrorClass::Failed,
                    "the agent is stopping",
                )),
            }
        });
    let output = exec_output(guard.path.join("log"), connection, move || drop(guard));
    Ok(ExecSession {
        output,
        input,
        exit,
    })
}
