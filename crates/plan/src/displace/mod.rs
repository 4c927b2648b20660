//! Who has to make room for whom.
//!
//! A pool's unused reservation is lent to others; when its owner needs it, borrowers give it back. [`make_room`] decides
//! for a start that no host has room for, [`relieve`] for a host whose pools use more memory than it has. [`pause`] is
//! how long a parked workload waits at least.
//!
//! What always holds: victims are borrowers, that is workloads of pools that take more than their reservation (at every
//! level below the pool they share with whoever needs the room); a workload inside its pool's reservation is never one;
//! leaving out any victim would not be enough.

mod begin;
mod borrow;
mod line;
mod pause;
mod room;
#[cfg(test)]
mod tests;

use model::{HostId, Timestamp, Workload, WorkloadId};

pub use begin::{Begin, begin};
pub use line::{Pressure, relieve};
pub use pause::{GRACE_SECONDS_MAX, grace_seconds, healthy_since, may_move, pause};
pub use room::{Asked, Room, VICTIMS_MAX, is_reserved, make_room};

/// A workload that takes room on a host, as a possible victim.
#[derive(Debug, Clone, Copy)]
pub struct Lodger<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// Its priority in its pool; higher is more important.
    pub priority: i32,
    /// Memory it works with, in bytes; 0: not known.
    pub memory_used: u64,
}

impl Lodger<'_> {
    /// The order in which workloads of equally indebted pools go: the least important first, then the one started
    /// last.
    fn order(&self) -> (i32, std::cmp::Reverse<Timestamp>, &WorkloadId) {
        let started = self.workload.status.started_at;
        let started = started.unwrap_or(self.workload.created_at);
        (self.priority, std::cmp::Reverse(started), &self.workload.id)
    }
}

/// Where a workload runs.
fn host_of<'a>(lodger: &Lodger<'a>) -> Option<&'a HostId> {
    lodger.workload.host.as_ref()
}
