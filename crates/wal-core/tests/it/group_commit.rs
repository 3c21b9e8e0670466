//! What a log hands out, and when.

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use base::{Sequence, Time};
use wal_core::{
    AppendError, Appended, Config, ConfigError, DiskError, DiskOp, EventType, Log, MemoryStorage,
    Storage,
};

use crate::support::{config, open, scan};

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn opened() -> (MemoryStorage, Log) {
    let mut storage = MemoryStorage::new();
    let (log, _, _) = open(&mut storage).unwrap();
    (storage, log)
}

fn append(log: &mut Log, payload: &[u8]) -> Sequence {
    log.append(EventType::SAGA_CREATED, 0, payload).unwrap()
}

fn kinds(ops: &[DiskOp]) -> String {
    let kind = |op: &DiskOp| match op {
        DiskOp::Create(_) => 'c',
        DiskOp::Write { .. } => 'w',
        DiskOp::Sync(_) => 's',
        DiskOp::SyncDirectory => 'd',
        DiskOp::Truncate { .. } => 't',
        DiskOp::CheckEpoch { .. } => 'e',
        DiskOp::Retire(_) => 'r',
        DiskOp::Blank(_) => 'b',
    };
    ops.iter().map(kind).collect()
}

#[test]
fn a_forced_record_takes_the_others_with_it() {
    let (mut storage, mut log) = opened();
    assert_eq!((log.next_wake(), log.next_flush(at(0))), (None, None));
    let first = append(&mut log, b"lazy");
    let second = append(&mut log, b"forced");
    log.force(second);
    assert_eq!(log.next_wake(), Some(Time::ZERO));
    let flush = log.next_flush(at(0)).unwrap();
    assert_eq!(kinds(&flush.ops), "wse");
    assert_eq!((flush.forced, flush.records, flush.first, flush.last), (true, 2, first, second));
    let third = append(&mut log, b"in flight");
    log.force(third);
    assert_eq!((log.next_flush(at(0)), log.next_wake()), (None, None), "one at a time");
    assert_eq!(log.durable(), Sequence::NONE);
    storage.perform_all(&flush.ops).unwrap();
    log.flushed(at(0), Ok(()));
    assert_eq!(log.durable(), second);
    let flush = log.next_flush(at(0)).unwrap();
    assert_eq!((flush.first, flush.last), (third, third));
    storage.perform_all(&flush.ops).unwrap();
    log.flushed(at(0), Ok(()));
    log.force(third);
    assert_eq!(log.durable(), third);
    assert_eq!((log.stats().flushes, log.stats().syncs), (2, 2));
}

#[test]
fn a_lazy_record_is_written_and_an_idle_log_guarded() {
    let (mut storage, mut log) = opened();
    let first = append(&mut log, b"lazy");
    assert_eq!(log.next_wake(), Some(Time::ZERO), "nobody has told it the time yet");
    assert_eq!(log.next_flush(at(10)), None);
    assert_eq!(log.next_wake(), Some(at(15)));
    assert_eq!(log.next_flush(at(14)), None);
    let flush = log.next_flush(at(15)).unwrap();
    assert_eq!((kinds(&flush.ops).as_str(), flush.forced, flush.last), ("w", false, first));
    storage.perform_all(&flush.ops).unwrap();
    log.flushed(at(16), Ok(()));
    assert_eq!((log.durable(), log.next_wake()), (Sequence::NONE, None));
    assert_eq!(scan(&storage).1.records, 1);

    log.force(first);
    let flush = log.next_flush(at(20)).unwrap();
    assert_eq!((kinds(&flush.ops).as_str(), flush.records), ("se", 0));
    log.flushed(at(21), Ok(()));
    assert_eq!((log.durable(), log.next_wake()), (first, Some(at(26))));
    assert_eq!(scan(&storage).1.watermark, Sequence::NONE);
    let flush = log.next_flush(at(26)).unwrap();
    assert_eq!((kinds(&flush.ops).as_str(), flush.records, flush.forced), ("w", 0, false));
    storage.perform_all(&flush.ops).unwrap();
    log.flushed(at(27), Ok(()));
    assert_eq!((log.next_wake(), log.next_flush(at(99))), (None, None), "once");
    let (_, scanned) = scan(&storage);
    assert_eq!((scanned.watermark, scanned.records), (first, 1));
}

#[test]
fn rotation_syncs_before_it_seals_and_seals_before_it_writes() {
    let (mut storage, mut log) = opened();
    let mut rotations = 0;
    for _ in 0..40 {
        let sequence = append(&mut log, &[1; 800]);
        log.force(sequence);
        let flush = log.next_flush(at(0)).unwrap();
        if flush.ops.len() > 3 {
            assert_eq!(kinds(&flush.ops), "scewsdwswswse");
            rotations += 1;
        }
        storage.perform_all(&flush.ops).unwrap();
        log.flushed(at(0), Ok(()));
    }
    assert!(rotations >= 3);
    let lengths: Vec<usize> = storage.files().map(|(_, bytes)| bytes.len()).collect();
    assert!(lengths[0] <= 4096 && lengths[1] > 4096 && lengths.iter().all(|&len| len <= 8192));
}

#[test]
fn a_close_leaves_everything_proved() {
    let (mut storage, mut log) = opened();
    append(&mut log, b"lazy");
    let flush = log.close();
    assert_eq!(kinds(&flush.ops), "wsewst");
    storage.perform_all(&flush.ops).unwrap();
    log.flushed(at(0), Ok(()));
    assert!(log.is_closed());
    assert_eq!(log.durable(), log.last());
    assert_eq!(log.append(EventType::TX_CREATED, 0, b""), Err(AppendError::Closed));
    assert_eq!(scan(&storage).1.watermark, Sequence(1));
    let again = log.close();
    assert!(again.ops.is_empty());

    let (_, mut log) = opened();
    assert!(log.close().ops.is_empty(), "a log that wrote nothing has nothing to prove");
}

#[test]
fn what_cannot_be_appended_changes_nothing() {
    let (mut storage, mut log) = opened();
    let too_large = AppendError::PayloadTooLarge { bytes: 901, max: 900 };
    assert_eq!(log.append(EventType::TX_CREATED, 0, &[0; 901]), Err(too_large));
    assert_eq!(log.append(EventType(0xF1), 0, b""), Err(AppendError::Reserved));
    let mut appended = 0;
    while log.append(EventType(0x2A), 0, &[0; 800]).is_ok() {
        appended += 1;
    }
    assert_eq!(
        log.append(EventType::TX_CREATED, 0, &[0; 800]),
        Err(AppendError::Full { max: 8192 })
    );
    assert_eq!(log.last(), Sequence(appended));
    assert_eq!(log.next_wake(), Some(Time::ZERO), "a full buffer does not wait");
    assert!(wal_core::drive(&mut storage, &mut log, at(0)));
    append(&mut log, b"room again");

    log.force(log.last());
    log.next_flush(at(0)).unwrap();
    log.flushed(at(0), Err(DiskError::Fenced));
    assert!(matches!(log.poisoned(), Some(DiskError::Fenced)));
    assert_eq!(log.append(EventType::TX_CREATED, 0, b""), Err(AppendError::Poisoned));
    assert!(log.close().ops.is_empty());
}

#[test]
fn a_payload_written_in_place_is_the_same_record() {
    let (mut storage, mut log) = opened();
    let (mut copied_storage, mut copied) = opened();
    // Enough for several batches and segments; the appends between them come to nothing.
    for n in 0..40u8 {
        let too_large = AppendError::PayloadTooLarge { bytes: 901, max: 900 };
        let failed = log.append_with(7, |out| {
            out.extend_from_slice(&[n; 901]);
            EventType::TX_CREATED
        });
        assert_eq!(failed, Err(too_large));
        let reserved = log.append_with(7, |out| {
            out.push(n);
            EventType(0xF1)
        });
        assert_eq!(reserved, Err(AppendError::Reserved));
        let thrown = panic::catch_unwind(AssertUnwindSafe(|| {
            log.append_with(7, |out| {
                out.push(n);
                panic::resume_unwind(Box::new(()))
            })
            .map(|_| ())
        }));
        assert!(thrown.is_err());
        let payload = vec![n; usize::from(n) * 20];
        let Appended { event, sequence, payload: written } = log
            .append_with(7, |out| {
                out.extend_from_slice(&payload);
                EventType(n)
            })
            .unwrap();
        assert_eq!((event, written), (EventType(n), &payload[..]));
        assert_eq!(sequence, log.last());
        assert_eq!(copied.append(EventType(n), 7, &payload), Ok(sequence));
        if n % 9 == 8 {
            log.force(sequence);
            copied.force(sequence);
        }
        wal_core::drive(&mut storage, &mut log, at(u64::from(n)));
        wal_core::drive(&mut copied_storage, &mut copied, at(u64::from(n)));
    }
    assert_eq!(log.stats(), copied.stats());
    assert!(storage == copied_storage, "not the same bytes");
    assert_eq!(scan(&storage).1.records, 40);
}

#[test]
fn unforced_records_are_synced_before_there_are_too_many_to_rewrite() {
    let (mut storage, mut log) = opened();
    let mut now = 0;
    for _ in 0..40 {
        append(&mut log, &[1; 800]);
        for _ in 0..2 {
            now += 10;
            wal_core::drive(&mut storage, &mut log, at(now));
        }
    }
    assert!(log.durable() > Sequence(20), "{}", log.durable());
}

#[test]
fn a_marker_is_due_by_the_whole_log() {
    let mut storage = MemoryStorage::new();
    for life in 0..4 {
        let (mut log, _, _) = open(&mut storage).unwrap();
        for n in 0..300 {
            assert_eq!(log.marker_due(), life * 300 + n >= 1000);
            let sequence = append(&mut log, b"");
            log.force(sequence);
            wal_core::drive(&mut storage, &mut log, at(0));
        }
        if life == 3 {
            log.append(EventType::CHECKPOINT, 0, &[0; 16]).unwrap();
            assert!(!log.marker_due());
            assert_eq!((log.stats().checkpoints, log.stats().last_checkpoint), (1, Sequence(1201)));
        }
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    assert_eq!(Config::default().validate(), Ok(()));
    let small = Config { batch_bytes_max: 900, ..config() };
    assert!(matches!(small.validate(), Err(ConfigError::BatchTooSmall { .. })));
    let large = Config { batch_bytes_max: 17 << 20, ..config() };
    assert!(matches!(large.validate(), Err(ConfigError::BatchTooLarge { .. })));
    let buffer = Config { buffered_bytes_max: 1, ..config() };
    assert!(matches!(buffer.validate(), Err(ConfigError::Buffer { .. })));
    let segment = Config { segment_bytes_max: 4000, ..config() };
    assert!(matches!(segment.validate(), Err(ConfigError::Segment { .. })));
    let interval = Config { checkpoint_interval: 0, ..config() };
    assert_eq!(interval.validate(), Err(ConfigError::NoInterval));
    // The simulator's sizes.
    let simulated = Config {
        max_payload: 8 << 10,
        segment_bytes_first: 32 << 10,
        segment_bytes_max: 32 << 10,
        batch_bytes_max: 16 << 10,
        buffered_bytes_max: 64 << 10,
        ..Config::default()
    };
    assert_eq!(simulated.validate(), Ok(()));
}
