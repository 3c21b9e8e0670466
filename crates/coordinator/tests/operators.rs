//! What an engine does with sagas that do not go on by themselves, with cancels, and with keys: every
//! answer is given over a log in memory whose flushes the test performs, so that it is seen what waits
//! for the disk.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::Key;
use base::{BootCount, CoordinatorId, NodeName, OperationId, RequestKey, ShardId, StoreId, Time};
use coordinator::{
    Branch, Call, CancelRefusal, Config, Doubtful, Engine, Force, ForceError, Intervention,
    Message, Operated, OrderError, Outcome, Output, Refusal, Replay, Request, SagaKey, StepAnswer,
    UndoOrder, Work,
};
use saga::{
    Action, Definition, Direction, Label, Order, OrderRefusal, Step, StepKind, ValueType, What,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use twopc::{Audit, ForceRefusal, Heuristic, TxKey, Verdict};
use wal_core::{MemoryStorage, OpenMode, Storage};

const COORDINATOR: CoordinatorId = CoordinatorId([7; 32]);

/// One engine, its disk, and what it said and has not been looked at.
struct Bench {
    engine: Option<Engine>,
    storage: MemoryStorage,
    log: wal_core::Config,
    config: Config,
    now: Time,
    calls: Vec<(OperationId, Call, Vec<u8>)>,
    told: Vec<Output>,
}

fn at(node: u64) -> NodeName {
    NodeName::numbered(node)
}

fn key(name: &str) -> RequestKey {
    RequestKey::new(name.as_bytes()).unwrap()
}

fn step(body: u8) -> Step {
    Step::new(Action::Custom, at(1), [body])
}

fn saga(steps: impl IntoIterator<Item = Step>) -> Work {
    let mut builder = Definition::builder();
    steps.into_iter().for_each(|step| _ = builder.step(step));
    Work::Saga(builder.build().unwrap())
}

impl Bench {
    fn new(edit: impl Fn(&mut Config)) -> Bench {
        let mut config = Config::new(COORDINATOR, Key::root(3));
        config.jitter_percent = 0;
        edit(&mut config);
        let (storage, now) = (MemoryStorage::new(), Time::ZERO);
        let (calls, told) = (vec![], vec![]);
        let log = wal_core::Config::default();
        let mut bench = Bench { engine: None, storage, log, config, now, calls, told };
        bench.restart();
        bench
    }

    /// Everything that is not durable is gone.
    fn restart(&mut self) {
        let (mut replay, mut out) = (Replay::default(), Vec::new());
        let mode = OpenMode::Exclusive;
        let opened =
            wal_core::open(&mut self.storage, &self.log, mode, 9, self.now, &mut replay).unwrap();
        let engine = Engine::resume(self.config.clone(), replay, opened.0, self.now, &mut out);
        self.engine = Some(engine);
        self.calls.clear();
        self.take(out);
        self.flush();
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { message: Message::StepCall { key, call, body, .. }, .. } => {
                    self.calls.push((key.id, call, body.to_vec()));
                }
                Output::Appended { .. } => {}
                output => self.told.push(output),
            }
        }
    }

    /// The disk does what it is asked for until it is asked for nothing.
    fn flush(&mut self) {
        loop {
            let (now, mut out) = (self.now, Vec::new());
            self.engine().flush(now, &mut out);
            let Some(Output::Disk { ops, .. }) = out.pop() else { break };
            self.storage.perform_all(&ops).unwrap();
            self.engine().flushed(now, Ok(()), &mut out);
            self.take(out);
        }
    }

    fn submit(&mut self, name: &str, work: Work) {
        let (now, mut out) = (self.now, Vec::new());
        self.engine().submit(now, Request { key: key(name), work }, &mut out);
        self.take(out);
        self.flush();
    }

    /// The calls since this was last asked: saga's number, step and direction.
    fn called(&mut self) -> Vec<(u64, u32, Direction)> {
        let calls = std::mem::take(&mut self.calls);
        calls.into_iter().map(|(id, call, _)| (id.counter(), call.step, call.direction)).collect()
    }

    fn answer(&mut self, id: OperationId, step: u32, direction: Direction, answer: StepAnswer) {
        let engine = self.engine.as_ref().unwrap();
        let token =
            engine.active_sagas().find(|saga| saga.id() == id).unwrap().token(step, direction);
        let key = SagaKey { coordinator: COORDINATOR, id };
        let output = None;
        let reply = Message::StepReply { key, step, direction, token, answer, output };
        let (now, mut out) = (self.now, Vec::new());
        self.engine().receive(now, at(1), &reply, &mut out);
        self.take(out);
        self.flush();
    }

    fn order(&mut self, id: OperationId, step: u32, what: What) -> Result<(), OrderError> {
        let order = Order { who: "eva".into(), why: "because".into(), what };
        let (now, mut out) = (self.now, Vec::new());
        self.engine().order(now, id, step, order, &mut out);
        let early = out.iter().any(|o| matches!(o, Output::Operated(told) if told.result.is_ok()));
        assert!(!early, "the operator hears before the order is durable");
        self.take(out);
        self.flush();
        let heard = self.told.iter().position(|output| matches!(output, Output::Operated(_)));
        let Output::Operated(told) = self.told.remove(heard.expect("the operator hears")) else {
            unreachable!("it was just found");
        };
        let Operated { id: of, step: about, result } = *told;
        assert_eq!((of, about), (id, step));
        result
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        let (now, mut out) = (self.now, Vec::new());
        self.engine().wake(now, &mut out);
        self.take(out);
        self.flush();
    }

    fn ids(&self) -> Vec<OperationId> {
        self.engine.as_ref().unwrap().active_sagas().map(saga::Saga::id).collect()
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        let told = std::mem::take(&mut self.told);
        told.into_iter()
            .filter_map(|output| match output {
                Output::Reply { outcome, .. } => Some(outcome),
                _ => None,
            })
            .collect()
    }

    /// A saga of three independent steps of which the last is refused, and both others are to be undone.
    fn turned(&mut self) -> OperationId {
        self.submit("turned", saga([step(0), step(1), step(2)]));
        let id = self.ids()[0];
        self.answer(id, 0, Direction::Forward, StepAnswer::Done);
        self.answer(id, 1, Direction::Forward, StepAnswer::Done);
        self.called();
        self.answer(id, 2, Direction::Forward, StepAnswer::Refused { code: 1 });
        assert_eq!(self.called(), [(1, 1, Direction::Backward), (1, 0, Direction::Backward)]);
        id
    }
}

const REFUSED: StepAnswer = StepAnswer::Refused { code: 5 };

#[test]
fn a_branch_that_fails_too_often_is_parked_and_the_others_go_on() {
    let mut bench = Bench::new(|config| config.undo_attempts_max = 2);
    let id = bench.turned();
    bench.answer(id, 0, Direction::Backward, REFUSED);
    assert!(bench.engine().parked().next().is_none());
    bench.answer(id, 0, Direction::Backward, REFUSED);
    assert_eq!(Vec::from_iter(bench.engine().parked()), [(id, 0)]);
    let Some(Output::Parked { id: of, step: 0, attempts: 2 }) = bench.told.pop() else {
        panic!("{:?}", bench.told);
    };
    assert_eq!(of, id);
    // It is called no more; the other one is, and parks when nobody answers.
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.called(), [(1, 1, Direction::Backward)]);
    assert_eq!(bench.engine().retrying().map(|r| (r.step, r.attempts)).next(), Some((1, 2)));
    bench.wait(Duration::from_secs(9));
    assert_eq!(Vec::from_iter(bench.engine().parked()), [(id, 0), (id, 1)]);
    assert_eq!(bench.called(), []);
    // All of it is in the log.
    bench.restart();
    assert_eq!(Vec::from_iter(bench.engine().parked()), [(id, 0), (id, 1)]);
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.called(), []);
    // A success that comes after all counts.
    bench.answer(id, 1, Direction::Backward, StepAnswer::Done);
    assert_eq!(Vec::from_iter(bench.engine().parked()), [(id, 0)]);
    assert_eq!(bench.order(id, 0, What::RetryNow), Ok(()));
    assert_eq!(bench.called(), [(1, 0, Direction::Backward)]);
    bench.answer(id, 0, Direction::Backward, StepAnswer::Done);
    assert_eq!(bench.outcomes(), [Outcome::Compensated]);
    assert_eq!(bench.engine().active(), 0);
}

#[test]
fn an_operator_replaces_an_undo_or_marks_it_done() {
    let mut bench = Bench::new(|config| config.undo_attempts_max = 1);
    let id = bench.turned();
    for step in [0, 1] {
        bench.answer(id, step, Direction::Backward, REFUSED);
    }
    bench.told.clear();
    // What is asked instead survives a restart.
    assert_eq!(bench.order(id, 0, What::Override { body: [9, 9].into() }), Ok(()));
    bench.restart();
    let (_, call, body) = bench.calls.pop().unwrap();
    assert_eq!((call.step, call.order, &body[..]), (0, UndoOrder::Override, &[9, 9][..]));
    bench.answer(id, 0, Direction::Backward, StepAnswer::Done);
    // So does the mark, and its participant is asked until it answers.
    let close = OrderError::Refused(OrderRefusal::NotMarked { step: 1 });
    assert_eq!(bench.order(id, 1, What::CloseUnanswered), Err(close));
    assert_eq!(bench.order(id, 1, What::MarkDone), Ok(()));
    bench.restart();
    for _ in 0..3 {
        let (_, call, _) = bench.calls.pop().unwrap();
        assert_eq!((call.step, call.order), (1, UndoOrder::MarkDone));
        bench.wait(Duration::from_secs(9));
    }
    assert!(bench.outcomes().is_empty());
    assert_eq!(bench.engine().stats().heuristic, 0);
    // Until its operator gives it up.
    assert_eq!(bench.order(id, 1, What::CloseUnanswered), Ok(()));
    assert_eq!(bench.engine().stats().heuristic, 1);
    assert_eq!(bench.outcomes(), [Outcome::Compensated]);
    assert_eq!(bench.order(id, 1, What::RetryNow), Err(OrderError::NotActive));
}

#[test]
fn orders_that_do_not_fit_are_refused() {
    let mut bench = Bench::new(|_| {});
    bench.submit("row", saga([step(0), step(1).after(0), step(2).after(1)]));
    let id = bench.ids()[0];
    let refused = |refusal| Err(OrderError::Refused(refusal));
    assert_eq!(bench.order(id, 0, What::RetryNow), refused(OrderRefusal::NotCompensating));
    for step in [0, 1] {
        bench.answer(id, step, Direction::Forward, StepAnswer::Done);
    }
    bench.answer(id, 2, Direction::Forward, REFUSED);
    let waits = OrderRefusal::DependentsRemain { step: 0, count: 1 };
    assert_eq!(bench.order(id, 0, What::MarkDone), refused(waits));
    let nothing = OrderRefusal::NothingToUndo { step: 2 };
    assert_eq!(bench.order(id, 2, What::MarkDone), refused(nothing));
    let (who, why) = ("x".repeat(1_025).into(), "".into());
    let (now, mut out) = (bench.now, Vec::new());
    bench.engine().order(now, id, 1, Order { who, why, what: What::RetryNow }, &mut out);
    let [Output::Operated(told)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(told.result, refused(OrderRefusal::TextTooLong { bytes: 1_025 }));
    let body = vec![0; 1 << 20].into();
    assert_eq!(bench.order(id, 1, What::Override { body }), Err(OrderError::TooLarge));
}

#[test]
fn a_cancel_is_refused_from_the_pivot_on() {
    let mut bench = Bench::new(|_| {});
    let row = || {
        let (pivot, last) = (step(1).after(0).kind(StepKind::Pivot), step(2).after(1));
        saga([step(0), pivot, last.kind(StepKind::Retriable)])
    };
    bench.submit("early", row());
    bench.submit("late", row());
    let ids = bench.ids();
    let (now, mut out) = (bench.now, Vec::new());
    assert_eq!(bench.engine().cancel(now, &key("early"), &mut out), Ok(()));
    assert_eq!(bench.engine().cancel(now, &key("early"), &mut out), Err(CancelRefusal::TooLate));
    let unknown = bench.engine().cancel(now, &key("unknown"), &mut out);
    assert_eq!(unknown, Err(CancelRefusal::NotActive));
    bench.take(out);
    bench.flush();
    bench.answer(ids[1], 0, Direction::Forward, StepAnswer::Done);
    let (mut out, past) = (Vec::new(), Err(CancelRefusal::PastPivot { step: 1 }));
    assert_eq!(bench.engine().cancel(now, &key("late"), &mut out), past);
    assert!(out.is_empty());
    // Nor do its time-outs turn it, and a refusal of what cannot fail is no failure.
    bench.wait(Duration::from_secs(3_600));
    bench.answer(ids[1], 1, Direction::Forward, StepAnswer::Done);
    bench.called();
    bench.answer(ids[1], 2, Direction::Forward, REFUSED);
    bench.wait(Duration::from_secs(3_600));
    let last = bench.calls.iter().rfind(|(id, ..)| *id == ids[1]).unwrap();
    assert_eq!((last.1.step, last.1.cannot_fail), (2, true));
    bench.answer(ids[1], 2, Direction::Forward, StepAnswer::Done);
    bench.answer(ids[0], 0, Direction::Backward, StepAnswer::Done);
    assert_eq!(bench.outcomes(), [Outcome::Completed, Outcome::Compensated]);
}

#[test]
fn a_key_is_one_request() {
    let mut bench = Bench::new(|config| config.results_kept = Duration::from_secs(100));
    bench.submit("key", saga([step(0)]));
    let id = bench.ids()[0];
    for restarted in [false, true] {
        // The same one is the same operation, another one is refused and disturbs nothing.
        bench.submit("key", saga([step(0)]));
        assert!(bench.outcomes().is_empty());
        bench.submit("key", saga([step(1)]));
        assert_eq!(bench.outcomes(), [Outcome::Refused(Refusal::KeyTaken)], "{restarted}");
        assert_eq!(bench.ids(), [id]);
        bench.restart();
    }
    bench.answer(id, 0, Direction::Forward, StepAnswer::Done);
    assert_eq!(bench.outcomes(), [Outcome::Completed]);
    for _ in 0..2 {
        bench.submit("key", saga([step(0)]));
        bench.submit("key", saga([step(1)]));
        let told = bench.outcomes();
        assert_eq!(told, [Outcome::Completed, Outcome::Refused(Refusal::KeyTaken)]);
        bench.restart();
    }
    // After the window the key names something new.
    bench.wait(Duration::from_secs(99));
    bench.submit("key", saga([step(1)]));
    assert_eq!(bench.outcomes(), [Outcome::Refused(Refusal::KeyTaken)]);
    bench.wait(Duration::from_secs(1));
    bench.submit("key", saga([step(1)]));
    assert_eq!(bench.outcomes(), []);
    assert_eq!(bench.ids().len(), 1);
}

#[test]
fn limits_are_the_configurations() {
    let mut bench = Bench::new(|config| {
        (config.steps_max, config.active_sagas_max, config.undo_attempts_max) = (3, 1, 1);
    });
    bench.submit("long", saga([step(0), step(1), step(2), step(3)]));
    let long = Outcome::Refused(Refusal::TooManySteps { steps_max: 3 });
    assert_eq!(bench.outcomes(), [long]);
    let id = bench.turned();
    bench.submit("more", saga([step(0)]));
    let more = Outcome::Refused(Refusal::TooManyActive { active_max: 1 });
    assert_eq!(bench.outcomes(), [more]);
    // One that waits for an operator delays nobody.
    bench.answer(id, 0, Direction::Backward, REFUSED);
    bench.submit("more", saga([step(0)]));
    assert_eq!(bench.outcomes(), []);
    assert_eq!(bench.ids().len(), 2);
}

#[test]
fn a_saga_whose_code_is_missing_waits_and_no_other_does() {
    let mut bench = Bench::new(|_| {});
    let charge = Label::new("charge").unwrap();
    bench.submit("old", saga([step(0).named(charge.clone())]));
    bench.submit("plain", saga([step(1)]));
    let ids = bench.ids();
    assert_eq!(bench.called().len(), 2);
    bench.config.actions = Some(BTreeSet::new());
    bench.restart();
    assert_eq!(bench.called(), [(2, 0, Direction::Forward)]);
    assert_eq!(Vec::from_iter(bench.engine().held()), [(ids[0], &charge)]);
    bench.submit("new", saga([step(0).named(charge.clone())]));
    let action = charge.clone();
    assert_eq!(bench.outcomes(), [Outcome::Refused(Refusal::UnknownAction { action })]);
    bench.answer(ids[1], 0, Direction::Forward, StepAnswer::Done);
    assert_eq!(bench.outcomes(), [Outcome::Completed]);
    // Whatever time passes, it is as it was; with its code it goes on.
    bench.wait(Duration::from_secs(3_600));
    assert_eq!((bench.called(), bench.ids()), (vec![], vec![ids[0]]));
    bench.config.actions = Some(BTreeSet::from([charge]));
    bench.restart();
    assert_eq!(bench.called(), [(1, 0, Direction::Forward)]);
    assert_eq!(bench.engine().held().next(), None);
}

#[test]
fn an_output_reaches_the_step_that_takes_it_and_the_undo_of_its_own() {
    let mut bench = Bench::new(|config| config.output_bytes_max = 8);
    let first = step(0).gives(ValueType::U64);
    let second = step(1).after(0).takes(0, ValueType::U64);
    bench.submit("fed", saga([first, second]));
    let id = bench.ids()[0];
    let give = |bench: &mut Bench, bytes: &[u8]| {
        let engine = bench.engine.as_ref().unwrap();
        let token = engine.active_sagas().next().unwrap().token(0, Direction::Forward);
        let output = Some(Box::new(saga::Output::Inline(bytes.into())));
        let (key, direction) = (SagaKey { coordinator: COORDINATOR, id }, Direction::Forward);
        let (step, answer) = (0, StepAnswer::Done);
        let reply = Message::StepReply { key, step, direction, token, answer, output };
        let (now, mut out) = (bench.now, Vec::new());
        bench.engine().receive(now, at(1), &reply, &mut out);
        bench.take(out);
        bench.flush();
    };
    bench.called();
    // Nothing, too little and too much are as good as no answer.
    bench.answer(id, 0, Direction::Forward, StepAnswer::Done);
    give(&mut bench, &[1; 7]);
    give(&mut bench, &[1; 9]);
    assert_eq!(bench.called(), []);
    give(&mut bench, &[1; 8]);
    let given = |call: &Call| -> Vec<_> {
        let bytes = |input: &saga::StepInput| match &input.output {
            saga::Output::Inline(bytes) => (input.step, bytes.to_vec()),
            other => panic!("{other:?}"),
        };
        call.inputs.iter().map(bytes).collect()
    };
    for _ in 0..2 {
        let (_, call, _) = bench.calls.pop().unwrap();
        assert_eq!((call.step, given(&call)), (1, vec![(0, vec![1; 8])]));
        bench.restart();
    }
    bench.answer(id, 1, Direction::Forward, REFUSED);
    bench.restart();
    let (_, call, _) = bench.calls.pop().unwrap();
    assert_eq!((call.direction, given(&call)), (Direction::Backward, vec![(0, vec![1; 8])]));
}

#[test]
fn waits_are_cut_at_random_and_the_same_way_each_time() {
    let waits = |percent, seed| {
        let mut bench = Bench::new(|config| {
            (config.jitter_percent, config.key) = (percent, Key::root(seed));
        });
        bench.submit("slow", saga([step(0)]));
        let (mut waits, mut last) = (Vec::new(), bench.now);
        bench.called();
        while waits.len() < 4 {
            let next = bench.engine().next_wake().unwrap();
            bench.wait(next - bench.now);
            if !bench.called().is_empty() {
                waits.push(bench.now - last);
                last = bench.now;
            }
        }
        waits
    };
    let plain = [500, 1_000, 2_000, 4_000].map(Duration::from_millis);
    assert_eq!(waits(0, 1), plain);
    let (cut, again, other) = (waits(50, 1), waits(50, 1), waits(50, 2));
    assert_eq!(cut, again);
    assert_ne!(cut, other);
    for (cut, plain) in cut.iter().zip(plain) {
        assert!(*cut >= plain / 2 && *cut <= plain, "{cut:?}");
    }
}

/// A step that is a saga runs out of time, and its saga's undoing is answered by nobody. The other call of
/// its parent was lost: it is made again all the same.
#[test]
fn a_sub_saga_that_is_given_up_holds_no_other_step_up() {
    let mut bench = Bench::new(|_| {});
    let mut inner = Definition::builder();
    inner.step(step(7));
    let nested = Step::saga(inner.build().unwrap()).timeout(Duration::from_secs(1));
    bench.submit("a", saga([nested, step(2)]));
    let begun = bench.calls.clone();
    let parent = begun.iter().find(|(.., body)| body == &[2]).unwrap().0;
    assert!(begun.iter().any(|(id, _, body)| *id != parent && body == &[7]), "{begun:?}");
    bench.calls.clear();
    let mut undone = false;
    let mut again = 0;
    for _ in 0..60 {
        bench.wait(Duration::from_secs(1));
        for (id, call, _) in std::mem::take(&mut bench.calls) {
            undone |= id != parent && call.direction == Direction::Backward;
            again += u32::from(undone && id == parent && call.step == 1);
        }
    }
    assert!(undone && again >= 3, "undone: {undone}; called again {again} times since");
}

/// "Never" is a time-out too, and a record can say none so long: after a restart the saga is the same one.
#[test]
fn a_time_out_without_end_is_read_again() {
    let mut bench = Bench::new(|_| {});
    let mut inner = Definition::builder();
    inner.timeout(Duration::MAX).step(step(7).timeout(Duration::MAX));
    let nested = Step::saga(inner.build().unwrap()).timeout(Duration::MAX);
    bench.submit("a", saga([nested, step(2)]));
    bench.restart();
    let bodies: BTreeSet<Vec<u8>> = bench.calls.iter().map(|(.., body)| body.clone()).collect();
    assert_eq!(bodies, BTreeSet::from([vec![2], vec![7]]));
    let parent = bench.calls.iter().find(|(.., body)| body == &[2]).unwrap().0;
    bench.answer(parent, 1, Direction::Forward, StepAnswer::Done);
    assert_eq!(bench.outcomes(), [], "it waits for its other step");
}

/// The log takes a step's success and has no room for the end of its saga. That is owed, and comes once there
/// is room, although nobody says anything of the saga any more.
#[test]
fn an_end_that_the_log_had_no_room_for_comes_later() {
    let mut cut_off = 0;
    for more in (0..80).step_by(8) {
        let mut bench = Bench::new(|_| {});
        bench.log.batch_bytes_max = 1_024;
        bench.log.max_payload = 256;
        bench.log.buffered_bytes_max = 2_048 + more;
        bench.restart();
        for number in 0..40 {
            bench.submit(&format!("{number}"), saga([step(0)]));
        }
        let ids = bench.ids();
        assert_eq!(ids.len(), 40);
        // Nothing is flushed meanwhile.
        let (now, mut out) = (bench.now, Vec::new());
        for id in ids {
            let engine = bench.engine.as_ref().unwrap();
            let saga = engine.active_sagas().find(|saga| saga.id() == id).unwrap();
            let (step, direction) = (0, Direction::Forward);
            let token = saga.token(step, direction);
            let (key, answer) = (SagaKey { coordinator: COORDINATOR, id }, StepAnswer::Done);
            let reply = Message::StepReply { key, step, direction, token, answer, output: None };
            bench.engine().receive(now, at(1), &reply, &mut out);
        }
        bench.take(out);
        let through = |saga: &&saga::Saga| saga.through().is_some();
        cut_off += bench.engine().active_sagas().filter(through).count();
        bench.flush();
        bench.wait(Duration::from_secs(20));
        bench.wait(Duration::from_secs(20));
        let left = bench.engine().active_sagas().filter(through).count();
        assert_eq!(left, 0, "{more} bytes more");
    }
    assert!(cut_off > 0, "the log never had room for one of both alone");
}

/// A transaction that commits at three nodes, of which the last has said so, and the other two do not answer.
fn unheard() -> (Bench, OperationId) {
    let mut bench = Bench::new(|config| config.active_transactions_max = 1);
    let branch = |n| Branch { shard: ShardId::numbered(n), node: at(n), work: vec![1].into() };
    bench.submit("commits", Work::Transaction((1..=3).map(branch).collect()));
    for n in 1..=3 {
        let announce = Message::Announce { store: StoreId(n), boot: BootCount(1) };
        bench.receive(n, announce);
    }
    let id = bench.transactions()[0];
    let key = TxKey { coordinator: COORDINATOR, id };
    for n in 1..=3 {
        let (shard, vote) = (ShardId::numbered(n), twopc::Vote::Commit);
        let (store, boot) = (StoreId(n), BootCount(1));
        bench.say(n, twopc::Message::Vote { key, shard, vote, store, boot });
    }
    assert_eq!(bench.outcomes(), [Outcome::Committed]);
    let (shard, store) = (ShardId::numbered(3), StoreId(3));
    bench.say(3, twopc::Message::Ack { key, shard, store, heuristic: None });
    assert_eq!(bench.transactions(), [id], "two have not said so");
    bench.told.clear();
    (bench, id)
}

impl Bench {
    fn receive(&mut self, from: u64, message: Message) {
        let (now, mut out) = (self.now, Vec::new());
        self.engine().receive(now, at(from), &message, &mut out);
        self.take(out);
        self.flush();
    }

    fn say(&mut self, from: u64, message: twopc::Message) {
        self.receive(from, Message::Transaction(message));
    }

    fn transactions(&self) -> Vec<OperationId> {
        let engine = self.engine.as_ref().unwrap();
        engine.active_transactions().map(twopc::Transaction::id).collect()
    }

    fn intervene(&mut self, id: OperationId, force: Force) -> Result<(), ForceError> {
        let audit = Arc::new(Audit { at_ms: 1, who: "eva".into(), why: "it burnt".into() });
        let of = Doubtful::Transaction(id);
        let (now, mut out) = (self.now, Vec::new());
        self.engine().intervene(now, &Intervention { of, force, audit }, &mut out);
        let is_done = |o: &Output| matches!(o, Output::Intervened(told) if told.result.is_ok());
        assert!(!out.iter().any(is_done), "the operator hears before it is durable");
        self.take(out);
        self.flush();
        let heard = self.told.iter().position(|output| matches!(output, Output::Intervened(_)));
        let Output::Intervened(told) = self.told.remove(heard.expect("the operator hears")) else {
            unreachable!("it was just found");
        };
        told.result
    }

    /// Who is told to commit, since this was last asked.
    fn commits(&mut self) -> BTreeSet<NodeName> {
        let told = std::mem::take(&mut self.told);
        let commits = told.into_iter().filter_map(|output| match output {
            Output::Send { to, message: Message::Transaction(message) } => {
                matches!(message, twopc::Message::Commit { .. }).then_some(to)
            }
            _ => None,
        });
        commits.collect()
    }

    /// What a participant hears that asks for the outcome.
    fn verdict(&mut self, id: OperationId, from: u64) -> Option<Verdict> {
        self.told.clear();
        let key = TxKey { coordinator: COORDINATOR, id };
        let (shard, store) = (ShardId::numbered(from), StoreId(from));
        self.say(from, twopc::Message::Inquiry { key, shard, store });
        std::mem::take(&mut self.told).into_iter().find_map(|output| match output {
            Output::Send {
                message: Message::Transaction(twopc::Message::Answer { verdict, .. }),
                ..
            } => Some(verdict),
            _ => None,
        })
    }
}

/// By the word of an operator a participant is gone for good: nobody waits for it, before and after a restart; and if it
/// comes back all the same, it is told to commit until that is forgotten.
#[test]
fn nobody_waits_for_a_participant_that_is_gone_for_good() {
    let (mut bench, id) = unheard();
    bench.wait(Duration::from_secs(600));
    assert_eq!(bench.commits(), BTreeSet::from([at(1), at(2)]));
    let not_awaited = Err(ForceError::Refused(ForceRefusal::NotAwaited));
    let gone = |n| Force::Gone(ShardId::numbered(n));
    assert_eq!(bench.intervene(id, gone(3)), not_awaited, "it has said so");
    assert_eq!(bench.intervene(id, gone(9)), not_awaited);
    assert_eq!(bench.intervene(OperationId(id.0 + 1), gone(1)), not_awaited);

    assert_eq!(bench.intervene(id, gone(1)), Ok(()));
    assert_eq!(bench.intervene(id, gone(1)), not_awaited, "nobody waits for it any more");
    let listed: Vec<_> = bench
        .engine()
        .heuristics()
        .map(|(of, shard, it)| (of, shard, it.node, it.heuristic))
        .collect();
    assert_eq!(listed, [(id, ShardId::numbered(1), at(1), Heuristic::Lost)]);
    assert_eq!(bench.transactions(), [id], "another one is waited for");
    bench.told.clear();
    bench.wait(Duration::from_secs(600));
    assert_eq!(bench.commits(), BTreeSet::from([at(2)]));
    bench.restart();
    assert_eq!(bench.transactions(), [id]);
    bench.wait(Duration::from_secs(600));
    assert_eq!(bench.commits(), BTreeSet::from([at(2), at(3)]), "the log says who is gone");
    let key = TxKey { coordinator: COORDINATOR, id };
    let (shard, store) = (ShardId::numbered(3), StoreId(3));
    bench.say(3, twopc::Message::Ack { key, shard, store, heuristic: None });

    assert_eq!(bench.intervene(id, gone(2)), Ok(()));
    assert_eq!(bench.transactions(), [], "it has ended, and its place is free");
    bench.told.clear();
    let more = Branch { shard: ShardId::numbered(4), node: at(4), work: vec![1].into() };
    bench.submit("another", Work::Transaction(vec![more]));
    assert_eq!(bench.outcomes(), [], "there is room for it");
    // Long after what has ended is forgotten.
    bench.config.results_kept = Duration::ZERO;
    bench.restart();
    bench.wait(Duration::from_secs(600));
    bench.restart();
    for n in [1, 2] {
        assert_eq!(bench.verdict(id, n), Some(Verdict::Committed), "it has come back");
    }
    assert_eq!(bench.intervene(id, Force::Forget), Ok(()));
    assert_eq!(bench.engine().heuristics().count(), 0);
    assert_eq!(
        bench.intervene(id, Force::Forget),
        Err(ForceError::Refused(ForceRefusal::NotListed))
    );
}

/// A saga waits for no participant, and a participant for none either.
#[test]
fn only_a_transaction_that_commits_waits_for_somebody() {
    let mut bench = Bench::new(|_| {});
    let branch = Branch { shard: ShardId::numbered(1), node: at(1), work: vec![1].into() };
    let other = Branch { shard: ShardId::numbered(2), node: at(2), work: vec![1].into() };
    bench.submit("undecided", Work::Transaction(vec![branch, other]));
    for n in 1..=2 {
        bench.receive(n, Message::Announce { store: StoreId(n), boot: BootCount(1) });
    }
    let id = bench.transactions()[0];
    let not_awaited = Err(ForceError::Refused(ForceRefusal::NotAwaited));
    let gone = Force::Gone(ShardId::numbered(1));
    assert_eq!(bench.intervene(id, gone), not_awaited, "it may abort still");
    bench.wait(Duration::from_secs(600));
    assert_eq!(bench.outcomes(), [Outcome::Aborted]);
    assert_eq!(bench.intervene(id, gone), not_awaited);
}

/// With a log that takes what its first segment holds, until it is confined no more; of that size and `more` bytes.
fn confined(more: u64) -> Bench {
    let mut bench = Bench::new(|_| {});
    bench.log.max_payload = 1_024;
    bench.log.batch_bytes_max = 2_048;
    bench.log.buffered_bytes_max = 32 << 10;
    bench.log.segment_bytes_first = 24_576 + more;
    bench.log.segment_bytes_max = 1 << 20;
    bench.restart();
    bench.engine().confine_log(true);
    bench
}

fn is_full(bench: &Bench) -> bool {
    let busy = Outcome::Refused(Refusal::LogBusy);
    bench.told.iter().any(|it| matches!(it, Output::Reply { outcome, .. } if *outcome == busy))
}

/// An hour, in which there is room again after the first minute.
fn wait_for_room(bench: &mut Bench) {
    for _ in 0..12 {
        bench.wait(Duration::from_secs(5));
    }
    bench.engine().confine_log(false);
    for _ in 0..720 {
        bench.wait(Duration::from_secs(5));
    }
}

#[test]
fn a_decision_that_the_log_had_no_room_for_comes_later() {
    let mut had_to_wait = 0;
    for more in (0..1_024).step_by(64) {
        let mut bench = confined(more);
        let branch = |n| Branch { shard: ShardId::numbered(n), node: at(n), work: vec![1].into() };
        for n in 1..=2 {
            bench.receive(n, Message::Announce { store: StoreId(n), boot: BootCount(1) });
        }
        for number in 0..200 {
            bench.submit(&format!("{number}"), Work::Transaction(vec![branch(1), branch(2)]));
            if is_full(&bench) {
                break;
            }
        }
        assert!(is_full(&bench));
        for id in bench.transactions() {
            let key = TxKey { coordinator: COORDINATOR, id };
            for n in 1..=2 {
                let (shard, vote) = (ShardId::numbered(n), twopc::Vote::Commit);
                let (store, boot) = (StoreId(n), BootCount(1));
                bench.say(n, twopc::Message::Vote { key, shard, vote, store, boot });
            }
        }
        let undecided = |bench: &Bench| {
            let all = bench.engine.as_ref().unwrap().active_transactions();
            all.filter(|it| it.decision().is_none() && it.votes().count() == 2).count()
        };
        had_to_wait += undecided(&bench);
        wait_for_room(&mut bench);
        assert_eq!(undecided(&bench), 0, "with {more} bytes more");
    }
    assert!(had_to_wait > 0);
}

#[test]
fn an_end_that_the_log_had_no_room_for_when_a_step_was_given_up_comes_later() {
    let mut had_to_wait = 0;
    for more in (0..512).step_by(8) {
        let mut bench = confined(more);
        for number in 0..400 {
            bench.submit(&format!("{number}"), saga([step(0).kind(StepKind::ReadOnly)]));
            if is_full(&bench) {
                break;
            }
        }
        assert!(is_full(&bench));
        for _ in 0..14 {
            bench.wait(Duration::from_secs(5));
        }
        let through = |bench: &Bench| {
            let all = bench.engine.as_ref().unwrap().active_sagas();
            all.filter(|saga| saga.through().is_some()).count()
        };
        had_to_wait += through(&bench);
        wait_for_room(&mut bench);
        assert_eq!(through(&bench), 0, "with {more} bytes more");
    }
    assert!(had_to_wait > 0);
}

#[test]
fn who_has_reported_is_not_waited_for_after_a_restart() {
    let (mut bench, id) = unheard();
    let key = TxKey { coordinator: COORDINATOR, id };
    let (shard, store) = (ShardId::numbered(1), StoreId(1));
    let heuristic = Some(Heuristic::Aborted);
    bench.say(1, twopc::Message::Ack { key, shard, store, heuristic });
    bench.restart();
    bench.wait(Duration::from_secs(600));
    assert_eq!(bench.commits(), BTreeSet::from([at(2), at(3)]));
    // So an operator is not told that this is done by an order of which the log says nothing.
    assert_eq!(bench.intervene(id, Force::Gone(shard)), Err(ForceRefusal::NotAwaited.into()));
}
