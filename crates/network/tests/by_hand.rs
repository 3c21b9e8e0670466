//! Nodes of the storage network over a network of a few lines, without a simulator: what keepers do when others of
//! them are gone, and how a file comes to have another encoding.

use base::prng::Key;
use base::{BootCount, NodeName, Time};
use coordinator::Message as Transacted;
use erasure::{Codec, Scheme};
use network::work::{Current, Work};
use network::{
    Answer, Config, FileRecord, InDoubt, Input, Message, Output, Request, ShardDone, StorageNode,
};
use node::{Disks, LogSlot, MemoryDisks};
use placement::Region;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store::{Digest, Op};
use twopc::heuristic::Forced;
use wal_core::{Directory, MemoryStorage, Storage};

/// A silent node is dead after this.
const ALIVE: Duration = Duration::from_secs(20);
/// Who is gone for longer than this does not come back.
const LOST: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Disk {
    logs: MemoryDisks,
    ledger: MemoryStorage,
    shards: BTreeMap<Digest, Vec<u8>>,
    pins: BTreeSet<Digest>,
}

impl Disks for Disk {
    fn directory(&self, slot: LogSlot) -> &dyn Directory {
        self.logs.directory(slot)
    }
}

impl network::StorageDisks for Disk {
    fn ledger(&self) -> &dyn Directory {
        &self.ledger
    }
}

struct Machine {
    node: StorageNode,
    disk: Disk,
    boot: u32,
    todo: VecDeque<Output>,
    /// What it says of its next wake: asking each node before each step takes most of a run.
    wake: Option<Time>,
}

struct World {
    now: Time,
    machines: BTreeMap<u64, Machine>,
    /// Between these and the others nothing gets through.
    cut: BTreeSet<u64>,
    keepers: u32,
    report_every: Option<Duration>,
    stored: bool,
    /// Whoever is about to tell this loses its life.
    fatal: Option<fn(&Message) -> bool>,
    killed: Option<u64>,
    /// Whoever is about to hear the vote behind so many others loses touch: it is cut off, or its power fails.
    unheard: Option<(u32, Loss)>,
    lost: Option<u64>,
    /// No vote gets through.
    no_votes: bool,
    /// Whoever is to be cut off as soon as it votes, and is not heard.
    mute: Option<u64>,
    /// Who alone hears that others are in doubt too, and is cut off as soon as it has kept its promise by that.
    hears: Option<u64>,
    /// What it hears of that comes so late, if not at once: when, from whom, and what.
    late: Option<Duration>,
    to_come: VecDeque<(Time, u64, Message)>,
    /// Bytes that everybody has for whoever asks for them.
    offered: BTreeMap<Digest, Vec<u8>>,
    /// How often somebody was asked to release bytes by a node whose upload's note was released, and was not.
    released: (u32, u32),
    down: Option<(u64, Disk, u32)>,
    /// Of which node the process ends, and before which of its next outputs.
    crash: Option<(u64, u32)>,
    /// Who has said so many times that it is in doubt of what it has promised crashes then, and whoever was cut off is
    /// there again.
    says: Option<u32>,
    crashed: Option<u64>,
}

fn name(number: u64) -> NodeName {
    NodeName::numbered(number)
}

fn config(number: u64, boot: u32, keepers: u32, report_every: Option<Duration>) -> Config {
    let key = Key::root(1).child("node").keyed(number);
    let secret = key.child("boot").keyed(u64::from(boot));
    let patience = Duration::from_secs(2);
    let mut transactions =
        node::Config::both(name(number), key.draw(0, 0).u64(), secret.child("engine"));
    if let Some(engine) = &mut transactions.coordinator {
        engine.step_timeout = 6 * patience;
        engine.prepare_timeout = 4 * patience;
        engine.output_bytes_max = 8;
    }
    Config {
        transactions,
        region: Region::ALL[number as usize % 9],
        shards: store::StoreConfig::new(name(number), 1 << 20),
        scrub: repair::ScrubConfig { round: Duration::from_secs(60), burst_max: 16 },
        repair: repair::Config {
            shards: 600,
            moves: 0,
            answer_max: 6 * patience,
            retry_after: 2 * patience,
            ..repair::Config::default()
        },
        rebalance: placement::RebalanceConfig::default(),
        audit: repair::AuditConfig::default(),
        schemes: erasure::Config::default(),
        encodings: network::EncodingConfig { per_minute: 60, steady: Duration::ZERO },
        audit_every: Duration::from_secs(600),
        locks: locks::Config::default(),
        membership: placement::MembershipConfig {
            beat: Duration::from_secs(5),
            alive: ALIVE,
            ..placement::MembershipConfig::default()
        },
        lookup: placement::LookupConfig {
            replication: keepers,
            patience,
            ..placement::LookupConfig::default()
        },
        patience,
        connections: placement::ConnectionConfig::default(),
        routing: placement::AdaptiveConfig::default(),
        attempts_max: 20,
        authority: name(0),
        bank: None,
        report_every,
        meet: vec![name(if number == 0 { 1 } else { 0 })],
        network: Key::root(1).child("network"),
        secret,
        boot: BootCount(boot),
        unix_ms_at_zero: 1_700_000_000_000,
    }
}

type File = (Digest, store::Manifest, Vec<store::EncodedShard>);

/// A file's name, its manifest in this scheme, and its shards.
fn file(data: u16, parity: u16) -> File {
    let content: Vec<u8> = (0..1_500u32).map(|at| ((at * at) >> 3) as u8).collect();
    let scheme = Scheme::new(data, parity).expect("it exists");
    let config = store::Config::new(scheme);
    let (key, salt) = (store::Key::new([7; 32]), store::Salt([9; 16]));
    let encoded = store::encode(&config, &mut Codec::new(), &key, salt, &content);
    let (manifest, shards) = encoded.expect("it is short");
    (Digest::of(b"file"), manifest, shards)
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Touch,
    Power,
}

fn is_vote(message: &Message) -> bool {
    let Message::Transaction(Transacted::Transaction(message)) = message else { return false };
    matches!(message, twopc::Message::Vote { .. })
}

fn is_release(message: &Message) -> bool {
    let Message::Transaction(Transacted::StepCall { body, .. }) = message else { return false };
    matches!(Work::decode(body), Ok(Work::Release { .. }))
}

fn is_commit(message: &Message) -> bool {
    let Message::Transaction(Transacted::Transaction(message)) = message else { return false };
    matches!(message, twopc::Message::Commit { .. })
}

impl World {
    fn new(nodes: u64, keepers: u32) -> World {
        World::reporting(nodes, keepers, None)
    }

    fn reporting(nodes: u64, keepers: u32, report_every: Option<Duration>) -> World {
        let mut world = World {
            now: Time::ZERO,
            machines: BTreeMap::new(),
            cut: BTreeSet::new(),
            keepers,
            report_every,
            stored: false,
            fatal: None,
            killed: None,
            unheard: None,
            lost: None,
            no_votes: false,
            mute: None,
            hears: None,
            late: None,
            to_come: VecDeque::new(),
            offered: BTreeMap::new(),
            released: (0, 0),
            down: None,
            crash: None,
            says: None,
            crashed: None,
        };
        (0..nodes).for_each(|number| world.start(number, Disk::default(), 1));
        world.run(Duration::from_secs(120));
        world
    }

    fn start(&mut self, number: u64, disk: Disk, boot: u32) {
        let mut out = Vec::new();
        let shards = disk.shards.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64));
        let pins: Vec<Digest> = disk.pins.iter().copied().collect();
        let config = config(number, boot, self.keepers, self.report_every);
        let node = StorageNode::start(config, self.now, &disk, shards, pins, &mut out);
        let wake = node.next_wake();
        self.machines.insert(number, Machine { node, disk, boot, todo: out.into(), wake });
        self.settle();
    }

    /// Its process ends, and another one begins on what is durable: here everything is, at once.
    fn restart(&mut self, number: u64) {
        let Machine { disk, boot, .. } = self.machines.remove(&number).expect("it runs");
        self.start(number, disk, boot + 1);
    }

    fn feed(&mut self, number: u64, input: Input) {
        let Some(machine) = self.machines.get_mut(&number) else { return };
        let mut out = Vec::new();
        machine.node.handle(self.now, input, &machine.disk, &mut out);
        machine.todo.extend(out);
        machine.wake = machine.node.next_wake();
    }

    /// Does all that is wanted now: messages take no time, and come in the order in which they were sent.
    fn settle(&mut self) {
        loop {
            let busy = self.machines.iter().find(|(_, machine)| !machine.todo.is_empty());
            let Some(number) = busy.map(|(number, _)| *number) else { return };
            let machine = self.machines.get_mut(&number).expect("it was found just now");
            let Some(output) = machine.todo.pop_front() else { return };
            self.perform(number, output);
        }
    }

    fn perform(&mut self, number: u64, output: Output) {
        match &mut self.crash {
            Some((node, 0)) if *node == number => {
                self.crash = None;
                return self.restart(number);
            }
            Some((node, left)) if *node == number => *left -= 1,
            _ => {}
        }
        let Some(Machine { disk, .. }) = self.machines.get_mut(&number) else { return };
        let input = match output {
            Output::Transactions(node::Output::Disk { slot, ops }) => {
                let result = disk.logs.perform(slot, &ops);
                Input::Flushed { slot, result }
            }
            Output::Ledger(ops) => {
                Input::LedgerFlushed(ops.iter().try_for_each(|op| disk.ledger.perform(op)))
            }
            Output::Shards(Op::Write { digest, bytes }) => {
                disk.shards.insert(digest, bytes);
                Input::Shards(ShardDone::Written { digest, durable: true })
            }
            Output::Shards(Op::Read { digest }) => {
                let bytes = disk.shards.get(&digest).cloned();
                Input::Shards(ShardDone::Loaded { digest, bytes })
            }
            Output::Shards(Op::Pin { digest }) => {
                disk.pins.insert(digest);
                Input::Shards(ShardDone::Pinned { digest })
            }
            Output::Shards(Op::Remove { digest }) => {
                disk.shards.remove(&digest);
                return;
            }
            Output::Shards(Op::Unpin { digest }) => {
                disk.pins.remove(&digest);
                return;
            }
            Output::Send { to, message } => {
                if to != name(number) && self.fatal.is_some_and(|fatal| fatal(&message)) {
                    self.fatal = None;
                    self.killed = Some(number);
                    self.machines.remove(&number);
                    return;
                }
                let to = to.number();
                if to != number && is_vote(&message) && self.mute == Some(number) {
                    self.mute = None;
                    self.cut.insert(number);
                    return;
                }
                if to != number && is_vote(&message) {
                    if self.no_votes {
                        return;
                    }
                    self.vote_comes(to);
                }
                if to != number && is_release(&message) {
                    match self.has_upload(number) {
                        false => self.released.0 += 1,
                        true => self.released.1 += 1,
                    }
                }
                if let Message::Orphan { says, .. } = &message
                    && let Some(hears) = self.hears
                {
                    match says {
                        InDoubt::Kept if number == hears => {
                            self.hears = None;
                            self.cut.insert(number);
                        }
                        InDoubt::IsToo(_) if to != hears => return,
                        InDoubt::IsToo(_) if let Some(late) = self.late => {
                            return self.to_come.push_back((self.now + late, number, message));
                        }
                        _ => {}
                    }
                }
                if let Message::Get { digest, number: asked } = &message
                    && let Some(bytes) = self.offered.get(digest)
                {
                    let (digest, bytes) = (*digest, Some(bytes.clone()));
                    let message = Message::Bytes { digest, bytes, number: *asked };
                    return self.feed(number, Input::Message { from: name(to), message });
                }
                let is_doubt = matches!(message, Message::Orphan { .. });
                if self.cut.contains(&number) == self.cut.contains(&to) {
                    self.feed(to, Input::Message { from: name(number), message });
                }
                if is_doubt {
                    self.has_said(number);
                }
                return;
            }
            Output::Tell { answer, .. } => {
                self.stored |= matches!(answer, Answer::Stored { .. });
                return;
            }
            Output::Transactions(node::Output::Died { reason, .. }) => panic!("{reason}"),
            Output::Transactions(_) | Output::LedgerDied { .. } => return,
        };
        self.feed(number, input);
    }

    /// Whether a start of this node would go on with an upload.
    fn has_upload(&self, number: u64) -> bool {
        let machine = self.machines.get(&number);
        // It is removed once it is durable that nothing needs it.
        machine.is_some_and(|it| it.disk.shards.values().any(|bytes| bytes.starts_with(b"TRUP")))
    }

    fn has_said(&mut self, number: u64) {
        match &mut self.says {
            Some(0) => {
                (self.says, self.crashed) = (None, Some(number));
                self.cut.clear();
                self.restart(number);
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }

    fn vote_comes(&mut self, to: u64) {
        match &mut self.unheard {
            Some((0, loss)) => {
                match loss {
                    Loss::Touch => drop(self.cut.insert(to)),
                    Loss::Power => {
                        let machine = self.machines.remove(&to);
                        self.down = machine.map(|machine| (to, machine.disk, machine.boot));
                    }
                }
                (self.unheard, self.lost) = (None, Some(to));
            }
            Some((others, _)) => *others -= 1,
            None => {}
        }
    }

    /// Whoever was cut off, or had no power, is there again.
    fn heal(&mut self) {
        self.cut.clear();
        if let Some((number, disk, boot)) = self.down.take() {
            self.start(number, disk, boot + 1);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        self.settle();
        loop {
            let wakes = self
                .machines
                .iter()
                .filter_map(|(number, machine)| machine.wake.map(|at| (at, *number)));
            let Some((at, number)) = wakes.min().filter(|(at, _)| *at <= until) else { break };
            assert_eq!(
                self.machines[&number].node.next_wake(),
                Some(at),
                "what is kept is what it says"
            );
            // A node that wants to be woken again at once has more to do in the next moment.
            self.now = at.max(self.now) + Duration::from_micros(1);
            self.feed(number, Input::Wake);
            self.settle();
        }
        self.now = self.now.max(until);
    }

    fn put(&mut self, at: u64, (file, manifest, shards): File) {
        self.feed(at, Input::Request(Request::Put { number: 1, file, manifest, shards }));
        self.run(Duration::from_secs(60));
        assert!(self.stored, "it is stored");
    }

    /// What was late comes.
    fn late_comes(&mut self) {
        while let Some((at, from, message)) = self.to_come.pop_front() {
            if at > self.now {
                return self.to_come.push_front((at, from, message));
            }
            let to = self.hears.expect("it has not kept anything");
            self.feed(to, Input::Message { from: name(from), message });
            self.settle();
        }
    }

    /// Has a node run this, and waits for it.
    fn submit(&mut self, at: u64, work: node::Work) {
        let key = format!("{:?}", self.now);
        let key = base::RequestKey::new(key.as_bytes()).expect("it is short");
        self.feed(at, Input::Request(Request::Submit(node::Request { key, work })));
        self.run(Duration::from_secs(10));
    }

    /// These nodes keep a record, and it becomes current at them, as it does where promises are kept: nobody else is
    /// asked. It is made of that one.
    fn turn_at(&mut self, nodes: &[NodeName], record: &FileRecord, before: &FileRecord) {
        let digest = Digest::of(&record.encode());
        self.offered.insert(digest, record.encode());
        let mut builder = saga::Definition::builder();
        for node in nodes {
            let work = Work::Keep { digest, from: name(5) }.encode();
            builder.step(saga::Step::new(saga::Action::from_code(0), *node, work));
        }
        // What it names anew is kept before.
        for (old, new) in before.shards().zip(record.shards()).filter(|(old, new)| old.3 != new.3) {
            let work = Work::Keep { digest: new.2.digest, from: old.3 }.encode();
            builder.step(saga::Step::new(saga::Action::from_code(0), new.3, work));
        }
        self.submit(5, node::Work::Saga(builder.build().expect("steps that wait for nothing")));
        let was = Current::of(before.version, Digest::of(&before.encode()));
        let branch = |node: &NodeName| {
            let is_new = !before.keepers.contains(node);
            let was = if is_new { Current::default() } else { was };
            let work = Work::Head { file: record.file, record: digest, was, to: record.version };
            let shard = base::ShardId::numbered(node.number());
            node::Branch { shard, node: *node, work: work.encode() }
        };
        self.submit(5, node::Work::Transaction(nodes.iter().map(branch).collect()));
        for node in nodes {
            assert_eq!(self.records(record.file)[&node.number()], record, "it is current there");
        }
    }

    fn records(&self, file: Digest) -> BTreeMap<u64, &FileRecord> {
        let records =
            self.machines.iter().map(|(number, machine)| (*number, machine.node.record(file)));
        records.filter_map(|(number, record)| Some((number, record?))).collect()
    }

    /// The record that its keepers have, all of them and nobody else.
    fn agreed(&self, file: Digest) -> &FileRecord {
        let records = self.records(file);
        let newest =
            records.values().max_by_key(|record| record.version).expect("somebody keeps it");
        let keepers: BTreeSet<u64> = newest.keepers.iter().map(|keeper| keeper.number()).collect();
        let have: BTreeSet<u64> = records.keys().copied().collect();
        assert_eq!(keepers, have, "{newest:?}");
        assert!(records.values().all(|record| record == newest), "they have one version");
        newest
    }
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// What others have done meanwhile is not undone by a keeper that knows only that most of the others are gone: not
/// while it sees nobody else, and not when it sees all of them again.
#[test]
fn who_was_cut_off_goes_on_from_no_old_version() {
    let mut world = World::new(14, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let keepers: Vec<u64> = world.agreed(it).keepers.iter().map(|node| node.number()).collect();
    // Who would see to the file first, if it were up to what it knows.
    let apart = keepers[0];
    assert!(keepers.iter().all(|node| *node > 1), "others meet those: {keepers:?}");
    world.cut.insert(apart);
    world.run(minutes(2));
    for other in &keepers[1..] {
        world.machines.remove(other);
        world.run(minutes(2));
    }
    world.run(2 * LOST);
    let own = world.records(it)[&apart].version;
    assert_eq!(own, 1, "it sees nobody, and waits");
    let newest = world.records(it).values().map(|record| record.version).max();
    assert!(newest > Some(3), "the others have gone on: {newest:?}");
    world.cut.clear();
    world.run(minutes(30));
    let agreed = world.agreed(it);
    assert!(agreed.version >> 32 == 0, "nobody had to go on alone: {}", agreed.version);
    assert!(Some(agreed.version) >= newest);
}

/// Those who are left go on if most of the others are really gone.
#[test]
fn who_is_left_goes_on_alone() {
    let mut world = World::new(14, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let before = world.agreed(it).clone();
    let gone: Vec<u64> =
        before.keepers.iter().map(|node| node.number()).filter(|node| *node > 1).take(3).collect();
    for node in &gone {
        world.machines.remove(node);
    }
    world.run(minutes(2));
    assert!(world.records(it).values().all(|record| record.version == 1), "they may come back");
    world.run(2 * LOST);
    let after = world.agreed(it);
    assert_eq!((after.version >> 32, after.keepers.len()), (1, 5));
    assert!(after.keepers.iter().all(|node| !gone.contains(&node.number())));
}

/// What is stored of a file, when one of its keepers knows an old version and has lost sight of all the others who keep
/// it: of what that version names too few shards are left, and who has gone on from the newer one, by how many.
fn left_behind(world: &mut World, it: Digest, apart: u64, first: &FileRecord) {
    let holders: BTreeSet<u64> = first.holders.iter().flatten().map(|node| node.number()).collect();
    for holder in holders.into_iter().filter(|holder| *holder > 1 && *holder != apart).take(3) {
        world.machines.remove(&holder);
        world.run(minutes(30));
    }
    let (there, all) = lie_there(world, first);
    assert!(there + 2 < all, "{there} of {all}: from what it knows the file cannot be had");
    let records = world.records(it);
    let newest = records.values().max_by_key(|record| record.version).expect("they keep it");
    assert_eq!(lie_there(world, newest), (all, all), "the others have repaired it");
}

/// How many of the shards that a record names lie where it says, and how many it names.
fn lie_there(world: &World, record: &FileRecord) -> (usize, usize) {
    let lies = |shard: Digest, node: NodeName| {
        let machine = world.machines.get(&node.number());
        machine.is_some_and(|it| it.disk.shards.contains_key(&shard))
    };
    let all: Vec<bool> =
        record.shards().map(|(.., shard, node)| lies(shard.digest, node)).collect();
    (all.iter().filter(|lies| **lies).count(), all.len())
}

/// A keeper that was away starts in the smaller part of a network that is cut in two. It has heard of nobody who has
/// gone on without it, and goes on from nothing itself.
#[test]
fn who_starts_in_the_smaller_part_goes_on_from_no_old_version() {
    let mut world = World::new(16, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let first = world.agreed(it).clone();
    let apart = first.keepers.iter().map(|node| node.number()).find(|node| *node > 1);
    let apart = apart.expect("others meet the first two");
    let Machine { disk, boot, .. } = world.machines.remove(&apart).expect("it runs");
    world.run(minutes(30));
    left_behind(&mut world, it, apart, &first);
    world.cut = BTreeSet::from([0, 1, apart]);
    world.run(minutes(5));
    world.start(apart, disk, boot + 1);
    world.run(minutes(30));
    assert_eq!(world.records(it)[&apart].version, 1, "it waits");
    world.cut.clear();
    world.run(minutes(120));
    let after = world.agreed(it);
    assert!(after.version >> 32 == 0, "nobody had to go on alone: {}", after.version);
    lies_as_it_says(&world, after);
}

/// A keeper that saw nobody for long sees most of the others again, and not those who keep its file: they were gone for
/// long because it was.
#[test]
fn who_was_cut_off_takes_nobody_for_gone_at_once() {
    let mut world = World::new(20, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let first = world.agreed(it).clone();
    let apart = first.keepers.iter().map(|node| node.number()).find(|node| *node > 1);
    let apart = apart.expect("others meet the first two");
    world.cut = BTreeSet::from([apart]);
    world.run(minutes(10));
    left_behind(&mut world, it, apart, &first);
    let others = world.records(it).into_keys().filter(|number| *number != apart).collect();
    world.cut = others;
    world.run(minutes(2));
    assert_eq!(world.records(it)[&apart].version, 1, "they may come back");
    world.cut.clear();
    world.run(minutes(120));
    let after = world.agreed(it);
    assert!(after.version >> 32 == 0, "nobody had to go on alone: {}", after.version);
    lies_as_it_says(&world, after);
}

/// A keeper starts where it sees more nodes than other keepers are gone, and still not most: whom its record names beside
/// them was there too.
#[test]
fn who_starts_among_a_few_goes_on_from_no_old_version() {
    let mut world = World::new(18, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let first = world.agreed(it).clone();
    let apart = first.keepers.iter().map(|node| node.number()).find(|node| *node > 1);
    let apart = apart.expect("others meet the first two");
    let Machine { disk, boot, .. } = world.machines.remove(&apart).expect("it runs");
    world.run(minutes(30));
    left_behind(&mut world, it, apart, &first);
    let named: BTreeSet<u64> = first
        .keepers
        .iter()
        .chain(first.holders.iter().flatten())
        .map(|node| node.number())
        .collect();
    let few =
        world.machines.keys().copied().filter(|number| *number == 0 || !named.contains(number));
    let few: BTreeSet<u64> = few.take(5).chain([apart]).collect();
    assert!(few.contains(&0), "it meets that one");
    let gone = named.difference(&few).count();
    assert!(
        (5..=gone).contains(&few.len()),
        "{} of {gone} that it knows of are with it",
        few.len()
    );
    world.cut = few;
    world.run(minutes(5));
    world.start(apart, disk, boot + 1);
    world.run(minutes(30));
    assert_eq!(world.records(it)[&apart].version, 1, "it waits");
    world.cut.clear();
    world.run(minutes(120));
    let after = world.agreed(it);
    assert!(after.version >> 32 == 0, "nobody had to go on alone: {}", after.version);
    lies_as_it_says(&world, after);
}

/// A keeper has started in the smaller part of a network, and sees most of the others now, and not those who keep its
/// file: it has never heard of them, and they were not gone for as long as it has been there.
#[test]
fn who_has_started_in_a_cut_takes_nobody_for_gone_at_once() {
    let mut world = World::new(20, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let first = world.agreed(it).clone();
    let apart = first.keepers.iter().map(|node| node.number()).find(|node| *node > 1);
    let apart = apart.expect("others meet the first two");
    let Machine { disk, boot, .. } = world.machines.remove(&apart).expect("it runs");
    world.run(minutes(30));
    left_behind(&mut world, it, apart, &first);
    world.cut = BTreeSet::from([0, 1, apart]);
    world.run(minutes(5));
    world.start(apart, disk, boot + 1);
    world.run(minutes(30));
    assert_eq!(world.records(it)[&apart].version, 1, "it waits");
    world.cut = world.records(it).into_keys().filter(|number| *number != apart).collect();
    world.run(minutes(2));
    assert_eq!(world.records(it)[&apart].version, 1, "they may come back");
    world.cut.clear();
    world.run(minutes(120));
    let after = world.agreed(it);
    assert!(after.version >> 32 == 0, "nobody had to go on alone: {}", after.version);
    lies_as_it_says(&world, after);
}

/// A world with a file, and so many nodes about to come that are closer to it that some keepers are not found any more,
/// and the first keeper has another version made.
fn about_to_turn() -> (World, FileRecord, Vec<u64>) {
    let mut world = World::new(14, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let before = world.agreed(it).clone();
    let furthest = before.keepers.iter().map(|node| placement::distance(*node, &it.0)).max();
    let closer =
        (100..100_000).filter(|number| Some(placement::distance(name(*number), &it.0)) < furthest);
    let closer: Vec<u64> = closer.take(7).collect();
    assert_eq!(closer.len(), 7);
    (world, before, closer)
}

fn promised(world: &World) -> usize {
    let hosts = world.machines.values().filter_map(|it| it.node.transactions().participant());
    hosts.map(|host| host.participant().prepared().count()).sum()
}

fn orphans(world: &World) -> (u64, u64) {
    let all = world.machines.values().map(|machine| machine.node.stats());
    all.fold((0, 0), |(all, shared), stats| (all + stats.orphans, shared + stats.orphans_shared))
}

fn forced(world: &World) -> Vec<Forced> {
    let hosts = world.machines.values().filter_map(|it| it.node.transactions().participant());
    hosts.flat_map(|host| host.participant().forced().map(|it| it.1.clone())).collect()
}

/// The first keeper leaves for good when it is about to tell that the next version is current, and with it so many
/// others; how many have promised that version.
fn departed(others: usize) -> (World, FileRecord, usize) {
    let (mut world, before, closer) = about_to_turn();
    world.fatal = Some(is_commit);
    for number in closer {
        world.start(number, Disk::default(), 1);
    }
    let chief = before.keepers[0].number();
    for _ in 0..60 {
        world.run(Duration::from_secs(1));
        if world.killed.is_some() {
            break;
        }
    }
    assert_eq!(world.killed, Some(chief), "it was about to tell that the next version is current");
    assert_eq!(promised(&world), 5, "the four others, and who retires");
    let leave = before.keepers[1..].iter().map(|node| node.number()).filter(|node| *node > 1);
    leave.take(others).for_each(|node| drop(world.machines.remove(&node)));
    let promised = promised(&world);
    assert_eq!(promised, 5 - others);
    (world, before, promised)
}

/// As long as fewer than most keepers are known to be in doubt, whoever has promised a version to a coordinator that
/// is gone waits until that is gone for good; then it keeps the promise.
#[test]
fn promises_to_who_is_gone_for_good_are_kept() {
    let (mut world, before, asked) = departed(2);
    world.run(LOST / 2);
    assert_eq!((promised(&world), orphans(&world)), (asked, (0, 0)), "others may decide otherwise");
    world.run(LOST);
    assert_eq!(orphans(&world).0, asked as u64);
    world.run(2 * LOST);
    assert_eq!(promised(&world), 0);
    let is_lost = |it: &Forced| &*it.audit.why == "its coordinator is gone for good";
    assert!(forced(&world).iter().any(is_lost));
    for forced in forced(&world) {
        assert!(forced.forgotten.is_some(), "nobody will ask for it");
    }
    let after = world.agreed(before.file);
    assert!(after.version > 2, "{}", after.version);
    assert!(after.keepers.iter().all(|node| *node != before.keepers[0]));
}

/// Who is cut off behind its vote waits for the decision, however long that takes: alone it keeps no promise that the
/// others may have gone on without.
#[test]
fn who_is_cut_off_with_its_promise_waits() {
    let (mut world, before, closer) = about_to_turn();
    let apart = before.keepers[2].number();
    assert!(apart > 1, "others meet the first two");
    world.mute = Some(apart);
    for number in closer {
        world.start(number, Disk::default(), 1);
    }
    for _ in 0..60 {
        world.run(Duration::from_secs(1));
        if world.mute.is_none() {
            break;
        }
    }
    assert_eq!(world.cut, BTreeSet::from([apart]));
    world.run(2 * LOST);
    let newest = world.records(before.file).values().map(|record| record.version).max();
    assert!(newest > Some(1), "the others have gone on without it: {newest:?}");
    assert_eq!(world.records(before.file)[&apart].version, 1, "it is in doubt");
    world.heal();
    world.run(minutes(70));
    assert_eq!(promised(&world), 0);
    lies_as_it_says(&world, world.agreed(before.file));
}

/// As soon as most keepers are known to be in doubt of a version of which nobody tells whether it is current, they
/// take it so; and who was to keep the record no longer does not.
#[test]
fn what_most_keepers_are_in_doubt_of_is_kept_at_once() {
    let (mut world, before, asked) = departed(0);
    world.run(ALIVE / 2);
    assert_eq!((promised(&world), orphans(&world)), (asked, (0, 0)), "it may come back");
    world.run(3 * ALIVE);
    assert_eq!((promised(&world), orphans(&world)), (0, (asked as u64, asked as u64)));
    let by = |why: &str| forced(&world).iter().filter(|it| &*it.audit.why == why).count();
    assert!(by("most keepers are in doubt of it") > 0, "who knows who the keepers are");
    assert_eq!(
        by("most keepers are in doubt of it") + by("another participant has committed it"),
        asked
    );
    for forced in forced(&world) {
        assert!(forced.forgotten.is_none(), "it may come back, and say what it has decided");
    }
    world.run(Duration::from_secs(60));
    let after = world.agreed(before.file);
    // The one that was promised, and one without who had asked for it.
    assert!(after.version > 2 && after.version >> 32 == 0, "{}", after.version);
    assert!(after.keepers.iter().all(|node| *node != before.keepers[0]));
    world.run(2 * LOST);
    assert!(forced(&world).iter().all(|forced| forced.forgotten.is_some()), "nobody will ask");
}

/// Whatever the others have kept, a coordinator that comes back and has decided otherwise releases nothing of it; and all
/// come to have one version, whenever it comes back.
#[test]
fn a_coordinator_that_comes_back_has_decided_otherwise() {
    let (mut kept, mut mixed) = (0, 0);
    for (loss, away) in [(Loss::Touch, 10), (Loss::Touch, 40), (Loss::Touch, 76), (Loss::Power, 52)]
    {
        let (mut world, before, closer) = about_to_turn();
        world.unheard = Some((4, loss));
        for number in closer {
            world.start(number, Disk::default(), 1);
        }
        for _ in 0..60 {
            world.run(Duration::from_secs(1));
            if world.lost.is_some() {
                break;
            }
        }
        assert_eq!(world.lost, Some(before.keepers[0].number()), "it decides to abort");
        world.run(Duration::from_secs(away));
        let (all, _) = orphans(&world);
        kept += u32::from(all > 0);
        world.heal();
        for _ in 0..50 {
            world.run(minutes(1));
            mixed += u32::from(forced(&world).iter().any(|forced| forced.heuristic().is_some()));
        }
        let after = world.agreed(before.file);
        assert!(after.version > 1, "{loss:?} {away}");
        assert_eq!(promised(&world), 0, "{loss:?} {away}");
        lies_as_it_says(&world, after);
        for machine in world.machines.values() {
            assert_eq!(machine.node.unrest(world.now), Vec::<&str>::new(), "{loss:?} {away}");
        }
    }
    assert_eq!(kept, 3, "it comes back before anybody takes it for dead, or later");
    assert!(mixed > 0, "what they have kept is known to be against its decision");
}

/// Who has said that it is in doubt of what it has promised does not abort it when it comes back from a crash, and hears
/// at once that its coordinator has: others may have kept their promises on its word.
#[test]
fn a_crash_does_not_take_back_what_was_said() {
    let (mut kept, mut aborted) = (0, 0);
    for times in [12, 27, 30, 33, 36] {
        let (mut world, before, closer) = about_to_turn();
        (world.unheard, world.says) = (Some((4, Loss::Touch)), Some(times));
        for number in closer {
            world.start(number, Disk::default(), 1);
        }
        for _ in 0..180 {
            world.run(Duration::from_secs(1));
            if world.crashed.is_some() {
                break;
            }
        }
        let Some(crashed) = world.crashed else { continue };
        world.run(Duration::from_secs(30));
        assert_eq!(promised(&world), 0, "{times}");
        let chief = before.keepers[0].number();
        let mut all = world.records(before.file);
        all.remove(&chief);
        // By the next version, or by what is made of it.
        let behind = all.values().filter(|record| record.version < 2).count();
        if orphans(&world).0 > 0 {
            kept += 1;
            let all: Vec<_> = all.iter().map(|(at, it)| (at, it.version)).collect();
            assert_eq!(behind, 0, "{times}: n{crashed} has crashed, n{chief} decided: {all:?}");
        } else {
            aborted += 1;
        }
        world.run(minutes(60));
        let after = world.agreed(before.file);
        lies_as_it_says(&world, after);
    }
    assert!(kept > aborted, "{kept} {aborted}");
}

/// A keeper at which another version is current than at most is passed over by the others, and is given the next one.
#[test]
fn a_keeper_with_another_version_is_given_the_next_one() {
    for place in [0, 2] {
        let mut world = World::new(14, 5);
        let file = file(4, 2);
        let it = file.0;
        world.put(5, file);
        let first = world.agreed(it);
        let (keeper, record) = (first.keepers[place], Digest::of(&first.encode()));
        let was = Current::of(1, record);
        let work = Work::Retire { file: it, was, to: 2 }.encode();
        let branch = node::Branch { shard: base::ShardId::numbered(7), node: keeper, work };
        let key = base::RequestKey::new(b"by itself").expect("it is short");
        let work = node::Work::Transaction(vec![branch]);
        let request = Request::Submit(node::Request { key, work });
        world.feed(5, Input::Request(request));
        world.run(Duration::from_secs(10));
        assert!(!world.records(it).contains_key(&keeper.number()), "it has none any more");
        world.run(minutes(60));
        let after = world.agreed(it);
        assert!(after.version > 2 && after.keepers.contains(&keeper), "{place}: {after:?}");
        lies_as_it_says(&world, after);
    }
}

fn digest_of(record: &FileRecord) -> i64 {
    network::work::mark(Digest::of(&record.encode()))
}

/// Two next versions of a record, of one number: each has moved another shard, to somebody else. The second is the
/// greater one, if it is to be, by its mark.
fn rivals(world: &World, of: [&FileRecord; 2], greater: bool) -> [FileRecord; 2] {
    let [before, other] = of;
    let named: BTreeSet<NodeName> = before.holders.iter().flatten().copied().collect();
    let others: Vec<NodeName> =
        world.machines.keys().map(|at| name(*at)).filter(|at| !named.contains(at)).collect();
    let moved = |of: &FileRecord, place: usize, to: NodeName| {
        let mut record = of.clone();
        record.version += 1;
        record.holders[0][place] = to;
        record
    };
    let one = moved(before, 0, others[0]);
    let rest = others[1..].iter().map(|to| moved(other, 1, *to));
    let mut rest = rest.filter(|two| (digest_of(two) > digest_of(&one)) == greater);
    let two = rest.next().expect("one of them has such a mark");
    [one, two]
}

/// However two next versions of one number are spread among those who keep a file, nobody having been told that either is
/// current: all come to have one record, all that it names lies where it says, and nothing is left of the other.
#[test]
fn of_two_records_of_one_version_one_is_left() {
    for (spread, greater) in [
        ([2, 2], true),
        ([2, 2], false),
        ([3, 2], true),
        ([3, 2], false),
        ([3, 1], true),
        ([2, 1], false),
        ([1, 1], true),
    ] {
        let mut world = World::new(16, 5);
        let file = file(4, 2);
        let it = file.0;
        world.put(5, file);
        let before = world.agreed(it).clone();
        let records = rivals(&world, [&before, &before], greater);
        let mut keepers = before.keepers.iter().copied();
        for (count, record) in spread.into_iter().zip(&records) {
            let nodes: Vec<NodeName> = keepers.by_ref().take(count).collect();
            world.turn_at(&nodes, record, &before);
        }
        world.run(minutes(150));
        let after = world.agreed(it);
        assert!(after.version > 2, "{spread:?} {greater}: {}", after.version);
        lies_as_it_says(&world, after);
        for machine in world.machines.values() {
            let unrest = machine.node.unrest(world.now);
            assert_eq!(unrest, Vec::<&str>::new(), "{spread:?} {greater}");
        }
    }
}

/// Whoever alone has kept a promise, and hears that the others have made another version of that number without it, gives
/// its own up, whatever the two are called: theirs is whole, and what they do not need any more is gone.
#[test]
fn who_stands_alone_with_a_version_gives_it_up() {
    for greater in [true, false] {
        let mut world = World::new(16, 5);
        let file = file(4, 2);
        let it = file.0;
        world.put(5, file);
        let before = world.agreed(it).clone();
        let apart = before.keepers[2];
        let others = world.machines.keys().map(|at| name(*at));
        let others = others.filter(|at| !before.keepers.contains(at));
        let next = others.min_by_key(|at| placement::distance(*at, &it.0));
        let mut kept = before.clone();
        kept.keepers.retain(|keeper| *keeper != apart);
        kept.keepers.push(next.expect("not all are keepers"));
        let [alone, decided] = rivals(&world, [&before, &kept], greater);
        world.turn_at(&[apart], &alone, &before);
        world.turn_at(&decided.keepers.clone(), &decided, &before);
        world.run(minutes(30));
        let apart = apart.number();
        assert!(!world.records(it).contains_key(&apart), "{greater}: it has heard of the others");
        world.run(minutes(120));
        let after = world.agreed(it);
        let is_of = |record: &FileRecord| {
            let both = record.holders.iter().flatten().zip(after.holders.iter().flatten());
            both.filter(|(one, two)| one != two).count()
        };
        assert!(is_of(&decided) < is_of(&alone), "{greater}: what follows is made of theirs");
        lies_as_it_says(&world, after);
    }
}

/// Most who keep a file have a version that nobody has decided, and one of them has given its own up for another one of
/// that number, which keepers have of whom none keeps the first: those who would go on ask everybody before, hear of that,
/// and give up theirs.
#[test]
fn who_has_a_rival_asks_before_it_goes_on() {
    let mut world = World::new(20, 3);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let before = world.agreed(it).clone();
    let mut others: Vec<NodeName> = world.machines.keys().map(|at| name(*at)).collect();
    others.retain(|at| !before.keepers.contains(at));
    others.sort_by_key(|at| placement::distance(*at, &it.0));
    let mut theirs = before.clone();
    theirs.keepers = others[..3].to_vec();
    let [kept, decided] = rivals(&world, [&before, &theirs], true);
    let (most, rest) = before.keepers.split_at(2);
    world.turn_at(&decided.keepers.clone(), &decided, &before);
    world.turn_at(most, &kept, &before);
    let was = Current::of(1, Digest::of(&before.encode()));
    let retire = |node: &NodeName| {
        let work = Work::Retire { file: it, was, to: 2 }.encode();
        node::Branch { shard: base::ShardId::numbered(node.number()), node: *node, work }
    };
    world.submit(5, node::Work::Transaction(rest.iter().map(retire).collect()));
    assert_eq!(world.records(it).len(), 5, "two, and the three others");
    world.run(minutes(150));
    let after = world.agreed(it);
    assert_eq!(after.holders, decided.holders, "what follows is made of theirs");
    lies_as_it_says(&world, after);
}

/// What others say counts from when they were asked. Who alone has heard them say that they are in doubt, and is cut off
/// with what it has kept by that, is alone with it; once it is there again all have one version.
#[test]
fn who_is_cut_off_with_what_it_has_kept_comes_to_agree() {
    let (mut world, before, closer) = about_to_turn();
    let hears = before.keepers[3].number();
    assert!(hears > 1, "others meet those");
    (world.unheard, world.hears) = (Some((4, Loss::Touch)), Some(hears));
    for number in closer {
        world.start(number, Disk::default(), 1);
    }
    for _ in 0..240 {
        world.run(Duration::from_secs(1));
        if world.hears.is_none() {
            break;
        }
    }
    assert!(world.cut.contains(&hears) && orphans(&world).0 == 1, "it alone has kept its promise");
    // Its coordinator is there again, and has decided otherwise.
    world.cut = BTreeSet::from([hears]);
    world.run(Duration::from_secs(120));
    assert!(promised(&world) == 0, "the others have heard of that");
    let records = world.records(before.file);
    let (own, others) = (records[&hears].version, records.values().map(|it| it.version).max());
    assert_eq!(own, 2, "it has kept it");
    assert!(others >= Some(2), "they have gone on: {others:?}");
    world.cut.clear();
    world.run(minutes(150));
    assert_eq!(promised(&world), 0);
    lies_as_it_says(&world, world.agreed(before.file));
}

/// Whoever runs an upload is away when all have promised it, and comes back when they have kept that: it goes on with the
/// upload, or its client asks again, and what is stored then is all there.
#[test]
fn an_upload_whose_node_comes_back_late_is_stored() {
    for loss in [Loss::Power, Loss::Touch] {
        let mut world = World::new(14, 5);
        let file = file(4, 2);
        let it = file.0;
        let mut near: Vec<u64> = (2..14).collect();
        near.sort_by_key(|number| placement::distance(name(*number), &it.0));
        let at = near[8];
        world.unheard = Some((4, loss));
        let (file_, manifest, shards) = file.clone();
        let put = Request::Put { number: 1, file: file_, manifest, shards };
        world.feed(at, Input::Request(put));
        world.run(minutes(1));
        assert!(world.lost == Some(at) && !world.stored, "{loss:?}");
        world.run(2 * LOST);
        let kept = world.records(it).len();
        assert_eq!((kept, promised(&world)), (5, 0), "{loss:?}: it has been gone for too long");
        world.heal();
        world.run(minutes(60));
        let whole = |(_, record): (u64, &FileRecord)| lie_there(&world, record) == (6, 6);
        let found = world.records(it);
        assert!(
            found.len() == 5 && found.into_iter().all(whole),
            "{loss:?}: nothing of it is released"
        );
        if !world.stored {
            world.put(at, file);
        }
        world.run(minutes(60));
        lies_as_it_says(&world, world.agreed(it));
    }
}

/// An answer that was on its way for longer than whoever gave it holds to it is worth nothing: others may have heard of an
/// abort since.
#[test]
fn a_word_counts_from_when_it_was_asked_for() {
    let mut kept = Vec::new();
    for late in [1, 20] {
        let (mut world, before, closer) = about_to_turn();
        let hears = before.keepers[3].number();
        (world.unheard, world.hears) = (Some((4, Loss::Touch)), Some(hears));
        world.late = Some(Duration::from_secs(late));
        for number in closer {
            world.start(number, Disk::default(), 1);
        }
        for _ in 0..150 {
            world.run(Duration::from_secs(1));
            if world.hears.is_none() {
                break;
            }
            world.late_comes();
        }
        assert!(world.lost.is_some(), "its coordinator is away");
        kept.push(orphans(&world).0);
    }
    assert_eq!(kept, [1, 0], "in time, and too late");
}

/// Of an attempt at an upload that came to nothing its note is released before anything else: as long as that is there,
/// a start goes on with the attempt, and its 2PC may run again.
#[test]
fn an_attempts_note_is_released_first() {
    let mut world = World::new(14, 5);
    let (name, manifest, shards) = file(4, 2);
    world.no_votes = true;
    let put = Request::Put { number: 1, file: name, manifest, shards };
    world.feed(5, Input::Request(put));
    world.run(Duration::from_secs(20));
    assert!(world.released.0 > 4, "shards and records are released");
    assert_eq!(world.released.1, 0, "and the note was before");
    world.no_votes = false;
    world.run(minutes(2));
    assert!(world.stored, "the next attempt is another one");
    world.run(minutes(60));
    lies_as_it_says(&world, world.agreed(name));
}

/// Who has heard that a version did not become current may be wrong, and cannot release it where it is.
#[test]
fn nobody_else_releases_the_record_that_is_current() {
    let mut world = World::new(14, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file);
    let last = world.agreed(it).keepers[4].number();
    assert!(last > 1, "others meet those");
    world.machines.remove(&last);
    world.run(minutes(60));
    let before = world.agreed(it).clone();
    assert!(before.version > 1);
    lies_as_it_says(&world, &before);
    let digest = Digest::of(&before.encode());
    let by = world.machines.keys().copied().find(|at| !before.keepers.contains(&name(*at)));
    let mut builder = saga::Definition::builder();
    for keeper in &before.keepers {
        let work = Work::Release { digest }.encode();
        builder.step(saga::Step::new(saga::Action::from_code(0), *keeper, work));
    }
    let work = node::Work::Saga(builder.build().expect("steps that wait for nothing"));
    let key = base::RequestKey::new(b"wrong").expect("it is short");
    let request = Request::Submit(node::Request { key, work });
    world.feed(by.expect("not all are keepers"), Input::Request(request));
    world.run(minutes(2));
    assert_eq!(world.agreed(it), &before);
    lies_as_it_says(&world, &before);
}

/// An upload that its node gives up, and that its keepers have kept, leaves nothing: neither bytes, nor its name.
#[test]
fn an_upload_that_is_given_up_leaves_its_name_free() {
    let mut world = World::new(14, 5);
    let file = file(4, 2);
    let it = file.0;
    world.put(5, file.clone());
    let record = world.agreed(it).clone();
    let digest = Digest::of(&record.encode());
    let mut builder = saga::Definition::builder();
    let shards = record.shards().map(|(.., shard, node)| (node, shard.digest));
    for (node, digest) in record.keepers.iter().map(|node| (*node, digest)).chain(shards) {
        let work = Work::Release { digest }.encode();
        builder.step(saga::Step::new(saga::Action::from_code(0), node, work));
    }
    let by = world.machines.keys().copied().find(|at| !record.keepers.contains(&name(*at)));
    let work = node::Work::Saga(builder.build().expect("steps that wait for nothing"));
    world.submit(by.expect("not all are keepers"), work);
    assert!(world.records(it).is_empty(), "nobody keeps it");
    assert!(
        world.machines.values().all(|machine| machine.disk.shards.is_empty()),
        "nothing is left"
    );
    // The next upload is another one: not all of these are there.
    let mut holders = record.holders[0].iter().filter(|node| !record.keepers.contains(node));
    let gone = holders.find(|node| node.number() > 5).expect("some holder keeps no record");
    world.machines.remove(&gone.number());
    world.run(minutes(2));
    world.stored = false;
    world.put(5, file);
    assert_ne!(world.agreed(it), &record);
    lies_as_it_says(&world, world.agreed(it));
}

/// Every shard that the record names lies where it says, and nothing else lies anywhere.
fn lies_as_it_says(world: &World, record: &FileRecord) {
    let mut named: BTreeSet<(u64, Digest)> =
        record.shards().map(|(.., shard, node)| (node.number(), shard.digest)).collect();
    let bytes = Digest::of(&record.encode());
    named.extend(record.keepers.iter().map(|node| (node.number(), bytes)));
    let disks = world.machines.iter().flat_map(|(number, machine)| {
        machine.disk.shards.iter().map(move |(digest, bytes)| (*number, *digest, bytes))
    });
    let mut there = BTreeSet::new();
    for (number, digest, bytes) in disks {
        assert_eq!(Digest::of(bytes), digest);
        there.insert((number, digest));
    }
    assert_eq!(there, named);
}

/// The authority's word, and nobody else's, has a file cut anew: then it has the other scheme, and nothing is left of the
/// old one. Wherever its keeper's process ends on the way, that is so in the end.
#[test]
fn a_file_comes_to_have_the_scheme_that_is_advised() {
    let to = Scheme::new(3, 3).expect("it exists");
    let (mut outputs, mut crashes) = (None, 0);
    while outputs.is_none_or(|outputs| outputs < 240) {
        let mut world = World::new(12, 3);
        let file = file(4, 2);
        let it = file.0;
        world.put(5, file);
        let chief = world.agreed(it).keepers[0].number();
        if outputs.is_none() {
            let message = Message::Advice(to);
            world.feed(chief, Input::Message { from: name(3), message });
            world.run(minutes(1));
            assert_eq!(world.agreed(it).version, 1, "anybody could say that");
        }
        world.crash = outputs.map(|outputs| (chief, outputs));
        let message = Message::Advice(to);
        world.feed(chief, Input::Message { from: name(0), message: message.clone() });
        world.run(minutes(2));
        crashes += u32::from(outputs.is_some() && world.crash.is_none());
        // It has forgotten what was advised.
        world.feed(chief, Input::Message { from: name(0), message });
        world.run(minutes(3));
        let record = world.agreed(it);
        assert_eq!((record.manifest.scheme(), record.version), (to, 1 << 48), "{outputs:?}");
        lies_as_it_says(&world, record);
        outputs = Some(outputs.map_or(0, |outputs| outputs + 12));
    }
    assert!(crashes > 10, "{crashes}");
}

/// What is advised has a place for what is rebuilt.
#[test]
fn no_scheme_is_advised_that_takes_all_nodes() {
    for (nodes, scheme) in [(11, (4, 2)), (12, (8, 3)), (7, (4, 2)), (6, (2, 1))] {
        let world = World::reporting(nodes, 3, Some(Duration::from_secs(20)));
        let (tier, advised) = world.machines[&0].node.health().expect("all have reported");
        assert_eq!(tier, erasure::Tier::Excellent);
        let scheme = Scheme::new(scheme.0, scheme.1).expect("it exists");
        assert_eq!(advised, scheme, "{nodes} nodes");
    }
}
