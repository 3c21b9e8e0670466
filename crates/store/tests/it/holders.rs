//! Shard stores: capacity, reads that verify, pins, restarts, and evictions that leave a copy.

use base::prng::{Key, Stream};
use base::{NodeName, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::{Absent, Digest, Mismatch, NotKept, Op, Put, Refusal, ShardStore, StoreConfig};

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn shard(number: u8, bytes: usize) -> (Digest, Vec<u8>) {
    let bytes = vec![number; bytes];
    (Digest::of(&bytes), bytes)
}

/// A store, and the shell's disk: what is durable, and what is under way.
struct Host {
    config: StoreConfig,
    store: ShardStore,
    shards: BTreeMap<Digest, Vec<u8>>,
    pins: BTreeSet<Digest>,
    ops: Vec<Op>,
}

impl Host {
    fn new(number: u64, capacity: u64) -> Host {
        let config = StoreConfig::new(NodeName::numbered(number), capacity);
        let store = ShardStore::new(config, Time::ZERO);
        let (shards, pins) = (BTreeMap::new(), BTreeSet::new());
        Host { config, store, shards, pins, ops: Vec::new() }
    }

    /// Performs the ops that are under way; what is acknowledged, and what was read.
    fn perform(&mut self) -> (Vec<Digest>, Vec<Result<Vec<u8>, Mismatch>>) {
        let (mut kept, mut read) = (Vec::new(), Vec::new());
        while !self.ops.is_empty() {
            for op in std::mem::take(&mut self.ops) {
                match op {
                    Op::Write { digest, bytes } => {
                        self.shards.insert(digest, bytes);
                        if self.store.written(digest, true, &mut self.ops).is_ok() {
                            kept.push(digest);
                        }
                    }
                    Op::Read { digest } => {
                        read.push(self.store.loaded(digest, self.shards.get(&digest).cloned()));
                    }
                    Op::Remove { digest } => drop(self.shards.remove(&digest)),
                    Op::Pin { digest } => {
                        self.pins.insert(digest);
                        self.store.pin_durable(digest);
                    }
                    Op::Unpin { digest } => drop(self.pins.remove(&digest)),
                }
            }
        }
        (kept, read)
    }

    fn put(&mut self, now: Time, (digest, bytes): (Digest, Vec<u8>)) -> Result<Put, Refusal> {
        let put = self.store.put(now, digest, bytes, &mut self.ops);
        self.perform();
        put
    }

    fn read(&mut self, now: Time, digest: Digest) -> Result<Vec<u8>, Option<Mismatch>> {
        self.store.read(now, digest, &mut self.ops).map_err(|_| None)?;
        self.perform().1.remove(0).map_err(Some)
    }

    /// The power fails: ops under way are done in part, and the index is made again.
    fn restart(&mut self, now: Time, chance: &mut Stream) {
        for op in std::mem::take(&mut self.ops) {
            match (op, chance.below(3)) {
                (Op::Write { digest, mut bytes }, 0) if !self.shards.contains_key(&digest) => {
                    bytes.truncate(chance.below(bytes.len() as u64) as usize);
                    self.shards.insert(digest, bytes);
                }
                (Op::Write { digest, bytes }, 1) => drop(self.shards.insert(digest, bytes)),
                (Op::Remove { digest }, 0) => drop(self.shards.remove(&digest)),
                _ => {}
            }
        }
        let shards = self.shards.iter().map(|(&digest, bytes)| (digest, bytes.len() as u64));
        self.store = ShardStore::recover(self.config, now, shards, self.pins.clone());
    }
}

#[test]
fn a_full_store_refuses_and_says_so() {
    let mut host = Host::new(1, 100);
    assert_eq!(host.put(at(0), shard(1, 60)), Ok(Put::Writing));
    assert_eq!(host.put(at(0), shard(1, 60)), Ok(Put::Held), "it is here already");
    let full = Refusal::Full { bytes: 41, free_bytes: 40, evictable_bytes: 0 };
    assert_eq!(host.put(at(0), shard(2, 41)), Err(full));
    assert_eq!(host.put(at(0), shard(2, 40)), Ok(Put::Writing));
    let stats = host.store.stats();
    assert_eq!((stats.used_bytes, stats.capacity_bytes, stats.refused_full), (100, 100, 1));
    let long = Refusal::TooLong { bytes: (16 << 20) + 1, bytes_max: 16 << 20 };
    assert_eq!(host.put(at(0), shard(3, (16 << 20) + 1)), Err(long));
}

#[test]
fn a_shard_that_lies_is_refused() {
    let mut host = Host::new(1, 100);
    let ((claimed, _), (found, bytes)) = (shard(1, 10), shard(2, 10));
    assert_eq!(host.put(at(0), (claimed, bytes)), Err(Refusal::Mismatch { claimed, found }));
    assert_eq!(host.store.stats().shards, 0);
}

#[test]
fn nothing_is_held_before_it_is_durable() {
    let mut host = Host::new(1, 100);
    let (digest, bytes) = shard(1, 60);
    assert_eq!(host.store.put(at(0), digest, bytes.clone(), &mut host.ops), Ok(Put::Writing));
    assert_eq!(host.store.put(at(0), digest, bytes, &mut host.ops), Ok(Put::Writing));
    assert_eq!(host.ops.len(), 1, "it is written once");
    assert!(!host.store.holds(digest));
    assert_eq!(host.store.read(at(0), digest, &mut host.ops), Err(Absent(digest)));
    assert_eq!(host.store.promise(at(0), digest), Err(Absent(digest)));
    host.ops.clear();
    assert_eq!(host.store.written(digest, false, &mut host.ops), Err(NotKept(digest)));
    assert_eq!(host.ops, [Op::Remove { digest }]);
    assert_eq!(host.store.stats().used_bytes, 0);
}

#[test]
fn every_read_is_verified_and_a_bad_copy_is_replaced() {
    let mut host = Host::new(1, 100);
    let (digest, bytes) = shard(1, 60);
    assert_eq!(host.put(at(0), (digest, bytes.clone())), Ok(Put::Writing));
    assert_eq!(host.read(at(0), digest), Ok(bytes.clone()));
    host.shards.get_mut(&digest).expect("it is there")[30] ^= 4;
    assert_eq!(host.read(at(0), digest), Err(Some(Mismatch(digest))));
    assert_eq!(host.read(at(0), digest), Err(None), "known to be bad");
    assert!(!host.store.holds(digest));
    assert_eq!((host.store.stats().bad, host.store.next_after(None)), (1, None));
    assert_eq!(host.put(at(0), (digest, bytes.clone())), Ok(Put::Writing));
    assert_eq!(host.read(at(0), digest), Ok(bytes));
    host.shards.remove(&digest);
    assert_eq!(host.read(at(0), digest), Err(Some(Mismatch(digest))), "the disk lost it");
}

#[test]
fn only_what_another_node_keeps_is_evicted_and_no_pin() {
    let (a, b) = (shard(1, 50), shard(2, 50));
    let full =
        |free_bytes, evictable_bytes| Err(Refusal::Full { bytes: 50, free_bytes, evictable_bytes });
    let mut host = Host::new(1, 100);
    for shard in [&a, &b] {
        assert_eq!(host.put(at(0), shard.clone()), Ok(Put::Writing));
    }
    assert_eq!(host.put(at(100), shard(3, 50)), full(0, 0), "sole copies");
    host.store.kept_elsewhere(a.0, NodeName::numbered(1), at(100));
    assert_eq!(host.put(at(100), shard(3, 50)), full(0, 0), "its own word");
    host.store.kept_elsewhere(a.0, NodeName::numbered(2), at(100));
    host.store.promise(at(100), a.0).expect("it holds it");
    assert_eq!(host.put(at(101), shard(3, 50)), full(0, 0), "another relies on this copy");
    assert_eq!(host.put(at(161), shard(3, 50)), full(0, 0), "the other's promise has ended");
    host.store.kept_elsewhere(a.0, NodeName::numbered(2), at(161));
    host.store.pin(a.0, &mut host.ops).expect("it holds it");
    assert_eq!(host.put(at(162), shard(3, 50)), full(0, 0), "pinned");
    assert_eq!(host.store.pinned(a.0), Some(true));
    // Pinned again it stays as durable as it is: nothing is written, so nothing would say so again.
    host.store.pin(a.0, &mut host.ops).expect("it holds it");
    assert_eq!((host.store.pinned(a.0), host.ops.len()), (Some(true), 0));
    host.store.unpin(a.0, &mut host.ops);
    assert_eq!(host.put(at(162), shard(3, 50)), Ok(Put::Writing));
    assert_eq!((host.shards.len(), host.shards.contains_key(&a.0)), (2, false));
}

#[test]
fn a_restart_keeps_shards_and_pins_and_trusts_nothing_it_has_not_read() {
    let mut chance = Key::root(1).stream();
    let mut host = Host::new(1, 100);
    let (a, b) = (shard(1, 50), shard(2, 50));
    for shard in [&a, &b] {
        assert_eq!(host.put(at(0), shard.clone()), Ok(Put::Writing));
    }
    host.store.pin(a.0, &mut host.ops).expect("it holds it");
    host.perform();
    host.restart(at(10), &mut chance);
    assert_eq!((host.store.stats().used_bytes, host.store.pinned(a.0)), (100, Some(true)));
    assert!(!host.store.holds(a.0));
    assert_eq!(host.store.promise(at(10), a.0), Err(Absent(a.0)));
    assert_eq!(host.read(at(10), a.0), Ok(a.1.clone()));
    assert!(host.store.holds(a.0));
    // Put again, a shard that was not read is written again: the file may be the rest of a write.
    host.shards.get_mut(&b.0).expect("it is there").truncate(20);
    assert_eq!(host.put(at(10), b.clone()), Ok(Put::Writing));
    assert_eq!(host.read(at(10), b.0), Ok(b.1));
    // What it promised before is forgotten, so nothing is evicted until that has ended.
    host.store.kept_elsewhere(b.0, NodeName::numbered(2), at(20));
    assert!(host.put(at(69), shard(3, 50)).is_err());
    host.store.kept_elsewhere(b.0, NodeName::numbered(2), at(69));
    assert_eq!(host.put(at(70), shard(3, 50)), Ok(Put::Writing));
}

#[test]
fn a_node_that_drains_takes_nothing_and_still_gives() {
    let mut host = Host::new(1, 100);
    let (digest, bytes) = shard(1, 50);
    assert_eq!(host.put(at(0), (digest, bytes.clone())), Ok(Put::Writing));
    host.store.drain();
    assert_eq!(host.put(at(0), shard(2, 10)), Err(Refusal::Draining));
    assert_eq!(host.read(at(0), digest), Ok(bytes));
    assert_eq!(host.store.shards().collect::<Vec<_>>(), [(digest, 50)]);
    host.store.remove(digest, &mut host.ops).expect("it is there");
    host.perform();
    assert!(host.shards.is_empty());
}

/// Promises in flight: who was asked, by whom, when, for what.
struct Answer {
    to: usize,
    by: usize,
    asked: Time,
    digest: Digest,
}

/// Three small stores full of copies of each other's shards, which ask each other for promises, get
/// answers late, are short of room all the time, and crash. The judge looks at the disks alone: a
/// shard that was once acknowledged is whole on at least one of them.
#[test]
fn no_shard_is_evicted_everywhere() {
    let mut total = 0;
    for seed in 0..400 {
        let mut chance = Key::root(seed).stream();
        let mut hosts: Vec<Host> = (0..3).map(|number| Host::new(number, 400)).collect();
        let (mut answers, mut kept): (Vec<Answer>, BTreeSet<Digest>) = Default::default();
        let (mut now, mut evicted) = (at(100), [0; 3]);
        for _ in 0..600 {
            now += Duration::from_millis(chance.below(4_000));
            let host = chance.below(3) as usize;
            let (digest, bytes) = shard(chance.below(12) as u8, 100);
            let mut ops = std::mem::take(&mut hosts[host].ops);
            match chance.below(60) {
                0..=20 => drop(hosts[host].store.put(now, digest, bytes, &mut ops)),
                21..=35 => {
                    let by = (host + 1 + chance.below(2) as usize) % 3;
                    if hosts[by].store.promise(now, digest).is_ok() {
                        // The answer is on its way; the question was asked a little earlier.
                        let asked = Time::from_nanos(now.as_nanos() - chance.below(1_000_000_000));
                        answers.push(Answer { to: host, by, asked, digest });
                    }
                }
                36..=44 if !answers.is_empty() => {
                    let at = chance.below(answers.len() as u64) as usize;
                    let answer = answers.swap_remove(at);
                    let by = NodeName::numbered(answer.by as u64);
                    let store = &mut hosts[answer.to].store;
                    store.kept_elsewhere(answer.digest, by, answer.asked);
                }
                45..=46 => drop(hosts[host].store.read(now, digest, &mut ops)),
                47 => {
                    hosts[host].ops = ops;
                    hosts[host].restart(now, &mut chance);
                    ops = Vec::new();
                }
                _ => {
                    hosts[host].ops = ops;
                    let (acknowledged, _) = hosts[host].perform();
                    kept.extend(acknowledged);
                    ops = std::mem::take(&mut hosts[host].ops);
                }
            }
            hosts[host].ops = ops;
            for (most, host) in evicted.iter_mut().zip(&hosts) {
                *most = (*most).max(host.store.stats().evicted);
            }
            for digest in &kept {
                let whole = |host: &Host| {
                    host.shards.get(digest).is_some_and(|bytes| Digest::of(bytes) == *digest)
                };
                assert!(hosts.iter().any(whole), "seed {seed}: {digest:?} is gone at {now}");
            }
        }
        total += evicted.iter().sum::<u64>();
    }
    assert!(total > 1_000, "the stores were idle: {total} evictions");
}
