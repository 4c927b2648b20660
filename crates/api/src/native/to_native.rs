//! The model's words into the API's.
//!
//! What always holds: names are looked up in the newest snapshot; the name of a pool the caller may not see is left
//! empty.

use control::events::{Event as ControlEvent, Subject};
use control::workloads::{Verdict, WorkloadExplanation};
use control::{Caller, Control};
use model::rule::Rule;
use model::workload::{Hold, HoldKind, MountSource, NetworkMode, Protocol};
use model::{
    AccessToken, Binding, Capacity, DesiredState, Image, Phase, Pool, PoolId, PoolPolicy,
    Principal, RestartPolicy, Role, Timestamp, Workload, WorkloadSpec,
};
use wire::link::TaskStats;
use wire::native::event::Event;
use wire::native::workload as native;
use wire::native::{Amount, Reference, access, image, pool};

use super::{hosts, slices};

/// RFC 3339 in UTC.
pub(crate) fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.millis())
        .unwrap_or_default()
        .to_string()
}

pub(crate) fn amount(capacity: Capacity) -> Amount {
    Amount {
        cpu_millis: capacity.cpu.0,
        memory_bytes: capacity.memory.0,
    }
}

/// A pool with its present name.
pub(crate) fn pool_reference(control: &Control, id: &PoolId) -> Reference {
    let name = control
        .snapshot()
        .pool(id)
        .map(|pool| pool.name.to_string())
        .unwrap_or_default();
    Reference {
        id: id.to_string(),
        name,
    }
}

/// A pool with what it holds; `socket` is where its Docker endpoint listens here.
pub(crate) fn pool(
    control: &Control,
    caller: &Caller,
    pool: &control::Kept<Pool>,
    socket: Option<String>,
) -> control::Result<pool::Pool> {
    let usage = control.pool_usage(caller, &pool.id)?;
    let standing = control.pool_standing(caller, &pool.id)?;
    let parent =
        pool.parent
            .as_ref()
            .map(|parent| match control.pool_find(caller, parent.as_str()) {
                Ok(parent) => Reference {
                    id: parent.id.to_string(),
                    name: parent.name.to_string(),
                },
                Err(_) => Reference {
                    id: parent.to_string(),
                    name: String::new(),
                },
            });
    Ok(pool::Pool {
        id: pool.id.to_string(),
        name: pool.name.to_string(),
        parent,
        description: pool.description.clone(),
        labels: pool.labels.clone(),
        policy: policy(&pool.policy),
        slice: slices::to_wire(&pool.slice),
        standing: slices::standing(&standing),
        revision: pool.revision().0,
        usage: pool::Usage {
            workloads: usage.workloads,
            running: usage.running,
            images: usage.images,
            charged: amount(usage.charged),
        },
        docker_socket: socket,
        created_at: time(pool.created_at),
    })
}

fn policy(policy: &PoolPolicy) -> pool::Policy {
    pool::Policy {
        host_paths: policy.host_paths.clone(),
        privileged: policy.privileged,
        host_namespaces: policy.host_namespaces.clone(),
        devices: policy.devices.clone(),
        capabilities: policy.capabilities.clone(),
        custom_seccomp: policy.custom_seccomp,
        runtimes: policy.runtimes.clone(),
    }
}

pub(crate) fn count(items: impl Iterator) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

fn hold(hold: &Hold) -> native::Hold {
    native::Hold {
        kind: match hold.kind {
            HoldKind::Queued => native::HoldKind::Queued,
            HoldKind::Parked => native::HoldKind::Parked,
            HoldKind::Moving => native::HoldKind::Moving,
            HoldKind::Awaiting { .. } => native::HoldKind::Awaiting,
        },
        reason: hold.reason.clone(),
        since: time(hold.since),
        not_before: time(hold.not_before),
    }
}

/// A workload.
pub(crate) fn workload(control: &Control, workload: &Workload) -> native::Workload {
    let host = workload
        .host
        .as_ref()
        .map(|id| hosts::reference(control, id));
    let left = workload.left.iter();
    let status = &workload.status;
    native::Workload {
        id: workload.id.to_string(),
        name: workload.name.to_string(),
        pool: pool_reference(control, &workload.pool),
        desired: match workload.desired {
            DesiredState::Created => "created",
            DesiredState::Running => "running",
            DesiredState::Paused => "paused",
            DesiredState::Stopped { .. } => "stopped",
            DesiredState::Removed => "removed",
        }
        .to_owned(),
        run: workload.run,
        host,
        placement: workload.placement.clone(),
        hold: workload.hold.as_ref().map(hold),
        left: left
            .map(|(host, since)| native::Left {
                host: hosts::reference(control, host),
                since: time(*since),
            })
            .collect(),
        status: native::Status {
            phase: phase(workload.run, control.workload_phase(workload)),
            pid: status.pid,
            exit_code: status.exit_code,
            oom_killed: status.oom_killed,
            error: status.error.clone(),
            started_at: status.started_at.map(time),
            finished_at: status.finished_at.map(time),
            restart_count: status.restart_count,
            ip: status.network.ip.clone(),
            ports: status.network.ports.iter().map(port).collect(),
            progress: status.progress.clone(),
        },
        spec: spec(&workload.spec),
        image_id: workload.spec.task.image_id.to_string(),
        created_at: time(workload.created_at),
    }
}

fn phase(run: u64, phase: Phase) -> native::Phase {
    match phase {
        Phase::Pending if run == 0 => native::Phase::Created,
        Phase::Pending => native::Phase::Pending,
        Phase::Preparing => native::Phase::Preparing,
        Phase::Running => native::Phase::Running,
        Phase::Paused => native::Phase::Paused,
        Phase::Restarting => native::Phase::Restarting,
        Phase::Exited => native::Phase::Exited,
        Phase::Failed => native::Phase::Failed,
        Phase::Unknown => native::Phase::Unknown,
    }
}

fn spec(spec: &WorkloadSpec) -> native::WorkloadSpec {
    native::WorkloadSpec {
        labels: spec.labels.clone(),
        hostname: spec.hostname.clone(),
        network: match &spec.network {
            NetworkMode::Bridge => "bridge".into(),
            NetworkMode::None => "none".into(),
            NetworkMode::Host => "host".into(),
            NetworkMode::Workload { id } => format!("workload:{id}"),
        },
        ports: spec.ports.iter().map(port).collect(),
        publish_all: spec.publish_all,
        dns_servers: spec.dns.servers.clone(),
        dns_search: spec.dns.search.clone(),
        extra_hosts: spec
            .extra_hosts
            .iter()
            .map(|(name, address)| format!("{name}:{address}"))
            .collect(),
        restart: match spec.restart {
            RestartPolicy::No => native::RestartPolicy::No,
            RestartPolicy::Always => native::RestartPolicy::Always,
            RestartPolicy::UnlessStopped => native::RestartPolicy::UnlessStopped,
            RestartPolicy::OnFailure { max_retries } => {
                native::RestartPolicy::OnFailure { max_retries }
            }
        },
        auto_remove: spec.auto_remove,
        placement: native::Placement {
            constraints: spec
                .placement
                .hosts
                .iter()
                .map(|it| Rule::from(it).to_string())
                .collect(),
            affinities: spec
                .placement
                .affinities
                .iter()
                .map(|it| Rule::from(it).to_string())
                .collect(),
            spread: spec.placement.spread.clone(),
        },
        on_host_loss: spec.on_host_loss.map(|loss| loss.as_str().to_owned()),
        priority: spec.priority,
        task: task(spec),
    }
}

fn task(spec: &WorkloadSpec) -> native::TaskSpec {
    let task = &spec.task;
    native::TaskSpec {
        image: task.image.clone(),
        entrypoint: Some(task.entrypoint.clone()),
        args: Some(task.args.clone()),
        env: task.env.clone(),
        working_dir: task.working_dir.clone(),
        user: task.user.clone(),
        groups: task.groups.clone(),
        tty: task.tty,
        stdin_open: task.stdin_open,
        stdin_once: task.stdin_once,
        init: task.init,
        stop_signal: task.stop_signal,
        stop_grace_seconds: task.stop_grace_seconds,
        resources: native::Resources {
            request_cpu_millis: task.resources.request.cpu_millis,
            request_memory_bytes: task.resources.request.memory_bytes,
            memory_limit_bytes: task.resources.memory_limit,
            memory_swap_bytes: task.resources.memory_swap,
            cpu_limit_millis: task.resources.cpu_limit_millis,
            cpu_shares: task.resources.cpu_shares,
            cpuset_cpus: task.resources.cpuset_cpus.clone(),
            pids_limit: task.resources.pids_limit,
        },
        security: native::Security {
            privileged: task.security.privileged,
            cap_add: task.security.cap_add.clone(),
            cap_drop: task.security.cap_drop.clone(),
            no_new_privileges: task.security.no_new_privileges,
            readonly_rootfs: task.security.readonly_rootfs,
        },
        mounts: task.mounts.iter().map(mount).collect(),
        gpus: task.gpus.as_ref().map(|gpus| native::Gpus {
            count: gpus.count,
            millis: Some(gpus.millis),
            models: gpus.models.clone(),
            devices: gpus.devices.clone(),
            capabilities: gpus.capabilities.clone(),
        }),
        devices: task
            .devices
            .iter()
            .map(|device| native::Device {
                host_path: device.host_path.clone(),
                path: device.path.clone(),
                permissions: device.permissions.clone(),
            })
            .collect(),
        sysctls: task.sysctls.clone(),
        ulimits: task
            .ulimits
            .iter()
            .map(|limit| native::Ulimit {
                name: limit.name.clone(),
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
        shm_bytes: task.shm_bytes,
        runtime: task.runtime.clone(),
        exposed_ports: task.exposed_ports.clone(),
    }
}

fn port(port: &model::workload::PortMapping) -> native::PortMapping {
    native::PortMapping {
        port: port.port,
        protocol: match port.protocol {
            Protocol::Tcp => native::Protocol::Tcp,
            Protocol::Udp => native::Protocol::Udp,
            Protocol::Sctp => native::Protocol::Sctp,
        },
        host_ip: port.host_ip.clone(),
        host_port: port.host_port,
    }
}

fn mount(mount: &model::workload::Mount) -> native::Mount {
    native::Mount {
        target: mount.target.clone(),
        read_only: mount.read_only,
        source: match &mount.source {
            MountSource::HostPath { path, .. } => {
                native::MountSource::HostPath { path: path.clone() }
            }
            MountSource::Volume { name, .. } => native::MountSource::Volume { name: name.clone() },
            MountSource::Tmpfs { size_bytes, .. } => native::MountSource::Tmpfs {
                size_bytes: *size_bytes,
            },
        },
    }
}

/// An image.
pub(crate) fn image(control: &Control, image: &Image) -> image::Image {
    let used = control
        .snapshot()
        .workloads_of(&image.pool)
        .filter(|workload| {
            workload.spec.task.image_id == image.id && workload.desired != DesiredState::Removed
        })
        .count();
    let config = &image.config;
    image::Image {
        id: image.id.to_string(),
        pool: pool_reference(control, &image.pool),
        tags: image.tags.clone(),
        digests: image.digests.clone(),
        platform: format!("{}/{}", config.platform.os, config.platform.architecture),
        size_bytes: config.size_bytes,
        layers: image
            .content
            .layers
            .iter()
            .map(|layer| layer.diff_id.to_string())
            .collect(),
        hosts: u64::try_from(control.hosts_with_image(&image.id)).unwrap_or(u64::MAX),
        workloads: u64::try_from(used).unwrap_or(u64::MAX),
        config: image::Config {
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            args: config.cmd.clone(),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            exposed_ports: config.exposed_ports.clone(),
            volumes: config.volumes.clone(),
            labels: config.labels.clone(),
        },
        built_at: config.created.clone(),
        added_at: time(image.added_at),
    }
}

/// A principal.
pub(crate) fn principal(control: &Control, principal: &Principal) -> access::Principal {
    access::Principal {
        id: principal.id.to_string(),
        name: principal.name.to_string(),
        bindings: principal
            .bindings
            .iter()
            .map(|it| binding(control, it))
            .collect(),
        created_at: time(principal.created_at),
    }
}

fn binding(control: &Control, binding: &Binding) -> access::Binding {
    access::Binding {
        role: match binding.role {
            Role::Admin => access::Role::Admin,
            Role::PoolAdmin => access::Role::PoolAdmin,
            Role::Developer => access::Role::Developer,
            Role::Viewer => access::Role::Viewer,
        },
        pool: binding
            .pool
            .as_ref()
            .map(|pool| pool_reference(control, pool)),
    }
}

/// A token without its secret.
pub(crate) fn token(control: &Control, token: &AccessToken) -> access::Token {
    let name = control
        .snapshot()
        .principal(&token.principal)
        .map(|principal| principal.name.to_string())
        .unwrap_or_default();
    access::Token {
        id: token.id.to_string(),
        principal: Reference {
            id: token.principal.to_string(),
            name,
        },
        description: token.description.clone(),
        created_at: time(token.created_at),
        expires_at: token.expires_at.map(time),
    }
}

/// An event.
pub(crate) fn event(control: &Control, event: &ControlEvent) -> Event {
    Event {
        time: time(event.time),
        pool: event
            .pool
            .as_ref()
            .map(|pool| pool_reference(control, pool)),
        subject: match event.subject {
            Subject::Workload => "workload",
            Subject::Image => "image",
            Subject::Pool => "pool",
            Subject::Host => "host",
        }
        .to_owned(),
        action: event.action.clone(),
        id: event.id.clone(),
        attributes: event.attributes.clone(),
    }
}

/// Measures.
pub(crate) fn stats(stats: &TaskStats) -> native::Stats {
    let (rx, tx) = stats.networks.values().fold((0u64, 0u64), |sum, network| {
        (
            sum.0.saturating_add(network.rx.0),
            sum.1.saturating_add(network.tx.0),
        )
    });
    native::Stats {
        read_at: time(Timestamp(stats.read_ms)),
        read_ms: stats.read_ms,
        cpu_total_ns: stats.cpu_total_ns,
        host_cpu_ns: stats.host_cpu_ns,
        cpus: stats.cpus,
        memory_bytes: stats
            .memory_usage
            .saturating_sub(stats.memory_inactive_file),
        memory_limit_bytes: stats.memory_limit,
        pids: stats.pids,
        block_read_bytes: stats.block_io.0,
        block_write_bytes: stats.block_io.1,
        network_rx_bytes: rx,
        network_tx_bytes: tx,
    }
}

/// Why a workload is where it is, and what every host would say to it now.
pub(crate) fn explanation(of: WorkloadExplanation) -> native::Explanation {
    let hosts = of.now.hosts.into_iter().map(|host| {
        let (mut filter, mut reason, mut score) = (None, None, None);
        match host.verdict {
            Verdict::Refused {
                filter: first,
                reason: why,
            } => {
                filter = Some(first.to_owned());
                reason = Some(why);
            }
            Verdict::Fits(it) => {
                score = Some(native::PlacementScore {
                    failures: it.failures,
                    zone_alike: it.zone_alike,
                    host_alike: it.host_alike,
                    fragments: it.fragments,
                    load: it.load,
                });
            }
        }
        native::HostVerdict {
            host: host.name,
            filter,
            reason,
            score,
        }
    });
    native::Explanation {
        host: of.host,
        placement: of.placement,
        chosen: of.now.chosen,
        given_up: of.now.given_up,
        hosts: hosts.collect(),
    }
}
