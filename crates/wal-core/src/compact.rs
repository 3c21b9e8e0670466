//! Compaction: a snapshot, and what becomes of the segments in front of it.
//!
//! A snapshot is a run of checkpoint records, its parts, each with the snapshot extension: its number
//! and whether it is the last one. What a part says is its writer's business; the log knows the numbers.
//! The first part begins a segment. Ordinary records may lie between the parts. Once the last one is
//! durable the snapshot is effective: whatever is older than its first part is not needed any more.
//!
//! Then the older segments go, the newest first, each name durably gone before the next one's: so
//! whatever a crash leaves of them, either the oldest segment is as it was before, or the gap is directly
//! in front of the snapshot. The order is also what a reader goes by: see `scan.rs`.

use base::Sequence;

use crate::payload::encode_extension;
use crate::record::{EventType, Record};
use crate::storage::{DiskOp, SegmentId};

/// The tag of the snapshot extension: u32 part, from 0; u8, 1: the last one.
pub const SNAPSHOT_TAG: u8 = 64;

/// The version of the extensions in which the tag stands.
const EXTENSION_VERSION: u8 = 1;
/// A checkpoint's two counts.
const PREFIX_BYTES: usize = 16;
const VALUE_BYTES: usize = 5;
/// Version, tag and length stand before the value.
const HEAD_BYTES: usize = PREFIX_BYTES + 1 + 3 + VALUE_BYTES;

/// A part of a snapshot, as its record says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// Its number: 0, 1, ...
    pub number: u32,
    /// Whether the snapshot is whole with it.
    pub last: bool,
}

impl SnapshotPart {
    /// So many bytes of a part's payload are not its writer's.
    pub const HEAD_BYTES: u32 = HEAD_BYTES as u32;

    /// The part that a record is; `None` for a marker, and for any other record.
    ///
    /// The snapshot extension is the first one, so that a reader finds it at one place.
    #[must_use]
    pub fn of(event: EventType, payload: &[u8]) -> Option<SnapshotPart> {
        if event != EventType::CHECKPOINT {
            return None;
        }
        let head = payload.get(PREFIX_BYTES..HEAD_BYTES)?;
        let [EXTENSION_VERSION, SNAPSHOT_TAG, 5, 0, a, b, c, d, last] = *head else { return None };
        let number = u32::from_le_bytes([a, b, c, d]);
        (last <= 1).then_some(SnapshotPart { number, last: last == 1 })
    }

    /// Writes a part's payload up to where its writer's extensions begin.
    pub fn encode(self, sagas: u64, transactions: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&sagas.to_le_bytes());
        out.extend_from_slice(&transactions.to_le_bytes());
        out.push(EXTENSION_VERSION);
        let [a, b, c, d] = self.number.to_le_bytes();
        encode_extension(SNAPSHOT_TAG, &[a, b, c, d, u8::from(self.last)], out);
    }

    /// What its writer put into it: extensions, each a tag, a length and a value.
    ///
    /// # Panics
    /// If the payload is no part's.
    #[must_use]
    pub fn contents(payload: &[u8]) -> &[u8] {
        &payload[HEAD_BYTES..]
    }
}

/// A snapshot that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    /// The segment that it begins.
    pub segment: SegmentId,
    /// Its first part.
    pub first: Sequence,
    /// Its last part.
    pub last: Sequence,
    /// Its parts' records, in bytes.
    pub bytes: u64,
    /// The bytes of the records in front of it, as [`crate::Stats::bytes`] counts them.
    pub bytes_before: u64,
}

/// A snapshot of which the last part is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begun {
    /// `None` if it does not begin a segment, or, while writing, if that is not known yet.
    segment: Option<SegmentId>,
    first: Sequence,
    next: u32,
    bytes: u64,
    bytes_before: u64,
}

impl Begun {
    fn whole(&self, last: Sequence) -> Option<Whole> {
        let Begun { segment, first, bytes, bytes_before, .. } = *self;
        Some(Whole { segment: segment?, first, last, bytes, bytes_before })
    }
}

/// The snapshots that a reader has come by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshots {
    begun: Option<Begun>,
    /// The newest one that is whole and begins a segment.
    pub whole: Option<Whole>,
    /// The segment with which the log begins, if it is not the first of all.
    pub base: Option<SegmentId>,
    /// Whether the snapshot that it begins with is whole.
    pub base_is_whole: bool,
    /// The first record of the segment being read.
    pub segment_begins: Sequence,
}

impl Snapshots {
    /// A checkpoint record was read, `bytes_before` bytes of records behind the log's beginning.
    pub fn read(&mut self, record: &Record<'_>, segment: SegmentId, bytes_before: u64) {
        let Some(part) = SnapshotPart::of(record.event, record.payload) else { return };
        if part.number == 0 {
            let begins_segment = record.sequence == self.segment_begins;
            self.begun = Some(Begun {
                segment: begins_segment.then_some(segment),
                first: record.sequence,
                next: 0,
                bytes: 0,
                bytes_before,
            });
        }
        let Some(begun) = &mut self.begun else { return };
        if part.number != begun.next {
            // Not one that this writer has written in this order: it is no snapshot.
            self.begun = None;
            return;
        }
        begun.next += 1;
        begun.bytes += record.encoded_bytes();
        if part.last {
            let whole = begun.whole(record.sequence);
            self.begun = None;
            self.base_is_whole |= whole.is_some_and(|whole| self.base == Some(whole.segment));
            self.whole = whole.or(self.whole);
        }
    }

    /// Records may be missing here: what was begun will not be whole.
    pub fn broken(&mut self) {
        self.begun = None;
    }
}

/// What a log that is open for writing knows of its own length and its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// The oldest segment that counts.
    oldest: SegmentId,
    /// Segments in front of a gap, which an earlier recycling has left; ascending.
    remainders: Vec<SegmentId>,
    /// The first record that counts, and the bytes of those before it.
    first: Sequence,
    bytes_before: u64,
    /// How large the last whole snapshot is, in bytes; 0 if there was none.
    snapshot_bytes: u64,
    begun: Option<Begun>,
    /// It is effective once its last part is durable.
    whole: Option<Whole>,
    /// The recycling in flight.
    recycling: bool,
}

impl Compaction {
    /// Of a log as it was read.
    pub fn found(
        oldest: SegmentId,
        remainders: Vec<SegmentId>,
        first: Sequence,
        snapshots: &Snapshots,
    ) -> Compaction {
        // One that the log begins with is in front of nothing.
        let whole = snapshots.whole;
        Compaction {
            oldest,
            remainders,
            first,
            bytes_before: 0,
            snapshot_bytes: whole.map_or(0, |whole| whole.bytes),
            begun: None,
            whole: whole.filter(|whole| whole.segment > oldest),
            recycling: false,
        }
    }

    /// The records and bytes that the log holds.
    pub fn held(&self, last: Sequence, bytes: u64) -> (u64, u64) {
        let records = (last.0 + 1).saturating_sub(self.first.0.max(1));
        (records, bytes - self.bytes_before)
    }

    /// Whether the log is long enough to be worth a snapshot, and no other is on its way.
    pub fn is_due(&self, last: Sequence, bytes: u64, max_records: u64) -> bool {
        let (records, bytes) = self.held(last, bytes);
        self.begun.is_none()
            && self.whole.is_none()
            && records >= max_records.max(1)
            && bytes >= 2 * self.snapshot_bytes
    }

    /// Whether a part was appended and the last one was not.
    pub fn is_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether a snapshot is whole, and what is older has not gone yet.
    pub fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// The number of the next part.
    pub fn next_part(&self) -> u32 {
        self.begun.map_or(0, |begun| begun.next)
    }

    /// A part was appended.
    pub fn appended(&mut self, last: bool, sequence: Sequence, bytes: u64, bytes_before: u64) {
        let begun = self.begun.get_or_insert(Begun {
            segment: None,
            first: sequence,
            next: 0,
            bytes: 0,
            bytes_before,
        });
        begun.next += 1;
        begun.bytes += bytes;
        if last && let Some(begun) = self.begun.take() {
            // Its segment is known once its first part is written.
            let segment = begun.segment.unwrap_or_default();
            let Begun { first, bytes, bytes_before, .. } = begun;
            self.whole = Some(Whole { segment, first, last: sequence, bytes, bytes_before });
        }
    }

    /// The batch that begins with the first part goes into this segment, and is its first.
    pub fn begins(&mut self, segment: SegmentId) {
        match (&mut self.begun, &mut self.whole) {
            (Some(begun), _) => begun.segment = Some(segment),
            (None, Some(whole)) => whole.segment = segment,
            (None, None) => {}
        }
    }

    /// The snapshot that is whole, once its last part is durable.
    fn effective(&self, durable: Sequence) -> Option<Whole> {
        self.whole.filter(|whole| whole.last <= durable)
    }

    /// Whether segments are to go, now that everything up to `durable` is.
    pub fn recycling_due(&self, durable: Sequence) -> bool {
        !self.recycling && (self.effective(durable).is_some() || !self.remainders.is_empty())
    }

    /// The operations that take them out of the log: the newest first, each durably before the next.
    /// Only then may what they hold be overwritten.
    pub fn recycle(&mut self, newest: SegmentId, durable: Sequence, ops: &mut Vec<DiskOp>) {
        // Whoever has taken the log over reads it now.
        ops.push(DiskOp::CheckEpoch { newest });
        self.recycling = true;
        let gone = self.going(durable);
        for &segment in &gone {
            ops.push(DiskOp::Retire(segment));
            ops.push(DiskOp::SyncDirectory);
        }
        ops.extend(gone.into_iter().map(DiskOp::Blank));
    }

    /// The segments that go, the newest first.
    fn going(&self, durable: Sequence) -> Vec<SegmentId> {
        let below = self.effective(durable).map_or(self.oldest, |whole| whole.segment);
        let older = (self.oldest.0..below.0).rev().map(SegmentId);
        older.chain(self.remainders.iter().rev().copied()).collect()
    }

    /// The recycling in flight is done. Says how many segments went, and whether a snapshot was the
    /// reason.
    pub fn recycled(&mut self, durable: Sequence) -> (u64, bool) {
        assert!(self.recycling, "only a recycling that was handed out is done");
        self.recycling = false;
        let gone = self.going(durable).len() as u64;
        self.remainders.clear();
        let Some(whole) = self.effective(durable) else {
            return (gone, false);
        };
        self.whole = None;
        self.oldest = whole.segment;
        self.first = whole.first;
        self.bytes_before = whole.bytes_before;
        self.snapshot_bytes = whole.bytes;
        (gone, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(number: u32, last: bool) -> Vec<u8> {
        let mut payload = Vec::new();
        SnapshotPart { number, last }.encode(1, 2, &mut payload);
        payload
    }

    #[test]
    fn a_part_is_told_from_a_marker() {
        for part in [(0, false), (7, true), (u32::MAX, false)] {
            let mut payload = payload(part.0, part.1);
            assert_eq!(payload.len(), SnapshotPart::HEAD_BYTES as usize);
            payload.extend_from_slice(b"more");
            let read = SnapshotPart::of(EventType::CHECKPOINT, &payload);
            assert_eq!(read, Some(SnapshotPart { number: part.0, last: part.1 }));
            assert_eq!(SnapshotPart::contents(&payload), b"more");
            assert_eq!(SnapshotPart::of(EventType::TX_COMMIT_START, &payload), None);
            assert_eq!(SnapshotPart::of(EventType::CHECKPOINT, &payload[..16]), None);
            payload[HEAD_BYTES - 1] = 2;
            assert_eq!(SnapshotPart::of(EventType::CHECKPOINT, &payload), None);
        }
    }

    /// Reads parts with the sequences 1, 2, ..., all of them in one segment that begins with the first.
    fn read(parts: &[(u32, bool)]) -> Snapshots {
        let mut snapshots = Snapshots { segment_begins: Sequence::FIRST, ..Snapshots::default() };
        for (sequence, (number, last)) in (1..).zip(parts) {
            let payload = payload(*number, *last);
            let record = Record {
                sequence: Sequence(sequence),
                event: EventType::CHECKPOINT,
                timestamp_ms: 0,
                payload: &payload,
            };
            snapshots.read(&record, SegmentId(4), 0);
        }
        snapshots
    }

    #[test]
    fn only_a_run_of_parts_from_the_first_to_the_last_is_a_snapshot() {
        let whole = |parts: &[(u32, bool)]| read(parts).whole.map(|whole| whole.last.0);
        assert_eq!(whole(&[(0, true)]), Some(1));
        assert_eq!(whole(&[(0, false), (1, false), (2, true)]), Some(3));
        assert_eq!(whole(&[(0, false), (1, false)]), None, "the last is missing");
        assert_eq!(whole(&[(0, false), (2, true)]), None, "one is missing");
        assert_eq!(whole(&[(1, true)]), None, "the first is missing");
        assert_eq!(whole(&[(0, false), (1, false), (1, true)]), None, "one is there twice");
        assert_eq!(whole(&[(0, false), (0, true)]), None, "this one does not begin a segment");
    }
}
