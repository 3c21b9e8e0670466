//! Operations that take locks at three tables, over a network that delays, doubles and loses, while
//! holders die and tables restart. The judge knows what tables have said, and nothing of how they
//! work.

use base::prng::{Key, Stream};
use base::{BootCount, NodeName, ShardId, Time};
use locks::{Claim, Config, Holder, Lease, LockTable, Message, Output, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TABLES: u64 = 3;
const SHARDS: u64 = 5;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What one world does to its messages and processes.
#[derive(Clone, Copy)]
struct Faults {
    loss: u64,
    twice: u64,
    /// Of a hundred operations, how many die with their locks.
    deaths: u64,
    restarts: u64,
}

#[derive(Clone, Debug)]
enum Event {
    ToTable { table: u64, from: NodeName, message: Message },
    ToHolder { table: u64, output: Output },
    Begin { node: u64 },
    Retry { holder: Holder, round: u64 },
    Done { holder: Holder },
    Tick { table: u64 },
    Restart { table: u64 },
}

/// What an operation does: take its shards, table by table, work, give everything back.
#[derive(Clone, Debug)]
struct Operation {
    born: Time,
    wants: Vec<(u64, Vec<ShardId>)>,
    /// How many tables it has.
    at: usize,
    round: u64,
    leases: BTreeMap<(u64, ShardId), Lease>,
    refusals: u64,
    working: bool,
}

/// What tables have said, by the judge's own account.
#[derive(Default)]
struct Judge {
    holds: BTreeMap<(u64, ShardId), (Holder, u64, Time)>,
    highest: BTreeMap<u64, u64>,
    /// Who waits: where, for what, until when.
    waits: BTreeMap<(u64, Holder), (Vec<ShardId>, Time)>,
    longest_circle_search: usize,
}

impl Judge {
    fn said(&mut self, now: Time, table: u64, output: &Output) {
        match output {
            Output::Granted { holder, leases } => {
                self.waits.remove(&(table, *holder));
                for lease in leases {
                    let place = (table, lease.shard);
                    let before = self.holds.get(&place).copied();
                    if let Some((other, token, until)) = before
                        && other == *holder
                        && token == lease.token.0
                    {
                        assert!(until > now, "a lapsed lease was renewed");
                    } else {
                        if let Some((other, _, until)) = before {
                            assert!(until <= now, "{other:?} and {holder:?} have {place:?}");
                        }
                        let highest = self.highest.entry(table).or_default();
                        assert!(lease.token.0 > *highest, "a token came again");
                        *highest = lease.token.0;
                    }
                    assert!(lease.until > now);
                    self.holds.insert(place, (*holder, lease.token.0, lease.until));
                }
            }
            Output::Released { holder, shard } => {
                let (other, _, until) = self.holds.remove(&(table, *shard)).expect("it was held");
                assert!(other == *holder && until > now, "a lapsed lock was given back");
            }
            Output::Waits { holder, until } => {
                assert!(*until > now && *until <= now + Config::default().wait_max);
                self.waits.entry((table, *holder)).or_default().1 = *until;
            }
            Output::Refused { holder, refusal } => {
                if matches!(refusal, Refusal::Older { .. } | Refusal::WaitedTooLong) {
                    self.waits.remove(&(table, *holder));
                }
            }
            Output::Verified { .. } | Output::NotVerified { .. } => {}
        }
    }

    /// Nobody waits beyond its time, and no circle of holders waits for itself.
    fn look(&mut self, now: Time) {
        let mut edges: BTreeMap<Holder, BTreeSet<Holder>> = BTreeMap::new();
        for ((table, holder), (shards, until)) in &self.waits {
            assert!(now <= *until, "{holder:?} waits for ever");
            for shard in shards {
                if let Some((other, _, until)) = self.holds.get(&(*table, *shard))
                    && *until > now
                    && other != holder
                {
                    edges.entry(*holder).or_default().insert(*other);
                }
            }
        }
        for start in edges.keys() {
            let mut seen = BTreeSet::new();
            let mut stack: Vec<Holder> = edges[start].iter().copied().collect();
            while let Some(next) = stack.pop() {
                assert_ne!(next, *start, "a circle of waits: {edges:?}");
                if seen.insert(next) {
                    stack.extend(edges.get(&next).into_iter().flatten());
                }
            }
            self.longest_circle_search = self.longest_circle_search.max(seen.len());
        }
    }
}

struct World {
    now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    tie: u64,
    tables: Vec<LockTable>,
    boots: Vec<u32>,
    operations: BTreeMap<Holder, Operation>,
    numbers: BTreeMap<u64, u64>,
    finished: u64,
    died: u64,
    refusals_max: u64,
    to_do: u64,
    stream: Stream,
    faults: Faults,
    judge: Judge,
    key: Key,
}

impl World {
    fn new(seed: u64, nodes: u64, to_do: u64, faults: Faults) -> World {
        let key = Key::root(seed);
        let table = |_| LockTable::new(Config::default(), &key, BootCount(1), Time::ZERO);
        let mut world = World {
            now: Time::ZERO,
            queue: BTreeMap::new(),
            tie: 0,
            tables: (0..TABLES).map(table).collect(),
            boots: vec![1; TABLES as usize],
            operations: BTreeMap::new(),
            numbers: BTreeMap::new(),
            finished: 0,
            died: 0,
            refusals_max: 0,
            to_do,
            stream: key.child("world").stream(),
            faults,
            judge: Judge::default(),
            key,
        };
        for node in 0..nodes {
            world.at(ms(node), Event::Begin { node });
        }
        for number in 0..faults.restarts {
            let table = number % TABLES;
            let wait = ms(world.stream.below(120_000));
            world.at(wait, Event::Restart { table });
        }
        world
    }

    fn at(&mut self, wait: Duration, event: Event) {
        self.tie += 1;
        self.queue.insert((self.now + wait, self.tie), event);
    }

    fn send(&mut self, event: Event) {
        if self.stream.below(100) < self.faults.loss {
            return;
        }
        let wait = ms(1 + self.stream.below(40));
        if self.stream.below(100) < self.faults.twice {
            let later = ms(1 + self.stream.below(400));
            self.at(later, event.clone());
        }
        self.at(wait, event);
    }

    fn begin(&mut self, node: u64) {
        if self.to_do == 0 {
            return;
        }
        self.to_do -= 1;
        let number = self.numbers.entry(node).or_default();
        *number += 1;
        let holder = Holder { node: NodeName::numbered(node), operation: *number };
        let tables = 1 + self.stream.below(TABLES) as u32;
        // In an order of its own: that is what could close a circle.
        let tables = self.stream.distinct(tables, TABLES as u32);
        let wants = tables.into_iter().map(|table| {
            let count = 1 + self.stream.below(3) as u32;
            let shards = self.stream.distinct(count, SHARDS as u32);
            (u64::from(table), shards.into_iter().map(|s| ShardId::numbered(s.into())).collect())
        });
        let operation = Operation {
            born: self.now,
            wants: wants.collect(),
            at: 0,
            round: 0,
            leases: BTreeMap::new(),
            refusals: 0,
            working: false,
        };
        self.operations.insert(holder, operation);
        self.go_on(holder);
    }

    /// Asks for the next locks, or works.
    fn go_on(&mut self, holder: Holder) {
        let Some(operation) = self.operations.get_mut(&holder) else { return };
        operation.round += 1;
        let round = operation.round;
        if let Some((table, shards)) = operation.wants.get(operation.at).cloned() {
            let message = Message::Acquire { holder, born: operation.born, shards };
            self.send(Event::ToTable { table, from: holder.node, message });
            self.at(ms(2_000), Event::Retry { holder, round });
        } else {
            operation.working = true;
            let wait = ms(self.stream.below(3_000));
            self.at(wait, Event::Done { holder });
        }
    }

    fn give_back(&mut self, holder: Holder) {
        let Some(operation) = self.operations.get_mut(&holder) else { return };
        for ((table, shard), lease) in std::mem::take(&mut operation.leases) {
            let Lease { token, tag, .. } = lease;
            let message = Message::Release { claim: Claim { shard, holder, token, tag } };
            self.send(Event::ToTable { table, from: holder.node, message });
        }
    }

    fn heard(&mut self, table: u64, output: Output) {
        let (holder, answer) = match output {
            Output::Granted { holder, leases } => (holder, Ok(leases)),
            Output::Refused { holder, refusal } => (holder, Err(refusal)),
            _ => return,
        };
        let Some(operation) = self.operations.get_mut(&holder) else { return };
        let asked = operation.wants.get(operation.at);
        let Some((_, shards)) = asked.filter(|(asked, _)| *asked == table) else { return };
        match answer {
            Ok(leases) => {
                let has: BTreeSet<ShardId> = leases.iter().map(|lease| lease.shard).collect();
                if shards.iter().all(|shard| has.contains(shard)) {
                    operation.leases.extend(leases.into_iter().map(|l| ((table, l.shard), l)));
                    operation.at += 1;
                    self.go_on(holder);
                }
            }
            Err(Refusal::Older { .. } | Refusal::WaitedTooLong | Refusal::Restarting { .. }) => {
                operation.refusals += 1;
                operation.at = 0;
                operation.round += 1;
                let round = operation.round;
                self.give_back(holder);
                let wait = ms(200 + self.stream.below(400));
                self.at(wait, Event::Retry { holder, round });
            }
            // An answer to a message that came twice.
            Err(_) => {}
        }
    }

    fn perform(&mut self, event: Event) {
        match event {
            Event::ToTable { table, from, message } => {
                if let Message::Acquire { holder, shards, .. } = &message {
                    let wait = self.judge.waits.entry((table, *holder)).or_default();
                    *wait = (shards.clone(), wait.1.max(self.now));
                }
                let mut out = Vec::new();
                self.tables[table as usize].handle(self.now, from, &message, &mut out);
                self.told(table, out);
                if let Message::Acquire { holder, .. } = &message
                    && self.judge.waits.get(&(table, *holder)).is_some_and(|w| w.1 <= self.now)
                {
                    // Refused for another reason than its age: it does not wait.
                    self.judge.waits.remove(&(table, *holder));
                }
            }
            Event::ToHolder { table, output } => self.heard(table, output),
            Event::Begin { node } => self.begin(node),
            Event::Retry { holder, round } => {
                if self.operations.get(&holder).is_some_and(|o| o.round == round && !o.working) {
                    self.go_on(holder);
                }
            }
            Event::Done { holder } => {
                if self.stream.below(100) < self.faults.deaths {
                    // It dies and tells nobody.
                    self.died += 1;
                } else {
                    self.give_back(holder);
                    self.finished += 1;
                }
                let operation = self.operations.remove(&holder).expect("it works");
                self.refusals_max = self.refusals_max.max(operation.refusals);
                let wait = ms(self.stream.below(100));
                self.at(wait, Event::Begin { node: holder.node.number() });
            }
            Event::Tick { table } => {
                let mut out = Vec::new();
                self.tables[table as usize].tick(self.now, &mut out);
                self.told(table, out);
            }
            Event::Restart { table } => {
                let boot = &mut self.boots[table as usize];
                *boot += 1;
                let (config, boot) = (Config::default(), BootCount(*boot));
                self.tables[table as usize] = LockTable::new(config, &self.key, boot, self.now);
                self.judge.waits.retain(|(at, _), _| *at != table);
            }
        }
    }

    fn told(&mut self, table: u64, out: Vec<Output>) {
        for output in out {
            self.judge.said(self.now, table, &output);
            self.send(Event::ToHolder { table, output });
        }
        self.tables[table as usize].audit();
        if let Some(due) = self.tables[table as usize].due() {
            self.at(due - self.now, Event::Tick { table });
        }
    }

    fn run(&mut self) {
        let mut steps = 0u64;
        while let Some(((now, _), event)) = self.queue.pop_first() {
            self.now = now;
            self.perform(event);
            self.judge.look(now);
            steps += 1;
            assert!(steps < 3_000_000, "no end");
        }
        assert!(self.operations.is_empty() && self.to_do == 0, "somebody never got its locks");
        for table in &self.tables {
            assert_eq!(table.held(self.now).count(), 0, "locks are free at rest");
            assert_eq!(table.waiting(), 0);
        }
    }
}

#[test]
fn everybody_gets_its_locks_in_a_quiet_world() {
    let faults = Faults { loss: 0, twice: 0, deaths: 0, restarts: 0 };
    let (mut refusals, mut died, mut deep) = (0, 0, 0);
    for seed in 0..24 {
        let mut world = World::new(seed, 8, 60, faults);
        world.run();
        assert_eq!(world.finished, 60);
        refusals = refusals.max(world.refusals_max);
        died += world.tables.iter().map(|table| table.stats().died).sum::<u64>();
        deep = deep.max(world.judge.longest_circle_search);
        // Nobody has died, so nothing lapsed: whoever got locks gave them back.
        assert!(world.tables.iter().all(|table| table.stats().lapsed == 0));
    }
    println!("refused for age: {died}; most by one operation: {refusals}; chains of {deep}");
    assert!(died > 100 && deep >= 3, "the worlds test something");
}

#[test]
fn locks_outlive_neither_their_holders_nor_their_tables() {
    let faults = Faults { loss: 5, twice: 10, deaths: 10, restarts: 3 };
    let (mut lapsed, mut died) = (0, 0);
    for seed in 0..24 {
        let mut world = World::new(seed, 8, 60, faults);
        world.run();
        assert_eq!(world.finished + world.died, 60);
        died += world.died;
        lapsed += world.tables.iter().map(|table| table.stats().lapsed).sum::<u64>();
    }
    println!("operations that died: {died}; leases that lapsed: {lapsed}");
    assert!(died > 100 && lapsed > 100);
}
