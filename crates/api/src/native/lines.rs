//! Answers that come bit by bit: lines of JSON, frames, bytes.
//!
//! What always holds: nothing is held but the next bit; a slow reader slows down its own stream only; a reader that
//! goes away ends the stream.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use control::LinkStream;
use futures::{Stream, StreamExt as _};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Serialize;
use wire::link::FrameKind;
use wire::native::stream::{FRAMES_TYPE, LINES_TYPE};

/// An answer of one JSON document per line.
pub(crate) fn lines<T: Serialize + 'static>(
    items: impl Stream<Item = T> + Send + 'static,
) -> Response {
    body(
        LINES_TYPE,
        items.filter_map(|item| std::future::ready(line(&item))),
    )
}

fn line<T: Serialize>(item: &T) -> Option<Bytes> {
    let mut out = BytesMut::new().writer();
    if let Err(error) = serde_json::to_writer(&mut out, item) {
        tracing::error!(%error, "a line could not be written");
        return None;
    }
    let mut out = out.into_inner();
    out.put_u8(b'\n');
    Some(out.freeze())
}

/// An answer of frames, up to and with the last one.
pub(crate) fn frames(stream: LinkStream) -> Response {
    let LinkStream { send, recv } = stream;
    let frames = futures::stream::unfold((Some(recv), send), |(recv, send)| async move {
        let mut recv = recv?;
        let frame = recv.recv().await?;
        let last = matches!(frame.kind, FrameKind::End | FrameKind::Error);
        Some((frame.encode(), ((!last).then_some(recv), send)))
    });
    body(FRAMES_TYPE, frames)
}

/// An answer of bytes.
pub(crate) fn body(
    kind: &'static str,
    bytes: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    try_body(kind, bytes.map(Ok::<_, std::convert::Infallible>))
}

/// An answer of bytes that can fail half-way: the connection is then cut, so that nobody takes it for whole.
pub(crate) fn try_body<E>(
    kind: &'static str,
    bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let mut response = Response::new(Body::from_stream(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
