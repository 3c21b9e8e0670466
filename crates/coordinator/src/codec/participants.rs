//! What a participant writes: its promises and how they ended, its steps, of whom it has heard, and what is in doubt.

use super::read::Reader;
use super::transactions::FORGOTTEN_BY_COORDINATOR;
use super::write::{
    Fixed, PARTICIPANT_BYTES, TAG_HEAD_BYTES, Tags, put_audit, put_output, tag_head,
};
use super::{CodecError, Doubt, EXTENSION_VERSION, Fact, StepOutcome, tag};
use crate::message::{SagaKey, StepAnswer};
use base::{CoordinatorId, NodeName, OperationId, ShardId, Token};
use saga::Direction;
use std::sync::Arc;
use twopc::coordinator::Member;
use twopc::participant::PromiseKey;
use twopc::{Heuristic, Peer, TxKey, Watermark, heuristic};
use wal_core::EventType;

/// An id, a coordinator's name and the version of the extensions.
pub(super) const PARTICIPANTS_PREFIX_BYTES: usize = 8 + 32 + 1;

/// How long the payload of `tx_prepared` is, the longest record that a participant of a transaction
/// has to write.
#[must_use]
pub fn prepared_bytes(work: usize, peers: usize) -> usize {
    let (shard, epoch) = (Tags::bytes(32), Tags::bytes(4));
    let peers = Tags::bytes(peers * PARTICIPANT_BYTES);
    PARTICIPANTS_PREFIX_BYTES + shard + epoch + Tags::bytes(work) + peers
}

/// How long the payload of a `step_outcome` is that changes the store, the longest record that a node
/// has to write for a step.
#[must_use]
pub fn step_outcome_bytes(work: usize, output: Option<usize>) -> usize {
    let (call, answer) = (Tags::bytes(21), Tags::bytes(6));
    let output = output.map_or(0, |bytes| Tags::bytes(1 + bytes));
    PARTICIPANTS_PREFIX_BYTES + call + answer + Tags::bytes(work) + output
}

/// Writes the payload of a participant's event, and says which it is.
pub fn encode_participant(event: &twopc::participant::Event, out: &mut Vec<u8>) -> EventType {
    use twopc::participant::{Event, Finding};
    /// The most that stands before a body: coordinator, version, shard and epoch.
    type Front = Fixed<83>;
    let front = |id: OperationId, coordinator: &CoordinatorId| {
        Front::of(id).put(&coordinator.0).put(&[EXTENSION_VERSION])
    };
    let branch =
        |key: &PromiseKey| front(key.tx.id, &key.tx.coordinator).tag(tag::SHARD, &key.shard.0);
    match event {
        Event::Prepared { key, epoch, peers, work } => {
            out.reserve(83 + 6 + work.len() + peers.len() * PARTICIPANT_BYTES);
            let mut tags = branch(key).tag(tag::EPOCH, &epoch.value().to_le_bytes()).tags(out);
            tags.put(tag::BODY, work).participants(peers.iter().copied().map(Member::at));
            EventType::TX_PREPARED
        }
        Event::Committed { key, epoch } => {
            branch(key).tag(tag::EPOCH, &epoch.value().to_le_bytes()).append(out);
            EventType::TX_PARTICIPANT_COMMITTED
        }
        Event::OnePhase { key, epoch, work } => {
            let mut tags = branch(key).tag(tag::EPOCH, &epoch.value().to_le_bytes()).tags(out);
            tags.put(tag::BODY, work).put(tag::ONE_PHASE, &[1]);
            EventType::TX_PARTICIPANT_COMMITTED
        }
        Event::ReadOnly { key } => {
            branch(key).append(out);
            EventType::TX_PARTICIPANT_READ_ONLY
        }
        Event::Aborted { key, promised } => {
            let branch = branch(key);
            let whole = if *promised { branch.tag(tag::PROMISED, &[1]) } else { branch };
            whole.append(out);
            EventType::TX_PARTICIPANT_ABORTED
        }
        Event::Forced { key, commit, audit } => {
            put_audit(&mut branch(key).tags(out), audit);
            match commit {
                true => EventType::TX_PARTICIPANT_COMMITTED,
                false => EventType::TX_PARTICIPANT_ABORTED,
            }
        }
        Event::Heuristic { key, found } => {
            let (code, audit) = match found {
                Finding::Decided { commit } => (u8::from(*commit), None),
                Finding::Noted => (2, None),
                Finding::Forgotten { audit } => (3, Some(audit)),
            };
            let mut tags = branch(key).tag(tag::FOUND, &[code]).tags(out);
            if let Some(audit) = audit {
                put_audit(&mut tags, audit);
            }
            EventType::TX_PARTICIPANT_HEURISTIC
        }
        Event::CoordinatorSeen { coordinator, epoch } => {
            let front = front(OperationId(0), coordinator);
            front.tag(tag::EPOCH, &epoch.value().to_le_bytes()).append(out);
            EventType::COORDINATOR_SEEN
        }
        Event::Finished { coordinator, epoch, watermark } => {
            let front = front(OperationId(0), coordinator);
            let mut tags = front.tag(tag::EPOCH, &epoch.value().to_le_bytes()).tags(out);
            tags.put(tag::FINISHED, &encode_watermark(watermark));
            EventType::COORDINATOR_SEEN
        }
    }
}

/// How long the payload of a finished-watermark's record is at most.
pub const FINISHED_BYTES_MAX: usize =
    PARTICIPANTS_PREFIX_BYTES + 7 + TAG_HEAD_BYTES + 8 * (1 + Watermark::ACTIVE_MAX);

/// Writes a finished-watermark: the highest id, then the active ones.
#[must_use]
pub fn encode_watermark(watermark: &Watermark) -> Vec<u8> {
    let all = std::iter::once(watermark.highest()).chain(watermark.active().iter().copied());
    all.flat_map(|id| id.0.to_le_bytes()).collect()
}

/// Reads what [`encode_watermark`] writes; `None` if it is anything else.
#[must_use]
pub fn decode_watermark(value: &[u8]) -> Option<Watermark> {
    let (ids, cut) = value.as_chunks::<8>();
    let ids: Vec<OperationId> =
        ids.iter().map(|bytes| OperationId(u64::from_le_bytes(*bytes))).collect();
    let (&highest, active) = ids.split_first()?;
    let ascending = active.is_sorted_by(|a, b| a < b) && active.iter().all(|id| *id <= highest);
    let fits = active.len() <= Watermark::ACTIVE_MAX;
    (cut.is_empty() && ascending && fits).then(|| Watermark::new(highest, active.iter().copied()))
}

/// Writes the payload of a step's outcome, and says which event it is.
pub fn encode_step(outcome: &StepOutcome, out: &mut Vec<u8>) -> EventType {
    let (refused, code) = match outcome.answer {
        StepAnswer::Refused { code } => (1, code),
        StepAnswer::Done | StepAnswer::NotNow => (0, 0),
    };
    let backward = u8::from(outcome.direction == Direction::Backward);
    let prefix = Fixed::<74>::of(outcome.key.id).put(&outcome.key.coordinator.0);
    let call = prefix.put(&[EXTENSION_VERSION]).put(&tag_head(tag::CALL, 21));
    let call = call.put(&outcome.step.to_le_bytes()).put(&[backward]);
    let call = call.put(&outcome.token.0);
    let answer = call.put(&tag_head(tag::ANSWER, 6));
    let answer = answer.put(&[refused]).put(&code.to_le_bytes()).put(&[u8::from(outcome.changed)]);
    let mut tags = answer.tags(out);
    // In a snapshot it says of a step that was given something what it did, and that this is in the data.
    if outcome.changed || !outcome.work.is_empty() {
        tags.put(tag::BODY, &outcome.work);
    }
    if let Some(output) = &outcome.output {
        put_output(&mut tags, output);
    }
    if outcome.marked {
        tags.put(tag::MARKED, &[1]);
    }
    EventType::STEP_OUTCOME
}

/// Writes the payload of what a salvage could not prove, and says which event it is. `coordinator` is
/// the operation's, as far as it is known.
pub fn encode_doubt(coordinator: CoordinatorId, doubt: &Doubt, out: &mut Vec<u8>) -> EventType {
    let (kind, id) = match *doubt {
        Doubt::LostRecord => (0, OperationId(0)),
        Doubt::Saga(id) => (1, id),
        Doubt::Transaction(id) => (2, id),
        Doubt::UnknownIds { .. } => (3, OperationId(0)),
    };
    let prefix = Fixed::<52>::of(id).put(&coordinator.0).put(&[EXTENSION_VERSION]);
    let whole = prefix.tag(tag::DOUBT, &[kind]);
    match doubt {
        Doubt::UnknownIds { up_to } => whole.tag(tag::EPOCH, &up_to.value().to_le_bytes()),
        Doubt::LostRecord | Doubt::Saga(_) | Doubt::Transaction(_) => whole,
    }
    .append(out);
    EventType::IN_DOUBT
}

/// Writes the payload of a checkpoint's marker: how many operations are active.
pub fn encode_marker(sagas: u64, transactions: u64, out: &mut Vec<u8>) -> EventType {
    out.extend_from_slice(&sagas.to_le_bytes());
    out.extend_from_slice(&transactions.to_le_bytes());
    EventType::CHECKPOINT
}

pub(super) fn decode_participant(
    event: EventType,
    id: OperationId,
    mut reader: Reader<'_>,
) -> Result<Fact, CodecError> {
    use twopc::participant::{Event, Finding};
    let coordinator = reader.coordinator()?;
    let tags = reader.extensions()?;
    let shard = ShardId(tags.array(tag::SHARD, event)?.unwrap_or_default());
    let key = PromiseKey { tx: TxKey { coordinator, id }, shard };
    Ok(match event {
        EventType::TX_PREPARED => {
            let peers: Arc<[Peer]> = tags
                .participants(event)?
                .into_iter()
                .map(|Member { shard, node, store }| {
                    let (store, boot) = store.unwrap_or_default();
                    Peer { shard, node, store, boot }
                })
                .collect();
            let (epoch, work) = (tags.epoch(event)?, tags.bytes(tag::BODY));
            Fact::Participant(Event::Prepared { key, epoch, peers, work })
        }
        EventType::TX_PARTICIPANT_COMMITTED | EventType::TX_PARTICIPANT_ABORTED
            if tags.find(tag::FORCED).is_some() =>
        {
            let audit = tags.audit(event)?.ok_or(CodecError::Extensions(event))?;
            let commit = event == EventType::TX_PARTICIPANT_COMMITTED;
            Fact::Participant(Event::Forced { key, commit, audit })
        }
        EventType::TX_PARTICIPANT_HEURISTIC => {
            let found = match tags.array(tag::FOUND, event)?.ok_or(CodecError::Extensions(event))? {
                [0] => Finding::Decided { commit: false },
                [1] => Finding::Decided { commit: true },
                [2] => Finding::Noted,
                [3] => {
                    let audit = tags.audit(event)?.ok_or(CodecError::Extensions(event))?;
                    Finding::Forgotten { audit }
                }
                _ => return Err(CodecError::Value(event)),
            };
            Fact::Participant(Event::Heuristic { key, found })
        }
        EventType::TX_HEURISTIC => {
            let [code] = tags.array(tag::FOUND, event)?.ok_or(CodecError::Extensions(event))?;
            Fact::Heuristic(if code == FORGOTTEN_BY_COORDINATOR {
                let audit = tags.audit(event)?.ok_or(CodecError::Extensions(event))?;
                heuristic::Event::Forgotten { id, audit }
            } else {
                let heuristic = Heuristic::from_code(code).ok_or(CodecError::Value(event))?;
                let node = tags.array(tag::NODE, event)?.ok_or(CodecError::Extensions(event))?;
                let node = NodeName(node);
                match tags.audit(event)? {
                    None => heuristic::Event::Reported { id, shard, node, heuristic },
                    Some(audit) if heuristic == Heuristic::Lost => {
                        heuristic::Event::Gone { id, shard, node, audit }
                    }
                    Some(_) => return Err(CodecError::Value(event)),
                }
            })
        }
        EventType::TX_PARTICIPANT_COMMITTED => {
            let epoch = tags.epoch(event)?;
            Fact::Participant(match tags.flag(tag::ONE_PHASE, event)? {
                false => Event::Committed { key, epoch },
                true => Event::OnePhase { key, epoch, work: tags.bytes(tag::BODY) },
            })
        }
        EventType::TX_PARTICIPANT_ABORTED => {
            let promised = tags.array(tag::PROMISED, event)? == Some([1]);
            Fact::Participant(Event::Aborted { key, promised })
        }
        EventType::TX_PARTICIPANT_READ_ONLY => Fact::Participant(Event::ReadOnly { key }),
        EventType::COORDINATOR_SEEN => {
            let epoch = tags.epoch(event)?;
            Fact::Participant(match tags.find(tag::FINISHED) {
                None => Event::CoordinatorSeen { coordinator, epoch },
                Some(value) => {
                    let watermark = decode_watermark(value).ok_or(CodecError::Value(event))?;
                    Event::Finished { coordinator, epoch, watermark }
                }
            })
        }
        EventType::STEP_OUTCOME => {
            let call: [u8; 21] =
                tags.array(tag::CALL, event)?.ok_or(CodecError::Extensions(event))?;
            let mut call = Reader { event, rest: &call };
            let step = call.u32()?;
            let direction = match call.array()? {
                [0] => Direction::Forward,
                [1] => Direction::Backward,
                _ => return Err(CodecError::Value(event)),
            };
            let token = Token(call.array()?);
            let answer: [u8; 6] =
                tags.array(tag::ANSWER, event)?.ok_or(CodecError::Extensions(event))?;
            let [refused, a, b, c, d, changed] = answer;
            let answer = match refused {
                0 => StepAnswer::Done,
                1 => StepAnswer::Refused { code: u32::from_le_bytes([a, b, c, d]) },
                _ => return Err(CodecError::Value(event)),
            };
            Fact::Step(StepOutcome {
                key: SagaKey { coordinator, id },
                step,
                direction,
                token,
                answer,
                changed: changed == 1,
                work: tags.bytes(tag::BODY),
                output: tags.output(event)?,
                marked: tags.flag(tag::MARKED, event)?,
            })
        }
        EventType::IN_DOUBT => {
            let kind = tags.array(tag::DOUBT, event)?.ok_or(CodecError::Extensions(event))?;
            Fact::InDoubt(match kind {
                [0] => Doubt::LostRecord,
                [1] => Doubt::Saga(id),
                [2] => Doubt::Transaction(id),
                [3] => {
                    // Left out, it could mean none of them.
                    tags.find(tag::EPOCH).ok_or(CodecError::Extensions(event))?;
                    Doubt::UnknownIds { up_to: tags.epoch(event)? }
                }
                _ => return Err(CodecError::Value(event)),
            })
        }
        _ => return Err(CodecError::UnknownEvent(event)),
    })
}
