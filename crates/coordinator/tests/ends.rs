//! How operations end, and what an engine counts and remembers of it.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::Key;
use base::{BootCount, CoordinatorId, NodeName, RequestKey, ShardId, StoreId, Time};
use coordinator::{Branch, Config, Engine, Message, Output, Replay, Request, Stats, Work};
use coordinator::{
    CancelRefusal, Doubtful, Force, ForceError, Intervention, OrderError, Outcome, Refusal,
    SagaKey, StepAnswer,
};
use saga::{Action, Definition, Direction, Order, Output as Value, Step, ValueType, What};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use twopc::{Audit, Message as Tx, Vote};
use wal_core::{DiskError, MemoryStorage, OpenMode, SegmentId, Storage};

const NODES: [NodeName; 3] = [NodeName::numbered(1), NodeName::numbered(2), NodeName::numbered(3)];

/// What a participant answers is what it is asked to do.
const COMMIT: u8 = 0;
const ABORT: u8 = 1;
const READ_ONLY: u8 = 2;

/// An engine, and participants that answer at once.
struct Bench {
    storage: MemoryStorage,
    engine: Engine,
    now: Time,
    told: Vec<Outcome>,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(MemoryStorage::new())
    }

    fn on(mut storage: MemoryStorage) -> Bench {
        let mut replay = Replay::default();
        let (config, mode) = (wal_core::Config::default(), OpenMode::Exclusive);
        let opened = wal_core::open(&mut storage, &config, mode, 9, Time::ZERO, &mut replay);
        let config = Config::new(CoordinatorId([7; 32]), Key::root(3));
        let log = opened.unwrap().0;
        let engine = Engine::resume(config, replay, log, Time::ZERO, &mut Vec::new());
        Bench { storage, engine, now: Time::ZERO, told: Vec::new() }
    }

    /// What is told at the end.
    fn submit(&mut self, key: &str, work: Work) -> Vec<Outcome> {
        let (key, mut out) = (RequestKey::new(key.as_bytes()).unwrap(), Vec::new());
        self.engine.submit(self.now, Request { key, work }, &mut out);
        self.take(out);
        // Nobody answers an ABORT: it is sent again a few times.
        for _ in 0..20 {
            let Some(next) = self.engine.next_wake() else { break };
            self.now = self.now.max(next);
            let mut out = Vec::new();
            self.engine.wake(self.now, &mut out);
            self.take(out);
        }
        std::mem::take(&mut self.told)
    }

    fn take(&mut self, mut out: Vec<Output>) {
        for _ in 0..100 {
            self.engine.flush(self.now, &mut out);
            let mut more = Vec::new();
            for output in out.drain(..) {
                match output {
                    Output::Disk { ops, .. } => {
                        self.storage.perform_all(&ops).unwrap();
                        self.engine.flushed(self.now, Ok(()), &mut more);
                    }
                    Output::Send { to, message } => {
                        if let Some(answer) = answer(to, message) {
                            self.engine.receive(self.now, to, &answer, &mut more);
                        }
                    }
                    Output::Reply { outcome, .. } => self.told.push(outcome),
                    _ => {}
                }
            }
            if more.is_empty() {
                return;
            }
            out = more;
        }
        panic!("it does not come to rest");
    }
}

fn answer(node: NodeName, message: Message) -> Option<Message> {
    let (store, boot) = (StoreId(node.number()), BootCount(1));
    match message {
        Message::Hello => Some(Message::Announce { store, boot }),
        Message::Transaction(Tx::Prepare { key, shard, work, .. }) => {
            let vote = match work[0] {
                COMMIT => Vote::Commit,
                READ_ONLY => Vote::ReadOnly,
                _ => Vote::Abort,
            };
            Some(Message::Transaction(Tx::Vote { key, shard, vote, store, boot }))
        }
        Message::Transaction(Tx::Commit { key, shard, .. }) => {
            Some(Message::Transaction(Tx::Ack { key, shard, store, heuristic: None }))
        }
        Message::StepCall { key, token, body, call, .. } => {
            let (step, direction) = (call.step, call.direction);
            let refuses = direction == Direction::Forward && body[0] == ABORT;
            let answer = if refuses { StepAnswer::Refused { code: 1 } } else { StepAnswer::Done };
            Some(Message::StepReply { key, step, direction, token, answer, output: None })
        }
        _ => None,
    }
}

fn branches(work: [u8; 3]) -> Vec<Branch> {
    let all = NODES.iter().zip(work);
    all.map(|(node, work)| Branch { shard: ShardId(node.0), node: *node, work: [work, 9].into() })
        .collect()
}

fn steps(bodies: &[u8]) -> Work {
    let mut saga = Definition::builder();
    let mut before = None;
    for body in bodies {
        let mut step = Step::new(Action::Custom, NODES[0], [*body]);
        if let Some(before) = before {
            step = step.after(before);
        }
        before = Some(saga.step(step));
    }
    Work::Saga(saga.build().unwrap())
}

#[test]
fn each_end_is_counted_once() {
    let mut bench = Bench::new();
    let mut count = Stats::default();
    for round in 1..=3 {
        let mut transaction = |name: &str, work, ends| {
            let told = bench.submit(&format!("{name} {round}"), Work::Transaction(branches(work)));
            assert_eq!(told, [ends], "{name}");
            bench.engine.stats()
        };
        count.committed = round;
        assert_eq!(transaction("commit", [COMMIT; 3], Outcome::Committed), count);
        count.aborted = round;
        assert_eq!(transaction("abort", [COMMIT, ABORT, READ_ONLY], Outcome::Aborted), count);
        count.read_only = round;
        assert_eq!(transaction("look", [READ_ONLY; 3], Outcome::ReadOnly), count);
        bench.submit(&format!("done {round}"), steps(&[COMMIT, COMMIT]));
        count.completed = round;
        assert_eq!(bench.engine.stats(), count);
        bench.submit(&format!("undone {round}"), steps(&[COMMIT, ABORT]));
        count.compensated = round;
        assert_eq!(bench.engine.stats(), count);
    }
}

/// The same key with the same request is told the same; with any other, that the key is taken.
#[test]
fn a_key_is_one_request() {
    let mut bench = Bench::new();
    let asked = branches([COMMIT; 3]);
    let told = bench.submit("key", Work::Transaction(asked.clone()));
    assert_eq!(told, [Outcome::Committed]);
    assert_eq!(bench.submit("key", Work::Transaction(asked.clone())), told, "again");

    let mut others = vec![branches([COMMIT, COMMIT, READ_ONLY]), asked[..2].to_vec()];
    let mut changed = |change: &dyn Fn(&mut Vec<Branch>)| {
        let mut other = asked.clone();
        change(&mut other);
        others.push(other);
    };
    changed(&|it| it.swap(0, 1));
    changed(&|it| it[0].shard.0[31] ^= 1);
    changed(&|it| it[0].node.0[20] ^= 1);
    changed(&|it| it[2].work = [COMMIT, 8].into());
    changed(&|it| it[2].work = [COMMIT, 9, 0].into());
    changed(&|it| it[2].work = [COMMIT].into());
    changed(&|it| it[2].work = vec![COMMIT; 17].into());
    for other in others {
        let told = bench.submit("key", Work::Transaction(other.clone()));
        assert_eq!(told, [Outcome::Refused(Refusal::KeyTaken)], "{other:?}");
    }
    let told = bench.submit("key", steps(&[COMMIT]));
    assert_eq!(told, [Outcome::Refused(Refusal::KeyTaken)], "a saga");
    assert_eq!(bench.engine.stats().committed, 1, "once");
}

/// A log of which the first version that wrote such a log has known two requests: one is known again by every later
/// version, and no other is taken for it. The file is never changed.
#[test]
fn a_key_is_one_request_for_every_version() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keys-v1.wal");
    let mut storage = MemoryStorage::new();
    let log = std::fs::read(file).unwrap();
    // What follows its last batch was never written.
    let len = log.len().next_multiple_of(4096);
    *storage.file_mut(SegmentId(1)) = [log, vec![0; len]].concat();
    let mut bench = Bench::on(storage);
    let transaction = |works| Work::Transaction(branches(works));
    let told = bench.submit("transaction", transaction([COMMIT, READ_ONLY, COMMIT]));
    assert_eq!(told, [Outcome::Committed]);
    let told = bench.submit("transaction", transaction([COMMIT, COMMIT, READ_ONLY]));
    assert_eq!(told, [Outcome::Refused(Refusal::KeyTaken)]);
    assert_eq!(bench.submit("saga", steps(&[COMMIT, ABORT])), [Outcome::Compensated]);
    let told = bench.submit("saga", steps(&[COMMIT, READ_ONLY]));
    assert_eq!(told, [Outcome::Refused(Refusal::KeyTaken)]);
    assert_eq!(bench.engine.stats(), Stats::default(), "nothing was done again");
}

/// A step's value that is longer than allowed is as good as no answer; one as long as allowed counts.
#[test]
fn a_value_that_is_too_long_is_no_answer() {
    let mut bench = Bench::new();
    let mut saga = Definition::builder();
    saga.step(Step::new(Action::Custom, NODES[0], [COMMIT]).gives(ValueType::Bytes));
    let (key, work) = (RequestKey::new(b"long").unwrap(), Work::Saga(saga.build().unwrap()));
    let mut out = Vec::new();
    bench.engine.submit(bench.now, Request { key, work }, &mut out);
    // Who answers by itself answers without a value, which is not wanted either.
    bench.take(out);
    let most = Config::new(CoordinatorId([7; 32]), Key::root(3)).output_bytes_max as usize;
    for (bytes, ends) in [(most + 1, false), (most, true)] {
        let saga = bench.engine.active_sagas().next().expect("it goes on");
        let (id, step, direction) = (saga.id(), 0, Direction::Forward);
        let token = saga.token(step, direction);
        let key = SagaKey { coordinator: CoordinatorId([7; 32]), id };
        let output = Some(Box::new(Value::Inline(vec![1; bytes].into())));
        let answer = StepAnswer::Done;
        let reply = Message::StepReply { key, step, direction, token, answer, output };
        let mut out = Vec::new();
        bench.engine.receive(bench.now, NODES[0], &reply, &mut out);
        bench.take(out);
        assert_eq!(bench.told.pop(), ends.then_some(Outcome::Completed), "{bytes} bytes");
    }
}

/// A participant that was started anew says so by its vote: from then on it is known by its new boot count.
#[test]
fn a_vote_tells_of_a_restart() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.submit("first", Work::Transaction(branches([COMMIT; 3]))),
        [Outcome::Committed]
    );
    let boots = |bench: &mut Bench, name: &str| {
        let key = RequestKey::new(name.as_bytes()).unwrap();
        let (work, mut out) = (Work::Transaction(branches([COMMIT; 3])), Vec::new());
        bench.engine.submit(bench.now, Request { key, work }, &mut out);
        let prepare = out.iter().find_map(|output| match output {
            Output::Send {
                message: Message::Transaction(Tx::Prepare { peers, key, .. }), ..
            } => Some((*key, peers.iter().map(|peer| peer.boot.0).collect::<Vec<_>>())),
            _ => None,
        });
        prepare.expect("they are asked")
    };
    let (key, before) = boots(&mut bench, "second");
    assert_eq!(before, [1, 1, 1]);
    let (shard, vote) = (ShardId(NODES[1].0), Vote::Abort);
    let (store, boot) = (StoreId(NODES[1].number()), BootCount(2));
    let refused = Message::Transaction(Tx::Vote { key, shard, vote, store, boot });
    bench.engine.receive(bench.now, NODES[1], &refused, &mut Vec::new());
    assert_eq!(boots(&mut bench, "third").1, [1, 2, 1]);
    // What an earlier start has announced comes late.
    let late = Message::Announce { store, boot: BootCount(1) };
    bench.engine.receive(bench.now, NODES[1], &late, &mut Vec::new());
    assert_eq!(boots(&mut bench, "fourth").1, [1, 2, 1]);
}

/// An engine whose log has failed does nothing any more, and says so to whoever orders something.
#[test]
fn an_engine_without_its_log_is_dead() {
    let mut bench = Bench::new();
    let (now, mut out) = (bench.now, Vec::new());
    let request = |name: &[u8]| {
        let key = RequestKey::new(name).unwrap();
        Request { key, work: steps(&[COMMIT, COMMIT]) }
    };
    bench.engine.submit(now, request(b"one"), &mut out);
    bench.engine.flush(now, &mut out);
    assert!(out.iter().any(|output| matches!(output, Output::Disk { .. })));
    out.clear();
    assert!(bench.engine.next_wake().is_some());
    bench.engine.flushed(now, Err(DiskError::Fenced), &mut out);
    assert!(matches!(&out[..], [Output::Died { .. }]), "{out:?}");
    out.clear();
    bench.engine.submit(now, request(b"two"), &mut out);
    bench.engine.receive(now, NODES[0], &Message::AskFinished, &mut out);
    bench.engine.wake(now + Duration::from_secs(9_000), &mut out);
    bench.engine.flush(now, &mut out);
    assert!(out.is_empty() && bench.engine.next_wake().is_none(), "{out:?}");
    let cancelled = bench.engine.cancel(now, &request(b"one").key, &mut out);
    assert_eq!(cancelled, Err(CancelRefusal::LogBusy));
    let id = bench.engine.active_sagas().next().unwrap().id();
    let order = Order { who: "eva".into(), why: "because".into(), what: What::RetryNow };
    bench.engine.order(now, id, 0, order, &mut out);
    let audit = Arc::new(Audit { at_ms: 1, who: "eva".into(), why: "because".into() });
    let (of, force) = (Doubtful::Saga(id), Force::Abort);
    bench.engine.intervene(now, &Intervention { of, force, audit }, &mut out);
    let [Output::Operated(ordered), Output::Intervened(intervened)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(ordered.result, Err(OrderError::LogBusy));
    assert_eq!(intervened.result, Err(ForceError::LogBusy));
}

/// What waits for a participant to announce itself is active like any other, and no more are let in.
#[test]
fn who_waits_takes_a_place() {
    let mut bench = Bench::new();
    let most = Config::new(CoordinatorId([7; 32]), Key::root(3)).active_transactions_max;
    let mut submit = |number: u32| {
        let key = RequestKey::new(&number.to_le_bytes()).unwrap();
        let (work, mut out) = (Work::Transaction(branches([COMMIT; 3])), Vec::new());
        bench.engine.submit(bench.now, Request { key, work }, &mut out);
        if number == most / 2 {
            // From here on all are begun at once.
            for node in NODES {
                let (store, boot) = (StoreId(node.number()), BootCount(1));
                let announce = Message::Announce { store, boot };
                bench.engine.receive(bench.now, node, &announce, &mut out);
            }
        }
        let refused = out.into_iter().find_map(|output| match output {
            Output::Reply { outcome, .. } => Some(outcome),
            _ => None,
        });
        (refused, bench.engine.active() as u32)
    };
    for number in 1..=most {
        assert_eq!(submit(number), (None, number));
    }
    let too_many = Outcome::Refused(Refusal::TooManyActive { active_max: most });
    assert_eq!(submit(most + 1), (Some(too_many), most));

    let mut bench = Bench::new();
    for number in 0..=most {
        let key = RequestKey::new(&number.to_le_bytes()).unwrap();
        let (work, mut out) = (Work::Transaction(branches([COMMIT; 3])), Vec::new());
        bench.engine.submit(bench.now, Request { key, work }, &mut out);
        let refused = out.iter().any(|output| matches!(output, Output::Reply { .. }));
        assert_eq!((refused, bench.engine.active() as u32), (number == most, most.min(number + 1)));
    }
}
