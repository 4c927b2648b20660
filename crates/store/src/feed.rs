//! What readers see: the published snapshot and the recent events.
//!
//! Watchers have no queue of their own: each keeps the revision it has seen and reads on from the one log. A watcher
//! that is slower than the log is kept is told so and costs nothing meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;

use crate::types::{Change, Event, Revision};
use crate::{Snapshot, WatchError};

/// How far back events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Number of events.
    pub events: usize,
    /// Approximate memory they keep alive, in bytes.
    pub bytes: usize,
}

impl Default for HistoryLimits {
    /// Enough for a watcher that sleeps for seconds on a busy cluster, within a few MiB of the server's memory.
    fn default() -> Self {
        Self {
            events: 8192,
            bytes: 8 * 1024 * 1024,
        }
    }
}

/// Events a watcher takes from the log at once.
const WATCH_CHUNK: usize = 64;

/// What one change keeps alive at least, in bytes.
const CHANGE_OVERHEAD_BYTES: usize = 512;

pub(crate) struct Feed {
    current: RwLock<Snapshot>,
    log: Mutex<Log>,
    tip: watch::Sender<Revision>,
    limits: HistoryLimits,
}

struct Log {
    /// Event and what it keeps alive, in bytes.
    events: VecDeque<(Event, usize)>,
    bytes: usize,
    /// Everything after this revision is in `events`.
    floor: Revision,
    /// Nothing will be added any more.
    closed: bool,
}

impl Feed {
    pub(crate) fn new(snapshot: Snapshot, limits: HistoryLimits) -> Arc<Self> {
        let log = Log {
            events: VecDeque::new(),
            bytes: 0,
            floor: snapshot.revision,
            closed: false,
        };
        Arc::new(Self {
            tip: watch::Sender::new(snapshot.revision),
            current: RwLock::new(snapshot),
            log: Mutex::new(log),
            limits,
        })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn revisions(&self) -> watch::Receiver<Revision> {
        self.tip.subscribe()
    }

    /// Shows a new state and the events that led to it, each with the length of its stored forms.
    pub(crate) fn publish(&self, snapshot: Snapshot, events: Vec<(Event, usize)>) {
        let revision = snapshot.revision;
        // The snapshot goes first: who gets an event finds it in the snapshot. The old state is dropped outside the lock.
        let old = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, snapshot)
        };
        drop(old);
        let dropped = self.log().push(events, self.limits);
        drop(dropped);
        self.tip.send_replace(revision);
    }

    /// Shows a new state without the events that led to it: every watcher has to read it.
    pub(crate) fn publish_gap(&self, snapshot: Snapshot) {
        let revision = snapshot.revision;
        // In this order, so that who is told to read a snapshot finds one that can be watched from.
        self.publish(snapshot, Vec::new());
        let mut log = self.log();
        log.bytes = 0;
        log.floor = revision;
        let dropped = std::mem::take(&mut log.events);
        drop(log);
        drop(dropped);
        self.tip.send_modify(|_| {});
    }

    pub(crate) fn close(&self) {
        self.log().closed = true;
        self.tip.send_modify(|_| {});
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.log().closed
    }

    pub(crate) fn watch(self: &Arc<Self>, from: Revision) -> Result<Watch, WatchError> {
        let log = self.log();
        if log.closed {
            return Err(WatchError::Closed);
        }
        if from < log.floor {
            return Err(WatchError::Compacted { oldest: log.floor });
        }
        drop(log);
        Ok(Watch {
            tip: self.tip.subscribe(),
            feed: Arc::clone(self),
            seen: from,
            taken: VecDeque::new(),
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Adds events and returns those that are no longer kept.
    fn push(&mut self, events: Vec<(Event, usize)>, limits: HistoryLimits) -> Vec<Event> {
        for (event, bytes) in events {
            let bytes = bytes + event.changes.len() * CHANGE_OVERHEAD_BYTES;
            self.bytes += bytes;
            self.events.push_back((event, bytes));
        }
        let mut dropped = Vec::new();
        while self.events.len() > limits.events || self.bytes > limits.bytes {
            let Some((event, bytes)) = self.events.pop_front() else {
                break;
            };
            self.bytes -= bytes;
            self.floor = event.revision;
            dropped.push(event);
        }
        dropped
    }

    /// Takes the first events after `seen`, each with the length of its stored forms.
    fn after(&self, seen: Revision, into: &mut VecDeque<(Event, usize)>) -> Result<(), WatchError> {
        if seen < self.floor {
            return Err(WatchError::Lagged { oldest: self.floor });
        }
        let start = self.events.partition_point(|(it, _)| it.revision <= seen);
        let found = self.events.iter().skip(start).take(WATCH_CHUNK);
        into.extend(found.map(|(event, bytes)| {
            let own = bytes.saturating_sub(event.changes.len() * CHANGE_OVERHEAD_BYTES);
            (event.clone(), own)
        }));
        if into.is_empty() && self.closed {
            return Err(WatchError::Closed);
        }
        Ok(())
    }
}

/// Events in revision order; see [`crate::Store::watch`].
pub struct Watch {
    feed: Arc<Feed>,
    tip: watch::Receiver<Revision>,
    seen: Revision,
    taken: VecDeque<(Event, usize)>,
}

impl Watch {
    /// The next event; waits for one. Can be dropped while waiting and called again.
    ///
    /// # Errors
    /// [`WatchError::Lagged`] when events were missed, [`WatchError::Closed`] at the end. Both stay.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        Ok(self.next_sized().await?.0)
    }

    /// The same, with the length of the event's stored forms.
    pub(crate) async fn next_sized(&mut self) -> Result<(Event, usize), WatchError> {
        loop {
            // Marked as seen before looking: what comes after the look wakes the wait.
            self.tip.borrow_and_update();
            if let Some(sized) = self.try_next_sized()? {
                return Ok(sized);
            }
            if self.tip.changed().await.is_err() {
                return Err(WatchError::Closed);
            }
        }
    }

    /// The next event if there is one already.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn try_next(&mut self) -> Result<Option<Event>, WatchError> {
        Ok(self.try_next_sized()?.map(|(event, _)| event))
    }

    fn try_next_sized(&mut self) -> Result<Option<(Event, usize)>, WatchError> {
        if self.taken.is_empty() {
            self.feed.log().after(self.seen, &mut self.taken)?;
        }
        let next = self.taken.pop_front();
        if let Some((event, _)) = &next {
            self.seen = event.revision;
        }
        Ok(next)
    }

    /// The revision of the last event returned, or where the watch began.
    #[must_use]
    pub fn seen(&self) -> Revision {
        self.seen
    }
}

/// The length of the stored forms a transaction's event keeps alive, as far as it matters for the bound.
pub(crate) fn kept_bytes(event: &Event, encoded: usize) -> usize {
    let deletes = event
        .changes
        .iter()
        .filter(|change| matches!(change, Change::Delete { .. }))
        .count();
    // The stored forms of deleted objects are not at hand; most objects are about this long.
    encoded + deletes * 2048
}
