//! IPv4 subnets.

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

impl Subnet {
    /// 192.0.2.0/24, for documentation and trials (RFC 5737).
    pub const DOCUMENTATION: Self = Self {
        base: 0xc000_0200,
        prefix: 24,
    };

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
        Ipv4Addr::from(self.base.saturating_add(1))
    }

    /// Its own address, the lowest one.
    #[must_use]
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
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

    /// Whether every address of `other` lies in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.prefix >= self.prefix && self.contains(other.base())
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
}
