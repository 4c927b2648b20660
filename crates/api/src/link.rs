//! The host link: sessions, streams, blobs, joining and renewing, as `wire::link` describes them.
//!
//! What it is not: it knows no workloads; everything goes to `control`'s hub.
//!
//! What always holds: a request without a host's certificate reaches only `join`; a session that is silent for
//! [`SILENCE_SECONDS`] is ended; no more than one message or frame is held in memory in each direction.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{DefaultBodyLimit, Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use control::links::LinkSession;
use control::{Control, Error, ErrorKind, LinkStream};
use futures::{Stream, StreamExt as _};
use http::StatusCode;
use model::{Digest, HostId};
use tokio::sync::mpsc;
use wire::link::{
    ErrorClass, Frame, FrameKind, FromHost, HEARTBEAT_SECONDS, Hello, JoinRequest, RenewRequest,
    SILENCE_SECONDS, StreamError, ToHost, decode_message, encode_message,
};

/// The client's certificate of a TLS connection, DER, verified against the installation's CA; inserted by the
/// listener.
#[derive(Debug, Clone)]
pub struct PeerCertificate(pub Arc<[u8]>);

/// Longest body of `join` and `renew`: a signing request has about 500 bytes, labels a few KiB.
const BODY_MAX_BYTES: usize = 256 << 10;

/// How long a host may take for its first message.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// The routes of the host link.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/link/v1/join", post(join))
        .route("/link/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .route(
            "/link/v1/session",
            post(session).layer(DefaultBodyLimit::disable()),
        )
        .route(
            "/link/v1/streams/{id}",
            post(stream).layer(DefaultBodyLimit::disable()),
        )
        .route("/link/v1/blobs/{digest}", get(blob))
        .with_state(control)
}

/// An error in the link's own form: status and `{"message": …}`.
struct Refused {
    status: StatusCode,
    error: Error,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = match error.kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Exhausted | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl Refused {
    /// A host that this installation does not have any more: 410, by which the host's agent knows that it may go.
    fn host(error: Error) -> Self {
        match error.kind {
            ErrorKind::NotFound => Self {
                status: StatusCode::GONE,
                error,
            },
            _ => Self::from(error),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self { status, error } = self;
        tracing::debug!(%status, ?error, "link request refused");
        (
            status,
            axum::Json(serde_json::json!({"message": error.message})),
        )
            .into_response()
    }
}

fn host_of(control: &Control, peer: Option<&PeerCertificate>) -> Result<HostId, Refused> {
    let peer = peer.ok_or_else(|| {
        Error::new(
            ErrorKind::Unauthenticated,
            "a host must show its certificate: join first with `plimsoll host token`",
        )
    })?;
    control.host_authenticate(&peer.0).map_err(Refused::host)
}

async fn join(State(control): State<Control>, body: Bytes) -> Result<Response, Refused> {
    let request: JoinRequest = parse(&body)?;
    Ok(axum::Json(control.host_join(&request).await?).into_response())
}

async fn renew(
    State(control): State<Control>,
    peer: Option<Extension<PeerCertificate>>,
    body: Bytes,
) -> Result<Response, Refused> {
    let host = host_of(&control, peer.as_deref())?;
    let request: RenewRequest = parse(&body)?;
    Ok(axum::Json(control.host_renew(&host, &request).await?).into_response())
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|e| Refused::from(Error::invalid(format!("the request is not readable: {e}"))))
}

async fn session(
    State(control): State<Control>,
    peer: Option<Extension<PeerCertificate>>,
    body: Body,
) -> Result<Response, Refused> {
    let host = host_of(&control, peer.as_deref())?;
    let certificate = peer.map(|peer| Arc::clone(&peer.0.0)).unwrap_or_default();
    let mut incoming = Incoming {
        body: body.into_data_stream(),
        buffer: BytesMut::new(),
    };
    let hello = tokio::time::timeout(HELLO_LIMIT, incoming.hello())
        .await
        .map_err(|_| Error::invalid("the host did not say hello in time"))??;
    let (session, outgoing) = control.link_connect(&host, &certificate, hello).await?;
    let ended = session.ended.clone();
    tokio::spawn(read_session(control, session, incoming));
    let bytes = outgoing_bytes(outgoing, ended);
    Ok(Body::from_stream(bytes).into_response())
}

struct Incoming {
    body: BodyDataStream,
    buffer: BytesMut,
}

impl Incoming {
    async fn hello(&mut self) -> Result<Hello, Error> {
        match self.next().await {
            Ok(Some(FromHost::Hello(hello))) => Ok(hello),
            Ok(_) => Err(Error::invalid(
                "the first message of a session must be hello",
            )),
            Err(why) => Err(Error::invalid(why)),
        }
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<FromHost>, String> {
        loop {
            if let Some(message) = decode_message(&mut self.buffer).map_err(|e| e.to_string())? {
                return Ok(Some(message));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Ok(None),
            }
        }
    }
}

async fn read_session(control: Control, session: LinkSession, mut incoming: Incoming) {
    let silence = Duration::from_secs(SILENCE_SECONDS);
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(silence, incoming.next()) => message,
            () = session.ended.cancelled() => return,
        };
        match message {
            Ok(Ok(Some(message))) => control.link_message(&session, message).await,
            Ok(Ok(None)) => return,
            Ok(Err(why)) => {
                tracing::info!(host = %session.host, why, "session broke");
                return;
            }
            Err(_) => {
                tracing::info!(host = %session.host, "host was silent for {SILENCE_SECONDS} s");
                return;
            }
        }
    }
}

fn outgoing_bytes(
    outgoing: mpsc::Receiver<ToHost>,
    ended: tokio_util::sync::CancellationToken,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    futures::stream::unfold((outgoing, ended), |(mut outgoing, ended)| async move {
        let message = tokio::select! {
            message = outgoing.recv() => message?,
            () = tokio::time::sleep(Duration::from_secs(HEARTBEAT_SECONDS)) => {
                // An answer to none, and no promise.
                ToHost::Heartbeat { number: 0, fresh_ms: None }
            }
            () = ended.cancelled() => return None,
        };
        let bytes = encode_message(&message).map_err(std::io::Error::other);
        Some((bytes, (outgoing, ended)))
    })
}

async fn stream(
    State(control): State<Control>,
    peer: Option<Extension<PeerCertificate>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Refused> {
    let host = host_of(&control, peer.as_deref())?;
    let LinkStream { send, recv } = control
        .link_claim(&host, &id)
        .ok_or_else(|| Error::not_found("stream", &id))?;
    tokio::spawn(read_frames(body.into_data_stream(), send));
    let bytes = futures::stream::unfold(recv, |mut recv| async move {
        let frame = recv.recv().await?;
        Some((Ok::<_, std::io::Error>(frame.encode()), recv))
    });
    Ok(Body::from_stream(bytes).into_response())
}

/// Passes a host's frames on; waits while the reader is slow, and stops when it is gone.
///
/// A stream that was answered and then breaks off (the host died, the network failed) ends with an error frame: cut
/// output must never look whole to the reader.
async fn read_frames<S, E>(mut body: S, send: mpsc::Sender<Frame>)
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut buffer = BytesMut::new();
    // Before the first frame the end itself says that nobody answered.
    let mut answered = false;
    loop {
        match Frame::decode(&mut buffer) {
            Ok(Some(frame)) => {
                answered = true;
                let last = matches!(frame.kind, FrameKind::End | FrameKind::Error);
                if send.send(frame).await.is_err() || last {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "a host's stream is not readable");
                break;
            }
        }
        let bytes = tokio::select! {
            bytes = body.next() => bytes,
            () = send.closed() => return,
        };
        match bytes {
            Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
            Some(Err(_)) | None => break,
        }
    }
    if answered && let Some(frame) = broken_off() {
        let _ = send.send(frame).await;
    }
}

/// What ends a stream whose host went away in the middle.
fn broken_off() -> Option<Frame> {
    let error = StreamError {
        class: ErrorClass::Lost,
        message:
            "the connection to the host was lost in the middle: what came of the answer is not \
                  whole; what runs on the host goes on, and the request can be repeated"
                .to_owned(),
    };
    let frame = Frame::json(&error).ok()?;
    Some(Frame {
        kind: FrameKind::Error,
        ..frame
    })
}

async fn blob(
    State(control): State<Control>,
    peer: Option<Extension<PeerCertificate>>,
    Path(digest): Path<String>,
) -> Result<Response, Refused> {
    let host = host_of(&control, peer.as_deref())?;
    let digest = Digest::parse(&digest).map_err(|e| Error::invalid(e.to_string()))?;
    let source = control.link_blob(&host, &digest).await?;
    let bytes = futures::stream::unfold(source, |mut source| async move {
        let piece = source.next().await?;
        Some((piece.map_err(|e| std::io::Error::other(e.message)), source))
    });
    Ok(Body::from_stream(bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the reader sees when the host sends these frames and is then gone.
    async fn seen(frames: &[Frame]) -> Vec<FrameKind> {
        let bytes: Vec<Result<Bytes, ()>> = frames.iter().map(|f| Ok(f.encode())).collect();
        let (send, mut recv) = mpsc::channel(8);
        read_frames(futures::stream::iter(bytes), send).await;
        let mut kinds = Vec::new();
        while let Some(frame) = recv.recv().await {
            kinds.push(frame.kind);
        }
        kinds
    }

    #[test]
    fn only_a_removed_host_is_told_to_go() {
        let status = |kind| {
            let refused = Refused::host(Error::new(kind, "why"));
            refused.into_response().status()
        };
        assert_eq!(status(ErrorKind::NotFound), StatusCode::GONE);
        assert_eq!(status(ErrorKind::Unauthenticated), StatusCode::UNAUTHORIZED);
        assert_eq!(
            status(ErrorKind::Unavailable),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_does_not_look_whole() {
        let out = || Frame::new(FrameKind::Stdout, Bytes::from_static(b"half"));
        assert_eq!(seen(&[out()]).await, [FrameKind::Stdout, FrameKind::Error]);
        assert_eq!(
            seen(&[out(), Frame::end()]).await,
            [FrameKind::Stdout, FrameKind::End]
        );
        assert!(seen(&[]).await.is_empty());
    }
}
