//! What pools are charged with: amounts by key.

use std::ops::{Index, IndexMut};

use crate::amount::Resource;
use crate::placement::GpuRequest;
use crate::slice::Counted;
use crate::workload::{DesiredState, Resources, Workload, WorkloadSpec};
use crate::{Capacity, PoolId, WorkloadDefaults};

/// What a pool's line is drawn in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaKey {
    /// CPU or memory.
    Resource(Resource),
    /// Something counted.
    Counted(Counted),
}

impl QuotaKey {
    /// Every key.
    pub const ALL: [QuotaKey; 5] = [
        QuotaKey::Resource(Resource::Cpu),
        QuotaKey::Resource(Resource::Memory),
        QuotaKey::Counted(Counted::Workloads),
        QuotaKey::Counted(Counted::PublishedPorts),
        QuotaKey::Counted(Counted::Gpus),
    ];

    /// As in files and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            QuotaKey::Resource(resource) => resource.as_str(),
            QuotaKey::Counted(counted) => counted.as_str(),
        }
    }

    /// An amount for people.
    #[must_use]
    pub fn show(self, units: u64) -> String {
        match self {
            QuotaKey::Resource(resource) => resource.show(units),
            QuotaKey::Counted(counted) => counted.show(units),
        }
    }

    const fn index(self) -> usize {
        match self {
            QuotaKey::Resource(Resource::Cpu) => 0,
            QuotaKey::Resource(Resource::Memory) => 1,
            QuotaKey::Counted(Counted::Workloads) => 2,
            QuotaKey::Counted(Counted::PublishedPorts) => 3,
            QuotaKey::Counted(Counted::Gpus) => 4,
        }
    }
}

/// An amount for every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charge([u64; QuotaKey::ALL.len()]);

impl Charge {
    /// Nothing.
    pub const NONE: Charge = Charge([0; QuotaKey::ALL.len()]);

    /// Key by key sum, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut sum = self;
        for (to, more) in sum.0.iter_mut().zip(other.0) {
            *to = to.saturating_add(more);
        }
        sum
    }

    /// Key by key difference, not below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let mut rest = self;
        for (to, less) in rest.0.iter_mut().zip(other.0) {
            *to = to.saturating_sub(less);
        }
        rest
    }

    /// CPU and memory of it.
    #[must_use]
    pub fn capacity(self) -> Capacity {
        Capacity {
            cpu: crate::CpuMillis(self[QuotaKey::Resource(Resource::Cpu)]),
            memory: crate::MemoryBytes(self[QuotaKey::Resource(Resource::Memory)]),
        }
    }

    /// What a workload is charged now: as a record from its creation to its removal, its requests while it runs, is to
    /// run, or is between two hosts.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        let mut charge = Self::NONE;
        if workload.desired != DesiredState::Removed {
            charge[QuotaKey::Counted(Counted::Workloads)] = 1;
            charge[QuotaKey::Counted(Counted::PublishedPorts)] = published(&workload.spec);
        }
        if workload.keeps_claim() {
            let request = workload.spec.task.resources.charge();
            charge[QuotaKey::Resource(Resource::Cpu)] = request.cpu.0;
            charge[QuotaKey::Resource(Resource::Memory)] = request.memory.0;
            let gpus = workload.spec.task.gpus.as_ref();
            charge[QuotaKey::Counted(Counted::Gpus)] = gpus.map_or(0, GpuRequest::total_millis);
        }
        charge
    }
}

/// Ports that are published: those that are named, and with `publish_all` every exposed one that is not.
fn published(spec: &WorkloadSpec) -> u64 {
    let named = spec.ports.len() as u64;
    if !spec.publish_all {
        return named;
    }
    let is_named = |exposed: &String| {
        spec.ports
            .iter()
            .any(|it| *exposed == format!("{}/{}", it.port, it.protocol.as_str()))
    };
    let exposed = spec.task.exposed_ports.iter();
    named + exposed.filter(|it| !is_named(it)).count() as u64
}

impl Index<QuotaKey> for Charge {
    type Output = u64;
    fn index(&self, key: QuotaKey) -> &u64 {
        &self.0[key.index()]
    }
}

impl IndexMut<QuotaKey> for Charge {
    fn index_mut(&mut self, key: QuotaKey) -> &mut u64 {
        &mut self.0[key.index()]
    }
}

/// Who is charged how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The pool.
    pub pool: PoolId,
    /// How much.
    pub charge: Charge,
}

impl Claim {
    /// The claim of a workload.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        Self {
            pool: workload.pool.clone(),
            charge: Charge::of(workload),
        }
    }
}

impl Resources {
    /// Fills in what is not given from the defaults of the pool. Doing it again changes nothing.
    pub fn fill(&mut self, defaults: &WorkloadDefaults) {
        let memory_given = self.request.memory_bytes.is_some() || self.memory_reservation.is_some();
        if self.memory_limit.is_none()
            && let Some(limit) = defaults.memory_limit
        {
            self.memory_limit = Some(limit);
            if !memory_given {
                self.request.memory_bytes = defaults.memory_request.map(|it| it.min(limit));
            }
        }
        let quota_given = self.cpu_quota_us.is_some_and(|quota| quota > 0);
        if self.cpu_limit_millis.is_none()
            && !quota_given
            && let Some(limit) = defaults.cpu_limit
        {
            self.cpu_limit_millis = Some(limit);
            if self.request.cpu_millis.is_none() {
                self.request.cpu_millis = defaults.cpu_request.map(|it| it.min(limit));
            }
        }
        self.fallback.cpu_millis = defaults.cpu_request;
        self.fallback.memory_bytes = defaults.memory_request;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ResourceRequest;

    const DEFAULTS: WorkloadDefaults = WorkloadDefaults {
        cpu_request: Some(100),
        cpu_limit: None,
        memory_request: Some(64 << 20),
        memory_limit: Some(256 << 20),
    };

    fn filled(mut resources: Resources) -> Resources {
        resources.fill(&DEFAULTS);
        let once = resources.clone();
        resources.fill(&DEFAULTS);
        assert_eq!(resources, once, "filling again changes nothing");
        resources
    }

    #[test]
    fn exposed_ports_that_are_all_published_are_charged_as_well() {
        let image = format!("sha256:{}", "a".repeat(64));
        let mut spec: WorkloadSpec = serde_json::from_value(serde_json::json!({
            "ports": [{ "port": 80, "protocol": "tcp" }],
            "task": { "image": "web", "image_id": image, "exposed_ports": ["80/tcp", "81/tcp", "80/udp"] },
        }))
        .unwrap();
        assert_eq!(published(&spec), 1);
        spec.publish_all = true;
        assert_eq!(published(&spec), 3);
    }

    #[test]
    fn keys_are_indexed_in_order() {
        for (at, key) in QuotaKey::ALL.into_iter().enumerate() {
            assert_eq!(key.index(), at);
        }
    }

    #[test]
    fn what_says_nothing_is_charged_the_pools_default() {
        let nothing = filled(Resources::default());
        assert_eq!(nothing.memory_limit, Some(256 << 20));
        let charge = nothing.charge();
        assert_eq!((charge.cpu.0, charge.memory.0), (100, 64 << 20));
    }

    #[test]
    fn what_is_given_is_charged_as_before() {
        let given = filled(Resources {
            memory_limit: Some(1 << 30),
            cpu_limit_millis: Some(2000),
            ..Resources::default()
        });
        let charge = given.charge();
        assert_eq!((charge.cpu.0, charge.memory.0), (2000, 1 << 30));
        let asked = filled(Resources {
            request: ResourceRequest {
                cpu_millis: Some(1),
                memory_bytes: Some(2),
            },
            ..Resources::default()
        });
        assert_eq!((asked.charge().cpu.0, asked.charge().memory.0), (1, 2));
    }
}
