//! The reading side of the log; any number of readers, while it grows.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::record::{self, HEADER, MAX_PAYLOAD, Parsed, Record};

/// Bytes read at once; at least one whole record.
const CHUNK: usize = HEADER + MAX_PAYLOAD;

/// What a reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// Bytes that are not there any more, or were damaged.
    Gap {
        /// How many.
        bytes: u64,
    },
}

/// Reads records forwards from an offset.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    offset: u64,
    open: Option<(u64, File)>,
    buffer: Vec<u8>,
    /// Offset of the first byte in `buffer`; equal to `offset` whenever the buffer is not empty.
    skipped: u64,
}

impl LogReader {
    /// A reader that begins at `offset`; 0 for everything that is still there.
    pub fn new(dir: impl Into<PathBuf>, offset: u64) -> LogReader {
        LogReader {
            dir: dir.into(),
            offset,
            open: None,
            buffer: Vec::new(),
            skipped: 0,
        }
    }

    /// Offset after the last record returned.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record or gap; `None` when the reader has caught up.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            match record::parse(&self.buffer) {
                Parsed::Whole(found, len) => {
                    if let Some(gap) = self.take_gap() {
                        return Ok(Some(gap));
                    }
                    self.buffer.drain(..len);
                    self.offset += len as u64;
                    return Ok(Some(Entry::Record(found)));
                }
                Parsed::Bad if !self.buffer.is_empty() => self.skip_to_next_magic(),
                Parsed::Bad | Parsed::Partial => {
                    if self.fill()? {
                        continue;
                    }
                    if self.next_file()? {
                        continue;
                    }
                    return Ok(None);
                }
            }
        }
    }

    fn take_gap(&mut self) -> Option<Entry> {
        let bytes = std::mem::take(&mut self.skipped);
        (bytes > 0).then_some(Entry::Gap { bytes })
    }

    fn skip_to_next_magic(&mut self) {
        let step = self
            .buffer
            .iter()
            .skip(1)
            .position(|&byte| byte == 0xa5)
            .map_or(self.buffer.len(), |at| at + 1);
        self.buffer.drain(..step);
        self.offset += step as u64;
        self.skipped += step as u64;
    }

    /// Reads more of the open file; false when there is nothing more in it.
    fn fill(&mut self) -> io::Result<bool> {
        if self.open.is_none() && !self.open_at_offset()? {
            return Ok(false);
        }
        let Some((base, file)) = &self.open else {
            return Ok(false);
        };
        let at = self.offset - base + self.buffer.len() as u64;
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        let result = file.read_at(&mut self.buffer[old..], at);
        let got = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(old + got);
        result?;
        Ok(got > 0)
    }

    /// Opens the file that holds the offset; after rotation the oldest file there is.
    fn open_at_offset(&mut self) -> io::Result<bool> {
        let files = super::files(&self.dir)?;
        let holding = files
            .iter()
            .rev()
            .find(|(base, _)| *base <= self.offset)
            .or_else(|| files.first());
        let Some((base, path)) = holding else {
            return Ok(false);
        };
        let file = match File::open(path) {
            // Rotated away between listing and opening; the caller asks again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        if *base > self.offset {
            if self.offset > 0 {
                self.skipped += base - self.offset;
            }
            self.offset = *base;
        }
        self.open = Some((*base, file));
        Ok(true)
    }

    /// Moves on when a later file exists, which means that the open one is closed for good.
    fn next_file(&mut self) -> io::Result<bool> {
        let Some((current, _)) = &self.open else {
            return Ok(false);
        };
        let current = *current;
        let Some((base, _)) = super::files(&self.dir)?
            .into_iter()
            .find(|(base, _)| *base > current)
        else {
            return Ok(false);
        };
        // The writer may have appended to the open file before it began the next one.
        if self.fill()? {
            return Ok(true);
        }
        // Whatever is left of the closed file is a torn record.
        self.skipped += base.saturating_sub(self.offset);
        self.offset = self.offset.max(base);
        self.buffer.clear();
        self.open = None;
        Ok(true)
    }
}

/// Whether a file consists of whole records by their lengths (checksums are not looked at).
pub(super) fn ends_whole(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut reader = io::BufReader::with_capacity(CHUNK, file);
    let mut at = 0;
    let mut head = [0; HEADER];
    while at < len {
        if len - at < HEADER as u64 {
            return Ok(false);
        }
        reader.read_exact(&mut head)?;
        let payload = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if head[..2] != [0xa5, 0x4c] || payload as usize > MAX_PAYLOAD {
            return Ok(false);
        }
        at += HEADER as u64 + u64::from(payload);
        reader.seek_relative(i64::from(payload))?;
    }
    Ok(at == len)
}
