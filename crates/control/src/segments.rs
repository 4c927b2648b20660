//! What hosts are told of networks: who is on them, as differences.
//!
//! A host is told of a network while a workload of it is on that network, and only then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::{
    Host, HostDesired, HostEndpoint, HostId, HostNetwork, HostPeer, NetworkId, Workload, WorkloadId,
};
use store::{Change, Event, Snapshot, Stored as _};
use wire::link::{DesiredUpdate, NetworkUpdate};

use crate::documents::Memory;

/// A workload's attachments as its host makes them.
pub(crate) fn endpoints(snapshot: &Snapshot, workload: &Workload) -> Vec<HostEndpoint> {
    plan::network::endpoints(workload, |id| snapshot.network(id).map(|row| row.value()))
}

/// The networks of a host, whole.
pub(crate) fn networks(snapshot: &Snapshot, host: &HostId) -> BTreeMap<NetworkId, HostNetwork> {
    let ids: BTreeSet<NetworkId> = snapshot
        .workloads_on(host)
        .filter(|row| plan::lower::concerns_host(row))
        .flat_map(|row| {
            row.endpoints
                .iter()
                .map(|it| it.network.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    let networks = ids.into_iter().filter_map(|id| {
        let network = whole(snapshot, host, &id)?;
        Some((id, network))
    });
    networks.collect()
}

fn whole(snapshot: &Snapshot, host: &HostId, id: &NetworkId) -> Option<HostNetwork> {
    let network = snapshot.network(id)?;
    let peers = snapshot.workloads_in(id).filter_map(|workload| {
        let peer = peer(snapshot, &workload, id, host)?;
        Some((workload.id.clone(), Arc::new(peer)))
    });
    Some(HostNetwork {
        peers: peers.collect(),
        ..plan::network::host_network(&network)
    })
}

/// What a host is told of a workload on a network.
fn peer(
    snapshot: &Snapshot,
    workload: &Workload,
    network: &NetworkId,
    told: &HostId,
) -> Option<HostPeer> {
    let at = workload.host.as_ref().filter(|host| *host != told);
    let at = at.and_then(|host| underlay(snapshot, host));
    plan::network::peer(workload, network, at)
}

fn underlay(snapshot: &Snapshot, host: &HostId) -> Option<Ipv4Addr> {
    snapshot.host(host)?.status.facts.underlay
}

/// What an event touches: workloads on networks, and hosts that may come to a network or leave it.
#[derive(Default)]
struct Touched {
    peers: BTreeMap<NetworkId, BTreeSet<WorkloadId>>,
    hosts: BTreeMap<NetworkId, BTreeSet<HostId>>,
}

impl Touched {
    fn workload(&mut self, workload: &Workload) {
        for endpoint in &workload.endpoints {
            let peers = self.peers.entry(endpoint.network.clone()).or_default();
            peers.insert(workload.id.clone());
            let hosts = self.hosts.entry(endpoint.network.clone()).or_default();
            hosts.extend(workload.host.clone());
        }
    }

    fn of(snapshot: &Snapshot, event: &Event, memory: &Memory) -> Self {
        let mut touched = Self::default();
        for change in event.changes.iter() {
            let versioned = match change {
                Change::Put(versioned)
                | Change::Delete {
                    last: versioned, ..
                } => versioned,
            };
            if let Some(workload) = Workload::of(&versioned.object) {
                touched.workload(workload);
                if let Some(before) = memory.workload(&workload.id) {
                    touched.workload(before);
                }
            }
            if let Some(host) = Host::of(&versioned.object)
                && memory.underlay(&host.id) != host.status.facts.underlay
            {
                for workload in snapshot.workloads_on(&host.id) {
                    touched.workload(&workload);
                }
            }
        }
        touched
    }
}

/// Tells hosts what an event changes of networks.
pub(crate) fn updates(
    pending: &mut HashMap<HostId, DesiredUpdate>,
    told: &HashMap<HostId, HostDesired>,
    snapshot: &Snapshot,
    event: &Event,
    memory: &Memory,
) {
    let touched = Touched::of(snapshot, event, memory);
    for (id, hosts) in &touched.hosts {
        for host in hosts {
            let Some(document) = told.get(host) else {
                continue;
            };
            let on = |row: &store::Row<'_, Workload>| {
                plan::lower::concerns_host(row) && row.endpoints.iter().any(|it| it.network == *id)
            };
            let needed = snapshot.workloads_on(host).any(|row| on(&row));
            match (needed, document.networks.contains_key(id)) {
                (true, false) => {
                    if let Some(network) = whole(snapshot, host, id) {
                        put(pending, document, host, id, NetworkUpdate::Whole(network));
                    }
                }
                (false, true) => put(pending, document, host, id, NetworkUpdate::Gone),
                (true, true) | (false, false) => {}
            }
        }
    }
    for (id, workloads) in &touched.peers {
        for (host, document) in told {
            let decided = |update: &DesiredUpdate| update.networks.contains_key(id);
            if !document.networks.contains_key(id) || pending.get(host).is_some_and(decided) {
                continue;
            }
            if let Some(update) = differences(snapshot, document, host, id, workloads) {
                put(pending, document, host, id, update);
            }
        }
    }
}

fn differences(
    snapshot: &Snapshot,
    document: &HostDesired,
    host: &HostId,
    id: &NetworkId,
    workloads: &BTreeSet<WorkloadId>,
) -> Option<NetworkUpdate> {
    let known = &document.networks.get(id)?.peers;
    let (mut upsert, mut remove) = (BTreeMap::new(), BTreeSet::new());
    for workload in workloads {
        let now = snapshot
            .workload(workload)
            .and_then(|row| peer(snapshot, &row, id, host));
        match (now, known.get(workload)) {
            (Some(now), Some(before)) if now == **before => {}
            (Some(now), _) => {
                upsert.insert(workload.clone(), Arc::new(now));
            }
            (None, Some(_)) => {
                remove.insert(workload.clone());
            }
            (None, None) => {}
        }
    }
    let news = !upsert.is_empty() || !remove.is_empty();
    news.then_some(NetworkUpdate::Peers { upsert, remove })
}

fn put(
    pending: &mut HashMap<HostId, DesiredUpdate>,
    document: &HostDesired,
    host: &HostId,
    id: &NetworkId,
    update: NetworkUpdate,
) {
    let pending = crate::documents::entry(pending, document, host);
    pending.networks.insert(id.clone(), update);
}
