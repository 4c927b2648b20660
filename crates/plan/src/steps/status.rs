//! What a host reports of a workload.

use model::{DesiredState, HostWorkload, Phase, TaskStatus};

use super::fence::{self, Grip};
use super::parts;
use super::{End, Memory, Seen};

/// The status to report; `None`: nothing of it is left.
pub(super) fn status(
    want: &HostWorkload,
    seen: Seen<'_>,
    memory: &Memory,
    grip: Grip,
) -> Option<TaskStatus> {
    if want.desired == DesiredState::Removed && memory.removed {
        return None;
    }
    let mut status = match seen.task {
        Some(task) if task.phase.is_alive() => TaskStatus {
            error: memory.error.clone(),
            ..task.clone()
        },
        _ => not_alive(memory),
    };
    let to_start = fence::is_wanted(want) && !memory.settled && !status.phase.is_alive();
    if to_start && status.error.is_empty() {
        status.error = match grip {
            Grip::Waiting(_) | Grip::Ending(_) | Grip::Over => fence::WAITING.to_owned(),
            Grip::Free | Grip::Held(_) if !parts::are_there(want, seen.parts) => {
                parts::WAITING.to_owned()
            }
            Grip::Free | Grip::Held(_) => String::new(),
        };
    }
    if status.phase.is_alive()
        && let Some(network) = seen.network
    {
        status.network = network.clone();
    }
    Some(status)
}

fn not_alive(memory: &Memory) -> TaskStatus {
    let base = TaskStatus {
        run: memory.run,
        restart_count: memory.attempt,
        error: memory.error.clone(),
        ..TaskStatus::default()
    };
    let Some(end) = &memory.end else { return base };
    let ended = with_end(base, end);
    if memory.settled {
        // An attempt that was cut off while it waited is not one more restart.
        let phase = if end.failed {
            Phase::Failed
        } else {
            Phase::Exited
        };
        TaskStatus {
            phase,
            restart_count: end.attempt,
            error: end.error.clone(),
            ..ended
        }
    } else {
        let error = if memory.error.is_empty() {
            &end.error
        } else {
            &memory.error
        };
        TaskStatus {
            phase: Phase::Restarting,
            error: error.clone(),
            ..ended
        }
    }
}

fn with_end(base: TaskStatus, end: &End) -> TaskStatus {
    TaskStatus {
        exit_code: end.exit_code,
        oom_killed: end.oom_killed,
        fenced: end.fenced,
        started_at: end.started_at,
        finished_at: end.finished_at,
        ..base
    }
}
