//! The participant's side: durable promises, and what follows from them.
//!
//! A participant forces `tx_prepared` before its YES leaves, `tx_participant_committed` before its ACK,
//! and a NO that it promises to a peer. After its YES it never decides alone: it asks the coordinator,
//! then its peers, and stays blocked while all of them know no more.

pub use crate::promises::{Found, Waiting};

use crate::heuristic::Forced;
use crate::promises::{Known, Promises, Standing};
use crate::{Audit, ForceRefusal, Heuristic, IllegalTransition, Message, Peer, PeerVerdict};
use crate::{TxKey, Verdict, Vote, Watermark};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
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
    /// `tx_participant_committed` of a transaction of which this is the only participant: decided here, and
    /// done.
    OnePhase {
        /// For whom.
        key: PromiseKey,
        /// The highest epoch of the coordinator that was seen.
        epoch: Epoch,
        /// What is done.
        work: Arc<[u8]>,
    },
    /// `tx_participant_aborted`: also the tombstone that refuses a PREPARE which arrives later.
    Aborted {
        /// For whom.
        key: PromiseKey,
        /// A NO was promised to a peer, or decided in one phase.
        promised: bool,
    },
    /// `tx_participant_read_only`: it had nothing to change, and said so. Never forced: what it promises, that
    /// this store does not promise a NO for the same transaction, is also kept by a new boot count.
    ReadOnly {
        /// For whom.
        key: PromiseKey,
    },
    /// `tx_participant_committed` or `tx_participant_aborted` of an operator, who ends a promise of which
    /// nobody tells the outcome.
    Forced {
        /// For whom.
        key: PromiseKey,
        /// To commit; else to abort.
        commit: bool,
        /// Who, when and why.
        audit: Arc<Audit>,
    },
    /// `tx_participant_heuristic`: what has become of an outcome that was forced.
    Heuristic {
        /// Whose.
        key: PromiseKey,
        /// What.
        found: Finding,
    },
    /// `coordinator_seen`: lower epochs of this coordinator are refused from now on.
    CoordinatorSeen {
        /// Whose epoch.
        coordinator: CoordinatorId,
        /// The highest one seen.
        epoch: Epoch,
    },
    /// `coordinator_seen`, with what the coordinator has said to be finished.
    Finished {
        /// Which coordinator.
        coordinator: CoordinatorId,
        /// The epoch under which it said so.
        epoch: Epoch,
        /// What is finished.
        watermark: Watermark,
    },
}

/// What becomes of an outcome that was forced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// The transaction's decision is known.
    Decided {
        /// It is to commit; else to abort.
        commit: bool,
    },
    /// The coordinator has it on its list.
    Noted,
    /// An operator of this participant has seen to it.
    Forgotten {
        /// Who, when and why.
        audit: Arc<Audit>,
    },
}

impl Event {
    /// The record's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepared { .. } => "tx_prepared",
            Self::Committed { .. } | Self::OnePhase { .. } | Self::Forced { commit: true, .. } => {
                "tx_participant_committed"
            }
            Self::Aborted { .. } | Self::Forced { .. } => "tx_participant_aborted",
            Self::Heuristic { .. } => "tx_participant_heuristic",
            Self::ReadOnly { .. } => "tx_participant_read_only",
            Self::CoordinatorSeen { .. } | Self::Finished { .. } => "coordinator_seen",
        }
    }
}

/// A transaction as this participant knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise<'a> {
    /// It voted yes and waits for the outcome.
    Prepared {
        /// The promise's record.
        at: Sequence,
        /// Every participant.
        peers: &'a Arc<[Peer]>,
        /// What to do on commit.
        work: &'a Arc<[u8]>,
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
    /// It voted read-only, and has forgotten the rest.
    ReadOnly {
        /// The record.
        at: Sequence,
    },
}

/// How a branch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// It has committed.
    Committed,
    /// It has aborted, or never will vote yes.
    Aborted,
    /// It voted read-only: the transaction's end is nothing to it.
    ReadOnly,
}

/// A promise, and what belongs to it until its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prepared {
    /// The promise's record.
    pub at: Sequence,
    /// Every participant.
    pub peers: Arc<[Peer]>,
    /// What to do on commit.
    pub work: Arc<[u8]>,
}

/// What a fact changed, for whoever keeps more about a promise than the participant does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that concerns a promise.
    None,
    /// A promise was made.
    Promised(Waiting),
    /// Its outcome ended this one.
    Ended(Prepared),
    /// This was decided in one phase, and is done.
    Done(Arc<[u8]>),
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

    /// Of work that can be done now: is there nothing to change, and nothing to be held until the
    /// outcome? Then the vote is read-only. What was read may be changed by others as soon as the vote is
    /// cast, before the transaction commits elsewhere; say so only where that does no harm.
    fn is_read_only(&self, _key: &PromiseKey, _work: &[u8]) -> bool {
        false
    }
}

/// One participant: its promises and the coordinators' epochs that it has seen.
///
/// Inputs: [`refuses`](Self::refuses), [`newer_epoch`](Self::newer_epoch), [`decide`](Self::decide),
/// and all three at once, [`rule`](Self::rule). Events: [`apply`](Self::apply). Effects:
/// [`reply`](Self::reply), [`pending`](Self::pending). A message goes through them in this order:
/// refused? new epoch? a fact worth logging? apply it; reply. `rule` says what it found, so that
/// [`apply_at`](Self::apply_at) and [`reply_at`](Self::reply_at) need not look again.
#[derive(Clone, Debug)]
pub struct Participant {
    node: NodeName,
    store: StoreId,
    boot: BootCount,
    promises: Promises,
    /// The branches whose outcome an operator has forced, until it is known to be the transaction's, or is
    /// forgotten and finished.
    forced: BTreeMap<PromiseKey, Forced>,
    /// The last record that says a new epoch: no coordinator is answered before it is durable.
    seen_at: Sequence,
}

/// Equal if they know the same, wherever they keep it.
impl PartialEq for Participant {
    fn eq(&self, other: &Participant) -> bool {
        (self.node, self.store, self.boot, self.seen_at)
            == (other.node, other.store, other.boot, other.seen_at)
            && self.promises.epochs().eq(other.promises.epochs())
            && self.promises().eq(other.promises())
            && self.forced == other.forced
    }
}

impl Eq for Participant {}

impl Hash for Participant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.node, self.store, self.boot, self.seen_at).hash(state);
        self.promises.epochs().for_each(|epoch| epoch.hash(state));
        self.promises().for_each(|promise| promise.hash(state));
        self.forced.hash(state);
    }
}

/// What a message comes to, before anything of it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Its coordinator has been replaced by a later epoch of itself: nothing is done with it.
    Refused,
    /// These are logged, in this order; then it is answered.
    Heard {
        /// The [newer epoch](Participant::newer_epoch), unless `fact` carries it: an
        /// [`Event::CoordinatorSeen`] of the message's coordinator.
        seen: Option<Epoch>,
        /// What it is [worth](Participant::decide).
        fact: Option<Event>,
        /// What it concerns.
        found: Found,
    },
}

impl Participant {
    /// A participant that has promised nothing. Its log's events follow by [`apply`](Self::apply).
    #[must_use]
    pub fn new(node: NodeName, store: StoreId, boot: BootCount) -> Participant {
        let (promises, seen_at) = (Promises::default(), Sequence::NONE);
        Participant { node, store, boot, promises, forced: BTreeMap::new(), seen_at }
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
        let (key, shard) = branch(message);
        let found = self.promises.find(key, shard);
        let highest = self.promises.epoch_at(&found);
        self.worth(highest, &found, message, resources)
    }

    /// [`refuses`](Self::refuses), [`newer_epoch`](Self::newer_epoch) and [`decide`](Self::decide),
    /// with one look at what is known.
    #[must_use]
    pub fn rule(&self, message: &Message, resources: &dyn Resources) -> Ruling {
        let (key, shard) = branch(message);
        let found = self.promises.find(key, shard);
        let highest = self.promises.epoch_at(&found);
        let epoch = message.coordinator_epoch();
        if epoch.is_some_and(|epoch| epoch < highest) {
            return Ruling::Refused;
        }
        let fact = self.worth(highest, &found, message, resources);
        let bare = |fact: &Event| {
            matches!(fact, Event::Aborted { .. } | Event::ReadOnly { .. } | Event::Heuristic { .. })
        };
        let carried = fact.as_ref().is_some_and(|fact| !bare(fact));
        let seen = epoch.filter(|epoch| *epoch > highest && !carried);
        Ruling::Heard { seen, fact, found }
    }

    fn worth(
        &self,
        highest: Epoch,
        found: &Found,
        message: &Message,
        resources: &dyn Resources,
    ) -> Option<Event> {
        if self.is_over(found, message.key().id) {
            return None;
        }
        if !self.forced.is_empty()
            && let Some(fact) = self.worth_of_forced(message)
        {
            return Some(fact);
        }
        let known = found.known.map(Known::standing);
        let key_of = |tx: &TxKey, shard: &ShardId| PromiseKey { tx: *tx, shard: *shard };
        let commit = |tx: &TxKey, shard: &ShardId, epoch: Epoch| {
            let (prepared, key) = (known == Some(Standing::Prepared), key_of(tx, shard));
            prepared.then_some(Event::Committed { key, epoch })
        };
        match message {
            // In one phase a NO is the end of it. So it is recorded, whoever was asked: of two processes
            // that serve this store one may have committed.
            Message::Prepare { key, epoch, shard, peers, work, one_phase: true } => {
                let (named, key) = (self.is_named(peers, *shard), key_of(key, shard));
                if known.is_some() {
                    None
                } else if !named || !resources.can_prepare(&key, work) {
                    Some(Event::Aborted { key, promised: true })
                } else if resources.is_read_only(&key, work) {
                    Some(Event::ReadOnly { key })
                } else {
                    let epoch = highest.max(*epoch);
                    Some(Event::OnePhase { key, epoch, work: work.clone() })
                }
            }
            Message::Resolve { key, shard, .. } => {
                let key = key_of(key, shard);
                known.is_none().then_some(Event::Aborted { key, promised: true })
            }
            Message::Prepare { key, epoch, shard, peers, work, one_phase: false } => {
                if known.is_some() || !self.is_named(peers, *shard) {
                    return None;
                }
                let key = key_of(key, shard);
                Some(if !resources.can_prepare(&key, work) {
                    Event::Aborted { key, promised: false }
                } else if resources.is_read_only(&key, work) {
                    Event::ReadOnly { key }
                } else {
                    let (peers, work) = (peers.clone(), work.clone());
                    Event::Prepared { key, epoch: *epoch, peers, work }
                })
            }
            // Nothing is known of it: that is worth an ACK only if this log is still ours, and
            // nobody else has promised meanwhile. A record that becomes durable proves it.
            Message::Commit { key, epoch, .. } if known.is_none() => {
                let (coordinator, epoch) = (key.coordinator, highest.max(*epoch));
                Some(Event::CoordinatorSeen { coordinator, epoch })
            }
            Message::Commit { key, shard, epoch, .. }
            | Message::Answer { key, shard, epoch, verdict: Verdict::Committed } => {
                commit(key, shard, highest.max(*epoch))
            }
            Message::Abort { key, shard, .. } => match known {
                None | Some(Standing::Prepared) => {
                    Some(Event::Aborted { key: key_of(key, shard), promised: false })
                }
                Some(Standing::Committed | Standing::Aborted | Standing::ReadOnly) => None,
            },
            Message::Answer { key, shard, verdict: Verdict::Aborted, .. }
            | Message::PeerAnswer { key, shard, verdict: PeerVerdict::Aborted } => {
                let (prepared, key) = (known == Some(Standing::Prepared), key_of(key, shard));
                prepared.then_some(Event::Aborted { key, promised: false })
            }
            Message::PeerAnswer { key, shard, verdict: PeerVerdict::Committed } => {
                commit(key, shard, highest)
            }
            // It never voted, and this is the boot that would know: it promises that it never will.
            Message::PeerInquiry { key, peer, .. } => {
                let knows = known.is_none() && self.is(peer);
                let key = key_of(key, &peer.shard);
                knows.then_some(Event::Aborted { key, promised: true })
            }
            Message::Answer { .. } | Message::PeerAnswer { .. } | Message::Noted { .. } => None,
            Message::Vote { .. } | Message::Ack { .. } | Message::Inquiry { .. } => None,
        }
    }

    /// What a message says of a branch whose outcome was forced.
    fn worth_of_forced(&self, message: &Message) -> Option<Event> {
        let (tx, shard) = branch(message);
        let key = PromiseKey { tx: *tx, shard: *shard };
        let forced = self.forced.get(&key)?;
        let decided = |commit| {
            let found = Finding::Decided { commit };
            forced.decided.is_none().then_some(Event::Heuristic { key, found })
        };
        match message {
            Message::Commit { .. }
            | Message::Answer { verdict: Verdict::Committed, .. }
            | Message::PeerAnswer { verdict: PeerVerdict::Committed, .. } => decided(true),
            Message::Abort { .. }
            | Message::Answer { verdict: Verdict::Aborted, .. }
            | Message::PeerAnswer { verdict: PeerVerdict::Aborted, .. } => decided(false),
            Message::Noted { .. } => {
                let news = forced.decided.is_some() && forced.noted.is_none();
                news.then_some(Event::Heuristic { key, found: Finding::Noted })
            }
            _ => None,
        }
    }

    /// An operator ends a promise whose outcome nobody tells: its coordinator is gone, or in doubt itself.
    /// `None`: the same was forced before. What is forced may contradict the transaction's decision; so its
    /// coordinator is still asked, and told if it does.
    ///
    /// # Errors
    /// [`ForceRefusal`]: nothing may be logged.
    pub fn force(
        &self,
        key: &PromiseKey,
        commit: bool,
        audit: &Arc<Audit>,
    ) -> Result<Option<Event>, ForceRefusal> {
        audit.check()?;
        match self.forced.get(key) {
            Some(forced) if forced.commit == commit => return Ok(None),
            Some(forced) => return Err(ForceRefusal::ForcedOtherwise { commit: forced.commit }),
            None => {}
        }
        match self.promise(key) {
            Some(Promise::Prepared { .. }) => {
                let (key, audit) = (*key, audit.clone());
                Ok(Some(Event::Forced { key, commit, audit }))
            }
            Some(Promise::Committed { .. }) => Err(ForceRefusal::Decided { commit: true }),
            Some(Promise::Aborted { .. }) => Err(ForceRefusal::Decided { commit: false }),
            Some(Promise::ReadOnly { .. }) | None => Err(ForceRefusal::NotInDoubt),
        }
    }

    /// An operator has seen to an outcome that was forced: it is listed no more. If its transaction's decision
    /// is not known yet, nobody is asked for it any more either.
    ///
    /// # Errors
    /// [`ForceRefusal::NotListed`], [`ForceRefusal::TextTooLong`]
    pub fn forget(&self, key: &PromiseKey, audit: &Arc<Audit>) -> Result<Event, ForceRefusal> {
        audit.check()?;
        let listed = self.forced.get(key).is_some_and(|forced| forced.forgotten.is_none());
        if !listed {
            return Err(ForceRefusal::NotListed);
        }
        let found = Finding::Forgotten { audit: audit.clone() };
        Ok(Event::Heuristic { key: *key, found })
    }

    /// Takes a logged fact: the only writer.
    ///
    /// # Errors
    /// [`IllegalTransition`]: the log holds a promise twice, or an outcome against an earlier one.
    pub fn apply(
        &mut self,
        sequence: Sequence,
        event: &Event,
    ) -> Result<Change, IllegalTransition> {
        let mut found = match event {
            Event::Prepared { key, .. }
            | Event::Committed { key, .. }
            | Event::OnePhase { key, .. }
            | Event::Aborted { key, .. }
            | Event::Forced { key, .. }
            | Event::Heuristic { key, .. }
            | Event::ReadOnly { key } => self.promises.find(&key.tx, &key.shard),
            Event::CoordinatorSeen { .. } | Event::Finished { .. } => Found::NOTHING,
        };
        self.apply_at(&mut found, sequence, event.clone())
    }

    /// As [`apply`](Self::apply), of a fact that [`rule`](Self::rule) gave together with `found`.
    ///
    /// # Errors
    /// As `apply`.
    pub fn apply_at(
        &mut self,
        found: &mut Found,
        sequence: Sequence,
        event: Event,
    ) -> Result<Change, IllegalTransition> {
        let name = event.name();
        let standing = found.known.map(Known::standing);
        let illegal = |standing: Standing| {
            let state = match standing {
                Standing::Prepared => "prepared",
                Standing::Committed => "committed",
                Standing::Aborted => "aborted",
                Standing::ReadOnly => "read_only",
            };
            Err(IllegalTransition::OutOfPlace { event: name, state })
        };
        match event {
            Event::Prepared { key, epoch, peers, work } => {
                if let Some(standing) = standing {
                    return illegal(standing);
                }
                let prepared = Prepared { at: sequence, peers, work };
                let waiting = self.promises.prepare(found, &key, prepared);
                if self.promises.saw_at(found, epoch) {
                    self.seen_at = sequence;
                }
                Ok(Change::Promised(waiting))
            }
            Event::Committed { key, epoch } => {
                match standing {
                    None => return Err(IllegalTransition::Unknown { event: name }),
                    Some(Standing::Prepared) => {}
                    Some(standing) => return illegal(standing),
                }
                let ended = self.promises.end(found, &key, sequence, Ending::Committed);
                if self.promises.saw_at(found, epoch) {
                    self.seen_at = sequence;
                }
                Ok(ended.map_or(Change::None, Change::Ended))
            }
            Event::OnePhase { key, epoch, work } => {
                if let Some(standing) = standing {
                    return illegal(standing);
                }
                self.promises.end(found, &key, sequence, Ending::Committed);
                if self.promises.saw_at(found, epoch) {
                    self.seen_at = sequence;
                }
                Ok(Change::Done(work))
            }
            Event::Aborted { key, .. } => {
                match standing {
                    None | Some(Standing::Prepared) => {}
                    Some(standing) => return illegal(standing),
                }
                let ended = self.promises.end(found, &key, sequence, Ending::Aborted);
                Ok(ended.map_or(Change::None, Change::Ended))
            }
            Event::ReadOnly { key } => {
                if let Some(standing) = standing {
                    return illegal(standing);
                }
                self.promises.end(found, &key, sequence, Ending::ReadOnly);
                Ok(Change::None)
            }
            Event::Forced { key, commit, audit } => {
                match standing {
                    None => return Err(IllegalTransition::Unknown { event: name }),
                    Some(Standing::Prepared) => {}
                    Some(standing) => return illegal(standing),
                }
                let how = if commit { Ending::Committed } else { Ending::Aborted };
                let ended = self.promises.end(found, &key, sequence, how);
                self.remember_forced(sequence, key, commit, audit);
                Ok(ended.map_or(Change::None, Change::Ended))
            }
            Event::Heuristic { key, found } => {
                let unknown = IllegalTransition::Unknown { event: name };
                let forced = self.forced.get_mut(&key).ok_or(unknown)?;
                match found {
                    Finding::Decided { commit } if commit == forced.commit => {
                        self.forced.remove(&key);
                    }
                    Finding::Decided { commit } => {
                        forced.decided.get_or_insert((commit, sequence));
                    }
                    Finding::Noted => {
                        forced.noted.get_or_insert(sequence);
                    }
                    Finding::Forgotten { audit } => {
                        forced.forgotten.get_or_insert((sequence, audit));
                    }
                }
                Ok(Change::None)
            }
            Event::CoordinatorSeen { coordinator, epoch } => {
                self.promises.saw(&coordinator, epoch);
                self.seen_at = sequence;
                Ok(Change::None)
            }
            Event::Finished { coordinator, epoch, watermark } => {
                if self.promises.saw(&coordinator, epoch) {
                    self.seen_at = sequence;
                }
                self.finish(&coordinator, watermark);
                Ok(Change::None)
            }
        }
    }

    fn remember_forced(&mut self, at: Sequence, key: PromiseKey, commit: bool, audit: Arc<Audit>) {
        let (decided, noted, forgotten) = (None, None, None);
        self.forced.insert(key, Forced { commit, at, audit, decided, noted, forgotten });
    }

    /// What was forced is forgotten with the rest only once its operator has seen to it.
    fn finish(&mut self, coordinator: &CoordinatorId, mark: Watermark) {
        let forced = &mut self.forced;
        forced.retain(|key, forced| {
            let (of, seen) = (key.tx.coordinator == *coordinator, forced.forgotten.is_some());
            !(of && seen && forced.is_settled() && mark.covers(key.tx.id))
        });
        self.promises.finish(coordinator, mark, |key| forced.contains_key(key));
    }

    /// Takes from a snapshot what is known of an outcome that was forced, event by event, beginning with the
    /// [`Event::Forced`]. The outcome itself is [restored](Self::restore_outcome) like any other.
    ///
    /// # Errors
    /// [`IllegalTransition`]: it begins with something else.
    pub fn restore_forced(
        &mut self,
        sequence: Sequence,
        event: &Event,
    ) -> Result<(), IllegalTransition> {
        match event {
            Event::Forced { key, commit, audit } => {
                self.remember_forced(sequence, *key, *commit, audit.clone());
                Ok(())
            }
            event => self.apply(sequence, event).map(|_| ()),
        }
    }

    /// What this message is answered, given all that has been applied. `from` is the node that sent
    /// it. A coordinator is answered only once its epoch is durable here.
    #[must_use]
    pub fn reply(&self, from: NodeName, message: &Message) -> Option<Reply> {
        let (key, shard) = branch(message);
        self.reply_at(&self.promises.find(key, shard), from, message)
    }

    /// As [`reply`](Self::reply), to a message on which [`rule`](Self::rule) gave `found`.
    #[must_use]
    pub fn reply_at(&self, found: &Found, from: NodeName, message: &Message) -> Option<Reply> {
        if self.is_over(found, message.key().id) {
            return self.finished(from, message);
        }
        let mut reply = match self.forced_answer(from, message) {
            Some(reply) => reply,
            None => self.answer(found.known, from, message)?,
        };
        if message.coordinator_epoch().is_some() {
            reply.after = reply.after.max(self.seen_at);
        }
        Some(reply)
    }

    /// Nothing is known of a branch, since its coordinator has said that it is finished.
    fn is_over(&self, found: &Found, id: OperationId) -> bool {
        found.known.is_none() && self.promises.is_finished(found, id)
    }

    /// What is answered about a branch that is finished: only a peer can still be waiting. Whatever a
    /// coordinator had sent before has been answered, or is not waited for any more.
    fn finished(&self, from: NodeName, message: &Message) -> Option<Reply> {
        let Message::PeerInquiry { key, shard, .. } = message else { return None };
        let verdict = PeerVerdict::Finished;
        let message = Message::PeerAnswer { key: *key, shard: *shard, verdict };
        Some(Reply { to: from, message, after: self.seen_at })
    }

    /// Whether a coordinator has said that one of its operations is finished.
    #[must_use]
    pub fn is_finished(&self, coordinator: CoordinatorId, id: OperationId) -> bool {
        self.watermark(coordinator).is_some_and(|watermark| watermark.covers(id))
    }

    /// What a coordinator has said to be finished.
    #[must_use]
    pub fn watermark(&self, coordinator: CoordinatorId) -> Option<&Watermark> {
        self.promises.watermark(&coordinator)
    }

    /// Takes the outcome of a branch from a snapshot, which does not hold its promise.
    pub fn restore_outcome(&mut self, key: &PromiseKey, at: Sequence, how: Ending) {
        let mut found = self.promises.find(&key.tx, &key.shard);
        self.promises.end(&mut found, key, at, how);
    }

    /// Takes from a snapshot, whose record is `at`, what is known of a coordinator.
    pub fn restore_coordinator(
        &mut self,
        coordinator: CoordinatorId,
        epoch: Epoch,
        watermark: Option<Watermark>,
        at: Sequence,
    ) {
        if self.promises.saw(&coordinator, epoch) {
            self.seen_at = self.seen_at.max(at);
        }
        if let Some(watermark) = watermark {
            self.finish(&coordinator, watermark);
        }
    }

    /// The epochs of the coordinators that were heard of, by name.
    pub fn epochs(&self) -> impl Iterator<Item = (CoordinatorId, Epoch)> + '_ {
        self.promises.epochs()
    }

    fn answer(&self, known: Option<Known>, from: NodeName, message: &Message) -> Option<Reply> {
        let known = known.map(|known| (known.standing(), known.at));
        match message {
            Message::Prepare { key, shard, .. } | Message::Resolve { key, shard, .. } => {
                let alone = !matches!(message, Message::Prepare { one_phase: false, .. });
                let (vote, after) = match known {
                    // It was promised in two phases: whoever asks what was decided in one is wrong.
                    Some((Standing::Prepared, _)) if alone => return None,
                    Some((Standing::Prepared | Standing::Committed, at)) => (Vote::Commit, at),
                    Some((Standing::Aborted, at)) if alone => (Vote::Abort, at),
                    None if alone => return None,
                    Some((Standing::ReadOnly, _)) => (Vote::ReadOnly, Sequence::NONE),
                    // Another boot that knows nothing, or another store: NO, and nothing recorded.
                    Some((Standing::Aborted, _)) | None => (Vote::Abort, Sequence::NONE),
                };
                let (store, boot) = (self.store, self.boot);
                let message = Message::Vote { key: *key, shard: *shard, vote, store, boot };
                Some(Reply { to: from, message, after })
            }
            Message::Commit { key, shard, store, .. } => {
                let (heuristic, after) = match known {
                    Some((Standing::Committed, at)) => (None, at),
                    Some((Standing::Aborted, at)) => (Some(Heuristic::Aborted), at),
                    Some((Standing::Prepared, _)) => return None,
                    // A coordinator that has lost its vote asks too much of it: there is nothing to do.
                    Some((Standing::ReadOnly, _)) => (None, Sequence::NONE),
                    // Only the store that voted can have done it, and forgotten.
                    None if *store == Some(self.store) => (None, Sequence::NONE),
                    None => (Some(Heuristic::Lost), Sequence::NONE),
                };
                Some(self.ack(*key, *shard, heuristic, after))
            }
            Message::Answer { key, shard, verdict: Verdict::Committed, .. } => {
                let Some((Standing::Committed, at)) = known else { return None };
                Some(self.ack(*key, *shard, None, at))
            }
            // No decision allows that: an operator has forced one of the two.
            Message::Abort { key, shard, .. } => {
                let Some((Standing::Committed, at)) = known else { return None };
                Some(self.ack(*key, *shard, Some(Heuristic::Committed), at))
            }
            Message::PeerInquiry { key, shard, .. } => {
                let (verdict, after) = match known {
                    Some((Standing::Committed, at)) => (PeerVerdict::Committed, at),
                    Some((Standing::Aborted, at)) => (PeerVerdict::Aborted, at),
                    Some((Standing::Prepared, _)) => (PeerVerdict::Prepared, Sequence::NONE),
                    Some((Standing::ReadOnly, _)) | None => (PeerVerdict::Unknown, Sequence::NONE),
                };
                let message = Message::PeerAnswer { key: *key, shard: *shard, verdict };
                Some(Reply { to: from, message, after })
            }
            _ => None,
        }
    }

    /// What is answered about a branch whose outcome was forced. A peer hears the transaction's decision, or
    /// that it is not known: what an operator decides here is decided nowhere else.
    fn forced_answer(&self, from: NodeName, message: &Message) -> Option<Reply> {
        if self.forced.is_empty() {
            return None;
        }
        let (tx, shard) = branch(message);
        let key = PromiseKey { tx: *tx, shard: *shard };
        let forced = self.forced.get(&key)?;
        match message {
            Message::PeerInquiry { shard, .. } => {
                let (verdict, after) = match forced.decided {
                    Some((true, at)) => (PeerVerdict::Committed, at),
                    Some((false, at)) => (PeerVerdict::Aborted, at),
                    None => (PeerVerdict::Prepared, Sequence::NONE),
                };
                let message = Message::PeerAnswer { key: *tx, shard: *shard, verdict };
                Some(Reply { to: from, message, after })
            }
            Message::Commit { .. } | Message::Abort { .. } | Message::Answer { .. } => {
                self.report(&key, forced)
            }
            _ => None,
        }
    }

    /// How a branch has ended otherwise than its transaction, for the coordinator.
    fn report(&self, key: &PromiseKey, forced: &Forced) -> Option<Reply> {
        let (heuristic, (_, decided_at)) = (forced.heuristic(), forced.decided?);
        Some(self.ack(key.tx, key.shard, heuristic, decided_at))
    }

    /// Adds what a promise without an outcome owes: an inquiry to its coordinator, and, if
    /// `ask_peers`, one to every peer. One whose outcome was forced owes its coordinator an inquiry, or, if
    /// it has ended otherwise, the report of that. Asking twice is harmless.
    pub fn pending(&self, key: &PromiseKey, ask_peers: bool, owed: &mut Vec<Reply>) {
        match self.promise(key) {
            Some(Promise::Prepared { at, peers, .. }) => {
                self.inquire(key, at, peers, ask_peers, owed);
            }
            _ => {
                let forced = self.forced.get(key).filter(|forced| !forced.is_settled());
                let Some(forced) = forced else { return };
                match forced.decided {
                    None => self.inquire(key, forced.at, &[], false, owed),
                    Some(_) => owed.extend(self.report(key, forced)),
                }
            }
        }
    }

    /// The branches whose outcome was forced and of which somebody is still to be asked or told: see
    /// [`pending`](Self::pending).
    pub fn unsettled(&self) -> impl Iterator<Item = PromiseKey> {
        self.forced.iter().filter(|(_, forced)| !forced.is_settled()).map(|(key, _)| *key)
    }

    /// What is known of a branch whose outcome an operator has forced.
    #[must_use]
    pub fn forced_of(&self, key: &PromiseKey) -> Option<&Forced> {
        self.forced.get(key)
    }

    /// Where a branch is kept, for [`apply_at`](Self::apply_at).
    #[must_use]
    pub fn find(&self, key: &PromiseKey) -> Found {
        self.promises.find(&key.tx, &key.shard)
    }

    /// The branches whose outcome an operator has forced, by name, those that another one has seen to too.
    /// Where the transaction's decision has turned out to be the same there is none any more.
    pub fn forced(&self) -> impl Iterator<Item = (PromiseKey, &Forced)> {
        self.forced.iter().map(|(key, forced)| (*key, forced))
    }

    /// As [`pending`](Self::pending), of a promise by its short name.
    pub fn pending_of(&self, promise: Waiting, ask_peers: bool, owed: &mut Vec<Reply>) {
        let Some((key, prepared)) = self.promises.waiting(promise) else { return };
        self.inquire(&key, promise.at, &prepared.peers, ask_peers, owed);
    }

    fn inquire(
        &self,
        key: &PromiseKey,
        after: Sequence,
        peers: &[Peer],
        ask_peers: bool,
        owed: &mut Vec<Reply>,
    ) {
        let (tx, shard, store) = (key.tx, key.shard, self.store);
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
        self.promises.all_waiting().map(|(key, waiting)| (key, waiting.at))
    }

    /// The same by their short names, each with what to do on commit.
    pub fn waiting(&self) -> impl Iterator<Item = (Waiting, &Arc<[u8]>)> {
        let names = self.promises.all_waiting().map(|(_, waiting)| waiting);
        names.filter_map(|name| Some((name, &self.promises.waiting(name)?.1.work)))
    }

    /// True while the promise of that name has no outcome.
    #[must_use]
    pub fn is_waiting(&self, promise: Waiting) -> bool {
        self.promises.is_waiting(promise)
    }

    /// What is known of one transaction.
    #[must_use]
    pub fn promise(&self, key: &PromiseKey) -> Option<Promise<'_>> {
        self.promises.promise(key)
    }

    /// Everything that is known, by key.
    pub fn promises(&self) -> impl Iterator<Item = (PromiseKey, Promise<'_>)> {
        self.promises.iter()
    }

    /// The highest epoch seen of a coordinator.
    #[must_use]
    pub fn epoch_seen(&self, coordinator: CoordinatorId) -> Epoch {
        self.promises.epoch(&coordinator)
    }

    /// The last record that says a new epoch of some coordinator: nothing is answered to one, no
    /// call of a step either, before it is durable.
    #[must_use]
    pub fn seen_at(&self) -> Sequence {
        self.seen_at
    }

    /// The coordinators that were heard of.
    pub fn coordinators(&self) -> impl Iterator<Item = CoordinatorId> + '_ {
        let heard_of = self.promises.epochs().filter(|(_, epoch)| *epoch > Epoch::NONE);
        heard_of.map(|(coordinator, _)| coordinator)
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

    fn ack(
        &self,
        key: TxKey,
        shard: ShardId,
        heuristic: Option<Heuristic>,
        after: Sequence,
    ) -> Reply {
        let message = Message::Ack { key, shard, store: self.store, heuristic };
        Reply { to: key.coordinator_node(), message, after }
    }

    fn is(&self, peer: &Peer) -> bool {
        peer.node == self.node && peer.store == self.store && peer.boot == self.boot
    }

    fn is_named(&self, peers: &[Peer], shard: ShardId) -> bool {
        peers.iter().any(|peer| peer.shard == shard && self.is(peer))
    }
}

/// The transaction that a message is about, and the shard whose promise it concerns: the addressee's.
/// Messages to coordinators have the sender's, and are never looked up.
fn branch(message: &Message) -> (&TxKey, &ShardId) {
    match message {
        Message::PeerInquiry { key, peer, .. } => (key, &peer.shard),
        Message::Resolve { key, shard, .. }
        | Message::Prepare { key, shard, .. }
        | Message::Commit { key, shard, .. }
        | Message::Abort { key, shard, .. }
        | Message::Answer { key, shard, .. }
        | Message::Vote { key, shard, .. }
        | Message::Ack { key, shard, .. }
        | Message::Noted { key, shard, .. }
        | Message::Inquiry { key, shard, .. }
        | Message::PeerAnswer { key, shard, .. } => (key, shard),
    }
}
