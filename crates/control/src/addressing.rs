//! Addresses of workloads on networks, given out at placement.
//!
//! How two workloads never get the same address: what this server gives out is claimed here until its commit is in the
//! newest snapshot, and every decision looks at a snapshot taken while the claims are held still; between servers the
//! turn to admit says whose decisions count (see `admission`).
//!
//! What always holds: a network that is being removed gets no workload, and one that a claim names is not removed.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{Endpoint, NetworkId, Workload, WorkloadId};
use store::{Snapshot, Store};

use crate::error::{Error, ErrorKind, Result};

/// What is claimed and not yet known to be committed.
#[derive(Default)]
pub(crate) struct Addressing {
    claims: Mutex<Claims>,
}

#[derive(Default)]
struct Claims {
    pending: HashMap<WorkloadId, Vec<(NetworkId, Ipv4Addr)>>,
    /// The address last given out on each network: the next one comes after it, so that what is given back rests.
    last: HashMap<NetworkId, Ipv4Addr>,
    closing: HashSet<NetworkId>,
}

impl Addressing {
    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What will give up whatever is claimed for a workload: to be dropped after its commit, or instead of it.
    pub(crate) fn begin(&self, id: &WorkloadId) -> Assigning<'_> {
        Assigning {
            addressing: self,
            id: id.clone(),
        }
    }

    /// Gives a workload an address on each of its networks where it has none, and claims all of its addresses.
    ///
    /// # Errors
    /// When a network is gone, has no address left, or the one asked for is somebody else's.
    pub(crate) fn assign(&self, store: &dyn Store, workload: &mut Workload) -> Result<()> {
        let mut claims = self.lock();
        claims.pending.remove(&workload.id);
        let snapshot = store.snapshot();
        let mut claimed = Vec::with_capacity(workload.endpoints.len());
        let id = workload.id.clone();
        for endpoint in &mut workload.endpoints {
            let address = claims.address(&snapshot, &id, endpoint)?;
            endpoint.address = Some(address);
            claims.last.insert(endpoint.network.clone(), address);
            claimed.push((endpoint.network.clone(), address));
        }
        claims.pending.insert(id, claimed);
        Ok(())
    }

    /// Closes a network to workloads while it is being removed; `None`: somebody is coming onto it.
    pub(crate) fn close(&self, network: &NetworkId) -> Option<Closing<'_>> {
        let mut claims = self.lock();
        let claimed = claims
            .pending
            .values()
            .flatten()
            .any(|(claimed, _)| claimed == network);
        (!claimed && claims.closing.insert(network.clone())).then(|| Closing {
            addressing: self,
            network: network.clone(),
        })
    }
}

impl Claims {
    fn address(
        &self,
        snapshot: &Snapshot,
        id: &WorkloadId,
        endpoint: &Endpoint,
    ) -> Result<Ipv4Addr> {
        let network = snapshot
            .network(&endpoint.network)
            .filter(|_| !self.closing.contains(&endpoint.network))
            .ok_or_else(|| Error::not_found("network", endpoint.network.as_str()))?;
        let is_used = |address: Ipv4Addr| {
            let stored = snapshot.address_holder(&endpoint.network, address);
            let held =
                |(of, claim): &(NetworkId, Ipv4Addr)| *claim == address && *of == endpoint.network;
            stored.is_some_and(|holder| holder != id) || self.pending.values().flatten().any(held)
        };
        match endpoint.address {
            Some(address) if is_used(address) => Err(Error::conflict(format!(
                "address {address} on network {} is already in use: ask for another one, or for none",
                network.name
            ))),
            Some(address) => Ok(address),
            None => {
                let last = self.last.get(&endpoint.network).copied();
                let last = last.or_else(|| snapshot.last_address(&endpoint.network));
                plan::network::next_address(&network, last, is_used).ok_or_else(|| {
                    let message = format!(
                        "network {} has no address left: remove containers, or make another network with more addresses",
                        network.name
                    );
                    Error::new(ErrorKind::Exhausted, message)
                })
            }
        }
    }
}

/// Addresses between the decision and the commit.
pub(crate) struct Assigning<'a> {
    addressing: &'a Addressing,
    id: WorkloadId,
}

impl Drop for Assigning<'_> {
    fn drop(&mut self) {
        self.addressing.lock().pending.remove(&self.id);
    }
}

/// A network between the decision to remove it and the commit.
pub(crate) struct Closing<'a> {
    addressing: &'a Addressing,
    network: NetworkId,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut claims = self.addressing.lock();
        claims.closing.remove(&self.network);
        claims.last.remove(&self.network);
    }
}
