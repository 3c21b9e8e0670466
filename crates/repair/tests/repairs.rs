//! Repairs in a small world of nodes that are well, silent, full, or liars. The judge looks at the
//! nodes' disks, with digests of its own, and at the messages; it shares nothing with the planner.

use base::prng::{Key, Stream};
use base::{NodeName, Time};
use erasure::{Codec, Scheme};
use proptest::prelude::*;
use repair::{
    BadCopies, Config, Damage, GaveUp, Need, Output, Position, RepairPlanner, Source, Stats,
    StripeId, Unusable,
};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Digest;

fn name(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn node(number: u64) -> NodeName {
    NodeName::numbered(number)
}

/// How a node behaves to a planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Well,
    /// Never answers.
    Silent,
    /// Refuses what it is given.
    Full,
    /// Its disk changes a bit of everything that is written.
    Rots,
}

struct World {
    now: Time,
    scheme: Scheme,
    disks: BTreeMap<(NodeName, Digest), Vec<u8>>,
    manners: BTreeMap<NodeName, Manner>,
    planner: RepairPlanner,
    bad: BadCopies,
    repaired: Vec<(StripeId, u16, NodeName)>,
    gave_up: Vec<(StripeId, GaveUp)>,
    /// When shards were first stored, by plan and place: what tokens are for.
    rebuilt: BTreeMap<(u64, u16), Time>,
    begun: Vec<Time>,
}

impl World {
    fn new(scheme: (u16, u16), config: Config) -> World {
        World {
            now: Time::ZERO + Duration::from_secs(1_000),
            scheme: Scheme::new(scheme.0, scheme.1).expect("these tests use schemes that exist"),
            disks: BTreeMap::new(),
            manners: BTreeMap::new(),
            planner: RepairPlanner::new(config),
            bad: BadCopies::new(),
            repaired: Vec::new(),
            gave_up: Vec::new(),
            rebuilt: BTreeMap::new(),
            begun: Vec::new(),
        }
    }

    /// A stripe on nodes 0 and up, of which `lost` are gone; 40 nodes are candidates.
    fn stripe(&mut self, number: u32, lost: &[u16]) -> Damage {
        let mut stream = Key::root(9).keyed(u64::from(number)).stream();
        let shard = |_| (0..64).map(|_| stream.next_u64() as u8).collect::<Vec<u8>>();
        let mut shards: Vec<Vec<u8>> = (0..self.scheme.data()).map(shard).collect();
        let mut codec = Codec::new();
        let parity = codec.encode(self.scheme, &shards).expect("shards of one even length");
        let parity: Vec<Vec<u8>> = parity.iter().map(<[u8]>::to_vec).collect();
        shards.extend(parity);
        let digests: Vec<Digest> = shards.iter().map(|bytes| name(bytes)).collect();
        let mut sources = Vec::new();
        for (index, bytes) in (0u16..).zip(shards) {
            let node = node(u64::from(index));
            if !lost.contains(&index) {
                self.disks.insert((node, digests[usize::from(index)]), bytes);
                sources.push(Source { index, node });
            }
        }
        let stripe = StripeId { manifest: Digest([1; 32]), chunk: number };
        let lost = lost.iter().copied().collect();
        let candidates = (0..40).map(node).collect();
        let need = Need::Lost;
        Damage { stripe, scheme: self.scheme, digests, need, lost, sources, candidates }
    }

    fn manner(&self, node: NodeName) -> Manner {
        self.manners.get(&node).copied().unwrap_or(Manner::Well)
    }

    /// Rots a copy on its disk.
    fn rot(&mut self, node: NodeName, shard: Digest) {
        self.disks.get_mut(&(node, shard)).expect("it is there")[5] ^= 0x10;
    }

    /// Until the planner wants nothing more. The order of answers is drawn.
    fn run(&mut self, chance: &mut Stream) {
        let mut out = Vec::new();
        for _ in 0..100_000 {
            self.planner.poll(self.now, &mut self.bad, &mut out);
            if out.is_empty() {
                let Some(next) = self.planner.next_wake(self.now) else {
                    assert_eq!(self.planner.pending(), 0, "it waits for nothing, for ever");
                    return;
                };
                assert!(next > self.now, "it wakes at once and does nothing");
                self.now = next;
            }
            while !out.is_empty() {
                let output = out.swap_remove(chance.below(out.len() as u64) as usize);
                self.now += Duration::from_millis(chance.below(20));
                self.perform(output, &mut out);
            }
        }
        panic!("repairs do not end: {:?}", self.planner.stats());
    }

    fn perform(&mut self, output: Output, out: &mut Vec<Output>) {
        let World { now, planner, bad, disks, .. } = self;
        let now = *now;
        match output {
            Output::Fetch { plan, source, shard } => {
                if self.begun.len() < plan.0 as usize {
                    self.begun.push(now);
                }
                let known = bad.is_bad(source.node, shard);
                assert!(!known, "a copy that is known to be bad is no source");
                if self.manners.get(&source.node) != Some(&Manner::Silent) {
                    let bytes = disks.get(&(source.node, shard)).cloned();
                    planner.fetched(now, plan, source, bytes, bad, out);
                }
            }
            Output::Store { plan, index, node, shard, mut bytes } => {
                assert_eq!(name(&bytes), shard, "bytes under a wrong name");
                self.rebuilt.entry((plan.0, index)).or_insert(now);
                match self.manner(node) {
                    Manner::Silent => {}
                    Manner::Full => self.planner.stored(now, plan, index, node, false, out),
                    manner => {
                        bytes[9] ^= u8::from(manner == Manner::Rots);
                        self.disks.insert((node, shard), bytes);
                        self.planner.stored(now, plan, index, node, true, out);
                    }
                }
            }
            Output::Scrub { plan, index, node, shard } => {
                let healthy = disks.get(&(node, shard)).is_some_and(|bytes| name(bytes) == shard);
                planner.scrubbed(now, plan, (index, node), healthy, bad, out);
            }
            Output::Bad { node, shard } => {
                let bytes = &disks[&(node, shard)];
                assert_ne!(name(bytes), shard, "a good copy is called bad");
            }
            Output::Repaired { stripe, index, node, shard } => {
                assert!(self.disks.contains_key(&(node, shard)));
                self.repaired.push((stripe, index, node));
            }
            Output::GaveUp { stripe, why, .. } => self.gave_up.push((stripe, why)),
        }
    }

    /// What the disks say about each repair of this damage: the right bytes, on nodes of their own.
    fn judge(&self, damage: &Damage) {
        let mut holders: BTreeSet<NodeName> = BTreeSet::new();
        for source in damage.sources.iter().filter(|s| !damage.lost.contains(&s.index)) {
            let shard = damage.digests[usize::from(source.index)];
            if self.disks.get(&(source.node, shard)).is_some_and(|bytes| name(bytes) == shard) {
                holders.insert(source.node);
            }
        }
        let ours = self.repaired.iter().filter(|(stripe, ..)| *stripe == damage.stripe);
        for &(_, index, node) in ours {
            let shard = damage.digests[usize::from(index)];
            let bytes = self.disks.get(&(node, shard)).expect("the new holder has it");
            assert_eq!(name(bytes), shard, "repaired, and still corrupt");
            assert!(holders.insert(node), "two shards of a stripe on one node");
        }
    }

    /// No more than the bucket and its refill, in any window.
    fn judge_rate(&self) {
        let times: BTreeSet<(Time, (u64, u16))> =
            self.rebuilt.iter().map(|(&which, &time)| (time, which)).collect();
        let times: Vec<Time> = times.into_iter().map(|(time, _)| time).collect();
        for (from, &start) in times.iter().enumerate() {
            for (to, &end) in times.iter().enumerate().skip(from) {
                // Tokens are taken when a plan begins, a few answers before the first store.
                let seconds = end.since(start).as_secs() + 3;
                assert!((to - from) as u64 <= 10 + seconds / 6 + 10, "from {start} to {end}");
            }
        }
    }
}

/// The trap: "10 repaired", and 9 were still corrupt.
#[test]
fn ten_corrupt_shards_are_repaired_and_healthy_when_read_again() {
    let mut world = World::new((4, 2), Config::default());
    let mut damages = Vec::new();
    for number in 0..10 {
        let mut damage = world.stripe(number, &[]);
        let index = (number % 6) as u16;
        let (holder, shard) = (node(u64::from(index)), damage.digests[usize::from(index)]);
        world.rot(holder, shard);
        world.bad.learn(holder, shard, false);
        damage.lost.insert(index);
        world.planner.report(world.now, damage.clone()).expect("it can be repaired");
        damages.push(damage);
    }
    let begun = world.now;
    world.run(&mut Key::root(1).stream());
    assert_eq!((world.repaired.len(), world.gave_up.len()), (10, 0));
    for damage in &damages {
        world.judge(damage);
        let (_, index, holder) =
            world.repaired.iter().find(|(stripe, ..)| *stripe == damage.stripe).expect("one each");
        assert!(holder.number() >= 6, "elsewhere");
        assert!(damage.lost.contains(index));
    }
    let moved = Stats {
        attempts: 10,
        failed: 0,
        repaired: 10,
        gave_up: 0,
        inconsistent: 0,
        fetched_bytes: 10 * 4 * 64,
        stored_bytes: 10 * 64,
        minimum_bytes: 10 * 5 * 64,
        ..Stats::default()
    };
    assert_eq!(world.planner.stats(), moved, "without faults no byte too many is moved");
    assert!(world.now.since(begun) < Duration::from_secs(30), "a bucket holds ten");
}

#[test]
fn more_than_a_bucket_takes_its_time_and_the_most_endangered_come_first() {
    let mut world = World::new((4, 4), Config { plans_max: 1, ..Config::default() });
    for number in 0..12u32 {
        // The later, the worse.
        let lost: Vec<u16> = (0..1 + (number / 4) as u16).collect();
        let damage = world.stripe(number, &lost);
        world.planner.report(world.now, damage).expect("it can be repaired");
    }
    let begun = world.now;
    world.run(&mut Key::root(1).stream());
    assert_eq!(world.repaired.len(), 4 * (1 + 2 + 3));
    let chunks: Vec<u32> = world.repaired.iter().map(|(stripe, ..)| stripe.chunk).collect();
    assert!(chunks[..9].iter().all(|chunk| *chunk >= 8), "{chunks:?}");
    // 24 shards: ten at once, fourteen at six seconds each.
    let took = world.now.since(begun).as_secs();
    assert!((78..100).contains(&took), "{took} s");
    world.judge_rate();
}

#[test]
fn a_corrupt_copy_is_no_source_whether_known_or_not() {
    let mut world = World::new((4, 4), Config::default());
    let mut damage = world.stripe(1, &[7]);
    // Known to be bad, and listed as a source all the same; and bad without anybody knowing.
    for index in [0u16, 1] {
        world.rot(node(u64::from(index)), damage.digests[usize::from(index)]);
    }
    world.bad.learn(node(0), damage.digests[0], false);
    world.planner.report(world.now, damage.clone()).expect("it can be repaired");
    world.run(&mut Key::root(1).stream());
    assert_eq!(world.repaired.len(), 1);
    world.judge(&damage);
    assert!(world.bad.is_bad(node(1), damage.digests[1]), "found out by its digest");
    // With fewer than k good ones there is no repair, and it is said.
    damage.stripe.chunk = 2;
    for index in [2u16, 3, 4] {
        world.rot(node(u64::from(index)), damage.digests[usize::from(index)]);
    }
    world.planner.report(world.now, damage.clone()).expect("it looks as if it could be repaired");
    world.run(&mut Key::root(1).stream());
    assert_eq!(world.repaired.len(), 1);
    assert_eq!(world.gave_up, [(damage.stripe, GaveUp::TooFewSources)]);
}

#[test]
fn shards_are_placed_elsewhere_and_on_the_bad_node_only_if_there_is_no_other() {
    let mut world = World::new((2, 2), Config::default());
    let mut damage = world.stripe(1, &[]);
    world.rot(node(3), damage.digests[3]);
    world.bad.learn(node(3), damage.digests[3], false);
    damage.lost.insert(3);
    damage.candidates = [3, 0, 1, 2].map(node).to_vec();
    world.planner.report(world.now, damage.clone()).expect("it can be repaired");
    world.run(&mut Key::root(1).stream());
    assert_eq!(world.repaired, [(damage.stripe, 3, node(3))], "in place: nobody else is free");
    world.judge(&damage);
    assert!(!world.bad.is_bad(node(3), damage.digests[3]));
    damage.stripe.chunk = 2;
    world.rot(node(3), damage.digests[3]);
    world.bad.learn(node(3), damage.digests[3], false);
    damage.candidates.push(node(9));
    world.planner.report(world.now, damage.clone()).expect("it can be repaired");
    world.run(&mut Key::root(1).stream());
    assert_eq!(world.repaired[1], (damage.stripe, 3, node(9)));
}

#[test]
fn failures_open_the_breaker_and_one_trial_closes_it() {
    let config = Config { attempts_max: 1, plans_max: 1, ..Config::default() };
    let mut world = World::new((2, 1), config);
    for number in 0..8 {
        let mut damage = world.stripe(number, &[0]);
        if number < 5 {
            damage.candidates.clear();
        }
        // The ones that cannot be placed look more endangered.
        if number >= 5 {
            damage.sources.push(Source { index: 0, node: node(30) });
        }
        world.planner.report(world.now, damage).expect("it looks as if it could be repaired");
    }
    world.run(&mut Key::root(1).stream());
    assert_eq!((world.gave_up.len(), world.repaired.len()), (5, 3));
    assert_eq!(world.planner.breaker(world.now), Position::Closed);
    let pause = world.begun[5].since(world.begun[4]);
    assert!(pause >= Duration::from_secs(300) && pause < Duration::from_secs(310), "{pause:?}");
    assert!(world.begun[6].since(world.begun[5]) < Duration::from_secs(40));
}

/// A stripe of which one shard lies in the wrong place.
fn misplaced(world: &mut World, number: u32, index: u16, to: &[u64]) -> Damage {
    let mut damage = world.stripe(number, &[]);
    damage.need = Need::Misplaced;
    damage.lost.insert(index);
    damage.sources.retain(|source| source.index == index);
    damage.candidates = to.iter().map(|number| node(*number)).collect();
    damage
}

#[test]
fn what_lies_in_the_wrong_place_is_copied_from_there_and_costs_no_repair() {
    let mut world = World::new((4, 2), Config::default());
    world.manners.insert(node(8), Manner::Full);
    let damage = misplaced(&mut world, 1, 2, &[8, 9]);
    world.planner.report(world.now, damage.clone()).expect("it can be moved");
    world.run(&mut Key::root(1).stream());
    assert_eq!(world.repaired, [(damage.stripe, 2, node(9))], "the first one is full");
    let moved = Stats { moved: 1, stored_bytes: 0, moved_bytes: 64 + 2 * 64, ..Stats::default() };
    assert_eq!(world.planner.stats(), moved);
}

/// The trap: a corrupt copy used as source. The move comes to nothing, and what follows is a repair.
#[test]
fn a_copy_in_the_wrong_place_that_is_bad_is_not_moved() {
    let mut world = World::new((4, 2), Config::default());
    let damage = misplaced(&mut world, 1, 2, &[9]);
    world.rot(node(2), damage.digests[2]);
    world.planner.report(world.now, damage.clone()).expect("nobody knows that it is bad");
    world.run(&mut Key::root(1).stream());
    assert_eq!((world.repaired.len(), world.planner.stats().not_moved), (0, 1));
    assert!(world.bad.is_bad(node(2), damage.digests[2]), "now it is known");
    assert_eq!(world.planner.pending(), 0, "it is not tried again");
    assert!(!world.disks.contains_key(&(node(9), damage.digests[2])));
}

#[test]
fn nothing_is_moved_while_something_is_lost_and_no_more_than_may_be() {
    let config = Config { moves: 2, ..Config::default() };
    let mut world = World::new((4, 2), config);
    for number in 0..6 {
        let damage = misplaced(&mut world, number, 2, &[9]);
        world.planner.report(world.now, damage).expect("it can be moved");
    }
    let again = misplaced(&mut world, 5, 3, &[9]);
    assert_eq!(world.planner.report(world.now, again), Err(Unusable::Busy));
    let lost = world.stripe(7, &[1]);
    world.planner.report(world.now, lost.clone()).expect("it can be repaired");
    // What is found to be lost meanwhile is not only moved.
    let worse = world.stripe(3, &[4]);
    world.planner.report(world.now, worse.clone()).expect("it can be repaired");
    let begun = world.now;
    world.run(&mut Key::root(1).stream());
    let first: BTreeSet<StripeId> = world.repaired[..2].iter().map(|it| it.0).collect();
    assert_eq!(first, [lost.stripe, worse.stripe].into(), "repairs come first");
    let stats = world.planner.stats();
    assert_eq!((stats.repaired, stats.moved), (2, 5));
    // Two at once, and three more at thirty seconds each.
    let took = world.now.since(begun).as_secs();
    assert!((90..100).contains(&took), "{took} s");
    let never = Config { moves: 0, ..Config::default() };
    let mut world = World::new((4, 2), never);
    let damage = misplaced(&mut world, 1, 2, &[9]);
    assert_eq!(world.planner.report(world.now, damage), Err(Unusable::Busy));
}

#[test]
fn reports_that_make_no_sense_are_refused() {
    let mut world = World::new((2, 1), Config { queue_max: 1, ..Config::default() });
    let damage = world.stripe(1, &[0]);
    let scheme = damage.scheme;
    let now = world.now;
    let mut report = |change: fn(&mut Damage)| {
        let mut damage = damage.clone();
        change(&mut damage);
        world.planner.report(now, damage)
    };
    assert_eq!(report(|d| _ = d.digests.pop()), Err(Unusable::Shape { scheme }));
    assert_eq!(report(|d| _ = d.lost.insert(3)), Err(Unusable::Shape { scheme }));
    assert_eq!(report(|d| d.sources[0].index = 3), Err(Unusable::Shape { scheme }));
    assert_eq!(report(|d| d.lost.clear()), Err(Unusable::NothingLost));
    assert_eq!(report(|_| ()), Ok(()));
    assert_eq!(report(|_| ()), Ok(()), "it waits already");
    assert_eq!(report(|d| d.stripe.chunk = 2), Err(Unusable::QueueFull { waiting: 1 }));
}

/// The manifest names a digest that encoding does not make: nobody is to be blamed for it.
#[test]
fn a_wrong_manifest_is_told_apart_from_bad_copies() {
    let mut world = World::new((2, 1), Config::default());
    let mut damage = world.stripe(1, &[2]);
    damage.digests[2] = Digest([5; 32]);
    world.planner.report(world.now, damage.clone()).expect("it looks as if it could be repaired");
    world.run(&mut Key::root(1).stream());
    assert_eq!(world.gave_up, [(damage.stripe, GaveUp::Inconsistent)]);
    assert_eq!(world.bad, BadCopies::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any damage, any nodes, any order of answers: repairs end; each that is called done is done, on a
    /// node of its own; and if enough nodes are well, all of it is done.
    #[test]
    fn repairs_end_and_are_real(
        k in 1u16..6, m in 1u16..6, stripes in 1u32..8, seed: u64, trouble in 0u64..60,
    ) {
        let config = Config { attempts_max: 3, ..Config::default() };
        let mut world = World::new((k, m), config);
        let mut chance = Key::root(seed).stream();
        for number in 0..40 {
            if chance.below(100) < trouble {
                let manners = [Manner::Silent, Manner::Full, Manner::Rots];
                world.manners.insert(node(number), manners[chance.below(3) as usize]);
            }
        }
        let mut damages = Vec::new();
        for number in 0..stripes {
            let lost = chance.distinct(1 + chance.clone().below(u64::from(m)) as u32, u32::from(k + m));
            let lost: Vec<u16> = lost.into_iter().map(|index| index as u16).collect();
            let damage = world.stripe(number, &lost);
            let mut good = 0;
            for source in &damage.sources {
                let shard = damage.digests[usize::from(source.index)];
                if chance.below(200) < trouble {
                    world.rot(source.node, shard);
                    if chance.below(2) == 0 {
                        world.bad.learn(source.node, shard, false);
                    }
                } else if world.manner(source.node) != Manner::Silent {
                    good += 1;
                }
            }
            world.planner.report(world.now, damage.clone()).unwrap();
            damages.push((damage, good));
        }
        world.run(&mut chance);
        world.judge_rate();
        for (damage, good) in &damages {
            world.judge(damage);
            let done: BTreeSet<u16> = world.repaired.iter()
                .filter(|(stripe, ..)| *stripe == damage.stripe)
                .map(|&(_, index, _)| index)
                .collect();
            let gave_up = world.gave_up.iter().find(|(stripe, _)| *stripe == damage.stripe);
            prop_assert_eq!(done == damage.lost, gave_up.is_none(), "all, or told");
            let holders: BTreeSet<NodeName> =
                damage.sources.iter().map(|source| source.node).collect();
            let places = (0..40).map(node).filter(|&node| {
                !holders.contains(&node) && world.manner(node) == Manner::Well
            });
            if *good < usize::from(k) {
                prop_assert_eq!(gave_up.map(|(_, why)| *why), Some(GaveUp::TooFewSources));
            } else if places.count() >= damage.lost.len() {
                prop_assert_eq!(&done, &damage.lost, "it could be repaired: {:?}", gave_up);
            }
        }
        let stats = world.planner.stats();
        prop_assert!(stats.minimum_bytes <= stats.fetched_bytes + stats.stored_bytes);
    }
}
