//! One simulated host: a machine that outlives its agents, and its wires.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent::clock::Clock;
use agent::driver::ImportedImage;
use agent::fake::{FakeHost, Op};
use agent::ledger::Ledger;
use agent::{Agent, AgentConfig, AgentError, Ended};
use anyhow::Context as _;
use bytes::Bytes;
use model::{
    Capacity, CpuMillis, Digest, HostDesired, HostFacts, HostId, HostPool, ImageId, MemoryBytes,
    PoolId, WorkloadId,
};
use sha2::Digest as _;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::checker::Past;
use crate::link::{Shared, Wires};
use crate::script::{Machine, SERVERS};

/// How far the journals of a host were read.
#[derive(Default)]
struct Read {
    operations: usize,
    starts: usize,
    ends: usize,
}

/// What a machine is made of.
#[derive(Clone)]
pub struct Build {
    /// Its number.
    pub number: usize,
    /// What it has at first.
    pub machine: Machine,
    /// Where its agent keeps its files.
    pub folder: PathBuf,
    /// Its clock.
    pub clock: Clock,
    /// Images that can be pulled: by which name, and what comes.
    pub pulls: Vec<(String, ImportedImage)>,
    /// Content of layers.
    pub contents: Vec<(Digest, Bytes)>,
}

/// A host.
pub struct SimHost {
    /// Its id; another one each time the machine joins.
    pub id: HostId,
    /// The machine.
    pub fake: Arc<FakeHost>,
    /// What its links depend on.
    pub wires: watch::Sender<Wires>,
    /// What its links share.
    pub shared: Arc<Shared>,
    /// Whether an operation may hang, now or later: only a new agent helps.
    pub hangs: bool,
    /// What it has.
    pub machine: Machine,
    /// Tasks of a time when this machine was another host: the run of each that was known then.
    pub forgotten: BTreeMap<WorkloadId, u64>,
    build: Build,
    joins: u32,
    wipes: u32,
    boots: u32,
    running: Option<(JoinHandle<Result<Ended, AgentError>>, CancellationToken)>,
    links: Vec<AbortHandle>,
    /// Parts of pools that were in force before the machine was wiped: servers still count on them.
    parts_before: BTreeMap<PoolId, HostPool>,
    read: Read,
}

impl SimHost {
    /// A machine that is off.
    ///
    /// # Errors
    /// When no id can be made for it.
    pub fn new(build: Build) -> anyhow::Result<Self> {
        Ok(Self {
            id: id(build.number, 0)?,
            fake: fake(&build),
            wires: watch::Sender::new(Wires::default()),
            shared: Arc::default(),
            hangs: false,
            machine: build.machine,
            forgotten: BTreeMap::new(),
            build,
            joins: 0,
            wipes: 0,
            boots: 0,
            running: None,
            links: Vec::new(),
            parts_before: BTreeMap::new(),
            read: Read::default(),
        })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> usize {
        self.build.number
    }

    /// What it says of itself.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        HostFacts {
            capacity: Capacity {
                cpu: CpuMillis(self.machine.cpu_millis),
                memory: MemoryBytes(self.machine.memory_mib << 20),
            },
            cpus: u32::try_from(self.machine.cpu_millis / 1000).unwrap_or(1),
            architecture: "amd64".to_owned(),
            boot_id: format!("boot-{}-{}", self.wipes, self.boots),
            agent_version: "sim".to_owned(),
            ..HostFacts::default()
        }
    }

    fn folder(&self) -> PathBuf {
        let name = format!("host{}-{}", self.build.number, self.wipes);
        self.build.folder.join(name)
    }

    /// Starts an agent, if none runs.
    pub fn start_agent(&mut self) {
        if self
            .running
            .as_ref()
            .is_some_and(|(task, _)| !task.is_finished())
        {
            return;
        }
        let config = AgentConfig {
            data_dir: self.folder(),
            servers: Vec::new(),
            facts: self.facts(),
            sync: false,
            clock: self.build.clock,
        };
        let agent = Agent::new(config, self.fake.drivers());
        let mut ways: [Option<mpsc::Sender<agent::local::LocalEvent>>; SERVERS] =
            Default::default();
        let mut queues = Vec::new();
        for way in &mut ways {
            let (sender, queue) = mpsc::channel(1);
            *way = Some(sender);
            queues.push(queue);
        }
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(agent.run_local(queues, shutdown.clone()));
        self.running = Some((task, shutdown));
        self.wires.send_modify(|wires| wires.sessions = ways);
    }

    /// Kills the agent and waits until nothing of it is left.
    pub async fn kill_agent(&mut self) {
        self.wires
            .send_modify(|wires| wires.sessions = Default::default());
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

    /// The machine loses power and everything on it.
    pub async fn lose_all(&mut self, past: &Past) {
        self.lose_power(past).await;
        self.read_journals(past);
        let images = self.images();
        self.parts_before = self.parts();
        self.wipes += 1;
        self.read = Read::default();
        self.forgotten.clear();
        self.fake = fake(&self.build);
        past.with(|past| past.wiped(&self.id, &images));
    }

    /// The machine joins as another host; without `kept` it is empty then. It is off afterwards.
    ///
    /// # Errors
    /// When its ledger cannot be read.
    pub async fn join_again(&mut self, kept: bool, past: &Past) -> anyhow::Result<()> {
        self.kill_agent().await;
        for link in self.links.drain(..) {
            link.abort();
        }
        self.shared = Arc::default();
        if kept {
            self.read_journals(past);
            let (_, recovered) = Ledger::open(&self.folder().join("ledger"), false)?;
            let runs = recovered.desired.workloads.into_iter();
            self.forgotten.extend(runs.map(|(id, it)| (id, it.run)));
            let tasks = self.fake.statuses().into_iter();
            self.forgotten.extend(tasks.map(|(id, it)| (id, it.run)));
        } else {
            self.lose_all(past).await;
        }
        self.parts_before.clear();
        self.joins += 1;
        self.id = id(self.build.number, self.joins)?;
        Ok(())
    }

    /// Its links live from now on.
    pub fn has_links(&mut self, links: Vec<AbortHandle>) {
        self.links = links;
    }

    /// So many of its messages more come twice.
    pub fn doubles(&self, count: u64) {
        self.shared.twice.store(count, Ordering::Relaxed);
    }

    /// Ends the agent properly and reads its ledger.
    ///
    /// # Errors
    /// When the agent failed or the ledger cannot be read.
    pub async fn read_ledger(&mut self) -> anyhow::Result<HostDesired> {
        self.wires
            .send_modify(|wires| wires.sessions = Default::default());
        if let Some((task, shutdown)) = self.running.take() {
            shutdown.cancel();
            task.await??;
        }
        let (_, recovered) = Ledger::open(&self.folder().join("ledger"), false)?;
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

    /// Parts of pools that are in force on it, or that servers must take for being so.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<PoolId, HostPool> {
        let parts = self.fake.parts();
        if parts.is_empty() {
            self.parts_before.clone()
        } else {
            parts
        }
    }
}

fn fake(build: &Build) -> Arc<FakeHost> {
    let fake = FakeHost::new(build.clock);
    for (digest, content) in &build.contents {
        fake.add_content(digest.clone(), content.clone());
    }
    for (reference, image) in &build.pulls {
        fake.add_pull(reference, image.clone());
    }
    fake
}

/// The id of a machine that has joined so often before.
fn id(number: usize, joins: u32) -> anyhow::Result<HostId> {
    let text = format!("host {number} {joins}");
    let hex = hex::encode(sha2::Sha256::digest(text.as_bytes()));
    HostId::parse(&hex[..16]).context("an id of a host")
}
