//! What may run on one host only, and for how long it may without the word of a server.
//!
//! The times of a lease count from the moment [`Heard`] speaks of, on a clock that counts on through a suspend and never
//! jumps; so they are ages, not times of day.
//!
//! What always holds: what has no lease is not started; what lives is killed early enough that it is dead before
//! [`HostWorkload::fence_ms`] are over.

use model::{DesiredState, HostWorkload};

/// Of a lease, the part after which a task is asked to stop, in hundredths.
const SIGNAL_PART: u64 = 60;

/// Of a lease, the part after which a task is killed, in hundredths: the rest is for the kernel to end it.
const KILL_PART: u64 = 85;

/// Of a lease, the part after which a task's supervisor kills it if the agent has not, in hundredths.
const SUPERVISOR_PART: u64 = 90;

/// Seconds a task gets between signal and kill when nobody said otherwise.
const GRACE_SECONDS: u32 = super::DEFAULT_GRACE_SECONDS;

/// When a host last had the word of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The newest moment from which leases count is so many milliseconds ago.
    Ago(u64),
    /// Not since the agent was started, so many milliseconds ago. What lives was leased by the agent before, and is
    /// ended by its supervisor when that lease is over; nothing is started.
    NotYet(u64),
}

impl Heard {
    /// Milliseconds since then.
    #[must_use]
    pub fn age(self) -> u64 {
        match self {
            Heard::Ago(ms) | Heard::NotYet(ms) => ms,
        }
    }
}

/// What a workload's lease says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grip {
    /// It needs none.
    Free,
    /// It has one; the next of these says something else in so many milliseconds.
    Held(u64),
    /// It may live for so many milliseconds to come, and must not be started.
    Waiting(u64),
    /// What lives is asked to stop, and killed in so many milliseconds.
    Ending(u64),
    /// What lives is killed.
    Over,
}

/// After how many milliseconds without a word a task is asked to stop, and killed.
fn limits(want: &HostWorkload, fence_ms: u32) -> (u64, u64) {
    let fence = u64::from(fence_ms);
    let kill = fence * KILL_PART / 100;
    let grace = want.spec.task.stop_grace_seconds.unwrap_or(GRACE_SECONDS);
    // A task that stops quickly is not asked earlier than need be.
    let signal = kill.saturating_sub(u64::from(grace) * 1000);
    (signal.max(fence * SIGNAL_PART / 100), kill)
}

pub(super) fn grip(want: &HostWorkload, heard: Heard) -> Grip {
    let Some(fence_ms) = want.fence_ms else {
        return Grip::Free;
    };
    let (signal, kill) = limits(want, fence_ms);
    let age = heard.age();
    if age >= kill {
        Grip::Over
    } else if age >= signal {
        Grip::Ending(kill - age)
    } else {
        match heard {
            Heard::Ago(_) => Grip::Held(signal - age),
            Heard::NotYet(_) => Grip::Waiting(signal - age),
        }
    }
}

/// Whether a workload may be started now, as far as leases go.
#[must_use]
pub fn may_start(want: &HostWorkload, heard: Heard) -> bool {
    match grip(want, heard) {
        Grip::Free | Grip::Held(_) => true,
        Grip::Waiting(_) | Grip::Ending(_) | Grip::Over => false,
    }
}

/// Until when a workload's supervisor lets its task live without hearing more, given the moment from which its lease
/// counts, in milliseconds of the same clock; `None`: for ever.
#[must_use]
pub fn supervised_until(want: &HostWorkload, leased_from: u64) -> Option<u64> {
    let fence = u64::from(want.fence_ms?);
    Some(leased_from.saturating_add(fence * SUPERVISOR_PART / 100))
}

/// Why a task was ended.
pub(super) fn ended_text(silent_ms: u64) -> String {
    let seconds = silent_ms.saturating_add(500) / 1000;
    format!("stopped: no server was heard for {seconds} s, and it may run on one host only")
}

/// Why a task is not started.
pub(super) const WAITING: &str = "waiting for a server to be heard: it may run on one host only";

/// Whether the document wants it to live.
pub(super) fn is_wanted(want: &HostWorkload) -> bool {
    match want.desired {
        DesiredState::Running | DesiredState::Paused => true,
        DesiredState::Created | DesiredState::Stopped { .. } | DesiredState::Removed => false,
    }
}

#[cfg(test)]
mod tests;
