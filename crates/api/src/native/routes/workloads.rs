//! Workloads: list, make, control, remove.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use control::workloads::{
    Changed as Change, RemoveOptions, StartOptions, StopOptions, WaitCondition,
    WorkloadUpdate as Update,
};
use control::{Caller, Kept};
use http::StatusCode;
use model::PoolId;
use model::placement::Neighbour;
use model::workload::NetworkMode;
use serde::Deserialize;
use utoipa::IntoParams;
use wire::native::workload::{
    Changed, Explanation, KillRequest, RenameRequest, StartRequest, StopRequest,
    WaitCondition as WireCondition, WaitOutcome, Workload, WorkloadCreate, WorkloadUpdate,
};
use wire::native::{List, Problem};

use super::ListQuery;
use crate::native::extract::{Asked, Body, By, OptionalBody, Segments};
use crate::native::failure::{Failure, Result};
use crate::native::lines;
use crate::native::table::Native;
use crate::native::watch::watch;
use crate::native::{from_native, to_native};

/// SIGKILL.
const KILL: i32 = 9;

/// Pool and workload of a path.
pub(crate) type At = Segments<(String, String)>;

/// How to remove a workload.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Also if it runs; it is killed.
    force: bool,
    /// Also its anonymous volumes.
    volumes: bool,
}

/// What to wait for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// `not-running` if absent.
    condition: WireCondition,
}

impl Native {
    /// The pool of a path, as far as the caller may see it.
    pub(crate) fn pool_id(&self, caller: &Caller, pool: &str) -> Result<PoolId> {
        Ok(self.control.pool_find(caller, pool)?.id.clone())
    }

    /// The workload of a path.
    pub(crate) fn workload(
        &self,
        caller: &Caller,
        at: &(String, String),
    ) -> Result<Kept<model::Workload>> {
        let pool = self.pool_id(caller, &at.0)?;
        Ok(self.control.workload_find(caller, &pool, &at.1)?)
    }

    fn workloads(&self, caller: &Caller, pool: &PoolId) -> Result<Vec<Workload>> {
        let list = self.control.workload_list(caller, pool)?;
        Ok(list
            .iter()
            .map(|workload| to_native::workload(&self.control, workload))
            .collect())
    }

    fn all_workloads(&self, caller: &Caller) -> Result<Vec<Workload>> {
        let mut all = Vec::new();
        for pool in self.control.pool_list(caller)? {
            all.extend(self.workloads(caller, &pool.id)?);
        }
        Ok(all)
    }

    /// What an affinity's key and value stand for in a pool.
    fn neighbour(
        &self,
        caller: &Caller,
        pool: &PoolId,
        key: &str,
        value: &str,
    ) -> Result<Neighbour> {
        Ok(match key {
            "workload" => Neighbour::Workload {
                id: self.control.workload_find(caller, pool, value)?.id.clone(),
            },
            "image" => Neighbour::Image {
                id: self.control.image_find(caller, pool, value)?.id.clone(),
            },
            key => Neighbour::Label {
                key: key.to_owned(),
                value: value.to_owned(),
            },
        })
    }

    fn network(&self, caller: &Caller, pool: &PoolId, text: &str) -> Result<NetworkMode> {
        match text {
            "" | "bridge" => Ok(NetworkMode::Bridge),
            "none" => Ok(NetworkMode::None),
            "host" => Ok(NetworkMode::Host),
            other => match other.strip_prefix("workload:") {
                Some(reference) => Ok(NetworkMode::Workload {
                    id: self
                        .control
                        .workload_find(caller, pool, reference)?
                        .id
                        .clone(),
                }),
                None => Err(
                    Failure::invalid(format!("spec.network: \"{other}\" is not known"))
                        .hint("write bridge, none, host or workload:NAME"),
                ),
            },
        }
    }
}

#[utoipa::path(get, path = "/api/v1/workloads", tag = "workloads", operation_id = "workload_list_all", params(ListQuery), responses(
    (status = 200, description = "Workloads of all pools the caller may see.", body = List<Workload>),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn list_all(
    State(native): State<Native>,
    By(caller): By,
    Asked(query): Asked<ListQuery>,
) -> Result<Response> {
    if query.watch {
        let control = native.control.clone();
        return Ok(watch(
            &control,
            |it: &Workload| &it.id,
            move || native.all_workloads(&caller),
        ));
    }
    Ok(Json(List {
        items: native.all_workloads(&caller)?,
    })
    .into_response())
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/workloads", tag = "workloads", operation_id = "workload_list",
    params(("pool" = String, Path, description = "Name or id."), ListQuery), responses(
    (status = 200, description = "Workloads of the pool.", body = List<Workload>),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn list(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    Asked(query): Asked<ListQuery>,
) -> Result<Response> {
    let pool = native.pool_id(&caller, &pool)?;
    if query.watch {
        let control = native.control.clone();
        return Ok(watch(
            &control,
            |it: &Workload| &it.id,
            move || native.workloads(&caller, &pool),
        ));
    }
    Ok(Json(List {
        items: native.workloads(&caller, &pool)?,
    })
    .into_response())
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads", tag = "workloads", operation_id = "workload_create",
    request_body = WorkloadCreate, params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 201, description = "The new workload; it does not run yet.", body = Workload),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn create(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    Body(body): Body<WorkloadCreate>,
) -> Result<(StatusCode, Json<Workload>)> {
    let pool = native.pool_id(&caller, &pool)?;
    let name = body
        .name
        .as_deref()
        .map(|name| from_native::name("name", name))
        .transpose()?;
    let network = native.network(&caller, &pool, &body.spec.network)?;
    let image = native
        .control
        .image_find(&caller, &pool, &body.spec.task.image)?;
    let placement = from_native::placement(&body.spec.placement, |key, value| {
        native.neighbour(&caller, &pool, key, value)
    })?;
    let spec = from_native::spec(body.spec, &image, network, placement)?;
    let workload = native
        .control
        .workload_create(&caller, &pool, name, spec)
        .await?;
    Ok((
        StatusCode::CREATED,
        Json(to_native::workload(&native.control, &workload)),
    ))
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/workloads/{workload}", tag = "workloads", operation_id = "workload_show",
    params(("pool" = String, Path, description = "Name or id."),
        ("workload" = String, Path, description = "Name, id or unique beginning of the id.")), responses(
    (status = 200, description = "The workload.", body = Workload),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn show(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
) -> Result<Json<Workload>> {
    let workload = native.workload(&caller, &at)?;
    Ok(Json(to_native::workload(&native.control, &workload)))
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/workloads/{workload}/explain", tag = "workloads", operation_id = "workload_explain",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "Every host with the first filter it fails, or its score.", body = Explanation),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn explain(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
) -> Result<Json<Explanation>> {
    let workload = native.workload(&caller, &at)?;
    let explained = native
        .control
        .workload_explain(&caller, &workload.pool, &workload.id)?;
    Ok(Json(to_native::explanation(explained)))
}

#[utoipa::path(patch, path = "/api/v1/pools/{pool}/workloads/{workload}", tag = "workloads", operation_id = "workload_update",
    request_body = WorkloadUpdate,
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "The changed workload.", body = Workload),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn update(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Body(body): Body<WorkloadUpdate>,
) -> Result<Json<Workload>> {
    let workload = native.workload(&caller, &at)?;
    let update = Update {
        resources: body
            .resources
            .map(|wanted| from_native::resources(wanted, workload.spec.task.resources.clone())),
        restart: body.restart.map(from_native::restart),
    };
    native
        .control
        .workload_update(&caller, &workload.pool, &workload.id, update)
        .await?;
    let workload = native
        .control
        .workload_find(&caller, &workload.pool, workload.id.as_str())?;
    Ok(Json(to_native::workload(&native.control, &workload)))
}

#[utoipa::path(delete, path = "/api/v1/pools/{pool}/workloads/{workload}", tag = "workloads", operation_id = "workload_remove",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id."), RemoveQuery), responses(
    (status = 204, description = "It is gone."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn remove(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Asked(query): Asked<RemoveQuery>,
) -> Result<StatusCode> {
    let workload = native.workload(&caller, &at)?;
    let options = RemoveOptions {
        force: query.force,
        volumes: query.volumes,
    };
    native
        .control
        .workload_remove(&caller, &workload.pool, &workload.id, options)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn changed(change: Change) -> Json<Changed> {
    Json(Changed {
        changed: match change {
            Change::Yes => true,
            Change::Already => false,
        },
    })
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/start", tag = "workloads", operation_id = "workload_start",
    request_body = StartRequest,
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "It runs, or has already ended again; or, if that was asked for, it waits in its pool's queue.", body = Changed),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn start(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    OptionalBody(body): OptionalBody<StartRequest>,
) -> Result<Json<Changed>> {
    let workload = native.workload(&caller, &at)?;
    let options = StartOptions { queue: body.queue };
    Ok(changed(
        native
            .control
            .workload_start(&caller, &workload.pool, &workload.id, options)
            .await?,
    ))
}

fn stop_options(request: &StopRequest) -> StopOptions {
    StopOptions {
        // Negative: for ever.
        grace_seconds: request.grace_seconds.map(|seconds| {
            if seconds < 0 {
                None
            } else {
                Some(u32::try_from(seconds).unwrap_or(u32::MAX))
            }
        }),
        signal: request.signal,
    }
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/stop", tag = "workloads", operation_id = "workload_stop",
    request_body = StopRequest,
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "It does not run any more.", body = Changed),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn stop(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    OptionalBody(body): OptionalBody<StopRequest>,
) -> Result<Json<Changed>> {
    let workload = native.workload(&caller, &at)?;
    let options = stop_options(&body);
    Ok(changed(
        native
            .control
            .workload_stop(&caller, &workload.pool, &workload.id, options)
            .await?,
    ))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/restart", tag = "workloads", operation_id = "workload_restart",
    request_body = StopRequest,
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "It runs again.", body = Changed),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn restart(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    OptionalBody(body): OptionalBody<StopRequest>,
) -> Result<Json<Changed>> {
    let workload = native.workload(&caller, &at)?;
    let options = stop_options(&body);
    native
        .control
        .workload_restart(&caller, &workload.pool, &workload.id, options)
        .await?;
    Ok(changed(Change::Yes))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/kill", tag = "workloads", operation_id = "workload_kill",
    request_body = KillRequest,
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 204, description = "The signal was sent."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn kill(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    OptionalBody(body): OptionalBody<KillRequest>,
) -> Result<StatusCode> {
    let signal = body.signal.unwrap_or(KILL);
    if !(1..=64).contains(&signal) {
        return Err(
            Failure::invalid(format!("signal: {signal} is not a signal's number"))
                .hint("write 1 to 64"),
        );
    }
    let workload = native.workload(&caller, &at)?;
    native
        .control
        .workload_kill(&caller, &workload.pool, &workload.id, signal)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/pause", tag = "workloads", operation_id = "workload_pause",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "It is frozen.", body = Changed),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn pause(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
) -> Result<Json<Changed>> {
    let workload = native.workload(&caller, &at)?;
    native
        .control
        .workload_pause(&caller, &workload.pool, &workload.id)
        .await?;
    Ok(changed(Change::Yes))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/resume", tag = "workloads", operation_id = "workload_resume",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "It goes on.", body = Changed),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn resume(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
) -> Result<Json<Changed>> {
    let workload = native.workload(&caller, &at)?;
    native
        .control
        .workload_resume(&caller, &workload.pool, &workload.id)
        .await?;
    Ok(changed(Change::Yes))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/wait", tag = "workloads", operation_id = "workload_wait",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id."), WaitQuery), responses(
    (status = 200, description = "How it ended. The headers are sent at once, as a sign that waiting has begun; the body follows.", body = WaitOutcome),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn wait(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Asked(query): Asked<WaitQuery>,
) -> Result<Response> {
    let workload = native.workload(&caller, &at)?;
    let condition = match query.condition {
        WireCondition::NotRunning => WaitCondition::NotRunning,
        WireCondition::NextExit => WaitCondition::NextExit,
        WireCondition::Removed => WaitCondition::Removed,
    };
    let waiting =
        native
            .control
            .workload_wait_begin(&caller, &workload.pool, &workload.id, condition)?;
    let outcome = async move {
        let outcome = match waiting.await {
            Ok(outcome) => WaitOutcome {
                exit_code: outcome.exit_code,
                error: outcome.error,
            },
            Err(error) => WaitOutcome {
                exit_code: -1,
                error: Some(error.message),
            },
        };
        let mut text = serde_json::to_vec(&outcome).unwrap_or_default();
        text.push(b'\n');
        bytes::Bytes::from(text)
    };
    Ok(lines::body(
        "application/json",
        futures::stream::once(outcome),
    ))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/rename", tag = "workloads", operation_id = "workload_rename",
    request_body = RenameRequest,
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 204, description = "It has the new name."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn rename(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Body(body): Body<RenameRequest>,
) -> Result<StatusCode> {
    let workload = native.workload(&caller, &at)?;
    let name = from_native::name("name", &body.name)?;
    native
        .control
        .workload_rename(&caller, &workload.pool, &workload.id, name)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
