//! What was promised to a coordinator that is gone: nobody else would ever end it.
//!
//! Who has voted yes waits for the decision, and asks its peers. If one of them knows it, or has not voted, that
//! ends it. If all who are there have voted yes and the coordinator does not come back, then nobody knows what it
//! decided; and what was promised keeps a file's record from ever being turned again. Here all of them take it as
//! committed, each by itself, as an operator would order it (Bernstein, Hadzilacos, Goodman, 1987, section 7.4: a
//! heuristic decision). That is right for what is stored: a commit that was told to somebody is never taken back, and
//! a version that nobody was told of is as good as any, since all that it names was kept before anyone was asked.
//!
//! # When
//!
//! **Whatever it is:** once its coordinator has been dead for the time after which the keepers that are left go on
//! without the others, and where most of the network is. In the smaller part of one that is cut in two nobody keeps a
//! promise by time alone: the coordinator has decided otherwise, maybe, and the others have gone on.
//!
//! **A record's next version:** as soon as its coordinator is dead, and most keepers of the version before, and all
//! participants that are not dead, have just said, each since the coordinator is dead for it, that they are in doubt of
//! this same transaction. Whoever is in doubt asks all its peers that are there; whoever has kept the promise says so,
//! and whoever hears that keeps it too, also if it has not kept the record before and cannot know who did.
//!
//! # Why that is safe
//!
//! The coordinator is gone, or on the other side of a partition, or comes back from a crash. It has decided long
//! before anybody takes it for dead, or decides when it is back, and then it aborts.
//!
//! *It has committed.* Then it may have told its client, which is the keeper that had the version made, and released
//! what only the version before had needed. Every participant that keeps its promise does what it was told.
//!
//! *It has aborted.* Whoever has heard that is not in doubt. Every version that is made of the one before needs the
//! votes of most of its keepers; most are in doubt, so they vote no, and no version is made beside the promised one:
//! neither by the coordinator nor by anybody whom it has told. Once most of them have kept the promise there is no
//! way but the promised version. All shards that it names were kept before, and the coordinator does not release
//! them: what a failed next version was to name it keeps for the next attempt, or leaves to the sweep, and that asks
//! most keepers of the newest version. The record's bytes it does release; where they are current, a node does not
//! do that for anybody else, and while it is in doubt of them it does not answer (see `holder.rs`).
//!
//! *Between what somebody says and what it does* an abort may come. It is not taken for longer than what was said
//! counts: whoever keeps its promise on the word of others does it while they still wait for that. A word is an answer, and
//! counts from when its question was asked, so that no delay on the way makes it count for longer than its speaker holds to
//! it; that somebody asks says nothing, since nobody else knows when it did.
//!
//! *A crash in between* does not change that. What is said of a promise is said once its record is durable, and that
//! record is all that has to be written down: whoever starts and finds a promise of a next version takes it that it
//! has just said that it is in doubt of it, and hears of no abort for as long as if it had. Meanwhile it asks its peers
//! what they have made of its word, also if its coordinator is there again for all that it knows, and keeps its promise
//! if one of them has.
//!
//! In these cases some keepers may have another version than most: the coordinator, or those who heard it abort. They
//! say so to whoever shows them what they should have, and the next version is made without their votes, by the
//! majority that it needs anyhow, and given to them: see `keeper/versions.rs`.
//!
//! *Who alone has kept its promise* and is cut off before the others hear of it may find that they have waited, heard of an
//! abort, and made another version of that number. So may whoever has kept one by time alone. Then what it has was not
//! decided, and it gives that up: see there, too.
//!
//! A version with another encoding waits for the longer time: what its coordinator gives up, it releases.

use crate::StorageDisks;
use crate::keeper::{ORPHANED, OWED_KEPT, is_anew};
use crate::message::{InDoubt, Message};
use crate::node::{Config, StorageNode};
use crate::work;
use base::{NodeName, OperationId, ShardId, Time};
use node::{Doubtful, Force, Input, Intervention};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::Digest;
use twopc::participant::{Promise, PromiseKey};
use twopc::{Audit, Heuristic, Peer, TxKey};

/// Who is in doubt asks the others again after so many times the patience, then after twice as long …
const ASK_AGAIN: u32 = 2;
/// … so often.
const PAUSES_DOUBLE: u32 = 5;
/// What somebody has said counts for so many times the patience …
const COUNTS_FOR: u32 = 4;
/// … and whoever has said it hears of no abort for this many.
const HOLDS_FOR: u32 = 8;

/// What is promised to those who are gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orphans {
    /// When it is looked at.
    look_at: Option<Time>,
    /// What is heard of each promise, and asked.
    doubts: BTreeMap<PromiseKey, Heard>,
    /// What was kept, and whom that is to be told once it is durable.
    kept: Vec<(PromiseKey, Arc<[Peer]>)>,
    /// Since when transactions of this node have not waited any more for somebody who is gone for good.
    gone: BTreeMap<OperationId, Time>,
}

/// A record's next version, as it is promised.
#[derive(Clone, Copy, Debug)]
struct Turn {
    file: Digest,
    was: u64,
    to: u64,
}

#[derive(Clone, Debug, Default)]
struct Heard {
    /// Who has said that it is in doubt too, and when it was asked.
    from: BTreeMap<NodeName, Time>,
    /// The questions whose answers count, by their numbers: when each was asked.
    questions: BTreeMap<u64, Time>,
    /// How often the others were asked.
    asked: u32,
    /// When they are asked again.
    ask_at: Time,
    /// Until then it is not taken back, since others may keep their promises on this node's word.
    holds_until: Time,
    /// Somebody has kept it.
    is_kept: bool,
    /// It was promised before this start, and may have been spoken of.
    is_earlier: bool,
}

/// Whether this work makes the next version of a file's record current that has one, in the same encoding: of nothing
/// else anybody says that it is in doubt.
fn is_turn(work: &[u8]) -> bool {
    work::turns(work).is_some_and(|(_, was, to)| to > 1 && !is_anew(was, to))
}

impl Orphans {
    pub(crate) fn new(now: Time, config: &Config) -> Orphans {
        // It may have promised something in an earlier life.
        let look_at = Some(now + ORPHANED * config.membership.alive);
        Orphans { look_at, ..Orphans::default() }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        self.look_at
    }

    /// Forgets what it was heard to be in doubt that is not any more.
    fn retain(&mut self, promised: &BTreeSet<PromiseKey>) {
        self.doubts.retain(|key, _| promised.contains(key));
    }
}

impl StorageNode {
    /// When a node that is gone now is gone for good; `None`: it is. That is counted from when this node came to see most
    /// of the others at the earliest: before, it was this node that was gone.
    fn is_lost_at(&self, now: Time, node: NodeName) -> Option<Time> {
        let lost = self.missed_since(now, node) + ORPHANED * self.config.membership.alive;
        (lost > now).then_some(lost)
    }

    /// Whether a node has been gone for so long that nobody waits for it any more.
    pub(crate) fn is_lost(&self, now: Time, node: NodeName) -> bool {
        self.is_dead(node) && self.is_lost_at(now, node).is_none()
    }

    /// Somebody is gone, or is known to be: this node looks what it has promised it.
    pub(crate) fn look_for_orphans(&mut self, at: Time) {
        self.orphans.look_at = Time::earliest(self.orphans.look_at, Some(at));
    }

    /// Time has passed: promises to those who are gone are asked about, and kept.
    pub(crate) fn orphans_wake(&mut self, now: Time, disks: &dyn StorageDisks) {
        if self.orphans.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.orphans.look_at = None;
        self.give_up_on_lost(now, disks);
        let Some(host) = self.transactions.participant() else {
            // Its log is being read.
            return self.look_for_orphans(now + self.config.patience);
        };
        let participant = host.participant();
        let of = |key: &PromiseKey| NodeName(key.tx.coordinator.0);
        let (mut seen_to, mut unsettled) = (Vec::new(), false);
        for (key, forced) in participant.forced().filter(|(_, it)| it.forgotten.is_none()) {
            // Nobody will ask what was made of these; or whoever made something else of them has noted it.
            if self.is_lost(now, of(&key)) || forced.noted.is_some() {
                seen_to.push(key);
            } else {
                unsettled = true;
            }
        }
        let promised: BTreeSet<PromiseKey> = participant.prepared().map(|(key, _)| key).collect();
        let (gone, there): (Vec<PromiseKey>, Vec<PromiseKey>) =
            promised.iter().partition(|key| self.is_dead(of(key)));
        self.orphans.retain(&promised);
        if unsettled {
            self.look_for_orphans(now + self.config.membership.alive);
        }
        if !seen_to.is_empty() {
            // What has become current by that may name what was given up meanwhile.
            self.keeping.audit_at_once(now);
        }
        for key in seen_to {
            let of = Doubtful::Branch(key);
            self.intervene(now, of, Force::Forget, "nobody else sees to it", disks);
        }
        there.into_iter().for_each(|key| self.see_to_spoken_of(now, key, disks));
        for key in gone {
            match self.is_lost_at(now, of(&key)) {
                None if self.sees_most_of(&key) => {
                    self.keep_promise(now, key, "its coordinator is gone for good", disks);
                }
                None => self.look_for_orphans(now + self.config.membership.alive),
                Some(later) => {
                    self.look_for_orphans(later);
                    self.ask_of_orphan(now, key, disks);
                }
            }
        }
    }

    /// A transaction that is decided does not wait for ever for a participant that has promised it and is gone for good:
    /// its coordinator writes down that it is, and ends it. Should it come back all the same it is told to commit, as long
    /// as what it may have missed is kept for anybody.
    fn give_up_on_lost(&mut self, now: Time, disks: &dyn StorageDisks) {
        let Some(engine) = self.transactions.coordinator() else { return };
        let (mut lost, mut look_at) = (Vec::new(), None);
        for transaction in engine.active_transactions() {
            for member in transaction.members() {
                if transaction.awaited(member.shard).is_none() || !self.is_dead(member.node) {
                    continue;
                }
                match self.is_lost_at(now, member.node) {
                    None => lost.push((transaction.id(), member.shard)),
                    later => look_at = Time::earliest(look_at, later),
                }
            }
        }
        let mut seen_to = BTreeSet::new();
        let listed = engine.heuristics().filter(|(.., it)| it.heuristic == Heuristic::Lost);
        let listed: BTreeSet<OperationId> = listed.map(|(id, ..)| id).collect();
        self.orphans.gone.retain(|id, _| listed.contains(id));
        for id in listed {
            let since = *self.orphans.gone.entry(id).or_insert(now);
            if engine.active_transactions().any(|transaction| transaction.id() == id) {
                continue;
            }
            match since + OWED_KEPT <= now {
                true => _ = seen_to.insert(id),
                false => look_at = Time::earliest(look_at, Some(since + OWED_KEPT)),
            }
        }
        if let Some(at) = look_at {
            self.look_for_orphans(at);
        }
        for (id, shard) in lost {
            let of = Doubtful::Transaction(id);
            self.stats.given_up += 1;
            self.intervene(now, of, Force::Gone(shard), "it is gone for good", disks);
            self.look_for_orphans(now + self.config.patience);
        }
        for id in seen_to {
            let of = Doubtful::Transaction(id);
            self.intervene(now, of, Force::Forget, "it does not come back", disks);
        }
    }

    /// Whether more of the others are there than have gone since the coordinator of a promise, and those who have promised
    /// the same, began to go.
    fn sees_most_of(&self, key: &PromiseKey) -> bool {
        let Some(host) = self.transactions.participant() else { return false };
        let Some(Promise::Prepared { peers, .. }) = host.participant().promise(key) else {
            return false;
        };
        let all = peers.iter().map(|peer| peer.node).chain([NodeName(key.tx.coordinator.0)]);
        let gone: Vec<NodeName> = all.filter(|node| self.is_dead(*node)).collect();
        self.sees_most_since(&gone)
    }

    /// Asks the others who have promised the same to somebody who is gone, and keeps the promise if most of those who
    /// could make another version are in doubt of this one.
    fn ask_of_orphan(&mut self, now: Time, key: PromiseKey, disks: &dyn StorageDisks) {
        let Some(host) = self.transactions.participant() else { return };
        let durable = host.log().durable();
        let Some(Promise::Prepared { at, peers, work }) = host.participant().promise(&key) else {
            return;
        };
        let Some(turn) = self.turn_of(work) else { return };
        if at > durable {
            return self.look_for_orphans(now + self.config.patience);
        }
        let peers = peers.clone();
        let heard = self.orphans.doubts.entry(key).or_default();
        if heard.ask_at <= now {
            let pause = ASK_AGAIN * self.config.patience * (1 << heard.asked.min(PAUSES_DOUBLE));
            heard.ask_at = now + pause.min(self.config.membership.alive);
            heard.asked += 1;
            self.ask_peers(now, key, &peers);
        }
        let Some(heard) = self.orphans.doubts.get(&key) else { return };
        let ask_at = heard.ask_at;
        let why = match heard.is_kept {
            true => Some("another participant has committed it"),
            false => self
                .is_shared(now, turn, &peers, heard)
                .then_some("most keepers are in doubt of it"),
        };
        if let Some(why) = why {
            self.stats.orphans_shared += 1;
            return self.keep_promise(now, key, why, disks);
        }
        self.look_for_orphans(ask_at);
    }

    /// Whether most keepers of the version before are in doubt too, and nobody who is there may not be.
    fn is_shared(&self, now: Time, turn: Turn, peers: &[Peer], heard: &Heard) -> bool {
        let Turn { file, was, to } = turn;
        let record = self.holdings.current(file).filter(|record| record.version == was);
        let Some(record) = record.filter(|_| !is_anew(was, to)) else { return false };
        // Not what somebody said long ago.
        let since = COUNTS_FOR * self.config.patience;
        let is_in_doubt = |node: NodeName| {
            node == self.name || heard.from.get(&node).is_some_and(|at| *at + since > now)
        };
        let keepers = record.keepers.iter().filter(|keeper| is_in_doubt(**keeper)).count();
        2 * keepers > record.keepers.len()
            && peers.iter().all(|peer| is_in_doubt(peer.node) || self.is_dead(peer.node))
    }

    /// A start has found what this node had promised in an earlier life, and may have told others to be in doubt of:
    /// what it has said may count still.
    pub(crate) fn hold_promises(&mut self, now: Time) {
        let Some(host) = self.transactions.participant() else { return };
        let holds_until = now + HOLDS_FOR * self.config.patience;
        let participant = host.participant();
        let held = participant.prepared().filter(|(key, _)| match participant.promise(key) {
            Some(Promise::Prepared { work, .. }) => is_turn(work),
            _ => false,
        });
        let heard = || Heard { holds_until, ask_at: now, is_earlier: true, ..Heard::default() };
        self.orphans.doubts.extend(held.map(|(key, _)| (key, heard())));
        if !self.orphans.doubts.is_empty() {
            self.look_for_orphans(now);
        }
    }

    /// Sees to a promise whose coordinator is not known to be gone: asks others what they have made of this node's word
    /// before it crashed, as long as it may not abort; and keeps it if one of them has.
    fn see_to_spoken_of(&mut self, now: Time, key: PromiseKey, disks: &dyn StorageDisks) {
        let Some(host) = self.transactions.participant() else { return };
        let Some(Promise::Prepared { peers, work, .. }) = host.participant().promise(&key) else {
            return;
        };
        let (peers, is_turn) = (peers.clone(), is_turn(work));
        let Some(heard) = self.orphans.doubts.get_mut(&key).filter(|_| is_turn) else { return };
        if heard.is_kept {
            self.stats.orphans_shared += 1;
            return self.keep_promise(now, key, "another participant has committed it", disks);
        }
        // Who is asked may answer by what it takes this node's word for.
        let patience = self.config.patience;
        let ask_at = heard.ask_at;
        if !heard.is_earlier || ask_at + COUNTS_FOR * patience > heard.holds_until {
            return;
        }
        if ask_at <= now {
            heard.ask_at = now + ASK_AGAIN * patience;
            let number = self.draw_number();
            self.tell_of_orphan(key, &peers, InDoubt::Asks(number));
        }
        self.look_for_orphans(ask_at.max(now + ASK_AGAIN * patience));
    }

    /// Whether this says that a transaction is aborted of which this node has just told others that it is in doubt.
    pub(crate) fn comes_too_late(&self, now: Time, message: &twopc::Message) -> bool {
        use twopc::{Message, PeerVerdict, Verdict};
        let (Message::Abort { key: tx, shard, .. }
        | Message::Answer { key: tx, shard, verdict: Verdict::Aborted, .. }
        | Message::PeerAnswer { key: tx, shard, verdict: PeerVerdict::Aborted }) = message
        else {
            return false;
        };
        let heard = self.orphans.doubts.get(&PromiseKey { tx: *tx, shard: *shard });
        heard.is_some_and(|heard| heard.holds_until > now)
    }

    /// Of which file a promise makes another version current, if it does: of one of whose records this node has.
    fn turn_of(&self, work: &[u8]) -> Option<Turn> {
        let (head, was, to) = work::turns(work)?;
        // An upload has no version before.
        let file = self.holdings.file_with_head(head).filter(|_| to > 1)?;
        Some(Turn { file, was, to })
    }

    /// Asks the others whether they are in doubt too. What they say counts from now on, whenever it comes.
    fn ask_peers(&mut self, now: Time, key: PromiseKey, peers: &[Peer]) {
        let number = self.draw_number();
        let patience = self.config.patience;
        let heard = self.orphans.doubts.entry(key).or_default();
        heard.holds_until = now + HOLDS_FOR * patience;
        heard.questions.retain(|_, at| *at + COUNTS_FOR * patience > now);
        heard.questions.insert(number, now);
        self.tell_of_orphan(key, peers, InDoubt::Asks(number));
    }

    fn tell_of_orphan(&mut self, key: PromiseKey, peers: &[Peer], says: InDoubt) {
        for peer in peers {
            if peer.node != self.name && !self.is_dead(peer.node) {
                let (tx, of, by) = (key.tx, peer.shard, key.shard);
                self.send(peer.node, Message::Orphan { tx, of, by, says });
            }
        }
    }

    /// What was kept is durable: the others hear of it.
    pub(crate) fn tell_of_kept(&mut self) {
        if self.orphans.kept.is_empty() {
            return;
        }
        let Some(host) = self.transactions.participant() else { return };
        let (durable, participant) = (host.log().durable(), host.participant());
        let is_told = |key: &PromiseKey| matches!(participant.promise(key), Some(Promise::Committed { at }) if at <= durable);
        let (told, left) = std::mem::take(&mut self.orphans.kept)
            .into_iter()
            .partition::<Vec<_>, _>(|(key, _)| is_told(key));
        self.orphans.kept = left;
        told.into_iter().for_each(|(key, peers)| self.tell_of_orphan(key, &peers, InDoubt::Kept));
    }

    /// Somebody else is in doubt of what a coordinator that is gone has asked for, or has kept it.
    pub(crate) fn orphan_told(
        &mut self,
        now: Time,
        from: NodeName,
        (tx, of, by): (TxKey, ShardId, ShardId),
        says: InDoubt,
    ) {
        let key = PromiseKey { tx, shard: of };
        let Some(host) = self.transactions.participant() else { return };
        let (durable, patience) = (host.log().durable(), self.config.patience);
        let is_dead = self.is_dead(tx.coordinator_node());
        let answer = match host.participant().promise(&key) {
            Some(Promise::Prepared { at, peers, .. }) => {
                if !peers.iter().any(|peer| (peer.node, peer.shard) == (from, by)) {
                    return;
                }
                let heard = self.orphans.doubts.entry(key).or_default();
                let mut answer = None;
                match says {
                    InDoubt::Kept => heard.is_kept = true,
                    InDoubt::IsToo(number) => {
                        let Some(asked) = heard.questions.get(&number) else { return };
                        let at = heard.from.entry(from).or_default();
                        *at = (*at).max(*asked);
                    }
                    InDoubt::Asks(_) if !is_dead => return,
                    InDoubt::Asks(number) => {
                        // When it said so nobody knows. If it was not when it was asked, it is now.
                        let last = heard.questions.values().max().copied();
                        if let Some(last) = last.filter(|at| heard.from.get(&from) < Some(at)) {
                            heard.ask_at = heard.ask_at.min(last + patience);
                        }
                        if at <= durable {
                            heard.holds_until = now + HOLDS_FOR * patience;
                            answer = Some(InDoubt::IsToo(number));
                        }
                    }
                }
                self.look_for_orphans(now);
                answer
            }
            // Whether it was told to or has kept its promise: there is no other way any more.
            Some(Promise::Committed { at }) => {
                let is_asked = matches!(says, InDoubt::Asks(_));
                (is_asked && at <= durable).then_some(InDoubt::Kept)
            }
            _ => None,
        };
        if let Some(says) = answer {
            self.send(from, Message::Orphan { tx, of: by, by: of, says });
        }
    }

    fn keep_promise(&mut self, now: Time, key: PromiseKey, why: &str, disks: &dyn StorageDisks) {
        let Some(host) = self.transactions.participant() else { return };
        let promise = host.participant().promise(&key);
        let Some(Promise::Prepared { peers, .. }) = promise else { return };
        let peers = peers.clone();
        self.stats.orphans += 1;
        self.intervene(now, Doubtful::Branch(key), Force::Commit, why, disks);
        self.orphans.doubts.remove(&key);
        self.orphans.kept.push((key, peers));
        self.look_for_orphans(now + self.config.patience);
    }

    fn intervene(
        &mut self,
        now: Time,
        of: Doubtful,
        force: Force,
        why: &str,
        disks: &dyn StorageDisks,
    ) {
        let at_ms = self.config.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
        let audit = Arc::new(Audit { at_ms, who: "keeper".into(), why: why.into() });
        let what = Intervention { of, force, audit };
        self.feed(now, Input::Intervene(Box::new(what)), disks);
    }
}
