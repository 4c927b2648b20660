//! A connection that stops being HTTP: attach and exec.
//!
//! The client asks with `Upgrade: tcp` and gets `101`; from then on both directions are bytes of the task. A client that
//! does not ask gets the same bytes as the body of a `200`, and its request's body is the input.
//!
//! What always holds: at most one frame and one read buffer are held per direction; a client that does not read stops
//! its own stream only.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::Response;
use bytes::{Buf as _, BytesMut};
use control::LinkStream;
use futures::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use wire::link::{Frame, FrameKind};

use super::detach::DetachKeys;
use super::request::Call;
use super::stdcopy::{self, Stream};
use super::version::ApiVersion;

/// Bytes of input read at once.
const READ_BYTES: usize = 32 << 10;

/// The API version that told clients by the content type whether output is framed.
const MULTIPLEXED_SINCE: ApiVersion = ApiVersion(42);

/// How bytes pass between client and task.
pub(super) struct Session {
    /// With a terminal: output is not framed.
    pub(super) tty: bool,
    /// Whether the client's bytes are input.
    pub(super) stdin: bool,
    /// Keys that end the session; only with a terminal and input.
    pub(super) detach: Option<DetachKeys>,
}

/// The content type of output.
pub(super) fn content_type(version: ApiVersion, tty: bool) -> HeaderValue {
    HeaderValue::from_static(if tty || version < MULTIPLEXED_SINCE {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    })
}

/// Answers and passes bytes until the stream ends. The stream is opened only once the client has its answer: some
/// clients lose what arrives together with it.
pub(super) async fn respond<Open>(call: &mut Call, open: Open, session: Session) -> Response
where
    Open: Future<Output = LinkStream> + Send + 'static,
{
    let kind = content_type(call.version, session.tty);
    let mut response = match call.upgrade.take() {
        Some(upgrade) => {
            tokio::spawn(upgraded(upgrade, open, session));
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
            response
        }
        None => plain(std::mem::take(&mut call.body), open.await, session),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn upgraded(
    upgrade: OnUpgrade,
    open: impl Future<Output = LinkStream> + Send,
    session: Session,
) {
    match upgrade.await {
        Ok(io) => carry(TokioIo::new(io), open.await, session).await,
        Err(error) => {
            tracing::debug!(%error, "the client went away before its connection was taken over")
        }
    }
}

/// Passes bytes in both directions until the task's output ends, the client detaches or cannot be written to.
async fn carry<IO: AsyncRead + AsyncWrite>(io: IO, stream: LinkStream, session: Session) {
    let (mut read, mut write) = tokio::io::split(io);
    let LinkStream { send, mut recv } = stream;
    let tty = session.tty;
    let output = async {
        while let Some(frame) = recv.recv().await {
            let last = matches!(frame.kind, FrameKind::End | FrameKind::Error);
            if write_frame(&mut write, tty, frame).await.is_err() || last {
                break;
            }
        }
    };
    let input = async {
        let detached = input(&mut read, &send, session).await;
        if !detached {
            // The client said all it had to say, or cannot be heard; it may still listen.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = output => {}
        () = input => {}
    }
    let _ = write.shutdown().await;
}

/// Reads input until it ends; true: the client detached.
async fn input(
    read: &mut (impl AsyncRead + Unpin),
    send: &mpsc::Sender<Frame>,
    mut session: Session,
) -> bool {
    if !session.stdin {
        return false;
    }
    loop {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        match read.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let (bytes, detached) = match &mut session.detach {
            Some(keys) => {
                let (bytes, detached) = keys.feed(&buffer);
                (Bytes::from(bytes), detached)
            }
            None => (buffer.freeze(), false),
        };
        if !bytes.is_empty()
            && send
                .send(Frame::new(FrameKind::Stdin, bytes))
                .await
                .is_err()
        {
            return false;
        }
        if detached {
            return true;
        }
    }
    if session.tty {
        // A terminal has no end of input: the client has gone, by its own detach keys or with its window. As with
        // dockerd, what it was attached to goes on.
        return true;
    }
    let _ = send
        .send(Frame::new(FrameKind::EndInput, Bytes::new()))
        .await;
    false
}

/// What a frame is to the client; `None`: nothing.
pub(super) fn output_of(frame: Frame) -> Option<(Stream, Bytes)> {
    match frame.kind {
        FrameKind::Stdout => Some((Stream::Stdout, frame.payload)),
        FrameKind::Stderr => Some((Stream::Stderr, frame.payload)),
        FrameKind::Error => {
            let error = control::links::stream_error(&frame);
            Some((Stream::System, error.message.into()))
        }
        FrameKind::Data
        | FrameKind::Stdin
        | FrameKind::EndInput
        | FrameKind::Json
        | FrameKind::End => None,
    }
}

async fn write_frame(
    write: &mut (impl AsyncWrite + Unpin),
    tty: bool,
    frame: Frame,
) -> std::io::Result<()> {
    let Some((stream, payload)) = output_of(frame) else {
        return Ok(());
    };
    if tty {
        return write.write_all(&payload).await;
    }
    // Header and payload leave in one system call.
    let head = stdcopy::header(stream, payload.len());
    let mut both = Bytes::copy_from_slice(&head).chain(payload);
    write.write_all_buf(&mut both).await
}

/// Without an upgrade: the response's body is the output, the request's body the input.
fn plain(body: Body, stream: LinkStream, session: Session) -> Response {
    let LinkStream { send, recv } = stream;
    let tty = session.tty;
    if session.stdin {
        let send = send.clone();
        tokio::spawn(async move {
            let mut chunks = body.into_data_stream();
            while let Some(Ok(chunk)) = chunks.next().await {
                if send
                    .send(Frame::new(FrameKind::Stdin, chunk))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            if tty {
                return;
            }
            let _ = send
                .send(Frame::new(FrameKind::EndInput, Bytes::new()))
                .await;
        });
    }
    // The sender stays with the output: the host sees the client go when the body is dropped.
    let frames = futures::stream::unfold((recv, send), move |(mut recv, send)| async move {
        loop {
            let frame = recv.recv().await?;
            if frame.kind == FrameKind::End {
                return None;
            }
            if let Some((stream, payload)) = output_of(frame) {
                let bytes = if tty {
                    payload
                } else {
                    stdcopy::frame(stream, &payload)
                };
                return Some((Ok::<Bytes, Infallible>(bytes), (recv, send)));
            }
        }
    });
    Response::new(Body::from_stream(frames))
}
