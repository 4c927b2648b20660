//! One simulated host: a machine that outlives its agents, and its wires.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use agent::clock::Clock;
use agent::fake::{FakeHost, Op};
use agent::ledger::Ledger;
use agent::{Agent, AgentConfig, AgentError};
use model::{
    Capacity, CpuMillis, HostDesired, HostFacts, HostId, ImageId, MemoryBytes, WorkloadId,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::checker::Past;
use crate::link::Wires;

/// How far the journals of a host were read.
#[derive(Default)]
struct Read {
    operations: usize,
    starts: usize,
    ends: usize,
}

/// A host.
pub struct SimHost {
    /// Its id.
    pub id: HostId,
    /// The machine.
    pub fake: Arc<FakeHost>,
    /// What its link depends on.
    pub wires: watch::Sender<Wires>,
    /// Whether an operation may hang, now or later: only a new agent helps.
    pub hangs: bool,
    folder: PathBuf,
    clock: Clock,
    boots: u32,
    running: Option<(JoinHandle<Result<(), AgentError>>, CancellationToken)>,
    read: Read,
}

impl SimHost {
    /// A host that is off.
    #[must_use]
    pub fn new(id: HostId, folder: PathBuf, clock: Clock) -> Self {
        Self {
            fake: FakeHost::new(clock),
            wires: watch::Sender::new(Wires::default()),
            hangs: false,
            folder,
            clock,
            boots: 0,
            running: None,
            read: Read::default(),
            id,
        }
    }

    /// What it says of itself.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        HostFacts {
            capacity: Capacity {
                cpu: CpuMillis(64_000),
                memory: MemoryBytes(256 << 30),
            },
            cpus: 64,
            architecture: "amd64".to_owned(),
            boot_id: format!("boot-{}", self.boots),
            agent_version: "sim".to_owned(),
            ..HostFacts::default()
        }
    }

    /// Starts an agent, if none runs.
    pub fn start_agent(&mut self) {
        if self.running.is_some() {
            return;
        }
        let config = AgentConfig {
            data_dir: self.folder.clone(),
            servers: Vec::new(),
            facts: self.facts(),
            sync: false,
            clock: self.clock,
        };
        let agent = Agent::new(config, self.fake.drivers());
        let (sessions, queue) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(agent.run_local(queue, shutdown.clone()));
        self.running = Some((task, shutdown));
        self.wires
            .send_modify(|wires| wires.sessions = Some(sessions));
    }

    /// Kills the agent and waits until nothing of it is left.
    pub async fn kill_agent(&mut self) {
        self.wires.send_modify(|wires| wires.sessions = None);
        if let Some((task, _)) = self.running.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// The machine loses power.
    pub async fn lose_power(&mut self, past: &Past) {
        self.kill_agent().await;
        self.fake.reboot();
        self.boots += 1;
        past.with(|past| past.lost_power.insert(self.id.clone()));
    }

    /// Ends the agent properly and reads its ledger.
    ///
    /// # Errors
    /// When the agent failed or the ledger cannot be read.
    pub async fn read_ledger(&mut self) -> anyhow::Result<HostDesired> {
        self.wires.send_modify(|wires| wires.sessions = None);
        if let Some((task, shutdown)) = self.running.take() {
            shutdown.cancel();
            task.await??;
        }
        let (_, recovered) = Ledger::open(&self.folder.join("ledger"), false)?;
        Ok(recovered.desired)
    }

    /// Takes in what the machine did since the last time.
    pub fn read_journals(&mut self, past: &Past) {
        let (journal, operations) = self.fake.journal_since(self.read.operations);
        self.read.operations = operations;
        let starts = self.fake.starts_since(self.read.starts);
        self.read.starts += starts.len();
        let ends = self.fake.ends_since(self.read.ends);
        self.read.ends += ends.len();
        past.with(|past| {
            for (op, subject) in journal {
                match op {
                    Op::Remove => {
                        if let Ok(id) = WorkloadId::parse(&subject) {
                            past.removals.insert((self.id.clone(), id));
                        }
                    }
                    Op::DropImage => {
                        if let Ok(id) = ImageId::parse(&subject) {
                            past.drops.insert((self.id.clone(), id));
                        }
                    }
                    Op::Ensure
                    | Op::Prepare
                    | Op::Attach
                    | Op::Start
                    | Op::Signal
                    | Op::Kill
                    | Op::Pause
                    | Op::Resume
                    | Op::Update
                    | Op::Divide
                    | Op::Detach
                    | Op::DismantleRuntime
                    | Op::DismantleNetwork => {}
                }
            }
            for key in starts {
                past.starts.entry(key).or_default().push(self.id.clone());
            }
            for (id, run, attempt, code) in ends {
                past.ends
                    .entry(id)
                    .or_default()
                    .insert((run, attempt), code);
            }
        });
    }

    /// Images complete on it.
    #[must_use]
    pub fn images(&self) -> BTreeSet<ImageId> {
        use agent::driver::ImageStore as _;
        self.fake.complete()
    }
}
