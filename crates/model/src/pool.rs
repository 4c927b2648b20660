//! Pools: the slices tenants own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Name, PoolId, Slice, Timestamp};

/// A node in the tree of slices; owns everything a tenant creates and has one Docker endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Identity for life.
    pub id: PoolId,
    /// Unique in the installation.
    pub name: Name,
    /// The pool it is a slice of; `None` for a slice of the whole.
    pub parent: Option<PoolId>,
    /// Free text for people.
    #[serde(default)]
    pub description: String,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What its tenants may ask for beyond the safe defaults.
    #[serde(default)]
    pub policy: PoolPolicy,
    /// What it may use of its parent.
    #[serde(default)]
    pub slice: Slice,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a pool's tenants may ask for; everything is refused unless named here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolPolicy {
    /// Host folders that may be bound, each with everything below it. Empty: none.
    pub host_paths: BTreeSet<String>,
    /// Whether privileged workloads are allowed.
    pub privileged: bool,
    /// Host namespaces that may be shared: `network`, `pid`, `ipc`, `uts`.
    pub host_namespaces: BTreeSet<String>,
    /// Host devices that may be handed in, by path.
    pub devices: BTreeSet<String>,
    /// Capabilities beyond the default set, `CAP_…`, that may be added.
    pub capabilities: BTreeSet<String>,
    /// Whether the seccomp filter may be switched off or replaced.
    pub custom_seccomp: bool,
    /// OCI runtimes beside the built-in one that may be named, for example `runc`.
    pub runtimes: BTreeSet<String>,
}
