//! Whom to ask first, of several nodes that have what is wanted: by what came of asking them before.

use crate::node::{Config, StorageNode};
use base::{NodeName, Ratio, Time};
use placement::{
    AdaptiveRouter, Candidate, LatencyConfig, Outcome, PeerLatency, Ranked, Router, RouterConfig,
    Status,
};
use std::collections::BTreeSet;
use std::time::Duration;

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
    patience: Duration,
    /// Below this nobody is asked as long as there are others.
    reputation_min: Ratio,
    regret: Regret,
}

impl Routing {
    pub(crate) fn new(config: &Config) -> Routing {
        let key = config.secret.child("routing");
        let router = Router::new(RouterConfig::default(), config.region);
        let latency = LatencyConfig::default();
        Routing {
            learns: AdaptiveRouter::new(config.routing, router.clone(), &key),
            router,
            measured: PeerLatency::new(latency, &key),
            unmeasured: PeerLatency::new(latency, &key),
            patience: config.patience,
            reputation_min: RouterConfig::default().reputation_min,
            regret: Regret::default(),
        }
    }

    /// The candidates, whom to ask first at the front. Each is there once. `first`: so many are asked at once, and
    /// the slowest of them is waited for. These the bandit chooses; behind them are those to ask in their place, by
    /// what was measured, with an unknown one in front now and then.
    pub(crate) fn order(
        &mut self,
        from: placement::Region,
        all: &[Candidate],
        first: usize,
    ) -> Vec<NodeName> {
        let score = |it: &Candidate| Ranked {
            node: it.node,
            region: it.region,
            score: self.router.score(it, &self.unmeasured),
        };
        let trusted = |it: &&Candidate| it.reputation >= self.reputation_min;
        let mut left: Vec<Ranked> = all.iter().filter(trusted).map(score).collect();
        left.sort_unstable_by_key(|it| (std::cmp::Reverse(it.score), it.node));
        left.dedup_by_key(|it| it.node);
        let expected = |it: &Ranked| {
            let regions = Duration::from_millis(u64::from(from.latency_ms(it.region)));
            let expected = self.measured.expected(it.node).unwrap_or(regions);
            u64::try_from(expected.as_micros()).unwrap_or(u64::MAX)
        };
        let first = first.min(left.len());
        let waits: Vec<(NodeName, u64)> = left.iter().map(|it| (it.node, expected(it))).collect();
        let by_score = waits[..first].iter().map(|(_, wait)| *wait).max();
        let mut order = Vec::with_capacity(left.len());
        while order.len() < first
            && let Some(node) = self.learns.choose(&left)
        {
            left.retain(|other| other.node != node);
            order.push(node);
        }
        // Who is asked in the place of one of these is to be quick, or to get known.
        let others: Vec<NodeName> = left.iter().map(|it| it.node).collect();
        order.extend(self.measured.order(&others));
        // Who has too bad a name is asked when nobody else is left.
        let shunned: BTreeSet<NodeName> =
            all.iter().filter(|it| it.reputation < self.reputation_min).map(|it| it.node).collect();
        order.extend(shunned);
        let chosen = waits.iter().filter(|(node, _)| order[..first].contains(node));
        let learned = chosen.map(|(_, wait)| *wait).max();
        let mut best: Vec<u64> = waits.iter().map(|(_, wait)| *wait).collect();
        best.sort_unstable();
        if let (Some(learned), Some(by_score), Some(best)) =
            (learned, by_score, best[..first].last())
        {
            self.regret.choices += 1;
            self.regret.learned_micros += learned - best;
            self.regret.static_micros += by_score - best;
        }
        order
    }

    /// What came of asking a node: it gave what was wanted after this time; or it did not, or not in time.
    pub(crate) fn learn(&mut self, now: Time, node: NodeName, latency: Option<Duration>) {
        self.measured.measured(now, node, latency.unwrap_or(self.patience));
        let outcome = latency.map_or(Outcome::Failed, |latency| Outcome::Done { latency });
        self.learns.outcome(node, outcome);
    }

    pub(crate) fn regret(&self) -> Regret {
        self.regret
    }
}

impl StorageNode {
    /// These nodes, whom to ask first at the front. Who is not there, as far as this node knows, is at the end.
    pub(crate) fn by_promise(&mut self, nodes: &[NodeName], first: usize) -> Vec<NodeName> {
        let mut known = Vec::with_capacity(nodes.len());
        for &node in nodes {
            let (region, reputation) = match self.membership.member(node) {
                _ if node == self.name => (self.config.region, Ratio::percent(50)),
                Some(it) if it.status == Status::Alive => (it.announcement.region, it.reputation),
                _ => continue,
            };
            known.push(Candidate { node, region, reputation, capacity_bytes: 0, free_bytes: 0 });
        }
        let mut order = self.routing.order(self.config.region, &known, first);
        let there: BTreeSet<NodeName> = order.iter().copied().collect();
        order.extend(nodes.iter().filter(|node| !there.contains(node)));
        order
    }

    /// By how much whom this node asked first was slower than the fastest that it could have asked.
    #[must_use]
    pub fn regret(&self) -> Regret {
        self.routing.regret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::prng::Key;
    use placement::{AdaptiveConfig, Region};

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
            patience: Duration::from_secs(30),
            reputation_min: RouterConfig::default().reputation_min,
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
        assert_eq!(routing.order(near, &all, 1)[0], slow, "nothing is known but where it is");
        let (mut now, mut last) = (Time::ZERO, 0);
        for _ in 0..40 {
            let order = routing.order(near, &all, 1);
            assert_eq!(order.len(), 4, "each once");
            last += u32::from(order[3] == slow);
            for node in &order[..3] {
                let takes = if *node == slow { 4_000 } else { 260 };
                routing.learn(now, *node, Some(Duration::from_millis(takes)));
            }
            now += Duration::from_secs(60);
        }
        // Who has a bad name is last, however near.
        let mut shunned = all.clone();
        shunned[2].reputation = Ratio::percent(29);
        assert_eq!(routing.order(near, &shunned, 1)[3], NodeName::numbered(2));
        let Regret { learned_micros, static_micros, .. } = routing.regret();
        // Whoever says nothing has failed, and is as slow as one waits.
        let silent = NodeName::numbered(1);
        let before = routing.measured.expected(silent);
        routing.learn(now, silent, None);
        assert!(routing.measured.expected(silent) > before);
        assert!(last > 30 && learned_micros * 4 < static_micros, "{last} {:?}", routing.regret());
    }
}
