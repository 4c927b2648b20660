//! First content of volumes: what the image has at the mount point is copied into an empty volume.
//!
//! Runs before anything of the task does. Always holds: no link of the image is followed; the volume is
//! filled in place, because other tasks may have it mounted; a copy cut short is done again, because a
//! marker beside the volume says so.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown,
};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use shim::message::Volume;

use super::paths;

/// Nobody nests folders deeper; a path longer than this could not be opened by its name anyway.
const MAX_DEPTH: u32 = 256;

/// Fills a volume that is empty.
pub(crate) fn seed(root: impl AsFd, volume: &Volume) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let from = match paths::open_in(root, &volume.target, flags) {
        // The image has nothing there, or a file: then the volume stays as it is.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
            ) =>
        {
            return Ok(());
        }
        other => File::from(other?),
    };
    let marker = marker(&volume.source)?;
    let empty = fs::read_dir(&volume.source)?.next().is_none();
    if !empty && !marker.exists() {
        return Ok(());
    }
    File::create(&marker)?;
    copy_folder(&from, &volume.source, 0)?;
    take_over(&from.metadata()?, &volume.source)?;
    fs::remove_file(&marker)
}

fn marker(source: &Path) -> io::Result<PathBuf> {
    let name = source
        .file_name()
        .ok_or_else(|| io::Error::other("a volume without a name"))?;
    Ok(source.with_file_name(format!(".{}.filling", name.to_string_lossy())))
}

fn take_over(meta: &fs::Metadata, to: &Path) -> io::Result<()> {
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.file_type().is_symlink() {
        // After the owner: changing that takes set-uid bits away.
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    Ok(())
}

fn copy_folder(from: &File, to: &Path, depth: u32) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("folders are nested too deeply"));
    }
    let base = PathBuf::from(format!("/proc/self/fd/{}", from.as_raw_fd()));
    for entry in fs::read_dir(&base)? {
        let name = entry?.file_name();
        let (source, target) = (base.join(&name), to.join(&name));
        let meta = fs::symlink_metadata(&source)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            let open = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
                .open(&source)?;
            match fs::DirBuilder::new().mode(0o700).create(&target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            copy_folder(&open, &target, depth + 1)?;
        } else if kind.is_symlink() {
            let _ = fs::remove_file(&target);
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            let mut content = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&source)?;
            let _ = fs::remove_file(&target);
            let mut copy = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&target)?;
            io::copy(&mut content, &mut copy)?;
        } else if kind.is_fifo() {
            let _ = fs::remove_file(&target);
            nix::unistd::mkfifo(&target, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
        } else {
            // Devices and sockets do not belong into a volume.
            continue;
        }
        take_over(&meta, &target)?;
    }
    Ok(())
}
