//! Pools and claims for tests.

use std::collections::BTreeMap;

use model::{
    Capacity, Charge, Claim, Counted, CpuMillis, MemoryBytes, Name, Pool, PoolId, PoolPolicy,
    QuotaKey, Resource, Slice, Timestamp, WorkloadId,
};

use super::HostRoom;

pub(crate) fn pool_id(number: u8) -> PoolId {
    PoolId::from_bytes(&[number; 32])
}

pub(crate) fn workload_id(number: u32) -> WorkloadId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    WorkloadId::from_bytes(&bytes)
}

/// A pool named `p` and its number, with a slice in the stored form.
pub(crate) fn pool(number: u8, parent: Option<u8>, slice: Slice) -> Pool {
    Pool {
        id: pool_id(number),
        name: Name::parse(&format!("p{number}")).unwrap(),
        parent: parent.map(pool_id),
        description: String::new(),
        labels: BTreeMap::new(),
        policy: PoolPolicy::default(),
        slice,
        created_at: Timestamp(0),
    }
}

pub(crate) fn slice(json: serde_json::Value) -> Slice {
    serde_json::from_value(json).unwrap()
}

pub(crate) const NO_LABELS: &BTreeMap<String, String> = &BTreeMap::new();

/// A host with so many cores and GiB.
pub(crate) fn room(cores: u64, gib: u64) -> HostRoom<'static> {
    HostRoom {
        labels: NO_LABELS,
        room: Capacity {
            cpu: CpuMillis(cores * 1000),
            memory: MemoryBytes(gib << 30),
        },
    }
}

/// A charge of CPU (thousandths), memory (bytes), one workload, no ports and no GPU.
pub(crate) fn charge(cpu: u64, memory: u64) -> Charge {
    let mut charge = Charge::NONE;
    charge[QuotaKey::Resource(Resource::Cpu)] = cpu;
    charge[QuotaKey::Resource(Resource::Memory)] = memory;
    charge[QuotaKey::Counted(Counted::Workloads)] = 1;
    charge
}

pub(crate) fn claim(pool: u8, charge: Charge) -> Claim {
    Claim {
        pool: pool_id(pool),
        charge,
    }
}
