//! Containers: start, stop, kill, wait and the like.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::Response;
use control::workloads::{Changed, RemoveOptions, StopOptions, WaitCondition, WorkloadUpdate};
use http::{HeaderValue, StatusCode, header};
use model::workload::Resources;
use serde_json::json;

use super::containers::{no_warnings, running, subject};
use super::failure::{Failure, Result};
use super::from_docker::create::container_name;
use super::from_docker::resources::{take_resources, take_restart};
use super::from_docker::small::signal;
use super::reply;
use super::request::Call;
use super::value::{Fields, Value, shown};

/// 204, or 304 if it was so already.
fn changed(changed: Changed) -> Response {
    reply::empty(match changed {
        Changed::Yes => StatusCode::NO_CONTENT,
        Changed::Already => StatusCode::NOT_MODIFIED,
    })
}

/// `POST /containers/{id}/start`.
pub(super) async fn start(mut call: Call) -> Result<Response> {
    for parameter in ["checkpoint", "checkpoint-dir"] {
        if call.query.text(parameter).is_some() {
            return Err(Failure::unsupported(format!(
                "{parameter}: checkpoints are not supported"
            )));
        }
    }
    // A host configuration at start was removed in API 1.24; clients that still send an empty one are harmless.
    let body = call.json_body().await?;
    if !body.is_empty() && !Value::parse(&body)?.is_default() {
        return Err(Failure::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    let workload = subject(&call)?;
    let outcome = call
        .control
        .workload_start(&call.caller, &call.pool, &workload.id, Default::default())
        .await?;
    Ok(changed(outcome))
}

/// `t` (seconds, negative: for ever) and `signal`.
fn stop_options(call: &Call) -> Result<StopOptions> {
    let grace_seconds = match call.query.number::<i64>("t")? {
        None => None,
        Some(seconds) if seconds < 0 => Some(None),
        Some(seconds) => Some(Some(
            u32::try_from(seconds).map_err(|_| Failure::invalid("t: too large"))?,
        )),
    };
    Ok(StopOptions {
        grace_seconds,
        signal: call.query.text("signal").map(signal).transpose()?,
    })
}

/// `POST /containers/{id}/stop`.
pub(super) async fn stop(call: Call) -> Result<Response> {
    let options = stop_options(&call)?;
    let workload = subject(&call)?;
    let outcome = call
        .control
        .workload_stop(&call.caller, &call.pool, &workload.id, options)
        .await?;
    Ok(changed(outcome))
}

/// `POST /containers/{id}/restart`.
pub(super) async fn restart(call: Call) -> Result<Response> {
    let options = stop_options(&call)?;
    let workload = subject(&call)?;
    call.control
        .workload_restart(&call.caller, &call.pool, &workload.id, options)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/kill`.
pub(super) async fn kill(call: Call) -> Result<Response> {
    let number = signal(call.query.text("signal").unwrap_or("KILL"))?;
    let workload = subject(&call)?;
    running(&call, &workload).map_err(|failure| {
        Failure::conflict(format!(
            "cannot kill container: {}: {}",
            shown(call.subject()),
            failure.message
        ))
    })?;
    call.control
        .workload_kill(&call.caller, &call.pool, &workload.id, number)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/pause`.
pub(super) async fn pause(call: Call) -> Result<Response> {
    let workload = subject(&call)?;
    running(&call, &workload)?;
    call.control
        .workload_pause(&call.caller, &call.pool, &workload.id)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/unpause`.
pub(super) async fn unpause(call: Call) -> Result<Response> {
    let workload = subject(&call)?;
    running(&call, &workload)?;
    call.control
        .workload_resume(&call.caller, &call.pool, &workload.id)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/rename`.
pub(super) async fn rename(call: Call) -> Result<Response> {
    let Some(name) = call.query.text("name") else {
        return Err(Failure::invalid("Neither old nor new names may be empty"));
    };
    let name = container_name(name)?;
    let workload = subject(&call)?;
    call.control
        .workload_rename(&call.caller, &call.pool, &workload.id, name)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/update`: zero means unchanged, as in Docker.
pub(super) async fn update(mut call: Call) -> Result<Response> {
    let body = call.json_body().await?;
    let mut fields = Fields::open(Value::parse(&body)?, "")?;
    let restart = take_restart(&mut fields)?;
    let draft = take_resources(&mut fields)?;
    fields.finish()?;
    if !draft.devices.is_empty() || !draft.ulimits.is_empty() {
        return Err(Failure::unsupported(
            "Devices, Ulimits: can only be given when the container is created",
        ));
    }
    let workload = subject(&call)?;
    let resources = merge(&workload.spec.task.resources, draft.resources)?;
    let update = WorkloadUpdate {
        resources: (resources != workload.spec.task.resources).then_some(resources),
        restart,
    };
    call.control
        .workload_update(&call.caller, &call.pool, &workload.id, update)
        .await?;
    Ok(reply::ok(&no_warnings()))
}

/// What is set in `new` replaces what was there.
fn merge(old: &Resources, new: Resources) -> Result<Resources> {
    if new.cpu_limit_millis.is_some() && (old.cpu_quota_us.is_some() || old.cpu_period_us.is_some())
    {
        return Err(Failure::invalid(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set",
        ));
    }
    if old.cpu_limit_millis.is_some() && (new.cpu_quota_us.is_some() || new.cpu_period_us.is_some())
    {
        return Err(Failure::invalid(
            "Conflicting options: CPU Period or Quota cannot be updated as NanoCPUs has already been set",
        ));
    }
    let merged = Resources {
        request: old.request.clone(),
        memory_limit: new.memory_limit.or(old.memory_limit),
        memory_swap: new.memory_swap.or(old.memory_swap),
        memory_reservation: new.memory_reservation.or(old.memory_reservation),
        memory_swappiness: new.memory_swappiness.or(old.memory_swappiness),
        oom_kill_disable: new.oom_kill_disable || old.oom_kill_disable,
        oom_score_adj: new.oom_score_adj.or(old.oom_score_adj),
        cpu_limit_millis: new.cpu_limit_millis.or(old.cpu_limit_millis),
        cpu_period_us: new.cpu_period_us.or(old.cpu_period_us),
        cpu_quota_us: new.cpu_quota_us.or(old.cpu_quota_us),
        cpu_shares: new.cpu_shares.or(old.cpu_shares),
        cpuset_cpus: new.cpuset_cpus.or_else(|| old.cpuset_cpus.clone()),
        cpuset_mems: new.cpuset_mems.or_else(|| old.cpuset_mems.clone()),
        pids_limit: new.pids_limit.or(old.pids_limit),
        blkio_weight: new.blkio_weight.or(old.blkio_weight),
        fallback: old.fallback.clone(),
    };
    if let (Some(memory), Some(swap)) = (merged.memory_limit, merged.memory_swap)
        && u64::try_from(swap).is_ok_and(|swap| swap < memory)
    {
        return Err(Failure::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    Ok(merged)
}

/// `DELETE /containers/{id}`.
pub(super) async fn remove(call: Call) -> Result<Response> {
    if call.query.flag("link") {
        return Err(Failure::unsupported(
            "link: links are not supported, they are deprecated by Docker",
        ));
    }
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
    };
    let workload = subject(&call)?;
    call.control
        .workload_remove(&call.caller, &call.pool, &workload.id, options)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/wait`: the headers go out at once, so that a client may start the container knowing that the
/// wait has begun.
pub(super) fn wait(call: &Call) -> Result<Response> {
    let condition = match call.query.text("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => {
            return Err(Failure::invalid(format!(
                "invalid condition: \"{}\"",
                shown(other)
            )));
        }
    };
    let workload = subject(call)?;
    let outcome =
        call.control
            .workload_wait_begin(&call.caller, &call.pool, &workload.id, condition)?;
    let line = async move {
        let value = match outcome.await {
            // A start that failed says so itself; here Docker gives the code only.
            Ok(outcome) => json!({ "StatusCode": outcome.exit_code }),
            Err(error) => json!({ "StatusCode": -1, "Error": { "Message": error.message } }),
        };
        let mut bytes = value.to_string().into_bytes();
        bytes.push(b'\n');
        Ok::<Bytes, Infallible>(bytes.into())
    };
    let mut response = Response::new(Body::from_stream(futures::stream::once(line)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}
