//! Steps of sagas: called, taken and answered, each effect once.

use super::super::cells::Lock;
use super::super::ledger::{Checked, Objection};
use super::super::model::StepSet;
use super::super::payload::ChangeKind;
use super::super::survey::{StepKey, StepSays};
use super::super::{model, payload, survey};
use super::coordinators::Coordinator;
use super::participants::Added;
use super::{Facts, ensure, seen};
use base::OperationId;
use coordinator::{Call, StepAnswer, UndoOrder};
use saga::{Direction, Output, StepInput};

/// A saga's calls, as the nodes that run its steps have them in their logs.
#[derive(Clone, Debug, Default)]
pub(in crate::judge) struct Calls {
    pub(in crate::judge) done: StepSet,
    pub(super) refused: StepSet,
    pub(in crate::judge) changed: StepSet,
    pub(in crate::judge) compensated: StepSet,
    not_compensated: StepSet,
    pub(in crate::judge) taken_back: StepSet,
    /// The highest epoch that has called each step, forward and backward.
    epochs: Vec<[u32; 2]>,
    pub(super) request: Option<u32>,
    /// Undone by hand, says an operator.
    pub(in crate::judge) marked: StepSet,
    /// Closed by an operator without an answer.
    pub(in crate::judge) closed: StepSet,
    /// What steps gave, by their places.
    outputs: Vec<(u8, Box<[u8]>)>,
    /// How often each step was called while it waited for an operator.
    pub(super) parked: Vec<(u8, u32)>,
    /// What each step has added, going forward and back, by its place.
    pub(in crate::judge) added: Vec<(u8, Added)>,
    /// What each step was answered, forward and backward: see [`survey::answer_sum`]; 0: nothing.
    pub(super) answers: Vec<[u32; 2]>,
    /// What steps gave and were given, by their places: see [`survey::brought_sum`].
    pub(super) brought: Vec<(u8, u32)>,
}

impl Calls {
    /// What a step gave, as its node's log has it.
    pub(super) fn output(&self, index: usize) -> Option<&[u8]> {
        let found = self.outputs.iter().find(|(at, _)| usize::from(*at) == index);
        found.map(|(_, bytes)| &**bytes)
    }
}

/// What a call gives to a step: of which step, and what. Nothing in a simulated world is so long that
/// it is given by its hash.
pub(super) fn given(input: &StepInput) -> (u32, &[u8]) {
    match &input.output {
        Output::Inline(bytes) => (input.step, bytes),
        Output::Hashed { hash, .. } => (input.step, hash),
    }
}

impl Facts {
    pub(super) fn step_taken(
        &mut self,
        node: u32,
        by: u32,
        id: OperationId,
        record: StepRecord,
        work: &[u8],
        output: Option<&[u8]>,
    ) -> Checked {
        let StepRecord { step, backward, refused, changed, marked } = record;
        let Coordinator { model, calls, seen: all, .. } = &mut self.coordinators[by as usize];
        let place = || format!("n{node}: step {step} of saga {id} of n{by}");
        let saga = model.sagas.get(id);
        let Some((saga, index)) = saga.and_then(|saga| Some((saga, saga.index(step)?))) else {
            return Err(Objection::new("G1", format!("{} is not durable there", place())));
        };
        let on = saga.steps[index].node.number() as u32;
        ensure(on == node, "I4", || format!("{} belongs to n{on}", place()))?;
        let bit: StepSet = 1 << index;
        let calls = calls.entry(id, Calls::default);
        let participant = &mut self.participants[node as usize];
        let seen = seen(all, node);
        let called = calls.epochs.get(index).map_or(0, |epochs| epochs[usize::from(backward)]);
        ensure(called >= seen, "I8", || {
            format!("{} was called by epoch {called}; the log holds {seen}", place())
        })?;
        let known = if backward {
            calls.compensated | calls.not_compensated
        } else {
            calls.done | calls.refused
        };
        ensure(known & bit == 0, "I4", || format!("{} is recorded twice", place()))?;
        ensure(!(changed && refused), "I4", || format!("{}: a refusal changes things", place()))?;
        if backward {
            ensure(saga.turned > 0, "I5", || format!("{} is undone going forward", place()))?;
            // What an operator has seen to is there, and is undone by hand.
            let there = calls.changed & !calls.taken_back & !calls.marked & !calls.closed;
            let before = saga.dependents(index) & there;
            ensure(refused || before == 0, "I5", || {
                format!("{} is undone before steps {before:#b}, which depend on it", place())
            })?;
            let there = calls.changed & bit > 0;
            ensure(!marked || saga.ever_marked & bit > 0, "I4", || {
                format!("{} is called undone by hand, and no operator has said so", place())
            })?;
            if marked {
                calls.marked |= bit;
                self.seen.marked_done += 1;
            }
            ensure(refused || changed == there || marked && !changed, "I4", || {
                format!("{} is undone; it had an effect: {there}; taken back: {changed}", place())
            })?;
            self.seen.null_compensation += u64::from(!changed && !refused && !marked);
        } else {
            let effect = saga.steps[index].kind != model::READ_ONLY;
            ensure(changed == (effect && !refused), "I4", || {
                format!("{} is done; it changed something: {changed}", place())
            })?;
            let kind = saga.steps[index].kind;
            let fails =
                kind != model::RETRIABLE && (saga.past_pivot() == 0 || kind == model::PIVOT);
            ensure(!refused || fails, "I6", || format!("{} can never be done", place()))?;
            if let Some(output) = output {
                calls.outputs.push((index as u8, output.into()));
            }
            let tombstone = calls.compensated & bit > 0;
            ensure(!(changed && tombstone), "I4", || {
                format!("{} has an effect after its compensation", place())
            })?;
        }
        let set = match (backward, refused) {
            (false, false) => &mut calls.done,
            (false, true) => &mut calls.refused,
            (true, false) => &mut calls.compensated,
            (true, true) => &mut calls.not_compensated,
        };
        *set |= bit;
        if !changed {
            return Ok(());
        }
        if backward {
            calls.taken_back |= bit;
        } else {
            calls.changed |= bit;
        }
        let overridden = backward && saga.overridden & bit > 0;
        let late = calls.closed & bit > 0 && saga.ended.is_some();
        self.seen.overridden += u64::from(overridden);
        for change in payload::changes(work) {
            let cell = participant.cells.at(change.cell);
            ensure(cell.lock == Lock::Free, "I12", || {
                format!("{} touches cell {}, which is locked", place(), change.cell)
            })?;
            let value = cell.value;
            let condition = match change.kind {
                ChangeKind::Require => !backward,
                ChangeKind::RequireToUndo => backward,
                _ => false,
            };
            ensure(!condition || value >= change.amount, "I4", || {
                format!("{} is done although cell {} holds {value}", place(), change.cell)
            })?;
            let amount = if backward { change.adds().wrapping_neg() } else { change.adds() };
            cell.value = value.wrapping_add(amount);
            let cell = change.cell;
            let added = Added { node, cell, amount };
            if change.kind == ChangeKind::Added && !backward {
                // It is what a step gave that it was to be given.
                let takes = saga.steps[index].takes;
                let given = |(at, bytes): &(u8, Box<[u8]>)| {
                    takes >> at & 1 == 1 && bytes.get(1..) == Some(&amount.to_le_bytes()[..])
                };
                ensure(calls.outputs.iter().any(given), "I4", || {
                    format!("{} adds {amount}, and none of what it takes gave that", place())
                })?;
                if let Some(request) = calls.request {
                    self.requests[request as usize].adds.push(added);
                }
            }
            if amount != 0 && saga.ended.is_none() {
                calls.added.push((index as u8, added));
            } else if late {
                // Its operator has closed it, and it came to something after all.
                self.expected.push(added);
            }
        }
        Ok(())
    }

    /// Remembers of a step's outcome what a snapshot has to say of it.
    pub(super) fn step_kept(
        &mut self,
        by: u32,
        id: OperationId,
        record: StepRecord,
        says: &StepSays<'_>,
    ) {
        let Coordinator { model, calls, .. } = &mut self.coordinators[by as usize];
        let known = model.sagas.get(id).and_then(|saga| Some((saga, saga.index(record.step)?)));
        let (Some((saga, index)), Some(calls)) = (known, calls.get_mut(id)) else { return };
        if calls.answers.len() <= index {
            calls.answers.resize(saga.steps.len(), [0; 2]);
        }
        let [_, a, b, c, d, _] = *says.answer;
        let code = u32::from_le_bytes([a, b, c, d]);
        let sum = survey::answer_sum(record.refused, code, says.at);
        calls.answers[index][usize::from(record.backward)] = sum;
        if !record.backward
            && let Some(sum) = survey::brought_sum(says)
        {
            calls.brought.push((index as u8, sum));
        }
    }

    fn step_at(&self, node: u32, (by, id, step): StepKey) -> Option<(&Calls, usize)> {
        let coordinator = self.coordinators.get(by as usize)?;
        let saga = coordinator.model.sagas.get(id)?;
        let index = saga.index(step)?;
        let here = saga.steps[index].node.number() == u64::from(node);
        Some((coordinator.calls.get(id).filter(|_| here)?, index))
    }

    /// What a step was answered by its node, forward and backward.
    #[must_use]
    pub fn step_answers(&self, node: u32, key: StepKey) -> Option<[u32; 2]> {
        let (calls, index) = self.step_at(node, key)?;
        calls.answers.get(index).copied()
    }

    /// What a step gave or was given.
    #[must_use]
    pub fn step_brought(&self, node: u32, key: StepKey) -> Option<u32> {
        let (calls, index) = self.step_at(node, key)?;
        let found = calls.brought.iter().find(|(at, _)| usize::from(*at) == index);
        found.map(|(_, sum)| *sum)
    }

    pub(super) fn step_called(
        &mut self,
        to: u32,
        by: u32,
        id: OperationId,
        call: &Call,
        epoch: u32,
        newest: u32,
    ) -> Checked {
        let Call { step, direction, order, ref inputs, .. } = *call;
        let Coordinator { model, calls, .. } = &mut self.coordinators[by as usize];
        let known = model.sagas.get(id).and_then(|saga| Some((saga, saga.index(step)?)));
        let Some((saga, index)) = known.filter(|(saga, _)| saga.started > 0) else {
            let what = format!("n{by} calls step {step} of saga {id}, which is not durable");
            return Err(Objection::new("gate", what));
        };
        let on = saga.steps[index].node.number() as u32;
        ensure(on == to, "gate", || {
            format!("n{by} calls step {step} of saga {id} at n{to}; it belongs to n{on}")
        })?;
        let bit: StepSet = 1 << index;
        let by = match direction {
            Direction::Forward => saga.steps[index].performer,
            Direction::Backward => saga.steps[index].undo,
        };
        ensure(by == model::BY_NODE, "gate", || {
            format!("n{by} calls step {step} of saga {id}, which is an operation of its own")
        })?;
        match direction {
            Direction::Forward => {
                let may_run = if saga.turned > 0 {
                    saga.may_have_started & bit > 0
                } else {
                    saga.needs(index) & !saga.succeeded == 0
                };
                ensure(may_run, "gate", || {
                    format!("n{by} calls step {step} of saga {id} before what it waits for")
                })?;
                // It is given exactly what those steps gave, by the coordinator's own durable log.
                let takes =
                    (0..saga.steps.len()).filter(|at| saga.steps[index].takes >> at & 1 == 1);
                let mut due = Vec::new();
                for at in takes {
                    let Some([0, bytes @ ..]) = saga.output(at) else { continue };
                    due.push((saga.steps[at].number, bytes));
                }
                let mut found: Vec<_> = inputs.iter().map(given).collect();
                found.sort_unstable();
                ensure(found == due, "G3", || {
                    format!("n{by} gives step {step} of saga {id} {found:?}; its log says {due:?}")
                })?;
                self.seen.given += u64::from(!due.is_empty());
            }
            Direction::Backward => {
                let listed = saga.succeeded | saga.unknown | saga.may_have_started;
                let listed = listed & saga.has_undo;
                // An older process may not know what an operator has ordered of its successor.
                // And a call that waited for the disk may leave behind the record that parks its branch.
                if epoch == newest && saga.parked & bit > 0 {
                    let known = |(at, _): &&mut (u8, u32)| usize::from(*at) == index;
                    let calls = calls.entry(id, Calls::default);
                    let count = match calls.parked.iter_mut().find(known) {
                        Some((_, count)) => {
                            *count += 1;
                            *count
                        }
                        None => {
                            calls.parked.push((index as u8, 1));
                            1
                        }
                    };
                    let parkings = saga.parkings.iter().filter(|at| usize::from(**at) == index);
                    ensure(count <= parkings.count() as u32, "gate", || {
                        format!("n{by} calls step {step} of saga {id}, which waits for an operator")
                    })?;
                }
                let ordered = match order {
                    UndoOrder::None => true,
                    UndoOrder::Override => saga.overridden & bit > 0,
                    UndoOrder::MarkDone => saga.ever_marked & bit > 0,
                    // There is no call that could be undone, and it is done.
                    UndoOrder::Alone => {
                        saga.steps[index].performer != model::BY_NODE && saga.succeeded & bit > 0
                    }
                };
                ensure(ordered, "gate", || {
                    format!(
                        "n{by} has step {step} of saga {id} undone by an order that it does not hold"
                    )
                })?;
                // What the node itself has logged of the step.
                let given_by_it = calls.get(id).and_then(|calls| calls.output(index));
                let of_it = |input: &StepInput| {
                    let (number, bytes) = given(input);
                    number == step && given_by_it.and_then(|all| all.get(1..)) == Some(bytes)
                };
                ensure(inputs.iter().all(of_it), "G3", || {
                    format!(
                        "n{by} undoes step {step} of saga {id} with {inputs:?}: it gave nothing of this"
                    )
                })?;
                self.seen.undone_with_output += u64::from(!inputs.is_empty());
                ensure(saga.turned > 0 && listed & bit > 0, "gate", || {
                    format!("n{by} undoes step {step} of saga {id}; turned at {}", saga.turned)
                })?;
                let list = saga.to_undo(&model.rules);
                if list & !bit > 0 {
                    let before = saga.dependents(index) & list;
                    ensure(before == 0, "I5", || {
                        format!("n{by} undoes step {step} of saga {id} before {before:#b}")
                    })?;
                }
            }
        }
        let calls = calls.entry(id, Calls::default);
        if calls.epochs.len() <= index {
            calls.epochs.resize(saga.steps.len(), [0; 2]);
        }
        let highest = &mut calls.epochs[index][usize::from(direction == Direction::Backward)];
        *highest = epoch.max(*highest);
        Ok(())
    }

    pub(super) fn step_answered(
        &mut self,
        from: u32,
        by: u32,
        id: OperationId,
        step: u32,
        direction: Direction,
        answer: &StepAnswer,
    ) -> Checked {
        let Coordinator { model, calls, .. } = &self.coordinators[by as usize];
        let known = model.sagas.get(id).and_then(|saga| Some((saga, saga.index(step)?)));
        let (Some((saga, index)), Some(calls)) = (known, calls.get(id)) else {
            let what = format!("n{from} answers step {step} of saga {id}, which was never called");
            return Err(Objection::new("gate", what));
        };
        let here = saga.steps[index].node.number() as u32 == from;
        let durable = match (answer, direction) {
            // A compensation that failed may succeed the next time: nothing is recorded of it.
            (StepAnswer::NotNow, _) | (StepAnswer::Refused { .. }, Direction::Backward) => {
                return Ok(());
            }
            (StepAnswer::Done, Direction::Forward) => calls.done,
            (StepAnswer::Refused { .. }, Direction::Forward) => calls.refused | calls.compensated,
            (StepAnswer::Done, Direction::Backward) => calls.compensated,
        };
        let tombstone = matches!(answer, StepAnswer::Refused { .. })
            && direction == Direction::Forward
            && calls.refused >> index & 1 == 0;
        self.seen.refused_by_tombstone += u64::from(tombstone);
        ensure(here && durable >> index & 1 == 1, "gate", || {
            format!("n{from} answers {answer:?} to step {step} of saga {id}: not durably so")
        })
    }
}

/// A `step_outcome`, as its record says it.
#[derive(Clone, Copy)]
pub(super) struct StepRecord {
    pub(super) step: u32,
    backward: bool,
    pub(super) refused: bool,
    pub(super) changed: bool,
    pub(super) marked: bool,
}

impl StepRecord {
    pub(super) fn of(call: [u8; 21], answer: [u8; 6]) -> StepRecord {
        let [a, b, c, d, direction, ..] = call;
        let [refused, .., changed] = answer;
        StepRecord {
            step: u32::from_le_bytes([a, b, c, d]),
            backward: direction == 1,
            refused: refused == 1,
            changed: changed == 1,
            marked: false,
        }
    }
}
