//! What a log does when nothing goes wrong.

use base::{Sequence, Time};
use wal_core::{
    Config, EventType, Integrity, MemoryStorage, OpenMode, Place, Record, ScanConfig, Visitor,
};

fn config() -> Config {
    Config {
        max_payload: 1024,
        segment_bytes_first: 4096,
        segment_bytes_max: 16384,
        batch_bytes_max: 4096,
        buffered_bytes_max: 8192,
        ..Config::default()
    }
}

#[derive(Default)]
struct Seen(Vec<(u64, Vec<u8>)>);

impl Visitor for Seen {
    fn record(&mut self, record: &Record<'_>, place: Place) {
        assert!(place.crc_ok);
        self.0.push((record.sequence.0, record.payload.to_vec()));
    }
}

fn open(storage: &mut MemoryStorage, seen: &mut Seen) -> wal_core::Log {
    let opened = wal_core::open(storage, &config(), OpenMode::Exclusive, 77, Time::ZERO, seen);
    opened.expect("nothing is wrong").0
}

#[test]
fn what_was_appended_is_read_over_restarts_and_rotations() {
    let mut storage = MemoryStorage::new();
    let mut expected = Vec::new();
    for start in 0..5u64 {
        let mut seen = Seen::default();
        let mut log = open(&mut storage, &mut seen);
        assert_eq!(seen.0, expected);
        assert_eq!(log.epoch().value() as u64, start + 1);
        for i in 0..60u64 {
            let payload = vec![i as u8; (i * 37 % 1024) as usize];
            let sequence = log.append(EventType::TX_CREATED, 5, &payload).unwrap();
            expected.push((sequence.0, payload));
            if i % 3 == 0 {
                log.force(sequence);
            }
            wal_core::drive(&mut storage, &mut log, Time::from_nanos(i));
            if i % 3 == 0 {
                assert_eq!(log.durable(), sequence);
            }
        }
        if start % 2 == 0 {
            wal_core::close(&mut storage, &mut log, Time::ZERO);
            assert!(log.is_closed());
        } else {
            log.force(log.last());
            wal_core::drive(&mut storage, &mut log, Time::ZERO);
        }
    }
    let mut seen = Seen::default();
    let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut seen).unwrap();
    assert_eq!(seen.0, expected);
    assert!(scanned.corruption.is_empty(), "{:?}", scanned.corruption);
    assert_eq!(scanned.integrity, Integrity::Guarded);
    assert_eq!(scanned.records, 300);
    assert_eq!(scanned.torn_tail_bytes, 0);
    assert_eq!(scanned.last_sequence, Sequence(300));
    assert_eq!(scanned.stats.recoveries, 4);
    assert!(storage.files().count() > 10);

    let mut raw = Vec::new();
    wal_core::scan(&storage, &ScanConfig::default(), &mut raw).unwrap();
    let mut seen = Seen::default();
    let scanned = wal_core::scan_stream(&mut &raw[..], &ScanConfig::default(), &mut seen).unwrap();
    assert_eq!(seen.0, expected);
    assert_eq!(scanned.integrity, Integrity::Unprotected);
    assert_eq!(scanned.stats.bytes, raw.len() as u64);
}
