//! What the keeper of a file's record does for the file: asks for proofs, rebuilds what is lost, and makes
//! the record say so.

mod alone;
mod encodings;
mod moves;
mod proofs;
mod repairs;
mod versions;

pub(crate) use alone::is_sought;
pub(crate) use versions::{ORPHANED, is_anew};

use crate::StorageDisks;
use crate::node::{Config, StorageNode};
use crate::record::FileRecord;
use crate::transfer::TransferId;
use crate::work::Current;
use alone::{Seeking, Sight};
use base::prng::keyed_hash;
use base::{NodeName, RequestKey, Time, Token};
use encodings::Encodings;
use incentives::{Observation, Reputation, ReputationConfig};
use placement::{LookupId, PlacerConfig, Rebalancer, Status, distance};
use repair::{Auditor, BadCopies, Output, PlanId, RepairPlanner, Source, StripeId, Verdict};
use saga::{Order, What};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Digest;
use versions::Next;

pub use encodings::EncodingConfig;

/// The number of questions among keepers; a directory's own lookups are counted from 1.
pub(crate) const COMPARING: LookupId = LookupId(u64::MAX);

/// After so many times the time after which a silent node is dead a new one has heard of everybody.
const MEETING: u32 = 20;

/// How long a node that is away may come back to hear what it need not hold any more.
pub(crate) const OWED_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// By stripe and place: who has a shard now, and which.
type NewHolders = BTreeMap<(StripeId, u16), (NodeName, Digest)>;

/// What a node does as a keeper.
#[derive(Clone, Debug)]
pub(crate) struct Keeping {
    auditor: Auditor,
    planner: RepairPlanner,
    rebalancer: Rebalancer,
    /// The last stripe that was looked at whether it lies well.
    looked_at: (Digest, u32),
    bad: BadCopies,
    pub(crate) reputation: Reputation,
    audit_every: Duration,
    next_audit: Time,
    plan_at: Option<Time>,
    /// Files of whose keepers most are gone, and when they are looked at again.
    revisits: BTreeMap<Digest, Time>,
    /// Files with which this node is to go on alone, and what it asks the others of them before.
    seeking: BTreeMap<Digest, Seeking>,
    /// Whether this node has been there for long enough to have heard of everybody.
    has_met_all: bool,
    met_all_at: Time,
    sight: Sight,
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
    /// New holders that a file's next version will name, each with the shard that it has.
    changes: BTreeMap<Digest, NewHolders>,
    encodings: Encodings,
    next: BTreeMap<Digest, Next>,
    /// Next versions whose bytes are kept, and which are to become current.
    kept: Vec<Digest>,
    /// Of a file, no version below this is gone on from; and not before then.
    floor: BTreeMap<Digest, (u64, Time)>,
    /// Keepers of a file's record at which another one is current than the one that names them, and which.
    astray: BTreeMap<Digest, BTreeMap<NodeName, Current>>,
    /// Who has released the record that is current here, by file, and when it is asked for a newer one.
    released_by: BTreeMap<Digest, (NodeName, Time)>,
    /// How many next versions of a file have come to nothing since one became current.
    attempts: BTreeMap<Digest, u32>,
    /// How many rounds of audits there have been.
    rounds: usize,
    /// What ended operations have left to do, each in a round of its own.
    pub(crate) batches: Vec<(TransferId, u64, Digest)>,
    pub(crate) heads: Vec<(TransferId, u64)>,
    pub(crate) to_release: Vec<(NodeName, Digest)>,
    /// The intents of uploads' attempts that came to nothing, by their numbers.
    pub(crate) to_give_up: Vec<(u64, Digest)>,
    /// What uploads that failed have left, each under the key that it has every time.
    pub(crate) to_undo: Vec<(RequestKey, NodeName, Digest)>,
    /// What is to be released at nodes that are not there, until they are back: since when, under which
    /// key, and what.
    owed: BTreeMap<NodeName, Vec<(Time, Option<RequestKey>, Digest)>>,
    verdicts: Vec<(Verdict, Token)>,
    pending: Vec<Output>,
    look: bool,
    /// A saga has begun to be undone, or somebody is gone at whom one may be.
    pub(crate) undoes: bool,
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
            rebalancer: Rebalancer::new(
                config.rebalance,
                PlacerConfig::default(),
                &config.network,
                now,
            ),
            looked_at: (Digest([0; 32]), 0),
            bad: BadCopies::new(),
            reputation: Reputation::new(ReputationConfig::default()),
            audit_every: config.audit_every,
            next_audit: now + Duration::from_nanos(begin),
            plan_at: None,
            revisits: BTreeMap::new(),
            seeking: BTreeMap::new(),
            has_met_all: false,
            met_all_at: now + MEETING * config.membership.alive,
            sight: Sight::new(now),
            leaving: BTreeSet::new(),
            condemned: BTreeSet::new(),
            owed: BTreeMap::new(),
            fetching: BTreeMap::new(),
            placing: BTreeMap::new(),
            scrubbing: BTreeMap::new(),
            by_manifest: BTreeMap::new(),
            by_shard: BTreeMap::new(),
            changes: BTreeMap::new(),
            encodings: Encodings::new(config.encodings, now),
            next: BTreeMap::new(),
            kept: Vec::new(),
            floor: BTreeMap::new(),
            astray: BTreeMap::new(),
            released_by: BTreeMap::new(),
            attempts: BTreeMap::new(),
            rounds: 0,
            batches: Vec::new(),
            heads: Vec::new(),
            to_release: Vec::new(),
            to_undo: Vec::new(),
            to_give_up: Vec::new(),
            verdicts: Vec::new(),
            pending: Vec::new(),
            look: false,
            undoes: false,
        }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        let revisit = self.revisits.values().min().copied();
        let (balance, encoding) = (self.rebalancer.due(), self.encodings.due());
        let all = [
            Some(self.next_audit),
            (!self.has_met_all).then_some(self.met_all_at),
            Some(balance),
            encoding,
            self.plan_at,
            self.auditor.next_wake(),
            revisit,
            self.seeking.values().map(Seeking::due).min(),
            self.released_by.values().map(|(_, at)| *at).min(),
        ];
        all.into_iter().flatten().min()
    }

    /// Every shard is asked a proof of, before its time.
    pub(crate) fn audit_at_once(&mut self, now: Time) {
        self.next_audit = self.next_audit.min(now);
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
            || self.encodings.is_at(file)
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
    pub(crate) fn unrest(&self) -> [(&'static str, bool); 4] {
        [
            ("repairs", self.planner.pending() > 0),
            ("next versions", !self.next.is_empty() || self.seeking.values().any(Seeking::is_open)),
            ("encodings", !self.encodings.is_idle()),
            (
                "changes",
                !self.changes.is_empty()
                    || !self.to_release.is_empty()
                    || !self.to_undo.is_empty()
                    || !self.to_give_up.is_empty(),
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
        let bucket = (self.config.lookup.bucket as usize).max(1);
        let stays = |node: NodeName| !self.keeping.leaving.contains(&node);
        let others = self.membership.nearest(&file.0, bucket, |it| stays(it.announcement.node));
        let own = Some(self.name).filter(|node| stays(*node));
        let mut closest: Vec<[u8; 32]> =
            others.into_iter().chain(own).map(|node| distance(node, &file.0)).collect();
        closest.sort_unstable();
        closest.get(bucket - 1).copied()
    }

    /// Whether a node may go on keeping a file's record: it is there, and is found. As nodes join, others
    /// come to be closer to a file than those that keep it, and nobody asks these any more.
    fn can_keep(&self, node: NodeName, file: Digest, reach: Option<[u8; 32]>) -> bool {
        !self.goes(node) && reach.is_none_or(|reach| distance(node, &file.0) <= reach)
    }

    fn is_chief(&self, record: &FileRecord) -> bool {
        // Who has another version sees to what that says.
        let has_it = |node| !self.is_dead(node) && self.astray(record.file, node).is_none();
        record.chief(has_it) == Some(self.name)
    }

    /// Which record is current at a keeper of a file's, if it is known to be another one.
    fn astray(&self, file: Digest, keeper: NodeName) -> Option<Current> {
        self.keeping.astray.get(&file)?.get(&keeper).copied()
    }

    /// Another version of a file's record is current now, or none.
    pub(crate) fn record_turned(&mut self, now: Time, file: Digest) {
        self.keeping.astray.remove(&file);
        self.misses_named(now);
        let Some(record) = self.holdings.current(file) else {
            self.keeping.floor.remove(&file);
            self.keeping.changes.remove(&file);
            self.keeping.attempts.remove(&file);
            let Keeping { planner, by_manifest, .. } = &mut self.keeping;
            planner.forget(|stripe| by_manifest.get(&stripe.manifest) == Some(&file));
            return;
        };
        let shards: Vec<Digest> = record.shards().map(|(.., shard, _)| shard.digest).collect();
        let manifest = record.manifest.id();
        self.keeping.by_manifest.insert(manifest, file);
        // Of another encoding nothing is repaired any more.
        let Keeping { planner, by_manifest, .. } = &mut self.keeping;
        planner.forget(|stripe| {
            stripe.manifest != manifest && by_manifest.get(&stripe.manifest) == Some(&file)
        });
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
        self.keeping.undoes = true;
        self.look_for_orphans(now);
        self.reassess(now, node);
    }

    /// A node is there. Where it is closer to a file than a keeper of its record, that one may not be among those
    /// whom a lookup asks any more.
    pub(crate) fn node_comes(&mut self, node: NodeName) {
        let closer: Vec<Digest> = self.holdings.further_than(node).collect();
        closer.into_iter().for_each(|file| self.replace_keepers(file));
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
            let is_astray = |keeper| self.astray(file, keeper).is_some();
            let mut keepers = record.keepers.iter();
            keepers.any(|keeper| !self.can_keep(*keeper, file, reach) || is_astray(*keeper))
        });
        if lacks {
            self.keeping.changes.entry(file).or_default();
            self.keeping.look = true;
        }
    }

    /// What is undone at a node that is gone needs nobody to do it, and whatever waits for the end of that, such as the
    /// next attempt at a file's next version, need not wait for an answer: nobody is asked as often as if somebody might
    /// answer. With `retries`, a node that was away for long, so that undoing something there waits for an operator,
    /// and is back, is asked again.
    pub(crate) fn see_to_undoing(&mut self, now: Time, retries: bool, disks: &dyn StorageDisks) {
        self.keeping.undoes = false;
        // What is marked done is closed behind that.
        for _ in 0..2 {
            let Some(engine) = self.transactions.coordinator() else { return };
            let mut orders = Vec::new();
            for saga in engine.active_sagas() {
                for step in saga.steps() {
                    let is_dead = self.is_dead(step.node());
                    let what = match (step.is_parked(), step.is_marked_done()) {
                        (_, true) if is_dead => What::CloseUnanswered,
                        (_, false) if is_dead => What::MarkDone,
                        (true, _) if retries => What::RetryNow,
                        _ => continue,
                    };
                    let (who, why) = ("keeper".into(), "by what is known of the node".into());
                    let order = Order { who, why, what };
                    if saga.check_order(step.number(), &order).is_ok() {
                        orders.push((saga.id(), step.number(), order));
                    }
                }
            }
            for (id, step, order) in orders {
                let order = Box::new(order);
                self.feed(now, node::Input::Order { id, step, order }, disks);
            }
        }
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
        self.seeking_wake(now);
        self.ask_who_released(now);
        self.rebalance(now);
        self.encodings_wake(now);
        if !self.keeping.has_met_all && self.keeping.met_all_at <= now {
            // Those of whom it has not heard by now are gone: what they held is lost, and somebody has to keep in their
            // place what they kept.
            self.keeping.has_met_all = true;
            self.misses_unheard(now);
            self.keeping.undoes = true;
            self.look_for_orphans(now);
            let files: Vec<Digest> = self.holdings.all_current().map(|it| it.file).collect();
            files.into_iter().for_each(|file| self.look_after(now, file));
        }
        if self.keeping.next_audit > now {
            return;
        }
        self.keeping.next_audit = now + self.keeping.audit_every;
        for all in self.keeping.owed.values_mut() {
            all.retain(|(since, ..)| *since + OWED_KEPT > now);
        }
        self.keeping.owed.retain(|_, all| !all.is_empty());
        self.tell_versions(now);
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
}
