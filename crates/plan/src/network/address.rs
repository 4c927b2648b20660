//! Who gets which address.

use std::net::Ipv4Addr;

use model::{Network, Subnet};

/// Why a workload cannot have a certain address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    /// It belongs to another network.
    #[error("address {address} is not in subnet {subnet} of network {network}")]
    Outside {
        /// What was asked for.
        address: Ipv4Addr,
        /// The network's addresses.
        subnet: Subnet,
        /// The network's name.
        network: String,
    },
    /// It is the network's own, its gateway's or its last one.
    #[error("address {0} is reserved: it is the network's own, its gateway's or its last one")]
    Reserved(Ipv4Addr),
}

/// Whether an address may be given to a workload, as far as the network says.
///
/// # Errors
/// When it is not of the network, or nobody's to have.
pub fn check_address(network: &Network, address: Ipv4Addr) -> Result<(), AddressRefusal> {
    if !network.subnet.contains(address) {
        return Err(AddressRefusal::Outside {
            address,
            subnet: network.subnet,
            network: network.name.to_string(),
        });
    }
    if is_reserved(network, address) {
        return Err(AddressRefusal::Reserved(address));
    }
    Ok(())
}

fn is_reserved(network: &Network, address: Ipv4Addr) -> bool {
    address == network.gateway
        || address == network.subnet.base()
        || address == network.subnet.broadcast()
}

/// The address for the next workload: the first free one after `last`, round the range, so that one that was given back
/// rests as long as possible. `None`: all are used.
#[must_use]
pub fn next_address(
    network: &Network,
    last: Option<Ipv4Addr>,
    is_used: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let range = network.range.unwrap_or(network.subnet);
    let first = u64::from(u32::from(range.base()));
    let begin = match last.filter(|last| range.contains(*last)) {
        Some(last) => u64::from(u32::from(last)) + 1 - first,
        None => 0,
    };
    (0..range.size())
        .filter_map(|step| u32::try_from((begin + step) % range.size()).ok())
        .filter_map(|index| range.nth(index))
        .find(|address| !is_reserved(network, *address) && !is_used(*address))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::network::form::tests::network;

    #[test]
    fn addresses_come_in_turn_and_skip_what_is_nobodys() {
        let net = network("10.1.0.0/29");
        let mut used = BTreeSet::new();
        let mut last = None;
        while let Some(next) = next_address(&net, last, |it| used.contains(&it)) {
            used.insert(next);
            last = Some(next);
        }
        let all: Vec<String> = used.iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
        );
        let given_back = Ipv4Addr::new(10, 1, 0, 3);
        used.remove(&given_back);
        assert_eq!(
            next_address(&net, last, |it| used.contains(&it)),
            Some(given_back)
        );
    }

    #[test]
    fn a_range_bounds_what_is_chosen_but_not_what_is_asked_for() {
        let net = Network {
            range: Some("10.1.0.64/30".parse().unwrap()),
            ..network("10.1.0.0/24")
        };
        let first = next_address(&net, None, |_| false).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 1, 0, 64));
        let none = next_address(&net, None, |it| net.range.unwrap().contains(it));
        assert_eq!(none, None);
        assert_eq!(check_address(&net, Ipv4Addr::new(10, 1, 0, 9)), Ok(()));
        for bad in ["10.1.0.0", "10.1.0.1", "10.1.0.255", "10.1.1.9"] {
            assert!(check_address(&net, bad.parse().unwrap()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_given_address_is_free_and_a_workloads_to_have(
            prefix in 22_u8..=30,
            used in prop::collection::btree_set(0_u32..1024, 0..200),
            last in prop::option::of(0_u32..1024),
        ) {
            let base = Ipv4Addr::new(10, 1, 0, 0);
            let net = network(&format!("10.1.0.0/{prefix}"));
            let at = |index: u32| Ipv4Addr::from(u32::from(base) + index);
            let used: BTreeSet<Ipv4Addr> = used.into_iter().map(at).collect();
            let size = u32::try_from(net.subnet.size()).unwrap();
            let free = (0..size).map(at).any(|it| check_address(&net, it).is_ok() && !used.contains(&it));
            match next_address(&net, last.map(at), |it| used.contains(&it)) {
                Some(it) => {
                    prop_assert!(!used.contains(&it));
                    prop_assert_eq!(check_address(&net, it), Ok(()));
                }
                None => prop_assert!(!free),
            }
        }
    }
}
