//! The words a machine is told and says: facts, inputs, effects.

use crate::Action;
use crate::order::Order;
use crate::terms::{Output, SagaTerms, StepTerms};
use base::{CoordinatorId, Epoch, NodeName, RequestKey, Sequence, Token};
use std::sync::Arc;

/// The error code in the [`Event::StepFailed`] of a step that was given up without an answer:
/// `0xFFFFFFFF`, the value that in `saga_compensation_start` stands for a cancellation or a
/// time-out. Always with [`FailedEffect::Maybe`].
pub const STEP_TIMED_OUT: u32 = u32::MAX;

/// The error code in the [`Event::StepFailed`] of a step whose transaction was aborted, or whose sub-saga was
/// compensated. Always with [`FailedEffect::None`].
pub const OPERATION_FAILED: u32 = u32::MAX - 1;

/// A fact in the log. The names are those of the log's events without `saga_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The saga exists. Nothing has run.
    Created {
        /// Who runs it.
        coordinator: CoordinatorId,
        /// The key of the saga's tokens: 128 random bits.
        nonce: u128,
        /// The name its user gave it.
        request_key: Option<RequestKey>,
        /// What else was agreed on.
        terms: SagaTerms,
    },
    /// One more step. Nothing has run.
    StepAdded {
        /// Its number: its key from here on. Our own logs count from 0; others may leave gaps.
        step: u32,
        /// The kind of work.
        action: Action,
        /// What it waits for: steps added before, with lower numbers. `None`: in sequence, that is,
        /// it waits for the step with the next lower number, whenever that was added.
        dependencies: Option<Arc<[u32]>>,
        /// Where it runs.
        node: NodeName,
        /// What is asked there.
        body: Arc<[u8]>,
        /// What else was agreed on.
        terms: Arc<StepTerms>,
    },
    /// From here on steps may run.
    ExecuteStart,
    /// The step had its effect.
    StepSucceeded {
        /// Which.
        step: u32,
        /// What it brought.
        output: Option<Output>,
    },
    /// The step will not succeed. While the saga was executing, it goes backward from here on.
    StepFailed {
        /// Which.
        step: u32,
        /// What the participant said, or [`STEP_TIMED_OUT`].
        error_code: u32,
        /// Whether it may have had an effect all the same.
        effect: FailedEffect,
    },
    /// The saga goes backward from here on.
    CompensationStart {
        /// The step that caused it; `None`: cancelled or timed out (`0xFFFFFFFF` in the log).
        cause: Option<u32>,
    },
    /// The step's effect is undone, and cannot come any more.
    CompensationSucceeded {
        /// Which.
        step: u32,
        /// Nobody has heard so of the participant: an operator said it.
        heuristic: bool,
    },
    /// An attempt to undo the step failed, or somebody saw to one that did. It is still to be undone.
    /// While the saga executes: a step that a transaction does and that cannot fail waits for an operator, or
    /// one saw to it.
    CompensationFailed {
        /// Which.
        step: u32,
        /// The attempt's number, from 1; of an order, of the last attempt before it.
        attempt: u32,
        /// What follows from it.
        note: AttemptNote,
    },
    /// The end: every step succeeded.
    Completed,
    /// The end: every effect is undone.
    Compensated,
    /// The end if nothing remains to undo; otherwise the saga goes backward from here on.
    Aborted,
}

/// What follows from a compensation_failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptNote {
    /// It is tried again.
    Retried,
    /// It is not tried again until an operator says so: the branch is parked. Others go on.
    Parked,
    /// No attempt: an operator's order.
    Ordered(Box<Order>),
}

/// Whether a failed step may have had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedEffect {
    /// It has none and never will: a refusal, durable at the participant, was received.
    None,
    /// Nobody knows: it is undone too.
    Maybe,
}

/// Which way a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Doing: 0 in the token.
    Forward,
    /// Undoing: 1 in the token.
    Backward,
}

/// What became of a call. A time-out is not a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The effect is there and durable (backward: it is gone, and a late forward call is refused).
    Done,
    /// The same, and this is what it brought.
    DoneWith(Output),
    /// The participant has *forced* a refusal under the call's token: no call with that token ever
    /// has an effect. (Backward: this attempt failed.)
    Refused {
        /// The participant's reason.
        code: u32,
    },
    /// Time-out, lost connection, "not now". Changes nothing: the call is repeated.
    Unknown,
}

/// What a machine is asked to decide about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A participant answered.
    Outcome {
        /// About which step.
        step: u32,
        /// Of which call.
        direction: Direction,
        /// What.
        outcome: Outcome,
    },
    /// No more patience with a forward call: it is Unknown for good. Worth nothing about a step that
    /// cannot fail so.
    StepTimedOut {
        /// Which step's.
        step: u32,
    },
    /// No more patience with a compensation, whether its last attempt was refused or never answered.
    GiveUpUndo {
        /// Which step's.
        step: u32,
    },
    /// An operator has forced the abort of the transaction that did this step. Whether it had committed
    /// nobody knows, so that it is not begun anew; worth nothing about a step that can fail.
    AbortForced {
        /// Which step's.
        step: u32,
    },
    /// An operator's order about a step that is to be undone, or waits.
    Ordered {
        /// Which step.
        step: u32,
        /// What.
        order: Box<Order>,
    },
    /// The user wants it undone.
    Cancel,
    /// The saga's own deadline passed.
    TimedOut,
    /// The saga that this one is a step of knows how it went, and will not turn it any more.
    Released,
    /// The process started anew and has replayed the log: the whole of recovery's own logic.
    Restarted {
        /// The new start's epoch.
        epoch: Epoch,
    },
}

/// What the saga owes the world, and which record must be durable before it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Call the step.
    Run {
        /// Which.
        step: u32,
        /// Of the forward call: the same in every attempt.
        token: Token,
        /// The last of execute_start and the successes of all its dependencies.
        after: Sequence,
    },
    /// Undo the step, whether or not it ever ran.
    Compensate {
        /// Which.
        step: u32,
        /// Of the backward call: the same in every attempt.
        token: Token,
        /// The last of the record that turned the saga and, for every step that depends on this
        /// one, the record that took it off the undo list: the success of its compensation, or a
        /// late refusal. Of a step that was a transaction or a saga, its success as well.
        after: Sequence,
    },
    /// Tell the step's participant that an operator has undone it by hand.
    MarkDone {
        /// Which.
        step: u32,
        /// Of the backward call.
        token: Token,
        /// The order.
        after: Sequence,
    },
    /// Tell the caller how it ended.
    Tell {
        /// How.
        end: End,
        /// The record that says so.
        after: Sequence,
    },
}

impl Effect {
    /// Names what is owed: two effects of one saga have the same slot if and only if they are the
    /// same debt, asked for again. [`Effect::Tell`] is 0, step `n` has 1 + 2`n` forward and 2 +
    /// 2`n` backward (an undo and what an operator makes of it are the same debt), so that the slots of a saga of at most 63 steps numbered from 0 are below
    /// 128.
    #[must_use]
    pub const fn slot(&self) -> u64 {
        match self {
            Effect::Tell { .. } => 0,
            Effect::Run { step, .. } => 1 + 2 * *step as u64,
            Effect::Compensate { step, .. } | Effect::MarkDone { step, .. } => 2 + 2 * *step as u64,
        }
    }

    /// The record that must be durable before it leaves.
    #[must_use]
    pub const fn after(&self) -> Sequence {
        match self {
            Effect::Run { after, .. }
            | Effect::Compensate { after, .. }
            | Effect::MarkDone { after, .. }
            | Effect::Tell { after, .. } => *after,
        }
    }
}

/// How a saga ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every step succeeded.
    Completed,
    /// Some steps ran; every effect is undone.
    Compensated,
    /// Nothing ran, or nothing was left of it when it was aborted.
    Aborted,
}

impl End {
    /// `"completed"`, `"compensated"` or `"aborted"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::Compensated => "compensated",
            End::Aborted => "aborted",
        }
    }
}

/// An [`Event`] without its contents, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the event of the same name")]
pub enum EventKind {
    Created,
    StepAdded,
    ExecuteStart,
    StepSucceeded,
    StepFailed,
    CompensationStart,
    CompensationSucceeded,
    CompensationFailed,
    Completed,
    Compensated,
    Aborted,
}

impl EventKind {
    /// The event's name in the log, such as `"saga_step_failed"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::Created => "saga_created",
            EventKind::StepAdded => "saga_step_added",
            EventKind::ExecuteStart => "saga_execute_start",
            EventKind::StepSucceeded => "saga_step_succeeded",
            EventKind::StepFailed => "saga_step_failed",
            EventKind::CompensationStart => "saga_compensation_start",
            EventKind::CompensationSucceeded => "saga_compensation_succeeded",
            EventKind::CompensationFailed => "saga_compensation_failed",
            EventKind::Completed => "saga_completed",
            EventKind::Compensated => "saga_compensated",
            EventKind::Aborted => "saga_aborted",
        }
    }
}

impl Event {
    /// Which event it is.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Event::Created { .. } => EventKind::Created,
            Event::StepAdded { .. } => EventKind::StepAdded,
            Event::ExecuteStart => EventKind::ExecuteStart,
            Event::StepSucceeded { .. } => EventKind::StepSucceeded,
            Event::StepFailed { .. } => EventKind::StepFailed,
            Event::CompensationStart { .. } => EventKind::CompensationStart,
            Event::CompensationSucceeded { .. } => EventKind::CompensationSucceeded,
            Event::CompensationFailed { .. } => EventKind::CompensationFailed,
            Event::Completed => EventKind::Completed,
            Event::Compensated => EventKind::Compensated,
            Event::Aborted => EventKind::Aborted,
        }
    }

    /// The step that it is about, if it is about one. The cause of a compensation_start is not.
    #[must_use]
    pub const fn step(&self) -> Option<u32> {
        match *self {
            Event::StepAdded { step, .. }
            | Event::StepSucceeded { step, .. }
            | Event::StepFailed { step, .. }
            | Event::CompensationSucceeded { step, .. }
            | Event::CompensationFailed { step, .. } => Some(step),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_unique_up_to_the_largest_step_number() {
        let mut slots = vec![Effect::Tell { end: End::Aborted, after: Sequence::NONE }.slot()];
        for step in [0, 1, 2, 31, 32, 62, u32::MAX - 1, u32::MAX] {
            let (token, after) = (Token::new(0), Sequence::NONE);
            slots.push(Effect::Run { step, token, after }.slot());
            slots.push(Effect::Compensate { step, token, after }.slot());
        }
        assert!(slots.is_sorted_by(|a, b| a < b), "{slots:?}");
        assert!(slots[12] < 128 && slots[13] > 128);
    }
}
