//! The phi accrual failure detector (Hayashibara, Défago, Yared, Katayama, 2004), in integers.

use base::Time;
use std::time::Duration;

/// -log10 of the upper tail of the normal distribution, in thousandths, at 0, 1/2, 1, … standard
/// deviations above the mean. Between them it is taken as straight, which is off by less than 0.04.
const PHI_MILLI: [u64; 21] = [
    301, 511, 799, 1_175, 1_643, 2_207, 2_870, 3_633, 4_499, 5_469, 6_543, 7_721, 9_006, 10_396,
    11_893, 13_496, 15_206, 17_023, 18_948, 20_980, 23_118,
];

/// How suspicious the silence of one node is, by the intervals at which it was heard before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phi {
    heard: Time,
    /// Of the intervals, in microseconds: moving, each new one counts an eighth.
    mean: u64,
    variance: u64,
}

/// A standard deviation is never taken as less than this, or than a fifth of the mean: a network that was
/// even for a while may be uneven again.
const DEVIATION_MICROS_MIN: u64 = 100_000;

impl Phi {
    /// Heard for the first time, and expected every `interval`.
    #[must_use]
    pub fn new(now: Time, interval: Duration) -> Phi {
        let mean = micros(interval);
        let deviation = mean / 4;
        Phi { heard: now, mean, variance: deviation * deviation }
    }

    /// Heard again. Time that goes backward changes nothing.
    pub fn heard(&mut self, now: Time) {
        if now <= self.heard {
            return;
        }
        let interval = micros(now - self.heard);
        self.heard = now;
        let off = self.mean.abs_diff(interval);
        self.mean = (self.mean * 7 + interval) / 8;
        self.variance = (self.variance / 8 * 7).saturating_add(off.saturating_mul(off) / 8);
    }

    /// When it was heard last.
    #[must_use]
    pub const fn last(&self) -> Time {
        self.heard
    }

    /// In thousandths: at 1,000 a node that is there would be silent this long once in 10 times, at 8,000
    /// once in 100 million. At most 23,118.
    #[must_use]
    pub fn milli(&self, now: Time) -> u64 {
        let elapsed = micros(now - self.heard);
        let deviation = self.variance.isqrt().max(self.mean / 5).max(DEVIATION_MICROS_MIN);
        let Some(over) = elapsed.checked_sub(self.mean) else { return 0 };
        // Half deviations, in 1,024ths.
        let steps = over.saturating_mul(2_048) / deviation;
        let (whole, rest) = ((steps / 1_024) as usize, steps % 1_024);
        match (PHI_MILLI.get(whole), PHI_MILLI.get(whole + 1)) {
            (Some(low), Some(high)) => low + (high - low) * rest / 1_024,
            _ => PHI_MILLI[PHI_MILLI.len() - 1],
        }
    }
}

fn micros(duration: Duration) -> u64 {
    // Days at most in practice; the square of what is allowed here fits in 64 bits.
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The upper tail of the normal distribution by summing the density, in floating point.
    fn tail(z: f64) -> f64 {
        let step = 0.0005;
        let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (0..60_000).map(|i| density(z + (f64::from(i) + 0.5) * step) * step).sum()
    }

    #[test]
    fn the_table_is_the_normal_distribution() {
        for (at, &phi) in (0..).zip(&PHI_MILLI) {
            let exact = -tail(f64::from(at) / 2.0).log10() * 1_000.0;
            assert!((phi as f64 - exact).abs() < 2.0, "{at}: {phi} {exact}");
        }
        // Between the entries, and through the whole function.
        let phi = Phi::new(Time::ZERO, Duration::from_secs(4));
        for ms in (4_000..14_000).step_by(37) {
            let now = Time::ZERO + Duration::from_millis(ms);
            let exact = -tail((ms as f64 - 4_000.0) / 1_000.0).log10() * 1_000.0;
            assert!((phi.milli(now) as f64 - exact).abs() < 45.0, "{ms}: {}", phi.milli(now));
        }
    }

    #[test]
    fn an_uneven_network_is_given_more_time() {
        let interval = Duration::from_secs(5);
        let (mut even, mut uneven) =
            (Phi::new(Time::ZERO, interval), Phi::new(Time::ZERO, interval));
        let mut now = Time::ZERO;
        for beat in 0..100 {
            even.heard(Time::ZERO + interval * (beat + 1));
            now += Duration::from_millis(if beat % 2 == 0 { 1_000 } else { 9_000 });
            uneven.heard(now);
        }
        let after = |phi: &Phi| phi.milli(phi.last() + Duration::from_secs(12));
        assert!(after(&even) > 8_000 && after(&uneven) < 4_000, "{even:?} {uneven:?}");
        assert_eq!(
            even.milli(even.last() + Duration::from_secs(5)),
            301.min(even.milli(Time::NEVER))
        );
        assert_eq!(even.milli(Time::NEVER), 23_118);
    }
}
