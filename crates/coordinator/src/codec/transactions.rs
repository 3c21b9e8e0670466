//! What a transaction's events are in the log of its coordinator.

use super::read::Reader;
use super::write::{
    Fixed, PARENT_BYTES, PARTICIPANT_BYTES, Tags, parent_bytes, put_audit, tag_head, words,
};
use super::{CodecError, EXTENSION_VERSION, tag};
use base::{
    BootCount, CoordinatorId, NodeName, OperationId, ParentStep, RequestKey, ShardId, StoreId,
};
use twopc::coordinator::Member;
use twopc::{Audit, Vote, heuristic};
use wal_core::EventType;

/// Writes the payload of a transaction's event, and says which it is.
pub fn encode_transaction(
    id: OperationId,
    event: &twopc::coordinator::Event,
    out: &mut Vec<u8>,
) -> EventType {
    use twopc::coordinator::Event;
    let mut bare = |event| {
        words(out, id, &[]);
        event
    };
    match event {
        Event::Created { coordinator, request_key, fingerprint, parent } => {
            Fixed::<40>::of(id).put(&coordinator.0).append(out);
            put_created(Tags::behind(out), request_key.as_ref(), *fingerprint, *parent);
            EventType::TX_CREATED
        }
        Event::ParticipantAdded(Member { shard, node, store }) => {
            let prefix = Fixed::<88>::of(id).put(&shard.0).put(&node.0);
            match store {
                None => prefix.append(out),
                Some((store, boot)) => {
                    let extension = prefix.put(&[EXTENSION_VERSION]).put(&tag_head(tag::STORE, 12));
                    extension.put(&store.0.to_le_bytes()).put(&boot.0.to_le_bytes()).append(out);
                }
            }
            EventType::TX_PARTICIPANT_ADDED
        }
        Event::VoteReceived { shard, vote } => {
            let agrees = u8::from(*vote != Vote::Abort);
            Fixed::<41>::of(id).put(&shard.0).put(&[agrees]).append(out);
            if *vote == Vote::ReadOnly {
                put_flag(tag::READ_ONLY, out);
            }
            EventType::TX_VOTE_RECEIVED
        }
        Event::CommitStart { members } => {
            out.reserve(12 + members.len() * PARTICIPANT_BYTES);
            words(out, id, &[]);
            Tags::behind(out).participants(members.iter().copied());
            EventType::TX_COMMIT_START
        }
        Event::ForcedCommit { members, audit } => {
            words(out, id, &[]);
            let mut tags = Tags::behind(out);
            tags.participants(members.iter().copied());
            put_audit(&mut tags, audit);
            EventType::TX_COMMIT_START
        }
        Event::ForcedAbort { audit } => {
            words(out, id, &[]);
            put_audit(&mut Tags::behind(out), audit);
            EventType::TX_ABORT_START
        }
        Event::PrepareStart => bare(EventType::TX_PREPARE_START),
        Event::OnePhaseStart => {
            words(out, id, &[]);
            put_flag(tag::ONE_PHASE, out);
            EventType::TX_PREPARE_START
        }
        Event::ReadOnlyComplete => {
            words(out, id, &[]);
            put_flag(tag::READ_ONLY, out);
            EventType::TX_ABORT_COMPLETE
        }
        Event::CommitComplete => bare(EventType::TX_COMMIT_COMPLETE),
        Event::AbortStart => bare(EventType::TX_ABORT_START),
        Event::AbortComplete => bare(EventType::TX_ABORT_COMPLETE),
        Event::RollbackStart => bare(EventType::TX_ROLLBACK_START),
        Event::RollbackComplete => bare(EventType::TX_ROLLBACK_COMPLETE),
    }
}

// Apart from the others, since most records have none of this, and are written by the hundred thousand.

#[inline(never)]
fn put_created(
    mut tags: Tags<'_>,
    request_key: Option<&RequestKey>,
    fingerprint: Option<u128>,
    parent: Option<ParentStep>,
) {
    if let Some(key) = request_key {
        tags.put(tag::REQUEST_KEY, key.as_bytes());
    }
    if let Some(fingerprint) = fingerprint {
        tags.fixed(tag::FINGERPRINT, &fingerprint.to_le_bytes());
    }
    if let Some(parent) = parent {
        tags.put(tag::PARENT, &parent_bytes(parent));
    }
}

#[inline(never)]
fn put_flag(tag: u8, out: &mut Vec<u8>) {
    Tags::behind(out).put(tag, &[1]);
}

pub(super) const ID: usize = 8;

pub(super) const NAME: usize = 32;

/// How long the payload of a vote is.
pub(crate) const VOTE_PAYLOAD_BYTES: usize = ID + NAME + 1;

/// How long the payload of a transaction's end is.
pub(crate) const END_PAYLOAD_BYTES: usize = ID;

/// How long the payload is that [`encode_transaction`] writes, in bytes: for asking whether there is
/// room without writing anything.
#[must_use]
pub fn transaction_payload_bytes(event: &twopc::coordinator::Event) -> usize {
    use twopc::coordinator::Event;
    const VERSION: usize = 1;
    ID + match event {
        Event::Created { request_key: None, fingerprint: None, parent: None, .. } => NAME,
        Event::Created { request_key, fingerprint, parent, .. } => {
            let key = request_key.as_ref().map_or(0, |key| Tags::bytes(key.as_bytes().len()));
            let parent = parent.map_or(0, |_| Tags::bytes(PARENT_BYTES));
            NAME + VERSION + key + fingerprint.map_or(0, |_| Tags::bytes(16)) + parent
        }
        Event::ParticipantAdded(Member { store: None, .. }) => 2 * NAME,
        Event::ParticipantAdded(Member { store: Some(_), .. }) => {
            2 * NAME + VERSION + Tags::bytes(12)
        }
        Event::VoteReceived { vote: Vote::Commit | Vote::Abort, .. } => VOTE_PAYLOAD_BYTES - ID,
        Event::VoteReceived { vote: Vote::ReadOnly, .. } => {
            VOTE_PAYLOAD_BYTES - ID + VERSION + Tags::bytes(1)
        }
        Event::OnePhaseStart | Event::ReadOnlyComplete => VERSION + Tags::bytes(1),
        Event::CommitStart { members } => VERSION + Tags::bytes(members.len() * PARTICIPANT_BYTES),
        Event::ForcedCommit { members, audit } => {
            VERSION + Tags::bytes(members.len() * PARTICIPANT_BYTES) + audit_bytes(audit)
        }
        Event::ForcedAbort { audit } => VERSION + audit_bytes(audit),
        Event::PrepareStart
        | Event::CommitComplete
        | Event::AbortStart
        | Event::AbortComplete
        | Event::RollbackStart
        | Event::RollbackComplete => 0,
    }
}

pub(super) fn audit_bytes(audit: &Audit) -> usize {
    Tags::bytes(8 + 2 + audit.who.len() + audit.why.len())
}

/// Writes the payload of what a coordinator knows of a branch that ended otherwise, and says which event
/// it is.
pub fn encode_heuristic(
    coordinator: CoordinatorId,
    event: &heuristic::Event,
    out: &mut Vec<u8>,
) -> EventType {
    let prefix = Fixed::<115>::of(event.id()).put(&coordinator.0).put(&[EXTENSION_VERSION]);
    match event {
        heuristic::Event::Reported { shard, node, heuristic, .. } => {
            let branch = prefix.tag(tag::SHARD, &shard.0).tag(tag::NODE, &node.0);
            branch.tag(tag::FOUND, &[heuristic.code()]).append(out);
        }
        heuristic::Event::Gone { shard, node, audit, .. } => {
            let branch = prefix.tag(tag::SHARD, &shard.0).tag(tag::NODE, &node.0);
            let lost = branch.tag(tag::FOUND, &[heuristic::Heuristic::Lost.code()]);
            put_audit(&mut lost.tags(out), audit);
        }
        heuristic::Event::Forgotten { audit, .. } => {
            put_audit(&mut prefix.tag(tag::FOUND, &[FORGOTTEN_BY_COORDINATOR]).tags(out), audit);
        }
    }
    EventType::TX_HEURISTIC
}

/// Behind the codes of what is found.
pub(super) const FORGOTTEN_BY_COORDINATOR: u8 = 4;

pub(super) fn decode_transaction(
    event: EventType,
    mut reader: Reader<'_>,
) -> Result<twopc::coordinator::Event, CodecError> {
    use twopc::coordinator::Event;
    Ok(match event {
        EventType::TX_CREATED => {
            let coordinator = reader.coordinator()?;
            let tags = reader.extensions()?;
            let request_key = tags.request_key(event)?;
            let fingerprint = tags.array(tag::FINGERPRINT, event)?.map(u128::from_le_bytes);
            let parent = tags.parent(event)?;
            Event::Created { coordinator, request_key, fingerprint, parent }
        }
        EventType::TX_PARTICIPANT_ADDED => {
            let (shard, node) = (ShardId(reader.array()?), NodeName(reader.array()?));
            let store = reader.extensions()?.array::<12>(tag::STORE, event)?;
            let store = match store {
                None => None,
                Some(bytes) => {
                    let mut value = Reader { event, rest: &bytes };
                    Some((StoreId(value.u64()?), BootCount(value.u32()?)))
                }
            };
            Event::ParticipantAdded(Member { shard, node, store })
        }
        EventType::TX_PREPARE_START => match reader.extensions()?.flag(tag::ONE_PHASE, event)? {
            false => Event::PrepareStart,
            true => Event::OnePhaseStart,
        },
        EventType::TX_VOTE_RECEIVED => {
            let shard = ShardId(reader.array()?);
            let agrees = reader.array()?;
            let vote = match (agrees, reader.extensions()?.flag(tag::READ_ONLY, event)?) {
                ([0], false) => Vote::Abort,
                ([1], false) => Vote::Commit,
                ([1], true) => Vote::ReadOnly,
                _ => return Err(CodecError::Value(event)),
            };
            Event::VoteReceived { shard, vote }
        }
        EventType::TX_COMMIT_START => {
            let tags = reader.extensions()?;
            let members = tags.participants(event)?;
            match tags.audit(event)? {
                None => Event::CommitStart { members },
                Some(audit) => Event::ForcedCommit { members, audit },
            }
        }
        EventType::TX_COMMIT_COMPLETE => reader.bare(Event::CommitComplete)?,
        EventType::TX_ABORT_START => match reader.extensions()?.audit(event)? {
            None => Event::AbortStart,
            Some(audit) => Event::ForcedAbort { audit },
        },
        EventType::TX_ABORT_COMPLETE => match reader.extensions()?.flag(tag::READ_ONLY, event)? {
            false => Event::AbortComplete,
            true => Event::ReadOnlyComplete,
        },
        EventType::TX_ROLLBACK_START => reader.bare(Event::RollbackStart)?,
        EventType::TX_ROLLBACK_COMPLETE => reader.bare(Event::RollbackComplete)?,
        _ => return Err(CodecError::UnknownEvent(event)),
    })
}
