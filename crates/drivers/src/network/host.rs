//! The host's own side: subnet, bridge, rules, and what an earlier agent left.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use super::driver::{Shared, mac_of, open_route, set_sysctl};
use super::elements;
use super::ledger::{self, Ledger, Record};
use super::link;
use super::netlink::Socket;
use super::rules;
use super::{NetworkConfig, NetworkError, Subnet, subnet};

/// The subnet of this host's workloads: the configured one, else the kept one, else one that overlaps no route.
pub(super) fn choose_subnet(config: &NetworkConfig) -> Result<Subnet, NetworkError> {
    let mut socket = open_route()?;
    let bridge = link::find(&mut socket, &config.bridge)
        .map_err(NetworkError::netlink("look for the bridge"))?
        .map_or(0, |link| link.index);
    let routes = link::routes(&mut socket).map_err(NetworkError::netlink("list routes"))?;
    let foreign = routes
        .iter()
        .filter(|route| route.link == 0 || route.link != bridge);
    let taken: Vec<Subnet> = foreign
        .map(|route| route.destination)
        .filter(|subnet| subnet.prefix() > 0)
        .collect();
    let wanted = config
        .subnet
        .or_else(|| ledger::kept_subnet(&config.state_dir));
    if let Some(subnet) = wanted {
        return match taken.iter().find(|other| other.overlaps(subnet)) {
            Some(route) => Err(NetworkError::SubnetTaken {
                subnet,
                route: *route,
            }),
            None => Ok(subnet),
        };
    }
    let subnet = subnet::choose(&taken, config.seed).ok_or(NetworkError::NoSubnet)?;
    ledger::keep_subnet(&config.state_dir, subnet)?;
    Ok(subnet)
}

/// Links of ours that no record names: those whose address is noted as released were to be removed when the agent
/// died. The others may be in use (a record may have been lost): they stay, and their addresses, which are in their
/// names, are not given out.
pub(super) fn sort_out_links(
    config: &NetworkConfig,
    subnet: Subnet,
    ledger: &mut Ledger,
) -> Result<(), NetworkError> {
    let mut host = open_route()?;
    let links = link::list(&mut host).map_err(NetworkError::netlink("list links"))?;
    let mut doomed: Vec<String> = Vec::new();
    for link in links {
        let Some(address) = address_of_link(&link.name, config, subnet) else {
            continue;
        };
        let known = |record: &Record| record.address == Some(address);
        if ledger.is_released(address) {
            doomed.push(link.name);
        } else if !ledger.records().any(known) {
            tracing::warn!(link = link.name, "link without a record left alone");
            ledger.reserve(address);
        }
    }
    link::delete_all(&mut host, &doomed).map_err(NetworkError::netlink("remove old links"))
}

/// The workload's address that the name of a link of ours says; `None`: it is not ours.
fn address_of_link(name: &str, config: &NetworkConfig, subnet: Subnet) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix(&config.link_prefix)?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    Some(Ipv4Addr::from(number)).filter(|address| subnet.contains(*address))
}

impl Shared {
    pub(super) fn ensure_bridge(&self, host: &mut Socket) -> Result<link::Link, NetworkError> {
        let name = &self.config.bridge;
        let gateway = self.subnet.gateway();
        let mtu = uplink_mtu(host)?;
        match link::create_bridge(host, name, mac_of(gateway), mtu) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(NetworkError::netlink(format!("make bridge {name}"))(error));
            }
            _ => {}
        }
        let missing = || NetworkError::Netlink {
            what: format!("make bridge {name}"),
            source: std::io::Error::other("it is gone again"),
        };
        let bridge = self
            .bridge(host)?
            .filter(|link| link.kind == "bridge")
            .ok_or_else(missing)?;
        set_sysctl(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?;
        host.request(&mut [
            link::up(bridge.index),
            link::add_address(bridge.index, gateway, self.subnet),
        ])
        .map_err(NetworkError::netlink("give the bridge its address"))?;
        Ok(bridge)
    }

    /// Bridge, kernel settings, rules, and the links of all records on the bridge.
    pub(super) fn reassert(&self, always: bool) -> Result<(), NetworkError> {
        if self.dismantled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut host = open_route()?;
        let bridge = self.ensure_bridge(&mut host)?;
        if always || !self.rules_are_there()? {
            self.apply_rules()?;
        }
        set_sysctl("/proc/sys/net/ipv4/ip_forward", "1")?;
        // After the rules, which keep workloads away from the host's loopback.
        let name = &self.config.bridge;
        set_sysctl(
            &format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"),
            "1",
        )?;
        let links = link::list(&mut host).map_err(NetworkError::netlink("list links"))?;
        let ours: Vec<String> = {
            let ledger = self.ledger();
            let addresses = ledger.records().filter_map(|record| record.address);
            addresses.map(|address| self.link_name(address)).collect()
        };
        for link in links {
            if ours.contains(&link.name) && (link.master != bridge.index || !link.up) {
                link::connect_now(&mut host, &link.name, bridge.index)
                    .map_err(NetworkError::netlink("put a link back on the bridge"))?;
            }
        }
        Ok(())
    }

    /// Takes links, bridge and rules away, for good. The kernel's settings stay: others may count on them by now.
    pub(super) fn dismantle(&self) -> Result<(), NetworkError> {
        let attached = self.ledger().records().count();
        if attached > 0 {
            return Err(NetworkError::InUse { attached });
        }
        // First, so that the watch does not put the rules back.
        self.dismantled.store(true, Ordering::Relaxed);
        let mut host = open_route()?;
        let links = link::list(&mut host).map_err(NetworkError::netlink("list links"))?;
        let ours = |name: &str| {
            name == self.config.bridge || address_of_link(name, &self.config, self.subnet).is_some()
        };
        let doomed: Vec<String> = links
            .into_iter()
            .map(|link| link.name)
            .filter(|name| ours(name))
            .collect();
        link::delete_all(&mut host, &doomed)
            .map_err(NetworkError::netlink("remove links and bridge"))?;
        // Last: without the rules the links would be open to all.
        rules::apply(&rules::removal(&self.config.table))
    }

    /// Puts the rules back if something of them is gone. Blocks; not for asynchronous code.
    pub(super) fn restore(&self) -> Result<(), NetworkError> {
        let _all = self.gate.blocking_write();
        if self.dismantled.load(Ordering::Relaxed) || self.rules_are_there()? {
            return Ok(());
        }
        tracing::warn!("someone took rules away; putting them back");
        self.apply_rules()
    }

    fn rules_are_there(&self) -> Result<bool, NetworkError> {
        let count = self.rule_count()?;
        Ok(count.is_some_and(|count| count == self.rule_count.load(Ordering::Relaxed)))
    }

    pub(super) fn rule_count(&self) -> Result<Option<usize>, NetworkError> {
        elements::rule_count(&mut self.netfilter(), &self.config.table)
            .map_err(NetworkError::netlink("look at our rules"))
    }
}

/// Largest packet of the link that the default route leaves by.
fn uplink_mtu(host: &mut Socket) -> Result<u32, NetworkError> {
    /// Ethernet's.
    const USUAL: u32 = 1500;
    let routes = link::routes(host).map_err(NetworkError::netlink("list routes"))?;
    let uplink = routes.iter().find(|route| route.destination.prefix() == 0);
    let Some(uplink) = uplink else {
        return Ok(USUAL);
    };
    let links = link::list(host).map_err(NetworkError::netlink("list links"))?;
    let found = links.iter().find(|link| link.index == uplink.link);
    Ok(found.map_or(USUAL, |link| link.mtu))
}
