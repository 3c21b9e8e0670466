//! Real files: locks, names, threads.

use std::sync::Arc;

use base::Time;
use wal_core::{
    Config, Directory, DiskOp, EventType, FileError, FileLog, FileStorage, OpenError, OpenMode,
    ScanConfig, SegmentId, Storage, Writes, Zeros,
};

use crate::support::{Seen, config, payload, scan};

pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

fn open(path: &std::path::Path, writes: Writes, seen: &mut Seen) -> FileLog {
    FileLog::open_with(path, &config(), writes, seen).unwrap().0
}

/// A directory on a disk: where temporary files are is often in memory, which has nothing to write past.
fn on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made")
}

#[test]
fn records_survive_on_disk() {
    let directory = on_disk();
    let path = directory.path().join("a/log");
    let mut expected = Vec::new();
    for life in 0..8u64 {
        let mut seen = Seen::default();
        let writes = if life % 4 < 2 { Writes::Cached } else { Writes::Direct };
        let log = open(&path, writes, &mut seen);
        assert_eq!(seen.payloads, expected);
        for n in 0..20 {
            let payload = payload(n + life);
            if n % 3 == 0 {
                log.append(EventType::SAGA_CREATED, 0, &payload).unwrap();
            } else {
                let sequence = log.append_durable(EventType::SAGA_CREATED, 0, &payload).unwrap();
                assert!(log.durable() >= sequence);
            }
            expected.push(payload);
        }
        if life % 2 == 0 {
            log.close().unwrap();
        }
    }
    let storage = FileStorage::read(&path).unwrap();
    let (seen, scanned) = scan(&storage);
    assert_eq!(seen.payloads, expected);
    assert!(!scanned.is_corrupt() && scanned.torn_tail_bytes == 0);
}

#[test]
fn a_writer_excludes_everybody_and_readers_exclude_writers() {
    let directory = directory();
    let path = directory.path();
    let log = open(path, Writes::Cached, &mut Seen::default());
    let in_use = |result: Result<FileStorage, FileError>| matches!(result, Err(FileError::InUse { path: p }) if p == path);
    assert!(in_use(FileStorage::read(path)));
    assert!(in_use(FileStorage::write(path)));
    let error = FileLog::open(path, &config(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("in use"));
    log.close().unwrap();
    let readers = [FileStorage::read(path).unwrap(), FileStorage::read(path).unwrap()];
    assert!(in_use(FileStorage::write(path)));
    drop(readers);
    FileStorage::write(path).unwrap();
}

#[test]
fn foreign_files_are_left_alone() {
    let directory = directory();
    let path = directory.path();
    for name in ["notes.txt", "1.wal", "0000000000000002.wal.bak", "00000000000000XY.wal"] {
        std::fs::write(path.join(name), b"mine").unwrap();
    }
    std::fs::create_dir(path.join("sub")).unwrap();
    let log = open(path, Writes::Cached, &mut Seen::default());
    log.append_durable(EventType::TX_CREATED, 0, b"x").unwrap();
    log.close().unwrap();
    let (seen, scanned) = scan(&FileStorage::read(path).unwrap());
    assert_eq!((seen.payloads.len(), scanned.segments), (1, 1));
    assert_eq!(std::fs::read(path.join("1.wal")).unwrap(), b"mine");
}

#[test]
fn an_empty_directory_is_an_empty_log_and_a_missing_one_an_error() {
    let directory = directory();
    let (_, scanned) = scan(&FileStorage::read(directory.path()).unwrap());
    assert_eq!((scanned.records, scanned.log_id), (0, None));
    let missing = directory.path().join("missing");
    match FileStorage::read(&missing) {
        Err(FileError::Io { path, error }) => {
            assert_eq!((path, error.kind()), (missing, std::io::ErrorKind::NotFound));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn threads_share_flushes() {
    let directory = directory();
    let log = Arc::new(FileLog::open(directory.path(), &Config::default(), &mut ()).unwrap().0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                let mut last = base::Sequence::NONE;
                for n in 0..50 {
                    let payload = [thread.to_le_bytes(), u64::to_le_bytes(n)].concat();
                    let sequence = log.append_durable(EventType::TX_CREATED, 0, &payload).unwrap();
                    assert!(sequence > last && log.durable() >= sequence);
                    last = sequence;
                }
            });
        }
    });
    let stats = log.stats();
    assert_eq!(stats.records, 400);
    assert!(stats.syncs <= 400, "{} syncs", stats.syncs);
    Arc::into_inner(log).unwrap().close().unwrap();
    let (seen, _) = scan(&FileStorage::read(directory.path()).unwrap());
    let mut next = [0u64; 8];
    for payload in &seen.payloads {
        let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
        let thread = number(0) as usize;
        assert_eq!(number(8), next[thread], "each thread's records are in its order");
        next[thread] += 1;
    }
    assert_eq!(next, [50; 8]);
}

#[test]
fn lazy_records_are_written_without_anybody_waiting() {
    let directory = directory();
    let log = open(directory.path(), Writes::Cached, &mut Seen::default());
    log.append(EventType::TX_CREATED, 0, b"lazy").unwrap();
    let segment = directory.path().join(SegmentId::FIRST.file_name());
    let is_written = |bytes: Vec<u8>| bytes[1024..].iter().any(|byte| *byte != 0);
    let mut waits = 0;
    while !is_written(std::fs::read(&segment).unwrap()) {
        waits += 1;
        assert!(waits < 2000, "nothing was written");
        #[expect(clippy::disallowed_methods)]
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(log.durable().0, 0);
    assert_eq!(log.stats().syncs, 0);
}

#[test]
fn a_full_buffer_flushes_instead_of_failing() {
    let directory = directory();
    let log = open(directory.path(), Writes::Cached, &mut Seen::default());
    for _ in 0..200 {
        log.append(EventType::TX_CREATED, 0, &[7; 900]).unwrap();
    }
    log.close().unwrap();
    assert_eq!(scan(&FileStorage::read(directory.path()).unwrap()).0.payloads.len(), 200);
}

#[test]
fn a_take_over_fences_a_writer_that_holds_the_lock() {
    let directory = directory();
    let old = open(directory.path(), Writes::Cached, &mut Seen::default());
    old.append_durable(EventType::TX_CREATED, 0, b"old").unwrap();
    let mut storage = FileStorage::take_over(directory.path()).unwrap();
    let mut seen = Seen::default();
    let mode = OpenMode::TakeOver;
    let (log, _) = wal_core::open(&mut storage, &config(), mode, 1, Time::ZERO, &mut seen).unwrap();
    assert_eq!(seen.payloads, [b"old".to_vec()]);
    let new = FileLog::new(storage, log);
    assert!(old.append_durable(EventType::TX_CREATED, 0, b"zombie").is_err());
    assert!(old.append(EventType::TX_CREATED, 0, b"zombie").is_err());
    new.append_durable(EventType::TX_CREATED, 0, b"new").unwrap();
    assert!(old.close().is_err());
    new.append_durable(EventType::TX_CREATED, 0, b"with the lock").unwrap();
    assert!(matches!(FileStorage::write(directory.path()), Err(FileError::InUse { .. })));
    new.close().unwrap();
    let mut seen = Seen::default();
    let storage = FileStorage::read(directory.path()).unwrap();
    let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut seen).unwrap();
    assert_eq!(seen.payloads, [&b"old"[..], b"new", b"with the lock"]);
    assert!(scanned.fenced_bytes > 0 && !scanned.is_corrupt());
}

#[test]
fn a_damaged_log_is_not_opened() {
    let directory = directory();
    let log = open(directory.path(), Writes::Cached, &mut Seen::default());
    log.append_durable(EventType::TX_CREATED, 0, b"x").unwrap();
    log.close().unwrap();
    let segment = directory.path().join(SegmentId::FIRST.file_name());
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[1100] ^= 2;
    std::fs::write(&segment, &bytes).unwrap();
    match FileLog::open(directory.path(), &config(), &mut ()) {
        Err(FileError::Open(OpenError::Corrupt(scanned))) => assert!(scanned.is_corrupt()),
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "and left untouched");
    assert_eq!(FileStorage::read(directory.path()).map(|s| scan(&s).1.segments).unwrap(), 1);
}

/// A log has many files: whoever is told that one is unreadable must be told which.
#[test]
fn an_error_names_the_file() {
    let directory = directory();
    open(directory.path(), Writes::Cached, &mut Seen::default()).close().unwrap();
    std::fs::create_dir(directory.path().join(SegmentId(2).file_name())).unwrap();
    let storage = FileStorage::read(directory.path()).unwrap();
    let error = wal_core::scan(&storage, &ScanConfig::default(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("0000000000000002.wal"), "{error}");
    drop(storage);
    let error = FileLog::open(directory.path(), &config(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("0000000000000002.wal"), "{error}");
}

/// The same files, read without a thread that is ahead.
struct Plain<'a>(&'a FileStorage);

impl Directory for Plain<'_> {
    fn segments(&self) -> std::io::Result<Vec<SegmentId>> {
        self.0.segments()
    }

    fn len(&self, segment: SegmentId) -> std::io::Result<u64> {
        self.0.len(segment)
    }

    fn read_at(&self, id: SegmentId, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(id, offset, into)
    }
}

#[test]
fn what_is_read_ahead_is_what_is_there() {
    // Batches of many to a block, some longer than what a block has space for in front, and some longer
    // than a block.
    for (batch, longest) in [(3_000, 2_000), (200_000, 70_000), (1 << 20, 300_000)] {
        let directory = directory();
        let segment = 9 << 20;
        let config = Config {
            max_payload: longest,
            batch_bytes_max: batch,
            segment_bytes_first: segment,
            segment_bytes_max: segment,
            ..Config::default()
        };
        let (log, _) = FileLog::open(directory.path(), &config, &mut ()).unwrap();
        let (mut bytes, mut n) = (0, 0_u32);
        while bytes < 12 << 20 {
            let payload = vec![n as u8; (n * 7919 % longest) as usize];
            log.append(EventType::TX_CREATED, 0, &payload).unwrap();
            bytes += payload.len() + 29;
            n += 1;
        }
        log.close().unwrap();
        let compare = |damaged: bool| {
            let storage = FileStorage::read(directory.path()).unwrap();
            let ahead = Directory::read_ahead(&storage, SegmentId(1), 0..segment);
            let processors = std::thread::available_parallelism().unwrap().get();
            assert_eq!(ahead.is_some(), processors > 1);
            let (ahead, found) = scan(&storage);
            let (plain, found_plain) = scan(&Plain(&storage));
            assert_eq!(found, found_plain);
            assert!(ahead.payloads == plain.payloads && found.is_corrupt() == damaged);
            if !damaged {
                assert_eq!(found.records, u64::from(n));
            }
        };
        compare(false);
        // A flip, then a file that ends too early: the search for what is behind goes back and forth.
        let path = directory.path().join(SegmentId(1).file_name());
        let mut content = std::fs::read(&path).unwrap();
        content[5 << 20] ^= 1;
        std::fs::write(&path, &content).unwrap();
        compare(true);
        std::fs::write(&path, &content[..7 << 20]).unwrap();
        compare(true);
    }
}

/// Nobody waits: the segments behind the first are set aside, not written with zeros first. They read the
/// same, behind a crash too.
#[test]
fn a_log_without_forced_records_goes_through_reserved_segments() {
    const RECORDS: u64 = 40_000;
    let directory = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes_max: 1 << 20, ..Config::default() };
    let (log, _) = FileLog::open(directory.path(), &config, &mut ()).unwrap();
    for n in 0..RECORDS {
        log.append(EventType::SAGA_CREATED, 0, &[n as u8; 100]).unwrap();
    }
    log.wait(log.last()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for entry in directory.path().read_dir().unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
    }
    log.close().unwrap();
    for path in [directory.path(), copy.path()] {
        let (log, scanned) = FileLog::open(path, &config, &mut ()).unwrap();
        assert_eq!((scanned.records, scanned.torn_tail_bytes), (RECORDS, 0));
        assert!(scanned.segments >= 5, "{} segments", scanned.segments);
        log.close().unwrap();
    }
}

/// Threads that overlap, rotations and compaction, and a file system that may or may not write past its page
/// cache: the log holds what a log holds.
#[test]
fn a_log_is_written_past_the_page_cache() {
    let record = |thread: u64, n: u64| [thread as u8, n as u8].repeat(1 + 4 * n as usize);
    let directory = on_disk();
    let config = Config { segment_bytes_first: 64 << 10, segment_bytes_max: 64 << 10, ..config() };
    let (log, _) = FileLog::open_with(directory.path(), &config, Writes::Direct, &mut ()).unwrap();
    let is_direct = log.writes() == Writes::Direct;
    let log = Arc::new(log);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                for n in 0..100 {
                    let payload = record(thread, n);
                    if n % 5 == 0 {
                        log.append(EventType::SAGA_CREATED, 0, &payload).unwrap();
                    }
                    log.append_durable(EventType::SAGA_CREATED, 0, &payload).unwrap();
                }
            });
        }
    });
    let stats = log.stats();
    // As another process finds it that reads through the page cache, without a close.
    let copy = on_disk();
    for entry in directory.path().read_dir().unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
    }
    let mut payloads = std::collections::BTreeMap::new();
    for path in [copy.path(), directory.path()] {
        let beside = FileStorage::beside(path).unwrap();
        let (seen, scanned) = scan(&beside);
        assert_eq!((scanned.records, scanned.torn_tail_bytes), (480, 0), "{is_direct} {stats:?}");
        assert!(!scanned.is_corrupt() && scanned.segments >= 3, "{scanned:?}");
        for payload in seen.payloads {
            *payloads.entry(payload).or_insert(0) += 1;
        }
    }
    let expected = (0..4u64).flat_map(|thread| {
        (0..100).map(move |n| (record(thread, n), if n % 5 == 0 { 4 } else { 2 }))
    });
    assert!(payloads == expected.collect());
}

#[test]
fn a_reserved_file_is_as_long_as_asked_and_reads_as_zeros() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = FileStorage::write(directory.path()).unwrap();
    for (segment, zeros) in [(SegmentId(1), Zeros::Reserved), (SegmentId(2), Zeros::Written)] {
        let spare = storage.make_ahead(300_000, zeros).unwrap()(&|| false).unwrap();
        storage.keep_ahead(spare);
        storage.perform(&DiskOp::Create(segment)).unwrap();
        assert_eq!(storage.len(segment).unwrap(), 300_000);
        let mut bytes = vec![1; 300_001];
        assert_eq!(storage.read_at(segment, 0, &mut bytes).unwrap(), 300_000);
        assert!(bytes[..300_000].iter().all(|&byte| byte == 0));
    }
}

/// A writer that was replaced may still have the files open that were there, and write where nobody must read.
#[test]
fn a_file_is_made_of_an_old_one_only_by_who_has_made_that() {
    let directory = directory();
    let (first, second) = (SegmentId::FIRST, SegmentId::FIRST.next());
    let (third, fourth) = (second.next(), second.next().next());
    let mut storage = FileStorage::write(directory.path()).unwrap();
    storage.perform(&DiskOp::Create(first)).unwrap();
    drop(storage);
    let in_file = |segment: SegmentId| directory.path().join(segment.file_name());
    let write_in = |path: &std::path::Path| std::fs::OpenOptions::new().write(true).open(path);
    let replaced = write_in(&in_file(first)).unwrap();

    let mut storage = FileStorage::write(directory.path()).unwrap();
    let recycle = |storage: &mut FileStorage, segment| {
        for op in [DiskOp::Retire(segment), DiskOp::SyncDirectory, DiskOp::Blank(segment)] {
            storage.perform(&op).unwrap();
        }
        storage.zero_fill_next(4096);
    };
    storage.perform(&DiskOp::Create(second)).unwrap();
    let own = write_in(&in_file(second)).unwrap();
    let writes = |file: &std::fs::File, segment: SegmentId| {
        use std::os::unix::fs::FileExt;
        file.write_all_at(b"late", 0).unwrap();
        &std::fs::read(in_file(segment)).unwrap()[..4] == b"late"
    };
    recycle(&mut storage, first);
    storage.perform(&DiskOp::Create(third)).unwrap();
    assert!(!writes(&replaced, third), "what it writes goes nowhere");
    // Its own are used again.
    recycle(&mut storage, second);
    storage.perform(&DiskOp::Create(fourth)).unwrap();
    assert!(writes(&own, fourth), "it is the same file");
}
