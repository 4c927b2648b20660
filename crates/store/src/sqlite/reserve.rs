//! Room kept for the day the disk is full.
//!
//! A peer could not be restarted once its disk was full, because even deleting needs room first. The reserve is a
//! file of zeros that is given up then, and made again when there is room.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::beside;

/// How often it is tried to make the reserve again: often enough for people who just freed space, rarely enough to
/// cost nothing.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    last_try: Option<Instant>,
    whole: bool,
}

impl Reserve {
    pub(super) fn new(database: &Path, bytes: u64) -> Self {
        let path = beside(database, "-reserve");
        let whole = fs::metadata(&path).is_ok_and(|found| found.len() >= bytes);
        Self {
            path,
            bytes,
            last_try: None,
            whole,
        }
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.whole || self.bytes == 0
    }

    /// Gives it up; whether that freed anything.
    pub(super) fn free(&mut self) -> bool {
        self.whole = false;
        self.last_try = Some(Instant::now());
        match fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::warn!(path = %self.path.display(), "disk full: gave up the reserve");
                true
            }
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "no reserve to give up");
                false
            }
        }
    }

    /// Whether it is time to try again; at most once per [`RETRY`].
    pub(super) fn is_due(&self) -> bool {
        !self.is_whole() && self.last_try.is_none_or(|at| at.elapsed() >= RETRY)
    }

    /// Makes it if it is missing and there is room; whether it is there now.
    pub(super) fn restore(&mut self) -> bool {
        if self.is_whole() {
            return true;
        }
        self.last_try = Some(Instant::now());
        match self.make() {
            Ok(()) => self.whole = true,
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "no room for the reserve yet");
                // Half a reserve would take the room others need.
                drop(fs::remove_file(&self.path));
            }
        }
        self.whole
    }

    /// Writes zeros: unlike a sparse file, they take their room for certain. A quarter more is written and given
    /// back, so that a disk is not called roomy that has just enough for the reserve itself.
    fn make(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let zeros = [0u8; 64 * 1024];
        let mut left = self.bytes + self.bytes / 4;
        while left > 0 {
            let part = usize::try_from(left)
                .unwrap_or(zeros.len())
                .min(zeros.len());
            file.write_all(&zeros[..part])?;
            left -= part as u64;
        }
        file.set_len(self.bytes)?;
        file.sync_all()
    }
}
