//! The end of a host in its installation: it was removed, and nothing of it is left.
//!
//! What always holds: tasks that were forgotten with their host are left alone and kept as they are wanted; only those
//! that were to be removed anyway still are.

use tracing::warn;

use super::Core;
use super::entry::Entry;

/// Most tasks named in one message.
const NAMED: usize = 10;

/// Why an agent has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, and can be started again.
    Shutdown,
    /// The installation has removed this host; what the drivers made on it is gone.
    Removed,
}

impl Entry {
    /// Whether something of it is on the host, or may be in a moment.
    fn is_here(&self) -> bool {
        self.observed.is_some() || self.network.is_some() || self.job.is_some()
    }
}

impl Core {
    pub(super) fn host_removed(&mut self) {
        if std::mem::replace(&mut self.removed, true) {
            return;
        }
        self.check_copies();
        let left: Vec<&str> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_here())
            .map(|(id, entry)| match &entry.want {
                Some(want) => want.name.as_str(),
                None => id.as_str(),
            })
            .collect();
        if !left.is_empty() {
            warn!(
                tasks = left.len(),
                named = left[..left.len().min(NAMED)].join(", "),
                "this host was removed from its installation and still has tasks: they and their network are left \
                 alone, and the agent ends when none is left"
            );
        }
    }

    /// Whether the host was removed and nothing of it is left.
    pub(super) fn may_leave(&self) -> bool {
        self.removed && !self.entries.values().any(Entry::is_here)
    }
}
