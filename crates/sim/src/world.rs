//! The world: nodes, their disks and processes, the network, clients, and one queue of events.
//!
//! A process's outputs are performed strictly one at a time, and the disk operations of one of its
//! logs too; before any of them a fault may strike. Then a crash takes the rest away, and a pause
//! keeps it for later. A sync takes time, and what is written meanwhile by another process of the
//! node is not in it.

use crate::disk::{DiskFate, Fates, Losses, Reach, SimDisk, Unsafe};
use crate::judge::{Findings, Judge, Moment};
use crate::net::{Fate, Net, nanos};
use crate::plan::{Action, Damage, Fault, Plan, Signal, Trigger};
use crate::queue::{AnyQueue, Entry, Queue, QueueKind, Slab};
use crate::recording::{self, Doing, Happening, Point, Recording, Role};
use crate::report::Counters;
use crate::scenario::{Heals, Scenario, Share};
use crate::trace::{Trace, digest};
use crate::workload::Workload;
use base::prng::Key;
use base::{CoordinatorId, NodeName, Sequence, Time};
use node::work::{self, Change};
use node::{Config, Disks, Doubtful, Force, Input, Intervention, LogSlot, Message, Node};
use node::{Outcome, Output, RecoveryReport};
use saga::{Direction, Order, Output as SagaOutput, Saga, StepState, What as Ordered};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use twopc::Audit;
use wal_core::{Directory, DiskError, DiskOp, EventType, OpenMode, SegmentId};

/// Something that will happen, but for messages: those are in a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    SyncDone {
        process: u32,
        slot: LogSlot,
    },
    Wake {
        process: u32,
    },
    Fault,
    FaultEnds,
    Start {
        boot: u32,
    },
    Resume {
        process: u32,
    },
    Retire {
        process: u32,
    },
    Ask,
    NextWave,
    /// An operator looks at what its coordinator could not finish.
    Operate,
    Cancel,
    /// A client that was answered asks again.
    AskAgain {
        /// For something else, under the same key.
        other: bool,
    },
}

impl What {
    /// Its kind, and which process or boot it is about.
    fn parts(self) -> (u32, u32) {
        match self {
            Self::SyncDone { slot: LogSlot::Coordinator, process } => (2, process),
            Self::SyncDone { slot: LogSlot::Participant, process } => (3, process),
            Self::Wake { process } => (4, process),
            Self::Fault => (5, 0),
            Self::FaultEnds => (6, 0),
            Self::Start { boot } => (7, boot),
            Self::Resume { process } => (8, process),
            Self::Retire { process } => (9, process),
            Self::Ask => (10, 0),
            Self::NextWave => (11, 0),
            Self::Operate => (12, 0),
            Self::Cancel => (13, 0),
            Self::AskAgain { other } => (14, u32::from(other)),
        }
    }

    /// It as an entry's `what`.
    fn pack(self) -> u32 {
        let (kind, of) = self.parts();
        assert!(of <= NUMBER, "a node starts fewer than 2^27 times");
        kind << KIND_SHIFT | of
    }

    fn unpack(what: u32) -> What {
        let of = what & NUMBER;
        match what >> KIND_SHIFT {
            2 => Self::SyncDone { slot: LogSlot::Coordinator, process: of },
            3 => Self::SyncDone { slot: LogSlot::Participant, process: of },
            4 => Self::Wake { process: of },
            5 => Self::Fault,
            6 => Self::FaultEnds,
            7 => Self::Start { boot: of },
            8 => Self::Resume { process: of },
            9 => Self::Retire { process: of },
            10 => Self::Ask,
            11 => Self::NextWave,
            12 => Self::Operate,
            13 => Self::Cancel,
            14 => Self::AskAgain { other: of == 1 },
            kind => unreachable!("no event is of kind {kind}: `pack` makes none"),
        }
    }
}

/// The kind of a message's arrival, among those of other events.
const DELIVER: u64 = 1;
/// Of an entry's `what`: it is a message's place, not another event.
const IS_MESSAGE: u32 = 1 << 31;
const KIND_SHIFT: u32 = 27;
const NUMBER: u32 = (1 << KIND_SHIFT) - 1;

/// A message on its way: with its place in the slab, and its sender there, two lines of the cache.
#[derive(Clone, Debug)]
#[repr(C)]
struct Envelope {
    digest: u64,
    message: Message,
}

const _: () = assert!(size_of::<Envelope>() <= 120);

/// An empty one.
impl Default for Envelope {
    fn default() -> Self {
        Envelope { digest: 0, message: Message::Hello }
    }
}

/// Everything that is to come.
#[derive(Clone, Debug)]
struct Agenda {
    queue: AnyQueue,
    /// Each with its sender.
    messages: Slab<Envelope>,
    scheduled: u64,
}

impl Agenda {
    fn new(kind: QueueKind) -> Agenda {
        Agenda { queue: AnyQueue::new(kind), messages: Slab::default(), scheduled: 0 }
    }

    fn schedule(&mut self, at: Time, target: u32, what: What) {
        self.push(at, target, what.pack());
    }

    /// An envelope that arrives then, for a message to be put into.
    fn deliver(&mut self, at: Time, from: u32, to: u32, digest: u64) -> &mut Message {
        let (place, envelope) = self.messages.take(from);
        assert!(place < IS_MESSAGE, "fewer than 2^31 messages are on their way");
        self.scheduled += 1;
        self.queue.push(Entry { at, tie: self.scheduled, target: to, what: place | IS_MESSAGE });
        envelope.digest = digest;
        &mut envelope.message
    }

    fn push(&mut self, at: Time, target: u32, what: u32) {
        self.scheduled += 1;
        self.queue.push(Entry { at, tie: self.scheduled, target, what });
    }
}

/// What each of a process's logs is to be told: how its flush went.
type Heard = [Option<Result<(), DiskError>>; 2];

/// What one log's disk has still to do for a process.
#[derive(Clone, Debug, Default)]
struct Lane {
    ops: Option<std::vec::IntoIter<DiskOp>>,
    syncing: Option<Syncing>,
    /// Whether the log's lock was had when it was last asked for, at an epoch check.
    locked: bool,
}

/// A sync that is under way; `None`: of the directory.
#[derive(Clone, Copy, Debug)]
struct Syncing {
    segment: Option<SegmentId>,
    reach: Reach,
}

/// A running process of a node. A zombie is one too: a node may have several.
///
/// In this order, what every event looks at is together.
#[derive(Clone, Debug)]
#[repr(C)]
struct Process {
    node: Box<Node>,
    armed: Time,
    id: u32,
    boot: u32,
    recovery_ops: u32,
    /// While it stands still: see `held`.
    paused: bool,
    /// A disk fault has struck it: it has a reason to stop.
    stricken: bool,
    lanes: [Lane; 2],
    held: Held,
}

/// What only a fault makes a process hold.
#[derive(Clone, Debug, Default)]
struct Held {
    /// While it stands still: what it was about to do, and what waits for it.
    outputs: VecDeque<Output>,
    inputs: VecDeque<Input>,
    /// Appended and not yet durable, only while a fault waits for that.
    appended: Vec<(LogSlot, EventType, Sequence)>,
}

/// A node: its disks, and who runs there. What every event looks at comes first, in two lines of
/// the cache.
#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
struct Machine {
    zombies: Vec<Process>,
    /// Faults that wait for a signal of this node.
    armed: Vec<Armed>,
    /// Recovery operations at which it crashes again, the next one last.
    again: Vec<u32>,
    process: Option<Process>,
    disks: NodeDisks,
    syncs: u64,
    boots: u32,
    processes: u32,
    power_failures: u64,
    /// Whether a process that was replaced has recycled anything of each log since the newest started.
    recycled_behind: [bool; 2],
    clock: NodeClock,
    /// What is wrong with its disks, if anything ever was.
    ails: Option<Box<Ailing>>,
}

impl Machine {
    fn process(&mut self, id: u32) -> Option<&mut Process> {
        find(&mut self.process, &mut self.zombies, id)
    }

    fn is_watched(&self) -> bool {
        !self.armed.is_empty() || !self.again.is_empty()
    }
}

fn find<'a>(
    process: &'a mut Option<Process>,
    zombies: &'a mut [Process],
    id: u32,
) -> Option<&'a mut Process> {
    match process {
        Some(process) if process.id == id => Some(process),
        _ => zombies.iter_mut().find(|zombie| zombie.id == id),
    }
}

#[derive(Clone, Debug)]
struct Armed {
    entry: u32,
    signal: Signal,
    left: u32,
}

#[derive(Clone, Debug, Default)]
struct NodeDisks([SimDisk; 2], bool);

impl NodeDisks {
    /// What is there, whether it can be read or not.
    fn seen(&self, slot: LogSlot) -> &dyn Directory {
        &self.0[slot as usize]
    }
}

/// As its processes see them.
impl Disks for NodeDisks {
    fn directory(&self, slot: LogSlot) -> &dyn Directory {
        if self.1 { &Unreadable } else { self.seen(slot) }
    }
}

mod ailing;
mod observe;

use ailing::{Ailing, NodeClock, Unreadable, io_error};
pub use observe::{LogView, NodeView, Note};
use observe::{client, recovered_in_words};

const SLOTS: [LogSlot; 2] = [LogSlot::Coordinator, LogSlot::Participant];
/// A client whose request was refused for want of room asks again after this long.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// A process that stopped is started again after this long.
const DIED_PAUSE: Duration = Duration::from_millis(50);
/// How long a node is down that lost its power again while it recovered.
const AGAIN_DOWN: Duration = Duration::from_millis(20);
/// A zombie that has not noticed anything stops this long after it woke.
const ZOMBIE_LIFE: Duration = Duration::from_secs(2);
/// How often it is looked whether a wave has ended everywhere.
const WAVE_PAUSE: Duration = Duration::from_millis(10);
/// How often operators look at what waits for them.
const OPERATOR_PAUSE: Duration = Duration::from_millis(250);
/// How many events pass between two looks whether anything is left to do.
const QUIET_LOOK: u64 = 64;

/// One world, made of a scenario and a seed. A copy goes on as the world would have.
#[derive(Clone)]
pub struct World<'a> {
    scenario: &'a Scenario,
    seed: u64,
    plan: Plan,
    now: Time,
    agenda: Agenda,
    machines: Vec<Machine>,
    /// A node that owed something when it was last looked.
    owing: u32,
    net: Net,
    /// What the disks do to what is unsynced when the power fails.
    fates: Fates,
    disk_key: Key,
    power_key: Key,
    node_key: Key,
    /// The shortest and the longest that a sync takes, in nanoseconds.
    sync: (u64, u64),
    workload: Workload,
    judges: Vec<Box<dyn Judge>>,
    findings: Findings,
    counters: Counters,
    /// How long syncs took, by slot: for whoever watches.
    flushes: [base::Latency; 2],
    trace: Trace,
    struck: Vec<bool>,
    /// What happens, noted for people, if anybody wants to know.
    notes: Option<Vec<Note>>,
    /// How logs are opened: where a process may be replaced while it lives, its disk is shared.
    mode: OpenMode,
    /// Entries that have not struck, or that last.
    faults_open: u32,
    healed: bool,
    /// When something last went forward: a client was answered, a fault struck or ended.
    progress: Time,
    /// Until when faults are waited for.
    faults_until: Time,
    out: Vec<Output>,
    /// A client that asks again, and what it has heard since.
    listens: Option<(base::RequestKey, Vec<Outcome>)>,
    /// Nodes whose logs have rotted, and that do not come back.
    given_up: u32,
    recording: Option<Box<Recording>>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is left to do.
    Quiet,
    /// A judge objected.
    Violation,
    /// Faults are long healed, and something is still not done.
    NoProgress,
    /// The budget of events is used up.
    OutOfEvents,
}

impl<'a> World<'a> {
    /// A world at its beginning: every node is about to start.
    #[must_use]
    pub fn new(
        scenario: &'a Scenario,
        seed: u64,
        plan: Plan,
        judges: Vec<Box<dyn Judge>>,
    ) -> World<'a> {
        Self::with_queue(scenario, seed, plan, judges, QueueKind::default())
    }

    /// The same, its events in a queue of this kind.
    #[must_use]
    pub fn with_queue(
        scenario: &'a Scenario,
        seed: u64,
        plan: Plan,
        judges: Vec<Box<dyn Judge>>,
        queue: QueueKind,
    ) -> World<'a> {
        let root = Key::root(seed);
        let nodes = *scenario.cluster.nodes.get_ref();
        let disk_key = root.child("disk");
        let mut world = World {
            scenario,
            seed,
            now: Time::ZERO,
            agenda: Agenda::new(queue),
            machines: (0..nodes).map(|_| Machine::default()).collect(),
            owing: 0,
            fates: scenario.swarm.fates(&scenario.disk, seed),
            net: Net::new(
                &scenario.swarm.network(&scenario.network, seed),
                nodes,
                *scenario.cluster.regions.get_ref(),
                &root,
            ),
            disk_key,
            power_key: disk_key.child("power"),
            node_key: root.child("node"),
            sync: nanos(scenario.disk.sync),
            workload: Workload::new(scenario, &root),
            judges,
            findings: Findings::default(),
            counters: Counters::default(),
            flushes: Default::default(),
            trace: Trace::default(),
            struck: vec![false; plan.faults.len()],
            notes: None,
            mode: if plan.has_zombies() { OpenMode::TakeOver } else { OpenMode::Exclusive },
            faults_open: 0,
            healed: false,
            progress: Time::ZERO,
            faults_until: plan.last_moment() + scenario.liveness.budget.0,
            out: Vec::new(),
            listens: None,
            given_up: 0,
            recording: None,
            plan,
        };
        for node in 0..nodes {
            world.agenda.schedule(Time::ZERO, node, What::Start { boot: 0 });
            world.machines[node as usize].clock = scenario.clock.of(&root, node);
        }
        let forces = scenario.workload.forces != Share::default();
        if scenario.node.undo_attempts > 0 || forces {
            let watched = match forces {
                true => nodes,
                false => *scenario.cluster.coordinators.get_ref(),
            };
            for node in 0..watched {
                world.agenda.schedule(Time::ZERO + OPERATOR_PAUSE, node, What::Operate);
            }
        }
        for entry in 0..world.plan.faults.len() as u32 {
            world.arm(entry);
        }
        world
    }

    /// Writes down what happens from now on.
    pub fn record(&mut self, recording: Recording) {
        self.recording = Some(Box::new(recording));
    }

    /// What was written down; nothing if nobody asked.
    pub fn recording(&mut self) -> Recording {
        let Some(mut recording) = self.recording.take() else { return Recording::default() };
        if recording.wants_happenings() {
            let lines =
                |disks: &NodeDisks| SLOTS.map(|slot| recording::log_lines(disks.seen(slot)));
            recording.logs = self.machines.iter().map(|machine| lines(&machine.disks)).collect();
        }
        *recording
    }

    /// Something happened: for the record, if it is wanted.
    #[inline]
    fn happened(&mut self, what: impl FnOnce() -> Happening) {
        if let Some(recording) = &mut self.recording
            && recording.wants_happenings()
        {
            let moment = Moment { now: self.now, event: self.trace.events() };
            recording.happenings.push((moment, what()));
        }
    }

    /// Runs until nothing is left to do, a judge objects, or it takes too long.
    pub fn run(&mut self) -> Ending {
        let ending = loop {
            if let Some(ending) = self.step() {
                break ending;
            }
        };
        self.end(ending)
    }

    /// Lets the next event happen.
    fn step(&mut self) -> Option<Ending> {
        if !self.findings.violations.is_empty() {
            return Some(Ending::Violation);
        }
        // An event counts from when it is scheduled, so that the budget bounds memory too.
        if self.agenda.scheduled >= self.scenario.budget.events {
            return Some(Ending::OutOfEvents);
        }
        let Some(entry) = self.agenda.queue.pop() else {
            // Nothing will ever happen again: done, or stuck for good.
            let done = self.workload.is_done() && self.nothing_is_owed();
            return Some(if done { Ending::Quiet } else { Ending::NoProgress });
        };
        assert!(entry.at >= self.now, "time does not go back");
        self.now = entry.at;
        if self.notes.is_some() {
            self.note_event(&entry);
        }
        if entry.what & IS_MESSAGE == 0 {
            let kind = u64::from(entry.what >> KIND_SHIFT);
            self.trace.event(self.now.as_nanos(), kind << 32 | u64::from(entry.target));
            self.happen(entry.target, What::unpack(entry.what));
        } else {
            let place = entry.what ^ IS_MESSAGE;
            self.trace.event(self.now.as_nanos(), DELIVER << 32 | u64::from(entry.target));
            self.trace.word(self.agenda.messages.get(place).1.digest);
            if self.recording.is_some() {
                self.note_arrival(entry, place);
            }
            self.arrive(entry.target, place);
        }
        if self.trace.events().is_multiple_of(QUIET_LOOK) {
            return self.look();
        }
        None
    }

    /// Looks up from the events now and then: are faults over, is everything done, does nothing go
    /// on?
    fn look(&mut self) -> Option<Ending> {
        let faults_over = self.faults_open == 0 || self.now > self.faults_until;
        let done = self.workload.is_done() && self.may_heal();
        if !self.healed && (done || faults_over && self.plan.is_not_empty()) {
            self.heal();
        }
        if self.healed && self.workload.is_done() && self.nothing_is_owed() {
            return Some(Ending::Quiet);
        }
        let patience = self.scenario.liveness.budget.0;
        let over = self.healed || faults_over;
        if over && self.given_up > 0 {
            // What is left waits for people.
            return Some(Ending::NoProgress);
        }
        (over && self.now > self.progress + patience).then_some(Ending::NoProgress)
    }

    /// Every client has its answer: is that all that faults wait for?
    fn may_heal(&mut self) -> bool {
        if self.healed || self.scenario.liveness.heals == Heals::Answered {
            return true;
        }
        let is_written = |log: &wal_core::Log| log.durable() == log.last();
        self.nothing_is_owed()
            && self.machines.iter().all(|machine| {
                machine.process.as_ref().is_some_and(|process| {
                    process.node.coordinator().is_none_or(|engine| is_written(engine.log()))
                        && process.node.participant().is_none_or(|host| is_written(host.log()))
                })
            })
    }

    /// No fault strikes any more, and those that last end.
    fn heal(&mut self) {
        self.healed = true;
        self.progress = self.now;
        self.net.heal();
        for node in 0..self.machines.len() as u32 {
            self.ends_at(node, Ailing::heals);
        }
        for machine in &mut self.machines {
            machine.armed.clear();
            machine.again.clear();
        }
    }

    fn end(&mut self, ending: Ending) -> Ending {
        if ending != Ending::Violation {
            let moment = self.moment();
            let nodes: Vec<Option<&Node>> = self
                .machines
                .iter()
                .map(|machine| machine.process.as_ref().map(|process| &*process.node))
                .collect();
            for judge in &mut self.judges {
                judge.ended(moment, &nodes, &mut self.findings);
            }
        }
        if ending == Ending::Quiet && !self.findings.violations.is_empty() {
            return Ending::Violation;
        }
        ending
    }

    /// What happened, counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.events = self.trace.events();
        counters.simulated = self.now - Time::ZERO;
        counters.net = self.net.losses;
        counters.unanswered =
            *self.scenario.workload.operations.get_ref() - self.workload.answers();
        for judge in &self.judges {
            judge.observed(&mut counters.sometimes);
        }
        counters
    }

    /// What the judges found.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The hash of everything that happened.
    #[must_use]
    pub fn hash(&self) -> u128 {
        self.trace.hash()
    }

    /// Where the run is.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { now: self.now, event: self.trace.events() }
    }

    /// The entries of the plan that never struck.
    pub fn never_struck(&self) -> impl Iterator<Item = (usize, &Fault)> {
        self.plan.faults.iter().enumerate().filter(|(entry, _)| !self.struck[*entry])
    }

    /// What has not ended, for people.
    #[must_use]
    pub fn unfinished(&self) -> String {
        let mut found = Vec::new();
        for (node, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else {
                found.push(format!("n{node} is down"));
                continue;
            };
            if !process.node.is_ready() {
                found.push(format!("n{node} recovers"));
            }
            if !machine.zombies.is_empty() {
                found.push(format!("n{node} has a zombie"));
            }
            if let Some(engine) = process.node.coordinator() {
                for tx in engine.active_transactions() {
                    found.push(format!("n{node}: transaction {} is {}", tx.id(), tx.state()));
                }
                for saga in engine.active_sagas() {
                    found.push(format!("n{node}: saga {} is {}", saga.id(), saga.phase().name()));
                }
            }
            if let Some(host) = process.node.participant() {
                for (key, _) in host.participant().prepared() {
                    found.push(format!("n{node}: prepared for transaction {}", key.tx.id));
                }
                for (cell, grant) in host.locks().held(self.now) {
                    let mut prepared = host.participant().prepared();
                    let holder = prepared.find(|(_, at)| *at == grant.holder);
                    let holder = holder.map(|(key, _)| format!("transaction {}", key.tx.id));
                    let holder = holder.unwrap_or_else(|| "nobody that waits".into());
                    found.push(format!("n{node}: cell {cell} is locked for {holder}"));
                }
            }
        }
        let more = found.len().saturating_sub(5);
        found.truncate(5);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        format!("{}{more}", found.join("; "))
    }

    fn nothing_is_owed(&mut self) -> bool {
        // Who owed something when it was last looked mostly still does.
        if !self.owes_nothing(self.owing) {
            return false;
        }
        let owing = (0..self.machines.len() as u32).find(|node| !self.owes_nothing(*node));
        self.owing = owing.unwrap_or(0);
        owing.is_none()
    }

    fn owes_nothing(&self, node: u32) -> bool {
        let machine = &self.machines[node as usize];
        machine.zombies.is_empty()
            && machine.process.as_ref().is_some_and(|process| {
                let node = &process.node;
                !process.paused
                    && node.is_ready()
                    && node.coordinator().is_none_or(|engine| engine.active() == 0)
                    && node.participant().is_none_or(|host| {
                        host.participant().prepared().next().is_none()
                            && host.participant().unsettled().next().is_none()
                            && host.locks().held(self.now).next().is_none()
                    })
            })
    }

    fn note_arrival(&mut self, entry: Entry, place: u32) {
        let (copy, to) = (entry.tie, entry.target);
        let (from, Envelope { message, .. }) = self.agenda.messages.get(place);
        let kind = message.kind();
        let process = self.machines[to as usize].process.as_ref();
        let heard = process.is_some_and(|process| !process.paused);
        self.happened(|| Happening::Arrived { copy, from, to, kind, heard });
    }

    fn arrive(&mut self, to: u32, place: u32) {
        self.counters.delivered += 1;
        let machine = &mut self.machines[to as usize];
        match &mut machine.process {
            Some(process) if !process.paused && machine.zombies.is_empty() => {
                // The message stays where it is while the node reads it.
                let (from, Envelope { message, .. }) = self.agenda.messages.get(place);
                let from = NodeName::numbered(u64::from(from));
                let mut out = std::mem::take(&mut self.out);
                let shown = machine.clock.shows(self.now);
                process.node.receive(shown, from, message, &mut out);
                self.agenda.messages.free(place);
                let id = process.id;
                self.go_on(to, id, out);
            }
            process => {
                let id = process.as_ref().map(|process| process.id);
                let (from, _) = self.agenda.messages.get(place);
                let envelope = std::mem::take(self.agenda.messages.get_mut(place));
                self.agenda.messages.free(place);
                let from = NodeName::numbered(u64::from(from));
                self.zombies_hear(to, from, &envelope.message);
                match id {
                    Some(id) => {
                        let message = envelope.message;
                        self.feed(to, id, Input::Message { from, message });
                    }
                    None => self.counters.to_nobody += 1,
                }
            }
        }
    }

    /// A zombie that has woken still has its connections: it hears what the node hears.
    fn zombies_hear(&mut self, node: u32, from: NodeName, message: &Message) {
        let zombies = &self.machines[node as usize].zombies;
        let awake = zombies.iter().filter(|zombie| !zombie.paused).map(|zombie| zombie.id);
        for id in awake.collect::<Vec<u32>>() {
            self.feed(node, id, Input::Message { from, message: message.clone() });
        }
    }

    fn happen(&mut self, target: u32, what: What) {
        match what {
            What::SyncDone { process, slot } => self.sync_done(target, process, slot),
            What::Wake { process } => {
                let now = self.now;
                let clock = self.machines[target as usize].clock;
                let Some(running) = self.machines[target as usize].process(process) else { return };
                // Of several timers that were set, the one that counts is the one that was set
                // last.
                if running.armed != now {
                    return;
                }
                running.armed = Time::NEVER;
                match running.node.next_wake() {
                    Some(due) if due > clock.shows(now) => self.arm_timer(target, process),
                    Some(_) => self.feed(target, process, Input::Wake),
                    None => {}
                }
            }
            What::Fault => self.strike(target),
            What::FaultEnds => {
                self.net.unblock(target);
                if let Some(node) = self.plan.faults[target as usize].action.node() {
                    self.ends_at(node, |ails| ails.ends(target));
                }
                self.fault_is_over();
            }
            What::Start { boot } => {
                // Of several starts that are due, the first one counts.
                let machine = &self.machines[target as usize];
                if machine.boots == boot && machine.process.is_none() {
                    self.start(target);
                }
                if boot > 0 {
                    self.fault_is_over();
                }
            }
            What::Resume { process } => {
                self.resume(target, process);
                self.fault_is_over();
            }
            What::Retire { process } => {
                let zombies = &mut self.machines[target as usize].zombies;
                let before = zombies.len();
                zombies.retain(|zombie| zombie.id != process);
                self.counters.zombies_retired += (before - zombies.len()) as u64;
                self.fault_is_over();
            }
            What::Ask => self.ask(target),
            What::NextWave => self.clients_go_on(),
            What::Operate => self.operate(target),
            What::Cancel => self.cancel(target),
            What::AskAgain { other } => self.ask_again(target, other),
        }
    }

    // ---- processes ----

    fn start(&mut self, node: u32) {
        let config = self.config(node);
        let machine = &mut self.machines[node as usize];
        machine.boots += 1;
        machine.processes += 1;
        machine.recycled_behind = [false; 2];
        let (id, boot) = (machine.processes, machine.boots);
        let mut out = std::mem::take(&mut self.out);
        let shown = machine.clock.shows(self.now);
        let running = Node::start(config, self.mode, shown, &machine.disks, &mut out);
        machine.process = Some(Process {
            node: Box::new(running),
            armed: Time::NEVER,
            id,
            boot,
            recovery_ops: 0,
            paused: false,
            stricken: false,
            lanes: Default::default(),
            held: Held::default(),
        });
        if boot > 1 {
            self.counters.restarts += 1;
        }
        self.happened(|| Happening::Started { node, boot });
        self.go_on(node, id, out);
    }

    fn config(&self, node: u32) -> Config {
        let scenario = self.scenario;
        let name = NodeName::numbered(u64::from(node));
        let key = self.node_key.keyed(u64::from(node));
        let boots = self.machines[node as usize].boots;
        // Its engine's key is its own, and made only where there is an engine.
        let mut config = Config::both(name, key.draw(0, 0).u64(), key);
        let unix_ms_at_zero = 1_700_000_000_000 + self.machines[node as usize].clock.calendar_ms;
        if node < *scenario.cluster.coordinators.get_ref() {
            let engine = config
                .coordinator
                .get_or_insert_with(|| coordinator::Config::new(CoordinatorId(name.0), key));
            engine.key = key.child("engine").keyed(u64::from(boots));
            engine.resend_after = scenario.node.resend.0;
            engine.prepare_timeout = scenario.node.prepare_timeout.0;
            engine.step_timeout = scenario.node.step_timeout.0;
            engine.saga_timeout = scenario.node.saga_timeout.0;
            engine.undo_attempts_max = match scenario.node.undo_attempts {
                0 => u32::MAX,
                attempts => attempts,
            };
            engine.jitter_percent = scenario.node.jitter_percent;
            // Nothing here gives more than a number, and some logs take little more.
            engine.output_bytes_max = 8;
            engine.unix_ms_at_zero = unix_ms_at_zero;
        } else {
            config.coordinator = None;
        }
        if let Some(host) = &mut config.participant {
            host.inquire_after = scenario.node.inquire.0;
            host.unix_ms_at_zero = unix_ms_at_zero;
        }
        config.log = scenario.disk.log();
        config
    }

    /// Gives a process an input, and performs what it wants.
    fn feed(&mut self, node: u32, id: u32, input: Input) {
        let machine = &mut self.machines[node as usize];
        let Some(process) = find(&mut machine.process, &mut machine.zombies, id) else { return };
        if process.paused {
            process.held.inputs.push_back(input);
            return;
        }
        let flushed = flushed_slot(&input);
        let mut out = std::mem::take(&mut self.out);
        process.node.handle(machine.clock.shows(self.now), input, &machine.disks, &mut out);
        if let Some(slot) = flushed
            && (machine.is_watched() || self.recording.is_some())
        {
            self.signals_durable(node, id, slot);
        }
        self.go_on(node, id, out);
    }

    /// Performs a process's outputs one by one. A fault may strike before any of them; then what is
    /// left of them never happens, or later. What a process hears meanwhile (a write that needs no
    /// sync is done at once) it hears afterwards.
    fn go_on(&mut self, node: u32, id: u32, mut out: Vec<Output>) {
        let mut heard: Heard = [None, None];
        loop {
            if self.is_watched(node) {
                self.perform_watched(node, id, &mut out, &mut heard);
            } else {
                for output in &mut out {
                    let goes_on = match output {
                        Output::Send { to, message } => {
                            self.send(node, to.number() as u32, message);
                            true
                        }
                        // Nobody waits for it.
                        Output::Appended { .. } => true,
                        output => self.perform(node, id, output, &mut heard),
                    };
                    if !goes_on {
                        break;
                    }
                }
            }
            out.clear();
            let Some(slot) = SLOTS.into_iter().find(|slot| heard[*slot as usize].is_some()) else {
                break;
            };
            let Some(result) = heard[slot as usize].take() else { break };
            let machine = &mut self.machines[node as usize];
            let now = self.now;
            let Some(process) = find(&mut machine.process, &mut machine.zombies, id) else { break };
            let done = result.is_ok();
            let input = Input::Flushed { slot, result };
            if process.paused {
                process.held.inputs.push_back(input);
                continue;
            }
            process.node.handle(machine.clock.shows(now), input, &machine.disks, &mut out);
            if done && (machine.is_watched() || self.recording.is_some()) {
                self.signals_durable(node, id, slot);
            }
        }
        self.out = out;
        self.arm_timer(node, id);
    }

    /// Performs the outputs of a process for which a fault waits.
    fn perform_watched(&mut self, node: u32, id: u32, out: &mut Vec<Output>, heard: &mut Heard) {
        for at in 0..out.len() {
            // A fault may strike before the output, or has struck with the one before.
            self.signals(node, id, &out[at]);
            match self.machines[node as usize].process(id) {
                None => break,
                Some(process) if process.paused => {
                    process.held.outputs.extend(out.drain(at..));
                    break;
                }
                Some(_) => {}
            }
            if !self.perform(node, id, &mut out[at], heard) {
                break;
            }
        }
    }

    fn arm_timer(&mut self, node: u32, id: u32) {
        let now = self.now;
        let clock = self.machines[node as usize].clock;
        let Some(process) = self.machines[node as usize].process(id) else { return };
        if let Some(wake) = process.node.next_wake() {
            let wake = clock.comes_to(wake).max(now);
            if wake < process.armed {
                process.armed = wake;
                self.agenda.schedule(wake, node, What::Wake { process: id });
            }
        }
    }

    /// A process that stood still goes on: first with what it was about to do.
    fn resume(&mut self, node: u32, id: u32) {
        let Some(process) = self.machines[node as usize].process(id) else { return };
        process.paused = false;
        self.happened(|| Happening::Resumed { node });
        let Some(process) = self.machines[node as usize].process(id) else { return };
        let held: Vec<Output> = std::mem::take(&mut process.held.outputs).into();
        for slot in SLOTS {
            if let Some(result) = self.disk_goes_on(node, id, slot)
                && let Some(process) = self.machines[node as usize].process(id)
            {
                process.held.inputs.push_back(Input::Flushed { slot, result });
            }
        }
        self.go_on(node, id, held);
        while let Some(process) = self.machines[node as usize].process(id)
            && !process.paused
            && let Some(input) = process.held.inputs.pop_front()
        {
            self.feed(node, id, input);
        }
    }

    /// Performs an output; a message is taken out of it. False if the process is no more, and with
    /// it what else it wanted.
    fn perform(&mut self, node: u32, id: u32, output: &mut Output, heard: &mut Heard) -> bool {
        match output {
            Output::Send { to, message } => self.send(node, to.number() as u32, message),
            Output::Appended { slot, event, sequence } => {
                let (role, event_, sequence_) = (Role::of(*slot), *event, sequence.0);
                self.happened(|| Happening::Appended {
                    node,
                    role,
                    event: event_,
                    sequence: sequence_,
                });
                let machine = &mut self.machines[node as usize];
                let waits = self.recording.is_some()
                    || machine.armed.iter().any(|armed| matches!(armed.signal, Signal::Durable(_)));
                if waits && let Some(process) = machine.process(id) {
                    process.held.appended.push((*slot, *event, *sequence));
                }
            }
            Output::Disk { slot, ops } => {
                let recycles = ops.iter().any(|op| matches!(op, DiskOp::Retire(_)));
                self.counters.compactions += u64::from(recycles);
                let slot = *slot;
                let Some(process) = self.machines[node as usize].process(id) else { return false };
                let lane = &mut process.lanes[slot as usize];
                assert!(lane.ops.is_none(), "a log has one flush in flight");
                lane.ops = Some(std::mem::take(ops).into_iter());
                heard[slot as usize] = self.disk_goes_on(node, id, slot);
            }
            Output::Reply { key, outcome } => {
                let zombie =
                    self.machines[node as usize].process.as_ref().is_none_or(|p| p.id != id);
                if zombie && !is_a_promise(outcome) {
                    // Nobody listens to it any more: its clients ask the successor. But what it
                    // promises must be true all the same.
                    return true;
                }
                self.reply(key, outcome);
            }
            Output::Recovered { slot, report } => self.recovered(node, *slot, report),
            // Its operator looks from time to time: see `operate`.
            Output::Parked { .. } | Output::Heuristic { .. } => {}
            Output::Intervened(told) => {
                let moment = self.moment();
                for judge in &mut self.judges {
                    judge.intervened(moment, node, told, &mut self.findings);
                }
            }
            Output::Operated(told) => {
                let moment = self.moment();
                for judge in &mut self.judges {
                    judge.operated(moment, node, told, &mut self.findings);
                }
            }
            Output::Died { slot, reason } => self.died(node, id, *slot, reason),
        }
        true
    }

    fn recovered(&mut self, node: u32, slot: LogSlot, report: &RecoveryReport) {
        let moment = self.moment();
        let machine = &self.machines[node as usize];
        let disk = machine.disks.seen(slot);
        for judge in &mut self.judges {
            let recycled = machine.recycled_behind[slot as usize];
            judge.recovered(moment, node, slot, report, disk, recycled, &mut self.findings);
        }
        if let Some(recording) = &mut self.recording
            && recording.wants_happenings()
        {
            let (role, records) = (Role::of(slot), report.scanned.records);
            let (found, truth) = (recording::found(report), recording::truth(role, disk));
            let what = Happening::Recovered { node, role, records, found, truth };
            recording.happenings.push((moment, what));
        }
        // Every changed bit is reported. (Where a process may be replaced, some bytes count for nothing.)
        let is_told = !report.scanned.corruption.is_empty();
        let rotten = machine.ails.as_ref().is_some_and(|ails| {
            let of = |(of, segment, _): &&(LogSlot, SegmentId, u64)| {
                *of == slot && machine.disks.0[slot as usize].holds(*segment)
            };
            ails.rotten.iter().any(|bit| of(&bit))
        });
        if rotten && !is_told && self.mode == OpenMode::Exclusive {
            let what = format!(
                "n{node} recovers its {slot:?} log, and does not say that something of it has changed"
            );
            self.findings.object("G7", moment, what);
        }
        let boot = machine.boots;
        let ready = machine.process.as_ref().is_some_and(|p| p.node.is_ready());
        self.counters.recovered(slot, boot, report);
        self.note(Some(node), || recovered_in_words(slot, report));
        if ready {
            self.forget_again(node);
        }
        if slot == LogSlot::Coordinator {
            let unanswered: Vec<u32> = self.workload.unanswered(node).collect();
            for operation in unanswered {
                self.agenda.schedule(self.now, operation, What::Ask);
            }
            let answered: Vec<u32> = self.workload.answered_by(node).collect();
            for operation in answered {
                self.will_ask_again(operation, boot);
            }
            self.clients_go_on();
        }
    }

    fn send(&mut self, from: u32, to: u32, message: &mut Message) {
        let moment = self.moment();
        for judge in &mut self.judges {
            judge.sent(moment, from, to, message, &mut self.findings);
        }
        self.counters.sent += 1;
        let digest = digest(message);
        let Fate { first, second } = self.net.send(self.now, from, to, message.kind(), digest);
        if self.notes.is_some() {
            self.note_sent(from, to, message, Fate { first, second });
        }
        let (before, kind) = (self.agenda.scheduled, message.kind());
        let about = self.recording.as_ref().and_then(|_| recording::about(message));
        if let Some(at) = second {
            self.agenda.deliver(at, from, to, digest).clone_from(message);
        }
        if let Some(at) = first {
            std::mem::swap(self.agenda.deliver(at, from, to, digest), message);
        }
        self.happened(|| {
            let arrives = [second, first].into_iter().flatten().zip(before + 1..);
            let arrives = arrives.map(|(at, copy)| (copy, at)).collect();
            Happening::Sent { from, to, kind, about, arrives }
        });
    }

    fn reply(&mut self, key: &base::RequestKey, outcome: &Outcome) {
        if let Some((of, heard)) = &mut self.listens
            && of == key
        {
            heard.push(outcome.clone());
        }
        if let Outcome::Refused(_) = outcome {
            // Too busy: the client waits and asks again.
            if let Some(operation) = Workload::operation_of(key) {
                self.agenda.schedule(self.now + REFUSED_PAUSE, operation, What::Ask);
            }
            return;
        }
        let moment = self.moment();
        for judge in &mut self.judges {
            judge.replied(moment, key, outcome, &mut self.findings);
        }
        let for_ever = is_a_promise(outcome) || *outcome == Outcome::SagaAborted;
        if let Some(operation) = self.workload.answered(key, for_ever) {
            self.will_ask_again(operation, 0);
            self.note(None, || format!("{} hears {outcome:?}", client(key)));
            self.happened(|| Happening::Told { operation, outcome: format!("{outcome:?}") });
            self.counters.answers.count(outcome);
            self.progress = self.now;
            self.clients_go_on();
        }
    }

    /// A process says that it must stop. Its node starts again, unless a successor runs already.
    fn died(&mut self, node: u32, id: u32, slot: LogSlot, reason: &str) {
        self.counters.died += 1;
        self.note(Some(node), || format!("process {id} stops: {reason}"));
        self.happened(|| Happening::Stopped { node, reason: reason.to_owned() });
        self.trace.word(slot as u64);
        let moment = self.moment();
        let machine = &mut self.machines[node as usize];
        if machine.process.as_ref().is_some_and(|process| process.id == id) {
            // A zombie that goes on opening the log takes it over in turn.
            let fenced = self.mode == OpenMode::TakeOver
                && ["another writer", "already exists"].iter().any(|word| reason.contains(word));
            let stricken = machine.process.as_ref().is_some_and(|process| process.stricken);
            let unreadable = machine.disks.1;
            let ails = machine.ails.as_deref();
            let rotten = ails.is_some_and(|ails| ails.has_rotten(&machine.disks));
            let causes = ails.map_or_else(Vec::new, |ails| ails.read_errors.clone());
            if unreadable && !stricken {
                causes.into_iter().for_each(|entry| self.took_effect(entry));
            }
            let machine = &mut self.machines[node as usize];
            if !fenced && !stricken && !unreadable && !rotten {
                // Its disk is well, and nobody else has its log: it had no reason to stop.
                let what = format!("n{node} stops without need: {reason}");
                self.findings.object("G21", moment, what);
            }
            machine.process = None;
            let boot = machine.boots;
            if rotten && !stricken && !unreadable {
                // It is for people to say what becomes of such a log.
                self.given_up += 1;
                return;
            }
            self.faults_open += 1;
            self.agenda.schedule(self.now + DIED_PAUSE, node, What::Start { boot });
        } else {
            machine.zombies.retain(|zombie| zombie.id != id);
            self.counters.zombies_fenced += 1;
        }
    }

    // ---- disks ----

    /// Performs a log's disk operations in order, until a sync has to be waited for. The result,
    /// once the last is done or one has failed.
    fn disk_goes_on(&mut self, node: u32, id: u32, slot: LogSlot) -> Option<Result<(), DiskError>> {
        loop {
            let watched = self.is_watched(node);
            if watched {
                self.signals_next_op(node, id, slot);
            }
            let Machine { process, zombies, disks, syncs, recycled_behind, ails, .. } =
                &mut self.machines[node as usize];
            let replaced = process.as_ref().is_some_and(|process| process.id != id);
            // The lock is the oldest process's, as long as that lives.
            let older = process.iter().chain(zombies.iter()).any(|other| other.id < id);
            let process = find(process, zombies, id)?;
            let lane = &mut process.lanes[slot as usize];
            if process.paused || lane.syncing.is_some() {
                return None;
            }
            let disk = &mut disks.0[slot as usize];
            let ops = lane.ops.as_mut()?;
            let segment = loop {
                let Some(op) = ops.next() else {
                    lane.ops = None;
                    return Some(Ok(()));
                };
                self.trace.word(OpKind::of(&op) as u64);
                if let DiskOp::CheckEpoch { .. } = op {
                    lane.locked = !older;
                }
                match op {
                    DiskOp::Sync(segment) => break Some(Some(segment)),
                    DiskOp::SyncDirectory => break Some(None),
                    DiskOp::Retire(_) | DiskOp::Blank(_) if !lane.locked => {}
                    op => {
                        let (retires, blanks) =
                            (matches!(op, DiskOp::Retire(_)), matches!(op, DiskOp::Blank(_)));
                        self.counters.segments_recycled += u64::from(retires);
                        recycled_behind[slot as usize] |= retires && replaced;
                        let refused = ails.as_mut().and_then(|ails| ails.refuses(&op, disk));
                        if let Some((entry, error)) = refused {
                            lane.ops = None;
                            process.stricken = true;
                            self.took_effect(entry);
                            return Some(Err(error));
                        }
                        let done = disk.perform(op);
                        if blanks && self.mode == OpenMode::TakeOver {
                            disk.reuse_nothing();
                        }
                        if done.is_err() {
                            lane.ops = None;
                            return Some(done);
                        }
                    }
                }
                if watched {
                    break None;
                }
            };
            if let Some(segment) = segment {
                lane.syncing = Some(Syncing { segment, reach: disk.begin_sync() });
                *syncs += 1;
                let draw = self.disk_key.draw(u64::from(node) << 1 | slot as u64, *syncs);
                let mut at =
                    self.now + Duration::from_nanos(draw.between(self.sync.0, self.sync.1));
                let stalls = ails.as_ref().map_or(&[][..], |ails| &ails.stalls);
                if let Some((entry, until)) = stalls.iter().max_by_key(|(_, until)| *until)
                    && *until > at
                {
                    at = *until;
                    let entry = *entry;
                    self.took_effect(entry);
                }
                self.counters.syncs += 1;
                self.flushes[slot as usize].observe(at.since(self.now));
                self.agenda.schedule(at, node, What::SyncDone { process: id, slot });
                return None;
            }
        }
    }

    /// A fault may strike before the next disk operation of a log.
    fn signals_next_op(&mut self, node: u32, id: u32, slot: LogSlot) {
        let Some(process) = self.machines[node as usize].process(id) else { return };
        let lane = &process.lanes[slot as usize];
        if process.paused || lane.syncing.is_some() {
            return;
        }
        let next = lane.ops.as_ref().and_then(|ops| ops.as_slice().first());
        if let Some(kind) = next.map(OpKind::of) {
            self.signals_op(node, id, slot, kind);
        }
    }

    fn sync_done(&mut self, node: u32, id: u32, slot: LogSlot) {
        let moment = self.moment();
        let machine = &mut self.machines[node as usize];
        let Some(process) = machine.process(id) else { return };
        let Some(sync) = process.lanes[slot as usize].syncing.take() else { return };
        if machine.ails.as_ref().is_some_and(|ails| !ails.sync_errors.is_empty()) {
            self.sync_fails(node, id, slot, sync);
            return;
        }
        let disk = &mut machine.disks.0[slot as usize];
        match sync.segment {
            Some(segment) => {
                disk.synced(segment, sync.reach);
                let disk = disk.durable();
                for judge in &mut self.judges {
                    judge.synced(moment, node, slot, segment, disk, &mut self.findings);
                }
            }
            None => disk.directory_synced(sync.reach),
        }
        if let Some(result) = self.disk_goes_on(node, id, slot) {
            self.feed(node, id, Input::Flushed { slot, result });
        }
    }

    /// A sync has failed: what it was to reach meets the fates of a power failure, and nobody says so
    /// again.
    fn sync_fails(&mut self, node: u32, id: u32, slot: LogSlot, sync: Syncing) {
        let fates = self.fates;
        let key = self.disk_key.child("failure").keyed(u64::from(node) << 1 | slot as u64);
        let machine = &mut self.machines[node as usize];
        let syncs = machine.syncs;
        let entry = machine.ails.as_mut().and_then(|ails| ails.sync_errors.pop());
        if let Some(segment) = sync.segment {
            let dropped = key.draw(syncs, u64::MAX).below(2) == 0;
            let disk = &mut machine.disks.0[slot as usize];
            let draw = |serial| key.draw(syncs, serial);
            let losses = disk.sync_failed(segment, sync.reach, dropped, fates, draw);
            self.counters.disk_losses(losses);
            if losses != Losses::default() {
                // Whoever has just read there sees it change.
                let all = machine.process.iter_mut().chain(&mut machine.zombies);
                all.for_each(|process| process.stricken = true);
            }
        }
        if let Some(process) = machine.process(id) {
            process.stricken = true;
            process.lanes[slot as usize].ops = None;
        }
        if let Some(entry) = entry {
            self.took_effect(entry);
        }
        let result = Err(io_error("the sync fails").into());
        self.feed(node, id, Input::Flushed { slot, result });
    }

    // ---- clients ----

    fn clients_go_on(&mut self) {
        while let Some(operation) = self.workload.start() {
            self.agenda.schedule(self.now, operation, What::Ask);
        }
        if self.workload.wave_is_answered() {
            // The wave has ended everywhere once nothing is owed; until then, look again.
            if self.nothing_is_owed() {
                self.workload.next_wave();
                self.clients_go_on();
            } else {
                self.agenda.schedule(self.now + WAVE_PAUSE, 0, What::NextWave);
            }
        }
    }

    fn ask(&mut self, operation: u32) {
        if !self.workload.is_waiting(operation) {
            return;
        }
        let node = self.workload.coordinator(operation);
        let Some(process) = &self.machines[node as usize].process else { return };
        if process.node.coordinator().is_none() {
            // It recovers: clients ask again once it has.
            return;
        }
        let id = process.id;
        let request = self.workload.request(operation);
        let moment = self.moment();
        for judge in &mut self.judges {
            judge.submitted(moment, node, &request);
        }
        self.happened(|| Happening::Asked { operation, node });
        self.feed(node, id, Input::Submit(request));
        if let Some(after) = self.workload.cancels_after(operation) {
            self.agenda.schedule(self.now + after, operation, What::Cancel);
        }
    }

    fn will_ask_again(&mut self, operation: u32, time: u32) {
        if let Some((after, other)) = self.workload.asks_again_after(operation, time) {
            self.agenda.schedule(self.now + after, operation, What::AskAgain { other });
        }
    }

    /// A client that was answered asks again, perhaps for something else under the same key: it hears the
    /// same, or that the key is taken, at once.
    fn ask_again(&mut self, operation: u32, other: bool) {
        let node = self.workload.coordinator(operation);
        let Some(process) = &self.machines[node as usize].process else { return };
        if process.paused || process.node.coordinator().is_none() {
            return;
        }
        let id = process.id;
        // What was not told for ever may be forgotten, and then the other request would be the first one.
        let other = other && self.workload.is_answered_for_ever(operation);
        let request = if other {
            let Some(request) = self.workload.another_request(operation) else { return };
            request
        } else {
            self.workload.request(operation)
        };
        let key = request.key.clone();
        self.listens = Some((key.clone(), Vec::new()));
        self.feed(node, id, Input::Submit(request));
        let heard = self.listens.take().map_or_else(Vec::new, |(_, heard)| heard);
        let process = self.machines[node as usize].process.as_ref();
        // A fault may have struck before the answer left.
        if process.is_some_and(|process| process.id == id && !process.paused) {
            let moment = self.moment();
            for judge in &mut self.judges {
                judge.asked_again(moment, &key, other, &heard, &mut self.findings);
            }
        }
    }

    fn cancel(&mut self, operation: u32) {
        if !self.workload.is_waiting(operation) {
            return;
        }
        let node = self.workload.coordinator(operation);
        let Some(process) = &self.machines[node as usize].process else { return };
        let (id, key) = (process.id, Workload::key_of(operation));
        self.feed(node, id, Input::Cancel(key));
    }

    /// An operator sees to every branch that waits, each time in a way that is drawn anew, and now and
    /// then gives up a participant that does not answer.
    fn operate(&mut self, node: u32) {
        self.agenda.schedule(self.now + OPERATOR_PAUSE, node, What::Operate);
        self.force(node);
        let Some(process) = &self.machines[node as usize].process else { return };
        let Some(engine) = process.node.coordinator() else { return };
        let id = process.id;
        let key = self.node_key.child("operator");
        let mut orders = Vec::new();
        for saga in engine.active_sagas() {
            for step in saga.steps() {
                let draw = key.draw(saga.id().0 ^ u64::from(step.number()), self.now.as_nanos());
                let what = match (step.is_parked(), step.is_marked_done()) {
                    (true, _) => match (draw.below(4), step.undo()) {
                        (0, _) => Ordered::RetryNow,
                        // The same once more, so that it takes back exactly what was done.
                        (1, saga::Undo::Transaction(branches)) => {
                            Ordered::Instead { branches: branches.clone() }
                        }
                        (1, _) => Ordered::Override { body: without_conditions(saga, step) },
                        _ => Ordered::MarkDone,
                    },
                    (_, true) if draw.below(4) == 0 => Ordered::CloseUnanswered,
                    // Mostly it is too early or too late for this, and he hears so.
                    (false, false) if draw.nth(1).below(16) == 0 => Ordered::MarkDone,
                    _ => continue,
                };
                let (who, why) = ("operator".into(), "it waits".into());
                orders.push((saga.id(), step.number(), Order { who, why, what }));
            }
        }
        for (saga, step, order) in orders {
            let order = Box::new(order);
            self.feed(node, id, Input::Order { id: saga, step, order });
        }
    }

    /// An operator ends branches that have promised and wait, each in a way that is drawn, and sees to what
    /// came of it.
    fn force(&mut self, node: u32) {
        let forces = self.scenario.workload.forces;
        let Some(process) = &self.machines[node as usize].process else { return };
        if forces == Share::default() {
            return;
        }
        let key = self.node_key.child("forces");
        let own = |at: u64| at << 16 | u64::from(node);
        let now = self.now.as_nanos();
        let mut interventions = Vec::new();
        if let Some(host) = process.node.participant() {
            let participant = host.participant();
            for (branch, at) in participant.prepared() {
                let draw = key.draw(own(at.0), now);
                if forces.0.holds(&draw) {
                    let commits = draw.nth(1).below(2) == 0;
                    let force = if commits { Force::Commit } else { Force::Abort };
                    interventions.push((Doubtful::Branch(branch), force));
                }
            }
            let listed = participant.forced().filter(|(_, it)| it.forgotten.is_none());
            for (branch, forced) in listed {
                // Now and then one of which nobody knows yet what it comes to.
                let patience = if forced.noted.is_some() { 4 } else { 64 };
                if key.draw(own(forced.at.0), now).nth(2).below(patience) == 0 {
                    interventions.push((Doubtful::Branch(branch), Force::Forget));
                }
            }
        }
        if let Some(engine) = process.node.coordinator() {
            let listed: BTreeSet<_> = engine.heuristics().map(|(id, ..)| id).collect();
            let seen_to = listed.into_iter().filter(|id| key.draw(id.0, now).nth(3).below(8) == 0);
            interventions.extend(seen_to.map(|id| (Doubtful::Transaction(id), Force::Forget)));
        }
        let (process, at_ms) = (process.id, i64::try_from(now / 1_000_000).unwrap_or(i64::MAX));
        for (of, force) in interventions {
            let (who, why) = ("operator".into(), "nobody answers".into());
            let audit = Arc::new(Audit { at_ms, who, why });
            let what = Box::new(Intervention { of, force, audit });
            self.feed(node, process, Input::Intervene(what));
        }
    }

    // ---- faults ----

    /// True if somebody waits for what a node does next.
    fn is_watched(&self, node: u32) -> bool {
        self.recording.is_some() || self.machines[node as usize].is_watched()
    }

    /// A fault may strike here: for the record.
    fn point(&mut self, node: u32, doing: Doing, role: Role) {
        let moment = self.moment();
        let machine = &self.machines[node as usize];
        let (Some(recording), Some(process)) = (&mut self.recording, &machine.process) else {
            return;
        };
        if !recording.wants_points() {
            return;
        }
        let mut unsynced = Unsafe::default();
        machine.disks.0.iter().for_each(|disk| disk.add_unsynced(&mut unsynced));
        let (boot, state) = (process.boot, String::new());
        let point = Point { node, boot, doing, nth: 0, at: moment, role, state, unsynced };
        recording.point(point, &process.node);
    }

    fn arm(&mut self, entry: u32) {
        self.arm_from(entry, Time::ZERO);
    }

    /// The same, where what would be earlier is then.
    fn arm_from(&mut self, entry: u32, earliest: Time) {
        self.faults_open += 1;
        match self.plan.faults[entry as usize].trigger {
            Trigger::At(at) => self.agenda.schedule(at.max(earliest), entry, What::Fault),
            // Counting begins then: see `strike`.
            Trigger::On { from, .. } if from > earliest => {
                self.agenda.schedule(from, entry, What::Fault);
            }
            Trigger::On { signal, node, nth, .. } => {
                self.machines[node as usize].armed.push(Armed { entry, signal, left: nth });
            }
        }
    }

    /// Counts a signal down; true if a fault struck.
    fn count(&mut self, node: u32, matches: impl Fn(Signal) -> bool) -> bool {
        let armed = &mut self.machines[node as usize].armed;
        let mut struck = None;
        for (at, waiting) in armed.iter_mut().enumerate() {
            if matches(waiting.signal) {
                waiting.left -= 1;
                if waiting.left == 0 && struck.is_none() {
                    struck = Some(at);
                } else if waiting.left == 0 {
                    // One at a time: it strikes at the next such signal.
                    waiting.left = 1;
                }
            }
        }
        let Some(at) = struck else { return false };
        let entry = armed.remove(at).entry;
        self.act(entry);
        true
    }

    /// Only the node's own process counts, not a zombie of it.
    fn is_current(&self, node: u32, id: u32) -> bool {
        self.machines[node as usize].process.as_ref().is_some_and(|process| process.id == id)
    }

    fn signals(&mut self, node: u32, id: u32, output: &Output) -> bool {
        if !self.is_current(node, id) {
            return false;
        }
        match output {
            Output::Appended { slot, event, .. } => {
                self.point(node, Doing::Append(*event), Role::of(*slot));
                self.count(node, |signal| signal == Signal::Append(*event))
            }
            Output::Send { message, .. } => {
                let kind = message.kind();
                self.point(node, Doing::Send(kind), Role::sending(kind));
                self.count(node, |signal| signal == Signal::Send(kind) || signal == Signal::Output)
            }
            Output::Reply { .. } => {
                self.point(node, Doing::Reply, Role::Coordinator);
                self.count(node, |signal| signal == Signal::Output)
            }
            Output::Disk { .. }
            | Output::Recovered { .. }
            | Output::Parked { .. }
            | Output::Operated(_)
            | Output::Heuristic { .. }
            | Output::Intervened(_)
            | Output::Died { .. } => false,
        }
    }

    fn signals_op(&mut self, node: u32, id: u32, slot: LogSlot, op: OpKind) -> bool {
        if !self.is_current(node, id) {
            return false;
        }
        self.point(node, Doing::Disk(op.name()), Role::of(slot));
        let machine = &mut self.machines[node as usize];
        let Some(process) = &mut machine.process else { return false };
        let recovers = match slot {
            LogSlot::Coordinator => process.node.coordinator().is_none(),
            LogSlot::Participant => process.node.participant().is_none(),
        };
        if recovers && process.boot > 1 {
            process.recovery_ops += 1;
            let at = process.recovery_ops;
            if machine.again.last().is_some_and(|next| *next <= at) {
                machine.again.pop();
                self.counters.recovery_crashes += 1;
                self.power_loss(node, AGAIN_DOWN);
                return true;
            }
            if self.count(node, |signal| signal == Signal::Recovery) {
                self.counters.recovery_crashes += 1;
                return true;
            }
        }
        self.count(node, |signal| match signal {
            Signal::Write => op == OpKind::Write,
            Signal::Sync => op == OpKind::Sync,
            Signal::Retire => op == OpKind::Retire,
            Signal::Blank => op == OpKind::Blank,
            Signal::Output => true,
            _ => false,
        })
    }

    /// After a flush: records that a fault waits for may have become durable. What they let out has
    /// not left yet.
    fn signals_durable(&mut self, node: u32, id: u32, slot: LogSlot) {
        if !self.is_current(node, id) {
            return;
        }
        let Some(process) = &mut self.machines[node as usize].process else { return };
        let log = match slot {
            LogSlot::Coordinator => process.node.coordinator().map(|engine| engine.log()),
            LogSlot::Participant => process.node.participant().map(|host| host.log()),
        };
        let Some(durable) = log.map(wal_core::Log::durable) else { return };
        let mut done = Vec::new();
        process.held.appended.retain(|(of, event, sequence)| {
            let is = *of == slot && *sequence <= durable;
            if is {
                done.push(*event);
            }
            !is
        });
        if !done.is_empty() {
            self.happened(|| Happening::Durable { node, role: Role::of(slot), through: durable.0 });
        }
        for event in done {
            self.point(node, Doing::Durable(event), Role::of(slot));
            let struck = self.count(node, |signal| signal == Signal::Durable(event));
            if struck && !self.is_current(node, id) {
                return;
            }
        }
    }

    /// The moment of an entry has come: it strikes, or begins to wait for its signal.
    fn strike(&mut self, entry: u32) {
        // One that was taken away is marked so that it never strikes.
        if self.healed || self.struck[entry as usize] {
            return;
        }
        match self.plan.faults[entry as usize].trigger {
            Trigger::At(_) => self.act(entry),
            Trigger::On { signal, node, nth, .. } => {
                self.machines[node as usize].armed.push(Armed { entry, signal, left: nth });
            }
        }
    }

    /// An entry has done what it is for.
    fn took_effect(&mut self, entry: u32) {
        if !std::mem::replace(&mut self.struck[entry as usize], true) {
            let name = self.plan.faults[entry as usize].action.name();
            *self.counters.faults.entry(name).or_default() += 1;
        }
    }

    /// Something that lasts is over at a node's disks.
    fn ends_at(&mut self, node: u32, end: impl FnOnce(&mut Ailing)) {
        let machine = &mut self.machines[node as usize];
        if let Some(ails) = &mut machine.ails {
            end(ails);
            machine.disks.1 = !ails.read_errors.is_empty();
        }
    }

    /// Something is wrong with a node's disks from now on. It counts once it has shown.
    fn ails(&mut self, node: u32) -> &mut Ailing {
        self.machines[node as usize].ails.get_or_insert_default()
    }

    /// Something of what a node's logs hold for good changes, if they hold anything yet: a bit, or a
    /// sector. Not while they are being read, when some of it may have been read already; nor before, when
    /// a crash may have left bytes that are part of no log.
    fn rots(&mut self, entry: u32, node: u32, how: Option<Damage>) {
        let process = self.machines[node as usize].process.as_ref();
        if process.is_none_or(|process| !process.node.is_ready()) {
            return;
        }
        let draw = self.disk_key.child("rot").draw(u64::from(entry), 0);
        let first = draw.below(2) as usize;
        for slot in [SLOTS[first], SLOTS[1 - first]] {
            let disk = &mut self.machines[node as usize].disks.0[slot as usize];
            let changed = match how {
                None => disk.rots(&draw).into_iter().collect(),
                Some(how) => disk.damages(how, &draw),
            };
            if !changed.is_empty() {
                let changed = changed.into_iter().map(|(segment, at)| (slot, segment, at));
                self.ails(node).rotten.extend(changed);
                self.took_effect(entry);
                break;
            }
        }
    }

    fn act(&mut self, entry: u32) {
        let fault = self.plan.faults[entry as usize].clone();
        self.progress = self.now;
        self.trace.word(u64::from(entry) | 1 << 40);
        self.note(None, || format!("fault {entry} strikes: {}", fault.action.name()));
        let (kind, struck) = (fault.action.name(), fault.action.node());
        self.happened(|| Happening::Fault { entry, kind, node: struck });
        if !fault.action.shows_later() {
            self.took_effect(entry);
        }
        match fault.action {
            Action::PowerLoss { node, down, mut again, unsynced } => {
                again.reverse();
                if !again.is_empty() {
                    self.forget_again(node);
                    self.faults_open += again.len() as u32;
                    self.machines[node as usize].again = again;
                }
                self.crash(node, Crash::Power(unsynced));
                self.start_later(node, down);
            }
            Action::ProcessCrash { node, down } => {
                self.crash(node, Crash::Process);
                self.start_later(node, down);
            }
            Action::Pause { node, lasts } => self.pause(node, lasts),
            Action::Zombie { node, successor, resume } => self.zombie(node, successor, resume),
            Action::Partition { from, to, symmetric, lasts } => {
                self.net.block(entry, None, from.clone(), to.clone());
                if symmetric {
                    self.net.block(entry, None, to, from);
                }
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
            Action::SyncError { node } => {
                self.ails(node).sync_errors.push(entry);
                self.fault_is_over();
            }
            Action::WriteError { node, short } => {
                self.ails(node).write_errors.push((entry, short));
                self.fault_is_over();
            }
            Action::ReadError { node, lasts } => {
                self.ails(node).read_errors.push(entry);
                self.machines[node as usize].disks.1 = true;
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
            Action::DiskFull { node, lasts } => {
                self.ails(node).full.push(entry);
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
            Action::Stall { node, lasts } => {
                let until = self.now + lasts;
                self.ails(node).stalls.push((entry, until));
                self.agenda.schedule(until, entry, What::FaultEnds);
            }
            Action::BitRot { node } => {
                self.rots(entry, node, None);
                self.fault_is_over();
            }
            Action::Damage { node, how } => {
                self.rots(entry, node, Some(how));
                self.fault_is_over();
            }
            Action::Clog { from, to, symmetric, lasts } => {
                let until = self.now + lasts;
                self.net.clog(entry, from.clone(), to.clone(), until);
                if symmetric {
                    self.net.clog(entry, to, from, until);
                }
                self.agenda.schedule(until, entry, What::FaultEnds);
            }
            Action::ClockJump { node, by, back } => {
                let clock = &mut self.machines[node as usize].clock;
                clock.ahead = clock.ahead.saturating_add(by.as_nanos() as u64);
                if back {
                    clock.calendar_ms -= 2 * by.as_millis() as i64;
                }
                // Whatever it waits for may be due.
                let running = self.machines[node as usize].process.as_ref();
                if let Some(id) = running.map(|process| process.id) {
                    self.arm_timer(node, id);
                }
                self.fault_is_over();
            }
            Action::Heal => {
                self.net.unblock_all();
                for node in 0..self.machines.len() as u32 {
                    self.ends_at(node, Ailing::heals);
                }
                self.fault_is_over();
            }
            Action::Drop { kind, from, to, lasts } => {
                self.net.block(entry, Some(kind), from, to);
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
        }
    }

    /// A recovery is through, or a new crash brings its own: the crashes that were to hit it do not
    /// come.
    fn forget_again(&mut self, node: u32) {
        let left = std::mem::take(&mut self.machines[node as usize].again).len() as u32;
        self.faults_open = self.faults_open.saturating_sub(left);
    }

    fn fault_is_over(&mut self) {
        self.progress = self.now;
        self.faults_open = self.faults_open.saturating_sub(1);
    }

    fn crash(&mut self, node: u32, crash: Crash) {
        let coordinators = *self.scenario.cluster.coordinators.get_ref();
        let machine = &mut self.machines[node as usize];
        if machine.process.is_some() && node < coordinators {
            self.counters.coordinator_crashes += 1;
        } else if machine.process.is_some() {
            self.counters.participant_crashes += 1;
        }
        machine.process = None;
        if let Crash::Power(unsynced) = crash {
            machine.zombies.clear();
            machine.power_failures += 1;
            let fates = self.fates;
            let mut before = Unsafe::default();
            for slot in SLOTS {
                let entity = u64::from(node) << 1 | slot as u64;
                let disk = &mut machine.disks.0[slot as usize];
                let failure = machine.power_failures;
                let losses = match unsynced {
                    Some(fate) => disk.fails_as(fate, &mut before),
                    None => disk.power_fails(fates, &self.power_key, entity, failure),
                };
                self.counters.disk_losses(losses);
            }
        }
        let power = crash != Crash::Process;
        self.happened(|| Happening::Crashed { node, power });
        let moment = self.moment();
        let machine = &self.machines[node as usize];
        for slot in SLOTS {
            let disk = machine.disks.seen(slot);
            for judge in &mut self.judges {
                judge.crashed(moment, node, slot, power, disk, &mut self.findings);
            }
        }
    }

    fn power_loss(&mut self, node: u32, down: Duration) {
        self.crash(node, Crash::Power(None));
        self.start_later(node, down);
    }

    fn start_later(&mut self, node: u32, down: Duration) {
        let machine = &mut self.machines[node as usize];
        let boot = machine.boots;
        self.agenda.schedule(self.now + down, node, What::Start { boot });
    }

    fn pause(&mut self, node: u32, lasts: Duration) {
        let at = self.now + lasts;
        match &mut self.machines[node as usize].process {
            Some(process) => {
                process.paused = true;
                let process = process.id;
                self.agenda.schedule(at, node, What::Resume { process });
            }
            None => self.fault_is_over(),
        }
    }

    /// The process stops where it is; a successor takes over on the same disks; later the old one
    /// goes on with what it was about to do.
    fn zombie(&mut self, node: u32, successor: Duration, resume: Duration) {
        let machine = &mut self.machines[node as usize];
        let Some(mut process) = machine.process.take() else { return self.fault_is_over() };
        process.paused = true;
        let (id, boot) = (process.id, machine.boots);
        machine.zombies.push(process);
        let process = id;
        self.counters.zombies += 1;
        self.faults_open += 2;
        self.agenda.schedule(self.now + successor, node, What::Start { boot });
        self.agenda.schedule(self.now + resume, node, What::Resume { process });
        let end = self.now + resume + ZOMBIE_LIFE;
        self.agenda.schedule(end, node, What::Retire { process });
    }
}

/// What a step has done, as an operator would have it undone: by the coordinator's log, and whatever
/// the definition asks for besides.
fn without_conditions(saga: &Saga, step: &StepState) -> Arc<[u8]> {
    let inputs = saga.inputs(step.number(), Direction::Forward);
    let given = |of: u32| {
        let input = inputs.iter().find(|input| input.step == of)?;
        match &input.output {
            SagaOutput::Inline(bytes) => Some(i64::from_le_bytes((**bytes).try_into().ok()?)),
            SagaOutput::Hashed { .. } => None,
        }
    };
    let mut changes = Vec::new();
    for change in work::decode(step.body()).filter_map(Result::ok) {
        match change {
            Change::Add { cell, amount } => changes.push(Change::Add { cell, amount }),
            Change::AddInput { cell, step } => {
                if let Some(amount) = given(step) {
                    changes.push(Change::Added { cell, amount });
                }
            }
            _ => {}
        }
    }
    work::encode(&changes)
}

/// Which log's flush is done, if that is what the input says.
fn flushed_slot(input: &Input) -> Option<LogSlot> {
    match input {
        Input::Flushed { slot, result: Ok(()) } => Some(*slot),
        _ => None,
    }
}

/// An answer that rests on a durable record: true for ever, whoever gives it.
fn is_a_promise(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Committed | Outcome::Completed | Outcome::Compensated)
}

/// What a node loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    /// Its process.
    Process,
    /// Its power: of what is unsynced this is left, or what is drawn.
    Power(Option<DiskFate>),
}

/// The kinds of disk operation, for traces and triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum OpKind {
    Create = 1,
    Write,
    Sync,
    SyncDirectory,
    Truncate,
    CheckEpoch,
    Retire,
    Blank,
}

impl OpKind {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::SyncDirectory => "sync directory",
            Self::Truncate => "truncate",
            Self::CheckEpoch => "check epoch",
            Self::Retire => "retire",
            Self::Blank => "blank",
        }
    }

    fn of(op: &DiskOp) -> OpKind {
        match op {
            DiskOp::Create(_) => Self::Create,
            DiskOp::Write { .. } => Self::Write,
            DiskOp::Sync(_) => Self::Sync,
            DiskOp::SyncDirectory => Self::SyncDirectory,
            DiskOp::Truncate { .. } => Self::Truncate,
            DiskOp::CheckEpoch { .. } => Self::CheckEpoch,
            DiskOp::Retire(_) => Self::Retire,
            DiskOp::Blank(_) => Self::Blank,
        }
    }
}
