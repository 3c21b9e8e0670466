//! One run: a scenario and a seed in, a report out.

use crate::judge::{self, Violation};
use crate::plan::Plan;
use crate::recording::Recording;
use crate::report::{Counters, Report, Unmet, Verdict};
use crate::scenario::Scenario;
use crate::world::{Ending, World};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a scenario with a seed, under every judge.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    run_plan(scenario, seed, Plan::generate(scenario, seed), None).0
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
    let mut world = World::new(scenario, seed, plan.clone(), judge::all(scenario));
    if let Some(recording) = recording {
        world.record(recording);
    }
    // A broken assertion of a node is a finding like any other: it is reported with its seed.
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let never_struck: Vec<_> =
        world.never_struck().map(|(entry, fault)| (entry as u32, fault.clone())).collect();
    let ending = ended.as_ref().copied().unwrap_or(Ending::Violation);
    let verdict = match (ending, world.findings().violations.first()) {
        (_, Some(violation)) => Verdict::Violation(violation.clone()),
        (Ending::Violation, None) if ended.is_err() => {
            let what = ended.err().map_or_else(String::new, |panic| message_of(&*panic));
            Verdict::Violation(Violation { invariant: "panic", at: world.moment(), what })
        }
        (Ending::NoProgress | Ending::OutOfEvents, None) => {
            let why = if ending == Ending::OutOfEvents {
                "the budget of events is used up"
            } else {
                "faults were healed long ago"
            };
            let what = format!(
                "{why}, and something has not ended: {} clients heard nothing; {}",
                world.counters().unanswered,
                world.unfinished()
            );
            Verdict::NoProgress(what)
        }
        (Ending::Quiet | Ending::Violation, None) => {
            let named = never_struck.iter().find(|(_, fault)| fault.named);
            match (unexpected(scenario, &world.counters()), named) {
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
    let report = Report {
        scenario: scenario.name.clone(),
        seed,
        never_struck,
        hash: world.hash(),
        counters: world.counters(),
        verdict,
        plan,
    };
    (report, world.recording())
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

    /// Each is what is left of a failure, its cause in its first line.
    #[test]
    fn what_failed_once_runs_clean() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sim-scenarios/regressions");
        for file in std::fs::read_dir(folder).expect("the folder is there") {
            let path = file.expect("the folder can be read").path();
            let text = std::fs::read_to_string(&path).expect("the file can be read");
            let scenario = Scenario::parse("regression", &text).expect("it is a scenario");
            check(&text, scenario.seed);
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
}
