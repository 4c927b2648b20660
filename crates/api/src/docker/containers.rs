//! Containers: create, list, inspect, top.

use std::collections::HashMap;

use axum::response::Response;
use control::{Kept, Kept as KeptObject};
use http::StatusCode;
use model::{ImageId, Phase, Timestamp, Workload, WorkloadId};
use serde_json::{Value, json};

use super::failure::{Failure, Result};
use super::filters::Filters;
use super::from_docker::create::{ContainerDraft, Resolved, container_name, platform_matches};
use super::from_docker::host_config::NetworkWish;
use super::from_docker::placement::Names;
use super::reply;
use super::request::Call;
use super::to_docker::container::{ListContext, State, inspect as inspected, list_entry};
use super::to_docker::network::{network_id, network_mode};
use super::value::shown;

/// A container of the call's pool by name, id or unique beginning of its id.
pub(super) fn find(call: &Call, reference: &str) -> Result<Kept<Workload>> {
    call.control
        .workload_find(&call.caller, &call.pool, reference)
        .map_err(|error| match error.kind {
            control::ErrorKind::NotFound => Failure::no_such_container(reference),
            control::ErrorKind::Conflict
            | control::ErrorKind::Invalid
            | control::ErrorKind::Forbidden
            | control::ErrorKind::Unauthenticated
            | control::ErrorKind::Exhausted
            | control::ErrorKind::Unavailable
            | control::ErrorKind::TooLarge
            | control::ErrorKind::Full
            | control::ErrorKind::Internal => error.into(),
        })
}

/// What affinities name, in the call's pool.
struct OfPool<'a>(&'a Call);

impl Names for OfPool<'_> {
    fn container(&self, name: &str) -> Result<WorkloadId> {
        Ok(find_named(self.0, name)?.id.clone())
    }

    fn image(&self, name: &str) -> Result<ImageId> {
        let found = super::images::find(self.0, name);
        let found = found.map_err(|failure| Failure::invalid(failure.message))?;
        Ok(found.id.clone())
    }
}

/// A container that the body of `create` names. 404 would make the client pull the image and ask again.
fn find_named(call: &Call, reference: &str) -> Result<Kept<Workload>> {
    find(call, reference).map_err(|failure| match failure.status {
        StatusCode::NOT_FOUND => Failure::invalid(failure.message),
        _ => failure,
    })
}

/// The container of the path.
pub(super) fn subject(call: &Call) -> Result<Kept<Workload>> {
    find(call, call.subject())
}

/// `POST /containers/create`.
pub(super) async fn create(mut call: Call) -> Result<Response> {
    let name = call.query.text("name").map(container_name).transpose()?;
    let body = call.json_body().await?;
    let draft = ContainerDraft::decode(&body)?;
    if !draft.name.is_empty() && call.query.text("name") != Some(&draft.name) {
        return Err(Failure::invalid(
            "name: must be given in the query, as Docker has it",
        ));
    }
    // Before the image: nobody should wait for a pull to hear that the other container is not there.
    let network = match &draft.network {
        NetworkWish::Container(name) => Some(find_named(&call, name)?.id.clone()),
        NetworkWish::Bridge | NetworkWish::None | NetworkWish::Host => None,
    };
    for join in &draft.joins {
        find_named(&call, &join.container)?;
    }
    let image = super::images::find(&call, &draft.image)?;
    if let Some(wanted) = call.query.text("platform")
        && !platform_matches(wanted, &image.config.platform)
    {
        return Err(Failure::not_found(format!(
            "image with reference {} was found but its platform ({}/{}) does not match the specified platform ({})",
            shown(&draft.image),
            image.config.platform.os,
            image.config.platform.architecture,
            shown(wanted)
        )));
    }
    let spec = draft.lower(&Resolved {
        image: &image.id,
        config: &image.config,
        network,
        names: &OfPool(&call),
    })?;
    let workload = call
        .control
        .workload_create(&call.caller, &call.pool, name, spec)
        .await?;
    Ok(reply::json(
        StatusCode::CREATED,
        &json!({ "Id": workload.id.as_str(), "Warnings": [] }),
    ))
}

/// Now, as the model has it.
pub(super) fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

const LIST_FILTERS: [&str; 17] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "annotation",
    "label!",
];

/// `GET /containers/json`.
pub(super) fn list(call: &Call) -> Result<Response> {
    let filters = Filters::from_query(&call.query, &LIST_FILTERS)?;
    let filter = ContainerFilter::new(call, &filters)?;
    let limit = call.query.number::<i64>("limit")?.unwrap_or(0);
    let all = call.query.flag("all") || limit > 0 || !filters.values("status").is_empty();
    let limit = usize::try_from(limit)
        .ok()
        .filter(|n| *n > 0)
        .unwrap_or(usize::MAX);
    let size = call.query.flag("size");
    let workloads = call.control.workload_list(&call.caller, &call.pool)?;
    let mut names = ImageNames::default();
    let now = now();
    let mut entries = Vec::new();
    for workload in &workloads {
        let state = State::of(workload);
        let runs = matches!(state, State::Running | State::Paused | State::Restarting);
        if !(all || runs) || !filter.matches(workload, state)? {
            continue;
        }
        let (image, bytes) = names.get(call, workload);
        entries.push(list_entry(
            workload,
            &ListContext {
                image: &image,
                reachable: call.control.workload_phase(workload) != Phase::Unknown,
                now,
                image_bytes: size.then_some(bytes),
            },
        ));
        if entries.len() >= limit {
            break;
        }
    }
    Ok(reply::ok(&entries))
}

/// What lists show as the image, looked up once per image.
#[derive(Default)]
struct ImageNames(HashMap<(String, String), (String, u64)>);

impl ImageNames {
    fn get(&mut self, call: &Call, workload: &Workload) -> (String, u64) {
        let task = &workload.spec.task;
        let key = (task.image.clone(), task.image_id.to_string());
        self.0
            .entry(key)
            .or_insert_with(|| {
                let named = call
                    .control
                    .image_find(&call.caller, &call.pool, &task.image);
                match named {
                    Ok(image) if image.id == task.image_id => {
                        (task.image.clone(), image.config.size_bytes)
                    }
                    Ok(_) | Err(_) => (task.image_id.to_string(), 0),
                }
            })
            .clone()
    }
}

/// The filters of a list, with what they name looked up.
struct ContainerFilter<'a> {
    filters: &'a Filters,
    call: &'a Call,
    names: Vec<regex_lite::Regex>,
    before: Option<KeptObject<Workload>>,
    since: Option<KeptObject<Workload>>,
    ancestors: Option<Vec<model::ImageId>>,
    exited: Vec<i32>,
}

impl<'a> ContainerFilter<'a> {
    fn new(call: &'a Call, filters: &'a Filters) -> Result<Self> {
        for status in filters.values("status") {
            let known = [
                "created",
                "restarting",
                "running",
                "removing",
                "paused",
                "exited",
                "dead",
            ];
            if !known.contains(&status.as_str()) {
                return Err(Failure::invalid(format!(
                    "invalid filter 'status={}'",
                    shown(status)
                )));
            }
        }
        let exited = filters
            .values("exited")
            .iter()
            .map(|code| {
                code.parse::<i32>().map_err(|_| {
                    Failure::invalid(format!("invalid filter 'exited={}'", shown(code)))
                })
            })
            .collect::<Result<_>>()?;
        let named = |name: &str| -> Result<Option<KeptObject<Workload>>> {
            filters
                .values(name)
                .first()
                .map(|r| find(call, r))
                .transpose()
        };
        let ancestors = (!filters.values("ancestor").is_empty()).then(|| {
            filters
                .values("ancestor")
                .iter()
                .filter_map(|reference| super::images::find(call, reference).ok())
                .map(|image| image.id.clone())
                .collect()
        });
        Ok(Self {
            filters,
            call,
            names: filters.patterns("name")?,
            before: named("before")?,
            since: named("since")?,
            ancestors,
            exited,
        })
    }

    fn matches(&self, workload: &Workload, state: State) -> Result<bool> {
        let it = self.filters;
        let task = &workload.spec.task;
        let slashed = format!("/{}", workload.name);
        let name_ok = self.names.is_empty()
            || self
                .names
                .iter()
                .any(|re| re.is_match(&slashed) || re.is_match(workload.name.as_str()));
        let mode = network_mode(&workload.spec.network);
        Ok(name_ok
            && it.any("id", |id| workload.id.as_str().starts_with(id))
            && it.any("status", |status| status == state.word())
            && it.labels(&workload.spec.labels)
            && it.any("health", |health| health == "none")
            && it.any("is-task", |flag| matches!(flag, "false" | "0"))
            && it.any("isolation", |isolation| isolation == "default")
            && it.any("network", |wanted| {
                let id = network_id(&self.call.pool, &mode);
                wanted == mode || id == wanted || (wanted.len() >= 12 && id.starts_with(wanted))
            })
            && it.any("volume", |wanted| {
                task.mounts.iter().any(|m| mount_is(m, wanted))
            })
            && self.ports(workload)?
            && self.times(workload)
            && (self.exited.is_empty()
                || (workload.status.finished_at.is_some()
                    && !workload.status.phase.is_alive()
                    && self.exited.contains(&workload.status.exit_code)))
            && self
                .ancestors
                .as_ref()
                .is_none_or(|ids| ids.contains(&task.image_id)))
    }

    fn times(&self, workload: &Workload) -> bool {
        let key = |w: &Workload| (w.created_at, w.id.clone());
        self.before.as_ref().is_none_or(|w| key(workload) < key(w))
            && self.since.as_ref().is_none_or(|w| key(workload) > key(w))
    }

    fn ports(&self, workload: &Workload) -> Result<bool> {
        for name in ["publish", "expose"] {
            let wanted = self.filters.values(name);
            if wanted.is_empty() {
                continue;
            }
            let mut found = false;
            for text in wanted {
                let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
                let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
                let bad = |_| Failure::invalid(format!("invalid filter '{name}={}'", shown(text)));
                let range = low.parse::<u16>().map_err(bad)?..=high.parse::<u16>().map_err(bad)?;
                found |= if name == "publish" {
                    workload
                        .status
                        .network
                        .ports
                        .iter()
                        .any(|m| range.contains(&m.port) && m.protocol.as_str() == protocol)
                } else {
                    workload.spec.task.exposed_ports.iter().any(|exposed| {
                        exposed
                            .split_once('/')
                            .and_then(|(port, p)| Some((port.parse::<u16>().ok()?, p)))
                            .is_some_and(|(port, p)| range.contains(&port) && p == protocol)
                    })
                };
            }
            if !found {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn mount_is(mount: &model::workload::Mount, wanted: &str) -> bool {
    let source = match &mount.source {
        model::workload::MountSource::HostPath { path, .. } => path.as_str(),
        model::workload::MountSource::Volume { name, .. } => name.as_str(),
        model::workload::MountSource::Tmpfs { .. } => "",
    };
    mount.target == wanted || source == wanted
}

/// `GET /containers/{id}/json`.
pub(super) fn inspect(call: &Call) -> Result<Response> {
    let workload = subject(call)?;
    let bytes = call.query.flag("size").then(|| {
        call.control
            .image_find(
                &call.caller,
                &call.pool,
                workload.spec.task.image_id.as_str(),
            )
            .map_or(0, |image| image.config.size_bytes)
    });
    Ok(reply::ok(&inspected(&workload, &[], bytes)))
}

/// Longest accepted arguments of `top` in bytes.
const PS_ARGS_MAX_BYTES: usize = 1024;

/// `GET /containers/{id}/top`.
pub(super) async fn top(call: Call) -> Result<Response> {
    let workload = subject(&call)?;
    let args = call.query.text("ps_args").unwrap_or("-ef");
    if args.len() > PS_ARGS_MAX_BYTES || args.chars().any(char::is_control) {
        return Err(Failure::invalid(
            "ps_args: too long or with control characters",
        ));
    }
    running(&call, &workload)?;
    let table = call
        .control
        .workload_top(&call.caller, &call.pool, &workload.id, args)
        .await?;
    Ok(reply::ok(
        &json!({ "Titles": table.titles, "Processes": table.rows }),
    ))
}

/// Refuses what needs a running container.
pub(super) fn running(call: &Call, workload: &Workload) -> Result<()> {
    let _ = call;
    match State::of(workload) {
        State::Running | State::Paused => Ok(()),
        State::Restarting => Err(Failure::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            workload.id
        ))),
        State::Created | State::Removing | State::Exited => Err(Failure::conflict(format!(
            "container {} is not running",
            workload.id
        ))),
    }
}

/// The `Warnings` of an update.
pub(super) fn no_warnings() -> Value {
    json!({ "Warnings": null })
}
