//! Sagas as a pure machine: a graph of steps with compensations.

mod definition;
mod event;
mod machine;

pub use definition::{Action, Builder, Definition, DefinitionError, Limits, Step};
pub use event::{
    Direction, Effect, End, Event, EventKind, FailedEffect, Input, Outcome, STEP_TIMED_OUT,
};
pub use machine::{
    Classification, IllegalTransition, Phase, Reason, RecoveryAction, Saga, StepOutcome, StepState,
    Turn,
};
