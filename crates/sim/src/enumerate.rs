//! Every crash point of a run, with every outcome for what was unsynced, and every second crash of
//! the same node on its way back.
//!
//! A run without these crashes is recorded first: each append, durable record, message, answer and
//! disk operation of each node is a point at which its power can fail. Then each point is tried, once
//! for every outcome: what the node had not synced is lost, is kept, is cut at a byte, or is torn by
//! sector. Where nothing is unsynced the four are the same, and one run stands for them. At depth two
//! the run with the first crash is recorded in turn, and the node crashes again at each of its points
//! from its restart on, again with every outcome.
//!
//! Every run has all judges on: a recovery that finds another class than the bytes say is a violation
//! of `I7`, and what does not end is `no progress`. Each is an ordinary scenario with one or two named
//! faults, so that a failure is repeated by its file like any other.

use crate::disk::{DiskFate, Unsafe};
use crate::plan::{Action, Fault, Plan, Trigger};
use crate::recording::{Doing, Point, Recording, Role, Wanted};
use crate::report::{Report, Verdict};
use crate::run::run_plan;
use crate::scenario::Scenario;
use base::Time;
use node::MessageKind;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use wal_core::EventType;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breadth {
    /// One crash, or also a second one on the way back.
    pub depth: u8,
    /// At how many bytes what is unsynced is cut at most, spread evenly. (A second crash follows upon
    /// one cut only, the middle one.)
    pub cuts_max: u64,
    /// Only every so-manieth first point, from the first: 1 is all of them.
    pub every: u32,
    /// How long a node is down.
    pub down: Duration,
}

impl Default for Breadth {
    fn default() -> Self {
        Breadth { depth: 1, cuts_max: 24, every: 1, down: Duration::from_millis(5) }
    }
}

/// What became of what was unsynced, as tables name it.
pub const OUTCOMES: [&str; 5] = ["nothing unsynced", "lost", "kept", "cut", "torn"];

/// One crash of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Where.
    pub point: Point,
    /// What is left of what was unsynced; `None`: nothing was.
    pub fate: Option<DiskFate>,
}

impl Crash {
    /// The fault that makes it.
    #[must_use]
    pub fn fault(&self, down: Duration) -> Fault {
        let Point { node, nth, doing, .. } = self.point;
        let trigger = Trigger::On { signal: doing.signal(), node, nth, from: Time::ZERO };
        let unsynced = Some(self.fate.unwrap_or(DiskFate::Lost));
        let action = Action::PowerLoss { node, down, again: Vec::new(), unsynced };
        Fault { trigger, action, named: true }
    }

    /// One of [`OUTCOMES`].
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        self.fate.map_or(OUTCOMES[0], DiskFate::name)
    }
}

/// A cell's coordinates: which crash of its run, where, in which state.
pub type Place = (u8, Role, Doing, String);

/// What was tried in one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Runs.
    pub runs: u64,
    /// Of those, how many were not clean.
    pub failed: u64,
    /// What the coordinators' recoveries of these runs found to do, by action; in how many runs.
    pub found: BTreeMap<&'static str, u64>,
}

/// What came of an enumeration.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// The scenarios' names.
    pub scenarios: Vec<String>,
    /// Points of the runs without these crashes.
    pub first_points: u64,
    /// Points on the way back, over all first crashes.
    pub second_points: u64,
    /// Runs: each is one crash point, or one after another, with its outcomes.
    pub runs: u64,
    /// Crashes in them.
    pub crashes: u64,
    /// Restarts, each of which recovered what it found under the judges' eyes.
    pub restarts: u64,
    /// Runs that were not clean, by rule; I7 is a wrong classification.
    pub failed: BTreeMap<String, u64>,
    /// By place and outcome.
    pub cells: BTreeMap<Place, BTreeMap<&'static str, Cell>>,
    /// Order-independent: the sum of all runs' hashes.
    pub hash: u128,
    /// The first failure, in the order of the points.
    pub failure: Option<Box<Report>>,
}

impl Matrix {
    /// Recoveries that found another class than the bytes say.
    #[must_use]
    pub fn misclassified(&self) -> u64 {
        self.failed.get("I7").copied().unwrap_or(0)
    }

    /// Adds another one's runs.
    pub fn add(&mut self, other: Matrix) {
        self.scenarios.extend(other.scenarios);
        self.first_points += other.first_points;
        self.second_points += other.second_points;
        self.runs += other.runs;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.hash = self.hash.wrapping_add(other.hash);
        for (rule, count) in other.failed {
            *self.failed.entry(rule).or_default() += count;
        }
        for (place, outcomes) in other.cells {
            let into = self.cells.entry(place).or_default();
            for (outcome, cell) in outcomes {
                let cell_here = into.entry(outcome).or_default();
                cell_here.runs += cell.runs;
                cell_here.failed += cell.failed;
                for (class, count) in cell.found {
                    *cell_here.found.entry(class).or_default() += count;
                }
            }
        }
        if self.failure.is_none() {
            self.failure = other.failure;
        }
    }

    fn count(&mut self, crashes: &[Crash], report: Report) {
        self.runs += 1;
        self.crashes += crashes.len() as u64;
        self.restarts += report.counters.restarts;
        self.hash = self.hash.wrapping_add(report.hash);
        let failed = report.verdict != Verdict::Clean;
        if let Some(last) = crashes.last() {
            let Point { role, doing, state, .. } = &last.point;
            let place = (crashes.len() as u8, *role, *doing, state.clone());
            let cell = self.cells.entry(place).or_default().entry(last.outcome()).or_default();
            cell.runs += 1;
            cell.failed += u64::from(failed);
            for (class, count) in &report.counters.recovered {
                *cell.found.entry(class).or_default() += u64::from(*count > 0);
            }
        }
        if failed {
            *self.failed.entry(report.verdict.signature().to_owned()).or_default() += 1;
            if self.failure.is_none() {
                self.failure = Some(Box::new(report));
            }
        }
    }

    /// What no run reached, one line each: kinds that never came up, states in which a kind never did,
    /// outcomes that a kind in a state never met. Where nothing is unsynced no outcome is missing: the
    /// four are the same there.
    #[must_use]
    pub fn unreached(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let reached = |doing: Doing| self.cells.keys().any(|place| place.2 == doing);
        let records = EventType::NAMED.iter().filter(|event| !reached(Doing::Append(**event)));
        let messages = MessageKind::ALL.into_iter().filter(|kind| !reached(Doing::Send(*kind)));
        let records: Vec<String> = records.map(ToString::to_string).collect();
        let messages: Vec<&str> = messages.map(MessageKind::name).collect();
        for (what, names) in [("records", records.join(", ")), ("messages", messages.join(", "))] {
            if !names.is_empty() {
                lines.push(format!("{what} at which no run crashed: {names}"));
            }
        }
        let mut states: BTreeMap<(u8, Role), BTreeSet<&str>> = BTreeMap::new();
        let mut kinds: BTreeMap<(u8, Role, Doing), BTreeSet<&str>> = BTreeMap::new();
        for (depth, role, doing, state) in self.cells.keys() {
            states.entry((*depth, *role)).or_default().insert(state);
            kinds.entry((*depth, *role, *doing)).or_default().insert(state);
        }
        for ((depth, role, doing), there) in &kinds {
            let all = &states[&(*depth, *role)];
            let missing: Vec<&str> = all.difference(there).copied().collect();
            let of = format!("{} {}, {}", ordinal(*depth), role.name(), doing.name());
            if !missing.is_empty() {
                lines.push(format!("{of}: not in state {}", missing.join(", ")));
            }
        }
        for ((depth, role, doing, state), outcomes) in &self.cells {
            let missing: Vec<&str> =
                OUTCOMES[1..].iter().filter(|one| !outcomes.contains_key(**one)).copied().collect();
            if !outcomes.contains_key(OUTCOMES[0]) && !missing.is_empty() {
                let of = format!("{} {}, {}", ordinal(*depth), role.name(), doing.name());
                lines.push(format!("{of} in state {state}: never {}", missing.join(", ")));
            }
        }
        lines
    }

    /// The matrix as tables of Markdown, which are also readable as they are.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let depths: BTreeSet<(u8, Role)> =
            self.cells.keys().map(|(depth, role, ..)| (*depth, *role)).collect();
        for (depth, role) in depths {
            let _ = writeln!(text, "### {} crash: the {}\n", title(depth), role.name());
            let rows: Vec<[String; 8]> = self
                .cells
                .iter()
                .filter(|((d, r, ..), _)| (*d, *r) == (depth, role))
                .map(|((_, _, doing, state), outcomes)| row(*doing, state, outcomes))
                .collect();
            table(&mut text, &rows);
            text.push('\n');
        }
        text
    }
}

fn ordinal(depth: u8) -> &'static str {
    if depth == 1 { "first crash:" } else { "second crash:" }
}

fn title(depth: u8) -> &'static str {
    if depth == 1 { "First" } else { "Second" }
}

fn row(doing: Doing, state: &str, outcomes: &BTreeMap<&'static str, Cell>) -> [String; 8] {
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for cell in outcomes.values() {
        cell.found.iter().for_each(|(class, count)| *found.entry(class).or_default() += count);
    }
    let found: Vec<&str> = found.iter().filter(|(_, n)| **n > 0).map(|(class, _)| *class).collect();
    let count = |outcome: &str| match outcomes.get(outcome) {
        Some(cell) if cell.failed > 0 => format!("{} ({} failed)", cell.runs, cell.failed),
        Some(cell) => cell.runs.to_string(),
        // The same as nothing unsynced, or unreached.
        None => "·".to_owned(),
    };
    let [nothing, lost, kept, cut, torn] = OUTCOMES.map(count);
    let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    [doing.name(), state.to_owned(), nothing, lost, kept, cut, torn, found]
}

fn table(text: &mut String, rows: &[[String; 8]]) {
    let head = [
        "crash before",
        "state",
        "nothing unsynced",
        "lost",
        "kept",
        "cut",
        "torn",
        "coordinators' recoveries found",
    ]
    .map(str::to_owned);
    let width = |at: usize| {
        rows.iter().chain([&head]).map(|row| row[at].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
            let pad = " ".repeat(width - cell.chars().count());
            if (2..7).contains(&at) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
    };
    line(&head);
    let rule: [String; 8] = std::array::from_fn(|at| {
        let dashes = "-".repeat(widths[at] - 1);
        if (2..7).contains(&at) { format!("{dashes}:") } else { format!("-{dashes}") }
    });
    line(&rule);
    rows.iter().for_each(line);
}

/// An enumeration that is about to run: its first points are known.
pub struct Enumeration<'a> {
    scenario: &'a Scenario,
    seed: u64,
    breadth: Breadth,
    base: Plan,
    points: Vec<Point>,
}

impl<'a> Enumeration<'a> {
    /// Runs the scenario without these crashes, and records its points. Its own faults strike as they
    /// always do.
    ///
    /// # Errors
    /// The report of that run, if it is not clean.
    pub fn new(
        scenario: &'a Scenario,
        seed: u64,
        breadth: Breadth,
    ) -> Result<Enumeration<'a>, Box<Report>> {
        let base = Plan::generate(scenario, seed);
        let (report, recording) =
            run_plan(scenario, seed, base.clone(), Some(Recording::new(Wanted::Points)));
        if report.verdict != Verdict::Clean {
            return Err(Box::new(report));
        }
        let points = recording.points.into_iter().step_by(breadth.every.max(1) as usize).collect();
        Ok(Enumeration { scenario, seed, breadth, base, points })
    }

    /// How many first points there are.
    #[must_use]
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// Tries every point on so many threads. `done` is told after each first point how many runs it
    /// took; with `first`, no further point is begun once one has failed.
    #[must_use]
    pub fn run(&self, jobs: usize, first: bool, done: &(dyn Fn(u64) + Sync)) -> Matrix {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            let mut found = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(point) = self.points.get(at) else { break };
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let matrix = self.at(point);
                done(matrix.runs);
                if first && matrix.failure.is_some() {
                    stop.store(true, Ordering::Relaxed);
                }
                found.push((at, matrix));
            }
            found
        };
        let mut found: Vec<(usize, Matrix)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .flat_map(|worker| {
                    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        found.sort_unstable_by_key(|(at, _)| *at);
        let mut all = Matrix {
            scenarios: vec![self.scenario.name.clone()],
            first_points: self.points.len() as u64,
            ..Matrix::default()
        };
        found.into_iter().for_each(|(_, matrix)| all.add(matrix));
        all
    }

    /// Everything that begins with a crash at this point.
    fn at(&self, point: &Point) -> Matrix {
        let mut matrix = Matrix::default();
        let few = few(point.unsynced, self.breadth.cuts_max);
        for fate in fates(point.unsynced, self.breadth.cuts_max) {
            let crash = Crash { point: point.clone(), fate };
            let goes_on = self.breadth.depth > 1 && few.contains(&fate);
            let recording = goes_on.then(|| Recording::new(Wanted::Points));
            let (report, recording) = self.one(std::slice::from_ref(&crash), recording);
            let clean = report.verdict == Verdict::Clean;
            matrix.count(std::slice::from_ref(&crash), report);
            if !goes_on || !clean {
                continue;
            }
            let again = |again: &Point| again.node == point.node && again.boot > point.boot;
            for second in recording.points.into_iter().filter(again) {
                matrix.second_points += 1;
                for fate in fates(second.unsynced, self.breadth.cuts_max) {
                    let crashes = [crash.clone(), Crash { point: second.clone(), fate }];
                    let (report, _) = self.one(&crashes, None);
                    matrix.count(&crashes, report);
                }
            }
        }
        matrix
    }

    fn one(&self, crashes: &[Crash], recording: Option<Recording>) -> (Report, Recording) {
        let mut plan = self.base.clone();
        plan.faults.extend(crashes.iter().map(|crash| crash.fault(self.breadth.down)));
        run_plan(self.scenario, self.seed, plan, recording)
    }
}

/// A sector more than so many is torn with its neighbours.
const SECTORS_APART: u64 = 5;

/// Every outcome for what is unsynced: lost, kept, cut at each byte (or at so many), torn in every way
/// (or, of many sectors, with each one missing or alone).
#[must_use]
pub fn fates(unsynced: Unsafe, cuts_max: u64) -> Vec<Option<DiskFate>> {
    if unsynced.is_nothing() {
        return vec![None];
    }
    let mut fates = vec![DiskFate::Lost, DiskFate::Kept];
    // Before the first byte only the names are left: if there is one, that is not the same as nothing.
    let first = u64::from(unsynced.names == 0);
    let places = unsynced.bytes.saturating_sub(first);
    let cuts = places.min(cuts_max.max(1));
    fates.extend((0..cuts).map(|cut| {
        // The middle of its share.
        let wide = u128::from(places) * u128::from(2 * cut + 1) / u128::from(2 * cuts);
        DiskFate::Cut(first + wide as u64)
    }));
    let sectors = unsynced.sectors.min(63);
    let all = (1u64 << sectors) - 1;
    let masks: Vec<u64> = match sectors {
        0 => Vec::new(),
        1..=SECTORS_APART => (0..all).collect(),
        _ => (0..sectors).flat_map(|at| [1 << at, all & !(1 << at)]).chain([0]).collect(),
    };
    for mask in masks {
        fates.push(DiskFate::Torn { sectors: mask, zeros: true });
        // What ends with its last sector has its full length anyway; none at all is lost, or cut.
        if mask != 0 && mask >> (sectors - 1) == 0 {
            fates.push(DiskFate::Torn { sectors: mask, zeros: false });
        }
    }
    fates.into_iter().map(Some).collect()
}

/// One of each outcome, of those of [`fates`].
#[must_use]
pub fn few(unsynced: Unsafe, cuts_max: u64) -> Vec<Option<DiskFate>> {
    let all = fates(unsynced, cuts_max);
    let cuts: Vec<&Option<DiskFate>> =
        all.iter().filter(|fate| matches!(fate, Some(DiskFate::Cut(_)))).collect();
    let middle = cuts.get(cuts.len() / 2).copied().copied();
    let torn: Vec<&Option<DiskFate>> =
        all.iter().filter(|fate| matches!(fate, Some(DiskFate::Torn { .. }))).collect();
    // With one sector: none, but zeros. With several: the first is missing, the others are there.
    let hole = torn
        .iter()
        .rev()
        .find(|fate| matches!(fate, Some(DiskFate::Torn { sectors, .. }) if sectors & 1 == 0));
    let hole = hole.copied().copied();
    let plain = all
        .iter()
        .copied()
        .filter(|fate| matches!(fate, None | Some(DiskFate::Lost | DiskFate::Kept)));
    plain.chain(middle).chain(hole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIOS: [&str; 4] = [
        include_str!("../../../sim-scenarios/enumerate/twopc-3.toml"),
        include_str!("../../../sim-scenarios/enumerate/twopc-3-aborts.toml"),
        include_str!("../../../sim-scenarios/enumerate/saga-5.toml"),
        include_str!("../../../sim-scenarios/enumerate/saga-5-undone.toml"),
    ];

    fn enumerate(text: &str, breadth: Breadth) -> Matrix {
        let scenario = Scenario::parse("scenario", text).expect("it is a scenario");
        let enumeration = Enumeration::new(&scenario, scenario.seed, breadth).expect("it is clean");
        let matrix = enumeration.run(2, false, &|_| ());
        let failure = matrix.failure.as_ref().map(|report| (&report.verdict, &report.plan));
        assert_eq!(failure, None);
        matrix
    }

    /// All points once, and a few with all of their second ones. That a planted bug is found is what
    /// `cargo xtask sim canary --by enumerate` shows.
    #[test]
    fn every_crash_point_of_the_shipped_scenarios_ends_well() {
        for text in SCENARIOS {
            let once = enumerate(text, Breadth { cuts_max: 3, ..Breadth::default() });
            assert!(once.runs > 300 && once.crashes == once.runs, "{}", once.runs);
            assert!(once.restarts >= once.crashes);
            let twice =
                enumerate(text, Breadth { depth: 2, cuts_max: 1, every: 23, ..Breadth::default() });
            assert!(twice.second_points > 100, "{}", twice.second_points);
            assert!(twice.crashes > twice.runs);
            let recovering = |place: &Place| place.0 == 2 && place.3 == "recovering";
            assert!(twice.cells.keys().any(recovering), "it crashes while it recovers");
        }
    }

    /// The page holds the tables that these scenarios have: the part that a test can afford.
    #[test]
    fn the_page_is_of_this_code() {
        let page = include_str!("../ENUMERATION.md");
        let mut all = Matrix::default();
        for text in SCENARIOS {
            all.add(enumerate(text, Breadth::default()));
        }
        for table in all.markdown().split("### ").skip(1) {
            let name = table.lines().next().unwrap_or_default();
            assert!(
                page.contains(table.trim_end()),
                "{name}: crates/sim/ENUMERATION.md is stale; its head says how to make it anew"
            );
        }
    }

    #[test]
    fn more_threads_and_more_recording_change_nothing() {
        let scenario = Scenario::parse("scenario", SCENARIOS[0]).expect("it is a scenario");
        let breadth = Breadth { depth: 2, cuts_max: 1, every: 40, ..Breadth::default() };
        let enumeration = Enumeration::new(&scenario, 1, breadth).expect("it is clean");
        let (one, three) = (enumeration.run(1, false, &|_| ()), enumeration.run(3, false, &|_| ()));
        assert_eq!((one.hash, one.runs, &one.cells), (three.hash, three.runs, &three.cells));
        let plan = Plan::generate(&scenario, 1);
        let recorded = run_plan(&scenario, 1, plan.clone(), Some(Recording::new(Wanted::Points))).0;
        assert_eq!(recorded.hash, run_plan(&scenario, 1, plan, None).0.hash);
    }

    #[test]
    fn outcomes_are_all_there_and_none_comes_twice() {
        let count = |names, bytes, sectors, cuts| {
            let unsynced = Unsafe { names, bytes, sectors };
            let all = fates(unsynced, cuts);
            let twice = all.iter().enumerate().any(|(at, fate)| all[..at].contains(fate));
            assert!(!twice, "{all:?}");
            assert!(few(unsynced, cuts).iter().all(|fate| all.contains(fate)));
            all.len()
        };
        assert_eq!(count(0, 0, 0, 9), 1);
        assert_eq!(count(1, 0, 0, 9), 2, "a name alone is lost or kept");
        // Lost, kept, cut behind 1 to 9 of 10 bytes, or zeros.
        assert_eq!(count(0, 10, 1, u64::MAX), 2 + 9 + 1);
        assert_eq!(count(1, 10, 1, u64::MAX), 2 + 10 + 1, "a cut may leave the name alone");
        // 10, 01, 00 with zeros; 10 without.
        assert_eq!(count(0, 1000, 2, 5), 2 + 5 + 4);
        // Of 18 sectors each alone and each missing, or none, with zeros; without, if the last is gone.
        assert_eq!(count(0, 9000, 18, 5), 2 + 5 + (2 * 18 + 1) + (17 + 1));
        let cuts: Vec<Option<DiskFate>> = fates(Unsafe { names: 0, bytes: 10, sectors: 1 }, 3);
        assert_eq!(cuts[2..5], [2, 5, 8].map(|at| Some(DiskFate::Cut(at))));
    }

    #[test]
    fn a_crash_is_a_fault_of_a_scenario_file() {
        let scenario = Scenario::parse("scenario", SCENARIOS[0]).expect("it is a scenario");
        let breadth = Breadth::default();
        let enumeration = Enumeration::new(&scenario, 1, breadth).expect("it is clean");
        let point = enumeration.points.iter().find(|point| !point.unsynced.is_nothing());
        let point = point.expect("something is unsynced at some point").clone();
        for fate in fates(point.unsynced, 3) {
            let fault = Crash { point: point.clone(), fate }.fault(breadth.down);
            let entry = crate::FaultEntry::of(&fault);
            let entry = toml::to_string(&entry).expect("an entry is TOML");
            let text = format!("{}\n[[fault]]\n{entry}", SCENARIOS[0]);
            let read = Scenario::parse("again", &text).expect("it is a scenario");
            assert_eq!(read.named_faults(), [fault]);
        }
    }
}
