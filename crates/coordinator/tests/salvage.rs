//! A damaged log's salvage, and what goes on with the log that it makes.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::io;

use base::prng::Key;
use base::{
    BootCount, CoordinatorId, Epoch, NodeName, OperationId, RequestKey, Sequence, ShardId, StoreId,
    Time,
};
use coordinator::{
    Branch, Config, Doubt, Engine, Message, Outcome, Output, RecoveryReport, Replay, Request,
    SalvageError, Work, codec, salvage,
};
use twopc::coordinator::{Event as Tx, Member};
use twopc::{TxKey, Verdict, Vote};
use wal_core::{
    Directory, DiskError, DiskOp, EventType, Guard, Log, MemoryStorage, OpenMode, Place, Record,
    ScanConfig, SegmentId, Storage, Visitor,
};

const COORDINATOR: CoordinatorId = CoordinatorId::numbered(1);
const UNDECIDED: OperationId = OperationId(1 << 40 | 1);
const DECIDED: OperationId = OperationId(1 << 40 | 2);
const RUNNING: OperationId = OperationId(1 << 40 | 3);
/// Drawn under the first epoch, and nowhere in the log.
const UNKNOWN: OperationId = OperationId(1 << 40 | 99);

fn key(name: &str) -> RequestKey {
    RequestKey::new(name.as_bytes()).unwrap()
}

fn member() -> Member {
    Member::new(ShardId::numbered(1), NodeName::numbered(2))
}

type Written = (EventType, Vec<u8>);

fn tx(id: OperationId, event: &Tx) -> Written {
    let mut payload = Vec::new();
    (codec::encode_transaction(id, event, &mut payload), payload)
}

fn saga(id: OperationId, event: &saga::Event) -> Written {
    let mut payload = Vec::new();
    (codec::encode_saga(id, event, &mut payload), payload)
}

fn admission(id: OperationId, name: &str) -> Vec<Written> {
    let (coordinator, request_key) = (COORDINATOR, Some(key(name)));
    let created = Tx::Created { coordinator, request_key, fingerprint: None, parent: None };
    let events = [created, Tx::ParticipantAdded(member()), Tx::PrepareStart];
    events.iter().map(|event| tx(id, event)).collect()
}

/// Batches: an undecided transaction, a decided one and a running saga; what will be damaged; more.
fn batches() -> Vec<Vec<Written>> {
    let mut before = admission(UNDECIDED, "undecided");
    before.extend(admission(DECIDED, "decided"));
    let vote = Tx::VoteReceived { shard: member().shard, vote: Vote::Commit };
    before.push(tx(DECIDED, &vote));
    before.push(tx(DECIDED, &Tx::CommitStart { members: vec![member()] }));
    let request_key = Some(key("running"));
    before.extend(
        [
            saga::Event::Created {
                coordinator: COORDINATOR,
                nonce: 5,
                request_key,
                terms: saga::SagaTerms::default(),
            },
            saga::Event::StepAdded {
                step: 0,
                action: saga::Action::Custom,
                dependencies: None,
                node: NodeName::numbered(2),
                body: [1].into(),
                terms: Default::default(),
            },
            saga::Event::ExecuteStart,
        ]
        .map(|event| saga(RUNNING, &event)),
    );
    let hidden = vec![tx(UNDECIDED, &vote), tx(UNDECIDED, &Tx::AbortStart)];
    let behind = vec![codec_marker()];
    vec![before, hidden, behind]
}

fn codec_marker() -> Written {
    let mut payload = Vec::new();
    (codec::encode_marker(1, 2, &mut payload), payload)
}

fn open(storage: &mut MemoryStorage) -> Log {
    let config = wal_core::Config::default();
    let opened = wal_core::open(storage, &config, OpenMode::Exclusive, 7, Time::ZERO, &mut ());
    opened.unwrap().0
}

fn written(batches: &[Vec<Written>]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let mut log = open(&mut storage);
    for batch in batches {
        for (event, payload) in batch {
            log.append(*event, 1_000, payload).unwrap();
        }
        log.force(log.last());
        wal_core::drive(&mut storage, &mut log, Time::ZERO);
    }
    wal_core::close(&mut storage, &mut log, Time::ZERO);
    storage
}

#[derive(Default)]
struct Told {
    guards: Vec<(SegmentId, u64)>,
    records: Vec<(u64, EventType, i64, Vec<u8>)>,
}

impl Visitor for Told {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        let Record { sequence, event, timestamp_ms, payload } = *record;
        self.records.push((sequence.0, event, timestamp_ms, payload.to_vec()));
    }

    fn guard(&mut self, _: &Guard, place: Place) {
        self.guards.push((place.segment, place.offset));
    }
}

fn told(storage: &MemoryStorage) -> Told {
    let mut told = Told::default();
    wal_core::scan(storage, &ScanConfig::default(), &mut told).unwrap();
    told
}

/// The log with its batch of that number damaged.
fn damaged(batch: usize) -> MemoryStorage {
    let mut storage = written(&batches());
    let (segment, offset) = told(&storage).guards[batch];
    storage.file_mut(segment)[offset as usize + 30] ^= 0x40;
    storage
}

fn replayed(storage: &MemoryStorage) -> (Replay, RecoveryReport) {
    let mut replay = Replay::default();
    let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut replay).unwrap();
    let report = replay.report(&scanned);
    (replay, report)
}

fn salvaged(from: &MemoryStorage) -> (MemoryStorage, coordinator::Salvaged) {
    let mut to = MemoryStorage::new();
    let done = salvage(from, &mut to, &wal_core::Config::default(), 8, 2_000).unwrap();
    (to, done)
}

// ---- what is in the new log ----

#[test]
fn every_record_keeps_its_number_and_what_is_lost_is_named() {
    let damaged = damaged(1);
    let before = damaged.clone();
    let (new, done) = salvaged(&damaged);
    assert_eq!(damaged, before, "the damaged log is left as it was");
    let (old, now) = (told(&damaged).records, told(&new).records);
    assert_eq!((done.records, done.lost), (12, 2));
    assert_eq!(now.iter().map(|told| told.0).collect::<Vec<_>>(), (1..=17).collect::<Vec<_>>());
    for record in &old {
        assert_eq!(&now[record.0 as usize - 1], record);
    }
    let doubts: Vec<_> = now
        .iter()
        .filter(|told| told.1 == EventType::IN_DOUBT)
        .map(|(sequence, event, timestamp, payload)| {
            assert_eq!(*timestamp, 2_000);
            let Ok(codec::Fact::InDoubt(doubt)) = codec::decode(*event, payload) else {
                panic!("{payload:?}");
            };
            let coordinator = CoordinatorId(payload[8..40].try_into().unwrap());
            (*sequence, coordinator, doubt)
        })
        .collect();
    let nobody = CoordinatorId::default();
    assert_eq!(
        doubts,
        [
            (12, nobody, Doubt::LostRecord),
            (13, nobody, Doubt::LostRecord),
            (15, COORDINATOR, Doubt::Saga(RUNNING)),
            (16, COORDINATOR, Doubt::Transaction(UNDECIDED)),
            (17, nobody, Doubt::UnknownIds { up_to: Epoch::new(1) }),
        ]
    );
    let in_doubt: Vec<_> = done.in_doubt().map(|operation| operation.id).collect();
    assert_eq!(in_doubt, [RUNNING, UNDECIDED]);
    let (_, report) = replayed(&new);
    assert_eq!((report.scanned.log_id, report.scanned.epoch), (Some(8), Epoch::new(2)));
    assert_eq!((done.log_id, done.epoch, done.last), (8, Epoch::new(2), Sequence(17)));
}

#[test]
fn a_salvage_says_what_the_damaged_log_said() {
    // Damage in each batch, the last one's too, and in the guards of the clean close.
    for batch in 0..5 {
        let damaged = damaged(batch);
        let (_, old) = replayed(&damaged);
        let (new, _) = salvaged(&damaged);
        let (_, now) = replayed(&new);
        assert!(old.scanned.is_corrupt() && !now.scanned.is_corrupt(), "{batch}");
        assert_eq!(now.operations, old.operations, "{batch}");
        assert_eq!(now.completed_transactions, old.completed_transactions, "{batch}");
        assert_eq!(now.anomalies, old.anomalies, "{batch}");
        assert_eq!(now.unknown_ids_up_to, old.unknown_ids_up_to, "{batch}");
        assert_eq!(old.operations.iter().any(|found| found.in_doubt), batch < 3 || batch == 4);

        // Salvaged once more it says the same again, with nothing added.
        let (twice, done) = salvaged(&new);
        assert_eq!(told(&twice).records, told(&new).records, "{batch}");
        assert_eq!(done.epoch, Epoch::new(3), "{batch}");
    }
}

#[test]
fn a_clean_log_is_copied() {
    let clean = written(&batches());
    let (new, done) = salvaged(&clean);
    assert_eq!(told(&new).records, told(&clean).records);
    assert_eq!((done.records, done.lost, done.in_doubt().count()), (14, 0, 0));
    let (_, report) = replayed(&new);
    assert_eq!(report.operations, replayed(&clean).1.operations);
    assert!(!report.unknown_ids_in_doubt);
    assert_eq!(report.scanned.epoch, Epoch::new(2));
}

#[test]
fn a_missing_segment_is_stood_in_for() {
    let mut storage = written(&batches());
    for id in 10..13 {
        let mut log = open(&mut storage);
        for (event, payload) in admission(OperationId(id), "later") {
            log.append(event, 1_000, &payload).unwrap();
        }
        wal_core::close(&mut storage, &mut log, Time::ZERO);
    }
    storage.remove(SegmentId(3)).unwrap();
    let (new, done) = salvaged(&storage);
    assert_eq!((done.records, done.lost, done.epoch), (20, 3, Epoch::new(5)));
    assert_eq!(replayed(&new).1.operations, replayed(&storage).1.operations);
    assert_eq!(replayed(&new).1.unknown_ids_up_to, Some(Epoch::new(4)));
}

/// Who has lost the header that names the highest epoch may not know it, and goes one further.
#[test]
fn a_header_that_cannot_be_read_may_have_had_a_higher_epoch() {
    let mut storage = written(&batches());
    let log = open(&mut storage);
    assert_eq!(log.epoch(), Epoch::new(2));
    for at in [40, 512 + 40] {
        storage.file_mut(log.segment())[at] ^= 1;
    }
    let (_, done) = salvaged(&storage);
    assert!(done.epoch > Epoch::new(2), "{:?}", done.epoch);
}

#[test]
fn the_longest_record_of_the_old_log_finds_room() {
    let mut storage = MemoryStorage::new();
    let config = wal_core::Config {
        max_payload: 8 << 20,
        batch_bytes_max: 12 << 20,
        buffered_bytes_max: 12 << 20,
        ..wal_core::Config::default()
    };
    let opened = wal_core::open(&mut storage, &config, OpenMode::Exclusive, 7, Time::ZERO, &mut ());
    let (mut log, _) = opened.unwrap();
    for _ in 0..5 {
        log.append(EventType(0x2a), 1, &vec![7; 8 << 20]).unwrap();
        log.force(log.last());
        wal_core::drive(&mut storage, &mut log, Time::ZERO);
    }
    wal_core::close(&mut storage, &mut log, Time::ZERO);
    let (new, done) = salvaged(&storage);
    assert_eq!(done.records, 5);
    assert_eq!(told(&new).records, told(&storage).records);
}

#[test]
fn a_place_that_holds_a_log_is_refused() {
    let mut there = written(&[]);
    let before = there.clone();
    let config = wal_core::Config::default();
    let refused = salvage(&damaged(1), &mut there, &config, 8, 0);
    assert!(matches!(refused, Err(SalvageError::NotEmpty)));
    assert_eq!(there, before);
    let refused = salvage(&there, &mut MemoryStorage::new(), &config, 8, 0);
    assert!(refused.is_ok(), "a log without records is one");
}

/// A disk that fails from its n-th operation on.
struct Failing {
    inner: MemoryStorage,
    left: usize,
    last: Option<DiskOp>,
}

impl Directory for Failing {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        self.inner.segments()
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        self.inner.len(segment)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(segment, offset, into)
    }
}

impl Storage for Failing {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if self.left == 0 {
            return Err(io::Error::other("no more").into());
        }
        self.left -= 1;
        self.last = Some(op.clone());
        self.inner.perform(op)
    }
}

#[test]
fn a_disk_that_fails_is_told_whenever_it_does() {
    let from = damaged(1);
    let config = wal_core::Config::default();
    let whole = salvaged(&from).0;
    let mut failed = 0;
    for left in 0..100 {
        let mut to = Failing { inner: MemoryStorage::new(), left, last: None };
        match salvage(&from, &mut to, &config, 8, 2_000) {
            Ok(_) => {
                assert_eq!(to.inner, whole);
                assert_eq!(to.left, 0, "it is done with its last operation");
                // Everything is synced before; this gives back what a shell made ahead of time.
                assert!(matches!(to.last, Some(DiskOp::Truncate { .. })), "{:?}", to.last);
                assert!(failed > 8, "{failed}");
                return;
            }
            Err(error) => {
                assert!(matches!(error, SalvageError::Disk(_)), "{left}: {error}");
                assert!(error.to_string().contains("no more"), "{error}");
                failed += 1;
            }
        }
    }
    panic!("it never ends");
}

// ---- going on with it ----

/// An engine on the salvaged log, and what it did at once and in the first minutes.
fn engine() -> (Engine, Vec<Output>) {
    let (mut storage, _) = salvaged(&damaged(1));
    let (mut replay, mut out) = (Replay::default(), Vec::new());
    let config = wal_core::Config::default();
    let mode = OpenMode::Exclusive;
    let opened = wal_core::open(&mut storage, &config, mode, 9, Time::ZERO, &mut replay);
    let (log, scanned) = opened.unwrap();
    assert!(!scanned.is_corrupt());
    let key = Key::root(1);
    let mut engine =
        Engine::resume(Config::new(COORDINATOR, key), replay, log, Time::ZERO, &mut out);
    for _ in 0..200 {
        let Some(now) = engine.next_wake().filter(|now| *now < Time::from_nanos(600_000_000_000))
        else {
            break;
        };
        engine.wake(now, &mut out);
        let from = out.len();
        engine.flush(now, &mut out);
        for index in from..out.len() {
            if let Output::Disk { ops, .. } = out[index].clone() {
                storage.perform_all(&ops).unwrap();
                engine.flushed(now, Ok(()), &mut out);
            }
        }
    }
    (engine, out)
}

#[test]
fn nothing_is_done_about_what_is_in_doubt() {
    let (engine, out) = engine();
    let mut commits = 0;
    for output in &out {
        match output {
            Output::Send { message: Message::Transaction(message), .. } => {
                assert_eq!(message.key().id, DECIDED, "{message:?}");
                commits += u32::from(matches!(message, twopc::Message::Commit { .. }));
            }
            Output::Send { message, .. } => panic!("{message:?}"),
            Output::Appended { event, .. } => panic!("{event:?}"),
            Output::Reply { key: of, outcome } => {
                assert_eq!((of, outcome), (&key("decided"), &Outcome::Committed));
            }
            Output::Parked { .. }
            | Output::Operated(_)
            | Output::Heuristic { .. }
            | Output::Intervened(_) => panic!("{output:?}"),
            Output::Disk { .. } | Output::Recovered { .. } | Output::Died { .. } => {}
        }
    }
    assert!(commits > 3, "what is certain goes on: {commits}");
    assert_eq!(engine.sagas_in_doubt().collect::<Vec<_>>(), [RUNNING]);
    assert_eq!(engine.transactions_in_doubt().collect::<Vec<_>>(), [UNDECIDED]);
    assert_eq!(engine.active(), 1);
}

#[test]
fn nobody_is_told_what_is_not_known() {
    let (mut engine, _) = engine();
    let mut ask = |id| {
        let mut out = Vec::new();
        let key = TxKey { coordinator: COORDINATOR, id };
        let (shard, store) = (member().shard, StoreId(1));
        let inquiry = twopc::Message::Inquiry { key, shard, store };
        engine.receive(Time::ZERO, member().node, &Message::Transaction(inquiry), &mut out);
        match &out[..] {
            [] => None,
            [Output::Send { message: Message::Transaction(answer), .. }] => match answer {
                twopc::Message::Answer { verdict, .. } => Some(*verdict),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(UNDECIDED), Some(Verdict::InDoubt));
    assert_eq!(ask(UNKNOWN), Some(Verdict::InDoubt));
    assert_eq!(ask(DECIDED), Some(Verdict::Committed));
    // The epoch of the salvage itself drew nothing: what is not there is aborted, as ever.
    assert_eq!(ask(OperationId::draw(Epoch::new(2), 1).unwrap()), Some(Verdict::Aborted));
    assert_eq!(ask(OperationId::draw(Epoch::new(3), 1).unwrap()), None);
}

#[test]
fn a_request_in_doubt_is_not_started_again() {
    let (mut engine, _) = engine();
    for name in ["undecided", "running"] {
        let mut out = Vec::new();
        let cancelled = engine.cancel(Time::ZERO, &key(name), &mut out);
        assert_eq!(cancelled, Err(coordinator::CancelRefusal::InDoubt));
        let branch = Branch { shard: member().shard, node: member().node, work: [].into() };
        let request = Request { key: key(name), work: Work::Transaction(vec![branch]) };
        engine.submit(Time::ZERO, request, &mut out);
        let [Output::Reply { key: of, outcome }] = &out[..] else { panic!("{out:?}") };
        assert_eq!((of, outcome), (&key(name), &Outcome::InDoubt));
    }
    // A vote and an answer of a step that come late change nothing.
    let mut out = Vec::new();
    let (key, shard) = (TxKey { coordinator: COORDINATOR, id: UNDECIDED }, member().shard);
    let (store, boot, vote) = (StoreId(1), BootCount(1), Vote::Commit);
    let vote = twopc::Message::Vote { key, shard, vote, store, boot };
    engine.receive(Time::ZERO, member().node, &Message::Transaction(vote), &mut out);
    assert!(out.is_empty(), "{out:?}");
}

/// An id that is drawn from now on is none of those that are in doubt.
#[test]
fn no_doubtful_epoch_is_used_again() {
    let mut payload = Vec::new();
    let nobody = CoordinatorId::default();
    let up_to = Epoch::new(40);
    let event = codec::encode_doubt(nobody, &Doubt::UnknownIds { up_to }, &mut payload);
    let (replay, report) = replayed(&written(&[vec![(event, payload)]]));
    assert_eq!(report.unknown_ids_up_to, Some(up_to));
    assert_eq!(replay.free_epoch(Epoch::new(2)), Some(Epoch::new(41)));
    assert_eq!(replay.free_epoch(Epoch::new(50)), Some(Epoch::new(50)));
}

/// What says that something is in doubt, and not what, is no weaker for it.
#[test]
fn a_doubt_that_cannot_be_read_covers_everything() {
    let mut before = batches().remove(0);
    let mut payload = Vec::new();
    let nobody = CoordinatorId::default();
    let event = codec::encode_doubt(nobody, &Doubt::Saga(RUNNING), &mut payload);
    before.push((event, payload[..40].to_vec()));
    let (replay, report) = replayed(&written(&[before]));
    assert_eq!(report.anomalies.entries.len(), 1);
    let doubtful = report.operations.iter().filter(|found| found.in_doubt).map(|found| found.id);
    assert_eq!(doubtful.collect::<Vec<_>>(), [RUNNING, UNDECIDED]);
    assert!(report.unknown_ids_in_doubt);
    let found = replay.into_operations(Epoch::new(9));
    assert_eq!(found.unknown_ids_up_to, Some(Epoch::new(8)));
}
