//! Histories at random: sagas, transactions and both within each other, over a network that loses and doubles,
//! with crashes at any disk operation and a log that is compacted all the time.
//!
//! The engine is held against what its participants have done and what it told: decisions, orders of calls,
//! values that are passed on, outcomes and what is known of them later. Its log is held against a stream of
//! every record that there ever was. Time goes on only to where the engine wants to be woken.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::{Key, Stream};
use base::{BootCount, CoordinatorId, NodeName, OperationId, RequestKey, Sequence, ShardId};
use base::{StoreId, Time, Token};
use coordinator::{
    Branch, CancelRefusal, Config, Engine, Message, Outcome, Output, Refusal, Replay, Request,
    StepAnswer, UndoOrder, Work,
};
use saga::{
    Action, Definition, Direction, End, Order, Performer, Step, StepInput, StepKind, ValueType,
    What,
};
use std::collections::BTreeMap;
use std::time::Duration;
use twopc::coordinator::Decision;
use twopc::participant::{Event, Participant, Promise, PromiseKey, Resources, Ruling};
use wal_core::{
    DiskOp, MemoryStorage, OpenMode, Place, Record, ScanConfig, Scanned, Storage, Visitor,
};

const ME: CoordinatorId = CoordinatorId::numbered(9);
const NODES: u64 = 3;

/// What a branch, or a step, does with what it is asked to do: its body's first byte.
const DOES: u8 = 0;
const REFUSES: u8 = 1;
const READS: u8 = 2;
/// A step whose undo is refused.
const STAYS: u8 = 3;

struct Mood;

impl Resources for Mood {
    fn can_prepare(&self, _: &PromiseKey, work: &[u8]) -> bool {
        work[0] != REFUSES
    }

    fn is_read_only(&self, _: &PromiseKey, work: &[u8]) -> bool {
        work[0] == READS
    }
}

/// A participant that never fails: what it has applied is durable.
struct Node {
    name: NodeName,
    participant: Participant,
    records: u64,
    /// Each call that was answered for good.
    answers: BTreeMap<Token, (StepAnswer, Option<saga::Output>)>,
}

/// What became of a step that was called.
#[derive(Debug, Default)]
struct Effect {
    deps: u8,
    done: bool,
    brought: Option<saga::Output>,
    undone: bool,
}

/// Every record that there ever was.
#[derive(Default)]
struct History {
    stream: Vec<u8>,
    last: Sequence,
}

impl Visitor for History {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        if record.sequence > self.last {
            assert_eq!(record.sequence, self.last.next(), "a record is missing");
            wal_core::encode_record(record, &mut self.stream);
            self.last = record.sequence;
        }
    }
}

/// All that a replay finds of the operations, but for the trails.
fn known(replay: &Replay, scanned: &Scanned) -> Vec<String> {
    let report = replay.report(scanned);
    assert_eq!(report.anomalies.total(), 0, "{:?}", report.anomalies);
    let mut known: Vec<String> = report.operations.iter().map(|it| format!("{it:?}")).collect();
    known.extend(replay.ended_sagas().map(|it| format!("{it:?}")));
    known.extend(replay.ended_transactions().map(|it| format!("{it:?}")));
    known.push(format!("{:?} {:?}", report.heuristics, report.unknown_ids_up_to));
    known
}

struct World {
    disk: MemoryStorage,
    history: History,
    engine: Option<Engine>,
    nodes: Vec<Node>,
    mail: Vec<(NodeName, NodeName, Message)>,
    now: Time,
    stream: Stream,
    /// Of 1,000 disk operations so many are the last before a crash.
    crashes: u64,
    asked: BTreeMap<RequestKey, Work>,
    told: BTreeMap<RequestKey, Outcome>,
    effects: BTreeMap<(OperationId, u32), Effect>,
    ends: BTreeMap<PromiseKey, Promised>,
    /// How often each thing happened that this is about.
    seen: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Promised {
    Committed,
    Aborted,
    ReadOnly,
}

fn config() -> Config {
    let mut config = Config::new(ME, Key::root(3));
    config.undo_attempts_max = 3;
    config.output_bytes_max = 400;
    config.prepare_timeout = Duration::from_secs(6);
    config.step_timeout = Duration::from_secs(5);
    config.saga_timeout = Duration::from_secs(40);
    (config.active_sagas_max, config.active_transactions_max) = (5, 4);
    config
}

fn log_config() -> wal_core::Config {
    wal_core::Config {
        max_payload: 2 << 10,
        max_records: 50,
        segment_bytes_first: 8 << 10,
        segment_bytes_max: 8 << 10,
        batch_bytes_max: 4 << 10,
        buffered_bytes_max: 64 << 10,
        ..wal_core::Config::default()
    }
}

impl World {
    fn new(seed: u64) -> World {
        let node = |number: u64| Node {
            name: NodeName::numbered(number),
            participant: Participant::new(
                NodeName::numbered(number),
                StoreId(number),
                BootCount(1),
            ),
            records: 0,
            answers: BTreeMap::new(),
        };
        let mut world = World {
            disk: MemoryStorage::new(),
            history: History::default(),
            engine: None,
            nodes: (0..NODES).map(node).collect(),
            mail: Vec::new(),
            now: Time::ZERO,
            stream: Key::root(seed).child("histories").stream(),
            crashes: 8,
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
            effects: BTreeMap::new(),
            ends: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        world.start();
        world
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn chance(&mut self, of: u64) -> bool {
        self.stream.below(of) == 0
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    /// Does something with the engine, and then all that it wants done.
    fn with<R>(&mut self, act: impl FnOnce(&mut Engine, Time, &mut Vec<Output>) -> R) -> R {
        let (now, mut out) = (self.now, Vec::new());
        let done = act(self.engine(), now, &mut out);
        self.take(out);
        done
    }

    fn start(&mut self) {
        let (mut replay, mut out) = (Replay::default(), Vec::new());
        let (mode, now) = (OpenMode::Exclusive, self.now);
        let opened =
            wal_core::open(&mut self.disk, &log_config(), mode, 9, now, &mut replay).unwrap();
        self.engine = Some(Engine::resume(config(), replay, opened.0, now, &mut out));
        self.take(out);
    }

    /// The log says what the whole history says.
    fn compare(&mut self) {
        let config = ScanConfig::default();
        wal_core::scan(&self.disk, &config, &mut self.history).unwrap();
        let mut replay = Replay::default();
        let scanned = wal_core::scan(&self.disk, &config, &mut replay).unwrap();
        assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
        let found = known(&replay, &scanned);
        let mut whole = Replay::default();
        let stream = &mut self.history.stream.as_slice();
        let all = wal_core::scan_stream(stream, &config, &mut whole).unwrap();
        assert_eq!(found, known(&whole, &all));
        if scanned.base.is_some() {
            self.saw("a log that begins with a snapshot");
        }
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Disk { ops, .. } => match self.disk(&ops) {
                    true => {}
                    false => return,
                },
                Output::Send { to, message } => {
                    let copies = [0, 1, 1, 1, 1, 1, 1, 1, 1, 2][self.stream.below(10) as usize];
                    let from = NodeName(ME.0);
                    self.mail.extend((0..copies).map(|_| (to, from, message.clone())));
                }
                Output::Reply { outcome: Outcome::Refused(refusal), .. } => {
                    assert!(
                        matches!(refusal, Refusal::TooManyActive { .. } | Refusal::LogBusy),
                        "{refusal}"
                    );
                    self.saw("refused");
                }
                Output::Reply { key, outcome } => {
                    let before = self.told.insert(key, outcome.clone());
                    assert!(before.is_none_or(|before| before == outcome), "told otherwise before");
                }
                Output::Died { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
    }

    /// False: it has crashed meanwhile, and what it has wanted besides is not done any more.
    fn disk(&mut self, ops: &[DiskOp]) -> bool {
        let retires = ops.iter().any(|op| matches!(op, DiskOp::Retire(_)));
        if retires {
            wal_core::scan(&self.disk, &ScanConfig::default(), &mut self.history).unwrap();
        }
        for op in ops {
            self.disk.perform(op).unwrap();
            if retires || self.chance(40) {
                self.compare();
            }
            if self.stream.below(1_000) < self.crashes {
                self.saw("crashed");
                if self.chance(2) {
                    self.mail.clear();
                }
                self.start();
                return false;
            }
        }
        self.with(|engine, now, out| engine.flushed(now, Ok(()), out));
        true
    }

    /// Somebody hears something, or time goes on.
    fn go_on(&mut self) {
        self.with(|engine, now, out| engine.flush(now, out));
        if !self.mail.is_empty() {
            let at = self.stream.below(self.mail.len() as u64) as usize;
            let (to, from, message) = self.mail.swap_remove(at);
            if to == NodeName(ME.0) {
                self.with(|engine, now, out| engine.receive(now, from, &message, out));
            } else {
                self.hears(to.number() as usize, message);
            }
            return;
        }
        match self.chance(4) {
            true => self.others_act(),
            false => {
                let next = self.engine().next_wake();
                let waits = self.engine().active() > 0 && self.engine().parked().count() == 0;
                assert!(next.is_some() || !waits, "something waits for nobody");
                if let Some(next) = next {
                    assert!(next <= self.now + Duration::from_secs(60), "{next} is late");
                    self.now = self.now.max(next);
                    self.with(|engine, now, out| engine.wake(now, out));
                }
            }
        }
    }

    /// Participants ask, operators order, clients cancel and ask again.
    fn others_act(&mut self) {
        match self.stream.below(8) {
            0..2 => {
                for node in &self.nodes {
                    let mut owed = Vec::new();
                    for (name, _) in node.participant.waiting() {
                        node.participant.pending_of(name, true, &mut owed);
                    }
                    let sent = owed
                        .into_iter()
                        .map(|reply| (reply.to, node.name, Message::Transaction(reply.message)));
                    self.mail.extend(sent);
                }
            }
            2 => {
                let from = NodeName::numbered(self.stream.below(NODES));
                self.mail.push((NodeName(ME.0), from, Message::AskFinished));
            }
            3 => {
                let Some((id, step)) = self.engine().parked().next() else { return };
                let body = [DOES, 0, 0].into();
                let all = [What::RetryNow, What::MarkDone, What::Override { body }];
                let what = all[self.stream.below(3) as usize].clone();
                let order = Order { who: "eva".into(), why: "because".into(), what };
                self.with(|engine, now, out| engine.order(now, id, step, order, out));
                self.saw("ordered");
            }
            4..7 => {
                let Some(key) = self.any_key(|told| !told) else { return };
                let refused = self.with(|engine, now, out| engine.cancel(now, &key, out));
                match refused {
                    Ok(()) => self.saw("cancelled"),
                    Err(CancelRefusal::NotActive | CancelRefusal::TooLate) => {}
                    Err(CancelRefusal::PastPivot { .. }) => self.saw("past the pivot"),
                    Err(refused) => panic!("{refused}"),
                }
            }
            _ => {
                let Some(key) = self.any_key(|told| told) else { return };
                let (now, mut out) = (self.now, Vec::new());
                let work = Work::Transaction(vec![branch(&mut self.stream, 0, READS)]);
                self.engine().submit(now, Request { key: key.clone(), work }, &mut out);
                let outcome = Outcome::Refused(Refusal::KeyTaken);
                let [Output::Reply { key: of, outcome: is }] = &out[..] else { panic!("{out:?}") };
                assert_eq!((of, is), (&key, &outcome));
                let (key, work) = self.asked.get_key_value(&key).unwrap();
                let again = Request { key: key.clone(), work: work.clone() };
                self.with(|engine, now, out| engine.submit(now, again, out));
            }
        }
    }

    fn any_key(&mut self, is: impl Fn(bool) -> bool) -> Option<RequestKey> {
        let told = |key: &&RequestKey| is(self.told.contains_key(*key));
        let keys: Vec<_> = self.asked.keys().filter(told).cloned().collect();
        let at = keys.len().checked_sub(1)?;
        Some(keys[self.stream.between(0, at as u64) as usize].clone())
    }

    fn hears(&mut self, number: usize, message: Message) {
        let name = self.nodes[number].name;
        let mut answer = |to, message| self.mail.push((to, name, message));
        let (store, boot) = (StoreId(number as u64), BootCount(1));
        match message {
            Message::Hello => answer(NodeName(ME.0), Message::Announce { store, boot }),
            Message::Finished { coordinator, epoch, watermark } => {
                let watermark = (*watermark).clone();
                let engine = self.engine.as_ref().unwrap();
                let active = engine.active_transactions().map(|tx| tx.id());
                let active = active.chain(engine.active_sagas().map(|saga| saga.id()));
                for id in active {
                    assert!(!watermark.covers(id), "{id} is not finished");
                }
                let node = &mut self.nodes[number];
                node.records += 1;
                let event = Event::Finished { coordinator, epoch, watermark };
                node.participant.apply(Sequence(node.records), &event).unwrap();
                self.saw("finished");
            }
            Message::Transaction(message) => self.takes_part(number, &message),
            Message::StepCall { key, token, body, call, .. } => {
                assert_eq!(key.coordinator, ME);
                let of = (key.id, call.step);
                let (step, direction) = (call.step, call.direction);
                let known = self.nodes[number].answers.get(&token).cloned();
                let (said, output) = known.unwrap_or_else(|| {
                    let said = self.is_called(of, direction, &body, &call);
                    if said.0 != StepAnswer::NotNow
                        && (said.0 == StepAnswer::Done || call.direction == Direction::Forward)
                    {
                        self.nodes[number].answers.insert(token, said.clone());
                    }
                    said
                });
                if self.stream.below(6) == 0 {
                    // Who does not know the token has not been called.
                    let (answer, token) = (StepAnswer::Done, Token([7; 16]));
                    let output = None;
                    let reply = Message::StepReply { key, step, direction, token, answer, output };
                    self.mail.push((key.coordinator_node(), name, reply));
                }
                if said == StepAnswer::NotNow && self.stream.below(2) == 0 {
                    return;
                }
                let output = output.map(Box::new);
                let reply =
                    Message::StepReply { key, step, direction, token, answer: said, output };
                self.mail.push((key.coordinator_node(), name, reply));
            }
            message => panic!("{message:?} is for a coordinator"),
        }
    }

    /// Takes a call for the first time, or after it was put off or an undo was refused.
    fn is_called(
        &mut self,
        (id, step): (OperationId, u32),
        direction: Direction,
        body: &[u8],
        call: &coordinator::Call,
    ) -> (StepAnswer, Option<saga::Output>) {
        let [mood, deps, gives] = *body else { panic!("{body:?}") };
        if self.stream.below(20) == 0 {
            return (StepAnswer::NotNow, None);
        }
        for StepInput { step: of, output } in call.inputs.iter() {
            let brought = self.effects.get(&(id, *of)).and_then(|it| it.brought.as_ref());
            assert_eq!(brought, Some(output), "step {of} of {id} has brought that");
        }
        if direction == Direction::Forward {
            if self.effects.get(&(id, step)).is_some_and(|it| it.undone) {
                return (StepAnswer::Refused { code: 9 }, None);
            }
            let needed = (0..8).filter(|dep| deps >> dep & 1 == 1);
            for dep in needed {
                let before = self.effects.get(&(id, dep)).is_some_and(|it| it.done && !it.undone);
                assert!(before, "step {dep} of {id} comes before step {step}");
            }
            assert_eq!(call.order, UndoOrder::None);
            if mood == REFUSES && !call.cannot_fail {
                return (StepAnswer::Refused { code: 7 }, None);
            }
            let bytes = self.stream.between(1, 300) as usize;
            let output = (gives == 1).then(|| saga::Output::Inline(vec![step as u8; bytes].into()));
            let effect = self.effects.entry((id, step)).or_default();
            assert!(!effect.done, "step {step} of {id} is done once");
            (effect.deps, effect.done, effect.brought) = (deps, true, output.clone());
            return (StepAnswer::Done, output);
        }
        let after = self.effects.range((id, 0)..=(id, u32::MAX));
        for ((_, other), effect) in after {
            let remains = effect.deps >> step & 1 == 1 && effect.done && !effect.undone;
            assert!(!remains, "step {other} of {id} is to be undone before step {step}");
        }
        if mood == STAYS && call.order == UndoOrder::None {
            self.saw("an undo was refused");
            return (StepAnswer::Refused { code: 8 }, None);
        }
        // What was called and never came is never to come.
        self.effects.entry((id, step)).or_default().undone = true;
        (StepAnswer::Done, None)
    }

    fn takes_part(&mut self, number: usize, message: &twopc::Message) {
        let node = &mut self.nodes[number];
        let key = match message {
            twopc::Message::PeerInquiry { key, peer, .. } => {
                PromiseKey { tx: *key, shard: peer.shard }
            }
            twopc::Message::Prepare { key, shard, .. }
            | twopc::Message::Resolve { key, shard, .. }
            | twopc::Message::Commit { key, shard, .. }
            | twopc::Message::Abort { key, shard, .. }
            | twopc::Message::Answer { key, shard, .. }
            | twopc::Message::PeerAnswer { key, shard, .. } => {
                PromiseKey { tx: *key, shard: *shard }
            }
            message => panic!("{message:?} has no place here"),
        };
        let Ruling::Heard { seen, fact, .. } = node.participant.rule(message, &Mood) else {
            return;
        };
        let coordinator = key.tx.coordinator;
        let seen = seen.map(|epoch| Event::CoordinatorSeen { coordinator, epoch });
        for event in seen.into_iter().chain(fact) {
            node.records += 1;
            node.participant.apply(Sequence(node.records), &event).unwrap();
        }
        let ended = match node.participant.promise(&key) {
            Some(Promise::Committed { .. }) => Some(Promised::Committed),
            Some(Promise::Aborted { .. }) => Some(Promised::Aborted),
            Some(Promise::ReadOnly { .. }) => Some(Promised::ReadOnly),
            Some(Promise::Prepared { .. }) | None => None,
        };
        if let Some(ended) = ended {
            let before = self.ends.insert(key, ended);
            assert!(before.is_none_or(|before| before == ended), "{key:?}: {before:?}, {ended:?}");
        }
        let from = match message {
            twopc::Message::PeerInquiry { shard, .. } => NodeName::numbered(shard.number()),
            _ => NodeName(ME.0),
        };
        if let Some(reply) = node.participant.reply(from, message) {
            if let twopc::Message::Ack { heuristic, .. } = reply.message {
                assert_eq!(heuristic, None, "{message:?}");
            }
            let name = node.name;
            self.mail.push((reply.to, name, Message::Transaction(reply.message)));
        }
    }

    fn run(&mut self, count: u64) {
        let mut asked = 0;
        let mut open: Vec<RequestKey> = Vec::new();
        for round in 0.. {
            assert!(
                round < 50_000,
                "{open:?} do not end: {:?}",
                self.engine().active_sagas().collect::<Vec<_>>()
            );
            if asked < count && open.len() < 8 && self.chance(6) {
                asked += 1;
                // As long as a key may be, too.
                let longer = vec![7; self.stream.below(2) as usize * 56];
                let key = RequestKey::new(&[&asked.to_le_bytes()[..], &longer].concat()).unwrap();
                let work = work(&mut self.stream);
                self.asked.insert(key.clone(), work);
                open.push(key);
            }
            if let Some(key) = open.get(round % 64) {
                let (key, work) = (key.clone(), self.asked[key].clone());
                self.with(|engine, now, out| engine.submit(now, Request { key, work }, out));
            }
            self.go_on();
            open.retain(|key| !self.told.contains_key(key));
            if asked == count && open.is_empty() {
                break;
            }
        }
        // What was told may still be on its way to others.
        self.crashes = 0;
        for _ in 0..50_000 {
            self.go_on();
            let waits = self.nodes.iter().any(|node| node.participant.prepared().next().is_some());
            let rests = self.engine().active() == 0 && self.engine().next_wake().is_none();
            if rests && self.mail.is_empty() && !waits {
                let log = self.engine().log();
                assert!(!log.compaction_due() && !log.is_compacting(), "a snapshot does not end");
                return;
            }
        }
        panic!("it does not come to its end");
    }

    /// What the participants have done is what the log says, and what clients were told.
    fn judge(&mut self) {
        self.compare();
        let mut replay = Replay::default();
        let config = ScanConfig::default();
        let stream = &mut self.history.stream.as_slice();
        wal_core::scan_stream(stream, &config, &mut replay).unwrap();
        for ended in replay.ended_transactions() {
            let branches = self.ends.iter().filter(|(key, _)| key.tx.id == ended.id);
            for (key, promised) in branches {
                let commits = ended.how == Decision::Commit;
                let against = if commits { Promised::Aborted } else { Promised::Committed };
                assert_ne!(*promised, against, "{key:?} in one that is {:?}", ended.how);
            }
            let Some(key) = &ended.request_key else { continue };
            assert_eq!(self.told[key], ended.how.into());
            let Work::Transaction(branches) = &self.asked[key] else { panic!("a transaction") };
            let done = self.ends.iter().filter(|(key, _)| key.tx.id == ended.id);
            let done = done.filter(|(_, promised)| **promised != Promised::Aborted).count();
            if ended.how != Decision::Abort {
                assert_eq!(done, branches.len(), "everybody has committed");
                assert!(branches.iter().all(|branch| branch.work[0] != REFUSES));
            }
        }
        let mut expected = BTreeMap::new();
        for ended in replay.ended_sagas() {
            let Some(key) = &ended.request_key else { continue };
            assert_eq!(self.told[key], ended.how.into());
            let Work::Saga(definition) = &self.asked[key] else { panic!("a saga") };
            let mut brought = Vec::new();
            for (number, step) in (0..).zip(definition.steps()) {
                let called = matches!(step.performer, Performer::Node);
                let done = self.effects.get(&(ended.id, number)).is_some_and(|it| it.done);
                assert!(
                    done || !called || ended.how != End::Completed,
                    "step {number} was left out"
                );
            }
            for ((_, step), effect) in self.effects.range((ended.id, 0)..=(ended.id, u32::MAX)) {
                let kind = definition.steps()[*step as usize].kind;
                match ended.how {
                    End::Completed => assert!(effect.done && !effect.undone, "{effect:?}"),
                    _ => assert!(
                        !effect.done || effect.undone || kind != StepKind::Compensatable,
                        "step {step}: {effect:?}"
                    ),
                }
                let output = effect.brought.clone();
                brought.extend(output.map(|output| StepInput { step: *step, output }));
            }
            expected.insert(key.clone(), (ended.how, brought));
        }
        self.start();
        for (key, outcome) in self.told.clone() {
            let Some((how, brought)) = expected.get(&key) else { continue };
            assert_eq!(outcome, (*how).into());
            if *how == End::Completed {
                assert_eq!(self.engine().outputs(&key), *brought);
            }
        }
        assert_eq!(self.engine().active(), 0);
        let held = self.engine().log().records_held();
        assert!(held < 600, "{held} records: what is superfluous goes");
    }
}

fn branch(stream: &mut Stream, node: u64, mood: u8) -> Branch {
    let work = vec![mood; stream.between(1, 40) as usize].into();
    Branch { shard: ShardId::numbered(node), node: NodeName::numbered(node), work }
}

fn branches(stream: &mut Stream, fail: bool) -> Vec<Branch> {
    let first = stream.below(NODES);
    let count = stream.between(1, NODES);
    let mood = |stream: &mut Stream| match stream.below(12) {
        0 if fail => REFUSES,
        1..4 => READS,
        _ => DOES,
    };
    let nodes = (0..count).map(|at| (first + at) % NODES);
    nodes
        .map(|node| (node, mood(stream)))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|(node, mood)| branch(stream, node, mood))
        .collect()
}

/// Steps in any graph, a few of them transactions and sagas themselves.
fn definition(stream: &mut Stream, depth: u32) -> Definition {
    let mut builder = Definition::builder();
    let count = stream.between(1, 4) as u32;
    let mut calls: Vec<(u32, bool)> = Vec::new();
    // From here on nothing fails.
    let pivot = if depth == 0 && stream.below(4) == 0 {
        stream.below(u64::from(count)) as u32
    } else {
        count
    };
    for number in 0..count {
        let kind = match number {
            _ if number < pivot => StepKind::Compensatable,
            _ if number == pivot => StepKind::Pivot,
            _ => StepKind::Retriable,
        };
        let fails = kind != StepKind::Retriable;
        let other = stream.below(8);
        let mut step = match other {
            0 if kind == StepKind::Compensatable => {
                let undo = branches(stream, false);
                Step::transaction(branches(stream, fails)).undone_by_transaction(undo)
            }
            1 if depth < 2 && kind == StepKind::Compensatable => {
                Step::saga(definition(stream, depth + 1))
            }
            _ => {
                let mood = match stream.below(8) {
                    0 if fails => REFUSES,
                    1 => STAYS,
                    _ => DOES,
                };
                let gives = stream.below(2) == 0;
                let mut deps = 0;
                let mut on = Vec::new();
                for (before, brings) in &calls {
                    if kind != StepKind::Compensatable || stream.below(2) == 0 {
                        deps |= 1 << before;
                        on.push((*before, *brings));
                    }
                }
                let node = NodeName::numbered(stream.below(NODES));
                let mut step = Step::new(Action::Custom, node, [mood, deps, u8::from(gives)]);
                for (before, brings) in on {
                    step = match brings && stream.below(2) == 0 {
                        true => step.takes(before, ValueType::Bytes).after(before),
                        false => step.after(before),
                    };
                }
                calls.push((number, gives));
                if gives { step.gives(ValueType::Bytes) } else { step }
            }
        };
        if kind != StepKind::Compensatable {
            step = step.kind(kind);
            let called = |number: &u32| calls.iter().any(|(call, _)| call == number);
            step = (0..number).filter(|before| !called(before)).fold(step, Step::after);
        }
        builder.step(step);
    }
    builder.build().expect("steps that go together")
}

fn work(stream: &mut Stream) -> Work {
    match stream.below(2) {
        0 => Work::Transaction(branches(stream, true)),
        _ => Work::Saga(definition(stream, 0)),
    }
}

#[test]
fn what_was_told_has_happened_and_nothing_else() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..8 {
        let mut world = World::new(seed);
        world.run(60);
        world.judge();
        for (what, times) in &world.seen {
            *seen.entry((*what).to_string()).or_default() += times;
        }
        for outcome in world.told.values() {
            *seen.entry(format!("{outcome:?}")).or_default() += 1;
        }
    }
    for what in [
        "Aborted",
        "Committed",
        "ReadOnly",
        "Completed",
        "Compensated",
        "a log that begins with a snapshot",
        "an undo was refused",
        "cancelled",
        "crashed",
        "finished",
        "ordered",
        "refused",
    ] {
        assert!(seen.get(what).is_some_and(|times| *times > 10), "{what}: {seen:?}");
    }
}
