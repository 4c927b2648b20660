//! The host protocol: what server and host say to each other.
//!
//! The host dials the server and keeps one HTTP/2 connection (TLS, both sides with certificates). On it:
//!
//! - `POST /link/v1/session`: the request body carries [`FromHost`] messages, the response body [`ToHost`] messages,
//!   each as a length (4 bytes, big endian) and JSON. It lives as long as the connection.
//! - `POST /link/v1/streams/{id}`: opened by the host when the server says [`ToHost::OpenStream`]; both bodies carry
//!   [`Frame`]s. The host's first frame is [`FrameKind::Json`] with a [`StreamReply`]. What follows depends on the
//!   [`StreamRequest`], see there. The stream ends with [`FrameKind::End`] in each direction.
//! - `GET /link/v1/blobs/{digest}`: a blob of an image that a workload placed on this host needs, or that this host is
//!   to fetch ([`HostDesired::fetch_images`](model::HostDesired)), relayed from a host that has it: a configuration, a
//!   layer as the image lists it, or a layer uncompressed, by the digest of that. Plain bytes; what turns out not to be
//!   of this digest breaks off before its end, and asking again goes to another host if there is one.
//! - `POST /link/v1/renew`: a [`RenewRequest`] answered by an [`Identity`].
//! - `POST /link/v1/join`: without a client certificate; a [`JoinRequest`] answered by an [`Identity`].
//!
//! All but `join` answer 410 to a host that was removed from the installation, and 401 to an unknown certificate.
//!
//! # Leases
//!
//! What may run on one host only is ended by its host when the host has no lease any more ([`HostWorkload::fence_ms`]).
//! Leases are given with heartbeats: the host numbers them ([`FromHost::Heartbeat`]), and a server answers each with how
//! old its confirmed knowledge of the store was at that moment ([`ToHost::Heartbeat`]). The host may then go on until
//! *(when it sent that heartbeat) − `fresh_ms` + `fence_ms`*, measured on its own clock that also counts a suspend
//! ([`crate::boot`]). Whichever server's answer reaches furthest counts.
//!
//! Why a workload is never started elsewhere before its lease is over. Let *T* be the time after which servers take a
//! host as lost; `fence_ms` is less than *T*, by enough to kill the task and for clocks that do not run alike. A server
//! answers with a lease only if the host is connected and not lost both in its newest snapshot and in the one it
//! confirmed: a snapshot that held everything committed before a moment *c*, and of which the host was told everything,
//! on this very session, before the answer. The lease then ends no later than *c* + `fence_ms`. A workload is moved away
//! only by a transaction that expects the record of its host that says *not connected*, unchanged since it was committed
//! at a moment *d*, and not before *d* + *T*. If the confirmed snapshot is older than that record, *c* < *d*, and the
//! lease ends before the move. If it is newer than the record but older than the move, it shows *not connected*, and there
//! is no lease. If it holds the move, the host was told to remove the workload before it got the lease. No clocks are
//! compared for this, and no leases or locks of the store are trusted: the comparison is part of the move's transaction.
//!
//! The time *d* + *T* may be brought forward by how long the host had been silent when its record was written
//! (`HostStatus::silent_ms`), because leases count from the moment their heartbeat was sent, which is before it was
//! heard. That holds for what one server has heard; so a server whose store others share too says 0 there.
//!
//! What always holds: the meaning of the desired state is the whole document with its generation
//! ([`DesiredUpdate`]); every message can be repeated; a message longer than [`MESSAGE_MAX_BYTES`] or a frame longer
//! than [`FRAME_MAX_BYTES`] ends the connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::host::WorkloadReport;
use model::{
    Digest, HostDesired, HostFacts, HostId, HostNetwork, HostPeer, HostPool, HostWorkload, Image,
    ImageConfig, ImageContent, ImageId, NetworkId, PoolId, PoolUsage, WorkloadId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of this protocol; a server refuses a host with a higher one.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest message of a session, in bytes: a document of 10,000 workloads is about 30 MB.
pub const MESSAGE_MAX_BYTES: usize = 64 << 20;

/// Longest frame of a stream, in bytes: large enough for throughput, small enough to interleave.
pub const FRAME_MAX_BYTES: usize = 1 << 20;

/// How often a host sends a heartbeat, whatever else it says, and a server on an idle session, in seconds.
pub const HEARTBEAT_SECONDS: u64 = 2;

/// How often a host sends a heartbeat while something on it lives by its leases, in seconds: a lost second must not end
/// it.
pub const LEASE_SECONDS: u64 = 1;

/// How often a host measures what its pools use, in seconds.
pub const MEASURE_SECONDS: u64 = 2;

/// After how long without a word the other side is taken as gone, in seconds.
pub const SILENCE_SECONDS: u64 = 7;

/// What a host says on its session.
#[expect(
    clippy::large_enum_variant,
    reason = "one hello per session; everything else is small and short-lived"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum FromHost {
    /// The first message.
    Hello(Hello),
    /// The document of this generation is in the host's ledger: it will be carried out even if the server is gone.
    Accepted {
        /// Its number.
        generation: u64,
    },
    /// What was observed of workloads since the last report; after [`FromHost::Hello`] the first one names all.
    Status {
        /// One entry per workload.
        reports: Vec<WorkloadReport>,
        /// Whether this names every workload on the host.
        complete: bool,
    },
    /// Images that are complete on the host; sent when the set changes.
    Images {
        /// All of them.
        images: BTreeSet<ImageId>,
    },
    /// What the pools do on the host; sent every [`MEASURE_SECONDS`].
    Pools {
        /// Generation of the document whose parts of pools are in force; 0: none.
        applied: u64,
        /// Every pool that has a part or a task there.
        usage: BTreeMap<PoolId, PoolUsage>,
    },
    /// Still here; sent every [`HEARTBEAT_SECONDS`] or [`LEASE_SECONDS`], and answered at once.
    Heartbeat {
        /// Counts the heartbeats of this session, from 1; 0: from a host that does not count.
        #[serde(default)]
        number: u64,
    },
}

/// A host's first message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the host.
    pub protocol: u32,
    /// Machine and system.
    pub facts: HostFacts,
    /// Generation of the document in its ledger; 0: none.
    pub generation: u64,
    /// Images that are complete on it.
    pub images: BTreeSet<ImageId>,
}

/// What a server says on a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum ToHost {
    /// The answer to [`Hello`].
    Welcome {
        /// Who the server takes the host for.
        host: HostId,
        /// [`PROTOCOL_VERSION`] of the server.
        protocol: u32,
    },
    /// Desired state.
    Desired(DesiredUpdate),
    /// Asks the host to open a stream.
    OpenStream {
        /// Unguessable id, valid once.
        id: String,
        /// What the stream is for.
        request: StreamRequest,
    },
    /// Still here.
    Heartbeat {
        /// The newest heartbeat of the host that this answers; 0: none.
        #[serde(default)]
        number: u64,
        /// How old the server's confirmed knowledge of its store is, in milliseconds; `None`: it gives no lease.
        #[serde(default)]
        fresh_ms: Option<u64>,
    },
}

/// A document of desired state, whole or as the difference to an earlier one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DesiredUpdate {
    /// Generation this is a difference to; `None`: the document is whole.
    pub base: Option<u64>,
    /// Number of the document that results.
    pub generation: u64,
    /// Workloads that are new or changed; all if whole.
    pub upsert: BTreeMap<WorkloadId, Arc<HostWorkload>>,
    /// Workloads that are no longer in the document.
    pub remove: BTreeSet<WorkloadId>,
    /// Images to drop, each with the revision of the order; always whole.
    #[serde(deserialize_with = "model::host::drop_orders")]
    pub drop_images: BTreeMap<ImageId, u64>,
    /// Images to fetch because too few hosts have them, always whole; `None`: as before.
    #[serde(default)]
    pub fetch_images: Option<BTreeMap<ImageId, Arc<Image>>>,
    /// What of each pool the host may give, always whole; `None`: as before.
    #[serde(default)]
    pub pools: Option<BTreeMap<PoolId, HostPool>>,
    /// What changed of networks; all of them if whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<NetworkId, NetworkUpdate>,
}

impl DesiredUpdate {
    /// A document as an update that stands for itself.
    #[must_use]
    pub fn whole(document: &HostDesired) -> Self {
        let networks = document.networks.iter();
        Self {
            base: None,
            generation: document.generation,
            upsert: document.workloads.clone(),
            remove: BTreeSet::new(),
            drop_images: document.drop_images.clone(),
            fetch_images: Some(document.fetch_images.clone()),
            pools: Some(document.pools.clone()),
            networks: networks
                .map(|(id, network)| (id.clone(), NetworkUpdate::Whole(network.clone())))
                .collect(),
        }
    }
}

/// What changed of a network: who came and went, so that a network of many workloads is not sent for each of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum NetworkUpdate {
    /// The host's first workload came onto it: all that is to be known.
    Whole(HostNetwork),
    /// Others came or went.
    Peers {
        /// Who is new or changed.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        upsert: BTreeMap<WorkloadId, Arc<HostPeer>>,
        /// Who is gone.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        remove: BTreeSet<WorkloadId>,
    },
    /// The host's last workload has left it.
    Gone,
}

impl NetworkUpdate {
    /// Makes the change in what is known of networks. `false`: it changes a network that is not known.
    pub fn apply(&self, id: &NetworkId, networks: &mut BTreeMap<NetworkId, HostNetwork>) -> bool {
        match self {
            Self::Whole(network) => {
                networks.insert(id.clone(), network.clone());
            }
            Self::Gone => {
                networks.remove(id);
            }
            Self::Peers { upsert, remove } => {
                let Some(network) = networks.get_mut(id) else {
                    return false;
                };
                for id in remove {
                    network.peers.remove(id);
                }
                for (id, peer) in upsert {
                    network.peers.insert(id.clone(), Arc::clone(peer));
                }
            }
        }
        true
    }

    /// Whether what is known of networks is what the change leads to, as far as it tells.
    #[must_use]
    pub fn agrees(&self, id: &NetworkId, networks: &BTreeMap<NetworkId, HostNetwork>) -> bool {
        match (self, networks.get(id)) {
            (Self::Whole(network), Some(known)) => known == network,
            (Self::Gone, known) => known.is_none(),
            (Self::Peers { upsert, remove }, Some(known)) => {
                let has = |(id, peer)| known.peers.get(id) == Some(peer);
                let lacks = |id| upsert.contains_key(id) || !known.peers.contains_key(id);
                upsert.iter().all(has) && remove.iter().all(lacks)
            }
            (Self::Whole(_) | Self::Peers { .. }, None) => false,
        }
    }
}

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum StreamRequest {
    /// Output of a task, and optionally its input. Host sends `Stdout`/`Stderr` frames (with [`FollowRequest::details`]
    /// each preceded by nothing: times travel in the frame's own header, see [`Frame`]), then `End`. Server sends
    /// `Stdin` frames and `EndInput` if `stdin` is set.
    Follow(FollowRequest),
    /// Runs a further process in a task. Frames as with `Follow` with stdin; before `End` the host sends a `Json`
    /// frame with an [`ExecExit`]. The server answers that frame with `End`: until then, or for a while, the host
    /// keeps what [`StreamRequest::ExecResume`] asks for.
    Exec(ExecRequest),
    /// Goes on with an exec whose stream broke off. Frames as with `Exec`.
    ExecResume(ExecResume),
    /// Changes the terminal size of a task or exec. Only the reply.
    Resize {
        /// The workload.
        id: WorkloadId,
        /// The exec; `None`: the task itself.
        exec: Option<String>,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Sends a signal to the first process of a task. Only the reply.
    Signal {
        /// The workload.
        id: WorkloadId,
        /// Signal number.
        signal: i32,
    },
    /// Measures. Host sends a `Json` frame with [`TaskStats`] at once and, with `follow`, one every second.
    Stats {
        /// The workload.
        id: WorkloadId,
        /// Go on until the server ends the stream.
        follow: bool,
    },
    /// Lists processes. The reply is followed by one `Json` frame with a [`ProcessTable`].
    Top {
        /// The workload.
        id: WorkloadId,
        /// Arguments for `ps`; empty: `-ef`.
        ps_args: String,
    },
    /// Pulls an image. Host sends `Json` frames with [`ImageProgress`], then one with an [`ImportResult`]. The server
    /// answers with a `Json` frame with an [`ImportRecorded`]; then the host sends `End`. In between the host deletes
    /// none of the images, whatever its document says.
    Pull(PullRequest),
    /// Asks a registry whether it accepts credentials. Only the reply.
    Login(LoginRequest),
    /// Loads archives. Server sends `Data` frames and `EndInput`; host answers as with `Pull`.
    Load,
    /// Writes an archive of images. Host sends `Data` frames.
    Save {
        /// What to write, with the names to write them under.
        images: Vec<SaveImage>,
    },
    /// Sends a blob. Host sends `Data` frames.
    Blob {
        /// Which.
        digest: Digest,
    },
}

/// Which output of a task, and whether to attach input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowRequest {
    /// The workload.
    pub id: WorkloadId,
    /// Where to begin.
    pub from: FollowFrom,
    /// Stop at this time (milliseconds since the epoch).
    pub until_ms: Option<i64>,
    /// Go on with new output until the task's run has ended.
    pub follow: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
    /// Whether the server will send input.
    pub stdin: bool,
    /// Wait for this run to begin; with [`FollowFrom::Run`]. Ends at once if the run cannot begin any more.
    pub run: Option<u64>,
    /// Whether frames say where they end and how much input was taken, see [`Frame::position`].
    #[serde(default)]
    pub resumable: bool,
}

/// Where output begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "at", content = "value")]
pub enum FollowFrom {
    /// Everything that is kept.
    Start,
    /// Only what comes from now on.
    End,
    /// The last so many lines.
    Lines(u64),
    /// What was written at or after this time (milliseconds since the epoch).
    SinceMs(i64),
    /// What this run writes, from its first byte, even if it has not begun.
    Run(u64),
    /// After the frame that ended at this position. Fails if what follows it is not kept any more.
    Position(u64),
}

/// A further process in a running task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The workload.
    pub id: WorkloadId,
    /// Chosen by the server; 64 hexadecimal digits.
    pub exec: String,
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
    /// Whether the server will send input.
    pub stdin: bool,
    /// All capabilities; only if the pool's policy allows it.
    pub privileged: bool,
    /// First size of the terminal: rows, columns.
    pub size: Option<(u16, u16)>,
    /// Whether frames say where they end and how much input was taken, see [`Frame::position`].
    #[serde(default)]
    pub resumable: bool,
}

/// An exec whose stream broke off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResume {
    /// The workload.
    pub id: WorkloadId,
    /// As in [`ExecRequest::exec`].
    pub exec: String,
    /// Position of the last frame that arrived; `None`: no output is wanted, only the exit.
    pub position: Option<u64>,
    /// Whether the server will send input.
    pub stdin: bool,
}

/// How an exec ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// Exit code; 128 + signal if killed by one.
    pub exit_code: i32,
    /// Process id on the host while it ran.
    pub pid: u32,
}

/// First frame of a host on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum StreamReply {
    /// It goes on as the request says.
    Ok,
    /// It cannot be done.
    Error(StreamError),
}

/// Why a stream's request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamError {
    /// Class, for status codes.
    pub class: ErrorClass,
    /// For people: what failed and why.
    pub message: String,
}

/// Classes of errors a host reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorClass {
    /// The thing does not exist on the host.
    NotFound,
    /// The thing is not in a state that allows it.
    Conflict,
    /// The request cannot be right.
    Invalid,
    /// Someone else (a registry) refused the credentials.
    Unauthorized,
    /// No room on the host.
    Full,
    /// The stream broke off. No host says so: it is what a server makes of a stream without an end.
    Lost,
    /// Anything else.
    Failed,
}

/// Measures of a task (names follow the kernel's cgroup documents).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskStats {
    /// When it was read (milliseconds since the epoch).
    pub read_ms: i64,
    /// CPU time used, nanoseconds.
    pub cpu_total_ns: u64,
    /// Of that in user mode.
    pub cpu_user_ns: u64,
    /// Of that in kernel mode.
    pub cpu_system_ns: u64,
    /// CPU time of the whole host since boot, nanoseconds.
    pub host_cpu_ns: u64,
    /// CPUs of the host.
    pub cpus: u32,
    /// Periods, throttled periods, throttled nanoseconds.
    pub throttling: (u64, u64, u64),
    /// Memory in use with page cache, bytes.
    pub memory_usage: u64,
    /// Highest use, bytes.
    pub memory_max_usage: u64,
    /// Limit that applies, bytes.
    pub memory_limit: u64,
    /// Page cache that can be dropped at once (`inactive_file`), bytes.
    pub memory_inactive_file: u64,
    /// Times the limit was hit.
    pub memory_failcnt: u64,
    /// Further counters as the kernel names them.
    pub memory_detail: BTreeMap<String, u64>,
    /// Processes.
    pub pids: u64,
    /// Limit of processes; 0: none.
    pub pids_limit: u64,
    /// Bytes read and written through block devices.
    pub block_io: (u64, u64),
    /// Network counters by interface.
    pub networks: BTreeMap<String, NetworkStats>,
}

/// Counters of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    /// Received: bytes, packets, errors, dropped.
    pub rx: (u64, u64, u64, u64),
    /// Sent: bytes, packets, errors, dropped.
    pub tx: (u64, u64, u64, u64),
}

/// Processes of a task as `ps` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessTable {
    /// Column titles.
    pub titles: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// Which image to pull, and with what right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// Full reference.
    pub reference: String,
    /// `os/arch`; `None`: the host's own.
    pub platform: Option<String>,
    /// Credentials for the registry.
    pub credentials: Option<Credentials>,
}

/// Credentials to try at a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRequest {
    /// `host` or `host:port`, as in a reference.
    pub registry: String,
    /// What to try.
    pub credentials: Credentials,
}

/// Credentials for a registry. Never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// A step of a pull or load, in the words of Docker's progress stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageProgress {
    /// Short id of the layer, tag or digest; empty: a line about the whole.
    pub id: String,
    /// For example `Downloading`.
    pub status: String,
    /// Bytes done.
    pub current: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
}

/// Images that a pull or load brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportResult {
    /// Them.
    pub images: Vec<ImportedImage>,
}

/// The server's answer to an [`ImportResult`]: pools have the images now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecorded {
    /// Revision of the store that has the records: orders to delete one of the images up to it are void.
    pub revision: u64,
}

/// An image that a pull or load brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedImage {
    /// Which blobs.
    pub content: ImageContent,
    /// Defaults.
    pub config: ImageConfig,
    /// Tags the archive named, full references; empty for a pull.
    pub tags: Vec<String>,
    /// Digest of the manifest that was pulled (of the index, if there was one).
    pub manifest: Option<Digest>,
    /// `registry/repository@digest` of the platform's manifest it can be fetched by again.
    pub source: Option<String>,
    /// Whether everything was there already.
    pub unchanged: bool,
}

/// An image to write into an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaveImage {
    /// It.
    pub image: Image,
    /// Names to write it under, full references.
    pub tags: Vec<String>,
}

/// Asks to become a host of the installation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The whole token.
    pub token: String,
    /// Name the host would like.
    pub name: String,
    /// Failure domain.
    #[serde(default)]
    pub zone: String,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Certificate signing request, PEM; the private key stays on the host.
    pub csr_pem: String,
}

/// Asks for a new certificate before the old one expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Certificate signing request, PEM, with a new key.
    pub csr_pem: String,
}

/// Who a host is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub host: HostId,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The installation's CA, PEM.
    pub ca_pem: String,
}

/// A join token as shown: `plm1.<CA hash>.<token id>.<secret>`, the CA hash being SHA-256 of the CA's certificate (DER)
/// in hexadecimal. A host checks the server's chain against it before it sends the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokenText {
    /// SHA-256 of the CA's certificate (DER), 64 hexadecimal digits.
    pub ca_sha256: String,
    /// Public id of the token.
    pub id: model::TokenId,
    /// The secret, 64 hexadecimal digits.
    pub secret: String,
}

/// A join token that is not of the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "join token is not of the form plm1.<ca hash>.<id>.<secret>: copy it whole from `plimsoll host token`"
)]
pub struct MalformedJoinToken;

impl JoinTokenText {
    /// Parses the text form.
    ///
    /// # Errors
    /// When it is of another form.
    pub fn parse(text: &str) -> Result<Self, MalformedJoinToken> {
        let hex64 =
            |s: &str| s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let parts: Vec<&str> = text.trim().split('.').collect();
        match parts[..] {
            ["plm1", ca, id, secret] if hex64(ca) && hex64(secret) => Ok(Self {
                ca_sha256: ca.to_owned(),
                id: model::TokenId::parse(id).map_err(|_| MalformedJoinToken)?,
                secret: secret.to_owned(),
            }),
            _ => Err(MalformedJoinToken),
        }
    }
}

impl std::fmt::Display for JoinTokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plm1.{}.{}.{}", self.ca_sha256, self.id, self.secret)
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Bytes of an archive or blob.
    Data = 0,
    /// Bytes for standard input.
    Stdin = 1,
    /// Bytes from standard output.
    Stdout = 2,
    /// Bytes from standard error.
    Stderr = 3,
    /// No more input.
    EndInput = 4,
    /// A JSON document; which one depends on the request.
    Json = 5,
    /// The stream failed half-way: a [`StreamError`] as JSON.
    Error = 6,
    /// Nothing follows.
    End = 7,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Data,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::EndInput,
            5 => Self::Json,
            6 => Self::Error,
            7 => Self::End,
            _ => return None,
        })
    }
}

/// A unit of a stream: kind (1 byte, its highest bit set if there is a position), time (8 bytes, milliseconds since the
/// epoch, 0 if it has none), length of the payload (4 bytes), position if there is one (8 bytes), payload; integers big
/// endian. Output frames carry the time the output was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// When it was written, or 0.
    pub time_ms: i64,
    /// Only from a host, and only if the request is resumable. Of output: where in the log this frame ends; an empty
    /// frame says where the output begins. Of `Stdin`, which then has no payload: how many bytes of input were taken
    /// since the stream was opened. `EndInput` from a host: no more input is wanted.
    pub position: Option<u64>,
    /// The bytes.
    pub payload: Bytes,
}

/// Bytes before a frame's position and payload.
const FRAME_HEADER_BYTES: usize = 13;
/// Bytes of a position.
const POSITION_BYTES: usize = 8;
/// Bit of the kind that says that there is a position.
const HAS_POSITION: u8 = 0x80;

/// Bytes that are not of the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Unknown kind of frame.
    #[error("unknown frame kind {0}")]
    FrameKind(u8),
    /// Too long.
    #[error("{what} of {length} bytes is longer than the limit of {limit}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// How long.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// Not the JSON expected.
    #[error("message is not readable")]
    Json(#[source] serde_json::Error),
}

impl Frame {
    /// A frame without a time.
    #[must_use]
    pub fn new(kind: FrameKind, payload: impl Into<Bytes>) -> Self {
        Self {
            kind,
            time_ms: 0,
            position: None,
            payload: payload.into(),
        }
    }

    /// A JSON frame.
    ///
    /// # Errors
    /// When the value cannot be JSON.
    pub fn json<T: Serialize>(value: &T) -> Result<Self, ProtocolError> {
        Ok(Self::new(
            FrameKind::Json,
            serde_json::to_vec(value).map_err(ProtocolError::Json)?,
        ))
    }

    /// The last frame.
    #[must_use]
    pub fn end() -> Self {
        Self::new(FrameKind::End, Bytes::new())
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ProtocolError> {
        serde_json::from_slice(&self.payload).map_err(ProtocolError::Json)
    }

    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let length = FRAME_HEADER_BYTES + POSITION_BYTES + self.payload.len();
        let mut out = BytesMut::with_capacity(length);
        let flag = self.position.map_or(0, |_| HAS_POSITION);
        out.put_u8(self.kind as u8 | flag);
        out.put_i64(self.time_ms);
        out.put_u32(u32::try_from(self.payload.len()).unwrap_or(u32::MAX));
        if let Some(position) = self.position {
            out.put_u64(position);
        }
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// Takes one whole frame from the front of `buffer`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a frame.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, ProtocolError> {
        let Some(header) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let mut header = &header[..];
        let flagged = header.get_u8();
        let has_position = flagged & HAS_POSITION != 0;
        let kind_byte = flagged & !HAS_POSITION;
        let kind = FrameKind::from_byte(kind_byte).ok_or(ProtocolError::FrameKind(kind_byte))?;
        let time_ms = header.get_i64();
        let length = header.get_u32() as usize;
        if length > FRAME_MAX_BYTES {
            return Err(ProtocolError::TooLong {
                what: "frame",
                length,
                limit: FRAME_MAX_BYTES,
            });
        }
        let before = FRAME_HEADER_BYTES + if has_position { POSITION_BYTES } else { 0 };
        if buffer.len() < before + length {
            buffer.reserve(before + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(FRAME_HEADER_BYTES);
        let position = has_position.then(|| buffer.get_u64());
        Ok(Some(Self {
            kind,
            time_ms,
            position,
            payload: buffer.split_to(length).freeze(),
        }))
    }
}

/// The bytes of a session message: length and JSON.
///
/// # Errors
/// When it cannot be JSON or is too long.
pub fn encode_message<T: Serialize>(message: &T) -> Result<Bytes, ProtocolError> {
    let json = serde_json::to_vec(message).map_err(ProtocolError::Json)?;
    let too_long = ProtocolError::TooLong {
        what: "message",
        length: json.len(),
        limit: MESSAGE_MAX_BYTES,
    };
    if json.len() > MESSAGE_MAX_BYTES {
        return Err(too_long);
    }
    let mut out = BytesMut::with_capacity(4 + json.len());
    out.put_u32(u32::try_from(json.len()).map_err(|_| too_long)?);
    out.put_slice(&json);
    Ok(out.freeze())
}

/// Takes one whole session message from the front of `buffer`; `None` if more bytes are needed.
///
/// # Errors
/// When the bytes are not a message.
pub fn decode_message<T: DeserializeOwned>(
    buffer: &mut BytesMut,
) -> Result<Option<T>, ProtocolError> {
    let Some(header) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*header) as usize;
    if length > MESSAGE_MAX_BYTES {
        return Err(ProtocolError::TooLong {
            what: "message",
            length,
            limit: MESSAGE_MAX_BYTES,
        });
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let json = buffer.split_to(length);
    serde_json::from_slice(&json)
        .map(Some)
        .map_err(ProtocolError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let frames = [
            Frame {
                kind: FrameKind::Stdout,
                time_ms: 7,
                position: None,
                payload: Bytes::from_static(b"hello"),
            },
            Frame {
                kind: FrameKind::Stderr,
                time_ms: 8,
                position: Some(u64::MAX - 1),
                payload: Bytes::from_static(b"there"),
            },
            Frame::end(),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(|f| f.encode().to_vec()).collect();
        for split in 0..=bytes.len() {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in [&bytes[..split], &bytes[split..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn hostile_frames_are_refused_before_memory_is_taken() {
        let mut buffer = BytesMut::from(&[9u8, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255][..]);
        assert!(matches!(
            Frame::decode(&mut buffer),
            Err(ProtocolError::FrameKind(9))
        ));
        let mut buffer = BytesMut::from(&[2u8, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255][..]);
        assert!(matches!(
            Frame::decode(&mut buffer),
            Err(ProtocolError::TooLong { .. })
        ));
        let mut buffer = BytesMut::from(&[255u8, 255, 255, 255][..]);
        assert!(matches!(
            decode_message::<FromHost>(&mut buffer),
            Err(ProtocolError::TooLong { .. })
        ));
    }

    #[test]
    fn messages_read_back() {
        let message = FromHost::Accepted { generation: 3 };
        let mut buffer = BytesMut::from(&encode_message(&message).unwrap()[..]);
        assert_eq!(
            decode_message::<FromHost>(&mut buffer).unwrap(),
            Some(message)
        );
        assert!(buffer.is_empty());
    }

    #[test]
    fn heartbeats_of_before_there_were_leases_are_read() {
        let plain = r#"{"type":"heartbeat"}"#;
        let from: FromHost = serde_json::from_str(plain).unwrap();
        assert_eq!(from, FromHost::Heartbeat { number: 0 });
        let to: ToHost = serde_json::from_str(plain).unwrap();
        let (number, fresh_ms) = (0, None);
        assert_eq!(to, ToHost::Heartbeat { number, fresh_ms });
        // And the other way round: who knows heartbeats without content skips what is in them.
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "kebab-case", tag = "type")]
        enum Before {
            Heartbeat,
        }
        let (number, fresh_ms) = (7, Some(12));
        for now in [
            serde_json::to_string(&ToHost::Heartbeat { number, fresh_ms }).unwrap(),
            serde_json::to_string(&FromHost::Heartbeat { number }).unwrap(),
        ] {
            let read: Before = serde_json::from_str(&now).unwrap();
            assert_eq!(read, Before::Heartbeat, "{now}");
        }
    }

    #[test]
    fn join_tokens_read_back() {
        let token = JoinTokenText {
            ca_sha256: "a".repeat(64),
            id: model::TokenId::from_bytes(&[1; 32]),
            secret: "b".repeat(64),
        };
        assert!(JoinTokenText::parse(&token.to_string()).unwrap() == token);
        for bad in ["", "plm1", "plm1.a.b.c", "plm2.x.y.z"] {
            assert!(JoinTokenText::parse(bad).is_err());
        }
    }
}
