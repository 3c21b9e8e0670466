//! Logs as earlier versions have written them, kept as files: every later version reads them. Beside each
//! is the list of its records. A format version's folder is never changed.

use std::path::{Path, PathBuf};

use base::{Sequence, Time};
use wal_core::{
    Config, EventType, FileLog, FileStorage, MemoryStorage, OpenMode, Place, Record, ScanConfig,
    Visitor,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// A line for each record: sequence, event, timestamp, payload.
#[derive(Default)]
struct Lines(String);

impl Visitor for Lines {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        let Record { sequence, event, timestamp_ms, payload } = *record;
        let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0 += format!("{sequence} {:02x} {timestamp_ms} {payload}", event.0).trim_end();
        self.0 += "\n";
    }
}

fn config() -> Config {
    Config {
        max_payload: 600,
        segment_bytes_first: 4096,
        segment_bytes_max: 4096,
        batch_bytes_max: 2048,
        buffered_bytes_max: 4096,
        ..Config::default()
    }
}

/// What the log of version 1 was written by: two lives with rotations, unforced records, an idle guard,
/// a crash between them, a take-over, and a clean close.
fn written() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let mut n = 0u64;
    for (mode, records) in [(OpenMode::Exclusive, 14), (OpenMode::TakeOver, 5)] {
        let id = 0x0123_4567_89AB_CDEF;
        let opened = wal_core::open(&mut storage, &config(), mode, id, Time::ZERO, &mut ());
        let mut log = opened.expect("nothing is wrong").0;
        let mut now = Time::ZERO;
        for _ in 0..records {
            n += 1;
            let events = [EventType::TX_CREATED, EventType::TX_COMMIT_START, EventType::CHECKPOINT];
            let payload: Vec<u8> = (0..n * n * 37 % 600).map(|at| (at * n) as u8).collect();
            let timestamp_ms = 1_700_000_000_000 - n as i64;
            let appended = log.append(events[n as usize % 3], timestamp_ms, &payload);
            let sequence = appended.expect("the log has room");
            assert_eq!(sequence, Sequence(n));
            if n.is_multiple_of(3) {
                log.force(sequence);
            }
            now += config().idle_guard_after / 2;
            wal_core::drive(&mut storage, &mut log, now);
        }
        now += config().idle_guard_after;
        while wal_core::drive(&mut storage, &mut log, now) {}
        if mode == OpenMode::TakeOver {
            wal_core::close(&mut storage, &mut log, now);
        }
    }
    storage
}

#[test]
fn what_version_1_has_written_is_read() {
    let expected = std::fs::read_to_string(folder().join("records.txt")).unwrap();
    let mut lines = Lines::default();
    let storage = FileStorage::read(&folder()).unwrap();
    let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut lines).unwrap();
    assert_eq!(lines.0, expected);
    assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
    assert_eq!((scanned.records, scanned.epoch.value(), scanned.torn_tail_bytes), (19, 2, 0));
    assert_eq!(scanned.log_id, Some(0x0123_4567_89AB_CDEF));

    // And it can be gone on with.
    let copy = tempfile::tempdir().unwrap();
    for (id, _) in written().files() {
        let name = id.file_name();
        std::fs::copy(folder().join(&name), copy.path().join(&name)).unwrap();
    }
    let mut lines = Lines::default();
    let (log, _) = FileLog::open(copy.path(), &config(), &mut lines).unwrap();
    assert_eq!((lines.0, log.epoch().value()), (expected, 3));
    let sequence = log.append_durable(EventType::TX_CREATED, 0, b"gone on with").unwrap();
    assert_eq!(sequence, Sequence(20));
    log.close().unwrap();
}

/// Whoever changes these bytes has made another format version, with a folder of its own.
#[test]
fn todays_writer_writes_these_very_bytes() {
    let names: Vec<String> = written().files().map(|(id, _)| id.file_name()).collect();
    let mut files: Vec<String> = folder()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "records.txt")
        .collect();
    files.sort();
    assert_eq!(files, names);
    assert!(names.len() == 3, "it rotates");
    for (id, bytes) in written().files() {
        let golden = std::fs::read(folder().join(id.file_name())).unwrap();
        let differs = golden.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!((differs, bytes.len()), (None, golden.len()), "{id}");
    }
}
