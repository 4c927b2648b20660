//! The nouns of Plimsoll and their invariants.
//!
//! What it is: plain values for pools, hosts, workloads, images and principals; their validated names; their stored
//! form. What it is not: there is no I/O, no clock, no randomness and no async here, and no foreign word (Docker's or
//! Kubernetes') beyond what OCI itself uses.
//!
//! Start at [`object::Object`], the closed set of everything that is stored, then [`workload::WorkloadSpec`].
//!
//! What always holds: a value of a validated type (an id, a name, a digest) has been checked; stored forms are
//! versioned and migrate forward on read ([`stored`]).

pub mod amount;
pub mod capability;
pub mod claim;
pub mod cpuset;
pub mod division;
pub mod host;
pub mod id;
pub mod image;
pub mod network;
pub mod object;
pub mod placement;
pub mod pool;
pub mod principal;
pub mod resources;
pub mod rule;
pub mod slice;
pub mod stored;
pub mod subnet;
pub mod user;
pub mod workload;

pub use amount::{Amount, InvalidAmount, Percent, Ratio, Resource};
pub use claim::{Charge, Claim, QuotaKey};
pub use cpuset::CpuSet;
pub use division::{Division, HostPool, PoolUsage};
pub use host::{
    Drain, Host, HostDesired, HostEndpoint, HostFacts, HostNetwork, HostPeer, HostStatus,
    HostWorkload, JoinToken,
};
pub use id::{
    Digest, HostId, Id, ImageId, InvalidId, Name, NetworkId, PoolId, PrincipalId, TokenId,
    WorkloadId,
};
pub use image::{Image, ImageConfig, ImageContent, ImageReference, Layer, Platform};
pub use network::{DEFAULT_NETWORK, Endpoint, EndpointSpec, Mac, Network, Vni};
pub use object::{Key, Kind, Object};
pub use placement::{Gpu, GpuRequest, GpuShare, HostRule, PlacementSpec};
pub use pool::{Pool, PoolPolicy};
pub use principal::{AccessToken, Binding, Principal, Role};
pub use resources::{Capacity, CpuMillis, MemoryBytes};
pub use slice::{
    Counted, HostLoss, Installation, PlacementPolicy, Portion, Shares, Slice, WorkloadDefaults,
};
pub use subnet::{InvalidSubnet, Subnet};
pub use workload::{
    DesiredState, Displaced, Hold, HoldKind, Phase, RestartPolicy, TaskSpec, TaskStatus, Workload,
    WorkloadSpec,
};

/// A moment, in milliseconds since the Unix epoch, UTC.
///
/// The model has no clock of its own: callers pass the time in.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.0
    }

    /// This moment plus `millis` milliseconds.
    #[must_use]
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}
