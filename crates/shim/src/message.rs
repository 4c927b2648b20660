//! Messages between a driver and a shim over the shim's unix socket.
//!
//! The driver sends [`Call`]s, the shim answers each with one [`Event::Done`] or [`Event::Refused`]
//! carrying the call's id, and tells everybody about the task's life with the other events.
//! Standard input travels as raw frames (see [`crate::frame`]); a client that sends input uses a
//! connection of its own, because back-pressure stops the reading of that connection.
//! Always holds: a shim never acts on a call it has not fully parsed, and every field is bounded by
//! [`crate::frame::MAX_FRAME`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::process::ProcessId;
use crate::state::ExitRecord;

/// Version of this protocol. Shims outlive the programs that launched them: a client asks a shim only for what its
/// version knows, because it cuts off a client that it does not understand.
pub const PROTOCOL: u32 = 2;

/// The first version that knows [`Request::Fence`].
pub const PROTOCOL_FENCE: u32 = 2;

/// Name of the socket inside a shim's state directory.
pub const SOCKET: &str = "socket";

/// One numbered request of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Chosen by the client, echoed in the answer.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// What a client can ask of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Put the waiting creator into these cgroups; may be sent long before `Start`.
    Place(Placement),
    /// Run the task; allowed once. Answered when the task runs or has failed to.
    Start(Box<Start>),
    /// Change the size of the terminal.
    Resize(WindowSize),
    /// Send a signal to the task's first process.
    Signal {
        /// Signal number as the kernel of this host counts.
        signal: i32,
    },
    /// End of standard input.
    CloseStdin,
    /// Tell this connection about new log offsets.
    Subscribe(Subscribe),
    /// The subscriber has consumed the log up to this offset.
    Ack {
        /// Log offset.
        offset: u64,
    },
    /// End the shim. Refused while the task runs.
    Shutdown,
    /// Until when the task may live without hearing more. Allowed at any time, also before `Start`.
    Fence(Fence),
}

/// Until when a task may live; the newest word counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// Milliseconds since the start of the machine, suspends included (`CLOCK_BOOTTIME`): then the shim kills the task.
    /// `None`: for ever.
    pub until_ms: Option<u64>,
    /// File that lists the task's processes, for those that do not go with the first one.
    #[serde(default)]
    pub processes: Option<PathBuf>,
    /// How a frozen task is made to run, so that it can die.
    #[serde(default)]
    pub thaw: Option<Thaw>,
}

/// What to write where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thaw {
    /// The file.
    pub file: PathBuf,
    /// The word.
    pub word: String,
}

/// The cgroups of a task as files to write process ids into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// `cgroup.procs` files, one per hierarchy.
    pub procs: Vec<PathBuf>,
    /// File that counts out-of-memory kills (`memory.oom_control` or `memory.events`).
    pub oom: Option<PathBuf>,
    /// What the task sees as `/sys/fs/cgroup`.
    pub view: Vec<CgroupView>,
}

/// One directory of the task's own view of its cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupView {
    /// Name below `/sys/fs/cgroup`; empty for the whole (cgroup v2).
    pub name: String,
    /// Directory of the task's cgroup in that hierarchy on the host.
    pub source: PathBuf,
}

/// How to follow the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// With `hold`, the task is slowed down rather than output rotated away that this client has
    /// not acknowledged. An attached client holds; a `logs -f` does not.
    pub hold: bool,
    /// Where the client begins to read; counts as acknowledged up to here.
    pub offset: u64,
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Rows in characters.
    pub rows: u16,
    /// Columns in characters.
    pub cols: u16,
}

/// Everything needed to run one process tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Number of the run, recorded with the exit.
    pub run: u64,
    /// What to run.
    pub what: What,
    /// User as the image or the caller wrote it: `name`, `uid`, `user:group`; empty for root.
    pub user: String,
    /// Additional groups by name or number.
    pub groups: Vec<String>,
    /// The size of the terminal, if the task has one.
    pub terminal: Option<WindowSize>,
    /// Whether standard input stays open for clients.
    pub stdin: bool,
    /// Where and how much output is kept.
    pub log: LogTarget,
    /// What creates the processes.
    pub runtime: Runtime,
    /// Run a small init as first process that reaps and forwards signals.
    pub init: bool,
    /// Compiled seccomp programs (`struct sock_filter` arrays), loaded after the spec's own filter.
    pub seccomp_program: Option<PathBuf>,
}

/// A new task, or one more process in an existing one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// A new task.
    Task {
        /// Id for the runtime; also names nothing outside the state directory.
        id: String,
        /// The file system.
        rootfs: Rootfs,
        /// OCI runtime spec in JSON.
        spec: PathBuf,
        /// Volumes that take over what the image has at their mount point if they are empty.
        #[serde(default)]
        volumes: Vec<Volume>,
    },
    /// Join a running task.
    Exec {
        /// Id the task was started under.
        id: String,
        /// State directory of the task's shim.
        task_dir: PathBuf,
        /// The task's first process.
        task: ProcessId,
        /// OCI process description in JSON.
        process: PathBuf,
    },
}

/// A folder of the host mounted into a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// The folder.
    pub source: PathBuf,
    /// Where it is mounted, inside the task's root.
    pub target: PathBuf,
}

/// How the root file system comes about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rootfs {
    /// Overlay of unpacked layers with a writeable directory.
    Overlay {
        /// Read-only layers, the uppermost first.
        lower: Vec<PathBuf>,
        /// Changes.
        upper: PathBuf,
        /// Scratch directory on the same file system as `upper`.
        work: PathBuf,
    },
    /// A directory used as it is.
    Plain {
        /// The directory.
        path: PathBuf,
    },
}

/// Bounds of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogTarget {
    /// Directory of the log files; survives the run.
    pub dir: PathBuf,
    /// A file is closed when it has reached this many bytes.
    pub max_file_bytes: u64,
    /// So many files are kept, the open one included.
    pub max_files: u32,
}

/// What creates the processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Runtime {
    /// libcontainer, inside the shim's creator process.
    BuiltIn,
    /// A program with runc's command line.
    External {
        /// Absolute path of the program.
        program: PathBuf,
    },
}

/// Why a task could not be started; the classes callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist in the task's file system.
    NotFound,
    /// The program exists and cannot be executed.
    NotExecutable,
    /// User or group unknown.
    User,
    /// A value that this host's kernel does not allow.
    Value,
    /// The task to join is not there or not running.
    NoTask,
    /// Anything else.
    Other,
}

/// A failed start in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Class.
    pub kind: FailureKind,
    /// One sentence for people; names no path of the host where that can be avoided.
    pub reason: String,
}

/// What the shim tells its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First message on each connection: who is there and how far it is.
    Hello {
        /// [`PROTOCOL`] of the shim.
        protocol: u32,
        /// The shim; its namespaces are at `/proc/<pid>/ns`.
        shim: ProcessId,
        /// How far the task is.
        phase: Phase,
        /// Until when it may live, as [`Fence::until_ms`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence_until_ms: Option<u64>,
    },
    /// A call was carried out.
    Done {
        /// Id of the call.
        id: u64,
    },
    /// A call was not carried out.
    Refused {
        /// Id of the call.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// The task runs.
    Started {
        /// Its first process, as the host counts.
        task: ProcessId,
        /// When it was started, nanoseconds since 1970; 0 from a shim that did not tell yet.
        #[serde(default)]
        started_ns: u64,
    },
    /// The log has grown to this offset.
    LogGrew {
        /// End of the log.
        offset: u64,
    },
    /// The task has ended and all its output is in the log.
    Exited {
        /// What is also in `exit.json`.
        exit: ExitRecord,
    },
}

/// How far a shim is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Namespaces are there; nothing was started.
    Prepared,
    /// A start is under way.
    Starting,
    /// The task runs.
    Running {
        /// Its first process.
        task: ProcessId,
        /// When it was started, nanoseconds since 1970; 0 from a shim that did not tell yet.
        #[serde(default)]
        started_ns: u64,
    },
    /// The task could not be started.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The task has ended.
    Exited {
        /// How.
        exit: ExitRecord,
    },
}
