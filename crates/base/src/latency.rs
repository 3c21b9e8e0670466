//! How long something took, counted in buckets.

use std::time::Duration;

/// How long something took, so far: a histogram whose bounds never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    counts: [u64; Latency::BOUNDS.len() + 1],
    sum: Duration,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { counts: [0; Latency::BOUNDS.len() + 1], sum: Duration::ZERO }
    }
}

impl Latency {
    /// The upper bounds of the buckets; what took longer is in one more.
    pub const BOUNDS: [Duration; 13] = [
        Duration::from_micros(50),
        Duration::from_micros(100),
        Duration::from_micros(200),
        Duration::from_micros(400),
        Duration::from_micros(800),
        Duration::from_micros(1_600),
        Duration::from_micros(3_200),
        Duration::from_micros(6_400),
        Duration::from_micros(12_800),
        Duration::from_micros(25_600),
        Duration::from_micros(100_000),
        Duration::from_micros(400_000),
        Duration::from_micros(1_600_000),
    ];

    /// One more took so long.
    pub fn observe(&mut self, took: Duration) {
        self.counts[Self::BOUNDS.partition_point(|bound| *bound < took)] += 1;
        self.sum += took;
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long all of them took together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Each bucket's upper bound, and how many were within it and not within the one before. The last has
    /// no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        Self::BOUNDS.into_iter().map(Some).chain([None]).zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_as_long_as_a_bound_is_within_it() {
        let mut latency = Latency::default();
        let bound = Latency::BOUNDS[3];
        latency.observe(bound);
        latency.observe(bound + Duration::from_nanos(1));
        latency.observe(Duration::from_secs(3_600));
        let counts: Vec<u64> = latency.buckets().map(|(_, count)| count).collect();
        assert_eq!((counts[3], counts[4], counts[13]), (1, 1, 1));
        assert_eq!(latency.count(), 3);
        assert_eq!(latency.buckets().last(), Some((None, 1)));
        assert!(latency.sum() > Duration::from_secs(3_600));
    }
}
