use base::Ratio;
use std::fmt;

const MILLION: u128 = 1_000_000;

/// An amount of the network's token, in its smallest unit. There are no fractions of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Units(pub u64);

impl Units {
    /// Nothing.
    pub const ZERO: Units = Units(0);

    /// This part of the amount, rounded down: what is paid.
    #[must_use]
    pub const fn part_down(self, ratio: Ratio) -> Units {
        Units((self.0 as u128 * ratio.parts_per_million() as u128 / MILLION) as u64)
    }

    /// This part of the amount, rounded up: what is taken. So a part above zero of something is
    /// never nothing, and repeated taking reaches zero.
    #[must_use]
    pub const fn part_up(self, ratio: Ratio) -> Units {
        Units((self.0 as u128 * ratio.parts_per_million() as u128).div_ceil(MILLION) as u64)
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Splits `amount` in proportion to `weights`: the parts' sum is `amount`, each part is within one
/// unit of the exact share, and if `amount` is at most the sum of the weights, no part is above its
/// weight. (Hamilton's method of the largest remainders; of equal remainders the first.)
///
/// # Panics
/// If every weight is zero and `amount` is not: nobody could have it.
#[must_use]
pub fn apportion(amount: Units, weights: &[Units]) -> Vec<Units> {
    let total: u128 = weights.iter().map(|weight| u128::from(weight.0)).sum();
    if amount == Units::ZERO {
        return vec![Units::ZERO; weights.len()];
    }
    assert!(total > 0, "something is split among weights of zero");
    let amount = u128::from(amount.0);
    let mut parts = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    let mut given = 0;
    for (at, weight) in weights.iter().enumerate() {
        let exact = amount * u128::from(weight.0);
        given += exact / total;
        parts.push(Units((exact / total) as u64));
        remainders.push((std::cmp::Reverse(exact % total), at));
    }
    remainders.sort_unstable();
    // Fewer units are left than there are remainders above zero: each gets at most one, and none
    // without a remainder does.
    let left = (amount - given) as usize;
    for &(_, at) in &remainders[..left] {
        parts[at].0 += 1;
    }
    assert_eq!(parts.iter().map(|part| u128::from(part.0)).sum::<u128>(), amount);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn taking_a_part_again_and_again_reaches_zero() {
        let (mut stake, mut times) = (Units(10_000), 0);
        while stake > Units::ZERO {
            stake.0 -= stake.part_up(Ratio::percent(1)).0;
            times += 1;
        }
        assert_eq!(times, 517);
        assert_eq!(Units(u64::MAX).part_up(Ratio::ONE), Units(u64::MAX));
        assert_eq!(Units(99).part_down(Ratio::percent(1)), Units::ZERO);
    }

    #[test]
    fn parts_go_to_the_largest_remainders() {
        let parts = apportion(Units(10), &[Units(1), Units(1), Units(1)]);
        assert_eq!(parts, [Units(4), Units(3), Units(3)]);
        let parts = apportion(Units(1), &[Units(1), Units(2), Units(2)]);
        assert_eq!(parts, [Units(0), Units(1), Units(0)]);
        assert_eq!(apportion(Units(0), &[]), []);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nobody_gives_more_than_there_was(
            weights in proptest::collection::vec(prop_oneof![0..50u64, any::<u64>()], 1..101),
            draw in any::<u64>(),
        ) {
            let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
            prop_assume!(total > 0);
            let amount = u128::from(draw) % (total + 1);
            let weights: Vec<Units> = weights.into_iter().map(Units).collect();
            let parts = apportion(Units(amount as u64), &weights);
            prop_assert_eq!(parts.iter().map(|part| u128::from(part.0)).sum::<u128>(), amount);
            for (part, weight) in parts.iter().zip(&weights) {
                prop_assert!(part <= weight);
                // Within one of the exact share, by cross-multiplication.
                let (part, weight) = (u128::from(part.0), u128::from(weight.0));
                let floor = part.checked_mul(total).zip(amount.checked_mul(weight));
                if let Some((got, exact)) = floor {
                    prop_assert!(got.abs_diff(exact) < total);
                }
            }
        }
    }
}
