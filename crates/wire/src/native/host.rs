//! Hosts and the tokens they join with.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Amount, Reference};

/// A machine that runs an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Host)]
pub struct Host {
    /// Identity for life.
    pub id: String,
    /// Unique in the installation.
    pub name: String,
    /// Failure domain.
    #[serde(default)]
    pub zone: String,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How it is.
    pub state: State,
    /// Whether nothing new is placed on it.
    pub cordoned: bool,
    /// Its maintenance; absent: it is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Workloads placed on it.
    #[serde(default)]
    pub workloads: u64,
    /// All it has, before the reserve.
    pub capacity: Amount,
    /// What of it is kept outside of all pools.
    #[serde(default)]
    pub reserve: Amount,
    /// How far requests may go beyond what it has.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// What requests may add up to: all it has, less the reserve, times the overcommit.
    #[serde(default)]
    pub room: Amount,
    /// What they add up to.
    #[serde(default)]
    pub requested: Amount,
    /// Its GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Parts of pools it has; only where a single host is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolPart>,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPU architecture, for example `amd64`.
    pub architecture: String,
    /// Kernel release.
    pub kernel: String,
    /// Name of the distribution.
    pub os: String,
    /// `v1`, `hybrid` or `v2`.
    pub cgroup: String,
    /// Address others reach it at.
    pub address: String,
    /// Version of the agent.
    pub agent_version: String,
    /// OCI runtimes that can be named.
    #[serde(default)]
    pub runtimes: Vec<String>,
    /// Number of images that are complete on it.
    #[serde(default)]
    pub images: u64,
    /// When a link was last opened or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
    /// When it was heard last; absent: a link is open, or it never had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<String>,
    /// Since when it is taken as lost; absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<String>,
    /// When it joined.
    pub joined_at: String,
}

/// Maintenance of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HostMaintenance)]
pub struct Drain {
    /// Since when.
    pub since: String,
    /// Whether what cannot move is stopped.
    #[serde(default)]
    pub stop_rest: bool,
}

/// How far requests may go beyond what a host has, in percent of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HostOvercommit)]
#[serde(default)]
pub struct Overcommit {
    /// Of its CPU.
    pub cpu_percent: u32,
    /// Of its memory.
    pub memory_percent: u32,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self {
            cpu_percent: 100,
            memory_percent: 100,
        }
    }
}

/// A GPU of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = HostGpu)]
#[serde(default)]
pub struct Gpu {
    /// Number on its host.
    pub index: u32,
    /// Identity for life.
    pub uuid: String,
    /// Model.
    pub model: String,
    /// Thousandths of it that workloads have.
    pub used_millis: u32,
}

/// What of a pool a host may give, and what it gives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = HostPoolPart)]
#[serde(default)]
pub struct PoolPart {
    /// The pool.
    pub pool: Reference,
    /// Weight against siblings when CPU is short: 1 to 10,000, 100 is usual.
    pub cpu_weight: u32,
    /// Never more CPU than this, thousandths of a core; absent: what the host has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u64>,
    /// Never more memory than this; absent: what the host has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Memory up to this is protected from other pools' pressure.
    pub memory_protected_bytes: u64,
    /// CPU it uses there, thousandths of a core; absent: nothing was heard of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_used_millis: Option<u64>,
    /// Memory it works with there; absent: nothing was heard of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
}

/// Changes a host; what is absent stays. Its zone is fixed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = HostUpdate)]
#[serde(default, deny_unknown_fields)]
pub struct Update {
    /// Labels to set; others stay.
    pub labels: BTreeMap<String, String>,
    /// Labels to take away, by key.
    pub labels_removed: BTreeSet<String>,
    /// How far CPU requests may go beyond what it has, in percent of it.
    pub cpu_overcommit_percent: Option<u32>,
    /// How far memory requests may go beyond what it has, in percent of it.
    pub memory_overcommit_percent: Option<u32>,
}

/// Begins maintenance of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = HostDrain)]
#[serde(default, deny_unknown_fields)]
pub struct DrainRequest {
    /// Whether what cannot move is stopped.
    pub stop_rest: bool,
    /// Also if it is the last host that takes workloads.
    pub force: bool,
}

/// What becomes of what is on a host when it is emptied, or has become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HostOutlook)]
pub struct Outlook {
    /// The host.
    pub host: Reference,
    /// How it is.
    pub state: State,
    /// Its maintenance; absent: it is in none, and this is what would happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Everything that is on it or still has to be removed from it, by pool and name.
    pub workloads: Vec<Leaving>,
    /// Images that would be lost with it, by name: no registry has them, and no other host that stays.
    #[serde(default)]
    pub images: Vec<OnlyImage>,
}

/// An image that would be lost with a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OnlyImage {
    /// The image: its id, and a name it goes by.
    pub image: Reference,
    /// The pool that had it first; others may have it, too.
    pub pool: Reference,
    /// Whether another host can fetch it: then maintenance waits for that.
    pub can_be_copied: bool,
}

/// What becomes of a workload when its host is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LeavingWorkload)]
pub struct Leaving {
    /// The workload.
    pub workload: Reference,
    /// Its pool.
    pub pool: Reference,
    /// What becomes of it.
    pub fate: Fate,
    /// The host it moves to as things are now, or is on already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Reference>,
    /// Why it waits, stays, is stopped or does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What becomes of a workload when its host is emptied, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkloadFate)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It moves; a host has room for it now.
    Moves,
    /// It is on its way: it ends here, then it starts on another host.
    Moving,
    /// It was taken away; this host still has to remove what it has of it.
    Moved,
    /// It may move, but no host has room for it now.
    Waits,
    /// It cannot move.
    Stays,
    /// It cannot move, and is stopped.
    Stops,
    /// It does not run, and its files stay.
    Idle,
}

/// How a host is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HostState)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Connected and taking work.
    Ready,
    /// Connected, but nothing new is placed on it.
    Cordoned,
    /// In maintenance, and something still runs on it.
    Draining,
    /// In maintenance, and nothing runs on it any more.
    Drained,
    /// Not connected; what runs on it goes on running.
    Unreachable,
    /// Not connected for so long that what may run elsewhere is started there.
    Lost,
}

/// Asks for a one-time token to join with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = JoinTokenCreate)]
#[serde(default, deny_unknown_fields)]
pub struct JoinTokenCreate {
    /// Seconds it works; absent: 3600.
    pub ttl_seconds: Option<u64>,
}

/// A token to join with. Shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = JoinToken)]
pub struct JoinToken {
    /// The whole token; carries the hash of the installation's CA.
    pub token: String,
    /// Public part.
    pub id: String,
    /// When it stops working.
    pub expires_at: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinToken({}, …)", self.id)
    }
}
