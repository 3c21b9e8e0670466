use crate::{Health, HealthConfig, Observation, Scheme};
use base::{Ratio, Time};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// How well the network is, in four steps. A better tier is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Below all thresholds: as much parity as data by default.
    Poor,
    /// From [`Config::fair_at`] on.
    Fair,
    /// From [`Config::good_at`] on.
    Good,
    /// From [`Config::excellent_at`] on.
    Excellent,
}

impl Tier {
    /// All four, the worst first.
    pub const ALL: [Tier; 4] = [Tier::Poor, Tier::Fair, Tier::Good, Tier::Excellent];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Poor => "poor",
            Tier::Fair => "fair",
            Tier::Good => "good",
            Tier::Excellent => "excellent",
        })
    }
}

/// The numbers of a [`SchemePolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What makes up health.
    pub health: HealthConfig,
    /// Health from which on the network is excellent. Default 0.85.
    pub excellent_at: Ratio,
    /// Health from which on it is good. Default 0.65.
    pub good_at: Ratio,
    /// Health from which on it is fair. Default 0.40.
    pub fair_at: Ratio,
    /// Parity shards per data shard in tiers poor, fair, good, excellent. Default 1, 0.75, 0.5, 0.375.
    /// A share of a shard is a whole shard, and there is at least one.
    pub parity: [Ratio; 4],
    /// The numbers of data shards to choose from, falling. Default 16, 8, 4, 2, 1: the first with
    /// which data and parity have a node each.
    pub data_shards: Vec<u16>,
    /// The tier of a network of which nothing is known. Default [`Tier::Fair`].
    pub unknown: Tier,
    /// How far above its threshold health has to be before a better tier is taken. Default 0.02. A
    /// worse tier is taken below its threshold, without a margin.
    pub rise_margin: Ratio,
    /// How long it has to be so, and how long there have to be enough nodes for a wider scheme.
    /// Default 600 s, a round of scrubs. A worse tier and a narrower scheme are taken at once.
    pub rise_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            health: HealthConfig::default(),
            excellent_at: Ratio::percent(85),
            good_at: Ratio::percent(65),
            fair_at: Ratio::percent(40),
            parity: [
                Ratio::ONE,
                Ratio::percent(75),
                Ratio::percent(50),
                Ratio::per_million(375_000),
            ],
            data_shards: vec![16, 8, 4, 2, 1],
            unknown: Tier::Fair,
            rise_margin: Ratio::percent(2),
            rise_after: Duration::from_secs(600),
        }
    }
}

/// The numbers contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A better tier begins at or below a worse one's threshold.
    #[error("the thresholds must rise: fair, good, excellent")]
    Thresholds,
    /// A worse tier has less parity than a better one.
    #[error("a worse tier must not have less parity than a better one")]
    Parity,
    /// No data shards to choose from, or not in falling order, or more than a scheme may have.
    #[error("data shards must be a falling list of at least one number, each from 1 to 16384")]
    DataShards,
    /// The margin leaves no room between two thresholds, or above the last.
    #[error("the margin reaches the next threshold")]
    Margin,
}

/// What to do after an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Advice {
    /// New files go on with this scheme.
    Keep(Scheme),
    /// New files take another scheme, and old ones are to be re-encoded: ask
    /// [`SchemePolicy::reencode`] of each.
    Change {
        /// The scheme until now; `None` at first.
        from: Option<Scheme>,
        /// The scheme from now on.
        to: Scheme,
    },
    /// There are fewer nodes than any scheme has shards: two shards of a file would share one. Files
    /// are to be refused until more nodes come.
    TooFewNodes {
        /// How many nodes there are.
        nodes: u32,
        /// How many the narrowest scheme of this tier needs.
        needed: u32,
    },
}

/// That a file is to be re-encoded, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reencode {
    /// It has less parity than the tier asks for, or more shards than there are nodes.
    Soon {
        /// The scheme to give it.
        to: Scheme,
    },
    /// It is safe as it is, and would take less space or fewer shards.
    Idle {
        /// The scheme to give it.
        to: Scheme,
    },
}

/// Chooses `(k, m)` by health, and stays with it until there is reason to change.
///
/// Falling is quick and rising slow: less health takes a worse tier with the observation that shows it,
/// a better tier needs health above its threshold by a margin in every observation for a while. So
/// health that swings around a threshold changes the scheme once, to the safer one.
///
/// What it knows is volatile. After a restart the first observation sets the tier, and files that have
/// another scheme are found by [`SchemePolicy::reencode`] as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemePolicy {
    config: Config,
    tier: Option<Tier>,
    scheme: Option<Scheme>,
    nodes: u32,
    /// Since when each observation would have allowed a better tier, and the worst of those tiers.
    rising: Option<(Time, Tier)>,
    /// Since when there are nodes enough for a wider scheme, and the narrowest of those schemes.
    widening: Option<(Time, Scheme)>,
}

impl SchemePolicy {
    /// A policy that has seen nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`]: the numbers contradict each other.
    pub fn new(config: Config) -> Result<SchemePolicy, ConfigError> {
        let Config { fair_at, good_at, excellent_at, .. } = config;
        if fair_at >= good_at || good_at >= excellent_at {
            return Err(ConfigError::Thresholds);
        }
        if config.parity.windows(2).any(|pair| pair[0] < pair[1]) {
            return Err(ConfigError::Parity);
        }
        let falls = config.data_shards.windows(2).all(|pair| pair[0] > pair[1]);
        let range = 1..=Scheme::SHARDS_MAX / 2;
        let last = config.data_shards.last();
        if !falls || last.is_none() || config.data_shards.iter().any(|k| !range.contains(k)) {
            return Err(ConfigError::DataShards);
        }
        let above = |at: Ratio| at.parts_per_million() + config.rise_margin.parts_per_million();
        if above(fair_at) >= good_at.parts_per_million()
            || above(good_at) >= excellent_at.parts_per_million()
            || above(excellent_at) > Ratio::ONE.parts_per_million()
        {
            return Err(ConfigError::Margin);
        }
        Ok(SchemePolicy {
            config,
            tier: None,
            scheme: None,
            nodes: 0,
            rising: None,
            widening: None,
        })
    }

    /// Takes an observation, and how many nodes can be given shards now.
    pub fn observe(&mut self, now: Time, seen: &Observation, nodes: u32) -> Advice {
        let health = Health::of(seen, &self.config.health);
        let before = self.tier;
        let tier = self.next_tier(now, health);
        self.tier = Some(tier);
        self.nodes = nodes;
        let Some(target) = self.scheme_for(tier, nodes) else {
            let narrowest = self.config.data_shards.last().map(|&k| self.with_data(tier, k));
            let needed = narrowest.expect("new() refuses an empty list").total();
            (self.scheme, self.widening) = (None, None);
            return Advice::TooFewNodes { nodes, needed: u32::from(needed) };
        };
        let scheme = match self.scheme {
            Some(scheme) if before == Some(tier) && u32::from(scheme.total()) <= nodes => {
                self.widened(now, scheme, target)
            }
            _ => {
                self.widening = None;
                target
            }
        };
        assert!(u32::from(scheme.total()) <= nodes, "never more shards than nodes");
        let from = self.scheme.replace(scheme);
        if from == Some(scheme) {
            Advice::Keep(scheme)
        } else {
            Advice::Change { from, to: scheme }
        }
    }

    /// What a file of this scheme needs, if anything, by the last observation.
    #[must_use]
    pub fn reencode(&self, file: Scheme) -> Option<Reencode> {
        let (tier, to) = (self.tier?, self.scheme?);
        if file == to {
            None
        } else if u32::from(file.total()) > self.nodes
            || file.parity() < self.parity(tier, file.data())
        {
            Some(Reencode::Soon { to })
        } else {
            Some(Reencode::Idle { to })
        }
    }

    /// The tier by the observations so far; `None` before the first.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// The scheme that new files are given; `None` before the first observation, and while there are
    /// too few nodes.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// Every scheme that this policy may ever choose.
    #[must_use]
    pub fn offers(&self) -> BTreeSet<Scheme> {
        let with = |tier| self.config.data_shards.iter().map(move |&k| self.with_data(tier, k));
        Tier::ALL.into_iter().flat_map(with).collect()
    }

    fn next_tier(&mut self, now: Time, health: Option<Health>) -> Tier {
        let Some(current) = self.tier else {
            let unknown = self.config.unknown;
            return health.map_or(unknown, |health| self.tier_at(health, Ratio::ZERO));
        };
        // Nothing was seen: nothing follows, and no waiting time runs.
        let Some(health) = health else {
            self.rising = None;
            return current;
        };
        let plain = self.tier_at(health, Ratio::ZERO);
        let sure = self.tier_at(health, self.config.rise_margin);
        if plain < current {
            self.rising = None;
            return plain;
        }
        if sure <= current {
            self.rising = None;
            return current;
        }
        let (since, worst) = self.rising.unwrap_or((now, sure));
        let worst = worst.min(sure);
        if now.since(since) >= self.config.rise_after {
            self.rising = None;
            worst
        } else {
            self.rising = Some((since, worst));
            current
        }
    }

    /// The tier of this health, if thresholds were higher by `margin`.
    fn tier_at(&self, Health(health): Health, margin: Ratio) -> Tier {
        let reaches = |at: Ratio| {
            health.parts_per_million() >= at.parts_per_million() + margin.parts_per_million()
        };
        if reaches(self.config.excellent_at) {
            Tier::Excellent
        } else if reaches(self.config.good_at) {
            Tier::Good
        } else if reaches(self.config.fair_at) {
            Tier::Fair
        } else {
            Tier::Poor
        }
    }

    /// The scheme to go on with while the tier stays and the scheme fits: wider only after a while.
    fn widened(&mut self, now: Time, scheme: Scheme, target: Scheme) -> Scheme {
        if target.total() <= scheme.total() {
            self.widening = None;
            return scheme;
        }
        let (since, narrowest) = self.widening.unwrap_or((now, target));
        let narrowest = if target.total() < narrowest.total() { target } else { narrowest };
        if now.since(since) >= self.config.rise_after {
            self.widening = None;
            narrowest
        } else {
            self.widening = Some((since, narrowest));
            scheme
        }
    }

    /// The widest scheme of this tier with a node for each shard.
    fn scheme_for(&self, tier: Tier, nodes: u32) -> Option<Scheme> {
        let schemes = self.config.data_shards.iter().map(|&k| self.with_data(tier, k));
        schemes.into_iter().find(|scheme| u32::from(scheme.total()) <= nodes)
    }

    /// The scheme that this tier gives to one of the policy's numbers of data shards.
    fn with_data(&self, tier: Tier, data: u16) -> Scheme {
        Scheme::new(data, self.parity(tier, data)).expect(
            "new() holds data shards to half the limit, and there is no more parity than data",
        )
    }

    /// How many parity shards this tier gives to so many data shards.
    fn parity(&self, tier: Tier, data: u16) -> u16 {
        let ratio = self.config.parity[tier as usize];
        let parts = u64::from(data) * u64::from(ratio.parts_per_million());
        // A ratio is at most one, so there is no more parity than data: it has 16 bits.
        parts.div_ceil(u64::from(Ratio::ONE.parts_per_million())).max(1) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> SchemePolicy {
        SchemePolicy::new(Config::default()).unwrap()
    }

    fn rs(k: u16, m: u16) -> Scheme {
        Scheme::new(k, m).unwrap()
    }

    /// An observation of exactly this health.
    fn health(parts: u32) -> Observation {
        Observation { reputation: Some(Ratio::per_million(parts)), ..Observation::default() }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn each_tier_has_its_scheme_and_its_threshold() {
        for (parts, tier, scheme) in [
            (1_000_000, Tier::Excellent, rs(16, 6)),
            (850_000, Tier::Excellent, rs(16, 6)),
            (849_999, Tier::Good, rs(16, 8)),
            (650_000, Tier::Good, rs(16, 8)),
            (649_999, Tier::Fair, rs(16, 12)),
            (400_000, Tier::Fair, rs(16, 12)),
            (399_999, Tier::Poor, rs(16, 16)),
            (0, Tier::Poor, rs(16, 16)),
        ] {
            let mut policy = policy();
            let advice = policy.observe(at(0), &health(parts), 600);
            assert_eq!(advice, Advice::Change { from: None, to: scheme });
            assert_eq!(policy.tier(), Some(tier), "{parts}");
        }
    }

    #[test]
    fn there_are_never_more_shards_than_nodes() {
        for (nodes, scheme) in
            [(32, rs(16, 16)), (31, rs(8, 8)), (15, rs(4, 4)), (7, rs(2, 2)), (3, rs(1, 1))]
        {
            let advice = policy().observe(at(0), &health(0), nodes);
            assert_eq!(advice, Advice::Change { from: None, to: scheme }, "{nodes} nodes");
        }
        let advice = policy().observe(at(0), &health(0), 1);
        assert_eq!(advice, Advice::TooFewNodes { nodes: 1, needed: 2 });
    }

    #[test]
    fn a_scheme_that_no_longer_fits_is_left_at_once_and_a_wider_one_waits() {
        let mut policy = policy();
        let _ = policy.observe(at(0), &health(1_000_000), 22);
        assert_eq!(policy.scheme(), Some(rs(16, 6)));
        let advice = policy.observe(at(1), &health(1_000_000), 21);
        assert_eq!(advice, Advice::Change { from: Some(rs(16, 6)), to: rs(8, 3) });
        assert_eq!(policy.reencode(rs(16, 6)), Some(Reencode::Soon { to: rs(8, 3) }));
        for second in [2, 601] {
            let advice = policy.observe(at(second), &health(1_000_000), 22);
            assert_eq!(advice, Advice::Keep(rs(8, 3)));
        }
        let advice = policy.observe(at(602), &health(1_000_000), 22);
        assert_eq!(advice, Advice::Change { from: Some(rs(8, 3)), to: rs(16, 6) });
    }

    #[test]
    fn too_few_nodes_end_with_more() {
        let mut policy = policy();
        let _ = policy.observe(at(0), &health(0), 1);
        assert_eq!((policy.scheme(), policy.reencode(rs(1, 1))), (None, None));
        let advice = policy.observe(at(1), &health(0), 2);
        assert_eq!(advice, Advice::Change { from: None, to: rs(1, 1) });
    }

    #[test]
    fn health_around_a_threshold_changes_the_scheme_once() {
        let mut policy = policy();
        let _ = policy.observe(at(0), &health(850_000), 600);
        let mut changes = 0;
        for round in 1..1_000 {
            let parts = if round % 2 == 0 { 840_000 } else { 869_999 };
            let advice = policy.observe(at(round * 60), &health(parts), 600);
            changes += u32::from(matches!(advice, Advice::Change { .. }));
        }
        // Above the margin for a while, but never long enough.
        for round in 1_000..2_000 {
            let parts = if round % 10 == 0 { 869_999 } else { 1_000_000 };
            let advice = policy.observe(at(round * 60), &health(parts), 600);
            changes += u32::from(matches!(advice, Advice::Change { .. }));
        }
        assert_eq!(changes, 1, "one step down");
    }

    #[test]
    fn a_better_tier_needs_its_margin_for_its_time() {
        let mut policy = policy();
        let _ = policy.observe(at(0), &health(700_000), 600);
        assert_eq!(policy.observe(at(10), &health(870_000), 600), Advice::Keep(rs(16, 8)));
        assert_eq!(policy.observe(at(609), &health(870_000), 600), Advice::Keep(rs(16, 8)));
        let advice = policy.observe(at(610), &health(870_000), 600);
        assert_eq!(advice, Advice::Change { from: Some(rs(16, 8)), to: rs(16, 6) });
        // A file of the worse tier is safe, one of a still better network would not be.
        assert_eq!(policy.reencode(rs(16, 8)), Some(Reencode::Idle { to: rs(16, 6) }));
        assert_eq!(policy.reencode(rs(16, 6)), None);
        assert_eq!(policy.reencode(rs(16, 5)), Some(Reencode::Soon { to: rs(16, 6) }));
        // The way down is one observation.
        let advice = policy.observe(at(611), &health(399_999), 600);
        assert_eq!(advice, Advice::Change { from: Some(rs(16, 6)), to: rs(16, 16) });
        assert_eq!(policy.reencode(rs(16, 6)), Some(Reencode::Soon { to: rs(16, 16) }));
        // A rise over two tiers ends in the worst that was seen on the way.
        let _ = policy.observe(at(620), &health(1_000_000), 600);
        let _ = policy.observe(at(900), &health(700_000), 600);
        let _ = policy.observe(at(1_220), &health(1_000_000), 600);
        assert_eq!(policy.tier(), Some(Tier::Good));
    }

    #[test]
    fn without_evidence_the_tier_stays() {
        let mut policy = policy();
        let _ = policy.observe(at(0), &Observation::default(), 600);
        assert_eq!(policy.tier(), Some(Tier::Fair));
        let _ = policy.observe(at(1), &health(0), 600);
        let kept = policy.observe(at(2), &Observation::default(), 600);
        assert_eq!(kept, Advice::Keep(rs(16, 16)));
    }

    #[test]
    fn numbers_that_contradict_each_other_are_refused() {
        let wrong = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            SchemePolicy::new(config).unwrap_err()
        };
        assert_eq!(wrong(|c| c.good_at = c.excellent_at), ConfigError::Thresholds);
        assert_eq!(wrong(|c| c.parity[3] = Ratio::ONE), ConfigError::Parity);
        assert_eq!(wrong(|c| c.data_shards.clear()), ConfigError::DataShards);
        assert_eq!(wrong(|c| c.data_shards = vec![4, 8]), ConfigError::DataShards);
        assert_eq!(wrong(|c| c.data_shards = vec![1, 0]), ConfigError::DataShards);
        assert_eq!(wrong(|c| c.data_shards = vec![16_385]), ConfigError::DataShards);
        assert_eq!(wrong(|c| c.rise_margin = Ratio::percent(16)), ConfigError::Margin);
    }

    proptest! {
        /// Whatever comes: a scheme that is on offer, with a node for each shard, and never less
        /// parity than the tier of the same observation asks for.
        #[test]
        fn every_advice_is_safe(
            steps in prop::collection::vec((0u64..900, 0u32..=1_000_000, 0u32..40), 1..60)
        ) {
            let (mut policy, mut now) = (policy(), 0);
            let offers = policy.offers();
            for (wait, parts, nodes) in steps {
                now += wait;
                let wanted = match parts {
                    850_000.. => 375,
                    650_000.. => 500,
                    400_000.. => 750,
                    _ => 1_000,
                };
                match policy.observe(at(now), &health(parts), nodes) {
                    Advice::TooFewNodes { nodes, .. } => prop_assert!(nodes < 2),
                    Advice::Keep(scheme) | Advice::Change { to: scheme, .. } => {
                        prop_assert!(offers.contains(&scheme));
                        prop_assert!(u32::from(scheme.total()) <= nodes);
                        let (k, m) = (u32::from(scheme.data()), u32::from(scheme.parity()));
                        prop_assert!(m * 1_000 >= k * wanted, "{scheme} at {parts}");
                        prop_assert_eq!(policy.reencode(scheme), None);
                    }
                }
            }
        }
    }
}
