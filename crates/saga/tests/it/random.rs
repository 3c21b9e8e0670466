//! Larger sagas, at random: with gaps and disorder in the step numbers, as a foreign log may have
//! them, against the model; and a crash anywhere.

use crate::model::History;
use crate::{
    ID, created, ordered, replay, step_added, step_of_kind, succeeded, undo_failed, undone,
};
use base::Sequence;
use proptest::prelude::*;
use saga::{AttemptNote, Direction, Event, FailedEffect, Input, Outcome, Saga, StepKind, What};

/// One choice of the walk: a step (by index, one beyond the last is unknown) and what about it.
type Choice = (u8, u8);

/// A foreign saga: numbers with gaps, in the order of the log, and for each the dependencies that
/// it names, or none ("in sequence").
#[derive(Clone, Debug)]
struct Foreign {
    numbers: Vec<u32>,
    dependencies: Vec<Option<Vec<u32>>>,
    /// Whether they go together or not: a foreign log need not be checked.
    kinds: Vec<StepKind>,
}

fn foreign() -> impl Strategy<Value = Foreign> {
    let gap = prop_oneof![4 => Just(1u32), 1 => 2..5u32, 1 => Just(1 << 28)];
    // Half of the sagas are of compensatable steps alone.
    let kind = prop_oneof![
        5 => Just(StepKind::Compensatable),
        2 => Just(StepKind::ReadOnly),
        1 => Just(StepKind::Pivot),
        1 => Just(StepKind::Retriable),
    ];
    let kinds = (any::<bool>(), proptest::collection::vec(kind, 10));
    let step = (gap, proptest::option::weighted(0.8, any::<u16>()), 0..10u8);
    (proptest::collection::vec(step, 0..10), kinds).prop_map(|(steps, (plain, mut kinds))| {
        if plain {
            kinds.fill(StepKind::Compensatable);
        }
        let mut numbers: Vec<u32> = Vec::new();
        let mut dependencies = Vec::new();
        let mut next = 0u32;
        for (gap, set, disorder) in steps {
            let named = |&(at, _): &(usize, &u32)| set.is_some_and(|set| set >> at & 1 == 1);
            let names = numbers.iter().enumerate().filter(named).map(|(_, &number)| number);
            let names: Vec<u32> = names.filter(|&number| number < next).collect();
            dependencies.push(set.map(|_| names));
            // One in ten comes before all of its elders: a straggler, once they have swapped.
            let at = if disorder == 0 && set.is_none() { numbers.len() / 2 } else { numbers.len() };
            numbers.insert(at, next);
            let last = dependencies.len() - 1;
            dependencies[at..=last].rotate_right(1);
            next += gap;
        }
        Foreign { numbers, dependencies, kinds }
    })
}

fn event(foreign: &Foreign, (step, what): Choice) -> Event {
    let index = usize::from(step) % (foreign.numbers.len() + 1);
    let step = foreign.numbers.get(index).copied().unwrap_or(77_777);
    let error_code = u32::from(what);
    match what % 32 {
        0..=9 => succeeded(step),
        10 => Event::StepFailed { step, error_code, effect: FailedEffect::None },
        11 => Event::StepFailed { step, error_code, effect: FailedEffect::Maybe },
        12 => Event::CompensationStart { cause: Some(step) },
        13..=22 => undone(step),
        23 => undo_failed(step, u32::from(what) / 32),
        24 => Event::Completed,
        25 => Event::Compensated,
        26 if index == 0 => Event::Aborted,
        27 => Event::ExecuteStart,
        28 => step_added(step, Some(&[])),
        29 => Event::CompensationFailed { step, attempt: 9, note: AttemptNote::Parked },
        30 => ordered(step, 1, what_ordered(what)),
        31 if what < 64 => Event::CompensationSucceeded { step, heuristic: true },
        _ => succeeded(step),
    }
}

fn what_ordered(what: u8) -> What {
    match what >> 5 {
        0 | 1 => What::RetryNow,
        2..=4 => What::MarkDone,
        5 | 6 => What::CloseUnanswered,
        _ => What::Override { body: [1].into() },
    }
}

fn input(foreign: &Foreign, (step, what): Choice) -> Input {
    let index = usize::from(step) % (foreign.numbers.len() + 1);
    let step = foreign.numbers.get(index).copied().unwrap_or(77_777);
    let outcome = |direction, outcome| Input::Outcome { step, direction, outcome };
    match what % 16 {
        0..=5 => outcome(Direction::Forward, Outcome::Done),
        6 => outcome(Direction::Forward, Outcome::Refused { code: 3 }),
        7 => outcome(Direction::Forward, Outcome::Unknown),
        8..=11 => outcome(Direction::Backward, Outcome::Done),
        12 => outcome(Direction::Backward, Outcome::Refused { code: 3 }),
        13 if what < 128 => Input::StepTimedOut { step },
        13 => Input::GiveUpUndo { step },
        15 => match ordered(step, 0, what_ordered(what << 1)) {
            Event::CompensationFailed { note: AttemptNote::Ordered(order), .. } => {
                Input::Ordered { step, order }
            }
            other => unreachable!("an order is a note: {other:?}"),
        },
        14 if index == 0 => Input::Cancel,
        _ => outcome(Direction::Backward, Outcome::Unknown),
    }
}

/// The log of the foreign saga up to and with execute_start, offered to both.
fn admitted(foreign: &Foreign) -> (History, Saga) {
    let (mut history, mut saga) = (History(vec![created()]), replay(&[created()]));
    let steps = foreign.numbers.iter().zip(&foreign.dependencies).zip(&foreign.kinds);
    for ((number, dependencies), kind) in steps {
        let added = step_of_kind(*number, dependencies.as_deref(), *kind);
        history.offer(&mut saga, &added);
        history.assert_agrees(&saga);
    }
    history.offer(&mut saga, &Event::ExecuteStart);
    (history, saga)
}

/// Any cut of the log rebuilds the state that the machine had there.
fn assert_rebuilds(states: &[Saga], history: &History) {
    let mut rebuilt = Saga::created(ID, Sequence(1), &history.0[0]).unwrap();
    for (at, event) in history.0.iter().enumerate().skip(1) {
        rebuilt.apply(Sequence(at as u64 + 1), event).unwrap();
        if let Some(state) = states.iter().find(|s| s.classification().last.0 == at as u64 + 1) {
            assert!(*state == rebuilt, "cut after {}: {state:?} {rebuilt:?}", at + 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Arbitrary events, most of them legal: machine and model agree at every step.
    #[test]
    fn any_log_agrees_with_the_model(
        foreign in foreign(),
        choices in proptest::collection::vec(any::<Choice>(), 0..80),
    ) {
        let (mut history, mut saga) = admitted(&foreign);
        let mut states = vec![saga.clone()];
        for choice in choices {
            if history.offer(&mut saga, &event(&foreign, choice)) {
                history.assert_agrees(&saga);
                states.push(saga.clone());
            }
        }
        assert_rebuilds(&states, &history);
    }

    /// Arbitrary inputs: what is decided is legal, the model agrees, and every cut rebuilds.
    #[test]
    fn any_inputs_agree_with_the_model(
        foreign in foreign(),
        choices in proptest::collection::vec(any::<Choice>(), 0..120),
    ) {
        let (mut history, mut saga) = admitted(&foreign);
        let mut states = vec![saga.clone()];
        for choice in choices {
            let input = input(&foreign, choice);
            prop_assert_eq!(saga.decide(&input), history.worth(&input));
            let settled = saga.settle().filter(|_| choice.1 < 128);
            for event in saga.decide(&input).into_iter().chain(settled) {
                // The second of two facts about one state may not follow from the first.
                if history.allows(&event) {
                    prop_assert!(history.offer(&mut saga, &event));
                    history.assert_agrees(&saga);
                    states.push(saga.clone());
                }
            }
        }
        assert_rebuilds(&states, &history);
    }

    /// Nonsense of every kind, steps included: refused or applied, never a panic.
    #[test]
    fn no_event_panics(events in proptest::collection::vec(any_event(), 0..60)) {
        let (mut history, mut saga) = (History(vec![created()]), replay(&[created()]));
        for event in events {
            history.offer(&mut saga, &event);
        }
        history.assert_agrees(&saga);
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let step = || prop_oneof![9 => 0..6u32, 1 => any::<u32>()];
    let dependencies = proptest::option::of(proptest::collection::vec(step(), 0..3));
    let effect = prop_oneof![Just(FailedEffect::None), Just(FailedEffect::Maybe)];
    prop_oneof![
        1 => Just(created()),
        8 => (step(), dependencies).prop_map(|(step, on)| step_added(step, on.as_deref())),
        2 => Just(Event::ExecuteStart),
        9 => step().prop_map(succeeded),
        2 => (step(), any::<u32>(), effect)
            .prop_map(|(step, error_code, effect)| Event::StepFailed { step, error_code, effect }),
        1 => proptest::option::of(step()).prop_map(|cause| Event::CompensationStart { cause }),
        5 => step().prop_map(undone),
        2 => (step(), any::<u32>())
            .prop_map(|(step, attempt)| undo_failed(step, attempt)),
        1 => Just(Event::Completed),
        1 => Just(Event::Compensated),
        1 => Just(Event::Aborted),
    ]
}
