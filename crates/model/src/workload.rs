//! Workloads: what is placed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    Capacity, Endpoint, EndpointSpec, GpuRequest, GpuShare, HostId, HostLoss, ImageId, Mac, Name,
    NetworkId, PlacementSpec, PoolId, Timestamp, WorkloadId,
};

/// A workload: its specification, what is wanted of it, where it is, and what was last seen of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Identity for life.
    pub id: WorkloadId,
    /// The pool that owns it.
    pub pool: PoolId,
    /// Unique in its pool.
    pub name: Name,
    /// What it is made of.
    pub spec: WorkloadSpec,
    /// What is wanted of it now.
    pub desired: DesiredState,
    /// Counts explicit starts; 0 means never started. The host runs a task at most once per number, apart from what
    /// the restart policy asks for.
    pub run: u64,
    /// Where it was placed; `None` before its first start.
    pub host: Option<HostId>,
    /// Why it is where it is, or why it is pending: the placement's report in one sentence.
    #[serde(default)]
    pub placement: Option<String>,
    /// GPUs of its host that it has got, while it has a place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuShare>,
    /// Its attachments to networks of its pool. Empty before its first start if it came from a time without networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Why it does not run although that is wanted; `None`: nothing keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Hosts it was taken away from that have not yet said that nothing of it is left there, each with when. They are
    /// told to remove it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<HostId, Timestamp>,
    /// How it was parked and moved before, for pauses and cooldowns.
    #[serde(default, skip_serializing_if = "Displaced::is_never")]
    pub displaced: Displaced,
    /// Last observed state of its task.
    #[serde(default)]
    pub status: TaskStatus,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Workload {
    /// Whether it counts as a load of its host: it runs, or is to run.
    #[must_use]
    pub fn takes_room(&self) -> bool {
        match (self.desired, self.hold.as_ref().map(|hold| &hold.kind)) {
            (DesiredState::Running | DesiredState::Paused, None) => {
                !self.status.phase.is_final() || self.status.run < self.run
            }
            // Its room is kept while others clear it.
            (DesiredState::Running | DesiredState::Paused, Some(HoldKind::Awaiting { .. })) => true,
            (
                DesiredState::Running | DesiredState::Paused,
                Some(HoldKind::Queued | HoldKind::Parked | HoldKind::Moving),
            )
            | (DesiredState::Created | DesiredState::Stopped { .. } | DesiredState::Removed, _) => {
                self.status.phase.is_alive()
            }
        }
    }

    /// Whether its pool is charged what it asks for: it takes room, or it moves. Between its end on one host and its
    /// start on another it keeps its claim, so that nobody else takes its pool's room meanwhile.
    #[must_use]
    pub fn keeps_claim(&self) -> bool {
        let wanted = matches!(self.desired, DesiredState::Running | DesiredState::Paused);
        let moves = self
            .hold
            .as_ref()
            .is_some_and(|hold| hold.kind == HoldKind::Moving);
        self.takes_room() || (wanted && moves)
    }

    /// What is wanted of it on its host, its hold taken into account.
    #[must_use]
    pub fn wanted_on_host(&self) -> DesiredState {
        match (self.desired, &self.hold) {
            (DesiredState::Running | DesiredState::Paused, Some(_)) if self.run == 0 => {
                DesiredState::Created
            }
            // The host that others clear for it has nothing of it yet.
            (
                DesiredState::Running | DesiredState::Paused,
                Some(Hold {
                    kind: HoldKind::Awaiting { .. },
                    ..
                }),
            ) => DesiredState::Created,
            (DesiredState::Running | DesiredState::Paused, Some(hold)) => DesiredState::Stopped {
                grace_seconds: Some(hold.grace_seconds),
                signal: None,
            },
            (desired, _) => desired,
        }
    }

    /// Whether a process of it may exist on its host.
    #[must_use]
    pub fn may_be_alive(&self) -> bool {
        self.run > 0 && (self.status.run < self.run || !self.status.phase.is_final())
    }
}

/// Why a workload does not run although that is wanted, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What it waits for.
    #[serde(flatten)]
    pub kind: HoldKind,
    /// For people: on whose behalf, or what lacks.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Not tried again before this moment.
    pub not_before: Timestamp,
    /// How long its task may take to end after its stop signal, in seconds.
    #[serde(default)]
    pub grace_seconds: u32,
}

/// What a held workload waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum HoldKind {
    /// For room, in its pool's queue; its next run was not begun.
    Queued,
    /// For room: it was stopped because what it had borrowed was needed by its owner.
    Parked,
    /// For its end where it is; then it is started on another host.
    Moving,
    /// For the end of those that make room for it; its room is charged already.
    Awaiting {
        /// Who they are.
        victims: BTreeSet<WorkloadId>,
    },
}

/// How often and when a workload was taken from its place by the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Displaced {
    /// Times it was parked without a long healthy run between: its pause grows with it.
    pub parks: u32,
    /// When it was parked last.
    pub parked_at: Option<Timestamp>,
    /// When it was moved last.
    pub moved_at: Option<Timestamp>,
}

impl Displaced {
    /// Whether it never was.
    #[must_use]
    pub fn is_never(&self) -> bool {
        *self == Self::default()
    }
}

/// What is wanted of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum DesiredState {
    /// Made, never started.
    Created,
    /// Its current run is to be running, as far as the restart policy says.
    Running,
    /// Running, but frozen.
    Paused,
    /// Not running.
    Stopped {
        /// How long the task may take after its stop signal before it is killed, in seconds; `None`: for ever.
        grace_seconds: Option<u32>,
        /// Signal number instead of the workload's own stop signal.
        #[serde(default)]
        signal: Option<i32>,
    },
    /// To be stopped at once and deleted with everything that belongs to it; the record goes when the host says so.
    Removed,
}

/// What a workload is made of. A Docker container lowers to a workload with one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Host name inside; empty: the first twelve digits of the workload's id.
    #[serde(default)]
    pub hostname: String,
    /// NIS domain name inside.
    #[serde(default)]
    pub domainname: String,
    /// How it is attached to the network.
    #[serde(default)]
    pub network: NetworkMode,
    /// The networks it is on from its creation, with [`NetworkMode::Bridge`]; empty: its pool's default one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<EndpointSpec>,
    /// Ports reachable from outside its host.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Publish every exposed port on a free host port.
    #[serde(default)]
    pub publish_all: bool,
    /// Resolver settings; empty lists: the host's own.
    #[serde(default)]
    pub dns: DnsSpec,
    /// Extra lines of `/etc/hosts`: name and address (`host-gateway` for the host itself).
    #[serde(default)]
    pub extra_hosts: Vec<(String, String)>,
    /// What the host does when the task ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Remove the workload when its task has ended for good.
    #[serde(default)]
    pub auto_remove: bool,
    /// Which hosts it may be on, and which it would rather be on.
    #[serde(default, skip_serializing_if = "PlacementSpec::is_empty")]
    pub placement: PlacementSpec,
    /// What becomes of it when its host is lost; `None`: what its pool and its restart policy say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_host_loss: Option<HostLoss>,
    /// Priority among the workloads of its pool, higher is more important; `None`: the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Its task.
    pub task: TaskSpec,
}

/// One process tree with its own root file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The image as the user named it.
    pub image: String,
    /// The image it was resolved to at creation.
    pub image_id: ImageId,
    /// Program and first arguments, defaults of the image applied; may be empty if `args` is not.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments, defaults of the image applied.
    #[serde(default)]
    pub args: Vec<String>,
    /// `NAME=value` pairs, the image's first.
    #[serde(default)]
    pub env: Vec<String>,
    /// Folder to start in; empty: `/`.
    #[serde(default)]
    pub working_dir: String,
    /// User and group by name or number, `user[:group]`; empty: root.
    #[serde(default)]
    pub user: String,
    /// Supplementary groups by name or number.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether its standard input is open.
    #[serde(default)]
    pub stdin_open: bool,
    /// Close its standard input when the first attached client goes.
    #[serde(default)]
    pub stdin_once: bool,
    /// Run a small init as process 1 that forwards signals and reaps.
    #[serde(default)]
    pub init: bool,
    /// Signal number that stops it gently; `None`: the image's, else SIGTERM.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// Seconds between stop signal and kill; `None`: 10.
    #[serde(default)]
    pub stop_grace_seconds: Option<u32>,
    /// What it may take.
    #[serde(default)]
    pub resources: Resources,
    /// What it may do.
    #[serde(default)]
    pub security: Security,
    /// What is mounted into it.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Host devices handed in.
    #[serde(default)]
    pub devices: Vec<DeviceMapping>,
    /// GPUs it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<GpuRequest>,
    /// Kernel parameters of its namespaces.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Process limits.
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes; `None`: [`MEMORY_FILES_BYTES`].
    #[serde(default)]
    pub shm_bytes: Option<u64>,
    /// How its output is kept.
    #[serde(default)]
    pub log: LogSpec,
    /// OCI runtime by name; `None`: the built-in one.
    #[serde(default)]
    pub runtime: Option<String>,
    /// Namespace modes other than private.
    #[serde(default)]
    pub namespaces: NamespaceModes,
    /// Ports the image or user says it listens on, `80/tcp`.
    #[serde(default)]
    pub exposed_ports: BTreeSet<String>,
}

/// Size of a memory file system for which nothing else was said, in bytes (Docker's size of `/dev/shm`).
pub const MEMORY_FILES_BYTES: u64 = 64 << 20;

impl TaskSpec {
    /// Size of `/dev/shm` in bytes.
    #[must_use]
    pub fn shm_size(&self) -> u64 {
        self.shm_bytes.unwrap_or(MEMORY_FILES_BYTES)
    }

    /// Size in bytes of a tmpfs that was given `size`; `None`: bounded by nothing but the memory limit, which its pages
    /// count against. Without a limit they would be bounded by nothing, and have [`MEMORY_FILES_BYTES`].
    #[must_use]
    pub fn tmpfs_size(&self, size: Option<u64>) -> Option<u64> {
        match (size, self.resources.memory_limit) {
            (Some(size), _) => Some(size),
            (None, Some(_)) => None,
            (None, None) => Some(MEMORY_FILES_BYTES),
        }
    }
}

/// How a workload is attached to the network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum NetworkMode {
    /// On networks of its pool.
    #[default]
    Bridge,
    /// Only loopback.
    None,
    /// The host's own network; only if the pool's policy allows it.
    Host,
    /// The network namespace of another workload of the same pool on the same host.
    Workload {
        /// The other one.
        id: WorkloadId,
    },
}

/// A port of a workload reachable at its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Port inside.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address on the host; empty: all.
    #[serde(default)]
    pub host_ip: String,
    /// Port on the host; `None`: a free one is chosen there.
    #[serde(default)]
    pub host_port: Option<u16>,
}

/// Transport protocols that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// Resolver settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsSpec {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// `resolv.conf` options.
    pub options: Vec<String>,
}

/// What a host does when a task ends, without asking the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "policy")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start again, also after a reboot of the host.
    Always,
    /// As `Always`, unless a person stopped it.
    UnlessStopped,
    /// Start again if the exit code is not zero, at most so often (0: without bound).
    OnFailure {
        /// Highest number of restarts.
        max_retries: u32,
    },
}

/// What a task may take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What placement and pools count; what is `None` comes from the pool's defaults.
    pub request: ResourceRequest,
    /// Hard memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// Memory and swap together in bytes; -1: no limit.
    pub memory_swap: Option<i64>,
    /// Memory that is protected under pressure, in bytes.
    pub memory_reservation: Option<u64>,
    /// Willingness to swap, 0 to 100.
    pub memory_swappiness: Option<u8>,
    /// Whether the kernel may not kill it when memory runs out.
    pub oom_kill_disable: bool,
    /// Preference of the kernel's out-of-memory killer, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// CPU limit in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// CFS period in microseconds, with `cpu_quota_us`, instead of `cpu_limit_millis`.
    pub cpu_period_us: Option<u64>,
    /// CFS quota in microseconds per period.
    pub cpu_quota_us: Option<i64>,
    /// Weight inside the pool, 2 to 262144; 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// CPUs it may use, for example `0-1,3`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Highest number of processes; `None` or less than 1: no limit of its own.
    pub pids_limit: Option<i64>,
    /// Block I/O weight, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// What is charged if nothing above says; from the pool's defaults.
    #[serde(skip_serializing_if = "ResourceRequest::is_empty")]
    pub fallback: ResourceRequest,
}

/// Charged to the pool and counted by placement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRequest {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
}

impl ResourceRequest {
    /// Whether nothing is requested.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Resources {
    /// What is charged: the request, else the memory reservation, else the limit, else the pool's default.
    #[must_use]
    pub fn charge(&self) -> Capacity {
        let memory = self
            .request
            .memory_bytes
            .or(self.memory_reservation)
            .or(self.memory_limit)
            .or(self.fallback.memory_bytes);
        let cpu = self
            .request
            .cpu_millis
            .or(self.cpu_limit())
            .or(self.fallback.cpu_millis);
        Capacity {
            cpu: crate::CpuMillis(cpu.unwrap_or(0)),
            memory: crate::MemoryBytes(memory.unwrap_or(0)),
        }
    }

    /// Thousandths of a core it may take, by limit or quota.
    fn cpu_limit(&self) -> Option<u64> {
        /// The kernel's default period.
        const PERIOD_US: u64 = 100_000;
        self.cpu_limit_millis.or_else(|| {
            let quota = u64::try_from(self.cpu_quota_us?)
                .ok()
                .filter(|it| *it > 0)?;
            let period = self.cpu_period_us.filter(|it| *it > 0).unwrap_or(PERIOD_US);
            Some(crate::amount::scale(quota, 1000, period))
        })
    }
}

/// What a task may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// All devices, all capabilities, nothing masked; only if the pool's policy allows it.
    pub privileged: bool,
    /// Capabilities added to the default set, `CAP_…` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set, `CAP_…` or `ALL`.
    pub cap_drop: Vec<String>,
    /// Whether gaining privileges by set-uid programs is impossible.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Whether the root file system is read-only.
    pub readonly_rootfs: bool,
    /// Paths hidden from the task; `None`: the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths read-only for the task; `None`: the default list.
    pub readonly_paths: Option<Vec<String>>,
}

/// System call filter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "profile", content = "json")]
pub enum Seccomp {
    /// The built-in allow list.
    #[default]
    Default,
    /// None; only if the pool's policy allows it.
    Unconfined,
    /// An own one, in Docker's JSON form; only if the pool's policy allows it.
    Custom(String),
}

/// Something mounted into a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum MountSource {
    /// A folder or file of the host; only if the pool's policy allows it.
    HostPath {
        /// Absolute path on the host.
        path: String,
        /// Mount propagation, for example `rprivate`; empty: that.
        #[serde(default)]
        propagation: String,
        /// Make the folder if it is missing.
        #[serde(default)]
        create: bool,
    },
    /// A named volume of the pool, local to the workload's host (volumes proper are a later issue).
    Volume {
        /// Name in the pool; empty: an anonymous one that goes with the workload.
        name: String,
        /// Whether content of the image at the target is not copied into an empty volume.
        #[serde(default)]
        no_copy: bool,
    },
    /// Memory.
    Tmpfs {
        /// Size in bytes; `None`: see [`TaskSpec::tmpfs_size`].
        #[serde(default)]
        size_bytes: Option<u64>,
        /// Permission bits.
        #[serde(default)]
        mode: Option<u32>,
        /// Further options out of a closed list (`exec`, `noexec`, `suid`, `nosuid`, `dev`, `nodev`, `uid=`, `gid=`).
        #[serde(default)]
        options: Vec<String>,
    },
}

/// A host device handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Path on the host.
    pub host_path: String,
    /// Path inside.
    pub path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A process limit (`getrlimit(2)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// For example `nofile`.
    pub name: String,
    /// Soft limit; -1: none.
    pub soft: i64,
    /// Hard limit; -1: none.
    pub hard: i64,
}

/// How a task's output is kept on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// Whether it is kept at all (Docker's `none` driver keeps nothing).
    pub keep: bool,
    /// Highest size of one file in bytes.
    pub max_file_bytes: u64,
    /// Highest number of files; older output is dropped.
    pub max_files: u32,
}

impl Default for LogSpec {
    /// 5 files of 10 MiB: a runaway task cannot fill its host, and a day of ordinary output is kept.
    fn default() -> Self {
        Self {
            keep: true,
            max_file_bytes: 10 << 20,
            max_files: 5,
        }
    }
}

/// Namespace modes other than private; all need the pool's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceModes {
    /// Share the host's process ids.
    pub host_pid: bool,
    /// Share the host's IPC objects.
    pub host_ipc: bool,
    /// Share the host's host name.
    pub host_uts: bool,
}

/// What was last seen of a workload's task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// The run this is about.
    pub run: u64,
    /// Process id on its host; 0: none.
    pub pid: u32,
    /// Exit code of the last run; 128 + signal if killed by one. 0 while it has not ended.
    pub exit_code: i32,
    /// Whether the kernel killed a process of it because memory ran out.
    pub oom_killed: bool,
    /// Whether its host ended it because no server was heard, and it may run on one host only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// What went wrong, for people; empty: nothing.
    pub error: String,
    /// When the last run began.
    pub started_at: Option<Timestamp>,
    /// When the last run ended.
    pub finished_at: Option<Timestamp>,
    /// Restarts by policy since the last explicit start.
    pub restart_count: u32,
    /// Its address, gateway and ports as they are now.
    pub network: NetworkStatus,
    /// Progress for people while it is not yet running, for example `fetching layer 2 of 5`.
    pub progress: String,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its host has not begun with it.
    #[default]
    Pending,
    /// Its image is being fetched or its root prepared.
    Preparing,
    /// It runs.
    Running,
    /// It runs, frozen.
    Paused,
    /// It waits for its next start by policy.
    Restarting,
    /// It ended; exit code and times are known.
    Exited,
    /// It could not be started; `error` says why.
    Failed,
    /// Its host cannot be reached: what is said here may be out of date.
    Unknown,
}

impl Phase {
    /// Whether a process of it exists.
    #[must_use]
    pub fn is_alive(self) -> bool {
        match self {
            Phase::Running | Phase::Paused => true,
            Phase::Pending
            | Phase::Preparing
            | Phase::Restarting
            | Phase::Exited
            | Phase::Failed
            | Phase::Unknown => false,
        }
    }

    /// Whether the run is over and will not begin again by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Phase::Exited | Phase::Failed => true,
            Phase::Pending
            | Phase::Preparing
            | Phase::Running
            | Phase::Paused
            | Phase::Restarting
            | Phase::Unknown => false,
        }
    }
}

/// A workload's attachment as its host made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStatus {
    /// IPv4 address.
    pub ip: String,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: String,
    /// Hardware address.
    pub mac: String,
    /// Published ports with the host port in use.
    pub ports: Vec<PortMapping>,
    /// Networks it is on, with its addresses there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<NetworkId, EndpointStatus>,
}

/// A workload's attachment to a network as its host made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Address.
    pub address: Ipv4Addr,
    /// Hardware address.
    pub mac: Mac,
}
