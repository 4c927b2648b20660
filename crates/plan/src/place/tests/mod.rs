//! Cases, and the property that the fast way decides as the exhaustive one.

mod cases;
mod property;

use std::collections::BTreeMap;

use model::placement::Gpu;
use model::{
    Capacity, CpuMillis, DesiredState, Host, HostFacts, HostId, HostStatus, MemoryBytes, Name,
    PoolId, TaskStatus, Timestamp, Workload, WorkloadId, WorkloadSpec,
};

use model::PlacementPolicy as Policy;

use super::{Placement, Wanted};

pub(crate) fn bytes(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn pool() -> PoolId {
    PoolId::from_bytes(&bytes(1))
}

/// A host `h<number>` with 4 cores and 8 GiB, in no zone.
pub(crate) fn host(number: u64) -> Host {
    Host {
        id: HostId::from_bytes(&bytes(number)),
        name: Name::parse(&format!("h{number}")).unwrap(),
        zone: String::new(),
        labels: BTreeMap::new(),
        cordoned: false,
        drain: None,
        overcommit: model::host::Overcommit::default(),
        fetch_images: BTreeMap::new(),
        certificate_sha256: String::new(),
        previous_certificate_sha256: None,
        status: HostStatus {
            connected: true,
            facts: HostFacts {
                capacity: Capacity {
                    cpu: CpuMillis(4000),
                    memory: MemoryBytes(8 << 30),
                },
                architecture: "amd64".into(),
                ..HostFacts::default()
            },
            ..HostStatus::default()
        },
        joined_at: Timestamp(0),
    }
}

pub(super) fn gpus(host: u64, model: &str, count: u32) -> Vec<Gpu> {
    let one = |index| Gpu {
        index,
        uuid: format!("GPU-{host}-{index}"),
        model: model.into(),
        ..Gpu::default()
    };
    (0..count).map(one).collect()
}

/// A specification out of the smallest one, changed by `patch`; `task` is merged.
pub(crate) fn spec(patch: serde_json::Value) -> WorkloadSpec {
    let image = format!("sha256:{}", "a".repeat(64));
    let mut base = serde_json::json!({"task": {"image": "web", "image_id": image}});
    for (key, value) in patch.as_object().unwrap() {
        if key == "task" {
            for (key, value) in value.as_object().unwrap() {
                base["task"][key] = value.clone();
            }
        } else {
            base[key] = value.clone();
        }
    }
    serde_json::from_value(base).unwrap()
}

/// A running workload.
pub(crate) fn workload(number: u64, spec: &WorkloadSpec, on: &HostId) -> Workload {
    Workload {
        id: WorkloadId::from_bytes(&bytes(number)),
        pool: pool(),
        name: Name::parse(&format!("w{number}")).unwrap(),
        spec: spec.clone(),
        desired: DesiredState::Running,
        run: 1,
        host: Some(on.clone()),
        placement: None,
        gpus: Vec::new(),
        endpoints: Vec::new(),
        hold: None,
        left: Default::default(),
        displaced: Default::default(),
        status: TaskStatus::default(),
        created_at: Timestamp(0),
    }
}

pub(crate) fn wanted<'a>(pool: &'a PoolId, spec: &'a WorkloadSpec, seed: u64) -> Wanted<'a> {
    Wanted {
        id: None,
        pool,
        spec,
        architecture: "amd64",
        image_bytes: 0,
        pinned: None,
        not_on: &[],
        policy: Policy::Balance,
        pool_hosts: &[],
        seed,
    }
}

/// The number of the host chosen.
pub(super) fn chosen(placement: &Placement, hosts: &[Host]) -> Option<String> {
    let id = placement.host.as_ref()?;
    let host = hosts.iter().find(|host| host.id == *id)?;
    Some(host.name.to_string())
}
