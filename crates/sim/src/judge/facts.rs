//! What all logs together say, and the rules that hold across nodes.
//!
//! Every durable record of every log comes here once, in the order in which the disks made them
//! durable. What a node says or does is then held against it. Messages carry no proof; the logs are
//! the proof, and they are read by the judges' own reader.
//!
//! Names of nodes, coordinators and shards are those of a simulated world: numbers.

use super::cells::{Cells, Lock};
use super::forced::ForcedBranch;
use super::ids::IdMap;
use super::ledger::{Checked, Objection, Opened};
use super::model::{self, Change, Model, Saga, StepSet};
use super::payload::{self, ChangeKind, Fields, array, tag};
use super::reader::{self, LogRecord, Told};
use super::survey::{self, BranchKey, StepKey, StepSays, Survey};
use base::{CoordinatorId, NodeName, OperationId, RequestKey, ShardId};
use coordinator::{
    Call, Intervened, LogSlot, Message, Operated, OperationKind, Outcome, RecoveryAction,
    RecoveryReport, Refusal, Request, StepAnswer, UndoOrder, Work,
};
use node::Node;
use saga::{Direction, End, Output, StepInput};
use std::collections::{BTreeMap, BTreeSet};
use twopc::coordinator::Decision;
use twopc::{PeerVerdict, Verdict, Vote, Watermark};
use wal_core::EventType;

/// A branch of a transaction, as its participant's log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    Prepared,
    Committed,
    /// After a promise, or instead of one.
    Aborted,
    /// It had nothing to change.
    ReadOnly,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Branch {
    pub(super) shard: u64,
    pub(super) node: u32,
    pub(super) promise: Promise,
    /// It has promised to commit, whatever came after.
    prepared: bool,
    /// The promise has no outcome yet in its own log.
    pub(super) open: bool,
    /// The record of the promise; once there is an outcome, that one's.
    pub(super) at: u64,
    ms: i64,
    /// What the promise says: see [`survey::promise_sum`].
    sum: u32,
}

/// A cell that a promise holds, and what its commit adds to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) shard: u64,
    pub(super) cell: u64,
    pub(super) add: i64,
}

/// A transaction, as everybody but its coordinator's log knows it.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    pub(super) branches: Vec<Branch>,
    /// What its open promises hold.
    pub(super) held: Vec<Held>,
    pub(super) committed: u32,
    pub(super) aborted: u32,
    /// Branches that have aborted by force, says its coordinator's log, although it commits.
    pub(super) missed: u32,
    /// Its coordinator's log has decided to commit.
    pub(super) committing: bool,
    /// Its coordinator has told somebody that it is aborted.
    pub(super) abort_said: bool,
    /// The shards that have voted read-only, durably so or not.
    read_only: Vec<u64>,
    request: Option<u32>,
}

/// Room for so many branches is made at once.
const BRANCHES_USUAL: usize = 8;

impl Spread {
    fn new() -> Spread {
        Spread {
            branches: Vec::with_capacity(BRANCHES_USUAL),
            held: Vec::with_capacity(BRANCHES_USUAL),
            committed: 0,
            aborted: 0,
            missed: 0,
            committing: false,
            abort_said: false,
            read_only: Vec::new(),
            request: None,
        }
    }

    pub(super) fn place(&self, shard: u64) -> Option<usize> {
        self.branches.iter().position(|branch| branch.shard == shard)
    }

    fn branch(&self, shard: u64) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.shard == shard)
    }

    fn promise(&self, shard: ShardId, node: u32) -> Option<Promise> {
        self.branch_at(shard, node).map(|branch| branch.promise)
    }

    fn branch_at(&self, shard: ShardId, node: u32) -> Option<&Branch> {
        self.branch(shard.number()).filter(|branch| branch.node == node)
    }

    /// An outcome is in a participant's log: what its promise holds is free, and is changed if it
    /// commits.
    pub(super) fn close(
        &mut self,
        place: usize,
        node: u32,
        at: u64,
        commits: bool,
        participant: &mut Participant,
    ) {
        let branch = &mut self.branches[place];
        if !branch.open || branch.node != node {
            return;
        }
        (branch.open, branch.at) = (false, at);
        participant.open -= 1;
        let shard = branch.shard;
        self.held.retain(|held| {
            if held.shard == shard {
                let cell = participant.cells.at(held.cell);
                cell.lock = Lock::Free;
                if commits {
                    cell.value = cell.value.wrapping_add(held.add);
                }
            }
            held.shard != shard
        });
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }
}

/// A saga's calls, as the nodes that run its steps have them in their logs.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    pub(super) done: StepSet,
    refused: StepSet,
    pub(super) changed: StepSet,
    pub(super) compensated: StepSet,
    not_compensated: StepSet,
    pub(super) taken_back: StepSet,
    /// The highest epoch that has called each step, forward and backward.
    epochs: Vec<[u32; 2]>,
    request: Option<u32>,
    /// Undone by hand, says an operator.
    pub(super) marked: StepSet,
    /// Closed by an operator without an answer.
    pub(super) closed: StepSet,
    /// What steps gave, by their places.
    outputs: Vec<(u8, Box<[u8]>)>,
    /// How often each step was called while it waited for an operator.
    parked: Vec<(u8, u32)>,
    /// What each step has added, going forward and back, by its place.
    pub(super) added: Vec<(u8, Added)>,
    /// What each step was answered, forward and backward: see [`survey::answer_sum`]; 0: nothing.
    answers: Vec<[u32; 2]>,
    /// What steps gave and were given, by their places: see [`survey::brought_sum`].
    brought: Vec<(u8, u32)>,
}

/// A coordinator: its log, and what became of its operations elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Coordinator {
    pub(super) model: Model,
    pub(super) spread: IdMap<Spread>,
    pub(super) calls: IdMap<Calls>,
    /// What has run on behalf of each step, and whether it is a saga.
    pub(super) children: BTreeMap<model::Parent, Vec<(OperationId, bool)>>,
    /// The highest of its epochs that each participant's log holds.
    seen: Vec<u32>,
    /// The branches that ended otherwise and that no operator has seen to, by its log: transaction and shard.
    pub(super) listed: BTreeSet<(OperationId, u64)>,
    /// The transactions of which an operator has seen to such branches, by its log.
    pub(super) seen_to: BTreeSet<OperationId>,
    /// All of them that ever were.
    pub(super) reported: BTreeSet<(OperationId, u64)>,
}

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

/// A promise without an outcome, and its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    key: Key,
    at: u64,
    ms: i64,
}

/// A participant's log, as far as it is not about operations alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Participant {
    /// What its records add up to, and what its open promises hold.
    cells: Cells,
    /// How many promises are open.
    open: u32,
    /// The operations of which each coordinator has said that they are finished: the highest, and
    /// behind it those that are not, as the record has them.
    finished: BTreeMap<u64, Box<[u8]>>,
    /// The branches that an operator has ended, until that is the transaction's decision too.
    pub(super) forced: BTreeMap<BranchKey, ForcedBranch>,
    /// What is still to come of a snapshot.
    survey: Survey,
}

/// What is added to a cell of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added {
    pub(super) node: u32,
    pub(super) cell: u64,
    pub(super) amount: i64,
}

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

impl Calls {
    /// What a step gave, as its node's log has it.
    fn output(&self, index: usize) -> Option<&[u8]> {
        let found = self.outputs.iter().find(|(at, _)| usize::from(*at) == index);
        found.map(|(_, bytes)| &**bytes)
    }
}

/// What a call gives to a step: of which step, and what. Nothing in a simulated world is so long that
/// it is given by its hash.
fn given(input: &StepInput) -> (u32, &[u8]) {
    match &input.output {
        Output::Inline(bytes) => (input.step, bytes),
        Output::Hashed { hash, .. } => (input.step, hash),
    }
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
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) participants: Vec<Participant>,
    /// What clients were promised, in no order.
    pub(super) expected: Vec<Added>,
    requests: Vec<Asked>,
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
            coordinators: (0..nodes).map(|_| Coordinator::default()).collect(),
            participants: (0..nodes).map(|_| Participant::default()).collect(),
            ..Facts::default()
        }
    }

    // ---- clients ----

    /// A request is handed to a coordinator, perhaps again.
    pub fn submitted(&mut self, request: &Request) {
        if self.place(request.key.as_bytes()).is_some() {
            return;
        }
        let mut adds = Vec::new();
        let mut add = |node: NodeName, work: &[u8]| {
            let node = node.number() as u32;
            for change in payload::changes(work) {
                // What is added of another step's output is known when it is.
                if change.kind == ChangeKind::Add {
                    adds.push(Added { node, cell: change.cell, amount: change.amount });
                }
            }
        };
        match &request.work {
            Work::Transaction(branches) => {
                branches.iter().for_each(|branch| add(branch.node, &branch.work));
            }
            Work::Saga(definition) => super::nested::works(definition, &mut add),
        }
        self.requests.push(Asked {
            adds,
            operation: None,
            ended: None,
            told: None,
            told_unproved: false,
        });
        let place = u32::try_from(self.requests.len()).expect("fewer than 2^32 requests");
        match number_of(request.key.as_bytes()) {
            Some(number) => {
                if self.numbered.len() <= number {
                    self.numbered.resize(number + 1, 0);
                }
                self.numbered[number] = place;
            }
            None => {
                self.named.insert(request.key.as_bytes().into(), place - 1);
            }
        }
    }

    fn place(&self, key: &[u8]) -> Option<u32> {
        match number_of(key) {
            Some(number) => self.numbered.get(number)?.checked_sub(1),
            None => self.named.get(key).copied(),
        }
    }

    /// A client is told how its request ended.
    ///
    /// # Errors
    /// Nothing durable says so, or it was told something else before.
    pub fn replied(&mut self, key: &RequestKey, outcome: &Outcome) -> Checked {
        let Some(place) = self.place(key.as_bytes()) else {
            return Err(Objection::new("reply", format!("{key:?} was never asked for")));
        };
        let told = match outcome {
            Outcome::Committed => Ended::Committed,
            Outcome::Aborted => Ended::Aborted,
            Outcome::ReadOnly => Ended::ReadOnly,
            Outcome::Completed => Ended::Saga(End::Completed),
            Outcome::Compensated => Ended::Saga(End::Compensated),
            Outcome::SagaAborted => Ended::Saga(End::Aborted),
            Outcome::Refused(_) => return Ok(()),
            Outcome::InDoubt => {
                let what = format!("{key:?} is called in doubt, and no log was damaged");
                return Err(Objection::new("reply", what));
            }
        };
        let asked = &mut self.requests[place as usize];
        asked.told_unproved |= told == Ended::Aborted && asked.operation.is_none();
        let before = asked.told.replace(told);
        let anew = asked.told_unproved && before == Some(Ended::Aborted);
        // A crash may forget that nobody had anything to change.
        let forgot = before == Some(Ended::ReadOnly) && told == Ended::Aborted;
        ensure(anew || forgot || before.is_none_or(|before| before == told), "I2", || {
            format!("the client of {key:?} was told {before:?}, and now {told:?}")
        })?;
        let proved = match told {
            Ended::Aborted => asked.ended.is_none(),
            Ended::ReadOnly => asked.ended.is_none() && asked.adds.is_empty(),
            told => asked.ended == Some(told),
        };
        self.seen.all_read_only += u64::from(told == Ended::ReadOnly);
        let unproved = matches!(told, Ended::Aborted | Ended::ReadOnly);
        let invariant = if unproved { "I2" } else { "G1" };
        ensure(proved, invariant, || {
            format!(
                "the client of {key:?} is told {told:?}; what is durable says {:?}",
                asked.ended
            )
        })
    }

    /// A client that was told how its request ended has asked again.
    ///
    /// # Errors
    /// It was not told the same at once, or not that another request has the key.
    pub fn asked_again(&mut self, key: &RequestKey, other: bool, heard: &[Outcome]) -> Checked {
        let place = self.place(key.as_bytes());
        let asked = place.map(|place| &self.requests[place as usize]);
        let Some(told) = asked.and_then(|asked| asked.told) else { return Ok(()) };
        self.seen.asked_again += 1;
        let taken = heard.contains(&Outcome::Refused(Refusal::KeyTaken));
        let again = heard.iter().any(|heard| !matches!(heard, Outcome::Refused(_)));
        self.seen.key_taken += u64::from(taken);
        // What its only participant has decided is there to be asked for, after a crash.
        let alone = asked.and_then(|asked| asked.operation).is_some_and(|id| {
            self.coordinators.iter().any(|coordinator| {
                let ours = coordinator.spread.get(id).is_some_and(|it| it.request == place);
                let known = coordinator.model.transactions.get(id);
                ours && known.is_some_and(|tx| tx.is_delegated())
            })
        });
        let right = match (told, other) {
            // It may have begun anew.
            (Ended::Aborted | Ended::ReadOnly, false) => !taken,
            (Ended::Aborted | Ended::ReadOnly, true) => !(taken && again),
            (Ended::Committed, false) if alone => !taken,
            (_, false) => again && !taken,
            (_, true) => taken && !again,
        };
        ensure(right, "key", || {
            let what = if other { "something else" } else { "the same" };
            format!(
                "{key:?}, of which {told:?} was told, asks for {what} again and hears {heard:?}"
            )
        })
    }

    /// A request has ended, says its coordinator's log; what it asked for is expected if it succeeded.
    fn decided(&mut self, request: Option<u32>, ended: Ended) -> Checked {
        // Work that nobody asked for under a name that is known has no client.
        let Some(place) = request else { return Ok(()) };
        let asked = &mut self.requests[place as usize];
        let before = asked.ended.replace(ended);
        ensure(before.is_none(), "G15", || {
            format!("one request ended twice, {before:?} and {ended:?}")
        })?;
        let told = asked.told;
        let anew = asked.told_unproved && told == Some(Ended::Aborted);
        self.seen.run_anew += u64::from(anew);
        ensure(anew || told.is_none_or(|told| told == ended), "I2", || {
            format!("a client was told {told:?}, and then it was {ended:?}")
        })?;
        let adds = std::mem::take(&mut asked.adds);
        if matches!(ended, Ended::Committed | Ended::Saga(End::Completed)) {
            self.expected.extend(adds);
        }
        Ok(())
    }

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

    pub(super) fn saga(&self, node: u32, id: OperationId) -> Option<&Saga> {
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

    // ---- durable records of participants ----

    /// A record of a participant's log counts from now on.
    ///
    /// # Errors
    /// It must not be there, or not yet.
    pub fn taken(&mut self, node: u32, record: &LogRecord<'_>) -> Checked {
        let event = EventType(record.event);
        if event == EventType::CHECKPOINT {
            // A part of a snapshot.
            let part = reader::part(record).ok_or_else(|| anomaly(node, event, record.sequence))?;
            let mut survey = std::mem::take(&mut self.participants[node as usize].survey);
            let right = survey.part(self, node, record, part);
            self.participants[node as usize].survey = survey;
            return right;
        }
        let unreadable = || anomaly(node, event, record.sequence);
        let mut fields = Fields(record.payload);
        let (Some(id), Some(coordinator)) = (fields.id(), fields.coordinator()) else {
            return Err(unreadable());
        };
        let [
            epoch,
            shard,
            body,
            promised,
            call,
            answer,
            output,
            marked,
            finished,
            peers,
            one_phase,
            forced,
            became,
        ] = fields
            .extensions([
                tag::EPOCH,
                tag::SHARD,
                tag::BODY,
                tag::PROMISED,
                tag::CALL,
                tag::ANSWER,
                tag::OUTPUT,
                tag::MARKED,
                tag::FINISHED,
                tag::PARTICIPANTS,
                tag::ONE_PHASE,
                tag::FORCED,
                tag::FOUND,
            ])
            .ok_or_else(unreadable)?;
        let by = coordinator.number() as u32;
        if coordinator.number() >= self.coordinators.len() as u64 {
            return Err(unreadable());
        }
        let epoch = array(epoch).map_or(0, u32::from_le_bytes);
        let shard = array(shard).map_or(0, |shard| ShardId(shard).number());
        let key = (coordinator.number(), id, shard);
        let body = body.unwrap_or(&[]);
        match event {
            EventType::TX_PREPARED => self.prepared(node, key, epoch, record, body, peers),
            EventType::TX_PARTICIPANT_COMMITTED | EventType::TX_PARTICIPANT_ABORTED
                if forced.is_some() =>
            {
                let commit = event == EventType::TX_PARTICIPANT_COMMITTED;
                self.forced(node, key, record, commit, forced)
            }
            EventType::TX_PARTICIPANT_HEURISTIC => {
                let found = array(became).ok_or_else(unreadable)?;
                self.heuristic(node, key, record, found, forced)
            }
            EventType::TX_PARTICIPANT_COMMITTED => {
                saw(&mut self.coordinators[by as usize].seen, node, epoch);
                match one_phase {
                    None => self.committed(node, key, record.sequence),
                    Some([1]) => self.decided_alone(node, key, record.sequence, body),
                    Some(_) => Err(unreadable()),
                }
            }
            EventType::TX_PARTICIPANT_READ_ONLY => self.read_only(node, key, record.sequence),
            EventType::TX_PARTICIPANT_ABORTED => {
                self.seen.peer_promise += u64::from(promised == Some(&[1]));
                self.aborted(node, key, record.sequence)
            }
            EventType::COORDINATOR_SEEN => {
                if let Some(finished) = finished {
                    let all = &mut self.participants[node as usize].finished;
                    all.insert(coordinator.number(), finished.into());
                }
                saw(&mut self.coordinators[by as usize].seen, node, epoch);
                Ok(())
            }
            EventType::STEP_OUTCOME => {
                let (Some(call), Some(answer)) = (array(call), array(answer)) else {
                    return Err(unreadable());
                };
                let mut step = StepRecord::of(call, answer);
                step.marked = marked == Some(&[1]);
                self.step_taken(node, by, id, step, body, output)?;
                let says = StepSays {
                    at: record.sequence,
                    call: &call,
                    answer: &answer,
                    work: body,
                    output,
                };
                self.step_kept(by, id, step, &says);
                Ok(())
            }
            _ => Err(unreadable()),
        }
    }

    fn prepared(
        &mut self,
        node: u32,
        key: Key,
        epoch: u32,
        record: &LogRecord<'_>,
        work: &[u8],
        peers: Option<&[u8]>,
    ) -> Checked {
        let (by, id, shard) = (key.0 as u32, key.1, key.2);
        let Coordinator { spread, seen: all, .. } = &mut self.coordinators[by as usize];
        let seen = seen(all, node);
        ensure(epoch >= seen, "I8", || {
            format!("n{node} promises for epoch {epoch} of n{by}; its log holds {seen}")
        })?;
        if epoch > seen {
            saw(all, node, epoch);
        }
        let participant = &mut self.participants[node as usize];
        let (place, spread) = spread.place_or_make(id, Spread::new);
        let known = spread.place(shard);
        let branch = known.unwrap_or(spread.branches.len());
        let own = Lock::Of(by, place, branch as u32);
        for change in payload::changes(work) {
            let cell = participant.cells.at(change.cell);
            if let Lock::Of(by, place, _) = cell.lock
                && cell.lock != own
            {
                let other = self.coordinators[by as usize].spread.id_at(place);
                let cell = change.cell;
                let what = format!("n{node}: cell {cell} is locked for {id} and for {other}");
                return Err(Objection::new("I12", what));
            }
            let value = cell.value;
            let condition = matches!(change.kind, ChangeKind::Require | ChangeKind::Look);
            ensure(!condition || value >= change.amount, "G13", || {
                format!("n{node} promises {id} although cell {} holds {value}", change.cell)
            })?;
            cell.lock = own;
            let add = change.adds();
            spread.held.push(Held { shard, cell: change.cell, add });
        }
        let before = known.map(|place| spread.branches[place]);
        ensure(before.is_none(), "G14", || {
            format!("n{node} promises transaction {id} after {before:?}")
        })?;
        participant.open += 1;
        spread.branches.push(Branch {
            shard,
            node,
            promise: Promise::Prepared,
            prepared: true,
            open: true,
            at: record.sequence,
            ms: record.timestamp_ms,
            sum: survey::promise_sum(record.sequence, record.timestamp_ms, work, peers),
        });
        Ok(())
    }

    /// The only participant of a transaction has decided to commit it, and has.
    fn decided_alone(&mut self, node: u32, key: Key, at: u64, work: &[u8]) -> Checked {
        let (by, id, shard) = (key.0 as u32, key.1, key.2);
        let Coordinator { model, spread, .. } = &mut self.coordinators[by as usize];
        // Its coordinator has left it to nobody else, durably so.
        let alone = model.transactions.get(id).is_some_and(|tx| tx.one_phase && tx.size() == 1);
        ensure(alone, "G14", || {
            format!("n{node} commits transaction {id} alone, and n{by} has not left it to it")
        })?;
        let spread = spread.entry(id, Spread::new);
        let before = spread.branch(shard).copied();
        ensure(before.is_none() && !spread.abort_said && spread.aborted == 0, "I1", || {
            format!("n{node} commits transaction {id} alone, after {before:?} or an abort")
        })?;
        spread.committed += 1;
        spread.branches.push(Branch {
            shard,
            node,
            promise: Promise::Committed,
            prepared: true,
            open: false,
            at,
            ms: 0,
            sum: 0,
        });
        let request = spread.request;
        let added = payload::changes(work);
        let added = added.map(|it| Added { node, cell: it.cell, amount: it.adds() }).collect();
        self.branch_added(by, id, added);
        let participant = &mut self.participants[node as usize];
        for change in payload::changes(work) {
            let cell = participant.cells.at(change.cell);
            ensure(cell.lock == Lock::Free, "I12", || {
                format!("n{node}: {id} touches cell {}, which is locked", change.cell)
            })?;
            let value = cell.value;
            let condition = matches!(change.kind, ChangeKind::Require | ChangeKind::Look);
            ensure(!condition || value >= change.amount, "G13", || {
                format!("n{node} commits {id} although cell {} holds {value}", change.cell)
            })?;
            cell.value = value.wrapping_add(change.adds());
        }
        self.seen.one_phase += 1;
        self.decided(request, Ended::Committed)
    }

    /// A participant had nothing to change, says its log.
    fn read_only(&mut self, node: u32, key: Key, at: u64) -> Checked {
        let (by, id, shard) = (key.0 as u32, key.1, key.2);
        let spread = self.coordinators[by as usize].spread.entry(id, Spread::new);
        let before = spread.branch(shard).copied();
        ensure(before.is_none(), "G14", || {
            format!("n{node} has nothing to change in transaction {id}, after {before:?}")
        })?;
        spread.branches.push(Branch {
            shard,
            node,
            promise: Promise::ReadOnly,
            prepared: false,
            open: false,
            at,
            ms: 0,
            sum: 0,
        });
        Ok(())
    }

    fn committed(&mut self, node: u32, key: Key, at: u64) -> Checked {
        let (by, id, shard) = (key.0 as u32, key.1, key.2);
        let spread = self.coordinators[by as usize].spread.entry(id, Spread::new);
        spread.committed += 1;
        let (aborted, committing) = (spread.aborted, spread.committing);
        let place = spread.place(shard);
        let held = spread.held.iter().filter(|held| held.shard == shard);
        let added = held.map(|held| Added { node, cell: held.cell, amount: held.add }).collect();
        if let Some(place) = place {
            spread.close(place, node, at, true, &mut self.participants[node as usize]);
        }
        self.branch_added(by, id, added);
        let spread = self.coordinators[by as usize].spread.entry(id, Spread::new);
        let branch = place.map(|place| &mut spread.branches[place]);
        let Some(branch) = branch.filter(|b| b.node == node && b.promise == Promise::Prepared)
        else {
            let what = format!("n{node} commits transaction {id} and has not promised to");
            return Err(Objection::new("G14", what));
        };
        branch.promise = Promise::Committed;
        ensure(aborted == 0, "I1", || {
            format!("n{node} commits transaction {id}, which another participant has aborted")
        })?;
        ensure(committing, "G14", || {
            format!("n{node} commits transaction {id}, and n{by} has not decided so durably")
        })
    }

    fn aborted(&mut self, node: u32, key: Key, at: u64) -> Checked {
        let (by, id, shard) = (key.0 as u32, key.1, key.2);
        let spread = self.coordinators[by as usize].spread.entry(id, Spread::new);
        let heard = spread.abort_said || spread.aborted > 0;
        spread.aborted += 1;
        let (committed, committing) = (spread.committed, spread.committing);
        let place = spread.place(shard);
        let before = place.map(|place| spread.branches[place].promise);
        match place {
            None => {
                spread.branches.push(Branch {
                    shard,
                    node,
                    promise: Promise::Aborted,
                    prepared: false,
                    open: false,
                    at,
                    ms: 0,
                    sum: 0,
                });
                self.seen.tombstone_before_prepare += 1;
            }
            Some(place) => {
                spread.close(place, node, at, false, &mut self.participants[node as usize]);
                spread.branches[place].promise = Promise::Aborted;
            }
        }
        ensure(committed == 0 && !committing, "I1", || {
            format!("n{node} aborts transaction {id}, which others commit")
        })?;
        match before {
            None => Ok(()),
            Some(Promise::Prepared) => {
                self.seen.aborted_after_promise += 1;
                ensure(heard, "G14", || {
                    format!("n{node} aborts transaction {id} alone, after its promise")
                })
            }
            Some(before) => {
                let what = format!("n{node} aborts transaction {id}, which it had {before:?}");
                Err(Objection::new("G14", what))
            }
        }
    }

    fn step_taken(
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
    fn step_kept(&mut self, by: u32, id: OperationId, record: StepRecord, says: &StepSays<'_>) {
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

    // ---- snapshots of participants ----

    /// Everything that a snapshot of a node's participant has to say if it begins now.
    #[must_use]
    pub fn due(&self, node: u32) -> Survey {
        let mut due = Survey::default();
        let cells = self.participants[node as usize].cells.iter();
        due.cells = cells.filter(|(_, cell)| cell.value != 0).map(|(number, _)| number).collect();
        due.forced = self.participants[node as usize].forced.keys().copied().collect();
        for (by, coordinator) in (0..).zip(&self.coordinators) {
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

    /// How a branch has ended at a node (0 aborted, 1 committed, 2 it had nothing to change), and by which
    /// record.
    #[must_use]
    pub fn branch_ended(&self, node: u32, key: BranchKey) -> Option<(u8, u64)> {
        let spread = self.coordinators.get(key.0 as usize)?.spread.get(key.1)?;
        let branch = spread.branch(key.2).filter(|branch| branch.node == node && !branch.open)?;
        let how = match branch.promise {
            Promise::Prepared | Promise::Aborted => 0,
            Promise::Committed => 1,
            Promise::ReadOnly => 2,
        };
        Some((how, branch.at))
    }

    /// What a promise says that is open at a node.
    #[must_use]
    pub fn open_promise(&self, node: u32, key: BranchKey) -> Option<u32> {
        let spread = self.coordinators.get(key.0 as usize)?.spread.get(key.1)?;
        let branch = spread.branch(key.2).filter(|branch| branch.node == node && branch.open)?;
        Some(branch.sum)
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

    // ---- messages ----

    /// A message leaves a node. `opened` says who has durably opened each node's logs.
    ///
    /// # Errors
    /// What it says does not rest on anything durable, or contradicts it.
    pub fn sent(
        &mut self,
        from: u32,
        to: u32,
        message: &Message,
        opened: &[[Opened; 2]],
    ) -> Checked {
        match message {
            Message::Transaction(message) => {
                let by = self.known(message.key().coordinator)?;
                if let Some(sent) = message.coordinator_epoch() {
                    self.commands(from, to, by, sent.value(), opened)?;
                }
                self.transaction(from, by, message, opened)?;
                match message {
                    twopc::Message::Vote { key, .. } | twopc::Message::Ack { key, .. } => {
                        self.answers(from, by, key.id)
                    }
                    _ => Ok(()),
                }
            }
            Message::StepCall { key, epoch: sent, call, .. } => {
                let by = self.known(key.coordinator)?;
                self.commands(from, to, by, sent.value(), opened)?;
                let newest = opened[by as usize][LogSlot::Coordinator as usize].epoch;
                self.step_called(to, by, key.id, call, sent.value(), newest)
            }
            Message::StepReply { key, step, direction, answer, .. } => {
                let by = self.known(key.coordinator)?;
                self.step_answered(from, by, key.id, *step, *direction, answer)?;
                self.answers(from, by, key.id)
            }
            Message::Announce { store: id, boot } => {
                announces(from, id.0, boot.0, store(opened, from))
            }
            Message::Finished { coordinator, epoch, watermark } => {
                let by = self.known(*coordinator)?;
                self.commands(from, to, by, epoch.value(), opened)?;
                self.finished(by, watermark)
            }
            Message::Hello | Message::AskFinished => Ok(()),
        }
    }

    fn known(&self, coordinator: CoordinatorId) -> Result<u32, Box<Objection>> {
        let number = coordinator.number();
        if number < self.coordinators.len() as u64 {
            Ok(number as u32)
        } else {
            Err(Objection::new("gate", format!("a message of an unknown {coordinator:?}")))
        }
    }

    /// A coordinator speaks for itself, and only under an epoch that is durable.
    fn commands(
        &mut self,
        from: u32,
        to: u32,
        by: u32,
        sent: u32,
        opened: &[[Opened; 2]],
    ) -> Checked {
        ensure(from == by, "gate", || format!("n{from} speaks as coordinator n{by}"))?;
        let epoch = opened[by as usize][LogSlot::Coordinator as usize].epoch;
        ensure((1..=epoch).contains(&sent), "G17", || {
            format!("n{from} speaks under epoch {sent}; durable are those up to {epoch}")
        })?;
        let seen = seen(&self.coordinators[by as usize].seen, to);
        self.seen.stale_epoch_sent += u64::from(sent < seen);
        Ok(())
    }

    /// A coordinator says which of its operations are finished: the records that ended them are durable, and
    /// it will draw no id among them.
    fn finished(&self, by: u32, mark: &Watermark) -> Checked {
        let Coordinator { model, .. } = &self.coordinators[by as usize];
        let covered = |id: &OperationId| *id <= mark.highest() && !mark.active().contains(id);
        let sagas = model.sagas.iter().filter(|(_, saga)| saga.ended.is_none());
        let transactions = model.transactions.iter().filter(|(_, tx)| tx.ended.is_none());
        let open = sagas.map(|(id, _)| id).chain(transactions.map(|(id, _)| id)).find(covered);
        ensure(open.is_none(), "finished", || {
            format!("n{by} says that {open:?} is finished; its log does not")
        })
    }

    /// A coordinator is answered only once its epoch is durable where the answer comes from: else a
    /// crash there would forget it, and a process of before that epoch could command again. An answer
    /// names no epoch. That of the operation's id is the lowest that can have asked, so what is
    /// answered to a later epoch of the same coordinator is not held against that one.
    fn answers(&self, from: u32, by: u32, id: OperationId) -> Checked {
        let seen = seen(&self.coordinators[by as usize].seen, from);
        let asked = id.epoch().value();
        ensure(seen >= asked, "gate", || {
            format!(
                "n{from} answers epoch {asked} of n{by} about {id}; durable there is epoch {seen}"
            )
        })
    }

    fn transaction(
        &mut self,
        from: u32,
        by: u32,
        message: &twopc::Message,
        opened: &[[Opened; 2]],
    ) -> Checked {
        use twopc::Message as M;
        let id = message.key().id;
        let Coordinator { model, spread, .. } = &mut self.coordinators[by as usize];
        match message {
            // Once it has left, only its participant's answer ends it: its beginning must not be lost.
            M::Prepare { one_phase: true, .. } | M::Resolve { .. } => {
                self.seen.resolved += u64::from(matches!(message, M::Resolve { .. }));
                let tx = model.transactions.get(id);
                ensure(tx.is_some_and(|tx| tx.one_phase), "gate", || {
                    format!("n{from} leaves transaction {id} to its participant: not durably so")
                })
            }
            M::Prepare { .. } | M::Inquiry { .. } | M::PeerInquiry { .. } => Ok(()),
            M::Noted { shard, .. } => {
                let listed =
                    self.coordinators[by as usize].reported.contains(&(id, shard.number()));
                ensure(listed, "gate", || {
                    format!("n{from} has noted a branch of transaction {id}: not durably so")
                })
            }
            M::Commit { .. } | M::Answer { verdict: Verdict::Committed, .. } => {
                ensure(spread.get(id).is_some_and(|spread| spread.committing), "gate", || {
                    format!("n{from} says that transaction {id} commits: not durably so")
                })
            }
            M::Abort { .. } | M::Answer { verdict: Verdict::Aborted, .. } => {
                let spread = spread.entry(id, Spread::new);
                ensure(!spread.committing, "I3", || {
                    format!("n{from} says that transaction {id} aborts; it has decided to commit")
                })?;
                spread.abort_said = true;
                Ok(())
            }
            M::Answer { .. } => Ok(()),
            M::Vote { shard, vote, store: named, boot, .. } => {
                let own = store(opened, from);
                announces(from, named.0, boot.0, own)?;
                let branch = spread.get(id).and_then(|spread| spread.branch_at(*shard, from));
                let tx = model.transactions.get(id);
                match vote {
                    Vote::ReadOnly => {
                        let promise = branch.map(|branch| branch.promise);
                        // A replaced process does not know what its successor promised.
                        let replaced = boot.0 < own.epoch;
                        ensure(
                            replaced || matches!(promise, None | Some(Promise::ReadOnly)),
                            "G14",
                            || {
                                format!(
                                    "n{from} has nothing to change in transaction {id}, and {promise:?}"
                                )
                            },
                        )?;
                        self.seen.read_only_vote += 1;
                        let spread = spread.entry(id, Spread::new);
                        if !spread.read_only.contains(&shard.number()) {
                            spread.read_only.push(shard.number());
                        }
                        Ok(())
                    }
                    // In one phase the answer is the end of it.
                    _ if tx.is_some_and(|tx| tx.one_phase) => {
                        let expected = match vote {
                            Vote::Commit => Promise::Committed,
                            Vote::Abort | Vote::ReadOnly => Promise::Aborted,
                        };
                        let promise = branch.map(|branch| branch.promise);
                        self.seen.one_phase_refused += u64::from(*vote == Vote::Abort);
                        ensure(promise == Some(expected), "gate", || {
                            format!(
                                "n{from} says {vote:?} of transaction {id}; it has {promise:?} durably"
                            )
                        })
                    }
                    // An ABORT may have come while the promise was on its way to the disk.
                    Vote::Commit => {
                        ensure(branch.is_some_and(|branch| branch.prepared), "gate", || {
                            format!("n{from} votes YES for transaction {id} without a promise")
                        })
                    }
                    Vote::Abort => {
                        let committed = branch.is_some_and(|b| b.promise == Promise::Committed);
                        // A replaced process does not know what its successor promised: it says NO
                        // to a PREPARE that names another boot. The first vote counts.
                        let replaced = boot.0 < own.epoch;
                        ensure(!committed || replaced, "G14", || {
                            format!("n{from} votes NO for transaction {id} and has committed it")
                        })
                    }
                }
            }
            M::Ack { shard, heuristic, .. } => {
                if let Some(heuristic) = heuristic {
                    return self.reports(from, (u64::from(by), id, shard.number()), *heuristic);
                }
                let key = (u64::from(by), id, shard.number());
                ensure(!self.participants[from as usize].forced.contains_key(&key), "I1", || {
                    format!("n{from} acknowledges transaction {id}, which an operator has ended")
                })?;
                let promise = spread.get(id).and_then(|spread| spread.promise(*shard, from));
                ensure(promise == Some(Promise::Committed), "gate", || {
                    format!("n{from} acknowledges transaction {id}; it has {promise:?} durably")
                })
            }
            M::PeerAnswer { verdict, .. } => {
                // It does not say for which of its shards it answers.
                let expected = match verdict {
                    PeerVerdict::Committed => Promise::Committed,
                    PeerVerdict::Aborted => Promise::Aborted,
                    PeerVerdict::Prepared | PeerVerdict::Unknown | PeerVerdict::Finished => {
                        return Ok(());
                    }
                };
                self.seen.peer_decided += 1;
                let has = spread.get(id).is_some_and(|spread| {
                    let forced = &self.participants[from as usize].forced;
                    spread.branches.iter().filter(|branch| branch.node == from).any(|branch| {
                        match forced.get(&(u64::from(by), id, branch.shard)) {
                            None => branch.promise == expected,
                            // What an operator decides here is decided nowhere else.
                            Some(forced) => forced.decided == Some(expected == Promise::Committed),
                        }
                    })
                });
                ensure(has, "gate", || {
                    format!("n{from} tells a peer {verdict:?} of transaction {id}: not durably so")
                })
            }
        }
    }

    fn step_called(
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

    fn step_answered(
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

    // ---- operators ----

    /// An operator is told that an order is taken: it is durable.
    ///
    /// # Errors
    /// It is not.
    pub fn operated(&self, node: u32, told: &Operated) -> Checked {
        let Operated { id, step, result } = told;
        if result.is_err() {
            return Ok(());
        }
        let ordered = self.saga(node, *id).is_some_and(|saga| {
            let index = saga.index(*step);
            saga.orders.iter().any(|(at, _)| Some(usize::from(*at)) == index)
        });
        ensure(ordered, "gate", || {
            format!(
                "n{node} tells an operator that an order about step {step} of saga {id} is taken"
            )
        })
    }

    /// An operator is told that what he has ended, or seen to, is so: it is durable.
    ///
    /// # Errors
    /// It is not.
    pub fn intervened(&self, node: u32, told: &Intervened) -> Checked {
        if told.result.is_err() {
            return Ok(());
        }
        ensure(self.has_intervened(node, told), "gate", || {
            format!("n{node} tells an operator that {told:?}: not durably so")
        })
    }

    // ---- recovery ----

    /// A coordinator's log was recovered, and this is what its node found in it.
    ///
    /// # Errors
    /// The model finds something else in the same bytes.
    pub fn coordinator_recovered(
        &mut self,
        node: u32,
        report: &RecoveryReport,
        told: &Told,
    ) -> Checked {
        let model = &self.coordinators[node as usize].model;
        for operation in &report.operations {
            if let OperationKind::Transaction { members, votes } = &operation.kind {
                let yes = votes.iter().filter(|(_, vote)| *vote != Vote::Abort).count();
                let undecided = operation.action == RecoveryAction::TxResumeAbort;
                self.seen.recovered_all_yes +=
                    u64::from(undecided && yes > 0 && yes == members.len());
            }
        }
        let found: BTreeSet<_> =
            report.heuristics.iter().map(|(id, shard, _)| (*id, shard.number())).collect();
        let listed = &self.coordinators[node as usize].listed;
        ensure(found == *listed, "I7", || {
            format!(
                "n{node} recovers the branches {found:?} as ended otherwise; its log says {listed:?}"
            )
        })?;
        model.compare_with(report, told).map_err(|what| {
            Objection::new("I7", format!("n{node} recovers its coordinator otherwise: {what}"))
        })
    }

    /// A participant's log was recovered.
    ///
    /// # Errors
    /// The promises that its records leave open are not those that are reported.
    pub fn participant_recovered(
        &mut self,
        node: u32,
        report: &RecoveryReport,
        told: &Told,
    ) -> Checked {
        let participant = &self.participants[node as usize];
        let wrong = |what: String| {
            Err(Objection::new("I7", format!("n{node} recovers its participant otherwise: {what}")))
        };
        self.seen.recovered_promise += u64::from(participant.open);
        super::forced::recovered(&participant.forced, report).or_else(wrong)?;
        let mut found = Vec::with_capacity(report.operations.len());
        for operation in &report.operations {
            let OperationKind::Promise { coordinator, shard } = &operation.kind else {
                return wrong(format!("{operation:?} is no promise"));
            };
            let key = (coordinator.number(), operation.id, shard.number());
            let ms = operation.created_ms.unwrap_or(i64::MIN);
            let as_promised = operation.state == "prepared"
                && operation.action == RecoveryAction::None
                && operation.in_doubt
                && operation.last == operation.evidence;
            if !as_promised {
                return wrong(format!("{operation:?} is no promise that waits"));
            }
            found.push(Open { key, at: operation.evidence.0, ms });
        }
        found.sort_unstable_by_key(|open| open.key);
        let twice = found.windows(2).any(|two| two[0].key == two[1].key);
        let as_logged = found.iter().all(|open| self.open(node, open.key) == Some(*open));
        if twice || !as_logged || found.len() != participant.open as usize {
            return wrong(format!("expected {:?}, found {found:?}", self.all_open(node)));
        }
        let (records, read) = (told.records, report.scanned.records);
        let more = told.recycled && told.from_snapshot && read > records;
        if records != read && !more || report.anomalies.total() > 0 {
            return wrong(format!(
                "{read} records of {records}, {} anomalies",
                report.anomalies.total()
            ));
        }
        Ok(())
    }

    /// A promise that is open in a participant's log.
    fn open(&self, node: u32, key: Key) -> Option<Open> {
        let spread = self.coordinators.get(key.0 as usize)?.spread.get(key.1)?;
        let branch = spread.branch(key.2).filter(|branch| branch.open && branch.node == node)?;
        Some(Open { key, at: branch.at, ms: branch.ms })
    }

    /// Every promise that is open in a participant's log.
    fn all_open(&self, node: u32) -> Vec<Open> {
        let mut found = Vec::new();
        for (by, coordinator) in (0..).zip(&self.coordinators) {
            for (id, spread) in coordinator.spread.iter() {
                let keys = spread.branches.iter().map(|branch| (by, id, branch.shard));
                found.extend(keys.filter_map(|key| self.open(node, key)));
            }
        }
        found.sort_unstable_by_key(|open| open.key);
        found
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
            for (id, saga) in coordinator.model.sagas.iter() {
                ensure(saga.ended.is_some(), "I6", || format!("n{node}: saga {id} never ended"))?;
            }
        }
        let hosts = || nodes.iter().map(|node| node.and_then(|node| node.participant()));
        // Three things must be the same. To find that they are takes a look at each cell; only to say
        // where they are not takes them in order.
        let logged = hosts().zip(&self.participants).all(|(host, facts)| {
            host.is_none_or(|host| facts.cells.hold(host.store().cells().filter(|(_, v)| *v != 0)))
        });
        if logged {
            self.expect(i64::wrapping_sub);
            let mut all = hosts().zip(&self.participants).filter(|(host, _)| host.is_some());
            let expected = all.all(|(_, facts)| facts.cells.hold(std::iter::empty()));
            self.expect(i64::wrapping_add);
            if expected {
                return Ok(());
            }
        }
        for (at, (host, facts)) in hosts().zip(&self.participants).enumerate() {
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
        for Added { node, cell, amount } in &self.expected {
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

/// A node names its own store, and no boot that is not durable.
fn announces(node: u32, id: u64, boot: u32, store: Opened) -> Checked {
    let Opened { log_id: own, epoch: boots } = store;
    ensure(id == own && (1..=boots).contains(&boot), "gate", || {
        format!("n{node} says that its store is {id:x}, boot {boot}; it is {own:x}, boot {boots}")
    })
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

/// A `step_outcome`, as its record says it.
#[derive(Clone, Copy)]
struct StepRecord {
    step: u32,
    backward: bool,
    refused: bool,
    changed: bool,
    marked: bool,
}

impl StepRecord {
    fn of(call: [u8; 21], answer: [u8; 6]) -> StepRecord {
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
