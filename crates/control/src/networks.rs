//! Verbs on networks, and on what workloads are attached to.

use std::collections::BTreeSet;

use model::workload::NetworkMode;
use model::{
    Claim, DEFAULT_NETWORK, DesiredState, Endpoint, EndpointSpec, Key, Name, Network, NetworkId,
    Object, Pool, PoolId, Vni, Workload, WorkloadId, WorkloadSpec, object::Setting,
};
use plan::network::{NewNetwork, check_endpoints, check_form};
use store::{Expect, Row, Snapshot, Transaction};

use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, now, random};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;

/// Networks of one pool: bounds what a runaway client can create; each is a bridge on every host that has part in it.
pub const NETWORKS_PER_POOL_MAX: usize = 500;

/// Name of the setting that says which number a network got last.
const LAST_VNI: &str = "network-number";

/// Tries to remove a network while workloads come and go.
const REMOVE_TRIES: usize = 16;

impl Control {
    /// Networks of a pool, by name.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn network_list(&self, caller: &Caller, pool: &PoolId) -> Result<Vec<Kept<Network>>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::NetworkRead, Scope::Pool(pool))?;
        let mut list: Vec<Kept<Network>> = snapshot.networks_of(pool).map(Kept::from).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// A network of a pool by name, id, or unique beginning of its id.
    ///
    /// # Errors
    /// When there is none, or several begin so.
    pub fn network_find(
        &self,
        caller: &Caller,
        pool: &PoolId,
        reference: &str,
    ) -> Result<Kept<Network>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::NetworkRead, Scope::Pool(pool))?;
        find(&snapshot, pool, reference).map(Kept::from)
    }

    /// The workloads that are on a network, those being removed left out.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn network_workloads(
        &self,
        caller: &Caller,
        network: &Network,
    ) -> Result<Vec<Kept<Workload>>> {
        let snapshot = self.snapshot();
        let pool = Scope::Pool(&network.pool);
        self.grant(&snapshot, caller, Action::NetworkRead, pool)?;
        let on = snapshot.workloads_in(&network.id);
        Ok(on
            .filter(|row| row.desired != DesiredState::Removed)
            .map(Kept::from)
            .collect())
    }

    /// Makes a network.
    ///
    /// # Errors
    /// When its form cannot be, the name is taken, or the pool has too many.
    pub async fn network_create(
        &self,
        caller: &Caller,
        pool: &PoolId,
        name: Name,
        new: NewNetwork,
    ) -> Result<Kept<Network>> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::NetworkCreate, Scope::Pool(pool))?;
        let id = NetworkId::from_bytes(&random()?);
        self.change(&grant, |snapshot| {
            if snapshot.networks_of(pool).count() >= NETWORKS_PER_POOL_MAX {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "the pool has {NETWORKS_PER_POOL_MAX} networks already: remove some first"
                    ),
                ));
            }
            if snapshot.network_by_name(pool, &name).is_some() {
                return Err(Error::conflict(format!(
                    "network with name {name} already exists"
                )));
            }
            let others: Vec<Row<'_, Network>> = snapshot.networks_of(pool).collect();
            let others = others.iter().map(|row| (row.name.as_str(), row.subnet));
            let (subnet, gateway) =
                check_form(&new, others).map_err(|e| Error::invalid(e.to_string()))?;
            let (vni, tx) = next_number(snapshot)?;
            let network = Network {
                id: id.clone(),
                pool: pool.clone(),
                name: name.clone(),
                vni,
                subnet,
                gateway,
                range: new.range,
                internal: new.internal,
                labels: new.labels.clone(),
                options: new.options.clone(),
                created_at: now(),
            };
            let tx = tx
                .expect(Key::Pool(pool.clone()), Expect::Exists)
                .create(Object::Network(network));
            Ok((Some(tx), ()))
        })
        .await?;
        find(&self.snapshot(), pool, id.as_str()).map(Kept::from)
    }

    /// Removes a network. Workloads that do not run and were on it are on it no more.
    ///
    /// # Errors
    /// When it is the pool's default one, or running workloads are on it.
    pub async fn network_remove(
        &self,
        caller: &Caller,
        pool: &PoolId,
        reference: &str,
    ) -> Result<()> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::NetworkDelete, Scope::Pool(pool))?;
        let network = Kept::from(find(&snapshot, pool, reference)?);
        if network.is_default() {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "{} is a pre-defined network and cannot be removed",
                    network.name
                ),
            ));
        }
        for _ in 0..REMOVE_TRIES {
            self.take_turn().await?;
            let Some(_closing) = self.inner.addressing.close(&network.id) else {
                return Err(in_use(&network.name, "a container that is being started"));
            };
            let snapshot = self.snapshot();
            let row = find(&snapshot, pool, network.id.as_str())?;
            if let Some(user) = snapshot.workloads_in(&network.id).find(|it| uses(it)) {
                return Err(in_use(&network.name, user.name.as_str()));
            }
            let tx = Transaction::new()
                .delete_unchanged(row.revision(), Key::Network(network.id.clone()));
            let Some(tx) = self.in_turn(&snapshot, tx) else {
                continue;
            };
            match self.commit(&grant, tx).await {
                Ok(_) => return Ok(()),
                Err(store::CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::conflict(
            "it is being changed by many others at the same time: try again",
        ))
    }

    /// Attaches a workload to a further network; a running one at once.
    ///
    /// # Errors
    /// When it is on it already, it shares another's network, or the address asked for cannot be had.
    pub async fn network_connect(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        spec: EndpointSpec,
    ) -> Result<()> {
        let snapshot = self.snapshot();
        let scope = Scope::Pool(pool);
        let grant = self.grant(&snapshot, caller, Action::WorkloadControl, scope)?;
        let _assigning = self.inner.addressing.begin(id);
        self.change_admitted(&grant, |snapshot| {
            let row = self.live(snapshot, pool, id)?;
            let mut changed = row.value().clone();
            match &changed.spec.network {
                NetworkMode::Bridge => {}
                NetworkMode::None => changed.spec.network = NetworkMode::Bridge,
                NetworkMode::Host | NetworkMode::Workload { .. } => {
                    return Err(Error::conflict(
                        "container sharing network namespace with another container or host cannot be connected to any other network",
                    ));
                }
            }
            let endpoint = endpoint(snapshot, pool, &spec)?;
            if let Some(name) = connected(snapshot, &changed, &endpoint.network) {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    format!("endpoint with name {} already exists in network {name}", changed.name),
                ));
            }
            changed.endpoints.push(endpoint);
            if changed.endpoints.len() > plan::network::ENDPOINTS_MAX {
                let too_many = plan::network::Invalid::TooMany;
                return Err(Error::invalid(too_many.to_string()));
            }
            if changed.host.is_some() {
                self.inner.addressing.assign(&*self.inner.store, &mut changed)?;
            }
            let claim = Claim::of(&changed);
            let tx = expecting_networks(&changed)
                .update(row.revision(), Object::Workload(changed));
            Ok((Some(crate::admission::Step::new(tx, id.clone(), claim)), ()))
        })
        .await
    }

    /// Takes a workload off a network; a running one at once.
    ///
    /// # Errors
    /// When it is not on it.
    pub async fn network_disconnect(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        reference: &str,
    ) -> Result<()> {
        let snapshot = self.snapshot();
        let scope = Scope::Pool(pool);
        let grant = self.grant(&snapshot, caller, Action::WorkloadControl, scope)?;
        self.change(&grant, |snapshot| {
            let row = self.live(snapshot, pool, id)?;
            let network = find(snapshot, pool, reference)?;
            let mut changed = row.value().clone();
            changed.endpoints.retain(|it| it.network != network.id);
            if changed.endpoints.len() == row.endpoints.len() {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    format!(
                        "container {} is not connected to network {}",
                        row.id, network.name
                    ),
                ));
            }
            if changed.endpoints.is_empty() {
                changed.spec.network = NetworkMode::None;
            }
            let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
            Ok((Some(tx), ()))
        })
        .await
    }

    /// Removes the networks of a pool that no workload is on, apart from its default one; gives their names.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn network_prune(
        &self,
        caller: &Caller,
        pool: &PoolId,
        wanted: impl Fn(&Network) -> bool,
    ) -> Result<Vec<Name>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::NetworkDelete, Scope::Pool(pool))?;
        let mut removed = Vec::new();
        for row in snapshot.networks_of(pool) {
            let used = snapshot.workloads_in(&row.id).next().is_some();
            if used || row.is_default() || !wanted(&row) {
                continue;
            }
            match self.network_remove(caller, pool, row.id.as_str()).await {
                Ok(()) => removed.push(row.name.clone()),
                Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        removed.sort();
        Ok(removed)
    }

    /// Makes the default network of every pool that has none yet: of those that came before there were networks.
    pub(crate) async fn ensure_default_networks(&self) -> Result<()> {
        let grant = self.own_grant(Action::NetworkCreate)?;
        let lacking = |snapshot: &Snapshot| -> Option<Kept<Pool>> {
            let lacks = |pool: &Row<'_, Pool>| default_network(snapshot, &pool.id).is_none();
            snapshot.pools().find(lacks).map(Kept::from)
        };
        loop {
            let done = self.change(&grant, |snapshot| {
                let Some(pool) = lacking(snapshot) else {
                    return Ok((None, true));
                };
                let pool_key = Key::Pool(pool.id.clone());
                let tx = with_default_network(snapshot, &pool)?.expect(pool_key, Expect::Exists);
                Ok((Some(tx), false))
            });
            if done.await? {
                return Ok(());
            }
        }
    }

    /// A workload's addresses on its networks, which it has already unless it is placed for the first time.
    pub(crate) fn find_addresses(
        &self,
        snapshot: &Snapshot,
        workload: &mut Workload,
    ) -> Result<()> {
        if workload.endpoints.is_empty() {
            // It may come from a time without networks.
            workload.endpoints = endpoints(snapshot, &workload.pool, &workload.spec)?;
        }
        self.inner.addressing.assign(&*self.inner.store, workload)
    }

    fn live<'a>(
        &self,
        snapshot: &'a Snapshot,
        pool: &PoolId,
        id: &WorkloadId,
    ) -> Result<Row<'a, Workload>> {
        crate::workloads::live(snapshot, pool, id)
    }
}

fn in_use(network: &Name, user: &str) -> Error {
    Error::new(
        ErrorKind::Forbidden,
        format!("network {network} has active endpoints ({user}): stop or disconnect those first"),
    )
}

/// Whether a workload keeps a network from being removed.
fn uses(workload: &Workload) -> bool {
    workload.keeps_claim() || workload.status.phase.is_alive()
}

fn connected(snapshot: &Snapshot, workload: &Workload, network: &NetworkId) -> Option<Name> {
    let on = workload
        .endpoints
        .iter()
        .find(|it| it.network == *network)?;
    Some(snapshot.network(&on.network)?.name.clone())
}

/// A network of the pool by name, id, or unique beginning of its id.
fn find<'a>(snapshot: &'a Snapshot, pool: &PoolId, reference: &str) -> Result<Row<'a, Network>> {
    let missing = || Error::not_found("network", reference);
    if let Ok(id) = NetworkId::parse(reference)
        && let Some(row) = snapshot.network(&id)
    {
        return Some(row)
            .filter(|row| row.pool == *pool)
            .ok_or_else(missing);
    }
    if let Ok(name) = Name::parse(reference)
        && let Some(row) = snapshot.network_by_name(pool, &name)
    {
        return Ok(row);
    }
    if reference.is_empty() {
        return Err(missing());
    }
    let mut begin = snapshot
        .networks_of(pool)
        .filter(|row| row.id.as_str().starts_with(reference));
    match (begin.next(), begin.next()) {
        (Some(row), None) => Ok(row),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "network {reference} is ambiguous: give more digits of its id"
        ))),
        (None, _) => Err(missing()),
    }
}

pub(crate) fn default_network<'a>(
    snapshot: &'a Snapshot,
    pool: &PoolId,
) -> Option<Row<'a, Network>> {
    let name = Name::parse(DEFAULT_NETWORK).ok()?;
    snapshot.network_by_name(pool, &name)
}

/// The endpoint that is asked for, still without an address unless that is asked for too.
fn endpoint(snapshot: &Snapshot, pool: &PoolId, spec: &EndpointSpec) -> Result<Endpoint> {
    let invalid = |e: plan::network::Invalid| Error::invalid(e.to_string());
    check_endpoints(std::slice::from_ref(spec)).map_err(invalid)?;
    let network = find(snapshot, pool, &spec.network)?;
    if let Some(address) = spec.address {
        plan::network::check_address(&network, address)
            .map_err(|e| Error::invalid(e.to_string()))?;
    }
    Ok(Endpoint {
        network: network.id.clone(),
        aliases: spec.aliases.clone(),
        address: spec.address,
        fixed: spec.address.is_some(),
        mac: spec.mac,
    })
}

/// The endpoints of a workload that is to be made, as far as its specification asks for them.
pub(crate) fn endpoints(
    snapshot: &Snapshot,
    pool: &PoolId,
    spec: &WorkloadSpec,
) -> Result<Vec<Endpoint>> {
    if spec.network != NetworkMode::Bridge {
        if !spec.networks.is_empty() {
            return Err(Error::invalid(
                "networks cannot be named together with another network mode",
            ));
        }
        return Ok(Vec::new());
    }
    check_endpoints(&spec.networks).map_err(|e| Error::invalid(e.to_string()))?;
    if spec.networks.is_empty() {
        return Ok(vec![endpoint(
            snapshot,
            pool,
            &EndpointSpec::on(DEFAULT_NETWORK),
        )?]);
    }
    let mut seen = BTreeSet::new();
    let mut endpoints = Vec::new();
    for wanted in &spec.networks {
        let endpoint = endpoint(snapshot, pool, wanted)?;
        if !seen.insert(endpoint.network.clone()) {
            let twice = plan::network::Invalid::Twice(wanted.network.clone());
            return Err(Error::invalid(twice.to_string()));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// A transaction that holds only while the networks of a workload are there.
pub(crate) fn expecting_networks(workload: &Workload) -> Transaction {
    workload
        .endpoints
        .iter()
        .fold(Transaction::new(), |tx, endpoint| {
            tx.expect(Key::Network(endpoint.network.clone()), Expect::Exists)
        })
}

/// A number no network has, and a transaction that holds only if nobody else takes it.
fn next_number(snapshot: &Snapshot) -> Result<(Vni, Transaction)> {
    let internal = |e: model::InvalidId| Error::new(ErrorKind::Internal, e.to_string());
    let name = Name::parse(LAST_VNI).map_err(internal)?;
    let row = snapshot.setting(LAST_VNI);
    let last = row
        .as_ref()
        .and_then(|row| row.value.parse().ok())
        .and_then(Vni::new);
    let used: BTreeSet<Vni> = snapshot.networks().map(|row| row.vni).collect();
    let mut next = last.map_or(Vni::FIRST, Vni::following);
    for _ in 0..used.len() {
        if !used.contains(&next) {
            break;
        }
        next = next.following();
    }
    let expect = row.map_or(Expect::Absent, |row| Expect::Revision(row.revision()));
    let setting = Setting {
        name: name.clone(),
        value: next.to_string(),
    };
    let tx = Transaction::new()
        .expect(Key::Setting(name), expect)
        .put(Object::Setting(setting));
    Ok((next, tx))
}

/// A transaction that makes the default network of a pool.
pub(crate) fn with_default_network(snapshot: &Snapshot, pool: &Pool) -> Result<Transaction> {
    let internal = |e: String| Error::new(ErrorKind::Internal, e);
    let (subnet, gateway) = check_form(&NewNetwork::default(), std::iter::empty())
        .map_err(|e| internal(e.to_string()))?;
    let (vni, tx) = next_number(snapshot)?;
    let network = Network {
        id: NetworkId::from_bytes(&random()?),
        pool: pool.id.clone(),
        name: Name::parse(DEFAULT_NETWORK).map_err(|e| internal(e.to_string()))?,
        vni,
        subnet,
        gateway,
        range: None,
        internal: false,
        labels: Default::default(),
        options: Default::default(),
        created_at: pool.created_at,
    };
    Ok(tx.create(Object::Network(network)))
}
