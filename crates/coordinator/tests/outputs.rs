//! What the steps of a saga have brought is known for as long as its result is: after its end, over
//! restarts, and when the log holds no record of it any more but in a snapshot.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::Key;
use base::{CoordinatorId, NodeName, OperationId, RequestKey, Time};
use coordinator::{
    Config, Engine, Message, Outcome, Output, Replay, Request, SagaKey, StepAnswer, Work,
};
use saga::{Action, Definition, Direction, Step, StepInput, ValueType};
use std::collections::BTreeMap;
use std::time::Duration;
use wal_core::{MemoryStorage, OpenMode, Storage};

const COORDINATOR: CoordinatorId = CoordinatorId([7; 32]);
const NODE: NodeName = NodeName::numbered(1);

struct Bench {
    storage: MemoryStorage,
    engine: Option<Engine>,
    now: Time,
    told: Vec<Outcome>,
    records: u64,
}

fn key(number: u64) -> RequestKey {
    RequestKey::new(&number.to_le_bytes()).unwrap()
}

/// What step `step` of saga `number` brings: some of it longer than a part of a snapshot.
fn brought(number: u64, step: u32) -> saga::Output {
    let bytes = if number.is_multiple_of(3) { 3_000 } else { 5 };
    saga::Output::Inline(vec![number as u8 ^ step as u8; bytes].into())
}

impl Bench {
    fn new() -> Bench {
        let (storage, told) = (MemoryStorage::new(), vec![]);
        let mut bench = Bench { storage, engine: None, now: Time::ZERO, told, records: 0 };
        bench.restart();
        bench
    }

    fn restart(&mut self) {
        let (mut replay, mut out) = (Replay::default(), Vec::new());
        let mut log = wal_core::Config { max_records: 30, ..Default::default() };
        (log.segment_bytes_first, log.max_payload) = (32 << 10, 8 << 10);
        let mode = OpenMode::Exclusive;
        let (log, scanned) =
            wal_core::open(&mut self.storage, &log, mode, 9, self.now, &mut replay).unwrap();
        let report = replay.report(&scanned);
        assert_eq!(report.anomalies.total(), 0, "{:?}", report.anomalies);
        self.records = scanned.records;
        let mut config = Config::new(COORDINATOR, Key::root(3));
        config.results_kept = Duration::from_secs(100);
        self.engine = Some(Engine::resume(config, replay, log, self.now, &mut out));
        self.take(out);
    }

    fn take(&mut self, out: Vec<Output>) {
        let mut out = std::collections::VecDeque::from(out);
        loop {
            let mut more = Vec::new();
            let engine = self.engine.as_mut().unwrap();
            match out.pop_front() {
                Some(Output::Reply { outcome, .. }) => self.told.push(outcome),
                Some(Output::Disk { ops, .. }) => {
                    self.storage.perform_all(&ops).unwrap();
                    engine.flushed(self.now, Ok(()), &mut more);
                }
                Some(Output::Send {
                    message: Message::StepCall { key, token, call, .. }, ..
                }) => {
                    let gives = call.step != 1;
                    let number = key.id.counter();
                    let output = gives.then(|| Box::new(brought(number, call.step)));
                    let (step, direction, answer) =
                        (call.step, Direction::Forward, StepAnswer::Done);
                    let SagaKey { coordinator, id } = key;
                    let key = SagaKey { coordinator, id };
                    let reply = Message::StepReply { key, step, direction, token, answer, output };
                    engine.receive(self.now, NODE, &reply, &mut more);
                }
                Some(_) => {}
                None => {
                    engine.flush(self.now, &mut more);
                    if !more.iter().any(|output| matches!(output, Output::Disk { .. })) {
                        return;
                    }
                }
            }
            out.extend(more);
        }
    }

    /// A saga of three steps in a row, of which the first and the last bring something.
    fn run(&mut self, number: u64) {
        let step = |body: u8| Step::new(Action::Custom, NODE, [body]);
        let mut saga = Definition::builder();
        let first = saga.step(step(0).gives(ValueType::Bytes));
        let second = saga.step(step(1).after(first));
        saga.step(step(2).after(second).gives(ValueType::Bytes));
        let (now, mut out) = (self.now, Vec::new());
        let work = Work::Saga(saga.build().unwrap());
        let engine = self.engine.as_mut().unwrap();
        engine.submit(now, Request { key: key(number), work }, &mut out);
        self.take(out);
        assert_eq!(self.told.pop(), Some(Outcome::Completed));
    }

    fn outputs(&self, number: u64) -> Vec<StepInput> {
        self.engine.as_ref().unwrap().outputs(&key(number))
    }
}

#[test]
fn outputs_outlive_restarts_and_snapshots_and_go_with_their_result() {
    let mut bench = Bench::new();
    let mut ids = BTreeMap::new();
    let mut compactions = 0;
    for number in 1..=40 {
        bench.run(number);
        let id: OperationId = OperationId::draw(bench.engine.as_ref().unwrap().epoch(), 1).unwrap();
        // Each is the first of its start, or not: what matters is what it has brought.
        let seen = bench.outputs(number);
        assert_eq!(seen.iter().map(|it| it.step).collect::<Vec<_>>(), [0, 2], "{id}");
        ids.insert(number, seen);
        compactions += bench.engine.as_ref().unwrap().log().stats().compactions;
        if number % 7 == 0 {
            bench.restart();
        }
        for (number, seen) in &ids {
            assert_eq!(&bench.outputs(*number), seen, "of saga {number}");
        }
    }
    assert!(compactions > 5, "{compactions}");
    bench.restart();
    assert!(bench.records < 250, "{}: the older records are gone", bench.records);
    for (number, seen) in &ids {
        assert_eq!(&bench.outputs(*number), seen, "of saga {number}");
    }
    // They go when the result goes.
    bench.now += Duration::from_secs(101);
    let (now, mut out) = (bench.now, Vec::new());
    bench.engine.as_mut().unwrap().wake(now, &mut out);
    bench.take(out);
    assert!(ids.keys().all(|number| bench.outputs(*number).is_empty()));
}
