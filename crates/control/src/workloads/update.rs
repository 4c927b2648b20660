//! What of a workload can change: its name, its limits, its restart policy.

use model::workload::{Resources, RestartPolicy};
use model::{Claim, Name, Object, PoolId, Workload, WorkloadId};
use store::Transaction;

use super::create::{admit, fill_defaults};
use super::find::live;
use crate::admission::Step;
use crate::caller::{Action, Caller, Scope};
use crate::core::Control;
use crate::error::{Error, Result};

/// What is to change; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct WorkloadUpdate {
    /// Limits, as a whole.
    pub resources: Option<Resources>,
    /// Restart policy.
    pub restart: Option<RestartPolicy>,
}

impl Control {
    /// Gives a workload another name.
    ///
    /// # Errors
    /// When the name is taken.
    pub async fn workload_rename(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        name: Name,
    ) -> Result<()> {
        let grant = self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        self.change(&grant, |snapshot| {
            let row = live(snapshot, pool, id)?;
            if row.name == name {
                return Err(Error::invalid(
                    "Renaming a container with the same name as its current name",
                ));
            }
            let changed = Workload {
                name: name.clone(),
                ..row.value().clone()
            };
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Workload(changed))),
                (),
            ))
        })
        .await
    }

    /// Changes limits or restart policy; a running task feels it at once.
    ///
    /// # Errors
    /// When form or policy do not allow it.
    pub async fn workload_update(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        update: WorkloadUpdate,
    ) -> Result<()> {
        let grant = self.grant(
            &self.snapshot(),
            caller,
            Action::WorkloadControl,
            Scope::Pool(pool),
        )?;
        self.change_admitted(&grant, |snapshot| {
            let row = live(snapshot, pool, id)?;
            let mut changed = row.value().clone();
            if let Some(resources) = &update.resources {
                changed.spec.task.resources.clone_from(resources);
            }
            if let Some(restart) = update.restart {
                if changed.spec.auto_remove && restart != RestartPolicy::No {
                    return Err(Error::conflict(
                        "a restart policy cannot be set together with auto-remove",
                    ));
                }
                changed.spec.restart = restart;
            }
            fill_defaults(snapshot, pool, &mut changed.spec);
            admit(snapshot, pool, &changed.spec)?;
            if changed == *row.value() {
                return Ok((None, ()));
            }
            let claim = Claim::of(&changed);
            let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
            Ok((Some(Step::new(tx, id.clone(), claim)), ()))
        })
        .await
    }
}
