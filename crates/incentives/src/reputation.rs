use crate::decay::decayed;
use base::{NodeName, Ratio, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How scores are made of observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReputationConfig {
    /// The weight of proofs of storage: 0.4.
    pub proofs: Ratio,
    /// The weight of being there: 0.3.
    pub uptime: Ratio,
    /// The weight of bandwidth: 0.3.
    pub bandwidth: Ratio,
    /// After this time an observation counts half: 24 h.
    pub half_life: Duration,
    /// How many observations the neutral score is worth: 4. It is what keeps one failed proof of a
    /// new node from being its whole reputation.
    pub prior_observations: u32,
    /// Of how many nodes observations are kept: 1,024. Beyond that the node heard of the longest
    /// time ago is forgotten, which makes it neutral.
    pub nodes_max: u32,
}

impl Default for ReputationConfig {
    fn default() -> ReputationConfig {
        ReputationConfig {
            proofs: Ratio::percent(40),
            uptime: Ratio::percent(30),
            bandwidth: Ratio::percent(30),
            half_life: Duration::from_secs(86_400),
            prior_observations: 4,
            nodes_max: 1_024,
        }
    }
}

/// One thing that was observed of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A challenge was answered with a proof that holds, or it was not.
    Proof {
        /// Whether it was.
        passed: bool,
    },
    /// A node that should be there was, or it was not.
    Uptime {
        /// Whether it was.
        alive: bool,
    },
    /// It moved this part of the bytes that it had promised to.
    Bandwidth {
        /// Which part. More than all is all.
        delivered: Ratio,
    },
}

/// One observation's weight: what sums are counted in.
const ONE: u64 = 1_000_000;
/// A sum that decays to half in a half-life stays below this however often it is added to.
const SUM_MAX: u64 = 1_000_000 * ONE;

/// Observations of one kind, with less and less weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// What was kept of promises, in millionths of an observation.
    good: u64,
    /// What was promised.
    all: u64,
}

impl Tally {
    fn decay(&mut self, then: Time, now: Time, half_life: Duration) {
        self.good = decayed(self.good, then, now, half_life);
        self.all = decayed(self.all, then, now, half_life).max(self.good);
    }

    fn add(&mut self, part: Ratio) {
        if self.all >= SUM_MAX {
            self.good /= 2;
            self.all /= 2;
        }
        self.good += u64::from(part.parts_per_million());
        self.all += ONE;
    }

    /// From 0 to 1 by construction: the prior is half good.
    fn score(&self, prior: u64) -> u64 {
        let (good, all) = (self.good + prior / 2, self.all + prior);
        if all == 0 {
            ONE / 2
        } else {
            (u128::from(good) * u128::from(ONE) / u128::from(all)) as u64
        }
    }
}

/// What is known of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    proofs: Tally,
    uptime: Tally,
    bandwidth: Tally,
    as_of: Time,
}

/// What one node thinks of others: 0.4 proofs + 0.3 uptime + 0.3 bandwidth, each the part of what
/// was promised that was kept, with observations that lose half of their weight per half-life.
///
/// It is the beta reputation system of Jøsang and Ismail (2002), with forgetting. A node of which
/// nothing is known is neutral, 0.5, and one that is heard of no more becomes it again. Integers
/// only; a score is within 0 and 1 by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reputation {
    config: ReputationConfig,
    records: BTreeMap<NodeName, Record>,
    /// By the time of the last observation: whom to forget first.
    oldest: std::collections::BTreeSet<(Time, NodeName)>,
}

impl Reputation {
    /// The score of a node of which nothing is known.
    pub const NEUTRAL: Ratio = Ratio::percent(50);

    /// Knows nobody.
    ///
    /// # Panics
    /// If the three weights do not add up to one.
    #[must_use]
    pub fn new(config: ReputationConfig) -> Reputation {
        let weights = [config.proofs, config.uptime, config.bandwidth];
        let sum: u32 = weights.iter().map(|weight| weight.parts_per_million()).sum();
        assert_eq!(sum, Ratio::ONE.parts_per_million(), "the weights of a score are one together");
        Reputation { config, records: BTreeMap::new(), oldest: Default::default() }
    }

    /// Takes note of something that this node itself has observed.
    pub fn observe(&mut self, now: Time, node: NodeName, observation: Observation) {
        let fresh = Record {
            proofs: Tally::default(),
            uptime: Tally::default(),
            bandwidth: Tally::default(),
            as_of: now,
        };
        let half_life = self.config.half_life;
        let record = self.records.entry(node).or_insert(fresh);
        self.oldest.remove(&(record.as_of, node));
        *record = record.at(now, half_life);
        let whether = |kept| if kept { Ratio::ONE } else { Ratio::ZERO };
        match observation {
            Observation::Proof { passed } => record.proofs.add(whether(passed)),
            Observation::Uptime { alive } => record.uptime.add(whether(alive)),
            Observation::Bandwidth { delivered } => record.bandwidth.add(delivered),
        }
        self.oldest.insert((record.as_of, node));
        if self.records.len() > self.config.nodes_max as usize
            && let Some((_, forgotten)) = self.oldest.pop_first()
        {
            self.records.remove(&forgotten);
        }
    }

    /// What is thought of the node now.
    #[must_use]
    pub fn score(&self, now: Time, node: NodeName) -> Ratio {
        let Some(record) = self.records.get(&node) else { return Self::NEUTRAL };
        let record = record.at(now, self.config.half_life);
        let prior = u64::from(self.config.prior_observations) * ONE;
        let weighted = |weight: Ratio, tally: &Tally| {
            u64::from(weight.parts_per_million()) * tally.score(prior)
        };
        let sum = weighted(self.config.proofs, &record.proofs)
            + weighted(self.config.uptime, &record.uptime)
            + weighted(self.config.bandwidth, &record.bandwidth);
        Ratio::per_million(u32::try_from(sum / ONE).expect("a weighted mean of ratios is one"))
    }

    /// Of how many nodes something is known.
    #[must_use]
    pub fn known(&self) -> u32 {
        u32::try_from(self.records.len()).expect("at most nodes_max and one")
    }
}

impl Record {
    /// The record at a later time. An earlier one changes nothing.
    fn at(mut self, now: Time, half_life: Duration) -> Record {
        for tally in [&mut self.proofs, &mut self.uptime, &mut self.bandwidth] {
            tally.decay(self.as_of, now, half_life);
        }
        self.as_of = self.as_of.max(now);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: NodeName = NodeName::numbered(7);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn an_unknown_node_is_neutral() {
        let mut reputation = Reputation::new(ReputationConfig::default());
        assert_eq!(reputation.score(Time::ZERO, NODE), Reputation::NEUTRAL);
        // One failure of a new node costs it a little, not everything.
        reputation.observe(Time::ZERO, NODE, Observation::Proof { passed: false });
        let score = reputation.score(Time::ZERO, NODE);
        assert_eq!(score, Ratio::per_million(460_000));
    }

    #[test]
    fn what_was_observed_is_forgotten_by_halves() {
        let mut reputation = Reputation::new(ReputationConfig::default());
        for _ in 0..1_000 {
            reputation.observe(Time::ZERO, NODE, Observation::Proof { passed: false });
            reputation.observe(Time::ZERO, NODE, Observation::Uptime { alive: false });
            let delivered = Ratio::ZERO;
            reputation.observe(Time::ZERO, NODE, Observation::Bandwidth { delivered });
        }
        let score = |days| reputation.score(Time::ZERO + DAY * days, NODE).parts_per_million();
        assert!(score(0) < 5_000);
        // 1000/2^d bad observations stand against a prior of 4, half of it good.
        for days in [1, 3, 8, 12] {
            let left = 1_000.0 / f64::from(1 << days);
            let exact = 2.0 / (left + 4.0) * 1e6;
            assert!((f64::from(score(days)) - exact).abs() < 10.0, "after {days}: {}", score(days));
        }
        assert!(score(20) > 499_000);
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        let config = ReputationConfig { nodes_max: 3, ..ReputationConfig::default() };
        let mut reputation = Reputation::new(config);
        for number in 0..10 {
            let now = Time::from_nanos(number);
            let alive = Observation::Uptime { alive: false };
            reputation.observe(now, NodeName::numbered(number), alive);
        }
        assert_eq!(reputation.known(), 3);
        assert_eq!(
            reputation.score(Time::from_nanos(9), NodeName::numbered(6)),
            Reputation::NEUTRAL
        );
        assert_ne!(
            reputation.score(Time::from_nanos(9), NodeName::numbered(7)),
            Reputation::NEUTRAL
        );
    }

    proptest! {
        /// The judge keeps every observation and adds up weights in floating point.
        #[test]
        fn scores_are_what_all_observations_say(
            told in proptest::collection::vec((0..4u8, 0..=1_000_000u32, 0..30_000u64), 0..60),
            later in 0..200_000u64,
        ) {
            let mut reputation = Reputation::new(ReputationConfig::default());
            let mut now = 0;
            let mut seen: Vec<(usize, f64, u64)> = Vec::new();
            for (kind, part, wait) in told {
                now += wait;
                let kept = part >= 500_000;
                let (at, good, observation) = match kind {
                    0 => (0, f64::from(u8::from(kept)), Observation::Proof { passed: kept }),
                    1 => (1, f64::from(u8::from(kept)), Observation::Uptime { alive: kept }),
                    _ => {
                        let delivered = Ratio::per_million(part);
                        (2, f64::from(part) / 1e6, Observation::Bandwidth { delivered })
                    }
                };
                reputation.observe(Time::ZERO + Duration::from_secs(now), NODE, observation);
                seen.push((at, good, now));
            }
            now += later;
            let mut expected = 0.0;
            for (kind, weight) in [0.4, 0.3, 0.3].into_iter().enumerate() {
                let (mut good, mut all) = (2.0, 4.0);
                for &(_, part, at) in seen.iter().filter(|(of, _, _)| *of == kind) {
                    let left = 0.5f64.powf((now - at) as f64 / 86_400.0);
                    good += part * left;
                    all += left;
                }
                expected += weight * good / all;
            }
            let got = reputation.score(Time::ZERO + Duration::from_secs(now), NODE);
            let got = f64::from(got.parts_per_million()) / 1e6;
            prop_assert!((got - expected).abs() < 2e-5, "{got} {expected}");
        }
    }
}
