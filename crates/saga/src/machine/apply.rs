//! What a record changes, and which records are illegal.

use super::illegal::{IllegalTransition, Reason};
use super::step::{Care, StepOutcome, StepState};
use super::{Saga, State, Turn, index_of};
use crate::event::{AttemptNote, End, Event, FailedEffect};
use crate::kind::StepKind;
use crate::order::What;
use crate::performer::{Performer, Undo};
use base::Sequence;
use std::ops::Range;
use std::sync::Arc;

impl Saga {
    /// Whether a step may fail, with this effect.
    pub(super) fn may_fail(&self, index: usize, effect: FailedEffect) -> Result<(), Reason> {
        let kind = self.steps[index].terms.kind;
        match (kind, effect) {
            (StepKind::Retriable, _) | (StepKind::Pivot, FailedEffect::Maybe) => {
                Err(Reason::NeverFails { kind })
            }
            (StepKind::Pivot, FailedEffect::None) => Ok(()),
            _ => self.may_turn(),
        }
    }

    fn may_turn(&self) -> Result<(), Reason> {
        self.past_pivot().map_or(Ok(()), |pivot| Err(Reason::PastPivot { pivot }))
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
                let dependencies = self.check_addition(step, dependencies.as_ref())?;
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
                let token = self.derive_token(step, 0);
                let added = || StepState {
                    number: step,
                    token,
                    action,
                    dependencies,
                    waits_for: 0,
                    followers_end: 0,
                    node,
                    body: Arc::clone(body),
                    terms: Arc::clone(terms),
                    outcome: None,
                    output: None,
                    undo: false,
                    dependents: 0,
                    free: Sequence::NONE,
                    compensated: None,
                    attempts: 0,
                    attempts_before: 0,
                    care: Care::Called,
                    instead: None,
                };
                match self.steps.last() {
                    Some(last) if last.number > step => _ = self.stragglers.insert(step, added()),
                    // It is made in its place, since it is large.
                    _ => self.steps.extend(std::iter::once_with(added)),
                }
                Ok(())
            }
            Event::ExecuteStart => {
                let State::Created = self.state else { return Err(Reason::AlreadyStarted) };
                if !self.stragglers.is_empty() {
                    self.steps.extend(std::mem::take(&mut self.stragglers).into_values());
                    // Two ascending runs: the stable sort merges them.
                    self.steps.sort_by_key(StepState::number);
                }
                self.link();
                self.state = State::Executing { since: at };
                Ok(())
            }
            Event::StepSucceeded { step, ref output } => {
                let index = self.in_flight(step)?;
                self.steps[index].output = output.clone().map(Box::new);
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
                        state.instead.get_or_insert_default().body = Some(Arc::clone(body));
                        state.care = Care::Called;
                    }
                    What::Instead { branches } if !by_call && before == Care::Parked => {
                        state.instead.get_or_insert_default().undo =
                            Some(Undo::Transaction(Arc::clone(branches)));
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
        for at in self.followers_range(index) {
            let follower = self.followers[at] as usize;
            self.steps[follower].waits_for -= 1;
        }
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

    pub(super) fn end(&mut self, end: End, at: Sequence) -> Result<(), Reason> {
        self.state = State::Ended { end, at };
        Ok(())
    }

    /// Whether the step may be added; its dependencies, ascending and each once.
    fn check_addition(
        &self,
        step: u32,
        dependencies: Option<&Arc<[u32]>>,
    ) -> Result<Option<Arc<[u32]>>, Reason> {
        let State::Created = self.state else { return Err(Reason::AlreadyStarted) };
        if self.step(step).is_some() {
            return Err(Reason::DuplicateStep);
        }
        let Some(dependencies) = dependencies else { return Ok(None) };
        for &dependency in &dependencies[..] {
            if dependency >= step || self.step(dependency).is_none() {
                return Err(Reason::UnknownDependency { dependency });
            }
        }
        if dependencies.is_sorted_by(|one, next| one < next) {
            return Ok(Some(Arc::clone(dependencies)));
        }
        let mut dependencies = dependencies.to_vec();
        dependencies.sort_unstable();
        dependencies.dedup();
        Ok(Some(dependencies.into()))
    }

    /// Turns an executing saga, which fixes what is to be undone: steps that have an undo, and
    /// succeeded, failed with `effect: maybe`, or may have been started, because all that they depend
    /// on had succeeded.
    ///
    /// A step without an undo stands between those before and those behind it all the same: it holds
    /// what it depends on while something that depends on it is to be undone.
    pub(super) fn turn(&mut self, at: Sequence, turn: Turn) {
        let mut undo = 0;
        for index in (0..self.steps.len()).rev() {
            let listed = self.steps[index].terms.kind.has_undo()
                && match self.steps[index].outcome {
                    Some(StepOutcome::Succeeded { .. }) => true,
                    Some(StepOutcome::Failed { effect, .. }) => effect == FailedEffect::Maybe,
                    None => self.steps[index].is_ready(),
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
                for &number in &numbers[..] {
                    let at = index_of(earlier, number);
                    change(&mut earlier[at.expect("checked when the step was added")]);
                }
            }
        }
    }

    /// From now on steps are fixed: whoever succeeds finds at once who waits for it.
    fn link(&mut self) {
        for index in 0..self.steps.len() {
            let mut waits_for = 0;
            self.each_dependency(index, |dependency| {
                dependency.followers_end += 1;
                waits_for += 1;
            });
            self.steps[index].waits_for = waits_for;
        }
        let mut begin = 0;
        for step in &mut self.steps {
            begin += std::mem::replace(&mut step.followers_end, begin);
        }
        let mut followers = vec![0; begin as usize];
        for index in 0..self.steps.len() {
            self.each_dependency(index, |dependency| {
                followers[dependency.followers_end as usize] = index as u32;
                dependency.followers_end += 1;
            });
        }
        self.followers = followers;
    }

    fn followers_range(&self, index: usize) -> Range<usize> {
        let begin = index.checked_sub(1).map_or(0, |before| self.steps[before].followers_end);
        begin as usize..self.steps[index].followers_end as usize
    }

    /// The indices of the steps that depend on the one at `index`, ascending.
    pub(super) fn followers(&self, index: usize) -> &[u32] {
        &self.followers[self.followers_range(index)]
    }

    /// The steps that the one at `index` depends on, ascending.
    fn dependencies(&self, index: usize) -> impl Iterator<Item = &StepState> {
        let (earlier, rest) = self.steps.split_at(index);
        let before = match &rest[0].dependencies {
            None => earlier.last(),
            Some(_) => None,
        };
        let numbers = rest[0].dependencies.as_deref().unwrap_or_default();
        let named = numbers.iter().map(|&number| {
            let at = index_of(earlier, number);
            &earlier[at.expect("checked when the step was added")]
        });
        before.into_iter().chain(named)
    }

    /// The sequence of the last success among what the step at `index` depends on; no record, if it depends
    /// on nothing.
    pub(super) fn last_success(&self, index: usize) -> Sequence {
        let successes = self.dependencies(index).filter_map(StepState::success);
        successes.max().unwrap_or(Sequence::NONE)
    }

    /// The index of a step that may be running, with its own outcome missing: an outcome is news.
    pub(super) fn in_flight(&self, step: u32) -> Result<usize, Reason> {
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
        if !compensating && !state.is_ready() {
            let open = self.dependencies(index).find(|step| step.success().is_none());
            let dependency = open.expect("what it waits for has not succeeded").number;
            return Err(Reason::DependencyOpen { dependency });
        }
        Ok(index)
    }

    /// The index of a step that is to be done by a transaction, and cannot fail.
    pub(super) fn held(&self, step: u32) -> Result<usize, Reason> {
        let State::Executing { .. } = self.state else { return Err(Reason::NotExecuting) };
        let index = self.in_flight(step).map_err(|_| Reason::NotCompensating)?;
        let by_transaction = matches!(self.steps[index].terms.performer, Performer::Transaction(_));
        let can_fail = self.may_fail(index, FailedEffect::None).is_ok();
        if !by_transaction || can_fail { Err(Reason::NotCompensating) } else { Ok(index) }
    }

    /// The index of a step on the undo list.
    pub(super) fn to_undo(&self, step: u32) -> Result<usize, Reason> {
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

    pub(super) fn unsucceeded(&self) -> u32 {
        self.steps.len() as u32 - self.succeeded
    }
}
