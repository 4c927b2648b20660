//! How long what may run on one host only may go on: the moment from which leases count, and the heartbeats it comes
//! from.
//!
//! What it is not: it decides nothing; `plan::steps::fence` does. `wire::link` says why leases can be relied on.
//!
//! What always holds: the moment only moves forward; an agent that was just started has none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plan::steps::Heard;
use tokio::sync::watch;
use wire::link::{FromHost, HEARTBEAT_SECONDS, LEASE_SECONDS};

use crate::clock::Clock;

/// Heartbeats that may be unanswered: many more than go out before a silent link is cut.
const UNANSWERED: usize = 64;

/// What the host knows of its lease, for everybody in the agent.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: Clock,
    /// When the agent was started.
    began: u64,
    /// The moment from which leases count; 0: none. Both in milliseconds since the start of the machine.
    from: AtomicU64,
    /// Whether something here lives by it.
    needed: watch::Sender<bool>,
}

impl Lease {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            began: clock.since_boot(),
            from: AtomicU64::new(0),
            needed: watch::Sender::new(false),
        }
    }

    /// Leases count from this moment, unless they count from a later one already. Whether that is news.
    pub(crate) fn extend(&self, from: u64) -> bool {
        self.from.fetch_max(from, Ordering::Relaxed) < from
    }

    /// The moment from which leases count; `None`: no server was heard yet.
    pub(crate) fn from(&self) -> Option<u64> {
        Some(self.from.load(Ordering::Relaxed)).filter(|from| *from > 0)
    }

    /// How long ago that is.
    pub(crate) fn heard(&self) -> Heard {
        let now = self.clock.since_boot();
        match self.from() {
            Some(from) => Heard::Ago(now.saturating_sub(from)),
            None => Heard::NotYet(now.saturating_sub(self.began)),
        }
    }

    /// Says whether something here lives by it.
    pub(crate) fn need(&self, needed: bool) {
        self.needed
            .send_if_modified(|known| std::mem::replace(known, needed) != needed);
    }

    /// Whether something here lives by it, and changes of that.
    pub(crate) fn needed(&self) -> watch::Receiver<bool> {
        self.needed.subscribe()
    }

    /// The heartbeats of a new session.
    pub(crate) fn beats(&self) -> Beats {
        Beats {
            clock: self.clock,
            number: 0,
            sent: VecDeque::new(),
        }
    }
}

/// Time between heartbeats.
pub(crate) fn period(needed: bool) -> Duration {
    Duration::from_secs(if needed {
        LEASE_SECONDS
    } else {
        HEARTBEAT_SECONDS
    })
}

/// The heartbeats of one session.
#[derive(Debug)]
pub(crate) struct Beats {
    clock: Clock,
    number: u64,
    /// Those that were not answered yet, each with when it was sent.
    sent: VecDeque<(u64, u64)>,
}

impl Beats {
    /// The next one, sent now.
    pub(crate) fn next(&mut self) -> FromHost {
        self.number += 1;
        if self.sent.len() == UNANSWERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.number, self.clock.since_boot()));
        FromHost::Heartbeat {
            number: self.number,
        }
    }

    /// An answer came: the moment from which a lease counts, if it brings one.
    pub(crate) fn answered(&mut self, number: u64, fresh_ms: Option<u64>) -> Option<u64> {
        let at = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, when) = self.sent.drain(..=at).next_back()?;
        Some(when.saturating_sub(fresh_ms?))
    }
}

#[cfg(test)]
mod tests {
    use model::Timestamp;

    use super::*;

    fn number(beat: FromHost) -> u64 {
        match beat {
            FromHost::Heartbeat { number } => number,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_counts_from_when_its_heartbeat_was_sent_and_what_the_server_knew() {
        let clock = Clock::tokio(Timestamp(0));
        let lease = Lease::new(clock);
        let began = clock.since_boot();
        let second = || tokio::time::advance(Duration::from_secs(1));
        let mut beats = lease.beats();
        second().await;
        let first = number(beats.next());
        second().await;
        let next = number(beats.next());
        assert_eq!((first, next), (1, 2));
        assert_eq!(lease.heard(), Heard::NotYet(2000));
        second().await;
        let from = beats.answered(first, Some(300)).unwrap();
        assert_eq!(from, began + 1000 - 300);
        assert!(lease.extend(from) && !lease.extend(from));
        assert_eq!(lease.heard(), Heard::Ago(2300));
        // One answer stands for all before it; what was not asked is not answered.
        assert_eq!(beats.answered(first, Some(0)), None);
        assert_eq!(beats.answered(3, Some(0)), None);
        assert_eq!(beats.answered(0, Some(0)), None);
        assert_eq!(beats.answered(next, None), None, "no promise");
        assert_eq!(beats.answered(next, Some(0)), None, "answered before");
        assert!(!lease.extend(from - 1), "it never goes back");
        assert_eq!(lease.heard(), Heard::Ago(2300));
    }

    #[test]
    fn unanswered_heartbeats_are_bounded() {
        let lease = Lease::new(Clock::System);
        let mut beats = lease.beats();
        for _ in 0..10 * UNANSWERED {
            beats.next();
        }
        assert_eq!(beats.sent.len(), UNANSWERED);
        let last = 10 * UNANSWERED as u64;
        assert!(beats.answered(last, Some(0)).is_some());
        assert!(beats.sent.is_empty());
    }
}
