//! What the server asks this host for directly: output, input, further processes, measures, images.
//!
//! What always holds: every stream begins with a reply and ends with an end or an error; both directions are bounded,
//! so that a slow reader slows the writer; a stream ends when the server's side is gone.

mod image;
mod task;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::debug;
use wire::link::{
    ErrorClass, Frame, FrameKind, ProtocolError, StreamError, StreamReply, StreamRequest,
};

use crate::board::Board;
use crate::driver::{DriverError, Drivers};
use crate::imports::Imports;

/// What streams are served from.
#[derive(Clone)]
pub struct StreamContext {
    /// The host's drivers.
    pub drivers: Drivers,
    /// Last reports of workloads.
    pub board: Arc<Board>,
    /// Images that come in.
    pub imports: Arc<Imports>,
}

/// Why a stream ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamFailure {
    /// Nobody reads any more.
    #[error("the server's side is gone")]
    Gone,
    /// A driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The server said something that makes no sense here.
    #[error("the stream broke the protocol")]
    Protocol(#[from] ProtocolError),
}

/// The way out of a stream.
pub(crate) struct Out {
    sender: mpsc::Sender<Bytes>,
    replied: bool,
}

impl Out {
    pub(crate) async fn frame(&self, frame: &Frame) -> Result<(), StreamFailure> {
        self.sender
            .send(frame.encode())
            .await
            .map_err(|_| StreamFailure::Gone)
    }

    /// Says that it goes on as the request says.
    pub(crate) async fn ok(&mut self) -> Result<(), StreamFailure> {
        self.replied = true;
        self.frame(&Frame::json(&StreamReply::Ok)?).await
    }

    pub(crate) async fn json<T: serde::Serialize>(&self, value: &T) -> Result<(), StreamFailure> {
        self.frame(&Frame::json(value)?).await
    }

    /// Bytes in frames no longer than allowed.
    pub(crate) async fn bytes(&self, kind: FrameKind, bytes: Bytes) -> Result<(), StreamFailure> {
        self.split(Frame::new(kind, bytes)).await
    }

    /// A frame as frames no longer than allowed; its position is where the last of them ends.
    pub(crate) async fn split(&self, mut frame: Frame) -> Result<(), StreamFailure> {
        while frame.payload.len() > FRAME_BYTES {
            let first = Frame {
                position: None,
                payload: frame.payload.split_to(FRAME_BYTES),
                ..frame.clone()
            };
            self.frame(&first).await?;
        }
        if frame.payload.is_empty() && frame.position.is_none() {
            return Ok(());
        }
        self.frame(&frame).await
    }
}

/// Frames this side makes: small enough that several streams share a connection fairly.
const FRAME_BYTES: usize = 256 << 10;

/// Serves one stream to its end.
pub async fn serve(
    context: &StreamContext,
    request: StreamRequest,
    frames: mpsc::Receiver<Frame>,
    out: mpsc::Sender<Bytes>,
) {
    let closed = out.clone();
    let mut out = Out {
        sender: out,
        replied: false,
    };
    let result = tokio::select! {
        result = dispatch(context, request, frames, &mut out) => result,
        () = closed.closed() => Err(StreamFailure::Gone),
    };
    let last = match result {
        Ok(()) => Ok(Frame::end()),
        Err(StreamFailure::Gone) => return,
        Err(StreamFailure::Driver(e)) => failed(&out, e.class, &e),
        Err(StreamFailure::Protocol(e)) => failed(&out, ErrorClass::Invalid, &e),
    };
    match last {
        Ok(frame) => {
            let _ = out.frame(&frame).await;
            if !out.replied || frame.kind == FrameKind::Json {
                let _ = out.frame(&Frame::end()).await;
            }
        }
        Err(e) => debug!(error = %e, "cannot tell how a stream failed"),
    }
}

/// An error as the first frame if nothing was said yet, else as an error frame.
fn failed(
    out: &Out,
    class: ErrorClass,
    error: &dyn std::error::Error,
) -> Result<Frame, ProtocolError> {
    let error = StreamError {
        class,
        message: crate::core::chain(error),
    };
    if out.replied {
        Ok(Frame {
            kind: FrameKind::Error,
            ..Frame::json(&error)?
        })
    } else {
        Frame::json(&StreamReply::Error(error))
    }
}

/// Answers a stream that is one too many.
pub(crate) async fn refuse_busy(out: mpsc::Sender<Bytes>) {
    let error = StreamError {
        class: ErrorClass::Full,
        message: "this host serves as many streams as it may".to_owned(),
    };
    if let Ok(frame) = Frame::json(&StreamReply::Error(error)) {
        let _ = out.send(frame.encode()).await;
        let _ = out.send(Frame::end().encode()).await;
    }
}

async fn dispatch(
    context: &StreamContext,
    request: StreamRequest,
    mut frames: mpsc::Receiver<Frame>,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let drivers = &context.drivers;
    match request {
        StreamRequest::Follow(follow) => task::follow(context, &follow, &mut frames, out).await,
        StreamRequest::Exec(exec) => task::exec(context, &exec, &mut frames, out).await,
        StreamRequest::ExecResume(exec) => task::resume(context, &exec, &mut frames, out).await,
        StreamRequest::Resize {
            id,
            exec,
            rows,
            columns,
        } => {
            let exec = exec.as_deref();
            drivers.runtime.resize(&id, exec, rows, columns).await?;
            out.ok().await
        }
        StreamRequest::Signal { id, signal } => {
            drivers.runtime.signal(&id, signal).await?;
            out.ok().await
        }
        StreamRequest::Stats { id, follow } => {
            task::stats(context, &id, follow, &mut frames, out).await
        }
        StreamRequest::Top { id, ps_args } => {
            let table = drivers.runtime.top(&id, &ps_args).await?;
            out.ok().await?;
            out.json(&table).await
        }
        StreamRequest::Login(login) => {
            drivers.images.login(&login).await?;
            out.ok().await
        }
        StreamRequest::Pull(pull) => image::pull(context, &pull, frames, out).await,
        StreamRequest::Load => image::load(context, frames, out).await,
        StreamRequest::Save { images } => {
            let archive = drivers.images.save(images).await?;
            out.ok().await?;
            image::send(archive, out).await
        }
        StreamRequest::Blob { digest } => {
            let (_, blob) = drivers.images.open_blob(&digest).await?;
            out.ok().await?;
            image::send(blob, out).await
        }
    }
}
