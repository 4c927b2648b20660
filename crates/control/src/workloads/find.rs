//! Which workloads there are, and which one is meant.

use model::{DesiredState, HostId, Name, Phase, PoolId, Workload, WorkloadId};
use store::{Row, Snapshot};

use crate::caller::{Action, Caller, Scope};
use crate::core::Control;
use crate::error::{Error, Result};
use crate::kept::Kept;
use crate::observe::known_phase;

impl Control {
    /// Workloads of a pool, newest first, without those being removed.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn workload_list(&self, caller: &Caller, pool: &PoolId) -> Result<Vec<Kept<Workload>>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::WorkloadRead, Scope::Pool(pool))?;
        let mut list: Vec<Kept<Workload>> = visible(&snapshot, pool).map(Kept::from).collect();
        list.sort_by(|a, b| {
            b.created_at
                .cmp(&a.created_at)
                .then_with(|| a.id.cmp(&b.id))
        });
        Ok(list)
    }

    /// A workload by full id, name, or unique beginning of its id; only the pool's own are looked at.
    ///
    /// # Errors
    /// When there is none, or several begin so.
    pub fn workload_find(
        &self,
        caller: &Caller,
        pool: &PoolId,
        reference: &str,
    ) -> Result<Kept<Workload>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::WorkloadRead, Scope::Pool(pool))?;
        find(&snapshot, pool, reference)
    }

    /// The phase as far as can be known now.
    pub fn workload_phase(&self, workload: &Workload) -> Phase {
        known_phase(&self.snapshot(), workload)
    }
}

/// Those of a pool that are not being removed.
fn visible<'a>(snapshot: &'a Snapshot, pool: &PoolId) -> impl Iterator<Item = Row<'a, Workload>> {
    snapshot
        .workloads_of(pool)
        .filter(|workload| workload.desired != DesiredState::Removed)
}

/// A workload of the pool that is not being removed.
pub(crate) fn live<'a>(
    snapshot: &'a Snapshot,
    pool: &PoolId,
    id: &WorkloadId,
) -> Result<Row<'a, Workload>> {
    snapshot
        .workload(id)
        .filter(|workload| workload.pool == *pool && workload.desired != DesiredState::Removed)
        .ok_or_else(|| Error::not_found("container", id.as_str()))
}

fn find(snapshot: &Snapshot, pool: &PoolId, reference: &str) -> Result<Kept<Workload>> {
    let missing = || Error::not_found("container", reference);
    let reference = reference.strip_prefix('/').unwrap_or(reference);
    if let Ok(id) = WorkloadId::parse(reference)
        && let Ok(row) = live(snapshot, pool, &id)
    {
        return Ok(row.into());
    }
    if let Ok(name) = Name::parse(reference)
        && let Some(row) = snapshot.workload_by_name(pool, &name)
        && row.desired != DesiredState::Removed
    {
        return Ok(row.into());
    }
    if reference.is_empty()
        || !reference
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(missing());
    }
    let mut matches = visible(snapshot, pool).filter(|w| w.id.as_str().starts_with(reference));
    match (matches.next(), matches.next()) {
        (Some(row), None) => Ok(row.into()),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "multiple IDs found with provided prefix: {reference}: give more digits"
        ))),
        (None, _) => Err(missing()),
    }
}

/// The host of a workload that runs.
pub(crate) fn running_host(workload: &Workload) -> Result<HostId> {
    let not_running = || Error::conflict(format!("Container {} is not running", workload.id));
    if !workload.status.phase.is_alive() {
        return Err(not_running());
    }
    workload.host.clone().ok_or_else(not_running)
}
