//! When an engine's log is compacted, and what its snapshots say.
//!
//! A few parts are appended in each round, while ordinary records go on. Each covers what its operation
//! has written before it: first come the active operations, by id, then what is in doubt and what ended otherwise, and last
//! what has ended. So an operation that ends before its part is due is among those that have ended.

use super::{Engine, Known};
use crate::message::Message;
use crate::output::Output;
use crate::snapshot::{self, DoubtfulTrail, Ended, EndedHow, Kind, tag};
use base::{Epoch, NodeName, OperationId, ShardId, Time};
use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use twopc::Watermark;
use twopc::heuristic::Reported;
use wal_core::{AppendError, RECORD_HEADER_BYTES, SnapshotPart};

/// What has ended: as much as is answered for. What has no key, such as the operations of steps, takes no
/// place that one with a key needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    keyed: Line,
    others: Line,
    /// The sagas in both.
    sagas: BTreeSet<OperationId>,
}

/// Operations that have ended, the oldest first.
#[derive(Clone, Debug, Default)]
struct Line {
    /// Each with when it ended, or when it was found in the log.
    ended: VecDeque<(Time, Ended)>,
    /// How many have left it.
    forgotten: u64,
}

impl Window {
    pub fn push(&mut self, now: Time, ended: Ended) {
        if let EndedHow::Saga(_) = ended.how {
            self.sagas.insert(ended.id);
        }
        let line = if ended.request_key.is_some() { &mut self.keyed } else { &mut self.others };
        line.ended.push_back((now, ended));
    }

    /// Whether this saga is known to have ended.
    pub fn has_saga(&self, id: OperationId) -> bool {
        self.sagas.contains(&id)
    }

    /// The next one that leaves, if one does.
    fn pop(&mut self, leaves: impl Fn(&Line, Time) -> bool) -> Option<Ended> {
        for line in [&mut self.keyed, &mut self.others] {
            let since = line.ended.front().map(|(since, _)| *since);
            if since.is_some_and(|since| leaves(line, since)) {
                let (_, oldest) = line.ended.pop_front()?;
                line.forgotten += 1;
                self.sagas.remove(&oldest.id);
                return Some(oldest);
            }
        }
        None
    }
}

impl Line {
    /// Those from this one on, counted from the first that ever ended, and the number of the first of them.
    fn from(&self, number: u64) -> (u64, impl Iterator<Item = &Ended>) {
        // Those that have left it meanwhile are not answered for any more.
        let first = number.max(self.forgotten);
        let at = usize::try_from(first - self.forgotten).unwrap_or(usize::MAX);
        (first, self.ended.iter().skip(at).map(|(_, ended)| ended))
    }

    /// How many have ever ended.
    fn end(&self) -> u64 {
        self.forgotten + self.ended.len() as u64
    }
}

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The sagas behind this one.
    Sagas(Option<OperationId>),
    Transactions(Option<OperationId>),
    /// What is in doubt, from this one on.
    Doubts(usize),
    /// Branches that ended otherwise, behind this one.
    Heuristics(Option<(OperationId, ShardId)>),
    /// Who said of which of them that its participant is gone, behind this one.
    Gone(Option<(OperationId, ShardId)>),
    /// What the steps of sagas have brought that have ended, from this one on: counted from the first operation
    /// with a key that ever ended.
    Outputs(u64),
    /// What has ended and has no key, from this one on: counted likewise.
    Others(u64),
    /// What has ended and has a key.
    Ended(u64),
}

/// About so many bytes of parts are appended in one round, and no more than about a batch of the log's.
const ROUND_BYTES: usize = 4 << 10;

impl Engine {
    /// Begins a snapshot if one is due, and appends the next parts of one that is begun.
    pub(super) fn compact(&mut self, now: Time, out: &mut Vec<Output>) {
        let log = self.desk.log.log();
        if !log.is_compacting() {
            // Until its first part is in the log, whatever is written still has to be in a part.
            self.snapshot = None;
            if !log.compaction_due() || self.room() < snapshot::ROOM_MIN {
                return;
            }
        }
        if log.is_flushing() {
            // One round for each flush: others go first.
            return;
        }
        self.snapshot.get_or_insert(Stage::Sagas(None));
        let mut left = ROUND_BYTES.min(log.config().batch_bytes_max as usize);
        while let Some(stage) = self.snapshot {
            // Nothing is lost if the log is busy: the same parts are due in the next round.
            let Ok((next, bytes)) = self.append_next(now, stage, out) else { return };
            self.snapshot = next;
            if bytes >= left {
                return;
            }
            left -= bytes;
        }
    }

    /// How many bytes a part may hold.
    fn room(&self) -> usize {
        let max = self.desk.log.log().config().max_payload;
        max.saturating_sub(SnapshotPart::HEAD_BYTES) as usize
    }

    /// Appends what comes next. Says what comes then, and how many bytes that was.
    fn append_next(
        &mut self,
        now: Time,
        stage: Stage,
        out: &mut Vec<Output>,
    ) -> Result<(Option<Stage>, usize), AppendError> {
        let room = self.room();
        let behind = |id: Option<OperationId>| id.map_or(Bound::Unbounded, Bound::Excluded);
        match stage {
            Stage::Sagas(last) => {
                let range = (behind(last), Bound::Unbounded);
                let Some((&id, op)) = self.sagas.range(range).next() else {
                    return Ok((Some(Stage::Transactions(None)), 0));
                };
                let parts = snapshot::pieces(Kind::Saga, id, false, op.trail.bytes(), room);
                let bytes = self.append_parts(now, &parts, out)?;
                Ok((Some(Stage::Sagas(Some(id))), bytes))
            }
            Stage::Transactions(last) => {
                let range = (behind(last), Bound::Unbounded);
                let Some((&id, op)) = self.transactions.range(range).next() else {
                    return Ok((Some(Stage::Doubts(0)), 0));
                };
                let trail = op.trail.bytes();
                let parts = snapshot::pieces(Kind::Transaction, id, false, trail, room);
                let bytes = self.append_parts(now, &parts, out)?;
                Ok((Some(Stage::Transactions(Some(id))), bytes))
            }
            Stage::Doubts(at) => {
                let Some(doubtful) = self.doubtful.get(at) else {
                    return Ok((Some(Stage::Heuristics(None)), 0));
                };
                let parts = doubtful.parts(room);
                let bytes = self.append_parts(now, &parts, out)?;
                Ok((Some(Stage::Doubts(at + 1)), bytes))
            }
            Stage::Heuristics(last) => {
                let fit = (room - 64).min(usize::from(u16::MAX)) / snapshot::REPORTED_BYTES;
                let (mut entries, mut next) = (Vec::new(), None);
                for (id, shard, reported) in self.heuristics.behind(last).take(fit) {
                    snapshot::encode_reported(id, shard, reported, &mut entries);
                    next = Some((id, shard));
                }
                if entries.is_empty() {
                    return Ok((Some(Stage::Gone(None)), 0));
                }
                let mut part = Vec::new();
                snapshot::put(tag::HEURISTICS, &entries, &mut part);
                self.append_part(now, &part, false, out)?;
                Ok((Some(Stage::Heuristics(next)), part.len()))
            }
            Stage::Gone(last) => {
                let word = |(id, shard, it): (_, _, &Reported)| Some((id, shard, it.gone.clone()?));
                let Some((id, shard, audit)) = self.heuristics.behind(last).find_map(word) else {
                    return Ok((Some(Stage::Outputs(0)), 0));
                };
                let mut part = Vec::new();
                snapshot::put(tag::GONE, &snapshot::encode_gone(id, shard, &audit), &mut part);
                self.append_part(now, &part, false, out)?;
                Ok((Some(Stage::Gone(Some((id, shard)))), part.len()))
            }
            Stage::Outputs(from) => {
                let (first, ended) = self.window.keyed.from(from);
                let brought = |(number, ended): (u64, &Ended)| {
                    let outputs = self.outputs.get(ended.request_key.as_ref()?)?;
                    let saga = matches!(ended.how, EndedHow::Saga(_));
                    saga.then_some((number, ended.id, outputs))
                };
                let Some((number, id, trail)) = (first..).zip(ended).find_map(brought) else {
                    return Ok((Some(Stage::Others(0)), 0));
                };
                let parts = snapshot::pieces(Kind::Outputs, id, false, trail.bytes(), room);
                let bytes = self.append_parts(now, &parts, out)?;
                Ok((Some(Stage::Outputs(number + 1)), bytes))
            }
            Stage::Others(from) => {
                let (next, part) = ended_part(&self.window.others, from, room);
                if part.is_empty() {
                    return Ok((Some(Stage::Ended(0)), 0));
                }
                self.append_part(now, &part, false, out)?;
                Ok((Some(Stage::Others(next)), part.len()))
            }
            Stage::Ended(from) => {
                let (next, mut part) = ended_part(&self.window.keyed, from, room);
                let last = next == self.window.keyed.end();
                if last {
                    self.write_last(&mut part);
                }
                self.append_part(now, &part, last, out)?;
                Ok(((!last).then_some(Stage::Ended(next)), part.len()))
            }
        }
    }

    /// What is said of the log as a whole.
    fn write_last(&self, part: &mut Vec<u8>) {
        if let Some(up_to) = self.unknown_ids_up_to {
            snapshot::put(tag::UNKNOWN_IDS, &up_to.value().to_le_bytes(), part);
        }
        let mine = self.desk.epoch;
        let later = self.foreign_epochs.iter().copied().filter(|epoch| *epoch > mine);
        // Of more than fit the next starts find out as they come to them.
        let epochs = snapshot::encode_epochs(later.take(8));
        if !epochs.is_empty() {
            snapshot::put(tag::EPOCHS, &epochs, part);
        }
    }

    /// Appends an operation's parts one behind the other, or nothing of them: no record of the operation
    /// may stand between.
    fn append_parts(
        &mut self,
        now: Time,
        parts: &[Vec<u8>],
        out: &mut Vec<Output>,
    ) -> Result<usize, AppendError> {
        let bytes: usize = parts.iter().map(Vec::len).sum();
        let heads = u64::from(RECORD_HEADER_BYTES + SnapshotPart::HEAD_BYTES) * parts.len() as u64;
        let log = self.desk.log.log();
        if bytes as u64 + heads > log.room(parts.len() as u64) {
            return Err(AppendError::Full { max: log.config().buffered_bytes_max });
        }
        for part in parts {
            self.append_part(now, part, false, out)?;
        }
        Ok(bytes)
    }

    fn append_part(
        &mut self,
        now: Time,
        part: &[u8],
        last: bool,
        out: &mut Vec<Output>,
    ) -> Result<(), AppendError> {
        let counts = (self.sagas.len() as u64, self.transactions.len() as u64);
        self.desk.log.append_part(now, counts, last, part, out)
    }

    /// Answers which operations are finished, once the records that ended them are durable. Not if a lost
    /// record may know of others.
    pub(super) fn tell_finished(&mut self, from: NodeName, out: &mut Vec<Output>) {
        if self.unknown_ids_up_to.is_some() || !self.doubtful.is_empty() {
            return;
        }
        let (coordinator, epoch) = (self.desk.config.id, self.desk.epoch);
        let Some(highest) = OperationId::draw(epoch, self.ids_drawn) else { return };
        let (sagas, transactions) = (self.sagas.keys(), self.transactions.keys());
        let active: BTreeSet<OperationId> = sagas.chain(transactions).copied().collect();
        let watermark = Arc::new(Watermark::new(highest, active.into_iter()));
        let message = Message::Finished { coordinator, epoch, watermark };
        let last = self.desk.log.log().last();
        self.desk.log.owe(last, Output::Send { to: from, message }, out);
    }

    /// Remembers how an operation ended, and forgets what is answered for no longer.
    pub(super) fn remember(&mut self, now: Time, ended: Ended) {
        self.window.push(now, ended);
        self.forget_results(now);
    }

    /// Forgets how operations ended that are too many, or whose results have been kept for long enough.
    pub(super) fn forget_results(&mut self, now: Time) {
        let (kept, most) = (self.desk.config.results_kept, self.desk.config.results_max.max(1));
        let leaves =
            |line: &Line, since: Time| line.ended.len() > most as usize || since + kept <= now;
        while let Some(oldest) = self.window.pop(leaves) {
            if let EndedHow::Transaction(_) = oldest.how {
                self.decided.remove(&oldest.id);
            }
            if let Some(key) = &oldest.request_key {
                self.outputs.remove(key);
            }
            if let Some(key) = oldest.request_key
                && let Entry::Occupied(asked) = self.requests.entry(key)
                && matches!(asked.get().known, Known::Ended { at, .. } if at == oldest.at)
            {
                asked.remove();
            }
        }
    }

    /// Takes over what a replay has found in doubt, and under which later epochs there are ids.
    pub(super) fn take_doubts(&mut self, doubtful: Vec<DoubtfulTrail>, epochs: Vec<Epoch>) {
        self.doubtful = doubtful;
        self.foreign_epochs = epochs;
    }
}

/// A part with entries from this one on, as many as it holds, and the number of the next; nothing if there are
/// none.
fn ended_part(line: &Line, from: u64, room: usize) -> (u64, Vec<u8>) {
    let (mut next, ended) = line.from(from);
    let mut entries = Vec::new();
    // The last part holds other things too.
    let most = (room - 64).min(usize::from(u16::MAX) - Ended::BYTES_MAX);
    for ended in ended {
        if entries.len() + Ended::BYTES_MAX > most {
            break;
        }
        ended.encode(&mut entries);
        next += 1;
    }
    let mut part = Vec::new();
    if !entries.is_empty() {
        snapshot::put(tag::ENDED, &entries, &mut part);
    }
    (next, part)
}
