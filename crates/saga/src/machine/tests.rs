use super::*;
use crate::definition::{Action, Definition};
use crate::event::{AttemptNote, Direction, Effect, End, Event, Input};
use crate::kind::StepKind;
use crate::order::{Order, What};
use crate::performer::{Performer, Undo};
use crate::terms::{SagaTerms, StepTerms};
use base::{CoordinatorId, NodeName, OperationId, ParentStep, Sequence, Token, prng};
use std::sync::Arc;

fn created(nonce: u128) -> Saga {
    let coordinator = CoordinatorId::numbered(1);
    let terms = SagaTerms::default();
    let event = Event::Created { coordinator, nonce, request_key: None, terms };
    Saga::created(OperationId(1), Sequence(1), &event).unwrap()
}

fn added(step: u32, dependencies: Option<Vec<u32>>) -> Event {
    let (action, node, body) = (Action::Custom, NodeName::numbered(1), Arc::from([]));
    let dependencies = dependencies.map(Into::into);
    Event::StepAdded { step, action, dependencies, node, body, terms: Arc::default() }
}

#[test]
fn a_token_names_saga_step_and_direction() {
    let mut tokens = Vec::new();
    for nonce in [0, 1, u128::MAX] {
        let saga = created(nonce);
        for step in [0, 1, u32::MAX] {
            let forward = saga.token(step, Direction::Forward);
            let backward = saga.token(step, Direction::Backward);
            assert_eq!(forward, Token::new(prng::keyed_hash(nonce, step.into(), 0)));
            assert_eq!(backward, Token::new(prng::keyed_hash(nonce, step.into(), 1)));
            tokens.extend([forward, backward]);
        }
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 18);
}

#[test]
fn dependencies_ascend_and_count_once_however_a_foreign_log_names_them() {
    let mut saga = created(0);
    let named = [vec![], vec![], vec![1, 0, 1], vec![2, 1, 0], vec![0, 2, 3], vec![1, 1]];
    for (step, on) in (0..).zip(named) {
        saga.apply(Sequence(2), &added(step, Some(on.clone()))).unwrap();
        let on = BTreeSet::from_iter(on);
        let kept = saga.step(step).unwrap().dependencies().unwrap();
        assert_eq!(kept, on.into_iter().collect::<Vec<_>>());
    }
}

/// A saga that is a step of another one owes its end only to that one's word, and until then it can be
/// turned by it, but not by its own clock.
#[test]
fn a_sub_saga_ends_when_it_is_released() {
    let parent = ParentStep { saga: OperationId(9), step: 3, undo: false };
    let mut builder = Definition::builder();
    builder.step(crate::Step::new(Action::Custom, NodeName::numbered(1), []));
    let definition = builder.build().unwrap();
    let admission = Saga::admission(&definition, CoordinatorId::numbered(1), 7, None);
    let admission = Saga::on_behalf_of(parent, admission);
    let mut saga = Saga::created(OperationId(1), Sequence(1), &admission[0]).unwrap();
    for event in &admission[1..] {
        saga.apply(Sequence(2), event).unwrap();
    }
    assert_eq!(saga.terms().parent, Some(parent));
    assert_eq!(saga.through(), None);
    assert_eq!(saga.decide(&Input::Released), None);
    assert_eq!(saga.decide(&Input::TimedOut), Some(Event::CompensationStart { cause: None }));
    assert!(saga.awaits(0, Direction::Forward) && !saga.awaits(0, Direction::Backward));
    saga.apply(Sequence(3), &Event::StepSucceeded { step: 0, output: None }).unwrap();
    assert!(!saga.awaits(0, Direction::Forward));
    assert_eq!(saga.through(), Some(End::Completed));
    assert_eq!((saga.settle(), saga.decide(&Input::TimedOut)), (None, None));
    assert_eq!(saga.decide(&Input::Restarted { epoch: base::Epoch::new(2) }), None);
    assert_eq!(saga.decide(&Input::Released), Some(Event::Completed));

    let turn = saga.decide(&Input::Cancel).unwrap();
    saga.apply(Sequence(4), &turn).unwrap();
    assert!(saga.awaits(0, Direction::Backward));
    assert_eq!(saga.decide(&Input::Released), None);
    let undone = Event::CompensationSucceeded { step: 0, heuristic: false };
    saga.apply(Sequence(5), &undone).unwrap();
    assert_eq!((saga.through(), saga.settle()), (Some(End::Compensated), None));
    assert_eq!(saga.decide(&Input::Released), Some(Event::Compensated));
    saga.apply(Sequence(6), &Event::Compensated).unwrap();
    assert_eq!((saga.through(), saga.decide(&Input::Released)), (None, None));
}

/// A saga with this step alone, which may run.
fn alone(terms: StepTerms) -> Saga {
    let mut saga = created(0);
    let (action, node, body) = (Action::Custom, NodeName::numbered(1), Arc::from([]));
    let terms = Arc::new(terms);
    let step = Event::StepAdded { step: 0, action, dependencies: None, node, body, terms };
    saga.apply(Sequence(2), &step).unwrap();
    saga.apply(Sequence(3), &Event::ExecuteStart).unwrap();
    saga
}

fn by_transaction(kind: StepKind) -> StepTerms {
    let branches: Arc<[crate::Branch]> = [].into();
    let performer = Performer::Transaction(Arc::clone(&branches));
    StepTerms { kind, performer, undo: Undo::Transaction(branches), ..StepTerms::default() }
}

fn order(what: What) -> Input {
    let (who, why) = ("eva".into(), "because".into());
    Input::Ordered { step: 0, order: Box::new(Order { who, why, what }) }
}

/// Only what cannot fail, and a transaction does, waits for an operator going forward; it is pending no
/// more, and his order counts once.
#[test]
fn a_step_whose_abort_was_forced_waits_for_an_operator() {
    let forced = Input::AbortForced { step: 0 };
    let parked = Event::CompensationFailed { step: 0, attempt: 1, note: AttemptNote::Parked };
    let called = StepTerms { kind: StepKind::Retriable, ..StepTerms::default() };
    for terms in [called, by_transaction(StepKind::Pivot), by_transaction(StepKind::Compensatable)]
    {
        let mut saga = alone(terms);
        assert_eq!(saga.decide(&forced), None);
        let illegal = saga.apply(Sequence(4), &parked).unwrap_err();
        assert_eq!(illegal.reason, Reason::NotCompensating);
    }
    let mut saga = alone(by_transaction(StepKind::Retriable));
    let pending = |saga: &Saga| {
        let mut owed = Vec::new();
        saga.pending(&mut owed);
        owed.first().map(Effect::after)
    };
    for what in [What::RetryNow, What::MarkDone] {
        assert_eq!(saga.decide(&order(what)), None, "it does not wait");
    }
    assert_eq!(saga.decide(&forced).as_ref(), Some(&parked));
    saga.apply(Sequence(4), &parked).unwrap();
    assert_eq!((saga.decide(&forced), pending(&saga)), (None, None));
    let class = saga.classification();
    assert_eq!((&class.run[..], &class.parked[..], saga.parked_count()), (&[][..], &[0][..], 1));

    let retried = saga.decide(&order(What::RetryNow)).unwrap();
    saga.apply(Sequence(5), &retried).unwrap();
    assert_eq!((pending(&saga), saga.parked_count()), (Some(Sequence(5)), 0), "behind the order");
    assert_eq!(saga.apply(Sequence(6), &retried).unwrap_err().reason, Reason::NotParked);
    let again = saga.decide(&forced).unwrap();
    saga.apply(Sequence(6), &again).unwrap();
    let call = What::Override { body: [].into() };
    assert_eq!(saga.decide(&order(call)), None);
    let done = saga.decide(&order(What::MarkDone)).unwrap();
    saga.apply(Sequence(7), &done).unwrap();
    assert_eq!((saga.parked_count(), saga.settle()), (0, Some(Event::Completed)));
}

/// What a transaction undoes is closed at once, but only while nothing runs that could undo it again.
#[test]
fn an_undo_by_transaction_is_seen_to_while_it_waits() {
    let mut saga = alone(by_transaction(StepKind::Compensatable));
    saga.apply(Sequence(4), &Event::StepSucceeded { step: 0, output: None }).unwrap();
    saga.apply(Sequence(5), &Event::CompensationStart { cause: None }).unwrap();
    let instead = || {
        let (shard, node) = (base::ShardId::numbered(1), NodeName::numbered(1));
        What::Instead { branches: [crate::Branch { shard, node, work: [7].into() }].into() }
    };
    let illegal = |saga: &mut Saga, what| {
        let Input::Ordered { order, .. } = order(what) else { unreachable!("it is an order") };
        let note = AttemptNote::Ordered(order);
        let event = Event::CompensationFailed { step: 0, attempt: 1, note };
        saga.apply(Sequence(6), &event).unwrap_err().reason
    };
    for what in [What::MarkDone, instead()] {
        assert_eq!(saga.decide(&order(what.clone())), None);
        assert_eq!(illegal(&mut saga, what), Reason::NotParked);
    }
    let parked = saga.decide(&Input::GiveUpUndo { step: 0 }).unwrap();
    saga.apply(Sequence(6), &parked).unwrap();
    let replaced = saga.decide(&order(instead())).unwrap();
    saga.apply(Sequence(7), &replaced).unwrap();
    let Undo::Transaction(branches) = saga.step(0).unwrap().undo() else { panic!("by one") };
    assert_eq!((branches.len(), saga.parked_count()), (1, 0));
    let parked = saga.decide(&Input::GiveUpUndo { step: 0 }).unwrap();
    saga.apply(Sequence(8), &parked).unwrap();
    let done = saga.decide(&order(What::MarkDone)).unwrap();
    saga.apply(Sequence(9), &done).unwrap();
    let closed = Event::CompensationSucceeded { step: 0, heuristic: true };
    assert_eq!(saga.settle().as_ref(), Some(&closed));
    saga.apply(Sequence(10), &closed).unwrap();
    assert_eq!((saga.parked_count(), saga.settle()), (0, Some(Event::Compensated)));
}

/// Numbers that descend, or that are far apart, cost a replay no more than others; nor does a
/// saga of half a million steps that is run and undone.
#[test]
fn a_foreign_log_may_hold_a_very_long_saga() {
    const STEPS: u32 = 500_000;
    let mut saga = created(0);
    let mut sequence = 1;
    let mut apply = |saga: &mut Saga, event| {
        sequence += 1;
        saga.apply(Sequence(sequence), &event).unwrap();
    };
    let numbers = || (0..STEPS).map(|step| u32::MAX - step * 8_000);
    numbers().for_each(|step| apply(&mut saga, added(step, None)));
    assert_eq!(saga.step_count(), STEPS);
    apply(&mut saga, Event::ExecuteStart);
    numbers().rev().for_each(|step| apply(&mut saga, Event::StepSucceeded { step, output: None }));
    apply(&mut saga, Event::CompensationStart { cause: None });
    assert_eq!(saga.classification().undo, Vec::from_iter(numbers()));
    let undone = |step| Event::CompensationSucceeded { step, heuristic: false };
    numbers().for_each(|step| apply(&mut saga, undone(step)));
    assert_eq!(saga.settle(), Some(Event::Compensated));
}
