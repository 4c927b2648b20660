//! The file itself: opening, checking, reading everything, writing one group.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Key, stored};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use crate::prepare::Prepared;
use crate::state::State;
use crate::types::{Revision, Versioned};
use crate::{Event, OpenError};

/// Marks the file as Plimsoll's (`PRAGMA application_id`): "PLIM".
const APPLICATION_ID: i64 = 0x504C_494D;

/// Version of the tables (`PRAGMA user_version`) this program writes, and the highest it reads.
const SCHEMA: i64 = 1;

/// Memory for pages: the state is in memory anyway, SQLite only needs its inner nodes and hot leaves.
const PAGE_CACHE_KIB: i64 = 4096;

const CREATE: &str = "
    CREATE TABLE objects (
        key TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        created INTEGER NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    CREATE TABLE state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL
    ) STRICT;
    INSERT INTO state VALUES (1, 0);
";

/// Why opening failed, before it is told to people.
pub(super) enum Failed {
    NoRoom(rusqlite::Error),
    Sqlite(rusqlite::Error),
    Other(OpenError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        if is_full(&error) {
            Failed::NoRoom(error)
        } else {
            Failed::Sqlite(error)
        }
    }
}

impl From<OpenError> for Failed {
    fn from(error: OpenError) -> Self {
        Failed::Other(error)
    }
}

impl Failed {
    pub(super) fn into_error(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Failed::Other(error) => error,
            Failed::Sqlite(error) if is_damage(&error) => OpenError::Damaged {
                path,
                detail: error.to_string(),
            },
            Failed::Sqlite(error) if code(&error) == Some(ErrorCode::DatabaseBusy) => {
                OpenError::InUse { path, pid: None }
            }
            Failed::Sqlite(error) | Failed::NoRoom(error) => OpenError::Database {
                path,
                source: Box::new(error),
            },
        }
    }
}

fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

/// Whether there is no room. Growing the file can also fail as an I/O error whose cause is the same.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    code(error) == Some(ErrorCode::DiskFull)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        code(error),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Opens or makes the database and reads all of it.
pub(super) fn open(path: &Path) -> Result<(Connection, State), Failed> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    refuse_orphaned_log(path)?;
    let connection = Connection::open_with_flags(path, flags)?;
    // Exclusive: no shared-memory file (which a full disk could keep from growing), and nobody writes beside us.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables != 0 || application != 0 {
        check_identity(path, application, version)?;
    }
    if tables == 0 {
        // Lets pages that deleting has freed be given back to a full disk; has to be said before the first write.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // The writer checkpoints itself, after it has answered.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    if tables == 0 {
        create(&connection)?;
    } else {
        check_pages(&connection, path)?;
    }
    let state = read_all(&connection, path)?;
    Ok((connection, state))
}

/// A log without its database means that the database was deleted or moved away alone: starting empty would lose it.
fn refuse_orphaned_log(path: &Path) -> Result<(), OpenError> {
    let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
    if length(path.to_owned()) == 0 && length(super::beside(path, "-wal")) > 0 {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            detail: "the database is missing or empty, but its -wal file is there".into(),
        });
    }
    Ok(())
}

fn check_identity(path: &Path, application: i64, version: i64) -> Result<(), OpenError> {
    if application != APPLICATION_ID {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            detail: "it is a database of another program".into(),
        });
    }
    if version > SCHEMA {
        return Err(OpenError::TooNew {
            path: path.to_owned(),
            found: version,
            known: SCHEMA,
        });
    }
    if version < SCHEMA {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            detail: format!("it has the unknown form {version}"),
        });
    }
    Ok(())
}

/// Makes the tables in one transaction: a crash leaves an empty file, which is made again.
fn create(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {CREATE} PRAGMA application_id = {APPLICATION_ID}; \
         PRAGMA user_version = {SCHEMA}; COMMIT;"
    ))
}

fn check_pages(connection: &Connection, path: &Path) -> Result<(), Failed> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(Failed::Other(OpenError::Damaged {
            path: path.to_owned(),
            detail: found,
        }));
    }
    Ok(())
}

fn read_all(connection: &Connection, path: &Path) -> Result<State, Failed> {
    let revision: i64 = connection
        .query_row("SELECT revision FROM state", [], |row| row.get(0))
        .map_err(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => damaged(path, "its revision is missing"),
            other => other.into(),
        })?;
    let mut state = State {
        revision: revision_of(revision),
        ..State::default()
    };
    let mut select = connection.prepare("SELECT key, revision, created, value FROM objects")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let value = row.get_ref(3)?;
        let value = value.as_blob().map_err(rusqlite::Error::from)?;
        let object = stored::decode(value).map_err(|source| OpenError::Object {
            key: key.clone(),
            place: path.display().to_string(),
            source: Box::new(source),
        })?;
        if Key::parse(&key).ok().as_ref() != Some(&object.key()) {
            return Err(damaged(path, "an object is stored under another's key"));
        }
        let versioned = Versioned {
            revision: revision_of(row.get(1)?),
            created: revision_of(row.get(2)?),
            object,
        };
        if versioned.revision > state.revision || versioned.created > versioned.revision {
            return Err(damaged(path, "an object is newer than the whole"));
        }
        state.tables.insert(Arc::new(versioned));
    }
    Ok(state)
}

fn damaged(path: &Path, detail: &str) -> Failed {
    Failed::Other(OpenError::Damaged {
        path: path.to_owned(),
        detail: detail.to_owned(),
    })
}

/// Revisions are stored as SQLite's signed integers; 2^63 of them last for ever.
fn revision_of(stored: i64) -> Revision {
    Revision(u64::try_from(stored).unwrap_or(0))
}

fn stored_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// One transaction of a group and what it changed.
pub(super) type Applied<'a> = (&'a Prepared, &'a Event);

/// Writes a group in one SQLite transaction; durable when it returns.
pub(super) fn write_group<'a>(
    connection: &Connection,
    group: impl Iterator<Item = Applied<'a>>,
    last: Revision,
) -> Result<(), rusqlite::Error> {
    let written = write_rows(connection, group, last)
        .and_then(|()| connection.prepare_cached("COMMIT")?.execute([]).map(drop));
    if written.is_err() && !connection.is_autocommit() {
        // Some failures roll back by themselves, others leave it to us.
        connection.execute_batch("ROLLBACK")?;
    }
    written
}

fn write_rows<'a>(
    connection: &Connection,
    group: impl Iterator<Item = Applied<'a>>,
    last: Revision,
) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut put = connection.prepare_cached(
        "INSERT INTO objects (key, revision, created, value) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (key) DO UPDATE SET \
         revision = excluded.revision, created = excluded.created, value = excluded.value",
    )?;
    let mut delete = connection.prepare_cached("DELETE FROM objects WHERE key = ?1")?;
    for (tx, event) in group {
        for op in &tx.ops {
            match &op.put {
                Some(it) => put.execute(params![
                    op.key_text,
                    stored_revision(event.revision),
                    stored_revision(it.versioned.created),
                    &it.encoded[..],
                ])?,
                None => delete.execute(params![op.key_text])?,
            };
        }
    }
    connection
        .prepare_cached("UPDATE state SET revision = ?1")?
        .execute(params![stored_revision(last)])?;
    Ok(())
}

/// Gives back to the disk what is free in the file.
pub(super) fn shrink(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch("PRAGMA incremental_vacuum")?;
    checkpoint(connection, true)
}

/// Brings the log into the database and starts it anew.
pub(super) fn checkpoint(connection: &Connection, truncate: bool) -> Result<(), rusqlite::Error> {
    let sql = if truncate {
        "PRAGMA wal_checkpoint(TRUNCATE)"
    } else {
        // Nobody else reads, so this always gets to the end, and the next write starts the log at its beginning.
        "PRAGMA wal_checkpoint(PASSIVE)"
    };
    connection.prepare_cached(sql)?.query_row([], |_| Ok(()))
}
