//! What an operator may order about a compensation that does not succeed.

use crate::performer::Branch;
use std::sync::Arc;

/// An operator's order about one step of one saga. It is in the log, forced, before the operator
/// hears that it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Who ordered it, at most [`Order::TEXT_BYTES_MAX`] bytes.
    pub who: Arc<str>,
    /// Why, at most [`Order::TEXT_BYTES_MAX`] bytes.
    pub why: Arc<str>,
    /// What.
    pub what: What,
}

impl Order {
    /// The most bytes of [`Order::who`] and of [`Order::why`], each.
    pub const TEXT_BYTES_MAX: u32 = 1_024;
}

/// What is to be done about a step that is to be undone; or to be done, if it waits for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Try again, with as many attempts as at first. Code 0.
    RetryNow,
    /// The operator has undone it by hand: the participant is told so, and from then on refuses a
    /// late forward call and answers a late compensation with "done". The step counts as undone when
    /// the participant has answered. Code 1.
    ///
    /// Of a step that an operation of its own undoes, only while it [waits](crate::StepState::is_parked), and
    /// nobody has to be told: it counts as undone at once, and its end is flagged heuristic. Of one that
    /// waits while the saga goes forward: it is done.
    MarkDone,
    /// The participant of a step that was marked done will never answer: the step counts as undone
    /// without its answer, and its end is flagged heuristic. Only after [`What::MarkDone`]. Code 2.
    CloseUnanswered,
    /// Undo it by asking this instead of what the definition asks. Code 3.
    Override {
        /// What is asked.
        body: Arc<[u8]>,
    },
    /// Undo it by this transaction instead of by the operation that the definition names. Only while it
    /// [waits](crate::StepState::is_parked). Code 4.
    Instead {
        /// The transaction's.
        branches: Arc<[Branch]>,
    },
}

impl What {
    /// The log's byte.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            What::RetryNow => 0,
            What::MarkDone => 1,
            What::CloseUnanswered => 2,
            What::Override { .. } => 3,
            What::Instead { .. } => 4,
        }
    }

    /// `"retry-now"`, `"mark-done"`, `"close-unanswered"`, `"override"` or `"instead"`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            What::RetryNow => "retry-now",
            What::MarkDone => "mark-done",
            What::CloseUnanswered => "close-unanswered",
            What::Override { .. } => "override",
            What::Instead { .. } => "instead",
        }
    }
}

/// Why an order is not taken. Nothing was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderRefusal {
    /// The saga does not go backward, and the step does not wait: there is nothing to order.
    #[error("the saga does not go backward, nor does the step wait for an operator")]
    NotCompensating,
    /// The saga has no such step, it has nothing to undo, or it is undone.
    #[error("step {step} is not to be undone, or is undone")]
    NothingToUndo {
        /// Which.
        step: u32,
    },
    /// Steps that depend on it are undone first: order something about those.
    #[error("step {step} waits until {count} steps that depend on it are undone")]
    DependentsRemain {
        /// Which.
        step: u32,
        /// How many.
        count: u32,
    },
    /// Mark it done first: its participant has to be told, if it still can be.
    #[error("step {step} was not marked done: nobody has tried to tell its participant")]
    NotMarked {
        /// Which.
        step: u32,
    },
    /// This cannot be said of what a transaction or a sub-saga does or undoes; or it still runs. Order
    /// something about the step of that saga, or wait until this one is parked.
    #[error(
        "step {step} is done or undone by an operation of its own: this is no order for it, or not yet"
    )]
    NotACall {
        /// Which.
        step: u32,
    },
    /// A transaction has branches, and one at most for each shard.
    #[error("the transaction that is to undo step {step} has no branches, or two of one shard")]
    BadBranches {
        /// Which.
        step: u32,
    },
    /// Shorten it.
    #[error("{bytes} bytes for who or why: at most {} are kept", Order::TEXT_BYTES_MAX)]
    TextTooLong {
        /// How long it is.
        bytes: u64,
    },
}
