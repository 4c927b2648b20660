//! The installation itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Amount;

/// Version of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Of the program.
    pub version: String,
    /// Of this API.
    pub api: String,
    /// `os/architecture` it runs on.
    pub platform: String,
}

/// The installation at a glance, as far as the caller may see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// Who the caller is.
    pub caller: String,
    /// Where hosts and remote clients reach the server, `host:port`.
    #[serde(default)]
    pub address: String,
    /// SHA-256 of the installation's CA (DER), for `plimsoll login --ca-sha256`.
    #[serde(default)]
    pub ca_sha256: String,
    /// Pools.
    pub pools: u64,
    /// Hosts.
    pub hosts: u64,
    /// Hosts that are ready.
    pub hosts_ready: u64,
    /// Workloads.
    pub workloads: u64,
    /// Workloads that run.
    pub running: u64,
    /// What all hosts have together.
    pub capacity: Amount,
}

/// Who the server takes the caller for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// Name of the principal.
    pub name: String,
}

/// Whether the server works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}
