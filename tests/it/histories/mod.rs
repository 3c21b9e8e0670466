//! Whatever a log says, a replay of it says too: histories at random over the 21 events, cut at every
//! record, as raw streams and as guarded logs, against a model written from the format's document.
//!
//! The seed is fixed, so a failure repeats itself. What is printed with it is a history of which no
//! record can be left out.

mod author;
mod book;
mod coverage;
mod record;

use base::Time;
use book::{Book, Operation, Summary};
use coordinator::{OperationKind, OperationReport, RecoveryReport, Replay};
use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, RngSeed};
use record::{Entry, Event, Participant};
use sim::judge::model::Model;
use std::fmt::Debug;
use std::panic::{self, AssertUnwindSafe};
use twopc::Vote;
use twopc::coordinator::{Decision, Member};
use wal_core::{Config, EventType, Log, MemoryStorage, OpenMode, ScanConfig, ScanError};

const SEED: u64 = 0x5EED_0F21;
/// Histories of each kind, as raw streams.
const STREAMS: u32 = 3_000;
/// As guarded logs, which cost more.
const LOGS: u32 = 600;
/// Cut at every byte, of which there are some thousands in each.
const STREAMS_IN_BYTES: u32 = 80;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        // See `shorten`: a choice means something else when one before it is gone, a record does not.
        max_shrink_iters: 0,
        rng_seed: RngSeed::Fixed(SEED),
        ..ProptestConfig::default()
    }
}

// ---- what a report says, in the model's words ----

fn name(bytes: [u8; 32]) -> u8 {
    assert_eq!(bytes, [bytes[0]; 32], "a name that is in no history");
    bytes[0]
}

fn participant(Member { shard, node, store }: &Member) -> Participant {
    let store = store.map(|(store, boot)| (store.0, boot.0));
    Participant { shard: name(shard.0), node: name(node.0), store }
}

fn operation(report: &OperationReport) -> Operation {
    let common = Operation {
        id: report.id.0,
        state: report.state,
        action: report.action.name(),
        in_doubt: report.in_doubt,
        evidence: report.evidence.0,
        last: report.last.0,
        created_ms: report.created_ms,
        ..Operation::default()
    };
    match &report.kind {
        OperationKind::Saga { steps, next_step, run, undo, parked: _ } => Operation {
            kind: "saga",
            steps: *steps,
            next_step: *next_step,
            run: run.clone(),
            undo: undo.clone(),
            ..common
        },
        OperationKind::Transaction { members, votes } => Operation {
            kind: "tx",
            participants: members.iter().map(participant).collect(),
            votes: votes.iter().map(|(s, vote)| (name(s.0), *vote == Vote::Commit)).collect(),
            ..common
        },
        OperationKind::Promise { .. } => panic!("a promise in a coordinator's log: {report:?}"),
    }
}

fn summary(report: &RecoveryReport) -> Summary {
    let stats = &report.scanned.stats;
    let decided = |decision: &Decision| match decision {
        Decision::Commit => "committed",
        Decision::Abort => "aborted",
        Decision::ReadOnly => "read_only",
    };
    let txs = &report.completed_transactions.entries;
    let sagas = &report.completed_sagas.entries;
    Summary {
        operations: report.operations.iter().map(operation).collect(),
        completed_sagas: sagas.iter().map(|(id, end)| (id.0, end.name())).collect(),
        completed_transactions: txs.iter().map(|(id, how)| (id.0, decided(how))).collect(),
        anomalies: report.anomalies.entries.iter().map(|anomaly| anomaly.sequence.0).collect(),
        records: stats.records,
        saga_events: stats.saga_events,
        transaction_events: stats.transaction_events,
        markers: stats.checkpoints,
    }
}

/// Where a replay and the model differ, for people.
type Difference = String;

fn differ(what: &str, model: &impl Debug, replay: &impl Debug) -> Difference {
    format!("{what}\n   model: {model:?}\n  replay: {replay:?}")
}

fn same<T: Debug + PartialEq>(what: &str, model: &T, replay: &T) -> Result<(), Difference> {
    if model == replay { Ok(()) } else { Err(differ(what, model, replay)) }
}

/// A report of so many undamaged records says what the model says.
fn compare(book: &Book, report: &RecoveryReport) -> Result<(), Difference> {
    let (model, replay) = (book.summary(), summary(report));
    let scanned = &report.scanned;
    let counts = (scanned.records, scanned.last_sequence.0, scanned.corrupted_records);
    same("records, last sequence, corrupted records", &(model.records, model.records, 0), &counts)?;
    same("corruption", &false, &scanned.is_corrupt())?;
    same("unknown ids in doubt", &false, &report.unknown_ids_in_doubt)?;
    same("anomalies", &model.anomalies, &replay.anomalies)?;
    for (model, replay) in model.operations.iter().zip(&replay.operations) {
        same("operation", model, replay)?;
    }
    same("operations", &model.operations, &replay.operations)?;
    same("everything", &model, &replay)
}

/// A failure of `check` on the shortest history that fails: no record of it can be left out.
fn shorten(
    history: &[Entry],
    check: impl Fn(&[Entry]) -> Result<(), Difference>,
) -> Result<(), TestCaseError> {
    let check = |history: &[Entry]| {
        panic::catch_unwind(AssertUnwindSafe(|| check(history)))
            .unwrap_or_else(|_| Err("a panic, see above".into()))
    };
    let Err(mut difference) = check(history) else { return Ok(()) };
    let mut shortest = history.to_vec();
    let mut at = shortest.len();
    while at > 0 {
        at -= 1;
        let mut shorter = shortest.clone();
        shorter.remove(at);
        if let Err(other) = check(&shorter) {
            (difference, shortest) = (other, shorter);
            at = shortest.len();
        }
    }
    let lines = (1..).zip(&shortest).map(|(sequence, entry)| format!("{sequence:>4}  {entry:?}\n"));
    Err(TestCaseError::fail(format!("{difference}\n{}", lines.collect::<String>())))
}

// ---- the two kinds of logs ----

fn replay_stream(bytes: &[u8]) -> Result<RecoveryReport, ScanError> {
    let mut replay = Replay::default();
    let config = ScanConfig::default();
    let scanned = wal_core::scan_stream(&mut &bytes[..], &config, &mut replay)?;
    Ok(replay.report(&scanned))
}

struct GuardedLog {
    storage: MemoryStorage,
    log: Log,
}

impl GuardedLog {
    const NOW: Time = Time::ZERO;

    /// Small segments, so that a history lies in several.
    fn config() -> Config {
        Config { segment_bytes_first: 4096, segment_bytes_max: 4096, ..Config::default() }
    }

    fn open(mut storage: MemoryStorage) -> (GuardedLog, RecoveryReport) {
        let mut replay = Replay::default();
        let (config, mode) = (GuardedLog::config(), OpenMode::Exclusive);
        let (log, scanned) =
            wal_core::open(&mut storage, &config, mode, 21, GuardedLog::NOW, &mut replay)
                .expect("memory does not fail");
        let report = replay.report(&scanned);
        (GuardedLog { storage, log }, report)
    }

    fn append(&mut self, sequence: u64, entry: &Entry) {
        let event = EventType(entry.event.code());
        let ms = record::timestamp_ms(sequence);
        let appended = self.log.append(event, ms, &entry.payload()).expect("it is short");
        assert_eq!(appended.0, sequence);
    }

    /// Everything that was appended becomes one batch, and is read back.
    fn flush_and_replay(&mut self) -> RecoveryReport {
        self.log.force(self.log.last());
        wal_core::drive(&mut self.storage, &mut self.log, GuardedLog::NOW);
        assert_eq!(self.log.durable(), self.log.last());
        let mut replay = Replay::default();
        let scanned = wal_core::scan(&self.storage, &ScanConfig::default(), &mut replay)
            .expect("memory does not fail");
        replay.report(&scanned)
    }

    fn close(self) -> MemoryStorage {
        let GuardedLog { mut storage, mut log } = self;
        wal_core::close(&mut storage, &mut log, GuardedLog::NOW);
        assert!(log.poisoned().is_none());
        storage
    }
}

// ---- the properties ----

/// A raw stream, cut at every record: the replay, the model, and the simulator's own model agree.
fn check_stream(history: &[Entry]) -> Result<(), Difference> {
    let (bytes, ends) = record::stream(history);
    let (mut book, mut judge) = (Book::default(), Model::default());
    for ((sequence, entry), end) in (1..).zip(history).zip(ends) {
        let _ = book.take(entry);
        let event = EventType(entry.event.code());
        judge.take(sequence, event, record::timestamp_ms(sequence), &entry.payload());
        let report = replay_stream(&bytes[..end]).expect("a stream of records");
        let behind = |difference| format!("cut behind record {sequence}: {difference}");
        compare(&book, &report).map_err(behind)?;
        same("torn tail", &0, &report.scanned.torn_tail_bytes).map_err(behind)?;
        judge.compare(&report).map_err(|why| behind(format!("the simulator's model: {why}")))?;
    }
    Ok(())
}

/// A guarded log, cut behind every batch. `batches` says, bit by bit, which records end one; the
/// log is closed and opened again in its middle and at its end.
fn check_log(history: &[Entry], batches: u64) -> Result<(), Difference> {
    let (mut guarded, _) = GuardedLog::open(MemoryStorage::new());
    let mut book = Book::default();
    for (at, entry) in history.iter().enumerate() {
        let _ = book.take(entry);
        let sequence = at as u64 + 1;
        let behind = |difference| format!("cut behind record {sequence}: {difference}");
        guarded.append(sequence, entry);
        if batches >> (at % 64) & 1 == 1 {
            compare(&book, &guarded.flush_and_replay()).map_err(behind)?;
        }
        if at == history.len() / 2 || at + 1 == history.len() {
            let (opened, report) = GuardedLog::open(guarded.close());
            compare(&book, &report).map_err(behind)?;
            guarded = opened;
        }
    }
    Ok(())
}

/// What is illegal changes nothing: with a marker in its place the operations are the same. This
/// asks no model what they are.
fn check_that_anomalies_change_nothing(history: &[Entry]) -> Result<(), Difference> {
    let report = |history: &[Entry]| {
        let (bytes, _) = record::stream(history);
        summary(&replay_stream(&bytes).expect("a stream of records"))
    };
    let mut book = Book::default();
    let stands = |entry: &Entry, verdict| match verdict {
        Ok(()) | Err(book::UNBACKED | book::UNREADABLE_COMMIT) => entry.clone(),
        Err(_) => Entry::new(0, Event::Marker),
    };
    let without: Vec<Entry> = history.iter().map(|entry| stands(entry, book.take(entry))).collect();
    if history.is_empty() {
        return Ok(());
    }
    let (with, without) = (report(history), report(&without));
    same("without anomalies", &without.operations, &with.operations)?;
    same("without anomalies", &without.completed_sagas, &with.completed_sagas)?;
    same("without anomalies", &without.completed_transactions, &with.completed_transactions)
}

/// Cut at every byte, a stream holds the records that are whole, and the rest of it is torn. Zeros
/// behind the last record are no tail.
fn check_bytes(history: &[Entry], zeros: usize) -> Result<(), Difference> {
    let (mut bytes, ends) = record::stream(history);
    let cuts = bytes.len();
    bytes.resize(cuts + zeros, 0);
    let mut book = Book::default();
    let (mut whole, mut begun) = (0, 0);
    for cut in (0..=cuts).chain([bytes.len()]) {
        if ends.get(whole).is_some_and(|end| *end <= cut) {
            let _ = book.take(&history[whole]);
            (whole, begun) = (whole + 1, ends[whole]);
        }
        let report = match replay_stream(&bytes[..cut]) {
            Ok(report) => report,
            // There are bytes, and no record among them.
            Err(ScanError::NotALog) if whole == 0 && cut > 0 => continue,
            Err(error) => return Err(format!("cut behind byte {cut}: {error}")),
        };
        let behind = |difference| format!("cut behind byte {cut}: {difference}");
        compare(&book, &report).map_err(behind)?;
        let last = bytes[begun..cut].iter().rposition(|byte| *byte != 0);
        let torn = last.map_or(0, |last| last as u64 + 1);
        same("torn tail", &torn, &report.scanned.torn_tail_bytes).map_err(behind)?;
    }
    Ok(())
}

fn check_legal(history: &[Entry]) -> Result<(), Difference> {
    let report = replay_stream(&record::stream(history).0).expect("a stream of records");
    same("anomalies of a legal history", &[].as_slice(), &report.anomalies.entries.as_slice())
}

proptest! {
    #![proptest_config(config(STREAMS))]

    #[test]
    fn legal_streams_cut_at_every_record(history in author::legal(100)) {
        check_legal(&history).map_err(TestCaseError::fail)?;
        shorten(&history, check_stream)?;
    }

    #[test]
    fn spoilt_streams_cut_at_every_record(history in author::spoilt(80, 6)) {
        shorten(&history, check_stream)?;
        shorten(&history, check_that_anomalies_change_nothing)?;
    }

    #[test]
    fn half_legal_streams_cut_at_every_record(history in author::half_legal(100)) {
        shorten(&history, check_stream)?;
        shorten(&history, check_that_anomalies_change_nothing)?;
    }

    #[test]
    fn soups_cut_at_every_record(history in author::soup(60)) {
        shorten(&history, check_stream)?;
        shorten(&history, check_that_anomalies_change_nothing)?;
    }
}

proptest! {
    #![proptest_config(config(LOGS))]

    #[test]
    fn legal_logs_cut_at_every_batch(history in author::legal(60), batches in any::<u64>()) {
        check_legal(&history).map_err(TestCaseError::fail)?;
        shorten(&history, |history| check_log(history, u64::MAX))?;
        shorten(&history, |history| check_log(history, batches))?;
    }

    #[test]
    fn illegal_logs_cut_at_every_batch(
        history in prop_oneof![author::spoilt(50, 6), author::half_legal(60), author::soup(40)],
        batches in any::<u64>(),
    ) {
        shorten(&history, |history| check_log(history, u64::MAX))?;
        shorten(&history, |history| check_log(history, batches))?;
    }
}

proptest! {
    #![proptest_config(config(STREAMS_IN_BYTES))]

    #[test]
    fn streams_cut_at_every_byte(
        history in prop_oneof![author::legal(30), author::half_legal(20)],
        zeros in 0..700_usize,
    ) {
        shorten(&history, |history| check_bytes(history, zeros))?;
    }
}
