//! Which transactions are written together.
//!
//! Writers that were just answered mostly come back at once with their next transaction. Going on without them would
//! split them into two groups that take turns, each waiting for the other's sync; so they are waited for, for a small
//! part of what the sync costs.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::writer::Request;

/// Most transactions of a group: bounds how long the first waits for the last.
const GROUP_TRANSACTIONS: usize = 256;

/// Most bytes of a group, for the same reason.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Fewer writers than this are not worth waiting for.
const CROWD: usize = 4;

/// The wait is at most this part of the last group's time, and at most this long.
const WAIT_PART: u32 = 4;
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// Remembers the last group, to guess the next.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    last_size: usize,
    last_took: Duration,
}

impl Rhythm {
    /// The request, what else is queued, and what is likely to come within a moment, up to the bounds of a group.
    pub(super) fn gather(
        &self,
        first: Request,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Vec<Request> {
        let mut bytes = first.tx.bytes;
        let mut group = vec![first];
        take_queued(&mut group, &mut bytes, requests);
        // Those that queued while the last group was written, and those that were answered then.
        let expected = (group.len() + self.last_size).min(GROUP_TRANSACTIONS);
        if expected < CROWD {
            return group;
        }
        let wait = (self.last_took / WAIT_PART).min(LONGEST_WAIT);
        let started = Instant::now();
        while group.len() < expected && bytes < GROUP_BYTES && started.elapsed() < wait {
            // A sleep would be longer than most waits.
            std::thread::yield_now();
            take_queued(&mut group, &mut bytes, requests);
        }
        group
    }

    /// Tells how the group went.
    pub(super) fn served(&mut self, size: usize, took: Duration) {
        self.last_size = size;
        self.last_took = took;
    }
}

fn take_queued(
    group: &mut Vec<Request>,
    bytes: &mut usize,
    requests: &mut mpsc::Receiver<Request>,
) {
    while group.len() < GROUP_TRANSACTIONS && *bytes < GROUP_BYTES {
        let Ok(request) = requests.try_recv() else {
            return;
        };
        *bytes += request.tx.bytes;
        group.push(request);
    }
}
