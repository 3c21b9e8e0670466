//! A participant's snapshot says what it was told to say, in as many parts as that takes: whoever replays a log
//! that begins with it finds that, and nothing else.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::{Key, Stream};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use base::{Time, Token};
use coordinator::codec::{self, StepOutcome};
use coordinator::{
    Answered, GatedLog, LocalEffect, LogSlot, Output, Replay, SagaKey, SnapshotWriter, StepAnswer,
};
use saga::Direction;
use std::sync::Arc;
use twopc::participant::{Ending, Event, Finding, Participant, Promise, PromiseKey};
use twopc::{Audit, Peer, TxKey, Watermark};
use wal_core::{AppendError, Config, MemoryStorage, OpenMode, ScanConfig, Storage};

const NODE: NodeName = NodeName::numbered(1);
const MS: i64 = -77;

fn config(max_payload: u32) -> Config {
    Config { max_payload, segment_bytes_first: 16 << 10, ..Config::default() }
}

struct Bench {
    storage: MemoryStorage,
    log: GatedLog,
    expected: Participant,
    effects: Vec<LocalEffect>,
    promised: Vec<(Sequence, i64)>,
    unknown: Option<Epoch>,
}

impl Bench {
    fn new(config: &Config) -> Bench {
        let mut storage = MemoryStorage::new();
        let mode = OpenMode::Exclusive;
        let opened = wal_core::open(&mut storage, config, mode, 9, Time::ZERO, &mut ()).unwrap();
        Bench {
            storage,
            log: GatedLog::new(LogSlot::Participant, opened.0, 0),
            expected: Participant::new(NODE, StoreId::default(), BootCount::default()),
            effects: vec![],
            promised: vec![],
            unknown: None,
        }
    }

    fn writer(&self) -> SnapshotWriter {
        SnapshotWriter::new(self.log.log()).unwrap()
    }

    fn flush(&mut self) {
        loop {
            let mut out = Vec::new();
            self.log.flush(Time::ZERO, &mut out);
            let Some(Output::Disk { ops, .. }) = out.pop() else { return };
            self.storage.perform_all(&ops).unwrap();
            self.log.flushed(Time::ZERO, Ok(()), &mut out);
        }
    }

    /// Appends what the writer has, when there is room for it: all of it, or nothing.
    fn append(&mut self, mut make: impl FnMut(&mut SnapshotWriter), last: bool) {
        loop {
            let mut writer = self.writer();
            make(&mut writer);
            let (before, mut out) = (self.log.log().last(), Vec::new());
            match writer.append(&mut self.log, Time::ZERO, (0, 0), last, &mut out) {
                Ok(_) => {
                    let appended = out.iter().filter(|it| matches!(it, Output::Appended { .. }));
                    assert_eq!(appended.count() as u64, self.log.log().last().0 - before.0);
                    return;
                }
                Err(AppendError::Full { .. }) => {
                    assert!(out.is_empty() && self.log.log().last() == before);
                    self.log.force(before);
                    self.flush();
                    assert!(self.log.is_durable(before));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What is found in the log is what was written.
    fn check(&mut self) {
        self.flush();
        let mut replay = Replay::new(NODE);
        let scanned = wal_core::scan(&self.storage, &ScanConfig::default(), &mut replay).unwrap();
        assert!(scanned.base.is_some() && scanned.base_is_whole, "it begins with the snapshot");
        let report = replay.report(&scanned);
        assert_eq!(report.anomalies.total(), 0, "{:?}", report.anomalies);
        assert_eq!(replay.unknown_ids_up_to(), self.unknown);
        assert_eq!(replay.promised().collect::<Vec<_>>(), self.promised);
        let (found, effects) = replay.into_participant();
        assert!(found.promises().eq(self.expected.promises()));
        assert!(found.epochs().eq(self.expected.epochs()));
        assert!(found.forced().eq(self.expected.forced()));
        for (coordinator, _) in self.expected.epochs() {
            assert_eq!(found.watermark(coordinator), self.expected.watermark(coordinator));
        }
        let effects: Vec<LocalEffect> = effects.into_iter().map(|(_, effect)| effect).collect();
        assert_eq!(effects, self.effects);
    }
}

fn coordinator(number: u64) -> CoordinatorId {
    CoordinatorId::numbered(10 + number)
}

fn key(coordinator_number: u64, id: u64) -> PromiseKey {
    let tx = TxKey { coordinator: coordinator(coordinator_number), id: OperationId(id) };
    PromiseKey { tx, shard: ShardId::numbered(3) }
}

fn promise(stream: &mut Stream, key: PromiseKey) -> Event {
    let peer = |number| Peer {
        shard: ShardId::numbered(number),
        node: NodeName::numbered(number),
        store: StoreId(number),
        boot: BootCount(1),
    };
    // Some are longer than a part.
    let peers = (0..[1, 2, 60][stream.below(3) as usize]).map(peer).collect();
    let work = vec![7; [0, 30, 3_000][stream.below(3) as usize]].into();
    Event::Prepared { key, epoch: Epoch::new(1), peers, work }
}

fn audit(stream: &mut Stream) -> Arc<Audit> {
    let why = "x".repeat([3, 1_000][stream.below(2) as usize]);
    Arc::new(Audit { at_ms: 5, who: "eva".into(), why: why.into() })
}

/// As many of each kind as there are, and as many in a part as fit.
#[test]
fn what_a_snapshot_says_is_found() {
    for seed in 0..40 {
        let mut stream = Key::root(seed).child("snapshots").stream();
        let mut config = config(stream.between(1_500, 6_000) as u32);
        (config.batch_bytes_max, config.buffered_bytes_max) = (16 << 10, 32 << 10);
        let mut bench = Bench::new(&config);
        let mut at = 0;
        for _ in 0..40 {
            // What the snapshot stands for.
            let marker = |payload: &mut Vec<u8>| codec::encode_marker(1, 2, payload);
            at = bench.log.append(Time::ZERO, &mut Vec::new(), marker).unwrap().0;
        }
        assert_eq!(at, 40);
        for id in 1..=stream.below(6) {
            let event = promise(&mut stream, key(0, id));
            bench.append(
                |writer| {
                    let encode = |payload: &mut Vec<u8>| codec::encode_participant(&event, payload);
                    writer.promise(OperationId(id), Sequence(id), MS, encode);
                },
                false,
            );
            bench.expected.apply(Sequence(id), &event).unwrap();
            bench.promised.push((Sequence(id), MS));
        }
        for _ in 0..stream.below(3) {
            let fit = bench.writer().cells_fit() as u64;
            let count = [1, fit][stream.below(2) as usize];
            let cells: Vec<(u64, i64)> = (0..count).map(|it| (it + 9, -(it as i64))).collect();
            bench.append(|writer| writer.cells(cells.iter().copied()), false);
            bench.effects.push(LocalEffect::Cells(cells));
        }
        for part in 0..stream.below(3) {
            let fit = bench.writer().outcomes_fit() as u64;
            let count = [1, fit][stream.below(2) as usize];
            let endings = [Ending::Committed, Ending::Aborted, Ending::ReadOnly];
            let outcomes: Vec<_> = (0..count)
                .map(|it| (key(1, 1_000 * part + it), Sequence(7), endings[it as usize % 3]))
                .collect();
            bench.append(|writer| writer.outcomes(outcomes.iter().copied()), false);
            for (key, at, how) in &outcomes {
                bench.expected.restore_outcome(key, *at, *how);
            }
        }
        for id in 0..stream.below(3) {
            let key = key(2, id);
            let commit = stream.below(2) == 0;
            let mut all = Vec::new();
            let forced = Event::Forced { key, commit, audit: audit(&mut stream) };
            all.push((Sequence(20), forced));
            if stream.below(2) == 0 {
                let found = Finding::Decided { commit: !commit };
                all.push((Sequence(21), Event::Heuristic { key, found }));
                let audit = audit(&mut stream);
                let found = Finding::Forgotten { audit };
                all.push((Sequence(22), Event::Heuristic { key, found }));
            }
            let how = if commit { Ending::Committed } else { Ending::Aborted };
            let outcome = std::iter::once((key, Sequence(20), how));
            bench.append(|writer| writer.outcomes(outcome.clone()), false);
            bench.append(|writer| writer.forced(key.tx.id, all.iter().cloned()), false);
            bench.expected.restore_outcome(&key, Sequence(20), how);
            for (at, event) in &all {
                bench.expected.restore_forced(*at, event).unwrap();
            }
        }
        for step in 0..stream.below(3) as u32 {
            let outcome = StepOutcome {
                key: SagaKey { coordinator: coordinator(0), id: OperationId(4) },
                step,
                direction: [Direction::Forward, Direction::Backward][step as usize % 2],
                token: Token::new(9),
                answer: [StepAnswer::Done, StepAnswer::Refused { code: 3 }][step as usize % 2],
                changed: false,
                work: vec![3; [0, 3_000][stream.below(2) as usize]].into(),
                output: None,
                marked: false,
            };
            bench.append(|writer| writer.step(Sequence(5), &outcome), false);
            bench.effects.push(LocalEffect::Step(outcome));
        }
        for _ in 0..stream.below(3) {
            let fit = bench.writer().steps_fit() as u32;
            let count = [1, fit][stream.below(2) as usize];
            let answered = |step| Answered {
                key: SagaKey { coordinator: coordinator(1), id: OperationId(4) },
                step,
                answers: [
                    Some((StepAnswer::Done, Sequence(2))),
                    (step % 2 == 0).then_some((StepAnswer::Refused { code: step }, Sequence(3))),
                ],
            };
            let steps: Vec<Answered> = (0..count).map(answered).collect();
            bench.append(|writer| writer.steps(steps.iter()), false);
            bench.effects.extend(steps.into_iter().map(LocalEffect::Answered));
        }
        let coordinators = stream.below(4);
        bench.unknown = (stream.below(2) == 0).then_some(Epoch::new(6));
        let unknown = bench.unknown;
        for number in 0..coordinators {
            let name = coordinator(number);
            let epoch = Epoch::new(2 + number as u32);
            let active = (0..stream.below(33)).map(|id| OperationId(50_000 + id));
            let mark = Watermark::new(OperationId(60_000), active);
            // Of the first one nothing is finished: it waits.
            let mark = (number > 2).then_some(mark);
            bench.append(|writer| writer.coordinator(name, epoch, mark.as_ref()), false);
            bench.expected.restore_coordinator(name, epoch, mark, Sequence(1));
        }
        bench.append(
            |writer| {
                if let Some(up_to) = unknown {
                    writer.unknown_ids(up_to);
                }
            },
            true,
        );
        bench.check();
    }
}

/// A part holds nearly as much as a record may, and never more; where not even the longest thing fits that is
/// never cut, there is no snapshot.
#[test]
fn as_much_as_fits_is_in_a_part() {
    let (mut none, mut some) = (0, 0);
    for max_payload in (100..3_000).step_by(20).chain([70_000, 200_000]) {
        let config = config(max_payload);
        if config.validate().is_err() {
            continue;
        }
        let mut bench = Bench::new(&config);
        let Some(room) = SnapshotWriter::room(bench.log.log()) else {
            assert!(SnapshotWriter::new(bench.log.log()).is_none() && some == 0);
            none += 1;
            continue;
        };
        some += 1;
        assert!(room < max_payload as usize && room + 100 > max_payload as usize);
        let cut = room.min(usize::from(u16::MAX));
        let writer = bench.writer();
        for (fit, bytes) in
            [(writer.cells_fit(), 16), (writer.outcomes_fit(), 81), (writer.steps_fit(), 70)]
        {
            assert!(fit * bytes <= cut && (fit + 1) * bytes > cut - 100, "{fit} in {cut}");
        }
        let (cells, outcomes) = (writer.cells_fit() as u64, writer.outcomes_fit() as u64);
        bench.append(|writer| writer.cells((0..cells).map(|cell| (cell, 1))), false);
        let outcome = |id| (key(0, id), Sequence(1), Ending::Committed);
        bench.append(|writer| writer.outcomes((0..outcomes).map(outcome)), false);
        // The longest of all, and what may stand beside it.
        let active = (1..=Watermark::ACTIVE_MAX as u64).map(OperationId);
        let mark = Watermark::new(OperationId(99), active);
        bench.append(
            |writer| {
                writer.coordinator(coordinator(1), Epoch::new(3), Some(&mark));
                writer.unknown_ids(Epoch::new(1));
            },
            true,
        );
        bench.flush();
        let mut replay = Replay::new(NODE);
        let scanned = wal_core::scan(&bench.storage, &ScanConfig::default(), &mut replay).unwrap();
        assert_eq!(replay.report(&scanned).anomalies.total(), 0);
        let found = replay.into_participant().0;
        assert_eq!(found.watermark(coordinator(1)), Some(&mark));
        let committed = Promise::Committed { at: Sequence(1) };
        assert_eq!(found.promise(&key(0, outcomes - 1)), Some(committed));
        assert_eq!(found.promises().count() as u64, outcomes);
    }
    assert!(none > 5 && some > 50, "{none} {some}");
}

/// What an engine lists and what has ended needs as many parts as that takes, too.
#[test]
fn an_engine_writes_more_than_a_part_holds() {
    use coordinator::codec::encode_heuristic;
    use twopc::{Heuristic, coordinator::Event as Tx, heuristic};
    let id = |number: u64| OperationId::draw(Epoch::new(1), number).unwrap();
    let me = coordinator(0);
    for (listed, ended) in [(200u64, 0u64), (0, 200), (70, 70)] {
        let mut config = Config { max_records: 100, ..config(2_000) };
        (config.batch_bytes_max, config.buffered_bytes_max) = (16 << 10, 256 << 10);
        let mut bench = Bench::new(&config);
        let mut append = |encode: &dyn Fn(&mut Vec<u8>) -> wal_core::EventType| {
            bench.log.append(Time::ZERO, &mut Vec::new(), encode).unwrap();
        };
        for number in 1..=listed {
            let (shard, node) = (ShardId::numbered(number), NODE);
            let (id, heuristic) = (id(number), Heuristic::Aborted);
            let event = heuristic::Event::Reported { id, shard, node, heuristic };
            append(&|payload| encode_heuristic(me, &event, payload));
        }
        for number in 1_000..1_000 + ended {
            let key = [&number.to_le_bytes()[..], &[7; 56]].concat();
            let created = Tx::Created {
                coordinator: me,
                request_key: base::RequestKey::new(&key).ok(),
                fingerprint: Some(u128::from(number)),
                parent: None,
            };
            for event in [created, Tx::AbortStart, Tx::AbortComplete] {
                append(&|payload| codec::encode_transaction(id(number), &event, payload));
            }
        }
        bench.log.force(bench.log.log().last());
        bench.flush();
        let known = |storage: &MemoryStorage| {
            let mut replay = Replay::default();
            let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut replay).unwrap();
            let report = replay.report(&scanned);
            assert_eq!(report.anomalies.total(), 0, "{:?}", report.anomalies);
            let ended: Vec<_> = replay.ended_transactions().cloned().collect();
            ((report.heuristics, ended), scanned.base.is_some())
        };
        let (before, based) = known(&bench.storage);
        assert_eq!((before.0.len() as u64, before.1.len() as u64), (listed, ended));
        assert!(!based);

        let mut storage = bench.storage;
        compacted(&mut storage, &config);
        assert_eq!(known(&storage), (before, true));
    }
}

/// A commit decision of which a later version has written more than can be read stands, from a snapshot too.
#[test]
fn a_decision_that_cannot_be_read_to_its_end_is_carried_on() {
    use coordinator::RecoveryAction;
    use twopc::coordinator::{Event as Tx, Member};
    let (me, member) = (coordinator(0), Member::new(ShardId::numbered(1), NODE));
    let id = OperationId::draw(Epoch::new(1), 1).unwrap();
    let config = Config { max_records: 8, ..config(2_000) };
    let mut bench = Bench::new(&config);
    let created =
        Tx::Created { coordinator: me, request_key: None, fingerprint: None, parent: None };
    let vote = Tx::VoteReceived { shard: member.shard, vote: twopc::Vote::Commit };
    let commit = Tx::CommitStart { members: vec![member] };
    for event in [created, Tx::ParticipantAdded(member), Tx::PrepareStart, vote, commit.clone()] {
        let encode = |payload: &mut Vec<u8>| {
            let from = payload.len();
            let kind = codec::encode_transaction(id, &event, payload);
            if event == commit {
                // The version of what stands behind the id.
                payload[from + 8] += 1;
            }
            kind
        };
        bench.log.append(Time::ZERO, &mut Vec::new(), encode).unwrap();
    }
    for _ in 0..10 {
        let marker = |payload: &mut Vec<u8>| codec::encode_marker(1, 2, payload);
        bench.log.append(Time::ZERO, &mut Vec::new(), marker).unwrap();
    }
    bench.log.force(bench.log.log().last());
    bench.flush();
    let known = |storage: &MemoryStorage| {
        let mut replay = Replay::default();
        let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut replay).unwrap();
        let report = replay.report(&scanned);
        ((report.operations, scanned.base.is_some()), report.anomalies.total())
    };
    let ((before, based), anomalies) = known(&bench.storage);
    assert_eq!((before[0].action, before[0].in_doubt), (RecoveryAction::TxResumeCommit, false));
    assert_eq!((based, anomalies), (false, 1));
    let mut storage = bench.storage;
    compacted(&mut storage, &config);
    assert_eq!(known(&storage), ((before, true), 0));
}

/// Runs an engine on the log until it is compacted.
fn compacted(storage: &mut MemoryStorage, config: &Config) {
    let (mode, mut replay) = (OpenMode::Exclusive, Replay::default());
    let log = wal_core::open(storage, config, mode, 9, Time::ZERO, &mut replay).unwrap().0;
    let of = coordinator::Config::new(coordinator(0), Key::root(1));
    let mut engine = coordinator::Engine::resume(of, replay, log, Time::ZERO, &mut Vec::new());
    for _ in 0..1_000 {
        let mut out = Vec::new();
        engine.flush(Time::ZERO, &mut out);
        for output in out {
            if let Output::Disk { ops, .. } = output {
                storage.perform_all(&ops).unwrap();
                engine.flushed(Time::ZERO, Ok(()), &mut Vec::new());
            }
        }
    }
    assert!(!engine.log().is_compacting() && !engine.log().compaction_due());
}
