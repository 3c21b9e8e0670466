//! The published system's logs, replayed: what `vectors/expected.json` says is what a report says.

use base::OperationId;
use coordinator::{OperationKind, OperationReport, RecoveryAction, RecoveryReport, Replay};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use twopc::Vote;
use twopc::coordinator::Decision;
use wal_core::{Config, Guard, MemoryStorage, OpenMode, Place, Record, ScanConfig, Visitor};

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

/// A log of a stream's records; if `apart`, each in a batch of its own.
fn logged(bytes: &[u8], apart: bool) -> MemoryStorage {
    let (config, mode) = (Config::default(), OpenMode::Exclusive);
    let mut storage = MemoryStorage::default();
    let now = base::Time::ZERO;
    let (mut log, _) =
        wal_core::open(&mut storage, &config, mode, 7, now, &mut ()).expect("an empty log opens");
    let mut rest = bytes;
    while !rest.is_empty() {
        let decoded = wal_core::decode_record(rest, config.max_payload).expect("a vector is whole");
        let record = decoded.record;
        let appended = log.append(record.event, record.timestamp_ms, record.payload);
        assert_eq!(appended, Ok(record.sequence));
        if apart {
            log.force(record.sequence);
            wal_core::drive(&mut storage, &mut log, now);
        }
        rest = &rest[decoded.len as usize..];
    }
    wal_core::close(&mut storage, &mut log, now);
    assert!(log.poisoned().is_none());
    storage
}

#[test]
fn a_log_of_the_same_records_is_replayed() {
    for (name, bytes, expected) in vectors() {
        let storage = logged(&bytes, false);
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

/// Where each batch with records is.
#[derive(Default)]
struct Batches(Vec<Place>);

impl Visitor for Batches {
    fn record(&mut self, _: &Record<'_>, _: Place) {}
    fn guard(&mut self, guard: &Guard, place: Place) {
        self.0.extend((guard.records > 0).then_some(place));
    }
}

/// What a report says was decided, or would be done, of each transaction and saga that is not in doubt.
#[derive(Default)]
struct Said {
    transactions: BTreeMap<OperationId, Option<Decision>>,
    sagas: BTreeMap<OperationId, RecoveryAction>,
}

impl Said {
    fn by(report: &RecoveryReport) -> Said {
        let mut said = Said::default();
        for operation in report.operations.iter().filter(|operation| !operation.in_doubt) {
            match &operation.kind {
                OperationKind::Saga { .. } => {
                    said.sagas.insert(operation.id, operation.action);
                }
                OperationKind::Transaction { .. } => {
                    let committed = operation.action == RecoveryAction::TxResumeCommit;
                    let decision = committed.then_some(Decision::Commit);
                    said.transactions.insert(operation.id, decision);
                }
                OperationKind::Promise { .. } => panic!("published logs hold no promises"),
            }
        }
        let ended = report.completed_transactions.entries.iter();
        said.transactions.extend(ended.map(|&(id, how)| (id, Some(how))));
        let ended = report.completed_sagas.entries.iter();
        said.sagas.extend(ended.map(|&(id, _)| (id, RecoveryAction::None)));
        said
    }
}

/// G10. Any one record is damaged: of no transaction a report says, without a doubt, to commit what was
/// not committed, or to abort what was; of no saga what the whole log does not say; and ids that the log
/// does not know may be the damaged record's.
#[test]
fn g10_no_hole_lets_a_report_contradict_a_decision() {
    let (mut holes, mut doubts) = (0, 0);
    for (name, bytes, _) in vectors() {
        let mut whole = logged(&bytes, true);
        let mut replay = Replay::default();
        let scanned = wal_core::scan(&whole, &ScanConfig::default(), &mut replay).unwrap();
        let truth = Said::by(&replay.report(&scanned));
        let mut batches = Batches::default();
        wal_core::scan(&whole, &ScanConfig::default(), &mut batches).unwrap();
        assert_eq!(batches.0.len() as u64, scanned.records, "{name}");
        for place in batches.0 {
            let at = (place.offset + u64::from(place.len) - 9) as usize;
            whole.file_mut(place.segment)[at] ^= 1;
            let mut replay = Replay::default();
            let scanned = wal_core::scan(&whole, &ScanConfig::default(), &mut replay).unwrap();
            whole.file_mut(place.segment)[at] ^= 1;
            assert!(scanned.is_corrupt(), "{name} {place:?}");
            let report = replay.report(&scanned);
            assert!(report.unknown_ids_in_doubt, "{name} {place:?}");
            let said = Said::by(&report);
            for (id, decision) in said.transactions {
                let true_one = truth.transactions[&id];
                let commits = |decision| decision == Some(Decision::Commit);
                assert_eq!(commits(decision), commits(true_one), "{name} {place:?}: tx {id}");
            }
            for (id, action) in said.sagas {
                assert_eq!(action, truth.sagas[&id], "{name} {place:?}: saga {id}");
            }
            holes += 1;
            doubts += report.operations.iter().filter(|operation| operation.in_doubt).count();
        }
    }
    assert!(holes > 500 && doubts > 100, "{holes} holes, {doubts} doubts");
}
