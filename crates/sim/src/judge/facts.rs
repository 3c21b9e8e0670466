//! What all logs together say, and the rules that hold across nodes.
//!
//! Every durable record of every log comes here once, in the order in which the disks made them
//! durable. What a node says or does is then held against it. Messages carry no proof; the logs are
//! the proof, and they are read by the judges' own reader.
//!
//! Names of nodes, coordinators and shards are those of a simulated world: numbers.

mod clients;
mod coordinators;
mod messages;
mod participants;
mod recoveries;
mod steps;

use super::ledger::{Checked, Objection, Opened};
use super::survey::{BranchKey, Survey};
use crate::shared::{Shared, SharedVec};
use base::OperationId;
use coordinator::LogSlot;
pub(super) use coordinators::Coordinator;
use node::Node;
pub(super) use participants::{Added, Participant, Promise, Spread};
use saga::End;
use std::collections::BTreeMap;
pub(super) use steps::Calls;
use twopc::coordinator::Decision;
use wal_core::EventType;

/// Room for so many branches is made at once.
const BRANCHES_USUAL: usize = 8;

/// The highest epoch that a participant's log holds.
fn seen(all: &[u32], node: u32) -> u32 {
    all.get(node as usize).copied().unwrap_or(0)
}

fn saw(all: &mut Vec<u32>, node: u32, epoch: u32) {
    let at = node as usize;
    if all.len() <= at {
        all.resize(at + 1, 0);
    }
    all[at] = all[at].max(epoch);
}

/// A promise: its coordinator, its transaction, its shard.
type Key = BranchKey;

/// A client's request.
#[derive(Clone, Debug)]
struct Asked {
    /// What it adds; taken when it does.
    adds: Vec<Added>,
    /// The operation that it is, by its coordinator's log.
    operation: Option<OperationId>,
    /// How it ended, by its coordinator's log.
    ended: Option<Ended>,
    told: Option<Ended>,
    /// Its client was told that it is aborted before anything of it was durable. A crash may take the
    /// operation away then, and whoever asks again begins another one.
    told_unproved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Committed,
    /// Without a record that proves it: aborts are presumed.
    Aborted,
    /// As little is proved.
    ReadOnly,
    Saga(End),
}

/// How often things were seen that a run should sometimes see.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    null_compensation: u64,
    refused_by_tombstone: u64,
    tombstone_before_prepare: u64,
    peer_promise: u64,
    peer_decided: u64,
    stale_epoch_sent: u64,
    unknown_effect: u64,
    late_outcome: u64,
    aborted_after_promise: u64,
    recovered_all_yes: u64,
    recovered_promise: u64,
    parked: u64,
    marked_done: u64,
    overridden: u64,
    closed_unanswered: u64,
    past_pivot: u64,
    given: u64,
    undone_with_output: u64,
    asked_again: u64,
    key_taken: u64,
    run_anew: u64,
    read_only_vote: u64,
    all_read_only: u64,
    one_phase: u64,
    one_phase_refused: u64,
    resolved: u64,
    pub(super) forced: u64,
    pub(super) forced_as_decided: u64,
    pub(super) heuristic_commit: u64,
    pub(super) heuristic_abort: u64,
    pub(super) heuristic_forgotten: u64,
    pub(super) step_transaction: u64,
    pub(super) step_saga: u64,
    pub(super) step_begun_anew: u64,
    pub(super) step_refused: u64,
    pub(super) undone_by_transaction: u64,
    pub(super) saga_reversed: u64,
    pub(super) undo_replaced: u64,
    pub(super) undo_marked: u64,
}

/// Everything that is durable somewhere, and what was said.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub(super) coordinators: SharedVec<Coordinator>,
    pub(super) participants: SharedVec<Participant>,
    /// What clients were promised, in no order.
    pub(super) expected: Shared<Vec<Added>>,
    requests: Shared<Vec<Asked>>,
    /// By the request's key, where it is no number of four bytes.
    named: BTreeMap<Box<[u8]>, u32>,
    /// By the number that the key is: the request's place plus one.
    numbered: Vec<u32>,
    pub(super) seen: Seen,
}

#[inline]
pub(super) fn ensure(
    holds: bool,
    invariant: &'static str,
    what: impl FnOnce() -> String,
) -> Checked {
    if holds { Ok(()) } else { Err(Objection::new(invariant, what())) }
}

impl Facts {
    /// Nothing yet, of a world of so many nodes.
    #[must_use]
    pub fn new(nodes: u32) -> Facts {
        Facts {
            coordinators: SharedVec::alike(Coordinator::default(), nodes as usize),
            participants: SharedVec::alike(Participant::default(), nodes as usize),
            ..Facts::default()
        }
    }

    // ---- snapshots of participants ----

    /// Everything that a snapshot of a node's participant has to say if it begins now.
    #[must_use]
    pub fn due(&self, node: u32) -> Survey {
        let mut due = Survey::default();
        let cells = self.participants[node as usize].cells.iter();
        due.cells = cells.filter(|(_, cell)| cell.value != 0).map(|(number, _)| number).collect();
        due.forced = self.participants[node as usize].forced.keys().copied().collect();
        for (by, coordinator) in (0..).zip(self.coordinators.iter()) {
            if seen(&coordinator.seen, node) > 0 {
                due.coordinators.insert(by);
            }
            for (id, spread) in coordinator.spread.iter() {
                for branch in spread.branches.iter().filter(|branch| branch.node == node) {
                    let all = if branch.open { &mut due.promises } else { &mut due.outcomes };
                    all.insert((by, id, branch.shard));
                }
            }
            for (id, calls) in coordinator.calls.iter() {
                let Some(saga) = coordinator.model.sagas.get(id) else { continue };
                let here = |index: usize| saga.steps[index].node.number() == u64::from(node);
                let answered = (0..calls.answers.len())
                    .filter(|index| here(*index) && calls.answers[*index] != [0; 2]);
                due.steps.extend(answered.map(|index| (by, id, saga.steps[index].number)));
                let brought = calls.brought.iter().map(|(at, _)| usize::from(*at));
                let brought = brought.filter(|index| here(*index));
                due.brought.extend(brought.map(|index| (by, id, saga.steps[index].number)));
            }
        }
        due
    }

    /// What a cell of a node holds, by its log.
    #[must_use]
    pub fn cell(&self, node: u32, number: u64) -> i64 {
        self.participants[node as usize].cells.get(number).value
    }

    /// The highest epoch of a coordinator that a node's log holds.
    #[must_use]
    pub fn epoch_seen(&self, by: u64, node: u32) -> u32 {
        self.coordinators.get(by as usize).map_or(0, |coordinator| seen(&coordinator.seen, node))
    }

    /// What a coordinator has said to be finished, as a node's log has it.
    #[must_use]
    pub fn finished_mark(&self, node: u32, by: u64) -> &[u8] {
        self.participants[node as usize].finished.get(&by).map_or(&[], |mark| mark)
    }

    /// True if a node's log says that this operation is finished.
    #[must_use]
    pub fn is_finished(&self, node: u32, by: u64, id: OperationId) -> bool {
        let mut ids = self.finished_mark(node, by).as_chunks::<8>().0.iter();
        let number = |bytes: &[u8; 8]| OperationId(u64::from_le_bytes(*bytes));
        ids.next().is_some_and(|highest| id <= number(highest))
            && !ids.any(|active| number(active) == id)
    }

    // ---- the end ----

    /// Everything is quiet, so everything must have ended, and nothing may be lost, doubled or half
    /// done. Nothing is said of a world in which something still goes on: whether it should have
    /// ended by now is the world's to say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn ended(&mut self, nodes: &[Option<&Node>]) -> Checked {
        // What comes late to a step that an operator has closed may be done and not yet durable.
        let under_way = |node: &Option<&Node>| {
            let host = node.and_then(|node| node.participant());
            host.is_some_and(|host| host.log().durable() < host.log().last())
        };
        if self.seen.closed_unanswered > 0 && nodes.iter().any(under_way) {
            return Ok(());
        }
        let told = self.requests.iter().all(|asked| asked.told.is_some());
        if !told || !nodes.iter().all(|node| node.is_some_and(is_quiet)) {
            return Ok(());
        }
        self.settle_forgotten();
        for (node, coordinator) in self.coordinators.iter().enumerate() {
            for (id, tx) in coordinator.model.transactions.iter() {
                if tx.committing == 0 && tx.ended != Some(Decision::Commit) {
                    continue;
                }
                let spread = coordinator.spread.get(id);
                let committed = spread.map_or(0, |spread| spread.committed + spread.missed);
                let all = tx.writers();
                ensure(committed as usize == all, "I2", || {
                    format!("n{node}: transaction {id} committed at {committed} of {all} nodes")
                })?;
            }
            // The end of a sub-saga is in nobody's way, and is written with what comes next: it may not be yet.
            let engine = nodes[node].and_then(|node| node.coordinator());
            let writes = engine.is_some_and(|it| it.log().durable() < it.log().last());
            for (id, saga) in coordinator.model.sagas.iter() {
                ensure(saga.ended.is_some() || writes, "I6", || {
                    format!("n{node}: saga {id} never ended")
                })?;
            }
        }
        let hosts = || nodes.iter().map(|node| node.and_then(|node| node.participant()));
        // Three things must be the same. To find that they are takes a look at each cell; only to say
        // where they are not takes them in order.
        let logged = hosts().zip(self.participants.iter()).all(|(host, facts)| {
            host.is_none_or(|host| facts.cells.hold(host.store().cells().filter(|(_, v)| *v != 0)))
        });
        if logged {
            self.expect(i64::wrapping_sub);
            let expected = hosts()
                .zip(self.participants.iter())
                .all(|(host, facts)| host.is_none() || facts.cells.hold(std::iter::empty()));
            self.expect(i64::wrapping_add);
            if expected {
                return Ok(());
            }
        }
        for (at, (host, facts)) in hosts().zip(self.participants.iter()).enumerate() {
            let Some(host) = host else { continue };
            let stored = nonzero(host.store().cells());
            let logged = nonzero(facts.cells.iter().map(|(number, cell)| (number, cell.value)));
            let mut expected = BTreeMap::new();
            for added in self.expected.iter().filter(|added| added.node as usize == at) {
                let value: &mut i64 = expected.entry(added.cell).or_default();
                *value = value.wrapping_add(added.amount);
            }
            let expected = nonzero(expected.into_iter());
            ensure(stored == expected, "G15", || {
                format!("n{at} holds {stored:?}; what clients were promised is {expected:?}")
            })?;
            ensure(stored == logged, "G3", || {
                format!("n{at} holds {stored:?}; its log adds up to {logged:?}")
            })?;
        }
        Ok(())
    }

    /// Adds what clients were promised to what the logs add up to, or takes it off.
    fn expect(&mut self, change: impl Fn(i64, i64) -> i64) {
        for Added { node, cell, amount } in self.expected.iter() {
            if let Some(participant) = self.participants.get_mut(*node as usize) {
                let value = &mut participant.cells.at(*cell).value;
                *value = change(*value, *amount);
            }
        }
    }

    /// Adds what was seen, by name.
    pub fn observed(&self, into: &mut BTreeMap<&'static str, u64>) {
        let seen = &self.seen;
        for (name, count) in [
            ("null_compensation", seen.null_compensation),
            ("refused_by_tombstone", seen.refused_by_tombstone),
            ("tombstone_before_prepare", seen.tombstone_before_prepare),
            ("peer_promise", seen.peer_promise),
            ("peer_decided", seen.peer_decided),
            ("stale_epoch_refused", seen.stale_epoch_sent),
            ("unknown_effect", seen.unknown_effect),
            ("late_outcome", seen.late_outcome),
            ("aborted_after_promise", seen.aborted_after_promise),
            ("recovered_all_yes", seen.recovered_all_yes),
            ("recovered_promise", seen.recovered_promise),
            ("parked", seen.parked),
            ("marked_done", seen.marked_done),
            ("overridden", seen.overridden),
            ("closed_unanswered", seen.closed_unanswered),
            ("past_pivot", seen.past_pivot),
            ("given", seen.given),
            ("undone_with_output", seen.undone_with_output),
            ("asked_again", seen.asked_again),
            ("key_taken", seen.key_taken),
            ("run_anew", seen.run_anew),
            ("read_only_vote", seen.read_only_vote),
            ("all_read_only", seen.all_read_only),
            ("one_phase", seen.one_phase),
            ("one_phase_refused", seen.one_phase_refused),
            ("resolved", seen.resolved),
            ("forced", seen.forced),
            ("forced_as_decided", seen.forced_as_decided),
            ("heuristic_commit", seen.heuristic_commit),
            ("heuristic_abort", seen.heuristic_abort),
            ("heuristic_forgotten", seen.heuristic_forgotten),
            ("step_transaction", seen.step_transaction),
            ("step_saga", seen.step_saga),
            ("step_begun_anew", seen.step_begun_anew),
            ("step_refused", seen.step_refused),
            ("undone_by_transaction", seen.undone_by_transaction),
            ("saga_reversed", seen.saga_reversed),
            ("undo_replaced", seen.undo_replaced),
            ("undo_marked", seen.undo_marked),
        ] {
            *into.entry(name).or_default() += count;
        }
    }
}

/// The number that a key of four bytes is; large ones are no index.
fn number_of(key: &[u8]) -> Option<usize> {
    let number = u32::from_le_bytes(key.try_into().ok()?) as usize;
    (number < 1 << 26).then_some(number)
}

fn anomaly(node: u32, event: EventType, sequence: u64) -> Box<Objection> {
    let name = event.name().unwrap_or("an unknown event");
    Objection::new("legal", format!("n{node}: record {sequence}, {name}, does not follow"))
}

/// Cells that hold something.
fn nonzero(cells: impl Iterator<Item = (u64, i64)>) -> BTreeMap<u64, i64> {
    cells.filter(|(_, value)| *value != 0).collect()
}

/// A node's store is its participant's log: the store's id, and how often it was opened.
fn store(opened: &[[Opened; 2]], node: u32) -> Opened {
    opened[node as usize][LogSlot::Participant as usize]
}

fn is_quiet(node: &Node) -> bool {
    node.is_ready()
        && node.coordinator().is_none_or(|engine| engine.active() == 0)
        && node.participant().is_none_or(|host| {
            host.participant().prepared().next().is_none()
                && host.participant().unsettled().next().is_none()
                && host.locks().held(base::Time::ZERO).next().is_none()
        })
}
