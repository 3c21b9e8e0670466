//! Where shards should be, and how they get there.

use base::prng::Key;
use base::{NodeName, Ratio, ShardId, Time};
use placement::{
    Candidate, CopyState, Placer, PlacerConfig, RebalanceConfig, RebalanceInput, RebalanceOutput,
    Rebalancer, Region,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const BYTES: u64 = 256;

fn candidate(number: u64) -> Candidate {
    Candidate {
        node: NodeName::numbered(number),
        region: Region::ALL[number as usize % 9],
        reputation: Ratio::percent(50),
        capacity_bytes: 1 << 20,
        free_bytes: 1 << 20,
    }
}

fn placer() -> Placer {
    Placer::new(PlacerConfig::default(), &Key::root(1))
}

fn none() -> BTreeSet<NodeName> {
    BTreeSet::new()
}

#[test]
fn shards_are_spread_by_capacity_and_move_little() {
    let mut candidates: Vec<Candidate> = (0..30).map(candidate).collect();
    candidates[4].capacity_bytes *= 3;
    let wanted = |candidates: &[Candidate]| -> Vec<Vec<NodeName>> {
        let place = |number| placer().place(ShardId::numbered(number), BYTES, candidates, &none());
        (0..6_000).map(|number| place(number).unwrap()).collect()
    };
    let before = wanted(&candidates);
    let mut counts: BTreeMap<NodeName, f64> = BTreeMap::new();
    for node in before.iter().flatten() {
        *counts.entry(*node).or_default() += 1.0;
    }
    // Each of the 29 within four standard deviations (24) of their mean. Places of the large one: a
    // little less than three times as many, since of three places of a shard it has only one.
    let large = counts.remove(&candidates[4].node).unwrap();
    let mean = (18_000.0 - large) / 29.0;
    let (low, high) = counts.values().fold((f64::MAX, 0f64), |(l, h), &c| (l.min(c), h.max(c)));
    println!("places of a node: {low} to {high}; of one three times as large: {large}");
    assert!(low > mean - 96.0 && high < mean + 96.0, "{low} {high} {mean}");
    assert!((2.5..3.0).contains(&(large / mean)), "{large} {mean}");

    let gone = candidates.remove(11).node;
    let after = wanted(&candidates);
    let moved: usize = before
        .iter()
        .zip(&after)
        .map(|(before, after)| before.iter().filter(|node| !after.contains(node)).count())
        .sum();
    let of_gone = before.iter().flatten().filter(|node| **node == gone).count();
    assert_eq!(moved, of_gone, "only what it had moves");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// The judge counts.
    #[test]
    fn places_are_what_the_policy_says(
        nodes in proptest::collection::vec((0..9usize, 0..100u32, 0..4u64), 0..14),
        shard in any::<u64>(),
        replicas in 1..5u32,
        regions_min in 1..4u32,
    ) {
        let candidates: Vec<Candidate> = (0..)
            .zip(&nodes)
            .map(|(number, &(region, reputation, free))| Candidate {
                node: NodeName::numbered(number),
                region: Region::ALL[region],
                reputation: Ratio::percent(reputation),
                capacity_bytes: 1_000,
                free_bytes: free * 100,
            })
            .collect();
        let fit: Vec<&Candidate> = candidates
            .iter()
            .filter(|c| c.reputation >= Ratio::percent(30) && c.free_bytes >= BYTES)
            .collect();
        let regions = |nodes: &[NodeName]| {
            let of = |node: &NodeName| nodes.iter().any(|_| true).then(|| candidates[node.number() as usize].region);
            nodes.iter().filter_map(of).collect::<BTreeSet<_>>().len()
        };
        let config = PlacerConfig { replicas, regions_min, ..PlacerConfig::default() };
        let placer = Placer::new(config, &Key::root(2));
        let placed = placer.place(ShardId::numbered(shard), BYTES, &candidates, &none());
        let there = fit.iter().map(|c| c.region).collect::<BTreeSet<_>>().len();
        let enough = fit.len() >= replicas as usize && there >= (regions_min.min(replicas)) as usize;
        prop_assert_eq!(placed.is_ok(), enough);
        let nodes = placed.unwrap_or_else(|shortfall| shortfall.nodes);
        prop_assert_eq!(nodes.len(), fit.len().min(replicas as usize));
        prop_assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len());
        prop_assert!(nodes.iter().all(|node| fit.iter().any(|c| c.node == *node)));
        if enough {
            prop_assert!(regions(&nodes) >= regions_min.min(replicas) as usize);
        }
        // The order in which candidates are told does not matter.
        let mut turned = candidates.clone();
        turned.reverse();
        let again = placer.place(ShardId::numbered(shard), BYTES, &turned, &none());
        prop_assert_eq!(again.unwrap_or_else(|shortfall| shortfall.nodes), nodes);
    }
}

/// Disks as they are: what each node really has, and whether it is right.
struct World {
    now: Time,
    rebalancer: Rebalancer,
    disks: BTreeMap<NodeName, BTreeMap<ShardId, bool>>,
    candidates: BTreeMap<NodeName, Candidate>,
    room: BTreeMap<NodeName, usize>,
    copies: u64,
    drops: u64,
}

impl World {
    fn new(nodes: u64) -> World {
        let candidates: BTreeMap<NodeName, Candidate> =
            (0..nodes).map(candidate).map(|c| (c.node, c)).collect();
        World {
            now: Time::ZERO,
            rebalancer: Rebalancer::new(RebalanceConfig::default(), placer(), Time::ZERO),
            disks: candidates.keys().map(|node| (*node, BTreeMap::new())).collect(),
            room: candidates.keys().map(|node| (*node, usize::MAX)).collect(),
            candidates,
            copies: 0,
            drops: 0,
        }
    }

    fn store(&mut self, shard: u64, at: u64) {
        let (shard, at) = (ShardId::numbered(shard), NodeName::numbered(at));
        self.disks.get_mut(&at).expect("it is there").insert(shard, true);
        self.rebalancer.handle(self.now, &RebalanceInput::Stored { shard, bytes: BYTES, at });
    }

    fn good(&self, shard: ShardId) -> BTreeSet<NodeName> {
        let good = |disk: &BTreeMap<ShardId, bool>| disk.get(&shard) == Some(&true);
        self.disks.iter().filter(|(_, disk)| good(disk)).map(|(node, _)| *node).collect()
    }

    /// Nodes do what they are asked, and the truth is compared with what is recorded.
    fn round(&mut self) -> u64 {
        self.now = self.rebalancer.due();
        let candidates: Vec<Candidate> = self.candidates.values().copied().collect();
        let mut out = Vec::new();
        self.rebalancer.tick(self.now, &candidates, &mut out);
        let mut did = 0;
        for output in out {
            match output {
                RebalanceOutput::Copy { shard, bytes, from, to, .. } => {
                    did += 1;
                    assert_eq!(self.disks[&from].get(&shard), Some(&true), "a bad source");
                    let full = self.disks[&to].len() >= self.room[&to];
                    let input = if full {
                        RebalanceInput::Full { shard, at: to }
                    } else {
                        self.copies += 1;
                        self.disks.get_mut(&to).expect("it is there").insert(shard, true);
                        RebalanceInput::Stored { shard, bytes, at: to }
                    };
                    self.rebalancer.handle(self.now, &input);
                }
                RebalanceOutput::Drop { shard, at } => {
                    did += 1;
                    self.drops += 1;
                    let before = self.good(shard).len();
                    self.disks.get_mut(&at).expect("it is there").remove(&shard);
                    assert!(self.good(shard).len() >= before.min(3), "a needed copy is dropped");
                    self.rebalancer.handle(self.now, &RebalanceInput::Dropped { shard, at });
                }
                RebalanceOutput::NoSource { .. } => {}
            }
        }
        for (node, disk) in &self.disks {
            assert!(disk.len() <= self.room[node]);
        }
        did
    }

    fn settle(&mut self) {
        for _ in 0..400 {
            if self.round() == 0 {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn check(&self, shards: u64) {
        let candidates: Vec<Candidate> = self.candidates.values().copied().collect();
        for shard in (0..shards).map(ShardId::numbered) {
            let holders: BTreeSet<NodeName> =
                self.rebalancer.copies(shard).map(|(n, _)| n).collect();
            assert_eq!(holders, self.good(shard), "what is recorded is so");
            let open: Vec<Candidate> = candidates
                .iter()
                .filter(|c| {
                    holders.contains(&c.node) || self.disks[&c.node].len() < self.room[&c.node]
                })
                .copied()
                .collect();
            let wanted = placer().place(shard, BYTES, &open, &holders).expect("enough are open");
            assert_eq!(holders, wanted.into_iter().collect());
        }
    }
}

#[test]
fn shards_move_both_ways_toward_where_they_are_wanted() {
    let mut world = World::new(20);
    // All of them where nobody wants them, and some with too many copies.
    for shard in 0..100 {
        for at in 0..if shard % 3 == 0 { 6 } else { 1 } {
            world.store(shard, at);
        }
    }
    world.settle();
    world.check(100);
    println!("{} copies, {} drops for 100 shards", world.copies, world.drops);

    // Nodes come: only what they get is moved, and as much goes.
    let (copies, drops) = (world.copies, world.drops);
    for number in 20..25 {
        let new = candidate(number);
        world.candidates.insert(new.node, new);
        world.disks.insert(new.node, BTreeMap::new());
        world.room.insert(new.node, usize::MAX);
    }
    world.settle();
    world.check(100);
    assert_eq!(world.copies - copies, world.drops - drops);
    assert!((30..=90).contains(&(world.copies - copies)), "{}", world.copies - copies);

    // A node is lost.
    let lost = NodeName::numbered(7);
    world.candidates.remove(&lost);
    world.disks.get_mut(&lost).unwrap().clear();
    world.rebalancer.handle(world.now, &RebalanceInput::Lost { node: lost });
    world.settle();
    world.check(100);
}

#[test]
fn a_full_node_is_never_a_holder_and_does_not_stand_in_the_way() {
    let mut world = World::new(12);
    // Half of the nodes take two shards and say that they have room for more.
    for number in 0..6 {
        world.room.insert(NodeName::numbered(number), 2);
    }
    for shard in 0..40 {
        world.store(shard, 6 + shard % 6);
    }
    for _ in 0..20 {
        world.round();
        for shard in (0..40).map(ShardId::numbered) {
            let holders: BTreeSet<NodeName> =
                world.rebalancer.copies(shard).map(|(n, _)| n).collect();
            assert_eq!(holders, world.good(shard));
        }
    }
    for shard in (0..40).map(ShardId::numbered) {
        assert!(world.good(shard).len() >= 3, "others have taken it");
    }
}

#[test]
fn a_corrupt_copy_is_no_source_and_is_replaced() {
    let mut world = World::new(20);
    for shard in 0..30 {
        world.store(shard, shard % 20);
    }
    world.settle();
    // Two of the three copies of each go bad: the scrubber finds them.
    for shard in (0..30).map(ShardId::numbered) {
        let holders: Vec<NodeName> = world.good(shard).into_iter().collect();
        for at in &holders[..2] {
            world.disks.get_mut(at).unwrap().insert(shard, false);
            world.rebalancer.handle(world.now, &RebalanceInput::Corrupt { shard, at: *at });
        }
        let good = world.rebalancer.copies(shard).filter(|(_, state)| *state == CopyState::Good);
        assert_eq!(good.count(), 1);
    }
    world.settle();
    world.check(30);

    // With no good copy left there is nothing to copy.
    let shard = ShardId::numbered(1);
    for at in world.good(shard) {
        world.rebalancer.handle(world.now, &RebalanceInput::Corrupt { shard, at });
    }
    world.now += Duration::from_secs(60);
    let mut out = Vec::new();
    let candidates: Vec<Candidate> = world.candidates.values().copied().collect();
    world.rebalancer.tick(world.now, &candidates, &mut out);
    assert_eq!(out, [RebalanceOutput::NoSource { shard }]);
}
