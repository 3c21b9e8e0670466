use base::Ratio;

/// What has been seen of the network within some window. Counts, so that nothing is rounded twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Proofs of storage that were asked for and have ended, well or not.
    pub proofs_ended: u64,
    /// How many of them were right and in time.
    pub proofs_passed: u64,
    /// Shards whose bytes were read again.
    pub shards_checked: u64,
    /// How many of them were not what they should be.
    pub shards_corrupt: u64,
    /// The mean reputation of the nodes; `None` while nobody has one.
    pub reputation: Option<Ratio>,
    /// Nodes at the beginning of the window.
    pub nodes: u32,
    /// How many of them have left since.
    pub nodes_left: u32,
    /// Bytes that are stored.
    pub used_bytes: u64,
    /// Bytes that can be stored, used ones included.
    pub capacity_bytes: u64,
}

/// How much each part of an observation weighs. Only the proportions matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Proofs that passed, of those that ended. Default 30.
    pub proofs: u32,
    /// Shards that were whole, of those that were checked. Default 25.
    pub corruption: u32,
    /// Mean reputation. Default 25.
    pub reputation: u32,
    /// Nodes that stayed, of those that were there. Default 10.
    pub churn: u32,
    /// Space that is free, of all space. Default 10.
    pub utilisation: u32,
}

impl Default for HealthConfig {
    fn default() -> HealthConfig {
        HealthConfig { proofs: 30, corruption: 25, reputation: 25, churn: 10, utilisation: 10 }
    }
}

/// The network's health, from none to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Health(pub Ratio);

impl Health {
    /// The weighted mean of those parts of which something is known, rounded down to a part per
    /// million; `None` if nothing is known. A part without evidence is left out rather than counted as
    /// bad or good: a network that was never asked for a proof has neither failed nor passed.
    #[must_use]
    pub fn of(seen: &Observation, config: &HealthConfig) -> Option<Health> {
        let checked = seen.shards_checked.max(seen.shards_corrupt);
        let there = u64::from(seen.nodes.max(seen.nodes_left));
        let capacity = seen.capacity_bytes.max(seen.used_bytes);
        let parts = [
            (config.proofs, part(seen.proofs_passed, seen.proofs_ended)),
            (config.corruption, part(checked - seen.shards_corrupt, checked)),
            (config.reputation, seen.reputation.map(|mean| u64::from(mean.parts_per_million()))),
            (config.churn, part(there - u64::from(seen.nodes_left), there)),
            (config.utilisation, part(capacity - seen.used_bytes, capacity)),
        ];
        let (mut sum, mut weights) = (0u64, 0u64);
        for (weight, part) in parts {
            if let Some(part) = part {
                sum += u64::from(weight) * part;
                weights += u64::from(weight);
            }
        }
        // Each part is at most a million, so their mean is.
        (weights > 0).then(|| Health(Ratio::per_million((sum / weights) as u32)))
    }
}

/// `good` of `all` in parts per million, rounded down and at most a million; `None` of nothing.
fn part(good: u64, all: u64) -> Option<u64> {
    let scaled = u128::from(good.min(all)) * 1_000_000;
    scaled.checked_div(u128::from(all)).map(|parts| parts as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: Observation = Observation {
        proofs_ended: 10,
        proofs_passed: 10,
        shards_checked: 10,
        shards_corrupt: 0,
        reputation: Some(Ratio::ONE),
        nodes: 10,
        nodes_left: 0,
        used_bytes: 0,
        capacity_bytes: 10,
    };

    fn parts(seen: &Observation) -> Option<u32> {
        Health::of(seen, &HealthConfig::default()).map(|health| health.0.parts_per_million())
    }

    #[test]
    fn each_part_has_its_weight() {
        assert_eq!(parts(&WHOLE), Some(1_000_000));
        for (seen, health) in [
            (Observation { proofs_passed: 0, ..WHOLE }, 700_000),
            (Observation { shards_corrupt: 10, ..WHOLE }, 750_000),
            (Observation { reputation: Some(Ratio::ZERO), ..WHOLE }, 750_000),
            (Observation { nodes_left: 10, ..WHOLE }, 900_000),
            (Observation { used_bytes: 10, ..WHOLE }, 900_000),
        ] {
            assert_eq!(parts(&seen), Some(health), "{seen:?}");
        }
    }

    /// Used by free would be 1 here, and infinite in a full network.
    #[test]
    fn utilisation_is_of_the_capacity() {
        let half = Observation { used_bytes: 5, ..Observation { capacity_bytes: 10, ..WHOLE } };
        assert_eq!(parts(&half), Some(950_000));
        let over = Observation { used_bytes: 11, ..WHOLE };
        assert_eq!(parts(&over), Some(900_000));
    }

    #[test]
    fn what_nobody_has_asked_is_not_held_against_the_network() {
        assert_eq!(parts(&Observation::default()), None);
        let young = Observation { nodes: 600, capacity_bytes: 1, ..Observation::default() };
        assert_eq!(parts(&young), Some(1_000_000));
        let no_weight = HealthConfig { churn: 0, utilisation: 0, ..HealthConfig::default() };
        assert_eq!(Health::of(&young, &no_weight), None);
    }

    proptest! {
        /// Whatever is reported, also nonsense, health is a ratio; and each part pulls one way.
        #[test]
        fn health_is_bounded_and_monotonic(
            counts in prop::array::uniform6(prop_oneof![0u64..100, any::<u64>()]),
            nodes in any::<(u32, u32)>(),
            reputation in prop::option::of(0u32..=1_000_000),
        ) {
            let seen = Observation {
                proofs_ended: counts[0],
                proofs_passed: counts[1],
                shards_checked: counts[2],
                shards_corrupt: counts[3],
                reputation: reputation.map(Ratio::per_million),
                nodes: nodes.0,
                nodes_left: nodes.1,
                used_bytes: counts[4],
                capacity_bytes: counts[5],
            };
            let Some(health) = parts(&seen) else { return Ok(()) };
            prop_assert!(health <= 1_000_000);
            let better = Observation {
                proofs_passed: seen.proofs_passed.saturating_add(1),
                used_bytes: seen.used_bytes.min(seen.capacity_bytes).saturating_sub(1),
                ..seen
            };
            prop_assert!(parts(&better) >= Some(health));
        }
    }
}
