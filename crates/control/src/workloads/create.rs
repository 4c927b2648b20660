//! A workload is made; nothing runs yet.

use model::workload::NetworkMode;
use model::{
    DesiredState, Key, Name, Object, PoolId, TaskStatus, Workload, WorkloadId, WorkloadSpec,
};
use store::{Expect, Snapshot, Transaction};

use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, now, random};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;

/// Workloads of one pool: bounds what a runaway client can create.
const WORKLOADS_PER_POOL_MAX: usize = 100_000;

impl Control {
    /// Makes a workload. Nothing runs yet.
    ///
    /// # Errors
    /// When form or policy do not allow it, the image is missing, or the name is taken.
    pub async fn workload_create(
        &self,
        caller: &Caller,
        pool: &PoolId,
        name: Option<Name>,
        spec: WorkloadSpec,
    ) -> Result<Kept<Workload>> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::WorkloadCreate, Scope::Pool(pool))?;
        admit(&snapshot, pool, &spec)?;
        if snapshot.image(pool, &spec.task.image_id).is_none() {
            return Err(Error::not_found("image", &spec.task.image));
        }
        if let NetworkMode::Workload { id } = &spec.network {
            self.workload_get(&snapshot, pool, id)?;
        }
        if snapshot
            .workloads_of(pool)
            .take(WORKLOADS_PER_POOL_MAX)
            .count()
            >= WORKLOADS_PER_POOL_MAX
        {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the pool has {WORKLOADS_PER_POOL_MAX} workloads already: remove some first"
                ),
            ));
        }
        let random_bytes = random()?;
        let id = WorkloadId::from_bytes(&random_bytes);
        let name = match name {
            Some(name) => name,
            None => self.free_name(&snapshot, pool)?,
        };
        let image_key = Key::Image(pool.clone(), spec.task.image_id.clone());
        let workload = Workload {
            id: id.clone(),
            pool: pool.clone(),
            name: name.clone(),
            spec,
            desired: DesiredState::Created,
            run: 0,
            host: None,
            placement: None,
            gpus: Vec::new(),
            status: TaskStatus::default(),
            created_at: now(),
        };
        let tx = Transaction::new()
            .expect(Key::Pool(pool.clone()), Expect::Exists)
            .expect(image_key, Expect::Exists)
            .create(Object::Workload(workload));
        match self.commit(&grant, tx).await {
            Ok(_) => {}
            Err(store::CommitError::NameTaken { holder, .. }) => {
                let holder = match &holder {
                    Key::Workload(id) => id.to_string(),
                    other => other.to_string(),
                };
                return Err(Error::conflict(format!(
                    "the name \"/{name}\" is already in use by container \"{holder}\": remove or rename that one, or \
                     use another name"
                )));
            }
            Err(error) => return Err(error.into()),
        }
        self.workload_get(&self.snapshot(), pool, &id)
    }

    fn free_name(&self, snapshot: &Snapshot, pool: &PoolId) -> Result<Name> {
        for _ in 0..64 {
            let text = crate::names::friendly(&random()?);
            let name =
                Name::parse(&text).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
            if snapshot.workload_by_name(pool, &name).is_none() {
                return Ok(name);
            }
        }
        Err(Error::conflict("no free name was found: give one"))
    }
}

/// Whether form and the policy of its pool allow a workload.
pub(super) fn admit(snapshot: &Snapshot, pool: &PoolId, spec: &WorkloadSpec) -> Result<()> {
    let pool = snapshot
        .pool(pool)
        .ok_or_else(|| Error::not_found("pool", pool.as_str()))?;
    plan::admit::admit(spec, &pool.policy).map_err(|refusal| {
        let kind = if refusal.policy {
            ErrorKind::Forbidden
        } else {
            ErrorKind::Invalid
        };
        Error::new(kind, refusal.to_string())
    })
}
