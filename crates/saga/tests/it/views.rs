//! What can be seen of a saga.

use crate::{ID, admission, ordered, replay, succeeded, undo_failed, undone};
use base::{CoordinatorId, NodeName, Sequence, ShardId};
use saga::{
    Action, AttemptNote, Branch, Definition, Direction, Effect, End, Event, FailedEffect, Input,
    Label, Order, OrderRefusal, Output, Performer, Phase, RecoveryAction, Saga, Step, StepInput,
    StepKind, StepTerms, Turn, Undo, ValueType, What,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// A saga of two steps, one behind the other, whose log goes on like this.
fn log(more: &[Event]) -> Vec<Event> {
    [admission(&[vec![], vec![0]]), more.to_vec()].concat()
}

#[test]
fn what_a_step_has_brought() {
    let output = Output::Inline([1, 2, 3].into());
    let brought = Event::StepSucceeded { step: 0, output: Some(output.clone()) };
    let saga = replay(&log(&[brought, succeeded(1)]));
    let seen: Vec<Option<&Output>> = saga.steps().map(saga::StepState::output).collect();
    assert_eq!(seen, [Some(&output), None]);
}

#[test]
fn why_it_goes_backward() {
    let turn = |more: &[Event]| replay(&log(more)).turn_cause();
    let failed = Event::StepFailed { step: 1, error_code: 5, effect: FailedEffect::None };
    assert_eq!(turn(&[succeeded(0)]), None);
    assert_eq!(turn(&[succeeded(0), failed.clone()]), Some(Turn::Failed { step: 1 }));
    let asked = Event::CompensationStart { cause: None };
    assert_eq!(turn(&[succeeded(0), asked]), Some(Turn::Asked { cause: None }));
    assert_eq!(turn(&[succeeded(0), failed, undone(0), Event::Compensated]), None);
}

#[test]
fn by_what_a_request_is_known_again() {
    let key = base::RequestKey::new(b"order 7, and more than eight bytes").unwrap();
    for expected in [None, Some(key)] {
        let mut log = log(&[succeeded(0)]);
        let Some(Event::Created { request_key, .. }) = log.first_mut() else {
            panic!("a saga begins with its creation")
        };
        request_key.clone_from(&expected);
        assert_eq!(replay(&log).request_key(), expected.as_ref());
    }
}

/// Reports print it as what it is: a string.
#[test]
fn a_label_is_printed_as_a_string() {
    let label = Label::new("take \"7\"").unwrap();
    assert_eq!((label.to_string().as_str(), label.as_str()), ("take \"7\"", "take \"7\""));
    assert_eq!(format!("{label:?}"), r#""take \"7\"""#);
}

fn label(name: &str) -> Label {
    Label::new(name).unwrap()
}

fn branch(number: u64) -> Branch {
    let (shard, node) = (ShardId::numbered(number), NodeName::numbered(number));
    Branch { shard, node, work: [number as u8].into() }
}

/// Everything that a step can be told to be, once.
fn various() -> Definition {
    let node = NodeName::numbered;
    let mut inner = Definition::builder();
    inner.step(Step::new(Action::Custom, node(4), [9]).gives(ValueType::U64));
    let mut builder = Definition::builder();
    builder.name(label("order"), 7).timeout(Duration::from_secs(90));
    let charge = Step::new(Action::EscrowCreate, node(1), [1, 2]).named(label("charge"));
    builder.step(charge.undone_by(label("refund")).gives(ValueType::Bytes));
    let look = Step::new(Action::RouteSelect, node(2), [3]).kind(StepKind::ReadOnly);
    builder.step(look.after(0).timeout(Duration::from_millis(5)).gives(ValueType::Text));
    let moved = Step::transaction([branch(1), branch(2)]).undone_by_transaction([branch(3)]);
    builder.step(moved.after(0).attempts(4));
    builder.step(Step::saga(inner.build().unwrap()).gives(ValueType::U64).after(1).after(2));
    let last = Step::new(Action::Other(77), node(3), []).kind(StepKind::Pivot);
    builder.step(last.after(3).takes(0, ValueType::Bytes).takes(1, ValueType::Text));
    builder.build().unwrap()
}

#[test]
fn a_saga_and_its_steps_are_what_their_definition_says() {
    let definition = various();
    assert_eq!(
        definition.name().map(|name| (name.name.as_str(), name.version)),
        Some(("order", 7))
    );
    assert_eq!((definition.timeout(), definition.depth()), (Some(Duration::from_secs(90)), 2));
    let coordinator = CoordinatorId::numbered(6);
    let saga = replay(&Saga::admission(&definition, coordinator, 0xABC, None));
    assert_eq!((saga.id(), saga.coordinator(), saga.nonce()), (ID, coordinator, 0xABC));
    let terms = saga.terms();
    assert_eq!(
        (&terms.definition.as_ref(), terms.timeout),
        (&definition.name(), definition.timeout())
    );
    assert_eq!((terms.fingerprint, terms.parent), (Some(definition.fingerprint()), None));
    assert_eq!((saga.step_count(), saga.last(), saga.phase()), (5, Sequence(7), Phase::Executing));
    for (number, (asked, state)) in (0..).zip(definition.steps().iter().zip(saga.steps())) {
        assert_eq!(
            (state.number(), state.action(), state.node()),
            (number, asked.action, asked.node)
        );
        assert_eq!(state.dependencies(), Some(&asked.dependencies[..]));
        assert_eq!((state.body(), state.undo_body()), (&asked.body, &asked.body));
        assert_eq!((state.kind(), state.performer()), (asked.kind, &asked.performer));
        let terms = state.terms();
        assert_eq!(
            (terms.timeout, terms.output, terms.attempts),
            (asked.timeout, asked.output, asked.attempts)
        );
        assert_eq!((&terms.action_name, &terms.undo_name), (&asked.action_name, &asked.undo_name));
        assert!(terms.inputs.iter().eq(asked.inputs.iter().map(|(from, _)| from)));
        let undo = match &asked.performer {
            Performer::Transaction(_) => Undo::Transaction([branch(3)].into()),
            Performer::Saga(_) => Undo::Reverse,
            _ => Undo::Call,
        };
        assert_eq!(state.undo(), &undo);
        assert_eq!((state.outcome(), state.compensated(), state.output()), (None, None, None));
        assert_eq!((state.attempts(), state.tries(), state.seen_to()), (0, 0, Sequence::NONE));
        assert!(!state.is_parked() && !state.is_marked_done() && !state.is_overridden());
        assert_eq!(saga.step(number), Some(state));
    }
    assert_eq!(saga.step(5), None);
    let names = |step: u32| saga.step(step).unwrap().terms().action_names().collect::<Vec<_>>();
    assert_eq!(names(0), [&label("charge"), &label("refund")]);
    assert!(names(1).is_empty());
    let performers: Vec<_> = saga.steps().map(|step| step.performer().name()).collect();
    assert_eq!(performers, ["node", "node", "transaction", "saga", "node"]);
}

/// A log holds the whole definition; one that holds anything else is no definition's.
#[test]
fn a_definition_comes_back_from_its_log() {
    let definition = various();
    let admission = Saga::admission(&definition, CoordinatorId::numbered(6), 1, None);
    let [Event::Created { terms, .. }, added @ .., Event::ExecuteStart] = &admission[..] else {
        panic!("an admission")
    };
    assert_eq!(Definition::from_log(terms, added), Some(definition));
    for at in 0..added.len() {
        let mut changes: Vec<fn(&mut u32, &mut Vec<u8>, &mut StepTerms)> = vec![
            |number, _, _| *number += 1,
            |_, body, _| body.push(1),
            |_, _, terms| terms.timeout = Some(Duration::from_secs(3)),
            |_, _, terms| terms.action_name = Label::new("else").ok(),
            |_, _, terms| terms.undo_name = Label::new("else").ok(),
            |_, _, terms| terms.attempts = Some(9),
            |_, _, terms| terms.output = Some(ValueType::Bool),
            |_, _, terms| terms.undo = Undo::Transaction([branch(8)].into()),
        ];
        if at != 1 {
            changes.push(|_, _, terms| terms.kind = StepKind::ReadOnly);
        }
        for change in changes {
            let mut other = added.to_vec();
            let Event::StepAdded { step, body, terms: of_step, .. } = &mut other[at] else {
                panic!("a step")
            };
            let (mut bytes, mut changed) = (body.to_vec(), (**of_step).clone());
            change(step, &mut bytes, &mut changed);
            (*body, *of_step) = (bytes.into(), changed.into());
            assert_eq!(Definition::from_log(terms, &other), None, "step {at}");
        }
    }
    let mut other = terms.clone();
    other.timeout = None;
    assert_eq!(Definition::from_log(&other, added), None);
    assert_eq!(Definition::from_log(terms, &added[..4]), None);
}

/// A step is given what the others have brought, its undo what it has brought itself.
#[test]
fn what_flows_from_step_to_step() {
    let inline = |bytes: &[u8]| Output::Inline(bytes.into());
    let input = |step, output: &Output| StepInput { step, output: output.clone() };
    let given = |saga: &Saga, step, direction| saga.inputs(step, direction).to_vec();
    let mut log = Saga::admission(&various(), CoordinatorId::numbered(6), 1, None);
    let saga = replay(&log);
    assert!(given(&saga, 4, Direction::Forward).is_empty(), "nothing is there yet");
    let (bytes, text) = (inline(&[1, 2, 3]), inline(b"two"));
    log.push(Event::StepSucceeded { step: 0, output: Some(bytes.clone()) });
    let saga = replay(&log);
    assert_eq!(given(&saga, 4, Direction::Forward), [input(0, &bytes)]);
    log.push(Event::StepSucceeded { step: 1, output: Some(text.clone()) });
    let saga = replay(&log);
    assert_eq!(given(&saga, 4, Direction::Forward), [input(0, &bytes), input(1, &text)]);
    assert_eq!(given(&saga, 0, Direction::Backward), [input(0, &bytes)]);
    for (step, direction) in [
        (0, Direction::Forward),
        (2, Direction::Forward),
        (2, Direction::Backward),
        (4, Direction::Backward),
        (9, Direction::Forward),
        (9, Direction::Backward),
    ] {
        assert!(given(&saga, step, direction).is_empty(), "{step} {direction:?}");
    }
    let all: Vec<_> = saga.outputs().collect();
    assert_eq!(all, [input(0, &bytes), input(1, &text)]);
}

/// Each kind of order at each stage of an undo by a call, and what is seen of it.
#[test]
fn which_orders_fit_an_undo_by_a_call() {
    let whats = || {
        let body = || [8].into();
        [
            What::RetryNow,
            What::MarkDone,
            What::CloseUnanswered,
            What::Override { body: body() },
            What::Instead { branches: [branch(1)].into() },
        ]
    };
    // Whether they may be given, and if not, why.
    let answers = |saga: &Saga, step: u32| {
        whats().map(|what| {
            let order = Order { who: "eva".into(), why: "because".into(), what };
            let checked = saga.check_order(step, &order).map(|_| ());
            let decided = saga.decide(&Input::Ordered { step, order: Box::new(order) });
            assert_eq!(decided.is_some(), checked.is_ok(), "what may be ordered is worth a record");
            checked.err()
        })
    };
    let mut log = log(&[succeeded(0), succeeded(1)]);
    assert_eq!(answers(&replay(&log), 0), [OrderRefusal::NotCompensating; 5].map(Some));
    log.push(Event::CompensationStart { cause: None });
    let waits = OrderRefusal::DependentsRemain { step: 0, count: 1 };
    assert_eq!(answers(&replay(&log), 0), [waits; 5].map(Some));
    assert_eq!(answers(&replay(&log), 7), [OrderRefusal::NothingToUndo { step: 7 }; 5].map(Some));
    let (not_marked, not_a_call) =
        (Some(OrderRefusal::NotMarked { step: 1 }), Some(OrderRefusal::NotACall { step: 1 }));
    let fits = [None, None, not_marked, None, not_a_call];
    assert_eq!(answers(&replay(&log), 1), fits);
    let seen = |log: &[Event]| {
        let saga = replay(log);
        let step = saga.step(1).unwrap();
        let count = (saga.parked_count(), saga.parked().collect::<Vec<_>>());
        assert_eq!(count, if step.is_parked() { (1, vec![1]) } else { (0, vec![]) });
        (
            step.attempts(),
            step.tries(),
            step.is_parked(),
            step.is_marked_done(),
            step.is_overridden(),
        )
    };
    log.extend([undo_failed(1, 1), undo_failed(1, 2)]);
    assert_eq!(seen(&log), (2, 2, false, false, false));
    log.push(Event::CompensationFailed { step: 1, attempt: 3, note: AttemptNote::Parked });
    assert_eq!((seen(&log), answers(&replay(&log), 1)), ((3, 3, true, false, false), fits));
    log.push(ordered(1, 3, What::Override { body: [8].into() }));
    assert_eq!(seen(&log), (3, 0, false, false, true), "it has as many tries again");
    assert_eq!(replay(&log).step(1).unwrap().undo_body()[..], [8]);
    assert_eq!(replay(&log).step(1).unwrap().seen_to(), Sequence(log.len() as u64));
    log.push(undo_failed(1, 4));
    assert_eq!(seen(&log), (4, 1, false, false, true));
    log.push(ordered(1, 4, What::MarkDone));
    assert_eq!(seen(&log), (4, 0, false, true, true));
    assert_eq!(answers(&replay(&log), 1), [None, None, None, None, not_a_call]);
    log.push(undone(1));
    assert_eq!(seen(&log), (4, 0, false, false, true), "it is undone");
    assert_eq!(answers(&replay(&log), 1), [OrderRefusal::NothingToUndo { step: 1 }; 5].map(Some));
    // However it stands: nobody keeps more than so much of who and why.
    for (who, why) in [(1_025, 1), (1, 1_025), (1_024, 1_024)] {
        let (who, why) = ("x".repeat(who).into(), "y".repeat(why).into());
        let order = Order { who, why, what: What::RetryNow };
        let refused = replay(&log).check_order(0, &order).map(|_| ());
        let long = order.who.len() + order.why.len() != 2_048;
        let expected = if long { Err(OrderRefusal::TextTooLong { bytes: 1_025 }) } else { Ok(()) };
        assert_eq!(refused, expected);
    }
}

#[test]
fn names_tell_things_apart() {
    let kinds = [
        (Event::ExecuteStart, None),
        (succeeded(4), Some(4)),
        (Event::StepFailed { step: 5, error_code: 1, effect: FailedEffect::None }, Some(5)),
        (Event::CompensationStart { cause: Some(1) }, None),
        (undone(6), Some(6)),
        (undo_failed(7, 1), Some(7)),
        (Event::Completed, None),
        (Event::Compensated, None),
        (Event::Aborted, None),
    ];
    let admitted = admission(&[vec![]]);
    let begins = admitted[..2].iter().cloned().zip([None, Some(0)]);
    let all: Vec<_> = begins.chain(kinds).collect();
    let mut names = BTreeSet::new();
    for (event, step) in &all {
        assert_eq!(event.step(), *step, "{event:?}");
        assert!(event.kind().name().starts_with("saga_"), "{event:?}");
        assert!(names.insert(event.kind().name()), "{event:?}");
    }
    let whats = [
        What::RetryNow,
        What::MarkDone,
        What::CloseUnanswered,
        What::Override { body: [].into() },
        What::Instead { branches: [].into() },
    ];
    assert_eq!(whats.each_ref().map(What::code), [0, 1, 2, 3, 4]);
    assert!(whats.iter().all(|what| names.insert(what.name())));
    let ends = [End::Completed, End::Compensated, End::Aborted];
    assert_eq!(ends.map(End::name), ["completed", "compensated", "aborted"]);
    let phases = [Phase::Created, Phase::Executing, Phase::Compensating, Phase::Ended(ends[2])];
    assert_eq!(phases.map(Phase::name), ["created", "executing", "compensating", "aborted"]);
    let actions = [
        RecoveryAction::SagaResumeExecute,
        RecoveryAction::SagaResumeCompensate,
        RecoveryAction::None,
    ];
    let expected = ["saga_resume_execute", "saga_resume_compensate", "none"];
    assert_eq!(actions.map(RecoveryAction::name), expected);
    let after = Sequence(9);
    let (token, end) = (base::Token::new(1), End::Aborted);
    for effect in [
        Effect::Run { step: 1, token, after },
        Effect::Compensate { step: 1, token, after },
        Effect::MarkDone { step: 1, token, after },
        Effect::Tell { end, after },
    ] {
        assert_eq!(effect.after(), after);
    }
}
