//! What an operation costs its coordinator in forces of the log: as few as the protocol allows, and
//! exactly as many as promised.

use crate::village::Village;
use base::{NodeName, ShardId};
use node::work::{self, Change};
use node::{Branch, Outcome, Work};
use saga::{Action, Definition, Step};

/// Forces that one operation costs, when nothing shares them.
fn forces(village: &mut Village, key: &str, work: Work, expected: &Outcome) -> u64 {
    let before = village.log().syncs;
    assert_eq!(village.submit(key, work), *expected, "{key}");
    village.log().syncs - before
}

fn add(cell: u64) -> std::sync::Arc<[u8]> {
    work::encode(&[Change::Add { cell, amount: 1 }])
}

fn step(number: u64) -> Step {
    Step::new(Action::ShardWrite, NodeName::numbered(1 + number % 3), add(number))
}

/// The first transaction with a participant also learns its store; that costs no force.
fn transaction(at_least: i64) -> Work {
    let branch = |number: u64| Branch {
        shard: ShardId::numbered(number),
        node: NodeName::numbered(number),
        work: work::encode(&[
            Change::Add { cell: 7, amount: 1 },
            Change::Require { cell: 9, at_least },
        ]),
    };
    Work::Transaction((1..=3).map(branch).collect())
}

#[test]
fn a_saga_of_five_steps_in_a_row_costs_six_forces() {
    let mut village = Village::new(4);
    let mut builder = Definition::builder();
    let mut last = None;
    for number in 0..5 {
        let next = step(number);
        last = Some(builder.step(match last {
            Some(last) => next.after(last),
            None => next,
        }));
    }
    let work = Work::Saga(builder.build().expect("a row"));
    assert_eq!(forces(&mut village, "row", work, &Outcome::Completed), 6);
}

#[test]
fn sixteen_steps_in_parallel_and_a_join_cost_three_forces() {
    let mut village = Village::new(4);
    let mut builder = Definition::builder();
    builder.limits(saga::Limits { dependencies_max: 16, ..saga::Limits::default() });
    let wide: Vec<u32> = (0..16).map(|number| builder.step(step(number))).collect();
    let mut join = step(16);
    for step in wide {
        join = join.after(step);
    }
    builder.step(join);
    let work = Work::Saga(builder.build().expect("a join"));
    assert_eq!(forces(&mut village, "wide", work, &Outcome::Completed), 3);
}

#[test]
fn a_committed_transaction_costs_one_force_and_an_aborted_one_none() {
    let mut village = Village::new(4);
    assert_eq!(forces(&mut village, "yes", transaction(0), &Outcome::Committed), 1);
    assert_eq!(forces(&mut village, "no", transaction(1), &Outcome::Aborted), 0);
    // The records of both are in the log all the same.
    let operations = village.node(0).coordinator().expect("it coordinates").active();
    assert_eq!(operations, 0);
    assert_eq!(village.node(1).participant().expect("it takes part").store().value(7), 1);
    assert_eq!(village.node(1).participant().map(|p| p.locks().held(village.now).count()), Some(0));
}

#[test]
fn the_same_request_again_is_the_same_operation() {
    let mut village = Village::new(4);
    assert_eq!(village.submit("once", transaction(0)), Outcome::Committed);
    assert_eq!(village.submit("once", transaction(0)), Outcome::Committed);
    assert_eq!(village.node(1).participant().expect("it takes part").store().value(7), 1);
}

/// A round that ended after each input would write the first saga alone, and all others behind it.
#[test]
fn sagas_that_come_together_share_their_first_force() {
    let mut village = Village::new(4);
    let saga = |number: u64| {
        let mut builder = Definition::builder();
        builder.step(step(number));
        (format!("saga {number}"), Work::Saga(builder.build().expect("one step")))
    };
    let before = village.log().syncs;
    assert_eq!(village.submit_together((0..10).map(saga)), 1);
    assert_eq!(village.told.len(), 10);
    assert!(village.told.values().all(|outcome| *outcome == Outcome::Completed));
    // One for all admissions; the ends are told one by one here.
    assert!(village.log().syncs - before <= 11, "{}", village.log().syncs - before);
}
