//! Framing of the shim's socket: `u32` little-endian length, one kind byte, payload.
//!
//! It knows bytes, not meanings. Start with [`Decoder`] (reading side, works on whatever arrived)
//! and [`encode`]. Always holds: a length above [`MAX_FRAME`] is an error before anything is allocated.

use serde::Serialize;

/// Largest payload. Messages are a few hundred bytes, input chunks at most 32 KiB; a larger length is a fault.
pub const MAX_FRAME: usize = 256 * 1024;

/// Bytes before the payload.
pub const HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON of a call or an event.
    Message,
    /// Bytes for the task's standard input.
    Stdin,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Kind::Message => 0,
            Kind::Stdin => 1,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            0 => Some(Kind::Message),
            1 => Some(Kind::Stdin),
            _ => None,
        }
    }
}

/// A stream that does not speak this protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Length beyond [`MAX_FRAME`].
    #[error("frame of {0} bytes is larger than allowed")]
    TooLarge(usize),
    /// Unknown kind byte.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A message that cannot be written as JSON.
    #[error("message cannot be encoded")]
    Encode(#[source] serde_json::Error),
}

/// Appends one frame to `out`.
///
/// # Errors
/// When the payload is larger than [`MAX_FRAME`].
pub fn encode(kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    if payload.len() > MAX_FRAME {
        return Err(FrameError::TooLarge(payload.len()));
    }
    let len = u32::try_from(payload.len()).map_err(|_| FrameError::TooLarge(payload.len()))?;
    out.extend_from_slice(&len.to_le_bytes());
    out.push(kind.to_byte());
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends a message as one frame to `out`.
///
/// # Errors
/// When the message cannot be encoded or is too large.
pub fn encode_message<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let json = serde_json::to_vec(message).map_err(FrameError::Encode)?;
    encode(Kind::Message, &json, out)
}

/// Collects bytes and gives whole frames back.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes held that are not yet a whole frame.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// When the stream does not speak this protocol; the connection must be closed then.
    pub fn next_frame(&mut self) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, kind] = *header;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > MAX_FRAME {
            return Err(FrameError::TooLarge(len));
        }
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        if self.buffer.len() < HEADER + len {
            return Ok(None);
        }
        let payload = self.buffer[HEADER..HEADER + len].to_vec();
        self.buffer.drain(..HEADER + len);
        if self.buffer.is_empty() {
            // A shim is idle nearly always: hold no memory for it.
            self.buffer = Vec::new();
        }
        Ok(Some((kind, payload)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..10),
            chunk in 1usize..50,
        ) {
            let mut wire = Vec::new();
            for payload in &payloads {
                encode(Kind::Stdin, payload, &mut wire).unwrap();
            }
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in wire.chunks(chunk) {
                decoder.push(piece);
                while let Some((kind, payload)) = decoder.next_frame().unwrap() {
                    prop_assert_eq!(kind, Kind::Stdin);
                    seen.push(payload);
                }
            }
            prop_assert_eq!(seen, payloads);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_believed() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 0]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLarge(_))));
    }
}
