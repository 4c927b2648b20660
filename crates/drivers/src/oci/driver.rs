//! The agent's trait on [`OciRuntime`]; each method leads to the module that does it.

use std::collections::BTreeMap;

use agent::driver::{
    DriverError, ExecRequest, ExecResume, ExecSession, FollowRequest, ObservedTask, OutputStream,
    Prepared, ProcessTable, TaskEvent, TaskInput, TaskPlan, TaskRuntime, TaskStats,
};
use async_trait::async_trait;
use model::workload::Resources;
use model::{HostPool, PoolId, PoolUsage, WorkloadId};
use shim::message::{Request, WindowSize};
use tokio::sync::broadcast;

use super::runtime::{OciRuntime, blocking, refused, unknown};
use super::{exec, follow, stats};

#[async_trait]
impl TaskRuntime for OciRuntime {
    async fn observe(&self) -> Result<Vec<ObservedTask>, DriverError> {
        self.inner.observe().await
    }

    async fn prepare(&self, plan: &TaskPlan) -> Result<Prepared, DriverError> {
        self.inner.prepare(plan).await
    }

    async fn start(&self, plan: &TaskPlan) -> Result<ObservedTask, DriverError> {
        self.inner.start(plan).await
    }

    async fn signal(&self, id: &WorkloadId, signal: i32) -> Result<(), DriverError> {
        let (_, connection, _) = self.inner.running(id)?;
        connection
            .call(Request::Signal { signal })
            .await
            .map_err(|failure| refused(&failure))
    }

    async fn kill(&self, id: &WorkloadId) -> Result<(), DriverError> {
        let task = self.inner.task(id).ok_or_else(|| unknown(id))?;
        let cgroup = self.inner.cgroups.workload(task.workload());
        if let Some(connection) = &task.connection {
            if task.process().is_some() {
                // Quicker than the cgroup, which is for what the first process does not take along. Refused if it has just ended.
                let _ = connection
                    .call(Request::Signal {
                        signal: libc::SIGKILL,
                    })
                    .await;
            } else {
                connection.notice(Request::Shutdown).await;
            }
        }
        blocking(move || Ok(cgroup.kill()?)).await
    }

    async fn fence(&self, id: &WorkloadId, until_ms: Option<u64>) -> Result<(), DriverError> {
        let (task, connection, _) = self.inner.running(id)?;
        let cgroup = self.inner.cgroups.workload(task.workload());
        connection
            .fence(cgroup.fence(until_ms))
            .await
            .map_err(|failure| refused(&failure))
    }

    async fn pause(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.freeze(id, true).await
    }

    async fn resume(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.freeze(id, false).await
    }

    async fn update(&self, id: &WorkloadId, resources: &Resources) -> Result<(), DriverError> {
        let (task, _, _) = self.inner.running(id)?;
        let (inner, resources) = (self.inner.clone(), resources.clone());
        blocking(move || Ok(inner.pools.limit(task.workload(), &resources)?)).await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.inner.remove(id).await
    }

    fn events(&self) -> broadcast::Receiver<TaskEvent> {
        self.inner.subscribe()
    }

    async fn follow(&self, request: &FollowRequest) -> Result<OutputStream, DriverError> {
        follow::follow(&self.inner, request).await
    }

    async fn input(&self, id: &WorkloadId) -> Result<Box<dyn TaskInput>, DriverError> {
        exec::input(&self.inner, id).await
    }

    async fn resize(
        &self,
        id: &WorkloadId,
        exec: Option<&str>,
        rows: u16,
        columns: u16,
    ) -> Result<(), DriverError> {
        exec::resize(
            &self.inner,
            id,
            exec,
            WindowSize {
                rows,
                cols: columns,
            },
        )
        .await
    }

    async fn exec(&self, request: &ExecRequest) -> Result<ExecSession, DriverError> {
        exec::exec(&self.inner, request).await
    }

    async fn exec_resume(&self, request: &ExecResume) -> Result<ExecSession, DriverError> {
        exec::resume(&self.inner, request).await
    }

    async fn stats(&self, id: &WorkloadId) -> Result<TaskStats, DriverError> {
        let (task, _, process) = self.inner.running(id)?;
        let cgroup = self.inner.cgroups.workload(task.workload());
        let version = self.inner.cgroups.version();
        blocking(move || Ok(stats::measure(&cgroup, version, process.pid))).await
    }

    async fn divide(&self, pools: &BTreeMap<PoolId, HostPool>) -> Result<(), DriverError> {
        let (inner, parts) = (self.inner.clone(), pools.clone());
        blocking(move || Ok(inner.pools.apply(&parts, &inner.workloads())?)).await
    }

    async fn measure_pools(&self) -> Result<BTreeMap<PoolId, PoolUsage>, DriverError> {
        let inner = self.inner.clone();
        blocking(move || Ok(inner.pools.measure(&inner.workloads()))).await
    }

    async fn top(&self, id: &WorkloadId, ps_args: &str) -> Result<ProcessTable, DriverError> {
        let (task, _, _) = self.inner.running(id)?;
        stats::top(&self.inner.cgroups.workload(task.workload()), ps_args).await
    }

    async fn dismantle(&self) -> Result<(), DriverError> {
        let inner = self.inner.clone();
        blocking(move || Ok(inner.cgroups.remove_all()?)).await
    }
}

impl OciRuntime {
    async fn freeze(&self, id: &WorkloadId, frozen: bool) -> Result<(), DriverError> {
        let (task, _, _) = self.inner.running(id)?;
        let cgroup = self.inner.cgroups.workload(task.workload());
        blocking(move || Ok(cgroup.freeze(frozen)?)).await?;
        self.inner.look_at(id).await;
        Ok(())
    }
}
