//! Histories at random: each choice is one record. What may come next is asked of the [`Book`]; that
//! the book calls legal all that the document does is shown by the table of edges in the tests.

use super::book::{Book, Saga, Transaction};
use super::record::{CANCELLED, CODES, Entry, Event, Flaw, Participant};
use proptest::prelude::*;

/// Ids of sagas and transactions alike: two name spaces. Some hold an epoch, as ours do.
const IDS: [u64; 5] = [1, 2, 3, 5 << 40 | 1, u64::MAX];
const STEPS_MAX: usize = 6;

/// One record: about whom, what, and which of several.
pub type Choice = (u8, u16, u16);

/// Legal histories of up to `records_max` records.
pub fn legal(records_max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let choices = proptest::collection::vec(any::<Choice>(), 0..=records_max);
    choices.prop_map(|choices| write(&choices, |_| false))
}

/// Anything follows anything, over few ids.
pub fn soup(records_max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let choices = proptest::collection::vec(any::<Choice>(), 0..=records_max);
    choices.prop_map(|choices| choices.into_iter().map(|c| anything(c, &IDS[..2])).collect())
}

/// Half of the records follow from what is before them, the others are anything: so that anything
/// comes upon every state.
pub fn half_legal(records_max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let choices = proptest::collection::vec(any::<Choice>(), 0..=records_max);
    choices.prop_map(|choices| write(&choices, |(_, what, which)| (what ^ which) & 0x40 > 0))
}

/// Legal histories that are changed in up to `changes_max` places: a record more, one less, one
/// again, one in place of another, two that change places.
pub fn spoilt(records_max: usize, changes_max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let change = any::<(u8, u16, u16, Choice)>();
    let changes = proptest::collection::vec(change, 1..=changes_max);
    (legal(records_max), changes).prop_map(|(mut history, changes)| {
        for (what, at, other, choice) in changes {
            spoil(&mut history, what, (at.into(), other.into()), choice);
        }
        history
    })
}

fn spoil(history: &mut Vec<Entry>, what: u8, (at, other): (usize, usize), choice: Choice) {
    if history.is_empty() {
        return history.push(anything(choice, &IDS));
    }
    let (at, other) = (at % history.len(), other % history.len());
    let near = &history[at];
    let near_saga = near.event.is_saga();
    let inserted = if what < 192 && (near_saga || near.event.is_transaction()) {
        anything_about(choice, near_saga, near.id)
    } else {
        anything(choice, &IDS)
    };
    match what % 6 {
        0 | 1 => history.insert(at, inserted),
        2 => {
            history.remove(at);
        }
        3 => history.insert(other, history[at].clone()),
        4 => history[at] = inserted,
        _ => history.swap(at, other),
    }
}

fn write(choices: &[Choice], anything_instead: impl Fn(Choice) -> bool) -> Vec<Entry> {
    let (mut book, mut history) = (Book::default(), Vec::new());
    for &choice in choices {
        let (whom, what, which) = choice;
        let open = book.unfinished();
        let entry = if !anything_instead(choice) {
            next_legal(&book, choice)
        } else if open.is_empty() || which % 4 == 0 {
            anything(choice, &IDS)
        } else {
            let (saga, id) = open[usize::from(whom) % open.len()];
            if which % 4 == 1 {
                anything_about(choice, saga, id)
            } else {
                // What it may do at some time: mostly too early or too late.
                let event = weighted(candidates(&book, saga, id, which), what);
                Entry { id, event, flaw: None, extra: false }
            }
        };
        let _ = book.take(&entry);
        history.push(entry);
    }
    history
}

/// A record that may follow.
fn next_legal(book: &Book, (whom, what, which): Choice) -> Entry {
    let whom = usize::from(whom);
    let extra = which % 8 == 7;
    let open = book.unfinished();
    let fresh = |saga: bool| IDS.into_iter().filter(move |id| !book.knows(saga, *id));
    let (id, event) = if whom < 8 {
        (0, Event::Marker)
    } else if whom < 40 || open.is_empty() {
        let saga = whom % 2 == 0;
        let fresh: Vec<u64> = fresh(saga).collect();
        match fresh.get(usize::from(which) % IDS.len()).or(fresh.first()) {
            Some(id) => (*id, if saga { Event::SagaCreated } else { Event::TxCreated }),
            None => (0, Event::Marker),
        }
    } else {
        let (is_saga, id) = open[whom % open.len()];
        let mut candidates = candidates(book, is_saga, id, which);
        candidates.retain(|(_, event)| book.may(&Entry::new(id, event.clone())).is_ok());
        (id, weighted(candidates, what))
    };
    Entry { id, event, flaw: None, extra }
}

/// What may come of an operation, each with its weight, whether or not it is legal now.
fn candidates(book: &Book, saga: bool, id: u64, which: u16) -> Vec<(u32, Event)> {
    if saga { of_saga(&book.sagas[&id], which) } else { of_transaction(&book.transactions[&id]) }
}

fn weighted(candidates: Vec<(u32, Event)>, what: u16) -> Event {
    let total: u32 = candidates.iter().map(|(weight, _)| weight).sum();
    assert!(total > 0, "an unfinished operation can go on");
    let mut at = u32::from(what) % total;
    for (weight, event) in candidates {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return event,
        }
    }
    unreachable!("it is below the total")
}

fn of_saga(saga: &Saga, which: u16) -> Vec<(u32, Event)> {
    let numbers = saga.numbers();
    let back = saga.state() == "compensating";
    let mut all = vec![
        (6, Event::ExecuteStart),
        (30, Event::Completed),
        (12, Event::Compensated),
        (1, Event::Aborted),
        (if back { 6 } else { 2 }, Event::CompensationStart { cause: CANCELLED }),
    ];
    if numbers.len() < STEPS_MAX {
        let above = numbers.last().map_or(0, |highest| highest + 1);
        let below = (0..above).rev().find(|number| !numbers.contains(number));
        for step in [Some(above), Some(above + 2), below].into_iter().flatten() {
            let earlier = numbers.iter().copied().filter(|earlier| *earlier < step);
            let chosen = earlier.filter(|earlier| which >> (earlier % 16) & 1 == 1).collect();
            for needs in [None, Some(Vec::new()), Some(chosen)] {
                all.push((4, Event::StepAdded { step, needs }));
            }
        }
    }
    for step in numbers {
        all.push((if back { 6 } else { 24 }, Event::StepSucceeded { step }));
        for maybe in [None, Some(false), Some(true)] {
            all.push((2, Event::StepFailed { step, maybe }));
        }
        all.push((1, Event::CompensationStart { cause: step }));
        all.push((16, Event::CompensationSucceeded { step }));
        all.push((3, Event::CompensationFailed { step, attempt: u32::from(which % 4) }));
    }
    all
}

fn of_transaction(tx: &Transaction) -> Vec<(u32, Event)> {
    let forward = tx.state() == "preparing";
    let mut all = vec![
        (12, Event::PrepareStart),
        (20, Event::CommitStart { list: None }),
        (20, Event::CommitStart { list: Some(tx.participants().map(known).collect()) }),
        (8, Event::CommitComplete),
        (if forward { 3 } else { 1 }, Event::AbortStart),
        (if forward { 3 } else { 1 }, Event::AbortComplete),
        (3, Event::RollbackStart),
        (6, Event::RollbackComplete),
    ];
    for shard in 1..=4 {
        let joins = participant(shard);
        all.push((3, Event::ParticipantAdded(joins)));
        all.push((2, Event::ParticipantAdded(known(joins))));
        all.push((if forward { 16 } else { 3 }, Event::Vote { shard, yes: true }));
        all.push((3, Event::Vote { shard, yes: false }));
    }
    all
}

fn participant(shard: u8) -> Participant {
    Participant { shard, node: shard + 0x40, store: None }
}

/// The same participant once its store is known.
fn known(participant: Participant) -> Participant {
    let store = u64::from(participant.shard) << 56 | 7;
    Participant { store: Some((store, u32::from(participant.shard))), ..participant }
}

/// Any record about one of these ids, whatever came before.
fn anything((whom, what, which): Choice, ids: &[u64]) -> Entry {
    record_of(&CODES, ids[usize::from(whom) % ids.len()], what, which)
}

/// Any record about this saga or transaction, whatever came before.
fn anything_about((_, what, which): Choice, saga: bool, id: u64) -> Entry {
    let (sagas, transactions) = (&CODES[..11], &CODES[11..21]);
    record_of(if saga { sagas } else { transactions }, id, what, which)
}

/// Most are whole, and of an event that there is.
fn record_of(codes: &[u8], id: u64, what: u16, which: u16) -> Entry {
    let of_a_code = |at: u16| any_of(codes[usize::from(at) % codes.len()], which);
    let (event, flaw) = match what % 32 {
        0 => {
            let none = [0x00, 0x0C, 0x0F, 0x2A, 0xEF];
            (Event::Unknown(none[usize::from(which) % none.len()]), None)
        }
        1 | 2 => {
            let event = of_a_code(what / 32);
            let flaw = [Flaw::Short, Flaw::Cut, Flaw::Version, Flaw::Value][usize::from(which) % 4];
            let flaw = match (flaw, &event) {
                (Flaw::Short, _) => Some(Flaw::Short),
                (_, Event::Vote { .. }) => Some(Flaw::Value),
                (flaw, event) => event.is_extensible().then_some(flaw),
            };
            (event, flaw)
        }
        _ => (of_a_code(what / 32), None),
    };
    Entry { id, event, flaw, extra: which % 16 == 15 }
}

fn any_of(code: u8, which: u16) -> Event {
    // Few steps and shards, and one of each that no history has.
    let step = [0, 1, 2, 3, 99][usize::from(which) % 5];
    let shard = [1, 2, 3, 4, 0x99][usize::from(which) % 5];
    let other = usize::from(which) / 5;
    let participant = if other % 2 == 0 { participant(shard) } else { known(participant(shard)) };
    match code {
        0x01 => Event::SagaCreated,
        0x02 => {
            let needs = [None, Some(vec![]), Some(vec![0]), Some(vec![0, 1]), Some(vec![step])];
            Event::StepAdded { step, needs: needs[other % 5].clone() }
        }
        0x03 => Event::ExecuteStart,
        0x04 => Event::StepSucceeded { step },
        0x05 => Event::StepFailed { step, maybe: [None, Some(false), Some(true)][other % 3] },
        0x06 => Event::CompensationStart { cause: [step, CANCELLED][other % 2] },
        0x07 => Event::CompensationSucceeded { step },
        0x08 => Event::CompensationFailed { step, attempt: which.into() },
        0x09 => Event::Completed,
        0x0A => Event::Compensated,
        0x0B => Event::Aborted,
        0x10 => Event::TxCreated,
        0x11 => Event::ParticipantAdded(participant),
        0x12 => Event::PrepareStart,
        0x13 => Event::Vote { shard, yes: other % 3 > 0 },
        0x14 => Event::CommitStart {
            list: [None, Some(vec![]), Some(vec![participant])][other % 3].clone(),
        },
        0x15 => Event::CommitComplete,
        0x16 => Event::AbortStart,
        0x17 => Event::AbortComplete,
        0x18 => Event::RollbackStart,
        0x19 => Event::RollbackComplete,
        _ => Event::Marker,
    }
}
