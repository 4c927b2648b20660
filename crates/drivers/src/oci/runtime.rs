//! The agent's task runtime on shims.
//!
//! Start with [`OciRuntime::open`]. Always holds: the table in memory is only a view of shims and folders
//! and can be rebuilt by [`OciRuntime::observe`](agent::driver::TaskRuntime::observe) at any time.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::driver::{DriverError, ErrorClass, ObservedTask, TaskEvent};
use model::workload::Phase as TaskPhase;
use model::{HostWorkload, PoolId, TaskStatus, WorkloadId};
use shim::message::{Failure, FailureKind, Phase, Request};
use shim::process::ProcessId;
use tokio::sync::{broadcast, watch};

use super::cgroup::{self, Cgroup, CgroupError, Cgroups};
use super::client::{Connection, Launcher, ShimError};
use super::exec::Execs;
use super::observe::{self, Found};
use super::pools::{Pools, PoolsError};
use super::readers::Readers;
use super::spec::SpecError;
use super::task_dir::{RunDir, StoredPlan, TaskDir};
use super::trash::Trash;

/// Changes waiting for a slow agent; after that it observes everything again.
const EVENTS: usize = 1024;

/// Where a host keeps its tasks, and what it runs them with.
#[derive(Debug, Clone)]
pub struct OciConfig {
    /// Folder for tasks, volumes and caches; on a file system that can hold overlay's upper layers.
    pub data: PathBuf,
    /// The `plimsoll-shim` program.
    pub shim: PathBuf,
    /// Name of the host in the cgroup tree.
    pub host: String,
    /// Further OCI runtimes by name.
    pub runtimes: HashMap<String, PathBuf>,
}

/// Tasks on this host.
#[derive(Clone)]
pub struct OciRuntime {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: OciConfig,
    pub(super) launcher: Launcher,
    pub(super) cgroups: Cgroups,
    pub(super) pools: Pools,
    tasks: Mutex<HashMap<WorkloadId, Task>>,
    /// Counts changes of `tasks`, for those who wait for a task to appear or begin.
    changed: watch::Sender<u64>,
    events: broadcast::Sender<TaskEvent>,
    pub(super) execs: Execs,
    pub(super) readers: Arc<Readers>,
}

/// How long removing a task waits for those who read its last output: clients read on or are gone.
const LAST_READERS: Duration = Duration::from_secs(5);

/// One workload in the table.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) plan: StoredPlan,
    pub(super) run: RunDir,
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) shim: Option<ProcessId>,
    pub(super) status: TaskStatus,
}

impl Task {
    pub(super) fn workload(&self) -> &Arc<HostWorkload> {
        &self.plan.workload
    }

    pub(super) fn process(&self) -> Option<ProcessId> {
        let life = self.connection.as_ref()?.life();
        let life = life.borrow();
        match &life.phase {
            Some(Phase::Running { task, .. }) if !life.gone => Some(*task),
            _ => None,
        }
    }
}

pub(super) fn failed(
    what: impl Into<String>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> DriverError {
    let error = error.into();
    let mut message = format!("{}: {error}", what.into());
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let full = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| {
        error.source()
    })
    .filter_map(|error| error.downcast_ref::<io::Error>())
    .any(|error| error.kind() == io::ErrorKind::StorageFull);
    let class = if full {
        ErrorClass::Full
    } else {
        ErrorClass::Failed
    };
    DriverError::new(class, message)
}

impl From<ShimError> for DriverError {
    fn from(error: ShimError) -> Self {
        if let ShimError::Io { dir, .. } | ShimError::Ended { dir, .. } = &error {
            tracing::warn!(dir, %error, "a shim did not answer");
        }
        failed("task", error)
    }
}

impl From<CgroupError> for DriverError {
    fn from(error: CgroupError) -> Self {
        // A value that the kernel does not take came from the user.
        let invalid = match &error {
            CgroupError::Missing { .. } => true,
            CgroupError::File { source, .. } => source.raw_os_error() == Some(libc::EINVAL),
            CgroupError::NotMounted | CgroupError::Freeze => false,
        };
        if let CgroupError::File { path, source } = &error {
            tracing::warn!(path = %path.display(), error = %source, "a cgroup file could not be used");
        }
        let mut error = failed("limits", error);
        if invalid {
            error.class = ErrorClass::Invalid;
        }
        error
    }
}

impl From<SpecError> for DriverError {
    fn from(error: SpecError) -> Self {
        let mut error = failed("specification", error);
        error.class = ErrorClass::Invalid;
        error
    }
}

pub(super) fn refused(failure: &Failure) -> DriverError {
    let class = match failure.kind {
        FailureKind::NotFound
        | FailureKind::NotExecutable
        | FailureKind::User
        | FailureKind::Value => ErrorClass::Invalid,
        FailureKind::NoTask => ErrorClass::Conflict,
        FailureKind::Other => ErrorClass::Failed,
    };
    DriverError::new(class, failure.reason.clone())
}

pub(super) fn unknown(id: &WorkloadId) -> DriverError {
    DriverError::new(
        ErrorClass::NotFound,
        format!("no task {} on this host", id.short()),
    )
}

pub(super) fn not_running(id: &WorkloadId) -> DriverError {
    DriverError::new(
        ErrorClass::Conflict,
        format!("task {} is not running", id.short()),
    )
}

impl From<PoolsError> for DriverError {
    fn from(error: PoolsError) -> Self {
        match error {
            PoolsError::Cgroup(error) => error.into(),
            PoolsError::InUse { .. } => DriverError::new(ErrorClass::Conflict, error.to_string()),
        }
    }
}

/// Runs something that blocks for milliseconds.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(failed("worker", error)),
    }
}

impl OciRuntime {
    /// Opens the folder; nothing is started or touched before it is asked for.
    ///
    /// # Errors
    /// When folders cannot be made, cgroups are missing or the shim program cannot be read.
    pub fn open(config: OciConfig) -> Result<OciRuntime, DriverError> {
        for name in ["tasks", "volumes", "seccomp", "trash"] {
            fs::create_dir_all(config.data.join(name))
                .map_err(|error| failed("data folder", error))?;
        }
        let launcher = Launcher::new(&config.shim)?;
        let cgroups = Cgroups::detect(&config.host)?;
        let inner = Inner {
            launcher,
            pools: Pools::new(cgroups.clone()),
            cgroups,
            config,
            tasks: Mutex::new(HashMap::new()),
            changed: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS),
            execs: Execs::default(),
            readers: Readers::new(),
        };
        Ok(OciRuntime {
            inner: Arc::new(inner),
        })
    }

    /// How cgroups are mounted on this host.
    #[must_use]
    pub fn cgroup_version(&self) -> super::cgroup::Version {
        self.inner.cgroups.version()
    }

    /// The cgroup that bounds a pool on this host; named by the way to it, outermost first.
    #[must_use]
    pub fn pool_cgroup(&self, path: &[&PoolId]) -> Cgroup {
        self.inner.cgroups.pool(path)
    }

    /// Runtimes that can be named.
    #[must_use]
    pub fn runtimes(&self) -> Vec<String> {
        self.inner.config.runtimes.keys().cloned().collect()
    }
}

impl Inner {
    pub(super) fn dir(&self, id: &WorkloadId) -> TaskDir {
        TaskDir::new(&self.config.data.join("tasks"), id)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<TaskEvent> {
        self.events.subscribe()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The workloads that have a task, alive or not.
    pub(super) fn workloads(&self) -> Vec<Arc<HostWorkload>> {
        self.tasks()
            .values()
            .map(|task| Arc::clone(&task.plan.workload))
            .collect()
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, HashMap<WorkloadId, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn task(&self, id: &WorkloadId) -> Option<Task> {
        self.tasks().get(id).cloned()
    }

    pub(super) fn running(
        &self,
        id: &WorkloadId,
    ) -> Result<(Task, Arc<Connection>, ProcessId), DriverError> {
        let task = self.task(id).ok_or_else(|| unknown(id))?;
        let process = task.process().ok_or_else(|| not_running(id))?;
        let connection = task.connection.clone().ok_or_else(|| not_running(id))?;
        Ok((task, connection, process))
    }

    pub(super) fn put(&self, id: &WorkloadId, task: Task) {
        self.tasks().insert(id.clone(), task);
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn forget(&self, id: &WorkloadId) -> Option<Task> {
        let task = self.tasks().remove(id);
        self.changed.send_modify(|count| *count += 1);
        task
    }

    /// Changes the status of an attempt, if it is still the current one.
    pub(super) fn set_status(
        &self,
        id: &WorkloadId,
        run: &RunDir,
        mut status: TaskStatus,
    ) -> Option<ObservedTask> {
        let observed = {
            let mut tasks = self.tasks();
            let task = tasks.get_mut(id).filter(|task| task.run == *run)?;
            // Its file may be lost; when it began does not change any more.
            status.started_at = status.started_at.or(task.status.started_at);
            task.status = status.clone();
            observe::observed(id, status, task.shim)
        };
        self.changed.send_modify(|count| *count += 1);
        Some(observed)
    }

    /// Waits for the end of an attempt and tells the agent.
    pub(super) fn watch(
        self: &Arc<Self>,
        id: WorkloadId,
        run: RunDir,
        connection: &Arc<Connection>,
    ) {
        let inner = Arc::clone(self);
        let mut life = connection.life();
        tokio::spawn(async move {
            let over = |life: &super::client::Life| {
                life.gone
                    || matches!(
                        life.phase,
                        Some(Phase::Exited { .. } | Phase::Failed { .. })
                    )
            };
            let phase = match life.wait_for(over).await {
                Ok(life) => life.phase.clone(),
                Err(_) => None,
            };
            let started = inner
                .task(&id)
                .is_some_and(|task| task.run == run && task.status.phase.is_alive());
            let status = match phase {
                Some(Phase::Exited { exit }) => observe::exited(&exit, &run),
                Some(Phase::Failed { failure }) => observe::failed(&failure, &run),
                Some(Phase::Prepared) => return,
                _ => match observe::look(&run).await {
                    Found::Ended(status) => status,
                    Found::Living { .. } | Found::NeverStarted if !started => return,
                    Found::Living { .. } | Found::NeverStarted => {
                        observe::unknown_end(&run, "its supervisor ended")
                    }
                    Found::Orphaned(_) => inner.end_orphan(&run).await,
                },
            };
            if let Some(changed) = inner.set_status(&id, &run, status) {
                // Nobody listening is not an error: the agent observes when it comes.
                let _ = inner.events.send(TaskEvent::Changed(changed));
            }
        });
    }

    /// A task without supervisor has lost its streams and its exit; it is ended rather than left half alive.
    async fn end_orphan(&self, run: &RunDir) -> TaskStatus {
        if let Some(plan) = run.plan() {
            let cgroup = self.cgroups.workload(&plan.workload);
            // If it cannot be killed, removing it tries again.
            let _ = blocking(move || Ok(cgroup.kill()?)).await;
        }
        observe::unknown_end(run, "its supervisor was killed")
    }

    /// Rebuilds the view of one workload.
    pub(super) async fn look_at(self: &Arc<Self>, id: &WorkloadId) -> Option<ObservedTask> {
        let dir = self.dir(id);
        if let Some(task) = self.task(id)
            && task
                .connection
                .as_ref()
                .is_some_and(|connection| !connection.life().borrow().gone)
        {
            return Some(observe::observed(id, self.live_status(&task), task.shim));
        }
        for run in dir.runs().into_iter().rev() {
            let found = observe::look(&run).await;
            let Some(plan) = run.plan().or_else(|| self.task(id).map(|task| task.plan)) else {
                if let Some(task) = self.without_plan(id, &run, found).await {
                    return Some(task);
                }
                continue;
            };
            let task = |status, connection, shim| Task {
                plan,
                run: run.clone(),
                connection,
                shim,
                status,
            };
            match found {
                Found::NeverStarted => {}
                Found::Ended(status) => {
                    self.put(id, task(status.clone(), None, None));
                    return Some(observe::observed(id, status, None));
                }
                Found::Orphaned(_) => {
                    let status = self.end_orphan(&run).await;
                    self.put(id, task(status.clone(), None, None));
                    return Some(observe::observed(id, status, None));
                }
                Found::Living {
                    connection,
                    shim,
                    phase: _,
                } => {
                    let connection = Arc::new(connection);
                    let mut task = task(
                        TaskStatus::default(),
                        Some(Arc::clone(&connection)),
                        Some(shim),
                    );
                    task.status = self.live_status(&task);
                    let status = task.status.clone();
                    self.put(id, task);
                    self.watch(id.clone(), run.clone(), &connection);
                    return Some(observe::observed(id, status, Some(shim)));
                }
            }
        }
        None
    }

    /// A folder whose plan is lost still says what runs there; without a plan it can only be watched and removed.
    async fn without_plan(
        self: &Arc<Self>,
        id: &WorkloadId,
        run: &RunDir,
        found: Found,
    ) -> Option<ObservedTask> {
        match found {
            Found::NeverStarted => None,
            Found::Ended(status) => Some(observe::observed(id, status, None)),
            Found::Orphaned(process) => Some(observe::observed(
                id,
                observe::running(process, run, 0, false),
                None,
            )),
            Found::Living { shim, phase, .. } => match phase {
                Phase::Running { task, started_ns } => Some(observe::observed(
                    id,
                    observe::running(task, run, started_ns, false),
                    Some(shim),
                )),
                Phase::Prepared | Phase::Starting | Phase::Failed { .. } | Phase::Exited { .. } => {
                    None
                }
            },
        }
    }

    pub(super) fn live_status(&self, task: &Task) -> TaskStatus {
        let phase = task
            .connection
            .as_ref()
            .and_then(|connection| connection.life().borrow().phase.clone());
        match phase {
            Some(Phase::Running {
                task: process,
                started_ns,
            }) => {
                let cgroup = self.cgroups.workload(task.workload());
                observe::running(process, &task.run, started_ns, cgroup.is_frozen())
            }
            Some(Phase::Exited { exit }) => observe::exited(&exit, &task.run),
            Some(Phase::Failed { failure }) => observe::failed(&failure, &task.run),
            Some(Phase::Prepared | Phase::Starting) | None => TaskStatus {
                phase: TaskPhase::Preparing,
                run: task.run.run,
                restart_count: task.run.attempt,
                ..TaskStatus::default()
            },
        }
    }

    /// Removes an ended task; slow parts go on in the background.
    pub(super) async fn remove(self: &Arc<Self>, id: &WorkloadId) -> Result<(), DriverError> {
        let task = self.task(id);
        let dir = self.dir(id);
        let plan = task
            .as_ref()
            .map(|task| task.plan.clone())
            .or_else(|| dir.runs().iter().rev().find_map(RunDir::plan));
        if let Some(task) = &task {
            if task.process().is_some() {
                return Err(DriverError::new(
                    ErrorClass::Conflict,
                    format!("task {} is running", id.short()),
                ));
            }
            // Too late for a client that does not read on: its output goes with the task.
            let _ = tokio::time::timeout(LAST_READERS, self.readers.done(id, task.run.run)).await;
            if let Some(connection) = &task.connection {
                connection.notice(Request::Shutdown).await;
            }
        }
        let cgroup = plan.map(|plan| cgroup::path_of(&plan.workload));
        let trash = self.trash();
        let discarded = trash
            .take(dir.path(), cgroup.as_deref(), id)
            .map_err(|error| failed("task folder", error))?;
        self.forget(id);
        // What remains is found and removed when the runtime observes next.
        tokio::task::spawn_blocking(move || trash.remove(&discarded));
        Ok(())
    }

    fn trash(&self) -> Trash {
        Trash::new(&self.config.data, self.cgroups.clone())
    }

    /// Everything on disk.
    pub(super) async fn observe(self: &Arc<Self>) -> Result<Vec<ObservedTask>, DriverError> {
        let tasks = self.config.data.join("tasks");
        let entries = fs::read_dir(&tasks).map_err(|error| failed("data folder", error))?;
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| WorkloadId::parse(name).ok()) else {
                continue;
            };
            all.extend(self.look_at(&id).await);
            super::exec::adopt_all(self, &id).await;
        }
        let trash = self.trash();
        tokio::task::spawn_blocking(move || trash.empty());
        Ok(all)
    }
}
