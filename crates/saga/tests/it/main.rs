//! The saga machine from outside: everything here uses the public face alone.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

mod model;
mod random;
mod small_worlds;
mod transcripts;
mod views;
mod world;

use base::{CoordinatorId, NodeName, OperationId, Sequence};
use saga::{
    Action, AttemptNote, Definition, DefinitionError, Event, Order, Saga, SagaTerms, Step,
    StepKind, StepTerms, What,
};
use std::sync::Arc;

/// The id of every saga here.
const ID: OperationId = OperationId(1);

fn created() -> Event {
    let (coordinator, terms) = (CoordinatorId::numbered(1), SagaTerms::default());
    Event::Created { coordinator, nonce: 7, request_key: None, terms }
}

fn step_added(step: u32, dependencies: Option<&[u32]>) -> Event {
    Event::StepAdded {
        step,
        action: Action::Custom,
        dependencies: dependencies.map(Into::into),
        node: NodeName::numbered(u64::from(step)),
        body: Arc::from([]),
        terms: Default::default(),
    }
}

fn step_of_kind(number: u32, on: Option<&[u32]>, kind: StepKind) -> Event {
    match step_added(number, on) {
        Event::StepAdded { step, action, dependencies, node, body, .. } => {
            let terms = StepTerms { kind, ..StepTerms::default() }.into();
            Event::StepAdded { step, action, dependencies, node, body, terms }
        }
        other => unreachable!("a step is added: {other:?}"),
    }
}

fn ordered(step: u32, attempt: u32, what: What) -> Event {
    let (who, why) = ("somebody".into(), "because".into());
    let note = AttemptNote::Ordered(Box::new(Order { who, why, what }));
    Event::CompensationFailed { step, attempt, note }
}

fn succeeded(step: u32) -> Event {
    Event::StepSucceeded { step, output: None }
}

fn undone(step: u32) -> Event {
    Event::CompensationSucceeded { step, heuristic: false }
}

fn undo_failed(step: u32, attempt: u32) -> Event {
    Event::CompensationFailed { step, attempt, note: AttemptNote::Retried }
}

/// The admission of the saga whose step `n` depends on `graph[n]`, of compensatable steps.
fn admission(graph: &[Vec<u32>]) -> Vec<Event> {
    admission_of_kinds(graph, &vec![StepKind::Compensatable; graph.len()])
}

/// The same of these kinds of steps, which go together.
fn admission_of_kinds(graph: &[Vec<u32>], kinds: &[StepKind]) -> Vec<Event> {
    let definition = definition(graph, kinds).expect("earlier steps, and kinds that go together");
    Saga::admission(&definition, CoordinatorId::numbered(1), 7, None)
}

fn definition(graph: &[Vec<u32>], kinds: &[StepKind]) -> Result<Definition, DefinitionError> {
    let mut builder = Definition::builder();
    for (dependencies, kind) in graph.iter().zip(kinds) {
        let step = Step::new(Action::Custom, NodeName::numbered(1), []).kind(*kind);
        builder.step(dependencies.iter().fold(step, |step, &on| step.after(on)));
    }
    builder.build()
}

/// The saga of a legal log whose first record has sequence 1.
fn replay(log: &[Event]) -> Saga {
    let mut saga = Saga::created(ID, Sequence(1), &log[0]).expect("begins with created");
    for (sequence, event) in (2..).zip(&log[1..]) {
        saga.apply(Sequence(sequence), event).expect("a legal log");
    }
    saga
}
