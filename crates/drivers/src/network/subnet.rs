//! IPv4 subnets, and the choice of one that does not overlap what the host already routes.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IPv4 network in CIDR notation, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// Text that is not an IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an IPv4 network such as 172.30.0.0/20")]
pub struct InvalidSubnet(pub String);

/// Some subnet, for trials.
pub(super) const TRIAL: Subnet = Subnet {
    base: 0xc000_0200, // 192.0.2.0, for documentation (RFC 5737)
    prefix: 24,
};

impl Subnet {
    /// The network that an address with a prefix length lies in; `None` if the prefix is longer than 32.
    #[must_use]
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let base = u32::from(address) & mask(prefix)?;
        Some(Self { base, prefix })
    }

    /// Length of the prefix.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The `index`th address, the network's own being 0; `None` past the end.
    #[must_use]
    pub fn nth(self, index: u32) -> Option<Ipv4Addr> {
        (u64::from(index) < self.size()).then(|| Ipv4Addr::from(self.base + index))
    }

    /// How many addresses it has, network and broadcast included.
    #[must_use]
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The first usable address: the bridge's.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + u32::try_from(self.size() - 1).unwrap_or(u32::MAX))
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        Self::containing(address, self.prefix) == Some(self)
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let prefix = self.prefix.min(other.prefix);
        Self::containing(Ipv4Addr::from(self.base), prefix)
            == Self::containing(Ipv4Addr::from(other.base), prefix)
    }
}

fn mask(prefix: u8) -> Option<u32> {
    match prefix {
        0 => Some(0),
        1..=32 => Some(u32::MAX << (32 - u32::from(prefix))),
        33.. => None,
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;
    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let invalid = || InvalidSubnet(text.chars().take(80).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let subnet = Self::containing(address, prefix).ok_or_else(invalid)?;
        if subnet.base == u32::from(address) {
            Ok(subnet)
        } else {
            Err(invalid())
        }
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Prefix length of a chosen subnet: 4,093 workloads per host are more than its memory carries.
const CHOSEN_PREFIX: u8 = 20;

/// Blocks that subnets are chosen from. Private (RFC 1918), and outside what dockerd (172.17-172.29, 192.168),
/// libvirt (192.168.122) and Kubernetes set-ups (10.0, 10.42-10.43, 10.96, 10.244) take by default.
const BLOCKS: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(172, 30, 0, 0), 16),
    (Ipv4Addr::new(10, 210, 0, 0), 16),
    (Ipv4Addr::new(192, 168, 208, 0), 20),
];

/// Chooses a subnet that overlaps none of `taken`. `seed` spreads hosts over a block, so that addresses of two hosts
/// rarely look alike in logs; any seed is correct.
pub(super) fn choose(taken: &[Subnet], seed: u64) -> Option<Subnet> {
    for (base, prefix) in BLOCKS {
        let block = Subnet::containing(base, prefix)?;
        let count = 1_u64 << (CHOSEN_PREFIX - prefix);
        for step in 0..count {
            let offset = ((seed + step) % count) << (32 - CHOSEN_PREFIX);
            let base = block.nth(u32::try_from(offset).ok()?)?;
            let candidate = Subnet::containing(base, CHOSEN_PREFIX)?;
            if !taken.iter().any(|other| other.overlaps(candidate)) {
                return Some(candidate);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn text_is_checked_and_round_trips() {
        assert_eq!(net("172.30.16.0/20").to_string(), "172.30.16.0/20");
        for bad in [
            "",
            "172.30.0.0",
            "172.30.0.1/20",
            "172.30.0.0/33",
            "a/8",
            "::/0",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        assert_eq!(net("10.0.0.0/30").gateway(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(net("10.0.0.0/30").broadcast(), Ipv4Addr::new(10, 0, 0, 3));
        assert_eq!(net("10.0.0.0/30").nth(4), None);
    }

    #[test]
    fn the_choice_avoids_what_is_routed() {
        assert_eq!(choose(&[], 0), Some(net("172.30.0.0/20")));
        assert_eq!(choose(&[], 17), Some(net("172.30.16.0/20")));
        let first = net("172.30.0.0/20");
        assert_eq!(choose(&[first], 0), Some(net("172.30.16.0/20")));
        assert_eq!(
            choose(&[net("172.16.0.0/12")], 3),
            Some(net("10.210.48.0/20"))
        );
        let all = [
            net("172.16.0.0/12"),
            net("10.0.0.0/8"),
            net("192.168.0.0/16"),
        ];
        assert_eq!(choose(&all, 3), None);
    }
}
