//! The one thread that writes: takes what is queued, checks it in order, writes it with one sync, shows it, answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, Ordering::Relaxed};
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::hooks::Wal;
use tokio::sync::{mpsc, oneshot};

use super::database::{self, is_full};
use super::{gather::Rhythm, lock::Lock, reserve::Reserve};
use crate::feed::{Feed, kept_bytes};
use crate::metrics::Counters;
use crate::prepare::Prepared;
use crate::state::State;
use crate::{CommitError, Event, Revision};

/// Tries on a full disk: as it is, with the reserve, and once more with an emptied log.
const FULL_ATTEMPTS: usize = 3;

type Answer = Result<Revision, CommitError>;

/// A transaction that waits for its answer.
pub(super) struct Request {
    pub(super) tx: Prepared,
    pub(super) answer: oneshot::Sender<Answer>,
}

pub(super) struct Parts {
    pub(super) connection: Connection,
    pub(super) state: State,
    pub(super) reserve: Reserve,
    pub(super) lock: Lock,
    pub(super) place: String,
    pub(super) wal_limit_bytes: u64,
    pub(super) feed: Arc<Feed>,
    pub(super) counters: Arc<Counters>,
    /// Set for good when it is not known any more what is on the disk.
    pub(super) broken: Arc<AtomicBool>,
}

pub(super) struct Writer {
    it: Parts,
    /// Pages in the log, told by SQLite after each commit.
    wal_pages: Arc<AtomicU64>,
    page_bytes: u64,
    rhythm: Rhythm,
    /// The disk was full: only what creates no object is tried.
    full: bool,
    /// A write failed in a way that leaves open what is on the disk. Nothing is written any more: what the kernel
    /// says of the file after a failed sync cannot be trusted; a restart reads what really is there.
    broken: Option<String>,
}

impl Writer {
    pub(super) fn new(mut it: Parts) -> Self {
        let wal_pages = Arc::new(AtomicU64::new(0));
        let pages = Arc::clone(&wal_pages);
        let told = it
            .connection
            .wal_hook(Some(move |_: &mut Wal, now: std::ffi::c_int| {
                pages.store(u64::try_from(now).unwrap_or(0), Relaxed);
                Ok(())
            }));
        if let Err(error) = told {
            tracing::warn!(%error, "the length of the write-ahead log will not be known");
        }
        let page_bytes = it
            .connection
            .pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))
            .map_or(4096, |bytes| u64::try_from(bytes).unwrap_or(4096));
        let full = !it.reserve.is_whole();
        it.counters.full.store(u64::from(full), Relaxed);
        Self {
            it,
            wal_pages,
            page_bytes,
            rhythm: Rhythm::default(),
            full,
            broken: None,
        }
    }

    /// Runs until all senders are gone and everything is answered.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let group = self.rhythm.gather(first, &mut requests);
            let (size, started) = (group.len(), Instant::now());
            self.serve(group);
            self.rhythm.served(size, started.elapsed());
            self.checkpoint_if_long();
        }
        if self.broken.is_none()
            && let Err(error) = database::checkpoint(&self.it.connection, true)
        {
            // Harmless: the log is read on the next start.
            tracing::warn!(%error, "cannot empty the write-ahead log while closing");
        }
        let Parts {
            connection, lock, ..
        } = self.it;
        if let Err((_, error)) = connection.close() {
            tracing::warn!(%error, "cannot close the database");
        }
        drop(lock);
    }

    fn serve(&mut self, group: Vec<Request>) {
        if let Some(reason) = &self.broken {
            for request in group {
                let error = broken_error(reason);
                answer(request.answer, Err(error));
            }
            return;
        }
        if self.full {
            self.look_for_room();
        }
        let mut group = group;
        for _ in 0..FULL_ATTEMPTS {
            match self.write(group) {
                None => return,
                Some(again) => group = again,
            }
            // The reserve is free now, and the log starts anew in the room it has: what creates nothing may pass.
            self.set_full(true);
            self.it.reserve.free();
            if let Err(error) = database::checkpoint(&self.it.connection, false) {
                tracing::debug!(%error, "cannot empty the log on the full disk");
            }
        }
        tracing::warn!("disk full even without the reserve");
        for request in group {
            answer(request.answer, Err(self.full_error()));
        }
    }

    /// Leaves the full state when the reserve can be made again, if need be from what deleting has freed in the file.
    fn look_for_room(&mut self) {
        if self.it.reserve.is_due() && !self.it.reserve.restore() {
            if let Err(error) = database::shrink(&self.it.connection) {
                tracing::debug!(%error, "cannot shrink the database");
            }
            self.it.reserve.restore();
        }
        if self.it.reserve.is_whole() {
            tracing::info!("there is room again: the reserve is whole");
            self.set_full(false);
        }
    }

    /// Checks and writes a group. Gives back, unanswered, what there was no room for.
    fn write(&mut self, group: Vec<Request>) -> Option<Vec<Request>> {
        let started = Instant::now();
        let mut next = self.it.state.clone();
        let mut done: Vec<(Request, Event)> = Vec::with_capacity(group.len());
        // Refused or without effect. Answered last, so that a refusal is seen with what it lost to.
        let mut others: Vec<(Request, Answer)> = Vec::new();
        for mut request in group {
            if self.full && next.creates(&request.tx) {
                answer(request.answer, Err(self.full_error()));
                continue;
            }
            match next.apply(&mut request.tx) {
                Ok(Some(event)) => done.push((request, event)),
                Ok(None) => others.push((request, Ok(next.revision))),
                Err(error) => others.push((request, Err(error))),
            }
        }
        let written = if done.is_empty() {
            Ok(())
        } else {
            let rows = done.iter().map(|(request, event)| (&request.tx, event));
            database::write_group(&self.it.connection, rows, next.revision)
        };
        let Err(error) = written else {
            self.acknowledge(next, done, others, started);
            return None;
        };
        drop(next);
        // Also those that were refused or change nothing: they were checked on a state that is not to be.
        let group = done.into_iter().map(|(request, _)| request);
        let group = group.chain(others.into_iter().map(|(request, _)| request));
        if is_full(&error) {
            return Some(group.collect());
        }
        self.break_down(&error, group);
        None
    }

    fn acknowledge(
        &mut self,
        next: State,
        done: Vec<(Request, Event)>,
        others: Vec<(Request, Answer)>,
        started: Instant,
    ) {
        let mut events = Vec::with_capacity(done.len());
        let mut answers = Vec::with_capacity(done.len());
        for (request, event) in done {
            answers.push((request.answer, event.revision));
            let bytes = kept_bytes(&event, request.tx.bytes);
            events.push((event, bytes));
        }
        if !events.is_empty() {
            let size = events.len() as u64;
            self.it.counters.batch(size, started.elapsed());
            self.it.state = next;
            self.it.feed.publish(self.it.state.snapshot(), events);
        }
        for (to, revision) in answers {
            answer(to, Ok(revision));
        }
        for (request, result) in others {
            answer(request.answer, result);
        }
    }

    /// After a failure that leaves open what is on the disk: answers so, and writes nothing any more.
    fn break_down(&mut self, error: &rusqlite::Error, group: impl Iterator<Item = Request>) {
        let reason = error.to_string();
        self.it.broken.store(true, Ordering::Release);
        tracing::error!(%error, "the store cannot write any more; reading goes on");
        for request in group {
            let error = CommitError::Backend {
                doing: "write to the database",
                outcome_unknown: true,
                source: reason.clone().into(),
            };
            answer(request.answer, Err(error));
        }
        self.broken = Some(reason);
    }

    fn checkpoint_if_long(&mut self) {
        let wal_bytes = self.wal_pages.load(Relaxed) * self.page_bytes;
        self.it.counters.wal_bytes.store(wal_bytes, Relaxed);
        if wal_bytes < self.it.wal_limit_bytes || self.broken.is_some() {
            return;
        }
        match database::checkpoint(&self.it.connection, false) {
            Ok(()) => {
                self.it.counters.checkpoints.fetch_add(1, Relaxed);
                self.wal_pages.store(0, Relaxed);
            }
            Err(error) if is_full(&error) => {
                // The log keeps everything; only the database cannot grow.
                self.it.reserve.free();
                self.set_full(true);
            }
            Err(error) => {
                tracing::error!(%error, "cannot bring the write-ahead log into the database; the store stops writing");
                self.it.broken.store(true, Ordering::Release);
                self.broken = Some(error.to_string());
            }
        }
    }

    fn set_full(&mut self, full: bool) {
        self.full = full;
        self.it.counters.full.store(u64::from(full), Relaxed);
    }

    fn full_error(&self) -> CommitError {
        CommitError::Full {
            place: self.it.place.clone(),
        }
    }
}

/// Answers; who has gone does not need it.
fn answer(to: oneshot::Sender<Answer>, answer: Answer) {
    drop(to.send(answer));
}

fn broken_error(reason: &str) -> CommitError {
    CommitError::Backend {
        doing: "write: the database failed earlier, restart the server",
        outcome_unknown: false,
        source: reason.to_owned().into(),
    }
}
