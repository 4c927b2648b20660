//! Hosts and the tokens they join with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Amount;

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
    /// Whether it is connected and takes work.
    pub state: State,
    /// Whether nothing new is placed on it.
    pub cordoned: bool,
    /// Workloads placed on it.
    #[serde(default)]
    pub workloads: u64,
    /// All it has, before the reserve.
    pub capacity: Amount,
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
    /// When a link was last known to be open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
    /// When it joined.
    pub joined_at: String,
}

/// Whether a host is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HostState)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Connected and taking work.
    Ready,
    /// Connected, but nothing new is placed on it.
    Cordoned,
    /// Not connected; what runs on it goes on running.
    Unreachable,
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
