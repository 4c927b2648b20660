//! One tar entry: the fixed header and the extended ones put together and checked. Pure.

use super::error::{ImagesError, quoted};
use super::limits::PATH_MAX;
use super::tarstream::bad;

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
pub(super) struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
    sparse: bool,
}

/// Extended headers read before an entry.
#[derive(Debug, Default)]
pub(super) struct Meta {
    pub(super) pax: Option<Pax>,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
}

impl Meta {
    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl Entry {
    /// Puts the headers together. Also gives the length of the data that follows.
    pub(super) fn decode(
        header: &tar::Header,
        header_size: u64,
        meta: Meta,
        global: &Pax,
    ) -> Result<(Self, u64), ImagesError> {
        let pax = meta.pax.unwrap_or_default();
        let path = pax
            .path
            .or(meta.long_name)
            .or_else(|| global.path.clone())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let fail = |reason: &str| ImagesError::Entry {
            entry: quoted(&path),
            reason: reason.to_owned(),
        };
        let link = pax
            .link
            .or(meta.long_link)
            .or_else(|| global.link.clone())
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        if path.contains(&0) || link.contains(&0) {
            return Err(fail("names must not contain NUL"));
        }
        if path.len() > PATH_MAX || link.len() > PATH_MAX {
            return Err(fail(&format!("names have at most {PATH_MAX} bytes")));
        }
        if pax.sparse {
            return Err(fail("sparse entries are not supported"));
        }
        let (kind, has_data) = kind_of(header.as_bytes()[156], &path).map_err(|r| fail(&r))?;
        let size = pax.size.or(global.size).unwrap_or(header_size);
        if size > i64::MAX as u64 {
            return Err(fail(&format!("size {size} is out of range")));
        }
        let owner = |extended: Option<u64>, plain: std::io::Result<u64>, what: &str| {
            let value = match extended {
                Some(value) => value,
                None => plain.map_err(|_| fail(&format!("invalid {what}")))?,
            };
            // The highest value means "no change" to chown(2): the file would silently stay root's.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| fail(&format!("{what} {value} is out of range")))
        };
        let plain_time = || header.mtime().ok().and_then(|t| i64::try_from(t).ok());
        let (mtime, mtime_nanos) = pax
            .mtime
            .or(global.mtime)
            .unwrap_or_else(|| (plain_time().unwrap_or(0), 0));
        let device = |value: std::io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        let entry = Self {
            kind,
            mode: header.mode().map_err(|_| fail("invalid mode"))? & 0o7777,
            uid: owner(pax.uid.or(global.uid), header.uid(), "uid")?,
            gid: owner(pax.gid.or(global.gid), header.gid(), "gid")?,
            mtime,
            mtime_nanos,
            device: (device(header.device_major()), device(header.device_minor())),
            xattrs: pax.xattrs,
            path,
            link,
        };
        Ok((entry, if has_data { size } else { 0 }))
    }
}

/// The kind of an entry, and whether data follow. Some writers record a size for links and folders without writing
/// any data.
fn kind_of(letter: u8, path: &[u8]) -> Result<(EntryKind, bool), String> {
    Ok(match letter {
        // Archives older than ustar have no type for folders.
        b'0' | 0 | b'7' if path.ends_with(b"/") => (EntryKind::Directory, true),
        b'0' | 0 | b'7' => (EntryKind::File, true),
        b'1' => (EntryKind::HardLink, false),
        b'2' => (EntryKind::Symlink, false),
        b'3' => (EntryKind::CharDevice, false),
        b'4' => (EntryKind::BlockDevice, false),
        b'5' => (EntryKind::Directory, false),
        b'6' => (EntryKind::Fifo, false),
        b'S' => return Err("sparse entries are not supported".to_owned()),
        other => return Err(format!("unknown entry type {:?}", char::from(other))),
    })
}

/// Some writers leave numbers blank that are zero: mode, uid, gid, size, device numbers.
pub(super) fn without_blanks(mut header: tar::Header) -> tar::Header {
    for field in [100..108, 108..116, 116..124, 124..136, 329..337, 337..345] {
        let bytes = &mut header.as_mut_bytes()[field];
        if bytes.iter().all(|b| matches!(b, 0 | b' ')) {
            bytes[0] = b'0';
            bytes[1..].fill(0);
        }
    }
    header
}

impl Pax {
    /// Records are `<length> <key>=<value>\n`, where the length counts the whole record. Values may hold any byte.
    pub(super) fn parse(mut data: &[u8]) -> Result<Self, ImagesError> {
        let mut pax = Self::default();
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
