//! What the machines' events are in the log: the published prefix of each payload, and our extensions
//! behind it.
//!
//! A published log holds none of the extensions; a reader of the published format ignores them. Of the tags
//! that are not known here those in [`tag::MUST_UNDERSTAND`] keep a log from being opened, and all others are
//! skipped.

mod participants;
mod read;
mod sagas;
pub mod tag;
#[cfg(test)]
mod tests;
mod transactions;
mod write;

pub use participants::{
    FINISHED_BYTES_MAX, decode_watermark, encode_doubt, encode_marker, encode_participant,
    encode_step, encode_watermark, prepared_bytes, step_outcome_bytes,
};
pub(crate) use read::{DEPTH_MAX, decode_audit};
pub(crate) use sagas::SUCCESS_PAYLOAD_BYTES;
pub use sagas::{encode_saga, encode_saga_end, step_succeeded_bytes};
pub(crate) use transactions::{END_PAYLOAD_BYTES, VOTE_PAYLOAD_BYTES};
pub use transactions::{encode_heuristic, encode_transaction, transaction_payload_bytes};
pub(crate) use write::audit_value;

use crate::message::{SagaKey, StepAnswer};
use base::{Epoch, OperationId, Token};
use participants::decode_participant;
use read::Reader;
use saga::{Direction, Output};
use sagas::decode_saga;
use std::fmt;
use std::sync::Arc;
use transactions::decode_transaction;
use twopc::heuristic;
use wal_core::EventType;

/// The version of the extensions that this code writes, and the only one that it reads.
pub const EXTENSION_VERSION: u8 = 1;

/// What a node did with a call of a saga's step: the record that makes its effect happen at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOutcome {
    /// The saga.
    pub key: SagaKey,
    /// The step.
    pub step: u32,
    /// Forward, or its compensation.
    pub direction: Direction,
    /// The call's token.
    pub token: Token,
    /// What was answered: done or refused, never "not now".
    pub answer: StepAnswer,
    /// Whether the store was changed: false for a compensation of a step that never ran.
    pub changed: bool,
    /// The work, to be done again at replay. Empty if nothing was changed; but in a snapshot, which has what
    /// was changed in its data, it is what a step did that was given something.
    pub work: Arc<[u8]>,
    /// What it brought.
    pub output: Option<Output>,
    /// A compensation that an operator has done by hand: the call changed nothing, and no later one
    /// will.
    pub marked: bool,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// An event of a saga.
    Saga {
        /// Which.
        id: OperationId,
        /// What happened.
        event: saga::Event,
    },
    /// An event of a transaction.
    Transaction {
        /// Which.
        id: OperationId,
        /// What happened.
        event: twopc::coordinator::Event,
    },
    /// An event of a participant.
    Participant(twopc::participant::Event),
    /// Of a branch that ended otherwise than its transaction.
    Heuristic(heuristic::Event),
    /// The outcome of a step at the node that ran it.
    Step(StepOutcome),
    /// A checkpoint's marker.
    Marker,
    /// What a salvage could not prove.
    InDoubt(Doubt),
}

/// What a salvage could not prove, as its record `in_doubt` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The record that had this number in the damaged log is lost: nothing says what it was.
    LostRecord,
    /// This saga's end, or its direction, may have been in a lost record.
    Saga(OperationId),
    /// This transaction's decision may have been.
    Transaction(OperationId),
    /// So may be operations of which the log does not know at all.
    UnknownIds {
        /// None of them is of a later epoch.
        up_to: Epoch,
    },
}

/// A record that cannot be read as what its type says. It changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecError {
    /// No event of this format has the code.
    UnknownEvent(EventType),
    /// The payload is shorter than its fixed prefix.
    Short(EventType),
    /// A value in it is out of its range.
    Value(EventType),
    /// The extensions are cut, or of another version.
    Extensions(EventType),
    /// A newer version has said something under this tag that must not be passed over.
    NotUnderstood(EventType, u8),
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownEvent(event) => write!(f, "an unknown event, {event}"),
            Self::Short(event) => write!(f, "{event}: the payload is too short"),
            Self::Value(event) => write!(f, "{event}: a value in the payload is out of range"),
            Self::Extensions(event) => {
                write!(f, "{event}: the payload's extensions are cut or of another version")
            }
            Self::NotUnderstood(event, tag) => {
                write!(f, "{event}: tag {tag} is of a newer version, and must not be passed over")
            }
        }
    }
}

impl std::error::Error for CodecError {}

/// Reads a record's payload as what its type says.
///
/// # Errors
/// [`CodecError`]: the record says nothing that this code understands; whoever replays reports it.
pub fn decode(event: EventType, payload: &[u8]) -> Result<Fact, CodecError> {
    let mut reader = Reader { event, rest: payload };
    if event == EventType::CHECKPOINT {
        reader.u64()?;
        reader.u64()?;
        return Ok(Fact::Marker);
    }
    if event.name().is_none() {
        return Err(CodecError::UnknownEvent(event));
    }
    let id = OperationId(reader.u64()?);
    if event.is_saga() {
        decode_saga(event, reader, 0).map(|event| Fact::Saga { id, event })
    } else if event.is_transaction() {
        decode_transaction(event, reader).map(|event| Fact::Transaction { id, event })
    } else {
        decode_participant(event, id, reader)
    }
}
