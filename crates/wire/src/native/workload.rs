//! Workloads: what they are made of, what is wanted of them, what was seen of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Reference;

/// A workload of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Workload {
    /// Identity for life, 64 hexadecimal digits.
    pub id: String,
    /// Unique in its pool.
    pub name: String,
    /// The pool that owns it.
    pub pool: Reference,
    /// What is wanted of it: `created`, `running`, `paused`, `stopped` or `removed`.
    pub desired: String,
    /// Counts explicit starts; 0: never started.
    pub run: u64,
    /// Where it is; absent before its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Reference>,
    /// Why it is where it is, or why it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// Why it does not run although that is wanted; absent: nothing keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Hosts it was taken away from that still have to remove what they have of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Left>,
    /// What was last seen of it.
    pub status: Status,
    /// What it is made of.
    pub spec: WorkloadSpec,
    /// Digest of the image it was made from.
    pub image_id: String,
    /// When it was made.
    pub created_at: String,
}

/// Why a workload does not run although that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// What it waits for.
    pub kind: HoldKind,
    /// On whose behalf, or what lacks.
    pub reason: String,
    /// Since when.
    pub since: String,
    /// It is not tried again before this moment.
    pub not_before: String,
}

/// What a held workload waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HoldKind {
    /// For room, in its pool's queue.
    Queued,
    /// For room: it was stopped because what it had borrowed was needed by its owner.
    Parked,
    /// For its end where it is; then it is started on another host.
    Moving,
    /// For the end of those that make room for it.
    Awaiting,
}

/// A host that a workload was taken away from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LeftHost)]
pub struct Left {
    /// The host.
    pub host: Reference,
    /// Since when.
    pub since: String,
}

/// What was last seen of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkloadStatus)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// Process id on its host; 0: none.
    #[serde(default)]
    pub pid: u32,
    /// Exit code of the last run; 128 + signal if killed by one.
    #[serde(default)]
    pub exit_code: i32,
    /// Whether it ran out of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// What went wrong, for people; empty: nothing.
    #[serde(default)]
    pub error: String,
    /// When the last run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When the last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Restarts by policy since the last explicit start.
    #[serde(default)]
    pub restart_count: u32,
    /// IPv4 address; empty: none.
    #[serde(default)]
    pub ip: String,
    /// Published ports with the host port in use.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Progress while it is not yet running.
    #[serde(default)]
    pub progress: String,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Made, never started.
    #[default]
    Created,
    /// Its host has not begun with it.
    Pending,
    /// Its image is being fetched or its root prepared.
    Preparing,
    /// It runs.
    Running,
    /// It runs, frozen.
    Paused,
    /// It waits for its next start by policy.
    Restarting,
    /// It ended.
    Exited,
    /// It could not be started; `error` says why.
    Failed,
    /// Its host cannot be reached.
    Unknown,
}

/// Asks for a new workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadCreate {
    /// Unique in the pool; absent: one is made up.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is made of.
    pub spec: WorkloadSpec,
}

/// What a workload is made of.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WorkloadSpec {
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// Host name inside; empty: from the workload's id.
    pub hostname: String,
    /// How it is attached to the network: `bridge`, `none`, `host` or `workload:<id>`; empty: `bridge`.
    pub network: String,
    /// Ports reachable from outside its host.
    pub ports: Vec<PortMapping>,
    /// Publish every exposed port on a free host port.
    pub publish_all: bool,
    /// Name servers instead of the host's.
    pub dns_servers: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Extra lines of `/etc/hosts`, `name:address`.
    pub extra_hosts: Vec<String>,
    /// What its host does when the task ends.
    pub restart: RestartPolicy,
    /// Remove it when its task has ended for good.
    pub auto_remove: bool,
    /// Which hosts it may be on, and which it would rather be on.
    #[serde(skip_serializing_if = "Placement::is_empty")]
    pub placement: Placement,
    /// What becomes of it when its host is lost, `restart`, `keep` or `at-most-one`; absent: what its pool and its
    /// restart policy say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_host_loss: Option<String>,
    /// Priority among the workloads of its pool, higher is more important; absent: the pool's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Its task.
    pub task: TaskSpec,
}

/// Rules for the choice of a host: `KEY==VALUE` or `KEY!=VALUE`, with `~` before the value if the rule should rather
/// than must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// About the host: `node`, `zone`, `architecture`, `operatingsystem`, `kernelversion` or a label, for example
    /// `zone==a|b`, `disk!=~hdd`; `*` in a value stands for any text.
    pub constraints: Vec<String>,
    /// About what is there: `workload` (name or id), `image` or a label of workloads of the pool, for example
    /// `app!=web`; about the zone with `zone:` before the key.
    pub affinities: Vec<String>,
    /// Workloads of the pool with the same word are spread over zones and hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
}

impl Placement {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// GPUs a task asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gpus {
    /// How many devices.
    pub count: u32,
    /// Thousandths of each of them, 1 to 1000; absent: whole ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis: Option<u32>,
    /// Models that will do; empty: any.
    #[serde(default)]
    pub models: BTreeSet<String>,
    /// These devices only, by UUID or number; empty: any.
    #[serde(default)]
    pub devices: BTreeSet<String>,
    /// What the driver is to offer inside, for example `compute`.
    #[serde(default)]
    pub capabilities: BTreeSet<String>,
}

/// Why a workload is where it is, and what every host would say to it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The host it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What was said when it was placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// The host it would be placed on now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// Rules that would have to be given up for it.
    pub given_up: Vec<String>,
    /// Every host.
    pub hosts: Vec<HostVerdict>,
}

/// What a host would say to a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostVerdict {
    /// Its name.
    pub host: String,
    /// The first filter it fails; absent: it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Why it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its score, if it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<PlacementScore>,
}

/// The score of a host; compared in the order of the fields, less is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacementScore {
    /// Workloads of the same image that could not be started there.
    pub failures: u32,
    /// Workloads like it in its zone.
    pub zone_alike: u32,
    /// Workloads like it on it.
    pub host_alike: u32,
    /// GPU capacity that becomes unusable, in GPUs; only if the pool packs.
    pub fragments: f64,
    /// Load after it is placed and bytes to fetch in one number.
    pub load: f64,
}

/// One process tree with its own root file system.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TaskSpec {
    /// The image by name, digest or id.
    pub image: String,
    /// Program and first arguments; absent: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments; absent: the image's.
    pub args: Option<Vec<String>>,
    /// `NAME=value` pairs beside the image's.
    pub env: Vec<String>,
    /// Folder to start in; empty: the image's.
    pub working_dir: String,
    /// `user[:group]` by name or number; empty: the image's.
    pub user: String,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub stdin_open: bool,
    /// Close its standard input when the first attached client goes.
    pub stdin_once: bool,
    /// Run a small init as process 1.
    pub init: bool,
    /// Signal number that stops it gently; absent: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
    /// Seconds between stop signal and kill; absent: 10.
    pub stop_grace_seconds: Option<u32>,
    /// What it may take.
    pub resources: Resources,
    /// What it may do.
    pub security: Security,
    /// What is mounted into it.
    pub mounts: Vec<Mount>,
    /// Host devices handed in.
    pub devices: Vec<Device>,
    /// GPUs it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Process limits.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm`; absent: 64 MiB.
    pub shm_bytes: Option<u64>,
    /// OCI runtime by name; absent: the built-in one.
    pub runtime: Option<String>,
    /// Ports it listens on, `80/tcp`, beside the image's.
    pub exposed_ports: BTreeSet<String>,
}

/// A port of a workload reachable at its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortMapping {
    /// Port inside.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: Protocol,
    /// Address on the host; empty: all.
    #[serde(default)]
    pub host_ip: String,
    /// Port on the host; absent: a free one.
    #[serde(default)]
    pub host_port: Option<u16>,
}

/// Transport protocols that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What a host does when a task ends, without asking the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "policy")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start again.
    Always,
    /// Start again, unless a person stopped it.
    UnlessStopped,
    /// Start again if the exit code is not zero.
    OnFailure {
        /// Highest number of restarts; 0: without bound.
        #[serde(default)]
        max_retries: u32,
    },
}

/// What a task may take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Resources {
    /// CPU that placement and the pool count, thousandths of a core.
    pub request_cpu_millis: Option<u64>,
    /// Memory that placement and the pool count.
    pub request_memory_bytes: Option<u64>,
    /// Hard memory limit.
    pub memory_limit_bytes: Option<u64>,
    /// Memory and swap together; -1: no limit.
    pub memory_swap_bytes: Option<i64>,
    /// CPU limit, thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Weight inside the pool, 2 to 262144; 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// CPUs it may use, for example `0-1,3`.
    pub cpuset_cpus: Option<String>,
    /// Highest number of processes.
    pub pids_limit: Option<i64>,
}

/// What a task may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Security {
    /// All devices and capabilities, nothing masked; only if the pool's policy allows it.
    pub privileged: bool,
    /// Capabilities added, `CAP_…` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken away, `CAP_…` or `ALL`.
    pub cap_drop: Vec<String>,
    /// Whether gaining privileges by set-uid programs is impossible.
    pub no_new_privileges: bool,
    /// Whether the root file system is read-only.
    pub readonly_rootfs: bool,
}

/// Something mounted into a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    /// Absolute path inside.
    pub target: String,
    /// Whether it is read-only.
    #[serde(default)]
    pub read_only: bool,
    /// What is mounted.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum MountSource {
    /// A folder or file of the host; only if the pool's policy allows it.
    HostPath {
        /// Absolute path on the host.
        path: String,
    },
    /// A named volume of the pool.
    Volume {
        /// Its name; empty: an anonymous one that goes with the workload.
        #[serde(default)]
        name: String,
    },
    /// Memory.
    Tmpfs {
        /// Size; absent: half of the memory.
        #[serde(default)]
        size_bytes: Option<u64>,
    },
}

/// A host device handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Path on the host.
    pub host_path: String,
    /// Path inside.
    pub path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A process limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ulimit {
    /// For example `nofile`.
    pub name: String,
    /// Soft limit; -1: none.
    pub soft: i64,
    /// Hard limit; -1: none.
    pub hard: i64,
}

/// Changes a workload; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadUpdate {
    /// All of what it may take.
    pub resources: Option<Resources>,
    /// What its host does when the task ends.
    pub restart: Option<RestartPolicy>,
}

/// Starts a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StartRequest {
    /// If there is no room for it now, it waits in its pool's queue instead of failing.
    pub queue: bool,
}

/// Stops or restarts a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Seconds before it is killed; absent: the workload's own; negative: for ever.
    pub grace_seconds: Option<i64>,
    /// Signal number instead of the workload's own stop signal.
    pub signal: Option<i32>,
}

/// Sends a signal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KillRequest {
    /// Signal number; absent: 9 (SIGKILL).
    pub signal: Option<i32>,
}

/// Gives a workload another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// Unique in the pool.
    pub name: String,
}

/// Whether a request changed anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// `false`: it was so already.
    pub changed: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitCondition {
    /// It does not run.
    #[default]
    NotRunning,
    /// Its next end.
    NextExit,
    /// It is gone.
    Removed,
}

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitOutcome {
    /// Exit code; 128 + signal if killed by one.
    pub exit_code: i32,
    /// What went wrong, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A further process in a running task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecCreate {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Additional `NAME=value` pairs.
    pub env: Vec<String>,
    /// Folder to start in; empty: the task's.
    pub working_dir: String,
    /// User and group; empty: the task's.
    pub user: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether input will be sent.
    pub stdin: bool,
    /// All capabilities; only if the pool's policy allows it.
    pub privileged: bool,
}

/// A further process, as made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecCreated {
    /// Names it; 64 hexadecimal digits.
    pub id: String,
}

/// A further process, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exec {
    /// Names it.
    pub id: String,
    /// The workload it runs in.
    pub workload: String,
    /// Whether it runs.
    pub running: bool,
    /// How it ended; absent: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Process id on the host; 0: none.
    pub pid: u32,
}

/// Processes of a workload as `ps` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Top {
    /// Column titles.
    pub titles: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// Measures of a workload, one line of the stats stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Stats {
    /// When it was read.
    pub read_at: String,
    /// The same in milliseconds since the epoch.
    pub read_ms: i64,
    /// CPU time used, nanoseconds.
    pub cpu_total_ns: u64,
    /// CPU time of the whole host since boot, nanoseconds.
    pub host_cpu_ns: u64,
    /// CPUs of the host.
    pub cpus: u32,
    /// Memory in use without page cache that can be dropped at once.
    pub memory_bytes: u64,
    /// Limit that applies.
    pub memory_limit_bytes: u64,
    /// Processes.
    pub pids: u64,
    /// Bytes read from block devices.
    pub block_read_bytes: u64,
    /// Bytes written to block devices.
    pub block_write_bytes: u64,
    /// Bytes received from the network.
    pub network_rx_bytes: u64,
    /// Bytes sent to the network.
    pub network_tx_bytes: u64,
}
