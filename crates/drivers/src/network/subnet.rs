//! The choice of a subnet that does not overlap what the host already routes.

use std::net::Ipv4Addr;

use model::Subnet;

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
