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

fn written(fact: &Fact) -> (EventType, Vec<u8>) {
    let mut payload = Vec::new();
    let event = match fact {
        Fact::Participant(event) => encode_participant(event, &mut payload),
        Fact::Heuristic(event) => encode_heuristic(CoordinatorId([1; 32]), event, &mut payload),
        Fact::Step(outcome) => encode_step(outcome, &mut payload),
        fact => unreachable!("{fact:?} is tested elsewhere"),
    };
    (event, payload)
}

fn branch() -> PromiseKey {
    let (coordinator, id) = (CoordinatorId([1; 32]), OperationId(77));
    PromiseKey { tx: TxKey { coordinator, id }, shard: ShardId([2; 32]) }
}

fn step_outcome() -> StepOutcome {
    StepOutcome {
        key: SagaKey { coordinator: CoordinatorId([1; 32]), id: OperationId(77) },
        step: 0x0403_0201,
        direction: Direction::Forward,
        token: Token::new(u128::MAX - 3),
        answer: StepAnswer::Done,
        changed: true,
        work: [5; 9].into(),
        output: None,
        marked: false,
    }
}

#[test]
fn what_a_participant_writes_reads_as_written() {
    use twopc::Watermark;
    let (key, epoch) = (branch(), Epoch::new(0x0003_0201));
    let coordinator = key.tx.coordinator;
    let peer = |number: u64| Peer {
        shard: ShardId::numbered(number),
        node: NodeName::numbered(number + 1),
        store: StoreId(number),
        boot: BootCount(1 + number as u32),
    };
    let (mut facts, mut empty) = (Vec::new(), 0);
    for (peers, bytes) in [(0, 0), (1, 1), (64, 70_000)] {
        let work: Arc<[u8]> = (0..bytes).map(|it| it as u8).collect();
        let peers = (0..peers).map(peer).collect();
        facts.push(Fact::Participant(Event::OnePhase { key, epoch, work: work.clone() }));
        facts.push(Fact::Participant(Event::Prepared { key, epoch, peers, work: work.clone() }));
        for (changed, marked) in [(true, false), (true, true), (false, true)] {
            let work = if changed { work.clone() } else { [].into() };
            let step = StepOutcome { changed, marked, work, ..step_outcome() };
            facts.push(Fact::Step(step.clone()));
            let answer = StepAnswer::Refused { code: 0x0807_0605 };
            facts.push(Fact::Step(StepOutcome { answer, ..step.clone() }));
            let direction = Direction::Backward;
            let output = Some(Output::Inline(step.work.clone()));
            facts.push(Fact::Step(StepOutcome { direction, output, ..step }));
        }
        if bytes == 0 {
            let epoch = Epoch::NONE;
            facts.push(Fact::Participant(Event::Committed { key, epoch }));
            facts.push(Fact::Participant(Event::CoordinatorSeen { coordinator, epoch }));
            empty = facts.len();
        }
    }
    for epoch in [epoch, Epoch::MAX] {
        facts.push(Fact::Participant(Event::Committed { key, epoch }));
        facts.push(Fact::Participant(Event::CoordinatorSeen { coordinator, epoch }));
        for active in [0, 1, Watermark::ACTIVE_MAX as u64] {
            let active = (0..active).map(|it| OperationId(9 + it));
            let watermark = Watermark::new(OperationId(40), active);
            facts.push(Fact::Participant(Event::Finished { coordinator, epoch, watermark }));
        }
    }
    for promised in [false, true] {
        facts.push(Fact::Participant(Event::Aborted { key, promised }));
    }
    facts.push(Fact::Participant(Event::ReadOnly { key }));
    for (at, fact) in facts.into_iter().enumerate() {
        let (event, payload) = written(&fact);
        if let Fact::Participant(Event::Finished { .. }) = fact {
            assert!(payload.len() <= FINISHED_BYTES_MAX);
        }
        assert_eq!(decode(event, &payload), Ok(fact.clone()));
        if at < empty {
            // What is left out is as empty, and no epoch is none.
            continue;
        }
        for len in (0..payload.len().min(500)).chain([payload.len() - 1]) {
            assert_ne!(decode(event, &payload[..len]), Ok(fact.clone()), "{len} bytes");
        }
    }
}

/// The byte in which two facts differ has a few values that mean something; any other one is an error.
#[test]
fn a_code_that_means_nothing_is_an_error() {
    use twopc::participant::Finding;
    let (key, id) = (branch(), OperationId(77));
    let (shard, node) = (key.shard, NodeName([3; 32]));
    let decided = |commit| Event::Heuristic { key, found: Finding::Decided { commit } };
    let reported = |heuristic| heuristic::Event::Reported { id, shard, node, heuristic };
    let (done, refused) = (StepAnswer::Done, StepAnswer::Refused { code: 0 });
    let step = |answer, direction| Fact::Step(StepOutcome { answer, direction, ..step_outcome() });
    let (there, back) = (Direction::Forward, Direction::Backward);
    let seen = |epoch| {
        let coordinator = key.tx.coordinator;
        Fact::Participant(Event::CoordinatorSeen { coordinator, epoch: Epoch::new(epoch) })
    };
    let pairs = [
        (Fact::Participant(decided(false)), Fact::Participant(decided(true))),
        (Fact::Heuristic(reported(Heuristic::Lost)), Fact::Heuristic(reported(Heuristic::Aborted))),
        (step(done, there), step(refused, there)),
        (step(done, there), step(done, back)),
        // The highest byte of an epoch.
        (seen(0x0001_0000), seen(0x00FF_0000)),
    ];
    for (one, other) in pairs {
        let ((event, one), (_, other)) = (written(&one), written(&other));
        let differ: Vec<_> = (0..one.len()).filter(|at| one[*at] != other[*at]).collect();
        let [at] = differ[..] else { panic!("{differ:?}") };
        let at = if event == EventType::COORDINATOR_SEEN { at + 1 } else { at };
        for code in [5, 200, 255] {
            let mut wrong = one.clone();
            wrong[at] = code;
            assert_eq!(decode(event, &wrong), Err(CodecError::Value(event)), "{code} at {at}");
        }
    }
    // Only a participant that is lost can be said to be gone.
    let audit = Arc::new(Audit { at_ms: 1, who: "eva".into(), why: "gone".into() });
    let gone = Fact::Heuristic(heuristic::Event::Gone { id, shard, node, audit });
    let (event, payload) = written(&gone);
    let lost = written(&Fact::Heuristic(reported(Heuristic::Lost))).1;
    let mixed = written(&Fact::Heuristic(reported(Heuristic::Aborted))).1;
    let at = (0..lost.len()).find(|at| lost[*at] != mixed[*at]).expect("they differ");
    let mut wrong = payload;
    wrong[at] = mixed[at];
    assert_eq!(decode(event, &wrong), Err(CodecError::Value(event)));
}

/// Only what a coordinator can have said.
#[test]
fn a_watermark_is_read_if_it_is_one() {
    use twopc::Watermark;
    let bytes = |ids: &[u64]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let many = |count: u64| [vec![99], (0..count).collect()].concat();
    let most = Watermark::ACTIVE_MAX as u64;
    for ids in [vec![0], vec![9], vec![9, 9], vec![9, 1, 2, 8], many(most)] {
        let mark = decode_watermark(&bytes(&ids)).expect("it is one");
        let active: Vec<u64> = mark.active().iter().map(|id| id.0).collect();
        assert_eq!((mark.highest().0, &active[..]), (ids[0], &ids[1..]));
        assert_eq!(encode_watermark(&mark), bytes(&ids));
    }
    for ids in [vec![], vec![9, 10], vec![9, 2, 1], vec![9, 1, 1], many(most + 1)] {
        assert_eq!(decode_watermark(&bytes(&ids)), None, "{ids:?}");
    }
    assert_eq!(decode_watermark(&bytes(&[9, 1])[..15]), None);
}
