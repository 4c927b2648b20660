//! Execs.

use axum::response::Response;
use control::LinkStream;
use control::exec::ExecCreate;
use http::StatusCode;
use serde_json::json;
use wire::link::{Frame, FrameKind};

use super::containers::{running, subject};
use super::detach::DetachKeys;
use super::failure::{Failure, Result};
use super::from_docker::create::user;
use super::hijack::{Session, respond};
use super::reply;
use super::request::Call;
use super::value::{Fields, Value, shown};

/// Reads the body of `POST /containers/{id}/exec`.
pub(super) fn decode_create(body: &[u8]) -> Result<ExecCreate> {
    let mut fields = Fields::open(Value::parse(body)?, "")?;
    // Told again, and decisively, when it is started.
    fields.bool("Detach")?;
    fields.list("ConsoleSize")?;
    // Some clients repeat the container of the path, which decides.
    fields.text("Container")?;
    fields.text("containerId")?;
    let create = ExecCreate {
        args: fields.words("Cmd")?.unwrap_or_default(),
        env: fields.texts("Env")?,
        working_dir: fields.text("WorkingDir")?,
        user: user(&mut fields)?,
        tty: fields.bool("Tty")?,
        stdin: fields.bool("AttachStdin")?,
        stdout: fields.bool("AttachStdout")?,
        stderr: fields.bool("AttachStderr")?,
        privileged: fields.bool("Privileged")?,
        detach_keys: fields.text("DetachKeys")?,
    };
    fields.finish()?;
    if create.args.is_empty() {
        return Err(Failure::invalid("No exec command specified"));
    }
    DetachKeys::parse(&create.detach_keys)?;
    Ok(create)
}

/// `POST /containers/{id}/exec`.
pub(super) async fn create(mut call: Call) -> Result<Response> {
    let body = call.json_body().await?;
    let create = decode_create(&body)?;
    let workload = subject(&call)?;
    running(&call, &workload)?;
    let id = call
        .control
        .exec_create(&call.caller, &call.pool, &workload.id, create)
        .await?;
    Ok(reply::json(StatusCode::CREATED, &json!({ "Id": id })))
}

/// What `POST /exec/{id}/start` says.
struct Start {
    detach: bool,
    size: Option<(u16, u16)>,
}

fn decode_start(body: &[u8]) -> Result<Start> {
    if body.is_empty() {
        return Ok(Start {
            detach: false,
            size: None,
        });
    }
    let mut fields = Fields::open(Value::parse(body)?, "")?;
    let detach = fields.bool("Detach")?;
    // The exec has or has no terminal since it was created.
    fields.bool("Tty")?;
    fields.text("execId")?;
    let size = match fields.list("ConsoleSize")?.as_slice() {
        [] => None,
        [Value::Integer(rows), Value::Integer(columns)] => {
            match (u16::try_from(*rows), u16::try_from(*columns)) {
                (Ok(0), _) | (_, Ok(0)) => None,
                (Ok(rows), Ok(columns)) => Some((rows, columns)),
                _ => return Err(Failure::invalid("ConsoleSize: out of range")),
            }
        }
        _ => return Err(Failure::invalid("ConsoleSize: two numbers are expected")),
    };
    fields.finish()?;
    Ok(Start { detach, size })
}

/// `POST /exec/{id}/start`.
pub(super) async fn start(mut call: Call) -> Result<Response> {
    let body = call.json_body().await?;
    let wanted = decode_start(&body)?;
    let record = call
        .control
        .exec_inspect(&call.caller, &call.pool, call.subject())
        .map_err(|_| no_such_exec(call.subject()))?;
    let keys = DetachKeys::parse(&record.create.detach_keys)?;
    if record.started {
        return Err(Failure::conflict(format!(
            "Error: Exec command {} has already run",
            record.id
        )));
    }
    let workload = super::containers::find(&call, record.workload.as_str())?;
    running(&call, &workload)?;
    let started = {
        let (control, caller, pool) =
            (call.control.clone(), call.caller.clone(), call.pool.clone());
        let id = record.id.clone();
        async move {
            control
                .exec_start(&caller, &pool, &id, wanted.detach, wanted.size)
                .await
        }
    };
    if wanted.detach {
        started.await?;
        return Ok(reply::empty(StatusCode::OK));
    }
    let create = record.create;
    let session = Session {
        tty: create.tty,
        stdin: create.stdin,
        detach: create.tty.then_some(keys),
    };
    let stream = match started.await {
        Ok(Some(stream)) => stream,
        Ok(None) => message_only(""),
        // The program was not tried: that is not an end it could have had.
        Err(error) if error.kind == control::ErrorKind::Unavailable => return Err(error.into()),
        // As in Docker the connection is taken over; clients read the sentence and ask for the exit code.
        Err(error) => message_only(&error.message),
    };
    Ok(respond(&mut call, async move { stream }, session).await)
}

/// A stream with nothing but a sentence.
fn message_only(message: &str) -> LinkStream {
    let (near, far) = LinkStream::pair();
    for frame in [
        Frame::new(FrameKind::Stderr, format!("{message}\r\n").into_bytes()),
        Frame::end(),
    ] {
        // The stream is new and takes more than two frames.
        let _ = far.send.try_send(frame);
    }
    near
}

fn no_such_exec(id: &str) -> Failure {
    Failure::not_found(format!("No such exec instance: {}", shown(id)))
}

/// `POST /exec/{id}/resize`.
pub(super) async fn resize(call: Call) -> Result<Response> {
    let size = super::streams::size(&call)?;
    let record = call
        .control
        .exec_inspect(&call.caller, &call.pool, call.subject())
        .map_err(|_| no_such_exec(call.subject()))?;
    call.control
        .exec_resize(&call.caller, &call.pool, &record.id, size)
        .await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
pub(super) fn inspect(call: &Call) -> Result<Response> {
    let record = call
        .control
        .exec_inspect(&call.caller, &call.pool, call.subject())
        .map_err(|_| no_such_exec(call.subject()))?;
    let create = &record.create;
    let (entrypoint, arguments) = create
        .args
        .split_first()
        .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    Ok(reply::ok(&json!({
        "ID": record.id,
        "Running": record.running,
        "ExitCode": record.exit_code,
        "ProcessConfig": {
            "tty": create.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": create.privileged,
            "user": create.user,
        },
        "OpenStdin": create.stdin,
        "OpenStderr": create.stderr,
        "OpenStdout": create.stdout,
        "CanRemove": false,
        "ContainerID": record.workload.as_str(),
        "DetachKeys": create.detach_keys,
        "Pid": record.pid,
    })))
}
