use crate::Digest;
use base::{NodeName, Time};
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::time::Duration;

/// The numbers of a [`ShardStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Whose store it is.
    pub node: NodeName,
    /// Bytes of shards that it holds at most.
    pub capacity_bytes: u64,
    /// The longest shard that it takes, in bytes. Default 16 MiB.
    pub shard_bytes_max: u64,
    /// How long a promise to keep a shard lasts, and so how long after a start nothing is evicted.
    /// Default 60 s. All nodes must have the same.
    pub promise: Duration,
}

impl StoreConfig {
    /// The defaults for a node of this capacity.
    #[must_use]
    pub fn new(node: NodeName, capacity_bytes: u64) -> StoreConfig {
        let promise = Duration::from_secs(60);
        StoreConfig { node, capacity_bytes, shard_bytes_max: 16 << 20, promise }
    }
}

/// What the shell does for a store, strictly in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Keep these bytes under this name, and once they are durable, or cannot be, call
    /// [`ShardStore::written`]. If there are bytes under this name, they stay until the new ones are
    /// durable (write a file beside, rename it): they may be the only good copy.
    Write {
        /// The name.
        digest: Digest,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Read the bytes of this name, and call [`ShardStore::loaded`].
    Read {
        /// The name.
        digest: Digest,
    },
    /// Drop the bytes of this name. A crash may bring them back; nothing has to be reported.
    Remove {
        /// The name.
        digest: Digest,
    },
    /// Keep a mark under this name, durably; then call [`ShardStore::pin_durable`].
    Pin {
        /// The name.
        digest: Digest,
    },
    /// Drop that mark.
    Unpin {
        /// The name.
        digest: Digest,
    },
}

/// A shard was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// It is held durably: it may be acknowledged now.
    Held,
    /// It is being written: acknowledge it when [`ShardStore::written`] says so.
    Writing,
}

/// A shard was not accepted; nothing changed. Whoever sent it must place it elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no room, also not by evicting what others hold as well.
    #[error(
        "no room for {bytes} bytes: {free_bytes} are free, and {evictable_bytes} can be evicted"
    )]
    Full {
        /// The shard's length.
        bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What may be evicted now.
        evictable_bytes: u64,
    },
    /// The shard is longer than this node takes any.
    #[error("a shard of {bytes} bytes; this node takes at most {bytes_max}")]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The bytes have another name.
    #[error("called {claimed}, the bytes are {found}")]
    Mismatch {
        /// What it was called.
        claimed: Digest,
        /// What it is.
        found: Digest,
    },
    /// The node is about to leave.
    #[error("this node is leaving and takes no more shards")]
    Draining,
}

/// The store does not hold this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {0} is not held here")]
pub struct Absent(pub Digest);

/// The disk did not keep a shard: it is not held, its room is free. Tell whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {0} could not be written")]
pub struct NotKept(pub Digest);

/// What the disk gave for a shard is not that shard. The copy is bad from now on: it is not given out,
/// not promised, and replaced by the next put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node's copy of shard {0} is bad")]
pub struct Mismatch(pub Digest);

/// Counters and sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Shards here, bad ones and those being written included.
    pub shards: u64,
    /// How many of them are known to be bad.
    pub bad: u64,
    /// Bytes that they take.
    pub used_bytes: u64,
    /// Bytes that they may take: *not* what is free.
    pub capacity_bytes: u64,
    /// Shards evicted since the start.
    pub evicted: u64,
    /// Puts refused for want of room since the start.
    pub refused_full: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The write has not been reported yet.
    Writing,
    /// Found at the start, and not read since: perhaps the rest of a write that a crash cut.
    Unread,
    /// Written or read by this process, and right.
    Held,
    /// Read, and wrong.
    Bad,
}

#[derive(Clone, Debug)]
struct Entry {
    state: State,
    bytes: u64,
    last_used: Time,
    /// This node promised others to keep it until then.
    kept_until: Time,
    /// Another node promised to keep it until then.
    elsewhere_until: Time,
}

/// One node's shards, by their digest.
///
/// A value: it decides, the shell does what [`Op`]s say. What survives a restart is what the shell keeps
/// under names: bytes of shards, and marks of pins. [`ShardStore::recover`] makes the index from a list
/// of both, without reading any shard; there is no journal that could disagree with them. So files in a
/// folder will do, or an ordered map in a simulated disk. The first write of a name need not be atomic: a
/// shard that was found at a start counts as held only once it was read or put again.
///
/// # Why a sole copy is never evicted
///
/// Two holders that each know of the other's copy would both evict. So knowing is not enough. A node
/// evicts a shard only under another holder's *promise* to keep it ([`ShardStore::promise`]), and never
/// while a promise of its own runs. Say B evicts at some moment. Then the promise of some A ran, A held
/// the shard, and A could not evict before it ended; after that A needs a promise by a third holder, for
/// B has none to give. So at each eviction another holder remains. Promises are not durable: a node that
/// starts again evicts nothing for as long as a promise lasts, by when all that it has forgotten have
/// ended. B counts from when it asked, A from when it promised, which is later; between two clocks
/// only their speed has to agree, within an eighth, by which B ends early.
#[derive(Clone, Debug)]
pub struct ShardStore {
    config: StoreConfig,
    started: Time,
    entries: BTreeMap<Digest, Entry>,
    pins: BTreeMap<Digest, bool>,
    used_bytes: u64,
    draining: bool,
    evicted: u64,
    refused_full: u64,
}

impl ShardStore {
    /// An empty store.
    #[must_use]
    pub fn new(config: StoreConfig, now: Time) -> ShardStore {
        ShardStore::recover(config, now, [], [])
    }

    /// The store of what the shell finds: each shard's name and length, and each pin.
    #[must_use]
    pub fn recover(
        config: StoreConfig,
        now: Time,
        shards: impl IntoIterator<Item = (Digest, u64)>,
        pins: impl IntoIterator<Item = Digest>,
    ) -> ShardStore {
        let entries: BTreeMap<Digest, Entry> = shards
            .into_iter()
            .map(|(digest, bytes)| (digest, Entry::new(State::Unread, bytes, now)))
            .collect();
        ShardStore {
            config,
            started: now,
            used_bytes: entries.values().map(|entry| entry.bytes).sum(),
            entries,
            pins: pins.into_iter().map(|digest| (digest, true)).collect(),
            draining: false,
            evicted: 0,
            refused_full: 0,
        }
    }

    /// Takes a shard, if there is room or room can be made.
    ///
    /// # Errors
    /// [`Refusal`]: it was not taken.
    pub fn put(
        &mut self,
        now: Time,
        digest: Digest,
        bytes: Vec<u8>,
        ops: &mut Vec<Op>,
    ) -> Result<Put, Refusal> {
        let (length, bytes_max) = (bytes.len() as u64, self.config.shard_bytes_max);
        if length > bytes_max {
            return Err(Refusal::TooLong { bytes: length, bytes_max });
        }
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(Refusal::Mismatch { claimed: digest, found });
        }
        match self.entries.get_mut(&digest) {
            Some(entry) if entry.state == State::Held => {
                entry.last_used = now;
                return Ok(Put::Held);
            }
            Some(entry) if entry.state == State::Writing => return Ok(Put::Writing),
            _ => {}
        }
        if self.draining {
            return Err(Refusal::Draining);
        }
        // A copy that is bad, or not known to be good, is replaced, and its promises stay.
        let old = self.entries.get(&digest).map_or(0, |entry| entry.bytes);
        self.make_room(now, digest, length.saturating_sub(old), ops)?;
        self.used_bytes = self.used_bytes - old + length;
        let entry = self.entries.entry(digest);
        let entry = entry.or_insert_with(|| Entry::new(State::Writing, length, now));
        (entry.state, entry.bytes, entry.last_used) = (State::Writing, length, now);
        ops.push(Op::Write { digest, bytes });
        Ok(Put::Writing)
    }

    /// The shell has made a write durable, or failed to. After `Ok` it may be acknowledged.
    ///
    /// # Errors
    /// [`NotKept`]: the shard is not held.
    pub fn written(
        &mut self,
        digest: Digest,
        durable: bool,
        ops: &mut Vec<Op>,
    ) -> Result<(), NotKept> {
        let Some(entry) = self.entries.get_mut(&digest) else { return Err(NotKept(digest)) };
        if durable {
            // It may have been read and found bad meanwhile: then the older report changes nothing.
            if entry.state == State::Writing {
                entry.state = State::Held;
            }
            Ok(())
        } else {
            self.forget(digest, ops);
            Err(NotKept(digest))
        }
    }

    /// Has a shard read.
    ///
    /// # Errors
    /// [`Absent`]: it is not here, not yet durable, or known to be bad.
    pub fn read(&mut self, now: Time, digest: Digest, ops: &mut Vec<Op>) -> Result<(), Absent> {
        let entry = self.entries.get_mut(&digest).ok_or(Absent(digest))?;
        if !matches!(entry.state, State::Held | State::Unread) {
            return Err(Absent(digest));
        }
        entry.last_used = now;
        ops.push(Op::Read { digest });
        Ok(())
    }

    /// What the disk gave for a shard, checked; `None` if it gave nothing. Only what this returns may be
    /// shown to anybody.
    ///
    /// # Errors
    /// [`Mismatch`]: this node's copy is bad. Report it, so that it is repaired.
    pub fn loaded(&mut self, digest: Digest, bytes: Option<Vec<u8>>) -> Result<Vec<u8>, Mismatch> {
        let right = bytes.filter(|bytes| Digest::of(bytes) == digest);
        if let Some(entry) = self.entries.get_mut(&digest)
            && entry.state != State::Writing
        {
            entry.state = if right.is_some() { State::Held } else { State::Bad };
        }
        right.ok_or(Mismatch(digest))
    }

    /// Drops a shard that nobody needs any more: its file is deleted, or it was moved.
    ///
    /// # Errors
    /// [`Absent`]: it is not here. A pin does not protect from this: it protects from eviction.
    pub fn remove(&mut self, digest: Digest, ops: &mut Vec<Op>) -> Result<(), Absent> {
        if !self.entries.contains_key(&digest) {
            return Err(Absent(digest));
        }
        if self.pins.remove(&digest).is_some() {
            ops.push(Op::Unpin { digest });
        }
        self.forget(digest, ops);
        Ok(())
    }

    /// Never evict this shard. In force at once, and after a restart once [`ShardStore::pin_durable`]
    /// was called. Pinned again, nothing changes.
    ///
    /// # Errors
    /// [`Absent`]: it is not here.
    pub fn pin(&mut self, digest: Digest, ops: &mut Vec<Op>) -> Result<(), Absent> {
        if !self.entries.contains_key(&digest) {
            return Err(Absent(digest));
        }
        // Pinned before: that pin is durable, or its write is under way.
        if let btree_map::Entry::Vacant(pin) = self.pins.entry(digest) {
            pin.insert(false);
            ops.push(Op::Pin { digest });
        }
        Ok(())
    }

    /// The shell has made a pin durable.
    pub fn pin_durable(&mut self, digest: Digest) {
        if let Some(durable) = self.pins.get_mut(&digest) {
            *durable = true;
        }
    }

    /// The shard may be evicted again, if others hold it.
    pub fn unpin(&mut self, digest: Digest, ops: &mut Vec<Op>) {
        if self.pins.remove(&digest).is_some() {
            ops.push(Op::Unpin { digest });
        }
    }

    /// Promises another node to keep a shard for [`StoreConfig::promise`]; that node may then evict its
    /// own copy.
    ///
    /// # Errors
    /// [`Absent`]: this node does not hold it for sure. It has to be read first if it was found at the
    /// start.
    pub fn promise(&mut self, now: Time, digest: Digest) -> Result<(), Absent> {
        let until = now + self.config.promise;
        match self.entries.get_mut(&digest) {
            Some(entry) if entry.state == State::Held => {
                entry.kept_until = entry.kept_until.max(until);
                Ok(())
            }
            _ => Err(Absent(digest)),
        }
    }

    /// Another node has promised to keep a shard, asked at `asked` by this process.
    pub fn kept_elsewhere(&mut self, digest: Digest, by: NodeName, asked: Time) {
        if by == self.config.node || asked < self.started {
            return;
        }
        let until = asked + (self.config.promise - self.config.promise / 8);
        if let Some(entry) = self.entries.get_mut(&digest) {
            entry.elsewhere_until = entry.elsewhere_until.max(until);
        }
    }

    /// Takes no more shards: the node is about to leave.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether a shard is held for sure: durable, and not known to be bad. One that was found at the
    /// start is, once it has been read.
    #[must_use]
    pub fn holds(&self, digest: Digest) -> bool {
        self.entries.get(&digest).is_some_and(|entry| entry.state == State::Held)
    }

    /// The first shard after this one that can be read, by digest, or the first of all: for a scrubber.
    #[must_use]
    pub fn next_after(&self, digest: Option<Digest>) -> Option<Digest> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = digest.map_or(Unbounded, Excluded);
        let mut behind = self.entries.range((from, Unbounded));
        let readable = |entry: &Entry| matches!(entry.state, State::Held | State::Unread);
        behind.find(|(_, entry)| readable(entry)).map(|(&digest, _)| digest)
    }

    /// All shards here, with their lengths: what a node that drains has to move.
    pub fn shards(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.entries.iter().map(|(&digest, entry)| (digest, entry.bytes))
    }

    /// Whether a pin is in force, and whether it is durable.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Option<bool> {
        self.pins.get(&digest).copied()
    }

    /// Bytes that shards take, bad ones and those being written included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// How many shards are here, likewise.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Counters and sizes. Walks all shards.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let bad = self.entries.values().filter(|entry| entry.state == State::Bad).count();
        Stats {
            shards: self.entries.len() as u64,
            bad: bad as u64,
            used_bytes: self.used_bytes,
            capacity_bytes: self.config.capacity_bytes,
            evicted: self.evicted,
            refused_full: self.refused_full,
        }
    }

    /// Evicts shards, those not used for longest first, until `bytes` more fit; or none at all.
    fn make_room(
        &mut self,
        now: Time,
        coming: Digest,
        bytes: u64,
        ops: &mut Vec<Op>,
    ) -> Result<(), Refusal> {
        let free_bytes = self.config.capacity_bytes.saturating_sub(self.used_bytes);
        if bytes <= free_bytes {
            return Ok(());
        }
        let mut candidates: BTreeSet<(Time, Digest)> = BTreeSet::new();
        let mut evictable_bytes = 0;
        // Nothing is evicted while promises that this node may have forgotten could run.
        if now >= self.started + self.config.promise {
            for (&digest, entry) in &self.entries {
                let replicated = now < entry.elsewhere_until && now >= entry.kept_until;
                let stable = matches!(entry.state, State::Held | State::Unread);
                if replicated && stable && digest != coming && !self.pins.contains_key(&digest) {
                    candidates.insert((entry.last_used, digest));
                    evictable_bytes += entry.bytes;
                }
            }
        }
        if bytes > free_bytes + evictable_bytes {
            self.refused_full += 1;
            return Err(Refusal::Full { bytes, free_bytes, evictable_bytes });
        }
        for (_, digest) in candidates {
            if self.config.capacity_bytes.saturating_sub(self.used_bytes) >= bytes {
                break;
            }
            self.forget(digest, ops);
            self.evicted += 1;
        }
        Ok(())
    }

    fn forget(&mut self, digest: Digest, ops: &mut Vec<Op>) {
        if let Some(entry) = self.entries.remove(&digest) {
            self.used_bytes -= entry.bytes;
            ops.push(Op::Remove { digest });
        }
    }
}

impl Entry {
    fn new(state: State, bytes: u64, now: Time) -> Entry {
        let (kept_until, elsewhere_until) = (Time::ZERO, Time::ZERO);
        Entry { state, bytes, last_used: now, kept_until, elsewhere_until }
    }
}
