//! Work inside another network namespace.
//!
//! What always holds: a thread that entered a namespace ends after its work, so no other work can run in the wrong one.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use agent::driver::Prepared;
use nix::sched::{CloneFlags, setns};

use super::NetworkError;

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    /// Opens the namespace of a process, and makes sure that the pid still belongs to it and that it is not the
    /// host's own.
    pub(super) fn of(prepared: &Prepared) -> Result<Self, NetworkError> {
        let path = format!("/proc/{}/ns/net", prepared.pid);
        let gone = || NetworkError::NamespaceGone { pid: prepared.pid };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
            Err(error) => return Err(NetworkError::file("open", path)(error)),
        };
        // After the open: had the pid been reused before it, the start time would tell.
        if start_time(prepared.pid) != Some(prepared.start_time) {
            return Err(gone());
        }
        let own_path = "/proc/thread-self/ns/net";
        let own = fs::metadata(own_path).map_err(NetworkError::file("read", own_path))?;
        let other = file.metadata().map_err(NetworkError::file("read", &path))?;
        if (own.dev(), own.ino()) == (other.dev(), other.ino()) {
            return Err(NetworkError::NamespaceIsHost { pid: prepared.pid });
        }
        Ok(Self { file })
    }

    /// For `IFLA_NET_NS_FD`.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `work` on a thread of its own that lives in this namespace.
    pub(super) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<T, NetworkError> {
        std::thread::scope(|scope| {
            let inside = || {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| NetworkError::NamespaceThread(errno.into()))?;
                work()
            };
            std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, inside)
                .map_err(NetworkError::NamespaceThread)?
                .join()
                .unwrap_or_else(|_| {
                    let error = io::Error::other("the thread panicked");
                    Err(NetworkError::NamespaceThread(error))
                })
        })
    }
}

/// Field 22 of `/proc/<pid>/stat`.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
