//! Why a record cannot stand where it stands.

use super::{Of, Phase};
use crate::event::EventKind;
use crate::kind::StepKind;

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
