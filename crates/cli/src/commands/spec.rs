//! From the options of `run` to a specification: pure apart from reading env files and this program's environment.

use wire::native::workload::{
    Device, Gpus, Placement, Resources, Security, TaskSpec, Ulimit, WorkloadCreate, WorkloadSpec,
};

use crate::args::{PlacementArgs, RunArgs};
use crate::error::{Doing as _, Failure, Result};
use crate::exit;

/// The request `run` sends.
pub(super) fn create(args: &RunArgs) -> Result<WorkloadCreate> {
    let attach = &args.attach;
    let mut mounts = attach.volume.clone();
    mounts.extend(attach.tmpfs.iter().cloned());
    let spec = WorkloadSpec {
        labels: args.labels.iter().cloned().collect(),
        hostname: args.hostname.clone().unwrap_or_default(),
        network: attach.network.clone(),
        ports: attach
            .publish
            .iter()
            .flat_map(|ports| ports.0.clone())
            .collect(),
        publish_all: attach.publish_all,
        dns_servers: attach.dns.clone(),
        dns_search: Vec::new(),
        extra_hosts: attach.add_host.clone(),
        restart: args.restart.unwrap_or_default(),
        auto_remove: args.rm,
        placement: placement(&args.placement),
        on_host_loss: args.placement.on_host_loss.clone(),
        priority: args.placement.priority,
        task: TaskSpec {
            image: args.image.clone(),
            entrypoint: args.entrypoint.as_ref().map(|program| {
                if program.is_empty() {
                    Vec::new()
                } else {
                    vec![program.clone()]
                }
            }),
            args: (!args.command.is_empty()).then(|| args.command.clone()),
            env: env(&args.env, &args.env_file)?,
            working_dir: args.workdir.clone().unwrap_or_default(),
            user: args.user.clone().unwrap_or_default(),
            groups: args.group_add.clone(),
            tty: args.tty,
            stdin_open: args.interactive,
            stdin_once: args.interactive && !args.detach,
            init: args.init,
            stop_signal: args.stop_signal,
            stop_grace_seconds: args
                .stop_grace
                .map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)),
            resources: resources(args),
            security: security(args),
            mounts,
            gpus: gpus(&args.placement),
            devices: args.limits.device.iter().map(|text| device(text)).collect(),
            sysctls: args.limits.sysctl.iter().cloned().collect(),
            ulimits: args
                .limits
                .ulimit
                .iter()
                .map(|text| ulimit(text))
                .collect::<Result<_>>()?,
            shm_bytes: attach.shm_size,
            runtime: args.runtime.clone(),
            exposed_ports: std::collections::BTreeSet::new(),
        },
    };
    Ok(WorkloadCreate {
        name: args.name.clone(),
        spec,
    })
}

fn resources(args: &RunArgs) -> Resources {
    let limits = &args.limits;
    Resources {
        request_cpu_millis: limits.request_cpus,
        request_memory_bytes: limits.request_memory,
        memory_limit_bytes: limits.memory,
        memory_swap_bytes: None,
        cpu_limit_millis: limits.cpus,
        cpu_shares: limits.cpu_shares,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        pids_limit: limits.pids_limit,
    }
}

fn security(args: &RunArgs) -> Security {
    Security {
        privileged: args.limits.privileged,
        cap_add: args.limits.cap_add.clone(),
        cap_drop: args.limits.cap_drop.clone(),
        no_new_privileges: args.limits.no_new_privileges,
        readonly_rootfs: args.attach.read_only,
    }
}

fn placement(args: &PlacementArgs) -> Placement {
    Placement {
        constraints: args.constraint.clone(),
        affinities: args.affinity.clone(),
        spread: args.spread.clone(),
    }
}

fn gpus(args: &PlacementArgs) -> Option<Gpus> {
    Some(Gpus {
        count: args.gpus?,
        millis: args.gpu_millis,
        models: args.gpu_model.iter().cloned().collect(),
        devices: Default::default(),
        capabilities: Default::default(),
    })
}

/// `NAME=value` as it is; `NAME` with its value here, or left out if it has none. Files come first.
pub(super) fn env(pairs: &[String], files: &[std::path::PathBuf]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(file).doing(|| format!("cannot read {}", file.display()))?;
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        out.extend(lines.map(str::to_owned));
    }
    out.extend(pairs.iter().cloned());
    out.into_iter()
        .filter_map(|pair| match pair.split_once('=') {
            Some(("", _)) => Some(Err(Failure::new(
                exit::USAGE,
                format!("\"{pair}\" names no environment variable"),
            ))),
            Some(_) => Some(Ok(pair)),
            None => std::env::var(&pair)
                .ok()
                .map(|value| Ok(format!("{pair}={value}"))),
        })
        .collect()
}

fn device(text: &str) -> Device {
    let parts: Vec<&str> = text.split(':').collect();
    let (host_path, path, permissions) = match parts[..] {
        [host, path, permissions] => (host, path, permissions),
        [host, path] => (host, path, "rwm"),
        _ => (text, text, "rwm"),
    };
    Device {
        host_path: host_path.into(),
        path: path.into(),
        permissions: permissions.into(),
    }
}

fn ulimit(text: &str) -> Result<Ulimit> {
    let bad = || {
        Failure::new(exit::USAGE, format!("\"{text}\" is not a process limit"))
            .hint("write NAME=SOFT[:HARD], as in nofile=1024:4096")
    };
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Ok(Ulimit {
        name: name.to_owned(),
        soft: soft.parse().map_err(|_| bad())?,
        hard: hard.parse().map_err(|_| bad())?,
    })
}
