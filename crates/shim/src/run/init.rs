//! A small init as first process of a task (`--init`): reaps and forwards signals.
//!
//! It is the creator's own process image, so no file has to be brought into the task and nothing
//! in the task can overwrite it (the image is sealed).

use std::convert::Infallible;
use std::io;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Forks; returns in the child, which goes on to become the task's program.
/// The parent stays as first process and ends as the child does.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
pub(crate) fn stay_as_init(terminal: bool) -> io::Result<()> {
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
        ForkResult::Parent { child } => match serve(child, &all) {
            Err(_) => end(1),
        },
    }
}

#[expect(unsafe_code, reason = "closing everything has no safe wrapper")]
fn serve(child: Pid, all: &SigSet) -> Result<Infallible, io::Error> {
    // SAFETY: this process uses no descriptor from here on but its standard streams, which are kept.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let _ = nix::sys::prctl::set_name(c"plimsoll-init");
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
