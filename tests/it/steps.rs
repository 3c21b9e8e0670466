//! Steps that are transactions or sagas of their own, with a coordinator that crashes at every place.

use crate::village::Village;
use base::{NodeName, ShardId};
use node::work::{self, Change};
use node::{Branch, Outcome, Work};
use saga::{Action, Definition, Step, StepKind};

const NODES: u64 = 4;

fn add(cell: u64, amount: i64) -> Change {
    Change::Add { cell, amount }
}

/// What no cell ever holds.
fn impossible(cell: u64) -> Change {
    Change::Require { cell, at_least: i64::MAX }
}

fn call(node: u64, changes: &[Change]) -> Step {
    Step::new(Action::Custom, NodeName::numbered(node), work::encode(changes))
}

/// One branch at each of these nodes.
fn branches(changes: &[(u64, &[Change])]) -> Vec<Branch> {
    let branch = |(node, changes): &(u64, &[Change])| Branch {
        shard: ShardId::numbered(*node),
        node: NodeName::numbered(*node),
        work: work::encode(changes),
    };
    changes.iter().map(branch).collect()
}

fn row(steps: impl IntoIterator<Item = Step>) -> Definition {
    let mut builder = Definition::builder();
    let mut last: Option<u32> = None;
    for step in steps {
        let step = last.into_iter().fold(step, Step::after);
        last = Some(builder.step(step));
    }
    builder.build().expect("a row of steps that go together")
}

/// Pays from one account at node 1 to one at node 2.
fn transfer() -> Step {
    let there = branches(&[(1, &[add(10, -5)]), (2, &[add(20, 5)])]);
    let back = branches(&[(1, &[add(10, 5)]), (2, &[add(20, -5)])]);
    Step::transaction(there).undone_by_transaction(back)
}

/// What cells 10, 20, 30, … of nodes 1, 2 and 3 hold.
fn cells(village: &Village) -> [i64; 6] {
    let value = |node: usize, cell| {
        village.node(node).participant().expect("all take part").store().value(cell)
    };
    [value(1, 10), value(2, 20), value(3, 30), value(1, 11), value(2, 21), value(3, 31)]
}

/// The same saga, with a crash of its coordinator after each number of outputs until none hits it. However
/// that is, it ends as it would without, and leaves these values.
fn ends_everywhere_as(definition: &Definition, outcome: &Outcome, left: [i64; 6]) {
    let work = Work::Saga(definition.clone());
    for crash in 0.. {
        let mut village = Village::new(NODES as usize);
        village.crash_in = Some(crash);
        let told = village.submit_until_told("saga", &work);
        let hit = village.crash_in.is_none();
        let case = if hit { format!("a crash after {crash} outputs") } else { "no crash".into() };
        assert_eq!(told.as_ref(), Some(outcome), "{case}");
        assert_eq!(cells(&village), left, "{case}");
        let engine = village.node(0).coordinator().expect("it coordinates");
        assert_eq!(engine.active(), 0, "{case}: something goes on");
        assert_eq!(engine.step_operations().count(), 0, "{case}");
        for node in 1..NODES as usize {
            let host = village.node(node).participant().expect("all take part");
            assert_eq!(host.locks().held(village.now).count(), 0, "{case}: a lock at {node}");
        }
        if !hit {
            assert!(crash > 20, "only {crash} outputs");
            return;
        }
    }
}

#[test]
fn a_transaction_is_a_step_among_others() {
    let definition = row([call(3, &[add(30, 1)]), transfer(), call(3, &[add(31, 2)])]);
    ends_everywhere_as(&definition, &Outcome::Completed, [-5, 5, 1, 0, 0, 2]);
}

#[test]
fn a_transaction_that_is_voted_down_turns_the_saga() {
    let refused = branches(&[(1, &[add(10, -5)]), (2, &[add(20, 5), impossible(20)])]);
    let step = Step::transaction(refused).undone_at(NodeName::numbered(1), []);
    let definition = row([call(3, &[add(30, 1)]), step]);
    ends_everywhere_as(&definition, &Outcome::Compensated, [0; 6]);
}

#[test]
fn a_transaction_is_undone_by_another_one() {
    let refused = call(3, &[add(31, 2), impossible(31)]);
    ends_everywhere_as(&row([transfer(), refused]), &Outcome::Compensated, [0; 6]);
}

#[test]
fn a_transaction_is_undone_by_a_call() {
    // The call's body says what is to be undone.
    let there = branches(&[(1, &[add(10, -5)])]);
    let step =
        Step::transaction(there).undone_at(NodeName::numbered(1), work::encode(&[add(10, -5)]));
    let refused = call(3, &[add(31, 2), impossible(31)]);
    ends_everywhere_as(&row([step, refused]), &Outcome::Compensated, [0; 6]);
}

#[test]
fn a_transaction_may_be_the_pivot_or_stand_behind_it() {
    let pivot = Step::transaction(branches(&[(1, &[add(10, -5)]), (2, &[add(20, 5)])]));
    let behind = Step::transaction(branches(&[(1, &[add(11, 1)]), (3, &[add(31, 1)])]));
    let steps =
        [call(3, &[add(30, 1)]), pivot.kind(StepKind::Pivot), behind.kind(StepKind::Retriable)];
    ends_everywhere_as(&row(steps), &Outcome::Completed, [-5, 5, 1, 1, 0, 1]);
}

#[test]
fn a_saga_is_a_step_of_another_one() {
    let inner = row([call(1, &[add(11, 1)]), call(2, &[add(21, 1)])]);
    let definition = row([call(3, &[add(30, 1)]), Step::saga(inner), call(3, &[add(31, 2)])]);
    ends_everywhere_as(&definition, &Outcome::Completed, [0, 0, 1, 1, 1, 2]);
}

#[test]
fn a_saga_that_is_compensated_is_a_step_that_was_refused() {
    let inner = row([call(1, &[add(11, 1)]), call(2, &[add(21, 1), impossible(21)])]);
    let definition = row([call(3, &[add(30, 1)]), Step::saga(inner)]);
    ends_everywhere_as(&definition, &Outcome::Compensated, [0; 6]);
}

#[test]
fn a_saga_that_is_done_is_undone_by_its_own_compensations() {
    let innermost = row([call(3, &[add(30, 1)]), transfer()]);
    let inner = row([call(1, &[add(11, 1)]), Step::saga(innermost), call(2, &[add(21, 1)])]);
    let refused = call(3, &[add(31, 2), impossible(31)]);
    ends_everywhere_as(&row([Step::saga(inner), refused]), &Outcome::Compensated, [0; 6]);
}

#[test]
fn a_saga_with_a_pivot_is_undone_by_what_is_named() {
    let pivot = call(2, &[add(21, 1)]).kind(StepKind::Pivot);
    let inner = row([call(1, &[add(11, 1)]), pivot]);
    let back = branches(&[(1, &[add(11, -1)]), (2, &[add(21, -1)])]);
    let step = Step::saga(inner).undone_by_transaction(back);
    let refused = call(3, &[add(31, 2), impossible(31)]);
    ends_everywhere_as(&row([step, refused]), &Outcome::Compensated, [0; 6]);
}
