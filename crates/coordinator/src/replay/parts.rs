//! The snapshot that a log begins with.
//!
//! Any other snapshot repeats what the log says itself, and is passed over. Of this one each part counts
//! where it stands: what its operation wrote before is in it, what it wrote since follows.

use super::{EndedOperation, LocalEffect, Orphan, Replay, Replayed};
use crate::codec::{self, Fact};
use crate::snapshot::{self, Ended, EndedHow, Frame, Kind, Piece, Trail, tag, take};
use base::{CoordinatorId, Epoch, OperationId, Sequence, ShardId};
use saga::Saga;
use twopc::participant::{Ending, PromiseKey};
use twopc::{IllegalTransition, Transaction, TxKey};
use wal_core::{EventType, Record, SnapshotPart};

/// A snapshot that a log begins with, as far as it was read. What is older is known from it alone, so that
/// a record of an operation that it has not come to yet says nothing new.
#[derive(Clone, Debug, Default)]
pub(super) struct Base {
    /// The next part's number.
    next: u32,
    /// Whose records the last part has begun and not finished, and those so far.
    unfinished: Option<(Piece, Vec<u8>)>,
}

impl Replay {
    /// A checkpoint record that is a part of a snapshot. `first`: no record came before.
    pub(super) fn part(&mut self, record: &Record<'_>, part: SnapshotPart, first: bool) {
        if first && part.number == 0 {
            self.base = Some(Base::default());
        }
        let Some(mut base) = self.base.take() else { return };
        if part.number != base.next {
            // It will not be whole any more.
            self.damaged = true;
            self.hide_records();
            return;
        }
        base.next += 1;
        let read = self.contents(record, &mut base);
        if read.is_none() {
            let what = format!("part {} of a snapshot cannot be read to its end", part.number);
            self.anomaly(record.sequence, what);
            self.damaged = true;
            self.hide_records();
        }
        if !part.last {
            self.base = Some(base);
        }
    }

    /// What a part says; `None` if it says less than it promises.
    fn contents(&mut self, record: &Record<'_>, base: &mut Base) -> Option<()> {
        let mut rest = SnapshotPart::contents(record.payload);
        let mut piece = None;
        let mut orphan = None;
        while !rest.is_empty() {
            let [tag, low, high] = take(&mut rest)?;
            let length = usize::from(u16::from_le_bytes([low, high]));
            let (mut value, behind) = rest.split_at_checked(length)?;
            rest = behind;
            match tag {
                tag::OPERATION => {
                    let read = Piece::decode(value)?;
                    piece = Some(read);
                    match &base.unfinished {
                        Some((begun, _)) if (begun.kind, begun.id) == (read.kind, read.id) => {}
                        Some(_) => return None,
                        None => base.unfinished = Some((read, Vec::new())),
                    }
                }
                tag::RECORDS => base.unfinished.as_mut()?.1.extend_from_slice(value),
                tag::ORPHAN => orphan = Some(snapshot::decode_orphan(value)?),
                tag::ENDED => {
                    while !value.is_empty() {
                        let ended = Ended::decode(&mut value)?;
                        self.ended(ended);
                    }
                }
                tag::UNKNOWN_IDS => {
                    let up_to = snapshot::decode_epochs(value).next()?;
                    self.behind_a_hole = true;
                    let said = self.unknown_ids_up_to.unwrap_or(Epoch::NONE);
                    self.unknown_ids_up_to = Some(said.max(up_to));
                }
                tag::EPOCHS => self.epochs_of_ids.extend(snapshot::decode_epochs(value)),
                tag::CELLS => {
                    let (cells, cut) = value.as_chunks::<16>();
                    cut.is_empty().then_some(())?;
                    let cells = cells.iter().map(|bytes| {
                        let mut bytes = &bytes[..];
                        let cell = take(&mut bytes).map_or(0, u64::from_le_bytes);
                        (cell, take(&mut bytes).map_or(0, i64::from_le_bytes))
                    });
                    let cells = LocalEffect::Cells(cells.collect());
                    self.effects.push((record.sequence, cells));
                }
                tag::OUTCOMES => {
                    while !value.is_empty() {
                        let coordinator = CoordinatorId(take(&mut value)?);
                        let id = OperationId(u64::from_le_bytes(take(&mut value)?));
                        let shard = ShardId(take(&mut value)?);
                        let how = match take(&mut value)? {
                            [0] => Ending::Aborted,
                            [1] => Ending::Committed,
                            [2] => Ending::ReadOnly,
                            _ => return None,
                        };
                        let at = Sequence(u64::from_le_bytes(take(&mut value)?));
                        let key = PromiseKey { tx: TxKey { coordinator, id }, shard };
                        self.promised_ms.remove(&key);
                        self.participant.restore_outcome(&key, at, how);
                    }
                }
                tag::STEPS => {
                    while !value.is_empty() {
                        let answered = snapshot::Answered::decode(&mut value)?;
                        let answered = LocalEffect::Answered(answered);
                        self.effects.push((record.sequence, answered));
                    }
                }
                tag::HEURISTICS => {
                    while !value.is_empty() {
                        let (id, shard, reported) = snapshot::decode_reported(&mut value)?;
                        self.epochs_of_ids.insert(id.epoch());
                        self.heuristics.restore(id, shard, reported);
                    }
                }
                tag::GONE => {
                    let (id, shard, audit) = snapshot::decode_gone(value)?;
                    self.heuristics.restore_gone(id, shard, audit);
                }
                tag::COORDINATOR => {
                    let coordinator = CoordinatorId(take(&mut value)?);
                    let epoch = u32::from_le_bytes(take(&mut value)?);
                    (epoch <= Epoch::MAX.value()).then_some(())?;
                    let watermark = match value {
                        [] => None,
                        bytes => Some(codec::decode_watermark(bytes)?),
                    };
                    let (epoch, at) = (Epoch::new(epoch), record.sequence);
                    self.participant.restore_coordinator(coordinator, epoch, watermark, at);
                }
                tag if codec::tag::MUST_UNDERSTAND.contains(&tag) => {
                    let unknown = codec::CodecError::NotUnderstood(record.event, tag);
                    self.note_unknown(record.sequence, unknown);
                }
                _ => {}
            }
        }
        if let Some(piece) = piece
            && !piece.more
        {
            let (_, records) = base.unfinished.take()?;
            self.carried(piece, &records, orphan)?;
        }
        Some(())
    }

    fn ended(&mut self, ended: Ended) {
        let Ended { id, how, at, request_key, fingerprint } = ended;
        self.epochs_of_ids.insert(id.epoch());
        match how {
            EndedHow::Saga(how) => {
                let ended = EndedOperation { id, how, at, request_key, fingerprint };
                self.ended_sagas.insert(id, ended);
            }
            EndedHow::Transaction(how) => {
                let ended = EndedOperation { id, how, at, request_key, fingerprint };
                self.ended_transactions.insert(id, ended);
            }
        }
    }

    /// An operation's own records, up to here: whatever was known of it before is in them.
    fn carried(
        &mut self,
        piece: Piece,
        records: &[u8],
        orphan: Option<(Sequence, Sequence, bool)>,
    ) -> Option<()> {
        let Piece { kind, id, in_doubt, .. } = piece;
        self.behind_a_hole |= in_doubt;
        if let Some((first, last, turned)) = orphan {
            let orphans = match kind {
                Kind::Saga => &mut self.orphan_sagas,
                Kind::Transaction => &mut self.orphan_transactions,
                Kind::Promise | Kind::Step | Kind::Forced | Kind::Outputs => return None,
            };
            self.epochs_of_ids.insert(id.epoch());
            orphans.insert(id, Orphan { first, last, turned });
            return Some(());
        }
        match kind {
            Kind::Saga => self.carried_saga(id, in_doubt, records),
            Kind::Transaction => self.carried_transaction(id, in_doubt, records),
            Kind::Promise => self.carried_promise(records),
            Kind::Step => self.carried_step(records),
            Kind::Forced => self.carried_forced(records),
            Kind::Outputs => self.carried_outputs(id, records),
        }
    }

    /// One of an operation's own records.
    fn fact(&mut self, frame: &Frame<'_>) -> Option<Fact> {
        let read = codec::decode(frame.event, frame.payload);
        read.inspect_err(|error| self.note_unknown(frame.sequence, *error)).ok()
    }

    fn carried_saga(&mut self, id: OperationId, in_doubt: bool, records: &[u8]) -> Option<()> {
        self.epochs_of_ids.insert(id.epoch());
        let mut replayed: Option<Replayed<Saga>> = None;
        for frame in snapshot::frames(records) {
            let frame = frame.ok()?;
            let Fact::Saga { event, .. } = self.fact(&frame)? else { return None };
            match &mut replayed {
                None => {
                    let machine = Saga::created(id, frame.sequence, &event).ok()?;
                    let created_ms = told(frame.timestamp_ms);
                    let mut trail = Trail::default();
                    trail.push(&frame);
                    replayed = Some(Replayed { machine, created_ms, in_doubt, trail });
                }
                Some(Replayed { machine, trail, .. }) => {
                    machine.apply(frame.sequence, &event).ok()?;
                    trail.push(&frame);
                }
            }
        }
        self.sagas.insert(id, replayed?);
        Some(())
    }

    fn carried_transaction(
        &mut self,
        id: OperationId,
        in_doubt: bool,
        records: &[u8],
    ) -> Option<()> {
        self.epochs_of_ids.insert(id.epoch());
        let mut replayed: Option<Replayed<Transaction>> = None;
        for frame in snapshot::frames(records) {
            let frame = frame.ok()?;
            let Fact::Transaction { event, .. } = self.fact(&frame)? else { return None };
            match &mut replayed {
                None => {
                    let machine = Transaction::created(id, frame.sequence, &event).ok()?;
                    let created_ms = told(frame.timestamp_ms);
                    let mut trail = Trail::default();
                    trail.push(&frame);
                    replayed = Some(Replayed { machine, created_ms, in_doubt, trail });
                }
                Some(Replayed { machine, trail, .. }) => {
                    match machine.apply(frame.sequence, &event) {
                        // It was an anomaly when it was read first, and it stands.
                        Ok(()) | Err(IllegalTransition::UnbackedCommit) => trail.push(&frame),
                        Err(_) => return None,
                    }
                }
            }
        }
        self.transactions.insert(id, replayed?);
        Some(())
    }

    /// What a step gave or was given: its data are in the snapshot's cells.
    fn carried_step(&mut self, records: &[u8]) -> Option<()> {
        for frame in snapshot::frames(records) {
            let frame = frame.ok()?;
            let sequence = frame.sequence;
            let Fact::Step(outcome) = self.fact(&frame)? else { return None };
            (!outcome.changed).then_some(())?;
            self.effects.push((sequence, LocalEffect::Step(outcome)));
        }
        Some(())
    }

    /// What the steps of a saga that has ended have brought.
    fn carried_outputs(&mut self, id: OperationId, records: &[u8]) -> Option<()> {
        let (mut outputs, mut count) = (Trail::default(), 0);
        for frame in snapshot::frames(records) {
            let frame = frame.ok()?;
            self.fact(&frame)?;
            outputs.push(&frame);
            count += 1;
        }
        (outputs.brought().len() == count).then_some(())?;
        self.outputs.insert(id, outputs);
        Some(())
    }

    /// What has become of an outcome that was forced.
    fn carried_forced(&mut self, records: &[u8]) -> Option<()> {
        for frame in snapshot::frames(records) {
            let frame = frame.ok()?;
            let Fact::Participant(event) = self.fact(&frame)? else { return None };
            self.participant.restore_forced(frame.sequence, &event).ok()?;
        }
        Some(())
    }

    fn carried_promise(&mut self, records: &[u8]) -> Option<()> {
        for frame in snapshot::frames(records) {
            let frame = frame.ok()?;
            let (sequence, timestamp_ms) = (frame.sequence, frame.timestamp_ms);
            if frame.event != EventType::TX_PREPARED {
                return None;
            }
            let Fact::Participant(event) = self.fact(&frame)? else { return None };
            if let twopc::participant::Event::Prepared { key, .. } = &event {
                // One that was made while the snapshot is being written is known already.
                if self.participant.promise(key).is_none() {
                    self.promised_ms.insert(*key, timestamp_ms);
                    self.participant.apply(sequence, &event).ok()?;
                }
            }
        }
        Some(())
    }
}

/// A timestamp, unless it stands for none.
fn told(timestamp_ms: i64) -> Option<i64> {
    (timestamp_ms != i64::MIN).then_some(timestamp_ms)
}
