//! A bounded pipe from async code to a thread that reads.
//!
//! What always holds: the reader sees the end only when the writer said so; a writer that went away (its request was
//! cancelled) is an error, never the end of the data.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::error::ImagesError;

/// Chunks in flight: with network chunks of 8 to 64 KiB at most about one MiB per layer.
const DEPTH: usize = 16;

enum Piece {
    Data(Bytes),
    End,
}

/// The end to write to.
pub(crate) struct PipeWriter(mpsc::Sender<Piece>);

/// The end to read from, on a thread that may block.
pub(crate) struct PipeReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    (
        PipeWriter(sender),
        PipeReader {
            pieces,
            current: Bytes::new(),
            ended: false,
        },
    )
}

impl PipeWriter {
    /// Hands over bytes; waits while the reader is busy. `false`: the reader is gone.
    pub(crate) async fn send(&self, bytes: Bytes) -> bool {
        bytes.is_empty() || self.0.send(Piece::Data(bytes)).await.is_ok()
    }

    /// That was all.
    pub(crate) async fn finish(self) -> bool {
        self.0.send(Piece::End).await.is_ok()
    }
}

impl Read for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(ImagesError::Cancelled.into_io()),
            }
        }
        let got = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..got]);
        Ok(got)
    }
}
