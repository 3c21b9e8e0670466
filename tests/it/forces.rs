//! What an operation costs its coordinator in forces of the log: as few as the protocol allows, and
//! exactly as many as promised.

use crate::village::Village;
use base::{NodeName, ShardId};
use node::work::{self, Change};
use node::{Branch, MessageKind, Outcome, Refusal, Work};
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

/// A step that is an operation costs no more than one that is a call, or than those that are in it.
#[test]
fn steps_that_are_operations_cost_no_force_of_their_own() {
    let mut village = Village::new(4);
    assert_eq!(village.submit("to know them", transaction(0)), Outcome::Committed);
    let Work::Transaction(branches) = transaction(0) else { unreachable!("it is one") };
    let row = |steps: Vec<Step>| {
        let mut builder = Definition::builder();
        let mut last: Option<u32> = None;
        for step in steps {
            last = Some(builder.step(last.into_iter().fold(step, Step::after)));
        }
        builder.build().expect("a row")
    };
    let pay = Step::transaction(branches.clone()).undone_by_transaction(branches);
    let work = Work::Saga(row(vec![step(0), pay, step(2)]));
    assert_eq!(forces(&mut village, "three", work, &Outcome::Completed), 4);
    let inner = Step::saga(row(vec![step(1), step(2)]));
    let work = Work::Saga(row(vec![step(0), inner, step(3)]));
    assert_eq!(forces(&mut village, "four", work, &Outcome::Completed), 5);
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

/// One branch for each of these nodes: it adds to a cell, or only looks at it.
fn branches(of: &[(u64, bool)]) -> Work {
    let branch = |(number, looks): &(u64, bool)| {
        let change = match looks {
            true => Change::Look { cell: 7, at_least: i64::MIN },
            false => Change::Add { cell: 7, amount: 1 },
        };
        let (shard, node) = (ShardId::numbered(*number), NodeName::numbered(*number));
        Branch { shard, node, work: work::encode(&[change]) }
    };
    Work::Transaction(of.iter().map(branch).collect())
}

/// What an operation cost: forces of its coordinator, of its participants, and messages, to and fro.
fn costs(village: &mut Village, key: &str, work: Work, expected: &Outcome) -> (u64, Vec<u64>, u64) {
    let participants = |village: &Village| -> Vec<u64> {
        let host = |number| village.node(number).participant().expect("it takes part");
        (1..=3).map(|number| host(number).log().stats().syncs).collect()
    };
    let sent = |village: &Village| -> u64 {
        let handshake = [MessageKind::Hello, MessageKind::Announce];
        let kinds = village.sent.iter().filter(|(kind, _)| !handshake.contains(kind));
        kinds.map(|(_, count)| *count).sum()
    };
    let (before, messages) = (participants(village), sent(village));
    let forced = forces(village, key, work, expected);
    let after = participants(village);
    let synced = after.iter().zip(before).map(|(after, before)| after - before).collect();
    (forced, synced, sent(village) - messages)
}

/// The table of what each way of ending a transaction costs. The first transaction teaches
/// everybody the coordinator's epoch, which is forced once.
#[test]
fn what_a_transaction_costs_in_forces_and_messages() {
    let mut village = Village::new(4);
    village.submit("warm", branches(&[(1, false), (2, false), (3, false)]));
    let (write, look) = (false, true);
    // In two phases: a force of the coordinator's, two of each that writes, four messages each.
    let two = branches(&[(1, write), (2, write)]);
    assert_eq!(costs(&mut village, "two", two, &Outcome::Committed), (1, vec![2, 2, 0], 8));
    // Who only looks forces nothing, and hears nothing after its vote.
    let mixed = branches(&[(1, write), (2, write), (3, look)]);
    assert_eq!(costs(&mut village, "mixed", mixed, &Outcome::Committed), (1, vec![2, 2, 0], 10));
    // Where all do, nobody forces anything.
    let looks = branches(&[(1, look), (2, look), (3, look)]);
    assert_eq!(costs(&mut village, "looks", looks, &Outcome::ReadOnly), (0, vec![0, 0, 0], 6));
    // Alone: one force each, and a question with its answer.
    let alone = branches(&[(1, write)]);
    assert_eq!(costs(&mut village, "alone", alone, &Outcome::Committed), (1, vec![1, 0, 0], 2));
    let alone = branches(&[(1, look)]);
    assert_eq!(costs(&mut village, "alone too", alone, &Outcome::ReadOnly), (1, vec![0, 0, 0], 2));
    for (number, value) in [(1, 4), (2, 3), (3, 1)] {
        let store = village.node(number).participant().expect("it takes part").store();
        assert_eq!(store.value(7), value);
    }
}

/// A request's key with another request is refused, by the process that knows it and by the next one.
#[test]
fn another_request_under_a_transactions_key_is_refused() {
    let mut village = Village::new(4);
    for (key, first) in [("a", &[(1, false), (2, false)][..]), ("b", &[(1, false)])] {
        assert_eq!(village.submit(key, branches(first)), Outcome::Committed);
    }
    let taken = Outcome::Refused(Refusal::KeyTaken);
    let ask = |village: &mut Village| {
        for (key, first, others) in [
            ("a", &[(1, false), (2, false)][..], &[(1, false)][..]),
            ("b", &[(1, false)], &[(1, true)]),
        ] {
            assert_eq!(village.submit(key, branches(first)), Outcome::Committed);
            assert_eq!(village.submit(key, branches(others)), taken);
        }
    };
    ask(&mut village);
    village.restart(0);
    ask(&mut village);
    assert_eq!(village.node(1).participant().expect("it takes part").store().value(7), 2);
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
