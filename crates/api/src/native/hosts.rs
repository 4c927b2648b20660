//! Hosts between the model's words and the API's.

use control::copies::{OnlyCopy, OnlyImage};
use control::maintenance::{HostCondition, HostOutlook, HostUpdate, Leaving, Outlook};
use control::{Caller, Control};
use model::resources::host_reserve;
use model::{Host, HostId, HostPool, PoolId, PoolUsage, Timestamp};
use wire::native::Reference;
use wire::native::host as wire_host;

use super::to_native::{amount, count, pool_reference, time};

/// A host with its present name; empty if it is not known any more.
pub(crate) fn reference(control: &Control, id: &HostId) -> Reference {
    let snapshot = control.snapshot();
    Reference {
        id: id.to_string(),
        name: snapshot
            .host(id)
            .map(|host| host.name.to_string())
            .unwrap_or_default(),
    }
}

fn state(condition: HostCondition) -> wire_host::State {
    match condition {
        HostCondition::Ready => wire_host::State::Ready,
        HostCondition::Cordoned => wire_host::State::Cordoned,
        HostCondition::Draining => wire_host::State::Draining,
        HostCondition::Drained => wire_host::State::Drained,
        HostCondition::Unreachable => wire_host::State::Unreachable,
        HostCondition::Lost => wire_host::State::Lost,
    }
}

fn drain(host: &Host) -> Option<wire_host::Drain> {
    host.drain.map(|drain| wire_host::Drain {
        since: time(drain.since),
        stop_rest: drain.stop_rest,
    })
}

/// A host as lists show it.
pub(crate) fn host(control: &Control, host: &Host) -> wire_host::Host {
    let (status, facts) = (&host.status, &host.status.facts);
    let load = control.host_load(&host.id);
    let gpus = facts.gpus.iter().map(|gpu| wire_host::Gpu {
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        model: gpu.model.clone(),
        used_millis: load.gpus.get(&gpu.uuid).copied().unwrap_or(0),
    });
    wire_host::Host {
        id: host.id.to_string(),
        name: host.name.to_string(),
        zone: host.zone.clone(),
        labels: host.labels.clone(),
        state: state(control.host_condition(host)),
        cordoned: host.cordoned,
        drain: drain(host),
        workloads: count(control.snapshot().workloads_on(&host.id)),
        capacity: amount(facts.capacity),
        reserve: amount(host_reserve(facts.capacity)),
        overcommit: wire_host::Overcommit {
            cpu_percent: host.overcommit.cpu_percent,
            memory_percent: host.overcommit.memory_percent,
        },
        room: amount(host.room()),
        requested: amount(load.requested),
        gpus: gpus.collect(),
        pools: Vec::new(),
        cpus: facts.cpus,
        architecture: facts.architecture.clone(),
        kernel: facts.kernel.clone(),
        os: facts.os.clone(),
        cgroup: facts.cgroup.clone(),
        address: facts.address.clone(),
        agent_version: facts.agent_version.clone(),
        runtimes: facts.runtimes.clone(),
        images: count(status.images.iter()),
        last_seen_at: status.last_seen.map(time),
        silent_since: silent_since(host).map(time),
        lost_at: status.lost_at.map(time),
        joined_at: time(host.joined_at),
    }
}

/// When a host without a link was heard last.
fn silent_since(host: &Host) -> Option<Timestamp> {
    let status = &host.status;
    let silent_ms = i64::try_from(status.silent_ms).unwrap_or(i64::MAX);
    let ended = status.last_seen.filter(|_| !status.connected)?;
    Some(ended.plus_millis(silent_ms.saturating_neg()))
}

/// A host by itself, with its parts of pools.
pub(crate) fn whole_host(control: &Control, record: &Host) -> wire_host::Host {
    let snapshot = control.snapshot();
    let measures = control.host_measures();
    let used = measures.get(&record.id).map(|measure| &measure.usage);
    let division = snapshot.division(&record.id);
    let parts = division.iter().flat_map(|division| &division.pools);
    let mut pools: Vec<wire_host::PoolPart> = parts
        .map(|(pool, part)| pool_part(control, pool, part, used.and_then(|used| used.get(pool))))
        .collect();
    pools.sort_by(|a, b| a.pool.name.cmp(&b.pool.name));
    wire_host::Host {
        pools,
        ..host(control, record)
    }
}

fn pool_part(
    control: &Control,
    pool: &PoolId,
    part: &HostPool,
    used: Option<&PoolUsage>,
) -> wire_host::PoolPart {
    wire_host::PoolPart {
        pool: pool_reference(control, pool),
        cpu_weight: part.cpu_weight,
        cpu_limit_millis: part.cpu_limit.map(|it| it.0),
        memory_limit_bytes: part.memory_limit.map(|it| it.0),
        memory_protected_bytes: part.memory_low.0,
        cpu_used_millis: used.map(|used| used.cpu_used.0),
        memory_used_bytes: used.map(|used| used.memory_working_set.0),
    }
}

/// A change of a host.
pub(crate) fn update(update: wire_host::Update) -> HostUpdate {
    HostUpdate {
        labels: update.labels,
        labels_removed: update.labels_removed,
        cpu_percent: update.cpu_overcommit_percent,
        memory_percent: update.memory_overcommit_percent,
    }
}

/// What becomes of what is on a host.
pub(crate) fn outlook(control: &Control, outlook: &HostOutlook) -> wire_host::Outlook {
    wire_host::Outlook {
        host: Reference {
            id: outlook.host.id.to_string(),
            name: outlook.host.name.to_string(),
        },
        state: state(outlook.condition),
        drain: drain(&outlook.host),
        workloads: outlook
            .workloads
            .iter()
            .map(|it| leaving(control, it))
            .collect(),
        images: outlook
            .images
            .iter()
            .map(|it| only_image(control, it))
            .collect(),
    }
}

fn only_image(control: &Control, image: &OnlyImage) -> wire_host::OnlyImage {
    wire_host::OnlyImage {
        image: Reference {
            id: image.id.to_string(),
            name: image.name.clone(),
        },
        pool: pool_reference(control, &image.pool),
        can_be_copied: match image.fate {
            OnlyCopy::Leaves => true,
            OnlyCopy::Stays => false,
        },
    }
}

fn leaving(control: &Control, leaving: &Leaving) -> wire_host::Leaving {
    use wire_host::Fate;
    let (fate, to, reason) = match &leaving.outlook {
        Outlook::Moves(to) => (Fate::Moves, Some(to), None),
        Outlook::Moving => (Fate::Moving, None, None),
        Outlook::Moved(to) => (Fate::Moved, to.as_ref(), None),
        Outlook::Waits(why) => (Fate::Waits, None, Some(why)),
        Outlook::Stays(why) => (Fate::Stays, None, Some(why)),
        Outlook::Stops(why) => (Fate::Stops, None, Some(why)),
        Outlook::Idle(why) => (Fate::Idle, None, Some(why)),
    };
    let workload = &leaving.workload;
    wire_host::Leaving {
        workload: Reference {
            id: workload.id.to_string(),
            name: workload.name.to_string(),
        },
        pool: pool_reference(control, &workload.pool),
        fate,
        to: to.map(|id| reference(control, id)),
        reason: reason.cloned(),
    }
}

/// The hosts a caller may see, as lists show them.
pub(crate) fn hosts(control: &Control, caller: &Caller) -> control::Result<Vec<wire_host::Host>> {
    let hosts = control.host_list(caller)?;
    Ok(hosts.iter().map(|it| host(control, it)).collect())
}
