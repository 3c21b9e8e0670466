//! The machine: one saga as a function of its events.

use crate::definition::{Action, Definition};
use crate::event::{
    AttemptNote, Direction, Effect, End, Event, EventKind, FailedEffect, Input, Outcome,
    STEP_TIMED_OUT,
};
use crate::kind::StepKind;
use crate::order::{Order, OrderRefusal, What};
use crate::performer::{Performer, Undo};
use crate::terms::{Output, SagaTerms, StepInput, StepTerms};
use base::{CoordinatorId, NodeName, OperationId, ParentStep, RequestKey, Sequence, Token, prng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One saga: a value that is rebuilt from its events, in recovery as while running.
///
/// Its methods, in the order in which a shell uses them:
/// 1. [`Saga::admission`] and [`Saga::created`] make one;
/// 2. [`Saga::decide`] and [`Saga::settle`] say what to log (`&self`);
/// 3. [`Saga::apply`] is the only writer;
/// 4. [`Saga::pending`] says what to do;
/// 5. the rest are views.
///
/// Cost: `decide`, `settle` and `apply` take time in proportion to the dependencies of the step in
/// question and of the pivot, except for execute_start and the one record that turns the saga, which
/// look at every step, once; only `apply` of a step_added, of an order, and of a record that frees
/// steps without an undo allocates. So a replay takes no longer than the number
/// of records, however long a foreign log's sagas are, times the dependencies of the widest step.
/// [`Saga::pending`] and the classification look at every step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saga {
    id: OperationId,
    coordinator: CoordinatorId,
    nonce: u128,
    request_key: Option<RequestKey>,
    terms: SagaTerms,
    created: Sequence,
    last: Sequence,
    state: State,
    /// Ascending by number; normally dense, so that a step's number is its index.
    steps: Vec<StepState>,
    /// Steps that a foreign log added after a higher number. Empty from execute_start on.
    /// (Inserting them in the vector at once would cost a log of descending numbers the square of
    /// its length.)
    stragglers: BTreeMap<u32, StepState>,
    /// How many steps have succeeded.
    succeeded: u32,
    /// The number of the pivot, if there is one.
    pivot: Option<u32>,
    /// How many branches are parked.
    parked: u32,
    /// Steps that an operator has closed without their participant's answer: their end is owed.
    closed: BTreeSet<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Created,
    Executing {
        /// The execute_start.
        since: Sequence,
    },
    Compensating {
        /// The record that turned it.
        since: Sequence,
        turn: Turn,
        /// Whether a compensation_start was seen: there is at most one.
        announced: bool,
        /// The undo list's length.
        undo: u32,
    },
    Ended {
        end: End,
        at: Sequence,
    },
}

/// Where a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before execute_start: nothing has run.
    Created,
    /// Going forward.
    Executing,
    /// Going backward. It never turns again.
    Compensating,
    /// Done with.
    Ended(End),
}

impl Phase {
    /// `"created"`, `"executing"`, `"compensating"`, `"completed"`, `"compensated"` or `"aborted"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Executing => "executing",
            Phase::Compensating => "compensating",
            Phase::Ended(end) => end.name(),
        }
    }
}

/// Why a saga goes backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A step failed.
    Failed {
        /// Which.
        step: u32,
    },
    /// A compensation_start while it was executing.
    Asked {
        /// What that record names; `None`: cancelled or timed out.
        cause: Option<u32>,
    },
    /// A saga_aborted while effects could remain.
    Aborted,
}

/// A step within a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepState {
    number: u32,
    /// Of its forward calls. Whatever answers, all that are owed are looked through.
    token: Token,
    action: Action,
    /// `None`: the step before it, by number.
    dependencies: Option<Box<[u32]>>,
    node: NodeName,
    body: Arc<[u8]>,
    terms: StepTerms,
    outcome: Option<StepOutcome>,
    /// What its success brought.
    output: Option<Output>,
    /// While the saga is compensating: whether it is on the undo list.
    undo: bool,
    /// While the saga is compensating: how many steps that depend on it are on the undo list, or have
    /// such dependents in their turn.
    dependents: u32,
    /// While the saga is compensating: the last of the record that turned it, of those that took
    /// its dependents off the undo list, and of an operator's orders. Before: the last record that parked
    /// the step, or with which an operator saw to that.
    free: Sequence,
    compensated: Option<Sequence>,
    attempts: u32,
    /// What `attempts` was at the last order.
    attempts_before: u32,
    care: Care,
    /// What an operator has its compensation ask for.
    override_body: Option<Arc<[u8]>>,
    /// The transaction by which an operator has it undone.
    override_undo: Option<Undo>,
}

/// What is done about a step that is to be undone; or to be done, which is called or parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// It is called until it is undone, or done.
    Called,
    /// Nothing: an operator has to say.
    Parked,
    /// Its participant is told that it is undone.
    Marked,
}

/// What the log says about a forward call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// step_succeeded.
    Succeeded {
        /// Its sequence.
        at: Sequence,
    },
    /// step_failed.
    Failed {
        /// Its sequence.
        at: Sequence,
        /// Its code.
        error_code: u32,
        /// Whether the step is to be undone all the same.
        effect: FailedEffect,
    },
}

impl StepState {
    /// Its number in this saga.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The kind of work.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// What it waits for, ascending; `None`: the step with the next lower number.
    #[must_use]
    pub fn dependencies(&self) -> Option<&[u32]> {
        self.dependencies.as_deref()
    }

    /// Where it runs.
    #[must_use]
    pub const fn node(&self) -> NodeName {
        self.node
    }

    /// What is asked there.
    #[must_use]
    pub const fn body(&self) -> &Arc<[u8]> {
        &self.body
    }

    /// What the log says about its forward call, if anything.
    #[must_use]
    pub const fn outcome(&self) -> Option<StepOutcome> {
        self.outcome
    }

    /// The record that says that it is undone, if there is one.
    #[must_use]
    pub const fn compensated(&self) -> Option<Sequence> {
        self.compensated
    }

    /// The highest number of a failed attempt to undo it; 0 if there was none.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What else was agreed on.
    #[must_use]
    pub const fn terms(&self) -> &StepTerms {
        &self.terms
    }

    /// Whether it can fail, and whether it can be undone.
    #[must_use]
    pub const fn kind(&self) -> StepKind {
        self.terms.kind
    }

    /// Who does it.
    #[must_use]
    pub const fn performer(&self) -> &Performer {
        &self.terms.performer
    }

    /// Who undoes it, if it has an undo: as the definition says, or an operator instead.
    #[must_use]
    pub const fn undo(&self) -> &Undo {
        match &self.override_undo {
            Some(undo) => undo,
            None => &self.terms.undo,
        }
    }

    /// What its success brought, if it brought anything.
    #[must_use]
    pub const fn output(&self) -> Option<&Output> {
        self.output.as_ref()
    }

    /// How many attempts to undo it have failed since an operator last had it tried anew; in all, if
    /// none has.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.attempts - self.attempts_before
    }

    /// Whether its branch is parked: it is to be undone, and is not called any more until an operator
    /// says so. An answer that comes late all the same counts. Or it is to be done, cannot fail, and an
    /// operator has forced the abort of the transaction that did it: whether it is done, he has to say.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.care == Care::Parked
    }

    /// The last record that parked it, or with which an operator saw to it; of one that is to be undone, the
    /// last that lets that begin. What has become of its operations up to there, its saga knows.
    #[must_use]
    pub const fn seen_to(&self) -> Sequence {
        self.free
    }

    /// Whether an operator has marked it done, and its participant has not answered yet.
    #[must_use]
    pub fn is_marked_done(&self) -> bool {
        self.undo && self.care == Care::Marked
    }

    /// What is asked of its compensation: the same as of the step, or what an operator has put in its
    /// place.
    #[must_use]
    pub fn undo_body(&self) -> &Arc<[u8]> {
        self.override_body.as_ref().unwrap_or(&self.body)
    }

    /// Whether an operator has put something else in the place of its compensation.
    #[must_use]
    pub const fn is_overridden(&self) -> bool {
        self.override_body.is_some()
    }

    fn success(&self) -> Option<Sequence> {
        match self.outcome {
            Some(StepOutcome::Succeeded { at }) => Some(at),
            _ => None,
        }
    }

    /// Whether its turn to be undone has come: nothing that depends on it is on the undo list.
    fn undoable(&self) -> bool {
        self.undo && self.dependents == 0
    }

    /// Whether it is undone by a call: what became of an operation is known before anything is undone.
    fn undone_by_call(&self) -> bool {
        let known = matches!(self.terms.performer, Performer::Node) || self.outcome.is_some();
        matches!(self.undo(), Undo::Call) && known
    }
}

/// What a recovery should do with the saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryAction {
    /// Go on forward.
    SagaResumeExecute,
    /// Go on backward.
    SagaResumeCompensate,
    /// Nothing: it is finished, or nothing ever ran.
    None,
}

impl RecoveryAction {
    /// `"saga_resume_execute"`, `"saga_resume_compensate"` or `"none"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RecoveryAction::SagaResumeExecute => "saga_resume_execute",
            RecoveryAction::SagaResumeCompensate => "saga_resume_compensate",
            RecoveryAction::None => "none",
        }
    }
}

/// The saga's class and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// [`Phase::name`].
    pub state: &'static str,
    /// What a recovery should do.
    pub action: RecoveryAction,
    /// The first of `run`, or of `undo`.
    pub next_step: Option<u32>,
    /// The steps that may be running: to be called, again with the same token. Ascending. None that waits
    /// for an operator.
    pub run: Vec<u32>,
    /// The undo list, descending: a step stands before everything that it depends on.
    pub undo: Vec<u32>,
    /// The steps that wait for an operator: of the undo list, or to be done. Ascending.
    pub parked: Vec<u32>,
    /// The record that proves the class: execute_start, the record that turned the saga, its end,
    /// or its created.
    pub evidence: Sequence,
    /// The saga's last record.
    pub last: Sequence,
}

/// An event that does not follow from the saga's state. Nothing was changed.
///
/// In a log that is replayed: an anomaly of that log, to be reported. While running: a bug of the
/// shell, which applied something else than what `decide` or `settle` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {}is illegal {}: {reason}", .event.name(), Of(*.step), While(*.phase))]
#[non_exhaustive]
pub struct IllegalTransition {
    /// What was to be applied.
    pub event: EventKind,
    /// The step that it is about, if any.
    pub step: Option<u32>,
    /// Where the saga stood; `None`: there was none.
    pub phase: Option<Phase>,
    /// What is wrong.
    pub reason: Reason,
}

struct Of(Option<u32>);

impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |step| write!(f, "of step {step} "))
    }
}

struct While(Option<Phase>);

impl std::fmt::Display for While {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(phase) => write!(f, "in state {}", phase.name()),
            None => f.write_str("at the beginning"),
        }
    }
}

/// Why an event is illegal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A saga begins with saga_created.
    #[error("a saga begins with saga_created")]
    NotCreated,
    /// saga_created comes once.
    #[error("the saga exists already")]
    AlreadyCreated,
    /// Nothing follows an end.
    #[error("the saga has ended")]
    Ended,
    /// execute_start comes first.
    #[error("execute_start is missing")]
    NotStarted,
    /// Steps are added before execute_start, which comes once.
    #[error("execute_start came before")]
    AlreadyStarted,
    /// The saga goes backward.
    #[error("the saga goes backward")]
    NotExecuting,
    /// Nothing has turned the saga.
    #[error("the saga does not go backward")]
    NotCompensating,
    /// compensation_start comes once.
    #[error("compensation_start came before")]
    AlreadyAnnounced,
    /// No such step was added.
    #[error("no such step was added")]
    UnknownStep,
    /// The number is taken.
    #[error("a step of this number was added before")]
    DuplicateStep,
    /// A step depends on steps that were added before it and have lower numbers.
    #[error("its dependency {dependency} is not an earlier step")]
    UnknownDependency {
        /// What it names.
        dependency: u32,
    },
    /// A step runs when all its dependencies have succeeded.
    #[error("its dependency {dependency} has not succeeded")]
    DependencyOpen {
        /// One of those that have not.
        dependency: u32,
    },
    /// A step has one outcome.
    #[error("its outcome is known")]
    OutcomeKnown,
    /// It was not in flight when the saga turned.
    #[error("it had not started when the saga turned")]
    NeverStarted,
    /// A step is undone once, and what its forward call did is worth nothing after that.
    #[error("it is undone")]
    AlreadyCompensated,
    /// The step has no effect, and had none when the saga turned or was refused since.
    #[error("it has nothing to undo")]
    NothingToUndo,
    /// What depends on a step is undone before it.
    #[error("steps that depend on it are still to be undone: {count}")]
    DependentsRemain {
        /// How many.
        count: u32,
    },
    /// A retriable step is run until it is done; a pivot fails only by a refusal.
    #[error("a {} step does not fail so", .kind.name())]
    NeverFails {
        /// What it is.
        kind: StepKind,
    },
    /// Once the pivot may have been started, only its own refusal turns the saga.
    #[error("the pivot, step {pivot}, may have been started: the saga only goes forward")]
    PastPivot {
        /// The pivot.
        pivot: u32,
    },
    /// There is one point of no return.
    #[error("step {pivot} is the pivot already")]
    SecondPivot {
        /// The one that was added before.
        pivot: u32,
    },
    /// A step is given what steps before it have brought.
    #[error("its input {input} is not an earlier step")]
    UnknownInput {
        /// What it names.
        input: u32,
    },
    /// A step is closed without an answer only after its participant was to be told.
    #[error("it was not marked done")]
    NotMarked,
    /// Only an operator's order ends a step without its participant.
    #[error("no operator has closed it")]
    NotClosed,
    /// What a transaction or a sub-saga does or undoes is seen to by an operator only while it waits for one.
    #[error("it does not wait for an operator")]
    NotParked,
    /// The saga is completed when all steps have succeeded.
    #[error("steps that have not succeeded: {count}")]
    StepsRemain {
        /// How many.
        count: u32,
    },
    /// The saga is compensated when the undo list is empty.
    #[error("steps still to be undone: {count}")]
    EffectsRemain {
        /// How many.
        count: u32,
    },
}

impl Saga {
    /// The events that admit a saga: created, its steps, execute_start. To be appended as one unit;
    /// should a crash leave only a part of them, the saga classifies as `none`.
    #[must_use]
    pub fn admission(
        definition: &Definition,
        coordinator: CoordinatorId,
        nonce: u128,
        request_key: Option<RequestKey>,
    ) -> Vec<Event> {
        let mut events = Vec::with_capacity(definition.steps().len() + 2);
        let terms = definition.terms();
        events.push(Event::Created { coordinator, nonce, request_key, terms });
        events.extend((0..).zip(definition.steps()).map(|(step, asked)| Event::StepAdded {
            step,
            action: asked.action,
            dependencies: Some(asked.dependencies.clone()),
            node: asked.node,
            body: Arc::clone(&asked.body),
            terms: asked.terms(),
        }));
        events.push(Event::ExecuteStart);
        events
    }

    /// The same events, of a saga that is a step of another one. Its end is then owed only when that one
    /// says so: see [`Input::Released`].
    #[must_use]
    pub fn on_behalf_of(parent: ParentStep, mut admission: Vec<Event>) -> Vec<Event> {
        if let Some(Event::Created { terms, .. }) = admission.first_mut() {
            terms.parent = Some(parent);
        }
        admission
    }

    /// The saga that begins with `event`, the record `sequence`.
    ///
    /// # Errors
    /// [`IllegalTransition`] unless it is [`Event::Created`].
    pub fn created(
        id: OperationId,
        sequence: Sequence,
        event: &Event,
    ) -> Result<Saga, IllegalTransition> {
        let Event::Created { coordinator, nonce, request_key, terms } = event else {
            let (event, step) = (event.kind(), event.step());
            return Err(IllegalTransition { event, step, phase: None, reason: Reason::NotCreated });
        };
        Ok(Saga {
            id,
            coordinator: *coordinator,
            nonce: *nonce,
            request_key: request_key.clone(),
            terms: terms.clone(),
            created: sequence,
            last: sequence,
            state: State::Created,
            steps: Vec::new(),
            stragglers: BTreeMap::new(),
            succeeded: 0,
            pivot: None,
            parked: 0,
            closed: BTreeSet::new(),
        })
    }

    /// The one fact that `input` is worth, if any: to be appended to the log, then applied.
    /// Duplicates and late answers are worth none.
    #[must_use]
    pub fn decide(&self, input: &Input) -> Option<Event> {
        match input {
            Input::Outcome { step, direction: Direction::Forward, outcome } => {
                self.decide_forward(*step, outcome)
            }
            Input::Outcome { step, direction: Direction::Backward, outcome } => {
                self.decide_backward(*step, outcome)
            }
            // Going backward, a step without an answer is undone like any other: no record needed.
            Input::StepTimedOut { step } => {
                let State::Executing { .. } = self.state else { return None };
                let (step, effect) = (*step, FailedEffect::Maybe);
                let index = self.in_flight(step).ok()?;
                self.may_fail(index, effect).ok()?;
                Some(Event::StepFailed { step, error_code: STEP_TIMED_OUT, effect })
            }
            Input::GiveUpUndo { step } => {
                let state = self.called_back(*step)?;
                let attempt = state.attempts.saturating_add(1);
                let note = AttemptNote::Parked;
                Some(Event::CompensationFailed { step: *step, attempt, note })
            }
            Input::AbortForced { step } => {
                let state = &self.steps[self.held(*step).ok()?];
                let (attempt, note) = (state.attempts.saturating_add(1), AttemptNote::Parked);
                let fresh = state.care != Care::Parked;
                fresh.then_some(Event::CompensationFailed { step: *step, attempt, note })
            }
            Input::Ordered { step, order } => {
                let state = self.check_order(*step, order).ok()?;
                let (attempt, note) = (state.attempts, AttemptNote::Ordered(order.clone()));
                Some(Event::CompensationFailed { step: *step, attempt, note })
            }
            // It waits for nothing but the saga that it is a step of.
            Input::TimedOut if self.through().is_some() && self.terms.parent.is_some() => None,
            Input::Released => self.through().map(|end| match end {
                End::Completed => Event::Completed,
                End::Compensated => Event::Compensated,
                End::Aborted => unreachable!("an abort is never owed"),
            }),
            Input::Cancel | Input::TimedOut => match self.state {
                State::Created => Some(Event::Aborted),
                State::Executing { .. } if self.past_pivot().is_some() => None,
                State::Executing { .. } => Some(Event::CompensationStart { cause: None }),
                State::Compensating { .. } | State::Ended { .. } => None,
            },
            // Nothing of it ran, and nobody waits for it any more.
            Input::Restarted { epoch: _ } => {
                matches!(self.state, State::Created).then_some(Event::Aborted)
            }
        }
    }

    fn decide_forward(&self, step: u32, outcome: &Outcome) -> Option<Event> {
        let index = self.in_flight(step).ok()?;
        let wanted = self.steps[index].terms.output;
        match (outcome, wanted) {
            (Outcome::Done | Outcome::DoneWith(_), None) => {
                Some(Event::StepSucceeded { step, output: None })
            }
            (Outcome::DoneWith(output), Some(wanted)) => output
                .is_of(wanted)
                .then(|| Event::StepSucceeded { step, output: Some(output.clone()) }),
            // What a later step is to be given is not there: as good as no answer.
            (Outcome::Done, Some(_)) => None,
            (Outcome::Refused { code }, _) => {
                self.may_fail(index, FailedEffect::None).ok()?;
                Some(Event::StepFailed { step, error_code: *code, effect: FailedEffect::None })
            }
            (Outcome::Unknown, _) => None,
        }
    }

    fn decide_backward(&self, step: u32, outcome: &Outcome) -> Option<Event> {
        match outcome {
            // Also of a branch that is parked, or was marked done.
            Outcome::Done | Outcome::DoneWith(_) => {
                let state = &self.steps[self.to_undo(step).ok()?];
                let heuristic = false;
                state.undoable().then_some(Event::CompensationSucceeded { step, heuristic })
            }
            Outcome::Refused { .. } => {
                let attempt = self.called_back(step)?.attempts.saturating_add(1);
                Some(Event::CompensationFailed { step, attempt, note: AttemptNote::Retried })
            }
            Outcome::Unknown => None,
        }
    }

    /// A step whose compensation is being called.
    fn called_back(&self, step: u32) -> Option<&StepState> {
        let state = &self.steps[self.to_undo(step).ok()?];
        (state.undoable() && state.care == Care::Called).then_some(state)
    }

    /// Whether an operator's order about this step would be taken.
    ///
    /// # Errors
    /// [`OrderRefusal`]: why not.
    pub fn check_order(&self, step: u32, order: &Order) -> Result<&StepState, OrderRefusal> {
        let longest = order.who.len().max(order.why.len());
        if longest > Order::TEXT_BYTES_MAX as usize {
            return Err(OrderRefusal::TextTooLong { bytes: longest as u64 });
        }
        if let State::Executing { .. } = self.state {
            let state = self.held(step).ok().map(|index| &self.steps[index]);
            let state = state.filter(|state| state.is_parked());
            let state = state.ok_or(OrderRefusal::NotCompensating)?;
            return match order.what {
                What::RetryNow | What::MarkDone => Ok(state),
                _ => Err(OrderRefusal::NotACall { step }),
            };
        }
        let State::Compensating { .. } = self.state else {
            return Err(OrderRefusal::NotCompensating);
        };
        let index = self.to_undo(step).map_err(|_| OrderRefusal::NothingToUndo { step })?;
        let state = &self.steps[index];
        if !state.undoable() {
            return Err(OrderRefusal::DependentsRemain { step, count: state.dependents });
        }
        let (by_call, parked) = (state.undone_by_call(), state.is_parked());
        match &order.what {
            What::CloseUnanswered if by_call && state.care != Care::Marked => {
                Err(OrderRefusal::NotMarked { step })
            }
            What::RetryNow => Ok(state),
            // Nothing runs that could undo it once more.
            What::MarkDone if by_call || parked => Ok(state),
            What::Instead { branches } if !by_call && parked && state.outcome.is_some() => {
                crate::performer::check_branches(step, branches)
                    .map_err(|_| OrderRefusal::BadBranches { step })?;
                Ok(state)
            }
            What::Override { .. } | What::CloseUnanswered if by_call => Ok(state),
            _ => Err(OrderRefusal::NotACall { step }),
        }
    }

    /// The pivot, if it may have been started, or is done: the saga does not turn any more, unless by
    /// the pivot's own refusal.
    #[must_use]
    pub fn past_pivot(&self) -> Option<u32> {
        let State::Executing { .. } = self.state else { return None };
        let index = index_of(&self.steps, self.pivot?)?;
        self.ready(index).is_ok().then_some(self.steps[index].number)
    }

    /// Whether a step may fail, with this effect.
    fn may_fail(&self, index: usize, effect: FailedEffect) -> Result<(), Reason> {
        let kind = self.steps[index].terms.kind;
        match (kind, effect) {
            (StepKind::Retriable, _) | (StepKind::Pivot, FailedEffect::Maybe) => {
                Err(Reason::NeverFails { kind })
            }
            (StepKind::Pivot, FailedEffect::None) => Ok(()),
            _ => self.may_turn(),
        }
    }

    /// Whether the step never fails any more: a retriable one, or any behind the pivot once that may
    /// have been started.
    #[must_use]
    pub fn cannot_fail(&self, step: u32) -> bool {
        let index = index_of(&self.steps, step);
        index.is_some_and(|index| self.may_fail(index, FailedEffect::None).is_err())
    }

    fn may_turn(&self) -> Result<(), Reason> {
        self.past_pivot().map_or(Ok(()), |pivot| Err(Reason::PastPivot { pivot }))
    }

    /// How it ends, once nothing is left to do.
    #[must_use]
    pub fn through(&self) -> Option<End> {
        match self.state {
            State::Executing { .. } if self.unsucceeded() == 0 => Some(End::Completed),
            State::Compensating { undo: 0, .. } => Some(End::Compensated),
            _ => None,
        }
    }

    /// Whether what became of a step, or of its undo, is still to be told: its operation counts.
    #[must_use]
    pub fn awaits(&self, step: u32, direction: Direction) -> bool {
        match direction {
            Direction::Forward => self.in_flight(step).is_ok(),
            Direction::Backward => self.to_undo(step).is_ok(),
        }
    }

    /// The fact that this state owes the log without any input: the end, once it is reached, of a step
    /// that an operator has closed, or of the whole. The end of a saga that is a step of another one is
    /// owed only when that one [has released it](Input::Released), so that no such saga has ended while the
    /// other one does not know how.
    #[must_use]
    pub fn settle(&self) -> Option<Event> {
        match self.state {
            _ if self.through().is_some() && self.terms.parent.is_some() => None,
            State::Executing { .. } if self.unsucceeded() == 0 => Some(Event::Completed),
            State::Compensating { undo: 0, .. } => Some(Event::Compensated),
            State::Compensating { .. } => {
                // What depends on it is undone first.
                let due = |step: &&u32| {
                    self.to_undo(**step).is_ok_and(|index| self.steps[index].undoable())
                };
                let step = self.closed.iter().find(due).copied()?;
                Some(Event::CompensationSucceeded { step, heuristic: true })
            }
            _ => None,
        }
    }

    /// Applies the record `sequence`: live and in recovery the only writer of state.
    ///
    /// # Errors
    /// [`IllegalTransition`] if the event does not follow from this state. Nothing was changed.
    pub fn apply(&mut self, sequence: Sequence, event: &Event) -> Result<(), IllegalTransition> {
        match self.try_apply(sequence, event) {
            Ok(()) => {
                self.last = sequence;
                Ok(())
            }
            Err(reason) => Err(IllegalTransition {
                event: event.kind(),
                step: event.step(),
                phase: Some(self.phase()),
                reason,
            }),
        }
    }

    /// Each arm checks everything before it changes anything.
    fn try_apply(&mut self, at: Sequence, event: &Event) -> Result<(), Reason> {
        if let State::Ended { .. } = self.state {
            return Err(Reason::Ended);
        }
        match *event {
            Event::Created { .. } => Err(Reason::AlreadyCreated),
            Event::StepAdded { step, action, ref dependencies, node, ref body, ref terms } => {
                let dependencies = self.check_addition(step, dependencies.as_deref())?;
                let earlier = |input: u32| input < step && self.step(input).is_some();
                if let Some(&input) = terms.inputs.iter().find(|input| !earlier(**input)) {
                    return Err(Reason::UnknownInput { input });
                }
                if terms.kind == StepKind::Pivot {
                    if let Some(pivot) = self.pivot {
                        return Err(Reason::SecondPivot { pivot });
                    }
                    self.pivot = Some(step);
                }
                self.add(StepState {
                    number: step,
                    token: self.token(step, Direction::Forward),
                    action,
                    dependencies,
                    node,
                    body: Arc::clone(body),
                    terms: terms.clone(),
                    outcome: None,
                    output: None,
                    undo: false,
                    dependents: 0,
                    free: Sequence::NONE,
                    compensated: None,
                    attempts: 0,
                    attempts_before: 0,
                    care: Care::Called,
                    override_body: None,
                    override_undo: None,
                });
                Ok(())
            }
            Event::ExecuteStart => {
                let State::Created = self.state else { return Err(Reason::AlreadyStarted) };
                if !self.stragglers.is_empty() {
                    self.steps.extend(std::mem::take(&mut self.stragglers).into_values());
                    // Two ascending runs: the stable sort merges them.
                    self.steps.sort_by_key(StepState::number);
                }
                self.state = State::Executing { since: at };
                Ok(())
            }
            Event::StepSucceeded { step, ref output } => {
                let index = self.in_flight(step)?;
                self.steps[index].output = output.clone();
                self.succeed(index, at);
                Ok(())
            }
            Event::StepFailed { step, error_code, effect } => {
                let index = self.in_flight(step)?;
                self.may_fail(index, effect)?;
                self.steps[index].outcome = Some(StepOutcome::Failed { at, error_code, effect });
                if let State::Executing { .. } = self.state {
                    self.turn(at, Turn::Failed { step });
                } else if effect == FailedEffect::None {
                    self.leave_undo_list(index, at);
                }
                Ok(())
            }
            Event::CompensationStart { cause } => match &mut self.state {
                State::Created => Err(Reason::NotStarted),
                State::Compensating { announced: true, .. } => Err(Reason::AlreadyAnnounced),
                State::Compensating { announced, .. } => {
                    *announced = true;
                    Ok(())
                }
                _ => {
                    self.may_turn()?;
                    self.turn(at, Turn::Asked { cause });
                    Ok(())
                }
            },
            Event::CompensationSucceeded { step, heuristic } => {
                let index = self.to_undo(step)?;
                let state = &mut self.steps[index];
                if !state.undoable() {
                    return Err(Reason::DependentsRemain { count: state.dependents });
                }
                if heuristic && !self.closed.contains(&step) {
                    return Err(Reason::NotClosed);
                }
                state.compensated = Some(at);
                self.leave_undo_list(index, at);
                Ok(())
            }
            Event::CompensationFailed { step, attempt, ref note } => match self.state {
                State::Executing { .. } => {
                    let index = self.held(step)?;
                    self.seen_to_forward(index, at, attempt, note)
                }
                _ => {
                    let index = self.to_undo(step)?;
                    self.attempted(index, at, attempt, note)
                }
            },
            Event::Completed => match (&self.state, self.unsucceeded()) {
                (State::Created, _) => Err(Reason::NotStarted),
                (State::Compensating { .. }, _) => Err(Reason::NotExecuting),
                (_, 0) => self.end(End::Completed, at),
                (_, count) => Err(Reason::StepsRemain { count }),
            },
            Event::Compensated => match self.state {
                State::Compensating { undo: 0, .. } => self.end(End::Compensated, at),
                State::Compensating { undo, .. } => Err(Reason::EffectsRemain { count: undo }),
                _ => Err(Reason::NotCompensating),
            },
            Event::Aborted => {
                if let State::Executing { .. } = self.state {
                    self.may_turn()?;
                    self.turn(at, Turn::Aborted);
                }
                match self.state {
                    State::Compensating { undo: 1.., .. } => Ok(()),
                    _ => self.end(End::Aborted, at),
                }
            }
        }
    }

    /// What a compensation_failed changes of a step on the undo list.
    fn attempted(
        &mut self,
        index: usize,
        at: Sequence,
        attempt: u32,
        note: &AttemptNote,
    ) -> Result<(), Reason> {
        let state = &mut self.steps[index];
        let before = state.care;
        match note {
            AttemptNote::Retried => {}
            AttemptNote::Parked => {
                state.care = Care::Parked;
                state.free = state.free.max(at);
            }
            AttemptNote::Ordered(order) => {
                let by_call = state.undone_by_call();
                match &order.what {
                    What::RetryNow => state.care = Care::Called,
                    What::Override { body } => {
                        state.override_body = Some(Arc::clone(body));
                        state.care = Care::Called;
                    }
                    What::Instead { branches } if !by_call && before == Care::Parked => {
                        state.override_undo = Some(Undo::Transaction(Arc::clone(branches)));
                        state.care = Care::Called;
                    }
                    What::MarkDone if by_call => state.care = Care::Marked,
                    // There is nobody who could be told.
                    What::MarkDone if before == Care::Parked => {
                        state.care = Care::Marked;
                        self.closed.insert(state.number);
                    }
                    What::MarkDone | What::Instead { .. } => return Err(Reason::NotParked),
                    What::CloseUnanswered if before == Care::Marked => {
                        self.closed.insert(state.number);
                    }
                    What::CloseUnanswered => return Err(Reason::NotMarked),
                }
                state.free = state.free.max(at);
            }
        }
        state.attempts = state.attempts.max(attempt);
        if let AttemptNote::Ordered(_) = note {
            state.attempts_before = state.attempts;
        }
        let (parked, was) = (state.care == Care::Parked, before == Care::Parked);
        self.parked = self.parked + u32::from(parked) - u32::from(was);
        Ok(())
    }

    /// What a compensation_failed changes of a step that is to be done, and cannot fail.
    fn seen_to_forward(
        &mut self,
        index: usize,
        at: Sequence,
        attempt: u32,
        note: &AttemptNote,
    ) -> Result<(), Reason> {
        let state = &mut self.steps[index];
        let parked = state.is_parked();
        match note {
            AttemptNote::Parked => {
                state.care = Care::Parked;
                self.parked += u32::from(!parked);
            }
            AttemptNote::Ordered(_) if !parked => return Err(Reason::NotParked),
            AttemptNote::Ordered(order) => match order.what {
                What::RetryNow => self.unpark(index),
                What::MarkDone => self.succeed(index, at),
                _ => return Err(Reason::NotCompensating),
            },
            AttemptNote::Retried => return Err(Reason::NotCompensating),
        }
        let state = &mut self.steps[index];
        (state.free, state.attempts) = (at, state.attempts.max(attempt));
        if let AttemptNote::Ordered(_) = note {
            state.attempts_before = state.attempts;
        }
        Ok(())
    }

    fn succeed(&mut self, index: usize, at: Sequence) {
        self.steps[index].outcome = Some(StepOutcome::Succeeded { at });
        self.succeeded += 1;
        if let State::Executing { .. } = self.state {
            self.unpark(index);
        }
    }

    /// It does not wait for an operator any more, if it did.
    fn unpark(&mut self, index: usize) {
        let state = &mut self.steps[index];
        if state.is_parked() {
            state.care = Care::Called;
            self.parked -= 1;
        }
    }

    fn end(&mut self, end: End, at: Sequence) -> Result<(), Reason> {
        self.state = State::Ended { end, at };
        Ok(())
    }

    /// Whether the step may be added; its dependencies, ascending and each once.
    fn check_addition(
        &self,
        step: u32,
        dependencies: Option<&[u32]>,
    ) -> Result<Option<Box<[u32]>>, Reason> {
        let State::Created = self.state else { return Err(Reason::AlreadyStarted) };
        if self.step(step).is_some() {
            return Err(Reason::DuplicateStep);
        }
        let Some(dependencies) = dependencies else { return Ok(None) };
        for &dependency in dependencies {
            if dependency >= step || self.step(dependency).is_none() {
                return Err(Reason::UnknownDependency { dependency });
            }
        }
        let mut dependencies = dependencies.to_vec();
        dependencies.sort_unstable();
        dependencies.dedup();
        Ok(Some(dependencies.into()))
    }

    fn add(&mut self, step: StepState) {
        match self.steps.last() {
            Some(last) if last.number > step.number => {
                self.stragglers.insert(step.number, step);
            }
            _ => self.steps.push(step),
        }
    }

    /// Turns an executing saga, which fixes what is to be undone: steps that have an undo, and
    /// succeeded, failed with `effect: maybe`, or may have been started, because all that they depend
    /// on had succeeded.
    ///
    /// A step without an undo stands between those before and those behind it all the same: it holds
    /// what it depends on while something that depends on it is to be undone.
    fn turn(&mut self, at: Sequence, turn: Turn) {
        let mut undo = 0;
        for index in (0..self.steps.len()).rev() {
            let listed = self.steps[index].terms.kind.has_undo()
                && match self.steps[index].outcome {
                    Some(StepOutcome::Succeeded { .. }) => true,
                    Some(StepOutcome::Failed { effect, .. }) => effect == FailedEffect::Maybe,
                    None => self.ready(index).is_ok(),
                };
            if !listed {
                self.unpark(index);
            }
            let step = &mut self.steps[index];
            step.undo = listed;
            step.free = at;
            undo += u32::from(listed);
            if listed || step.dependents > 0 {
                self.each_dependency(index, |dependency| dependency.dependents += 1);
            }
        }
        let announced = matches!(turn, Turn::Asked { .. });
        self.state = State::Compensating { since: at, turn, announced, undo };
    }

    /// Takes the step off the undo list by the record `at`, which frees what it depends on, and what
    /// that stood for.
    fn leave_undo_list(&mut self, index: usize, at: Sequence) {
        let State::Compensating { undo, .. } = &mut self.state else {
            unreachable!("only a saga that goes backward has an undo list");
        };
        *undo -= 1;
        self.unpark(index);
        let step = &mut self.steps[index];
        step.undo = false;
        let number = step.number;
        if step.dependents > 0 {
            return;
        }
        self.closed.remove(&number);
        let mut freed = Vec::new();
        let mut next = Some(index);
        while let Some(index) = next {
            self.each_dependency(index, |dependency| {
                dependency.dependents -= 1;
                dependency.free = dependency.free.max(at);
                if dependency.dependents == 0 && !dependency.undo {
                    freed.push(dependency.number);
                }
            });
            next = freed.pop().and_then(|number| index_of(&self.steps, number));
        }
    }

    /// Calls `change` with each step that the step at `index` depends on.
    fn each_dependency(&mut self, index: usize, mut change: impl FnMut(&mut StepState)) {
        let (earlier, rest) = self.steps.split_at_mut(index);
        match &rest[0].dependencies {
            None => earlier.last_mut().into_iter().for_each(change),
            Some(numbers) => {
                for &number in numbers {
                    let at = index_of(earlier, number);
                    change(&mut earlier[at.expect("checked when the step was added")]);
                }
            }
        }
    }

    /// The sequence of the last success among the dependencies of the step at `index` (no record,
    /// if it has none), or the first dependency that has not succeeded.
    fn ready(&self, index: usize) -> Result<Sequence, u32> {
        let (earlier, rest) = self.steps.split_at(index);
        let success = |step: &StepState| step.success().ok_or(step.number);
        match &rest[0].dependencies {
            None => earlier.last().map_or(Ok(Sequence::NONE), success),
            Some(numbers) => numbers.iter().try_fold(Sequence::NONE, |last, &number| {
                let at = index_of(earlier, number);
                Ok(last.max(success(&earlier[at.expect("checked when the step was added")])?))
            }),
        }
    }

    /// The index of a step that may be running, with its own outcome missing: an outcome is news.
    fn in_flight(&self, step: u32) -> Result<usize, Reason> {
        let compensating = match self.state {
            State::Created => return Err(Reason::NotStarted),
            State::Ended { .. } => return Err(Reason::Ended),
            State::Executing { .. } => false,
            State::Compensating { .. } => true,
        };
        let index = index_of(&self.steps, step).ok_or(Reason::UnknownStep)?;
        let state = &self.steps[index];
        if state.outcome.is_some() {
            return Err(Reason::OutcomeKnown);
        }
        if state.compensated.is_some() {
            return Err(Reason::AlreadyCompensated);
        }
        if compensating && !state.undo {
            let kind = state.terms.kind;
            return Err(if kind.has_undo() { Reason::NeverStarted } else { Reason::NothingToUndo });
        }
        if !compensating {
            self.ready(index).map_err(|dependency| Reason::DependencyOpen { dependency })?;
        }
        Ok(index)
    }

    /// The index of a step that is to be done by a transaction, and cannot fail.
    fn held(&self, step: u32) -> Result<usize, Reason> {
        let State::Executing { .. } = self.state else { return Err(Reason::NotExecuting) };
        let index = self.in_flight(step).map_err(|_| Reason::NotCompensating)?;
        let by_transaction = matches!(self.steps[index].terms.performer, Performer::Transaction(_));
        let can_fail = self.may_fail(index, FailedEffect::None).is_ok();
        if !by_transaction || can_fail { Err(Reason::NotCompensating) } else { Ok(index) }
    }

    /// The index of a step on the undo list.
    fn to_undo(&self, step: u32) -> Result<usize, Reason> {
        match self.state {
            State::Created => return Err(Reason::NotStarted),
            State::Ended { .. } => return Err(Reason::Ended),
            State::Executing { .. } => return Err(Reason::NotCompensating),
            State::Compensating { .. } => {}
        }
        let index = index_of(&self.steps, step).ok_or(Reason::UnknownStep)?;
        let state = &self.steps[index];
        if state.compensated.is_some() {
            return Err(Reason::AlreadyCompensated);
        }
        if !state.undo {
            return Err(Reason::NothingToUndo);
        }
        Ok(index)
    }

    fn unsucceeded(&self) -> u32 {
        self.steps.len() as u32 - self.succeeded
    }

    /// Adds to `out` everything that this state owes the world. Asking twice is harmless: the same
    /// debts have the same [`Effect::slot`]s and tokens. Steps to run come ascending, steps to undo
    /// descending.
    pub fn pending(&self, out: &mut Vec<Effect>) {
        match self.state {
            State::Created => {}
            State::Executing { since } => {
                for (index, state) in self.steps.iter().enumerate() {
                    if state.outcome.is_some() || state.is_parked() {
                        continue;
                    }
                    if let Ok(success) = self.ready(index) {
                        let (step, token) = (state.number, state.token);
                        let after = since.max(success).max(state.free);
                        out.push(Effect::Run { step, token, after });
                    }
                }
            }
            State::Compensating { .. } => {
                for state in self.steps.iter().rev().filter(|step| step.undoable()) {
                    // An operation is undone as what it is known to have done. A call may have had an effect of
                    // which no record says so, and is undone all the same.
                    let done = match state.terms.performer {
                        Performer::Node => Sequence::NONE,
                        _ => state.success().unwrap_or(Sequence::NONE),
                    };
                    let (step, after) = (state.number, state.free.max(done));
                    let token = self.token(step, Direction::Backward);
                    match state.care {
                        Care::Called => out.push(Effect::Compensate { step, token, after }),
                        Care::Marked => out.push(Effect::MarkDone { step, token, after }),
                        Care::Parked => {}
                    }
                }
            }
            State::Ended { end, at } => out.push(Effect::Tell { end, after: at }),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Created => Phase::Created,
            State::Executing { .. } => Phase::Executing,
            State::Compensating { .. } => Phase::Compensating,
            State::Ended { end, .. } => Phase::Ended(end),
        }
    }

    /// While it goes backward: why.
    #[must_use]
    pub fn turn_cause(&self) -> Option<Turn> {
        match self.state {
            State::Compensating { turn, .. } => Some(turn),
            _ => None,
        }
    }

    /// Its class, for recovery and reports.
    #[must_use]
    pub fn classification(&self) -> Classification {
        let (mut run, mut undo) = (Vec::new(), Vec::new());
        let (action, evidence) = match self.state {
            State::Created => (RecoveryAction::None, self.created),
            State::Executing { since } => {
                let due = |&index: &usize| {
                    let step = &self.steps[index];
                    step.outcome.is_none() && !step.is_parked() && self.ready(index).is_ok()
                };
                run.extend((0..self.steps.len()).filter(due).map(|at| self.steps[at].number));
                (RecoveryAction::SagaResumeExecute, since)
            }
            State::Compensating { since, .. } => {
                undo.extend(
                    self.steps.iter().rev().filter(|step| step.undo).map(|step| step.number),
                );
                (RecoveryAction::SagaResumeCompensate, since)
            }
            State::Ended { at, .. } => (RecoveryAction::None, at),
        };
        let next_step = run.first().or(undo.first()).copied();
        let (state, last) = (self.phase().name(), self.last);
        let parked = self.parked().collect();
        Classification { state, action, next_step, run, undo, parked, evidence, last }
    }

    /// Its last record.
    #[must_use]
    pub const fn last(&self) -> Sequence {
        self.last
    }

    /// Its id in its log.
    #[must_use]
    pub const fn id(&self) -> OperationId {
        self.id
    }

    /// Who runs it.
    #[must_use]
    pub const fn coordinator(&self) -> CoordinatorId {
        self.coordinator
    }

    /// The key of its tokens.
    #[must_use]
    pub const fn nonce(&self) -> u128 {
        self.nonce
    }

    /// The name its user gave it.
    #[must_use]
    pub const fn request_key(&self) -> Option<&RequestKey> {
        self.request_key.as_ref()
    }

    /// What else was agreed on about the whole.
    #[must_use]
    pub const fn terms(&self) -> &SagaTerms {
        &self.terms
    }

    /// How many of its branches are parked.
    #[must_use]
    pub const fn parked_count(&self) -> u32 {
        self.parked
    }

    /// The steps whose branches are parked, ascending.
    pub fn parked(&self) -> impl Iterator<Item = u32> {
        let all = if self.parked > 0 { &self.steps[..] } else { &[] };
        all.iter().filter(|step| step.is_parked()).map(StepState::number)
    }

    /// What a call of a step is given: forward, the outputs that it takes, as far as they are known;
    /// backward, its own output, if it is known.
    #[must_use]
    pub fn inputs(&self, step: u32, direction: Direction) -> Vec<StepInput> {
        let Some(state) = self.step(step) else { return Vec::new() };
        let given = |number: u32| {
            let output = self.step(number)?.output.clone()?;
            Some(StepInput { step: number, output })
        };
        match direction {
            Direction::Forward => {
                state.terms.inputs.iter().filter_map(|input| given(*input)).collect()
            }
            Direction::Backward => given(step).into_iter().collect(),
        }
    }

    /// What steps have brought, as far as it is known, ascending by number.
    pub fn outputs(&self) -> impl Iterator<Item = StepInput> + '_ {
        self.steps().filter_map(|step| {
            Some(StepInput { step: step.number(), output: step.output.clone()? })
        })
    }

    /// The step of this number.
    #[must_use]
    pub fn step(&self, step: u32) -> Option<&StepState> {
        let index = index_of(&self.steps, step);
        index.map(|index| &self.steps[index]).or_else(|| self.stragglers.get(&step))
    }

    /// How many steps were added.
    #[must_use]
    pub fn step_count(&self) -> u32 {
        (self.steps.len() + self.stragglers.len()) as u32
    }

    /// The steps, ascending by number from execute_start on.
    pub fn steps(&self) -> impl Iterator<Item = &StepState> {
        self.steps.iter().chain(self.stragglers.values())
    }

    /// The token of one step's calls in one direction: a pseudo-random function of the saga's
    /// nonce, with no attempt number in it. It needs no step of that number.
    #[must_use]
    pub fn token(&self, step: u32, direction: Direction) -> Token {
        let way = match (direction, self.step(step)) {
            (Direction::Forward, Some(known)) => return known.token,
            (Direction::Forward, None) => 0,
            (Direction::Backward, _) => 1,
        };
        Token::new(prng::keyed_hash(self.nonce, u64::from(step), way))
    }
}

/// The index of a step by its number, at once where the numbers are dense.
fn index_of(steps: &[StepState], number: u32) -> Option<usize> {
    match steps.get(number as usize) {
        Some(step) if step.number == number => Some(number as usize),
        _ => steps.binary_search_by_key(&number, |step| step.number).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(nonce: u128) -> Saga {
        let coordinator = CoordinatorId::numbered(1);
        let terms = SagaTerms::default();
        let event = Event::Created { coordinator, nonce, request_key: None, terms };
        Saga::created(OperationId(1), Sequence(1), &event).unwrap()
    }

    fn added(step: u32, dependencies: Option<Vec<u32>>) -> Event {
        let (action, node, body) = (Action::Custom, NodeName::numbered(1), Arc::from([]));
        Event::StepAdded { step, action, dependencies, node, body, terms: StepTerms::default() }
    }

    #[test]
    fn a_token_names_saga_step_and_direction() {
        let mut tokens = Vec::new();
        for nonce in [0, 1, u128::MAX] {
            let saga = created(nonce);
            for step in [0, 1, u32::MAX] {
                let forward = saga.token(step, Direction::Forward);
                let backward = saga.token(step, Direction::Backward);
                assert_eq!(forward, Token::new(prng::keyed_hash(nonce, step.into(), 0)));
                assert_eq!(backward, Token::new(prng::keyed_hash(nonce, step.into(), 1)));
                tokens.extend([forward, backward]);
            }
        }
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 18);
    }

    #[test]
    fn a_dependency_that_a_foreign_log_names_twice_counts_once() {
        let mut saga = created(0);
        for (step, on) in [(0, vec![]), (1, vec![]), (2, vec![1, 0, 1])] {
            saga.apply(Sequence(2), &added(step, Some(on))).unwrap();
        }
        assert_eq!(saga.step(2).unwrap().dependencies(), Some(&[0, 1][..]));
    }

    /// A saga that is a step of another one owes its end only to that one's word, and until then it can be
    /// turned by it, but not by its own clock.
    #[test]
    fn a_sub_saga_ends_when_it_is_released() {
        let parent = ParentStep { saga: OperationId(9), step: 3, undo: false };
        let mut builder = Definition::builder();
        builder.step(crate::Step::new(Action::Custom, NodeName::numbered(1), []));
        let definition = builder.build().unwrap();
        let admission = Saga::admission(&definition, CoordinatorId::numbered(1), 7, None);
        let admission = Saga::on_behalf_of(parent, admission);
        let mut saga = Saga::created(OperationId(1), Sequence(1), &admission[0]).unwrap();
        for event in &admission[1..] {
            saga.apply(Sequence(2), event).unwrap();
        }
        assert_eq!(saga.terms().parent, Some(parent));
        assert_eq!(saga.through(), None);
        assert_eq!(saga.decide(&Input::Released), None);
        assert_eq!(saga.decide(&Input::TimedOut), Some(Event::CompensationStart { cause: None }));
        assert!(saga.awaits(0, Direction::Forward) && !saga.awaits(0, Direction::Backward));
        saga.apply(Sequence(3), &Event::StepSucceeded { step: 0, output: None }).unwrap();
        assert!(!saga.awaits(0, Direction::Forward));
        assert_eq!(saga.through(), Some(End::Completed));
        assert_eq!((saga.settle(), saga.decide(&Input::TimedOut)), (None, None));
        assert_eq!(saga.decide(&Input::Restarted { epoch: base::Epoch::new(2) }), None);
        assert_eq!(saga.decide(&Input::Released), Some(Event::Completed));

        let turn = saga.decide(&Input::Cancel).unwrap();
        saga.apply(Sequence(4), &turn).unwrap();
        assert!(saga.awaits(0, Direction::Backward));
        assert_eq!(saga.decide(&Input::Released), None);
        let undone = Event::CompensationSucceeded { step: 0, heuristic: false };
        saga.apply(Sequence(5), &undone).unwrap();
        assert_eq!((saga.through(), saga.settle()), (Some(End::Compensated), None));
        assert_eq!(saga.decide(&Input::Released), Some(Event::Compensated));
        saga.apply(Sequence(6), &Event::Compensated).unwrap();
        assert_eq!((saga.through(), saga.decide(&Input::Released)), (None, None));
    }

    /// A saga with this step alone, which may run.
    fn alone(terms: StepTerms) -> Saga {
        let mut saga = created(0);
        let (action, node, body) = (Action::Custom, NodeName::numbered(1), Arc::from([]));
        let step = Event::StepAdded { step: 0, action, dependencies: None, node, body, terms };
        saga.apply(Sequence(2), &step).unwrap();
        saga.apply(Sequence(3), &Event::ExecuteStart).unwrap();
        saga
    }

    fn by_transaction(kind: StepKind) -> StepTerms {
        let branches: Arc<[crate::Branch]> = [].into();
        let performer = Performer::Transaction(Arc::clone(&branches));
        StepTerms { kind, performer, undo: Undo::Transaction(branches), ..StepTerms::default() }
    }

    fn order(what: What) -> Input {
        let (who, why) = ("eva".into(), "because".into());
        Input::Ordered { step: 0, order: Box::new(Order { who, why, what }) }
    }

    /// Only what cannot fail, and a transaction does, waits for an operator going forward; it is pending no
    /// more, and his order counts once.
    #[test]
    fn a_step_whose_abort_was_forced_waits_for_an_operator() {
        let forced = Input::AbortForced { step: 0 };
        let parked = Event::CompensationFailed { step: 0, attempt: 1, note: AttemptNote::Parked };
        let called = StepTerms { kind: StepKind::Retriable, ..StepTerms::default() };
        for terms in
            [called, by_transaction(StepKind::Pivot), by_transaction(StepKind::Compensatable)]
        {
            let mut saga = alone(terms);
            assert_eq!(saga.decide(&forced), None);
            let illegal = saga.apply(Sequence(4), &parked).unwrap_err();
            assert_eq!(illegal.reason, Reason::NotCompensating);
        }
        let mut saga = alone(by_transaction(StepKind::Retriable));
        let pending = |saga: &Saga| {
            let mut owed = Vec::new();
            saga.pending(&mut owed);
            owed.first().map(Effect::after)
        };
        for what in [What::RetryNow, What::MarkDone] {
            assert_eq!(saga.decide(&order(what)), None, "it does not wait");
        }
        assert_eq!(saga.decide(&forced).as_ref(), Some(&parked));
        saga.apply(Sequence(4), &parked).unwrap();
        assert_eq!((saga.decide(&forced), pending(&saga)), (None, None));
        let class = saga.classification();
        assert_eq!(
            (&class.run[..], &class.parked[..], saga.parked_count()),
            (&[][..], &[0][..], 1)
        );

        let retried = saga.decide(&order(What::RetryNow)).unwrap();
        saga.apply(Sequence(5), &retried).unwrap();
        assert_eq!(
            (pending(&saga), saga.parked_count()),
            (Some(Sequence(5)), 0),
            "behind the order"
        );
        assert_eq!(saga.apply(Sequence(6), &retried).unwrap_err().reason, Reason::NotParked);
        let again = saga.decide(&forced).unwrap();
        saga.apply(Sequence(6), &again).unwrap();
        let call = What::Override { body: [].into() };
        assert_eq!(saga.decide(&order(call)), None);
        let done = saga.decide(&order(What::MarkDone)).unwrap();
        saga.apply(Sequence(7), &done).unwrap();
        assert_eq!((saga.parked_count(), saga.settle()), (0, Some(Event::Completed)));
    }

    /// What a transaction undoes is closed at once, but only while nothing runs that could undo it again.
    #[test]
    fn an_undo_by_transaction_is_seen_to_while_it_waits() {
        let mut saga = alone(by_transaction(StepKind::Compensatable));
        saga.apply(Sequence(4), &Event::StepSucceeded { step: 0, output: None }).unwrap();
        saga.apply(Sequence(5), &Event::CompensationStart { cause: None }).unwrap();
        let instead = || {
            let (shard, node) = (base::ShardId::numbered(1), NodeName::numbered(1));
            What::Instead { branches: [crate::Branch { shard, node, work: [7].into() }].into() }
        };
        let illegal = |saga: &mut Saga, what| {
            let Input::Ordered { order, .. } = order(what) else { unreachable!("it is an order") };
            let note = AttemptNote::Ordered(order);
            let event = Event::CompensationFailed { step: 0, attempt: 1, note };
            saga.apply(Sequence(6), &event).unwrap_err().reason
        };
        for what in [What::MarkDone, instead()] {
            assert_eq!(saga.decide(&order(what.clone())), None);
            assert_eq!(illegal(&mut saga, what), Reason::NotParked);
        }
        let parked = saga.decide(&Input::GiveUpUndo { step: 0 }).unwrap();
        saga.apply(Sequence(6), &parked).unwrap();
        let replaced = saga.decide(&order(instead())).unwrap();
        saga.apply(Sequence(7), &replaced).unwrap();
        let Undo::Transaction(branches) = saga.step(0).unwrap().undo() else { panic!("by one") };
        assert_eq!((branches.len(), saga.parked_count()), (1, 0));
        let parked = saga.decide(&Input::GiveUpUndo { step: 0 }).unwrap();
        saga.apply(Sequence(8), &parked).unwrap();
        let done = saga.decide(&order(What::MarkDone)).unwrap();
        saga.apply(Sequence(9), &done).unwrap();
        let closed = Event::CompensationSucceeded { step: 0, heuristic: true };
        assert_eq!(saga.settle().as_ref(), Some(&closed));
        saga.apply(Sequence(10), &closed).unwrap();
        assert_eq!((saga.parked_count(), saga.settle()), (0, Some(Event::Compensated)));
    }

    /// Numbers that descend, or that are far apart, cost a replay no more than others; nor does a
    /// saga of half a million steps that is run and undone.
    #[test]
    fn a_foreign_log_may_hold_a_very_long_saga() {
        const STEPS: u32 = 500_000;
        let mut saga = created(0);
        let mut sequence = 1;
        let mut apply = |saga: &mut Saga, event| {
            sequence += 1;
            saga.apply(Sequence(sequence), &event).unwrap();
        };
        let numbers = || (0..STEPS).map(|step| u32::MAX - step * 8_000);
        numbers().for_each(|step| apply(&mut saga, added(step, None)));
        assert_eq!(saga.step_count(), STEPS);
        apply(&mut saga, Event::ExecuteStart);
        numbers()
            .rev()
            .for_each(|step| apply(&mut saga, Event::StepSucceeded { step, output: None }));
        apply(&mut saga, Event::CompensationStart { cause: None });
        assert_eq!(saga.classification().undo, Vec::from_iter(numbers()));
        let undone = |step| Event::CompensationSucceeded { step, heuristic: false };
        numbers().for_each(|step| apply(&mut saga, undone(step)));
        assert_eq!(saga.settle(), Some(Event::Compensated));
    }
}
