//! Powers of one half, in fixed point.

use base::Time;
use std::time::Duration;

/// 2^(-1/2^k) for k = 0 … 40, in units of 2^-62, each the square root of the one before.
const ROOTS: [u64; 41] = {
    let mut roots = [0; 41];
    let mut root: u128 = 1 << 61;
    let mut k = 0;
    while k < 41 {
        roots[k] = root as u64;
        root = (root << 62).isqrt();
        k += 1;
    }
    roots
};

/// 2^(-elapsed/half_life) in units of 2^-62: 1 is 2^62, and it is 0 from 62 half-lives on.
///
/// The exponent's binary digits choose the roots that are multiplied, so the result is the same on
/// every machine, to about 2^-40.
fn remaining(elapsed: Duration, half_life: Duration) -> u64 {
    let half_life = half_life.as_nanos().max(1);
    let (whole, rest) = (elapsed.as_nanos() / half_life, elapsed.as_nanos() % half_life);
    if whole >= 62 {
        return 0;
    }
    let mut left: u64 = (1 << 62) >> whole;
    let mut rest = rest;
    for root in &ROOTS[1..] {
        rest *= 2;
        if rest >= half_life {
            rest -= half_life;
            left = ((u128::from(left) * u128::from(*root)) >> 62) as u64;
        }
    }
    left
}

/// `weight` after the time from `then` to `now`: half of it after each half-life, rounded down.
/// Time that goes backward changes nothing.
#[must_use]
pub(crate) fn decayed(weight: u64, then: Time, now: Time, half_life: Duration) -> u64 {
    ((u128::from(weight) * u128::from(remaining(now - then, half_life))) >> 62) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the floating point of the machine that runs the test.
    #[test]
    fn it_is_a_power_of_one_half() {
        let half_life = Duration::from_secs(86_400);
        for seconds in (0..10_000_000).step_by(997) {
            let got = remaining(Duration::from_secs(seconds), half_life) as f64 / 2f64.powi(62);
            let exact = (-(seconds as f64) / 86_400.0).exp2();
            assert!((got - exact).abs() < 1e-11, "{seconds}: {got} {exact}");
        }
        assert_eq!(remaining(half_life, half_life), 1 << 61);
        assert_eq!(remaining(Duration::MAX, half_life), 0);
    }
}
