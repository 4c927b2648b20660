//! The end of a task that must not outlive its lease.
//!
//! Whoever leases the task says again and again until when it may live. When that is over the supervisor kills it, and
//! needs nobody for it: neither the agent nor its own view of the file system, whose files were opened when they were
//! named. Start with [`Fence::take`]. Always holds: the newest word counts; the time also passes while the machine is
//! suspended, and a kill that shows no effect is repeated.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;
use shim::message::{self, Thaw};

/// Pause before a kill is repeated: what is being forked, or is not running yet, is met then.
const AGAIN: Duration = Duration::from_millis(50);

/// Most of a list of processes that is read: about as many as a task may have by default on a large host.
const PROCESSES_MAX_BYTES: u64 = 1 << 20;

/// What is known of a task's lease.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    /// Made when it is needed first; the machine's own clock, suspends included.
    timer: Option<TimerFd>,
    until_ms: Option<u64>,
    processes: Option<File>,
    thaw: Option<(File, String)>,
    /// The task was killed because of it.
    pub(crate) struck: bool,
}

impl Fence {
    /// Takes the newest word.
    pub(crate) fn take(&mut self, fence: &message::Fence) -> io::Result<()> {
        if self.processes.is_none() {
            let file = fence.processes.as_ref();
            self.processes = file.and_then(|path| File::open(path).ok());
        }
        if self.thaw.is_none()
            && let Some(Thaw { file, word }) = &fence.thaw
        {
            let open = File::options().write(true).open(file).ok();
            self.thaw = open.map(|file| (file, word.clone()));
        }
        self.until_ms = fence.until_ms;
        self.arm()
    }

    /// Sets the timer to what was said last; a moment that is over rings at once.
    pub(crate) fn arm(&mut self) -> io::Result<()> {
        let Some(until_ms) = self.until_ms else {
            return match &self.timer {
                Some(timer) => Ok(timer.unset()?),
                None => Ok(()),
            };
        };
        // Nothing would be "no alarm".
        let at = TimeSpec::milliseconds(i64::try_from(until_ms).unwrap_or(i64::MAX).max(1));
        self.set(
            Expiration::OneShot(at),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME,
        )
    }

    fn set(&mut self, when: Expiration, flags: TimerSetTimeFlags) -> io::Result<()> {
        let timer = match self.timer.take() {
            Some(timer) => timer,
            None => TimerFd::new(
                ClockId::CLOCK_BOOTTIME,
                TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
            )?,
        };
        timer.set(when, flags)?;
        self.timer = Some(timer);
        Ok(())
    }

    /// Until when the task may live, in milliseconds since the start of the machine.
    pub(crate) fn until_ms(&self) -> Option<u64> {
        self.until_ms
    }

    /// What becomes ready when the time is over.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.timer.as_ref().map(AsFd::as_fd)
    }

    /// The time is over: rings again until it is given a new one or is put away.
    pub(crate) fn rang(&mut self) {
        let again = Expiration::OneShot(TimeSpec::from_duration(AGAIN));
        if self.set(again, TimerSetTimeFlags::empty()).is_err() {
            // Without a timer that can be set it would be ready for ever.
            self.timer = None;
        }
    }

    /// The time is over, and nothing lives: it does not ring again before it is armed.
    pub(crate) fn put_off(&mut self) {
        self.timer = None;
    }

    /// Kills the task, whose first process this is and which was not reaped yet, with all it has.
    pub(crate) fn strike(&mut self, task: i32) {
        self.struck = true;
        // It takes its process namespace along; the list is for a task that shares the host's.
        let _ = kill(Pid::from_raw(task), Signal::SIGKILL);
        for process in self.processes() {
            // Gone meanwhile is as good as killed.
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        if let Some((file, word)) = &mut self.thaw {
            // On the first generation of cgroups what is frozen does not die.
            let _ = file.write_all(word.as_bytes());
        }
    }

    fn processes(&mut self) -> Vec<i32> {
        let mut text = String::new();
        let Some(file) = &mut self.processes else {
            return Vec::new();
        };
        if file.rewind().is_err()
            || file
                .take(PROCESSES_MAX_BYTES)
                .read_to_string(&mut text)
                .is_err()
        {
            return Vec::new();
        }
        let own = i32::try_from(std::process::id()).ok();
        let numbers = text.lines().filter_map(|line| line.parse().ok());
        // 0 stands for a process of another process namespace, and would mean the own group.
        numbers
            .filter(|pid| *pid > 0 && Some(*pid) != own)
            .collect()
    }

    /// The task has ended.
    pub(crate) fn put_away(&mut self) {
        let struck = self.struck;
        *self = Fence {
            struck,
            ..Fence::default()
        };
    }
}
