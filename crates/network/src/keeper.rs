//! What the keeper of a file's record does for the file: asks for proofs, rebuilds what is lost, and makes
//! the record say so.

use crate::StorageDisks;
use crate::message::Message;
use crate::node::{Config, StorageNode};
use crate::operation::{Ended, Purpose};
use crate::record::FileRecord;
use crate::transfer::{TransferId, request_key};
use base::prng::keyed_hash;
use base::{NodeName, Ratio, RequestKey, ShardId, Time, Token};
use incentives::{Ask, Observation, Offence, Reputation, ReputationConfig};
use placement::{DirectoryMessage, LookupId, Placer, PlacerConfig, Shortfall, Status, distance};
use repair::{
    Answer, Auditor, BadCopies, Damage, Failure, GaveUp, Outcome, Output, PlanId, RepairPlanner,
    Source, StripeId, Verdict,
};
use saga::{Order, What};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Digest;

/// The number of questions among keepers; a directory's own lookups are counted from 1.
pub(crate) const COMPARING: LookupId = LookupId(u64::MAX);

/// For so many times the time after which a silent node is dead most keepers of a record have to be gone
/// before the others go on without them.
const ORPHANED: u32 = 10;

/// After so many times the time after which a silent node is dead a new one has heard of everybody.
const MEETING: u32 = 20;

/// How long a node that is away may come back to hear what it need not hold any more.
const OWED_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// A record's next version, on its way.
#[derive(Clone, Debug)]
struct Next {
    record: FileRecord,
    digest: Digest,
    /// What it takes the place of.
    before: FileRecord,
    before_digest: Digest,
}

/// What a node does as a keeper.
#[derive(Clone, Debug)]
pub(crate) struct Keeping {
    auditor: Auditor,
    planner: RepairPlanner,
    bad: BadCopies,
    reputation: Reputation,
    audit_every: Duration,
    next_audit: Time,
    plan_at: Option<Time>,
    /// Files of whose keepers most are gone, and when they are looked at again.
    revisits: BTreeMap<Digest, Time>,
    /// Whether this node has been there for long enough to have heard of everybody.
    has_met_all: bool,
    met_all_at: Time,
    /// Nodes that have said that they leave.
    pub(crate) leaving: BTreeSet<NodeName>,
    /// Nodes that have failed to prove anything too often in a row.
    condemned: BTreeSet<NodeName>,
    /// Fetches under way, by whom and what.
    fetching: BTreeMap<(NodeName, Digest), Vec<(PlanId, Source)>>,
    /// Where each rebuilt shard is on its way to now.
    placing: BTreeMap<(PlanId, u16), (NodeName, Digest)>,
    scrubbing: BTreeMap<(NodeName, Digest), (PlanId, u16)>,
    /// Whose file a stripe, and a shard, is.
    by_manifest: BTreeMap<Digest, Digest>,
    by_shard: BTreeMap<Digest, Digest>,
    /// New holders that a file's next version will name.
    changes: BTreeMap<Digest, BTreeMap<(u32, u16), NodeName>>,
    next: BTreeMap<Digest, Next>,
    /// Next versions whose bytes are kept, and which are to become current.
    kept: Vec<Digest>,
    /// Of a file, no version below this is gone on from; and not before then.
    floor: BTreeMap<Digest, (u64, Time)>,
    attempts: u64,
    /// How many rounds of audits there have been.
    rounds: usize,
    /// What ended operations have left to do, each in a round of its own.
    pub(crate) batches: Vec<(TransferId, u32, Digest)>,
    pub(crate) heads: Vec<(TransferId, u32)>,
    pub(crate) to_release: Vec<(NodeName, Digest)>,
    /// What uploads that failed have left, each under the key that it has every time.
    pub(crate) to_undo: Vec<(RequestKey, NodeName, Digest)>,
    /// What is to be released at nodes that are not there, until they are back: since when, under which
    /// key, and what.
    owed: BTreeMap<NodeName, Vec<(Time, Option<RequestKey>, Digest)>>,
    verdicts: Vec<(Verdict, Token)>,
    pending: Vec<Output>,
    look: bool,
}

impl Keeping {
    pub(crate) fn new(config: &Config, now: Time) -> Keeping {
        let secret = config.secret.child("audit").draw(0, 0);
        let secret = u128::from(secret.u64()) << 64 | u128::from(secret.nth(1).u64());
        // Not all at once: each node begins somewhere in the first round.
        let nanos = config.audit_every.as_nanos() as u64;
        let begin = config.secret.child("audit.begin").draw(0, 0).below(nanos.max(1));
        Keeping {
            auditor: Auditor::new(config.audit, secret),
            planner: RepairPlanner::new(config.repair),
            bad: BadCopies::new(),
            reputation: Reputation::new(ReputationConfig::default()),
            audit_every: config.audit_every,
            next_audit: now + Duration::from_nanos(begin),
            plan_at: None,
            revisits: BTreeMap::new(),
            has_met_all: false,
            met_all_at: now + MEETING * config.membership.alive,
            leaving: BTreeSet::new(),
            condemned: BTreeSet::new(),
            owed: BTreeMap::new(),
            fetching: BTreeMap::new(),
            placing: BTreeMap::new(),
            scrubbing: BTreeMap::new(),
            by_manifest: BTreeMap::new(),
            by_shard: BTreeMap::new(),
            changes: BTreeMap::new(),
            next: BTreeMap::new(),
            kept: Vec::new(),
            floor: BTreeMap::new(),
            attempts: 0,
            rounds: 0,
            batches: Vec::new(),
            heads: Vec::new(),
            to_release: Vec::new(),
            to_undo: Vec::new(),
            verdicts: Vec::new(),
            pending: Vec::new(),
            look: false,
        }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        let revisit = self.revisits.values().min().copied();
        let all = [Some(self.next_audit), self.plan_at, self.auditor.next_wake(), revisit];
        all.into_iter().flatten().min()
    }

    pub(crate) fn repair_stats(&self) -> repair::Stats {
        self.planner.stats()
    }

    /// Of which file a shard is, if this node keeps that file's record.
    pub(crate) fn file_of(&self, shard: Digest) -> Option<Digest> {
        self.by_shard.get(&shard).copied()
    }

    /// Whether a file is being repaired here, or its record turned.
    pub(crate) fn is_at(&self, file: Digest) -> bool {
        self.next.contains_key(&file)
            || self.changes.contains_key(&file)
            || self.placing.values().any(|(_, shard)| self.file_of(*shard) == Some(file))
            || self.scrubbing.keys().any(|(_, shard)| self.file_of(*shard) == Some(file))
    }

    /// A node is there again: it is released from what it need not hold any more.
    pub(crate) fn is_back(&mut self, node: NodeName) {
        for (_, key, digest) in self.owed.remove(&node).into_iter().flatten() {
            match key {
                Some(key) => self.to_undo.push((key, node, digest)),
                None => self.to_release.push((node, digest)),
            }
        }
    }

    /// What is under way, in words.
    pub(crate) fn unrest(&self) -> [(&'static str, bool); 3] {
        [
            ("repairs", self.planner.pending() > 0),
            ("next versions", !self.next.is_empty()),
            (
                "changes",
                !self.changes.is_empty() || !self.to_release.is_empty() || !self.to_undo.is_empty(),
            ),
        ]
    }
}

impl StorageNode {
    pub(crate) fn is_dead(&self, node: NodeName) -> bool {
        match self.membership.member(node).map(|member| member.status) {
            _ if node == self.name => false,
            Some(Status::Alive) => false,
            Some(Status::Dead) => true,
            Some(Status::Suspected) => self.keeping.condemned.contains(&node),
            // It was dead before this node came, and nobody speaks of it any more; unless this node is new,
            // and has not heard of everybody yet.
            None => self.keeping.condemned.contains(&node) || self.keeping.has_met_all,
        }
    }

    /// Whether a node is gone, or about to go.
    fn goes(&self, node: NodeName) -> bool {
        self.is_dead(node) || self.keeping.leaving.contains(&node)
    }

    /// How far from a file whoever a lookup of it asks is at most: as far as the last of the closest nodes
    /// that this one knows. `None` while it knows too few.
    fn reach(&self, file: Digest) -> Option<[u8; 32]> {
        let others = self.membership.candidates().map(|candidate| candidate.node);
        let all = others.chain([self.name]).filter(|node| !self.keeping.leaving.contains(node));
        let mut all: Vec<_> = all.map(|node| distance(node, &file.0)).collect();
        let last = (self.config.lookup.bucket as usize).saturating_sub(1);
        (last < all.len()).then(|| *all.select_nth_unstable(last).1)
    }

    /// Whether a node may go on keeping a file's record: it is there, and is found. As nodes join, others
    /// come to be closer to a file than those that keep it, and nobody asks these any more.
    fn can_keep(&self, node: NodeName, file: Digest, reach: Option<[u8; 32]>) -> bool {
        !self.goes(node) && reach.is_none_or(|reach| distance(node, &file.0) <= reach)
    }

    fn is_chief(&self, record: &FileRecord) -> bool {
        record.chief(|node| !self.is_dead(node)) == Some(self.name)
    }

    /// The number of a record's next version, if there may be one. Most of its keepers have to be there: on
    /// the other side of a partition there may be as many, and two versions of one number must not be. If most
    /// have been gone for so long that they do not come back, those who are left go on, and count from
    /// higher up: what the others have done, if they are there after all, is older than that.
    fn next_version(&self, now: Time, record: &FileRecord) -> Option<u64> {
        let there = record.keepers.iter().filter(|keeper| !self.is_dead(**keeper)).count();
        if 2 * there > record.keepers.len() {
            return Some(record.version + 1);
        }
        let long = ORPHANED * self.config.membership.alive;
        let is_lost = |keeper: &NodeName| match self.membership.member(*keeper) {
            Some(member) => member.status != Status::Dead || member.since + long <= now,
            None => true,
        };
        let lost = record.keepers.iter().filter(|keeper| self.is_dead(**keeper)).all(is_lost);
        lost.then_some(((record.version >> 32) + 1) << 32)
    }

    /// Another version of a file's record is current now, or none.
    pub(crate) fn record_turned(&mut self, now: Time, file: Digest) {
        let Some(record) = self.holdings.current(file) else {
            self.keeping.floor.remove(&file);
            self.keeping.changes.remove(&file);
            return;
        };
        let shards: Vec<Digest> = record.shards().map(|(.., shard, _)| shard.digest).collect();
        let manifest = record.manifest.id();
        self.keeping.by_manifest.insert(manifest, file);
        self.keeping.by_shard.extend(shards.into_iter().map(|shard| (shard, file)));
        self.look_after(now, file);
    }

    /// Looks at what a file lacks, shards and keepers: whoever died while its record was being turned was
    /// passed over.
    fn look_after(&mut self, now: Time, file: Digest) {
        self.assess(now, file);
        self.replace_keepers(file);
        self.keeping.look = true;
    }

    /// A node is gone: what it held is lost, as far as one knows.
    pub(crate) fn node_gone(&mut self, now: Time, node: NodeName) {
        self.keeping.bad.forget_node(node);
        self.keeping.reputation.observe(now, node, Observation::Uptime { alive: false });
        self.keeping.leaving.remove(&node);
        self.reassess(now, node);
    }

    /// Looks at every file whose record names this node.
    pub(crate) fn reassess(&mut self, now: Time, node: NodeName) {
        for file in self.holdings.naming(node) {
            self.look_after(now, file);
        }
    }

    /// A keeper that is gone, about to go, or not found any more is replaced, whatever the shards are like.
    fn replace_keepers(&mut self, file: Digest) {
        let floor = self.keeping.floor.get(&file).map_or(0, |floor| floor.0);
        let lacks = self.holdings.current(file).is_some_and(|record| {
            if record.version < floor || !self.is_chief(record) {
                return false;
            }
            let reach = self.reach(file);
            record.keepers.iter().any(|keeper| !self.can_keep(*keeper, file, reach))
        });
        if lacks {
            self.keeping.changes.entry(file).or_default();
            self.keeping.look = true;
        }
    }

    /// Reports to the planner what a file lacks, if this node is the one to see to it.
    fn assess(&mut self, now: Time, file: Digest) {
        let Some(record) = self.holdings.current(file) else { return };
        let floor = self.keeping.floor.get(&file).map_or(0, |floor| floor.0);
        let busy = self.keeping.next.contains_key(&file) || record.version < floor;
        if busy || !self.is_chief(record) {
            return;
        }
        if self.next_version(now, record).is_none() {
            let again = now + self.config.membership.alive;
            self.keeping.revisits.entry(file).or_insert(again);
            return;
        }
        let scheme = record.manifest.scheme();
        let (manifest, version) = (record.manifest.id(), record.version);
        let mut damages = Vec::new();
        let changes = self.keeping.changes.get(&file);
        for (chunk, (entry, nodes)) in
            (0u32..).zip(record.manifest.chunks().iter().zip(&record.holders))
        {
            let mut lost = BTreeSet::new();
            let (mut sources, mut last) = (Vec::new(), Vec::new());
            for (index, (shard, &node)) in (0u16..).zip(entry.shards.iter().zip(nodes)) {
                let moved = changes.and_then(|changes| changes.get(&(chunk, index)));
                if let Some(&node) = moved {
                    sources.push(Source { index, node });
                } else if self.is_dead(node) || self.keeping.bad.is_bad(node, shard.digest) {
                    lost.insert(index);
                } else if self.keeping.leaving.contains(&node) {
                    // It has it still, if the others are not enough.
                    lost.insert(index);
                    last.push(Source { index, node });
                } else {
                    sources.push(Source { index, node });
                }
            }
            sources.append(&mut last);
            if !lost.is_empty() {
                let digests = entry.shards.iter().map(|shard| shard.digest).collect();
                let bytes = record.manifest.shard_bytes(entry);
                damages.push((chunk, digests, lost, sources, bytes, nodes.clone()));
            }
        }
        if damages.is_empty() {
            return;
        }
        let all = self.candidates();
        for (chunk, digests, lost, mut sources, bytes, nodes) in damages {
            let known: Vec<_> = all
                .iter()
                .filter(|it| sources.iter().any(|at| at.node == it.node))
                .copied()
                .collect();
            let order = self.routing.order(self.config.region, &known);
            // Who leaves, and is none of those, is asked last.
            let turn = |source: &Source| order.iter().position(|node| *node == source.node);
            sources.sort_by_key(|source| turn(source).unwrap_or(usize::MAX));
            let free: Vec<_> =
                all.iter().filter(|other| !nodes.contains(&other.node)).copied().collect();
            let replicas = 2 * lost.len() as u32 + 2;
            let config = PlacerConfig { replicas, ..PlacerConfig::default() };
            let placer = Placer::new(config, &self.config.network);
            let mut name = manifest.0.to_vec();
            name.extend_from_slice(&chunk.to_le_bytes());
            name.extend_from_slice(&version.to_le_bytes());
            let name = ShardId(Digest::of(&name).0);
            let (Ok(mut candidates) | Err(Shortfall { nodes: mut candidates, .. })) =
                placer.place(name, bytes, &free, &BTreeSet::new());
            // Whose copy is bad can be given a good one, if nobody else takes it.
            let bad = lost.iter().map(|index| nodes[usize::from(*index)]);
            candidates.extend(bad.filter(|node| !self.goes(*node)));
            let stripe = StripeId { manifest, chunk };
            let damage = Damage { stripe, scheme, digests, lost, sources, candidates };
            // A full queue is emptied by repairs; the next audit reports it again.
            let _ = self.keeping.planner.report(now, damage);
        }
        self.keeping.look = true;
    }

    /// What repairs have to do now, and what ended operations have left.
    pub(crate) fn plan_repairs(&mut self, now: Time, disks: &dyn StorageDisks) {
        if !self.transactions.is_ready() {
            // What is found at a start waits for whom it is asked of.
            return;
        }
        self.go_on_uploading(now, disks);
        for file in std::mem::take(&mut self.keeping.kept) {
            self.next_to_head(now, file, disks);
        }
        for (verdict, evidence) in std::mem::take(&mut self.keeping.verdicts) {
            self.judged(now, verdict, evidence);
        }
        self.release_left(now, disks);
        let due = self.keeping.plan_at.is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.keeping.look) && !due {
            return;
        }
        let mut out = std::mem::take(&mut self.keeping.pending);
        if self.keeping.planner.pending() > 0 || !out.is_empty() {
            let Keeping { planner, bad, .. } = &mut self.keeping;
            planner.poll(now, bad, &mut out);
            self.take_plans(now, out, disks);
        }
        let files: Vec<Digest> = self.keeping.changes.keys().copied().collect();
        files.into_iter().for_each(|file| self.begin_next(now, file, disks));
        self.release_left(now, disks);
        let planner = self.keeping.planner.next_wake(now);
        // Those whose time has come wait for what makes this node look again by itself.
        let floors = self.keeping.changes.keys().filter_map(|file| self.keeping.floor.get(file));
        let floors = floors.map(|floor| floor.1).filter(|at| *at > now);
        self.keeping.plan_at =
            Time::earliest(planner, floors.min()).map(|at| at.max(now + Duration::from_millis(1)));
    }

    fn release_left(&mut self, now: Time, disks: &dyn StorageDisks) {
        for (key, node, digest) in std::mem::take(&mut self.keeping.to_undo) {
            if self.is_dead(node) {
                self.keeping.owed.entry(node).or_default().push((now, Some(key), digest));
            } else {
                self.release_once(now, key, node, digest, disks);
            }
        }
        for (node, digest) in std::mem::take(&mut self.keeping.to_release) {
            if self.is_dead(node) {
                self.keeping.owed.entry(node).or_default().push((now, None, digest));
            } else {
                self.release(now, node, digest, disks);
            }
        }
    }

    fn take_plans(&mut self, now: Time, mut out: Vec<Output>, disks: &dyn StorageDisks) {
        while !out.is_empty() {
            for output in std::mem::take(&mut out) {
                match output {
                    Output::Fetch { plan, source, shard } => {
                        let asked = self.keeping.fetching.entry((source.node, shard)).or_default();
                        asked.push((plan, source));
                        self.routing.ask(now, source.node, shard);
                        self.send(source.node, Message::Get { digest: shard });
                    }
                    Output::Store { plan, index, node, shard, bytes } => {
                        self.holdings.stage(shard, bytes.into());
                        self.keeping.placing.insert((plan, index), (node, shard));
                        let number = self.draw_number();
                        let key =
                            request_key(b'k', &[&self.name.0, &number.to_le_bytes(), &shard.0]);
                        let purpose = Purpose::Rebuilt { plan, index, node, shard };
                        self.keep_all(now, key, purpose, &[(node, shard)], disks);
                    }
                    Output::Scrub { plan, index, node, shard } => {
                        self.keeping.scrubbing.insert((node, shard), (plan, index));
                        self.send(node, Message::Scrub { digest: shard });
                    }
                    Output::Bad { node, shard } => {
                        if self.keeping.scrubbing.remove(&(node, shard)).is_some() {
                            self.keeping.to_release.push((node, shard));
                        }
                    }
                    Output::Repaired { stripe, index, node } => {
                        if let Some(&file) = self.keeping.by_manifest.get(&stripe.manifest) {
                            let changes = self.keeping.changes.entry(file).or_default();
                            let before = changes.insert((stripe.chunk, index), node);
                            // Repaired twice before the record says so: the first copy is one too many.
                            let shard = self.holdings.current(file).and_then(|record| {
                                let chunk = record.manifest.chunks().get(stripe.chunk as usize)?;
                                chunk.shards.get(usize::from(index))
                            });
                            if let (Some(before), Some(shard)) = (before, shard)
                                && before != node
                            {
                                self.keeping.to_release.push((before, shard.digest));
                            }
                        }
                    }
                    Output::GaveUp { why, .. } => match why {
                        GaveUp::TooFewSources => self.stats.without_sources += 1,
                        GaveUp::NoPlace => self.stats.without_place += 1,
                        GaveUp::Inconsistent => self.stats.inconsistent += 1,
                    },
                }
            }
        }
    }

    /// Bytes came that a repair waits for.
    pub(crate) fn bytes_to_rebuild(
        &mut self,
        now: Time,
        from: NodeName,
        digest: Digest,
        bytes: Option<&Vec<u8>>,
    ) {
        let Some(asked) = self.keeping.fetching.remove(&(from, digest)) else { return };
        self.routing.answered(now, from, digest, bytes.is_some());
        let mut out = Vec::new();
        for (plan, source) in asked {
            let Keeping { planner, bad, .. } = &mut self.keeping;
            planner.fetched(now, plan, source, bytes.cloned(), bad, &mut out);
        }
        self.keeping.pending.extend(out);
        self.keeping.look = true;
    }

    /// The saga has ended that had a rebuilt shard kept.
    pub(crate) fn rebuilt_kept(
        &mut self,
        now: Time,
        plan: PlanId,
        index: u16,
        (node, shard): (NodeName, Digest),
        ended: Ended,
    ) {
        let well = ended == Ended::Done;
        self.holdings.unstage(shard);
        let mut out = Vec::new();
        let awaited = self.keeping.placing.get(&(plan, index)) == Some(&(node, shard));
        if awaited {
            self.keeping.placing.remove(&(plan, index));
            self.keeping.planner.stored(now, plan, index, node, well, &mut out);
        }
        let goes_on = out.iter().any(|output| matches!(output, Output::Scrub { .. }));
        if well && !goes_on {
            // The plan has gone on without it.
            self.keeping.to_release.push((node, shard));
        }
        self.keeping.pending.extend(out);
        self.keeping.look = true;
    }

    /// A node says what it found when it read its own copy.
    pub(crate) fn scrubbed(&mut self, now: Time, from: NodeName, digest: Digest, healthy: bool) {
        if let Some(&(plan, index)) = self.keeping.scrubbing.get(&(from, digest)) {
            let mut out = Vec::new();
            let Keeping { planner, bad, .. } = &mut self.keeping;
            planner.scrubbed(now, plan, (index, from), healthy, bad, &mut out);
            if healthy {
                self.keeping.scrubbing.remove(&(from, digest));
            }
            self.keeping.pending.extend(out);
            self.keeping.look = true;
        } else if !healthy && let Some(&file) = self.keeping.by_shard.get(&digest) {
            // Its word against itself is enough to look; the proof that it owes is what counts.
            let shard = self.holdings.current(file).and_then(|record| {
                record.shards().find(|(.., shard, node)| shard.digest == digest && *node == from)
            });
            if let Some((.., shard, node)) = shard {
                self.challenge(now, node, digest, shard.root);
            }
        }
    }

    fn challenge(&mut self, now: Time, node: NodeName, shard: Digest, root: Digest) {
        if let Ok(challenge) = self.keeping.auditor.challenge(now, node, shard, root) {
            self.send(node, Message::Challenge(challenge));
        }
    }

    pub(crate) fn proof_came(&mut self, now: Time, from: NodeName, answer: &Answer) {
        // What was not asked of whom it comes from is held against nobody.
        if let Ok(verdict) = self.keeping.auditor.answer(now, from, answer) {
            self.keeping.verdicts.push((verdict, Token::new(answer.nonce)));
        }
    }

    fn judged(&mut self, now: Time, verdict: Verdict, evidence: Token) {
        let Verdict { node, shard, outcome, condemned, .. } = verdict;
        let passed = outcome == Outcome::Passed;
        self.observed.proofs_ended += 1;
        self.observed.proofs_passed += u64::from(passed);
        self.stats.failed_proofs += u64::from(!passed);
        self.keeping.reputation.observe(now, node, Observation::Proof { passed });
        let score = self.keeping.reputation.score(now, node);
        self.membership.set_reputation(node, score.max(Ratio::ZERO));
        match outcome {
            Outcome::Passed => {
                self.keeping.condemned.remove(&node);
                self.keeping.bad.learn(node, shard, true);
            }
            Outcome::Failed(failure) => {
                let offence = match failure {
                    Failure::NoAnswer => {
                        if condemned {
                            self.keeping.condemned.insert(node);
                        }
                        Offence::FailedProof
                    }
                    Failure::Admitted | Failure::WrongProof => {
                        self.keeping.bad.learn(node, shard, false);
                        Offence::Corruption
                    }
                };
                let silent_once = failure == Failure::NoAnswer && !condemned;
                if node != self.name && !silent_once {
                    // A bad copy is one offence, however many proofs of it fail.
                    let evidence = match offence {
                        Offence::FailedProof => evidence,
                        Offence::Corruption => self.bad_copy(node, shard),
                    };
                    let ask = Ask::Report { operator: node, offence, evidence, happened: now };
                    self.want(now, 0, ask);
                }
                if let Some(&file) = self.keeping.by_shard.get(&shard) {
                    self.assess(now, file);
                }
            }
        }
    }

    /// Undoing something at a node that was away for long waits for an operator. Who is back is asked again;
    /// what was undone at a node that is gone needs nobody to do it.
    pub(crate) fn see_to_parked(&mut self, now: Time, disks: &dyn StorageDisks) {
        let Some(engine) = self.transactions.coordinator() else { return };
        let mut orders = Vec::new();
        for saga in engine.active_sagas() {
            for step in saga.steps() {
                let what =
                    match (step.is_parked(), step.is_marked_done(), self.is_dead(step.node())) {
                        (true, _, false) => What::RetryNow,
                        (true, _, true) => What::MarkDone,
                        (_, true, true) => What::CloseUnanswered,
                        _ => continue,
                    };
                orders.push((saga.id(), step.number(), what));
            }
        }
        for (id, step, what) in orders {
            let (who, why) = ("keeper".into(), "by what is known of the node".into());
            let order = Box::new(Order { who, why, what });
            self.feed(now, node::Input::Order { id, step, order }, disks);
        }
    }

    /// What names a bad copy, for as long as the record says that the node holds it.
    fn bad_copy(&self, node: NodeName, shard: Digest) -> Token {
        let file = self.keeping.by_shard.get(&shard);
        let version = file.and_then(|file| self.holdings.current(*file)).map_or(0, |it| it.version);
        let mut bytes = node.0.to_vec();
        bytes.extend_from_slice(&shard.0);
        bytes.extend_from_slice(&version.to_le_bytes());
        let mut token = [0; 16];
        token.copy_from_slice(&Digest::of(&bytes).0[..16]);
        Token(token)
    }

    /// Time has passed: proofs that did not come have failed, and each round every shard is asked for.
    pub(crate) fn keeper_wake(&mut self, now: Time) {
        for verdict in self.keeping.auditor.expire(now) {
            let at = u128::from(now.as_nanos());
            let shard = u64::from_le_bytes(verdict.shard.0[..8].try_into().expect("eight bytes"));
            let token = Token::new(keyed_hash(at, verdict.node.number(), shard));
            self.keeping.verdicts.push((verdict, token));
        }
        let due = self.keeping.revisits.iter().filter(|(_, at)| **at <= now);
        for file in due.map(|(file, _)| *file).collect::<Vec<Digest>>() {
            self.keeping.revisits.remove(&file);
            self.look_after(now, file);
        }
        if self.keeping.next_audit > now {
            return;
        }
        self.keeping.next_audit = now + self.keeping.audit_every;
        self.keeping.has_met_all = self.keeping.met_all_at <= now;
        for all in self.keeping.owed.values_mut() {
            all.retain(|(since, ..)| *since + OWED_KEPT > now);
        }
        self.keeping.owed.retain(|_, all| !all.is_empty());
        self.tell_versions();
        let files: Vec<Digest> = self
            .holdings
            .all_current()
            .filter(|record| self.is_chief(record))
            .map(|record| record.file)
            .collect();
        for file in files {
            self.assess(now, file);
            let shards: Vec<_> = self
                .holdings
                .current(file)
                .into_iter()
                .flat_map(FileRecord::shards)
                .map(|(.., shard, node)| (node, shard))
                .collect();
            for (node, shard) in shards {
                self.challenge(now, node, shard.digest, shard.root);
            }
            self.replace_keepers(file);
        }
    }

    /// Begins a record's next version, if there is something to say that it does not.
    fn begin_next(&mut self, now: Time, file: Digest, disks: &dyn StorageDisks) {
        let (floor, not_before) = self.keeping.floor.get(&file).copied().unwrap_or_default();
        if floor == u64::MAX {
            // It was replaced, and its record is on its way out.
            self.keeping.changes.remove(&file);
            return;
        }
        if self.keeping.next.contains_key(&file) || now < not_before {
            return;
        }
        let Some(before) = self.holdings.current(file).cloned() else {
            // Others keep it now: what was rebuilt here is theirs to rebuild.
            self.keeping.changes.remove(&file);
            return;
        };
        if before.version < floor {
            return;
        }
        let Some(version) = self.next_version(now, &before).filter(|_| self.is_chief(&before))
        else {
            // The next audit looks again, here or elsewhere.
            self.keeping.changes.remove(&file);
            return;
        };
        let Some(before_digest) = self.holdings.current_digest(file) else { return };
        let changes = self.keeping.changes.remove(&file).unwrap_or_default();
        let mut record = before.clone();
        record.version = version;
        for ((chunk, index), node) in changes {
            record.holders[chunk as usize][usize::from(index)] = node;
        }
        let reach = self.reach(file);
        record.keepers.retain(|keeper| self.can_keep(*keeper, file, reach));
        let wanted = self.config.lookup.replication as usize;
        if record.keepers.len() < wanted {
            let mut others: Vec<_> = self
                .candidates()
                .into_iter()
                .map(|candidate| candidate.node)
                .filter(|node| !before.keepers.contains(node))
                .map(|node| (distance(node, &file.0), node))
                .collect();
            others.sort_unstable();
            // One that has kept the file before says no: then others are asked.
            let skip = self.keeping.attempts as usize % 3;
            let missing = wanted - record.keepers.len();
            record.keepers.extend(others.into_iter().skip(skip).take(missing).map(|(_, it)| it));
        }
        if record.holders == before.holders && record.keepers == before.keepers {
            return;
        }
        let bytes = record.encode();
        let digest = Digest::of(&bytes);
        self.holdings.stage(digest, bytes.into());
        let wanted: Vec<_> = record.keepers.iter().map(|keeper| (*keeper, digest)).collect();
        self.keeping.next.insert(file, Next { record, digest, before, before_digest });
        let number = self.draw_number();
        let key = request_key(b'n', &[&self.name.0, &number.to_le_bytes(), &digest.0]);
        self.keep_all(now, key, Purpose::NextKept { file }, &wanted, disks);
    }

    /// The saga has ended that had a record's next version kept.
    pub(crate) fn next_kept(&mut self, now: Time, file: Digest, ended: Ended) {
        match ended {
            Ended::Done => self.keeping.kept.push(file),
            Ended::Undone => self.next_failed(now, file, false),
            Ended::Unknown => self.next_unknown(now, file),
        }
    }

    /// Nobody can say whether the next version is kept, or current: nothing of it is released, and the next
    /// audit looks at what is.
    fn next_unknown(&mut self, now: Time, file: Digest) {
        let Some(next) = self.keeping.next.remove(&file) else { return };
        self.holdings.unstage(next.digest);
        self.keeping.floor.insert(file, (next.before.version, now + self.config.patience));
        self.compare_records(&next.record);
    }

    fn next_to_head(&mut self, now: Time, file: Digest, disks: &dyn StorageDisks) {
        let Some(next) = self.keeping.next.get(&file).cloned() else { return };
        let Next { record, digest, before, .. } = next;
        let number = self.draw_number();
        let key = request_key(b'v', &[&self.name.0, &number.to_le_bytes(), &digest.0]);
        let was = |keeper| if before.keepers.contains(&keeper) { before.version } else { 0 };
        let purpose = Purpose::NextHead { file };
        self.turn_head(now, key, purpose, (&record, digest), was, disks);
    }

    /// The 2PC has ended that makes a record's next version current.
    pub(crate) fn next_headed(&mut self, now: Time, file: Digest, ended: Ended) {
        match ended {
            Ended::Done => {}
            Ended::Undone => return self.next_failed(now, file, true),
            Ended::Unknown => return self.next_unknown(now, file),
        }
        let Some(next) = self.keeping.next.remove(&file) else { return };
        self.stats.versions += 1;
        self.holdings.unstage(next.digest);
        self.keeping.floor.insert(file, (next.record.version, now));
        // What the version before needed, and this one does not.
        let left = &mut self.keeping.to_release;
        left.extend(next.before.keepers.iter().map(|keeper| (*keeper, next.before_digest)));
        let both = next.before.shards().zip(next.record.shards());
        for ((.., shard, old), (.., new)) in both {
            if old != new {
                left.push((old, shard.digest));
            }
        }
        self.look_after(now, file);
    }

    /// The next version does not become current: another came first, or a keeper was away.
    fn next_failed(&mut self, now: Time, file: Digest, kept: bool) {
        let Some(next) = self.keeping.next.remove(&file) else { return };
        self.stats.superseded += 1;
        self.keeping.attempts += 1;
        self.holdings.unstage(next.digest);
        if kept {
            let keepers = next.record.keepers.iter();
            self.keeping.to_release.extend(keepers.map(|keeper| (*keeper, next.digest)));
        }
        let newer = self.holdings.current(file).is_none_or(|at| at.version > next.before.version);
        let both = next.before.shards().zip(next.record.shards());
        for ((stripe, index, shard, old), (.., new)) in both {
            if old == new {
                continue;
            }
            if newer {
                self.keeping.to_release.push((new, shard.digest));
            } else {
                let changes = self.keeping.changes.entry(file).or_default();
                changes.entry((stripe.chunk, index)).or_insert(new);
            }
        }
        self.keeping.floor.insert(file, (next.before.version, now + self.config.patience));
        self.look_after(now, file);
        self.compare_records(&next.record);
    }

    /// Tells other keepers of each record which version this node has: one that was away may have been
    /// replaced meanwhile, and hears so. The first keeper tells all others; each of them the first, and
    /// another one each round, since the first may have been away too.
    fn tell_versions(&mut self) {
        self.keeping.rounds += 1;
        let mut told = Vec::new();
        for record in self.holdings.all_current() {
            let others: Vec<NodeName> =
                record.keepers.iter().copied().filter(|keeper| *keeper != self.name).collect();
            let chief = record.chief(|node| !self.is_dead(node));
            let turn = others.get(self.keeping.rounds % others.len().max(1)).copied();
            let to = |node: &NodeName| {
                chief == Some(self.name) || chief == Some(*node) || turn == Some(*node)
            };
            let message = Message::Version { file: record.file, version: record.version };
            told.extend(others.into_iter().filter(to).map(|node| (node, message.clone())));
        }
        told.into_iter().for_each(|(node, message)| self.send(node, message));
    }

    /// Another keeper says which version is current there: whoever has the older one gets the newer.
    pub(crate) fn version_told(&mut self, from: NodeName, file: Digest, version: u64) {
        let Some(own) = self.holdings.current(file) else { return };
        let (lookup, key) = (COMPARING, file.0);
        let message = match own.version.cmp(&version) {
            Ordering::Equal => return,
            Ordering::Less => DirectoryMessage::Find { lookup, key },
            Ordering::Greater => {
                let (nodes, record) = (Vec::new(), Some(own.encode()));
                DirectoryMessage::Found { lookup, nodes, record }
            }
        };
        self.send(from, Message::Directory(message));
    }

    /// Asks the other keepers of a record which version they have.
    fn compare_records(&mut self, record: &FileRecord) {
        let own = self.name;
        for keeper in record.keepers.iter().filter(|keeper| **keeper != own) {
            let (lookup, key) = (COMPARING, record.file.0);
            let message = DirectoryMessage::Find { lookup, key };
            self.send(*keeper, Message::Directory(message));
        }
    }

    /// Another keeper's version has come. If it is newer, and others keep it, this node's is not needed
    /// any more.
    pub(crate) fn compared(&mut self, record: &[u8]) {
        let Ok(theirs) = FileRecord::decode(record) else { return };
        let Some(own) = self.holdings.current(theirs.file) else { return };
        let replaced = theirs.version > own.version
            && theirs.manifest == own.manifest
            && !theirs.keepers.contains(&self.name);
        if !replaced || self.keeping.next.contains_key(&theirs.file) {
            return;
        }
        let file = theirs.file;
        if let Some(digest) = self.holdings.current_digest(file)
            && self.keeping.floor.insert(file, (u64::MAX, Time::NEVER)).map(|it| it.0)
                != Some(u64::MAX)
        {
            self.keeping.changes.remove(&file);
            self.keeping.to_release.push((self.name, digest));
        }
    }
}
