//! What participants have written: promises, how they ended, and what of it the others know.

use super::super::cells::{Cells, Lock};
use super::super::ledger::{Checked, Objection};
use super::super::payload::{ChangeKind, Fields, Tags, array, tag};
use super::super::reader::LogRecord;
use super::super::survey::{BranchKey, StepSays, Survey};
use super::super::{payload, reader, survey};
use super::coordinators::Coordinator;
use super::steps::StepRecord;
use super::{BRANCHES_USUAL, Ended, Facts, Key, anomaly, ensure, saw, seen};
use crate::judge::forced::ForcedBranch;
use base::ShardId;
use std::collections::BTreeMap;
use wal_core::EventType;

/// What participants' records bring besides their fixed fields.
static EXTENSIONS: Tags<13> = Tags::of([
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
]);

/// A branch of a transaction, as its participant's log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::judge) enum Promise {
    Prepared,
    Committed,
    /// After a promise, or instead of one.
    Aborted,
    /// It had nothing to change.
    ReadOnly,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::judge) struct Branch {
    pub(in crate::judge) shard: u64,
    pub(in crate::judge) node: u32,
    pub(in crate::judge) promise: Promise,
    /// It has promised to commit, whatever came after.
    pub(super) prepared: bool,
    /// The promise has no outcome yet in its own log.
    pub(in crate::judge) open: bool,
    /// The record of the promise; once there is an outcome, that one's.
    pub(in crate::judge) at: u64,
    ms: i64,
    /// What the promise says: see [`survey::promise_sum`].
    sum: u32,
}

/// A cell that a promise holds, and what its commit adds to it.
#[derive(Clone, Copy, Debug)]
pub(in crate::judge) struct Held {
    pub(in crate::judge) shard: u64,
    pub(in crate::judge) cell: u64,
    pub(in crate::judge) add: i64,
}

/// A transaction, as everybody but its coordinator's log knows it.
#[derive(Clone, Debug)]
pub(in crate::judge) struct Spread {
    pub(in crate::judge) branches: Vec<Branch>,
    /// What its open promises hold.
    pub(in crate::judge) held: Vec<Held>,
    pub(in crate::judge) committed: u32,
    pub(in crate::judge) aborted: u32,
    /// Branches that have aborted by force, says its coordinator's log, although it commits.
    pub(in crate::judge) missed: u32,
    /// Its coordinator's log has decided to commit.
    pub(in crate::judge) committing: bool,
    /// Its coordinator has told somebody that it is aborted.
    pub(in crate::judge) abort_said: bool,
    /// The shards that have voted read-only, durably so or not.
    pub(super) read_only: Vec<u64>,
    pub(super) request: Option<u32>,
}

impl Spread {
    pub(super) fn new() -> Spread {
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

    pub(in crate::judge) fn place(&self, shard: u64) -> Option<usize> {
        self.branches.iter().position(|branch| branch.shard == shard)
    }

    pub(super) fn branch(&self, shard: u64) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.shard == shard)
    }

    pub(super) fn promise(&self, shard: ShardId, node: u32) -> Option<Promise> {
        self.branch_at(shard, node).map(|branch| branch.promise)
    }

    pub(super) fn branch_at(&self, shard: ShardId, node: u32) -> Option<&Branch> {
        self.branch(shard.number()).filter(|branch| branch.node == node)
    }

    /// An outcome is in a participant's log: what its promise holds is free, and is changed if it
    /// commits.
    pub(in crate::judge) fn close(
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

/// A promise without an outcome, and its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) key: Key,
    pub(super) at: u64,
    pub(super) ms: i64,
}

/// A participant's log, as far as it is not about operations alone.
#[derive(Clone, Debug, Default)]
pub(in crate::judge) struct Participant {
    /// What its records add up to, and what its open promises hold.
    pub(super) cells: Cells,
    /// How many promises are open.
    pub(super) open: u32,
    /// The operations of which each coordinator has said that they are finished: the highest, and
    /// behind it those that are not, as the record has them.
    pub(super) finished: BTreeMap<u64, Box<[u8]>>,
    /// The branches that an operator has ended, until that is the transaction's decision too.
    pub(in crate::judge) forced: BTreeMap<BranchKey, ForcedBranch>,
    /// What is still to come of a snapshot.
    pub(super) survey: Survey,
}

/// What is added to a cell of a node.
#[derive(Clone, Copy, Debug)]
pub(in crate::judge) struct Added {
    pub(in crate::judge) node: u32,
    pub(in crate::judge) cell: u64,
    pub(in crate::judge) amount: i64,
}

impl Facts {
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
        ] = fields.extensions_of(&EXTENSIONS).ok_or_else(unreadable)?;
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

    pub(super) fn prepared(
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
    pub(super) fn read_only(&mut self, node: u32, key: Key, at: u64) -> Checked {
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

    pub(super) fn committed(&mut self, node: u32, key: Key, at: u64) -> Checked {
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

    pub(super) fn aborted(&mut self, node: u32, key: Key, at: u64) -> Checked {
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

    /// A promise that is open in a participant's log.
    pub(super) fn open(&self, node: u32, key: Key) -> Option<Open> {
        let spread = self.coordinators.get(key.0 as usize)?.spread.get(key.1)?;
        let branch = spread.branch(key.2).filter(|branch| branch.open && branch.node == node)?;
        Some(Open { key, at: branch.at, ms: branch.ms })
    }

    /// Every promise that is open in a participant's log.
    pub(super) fn all_open(&self, node: u32) -> Vec<Open> {
        let mut found = Vec::new();
        for (by, coordinator) in (0..).zip(self.coordinators.iter()) {
            for (id, spread) in coordinator.spread.iter() {
                let keys = spread.branches.iter().map(|branch| (by, id, branch.shard));
                found.extend(keys.filter_map(|key| self.open(node, key)));
            }
        }
        found.sort_unstable_by_key(|open| open.key);
        found
    }
}
