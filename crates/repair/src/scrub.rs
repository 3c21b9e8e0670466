use base::{NodeName, Time};
use std::collections::BTreeSet;
use std::time::Duration;
use store::Digest;

/// The numbers of a [`Scrubber`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// In how long each shard is read once. Default 600 s.
    pub round: Duration,
    /// How many reads at most are made up for at once when it was not asked for a while. Default 16.
    pub burst_max: u32,
}

impl Default for ScrubConfig {
    fn default() -> ScrubConfig {
        ScrubConfig { round: Duration::from_secs(600), burst_max: 16 }
    }
}

/// Says which of a node's own shards is to be read again next, so that each is read once a round and the
/// reads are spread over it.
#[derive(Clone, Debug)]
pub struct Scrubber {
    config: ScrubConfig,
    cursor: Option<Digest>,
    next: Time,
    rounds: u64,
}

impl Scrubber {
    /// A scrubber that begins now.
    #[must_use]
    pub fn new(config: ScrubConfig, now: Time) -> Scrubber {
        Scrubber { config, cursor: None, next: now, rounds: 0 }
    }

    /// The shard to read now, if it is time for one: ask until there is none. `shards` is how many
    /// there are, `next_after` the store's order
    /// ([`ShardStore::next_after`](store::ShardStore::next_after)).
    pub fn due(
        &mut self,
        now: Time,
        shards: u64,
        next_after: impl Fn(Option<Digest>) -> Option<Digest>,
    ) -> Option<Digest> {
        if now < self.next {
            return None;
        }
        let shard = next_after(self.cursor).or_else(|| {
            self.rounds += u64::from(self.cursor.is_some());
            next_after(None)
        });
        let gap = self.gap(shards);
        // Whoever was not asked for long does not read everything at once.
        let lag = gap.saturating_mul(self.config.burst_max);
        let behind = now.since(Time::ZERO).saturating_sub(lag);
        self.next = self.next.max(Time::ZERO + behind) + gap;
        self.cursor = shard;
        shard
    }

    /// When the next read is due.
    #[must_use]
    pub fn next_wake(&self) -> Time {
        self.next
    }

    /// How often it has been through all shards.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    fn gap(&self, shards: u64) -> Duration {
        let nanos = self.config.round.as_nanos() / u128::from(shards.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).max(1))
    }
}

/// Whose copy of which shard is bad. One node's bad copy says nothing about another's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadCopies {
    by_shard: BTreeSet<(Digest, NodeName)>,
}

impl BadCopies {
    /// Nothing is known to be bad.
    #[must_use]
    pub fn new() -> BadCopies {
        BadCopies::default()
    }

    /// A node has read its *own* copy, or was found out about it by this process itself (an audit, a
    /// digest of bytes that it sent). Returns whether that is news. What one node says about another is
    /// no input.
    pub fn learn(&mut self, node: NodeName, shard: Digest, healthy: bool) -> bool {
        if healthy {
            self.by_shard.remove(&(shard, node))
        } else {
            self.by_shard.insert((shard, node))
        }
    }

    /// A node has left for good: its copies are no longer bad, they are gone.
    pub fn forget_node(&mut self, node: NodeName) {
        self.by_shard.retain(|&(_, holder)| holder != node);
    }

    /// Whether this node's copy is known to be bad.
    #[must_use]
    pub fn is_bad(&self, node: NodeName, shard: Digest) -> bool {
        self.by_shard.contains(&(shard, node))
    }

    /// The nodes whose copies of this shard are bad.
    pub fn of(&self, shard: Digest) -> impl Iterator<Item = NodeName> {
        let (low, high) = (NodeName([0; 32]), NodeName([0xFF; 32]));
        self.by_shard.range((shard, low)..=(shard, high)).map(|&(_, node)| node)
    }

    /// All of them, by shard and node.
    pub fn iter(&self) -> impl Iterator<Item = (Digest, NodeName)> {
        self.by_shard.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn shard(number: u8) -> Digest {
        Digest([number; 32])
    }

    #[test]
    fn each_shard_is_read_once_a_round_at_an_even_pace() {
        let held: BTreeSet<Digest> = (0..60).map(shard).collect();
        let next_after = |after: Option<Digest>| match after {
            None => held.first().copied(),
            Some(after) => held.range(after..).find(|&&digest| digest != after).copied(),
        };
        let mut scrubber = Scrubber::new(ScrubConfig::default(), at(0));
        let mut read = Vec::new();
        for second in 0..1_200 {
            while let Some(digest) = scrubber.due(at(second * 1_000), 60, next_after) {
                read.push((second, digest));
            }
        }
        assert_eq!(read.len(), 120);
        for (number, (second, digest)) in read.iter().enumerate() {
            assert_eq!((*second, *digest), (number as u64 * 10, shard((number % 60) as u8)));
        }
        assert_eq!(scrubber.rounds(), 1);
        // Asleep for a week: no storm.
        let later = at(7 * 86_400_000);
        let burst = std::iter::from_fn(|| scrubber.due(later, 60, next_after)).count();
        assert!((16..=17).contains(&burst), "{burst}");
    }

    #[test]
    fn an_empty_store_is_asked_rarely_and_ends() {
        let mut scrubber = Scrubber::new(ScrubConfig::default(), at(0));
        assert_eq!(scrubber.due(at(0), 0, |_| None), None);
        assert_eq!(scrubber.next_wake(), at(600_000));
        assert_eq!(scrubber.rounds(), 0);
    }

    #[test]
    fn a_bad_copy_is_one_nodes() {
        let (one, two) = (NodeName::numbered(1), NodeName::numbered(2));
        let mut bad = BadCopies::new();
        assert!(bad.learn(one, shard(1), false));
        assert!(!bad.learn(one, shard(1), false));
        assert!(!bad.is_bad(two, shard(1)));
        assert!(!bad.learn(two, shard(1), true), "another's health heals nobody");
        assert_eq!(bad.of(shard(1)).collect::<Vec<_>>(), [one]);
        assert!(bad.learn(two, shard(1), false) && bad.learn(one, shard(1), true));
        assert_eq!(bad.iter().collect::<Vec<_>>(), [(shard(1), two)]);
        bad.forget_node(two);
        assert_eq!(bad, BadCopies::new());
    }
}
