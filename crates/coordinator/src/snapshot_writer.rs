use crate::gated::GatedLog;
use crate::output::Output;
use crate::snapshot::{self, Answered, Frame, Kind, Trail, tag};
use base::{CoordinatorId, Epoch, OperationId, Sequence, Time};
use twopc::Watermark;
use twopc::participant::{Ending, PromiseKey};
use wal_core::{AppendError, EventType, Log, RECORD_HEADER_BYTES, SnapshotPart};

/// Makes the next parts of a participant's snapshot: what they say is one of the kinds below. They are
/// appended together or not at all.
#[derive(Debug)]
pub struct SnapshotWriter {
    room: usize,
    parts: Vec<Vec<u8>>,
}

const OUTCOME_BYTES: usize = 81;
const CELL_BYTES: usize = 16;

impl SnapshotWriter {
    /// How many bytes a part of a snapshot of this log may hold; `None` if its payloads are too short for
    /// snapshots.
    #[must_use]
    pub fn room(log: &Log) -> Option<usize> {
        let room = log.config().max_payload.checked_sub(SnapshotPart::HEAD_BYTES)? as usize;
        // The longest thing that is never cut.
        (room >= snapshot::ROOM_MIN + crate::codec::FINISHED_BYTES_MAX).then_some(room)
    }

    /// The next part of this log's snapshot; `None` as of [`room`](Self::room).
    #[must_use]
    pub fn new(log: &Log) -> Option<SnapshotWriter> {
        Some(SnapshotWriter { room: Self::room(log)?, parts: Vec::new() })
    }

    /// A promise without an outcome, by its record.
    pub fn promise(
        &mut self,
        id: OperationId,
        sequence: Sequence,
        timestamp_ms: i64,
        encode: impl FnOnce(&mut Vec<u8>) -> EventType,
    ) {
        let (mut payload, mut trail) = (Vec::new(), Trail::default());
        let event = encode(&mut payload);
        trail.push(&Frame { sequence, timestamp_ms, event, payload: &payload });
        self.parts = snapshot::pieces(Kind::Promise, id, false, trail.bytes(), self.room);
    }

    /// A branch whose outcome an operator has forced: the events that say it, each with its record.
    pub fn forced(
        &mut self,
        id: OperationId,
        events: impl Iterator<Item = (Sequence, twopc::participant::Event)>,
    ) {
        let (mut payload, mut trail) = (Vec::new(), Trail::default());
        for (sequence, event) in events {
            payload.clear();
            let event = crate::codec::encode_participant(&event, &mut payload);
            trail.push(&Frame { sequence, timestamp_ms: i64::MIN, event, payload: &payload });
        }
        self.parts = snapshot::pieces(Kind::Forced, id, false, trail.bytes(), self.room);
    }

    /// What a step gave or was given, as the record of its outcome says it. Whatever that record did to
    /// the data is in the cells: it says of itself that it changed nothing.
    pub fn step(&mut self, sequence: Sequence, outcome: &crate::codec::StepOutcome) {
        assert!(!outcome.changed, "a snapshot says what the data are, not what is done to them");
        let (mut payload, mut trail) = (Vec::new(), Trail::default());
        let event = crate::codec::encode_step(outcome, &mut payload);
        trail.push(&Frame { sequence, timestamp_ms: i64::MIN, event, payload: &payload });
        let id = outcome.key.id;
        self.parts = snapshot::pieces(Kind::Step, id, false, trail.bytes(), self.room);
    }

    /// How many cells fit.
    #[must_use]
    pub fn cells_fit(&self) -> usize {
        self.fit(CELL_BYTES)
    }

    /// What cells hold.
    pub fn cells(&mut self, cells: impl Iterator<Item = (u64, i64)>) {
        let mut value = Vec::new();
        for (cell, held) in cells {
            value.extend_from_slice(&cell.to_le_bytes());
            value.extend_from_slice(&held.to_le_bytes());
        }
        self.put(tag::CELLS, &value);
    }

    /// How many outcomes fit.
    #[must_use]
    pub fn outcomes_fit(&self) -> usize {
        self.fit(OUTCOME_BYTES)
    }

    /// How branches ended, and by which record.
    pub fn outcomes(&mut self, outcomes: impl Iterator<Item = (PromiseKey, Sequence, Ending)>) {
        let mut value = Vec::new();
        for (key, at, how) in outcomes {
            value.extend_from_slice(&key.tx.coordinator.0);
            value.extend_from_slice(&key.tx.id.0.to_le_bytes());
            value.extend_from_slice(&key.shard.0);
            value.push(match how {
                Ending::Aborted => 0,
                Ending::Committed => 1,
                Ending::ReadOnly => 2,
            });
            value.extend_from_slice(&at.0.to_le_bytes());
        }
        self.put(tag::OUTCOMES, &value);
    }

    /// How many steps fit.
    #[must_use]
    pub fn steps_fit(&self) -> usize {
        self.fit(Answered::BYTES)
    }

    /// What steps were answered.
    pub fn steps<'a>(&mut self, steps: impl Iterator<Item = &'a Answered>) {
        let mut value = Vec::new();
        steps.for_each(|step| step.encode(&mut value));
        self.put(tag::STEPS, &value);
    }

    /// What is known of a coordinator.
    pub fn coordinator(
        &mut self,
        name: CoordinatorId,
        epoch: Epoch,
        watermark: Option<&Watermark>,
    ) {
        let mut value = name.0.to_vec();
        value.extend_from_slice(&epoch.value().to_le_bytes());
        value.extend(watermark.map(crate::codec::encode_watermark).unwrap_or_default());
        self.put(tag::COORDINATOR, &value);
    }

    /// Up to which epoch ids are in doubt that the log does not know.
    pub fn unknown_ids(&mut self, up_to: Epoch) {
        self.put(tag::UNKNOWN_IDS, &up_to.value().to_le_bytes());
    }

    /// Appends what was made, as the snapshot's last part if `last`. Says how many bytes that was.
    ///
    /// # Errors
    /// What the log says: nothing was appended.
    pub fn append(
        self,
        log: &mut GatedLog,
        now: Time,
        counts: (u64, u64),
        last: bool,
        out: &mut Vec<Output>,
    ) -> Result<usize, AppendError> {
        let mut parts = self.parts;
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let bytes: usize = parts.iter().map(Vec::len).sum();
        let heads = u64::from(RECORD_HEADER_BYTES + SnapshotPart::HEAD_BYTES) * parts.len() as u64;
        if bytes as u64 + heads > log.log().room(parts.len() as u64) {
            return Err(AppendError::Full { max: log.log().config().buffered_bytes_max });
        }
        let count = parts.len();
        for (at, part) in parts.iter().enumerate() {
            log.append_part(now, counts, last && at + 1 == count, part, out)?;
        }
        Ok(bytes)
    }

    fn fit(&self, bytes: usize) -> usize {
        self.room.min(usize::from(u16::MAX)).saturating_sub(16) / bytes
    }

    fn put(&mut self, tag: u8, value: &[u8]) {
        if self.parts.is_empty() {
            self.parts.push(Vec::new());
        }
        if let Some(part) = self.parts.last_mut() {
            snapshot::put(tag, value, part);
        }
    }
}
