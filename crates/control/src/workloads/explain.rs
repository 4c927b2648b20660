//! Why a workload is where it is, or why it is pending.

use model::{PoolId, WorkloadId};
use plan::place::Explanation;

use super::find::live;
use crate::caller::{Action, Caller, Scope};
use crate::core::Control;
use crate::error::Result;

/// Why a workload is where it is, and what every host would say to it now.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadExplanation {
    /// The host it is on, by name.
    pub host: Option<String>,
    /// What was said when it was placed.
    pub placement: Option<String>,
    /// Every host judged as if it were placed now.
    pub now: Explanation,
}

impl Control {
    /// Judges every host for a workload, also for one that is placed already.
    ///
    /// # Errors
    /// When there is no such workload, or the caller may not read it.
    pub fn workload_explain(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
    ) -> Result<WorkloadExplanation> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::WorkloadRead, Scope::Pool(pool))?;
        let row = live(&snapshot, pool, id)?;
        let host = row.host.as_ref().and_then(|id| snapshot.host(id));
        Ok(WorkloadExplanation {
            host: host.map(|host| host.name.to_string()),
            placement: row.placement.clone(),
            now: self.inner.placing.explain(&snapshot, &row),
        })
    }
}
