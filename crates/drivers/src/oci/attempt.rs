//! One attempt of a task, from nothing to a running process.
//!
//! Start with [`Inner::prepare`] and [`Inner::start`]. Always holds: both can be repeated after a crash at any
//! point; an attempt that runs is never started again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::driver::{DriverError, ErrorClass, ObservedTask, Prepared, TaskPlan};
use model::workload::{MountSource, NetworkMode, Phase as TaskPhase};
use model::{HostWorkload, TaskStatus, WorkloadId};
use shim::message::{LogTarget, Phase, Request, Rootfs, Runtime, Start, Volume, What, WindowSize};
use shim::process::ProcessId;

use super::client::Net;
use super::mounts;
use super::observe;
use super::runtime::{Inner, Task, blocking, failed, not_running, refused, unknown};
use super::spec::{self, Surroundings};
use super::task_dir::{RunDir, StoredPlan, TaskDir};

/// A terminal whose size nobody has said yet.
const DEFAULT_TERMINAL: WindowSize = WindowSize { rows: 24, cols: 80 };

impl Inner {
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
        if run.path.exists()
            && let Some(prepared) = self.take_over(&id, &run, &stored).await?
        {
            return Ok(prepared);
        }
        run.store(&stored)
            .map_err(|error| failed("task folder", error))?;
        let cgroup = self.cgroups.workload(workload);
        let placing = cgroup.clone();
        let (inner, placed) = (Arc::clone(self), Arc::clone(workload));
        let limits = blocking(move || {
            inner.pools.place(&placed)?;
            let spec = &placed.spec.task;
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
        clear(old, run);
        prepared(shim)
    }

    /// An agent before this one has prepared, or even started, this very attempt, and may have lost its files.
    async fn take_over(
        self: &Arc<Self>,
        id: &WorkloadId,
        run: &RunDir,
        stored: &StoredPlan,
    ) -> Result<Option<Prepared>, DriverError> {
        run.store(stored)
            .map_err(|error| failed("task folder", error))?;
        self.look_at(id).await;
        if let Some(prepared) = self.prepared_before(id, run) {
            return Ok(Some(prepared));
        }
        let ended = self
            .task(id)
            .is_some_and(|task| task.run == *run && task.status.phase == TaskPhase::Exited);
        if ended {
            // A run is never done twice.
            let message = format!("run {} of task {} has ended", run.run, id.short());
            return Err(DriverError::new(ErrorClass::Conflict, message));
        }
        // Never started: its shim has ended with its agent.
        fs::remove_dir_all(&run.path).map_err(|error| failed("task folder", error))?;
        Ok(None)
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

    pub(super) fn check_runtime(&self, workload: &HostWorkload) -> Result<Runtime, DriverError> {
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
        if plan.fence_until.is_some() {
            // Before it starts: from then on nobody may be there to say it.
            let fence = self
                .cgroups
                .workload(&plan.workload)
                .fence(plan.fence_until);
            connection
                .fence(fence)
                .await
                .map_err(|failure| refused(&failure))?;
        }
        if let Err(failure) = connection.call(Request::Start(Box::new(request))).await {
            self.set_status(id, &run, observe::failed(&failure, &run));
            return Err(refused(&failure));
        }
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
            cgroup: self.cgroups.workload(workload).path(),
            etc: &etc,
            volumes: &around_volumes,
            pool_volumes: &pool_volumes,
            arch: std::env::consts::ARCH,
            kernel: kernel_release(),
            open_files_max: open_files_max(),
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
}

/// Removes the folders of earlier attempts, off the way of the answer.
fn clear(old: Vec<RunDir>, run: RunDir) {
    tokio::task::spawn_blocking(move || {
        for older in old.into_iter().filter(|older| *older < run) {
            // Tried again with the next attempt, and gone at the latest with the task.
            let _ = fs::remove_dir_all(older.path);
        }
    });
}

fn prepared(shim: ProcessId) -> Result<Prepared, DriverError> {
    let pid = u32::try_from(shim.pid).map_err(|error| failed("process id", error))?;
    Ok(Prepared {
        pid,
        start_time: shim.start,
    })
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

/// `fs.nr_open`; without it nobody is refused before the kernel does.
fn open_files_max() -> u64 {
    fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX)
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
                source: mounts::volume_dir(name, &mount.target, around),
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
                fs::create_dir_all(mounts::volume_dir(name, &mount.target, around))?;
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
