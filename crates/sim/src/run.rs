//! One run: a scenario and a seed in, a report out.

use crate::judge::{self, Violation};
use crate::plan::Plan;
use crate::queue::QueueKind;
use crate::recording::Recording;
use crate::report::{Counters, Report, Unmet, Verdict};
use crate::scenario::{DiskMode, Scenario};
use crate::world::{Ending, World};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a scenario with a seed, under every judge.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    run_on(scenario, seed, QueueKind::default())
}

/// The same, the events in a queue of this kind: the same run.
#[must_use]
pub fn run_on(scenario: &Scenario, seed: u64, queue: QueueKind) -> Report {
    let plan = Plan::generate(scenario, seed);
    finish(&mut World::with_queue(scenario, seed, plan, judge::all(scenario), queue))
}

/// Runs a scenario with a seed and this plan instead of its own, and writes down what happens if a
/// recording is given.
#[must_use]
pub fn run_plan(
    scenario: &Scenario,
    seed: u64,
    plan: Plan,
    recording: Option<Recording>,
) -> (Report, Recording) {
    let mut world = World::new(scenario, seed, plan, judge::all(scenario));
    if let Some(recording) = recording {
        world.record(recording);
    }
    let report = finish(&mut world);
    (report, world.recording())
}

/// Runs a world to its end, from wherever it is.
#[must_use]
pub fn finish(world: &mut World<'_>) -> Report {
    finish_while(world, &mut |_| true).expect("nobody stops it")
}

/// Events between two questions whether to go on.
const PATIENCE: u64 = 1 << 14;

/// Runs a world to its end, from wherever it is. `None` if it was stopped: now and then `goes_on` is
/// asked.
#[must_use]
pub fn finish_while(
    world: &mut World<'_>,
    goes_on: &mut dyn FnMut(&World<'_>) -> bool,
) -> Option<Report> {
    finish_in_steps(world, PATIENCE, &mut |world| goes_on(world))
}

/// Runs a world to its end, and hands it over after every event: for those who follow it.
#[must_use]
pub fn finish_each<'a>(world: &mut World<'a>, each: &mut dyn FnMut(&mut World<'a>)) -> Report {
    let report = finish_in_steps(world, 1, &mut |world| {
        each(world);
        true
    });
    each(world);
    report.expect("nobody stops it")
}

fn finish_in_steps<'a>(
    world: &mut World<'a>,
    step: u64,
    goes_on: &mut dyn FnMut(&mut World<'a>) -> bool,
) -> Option<Report> {
    // A broken assertion of a node is a finding like any other: it is reported with its seed.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let next = world.moment().event.saturating_add(step);
            if let Some(ending) = world.run_to(next) {
                break Some(ending);
            }
            if !goes_on(world) {
                break None;
            }
        }
    }));
    match ended {
        Ok(None) => None,
        Ok(Some(ending)) => Some(report(world, Ok(ending))),
        Err(panic) => Some(report(world, Err(panic))),
    }
}

fn report(world: &World<'_>, ended: Result<Ending, Box<dyn Any + Send>>) -> Report {
    let (scenario, counters) = (world.scenario(), world.counters());
    let never_struck: Vec<_> =
        world.never_struck().map(|(entry, fault)| (entry as u32, fault.clone())).collect();
    let ending = ended.as_ref().copied().unwrap_or(Ending::Violation);
    let verdict = match (ending, world.findings().violations.first()) {
        (_, Some(violation)) => Verdict::Violation(violation.clone()),
        (Ending::Violation, None) if ended.is_err() => {
            let what = ended.err().map_or_else(String::new, |panic| message_of(&*panic));
            Verdict::Violation(Violation { invariant: "panic", at: world.moment(), what })
        }
        (Ending::NoProgress | Ending::OutOfEvents, None)
            if scenario.disk.mode == DiskMode::Atlas =>
        {
            let why = if ending == Ending::OutOfEvents {
                "the budget of events is used up"
            } else {
                "faults were healed long ago"
            };
            let what = format!(
                "{why}, and something has not ended: {} clients heard nothing; {}",
                counters.unanswered,
                world.unfinished()
            );
            Verdict::NoProgress(what)
        }
        (_, None) => {
            let named = never_struck.iter().find(|(_, fault)| fault.named);
            match (unexpected(scenario, &counters), named) {
                (Some(unmet), _) => Verdict::Expectation(unmet),
                (None, Some((entry, fault))) => {
                    let (kind, trigger) = (fault.action.name(), fault.trigger);
                    let what = format!("fault {entry} never struck: {kind} {trigger}");
                    // Not by its number: entries may be taken away before it.
                    let which = format!("never struck: {kind} {trigger}");
                    Verdict::Expectation(Unmet { which, what })
                }
                (None, None) => Verdict::Clean,
            }
        }
    };
    Report {
        scenario: scenario.name.clone(),
        seed: world.seed(),
        never_struck,
        hash: world.hash(),
        counters,
        verdict,
        plan: world.plan().clone(),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// The first expectation that was not met.
fn unexpected(scenario: &Scenario, counters: &Counters) -> Option<Unmet> {
    let unmet = |key: &str, what| Some(Unmet { which: format!("expect.{key}"), what });
    let expect = &scenario.expect;
    let answers = counters.answers;
    let exactly = [
        ("committed", expect.committed, answers.committed),
        ("aborted", expect.aborted, answers.aborted),
        ("completed", expect.completed, answers.completed),
        ("compensated", expect.compensated, answers.compensated + answers.saga_aborted),
        ("corrupted", expect.corrupted, counters.corrupted),
        ("checkpoints", expect.checkpoints, counters.checkpoints),
    ];
    for (name, expected, found) in exactly {
        if let Some(expected) = expected
            && expected != found
        {
            return unmet(name, format!("expected {name} = {expected}, found {found}"));
        }
    }
    let (crashes, min_crashes) = (counters.coordinator_crashes, expect.min_coordinator_crashes);
    let at_least = [
        ("min_committed", "committed", expect.min_committed, answers.committed),
        ("min_completed", "completed", expect.min_completed, answers.completed),
        ("min_coordinator_crashes", "coordinator crashes", min_crashes, crashes),
        (
            "min_recovery_crashes",
            "crashes in recovery",
            expect.min_recovery_crashes,
            counters.recovery_crashes,
        ),
    ];
    for (key, name, expected, found) in at_least {
        if let Some(expected) = expected
            && found < expected
        {
            return unmet(key, format!("expected at least {expected} {name}, found {found}"));
        }
    }
    if let Some(recovered) = &expect.recovered {
        for action in coordinator::RecoveryAction::ALL {
            let expected = recovered.get_ref().get(action.name()).copied().unwrap_or(0);
            let found = counters.recovered.get(action.name()).copied().unwrap_or(0);
            if expected != found {
                let name = action.name();
                let what = format!("expected {expected} x {name} in recovery, found {found}");
                return unmet(&format!("recovered.{name}"), what);
            }
        }
    }
    if expect.sometimes.is_empty() {
        return None;
    }
    let conditions = counters.conditions();
    expect
        .sometimes
        .iter()
        .map(toml::Spanned::get_ref)
        .find(|name| conditions.get(name.as_str()).is_none_or(|count| *count == 0))
        .and_then(|name| {
            let what = format!("expected to see {name} at least once, and did not");
            unmet(&format!("sometimes.{name}"), what)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net;
    use crate::plan::{Action, Fault, Trigger};
    use crate::storage;
    use base::Time;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    fn check(text: &str, seed: u64) -> Report {
        let scenario = Scenario::parse("scenario", text).expect("it is a scenario");
        let report = run(&scenario, seed);
        assert_eq!(report.verdict, Verdict::Clean, "{}: seed {seed}", scenario.name);
        assert_eq!(report.hash, run(&scenario, seed).hash, "{}: the same run", scenario.name);
        report
    }

    /// The specification's first three scenarios, exactly as it counts, with several seeds.
    #[test]
    fn recovery_finds_what_the_specification_says() {
        for seed in 1..=3 {
            check(include_str!("../../../sim-scenarios/saga-recovery.toml"), seed);
            check(include_str!("../../../sim-scenarios/twopc-recovery.toml"), seed);
            let report = check(include_str!("../../../sim-scenarios/mixed-checkpoint.toml"), seed);
            assert_eq!(report.counters.checkpoints, 1);
        }
    }

    /// Each is what is left of a failure, its cause in its first line. Those of storage nodes are long: `sim
    /// corpus` runs them with the others, and `cargo xtask test` that.
    #[test]
    fn what_failed_once_runs_clean() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sim-scenarios/regressions");
        for file in std::fs::read_dir(folder).expect("the folder is there") {
            let path = file.expect("the folder can be read").path();
            let text = std::fs::read_to_string(&path).expect("the file can be read");
            if storage::Scenario::is_one(&text) {
                storage::Scenario::parse(&text).expect("it is a scenario");
            } else {
                let scenario = Scenario::parse("regression", &text).expect("it is a scenario");
                check(&text, scenario.seed);
            }
        }
    }

    #[test]
    fn a_named_fault_that_never_strikes_is_a_failure() {
        let text =
            include_str!("../../../sim-scenarios/saga-recovery.toml").replace("#50@", "#5000@");
        let scenario = Scenario::parse("scenario", &text).expect("it is a scenario");
        let report = run(&scenario, 1);
        let Verdict::Expectation(_) = report.verdict else { panic!("{:?}", report.verdict) };
        assert_eq!((report.verdict.exit_code(), report.never_struck.len()), (1, 1));
    }

    #[test]
    fn another_seed_is_another_run() {
        let text = crate::random::small(11);
        let scenario = Scenario::parse("small", &text).expect("it is a scenario");
        assert_ne!(run(&scenario, 11).hash, run(&scenario, 12).hash);
    }

    /// What the network did in a run of this scenario with this plan, and what was at fault.
    fn sent(scenario: &Scenario, plan: Plan) -> Vec<net::Sent> {
        let mut world = World::new(scenario, scenario.seed, plan, judge::all(scenario));
        assert_eq!(finish(&mut world).verdict, Verdict::Clean, "{}", scenario.name);
        world.sent()
    }

    /// Every message by what it is and how often the same was sent before.
    fn by_number(sent: &[net::Sent]) -> BTreeMap<(u64, u32), &net::Sent> {
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        let number = |sent: &net::Sent| {
            let count = counts.entry(sent.identity).or_default();
            *count += 1;
            (sent.identity, *count)
        };
        sent.iter().map(number).zip(sent).collect()
    }

    /// One fault more, and every other message meets its fate as before: whether it is lost, how long
    /// it takes, whether it comes twice. Messages that share a counter are left out, and are few; so
    /// are those that a fault holds back, or that are sent when all is healed.
    #[test]
    fn one_fault_more_leaves_the_fate_of_every_other_message_as_it_was() {
        let (mut compared, mut shared, mut lost) = (0, 0, 0);
        for seed in 0..200 {
            let scenario = crate::random::random_small(seed);
            let plan = Plan::generate(&scenario, seed);
            let mut more = plan.clone();
            let action = Action::PowerLoss {
                node: seed as u32 % *scenario.cluster.nodes.get_ref(),
                down: Duration::from_millis(15),
                again: Vec::new(),
                unsynced: None,
            };
            let trigger = Trigger::At(Time::from_nanos(9_000_000));
            more.faults.push(Fault { trigger, action, named: false });
            let (without, with) = (sent(&scenario, plan), sent(&scenario, more));
            let mut users: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            for sent in without.iter().chain(&with) {
                users.entry(sent.counter()).or_default().insert(sent.identity);
            }
            let (without, with) = (by_number(&without), by_number(&with));
            for (number, before) in without {
                let Some(after) = with.get(&number) else { continue };
                let free = !before.held_back && !after.held_back;
                if !free || before.settings != after.settings {
                    continue;
                }
                if users[&before.counter()].len() > 1 {
                    shared += 1;
                    continue;
                }
                compared += 1;
                lost += u32::from(before.delays[0].is_none());
                assert_eq!(before.delays, after.delays, "seed {seed}, {number:?}");
            }
        }
        assert!(compared > 20_000 && lost > 500, "{compared} compared, {lost} of them lost");
        assert!(shared * 50 < compared, "{shared} share a counter, {compared} do not");
    }

    #[test]
    fn a_copy_of_a_world_goes_on_as_the_world_does() {
        for seed in 0..40 {
            let scenario = crate::random::random_small(seed);
            let plan = Plan::generate(&scenario, seed);
            let queue = if seed % 2 == 0 { QueueKind::Wheel } else { QueueKind::Heap };
            let judges = judge::all(&scenario);
            let mut world = World::with_queue(&scenario, seed, plan, judges, queue);
            world.note_all();
            let half = run(&scenario, seed).counters.events / 2;
            assert_eq!(world.run_to(half), None);
            let mut copy = world.clone();
            let (report, copied) = (finish(&mut world), finish(&mut copy));
            assert_eq!(report.json(), copied.json(), "seed {seed}");
            assert_eq!(world.take_notes(), copy.take_notes(), "seed {seed}");
            // Neither the notes nor the queue nor the copy has changed anything.
            assert_eq!(report.hash, run(&scenario, seed).hash, "seed {seed}");
        }
    }

    /// Whoever looks closely looks at the run itself. A fault that waits for a record to be durable strikes before what
    /// that lets out has left, whether or not somebody waits for more; here one did not, unless it was looked at.
    #[test]
    fn a_run_that_is_written_down_is_the_run_itself() {
        use crate::recording::{Recording, Wanted};
        let text = include_str!("../../../sim-scenarios/dense-mixed-9.toml");
        let scenario = Scenario::parse("scenario", text).expect("it is a scenario");
        for seed in 0..12 {
            let hash = |wanted: Option<Wanted>| {
                let plan = Plan::generate(&scenario, seed);
                run_plan(&scenario, seed, plan, wanted.map(Recording::new)).0.hash
            };
            let alone = hash(None);
            for wanted in [Wanted::Points, Wanted::Happenings] {
                assert_eq!(hash(Some(wanted)), alone, "seed {seed}, {wanted:?}");
            }
        }
    }
}
