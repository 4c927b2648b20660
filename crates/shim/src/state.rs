//! What a shim leaves on disk: `state.json` while it lives, `exit.json` when its task has ended.
//!
//! Not the log (see [`crate::log`]) and not the agent's ledger. Start with [`ShimState`] and [`ExitRecord`].
//! Always holds: files appear whole by rename; a reader treats anything unreadable as "unknown", never as "gone".

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::message::Failure;
use crate::process::ProcessId;

/// Name of the file that says who supervises what.
pub const STATE_FILE: &str = "state.json";
/// Name of the file that says how the task ended.
pub const EXIT_FILE: &str = "exit.json";

/// State files are a few hundred bytes; a larger one is not ours.
const MAX_STATE_BYTES: u64 = 64 * 1024;

/// Who supervises what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// Format of this file.
    pub version: u32,
    /// Boot the process numbers belong to.
    pub boot: String,
    /// The shim.
    pub shim: ProcessId,
    /// The task's first process, once it runs.
    pub task: Option<ProcessId>,
    /// Number of the run, once started.
    pub run: Option<u64>,
    /// When the task was started, nanoseconds since 1970.
    #[serde(default)]
    pub started_ns: Option<u64>,
}

/// Version written into [`ShimState::version`].
pub const STATE_VERSION: u32 = 1;

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Number of the run.
    pub run: u64,
    /// Exit code as shells count: the code, or 128 plus the signal.
    pub code: i32,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in it for lack of memory.
    pub oom: bool,
    /// When it was started, nanoseconds since 1970.
    pub started_ns: u64,
    /// When it ended, nanoseconds since 1970.
    pub ended_ns: u64,
    /// Whether the shim killed it because it was not to live any longer ([`crate::message::Fence`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// Set when it never ran.
    pub failure: Option<Failure>,
}

/// What a state file turned out to be.
#[derive(Debug)]
pub enum Content<T> {
    /// Not there.
    Absent,
    /// There and whole.
    Whole(T),
    /// There and not readable as what it should be.
    Corrupt(String),
}

/// Reads one JSON state file.
///
/// # Errors
/// Only when the file system itself fails; a bad content is [`Content::Corrupt`].
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Content<T>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
        other => other?,
    };
    let mut text = Vec::new();
    file.take(MAX_STATE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_STATE_BYTES {
        return Ok(Content::Corrupt("larger than any state file".to_owned()));
    }
    Ok(match serde_json::from_slice(&text) {
        Ok(value) => Content::Whole(value),
        Err(error) => Content::Corrupt(error.to_string()),
    })
}

/// Writes one JSON state file so that it appears whole or not at all.
/// Returns the open file, so that the caller may make it durable when that no longer delays anybody.
///
/// # Errors
/// When it cannot be written; the old content is still there then.
pub fn write<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<File> {
    let text = serde_json::to_vec(value).map_err(io::Error::other)?;
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    fs::rename(&temporary, dir.join(name))?;
    Ok(file)
}

/// Makes a file written by [`write`] durable, its name included.
///
/// # Errors
/// When the file system cannot.
pub fn make_durable(file: &File, dir: &Path) -> io::Result<()> {
    file.sync_all()?;
    File::open(dir)?.sync_all()
}
