//! What a participant answers about transactions of which it knows nothing.

use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use std::collections::BTreeSet;
use twopc::participant::{Event, Participant, PromiseKey, Reply, Resources};
use twopc::{Message, TxKey, Vote, Watermark};

struct Yes;
impl Resources for Yes {
    fn can_prepare(&self, _: &PromiseKey, _: &[u8]) -> bool {
        true
    }
}

const COORDINATOR: CoordinatorId = CoordinatorId::numbered(0);
const STORE: StoreId = StoreId(7);

fn key() -> TxKey {
    TxKey { coordinator: COORDINATOR, id: OperationId(1 << 40 | 1) }
}

fn commit() -> Message {
    let (epoch, shard) = (Epoch::new(3), ShardId::numbered(1));
    Message::Commit { key: key(), epoch, shard, store: Some(STORE) }
}

/// A participant that was replaced hears a COMMIT of what its successor promised. Its store is the one
/// that voted; but only a log that is still its own lets the ACK out.
#[test]
fn an_ack_of_the_unknown_waits_for_a_record() {
    let mut participant = Participant::new(NodeName::numbered(1), STORE, BootCount(1));
    for at in [Sequence(1), Sequence(2)] {
        let proof = participant.decide(&commit(), &Yes).unwrap();
        let seen = Event::CoordinatorSeen { coordinator: COORDINATOR, epoch: Epoch::new(3) };
        assert_eq!(proof, seen, "also when the epoch is not new");
        participant.apply(at, &proof).unwrap();
        let Reply { message, after, .. } =
            participant.reply(NodeName(COORDINATOR.0), &commit()).unwrap();
        assert!(matches!(message, Message::Ack { heuristic: None, .. }));
        assert_eq!(after, at);
    }
}

/// A NO needs no record of its own, but it answers an epoch that is to be remembered.
#[test]
fn no_answer_leaves_before_the_epoch_that_it_answers_is_durable() {
    let mut participant = Participant::new(NodeName::numbered(1), STORE, BootCount(2));
    let (epoch, shard) = (Epoch::new(3), ShardId::numbered(1));
    let (peers, work) = ([].into(), [].into());
    let one_phase = false;
    let prepare = Message::Prepare { key: key(), epoch, shard, peers, work, one_phase };
    assert_eq!(participant.decide(&prepare, &Yes), None);
    let seen = participant.newer_epoch(COORDINATOR, epoch).unwrap();
    participant.apply(Sequence(5), &seen).unwrap();
    let reply = participant.reply(NodeName(COORDINATOR.0), &prepare).unwrap();
    assert!(matches!(reply.message, Message::Vote { vote: Vote::Abort, .. }));
    assert_eq!(reply.after, Sequence(5));
}

/// Of many coordinators each is known by its own epoch, and by what it has told.
#[test]
fn every_coordinator_that_was_heard_of_is_known() {
    let mut participant = Participant::new(NodeName::numbered(1), STORE, BootCount(1));
    let all: Vec<CoordinatorId> = (0..200).map(CoordinatorId::numbered).collect();
    let epoch = |number: usize| Epoch::new(1 + number as u32);
    for (number, coordinator) in all.iter().copied().enumerate() {
        let seen = participant.newer_epoch(coordinator, epoch(number)).unwrap();
        participant.apply(Sequence(1 + number as u64), &seen).unwrap();
    }
    let heard_of: BTreeSet<CoordinatorId> = participant.coordinators().collect();
    assert_eq!(heard_of, all.iter().copied().collect());
    for (number, coordinator) in all.iter().copied().enumerate() {
        assert!(!participant.refuses(coordinator, epoch(number)));
        assert!(number == 0 || participant.refuses(coordinator, epoch(number - 1)));
        assert_eq!(participant.watermark(coordinator), None);
    }
    let watermark = Watermark::new(OperationId(9), [OperationId(7)].into_iter());
    let finished =
        Event::Finished { coordinator: all[150], epoch: epoch(150), watermark: watermark.clone() };
    participant.apply(Sequence(500), &finished).unwrap();
    assert_eq!(participant.watermark(all[150]), Some(&watermark));
    assert_eq!(participant.watermark(all[151]), None);
}
