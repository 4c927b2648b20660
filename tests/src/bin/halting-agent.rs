//! An agent with the real drivers that kills itself before or after one call to them.
//!
//! What it is not: it is no part of the product, and the product has no such hook; the driver traits are wrapped here.
//! It takes the arguments of `plimsoll agent` for a host that has joined. `HALT_AT` names the call, as `NAME NUMBER
//! before` or `NAME NUMBER after` (the number counts the calls of that name from 0); the calls are told line by line in
//! the file `HALT_JOURNAL`. What only looks (observe, statistics) is not counted: how often it is called depends on time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use agent::driver::{
    BlobSource, ByteStream, DiskRoom, DriverError, Drivers, ExecRequest, ExecResume, ExecSession,
    FollowRequest, ImageProgress, ImageStore, Imported, LayerLease, LoginRequest,
    NetworkAttachment, NetworkDriver, ObservedTask, OutputStream, Prepared, ProcessTable,
    PullRequest, SaveImage, TaskEvent, TaskInput, TaskPlan, TaskRuntime, TaskStats,
};
use agent::{Agent, AgentConfig};
use anyhow::{Context, Result};
use async_trait::async_trait;
use futures::StreamExt;
use model::workload::Resources;
use model::{Digest, HostPool, HostWorkload, Image, ImageId, PoolId, PoolUsage, WorkloadId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Counts calls and ends the process at the chosen one.
struct Halt {
    /// `NAME NUMBER before|after`; empty: never.
    at: String,
    journal: Mutex<(BTreeMap<&'static str, usize>, std::fs::File)>,
}

impl Halt {
    fn from_environment() -> Result<Self> {
        let path = std::env::var_os("HALT_JOURNAL").context("HALT_JOURNAL is not set")?;
        let journal = std::fs::File::create(&path).context("make the journal")?;
        Ok(Self {
            at: std::env::var("HALT_AT").unwrap_or_default(),
            journal: Mutex::new((BTreeMap::new(), journal)),
        })
    }

    fn begin(&self, name: &'static str) -> String {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (counts, file) = &mut *journal;
        let count = counts.entry(name).or_default();
        let call = format!("{name} {count}");
        *count += 1;
        // The journal is for the test alone; without it the test fails.
        let _ = writeln!(file, "{call}");
        self.die_if(&call, "before");
        call
    }

    fn die_if(&self, call: &str, side: &str) {
        if self.at == format!("{call} {side}") {
            let own = nix::unistd::Pid::this();
            let _ = nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL);
        }
    }

    async fn step<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        let call = self.begin(name);
        let done = work.await;
        self.die_if(&call, "after");
        done
    }

    /// A stream whose first piece counts as a call.
    fn first<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        stream: impl futures::Stream<Item = T> + Send + 'static,
    ) -> std::pin::Pin<Box<dyn futures::Stream<Item = T> + Send>> {
        let halt = Arc::clone(self);
        Box::pin(stream.enumerate().map(move |(number, item)| {
            if number == 0 {
                let _ = halt.begin(name);
            }
            item
        }))
    }
}

struct Runtime {
    halt: Arc<Halt>,
    inner: drivers::oci::OciRuntime,
}

#[async_trait]
impl TaskRuntime for Runtime {
    async fn observe(&self) -> Result<Vec<ObservedTask>, DriverError> {
        self.inner.observe().await
    }

    async fn prepare(&self, plan: &TaskPlan) -> Result<Prepared, DriverError> {
        self.halt.step("prepare", self.inner.prepare(plan)).await
    }

    async fn start(&self, plan: &TaskPlan) -> Result<ObservedTask, DriverError> {
        self.halt.step("start", self.inner.start(plan)).await
    }

    async fn signal(&self, id: &WorkloadId, signal: i32) -> Result<(), DriverError> {
        self.halt
            .step("signal", self.inner.signal(id, signal))
            .await
    }

    async fn kill(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.halt.step("kill", self.inner.kill(id)).await
    }

    async fn fence(&self, id: &WorkloadId, until_ms: Option<u64>) -> Result<(), DriverError> {
        self.inner.fence(id, until_ms).await
    }

    async fn pause(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.halt.step("pause", self.inner.pause(id)).await
    }

    async fn resume(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.halt.step("resume", self.inner.resume(id)).await
    }

    async fn update(&self, id: &WorkloadId, resources: &Resources) -> Result<(), DriverError> {
        self.halt
            .step("update", self.inner.update(id, resources))
            .await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.halt.step("remove", self.inner.remove(id)).await
    }

    fn events(&self) -> broadcast::Receiver<TaskEvent> {
        self.inner.events()
    }

    async fn follow(&self, request: &FollowRequest) -> Result<OutputStream, DriverError> {
        let stream = self.halt.step("follow", self.inner.follow(request)).await?;
        Ok(self.halt.first("output", stream))
    }

    async fn input(&self, id: &WorkloadId) -> Result<Box<dyn TaskInput>, DriverError> {
        self.halt.step("input", self.inner.input(id)).await
    }

    async fn resize(
        &self,
        id: &WorkloadId,
        exec: Option<&str>,
        rows: u16,
        columns: u16,
    ) -> Result<(), DriverError> {
        let resize = self.inner.resize(id, exec, rows, columns);
        self.halt.step("resize", resize).await
    }

    async fn exec(&self, request: &ExecRequest) -> Result<ExecSession, DriverError> {
        let session = self.halt.step("exec", self.inner.exec(request)).await?;
        Ok(self.session(session))
    }

    async fn exec_resume(&self, request: &ExecResume) -> Result<ExecSession, DriverError> {
        let resume = self.inner.exec_resume(request);
        let session = self.halt.step("exec-resume", resume).await?;
        Ok(self.session(session))
    }

    async fn stats(&self, id: &WorkloadId) -> Result<TaskStats, DriverError> {
        self.inner.stats(id).await
    }

    async fn divide(&self, pools: &BTreeMap<PoolId, HostPool>) -> Result<(), DriverError> {
        self.inner.divide(pools).await
    }

    async fn measure_pools(&self) -> Result<BTreeMap<PoolId, PoolUsage>, DriverError> {
        self.inner.measure_pools().await
    }

    async fn top(&self, id: &WorkloadId, ps_args: &str) -> Result<ProcessTable, DriverError> {
        self.inner.top(id, ps_args).await
    }

    async fn dismantle(&self) -> Result<(), DriverError> {
        self.inner.dismantle().await
    }
}

impl Runtime {
    fn session(&self, session: ExecSession) -> ExecSession {
        let halt = Arc::clone(&self.halt);
        let exit = session.exit;
        ExecSession {
            output: self.halt.first("exec-output", session.output),
            input: session.input,
            exit: Box::pin(async move { halt.step("exec-exit", exit).await }),
            arrived: session.arrived,
        }
    }
}

struct Network {
    halt: Arc<Halt>,
    inner: drivers::network::BridgeNetwork,
}

#[async_trait]
impl NetworkDriver for Network {
    async fn attach(
        &self,
        workload: &HostWorkload,
        prepared: Option<&Prepared>,
    ) -> Result<NetworkAttachment, DriverError> {
        self.halt
            .step("attach", self.inner.attach(workload, prepared))
            .await
    }

    async fn detach(&self, id: &WorkloadId) -> Result<(), DriverError> {
        self.halt.step("detach", self.inner.detach(id)).await
    }

    async fn attached(&self) -> Result<BTreeMap<WorkloadId, NetworkAttachment>, DriverError> {
        self.inner.attached().await
    }

    async fn reassert(&self) -> Result<(), DriverError> {
        self.inner.reassert().await
    }

    async fn dismantle(&self) -> Result<(), DriverError> {
        self.inner.dismantle().await
    }
}

struct Images {
    halt: Arc<Halt>,
    inner: drivers::images::LocalImages,
}

impl Images {
    /// The first progress that is told counts as a call: the transfer is under way then.
    fn watch(
        &self,
        name: &'static str,
        progress: mpsc::Sender<ImageProgress>,
    ) -> mpsc::Sender<ImageProgress> {
        let (sender, receiver) = mpsc::channel(1);
        let told = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut told = self.halt.first(name, told);
        tokio::spawn(async move {
            while let Some(item) = told.next().await {
                if progress.send(item).await.is_err() {
                    return;
                }
            }
        });
        sender
    }
}

#[async_trait]
impl ImageStore for Images {
    fn complete(&self) -> BTreeSet<ImageId> {
        self.inner.complete()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    fn room(&self) -> Option<DiskRoom> {
        self.inner.room()
    }

    async fn ensure(
        &self,
        image: &Image,
        relay: &dyn BlobSource,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<LayerLease, DriverError> {
        let ensure = self.inner.ensure(image, relay, progress);
        self.halt.step("ensure", ensure).await
    }

    async fn login(&self, request: &LoginRequest) -> Result<(), DriverError> {
        self.inner.login(request).await
    }

    async fn pull(
        &self,
        request: &PullRequest,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError> {
        let progress = self.watch("pulling", progress);
        self.halt
            .step("pull", self.inner.pull(request, progress))
            .await
    }

    async fn load(
        &self,
        archive: ByteStream,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError> {
        self.halt
            .step("load", self.inner.load(archive, progress))
            .await
    }

    async fn save(&self, images: Vec<SaveImage>) -> Result<ByteStream, DriverError> {
        self.inner.save(images).await
    }

    async fn open_blob(&self, digest: &Digest) -> Result<(u64, ByteStream), DriverError> {
        self.inner.open_blob(digest).await
    }

    async fn drop_image(
        &self,
        id: &ImageId,
        in_use: &BTreeSet<ImageId>,
    ) -> Result<(), DriverError> {
        self.halt
            .step("drop_image", self.inner.drop_image(id, in_use))
            .await
    }
}

/// The arguments that this program needs of those of `plimsoll agent`.
struct Arguments {
    data: PathBuf,
    server: String,
    address: String,
    cgroup: String,
}

impl Arguments {
    fn read() -> Result<Self> {
        let words: Vec<String> = std::env::args().collect();
        let after = |flag: &str| {
            let mut words = words.iter().skip_while(|word| *word != flag);
            words.nth(1).cloned().with_context(|| format!("no {flag}"))
        };
        Ok(Self {
            data: after("--data")?.into(),
            server: after("--server")?,
            address: after("--address")?,
            cgroup: after("--cgroup")?,
        })
    }
}

fn open(arguments: &Arguments, halt: &Arc<Halt>) -> Result<Drivers> {
    let shim = std::env::var_os("PLIMSOLL_SHIM").context("PLIMSOLL_SHIM is not set")?;
    let runtime = drivers::oci::OciRuntime::open(drivers::oci::OciConfig {
        data: arguments.data.join("runtime"),
        shim: shim.into(),
        host: arguments.cgroup.clone(),
        runtimes: HashMap::new(),
    });
    let insecure = std::env::var("PLIMSOLL_INSECURE_REGISTRY").into_iter();
    let images = drivers::images::LocalImages::open(
        &arguments.data.join("images"),
        drivers::images::Limits::default(),
        drivers::images::RegistryOptions {
            insecure: insecure.collect(),
            ..drivers::images::RegistryOptions::default()
        },
    );
    let network = drivers::network::NetworkConfig::new(arguments.data.join("network"));
    let network = drivers::network::BridgeNetwork::open(network);
    Ok(Drivers {
        runtime: Arc::new(Runtime {
            halt: Arc::clone(halt),
            inner: runtime.context("open the runtime")?,
        }),
        images: Arc::new(Images {
            halt: Arc::clone(halt),
            inner: images.context("open the image store")?,
        }),
        network: Arc::new(Network {
            halt: Arc::clone(halt),
            inner: network.context("open the network")?,
        }),
    })
}

/// Enough for placement to choose this host.
fn facts(arguments: &Arguments) -> model::HostFacts {
    model::HostFacts {
        capacity: model::Capacity {
            cpu: model::CpuMillis(4000),
            memory: model::MemoryBytes(8 << 30),
        },
        cpus: 4,
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        address: arguments.address.clone(),
        ..model::HostFacts::default()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let halt = Arc::new(Halt::from_environment()?);
    let drivers = open(&arguments, &halt)?;
    let config = AgentConfig {
        facts: facts(&arguments),
        data_dir: arguments.data,
        servers: vec![arguments.server],
        sync: true,
        clock: agent::clock::Clock::System,
    };
    let shutdown = CancellationToken::new();
    Agent::new(config, drivers)
        .run(shutdown)
        .await
        .context("run the agent")?;
    Ok(())
}
