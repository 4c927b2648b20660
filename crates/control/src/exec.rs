//! Further processes in running workloads.
//!
//! Records are kept in memory of this server only: as with Docker they do not outlive it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{PoolId, WorkloadId};
use wire::link::{ExecExit, ExecRequest, Frame, FrameKind};

use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, random};
use crate::error::{Error, ErrorKind, Result};
use crate::links::LinkStream;
use crate::resume::Subject;
use crate::workloads::running_host;

/// Execs remembered; the oldest that have ended go first.
const EXECS_MAX: usize = 4096;

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecCreate {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Additional environment.
    pub env: Vec<String>,
    /// Folder; empty: the task's.
    pub working_dir: String,
    /// User; empty: the task's.
    pub user: String,
    /// With a terminal.
    pub tty: bool,
    /// With input.
    pub stdin: bool,
    /// With standard output.
    pub stdout: bool,
    /// With standard error.
    pub stderr: bool,
    /// With all capabilities.
    pub privileged: bool,
    /// Keys that detach, as the client wrote them.
    pub detach_keys: String,
}

/// An exec as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Of which workload.
    pub workload: WorkloadId,
    /// Of which pool.
    pub pool: PoolId,
    /// Whether it was started.
    pub started: bool,
    /// Whether it runs.
    pub running: bool,
    /// How it ended.
    pub exit_code: Option<i32>,
    /// Process id on the host; 0: not known.
    pub pid: u32,
    /// What was asked for.
    pub create: ExecCreate,
}

#[derive(Default)]
struct Inner {
    records: HashMap<String, ExecRecord>,
    order: VecDeque<String>,
}

#[derive(Default)]
pub(crate) struct Execs {
    inner: Mutex<Inner>,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, record: ExecRecord) -> Result<()> {
        let mut inner = self.lock();
        while inner.records.len() >= EXECS_MAX {
            let ended = inner
                .order
                .iter()
                .position(|id| inner.records.get(id).is_none_or(|record| !record.running));
            let Some(id) = ended.and_then(|at| inner.order.remove(at)) else {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    "too many execs are running on this server",
                ));
            };
            inner.records.remove(&id);
        }
        inner.order.push_back(record.id.clone());
        inner.records.insert(record.id.clone(), record);
        Ok(())
    }

    fn edit(&self, id: &str, edit: impl FnOnce(&mut ExecRecord)) {
        if let Some(record) = self.lock().records.get_mut(id) {
            edit(record);
        }
    }

    fn get(&self, pool: &PoolId, id: &str) -> Result<ExecRecord> {
        self.lock()
            .records
            .get(id)
            .filter(|record| record.pool == *pool)
            .cloned()
            .ok_or_else(|| Error::not_found("exec instance", id))
    }
}

impl Control {
    /// Prepares an exec.
    ///
    /// # Errors
    /// When the workload does not run, or the pool's policy does not allow it.
    pub async fn exec_create(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        create: ExecCreate,
    ) -> Result<String> {
        let workload = self.stream_subject(caller, Action::WorkloadExec, pool, id)?;
        running_host(&workload)?;
        if workload.status.phase == model::Phase::Paused {
            return Err(Error::conflict(format!(
                "Container {id} is paused, unpause the container before exec"
            )));
        }
        if create.args.is_empty() {
            return Err(Error::invalid("no exec command specified"));
        }
        let has_nul = |list: &[String]| list.iter().any(|item| item.contains('\0'));
        if has_nul(&create.args) || has_nul(&create.env) {
            return Err(Error::invalid("args and env must not contain NUL bytes"));
        }
        let snapshot = self.snapshot();
        let allowed = snapshot
            .pool(pool)
            .is_some_and(|pool| pool.policy.privileged);
        if create.privileged && !allowed {
            return Err(Error::new(
                ErrorKind::Forbidden,
                "privileged: the pool's policy does not allow privileged execs",
            ));
        }
        let exec = hex::encode(random()?);
        self.inner.events.workload(
            &workload,
            "exec_create",
            &[("execID", exec.clone()), ("command", create.args.join(" "))],
        );
        self.inner.execs.add(ExecRecord {
            id: exec.clone(),
            workload: id.clone(),
            pool: pool.clone(),
            started: false,
            running: false,
            exit_code: None,
            pid: 0,
            create,
        })?;
        Ok(exec)
    }

    /// Starts a prepared exec; gives its stream unless detached.
    ///
    /// # Errors
    /// When it was started before, or the host could not start it.
    #[expect(
        clippy::too_many_arguments,
        reason = "who, where, what, and how: the form of every verb"
    )]
    pub async fn exec_start(
        &self,
        caller: &Caller,
        pool: &PoolId,
        exec: &str,
        detach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<LinkStream>> {
        self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadExec,
            Scope::Pool(pool),
        )?;
        let record = self.inner.execs.get(pool, exec)?;
        let workload = self.stream_subject(caller, Action::WorkloadExec, pool, &record.workload)?;
        let host = running_host(&workload)?;
        let mut first = false;
        self.inner.execs.edit(exec, |record| {
            first = !record.started;
            record.started = true;
        });
        if !first {
            return Err(Error::conflict(format!(
                "Error: Exec command {exec} has already run"
            )));
        }
        let create = &record.create;
        let request = ExecRequest {
            id: record.workload.clone(),
            exec: exec.to_owned(),
            args: create.args.clone(),
            env: create.env.clone(),
            working_dir: create.working_dir.clone(),
            user: create.user.clone(),
            tty: create.tty,
            stdin: create.stdin && !detach,
            privileged: create.privileged,
            size,
            resumable: true,
        };
        let host_end = match self.open_resumable(&host, Subject::Exec(request)).await {
            Ok(stream) => stream,
            Err(error) => {
                self.inner
                    .execs
                    .edit(exec, |record| record.exit_code = Some(127));
                return Err(error);
            }
        };
        self.inner.execs.edit(exec, |record| record.running = true);
        self.inner
            .events
            .workload(&workload, "exec_start", &[("execID", exec.to_owned())]);
        let (near, far) = LinkStream::pair();
        let control = self.clone();
        let exec = exec.to_owned();
        tokio::spawn(async move { control.carry_exec(&workload, &exec, host_end, far).await });
        Ok((!detach).then_some(near))
    }

    /// Passes frames on, takes the exit code out, and ends the client's stream only after it is recorded, so that an
    /// inspect after the end always finds it. A client that was told of an error hears no more, but the exit code is
    /// still waited for.
    async fn carry_exec(
        &self,
        workload: &model::Workload,
        exec: &str,
        mut host: LinkStream,
        mut far: LinkStream,
    ) {
        let (mut input_open, mut output_open) = (true, true);
        let mut exit_code = None;
        loop {
            tokio::select! {
                frame = host.recv.recv() => match frame {
                    Some(frame) if frame.kind == FrameKind::Json => {
                        if let Ok(exit) = frame.parse::<ExecExit>() {
                            exit_code = Some(exit.exit_code);
                            self.inner.execs.edit(exec, |record| {
                                record.running = false;
                                record.exit_code = Some(exit.exit_code);
                                record.pid = exit.pid;
                            });
                        }
                        // The host need not keep it any longer.
                        let _ = host.send.send(Frame::end()).await;
                    }
                    Some(frame) if frame.kind == FrameKind::End => break,
                    Some(frame) => {
                        // A client that went away does not end the exec; its output is dropped.
                        output_open = output_open && far.send.send(frame).await.is_ok();
                    }
                    None => break,
                },
                frame = far.recv.recv(), if input_open => match frame {
                    Some(frame) => input_open = host.send.send(frame).await.is_ok(),
                    None => input_open = false,
                },
            }
        }
        self.inner.execs.edit(exec, |record| {
            record.running = false;
            record.exit_code = record.exit_code.or(Some(137));
        });
        let code = exit_code.unwrap_or(137).to_string();
        self.inner.events.workload(
            workload,
            "exec_die",
            &[("execID", exec.to_owned()), ("exitCode", code)],
        );
        let _ = far.send.send(Frame::end()).await;
    }

    /// An exec as it is known.
    ///
    /// # Errors
    /// When there is none in the pool.
    pub fn exec_inspect(&self, caller: &Caller, pool: &PoolId, exec: &str) -> Result<ExecRecord> {
        self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadRead,
            Scope::Pool(pool),
        )?;
        self.inner.execs.get(pool, exec)
    }

    /// Changes the terminal's size of an exec.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn exec_resize(
        &self,
        caller: &Caller,
        pool: &PoolId,
        exec: &str,
        size: (u16, u16),
    ) -> Result<()> {
        let record = self.inner.execs.get(pool, exec)?;
        if !record.running {
            return Err(Error::conflict(format!("exec {exec} is not running")));
        }
        self.workload_resize(caller, pool, &record.workload, Some(exec), size)
            .await
    }
}
