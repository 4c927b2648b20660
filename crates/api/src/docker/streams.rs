//! Containers: attach, logs, resize.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::Response;
use bytes::BytesMut;
use control::LinkStream;
use control::streams::{AttachOptions, FollowOptions};
use http::{StatusCode, header};
use wire::link::{FollowFrom, Frame, FrameKind};

use super::containers::{now, subject};
use super::detach::DetachKeys;
use super::failure::{Failure, Result};
use super::hijack::{Session, content_type, output_of, respond};
use super::reply;
use super::request::Call;
use super::stdcopy::{self, Stream};
use super::to_docker::container::State;
use super::to_docker::text::rfc3339_nano;
use super::value::shown;

/// `POST /containers/{id}/attach`.
pub(super) async fn attach(mut call: Call) -> Result<Response> {
    let workload = subject(&call)?;
    match State::of(&workload) {
        State::Paused => {
            return Err(Failure::conflict(format!(
                "container {} is paused, unpause the container before attach",
                workload.id
            )));
        }
        State::Restarting => {
            return Err(Failure::conflict(format!(
                "container {} is restarting, wait until the container is running",
                workload.id
            )));
        }
        State::Created | State::Running | State::Removing | State::Exited => {}
    }
    let query = &call.query;
    let options = AttachOptions {
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        stdin: query.flag("stdin") && query.flag("stream"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
    };
    let tty = workload.spec.task.tty;
    let keys = DetachKeys::parse(query.get("detachKeys").unwrap_or_default())?;
    let stream = call
        .control
        .workload_attach(&call.caller, &call.pool, &workload.id, options)
        .await?;
    let session = Session {
        tty,
        stdin: options.stdin,
        detach: tty.then_some(keys),
    };
    Ok(respond(&mut call, std::future::ready(stream), session).await)
}

/// `POST /containers/{id}/resize`.
pub(super) async fn resize(call: Call) -> Result<Response> {
    let size = size(&call)?;
    let workload = subject(&call)?;
    super::containers::running(&call, &workload)?;
    call.control
        .workload_resize(&call.caller, &call.pool, &workload.id, None, size)
        .await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `h` and `w` of a query.
pub(super) fn size(call: &Call) -> Result<(u16, u16)> {
    let number = |key: &str| -> Result<u16> {
        call.query
            .number::<u16>(key)?
            .ok_or_else(|| Failure::invalid(format!("{key}: is needed")))
    };
    Ok((number("h")?, number("w")?))
}

/// `GET /containers/{id}/logs`.
pub(super) async fn logs(call: Call) -> Result<Response> {
    let query = &call.query;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Failure::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let now_ms = now().millis();
    // Docker: zero is the same as not given.
    let since = query.moment("since", now_ms)?.filter(|ms| *ms != 0);
    let until = query.moment("until", now_ms)?.filter(|ms| *ms != 0);
    let follow = query.flag("follow");
    let tail = tail(query.get("tail").unwrap_or("all"))?;
    let (timestamps, details) = (query.flag("timestamps"), query.flag("details"));
    let workload = subject(&call)?;
    if !workload.spec.task.log.keep {
        return Err(Failure::unsupported(
            "configured logging driver does not support reading",
        ));
    }
    let from = match (tail, since) {
        (Some(0), _) => FollowFrom::End,
        // Lines before `since` are dropped below: the last lines since then are the later of both.
        (Some(lines), _) => FollowFrom::Lines(lines),
        (None, Some(ms)) => FollowFrom::SinceMs(ms),
        (None, None) => FollowFrom::Start,
    };
    let tty = workload.spec.task.tty;
    let stream = call
        .control
        .workload_follow(
            &call.caller,
            &call.pool,
            &workload.id,
            FollowOptions {
                from,
                until_ms: until,
                follow,
                stdout,
                stderr,
            },
        )
        .await?;
    let printer = Printer {
        tty,
        timestamps,
        details,
        since: since.filter(|_| tail.is_some()),
        mid_line: [false; 2],
    };
    let mut response = Response::new(log_body(stream, printer));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type(call.version, tty));
    Ok(response)
}

/// How many lines from the end; `None`: all. As Docker, what is no number means all.
fn tail(text: &str) -> Result<Option<u64>> {
    match text.parse::<i64>() {
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) if matches!(text, "" | "all") => Ok(None),
        Err(_) => Err(Failure::invalid(format!(
            "tail: \"{}\" is neither a number nor all",
            shown(text)
        ))),
    }
}

fn log_body(stream: LinkStream, printer: Printer) -> Body {
    let chunks =
        futures::stream::unfold((stream, printer), |(mut stream, mut printer)| async move {
            loop {
                let frame = stream.recv.recv().await?;
                if frame.kind == FrameKind::End {
                    return None;
                }
                if let Some(bytes) = printer.print(frame) {
                    return Some((Ok::<Bytes, Infallible>(bytes), (stream, printer)));
                }
            }
        });
    Body::from_stream(chunks)
}

/// Writes log frames as the client wants them.
struct Printer {
    tty: bool,
    timestamps: bool,
    details: bool,
    since: Option<i64>,
    /// Whether standard output and error are in the middle of a line.
    mid_line: [bool; 2],
}

impl Printer {
    fn print(&mut self, frame: Frame) -> Option<Bytes> {
        let time_ms = frame.time_ms;
        if self.since.is_some_and(|since| time_ms < since) && frame.kind != FrameKind::Error {
            return None;
        }
        let (stream, payload) = output_of(frame)?;
        let payload = if (self.timestamps || self.details) && stream != Stream::System {
            self.prefix(stream, time_ms, &payload)
        } else {
            payload
        };
        Some(if self.tty {
            payload
        } else {
            stdcopy::frame(stream, &payload)
        })
    }

    /// Puts time and details before each line that begins here.
    fn prefix(&mut self, stream: Stream, time_ms: i64, payload: &[u8]) -> Bytes {
        let mid_line = &mut self.mid_line[usize::from(stream == Stream::Stderr)];
        let time = rfc3339_nano(time_ms);
        let mut out = BytesMut::with_capacity(payload.len() + 64);
        for line in payload.split_inclusive(|byte| *byte == b'\n') {
            if !*mid_line {
                if self.timestamps {
                    out.extend_from_slice(time.as_bytes());
                    out.extend_from_slice(b" ");
                }
                if self.details {
                    // No container has log attributes; Docker then prints an empty list.
                    out.extend_from_slice(b" ");
                }
            }
            *mid_line = line.last() != Some(&b'\n');
            out.extend_from_slice(line);
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_before_each_line_and_only_there() {
        let mut printer = Printer {
            tty: true,
            timestamps: true,
            details: false,
            since: None,
            mid_line: [false; 2],
        };
        let mut print = |kind, text: &str| {
            let frame = Frame {
                kind,
                time_ms: 0,
                position: None,
                payload: Bytes::copy_from_slice(text.as_bytes()),
            };
            String::from_utf8(printer.print(frame).unwrap().to_vec()).unwrap()
        };
        let t = "1970-01-01T00:00:00.000000000Z ";
        assert_eq!(print(FrameKind::Stdout, "a\nb"), format!("{t}a\n{t}b"));
        assert_eq!(print(FrameKind::Stderr, "e\n"), format!("{t}e\n"));
        assert_eq!(print(FrameKind::Stdout, "c\nd\n"), format!("c\n{t}d\n"));
    }

    #[test]
    fn tails() {
        assert_eq!(tail("all").unwrap(), None);
        assert_eq!(tail("").unwrap(), None);
        assert_eq!(tail("-1").unwrap(), None);
        assert_eq!(tail("5").unwrap(), Some(5));
        assert!(tail("x").is_err());
    }
}
