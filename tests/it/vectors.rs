//! The published system's logs, replayed: what `vectors/expected.json` says is what a report says.

use coordinator::{OperationKind, OperationReport, RecoveryReport, Replay};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use twopc::Vote;
use wal_core::{Config, MemoryStorage, OpenMode, ScanConfig};

fn vectors() -> Vec<(String, Vec<u8>, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let expected = fs::read(folder.join("expected.json")).expect("the fixture is there");
    let expected: BTreeMap<String, Value> =
        serde_json::from_slice(&expected).expect("the fixture is JSON");
    assert_eq!(expected.len(), 8);
    let read = |(name, expected): (String, Value)| {
        let bytes = fs::read(folder.join(&name)).expect("the fixture is there");
        (name, bytes, expected)
    };
    expected.into_iter().map(read).collect()
}

fn as_expected(bytes: usize, report: &RecoveryReport) -> Value {
    let stats = &report.scanned.stats;
    let sagas: Vec<u64> = report.completed_sagas.entries.iter().map(|(id, _)| id.0).collect();
    let txs: Vec<u64> = report.completed_transactions.entries.iter().map(|(id, _)| id.0).collect();
    json!({
        "bytes": bytes,
        "records": stats.records,
        "last_sequence": stats.last_sequence.0,
        "saga_events": stats.saga_events,
        "tx_events": stats.transaction_events,
        "checkpoints": stats.checkpoints,
        "corrupted_records": stats.corrupted_records,
        "completed": { "saga": sagas, "tx": txs },
        "operations": report.operations.iter().map(operation).collect::<Vec<_>>(),
    })
}

fn operation(report: &OperationReport) -> Value {
    assert!(!report.in_doubt);
    let (id, action, last) = (report.id.0, report.action.name(), report.last.0);
    match &report.kind {
        OperationKind::Saga { steps, run, undo, .. } => json!({
            "kind": "saga", "id": id, "action": action, "last_sequence": last,
            "steps": steps, "run": run, "undo": undo,
        }),
        OperationKind::Transaction { members, votes } => {
            let count = |which| votes.iter().filter(|(_, vote)| *vote == which).count();
            json!({
                "kind": "tx", "id": id, "action": action, "last_sequence": last,
                "participants": members.len(),
                "votes_commit": count(Vote::Commit), "votes_abort": count(Vote::Abort),
            })
        }
        OperationKind::Promise { .. } => panic!("published logs hold no promises"),
    }
}

#[test]
fn a_stream_is_replayed() {
    for (name, bytes, expected) in vectors() {
        let mut replay = Replay::default();
        let config = ScanConfig::default();
        let scanned = wal_core::scan_stream(&mut bytes.as_slice(), &config, &mut replay).unwrap();
        assert!(!scanned.is_corrupt());
        let report = replay.report(&scanned);
        assert_eq!(report.anomalies.total(), 0, "{name}");
        assert_eq!(as_expected(bytes.len(), &report), expected, "{name}");
    }
}

#[test]
fn a_log_of_the_same_records_is_replayed() {
    for (name, bytes, expected) in vectors() {
        let (config, mode) = (Config::default(), OpenMode::Exclusive);
        let mut storage = MemoryStorage::default();
        let now = base::Time::ZERO;
        let (mut log, _) = wal_core::open(&mut storage, &config, mode, 7, now, &mut ()).unwrap();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let decoded = wal_core::decode_record(rest, config.max_payload).unwrap();
            let record = decoded.record;
            let appended = log.append(record.event, record.timestamp_ms, record.payload);
            assert_eq!(appended, Ok(record.sequence));
            rest = &rest[decoded.len as usize..];
        }
        wal_core::close(&mut storage, &mut log, now);
        assert!(log.poisoned().is_none());

        let mut replay = Replay::default();
        let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut replay).unwrap();
        let report = replay.report(&scanned);
        assert_eq!(report.anomalies.total(), 0, "{name}");
        assert_eq!(as_expected(bytes.len(), &report), expected, "{name}");
        let mut raw = Vec::new();
        wal_core::scan(&storage, &ScanConfig::default(), &mut raw).unwrap();
        assert_eq!(raw, bytes, "{name}");
    }
}
