//! One run: a scenario and a seed in, a report out.

use crate::judge;
use crate::plan::Plan;
use crate::report::{Counters, Report, Verdict};
use crate::scenario::Scenario;
use crate::world::{Ending, World};

/// Runs a scenario with a seed, under every judge.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    let plan = Plan::generate(scenario, seed);
    let mut world = World::new(scenario, seed, plan.clone(), judge::all(scenario));
    let ending = world.run();
    let never_struck: Vec<_> =
        world.never_struck().map(|(entry, fault)| (entry as u32, fault.clone())).collect();
    let verdict = match (ending, world.findings().violations.first()) {
        (_, Some(violation)) => Verdict::Violation(violation.clone()),
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
                (Some(what), _) => Verdict::Expectation(what),
                (None, Some((entry, fault))) => {
                    let what = format!("fault {entry} never struck: {:?}", fault.trigger);
                    Verdict::Expectation(what)
                }
                (None, None) => Verdict::Clean,
            }
        }
    };
    Report {
        scenario: scenario.name.clone(),
        seed,
        never_struck,
        hash: world.hash(),
        counters: world.counters(),
        verdict,
        plan,
    }
}

/// The first expectation that was not met.
fn unexpected(scenario: &Scenario, counters: &Counters) -> Option<String> {
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
            return Some(format!("expected {name} = {expected}, found {found}"));
        }
    }
    let at_least = [
        ("committed", expect.min_committed, answers.committed),
        ("completed", expect.min_completed, answers.completed),
        ("coordinator crashes", expect.min_coordinator_crashes, counters.coordinator_crashes),
        ("crashes in recovery", expect.min_recovery_crashes, counters.recovery_crashes),
    ];
    for (name, expected, found) in at_least {
        if let Some(expected) = expected
            && found < expected
        {
            return Some(format!("expected at least {expected} {name}, found {found}"));
        }
    }
    if let Some(recovered) = &expect.recovered {
        for action in coordinator::RecoveryAction::ALL {
            let expected = recovered.get(action.name()).copied().unwrap_or(0);
            let found = counters.recovered.get(action.name()).copied().unwrap_or(0);
            if expected != found {
                let name = action.name();
                return Some(format!("expected {expected} x {name} in recovery, found {found}"));
            }
        }
    }
    expect
        .sometimes
        .iter()
        .find(|name| counters.sometimes.get(name.as_str()).is_none_or(|count| *count == 0))
        .map(|name| format!("expected to see {name} at least once, and did not"))
}
