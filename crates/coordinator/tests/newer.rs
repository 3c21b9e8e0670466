//! A log that a newer version has written: what may be passed over is, and what must be understood keeps this
//! version from the log, which stays as it is.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::{CoordinatorId, OperationId, Sequence, Time};
use coordinator::{Replay, SalvageError, codec, salvage};
use twopc::coordinator::Event as Tx;
use wal_core::{
    Config, EventType, MemoryStorage, NotUnderstood, OpenError, OpenMode, ScanConfig, SnapshotPart,
    Visitor,
};

const COORDINATOR: CoordinatorId = CoordinatorId([7; 32]);
const SAGA: OperationId = OperationId(1 << 40 | 1);

type Written = (EventType, Vec<u8>);

fn records() -> Vec<Written> {
    let mut definition = saga::Definition::builder();
    definition.step(saga::Step::new(saga::Action::Custom, base::NodeName::numbered(1), [1]));
    let definition = definition.build().unwrap();
    let saga = |event: &saga::Event| {
        let mut payload = Vec::new();
        (codec::encode_saga(SAGA, event, &mut payload), payload)
    };
    let tx = |event: &Tx| {
        let mut payload = Vec::new();
        (codec::encode_transaction(OperationId(SAGA.0 + 1), event, &mut payload), payload)
    };
    let mut all: Vec<_> =
        saga::Saga::admission(&definition, COORDINATOR, 5, None).iter().map(saga).collect();
    let (request_key, fingerprint, parent) = (None, None, None);
    all.push(tx(&Tx::Created { coordinator: COORDINATOR, request_key, fingerprint, parent }));
    all.push(tx(&Tx::AbortStart));
    all
}

/// The same record, with one tag more.
fn with_tag((event, payload): &Written, tag: u8) -> Written {
    let mut payload = payload.clone();
    // A record without extensions has no version yet.
    let prefix = match *event {
        EventType::SAGA_CREATED | EventType::TX_CREATED => 40,
        EventType::SAGA_STEP_ADDED => 13,
        _ => 8,
    };
    if payload.len() == prefix {
        payload.push(codec::EXTENSION_VERSION);
    }
    wal_core::encode_extension(tag, b"new", &mut payload);
    (*event, payload)
}

fn log(records: &[Written]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let config = Config::default();
    let mode = OpenMode::Exclusive;
    let opened = wal_core::open(&mut storage, &config, mode, 9, Time::ZERO, &mut ());
    let mut log = opened.unwrap().0;
    for (event, payload) in records {
        log.append(*event, 1_000, payload).unwrap();
    }
    log.force(log.last());
    wal_core::drive(&mut storage, &mut log, Time::ZERO);
    wal_core::close(&mut storage, &mut log, Time::ZERO);
    storage
}

fn refused(storage: &MemoryStorage) -> Option<NotUnderstood> {
    let (mut again, mut replay) = (storage.clone(), Replay::default());
    let (config, mode) = (Config::default(), OpenMode::Exclusive);
    match wal_core::open(&mut again, &config, mode, 9, Time::ZERO, &mut replay) {
        Ok(_) => None,
        Err(error @ OpenError::Newer(found)) => {
            assert_eq!(&again, storage, "nothing was changed");
            assert!(error.to_string().contains("open the log with the version that wrote it"));
            let mut to = MemoryStorage::new();
            let salvaged = salvage(storage, &mut to, &config, 8, 2_000);
            assert!(matches!(salvaged, Err(SalvageError::Newer(same)) if same == found));
            Some(found)
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_log_with_a_tag_that_must_be_understood_is_left_alone() {
    let records = records();
    assert_eq!(refused(&log(&records)), None);
    for at in 0..records.len() {
        for (tag, passed_over) in [(95, true), (96, false), (127, false), (128, true), (255, true)]
        {
            let mut records = records.clone();
            records[at] = with_tag(&records[at], tag);
            let (sequence, event) = (Sequence(at as u64 + 1), records[at].0);
            let expected = (!passed_over).then_some(NotUnderstood { sequence, event, tag });
            assert_eq!(refused(&log(&records)), expected, "record {at}, tag {tag}");
        }
    }
}

/// A definition within a definition is read like any other.
#[test]
fn what_a_step_holds_must_be_understood_as_well() {
    let mut inner = saga::Definition::builder();
    inner.step(saga::Step::new(saga::Action::Custom, base::NodeName::numbered(1), [1]));
    let mut outer = saga::Definition::builder();
    outer.step(saga::Step::saga(inner.build().unwrap()));
    let admission = saga::Saga::admission(&outer.build().unwrap(), COORDINATOR, 5, None);
    let mut payload = Vec::new();
    codec::encode_saga(SAGA, &admission[1], &mut payload);
    // The sub-saga's creation gets the tag; its length and that of the value around it grow by six bytes.
    let place = payload.iter().enumerate().position(|(at, tag)| {
        let head = payload.get(at + 3..at + 8);
        *tag == codec::tag::PERFORMER
            && head.is_some_and(|head| head[0] == 2 && head[2..] == [0; 3])
    });
    let place = place.expect("the performer's tag");
    let length = u16::from_le_bytes([payload[place + 1], payload[place + 2]]) + 6;
    payload[place + 1..place + 3].copy_from_slice(&length.to_le_bytes());
    let inner = place + 4;
    let bytes = u32::from_le_bytes(payload[inner..inner + 4].try_into().unwrap()) as usize;
    payload[inner..inner + 4].copy_from_slice(&(bytes as u32 + 6).to_le_bytes());
    let mut tag = Vec::new();
    wal_core::encode_extension(100, b"new", &mut tag);
    let end = inner + 4 + bytes;
    payload.splice(end..end, tag);
    let read = codec::decode(EventType::SAGA_STEP_ADDED, &payload);
    let event = EventType::SAGA_CREATED;
    assert_eq!(read, Err(codec::CodecError::NotUnderstood(event, 100)));
}

/// A snapshot says what older records said: in its own tags, and in the records that it carries.
#[test]
fn a_snapshot_must_be_understood_too() {
    let found = |contents: &[u8]| {
        let mut payload = Vec::new();
        SnapshotPart { number: 0, last: true }.encode(1, 0, &mut payload);
        payload.extend_from_slice(contents);
        let (sequence, event) = (Sequence(20), EventType::CHECKPOINT);
        let mut stream = Vec::new();
        let record = wal_core::Record { sequence, event, timestamp_ms: 0, payload: &payload };
        wal_core::encode_record(&record, &mut stream);
        let mut replay = Replay::default();
        let config = ScanConfig::default();
        wal_core::scan_stream(&mut stream.as_slice(), &config, &mut replay).unwrap();
        replay.not_understood()
    };
    let tagged = |tag, value: &[u8]| {
        let mut out = Vec::new();
        wal_core::encode_extension(tag, value, &mut out);
        out
    };
    assert_eq!(found(&tagged(128, b"new")), None);
    let (sequence, event) = (Sequence(20), EventType::CHECKPOINT);
    let own = NotUnderstood { sequence, event, tag: 127 };
    assert_eq!(found(&tagged(127, b"new")), Some(own));
    for tag in [127, 128] {
        let (event, payload) = with_tag(&records()[0], tag);
        let mut carried = Vec::new();
        carried.extend_from_slice(&7_u64.to_le_bytes());
        carried.extend_from_slice(&0_i64.to_le_bytes());
        carried.push(event.0);
        carried.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        carried.extend_from_slice(&payload);
        let mut operation = vec![1];
        operation.extend_from_slice(&SAGA.0.to_le_bytes());
        operation.push(0);
        let part = [tagged(65, &operation), tagged(66, &carried)].concat();
        let carried = NotUnderstood { sequence: Sequence(7), event, tag };
        assert_eq!(found(&part), (tag == 127).then_some(carried));
    }
}
