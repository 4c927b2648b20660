//! A simulated host: it takes documents and says what a real agent would say of them, but runs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use control::links::LinkSession;
use control::{Control, now};
use model::host::WorkloadReport;
use model::workload::NetworkStatus;
use model::{
    Capacity, CpuMillis, DesiredState, Digest, HostFacts, HostId, HostWorkload, MemoryBytes, Phase,
    PoolId, PoolUsage, TaskStatus, WorkloadId,
};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wire::link::{DesiredUpdate, FromHost, Hello, MEASURE_SECONDS, PROTOCOL_VERSION, ToHost};

/// CPU of a host, in thousandths of a core.
pub(super) const CPU_MILLIS: u64 = 4_000;

/// Memory of a host.
pub(super) const MEMORY_BYTES: u64 = 32 << 30;

/// Memory that a task works with.
const TASK_BYTES: u64 = 40 << 20;

/// How long a task takes to start: about what it takes on a real host.
const START: Duration = Duration::from_millis(50);

/// What a host has.
fn facts() -> HostFacts {
    HostFacts {
        capacity: Capacity {
            cpu: CpuMillis(CPU_MILLIS),
            memory: MemoryBytes(MEMORY_BYTES),
        },
        cpus: 4,
        architecture: "amd64".into(),
        kernel: "6.1.0".into(),
        os: "linux".into(),
        agent_version: "bench".into(),
        cgroup: "v2".into(),
        boot_id: "boot".into(),
        address: "127.0.0.1".into(),
        ..HostFacts::default()
    }
}

/// What runs on a host: each task with its state.
pub(super) type Running = HashMap<WorkloadId, TaskStatus>;

/// A host that is to be linked.
pub(super) struct Dial {
    pub(super) control: Control,
    /// Images it has.
    pub(super) images: BTreeSet<Digest>,
    /// Counts what it is told of its pools.
    pub(super) told: Arc<AtomicU64>,
    /// When it is over.
    pub(super) over: watch::Receiver<bool>,
    /// Says who it is, when it measures, and what.
    pub(super) number: u64,
}

impl Dial {
    /// Links the host; it lives until it is over, and then says what runs on it.
    ///
    /// # Errors
    /// When the server refuses it.
    pub(super) async fn connect(self, tasks: Running) -> Result<JoinHandle<Running>> {
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            facts: facts(),
            generation: 0,
            images: self.images,
        };
        let id = id(self.number)?;
        let opened = self.control.link_connect(&id, b"", hello).await;
        let (session, outgoing) = opened.map_err(|e| anyhow::anyhow!(e.message))?;
        let host = SimHost {
            control: self.control,
            session,
            told: self.told,
            over: self.over,
            number: self.number,
            rounds: 0,
            generation: 0,
            workloads: BTreeMap::new(),
            tasks,
        };
        Ok(tokio::spawn(host.live(outgoing)))
    }
}

struct SimHost {
    control: Control,
    session: LinkSession,
    told: Arc<AtomicU64>,
    over: watch::Receiver<bool>,
    number: u64,
    rounds: u64,
    /// Of the document it has; its parts of pools are in force at once.
    generation: u64,
    workloads: BTreeMap<WorkloadId, Arc<HostWorkload>>,
    tasks: Running,
}

impl SimHost {
    async fn live(mut self, mut outgoing: Receiver<ToHost>) -> Running {
        let period = Duration::from_secs(MEASURE_SECONDS);
        // Hosts do not measure in step.
        let phase = period * u32::try_from(self.number % 1000).unwrap_or(0) / 1000;
        let mut tick = tokio::time::interval_at(Instant::now() + phase, period);
        loop {
            tokio::select! {
                message = outgoing.recv() => match message {
                    Some(ToHost::Desired(update)) => self.take(update, &mut outgoing).await,
                    Some(
                        ToHost::Welcome { .. }
                        | ToHost::OpenStream { .. }
                        | ToHost::Heartbeat { .. },
                    ) => {}
                    None => break,
                },
                _ = tick.tick() => self.measure().await,
                () = self.session.ended.cancelled() => break,
                _ = self.over.changed() => break,
            }
        }
        self.tasks
    }

    async fn say(&self, message: FromHost) {
        self.control.link_message(&self.session, message).await;
    }

    /// Takes a document, and those that come while its tasks start.
    async fn take(&mut self, update: DesiredUpdate, outgoing: &mut Receiver<ToHost>) {
        let mut reports = Vec::new();
        let mut starts = self.accept(update, &mut reports).await;
        self.report(reports).await;
        if !starts {
            return;
        }
        tokio::time::sleep(START).await;
        while starts {
            starts = false;
            let mut reports = self.started();
            while let Ok(message) = outgoing.try_recv() {
                if let ToHost::Desired(update) = message {
                    starts |= self.accept(update, &mut reports).await;
                }
            }
            self.report(reports).await;
        }
    }

    async fn report(&self, reports: Vec<WorkloadReport>) {
        if !reports.is_empty() {
            let complete = false;
            self.say(FromHost::Status { reports, complete }).await;
        }
    }

    /// Whether there is something to start by it.
    async fn accept(&mut self, update: DesiredUpdate, reports: &mut Vec<WorkloadReport>) -> bool {
        if update.base.is_none() {
            // A new link: it says everything it knows.
            self.workloads.clear();
            reports.extend(self.tasks.iter().map(|(id, task)| WorkloadReport {
                id: id.clone(),
                status: Some(task.clone()),
            }));
        }
        self.generation = update.generation;
        if update.pools.is_some() {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
        for id in &update.remove {
            self.workloads.remove(id);
            self.tasks.remove(id);
        }
        let mut starts = false;
        for (id, workload) in update.upsert {
            starts |= self.changed(&workload, reports);
            self.workloads.insert(id, workload);
        }
        let generation = self.generation;
        self.say(FromHost::Accepted { generation }).await;
        starts
    }

    /// What ends at once is reported; whether there is something to start.
    fn changed(&mut self, workload: &HostWorkload, reports: &mut Vec<WorkloadReport>) -> bool {
        let id = &workload.id;
        let run = self.tasks.get(id).map_or(0, |task| task.run);
        let status = match workload.desired {
            DesiredState::Running | DesiredState::Paused => return run < workload.run,
            DesiredState::Created => return false,
            DesiredState::Removed => {
                self.tasks.remove(id);
                None
            }
            DesiredState::Stopped { .. } => {
                let Some(task) = self.tasks.get_mut(id) else {
                    return false;
                };
                task.phase = Phase::Exited;
                task.pid = 0;
                task.exit_code = 143;
                task.finished_at = Some(now());
                Some(task.clone())
            }
        };
        let id = id.clone();
        reports.push(WorkloadReport { id, status });
        false
    }

    /// Everything that is to run and does not yet runs now.
    fn started(&mut self) -> Vec<WorkloadReport> {
        let mut reports = Vec::new();
        for (id, workload) in &self.workloads {
            let runs = self.tasks.get(id).map_or(0, |task| task.run);
            if workload.desired != DesiredState::Running || runs >= workload.run {
                continue;
            }
            let status = TaskStatus {
                phase: Phase::Running,
                run: workload.run,
                pid: 4242,
                started_at: Some(now()),
                network: NetworkStatus {
                    ip: "172.30.0.2".into(),
                    prefix: 16,
                    gateway: "172.30.0.1".into(),
                    mac: "02:42:ac:1e:00:02".into(),
                    ..NetworkStatus::default()
                },
                ..TaskStatus::default()
            };
            self.tasks.insert(id.clone(), status.clone());
            let id = id.clone();
            let status = Some(status);
            reports.push(WorkloadReport { id, status });
        }
        reports
    }

    /// What pools use: demand goes up and down, of each pool at its own pace.
    async fn measure(&mut self) {
        self.rounds += 1;
        let mut usage: BTreeMap<PoolId, PoolUsage> = BTreeMap::new();
        for workload in self.workloads.values() {
            if self.tasks.contains_key(&workload.id) {
                let pool = usage.entry(workload.pool.clone()).or_default();
                pool.pids += 1;
                pool.memory_used.0 += TASK_BYTES;
                pool.memory_working_set.0 += TASK_BYTES;
            }
        }
        for (at, pool) in (0_u64..).zip(usage.values_mut()) {
            let wave = (self.rounds / 10 + self.number + at * 7) % 8;
            pool.cpu_demand = CpuMillis(pool.pids * (10 + 10 * wave));
            pool.cpu_used = pool.cpu_demand;
        }
        let applied = self.generation;
        self.say(FromHost::Pools { applied, usage }).await;
        let number = self.rounds;
        self.say(FromHost::Heartbeat { number }).await;
    }
}

/// The id of a host.
///
/// # Errors
/// Never: it is one.
pub(super) fn id(number: u64) -> Result<HostId> {
    HostId::parse(&format!(
        "{:016x}",
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    ))
    .context("a host's id")
}
