//! Whom to ask first, of several nodes that have what is wanted: by what came of asking them before.

use crate::node::{Config, StorageNode};
use base::{NodeName, Time};
use placement::{
    AdaptiveConfig, AdaptiveRouter, Candidate, LatencyConfig, Outcome, PeerLatency, Ranked, Router,
    RouterConfig,
};
use std::collections::BTreeMap;
use std::time::Duration;
use store::Digest;

/// By how much the nodes that were asked first were slower than the fastest that could have been, by what was
/// measured of all of them until then; beside what the static score would have chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regret {
    /// How often somebody was chosen.
    pub choices: u64,
    /// Microseconds, of those who were chosen …
    pub learned_micros: u64,
    /// … and of those whom the static score puts first.
    pub static_micros: u64,
}

/// What a node has learned of others by asking them.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    router: Router,
    learns: AdaptiveRouter,
    measured: PeerLatency,
    /// Nobody is measured: whoever is ranked by this is ranked by region and reputation alone.
    unmeasured: PeerLatency,
    asked: BTreeMap<(NodeName, Digest), Time>,
    patience: Duration,
    regret: Regret,
}

impl Routing {
    pub(crate) fn new(config: &Config) -> Routing {
        let key = config.secret.child("routing");
        let router = Router::new(RouterConfig::default(), config.region);
        let latency = LatencyConfig::default();
        Routing {
            learns: AdaptiveRouter::new(AdaptiveConfig::default(), router.clone(), &key),
            router,
            measured: PeerLatency::new(latency, &key),
            unmeasured: PeerLatency::new(latency, &key),
            asked: BTreeMap::new(),
            patience: config.repair.answer_max,
            regret: Regret::default(),
        }
    }

    /// The candidates, whom to ask first at the front. Each is there once.
    pub(crate) fn order(&mut self, from: placement::Region, all: &[Candidate]) -> Vec<NodeName> {
        let score = |it: &Candidate| Ranked {
            node: it.node,
            region: it.region,
            score: self.router.score(it, &self.unmeasured),
        };
        let mut left: Vec<Ranked> = all.iter().map(score).collect();
        left.sort_unstable_by_key(|it| (std::cmp::Reverse(it.score), it.node));
        left.dedup_by_key(|it| it.node);
        let expected = |it: &Ranked| {
            let regions = Duration::from_millis(u64::from(from.latency_ms(it.region)));
            let expected = self.measured.expected(it.node).unwrap_or(regions);
            u64::try_from(expected.as_micros()).unwrap_or(u64::MAX)
        };
        let by_score = left.first().map(&expected);
        let best = left.iter().map(&expected).min();
        let waits: BTreeMap<NodeName, u64> =
            left.iter().map(|it| (it.node, expected(it))).collect();
        let mut order = Vec::with_capacity(left.len());
        while let Some(node) = self.learns.choose(&left) {
            left.retain(|other| other.node != node);
            order.push(node);
        }
        if let (Some(first), Some(by_score), Some(best)) = (order.first(), by_score, best) {
            self.regret.choices += 1;
            self.regret.learned_micros += waits[first] - best;
            self.regret.static_micros += by_score - best;
        }
        order
    }

    /// A node is asked for this now. Who has said nothing for too long has failed.
    pub(crate) fn ask(&mut self, now: Time, node: NodeName, what: Digest) {
        let patience = self.patience;
        let late = self.asked.iter().filter(|(_, at)| **at + patience <= now);
        for (node, what) in late.map(|(asked, _)| *asked).collect::<Vec<_>>() {
            self.asked.remove(&(node, what));
            self.learns.outcome(node, Outcome::Failed);
            self.measured.measured(now, node, patience);
        }
        self.asked.entry((node, what)).or_insert(now);
    }

    /// It has answered; `well`: with what was wanted.
    pub(crate) fn answered(&mut self, now: Time, node: NodeName, what: Digest, well: bool) {
        let Some(at) = self.asked.remove(&(node, what)) else { return };
        let latency = now - at;
        self.measured.measured(now, node, if well { latency } else { self.patience });
        let outcome = if well { Outcome::Done { latency } } else { Outcome::Failed };
        self.learns.outcome(node, outcome);
    }

    pub(crate) fn regret(&self) -> Regret {
        self.regret
    }
}

impl StorageNode {
    /// By how much whom this node asked first was slower than the fastest that it could have asked.
    #[must_use]
    pub fn regret(&self) -> Regret {
        self.routing.regret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Ratio;
    use base::prng::Key;
    use placement::Region;

    /// One neighbour is near and has a slow disk, three are far and prompt. By its region the near one would be
    /// asked first each time.
    #[test]
    fn who_is_slow_is_asked_last_wherever_it_is() {
        let (near, far) = (Region::EuWest, Region::Oceania);
        let router = Router::new(RouterConfig::default(), near);
        let (key, latency) = (Key::root(1), LatencyConfig::default());
        let mut routing = Routing {
            learns: AdaptiveRouter::new(AdaptiveConfig::default(), router.clone(), &key),
            router,
            measured: PeerLatency::new(latency, &key),
            unmeasured: PeerLatency::new(latency, &key),
            asked: BTreeMap::new(),
            patience: Duration::from_secs(30),
            regret: Regret::default(),
        };
        let candidate = |number| Candidate {
            node: NodeName::numbered(number),
            region: if number == 0 { near } else { far },
            reputation: Ratio::percent(50),
            capacity_bytes: 1,
            free_bytes: 1,
        };
        let all: Vec<Candidate> = (0..4).map(candidate).collect();
        let slow = NodeName::numbered(0);
        assert_eq!(routing.order(near, &all)[0], slow, "nothing is known but where it is");
        let (mut now, what, mut last) = (Time::ZERO, Digest::of(b"shard"), 0);
        for _ in 0..40 {
            let order = routing.order(near, &all);
            assert_eq!(order.len(), 4, "each once");
            last += u32::from(order[3] == slow);
            for node in &order[..3] {
                routing.ask(now, *node, what);
                let takes = if *node == slow { 4_000 } else { 260 };
                routing.answered(now + Duration::from_millis(takes), *node, what, true);
            }
            now += Duration::from_secs(60);
        }
        let Regret { learned_micros, static_micros, .. } = routing.regret();
        // Whoever says nothing has failed, and is as slow as one waits.
        let silent = NodeName::numbered(1);
        routing.ask(now, silent, what);
        let before = routing.measured.expected(silent);
        routing.ask(now + routing.patience, NodeName::numbered(2), what);
        assert!(routing.measured.expected(silent) > before);
        assert!(last > 30 && learned_micros * 4 < static_micros, "{last} {:?}", routing.regret());
    }
}
