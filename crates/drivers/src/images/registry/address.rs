//! Which addresses may be contacted for a user.
//!
//! A registry tells its clients where to fetch tokens and blobs. Without a rule it could send a host to the metadata
//! service of its cloud or to machines only the host can reach (CVE-2026-48978). The rule looks at the address a name
//! resolved to, so a name that points inside is no way around.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::images::error::ImagesError;

/// How far inside an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The public internet.
    Public,
    /// Private networks.
    Private,
    /// This host.
    Loopback,
}

/// Classifies an address; `Err` tells why it is never contacted.
pub(super) fn reach(address: IpAddr) -> Result<Reach, &'static str> {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => reach_v4(v4),
            None => reach_v6(v6),
        },
    }
}

fn reach_v4(address: Ipv4Addr) -> Result<Reach, &'static str> {
    let [a, b, ..] = address.octets();
    if address.is_link_local() {
        Err("link-local addresses belong to the machine (metadata services live there)")
    } else if a == 0 || address.is_broadcast() || a >= 224 {
        Err("it is not the address of one machine")
    } else if address.is_loopback() {
        Ok(Reach::Loopback)
    } else if address.is_private() || (a == 100 && (64..128).contains(&b)) {
        // 100.100.100.200 is a metadata service, too; the range is for carriers.
        if address == Ipv4Addr::new(100, 100, 100, 200) {
            return Err("it is the metadata service of a cloud");
        }
        Ok(Reach::Private)
    } else {
        Ok(Reach::Public)
    }
}

fn reach_v6(address: Ipv6Addr) -> Result<Reach, &'static str> {
    let first = address.segments()[0];
    if first & 0xffc0 == 0xfe80 {
        Err("link-local addresses belong to the machine (metadata services live there)")
    } else if address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
        Err("it is the metadata service of a cloud")
    } else if address.is_unspecified() || address.is_multicast() {
        Err("it is not the address of one machine")
    } else if address.is_loopback() {
        Ok(Reach::Loopback)
    } else if first & 0xfe00 == 0xfc00 {
        Ok(Reach::Private)
    } else {
        Ok(Reach::Public)
    }
}

/// IPv4 inside IPv6: mapped, compatible, NAT64 and 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let last = Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last),
        [0, 0, 0, 0, 0, 0, hi, _] if hi != 0 => Some(last),
        [0x2002, hi, lo, ..] => Some(Ipv4Addr::from((u32::from(hi) << 16) | u32::from(lo))),
        _ => None,
    }
}

/// Checks an address that a registry at `registry` sends us to; `None` for the registry itself.
pub(super) fn check(
    host: &str,
    address: IpAddr,
    registry: Option<Reach>,
) -> Result<Reach, ImagesError> {
    let refuse = |reason| ImagesError::ForbiddenAddress {
        address: format!("{host} ({address})"),
        reason,
    };
    let found = reach(address).map_err(refuse)?;
    match registry {
        Some(registry) if found > registry => Err(refuse(
            "a registry must not send its clients further inside than it is itself",
        )),
        Some(_) | None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_never_contacted() {
        for bad in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "::169.254.169.254",
        ] {
            assert!(check("x", bad.parse().unwrap(), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn nobody_is_sent_further_inside() {
        let public = Some(Reach::Public);
        assert!(check("x", "10.0.0.1".parse().unwrap(), public).is_err());
        assert!(check("x", "127.0.0.1".parse().unwrap(), public).is_err());
        assert!(check("x", "::1".parse().unwrap(), Some(Reach::Private)).is_err());
        assert!(check("x", "192.168.1.1".parse().unwrap(), Some(Reach::Private)).is_ok());
        assert!(check("x", "8.8.8.8".parse().unwrap(), public).is_ok());
        assert!(check("x", "10.0.0.1".parse().unwrap(), None).is_ok());
    }
}
