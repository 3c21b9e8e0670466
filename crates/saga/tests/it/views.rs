//! What can be seen of a saga.

use crate::{admission, replay, succeeded, undone};
use saga::{Event, FailedEffect, Output, Turn};

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
    let label = saga::Label::new("take \"7\"").unwrap();
    assert_eq!((label.to_string().as_str(), label.as_str()), ("take \"7\"", "take \"7\""));
    assert_eq!(format!("{label:?}"), r#""take \"7\"""#);
}
