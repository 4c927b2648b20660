//! The API's words into the model's: pure functions.
//!
//! What always holds: what cannot be expressed is refused by name. Whether a tenant may have it is decided in `plan`.

use std::collections::BTreeSet;

use model::image::ImageConfig;
use model::placement::{GPU_MILLIS, GpuRequest, Neighbour};
use model::rule::{InvalidRule, Rule};
use model::workload::{
    DeviceMapping, DnsSpec, LogSpec, Mount, MountSource, NamespaceModes, NetworkMode, PortMapping,
    Protocol, ResourceRequest, Resources, Seccomp, Security, Ulimit,
};
use model::{Image, Name, PoolPolicy, RestartPolicy, Role, TaskSpec, WorkloadSpec};
use wire::native::access::{BindingRequest, Role as WireRole};
use wire::native::pool::Policy;
use wire::native::workload as native;

use super::failure::{Failure, Result};
use super::slices;

pub(crate) fn name(field: &str, text: &str) -> Result<Name> {
    Name::parse(text).map_err(|error| Failure::invalid(format!("{field}: {error}")))
}

pub(crate) fn policy(policy: Policy) -> PoolPolicy {
    PoolPolicy {
        host_paths: policy.host_paths,
        privileged: policy.privileged,
        host_namespaces: policy.host_namespaces,
        devices: policy.devices,
        capabilities: policy.capabilities,
        custom_seccomp: policy.custom_seccomp,
        runtimes: policy.runtimes,
    }
}

pub(crate) fn role(role: WireRole) -> Role {
    match role {
        WireRole::Admin => Role::Admin,
        WireRole::PoolAdmin => Role::PoolAdmin,
        WireRole::Developer => Role::Developer,
        WireRole::Viewer => Role::Viewer,
    }
}

pub(crate) fn bindings(requests: Vec<BindingRequest>) -> Vec<(Role, Option<String>)> {
    requests
        .into_iter()
        .map(|request| (role(request.role), request.pool))
        .collect()
}

/// A specification with the image's defaults applied. `network` was resolved before, since it may name a workload.
pub(crate) fn spec(
    spec: native::WorkloadSpec,
    image: &Image,
    network: NetworkMode,
    placement: model::PlacementSpec,
) -> Result<WorkloadSpec> {
    let mut labels = image.config.labels.clone();
    labels.extend(spec.labels);
    let extra_hosts = spec
        .extra_hosts
        .iter()
        .map(|line| match line.split_once(':') {
            Some((name, address)) => Ok((name.to_owned(), address.to_owned())),
            None => Err(Failure::invalid(format!(
                "spec.extra_hosts: \"{line}\" is not of the form name:address"
            ))),
        })
        .collect::<Result<_>>()?;
    Ok(WorkloadSpec {
        labels,
        hostname: spec.hostname,
        domainname: String::new(),
        network,
        networks: Vec::new(),
        ports: spec.ports.into_iter().map(port).collect(),
        publish_all: spec.publish_all,
        dns: DnsSpec {
            servers: spec.dns_servers,
            search: spec.dns_search,
            options: Vec::new(),
        },
        extra_hosts,
        restart: restart(spec.restart),
        auto_remove: spec.auto_remove,
        placement,
        on_host_loss: spec
            .on_host_loss
            .as_deref()
            .map(|text| slices::host_loss("spec.on_host_loss", text))
            .transpose()?,
        priority: spec.priority,
        task: task(spec.task, image)?,
    })
}

#[expect(
    clippy::too_many_lines,
    reason = "like cases one after the other: longer than it is complex"
)]
fn task(task: native::TaskSpec, image: &Image) -> Result<TaskSpec> {
    let config = &image.config;
    let (entrypoint, args) = command(task.entrypoint, task.args, config)?;
    let mut mounts: Vec<Mount> = task.mounts.into_iter().map(mount).collect();
    let covered: BTreeSet<String> = mounts.iter().map(|mount| mount.target.clone()).collect();
    mounts.extend(
        config
            .volumes
            .iter()
            .filter(|target| !covered.contains(*target))
            .map(|target| Mount {
                target: target.clone(),
                read_only: false,
                source: MountSource::Volume {
                    name: String::new(),
                    no_copy: false,
                },
            }),
    );
    let mut exposed_ports = config.exposed_ports.clone();
    exposed_ports.extend(task.exposed_ports);
    let or = |own: String, of_image: &str| {
        if own.is_empty() {
            of_image.to_owned()
        } else {
            own
        }
    };
    Ok(TaskSpec {
        image: task.image,
        image_id: image.id.clone(),
        entrypoint,
        args,
        env: env(&config.env, task.env),
        working_dir: or(task.working_dir, &config.working_dir),
        user: or(task.user, &config.user),
        groups: task.groups,
        tty: task.tty,
        stdin_open: task.stdin_open,
        stdin_once: task.stdin_once,
        init: task.init,
        stop_signal: task
            .stop_signal
            .or_else(|| config.stop_signal.as_deref().and_then(signal)),
        stop_grace_seconds: task.stop_grace_seconds,
        resources: resources(task.resources, Resources::default()),
        security: security(task.security),
        mounts,
        gpus: task.gpus.map(gpus),
        devices: task
            .devices
            .into_iter()
            .map(|device| DeviceMapping {
                host_path: device.host_path,
                path: device.path,
                permissions: device.permissions,
            })
            .collect(),
        sysctls: task.sysctls,
        ulimits: task
            .ulimits
            .into_iter()
            .map(|limit| Ulimit {
                name: limit.name,
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
        shm_bytes: task.shm_bytes,
        log: LogSpec::default(),
        runtime: task.runtime,
        namespaces: NamespaceModes::default(),
        exposed_ports,
    })
}

/// An own entry point hides the image's arguments; own arguments keep the image's entry point.
fn command(
    entrypoint: Option<Vec<String>>,
    args: Option<Vec<String>>,
    config: &ImageConfig,
) -> Result<(Vec<String>, Vec<String>)> {
    let (entrypoint, args) = match (entrypoint, args) {
        (None, None) => (config.entrypoint.clone(), config.cmd.clone()),
        (None, Some(args)) => (config.entrypoint.clone(), args),
        (Some(entrypoint), args) => (entrypoint, args.unwrap_or_default()),
    };
    if entrypoint.is_empty() && args.is_empty() {
        return Err(Failure::invalid(
            "spec.task.args: the image names no program and none was given",
        )
        .hint("name a program after the image"));
    }
    Ok((entrypoint, args))
}

/// The image's variables, each replaced where the request names it, then the request's further ones.
fn env(of_image: &[String], own: Vec<String>) -> Vec<String> {
    fn name(pair: &str) -> &str {
        pair.split('=').next().unwrap_or(pair)
    }
    let named: BTreeSet<String> = own.iter().map(|pair| name(pair).to_owned()).collect();
    let inherited = of_image
        .iter()
        .filter(|pair| !named.contains(name(pair)))
        .cloned();
    inherited.chain(own).collect()
}

/// Numbers of the signals images name in `STOPSIGNAL` (Linux, x86 and ARM).
fn signal(text: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 14] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("URG", 23),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN+") {
        return offset
            .parse::<i32>()
            .ok()
            .filter(|n| (0..=30).contains(n))
            .map(|n| 34 + n);
    }
    NAMES
        .iter()
        .find(|(name, _)| *name == bare)
        .map(|(_, number)| *number)
}

fn port(port: native::PortMapping) -> PortMapping {
    PortMapping {
        port: port.port,
        protocol: match port.protocol {
            native::Protocol::Tcp => Protocol::Tcp,
            native::Protocol::Udp => Protocol::Udp,
            native::Protocol::Sctp => Protocol::Sctp,
        },
        host_ip: port.host_ip,
        host_port: port.host_port,
    }
}

pub(crate) fn restart(restart: native::RestartPolicy) -> RestartPolicy {
    match restart {
        native::RestartPolicy::No => RestartPolicy::No,
        native::RestartPolicy::Always => RestartPolicy::Always,
        native::RestartPolicy::UnlessStopped => RestartPolicy::UnlessStopped,
        native::RestartPolicy::OnFailure { max_retries } => {
            RestartPolicy::OnFailure { max_retries }
        }
    }
}

/// What the native form says, over what only Docker's form can say.
pub(crate) fn resources(resources: native::Resources, rest: Resources) -> Resources {
    // Two ways to say one limit: the one that is asked for replaces the other.
    let (cpu_period_us, cpu_quota_us) = match resources.cpu_limit_millis {
        Some(_) => (None, None),
        None => (rest.cpu_period_us, rest.cpu_quota_us),
    };
    Resources {
        request: ResourceRequest {
            cpu_millis: resources.request_cpu_millis,
            memory_bytes: resources.request_memory_bytes,
        },
        memory_limit: resources.memory_limit_bytes,
        memory_swap: resources.memory_swap_bytes,
        cpu_limit_millis: resources.cpu_limit_millis,
        cpu_shares: resources.cpu_shares,
        cpuset_cpus: resources.cpuset_cpus,
        pids_limit: resources.pids_limit,
        cpu_period_us,
        cpu_quota_us,
        ..rest
    }
}

fn security(security: native::Security) -> Security {
    Security {
        privileged: security.privileged,
        cap_add: security.cap_add.iter().map(|cap| capability(cap)).collect(),
        cap_drop: security
            .cap_drop
            .iter()
            .map(|cap| capability(cap))
            .collect(),
        no_new_privileges: security.no_new_privileges,
        seccomp: Seccomp::Default,
        readonly_rootfs: security.readonly_rootfs,
        masked_paths: None,
        readonly_paths: None,
    }
}

/// `net_admin` and `CAP_NET_ADMIN` are the same.
fn capability(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    }
}

/// Rules for the choice of a host; `resolve` finds what an affinity's key and value stand for.
pub(crate) fn placement(
    placement: &native::Placement,
    resolve: impl Fn(&str, &str) -> Result<Neighbour>,
) -> Result<model::PlacementSpec> {
    let constraints = placement.constraints.iter();
    let affinities = placement.affinities.iter();
    Ok(model::PlacementSpec {
        hosts: constraints
            .map(|text| Ok(Rule::parse(text)?.about_hosts()))
            .collect::<Result<_>>()?,
        affinities: affinities
            .map(|text| Rule::parse(text)?.about_neighbours(&resolve))
            .collect::<Result<_>>()?,
        spread: placement.spread.clone(),
    })
}

impl From<InvalidRule> for Failure {
    fn from(error: InvalidRule) -> Self {
        Failure::invalid(format!("spec.placement: {error}"))
    }
}

fn gpus(gpus: native::Gpus) -> GpuRequest {
    GpuRequest {
        count: gpus.count,
        millis: gpus.millis.unwrap_or(GPU_MILLIS),
        models: gpus.models,
        devices: gpus.devices,
        capabilities: gpus.capabilities,
    }
}

fn mount(mount: native::Mount) -> Mount {
    Mount {
        target: mount.target,
        read_only: mount.read_only,
        source: match mount.source {
            native::MountSource::HostPath { path } => MountSource::HostPath {
                path,
                propagation: String::new(),
                create: false,
            },
            native::MountSource::Volume { name } => MountSource::Volume {
                name,
                no_copy: false,
            },
            native::MountSource::Tmpfs { size_bytes } => MountSource::Tmpfs {
                size_bytes,
                mode: None,
                options: Vec::new(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn own_words_replace_the_images() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"platform":{"architecture":"amd64","os":"linux"},"entrypoint":["/e"],"cmd":["c"]}"#,
        )
        .unwrap();
        let run = |entrypoint: Option<&[&str]>, args: Option<&[&str]>| {
            command(entrypoint.map(texts), args.map(texts), &config).unwrap()
        };
        assert_eq!(run(None, None), (texts(&["/e"]), texts(&["c"])));
        assert_eq!(run(None, Some(&["x"])), (texts(&["/e"]), texts(&["x"])));
        assert_eq!(run(Some(&["/f"]), None), (texts(&["/f"]), texts(&[])));
        assert_eq!(run(Some(&[]), Some(&["x"])), (texts(&[]), texts(&["x"])));
        assert!(command(Some(Vec::new()), None, &config).is_err());
    }

    #[test]
    fn own_variables_replace_the_images() {
        assert_eq!(
            env(&texts(&["PATH=/bin", "A=1"]), texts(&["A=2", "B=3"])),
            texts(&["PATH=/bin", "A=2", "B=3"])
        );
    }

    #[test]
    fn stop_signals_of_images() {
        assert_eq!(signal("SIGQUIT"), Some(3));
        assert_eq!(signal("15"), Some(15));
        assert_eq!(signal("SIGRTMIN+3"), Some(37));
        assert_eq!(signal("nonsense"), None);
    }
}
