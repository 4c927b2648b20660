//! What happened, in order: a bounded tail for people and a hash of everything for comparison.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use model::{Object, WorkloadId};
use store::{Change, Event};
use tokio::time::Instant;

use crate::link::short;

/// Lines kept.
const TAIL: usize = 50;

#[derive(Debug)]
struct Inner {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
    began: Instant,
    print: bool,
}

/// Shared by all parts of a simulation.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

impl Trace {
    /// An empty trace, beginning now; with `print`, every line goes to standard error at once.
    #[must_use]
    pub fn new(print: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: 0,
            tail: VecDeque::new(),
            began: Instant::now(),
            print,
        })))
    }

    /// Adds a line.
    pub fn line(&self, text: impl AsRef<str>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!(
            "{:>9.3} {}",
            inner.began.elapsed().as_secs_f64(),
            text.as_ref()
        );
        for byte in line.bytes() {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        inner.lines += 1;
        if inner.print {
            eprintln!("{line}");
        }
        if inner.tail.len() == TAIL {
            inner.tail.pop_front();
        }
        inner.tail.push_back(line);
    }

    /// Hash of all lines.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hash
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tail.iter().cloned().collect()
    }
}

fn brief(id: &WorkloadId) -> String {
    id.as_str().chars().take(6).collect()
}

/// A change for people.
pub(crate) fn described(event: &Event, change: &Change) -> String {
    let revision = event.revision;
    let object = match change {
        Change::Put(versioned) => &versioned.object,
        Change::Delete { key, .. } => return format!("{revision} delete {key}"),
    };
    match object {
        Object::Workload(w) => format!(
            "{revision} workload {} {} {:?} run {} on {}{} is {:?} run {} restarts {} code {} {}",
            brief(&w.id),
            w.name,
            w.desired,
            w.run,
            w.host.as_ref().map_or_else(|| "none".to_owned(), short),
            circumstances(w),
            w.status.phase,
            w.status.run,
            w.status.restart_count,
            w.status.exit_code,
            w.status.error,
        ),
        Object::Host(h) => format!(
            "{revision} host {} connected {} lost {} cordoned {} drain {:?} images {}",
            short(&h.id),
            h.status.connected,
            h.status.lost_at.is_some(),
            h.cordoned,
            h.drain.map(|drain| drain.stop_rest),
            h.status.images.len()
        ),
        Object::Division(it) => {
            let limits: Vec<String> = it
                .pools
                .iter()
                .map(|(pool, part)| {
                    let brief: String = pool.as_str().chars().take(6).collect();
                    format!(
                        "{brief} {:?} {:?}",
                        part.cpu_limit.map(|it| it.0),
                        part.memory_limit.map(|it| it.0)
                    )
                })
                .collect();
            format!(
                "{revision} division {}: {}",
                short(&it.host),
                limits.join(", ")
            )
        }
        other => format!("{revision} {}", other.key()),
    }
}

/// What keeps a workload, and where something of it may be left.
fn circumstances(workload: &model::Workload) -> String {
    let hold = workload.hold.as_ref();
    let hold = hold.map(|hold| format!(" {:?} ({})", hold.kind, hold.reason));
    let left: Vec<String> = workload.left.keys().map(short).collect();
    let left = (!left.is_empty()).then(|| format!(" left {}", left.join(" ")));
    [hold, left].into_iter().flatten().collect()
}
