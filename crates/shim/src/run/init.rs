//! A small init as first process of a task (`--init`): reaps and forwards signals.
//!
//! It is the creator's own process image, so no file has to be brought into the task and nothing
//! in the task can overwrite it (the image is sealed).
//! Its arguments are the shim's, which name folders of the host: it gives itself others.

use std::convert::Infallible;
use std::ffi::CStr;
use std::{fs, io};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// What it is called in lists of processes.
const NAME: &CStr = c"plimsoll-init";

/// Where a process and its forks have their arguments in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    /// Address of the first byte.
    start: usize,
    /// Bytes, the last one a zero.
    length: usize,
}

impl Arguments {
    /// Those of this process. To be asked for while `/proc` is still the host's: the task's may be anything.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        Self::parse(&stat).ok_or_else(|| io::Error::other("/proc/self/stat says no arguments"))
    }

    /// The fields 48 and 49 of `proc_pid_stat(5)`.
    fn parse(stat: &str) -> Option<Self> {
        // The name in the second field may have anything in it, parentheses too.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(45);
        let (start, end): (usize, usize) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let length = end.checked_sub(start)?;
        (start > 0 && length > 0).then_some(Self { start, length })
    }

    /// Replaces them by a name, as much of it as there is room for.
    #[expect(
        unsafe_code,
        reason = "the arguments of a process have no safe wrapper"
    )]
    fn replace(self, name: &CStr) {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: the kernel put the arguments there for the life of the process, writable and all in one piece; the
        // process is single-threaded, and nothing reads them any more: what was needed of them was copied at the start.
        let arguments = unsafe { std::slice::from_raw_parts_mut(start, self.length) };
        arguments.fill(0);
        let room = self.length - 1;
        for (to, from) in arguments[..room].iter_mut().zip(name.to_bytes()) {
            *to = *from;
        }
    }
}

/// Forks; returns in the child, which goes on to become the task's program.
/// The parent stays as first process and ends as the child does.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
pub(crate) fn stay_as_init(terminal: bool, arguments: Arguments) -> io::Result<()> {
    let all = SigSet::all();
    all.thread_set_mask()?;
    // SAFETY: the process is single-threaded.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // A process group of its own, in the foreground of the terminal.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            if terminal {
                let _ = nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpgrp());
            }
            SigSet::empty().thread_set_mask()?;
            Ok(())
        }
        ForkResult::Parent { child } => match serve(child, &all, arguments) {
            Err(_) => end(1),
        },
    }
}

#[expect(unsafe_code, reason = "closing everything has no safe wrapper")]
fn serve(child: Pid, all: &SigSet, arguments: Arguments) -> Result<Infallible, io::Error> {
    // SAFETY: this process uses no descriptor from here on but its standard streams, which are kept.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let _ = nix::sys::prctl::set_name(NAME);
    arguments.replace(NAME);
    loop {
        let signal = match all.wait() {
            // A real-time signal, which nix cannot name: nobody asked for it to be forwarded.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        match signal {
            Signal::SIGCHLD => reap(child)?,
            // The terminal stops the foreground group by itself.
            Signal::SIGTTIN | Signal::SIGTTOU | Signal::SIGTSTP => {}
            other => {
                let _ = kill(child, other);
            }
        }
    }
}

fn reap(child: Pid) -> io::Result<()> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => end(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => end(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[expect(unsafe_code, reason = "no destructor of the copied process may run")]
fn end(code: i32) -> ! {
    // SAFETY: ends the process without touching its memory.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_behind_any_name() {
        let numbers: Vec<String> = (4..=52).map(|number| (number * 100).to_string()).collect();
        let stat = format!("7 (a) b (c)) S {}", numbers.join(" "));
        let found = Arguments::parse(&stat).unwrap();
        assert_eq!((found.start, found.length), (4800, 100));
        for bad in ["", "7 (x) S 1 2 3", &stat.replace("4800", "0")] {
            assert!(Arguments::parse(bad).is_none(), "{bad}");
        }
        Arguments::of_this_process().unwrap();
    }
}
