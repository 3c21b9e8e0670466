//! What a participant's snapshot says, part by part, held against all that its log has said before.
//!
//! A part counts where it stands, so whatever it says must be true there to the last byte; and once the
//! last part has come, nothing may be missing that was there before the first. What a coordinator has said
//! to be finished may be left out.

use super::facts::Facts;
use super::ledger::{Checked, Objection};
use super::payload::{self, ChangeKind, Fields, array, tag};
use super::reader::LogRecord;
use base::{OperationId, ShardId};
use std::collections::BTreeSet;
use wal_core::EventType;

/// A branch: its coordinator, its transaction, its shard.
pub type BranchKey = (u64, OperationId, u64);
/// A step: its coordinator, its saga, its number.
pub type StepKey = (u64, OperationId, u32);

/// What is still to come of a snapshot that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The number of the next part; 0: none is being written.
    next: u32,
    /// Cells that hold something.
    pub cells: BTreeSet<u64>,
    /// Promises without an outcome.
    pub promises: BTreeSet<BranchKey>,
    /// Branches with one.
    pub outcomes: BTreeSet<BranchKey>,
    /// Steps that were answered.
    pub steps: BTreeSet<StepKey>,
    /// Those of them that gave or were given something.
    pub brought: BTreeSet<StepKey>,
    /// Branches that an operator has ended.
    pub forced: BTreeSet<BranchKey>,
    /// Coordinators that were heard of.
    pub coordinators: BTreeSet<u64>,
    /// Whose records follow, and those of them that were in earlier parts.
    kind: u8,
    records: Vec<u8>,
}

/// The tags of a part, behind the one that every part has.
const OPERATION: u8 = 65;
const RECORDS: u8 = 66;
const CELLS: u8 = 71;
const OUTCOMES: u8 = 72;
const STEPS: u8 = 73;
const COORDINATOR: u8 = 74;
/// What an operation's records are of.
const PROMISE: u8 = 3;
const STEP: u8 = 4;
const FORCED: u8 = 5;

/// What is remembered of a step's answer: whether it was refused, its code, its record.
#[must_use]
pub fn answer_sum(refused: bool, code: u32, at: u64) -> u32 {
    let mut bytes = [0; 13];
    bytes[0] = 1 + u8::from(refused);
    bytes[1..5].copy_from_slice(&code.to_le_bytes());
    bytes[5..].copy_from_slice(&at.to_le_bytes());
    crc32fast::hash(&bytes)
}

/// A step's outcome as its record says it.
#[derive(Clone, Copy, Debug)]
pub struct StepSays<'a> {
    /// The record.
    pub at: u64,
    /// Its token is in it.
    pub call: &'a [u8; 21],
    /// Refused, code, changed.
    pub answer: &'a [u8; 6],
    /// What it did.
    pub work: &'a [u8],
    /// What it gave.
    pub output: Option<&'a [u8]>,
}

/// What is remembered of a step that gave or was given something; nothing of any other.
#[must_use]
pub fn brought_sum(says: &StepSays<'_>) -> Option<u32> {
    let StepSays { at, call, answer, work, output } = *says;
    let given = payload::changes(work).any(|change| change.kind == ChangeKind::Added);
    (given || output.is_some()).then(|| {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&at.to_le_bytes());
        hasher.update(call);
        hasher.update(&answer[..5]);
        hasher.update(if given { work } else { &[] });
        hasher.update(&[u8::from(output.is_some())]);
        hasher.update(output.unwrap_or(&[]));
        hasher.finalize()
    })
}

/// What is remembered of a promise: what it does on commit, and with whom.
#[must_use]
pub fn promise_sum(at: u64, ms: i64, work: &[u8], peers: Option<&[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&at.to_le_bytes());
    hasher.update(&ms.to_le_bytes());
    hasher.update(&(work.len() as u64).to_le_bytes());
    hasher.update(work);
    hasher.update(peers.unwrap_or(&[]));
    hasher.finalize()
}

impl Survey {
    /// Takes the next part of a node's snapshot. `due` says what must be in one that begins now.
    ///
    /// # Errors
    /// It says what is not so, or it is the last and something is missing.
    pub fn part(
        &mut self,
        facts: &Facts,
        node: u32,
        record: &LogRecord<'_>,
        (number, last): (u32, bool),
    ) -> Checked {
        if number == 0 {
            *self = facts.due(node);
        } else if number != self.next || self.next == 0 {
            // What a crash has cut short never becomes whole.
            *self = Survey::default();
            return Ok(());
        }
        self.next = number + 1;
        self.says(facts, node, record).map_err(|what| {
            let place = format!("n{node}: part {number} of a snapshot, record {}", record.sequence);
            Objection::new("G11", format!("{place}: {what}"))
        })?;
        if !last {
            return Ok(());
        }
        let missing = std::mem::take(self).missing(facts, node);
        missing.map_or(Ok(()), |what| {
            let at = record.sequence;
            let what =
                format!("n{node}: the snapshot that ends with record {at} leaves out {what}");
            Err(Objection::new("G11", what))
        })
    }

    fn says(&mut self, facts: &Facts, node: u32, record: &LogRecord<'_>) -> Result<(), String> {
        let mut rest = Fields(&record.payload[25..]);
        let mut more = false;
        while !rest.0.is_empty() {
            let (Some(tag), Some(length)) = (rest.u8(), rest.array().map(u16::from_le_bytes))
            else {
                return Err("a tag is cut".into());
            };
            let Some((value, behind)) = rest.0.split_at_checked(usize::from(length)) else {
                return Err("a value is cut".into());
            };
            rest = Fields(behind);
            match (tag, value) {
                (OPERATION, [kind, .., flags]) => (self.kind, more) = (*kind, flags & 1 == 1),
                (RECORDS, value) => self.records.extend_from_slice(value),
                (CELLS, value) => self.cells_hold(facts, node, value)?,
                (OUTCOMES, value) => self.branches_ended(facts, node, value)?,
                (STEPS, value) => self.steps_answered(facts, node, value)?,
                (COORDINATOR, value) => self.coordinator(facts, node, value)?,
                _ => return Err(format!("tag {tag} is none of a participant's")),
            }
        }
        if more || self.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        self.carries(facts, node, &records)
    }

    fn cells_hold(&mut self, facts: &Facts, node: u32, value: &[u8]) -> Result<(), String> {
        for entry in value.as_chunks::<16>().0 {
            let mut fields = Fields(entry);
            let (Some(cell), Some(says)) = (fields.u64(), fields.u64()) else { continue };
            self.cells.remove(&cell);
            let (says, holds) = (says as i64, facts.cell(node, cell));
            if says != holds {
                return Err(format!(
                    "cell {cell} is said to hold {says}; the log adds up to {holds}"
                ));
            }
        }
        Ok(())
    }

    fn branches_ended(&mut self, facts: &Facts, node: u32, value: &[u8]) -> Result<(), String> {
        for entry in value.as_chunks::<81>().0 {
            let mut fields = Fields(entry);
            let (Some(by), Some(id), Some(shard), Some(how), Some(at)) =
                (fields.coordinator(), fields.id(), fields.shard(), fields.u8(), fields.u64())
            else {
                continue;
            };
            let key = (by.number(), id, shard.number());
            self.outcomes.remove(&key);
            self.promises.remove(&key);
            let known = facts.branch_ended(node, key);
            if known != Some((how, at)) {
                return Err(format!(
                    "transaction {id}'s branch is said to have ended as {how}, by record {at}; \
                     the log says {known:?}"
                ));
            }
        }
        Ok(())
    }

    fn steps_answered(&mut self, facts: &Facts, node: u32, value: &[u8]) -> Result<(), String> {
        for entry in value.as_chunks::<70>().0 {
            let mut fields = Fields(entry);
            let (Some(by), Some(id), Some(step)) =
                (fields.coordinator(), fields.id(), fields.u32())
            else {
                continue;
            };
            let key = (by.number(), id, step);
            self.steps.remove(&key);
            let said = [0, 1].map(|_| {
                let answer = fields.array::<13>().unwrap_or_default();
                if answer[0] == 0 { 0 } else { crc32fast::hash(&answer) }
            });
            if facts.step_answers(node, key) != Some(said) {
                return Err(format!("step {step} of saga {id} was answered otherwise: {entry:?}"));
            }
        }
        Ok(())
    }

    fn coordinator(&mut self, facts: &Facts, node: u32, value: &[u8]) -> Result<(), String> {
        let mut fields = Fields(value);
        let (Some(by), Some(epoch)) = (fields.coordinator(), fields.u32()) else {
            return Err("a coordinator's entry is cut".into());
        };
        self.coordinators.remove(&by.number());
        let seen = facts.epoch_seen(by.number(), node);
        if epoch != seen {
            return Err(format!("{by:?} is said to be of epoch {epoch}; the log holds {seen}"));
        }
        let (said, known) = (fields.0, facts.finished_mark(node, by.number()));
        if said != known {
            return Err(format!(
                "{by:?} is said to have finished {said:?}; the log says {known:?}"
            ));
        }
        Ok(())
    }

    fn carries(&mut self, facts: &Facts, node: u32, records: &[u8]) -> Result<(), String> {
        if self.kind == FORCED {
            let key = facts.forced_as_carried(node, records)?;
            self.forced.remove(&key);
            return Ok(());
        }
        let mut rest = Fields(records);
        while !rest.0.is_empty() {
            let (Some(at), Some(ms), Some(event), Some(length)) =
                (rest.u64(), rest.u64(), rest.u8(), rest.u32())
            else {
                return Err("a record is cut".into());
            };
            let Some((payload, behind)) = rest.0.split_at_checked(length as usize) else {
                return Err("a record is cut".into());
            };
            rest = Fields(behind);
            let right = match (self.kind, EventType(event)) {
                (PROMISE, EventType::TX_PREPARED) => {
                    self.promise(facts, node, at, ms as i64, payload)
                }
                (STEP, EventType::STEP_OUTCOME) => self.step(facts, node, at, payload),
                _ => None,
            };
            if right != Some(true) {
                let kind = self.kind;
                return Err(format!(
                    "record {at}, of kind {kind}, is carried otherwise than it was"
                ));
            }
        }
        Ok(())
    }

    fn promise(
        &mut self,
        facts: &Facts,
        node: u32,
        at: u64,
        ms: i64,
        payload: &[u8],
    ) -> Option<bool> {
        let mut fields = Fields(payload);
        let (id, by) = (fields.id()?, fields.coordinator()?);
        let [shard, body, peers] = fields.extensions([tag::SHARD, tag::BODY, tag::PARTICIPANTS])?;
        let key = (by.number(), id, ShardId(array(shard)?).number());
        self.promises.remove(&key);
        let sum = promise_sum(at, ms, body.unwrap_or(&[]), peers);
        Some(facts.open_promise(node, key) == Some(sum))
    }

    fn step(&mut self, facts: &Facts, node: u32, at: u64, payload: &[u8]) -> Option<bool> {
        let mut fields = Fields(payload);
        let (id, by) = (fields.id()?, fields.coordinator()?);
        let [call, answer, body, output] =
            fields.extensions([tag::CALL, tag::ANSWER, tag::BODY, tag::OUTPUT])?;
        let (call, answer) = (array::<21>(call)?, array::<6>(answer)?);
        let [a, b, c, d, ..] = call;
        let key = (by.number(), id, u32::from_le_bytes([a, b, c, d]));
        self.brought.remove(&key);
        // It says nothing of what the step has changed: that is in the cells.
        let work = body.unwrap_or(&[]);
        let sum = brought_sum(&StepSays { at, call: &call, answer: &answer, work, output });
        Some(answer[5] == 0 && sum.is_some() && facts.step_brought(node, key) == sum)
    }

    /// What should have come and has not.
    fn missing(self, facts: &Facts, node: u32) -> Option<String> {
        let covered = |by: u64, id: OperationId| facts.is_finished(node, by, id);
        if let Some(cell) = self.cells.iter().find(|cell| facts.cell(node, **cell) != 0) {
            return Some(format!("cell {cell}"));
        }
        let promises = self.promises.iter();
        if let Some((_, id, shard)) = promises.into_iter().find(|(by, id, _)| !covered(*by, *id)) {
            return Some(format!("the promise of shard {shard} for transaction {id}"));
        }
        if let Some((_, id, _)) = self.outcomes.iter().find(|(by, id, _)| !covered(*by, *id)) {
            return Some(format!("how transaction {id} ended here"));
        }
        if let Some((_, id, step)) = self.steps.iter().find(|(by, id, _)| !covered(*by, *id)) {
            return Some(format!("what step {step} of saga {id} was answered"));
        }
        if let Some((_, id, step)) = self.brought.iter().find(|(by, id, _)| !covered(*by, *id)) {
            return Some(format!("what step {step} of saga {id} gave or was given"));
        }
        let forced = self.forced.iter();
        if let Some((_, id, _)) = forced.into_iter().find(|key| facts.is_forced(node, **key)) {
            return Some(format!("that an operator has ended a branch of transaction {id}"));
        }
        self.coordinators.first().map(|by| format!("coordinator n{by}"))
    }
}
