//! One record of the log: a header of 24 bytes and the bytes the task wrote.
//!
//! Layout, little-endian: magic `a5 4c`, stream, zero, `u32` length, `u64` time in nanoseconds
//! since 1970, `u32` CRC-32 of the payload, `u32` CRC-32 of the 20 bytes before it. The header has a
//! checksum of its own so that a damaged length is not waited for.

/// Largest payload of a record; the writer never puts more into one.
pub const MAX_PAYLOAD: usize = 64 * 1024;

pub(super) const HEADER: usize = 24;
const MAGIC: [u8; 2] = [0xa5, 0x4c];

/// Where the bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// Not output: a run begins here; the payload is its number in decimal.
    RunStart,
}

impl Stream {
    fn to_byte(self) -> u8 {
        match self {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
            Stream::RunStart => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Stream> {
        match byte {
            1 => Some(Stream::Stdout),
            2 => Some(Stream::Stderr),
            3 => Some(Stream::RunStart),
            _ => None,
        }
    }
}

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where the bytes came from.
    pub stream: Stream,
    /// When the shim read them, nanoseconds since 1970.
    pub time_ns: u64,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// The header for a payload.
pub(super) fn header(stream: Stream, time_ns: u64, payload: &[u8]) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..2].copy_from_slice(&MAGIC);
    out[2] = stream.to_byte();
    // Payloads are bounded by MAX_PAYLOAD, far below u32::MAX.
    out[4..8].copy_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out[8..16].copy_from_slice(&time_ns.to_le_bytes());
    out[16..20].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let crc = crc32fast::hash(&out[..20]);
    out[20..24].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What the bytes at one place turned out to be.
pub(super) enum Parsed {
    /// A record and its length on disk.
    Whole(Record, usize),
    /// Possibly the beginning of a record; more bytes are needed.
    Partial,
    /// No record begins here.
    Bad,
}

/// Parses the record that begins at the first byte.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let known = bytes.len().min(2);
    if bytes[..known] != MAGIC[..known] {
        return Parsed::Bad;
    }
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        return Parsed::Partial;
    };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let len = word(4) as usize;
    let Some(stream) = Stream::from_byte(head[2]) else {
        return Parsed::Bad;
    };
    if word(20) != crc32fast::hash(&head[..20]) || len > MAX_PAYLOAD {
        return Parsed::Bad;
    }
    let Some(payload) = bytes.get(HEADER..HEADER + len) else {
        return Parsed::Partial;
    };
    if word(16) != crc32fast::hash(payload) {
        return Parsed::Bad;
    }
    let mut time = [0; 8];
    time.copy_from_slice(&head[8..16]);
    let record = Record {
        stream,
        time_ns: u64::from_le_bytes(time),
        bytes: payload.to_vec(),
    };
    Parsed::Whole(record, HEADER + len)
}
