//! What can go wrong, one variant per failed operation.

use std::path::PathBuf;

use model::Key;

use crate::{NameKey, Revision};

/// The source of an error that comes from a backend's own library.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a transaction was not (known to be) committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// An expectation does not hold: somebody else was faster. Read again and decide again.
    #[error("{key} has changed meanwhile")]
    Conflict {
        /// The first key whose expectation does not hold.
        key: Key,
    },
    /// Another object has the name.
    #[error("{name} is taken by {holder}")]
    NameTaken {
        /// The name.
        name: NameKey,
        /// Who has it.
        holder: Key,
    },
    /// There is no room on the disk; nothing was written. Changes that create no object still have the reserve.
    #[error(
        "no room left for the store in {place}: free space there (deleting objects still works)"
    )]
    Full {
        /// The folder or server that is full.
        place: String,
    },
    /// The store is closed; nothing was written.
    #[error("the store is closed")]
    Closed,
    /// The backend failed.
    #[error("{doing}{}", if *.outcome_unknown { " (whether it was written is unknown)" } else { "" })]
    Backend {
        /// What was being done.
        doing: &'static str,
        /// Whether the transaction may nevertheless have been committed. If so, it is in a later snapshot or never.
        outcome_unknown: bool,
        /// Why.
        #[source]
        source: Source,
    },
    /// More than a transaction may hold; nothing was written.
    #[error("transaction too large: {what} is {size}, at most {limit} are possible")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// One transaction changes a key twice.
    #[error("{key} is changed twice in one transaction")]
    Duplicate {
        /// The key.
        key: Key,
    },
    /// An object cannot be written as JSON.
    #[error("{key} cannot be encoded")]
    Encode {
        /// The object.
        key: Key,
        /// Why.
        #[source]
        source: model::stored::DecodeError,
    },
}

/// Why it is not known whether the snapshot holds everything.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// An earlier failure of the backend leaves open what it holds; only a restart can tell.
    #[error("the database failed earlier")]
    Broken,
    /// The backend does not answer.
    #[error("cannot {doing}")]
    Backend {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Source,
    },
    /// No answer, or what it said was not seen, in this time.
    #[error("the store was not confirmed within {seconds} s")]
    Late {
        /// The bound.
        seconds: u64,
    },
}

/// Why a watch gives no (further) events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Events so far back are no longer kept: read a snapshot and watch from its revision.
    #[error("events before revision {oldest} are no longer kept")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// The watcher was slower than the events are kept: read a snapshot and watch from its revision.
    #[error("fell behind: events before revision {oldest} are no longer kept")]
    Lagged {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// The store is closed and all events were delivered.
    #[error("the store is closed")]
    Closed,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or folder could not be made or read.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error(
        "{path} is in use by {}: stop that server first",
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The database.
        path: PathBuf,
        /// The other process, if it could be told.
        pid: Option<u32>,
    },
    /// The file is damaged, or no database of Plimsoll. It is left as it is.
    #[error(
        "{path} is damaged ({detail}). It was left untouched: restore it from a backup, or salvage a copy with \
         `sqlite3 {path} .recover`; only if its contents may be lost, move it away to start empty"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Written by a newer program.
    #[error(
        "{path} was written by a newer program (form {found}, this program knows up to {known}): start the newer program"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Version found.
        found: i64,
        /// Highest version this program reads.
        known: i64,
    },
    /// One object cannot be read.
    #[error("object {key} of {place} cannot be read")]
    Object {
        /// Its key as stored.
        key: String,
        /// Database or server.
        place: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// The database failed.
    #[error("cannot open the database {path}")]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
    /// The server does not answer or refuses.
    #[error("cannot {doing} etcd at {endpoints}")]
    Etcd {
        /// What was being done.
        doing: &'static str,
        /// The addresses.
        endpoints: String,
        /// Why.
        #[source]
        source: Source,
    },
}
