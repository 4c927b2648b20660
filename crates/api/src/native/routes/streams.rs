//! What goes through to a host: output, input, further processes, measures.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use control::LinkStream;
use control::exec::ExecCreate as Create;
use control::streams::{AttachOptions, FollowOptions};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use wire::link::{FollowFrom, FrameKind, TaskStats};
use wire::native::Problem;
use wire::native::workload::{Exec, ExecCreate, ExecCreated, Stats, Top};

use super::workloads::At;
use crate::native::extract::{Asked, Body, By, Segments};
use crate::native::failure::{Failure, Result};
use crate::native::table::Native;
use crate::native::upgrade::{upgrade, wanted};
use crate::native::{lines, to_native};

/// Arguments for `ps`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TopQuery {
    /// Absent: `-ef`.
    ps_args: String,
}

/// Whether measures go on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatsQuery {
    /// A line every second.
    follow: bool,
}

/// Which output.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsQuery {
    /// Go on with new output until the run ends.
    follow: bool,
    /// Only the last so many lines.
    tail: Option<u64>,
    /// Only from this time on, milliseconds since the epoch.
    since_ms: Option<i64>,
    /// Only until this time, milliseconds since the epoch.
    until_ms: Option<i64>,
    /// Standard output.
    stdout: bool,
    /// Standard error.
    stderr: bool,
}

impl Default for LogsQuery {
    fn default() -> Self {
        Self {
            follow: false,
            tail: None,
            since_ms: None,
            until_ms: None,
            stdout: true,
            stderr: true,
        }
    }
}

/// How to attach.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AttachQuery {
    /// What was written before, too.
    logs: bool,
    /// Send input.
    stdin: bool,
    /// Standard output.
    stdout: bool,
    /// Standard error.
    stderr: bool,
}

impl Default for AttachQuery {
    fn default() -> Self {
        Self {
            logs: false,
            stdin: false,
            stdout: true,
            stderr: true,
        }
    }
}

/// How to start an exec.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExecStartQuery {
    /// Do not attach: answered by 204.
    detach: bool,
    /// First size of the terminal.
    rows: Option<u16>,
    /// First size of the terminal.
    columns: Option<u16>,
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/workloads/{workload}/top", tag = "workloads", operation_id = "workload_top",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id."), TopQuery), responses(
    (status = 200, description = "Its processes.", body = Top),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn top(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Asked(query): Asked<TopQuery>,
) -> Result<Json<Top>> {
    let workload = native.workload(&caller, &at)?;
    let table = native
        .control
        .workload_top(&caller, &workload.pool, &workload.id, &query.ps_args)
        .await?;
    Ok(Json(Top {
        titles: table.titles,
        rows: table.rows,
    }))
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/workloads/{workload}/stats", tag = "workloads", operation_id = "workload_stats",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id."), StatsQuery), responses(
    (status = 200, description = "Measures, one JSON document per line.", body = Stats, content_type = "application/x-ndjson"),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn stats(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Asked(query): Asked<StatsQuery>,
) -> Result<Response> {
    let workload = native.workload(&caller, &at)?;
    let LinkStream { send, recv } = native
        .control
        .workload_stats(&caller, &workload.pool, &workload.id, query.follow)
        .await?;
    // The way to the host is held until the reader goes.
    let stats = futures::stream::unfold((recv, send), |(mut recv, send)| async move {
        let frame = recv
            .recv()
            .await
            .filter(|frame| frame.kind == FrameKind::Json)?;
        let stats = frame.parse::<TaskStats>().ok()?;
        Some((to_native::stats(&stats), (recv, send)))
    });
    Ok(lines::lines(stats))
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/workloads/{workload}/logs", tag = "workloads", operation_id = "workload_logs",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id."), LogsQuery), responses(
    (status = 200, description = "Output as frames: kind (1 byte), time (8 bytes, milliseconds), length (4 bytes), bytes.",
        body = [u8], content_type = "application/vnd.plimsoll.frames"),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn logs(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Asked(query): Asked<LogsQuery>,
) -> Result<Response> {
    let workload = native.workload(&caller, &at)?;
    let from = match (query.tail, query.since_ms) {
        (Some(_), Some(_)) => {
            return Err(
                Failure::invalid("tail and since_ms cannot be combined").hint("use one of them")
            );
        }
        (Some(lines), None) => FollowFrom::Lines(lines),
        (None, Some(since)) => FollowFrom::SinceMs(since),
        (None, None) => FollowFrom::Start,
    };
    let options = FollowOptions {
        from,
        until_ms: query.until_ms,
        follow: query.follow,
        stdout: query.stdout,
        stderr: query.stderr,
    };
    let stream = native
        .control
        .workload_follow(&caller, &workload.pool, &workload.id, options)
        .await?;
    Ok(lines::frames(stream))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/attach", tag = "workloads", operation_id = "workload_attach",
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id."), AttachQuery), responses(
    (status = 101, description = "The connection carries frames from now on (`Upgrade: plimsoll-stream`)."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn attach(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Asked(query): Asked<AttachQuery>,
    request: Request,
) -> Result<Response> {
    wanted(request.headers())?;
    let workload = native.workload(&caller, &at)?;
    let options = AttachOptions {
        logs: query.logs,
        stream: true,
        stdin: query.stdin,
        stdout: query.stdout,
        stderr: query.stderr,
    };
    let stream = native
        .control
        .workload_attach(&caller, &workload.pool, &workload.id, options)
        .await?;
    let control = native.control.clone();
    let on_resize = move |size: wire::native::stream::Resize| {
        let (control, caller, workload) = (control.clone(), caller.clone(), workload.clone());
        let resized = async move {
            let size = (size.rows, size.columns);
            // Before the start there is no terminal yet; the client says its size again when it changes.
            let _ = control
                .workload_resize(&caller, &workload.pool, &workload.id, None, size)
                .await;
        };
        Box::pin(resized) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    };
    Ok(upgrade(request, stream, Box::new(on_resize)))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/workloads/{workload}/exec", tag = "workloads", operation_id = "exec_create",
    request_body = ExecCreate,
    params(("pool" = String, Path, description = "Name or id."), ("workload" = String, Path, description = "Name or id.")), responses(
    (status = 201, description = "A further process, to be started.", body = ExecCreated),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn exec_create(
    State(native): State<Native>,
    By(caller): By,
    Segments(at): At,
    Body(body): Body<ExecCreate>,
) -> Result<(StatusCode, Json<ExecCreated>)> {
    if body.args.is_empty() {
        return Err(Failure::invalid("args: no program was given"));
    }
    let workload = native.workload(&caller, &at)?;
    let create = Create {
        args: body.args,
        env: body.env,
        working_dir: body.working_dir,
        user: body.user,
        tty: body.tty,
        stdin: body.stdin,
        stdout: true,
        stderr: true,
        privileged: body.privileged,
        detach_keys: String::new(),
    };
    let id = native
        .control
        .exec_create(&caller, &workload.pool, &workload.id, create)
        .await?;
    Ok((StatusCode::CREATED, Json(ExecCreated { id })))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/execs/{exec}/start", tag = "workloads", operation_id = "exec_start",
    params(("pool" = String, Path, description = "Name or id."), ("exec" = String, Path, description = "Id."), ExecStartQuery), responses(
    (status = 101, description = "The connection carries frames from now on (`Upgrade: plimsoll-stream`)."),
    (status = 204, description = "It runs detached."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn exec_start(
    State(native): State<Native>,
    By(caller): By,
    Segments((pool, exec)): At,
    Asked(query): Asked<ExecStartQuery>,
    request: Request,
) -> Result<Response> {
    if !query.detach {
        wanted(request.headers())?;
    }
    let pool = native.pool_id(&caller, &pool)?;
    let size = query.rows.zip(query.columns);
    let stream = native
        .control
        .exec_start(&caller, &pool, &exec, query.detach, size)
        .await?;
    let Some(stream) = stream else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let control = native.control.clone();
    let on_resize = move |size: wire::native::stream::Resize| {
        let (control, caller, pool, exec) =
            (control.clone(), caller.clone(), pool.clone(), exec.clone());
        let resized = async move {
            // It may have ended meanwhile.
            let _ = control
                .exec_resize(&caller, &pool, &exec, (size.rows, size.columns))
                .await;
        };
        Box::pin(resized) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    };
    Ok(upgrade(request, stream, Box::new(on_resize)))
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/execs/{exec}", tag = "workloads", operation_id = "exec_show",
    params(("pool" = String, Path, description = "Name or id."), ("exec" = String, Path, description = "Id.")), responses(
    (status = 200, description = "The process as it is.", body = Exec),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn exec_show(
    State(native): State<Native>,
    By(caller): By,
    Segments((pool, exec)): At,
) -> Result<Json<Exec>> {
    let pool = native.pool_id(&caller, &pool)?;
    let record = native.control.exec_inspect(&caller, &pool, &exec)?;
    Ok(Json(Exec {
        id: record.id,
        workload: record.workload.to_string(),
        running: record.running,
        exit_code: record.exit_code,
        pid: record.pid,
    }))
}
