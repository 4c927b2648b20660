//! Identity of a process that survives the reuse of its number.
//!
//! A number alone is never enough: it is paired with the start time the kernel reports and valid
//! only within one boot. Start with [`ProcessId::current`] and [`ProcessId::is_alive`].

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// Number.
    pub pid: i32,
    /// Start time in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start: u64,
}

impl ProcessId {
    /// The calling process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<ProcessId> {
        ProcessId::of(i32::try_from(std::process::id()).map_err(io::Error::other)?)
    }

    /// The process that has this number now.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn of(pid: i32) -> io::Result<ProcessId> {
        let (_, start) = read_stat(pid)?;
        Ok(ProcessId { pid, start })
    }

    /// Whether this very process exists and has not ended.
    pub fn is_alive(&self) -> bool {
        matches!(read_stat(self.pid), Ok((state, start)) if start == self.start && state != 'Z' && state != 'X')
    }

    /// Whether this very process exists, ended or not.
    pub fn exists(&self) -> bool {
        matches!(read_stat(self.pid), Ok((_, start)) if start == self.start)
    }
}

/// State letter and start time. The command name may contain anything, so parsing begins after its last `)`.
fn read_stat(pid: i32) -> io::Result<(char, u64)> {
    let text = match fs::read(format!("/proc/{pid}/stat")) {
        // A process that ends while it is read answers ESRCH.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            return Err(io::ErrorKind::NotFound.into());
        }
        other => other?,
    };
    parse_stat(&text).ok_or_else(|| io::Error::other("unreadable process state"))
}

fn parse_stat(text: &[u8]) -> Option<(char, u64)> {
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3, the start time field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// Identity of this boot.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_and_a_reused_number_is_not() {
        let me = ProcessId::current().unwrap();
        assert!(me.is_alive());
        let other = ProcessId {
            start: me.start + 1,
            ..me
        };
        assert!(!other.is_alive());
    }

    #[test]
    fn a_command_name_cannot_confuse_the_parser() {
        let mut line = b"12 (evil) R 1 2) S".to_vec();
        for field in 4..=25 {
            line.extend_from_slice(format!(" {field}").as_bytes());
        }
        assert_eq!(parse_stat(&line), Some(('S', 22)));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"1 (x"), None);
    }
}
