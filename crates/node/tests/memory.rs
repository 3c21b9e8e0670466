//! A node's memory does not grow with what it has done: only with what is unfinished, its data, and the
//! results that it keeps.
//!
//! `cargo xtask memory node` runs a million operations instead of some thousands, and prints what is
//! allocated along the way.

mod shell;

use base::prng::Key;
use base::{RequestKey, ShardId};
use node::work::{self, Change};
use node::{Branch, Config, Input, Outcome, Request, Work};
use peak_alloc::PeakAlloc;
use saga::{Action, Definition, Step};
use shell::{ME, Shell};
use std::time::Duration;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// A node with logs that are compacted often and few results to keep.
fn start() -> Shell {
    let mut config = Config::both(ME, 1, Key::root(1));
    config.log.max_records = 400;
    config.log.segment_bytes_first = 64 << 10;
    if let Some(coordinator) = &mut config.coordinator {
        coordinator.results_max = 64;
    }
    Shell::start(config)
}

/// Does one operation to its end.
fn do_one(shell: &mut Shell, number: u64, work: &Work, expected: &Outcome) {
    let key = RequestKey::new(&number.to_le_bytes()).expect("eight bytes are few");
    shell.handle(Input::Submit(Request { key, work: work.clone() }));
    let told = shell.told.pop().map(|(_, outcome)| outcome);
    assert_eq!(told.as_ref(), Some(expected), "operation {number}");
    // What an abort sends again, and timers of what has ended.
    shell.now += Duration::from_millis(2_000);
    shell.handle(Input::Wake);
}

/// One of each kind: two phases, one, nothing to change, nothing possible; a saga that is done, and one
/// that is undone.
fn kinds() -> Vec<(Work, Outcome)> {
    let add = |cell| Change::Add { cell, amount: 1 };
    let branch = |shard, changes: &[Change]| Branch {
        shard: ShardId::numbered(shard),
        node: ME,
        work: work::encode(changes),
    };
    let impossible = Change::Require { cell: 1, at_least: i64::MAX };
    let look = Change::Look { cell: 1, at_least: i64::MIN };
    let two = |first: Change, second: &[Change]| {
        Work::Transaction(vec![branch(1, &[first]), branch(2, second)])
    };
    let saga = |last: &[Change]| {
        let mut builder = Definition::builder();
        let first = builder.step(Step::new(Action::Custom, ME, work::encode(&[add(3)])));
        builder.step(Step::new(Action::Custom, ME, work::encode(last)).after(first));
        Work::Saga(builder.build().expect("a row of two steps"))
    };
    vec![
        (two(add(1), &[add(2)]), Outcome::Committed),
        (Work::Transaction(vec![branch(1, &[add(1)])]), Outcome::Committed),
        (two(look, &[Change::Look { cell: 2, at_least: 0 }]), Outcome::ReadOnly),
        (two(add(5), &[add(2), impossible]), Outcome::Aborted),
        (saga(&[add(4)]), Outcome::Completed),
        (saga(&[add(4), impossible]), Outcome::Compensated),
    ]
}

#[test]
fn memory_is_flat_however_much_was_done() {
    let operations: u64 = std::env::var("NODE_MEMORY_OPERATIONS")
        .map_or(6_000, |count| count.parse().expect("it is a number"));
    let (mut shell, kinds) = (start(), kinds());
    let steps = 10;
    let mut highest = [0; 2];
    for step in 0..steps {
        let mut most = 0;
        for number in step * operations / steps..(step + 1) * operations / steps {
            let (work, expected) = &kinds[(number % kinds.len() as u64) as usize];
            do_one(&mut shell, number, work, expected);
            most = most.max(ALLOCATED.current_usage());
        }
        println!("{:>8} operations: at most {most} bytes", (step + 1) * operations / steps);
        // The first half says what there may be.
        let half = usize::from(step >= steps / 2);
        highest[half] = most.max(highest[half]);
    }
    let logs = [
        shell.node.coordinator().expect("it coordinates").log(),
        shell.node.participant().expect("it takes part").log(),
    ];
    assert!(logs.iter().all(|log| log.stats().compactions >= 10), "they were compacted");
    let [before, after] = highest;
    // Compactions fall where they fall: some noise is left, and far less than a byte for each operation.
    let noise = before / 16;
    assert!(after <= before + noise, "{before} bytes in the first half, {after} in the second");
}
