//! Verbs on pools.

use std::collections::{BTreeMap, BTreeSet};

use model::{Capacity, DesiredState, Name, Object, Pool, PoolId, PoolPolicy};
use store::{Snapshot, Transaction};

use crate::caller::{Action, Caller, POOL_DEPTH_MAX, Scope, ancestors};
use crate::core::{Control, now, random};
use crate::error::{Error, Result};
use crate::kept::Kept;
use crate::pki::Subject;

/// What a new pool is to be.
#[derive(Debug, Clone)]
pub struct PoolCreate {
    /// Unique in the installation.
    pub name: Name,
    /// Name or id of the pool above it.
    pub parent: Option<String>,
    /// Free text.
    pub description: String,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// What its tenants may ask for.
    pub policy: PoolPolicy,
    /// What it may use of its parent.
    pub slice: model::Slice,
}

/// What is to change; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct PoolUpdate {
    /// Free text.
    pub description: Option<String>,
    /// Free key-value pairs, as a whole.
    pub labels: Option<BTreeMap<String, String>>,
    /// Policy, as a whole.
    pub policy: Option<PoolPolicy>,
}

/// What a pool holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Workloads.
    pub workloads: u64,
    /// Of these, running or paused.
    pub running: u64,
    /// Of these, paused.
    pub paused: u64,
    /// What they are charged.
    pub charged: Capacity,
    /// Images.
    pub images: u64,
}

/// What a pool could use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolCapacity {
    /// Hosts it may use.
    pub hosts: u64,
    /// Of these, ready.
    pub ready: u64,
    /// CPUs of the ready ones.
    pub cpus: u32,
    /// Capacity of the ready ones less their reserve.
    pub capacity: Capacity,
    /// How cgroups are mounted on the ready ones: `v1`, `hybrid`, `v2`.
    pub cgroups: BTreeSet<String>,
}

/// Credentials for a pool's TLS endpoint. The key is shown once and not kept.
#[derive(Clone)]
pub struct EndpointCredentials {
    /// CA the client checks the server against.
    pub ca_pem: String,
    /// Client certificate.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// `tcp://host:port`.
    pub endpoint: String,
}

impl Control {
    /// Pools the caller may see, by name.
    ///
    /// # Errors
    /// None today; kept for the form of the verbs.
    pub fn pool_list(&self, caller: &Caller) -> Result<Vec<Kept<Pool>>> {
        let snapshot = self.snapshot();
        let mut pools: Vec<Kept<Pool>> = snapshot
            .pools()
            .filter(|pool| {
                crate::caller::authorise(&snapshot, caller, Action::PoolRead, Scope::Pool(&pool.id))
                    .is_ok()
            })
            .map(Kept::from)
            .collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pools)
    }

    /// A pool by name or id.
    ///
    /// # Errors
    /// When there is none, or the caller may not see it.
    pub fn pool_find(&self, caller: &Caller, reference: &str) -> Result<Kept<Pool>> {
        let snapshot = self.snapshot();
        let pool = find(&snapshot, reference)?;
        self.grant(&snapshot, caller, Action::PoolRead, Scope::Pool(&pool.id))
            .map_err(|_| Error::not_found("pool", reference))?;
        Ok(pool)
    }

    /// Makes a pool.
    ///
    /// # Errors
    /// When the name is taken, the parent is missing, or the nesting is too deep.
    pub async fn pool_create(&self, caller: &Caller, create: PoolCreate) -> Result<Kept<Pool>> {
        let snapshot = self.snapshot();
        let parent = create
            .parent
            .as_deref()
            .map(|parent| find(&snapshot, parent))
            .transpose()?;
        let scope = parent
            .as_ref()
            .map_or(Scope::Installation, |parent| Scope::Pool(&parent.id));
        let grant = self.grant(&snapshot, caller, Action::PoolCreate, scope)?;
        if create.policy != PoolPolicy::default() {
            self.grant(&snapshot, caller, Action::PoolPolicy, scope)?;
        }
        if parent
            .as_ref()
            .is_some_and(|p| ancestors(&snapshot, &p.id).count() >= POOL_DEPTH_MAX - 1)
        {
            return Err(Error::invalid(format!(
                "pools can be nested at most {POOL_DEPTH_MAX} deep"
            )));
        }
        let pool = Pool {
            id: PoolId::from_bytes(&random()?),
            name: create.name,
            parent: parent.map(|parent| parent.id.clone()),
            description: create.description,
            labels: create.labels,
            policy: create.policy,
            slice: create.slice,
            created_at: now(),
        };
        let id = pool.id.clone();
        let mut tx = Transaction::new();
        if let Some(parent) = &pool.parent {
            tx = tx.expect(model::Key::Pool(parent.clone()), store::Expect::Exists);
        }
        self.commit(&grant, tx.create(Object::Pool(pool))).await?;
        find(&self.snapshot(), id.as_str())
    }

    /// Changes a pool.
    ///
    /// # Errors
    /// When there is none or the caller may not.
    pub async fn pool_update(
        &self,
        caller: &Caller,
        reference: &str,
        update: PoolUpdate,
    ) -> Result<Kept<Pool>> {
        let snapshot = self.snapshot();
        let pool = self.pool_find(caller, reference)?;
        let action = if update.policy.is_some() {
            Action::PoolPolicy
        } else {
            Action::PoolUpdate
        };
        let grant = self.grant(&snapshot, caller, action, Scope::Pool(&pool.id))?;
        self.change(&grant, |snapshot| {
            let row = snapshot
                .pool(&pool.id)
                .ok_or_else(|| Error::not_found("pool", reference))?;
            let mut changed = row.value().clone();
            if let Some(description) = &update.description {
                changed.description.clone_from(description);
            }
            if let Some(labels) = &update.labels {
                changed.labels.clone_from(labels);
            }
            if let Some(policy) = &update.policy {
                changed.policy.clone_from(policy);
            }
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Pool(changed))),
                (),
            ))
        })
        .await?;
        find(&self.snapshot(), pool.id.as_str())
    }

    /// Deletes an empty pool with its images' records.
    ///
    /// # Errors
    /// When it still has workloads or pools below it; the message names some.
    pub async fn pool_delete(&self, caller: &Caller, reference: &str) -> Result<()> {
        let snapshot = self.snapshot();
        let pool = self.pool_find(caller, reference)?;
        let grant = self.grant(&snapshot, caller, Action::PoolDelete, Scope::Pool(&pool.id))?;
        loop {
            let gone = self
                .change(&grant, |snapshot| {
                    let row = snapshot
                        .pool(&pool.id)
                        .ok_or_else(|| Error::not_found("pool", reference))?;
                    refuse_unless_empty(snapshot, &row)?;
                    let mut tx = Transaction::new();
                    for image in snapshot.images_of(&pool.id).take(IMAGES_AT_ONCE_MAX) {
                        tx = crate::images::forget_image(snapshot, tx, image);
                    }
                    let last = snapshot.images_of(&pool.id).count() <= IMAGES_AT_ONCE_MAX;
                    if last {
                        tx = tx.delete_unchanged(row.revision(), model::Key::Pool(pool.id.clone()));
                    }
                    Ok((Some(tx), last))
                })
                .await?;
            if gone {
                return Ok(());
            }
        }
    }

    /// What a pool holds.
    ///
    /// # Errors
    /// When the caller may not see it.
    pub fn pool_usage(&self, caller: &Caller, pool: &PoolId) -> Result<PoolUsage> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::PoolRead, Scope::Pool(pool))?;
        let mut usage = PoolUsage {
            images: snapshot.images_of(pool).count() as u64,
            ..PoolUsage::default()
        };
        for workload in snapshot
            .workloads_of(pool)
            .filter(|w| w.desired != DesiredState::Removed)
        {
            usage.workloads += 1;
            usage.running += u64::from(workload.status.phase.is_alive());
            usage.paused += u64::from(workload.status.phase == model::Phase::Paused);
            if workload.takes_room() {
                usage.charged = usage.charged.plus(workload.spec.task.resources.charge());
            }
        }
        Ok(usage)
    }

    /// What a pool could use: in this version every host.
    ///
    /// # Errors
    /// When the caller may not see it.
    pub fn pool_capacity(&self, caller: &Caller, pool: &PoolId) -> Result<PoolCapacity> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::PoolRead, Scope::Pool(pool))?;
        let mut sum = PoolCapacity::default();
        for host in snapshot.hosts() {
            sum.hosts += 1;
            if host.status.connected {
                let total = host.status.facts.capacity;
                sum.ready += 1;
                sum.cpus += host.status.facts.cpus;
                sum.cgroups.insert(host.status.facts.cgroup.clone());
                sum.capacity = sum
                    .capacity
                    .plus(total.minus(model::resources::host_reserve(total)));
            }
        }
        Ok(sum)
    }

    /// Issues credentials for a pool's TLS endpoint: whoever holds them is a developer of the pool.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn pool_certificate(
        &self,
        caller: &Caller,
        reference: &str,
        days: i64,
    ) -> Result<EndpointCredentials> {
        let snapshot = self.snapshot();
        let pool = self.pool_find(caller, reference)?;
        let grant = self.grant(&snapshot, caller, Action::PoolAccess, Scope::Pool(&pool.id))?;
        if !(1..=3650).contains(&days) {
            return Err(Error::invalid(
                "credentials can be valid for 1 to 3650 days",
            ));
        }
        tracing::info!(caller = grant.caller, pool = %pool.name, days, "issued endpoint credentials");
        let issued =
            self.authority()
                .issue_client(&Subject::Endpoint(pool.id.clone()), now(), days)?;
        Ok(EndpointCredentials {
            ca_pem: self.authority().ca_pem().to_owned(),
            cert_pem: issued.certificate_pem,
            key_pem: issued.key_pem,
            endpoint: format!("tcp://{}", self.config().address),
        })
    }
}

/// Images forgotten in one transaction: each takes two changes, and a transaction holds 64.
const IMAGES_AT_ONCE_MAX: usize = 25;

fn refuse_unless_empty(snapshot: &Snapshot, pool: &Pool) -> Result<()> {
    let mut children = snapshot
        .pools()
        .filter(|other| other.parent.as_ref() == Some(&pool.id));
    if let Some(child) = children.next() {
        return Err(Error::conflict(format!(
            "pool {} has {} pools below it (for example {}): delete these first",
            pool.name,
            children.count() + 1,
            child.name
        )));
    }
    let mut held = snapshot.workloads_of(&pool.id);
    if let Some(first) = held.next() {
        return Err(Error::conflict(format!(
            "pool {} still has {} workloads (for example {}): remove them first",
            pool.name,
            held.count() + 1,
            first.name
        )));
    }
    Ok(())
}

fn find(snapshot: &Snapshot, reference: &str) -> Result<Kept<Pool>> {
    let by_name = || {
        Name::parse(reference)
            .ok()
            .and_then(|name| snapshot.pool_by_name(&name))
    };
    let by_id = || {
        PoolId::parse(reference)
            .ok()
            .and_then(|id| snapshot.pool(&id))
    };
    by_name()
        .or_else(by_id)
        .map(Kept::from)
        .ok_or_else(|| Error::not_found("pool", reference))
}
