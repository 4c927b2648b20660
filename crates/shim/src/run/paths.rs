//! Paths inside a task's root, resolved by the kernel so that no link leads out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Opens the root itself.
pub(crate) fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a path inside the root; every link is resolved as if the root were `/`.
pub(crate) fn open_in(root: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    Ok(openat2(root.as_fd(), relative, how)?)
}

/// Reads a small regular file inside the root. A pipe or device there is refused rather than waited for.
pub(crate) fn read_in(root: impl AsFd, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::from(open_in(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
    let kind = file.metadata()?.file_type();
    if !kind.is_file() || kind.is_fifo() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes sure that a directory exists inside the root, with all above it.
pub(crate) fn make_dir_in(root: impl AsFd, path: &Path) -> io::Result<()> {
    let mut so_far = PathBuf::from("/");
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a path with ..",
                ));
            }
        };
        let parent = open_in(&root, &so_far, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        so_far.push(name);
    }
    open_in(&root, &so_far, OFlag::O_PATH | OFlag::O_DIRECTORY).map(drop)
}
