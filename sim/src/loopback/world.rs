//! The cluster, and what can go wrong in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agent::clock::Clock;
use agent::driver::{DriverError, ErrorClass};
use agent::fake::{FakeHost, Op};
use agent::identity::{IdentityFolder, JoinOptions, join};
use agent::{Agent, AgentConfig};
use anyhow::{Context, Result};
use control::{Caller, Control};
use model::{Capacity, CpuMillis, HostFacts, HostId, ImageId, MemoryBytes, PoolId};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::loopback::operators::Crowd;
use crate::loopback::random::Random;
use crate::loopback::server::Server;

/// A fake host with its agent.
pub struct SimHost {
    /// Its id.
    pub id: HostId,
    /// What it runs.
    pub fake: Arc<FakeHost>,
    folder: TempDir,
    server: String,
    agent: Option<JoinHandle<()>>,
}

impl SimHost {
    fn start(&mut self) {
        let config = AgentConfig {
            data_dir: self.folder.path().to_owned(),
            servers: vec![self.server.clone()],
            facts: HostFacts {
                capacity: Capacity {
                    cpu: CpuMillis(64_000),
                    memory: MemoryBytes(256 << 30),
                },
                cpus: 64,
                architecture: "amd64".to_owned(),
                os: "simulated".to_owned(),
                ..HostFacts::default()
            },
            sync: false,
            clock: Clock::System,
        };
        let agent = Agent::new(config, self.fake.drivers());
        self.agent = Some(tokio::spawn(async move {
            if let Err(error) = agent.run(CancellationToken::new()).await {
                eprintln!("an agent ended: {error:?}");
            }
        }));
    }

    /// Kills the agent where it stands.
    async fn kill(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
            let _ = agent.await;
        }
    }
}

/// How often each thing went wrong.
#[derive(Debug, Default)]
pub struct Faults {
    kills: u32,
    reboots: u32,
    cuts: u32,
    failures: u32,
    ends: u32,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} agents killed, {} hosts rebooted, {} cuts, {} failing steps, {} tasks ended",
            self.kills, self.reboots, self.cuts, self.failures, self.ends
        )
    }
}

/// A control plane and its hosts.
pub struct World {
    /// The server.
    pub server: Server,
    /// The hosts.
    pub hosts: Vec<SimHost>,
    /// The pool everything is in.
    pub pool: PoolId,
    /// Its image.
    pub image: ImageId,
}

impl World {
    /// Makes a cluster whose hosts have joined with tokens and have a session.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn new(hosts: u32) -> Result<Self> {
        let server = Server::start().await?;
        let control = server.control.clone();
        let pool = control.test_pool("team").await?;
        let mut list = Vec::new();
        for number in 0..hosts {
            list.push(add_host(&control, &server, number).await?);
        }
        let image = control.test_image(&pool, "docker.io/library/web:1").await?;
        for host in &mut list {
            host.fake.add_image(image.clone());
            host.start();
        }
        let world = Self {
            server,
            hosts: list,
            pool,
            image,
        };
        world.connected().await?;
        Ok(world)
    }

    async fn connected(&self) -> Result<()> {
        let all = async {
            loop {
                let snapshot = self.server.control.snapshot();
                if snapshot.hosts().all(|host| Control::host_ready(&host)) {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(CONNECT_LIMIT, all)
            .await
            .context("not every host got a session")
    }

    /// Lets things go wrong while the crowd works.
    ///
    /// # Errors
    /// When the crowd fails.
    pub async fn trouble(
        &mut self,
        random: &mut Random,
        count: u32,
        crowd: &Crowd,
    ) -> Result<Faults> {
        let mut faults = Faults::default();
        for _ in 0..count {
            if crowd.is_done() {
                break;
            }
            let pause = u64::try_from(random.below(60)).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.fault(random, &mut faults).await;
        }
        Ok(faults)
    }

    async fn fault(&mut self, random: &mut Random, faults: &mut Faults) {
        let what = random.below(100);
        let number = random.below(self.hosts.len());
        let Some(host) = self.hosts.get_mut(number) else {
            return;
        };
        match what {
            0..30 => {
                host.kill().await;
                host.start();
                faults.kills += 1;
            }
            30..35 => {
                host.kill().await;
                host.fake.reboot();
                host.start();
                faults.reboots += 1;
            }
            35..45 => {
                self.server.cut();
                faults.cuts += 1;
            }
            45..75 => {
                let ops = [
                    Op::Ensure,
                    Op::Prepare,
                    Op::Attach,
                    Op::Detach,
                    Op::Remove,
                    Op::Kill,
                    Op::Signal,
                ];
                if let Some(op) = random.pick(&ops) {
                    let error = DriverError::new(ErrorClass::Failed, "a simulated hiccup");
                    host.fake.fail_next(*op, error);
                    faults.failures += 1;
                }
            }
            _ => {
                let snapshot = self.server.control.snapshot();
                let here: Vec<_> = snapshot
                    .workloads_on(&host.id)
                    .map(|w| w.id.clone())
                    .collect();
                if let Some(id) = random.pick(&here) {
                    host.fake.end(id, 1);
                    faults.ends += 1;
                }
            }
        }
    }

    /// Nothing goes wrong any more.
    pub async fn calm(&mut self) {
        for host in &mut self.hosts {
            host.fake.no_failures();
            if host.agent.as_ref().is_none_or(JoinHandle::is_finished) {
                host.kill().await;
                host.start();
            }
        }
    }
}

/// How often conditions without a notice are looked at.
pub const POLL: Duration = Duration::from_millis(20);
/// Time for all hosts to get their first session: 1,000 handshakes in debug mode.
const CONNECT_LIMIT: Duration = Duration::from_secs(120);

async fn add_host(control: &Control, server: &Server, number: u32) -> Result<SimHost> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let (token, _) = control
        .host_token_create(&Caller::local_admin(), 3600)
        .await?;
    let servers = [server.address.to_string()];
    let options = JoinOptions {
        name: format!("host-{number}"),
        ..JoinOptions::default()
    };
    let identity = IdentityFolder::of(folder.path());
    let id = join(&identity, &servers, &token, &options)
        .await
        .with_context(|| format!("join host {number}"))?;
    Ok(SimHost {
        id,
        fake: FakeHost::new(Clock::System),
        folder,
        server: server.address.to_string(),
        agent: None,
    })
}
