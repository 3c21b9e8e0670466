//! From where shards are to where the policy wants them.

use crate::{Candidate, Placer};
use base::{NodeName, ShardId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The numbers of rebalancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebalanceConfig {
    /// How often some shards are looked at: 60 s.
    pub period: Duration,
    /// How many shards each time: 1,024.
    pub shards_per_round: u32,
    /// How many copies are under way at once: 32.
    pub copies_max: u32,
    /// How long one may take: 30 s.
    pub patience: Duration,
    /// How long a node that said that it is full is left alone: 600 s.
    pub full: Duration,
}

impl Default for RebalanceConfig {
    fn default() -> RebalanceConfig {
        RebalanceConfig {
            period: Duration::from_secs(60),
            shards_per_round: 1_024,
            copies_max: 32,
            patience: Duration::from_secs(30),
            full: Duration::from_secs(600),
        }
    }
}

/// What a node's copy of a shard is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// It was verified.
    Good,
    /// It was found to be wrong. Never a source.
    Corrupt,
    /// The node was asked to drop it, and may have.
    Dropping,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceInput {
    /// The node has the shard, durable and verified: it said so.
    Stored {
        /// Which.
        shard: ShardId,
        /// How long it is.
        bytes: u64,
        /// Who.
        at: NodeName,
    },
    /// The node has no room for it.
    Full {
        /// For which shard.
        shard: ShardId,
        /// Who.
        at: NodeName,
    },
    /// The copy could not be made for another reason.
    Failed {
        /// Of which shard.
        shard: ShardId,
        /// To where.
        at: NodeName,
    },
    /// The node's copy is wrong.
    Corrupt {
        /// Which.
        shard: ShardId,
        /// Whose.
        at: NodeName,
    },
    /// The node does not have it any more.
    Dropped {
        /// Which.
        shard: ShardId,
        /// Who.
        at: NodeName,
    },
    /// The node is gone, with all that it had.
    Lost {
        /// Who.
        node: NodeName,
    },
    /// Nobody needs the shard any more.
    Forget {
        /// Which.
        shard: ShardId,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceOutput {
    /// Copy it. Answered by `Stored`, `Full` or `Failed`.
    Copy {
        /// Which shard.
        shard: ShardId,
        /// How long it is.
        bytes: u64,
        /// From whom.
        from: NodeName,
        /// To whom.
        to: NodeName,
        /// By when.
        until: Time,
    },
    /// It is not wanted there, and all who should have it do. Answered by `Dropped`.
    Drop {
        /// Which shard.
        shard: ShardId,
        /// By whom.
        at: NodeName,
    },
    /// No good copy is known. Only repair can help.
    NoSource {
        /// Of which shard.
        shard: ShardId,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tracked {
    bytes: u64,
    copies: BTreeMap<NodeName, CopyState>,
}

/// Moves shards toward where the [`Placer`] wants them, both ways: copies to who should have them, and
/// away from who should not once all others do.
///
/// Who holds a shard is recorded when that node has said so, and for no other reason: a node that refused
/// is no holder. A copy is taken only from a good one. What is dropped is dropped only when every
/// wanted place has a good copy, so a shard never has fewer good copies by being moved.
#[derive(Clone, Debug)]
pub struct Rebalancer {
    config: RebalanceConfig,
    placer: Placer,
    shards: BTreeMap<ShardId, Tracked>,
    by_node: BTreeMap<NodeName, BTreeSet<ShardId>>,
    /// By shard and target.
    copying: BTreeMap<(ShardId, NodeName), (NodeName, Time)>,
    /// How many copies each node is the source of now.
    sending: BTreeMap<NodeName, u32>,
    full: BTreeMap<NodeName, Time>,
    next: Time,
    cursor: ShardId,
}

impl Rebalancer {
    /// One that knows no shard.
    #[must_use]
    pub fn new(config: RebalanceConfig, placer: Placer, now: Time) -> Rebalancer {
        Rebalancer {
            config,
            placer,
            shards: BTreeMap::new(),
            by_node: BTreeMap::new(),
            copying: BTreeMap::new(),
            sending: BTreeMap::new(),
            full: BTreeMap::new(),
            next: now + config.period,
            cursor: ShardId([0; 32]),
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: &RebalanceInput) {
        match *input {
            RebalanceInput::Stored { shard, bytes, at } => {
                self.copied(shard, at);
                let tracked = self.shards.entry(shard).or_default();
                tracked.bytes = bytes;
                tracked.copies.insert(at, CopyState::Good);
                self.by_node.entry(at).or_default().insert(shard);
            }
            RebalanceInput::Full { shard, at } => {
                self.copied(shard, at);
                self.full.insert(at, now + self.config.full);
            }
            RebalanceInput::Failed { shard, at } => self.copied(shard, at),
            RebalanceInput::Corrupt { shard, at } => {
                if let Some(state) =
                    self.shards.get_mut(&shard).and_then(|tracked| tracked.copies.get_mut(&at))
                {
                    *state = CopyState::Corrupt;
                }
                // What is on its way from there is not waited for: the target verifies, and refuses.
            }
            RebalanceInput::Dropped { shard, at } => self.lose(shard, at),
            RebalanceInput::Lost { node } => {
                for shard in self.by_node.remove(&node).unwrap_or_default() {
                    self.lose(shard, node);
                }
            }
            RebalanceInput::Forget { shard } => {
                let tracked = self.shards.remove(&shard).unwrap_or_default();
                for node in tracked.copies.keys() {
                    self.unlist(shard, *node);
                }
            }
        }
    }

    fn lose(&mut self, shard: ShardId, at: NodeName) {
        if let Some(tracked) = self.shards.get_mut(&shard) {
            tracked.copies.remove(&at);
        }
        self.unlist(shard, at);
    }

    fn unlist(&mut self, shard: ShardId, at: NodeName) {
        if let Some(shards) = self.by_node.get_mut(&at) {
            shards.remove(&shard);
            if shards.is_empty() {
                self.by_node.remove(&at);
            }
        }
    }

    /// The copy to that place has ended, one way or the other.
    fn copied(&mut self, shard: ShardId, to: NodeName) {
        if let Some((from, _)) = self.copying.remove(&(shard, to))
            && let Some(count) = self.sending.get_mut(&from)
        {
            *count -= 1;
            if *count == 0 {
                self.sending.remove(&from);
            }
        }
    }

    /// Time has passed: if it is time, some shards are looked at. `candidates` are all nodes that are
    /// alive. Cost: the shards of a round times the candidates.
    pub fn tick(&mut self, now: Time, candidates: &[Candidate], out: &mut Vec<RebalanceOutput>) {
        if now < self.next {
            return;
        }
        self.next = now + self.config.period;
        let late: Vec<(ShardId, NodeName)> = self
            .copying
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(place, _)| *place)
            .collect();
        for (shard, to) in late {
            self.copied(shard, to);
        }
        self.full.retain(|_, until| *until > now);
        let open: Vec<Candidate> = candidates
            .iter()
            .map(|candidate| {
                let full = self.full.contains_key(&candidate.node);
                Candidate { free_bytes: if full { 0 } else { candidate.free_bytes }, ..*candidate }
            })
            .collect();
        let count = (self.config.shards_per_round as usize).min(self.shards.len());
        let after = self.shards.range(self.cursor..).chain(self.shards.range(..self.cursor));
        let round: Vec<ShardId> = after.map(|(shard, _)| *shard).take(count + 1).collect();
        for &shard in round.iter().take(count) {
            self.look_at(now, shard, &open, out);
        }
        if let Some(next) = round.get(count).or(round.first()) {
            self.cursor = *next;
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Time {
        self.next
    }

    fn look_at(
        &mut self,
        now: Time,
        shard: ShardId,
        candidates: &[Candidate],
        out: &mut Vec<RebalanceOutput>,
    ) {
        let Some(tracked) = self.shards.get(&shard) else { return };
        let bytes = tracked.bytes;
        let good: BTreeSet<NodeName> = tracked
            .copies
            .iter()
            .filter(|(_, state)| **state == CopyState::Good)
            .map(|(node, _)| *node)
            .collect();
        let holders: BTreeSet<NodeName> = tracked.copies.keys().copied().collect();
        if good.is_empty() {
            out.push(RebalanceOutput::NoSource { shard });
            return;
        }
        let (wanted, complete) = match self.placer.place(shard, bytes, candidates, &holders) {
            Ok(nodes) => (nodes, true),
            Err(shortfall) => (shortfall.nodes, false),
        };
        let missing: Vec<NodeName> =
            wanted.iter().copied().filter(|node| !good.contains(node)).collect();
        if missing.is_empty() && complete {
            let surplus: Vec<NodeName> =
                holders.into_iter().filter(|node| !wanted.contains(node)).collect();
            let tracked = self.shards.get_mut(&shard).expect("it was just there");
            for at in surplus {
                tracked.copies.insert(at, CopyState::Dropping);
                out.push(RebalanceOutput::Drop { shard, at });
            }
            let left = tracked.copies.values().filter(|state| **state == CopyState::Good).count();
            assert!(left >= wanted.len(), "a wanted copy would be dropped");
            return;
        }
        for to in missing {
            let busy = self.copying.len() >= self.config.copies_max as usize;
            if busy || self.copying.contains_key(&(shard, to)) {
                continue;
            }
            let load = |node: &&NodeName| (self.sending.get(*node).copied().unwrap_or(0), **node);
            let from = *good.iter().min_by_key(load).expect("there is a good copy");
            let until = now + self.config.patience;
            self.copying.insert((shard, to), (from, until));
            *self.sending.entry(from).or_default() += 1;
            out.push(RebalanceOutput::Copy { shard, bytes, from, to, until });
        }
    }

    /// Whose copies of a shard are known, and what they are worth.
    pub fn copies(&self, shard: ShardId) -> impl Iterator<Item = (NodeName, CopyState)> {
        let tracked = self.shards.get(&shard);
        tracked.into_iter().flat_map(|t| t.copies.iter().map(|(node, state)| (*node, *state)))
    }

    /// How many copies are under way.
    #[must_use]
    pub fn copying(&self) -> u32 {
        u32::try_from(self.copying.len()).expect("at most copies_max")
    }
}
