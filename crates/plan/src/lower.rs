//! From what is stored to what a host is told: the second border of the way of a workload.
//!
//! What always holds: the result depends on nothing but the arguments, and on no observed status, so that a status
//! report never changes a host's document.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{
    DesiredState, Host, HostDesired, HostWorkload, Image, ImageId, Pool, PoolId, Workload,
    WorkloadId,
};

/// What a host is told of a workload that was placed on it. `above`: the pools its pool is a slice of, outermost
/// first.
#[must_use]
pub fn host_workload(
    workload: &Workload,
    pool: &Pool,
    above: Vec<PoolId>,
    image: &Image,
) -> HostWorkload {
    HostWorkload {
        id: workload.id.clone(),
        pool: pool.id.clone(),
        pool_path: above,
        pool_name: pool.name.clone(),
        name: workload.name.clone(),
        spec: workload.spec.clone(),
        image: image_for_host(image),
        desired: workload.desired,
        run: workload.run,
        gpus: workload.gpus.clone(),
    }
}

/// A host needs the content of an image, not the names a pool gives it: a new tag must not change its document.
fn image_for_host(image: &Image) -> Image {
    Image {
        tags: BTreeSet::new(),
        digests: BTreeSet::new(),
        config: model::ImageConfig {
            history: Vec::new(),
            ..image.config.clone()
        },
        ..image.clone()
    }
}

/// Whether a host must know of the workload at all.
#[must_use]
pub fn concerns_host(workload: &Workload) -> bool {
    match workload.desired {
        DesiredState::Created => false,
        DesiredState::Running
        | DesiredState::Paused
        | DesiredState::Stopped { .. }
        | DesiredState::Removed => workload.host.is_some(),
    }
}

/// The difference that makes `told` what it must be; `None` if it already is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DesiredChange {
    /// New or changed.
    pub upsert: BTreeMap<WorkloadId, Arc<HostWorkload>>,
    /// No longer there.
    pub remove: BTreeSet<WorkloadId>,
    /// Whether the images to drop changed.
    pub drop_images: bool,
    /// Whether a pool's part changed.
    pub pools: bool,
}

/// Compares two documents of one host.
#[must_use]
pub fn desired_change(told: &HostDesired, wanted: &HostDesired) -> Option<DesiredChange> {
    let mut change = DesiredChange {
        drop_images: told.drop_images != wanted.drop_images,
        pools: told.pools != wanted.pools,
        ..DesiredChange::default()
    };
    for (id, workload) in &wanted.workloads {
        let same = told
            .workloads
            .get(id)
            .is_some_and(|old| Arc::ptr_eq(old, workload) || old == workload);
        if !same {
            change.upsert.insert(id.clone(), Arc::clone(workload));
        }
    }
    change.remove = told
        .workloads
        .keys()
        .filter(|id| !wanted.workloads.contains_key(*id))
        .cloned()
        .collect();
    let nothing = change.upsert.is_empty()
        && change.remove.is_empty()
        && !change.drop_images
        && !change.pools;
    (!nothing).then_some(change)
}

/// Images this host has that are named for deletion.
#[must_use]
pub fn drop_images<'a>(
    host: &Host,
    dropped: impl Iterator<Item = &'a ImageId>,
) -> BTreeSet<ImageId> {
    dropped
        .filter(|id| host.status.images.contains(*id))
        .cloned()
        .collect()
}
