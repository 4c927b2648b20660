//! One append-only file of records.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::LedgerError;

/// First bytes of a file: name and version of the format.
const MAGIC: &[u8; 8] = b"plmledg1";
/// Bytes before a record's JSON.
const HEADER_BYTES: usize = 8;
/// Longest record: a whole document is bounded by the longest message of the link.
const RECORD_MAX_BYTES: usize = 64 << 20;
/// A file is not rewritten below this size: rewriting costs two syncs.
const REWRITE_FROM_BYTES: u64 = 256 << 10;
/// A file is rewritten when it is so many times larger than after the last rewriting.
const REWRITE_FACTOR: u64 = 4;

/// An open file and what is not yet written to it.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    sync: bool,
    /// End of what is known to be whole.
    length: u64,
    length_after_rewrite: u64,
    pending: Vec<u8>,
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { what, path, source }
}

impl LogFile {
    /// Opens or makes a file and hands its records to `each`. `each(None)` means: forget what was handed before.
    /// It answers whether the record makes sense after those before it.
    pub(super) fn open<T: DeserializeOwned>(
        path: &Path,
        sync: bool,
        quarantined: &mut Vec<PathBuf>,
        mut each: impl FnMut(Option<T>) -> bool,
    ) -> Result<Self, LedgerError> {
        let bytes = match File::open(path) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(io("read", path))?;
                Some(bytes)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(io("open", path)(e)),
        };
        let good = bytes.as_deref().map(|bytes| replay(bytes, &mut each));
        let length = match good {
            Some(Some(length)) => length as u64,
            None => 0,
            Some(None) => {
                each(None);
                quarantined.push(put_aside(path)?);
                0
            }
        };
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(io("open", path))?;
        let mut log = if length == 0 {
            file.write_all(MAGIC).map_err(io("write", path))?;
            Self::at(path, file, sync, MAGIC.len() as u64)
        } else {
            file.set_len(length).map_err(io("truncate", path))?;
            Self::at(path, file, sync, length)
        };
        log.file
            .seek(SeekFrom::Start(log.length))
            .map_err(io("seek in", path))?;
        if sync {
            log.file.sync_all().map_err(io("sync", path))?;
            sync_folder(path)?;
        }
        Ok(log)
    }

    fn at(path: &Path, file: File, sync: bool, length: u64) -> Self {
        Self {
            path: path.to_owned(),
            file,
            sync,
            length,
            length_after_rewrite: length,
            pending: Vec::new(),
        }
    }

    /// Adds a record to what the next flush writes.
    pub(super) fn push<T: Serialize>(&mut self, record: &T) -> Result<(), LedgerError> {
        encode(record, &mut self.pending)
    }

    /// Writes what was pushed, and syncs if the file is synced.
    pub(super) fn flush(&mut self) -> Result<(), LedgerError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.pending).and_then(|()| {
            if self.sync {
                self.file.sync_data()
            } else {
                Ok(())
            }
        });
        if let Err(source) = written {
            // Half a record in the middle would make the rest unreadable.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            self.pending.clear();
            return Err(io("write", &self.path)(source));
        }
        self.length += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Whether it is time to rewrite it.
    pub(super) fn is_overgrown(&self) -> bool {
        let bound =
            REWRITE_FROM_BYTES.max(self.length_after_rewrite.saturating_mul(REWRITE_FACTOR));
        self.length > bound
    }

    /// Replaces all records, at once or not at all.
    pub(super) fn rewrite<T: Serialize>(&mut self, records: &[T]) -> Result<(), LedgerError> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            encode(record, &mut bytes)?;
        }
        let next = self.path.with_extension("next");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(true)
            .open(&next)
            .map_err(io("make", &next))?;
        file.write_all(&bytes).map_err(io("write", &next))?;
        // Synced whether or not appends are: a rename before its bytes would lose what was there.
        file.sync_all().map_err(io("sync", &next))?;
        std::fs::rename(&next, &self.path).map_err(io("rename", &next))?;
        sync_folder(&self.path)?;
        self.file = file;
        self.pending.clear();
        self.length = bytes.len() as u64;
        self.length_after_rewrite = self.length;
        Ok(())
    }
}

fn encode<T: Serialize>(record: &T, out: &mut Vec<u8>) -> Result<(), LedgerError> {
    let json = serde_json::to_vec(record).map_err(LedgerError::Json)?;
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&json).to_be_bytes());
    out.extend_from_slice(&json);
    Ok(())
}

/// Hands out all records; gives the length of the whole part, or `None` if the file is not what was written. What a
/// power cut leaves at the end is no damage: a piece of a record, or zeros in place of it or of a part of it.
pub(super) fn replay<T: DeserializeOwned>(
    bytes: &[u8],
    each: &mut impl FnMut(Option<T>) -> bool,
) -> Option<usize> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    loop {
        let at = bytes.len() - rest.len();
        let torn = Some(at);
        if rest.iter().all(|b| *b == 0) {
            return torn;
        }
        let (Some(length), Some(crc)) = (be32(rest, 0), be32(rest, 4)) else {
            return torn;
        };
        let end = HEADER_BYTES + length as usize;
        if length as usize > RECORD_MAX_BYTES {
            return None;
        }
        let Some(json) = rest.get(HEADER_BYTES..end) else {
            return torn;
        };
        if crc32fast::hash(json) != crc {
            let last = rest[end..].iter().all(|b| *b == 0);
            return if last { torn } else { None };
        }
        let record = serde_json::from_slice(json).ok()?;
        if !each(Some(record)) {
            return None;
        }
        rest = &rest[end..];
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Renames a file that cannot be read to the first free `NAME.unreadable-N`.
fn put_aside(path: &Path) -> Result<PathBuf, LedgerError> {
    // More would fill the disk if something damages the file at every start.
    const KEPT: u32 = 10;
    let name = |n: u32| path.with_extension(format!("unreadable-{n}"));
    let free = (1..KEPT)
        .map(name)
        .find(|p| !p.exists())
        .unwrap_or_else(|| name(KEPT));
    std::fs::rename(path, &free).map_err(io("put aside", path))?;
    Ok(free)
}

fn sync_folder(path: &Path) -> Result<(), LedgerError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(io("sync", folder))
}

#[cfg(test)]
impl LogFile {
    /// Lets writes fail.
    pub(super) fn break_with(&mut self, file: File) {
        self.file = file;
    }
}
