//! A tar reader for untrusted, endless streams.
//!
//! What it is: reads ustar, GNU and PAX archives from a `Read` in one pass with bounded memory. What it is not: it
//! never touches the file system, and it knows nothing of layers. The `tar` crate reads long names and PAX headers into
//! memory without a bound, so only its header type is used here.
//!
//! Start at [`TarStream::next`]. What always holds: an entry's data must not be read past its size; whatever is left
//! of it is skipped by the next call; every size is checked before memory is taken.

use std::io::{self, Read};

use super::error::ImagesError;
use super::limits::{META_MAX, PAX_MAX};
use super::tarentry::{Entry, Meta, Pax, without_blanks};

const BLOCK: usize = 512;

/// Reads one archive.
pub(crate) struct TarStream<R> {
    input: R,
    /// Data and padding of the current entry not read yet.
    data_left: u64,
    padding: u64,
    global: Pax,
    ended: bool,
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            data_left: 0,
            padding: 0,
            global: Pax::default(),
            ended: false,
        }
    }

    /// The reader, wherever it stands.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Moves on to the next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ImagesError> {
        if self.ended {
            return Ok(None);
        }
        let mut meta = Meta::default();
        for _ in 0..META_MAX {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                self.ended = true;
                return if meta.is_empty() {
                    Ok(None)
                } else {
                    Err(bad("the archive ends after an extended header"))
                };
            };
            let size = header
                .entry_size()
                .map_err(|_| bad("an entry has an invalid size"))?;
            match header.as_bytes()[156] {
                b'x' => meta.pax = Some(Pax::parse(&self.meta(size)?)?),
                b'g' => self.global = Pax::parse(&self.meta(size)?)?,
                b'L' => meta.long_name = Some(until_nul(self.meta(size)?)),
                b'K' => meta.long_link = Some(until_nul(self.meta(size)?)),
                _ => {
                    let (entry, data) = Entry::decode(&header, size, meta, &self.global)?;
                    self.begin_data(data);
                    return Ok(Some(entry));
                }
            }
        }
        Err(bad("too many extended headers before an entry"))
    }

    /// Skips what is left of the current entry, for users of the inner reader.
    pub(crate) fn skip_rest(&mut self) -> Result<(), ImagesError> {
        let mut left = self.data_left.saturating_add(self.padding);
        (self.data_left, self.padding) = (0, 0);
        let mut scratch = [0_u8; 8192];
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(scratch.len());
            let got = read_some(&mut self.input, &mut scratch[..want])?;
            if got == 0 {
                return Err(bad("the archive is cut off"));
            }
            left -= got as u64;
        }
        Ok(())
    }

    /// Reads to the end of the stream: padding after the end mark belongs to the digest.
    pub(crate) fn drain(&mut self) -> Result<(), ImagesError> {
        let mut scratch = [0_u8; 8192];
        while read_some(&mut self.input, &mut scratch)? > 0 {}
        Ok(())
    }

    fn header(&mut self) -> Result<Option<tar::Header>, ImagesError> {
        let mut block = [0_u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let got = read_some(&mut self.input, &mut block[filled..])?;
            if got == 0 {
                // Some writers leave out the end mark.
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(bad("the archive is cut off"))
                };
            }
            filled += got;
        }
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|&b| u32::from(b))
            .sum::<u32>()
            + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(bad("a header has a wrong check sum (not a tar archive?)"));
        }
        Ok(Some(without_blanks(header)))
    }

    fn meta(&mut self, size: u64) -> Result<Vec<u8>, ImagesError> {
        if size > PAX_MAX {
            return Err(ImagesError::TooLarge {
                what: format!("an extended tar header of {size} bytes"),
                limit: format!("{PAX_MAX} bytes"),
            });
        }
        self.begin_data(size);
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_exact(&mut data).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => bad("the archive is cut off"),
            _ => ImagesError::io("read", "archive", e),
        })?;
        Ok(data)
    }

    fn begin_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }
}

impl<R: Read> Read for TarStream<R> {
    /// Reads data of the current entry; 0 at its end.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.data_left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buf[..want])?;
        if got == 0 {
            return Err(bad("the archive is cut off").into_io());
        }
        self.data_left -= got as u64;
        Ok(got)
    }
}

pub(super) fn bad(reason: &str) -> ImagesError {
    ImagesError::Archive(reason.to_owned())
}

fn read_some(input: &mut impl Read, buf: &mut [u8]) -> Result<usize, ImagesError> {
    loop {
        match input.read(buf) {
            Ok(got) => return Ok(got),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::InvalidInput
                        | io::ErrorKind::InvalidData
                        | io::ErrorKind::UnexpectedEof
                ) =>
            {
                return Err(ImagesError::Archive(format!(
                    "compressed data are damaged: {e}"
                )));
            }
            Err(e) => return Err(ImagesError::io("read", "archive", e)),
        }
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_owners_are_root() {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        header.set_path("manifest.json").unwrap();
        header.set_cksum();
        let archive = [&header.as_bytes()[..], &[0; 1024]].concat();
        let entry = TarStream::new(archive.as_slice()).next().unwrap().unwrap();
        assert_eq!((entry.uid, entry.gid, entry.mode), (0, 0, 0o644));
    }
}
