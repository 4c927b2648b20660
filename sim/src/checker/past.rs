//! What happened so far, as far as the checker needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use control::workloads::WaitOutcome;
use model::{DesiredState, HostId, ImageId, Object, RestartPolicy, WorkloadId};
use store::{Change, Event};

/// An answered wait.
#[derive(Debug, Clone)]
pub struct Wait {
    /// For which workload.
    pub id: WorkloadId,
    /// The answer.
    pub outcome: WaitOutcome,
    /// Highest run that was asked for by then.
    pub runs: u64,
}

/// Images of pulls and loads whose users were not told that they worked. A record may have come of each, but nothing
/// was promised.
#[derive(Debug, Clone, Default)]
pub struct Imports(BTreeSet<ImageId>);

impl Imports {
    /// A request begins, or has failed.
    pub fn doubt(&mut self, image: &ImageId) {
        self.0.insert(image.clone());
    }

    /// A user was told that the image is there, whatever became of requests before.
    pub fn done(&mut self, image: &ImageId) {
        self.0.remove(image);
    }

    /// Whether an image may be missing.
    #[must_use]
    pub fn in_doubt(&self, image: &ImageId) -> bool {
        self.0.contains(image)
    }
}

/// What happened so far.
#[derive(Debug, Clone, Default)]
pub struct PastView {
    /// Hosts on which an attempt began: workload, run, restarts by policy before it.
    pub starts: BTreeMap<(WorkloadId, u64, u32), Vec<HostId>>,
    /// Exit codes of attempts.
    pub ends: BTreeMap<WorkloadId, BTreeMap<(u64, u32), i32>>,
    /// Removals that hosts carried out.
    pub removals: BTreeSet<(HostId, WorkloadId)>,
    /// Removals that were asked for.
    pub removals_named: BTreeSet<(HostId, WorkloadId)>,
    /// Images that hosts dropped.
    pub drops: BTreeSet<(HostId, ImageId)>,
    /// Pulls and loads.
    pub imports: Imports,
    /// Images that were named for dropping.
    pub drops_named: BTreeSet<ImageId>,
    /// Restart policies a workload had.
    pub policies: BTreeMap<WorkloadId, Vec<RestartPolicy>>,
    /// Highest run that was asked for.
    pub runs: BTreeMap<WorkloadId, u64>,
    /// Revisions in the order they were heard of: the last two.
    pub revisions: (u64, u64),
    /// Generations in the order hosts named them when they came: the last two.
    pub generations: BTreeMap<HostId, (u64, u64)>,
    /// Exit codes of execs whose streams came to their end.
    pub execs: Vec<(WorkloadId, Option<i32>)>,
    /// Answered waits.
    pub waits: Vec<Wait>,
    /// Workloads that lost power.
    pub lost_power: BTreeSet<HostId>,
    /// Revisions before and after a long time in which nobody asked for anything; only at the end.
    pub idle: Option<(u64, u64)>,
}

/// Shared by whoever sees something happen.
#[derive(Debug, Clone, Default)]
pub struct Past(Arc<Mutex<PastView>>);

impl Past {
    /// Changes or reads it.
    pub fn with<T>(&self, change: impl FnOnce(&mut PastView) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A host greeted with this generation.
    pub fn greeted(&self, host: &HostId, generation: u64) {
        self.with(|past| {
            let (_, last) = past.generations.get(host).copied().unwrap_or_default();
            past.generations.insert(host.clone(), (last, generation));
        });
    }

    /// A host wrote the document of this generation down.
    pub fn accepted(&self, host: &HostId, generation: u64) {
        self.greeted(host, generation);
    }

    /// A commit was made.
    pub fn committed(&self, event: &Event) {
        self.with(|past| {
            past.revisions = (past.revisions.1, event.revision.0);
            for change in event.changes.iter() {
                let Change::Put(versioned) = change else {
                    continue;
                };
                match &versioned.object {
                    Object::Workload(workload) => {
                        let run = past.runs.entry(workload.id.clone()).or_default();
                        *run = (*run).max(workload.run);
                        let policies = past.policies.entry(workload.id.clone()).or_default();
                        if !policies.contains(&workload.spec.restart) {
                            policies.push(workload.spec.restart);
                        }
                        if workload.desired == DesiredState::Removed
                            && let Some(host) = &workload.host
                        {
                            past.removals_named
                                .insert((host.clone(), workload.id.clone()));
                        }
                    }
                    Object::DroppedImage(image) => {
                        past.drops_named.insert(image.id.clone());
                    }
                    Object::Pool(_)
                    | Object::Image(_)
                    | Object::Host(_)
                    | Object::Principal(_)
                    | Object::AccessToken(_)
                    | Object::JoinToken(_)
                    | Object::Setting(_)
                    | Object::Installation(_)
                    | Object::Division(_)
                    | Object::Network(_) => {}
                }
            }
        });
    }
}
