//! Mounts in the shim's namespace: the overlay root, and the task's view of its cgroups.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shim::message::{CgroupView, Rootfs};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

// Values of linux/mount.h that libc lacks for this target.
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn path(text: &Path) -> io::Result<CString> {
    CString::new(text.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn check(result: libc::c_long) -> io::Result<RawFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

#[expect(
    unsafe_code,
    reason = "the mount calls since Linux 5.2 have no safe wrapper"
)]
fn fd_from(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just handed this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(
    unsafe_code,
    reason = "the mount calls since Linux 5.2 have no safe wrapper"
)]
fn set_option(context: &OwnedFd, key: &CStr, value: &CStr) -> io::Result<()> {
    // SAFETY: both strings end with NUL and live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_SET_STRING,
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    })
    .map(drop)
}

#[expect(
    unsafe_code,
    reason = "the mount calls since Linux 5.2 have no safe wrapper"
)]
fn move_to(tree: &OwnedFd, target: &CStr) -> io::Result<()> {
    // SAFETY: both strings end with NUL and live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Mounts the task's root at `target`.
pub(crate) fn mount_root(rootfs: &Rootfs, target: &Path) -> io::Result<()> {
    match rootfs {
        Rootfs::Plain { path } => {
            mount(
                Some(path),
                target,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(())
        }
        Rootfs::Overlay { lower, upper, work } => match mount_overlay(lower, upper, work, target) {
            // Before Linux 6.8 there is no `lowerdir+`.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                mount_overlay_old(lower, upper, work, target)
            }
            other => other,
        },
    }
}

/// One option per layer: no limit of one page for all of them, and no character needs escaping.
#[expect(
    unsafe_code,
    reason = "the mount calls since Linux 5.2 have no safe wrapper"
)]
fn mount_overlay(
    lower: &[std::path::PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> io::Result<()> {
    // SAFETY: the string ends with NUL and lives through the call.
    let context = fd_from(unsafe { libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), 1) })?;
    set_option(&context, c"source", c"plimsoll")?;
    for layer in lower {
        set_option(&context, c"lowerdir+", &path(layer)?)?;
    }
    set_option(&context, c"upperdir", &path(upper)?)?;
    set_option(&context, c"workdir", &path(work)?)?;
    let none: *const libc::c_char = std::ptr::null();
    // SAFETY: this command takes no strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            none,
            none,
            0,
        )
    })?;
    // SAFETY: no pointers are passed.
    let tree = fd_from(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })?;
    move_to(&tree, &path(target)?)
}

fn mount_overlay_old(
    lower: &[std::path::PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> io::Result<()> {
    let mut data = b"lowerdir=".to_vec();
    let escaped = |path: &Path, data: &mut Vec<u8>| {
        for &byte in path.as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                data.push(b'\\');
            }
            data.push(byte);
        }
    };
    for (index, layer) in lower.iter().enumerate() {
        if index > 0 {
            data.push(b':');
        }
        escaped(layer, &mut data);
    }
    data.extend_from_slice(b",upperdir=");
    escaped(upper, &mut data);
    data.extend_from_slice(b",workdir=");
    escaped(work, &mut data);
    mount(
        Some("plimsoll"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(data.as_slice()),
    )?;
    Ok(())
}

/// Builds what the task will see as `/sys/fs/cgroup`: only its own cgroups, read-only. Attached nowhere yet.
#[expect(
    unsafe_code,
    reason = "the mount calls since Linux 5.2 have no safe wrapper"
)]
pub(crate) fn cgroup_view(view: &[CgroupView], scratch: &Path) -> io::Result<OwnedFd> {
    fs::create_dir_all(scratch)?;
    match view {
        [whole] if whole.name.is_empty() => {
            mount(
                Some(&whole.source),
                scratch,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
        }
        parts => {
            mount(
                Some("cgroup"),
                scratch,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=755,size=64k"),
            )?;
            for part in parts {
                let place = scratch.join(&part.name);
                fs::create_dir(&place)?;
                mount(
                    Some(&part.source),
                    &place,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
            }
        }
    }
    let scratch = path(scratch)?;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the string ends with NUL and lives through the call.
    let tree = fd_from(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, scratch.as_ptr(), flags)
    })?;
    let attr = MountAttr {
        set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH.cast_unsigned() | AT_RECURSIVE;
    // SAFETY: `attr` is a whole `struct mount_attr` that lives through the call, with its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    umount2(scratch.as_c_str(), MntFlags::MNT_DETACH)?;
    Ok(tree)
}

/// Puts the view made by [`cgroup_view`] into the calling task's root, before the task's program runs.
pub(crate) fn attach_cgroup_view(tree: &OwnedFd) -> io::Result<()> {
    move_to(tree, c"/sys/fs/cgroup")
}

/// Takes the cgroup file systems out of this mount namespace: the task is placed already, and
/// libcontainer would read the mount table for each controller and move the process again.
pub(crate) fn hide_cgroups() -> io::Result<()> {
    // Bounded: no sane host stacks more mounts there.
    for _ in 0..16 {
        match umount2(CGROUP_ROOT, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    mount(
        Some("none"),
        CGROUP_ROOT,
        Some("tmpfs"),
        MsFlags::MS_RDONLY,
        Some("size=4k"),
    )?;
    Ok(())
}
