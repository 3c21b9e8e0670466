//! What may be forced, what not, and what is said about it afterwards.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use std::sync::Arc;
use twopc::coordinator::{Decision, Effect, Event as TxEvent, Input, Member, Transaction};
use twopc::participant::{Change, Event, Finding, Participant, Promise, PromiseKey, Resources};
use twopc::{
    Audit, ForceRefusal, Heuristic, IllegalTransition, Message, Peer, PeerVerdict, TxKey, Verdict,
    Vote, Watermark,
};

struct Yes;
impl Resources for Yes {
    fn can_prepare(&self, _: &PromiseKey, _: &[u8]) -> bool {
        true
    }
}

const COORDINATOR: CoordinatorId = CoordinatorId::numbered(0);
const EPOCH: Epoch = Epoch::new(3);
const TX: TxKey = TxKey { coordinator: COORDINATOR, id: OperationId(1 << 40 | 1) };
const SHARD: ShardId = ShardId::numbered(1);
const KEY: PromiseKey = PromiseKey { tx: TX, shard: SHARD };
const AT: NodeName = NodeName(COORDINATOR.0);

fn audit() -> Arc<Audit> {
    Arc::new(Audit { at_ms: 7, who: "eva".into(), why: "its site is gone".into() })
}

fn long() -> Arc<Audit> {
    Arc::new(Audit { at_ms: 7, who: "eva".into(), why: "x".repeat(1_025).into() })
}

fn me() -> Peer {
    let (node, store, boot) = (NodeName::numbered(1), StoreId(7), BootCount(1));
    Peer { shard: SHARD, node, store, boot }
}

/// Takes a message as a shell does, and says what is answered, and after which record.
fn hear(
    participant: &mut Participant,
    at: &mut u64,
    from: NodeName,
    message: &Message,
) -> Option<(Message, Sequence)> {
    let twopc::participant::Ruling::Heard { seen, fact, mut found } =
        participant.rule(message, &Yes)
    else {
        return None;
    };
    if let Some(epoch) = seen {
        *at += 1;
        let seen = Event::CoordinatorSeen { coordinator: COORDINATOR, epoch };
        participant.apply(Sequence(*at), &seen).unwrap();
    }
    if let Some(fact) = fact {
        *at += 1;
        participant.apply_at(&mut found, Sequence(*at), fact).unwrap();
    }
    participant.reply(from, message).map(|reply| (reply.message, reply.after))
}

fn prepared() -> (Participant, u64) {
    let (mut participant, mut at) = (Participant::new(me().node, me().store, me().boot), 0);
    let (peers, work, one_phase) = ([me()].into(), [1].into(), false);
    let prepare = Message::Prepare { key: TX, epoch: EPOCH, shard: SHARD, peers, work, one_phase };
    let (vote, after) = hear(&mut participant, &mut at, AT, &prepare).unwrap();
    assert!(matches!(vote, Message::Vote { vote: Vote::Commit, .. }) && after == Sequence(1));
    (participant, at)
}

fn force(participant: &mut Participant, at: &mut u64, commit: bool) -> Change {
    let event = participant.force(&KEY, commit, &audit()).unwrap().unwrap();
    *at += 1;
    participant.apply(Sequence(*at), &event).unwrap()
}

fn decision(commit: bool) -> Message {
    match commit {
        true => Message::Commit { key: TX, epoch: EPOCH, shard: SHARD, store: Some(me().store) },
        false => Message::Abort { key: TX, epoch: EPOCH, shard: SHARD },
    }
}

fn answer(commit: bool) -> Message {
    let verdict = if commit { Verdict::Committed } else { Verdict::Aborted };
    Message::Answer { key: TX, epoch: EPOCH, shard: SHARD, verdict }
}

fn from_peer(commit: bool) -> Message {
    let verdict = if commit { PeerVerdict::Committed } else { PeerVerdict::Aborted };
    Message::PeerAnswer { key: TX, shard: SHARD, verdict }
}

fn owed(participant: &Participant) -> Vec<(Message, Sequence)> {
    let mut owed = Vec::new();
    participant.pending(&KEY, true, &mut owed);
    owed.into_iter().map(|reply| (reply.message, reply.after)).collect()
}

fn ack(heuristic: Option<Heuristic>) -> Message {
    Message::Ack { key: TX, shard: SHARD, store: me().store, heuristic }
}

fn peer_hears(participant: &Participant) -> (PeerVerdict, Sequence) {
    let inquiry =
        Message::PeerInquiry { key: TX, shard: ShardId::numbered(2), peer: Box::new(me()) };
    let reply = participant.reply(NodeName::numbered(2), &inquiry).unwrap();
    let Message::PeerAnswer { verdict, .. } = reply.message else { panic!("{reply:?}") };
    (verdict, reply.after)
}

#[test]
fn only_a_promise_without_an_outcome_is_forced_and_once() {
    let (mut participant, mut at) = prepared();
    let other = PromiseKey { shard: ShardId::numbered(9), ..KEY };
    assert_eq!(participant.force(&other, true, &audit()), Err(ForceRefusal::NotInDoubt));
    let too_long = Err(ForceRefusal::TextTooLong { bytes: 1_025 });
    assert_eq!(participant.force(&KEY, true, &long()), too_long);
    assert_eq!(participant.forget(&KEY, &audit()), Err(ForceRefusal::NotListed));
    let event = participant.force(&KEY, true, &audit()).unwrap().unwrap();
    assert_eq!(event.name(), "tx_participant_committed");
    let Change::Ended(ended) = force(&mut participant, &mut at, true) else { panic!() };
    assert_eq!((ended.at, &ended.work[..]), (Sequence(1), &[1][..]));
    assert_eq!(participant.promise(&KEY), Some(Promise::Committed { at: Sequence(at) }));
    assert_eq!(participant.force(&KEY, true, &audit()), Ok(None));
    let otherwise = Err(ForceRefusal::ForcedOtherwise { commit: true });
    assert_eq!(participant.force(&KEY, false, &audit()), otherwise);
    // What is decided is not forced any more.
    for commit in [false, true] {
        let (mut participant, mut at) = prepared();
        hear(&mut participant, &mut at, AT, &decision(commit));
        let decided = Err(ForceRefusal::Decided { commit });
        assert_eq!(participant.force(&KEY, !commit, &audit()), decided);
        assert_eq!(participant.force(&KEY, commit, &audit()), decided);
        let forced = Event::Forced { key: KEY, commit, audit: audit() };
        assert!(participant.apply(Sequence(9), &forced).is_err());
        let found = Event::Heuristic { key: KEY, found: Finding::Noted };
        assert!(participant.apply(Sequence(9), &found).is_err());
    }
    let mut nothing = Participant::new(me().node, me().store, me().boot);
    let forced = Event::Forced { key: KEY, commit: true, audit: audit() };
    let unknown = Err(IllegalTransition::Unknown { event: "tx_participant_committed" });
    assert_eq!(nothing.apply(Sequence(1), &forced), unknown);
}

/// The same decision leaves nothing; another one is reported until it is noted, and listed until it is
/// forgotten. Peers hear the decision, never what was forced.
#[test]
fn what_is_forced_is_held_against_the_decision() {
    for commit in [false, true] {
        for tell in [decision, answer, from_peer] {
            let (mut participant, mut at) = prepared();
            force(&mut participant, &mut at, commit);
            let forced_at = Sequence(at);
            assert_eq!(peer_hears(&participant), (PeerVerdict::Prepared, Sequence::NONE));
            let inquiry = Message::Inquiry { key: TX, shard: SHARD, store: me().store };
            assert_eq!(owed(&participant), [(inquiry, forced_at)], "its coordinator, and no peer");
            assert_eq!(participant.unsettled().collect::<Vec<_>>(), [KEY]);

            let mut agreed = participant.clone();
            let reply = hear(&mut agreed, &mut at.clone(), AT, &tell(commit));
            let told = commit && !matches!(tell(commit), Message::PeerAnswer { .. });
            assert_eq!(reply, told.then(|| (ack(None), forced_at)));
            assert_eq!((agreed.forced().count(), agreed.unsettled().count()), (0, 0));
            assert_eq!(owed(&agreed), []);

            let reply = hear(&mut participant, &mut at, AT, &tell(!commit));
            let decided_at = Sequence(at);
            let heuristic = if commit { Heuristic::Committed } else { Heuristic::Aborted };
            let report = (ack(Some(heuristic)), decided_at);
            let at_once = !matches!(tell(commit), Message::PeerAnswer { .. });
            assert_eq!(reply, at_once.then(|| report.clone()), "{commit}");
            assert_eq!(owed(&participant), std::slice::from_ref(&report));
            let real = if commit { PeerVerdict::Aborted } else { PeerVerdict::Committed };
            assert_eq!(peer_hears(&participant), (real, decided_at));
            let [(KEY, forced)] = participant.forced().collect::<Vec<_>>()[..] else { panic!() };
            assert_eq!((forced.heuristic(), forced.commit), (Some(heuristic), commit));
            assert_eq!(forced.noted, None);
            // It is told only once.
            let before = at;
            assert_eq!(hear(&mut participant, &mut at, AT, &decision(!commit)), Some(report));
            assert_eq!(at, before);

            let noted = Message::Noted { key: TX, epoch: EPOCH, shard: SHARD };
            assert_eq!(hear(&mut participant, &mut at, AT, &noted), None);
            assert!(at > before);
            assert_eq!(participant.forced_of(&KEY).unwrap().noted, Some(Sequence(at)));
            assert_eq!((owed(&participant).len(), participant.unsettled().count()), (0, 0));
            let before = at;
            hear(&mut participant, &mut at, AT, &noted);
            assert_eq!(at, before, "noted twice is worth nothing");

            // Finished, it stays as long as it is listed.
            let mark = |participant: &mut Participant, highest: u64, at: u64| {
                let highest = OperationId(1 << 40 | highest);
                let watermark = Watermark::new(highest, std::iter::empty());
                let (coordinator, epoch) = (COORDINATOR, EPOCH);
                let event = Event::Finished { coordinator, epoch, watermark };
                participant.apply(Sequence(at), &event).unwrap();
            };
            mark(&mut participant, 1, at + 1);
            assert!(participant.promise(&KEY).is_some() && participant.forced().count() == 1);
            let forget = participant.forget(&KEY, &audit()).unwrap();
            assert_eq!(forget.name(), "tx_participant_heuristic");
            participant.apply(Sequence(at + 2), &forget).unwrap();
            assert_eq!(participant.forget(&KEY, &audit()), Err(ForceRefusal::NotListed));
            assert_eq!(peer_hears(&participant), (real, decided_at), "also when it is forgotten");
            mark(&mut participant, 2, at + 3);
            assert_eq!((participant.promise(&KEY), participant.forced().count()), (None, 0));
        }
    }
}

#[test]
fn of_what_is_forgotten_undecided_nobody_asks() {
    let (mut participant, mut at) = prepared();
    force(&mut participant, &mut at, false);
    assert_eq!(participant.forget(&KEY, &long()), Err(ForceRefusal::TextTooLong { bytes: 1_025 }));
    let forget = participant.forget(&KEY, &audit()).unwrap();
    at += 1;
    participant.apply(Sequence(at), &forget).unwrap();
    assert_eq!((owed(&participant).len(), participant.unsettled().count()), (0, 0));
    assert_eq!(peer_hears(&participant).0, PeerVerdict::Prepared);
    // If the decision comes after all it is reported.
    let reply = hear(&mut participant, &mut at, AT, &answer(true));
    assert_eq!(reply, Some((ack(Some(Heuristic::Aborted)), Sequence(at))));
    assert_eq!(participant.unsettled().count(), 1);
}

/// A snapshot says it event by event, and whoever reads that knows as much.
#[test]
fn what_is_forced_comes_back_from_its_events() {
    let (mut participant, mut at) = prepared();
    force(&mut participant, &mut at, true);
    let mut stages = vec![participant.clone()];
    hear(&mut participant, &mut at, AT, &answer(false));
    stages.push(participant.clone());
    hear(&mut participant, &mut at, AT, &Message::Noted { key: TX, epoch: EPOCH, shard: SHARD });
    stages.push(participant.clone());
    let forget = participant.forget(&KEY, &audit()).unwrap();
    participant.apply(Sequence(at + 1), &forget).unwrap();
    stages.push(participant);
    for (stage, participant) in stages.iter().enumerate() {
        let forced = participant.forced_of(&KEY).unwrap();
        assert_eq!(forced.events(KEY).count(), stage + 1);
        let mut restored = prepared().0;
        for (sequence, event) in forced.events(KEY) {
            restored.restore_forced(sequence, &event).unwrap();
        }
        assert_eq!(restored.forced_of(&KEY), Some(forced));
    }
    assert!(stages[0] != stages[1], "what was forced counts when two are compared");
    let mut nothing = prepared().0;
    let found = Event::Heuristic { key: KEY, found: Finding::Noted };
    assert!(nothing.restore_forced(Sequence(1), &found).is_err());
}

/// Where no decision allows it, ABORT finds a commit: then the operator of the coordinator has forced it.
#[test]
fn an_abort_of_what_is_committed_is_reported() {
    let (mut participant, mut at) = prepared();
    hear(&mut participant, &mut at, AT, &decision(true));
    let committed = Sequence(at);
    let reply = hear(&mut participant, &mut at, AT, &decision(false));
    assert_eq!(reply, Some((ack(Some(Heuristic::Committed)), committed)));
    // And COMMIT of a store of which nobody knows that it voted is a hazard.
    let mut nothing = Participant::new(me().node, me().store, me().boot);
    for (store, heuristic) in [
        (None, Some(Heuristic::Lost)),
        (Some(StoreId(8)), Some(Heuristic::Lost)),
        (Some(me().store), None),
    ] {
        let commit = Message::Commit { key: TX, epoch: EPOCH, shard: SHARD, store };
        let (reply, _) = hear(&mut nothing, &mut 0, AT, &commit).unwrap();
        assert_eq!(reply, ack(heuristic), "{store:?}");
    }
}

// ---- the coordinator's side ----

fn transaction(one_phase: bool) -> Transaction {
    let second = Peer { shard: ShardId::numbered(2), node: NodeName::numbered(2), ..me() };
    let members = [Member::at(me()), Member::at(second)];
    let events = match one_phase {
        true => Transaction::one_phase_admission(COORDINATOR, None, None, members[0]),
        false => Transaction::admission(COORDINATOR, None, None, &members).unwrap(),
    };
    let mut machine = Transaction::created(TX.id, Sequence(1), &events[0]).unwrap();
    for (at, event) in (2..).zip(&events[1..]) {
        machine.apply(Sequence(at), event).unwrap();
    }
    machine
}

fn effects(machine: &Transaction) -> Vec<Effect> {
    let mut owed = Vec::new();
    machine.pending(&mut owed);
    owed
}

#[test]
fn a_transaction_is_forced_while_it_has_no_decision() {
    let at = Sequence(9);
    for one_phase in [false, true] {
        let members: u32 = if one_phase { 1 } else { 2 };
        let mut commit = transaction(one_phase);
        if !one_phase {
            let vote = commit.decide(&Input::Vote { shard: SHARD, vote: Vote::Commit }).unwrap();
            commit.apply(Sequence(8), &vote).unwrap();
        }
        let mut abort = commit.clone();
        assert_eq!(commit.force(true, &long()), Err(ForceRefusal::TextTooLong { bytes: 1_025 }));

        let event = commit.force(true, &audit()).unwrap().unwrap();
        assert_eq!(event.name(), "tx_commit_start");
        assert!(!commit.is_forced());
        assert_eq!(commit.apply(at, &event), Ok(()));
        assert!(commit.is_forced() && !commit.is_delegated());
        assert_eq!((commit.decision(), commit.evidence()), (Some(Decision::Commit), at));
        let tell = Effect::Tell { decision: Decision::Commit, after: at };
        let commits = (0..members).map(|member| Effect::Commit { member, after: at });
        assert_eq!(effects(&commit), std::iter::once(tell).chain(commits).collect::<Vec<_>>());
        assert_eq!(commit.settle(), None);
        // Only of the one that is known to have voted it is said which store it was.
        let voted = (!one_phase).then_some(me().store);
        assert_eq!((commit.store_to_commit(0), commit.store_to_commit(1)), (voted, None));
        assert_eq!(commit.force(true, &audit()), Ok(None));
        let otherwise = Err(ForceRefusal::ForcedOtherwise { commit: true });
        assert_eq!(commit.force(false, &audit()), otherwise);
        for again in [TxEvent::ForcedAbort { audit: audit() }, event] {
            assert_eq!(commit.apply(at, &again), Err(IllegalTransition::SecondDecision));
        }

        let event = abort.force(false, &audit()).unwrap().unwrap();
        assert_eq!(event.name(), "tx_abort_start");
        assert_eq!(abort.apply(at, &event), Ok(()));
        assert!(abort.is_forced() && !abort.is_delegated());
        assert_eq!((abort.decision(), abort.evidence()), (Some(Decision::Abort), at));
        let aborts = effects(&abort).into_iter().filter(|e| matches!(e, Effect::Abort { .. }));
        assert_eq!(aborts.count(), members as usize);
        assert_eq!(abort.force(false, &audit()), Ok(None));
        let otherwise = Err(ForceRefusal::ForcedOtherwise { commit: false });
        assert_eq!(abort.force(true, &audit()), otherwise);
        let late = TxEvent::ForcedCommit { members: vec![], audit: audit() };
        assert_eq!(abort.apply(at, &late), Err(IllegalTransition::SecondDecision));
    }
    let mut decided = transaction(false);
    let turned = decided.decide(&Input::AbortRequested).unwrap();
    decided.apply(at, &turned).unwrap();
    let refused = Err(ForceRefusal::Decided { commit: false });
    assert_eq!(decided.force(false, &audit()), refused);
    assert_eq!(decided.force(true, &audit()), refused);
    // Where nobody forces, a member's store is the one that it announced.
    assert_eq!(transaction(false).store_to_commit(1), Some(me().store));
}
