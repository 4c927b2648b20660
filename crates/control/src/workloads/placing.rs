//! From the snapshot to the values placement decides on.

use std::collections::BTreeMap;

use model::workload::NetworkMode;
use model::{HostId, PlacementPolicy, Pool, PoolId, Workload};
use plan::place::Wanted;
use store::{Row, Snapshot};

/// What placement has to know of a workload beyond its record, by the snapshot.
pub(crate) struct Circumstances {
    not_on: Vec<HostId>,
    architecture: String,
    image_bytes: u64,
    pinned: Option<HostId>,
    policy: PlacementPolicy,
    pool_hosts: Vec<BTreeMap<String, String>>,
}

impl Circumstances {
    pub(crate) fn of(snapshot: &Snapshot, workload: &Workload) -> Self {
        let pools = ancestors(snapshot, &workload.pool);
        let policy = pools.iter().find_map(|pool| pool.slice.placement);
        let demands = pools.iter().map(|pool| &pool.slice.hosts);
        let pool_hosts = demands
            .filter(|labels| !labels.is_empty())
            .cloned()
            .collect();
        let image = snapshot.image(&workload.pool, &workload.spec.task.image_id);
        let layers = image.iter().flat_map(|image| &image.value().content.layers);
        let pinned = match &workload.spec.network {
            NetworkMode::Workload { id } => snapshot.workload(id).and_then(|it| it.host.clone()),
            NetworkMode::Bridge | NetworkMode::None | NetworkMode::Host => None,
        };
        Self {
            not_on: workload.left.keys().cloned().collect(),
            architecture: image.as_ref().map_or_else(String::new, |image| {
                image.config.platform.architecture.clone()
            }),
            image_bytes: layers.map(|layer| layer.blob_bytes).sum(),
            pinned,
            policy: policy.unwrap_or_default(),
            pool_hosts,
        }
    }

    pub(crate) fn wanted<'a>(&'a self, workload: &'a Workload, seed: u64) -> Wanted<'a> {
        Wanted {
            id: Some(&workload.id),
            pool: &workload.pool,
            spec: &workload.spec,
            architecture: &self.architecture,
            image_bytes: self.image_bytes,
            pinned: self.pinned.as_ref(),
            not_on: &self.not_on,
            policy: self.policy,
            pool_hosts: &self.pool_hosts,
            seed,
        }
    }
}

/// Priority of a workload in its pool: its own, else its pool's.
pub(crate) fn priority_of(snapshot: &Snapshot, workload: &Workload) -> i32 {
    let of_pool = || {
        let pool = snapshot.pool(&workload.pool);
        pool.map_or(0, |pool| pool.slice.priority)
    };
    workload.spec.priority.unwrap_or_else(of_pool)
}

/// Levels of pools that are looked at: far more than anybody nests, and a cycle would end.
const DEPTH_MAX: usize = 64;

/// A pool and those above it.
fn ancestors<'a>(snapshot: &'a Snapshot, pool: &PoolId) -> Vec<Row<'a, Pool>> {
    let above = |pool: &Row<'a, Pool>| snapshot.pool(pool.value().parent.as_ref()?);
    std::iter::successors(snapshot.pool(pool), above)
        .take(DEPTH_MAX)
        .collect()
}
