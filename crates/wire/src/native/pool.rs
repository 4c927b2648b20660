//! Pools and how to reach them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::slice::{Slice, Standing};
use super::{Amount, Reference};

/// A slice of the installation; owns everything a tenant creates and has one Docker endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Pool)]
pub struct Pool {
    /// Identity for life.
    pub id: String,
    /// Unique in the installation.
    pub name: String,
    /// The pool it is a slice of; absent for a slice of the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Reference>,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What its tenants may ask for beyond the safe defaults.
    #[serde(default)]
    pub policy: Policy,
    /// What it may use of its parent, as it was asked for.
    #[serde(default)]
    pub slice: Slice,
    /// What that comes to now, and what is used of it.
    #[serde(default)]
    pub standing: Standing,
    /// Grows with every change of the pool.
    #[serde(default)]
    pub revision: u64,
    /// What it holds now.
    #[serde(default)]
    pub usage: Usage,
    /// Where its Docker endpoint listens on the server's machine, `unix:///…`; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_socket: Option<String>,
    /// When it was made.
    pub created_at: String,
}

/// What a pool holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolUsage)]
pub struct Usage {
    /// Workloads in any state.
    pub workloads: u64,
    /// Workloads that run.
    pub running: u64,
    /// Images.
    pub images: u64,
    /// What its workloads are charged for.
    pub charged: Amount,
}

/// What a pool's tenants may ask for; everything is refused unless named here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolPolicy)]
#[serde(default)]
pub struct Policy {
    /// Host folders that may be bound, each with everything below it.
    pub host_paths: BTreeSet<String>,
    /// Whether privileged workloads are allowed.
    pub privileged: bool,
    /// Host namespaces that may be shared: `network`, `pid`, `ipc`, `uts`.
    pub host_namespaces: BTreeSet<String>,
    /// Host devices that may be handed in, by path.
    pub devices: BTreeSet<String>,
    /// Capabilities beyond the default set that may be added, `CAP_…`.
    pub capabilities: BTreeSet<String>,
    /// Whether the seccomp filter may be switched off or replaced.
    pub custom_seccomp: bool,
    /// OCI runtimes beside the built-in one that may be named.
    pub runtimes: BTreeSet<String>,
}

/// Asks for a new pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolCreate)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Unique in the installation: letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Name or id of the pool it is a slice of.
    #[serde(default)]
    pub parent: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What its tenants may ask for.
    #[serde(default)]
    pub policy: Policy,
    /// What it may use of its parent.
    #[serde(default)]
    pub slice: Slice,
}

/// Changes a pool; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolUpdate)]
#[serde(default, deny_unknown_fields)]
pub struct Update {
    /// Free text.
    pub description: Option<String>,
    /// All labels; those not named go.
    pub labels: Option<BTreeMap<String, String>>,
    /// The whole policy.
    pub policy: Option<Policy>,
    /// All that it may use of its parent; what is not named goes.
    pub slice: Option<Slice>,
    /// Name or id of the pool it is to be in; empty: directly in the installation.
    pub parent: Option<String>,
    /// The revision the caller has seen: if it is another one by now, nothing is changed.
    pub revision: Option<u64>,
    /// Only check; nothing is changed.
    pub dry_run: bool,
}

/// Asks for a client certificate for a pool's Docker endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = CredentialsCreate)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialsCreate {
    /// Days it works; absent: 30.
    pub ttl_days: Option<u32>,
}

/// What a Docker client needs to reach a pool from elsewhere. Shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Credentials)]
pub struct Credentials {
    /// `tcp://host:port`.
    pub endpoint: String,
    /// The installation's CA, PEM.
    pub ca_pem: String,
    /// The client's certificate, PEM.
    pub cert_pem: String,
    /// The client's private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.endpoint)
    }
}
