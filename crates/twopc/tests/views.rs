//! What can be seen of a transaction, and of what it owes; and of a participant.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use base::StoreId;
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, Sequence, ShardId};
use std::collections::BTreeSet;
use std::sync::Arc;
use twopc::coordinator::{AdmissionError, Decision, Effect, Event, MEMBERS_MAX, Member};
use twopc::{Audit, ForceRefusal, Heuristic, IllegalTransition, Participant, Peer, Transaction};
use twopc::{Vote, Watermark};

#[test]
fn no_two_things_that_are_owed_share_a_slot() {
    let mut slots = BTreeSet::new();
    let tell = Effect::Tell { decision: Decision::Commit, after: Sequence(1) };
    assert!(slots.insert(tell.slot()));
    for member in 0..MEMBERS_MAX {
        let after = Sequence(1);
        for owed in
            [Effect::Prepare { member }, Effect::Commit { member, after }, Effect::Abort { member }]
        {
            assert!(slots.insert(owed.slot()), "{owed:?}");
        }
    }
    assert_eq!(slots.len() as u32, 1 + 3 * MEMBERS_MAX);
}

#[test]
fn by_what_a_request_is_known_again() {
    let member = Member::at(Peer {
        shard: ShardId::numbered(1),
        node: NodeName::numbered(1),
        store: StoreId(7),
        boot: BootCount(1),
    });
    for fingerprint in [None, Some(0), Some(1), Some(u128::MAX)] {
        let coordinator = CoordinatorId::numbered(1);
        let log = Transaction::admission(coordinator, None, fingerprint, &[member]).unwrap();
        let begun = Transaction::created(OperationId(1), Sequence(1), &log[0]).unwrap();
        assert_eq!(begun.fingerprint(), fingerprint);
    }
}

fn member(shard: u64) -> Member {
    Member::at(Peer {
        shard: ShardId::numbered(shard),
        node: NodeName::numbered(shard),
        store: StoreId(7),
        boot: BootCount(1),
    })
}

/// The machine that these events have made, one after the other.
fn after(events: &[Event]) -> Transaction {
    let (created, rest) = events.split_first().expect("a transaction begins with something");
    let mut tx = Transaction::created(OperationId(1), Sequence(1), created).unwrap();
    for (event, at) in rest.iter().zip(2..) {
        tx.apply(Sequence(at), event).unwrap();
    }
    tx
}

/// In two phases and in one, by votes and by operators: how each state is called, and whether somebody was
/// against it.
#[test]
fn what_a_transaction_is_called_and_whether_it_was_refused() {
    let coordinator = CoordinatorId::numbered(1);
    let both = [1, 2].map(member);
    let votes = |votes: [Vote; 2]| {
        let each = both.iter().zip(votes);
        let told =
            |(member, vote): (&Member, Vote)| Event::VoteReceived { shard: member.shard, vote };
        each.map(told).collect::<Vec<Event>>()
    };
    let (agreed, refused) = (votes([Vote::Commit; 2]), votes([Vote::Commit, Vote::Abort]));
    let read = votes([Vote::ReadOnly; 2]);
    let commit = || Event::CommitStart { members: both.to_vec() };
    let audit = Arc::new(Audit { at_ms: 1, who: "operator".into(), why: "why".into() });
    let forced = || Event::ForcedAbort { audit: Arc::clone(&audit) };
    let two = Transaction::admission(coordinator, None, None, &both).unwrap();
    let one = Transaction::one_phase_admission(coordinator, None, None, both[0]);
    let cases: [(&str, bool, &[Event], Vec<Event>); 18] = [
        ("created", false, &two[..3], vec![]),
        ("preparing", false, &two, vec![]),
        ("preparing", false, &two, agreed.clone()),
        ("preparing", true, &two, refused.clone()),
        ("committing", false, &two, [agreed.clone(), vec![commit()]].concat()),
        ("committed", false, &two, [agreed, vec![commit(), Event::CommitComplete]].concat()),
        ("aborting", false, &two, vec![Event::AbortStart]),
        ("aborting", true, &two, [refused.clone(), vec![Event::AbortStart]].concat()),
        ("aborting", false, &two, vec![forced()]),
        ("rolling_back", true, &two, [refused.clone(), vec![Event::RollbackStart]].concat()),
        ("aborted", true, &two, [refused, vec![Event::AbortStart, Event::AbortComplete]].concat()),
        ("read_only", false, &two, [read, vec![Event::ReadOnlyComplete]].concat()),
        ("delegated", false, &one, vec![]),
        ("committed", false, &one, {
            vec![Event::CommitStart { members: both[..1].to_vec() }, Event::CommitComplete]
        }),
        ("read_only", false, &one, vec![Event::ReadOnlyComplete]),
        ("aborting", true, &one, vec![Event::AbortStart]),
        ("aborted", true, &one, vec![Event::AbortStart, Event::AbortComplete]),
        // An operator has ended it: nobody has refused.
        ("aborting", false, &one, vec![forced()]),
    ];
    for (state, refused, begun, rest) in cases {
        let tx = after(&[begun, &rest[..]].concat());
        assert_eq!((tx.state(), tx.was_refused()), (state, refused), "{rest:?}");
    }
}

/// A step's transaction is one like others, but for whose it is.
#[test]
fn on_behalf_of_a_step() {
    let coordinator = CoordinatorId::numbered(1);
    let parent = ParentStep { saga: OperationId(9), step: 3, undo: true };
    let own = Transaction::admission(coordinator, None, Some(5), &[member(1), member(2)]).unwrap();
    let step = Transaction::on_behalf_of(parent, own.clone());
    assert_eq!(step[1..], own[1..]);
    let (own, step) = (after(&own), after(&step));
    assert_eq!((own.parent(), step.parent()), (None, Some(parent)));
    assert_eq!((step.fingerprint(), step.state()), (Some(5), "preparing"));
}

/// What a snapshot says of a coordinator counts as if its messages had been heard.
#[test]
fn a_snapshot_brings_back_what_is_known_of_a_coordinator() {
    let [known, other] = [1, 2].map(CoordinatorId::numbered);
    let mut participant = Participant::new(NodeName::numbered(1), StoreId(7), BootCount(1));
    let epoch = |n| (0..n).fold(Epoch::NONE, |epoch, _| epoch.next().unwrap());
    let mark = Watermark::new(OperationId(10), [OperationId(4)].into_iter());
    participant.restore_coordinator(known, epoch(3), Some(mark.clone()), Sequence(8));
    assert_eq!((participant.epoch_seen(known), participant.seen_at()), (epoch(3), Sequence(8)));
    assert_eq!(participant.watermark(known), Some(&mark));
    let finished = [3, 4, 10, 11].map(|id| participant.is_finished(known, OperationId(id)));
    assert_eq!(finished, [true, false, true, false]);
    assert!(participant.refuses(known, epoch(2)) && !participant.refuses(known, epoch(3)));
    assert_eq!((participant.epoch_seen(other), participant.watermark(other)), (Epoch::NONE, None));
    assert_eq!((participant.store(), participant.boot()), (StoreId(7), BootCount(1)));
    // An older word changes nothing of it.
    participant.restore_coordinator(known, epoch(2), None, Sequence(9));
    assert_eq!((participant.epoch_seen(known), participant.seen_at()), (epoch(3), Sequence(8)));
}

/// Operators read it: each outcome by its name, and what it is that happened.
#[test]
fn heuristic_outcomes_in_words() {
    for found in Heuristic::ALL {
        let words = found.to_string();
        assert!(words.starts_with(&format!("{}: the transaction ", found.name())), "{words}");
        let decision = if found.commits() { "commits" } else { "aborts" };
        assert!(words.contains(&format!("the transaction {decision}, and the ")), "{words}");
        assert_eq!(Heuristic::from_code(found.code()), Some(found));
    }
}

/// Operators and clients read why not: each refusal says what it is about, and no two are alike.
#[test]
fn refusals_in_words() {
    let shard = ShardId::numbered(3);
    let refused = [
        (ForceRefusal::NotInDoubt, "in doubt"),
        (ForceRefusal::Decided { commit: true }, "known, commit"),
        (ForceRefusal::Decided { commit: false }, "known, abort"),
        (ForceRefusal::ForcedOtherwise { commit: true }, "before: commit"),
        (ForceRefusal::ForcedOtherwise { commit: false }, "before: abort"),
        (ForceRefusal::NotListed, "listed"),
        (ForceRefusal::NotAwaited, "waits"),
        (ForceRefusal::TextTooLong { bytes: 1_025 }, "1025 bytes: at most 1024"),
    ];
    let admission = [
        (AdmissionError::Empty, "without participants".to_string()),
        (AdmissionError::TooMany { members: 65 }, "65 participants: at most 64".to_string()),
        (AdmissionError::DuplicateShard { shard }, format!("{shard} is named twice")),
    ];
    let event = "tx_prepared";
    let illegal = [
        (IllegalTransition::Unknown { event }, "tx_prepared for an operation never created"),
        (IllegalTransition::CreatedTwice, "created a second time"),
        (IllegalTransition::OutOfPlace { event, state: "aborted" }, "tx_prepared while aborted"),
        (IllegalTransition::DuplicateShard, "joined twice"),
        (IllegalTransition::UnknownShard, "never joined"),
        (IllegalTransition::SecondVote, "second vote"),
        (IllegalTransition::UnbackedCommit, "without every vote"),
        (IllegalTransition::SecondDecision, "the first one stands"),
    ];
    let refused = refused.map(|(error, says)| (error.to_string(), says.to_string()));
    let admission = admission.map(|(error, says)| (error.to_string(), says));
    let illegal = illegal.map(|(error, says)| (error.to_string(), says.to_string()));
    let all: Vec<(String, String)> = refused.into_iter().chain(admission).chain(illegal).collect();
    for (words, says) in &all {
        assert!(words.contains(says), "{words}");
    }
    assert_eq!(all.iter().map(|(words, _)| words).collect::<BTreeSet<_>>().len(), all.len());
}
