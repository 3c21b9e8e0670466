//! Whom to ask: by latency, reputation and locality, and by what came of it.

use crate::{Candidate, Locality, Region};
use base::prng::Key;
use base::{NodeName, Ratio, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MILLION: u64 = 1_000_000;

/// The numbers of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyConfig {
    /// How much a new measurement counts: 0.3.
    pub alpha: Ratio,
    /// From which latency on a peer is slow: 500 ms.
    pub slow: Duration,
    /// How often an unknown peer is tried first: 0.1.
    pub explore: Ratio,
    /// Of how many peers latencies are kept: 1,024. Beyond that the one measured the longest time ago
    /// is forgotten.
    pub peers_max: u32,
}

impl Default for LatencyConfig {
    fn default() -> LatencyConfig {
        LatencyConfig {
            alpha: Ratio::percent(30),
            slow: Duration::from_millis(500),
            explore: Ratio::percent(10),
            peers_max: 1_024,
        }
    }
}

/// What this node has measured of others: a moving average with exponential weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLatency {
    config: LatencyConfig,
    key: Key,
    /// In microseconds, and when it was measured last.
    peers: BTreeMap<NodeName, (u64, Time)>,
    oldest: BTreeSet<(Time, NodeName)>,
    orders: u64,
}

impl PeerLatency {
    /// Knows nobody.
    #[must_use]
    pub fn new(config: LatencyConfig, key: &Key) -> PeerLatency {
        PeerLatency {
            config,
            key: key.child("placement.explore"),
            peers: BTreeMap::new(),
            oldest: BTreeSet::new(),
            orders: 0,
        }
    }

    /// A peer has answered after this time.
    pub fn measured(&mut self, now: Time, node: NodeName, latency: Duration) {
        let new = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        let alpha = u64::from(self.config.alpha.parts_per_million());
        let value = match self.peers.get(&node) {
            Some(&(old, at)) => {
                self.oldest.remove(&(at, node));
                (old * (MILLION - alpha) + new * alpha) / MILLION
            }
            None => new,
        };
        self.peers.insert(node, (value, now));
        self.oldest.insert((now, node));
        if self.peers.len() > self.config.peers_max as usize
            && let Some((_, forgotten)) = self.oldest.pop_first()
        {
            self.peers.remove(&forgotten);
        }
    }

    /// What to expect of the peer; `None` if it was never measured.
    #[must_use]
    pub fn expected(&self, node: NodeName) -> Option<Duration> {
        self.peers.get(&node).map(|(micros, _)| Duration::from_micros(*micros))
    }

    /// The peers in the order in which to try them: the fast ones by latency, then those that are
    /// unknown, then the slow ones. Now and then an unknown one is first: that is how it gets known.
    pub fn order(&mut self, nodes: &[NodeName]) -> Vec<NodeName> {
        self.orders += 1;
        let rank = |node: NodeName| match self.expected(node) {
            Some(latency) if latency < self.config.slow => (0, latency, node),
            None => (1, Duration::ZERO, node),
            Some(latency) => (2, latency, node),
        };
        let mut ranked: Vec<_> = nodes.iter().map(|node| rank(*node)).collect();
        ranked.sort_unstable();
        ranked.dedup();
        let unknown: Vec<usize> = (0..ranked.len()).filter(|&at| ranked[at].0 == 1).collect();
        let draw = self.key.draw(0, self.orders);
        if !unknown.is_empty() && self.config.explore.holds(&draw) {
            let pick = draw.nth(1).below(unknown.len() as u64) as usize;
            ranked[..=unknown[pick]].rotate_right(1);
        }
        ranked.into_iter().map(|(.., node)| node).collect()
    }
}

/// The numbers of routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// The weight of latency: 0.4.
    pub latency: Ratio,
    /// The weight of reputation: 0.4.
    pub reputation: Ratio,
    /// The weight of locality: 0.2.
    pub locality: Ratio,
    /// What the same region is worth, a near one, and a far one: 1, 0.5, 0.1.
    pub localities: [Ratio; 3],
    /// Below this reputation nobody is asked: 0.3.
    pub reputation_min: Ratio,
    /// How many candidates are weighed: 20.
    pub candidates_max: u32,
    /// The latency that is worth nothing, as all above: 500 ms.
    pub slow: Duration,
}

impl Default for RouterConfig {
    fn default() -> RouterConfig {
        RouterConfig {
            latency: Ratio::percent(40),
            reputation: Ratio::percent(40),
            locality: Ratio::percent(20),
            localities: [Ratio::ONE, Ratio::percent(50), Ratio::percent(10)],
            reputation_min: Ratio::percent(30),
            candidates_max: 20,
            slow: Duration::from_millis(500),
        }
    }
}

/// A candidate that was weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Which.
    pub node: NodeName,
    /// Where.
    pub region: Region,
    /// 0.4 latency + 0.4 reputation + 0.2 locality.
    pub score: Ratio,
}

/// Weighs candidates from every region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    config: RouterConfig,
    region: Region,
}

impl Router {
    /// The router of a node in this region.
    ///
    /// # Panics
    /// If the three weights do not add up to one.
    #[must_use]
    pub fn new(config: RouterConfig, region: Region) -> Router {
        let weights = [config.latency, config.reputation, config.locality];
        let sum: u32 = weights.iter().map(|weight| weight.parts_per_million()).sum();
        assert_eq!(sum, Ratio::ONE.parts_per_million(), "the weights of a score are one together");
        Router { config, region }
    }

    /// What a latency is worth: 1 at none, 0 from `slow` on, in a line.
    fn promptness(&self, latency: Duration) -> u64 {
        let slow = self.config.slow.as_micros().max(1);
        let left = slow.saturating_sub(latency.as_micros());
        (left * u128::from(MILLION) / slow) as u64
    }

    /// The score of one candidate. Of a peer that was never measured the regions' latency is expected.
    #[must_use]
    pub fn score(&self, candidate: &Candidate, latencies: &PeerLatency) -> Ratio {
        let regions = self.region.latency_ms(candidate.region);
        let expected = Duration::from_millis(u64::from(regions));
        let latency = latencies.expected(candidate.node).unwrap_or(expected);
        let locality = match self.region.locality(candidate.region) {
            Locality::Same => self.config.localities[0],
            Locality::Near => self.config.localities[1],
            Locality::Far => self.config.localities[2],
        };
        let parts = |ratio: Ratio| u64::from(ratio.parts_per_million());
        let sum = parts(self.config.latency) * self.promptness(latency)
            + parts(self.config.reputation) * parts(candidate.reputation)
            + parts(self.config.locality) * parts(locality);
        Ratio::per_million(u32::try_from(sum / MILLION).expect("a weighted mean of ratios is one"))
    }

    /// The candidates to ask, best first: at most [`RouterConfig::candidates_max`], and of those the best
    /// of every region that has any, then the second best of each, and so on. So a bad day of the own
    /// region does not hide the others.
    #[must_use]
    pub fn rank(&self, candidates: &[Candidate], latencies: &PeerLatency) -> Vec<Ranked> {
        let mut regions: BTreeMap<Region, Vec<(Reverse<Ratio>, NodeName)>> = BTreeMap::new();
        for candidate in candidates {
            if candidate.reputation >= self.config.reputation_min {
                let score = self.score(candidate, latencies);
                regions.entry(candidate.region).or_default().push((Reverse(score), candidate.node));
            }
        }
        let mut rounds: Vec<(usize, Reverse<Ratio>, NodeName, Region)> = Vec::new();
        for (region, mut nodes) in regions {
            nodes.sort_unstable();
            let nodes = nodes.into_iter().take(self.config.candidates_max as usize);
            rounds.extend(nodes.enumerate().map(|(at, (score, node))| (at, score, node, region)));
        }
        rounds.sort_unstable();
        rounds.truncate(self.config.candidates_max as usize);
        rounds.sort_unstable_by_key(|&(_, score, node, _)| (score, node));
        let ranked = |(_, Reverse(score), node, region)| Ranked { node, region, score };
        rounds.into_iter().map(ranked).collect()
    }
}

/// What came of asking a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked to, after this time.
    Done {
        /// How long it took.
        latency: Duration,
    },
    /// It did not, or not in time.
    Failed,
}

/// The numbers of the router that learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveConfig {
    /// How many outcomes the static score is worth: 2.
    pub prior_outcomes: u32,
    /// How much the uncertainty of a mean counts: 0.15.
    pub confidence: Ratio,
    /// How often a candidate is chosen by lot: 0.01. What was bad once can get better.
    pub explore: Ratio,
    /// After so many outcomes of a node the older half counts half: 64.
    pub window: u32,
    /// Of how many nodes outcomes are kept: 1,024.
    pub nodes_max: u32,
}

impl Default for AdaptiveConfig {
    fn default() -> AdaptiveConfig {
        AdaptiveConfig {
            prior_outcomes: 2,
            confidence: Ratio::percent(15),
            explore: Ratio::percent(1),
            window: 64,
            nodes_max: 1_024,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Arm {
    outcomes: u64,
    /// In millionths.
    reward: u64,
}

/// Chooses among what the [`Router`] has ranked, and learns from what came of it: a bandit with upper
/// confidence bounds (Auer, Cesa-Bianchi, Fischer, 2002), whose prior is the static score.
///
/// An outcome is worth its promptness, a failure nothing. Repeatable: its lots are drawn from a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptiveRouter {
    config: AdaptiveConfig,
    router: Router,
    key: Key,
    arms: BTreeMap<NodeName, Arm>,
    choices: u64,
}

impl AdaptiveRouter {
    /// One that knows nothing but static scores.
    #[must_use]
    pub fn new(config: AdaptiveConfig, router: Router, key: &Key) -> AdaptiveRouter {
        let key = key.child("placement.bandit");
        AdaptiveRouter { config, router, key, arms: BTreeMap::new(), choices: 0 }
    }

    /// The one to ask; `None` if nobody was ranked.
    pub fn choose(&mut self, ranked: &[Ranked]) -> Option<NodeName> {
        if ranked.is_empty() {
            return None;
        }
        self.choices += 1;
        let draw = self.key.draw(1, self.choices);
        if self.config.explore.holds(&draw) {
            let pick = draw.nth(1).below(ranked.len() as u64);
            return Some(ranked[pick as usize].node);
        }
        let best = ranked.iter().max_by_key(|ranked| (self.bound(ranked), Reverse(ranked.node)));
        best.map(|ranked| ranked.node)
    }

    /// The mean of the prior and all outcomes, and what it could be above that, in millionths.
    fn bound(&self, ranked: &Ranked) -> u64 {
        let arm = self.arms.get(&ranked.node).copied().unwrap_or_default();
        let prior = u64::from(self.config.prior_outcomes.max(1));
        let outcomes = arm.outcomes + prior;
        let score = u64::from(ranked.score.parts_per_million());
        let mean = (arm.reward + prior * score) / outcomes;
        let confidence = u64::from(self.config.confidence.parts_per_million());
        let spread = u64::from((self.choices + 1).ilog2() + 1) * 10_000 / outcomes;
        mean + confidence * spread.isqrt() / 100
    }

    /// What came of it.
    pub fn outcome(&mut self, node: NodeName, outcome: Outcome) {
        let reward = match outcome {
            Outcome::Done { latency } => self.router.promptness(latency),
            Outcome::Failed => 0,
        };
        if !self.arms.contains_key(&node) && self.arms.len() >= self.config.nodes_max as usize {
            let least = self.arms.iter().min_by_key(|(node, arm)| (arm.outcomes, **node));
            if let Some((&least, _)) = least {
                self.arms.remove(&least);
            }
        }
        let arm = self.arms.entry(node).or_default();
        arm.outcomes += 1;
        arm.reward += reward;
        if arm.outcomes > u64::from(self.config.window) {
            arm.outcomes /= 2;
            arm.reward /= 2;
        }
    }
}
