//! Removal, with output and writable files.

use model::{Key, Object, Phase, PoolId, WorkloadId};
use store::Transaction;

use super::find::live;
use super::wait::HOST_LIMIT;
use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, Seen};
use crate::error::{Error, Result};
use crate::observe::mark_removed;

/// How to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Also if it runs: it is killed.
    pub force: bool,
    /// With its anonymous volumes (they always go with it in this version).
    pub volumes: bool,
}

impl Control {
    /// Removes a workload with its output and writable files.
    ///
    /// # Errors
    /// When it runs and `force` is not given.
    pub async fn workload_remove(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        options: RemoveOptions,
    ) -> Result<()> {
        let grant = self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadDelete,
            Scope::Pool(pool),
        )?;
        let wait = self
            .change(&grant, |snapshot| {
                let row = live(snapshot, pool, id)?;
                let lost = row.host.as_ref().is_some_and(|host| snapshot.host(host).is_none());
                let left = row.left.keys().any(|host| snapshot.host(host).is_some());
                if (row.host.is_none() || lost) && !left {
                    return Ok((Some(Transaction::new().delete_unchanged(row.revision(), Key::Workload(id.clone()))), false));
                }
                let active = row.status.phase.is_alive()
                    || (row.takes_room() && !row.status.phase.is_final());
                if active && !options.force {
                    let state = if row.status.phase == Phase::Paused { "paused" } else { "running" };
                    return Err(Error::conflict(format!(
                        "cannot remove container \"/{}\": container is {state}: stop the container before removing or \
                         force remove",
                        row.name
                    )));
                }
                let mut changed = row.value().clone();
                mark_removed(&mut changed);
                if lost {
                    changed.host = None;
                }
                Ok((Some(Transaction::new().update(row.revision(), Object::Workload(changed))), active))
            })
            .await?;
        if wait {
            self.wait_workload(id, Some(HOST_LIMIT), |_, seen| match seen {
                Seen::There(w) if w.status.phase.is_alive() => None,
                Seen::There(_) | Seen::Gone(_) => Some(Ok(())),
            })
            .await?;
        }
        Ok(())
    }
}
