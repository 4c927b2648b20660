//! Containers in lists and inspects.

use model::workload::{HoldKind, MountSource};
use model::{DesiredState, Phase, Timestamp, Workload};
use serde_json::{Map, Value, json};

use super::host_config::{host_config, mounts};
use super::network::{attachments, network_mode, port_list, settings};
use super::text::{command_line, human_duration, rfc3339, rfc3339_or_never};
use crate::docker::from_docker::small::signal_name;

/// Docker's states of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::docker) enum State {
    /// Made, never started (or its start failed).
    Created,
    /// A process of it exists.
    Running,
    /// It is frozen.
    Paused,
    /// It waits for its next start by policy.
    Restarting,
    /// It is being removed.
    Removing,
    /// It ended.
    Exited,
}

impl State {
    /// The state of a workload, as last observed.
    pub(in crate::docker) fn of(workload: &Workload) -> Self {
        let status = &workload.status;
        if workload.desired == DesiredState::Removed {
            return State::Removing;
        }
        match status.phase {
            Phase::Running => State::Running,
            Phase::Paused => State::Paused,
            Phase::Restarting => State::Restarting,
            Phase::Exited => State::Exited,
            Phase::Pending | Phase::Preparing | Phase::Failed | Phase::Unknown => {
                if status.started_at.is_some() {
                    State::Exited
                } else {
                    State::Created
                }
            }
        }
    }

    /// Docker's word.
    pub(in crate::docker) fn word(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Restarting => "restarting",
            State::Removing => "removing",
            State::Exited => "exited",
        }
    }
}

/// The column STATUS of `docker ps`.
fn status_text(workload: &Workload, reachable: bool, now: Timestamp) -> String {
    let status = &workload.status;
    let since =
        |time: Option<Timestamp>| human_duration(now.millis() - time.unwrap_or(now).millis());
    let text = match State::of(workload) {
        State::Created if !status.progress.is_empty() => format!("Created ({})", status.progress),
        State::Created => "Created".to_owned(),
        State::Running => format!("Up {}", since(status.started_at)),
        State::Paused => format!("Up {} (Paused)", since(status.started_at)),
        State::Restarting => format!(
            "Restarting ({}) {} ago",
            status.exit_code,
            since(status.finished_at)
        ),
        State::Removing => "Removal In Progress".to_owned(),
        State::Exited => format!(
            "Exited ({}) {} ago",
            status.exit_code,
            since(status.finished_at)
        ),
    };
    let text = match held(workload) {
        Some(word) => format!("{text} ({word})"),
        None => text,
    };
    if reachable {
        text
    } else {
        format!("{text} (host unreachable)")
    }
}

/// Why it does not run although that is wanted, in a word or two; Docker has no state for it.
fn held(workload: &Workload) -> Option<&'static str> {
    let hold = workload.hold.as_ref()?;
    Some(match hold.kind {
        HoldKind::Queued => "queued",
        HoldKind::Parked => "parked",
        HoldKind::Moving => "moving",
        HoldKind::Awaiting { .. } => "waiting for room",
    })
}

/// What went wrong, or why it waits.
fn error_text(workload: &Workload) -> String {
    match (held(workload), &workload.hold) {
        (Some(word), Some(hold)) => format!("{word}: {}", hold.reason),
        _ => workload.status.error.clone(),
    }
}

/// What a list needs beside the workload.
#[derive(Debug, Clone)]
pub(in crate::docker) struct ListContext<'a> {
    /// What is shown as the image: its name, or its id if the name now means another one.
    pub(in crate::docker) image: &'a str,
    /// Whether its host can be reached.
    pub(in crate::docker) reachable: bool,
    /// Now.
    pub(in crate::docker) now: Timestamp,
    /// Unpacked size of its image in bytes, if sizes are wanted.
    pub(in crate::docker) image_bytes: Option<u64>,
}

/// An entry of `GET /containers/json`.
pub(in crate::docker) fn list_entry(workload: &Workload, context: &ListContext<'_>) -> Value {
    let task = &workload.spec.task;
    let mut entry = json!({
        "Id": workload.id.as_str(),
        "Names": [format!("/{}", workload.name)],
        "Image": context.image,
        "ImageID": task.image_id.as_str(),
        "Command": command_line(task.entrypoint.iter().chain(&task.args)),
        "Created": workload.created_at.millis() / 1000,
        "Ports": port_list(workload),
        "Labels": workload.spec.labels,
        "State": State::of(workload).word(),
        "Status": status_text(workload, context.reachable, context.now),
        "HostConfig": { "NetworkMode": network_mode(&workload.spec.network) },
        "NetworkSettings": { "Networks": attachments(workload) },
        "Mounts": mounts(&task.mounts),
    });
    if let (Some(bytes), Value::Object(map)) = (context.image_bytes, &mut entry) {
        map.insert("SizeRootFs".into(), json!(bytes));
    }
    entry
}

/// `GET /containers/{id}/json`.
pub(in crate::docker) fn inspect(
    workload: &Workload,
    execs: &[String],
    image_bytes: Option<u64>,
) -> Value {
    let task = &workload.spec.task;
    let mut words = task.entrypoint.iter().chain(&task.args);
    let path = words.next().map_or("", String::as_str);
    let args: Vec<&String> = words.collect();
    let mut value = json!({
        "Id": workload.id.as_str(),
        "Created": rfc3339(workload.created_at),
        "Path": path,
        "Args": args,
        "State": state(workload),
        "Image": task.image_id.as_str(),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": "",
        "Name": format!("/{}", workload.name),
        "RestartCount": workload.status.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": host_config(&workload.spec),
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "Mounts": mounts(&task.mounts),
        "Config": config(workload),
        "NetworkSettings": settings(workload),
    });
    if let (Some(bytes), Value::Object(map)) = (image_bytes, &mut value) {
        map.insert("SizeRootFs".into(), json!(bytes));
    }
    value
}

fn state(workload: &Workload) -> Value {
    let status = &workload.status;
    let state = State::of(workload);
    let alive = matches!(state, State::Running | State::Paused);
    json!({
        "Status": state.word(),
        // As Docker has it: what restarts or is frozen counts as running.
        "Running": alive || state == State::Restarting,
        "Paused": state == State::Paused,
        "Restarting": state == State::Restarting,
        "OOMKilled": status.oom_killed,
        "Dead": false,
        "Pid": if alive { status.pid } else { 0 },
        "ExitCode": status.exit_code,
        "Error": error_text(workload),
        "StartedAt": rfc3339_or_never(status.started_at),
        "FinishedAt": rfc3339_or_never(status.finished_at),
    })
}

fn config(workload: &Workload) -> Value {
    let spec = &workload.spec;
    let task = &spec.task;
    let list_or_null = |list: &[String]| {
        if list.is_empty() {
            Value::Null
        } else {
            json!(list)
        }
    };
    let set_or_null = |keys: &mut dyn Iterator<Item = &String>| {
        let map: Map<String, Value> = keys.map(|key| (key.clone(), json!({}))).collect();
        if map.is_empty() {
            Value::Null
        } else {
            Value::Object(map)
        }
    };
    let mut anonymous = task.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { name, .. } if name.is_empty() => Some(&mount.target),
        MountSource::Volume { .. } | MountSource::HostPath { .. } | MountSource::Tmpfs { .. } => {
            None
        }
    });
    let hostname = if spec.hostname.is_empty() {
        workload.id.short()
    } else {
        &spec.hostname
    };
    let mut value = json!({
        "Hostname": hostname,
        "Domainname": spec.domainname,
        "User": task.user,
        "AttachStdin": task.stdin_once,
        "AttachStdout": true,
        "AttachStderr": true,
        "Tty": task.tty,
        "OpenStdin": task.stdin_open,
        "StdinOnce": task.stdin_once,
        "Env": task.env,
        "Cmd": list_or_null(&task.args),
        "Image": task.image,
        "Volumes": set_or_null(&mut anonymous),
        "WorkingDir": task.working_dir,
        "Entrypoint": list_or_null(&task.entrypoint),
        "OnBuild": null,
        "Labels": spec.labels,
    });
    if let Value::Object(map) = &mut value {
        let mut exposed = task.exposed_ports.iter();
        let exposed = set_or_null(&mut exposed);
        if exposed != Value::Null {
            map.insert("ExposedPorts".into(), exposed);
        }
        if let Some(signal) = task.stop_signal {
            map.insert("StopSignal".into(), json!(signal_name(signal)));
        }
        if let Some(seconds) = task.stop_grace_seconds {
            let seconds = if seconds == u32::MAX {
                -1
            } else {
                i64::from(seconds)
            };
            map.insert("StopTimeout".into(), json!(seconds));
        }
    }
    value
}
