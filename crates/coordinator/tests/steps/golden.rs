//! A log with steps that are operations, kept as a file, as the first version that wrote such a log did: every
//! later version goes on with it. Beside it is what a recovery finds in it. Neither is ever changed.

use super::*;
use base::ParentStep;
use coordinator::{OperationKind, RecoveryReport};
use saga::{AttemptNote, Event, FailedEffect};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use twopc::Peer;
use twopc::coordinator::{Event as Tx, Member};
use wal_core::{FileStorage, ScanConfig};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/steps-v1")
}

const fn id(number: u64) -> OperationId {
    OperationId(1 << 40 | number)
}

/// Goes forward: its first step was a transaction, its second is a saga with a saga in it.
const FORWARD: OperationId = id(1);
/// Goes backward: what undid its first step was aborted, parked, and replaced by an operator.
const BACKWARD: OperationId = id(5);
/// Waits behind its pivot: an operator has forced a transaction to abort.
const WAITS: OperationId = id(9);

fn of(saga: OperationId, step: u32, undo: bool) -> ParentStep {
    ParentStep { saga, step, undo }
}

fn member(number: u64) -> Member {
    let (shard, node) = (ShardId::numbered(number), at(number));
    Member::at(Peer { shard, node, store: StoreId(number), boot: BootCount(1) })
}

fn transfer() -> Step {
    Step::transaction(branches(&[1, 2])).undone_by_transaction(branches(&[3, 4])).attempts(2)
}

fn inner() -> Definition {
    row([call(1), Step::saga(row([call(2)]))])
}

fn client(saga: OperationId, name: &str, definition: &Definition) -> Vec<Written> {
    let admission = saga::Saga::admission(definition, COORDINATOR, saga.0.into(), Some(key(name)));
    written(saga, &admission)
}

fn sub_saga(saga: OperationId, parent: ParentStep, definition: &Definition) -> Vec<Written> {
    let admission = saga::Saga::admission(definition, COORDINATOR, saga.0.into(), None);
    written(saga, &saga::Saga::on_behalf_of(parent, admission))
}

fn transaction(tx: OperationId, events: &[Tx]) -> Vec<Written> {
    let encode = |event: &Tx| {
        let mut payload = Vec::new();
        (codec::encode_transaction(tx, event, &mut payload), payload)
    };
    events.iter().map(encode).collect()
}

fn begun(tx: OperationId, parent: ParentStep, members: &[Member]) -> Vec<Written> {
    let admission = match members {
        [only] => twopc::Transaction::one_phase_admission(COORDINATOR, None, None, *only),
        _ => twopc::Transaction::admission(COORDINATOR, None, None, members).unwrap(),
    };
    transaction(tx, &twopc::Transaction::on_behalf_of(parent, admission))
}

/// Both have committed, and the saga has heard of it.
fn transferred(tx: OperationId, parent: ParentStep) -> Vec<Written> {
    let members = [member(1), member(2)];
    let vote = |member: &Member| Tx::VoteReceived { shard: member.shard, vote: Vote::Commit };
    let mut log = begun(tx, parent, &members);
    log.extend(transaction(tx, &members.each_ref().map(vote)));
    log.extend(transaction(tx, &[Tx::CommitStart { members: members.to_vec() }]));
    log.extend(written(parent.saga, &[done(parent.step)]));
    log.extend(transaction(tx, &[Tx::CommitComplete]));
    log
}

const fn done(step: u32) -> Event {
    Event::StepSucceeded { step, output: None }
}

fn noted(attempt: u32, step: u32, note: AttemptNote) -> Event {
    Event::CompensationFailed { step, attempt, note }
}

fn log() -> Vec<Written> {
    let refused = Event::StepFailed { step: 1, error_code: 5, effect: FailedEffect::None };
    let (who, why) = ("eva".into(), "the account was closed".into());
    let what = What::Instead { branches: branches(&[6]).into() };
    let order = AttemptNote::Ordered(Box::new(Order { who, why, what }));
    let audit = Arc::new(Audit { at_ms: 5, who: "eva".into(), why: "they asked".into() });
    let waiting = row([
        call(0).kind(StepKind::Pivot),
        Step::transaction(branches(&[1])).kind(StepKind::Retriable),
    ]);
    [
        client(FORWARD, "forward", &row([transfer(), Step::saga(inner()), call(9)])),
        transferred(id(2), of(FORWARD, 0, false)),
        sub_saga(id(3), of(FORWARD, 1, false), &inner()),
        written(id(3), &[done(0)]),
        sub_saga(id(4), of(id(3), 1, false), &row([call(2)])),
        client(BACKWARD, "backward", &row([transfer(), call(8)])),
        transferred(id(6), of(BACKWARD, 0, false)),
        written(BACKWARD, &[refused]),
        begun(id(7), of(BACKWARD, 0, true), &[member(3), member(4)]),
        transaction(id(7), &[Tx::AbortStart]),
        written(BACKWARD, &[noted(1, 0, AttemptNote::Parked)]),
        transaction(id(7), &[Tx::AbortComplete]),
        written(BACKWARD, &[noted(1, 0, order)]),
        begun(id(8), of(BACKWARD, 0, true), &[member(1)]),
        client(WAITS, "waits", &waiting),
        written(WAITS, &[done(0)]),
        begun(id(10), of(WAITS, 1, false), &[member(1)]),
        transaction(id(10), &[Tx::ForcedAbort { audit }]),
        written(WAITS, &[noted(1, 1, AttemptNote::Parked)]),
        transaction(id(10), &[Tx::AbortComplete]),
    ]
    .concat()
}

/// A line for each operation, and one for each that has ended.
fn lines(report: &RecoveryReport) -> String {
    let mut lines = String::new();
    for found in &report.operations {
        let parent = found
            .parent
            .map(|of| format!(" for step {} of {}, undo: {}", of.step, of.saga, of.undo));
        let more = match &found.kind {
            OperationKind::Saga { run, undo, parked, .. } => {
                format!("saga, run {run:?} undo {undo:?} parked {parked:?}")
            }
            OperationKind::Transaction { members, .. } => {
                format!("transaction of {}", members.len())
            }
            OperationKind::Promise { .. } => panic!("a coordinator's log"),
        };
        let (id, state, action, parent) =
            (found.id, found.state, found.action.name(), parent.unwrap_or_default());
        lines += &format!("{id} {state} {action}: {more}{parent}\n");
    }
    for (id, how) in &report.completed_transactions.entries {
        lines += &format!("{id} {how:?}\n");
    }
    assert_eq!(report.completed_sagas.total(), 0);
    assert_eq!(report.anomalies.entries, []);
    lines
}

/// The files, as a disk that a test performs.
fn kept() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let segment = wal_core::SegmentId::FIRST;
    *storage.file_mut(segment) = std::fs::read(folder().join(segment.file_name())).unwrap();
    storage
}

fn over_what_was_kept() -> Bench {
    let mut bench = Bench::new(|config| config.undo_attempts_max = 1);
    bench.storage = kept();
    bench.restart();
    bench
}

#[test]
fn what_was_written_is_recovered() {
    let mut replay = Replay::default();
    let storage = FileStorage::read(&folder()).unwrap();
    let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut replay).unwrap();
    assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
    let expected = std::fs::read_to_string(folder().join("recovered.txt")).unwrap();
    assert_eq!(lines(&replay.report(&scanned)), expected);
}

/// An engine finds what runs for which step, and brings all of it to its end.
#[test]
fn what_was_written_is_gone_on_with() {
    let mut bench = over_what_was_kept();
    let engine = bench.engine.as_ref().unwrap();
    let children: Vec<_> = engine.step_operations().collect();
    let expected = [
        (of(FORWARD, 1, false), StepOperation::Saga(id(3))),
        (of(id(3), 1, false), StepOperation::Saga(id(4))),
        (of(BACKWARD, 0, true), StepOperation::Transaction(id(8))),
    ];
    assert_eq!(children, expected);
    assert_eq!(bench.parked(), [(WAITS, 1)]);
    assert!(bench.prepared.is_empty(), "nothing is begun anew");

    bench.answer(id(4), 0, Direction::Forward, StepAnswer::Done);
    bench.answer(FORWARD, 2, Direction::Forward, StepAnswer::Done);
    assert_eq!(bench.outcomes(), [Outcome::Completed]);
    bench.vote(id(8), 1, Vote::Commit);
    bench.ack(id(8), 1);
    assert_eq!(bench.outcomes(), [Outcome::Compensated]);
    assert_eq!(bench.order(WAITS, 1, What::MarkDone), Ok(()));
    assert_eq!(bench.outcomes(), [Outcome::Completed]);
    bench.wait(seconds(100));
    assert_eq!((bench.engine().active(), bench.children()), (0, vec![]));
}

/// What is aborted is begun anew: as the operator has ordered, not as the definition says.
#[test]
fn an_order_that_was_kept_counts() {
    let mut bench = over_what_was_kept();
    bench.vote(id(8), 1, Vote::Abort);
    bench.wait(seconds(1));
    let begun: BTreeSet<_> = bench.prepared.iter().map(|(.., work)| work.clone()).collect();
    assert_eq!(begun, BTreeSet::from([vec![6]]));
}

/// Whoever changes these bytes has made another format, with a folder of its own.
#[test]
fn todays_writer_writes_these_very_bytes() {
    let written = disk_with(&log());
    let files: Vec<_> = written.files().collect();
    let [(segment, bytes)] = files[..] else { panic!("one segment") };
    let golden = std::fs::read(folder().join(segment.file_name())).unwrap();
    let differs = golden.iter().zip(bytes).position(|(a, b)| a != b);
    assert_eq!((differs, bytes.len()), (None, golden.len()));
}
