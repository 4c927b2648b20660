//! A tar reader for untrusted, endless streams.
//!
//! What it is: reads ustar, GNU and PAX archives from a `Read` in one pass with bounded memory. What it is not: it
//! never touches the file system, and it knows nothing of layers. The `tar` crate reads long names and PAX headers into
//! memory without a bound, so only its header type is used here.
//!
//! Start at [`TarStream::next`]. What always holds: an entry's data must not be read past its size; whatever is left
//! of it is skipped by the next call; every size is checked before memory is taken.

use std::io::{self, Read};

use super::error::{ImagesError, quoted};
use super::limits::{META_MAX, PATH_MAX, PAX_MAX};

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry without its data.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    /// As in the archive: may be absolute, contain `..` or anything else but NUL.
    pub(crate) path: Vec<u8>,
    /// Target of links; empty otherwise.
    pub(crate) link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: u32,
    pub(crate) device: (u32, u32),
    /// Extended attributes in the order of the archive.
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

/// Values a PAX header puts in place of the ones of the next header.
#[derive(Debug, Default, Clone)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
    sparse: bool,
}

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
        let mut pax: Option<Pax> = None;
        let mut long_name = None;
        let mut long_link = None;
        for _ in 0..META_MAX {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                self.ended = true;
                return if pax.is_none() && long_name.is_none() && long_link.is_none() {
                    Ok(None)
                } else {
                    Err(bad("the archive ends after an extended header"))
                };
            };
            let size = header
                .entry_size()
                .map_err(|_| bad("an entry has an invalid size"))?;
            match header.as_bytes()[156] {
                b'x' => pax = Some(parse_pax(&self.meta(size)?)?),
                b'g' => self.global = parse_pax(&self.meta(size)?)?,
                b'L' => long_name = Some(until_nul(self.meta(size)?)),
                b'K' => long_link = Some(until_nul(self.meta(size)?)),
                kind => {
                    let pax = pax.unwrap_or_default();
                    return self
                        .entry(&header, kind, size, pax, long_name, long_link)
                        .map(Some);
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
        Ok(Some(header))
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

    fn entry(
        &mut self,
        header: &tar::Header,
        kind: u8,
        header_size: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, ImagesError> {
        let global = self.global.clone();
        let path = pax
            .path
            .or(long_name)
            .or(global.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let fail = |reason: String| ImagesError::Entry {
            entry: quoted(&path),
            reason,
        };
        let link = pax.link.or(long_link).or(global.link).unwrap_or_else(|| {
            header
                .link_name_bytes()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default()
        });
        // Only files are followed by data; some writers record a size for links and folders without writing any.
        let has_data = matches!(kind, b'0' | 0 | b'7');
        let mut kind = match kind {
            b'0' | 0 | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'S' => return Err(fail("sparse entries are not supported".to_owned())),
            other => return Err(fail(format!("unknown entry type {:?}", char::from(other)))),
        };
        if kind == EntryKind::File && path.ends_with(b"/") {
            // Archives older than ustar have no type for directories.
            kind = EntryKind::Directory;
        }
        if pax.sparse {
            return Err(fail("sparse entries are not supported".to_owned()));
        }
        let size = pax.size.or(global.size).unwrap_or(header_size);
        if size > i64::MAX as u64 {
            return Err(fail(format!("size {size} is out of range")));
        }
        let data = if has_data { size } else { 0 };
        if path.contains(&0) || link.contains(&0) {
            return Err(fail("names must not contain NUL".to_owned()));
        }
        if path.len() > PATH_MAX || link.len() > PATH_MAX {
            return Err(fail(format!("names have at most {PATH_MAX} bytes")));
        }
        let number =
            |value: io::Result<u64>, what: &str| value.map_err(|_| fail(format!("invalid {what}")));
        let id = |value: u64, what: &str| {
            // The highest value means "no change" to chown(2): the file would silently stay root's.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| fail(format!("{what} {value} is out of range")))
        };
        let uid = match pax.uid.or(global.uid) {
            Some(uid) => uid,
            None => number(or_blank(&header.as_bytes()[108..116], header.uid()), "uid")?,
        };
        let gid = match pax.gid.or(global.gid) {
            Some(gid) => gid,
            None => number(or_blank(&header.as_bytes()[116..124], header.gid()), "gid")?,
        };
        let (mtime, mtime_nanos) = pax.mtime.or(global.mtime).unwrap_or_else(|| {
            (
                header
                    .mtime()
                    .ok()
                    .and_then(|t| i64::try_from(t).ok())
                    .unwrap_or(0),
                0,
            )
        });
        let device = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        let entry = Entry {
            kind,
            mode: header.mode().map_err(|_| fail("invalid mode".to_owned()))? & 0o7777,
            uid: id(uid, "uid")?,
            gid: id(gid, "gid")?,
            mtime,
            mtime_nanos,
            device: (device(header.device_major()), device(header.device_minor())),
            xattrs: pax.xattrs,
            path,
            link,
        };
        self.begin_data(data);
        Ok(entry)
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

fn bad(reason: &str) -> ImagesError {
    ImagesError::Archive(reason.to_owned())
}

/// A number of a header; some writers leave fields they do not care for blank, which every reader takes for 0.
fn or_blank(field: &[u8], value: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    value
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

/// PAX records: `<length> <key>=<value>\n`, where the length counts the whole record. Values may hold any byte.
fn parse_pax(mut data: &[u8]) -> Result<Pax, ImagesError> {
    let mut pax = Pax::default();
    while !data.is_empty() {
        // Padding with NUL after the last record is tolerated.
        if data.iter().all(|&b| b == 0) {
            break;
        }
        let space = data
            .iter()
            .take(12)
            .position(|&b| b == b' ')
            .ok_or_else(|| bad("damaged PAX header"))?;
        let length: usize = std::str::from_utf8(&data[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|length| *length > space + 2 && *length <= data.len())
            .ok_or_else(|| bad("damaged PAX header"))?;
        let record = &data[space + 1..length];
        data = &data[length..];
        let [record @ .., b'\n'] = record else {
            return Err(bad("damaged PAX header"));
        };
        let equals = record
            .iter()
            .position(|&b| b == b'=')
            .ok_or_else(|| bad("damaged PAX header"))?;
        pax_record(&mut pax, &record[..equals], &record[equals + 1..])?;
    }
    Ok(pax)
}

fn pax_record(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), ImagesError> {
    let number = || -> Result<Option<u64>, ImagesError> {
        if value.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(value).map_err(|_| bad("damaged PAX number"))?;
        text.parse().map(Some).map_err(|_| {
            ImagesError::Archive(format!("PAX number \"{}\" is out of range", quoted(value)))
        })
    };
    match key {
        b"path" => pax.path = (!value.is_empty()).then(|| value.to_vec()),
        b"linkpath" => pax.link = (!value.is_empty()).then(|| value.to_vec()),
        b"size" => pax.size = number()?,
        b"uid" => pax.uid = number()?,
        b"gid" => pax.gid = number()?,
        b"mtime" => pax.mtime = parse_time(value),
        key if key.starts_with(b"GNU.sparse.") => pax.sparse = true,
        key => {
            let name = key
                .strip_prefix(b"SCHILY.xattr.")
                .or_else(|| key.strip_prefix(b"LIBARCHIVE.xattr."));
            // Libarchive writes both forms; its own one is in base64 and is left out.
            if let Some(name) = name
                && key.starts_with(b"SCHILY.")
            {
                let name = std::str::from_utf8(name)
                    .map_err(|_| bad("an extended attribute has a damaged name"))?;
                pax.xattrs.retain(|(old, _)| old != name);
                pax.xattrs.push((name.to_owned(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// `seconds[.fraction]`, possibly negative. Damaged times are no reason to refuse a layer.
fn parse_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().ok()?;
    if text.starts_with('-') && nanos > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((whole, nanos))
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
