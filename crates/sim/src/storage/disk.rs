//! A simulated disk of shards, and what may go wrong with it.
//!
//! Operations are done one after the other, and each takes time. When the node goes down, the write that
//! was under way is lost, kept, or, under a name that had no bytes before, cut; under a name that had, the
//! old bytes stay. A removal or an unpinning that was done within the last second is undone by a power
//! loss, or not. Bits of what lies there may rot at any time, and a liar's bytes are gone.

use super::judge::is_right;
use base::Time;
use base::prng::Draw;
use network::ShardDone;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store::{Digest, Op};

/// How long a removal may be undone.
const UNSYNCED: Duration = Duration::from_secs(1);

/// What lies under a name.
#[derive(Clone, Debug)]
struct Stored {
    bytes: Vec<u8>,
    /// Whether it is what it is called, once a judge has hashed it as it is now.
    right: OnceCell<bool>,
}

impl From<Vec<u8>> for Stored {
    fn from(bytes: Vec<u8>) -> Stored {
        Stored { bytes, right: OnceCell::new() }
    }
}

/// One node's shards on its disk.
#[derive(Clone, Debug, Default)]
pub struct ShardDisk {
    bytes: BTreeMap<Digest, Stored>,
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
        self.bytes.iter().map(|(digest, it)| (*digest, it.bytes.len() as u64))
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
        self.bytes.get(&digest).map(|it| it.bytes.as_slice())
    }

    /// Whether the bytes under a name are what they are called, by the judge's hash. Asked again it hashes
    /// only what has changed since.
    #[must_use]
    pub fn is_right(&self, digest: Digest) -> bool {
        let right = |it: &Stored| *it.right.get_or_init(|| is_right(digest, Some(&it.bytes)));
        self.bytes.get(&digest).is_some_and(right)
    }

    /// Every name and its bytes.
    pub fn all(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        self.bytes.iter().map(|(digest, it)| (*digest, it.bytes.as_slice()))
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
                    self.bytes.insert(digest, bytes.into());
                }
                Some(ShardDone::Written { digest, durable: true })
            }
            Op::Read { digest } => {
                Some(ShardDone::Loaded { digest, bytes: self.read(digest).map(<[u8]>::to_vec) })
            }
            Op::Remove { digest } => {
                if let Some(it) = self.bytes.remove(&digest) {
                    self.removed.push_back((now, digest, it.bytes));
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
                1 => drop(self.bytes.insert(digest, bytes.into())),
                _ => {
                    let cut = draw.nth(1).below(bytes.len() as u64 + 1) as usize;
                    self.bytes.entry(digest).or_insert_with(|| bytes[..cut].to_vec().into());
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
                    self.bytes.entry(digest).or_insert(bytes.into());
                }
            }
        }
    }

    /// A bit of these bytes is another.
    pub fn rot(&mut self, digest: Digest, draw: Draw) -> bool {
        let Some(it) = self.bytes.get_mut(&digest).filter(|it| !it.bytes.is_empty()) else {
            return false;
        };
        let at = draw.below(it.bytes.len() as u64) as usize;
        it.bytes[at] ^= 1 << draw.nth(1).below(8);
        it.right = OnceCell::new();
        true
    }

    /// Everything but a node's notes is thrown away, and so is what comes.
    pub fn throw_away(&mut self) {
        self.lies = true;
        self.bytes.retain(|_, it| network::is_note(&it.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_rotted_is_hashed_again() {
        let (mut disk, bytes) = (ShardDisk::default(), b"some bytes".to_vec());
        let digest = Digest::of(&bytes);
        assert!(!disk.is_right(digest));
        let write = |disk: &mut ShardDisk| {
            disk.push(Op::Write { digest, bytes: bytes.clone() });
            disk.done(Time::ZERO);
        };
        write(&mut disk);
        assert!(disk.is_right(digest));
        assert!(disk.rot(digest, base::prng::Key::root(1).draw(0, 0)));
        assert!(!disk.is_right(digest));
        write(&mut disk);
        assert!(disk.is_right(digest));
        disk.push(Op::Remove { digest });
        disk.done(Time::ZERO);
        assert!(!disk.is_right(digest));
    }
}
