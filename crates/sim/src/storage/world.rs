//! The world: storage nodes on their disks, the network between them, and clients, in one queue of events.

mod agenda;
mod clients;
mod disks;
mod ending;
mod faults;
mod judging;
mod lies;
mod machine;
mod members;
mod messages;
mod observe;
mod outcome;
mod process;
mod record;
#[cfg(test)]
mod tests;

use super::judge::{Done, Finding, Judge};
use super::plan::{self, Kind, Plan};
use super::report::{Report, Totals};
use super::scenario::Scenario;
use super::watch::{FORGER, Watch};
use super::workload::{self, Client, File};
use crate::net::{Net, REGIONS, nanos};
use crate::plan::NodeSet;
use crate::queue::{AnyQueue, Queue, QueueKind, Slab};
use crate::scenario::Between;
use crate::trace::Trace;
use crate::world::Note;
use agenda::Event;
use base::prng::{Draw, Key};
use base::{ShardId, Time};
use ending::unmet;
use judging::has_right;
use machine::{LANES, Machine};
use network::Output;
use record::Recorder;
pub use record::run_recorded;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use store::Digest;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All is at rest, and every file was compared.
    Quiet,
    /// A judge objected.
    Violation,
    /// Faults have ended, and something never does.
    NoProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Clients are served.
    Serving,
    /// Faults strike.
    Faults,
    /// It is waited for everything to come to rest.
    Resting,
    /// Files are fetched.
    Fetching,
}

const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// How long all who ask before faults are looked at may take to be served.
const SERVED_MAX: Duration = Duration::from_secs(7_200);
/// Events between two looks of whoever watches.
const WATCHED: u64 = 1 << 14;
/// Units that there are.
const SUPPLY: u64 = 1_000_000_000;

/// One world of storage nodes.
#[derive(Clone)]
pub struct World<'a> {
    scenario: &'a Scenario,
    /// What happens of all that is drawn.
    plan: Plan,
    /// What went wrong and what clients were told, if somebody wants to read it.
    story: Option<Vec<Note>>,
    /// Every event is noted too.
    notes_all: bool,
    /// What is written down, if it is wanted.
    recorder: Option<Box<Recorder>>,
    seed: u64,
    root: Key,
    now: Time,
    queue: AnyQueue,
    events: Slab<Event>,
    scheduled: u64,
    machines: Vec<Machine>,
    net: Net,
    trace: Trace,
    files: Vec<File>,
    clients: Vec<Client>,
    next_client: usize,
    /// So many clients want something from the beginning.
    drawn_clients: u32,
    open: u32,
    judge: Judge,
    watch: Watch,
    /// On whose disks each shard may lie.
    lay: BTreeMap<Digest, BTreeSet<u32>>,
    hurt: BTreeSet<Digest>,
    totals: Totals,
    /// What clients of the ledger were told to be done.
    told: Vec<Done>,
    /// How long syncs took, by lane: for whoever watches.
    flushes: [base::Latency; LANES],
    phase: Phase,
    healed: bool,
    /// Somebody leaves once it is about to say that a transaction is committed.
    departs: Option<plan::Entry>,
    /// Whom it has passed over, since a file could not have gone on without.
    spared: BTreeSet<(u32, u32)>,
    /// Until when clients have to be served, or all has to be at rest.
    rest_by: Time,
    out: Vec<Output>,
    compared: u64,
    /// Clients that were told that the treasury gave what they asked for.
    grants: u64,
    /// What locks guard, and where that is; and the highest token that each was seen to have taken.
    guarded: Vec<(ShardId, u32)>,
    fences: BTreeMap<(u32, ShardId), u64>,
    /// How many answers to reads under locks came, and how many writes under locks were asked for; at which of these
    /// something strikes whoever has the locks.
    under_locks: [u64; 2],
    stalls: BTreeMap<u64, (plan::Entry, Duration)>,
    holder_crashes: BTreeMap<u64, (plan::Entry, Duration)>,
}

impl<'a> World<'a> {
    /// A world at its beginning.
    #[must_use]
    pub fn new(scenario: &'a Scenario, seed: u64) -> World<'a> {
        let root = Key::root(seed).child("storage.world");
        let nodes = scenario.storage.nodes;
        let files = workload::files(scenario, &root);
        let mut world = World {
            net: Net::new(&scenario.network, nodes, REGIONS, &root),
            judge: Judge::new(scenario.schemes(), &files),
            watch: Watch::new(
                [
                    scenario.storage.repairs_per_minute,
                    scenario.storage.moves_per_minute,
                    scenario.storage.reencodes_per_minute * shards_max(scenario, &files),
                ],
                scenario.storage.patience.0,
            ),
            clients: workload::wants(scenario, &root),
            plan: Plan::of(scenario),
            story: None,
            notes_all: false,
            recorder: None,
            scenario,
            seed,
            root,
            now: Time::ZERO,
            queue: AnyQueue::new(QueueKind::default(), nodes),
            events: Slab::default(),
            scheduled: 0,
            machines: (0..nodes).map(|_| Machine::default()).collect(),
            trace: Trace::default(),
            files,
            next_client: 0,
            drawn_clients: 0,
            open: 0,
            lay: BTreeMap::new(),
            hurt: BTreeSet::new(),
            totals: Totals::default(),
            told: Vec::new(),
            flushes: Default::default(),
            phase: Phase::Serving,
            healed: false,
            departs: None,
            spared: BTreeSet::new(),
            rest_by: Time::NEVER,
            out: Vec::new(),
            compared: 0,
            grants: 0,
            guarded: Vec::new(),
            fences: BTreeMap::new(),
            under_locks: [0, 0],
            stalls: BTreeMap::new(),
            holder_crashes: BTreeMap::new(),
        };
        world.guarded = workload::guarded(scenario, &world.root);
        world.drawn_clients = world.clients.len() as u32;
        for node in 0..nodes {
            // One after the other, so that those who come later meet somebody.
            let at = Time::ZERO + Duration::from_millis(5) * node.min(400);
            world.schedule(at, node, Event::Start);
        }
        for slow in 0..scenario.faults.slow_disks.min(nodes) {
            let has = world.plan.has(Kind::SlowDisk, slow);
            world.machines[(nodes - 1 - slow) as usize].slow = has;
        }
        for boaster in world.plan.numbers(Kind::Boaster, scenario.faults.boasters.min(nodes - 1)) {
            // Not the authority.
            world.machines[(1 + boaster) as usize].boasts = true;
            *world.totals.faults.entry("boasters").or_default() += 1;
        }
        world.plan_crashes();
        world.rest_by = world.begin() + SERVED_MAX;
        world.start_clients(world.begin());
        world
    }

    /// When clients first ask: members have to have met before.
    fn begin(&self) -> Time {
        let storage = &self.scenario.storage;
        let settle = Some(storage.settle.0).filter(|settle| !settle.is_zero());
        Time::ZERO + settle.unwrap_or(4 * storage.patience.0)
    }

    fn between(draw: Draw, range: Between) -> Duration {
        let (low, high) = nanos(range);
        Duration::from_nanos(draw.between(low, high))
    }

    /// Runs until the end, or until somebody who looks after each `every` events has seen enough.
    fn run_while(
        &mut self,
        every: u64,
        goes_on: &mut dyn FnMut(&mut World<'a>) -> bool,
    ) -> Option<Ending> {
        loop {
            if self.trace.events().is_multiple_of(every) && !goes_on(self) {
                return None;
            }
            if self.judge.finding.is_some() {
                return Some(Ending::Violation);
            }
            if let ended @ Some(_) = self.step() {
                return ended;
            }
        }
    }

    fn step(&mut self) -> Option<Ending> {
        let Some(entry) = self.queue.pop() else { return Some(Ending::NoProgress) };
        assert!(entry.at >= self.now, "time does not go back");
        self.now = entry.at;
        let event = std::mem::take(self.events.get_mut(entry.what));
        self.events.free(entry.what);
        self.trace.event(self.now.as_nanos(), event.kind() << 32 | u64::from(entry.target));
        self.note_event(entry.target, &event);
        self.record_arrival(&entry, &event);
        if self.trace.events() > self.scenario.storage.events {
            return Some(Ending::NoProgress);
        }
        if self.now > self.rest_by {
            let rests = self.all_rest();
            let World { judge, machines, lay, now, .. } = self;
            judge.look(*now, &|digest| has_right(machines, lay, digest), rests);
            return Some(Ending::NoProgress);
        }
        self.happen(entry.target, event)
    }

    fn happen(&mut self, target: u32, event: Event) -> Option<Ending> {
        if let Event::Arrives { .. }
        | Event::SyncDone { .. }
        | Event::ShardDone { .. }
        | Event::Wake { .. } = event
        {
            self.stall_at(target, &event);
            let until = self.machines[target as usize].stalled;
            if until > self.now {
                if let (Event::Wake { .. }, Some(process)) =
                    (&event, &mut self.machines[target as usize].process)
                    && process.armed == self.now
                {
                    process.armed = until;
                }
                self.schedule(until, target, event);
                return None;
            }
        }
        match event {
            Event::Nothing => unreachable!("nothing is scheduled"),
            Event::Arrives { from, cargo } => self.arrive(target, from, cargo),
            Event::SyncDone { process, lane } => self.sync_done(target, process, lane),
            Event::ShardDone { process } => self.shard_done(target, process),
            Event::Wake { process } => self.wake(target, process),
            Event::Start => self.start(target),
            Event::Client(number) => self.ask(number),
            Event::Crash(strike) => {
                let machine = &mut self.machines[target as usize];
                if !self.healed && machine.process.is_some() && !machine.gone {
                    machine.strike = Some(strike);
                }
            }
            Event::SyncFails(entry) => {
                let machine = &mut self.machines[target as usize];
                if !self.healed && !machine.gone {
                    machine.sync_fails = Some(entry);
                }
            }
            Event::Partition { number, lasts } => self.part(number, lasts),
            Event::Unite { number } => self.net.unblock(number),
            Event::Rot { number } => self.rot(number),
            Event::CutRegion { region, lasts } => {
                let number = u32::MAX;
                self.net.block(number, None, NodeSet::Region(region), NodeSet::Rest);
                self.net.block(number, None, NodeSet::Rest, NodeSet::Region(region));
                *self.totals.faults.entry("regions cut off").or_default() += 1;
                self.befell(None, || format!("region {region} is cut off for {lasts:?}"));
                self.schedule(self.now + lasts, 0, Event::Unite { number });
            }
            Event::Leave { number } => self.leave(number),
            Event::Join { number } => self.join(number),
            Event::Lie => self.turn_liar(target),
            Event::Drain { process, since } => self.drain(target, process, since),
            Event::Ledger { stage } => self.ledger(stage),
            Event::Download { number } => self.download(number),
            Event::Heal => self.heal(),
            Event::Look => return self.look(),
        }
        None
    }

    /// Runs, and says what came of it; nothing if somebody has stopped it.
    fn report_while(&mut self, goes_on: &mut dyn FnMut(&World<'_>) -> bool) -> Option<Report> {
        self.report_in_steps(WATCHED, &mut |world| goes_on(world))
    }

    fn report_in_steps(
        &mut self,
        every: u64,
        goes_on: &mut dyn FnMut(&mut World<'a>) -> bool,
    ) -> Option<Report> {
        // A broken assertion of a node is a finding like any other.
        let ended = catch_unwind(AssertUnwindSafe(|| self.run_while(every, goes_on)));
        let (ending, finding) = match ended {
            Ok(ending) => (ending?, self.judge.finding.clone()),
            Err(panic) => {
                let what = message_of(&*panic);
                (Ending::Violation, Some(Finding { rule: "panic", at: self.now, what }))
            }
        };
        let (totals, health) = self.totals();
        let unmet = match ending {
            Ending::Quiet => unmet(&self.scenario.expect, &totals, health.as_ref()),
            Ending::NoProgress => Some(self.unfinished()),
            Ending::Violation => None,
        };
        let (scenario, hash) = (self.scenario.name.clone(), self.trace.hash());
        let seed = self.seed;
        Some(Report { scenario, seed, ending, finding, unmet, totals, health, hash })
    }
}

/// How many shards a file has at most, in any scheme that it may have.
fn shards_max(scenario: &Scenario, files: &[File]) -> u32 {
    let chunks = files.iter().map(|file| file.manifest.chunks().len() as u32).max();
    let total = scenario.schemes().iter().map(|scheme| u32::from(scheme.total())).max();
    chunks.unwrap_or(0) * total.unwrap_or(0)
}

/// One run.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    run_watched(scenario, seed, &mut |_| ())
}

/// The same run, which somebody looks at now and then, and at its end.
#[must_use]
pub fn run_watched(scenario: &Scenario, seed: u64, watcher: &mut dyn FnMut(&World<'_>)) -> Report {
    let mut world = World::new(scenario, seed);
    let report = world.report_while(&mut |world| {
        watcher(world);
        true
    });
    watcher(&world);
    report.expect("nobody has stopped it")
}

/// The same run, given up as soon as `goes_on`, which is asked every some thousand events, says no.
#[must_use]
pub fn run_while(
    scenario: &Scenario,
    seed: u64,
    goes_on: &mut dyn FnMut() -> bool,
) -> Option<Report> {
    World::new(scenario, seed).report_while(&mut |_| goes_on())
}

/// The same run, and what happened in it: which faults struck whom, what clients asked for and were told.
#[must_use]
pub fn run_told(scenario: &Scenario, seed: u64) -> (Report, Vec<Note>) {
    let mut world = World::new(scenario, seed);
    world.note_story();
    let report = world.finish();
    (report, world.take_notes())
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
