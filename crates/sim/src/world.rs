//! The world: nodes, their disks and processes, the network, clients, and one queue of events.
//!
//! A process's outputs are performed strictly one at a time, and the disk operations of one of its
//! logs too; before any of them a fault may strike. Then a crash takes the rest away, and a pause
//! keeps it for later. A sync takes time, and what is written meanwhile by another process of the
//! node is not in it.

mod agenda;
mod ailing;
mod clients;
mod disks;
mod faults;
mod observe;

use crate::disk::{Fates, Reach, SimDisk};
use crate::judge::{Findings, Judge, Moment};
use crate::net::{Fate, Net, nanos};
use crate::plan::{Fault, Plan, Signal};
use crate::queue::{Entry, Queue, QueueKind};
use crate::recording::{self, Happening, Recording, Role};
use crate::report::Counters;
use crate::scenario::{Heals, Scenario, Share};
use crate::shared::SharedVec;
use crate::trace::{Trace, digest};
use crate::workload::Workload;
use agenda::{Agenda, Envelope, What};
use ailing::{Ailing, NodeClock, Unreadable};
use base::prng::Key;
use base::{CoordinatorId, NodeName, Sequence, Time};
use disks::{Lane, flushed_slot};
use node::{Config, Disks, Input, LogSlot, Message, Node};
use node::{Outcome, Output, RecoveryReport};
pub use observe::{Group, LogView, NodeView, Note};
pub(crate) use observe::{brief, recovered_in_words};
use std::collections::VecDeque;
use std::time::Duration;
use wal_core::{Directory, DiskError, DiskOp, EventType, OpenMode, SegmentId};

/// The kind of a message's arrival, among those of other events.
const DELIVER: u64 = 1;
/// Of an entry's `what`: it is a message's place, not another event.
const IS_MESSAGE: u32 = 1 << 31;
const KIND_SHIFT: u32 = 27;
const NUMBER: u32 = (1 << KIND_SHIFT) - 1;

const _: () = assert!(size_of::<Envelope>() <= 120);

/// An empty one.
impl Default for Envelope {
    fn default() -> Self {
        Envelope { digest: 0, message: Message::Hello }
    }
}

/// What each of a process's logs is to be told: how its flush went.
type Heard = [Option<Result<(), DiskError>>; 2];

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

/// A record that somebody wants to know to be durable.
#[derive(Clone, Copy, Debug)]
struct Appended {
    slot: LogSlot,
    event: EventType,
    sequence: Sequence,
    /// A fault waited for such a record when it was appended. If not, it is for the recording alone.
    awaited: bool,
}

/// What only a fault makes a process hold.
#[derive(Clone, Debug, Default)]
struct Held {
    /// While it stands still: what it was about to do, and what waits for it.
    outputs: VecDeque<Output>,
    inputs: VecDeque<Input>,
    /// Appended and not yet durable, only while a fault waits for that or it is written down.
    appended: Vec<Appended>,
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
    machines: SharedVec<Machine>,
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
            agenda: Agenda::new(queue, nodes),
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
            let lines = |disks: &NodeDisks| {
                let log = |slot| (Role::of(slot).name(), recording::log_lines(disks.seen(slot)));
                SLOTS.map(log).into()
            };
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
        for machine in self.machines.iter_mut() {
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
        self.happened(|| Happening::Arrived { copy, from, to, kind: kind.name(), heard });
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
        if flushed.is_some() && machine.ails.as_ref().is_some_and(|ails| !ails.confined.is_empty())
        {
            // It may have recovered since.
            SLOTS.into_iter().for_each(|slot| process.node.confine_log(slot, true));
        }
        let mut out = std::mem::take(&mut self.out);
        process.node.handle(machine.clock.shows(self.now), input, &machine.disks, &mut out);
        if let Some(slot) = flushed
            && !process.held.appended.is_empty()
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
            // What has just become durable may have been what a fault waited for: nobody waits any more then, and
            // nothing that was to leave leaves.
            let process = self.machines[node as usize].process(id);
            let goes_on = process.is_some_and(|process| !process.paused);
            if !goes_on || self.is_watched(node) {
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
            if done && !process.held.appended.is_empty() {
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
                let mut armed = machine.armed.iter();
                let awaited = armed.any(|armed| matches!(armed.signal, Signal::Durable(_)));
                if (awaited || self.recording.is_some())
                    && let Some(process) = machine.process(id)
                {
                    let (slot, event, sequence) = (*slot, *event, *sequence);
                    process.held.appended.push(Appended { slot, event, sequence, awaited });
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
            Happening::Sent { from, to, kind: kind.name(), about, arrives }
        });
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

    /// Only the node's own process counts, not a zombie of it.
    fn is_current(&self, node: u32, id: u32) -> bool {
        self.machines[node as usize].process.as_ref().is_some_and(|process| process.id == id)
    }
}

/// An answer that rests on a durable record: true for ever, whoever gives it.
fn is_a_promise(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Committed | Outcome::Completed | Outcome::Compensated)
}
