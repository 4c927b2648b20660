//! The form of networks and of what is asked of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::{EndpointSpec, Subnet};

/// Most networks of one workload: each is a link of its own inside.
pub const ENDPOINTS_MAX: usize = 16;

/// Most further names of one workload on one network.
const ALIASES_MAX: usize = 64;

/// Longest name in the domain name system, in bytes, and longest part of one between dots.
const NAME_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;

/// Lengths of prefixes networks may have: a few workloads at least; no more than fit one bridge a host would ever hold
/// by far.
const PREFIXES: std::ops::RangeInclusive<u8> = 12..=29;

/// What of a network that is to be made was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its addresses; `None`: a free subnet is chosen.
    pub subnet: Option<Subnet>,
    /// The address nobody gets; `None`: the subnet's first one.
    pub gateway: Option<Ipv4Addr>,
    /// The part of the subnet that addresses are chosen from.
    pub range: Option<Subnet>,
    /// Whether there is no way out by it.
    pub internal: bool,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// Options, for people.
    pub options: BTreeMap<String, String>,
}

/// What of a network is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Too few or too many addresses.
    #[error("subnet {0} cannot be a network: use a prefix length from 12 to 29")]
    Prefix(Subnet),
    /// Not for single stations of a private network.
    #[error(
        "subnet {0} cannot be a network: its addresses are for loopback, link-local or group use"
    )]
    Kind(Subnet),
    /// It shares addresses with another network of its pool.
    #[error("subnet {subnet} overlaps {other} of network {name}: use another one")]
    Overlap {
        /// What was asked for.
        subnet: Subnet,
        /// The other's.
        other: Subnet,
        /// The other's name.
        name: String,
    },
    /// The gateway is elsewhere.
    #[error("gateway {0} is not an address of the subnet that can be used")]
    Gateway(Ipv4Addr),
    /// The range is elsewhere.
    #[error("range {0} is not a part of the subnet")]
    Range(Subnet),
    /// No subnet is left.
    #[error("no subnet is left for another network: name one with addresses of your own")]
    NoSubnet,
    /// Too many networks of one workload.
    #[error("a container can be on {ENDPOINTS_MAX} networks at most")]
    TooMany,
    /// The same network twice.
    #[error("network {0} is named twice")]
    Twice(String),
    /// A name that the domain name system cannot have.
    #[error("\"{0}\" cannot be a name on a network: use letters, digits, '-', '_' and dots")]
    Alias(String),
}

/// What networks of a pool have their addresses from if nothing is said: those Docker takes by default, which are known
/// to collide with little. They do not overlap what hosts take for their own bridges (172.30.0.0/16, 10.210.0.0/16,
/// 192.168.208.0/20).
fn candidates() -> impl Iterator<Item = Subnet> {
    let large = (17..30).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..13).map(|third| (Ipv4Addr::new(192, 168, third * 16, 0), 20));
    let more = (128..192).flat_map(|second| {
        (0..16).map(move |third| (Ipv4Addr::new(10, second, third * 16, 0), 20))
    });
    large
        .chain(small)
        .chain(more)
        .filter_map(|(base, prefix)| Subnet::containing(base, prefix))
}

/// A subnet that overlaps none of `taken`; `None`: all candidates do.
#[must_use]
pub fn choose_subnet(taken: &[Subnet]) -> Option<Subnet> {
    candidates().find(|candidate| !taken.iter().any(|other| other.overlaps(*candidate)))
}

/// Subnet and gateway of a network that is to be made. `others`: the networks its pool has, by name.
///
/// # Errors
/// When what was asked for cannot be.
pub fn check_form<'a>(
    new: &NewNetwork,
    others: impl Iterator<Item = (&'a str, Subnet)>,
) -> Result<(Subnet, Ipv4Addr), Invalid> {
    let others: Vec<(&str, Subnet)> = others.collect();
    let subnet = match new.subnet {
        Some(subnet) => subnet,
        None => {
            let taken: Vec<Subnet> = others.iter().map(|(_, subnet)| *subnet).collect();
            choose_subnet(&taken).ok_or(Invalid::NoSubnet)?
        }
    };
    if !PREFIXES.contains(&subnet.prefix()) {
        return Err(Invalid::Prefix(subnet));
    }
    let [first, second, ..] = subnet.base().octets();
    if matches!(first, 0 | 127 | 224..) || (first, second) == (169, 254) {
        return Err(Invalid::Kind(subnet));
    }
    if let Some((name, other)) = others.iter().find(|(_, other)| other.overlaps(subnet)) {
        return Err(Invalid::Overlap {
            subnet,
            other: *other,
            name: (*name).to_owned(),
        });
    }
    let gateway = new.gateway.unwrap_or(subnet.gateway());
    if !subnet.contains(gateway) || gateway == subnet.base() || gateway == subnet.broadcast() {
        return Err(Invalid::Gateway(gateway));
    }
    if let Some(range) = new.range.filter(|range| !subnet.covers(*range)) {
        return Err(Invalid::Range(range));
    }
    Ok((subnet, gateway))
}

/// Whether a workload may be attached like this.
///
/// # Errors
/// When it names too many networks, one twice, or names that cannot be.
pub fn check_endpoints(specs: &[EndpointSpec]) -> Result<(), Invalid> {
    if specs.len() > ENDPOINTS_MAX {
        return Err(Invalid::TooMany);
    }
    for (at, spec) in specs.iter().enumerate() {
        if specs[..at]
            .iter()
            .any(|other| other.network == spec.network)
        {
            return Err(Invalid::Twice(shown(&spec.network)));
        }
        if spec.aliases.len() > ALIASES_MAX {
            return Err(Invalid::TooMany);
        }
        if let Some(bad) = spec.aliases.iter().find(|alias| !is_dns_name(alias)) {
            return Err(Invalid::Alias(shown(bad)));
        }
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= NAME_BYTES
        && !text.eq_ignore_ascii_case("localhost")
        && text.split('.').all(label)
}

#[cfg(test)]
pub(super) mod tests {
    use model::{Name, Network, NetworkId, PoolId, Timestamp, Vni};

    use super::*;

    pub(crate) fn network(subnet: &str) -> Network {
        let subnet: Subnet = subnet.parse().unwrap();
        Network {
            id: NetworkId::from_bytes(&[1; 32]),
            pool: PoolId::from_bytes(&[2; 32]),
            name: Name::parse("web").unwrap(),
            vni: Vni::FIRST,
            subnet,
            gateway: subnet.gateway(),
            range: None,
            internal: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            created_at: Timestamp(0),
        }
    }

    fn form(subnet: &str) -> Result<(Subnet, Ipv4Addr), Invalid> {
        let subnet = Some(subnet.parse().unwrap());
        let new = NewNetwork {
            subnet,
            ..NewNetwork::default()
        };
        check_form(&new, [("web", "10.9.0.0/24".parse().unwrap())].into_iter())
    }

    #[test]
    fn chosen_subnets_never_overlap_each_other() {
        let mut taken = Vec::new();
        while let Some(subnet) = choose_subnet(&taken) {
            taken.push(subnet);
        }
        assert_eq!(taken[0].to_string(), "172.17.0.0/16");
        assert_eq!(taken.len(), 13 + 13 + 64 * 16);
    }

    #[test]
    fn a_network_has_room_and_its_own_addresses() {
        assert_eq!(
            form("10.1.0.0/24"),
            Ok(("10.1.0.0/24".parse().unwrap(), Ipv4Addr::new(10, 1, 0, 1)))
        );
        for bad in [
            "10.0.0.0/8",
            "10.1.0.0/30",
            "127.0.0.0/16",
            "169.254.0.0/16",
            "224.0.0.0/16",
            "0.0.0.0/16",
            "10.9.0.128/25",
            "10.8.0.0/15",
        ] {
            assert!(form(bad).is_err(), "{bad}");
        }
        let new = |gateway: &str, range: &str| NewNetwork {
            subnet: Some("10.1.0.0/24".parse().unwrap()),
            gateway: Some(gateway.parse().unwrap()),
            range: Some(range.parse().unwrap()),
            ..NewNetwork::default()
        };
        let check = |new: NewNetwork| check_form(&new, std::iter::empty());
        assert!(check(new("10.1.0.254", "10.1.0.128/25")).is_ok());
        assert!(check(new("10.1.0.255", "10.1.0.128/25")).is_err());
        assert!(check(new("10.1.1.1", "10.1.0.128/25")).is_err());
        assert!(check(new("10.1.0.1", "10.1.0.0/23")).is_err());
    }

    #[test]
    fn names_on_networks_are_names_of_the_domain_name_system() {
        let spec = |alias: &str| EndpointSpec {
            aliases: vec![alias.to_owned()],
            ..EndpointSpec::on("web")
        };
        for good in ["db", "db-1.x", "my_db", "0"] {
            assert_eq!(check_endpoints(&[spec(good)]), Ok(()), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "*", "a b", "a\nb", ".", "a..b", "localhost", &long] {
            assert!(check_endpoints(&[spec(bad)]).is_err(), "{bad}");
        }
        let twice = [EndpointSpec::on("a"), EndpointSpec::on("a")];
        assert!(check_endpoints(&twice).is_err());
    }
}
