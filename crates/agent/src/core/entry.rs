//! One workload in the owner's eyes.

use std::sync::Arc;

use model::{HostWorkload, Phase, TaskStatus, Timestamp};
use plan::steps::{Memory, Parts, Seen};
use tokio_util::sync::CancellationToken;

use crate::driver::{NetworkAttachment, ObservedTask};

/// A job that runs for a workload.
pub(super) struct RunningJob {
    pub(super) cancel: CancellationToken,
    pub(super) task: tokio::task::Id,
}

/// What is wanted, seen, remembered, done and said of a workload.
#[derive(Default)]
pub(super) struct Entry {
    /// `None`: the document does not name it.
    pub(super) want: Option<Arc<HostWorkload>>,
    pub(super) observed: Option<ObservedTask>,
    pub(super) network: Option<NetworkAttachment>,
    pub(super) memory: Memory,
    pub(super) job: Option<RunningJob>,
    pub(super) wake: Option<Timestamp>,
    /// When to look at its lease again, in milliseconds since the start of the machine.
    pub(super) fence_wake: Option<u64>,
    /// What was reported last; `None`: nothing yet.
    pub(super) reported: Option<Option<TaskStatus>>,
    /// Progress of fetching its image.
    pub(super) progress: String,
    /// The owner's counter when `observed` last changed.
    pub(super) version: u64,
}

impl Entry {
    pub(super) fn seen<'a>(&'a self, parts: Parts<'a>) -> Seen<'a> {
        Seen {
            task: self.observed.as_ref().map(|t| &t.status),
            network: self.network.as_ref().map(|n| &n.status),
            parts: Some(parts),
        }
    }

    pub(super) fn with_progress(&self, mut status: TaskStatus) -> TaskStatus {
        if !self.progress.is_empty() && matches!(status.phase, Phase::Pending | Phase::Restarting) {
            if status.phase == Phase::Pending {
                status.phase = Phase::Preparing;
            }
            status.progress.clone_from(&self.progress);
        }
        status
    }

    /// Takes what the runtime says, unless it is older than what is known: events and results of steps come on
    /// different ways and may overtake each other.
    pub(super) fn observe(&mut self, task: ObservedTask, version: u64) -> bool {
        let outdated = self
            .observed
            .as_ref()
            .is_some_and(|known| order(&known.status) > order(&task.status));
        if outdated || self.observed.as_ref() == Some(&task) {
            return false;
        }
        self.observed = Some(task);
        self.version = version;
        true
    }
}

/// Later states of a task are larger.
fn order(status: &TaskStatus) -> (u64, u32, u8) {
    let phase = match status.phase {
        Phase::Pending | Phase::Preparing => 0,
        Phase::Running | Phase::Paused => 1,
        Phase::Restarting | Phase::Exited | Phase::Failed | Phase::Unknown => 2,
    };
    (status.run, status.restart_count, phase)
}
