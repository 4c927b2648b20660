//! What travels in streams.
//!
//! Three forms:
//! - **lines**: `application/x-ndjson`, one JSON document per line (watches, events, progress, stats);
//! - **frames**: [`FRAMES_TYPE`], the units of [`crate::link::Frame`] one after the other (logs);
//! - **upgraded connections**: a request with `Connection: Upgrade` and `Upgrade:` [`UPGRADE_PROTOCOL`] is answered
//!   by 101, then frames go both ways (attach, exec). The client sends `Stdin` and `EndInput`, and `Json` frames with
//!   a [`Resize`]; the server sends `Stdout`, `Stderr` (a terminal has only `Stdout`), before the last frame of an
//!   exec a `Json` frame with an [`ExecExit`], and ends with `End` or an `Error` frame.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Value of the `Upgrade` header for attach and exec.
pub const UPGRADE_PROTOCOL: &str = "plimsoll-stream";

/// Media type of a body made of frames.
pub const FRAMES_TYPE: &str = "application/vnd.plimsoll.frames";

/// Media type of a body made of lines of JSON.
pub const LINES_TYPE: &str = "application/x-ndjson";

/// Longest line a client accepts, in bytes: an image with a long history is some 100 kB.
pub const LINE_MAX_BYTES: usize = 4 << 20;

/// One line of a list with `?watch=true`. After the first lines, one for each thing there is, comes
/// [`WatchEvent::Synced`]; then one line per change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "type", content = "value")]
pub enum WatchEvent<T> {
    /// It is new.
    Added(T),
    /// It changed.
    Modified(T),
    /// The thing of this id is gone.
    Removed(String),
    /// Everything there is has been said; also after [`WatchEvent::Resync`].
    Synced,
    /// The watcher was too slow: forget everything, all is said again.
    Resync,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = TerminalSize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// How an exec ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecExit {
    /// Exit code; 128 + signal if killed by one.
    pub exit_code: i32,
}
