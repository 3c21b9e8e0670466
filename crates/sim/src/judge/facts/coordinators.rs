//! What coordinators have written, and what they may write next.

use super::super::ids::IdMap;
use super::super::ledger::{Checked, Objection};
use super::super::model;
use super::super::model::{Change, Model, Saga, StepSet};
use super::super::payload::Fields;
use super::super::reader::LogRecord;
use super::participants::{Promise, Spread};
use super::steps::Calls;
use super::{Ended, Facts, anomaly, ensure};
use base::{OperationId, ShardId};
use saga::End;
use std::collections::{BTreeMap, BTreeSet};
use twopc::Vote;
use wal_core::EventType;

/// A coordinator: its log, and what became of its operations elsewhere.
#[derive(Clone, Debug, Default)]
pub(in crate::judge) struct Coordinator {
    pub(in crate::judge) model: Model,
    pub(in crate::judge) spread: IdMap<Spread>,
    pub(in crate::judge) calls: IdMap<Calls>,
    /// What has run on behalf of each step, and whether it is a saga.
    pub(in crate::judge) children: BTreeMap<model::Parent, Vec<(OperationId, bool)>>,
    /// The highest of its epochs that each participant's log holds.
    pub(super) seen: Vec<u32>,
    /// The branches that ended otherwise and that no operator has seen to, by its log: transaction and shard.
    pub(in crate::judge) listed: BTreeSet<(OperationId, u64)>,
    /// The transactions of which an operator has seen to such branches, by its log.
    pub(in crate::judge) seen_to: BTreeSet<OperationId>,
    /// All of them that ever were.
    pub(in crate::judge) reported: BTreeSet<(OperationId, u64)>,
}

impl Facts {
    // ---- durable records of coordinators ----

    /// A record of a coordinator's log counts from now on.
    ///
    /// # Errors
    /// It must not be there, or not yet.
    pub fn coordinated(&mut self, node: u32, record: &LogRecord<'_>) -> Checked {
        let event = EventType(record.event);
        let LogRecord { sequence, timestamp_ms, payload, .. } = *record;
        let coordinator = &mut self.coordinators[node as usize];
        let Some(change) = coordinator.model.take(sequence, event, timestamp_ms, payload) else {
            return Err(anomaly(node, event, sequence));
        };
        let mut fields = Fields(payload);
        let id = fields.id().unwrap_or_default();
        match change {
            Change::Saga | Change::Transaction | Change::Checkpoint => Ok(()),
            Change::Heuristic => self.heuristic_logged(node, record),
            Change::UnbackedCommit => {
                Err(Objection::new("G13", format!("transaction {id} commits without all votes")))
            }
            Change::SagaCreated | Change::TransactionCreated => {
                let key = model::created(&mut fields).flatten();
                let request = key.and_then(|key| self.place(key));
                if let Some(place) = request {
                    let before = self.requests[place as usize].operation.replace(id);
                    ensure(before.is_none(), "key", || {
                        format!("n{node}: one request is operation {before:?} and operation {id}")
                    })?;
                }
                let coordinator = &mut self.coordinators[node as usize];
                let is_saga = change == Change::SagaCreated;
                if is_saga {
                    coordinator.calls.entry(id, Calls::default).request = request;
                } else {
                    coordinator.spread.entry(id, Spread::new).request = request;
                }
                self.child_created(node, id, is_saga)
            }
            Change::Voted(shard, vote) => self.voted(node, id, shard, vote),
            Change::CommitStart => {
                self.child_commits(node, id)?;
                self.commit_decided(node, id)
            }
            Change::RefusedAlone => self.refused_alone(node, id),
            Change::NothingToDecide => self.nothing_to_decide(node, id),
            Change::CommitComplete => {
                self.child_ended(node, id, false)?;
                self.commit_complete(node, id)
            }
            Change::StepSucceeded(step) if self.is_operation(node, id, step) => {
                self.operation_succeeded(node, id, step)
            }
            Change::StepFailed { step, unknown } if self.is_operation(node, id, step) => {
                self.operation_failed(node, id, step, unknown)
            }
            Change::Undone(step) if self.is_undone_by_operation(node, id, step) => {
                self.operation_undone(node, id, step)
            }
            Change::StepSucceeded(step) => {
                let index = step.trailing_zeros() as usize;
                if let Some(saga) = self.saga(node, id) {
                    let (late, pivot) = (saga.turned > 0, saga.steps[index].kind == model::PIVOT);
                    let logged = saga.output(index);
                    let calls = self.coordinators[node as usize].calls.get(id);
                    let given = calls.and_then(|calls| calls.output(index));
                    let given = given.filter(|_| saga.steps[index].gives);
                    ensure(logged == given, "G1", || {
                        format!(
                            "n{node} logs that step {index} of saga {id} gave {logged:?}; it gave \
                             {given:?}"
                        )
                    })?;
                    self.seen.late_outcome += u64::from(late);
                    self.seen.past_pivot += u64::from(pivot);
                }
                self.has_call(node, id, step, "succeeded", |calls| calls.done)
            }
            Change::StepFailed { step, unknown } => {
                self.seen.unknown_effect += u64::from(unknown);
                // A tombstone refuses too.
                let refusals = |calls: &Calls| calls.refused | calls.compensated;
                if unknown {
                    Ok(())
                } else {
                    self.has_call(node, id, step, "was refused", refusals)
                }
            }
            Change::Undone(step) => {
                self.has_call(node, id, step, "was undone", |calls| calls.compensated)
            }
            Change::Closed(step) => {
                if self.is_undone_by_operation(node, id, step) {
                    self.seen.undo_marked += 1;
                } else {
                    self.seen.closed_unanswered += 1;
                }
                self.coordinators[node as usize].calls.entry(id, Calls::default).closed |= step;
                Ok(())
            }
            Change::Parked => {
                self.seen.parked += 1;
                Ok(())
            }
            Change::SagaEnded(end) => {
                self.child_ended(node, id, true)?;
                self.children_at_the_end(node, id, end)?;
                self.saga_ended(node, id, end)
            }
        }
    }

    fn voted(&self, node: u32, id: OperationId, shard: ShardId, vote: Vote) -> Checked {
        let spread = self.coordinators[node as usize].spread.get(id);
        let branch = spread.and_then(|spread| spread.branch(shard.number()));
        let said = match vote {
            Vote::Abort => true,
            Vote::Commit => branch.is_some_and(|branch| branch.prepared),
            Vote::ReadOnly => {
                spread.is_some_and(|spread| spread.read_only.contains(&shard.number()))
            }
        };
        ensure(said, "G1", || {
            format!("n{node} logs {vote:?} of {shard:?} for transaction {id}: it did not vote so")
        })
    }

    fn commit_decided(&mut self, node: u32, id: OperationId) -> Checked {
        let coordinator = &mut self.coordinators[node as usize];
        let Some(tx) = coordinator.model.transactions.get(id) else { return Ok(()) };
        let spread = coordinator.spread.entry(id, Spread::new);
        spread.committing = true;
        ensure(!spread.abort_said, "I3", || {
            format!("n{node} commits transaction {id}, of which somebody was told that it aborts")
        })?;
        for (member, vote) in tx.votes(&coordinator.model.names) {
            let on = member.node.number() as u32;
            let promise = spread.promise(member.shard, on);
            // What an operator has ended had promised to commit.
            let forced = &self.participants[on as usize].forced;
            let key = (u64::from(node), id, member.shard.number());
            let promise = match forced.contains_key(&key) {
                true => Some(Promise::Prepared),
                false => promise,
            };
            let stands = match promise {
                // A new boot does not know of it, and promises nothing either.
                None | Some(Promise::ReadOnly) => vote == Some(Vote::ReadOnly),
                Some(Promise::Prepared) => !tx.one_phase && vote != Some(Vote::ReadOnly),
                Some(Promise::Committed) => tx.one_phase,
                Some(Promise::Aborted) => false,
            };
            ensure(stands, "G13", || {
                let shard = member.shard.number();
                format!("n{node} commits transaction {id}; shard {shard} at n{on} has {promise:?}")
            })?;
        }
        if tx.one_phase {
            // Its participant's record has decided it.
            return Ok(());
        }
        let request = spread.request;
        self.decided(request, Ended::Committed)
    }

    fn refused_alone(&self, node: u32, id: OperationId) -> Checked {
        let spread = self.coordinators[node as usize].spread.get(id);
        let refused = spread.is_some_and(|spread| spread.aborted == 1 && spread.committed == 0);
        ensure(refused, "G14", || {
            format!("n{node} aborts transaction {id}, which is its participant's to decide")
        })
    }

    fn nothing_to_decide(&self, node: u32, id: OperationId) -> Checked {
        let Coordinator { model, spread, .. } = &self.coordinators[node as usize];
        let (Some(tx), Some(spread)) = (model.transactions.get(id), spread.get(id)) else {
            return Ok(());
        };
        let mut shards = tx.members(&model.names).map(|member| member.shard.number());
        ensure(shards.all(|shard| spread.read_only.contains(&shard)), "G1", || {
            format!("n{node} calls transaction {id} read-only, and somebody did not")
        })
    }

    fn commit_complete(&self, node: u32, id: OperationId) -> Checked {
        let coordinator = &self.coordinators[node as usize];
        let (tx, spread) = (coordinator.model.transactions.get(id), coordinator.spread.get(id));
        let (Some(tx), Some(spread)) = (tx, spread) else { return Ok(()) };
        let all = tx.writers() as u32;
        ensure(spread.committed + spread.missed == all, "I2", || {
            format!(
                "n{node}: everybody has committed transaction {id}, says its log; of {all} \
                 participants {} have",
                spread.committed
            )
        })
    }

    pub(in crate::judge) fn saga(&self, node: u32, id: OperationId) -> Option<&Saga> {
        self.coordinators[node as usize].model.sagas.get(id)
    }

    fn has_call(
        &self,
        node: u32,
        id: OperationId,
        step: StepSet,
        what: &str,
        of: impl Fn(&Calls) -> StepSet,
    ) -> Checked {
        let calls = self.coordinators[node as usize].calls.get(id);
        ensure(calls.is_some_and(|calls| of(calls) & step == step), "G1", || {
            let step = step.trailing_zeros();
            format!("n{node} logs that step {step} of saga {id} {what}: no node's log says so")
        })
    }

    fn saga_ended(&mut self, node: u32, id: OperationId, end: End) -> Checked {
        let coordinator = &mut self.coordinators[node as usize];
        let calls = coordinator.calls.entry(id, Calls::default);
        let Some(saga) = coordinator.model.sagas.get(id) else { return Ok(()) };
        let seen_to = calls.marked | calls.closed;
        let left = calls.changed & !calls.taken_back & !seen_to;
        let read_only = (0..saga.steps.len()).filter(|at| saga.steps[*at].kind == model::READ_ONLY);
        let all = read_only.fold(saga.all(), |all, at| all & !(1 << at));
        let right = if end == End::Completed { all } else { 0 };
        ensure(left == right, "G20", || {
            format!(
                "n{node}: saga {id} is {}, and the effects of steps {left:#b} are there",
                end.name()
            )
        })?;
        let request = calls.request;
        // What an operator has seen to by hand stays as it is; what was undone otherwise than the step
        // was done leaves the difference.
        let stays = seen_to | saga.overridden;
        let added = std::mem::take(&mut calls.added);
        if let (End::Completed, Some(parent)) = (end, saga.parent) {
            let all = added.into_iter().map(|(_, added)| added).collect();
            self.step_added(node, parent, all);
        } else if end != End::Completed {
            let stay = added.into_iter().filter(|(at, _)| stays >> at & 1 == 1);
            self.expected.extend(stay.map(|(_, added)| added));
        }
        self.decided(request, Ended::Saga(end))
    }
}
