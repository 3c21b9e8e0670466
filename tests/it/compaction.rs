//! G11, G21: nodes whose logs are compacted all the time, crash at any disk operation, and remember what
//! they would remember if nothing had ever been thrown away.
//!
//! Beside each log stands its whole history, a raw stream of every record that it ever held. What a replay
//! of the log finds is held against what one of the history finds, after disk operations of every kind.

use base::prng::{Key, Stream};
use base::{NodeName, RequestKey, Sequence, ShardId, Time};
use coordinator::{LocalEffect, RecoveryReport, Replay};
use node::work::{self, Change};
use node::{Branch, Config, Disks, Input, LogSlot, Message, Node, Outcome, Output, Request, Work};
use saga::{Action, Definition, Direction, Step};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use twopc::participant::{Promise, PromiseKey};
use wal_core::{
    Directory, DiskOp, MemoryStorage, OpenMode, Place, Record, ScanConfig, Storage, Visitor,
};

const NODES: u64 = 3;
const SLOTS: [LogSlot; 2] = [LogSlot::Coordinator, LogSlot::Participant];

/// A log's disk, and every record that was ever on it.
#[derive(Default)]
struct Kept {
    disk: MemoryStorage,
    history: History,
    most_bytes: u64,
}

/// A raw stream that takes what it does not hold yet.
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

/// What a replay finds, as far as it must not depend on what was thrown away.
#[derive(Debug, PartialEq)]
struct Known {
    operations: Vec<coordinator::OperationReport>,
    completed_sagas: Vec<(base::OperationId, saga::End)>,
    completed_transactions: Vec<(base::OperationId, twopc::coordinator::Decision)>,
    anomalies: u64,
    doubts: bool,
    promises: Vec<String>,
    coordinators: Vec<String>,
    cells: BTreeMap<u64, i64>,
    steps: BTreeMap<(u64, u64, u32), [Option<String>; 2]>,
}

fn known(replay: Replay, report: &RecoveryReport) -> Known {
    let mut completed_sagas = report.completed_sagas.entries.clone();
    completed_sagas.sort_unstable_by_key(|(id, _)| *id);
    let mut completed_transactions = report.completed_transactions.entries.clone();
    completed_transactions.sort_unstable_by_key(|(id, _)| *id);
    let (participant, effects) = replay.into_participant();
    let (mut cells, mut steps) = (BTreeMap::<u64, i64>::new(), BTreeMap::new());
    let add = |cells: &mut BTreeMap<u64, i64>, bytes: &[u8], sign: i64| {
        for change in work::decode(bytes).flatten() {
            if let Change::Add { cell, amount } = change {
                *cells.entry(cell).or_default() += sign * amount;
            }
        }
    };
    for (at, effect) in effects {
        match effect {
            LocalEffect::Committed(work) => add(&mut cells, &work, 1),
            LocalEffect::Cells(all) => cells.extend(all),
            LocalEffect::Step(step) => {
                let backward = step.direction == Direction::Backward;
                if step.changed {
                    add(&mut cells, &step.work, if backward { -1 } else { 1 });
                }
                let place = (step.key.coordinator.number(), step.key.id.0, step.step);
                let answers: &mut [Option<String>; 2] = steps.entry(place).or_default();
                answers[usize::from(backward)] = Some(format!("{:?} {at}", step.answer));
            }
            LocalEffect::Answered(step) => {
                let place = (step.key.coordinator.number(), step.key.id.0, step.step);
                let answers: &mut [Option<String>; 2] = steps.entry(place).or_default();
                for (answer, known) in step.answers.iter().zip(answers) {
                    if let Some((answer, at)) = answer {
                        *known = Some(format!("{answer:?} {at}"));
                    }
                }
            }
        }
    }
    cells.retain(|_, value| *value != 0);
    steps.retain(|(coordinator, id, _), _| {
        let coordinator = base::CoordinatorId::numbered(*coordinator);
        !participant.is_finished(coordinator, base::OperationId(*id))
    });
    // An outcome that came late, of what was said to be finished, may be kept or not.
    let kept = |(key, promise): &(PromiseKey, Promise<'_>)| {
        matches!(promise, Promise::Prepared { .. })
            || !participant.is_finished(key.tx.coordinator, key.tx.id)
    };
    let coordinator = |(name, epoch)| format!("{name} {epoch} {:?}", participant.watermark(name));
    Known {
        operations: report.operations.clone(),
        completed_sagas,
        completed_transactions,
        anomalies: report.anomalies.total(),
        doubts: report.unknown_ids_in_doubt,
        promises: participant.promises().filter(kept).map(|it| format!("{it:?}")).collect(),
        coordinators: participant.epochs().map(coordinator).collect(),
        cells,
        steps,
    }
}

impl Kept {
    /// Takes what is new into the history.
    fn take_in(&mut self) {
        let config = ScanConfig::default();
        wal_core::scan(&self.disk, &config, &mut self.history).expect("memory");
    }

    /// Takes what is new into the history, and compares.
    fn check(&mut self, node: u64, what: &dyn Fn() -> String) -> bool {
        self.take_in();
        let config = ScanConfig::default();
        let name = NodeName::numbered(node);
        let mut replay = Replay::new(name);
        let scanned = wal_core::scan(&self.disk, &config, &mut replay).expect("memory");
        assert!(!scanned.is_corrupt(), "{}: {:?}", what(), scanned.corruption);
        let report = replay.report(&scanned);
        let found = known(replay, &report);
        let mut replay = Replay::new(name);
        let stream = &mut self.history.stream.as_slice();
        let scanned_all = wal_core::scan_stream(stream, &config, &mut replay).expect("memory");
        let report = replay.report(&scanned_all);
        let expected = known(replay, &report);
        assert_eq!(found, expected, "{}", what());
        scanned.base.is_some()
    }

    fn bytes(&self) -> u64 {
        let files: u64 = self.disk.files().map(|(_, bytes)| bytes.len() as u64).sum();
        files + self.disk.retired_bytes()
    }
}

struct Both<'a>(&'a [Kept; 2]);

impl Disks for Both<'_> {
    fn directory(&self, slot: LogSlot) -> &dyn Directory {
        &self.0[slot as usize].disk
    }
}

struct Town {
    nodes: Vec<Option<Node>>,
    logs: Vec<[Kept; 2]>,
    todo: VecDeque<(u64, u64, Output)>,
    /// How often each node was started: what is left of an earlier start is void.
    starts: Vec<u64>,
    mail: Vec<(u64, NodeName, Message)>,
    told: BTreeMap<RequestKey, Outcome>,
    /// What was asked for, for those who ask again.
    asked: BTreeMap<RequestKey, Work>,
    now: Time,
    stream: Stream,
    log: wal_core::Config,
    /// Of 1,000 disk operations so many are the last before a crash.
    crashes: u64,
    crashed: u64,
    /// Comparisons, and those of logs that begin with a snapshot.
    compared: [u64; 2],
    retired: u64,
    /// Every disk operation is looked at, or only those of compactions and some others.
    strict: bool,
}

impl Town {
    fn new(seed: u64, crashes: u64, strict: bool) -> Town {
        let log = wal_core::Config {
            max_payload: 2 << 10,
            max_records: 60,
            segment_bytes_first: 8 << 10,
            segment_bytes_max: 8 << 10,
            batch_bytes_max: 4 << 10,
            buffered_bytes_max: 64 << 10,
            ..wal_core::Config::default()
        };
        let mut town = Town {
            nodes: (0..NODES).map(|_| None).collect(),
            logs: (0..NODES).map(|_| Default::default()).collect(),
            todo: VecDeque::new(),
            starts: vec![0; NODES as usize],
            mail: Vec::new(),
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            now: Time::ZERO,
            stream: Key::root(seed).stream(),
            log,
            crashes,
            crashed: 0,
            compared: [0; 2],
            retired: 0,
            strict,
        };
        (0..NODES).for_each(|node| town.start(node));
        town.settle();
        town
    }

    fn start(&mut self, number: u64) {
        let at = number as usize;
        self.starts[at] += 1;
        let name = NodeName::numbered(number);
        let key = Key::root(number).keyed(self.starts[at]);
        let mut config = Config::both(name, 100 + number, key);
        config.log = self.log.clone();
        if number > 0 {
            config.coordinator = None;
        }
        let mut out = Vec::new();
        let disks = Both(&self.logs[at]);
        self.nodes[at] = Some(Node::start(config, OpenMode::Exclusive, self.now, &disks, &mut out));
        self.take(number, out);
    }

    fn take(&mut self, number: u64, out: Vec<Output>) {
        let start = self.starts[number as usize];
        self.todo.extend(out.into_iter().map(|output| (number, start, output)));
    }

    fn input(&mut self, number: u64, input: Input) {
        let at = number as usize;
        let Some(node) = &mut self.nodes[at] else { return };
        let mut out = Vec::new();
        node.handle(self.now, input, &Both(&self.logs[at]), &mut out);
        self.take(number, out);
    }

    /// Does what nodes want until nobody wants anything now.
    fn settle(&mut self) {
        loop {
            while let Some((number, start, output)) = self.todo.pop_front() {
                if self.starts[number as usize] == start {
                    self.perform(number, output);
                }
            }
            if self.mail.is_empty() {
                return;
            }
            let place = self.stream.below(self.mail.len() as u64) as usize;
            let (to, from, message) = self.mail.swap_remove(place);
            self.input(to, Input::Message { from, message });
        }
    }

    fn perform(&mut self, number: u64, output: Output) {
        match output {
            Output::Disk { slot, ops } => self.disk(number, slot, &ops),
            Output::Send { to, message } => {
                let from = NodeName::numbered(number);
                let copies = [0, 1, 1, 1, 1, 1, 1, 1, 1, 2][self.stream.below(10) as usize];
                for _ in 0..copies {
                    self.mail.push((to.number(), from, message.clone()));
                }
            }
            Output::Reply { key, outcome } => {
                let before = self.told.insert(key.clone(), outcome.clone());
                assert!(before.is_none_or(|before| before == outcome), "{key:?} twice");
            }
            Output::Appended { .. } | Output::Recovered { .. } => {}
            Output::Parked { .. }
            | Output::Operated(_)
            | Output::Heuristic { .. }
            | Output::Intervened(_) => {}
            Output::Died { reason, .. } => panic!("n{number}: {reason}"),
        }
    }

    /// A crash comes behind any operation, and each state is compared.
    fn disk(&mut self, number: u64, slot: LogSlot, ops: &[DiskOp]) {
        let at = number as usize;
        let recycles = ops.iter().any(|op| matches!(op, DiskOp::Retire(_)));
        let count = ops.len();
        if recycles {
            self.logs[at][slot as usize].take_in();
        }
        for (done, op) in ops.iter().enumerate() {
            let kept = &mut self.logs[at][slot as usize];
            kept.disk.perform(op).expect("memory");
            self.retired += u64::from(matches!(op, DiskOp::Retire(_)));
            kept.most_bytes = kept.most_bytes.max(kept.bytes());
            // A create without a name in it, or a check, is seen by nobody.
            let changes = !matches!(op, DiskOp::CheckEpoch { .. } | DiskOp::Sync(_));
            if changes && (recycles || (self.strict && self.stream.below(6) == 0)) {
                let what = || format!("n{number} {slot:?}, {done} of {count}: {op:?}");
                let based = kept.check(number, &what);
                self.compared[usize::from(based)] += 1;
            }
            if self.stream.below(1000) < self.crashes {
                self.crashed += 1;
                self.nodes[at] = None;
                self.mail.retain(|_| self.crashed.is_multiple_of(2));
                self.start(number);
                return;
            }
        }
        self.input(number, Input::Flushed { slot, result: Ok(()) });
    }

    fn request(&mut self, number: u64) -> (RequestKey, Work) {
        let key = RequestKey::new(&number.to_le_bytes()).expect("short");
        let cell = |stream: &mut Stream| 1 + stream.below(6);
        let refused = self.stream.below(5) == 0;
        let work = if self.stream.below(2) == 0 {
            let branch = |town: &mut Town, node: u64| Branch {
                shard: ShardId::numbered(node),
                node: NodeName::numbered(node),
                work: work::encode(&[
                    Change::Add { cell: 100 * node + cell(&mut town.stream), amount: 1 },
                    Change::Require { cell: 99, at_least: i64::from(refused && node == 2) },
                ]),
            };
            Work::Transaction((0..NODES).map(|node| branch(self, node)).collect())
        } else {
            let mut builder = Definition::builder();
            let mut last = None;
            for step in 0..1 + self.stream.below(4) {
                let node = self.stream.below(NODES);
                let mut changes =
                    vec![Change::Add { cell: 200 + 10 * node + cell(&mut self.stream), amount: 1 }];
                if refused && step == 2 {
                    changes.push(Change::Require { cell: 99, at_least: 1 });
                }
                let next =
                    Step::new(Action::ShardWrite, NodeName::numbered(node), work::encode(&changes));
                last = Some(builder.step(match last {
                    Some(last) => next.after(last),
                    None => next,
                }));
            }
            Work::Saga(builder.build().expect("a row"))
        };
        (key, work)
    }

    /// Submits operations, some at a time, and asks again until each is answered.
    fn run(&mut self, from: u64, count: u64) {
        let mut open: Vec<(RequestKey, Work)> = Vec::new();
        let mut next = from;
        while next < from + count || !open.is_empty() {
            while open.len() < 4 && next < from + count {
                let (key, work) = self.request(next);
                self.asked.insert(key.clone(), work.clone());
                open.push((key, work));
                next += 1;
            }
            for (key, work) in open.clone() {
                self.input(0, Input::Submit(Request { key, work }));
                self.settle();
            }
            self.now += Duration::from_millis(400);
            for node in 0..NODES {
                self.input(node, Input::Wake);
                self.settle();
            }
            let told = &self.told;
            open.retain(|(key, _)| {
                !told.get(key).is_some_and(|outcome| !matches!(outcome, Outcome::Refused(_)))
            });
            self.told.retain(|_, outcome| !matches!(outcome, Outcome::Refused(_)));
        }
    }

    fn quiet(&mut self) {
        self.crashes = 0;
        for _ in 0..200 {
            self.now += Duration::from_millis(500);
            for node in 0..NODES {
                self.input(node, Input::Wake);
                self.settle();
            }
        }
        for (node, parts) in (0..).zip(&self.nodes) {
            let node: (u64, &Node) = (node, parts.as_ref().expect("it runs"));
            let engine = node.1.coordinator().map_or(0, coordinator::Engine::active);
            assert_eq!(engine, 0, "n{} still coordinates something", node.0);
        }
    }

    /// What clients were told has happened, once, and nothing else has.
    fn total(&self) -> i64 {
        let hosts = self.nodes.iter().flatten().filter_map(Node::participant);
        hosts.flat_map(|host| host.store().cells()).map(|(_, value)| value).sum()
    }
}

/// G11. At each disk operation of each compaction of a coordinator's and a participant's log, a replay of the
/// log finds what one of its whole history finds; and nodes that crash there go on as if nothing had been
/// thrown away.
#[test]
fn g11_every_crash_point_of_a_compaction_in_both_logs() {
    let (mut crashed, mut compared, mut retired) = (0, [0, 0], 0);
    for seed in 0..6 {
        let mut town = Town::new(seed, 6, true);
        town.run(0, 120);
        town.quiet();
        for node in 0..NODES {
            for slot in SLOTS {
                let what = || format!("seed {seed}, n{node} {slot:?} at the end");
                town.logs[node as usize][slot as usize].check(node, &what);
            }
        }
        // Answers to old keys are still known.
        for number in 0..120 {
            let key = RequestKey::new(&u64::to_le_bytes(number)).expect("short");
            let told = town.told.remove(&key).expect("it was answered");
            if told == Outcome::Aborted {
                // It may never have come into the log.
                continue;
            }
            let work = town.asked[&key].clone();
            town.input(0, Input::Submit(Request { key: key.clone(), work }));
            town.settle();
            assert_eq!(town.told.remove(&key), Some(told), "seed {seed}, {number}");
        }
        crashed += town.crashed;
        retired += town.retired;
        compared[0] += town.compared[0];
        compared[1] += town.compared[1];
    }
    assert!(crashed > 60 && retired > 100, "{crashed} crashes, {retired} segments retired");
    assert!(compared[0] > 200 && compared[1] > 1_000, "{compared:?}");
}

/// Operations come and go for long: disk and memory stay as they are.
#[test]
fn g11_disk_and_memory_are_bounded_while_operations_come_and_go() {
    let mut town = Town::new(42, 1, false);
    town.run(0, 300);
    let bytes = |town: &Town| -> Vec<u64> {
        town.logs.iter().flatten().map(|kept| kept.most_bytes).collect()
    };
    let kept = |town: &Town| -> Vec<usize> {
        let hosts = town.nodes.iter().flatten().filter_map(Node::participant);
        hosts.map(|host| host.steps().len() + host.participant().promises().count()).collect()
    };
    let early = bytes(&town);
    town.logs.iter_mut().flatten().for_each(|kept| kept.most_bytes = 0);
    town.run(300, 2_000);
    let (late, kept) = (bytes(&town), kept(&town));
    // The coordinator remembers more results; what a participant keeps does not grow.
    for (at, (early, late)) in early.iter().zip(&late).enumerate() {
        // Each is an entry of 44 bytes: a key of eight, and what was asked for by its fingerprint.
        let results = if at == 0 { 2_300 * 44 * 4 } else { 0 };
        assert!(*late <= early * 2 + 64 * 1024 + results, "log {at}: {early} bytes, then {late}");
    }
    assert!(kept.iter().all(|kept| *kept < 600), "{kept:?}");
    town.quiet();
    assert!(town.total() > 1_000);
    assert!(town.retired > 500, "{}", town.retired);
}
