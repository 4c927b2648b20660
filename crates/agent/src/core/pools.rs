//! Keeps the pools' parts of this host in force, and tells what the pools do.
//!
//! A task of its own beside the owner: reclaiming memory may take the kernel seconds. What always holds: the parts of
//! the newest document are tried until they are in force, also after somebody else wrote to the cgroups; a generation
//! is told as applied only when they are. The owner hears of them too: what a limit bounds is started under its part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{HostPool, PoolId, PoolUsage, WorkloadId};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use wire::link::MEASURE_SECONDS;

use super::{Core, Event, chain};
use crate::driver::{ErrorClass, TaskRuntime};
use crate::outbox::Outbox;

/// The parts of pools in one document.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Parts {
    pub(super) generation: u64,
    pub(super) pools: BTreeMap<PoolId, HostPool>,
}

/// See the module.
pub(super) struct Keeper {
    pub(super) runtime: Arc<dyn TaskRuntime>,
    pub(super) outboxes: Vec<Arc<Outbox>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) wanted: watch::Receiver<Parts>,
}

#[derive(Default)]
struct Kept {
    applied: u64,
    pools: BTreeMap<PoolId, HostPool>,
    /// Those that bound what is started, as the owner was told.
    bounding: BTreeMap<PoolId, HostPool>,
    /// What is said while the parts are not in force; said once.
    trouble: Option<String>,
}

impl Keeper {
    /// Runs until the owner is gone.
    pub(super) async fn run(mut self) {
        let mut kept = Kept::default();
        let mut measure = tokio::time::interval(Duration::from_secs(MEASURE_SECONDS));
        measure.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.wanted.mark_changed();
        loop {
            let due = tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                _ = measure.tick() => true,
            };
            let parts = self.wanted.borrow_and_update().clone();
            self.enforce(&mut kept, parts, due).await;
            if due {
                self.tell(kept.applied).await;
            }
        }
    }

    /// `again`: also when nothing changed, since somebody else may have written.
    async fn enforce(&self, kept: &mut Kept, parts: Parts, again: bool) {
        let same = kept.trouble.is_none() && kept.pools == parts.pools;
        let nothing = [&kept.pools, &kept.bounding, &parts.pools]
            .iter()
            .all(|it| it.is_empty());
        if nothing || (same && !again) {
            kept.applied = parts.generation;
            return;
        }
        let stays = |(id, part): (&PoolId, &HostPool)| {
            (parts.pools.get(id) == Some(part)).then(|| (id.clone(), part.clone()))
        };
        let staying = kept.bounding.iter().filter_map(stays).collect();
        self.bound(kept, staying).await;
        let divided = self.runtime.divide(&parts.pools).await;
        // Where more is in use than a part allows, the part before bounds it, and nobody else was given the difference.
        let bounding = match &divided {
            Ok(()) => true,
            Err(e) => e.class == ErrorClass::Conflict,
        };
        if bounding {
            self.bound(kept, parts.pools.clone()).await;
        }
        match divided {
            Ok(()) => {
                if kept.trouble.take().is_some() {
                    info!("the parts of pools are in force");
                }
                let news = kept.pools != parts.pools;
                kept.applied = parts.generation;
                kept.pools = parts.pools;
                if news {
                    for outbox in &self.outboxes {
                        outbox.applied(kept.applied);
                    }
                }
            }
            Err(e) => {
                let trouble = chain(&e);
                if kept.trouble.as_ref() != Some(&trouble) {
                    warn!(error = %trouble, "the parts of pools are not in force yet, trying again");
                }
                kept.trouble = Some(trouble);
            }
        }
    }

    /// Tells the owner what bounds what it starts from now on.
    async fn bound(&self, kept: &mut Kept, pools: BTreeMap<PoolId, HostPool>) {
        if kept.bounding != pools {
            kept.bounding.clone_from(&pools);
            let _ = self.events.send(Event::Parts(pools)).await;
        }
    }

    async fn tell(&self, applied: u64) {
        match self.runtime.measure_pools().await {
            Ok(usage) => {
                for outbox in &self.outboxes {
                    outbox.pools(applied, &usage);
                }
            }
            Err(e) => warn!(error = %chain(&e), "cannot measure the pools"),
        }
    }
}

impl Core {
    /// What waited for its pool's part may start.
    pub(super) fn parts_in_force(&mut self, pools: BTreeMap<PoolId, HostPool>) {
        self.in_force = pools;
        let bounded: Vec<WorkloadId> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.want.as_ref().is_some_and(|it| it.bounded))
            .map(|(id, _)| id.clone())
            .collect();
        for id in bounded {
            self.refresh(&id);
        }
    }
}

/// Use of every pool, for messages.
pub(crate) type Usage = BTreeMap<PoolId, PoolUsage>;
