//! The embedded store: one SQLite file, one writer thread, group commit.
//!
//! What always holds: one process has the file open (a lock beside it); only the writer thread touches the
//! connection; a transaction is acknowledged after the sync of the write-ahead log that contains it
//! (`synchronous=FULL`); the log is bounded; a reserve file beside the database is given up when the disk is full, so
//! that opening and deleting still work.
//!
//! Files beside `DB`: `DB-wal` (SQLite's log), `DB-lock` (held while open; holds the pid), `DB-reserve`.

mod database;
mod gather;
mod lock;
mod reserve;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::feed::Feed;
use crate::metrics::Counters;
use crate::prepare::prepare;
use crate::{
    CommitError, ConfirmError, HistoryLimits, Metrics, OpenError, Revision, Snapshot, Store,
    Transaction, Watch, WatchError,
};
use writer::{Request, Writer};

/// How a SQLite store behaves. The defaults are right for a server.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How far back events are kept.
    pub history: HistoryLimits,
    /// Length of the reserve file in bytes; 0: none.
    pub reserve_bytes: u64,
    /// Length of the write-ahead log after which it is brought into the database, in bytes.
    pub wal_limit_bytes: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            history: HistoryLimits::default(),
            // Room for thousands of deletes and their checkpoint.
            reserve_bytes: 8 * 1024 * 1024,
            // Long enough that hot pages are written back once for many commits, short enough to open quickly.
            wal_limit_bytes: 16 * 1024 * 1024,
        }
    }
}

/// Transactions waiting for the writer: a few group commits; more only wait longer.
const QUEUE: usize = 512;

struct SqliteStore {
    feed: Arc<Feed>,
    counters: Arc<Counters>,
    /// The writer does not know any more what is on the disk.
    broken: Arc<AtomicBool>,
    /// `None` once closed.
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the database at `path`, or makes it if there is none. The folder must exist.
///
/// Reads everything: call it where blocking is fine.
///
/// # Errors
/// When the file is in use, damaged, or written by a newer program; see [`OpenError`]. A file that cannot be read is
/// never replaced.
pub fn open_sqlite(
    path: impl AsRef<Path>,
    options: SqliteOptions,
) -> Result<Arc<dyn Store>, OpenError> {
    let path = path.as_ref();
    let counters = Arc::new(Counters::default());
    let broken = Arc::new(AtomicBool::new(false));
    let lock = lock::Lock::take(path)?;
    let (connection, state, mut reserve) = open_or_free_reserve(path, &options)?;
    reserve.restore();
    let feed = Feed::new(state.snapshot(), options.history);
    let (queue, requests) = mpsc::channel(QUEUE);
    let writer = Writer::new(writer::Parts {
        connection,
        state,
        reserve,
        lock,
        place: folder_of(path),
        wal_limit_bytes: options.wal_limit_bytes,
        feed: Arc::clone(&feed),
        counters: Arc::clone(&counters),
        broken: Arc::clone(&broken),
    });
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run(requests))
        .map_err(|source| OpenError::Io {
            doing: "start the writer thread for",
            path: path.to_owned(),
            source,
        })?;
    Ok(Arc::new(SqliteStore {
        feed,
        counters,
        broken,
        queue: Mutex::new(Some(queue)),
        thread: Mutex::new(Some(thread)),
    }))
}

type Opened = (rusqlite::Connection, crate::state::State, reserve::Reserve);

/// Opens; if there is no room even for that, gives up the reserve and tries once more.
fn open_or_free_reserve(path: &Path, options: &SqliteOptions) -> Result<Opened, OpenError> {
    let mut reserve = reserve::Reserve::new(path, options.reserve_bytes);
    let (connection, state) = match database::open(path) {
        Err(database::Failed::NoRoom(_)) if reserve.free() => database::open(path),
        other => other,
    }
    .map_err(|failed| failed.into_error(path))?;
    Ok((connection, state, reserve))
}

fn folder_of(path: &Path) -> String {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).display().to_string()
}

/// `path` with something appended to its last part.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl SqliteStore {
    async fn submit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        let tx = prepare(tx)?;
        let queue = locked(&self.queue).clone().ok_or(CommitError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { tx, answer };
        queue.send(request).await.map_err(|_| CommitError::Closed)?;
        drop(queue);
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(CommitError::Backend {
                doing: "commit: the writer ended",
                outcome_unknown: true,
                source: "the store's writer thread is gone".into(),
            }),
        }
    }

    fn join(&self) {
        locked(&self.queue).take();
        if let Some(thread) = locked(&self.thread).take() {
            // A panic of the writer was already reported to those who waited for it.
            drop(thread.join());
        }
        self.feed.close();
    }
}

impl Drop for SqliteStore {
    /// Waits for the writer, so that the file can be opened again afterwards.
    fn drop(&mut self) {
        self.join();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for SqliteStore {
    fn snapshot(&self) -> Snapshot {
        self.feed.snapshot()
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        self.submit(tx)
            .await
            .inspect_err(|error| self.counters.refused(error))
    }

    async fn confirm(&self) -> Result<(), ConfirmError> {
        // Also closed when the writer's thread has ended in another way.
        let open = locked(&self.queue)
            .as_ref()
            .is_some_and(|it| !it.is_closed());
        if !open {
            return Err(ConfirmError::Closed);
        }
        if self.broken.load(Ordering::Acquire) {
            return Err(ConfirmError::Broken);
        }
        // The lock beside the file keeps others out: what is committed was shown from here.
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        self.feed.watch(from)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.feed.revisions()
    }

    fn metrics(&self) -> Metrics {
        self.counters.read()
    }

    async fn close(&self) {
        locked(&self.queue).take();
        // The writer finishes what it was given, then ends; that is a matter of milliseconds.
        let thread = locked(&self.thread).take();
        if let Some(thread) = thread {
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
        self.feed.close();
    }
}
