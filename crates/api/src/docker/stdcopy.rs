//! Docker's framing of output without a terminal: one byte for the stream, three zero bytes, four bytes of length (big
//! endian), the bytes.

use axum::body::Bytes;
use bytes::{Buf as _, BufMut as _, BytesMut};

use super::failure::{Failure, Result};

/// Longest frame this reads; Docker's own writers stay below 64 KiB.
const FRAME_MAX_BYTES: usize = 1 << 20;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stream {
    /// Standard input; only in the other direction.
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// A message of the server: it ends the stream.
    System = 3,
}

/// The eight bytes before `length` bytes of a stream.
pub(super) fn header(stream: Stream, length: usize) -> [u8; 8] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [
        stream as u8,
        0,
        0,
        0,
        length[0],
        length[1],
        length[2],
        length[3],
    ]
}

/// A whole frame.
pub(super) fn frame(stream: Stream, bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + bytes.len());
    out.put_slice(&header(stream, bytes.len()));
    out.put_slice(bytes);
    out.freeze()
}

/// Takes one whole frame from the front of `buffer`; `None` if more bytes are needed.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<(Stream, Bytes)>> {
    let Some(head) = buffer.first_chunk::<8>() else {
        return Ok(None);
    };
    let stream = match head[0] {
        0 => Stream::Stdin,
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::System,
        other => return Err(Failure::invalid(format!("unknown stream {other}"))),
    };
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if length > FRAME_MAX_BYTES {
        return Err(Failure::invalid(format!(
            "frame of {length} bytes is too long"
        )));
    }
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    Ok(Some((stream, buffer.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_at_any_split() {
        let mut bytes = frame(Stream::Stdout, b"out").to_vec();
        bytes.extend_from_slice(&frame(Stream::Stderr, b""));
        for split in 0..bytes.len() {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in [&bytes[..split], &bytes[split..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(
                seen,
                [
                    (Stream::Stdout, Bytes::from_static(b"out")),
                    (Stream::Stderr, Bytes::new())
                ]
            );
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        for bad in [[9, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 255, 255, 255, 255]] {
            assert!(decode(&mut BytesMut::from(&bad[..])).is_err());
        }
    }
}
