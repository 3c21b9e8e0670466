//! The coordinator's side: one [`Transaction`] per transaction.
//!
//! What is forced before what (presumed abort): only `tx_commit_start`, before any COMMIT leaves, any
//! inquiry is answered "committed", or the client hears "committed". Everything before it in the same
//! log becomes durable with it; aborting forces nothing. Who votes read-only is never heard of again, and
//! where everybody does, nothing is decided or forced.
//!
//! **One phase**: the only participant of a transaction may decide by itself. What is forced then is the
//! beginning, before the participant is asked, since after that only its answer ends the transaction: no
//! timer, no client and no restart does. A coordinator that was restarted does not know the work any more;
//! it asks what was decided, and a participant that has decided nothing never commits from then on.

use crate::{Audit, ForceRefusal, IllegalTransition, Peer, Vote};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey};
use base::{Sequence, ShardId, StoreId};
use std::fmt;
use std::sync::Arc;

/// A participant as the coordinator knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// What it votes for.
    pub shard: ShardId,
    /// Where it listens.
    pub node: NodeName,
    /// Its store and boot count, once announced. A published log does not hold them.
    pub store: Option<(StoreId, BootCount)>,
}

impl Member {
    /// A participant whose store is not known.
    #[must_use]
    pub const fn new(shard: ShardId, node: NodeName) -> Member {
        Member { shard, node, store: None }
    }

    /// A participant as its own announcement names it.
    #[must_use]
    pub const fn at(peer: Peer) -> Member {
        Member { shard: peer.shard, node: peer.node, store: Some((peer.store, peer.boot)) }
    }
}

/// A fact about a transaction: what its records say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `tx_created`
    Created {
        /// Who coordinates it.
        coordinator: CoordinatorId,
        /// The user's name for it.
        request_key: Option<RequestKey>,
        /// By which the same request is known again.
        fingerprint: Option<u128>,
        /// The step of a saga that it does or undoes, if it is no client's.
        parent: Option<ParentStep>,
    },
    /// `tx_participant_added`
    ParticipantAdded(Member),
    /// `tx_prepare_start`
    PrepareStart,
    /// `tx_prepare_start` that leaves the decision to the only participant.
    OnePhaseStart,
    /// `tx_vote_received`
    VoteReceived {
        /// Whose vote.
        shard: ShardId,
        /// The vote.
        vote: Vote,
    },
    /// `tx_commit_start`, self-contained: it names the participants. Empty in a published log.
    CommitStart {
        /// Everyone who has to commit: those who voted read-only do not.
        members: Vec<Member>,
    },
    /// `tx_commit_complete`
    CommitComplete,
    /// `tx_abort_start`
    AbortStart,
    /// `tx_commit_start` of an operator, who ends what nobody else could decide.
    ForcedCommit {
        /// Everyone who has to commit, as far as it is known.
        members: Vec<Member>,
        /// Who, when and why.
        audit: Arc<Audit>,
    },
    /// `tx_abort_start` of an operator.
    ForcedAbort {
        /// Who, when and why.
        audit: Arc<Audit>,
    },
    /// `tx_abort_complete`
    AbortComplete,
    /// `tx_abort_complete` that says so: everybody voted read-only, and nothing was to be decided.
    ReadOnlyComplete,
    /// `tx_rollback_start`
    RollbackStart,
    /// `tx_rollback_complete`
    RollbackComplete,
}

impl Event {
    /// The record's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "tx_created",
            Self::ParticipantAdded(_) => "tx_participant_added",
            Self::PrepareStart | Self::OnePhaseStart => "tx_prepare_start",
            Self::VoteReceived { .. } => "tx_vote_received",
            Self::CommitStart { .. } | Self::ForcedCommit { .. } => "tx_commit_start",
            Self::CommitComplete => "tx_commit_complete",
            Self::AbortStart | Self::ForcedAbort { .. } => "tx_abort_start",
            Self::AbortComplete | Self::ReadOnlyComplete => "tx_abort_complete",
            Self::RollbackStart => "tx_rollback_start",
            Self::RollbackComplete => "tx_rollback_complete",
        }
    }
}

/// What happens to a transaction from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A participant voted.
    Vote {
        /// Whose vote.
        shard: ShardId,
        /// The vote.
        vote: Vote,
    },
    /// The prepare time-out ran out.
    TimedOut,
    /// The client wants it aborted.
    AbortRequested,
    /// ABORT was sent as often as it is going to be.
    AbortsSent,
    /// The coordinator restarted under this epoch: this is all of recovery's own logic.
    Restarted {
        /// The new epoch.
        epoch: Epoch,
    },
}

/// How a transaction ended, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// Everybody commits.
    Commit,
    /// Nobody does.
    Abort,
    /// Nobody had anything to change, so that there was nothing to decide. No record of it is ever forced:
    /// a crash may forget it, and then it counts as an abort, which changes as little.
    ReadOnly,
}

/// What a transaction owes the world. `after` names the record that must be durable before it leaves;
/// an effect without one may leave at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// PREPARE to this member, now.
    Prepare {
        /// Index into [`Transaction::members`].
        member: u32,
    },
    /// To the only member, in one phase: what it has to do; or, if that is not known any more, what it has
    /// decided.
    Delegate {
        /// Index into [`Transaction::members`].
        member: u32,
        /// The transaction's beginning.
        after: Sequence,
    },
    /// COMMIT to this member.
    Commit {
        /// Index into [`Transaction::members`].
        member: u32,
        /// The commit decision.
        after: Sequence,
    },
    /// ABORT to this member, now; up to three times in all, and no answer is needed.
    Abort {
        /// Index into [`Transaction::members`].
        member: u32,
    },
    /// Tell the client.
    Tell {
        /// What to tell.
        decision: Decision,
        /// The commit decision; [`Sequence::NONE`] for anything else, which may be told at once.
        after: Sequence,
    },
}

impl Effect {
    /// A number that no other thing owed by the same transaction shares: for telling what was sent.
    #[must_use]
    pub fn slot(&self) -> u64 {
        match self {
            Self::Tell { .. } => 0,
            Self::Prepare { member } | Self::Delegate { member, .. } => 1 + 3 * u64::from(*member),
            Self::Commit { member, .. } => 2 + 3 * u64::from(*member),
            Self::Abort { member } => 3 + 3 * u64::from(*member),
        }
    }
}

/// At most this many participants in one transaction.
pub const MEMBERS_MAX: u32 = 64;

/// Why a transaction was refused before anything was logged: the caller's list is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdmissionError {
    /// No participant: there is nothing to agree on.
    Empty,
    /// More than [`MEMBERS_MAX`]: split it, or use a saga.
    TooMany {
        /// How many were named.
        members: u32,
    },
    /// The same shard twice: it would wait for itself.
    DuplicateShard {
        /// Which.
        shard: ShardId,
    },
}

impl fmt::Display for AdmissionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a transaction without participants"),
            Self::TooMany { members } => {
                write!(f, "{members} participants: at most {MEMBERS_MAX} are allowed")
            }
            Self::DuplicateShard { shard } => write!(f, "shard {shard} is named twice"),
        }
    }
}

impl std::error::Error for AdmissionError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Created,
    Preparing,
    Committing,
    /// An `abort_start` is in the log.
    Aborting,
    /// A `rollback_start` is in the log, and no `abort_start`.
    RollingBack,
    Ended(Decision),
}

/// One transaction, seen by its coordinator.
///
/// Inputs: [`decide`](Self::decide), [`acknowledge`](Self::acknowledge). Events:
/// [`created`](Self::created), [`apply`](Self::apply), [`settle`](Self::settle). Effects:
/// [`pending`](Self::pending). The rest are views.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    id: OperationId,
    coordinator: CoordinatorId,
    request_key: Option<RequestKey>,
    fingerprint: Option<u128>,
    parent: Option<ParentStep>,
    phase: Phase,
    members: Vec<Member>,
    prints: Prints,
    voted_yes: MemberSet,
    voted_no: MemberSet,
    voted_read_only: MemberSet,
    /// Volatile: forgetting it only makes COMMIT be sent again.
    acknowledged: MemberSet,
    rollback_started: bool,
    /// Its start, if its only participant decides by itself.
    one_phase_at: Option<Sequence>,
    /// An operator has decided it.
    forced: bool,
    created_at: Sequence,
    /// The commit decision, or the first of `abort_start` and `rollback_start`.
    decided_at: Option<Sequence>,
    last_at: Sequence,
}

/// Some of the members, by index: one word for as many as we admit, more for those of a foreign log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct MemberSet {
    low: u64,
    high: Vec<u64>,
    /// How many are in it: asked at each vote and each acknowledgement.
    count: u32,
}

impl MemberSet {
    /// True if it was not in.
    fn insert(&mut self, member: usize) -> bool {
        let word = match (member / 64).checked_sub(1) {
            None => &mut self.low,
            Some(word) => {
                if self.high.len() <= word {
                    self.high.resize(word + 1, 0);
                }
                &mut self.high[word]
            }
        };
        let bit = 1 << (member % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        self.count += u32::from(fresh);
        fresh
    }

    fn contains(&self, member: usize) -> bool {
        let word = match (member / 64).checked_sub(1) {
            None => self.low,
            Some(word) => self.high.get(word).copied().unwrap_or(0),
        };
        word >> (member % 64) & 1 == 1
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn len(&self) -> usize {
        self.count as usize
    }
}

/// One byte of each of the first members' shards, so that a vote or an acknowledgement finds its member
/// without a look at all the others: a coordinator has many transactions, and their lists are far
/// larger than a cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Prints([u8; MEMBERS_MAX as usize]);

/// The lowest bit of each byte.
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

impl Prints {
    fn of(shard: &ShardId) -> u8 {
        let (words, _) = shard.0.as_chunks::<8>();
        let folded = words.iter().fold(0, |folded, word| folded ^ u64::from_le_bytes(*word));
        (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
    }
}

impl Transaction {
    /// The facts that begin a transaction, to be appended as one unit. Any prefix of them that a
    /// crash leaves is recovered as an abort.
    ///
    /// # Errors
    /// [`AdmissionError`]: the list of participants is wrong, and nothing may be logged.
    pub fn admission(
        coordinator: CoordinatorId,
        request_key: Option<RequestKey>,
        fingerprint: Option<u128>,
        members: &[Member],
    ) -> Result<Vec<Event>, AdmissionError> {
        if members.is_empty() {
            return Err(AdmissionError::Empty);
        }
        if members.len() > MEMBERS_MAX as usize {
            return Err(AdmissionError::TooMany { members: members.len() as u32 });
        }
        for (at, member) in members.iter().enumerate() {
            if members[..at].iter().any(|earlier| earlier.shard == member.shard) {
                return Err(AdmissionError::DuplicateShard { shard: member.shard });
            }
        }
        let mut events = Vec::with_capacity(members.len() + 2);
        events.push(Event::Created { coordinator, request_key, fingerprint, parent: None });
        events.extend(members.iter().copied().map(Event::ParticipantAdded));
        events.push(Event::PrepareStart);
        Ok(events)
    }

    /// As [`admission`](Self::admission), of a transaction with one participant, which decides by itself.
    #[must_use]
    pub fn one_phase_admission(
        coordinator: CoordinatorId,
        request_key: Option<RequestKey>,
        fingerprint: Option<u128>,
        member: Member,
    ) -> Vec<Event> {
        let created = Event::Created { coordinator, request_key, fingerprint, parent: None };
        vec![created, Event::ParticipantAdded(member), Event::OnePhaseStart]
    }

    /// The same facts, of a transaction that does or undoes a step of a saga.
    #[must_use]
    pub fn on_behalf_of(parent: ParentStep, mut admission: Vec<Event>) -> Vec<Event> {
        if let Some(Event::Created { parent: none, .. }) = admission.first_mut() {
            *none = Some(parent);
        }
        admission
    }

    /// The machine that a `tx_created` begins.
    ///
    /// # Errors
    /// [`IllegalTransition::Unknown`] for any other event.
    pub fn created(
        id: OperationId,
        sequence: Sequence,
        event: &Event,
    ) -> Result<Transaction, IllegalTransition> {
        let Event::Created { coordinator, request_key, fingerprint, parent } = event else {
            return Err(IllegalTransition::Unknown { event: event.name() });
        };
        Ok(Transaction {
            id,
            coordinator: *coordinator,
            request_key: request_key.clone(),
            fingerprint: *fingerprint,
            parent: *parent,
            phase: Phase::Created,
            members: Vec::new(),
            prints: Prints([0; MEMBERS_MAX as usize]),
            voted_yes: MemberSet::default(),
            voted_no: MemberSet::default(),
            voted_read_only: MemberSet::default(),
            acknowledged: MemberSet::default(),
            rollback_started: false,
            one_phase_at: None,
            forced: false,
            created_at: sequence,
            decided_at: None,
            last_at: sequence,
        })
    }

    /// What this input is worth to the log: at most one fact. Duplicates and late votes are worth none.
    #[must_use]
    pub fn decide(&self, input: &Input) -> Option<Event> {
        // In one phase the decision is not the coordinator's to take.
        let undecided =
            matches!(self.phase, Phase::Created | Phase::Preparing) && !self.is_delegated();
        match *input {
            Input::Vote { shard, vote } if self.is_delegated() => {
                self.position(shard)?;
                Some(match vote {
                    Vote::Commit => Event::CommitStart { members: self.members.clone() },
                    Vote::Abort => Event::AbortStart,
                    Vote::ReadOnly => Event::ReadOnlyComplete,
                })
            }
            Input::Vote { shard, vote } => {
                let member = self.position(shard)?;
                let first = self.phase == Phase::Preparing && self.vote(member).is_none();
                first.then_some(Event::VoteReceived { shard, vote })
            }
            // A live coordinator whose votes are all in owes the commit (see `settle`); a timer that
            // fires between the last vote and the decision finds it taken.
            Input::TimedOut | Input::AbortRequested => {
                (undecided && !self.all_agreed()).then_some(Event::AbortStart)
            }
            // Nobody was told "committed" and a participant may have heard ABORT, whose record is
            // never forced: without a decision in the log, all-yes included, the answer is abort.
            Input::Restarted { .. } => undecided.then_some(Event::AbortStart),
            Input::AbortsSent => matches!(self.phase, Phase::Aborting | Phase::RollingBack)
                .then_some(Event::AbortComplete),
        }
    }

    /// The decision of an operator, for a transaction that nobody else decides: one that is in doubt, which
    /// the caller knows, or whose only participant decides and does not say. `None`: an operator has decided
    /// the same before. The members are then told as in any other transaction; one that has ended otherwise
    /// reports that.
    ///
    /// # Errors
    /// [`ForceRefusal`]: nothing may be logged.
    pub fn force(&self, commit: bool, audit: &Arc<Audit>) -> Result<Option<Event>, ForceRefusal> {
        audit.check()?;
        let audit = audit.clone();
        match self.decision() {
            None if commit => Ok(Some(Event::ForcedCommit { members: self.writers(), audit })),
            None => Ok(Some(Event::ForcedAbort { audit })),
            Some(decision) => {
                let before = decision == Decision::Commit;
                match self.forced {
                    false => Err(ForceRefusal::Decided { commit: before }),
                    true if before == commit => Ok(None),
                    true => Err(ForceRefusal::ForcedOtherwise { commit: before }),
                }
            }
        }
    }

    /// Takes a logged fact: the only writer of durable state, live and in recovery.
    ///
    /// # Errors
    /// [`IllegalTransition`]: the event does not follow, and changed nothing, except for
    /// [`IllegalTransition::UnbackedCommit`], which stands.
    pub fn apply(&mut self, sequence: Sequence, event: &Event) -> Result<(), IllegalTransition> {
        let mut anomaly = None;
        match (event, self.phase) {
            (Event::Created { .. }, _) => return Err(IllegalTransition::CreatedTwice),
            (_, Phase::Ended(_)) => return Err(self.out_of_place(event)),
            (Event::ParticipantAdded(member), Phase::Created) => {
                if self.position(member.shard).is_some() {
                    return Err(IllegalTransition::DuplicateShard);
                }
                self.join(*member);
            }
            (Event::PrepareStart, Phase::Created) => self.phase = Phase::Preparing,
            (Event::OnePhaseStart, Phase::Created) if self.members.len() == 1 => {
                self.phase = Phase::Preparing;
                self.one_phase_at = Some(sequence);
            }
            // In one phase the answer is no vote, and there is nothing to prepare for an abort.
            (
                Event::VoteReceived { .. } | Event::AbortComplete | Event::RollbackStart,
                Phase::Preparing,
            ) if self.is_delegated() => return Err(self.out_of_place(event)),
            (
                Event::VoteReceived { shard, vote },
                Phase::Preparing | Phase::Aborting | Phase::RollingBack,
            ) => {
                let member = self.position(*shard).ok_or(IllegalTransition::UnknownShard)?;
                if self.vote(member).is_some() {
                    return Err(IllegalTransition::SecondVote);
                }
                match vote {
                    Vote::Commit => self.voted_yes.insert(member),
                    Vote::Abort => self.voted_no.insert(member),
                    Vote::ReadOnly => self.voted_read_only.insert(member),
                };
            }
            (
                Event::CommitStart { .. } | Event::ForcedCommit { .. } | Event::ForcedAbort { .. },
                Phase::Aborting | Phase::RollingBack,
            )
            | (Event::ForcedCommit { .. } | Event::ForcedAbort { .. }, Phase::Committing) => {
                return Err(IllegalTransition::SecondDecision);
            }
            // From here on it is one in two phases: whoever takes part is told, and says how it has ended.
            (Event::ForcedCommit { members, .. }, Phase::Created | Phase::Preparing) => {
                self.learn(members);
                (self.phase, self.forced, self.one_phase_at) = (Phase::Committing, true, None);
                self.decided_at = Some(sequence);
            }
            (Event::ForcedAbort { .. }, Phase::Created | Phase::Preparing) => {
                (self.phase, self.forced, self.one_phase_at) = (Phase::Aborting, true, None);
                self.decided_at = Some(sequence);
            }
            (Event::CommitStart { members }, Phase::Created | Phase::Preparing) => {
                // Whom only the decision names has not voted either.
                self.learn(members);
                let alone = self.is_delegated() && self.members.len() == 1;
                if !alone && (self.phase == Phase::Created || !self.all_agreed()) {
                    anomaly = Some(IllegalTransition::UnbackedCommit);
                }
                self.phase = Phase::Committing;
                self.decided_at = Some(sequence);
            }
            (Event::CommitComplete, Phase::Committing) => {
                self.phase = Phase::Ended(Decision::Commit);
            }
            (Event::AbortStart, Phase::Committing) => {
                return Err(IllegalTransition::SecondDecision);
            }
            (Event::AbortStart, _) => {
                self.phase = Phase::Aborting;
                self.decided_at.get_or_insert(sequence);
            }
            (
                Event::AbortComplete,
                Phase::Created | Phase::Preparing | Phase::Aborting | Phase::RollingBack,
            ) => self.phase = Phase::Ended(Decision::Abort),
            (Event::ReadOnlyComplete, Phase::Preparing)
                if self.all_read_only() || self.is_delegated() =>
            {
                self.phase = Phase::Ended(Decision::ReadOnly);
            }
            (Event::RollbackStart, Phase::Preparing | Phase::RollingBack) => {
                self.phase = Phase::RollingBack;
                self.rollback_started = true;
                self.decided_at.get_or_insert(sequence);
            }
            (Event::RollbackStart, Phase::Aborting) => self.rollback_started = true,
            (Event::RollbackComplete, Phase::RollingBack) => {
                self.phase = Phase::Ended(Decision::Abort);
            }
            (Event::RollbackComplete, Phase::Aborting) if self.rollback_started => {}
            _ => return Err(self.out_of_place(event)),
        }
        self.last_at = sequence;
        anomaly.map_or(Ok(()), Err)
    }

    fn out_of_place(&self, event: &Event) -> IllegalTransition {
        IllegalTransition::OutOfPlace { event: event.name(), state: self.state() }
    }

    /// The fact that this state owes the log without any input: the decision once the votes are in,
    /// the end once everybody has acknowledged.
    #[must_use]
    pub fn settle(&self) -> Option<Event> {
        match self.phase {
            Phase::Preparing if !self.voted_no.is_empty() => Some(Event::AbortStart),
            Phase::Preparing if self.all_read_only() => Some(Event::ReadOnlyComplete),
            Phase::Preparing if self.all_agreed() => {
                Some(Event::CommitStart { members: self.writers() })
            }
            Phase::Committing if self.all_acknowledged() => Some(Event::CommitComplete),
            _ => None,
        }
    }

    /// Adds all that is owed to the world in this state. Asking twice is harmless: every effect may
    /// be sent any number of times.
    pub fn pending(&self, owed: &mut Vec<Effect>) {
        let members = 0..self.members.len() as u32;
        match self.phase {
            Phase::Created => {}
            Phase::Preparing if let Some(after) = self.one_phase_at => {
                owed.push(Effect::Delegate { member: 0, after });
            }
            Phase::Preparing => owed.extend(
                members
                    .filter(|&m| self.vote(m as usize).is_none())
                    .map(|member| Effect::Prepare { member }),
            ),
            Phase::Committing => {
                let after = self.evidence();
                let told_after = self.told_after(Decision::Commit);
                owed.push(Effect::Tell { decision: Decision::Commit, after: told_after });
                owed.extend(
                    members
                        .filter(|&m| self.awaits_commit(m as usize))
                        .map(|member| Effect::Commit { member, after }),
                );
            }
            Phase::Aborting | Phase::RollingBack => {
                owed.push(Effect::Tell { decision: Decision::Abort, after: Sequence::NONE });
                // Who voted no has aborted already, and so has who decided alone; who voted read-only
                // does not care.
                let told = |m: usize| {
                    self.one_phase_at.is_some()
                        || self.voted_no.contains(m)
                        || self.voted_read_only.contains(m)
                };
                owed.extend(
                    members.filter(|&m| !told(m as usize)).map(|member| Effect::Abort { member }),
                );
            }
            Phase::Ended(decision) => {
                owed.push(Effect::Tell { decision, after: self.told_after(decision) });
            }
        }
    }

    /// The record that must be durable before anybody is told this decision of this transaction;
    /// [`Sequence::NONE`]: none. In one phase the participant's own record is the decision.
    #[must_use]
    pub fn told_after(&self, decision: Decision) -> Sequence {
        match decision {
            Decision::Commit if self.one_phase_at.is_none() => self.evidence(),
            Decision::Commit | Decision::Abort | Decision::ReadOnly => Sequence::NONE,
        }
    }

    /// Whether the only participant decides by itself, and it is not in the log yet what.
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.phase == Phase::Preparing && self.one_phase_at.is_some()
    }

    /// A participant acknowledged the commit: it is not sent to it again. True if this was news.
    pub fn acknowledge(&mut self, shard: ShardId) -> bool {
        let Some(member) = self.position(shard) else { return false };
        self.phase == Phase::Committing
            && !self.voted_read_only.contains(member)
            && self.acknowledged.insert(member)
    }

    /// The participant that votes for a shard, if it is to commit and has not said that it has.
    #[must_use]
    pub fn awaited(&self, shard: ShardId) -> Option<&Member> {
        let at = self.position(shard)?;
        let awaited = self.phase == Phase::Committing && self.awaits_commit(at);
        awaited.then(|| &self.members[at])
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> OperationId {
        self.id
    }

    /// Who coordinates it.
    #[must_use]
    pub fn coordinator(&self) -> CoordinatorId {
        self.coordinator
    }

    /// The user's name for it.
    #[must_use]
    pub fn request_key(&self) -> Option<&RequestKey> {
        self.request_key.as_ref()
    }

    /// By which the same request is known again, if its beginning says so.
    #[must_use]
    pub fn fingerprint(&self) -> Option<u128> {
        self.fingerprint
    }

    /// The step of a saga that it does or undoes, if it is no client's.
    #[must_use]
    pub fn parent(&self) -> Option<ParentStep> {
        self.parent
    }

    /// Whether somebody has voted against it, or, deciding alone, has refused.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        let alone = self.one_phase_at.is_some() && !self.forced;
        !self.voted_no.is_empty() || alone && self.decision() == Some(Decision::Abort)
    }

    /// The participants, in the order in which they joined.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The participant that votes for a shard.
    #[must_use]
    pub fn member(&self, shard: ShardId) -> Option<&Member> {
        self.position(shard).map(|at| &self.members[at])
    }

    /// The votes that are in, by shard.
    pub fn votes(&self) -> impl Iterator<Item = (ShardId, Vote)> + '_ {
        let members = self.members.iter().enumerate();
        members.filter_map(|(at, member)| Some((member.shard, self.vote(at)?)))
    }

    /// The decision, if one is in the log (or was, and the transaction ended).
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        match self.phase {
            Phase::Created | Phase::Preparing => None,
            Phase::Committing => Some(Decision::Commit),
            Phase::Aborting | Phase::RollingBack => Some(Decision::Abort),
            Phase::Ended(decision) => Some(decision),
        }
    }

    /// Whether an operator has decided it.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.forced
    }

    /// The store that a member's COMMIT is for. Where an operator decides, only a vote that is in the log says
    /// which store it was: of any other one that holds nothing, nobody knows what it had promised.
    #[must_use]
    pub fn store_to_commit(&self, member: u32) -> Option<StoreId> {
        let at = member as usize;
        let voted = !self.forced || self.voted_yes.contains(at);
        self.members.get(at)?.store.filter(|_| voted).map(|(store, _)| store)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Decision> {
        match self.phase {
            Phase::Ended(decision) => Some(decision),
            _ => None,
        }
    }

    /// The state's name in reports: `created`, `preparing`, `delegated`, `committing`, `aborting`, `rolling_back`,
    /// `committed`, `aborted`, `read_only`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Created => "created",
            Phase::Preparing if self.is_delegated() => "delegated",
            Phase::Preparing => "preparing",
            Phase::Committing => "committing",
            Phase::Aborting => "aborting",
            Phase::RollingBack => "rolling_back",
            Phase::Ended(Decision::Commit) => "committed",
            Phase::Ended(Decision::Abort) => "aborted",
            Phase::Ended(Decision::ReadOnly) => "read_only",
        }
    }

    /// The record that proves its class: the decision, else its last record.
    #[must_use]
    pub fn evidence(&self) -> Sequence {
        self.decided_at.unwrap_or(self.last_at)
    }

    /// Its `tx_created`.
    #[must_use]
    pub fn created_at(&self) -> Sequence {
        self.created_at
    }

    /// Its last record.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.last_at
    }

    fn position(&self, shard: ShardId) -> Option<usize> {
        let wanted = u64::from_le_bytes([Prints::of(&shard); 8]);
        let printed = self.members.len().min(self.prints.0.len());
        let chunks = self.prints.0.as_chunks().0.iter().take(printed.div_ceil(8));
        for (chunk, prints) in chunks.enumerate() {
            // Of the bytes that are zero here the lowest is found for certain; one above it may be taken for
            // zero that is not, and is then another member's.
            let differ = u64::from_le_bytes(*prints) ^ wanted;
            let mut same = differ.wrapping_sub(LOW_BITS) & !differ & (LOW_BITS << 7);
            while same != 0 {
                let at = chunk * 8 + same.trailing_zeros() as usize / 8;
                if self.members.get(at).is_some_and(|member| member.shard == shard) {
                    return Some(at);
                }
                same &= same - 1;
            }
        }
        (printed..self.members.len()).find(|&at| self.members[at].shard == shard)
    }

    fn vote(&self, member: usize) -> Option<Vote> {
        if self.voted_yes.contains(member) {
            Some(Vote::Commit)
        } else if self.voted_no.contains(member) {
            Some(Vote::Abort)
        } else {
            self.voted_read_only.contains(member).then_some(Vote::ReadOnly)
        }
    }

    /// Everybody has voted, and nobody no.
    fn all_agreed(&self) -> bool {
        let agreed = self.voted_yes.len() + self.voted_read_only.len();
        self.phase == Phase::Preparing && agreed == self.members.len()
    }

    fn all_read_only(&self) -> bool {
        self.all_agreed() && self.voted_yes.is_empty()
    }

    /// Whom a decision concerns.
    fn writers(&self) -> Vec<Member> {
        let mut writers = self.members.clone();
        if !self.voted_read_only.is_empty() {
            let mut at = 0..;
            writers.retain(|_| at.next().is_some_and(|at| !self.voted_read_only.contains(at)));
        }
        writers
    }

    fn awaits_commit(&self, member: usize) -> bool {
        self.one_phase_at.is_none()
            && !self.acknowledged.contains(member)
            && !self.voted_read_only.contains(member)
    }

    fn all_acknowledged(&self) -> bool {
        let left_out = self.voted_read_only.len();
        self.one_phase_at.is_some() || self.acknowledged.len() + left_out == self.members.len()
    }

    /// The decision names everybody: a log whose earlier records lie behind a hole still knows whom
    /// to tell.
    fn learn(&mut self, members: &[Member]) {
        for (at, member) in members.iter().enumerate() {
            // Nearly always they are named in the order in which they joined.
            let here = self.members.get(at).is_some_and(|known| known.shard == member.shard);
            match if here { Some(at) } else { self.position(member.shard) } {
                Some(known) => self.members[known] = *member,
                None => self.join(*member),
            }
        }
    }

    fn join(&mut self, member: Member) {
        if let Some(print) = self.prints.0.get_mut(self.members.len()) {
            *print = Prints::of(&member.shard);
        }
        if self.members.is_empty() {
            self.members.reserve(8);
        }
        self.members.push(member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A foreign log may name more than we admit, and shards whose prints are the same.
    #[test]
    fn every_member_is_found_however_many_there_are() {
        let created = Event::Created {
            coordinator: CoordinatorId::numbered(1),
            request_key: None,
            fingerprint: None,
            parent: None,
        };
        let mut transaction = Transaction::created(OperationId(1), Sequence(1), &created).unwrap();
        let shards: Vec<ShardId> = (0..300).map(ShardId::numbered).collect();
        for (at, shard) in (2..).zip(&shards) {
            let added = Event::ParticipantAdded(Member::new(*shard, NodeName::numbered(at)));
            transaction.apply(Sequence(at), &added).unwrap();
            assert_eq!(
                transaction.apply(Sequence(at), &added),
                Err(IllegalTransition::DuplicateShard)
            );
        }
        transaction.apply(Sequence(302), &Event::PrepareStart).unwrap();
        for (at, shard) in (303..).zip(&shards) {
            assert_eq!(transaction.member(*shard).map(|member| member.shard), Some(*shard));
            assert_eq!(transaction.settle(), None, "a vote is missing");
            let voted = Event::VoteReceived { shard: *shard, vote: Vote::Commit };
            transaction.apply(Sequence(at), &voted).unwrap();
            assert_eq!(transaction.apply(Sequence(at), &voted), Err(IllegalTransition::SecondVote));
        }
        assert_eq!(transaction.votes().count(), 300);
        let decision = transaction.settle().unwrap();
        transaction.apply(Sequence(603), &decision).unwrap();
        for shard in &shards {
            assert_eq!(transaction.settle(), None, "an acknowledgement is missing");
            assert!(transaction.acknowledge(*shard) && !transaction.acknowledge(*shard));
        }
        assert_eq!(transaction.settle(), Some(Event::CommitComplete));
        assert_eq!(transaction.member(ShardId::numbered(300)), None);
    }

    #[test]
    fn a_commit_decision_that_names_a_stranger_is_unbacked() {
        let member = |number| Member::new(ShardId::numbered(number), NodeName::numbered(number));
        let (id, coordinator) = (OperationId(1), CoordinatorId::numbered(1));
        let (request_key, fingerprint, parent) = (None, None, None);
        let created = Event::Created { coordinator, request_key, fingerprint, parent };
        let mut transaction = Transaction::created(id, Sequence(1), &created).unwrap();
        let voted = Event::VoteReceived { shard: member(1).shard, vote: Vote::Commit };
        for (at, event) in
            [(2, Event::ParticipantAdded(member(1))), (3, Event::PrepareStart), (4, voted)]
        {
            transaction.apply(Sequence(at), &event).unwrap();
        }
        let mut backed = transaction.clone();
        let members = vec![member(1)];
        assert_eq!(backed.apply(Sequence(5), &Event::CommitStart { members }), Ok(()));

        let members = vec![member(1), member(2)];
        let unbacked = transaction.apply(Sequence(5), &Event::CommitStart { members });
        assert_eq!(unbacked, Err(IllegalTransition::UnbackedCommit));
        assert_eq!(transaction.decision(), Some(Decision::Commit), "it stands");
        assert_eq!(transaction.members(), [member(1), member(2)]);
    }
}
