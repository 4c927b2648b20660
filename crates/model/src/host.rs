//! Hosts: machines that run an agent, what they must run, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Capacity, CpuMillis, DesiredState, Gpu, HostId, HostPool, Image, ImageId, Mac, MemoryBytes,
    Name, NetworkId, PoolId, Subnet, TaskStatus, Timestamp, TokenId, Vni, WorkloadId, WorkloadSpec,
    resources::host_reserve,
};

/// A machine that runs an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Identity for life; the subject of its certificate.
    pub id: HostId,
    /// Unique in the installation.
    pub name: Name,
    /// Failure domain; fixed.
    #[serde(default)]
    pub zone: String,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether nothing new is placed on it.
    #[serde(default)]
    pub cordoned: bool,
    /// Whether it is in maintenance: what can move is moved away; `None`: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// How far requests may go beyond what it has.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// Images it is to fetch because too few hosts have them, each with when it was first told to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fetch_images: BTreeMap<ImageId, Timestamp>,
    /// SHA-256 of its current client certificate (DER), hexadecimal.
    pub certificate_sha256: String,
    /// That of the certificate before, accepted until the new one is first used.
    #[serde(default)]
    pub previous_certificate_sha256: Option<String>,
    /// What it last said of itself.
    #[serde(default)]
    pub status: HostStatus,
    /// When it joined.
    pub joined_at: Timestamp,
}

/// Maintenance of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when.
    pub since: Timestamp,
    /// Whether what cannot move is stopped.
    #[serde(default)]
    pub stop_rest: bool,
}

/// How far the requests placed on a host may go beyond what it has, in percent of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overcommit {
    /// Of its CPU.
    pub cpu_percent: u32,
    /// Of its memory.
    pub memory_percent: u32,
}

impl Default for Overcommit {
    /// What there is, and no more.
    fn default() -> Self {
        Self {
            cpu_percent: 100,
            memory_percent: 100,
        }
    }
}

impl Host {
    /// What requests placed on it may add up to: all it has less its reserve, times its overcommit.
    #[must_use]
    pub fn room(&self) -> Capacity {
        let total = self.status.facts.capacity;
        let usable = total.minus(host_reserve(total));
        let scale = |amount: u64, percent: u32| {
            let scaled = u128::from(amount) * u128::from(percent) / 100;
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        Capacity {
            cpu: CpuMillis(scale(usable.cpu.0, self.overcommit.cpu_percent)),
            memory: MemoryBytes(scale(usable.memory.0, self.overcommit.memory_percent)),
        }
    }
}

/// What a host last said of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostStatus {
    /// Whether a link to it is open.
    pub connected: bool,
    /// When a link was last known to be open.
    pub last_seen: Option<Timestamp>,
    /// How long the host had been silent when the end of its last link was recorded, in milliseconds.
    pub silent_ms: u64,
    /// Since when it is taken as lost: what may run elsewhere is started there. `None`: it is not.
    pub lost_at: Option<Timestamp>,
    /// Machine and system.
    pub facts: HostFacts,
    /// Images that are complete on it.
    pub images: BTreeSet<ImageId>,
}

/// Machine and system of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// All it has, before the reserve.
    pub capacity: Capacity,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPU architecture in Go's words, for example `amd64`.
    pub architecture: String,
    /// Kernel release.
    pub kernel: String,
    /// Name of the distribution.
    pub os: String,
    /// Version of the agent.
    pub agent_version: String,
    /// `v1`, `hybrid` or `v2`.
    pub cgroup: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Address others reach it at.
    pub address: String,
    /// Address other hosts reach it at with packets of networks; `None`: it takes part in none beyond itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Ipv4Addr>,
    /// OCI runtimes that can be named.
    pub runtimes: Vec<String>,
    /// Its GPUs, by number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
}

/// A one-time right to join. The token shown to the operator also carries the hash of the CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Public part.
    pub id: TokenId,
    /// SHA-256 of the secret part, hexadecimal.
    pub secret_sha256: String,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// The host that used it; a used token is kept until it expires so that reuse can be told from forgery.
    #[serde(default)]
    pub used_by: Option<HostId>,
}

/// Everything a host must run: a whole document with a number.
///
/// A host takes a document only if its generation is higher than the one it has; the same generation with other
/// content is an error.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostDesired {
    /// Number of this document; grows with each change.
    pub generation: u64,
    /// Workloads placed on the host.
    pub workloads: BTreeMap<WorkloadId, Arc<HostWorkload>>,
    /// Images no pool knows any more, each with the revision of the order to delete it; deleted unless a task still
    /// uses them or they came in again after the order.
    #[serde(deserialize_with = "drop_orders")]
    pub drop_images: BTreeMap<ImageId, u64>,
    /// Images to fetch although no workload here needs them, because too few hosts have them.
    pub fetch_images: BTreeMap<ImageId, Arc<Image>>,
    /// What of each pool this host may give.
    pub pools: BTreeMap<PoolId, HostPool>,
    /// The networks its workloads are on.
    pub networks: BTreeMap<NetworkId, HostNetwork>,
}

/// A network as a host needs it that has a workload on it: enough to reach the others without asking a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostNetwork {
    /// Its name in its pool, by which names of workloads on it can be completed.
    pub name: Name,
    /// Its number between hosts.
    pub vni: Vni,
    /// Its addresses.
    pub subnet: Subnet,
    /// Who is on it now, also on this host.
    #[serde(default)]
    pub peers: BTreeMap<WorkloadId, Arc<HostPeer>>,
}

/// A workload on a network, as others there see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPeer {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// Where its host is reached by others; `None`: it is on this host, or its host has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Ipv4Addr>,
    /// Its name in its pool.
    pub name: Name,
    /// Further names, in lower case; others may have the same ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// A workload's attachment to a network, with all that its host needs to make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEndpoint {
    /// Which network.
    pub network: NetworkId,
    /// The network's name in its pool.
    pub name: Name,
    /// The network's number between hosts.
    pub vni: Vni,
    /// The network's addresses.
    pub subnet: Subnet,
    /// Whether there is no way out by it.
    #[serde(default)]
    pub internal: bool,
    /// The workload's address.
    pub address: Ipv4Addr,
    /// The workload's hardware address.
    pub mac: Mac,
}

/// Reads orders to delete images; an earlier form had no revisions, which reads as 0: older than everything.
///
/// # Errors
/// When it is neither form.
pub fn drop_orders<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<ImageId, u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Orders(BTreeMap<ImageId, u64>),
        Names(BTreeSet<ImageId>),
    }
    Ok(match Form::deserialize(from)? {
        Form::Orders(orders) => orders,
        Form::Names(names) => names.into_iter().map(|id| (id, 0)).collect(),
    })
}

/// A workload as its host needs it: with names, pool and image resolved, so that no choice is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostWorkload {
    /// Identity.
    pub id: WorkloadId,
    /// The pool, for its cgroup subtree.
    pub pool: PoolId,
    /// The pools it is a slice of, outermost first: where its subtree is.
    #[serde(default)]
    pub pool_path: Vec<PoolId>,
    /// The pool's name, for people.
    pub pool_name: Name,
    /// Name in its pool.
    pub name: Name,
    /// What it is made of.
    pub spec: WorkloadSpec,
    /// Its attachments to networks; empty with [`crate::workload::NetworkMode::Bridge`]: as before there were networks,
    /// an address on its host's bridge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<HostEndpoint>,
    /// Which content its root is made of, and where it can be had.
    pub image: Image,
    /// What is wanted of it.
    pub desired: DesiredState,
    /// The run that is wanted.
    pub run: u64,
    /// After how many milliseconds without the word of a server the host must have ended it, because others may then
    /// start it elsewhere; `None`: it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_ms: Option<u32>,
    /// Whether its pool, or one above it, has a limit: then it is not started before the pool's part of this host is in
    /// force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bounded: bool,
}

/// What a host reports of one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadReport {
    /// Which.
    pub id: WorkloadId,
    /// What was observed; `None`: nothing of it is left on the host.
    pub status: Option<TaskStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_to_delete_images_are_read_in_their_earlier_form() {
        let id = ImageId::parse(&format!("sha256:{}", "b".repeat(64))).unwrap();
        let read = |orders: serde_json::Value| {
            let document = serde_json::json!({ "generation": 3, "drop_images": orders });
            serde_json::from_value::<HostDesired>(document).map(|d| d.drop_images)
        };
        let earlier = read(serde_json::json!([id])).unwrap();
        assert_eq!(earlier, BTreeMap::from([(id.clone(), 0)]));
        let document = HostDesired {
            drop_images: BTreeMap::from([(id, 7)]),
            ..HostDesired::default()
        };
        let json = serde_json::to_value(&document).unwrap();
        assert_eq!(
            read(json["drop_images"].clone()).unwrap(),
            document.drop_images
        );
        assert!(read(serde_json::json!(["not an image"])).is_err());
    }
}
