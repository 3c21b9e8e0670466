//! What a coordinator's log says, by the specification's tables: an independent model of legal
//! transitions and of recovery's classes.
//!
//! An operation is what its legal records say of it: sets of steps, sets of votes, and the first
//! record of each kind. A record is legal or not by a rule over these sets, and the class follows
//! from them. There is no state machine here, and no code of the recovery that this model judges.

use super::ids::IdMap;
use super::payload::{Fields, PARTICIPANT_BYTES, array, tag};
use super::reader::Told;
use base::{BootCount, NodeName, OperationId, RequestKey, Sequence, ShardId, StoreId};
use coordinator::{Capped, OperationKind, OperationReport, RecoveryAction, RecoveryReport};
use saga::End;
use std::collections::BTreeMap;
use twopc::Vote;
use twopc::coordinator::{Decision, Member};
use wal_core::EventType;

/// A set of a saga's steps, by the order in which they were added.
pub type StepSet = u128;

/// The most steps that the model knows how to follow.
pub const STEPS_MAX: u32 = StepSet::BITS;

/// The rules that a test may turn off, to show that their absence is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Steps that may have been started are undone too.
    pub undo_what_may_have_started: bool,
    /// A step that failed with an unknown effect is undone too.
    pub undo_unknown_effects: bool,
    /// Undo goes backward: what depends on a step is undone before it.
    pub undo_backward: bool,
    /// An aborted saga with effects goes backward.
    pub abort_undoes: bool,
    /// Without a decision a transaction is aborted, even if all voted yes.
    pub presumed_abort: bool,
    /// A commit decision stands even if votes are missing.
    pub unbacked_commit_stands: bool,
    /// The first decision wins.
    pub first_decision_wins: bool,
    /// A rollback inside an abort does not end the transaction.
    pub rollback_inside_abort_goes_on: bool,
    /// Sagas and transactions are two name spaces.
    pub two_name_spaces: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            undo_what_may_have_started: true,
            undo_unknown_effects: true,
            undo_backward: true,
            abort_undoes: true,
            presumed_abort: true,
            unbacked_commit_stands: true,
            first_decision_wins: true,
            rollback_inside_abort_goes_on: true,
            two_name_spaces: true,
        }
    }
}

/// A step as its saga's log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub number: u32,
    /// Where it runs.
    pub node: NodeName,
    /// What it waits for. `None`: for the step with the next lower number.
    needs: Option<StepSet>,
    /// Its kind's byte.
    pub kind: u8,
    /// The steps whose outputs it is given.
    pub takes: StepSet,
    /// It brings something.
    pub gives: bool,
    /// Who does it: [`BY_NODE`], [`BY_TRANSACTION`] or [`BY_SAGA`].
    pub performer: u8,
    /// Who undoes it, likewise; the last means the saga that did it.
    pub undo: u8,
}

/// A step that its node does, or undoes.
pub const BY_NODE: u8 = 0;
/// A step that a transaction does, or undoes.
pub const BY_TRANSACTION: u8 = 1;
/// A step that a saga of its own does, or undoes.
pub const BY_SAGA: u8 = 2;

/// The step that an operation does or undoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parent {
    /// Its saga.
    pub saga: OperationId,
    /// Its number.
    pub step: u32,
    /// It is undone.
    pub undo: bool,
}

/// A step that is the point of no return.
pub const PIVOT: u8 = 1;
/// A step that never fails for good.
pub const RETRIABLE: u8 = 2;
/// A step without an effect.
pub const READ_ONLY: u8 = 3;

impl Parent {
    fn named(self) -> base::ParentStep {
        base::ParentStep { saga: self.saga, step: self.step, undo: self.undo }
    }
}

/// What a log says of one saga.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saga {
    /// The step of another saga that it is.
    pub parent: Option<Parent>,
    /// Its `saga_created`.
    pub created: u64,
    /// That record's timestamp.
    pub created_ms: i64,
    /// Its last legal record.
    pub last: u64,
    /// Its `saga_execute_start`; 0: none.
    pub started: u64,
    /// The record that turned it; 0: none.
    pub turned: u64,
    /// It has a `saga_compensation_start`.
    pub announced: bool,
    /// Its steps.
    pub steps: Vec<Step>,
    /// Steps that succeeded.
    pub succeeded: StepSet,
    /// Steps that failed without an effect.
    pub refused: StepSet,
    /// Steps that failed and may have had an effect.
    pub unknown: StepSet,
    /// Steps that were undone.
    pub undone: StepSet,
    /// Steps that may have been started when it turned.
    pub may_have_started: StepSet,
    /// Steps that have an undo.
    pub has_undo: StepSet,
    /// Steps that wait for an operator.
    pub parked: StepSet,
    /// Steps that an operator has undone by hand.
    pub marked: StepSet,
    /// The same, also if another order has come since: a call may be on its way that says so.
    pub ever_marked: StepSet,
    /// Steps of which an operator says that nobody will ever answer.
    pub closed: StepSet,
    /// Steps whose undo an operator has replaced.
    pub overridden: StepSet,
    /// Steps that another transaction undoes than was agreed on, because an operator says so.
    pub replaced: StepSet,
    /// Every time that a step was parked: its place.
    pub parkings: Vec<u8>,
    /// Every order: the step's place and its record.
    pub orders: Vec<(u8, u64)>,
    /// What steps have brought, by their places.
    pub outputs: Vec<(u8, Box<[u8]>)>,
    /// How it ended, and by which record.
    pub ended: Option<(End, u64)>,
}

impl Saga {
    /// The step of this number, as a set of one; nothing if there is none.
    #[must_use]
    pub fn step(&self, number: u32) -> Option<StepSet> {
        self.index(number).map(|index| 1 << index)
    }

    /// The place of a step.
    #[must_use]
    pub fn index(&self, number: u32) -> Option<usize> {
        match self.steps.get(number as usize) {
            Some(step) if step.number == number => Some(number as usize),
            _ => self.steps.iter().position(|step| step.number == number),
        }
    }

    /// Every step.
    #[must_use]
    pub fn all(&self) -> StepSet {
        match self.steps.len() {
            0 => 0,
            steps => StepSet::MAX >> (STEPS_MAX as usize - steps),
        }
    }

    /// What the step at this place waits for.
    #[must_use]
    pub fn needs(&self, index: usize) -> StepSet {
        let Step { number, needs, .. } = self.steps[index];
        needs.unwrap_or_else(|| {
            let lower = self.steps.iter().enumerate().filter(|(_, step)| step.number < number);
            lower.max_by_key(|(_, step)| step.number).map_or(0, |(before, _)| 1 << before)
        })
    }

    /// The steps that wait for this one, and those that wait for one without an undo that does.
    #[must_use]
    pub fn dependents(&self, index: usize) -> StepSet {
        let wait_for = |set: StepSet| {
            let waits = |other: &usize| self.needs(*other) & set > 0;
            (0..self.steps.len()).filter(waits).fold(0, |set: StepSet, other| set | 1 << other)
        };
        let mut all = wait_for(1 << index);
        loop {
            let more = wait_for(all & !self.has_undo);
            if more & !all == 0 {
                return all;
            }
            all |= more;
        }
    }

    /// The pivot, as a set of one, once everything that it waits for has succeeded, going forward.
    #[must_use]
    pub fn past_pivot(&self) -> StepSet {
        if self.started == 0 || self.turned > 0 {
            return 0;
        }
        let pivot = self.steps.iter().position(|step| step.kind == PIVOT);
        let ready = pivot.filter(|index| self.needs(*index) & !self.succeeded == 0);
        ready.map_or(0, |index| 1 << index)
    }

    /// Whether a step may fail now.
    pub(super) fn may_fail(&self, step: StepSet, unknown: bool) -> bool {
        match self.steps[step.trailing_zeros() as usize].kind {
            RETRIABLE => false,
            PIVOT => !unknown,
            _ => self.past_pivot() == 0,
        }
    }

    /// What a step has brought.
    #[must_use]
    pub fn output(&self, index: usize) -> Option<&[u8]> {
        let found = self.outputs.iter().find(|(at, _)| usize::from(*at) == index);
        found.map(|(_, bytes)| &**bytes)
    }

    /// The steps whose outcome is known.
    #[must_use]
    pub fn outcomes(&self) -> StepSet {
        self.succeeded | self.refused | self.unknown
    }

    /// The steps of which everything that they wait for has succeeded.
    #[must_use]
    pub fn ready(&self) -> StepSet {
        let ready = |index: &usize| self.needs(*index) & !self.succeeded == 0;
        (0..self.steps.len()).filter(ready).fold(0, |set, index| set | 1 << index)
    }

    /// The steps that are still to be undone.
    #[must_use]
    pub fn to_undo(&self, rules: &Rules) -> StepSet {
        if self.turned == 0 {
            return 0;
        }
        let mut listed = self.succeeded;
        if rules.undo_unknown_effects {
            listed |= self.unknown;
        }
        if rules.undo_what_may_have_started {
            listed |= self.may_have_started & !self.outcomes();
        }
        listed & self.has_undo & !self.undone
    }

    fn turn(&mut self, at: u64) {
        self.may_have_started = self.ready();
        self.turned = at;
    }

    fn numbers(&self, set: StepSet) -> Vec<u32> {
        let chosen = self.steps.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
        let mut numbers: Vec<u32> = chosen.map(|(_, step)| step.number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// What recovery has to report of it; nothing if it has ended.
    #[must_use]
    pub fn report(&self, id: OperationId, rules: &Rules) -> Option<OperationReport> {
        if self.ended.is_some() {
            return None;
        }
        let (mut run, mut undo, mut parked) = (Vec::new(), Vec::new(), Vec::new());
        let (state, action, evidence) = if self.turned > 0 {
            parked = self.numbers(self.parked & self.to_undo(rules));
            undo = self.numbers(self.to_undo(rules));
            if rules.undo_backward {
                undo.reverse();
            }
            ("compensating", RecoveryAction::SagaResumeCompensate, self.turned)
        } else if self.started > 0 {
            run = self.numbers(self.ready() & !self.outcomes());
            ("executing", RecoveryAction::SagaResumeExecute, self.started)
        } else {
            ("created", RecoveryAction::None, self.created)
        };
        let next_step = run.first().or(undo.first()).copied();
        let steps = self.steps.len() as u32;
        Some(OperationReport {
            id,
            kind: OperationKind::Saga { steps, next_step, run, undo, parked },
            state,
            action,
            in_doubt: false,
            evidence: Sequence(evidence),
            last: Sequence(self.last),
            created_ms: Some(self.created_ms),
            parent: self.parent.map(Parent::named),
        })
    }

    /// Takes a record if it is legal.
    fn take(
        &mut self,
        at: u64,
        event: EventType,
        fields: &mut Fields<'_>,
        rules: &Rules,
    ) -> Option<Change> {
        if self.ended.is_some() {
            return None;
        }
        let (started, turned) = (self.started > 0, self.turned > 0);
        let executing = started && !turned;
        let mut change = Change::Saga;
        match event {
            EventType::SAGA_STEP_ADDED => {
                let (number, _action) = (fields.u32()?, fields.u8()?);
                let [node, needs, kind, takes, gives, performer, undo] = fields.extensions([
                    tag::NODE,
                    tag::DEPENDENCIES,
                    tag::KIND,
                    tag::INPUTS,
                    tag::OUTPUT_TYPE,
                    tag::PERFORMER,
                    tag::UNDO,
                ])?;
                let fits = !started && self.step(number).is_none();
                let mut step = self.added(number, node, needs).filter(|_| fits)?;
                step.kind = match kind {
                    None => 0,
                    Some([kind @ 0..=READ_ONLY]) => *kind,
                    Some(_) => return None,
                };
                step.takes = self.earlier(number, takes.unwrap_or(&[]))?;
                step.gives = gives.is_some();
                let by = |value: Option<&[u8]>| match value {
                    None => Some(BY_NODE),
                    Some([by @ BY_NODE..=BY_SAGA, ..]) => Some(*by),
                    Some(_) => None,
                };
                (step.performer, step.undo) = (by(performer)?, by(undo)?);
                let second = step.kind == PIVOT && self.steps.iter().any(|s| s.kind == PIVOT);
                (!second).then_some(())?;
                assert!(self.steps.len() < STEPS_MAX as usize, "a saga of at most 128 steps");
                self.has_undo |= StepSet::from(step.kind == 0) << self.steps.len();
                self.steps.push(step);
            }
            EventType::SAGA_EXECUTE_START => {
                (!started).then_some(())?;
                self.started = at;
            }
            EventType::SAGA_STEP_SUCCEEDED => {
                let step = self.in_flight(fields.u32()?)?;
                let [output] = fields.extensions([tag::OUTPUT])?;
                if let Some(output) = output {
                    self.outputs.push((step.trailing_zeros() as u8, output.into()));
                }
                self.succeeded |= step;
                change = Change::StepSucceeded(step);
            }
            EventType::SAGA_STEP_FAILED => {
                let (number, _code) = (fields.u32()?, fields.u32()?);
                let [effect] = fields.extensions([tag::EFFECT])?;
                let unknown = match effect {
                    None | Some([0]) => false,
                    Some([1]) => true,
                    Some(_) => return None,
                };
                let step = self.in_flight(number)?;
                self.may_fail(step, unknown).then_some(())?;
                if unknown {
                    self.unknown |= step;
                } else {
                    self.refused |= step;
                }
                if executing {
                    self.turn(at);
                }
                change = Change::StepFailed { step, unknown };
            }
            EventType::SAGA_COMPENSATION_START => {
                let _cause = fields.u32()?;
                (started && !self.announced && self.past_pivot() == 0).then_some(())?;
                self.announced = true;
                if executing {
                    self.turn(at);
                }
            }
            EventType::SAGA_COMPENSATION_SUCCEEDED => {
                let index = self.index(fields.u32()?)?;
                let [heuristic] = fields.extensions([tag::HEURISTIC])?;
                let list = self.to_undo(rules);
                let due = list >> index & 1 == 1 && self.dependents(index) & list == 0;
                let closed = heuristic != Some(&[1]) || self.closed >> index & 1 == 1;
                (turned && due && closed).then_some(())?;
                self.undone |= 1 << index;
                change = if heuristic == Some(&[1]) {
                    Change::Closed(1 << index)
                } else {
                    Change::Undone(1 << index)
                };
            }
            EventType::SAGA_COMPENSATION_FAILED => {
                let (step, _attempt) = (self.step(fields.u32()?)?, fields.u32()?);
                let [parked, order] = fields.extensions([tag::PARKED, tag::ORDER])?;
                (turned && self.to_undo(rules) & step > 0).then_some(())?;
                match (order, parked) {
                    (Some([what, ..]), _) => {
                        // Of a step on which others still depend nothing is to be ordered yet.
                        let index = step.trailing_zeros() as usize;
                        (self.dependents(index) & self.to_undo(rules) == 0).then_some(())?;
                        let Step { performer, undo, .. } = self.steps[index];
                        let known = self.outcomes() & step > 0;
                        let by_call = undo == BY_NODE && (performer == BY_NODE || known);
                        // What runs on behalf of a step could undo it once more.
                        let parked = self.parked & step > 0;
                        match what {
                            0 => {
                                (self.parked, self.marked) =
                                    (self.parked & !step, self.marked & !step)
                            }
                            1 if by_call => {
                                (self.parked, self.marked) =
                                    (self.parked & !step, self.marked | step);
                                self.ever_marked |= step;
                            }
                            // Nobody has to be told.
                            1 if parked => {
                                (self.parked, self.closed) =
                                    (self.parked & !step, self.closed | step);
                            }
                            4 if parked && known && !by_call => {
                                self.parked &= !step;
                                self.steps[index].undo = BY_TRANSACTION;
                                self.replaced |= step;
                            }
                            2 if by_call => {
                                (self.marked & step > 0).then_some(())?;
                                self.closed |= step;
                            }
                            3 if by_call => {
                                (self.parked, self.marked) =
                                    (self.parked & !step, self.marked & !step);
                                self.overridden |= step;
                            }
                            _ => return None,
                        }
                        self.orders.push((step.trailing_zeros() as u8, at));
                    }
                    (Some([]), _) => return None,
                    (None, Some([1])) => {
                        (self.parked, self.marked) = (self.parked | step, self.marked & !step);
                        self.parkings.push(step.trailing_zeros() as u8);
                        change = Change::Parked;
                    }
                    (None, None) => {}
                    (None, Some(_)) => return None,
                }
            }
            EventType::SAGA_COMPLETED => {
                (executing && self.succeeded == self.all()).then_some(())?;
                self.ended = Some((End::Completed, at));
            }
            EventType::SAGA_COMPENSATED => {
                (turned && self.to_undo(rules) == 0).then_some(())?;
                self.ended = Some((End::Compensated, at));
            }
            EventType::SAGA_ABORTED => {
                (self.past_pivot() == 0).then_some(())?;
                if executing && rules.abort_undoes {
                    self.turn(at);
                }
                if self.to_undo(rules) == 0 {
                    self.ended = Some((End::Aborted, at));
                }
            }
            _ => return None,
        }
        self.last = at;
        Some(self.ended.map_or(change, |(end, _)| Change::SagaEnded(end)))
    }

    fn added(&self, number: u32, node: Option<&[u8]>, needs: Option<&[u8]>) -> Option<Step> {
        let node = match node {
            None => NodeName::default(),
            Some(_) => NodeName(array(node)?),
        };
        let needs = match needs {
            None => None,
            Some(list) => Some(self.earlier(number, list)?),
        };
        let (kind, takes, gives, performer, undo) = (0, 0, false, BY_NODE, BY_NODE);
        Some(Step { number, node, needs, kind, takes, gives, performer, undo })
    }

    /// Steps that stand before this one, by number, as a set.
    fn earlier(&self, number: u32, list: &[u8]) -> Option<StepSet> {
        let (list, rest) = list.as_chunks::<4>();
        let mut earlier = 0;
        for other in list {
            let other = u32::from_le_bytes(*other);
            earlier |= self.step(other).filter(|_| other < number)?;
        }
        rest.is_empty().then_some(earlier)
    }

    /// A step of which an outcome is news.
    fn in_flight(&self, number: u32) -> Option<StepSet> {
        let index = self.index(number)?;
        let step = 1 << index;
        let running = if self.turned > 0 {
            self.may_have_started & self.has_undo & !self.undone & step > 0
        } else {
            self.started > 0 && self.needs(index) & !self.succeeded == 0
        };
        (running && self.outcomes() & step == 0).then_some(step)
    }
}

/// A name of 32 bytes, as its model's [`Names`] have it.
type Name = u32;

/// Names as numbers of four bytes: in a world most are numbers already, and transactions that are
/// to be looked at at any time should be small.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Those that are no small numbers.
    others: Vec<[u8; 32]>,
}

/// Of a name: it is a place in [`Names::others`].
const IS_OTHER: Name = 1 << 31;

impl Names {
    fn take(&mut self, name: &[u8; 32]) -> Name {
        if name[4..] == [0; 28] {
            let [a, b, c, d, ..] = *name;
            let number = Name::from_le_bytes([a, b, c, d]);
            if number < IS_OTHER {
                return number;
            }
        }
        let place = self.others.iter().position(|other| other == name).unwrap_or_else(|| {
            self.others.push(*name);
            self.others.len() - 1
        });
        assert!(place < IS_OTHER as usize, "fewer than 2^31 names");
        place as Name | IS_OTHER
    }

    fn give(&self, name: Name) -> [u8; 32] {
        if name & IS_OTHER > 0 {
            return self.others[(name ^ IS_OTHER) as usize];
        }
        ShardId::numbered(u64::from(name)).0
    }
}

/// A participant of a transaction, and its vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    shard: Name,
    node: Name,
    store: u64,
    boot: u32,
    /// Whether store and boot are known.
    announced: bool,
    vote: Option<Vote>,
}

impl Listed {
    fn new(member: Member, names: &mut Names) -> Listed {
        let (store, boot) = member.store.map_or((0, 0), |(store, boot)| (store.0, boot.0));
        Listed {
            shard: names.take(&member.shard.0),
            node: names.take(&member.node.0),
            store,
            boot,
            announced: member.store.is_some(),
            vote: None,
        }
    }

    fn shard(&self, names: &Names) -> ShardId {
        ShardId(names.give(self.shard))
    }

    fn member(&self, names: &Names) -> Member {
        Member {
            shard: self.shard(names),
            node: NodeName(names.give(self.node)),
            store: self.announced.then_some((StoreId(self.store), BootCount(self.boot))),
        }
    }
}

/// Room for so many participants is made at once.
const MEMBERS_USUAL: usize = 8;

/// What a log says of one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The step of a saga that it does or undoes.
    pub parent: Option<Parent>,
    /// Its `tx_created`.
    pub created: u64,
    /// That record's timestamp.
    pub created_ms: i64,
    /// Its last legal record.
    pub last: u64,
    members: Vec<Listed>,
    /// Its `tx_prepare_start`; 0: none.
    pub prepared: u64,
    /// That leaves the decision to its only participant.
    pub one_phase: bool,
    /// Its `tx_commit_start`; 0: none.
    pub committing: u64,
    /// Its first `tx_abort_start`; 0: none.
    pub aborting: u64,
    /// Its first `tx_rollback_start`; 0: none.
    pub rolling_back: u64,
    /// How it ended.
    pub ended: Option<Decision>,
}

impl Transaction {
    /// How many participants it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Its participants.
    pub fn members<'a>(&'a self, names: &'a Names) -> impl Iterator<Item = Member> + 'a {
        self.members.iter().map(|listed| listed.member(names))
    }

    /// How many of them have something to change, as far as they have voted.
    #[must_use]
    pub fn writers(&self) -> usize {
        self.members.iter().filter(|listed| listed.vote != Some(Vote::ReadOnly)).count()
    }

    /// Its participants, each with its vote.
    pub fn votes<'a>(
        &'a self,
        names: &'a Names,
    ) -> impl Iterator<Item = (Member, Option<Vote>)> + 'a {
        self.members.iter().map(|listed| (listed.member(names), listed.vote))
    }

    /// Nobody but its only participant may decide it now.
    pub fn is_delegated(&self) -> bool {
        self.one_phase && self.undecided()
    }

    fn listed_mut(&mut self, shard: Name) -> Option<&mut Listed> {
        self.members.iter_mut().find(|listed| listed.shard == shard)
    }

    fn undecided(&self) -> bool {
        self.committing == 0 && self.aborting == 0 && self.rolling_back == 0
    }

    /// What recovery has to report of it; nothing if it has ended.
    #[must_use]
    pub fn report(&self, id: OperationId, rules: &Rules, names: &Names) -> Option<OperationReport> {
        if self.ended.is_some() {
            return None;
        }
        let all_yes = self.prepared > 0 && self.all_voted_commit();
        let (state, evidence) = if self.committing > 0 {
            ("committing", self.committing)
        } else if self.aborting > 0 {
            ("aborting", self.first_abort())
        } else if self.rolling_back > 0 {
            ("rolling_back", self.rolling_back)
        } else if self.is_delegated() {
            ("delegated", self.last)
        } else if self.prepared > 0 {
            ("preparing", self.last)
        } else {
            ("created", self.last)
        };
        let commit = self.committing > 0
            || !rules.presumed_abort && self.undecided() && all_yes && !self.members.is_empty();
        let action = match commit {
            true => RecoveryAction::TxResumeCommit,
            false if self.is_delegated() => RecoveryAction::None,
            false => RecoveryAction::TxResumeAbort,
        };
        let voted = |listed: &Listed| Some((listed.shard(names), listed.vote?));
        Some(OperationReport {
            id,
            kind: OperationKind::Transaction {
                members: self.members(names).collect(),
                votes: self.members.iter().filter_map(voted).collect(),
            },
            state,
            action,
            in_doubt: false,
            evidence: Sequence(evidence),
            last: Sequence(self.last),
            created_ms: Some(self.created_ms),
            parent: self.parent.map(Parent::named),
        })
    }

    fn first_abort(&self) -> u64 {
        match self.rolling_back {
            0 => self.aborting,
            rolling_back => self.aborting.min(rolling_back),
        }
    }

    fn all_voted_commit(&self) -> bool {
        let agrees = |listed: &Listed| !matches!(listed.vote, None | Some(Vote::Abort));
        self.members.iter().all(agrees)
    }

    /// Takes a record if it is legal. An unbacked commit is taken and is not legal.
    fn take(
        &mut self,
        at: u64,
        event: EventType,
        fields: &mut Fields<'_>,
        rules: &Rules,
        names: &mut Names,
    ) -> Option<Change> {
        if self.ended.is_some() {
            return None;
        }
        let aborting = self.aborting > 0 || self.rolling_back > 0;
        let begun = self.prepared > 0;
        let mut change = Change::Transaction;
        let mut legal = true;
        match event {
            EventType::TX_PARTICIPANT_ADDED => {
                let listed = Listed::new(added(fields)?, names);
                let known = self.listed_mut(listed.shard).is_some();
                (!begun && self.undecided() && !known).then_some(())?;
                if self.members.is_empty() {
                    self.members.reserve(MEMBERS_USUAL);
                }
                self.members.push(listed);
            }
            EventType::TX_PREPARE_START => {
                let [one_phase] = fields.extensions([tag::ONE_PHASE])?;
                self.one_phase = match one_phase {
                    None => false,
                    Some([1]) if self.members.len() == 1 => true,
                    Some(_) => return None,
                };
                (!begun && self.undecided()).then_some(())?;
                self.prepared = at;
            }
            EventType::TX_VOTE_RECEIVED => {
                let shard = fields.shard()?;
                let agrees = fields.u8()?;
                let [read_only] = fields.extensions([tag::READ_ONLY])?;
                let vote = match (agrees, read_only) {
                    (0, None) => Vote::Abort,
                    (1, None) => Vote::Commit,
                    (1, Some([1])) => Vote::ReadOnly,
                    _ => return None,
                };
                let voting = self.committing == 0 && (begun || aborting);
                (voting && !self.is_delegated()).then_some(())?;
                let listed = self.listed_mut(names.take(&shard.0))?;
                listed.vote.is_none().then_some(())?;
                listed.vote = Some(vote);
                change = Change::Voted(shard, vote);
            }
            EventType::TX_COMMIT_START => {
                let tags = fields.extensions([tag::PARTICIPANTS]);
                let list = tags.and_then(|[list]| list).unwrap_or(&[]);
                let (list, rest) = list.as_chunks::<PARTICIPANT_BYTES>();
                // What cannot be read to its end is a decision all the same: someone may know of it.
                let readable = tags.is_some() && rest.is_empty();
                let list = if readable { list } else { &[] };
                let late = aborting && rules.first_decision_wins;
                (self.committing == 0 && !late).then_some(())?;
                let known = self.members.len();
                let alone = self.is_delegated() && self.members.len() == 1;
                let begun_and_voted = alone || begun && self.all_voted_commit();
                (begun_and_voted || rules.unbacked_commit_stands).then_some(())?;
                list.iter().for_each(|bytes| self.learn(bytes, names));
                // Whom only the decision names has not voted either.
                legal = readable && begun_and_voted && self.members.len() == known;
                self.committing = at;
                change = Change::CommitStart;
            }
            EventType::TX_COMMIT_COMPLETE => {
                (self.committing > 0).then_some(())?;
                self.ended = Some(Decision::Commit);
                change = Change::CommitComplete;
            }
            EventType::TX_ABORT_START => {
                (self.committing == 0).then_some(())?;
                if self.one_phase && self.undecided() {
                    change = Change::RefusedAlone;
                }
                if self.aborting == 0 {
                    self.aborting = at;
                }
            }
            EventType::TX_ABORT_COMPLETE => {
                let [read_only] = fields.extensions([tag::READ_ONLY])?;
                (self.committing == 0).then_some(())?;
                let nothing_to_do = self.undecided() && (self.one_phase || self.writers() == 0);
                self.ended = Some(match read_only {
                    None if self.is_delegated() => return None,
                    None => Decision::Abort,
                    Some([1]) if begun && nothing_to_do => Decision::ReadOnly,
                    Some(_) => return None,
                });
                if self.ended == Some(Decision::ReadOnly) {
                    change = Change::NothingToDecide;
                }
            }
            EventType::TX_ROLLBACK_START => {
                (self.committing == 0 && (begun || aborting) && !self.is_delegated())
                    .then_some(())?;
                if self.rolling_back == 0 {
                    self.rolling_back = at;
                }
            }
            EventType::TX_ROLLBACK_COMPLETE => {
                (self.committing == 0 && self.rolling_back > 0).then_some(())?;
                if self.aborting == 0 || !rules.rollback_inside_abort_goes_on {
                    self.ended = Some(Decision::Abort);
                }
            }
            _ => return None,
        }
        self.last = at;
        Some(if legal { change } else { Change::UnbackedCommit })
    }

    /// A commit decision's own list counts for what it names.
    fn learn(&mut self, bytes: &[u8; PARTICIPANT_BYTES], names: &mut Names) {
        let mut fields = Fields(bytes);
        let (Some(shard), Some(node), Some(store), Some(boot)) =
            (fields.shard(), fields.node(), fields.u64(), fields.u32())
        else {
            unreachable!("76 bytes hold all four");
        };
        let store = (boot > 0).then_some((StoreId(store), BootCount(boot)));
        let named = Listed::new(Member { shard, node, store }, names);
        match self.listed_mut(named.shard) {
            Some(listed) => *listed = Listed { vote: listed.vote, ..named },
            None => self.members.push(named),
        }
    }
}

fn added(fields: &mut Fields<'_>) -> Option<Member> {
    let (shard, node) = (fields.shard()?, fields.node()?);
    let [store] = fields.extensions([tag::STORE])?;
    let store = match store {
        None => None,
        Some(value) => {
            (value.len() == 12).then_some(())?;
            let mut value = Fields(value);
            Some((StoreId(value.u64()?), BootCount(value.u32()?)))
        }
    };
    Some(Member { shard, node, store })
}

/// What a legal record has changed, as far as others have to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something of a saga.
    Saga,
    /// A saga exists.
    SagaCreated,
    /// A step succeeded.
    StepSucceeded(StepSet),
    /// A step failed.
    StepFailed {
        /// Which.
        step: StepSet,
        /// It may have had an effect.
        unknown: bool,
    },
    /// A step was undone.
    Undone(StepSet),
    /// A step counts as undone because an operator says so.
    Closed(StepSet),
    /// A branch waits for an operator.
    Parked,
    /// A saga ended.
    SagaEnded(End),
    /// A branch ended otherwise than its transaction, or an operator has seen to that.
    Heuristic,
    /// Something of a transaction.
    Transaction,
    /// A transaction exists.
    TransactionCreated,
    /// A vote is in.
    Voted(ShardId, Vote),
    /// The decision to commit.
    CommitStart,
    /// Its only participant has decided not to.
    RefusedAlone,
    /// Everybody has said that there is nothing to change.
    NothingToDecide,
    /// A decision to commit without all votes: it stands, and is an anomaly.
    UnbackedCommit,
    /// Everybody has committed.
    CommitComplete,
    /// A marker.
    Checkpoint,
}

/// Everything that a coordinator's log says.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The rules that it goes by.
    pub rules: Rules,
    /// Sagas.
    pub sagas: IdMap<Saga>,
    /// Transactions.
    pub transactions: IdMap<Transaction>,
    /// The names of their participants.
    pub names: Names,
    /// Records that are not legal.
    pub anomalies: Vec<u64>,
    /// How many records there were.
    pub records: u64,
    /// Those of sagas.
    pub saga_events: u64,
    /// Those of transactions.
    pub transaction_events: u64,
    /// Markers.
    pub checkpoints: u64,
}

impl Model {
    /// Takes the next record, and says what it changed; `None`: it is an anomaly.
    pub fn take(
        &mut self,
        sequence: u64,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Option<Change> {
        self.records += 1;
        self.saga_events += u64::from((0x01..=0x0B).contains(&event.0));
        self.transaction_events += u64::from((0x10..=0x19).contains(&event.0));
        // The extension of a part of a snapshot is the first one, and has five bytes.
        let part = payload.get(16..20) == Some(&[1, 64, 5, 0]);
        self.checkpoints += u64::from(event.0 == 0xF0 && !part);
        let change = self.change(sequence, event, timestamp_ms, payload);
        if matches!(change, None | Some(Change::UnbackedCommit)) {
            self.anomalies.push(sequence);
        }
        change
    }

    fn change(
        &mut self,
        sequence: u64,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Option<Change> {
        let mut fields = Fields(payload);
        let rules = self.rules;
        match event.0 {
            0xF0 => {
                fields.array::<16>()?;
                Some(Change::Checkpoint)
            }
            0x01 => {
                let id = fields.id()?;
                let parent = parent(fields)?;
                created(&mut fields)?;
                let other = !rules.two_name_spaces && self.transactions.get(id).is_some();
                (!other && self.sagas.get(id).is_none()).then_some(())?;
                let saga = self.sagas.entry(id, Saga::default);
                (saga.created, saga.last, saga.created_ms) = (sequence, sequence, timestamp_ms);
                saga.parent = parent;
                Some(Change::SagaCreated)
            }
            0x02..=0x0B => {
                let saga = self.sagas.get_mut(fields.id()?)?;
                saga.take(sequence, event, &mut fields, &rules)
            }
            0x10 => {
                let id = fields.id()?;
                let parent = parent(fields)?;
                created(&mut fields)?;
                let other = !rules.two_name_spaces && self.sagas.get(id).is_some();
                (!other && self.transactions.get(id).is_none()).then_some(())?;
                let tx = self.transactions.entry(id, Transaction::default);
                (tx.created, tx.last, tx.created_ms) = (sequence, sequence, timestamp_ms);
                tx.parent = parent;
                Some(Change::TransactionCreated)
            }
            0x11..=0x19 => {
                let transaction = self.transactions.get_mut(fields.id()?)?;
                transaction.take(sequence, event, &mut fields, &rules, &mut self.names)
            }
            // A branch that ended otherwise: not the model's, since it is about another log.
            0x22 => Some(Change::Heuristic),
            _ => None,
        }
    }

    /// Compares what recovery reports of this log with what the model says.
    ///
    /// # Errors
    /// The first difference, for people.
    pub fn compare(&self, report: &RecoveryReport) -> Result<(), String> {
        let told = Told {
            records: self.records,
            saga_events: self.saga_events,
            transaction_events: self.transaction_events,
            checkpoints: self.checkpoints,
            from_snapshot: false,
            recycled: false,
        };
        self.compare_with(report, &told)
    }

    /// Compares what recovery reports of this log with what the model says of all of its history, of which
    /// the log holds no more than what was told: a snapshot has to say the rest.
    ///
    /// # Errors
    /// The first difference, for people.
    pub fn compare_with(&self, report: &RecoveryReport, told: &Told) -> Result<(), String> {
        self.compare_counts(report, told)?;
        let mut expected: Vec<OperationReport> = Vec::new();
        let sagas = self.sagas.iter().filter_map(|(id, saga)| saga.report(id, &self.rules));
        expected.extend(sagas);
        expected.sort_unstable_by_key(|operation| operation.id);
        let sagas = expected.len();
        let transactions = self.transactions.iter();
        let reports = transactions.filter_map(|(id, tx)| tx.report(id, &self.rules, &self.names));
        expected.extend(reports);
        expected[sagas..].sort_unstable_by_key(|operation| operation.id);
        let found = &report.operations;
        for (at, expected) in expected.iter().enumerate() {
            if found.get(at) != Some(expected) {
                return Err(format!("expected {expected:?}, found {:?}", found.get(at)));
            }
        }
        if let Some(more) = found.get(expected.len()) {
            return Err(format!("nothing of this should be there: {more:?}"));
        }
        let sagas = self.sagas.iter().filter_map(|(id, saga)| Some((id, saga.ended?.0)));
        compare_ended(sagas.collect(), &report.completed_sagas)?;
        let transactions = self.transactions.iter();
        let ended = transactions.filter_map(|(id, tx)| Some((id, tx.ended?)));
        compare_ended(ended.collect(), &report.completed_transactions)?;
        let anomalies = report.anomalies.entries.iter().map(|anomaly| anomaly.sequence.0);
        if !anomalies.clone().eq(self.anomalies.iter().copied()) {
            let found: Vec<u64> = anomalies.collect();
            return Err(format!("expected anomalies {:?}, found {found:?}", self.anomalies));
        }
        Ok(())
    }

    fn compare_counts(&self, report: &RecoveryReport, told: &Told) -> Result<(), String> {
        let (scanned, stats) = (&report.scanned, &report.scanned.stats);
        let counts = [
            ("records", scanned.records, told.records),
            ("records in all", stats.records, told.records),
            ("the last sequence", scanned.last_sequence.0, self.records),
            ("saga events", stats.saga_events, told.saga_events),
            ("transaction events", stats.transaction_events, told.transaction_events),
            ("checkpoints", stats.checkpoints, told.checkpoints),
            ("corrupted records", scanned.corrupted_records, 0),
            ("damaged places", scanned.corruption.len() as u64, 0),
            ("unknown ids in doubt", u64::from(report.unknown_ids_in_doubt), 0),
        ];
        // A process that was replaced may take away what a snapshot covers, between its successor's reading
        // and here: then there was more to count. What was read must be the same all the same.
        let recycled = told.recycled && told.from_snapshot && scanned.records > told.records;
        let counted =
            ["records", "records in all", "saga events", "transaction events", "checkpoints"];
        for (name, found, expected) in counts {
            if found < expected || found > expected && !(recycled && counted.contains(&name)) {
                return Err(format!("{name}: expected {expected}, found {found}"));
            }
        }
        Ok(())
    }
}

fn compare_ended<H: Copy + PartialEq + std::fmt::Debug>(
    ended: Vec<(OperationId, H)>,
    report: &Capped<(OperationId, H)>,
) -> Result<(), String> {
    if report.total() != ended.len() as u64 {
        return Err(format!("{} operations ended, {} are reported", ended.len(), report.total()));
    }
    let found: BTreeMap<OperationId, H> = report.entries.iter().copied().collect();
    for (id, how) in ended {
        if report.left_out == 0 && found.get(&id) != Some(&how) {
            return Err(format!("operation {id} ended {how:?}, reported {:?}", found.get(&id)));
        }
    }
    Ok(())
}

/// What stands behind a created record's id: the request's key, if it has one.
pub fn created<'a>(fields: &mut Fields<'a>) -> Option<Option<&'a [u8]>> {
    fields.coordinator()?;
    let [key] = fields.extensions([tag::REQUEST_KEY])?;
    key.is_none_or(|key| key.len() <= RequestKey::BYTES_MAX as usize).then_some(key)
}

/// The step that stands behind a created record's id as what the operation is for, if one does.
fn parent(mut fields: Fields<'_>) -> Option<Option<Parent>> {
    fields.coordinator()?;
    let [parent] = fields.extensions([tag::PARENT])?;
    let Some(value) = parent else { return Some(None) };
    let mut value = Fields(value);
    let (saga, step, undo) = (value.id()?, value.u32()?, value.u8()?);
    (undo <= 1 && value.0.is_empty()).then_some(Some(Parent { saga, step, undo: undo == 1 }))
}
