//! The agent's task runtime on shims.
//!
//! Start with [`OciRuntime::open`]. Always holds: the table in memory is only a view of shims and folders
//! and can be rebuilt by [`OciRuntime::observe`](agent::driver::TaskRuntime::observe) at any time.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::driver::{DriverError, ErrorClass, ObservedTask, Prepared, TaskEvent, TaskPlan};
use model::workload::{MountSource, NetworkMode, Phase as TaskPhase};
use model::{HostWorkload, PoolId, TaskStatus, Timestamp, WorkloadId};
use shim::message::{
    Failure, FailureKind, LogTarget, Phase, Request, Rootfs, Runtime, Start, Volume, What,
    WindowSize,
};
use shim::process::ProcessId;
use shim::state::{STATE_FILE, ShimState};
use tokio::sync::{broadcast, watch};

use super::cgroup::{Cgroup, CgroupError, Cgroups};
use super::client::{Connection, Launcher, Net, ShimError};
use super::observe::{self, Found};
use super::readers::Readers;
use super::spec::{self, SpecError, Surroundings};
use super::task_dir::{RunDir, StoredPlan, TaskDir, read_or_quarantine};

/// Changes waiting for a slow agent; after that it observes everything again.
const EVENTS: usize = 1024;
/// A terminal whose size nobody has said yet.
const DEFAULT_TERMINAL: WindowSize = WindowSize { rows: 24, cols: 80 };

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
    tasks: Mutex<HashMap<WorkloadId, Task>>,
    /// Counts changes of `tasks`, for those who wait for a task to appear or begin.
    changed: watch::Sender<u64>,
    events: broadcast::Sender<TaskEvent>,
    pub(super) execs: Mutex<HashMap<String, Arc<Connection>>>,
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
            Some(Phase::Running { task }) if !life.gone => Some(*task),
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
        failed("task", error)
    }
}

impl From<CgroupError> for DriverError {
    fn from(error: CgroupError) -> Self {
        // A value that the kernel does not take came from the user.
        let invalid = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<io::Error>())
            .is_some_and(|error| error.raw_os_error() == Some(libc::EINVAL));
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
        FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::User => {
            ErrorClass::Invalid
        }
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
            cgroups,
            config,
            tasks: Mutex::new(HashMap::new()),
            changed: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS),
            execs: Mutex::new(HashMap::new()),
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

    /// The cgroup that bounds a pool on this host.
    #[must_use]
    pub fn pool_cgroup(&self, pool: &PoolId) -> Cgroup {
        self.inner.cgroups.pool(pool)
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
        status: TaskStatus,
    ) -> Option<ObservedTask> {
        let observed = {
            let mut tasks = self.tasks();
            let task = tasks.get_mut(id).filter(|task| task.run == *run)?;
            task.status = status.clone();
            observe::observed(id, status, task.shim)
        };
        self.changed.send_modify(|count| *count += 1);
        Some(observed)
    }

    /// Waits for the end of an attempt and tells the agent.
    fn watch(self: &Arc<Self>, id: WorkloadId, run: RunDir, connection: &Arc<Connection>) {
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
                    Found::Orphaned(_) => inner.end_orphan(&id, &run).await,
                },
            };
            if let Some(changed) = inner.set_status(&id, &run, status) {
                // Nobody listening is not an error: the agent observes when it comes.
                let _ = inner.events.send(TaskEvent::Changed(changed));
            }
        });
    }

    /// A task without supervisor has lost its streams and its exit; it is ended rather than left half alive.
    async fn end_orphan(&self, id: &WorkloadId, run: &RunDir) -> TaskStatus {
        if let Some(plan) = run.plan() {
            let cgroup = self.cgroups.workload(&plan.workload.pool, id);
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
                    let status = self.end_orphan(id, &run).await;
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
                observe::running(process, run, None, false),
                None,
            )),
            Found::Living { shim, phase, .. } => match phase {
                Phase::Running { task } => Some(observe::observed(
                    id,
                    observe::running(task, run, None, false),
                    Some(shim),
                )),
                Phase::Prepared | Phase::Starting | Phase::Failed { .. } | Phase::Exited { .. } => {
                    None
                }
            },
        }
    }

    fn live_status(&self, task: &Task) -> TaskStatus {
        let phase = task
            .connection
            .as_ref()
            .and_then(|connection| connection.life().borrow().phase.clone());
        match phase {
            Some(Phase::Running { task: process }) => {
                let cgroup = self
                    .cgroups
                    .workload(&task.workload().pool, &task.workload().id);
                let started = task.status.started_at.or_else(|| started_at(&task.run));
                observe::running(process, &task.run, started, cgroup.is_frozen())
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

    /// Makes folders, cgroups and a shim for an attempt.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        plan: &TaskPlan,
    ) -> Result<Prepared, DriverError> {
        let workload = &plan.workload;
        let id = workload.id.clone();
        let dir = self.dir(&id);
        let run = dir.run(workload.run, plan.attempt);
        if let Some(prepared) = self.prepared_before(&id, &run) {
            return Ok(prepared);
        }
        self.check_runtime(workload)?;
        let stored = StoredPlan {
            workload: Arc::clone(workload),
            attempt: plan.attempt,
        };
        let net = self.net_of(workload)?;
        let old = dir.runs();
        dir.create().map_err(|error| failed("task folder", error))?;
        if run.path.exists() {
            // An agent before this one has prepared or even started it, and may have lost its files.
            run.store(&stored)
                .map_err(|error| failed("task folder", error))?;
            self.look_at(&id).await;
            if let Some(prepared) = self.prepared_before(&id, &run) {
                return Ok(prepared);
            }
            // Never started: its shim has ended with its agent.
            fs::remove_dir_all(&run.path).map_err(|error| failed("task folder", error))?;
        }
        run.store(&stored)
            .map_err(|error| failed("task folder", error))?;
        let cgroup = self.cgroups.workload(&workload.pool, &id);
        let placing = cgroup.clone();
        let spec = workload.spec.task.clone();
        let limits = blocking(move || {
            placing.create()?;
            placing.limit(&spec.resources)?;
            placing.allow_devices(&spec.devices, spec.security.privileged)?;
            Ok(())
        });
        let (connection, limited) = tokio::join!(self.launcher.launch(&run.path, &net), limits);
        let connection = Arc::new(connection?);
        limited?;
        let mut placement = cgroup.placement();
        if workload.spec.task.runtime.is_some() {
            // An external runtime places and limits its tasks itself, and wants the cgroup empty.
            placement.view.clear();
            placement.procs.clear();
        }
        // Not waited for: entering cgroups takes the kernel up to 10 ms, while the network is plugged.
        connection.notice(Request::Place(placement)).await;
        let shim = connection
            .life()
            .borrow()
            .shim
            .ok_or_else(|| not_running(&id))?;
        let status = TaskStatus {
            phase: TaskPhase::Preparing,
            run: run.run,
            restart_count: run.attempt,
            ..TaskStatus::default()
        };
        let task = Task {
            plan: stored,
            run: run.clone(),
            connection: Some(Arc::clone(&connection)),
            shim: Some(shim),
            status,
        };
        self.put(&id, task);
        self.watch(id, run.clone(), &connection);
        tokio::task::spawn_blocking(move || {
            for older in old.into_iter().filter(|older| *older < run) {
                // Tried again with the next attempt, and gone at the latest with the task.
                let _ = fs::remove_dir_all(older.path);
            }
        });
        prepared(shim)
    }

    fn prepared_before(&self, id: &WorkloadId, run: &RunDir) -> Option<Prepared> {
        let task = self.task(id).filter(|task| task.run == *run)?;
        let connection = task.connection?;
        let life = connection.life().borrow().clone();
        let alive = !life.gone
            && matches!(
                life.phase,
                Some(Phase::Prepared | Phase::Starting | Phase::Running { .. })
            );
        if alive {
            prepared(task.shim?).ok()
        } else {
            None
        }
    }

    fn check_runtime(&self, workload: &HostWorkload) -> Result<Runtime, DriverError> {
        match &workload.spec.task.runtime {
            None => Ok(Runtime::BuiltIn),
            Some(name) => match self.config.runtimes.get(name) {
                Some(program) => Ok(Runtime::External {
                    program: program.clone(),
                }),
                None => Err(DriverError::new(
                    ErrorClass::Invalid,
                    format!("this host has no runtime named \"{name}\""),
                )),
            },
        }
    }

    fn net_of(&self, workload: &HostWorkload) -> Result<Net, DriverError> {
        match &workload.spec.network {
            NetworkMode::Bridge | NetworkMode::None => Ok(Net::New),
            NetworkMode::Host => Ok(Net::Host),
            NetworkMode::Workload { id } => {
                let other = self.task(id).ok_or_else(|| unknown(id))?;
                let pid = other.process().ok_or_else(|| not_running(id))?.pid;
                u32::try_from(pid)
                    .map(Net::Of)
                    .map_err(|error| failed("network", error))
            }
        }
    }

    /// Starts a prepared attempt.
    pub(super) async fn start(
        self: &Arc<Self>,
        plan: &TaskPlan,
    ) -> Result<ObservedTask, DriverError> {
        let id = &plan.workload.id;
        let run = self.dir(id).run(plan.workload.run, plan.attempt);
        let task = self
            .task(id)
            .filter(|task| task.run == run)
            .ok_or_else(|| {
                DriverError::new(
                    ErrorClass::Conflict,
                    format!("task {} was not prepared", id.short()),
                )
            })?;
        let connection = task.connection.clone().ok_or_else(|| not_running(id))?;
        let phase = connection.life().borrow().phase.clone();
        if let Some(Phase::Running { .. } | Phase::Exited { .. }) = phase {
            let status = self.live_status(&task);
            return Ok(observe::observed(id, status, task.shim));
        }
        let request = self.start_request(plan, &run).await?;
        let started = observe::now();
        if let Err(failure) = connection.call(Request::Start(Box::new(request))).await {
            self.set_status(id, &run, observe::failed(&failure, &run));
            return Err(refused(&failure));
        }
        let mut task = task;
        task.status.started_at = Some(started);
        let status = self.live_status(&task);
        // It may have ended already; then the watcher has said so or will.
        if status.phase.is_alive() {
            self.set_status(id, &run, status.clone());
        }
        Ok(observe::observed(id, status, task.shim))
    }

    async fn start_request(&self, plan: &TaskPlan, run: &RunDir) -> Result<Start, DriverError> {
        let workload = &plan.workload;
        let spec = &workload.spec.task;
        let dir = self.dir(&workload.id);
        let around_volumes = dir.sub("volumes");
        let pool_volumes = self
            .config
            .data
            .join("volumes")
            .join(workload.pool.as_str());
        let etc = dir.sub("etc");
        let around = Surroundings {
            cgroup: self.cgroups.workload(&workload.pool, &workload.id).path(),
            etc: &etc,
            volumes: &around_volumes,
            pool_volumes: &pool_volumes,
            arch: std::env::consts::ARCH,
            kernel: kernel_release(),
            device: &super::devices::Node::of,
        };
        let mut document = spec::task_spec(workload, &around)?;
        write_etc(&etc, workload, plan).map_err(|error| failed("files of /etc", error))?;
        make_sources(workload, &around).map_err(|error| failed("mount source", error))?;
        let runtime = self.check_runtime(workload)?;
        let mut seccomp_program = None;
        if runtime == Runtime::BuiltIn
            && let Some(linux) = document
                .get_mut("linux")
                .and_then(|linux| linux.as_object_mut())
            && let Some(filter) = linux.remove("seccomp")
        {
            seccomp_program = Some(self.filter_program(&filter).await?);
        }
        let path = run.path.join("spec.json");
        fs::write(&path, document.to_string()).map_err(|error| failed("task folder", error))?;
        let rootfs = Rootfs::Overlay {
            lower: plan.layers.clone(),
            upper: dir.sub("upper"),
            work: dir.sub("work"),
        };
        Ok(Start {
            run: workload.run,
            what: What::Task {
                id: workload.id.as_str().to_owned(),
                rootfs,
                spec: path,
                volumes: seeded_volumes(workload, &around),
            },
            user: spec.user.clone(),
            groups: spec.groups.clone(),
            terminal: spec.tty.then_some(DEFAULT_TERMINAL),
            stdin: spec.stdin_open,
            log: log_target(&dir, workload),
            runtime,
            init: spec.init,
            seccomp_program,
        })
    }

    /// The compiled form of a filter, from the cache if possible.
    pub(super) async fn filter_program(
        &self,
        filter: &serde_json::Value,
    ) -> Result<PathBuf, DriverError> {
        use sha2::Digest;
        // What compiles it is part of the name: another version may know other calls.
        let mut hash = sha2::Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update(filter.to_string());
        let folder = self.config.data.join("seccomp");
        let name = hex::encode(hash.finalize());
        let path = folder.join(&name);
        if !path.exists() {
            let program = self
                .launcher
                .compile_filter(filter)
                .await
                .map_err(|error| {
                    let mut error = failed("system call filter", error);
                    error.class = ErrorClass::Invalid;
                    error
                })?;
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|error| failed("random numbers", error))?;
            let temporary = folder.join(format!(".{name}.{}", hex::encode(random)));
            let write = || -> io::Result<()> {
                fs::write(&temporary, &program)?;
                fs::File::open(&temporary)?.sync_all()?;
                fs::rename(&temporary, &path)
            };
            write().map_err(|error| failed("filter cache", error))?;
        }
        Ok(path)
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
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| failed("random numbers", error))?;
        let trash =
            self.config
                .data
                .join("trash")
                .join(format!("{}-{}", id.as_str(), hex::encode(random)));
        match fs::rename(dir.path(), &trash) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("task folder", error));
            }
            _ => {}
        }
        self.forget(id);
        let cgroup = plan.map(|plan| self.cgroups.workload(&plan.workload.pool, id));
        tokio::task::spawn_blocking(move || {
            if let Some(Err(error)) = cgroup.map(|cgroup| cgroup.remove()) {
                tracing::warn!(%error, "a cgroup could not be removed");
            }
            // What remains is found and removed when the runtime observes next.
            let _ = fs::remove_dir_all(trash);
        });
        Ok(())
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
        }
        let trash = self.config.data.join("trash");
        tokio::task::spawn_blocking(move || {
            // Everything in there was removed on demand; an agent that died meanwhile left it.
            for entry in fs::read_dir(trash).into_iter().flatten().flatten() {
                let _ = fs::remove_dir_all(entry.path());
            }
        });
        Ok(all)
    }
}

fn prepared(shim: ProcessId) -> Result<Prepared, DriverError> {
    let pid = u32::try_from(shim.pid).map_err(|error| failed("process id", error))?;
    Ok(Prepared {
        pid,
        start_time: shim.start,
    })
}

fn started_at(run: &RunDir) -> Option<Timestamp> {
    read_or_quarantine::<ShimState>(&run.path.join(STATE_FILE))?
        .started_ns
        .map(observe::timestamp)
}

pub(super) fn log_target(dir: &TaskDir, workload: &HostWorkload) -> LogTarget {
    let log = &workload.spec.task.log;
    // Without a kept log there is still what attached clients read from.
    let (max_file_bytes, max_files) = if log.keep {
        (log.max_file_bytes.max(4096), log.max_files.max(1))
    } else {
        (1 << 20, 2)
    };
    LogTarget {
        dir: dir.sub("log"),
        max_file_bytes,
        max_files,
    }
}

pub(super) fn kernel_release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn write_etc(etc: &Path, workload: &HostWorkload, plan: &TaskPlan) -> io::Result<()> {
    let hostname = if workload.spec.hostname.is_empty() {
        workload.id.short()
    } else {
        &workload.spec.hostname
    };
    let (hosts, resolv) = match &plan.network {
        Some(network) => (network.hosts.clone(), network.resolv_conf.clone()),
        None => (
            format!(
                "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
            ),
            String::new(),
        ),
    };
    fs::create_dir_all(etc)?;
    // Written in place: a running task has these very files mounted.
    fs::write(etc.join("hosts"), hosts)?;
    fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
    fs::write(etc.join("resolv.conf"), resolv)
}

fn seeded_volumes(workload: &HostWorkload, around: &Surroundings<'_>) -> Vec<Volume> {
    let mounts = workload.spec.task.mounts.iter();
    mounts
        .filter_map(|mount| match &mount.source {
            MountSource::Volume {
                name,
                no_copy: false,
            } => Some(Volume {
                source: spec::volume_dir(name, &mount.target, around),
                target: PathBuf::from(&mount.target),
            }),
            MountSource::Volume { .. }
            | MountSource::HostPath { .. }
            | MountSource::Tmpfs { .. } => None,
        })
        .collect()
}

fn make_sources(workload: &HostWorkload, around: &Surroundings<'_>) -> io::Result<()> {
    for mount in &workload.spec.task.mounts {
        match &mount.source {
            MountSource::Volume { name, no_copy: _ } => {
                fs::create_dir_all(spec::volume_dir(name, &mount.target, around))?;
            }
            MountSource::HostPath {
                path,
                create: true,
                propagation: _,
            } => fs::create_dir_all(path)?,
            MountSource::HostPath { .. } | MountSource::Tmpfs { .. } => {}
        }
    }
    Ok(())
}
