//! What the agent asks of Linux: tasks, images, network. Owned here, implemented in `drivers`.
//!
//! What always holds: every method can be repeated after a crash at any point and ends in the same state; nothing is
//! removed because it is merely unknown; methods that take long can be cancelled by dropping their future.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use model::workload::{NetworkStatus, Resources};
use model::{
    Digest, HostPool, HostWorkload, Image, ImageId, PoolId, PoolUsage, TaskStatus, Timestamp,
    WorkloadId,
};
use tokio::sync::{broadcast, mpsc};

/// The words of the host protocol that drivers speak, so that they need not know the wire.
pub use plan::steps::DiskRoom;
pub use wire::link::{
    Credentials, ErrorClass, ExecExit, ExecRequest, ExecResume, FollowFrom, FollowRequest,
    ImageProgress, ImportedImage, LoginRequest, NetworkStats, ProcessTable, PullRequest, SaveImage,
    TaskStats,
};

/// Bytes that come as they are read.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Why a driver could not do something. `message` is for people and names what failed and why; `class` is for
/// programs.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DriverError {
    /// Class.
    pub class: ErrorClass,
    /// For people.
    pub message: String,
    /// What lies behind it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl DriverError {
    /// An error of a class with a message.
    #[must_use]
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            source: None,
        }
    }

    /// Adds what lies behind it.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// All that a runtime needs to make and start one attempt of a task.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// The workload, its run number included.
    pub workload: Arc<HostWorkload>,
    /// Restarts by policy within this run before this attempt; the first attempt is 0.
    pub attempt: u32,
    /// Folders of the image's layers, top first. The root file system is these below the task's own writable folder,
    /// which is kept between attempts and runs until [`TaskRuntime::remove`]. Empty in [`TaskRuntime::prepare`], which
    /// goes on while the image is fetched.
    pub layers: Vec<PathBuf>,
    /// What the network driver made of it; `None` before it was attached.
    pub network: Option<NetworkAttachment>,
    /// Until when the task may live without hearing more, as in [`TaskRuntime::fence`].
    pub fence_until: Option<u64>,
}

/// A network namespace that waits to be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// A process in it: `/proc/<pid>/ns/net`.
    pub pid: u32,
    /// Start time of that process (field 22 of `/proc/<pid>/stat`), so that a reused pid is noticed.
    pub start_time: u64,
}

/// What a runtime knows of a task on this host.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedTask {
    /// The workload.
    pub id: WorkloadId,
    /// What is true of it. `status.restart_count` is the attempt, `status.network` is left empty.
    pub status: TaskStatus,
    /// Pid that holds its network namespace; `None` if nothing lives.
    pub namespace_pid: Option<u32>,
}

/// Something that happened to a task.
#[expect(
    clippy::large_enum_variant,
    reason = "the small variant is the rare one"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEvent {
    /// It changed by itself (it ended, or memory ran out). The status is as [`ObservedTask::status`].
    Changed(ObservedTask),
    /// Events were lost; observe again.
    Lagged,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Whether it is standard error.
    pub stderr: bool,
    /// When it was written.
    pub time: Timestamp,
    /// The bytes; empty if this only says where the output begins.
    pub bytes: Bytes,
    /// Where this piece ends, for [`FollowFrom::Position`].
    pub position: u64,
}

/// Output as it comes; ends when the run has ended and everything was handed over.
pub type OutputStream = Pin<Box<dyn Stream<Item = Result<Output, DriverError>> + Send>>;

/// The way into a running process. Dropping it detaches.
#[async_trait]
pub trait TaskInput: Send {
    /// Writes to standard input or the terminal; waits while the process does not read. What was written reaches the
    /// process even if the agent dies.
    async fn write(&mut self, bytes: Bytes) -> Result<(), DriverError>;
    /// Closes standard input.
    async fn close(&mut self) -> Result<(), DriverError>;
}

/// A further process in a task.
pub struct ExecSession {
    /// Its output; ends when it has ended.
    pub output: OutputStream,
    /// Its input, if asked for.
    pub input: Option<Box<dyn TaskInput>>,
    /// Resolves to exit code and pid when it has ended. Independent of `output`.
    pub exit: Pin<Box<dyn Future<Output = Result<wire::link::ExecExit, DriverError>> + Send>>,
    /// Called when output and exit have arrived; until then they are kept for a while after the end.
    pub arrived: Box<dyn FnOnce() + Send>,
}

/// Makes, runs and watches tasks.
#[async_trait]
pub trait TaskRuntime: Send + Sync + 'static {
    /// Everything of tasks on this host: what lives and what ended, also from before the agent's start.
    async fn observe(&self) -> Result<Vec<ObservedTask>, DriverError>;

    /// Makes the task's state folder and namespaces for one attempt.
    async fn prepare(&self, plan: &TaskPlan) -> Result<Prepared, DriverError>;

    /// Starts a prepared attempt; its network is attached. Returns once the process runs.
    async fn start(&self, plan: &TaskPlan) -> Result<ObservedTask, DriverError>;

    /// Sends a signal to the first process.
    async fn signal(&self, id: &WorkloadId, signal: i32) -> Result<(), DriverError>;

    /// Kills every process of the task (the whole cgroup), also a prepared one.
    async fn kill(&self, id: &WorkloadId) -> Result<(), DriverError>;

    /// Tells the supervisor of a running task until when the task may live without hearing more, in milliseconds since
    /// the start of the machine ([`crate::clock::Clock::since_boot`]); `None`: for ever. When that is over it kills every
    /// process of the task by itself, whether or not there still is an agent, and the task's status says that it was
    /// fenced. It keeps the newest word.
    async fn fence(&self, id: &WorkloadId, until_ms: Option<u64>) -> Result<(), DriverError>;

    /// Freezes all processes.
    async fn pause(&self, id: &WorkloadId) -> Result<(), DriverError>;

    /// Thaws all processes.
    async fn resume(&self, id: &WorkloadId) -> Result<(), DriverError>;

    /// Changes limits of a running task.
    async fn update(&self, id: &WorkloadId, resources: &Resources) -> Result<(), DriverError>;

    /// Removes an ended task with its writable folder, anonymous volumes and log. Slow parts go on in the background.
    async fn remove(&self, id: &WorkloadId) -> Result<(), DriverError>;

    /// Changes of tasks by themselves.
    fn events(&self) -> broadcast::Receiver<TaskEvent>;

    /// Output as the request says.
    async fn follow(&self, request: &FollowRequest) -> Result<OutputStream, DriverError>;

    /// The way into the task's first process; fails if its standard input is not open.
    async fn input(&self, id: &WorkloadId) -> Result<Box<dyn TaskInput>, DriverError>;

    /// Changes the size of the terminal of the task or of one of its execs.
    async fn resize(
        &self,
        id: &WorkloadId,
        exec: Option<&str>,
        rows: u16,
        columns: u16,
    ) -> Result<(), DriverError>;

    /// Runs a further process in a running task.
    async fn exec(&self, request: &ExecRequest) -> Result<ExecSession, DriverError>;

    /// Goes on with an exec, also one that was begun before the agent's start, or that has ended.
    async fn exec_resume(&self, request: &ExecResume) -> Result<ExecSession, DriverError>;

    /// Measures a running task.
    async fn stats(&self, id: &WorkloadId) -> Result<TaskStats, DriverError>;

    /// Brings what pools may use on this host to these parts, pools without one to no bounds. Fails while a part is
    /// not in force; what can be in force then is. With [`ErrorClass::Conflict`] that is all but parts of which more
    /// memory is in use: there, the part before holds.
    async fn divide(&self, pools: &BTreeMap<PoolId, HostPool>) -> Result<(), DriverError>;

    /// What every pool does that has a part or a task here, since the last call.
    async fn measure_pools(&self) -> Result<BTreeMap<PoolId, PoolUsage>, DriverError>;

    /// Lists the processes of a running task.
    async fn top(&self, id: &WorkloadId, ps_args: &str) -> Result<ProcessTable, DriverError>;

    /// Takes back what was made for all tasks together, when the host has left its installation and no task is left.
    /// Fails while a process is there.
    async fn dismantle(&self) -> Result<(), DriverError>;
}

/// What the network driver made for a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkAttachment {
    /// Address, gateway, ports as they are.
    pub status: NetworkStatus,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Content of `/etc/hosts`.
    pub hosts: String,
}

/// Connects workloads to the network of this host.
#[async_trait]
pub trait NetworkDriver: Send + Sync + 'static {
    /// Connects a namespace: address, route, NAT, published ports. Repeating it for the same workload gives the same
    /// address.
    async fn attach(
        &self,
        workload: &HostWorkload,
        prepared: Option<&Prepared>,
    ) -> Result<NetworkAttachment, DriverError>;

    /// Takes back everything that [`NetworkDriver::attach`] made; the namespace may be gone already. The address is
    /// not given out again for a while.
    async fn detach(&self, id: &WorkloadId) -> Result<(), DriverError>;

    /// What is attached, from the driver's own state; survives restarts of the agent.
    async fn attached(&self) -> Result<BTreeMap<WorkloadId, NetworkAttachment>, DriverError>;

    /// Puts back bridge, rules and whatever else someone may have taken away.
    async fn reassert(&self) -> Result<(), DriverError>;

    /// Takes back bridge, rules and whatever else belongs to no single workload, when the host has left its
    /// installation; the driver puts none of it back afterwards. Fails while a workload is attached.
    async fn dismantle(&self) -> Result<(), DriverError>;
}

/// Where missing blobs come from.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// The bytes of a blob, from its beginning.
    async fn open(&self, digest: &Digest) -> Result<ByteStream, DriverError>;
}

/// Keeps images.
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// Images that are complete.
    fn complete(&self) -> BTreeSet<ImageId>;

    /// Told when [`ImageStore::complete`] changes.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Room on the disk that they are on; `None`: it cannot be said.
    fn room(&self) -> Option<DiskRoom>;

    /// Makes an image complete, fetching what is missing (from the image's own registry source without credentials if
    /// that works, else from `relay`), and gives the folders of its layers, top first. The image is not dropped while
    /// the returned lease lives.
    async fn ensure(
        &self,
        image: &Image,
        relay: &dyn BlobSource,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<LayerLease, DriverError>;

    /// Asks a registry whether it accepts credentials; [`ErrorClass::Unauthorized`] if it does not.
    async fn login(&self, request: &LoginRequest) -> Result<(), DriverError>;

    /// Pulls from a registry.
    async fn pull(
        &self,
        request: &PullRequest,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError>;

    /// Loads the images of an archive.
    async fn load(
        &self,
        archive: ByteStream,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError>;

    /// Writes an archive.
    async fn save(&self, images: Vec<SaveImage>) -> Result<ByteStream, DriverError>;

    /// A blob of a complete image: its length and bytes.
    async fn open_blob(&self, digest: &Digest) -> Result<(u64, ByteStream), DriverError>;

    /// Deletes an image that the desired document names, unless it is leased or in `in_use`; what other images share
    /// stays.
    async fn drop_image(&self, id: &ImageId, in_use: &BTreeSet<ImageId>)
    -> Result<(), DriverError>;
}

/// The drivers of one host.
#[derive(Clone)]
pub struct Drivers {
    /// Tasks.
    pub runtime: Arc<dyn TaskRuntime>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Network.
    pub network: Arc<dyn NetworkDriver>,
}

/// Images that came in; they are not dropped while this lives, from before they were complete on.
pub struct Imported {
    /// Which.
    pub images: Vec<ImportedImage>,
    /// Released on drop.
    pub lease: Box<dyn std::any::Any + Send + Sync>,
}

impl std::fmt::Debug for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imported")
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}

/// Folders of an image's layers; the image stays while this lives.
pub struct LayerLease {
    /// Top first.
    pub layers: Vec<PathBuf>,
    /// Released on drop.
    pub lease: Box<dyn std::any::Any + Send + Sync>,
}

impl std::fmt::Debug for LayerLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerLease")
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}
