//! What a fuzzer calls: bytes are read as whatever reads bytes, and what must hold for any of them is
//! checked.

use std::cell::Cell;
use std::io;

use base::{Epoch, Sequence, Time};
use wal_core::{
    Config, Corruption, Decoded, Directory, EventType, MemoryStorage, OpenError, OpenMode, Opening,
    Payload, Place, Record, ScanConfig, ScanError, Scanned, SegmentId, Storage, Visitor,
};

/// The bytes that separate one segment from the next in a fuzzer's input.
pub const NEXT_SEGMENT: &[u8; 4] = b"\x00seg";

/// What an input turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    NoLog,
    Damaged,
    Torn,
    Whole,
}

impl Outcome {
    fn of(scanned: &Scanned) -> Outcome {
        match scanned.torn_tail_bytes {
            _ if scanned.is_corrupt() => Outcome::Damaged,
            0 => Outcome::Whole,
            _ => Outcome::Torn,
        }
    }
}

/// Reads an input: by its first byte as a record, a raw stream, or a log's segments.
pub fn target(input: &[u8]) -> Outcome {
    let Some((kind, bytes)) = input.split_first() else { return Outcome::NoLog };
    match kind % 4 {
        0 => record(bytes),
        1 => stream(bytes),
        _ => log(&segments(bytes)),
    }
}

/// Segments as they are separated.
pub fn segments(mut bytes: &[u8]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    for id in 1.. {
        let end = bytes.windows(4).position(|four| four == NEXT_SEGMENT);
        *storage.file_mut(SegmentId(id)) = bytes[..end.unwrap_or(bytes.len())].to_vec();
        let Some(end) = end else { break };
        bytes = &bytes[end + 4..];
    }
    storage
}

/// A record decodes to itself or not at all.
pub fn record(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::NoLog;
    for max_payload in [0, 900, u32::MAX] {
        let decoded = wal_core::decode_record(bytes, max_payload);
        if let Ok(Decoded { record, len, crc_ok }) = decoded {
            let mut again = Vec::new();
            wal_core::encode_record(&record, &mut again);
            assert_eq!(again.len(), len as usize);
            assert_eq!(again == bytes[..len as usize], crc_ok);
            assert!(record.payload.len() as u64 <= u64::from(max_payload));
            let _ = Payload::decode(record.event, record.payload);
            outcome = if crc_ok { Outcome::Whole } else { Outcome::Damaged };
        }
    }
    outcome
}

/// Records in order, each once; a gap only behind a hole.
#[derive(Default)]
pub struct Told {
    pub records: u64,
    last: Sequence,
    hole_since: bool,
}

impl Visitor for Told {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        // A stream that begins with a checkpoint may begin anywhere.
        let first = self.last == Sequence::NONE && record.event == EventType::CHECKPOINT;
        assert!(record.sequence > self.last, "{record:?} behind {}", self.last);
        assert!(record.sequence == self.last.next() || self.hole_since || first, "an unsaid gap");
        assert_ne!(record.event, EventType::GUARD);
        self.records += 1;
        self.last = record.sequence;
        self.hole_since = false;
    }
    fn hole(&mut self, _: &Corruption) {
        self.hole_since = true;
    }
}

fn agree(told: &Told, scanned: &Scanned) {
    assert_eq!(told.records, scanned.records);
    assert!(scanned.is_corrupt() || !told.hole_since);
    assert!(scanned.corruption.len() <= Scanned::CORRUPTION_MAX);
}

/// A raw stream is read to its end.
pub fn stream(mut bytes: &[u8]) -> Outcome {
    let mut told = Told::default();
    match wal_core::scan_stream(&mut bytes, &ScanConfig::default(), &mut told) {
        Ok(scanned) => {
            agree(&told, &scanned);
            Outcome::of(&scanned)
        }
        Err(ScanError::NotALog) => {
            assert_eq!(told.records, 0);
            Outcome::NoLog
        }
        Err(error) => panic!("nothing else can be wrong with bytes in memory: {error}"),
    }
}

/// Counts what is read of a log: whatever is in it, it is a small multiple of its size.
struct Counting<'a> {
    storage: &'a MemoryStorage,
    read: Cell<u64>,
}

impl Directory for Counting<'_> {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        self.storage.segments()
    }
    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        self.storage.len(segment)
    }
    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let read = self.storage.read_at(segment, offset, into)?;
        self.read.set(self.read.get() + read as u64 + 64);
        Ok(read)
    }
}

/// A log is read, and opened for writing in both ways if it is whole: what was told is what is kept.
pub fn log(storage: &MemoryStorage) -> Outcome {
    let mut told = Told::default();
    let counting = Counting { storage, read: Cell::new(0) };
    let scanned = wal_core::scan(&counting, &ScanConfig::default(), &mut told);
    let bytes: u64 = storage.files().map(|(_, bytes)| bytes.len() as u64 + 4096).sum();
    // One batch is looked at again at most for each of its bytes that begins like one.
    assert!(counting.read.get() <= 64 * bytes, "{} read of {bytes}", counting.read.get());
    let scanned = match scanned {
        Ok(scanned) => scanned,
        Err(ScanError::NotALog | ScanError::NewerFormat { .. }) => return Outcome::NoLog,
        Err(error) => panic!("nothing else can be wrong with bytes in memory: {error}"),
    };
    agree(&told, &scanned);
    for mode in [OpenMode::Exclusive, OpenMode::TakeOver] {
        let mut disk = storage.clone();
        match go_on(&mut disk, mode, &mut Told::default()) {
            Ok(kept) => {
                // A take-over may begin while the end is still being written.
                assert!(!scanned.is_corrupt() && kept == scanned.last_sequence, "{mode:?}");
                let mut again = Told::default();
                let after = wal_core::scan(&disk, &ScanConfig::default(), &mut again);
                let after = after.expect("a log that was just opened");
                assert!(!after.is_corrupt(), "{mode:?} {:?}", after.corruption);
                assert_eq!(after.last_sequence, kept.next(), "{mode:?}");
            }
            Err(OpenError::Corrupt(_)) => assert!(scanned.is_corrupt(), "{mode:?}"),
            Err(OpenError::EpochsExhausted | OpenError::TailTooLong { .. }) => {}
            Err(error) => panic!("{mode:?}: {error}"),
        }
    }
    Outcome::of(&scanned)
}

/// Opens a log and appends a record to it. Returns the last sequence before that one.
fn go_on(disk: &mut MemoryStorage, mode: OpenMode, told: &mut Told) -> Result<Sequence, OpenError> {
    let mut opening = Opening::scan(&*disk, Config::default(), mode, told)?;
    let ops = opening.claim(Epoch::NONE, 7)?;
    disk.perform_all(&ops).map_err(OpenError::Disk)?;
    let ops = opening.read_tail(&*disk, told)?;
    disk.perform_all(&ops).map_err(OpenError::Disk)?;
    drop(ops);
    let mut log = opening.finish(&*disk, Time::ZERO)?;
    let kept = log.last();
    let sequence = log.append(EventType::TX_CREATED, 0, b"behind").expect("the log has room");
    log.force(sequence);
    wal_core::drive(disk, &mut log, Time::ZERO);
    assert_eq!(log.durable(), sequence);
    Ok(kept)
}
