//! A workload is made; nothing runs yet.

use model::workload::NetworkMode;
use model::{
    Claim, DesiredState, Key, Name, Object, PoolId, TaskStatus, Workload, WorkloadId, WorkloadSpec,
};
use store::{CommitError, Expect, Snapshot, Transaction};

use crate::admission::{AdmitError, Step, TURN_TRIES, installation};
use crate::caller::{Action, Caller, Grant, Scope, ancestors};
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
        let mut spec = spec;
        fill_defaults(&snapshot, pool, &mut spec);
        admit(&snapshot, pool, &spec)?;
        if snapshot.image(pool, &spec.task.image_id).is_none() {
            return Err(Error::not_found("image", &spec.task.image));
        }
        if let NetworkMode::Workload { id } = &spec.network {
            self.workload_get(&snapshot, pool, id)?;
        }
        let endpoints = crate::networks::endpoints(&snapshot, pool, &spec)?;
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
            endpoints,
            hold: None,
            left: Default::default(),
            displaced: Default::default(),
            status: TaskStatus::default(),
            created_at: now(),
        };
        let tx = Transaction::new()
            .expect(Key::Pool(pool.clone()), Expect::Exists)
            .expect(image_key, Expect::Exists)
            .create(Object::Workload(workload.clone()));
        match self.commit_created(&grant, tx, &workload).await {
            Ok(()) => {}
            Err(AdmitError::Commit(CommitError::NameTaken { holder, .. })) => {
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

    /// Commits a new workload when its pool has room; again if meanwhile another server had its turn.
    async fn commit_created(
        &self,
        grant: &Grant,
        tx: Transaction,
        workload: &Workload,
    ) -> std::result::Result<(), AdmitError> {
        let mut tries = 0;
        loop {
            self.take_turn().await.map_err(AdmitError::Other)?;
            let snapshot = self.snapshot();
            let step = Step::new(tx.clone(), workload.id.clone(), Claim::of(workload));
            match self.commit_admitted(grant, &snapshot, step).await {
                Ok(_) => return Ok(()),
                Err(AdmitError::OutOfTurn) if tries < TURN_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
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

/// Fills in what is not given: from the pool, the pools above it, and last from the installation.
pub(super) fn fill_defaults(snapshot: &Snapshot, pool: &PoolId, spec: &mut WorkloadSpec) {
    let defaults = ancestors(snapshot, pool)
        .filter_map(|id| Some(snapshot.pool(&id)?.slice.defaults))
        .reduce(model::WorkloadDefaults::or)
        .unwrap_or_default()
        .or(installation(snapshot).defaults);
    spec.task.resources.fill(&defaults);
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
