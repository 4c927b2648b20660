//! A stream the server asked for: opens the request and hands both directions to [`crate::streams`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tracing::debug;
use wire::client::http2;
use wire::link::{Frame, FrameKind, StreamRequest};

use super::Link;
use crate::core::chain;
use crate::streams;

/// Frames that wait in each direction; HTTP/2's own windows come on top.
const QUEUE: usize = 8;
/// Longest wait for the server to take a stream it asked for.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the server to close its side after the last frame; a slow reader needs as long as what is in
/// flight takes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves a stream in the background.
pub(super) fn open(
    link: &Link,
    connection: Arc<http2::Connection>,
    id: String,
    request: StreamRequest,
) {
    let url = format!("https://{}/link/v1/streams/{id}", link.server);
    let context = link.streams.clone();
    let slot = link.slots.clone().try_acquire_owned();
    // Said before anything else that the server sends is looked at: a removal waits for it.
    let mut reading = None;
    if let StreamRequest::Follow(follow) = &request {
        reading = Some(context.board.reading(&follow.id));
    }
    link.metrics.streams.add(1);
    let shutdown = link.shutdown.clone();
    tokio::spawn(async move {
        // Held to the end: a session that is begun anew must not cut this stream.
        let mut sender = connection.sender.clone();
        let (out, body) = mpsc::channel::<Bytes>(QUEUE);
        let serve = async {
            let request_to_server = http::Request::post(url).body(http2::channel(body));
            let Ok(request_to_server) = request_to_server else {
                return;
            };
            let (input, frames) = mpsc::channel::<Frame>(QUEUE);
            let answer = tokio::time::timeout(OPEN_TIMEOUT, sender.send_request(request_to_server));
            let receive = async move {
                match answer.await {
                    Ok(Ok(response)) if response.status().is_success() => {
                        pump(response.into_body(), input).await;
                    }
                    Ok(Ok(response)) => debug!(status = %response.status(), "stream refused"),
                    Ok(Err(e)) => debug!(error = %chain(&e), "stream not opened"),
                    Err(_) => debug!("stream not taken in time"),
                }
            };
            let serve = async {
                match slot {
                    Ok(_slot) => streams::serve(&context, request, frames, out).await,
                    Err(_) => streams::refuse_busy(out).await,
                }
                drop(reading);
            };
            // What is served decides when it ends; the input may end earlier. The server's side is kept open until
            // the server closes it: dropping it would reset the stream and with it the last frames on their way.
            tokio::pin!(receive);
            {
                tokio::pin!(serve);
                tokio::select! {
                    () = &mut serve => {}
                    () = &mut receive => {
                        serve.await;
                        return;
                    }
                }
            }
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, receive).await;
        };
        tokio::select! {
            () = serve => {}
            () = shutdown.cancelled() => {}
        }
        drop(connection);
    });
}

/// Hands the server's frames on until its end or a broken frame; what nobody wants any more is read and dropped.
async fn pump(mut body: Incoming, frames: mpsc::Sender<Frame>) {
    let mut buffer = BytesMut::new();
    let mut frames = Some(frames);
    while let Some(Ok(piece)) = body.frame().await {
        let (Ok(data), Some(wanted)) = (piece.into_data(), &frames) else {
            continue;
        };
        buffer.extend_from_slice(&data);
        loop {
            match Frame::decode(&mut buffer) {
                Ok(Some(frame)) => {
                    let last = frame.kind == FrameKind::End;
                    if wanted.send(frame).await.is_err() || last {
                        frames = None;
                        break;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    debug!(error = %e, "stream broke the protocol");
                    return;
                }
            }
        }
    }
}
