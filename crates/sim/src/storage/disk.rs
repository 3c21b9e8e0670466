//! A simulated disk of shards, and what may go wrong with it.
//!
//! Operations are done one after the other, and each takes time. When the node goes down, the write that
//! was under way is lost, kept, or, under a name that had no bytes before, cut; under a name that had, the
//! old bytes stay. A removal or an unpinning that was done within the last second is undone by a power
//! loss, or not. Bits of what lies there may rot at any time, and a liar's bytes are gone.

use base::Time;
use base::prng::Draw;
use network::ShardDone;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store::{Digest, Op};

/// How long a removal may be undone.
const UNSYNCED: Duration = Duration::from_secs(1);

/// One node's shards on its disk.
#[derive(Clone, Debug, Default)]
pub struct ShardDisk {
    bytes: BTreeMap<Digest, Vec<u8>>,
    pins: BTreeSet<Digest>,
    /// What was removed lately: when, and what is back if that was not durable.
    removed: VecDeque<(Time, Digest, Vec<u8>)>,
    queue: VecDeque<Op>,
    /// Nothing is kept, whatever is said.
    pub lies: bool,
}

impl ShardDisk {
    /// What is there, by name and length.
    pub fn shards(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        self.bytes.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64))
    }

    /// The pins that are there.
    #[must_use]
    pub fn pins(&self) -> Vec<Digest> {
        self.pins.iter().copied().collect()
    }

    /// Whether there is a pin under a name.
    #[must_use]
    pub fn is_pinned(&self, digest: Digest) -> bool {
        self.pins.contains(&digest)
    }

    /// The bytes under a name.
    #[must_use]
    pub fn read(&self, digest: Digest) -> Option<&[u8]> {
        self.bytes.get(&digest).map(Vec::as_slice)
    }

    /// Every name and its bytes.
    pub fn all(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        self.bytes.iter().map(|(digest, bytes)| (*digest, bytes.as_slice()))
    }

    /// One more operation; true if none was under way.
    pub fn push(&mut self, op: Op) -> bool {
        self.queue.push_back(op);
        self.queue.len() == 1
    }

    /// The operation under way is done; what the node is told.
    pub fn done(&mut self, now: Time) -> Option<ShardDone> {
        while self.removed.front().is_some_and(|(at, ..)| *at + UNSYNCED <= now) {
            self.removed.pop_front();
        }
        match self.queue.pop_front()? {
            Op::Write { digest, bytes } => {
                if !self.lies || network::is_note(&bytes) {
                    self.bytes.insert(digest, bytes);
                }
                Some(ShardDone::Written { digest, durable: true })
            }
            Op::Read { digest } => {
                Some(ShardDone::Loaded { digest, bytes: self.bytes.get(&digest).cloned() })
            }
            Op::Remove { digest } => {
                if let Some(bytes) = self.bytes.remove(&digest) {
                    self.removed.push_back((now, digest, bytes));
                }
                None
            }
            Op::Pin { digest } => {
                self.pins.insert(digest);
                Some(ShardDone::Pinned { digest })
            }
            Op::Unpin { digest } => {
                self.pins.remove(&digest);
                None
            }
        }
    }

    /// What is taken away by the operation under way.
    #[must_use]
    pub fn next_removal(&self) -> Option<Digest> {
        match self.queue.front() {
            Some(Op::Remove { digest }) if self.bytes.contains_key(digest) => Some(*digest),
            _ => None,
        }
    }

    /// Whether an operation is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The node goes down; `power`: its power fails.
    pub fn fails(&mut self, now: Time, power: bool, draw: Draw) {
        match self.queue.pop_front() {
            Some(Op::Write { digest, bytes }) if !self.lies => match draw.below(3) {
                0 => {}
                1 => drop(self.bytes.insert(digest, bytes)),
                _ => {
                    let cut = draw.nth(1).below(bytes.len() as u64 + 1) as usize;
                    self.bytes.entry(digest).or_insert_with(|| bytes[..cut].to_vec());
                }
            },
            Some(Op::Pin { digest }) if draw.below(2) == 0 => {
                self.pins.insert(digest);
            }
            _ => {}
        }
        self.queue.clear();
        if power {
            for (nth, (at, digest, bytes)) in (2..).zip(std::mem::take(&mut self.removed)) {
                if at + UNSYNCED > now && draw.nth(nth).below(2) == 0 {
                    self.bytes.entry(digest).or_insert(bytes);
                }
            }
        }
    }

    /// A bit of these bytes is another.
    pub fn rot(&mut self, digest: Digest, draw: Draw) -> bool {
        let Some(bytes) = self.bytes.get_mut(&digest).filter(|bytes| !bytes.is_empty()) else {
            return false;
        };
        let at = draw.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << draw.nth(1).below(8);
        true
    }

    /// Everything but a node's notes is thrown away, and so is what comes.
    pub fn throw_away(&mut self) {
        self.lies = true;
        self.bytes.retain(|_, bytes| network::is_note(bytes));
    }
}
