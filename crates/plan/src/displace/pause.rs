//! How long who was parked waits, who was moved stays, and how long it may take to end.

use model::{Displaced, Timestamp, Workload};

/// Least wait of a workload that is parked for the first time: the owner's need is often short.
const FIRST_MS: i64 = 10_000;

/// Longest wait: after it, room that came back is used within minutes.
const LONGEST_MS: i64 = 10 * 60 * 1000;

/// Who ran so long since it was parked last starts with a short wait again.
const HEALTHY_MS: i64 = 30 * 60 * 1000;

/// Longest time between stop signal and kill of a workload whose room is reclaimed, in seconds: memory is to be back
/// with its owner within ten seconds, measuring and deciding included.
pub const GRACE_SECONDS_MAX: u32 = 5;

/// Docker's number.
const GRACE_SECONDS: u32 = 10;

/// How a workload that is parked now was displaced so far, this time included, and the moment before which it is not
/// started again: the pause doubles with every time, so that giving back and taking again cannot go in circles.
#[must_use]
pub fn pause(before: Displaced, now: Timestamp) -> (Displaced, Timestamp) {
    let parks = if healthy_since(before, now) {
        0
    } else {
        before.parks
    };
    let wait = FIRST_MS
        .saturating_mul(1_i64 << parks.min(16))
        .min(LONGEST_MS);
    let after = Displaced {
        parks: parks.saturating_add(1),
        parked_at: Some(now),
        ..before
    };
    (after, now.plus_millis(wait))
}

/// Whether it has run so long since it was parked last that this does not count any more.
#[must_use]
pub fn healthy_since(before: Displaced, now: Timestamp) -> bool {
    before
        .parked_at
        .is_none_or(|at| at.plus_millis(HEALTHY_MS) <= now)
}

/// Who was moved so long ago may be moved again to make room for others: until then its new place is to be of use, and
/// moves cannot go in circles.
const MOVED_MS: i64 = 5 * 60 * 1000;

/// Whether a workload may be moved to make room, by when it was moved last.
#[must_use]
pub fn may_move(before: Displaced, now: Timestamp) -> bool {
    before
        .moved_at
        .is_none_or(|at| at.plus_millis(MOVED_MS) <= now)
}

/// How long a victim may take to end after its stop signal, in seconds: its own time, but no more than
/// [`GRACE_SECONDS_MAX`].
#[must_use]
pub fn grace_seconds(workload: &Workload) -> u32 {
    let own = workload.spec.task.stop_grace_seconds;
    own.unwrap_or(GRACE_SECONDS).min(GRACE_SECONDS_MAX)
}
