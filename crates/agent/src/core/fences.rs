//! What the owner does about leases: looks again in time, and hands them on to the supervisors of tasks.
//!
//! Supervisors outlive the agent: should it end, they end what has no lease any more. They are told by a task beside the
//! owner. What always holds: a supervisor that does not listen holds up no other; what no server has promised since the
//! agent's start is told to nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::WorkloadId;
use plan::steps::fence;
use tokio::sync::watch;
use tracing::debug;

use super::{Core, chain};
use crate::driver::TaskRuntime;

/// Longest time between two looks at leases: timers stand still while the machine is suspended, leases do not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a supervisor may take to answer, and after how long one that did not is told again: it does nothing else.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(1);

/// Until when tasks may live, by workload, in milliseconds since the start of the machine; `None`: for ever.
pub(super) type Untils = BTreeMap<WorkloadId, Option<u64>>;

impl Core {
    /// Leases count from this moment.
    pub(super) fn leased(&mut self, from: u64) {
        if !self.lease.extend(from) {
            return;
        }
        let fenced: Vec<WorkloadId> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.want.as_ref().is_some_and(|it| it.fence_ms.is_some()))
            .map(|(id, _)| id.clone())
            .collect();
        for id in fenced {
            self.refresh(&id);
        }
    }

    /// Says to the links whether something here lives by leases.
    pub(super) fn tell_need(&self) {
        let mut wants = self.desired.workloads.values();
        self.lease.need(wants.any(|it| it.fence_ms.is_some()));
    }

    /// When to look at leases next.
    pub(super) fn fence_alarm(&self) -> Option<tokio::time::Instant> {
        let (at, _) = self.fence_wakes.first()?;
        let wait = Duration::from_millis(at.saturating_sub(self.clock.since_boot()));
        Some(tokio::time::Instant::now() + wait.min(LOOK_EVERY))
    }

    pub(super) fn ring_fences(&mut self) {
        let now = self.clock.since_boot();
        while let Some((at, id)) = self.fence_wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wake_for_fence(&id, None);
            self.refresh(&id);
        }
    }

    /// Looks at a workload's lease again in so many milliseconds.
    pub(super) fn wake_for_fence(&mut self, id: &WorkloadId, in_ms: Option<u64>) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let at = in_ms.map(|ms| self.clock.since_boot().saturating_add(ms.max(1)));
        if let Some(old) = std::mem::replace(&mut entry.fence_wake, at) {
            self.fence_wakes.remove(&(old, id.clone()));
        }
        if let Some(at) = at {
            self.fence_wakes.insert((at, id.clone()));
        }
    }

    /// Has a task's supervisor told until when it may live.
    pub(super) fn supervise(&self, id: &WorkloadId) {
        let entry = self.entries.get(id);
        let alive = |task: &crate::driver::ObservedTask| task.status.phase.is_alive();
        let living = entry.filter(|entry| entry.observed.as_ref().is_some_and(alive));
        let Some(want) = living.and_then(|entry| entry.want.as_ref()) else {
            // What no document names is not touched: its supervisor keeps what it was told.
            self.untils
                .send_if_modified(|untils| untils.remove(id).is_some());
            return;
        };
        let until = match self.lease.from() {
            Some(from) => fence::supervised_until(want, from),
            None if want.fence_ms.is_none() => None,
            None => return,
        };
        self.untils
            .send_if_modified(|untils| untils.insert(id.clone(), until) != Some(until));
    }
}

/// Tells supervisors.
pub(super) struct Keeper {
    pub(super) runtime: Arc<dyn TaskRuntime>,
    pub(super) untils: watch::Receiver<Untils>,
}

impl Keeper {
    /// Runs until the owner is gone.
    pub(super) async fn run(mut self) {
        let mut told = Untils::new();
        loop {
            let untils = self.untils.borrow_and_update().clone();
            told.retain(|id, _| untils.contains_key(id));
            let runtime = &self.runtime;
            let tell = |(id, until): (WorkloadId, Option<u64>)| async move {
                let call = runtime.fence(&id, until);
                let answer = tokio::time::timeout(SUPERVISOR_LIMIT, call).await;
                (id, until, answer)
            };
            let is_news = |(id, until): &(WorkloadId, Option<u64>)| told.get(id) != Some(until);
            let news = untils.into_iter().filter(is_news).map(tell);
            let answers = futures::future::join_all(news).await;
            let mut all = true;
            for (id, until, answer) in answers {
                match answer {
                    Ok(Ok(())) => {
                        told.insert(id, until);
                        continue;
                    }
                    Ok(Err(e)) => debug!(workload = %id, error = %chain(&e), "lease not handed on"),
                    Err(_) => debug!(workload = %id, "lease not taken in time"),
                }
                all = false;
            }
            let changed = self.untils.changed();
            let over = if all {
                changed.await.is_err()
            } else {
                matches!(
                    tokio::time::timeout(SUPERVISOR_LIMIT, changed).await,
                    Ok(Err(_))
                )
            };
            if over {
                return;
            }
        }
    }
}
