use super::*;
use crate::message::{SagaKey, StepAnswer};
use base::{
    BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey, ShardId,
    StoreId, Token,
};
use saga::{Action, Branch, Definition, Direction, Output};
use std::sync::Arc;
use twopc::coordinator::Member;
use twopc::participant::Event;
use twopc::participant::PromiseKey;
use twopc::{Audit, Heuristic, Peer, TxKey, Vote, heuristic};

/// What is admitted by these sizes is what will be written.
#[test]
fn sizes_are_those_of_what_is_written() {
    let part = usize::from(u16::MAX);
    let (coordinator, id) = (CoordinatorId([1; 32]), OperationId(u64::MAX));
    let (shard, node) = (ShardId([2; 32]), NodeName([3; 32]));
    let peer = Peer { shard, node, store: StoreId(4), boot: BootCount(5) };
    for bytes in [0, 1, part - 1, part, part + 1, 2 * part, 2 * part + 1] {
        let work: Arc<[u8]> = vec![7; bytes].into();
        let mut payload = Vec::new();
        for peers in [1, 2, 64] {
            let key = PromiseKey { tx: TxKey { coordinator, id }, shard };
            let list = vec![peer; peers].into();
            let epoch = Epoch::MAX;
            let event = Event::Prepared { key, epoch, peers: list, work: work.clone() };
            payload.clear();
            encode_participant(&event, &mut payload);
            assert_eq!(payload.len(), prepared_bytes(bytes, peers));
        }
        let outcome = StepOutcome {
            key: SagaKey { coordinator, id },
            step: u32::MAX,
            direction: Direction::Backward,
            token: Token::new(u128::MAX),
            answer: StepAnswer::Done,
            changed: true,
            work: work.clone(),
            output: None,
            marked: false,
        };
        payload.clear();
        encode_step(&outcome, &mut payload);
        assert_eq!(payload.len(), step_outcome_bytes(bytes, None));
        let output = Some(Output::Inline(work.clone()));
        payload.clear();
        encode_step(&StepOutcome { output: output.clone(), ..outcome }, &mut payload);
        assert_eq!(payload.len(), step_outcome_bytes(bytes, Some(bytes)));
        payload.clear();
        let succeeded = saga::Event::StepSucceeded { step: 1, output };
        encode_saga(id, &succeeded, &mut payload);
        assert_eq!(payload.len(), step_succeeded_bytes(bytes));
    }
}

/// Everything that a saga's event can say is read as it was written; cut anywhere behind the
/// published prefix, it is refused or says less, and never panics.
#[test]
fn a_sagas_events_read_as_written() {
    use saga::{AttemptNote, Event as E, Label, Order, StepKind, StepTerms, ValueType, What};
    use std::time::Duration;
    let label = |name| Label::new(name).expect("a short name");
    let (coordinator, node) = (CoordinatorId([1; 32]), NodeName([3; 32]));
    let order = |what| {
        let order = Order { who: "wer".into(), why: "darum \u{e4}".into(), what };
        let note = AttemptNote::Ordered(Box::new(order));
        E::CompensationFailed { step: 7, attempt: 3, note }
    };
    let definition = Some(saga::DefinitionName { name: label("order"), version: 9 });
    let timeout = Some(Duration::from_nanos(u64::MAX));
    let (fingerprint, parent) = (Some(u128::MAX - 5), None);
    let terms = saga::SagaTerms { definition, fingerprint, timeout, parent };
    let request_key = RequestKey::new(b"key").ok();
    let branch = Branch { shard: ShardId::numbered(5), node, work: [3; 70].into() };
    let mut events = vec![
        E::Created { coordinator, nonce: 5, request_key, terms },
        E::StepSucceeded { step: 1, output: Some(Output::Inline([].into())) },
        E::StepSucceeded { step: 1, output: Some(Output::Inline(vec![9; 70_000].into())) },
        E::StepSucceeded { step: 1, output: Some(Output::Hashed { hash: [4; 32], bytes: 8 }) },
        E::CompensationSucceeded { step: 2, heuristic: true },
        E::CompensationSucceeded { step: 2, heuristic: false },
        E::CompensationFailed { step: 2, attempt: 1, note: AttemptNote::Retried },
        E::CompensationFailed { step: 2, attempt: 1, note: AttemptNote::Parked },
        order(What::RetryNow),
        order(What::MarkDone),
        order(What::CloseUnanswered),
        order(What::Override { body: [1, 2, 3].into() }),
        order(What::Instead { branches: [branch].into() }),
    ];
    for kind in StepKind::ALL {
        let (dependencies, body) = (Some([0, 2].into()), Arc::from([8; 20]));
        let terms = StepTerms {
            kind,
            timeout: Some(Duration::from_secs(3)),
            action_name: Some(label("charge")),
            undo_name: Some(label("refund")),
            inputs: vec![0, 2],
            output: Some(ValueType::Text),
            ..StepTerms::default()
        };
        let action = Action::Custom;
        events.push(E::StepAdded {
            step: 3,
            action,
            dependencies,
            node,
            body,
            terms: terms.into(),
        });
    }
    for event in events {
        let (id, mut payload) = (OperationId(77), Vec::new());
        let kind = encode_saga(id, &event, &mut payload);
        let read = decode(kind, &payload);
        assert_eq!(read, Ok(Fact::Saga { id, event: event.clone() }));
        for len in (0..payload.len().min(300)).chain([payload.len() - 1]) {
            let cut = decode(kind, &payload[..len]);
            assert_ne!(cut, Ok(Fact::Saga { id, event: event.clone() }), "{len} bytes");
        }
    }
}

/// Steps that are operations, and operations that are steps'. A definition within a definition is
/// read to any depth that can be built, and not to one that only a forged payload has.
#[test]
fn what_steps_do_and_are_done_by_reads_as_written() {
    use saga::{Event as E, Label, Step, StepKind, ValueType};
    let label = |name: &str| Label::new(name).expect("a short name");
    let node = NodeName([4; 32]);
    let branch = |byte: u8, len: usize| Branch {
        shard: ShardId([byte; 32]),
        node,
        work: vec![byte; len].into(),
    };
    let build = |steps: Vec<Step>| {
        let mut builder = Definition::builder();
        let most = saga::Limits { depth_max: 64, ..saga::Limits::default() };
        builder.limits(most).name(label("inner"), 3).timeout(std::time::Duration::from_secs(9));
        let mut last: Option<u32> = None;
        for step in steps {
            let step = last.into_iter().fold(step, Step::after);
            last = Some(builder.step(step));
        }
        builder.build().expect("steps that go together")
    };
    let (none, long) = (vec![branch(1, 0)], vec![branch(1, 40_000), branch(2, 40_000)]);
    let leaf = || Step::new(Action::ShardWrite, node, [7; 9]).gives(ValueType::U64);
    let inner = build(vec![leaf().named(label("a")), leaf().takes(0, ValueType::U64)]);
    let middle = build(vec![
        Step::saga(inner.clone()).gives(ValueType::U64),
        Step::transaction(none.clone()).undone_at(node, [1, 2]).attempts(5),
        Step::transaction(long.clone()).undone_by_transaction(none.clone()),
        Step::saga(inner.clone()).undone_by_transaction(long),
        Step::saga(inner).undone_at(node, []),
        Step::transaction(none).kind(StepKind::Pivot),
    ]);
    let (coordinator, id) = (CoordinatorId([3; 32]), OperationId(77));
    let deep = (0..14)
        .fold(middle.clone(), |inner, _| build(vec![Step::saga(inner).kind(StepKind::Pivot)]));
    for definition in [middle, deep.clone()] {
        for undo in [false, true] {
            let parent = ParentStep { saga: OperationId(u64::MAX - 1), step: 4, undo };
            let admission = saga::Saga::admission(&definition, coordinator, 5, None);
            for event in saga::Saga::on_behalf_of(parent, admission) {
                let mut payload = Vec::new();
                let kind = encode_saga(id, &event, &mut payload);
                let whole = Ok(Fact::Saga { id, event });
                assert_eq!(decode(kind, &payload), whole);
                let cuts = (0..payload.len().min(400)).chain((0..payload.len()).step_by(997));
                for len in cuts.chain([payload.len() - 1]) {
                    assert_ne!(decode(kind, &payload[..len]), whole, "{len} bytes");
                }
            }
            let created = twopc::coordinator::Event::Created {
                coordinator,
                request_key: None,
                fingerprint: None,
                parent: Some(parent),
            };
            let mut payload = Vec::new();
            let kind = encode_transaction(id, &created, &mut payload);
            assert_eq!(payload.len(), transaction_payload_bytes(&created));
            assert_eq!(decode(kind, &payload), Ok(Fact::Transaction { id, event: created }));
        }
    }
    let too_deep = build(vec![Step::saga(deep).kind(StepKind::Pivot)]);
    let too_deep = build(vec![Step::saga(too_deep).kind(StepKind::Pivot)]);
    let events = saga::Saga::admission(&too_deep, coordinator, 5, None);
    let E::StepAdded { .. } = &events[1] else { panic!("a step") };
    let mut payload = Vec::new();
    let kind = encode_saga(id, &events[1], &mut payload);
    assert_eq!(decode(kind, &payload), Err(CodecError::Value(kind)));
}

/// Whatever an operator has forced, and what came of it, reads as it was written, and what is cut is
/// nothing of an operator's.
#[test]
fn what_operators_force_reads_as_written() {
    use twopc::participant::Finding;
    let (coordinator, id) = (CoordinatorId([1; 32]), OperationId(77));
    let (shard, node) = (ShardId([2; 32]), NodeName([3; 32]));
    let key = PromiseKey { tx: TxKey { coordinator, id }, shard };
    let audit =
        |who: &str, why: &str| Arc::new(Audit { at_ms: -5, who: who.into(), why: why.into() });
    let member = Member::at(Peer { shard, node, store: StoreId(4), boot: BootCount(5) });
    let (most, none) = ("\u{e4}".repeat(512), "");
    for audit in [audit("eva", "the site is gone"), audit(&most, &most), audit(none, none)] {
        let mut facts = Vec::new();
        for commit in [false, true] {
            let found = Finding::Decided { commit };
            facts.push(Fact::Participant(Event::Forced { key, commit, audit: audit.clone() }));
            facts.push(Fact::Participant(Event::Heuristic { key, found }));
        }
        for found in [Finding::Noted, Finding::Forgotten { audit: audit.clone() }] {
            facts.push(Fact::Participant(Event::Heuristic { key, found }));
        }
        for heuristic in Heuristic::ALL {
            let reported = heuristic::Event::Reported { id, shard, node, heuristic };
            facts.push(Fact::Heuristic(reported));
        }
        facts.push(Fact::Heuristic(heuristic::Event::Gone {
            id,
            shard,
            node,
            audit: audit.clone(),
        }));
        facts.push(Fact::Heuristic(heuristic::Event::Forgotten { id, audit: audit.clone() }));
        for members in [vec![], vec![member; 64]] {
            let event = twopc::coordinator::Event::ForcedCommit { members, audit: audit.clone() };
            facts.push(Fact::Transaction { id, event });
        }
        let event = twopc::coordinator::Event::ForcedAbort { audit };
        facts.push(Fact::Transaction { id, event });
        for fact in facts {
            let mut payload = Vec::new();
            let event = match &fact {
                Fact::Participant(event) => encode_participant(event, &mut payload),
                Fact::Heuristic(event) => encode_heuristic(coordinator, event, &mut payload),
                Fact::Transaction { event, .. } => {
                    let kind = encode_transaction(id, event, &mut payload);
                    assert_eq!(payload.len(), transaction_payload_bytes(event));
                    kind
                }
                _ => unreachable!("no other fact is above"),
            };
            assert_eq!(decode(event, &payload), Ok(fact.clone()));
            for len in 0..payload.len() {
                assert_ne!(decode(event, &payload[..len]), Ok(fact.clone()), "{len} bytes");
            }
        }
    }
}

#[test]
fn a_doubt_reads_as_written() {
    let id = OperationId(u64::MAX);
    for doubt in [
        Doubt::LostRecord,
        Doubt::Saga(id),
        Doubt::Transaction(id),
        Doubt::UnknownIds { up_to: Epoch::NONE },
        Doubt::UnknownIds { up_to: Epoch::MAX },
    ] {
        let mut payload = Vec::new();
        let event = encode_doubt(CoordinatorId::numbered(1), &doubt, &mut payload);
        assert_eq!(decode(event, &payload), Ok(Fact::InDoubt(doubt)));
        // Whatever is cut off or unknown is no weaker doubt, but none that is understood.
        for len in 40..payload.len() {
            assert!(decode(event, &payload[..len]).is_err(), "{doubt:?}, {len} bytes");
        }
        payload[44] = 4;
        assert_eq!(decode(event, &payload), Err(CodecError::Value(event)));
    }
}

#[test]
fn a_transactions_payload_is_as_long_as_foretold() {
    use twopc::coordinator::Event as Tx;
    let coordinator = CoordinatorId::numbered(1);
    let mut member = Member::new(ShardId::numbered(2), NodeName::numbered(3));
    let mut events = vec![
        Tx::Created { coordinator, request_key: None, fingerprint: None, parent: None },
        Tx::Created { coordinator, request_key: None, fingerprint: Some(7), parent: None },
        Tx::ParticipantAdded(member),
        Tx::PrepareStart,
        Tx::OnePhaseStart,
        Tx::VoteReceived { shard: member.shard, vote: Vote::Commit },
        Tx::VoteReceived { shard: member.shard, vote: Vote::ReadOnly },
        Tx::ReadOnlyComplete,
        Tx::CommitStart { members: vec![] },
        Tx::CommitStart { members: vec![member; 64] },
        Tx::CommitComplete,
        Tx::AbortStart,
        Tx::AbortComplete,
        Tx::RollbackStart,
        Tx::RollbackComplete,
    ];
    member.store = Some((StoreId(4), BootCount(5)));
    events.push(Tx::ParticipantAdded(member));
    for bytes in [0, 1, RequestKey::BYTES_MAX as usize] {
        let request_key = RequestKey::new(&vec![7; bytes]).ok();
        assert!(request_key.is_some());
        let fingerprint = (bytes > 0).then_some(u128::MAX - 9);
        events.push(Tx::Created { coordinator, request_key, fingerprint, parent: None });
    }
    for event in events {
        let (id, mut payload) = (OperationId(6), Vec::new());
        let kind = encode_transaction(id, &event, &mut payload);
        assert_eq!(payload.len(), transaction_payload_bytes(&event), "{event:?}");
        assert_eq!(decode(kind, &payload), Ok(Fact::Transaction { id, event }));
    }
}
