//! What follows from the state: which record is to be written, and which calls are owed.

use super::step::{Care, StepState};
use super::{Saga, State, index_of};
use crate::definition::Definition;
use crate::event::{
    AttemptNote, Direction, Effect, End, Event, FailedEffect, Input, Outcome, STEP_TIMED_OUT,
};
use crate::order::{Order, OrderRefusal, What};
use crate::performer::Performer;
use base::{CoordinatorId, ParentStep, RequestKey, Sequence};
use std::sync::Arc;

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
        events.extend((0..).zip(definition.records()).map(|(step, (asked, record))| {
            Event::StepAdded {
                step,
                action: asked.action,
                dependencies: Some(Arc::clone(&record.dependencies)),
                node: asked.node,
                body: Arc::clone(&asked.body),
                terms: Arc::clone(&record.terms),
            }
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
        self.steps[index].is_ready().then_some(self.steps[index].number)
    }

    /// Whether the step never fails any more: a retriable one, or any behind the pivot once that may
    /// have been started.
    #[must_use]
    pub fn cannot_fail(&self, step: u32) -> bool {
        let index = index_of(&self.steps, step);
        index.is_some_and(|index| self.may_fail(index, FailedEffect::None).is_err())
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

    /// Adds to `out` everything that this state owes the world. Asking twice is harmless: the same
    /// debts have the same [`Effect::slot`]s and tokens. Steps to run come ascending, steps to undo
    /// descending.
    pub fn pending(&self, out: &mut Vec<Effect>) {
        match self.state {
            State::Created => {}
            State::Executing { since } => {
                out.extend((0..self.steps.len()).filter_map(|index| self.run(index, since)));
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

    /// Adds to `out` what of [`pending`](Self::pending) `event` has brought, the last record that was applied:
    /// all that was not pending before it, and perhaps some that was. So whoever asks after each record, and
    /// notes what it was told, need not look at every step each time: of a step that succeeded, only those
    /// count that wait for it.
    pub fn pending_by(&self, event: &Event, out: &mut Vec<Effect>) {
        match (event, &self.state) {
            (Event::StepSucceeded { step, .. }, State::Executing { since }) => {
                let index = index_of(&self.steps, *step).expect("it was applied");
                let waiting = self.followers(index).iter();
                out.extend(waiting.filter_map(|&index| self.run(index as usize, *since)));
            }
            _ => self.pending(out),
        }
    }

    /// The call of the step at `index`, if that is to be made; the saga was begun by the record `since`.
    fn run(&self, index: usize, since: Sequence) -> Option<Effect> {
        let state = &self.steps[index];
        if !state.is_ready() || state.outcome.is_some() || state.is_parked() {
            return None;
        }
        let (step, token) = (state.number, state.token);
        let after = since.max(self.last_success(index)).max(state.free);
        Some(Effect::Run { step, token, after })
    }
}
