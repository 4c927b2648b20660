//! Applies the entries of one layer archive to an empty folder, in overlayfs' form.
//!
//! What it is: OCI layer semantics (whiteouts, links, devices, owners, attributes) on top of [`super::jail`]. What it is
//! not: it does not stack layers; every layer has a folder of its own and overlayfs puts them together.
//!
//! Start at [`unpack`]. What always holds: nothing outside the folder is touched; entries come later win over earlier
//! ones; `trusted.*` attributes are only ever set by this code, never taken from an archive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use xattr::FileExt;

use super::error::{ImagesError, quoted};
use super::jail::{Jail, entry_io, kind_of, open_folder, remove_all, segments, stat};
use super::limits::Limits;
use super::streams::BUFFER;
use super::tarentry::{Entry, EntryKind};
use super::tarstream::TarStream;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a layer brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Entries of the archive.
    pub(crate) entries: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
}

/// Unpacks a whole archive below `root`, which must exist and be empty.
pub(crate) fn unpack<R: Read>(
    archive: &mut TarStream<R>,
    root: &Path,
    limits: &Limits,
) -> Result<Unpacked, ImagesError> {
    let mut unpacker = Unpacker {
        jail: Jail::open(root, limits.depth)?,
        limits,
        done: Unpacked::default(),
        folder_times: Vec::new(),
        buffer: vec![0; BUFFER],
        umask: umask(),
        group_inherited: !(nix::unistd::geteuid().is_root()
            && nix::unistd::getegid().as_raw() == 0),
    };
    while let Some(entry) = archive.next()? {
        unpacker.done.entries += 1;
        if unpacker.done.entries > limits.layer_entries {
            return Err(ImagesError::TooLarge {
                what: "the number of entries of a layer".to_owned(),
                limit: limits.layer_entries.to_string(),
            });
        }
        unpacker.apply(&entry, archive)?;
    }
    unpacker.set_folder_times()?;
    Ok(unpacker.done)
}

struct Unpacker<'a> {
    jail: Jail,
    limits: &'a Limits,
    done: Unpacked,
    /// Set at the end, because every new child changes its folder's time.
    folder_times: Vec<(Vec<Vec<u8>>, TimeSpec)>,
    buffer: Vec<u8>,
    /// Bits the kernel takes from the mode of new files.
    umask: u32,
    /// Whether new files may belong to others than root: a folder hands its group on, or this is not root.
    group_inherited: bool,
}

/// A place in the layer: the open parent folder and the last segment.
struct Place<'a> {
    parent: Arc<OwnedFd>,
    name: &'a [u8],
    path: &'a [u8],
}

impl Place<'_> {
    fn os_name(&self) -> &OsStr {
        OsStr::from_bytes(self.name)
    }

    fn fail(&self, reason: impl Into<String>) -> ImagesError {
        ImagesError::Entry {
            entry: quoted(self.path),
            reason: reason.into(),
        }
    }

    fn io(&self, operation: &'static str) -> impl Fn(nix::errno::Errno) -> ImagesError + '_ {
        move |e| entry_io(operation, self.path, e)
    }
}

impl Unpacker<'_> {
    fn apply<R: Read>(
        &mut self,
        entry: &Entry,
        archive: &mut TarStream<R>,
    ) -> Result<(), ImagesError> {
        let fail = |reason: &str| ImagesError::Entry {
            entry: quoted(&entry.path),
            reason: reason.to_owned(),
        };
        let path = segments(&entry.path, self.limits.depth)?;
        let Some((name, parents)) = path.split_last() else {
            return self.apply_root(entry);
        };
        if let Some(marked) = parents.iter().find(|s| s.starts_with(WHITEOUT)) {
            // AUFS kept its own data in folders of this form; nobody needs them.
            return if marked.starts_with(WHITEOUT_META) {
                Ok(())
            } else {
                Err(fail("a whiteout is not a folder"))
            };
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(entry, parents, name);
        }
        let parent = self.jail.folder(parents, true)?;
        let place = Place {
            parent,
            name,
            path: &entry.path,
        };
        let xattrs = wanted_xattrs(entry)?;
        match entry.kind {
            EntryKind::Directory => {
                self.group_inherited |= entry.mode & 0o2000 != 0;
                self.folder(&place, entry, &xattrs)?;
                self.folder_times.push((path.clone(), time_of(entry)));
            }
            EntryKind::File => self.file(&place, entry, &xattrs, archive)?,
            EntryKind::Symlink => {
                if entry.link.is_empty() {
                    return Err(fail("a symbolic link without target"));
                }
                self.make_room(&place)?;
                symlinkat(
                    OsStr::from_bytes(&entry.link),
                    place.parent.as_fd(),
                    place.os_name(),
                )
                .map_err(place.io("create link"))?;
                set_owner_and_times(&place, entry)?;
            }
            EntryKind::HardLink => self.hard_link(&place, entry)?,
            EntryKind::CharDevice => self.node(&place, entry, SFlag::S_IFCHR)?,
            EntryKind::BlockDevice => self.node(&place, entry, SFlag::S_IFBLK)?,
            EntryKind::Fifo => self.node(&place, entry, SFlag::S_IFIFO)?,
        }
        Ok(())
    }

    /// The root's own entry, usually `./`.
    fn apply_root(&mut self, entry: &Entry) -> Result<(), ImagesError> {
        if entry.kind != EntryKind::Directory {
            return Err(ImagesError::Entry {
                entry: quoted(&entry.path),
                reason: "the root of a layer must be a folder".to_owned(),
            });
        }
        let root = self.jail.root();
        self.group_inherited |= entry.mode & 0o2000 != 0;
        set_folder_metadata(&root, entry, &wanted_xattrs(entry)?)?;
        self.folder_times.push((Vec::new(), time_of(entry)));
        Ok(())
    }

    fn whiteout(
        &mut self,
        entry: &Entry,
        parents: &[Vec<u8>],
        name: &[u8],
    ) -> Result<(), ImagesError> {
        let hidden = &name[WHITEOUT.len()..];
        let fail = |reason: &str| ImagesError::Entry {
            entry: quoted(&entry.path),
            reason: reason.to_owned(),
        };
        if name == OPAQUE {
            if parents.is_empty() {
                return Err(fail("the root of a layer cannot be opaque"));
            }
            let folder = self.jail.folder(parents, true)?;
            return set_opaque(&folder, &entry.path);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(fail("a whiteout must name what it hides"));
        }
        let parent = self.jail.folder(parents, true)?;
        let place = Place {
            parent,
            name: hidden,
            path: &entry.path,
        };
        match stat(&place.parent, hidden).map_err(place.io("look at"))? {
            None => mknodat(
                place.parent.as_fd(),
                place.os_name(),
                SFlag::S_IFCHR,
                Mode::empty(),
                0,
            )
            .map_err(place.io("create whiteout")),
            // A whiteout is for the layers below: what this layer brings itself stays, with nothing shining through.
            Some(found) if kind_of(&found) == SFlag::S_IFDIR => {
                let folder = open_folder(&place.parent, hidden).map_err(place.io("open"))?;
                set_opaque(&folder, &entry.path)
            }
            Some(_) => Ok(()),
        }
    }

    /// Removes what is in the way of something that is not a folder. Returns whether it was a whiteout.
    fn make_room(&mut self, place: &Place<'_>) -> Result<bool, ImagesError> {
        let Some(found) = stat(&place.parent, place.name).map_err(place.io("look at"))? else {
            return Ok(false);
        };
        self.jail.forget();
        remove_all(&place.parent, place.name).map_err(place.io("replace"))?;
        Ok(is_whiteout(&found))
    }

    fn folder(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        xattrs: &[(&str, &[u8])],
    ) -> Result<(), ImagesError> {
        let found = stat(&place.parent, place.name).map_err(place.io("look at"))?;
        let mut opaque = false;
        if found.as_ref().is_none_or(|f| kind_of(f) != SFlag::S_IFDIR) {
            if let Some(found) = &found {
                opaque = is_whiteout(found);
                self.jail.forget();
                unlinkat(
                    place.parent.as_fd(),
                    place.os_name(),
                    UnlinkatFlags::NoRemoveDir,
                )
                .map_err(place.io("replace"))?;
            }
            mkdirat(
                place.parent.as_fd(),
                place.os_name(),
                Mode::from_bits_truncate(0o700),
            )
            .map_err(place.io("create folder"))?;
        }
        let fd = open_folder(&place.parent, place.name).map_err(place.io("open folder"))?;
        if opaque {
            // The layer hid the name first and made it anew: the old folder's content must not come back.
            set_opaque(&fd, place.path)?;
        }
        set_folder_metadata(&fd, entry, xattrs)
    }

    fn file<R: Read>(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        xattrs: &[(&str, &[u8])],
        archive: &mut TarStream<R>,
    ) -> Result<(), ImagesError> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Bits that matter come with creation, so that most files need no second call; special ones come below.
        let special = entry.mode & !0o777 != 0 || entry.mode & self.umask != 0;
        let mode = Mode::from_bits_truncate(if special { 0o600 } else { entry.mode });
        let create = || openat(place.parent.as_fd(), place.os_name(), flags, mode);
        // Names are rarely there twice: look only when creating fails.
        let fd = match create() {
            Err(nix::errno::Errno::EEXIST) => {
                self.make_room(place)?;
                create()
            }
            other => other,
        };
        let mut file = File::from(fd.map_err(place.io("create file"))?);
        loop {
            let got = archive
                .read(&mut self.buffer)
                .map_err(|e| ImagesError::io("read", "archive", e))?;
            if got == 0 {
                break;
            }
            file.write_all(&self.buffer[..got])
                .map_err(|e| ImagesError::io("write", format!("\"{}\"", quoted(place.path)), e))?;
            self.done.bytes += got as u64;
        }
        if self.group_inherited || (entry.uid, entry.gid) != (0, 0) {
            let (uid, gid) = owner_of(entry);
            fchown(&file, uid, gid).map_err(place.io("set owner of"))?;
        }
        if special {
            // After the owner: changing it clears setuid and capabilities.
            fchmod(&file, Mode::from_bits_truncate(entry.mode)).map_err(place.io("set mode of"))?;
        }
        set_xattrs(&file, xattrs, place.path)?;
        let time = time_of(entry);
        futimens(&file, &time, &time).map_err(place.io("set time of"))
    }

    fn hard_link(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), ImagesError> {
        // Writers disagree on whether targets begin with a slash; they are names in this archive in any case.
        let target = entry
            .link
            .iter()
            .position(|&b| b != b'/')
            .map_or(&[][..], |at| &entry.link[at..]);
        let path = segments(target, self.limits.depth).map_err(|_| {
            place.fail(format!(
                "its target \"{}\" is outside the layer",
                quoted(&entry.link)
            ))
        })?;
        let Some((name, parents)) = path.split_last() else {
            return Err(place.fail("a hard link without target"));
        };
        let missing = || {
            place.fail(format!(
                "its target \"{}\" is not in this layer",
                quoted(&entry.link)
            ))
        };
        let from = self
            .jail
            .folder(parents, false)
            .map_err(|error| match error {
                ImagesError::Io { .. } => missing(),
                other => other,
            })?;
        let found = stat(&from, name)
            .map_err(place.io("look at target of"))?
            .ok_or_else(missing)?;
        if kind_of(&found) == SFlag::S_IFDIR || is_whiteout(&found) {
            return Err(place.fail("its target cannot be linked to"));
        }
        if let Some(old) = stat(&place.parent, place.name).map_err(place.io("look at"))? {
            if (old.st_dev, old.st_ino) == (found.st_dev, found.st_ino) {
                return Ok(());
            }
            let inside = kind_of(&old) == SFlag::S_IFDIR;
            self.make_room(place)?;
            if inside
                && stat(&from, name)
                    .map_err(place.io("look at target of"))?
                    .is_none()
            {
                return Err(missing());
            }
        }
        linkat(
            from.as_fd(),
            OsStr::from_bytes(name),
            place.parent.as_fd(),
            place.os_name(),
            AtFlags::empty(),
        )
        .map_err(place.io("link"))
    }

    fn node(&mut self, place: &Place<'_>, entry: &Entry, kind: SFlag) -> Result<(), ImagesError> {
        self.make_room(place)?;
        let device = if kind == SFlag::S_IFIFO {
            0
        } else {
            makedev(u64::from(entry.device.0), u64::from(entry.device.1))
        };
        mknodat(
            place.parent.as_fd(),
            place.os_name(),
            kind,
            Mode::from_bits_truncate(0o600),
            device,
        )
        .map_err(place.io("create node"))?;
        let (uid, gid) = owner_of(entry);
        fchownat(
            place.parent.as_fd(),
            place.os_name(),
            uid,
            gid,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .map_err(place.io("set owner of"))?;
        // The name is a device or pipe made just now, so there is no link to follow.
        fchmodat(
            place.parent.as_fd(),
            place.os_name(),
            Mode::from_bits_truncate(entry.mode),
            FchmodatFlags::FollowSymlink,
        )
        .map_err(place.io("set mode of"))?;
        set_times(place, entry)
    }

    fn set_folder_times(&mut self) -> Result<(), ImagesError> {
        for (path, time) in std::mem::take(&mut self.folder_times) {
            let Some((name, parents)) = path.split_last() else {
                let root = self.jail.root();
                futimens(&*root, &time, &time).map_err(|e| entry_io("set time of", b"/", e))?;
                continue;
            };
            // A later entry may have replaced the folder or one above it; then there is nothing to set.
            let Ok(parent) = self.jail.folder(parents, false) else {
                continue;
            };
            if stat(&parent, name)
                .ok()
                .flatten()
                .is_some_and(|s| kind_of(&s) == SFlag::S_IFDIR)
            {
                let set = utimensat(
                    parent.as_fd(),
                    OsStr::from_bytes(name),
                    &time,
                    &time,
                    UtimensatFlags::NoFollowSymlink,
                );
                set.map_err(|e| entry_io("set time of", &path.join(&b'/'), e))?;
            }
        }
        Ok(())
    }
}

/// The process's umask; all bits if the kernel does not tell, which only costs a call per file.
fn umask() -> u32 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Umask:"));
    line.and_then(|l| u32::from_str_radix(l.trim(), 8).ok())
        .unwrap_or(0o777)
}

/// Attributes that are kept. The rest depends on the machine the image was made on.
fn wanted_xattrs(entry: &Entry) -> Result<Vec<(&str, &[u8])>, ImagesError> {
    let mut wanted = Vec::new();
    for (name, value) in &entry.xattrs {
        if name.starts_with("trusted.") {
            return Err(ImagesError::Entry {
                entry: quoted(&entry.path),
                reason: format!(
                    "the attribute \"{}\" is not allowed",
                    quoted(name.as_bytes())
                ),
            });
        }
        if name == "security.capability"
            || (name.starts_with("user.") && !name.starts_with("user.overlay."))
        {
            wanted.push((name.as_str(), value.as_slice()));
        }
    }
    Ok(wanted)
}

fn set_xattrs(file: &File, xattrs: &[(&str, &[u8])], path: &[u8]) -> Result<(), ImagesError> {
    for (name, value) in xattrs {
        match file.set_xattr(name, value) {
            Ok(()) => {}
            // Some file systems have no user attributes (tmpfs before 6.6); programs cope, lost capabilities they do not.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) && name.starts_with("user.") => {}
            Err(e) => {
                return Err(ImagesError::io(
                    "set attributes of",
                    format!("\"{}\"", quoted(path)),
                    e,
                ));
            }
        }
    }
    Ok(())
}

fn set_opaque(folder: &OwnedFd, path: &[u8]) -> Result<(), ImagesError> {
    let fail = |e| ImagesError::io("make opaque", format!("\"{}\"", quoted(path)), e);
    File::from(folder.try_clone().map_err(fail)?)
        .set_xattr("trusted.overlay.opaque", b"y")
        .map_err(fail)
}

fn set_folder_metadata(
    fd: &OwnedFd,
    entry: &Entry,
    xattrs: &[(&str, &[u8])],
) -> Result<(), ImagesError> {
    let (uid, gid) = owner_of(entry);
    fchown(fd, uid, gid).map_err(|e| entry_io("set owner of", &entry.path, e))?;
    fchmod(fd, Mode::from_bits_truncate(entry.mode))
        .map_err(|e| entry_io("set mode of", &entry.path, e))?;
    if xattrs.is_empty() {
        return Ok(());
    }
    let file = fd
        .try_clone()
        .map_err(|e| ImagesError::io("open", quoted(&entry.path), e))?;
    set_xattrs(&File::from(file), xattrs, &entry.path)
}

fn set_owner_and_times(place: &Place<'_>, entry: &Entry) -> Result<(), ImagesError> {
    let (uid, gid) = owner_of(entry);
    fchownat(
        place.parent.as_fd(),
        place.os_name(),
        uid,
        gid,
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(place.io("set owner of"))?;
    set_times(place, entry)
}

fn set_times(place: &Place<'_>, entry: &Entry) -> Result<(), ImagesError> {
    let time = time_of(entry);
    utimensat(
        place.parent.as_fd(),
        place.os_name(),
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .map_err(place.io("set time of"))
}

fn owner_of(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )
}

fn time_of(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime, i64::from(entry.mtime_nanos))
}

/// Overlayfs' whiteout: a character device 0:0.
fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}
