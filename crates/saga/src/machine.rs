//! The machine: one saga as a function of its events.

mod apply;
mod decide;
mod illegal;
mod step;
#[cfg(test)]
mod tests;

use crate::event::{Direction, End, Event};
use crate::terms::{SagaTerms, StepInput};
use base::{CoordinatorId, OperationId, RequestKey, Sequence, Token, prng};
pub use illegal::{IllegalTransition, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
pub use step::{StepOutcome, StepState};

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
/// question and to the steps that depend on it, except for execute_start and the one record that turns the
/// saga, which look at every step, once; only `apply` of a step_added, of execute_start, of an order, and of
/// a record that frees steps without an undo allocates. So a replay takes no longer than the number
/// of records, however long a foreign log's sagas are, times the dependencies of the widest step.
/// [`Saga::pending`] and the classification look at every step; [`Saga::pending_by`] only at those that
/// depend on one that has succeeded, and what these depend on, if it was the last of them.
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
    /// The indices of the steps that depend on each step, one list behind the other, from execute_start on.
    followers: Vec<u32>,
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

struct Of(Option<u32>);

impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |step| write!(f, "of step {step} "))
    }
}

impl Saga {
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
            followers: Vec::new(),
            succeeded: 0,
            pivot: None,
            parked: 0,
            closed: BTreeSet::new(),
        })
    }

    /// Makes room for so many steps at once.
    pub fn expect_steps(&mut self, steps: usize) {
        self.steps.reserve_exact(steps);
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
                    step.outcome.is_none() && !step.is_parked() && step.is_ready()
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
    pub fn inputs(&self, step: u32, direction: Direction) -> Arc<[StepInput]> {
        let Some(state) = self.step(step) else { return Arc::default() };
        let given = |number: u32| {
            let output = self.step(number)?.output().cloned()?;
            Some(StepInput { step: number, output })
        };
        match direction {
            Direction::Forward if state.terms.inputs.is_empty() => Arc::default(),
            Direction::Backward if state.output.is_none() => Arc::default(),
            Direction::Forward => {
                state.terms.inputs.iter().filter_map(|input| given(*input)).collect()
            }
            Direction::Backward => given(step).into_iter().collect(),
        }
    }

    /// What steps have brought, as far as it is known, ascending by number.
    pub fn outputs(&self) -> impl Iterator<Item = StepInput> + '_ {
        self.steps().filter_map(|step| {
            Some(StepInput { step: step.number(), output: step.output().cloned()? })
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
        self.derive_token(step, way)
    }

    fn derive_token(&self, step: u32, way: u64) -> Token {
        Token::new(prng::keyed_hash(self.nonce, u64::from(step), way))
    }
}

/// The index of a step by its number, at once where the numbers are dense.
fn index_of(steps: &[StepState], number: u32) -> Option<usize> {
    match (steps.get(number as usize), steps.last()) {
        (Some(step), _) if step.number == number => Some(number as usize),
        (_, None) => None,
        // One that is being added.
        (_, Some(last)) if last.number < number => None,
        _ => steps.binary_search_by_key(&number, |step| step.number).ok(),
    }
}
