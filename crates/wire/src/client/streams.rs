//! What comes and goes bit by bit: bytes, lines of JSON, frames.
//!
//! What always holds: a line or frame is never longer than its bound; an end in the middle of one is an error.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::native::ClientError;
use crate::link::{Frame, ProtocolError};
use crate::native::stream::LINE_MAX_BYTES;

/// Bytes of an answer as they come.
#[derive(Debug)]
pub struct Download {
    endpoint: String,
    body: BodyStream<Incoming>,
}

impl Download {
    pub(super) fn new(endpoint: String, body: Incoming) -> Self {
        Self {
            endpoint,
            body: BodyStream::new(body),
        }
    }
}

impl Stream for Download {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match futures::ready!(self.body.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    // Trailers carry nothing in this API.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(source)) => {
                    let endpoint = self.endpoint.clone();
                    return Poll::Ready(Some(Err(ClientError::Broken {
                        endpoint,
                        source: source.into(),
                    })));
                }
            }
        }
    }
}

/// Lines of JSON as they come.
#[derive(Debug)]
pub struct Lines<T> {
    download: Download,
    buffer: BytesMut,
    scanned: usize,
    ended: bool,
    item: std::marker::PhantomData<fn() -> T>,
}

impl<T> Lines<T> {
    pub(super) fn new(download: Download) -> Self {
        Self {
            download,
            buffer: BytesMut::new(),
            scanned: 0,
            ended: false,
            item: std::marker::PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks, a line is too long or is something else.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(at) = self.buffer[self.scanned..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.buffer.split_to(self.scanned + at + 1);
                self.scanned = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.parse(&line).map(Some);
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(self.unreadable(format!("a line longer than {LINE_MAX_BYTES} bytes")));
            }
            if self.ended {
                if self.buffer.trim_ascii().is_empty() {
                    return Ok(None);
                }
                return Err(self.unreadable("the last line is cut off".into()));
            }
            match self.download.next().await {
                Some(bytes) => self.buffer.extend_from_slice(&bytes?),
                None => self.ended = true,
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(line).map_err(|error| self.unreadable(error.to_string()))
    }

    fn unreadable(&self, what: String) -> ClientError {
        ClientError::Unreadable {
            endpoint: self.download.endpoint.clone(),
            what,
        }
    }
}

/// Frames of an answer as they come.
#[derive(Debug)]
pub struct Frames {
    download: Download,
    buffer: BytesMut,
}

impl Frames {
    pub(super) fn new(download: Download) -> Self {
        Self {
            download,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or the bytes are no frames.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            match Frame::decode(&mut self.buffer) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => return Err(not_frames(&self.download.endpoint, &error)),
            }
            match self.download.next().await {
                Some(bytes) => self.buffer.extend_from_slice(&bytes?),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(cut_off(&self.download.endpoint)),
            }
        }
    }
}

fn not_frames(endpoint: &str, error: &ProtocolError) -> ClientError {
    ClientError::Unreadable {
        endpoint: endpoint.to_owned(),
        what: error.to_string(),
    }
}

fn cut_off(endpoint: &str) -> ClientError {
    ClientError::Broken {
        endpoint: endpoint.to_owned(),
        source: "the stream was cut off".into(),
    }
}

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Frames in both directions.
#[derive(Debug)]
pub struct Duplex {
    /// From the server.
    pub reader: FrameReader,
    /// To the server.
    pub writer: FrameWriter,
}

impl Duplex {
    pub(super) fn new(endpoint: String, connection: hyper::upgrade::Upgraded) -> Self {
        let (read, write) = tokio::io::split(TokioIo::new(connection));
        Self {
            reader: FrameReader {
                endpoint: endpoint.clone(),
                read,
                buffer: BytesMut::new(),
            },
            writer: FrameWriter { endpoint, write },
        }
    }
}

/// Frames from the server.
#[derive(Debug)]
pub struct FrameReader {
    endpoint: String,
    read: ReadHalf<Upgraded>,
    buffer: BytesMut,
}

impl FrameReader {
    /// The next frame; `None` when the server has closed. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// When the connection breaks or the bytes are no frames.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            match Frame::decode(&mut self.buffer) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => return Err(not_frames(&self.endpoint, &error)),
            }
            let read = self.read.read_buf(&mut self.buffer).await;
            let read = read.map_err(|source| ClientError::Broken {
                endpoint: self.endpoint.clone(),
                source: source.into(),
            })?;
            if read == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(cut_off(&self.endpoint))
                };
            }
        }
    }
}

/// Frames to the server.
#[derive(Debug)]
pub struct FrameWriter {
    endpoint: String,
    write: WriteHalf<Upgraded>,
}

impl FrameWriter {
    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), ClientError> {
        let broken = |source: std::io::Error| ClientError::Broken {
            endpoint: self.endpoint.clone(),
            source: source.into(),
        };
        self.write
            .write_all(&frame.encode())
            .await
            .map_err(broken)?;
        self.write.flush().await.map_err(broken)
    }
}
