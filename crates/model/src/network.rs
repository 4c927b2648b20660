//! Networks: segments owned by pools, and the endpoints workloads have on them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{InvalidId, Name, NetworkId, PoolId, Subnet, Timestamp};

/// Name of the network every pool has, and that workloads are on that name none.
pub const DEFAULT_NETWORK: &str = "default";

/// A segment of the second layer that spans hosts, owned by a pool.
///
/// Its number, subnet and gateway never change, so that what was made of them on hosts stays right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Identity for life.
    pub id: NetworkId,
    /// The pool that owns it.
    pub pool: PoolId,
    /// Unique in its pool.
    pub name: Name,
    /// Its number on the wire between hosts; unique in the installation.
    pub vni: Vni,
    /// Addresses of its endpoints. Subnets of different pools may overlap.
    pub subnet: Subnet,
    /// An address nobody gets; the way out is not through it, see [`Network::internal`].
    pub gateway: Ipv4Addr,
    /// The part of the subnet that addresses are chosen from; `None`: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Subnet>,
    /// Whether workloads that are on such networks only have no way out of them.
    #[serde(default)]
    pub internal: bool,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Options as they were given, for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Network {
    /// Whether it is the one its pool always has.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.name.as_str() == DEFAULT_NETWORK
    }
}

/// A workload's attachment to a network. It keeps its address over starts and moves until the workload leaves the
/// network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which network.
    pub network: NetworkId,
    /// Further names of the workload on this network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its address; `None` until the workload is first placed, unless it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Whether the address was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed: bool,
    /// Hardware address that was asked for; `None`: made from the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

impl Endpoint {
    /// Address and hardware address, once it has them.
    #[must_use]
    pub fn addresses(&self) -> Option<(Ipv4Addr, Mac)> {
        let address = self.address?;
        Some((address, self.mac.unwrap_or(Mac::of(address))))
    }
}

/// What is asked for when a workload is attached to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The network's name or id.
    pub network: String,
    /// Further names of the workload on this network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// A certain address; `None`: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// A certain hardware address; `None`: one made from the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

impl EndpointSpec {
    /// On a network, without wishes.
    #[must_use]
    pub fn on(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            aliases: Vec::new(),
            address: None,
            mac: None,
        }
    }
}

/// Number of a network on the wire between hosts (VXLAN network identifier): 24 bits, not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vni(u32);

impl Vni {
    /// The lowest number that is given out: those below are left to whatever else uses VXLAN on the hosts.
    pub const FIRST: Self = Self(4096);
    /// The highest number.
    pub const LAST: Self = Self((1 << 24) - 1);

    /// Takes a number; `None`: it has more than 24 bits or is 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::LAST.0).contains(&number).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// The next one to be given out after this one; after the last comes the first.
    #[must_use]
    pub fn following(self) -> Self {
        if self.0 >= Self::LAST.0 {
            Self::FIRST
        } else {
            Self((self.0 + 1).max(Self::FIRST.0))
        }
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(d)?;
        Self::new(number)
            .ok_or_else(|| serde::de::Error::custom("a network's number has 24 bits and is not 0"))
    }
}

/// A hardware address of one station.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The hardware address that belongs to an address; 02 means "locally administered".
    #[must_use]
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// Its bytes.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = InvalidId;
    /// Six bytes in hexadecimal between colons or dashes; neither zero nor that of a group.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let bytes: Vec<u8> = parts
            .iter()
            .filter(|part| part.len() == 2 && !part.starts_with('+'))
            .filter_map(|part| u8::from_str_radix(part, 16).ok())
            .collect();
        let bytes: Option<[u8; 6]> = bytes.try_into().ok().filter(|_| parts.len() == 6);
        match bytes {
            Some(bytes) if bytes != [0; 6] && bytes[0] & 1 == 0 => Ok(Self(bytes)),
            _ => Err(InvalidId {
                kind: "hardware address",
                value: text
                    .chars()
                    .take(80)
                    .flat_map(char::escape_default)
                    .collect(),
                rule: "use six hexadecimal bytes such as 02:42:ac:11:00:02, not those of a group",
            }),
        }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_networks_have_24_bits_and_go_round() {
        assert_eq!(Vni::new(0), None);
        assert_eq!(Vni::new(1 << 24), None);
        assert_eq!(Vni::LAST.following(), Vni::FIRST);
        assert_eq!(Vni::FIRST.following().number(), 4097);
        assert_eq!(Vni::new(7).map(Vni::following), Some(Vni::FIRST));
        assert!(serde_json::from_str::<Vni>("16777216").is_err());
    }

    #[test]
    fn hardware_addresses_are_of_single_stations() {
        let mac: Mac = "02:42:AC:11:00:02".parse().unwrap();
        assert_eq!(mac, Mac::of(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "02:42:ac:11:00:+2",
            "02:42:ac:11:00:zz",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
