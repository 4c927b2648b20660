//! Hosts that are lost, and what is started elsewhere because of it.

use model::{HostLoss, PoolId, Workload};
use store::Snapshot;

use crate::caller::ancestors;

/// What a pool, or the nearest pool above that says anything, says of lost hosts.
pub(crate) fn of_pool(snapshot: &Snapshot, pool: &PoolId) -> Option<HostLoss> {
    ancestors(snapshot, pool).find_map(|id| snapshot.pool(&id)?.slice.on_host_loss)
}

/// What becomes of a workload whose host is lost.
pub(crate) fn answer(snapshot: &Snapshot, workload: &Workload) -> HostLoss {
    plan::loss::answer(&workload.spec, of_pool(snapshot, &workload.pool))
}
