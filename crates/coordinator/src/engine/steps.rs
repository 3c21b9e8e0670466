//! Steps that are operations of their own: transactions and sub-sagas, on the same log.
//!
//! Each has an id of its own, drawn like any other, and its first record names the step that it is for
//! ([`ParentStep`]). It needs no id that follows from the step's: an id holds the epoch in which it was
//! drawn, and on that rests what participants presume about ids that a log does not know. So one whose
//! beginning a crash has taken can never commit, and the step begins another; one that the log knows is found
//! by its step, and gone on with.
//!
//! **A child tells before it ends.** What it came to is in the log as its step's outcome before its own last
//! record is. So nothing has to be kept of it: an operation that has ended, and is in no list any more, has
//! told its saga; and what the step brings is in the saga's own records.
//!
//! **Nothing waits for the disk.** What the saga owes its step before it may run, and the beginning of the
//! child, are in the log before anything that the child could make durable: where a crash takes those, it
//! takes the decision too.
//!
//! The machines know nothing of each other. What one of them owes another is an [`Errand`], done when the
//! input that led to it has been dealt with.

use super::sagas::{Called, SagaOp};
use super::{Engine, OpRef};
use crate::output::{Branch, Output, Refusal};
use base::{OperationId, ParentStep, RequestKey, Time};
use saga::{
    Definition, Direction, OPERATION_FAILED, Outcome, Performer, STEP_TIMED_OUT, Saga, Undo,
};
use twopc::coordinator::{Decision, Event as TransactionEvent, Member};
use twopc::{Peer, Transaction};

/// On whose behalf an operation begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Client(RequestKey),
    Step(ParentStep),
}

/// What one operation owes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// A saga has a step to be done or undone that is not called.
    Step { saga: OperationId, step: u32, direction: Direction },
    /// A transaction or a saga may have come so far that the saga of its step has to know.
    Child(OpRef),
}

/// What runs on behalf of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StepOperation {
    /// A transaction that waits until its participants have announced themselves.
    Awaited,
    /// A transaction.
    Transaction(OperationId),
    /// A saga.
    Saga(OperationId),
}

/// What a child came to.
enum Came {
    To(Outcome),
    /// It was aborted, or compensated. `refused`: not by a crash, and not because nobody answered.
    /// `forced`: by an operator, and what is true of it may be something else: it is never begun anew unless he
    /// says so.
    Nothing {
        refused: bool,
        forced: bool,
    },
}

fn way(parent: ParentStep) -> Direction {
    if parent.undo { Direction::Backward } else { Direction::Forward }
}

/// Whether a step is done, or undone, by calling its node.
pub(super) fn is_called(step: &saga::StepState, direction: Direction) -> bool {
    let by_node = matches!(step.performer(), Performer::Node);
    match direction {
        Direction::Forward => by_node,
        // What became of an operation is known before it is undone.
        Direction::Backward => {
            matches!(step.undo(), Undo::Call) && (by_node || step.outcome().is_some())
        }
    }
}

impl Engine {
    /// What runs on behalf of steps, with the steps, ascending.
    pub fn step_operations(&self) -> impl Iterator<Item = (ParentStep, StepOperation)> + '_ {
        self.children.iter().map(|(parent, op)| {
            let operation = match *op {
                OpRef::Waiting(_) => StepOperation::Awaited,
                OpRef::Transaction(id) => StepOperation::Transaction(id),
                OpRef::Saga(id) => StepOperation::Saga(id),
            };
            (*parent, operation)
        })
    }

    /// The steps for which nothing could begin, and why: the log takes no record so long, or not so much at once,
    /// since the configuration is another than when the saga was submitted. It is tried again and again, and
    /// by a start that allows it succeeds.
    pub fn unbegun(&self) -> impl Iterator<Item = (ParentStep, &Refusal)> {
        self.unbegun.iter().filter_map(|(parent, refusal)| {
            let awaited = self.sagas.get(&parent.saga)?.machine.awaits(parent.step, way(*parent));
            let begun = self.children.contains_key(parent);
            (awaited && !begun).then_some((*parent, refusal))
        })
    }

    /// What has become of beginning something on behalf of a step. True if it has.
    fn begun(&mut self, parent: ParentStep, result: Result<(), Refusal>) -> bool {
        match result {
            Ok(()) => self.unbegun.remove(&parent),
            Err(refusal) => self.unbegun.insert(parent, refusal),
        };
        !self.unbegun.contains_key(&parent)
    }

    /// Which operation runs on behalf of each step, after a start. Of several transactions of one step
    /// all but one are being aborted.
    pub(super) fn find_children(&mut self) {
        let mut found = Vec::new();
        for (id, op) in &self.transactions {
            let Some(parent) = op.machine.parent() else { continue };
            // Of what an operator has aborted its saga has to hear, if it has not.
            let seen_to = self
                .sagas
                .get(&parent.saga)
                .and_then(|saga| Some(saga.machine.step(parent.step)?.seen_to()));
            let unheard = op.machine.is_forced() && Some(op.machine.evidence()) > seen_to;
            let over = op.machine.decision() == Some(Decision::Abort) && !unheard;
            found.push((parent, over, OpRef::Transaction(*id)));
        }
        for (id, op) in &self.sagas {
            found.extend(op.machine.terms().parent.map(|it| (it, false, OpRef::Saga(*id))));
        }
        for (parent, over, child) in found {
            if !over {
                self.children.insert(parent, child);
            }
            self.desk.errands.push_back(Errand::Child(child));
        }
    }

    /// Does what operations owe each other, until they owe nothing. What the log has no room for is
    /// tried again by the timer of the operation that owes it.
    pub(super) fn run_errands(&mut self, now: Time, out: &mut Vec<Output>) {
        while let Some(errand) = self.desk.errands.pop_front() {
            match errand {
                Errand::Step { saga, step, direction: Direction::Forward } => {
                    self.do_step(now, saga, step, out);
                }
                Errand::Step { saga, step, direction: Direction::Backward } => {
                    self.undo_step(now, saga, step, out);
                }
                Errand::Child(OpRef::Transaction(id)) => self.hear_transaction(now, id, out),
                Errand::Child(OpRef::Saga(id)) => self.hear_saga(now, id, out),
                Errand::Child(OpRef::Waiting(_)) => {}
            }
        }
    }

    fn do_step(&mut self, now: Time, saga: OperationId, step: u32, out: &mut Vec<Output>) {
        let parent = ParentStep { saga, step, undo: false };
        let Some(op) = self.sagas.get(&saga) else { return };
        let executing = op.machine.phase() == saga::Phase::Executing;
        let parked = op.machine.step(step).is_some_and(saga::StepState::is_parked);
        if !executing || parked || !op.machine.awaits(step, Direction::Forward) {
            return;
        }
        if self.children.contains_key(&parent) {
            // Found by this start, perhaps: then its time-out counts from here.
            if op.forward(step).is_none() {
                self.step_begun(now, saga, step);
            }
            return;
        }
        if op.given_up(step) {
            let outcome = Outcome::Refused { code: STEP_TIMED_OUT };
            self.tell_step(now, parent, outcome, out);
            return;
        }
        let Some(performer) = op.machine.step(step).map(|step| step.performer().clone()) else {
            return;
        };
        let result = match performer {
            Performer::Transaction(branches) => self.begin_of_step(now, parent, &branches, out),
            Performer::Saga(definition) => {
                self.start_saga(now, Origin::Step(parent), &definition, out)
            }
            _ => return,
        };
        if self.begun(parent, result) {
            self.step_begun(now, saga, step);
        }
    }

    /// The time-out of a step counts from here.
    fn step_begun(&mut self, now: Time, saga: OperationId, step: u32) {
        let Some(op) = self.sagas.get_mut(&saga) else { return };
        op.called(step, Direction::Forward, now);
        self.desk.watch_saga(now, op);
    }

    fn undo_step(&mut self, now: Time, saga: OperationId, step: u32, out: &mut Vec<Output>) {
        let (forward, backward) =
            (ParentStep { saga, step, undo: false }, ParentStep { saga, step, undo: true });
        let Some(op) = self.sagas.get(&saga) else { return };
        if !op.machine.awaits(step, Direction::Backward) {
            return;
        }
        let Some(state) = op.machine.step(step) else { return };
        if state.outcome().is_none() && !matches!(state.performer(), Performer::Node) {
            // First it is to be known whether there is anything to undo.
            match self.children.get(&forward) {
                Some(&OpRef::Transaction(id)) => {
                    let abort = twopc::coordinator::Input::AbortRequested;
                    self.tell_transaction(now, id, &abort, out);
                }
                Some(&OpRef::Saga(id)) => {
                    self.tell_saga(now, id, &saga::Input::Cancel, out);
                }
                Some(&OpRef::Waiting(number)) => {
                    self.waiting.remove(&number);
                    self.children.remove(&forward);
                    self.tell_step(now, forward, FAILED, out);
                }
                // None has begun that could still commit.
                None => _ = self.tell_step(now, forward, FAILED, out),
            }
            return;
        }
        if state.is_parked() || state.is_marked_done() {
            return;
        }
        match state.undo().clone() {
            Undo::Transaction(_) if self.children.contains_key(&backward) => {}
            // As a call that nobody answers: those before were aborted, by whatever.
            Undo::Transaction(_) if op.undos(step) >= self.desk.config.undo_attempts_max => {
                self.tell_saga(now, saga, &saga::Input::GiveUpUndo { step }, out);
            }
            Undo::Transaction(branches) => {
                let result = self.begin_of_step(now, backward, &branches, out);
                if self.begun(backward, result)
                    && let Some(op) = self.sagas.get_mut(&saga)
                {
                    op.called(step, Direction::Backward, now);
                }
            }
            Undo::Reverse => match self.children.get(&forward) {
                Some(&OpRef::Saga(id)) => {
                    self.tell_saga(now, id, &saga::Input::Cancel, out);
                }
                // A log of ours holds it as long as it can be undone. Where it does not, somebody has to look.
                _ => _ = self.tell_saga(now, saga, &saga::Input::GiveUpUndo { step }, out),
            },
            _ => {}
        }
    }

    /// Nobody waits for the step any longer: what runs on its behalf is ended, and then it has failed without
    /// effect; unless it is done by then. False if nothing of it runs that could be waited for.
    pub(super) fn give_up_step(
        &mut self,
        now: Time,
        saga: OperationId,
        step: u32,
        out: &mut Vec<Output>,
    ) -> bool {
        let parent = ParentStep { saga, step, undo: false };
        let Some(op) = self.sagas.get_mut(&saga) else { return false };
        op.give_up(step);
        match self.children.get(&parent).copied() {
            Some(OpRef::Transaction(id)) => {
                let abort = twopc::coordinator::Input::AbortRequested;
                self.tell_transaction(now, id, &abort, out)
            }
            Some(OpRef::Saga(id)) => self.tell_saga(now, id, &saga::Input::Cancel, out),
            Some(OpRef::Waiting(number)) => {
                self.waiting.remove(&number);
                self.children.remove(&parent);
                self.tell_step(now, parent, Outcome::Refused { code: STEP_TIMED_OUT }, out)
            }
            None => self.tell_step(now, parent, Outcome::Refused { code: STEP_TIMED_OUT }, out),
        }
    }

    fn begin_of_step(
        &mut self,
        now: Time,
        parent: ParentStep,
        branches: &[Branch],
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        self.begin_or_wait(now, Origin::Step(parent), branches.to_vec(), 0, out)
    }

    /// What became of a step, or of its undo. True if that is in the log now, or is worth nothing to it.
    fn tell_step(
        &mut self,
        now: Time,
        parent: ParentStep,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) -> bool {
        let ParentStep { saga, step, .. } = parent;
        let direction = way(parent);
        let attempts_max = self.desk.config.undo_attempts_max;
        let Some(op) = self.sagas.get_mut(&saga) else { return false };
        let input = op.input_of(step, direction, outcome, attempts_max);
        if op.machine.decide(&input).is_none() {
            return true;
        }
        let compensating = op.machine.phase() == saga::Phase::Compensating;
        if direction == Direction::Forward && compensating {
            // It was asked for already, to no avail: only now is it known whether it is to be undone.
            op.called_anew(step);
        }
        self.tell_saga(now, saga, &input, out)
    }

    /// A transaction of a step's: what it came to, if it has.
    fn hear_transaction(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.transactions.get(&id) else { return };
        let Some(parent) = op.machine.parent().filter(|_| !op.told_parent) else { return };
        // Whoever has to commit has done so: what comes behind the step finds it at all of them.
        let done = op.machine.settle().is_some_and(|event| is_end(&event))
            || matches!(op.machine.ended(), Some(Decision::Commit | Decision::ReadOnly));
        let came = match op.machine.decision() {
            _ if done => Came::To(Outcome::Done),
            Some(Decision::Abort) => {
                // What a start has found was not voted down by anybody who knew of it.
                let refused = op.machine.was_refused() && !op.work.is_empty();
                Came::Nothing { refused, forced: op.machine.is_forced() }
            }
            _ => return,
        };
        if !self.hear(now, parent, OpRef::Transaction(id), came, out) {
            return self.tell_again(now, parent, OpRef::Transaction(id));
        }
        let Some(op) = self.transactions.get_mut(&id) else { return };
        op.told_parent = true;
        self.desk.advance_transaction(now, op, false, out);
        if op.machine.ended().is_some() {
            self.end_transaction(now, id);
        }
    }

    /// A sub-saga: what it came to, if it has, and whether it may end.
    fn hear_saga(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.sagas.get(&id) else { return };
        let (Some(parent), Some(end)) = (op.machine.terms().parent, op.machine.through()) else {
            return;
        };
        let came = match end {
            saga::End::Completed => {
                let last = op.machine.steps().last().and_then(|step| step.output().cloned());
                Came::To(last.map_or(Outcome::Done, Outcome::DoneWith))
            }
            saga::End::Compensated | saga::End::Aborted if self.awaits_undo(parent) => {
                let undo = ParentStep { undo: true, ..parent };
                if self.tell_step(now, undo, Outcome::Done, out) {
                    self.release(now, id, parent, out);
                } else {
                    self.tell_again(now, parent, OpRef::Saga(id));
                }
                return;
            }
            saga::End::Compensated | saga::End::Aborted => {
                Came::Nothing { refused: true, forced: false }
            }
        };
        let heard = self.hear(now, parent, OpRef::Saga(id), came, out);
        let may_turn = end == saga::End::Completed && self.may_reverse(parent);
        if !heard {
            self.tell_again(now, parent, OpRef::Saga(id));
        } else if !may_turn {
            self.release(now, id, parent, out);
        }
    }

    fn release(&mut self, now: Time, id: OperationId, parent: ParentStep, out: &mut Vec<Output>) {
        self.forget_child(parent, OpRef::Saga(id));
        self.tell_saga(now, id, &saga::Input::Released, out);
        let Some(op) = self.sagas.get_mut(&id) else { return };
        if op.machine.decide(&saga::Input::Released).is_some() {
            // The log had no room for it, and nobody lets it go a second time.
            self.desk.look_again(&mut op.pace, now, OpRef::Saga(id));
        }
    }

    /// What a step's operation came to was not heard by its saga. If that is active, the log had no room for it.
    fn tell_again(&mut self, now: Time, parent: ParentStep, child: OpRef) {
        if !self.sagas.contains_key(&parent.saga) {
            return;
        }
        let pace = match child {
            OpRef::Transaction(id) => self.transactions.get_mut(&id).map(|op| &mut op.pace),
            OpRef::Saga(id) => self.sagas.get_mut(&id).map(|op| &mut op.pace),
            OpRef::Waiting(_) => None,
        };
        if let Some(pace) = pace {
            self.desk.look_again(pace, now, child);
        }
    }

    /// Whether a step that has succeeded is being undone.
    fn awaits_undo(&self, parent: ParentStep) -> bool {
        let machine = self.sagas.get(&parent.saga).map(|op| &op.machine);
        machine.is_some_and(|saga| {
            saga.awaits(parent.step, Direction::Backward)
                && !saga.awaits(parent.step, Direction::Forward)
        })
    }

    /// Whether a sub-saga that is done may still be turned by the saga that it is a step of.
    fn may_reverse(&self, parent: ParentStep) -> bool {
        let Some(op) = self.sagas.get(&parent.saga) else { return !self.is_gone(parent.saga) };
        let step = op.machine.step(parent.step);
        step.is_some_and(|step| {
            let reversible = matches!(step.undo(), Undo::Reverse) && step.kind().has_undo();
            reversible && step.compensated().is_none()
        })
    }

    /// Whether a saga has ended, or never began: then nothing that runs on its behalf waits for it.
    ///
    /// One of which the log says that it has ended has, whatever records are lost. One that is in doubt may be
    /// neither, and so may one of which a lost record may have told: for that it waits until an operator says how
    /// it [ended](Engine::intervene). Any other that is not active has ended long ago, or a crash has taken its
    /// beginning.
    fn is_gone(&self, saga: OperationId) -> bool {
        let hidden = self.unknown_ids_up_to.is_some_and(|up_to| saga.epoch() <= up_to);
        let unknown = self.sagas_in_doubt.contains_key(&saga) || hidden;
        !self.sagas.contains_key(&saga) && (!unknown || self.window.has_saga(saga))
    }

    pub(super) fn forget_child(&mut self, parent: ParentStep, child: OpRef) {
        if self.children.get(&parent) == Some(&child) {
            self.children.remove(&parent);
        }
    }

    /// Tells a saga what the operation of one of its steps came to. True if that is settled: it is in the
    /// log, or makes no difference to it.
    fn hear(
        &mut self,
        now: Time,
        parent: ParentStep,
        child: OpRef,
        came: Came,
        out: &mut Vec<Output>,
    ) -> bool {
        let ParentStep { saga, step, .. } = parent;
        let direction = way(parent);
        let usual = self.desk.config.step_transactions_max;
        let Some(op) = self.sagas.get_mut(&saga) else {
            let gone = self.is_gone(saga);
            if gone {
                self.forget_child(parent, child);
            }
            return gone;
        };
        if !op.machine.awaits(step, direction) {
            // It knows already; a sub-saga that it may still turn is let go of elsewhere.
            if let OpRef::Transaction(_) = child {
                self.forget_child(parent, child);
            }
            return true;
        }
        let compensating = op.machine.phase() == saga::Phase::Compensating;
        let outcome = match came {
            Came::To(outcome) => outcome,
            Came::Nothing { .. } if self.children.get(&parent) != Some(&child) => return true,
            Came::Nothing { forced: true, .. }
                if compensating == (direction == Direction::Backward)
                    && (compensating || op.machine.cannot_fail(step)) =>
            {
                // It would be begun anew; but who takes part may have committed what an operator calls aborted.
                let park = match direction {
                    Direction::Forward => saga::Input::AbortForced { step },
                    Direction::Backward => saga::Input::GiveUpUndo { step },
                };
                let heard = op.machine.decide(&park).is_none();
                if !heard && !self.tell_saga(now, saga, &park, out) {
                    return false;
                }
                self.forget_child(parent, child);
                return true;
            }
            Came::Nothing { refused, forced } => {
                let code = if op.given_up(step) { STEP_TIMED_OUT } else { OPERATION_FAILED };
                let failed = match direction {
                    Direction::Forward if op.given_up(step) || compensating => true,
                    Direction::Forward if op.machine.cannot_fail(step) => false,
                    Direction::Forward if forced => true,
                    Direction::Forward if !refused => false,
                    Direction::Forward => {
                        let terms = op.machine.step(step).map(saga::StepState::terms);
                        let most = terms.and_then(|terms| terms.attempts).unwrap_or(usual);
                        let saga = matches!(child, OpRef::Saga(_));
                        op.refused(step) >= most || saga
                    }
                    Direction::Backward => refused,
                };
                if !failed {
                    // It is begun anew when the saga is looked at again.
                    self.forget_child(parent, child);
                    return true;
                }
                Outcome::Refused { code }
            }
        };
        let done = !matches!(outcome, Outcome::Refused { .. });
        if !self.tell_step(now, parent, outcome, out) {
            return false;
        }
        // A sub-saga that is done can be turned as long as its saga can.
        if !(done && matches!(child, OpRef::Saga(_))) {
            self.forget_child(parent, child);
        }
        true
    }

    /// What runs on behalf of a saga.
    pub(super) fn children_of(&self, saga: OperationId) -> impl Iterator<Item = OpRef> {
        let first = ParentStep { saga, step: 0, undo: false };
        let last = ParentStep { saga, step: u32::MAX, undo: true };
        self.children.range(first..=last).map(|(_, child)| *child)
    }

    /// Whoever has run on behalf of a saga that has ended need not wait for it any longer.
    pub(super) fn release_children(&mut self, saga: OperationId) {
        let children: Vec<_> = self.children_of(saga).map(Errand::Child).collect();
        self.desk.errands.extend(children);
        self.unbegun.retain(|parent, _| parent.saga != saga);
    }

    /// Refuses a definition of which something could not be begun, wherever in it that is.
    pub(super) fn check_definition(&self, definition: &Definition) -> Result<(), Refusal> {
        let config = &self.desk.config;
        // No deeper than a record of the log may be.
        let depth_max = config.depth_max.min(crate::codec::DEPTH_MAX);
        if definition.depth() > depth_max {
            return Err(Refusal::TooDeep { depth_max });
        }
        let steps_max = config.steps_max;
        if definition.steps().len() > steps_max as usize {
            return Err(Refusal::TooManySteps { steps_max });
        }
        if let Some(known) = &config.actions {
            let steps = definition.steps().iter();
            let mut names = steps.flat_map(|step| step.action_name.iter().chain(&step.undo_name));
            if let Some(action) = names.find(|name| !known.contains(*name)) {
                return Err(Refusal::UnknownAction { action: action.clone() });
            }
        }
        let output_max = config.output_bytes_max as usize;
        for step in definition.steps() {
            let output = step.output.map(|_| output_max);
            self.desk.check_payload(crate::codec::step_outcome_bytes(step.body.len(), output))?;
            self.desk.check_payload(crate::codec::step_succeeded_bytes(output.unwrap_or(0)))?;
            match &step.performer {
                Performer::Transaction(branches) => self.check_branches(branches)?,
                Performer::Saga(definition) => self.check_definition(definition)?,
                _ => {}
            }
            if let Some(Undo::Transaction(branches)) = &step.undo {
                self.check_branches(branches)?;
            }
        }
        Ok(())
    }

    pub(super) fn check_branches(&self, branches: &[Branch]) -> Result<(), Refusal> {
        let member = |branch: &Branch| {
            Member::at(Peer {
                shard: branch.shard,
                node: branch.node,
                store: base::StoreId::default(),
                boot: base::BootCount::default(),
            })
        };
        let members: Vec<Member> = branches.iter().map(member).collect();
        let admission = Transaction::admission(self.desk.config.id, None, None, &members)
            .map_err(Refusal::Participants)?;
        let decision = TransactionEvent::CommitStart { members };
        for event in admission.iter().chain([&decision]) {
            self.desk.check_payload(crate::codec::transaction_payload_bytes(event))?;
        }
        let work = branches.iter().map(|branch| branch.work.len()).max();
        self.desk.check_payload(crate::codec::prepared_bytes(work.unwrap_or(0), branches.len()))
    }
}

const FAILED: Outcome = Outcome::Refused { code: OPERATION_FAILED };

/// Whether it is the last fact of a transaction that has had its way.
pub(super) fn is_end(event: &TransactionEvent) -> bool {
    matches!(event, TransactionEvent::CommitComplete | TransactionEvent::ReadOnlyComplete)
}

/// Whether the saga of its step does not know yet what it came to.
pub(super) fn owes_parent(op: &super::TransactionOp) -> bool {
    op.machine.parent().is_some() && !op.told_parent
}

/// Whether a saga waits for nothing but the word of the saga that it is a step of.
pub(super) fn waits_for_parent(machine: &Saga) -> bool {
    machine.terms().parent.is_some() && machine.through().is_some()
}

impl SagaOp {
    fn forward(&self, step: u32) -> Option<&Called> {
        let mine = |call: &&Called| call.step == step && call.direction == Direction::Forward;
        self.calls.iter().find(mine)
    }

    /// Whether nobody waits for this step any longer.
    fn given_up(&self, step: u32) -> bool {
        self.forward(step).is_some_and(|call| call.given_up)
    }

    /// How many transactions have begun since this start, or since an operator's last order, to undo a step.
    fn undos(&self, step: u32) -> u32 {
        let mine = |call: &&Called| call.step == step && call.direction == Direction::Backward;
        self.calls.iter().find(mine).map_or(0, |call| call.attempts)
    }

    fn give_up(&mut self, step: u32) {
        for call in &mut self.calls {
            call.given_up |= call.step == step && call.direction == Direction::Forward;
        }
    }

    /// How many of its operations have been voted down since this start, with this one.
    fn refused(&mut self, step: u32) -> u32 {
        let mine = |call: &&mut Called| call.step == step && call.direction == Direction::Forward;
        self.calls.iter_mut().find(mine).map_or(1, |call| {
            call.refused = call.refused.saturating_add(1);
            call.refused
        })
    }
}
