//! Operators force prepared branches while messages are lost, doubled and late, nodes crash, and logs are
//! compacted. Whatever they force: every branch that ends otherwise than its transaction is one of theirs,
//! its coordinator lists it, and no other branch does.

use base::prng::{Key, Stream};
use base::{NodeName, OperationId, RequestKey, ShardId, Time};
use node::work::{self, Change};
use node::{Branch, Config, Doubtful, Force, Input, Intervention, MemoryDisks, Message, Node};
use node::{Output, Request, Work};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use twopc::participant::{Promise, PromiseKey};
use twopc::{Audit, Heuristic, TxKey, Verdict};
use wal_core::OpenMode;

const NODES: u64 = 4;
const COORDINATOR: NodeName = NodeName::numbered(0);

/// Coordinator 0 and participants 1 to 3.
struct World {
    nodes: Vec<Option<Node>>,
    disks: Vec<MemoryDisks>,
    todo: Vec<VecDeque<Output>>,
    wire: Vec<(NodeName, NodeName, Message)>,
    now: Time,
    starts: u64,
    /// The last answer to an inquiry of nobody's.
    verdicts: BTreeMap<OperationId, Verdict>,
    forced: u64,
}

/// Where the answers to the test's own inquiries go.
const NOBODY: NodeName = NodeName::numbered(99);

impl World {
    fn new() -> World {
        let mut world = World {
            nodes: (0..NODES).map(|_| None).collect(),
            disks: (0..NODES).map(|_| MemoryDisks::default()).collect(),
            todo: (0..NODES).map(|_| VecDeque::new()).collect(),
            wire: Vec::new(),
            now: Time::ZERO,
            starts: 0,
            verdicts: BTreeMap::new(),
            forced: 0,
        };
        (0..NODES).for_each(|node| world.start(node));
        world
    }

    /// Starts a node, or starts it again: whatever it had not done is lost.
    fn start(&mut self, node: u64) {
        self.starts += 1;
        let key = Key::root(self.starts);
        let mut config = Config::both(NodeName::numbered(node), 100 + node, key);
        config.log.max_records = 24;
        config.log.segment_bytes_first = 16 << 10;
        let (at, mut out) = (node as usize, Vec::new());
        let mode = OpenMode::Exclusive;
        self.nodes[at] = Some(Node::start(config, mode, self.now, &self.disks[at], &mut out));
        self.todo[at] = out.into();
    }

    fn handle(&mut self, node: u64, input: Input) {
        let (at, mut out) = (node as usize, Vec::new());
        let Some(machine) = &mut self.nodes[at] else { return };
        machine.handle(self.now, input, &self.disks[at], &mut out);
        self.todo[at].extend(out);
    }

    /// Does the next thing that a node wants; false if it wants nothing.
    fn step(&mut self, node: u64) -> bool {
        let at = node as usize;
        let Some(output) = self.todo[at].pop_front() else { return false };
        match output {
            Output::Disk { slot, ops } => {
                let result = self.disks[at].perform(slot, &ops);
                self.handle(node, Input::Flushed { slot, result });
            }
            Output::Send { to: NOBODY, message } => {
                let Message::Transaction(twopc::Message::Answer { key, verdict, .. }) = message
                else {
                    return true;
                };
                self.verdicts.insert(key.id, verdict);
            }
            Output::Send { to, message } => self.wire.push((NodeName::numbered(node), to, message)),
            Output::Intervened(told) => self.forced += u64::from(told.result.is_ok()),
            Output::Died { reason, .. } => panic!("n{node}: {reason}"),
            _ => {}
        }
        true
    }

    fn deliver(&mut self, at: usize) {
        let (from, to, message) = self.wire.swap_remove(at);
        self.handle(to.number(), Input::Message { from, message });
    }

    fn submit(&mut self, number: u64, draws: &mut Stream) {
        let parties = 2 + draws.below(2);
        let branches = (1..=parties).map(|node| Branch {
            shard: ShardId::numbered(node),
            node: NodeName::numbered(node),
            work: work::encode(&[Change::Add { cell: 10 * node + number % 5, amount: 1 }]),
        });
        let key = RequestKey::new(&number.to_le_bytes()).expect("eight bytes are few");
        let work = Work::Transaction(branches.collect());
        self.handle(0, Input::Submit(Request { key, work }));
    }

    fn intervene(&mut self, node: u64, key: PromiseKey, force: Force) {
        let (of, at_ms) = (Doubtful::Branch(key), 1);
        let audit = Arc::new(Audit { at_ms, who: "eva".into(), why: "nobody answers".into() });
        self.handle(node, Input::Intervene(Box::new(Intervention { of, force, audit })));
    }

    fn waiting(&self, node: u64) -> Vec<PromiseKey> {
        let host = self.nodes[node as usize].as_ref().and_then(Node::participant);
        host.map(|host| host.participant().prepared().map(|(key, _)| key).collect())
            .unwrap_or_default()
    }

    /// Everything is up, and nothing is lost any more.
    fn heal(&mut self) {
        for round in 0..200 {
            let mut more = true;
            while more {
                more = (0..NODES).filter(|node| self.step(*node)).count() > 0;
                while !self.wire.is_empty() {
                    self.deliver(0);
                    more = true;
                }
            }
            if round > 10 && self.is_quiet() {
                return;
            }
            self.now += Duration::from_secs(5);
            (0..NODES).for_each(|node| self.handle(node, Input::Wake));
        }
        panic!("it does not come to rest");
    }

    fn is_quiet(&self) -> bool {
        self.nodes.iter().flatten().all(|node| {
            let host = node.participant().expect("it runs").participant();
            node.coordinator().is_some_and(|engine| engine.active() == 0)
                && host.prepared().next().is_none()
                && host.unsettled().next().is_none()
        })
    }
}

#[derive(Default, Debug)]
struct Seen {
    aborted: u64,
    committed: u64,
    agreed: u64,
    compactions: u64,
}

fn run(seed: u64, seen: &mut Seen) {
    let mut draws = Key::root(seed).child("forces").stream();
    let mut world = World::new();
    (0..20).for_each(|_| (0..NODES).for_each(|node| while world.step(node) {}));
    let mut submitted = 0;
    for _ in 0..6_000 {
        match draws.below(300) {
            0..6 if submitted < 80 => {
                world.submit(submitted, &mut draws);
                submitted += 1;
            }
            6..150 => _ = world.step(draws.below(NODES)),
            150..280 if !world.wire.is_empty() => {
                let at = draws.below(world.wire.len() as u64) as usize;
                match draws.below(16) {
                    0 => _ = world.wire.swap_remove(at),
                    1 => {
                        let again = world.wire[at].clone();
                        world.wire.push(again);
                    }
                    _ => world.deliver(at),
                }
            }
            280..288 => {
                world.now += Duration::from_millis(draws.below(2_000));
                (0..NODES).for_each(|node| world.handle(node, Input::Wake));
            }
            288..289 => world.start(draws.below(NODES)),
            289..294 => {
                let node = 1 + draws.below(NODES - 1);
                let waiting = world.waiting(node);
                if !waiting.is_empty() {
                    let key = waiting[draws.below(waiting.len() as u64) as usize];
                    let force = if draws.below(2) == 0 { Force::Commit } else { Force::Abort };
                    world.intervene(node, key, force);
                }
            }
            _ => {}
        }
    }
    world.heal();
    check(seed, &mut world, seen);
}

fn check(seed: u64, world: &mut World, seen: &mut Seen) {
    let mut ended = BTreeMap::new();
    let mut forced = BTreeMap::new();
    for node in 1..NODES {
        let host = world.nodes[node as usize].as_ref().and_then(Node::participant);
        let host = host.expect("it runs");
        seen.compactions += host.log().stats().compactions;
        for (key, promise) in host.participant().promises() {
            let committed = matches!(promise, Promise::Committed { .. });
            ended.insert(key, committed);
        }
        for (key, branch) in host.participant().forced() {
            assert!(branch.noted.is_some(), "seed {seed}: {key:?} was not reported");
            assert_eq!(Some(&branch.commit), ended.get(&key), "seed {seed}: {key:?}");
            forced.insert((key.tx.id, key.shard), branch.heuristic().expect("it is decided"));
        }
    }
    for id in ended.keys().map(|key| key.tx.id).collect::<Vec<_>>() {
        let key = TxKey { coordinator: base::CoordinatorId(COORDINATOR.0), id };
        let (shard, store) = (ShardId::numbered(99), base::StoreId(0));
        let message = Message::Transaction(twopc::Message::Inquiry { key, shard, store });
        world.handle(0, Input::Message { from: NOBODY, message });
        while world.step(0) {}
    }
    let mut against = BTreeMap::new();
    for (key, committed) in ended {
        let id = key.tx.id;
        let commits = match world.verdicts.get(&id) {
            Some(Verdict::Committed) => true,
            Some(Verdict::Aborted) => false,
            other => panic!("seed {seed}: {id} is {other:?}"),
        };
        match (commits, committed) {
            (true, false) => against.insert((id, key.shard), Heuristic::Aborted),
            (false, true) => against.insert((id, key.shard), Heuristic::Committed),
            _ => None,
        };
    }
    assert_eq!(against, forced, "seed {seed}: what is against the decision was forced");
    let engine = world.nodes[0].as_ref().and_then(Node::coordinator).expect("it runs");
    let listed: BTreeMap<_, _> =
        engine.heuristics().map(|(id, shard, it)| ((id, shard), it.heuristic)).collect();
    assert_eq!(against, listed, "seed {seed}: the coordinator lists it");
    for heuristic in against.values() {
        match heuristic {
            Heuristic::Aborted => seen.aborted += 1,
            Heuristic::Committed => seen.committed += 1,
            Heuristic::Lost => panic!("seed {seed}: no disk was lost"),
        }
    }
    // An operator whose node crashed is not told of all.
    seen.agreed += world.forced.saturating_sub(against.len() as u64);
    forget(seed, world, &against);
}

/// Once operators have seen to it, nothing is listed any more, also after a restart.
fn forget(seed: u64, world: &mut World, against: &BTreeMap<(OperationId, ShardId), Heuristic>) {
    for (id, shard) in against.keys() {
        let of = Doubtful::Transaction(*id);
        let audit = Audit { at_ms: 2, who: "eva".into(), why: "the books are set right".into() };
        let (force, audit) = (Force::Forget, Arc::new(audit));
        world.handle(0, Input::Intervene(Box::new(Intervention { of, force, audit })));
        let tx = TxKey { coordinator: base::CoordinatorId(COORDINATOR.0), id: *id };
        world.intervene(shard.number(), PromiseKey { tx, shard: *shard }, force);
    }
    world.heal();
    for restarted in [false, true] {
        if restarted {
            (0..NODES).for_each(|node| world.start(node));
            world.heal();
        }
        let engine = world.nodes[0].as_ref().and_then(Node::coordinator).expect("it runs");
        assert_eq!(engine.heuristics().count(), 0, "seed {seed}, {restarted}");
        for node in world.nodes.iter().flatten() {
            let host = node.participant().expect("it runs").participant();
            let listed = host.forced().filter(|(_, it)| it.forgotten.is_none());
            assert_eq!(listed.count(), 0, "seed {seed}, {restarted}");
        }
    }
}

#[test]
fn whatever_is_forced_is_found_out() {
    let mut seen = Seen::default();
    for seed in 0..60 {
        run(seed, &mut seen);
    }
    assert!(seen.aborted > 20 && seen.committed > 20 && seen.agreed > 20, "{seen:?}");
    assert!(seen.compactions > 50, "{seen:?}");
}
