//! Directories that look for records over a network in which some are dead. The judge knows all nodes,
//! and sorts them.

use base::prng::{Key, Stream};
use base::{NodeName, Time};
use placement::{
    Directory, DirectoryMessage, DirectoryOutput, LookupConfig, LookupId, RecordKey, distance,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

struct World {
    now: Time,
    queue: BTreeMap<(Time, u64), (NodeName, NodeName, DirectoryMessage)>,
    tie: u64,
    nodes: BTreeMap<NodeName, Directory>,
    dead: BTreeSet<NodeName>,
    stream: Stream,
    /// Who was asked for what.
    asked: Vec<NodeName>,
    said: Vec<(NodeName, DirectoryOutput)>,
}

fn random_name(stream: &mut Stream) -> NodeName {
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&stream.next_u64().to_le_bytes());
    }
    NodeName(bytes)
}

impl World {
    /// Everybody has met a few by chance, and looks for itself, as a new node does.
    fn new(seed: u64, count: u64) -> World {
        let mut stream = Key::root(seed).stream();
        let names: Vec<NodeName> = (0..count).map(|_| random_name(&mut stream)).collect();
        let nodes =
            names.iter().map(|name| (*name, Directory::new(LookupConfig::default(), *name)));
        let mut world = World {
            now: Time::ZERO,
            queue: BTreeMap::new(),
            tie: 0,
            nodes: nodes.collect(),
            dead: BTreeSet::new(),
            stream,
            asked: Vec::new(),
            said: Vec::new(),
        };
        for (at, name) in names.iter().enumerate() {
            for _ in 0..5 {
                let other = names[world.stream.below(count) as usize];
                world.nodes.get_mut(name).expect("it is there").seen(other);
            }
            let before = names[(at + names.len() - 1) % names.len()];
            world.nodes.get_mut(name).expect("it is there").seen(before);
        }
        for name in &names {
            let mut out = Vec::new();
            let node = world.nodes.get_mut(name).expect("it is there");
            node.fetch(Time::ZERO, name.0, &mut out).expect("it is the first");
            world.perform(*name, out);
        }
        world.run();
        world
    }

    fn perform(&mut self, from: NodeName, out: Vec<DirectoryOutput>) {
        for output in out {
            if let DirectoryOutput::Send { to, message } = output {
                if matches!(message, DirectoryMessage::Find { .. }) {
                    self.asked.push(to);
                }
                self.tie += 1;
                let wait = Duration::from_millis(1 + self.stream.below(280));
                self.queue.insert((self.now + wait, self.tie), (from, to, message));
            } else {
                self.said.push((from, output));
            }
        }
    }

    fn run(&mut self) {
        loop {
            let timer = self
                .nodes
                .iter()
                .filter(|(name, _)| !self.dead.contains(name))
                .filter_map(|(name, node)| Some((node.due()?, *name)))
                .min();
            let message = self.queue.first_key_value().map(|((at, _), _)| *at);
            let mut out = Vec::new();
            let acted = match (message, timer) {
                (None, None) => return,
                (message, Some((due, name))) if message.is_none_or(|at| due <= at) => {
                    self.now = self.now.max(due);
                    self.nodes.get_mut(&name).expect("it is there").tick(self.now, &mut out);
                    name
                }
                _ => {
                    let ((at, _), (from, to, message)) = self.queue.pop_first().expect("a message");
                    self.now = self.now.max(at);
                    if self.dead.contains(&to) {
                        continue;
                    }
                    let node = self.nodes.get_mut(&to).expect("it is there");
                    node.handle(self.now, from, &message, &mut out);
                    to
                }
            };
            self.perform(acted, out);
        }
    }

    /// All that live, the closest first.
    fn sorted(&self, key: &RecordKey, but: NodeName) -> Vec<NodeName> {
        let mut names: Vec<NodeName> = self
            .nodes
            .keys()
            .copied()
            .filter(|name| !self.dead.contains(name) && *name != but)
            .collect();
        names.sort_by_key(|name| distance(*name, key));
        names
    }

    fn on<R>(
        &mut self,
        name: NodeName,
        act: impl FnOnce(&mut Directory, Time, &mut Vec<DirectoryOutput>) -> R,
    ) -> R {
        let mut out = Vec::new();
        let now = self.now;
        let result = act(self.nodes.get_mut(&name).expect("it is there"), now, &mut out);
        self.perform(name, out);
        result
    }
}

#[test]
fn a_record_is_with_the_three_closest_and_comes_from_them() {
    let mut world = World::new(1, 200);
    let (mut exact, mut asked) = (0, 0);
    for round in 0..60u64 {
        let key = random_name(&mut world.stream).0;
        let publisher = *world.nodes.keys().nth(round as usize * 3).expect("there are 200");
        let record = round.to_le_bytes().to_vec();
        world.said.clear();
        let id = world.on(publisher, |node, now, out| node.publish(now, key, record.clone(), out));
        let id = id.expect("one at a time");
        world.run();
        let [(_, DirectoryOutput::Published { lookup, holders })] = &world.said[..] else {
            panic!("{:?}", world.said);
        };
        assert_eq!((*lookup, holders.len()), (id, 3));
        let closest: BTreeSet<NodeName> =
            world.sorted(&key, publisher)[..3].iter().copied().collect();
        exact += u32::from(holders.iter().copied().collect::<BTreeSet<_>>() == closest);
        for holder in holders {
            assert_eq!(
                world.nodes[holder].record(&key),
                Some(&record[..]),
                "it says so, and has it"
            );
        }

        // Two of the three die, and somebody else looks for it.
        let holders = holders.clone();
        world.dead.extend(&holders[..2]);
        let reader = world.sorted(&key, publisher)[120];
        world.asked.clear();
        world.said.clear();
        let id =
            world.on(reader, |node, now, out| node.fetch(now, key, out)).expect("one at a time");
        world.run();
        asked += world.asked.len();
        let found = world.said.iter().find_map(|(_, said)| match said {
            DirectoryOutput::Record { lookup, from, record } => {
                Some((*lookup, *from, record.clone()))
            }
            _ => None,
        });
        assert_eq!(found, Some((id, holders[2], record)));
        world.dead.clear();
    }
    println!("the three closest of all 200: {exact} of 60; asked per lookup: {}", asked / 60);
    assert!(exact >= 57, "{exact}");
    assert!(asked / 60 >= 8, "it asks");
}

#[test]
fn a_lookup_ends_with_everybody_dead_or_lying() {
    let mut world = World::new(2, 50);
    let reader = *world.nodes.keys().next().expect("there are 50");
    let everybody: Vec<NodeName> = world.nodes.keys().copied().collect();
    world.dead.extend(everybody.iter().filter(|name| **name != reader));
    world.said.clear();
    let before = world.now;
    world.on(reader, |node, now, out| node.fetch(now, [7; 32], out)).expect("one at a time");
    world.run();
    let said: Vec<&DirectoryOutput> = world.said.iter().map(|(_, said)| said).collect();
    assert!(matches!(said[..], [DirectoryOutput::NotFound { closest, .. }] if closest.is_empty()));
    assert_eq!(world.nodes[&reader].under_way(), 0);
    assert!(world.now - before < Duration::from_secs(5 * 51));

    // Answers of whom one has not asked, or twice, and records that are too long, are worth nothing.
    let mut node = Directory::new(LookupConfig::default(), NodeName::numbered(0));
    node.seen(NodeName::numbered(1));
    let mut out = Vec::new();
    let lookup = node.fetch(Time::ZERO, [7; 32], &mut out).unwrap();
    assert_eq!(out.len(), 1);
    let found =
        |record: Vec<u8>| DirectoryMessage::Found { lookup, nodes: vec![], record: Some(record) };
    node.handle(Time::ZERO, NodeName::numbered(2), &found(vec![1]), &mut out);
    assert_eq!(out.len(), 1);
    node.handle(Time::ZERO, NodeName::numbered(1), &found(vec![0; (1 << 20) + 1]), &mut out);
    assert!(matches!(out[1], DirectoryOutput::NotFound { .. }), "{out:?}");
    node.handle(Time::ZERO, NodeName::numbered(1), &found(vec![1]), &mut out);
    assert_eq!(out.len(), 2);
    let record = vec![0; (1 << 20) + 1];
    let store = DirectoryMessage::Store { lookup: LookupId(1), key: [1; 32], record };
    node.handle(Time::ZERO, NodeName::numbered(1), &store, &mut out);
    let stored = DirectoryMessage::Stored { lookup: LookupId(1), held: false };
    assert_eq!(out[2], DirectoryOutput::Send { to: NodeName::numbered(1), message: stored });
}

proptest! {
    #[test]
    fn the_distance_is_a_metric(a in any::<[u8; 32]>(), b in any::<[u8; 32]>(), c in any::<[u8; 32]>()) {
        let far = |one: [u8; 32], two: [u8; 32]| distance(NodeName(one), &two);
        prop_assert_eq!(far(a, b), far(b, a));
        prop_assert_eq!(far(a, b) == [0; 32], a == b);
        let half = |bytes: [u8; 32]| u128::from_be_bytes(bytes[..16].try_into().unwrap());
        prop_assert!(half(far(a, c)) <= half(far(a, b)).saturating_add(half(far(b, c))).saturating_add(1));
    }
}

/// Whoever was silent for too long is taken out, and is known again once membership says that it is there after all.
#[test]
fn who_was_silent_is_known_again_if_it_is_there() {
    let mut stream = Key::root(7).stream();
    let (own, there) = (random_name(&mut stream), random_name(&mut stream));
    let mut directory = Directory::new(LookupConfig::default(), own);
    directory.refill([there].into_iter());
    assert_eq!(directory.table().known(), 0, "nobody was taken out: nobody is asked who is there");
    directory.seen(there);
    directory.seen(there);
    assert_eq!(directory.table().known(), 1, "however often it is seen");

    let mut out = Vec::new();
    directory.fetch(Time::ZERO, [0; 32], &mut out).expect("it is the first");
    while let Some(at) = directory.due() {
        directory.tick(at, &mut out);
    }
    assert_eq!(directory.table().known(), 0, "it has not answered");
    directory.refill([there, own].into_iter());
    assert_eq!(directory.table().closest(&there.0, 2), [there]);

    let (gone, new) = (there, random_name(&mut stream));
    directory.gone(gone);
    directory.refill([new].into_iter());
    assert_eq!(directory.table().closest(&there.0, 2), [new], "there was room for it");
}
