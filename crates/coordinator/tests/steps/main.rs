//! Steps that are transactions or sagas of their own, where they do not come to their end by themselves:
//! what waits for an operator, what he may order, and what counts against whom. Over a log in memory whose
//! flushes the test performs; the participants are the test.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

mod golden;

use base::prng::Key;
use base::{BootCount, CoordinatorId, NodeName, OperationId, RequestKey, ShardId, StoreId, Time};
use coordinator::{
    Branch, Config, Doubtful, Engine, Force, ForceError, Intervention, Message, Operated,
    OrderError, Outcome, Output, Replay, Request, SagaKey, StepAnswer, StepOperation, Work, codec,
};
use saga::{Action, Definition, Direction, Order, OrderRefusal, Step, StepKind, What};
use std::sync::Arc;
use std::time::Duration;
use twopc::{Audit, Message as Spoken, TxKey, Vote};
use wal_core::{EventType, MemoryStorage, OpenMode, Storage};

const COORDINATOR: CoordinatorId = CoordinatorId([7; 32]);

struct Bench {
    engine: Option<Engine>,
    storage: MemoryStorage,
    log: wal_core::Config,
    config: Config,
    now: Time,
    /// Nobody announces itself.
    away: bool,
    /// Work that was sent to be prepared, of which transaction and for which shard.
    prepared: Vec<(OperationId, ShardId, Vec<u8>)>,
    calls: Vec<(OperationId, u32, Direction)>,
    told: Vec<Output>,
}

fn at(node: u64) -> NodeName {
    NodeName::numbered(node)
}

fn key(name: &str) -> RequestKey {
    RequestKey::new(name.as_bytes()).unwrap()
}

fn call(body: u8) -> Step {
    Step::new(Action::Custom, at(1), [body])
}

fn branches(work: &[u8]) -> Vec<Branch> {
    let branch = |(number, work): (u64, &u8)| Branch {
        shard: ShardId::numbered(number),
        node: at(number),
        work: [*work].into(),
    };
    (1..).zip(work).map(branch).collect()
}

fn row(steps: impl IntoIterator<Item = Step>) -> Definition {
    let mut builder = Definition::builder();
    let mut last: Option<u32> = None;
    for step in steps {
        let step = last.into_iter().fold(step, Step::after);
        last = Some(builder.step(step));
    }
    builder.build().unwrap()
}

/// A log of these records, closed.
fn disk_with(records: &[(EventType, Vec<u8>)]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let (config, mode) = (wal_core::Config::default(), OpenMode::Exclusive);
    let opened = wal_core::open(&mut storage, &config, mode, 9, Time::ZERO, &mut ());
    let mut log = opened.unwrap().0;
    for (event, payload) in records {
        log.append(*event, 1_000, payload).unwrap();
    }
    log.force(log.last());
    wal_core::drive(&mut storage, &mut log, Time::ZERO);
    wal_core::close(&mut storage, &mut log, Time::ZERO);
    storage
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Bench {
    fn new(edit: impl Fn(&mut Config)) -> Bench {
        let mut config = Config::new(COORDINATOR, Key::root(3));
        config.jitter_percent = 0;
        edit(&mut config);
        let mut bench = Bench {
            engine: None,
            storage: MemoryStorage::new(),
            log: wal_core::Config::default(),
            config,
            now: Time::ZERO,
            away: false,
            prepared: vec![],
            calls: vec![],
            told: vec![],
        };
        bench.restart();
        bench
    }

    /// Over a log that holds these records.
    fn over(records: &[(EventType, Vec<u8>)], edit: impl Fn(&mut Config)) -> Bench {
        let mut bench = Bench::new(edit);
        bench.storage = disk_with(records);
        bench.restart();
        bench
    }

    /// Everything that is not durable is gone.
    fn restart(&mut self) {
        let (mut replay, mut out) = (Replay::default(), Vec::new());
        let mode = OpenMode::Exclusive;
        let opened = wal_core::open(&mut self.storage, &self.log, mode, 9, self.now, &mut replay);
        let log = opened.unwrap().0;
        self.engine = Some(Engine::resume(self.config.clone(), replay, log, self.now, &mut out));
        (self.calls, self.prepared) = (vec![], vec![]);
        self.take(out);
        self.flush();
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { to, message: Message::Hello } if !self.away => {
                    let (store, boot) = (StoreId(to.number()), BootCount(1));
                    self.hear(to, &Message::Announce { store, boot });
                }
                Output::Send { message: Message::Transaction(message), .. } => {
                    if let Spoken::Prepare { key, shard, work, .. } = message {
                        self.prepared.push((key.id, shard, work.to_vec()));
                    }
                }
                Output::Send { message: Message::StepCall { key, call, .. }, .. } => {
                    self.calls.push((key.id, call.step, call.direction));
                }
                Output::Send { .. } | Output::Appended { .. } => {}
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

    fn hear(&mut self, from: NodeName, message: &Message) {
        let (now, mut out) = (self.now, Vec::new());
        self.engine().receive(now, from, message, &mut out);
        self.take(out);
        self.flush();
    }

    fn submit(&mut self, name: &str, definition: Definition) -> OperationId {
        let (now, mut out) = (self.now, Vec::new());
        let request = Request { key: key(name), work: Work::Saga(definition) };
        self.engine().submit(now, request, &mut out);
        self.take(out);
        self.flush();
        let engine = self.engine.as_ref().unwrap();
        let mine = engine.active_sagas().find(|saga| saga.request_key() == Some(&key(name)));
        mine.map_or(OperationId(0), saga::Saga::id)
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let next = self.engine().next_wake().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_millis(1)).min(end);
            let (now, mut out) = (self.now, Vec::new());
            self.engine().wake(now, &mut out);
            self.take(out);
            self.flush();
        }
    }

    fn vote(&mut self, id: OperationId, shard: u64, vote: Vote) {
        let (key, node) = (TxKey { coordinator: COORDINATOR, id }, at(shard));
        let (shard, store, boot) = (ShardId::numbered(shard), StoreId(shard), BootCount(1));
        let vote = Spoken::Vote { key, shard, vote, store, boot };
        self.hear(node, &Message::Transaction(vote));
    }

    fn ack(&mut self, id: OperationId, shard: u64) {
        let (key, node) = (TxKey { coordinator: COORDINATOR, id }, at(shard));
        let (shard, store, heuristic) = (ShardId::numbered(shard), StoreId(shard), None);
        let ack = Spoken::Ack { key, shard, store, heuristic };
        self.hear(node, &Message::Transaction(ack));
    }

    /// All participants of what was asked to be prepared last agree and commit.
    fn commit(&mut self) -> OperationId {
        let id = self.last_begun();
        let mine =
            |(of, shard, _): &(OperationId, ShardId, _)| (*of == id).then_some(shard.number());
        let mut shards: Vec<u64> = self.prepared.iter().filter_map(mine).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.iter().for_each(|shard| self.vote(id, *shard, Vote::Commit));
        shards.iter().for_each(|shard| self.ack(id, *shard));
        self.prepared.clear();
        id
    }

    /// The transaction of which something was sent to be prepared last.
    fn last_begun(&self) -> OperationId {
        self.prepared.last().expect("something was sent to be prepared").0
    }

    fn answer(&mut self, id: OperationId, step: u32, direction: Direction, answer: StepAnswer) {
        let engine = self.engine.as_ref().unwrap();
        let saga = engine.active_sagas().find(|saga| saga.id() == id).unwrap();
        let (token, key) = (saga.token(step, direction), SagaKey { coordinator: COORDINATOR, id });
        let reply = Message::StepReply { key, step, direction, token, answer, output: None };
        self.hear(at(1), &reply);
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
        let Operated { result, .. } = *told;
        result
    }

    fn force(&mut self, id: OperationId, force: Force) -> Result<(), ForceError> {
        self.intervene(Doubtful::Transaction(id), force)
    }

    fn intervene(&mut self, of: Doubtful, force: Force) -> Result<(), ForceError> {
        let audit = Arc::new(Audit { at_ms: 5, who: "eva".into(), why: "they asked".into() });
        let (now, mut out) = (self.now, Vec::new());
        self.engine().intervene(now, &Intervention { of, force, audit }, &mut out);
        self.take(out);
        self.flush();
        let heard = self.told.iter().position(|output| matches!(output, Output::Intervened(_)));
        let Output::Intervened(told) = self.told.remove(heard.unwrap()) else { unreachable!() };
        told.result
    }

    fn parked(&self) -> Vec<(OperationId, u32)> {
        self.engine.as_ref().unwrap().parked().collect()
    }

    fn children(&self) -> Vec<StepOperation> {
        self.engine.as_ref().unwrap().step_operations().map(|(_, child)| child).collect()
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
}

const REFUSED: StepAnswer = StepAnswer::Refused { code: 5 };

/// A transfer that is undone by another one, and a step behind it that is refused: the undo has begun.
fn turned(bench: &mut Bench) -> OperationId {
    let transfer = Step::transaction(branches(&[1, 2])).undone_by_transaction(branches(&[3, 4]));
    let id = bench.submit("turned", row([transfer, call(0)]));
    bench.commit();
    bench.answer(id, 1, Direction::Forward, REFUSED);
    id
}

/// A step whose transaction is voted down is begun anew, as often as its terms say, and by default three times in all;
/// then it has failed, and what was done before it is undone.
#[test]
fn a_step_fails_when_its_transaction_was_voted_down_often_enough() {
    for (attempts, begun) in [(Some(1), 1), (Some(2), 2), (None, 3), (Some(5), 5)] {
        let mut bench = Bench::new(|_| {});
        let transfer =
            Step::transaction(branches(&[1, 2])).undone_by_transaction(branches(&[3, 4]));
        let transfer = attempts.into_iter().fold(transfer, Step::attempts);
        let id = bench.submit("voted down", row([call(0), transfer]));
        bench.answer(id, 0, Direction::Forward, StepAnswer::Done);
        let mut all = std::collections::BTreeSet::new();
        while all.len() < 10 && all.insert(bench.last_begun()) {
            assert_eq!(bench.outcomes(), []);
            bench.vote(bench.last_begun(), 1, Vote::Abort);
            bench.wait(seconds(10));
        }
        assert_eq!(all.len(), begun, "{attempts:?}");
        bench.answer(id, 0, Direction::Backward, StepAnswer::Done);
        assert_eq!(bench.outcomes(), [Outcome::Compensated]);
    }
}

// ---- what an operator has forced ----

fn behind_the_pivot() -> Definition {
    let step = Step::transaction(branches(&[1])).kind(StepKind::Retriable);
    row([call(0).kind(StepKind::Pivot), step])
}

/// The only participant decides and does not say how. The step cannot fail, so it would be begun anew: but
/// what the operator calls aborted may have committed, and then its effect would come twice.
#[test]
fn a_step_that_cannot_fail_is_not_begun_anew_when_its_transaction_is_forced_to_abort() {
    let mut bench = Bench::new(|_| {});
    let id = bench.submit("a", behind_the_pivot());
    bench.answer(id, 0, Direction::Forward, StepAnswer::Done);
    let first = bench.last_begun();
    let nothing = Err(OrderError::Refused(OrderRefusal::NotCompensating));
    assert_eq!(bench.order(id, 1, What::RetryNow), nothing, "nobody waits for him yet");
    assert_eq!(bench.force(first, Force::Abort), Ok(()));
    bench.prepared.clear();
    for _ in 0..2 {
        bench.wait(seconds(100));
        assert_eq!((&bench.prepared[..], bench.children()), (&[][..], vec![]));
        assert_eq!(bench.parked(), [(id, 1)]);
        assert_eq!(bench.engine().active(), 1, "the aborted one has ended");
        bench.restart();
    }
    // Only what makes sense of it is taken.
    let call = Err(OrderError::Refused(OrderRefusal::NotACall { step: 1 }));
    assert_eq!(bench.order(id, 1, What::Override { body: [1].into() }), call);
    assert_eq!(bench.order(id, 1, What::CloseUnanswered), call);
    // He has looked: nothing had come of it.
    assert_eq!(bench.order(id, 1, What::RetryNow), Ok(()));
    let second = bench.last_begun();
    assert!(second > first && bench.parked().is_empty());
    assert_eq!(bench.children(), [StepOperation::Transaction(second)]);
    // Once more, and this time it had committed.
    assert_eq!(bench.force(second, Force::Abort), Ok(()));
    assert_eq!(bench.parked(), [(id, 1)]);
    bench.restart();
    assert_eq!(bench.order(id, 1, What::MarkDone), Ok(()));
    assert_eq!((bench.outcomes(), bench.parked()), (vec![Outcome::Completed], vec![]));
    bench.wait(seconds(100));
    assert_eq!((bench.engine().active(), &bench.prepared[..]), (0, &[][..]));
}

fn records(saga: OperationId, definition: &Definition) -> Vec<(EventType, Vec<u8>)> {
    let events = saga::Saga::admission(definition, COORDINATOR, 5, Some(key("a")));
    events
        .iter()
        .map(|event| {
            let mut payload = Vec::new();
            (codec::encode_saga(saga, event, &mut payload), payload)
        })
        .collect()
}

/// A crash has come between the operator's word and the saga's record of it. After a retry it does not count
/// any more, whichever of both transactions a start still finds.
#[test]
fn a_start_finds_what_was_forced_to_abort() {
    use twopc::coordinator::{Event as Tx, Member};
    let (saga, first) = (OperationId(1 << 40 | 1), OperationId(1 << 40 | 2));
    let mut log = records(saga, &behind_the_pivot());
    let done = saga::Event::StepSucceeded { step: 0, output: None };
    let mut payload = Vec::new();
    log.push((codec::encode_saga(saga, &done, &mut payload), payload));
    let parent = base::ParentStep { saga, step: 1, undo: false };
    let begun = |id: OperationId| {
        let member = Member::new(ShardId::numbered(1), at(1));
        let events = twopc::Transaction::one_phase_admission(COORDINATOR, None, None, member);
        let events = twopc::Transaction::on_behalf_of(parent, events);
        let encode = move |event: &Tx| {
            let mut payload = Vec::new();
            (codec::encode_transaction(id, event, &mut payload), payload)
        };
        let audit = Arc::new(Audit { at_ms: 5, who: "eva".into(), why: "they asked".into() });
        let mut records: Vec<_> = events.iter().map(encode).collect();
        records.push(encode(&Tx::ForcedAbort { audit }));
        records
    };
    log.extend(begun(first));
    let mut bench = Bench::over(&log, |_| {});
    assert_eq!((bench.parked(), &bench.prepared[..]), (vec![(saga, 1)], &[][..]));
    assert_eq!(bench.order(saga, 1, What::RetryNow), Ok(()));
    let second = bench.last_begun();
    // The first one is still being aborted, and a start looks for what runs on behalf of the step.
    bench.restart();
    assert_eq!(
        (bench.parked(), bench.children()),
        (vec![], vec![StepOperation::Transaction(second)])
    );
}

/// What undoes a step might undo it twice as well.
#[test]
fn an_undo_that_is_forced_to_abort_waits_for_an_operator() {
    let mut bench = Bench::new(|_| {});
    let transfer = Step::transaction(branches(&[1])).undone_by_transaction(branches(&[3]));
    let id = bench.submit("a", row([transfer, call(0)]));
    bench.commit();
    bench.answer(id, 1, Direction::Forward, REFUSED);
    let undo = bench.last_begun();
    bench.prepared.clear();
    assert_eq!(bench.force(undo, Force::Abort), Ok(()));
    for _ in 0..2 {
        bench.wait(seconds(100));
        assert_eq!((&bench.prepared[..], bench.parked()), (&[][..], vec![(id, 0)]));
        bench.restart();
    }
    assert_eq!(bench.order(id, 0, What::RetryNow), Ok(()));
    bench.commit();
    assert_eq!(bench.outcomes(), [Outcome::Compensated]);
}

// ---- undone by a transaction that does not succeed ----

/// Nobody votes, or nobody is there: each attempt is given up in time, and no more are made than of a call.
#[test]
fn an_undo_by_transaction_that_nobody_answers_is_parked() {
    for away in [false, true] {
        let mut bench = Bench::new(|config| config.undo_attempts_max = 3);
        let id = turned(&mut bench);
        if away {
            // After this start nobody has announced itself.
            bench.wait(seconds(1));
            bench.away = true;
            bench.restart();
        }
        for _ in 0..20 {
            bench.wait(seconds(20));
        }
        assert_eq!(bench.parked(), [(id, 0)], "away: {away}");
        assert_eq!(bench.children(), [], "away: {away}");
        let mut begun: Vec<_> = bench.prepared.iter().map(|(id, ..)| *id).collect();
        begun.dedup();
        assert_eq!(begun.len(), if away { 0 } else { 3 });
        bench.away = false;
        bench.prepared.clear();
        bench.wait(seconds(100));
        assert!(bench.prepared.is_empty());
        // An operator has it tried as often again.
        assert_eq!(bench.order(id, 0, What::RetryNow), Ok(()));
        bench.commit();
        assert_eq!(bench.outcomes(), [Outcome::Compensated]);
    }
}

#[test]
fn an_operator_marks_an_undo_by_transaction_done_or_names_another() {
    for marked in [false, true] {
        let mut bench = Bench::new(|config| config.undo_attempts_max = 1);
        let id = turned(&mut bench);
        let instead = |work: &[u8]| What::Instead { branches: branches(work).into() };
        let not_yet = Err(OrderError::Refused(OrderRefusal::NotACall { step: 0 }));
        assert_eq!(bench.order(id, 0, What::MarkDone), not_yet, "one runs that may commit");
        assert_eq!(bench.order(id, 0, instead(&[9])), not_yet);
        let refused = bench.last_begun();
        bench.vote(refused, 1, Vote::Abort);
        assert_eq!(bench.parked(), [(id, 0)]);
        bench.told.clear();
        assert_eq!(bench.order(id, 0, What::Override { body: [9].into() }), not_yet);
        assert_eq!(bench.order(id, 0, What::CloseUnanswered), not_yet);
        let bad = Err(OrderError::Refused(OrderRefusal::BadBranches { step: 0 }));
        assert_eq!(bench.order(id, 0, instead(&[])), bad);
        bench.prepared.clear();
        if marked {
            assert_eq!(bench.order(id, 0, What::MarkDone), Ok(()));
            assert_eq!(bench.engine().stats().heuristic, 1);
        } else {
            assert_eq!(bench.order(id, 0, instead(&[9, 8, 7])), Ok(()));
            // It is in the log: a start goes on with it.
            bench.restart();
            bench.wait(seconds(1));
            let mut work: Vec<_> = bench.prepared.iter().map(|(.., work)| work[0]).collect();
            work.sort_unstable();
            work.dedup();
            assert_eq!(work, [7, 8, 9]);
            bench.commit();
        }
        assert_eq!(bench.outcomes(), [Outcome::Compensated]);
        bench.wait(seconds(100));
        assert_eq!(bench.engine().active(), 0);
        assert!(bench.prepared.is_empty());
        bench.restart();
        assert_eq!(bench.engine().active(), 0);
    }
}

// ---- what counts against whom ----

/// The operations of steps end too, and nobody asks for them by a key: what clients ask for is kept as if there
/// were none of them, live, in a snapshot and after a start.
#[test]
fn what_steps_were_takes_no_place_of_a_result() {
    for compacted in [false, true] {
        let mut bench = Bench::new(|config| config.results_max = 2);
        bench.log.max_records = if compacted { 40 } else { u64::MAX };
        bench.log.segment_bytes_first = 4 << 10;
        bench.restart();
        let inner = || Step::saga(row([call(1)])).undone_by_transaction(branches(&[5]));
        let definition = || {
            let transfer =
                Step::transaction(branches(&[1, 2])).undone_by_transaction(branches(&[3, 4]));
            row([transfer, inner(), inner()])
        };
        for name in ["a", "b"] {
            let id = bench.submit(name, definition());
            bench.commit();
            for _ in 0..2 {
                let child = bench.calls.pop().expect("the sub-saga calls its step").0;
                assert!(child > id);
                bench.answer(child, 0, Direction::Forward, StepAnswer::Done);
            }
            assert_eq!(bench.outcomes(), [Outcome::Completed]);
        }
        let mut snapshots = 0;
        for _ in 0..2 {
            for name in ["a", "b"] {
                bench.submit(name, definition());
                assert_eq!(
                    bench.outcomes(),
                    [Outcome::Completed],
                    "{name}, compacted: {compacted}"
                );
            }
            bench.wait(seconds(10));
            snapshots += bench.engine().log().stats().compactions;
            bench.restart();
        }
        assert_eq!(snapshots > 0, compacted, "{snapshots}");
    }
}

/// A client's saga waits for an operator wherever in it the parked branch is.
#[test]
fn a_saga_whose_sub_saga_is_parked_keeps_no_other_out() {
    let mut bench = Bench::new(|config| {
        (config.active_sagas_max, config.undo_attempts_max) = (1, 1);
    });
    let inner = row([call(1), call(2)]);
    let outer = row([Step::saga(row([Step::saga(inner)]))]);
    let id = bench.submit("a", outer);
    let more = |bench: &mut Bench, name: &str| {
        bench.submit(name, row([call(9)]));
        bench.outcomes().pop()
    };
    let full = Outcome::Refused(coordinator::Refusal::TooManyActive { active_max: 1 });
    assert_eq!(more(&mut bench, "b"), Some(full.clone()));
    let innermost = bench.calls.pop().unwrap().0;
    bench.answer(innermost, 0, Direction::Forward, StepAnswer::Done);
    bench.answer(innermost, 1, Direction::Forward, REFUSED);
    bench.answer(innermost, 0, Direction::Backward, REFUSED);
    assert_eq!(bench.parked(), [(innermost, 0)]);
    bench.restart();
    assert_eq!(more(&mut bench, "b"), None, "it is admitted");
    assert_eq!(more(&mut bench, "c"), Some(full.clone()), "and one is the most");
    // Once it goes on it counts again.
    let active = bench.engine().active_sagas().map(saga::Saga::id).max().unwrap();
    bench.answer(active, 0, Direction::Forward, StepAnswer::Done);
    assert_eq!(bench.order(innermost, 0, What::RetryNow), Ok(()));
    bench.told.clear();
    assert_eq!(more(&mut bench, "c"), Some(full));
    bench.answer(innermost, 0, Direction::Backward, StepAnswer::Done);
    assert_eq!(bench.outcomes(), [Outcome::Compensated]);
    assert_eq!(
        (more(&mut bench, "c"), bench.engine().active_sagas().any(|it| it.id() == id)),
        (None, false)
    );
}

// ---- what cannot begin ----

/// The configuration was changed over a start: what a step asks for is larger than the log takes now. It is
/// seen, and a start that allows it goes on.
#[test]
fn a_step_that_cannot_begin_is_seen_and_begins_under_another_configuration() {
    for nested in [false, true] {
        let long = Branch { shard: ShardId::numbered(1), node: at(1), work: [7; 4_000].into() };
        let step = match nested {
            false => Step::transaction([long]).kind(StepKind::Retriable),
            true => Step::saga(row([Step::new(Action::Custom, at(1), [7; 4_000])]))
                .kind(StepKind::Retriable),
        };
        let mut bench = Bench::new(|_| {});
        let id = bench.submit("a", row([call(0).kind(StepKind::Pivot), step]));
        let whole = bench.log.max_payload;
        bench.log.max_payload = 2_000;
        bench.restart();
        bench.answer(id, 0, Direction::Forward, StepAnswer::Done);
        bench.wait(seconds(20));
        let seen: Vec<_> = bench.engine().unbegun().map(|(of, why)| (of, why.clone())).collect();
        let of = base::ParentStep { saga: id, step: 1, undo: false };
        let why = coordinator::Refusal::TooLarge { payload_bytes_max: 2_000 };
        assert_eq!(seen, [(of, why)], "nested: {nested}");
        bench.log.max_payload = whole;
        bench.restart();
        bench.wait(seconds(1));
        assert_eq!(bench.engine().unbegun().count(), 0);
        if nested {
            let child = bench.calls.last().unwrap().0;
            bench.answer(child, 0, Direction::Forward, StepAnswer::Done);
        } else {
            bench.commit();
        }
        assert_eq!(bench.outcomes(), [Outcome::Completed]);
    }
}

// ---- in what order ----

/// Of a transaction in one phase that changes nothing the end is in the log before its step's success. A crash
/// between both takes that, and the step begins another one.
#[test]
fn a_read_only_transaction_in_one_phase_may_end_before_its_step_knows() {
    let looks = || row([call(0), Step::transaction(branches(&[1])).undone_at(at(1), [])]);
    let mut bench = Bench::new(|_| {});
    let id = bench.submit("a", looks());
    bench.answer(id, 0, Direction::Forward, StepAnswer::Done);
    let tx = bench.last_begun();
    let (key, shard) = (TxKey { coordinator: COORDINATOR, id: tx }, ShardId::numbered(1));
    let (store, boot, vote) = (StoreId(1), BootCount(1), Vote::ReadOnly);
    let vote = Message::Transaction(Spoken::Vote { key, shard, vote, store, boot });
    let (now, mut out) = (bench.now, Vec::new());
    bench.engine().receive(now, at(1), &vote, &mut out);
    let appended = |output: &Output| match output {
        Output::Appended { event, .. } => Some(*event),
        _ => None,
    };
    let order: Vec<_> = out.iter().filter_map(appended).collect();
    let step = [EventType::TX_ABORT_COMPLETE, EventType::SAGA_STEP_SUCCEEDED];
    assert_eq!(order, [&step[..], &[EventType::SAGA_COMPLETED]].concat());

    use twopc::coordinator::{Event as Tx, Member};
    let (saga, tx) = (OperationId(1 << 40 | 1), OperationId(1 << 40 | 2));
    let mut log = records(saga, &looks());
    log.extend(written(saga, &[saga::Event::StepSucceeded { step: 0, output: None }]));
    let parent = base::ParentStep { saga, step: 1, undo: false };
    let member = Member::new(shard, at(1));
    let begun = twopc::Transaction::one_phase_admission(COORDINATOR, None, None, member);
    let mut events = twopc::Transaction::on_behalf_of(parent, begun);
    events.push(Tx::ReadOnlyComplete);
    log.extend(events.iter().map(|event| {
        let mut payload = Vec::new();
        (codec::encode_transaction(tx, event, &mut payload), payload)
    }));
    let mut bench = Bench::over(&log, |_| {});
    let again = bench.last_begun();
    assert!(again > tx);
    bench.vote(again, 1, Vote::ReadOnly);
    assert_eq!(bench.outcomes(), [Outcome::Completed]);
}

// ---- behind a salvage ----

type Written = (EventType, Vec<u8>);

fn written(saga: OperationId, events: &[saga::Event]) -> Vec<Written> {
    let encode = |event: &saga::Event| {
        let mut payload = Vec::new();
        (codec::encode_saga(saga, event, &mut payload), payload)
    };
    events.iter().map(encode).collect()
}

fn doubtful(doubt: coordinator::Doubt) -> Written {
    let mut payload = Vec::new();
    (codec::encode_doubt(COORDINATOR, &doubt, &mut payload), payload)
}

/// A saga, its sub-saga that is done and can be reversed, and whether the log says that the saga has ended.
fn behind_a_salvage(ended: bool) -> Vec<Written> {
    use coordinator::Doubt;
    let (outer, inner) = (OperationId(1 << 40 | 1), OperationId(1 << 40 | 2));
    let parent = base::ParentStep { saga: outer, step: 0, undo: false };
    let definition = row([call(1)]);
    let admission = saga::Saga::admission(&definition, COORDINATOR, 6, None);
    let inside = saga::Saga::on_behalf_of(parent, admission);
    let done = |step| saga::Event::StepSucceeded { step, output: None };
    let mut log = vec![doubtful(Doubt::LostRecord)];
    log.extend(records(outer, &row([Step::saga(definition)])));
    log.extend(written(inner, &inside));
    log.extend(written(inner, &[done(0)]));
    log.extend(written(outer, &[done(0)]));
    if ended {
        log.extend(written(outer, &[saga::Event::Completed]));
    } else {
        log.push(doubtful(Doubt::Saga(outer)));
    }
    log.push(doubtful(Doubt::UnknownIds { up_to: base::Epoch::new(1) }));
    log
}

/// What is known to have ended has, whatever the lost records say of others.
#[test]
fn a_sub_saga_ends_behind_a_salvage_when_its_saga_is_known_to_have_ended() {
    let mut bench = Bench::over(&behind_a_salvage(true), |_| {});
    assert_eq!((bench.engine().active(), bench.children()), (0, vec![]));
    // However few results are kept, and however often it starts.
    let mut bench = Bench::over(&behind_a_salvage(true), |config| config.results_kept = seconds(0));
    assert_eq!(bench.engine().active(), 0);
    bench.restart();
    assert_eq!(bench.engine().active(), 0);
    // Of one in doubt nobody can say, and so it waits, and is seen.
    let mut bench = Bench::over(&behind_a_salvage(false), |_| {});
    bench.wait(seconds(100));
    assert_eq!(bench.engine().active(), 1);
    assert_eq!(bench.children(), [StepOperation::Saga(OperationId(1 << 40 | 2))]);
}

/// An operator says how a saga in doubt has ended: its client hears it, and what its steps were ends.
#[test]
fn an_operator_ends_a_saga_in_doubt_and_with_it_what_its_steps_were() {
    let (outer, inner) = (OperationId(1 << 40 | 1), OperationId(1 << 40 | 2));
    for (force, outcome) in
        [(Force::Commit, Outcome::Completed), (Force::Abort, Outcome::Compensated)]
    {
        let mut bench = Bench::over(&behind_a_salvage(false), |_| {});
        let refused = |refusal| Err(ForceError::Refused(refusal));
        let (not_here, forget) = (twopc::ForceRefusal::NotInDoubt, twopc::ForceRefusal::NotListed);
        assert_eq!(bench.intervene(Doubtful::Saga(inner), force), refused(not_here));
        assert_eq!(bench.intervene(Doubtful::Saga(outer), Force::Forget), refused(forget));
        let ask = |bench: &mut Bench| {
            bench.submit("a", row([Step::saga(row([call(1)]))]));
            bench.outcomes()
        };
        assert_eq!(ask(&mut bench), [Outcome::InDoubt]);
        assert_eq!(bench.intervene(Doubtful::Saga(outer), force), Ok(()));
        for _ in 0..2 {
            assert_eq!((bench.engine().active(), bench.children()), (0, vec![]));
            assert_eq!(bench.engine().sagas_in_doubt().count(), 0);
            assert_eq!(ask(&mut bench), std::slice::from_ref(&outcome));
            assert_eq!(bench.intervene(Doubtful::Saga(outer), force), refused(not_here));
            bench.restart();
        }
    }
}

/// Of the saga no record is left, and its transaction has committed.
#[test]
fn what_a_hidden_saga_has_begun_ends_by_its_operators_word() {
    use coordinator::Doubt;
    use twopc::coordinator::{Event as Tx, Member};
    let (hidden, tx) = (OperationId(1 << 40 | 1), OperationId(1 << 40 | 2));
    let parent = base::ParentStep { saga: hidden, step: 0, undo: false };
    let members = [1, 2].map(|number| Member::new(ShardId::numbered(number), at(number)));
    let begun = twopc::Transaction::admission(COORDINATOR, None, None, &members).unwrap();
    let mut events = twopc::Transaction::on_behalf_of(parent, begun);
    let vote = |member: &Member| Tx::VoteReceived { shard: member.shard, vote: Vote::Commit };
    events.extend(members.each_ref().map(vote));
    events.push(Tx::CommitStart { members: members.to_vec() });
    let mut log = vec![doubtful(Doubt::LostRecord)];
    log.extend(events.iter().map(|event| {
        let mut payload = Vec::new();
        (codec::encode_transaction(tx, event, &mut payload), payload)
    }));
    log.push(doubtful(Doubt::UnknownIds { up_to: base::Epoch::new(1) }));
    let mut bench = Bench::over(&log, |_| {});
    [1, 2].into_iter().for_each(|shard| bench.ack(tx, shard));
    bench.wait(seconds(100));
    assert_eq!(bench.children(), [StepOperation::Transaction(tx)]);
    let nobody = Err(ForceError::Refused(twopc::ForceRefusal::NotInDoubt));
    assert_eq!(bench.intervene(Doubtful::Saga(OperationId(1 << 40 | 9)), Force::Abort), nobody);
    assert_eq!(bench.intervene(Doubtful::Saga(hidden), Force::Abort), Ok(()));
    assert_eq!((bench.engine().active(), bench.children()), (0, vec![]));
    bench.restart();
    assert_eq!((bench.engine().active(), bench.children()), (0, vec![]));
}

/// A read-only transaction has nothing to say any more but to its saga, and that finds no room for it.
#[test]
fn what_a_step_came_to_is_told_when_there_is_room_again() {
    let mut had_to_wait = 0;
    for more in (0..700).step_by(7) {
        let mut bench = Bench::new(|_| {});
        bench.log.max_payload = 1_024;
        bench.log.batch_bytes_max = 2_048;
        bench.log.buffered_bytes_max = 32 << 10;
        bench.log.segment_bytes_first = 16_384 + more;
        bench.log.segment_bytes_max = 1 << 20;
        bench.restart();
        bench.engine().confine_log(true);
        for number in 0..400 {
            let mut builder = Definition::builder();
            builder.timeout(Duration::MAX);
            let step = Step::transaction(branches(&[1])).undone_at(at(1), []);
            builder.step(step.timeout(Duration::MAX));
            bench.submit(&format!("{number}"), builder.build().unwrap());
            let busy =
                |it: &Output| matches!(it, Output::Reply { outcome: Outcome::Refused(_), .. });
            if bench.told.iter().any(busy) {
                break;
            }
        }
        for (id, ..) in std::mem::take(&mut bench.prepared) {
            bench.vote(id, 1, Vote::ReadOnly);
            bench.wait(Duration::from_millis(10));
        }
        let ended = |bench: &Bench| {
            let all = bench.engine.as_ref().unwrap().active_transactions();
            all.filter(|it| it.ended().is_some()).count()
        };
        had_to_wait += ended(&bench);
        bench.wait(seconds(20));
        bench.engine().confine_log(false);
        bench.wait(seconds(3_600));
        assert_eq!(ended(&bench), 0, "with {more} bytes more");
    }
    assert!(had_to_wait > 0);
}
