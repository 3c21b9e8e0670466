//! Many nodes that meet, are lost, and come back, over a network that loses messages.

use base::prng::{Key, Stream};
use base::{NodeName, Ratio, Time};
use placement::{
    Announcement, Member, Membership, MembershipConfig, Message, Output, Region, Status,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn own(number: u64, incarnation: u64) -> Announcement {
    Announcement {
        node: NodeName::numbered(number),
        incarnation,
        region: Region::ALL[number as usize % 9],
        capacity_bytes: 1 << 40,
        free_bytes: 1 << 30,
    }
}

fn second(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

enum Event {
    Tick(u64),
    Arrive { from: u64, to: u64, message: Message },
}

struct World {
    now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    tie: u64,
    nodes: BTreeMap<u64, Membership>,
    loss: u64,
    /// Between nodes below this and the others nothing gets through.
    partition: u64,
    stream: Stream,
    sent: BTreeMap<u64, u64>,
    longest: usize,
}

impl World {
    fn new(count: u64, loss: u64) -> World {
        let mut world = World {
            now: Time::ZERO,
            queue: BTreeMap::new(),
            tie: 0,
            nodes: BTreeMap::new(),
            loss,
            partition: 0,
            stream: Key::root(5).child("net").stream(),
            sent: BTreeMap::new(),
            longest: 0,
        };
        for number in 0..count {
            world.start(number, 1);
        }
        world
    }

    fn start(&mut self, number: u64, incarnation: u64) {
        let now = self.now + Duration::from_millis(number * 7);
        let config = MembershipConfig::default();
        let node = Membership::new(config, &Key::root(1), own(number, incarnation), now);
        let join = node.join();
        self.nodes.insert(number, node);
        // To one node that everybody knows.
        let known = if number == 0 { 1 } else { 0 };
        self.queue(now, Event::Arrive { from: number, to: known, message: join });
        self.queue(now, Event::Tick(number));
    }

    fn queue(&mut self, at: Time, event: Event) {
        self.tie += 1;
        self.queue.insert((at, self.tie), event);
    }

    fn perform(&mut self, number: u64, out: Vec<Output>) {
        for output in out {
            let Output::Send { to, message } = output else { continue };
            let to = to.number();
            *self.sent.entry(number).or_default() += 1;
            if let Message::Heartbeat { rumours, .. } = &message {
                self.longest = self.longest.max(rumours.len());
            }
            let cut = (number < self.partition) != (to < self.partition);
            if self.stream.below(100) >= self.loss && !cut {
                let wait = Duration::from_millis(1 + self.stream.below(280));
                self.queue(self.now + wait, Event::Arrive { from: number, to, message });
            }
        }
    }

    fn run(&mut self, until: Time) {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= until
        {
            let ((now, _), event) = entry.remove_entry();
            self.now = now;
            let mut out = Vec::new();
            match event {
                Event::Tick(number) => {
                    let Some(node) = self.nodes.get_mut(&number) else { continue };
                    node.tick(now, &mut out);
                    let next = (now + Duration::from_secs(1)).min(node.due());
                    self.queue(next.max(now + Duration::from_millis(1)), Event::Tick(number));
                    self.perform(number, out);
                }
                Event::Arrive { from, to, message } => {
                    let Some(node) = self.nodes.get_mut(&to) else { continue };
                    node.handle(now, NodeName::numbered(from), &message, &mut out);
                    self.perform(to, out);
                }
            }
        }
        self.now = until;
    }

    /// How many pairs there are in which one does not think of the other what is so. A node that is
    /// there may be missed for a while, until it has answered that.
    fn wrong(&self, count: u64) -> u64 {
        let (mut wrong, mut missed) = (0, 0);
        for (number, node) in &self.nodes {
            for other in (0..count).filter(|other| other != number) {
                let status = node.member(NodeName::numbered(other)).map(|member| member.status);
                missed += u64::from(status == Some(Status::Suspected));
                let there = matches!(status, Some(Status::Alive | Status::Suspected));
                wrong += u64::from(there != self.nodes.contains_key(&other));
            }
        }
        println!("at {}: wrong {wrong}, missed {missed} of {}", self.now, count * count);
        assert!(missed * 20 <= count * count || self.partition > 0, "{missed} are missed");
        wrong
    }
}

#[test]
fn nodes_meet_die_and_return() {
    let count = 120;
    let mut world = World::new(count, 5);
    world.run(second(120));
    assert_eq!(world.wrong(count), 0, "everybody knows everybody");
    for number in [3, 50, 51, 52, 119] {
        world.nodes.remove(&number);
    }
    world.run(second(300));
    assert_eq!(world.wrong(count), 0, "the dead are known to be, and nobody else is");
    world.start(50, 2);
    world.run(second(420));
    assert_eq!(world.wrong(count), 0, "who comes back is known to be there");

    // What a node sends does not grow with the network: eight heartbeats in five seconds, and little else.
    let most = world.sent.values().max().copied().unwrap_or(0);
    println!(
        "messages of one node in 420 s: at most {most}; rumours in one: at most {}",
        world.longest
    );
    assert!(world.longest <= 16);
    let busy = world.sent.iter().filter(|(number, _)| **number > 1).map(|(_, sent)| *sent).max();
    assert!(busy.unwrap_or(0) < 420 / 5 * 8 * 3 / 2, "{busy:?}");
}

#[test]
fn a_partition_heals() {
    let count = 40;
    let mut world = World::new(count, 2);
    world.run(second(60));
    assert_eq!(world.wrong(count), 0);
    world.partition = 15;
    world.run(second(500));
    assert_eq!(world.wrong(count), 2 * 15 * 25, "each side takes the other for dead");
    world.partition = 0;
    world.run(second(800));
    assert_eq!(world.wrong(count), 0);
}

#[test]
fn neighbours_are_bounded_and_go_around() {
    let mut watched: BTreeMap<NodeName, u32> = BTreeMap::new();
    let (count, mut world) = (60, World::new(60, 0));
    world.run(second(60));
    assert_eq!(world.wrong(count), 0);
    for node in world.nodes.values() {
        let neighbours = node.neighbours();
        assert_eq!(neighbours.len(), 8);
        for neighbour in neighbours {
            *watched.entry(neighbour).or_default() += 1;
        }
    }
    assert!(watched.values().all(|count| *count == 8), "{watched:?}");
    assert_eq!(watched.len(), 60);
}

fn known(node: &Membership, number: u64) -> Member {
    *node.member(NodeName::numbered(number)).expect("it was announced")
}

#[test]
fn reputation_stays_when_a_node_announces_itself_again_or_dies() {
    let mut node =
        Membership::new(MembershipConfig::default(), &Key::root(1), own(0, 1), second(0));
    let (two, mut out) = (NodeName::numbered(2), Vec::new());
    let heartbeat =
        |incarnation| Message::Heartbeat { own: own(2, incarnation), view: 0, rumours: [].into() };
    node.handle(second(1), two, &heartbeat(1), &mut out);
    assert_eq!(known(&node, 2).reputation, Ratio::percent(50), "an unknown one is neutral");
    node.set_reputation(two, Ratio::percent(7));
    node.handle(second(2), two, &heartbeat(2), &mut out);
    assert_eq!(known(&node, 2).reputation, Ratio::percent(7));
    for now in 3..300 {
        node.tick(second(now), &mut out);
    }
    assert_eq!(known(&node, 2).status, Status::Dead);
    assert_eq!(node.candidates().count(), 0);
    node.handle(second(300), two, &heartbeat(9), &mut out);
    let member = known(&node, 2);
    assert_eq!((member.status, member.reputation), (Status::Alive, Ratio::percent(7)));
}

#[test]
fn what_is_old_or_in_another_name_is_worth_nothing() {
    let mut node =
        Membership::new(MembershipConfig::default(), &Key::root(1), own(0, 1), second(0));
    let mut out = Vec::new();
    let heartbeat = |number, incarnation| Message::Heartbeat {
        own: own(number, incarnation),
        view: 0,
        rumours: [].into(),
    };
    node.handle(second(1), NodeName::numbered(3), &heartbeat(2, 1), &mut out);
    assert!(node.member(NodeName::numbered(2)).is_none(), "it comes from another");
    node.handle(second(1), NodeName::numbered(2), &heartbeat(2, 5), &mut out);
    // An old announcement that others pass on does not keep a dead node alive.
    for now in 2..200 {
        let old = placement::Rumour { announcement: own(2, 5), suspected: false };
        let message = Message::Heartbeat { own: own(3, 1), view: 0, rumours: [old].into() };
        node.handle(second(now), NodeName::numbered(3), &message, &mut out);
        node.tick(second(now), &mut out);
    }
    assert_eq!(known(&node, 2).status, Status::Dead);
    assert_eq!(known(&node, 3).status, Status::Alive);
    // It was missed within a quarter of a minute, and dead a minute later.
    let changes: BTreeSet<Status> = out
        .iter()
        .filter_map(|output| match output {
            Output::Changed { node, status } if node.number() == 2 => Some(*status),
            _ => None,
        })
        .collect();
    assert_eq!(changes.len(), 3);
    // Who is missed says something newer, once.
    let missed = Message::Missed { incarnation: 1 };
    node.handle(second(200), NodeName::numbered(3), &missed, &mut out);
    node.handle(second(200), NodeName::numbered(3), &missed, &mut out);
    let Message::Join { own } = node.join() else { panic!("it joins") };
    assert_eq!(own.incarnation, 2);
}

fn rumour(number: u64, suspected: bool) -> placement::Rumour {
    placement::Rumour { announcement: own(number, 1), suspected }
}

fn members(rumours: &[placement::Rumour]) -> Message {
    Message::Members { rumours: rumours.into() }
}

/// A node that knows these, and has had so many beats.
fn knowing(number: u64, known: &[u64], beats: u64) -> Membership {
    // So that it has missed nobody before all of its beats.
    let config = MembershipConfig { alive: Duration::from_secs(120), ..Default::default() };
    let mut node = Membership::new(config, &Key::root(1), own(number, 1), second(0));
    let known: Vec<placement::Rumour> = known.iter().map(|it| rumour(*it, false)).collect();
    node.handle(second(0), NodeName::numbered(0), &members(&known), &mut Vec::new());
    (0..beats).for_each(|beat| node.tick(second(5 * beat), &mut Vec::new()));
    node
}

fn sent(out: &[Output]) -> Vec<(u64, Message)> {
    let sent = out.iter().filter_map(|output| match output {
        Output::Send { to, message } => Some((to.number(), message.clone())),
        Output::Changed { .. } => None,
    });
    sent.collect()
}

/// How often a neighbour says that it sees others until the node asks it whom, and what it asks.
fn until_it_asks(node: &mut Membership, of: &Membership) -> (u32, Message) {
    let mut own_said = Vec::new();
    of.clone().tick(second(60), &mut own_said);
    let heartbeat = sent(&own_said).into_iter().find_map(|(_, message)| match message {
        Message::Heartbeat { own, view, .. } => {
            Some(Message::Heartbeat { own, view, rumours: [].into() })
        }
        _ => None,
    });
    let heartbeat = heartbeat.expect("it has neighbours");
    for times in 1..10 {
        let mut out = Vec::new();
        node.handle(second(45), NodeName::numbered(0), &heartbeat, &mut out);
        let mut asked = sent(&out).into_iter();
        if let Some((to, message)) =
            asked.find(|(_, message)| matches!(message, Message::Compare { .. }))
        {
            assert_eq!(to, 0);
            return (times, message);
        }
    }
    (0, Message::Unwatch)
}

#[test]
fn neighbours_that_see_others_for_a_while_compare_and_agree() {
    let all: Vec<u64> = (0..200).collect();
    let without: Vec<u64> = all.iter().copied().filter(|number| *number != 77).collect();
    let knows = knowing(0, &all, 9);
    for (beats, times) in [(3, 1), (9, 3)] {
        let mut does_not = knowing(1, &without, beats);
        let (asked, compare) = until_it_asks(&mut does_not, &knows);
        assert_eq!(asked, times, "what is on its way gets there before, but to who is new");
        let mut out = Vec::new();
        let mut knows = knows.clone();
        knows.handle(second(45), NodeName::numbered(1), &compare, &mut out);
        let said = sent(&out);
        let [(1, message @ Message::Members { rumours })] = &said[..] else { panic!("{said:?}") };
        assert!(rumours.len() < 25, "it hears of one part of the ring: {}", rumours.len());
        does_not.handle(second(45), NodeName::numbered(0), message, &mut Vec::new());
        assert!(does_not.member(NodeName::numbered(77)).is_some());
        assert_eq!(until_it_asks(&mut does_not, &knows).0, 0, "now they see the same");
    }
    // Who is dead for one and not for the other is missed by that one, and is nobody new for a third.
    let mut buried = knowing(0, &all, 9);
    buried.handle(
        second(40),
        NodeName::numbered(5),
        &members(&[rumour(77, true)]),
        &mut Vec::new(),
    );
    buried.tick(second(160), &mut Vec::new());
    assert_eq!(known(&buried, 77).status, Status::Dead);
    let (mut thinks_alive, mut never_heard) = (knowing(1, &all, 9), knowing(1, &without, 9));
    let was = known(&thinks_alive, 77).status;
    let compare = Message::Compare { views: Box::new([0; placement::PARTS]) };
    let mut out = Vec::new();
    buried.handle(second(160), NodeName::numbered(1), &compare, &mut out);
    for (_, message) in sent(&out) {
        thinks_alive.handle(second(100), NodeName::numbered(0), &message, &mut Vec::new());
        never_heard.handle(second(100), NodeName::numbered(0), &message, &mut Vec::new());
    }
    assert_eq!((was, known(&thinks_alive, 77).status), (Status::Alive, Status::Suspected));
    assert!(never_heard.member(NodeName::numbered(77)).is_none());
}

#[test]
fn who_is_missed_or_comes_is_told_to_two_at_once() {
    let all: Vec<u64> = (0..50).collect();
    let told = |node: &mut Membership, from: u64, said: placement::Rumour| {
        let mut out = Vec::new();
        node.handle(second(45), NodeName::numbered(from), &members(&[said]), &mut out);
        sent(&out)
    };
    let mut node = knowing(1, &all, 9);
    for said in [rumour(30, true), rumour(60, false)] {
        let heard = told(&mut node, 7, said);
        assert_eq!(heard.len(), 2, "{heard:?}");
        assert!(
            heard.iter().all(|(to, message)| *to != said.announcement.node.number()
                && *message == members(&[said]))
        );
        assert_ne!(heard[0].0, heard[1].0);
        assert!(told(&mut node, 8, said).is_empty(), "once");
    }
    // It says something newer: that is news as well. Another such announcement of one who is there is not.
    let newer =
        |incarnation| placement::Rumour { announcement: own(30, incarnation), suspected: false };
    assert_eq!(told(&mut node, 7, newer(2)).len(), 2);
    assert!(told(&mut node, 7, newer(3)).is_empty());
    // When all are new, each of them is news.
    assert!(told(&mut knowing(1, &all, 3), 7, rumour(60, false)).is_empty());
}

#[test]
fn whom_a_node_itself_misses_it_asks_before_it_tells_others() {
    let all: Vec<u64> = (0..50).collect();
    for answers in [true, false] {
        let mut node = knowing(1, &all, 9);
        let mut seconds = 45;
        // Of all that it should hear it hears nobody, until it misses one.
        let missed = loop {
            seconds += 1;
            let mut out = Vec::new();
            node.tick(second(seconds), &mut out);
            let asked = sent(&out)
                .into_iter()
                .find_map(|(to, message)| matches!(message, Message::Missed { .. }).then_some(to));
            let tells = |missed: u64| {
                sent(&out)
                    .iter()
                    .any(|(to, it)| *to != missed && *it == members(&[rumour(missed, true)]))
            };
            if let Some(missed) = asked {
                assert!(!tells(missed), "it may answer");
                break missed;
            }
            assert!(seconds < 200);
        };
        if answers {
            let said = placement::Rumour { announcement: own(missed, 2), suspected: false };
            node.handle(
                second(seconds),
                NodeName::numbered(missed),
                &members(&[said]),
                &mut Vec::new(),
            );
        }
        let mut out = Vec::new();
        (1..6).for_each(|more| node.tick(second(seconds + more), &mut out));
        let told = sent(&out).into_iter().filter(|(_, it)| *it == members(&[rumour(missed, true)]));
        assert_eq!(told.count(), if answers { 0 } else { 2 });
        // That it is there was told when it said so; what gossip says of it besides goes to one.
        let of_it = sent(&out).into_iter().filter(|(_, it)| {
            let Message::Members { rumours } = it else { return false };
            rumours.iter().any(|rumour| rumour.announcement.node.number() == missed)
        });
        assert!(of_it.count() <= if answers { 1 } else { 3 });
    }
}

/// The judge looks at everybody, and sorts.
#[test]
fn the_nearest_are_those_of_all_who_count() {
    let mut stream = Key::root(3).stream();
    let mut node =
        Membership::new(MembershipConfig::default(), &Key::root(1), own(0, 1), second(0));
    let mut out = Vec::new();
    // Many names share their beginnings.
    let names: Vec<NodeName> = (0..300)
        .map(|_| {
            let mut name = NodeName::numbered(stream.below(1 << 40));
            name.0[0] = stream.below(3) as u8;
            name
        })
        .collect();
    let rumours: Vec<placement::Rumour> = names
        .iter()
        .map(|name| {
            let mut rumour = rumour(1, false);
            rumour.announcement.node = *name;
            rumour
        })
        .collect();
    node.handle(second(1), names[0], &members(&rumours), &mut out);
    let missed: Vec<placement::Rumour> =
        rumours.iter().step_by(7).map(|it| placement::Rumour { suspected: true, ..*it }).collect();
    node.handle(second(2), names[1], &members(&missed), &mut out);
    let alive: BTreeSet<NodeName> = node.alive().map(|member| member.announcement.node).collect();
    assert!((200..300).contains(&alive.len()), "{}", alive.len());
    for _ in 0..200 {
        let mut key = names[stream.below(300) as usize].0;
        key[stream.below(3) as usize] ^= stream.below(256) as u8;
        let counts = |name: &NodeName| name.0[31] < 128 || name.0[7].is_multiple_of(3);
        let count = stream.below(12) as usize;
        let mut all: Vec<NodeName> = alive.iter().copied().filter(counts).collect();
        all.sort_by_key(|name| placement::distance(*name, &key));
        all.truncate(count);
        assert_eq!(node.nearest(&key, count, |it| counts(&it.announcement.node)), all);
    }
    let all = node.nearest(&[9; 32], 1_000, |_| true);
    assert_eq!(all.len(), alive.len(), "all there are, if they are fewer");
}
