//! The supervisor's ends of a task's streams: output into the log, input from clients.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use shim::log::{LogWriter, Stream};
use shim::message::WindowSize;

use super::creator::TaskStreams;

/// One read from a pipe; half of what a pipe holds.
const CHUNK: usize = 32 * 1024;
/// Input held for a task that does not read; then the sender is made to wait.
const MAX_INPUT: usize = 64 * 1024;

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// Sets the size of a terminal.
#[expect(unsafe_code, reason = "the window size has no safe wrapper")]
pub(crate) fn resize(terminal: &impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is a whole `winsize` that lives through the call.
    unsafe { set_window_size(terminal.as_fd().as_raw_fd(), &raw const size) }?;
    Ok(())
}

fn non_blocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The streams of one task.
pub(crate) struct Streams {
    stdout: Option<File>,
    stderr: Option<File>,
    stdin: Option<File>,
    terminal: bool,
    input: Vec<u8>,
    close_input: bool,
    log: Option<LogWriter>,
    buffer: Vec<u8>,
}

impl Streams {
    /// Makes the pipes; the task's ends go to the creator.
    pub(crate) fn new() -> io::Result<(Streams, TaskStreams)> {
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
        let ((stdin_in, stdin_out), (stdout_in, stdout_out), (stderr_in, stderr_out)) =
            (pipe()?, pipe()?, pipe()?);
        for fd in [&stdin_out, &stdout_in, &stderr_in] {
            non_blocking(fd)?;
        }
        let ours = Streams {
            stdout: Some(stdout_in.into()),
            stderr: Some(stderr_in.into()),
            stdin: Some(stdin_out.into()),
            terminal: false,
            input: Vec::new(),
            close_input: false,
            log: None,
            buffer: Vec::new(),
        };
        Ok((
            ours,
            TaskStreams {
                stdin: stdin_in,
                stdout: stdout_out,
                stderr: stderr_out,
            },
        ))
    }

    /// Begins to log; without `stdin` the input is closed for good.
    pub(crate) fn open(&mut self, log: LogWriter, stdin: bool) {
        self.log = Some(log);
        if !stdin {
            self.stdin = None;
        }
    }

    /// Uses a terminal instead of the pipes.
    pub(crate) fn use_terminal(&mut self, master: OwnedFd, stdin: bool) -> io::Result<()> {
        non_blocking(&master)?;
        self.stderr = None;
        self.stdin = if stdin {
            Some(master.try_clone()?.into())
        } else {
            None
        };
        self.stdout = Some(master.into());
        self.terminal = true;
        Ok(())
    }

    pub(crate) fn log_end(&self) -> u64 {
        self.log.as_ref().map_or(0, LogWriter::end)
    }

    /// How far a holding reader may be behind.
    pub(crate) fn hold_window(&self) -> u64 {
        // Both pipes may still have to be emptied when the task ends.
        self.log.as_ref().map_or(u64::MAX, |log| {
            log.window().saturating_sub(8 * CHUNK as u64)
        })
    }

    pub(crate) fn output_fd(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match stream {
            Stream::Stdout => self.stdout.as_ref().map(AsFd::as_fd),
            Stream::Stderr => self.stderr.as_ref().map(AsFd::as_fd),
            Stream::RunStart => None,
        }
    }

    /// Where input waits to be written, if any waits.
    pub(crate) fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.input.is_empty() {
            None
        } else {
            self.stdin.as_ref().map(AsFd::as_fd)
        }
    }

    pub(crate) fn wants_input(&self) -> bool {
        self.input.len() < MAX_INPUT
    }

    pub(crate) fn has_input(&self) -> bool {
        self.stdin.is_some() && !self.close_input
    }

    pub(crate) fn resize(&self, size: WindowSize) -> io::Result<()> {
        match (&self.stdout, self.terminal) {
            (Some(master), true) => resize(master, size),
            _ => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the task has no terminal",
            )),
        }
    }

    /// Reads once and logs; false when the stream is empty for now or for good.
    pub(crate) fn read_output(&mut self, stream: Stream) -> bool {
        if self.buffer.is_empty() {
            // Allocated with the first output: many tasks never write.
            self.buffer = vec![0; CHUNK];
        }
        let source = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::RunStart => return false,
        };
        let Some(file) = source else { return false };
        match file.read(&mut self.buffer) {
            Ok(0) => {
                *source = None;
                false
            }
            Ok(len) => {
                if let Some(log) = &mut self.log {
                    log.append(stream, now_ns(), &self.buffer[..len]);
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // A terminal answers EIO when nobody holds its other end.
            Err(_) => {
                *source = None;
                false
            }
        }
    }

    /// Takes what is left when the task has ended. What other processes still hold open is not waited for.
    pub(crate) fn drain(&mut self) {
        // Bounded by what pipes can hold, for writers that outlive the task.
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..64 {
                if !self.read_output(stream) {
                    break;
                }
            }
        }
    }

    pub(crate) fn push_input(&mut self, bytes: &[u8]) {
        if self.has_input() {
            self.input.extend_from_slice(bytes);
            self.write_input();
        }
    }

    /// Closes the input when everything before has been written.
    pub(crate) fn close_input(&mut self) {
        if self.terminal && !self.close_input && self.stdin.is_some() {
            // End of transmission, as if typed: a terminal has no other end of input.
            self.input.push(4);
        }
        self.close_input = true;
        self.write_input();
    }

    pub(crate) fn write_input(&mut self) {
        while let (Some(file), false) = (&mut self.stdin, self.input.is_empty()) {
            match file.write(&self.input) {
                Ok(len) => {
                    self.input.drain(..len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads any more.
                Err(_) => {
                    self.stdin = None;
                    self.input = Vec::new();
                }
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
            if self.close_input {
                self.stdin = None;
            }
        }
    }
}
