//! From one division of a limit to the next: shrink first, wait for the host's word, then grow elsewhere.
//!
//! A pure function over what is stored and what hosts have said, so that any server can go on where another stopped.
//! What always holds: whatever of what a host was told it applies, and whenever, the sum over all hosts never passes
//! the limit. After the limit itself was lowered, nothing grows until the hosts have said that they shrank.

use std::collections::BTreeMap;

/// One host's part of a limit, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// What it was told last; `None`: nothing was said of the limit.
    pub told: Option<u64>,
    /// The most that may be in force there, by everything it was told and has confirmed; `u64::MAX` without bounds.
    pub most: u64,
    /// Whether it can be told something now.
    pub reachable: bool,
}

/// What to tell next, by host; only what differs from what was told. `targets` add up to no more than `limit`; a host
/// without target is to get nothing.
#[must_use]
pub fn step<H: Ord + Clone>(
    limit: u64,
    targets: &BTreeMap<H, u64>,
    standing: &BTreeMap<H, Standing>,
) -> BTreeMap<H, u64> {
    let target = |host: &H| targets.get(host).copied().unwrap_or(0);
    let in_force = standing
        .values()
        .map(|it| it.most)
        .fold(0, u64::saturating_add);
    let mut free = limit.saturating_sub(in_force);
    let mut news = BTreeMap::new();
    for (host, it) in standing.iter().filter(|(_, it)| it.reachable) {
        let wanted = target(host);
        let next = if it.told.is_none_or(|told| told > wanted) && wanted <= it.most {
            wanted
        } else {
            // Growing beyond what may be in force takes of what is free. Without bounds, nothing is known to be its own.
            let own = if it.most < u64::MAX {
                it.most
            } else {
                it.told.unwrap_or(0)
            };
            let next = wanted.min(own.saturating_add(free));
            free -= next.saturating_sub(own);
            next
        };
        if it.told != Some(next) {
            news.insert(host.clone(), next);
        }
    }
    for (host, wanted) in targets {
        if !standing.contains_key(host) {
            let next = (*wanted).min(free);
            free -= next;
            news.insert(host.clone(), next);
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(told: u64, most: u64) -> Standing {
        Standing {
            told: Some(told),
            most,
            reachable: true,
        }
    }

    #[test]
    fn what_one_gives_up_another_gets_once_it_is_confirmed() {
        let targets = BTreeMap::from([(1, 30), (2, 70)]);
        let before = BTreeMap::from([(1, at(50, 50)), (2, at(50, 50))]);
        assert_eq!(step(100, &targets, &before), [(1, 30)].into());
        let told = BTreeMap::from([(1, at(30, 50)), (2, at(50, 50))]);
        assert_eq!(step(100, &targets, &told), [].into());
        let confirmed = BTreeMap::from([(1, at(30, 30)), (2, at(50, 50))]);
        assert_eq!(step(100, &targets, &confirmed), [(2, 70)].into());
    }

    #[test]
    fn a_host_that_cannot_be_reached_keeps_its_part() {
        let mut away = at(60, 60);
        away.reachable = false;
        let standing = BTreeMap::from([(1, away), (2, at(40, 40))]);
        assert_eq!(step(100, &[(2, 100)].into(), &standing), [].into());
    }

    #[test]
    fn a_new_limit_is_told_at_once_and_grows_for_nobody_before_it_is_in_force() {
        let free = Standing {
            told: None,
            most: u64::MAX,
            reachable: true,
        };
        let standing = BTreeMap::from([(1, free), (2, free)]);
        let news = step(100, &[(1, 60), (2, 40)].into(), &standing);
        assert_eq!(news, [(1, 60), (2, 40)].into());
        // A third host gets nothing as long as one of them may be without bounds.
        let half = BTreeMap::from([(1, at(60, 60)), (2, at(40, u64::MAX))]);
        let news = step(100, &[(1, 30), (2, 30), (3, 40)].into(), &half);
        assert_eq!(news, [(1, 30), (2, 30), (3, 0)].into());
    }

    /// A host in the property: what it was told and has not taken yet, and what is in force.
    #[derive(Debug, Clone, Default)]
    struct Real {
        told: Vec<u64>,
        in_force: u64,
        /// The most that the server must reckon with, as it keeps it: after each word the newest told only.
        most: u64,
    }

    proptest! {
        /// Hosts take what they are told late, in order, or never; targets and limit change at any time.
        #[test]
        fn the_limit_is_never_passed(
            aims in proptest::collection::vec((1..1000u64, proptest::collection::vec(0..400u64, 4)), 1..6),
            chances in proptest::collection::vec((0..4usize, any::<bool>()), 0..60),
        ) {
            let mut hosts: BTreeMap<usize, Real> = (0..4).map(|h| (h, Real::default())).collect();
            let mut chances = chances.into_iter();
            let mut limit = 0;
            let standing = |hosts: &BTreeMap<usize, Real>| -> BTreeMap<usize, Standing> {
                let of = |real: &Real| at(real.told.last().copied().unwrap_or(real.in_force), real.most);
                hosts.iter().map(|(h, real)| (*h, of(real))).collect()
            };
            let tell = |hosts: &mut BTreeMap<usize, Real>, limit, targets: &BTreeMap<usize, u64>| {
                for (host, value) in step(limit, targets, &standing(hosts)) {
                    let real = hosts.get_mut(&host).unwrap();
                    real.told.push(value);
                    real.most = real.most.max(value);
                }
            };
            let mut targets = BTreeMap::new();
            for (next, weights) in aims {
                targets = (0..).zip(crate::entitle::fair::spread(next, &weights)).collect();
                limit = next;
                for (host, takes) in chances.by_ref().take(10) {
                    let before: u64 = hosts.values().map(|real| real.most).sum();
                    tell(&mut hosts, limit, &targets);
                    let most: u64 = hosts.values().map(|real| real.most).sum();
                    prop_assert!(most <= limit.max(before));
                    let real = hosts.get_mut(&host).unwrap();
                    if takes && !real.told.is_empty() {
                        real.in_force = real.told.remove(0);
                        if real.told.is_empty() {
                            real.most = real.in_force;
                        }
                    }
                    let sum: u64 = hosts.values().map(|real| real.in_force).sum();
                    prop_assert!(sum <= most);
                }
            }
            for _ in 0..20 {
                tell(&mut hosts, limit, &targets);
                for real in hosts.values_mut() {
                    real.in_force = real.told.pop().unwrap_or(real.in_force);
                    real.told.clear();
                    real.most = real.in_force;
                }
            }
            let reached: BTreeMap<usize, u64> = hosts.iter().map(|(h, real)| (*h, real.in_force)).collect();
            prop_assert_eq!(reached, targets);
        }
    }
}
