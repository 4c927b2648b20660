//! Weighted max–min fair division of a whole number, exact to the last unit.

/// One who shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Weight; 0 counts as 1. At most 2⁴⁴, so that nothing overflows.
    pub weight: u64,
    /// Gets at least this, if there is enough for all `low`.
    pub low: u64,
    /// Gets at most this; at least `low`.
    pub high: u64,
}

/// Divides `amount`: everybody gets `weight · λ`, held between `low` and `high`, with one λ for all.
///
/// The parts add up to `amount`, or to the sum of all `high` if that is less. If not even all `low` fit, they are
/// reduced in proportion. Rounding goes to whoever comes first.
#[must_use]
pub fn divide(amount: u64, parts: &[Part]) -> Vec<u64> {
    let lows: u128 = parts.iter().map(|part| u128::from(part.low)).sum();
    if lows >= u128::from(amount) {
        let lows: Vec<u64> = parts.iter().map(|part| part.low).collect();
        return in_proportion(amount, &lows);
    }
    let highs: u128 = parts.iter().map(|part| u128::from(part.high)).sum();
    if highs <= u128::from(amount) {
        return parts.iter().map(|part| part.high).collect();
    }
    let level = level(amount, parts, lows);
    let mut given: Vec<u64> = Vec::with_capacity(parts.len());
    let mut left = u128::from(amount);
    for part in parts {
        let share = level.of(part).0;
        left -= u128::from(share);
        given.push(share);
    }
    for (share, part) in given.iter_mut().zip(parts) {
        if left == 0 {
            break;
        }
        let (_, inexact) = level.of(part);
        if inexact {
            *share += 1;
            left -= 1;
        }
    }
    given
}

/// λ as a fraction.
struct Level {
    amount: u128,
    weight: u128,
}

impl Level {
    /// What a part gets, rounded down, and whether that is less than its due.
    fn of(&self, part: &Part) -> (u64, bool) {
        let product = self.amount * u128::from(part.weight.max(1));
        let (due, rest) = (product / self.weight, product % self.weight);
        if due >= u128::from(part.high) {
            return (part.high, false);
        }
        let due = u64::try_from(due).unwrap_or(part.high);
        if due < part.low {
            return (part.low, false);
        }
        (due, rest > 0)
    }
}

/// Finds λ: between two neighbouring points where somebody leaves `low` or reaches `high`, the sum grows evenly.
fn level(amount: u64, parts: &[Part], lows: u128) -> Level {
    /// At λ = `at` / `weight`, the part's weight joins (it leaves `low`) or leaves (it reaches `high`).
    struct Turn {
        at: u64,
        weight: u64,
        joins: bool,
    }
    let mut turns: Vec<Turn> = Vec::with_capacity(parts.len() * 2);
    for part in parts.iter().filter(|part| part.high > part.low) {
        let weight = part.weight.max(1);
        let turn = |at, joins| Turn { at, weight, joins };
        turns.push(turn(part.low, true));
        turns.push(turn(part.high, false));
    }
    turns.sort_unstable_by(|a, b| {
        let left = u128::from(a.at) * u128::from(b.weight);
        let right = u128::from(b.at) * u128::from(a.weight);
        left.cmp(&right).then(b.joins.cmp(&a.joins))
    });
    let amount = u128::from(amount);
    let (mut fixed, mut active) = (lows, 0u128);
    for turn in &turns {
        let (at, weight) = (u128::from(turn.at), u128::from(turn.weight));
        if active > 0 && (amount - fixed) * weight <= active * at {
            break;
        }
        if turn.joins {
            fixed -= at;
            active += weight;
        } else {
            fixed += at;
            active -= weight;
        }
    }
    Level {
        amount: amount - fixed,
        weight: active.max(1),
    }
}

/// Divides `amount` in proportion to `wanted`, nobody more than that; the parts add up to the lesser of `amount` and the
/// sum of `wanted`.
#[must_use]
pub fn in_proportion(amount: u64, wanted: &[u64]) -> Vec<u64> {
    let sum: u128 = wanted.iter().map(|it| u128::from(*it)).sum();
    if sum <= u128::from(amount) {
        return wanted.to_vec();
    }
    let mut left = amount;
    let mut inexact = Vec::with_capacity(wanted.len());
    let mut given: Vec<u64> = wanted
        .iter()
        .map(|it| {
            let product = u128::from(amount) * u128::from(*it);
            inexact.push(product % sum > 0);
            let share = u64::try_from(product / sum).unwrap_or(amount);
            left -= share;
            share
        })
        .collect();
    for (share, inexact) in given.iter_mut().zip(inexact) {
        if left == 0 {
            break;
        }
        if inexact {
            *share += 1;
            left -= 1;
        }
    }
    given
}

/// Divides all of `amount` by weight, without bounds; a weight of 0 counts as 1.
#[must_use]
pub fn spread(amount: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|it| u128::from((*it).max(1))).sum();
    let mut left = amount;
    let mut given: Vec<u64> = weights
        .iter()
        .map(|weight| {
            let product = u128::from(amount) * u128::from((*weight).max(1));
            let share = u64::try_from(product / sum).unwrap_or(amount);
            left -= share;
            share
        })
        .collect();
    // Less than one unit each is left over.
    for share in &mut given {
        if left == 0 {
            break;
        }
        *share += 1;
        left -= 1;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(weight: u64, low: u64, high: u64) -> Part {
        Part { weight, low, high }
    }

    #[test]
    fn weights_decide_between_floor_and_ceiling() {
        let parts = [part(1, 0, 100), part(3, 0, 100)];
        assert_eq!(divide(40, &parts), [10, 30]);
        let capped = [part(1, 0, 100), part(3, 0, 20)];
        assert_eq!(divide(40, &capped), [20, 20]);
        let floored = [part(1, 25, 100), part(3, 0, 100)];
        assert_eq!(divide(40, &floored), [25, 15]);
    }

    #[test]
    fn what_does_not_divide_goes_to_the_first() {
        assert_eq!(
            divide(10, &[part(1, 0, 9), part(1, 0, 9), part(1, 0, 9)]),
            [4, 3, 3]
        );
    }

    #[test]
    fn floors_that_do_not_fit_are_reduced_in_proportion() {
        assert_eq!(divide(9, &[part(1, 6, 9), part(1, 12, 20)]), [3, 6]);
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let amount = prop_oneof![0..20u64, 0..1u64 << 50];
        let one = (prop_oneof![0..5u64, 0..1u64 << 44], amount.clone(), amount)
            .prop_map(|(weight, a, b)| part(weight, a.min(b), a.max(b)));
        proptest::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn the_parts_add_up_and_stay_in_their_bounds(parts in parts(), amount in prop_oneof![0..100u64, 0..1u64 << 54]) {
            let given = divide(amount, &parts);
            let sum: u64 = given.iter().sum();
            let highs: u64 = parts.iter().map(|part| part.high).sum();
            prop_assert_eq!(sum, amount.min(highs));
            let lows: u64 = parts.iter().map(|part| part.low).sum();
            for (share, part) in given.iter().zip(&parts) {
                prop_assert!(*share <= part.high);
                prop_assert!(lows > amount || *share >= part.low);
            }
        }

        #[test]
        fn all_is_spread(weights in proptest::collection::vec(0..1u64 << 50, 1..9), amount in 0..1u64 << 54) {
            prop_assert_eq!(spread(amount, &weights).iter().sum::<u64>(), amount);
        }

        /// Max–min: whoever is below its ceiling has, per weight, no less (but for rounding) than anybody above its floor.
        #[test]
        fn nobody_could_get_more_without_someone_weaker_getting_less(parts in parts(), amount in 0..1u64 << 54) {
            let given = divide(amount, &parts);
            let lows: u64 = parts.iter().map(|part| part.low).sum();
            prop_assume!(lows <= amount);
            for (poor, a) in given.iter().zip(&parts).filter(|(share, part)| **share < part.high) {
                for (rich, b) in given.iter().zip(&parts).filter(|(share, part)| **share > part.low) {
                    let (wa, wb) = (u128::from(a.weight.max(1)), u128::from(b.weight.max(1)));
                    prop_assert!((u128::from(*poor) + 1) * wb >= (u128::from(*rich) - 1) * wa);
                }
            }
        }
    }
}
