//! What the histories hold: every one of the 21 events, every edge of section 5, every event in every
//! state, and every kind of fault. The tables are all that is ever taken: an edge too many or one too
//! few, in the model or in what is generated, shows here.

use super::author;
use super::book::{Book, Fault};
use super::record::{CODES, Entry, Event};
use super::{STREAMS, config};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};
use wal_core::EventType;

const SAGA_STATES: [&str; 7] =
    ["none", "created", "executing", "compensating", "completed", "compensated", "aborted"];
const TRANSACTION_STATES: [&str; 8] = [
    "none",
    "created",
    "preparing",
    "committing",
    "aborting",
    "rolling_back",
    "committed",
    "aborted",
];

/// Section 5, written out: the state before, the event with what matters about it, the state after.
const EDGES: &str = "
none -> saga_created -> created
created -> saga_step_added at once -> created
created -> saga_step_added behind others -> created
created -> saga_step_added in sequence -> created
created -> saga_step_added in sequence, late -> created
created -> saga_execute_start -> executing
created -> saga_aborted -> aborted
executing -> saga_step_succeeded -> executing
executing -> saga_step_failed -> compensating
executing -> saga_step_failed effect none -> compensating
executing -> saga_step_failed effect maybe -> compensating
executing -> saga_compensation_start -> compensating
executing -> saga_compensation_start cancelled -> compensating
executing -> saga_completed -> completed
executing -> saga_aborted -> compensating
executing -> saga_aborted -> aborted
compensating -> saga_step_succeeded -> compensating
compensating -> saga_step_failed -> compensating
compensating -> saga_step_failed effect none -> compensating
compensating -> saga_step_failed effect maybe -> compensating
compensating -> saga_compensation_start -> compensating
compensating -> saga_compensation_start cancelled -> compensating
compensating -> saga_compensation_succeeded of a success -> compensating
compensating -> saga_compensation_succeeded of a success, unannounced -> compensating
compensating -> saga_compensation_succeeded of effect maybe -> compensating
compensating -> saga_compensation_succeeded of maybe started -> compensating
compensating -> saga_compensation_failed -> compensating
compensating -> saga_compensated -> compensated
compensating -> saga_aborted -> compensating
compensating -> saga_aborted -> aborted
none -> tx_created -> created
created -> tx_participant_added -> created
created -> tx_participant_added with its store -> created
created -> tx_prepare_start -> preparing
created -> tx_abort_start -> aborting
created -> tx_abort_complete -> aborted
preparing -> tx_vote_received yes -> preparing
preparing -> tx_vote_received no -> preparing
preparing -> tx_commit_start -> committing
preparing -> tx_commit_start with its list -> committing
preparing -> tx_abort_start early -> aborting
preparing -> tx_abort_start after a NO -> aborting
preparing -> tx_abort_start after all yes -> aborting
preparing -> tx_abort_complete early -> aborted
preparing -> tx_abort_complete after a NO -> aborted
preparing -> tx_abort_complete after all yes -> aborted
preparing -> tx_rollback_start -> rolling_back
committing -> tx_commit_complete -> committed
aborting -> tx_vote_received yes -> aborting
aborting -> tx_vote_received no -> aborting
aborting -> tx_abort_start -> aborting
aborting -> tx_abort_complete -> aborted
aborting -> tx_rollback_start -> aborting
aborting -> tx_rollback_complete inside the abort -> aborting
rolling_back -> tx_vote_received yes -> rolling_back
rolling_back -> tx_vote_received no -> rolling_back
rolling_back -> tx_abort_start -> aborting
rolling_back -> tx_abort_complete -> aborted
rolling_back -> tx_rollback_start -> rolling_back
rolling_back -> tx_rollback_complete -> aborted
";

/// Everything that may be wrong with a record.
const FAULTS: &str = "
a code that names no event
a commit decision that cannot be read to its end
a commit decision without every vote
a compensation of what is not to be undone
a compensation out of order
a compensation while going forward
a dependency on no earlier step
a participant after prepare_start or a decision
a payload shorter than its prefix
a rollback after the commit decision
a second compensation_start
a second decision
a second execute_start
a second outcome
a second prepare_start
a second saga_created
a second tx_created
a second vote
a shard twice
a step after execute_start
a step that was never added
a step's number twice
a vote after the commit decision
a vote before prepare_start
a vote of an unknown shard
a vote that is none
abort_complete after the commit decision
an event after a saga's end
an event after a transaction's end
an event of an unknown saga
an event of an unknown transaction
an outcome after the compensation
an outcome before execute_start
an outcome before its dependencies
an outcome of what was not in flight
commit_complete without its decision
compensated before everything is undone
compensated, but it never turned
compensation before execute_start
completed before every success
completed, but not from executing
extensions that cannot be read
prepare_start after a decision
rollback_complete without its start
rollback_start after neither prepare nor abort
";

/// What was seen, and how often.
#[derive(Default)]
struct Seen {
    codes: BTreeMap<u8, u64>,
    edges: BTreeMap<String, u64>,
    /// An event's code and the state that it came upon.
    encounters: BTreeSet<(u8, &'static str)>,
    faults: BTreeMap<Fault, u64>,
    /// How often a saga and a transaction of one id were unfinished at once.
    shared_ids: u64,
}

impl Seen {
    fn read(&mut self, history: &[Entry]) {
        let mut book = Book::default();
        for entry in history {
            let code = entry.event.code();
            let (from, nuance) = (book.state(entry), book.nuance(entry));
            self.encounters.insert((code, from));
            let verdict = book.take(entry);
            if verdict.is_ok() && entry.event != Event::Marker {
                let name = EventType(code).name().expect("it has a name");
                let edge = format!("{from} -> {name}{nuance} -> {}", book.state(entry));
                *self.edges.entry(edge).or_default() += 1;
            }
            match verdict {
                Ok(()) => *self.codes.entry(code).or_default() += 1,
                Err(fault) => *self.faults.entry(fault).or_default() += 1,
            }
            let open: BTreeSet<(bool, u64)> = book.unfinished().into_iter().collect();
            let shared = open.iter().any(|(saga, id)| *saga && open.contains(&(false, *id)));
            self.shared_ids += u64::from(shared);
        }
    }
}

/// What the histories hold that the property of this strategy is tried on, or others like them.
fn seen(strategy: impl Strategy<Value = Vec<Entry>>) -> Seen {
    let mut seen = Seen::default();
    let mut runner = TestRunner::new(config(STREAMS));
    for _ in 0..STREAMS {
        let tree = strategy.new_tree(&mut runner).expect("nothing is rejected");
        seen.read(&tree.current());
    }
    seen
}

fn lines(table: &'static str) -> BTreeSet<&'static str> {
    table.lines().filter(|line| !line.is_empty()).collect()
}

fn counted<'a>(counts: impl Iterator<Item = (&'a str, &'a u64)>) -> BTreeSet<&'a str> {
    // What comes so seldom is not tested, it happened to come.
    counts.filter(|(_, count)| **count >= 10).map(|(what, _)| what).collect()
}

fn edges(seen: &Seen) -> BTreeSet<&str> {
    counted(seen.edges.iter().map(|(edge, count)| (edge.as_str(), count)))
}

#[test]
fn legal_histories_hold_every_event_and_edge() {
    let seen = seen(author::legal(100));
    assert_eq!(seen.faults, BTreeMap::new());
    assert_eq!(seen.codes.keys().copied().collect::<Vec<u8>>(), CODES);
    assert_eq!(edges(&seen), lines(EDGES));
    assert!(seen.shared_ids > 1_000, "{}", seen.shared_ids);
}

#[test]
fn half_legal_histories_hold_every_event_in_every_state_and_every_fault() {
    let seen = seen(author::half_legal(100));
    assert_eq!(edges(&seen), lines(EDGES));
    let faults = counted(seen.faults.iter().map(|(fault, count)| (*fault, count)));
    assert_eq!(faults, lines(FAULTS));
    for code in CODES.into_iter().filter(|code| *code != Event::Marker.code()) {
        let saga = EventType(code).is_saga();
        let states = if saga { &SAGA_STATES[..] } else { &TRANSACTION_STATES };
        for state in states {
            let event = EventType(code);
            assert!(seen.encounters.contains(&(code, state)), "{event} while {state}");
        }
    }
}

/// Nothing else is taken by what is changed or made up, and every fault comes of each.
#[test]
fn other_illegal_histories_take_no_other_edge() {
    for seen in [seen(author::spoilt(80, 6)), seen(author::soup(60))] {
        let taken: BTreeSet<&str> = seen.edges.keys().map(String::as_str).collect();
        assert_eq!(taken.difference(&lines(EDGES)).collect::<Vec<_>>(), Vec::<&&str>::new());
        let faults: BTreeSet<&str> = seen.faults.keys().copied().collect();
        assert_eq!(faults.difference(&lines(FAULTS)).collect::<Vec<_>>(), Vec::<&&str>::new());
        assert!(seen.faults.values().sum::<u64>() > 5_000);
    }
}
