//! The network, and what may go wrong with it: delay, loss, duplication, reordering, partitions,
//! and the loss of one kind of message for a while. Messages in flight when a node goes down reach
//! whoever is there when they arrive.
//!
//! A message's fate is a function of the key, of what the message is (sender, addressee, kind,
//! operation, answer) and of how often the same was sent before: one fault more leaves the fate of
//! the other messages as it was (but for those few that share a counter, see `Occurrences`).

use crate::plan::NodeSet;
use crate::scenario::{Between, Latency, Network, Share};
use base::prng::{Draw, Key};
use base::{Ratio, Time};
use node::MessageKind;

/// How many regions there are.
pub const REGIONS: u32 = 9;

/// One-way milliseconds between regions: `us_east`, `us_west`, `eu_west`, `eu_east`, `asia_east`,
/// `asia_south`, `oceania`, `south_america`, `africa`.
const LATENCY_MS: [[u16; 9]; 9] = [
    [0, 60, 80, 100, 180, 200, 220, 120, 160],
    [60, 0, 140, 160, 120, 180, 140, 160, 200],
    [80, 140, 0, 30, 200, 140, 260, 180, 100],
    [100, 160, 30, 0, 160, 120, 240, 200, 80],
    [180, 120, 200, 160, 0, 80, 100, 240, 220],
    [200, 180, 140, 120, 80, 0, 140, 220, 140],
    [220, 140, 260, 240, 100, 140, 0, 280, 260],
    [120, 160, 180, 200, 240, 220, 280, 0, 200],
    [160, 200, 100, 80, 220, 140, 260, 200, 0],
];

/// Within a region a message takes about this long.
const LOCAL_MS: u16 = 1;

/// The shortest and the longest time, in nanoseconds.
#[must_use]
pub fn nanos(Between(low, high): Between) -> (u64, u64) {
    (low.as_nanos() as u64, high.as_nanos() as u64)
}

/// How long messages travel, in nanoseconds: at least, and at most.
#[derive(Clone, Debug)]
enum Delays {
    All(u64, u64),
    /// From one region to another.
    Regions(Box<[[(u64, u64); REGIONS as usize]; REGIONS as usize]>),
}

impl Delays {
    fn new(latency: Latency) -> Delays {
        match latency {
            Latency::Range(range) => {
                let (low, high) = nanos(range);
                Self::All(low, high)
            }
            Latency::Regions => {
                let of = |a: usize, b: usize| {
                    let ms = if a == b { LOCAL_MS } else { LATENCY_MS[a][b] };
                    let low = u64::from(ms) * 1_000_000;
                    (low, low + low / 10)
                };
                let from = |a| std::array::from_fn(|b| of(a, b));
                Self::Regions(Box::new(std::array::from_fn(from)))
            }
        }
    }
}

/// When a message arrives: not at all, once or twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The first copy.
    pub first: Option<Time>,
    /// The second.
    pub second: Option<Time>,
}

/// Why messages were lost, and what else happened to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// By chance.
    pub lost: u64,
    /// By a partition.
    pub partitioned: u64,
    /// By a drop of their kind.
    pub dropped: u64,
    /// Sent once, arrived twice.
    pub duplicated: u64,
    /// Overtaken on purpose.
    pub reordered: u64,
    /// Held back by a clogged link until it was free.
    pub clogged: u64,
}

#[derive(Clone, Debug)]
struct Block {
    entry: u32,
    /// `None`: every kind.
    kind: Option<MessageKind>,
    from: NodeSet,
    to: NodeSet,
}

/// Links that deliver nothing before a moment.
#[derive(Clone, Debug)]
struct Clog {
    entry: u32,
    from: NodeSet,
    to: NodeSet,
    until: Time,
}

/// How often each message was sent before, by its hash, in a table of fixed size that stays in the
/// cache. Two messages may share a counter; then one that is sent more or less often can give the
/// other one another fate. The same run is the same all the same.
#[derive(Clone, Debug)]
struct Occurrences(Vec<u8>);

impl Occurrences {
    /// For so many nodes.
    fn new(nodes: u32) -> Occurrences {
        Occurrences(vec![0; if nodes <= 32 { 1 << 14 } else { 1 << 20 }])
    }

    /// Of so many counters the one of this question.
    #[inline]
    fn place(question: u64, counters: u64) -> u64 {
        question >> 20 & (counters - 1)
    }

    fn next(&mut self, question: u64) -> u8 {
        let place = Self::place(question, self.0.len() as u64);
        let count = &mut self.0[place as usize];
        *count = count.wrapping_add(1);
        *count
    }
}

/// A message that was sent.
#[cfg(test)]
#[derive(Clone, Debug)]
pub struct Sent {
    /// What it is.
    pub identity: u64,
    /// By a partition or a drop: then it is no matter of chance.
    pub held_back: bool,
    /// How often things went wrong by chance then.
    pub settings: [Ratio; 3],
    /// How long it and its double take, in nanoseconds.
    pub delays: [Option<u64>; 2],
}

#[cfg(test)]
impl Sent {
    /// Where its occurrences are counted, in a world of up to 32 nodes.
    pub fn counter(&self) -> u64 {
        Occurrences::place(self.identity, 1 << 14)
    }
}

/// The network of one world.
#[derive(Clone, Debug)]
pub struct Net {
    delays: Delays,
    loss: Ratio,
    duplicate: Ratio,
    reorder: Ratio,
    regions: u32,
    key: Key,
    asked: Occurrences,
    blocks: Vec<Block>,
    clogs: Vec<Clog>,
    /// What was sent, and what became of it.
    #[cfg(test)]
    pub sent: Vec<Sent>,
    /// What happened to messages so far.
    pub losses: Losses,
}

impl Net {
    /// A network without partitions.
    #[must_use]
    pub fn new(settings: &Network, nodes: u32, regions: u32, key: &Key) -> Net {
        let Network { latency, loss, duplicate, reorder } = settings;
        let [Share(loss), Share(duplicate), Share(reorder)] = [*loss, *duplicate, *reorder];
        Net {
            delays: Delays::new(*latency),
            loss,
            duplicate,
            reorder,
            regions,
            key: key.child("net"),
            asked: Occurrences::new(nodes),
            blocks: Vec::new(),
            clogs: Vec::new(),
            #[cfg(test)]
            sent: Vec::new(),
            losses: Losses::default(),
        }
    }

    /// The region of a node: in turn.
    #[must_use]
    pub fn region(&self, node: u32) -> u32 {
        node % self.regions
    }

    /// Nothing passes from one set of nodes to the other until the entry is unblocked; `kind`: only
    /// messages of this kind are held back.
    pub fn block(&mut self, entry: u32, kind: Option<MessageKind>, from: NodeSet, to: NodeSet) {
        self.blocks.push(Block { entry, kind, from, to });
    }

    /// What is sent from one set of nodes to the other leaves at that moment, until the entry is
    /// unblocked; what was sent before has left.
    pub fn clog(&mut self, entry: u32, from: NodeSet, to: NodeSet, until: Time) {
        self.clogs.push(Clog { entry, from, to, until });
    }

    /// Ends what `entry` blocked or clogged.
    pub fn unblock(&mut self, entry: u32) {
        self.blocks.retain(|block| block.entry != entry);
        self.clogs.retain(|clog| clog.entry != entry);
    }

    /// Ends every block. What a clogged link holds back comes when it would have.
    pub fn unblock_all(&mut self) {
        self.blocks.clear();
        self.clogs.clear();
    }

    /// From now on nothing is lost, doubled or reordered.
    pub fn heal(&mut self) {
        (self.loss, self.duplicate, self.reorder) = Default::default();
        self.unblock_all();
    }

    /// The same, written down: for each message what it is, and how long it and its double take.
    #[cfg(test)]
    pub fn send(&mut self, now: Time, from: u32, to: u32, kind: MessageKind, digest: u64) -> Fate {
        let (losses, settings) = (self.losses, [self.loss, self.duplicate, self.reorder]);
        let fate = self.decide(now, from, to, kind, digest);
        let held = |losses: &Losses| losses.partitioned + losses.dropped + losses.clogged;
        let since = |at: Time| at.as_nanos() - now.as_nanos();
        self.sent.push(Sent {
            identity: identity(from, to, digest),
            held_back: held(&self.losses) > held(&losses),
            settings,
            delays: [fate.first.map(since), fate.second.map(since)],
        });
        fate
    }

    /// When the message arrives that is sent now.
    #[cfg(not(test))]
    #[inline]
    pub fn send(&mut self, now: Time, from: u32, to: u32, kind: MessageKind, digest: u64) -> Fate {
        self.decide(now, from, to, kind, digest)
    }

    #[inline]
    fn decide(&mut self, now: Time, from: u32, to: u32, kind: MessageKind, digest: u64) -> Fate {
        let identity = identity(from, to, digest);
        let occurrence = self.asked.next(identity);
        let nowhere = Fate { first: None, second: None };
        if !self.blocks.is_empty() && self.is_blocked(from, to, kind) {
            return nowhere;
        }
        let draw = self.key.draw(identity, u64::from(occurrence));
        if from != to && happens(self.loss, draw, 1) {
            self.losses.lost += 1;
            return nowhere;
        }
        let mut delay = self.delay(from, to, draw.nth(2));
        if happens(self.reorder, draw, 3) {
            self.losses.reordered += 1;
            delay *= draw.nth(4).between(2, 10);
        }
        let leaves = if self.clogs.is_empty() { now } else { self.leaves(now, from, to) };
        let first = Time::from_nanos(leaves.as_nanos().saturating_add(delay));
        let second = happens(self.duplicate, draw, 5).then(|| {
            self.losses.duplicated += 1;
            let delay = self.delay(from, to, draw.nth(6));
            Time::from_nanos(first.as_nanos().saturating_add(delay))
        });
        Fate { first: Some(first), second }
    }

    /// When the message leaves that is sent now, over links that may be clogged.
    fn leaves(&mut self, now: Time, from: u32, to: u32) -> Time {
        let over = |clog: &&Clog| {
            from != to
                && self.is_in(&clog.from, &clog.to, from)
                && self.is_in(&clog.to, &clog.from, to)
        };
        let until = self.clogs.iter().filter(over).map(|clog| clog.until).max();
        match until.filter(|until| *until > now) {
            Some(until) => {
                self.losses.clogged += 1;
                until
            }
            None => now,
        }
    }

    /// Whether a partition or a drop holds a message back, which is then counted.
    fn is_blocked(&mut self, from: u32, to: u32, kind: MessageKind) -> bool {
        let blocked = self.blocks.iter().find(|block| {
            block.kind.is_none_or(|only| only == kind) && self.covers(block, from, to)
        });
        match blocked {
            Some(Block { kind: None, .. }) => self.losses.partitioned += 1,
            Some(_) => self.losses.dropped += 1,
            None => return false,
        }
        true
    }

    fn delay(&self, from: u32, to: u32, draw: Draw) -> u64 {
        let (low, high) = match &self.delays {
            Delays::All(low, high) => (*low, *high),
            Delays::Regions(table) => table[self.region(from) as usize][self.region(to) as usize],
        };
        draw.between(low, high)
    }

    fn covers(&self, block: &Block, from: u32, to: u32) -> bool {
        self.is_in(&block.from, &block.to, from) && self.is_in(&block.to, &block.from, to)
    }

    fn is_in(&self, set: &NodeSet, other: &NodeSet, node: u32) -> bool {
        match set {
            NodeSet::Region(region) => self.region(node) == *region,
            NodeSet::Nodes(nodes) => nodes.contains(&node),
            NodeSet::Rest => match other {
                NodeSet::Rest => true,
                other => !self.is_in(other, set, node),
            },
        }
    }
}

/// What tells a message from others that are sent.
#[inline]
fn identity(from: u32, to: u32, digest: u64) -> u64 {
    let ends = u64::from(from) << 32 | u64::from(to);
    (ends ^ digest).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// Whether something does that happens this often. What never happens costs no draw: each is keyed,
/// so the others stay as they are.
#[inline]
fn happens(share: Ratio, draw: Draw, nth: u64) -> bool {
    share != Ratio::ZERO && share.holds(&draw.nth(nth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_symmetric() {
        for (a, row) in LATENCY_MS.iter().enumerate() {
            for (b, ms) in row.iter().enumerate() {
                assert_eq!(*ms, LATENCY_MS[b][a]);
            }
        }
    }

    /// A clogged link delivers nothing, and when it is free everything that was sent meanwhile.
    #[test]
    fn a_clogged_link_holds_back_and_loses_nothing() {
        let settings = Network::default();
        let mut net = Net::new(&settings, 4, 1, &Key::root(1));
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        let arrives = |net: &mut Net, from, to, now| {
            let fate = net.send(now, from, to, MessageKind::Hello, now.as_nanos());
            fate.first.expect("nothing is lost")
        };
        net.clog(7, NodeSet::Nodes(vec![1]), NodeSet::Rest, at(5_000));
        for ms in [0, 1_000, 4_999] {
            assert!(arrives(&mut net, 1, 2, at(ms)) >= at(5_000), "{ms}");
        }
        assert!(arrives(&mut net, 2, 1, at(0)) < at(5_000), "only one way");
        assert!(arrives(&mut net, 1, 1, at(0)) < at(5_000), "not to itself");
        assert_eq!(net.losses, Losses { clogged: 3, ..Losses::default() });
        net.unblock(7);
        assert!(arrives(&mut net, 1, 2, at(10)) < at(5_000));
    }

    #[test]
    fn one_more_message_leaves_the_fate_of_every_other_as_it_was() {
        let key = Key::root(7);
        let settings = Network { loss: "10%".parse().expect("a share"), ..Network::default() };
        let fates = |extra: bool| {
            let mut net = Net::new(&settings, 9, 1, &key);
            (0..500u32)
                .map(|n| {
                    if extra && n == 3 {
                        net.send(Time::ZERO, 8, 9, MessageKind::Hello, 1);
                    }
                    let digest = u64::from(n / 2) << 32 | u64::from(n / 100);
                    net.send(Time::ZERO, n % 5, n % 7, MessageKind::Announce, digest)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(fates(false), fates(true));
        assert!(fates(false).iter().any(|fate| fate.first.is_none()));
    }
}
