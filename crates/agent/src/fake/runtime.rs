//! The fake host as runtime and network.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::workload::{NetworkMode, NetworkStatus, Resources};
use model::{HostPool, HostWorkload, Phase, PoolId, PoolUsage, TaskStatus, WorkloadId};
use tokio::sync::broadcast;

use super::host::{FakeHost, FakeTask, Op, observed};
use super::output::{self, FakeExec};
use super::script::Script;
use crate::driver::{
    DriverError, ErrorClass, ExecRequest, ExecResume, ExecSession, FollowRequest,
    NetworkAttachment, NetworkDriver, ObservedTask, Output, OutputStream, Prepared, ProcessTable,
    TaskEvent, TaskInput, TaskPlan, TaskRuntime, TaskStats,
};

const SIGKILL: i32 = 9;
/// CHLD, CONT, URG, WINCH: ignored by default.
const HARMLESS: [i32; 4] = [17, 18, 23, 28];

fn not_found(id: &WorkloadId) -> DriverError {
    DriverError::new(ErrorClass::NotFound, format!("no task {id} on this host"))
}

fn not_running(id: &WorkloadId) -> DriverError {
    DriverError::new(ErrorClass::Conflict, format!("task {id} is not running"))
}

impl FakeHost {
    fn set_phase(&self, id: &WorkloadId, from: Phase, to: Phase) -> Result<(), DriverError> {
        self.with(|s| {
            let task = s.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
            if task.status.phase == from {
                task.status.phase = to;
                Ok(())
            } else if task.status.phase == to {
                Ok(())
            } else {
                Err(not_running(id))
            }
        })
    }

    pub(super) fn write_output(&self, id: &WorkloadId, bytes: Bytes) {
        let time = self.clock.now();
        self.with(|s| {
            if let Some(task) = s.tasks.get_mut(id) {
                let run = task.status.run;
                let piece = Output {
                    stderr: false,
                    time,
                    bytes,
                    position: task.output.len() as u64 + 1,
                };
                task.output.push((run, piece));
            }
        });
    }

    fn forget_exec(&self, exec: &str) -> Box<dyn FnOnce() + Send> {
        let (host, exec) = (self.weak(), exec.to_owned());
        Box::new(move || {
            if let Some(host) = host {
                host.with(|s| s.execs.remove(&exec));
            }
        })
    }

    fn weak(&self) -> Option<Arc<FakeHost>> {
        self.me.upgrade()
    }
}

#[async_trait]
impl TaskRuntime for FakeHost {
    async fn observe(&self) -> Result<Vec<ObservedTask>, DriverError> {
        Ok(self.look(|s| s.tasks.iter().map(|(id, t)| observed(id, t)).collect()))
    }

    async fn prepare(&self, plan: &TaskPlan) -> Result<Prepared, DriverError> {
        let id = plan.workload.id.clone();
        let script = Script::of_workload(&plan.workload);
        self.operation(Op::Prepare, id.as_str(), |s| {
            s.next_pid += 1;
            let pid = s.next_pid;
            let task = s.tasks.entry(id.clone()).or_insert_with(|| FakeTask {
                status: TaskStatus::default(),
                script: script.clone(),
                namespace: false,
                output: Vec::new(),
                signals: Vec::new(),
                fence: None,
            });
            let key = (plan.workload.run, plan.attempt);
            let known = (task.status.run, task.status.restart_count);
            if task.status.phase.is_alive() {
                return Err(DriverError::new(
                    ErrorClass::Conflict,
                    format!("task {id} is running"),
                ));
            }
            if known == key && task.status.phase.is_final() {
                return Err(DriverError::new(
                    ErrorClass::Conflict,
                    format!("attempt {key:?} of task {id} has ended already"),
                ));
            }
            task.script = script;
            task.namespace = true;
            task.fence = None;
            task.status = TaskStatus {
                phase: Phase::Preparing,
                run: key.0,
                restart_count: key.1,
                pid,
                ..TaskStatus::default()
            };
            Ok(Prepared {
                pid,
                start_time: u64::from(pid),
            })
        })
        .await
    }

    async fn start(&self, plan: &TaskPlan) -> Result<ObservedTask, DriverError> {
        let id = plan.workload.id.clone();
        let now = self.clock.now();
        let key = (plan.workload.run, plan.attempt);
        let (task, script, begun) = self
            .operation(Op::Start, id.as_str(), |s| {
                let attached = s.attached.contains_key(&id);
                let task = s.tasks.get_mut(&id).ok_or_else(|| not_found(&id))?;
                if (task.status.run, task.status.restart_count) != key {
                    return Err(DriverError::new(
                        ErrorClass::Conflict,
                        "another attempt is prepared",
                    ));
                }
                if task.status.phase.is_alive() {
                    return Ok((observed(&id, task), task.script.clone(), false));
                }
                if task.status.phase != Phase::Preparing || !task.namespace || !attached {
                    return Err(DriverError::new(
                        ErrorClass::Conflict,
                        "not prepared and attached",
                    ));
                }
                if let Some(error) = &task.script.start_error {
                    return Err(DriverError::new(ErrorClass::Invalid, error.clone()));
                }
                task.status.phase = Phase::Running;
                task.status.started_at = Some(now);
                task.fence = plan.fence_until;
                let begun = (observed(&id, task), task.script.clone(), true);
                s.starts.push((id.clone(), key.0, key.1));
                Ok(begun)
            })
            .await?;
        if begun {
            if let Some(until) = plan.fence_until {
                self.supervise(&id, until);
            }
            if !script.output.is_empty() {
                self.write_output(&id, Bytes::from(script.output));
            }
            match (script.end, self.weak()) {
                (Some((after, code)), _) if after.is_zero() => self.finish(&id, Some(key), code),
                (Some((after, code)), Some(host)) => {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        host.finish(&id, Some(key), code);
                    });
                }
                (Some(_), None) | (None, _) => {}
            }
        }
        Ok(task)
    }

    async fn signal(&self, id: &WorkloadId, signal: i32) -> Result<(), DriverError> {
        let ends = self
            .operation(Op::Signal, id.as_str(), |s| {
                let task = s.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
                if !task.status.phase.is_alive() {
                    return Err(not_running(id));
                }
                task.signals.push(signal);
                let deadly = signal == SIGKILL || !task.script.stubborn;
                Ok(deadly && !HARMLESS.contains(&signal) && signal > 0)
            })
            .await?;
        if ends {
            self.finish(id, None, 128 + signal);
        }
        Ok(())
    }

    async fn kill(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.operation(Op::Kill, id.as_str(), |s| {
            if s.tasks
                .get(id)
                .is_some_and(|t| t.status.phase == Phase::Preparing)
            {
                s.tasks.remove(id);
            }
            Ok(())
        })
        .await?;
        self.finish(id, None, 128 + SIGKILL);
        Ok(())
    }

    async fn fence(&self, id: &WorkloadId, until_ms: Option<u64>) -> Result<(), DriverError> {
        let halted = self.with(|s| {
            let task = s.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
            if !s.halted {
                task.fence = until_ms;
            }
            Ok::<_, DriverError>(s.halted)
        })?;
        if halted {
            std::future::pending::<()>().await;
        }
        if let Some(until) = until_ms {
            self.supervise(id, until);
        }
        Ok(())
    }

    async fn pause(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.operation(Op::Pause, id.as_str(), |_| Ok(())).await?;
        self.set_phase(id, Phase::Running, Phase::Paused)
    }

    async fn resume(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.operation(Op::Resume, id.as_str(), |_| Ok(())).await?;
        self.set_phase(id, Phase::Paused, Phase::Running)
    }

    async fn update(&self, id: &WorkloadId, _resources: &Resources) -> Result<(), DriverError> {
        self.operation(Op::Update, id.as_str(), |s| {
            s.tasks.get(id).map(|_| ()).ok_or_else(|| not_found(id))
        })
        .await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.operation(Op::Remove, id.as_str(), |s| {
            if s.tasks.get(id).is_some_and(|t| t.status.phase.is_alive()) {
                return Err(DriverError::new(
                    ErrorClass::Conflict,
                    format!("task {id} is running"),
                ));
            }
            s.tasks.remove(id);
            Ok(())
        })
        .await
    }

    fn events(&self) -> broadcast::Receiver<TaskEvent> {
        self.events.subscribe()
    }

    async fn follow(&self, request: &FollowRequest) -> Result<OutputStream, DriverError> {
        let host = self.weak().ok_or_else(|| not_found(&request.id))?;
        Ok(output::follow(host, request.clone()))
    }

    async fn input(&self, id: &WorkloadId) -> Result<Box<dyn TaskInput>, DriverError> {
        let running = self.look(|s| s.tasks.get(id).is_some_and(|t| t.status.phase.is_alive()));
        match self.weak() {
            Some(host) if running => Ok(Box::new(FakeInput {
                host,
                id: id.clone(),
            })),
            Some(_) | None => Err(not_running(id)),
        }
    }

    async fn resize(
        &self,
        id: &WorkloadId,
        _exec: Option<&str>,
        _rows: u16,
        _columns: u16,
    ) -> Result<(), DriverError> {
        self.look(|s| s.tasks.get(id).map(|_| ()).ok_or_else(|| not_found(id)))
    }

    async fn exec(&self, request: &ExecRequest) -> Result<ExecSession, DriverError> {
        let id = &request.id;
        if !self.look(|s| {
            s.tasks
                .get(id)
                .is_some_and(|t| t.status.phase == Phase::Running)
        }) {
            return Err(not_running(id));
        }
        let words: Vec<&str> = request.args.iter().map(String::as_str).collect();
        let script = Script::of(&words);
        if let Some(error) = script.start_error {
            return Err(DriverError::new(ErrorClass::Invalid, error));
        }
        let exec = FakeExec {
            script,
            began: tokio::time::Instant::now(),
            began_at: self.clock.now(),
        };
        self.with(|s| s.execs.insert(request.exec.clone(), exec.clone()));
        Ok(output::exec(exec, Some(0), self.forget_exec(&request.exec)))
    }

    async fn exec_resume(&self, request: &ExecResume) -> Result<ExecSession, DriverError> {
        let exec = self.look(|s| s.execs.get(&request.exec).cloned());
        let exec = exec.ok_or_else(|| {
            let message = format!("no exec {} on this host", request.exec);
            DriverError::new(ErrorClass::NotFound, message)
        })?;
        let arrived = self.forget_exec(&request.exec);
        Ok(output::exec(exec, request.position, arrived))
    }

    async fn stats(&self, id: &WorkloadId) -> Result<TaskStats, DriverError> {
        if !self.look(|s| s.tasks.get(id).is_some_and(|t| t.status.phase.is_alive())) {
            return Err(not_running(id));
        }
        Ok(TaskStats {
            read_ms: self.clock.now().millis(),
            cpus: 2,
            memory_usage: 1 << 20,
            pids: 1,
            ..TaskStats::default()
        })
    }

    async fn divide(&self, pools: &BTreeMap<PoolId, HostPool>) -> Result<(), DriverError> {
        self.operation(Op::Divide, "pools", |s| {
            s.parts.clone_from(pools);
            Ok(())
        })
        .await
    }

    async fn measure_pools(&self) -> Result<BTreeMap<PoolId, PoolUsage>, DriverError> {
        Ok(self.look(|s| s.usage.clone()))
    }

    async fn dismantle(&self) -> Result<(), DriverError> {
        self.operation(Op::DismantleRuntime, "runtime", |s| {
            if s.tasks.is_empty() {
                Ok(())
            } else {
                Err(DriverError::new(ErrorClass::Conflict, "a task is there"))
            }
        })
        .await
    }

    async fn top(&self, id: &WorkloadId, _ps_args: &str) -> Result<ProcessTable, DriverError> {
        let task = self.task(id).filter(|t| t.phase.is_alive());
        let task = task.ok_or_else(|| not_running(id))?;
        Ok(ProcessTable {
            titles: vec!["PID".to_owned(), "CMD".to_owned()],
            rows: vec![vec![task.pid.to_string(), "fake".to_owned()]],
        })
    }
}

struct FakeInput {
    host: Arc<FakeHost>,
    id: WorkloadId,
}

impl FakeInput {
    fn echoes(&self) -> bool {
        self.host
            .look(|s| s.tasks.get(&self.id).is_some_and(|t| t.script.echo))
    }
}

#[async_trait]
impl TaskInput for FakeInput {
    async fn write(&mut self, bytes: Bytes) -> Result<(), DriverError> {
        if self.echoes() {
            self.host.write_output(&self.id, bytes);
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), DriverError> {
        if self.echoes() {
            self.host.finish(&self.id, None, 0);
        }
        Ok(())
    }
}

#[async_trait]
impl NetworkDriver for FakeHost {
    async fn attach(
        &self,
        workload: &HostWorkload,
        prepared: Option<&Prepared>,
    ) -> Result<NetworkAttachment, DriverError> {
        let id = workload.id.clone();
        let prepared = prepared.is_some();
        self.operation(Op::Attach, id.as_str(), |s| {
            if !prepared && workload.spec.network == NetworkMode::Bridge {
                return Err(DriverError::new(
                    ErrorClass::Conflict,
                    "nothing is prepared",
                ));
            }
            if let Some(known) = s.attached.get(&id) {
                return Ok(known.clone());
            }
            s.next_address += 1;
            let mut ports = workload.spec.ports.clone();
            for (n, port) in (32_768..).zip(&mut ports) {
                port.host_port = port.host_port.or(Some(n));
            }
            let attachment = NetworkAttachment {
                status: NetworkStatus {
                    ip: std::net::Ipv4Addr::from(0x0a58_0000 + s.next_address).to_string(),
                    prefix: 16,
                    gateway: "10.88.0.1".to_owned(),
                    mac: String::new(),
                    ports,
                    ..NetworkStatus::default()
                },
                ..NetworkAttachment::default()
            };
            s.attached.insert(id.clone(), attachment.clone());
            Ok(attachment)
        })
        .await
    }

    async fn detach(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.operation(Op::Detach, id.as_str(), |s| {
            s.attached.remove(id);
            Ok(())
        })
        .await
    }

    async fn attached(&self) -> Result<BTreeMap<WorkloadId, NetworkAttachment>, DriverError> {
        Ok(self.look(|s| s.attached.clone()))
    }

    async fn reassert(&self) -> Result<(), DriverError> {
        Ok(())
    }

    async fn dismantle(&self) -> Result<(), DriverError> {
        self.operation(Op::DismantleNetwork, "network", |s| {
            if s.attached.is_empty() {
                Ok(())
            } else {
                Err(DriverError::new(
                    ErrorClass::Conflict,
                    "a workload is attached",
                ))
            }
        })
        .await
    }
}
