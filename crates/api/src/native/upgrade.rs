//! Connections that become streams of frames in both directions (attach, exec).

use std::pin::Pin;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::BytesMut;
use control::LinkStream;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use wire::link::{ExecExit as LinkExit, Frame, FrameKind};
use wire::native::stream::{ExecExit, Resize, UPGRADE_PROTOCOL};

use super::failure::{Failure, Result};

/// What to do when the client changes its terminal's size.
pub(crate) type OnResize =
    Box<dyn Fn(Resize) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Refuses a request that does not ask for the protocol.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<()> {
    let asks = headers.get(UPGRADE).is_some_and(|value| {
        value
            .as_bytes()
            .eq_ignore_ascii_case(UPGRADE_PROTOCOL.as_bytes())
    });
    if asks {
        Ok(())
    } else {
        Err(Failure::invalid(format!(
            "this route needs an upgraded connection: send `Connection: Upgrade` and `Upgrade: {UPGRADE_PROTOCOL}`"
        )))
    }
}

/// Answers 101 and carries frames between the client and the stream until either ends.
pub(crate) fn upgrade(mut request: Request, stream: LinkStream, on_resize: OnResize) -> Response {
    let pending = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match pending.await {
            Ok(connection) => carry(TokioIo::new(connection), stream, on_resize).await,
            Err(error) => tracing::debug!(%error, "the client went away before the upgrade"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(UPGRADE_PROTOCOL));
    response
}

type Connection = TokioIo<hyper::upgrade::Upgraded>;

async fn carry(connection: Connection, stream: LinkStream, on_resize: OnResize) {
    let (read, write) = tokio::io::split(connection);
    let LinkStream { send, recv } = stream;
    tokio::select! {
        // Output decides the end: input may be closed long before.
        () = output(write, recv) => {}
        () = input(read, send, on_resize) => {}
    }
}

async fn output(mut write: WriteHalf<Connection>, mut recv: mpsc::Receiver<Frame>) {
    while let Some(frame) = recv.recv().await {
        let last = matches!(frame.kind, FrameKind::End | FrameKind::Error);
        let frame = translated(frame);
        if write.write_all(&frame.encode()).await.is_err() || write.flush().await.is_err() {
            return;
        }
        if last {
            break;
        }
    }
    // The client may be gone already.
    let _ = write.shutdown().await;
}

/// The host's form of an exec's end in the API's form.
fn translated(frame: Frame) -> Frame {
    if frame.kind != FrameKind::Json {
        return frame;
    }
    match frame.parse::<LinkExit>() {
        Ok(exit) => Frame::json(&ExecExit {
            exit_code: exit.exit_code,
        })
        .unwrap_or(frame),
        Err(_) => frame,
    }
}

/// Ends only when the client goes away; the end of its input is passed on and output goes on.
async fn input(mut read: ReadHalf<Connection>, send: mpsc::Sender<Frame>, on_resize: OnResize) {
    let mut buffer = BytesMut::new();
    loop {
        match Frame::decode(&mut buffer) {
            Ok(Some(frame)) => match frame.kind {
                FrameKind::Stdin | FrameKind::EndInput => {
                    // A task that has closed its input does not end the session.
                    let _ = send.send(frame).await;
                }
                FrameKind::Json => {
                    if let Ok(size) = frame.parse::<Resize>() {
                        on_resize(size).await;
                    }
                }
                FrameKind::Data
                | FrameKind::Stdout
                | FrameKind::Stderr
                | FrameKind::Error
                | FrameKind::End => return,
            },
            Ok(None) => match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(error) => {
                tracing::debug!(%error, "a client sent no frames");
                return;
            }
        }
    }
}
