//! Whom to ask, over which connection, and how much went there.

use base::prng::Key;
use base::{NodeName, Ratio, Time, Token};
use placement::{
    Acquired, AdaptiveConfig, AdaptiveRouter, Bandwidth, BandwidthConfig, Candidate,
    ConnectionConfig, ConnectionId, Connections, LatencyConfig, Moved, Outcome, PeerLatency,
    Reconciled, Region, ReportError, Router, RouterConfig, TransferReport,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn node(number: u64) -> NodeName {
    NodeName::numbered(number)
}

fn second(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn candidate(number: u64, region: Region, percent: u32) -> Candidate {
    let reputation = Ratio::percent(percent);
    Candidate { node: node(number), region, reputation, capacity_bytes: 1, free_bytes: 1 }
}

fn latencies() -> PeerLatency {
    PeerLatency::new(LatencyConfig::default(), &Key::root(1))
}

#[test]
fn a_score_is_latency_reputation_and_locality() {
    let router = Router::new(RouterConfig::default(), Region::UsEast);
    let mut known = latencies();
    // Unknown: 0 ms by the matrix within the region, 100 to eu_east, 220 to oceania.
    for (region, percent, parts) in [
        (Region::UsEast, 50, 400_000 + 200_000 + 200_000),
        (Region::EuEast, 100, 320_000 + 400_000 + 100_000),
        (Region::Oceania, 30, 224_000 + 120_000 + 20_000),
    ] {
        let score = router.score(&candidate(1, region, percent), &known);
        assert_eq!(score, Ratio::per_million(parts), "{region:?}");
    }
    known.measured(second(1), node(1), ms(500));
    let score = router.score(&candidate(1, Region::UsEast, 50), &known);
    assert_eq!(score, Ratio::per_million(400_000), "as slow as that is worth nothing");
}

#[test]
fn every_region_is_among_the_candidates_and_bad_reputations_are_not() {
    let router = Router::new(RouterConfig::default(), Region::UsEast);
    let mut candidates: Vec<Candidate> =
        (0..500).map(|number| candidate(number, Region::UsEast, 90)).collect();
    for (number, region) in (500..).zip(Region::ALL) {
        candidates.push(candidate(number, region, 30));
        candidates.push(candidate(number + 100, region, 29));
    }
    let ranked = router.rank(&candidates, &latencies());
    assert_eq!(ranked.len(), 20);
    let regions: BTreeSet<Region> = ranked.iter().map(|ranked| ranked.region).collect();
    assert_eq!(regions.len(), 9, "it saw only its own region");
    assert!(ranked.iter().all(|ranked| ranked.node.number() < 600));
    assert!(ranked.is_sorted_by_key(|ranked| std::cmp::Reverse(ranked.score)));
    assert_eq!(ranked[0].region, Region::UsEast);
}

#[test]
fn an_unknown_peer_is_explored_and_not_preferred() {
    let mut known = latencies();
    for (number, latency) in [(1, 40), (2, 20), (3, 700)] {
        known.measured(second(1), node(number), ms(latency));
    }
    let nodes: Vec<NodeName> = (1..=5).map(node).collect();
    let mut first: BTreeMap<u64, u64> = BTreeMap::new();
    for _ in 0..10_000 {
        let order = known.order(&nodes);
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 5);
        *first.entry(order[0].number()).or_default() += 1;
        // Those that are known stay in order: fast by latency, the slow one last.
        let rest: Vec<u64> = order.iter().map(|n| n.number()).filter(|n| *n <= 3).collect();
        assert_eq!(rest, [2, 1, 3]);
    }
    println!("first of 10,000: {first:?}");
    assert!((8_850..=9_150).contains(&first[&2]));
    assert!((400..=600).contains(&first[&4]) && (400..=600).contains(&first[&5]));
    assert_eq!(first.len(), 3);

    // 0.7 x 20 + 0.3 x 120
    known.measured(second(2), node(2), ms(120));
    assert_eq!(known.expected(node(2)), Some(ms(50)));
    assert_eq!(known.expected(node(4)), None);
}

/// What nodes are really worth, which no score knows: some that look good fail, and one that looks
/// bad is the best. Half-way through it changes.
fn truth(number: u64, late: bool) -> (u64, u64) {
    match (number % 20, late) {
        (0..=4, _) => (60, 40),
        (7, false) | (12, true) => (98, 20),
        (other, _) => (85, 100 + other * 10),
    }
}

#[test]
fn the_router_that_learns_regrets_less_than_the_static_one() {
    let rounds = 4_000u64;
    let (mut adaptive_sum, mut static_sum) = (0.0, 0.0);
    for seed in 0..10 {
        let key = Key::root(seed);
        let router = Router::new(RouterConfig::default(), Region::UsEast);
        let candidates: Vec<Candidate> = (0..20)
            .map(|number| candidate(number, Region::ALL[number as usize % 9], 90 - number as u32))
            .collect();
        let ranked = router.rank(&candidates, &latencies());
        let mut adaptive = AdaptiveRouter::new(AdaptiveConfig::default(), router.clone(), &key);
        let mut again = adaptive.clone();
        let world = key.child("truth");
        // The expected worth of asking a node, and the best there is.
        let worth = |number: u64, late: bool| {
            let (percent, latency) = truth(number, late);
            percent as f64 / 100.0 * (1.0 - latency as f64 / 500.0)
        };
        let (mut adaptive_regret, mut static_regret) = (0.0, 0.0);
        for round in 0..rounds {
            let late = round >= rounds / 2;
            let best = (0..20).map(|number| worth(number, late)).fold(0.0, f64::max);
            let choice = adaptive.choose(&ranked).unwrap();
            assert_eq!(again.choose(&ranked), Some(choice), "the same seed, the same choices");
            let (percent, latency) = truth(choice.number(), late);
            let outcome = if world.draw(choice.number(), round).below(100) < percent {
                Outcome::Done { latency: ms(latency) }
            } else {
                Outcome::Failed
            };
            adaptive.outcome(choice, outcome);
            again.outcome(choice, outcome);
            adaptive_regret += best - worth(choice.number(), late);
            static_regret += best - worth(ranked[0].node.number(), late);
        }
        adaptive_sum += adaptive_regret;
        static_sum += static_regret;
    }
    let (adaptive, fixed) = (adaptive_sum / 10.0, static_sum / 10.0);
    println!(
        "regret over {rounds} choices, mean of 10 seeds: static {fixed:.0}, adaptive {adaptive:.0}"
    );
    assert!(adaptive < fixed / 2.0, "{adaptive} {fixed}");
}

#[test]
fn four_connections_to_a_peer_and_none_leaks() {
    let mut pool = Connections::new(ConnectionConfig::default());
    let mut ids = Vec::new();
    for _ in 0..4 {
        let Acquired::Connect(id) = pool.acquire(second(0), node(1)) else {
            panic!("one may be made")
        };
        ids.push(id);
    }
    assert_eq!(pool.acquire(second(0), node(1)), Acquired::Busy);
    assert!(matches!(pool.acquire(second(0), node(2)), Acquired::Connect(_)), "others are others");
    assert!(pool.connected(second(1), ids[0]) && pool.connected(second(1), ids[1]));
    assert!(!pool.connected(second(1), ids[1]), "once");
    assert!(pool.release(second(2), ids[0]));
    assert_eq!(pool.acquire(second(3), node(1)), Acquired::Ready(ids[0]), "used again");
    assert!(pool.release(second(4), ids[0]));
    assert!(!pool.release(second(4), ids[0]), "given back twice, it would be used twice");

    // Those that were never made end, and so do the idle one and the one that was forgotten.
    let mut close = Vec::new();
    for (now, count) in [(5, 2), (34, 1), (61, 0)] {
        pool.tick(second(now), &mut close);
        assert_eq!(pool.count(node(1)), count, "at {now}");
    }
    assert_eq!(pool.due(), None);
    assert_eq!(close.len(), 5);
    assert!(!pool.connected(second(70), ids[2]), "too late: it is to be closed");
}

proptest! {
    /// The judge knows of each connection only what was said about it.
    #[test]
    fn a_connection_is_used_by_one_at_a_time(
        moves in proptest::collection::vec((0..6u8, 0..3u64, 0..8usize, 0..20u64), 0..200),
    ) {
        let mut pool = Connections::new(ConnectionConfig::default());
        let mut now = 0;
        let mut open: BTreeMap<ConnectionId, (u64, bool)> = BTreeMap::new();
        for (kind, peer, which, wait) in moves {
            now += wait;
            let mut close = Vec::new();
            pool.tick(second(now), &mut close);
            for id in close {
                prop_assert!(open.remove(&id).is_some(), "closed twice");
            }
            let chosen = open.keys().nth(which).copied();
            match (kind, chosen) {
                (0 | 1, _) => match pool.acquire(second(now), node(peer)) {
                    Acquired::Ready(id) => {
                        let (of, used) = open.get_mut(&id).expect("it is open");
                        prop_assert!(*of == peer && !*used, "used by two");
                        *used = true;
                    }
                    Acquired::Connect(id) => {
                        prop_assert!(open.insert(id, (peer, true)).is_none());
                    }
                    Acquired::Busy => {
                        let used = open.values().filter(|(of, used)| *of == peer && *used).count();
                        prop_assert_eq!(used, 4);
                    }
                },
                (2, Some(id)) => drop(pool.connected(second(now), id)),
                (3 | 4, Some(id)) if pool.release(second(now), id) => {
                    open.insert(id, (open[&id].0, false));
                }
                (5, Some(id)) => {
                    pool.closed(id);
                    open.remove(&id);
                }
                _ => {}
            }
            for peer in 0..3 {
                let count = open.values().filter(|(of, _)| *of == peer).count() as u32;
                prop_assert!(count <= 4 && count == pool.count(node(peer)));
            }
        }
        let mut close = Vec::new();
        pool.tick(second(now + 61), &mut close);
        prop_assert!(pool.is_empty(), "one leaked");
    }
}

#[test]
fn bandwidth_is_what_both_ends_say() {
    let mut bandwidth = Bandwidth::new(BandwidthConfig::default(), second(0));
    let (one, two, mut out) = (node(1), node(2), Vec::new());
    let report = |transfer, bytes| TransferReport {
        transfer: Token::new(transfer),
        from: one,
        to: two,
        bytes,
    };
    // One that boasts alone is worth nothing, however often.
    bandwidth.report(second(1), one, report(1, 1 << 40), &mut out).unwrap();
    let twice = bandwidth.report(second(1), one, report(1, 1 << 40), &mut out);
    assert_eq!(twice, Err(ReportError::Twice));
    assert_eq!(
        bandwidth.report(second(1), node(3), report(1, 1), &mut out),
        Err(ReportError::NotAnEnd)
    );
    let own = TransferReport { to: one, ..report(9, 5) };
    assert_eq!(bandwidth.report(second(1), one, own, &mut out), Err(ReportError::NotAnEnd));
    // Both say about the same.
    bandwidth.report(second(2), one, report(2, 1_000), &mut out).unwrap();
    bandwidth.report(second(3), two, report(2, 950), &mut out).unwrap();
    assert_eq!(out, [Reconciled::Agreed { from: one, to: two, bytes: 950 }]);
    assert_eq!(
        bandwidth.report(second(4), one, report(2, 1_000), &mut out),
        Err(ReportError::Twice)
    );
    // They do not: the lower one counts.
    bandwidth.report(second(4), two, report(3, 100), &mut out).unwrap();
    bandwidth.report(second(5), one, report(3, 106), &mut out).unwrap();
    assert_eq!(out[1], Reconciled::Disputed { from: one, to: two, sent: 106, received: 100 });
    // Who names other ends speaks of another transfer.
    bandwidth.report(second(6), two, report(4, 7), &mut out).unwrap();
    let turned = TransferReport { from: two, to: one, ..report(4, 7) };
    bandwidth.report(second(6), one, turned, &mut out).unwrap();

    out.clear();
    bandwidth.tick(second(61), &mut out);
    let [sent, received] = [(1_050, 0), (0, 1_050)].map(|(sent_bytes, received_bytes)| Moved {
        sent_bytes,
        received_bytes,
        claimed_bytes: 950 + 106,
    });
    let over =
        [(one, sent), (two, received)].map(|(node, moved)| Reconciled::Moved { node, moved });
    assert_eq!(out, over);
    assert_eq!(sent.kept(), Ratio::per_million(994_318), "of a dispute each end has a little less");
    out.clear();
    bandwidth.tick(second(300), &mut out);
    let [by_one, by_two] =
        [(one, two), (two, one)].map(|(by, other)| Reconciled::Unconfirmed { by, other });
    assert_eq!(out, [by_one, by_two, by_one]);
    assert_eq!(bandwidth.due(), None);
}
