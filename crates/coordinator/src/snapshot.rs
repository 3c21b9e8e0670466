//! What a coordinator's or a participant's snapshot says: how it is written, and how it is read.
//!
//! An operation is carried forward by its own records: a part holds them as they stood in the log, each
//! with its number. So whoever replays them has the very state that the log's older segments would have
//! given, whatever a record may say, and an operation's evidence keeps its number. What has ended is an
//! entry of a few bytes.
//!
//! Parts are extensions behind wal-core's own. A reader skips tags that it does not know.

use crate::codec::{self, Fact};
use crate::message::{SagaKey, StepAnswer};
use base::{CoordinatorId, Epoch, NodeName, OperationId, RequestKey, Sequence, ShardId};
use saga::{End, StepInput};
use std::sync::Arc;
use twopc::coordinator::Decision;
use twopc::heuristic::Reported;
use twopc::{Audit, Heuristic};
use wal_core::EventType;

/// The tags of a part. They are apart from those of other records.
pub mod tag {
    /// Kind u8, id u64, flags u8: whose records follow. See [`super::Piece`].
    pub const OPERATION: u8 = 65;
    /// Records, one behind the other: sequence u64, timestamp i64, event u8, length u32, payload. More
    /// than fits is cut anywhere, and goes on in the next value or part.
    pub const RECORDS: u8 = 66;
    /// What has ended: kind u8, id u64, how u8, record u64, then the request key's length u8 (0xFF: none)
    /// and the key, u8 1 and the fingerprint u128 (0: none), for each.
    pub const ENDED: u8 = 67;
    /// First record u64, last record u64, u8 1: it had turned. Of an operation in doubt of which the
    /// beginning is lost.
    pub const ORPHAN: u8 = 68;
    /// u32: up to which epoch ids are in doubt that the log does not know.
    pub const UNKNOWN_IDS: u8 = 69;
    /// u32 each: epochs under which there are ids, as far as the coordinator has not come to them.
    pub const EPOCHS: u8 = 70;
    /// A participant's data: cell u64, value i64, for each.
    pub const CELLS: u8 = 71;
    /// How branches ended: coordinator \[32\], id u64, shard \[32\], u8 (0 aborted, 1 committed, 2 it voted
    /// read-only), record u64, for each.
    pub const OUTCOMES: u8 = 72;
    /// What steps were answered: coordinator \[32\], id u64, step u32, then for the step and for its
    /// compensation u8 (0 none, 1 done, 2 refused), code u32, record u64; for each step 70 bytes.
    pub const STEPS: u8 = 73;
    /// A coordinator that was heard of: its name \[32\], highest epoch u32, then, if it has told,
    /// its finished-watermark.
    pub const COORDINATOR: u8 = 74;
    /// Branches that ended otherwise than their transactions: id u64, shard \[32\], node \[32\], u8 (1 lost,
    /// 2 aborted, 3 committed), record u64, for each.
    pub const HEURISTICS: u8 = 76;
    /// Which operator said of a branch under [`HEURISTICS`] that its participant is gone: id u64, shard \[32\], and
    /// what stands under tag 47 of the record.
    pub const GONE: u8 = 77;
}

/// An operation's own records, as a part of a snapshot carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trail {
    bytes: Vec<u8>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub sequence: Sequence,
    pub timestamp_ms: i64,
    pub event: EventType,
    pub payload: &'a [u8],
}

const FRAME_HEAD_BYTES: usize = 21;

impl Trail {
    /// Adds a record.
    pub fn push(&mut self, frame: &Frame<'_>) {
        if repeats(frame.event, frame.payload) {
            self.forget_attempt(frame.payload);
        }
        self.put(frame);
    }

    fn put(&mut self, frame: &Frame<'_>) {
        let length = u32::try_from(frame.payload.len()).expect("a record is below 4 GiB");
        let mut head = [0; FRAME_HEAD_BYTES];
        head[..8].copy_from_slice(&frame.sequence.0.to_le_bytes());
        head[8..16].copy_from_slice(&frame.timestamp_ms.to_le_bytes());
        head[16] = frame.event.0;
        head[17..].copy_from_slice(&length.to_le_bytes());
        self.bytes.reserve(FRAME_HEAD_BYTES + frame.payload.len());
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(frame.payload);
    }

    /// A compensation is tried without end, and of its failed attempts only the last one counts.
    fn forget_attempt(&mut self, payload: &[u8]) {
        let mut at = 0;
        let earlier = frames(&self.bytes).flatten().find_map(|frame| {
            let place = at..at + FRAME_HEAD_BYTES + frame.payload.len();
            at = place.end;
            let same = repeats(frame.event, frame.payload) && frame.payload[..12] == payload[..12];
            same.then_some(place)
        });
        if let Some(place) = earlier {
            self.bytes.drain(place);
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The records of steps that succeeded and brought something.
    pub fn outputs(&self) -> Trail {
        let mut outputs = Trail::default();
        for frame in frames(&self.bytes).flatten() {
            // Behind the saga and the step.
            if frame.event == EventType::SAGA_STEP_SUCCEEDED && frame.payload.len() > 12 {
                outputs.put(&frame);
            }
        }
        outputs
    }

    /// What these records say that steps have brought, ascending by step.
    pub fn brought(&self) -> Vec<StepInput> {
        let read = |frame: Frame<'_>| match codec::decode(frame.event, frame.payload) {
            Ok(Fact::Saga { event: saga::Event::StepSucceeded { step, output }, .. }) => {
                Some(StepInput { step, output: output? })
            }
            _ => None,
        };
        let mut brought: Vec<_> = frames(&self.bytes).flatten().filter_map(read).collect();
        brought.sort_unstable_by_key(|brought| brought.step);
        brought
    }
}

/// The memory of trails that are done with: operations end and begin all the time.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpareTrails(Vec<Vec<u8>>);

impl SpareTrails {
    /// How many are kept, and how long they may be.
    const MOST: usize = 64;
    const BYTES_MAX: usize = 8 << 10;

    /// An empty trail, with room for so many records with payloads of so many bytes in all.
    pub fn begin(&mut self, records: usize, payload_bytes: usize) -> Trail {
        let mut bytes = self.0.pop().unwrap_or_default();
        bytes.reserve(records * FRAME_HEAD_BYTES + payload_bytes);
        Trail { bytes }
    }

    /// The trail's operation has ended.
    pub fn keep(&mut self, Trail { mut bytes }: Trail) {
        if self.0.len() < Self::MOST && bytes.capacity() <= Self::BYTES_MAX {
            bytes.clear();
            self.0.push(bytes);
        }
    }
}

/// A failed attempt to undo a step that says nothing else.
fn repeats(event: EventType, payload: &[u8]) -> bool {
    event == EventType::SAGA_COMPENSATION_FAILED && payload.len() == 16
}

/// The records in these bytes; an error ends them.
pub(crate) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, Cut>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let frame = take_frame(&mut bytes).ok_or(Cut);
        if frame.is_err() {
            bytes = &[];
        }
        Some(frame)
    })
}

fn take_frame<'a>(bytes: &mut &'a [u8]) -> Option<Frame<'a>> {
    let sequence = Sequence(u64::from_le_bytes(take(bytes)?));
    let timestamp_ms = i64::from_le_bytes(take(bytes)?);
    let [event] = take(bytes)?;
    let length = u32::from_le_bytes(take(bytes)?) as usize;
    let (payload, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Frame { sequence, timestamp_ms, event: EventType(event), payload })
}

/// The next bytes.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Something in a part is shorter than it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

/// What kind of operation records belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Saga,
    Transaction,
    /// A participant's promise.
    Promise,
    /// A step that gave or was given something, at its participant.
    Step,
    /// A branch whose outcome an operator has forced, at its participant.
    Forced,
    /// What the steps of a saga that has ended have brought.
    Outputs,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Saga => 1,
            Kind::Transaction => 2,
            Kind::Promise => 3,
            Kind::Step => 4,
            Kind::Forced => 5,
            Kind::Outputs => 6,
        }
    }

    fn of(code: u8) -> Option<Kind> {
        [Kind::Saga, Kind::Transaction, Kind::Promise, Kind::Step, Kind::Forced, Kind::Outputs]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// Whose records a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub kind: Kind,
    pub id: OperationId,
    /// More of them follow in the next part.
    pub more: bool,
    /// The operation is in doubt.
    pub in_doubt: bool,
}

const PIECE_BYTES: usize = 10;
/// What a tag and a length take.
const TAG_HEAD_BYTES: usize = 3;

impl Piece {
    pub fn decode(value: &[u8]) -> Option<Piece> {
        let mut bytes = value;
        let [kind] = take(&mut bytes)?;
        let id = OperationId(u64::from_le_bytes(take(&mut bytes)?));
        let [flags] = take(&mut bytes)?;
        let kind = Kind::of(kind)?;
        Some(Piece { kind, id, more: flags & 1 == 1, in_doubt: flags & 2 == 2 })
    }

    fn encode(self, out: &mut Vec<u8>) {
        let flags = u8::from(self.more) | u8::from(self.in_doubt) << 1;
        let mut value = [0; PIECE_BYTES];
        value[0] = self.kind.code();
        value[1..9].copy_from_slice(&self.id.0.to_le_bytes());
        value[9] = flags;
        put(tag::OPERATION, &value, out);
    }
}

/// Appends an extension; a value longer than one can be stands in several.
pub(crate) fn put(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    for value in value.chunks(usize::from(u16::MAX)) {
        wal_core::encode_extension(tag, value, out);
    }
}

/// Cuts an operation's records into as many pieces as it takes if each may have so many bytes.
pub(crate) fn pieces(
    kind: Kind,
    id: OperationId,
    in_doubt: bool,
    records: &[u8],
    room: usize,
) -> Vec<Vec<u8>> {
    // Several heads, where a piece is longer than a value.
    let heads = TAG_HEAD_BYTES * (2 + room / usize::from(u16::MAX));
    let size = room - heads - PIECE_BYTES;
    let count = records.len().div_ceil(size).max(1);
    (0..count)
        .map(|number| {
            let more = number + 1 < count;
            let mut out = Vec::new();
            Piece { kind, id, more, in_doubt }.encode(&mut out);
            let from = number * size;
            put(tag::RECORDS, &records[from..records.len().min(from + size)], &mut out);
            out
        })
        .collect()
}

/// The least that a payload must be allowed, for parts to be of use.
pub(crate) const ROOM_MIN: usize = 192;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedHow {
    Saga(End),
    Transaction(Decision),
}

/// An operation that has ended: what a late question about it is answered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub id: OperationId,
    pub how: EndedHow,
    pub at: Sequence,
    pub request_key: Option<RequestKey>,
    /// By which the same request is known again.
    pub fingerprint: Option<u128>,
}

impl Ended {
    /// The most that one takes in a part.
    pub const BYTES_MAX: usize = 36 + RequestKey::BYTES_MAX as usize;

    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, how) = match self.how {
            EndedHow::Saga(End::Completed) => (Kind::Saga, 0),
            EndedHow::Saga(End::Compensated) => (Kind::Saga, 1),
            EndedHow::Saga(End::Aborted) => (Kind::Saga, 2),
            EndedHow::Transaction(Decision::Commit) => (Kind::Transaction, 0),
            EndedHow::Transaction(Decision::Abort) => (Kind::Transaction, 1),
            EndedHow::Transaction(Decision::ReadOnly) => (Kind::Transaction, 2),
        };
        out.push(kind.code());
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.push(how);
        out.extend_from_slice(&self.at.0.to_le_bytes());
        match &self.request_key {
            None => out.push(0xFF),
            Some(key) => {
                out.push(u8::try_from(key.as_bytes().len()).expect("a key has at most 64 bytes"));
                out.extend_from_slice(key.as_bytes());
            }
        }
        match self.fingerprint {
            None => out.push(0),
            Some(fingerprint) => {
                out.push(1);
                out.extend_from_slice(&fingerprint.to_le_bytes());
            }
        }
    }

    pub fn decode(bytes: &mut &[u8]) -> Option<Ended> {
        let [kind] = take(bytes)?;
        let id = OperationId(u64::from_le_bytes(take(bytes)?));
        let [how] = take(bytes)?;
        let at = Sequence(u64::from_le_bytes(take(bytes)?));
        let [length] = take(bytes)?;
        let request_key = match length {
            0xFF => None,
            length => {
                let (key, rest) = bytes.split_at_checked(usize::from(length))?;
                *bytes = rest;
                Some(RequestKey::new(key).ok()?)
            }
        };
        let fingerprint = match take(bytes)? {
            [0] => None,
            [1] => Some(u128::from_le_bytes(take(bytes)?)),
            _ => return None,
        };
        let how = match (Kind::of(kind)?, how) {
            (Kind::Saga, 0) => EndedHow::Saga(End::Completed),
            (Kind::Saga, 1) => EndedHow::Saga(End::Compensated),
            (Kind::Saga, 2) => EndedHow::Saga(End::Aborted),
            (Kind::Transaction, 0) => EndedHow::Transaction(Decision::Commit),
            (Kind::Transaction, 1) => EndedHow::Transaction(Decision::Abort),
            (Kind::Transaction, 2) => EndedHow::Transaction(Decision::ReadOnly),
            _ => return None,
        };
        Some(Ended { id, how, at, request_key, fingerprint })
    }
}

/// Whose records a part of a snapshot carries, if it carries an operation's of a coordinator: whether that
/// is a saga, and its id. The operation's evidence is in there if no record of its own is in the log.
#[must_use]
pub fn carried(event: EventType, payload: &[u8]) -> Option<(bool, OperationId)> {
    wal_core::SnapshotPart::of(event, payload)?;
    let mut contents = wal_core::SnapshotPart::contents(payload);
    let [tag::OPERATION, low, high] = take(&mut contents)? else { return None };
    let value = contents.get(..usize::from(u16::from_le_bytes([low, high])))?;
    let piece = Piece::decode(value)?;
    match piece.kind {
        Kind::Saga => Some((true, piece.id)),
        Kind::Transaction => Some((false, piece.id)),
        Kind::Promise | Kind::Step | Kind::Forced | Kind::Outputs => None,
    }
}

/// An operation that is in doubt, as a snapshot has to carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DoubtfulTrail {
    pub kind: Kind,
    pub id: OperationId,
    pub trail: Trail,
    /// If its beginning is lost: its first and its last record that are known, and whether it had turned.
    pub orphan: Option<(Sequence, Sequence, bool)>,
}

impl DoubtfulTrail {
    pub fn parts(&self, room: usize) -> Vec<Vec<u8>> {
        let mut parts = pieces(self.kind, self.id, true, self.trail.bytes(), room);
        if let (Some((first, last, turned)), Some(part)) = (self.orphan, parts.last_mut()) {
            let mut value = [0; 17];
            value[..8].copy_from_slice(&first.0.to_le_bytes());
            value[8..16].copy_from_slice(&last.0.to_le_bytes());
            value[16] = u8::from(turned);
            put(tag::ORPHAN, &value, part);
        }
        parts
    }
}

/// Reads what [`DoubtfulTrail::parts`] says of a lost beginning.
pub(crate) fn decode_orphan(value: &[u8]) -> Option<(Sequence, Sequence, bool)> {
    let mut bytes = value;
    let first = Sequence(u64::from_le_bytes(take(&mut bytes)?));
    let last = Sequence(u64::from_le_bytes(take(&mut bytes)?));
    let [turned] = take(&mut bytes)?;
    Some((first, last, turned == 1))
}

/// What a node has answered to a step's call, and to its compensation's, each with the record that says
/// it: what is left of them in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The saga.
    pub key: SagaKey,
    /// The step.
    pub step: u32,
    /// To the call, and to the compensation.
    pub answers: [Option<(StepAnswer, Sequence)>; 2],
}

impl Answered {
    /// How long one is in a part.
    pub const BYTES: usize = 70;

    /// Writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.coordinator.0);
        out.extend_from_slice(&self.key.id.0.to_le_bytes());
        out.extend_from_slice(&self.step.to_le_bytes());
        for answer in self.answers {
            let (kind, code, at) = match answer {
                None | Some((StepAnswer::NotNow, _)) => (0, 0, Sequence::NONE),
                Some((StepAnswer::Done, at)) => (1, 0, at),
                Some((StepAnswer::Refused { code }, at)) => (2, code, at),
            };
            out.push(kind);
            out.extend_from_slice(&code.to_le_bytes());
            out.extend_from_slice(&at.0.to_le_bytes());
        }
    }

    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Answered> {
        let coordinator = CoordinatorId(take(bytes)?);
        let id = OperationId(u64::from_le_bytes(take(bytes)?));
        let step = u32::from_le_bytes(take(bytes)?);
        let mut answers = [None; 2];
        for answer in &mut answers {
            let [kind] = take(bytes)?;
            let code = u32::from_le_bytes(take(bytes)?);
            let at = Sequence(u64::from_le_bytes(take(bytes)?));
            *answer = match kind {
                0 => None,
                1 => Some((StepAnswer::Done, at)),
                2 => Some((StepAnswer::Refused { code }, at)),
                _ => return None,
            };
        }
        Some(Answered { key: SagaKey { coordinator, id }, step, answers })
    }
}

/// How long a branch that ended otherwise is in a part.
pub(crate) const REPORTED_BYTES: usize = 81;

/// Writes one.
pub(crate) fn encode_reported(
    id: OperationId,
    shard: ShardId,
    reported: &Reported,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&shard.0);
    out.extend_from_slice(&reported.node.0);
    out.push(reported.heuristic.code());
    out.extend_from_slice(&reported.at.0.to_le_bytes());
}

/// Reads it.
pub(crate) fn decode_reported(bytes: &mut &[u8]) -> Option<(OperationId, ShardId, Reported)> {
    let id = OperationId(u64::from_le_bytes(take(bytes)?));
    let (shard, node) = (ShardId(take(bytes)?), NodeName(take(bytes)?));
    let [code] = take(bytes)?;
    let heuristic = Heuristic::from_code(code)?;
    let at = Sequence(u64::from_le_bytes(take(bytes)?));
    Some((id, shard, Reported { node, heuristic, at, gone: None }))
}

/// Writes who said that a participant is gone.
pub(crate) fn encode_gone(id: OperationId, shard: ShardId, audit: &Audit) -> Vec<u8> {
    [&id.0.to_le_bytes()[..], &shard.0, &codec::audit_value(audit)].concat()
}

/// Reads it.
pub(crate) fn decode_gone(mut bytes: &[u8]) -> Option<(OperationId, ShardId, Arc<Audit>)> {
    let id = OperationId(u64::from_le_bytes(take(&mut bytes)?));
    let shard = ShardId(take(&mut bytes)?);
    Some((id, shard, Arc::new(codec::decode_audit(bytes)?)))
}

/// Writes epochs, four bytes each.
pub(crate) fn encode_epochs(epochs: impl Iterator<Item = Epoch>) -> Vec<u8> {
    epochs.flat_map(|epoch| epoch.value().to_le_bytes()).collect()
}

/// Reads them; what is out of range is left out.
pub(crate) fn decode_epochs(value: &[u8]) -> impl Iterator<Item = Epoch> + '_ {
    let all = value.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    all.filter(|epoch| *epoch <= Epoch::MAX.value()).map(Epoch::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u64, event: EventType, payload: &[u8]) -> Frame<'_> {
        Frame { sequence: Sequence(sequence), timestamp_ms: -1, event, payload }
    }

    #[test]
    fn a_trail_begins_empty_in_the_memory_of_one_that_is_done_with() {
        let mut spare = SpareTrails::default();
        let mut trail = spare.begin(2, 1_000);
        trail.push(&frame(1, EventType::SAGA_CREATED, &[7; 900]));
        let capacity = trail.bytes.capacity();
        spare.keep(trail);
        let again = spare.begin(0, 0);
        assert_eq!((again.bytes(), again.bytes.capacity()), (&[][..], capacity));
        assert_eq!(spare.begin(0, 0).bytes.capacity(), 0, "it is used once");
        let long = Trail { bytes: Vec::with_capacity(SpareTrails::BYTES_MAX + 1) };
        spare.keep(long);
        (0..SpareTrails::MOST + 9).for_each(|_| spare.keep(Trail { bytes: vec![0; 9] }));
        assert_eq!(spare.0.len(), SpareTrails::MOST);
        assert!(spare.0.iter().all(|bytes| bytes.capacity() < 100), "a long one is not kept");
    }

    #[test]
    fn records_come_back_from_any_number_of_pieces() {
        let mut trail = Trail::default();
        let long = vec![7; 1_000];
        for (sequence, payload) in [(1, &b""[..]), (5, b"some"), (6, &long), (9, b"x")] {
            trail.push(&frame(sequence, EventType::SAGA_CREATED, payload));
        }
        for room in [ROOM_MIN, 500, 1_069, 100_000] {
            let pieces = pieces(Kind::Saga, OperationId(3), false, trail.bytes(), room);
            let mut bytes = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                assert!(piece.len() <= room, "{} of {room}", piece.len());
                let mut rest = &piece[..];
                while let [tag, low, high, behind @ ..] = rest {
                    let len = usize::from(u16::from_le_bytes([*low, *high]));
                    let (value, behind) = behind.split_at(len);
                    match *tag {
                        tag::OPERATION => {
                            let piece = Piece::decode(value).unwrap();
                            assert_eq!(piece.more, at + 1 < pieces.len());
                            assert_eq!((piece.kind, piece.id), (Kind::Saga, OperationId(3)));
                        }
                        tag::RECORDS => bytes.extend_from_slice(value),
                        _ => panic!("another tag"),
                    }
                    rest = behind;
                }
            }
            assert_eq!(bytes, trail.bytes());
        }
        let all: Vec<u64> = frames(trail.bytes()).map(|frame| frame.unwrap().sequence.0).collect();
        assert_eq!(all, [1, 5, 6, 9]);
        let cut = &trail.bytes()[..trail.bytes().len() - 1];
        assert_eq!(frames(cut).last(), Some(Err(Cut)));
    }

    #[test]
    fn of_failed_attempts_the_last_one_is_kept() {
        let mut trail = Trail::default();
        let failed = |step: u8, attempt: u8| {
            let mut payload = [0; 16];
            (payload[8], payload[12]) = (step, attempt);
            payload
        };
        trail.push(&frame(1, EventType::SAGA_CREATED, b"created"));
        for (sequence, payload) in [(2, failed(1, 1)), (3, failed(2, 1)), (4, failed(1, 2))] {
            trail.push(&frame(sequence, EventType::SAGA_COMPENSATION_FAILED, &payload));
        }
        let mut parked = failed(1, 3).to_vec();
        parked.push(1);
        trail.push(&frame(5, EventType::SAGA_COMPENSATION_FAILED, &parked));
        trail.push(&frame(6, EventType::SAGA_COMPENSATION_FAILED, &failed(1, 4)));
        let all: Vec<u64> = frames(trail.bytes()).map(|frame| frame.unwrap().sequence.0).collect();
        assert_eq!(all, [1, 3, 5, 6], "one that says more than that stays");
    }

    #[test]
    fn what_has_ended_reads_as_written() {
        let mut bytes = Vec::new();
        let mut all = Vec::new();
        for (n, how) in [
            EndedHow::Saga(End::Completed),
            EndedHow::Saga(End::Compensated),
            EndedHow::Saga(End::Aborted),
            EndedHow::Transaction(Decision::Commit),
            EndedHow::Transaction(Decision::Abort),
            EndedHow::Transaction(Decision::ReadOnly),
        ]
        .into_iter()
        .enumerate()
        {
            let key = vec![n as u8; n * 12];
            let request_key = if n == 1 { None } else { RequestKey::new(&key).ok() };
            let fingerprint = (n % 2 == 0).then_some(u128::MAX - 7);
            let ended =
                Ended { id: OperationId(n as u64), how, at: Sequence(9), request_key, fingerprint };
            let before = bytes.len();
            ended.encode(&mut bytes);
            assert!(bytes.len() - before <= Ended::BYTES_MAX);
            all.push(ended);
        }
        let mut rest = &bytes[..];
        for ended in all {
            assert_eq!(Ended::decode(&mut rest), Some(ended));
        }
        assert!(rest.is_empty());
        assert_eq!(Ended::decode(&mut &bytes[..bytes.len() - 1][40..]), None);
    }
}
