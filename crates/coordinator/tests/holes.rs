//! What a hole in a log puts in doubt: the rules as a table, every short legal history as a check that
//! nothing certain is contradicted by what a hole hides, and the same once more from the salvaged log.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;

use base::{CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, Time};
use coordinator::{OperationReport, RecoveryReport, Replay, codec, salvage};
use twopc::Vote;
use twopc::coordinator::{Event as Tx, Member};
use wal_core::{Config, EventType, MemoryStorage, OpenMode, Place, Record, ScanConfig, SegmentId};
use wal_core::{Corruption, Damage, Guard, Visitor};

const SAGA: OperationId = OperationId(1 << 40 | 1);
const TX: OperationId = OperationId(1 << 40 | 2);

/// One record.
type Written = (EventType, Vec<u8>);

fn saga(event: saga::Event) -> Written {
    let mut payload = Vec::new();
    (codec::encode_saga(SAGA, &event, &mut payload), payload)
}

fn tx(event: Tx) -> Written {
    let mut payload = Vec::new();
    (codec::encode_transaction(TX, &event, &mut payload), payload)
}

/// A record by a short name: a saga of two steps, the second after the first, and a transaction of one
/// participant.
fn record(name: &str) -> Written {
    use saga::Event as S;
    let step = |step| S::StepAdded {
        step,
        action: saga::Action::Custom,
        dependencies: None,
        node: NodeName::default(),
        body: [].into(),
        terms: Default::default(),
    };
    let coordinator = CoordinatorId::numbered(3);
    let member = Member::new(ShardId::numbered(1), NodeName::numbered(1));
    match name {
        "created" => {
            let terms = saga::SagaTerms::default();
            saga(S::Created { coordinator, nonce: 0, request_key: None, terms })
        }
        "step0" => saga(step(0)),
        "step1" => saga(step(1)),
        "start" => saga(S::ExecuteStart),
        "did0" => saga(S::StepSucceeded { step: 0, output: None }),
        "did1" => saga(S::StepSucceeded { step: 1, output: None }),
        "failed1" => {
            saga(S::StepFailed { step: 1, error_code: 7, effect: saga::FailedEffect::None })
        }
        "turn" => saga(S::CompensationStart { cause: None }),
        "undid0" => saga(S::CompensationSucceeded { step: 0, heuristic: false }),
        "undid1" => saga(S::CompensationSucceeded { step: 1, heuristic: false }),
        "completed" => saga(S::Completed),
        "compensated" => saga(S::Compensated),
        "aborted" => saga(S::Aborted),
        "TX" => tx(Tx::Created { coordinator, request_key: None, fingerprint: None, parent: None }),
        "MEMBER" => tx(Tx::ParticipantAdded(member)),
        "PREPARE" => tx(Tx::PrepareStart),
        "YES" => tx(Tx::VoteReceived { shard: member.shard, vote: Vote::Commit }),
        "NO" => tx(Tx::VoteReceived { shard: member.shard, vote: Vote::Abort }),
        "COMMIT" => tx(Tx::CommitStart { members: vec![member] }),
        "COMMITTED" => tx(Tx::CommitComplete),
        "ABORT" => tx(Tx::AbortStart),
        "ABORTED" => tx(Tx::AbortComplete),
        "ROLLBACK" => tx(Tx::RollbackStart),
        "ROLLED" => tx(Tx::RollbackComplete),
        other => panic!("{other}"),
    }
}

fn records(names: &str) -> Vec<Written> {
    names.split_whitespace().map(record).collect()
}

// ---- logs with a hole ----

/// A log of three batches: what is before the hole, what is in it, what is behind.
fn log(parts: [&[Written]; 3]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let config = Config::default();
    let opened = wal_core::open(&mut storage, &config, OpenMode::Exclusive, 7, Time::ZERO, &mut ());
    let (mut log, _) = opened.unwrap();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        for (event, payload) in part {
            log.append(*event, 1_000, payload).unwrap();
        }
        log.force(log.last());
        assert!(wal_core::drive(&mut storage, &mut log, Time::ZERO));
    }
    wal_core::close(&mut storage, &mut log, Time::ZERO);
    assert!(log.poisoned().is_none());
    storage
}

#[derive(Default)]
struct Guards(Vec<u64>);

impl Visitor for Guards {
    fn record(&mut self, _: &Record<'_>, _: Place) {}

    fn guard(&mut self, _: &Guard, place: Place) {
        self.0.push(place.offset);
    }
}

/// Flips a bit in the head of that batch.
fn damage(storage: &mut MemoryStorage, batch: usize) {
    let mut guards = Guards::default();
    wal_core::scan(storage, &ScanConfig::default(), &mut guards).unwrap();
    let at = guards.0[batch] as usize;
    storage.file_mut(SegmentId::FIRST)[at + 10] ^= 4;
}

fn report(storage: &MemoryStorage) -> RecoveryReport {
    let mut replay = Replay::default();
    let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut replay).unwrap();
    replay.report(&scanned)
}

fn salvaged(storage: &MemoryStorage) -> MemoryStorage {
    let mut new = MemoryStorage::new();
    let done = salvage(storage, &mut new, &Config::default(), 8, 2_000).unwrap();
    assert_eq!(done.last, Sequence(report(&new).scanned.records));
    new
}

/// What is said of the saga or of the transaction: its class, or how it ended.
fn said(report: &RecoveryReport, id: OperationId) -> String {
    let listed = report.operations.iter().filter(|listed| listed.id == id);
    let mut said: Vec<String> = listed
        .map(|OperationReport { action, in_doubt, .. }| {
            format!("{}{}", action.name(), if *in_doubt { ", in doubt" } else { "" })
        })
        .collect();
    let sagas = report.completed_sagas.entries.iter();
    said.extend(sagas.filter(|ended| ended.0 == id).map(|ended| ended.1.name().to_owned()));
    let txs = report.completed_transactions.entries.iter();
    said.extend(txs.filter(|ended| ended.0 == id).map(|ended| format!("{:?}", ended.1)));
    match &said[..] {
        [] => "unknown".to_owned(),
        [one] => one.clone(),
        several => panic!("said more than once: {several:?}"),
    }
}

/// Everything that a report says of operations.
fn classes(report: &RecoveryReport) -> impl PartialEq + std::fmt::Debug {
    (
        report.operations.clone(),
        report.completed_sagas.clone(),
        report.completed_transactions.clone(),
        report.anomalies.clone(),
        (report.unknown_ids_in_doubt, report.unknown_ids_up_to),
    )
}

// ---- the table ----

/// Before the hole, in it, behind it, and what is to be said.
type Row = (&'static str, &'static str, &'static str, &'static str);

/// A saga in any state that is not an end is in doubt, unless its end is seen.
const SAGAS: &[Row] = &[
    ("created step0 step1", "start", "", "none, in doubt"),
    ("created step0 step1", "start did0", "did1", "none, in doubt"),
    ("created step0 step1", "start", "aborted", "none, in doubt"),
    ("created step0 step1", "start did0 did1", "completed", "completed"),
    ("created step0 step1 start", "did0", "", "saga_resume_execute, in doubt"),
    ("created step0 step1 start", "did0", "did1", "saga_resume_execute, in doubt"),
    ("created step0 step1 start did0", "did1", "completed", "completed"),
    ("created step0 step1 start did0 did1", "completed", "", "saga_resume_execute, in doubt"),
    ("created step0 step1 start did0", "turn undid0", "compensated", "compensated"),
    ("created step0 step1 start did0", "turn", "undid0", "saga_resume_execute, in doubt"),
    ("created step0 step1 start did0", "did1", "turn", "saga_resume_compensate, in doubt"),
    ("created step0 step1 start did0 failed1", "undid0", "", "saga_resume_compensate, in doubt"),
    ("created step0 step1 start did0 failed1", "undid0", "compensated", "compensated"),
    ("created step0 step1 start did0 turn", "undid0", "", "saga_resume_compensate, in doubt"),
    (
        "created step0 step1 start did0 turn undid0",
        "compensated",
        "",
        "saga_resume_compensate, in doubt",
    ),
    // An end before the hole stands.
    ("created step0 step1 start did0 did1 completed", "TX", "", "completed"),
    ("created step0 step1 start did0 turn undid1 undid0 compensated", "TX", "", "compensated"),
    ("created step0 step1 aborted", "TX", "", "aborted"),
    // What began behind it is whole.
    ("TX", "MEMBER", "created step0 step1 start", "saga_resume_execute"),
    // The beginning is hidden.
    ("TX", "created step0 step1", "start", "none, in doubt"),
    ("TX", "created step0 step1 start", "did0 did1", "none, in doubt"),
    ("TX", "created step0 step1 start did0 did1", "completed", "completed"),
    ("TX", "created step0 step1 start turn", "compensated", "compensated"),
    ("TX", "created step0 step1", "aborted", "none, in doubt"),
    ("TX", "created", "step0 step1 start did0 turn undid0 compensated", "compensated"),
];

const TRANSACTIONS: &[Row] = &[
    // No decision before the hole: in doubt, whatever follows, ...
    ("TX", "MEMBER", "", "tx_resume_abort, in doubt"),
    ("TX MEMBER", "PREPARE", "", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "YES", "", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE YES", "COMMIT", "", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE NO", "ABORT", "", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "NO", "ABORT", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "NO ABORT", "ABORTED", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "NO", "ABORTED", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE YES", "created", "ABORT ABORTED", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "YES", "ROLLBACK", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "YES", "ROLLBACK ROLLED", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "ROLLBACK", "ROLLED", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "created", "YES", "tx_resume_abort, in doubt"),
    // ... but commit_start or commit_complete.
    ("TX MEMBER PREPARE", "YES", "COMMIT", "tx_resume_commit"),
    ("TX MEMBER", "PREPARE YES", "COMMIT", "tx_resume_commit"),
    ("TX MEMBER PREPARE YES", "created", "COMMIT", "tx_resume_commit"),
    ("TX MEMBER PREPARE", "YES", "COMMIT COMMITTED", "Commit"),
    ("TX MEMBER PREPARE YES", "COMMIT", "COMMITTED", "Commit"),
    ("TX MEMBER", "PREPARE YES COMMIT", "COMMITTED", "Commit"),
    // Of both decisions the first one counts, and a hidden one may have been the first.
    ("TX MEMBER PREPARE", "YES", "ABORT COMMIT", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "YES", "ABORT ABORTED COMMIT", "tx_resume_abort, in doubt"),
    ("TX MEMBER PREPARE", "YES", "ABORT COMMITTED", "tx_resume_abort, in doubt"),
    // Decided before the hole.
    ("TX MEMBER PREPARE YES COMMIT", "COMMITTED", "", "tx_resume_commit"),
    ("TX MEMBER PREPARE YES COMMIT", "created", "COMMITTED", "Commit"),
    ("TX MEMBER PREPARE NO ABORT", "ABORTED", "", "tx_resume_abort"),
    ("TX MEMBER PREPARE NO ABORT", "created", "ABORTED", "Abort"),
    ("TX MEMBER PREPARE ROLLBACK", "ROLLED", "", "tx_resume_abort"),
    ("TX MEMBER PREPARE ROLLBACK", "created", "ROLLED", "Abort"),
    // Ended before it.
    ("TX MEMBER PREPARE YES COMMIT COMMITTED", "created", "", "Commit"),
    ("TX MEMBER PREPARE NO ABORT ABORTED", "created", "", "Abort"),
    // Begun behind it.
    ("created", "step0", "TX MEMBER PREPARE", "tx_resume_abort"),
    ("created", "step0", "TX MEMBER PREPARE NO ABORT ABORTED", "Abort"),
    // The beginning is hidden.
    ("created", "TX", "MEMBER PREPARE YES", "tx_resume_abort, in doubt"),
    ("created", "TX MEMBER PREPARE", "YES", "tx_resume_abort, in doubt"),
    ("created", "TX MEMBER PREPARE YES", "COMMIT", "tx_resume_commit"),
    ("created", "TX MEMBER", "PREPARE YES COMMIT", "tx_resume_commit"),
    ("created", "TX MEMBER PREPARE YES COMMIT", "COMMITTED", "Commit"),
    ("created", "TX MEMBER PREPARE NO", "ABORT", "tx_resume_abort, in doubt"),
    ("created", "TX MEMBER PREPARE NO", "ABORT ABORTED", "tx_resume_abort, in doubt"),
    ("created", "TX MEMBER PREPARE NO ABORT", "ABORTED", "tx_resume_abort, in doubt"),
    ("created", "TX MEMBER PREPARE YES", "ABORT COMMIT", "tx_resume_abort, in doubt"),
    ("created", "TX MEMBER PREPARE YES", "ABORT COMMITTED", "tx_resume_abort, in doubt"),
    // It is hidden altogether.
    ("created", "TX MEMBER", "step0", "unknown"),
];

#[test]
fn a_hole_puts_in_doubt_what_the_table_says() {
    for (rows, id) in [(SAGAS, SAGA), (TRANSACTIONS, TX)] {
        for &(before, hidden, behind, expected) in rows {
            let row = format!("{before} | {hidden} | {behind}");
            let parts = [before, hidden, behind].map(records);
            let mut storage = log([&parts[0], &parts[1], &parts[2]]);
            let whole = report(&storage);
            assert!(!whole.unknown_ids_in_doubt && !whole.scanned.is_corrupt(), "{row}");
            damage(&mut storage, 1);
            let found = report(&storage);
            assert!(found.scanned.is_corrupt(), "{row}");
            assert_eq!(said(&found, id), expected, "{row}");
            // Whatever is unknown is in doubt too.
            assert!(found.unknown_ids_in_doubt, "{row}");
            assert_eq!(found.unknown_ids_up_to, Some(Epoch::new(1)), "{row}");

            let new = salvaged(&storage);
            let again = report(&new);
            assert!(!again.scanned.is_corrupt(), "{row}");
            assert_eq!(format!("{:?}", classes(&again)), format!("{:?}", classes(&found)), "{row}");
        }
    }
}

// ---- every short history ----

const PLACE: Place = Place { segment: SegmentId(1), offset: 0, len: 0, crc_ok: true };

/// Replays some records, told with a hole where `hidden` are.
fn replay(all: &[&str], hidden: std::ops::Range<usize>) -> Replay {
    let mut replay = Replay::default();
    for (at, name) in all.iter().enumerate() {
        if !hidden.is_empty() && at == hidden.start {
            replay.hole(&Corruption {
                segment: Some(SegmentId(1)),
                offset: 0,
                bytes: 1,
                what: Damage::BatchDamaged,
                last_sequence_before: Sequence(at as u64),
                hides_records: true,
            });
        }
        if hidden.contains(&at) {
            continue;
        }
        let (event, payload) = record(name);
        let sequence = Sequence(at as u64 + 1);
        let record = Record { sequence, event, timestamp_ms: 0, payload: &payload };
        replay.record(&record, PLACE);
    }
    replay
}

/// Every legal history of at most `len` records more than `begun`.
fn histories<'a>(begun: &[&'a str], alphabet: &[&'a str], len: usize) -> Vec<Vec<&'a str>> {
    let empty = report(&MemoryStorage::new()).scanned;
    let mut all = vec![begun.to_vec()];
    let mut from = 0;
    for _ in 0..len {
        let until = all.len();
        for at in from..until {
            for event in alphabet {
                let mut longer = all[at].clone();
                longer.push(event);
                if replay(&longer, 0..0).report(&empty).anomalies.total() == 0 {
                    all.push(longer);
                }
            }
        }
        from = until;
    }
    all
}

/// Whatever a hole hides of a legal history: what is said without doubt is what is true, or does no harm.
#[test]
fn nothing_that_is_certain_is_contradicted_by_what_is_hidden() {
    let empty = report(&MemoryStorage::new()).scanned;
    let saga_events = [
        "start",
        "did0",
        "did1",
        "failed1",
        "turn",
        "undid0",
        "undid1",
        "completed",
        "compensated",
        "aborted",
    ];
    let tx_events =
        ["PREPARE", "YES", "NO", "COMMIT", "COMMITTED", "ABORT", "ABORTED", "ROLLBACK", "ROLLED"];
    let of_sagas = histories(&["created", "step0", "step1"], &saga_events, 7);
    let of_txs = histories(&["TX", "MEMBER"], &tx_events, 6);
    assert!(of_sagas.len() > 100 && of_txs.len() > 100, "{} {}", of_sagas.len(), of_txs.len());
    let mut seen = BTreeMap::<(String, String), u32>::new();
    for (histories, id) in [(of_sagas, SAGA), (of_txs, TX)] {
        for history in histories {
            let truth = said(&replay(&history, 0..0).report(&empty), id);
            for from in 0..history.len() {
                for to in from + 1..=history.len() {
                    let found = said(&replay(&history, from..to).report(&empty), id);
                    let harmless = match (&*found, &*truth) {
                        // COMMIT, or ABORT of what was decided so, is sent once more.
                        ("tx_resume_commit", "Commit") | ("tx_resume_abort", "Abort") => true,
                        // An abort is forgotten too early: whoever asks is told the same.
                        ("Abort", "tx_resume_abort") => true,
                        ("unknown", _) => true,
                        (found, truth) => found == truth || found.ends_with("in doubt"),
                    };
                    assert!(
                        harmless,
                        "{history:?} without {from}..{to}: {found}, in truth {truth}"
                    );
                    *seen.entry((found, truth.clone())).or_default() += 1;
                }
            }
        }
    }
    // In doubt is not everything, and each class is found without doubt too.
    for certain in [
        ("completed", "completed"),
        ("compensated", "compensated"),
        ("tx_resume_commit", "tx_resume_commit"),
        ("tx_resume_commit", "Commit"),
        ("Commit", "Commit"),
        ("Abort", "Abort"),
        ("tx_resume_abort", "tx_resume_abort"),
    ] {
        let key = (certain.0.to_owned(), certain.1.to_owned());
        assert!(seen.contains_key(&key), "{certain:?}: {seen:?}");
    }
}
