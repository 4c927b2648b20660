//! The log of a workload: records in files `log.<base offset>`, bounded and rotated.
//!
//! A shim writes it ([`LogWriter`]), agents read it while it grows ([`LogReader`]); offsets count
//! from the first byte ever written and never go back, over all runs of the workload.
//! Not an index and not for fast random access: files are small enough to be read forwards.
//! Always holds: a record is complete and has a valid checksum or is not returned; a torn tail and
//! damaged bytes cost the records they hit and no others; a reader that was overtaken by rotation is told.

mod reader;
mod record;
mod writer;

pub use reader::{Entry, LogReader};
pub use record::{MAX_PAYLOAD, Record, Stream};
pub use writer::LogWriter;

use std::io;
use std::path::{Path, PathBuf};

/// Files of the log in `dir` as (base offset, path), oldest first.
///
/// # Errors
/// When the directory cannot be read; a missing directory is an empty log.
pub fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let base = name
            .to_str()
            .and_then(|name| name.strip_prefix("log."))
            .and_then(|base| base.parse().ok());
        if let Some(base) = base {
            found.push((base, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
