//! Payloads: the fixed fields that the published format gives each event, and the extensions behind
//! them. Nothing here knows what an event means to a saga or a transaction.

use base::{CoordinatorId, NodeName, OperationId, ShardId};

use crate::record::{EventType, u32_at, u64_at};

/// An event's fixed fields. One variant for each code that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are the published format's words; see FORMAT.md, "Record".
pub enum Prefix {
    /// Code 01.
    SagaCreated { id: OperationId, coordinator: CoordinatorId },
    /// Code 02.
    SagaStepAdded { id: OperationId, step: u32, action: u8 },
    /// Code 03.
    SagaExecuteStart { id: OperationId },
    /// Code 04.
    SagaStepSucceeded { id: OperationId, step: u32 },
    /// Code 05.
    SagaStepFailed { id: OperationId, step: u32, error_code: u32 },
    /// Code 06; step 0xFFFFFFFF: cancelled or timed out.
    SagaCompensationStart { id: OperationId, step: u32 },
    /// Code 07.
    SagaCompensationSucceeded { id: OperationId, step: u32 },
    /// Code 08.
    SagaCompensationFailed { id: OperationId, step: u32, attempt: u32 },
    /// Code 09.
    SagaCompleted { id: OperationId },
    /// Code 0A.
    SagaCompensated { id: OperationId },
    /// Code 0B.
    SagaAborted { id: OperationId },
    /// Code 10.
    TxCreated { id: OperationId, coordinator: CoordinatorId },
    /// Code 11.
    TxParticipantAdded { id: OperationId, shard: ShardId, node: NodeName },
    /// Code 12.
    TxPrepareStart { id: OperationId },
    /// Code 13; vote 1: commit, 0: abort.
    TxVoteReceived { id: OperationId, shard: ShardId, vote: u8 },
    /// Code 14.
    TxCommitStart { id: OperationId },
    /// Code 15.
    TxCommitComplete { id: OperationId },
    /// Code 16.
    TxAbortStart { id: OperationId },
    /// Code 17.
    TxAbortComplete { id: OperationId },
    /// Code 18.
    TxRollbackStart { id: OperationId },
    /// Code 19.
    TxRollbackComplete { id: OperationId },
    /// Code 1A.
    TxPrepared { id: OperationId, coordinator: CoordinatorId },
    /// Code 1B.
    TxParticipantCommitted { id: OperationId, coordinator: CoordinatorId },
    /// Code 1C.
    TxParticipantAborted { id: OperationId, coordinator: CoordinatorId },
    /// Code 1F.
    TxParticipantReadOnly { id: OperationId, coordinator: CoordinatorId },
    /// Code 1D; the id is 0.
    CoordinatorSeen { id: OperationId, coordinator: CoordinatorId },
    /// Code 1E; the id is 0 if it is unknown.
    InDoubt { id: OperationId, coordinator: CoordinatorId },
    /// Code 20.
    StepOutcome { id: OperationId, coordinator: CoordinatorId },
    /// Code 21; the coordinator is the transaction's.
    TxParticipantHeuristic { id: OperationId, coordinator: CoordinatorId },
    /// Code 22; the coordinator is the log's own.
    TxHeuristic { id: OperationId, coordinator: CoordinatorId },
    /// Code F0.
    Checkpoint { active_sagas: u64, active_transactions: u64 },
}

/// Why bytes are not that event's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The code has no known payload.
    #[error("event {0} has no known payload")]
    UnknownEvent(EventType),
    /// The payload ends inside the fixed fields.
    #[error("the payload of {event} has {bytes} bytes, its fixed fields have {needed}")]
    Short {
        /// The event.
        event: EventType,
        /// The payload's length.
        bytes: u64,
        /// The fixed fields' length.
        needed: u64,
    },
    /// The bytes behind the fixed fields are not extensions.
    #[error("the extensions of {event} end inside one, {offset} bytes into the payload")]
    Extensions {
        /// The event.
        event: EventType,
        /// Where the extension begins that is cut short, in bytes from the payload's beginning.
        offset: u64,
    },
}

/// The length of an event's fixed fields in bytes, if it has a name.
#[must_use]
pub const fn prefix_bytes(event: EventType) -> Option<u32> {
    Some(match event.0 {
        0x01 | 0x10 | 0x1A..=0x22 => 40,
        0x02 => 13,
        0x03 | 0x09..=0x0B | 0x12 | 0x14..=0x19 => 8,
        0x04 | 0x06 | 0x07 => 12,
        0x05 | 0x08 | 0xF0 => 16,
        0x11 => 72,
        0x13 => 41,
        _ => return None,
    })
}

impl Prefix {
    /// Reads an event's fixed fields. What follows them is left alone.
    ///
    /// # Errors
    /// [`PayloadError::UnknownEvent`], [`PayloadError::Short`].
    pub fn decode(event: EventType, bytes: &[u8]) -> Result<Prefix, PayloadError> {
        let needed = prefix_bytes(event).ok_or(PayloadError::UnknownEvent(event))?;
        if bytes.len() < needed as usize {
            let (bytes, needed) = (bytes.len() as u64, u64::from(needed));
            return Err(PayloadError::Short { event, bytes, needed });
        }
        let id = OperationId(u64_at(bytes, 0));
        let step = || u32_at(bytes, 8);
        let coordinator = || CoordinatorId(name_at(bytes, 8));
        let shard = || ShardId(name_at(bytes, 8));
        Ok(match event {
            EventType::SAGA_CREATED => Prefix::SagaCreated { id, coordinator: coordinator() },
            EventType::SAGA_STEP_ADDED => {
                Prefix::SagaStepAdded { id, step: step(), action: bytes[12] }
            }
            EventType::SAGA_EXECUTE_START => Prefix::SagaExecuteStart { id },
            EventType::SAGA_STEP_SUCCEEDED => Prefix::SagaStepSucceeded { id, step: step() },
            EventType::SAGA_STEP_FAILED => {
                Prefix::SagaStepFailed { id, step: step(), error_code: u32_at(bytes, 12) }
            }
            EventType::SAGA_COMPENSATION_START => {
                Prefix::SagaCompensationStart { id, step: step() }
            }
            EventType::SAGA_COMPENSATION_SUCCEEDED => {
                Prefix::SagaCompensationSucceeded { id, step: step() }
            }
            EventType::SAGA_COMPENSATION_FAILED => {
                Prefix::SagaCompensationFailed { id, step: step(), attempt: u32_at(bytes, 12) }
            }
            EventType::SAGA_COMPLETED => Prefix::SagaCompleted { id },
            EventType::SAGA_COMPENSATED => Prefix::SagaCompensated { id },
            EventType::SAGA_ABORTED => Prefix::SagaAborted { id },
            EventType::TX_CREATED => Prefix::TxCreated { id, coordinator: coordinator() },
            EventType::TX_PARTICIPANT_ADDED => {
                let node = NodeName(name_at(bytes, 40));
                Prefix::TxParticipantAdded { id, shard: shard(), node }
            }
            EventType::TX_PREPARE_START => Prefix::TxPrepareStart { id },
            EventType::TX_VOTE_RECEIVED => {
                Prefix::TxVoteReceived { id, shard: shard(), vote: bytes[40] }
            }
            EventType::TX_COMMIT_START => Prefix::TxCommitStart { id },
            EventType::TX_COMMIT_COMPLETE => Prefix::TxCommitComplete { id },
            EventType::TX_ABORT_START => Prefix::TxAbortStart { id },
            EventType::TX_ABORT_COMPLETE => Prefix::TxAbortComplete { id },
            EventType::TX_ROLLBACK_START => Prefix::TxRollbackStart { id },
            EventType::TX_ROLLBACK_COMPLETE => Prefix::TxRollbackComplete { id },
            EventType::TX_PREPARED => Prefix::TxPrepared { id, coordinator: coordinator() },
            EventType::TX_PARTICIPANT_COMMITTED => {
                Prefix::TxParticipantCommitted { id, coordinator: coordinator() }
            }
            EventType::TX_PARTICIPANT_ABORTED => {
                Prefix::TxParticipantAborted { id, coordinator: coordinator() }
            }
            EventType::TX_PARTICIPANT_READ_ONLY => {
                Prefix::TxParticipantReadOnly { id, coordinator: coordinator() }
            }
            EventType::COORDINATOR_SEEN => {
                Prefix::CoordinatorSeen { id, coordinator: coordinator() }
            }
            EventType::IN_DOUBT => Prefix::InDoubt { id, coordinator: coordinator() },
            EventType::STEP_OUTCOME => Prefix::StepOutcome { id, coordinator: coordinator() },
            EventType::TX_PARTICIPANT_HEURISTIC => {
                Prefix::TxParticipantHeuristic { id, coordinator: coordinator() }
            }
            EventType::TX_HEURISTIC => Prefix::TxHeuristic { id, coordinator: coordinator() },
            EventType::CHECKPOINT => {
                Prefix::Checkpoint { active_sagas: id.0, active_transactions: u64_at(bytes, 8) }
            }
            _ => return Err(PayloadError::UnknownEvent(event)),
        })
    }

    /// Appends the fixed fields to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let first = match *self {
            Prefix::Checkpoint { active_sagas, .. } => active_sagas,
            _ => self.id().expect("every event but a checkpoint has an id").0,
        };
        out.extend_from_slice(&first.to_le_bytes());
        match *self {
            Prefix::SagaCreated { coordinator, .. }
            | Prefix::TxCreated { coordinator, .. }
            | Prefix::TxPrepared { coordinator, .. }
            | Prefix::TxParticipantCommitted { coordinator, .. }
            | Prefix::TxParticipantAborted { coordinator, .. }
            | Prefix::TxParticipantReadOnly { coordinator, .. }
            | Prefix::CoordinatorSeen { coordinator, .. }
            | Prefix::InDoubt { coordinator, .. }
            | Prefix::StepOutcome { coordinator, .. }
            | Prefix::TxParticipantHeuristic { coordinator, .. }
            | Prefix::TxHeuristic { coordinator, .. } => out.extend_from_slice(&coordinator.0),
            Prefix::SagaStepAdded { step, action, .. } => {
                out.extend_from_slice(&step.to_le_bytes());
                out.push(action);
            }
            Prefix::SagaStepSucceeded { step, .. }
            | Prefix::SagaCompensationStart { step, .. }
            | Prefix::SagaCompensationSucceeded { step, .. } => {
                out.extend_from_slice(&step.to_le_bytes());
            }
            Prefix::SagaStepFailed { step, error_code: second, .. }
            | Prefix::SagaCompensationFailed { step, attempt: second, .. } => {
                out.extend_from_slice(&step.to_le_bytes());
                out.extend_from_slice(&second.to_le_bytes());
            }
            Prefix::TxParticipantAdded { shard, node, .. } => {
                out.extend_from_slice(&shard.0);
                out.extend_from_slice(&node.0);
            }
            Prefix::TxVoteReceived { shard, vote, .. } => {
                out.extend_from_slice(&shard.0);
                out.push(vote);
            }
            Prefix::Checkpoint { active_transactions, .. } => {
                out.extend_from_slice(&active_transactions.to_le_bytes());
            }
            Prefix::SagaExecuteStart { .. }
            | Prefix::SagaCompleted { .. }
            | Prefix::SagaCompensated { .. }
            | Prefix::SagaAborted { .. }
            | Prefix::TxPrepareStart { .. }
            | Prefix::TxCommitStart { .. }
            | Prefix::TxCommitComplete { .. }
            | Prefix::TxAbortStart { .. }
            | Prefix::TxAbortComplete { .. }
            | Prefix::TxRollbackStart { .. }
            | Prefix::TxRollbackComplete { .. } => {}
        }
    }

    /// The operation's id; `None` of a checkpoint.
    #[must_use]
    pub fn id(&self) -> Option<OperationId> {
        Some(match *self {
            Prefix::SagaCreated { id, .. }
            | Prefix::SagaStepAdded { id, .. }
            | Prefix::SagaExecuteStart { id }
            | Prefix::SagaStepSucceeded { id, .. }
            | Prefix::SagaStepFailed { id, .. }
            | Prefix::SagaCompensationStart { id, .. }
            | Prefix::SagaCompensationSucceeded { id, .. }
            | Prefix::SagaCompensationFailed { id, .. }
            | Prefix::SagaCompleted { id }
            | Prefix::SagaCompensated { id }
            | Prefix::SagaAborted { id }
            | Prefix::TxCreated { id, .. }
            | Prefix::TxParticipantAdded { id, .. }
            | Prefix::TxPrepareStart { id }
            | Prefix::TxVoteReceived { id, .. }
            | Prefix::TxCommitStart { id }
            | Prefix::TxCommitComplete { id }
            | Prefix::TxAbortStart { id }
            | Prefix::TxAbortComplete { id }
            | Prefix::TxRollbackStart { id }
            | Prefix::TxRollbackComplete { id }
            | Prefix::TxPrepared { id, .. }
            | Prefix::TxParticipantCommitted { id, .. }
            | Prefix::TxParticipantAborted { id, .. }
            | Prefix::TxParticipantReadOnly { id, .. }
            | Prefix::CoordinatorSeen { id, .. }
            | Prefix::InDoubt { id, .. }
            | Prefix::StepOutcome { id, .. }
            | Prefix::TxParticipantHeuristic { id, .. }
            | Prefix::TxHeuristic { id, .. } => id,
            Prefix::Checkpoint { .. } => return None,
        })
    }

    /// The event whose fields these are.
    #[must_use]
    pub fn event_type(&self) -> EventType {
        match self {
            Prefix::SagaCreated { .. } => EventType::SAGA_CREATED,
            Prefix::SagaStepAdded { .. } => EventType::SAGA_STEP_ADDED,
            Prefix::SagaExecuteStart { .. } => EventType::SAGA_EXECUTE_START,
            Prefix::SagaStepSucceeded { .. } => EventType::SAGA_STEP_SUCCEEDED,
            Prefix::SagaStepFailed { .. } => EventType::SAGA_STEP_FAILED,
            Prefix::SagaCompensationStart { .. } => EventType::SAGA_COMPENSATION_START,
            Prefix::SagaCompensationSucceeded { .. } => EventType::SAGA_COMPENSATION_SUCCEEDED,
            Prefix::SagaCompensationFailed { .. } => EventType::SAGA_COMPENSATION_FAILED,
            Prefix::SagaCompleted { .. } => EventType::SAGA_COMPLETED,
            Prefix::SagaCompensated { .. } => EventType::SAGA_COMPENSATED,
            Prefix::SagaAborted { .. } => EventType::SAGA_ABORTED,
            Prefix::TxCreated { .. } => EventType::TX_CREATED,
            Prefix::TxParticipantAdded { .. } => EventType::TX_PARTICIPANT_ADDED,
            Prefix::TxPrepareStart { .. } => EventType::TX_PREPARE_START,
            Prefix::TxVoteReceived { .. } => EventType::TX_VOTE_RECEIVED,
            Prefix::TxCommitStart { .. } => EventType::TX_COMMIT_START,
            Prefix::TxCommitComplete { .. } => EventType::TX_COMMIT_COMPLETE,
            Prefix::TxAbortStart { .. } => EventType::TX_ABORT_START,
            Prefix::TxAbortComplete { .. } => EventType::TX_ABORT_COMPLETE,
            Prefix::TxRollbackStart { .. } => EventType::TX_ROLLBACK_START,
            Prefix::TxRollbackComplete { .. } => EventType::TX_ROLLBACK_COMPLETE,
            Prefix::TxPrepared { .. } => EventType::TX_PREPARED,
            Prefix::TxParticipantCommitted { .. } => EventType::TX_PARTICIPANT_COMMITTED,
            Prefix::TxParticipantAborted { .. } => EventType::TX_PARTICIPANT_ABORTED,
            Prefix::TxParticipantReadOnly { .. } => EventType::TX_PARTICIPANT_READ_ONLY,
            Prefix::CoordinatorSeen { .. } => EventType::COORDINATOR_SEEN,
            Prefix::InDoubt { .. } => EventType::IN_DOUBT,
            Prefix::StepOutcome { .. } => EventType::STEP_OUTCOME,
            Prefix::TxParticipantHeuristic { .. } => EventType::TX_PARTICIPANT_HEURISTIC,
            Prefix::TxHeuristic { .. } => EventType::TX_HEURISTIC,
            Prefix::Checkpoint { .. } => EventType::CHECKPOINT,
        }
    }
}

/// What may follow an event's fixed fields: a version and tagged values. A reader that does not know
/// a tag passes over it. The same tag may come more than once: a value too long for one, in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The version of the tags' meaning.
    pub version: u8,
    /// Each tag with its value, at most 65,535 bytes long.
    pub tags: Vec<(u8, Vec<u8>)>,
}

impl Extensions {
    /// Appends the version and every tag to `out`.
    ///
    /// # Panics
    /// If a value is longer than 65,535 bytes: split it into parts.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.version);
        for (tag, value) in &self.tags {
            encode_extension(*tag, value, out);
        }
    }

    /// The first value of that tag.
    #[must_use]
    pub fn value(&self, tag: u8) -> Option<&[u8]> {
        self.tags.iter().find(|(found, _)| *found == tag).map(|(_, value)| value.as_slice())
    }
}

/// Appends one tagged value to `out`, behind a version or another tagged value.
///
/// # Panics
/// If the value is longer than 65,535 bytes: split it into parts.
pub fn encode_extension(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(value.len()).expect("a value is split before it is too long");
    out.push(tag);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
}

/// The extensions of a payload, borrowed: `(tag, value)` in order, or where they stop making sense.
#[derive(Clone, Debug)]
pub struct ExtensionIter<'a> {
    event: EventType,
    payload: &'a [u8],
    at: usize,
    version: Option<u8>,
}

impl ExtensionIter<'_> {
    /// The version; `None` if the payload has no extensions.
    #[must_use]
    pub fn version(&self) -> Option<u8> {
        self.version
    }
}

impl<'a> Iterator for ExtensionIter<'a> {
    type Item = Result<(u8, &'a [u8]), PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.payload[self.at..];
        if rest.is_empty() {
            return None;
        }
        let value_end = match rest {
            [_, low, high, ..] => 3 + usize::from(u16::from_le_bytes([*low, *high])),
            _ => usize::MAX,
        };
        if value_end > rest.len() {
            let offset = self.at as u64;
            self.at = self.payload.len();
            return Some(Err(PayloadError::Extensions { event: self.event, offset }));
        }
        self.at += value_end;
        Some(Ok((rest[0], &rest[3..value_end])))
    }
}

/// A payload's extensions, without copying them.
///
/// # Errors
/// [`PayloadError::UnknownEvent`], [`PayloadError::Short`]; a malformed extension is the iterator's
/// last item.
pub fn extensions(event: EventType, payload: &[u8]) -> Result<ExtensionIter<'_>, PayloadError> {
    let prefix = prefix_bytes(event).ok_or(PayloadError::UnknownEvent(event))?;
    let at = prefix as usize;
    if payload.len() < at {
        let (bytes, needed) = (payload.len() as u64, u64::from(prefix));
        return Err(PayloadError::Short { event, bytes, needed });
    }
    let version = payload.get(at).copied();
    let at = at + usize::from(version.is_some());
    Ok(ExtensionIter { event, payload, at, version })
}

/// A whole payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The fixed fields.
    pub prefix: Prefix,
    /// What follows them, if anything does.
    pub extensions: Option<Extensions>,
}

impl Payload {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`PayloadError`]. A reader that needs only the fixed fields takes [`Prefix::decode`], which
    /// does not mind what follows them.
    pub fn decode(event: EventType, bytes: &[u8]) -> Result<Payload, PayloadError> {
        let prefix = Prefix::decode(event, bytes)?;
        let found = extensions(event, bytes)?;
        let extensions = match found.version() {
            None => None,
            Some(version) => {
                let tags = found.map(|tag| tag.map(|(tag, value)| (tag, value.to_vec())));
                Some(Extensions { version, tags: tags.collect::<Result<_, _>>()? })
            }
        };
        Ok(Payload { prefix, extensions })
    }

    /// Appends the payload's bytes to `out`.
    ///
    /// # Panics
    /// If an extension's value is longer than 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.prefix.encode(out);
        if let Some(extensions) = &self.extensions {
            extensions.encode(out);
        }
    }

    /// The event whose payload this is.
    #[must_use]
    pub fn event_type(&self) -> EventType {
        self.prefix.event_type()
    }
}

fn name_at(bytes: &[u8], at: usize) -> [u8; 32] {
    let mut name = [0; 32];
    name.copy_from_slice(&bytes[at..at + 32]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_event_reads_as_written() {
        for &event in EventType::NAMED {
            let len = prefix_bytes(event).unwrap() as usize;
            let mut bytes: Vec<u8> = (1..=len as u8).collect();
            let payload = Payload::decode(event, &bytes).unwrap();
            assert_eq!(payload.event_type(), event);
            assert_eq!(payload.extensions, None);
            let mut written = Vec::new();
            payload.encode(&mut written);
            assert_eq!(written, bytes);

            bytes.extend_from_slice(&[1, 7, 2, 0, 8, 9, 7, 0, 0]);
            let payload = Payload::decode(event, &bytes).unwrap();
            let extensions = payload.extensions.clone().unwrap();
            assert_eq!(extensions.tags, [(7, vec![8, 9]), (7, vec![])]);
            assert_eq!(extensions.value(7), Some(&[8, 9][..]));
            let mut written = Vec::new();
            payload.encode(&mut written);
            assert_eq!(written, bytes);

            let short =
                Err(PayloadError::Short { event, bytes: len as u64 - 1, needed: len as u64 });
            assert_eq!(Payload::decode(event, &bytes[..len - 1]), short);
            let cut = Payload::decode(event, &bytes[..bytes.len() - 1]);
            assert_eq!(cut, Err(PayloadError::Extensions { event, offset: len as u64 + 6 }));
            assert_eq!(Prefix::decode(event, &bytes[..len + 1]).unwrap(), payload.prefix);
        }
    }

    #[test]
    fn an_unknown_event_has_no_payload() {
        let event = EventType(0x2A);
        assert_eq!(Payload::decode(event, &[]), Err(PayloadError::UnknownEvent(event)));
    }
}
