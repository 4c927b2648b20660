//! What hosts are told of networks.

use std::net::Ipv4Addr;

use model::{
    DesiredState, Endpoint, HostEndpoint, HostNetwork, HostPeer, Network, NetworkId, Workload,
};

/// Label by which Compose says which service of a file a workload belongs to; the service's name resolves to all of them.
const COMPOSE_SERVICE: &str = "com.docker.compose.service";

/// Whether others on its networks can count on a workload: it runs, or is about to. What has ended, is held back or is
/// to stop is not to be found under its names.
#[must_use]
pub fn is_present(workload: &Workload) -> bool {
    let wanted = match workload.wanted_on_host() {
        DesiredState::Running | DesiredState::Paused => {
            !workload.status.phase.is_final() || workload.status.run < workload.run
        }
        DesiredState::Created | DesiredState::Stopped { .. } | DesiredState::Removed => {
            workload.status.phase.is_alive()
        }
    };
    wanted && workload.host.is_some()
}

/// What others on a network are told of a workload there; `None`: it has no address yet, or is not to be found. `at`:
/// where its host is reached.
#[must_use]
pub fn peer(workload: &Workload, network: &NetworkId, at: Option<Ipv4Addr>) -> Option<HostPeer> {
    if !is_present(workload) {
        return None;
    }
    let endpoint = workload
        .endpoints
        .iter()
        .find(|it| it.network == *network)?;
    let (address, mac) = endpoint.addresses()?;
    Some(HostPeer {
        address,
        mac,
        at,
        name: workload.name.clone(),
        aliases: aliases(workload, endpoint),
    })
}

/// Further names in lower case, each once.
fn aliases(workload: &Workload, endpoint: &Endpoint) -> Vec<String> {
    let service = workload.spec.labels.get(COMPOSE_SERVICE);
    let hostname = Some(&workload.spec.hostname).filter(|name| !name.is_empty());
    let mut all: Vec<String> = endpoint
        .aliases
        .iter()
        .chain(service)
        .chain(hostname)
        .map(|name| name.to_ascii_lowercase())
        .collect();
    all.sort();
    all.dedup();
    all
}

/// A network as a host needs it, without those on it.
#[must_use]
pub fn host_network(network: &Network) -> HostNetwork {
    HostNetwork {
        name: network.name.clone(),
        vni: network.vni,
        subnet: network.subnet,
        peers: Default::default(),
    }
}

/// A workload's attachments as its host makes them; those without an address or a network are left out.
#[must_use]
pub fn endpoints<'a>(
    workload: &Workload,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
) -> Vec<HostEndpoint> {
    let endpoints = workload.endpoints.iter().filter_map(|endpoint| {
        let (address, mac) = endpoint.addresses()?;
        let network = network(&endpoint.network)?;
        Some(HostEndpoint {
            network: network.id.clone(),
            name: network.name.clone(),
            vni: network.vni,
            subnet: network.subnet,
            internal: network.internal,
            address,
            mac,
        })
    });
    endpoints.collect()
}
