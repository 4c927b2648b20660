//! From what is stored to what a host is told: the second border of the way of a workload.
//!
//! What always holds: the result depends on nothing but the arguments, and on no observed status, so that a status
//! report never changes a host's document.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::workload::DeviceMapping;
use model::{
    DesiredState, Host, HostDesired, HostEndpoint, HostWorkload, Image, ImageId, PlacementSpec,
    Pool, PoolId, Workload, WorkloadId, WorkloadSpec,
};

/// Where a workload belongs, and what that means for it.
#[derive(Debug, Clone)]
pub struct Belonging<'a> {
    /// Its pool.
    pub pool: &'a Pool,
    /// The pools its pool is a slice of, outermost first.
    pub above: Vec<PoolId>,
    /// Its attachments to networks.
    pub endpoints: Vec<HostEndpoint>,
    /// After how long without a word its host is taken as lost, in milliseconds, if it must never run twice; `None`: it
    /// may go on.
    pub lost_after_ms: Option<u32>,
    /// Whether its pool, or one above it, has a limit.
    pub bounded: bool,
}

/// Of the time after which a host is taken as lost, the part after which it has ended what must never run twice, in
/// hundredths: what is left is for killing, and for clocks that do not run alike.
const FENCE_PART: u64 = 75;

/// What a host is told of a workload that was placed on it.
#[must_use]
pub fn host_workload(workload: &Workload, to: Belonging<'_>, image: &Image) -> HostWorkload {
    let Belonging {
        pool,
        above,
        endpoints,
        lost_after_ms,
        bounded,
    } = to;
    let fence = |ms: u32| u32::try_from(u64::from(ms) * FENCE_PART / 100).unwrap_or(u32::MAX);
    HostWorkload {
        id: workload.id.clone(),
        pool: pool.id.clone(),
        pool_path: above,
        pool_name: pool.name.clone(),
        name: workload.name.clone(),
        spec: spec_for_host(workload),
        endpoints,
        image: image_for_host(image),
        desired: workload.wanted_on_host(),
        run: workload.run,
        fence_ms: lost_after_ms.map(fence),
        bounded,
    }
}

/// What a host is told of a workload that was taken away from it: to remove whatever is left.
#[must_use]
pub fn left_workload(workload: &Workload, to: Belonging<'_>, image: &Image) -> HostWorkload {
    HostWorkload {
        desired: DesiredState::Removed,
        fence_ms: None,
        bounded: false,
        ..host_workload(workload, to, image)
    }
}

/// The specification with what the host has to do written out: GPUs as device nodes and the variables NVIDIA's tools
/// look at, and no rules of placement.
fn spec_for_host(workload: &Workload) -> WorkloadSpec {
    let mut spec = workload.spec.clone();
    spec.placement = PlacementSpec::default();
    spec.networks = Vec::new();
    spec.on_host_loss = None;
    spec.priority = None;
    let Some(request) = spec.task.gpus.take() else {
        return spec;
    };
    let nodes = workload.gpus.iter().flat_map(|share| &share.nodes);
    let nodes: BTreeSet<&String> = nodes.collect();
    spec.task
        .devices
        .extend(nodes.into_iter().map(|node| DeviceMapping {
            host_path: node.clone(),
            path: node.clone(),
            permissions: "rw".into(),
        }));
    let uuids: Vec<&str> = workload.gpus.iter().map(|it| it.uuid.as_str()).collect();
    let own = ["NVIDIA_VISIBLE_DEVICES=", "NVIDIA_DRIVER_CAPABILITIES="];
    let env = &mut spec.task.env;
    env.retain(|entry| !entry.starts_with(own[0]));
    env.push(format!("{}{}", own[0], uuids.join(",")));
    if !request.capabilities.is_empty() {
        let wanted: Vec<&str> = request.capabilities.iter().map(String::as_str).collect();
        env.retain(|entry| !entry.starts_with(own[1]));
        env.push(format!("{}{}", own[1], wanted.join(",")));
    }
    spec
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
    match workload.wanted_on_host() {
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
    /// Whether the images to fetch changed.
    pub fetch_images: bool,
    /// Whether a pool's part changed.
    pub pools: bool,
}

/// Compares two documents of one host.
#[must_use]
pub fn desired_change(told: &HostDesired, wanted: &HostDesired) -> Option<DesiredChange> {
    let mut change = DesiredChange {
        drop_images: told.drop_images != wanted.drop_images,
        fetch_images: told.fetch_images != wanted.fetch_images,
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
        && !change.fetch_images
        && !change.pools;
    (!nothing).then_some(change)
}

/// Images this host has that are named for deletion, each with the revision of the order. An image that a pool has
/// is not deleted, whatever is named: a pool may have got it in the same moment in which another let go of it.
#[must_use]
pub fn drop_images(
    host: &Host,
    orders: &BTreeMap<ImageId, u64>,
    in_pools: &BTreeSet<ImageId>,
) -> BTreeMap<ImageId, u64> {
    orders
        .iter()
        .filter(|(id, _)| host.status.images.contains(*id) && !in_pools.contains(*id))
        .map(|(id, order)| (id.clone(), *order))
        .collect()
}

/// What a host is told of an image that it is to fetch without a workload; of the records that several pools may have of
/// one image, that of the pool that had it first is told, so that no other pool can change it.
#[must_use]
pub fn fetch_image<'a>(records: impl Iterator<Item = &'a Image>) -> Option<Image> {
    let first = records.min_by_key(|image| (image.added_at, &image.pool))?;
    Some(image_for_host(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn gpus_become_device_nodes_and_variables() {
        let image = format!("sha256:{}", "a".repeat(64));
        let workload: Workload = serde_json::from_value(json!({
            "id": WorkloadId::from_bytes(&[1; 32]), "pool": PoolId::from_bytes(&[1; 32]), "name": "w",
            "spec": {
                "placement": { "spread": "web" },
                "task": {
                    "image": "web", "image_id": image, "env": ["A=1", "NVIDIA_VISIBLE_DEVICES=all"],
                    "gpus": { "count": 2, "capabilities": ["compute"] },
                },
            },
            "desired": DesiredState::Running, "run": 1, "host": null, "created_at": 0,
            "gpus": [
                { "uuid": "GPU-a", "millis": 1000, "nodes": ["/dev/nvidia0", "/dev/nvidiactl"] },
                { "uuid": "GPU-b", "millis": 1000, "nodes": ["/dev/nvidia1", "/dev/nvidiactl"] },
            ],
        }))
        .unwrap();
        let spec = spec_for_host(&workload);
        assert_eq!(
            spec.task.env,
            [
                "A=1",
                "NVIDIA_VISIBLE_DEVICES=GPU-a,GPU-b",
                "NVIDIA_DRIVER_CAPABILITIES=compute"
            ]
        );
        let nodes: Vec<&str> = spec
            .task
            .devices
            .iter()
            .map(|it| it.path.as_str())
            .collect();
        assert_eq!(nodes, ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"]);
        assert!(spec.placement.is_empty(), "the host has no choice left");
    }
}
