//! How much of what is reserved could be given at all, when nobody moves: a flow from pools over hosts.

/// The most that pools can get together.
///
/// `wanted`: by pool; `places`: by pool, what it wants on each host; `rooms`: what each host has.
pub(super) fn most(wanted: &[u64], places: &[Vec<u64>], rooms: &[u64]) -> u64 {
    let mut flow = Flow {
        pools: wanted.to_vec(),
        left: places.to_vec(),
        given: vec![vec![0; rooms.len()]; wanted.len()],
        rooms: rooms.to_vec(),
    };
    let mut sum = 0;
    for pool in 0..wanted.len() {
        while flow.pools[pool] > 0 {
            let more = flow.push(pool, flow.pools[pool], &mut vec![false; wanted.len()]);
            if more == 0 {
                break;
            }
            flow.pools[pool] -= more;
            sum += more;
        }
    }
    sum
}

struct Flow {
    /// What each pool still wants.
    pools: Vec<u64>,
    /// By pool and host, what it could still use there.
    left: Vec<Vec<u64>>,
    given: Vec<Vec<u64>>,
    rooms: Vec<u64>,
}

impl Flow {
    /// Gives a pool up to so much more, moving others to hosts where they want something too; how much.
    fn push(&mut self, pool: usize, wanted: u64, seen: &mut [bool]) -> u64 {
        seen[pool] = true;
        for host in 0..self.rooms.len() {
            let here = wanted.min(self.left[pool][host]);
            if here == 0 {
                continue;
            }
            let mut more = here.min(self.rooms[host]);
            if more > 0 {
                self.rooms[host] -= more;
            } else {
                for other in 0..self.pools.len() {
                    if seen[other] || self.given[other][host] == 0 {
                        continue;
                    }
                    more = self.push(other, here.min(self.given[other][host]), seen);
                    if more > 0 {
                        self.given[other][host] -= more;
                        self.left[other][host] += more;
                        break;
                    }
                }
            }
            if more > 0 {
                self.left[pool][host] -= more;
                self.given[pool][host] += more;
                return more;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::most;

    #[test]
    fn who_can_go_elsewhere_makes_room() {
        // The first pool fills the first host; the second one only has that.
        let places = [vec![10, 10], vec![10, 0]];
        assert_eq!(most(&[10, 10], &places, &[10, 10]), 20);
        assert_eq!(most(&[10, 10], &places, &[10, 4]), 14);
        assert_eq!(most(&[3, 10], &places, &[10, 4]), 13);
    }
}
