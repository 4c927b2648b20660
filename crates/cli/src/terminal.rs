//! The terminal: raw mode, its size, and the keys that leave a session.

use std::io::{IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;

use bytes::Bytes;
use nix::sys::termios::{self, SetArg, Termios};
use tokio::sync::mpsc;

use crate::error::{Failure, Result};
use crate::exit;

/// Puts the terminal into raw mode and back when dropped.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Raw mode, if standard input is a terminal.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to put back.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Rows and columns of the terminal, if there is one.
#[must_use]
pub(crate) fn size() -> Option<(u16, u16)> {
    let (columns, rows) = terminal_size::terminal_size()?;
    Some((rows.0, columns.0))
}

/// Reads standard input on a thread of its own (a blocking read cannot be taken back); the channel closes at its end.
#[must_use]
pub(crate) fn read_stdin() -> mpsc::Receiver<Bytes> {
    // A few chunks ahead of the network keeps a pipe busy without holding much.
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match std::io::stdin().read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    if sender
                        .blocking_send(Bytes::copy_from_slice(&buffer[..read]))
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Finds the detach keys in input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q` or single characters; empty text: never detach.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Failure::new(exit::USAGE, format!("\"{text}\" are no detach keys"))
                .hint("write for example ctrl-p,ctrl-q or ctrl-a,d")
        };
        let mut keys = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let key = match part.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => {
                    letter.to_ascii_uppercase() & 0x1f
                }
                Some(_) => return Err(bad()),
                None => match part.as_bytes() {
                    [letter] => *letter,
                    _ => return Err(bad()),
                },
            };
            keys.push(key);
        }
        Ok(Self { keys, matched: 0 })
    }

    /// What of the input goes on, and whether the keys were pressed. A beginning of the keys is held back until the
    /// next input shows what it was.
    pub(crate) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.is_empty() {
                out.push(byte);
                continue;
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                out.push(byte);
            } else if self.keys.len() == 1 {
                return (out, true);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (Vec::new(), true));
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.filter(b"\x10\x10x"), (b"\x10\x10x".to_vec(), false));
    }

    #[test]
    fn no_keys_pass_everything() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
        for bad in ["ctrl-", "ctrl-10", "ab"] {
            assert!(DetachKeys::parse(bad).is_err());
        }
    }
}
