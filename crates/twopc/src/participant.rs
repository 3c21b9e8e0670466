//! The participant's side: durable promises, and what follows from them.
//!
//! A participant forces `tx_prepared` before its YES leaves, `tx_participant_committed` before its ACK,
//! and a NO that it promises to a peer. After its YES it never decides alone: it asks the coordinator,
//! then its peers, and stays blocked while all of them know no more.

use crate::{IllegalTransition, Message, Peer, PeerVerdict, TxKey, Verdict, Vote};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// A transaction at one shard of this participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromiseKey {
    /// The transaction.
    pub tx: TxKey,
    /// The shard, if this participant serves several.
    pub shard: ShardId,
}

/// A fact in a participant's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `tx_prepared`: the promise to commit if told so.
    Prepared {
        /// For whom.
        key: PromiseKey,
        /// The coordinator's epoch; also the highest one seen of it.
        epoch: Epoch,
        /// Every participant, this one included.
        peers: Arc<[Peer]>,
        /// What to do on commit.
        work: Arc<[u8]>,
    },
    /// `tx_participant_committed`
    Committed {
        /// For whom.
        key: PromiseKey,
        /// The highest epoch of the coordinator that was seen.
        epoch: Epoch,
    },
    /// `tx_participant_aborted`: also the tombstone that refuses a PREPARE which arrives later.
    Aborted {
        /// For whom.
        key: PromiseKey,
        /// A NO was promised to a peer.
        promised: bool,
    },
    /// `coordinator_seen`: lower epochs of this coordinator are refused from now on.
    CoordinatorSeen {
        /// Whose epoch.
        coordinator: CoordinatorId,
        /// The highest one seen.
        epoch: Epoch,
    },
}

impl Event {
    /// The record's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepared { .. } => "tx_prepared",
            Self::Committed { .. } => "tx_participant_committed",
            Self::Aborted { .. } => "tx_participant_aborted",
            Self::CoordinatorSeen { .. } => "coordinator_seen",
        }
    }
}

/// A transaction as this participant knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// It voted yes and waits for the outcome.
    Prepared {
        /// The promise's record.
        at: Sequence,
        /// Every participant.
        peers: Arc<[Peer]>,
        /// What to do on commit.
        work: Arc<[u8]>,
    },
    /// It has committed.
    Committed {
        /// The record.
        at: Sequence,
    },
    /// It has aborted, or never will vote yes.
    Aborted {
        /// The record.
        at: Sequence,
    },
}

impl Promise {
    fn state(&self) -> &'static str {
        match self {
            Promise::Prepared { .. } => "prepared",
            Promise::Committed { .. } => "committed",
            Promise::Aborted { .. } => "aborted",
        }
    }
}

/// A message of the participant's, and the record that must be durable before it leaves
/// ([`Sequence::NONE`]: at once).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// To whom.
    pub to: NodeName,
    /// What.
    pub message: Message,
    /// After which record.
    pub after: Sequence,
}

/// Whether the participant's own data allow what PREPARE asks for. Only looked at when it matters.
pub trait Resources {
    /// Could this work be done now, and be held until the outcome? Asked before the promise is
    /// logged; it must not change anything.
    fn can_prepare(&self, key: &PromiseKey, work: &[u8]) -> bool;
}

/// One participant: its promises and the coordinators' epochs that it has seen.
///
/// Inputs: [`refuses`](Self::refuses), [`newer_epoch`](Self::newer_epoch), [`decide`](Self::decide),
/// and all three at once, [`rule`](Self::rule). Events: [`apply`](Self::apply). Effects:
/// [`reply`](Self::reply), [`pending`](Self::pending). A message goes through them in this order:
/// refused? new epoch? a fact worth logging? apply it; reply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    node: NodeName,
    store: StoreId,
    boot: BootCount,
    /// Few coordinators and many transactions: each compares the name once, not per transaction.
    /// Ascending by name, each once.
    coordinators: Vec<(CoordinatorId, Ward)>,
    /// The last record that says a new epoch: no coordinator is answered before it is durable.
    seen_at: Sequence,
}

/// A transaction of one coordinator, at one shard.
type BranchKey = (OperationId, ShardId);

/// What a participant knows of one coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Ward {
    /// The highest epoch seen, [`Epoch::NONE`] if its messages came without one.
    epoch: Epoch,
    promises: BTreeMap<BranchKey, Promise>,
    /// How many of the promises wait for their outcome.
    prepared: usize,
}

/// What a message comes to, before anything of it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Its coordinator has been replaced by a later epoch of itself: nothing is done with it.
    Refused,
    /// These are logged, in this order; then it is answered.
    Heard {
        /// The [newer epoch](Participant::newer_epoch), unless `fact` carries it.
        seen: Option<Event>,
        /// What it is [worth](Participant::decide).
        fact: Option<Event>,
    },
}

impl Ward {
    fn promise(&self, tx: &TxKey, shard: &ShardId) -> Option<&Promise> {
        self.promises.get(&(tx.id, *shard))
    }

    fn saw(&mut self, epoch: Epoch) -> bool {
        let newer = epoch > self.epoch;
        if newer {
            self.epoch = epoch;
        }
        newer
    }
}

impl PromiseKey {
    fn branch(&self) -> BranchKey {
        (self.tx.id, self.shard)
    }
}

impl Participant {
    /// A participant that has promised nothing. Its log's events follow by [`apply`](Self::apply).
    #[must_use]
    pub fn new(node: NodeName, store: StoreId, boot: BootCount) -> Participant {
        let (coordinators, seen_at) = (Vec::new(), Sequence::NONE);
        Participant { node, store, boot, coordinators, seen_at }
    }

    /// The store and boot count that this start has, known once its log is open.
    pub fn opened(&mut self, store: StoreId, boot: BootCount) {
        self.store = store;
        self.boot = boot;
    }

    /// True if the message's coordinator has been replaced by a later epoch of itself.
    #[must_use]
    pub fn refuses(&self, coordinator: CoordinatorId, epoch: Epoch) -> bool {
        epoch < self.epoch_seen(coordinator)
    }

    /// The fact that this epoch is the highest seen, if it is: to be logged before the message that
    /// brought it is acted upon. PREPARE and COMMIT carry it in their own records, so ask only when
    /// [`decide`](Self::decide) gives neither.
    #[must_use]
    pub fn newer_epoch(&self, coordinator: CoordinatorId, epoch: Epoch) -> Option<Event> {
        let newer = epoch > self.epoch_seen(coordinator);
        newer.then_some(Event::CoordinatorSeen { coordinator, epoch })
    }

    /// What this message is worth to the log: at most one fact.
    #[must_use]
    pub fn decide(&self, message: &Message, resources: &dyn Resources) -> Option<Event> {
        self.worth(self.ward(message.coordinator()), message, resources)
    }

    /// [`refuses`](Self::refuses), [`newer_epoch`](Self::newer_epoch) and [`decide`](Self::decide),
    /// with one look at what is known.
    #[must_use]
    pub fn rule(&self, message: &Message, resources: &dyn Resources) -> Ruling {
        let coordinator = *message.coordinator();
        let ward = self.ward(&coordinator);
        let highest = ward.map_or(Epoch::NONE, |ward| ward.epoch);
        let epoch = message.coordinator_epoch();
        if epoch.is_some_and(|epoch| epoch < highest) {
            return Ruling::Refused;
        }
        let fact = self.worth(ward, message, resources);
        let carried = fact.as_ref().is_some_and(|fact| !matches!(fact, Event::Aborted { .. }));
        let seen = epoch.filter(|epoch| *epoch > highest && !carried);
        let seen = seen.map(|epoch| Event::CoordinatorSeen { coordinator, epoch });
        Ruling::Heard { seen, fact }
    }

    fn worth(
        &self,
        ward: Option<&Ward>,
        message: &Message,
        resources: &dyn Resources,
    ) -> Option<Event> {
        let promise = |key: &TxKey, shard: &ShardId| ward.and_then(|ward| ward.promise(key, shard));
        let highest = ward.map_or(Epoch::NONE, |ward| ward.epoch);
        match message {
            Message::Prepare { key, epoch, shard, peers, work } => {
                if promise(key, shard).is_some() || !self.is_named(peers, *shard) {
                    return None;
                }
                let key = PromiseKey { tx: *key, shard: *shard };
                Some(if resources.can_prepare(&key, work) {
                    let (peers, work) = (peers.clone(), work.clone());
                    Event::Prepared { key, epoch: *epoch, peers, work }
                } else {
                    Event::Aborted { key, promised: false }
                })
            }
            Message::Commit { key, shard, epoch, .. } => match promise(key, shard) {
                // Nothing is known of it: that is worth an ACK only if this log is still ours, and
                // nobody else has promised meanwhile. A record that becomes durable proves it.
                None => {
                    let (coordinator, epoch) = (key.coordinator, highest.max(*epoch));
                    Some(Event::CoordinatorSeen { coordinator, epoch })
                }
                known => commit(known, key, shard, highest.max(*epoch)),
            },
            Message::Answer { key, shard, epoch, verdict: Verdict::Committed } => {
                commit(promise(key, shard), key, shard, highest.max(*epoch))
            }
            Message::Abort { key, shard, .. } => match promise(key, shard) {
                None | Some(Promise::Prepared { .. }) => {
                    let key = PromiseKey { tx: *key, shard: *shard };
                    Some(Event::Aborted { key, promised: false })
                }
                Some(Promise::Committed { .. } | Promise::Aborted { .. }) => None,
            },
            Message::Answer { key, shard, verdict: Verdict::Aborted, .. }
            | Message::PeerAnswer { key, shard, verdict: PeerVerdict::Aborted } => {
                let prepared = matches!(promise(key, shard), Some(Promise::Prepared { .. }));
                let key = PromiseKey { tx: *key, shard: *shard };
                prepared.then_some(Event::Aborted { key, promised: false })
            }
            Message::PeerAnswer { key, shard, verdict: PeerVerdict::Committed } => {
                commit(promise(key, shard), key, shard, highest)
            }
            // It never voted, and this is the boot that would know: it promises that it never will.
            Message::PeerInquiry { key, peer, .. } => {
                let knows = promise(key, &peer.shard).is_none() && self.is(peer);
                let key = PromiseKey { tx: *key, shard: peer.shard };
                knows.then_some(Event::Aborted { key, promised: true })
            }
            Message::Answer { .. } | Message::PeerAnswer { .. } => None,
            Message::Vote { .. } | Message::Ack { .. } | Message::Inquiry { .. } => None,
        }
    }

    /// Takes a logged fact: the only writer. Gives back the promise that an outcome ends.
    ///
    /// # Errors
    /// [`IllegalTransition`]: the log holds a promise twice, or an outcome against an earlier one.
    pub fn apply(
        &mut self,
        sequence: Sequence,
        event: &Event,
    ) -> Result<Option<Promise>, IllegalTransition> {
        let illegal = |state| Err(IllegalTransition::OutOfPlace { event: event.name(), state });
        let mut ended = None;
        match event {
            Event::Prepared { key, epoch, peers, work } => {
                let ward = self.ward_mut(key.tx.coordinator);
                match ward.promises.entry(key.branch()) {
                    Entry::Occupied(known) => return illegal(known.get().state()),
                    Entry::Vacant(place) => {
                        let (peers, work) = (peers.clone(), work.clone());
                        place.insert(Promise::Prepared { at: sequence, peers, work });
                    }
                }
                ward.prepared += 1;
                if ward.saw(*epoch) {
                    self.seen_at = sequence;
                }
            }
            Event::Committed { key, epoch } => {
                let ward = self.ward_mut(key.tx.coordinator);
                let Some(promise) = ward.promises.get_mut(&key.branch()) else {
                    return Err(IllegalTransition::Unknown { event: event.name() });
                };
                if !matches!(promise, Promise::Prepared { .. }) {
                    return illegal(promise.state());
                }
                ended = Some(std::mem::replace(promise, Promise::Committed { at: sequence }));
                ward.prepared -= 1;
                if ward.saw(*epoch) {
                    self.seen_at = sequence;
                }
            }
            Event::Aborted { key, .. } => {
                let ward = self.ward_mut(key.tx.coordinator);
                let aborted = Promise::Aborted { at: sequence };
                match ward.promises.entry(key.branch()) {
                    Entry::Vacant(place) => {
                        place.insert(aborted);
                    }
                    Entry::Occupied(promise) => {
                        let promise = promise.into_mut();
                        if !matches!(promise, Promise::Prepared { .. }) {
                            return illegal(promise.state());
                        }
                        ended = Some(std::mem::replace(promise, aborted));
                        ward.prepared -= 1;
                    }
                }
            }
            Event::CoordinatorSeen { coordinator, epoch } => {
                self.ward_mut(*coordinator).saw(*epoch);
                self.seen_at = sequence;
            }
        }
        Ok(ended)
    }

    /// What this message is answered, given all that has been applied. `from` is the node that sent
    /// it. A coordinator is answered only once its epoch is durable here.
    #[must_use]
    pub fn reply(&self, from: NodeName, message: &Message) -> Option<Reply> {
        let mut reply = self.answer(from, message)?;
        if message.coordinator_epoch().is_some() {
            reply.after = reply.after.max(self.seen_at);
        }
        Some(reply)
    }

    fn answer(&self, from: NodeName, message: &Message) -> Option<Reply> {
        let ward = self.ward(message.coordinator());
        let promise = |key: &TxKey, shard: &ShardId| ward.and_then(|ward| ward.promise(key, shard));
        match message {
            Message::Prepare { key, shard, .. } => {
                let (vote, after) = match promise(key, shard) {
                    Some(Promise::Prepared { at, .. } | Promise::Committed { at }) => {
                        (Vote::Commit, *at)
                    }
                    // Another boot that knows nothing, or another store: NO, and nothing recorded.
                    Some(Promise::Aborted { .. }) | None => (Vote::Abort, Sequence::NONE),
                };
                let (store, boot) = (self.store, self.boot);
                let message = Message::Vote { key: *key, shard: *shard, vote, store, boot };
                Some(Reply { to: from, message, after })
            }
            Message::Commit { key, shard, store, .. } => {
                let (heuristic, after) = match promise(key, shard) {
                    Some(Promise::Committed { at }) => (false, *at),
                    Some(Promise::Aborted { at }) => (true, *at),
                    Some(Promise::Prepared { .. }) => return None,
                    None => (store.is_some_and(|voted| voted != self.store), Sequence::NONE),
                };
                Some(self.ack(*key, *shard, heuristic, after))
            }
            Message::Answer { key, shard, verdict: Verdict::Committed, .. } => {
                let Some(Promise::Committed { at }) = promise(key, shard) else { return None };
                Some(self.ack(*key, *shard, false, *at))
            }
            Message::PeerInquiry { key, shard, peer } => {
                let (verdict, after) = match promise(key, &peer.shard) {
                    Some(Promise::Committed { at }) => (PeerVerdict::Committed, *at),
                    Some(Promise::Aborted { at }) => (PeerVerdict::Aborted, *at),
                    Some(Promise::Prepared { .. }) => (PeerVerdict::Prepared, Sequence::NONE),
                    None => (PeerVerdict::Unknown, Sequence::NONE),
                };
                let message = Message::PeerAnswer { key: *key, shard: *shard, verdict };
                Some(Reply { to: from, message, after })
            }
            _ => None,
        }
    }

    /// Adds what a promise without an outcome owes: an inquiry to its coordinator, and, if
    /// `ask_peers`, one to every peer. Asking twice is harmless.
    pub fn pending(&self, key: &PromiseKey, ask_peers: bool, owed: &mut Vec<Reply>) {
        let Some(Promise::Prepared { at, peers, .. }) = self.promise(key) else { return };
        let (tx, shard, store, after) = (key.tx, key.shard, self.store, *at);
        let message = Message::Inquiry { key: tx, shard, store };
        owed.push(Reply { to: tx.coordinator_node(), message, after });
        if ask_peers {
            owed.extend(peers.iter().filter(|peer| peer.shard != shard).map(|&peer| Reply {
                to: peer.node,
                message: Message::PeerInquiry { key: tx, shard, peer: Box::new(peer) },
                after,
            }));
        }
    }

    /// The promises that wait for their outcome, oldest id first, each with its record.
    pub fn prepared(&self) -> impl Iterator<Item = (PromiseKey, Sequence)> {
        self.coordinators.iter().flat_map(|(coordinator, ward)| {
            let promises = ward.promises.iter().filter(|_| ward.prepared > 0);
            promises.filter_map(|(branch, promise)| match promise {
                Promise::Prepared { at, .. } => Some((key_of(*coordinator, *branch), *at)),
                Promise::Committed { .. } | Promise::Aborted { .. } => None,
            })
        })
    }

    /// What is known of one transaction.
    #[must_use]
    pub fn promise(&self, key: &PromiseKey) -> Option<&Promise> {
        self.ward(&key.tx.coordinator)?.promise(&key.tx, &key.shard)
    }

    /// Everything that is known, by key.
    pub fn promises(&self) -> impl Iterator<Item = (PromiseKey, &Promise)> {
        self.coordinators.iter().flat_map(|(coordinator, ward)| {
            let promises = ward.promises.iter();
            promises.map(|(branch, promise)| (key_of(*coordinator, *branch), promise))
        })
    }

    /// The highest epoch seen of a coordinator.
    #[must_use]
    pub fn epoch_seen(&self, coordinator: CoordinatorId) -> Epoch {
        self.ward(&coordinator).map_or(Epoch::NONE, |ward| ward.epoch)
    }

    /// The last record that says a new epoch of some coordinator: nothing is answered to one, no
    /// call of a step either, before it is durable.
    #[must_use]
    pub fn seen_at(&self) -> Sequence {
        self.seen_at
    }

    /// The coordinators that were heard of.
    pub fn coordinators(&self) -> impl Iterator<Item = CoordinatorId> + '_ {
        let heard_of = self.coordinators.iter().filter(|(_, ward)| ward.epoch > Epoch::NONE);
        heard_of.map(|(coordinator, _)| *coordinator)
    }

    /// This participant's store.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// This start's boot count.
    #[must_use]
    pub fn boot(&self) -> BootCount {
        self.boot
    }

    fn ack(&self, key: TxKey, shard: ShardId, heuristic: bool, after: Sequence) -> Reply {
        let message = Message::Ack { key, shard, store: self.store, heuristic };
        Reply { to: key.coordinator_node(), message, after }
    }

    fn is(&self, peer: &Peer) -> bool {
        peer.node == self.node && peer.store == self.store && peer.boot == self.boot
    }

    fn is_named(&self, peers: &[Peer], shard: ShardId) -> bool {
        peers.iter().any(|peer| peer.shard == shard && self.is(peer))
    }

    fn ward(&self, coordinator: &CoordinatorId) -> Option<&Ward> {
        let at = self.coordinators.binary_search_by(|(name, _)| name.cmp(coordinator)).ok()?;
        Some(&self.coordinators[at].1)
    }

    fn ward_mut(&mut self, coordinator: CoordinatorId) -> &mut Ward {
        let found = self.coordinators.binary_search_by(|(name, _)| name.cmp(&coordinator));
        let at = found.unwrap_or_else(|at| {
            self.coordinators.insert(at, (coordinator, Ward::default()));
            at
        });
        &mut self.coordinators[at].1
    }
}

/// The outcome of a promise that waits for it.
fn commit(known: Option<&Promise>, tx: &TxKey, shard: &ShardId, epoch: Epoch) -> Option<Event> {
    let key = PromiseKey { tx: *tx, shard: *shard };
    matches!(known, Some(Promise::Prepared { .. })).then_some(Event::Committed { key, epoch })
}

fn key_of(coordinator: CoordinatorId, (id, shard): BranchKey) -> PromiseKey {
    PromiseKey { tx: TxKey { coordinator, id }, shard }
}
