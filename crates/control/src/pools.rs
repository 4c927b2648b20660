//! Verbs on pools.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Capacity, Charge, DesiredState, Installation, Name, Object, Pool, PoolId, PoolPolicy, Slice,
};
use plan::pools::Node;
use store::{Snapshot, Transaction};

use crate::admission::{TURN_TRIES, installation, tree_of};
use crate::caller::{Action, Caller, Grant, POOL_DEPTH_MAX, Scope, ancestors};
use crate::core::{Control, Seen, now, random};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;
use crate::pki::Subject;

/// How long a pool's deletion waits for workloads that are being removed: a host needs a second or two, a busy one more.
const REMOVAL_WAIT: std::time::Duration = std::time::Duration::from_secs(20);

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
    pub slice: Slice,
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
    /// What it may use of its parent, as a whole.
    pub slice: Option<Slice>,
    /// Name or id of another pool to be in; `Some(None)`: directly in the installation.
    pub parent: Option<Option<String>>,
    /// The revision the caller has seen; if it is another one by now, nothing is changed.
    pub revision: Option<u64>,
}

/// A pool in absolute numbers, and what it is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStanding {
    /// The numbers.
    pub node: Node,
    /// What its own workloads are charged.
    pub own: Charge,
    /// The same with everything below it.
    pub sum: Charge,
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
    /// When the name is taken, the parent is missing, the nesting is too deep, or what it is to have does not fit.
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
        self.reshape(&grant, |snapshot| {
            self.check_shape(snapshot, caller, &pool)?;
            let mut tx = crate::networks::with_default_network(snapshot, &pool)?;
            if let Some(parent) = &pool.parent {
                tx = tx.expect(model::Key::Pool(parent.clone()), store::Expect::Exists);
            }
            Ok(Some(tx.create(Object::Pool(pool.clone()))))
        })
        .await?;
        find(&self.snapshot(), pool.id.as_str())
    }

    /// Changes a pool; what it may use changes at once.
    ///
    /// # Errors
    /// When there is none, the caller may not, it was changed since the revision the caller has seen, or what it is to
    /// have does not fit.
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
        let parent = match &update.parent {
            None => None,
            Some(None) => Some(None),
            Some(Some(parent)) => {
                let parent = self.pool_find(caller, parent)?;
                Some(Some(parent.id.clone()))
            }
        };
        self.reshape(&grant, |snapshot| {
            let row = snapshot
                .pool(&pool.id)
                .ok_or_else(|| Error::not_found("pool", reference))?;
            if update.revision.is_some_and(|seen| seen != row.revision().0) {
                return Err(Error::conflict(format!(
                    "pool {} was changed by someone else meanwhile: look at it again, and repeat what is still right",
                    row.name
                )));
            }
            let changed = changed(row.value(), &update, parent.as_ref());
            if changed == *row.value() {
                return Ok(None);
            }
            self.authorise_slice(snapshot, caller, row.value(), &changed)?;
            if (&changed.slice, &changed.parent) != (&row.slice, &row.parent) {
                self.check_shape(snapshot, caller, &changed)?;
            }
            let tx = Transaction::new().update(row.revision(), Object::Pool(changed));
            Ok(Some(tx))
        })
        .await?;
        find(&self.snapshot(), pool.id.as_str())
    }

    /// What a change of pools would come to: checked as if it were made, but nothing is changed.
    ///
    /// # Errors
    /// As making the change.
    pub fn pool_update_check(
        &self,
        caller: &Caller,
        reference: &str,
        update: &PoolUpdate,
    ) -> Result<()> {
        let snapshot = self.snapshot();
        let pool = self.pool_find(caller, reference)?;
        let parent = match &update.parent {
            None => None,
            Some(None) => Some(None),
            Some(Some(parent)) => Some(Some(self.pool_find(caller, parent)?.id.clone())),
        };
        let changed = changed(&pool, update, parent.as_ref());
        self.authorise_slice(&snapshot, caller, &pool, &changed)?;
        self.check_shape(&snapshot, caller, &changed)
    }

    /// Decides on a change of the pool tree and commits it: one at a time, and in this server's turn, so that two changes
    /// never count on the same room.
    async fn reshape(
        &self,
        grant: &Grant,
        mut decide: impl FnMut(&Snapshot) -> Result<Option<Transaction>>,
    ) -> Result<()> {
        let _one_at_a_time = self.inner.admissions.reshaping.lock().await;
        for _ in 0..TURN_TRIES {
            self.take_turn().await?;
            let snapshot = self.snapshot();
            let Some(tx) = decide(&snapshot)? else {
                return Ok(());
            };
            let Some(tx) = self.in_turn(&snapshot, tx) else {
                continue;
            };
            match self.commit(grant, tx).await {
                Ok(_) => return Ok(()),
                Err(store::CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::conflict(
            "pools are being changed by many others at the same time: try again",
        ))
    }

    /// Whether a pool may be so: its form, its place in the tree, and whether what it takes is there and the caller's to
    /// give.
    fn check_shape(&self, snapshot: &Snapshot, caller: &Caller, pool: &Pool) -> Result<()> {
        let invalid = |why: plan::pools::change::Invalid| Error::invalid(why.to_string());
        check_place(snapshot, pool)?;
        plan::pools::change::check_form(&pool.slice).map_err(invalid)?;
        let siblings = snapshot
            .pools()
            .map(|row| row.value())
            .filter(|other| other.parent == pool.parent);
        let settings = installation(snapshot);
        plan::pools::change::check_sizes(pool, siblings, &settings).map_err(invalid)?;
        let (before, after) = (tree_of(snapshot, None), tree_of(snapshot, Some(pool)));
        let raised = plan::pools::change::check_tree(&before, &after, &pool.id).map_err(invalid)?;
        for above in raised {
            let scope = parent_of(snapshot, &above);
            let scope = scope.as_ref().map_or(Scope::Installation, Scope::Pool);
            self.grant(snapshot, caller, Action::PoolSlice, scope)
                .map_err(|_| {
                    let name = after.node(&above).map_or("", |node| node.name.as_str());
                    Error::new(
                        ErrorKind::Forbidden,
                        format!(
                            "this would reserve more than pool {name} has, and take the rest from above it: reserve \
                             less, or ask whoever manages {name}"
                        ),
                    )
                })?;
        }
        Ok(())
    }

    /// What a pool may use is its parent's to say: whoever manages only the pool itself cannot raise it.
    fn authorise_slice(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        before: &Pool,
        after: &Pool,
    ) -> Result<()> {
        if allotted(&before.slice) == allotted(&after.slice) && before.parent == after.parent {
            return Ok(());
        }
        for parent in [&before.parent, &after.parent] {
            let scope = parent.as_ref().map_or(Scope::Installation, Scope::Pool);
            self.grant(snapshot, caller, Action::PoolSlice, scope)
                .map_err(|_| {
                    Error::new(
                        ErrorKind::Forbidden,
                        format!(
                            "{} may not change what pool {} has: that is for whoever manages the pool above it, or an \
                             administrator",
                            caller.name, before.name
                        ),
                    )
                })?;
        }
        Ok(())
    }

    /// A pool in absolute numbers, and what it is charged.
    ///
    /// # Errors
    /// When the caller may not see it.
    pub fn pool_standing(&self, caller: &Caller, pool: &PoolId) -> Result<PoolStanding> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::PoolRead, Scope::Pool(pool))?;
        self.with_ledger(|ledger| {
            let at = ledger.tree().index(pool)?;
            Some(PoolStanding {
                node: ledger.tree().nodes[at].clone(),
                own: ledger.book(at).own,
                sum: ledger.book(at).sum,
            })
        })
        .flatten()
        .ok_or_else(|| Error::not_found("pool", pool.as_str()))
    }

    /// What holds for the whole installation.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn installation_settings(&self, caller: &Caller) -> Result<Installation> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::SystemRead, Scope::Installation)?;
        Ok(installation(&snapshot))
    }

    /// Changes what holds for the whole installation.
    ///
    /// # Errors
    /// When the caller may not, the sizes of pools add up to more than the new ratio allows, or the time after which a
    /// host is lost is not possible or cannot be lowered now.
    pub async fn installation_update(
        &self,
        caller: &Caller,
        edit: impl Fn(&mut Installation) + Send,
    ) -> Result<Installation> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::InstallationManage,
            Scope::Installation,
        )?;
        self.reshape(&grant, |snapshot| {
            let mut changed = installation(snapshot);
            edit(&mut changed);
            check_installation(snapshot, &changed)?;
            check_host_loss(snapshot, &changed)?;
            let expect = snapshot
                .installation()
                .map_or(store::Expect::Absent, |row| {
                    store::Expect::Revision(row.revision())
                });
            let tx = Transaction::new()
                .expect(model::Key::Installation, expect)
                .put(Object::Installation(changed));
            Ok(Some(tx))
        })
        .await?;
        Ok(installation(&self.snapshot()))
    }

    /// Deletes an empty pool with its images' records.
    ///
    /// # Errors
    /// When it still has workloads or pools below it; the message names some.
    pub async fn pool_delete(&self, caller: &Caller, reference: &str) -> Result<()> {
        let snapshot = self.snapshot();
        let pool = self.pool_find(caller, reference)?;
        let grant = self.grant(&snapshot, caller, Action::PoolDelete, Scope::Pool(&pool.id))?;
        self.wait_for_removals(&pool.id).await;
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
                        for network in snapshot.networks_of(&pool.id) {
                            let key = model::Key::Network(network.id.clone());
                            tx = tx.delete_unchanged(network.revision(), key);
                        }
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

    /// Waits until workloads of a pool that are being removed are gone, if there are no others: they are gone for whoever
    /// removed them, and their hosts need a moment.
    async fn wait_for_removals(&self, pool: &PoolId) {
        let snapshot = self.snapshot();
        if snapshot
            .workloads_of(pool)
            .any(|it| it.desired != DesiredState::Removed)
        {
            return;
        }
        let going: Vec<_> = snapshot
            .workloads_of(pool)
            .map(|it| it.id.clone())
            .collect();
        let gone = async {
            for id in going {
                let gone = self.wait_workload(&id, Some(REMOVAL_WAIT), |_, seen| match seen {
                    Seen::There(_) => None,
                    Seen::Gone(_) => Some(Ok(())),
                });
                // What is still there afterwards is named by the refusal.
                let _ = gone.await;
            }
        };
        let _ = tokio::time::timeout(REMOVAL_WAIT, gone).await;
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
            if workload.keeps_claim() {
                usage.charged = usage.charged.plus(workload.spec.task.resources.charge());
            }
        }
        Ok(usage)
    }

    /// What a pool could use: the hosts it is confined to, inside its limit, or its size if it has no limit.
    ///
    /// # Errors
    /// When the caller may not see it.
    pub fn pool_capacity(&self, caller: &Caller, pool: &PoolId) -> Result<PoolCapacity> {
        let node = self.pool_standing(caller, pool)?.node;
        let mut sum = PoolCapacity::default();
        for host in self
            .snapshot()
            .hosts()
            .filter(|host| plan::pools::tree::matches(&host.labels, &node.hosts))
        {
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
        let (cpu, memory) = (most(&node.cpu), most(&node.memory));
        if let Some(cpu) = cpu {
            let cpus = u32::try_from(cpu.div_ceil(1000)).unwrap_or(u32::MAX);
            sum.cpus = sum.cpus.min(cpus);
            sum.capacity.cpu.0 = sum.capacity.cpu.0.min(cpu);
        }
        if let Some(memory) = memory {
            sum.capacity.memory.0 = sum.capacity.memory.0.min(memory);
        }
        Ok(sum)
    }

    /// Issues credentials for a pool's TLS endpoint. Those of a principal are its own: they allow what its roles allow, and
    /// end with it. Whoever holds those that the machine's root has asked for is a developer of the pool.
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
        let subject = match caller.principal() {
            Some(principal) => Subject::User(pool.id.clone(), principal.clone()),
            None => Subject::Endpoint(pool.id.clone()),
        };
        let issued = self.authority().issue_client(&subject, now(), days)?;
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

/// The pool as it is to be.
fn changed(pool: &Pool, update: &PoolUpdate, parent: Option<&Option<PoolId>>) -> Pool {
    let mut changed = pool.clone();
    if let Some(description) = &update.description {
        changed.description.clone_from(description);
    }
    if let Some(labels) = &update.labels {
        changed.labels.clone_from(labels);
    }
    if let Some(policy) = &update.policy {
        changed.policy.clone_from(policy);
    }
    if let Some(slice) = &update.slice {
        changed.slice.clone_from(slice);
    }
    if let Some(parent) = parent {
        changed.parent.clone_from(parent);
    }
    changed
}

/// What of a slice is given by the parent; the rest is the pool's own affair.
fn allotted(slice: &Slice) -> Slice {
    Slice {
        defaults: model::WorkloadDefaults::default(),
        placement: None,
        on_host_loss: None,
        priority: 0,
        ..slice.clone()
    }
}

fn parent_of(snapshot: &Snapshot, pool: &PoolId) -> Option<PoolId> {
    snapshot.pool(pool)?.parent.clone()
}

/// What a pool can count on at most or, without a limit, by its size; `None`: all there is.
fn most(line: &plan::pools::Line) -> Option<u64> {
    line.limit.map(|_| line.ceiling).or(line.nominal)
}

/// No pool below itself, and none too deep.
fn check_place(snapshot: &Snapshot, pool: &Pool) -> Result<()> {
    let Some(parent) = &pool.parent else {
        return Ok(());
    };
    let above: Vec<PoolId> = ancestors(snapshot, parent).collect();
    if above.contains(&pool.id) {
        return Err(Error::invalid(format!(
            "pool {} cannot be moved into itself or a pool below it",
            pool.name
        )));
    }
    if above.len() + height(snapshot, &pool.id) > POOL_DEPTH_MAX {
        return Err(Error::invalid(format!(
            "pools can be nested at most {POOL_DEPTH_MAX} deep"
        )));
    }
    Ok(())
}

/// Number of levels from the pool down.
fn height(snapshot: &Snapshot, pool: &PoolId) -> usize {
    let mut level = vec![pool.clone()];
    let mut height = 0;
    while !level.is_empty() && height <= POOL_DEPTH_MAX {
        height += 1;
        level = snapshot
            .pools()
            .filter(|child| child.parent.as_ref().is_some_and(|id| level.contains(id)))
            .map(|child| child.id.clone())
            .collect();
    }
    height
}

/// The ratios are possible, and every group of siblings still fits into them.
fn check_installation(snapshot: &Snapshot, settings: &Installation) -> Result<()> {
    for ratio in [settings.cpu_overcommit, settings.memory_overcommit] {
        if !(1000..=100_000).contains(&ratio.0) {
            return Err(Error::invalid("an overcommit ratio must be from 1 to 100"));
        }
    }
    for pool in snapshot.pools() {
        let siblings = snapshot
            .pools()
            .map(|row| row.value())
            .filter(|other| other.parent == pool.parent);
        plan::pools::change::check_sizes(&pool, siblings, settings)
            .map_err(|why| Error::invalid(format!("pool {}: {why}", pool.name)))?;
    }
    Ok(())
}

/// The time after which a host is lost is possible, and is not lowered under hosts that still count on the one before:
/// a host that is cut off ends what must never run twice just before that time is over.
fn check_host_loss(snapshot: &Snapshot, settings: &Installation) -> Result<()> {
    let (seconds, range) = (settings.host_loss_seconds, Installation::HOST_LOSS_RANGE);
    if !range.contains(&seconds) {
        return Err(Error::invalid(format!(
            "host_loss_seconds: must be from {} to {}; less would take a short stall for a loss",
            range.start(),
            range.end(),
        )));
    }
    let before = installation(snapshot).host_loss_seconds;
    let mut cut_off = snapshot
        .hosts()
        .filter(|host| !host.status.connected)
        .map(|host| host.name.to_string());
    if seconds < before
        && let Some(first) = cut_off.next()
    {
        let more = match cut_off.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Err(Error::conflict(format!(
            "the time after which a host is lost cannot be lowered from {before} to {seconds} seconds now, because \
             hosts that cannot be reached still count on the longer one ({first}{more}): wait until they are back, or \
             remove them"
        )));
    }
    Ok(())
}

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
    let held: Vec<_> = snapshot.workloads_of(&pool.id).collect();
    if let Some(first) = held.first() {
        let (what, how) = if held.iter().all(|it| it.desired == DesiredState::Removed) {
            (
                "workloads that are being removed",
                "their hosts have not said yet that nothing is left of them; see `plimsoll host ls`, and try again",
            )
        } else {
            ("workloads", "remove them first")
        };
        return Err(Error::conflict(format!(
            "pool {} still has {} {what} (for example {}): {how}",
            pool.name,
            held.len(),
            first.name
        )));
    }
    let mut networks = snapshot.networks_of(&pool.id).filter(|it| !it.is_default());
    if let Some(first) = networks.next() {
        return Err(Error::conflict(format!(
            "pool {} still has {} networks of its own (for example {}): remove them first",
            pool.name,
            networks.count() + 1,
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
