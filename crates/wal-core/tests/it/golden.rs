//! Logs as earlier versions have written them, kept as files: every later version reads them. Beside each
//! is the list of its records. A format version's folder is never changed.

use std::path::{Path, PathBuf};

use base::{Sequence, Time};
use wal_core::{
    Config, EventType, FileLog, FileStorage, MemoryStorage, OpenMode, Place, Record, ScanConfig,
    Scanned, SegmentId, Visitor,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn compacted_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-compacted")
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

/// What the compacted log of version 1 was written by: a snapshot of three parts with records between them,
/// of which the older segments went; a second life; and a second snapshot that a crash left without its
/// last part.
fn compacted() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let config = Config { max_records: 10, ..config() };
    for life in 0..2_u64 {
        let id = 0xFEDC_BA98_7654_3210;
        let mode = OpenMode::Exclusive;
        let opened = wal_core::open(&mut storage, &config, mode, id, Time::ZERO, &mut ());
        let mut log = opened.expect("nothing is wrong").0;
        let mut now = Time::ZERO;
        for n in 0..20_u64 {
            let payload: Vec<u8> = (0..n * 29 % 400).map(|at| (at + n) as u8).collect();
            let appended = log.append(EventType::TX_PARTICIPANT_ADDED, n as i64 - 3, &payload);
            let sequence = appended.expect("the log has room");
            let part = n.checked_sub(9).filter(|n| n % 2 == 0).map(|n| n / 2);
            if let Some(part @ 0..3) = part
                && (life, part) != (1, 2)
            {
                assert!(part > 0 || log.compaction_due(), "it has grown enough");
                let last = part == 2;
                let contents = |out: &mut Vec<u8>| out.extend([200 + part as u8; 9]);
                log.append_part(n as i64, (n, life), last, contents).expect("it has room");
            }
            if n.is_multiple_of(4) {
                log.force(sequence);
            }
            now += config.idle_guard_after / 2;
            while wal_core::drive(&mut storage, &mut log, now) {}
        }
        now += config.idle_guard_after;
        while wal_core::drive(&mut storage, &mut log, now) {}
        if life == 0 {
            wal_core::close(&mut storage, &mut log, now);
        }
    }
    storage
}

#[test]
fn what_version_1_has_written_is_read() {
    let scanned = check_read(&folder(), &written(), Sequence(19));
    assert_eq!((scanned.records, scanned.epoch.value(), scanned.torn_tail_bytes), (19, 2, 0));
    assert_eq!(scanned.log_id, Some(0x0123_4567_89AB_CDEF));
}

#[test]
fn a_compacted_log_of_version_1_is_read() {
    let scanned = check_read(&compacted_folder(), &compacted(), Sequence(45));
    // It begins with the record behind the one that the snapshot came after.
    assert_eq!((scanned.records, scanned.epoch.value(), scanned.torn_tail_bytes), (35, 2, 0));
    assert_eq!(scanned.log_id, Some(0xFEDC_BA98_7654_3210));
    assert_eq!((scanned.base_is_whole, scanned.remainders), (true, 0));
    assert!(scanned.base.is_some_and(|base| base > SegmentId::FIRST));
    assert_eq!(scanned.stats.snapshot_parts, 5);
}

/// What was kept is read as it was written, and can be gone on with.
fn check_read(folder: &Path, written: &MemoryStorage, last: Sequence) -> Scanned {
    let expected = std::fs::read_to_string(folder.join("records.txt")).unwrap();
    let mut lines = Lines::default();
    let storage = FileStorage::read(folder).unwrap();
    let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut lines).unwrap();
    assert_eq!(lines.0, expected);
    assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);

    let copy = tempfile::tempdir().unwrap();
    for (id, _) in written.files() {
        let name = id.file_name();
        std::fs::copy(folder.join(&name), copy.path().join(&name)).unwrap();
    }
    let mut lines = Lines::default();
    let (log, _) = FileLog::open(copy.path(), &config(), &mut lines).unwrap();
    assert_eq!((lines.0, log.epoch()), (expected, scanned.epoch.next().unwrap()));
    let sequence = log.append_durable(EventType::TX_CREATED, 0, b"gone on with").unwrap();
    assert_eq!(sequence, last.next());
    log.close().unwrap();
    scanned
}

/// Whoever changes these bytes has made another format version, with folders of its own.
#[test]
fn todays_writer_writes_these_very_bytes() {
    check_bytes(&folder(), &written());
    check_bytes(&compacted_folder(), &compacted());
}

fn check_bytes(folder: &Path, written: &MemoryStorage) {
    let names: Vec<String> = written.files().map(|(id, _)| id.file_name()).collect();
    let mut files: Vec<String> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "records.txt")
        .collect();
    files.sort();
    assert_eq!(files, names);
    assert!(names.len() >= 3, "it rotates");
    for (id, bytes) in written.files() {
        let golden = std::fs::read(folder.join(id.file_name())).unwrap();
        let differs = golden.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!((differs, bytes.len()), (None, golden.len()), "{id}");
    }
}
