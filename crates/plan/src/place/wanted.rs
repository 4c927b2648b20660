//! What is to be placed.

use std::collections::BTreeMap;

use model::{HostId, PlacementPolicy, PoolId, WorkloadId, WorkloadSpec};

/// What is to be placed, and how.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The workload; `None`: one that does not exist (what-if).
    pub id: Option<&'a WorkloadId>,
    /// Its pool.
    pub pool: &'a PoolId,
    /// What it is made of.
    pub spec: &'a WorkloadSpec,
    /// CPU architecture of its image; empty: any.
    pub architecture: &'a str,
    /// Size of its image, to be fetched where it is missing.
    pub image_bytes: u64,
    /// The host it must be on, because it shares something with a workload there.
    pub pinned: Option<&'a HostId>,
    /// Hosts it may not go to: those it is being taken away from.
    pub not_on: &'a [HostId],
    /// How its pool chooses.
    pub policy: PlacementPolicy,
    /// Labels that its pool, and each pool above, demands of hosts.
    pub pool_hosts: &'a [BTreeMap<String, String>],
    /// Breaks ties.
    pub seed: u64,
}
