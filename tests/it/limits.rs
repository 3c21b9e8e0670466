//! What is admitted can be done: no participant is left with a record that its log does not take.

use crate::village::Village;
use base::{NodeName, ShardId};
use node::work::{self, Change};
use node::{Branch, Disks, LogSlot, Outcome, Refusal, Work};
use saga::{Action, Definition, Step};
use std::sync::Arc;
use wal_core::{Config, Place, Record, ScanConfig, Visitor};

/// The longest payload that it is shown.
#[derive(Default)]
struct Longest(usize);

impl Visitor for Longest {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        self.0 = self.0.max(record.payload.len());
    }
}

/// Logs that take payloads of so many bytes.
fn taking(max_payload: u32) -> Config {
    Config { max_payload, batch_bytes_max: 2 * max_payload + 4096, ..Config::default() }
}

fn longest(village: &Village, number: usize, slot: LogSlot) -> usize {
    let mut longest = Longest::default();
    let directory = village.disks(number).directory(slot);
    let config = ScanConfig { max_payload: 1 << 20, ..ScanConfig::default() };
    wal_core::scan(directory, &config, &mut longest).expect("memory does not fail");
    longest.0
}

/// Whatever the limit is, work is refused or done. It is refused below the longest record that
/// anybody writes for it, and done from there on.
fn check_every_limit(make: impl Fn() -> Work, done: &Outcome) {
    let mut village = Village::with_log(3, &taking(256 << 10));
    // Keys of the same length: they stand in the records too.
    assert_eq!(village.submit("large", make()), *done);
    let participants = (1..3).map(|number| longest(&village, number, LogSlot::Participant));
    let coordinator = longest(&village, 0, LogSlot::Coordinator);
    let needed = participants.fold(coordinator, usize::max) as u32;
    for limit in needed.saturating_sub(300)..needed + 3 {
        let mut village = Village::with_log(3, &taking(limit));
        let outcome = village.submit("tight", make());
        if limit < needed {
            let refusal = Refusal::TooLarge { payload_bytes_max: limit };
            assert_eq!(
                outcome,
                Outcome::Refused(refusal),
                "the limit is {limit}, {needed} are needed"
            );
            assert_eq!(village.log().records, 0, "nothing of it was logged");
        } else {
            assert_eq!(outcome, *done, "the limit is {limit}, {needed} are needed");
        }
    }
}

fn body(changes: usize) -> Arc<[u8]> {
    work::encode(&vec![Change::Add { cell: 1, amount: 1 }; changes])
}

/// From no work at all to such as stands in two parts, and exactly at the end of the first.
const CHANGES: [usize; 5] = [0, 1, 40, 3_855, 3_856];

#[test]
fn a_transaction_is_refused_or_done() {
    for changes in CHANGES {
        // The longest part is neither the first nor the last.
        let branch = |node: u64, shard: u64, changes: usize| Branch {
            shard: ShardId::numbered(shard),
            node: NodeName::numbered(node),
            work: body(changes),
        };
        let make =
            || Work::Transaction(vec![branch(1, 1, 0), branch(2, 2, changes), branch(0, 3, 0)]);
        check_every_limit(make, &Outcome::Committed);
    }
}

#[test]
fn a_saga_is_refused_or_done() {
    for changes in CHANGES {
        let make = || {
            let mut saga = Definition::builder();
            for (node, changes) in [(1, 0), (2, changes), (1, 0)] {
                let step = Step::new(Action::Custom, NodeName::numbered(node), body(changes));
                saga.step(step);
            }
            Work::Saga(saga.build().expect("a row of three steps"))
        };
        check_every_limit(make, &Outcome::Completed);
    }
}
