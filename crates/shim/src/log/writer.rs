//! The writing side of the log; one writer at a time, the shim of the current run.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::path::PathBuf;

use super::record::{self, HEADER, MAX_PAYLOAD, Stream};
use crate::message::LogTarget;

/// Appends records and rotates.
#[derive(Debug)]
pub struct LogWriter {
    target: LogTarget,
    files: VecDeque<(u64, PathBuf)>,
    file: File,
    /// Bytes in the open file.
    len: u64,
    /// Bytes of output that could not be written (the disk was full) and of which the log does not tell yet.
    lost: u64,
}

impl LogWriter {
    /// Opens the log for appending. A new file is begun when the last one does not end with a whole record.
    ///
    /// # Errors
    /// When the directory or a file cannot be made.
    pub fn open(target: LogTarget) -> io::Result<LogWriter> {
        fs::create_dir_all(&target.dir)?;
        let mut files: VecDeque<_> = super::files(&target.dir)?.into();
        let mut start = 0;
        if let Some((base, path)) = files.back() {
            let len = fs::metadata(path)?.len();
            start = base + len;
            if len < target.max_file_bytes && super::reader::ends_whole(path)? {
                let file = OpenOptions::new().append(true).open(path)?;
                return Ok(LogWriter {
                    target,
                    files,
                    file,
                    len,
                    lost: 0,
                });
            }
            if len == 0 {
                files.pop_back();
            }
        }
        let (path, file) = Self::create(&target, start)?;
        files.push_back((start, path));
        let mut writer = LogWriter {
            target,
            files,
            file,
            len: 0,
            lost: 0,
        };
        writer.forget_old();
        Ok(writer)
    }

    fn create(target: &LogTarget, base: u64) -> io::Result<(PathBuf, File)> {
        // Fixed width, so that names sort as numbers do.
        let path = target.dir.join(format!("log.{base:020}"));
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        Ok((path, file))
    }

    /// Offset after the last record.
    pub fn end(&self) -> u64 {
        self.files.back().map_or(0, |(base, _)| base + self.len)
    }

    /// How far a reader may fall behind before rotation overtakes it.
    pub fn window(&self) -> u64 {
        // One file less than is kept: the oldest one goes when a new one is begun.
        self.target.max_file_bytes * u64::from(self.target.max_files.max(2) - 1)
    }

    /// Appends output. A task is never stopped by its log: what cannot be written is dropped, and as soon as the log
    /// can be written again it says how much was lost at that place.
    pub fn append(&mut self, stream: Stream, time_ns: u64, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_PAYLOAD) {
            let written = self
                .confess(time_ns)
                .and_then(|()| self.append_one(stream, time_ns, piece));
            if written.is_err() && stream != Stream::RunStart {
                self.lost += piece.len() as u64;
            }
        }
    }

    /// Writes what has to be said of lost output.
    fn confess(&mut self, time_ns: u64) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let text = format!(
            "plimsoll: {} bytes of output are lost here: they could not be written to the log\n",
            self.lost
        );
        self.append_one(Stream::Stderr, time_ns, text.as_bytes())?;
        self.lost = 0;
        Ok(())
    }

    fn append_one(&mut self, stream: Stream, time_ns: u64, piece: &[u8]) -> io::Result<()> {
        if self.len >= self.target.max_file_bytes {
            self.rotate()?;
        }
        let header = record::header(stream, time_ns, piece);
        let whole = (HEADER + piece.len()) as u64;
        let result = write_all(&mut self.file, &header, piece);
        if result.is_err() {
            // Take the torn record back; if even that fails, readers skip it by its checksum.
            let _ = self.file.set_len(self.len);
            self.len = self.file.metadata().map_or(self.len, |meta| meta.len());
            return result;
        }
        self.len += whole;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let base = self.end();
        let (path, file) = Self::create(&self.target, base)?;
        self.files.push_back((base, path));
        self.file = file;
        self.len = 0;
        self.forget_old();
        Ok(())
    }

    fn forget_old(&mut self) {
        while self.files.len() > self.target.max_files.max(2) as usize {
            if let Some((_, path)) = self.files.pop_front() {
                // A file that cannot be removed now is found again when the log is opened next.
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn write_all(file: &mut File, header: &[u8], piece: &[u8]) -> io::Result<()> {
    let total = header.len() + piece.len();
    let mut done = file.write_vectored(&[IoSlice::new(header), IoSlice::new(piece)])?;
    while done < total {
        let rest = if done < header.len() {
            &header[done..]
        } else {
            &piece[done - header.len()..]
        };
        match file.write(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => done += n,
        }
    }
    Ok(())
}
