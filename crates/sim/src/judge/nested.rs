//! Steps that are transactions or sagas of their own: their outcomes agree with those of the operations that
//! do and undo them, of which one at most counts.
//!
//! All of it is in one coordinator's log, so each record is held against those before it. That a
//! transaction's participants have committed is held against their own logs.

use super::facts::{Added, Calls, Coordinator, Facts, Spread, ensure};
use super::ledger::Checked;
use super::model::{self, Parent, Saga, StepSet, Transaction};
use base::{NodeName, OperationId};
use saga::{Definition, End, Performer};
use twopc::coordinator::Decision;

/// What a saga of this definition asks for, of whom, if every step succeeds.
pub(super) fn works(definition: &Definition, add: &mut impl FnMut(NodeName, &[u8])) {
    for step in definition.steps() {
        match &step.performer {
            Performer::Transaction(branches) => {
                branches.iter().for_each(|branch| add(branch.node, &branch.work));
            }
            Performer::Saga(definition) => works(definition, add),
            _ => add(step.node, &step.body),
        }
    }
}

/// What has become of an operation that runs on behalf of a step, by its coordinator's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// It may still go either way.
    Open,
    /// All that it does is there.
    Done,
    /// It will be.
    Decided,
    /// Nothing of it is there, or will be.
    Nothing,
}

fn came_transaction(tx: &Transaction, spread: Option<&Spread>) -> Came {
    let committed = spread.map_or(0, |spread| spread.committed + spread.missed) as usize;
    match tx.ended {
        Some(Decision::Abort) => Came::Nothing,
        Some(Decision::Commit | Decision::ReadOnly) => Came::Done,
        None if tx.committing > 0 && committed == tx.writers() => Came::Done,
        None if tx.committing > 0 => Came::Decided,
        None if tx.aborting > 0 || tx.rolling_back > 0 => Came::Nothing,
        None if tx.size() > 0 && tx.writers() == 0 => Came::Done,
        None => Came::Open,
    }
}

fn came_saga(saga: &Saga) -> Came {
    match saga.ended {
        Some((End::Completed, _)) => Came::Done,
        Some((End::Compensated | End::Aborted, _)) => Came::Nothing,
        None if saga.turned > 0 && saga.to_undo(&model::Rules::default()) == 0 => Came::Nothing,
        None if saga.turned == 0 && saga.started > 0 && saga.succeeded == saga.all() => Came::Done,
        None => Came::Open,
    }
}

impl Facts {
    fn step_of(&self, node: u32, id: OperationId, step: StepSet) -> Option<&model::Step> {
        let saga = self.coordinators[node as usize].model.sagas.get(id)?;
        saga.steps.get(step.trailing_zeros() as usize)
    }

    /// Whether a step is a transaction or a saga.
    pub(super) fn is_operation(&self, node: u32, id: OperationId, step: StepSet) -> bool {
        self.step_of(node, id, step).is_some_and(|step| step.performer != model::BY_NODE)
    }

    /// Whether a step is undone by one.
    pub(super) fn is_undone_by_operation(&self, node: u32, id: OperationId, step: StepSet) -> bool {
        self.step_of(node, id, step).is_some_and(|step| step.undo != model::BY_NODE)
    }

    fn came(&self, node: u32, id: OperationId, is_saga: bool) -> Came {
        let coordinator = &self.coordinators[node as usize];
        let came = match is_saga {
            true => coordinator.model.sagas.get(id).map(came_saga),
            false => {
                let tx = coordinator.model.transactions.get(id);
                tx.map(|tx| came_transaction(tx, coordinator.spread.get(id)))
            }
        };
        // What is not in the log has come to nothing that anybody could go by.
        came.unwrap_or(Came::Open)
    }

    /// What has become of everything that has run on behalf of a step.
    fn all_that_came(&self, node: u32, of: Parent) -> impl Iterator<Item = Came> + '_ {
        let children = self.coordinators[node as usize].children.get(&of);
        children.into_iter().flatten().map(move |(id, is_saga)| self.came(node, *id, *is_saga))
    }

    /// An operation begins, perhaps on behalf of a step.
    pub(super) fn child_created(&mut self, node: u32, id: OperationId, is_saga: bool) -> Checked {
        let model = &self.coordinators[node as usize].model;
        let parent = match is_saga {
            true => model.sagas.get(id).and_then(|saga| saga.parent),
            false => model.transactions.get(id).and_then(|tx| tx.parent),
        };
        let Some(of) = parent else { return Ok(()) };
        let may = model.sagas.get(of.saga).is_some_and(|saga| may_begin(saga, of, is_saga));
        ensure(may, "nested", || format!("n{node}: operation {id} begins for {of:?}: not now"))?;
        let other = self.all_that_came(node, of).find(|came| *came != Came::Nothing);
        ensure(other.is_none(), "nested", || {
            format!("n{node}: operation {id} begins for {of:?}, and so has one that is {other:?}")
        })?;
        let children = self.coordinators[node as usize].children.entry(of).or_default();
        self.seen.step_begun_anew += u64::from(!children.is_empty());
        children.push((id, is_saga));
        Ok(())
    }

    /// A transaction commits, perhaps on behalf of a step: then the step is still to be done, or undone.
    pub(super) fn child_commits(&self, node: u32, id: OperationId) -> Checked {
        let Coordinator { model, calls, children, .. } = &self.coordinators[node as usize];
        let Some(of) = model.transactions.get(id).and_then(|tx| tx.parent) else { return Ok(()) };
        let last = children.get(&of).and_then(|all| all.last());
        ensure(last == Some(&(id, false)), "nested", || {
            format!("n{node}: transaction {id} commits for {of:?}, for which another one runs")
        })?;
        let Some((saga, index)) = named(model, of) else { return unknown(node, id, of) };
        let bit: StepSet = 1 << index;
        let due = match of.undo {
            false => saga.outcomes() & bit == 0 && saga.ended.is_none(),
            true => saga.to_undo(&model.rules) & bit > 0,
        };
        ensure(due, "nested", || {
            format!("n{node}: transaction {id} commits for {of:?}, which waits for nothing")
        })?;
        // What an operator has seen to is there, and is undone by hand.
        let there = calls
            .get(of.saga)
            .map_or(0, |calls| calls.changed & !calls.taken_back & !calls.marked & !calls.closed);
        let before = if of.undo { saga.dependents(index) & there & saga.has_undo } else { 0 };
        ensure(before == 0, "I5", || {
            format!("n{node}: transaction {id} undoes {of:?} before steps {before:#b}")
        })
    }

    /// A step that is an operation has succeeded: the operation has.
    pub(super) fn operation_succeeded(
        &mut self,
        node: u32,
        id: OperationId,
        step: StepSet,
    ) -> Checked {
        let Some(asked) = self.step_of(node, id, step).copied() else { return Ok(()) };
        let of = Parent { saga: id, step: asked.number, undo: false };
        let done = self.all_that_came(node, of).filter(|came| *came == Came::Done).count();
        ensure(done == 1, "nested", || {
            let all: Vec<Came> = self.all_that_came(node, of).collect();
            format!("n{node} logs that {of:?} succeeded; what ran for it is {all:?}")
        })?;
        match asked.performer {
            model::BY_SAGA => self.seen.step_saga += 1,
            _ => self.seen.step_transaction += 1,
        }
        let calls = self.coordinators[node as usize].calls.entry(id, Calls::default);
        calls.done |= step;
        calls.changed |= step;
        Ok(())
    }

    /// What the operation of a step has added: an operator who undoes the step by hand leaves it there.
    pub(super) fn step_added(&mut self, node: u32, of: Parent, added: Vec<Added>) {
        let Coordinator { model, calls, .. } = &mut self.coordinators[node as usize];
        let Some(saga) = model.sagas.get(of.saga) else { return };
        let Some(index) = saga.index(of.step).filter(|_| !of.undo) else { return };
        let calls = calls.entry(of.saga, Calls::default);
        let stays = (calls.marked | calls.closed | saga.overridden) >> index & 1 == 1;
        match (saga.ended, saga.parent) {
            (None, _) => {
                calls.added.extend(added.into_iter().map(|added| (index as u8, added)));
            }
            // What could be reversed ends behind its saga, which may have been a step itself.
            (Some((End::Completed, _)), Some(parent)) => self.step_added(node, parent, added),
            (Some((End::Completed, _)), None) => {}
            (Some(_), _) if stays => self.expected.extend(added),
            (Some(_), _) => {}
        }
    }

    /// The same, of a branch of a transaction that may be one.
    pub(super) fn branch_added(&mut self, node: u32, id: OperationId, added: Vec<Added>) {
        let tx = self.coordinators[node as usize].model.transactions.get(id);
        if let Some(of) = tx.and_then(|tx| tx.parent) {
            self.step_added(node, of, added);
        }
    }

    /// A step that is an operation has failed: nothing of the operation is there.
    pub(super) fn operation_failed(
        &mut self,
        node: u32,
        id: OperationId,
        step: StepSet,
        unknown: bool,
    ) -> Checked {
        let Some(asked) = self.step_of(node, id, step).copied() else { return Ok(()) };
        let of = Parent { saga: id, step: asked.number, undo: false };
        self.seen.step_refused += 1;
        ensure(!unknown, "nested", || {
            format!("n{node} does not know what {of:?} did, although its own log says it")
        })?;
        let left = self.all_that_came(node, of).find(|came| *came != Came::Nothing);
        ensure(left.is_none(), "nested", || {
            format!("n{node} logs that {of:?} failed; what ran for it is {left:?}")
        })
    }

    /// A step is undone by an operation: that has had its way.
    pub(super) fn operation_undone(
        &mut self,
        node: u32,
        id: OperationId,
        step: StepSet,
    ) -> Checked {
        let Some(asked) = self.step_of(node, id, step).copied() else { return Ok(()) };
        let by_transaction = asked.undo == model::BY_TRANSACTION;
        let of = Parent { saga: id, step: asked.number, undo: by_transaction };
        let undone = match by_transaction {
            true => self.all_that_came(node, of).filter(|came| *came == Came::Done).count() == 1,
            false => {
                let mut all = self.all_that_came(node, of).peekable();
                all.peek().is_some() && all.all(|came| came == Came::Nothing)
            }
        };
        ensure(undone, "nested", || {
            let all: Vec<Came> = self.all_that_came(node, of).collect();
            format!("n{node} logs that step {} of saga {id} is undone: {all:?}", asked.number)
        })?;
        match by_transaction {
            true => {
                let replaced = self.saga(node, id).map_or(0, |saga| saga.replaced);
                self.seen.undo_replaced += u64::from(replaced & step > 0);
                self.seen.undone_by_transaction += 1;
            }
            false => self.seen.saga_reversed += 1,
        }
        let calls = self.coordinators[node as usize].calls.entry(id, Calls::default);
        calls.compensated |= step;
        calls.taken_back |= step;
        Ok(())
    }

    /// The last record of an operation that has had its way, or is undone: by then its saga knows.
    pub(super) fn child_ended(&self, node: u32, id: OperationId, is_saga: bool) -> Checked {
        let Coordinator { model, .. } = &self.coordinators[node as usize];
        let parent = match is_saga {
            true => model.sagas.get(id).and_then(|saga| saga.parent),
            false => model.transactions.get(id).and_then(|tx| tx.parent),
        };
        let Some(of) = parent else { return Ok(()) };
        let Some((saga, index)) = named(model, of) else { return unknown(node, id, of) };
        let bit: StepSet = 1 << index;
        let has = |set: StepSet| set & bit > 0;
        let child = model.sagas.get(id);
        let ended = child.and_then(|it| it.ended).map(|(end, _)| end);
        let knows = match (is_saga, ended) {
            (false, _) if of.undo => has(saga.undone),
            (false, _) => has(saga.succeeded),
            // As long as it can be turned it does not end.
            (true, Some(End::Completed)) => {
                let reversible = saga.steps[index].undo == model::BY_SAGA && has(saga.has_undo);
                has(saga.succeeded) && (!reversible || saga.ended.is_some())
            }
            // A crash has cut its beginning, and nothing of it ran: another one begins.
            (true, Some(End::Aborted)) if child.is_some_and(|it| it.started == 0) => true,
            // It was done, and is undone; or it has failed. Where it may not fail another one begins.
            (true, _) if has(saga.succeeded) => has(saga.undone),
            (true, _) => has(saga.refused) || saga.turned == 0 && !saga.may_fail(bit, false),
        };
        ensure(knows, "nested", || {
            format!("n{node}: operation {id} ends, and {of:?}, for which it ran, does not know how")
        })
    }

    /// A saga has ended: so has all that its steps were, as far as it can matter.
    pub(super) fn children_at_the_end(&self, node: u32, id: OperationId, end: End) -> Checked {
        let first = Parent { saga: id, step: 0, undo: false };
        let last = Parent { saga: id, step: u32::MAX, undo: true };
        let children = self.coordinators[node as usize].children.range(first..=last);
        for (of, all) in children {
            for (child, is_saga) in all {
                let came = self.came(node, *child, *is_saga);
                let reversed = end != End::Completed && !of.undo && *is_saga;
                let ended = match came {
                    Came::Open | Came::Decided => false,
                    Came::Nothing => true,
                    Came::Done => !reversed || !self.reverses(node, *of),
                };
                ensure(ended, "nested", || {
                    let end = end.name();
                    format!("n{node}: saga {id} is {end}, and operation {child} of {of:?} {came:?}")
                })?;
            }
        }
        Ok(())
    }

    fn reverses(&self, node: u32, of: Parent) -> bool {
        let saga = self.coordinators[node as usize].model.sagas.get(of.saga);
        let step = saga.and_then(|saga| Some(saga.steps[saga.index(of.step)?]));
        step.is_some_and(|step| step.undo == model::BY_SAGA)
    }
}

/// The step that an operation is for, and its place.
fn named(model: &model::Model, of: Parent) -> Option<(&Saga, usize)> {
    let saga = model.sagas.get(of.saga)?;
    Some((saga, saga.index(of.step)?))
}

fn unknown(node: u32, id: OperationId, of: Parent) -> Checked {
    ensure(false, "nested", || {
        format!("n{node}: operation {id} is for {of:?}, which nothing names")
    })
}

/// Whether something may begin that does, or undoes, this step of the saga.
fn may_begin(saga: &Saga, of: Parent, is_saga: bool) -> bool {
    let Some(index) = saga.index(of.step) else { return false };
    let (bit, step): (StepSet, _) = (1 << index, saga.steps[index]);
    let by = if is_saga { model::BY_SAGA } else { model::BY_TRANSACTION };
    let unended = saga.started > 0 && saga.ended.is_none();
    if of.undo {
        let list = saga.to_undo(&model::Rules::default());
        let due = list & bit > 0 && saga.dependents(index) & list == 0;
        unended && due && saga.succeeded & bit > 0 && step.undo == by && !is_saga
    } else {
        let ready = saga.needs(index) & !saga.succeeded == 0;
        unended && saga.turned == 0 && ready && saga.outcomes() & bit == 0 && step.performer == by
    }
}
