//! Walks paths inside a layer's root so that no name and no link can lead out of it.
//!
//! What it is: resolution of the parent folder of an entry, one segment at a time, by folder descriptors that never
//! follow links by themselves. What it is not: it is not safe against somebody else changing the same tree at the same
//! time; a layer is unpacked by one thread into a folder nobody else knows.
//!
//! What always holds: an absolute link means the layer's root, as it will inside a task; a link or name with more
//! `..` than segments is refused, not clamped.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::{ImagesError, quoted};
use super::limits::NAME_MAX;

/// Links followed for one path, as the kernel does.
const LINKS_MAX: usize = 40;

const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// The root of a layer being unpacked.
pub(crate) struct Jail {
    root: Arc<OwnedFd>,
    depth: usize,
    /// The way to the last parent folder, where no link is on it: archives list a folder's entries one after the
    /// other, and neighbours share most of the way.
    way: Vec<(Vec<u8>, Arc<OwnedFd>)>,
}

/// The segments of a name in an archive, without `.` and empty ones.
pub(crate) fn segments(path: &[u8], depth: usize) -> Result<Vec<Vec<u8>>, ImagesError> {
    let fail = |reason: String| ImagesError::Entry {
        entry: quoted(path),
        reason,
    };
    if path.first() == Some(&b'/') {
        return Err(fail("absolute names are not allowed".to_owned()));
    }
    let mut out = Vec::new();
    for segment in path.split(|&b| b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => return Err(fail("names must not contain \"..\"".to_owned())),
            segment if segment.len() > NAME_MAX => {
                return Err(fail(format!("a path segment has at most {NAME_MAX} bytes")));
            }
            segment => out.push(segment.to_vec()),
        }
    }
    if out.len() > depth {
        return Err(fail(format!("more than {depth} nested folders")));
    }
    Ok(out)
}

pub(crate) fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

impl Jail {
    /// Opens the folder that is to be the root.
    pub(crate) fn open(root: &Path, depth: usize) -> Result<Self, ImagesError> {
        let root = nix::fcntl::open(root, FOLDER, Mode::empty())
            .map_err(|e| ImagesError::io("open", root.display().to_string(), e.into()))?;
        Ok(Self {
            root: Arc::new(root),
            depth,
            way: Vec::new(),
        })
    }

    pub(crate) fn root(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.root)
    }

    /// The folder `path`, following links inside the root; missing folders are made when `create` is set.
    pub(crate) fn folder(
        &mut self,
        path: &[Vec<u8>],
        create: bool,
    ) -> Result<Arc<OwnedFd>, ImagesError> {
        let common = self
            .way
            .iter()
            .zip(path)
            .take_while(|((known, _), s)| known == *s)
            .count();
        self.way.truncate(common);
        for segment in &path[common..] {
            let top = self.way.last().map_or(&self.root, |(_, fd)| fd);
            let fd = match open_folder(top, segment) {
                Err(Errno::ENOENT) if create => make_folder(top, segment),
                // A link is on the way, or something else that is no folder.
                Err(Errno::ENOTDIR | Errno::ELOOP) => return self.walk(path, create),
                other => other,
            };
            let fd = fd.map_err(|e| entry_io("open folder", &path.join(&b'/'), e))?;
            self.way.push((segment.clone(), Arc::new(fd)));
        }
        Ok(self
            .way
            .last()
            .map_or_else(|| self.root(), |(_, fd)| Arc::clone(fd)))
    }

    /// To be called after anything was removed: a folder on the known way may be gone.
    pub(crate) fn forget(&mut self) {
        self.way.clear();
    }

    fn walk(&self, path: &[Vec<u8>], create: bool) -> Result<Arc<OwnedFd>, ImagesError> {
        let whole = path.join(&b'/');
        let fail = |reason: String| ImagesError::Entry {
            entry: quoted(&whole),
            reason,
        };
        let mut todo: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let mut stack = vec![Arc::clone(&self.root)];
        let mut links = 0;
        while let Some(segment) = todo.pop_front() {
            if segment == b".." {
                // Only from link targets: names with ".." never come here.
                if stack.len() == 1 {
                    return Err(fail("a link on the way leads out of the layer".to_owned()));
                }
                stack.pop();
                continue;
            }
            let top = stack.last().unwrap_or(&self.root);
            match open_folder(top, &segment) {
                Ok(fd) => stack.push(Arc::new(fd)),
                Err(Errno::ENOENT) if create => {
                    stack.push(Arc::new(
                        make_folder(top, &segment)
                            .map_err(|e| entry_io("create folder", &whole, e))?,
                    ));
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    let target = readlinkat(top.as_fd(), OsStr::from_bytes(&segment)).map_err(
                        |e| match e {
                            Errno::EINVAL => fail("a name on the way is not a folder".to_owned()),
                            e => entry_io("read link", &whole, e),
                        },
                    )?;
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(fail("too many links on the way".to_owned()));
                    }
                    if target.as_bytes().first() == Some(&b'/') {
                        stack.truncate(1);
                    }
                    for part in target.as_bytes().split(|&b| b == b'/').rev() {
                        if !matches!(part, b"" | b".") {
                            todo.push_front(part.to_vec());
                        }
                    }
                }
                Err(e) => return Err(entry_io("open folder", &whole, e)),
            }
            if stack.len() > self.depth + 1 {
                return Err(fail(format!("more than {} nested folders", self.depth)));
            }
        }
        Ok(stack.pop().unwrap_or_else(|| self.root()))
    }
}

/// Opens a folder by one name, following nothing.
pub(crate) fn open_folder(parent: &OwnedFd, name: &[u8]) -> nix::Result<OwnedFd> {
    openat(
        parent.as_fd(),
        OsStr::from_bytes(name),
        FOLDER,
        Mode::empty(),
    )
}

fn make_folder(parent: &OwnedFd, name: &[u8]) -> nix::Result<OwnedFd> {
    mkdirat(
        parent.as_fd(),
        OsStr::from_bytes(name),
        Mode::from_bits_truncate(0o755),
    )?;
    let fd = open_folder(parent, name)?;
    // The mode above is subject to the umask.
    fchmod(&fd, Mode::from_bits_truncate(0o755))?;
    Ok(fd)
}

/// The state of a name, following nothing; `None` when there is none.
pub(crate) fn stat(parent: &OwnedFd, name: &[u8]) -> nix::Result<Option<FileStat>> {
    match fstatat(
        parent.as_fd(),
        OsStr::from_bytes(name),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    ) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a name with all below it, following nothing.
pub(crate) fn remove_all(parent: &OwnedFd, name: &[u8]) -> nix::Result<()> {
    match unlinkat(
        parent.as_fd(),
        OsStr::from_bytes(name),
        UnlinkatFlags::NoRemoveDir,
    ) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(e) => return Err(e),
    }
    let mut dir = Dir::from_fd(open_folder(parent, name)?)?;
    let names: Vec<Vec<u8>> = dir
        .iter()
        .filter_map(|entry| entry.map(|e| e.file_name().to_bytes().to_vec()).ok())
        .filter(|n| n != b"." && n != b"..")
        .collect();
    let fd = open_folder(parent, name)?;
    for child in names {
        // Depth is bounded by the depth of what was unpacked.
        remove_all(&fd, &child)?;
    }
    unlinkat(
        parent.as_fd(),
        OsStr::from_bytes(name),
        UnlinkatFlags::RemoveDir,
    )
}

pub(crate) fn entry_io(operation: &'static str, entry: &[u8], errno: Errno) -> ImagesError {
    ImagesError::io(operation, format!("\"{}\"", quoted(entry)), errno.into())
}
