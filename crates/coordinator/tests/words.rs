//! What operators, clients and other programs read when something is refused or fails: each says what it is
//! about, and no two are alike.

use base::{OperationId, Sequence, ShardId};
use coordinator::codec::CodecError;
use coordinator::wire::WireError;
use coordinator::{
    Anomaly, CancelRefusal, Capped, ForceError, MessageKind, OperationKind, OperationReport,
    OrderError, RecoveryAction, RecoveryReport, Refusal, SalvageError,
};
use saga::{End, Label, OrderRefusal};
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use twopc::ForceRefusal;
use twopc::coordinator::AdmissionError;
use wal_core::{
    AppendError, DiskError, EventType, MemoryStorage, NotUnderstood, OpenError, ScanConfig,
    ScanError,
};

#[test]
fn refusals_and_errors_in_words() {
    let event = EventType::TX_COMMIT_START;
    let action = Label::new("charge").unwrap();
    let shard = ShardId::numbered(3);
    let twice = Refusal::Participants(AdmissionError::DuplicateShard { shard });
    let named_twice = format!("{shard} is named twice");
    let not_marked = OrderError::Refused(OrderRefusal::NotMarked { step: 4 });
    let all: &[(&dyn Error, &str)] = &[
        (&CodecError::UnknownEvent(EventType(250)), "unknown event, 0xfa"),
        (&CodecError::Short(event), "tx_commit_start: the payload is too short"),
        (&CodecError::Value(event), "tx_commit_start: a value"),
        (&CodecError::Extensions(event), "tx_commit_start: the payload's extensions"),
        (&CodecError::NotUnderstood(event, 9), "tx_commit_start: tag 9"),
        (&WireError::Version(77), "version 77: this build speaks version 4"),
        (&WireError::Kind(99), "kind 99"),
        (&WireError::Short, "ends within a field"),
        (&WireError::Long, "behind a message's last field"),
        (&WireError::Value, "a value that it cannot have"),
        (&CancelRefusal::NotActive, "active"),
        (&CancelRefusal::InDoubt, "in doubt"),
        (&CancelRefusal::TooLate, "too late"),
        (&CancelRefusal::PastPivot { step: 6 }, "step 6, the pivot"),
        (&CancelRefusal::LogBusy, "buffer is full"),
        (&OrderError::NotActive, "no saga of this id"),
        (&not_marked, "4"),
        (&OrderError::TooLarge, "larger than a log takes"),
        (&OrderError::LogBusy, "order it again"),
        (&ForceError::Refused(ForceRefusal::NotAwaited), "waits for this participant"),
        (&ForceError::LogBusy, "try again"),
        (&ForceError::NotHere, "does not run here"),
    ];
    let refusals = [
        (Refusal::TooManyActive { active_max: 8 }, "8 operations are active"),
        (Refusal::TooManySteps { steps_max: 32 }, "at most 32 steps"),
        (Refusal::TooDeep { depth_max: 4 }, "at most 4 deep"),
        (Refusal::UnknownAction { action }, "\"charge\""),
        (Refusal::KeyTaken, "another request has this key"),
        (twice, &named_twice),
        (Refusal::TooLarge { payload_bytes_max: 4_096 }, "larger than 4096 bytes"),
        (Refusal::LogBusy, "buffer is full"),
        (Refusal::OutOfIds, "no id left"),
    ];
    let all = all.iter().map(|(error, says)| (error.to_string(), *says));
    let refusals = refusals.iter().map(|(refusal, says)| (refusal.to_string(), *says));
    let mut words = BTreeSet::new();
    for (text, says) in all.chain(refusals) {
        assert!(text.contains(says), "{text}");
        // A full buffer is told in the same words wherever it is met.
        assert!(words.insert(text.clone()) || says == "buffer is full", "{text}");
    }
}

/// What a salvage met is said, and where something else has caused it, that is the source.
#[test]
fn why_a_salvage_failed() {
    let disk = || DiskError::from(io::Error::other("it burns"));
    let newer = NotUnderstood { sequence: Sequence(5), event: EventType::SAGA_CREATED, tag: 9 };
    let all = [
        (SalvageError::Scan(ScanError::NotALog), "not a Trinity log", true),
        (SalvageError::NotEmpty, "in the place of the new one", false),
        (SalvageError::Open(OpenError::Fenced), "the new log: another writer", true),
        (SalvageError::Disk(disk()), "it burns", true),
        (SalvageError::Append(AppendError::Full { max: 7 }), "does not take a record", true),
        (SalvageError::TooManyLost { lost: 9, max: 8 }, "9 records are missing: at most 8", false),
        (SalvageError::EpochsExhausted, "used up its epochs", false),
        (SalvageError::Changed, "differently than a moment ago", false),
        (SalvageError::Newer(newer), "salvage with the version that wrote it", false),
        (SalvageError::ForeignStream, "another stream", false),
    ];
    for (error, says, caused) in all {
        let text = error.to_string();
        assert!(text.contains(says), "{text}");
        assert_eq!(error.source().is_some(), caused, "{text}");
        if let Some(source) = error.source() {
            assert!(text.contains(&source.to_string()), "{text}: {source}");
        }
    }
}

/// One line that says how much there was and what is to be done.
#[test]
fn a_recovery_in_a_line() {
    let scanned = wal_core::scan(&MemoryStorage::new(), &ScanConfig::default(), &mut ()).unwrap();
    let operation = |number, action, in_doubt| {
        let kind = OperationKind::Transaction { members: vec![], votes: vec![] };
        let (state, id) = ("preparing", OperationId(number));
        let (evidence, last) = (Sequence(1), Sequence(2));
        let (created_ms, parent) = (None, None);
        OperationReport { id, kind, state, action, in_doubt, evidence, last, created_ms, parent }
    };
    let report = |operations| RecoveryReport {
        scanned: scanned.clone(),
        operations,
        completed_sagas: Capped { entries: vec![(OperationId(9), End::Completed)], left_out: 0 },
        completed_transactions: Capped::default(),
        anomalies: Capped::<Anomaly>::default(),
        heuristics: vec![],
        forced: vec![],
        unknown_ids_in_doubt: false,
        unknown_ids_up_to: None,
    };
    assert_eq!(report(vec![]).to_string(), "0 records");
    let (abort, commit) = (RecoveryAction::TxResumeAbort, RecoveryAction::TxResumeCommit);
    let sure = vec![operation(1, abort, false), operation(2, abort, false)];
    assert_eq!(report(sure.clone()).to_string(), "0 records, 2 x tx_resume_abort");
    let more = [operation(3, commit, false), operation(4, abort, true)];
    let all = report([sure, more.to_vec()].concat());
    let line = "0 records, 1 x tx_resume_commit, 3 x tx_resume_abort, 1 in doubt";
    assert_eq!(all.to_string(), line);
    let counts: Vec<_> = all.actions().into_iter().collect();
    assert_eq!(counts, [(commit, 1), (abort, 3)]);
}

#[test]
fn names_are_read_back() {
    let actions = RecoveryAction::ALL.map(RecoveryAction::name);
    assert_eq!(actions.into_iter().collect::<BTreeSet<_>>().len(), actions.len());
    assert!(actions[..2].iter().all(|name| name.starts_with("saga_resume_")));
    assert!(actions[2..4].iter().all(|name| name.starts_with("tx_resume_")));
    assert_eq!(actions[4], "none");
    let kinds = MessageKind::ALL.map(MessageKind::name);
    assert_eq!(kinds.into_iter().collect::<BTreeSet<_>>().len(), kinds.len());
    for kind in MessageKind::ALL {
        assert_eq!(MessageKind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(MessageKind::from_name("nonsense"), None);
}
