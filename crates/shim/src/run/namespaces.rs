//! The shim's own namespaces: a private copy of the mount table, and the task's network.

use std::fs::File;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Net, RunError};

/// Leaves the agent's mount and network namespaces.
pub(crate) fn enter(net: &Net) -> Result<(), RunError> {
    let flags = match net {
        Net::New => CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET,
        Net::Host | Net::Join(_) => CloneFlags::CLONE_NEWNS,
    };
    unshare(flags).map_err(|error| RunError::io("new namespaces", error))?;
    // Unmounting on the host must reach us (or we would keep file systems busy); nothing of ours may reach the host.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(|error| RunError::io("private mounts", error))?;
    match net {
        Net::Host => Ok(()),
        Net::New => loopback_up().map_err(|error| RunError::io("loopback", error)),
        Net::Join(path) => {
            let namespace =
                File::open(path).map_err(|error| RunError::io("network namespace", error))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|error| RunError::io("network namespace", error))
        }
    }
}

nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

#[expect(unsafe_code, reason = "the interface flags have no safe wrapper")]
fn loopback_up() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = libc::c_char::try_from(b'l').map_err(io::Error::other)?;
    name[1] = libc::c_char::try_from(b'o').map_err(io::Error::other)?;
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: up },
    };
    // SAFETY: `request` is a whole, initialised `ifreq` that lives through the call.
    unsafe { set_interface_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}
