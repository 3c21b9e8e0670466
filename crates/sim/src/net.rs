//! The network, and what may go wrong with it: delay, loss, duplication, reordering, partitions,
//! and the loss of one kind of message for a while. Messages in flight when a node goes down reach
//! whoever is there when they arrive.
//!
//! A message's fate is a function of the key, of what the message is (sender, addressee, kind,
//! operation, answer) and of how often the same was sent before: one fault more leaves the fate of
//! the other messages as it was (but for those few that share a counter, see `Occurrences`).

use crate::plan::NodeSet;
use crate::scenario::{Latency, Network};
use base::Time;
use base::prng::Key;
use node::MessageKind;
use std::time::Duration;

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
const LOCAL: Duration = Duration::from_millis(1);

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
}

#[derive(Clone, Debug)]
struct Block {
    entry: u32,
    /// `None`: every kind.
    kind: Option<MessageKind>,
    from: NodeSet,
    to: NodeSet,
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

    fn next(&mut self, question: u64) -> u8 {
        let mask = self.0.len() as u64 - 1;
        let count = &mut self.0[(question >> 20 & mask) as usize];
        *count = count.wrapping_add(1);
        *count
    }
}

/// The network of one world.
#[derive(Clone, Debug)]
pub struct Net {
    settings: Network,
    regions: u32,
    key: Key,
    asked: Occurrences,
    blocks: Vec<Block>,
    /// Once faults are healed nothing is lost by chance any more.
    healed: bool,
    /// What happened to messages so far.
    pub losses: Losses,
}

impl Net {
    /// A network without partitions.
    #[must_use]
    pub fn new(settings: Network, nodes: u32, regions: u32, key: &Key) -> Net {
        Net {
            settings,
            regions,
            key: key.child("net"),
            asked: Occurrences::new(nodes),
            blocks: Vec::new(),
            healed: false,
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

    /// Ends what `entry` blocked.
    pub fn unblock(&mut self, entry: u32) {
        self.blocks.retain(|block| block.entry != entry);
    }

    /// Ends every block.
    pub fn unblock_all(&mut self) {
        self.blocks.clear();
    }

    /// From now on nothing is lost, doubled or reordered.
    pub fn heal(&mut self) {
        self.healed = true;
        self.blocks.clear();
    }

    /// When the message arrives that is sent now.
    pub fn send(&mut self, now: Time, from: u32, to: u32, kind: MessageKind, digest: u64) -> Fate {
        let ends = u64::from(from) << 32 | u64::from(to);
        let identity = (ends ^ digest).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let occurrence = self.asked.next(identity);
        let draw = self.key.draw(identity, u64::from(occurrence));
        let nowhere = Fate { first: None, second: None };
        if !self.blocks.is_empty() {
            let blocked = self.blocks.iter().find(|block| {
                block.kind.is_none_or(|only| only == kind) && self.covers(block, from, to)
            });
            match blocked {
                Some(Block { kind: None, .. }) => {
                    self.losses.partitioned += 1;
                    return nowhere;
                }
                Some(_) => {
                    self.losses.dropped += 1;
                    return nowhere;
                }
                None => {}
            }
        }
        if !self.healed && from != to && self.settings.loss.0.holds(&draw.nth(1)) {
            self.losses.lost += 1;
            return nowhere;
        }
        let mut delay = self.delay(from, to, draw.nth(2));
        if !self.healed && self.settings.reorder.0.holds(&draw.nth(3)) {
            self.losses.reordered += 1;
            delay *= draw.nth(4).between(2, 10) as u32;
        }
        let second = !self.healed && self.settings.duplicate.0.holds(&draw.nth(5));
        self.losses.duplicated += u64::from(second);
        let second = second.then(|| now + delay + self.delay(from, to, draw.nth(6)));
        Fate { first: Some(now + delay), second }
    }

    fn delay(&self, from: u32, to: u32, draw: base::prng::Draw) -> Duration {
        let (low, high) = match self.settings.latency {
            Latency::Range(range) => (range.0, range.1),
            Latency::Regions => {
                let (a, b) = (self.region(from) as usize, self.region(to) as usize);
                let base =
                    if a == b { LOCAL } else { Duration::from_millis(u64::from(LATENCY_MS[a][b])) };
                (base, base + base / 10)
            }
        };
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        Duration::from_nanos(draw.between(nanos(low), nanos(high)))
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

    #[test]
    fn one_more_message_leaves_the_fate_of_every_other_as_it_was() {
        let key = Key::root(7);
        let settings = Network { loss: "10%".parse().expect("a share"), ..Network::default() };
        let fates = |extra: bool| {
            let mut net = Net::new(settings.clone(), 9, 1, &key);
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
