//! Small worlds, exhausted: every graph of up to three steps, every event in every state.

use crate::model::{History, Stage};
use crate::{
    ID, admission, admission_of_kinds, created, definition, replay, step_added, succeeded,
    undo_failed, undone,
};
use base::{Epoch, Sequence};
use saga::{
    Direction, Effect, Event, FailedEffect, Input, Outcome, Phase, RecoveryAction, Saga, StepKind,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Every graph of `count` steps whose dependencies are earlier steps.
fn graphs(count: u32) -> Vec<Vec<Vec<u32>>> {
    let mut graphs = vec![vec![]];
    for step in 0..count {
        let with_one_more = |graph: &Vec<Vec<u32>>| {
            let graph = graph.clone();
            (0..1u32 << step).map(move |set| {
                let on = (0..step).filter(|on| set >> on & 1 == 1).collect();
                [graph.clone(), vec![on]].concat()
            })
        };
        graphs = graphs.iter().flat_map(with_one_more).collect();
    }
    graphs
}

/// Every event about `count` steps and one that does not exist, an attempt numbered 1 only.
fn events(count: u32) -> Vec<Event> {
    let mut events = vec![
        created(),
        Event::ExecuteStart,
        step_added(0, None),
        step_added(count, Some(&[])),
        Event::CompensationStart { cause: None },
        Event::CompensationStart { cause: Some(0) },
        Event::Completed,
        Event::Compensated,
        Event::Aborted,
    ];
    for step in 0..=count {
        let error_code = 5;
        events.extend([
            succeeded(step),
            Event::StepFailed { step, error_code, effect: FailedEffect::None },
            Event::StepFailed { step, error_code, effect: FailedEffect::Maybe },
            undone(step),
            undo_failed(step, 1),
        ]);
    }
    events
}

fn inputs(count: u32) -> Vec<Input> {
    let mut inputs =
        vec![Input::Cancel, Input::TimedOut, Input::Restarted { epoch: Epoch::new(2) }];
    for step in 0..=count {
        inputs.push(Input::StepTimedOut { step });
        for direction in [Direction::Forward, Direction::Backward] {
            for outcome in [Outcome::Done, Outcome::Refused { code: 5 }, Outcome::Unknown] {
                inputs.push(Input::Outcome { step, direction, outcome });
            }
        }
    }
    inputs
}

/// All states that legal events reach from the admission of `graph`, each with one history that
/// leads there. (The key is the state with every sequence number the same: the machine does not
/// order by them.)
fn reachable(graph: &[Vec<u32>]) -> BTreeMap<String, Vec<Event>> {
    reachable_from(admission(graph), graph.len() as u32)
}

fn reachable_from(start: Vec<Event>, count: u32) -> BTreeMap<String, Vec<Event>> {
    let key = |log: &[Event]| {
        let mut saga = Saga::created(ID, Sequence(1), &log[0]).unwrap();
        log[1..].iter().for_each(|event| saga.apply(Sequence(1), event).unwrap());
        format!("{saga:?}")
    };
    let mut found = BTreeMap::from([(key(&start), start.clone())]);
    let mut frontier = vec![start];
    while let Some(log) = frontier.pop() {
        for event in events(count) {
            if replay(&log).apply(Sequence(log.len() as u64 + 1), &event).is_ok() {
                let next = [log.clone(), vec![event]].concat();
                if let Entry::Vacant(place) = found.entry(key(&next)) {
                    place.insert(next.clone());
                    frontier.push(next);
                }
            }
        }
    }
    found
}

/// In every reachable state of every graph of one to three steps: every event is legal for the
/// machine exactly when it is for the model, a refusal changes nothing, the views agree with the
/// formulas, and whatever `decide` and `settle` say can be applied and is worth nothing the second
/// time.
#[test]
fn every_event_in_every_state() {
    let mut states = BTreeMap::new();
    for count in 1..=3 {
        for graph in graphs(count) {
            for log in reachable(&graph).into_values() {
                *states.entry(count).or_insert(0) += 1;
                let (history, saga) = (History(log.clone()), replay(&log));
                history.assert_agrees(&saga);
                for event in events(count) {
                    let (mut after, mut next) = (history.clone(), saga.clone());
                    if after.offer(&mut next, &event) {
                        after.assert_agrees(&next);
                    }
                }
                for input in inputs(count) {
                    decided_facts_are_legal_and_new(&history, &saga, &input);
                }
                every_state_leads_to_an_end(&saga, log.len() as u64);
            }
        }
    }
    let expected = BTreeMap::from([(1, 85), (2, 1_523), (3, 39_386)]);
    assert_eq!(states, expected);
}

/// Every assignment of kinds to every graph of up to three steps that a definition may have, but for
/// those of compensatable steps alone: in every state that recovery and the participants lead to,
/// machine and model say the same about every event and every input.
#[test]
fn every_event_in_every_state_of_every_kind() {
    let mut found = BTreeMap::new();
    for count in 1..=3 {
        let kinds = (0..count).fold(vec![vec![]], |all: Vec<Vec<StepKind>>, _| {
            let longer = |kinds: &Vec<StepKind>| {
                let kinds = kinds.clone();
                StepKind::ALL.into_iter().map(move |kind| [kinds.clone(), vec![kind]].concat())
            };
            all.iter().flat_map(longer).collect()
        });
        for (graph, kinds) in graphs(count)
            .into_iter()
            .flat_map(|graph| kinds.iter().map(move |k| (graph.clone(), k)))
        {
            let plain = kinds.iter().all(|kind| *kind == StepKind::Compensatable);
            if plain || definition(&graph, kinds).is_err() {
                continue;
            }
            let states = reachable_from(admission_of_kinds(&graph, kinds), count);
            let (sagas, all) = found.entry(count).or_insert((0, 0));
            *sagas += 1;
            *all += states.len();
            for log in states.into_values() {
                let (history, saga) = (History(log.clone()), replay(&log));
                history.assert_agrees(&saga);
                for event in events(count) {
                    let (mut after, mut next) = (history.clone(), saga.clone());
                    if after.offer(&mut next, &event) {
                        after.assert_agrees(&next);
                    }
                }
                for input in inputs(count) {
                    decided_facts_are_legal_and_new(&history, &saga, &input);
                }
                ends_if_answered(&saga, log.len() as u64, &Outcome::Done);
            }
        }
    }
    assert_eq!(found, BTreeMap::from([(1, (2, 26)), (2, (10, 961)), (3, (88, 42_152))]));
}

fn decided_facts_are_legal_and_new(history: &History, saga: &Saga, input: &Input) {
    let decided = saga.decide(input);
    assert_eq!(decided, history.worth(input), "{input:?} after {history:?}");
    let Some(event) = decided else { return };
    let (mut after, mut next) = (history.clone(), saga.clone());
    assert!(after.offer(&mut next, &event), "{input:?} decided an illegal {event:?}: {history:?}");
    let attempt = matches!(event, Event::CompensationFailed { .. });
    assert!(attempt || next.decide(input).is_none(), "{input:?} is worth two records: {history:?}");
    if let Some(event) = next.settle() {
        assert!(after.offer(&mut next, &event), "settled an illegal {event:?}: {history:?}");
        assert_eq!(next.settle(), None);
    }
}

/// Recovery, then every debt paid: the saga ends, whether or not steps are refused.
fn every_state_leads_to_an_end(saga: &Saga, last: u64) {
    for outcome in [Outcome::Done, Outcome::Refused { code: 1 }] {
        ends_if_answered(saga, last, &outcome);
    }
}

/// Forward with this, backward with "done".
fn ends_if_answered(saga: &Saga, last: u64, outcome: &Outcome) {
    let (mut saga, mut last) = (saga.clone(), last);
    let mut log = |saga: &mut Saga, event: Option<Event>| {
        if let Some(event) = event {
            last += 1;
            saga.apply(Sequence(last), &event).unwrap();
        }
    };
    let restarted = saga.decide(&Input::Restarted { epoch: Epoch::new(3) });
    log(&mut saga, restarted);
    for _round in 0..20 {
        let settled = saga.settle();
        log(&mut saga, settled);
        let (mut pending, mut again) = (Vec::new(), Vec::new());
        saga.pending(&mut pending);
        saga.pending(&mut again);
        assert_eq!(pending, again);
        assert!(!pending.is_empty(), "nothing to do, and no end: {saga:?}");
        for effect in pending {
            let input = match effect {
                Effect::Run { step, .. } => {
                    Input::Outcome { step, direction: Direction::Forward, outcome: outcome.clone() }
                }
                Effect::Compensate { step, .. } => {
                    let outcome = Outcome::Done;
                    Input::Outcome { step, direction: Direction::Backward, outcome }
                }
                Effect::MarkDone { .. } | Effect::Tell { .. } => continue,
            };
            let decided = saga.decide(&input);
            log(&mut saga, decided);
        }
    }
    assert!(matches!(saga.phase(), Phase::Ended(_)), "{saga:?}");
}

/// Walks every legal sequence of events up to `length` records, offering every event of the
/// alphabet after each; returns how many there are.
fn walk(log: &[Event], alphabet: &[Event], length: usize) -> u64 {
    let mut sequences = 0;
    let mut stack = vec![(History(log.to_vec()), replay(log))];
    while let Some((history, saga)) = stack.pop() {
        history.assert_agrees(&saga);
        sequences += 1;
        if history.0.len() < length {
            for event in alphabet {
                let (mut history, mut saga) = (history.clone(), saga.clone());
                if history.offer(&mut saga, event) {
                    stack.push((history, saga));
                }
            }
        }
    }
    sequences
}

/// From nothing but created: also where steps are missing, come late, twice or in the wrong order.
#[test]
fn every_sequence_of_events() {
    let mut alphabet = events(1);
    alphabet.extend([step_added(1, None), step_added(1, Some(&[0]))]);
    assert_eq!(walk(&[created()], &alphabet, 8), 16_936);
}

/// From the admission of every graph of two and three steps: here every *order* of the records
/// counts, because an effect waits for the last of the records that it rests on.
#[test]
fn every_sequence_of_events_after_an_admission() {
    let mut sequences = BTreeMap::new();
    for count in 2..=3 {
        for graph in graphs(count) {
            let log = admission(&graph);
            *sequences.entry(count).or_insert(0) += walk(&log, &events(count), log.len() + 5);
        }
    }
    assert_eq!(sequences, BTreeMap::from([(2, 28_989), (3, 330_389)]));
}

#[test]
fn every_prefix_of_an_admission_classifies_as_none() {
    for graph in graphs(3) {
        let log = admission(&graph);
        for length in 1..log.len() {
            let mut saga = replay(&log[..length]);
            let class = saga.classification();
            assert_eq!((class.action, class.state), (RecoveryAction::None, "created"));
            assert_eq!((class.run, class.undo, class.next_step), (vec![], vec![], None));
            assert_eq!((class.evidence, class.last), (Sequence(1), Sequence(length as u64)));
            assert_eq!(saga.settle(), None);
            let end = saga.decide(&Input::Restarted { epoch: Epoch::new(2) }).unwrap();
            assert_eq!(end, Event::Aborted);
            saga.apply(Sequence(length as u64 + 1), &end).unwrap();
            assert_eq!(
                History([&log[..length], &[end]].concat()).stage(),
                Stage::Over(saga::End::Aborted)
            );
            assert_eq!(saga.classification().state, "aborted");
        }
        assert_eq!(replay(&log).classification().action, RecoveryAction::SagaResumeExecute);
    }
}
