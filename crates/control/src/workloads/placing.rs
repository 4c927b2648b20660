//! From the snapshot to the values placement decides on.

use model::workload::NetworkMode;
use model::{HostId, Workload};
use plan::place::{Candidate, Wanted};
use store::{Row, Snapshot};

use crate::error::{Error, ErrorKind, Result};

/// The host of a workload: where it is already, since its files are there, else the best.
pub(super) fn choose_host(
    snapshot: &Snapshot,
    workload: &Workload,
    seed: u64,
) -> Result<(HostId, String)> {
    if let Some(host) = &workload.host
        && snapshot.host(host).is_some()
    {
        let kept = workload
            .placement
            .clone()
            .unwrap_or_else(|| "it was there before".into());
        return Ok((host.clone(), kept));
    }
    let image = snapshot.image(&workload.pool, &workload.spec.task.image_id);
    let image_bytes: u64 = image.as_ref().map_or(0, |image| {
        image
            .content
            .layers
            .iter()
            .map(|layer| layer.blob_bytes)
            .sum()
    });
    let hosts: Vec<Row<'_, model::Host>> = snapshot.hosts().collect();
    let candidates: Vec<Candidate<'_>> = hosts
        .iter()
        .map(|host| {
            let mut candidate = Candidate {
                host: host.value(),
                charged: model::Capacity::default(),
                workloads: 0,
                ports: std::collections::BTreeSet::new(),
                missing_image_bytes: plan::place::missing_image_bytes(
                    host.value(),
                    &workload.spec.task.image_id,
                    image_bytes,
                ),
            };
            for other in snapshot
                .workloads_on(&host.id)
                .filter(|other| other.takes_room())
            {
                candidate.charged = candidate.charged.plus(other.spec.task.resources.charge());
                candidate.workloads += 1;
                let ports = other
                    .spec
                    .ports
                    .iter()
                    .filter_map(|p| Some((p.protocol, p.host_port?)));
                candidate.ports.extend(ports);
            }
            candidate
        })
        .collect();
    let pinned = match &workload.spec.network {
        NetworkMode::Workload { id } => snapshot.workload(id).and_then(|other| other.host.clone()),
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Host => None,
    };
    let architecture = image.as_ref().map_or("", |image| {
        image.value().config.platform.architecture.as_str()
    });
    let wanted = Wanted {
        spec: &workload.spec,
        architecture,
        pinned: pinned.as_ref(),
        seed,
    };
    let placement = plan::place::place(wanted, &candidates);
    let sentence = placement.sentence();
    match placement.host {
        Some(host) => Ok((host, sentence)),
        None => Err(Error::new(ErrorKind::Exhausted, sentence)),
    }
}
