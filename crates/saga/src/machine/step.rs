//! A step of a saga, as the log has it.

use crate::definition::Action;
use crate::event::FailedEffect;
use crate::kind::StepKind;
use crate::performer::{Performer, Undo};
use crate::terms::{Output, StepTerms};
use base::{NodeName, Sequence, Token};
use std::sync::Arc;

/// A step within a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepState {
    pub(super) number: u32,
    /// Of its forward calls. Whatever answers, all that are owed are looked through.
    pub(super) token: Token,
    pub(super) action: Action,
    /// `None`: the step before it, by number.
    pub(super) dependencies: Option<Arc<[u32]>>,
    /// From execute_start on: how many of those have not succeeded.
    pub(super) waits_for: u32,
    /// From execute_start on: where the steps that depend on it end in the saga's list of them. They begin
    /// where those of the step before end.
    pub(super) followers_end: u32,
    pub(super) node: NodeName,
    pub(super) body: Arc<[u8]>,
    pub(super) terms: Arc<StepTerms>,
    pub(super) outcome: Option<StepOutcome>,
    /// What its success brought.
    pub(super) output: Option<Box<Output>>,
    /// While the saga is compensating: whether it is on the undo list.
    pub(super) undo: bool,
    /// While the saga is compensating: how many steps that depend on it are on the undo list, or have
    /// such dependents in their turn.
    pub(super) dependents: u32,
    /// While the saga is compensating: the last of the record that turned it, of those that took
    /// its dependents off the undo list, and of an operator's orders. Before: the last record that parked
    /// the step, or with which an operator saw to that.
    pub(super) free: Sequence,
    pub(super) compensated: Option<Sequence>,
    pub(super) attempts: u32,
    /// What `attempts` was at the last order.
    pub(super) attempts_before: u32,
    pub(super) care: Care,
    /// Of few steps, so it is not within: a saga's steps are moved and looked through as a whole.
    pub(super) instead: Option<Box<Instead>>,
}

/// What an operator has put in the place of a step's compensation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Instead {
    /// What it asks for.
    pub(super) body: Option<Arc<[u8]>>,
    /// The transaction that it is.
    pub(super) undo: Option<Undo>,
}

/// What is done about a step that is to be undone; or to be done, which is called or parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
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
    pub fn terms(&self) -> &StepTerms {
        &self.terms
    }

    /// Whether it can fail, and whether it can be undone.
    #[must_use]
    pub fn kind(&self) -> StepKind {
        self.terms.kind
    }

    /// Who does it.
    #[must_use]
    pub fn performer(&self) -> &Performer {
        &self.terms.performer
    }

    /// Who undoes it, if it has an undo: as the definition says, or an operator instead.
    #[must_use]
    pub fn undo(&self) -> &Undo {
        let instead = self.instead.as_ref().and_then(|instead| instead.undo.as_ref());
        instead.unwrap_or(&self.terms.undo)
    }

    /// What its success brought, if it brought anything.
    #[must_use]
    pub fn output(&self) -> Option<&Output> {
        self.output.as_deref()
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
        let instead = self.instead.as_ref().and_then(|instead| instead.body.as_ref());
        instead.unwrap_or(&self.body)
    }

    /// Whether an operator has put something else in the place of its compensation.
    #[must_use]
    pub fn is_overridden(&self) -> bool {
        self.instead.as_ref().is_some_and(|instead| instead.body.is_some())
    }

    /// Once the saga has started: whether all that it depends on has succeeded.
    pub(super) fn is_ready(&self) -> bool {
        self.waits_for == 0
    }

    pub(super) fn success(&self) -> Option<Sequence> {
        match self.outcome {
            Some(StepOutcome::Succeeded { at }) => Some(at),
            _ => None,
        }
    }

    /// Whether its turn to be undone has come: nothing that depends on it is on the undo list.
    pub(super) fn undoable(&self) -> bool {
        self.undo && self.dependents == 0
    }

    /// Whether it is undone by a call: what became of an operation is known before anything is undone.
    pub(super) fn undone_by_call(&self) -> bool {
        let known = matches!(self.terms.performer, Performer::Node) || self.outcome.is_some();
        matches!(self.undo(), Undo::Call) && known
    }
}
