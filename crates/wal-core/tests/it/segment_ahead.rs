//! The next segment is made ahead of time for a shell of its own, too.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::Time;
use wal_core::{
    AppendError, Config, Directory, DiskError, DiskOp, EventType, FileStorage, Log, MakeAhead,
    OpenMode, SegmentAhead, SegmentId, Spare, Storage, Zeros, close, drive,
};

use crate::commit_path::Tight;
use crate::files::directory;
use crate::support::{reads_as, scan};

const RECORDS: usize = 400;

fn small() -> Config {
    Config {
        max_payload: 2 << 10,
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 256 << 10,
        batch_bytes_max: 16 << 10,
        buffered_bytes_max: 16 << 10,
        ..Config::default()
    }
}

fn append(storage: &mut FileStorage, log: &mut Log) {
    let sequence = log.append(EventType::TX_CREATED, 0, &[7; 1500]).unwrap();
    log.force(sequence);
    assert!(drive(storage, log, Time::ZERO) && log.poisoned().is_none());
}

/// How many files there are that nobody has written to yet.
fn spares(directory: &Path) -> usize {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("spare-")).count()
}

#[test]
fn a_shell_of_its_own_goes_on_in_files_of_zeros() {
    let directory = directory();
    let mut storage = FileStorage::write(directory.path()).unwrap();
    let (mut log, _) =
        wal_core::open(&mut storage, &small(), OpenMode::Exclusive, 1, Time::ZERO, &mut ())
            .unwrap();
    let mut ahead = SegmentAhead::default();
    let first = log.segment();
    let (mut at, mut whole) = (first, 0);
    for _ in 0..RECORDS {
        append(&mut storage, &mut log);
        ahead.go_on(&log, &mut storage, Time::ZERO);
        for _ in 0..10_000 {
            if !ahead.is_at_work() {
                break;
            }
            #[expect(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(1));
        }
        ahead.go_on(&log, &mut storage, Time::ZERO);
        if log.segment() > at {
            at = log.segment();
            // It has its full length before it is full, and nothing is left beside it.
            let segments = small().segment_bytes_first << (at.0 - first.0).min(2);
            assert_eq!(storage.len(at).unwrap(), segments, "{at}");
            assert_eq!(spares(directory.path()), 0);
            whole += 1;
        }
    }
    assert!(whole >= 3, "{whole} segments");
    drop(ahead);
    close(&mut storage, &mut log, Time::ZERO);
    drop((log, storage));
    assert_eq!(scan(&FileStorage::read(directory.path()).unwrap()).0.payloads.len(), RECORDS);
}

/// A disk that has no room for another segment, and a shell that does as it is told: what does not fit is refused,
/// and when there is room again the log goes on.
#[test]
fn a_full_disk_is_told_and_asked_again() {
    let directory = directory();
    let full = Arc::new(AtomicBool::new(true));
    let mut files = FileStorage::write(directory.path()).unwrap();
    files.zero_fill_next(small().segment_bytes_first);
    let mut storage = Tight { files, full: Arc::clone(&full) };
    let mode = OpenMode::Exclusive;
    let (mut log, _) =
        wal_core::open(&mut storage, &small(), mode, 1, Time::ZERO, &mut ()).unwrap();
    let mut ahead = SegmentAhead::default();
    let mut now = Time::ZERO;
    let go_on = |ahead: &mut SegmentAhead, log: &mut Log, storage: &mut Tight, now: Time| {
        ahead.go_on(log, storage, now);
        for _ in 0..10_000 {
            if !ahead.is_at_work() {
                break;
            }
            #[expect(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(1));
        }
        ahead.go_on(log, storage, now);
        log.confine(ahead.refused().is_some());
    };
    let mut accepted = 0;
    let refused = loop {
        match log.append(EventType::TX_CREATED, 0, &[7; 1500]) {
            Ok(sequence) => log.force(sequence),
            Err(error) => break error,
        }
        accepted += 1;
        assert!(accepted < 100, "a segment of 64 KiB does not hold so many");
        assert!(drive(&mut storage, &mut log, now) && log.poisoned().is_none());
        go_on(&mut ahead, &mut log, &mut storage, now);
    };
    assert_eq!(refused, AppendError::NoSpace);
    assert!(accepted >= 30, "{accepted}: the segment it has is used");
    let len = storage.len(log.segment()).unwrap();
    assert_eq!((log.segment(), len), (SegmentId::FIRST, 64 << 10), "it did not grow");

    // It is not asked again before it is time to, and still full then.
    let again = ahead.refused().unwrap();
    assert!(again > now);
    full.store(false, Ordering::Relaxed);
    go_on(&mut ahead, &mut log, &mut storage, now);
    assert_eq!(ahead.refused(), Some(again));
    full.store(true, Ordering::Relaxed);
    now = again;
    go_on(&mut ahead, &mut log, &mut storage, now);
    assert!(ahead.refused().is_some_and(|later| later > now));
    assert_eq!(log.append(EventType::TX_CREATED, 0, &[7; 1500]), Err(AppendError::NoSpace));

    full.store(false, Ordering::Relaxed);
    now = ahead.refused().unwrap();
    go_on(&mut ahead, &mut log, &mut storage, now);
    assert_eq!(ahead.refused(), None);
    for _ in 0..60 {
        let sequence = log.append(EventType::TX_CREATED, 0, &[8; 1500]).unwrap();
        log.force(sequence);
        assert!(drive(&mut storage, &mut log, now) && log.poisoned().is_none());
        go_on(&mut ahead, &mut log, &mut storage, now);
        accepted += 1;
    }
    close(&mut storage, &mut log, now);
    drop((ahead, log, storage));
    let (seen, scanned) = scan(&FileStorage::read(directory.path()).unwrap());
    assert_eq!((seen.payloads.len(), scanned.is_corrupt()), (accepted, false));
}

#[test]
fn dropped_at_work_it_leaves_what_the_next_opening_removes() {
    let directory = directory();
    let open = || {
        let mut storage = FileStorage::write(directory.path()).unwrap();
        let mode = OpenMode::Exclusive;
        let (log, scanned) =
            wal_core::open(&mut storage, &small(), mode, 1, Time::ZERO, &mut ()).unwrap();
        assert!(!scanned.is_corrupt());
        (storage, log)
    };
    let (mut storage, mut log) = open();
    let mut ahead = SegmentAhead::default();
    while log.next_segment_due().is_none() {
        append(&mut storage, &mut log);
    }
    ahead.go_on(&log, &mut storage, Time::ZERO);
    let segment: SegmentId = log.segment();
    drop((ahead, log, storage));
    let (storage, log) = open();
    assert!(log.segment() > segment && storage.len(segment).is_ok());
    assert_eq!(spares(directory.path()), 0);
}

/// A disk on which it takes long to find out that it is full.
struct Slow {
    files: FileStorage,
    found_out: Arc<AtomicBool>,
}

reads_as!(Slow, files);

impl Storage for Slow {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        self.files.perform(op)
    }
    fn make_ahead(&self, _: u64, _: Zeros) -> Option<MakeAhead> {
        let found_out = Arc::clone(&self.found_out);
        Some(Box::new(move |stop| {
            while !found_out.load(Ordering::Relaxed) && !stop() {
                #[expect(clippy::disallowed_methods)]
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(std::io::ErrorKind::StorageFull.into())
        }))
    }
    fn keep_ahead(&mut self, _: Spare) {}
}

/// The log has gone on in a file that grows before it is known that there was no room for one ahead of time:
/// a shell that looks again when it is told to does not look without a pause, and the log is confined no more.
#[test]
fn a_log_that_has_gone_on_waits_for_no_segment() {
    let directory = directory();
    let found_out = Arc::new(AtomicBool::new(false));
    let files = FileStorage::write(directory.path()).unwrap();
    let mut storage = Slow { files, found_out: Arc::clone(&found_out) };
    let (mut log, _) =
        wal_core::open(&mut storage, &small(), OpenMode::Exclusive, 1, Time::ZERO, &mut ())
            .unwrap();
    let (mut ahead, first) = (SegmentAhead::default(), log.segment());
    // It is begun, and the log goes on in a file that grows before it is known that there is no room.
    while log.segment() == first {
        let sequence = log.append(EventType::TX_CREATED, 0, &[7; 1500]).unwrap();
        log.force(sequence);
        assert!(drive(&mut storage, &mut log, Time::ZERO) && log.poisoned().is_none());
        ahead.go_on(&log, &mut storage, Time::ZERO);
        assert_eq!(ahead.refused(), None);
    }
    assert!(ahead.is_at_work());
    found_out.store(true, Ordering::Relaxed);
    while ahead.is_at_work() {
        #[expect(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(1));
    }
    ahead.go_on(&log, &mut storage, Time::ZERO);
    let mut now = Time::ZERO;
    while let Some(again) = ahead.refused() {
        assert!(again > now, "at {now:?} it is to be asked again at {again:?}");
        now = again;
        ahead.go_on(&log, &mut storage, now);
        assert!(now < Time::ZERO + Duration::from_secs(60), "asked again and again");
    }
}
