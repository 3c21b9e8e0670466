//! Which shard of a stripe should be elsewhere, and where.

use crate::{Candidate, Placer, PlacerConfig, Region};
use base::prng::Key;
use base::{NodeName, Ratio, ShardId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The numbers of rebalancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebalanceConfig {
    /// How often some stripes are looked at: 60 s.
    pub period: Duration,
    /// How many stripes each time: 16.
    pub stripes_per_round: u32,
    /// By how much a holder has to be fuller than a node that is wanted in its place, both by what they
    /// can store: 0.25.
    pub margin: Ratio,
    /// How long a node has to have been there before a shard is moved to it because it has room: 600 s.
    pub steady: Duration,
    /// How long a node that has not kept what it was given is left alone: 600 s.
    pub refused: Duration,
}

impl Default for RebalanceConfig {
    fn default() -> RebalanceConfig {
        RebalanceConfig {
            period: Duration::from_secs(60),
            stripes_per_round: 16,
            margin: Ratio::percent(25),
            steady: Duration::from_secs(600),
            refused: Duration::from_secs(600),
        }
    }
}

/// Why a shard should be elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Another shard of its stripe is on the same node: they are lost together.
    Shared,
    /// The stripe is in fewer regions than it has to be and could be.
    Regions,
    /// Its holder is much fuller than a node that the placer wants in its place.
    Fuller,
}

/// A shard that should be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its place in its stripe.
    pub place: u16,
    /// Who has it.
    pub from: NodeName,
    /// Who may have it instead, the most wanted first. None of them holds a shard of the stripe.
    pub to: Vec<NodeName>,
    /// Why.
    pub why: Reason,
}

/// A stripe as its record says that it lies.
#[derive(Clone, Copy, Debug)]
pub struct Lies<'a> {
    /// By which name the placer knows it.
    pub name: ShardId,
    /// How long each of its shards is.
    pub bytes: u64,
    /// Who holds each, by place.
    pub holders: &'a [NodeName],
}

/// Who may be given a shard now, looked at once for all stripes of a round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Ascending by name.
    there: Vec<Candidate>,
    regions: usize,
    /// How full the emptiest node is to which a shard may be moved because it has room.
    emptiest: u32,
    /// Nodes to which none may be.
    closed: BTreeSet<NodeName>,
}

impl Round {
    fn find(&self, node: &NodeName) -> Option<&Candidate> {
        let at = self.there.binary_search_by(|it| it.node.cmp(node));
        at.ok().map(|at| &self.there[at])
    }
}

/// Says which shards of a stripe should be elsewhere, one at a time, toward where the [`Placer`] wants
/// them.
///
/// It knows of no copies, and moves none: whoever has a shard moved has the new holder keep and verify it
/// first, and names it in the stripe's record before the old copy is let go. So a node that refuses is never
/// a holder.
///
/// Not all that the placer would put elsewhere is moved. When nodes come and go, a little of what each holds is
/// wanted elsewhere at any time, and moving it would cost as much as repairing. A shard goes from a node that
/// is not wanted to one that is if that one is emptier by [`RebalanceConfig::margin`], and has been there for
/// a while; or, at once, if its stripe would otherwise be lost with a single node or region. A move that was made
/// is not taken back while the same nodes are there: its target is wanted, and its source was not.
#[derive(Clone, Debug)]
pub struct Rebalancer {
    config: RebalanceConfig,
    placer: PlacerConfig,
    key: Key,
    refused: BTreeMap<NodeName, Time>,
    next: Time,
}

impl Rebalancer {
    /// One that looks at stripes from a period after `now` on. `placer`: how stripes are placed, but for the
    /// number of their shards; `key`: the network's.
    #[must_use]
    pub fn new(config: RebalanceConfig, placer: PlacerConfig, key: &Key, now: Time) -> Rebalancer {
        let (refused, next) = (BTreeMap::new(), now + config.period);
        Rebalancer { config, placer, key: *key, refused, next }
    }

    /// When some stripes are to be looked at.
    #[must_use]
    pub fn due(&self) -> Time {
        self.next
    }

    /// A node has not kept what it was given: it is full, or worse.
    pub fn refused(&mut self, now: Time, node: NodeName) {
        self.refused.insert(node, now + self.config.refused);
    }

    /// Begins a round, if it is time. `candidates` are all nodes that are alive, each with since when it is.
    pub fn begin(
        &mut self,
        now: Time,
        candidates: impl Iterator<Item = (Candidate, Time)>,
    ) -> Option<Round> {
        if now < self.next {
            return None;
        }
        self.next = now + self.config.period;
        self.refused.retain(|_, until| *until > now);
        let mut there: Vec<Candidate> = Vec::with_capacity(candidates.size_hint().1.unwrap_or(0));
        let mut closed = BTreeSet::new();
        let mut emptiest = Ratio::ONE.parts_per_million();
        for (candidate, since) in candidates {
            let refused = self.refused.contains_key(&candidate.node);
            // What it has announced of its room is not true any more.
            let free_bytes = if refused { 0 } else { candidate.free_bytes };
            if refused || since + self.config.steady > now {
                closed.insert(candidate.node);
            } else {
                emptiest = emptiest.min(fullness(&candidate));
            }
            there.push(Candidate { free_bytes, ..candidate });
        }
        there.sort_unstable_by_key(|it| it.node);
        let regions: BTreeSet<Region> = there.iter().map(|it| it.region).collect();
        Some(Round { there, regions: regions.len(), emptiest, closed })
    }

    /// The shard of a stripe that should be elsewhere first, if one should. Of a stripe of which a holder is
    /// not there, none: it is repaired first.
    #[must_use]
    pub fn look(&self, stripe: Lies<'_>, round: &Round) -> Option<Move> {
        let holders: Vec<&Candidate> =
            stripe.holders.iter().map(|node| round.find(node)).collect::<Option<_>>()?;
        self.shared(stripe, &holders, round)
            .or_else(|| self.too_close(stripe, &holders, round))
            .or_else(|| self.fuller(stripe, &holders, round))
    }

    /// Two shards on one node.
    fn shared(&self, stripe: Lies<'_>, holders: &[&Candidate], round: &Round) -> Option<Move> {
        let (mut nodes, mut places) = (BTreeSet::new(), (0u16..).zip(stripe.holders));
        let (place, &from) = places.find(|(_, node)| !nodes.insert(**node))?;
        let to = self.elsewhere(stripe, holders, round, |_| true)?;
        Some(Move { place, from, to, why: Reason::Shared })
    }

    /// All shards in one region, or in fewer than the policy wants.
    fn too_close(&self, stripe: Lies<'_>, holders: &[&Candidate], round: &Round) -> Option<Move> {
        let spans = spans(holders);
        if spans.len() >= self.regions_min(holders.len(), round) {
            return None;
        }
        let to = self.elsewhere(stripe, holders, round, |it| !spans.contains_key(&it.region))?;
        // The fullest of where there are most.
        let most = |it: &Candidate| (spans[&it.region], fullness(it), it.node);
        let (place, from) = (0u16..).zip(holders).max_by_key(|(_, it)| most(it))?;
        Some(Move { place, from: from.node, to, why: Reason::Regions })
    }

    /// A holder that is not wanted, and is much fuller than a node that is.
    fn fuller(&self, stripe: Lies<'_>, holders: &[&Candidate], round: &Round) -> Option<Move> {
        let margin = self.config.margin.parts_per_million();
        let fullest = holders.iter().map(|it| fullness(it)).max()?;
        if fullest < round.emptiest.saturating_add(margin) {
            return None;
        }
        let wanted = self.wanted(stripe, holders.len(), round);
        let unwanted = (0u16..).zip(holders).filter(|(_, it)| !wanted.contains(&it.node));
        let (place, from) = unwanted.max_by_key(|(_, it)| (fullness(it), it.node))?;
        let mut spans = spans(holders);
        if spans.get(&from.region) == Some(&1) {
            spans.remove(&from.region);
        }
        let (held, regions) = (spans.len(), self.regions_min(holders.len(), round));
        let may = |node: &NodeName| {
            let Some(it) = round.find(node) else { return false };
            !stripe.holders.contains(node)
                && !round.closed.contains(node)
                && fullness(it).saturating_add(margin) <= fullness(from)
                && (held >= regions || !spans.contains_key(&it.region))
        };
        let to: Vec<NodeName> = wanted.into_iter().filter(may).collect();
        (!to.is_empty()).then_some(Move { place, from: from.node, to, why: Reason::Fuller })
    }

    /// In how many regions a stripe has to be, of those that there are.
    fn regions_min(&self, shards: usize, round: &Round) -> usize {
        (self.placer.regions_min as usize).min(shards).min(round.regions)
    }

    /// Where the placer wants a stripe's shards.
    fn wanted(&self, stripe: Lies<'_>, shards: usize, round: &Round) -> Vec<NodeName> {
        let holders = stripe.holders.iter().copied().collect();
        self.place(stripe, shards, &round.there, &holders)
    }

    /// Two nodes for a shard among those that have none of its stripe, if there is one.
    fn elsewhere(
        &self,
        stripe: Lies<'_>,
        holders: &[&Candidate],
        round: &Round,
        may: impl Fn(&Candidate) -> bool,
    ) -> Option<Vec<NodeName>> {
        let free = |it: &&Candidate| holders.iter().all(|holder| holder.node != it.node) && may(it);
        let free: Vec<Candidate> = round.there.iter().filter(free).copied().collect();
        Some(self.place(stripe, 2, &free, &BTreeSet::new())).filter(|to| !to.is_empty())
    }

    fn place(
        &self,
        stripe: Lies<'_>,
        count: usize,
        candidates: &[Candidate],
        holders: &BTreeSet<NodeName>,
    ) -> Vec<NodeName> {
        let replicas = u32::try_from(count).unwrap_or(u32::MAX);
        let placer = Placer::new(PlacerConfig { replicas, ..self.placer }, &self.key);
        match placer.place(stripe.name, stripe.bytes, candidates, holders) {
            Ok(nodes) => nodes,
            Err(shortfall) => shortfall.nodes,
        }
    }
}

/// How many shards are in each region.
fn spans(holders: &[&Candidate]) -> BTreeMap<Region, u32> {
    let mut spans = BTreeMap::new();
    holders.iter().for_each(|it| *spans.entry(it.region).or_default() += 1);
    spans
}

/// How much of what a node can store is taken, in millionths.
fn fullness(it: &Candidate) -> u32 {
    let taken = it.capacity_bytes.saturating_sub(it.free_bytes);
    let parts = u128::from(taken) * 1_000_000 / u128::from(it.capacity_bytes.max(1));
    parts.min(1_000_000) as u32
}
