//! What the machines' events are in the log: the published prefix of each payload, and our extensions
//! behind it.
//!
//! A published log holds none of the extensions; a reader of the published format ignores them. Tags
//! that are not known here are skipped.

use crate::message::{SagaKey, StepAnswer};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, RequestKey, ShardId};
use base::{StoreId, Token};
use saga::{Action, Direction, FailedEffect};
use std::fmt;
use std::sync::Arc;
use twopc::coordinator::Member;
use twopc::participant::PromiseKey;
use twopc::{Peer, TxKey, Vote};
use wal_core::EventType;

/// The version of the extensions that this code writes, and the only one that it reads.
pub const EXTENSION_VERSION: u8 = 1;

/// The tags of our extensions. Values are little-endian; a value longer than 65,535 bytes stands in
/// parts, one behind the other under the same tag.
pub mod tag {
    /// The user's name for an operation, at most 64 bytes. On both created records.
    pub const REQUEST_KEY: u8 = 1;
    /// 16 bytes, from which a saga's tokens follow. On `saga_created`.
    pub const NONCE: u8 = 2;
    /// u32 each. On `saga_step_added`; without it steps are in sequence.
    pub const DEPENDENCIES: u8 = 3;
    /// 32 bytes: where a step runs. On `saga_step_added`.
    pub const NODE: u8 = 4;
    /// What a step, or a branch of a transaction, is asked to do. On `saga_step_added`, `tx_prepared`
    /// and `step_outcome`.
    pub const BODY: u8 = 5;
    /// u8: 0 none, 1 maybe. On `saga_step_failed`; without it none.
    pub const EFFECT: u8 = 6;
    /// Participants, 76 bytes each: shard, node, store u64, boot count u32. On `tx_commit_start` and
    /// `tx_prepared`. A store of which nothing is known has boot count 0.
    pub const PARTICIPANTS: u8 = 7;
    /// Store u64, boot count u32. On `tx_participant_added`.
    pub const STORE: u8 = 8;
    /// u32: the highest epoch of the coordinator that was seen. On the participant's records. On
    /// `in_doubt`: up to which epoch ids may be in doubt.
    pub const EPOCH: u8 = 9;
    /// 32 bytes: which of the participant's shards. On the participant's records.
    pub const SHARD: u8 = 10;
    /// u8, 1: a NO was promised to a peer. On `tx_participant_aborted`.
    pub const PROMISED: u8 = 11;
    /// Step u32, direction u8 (0 forward, 1 backward), token 16 bytes. On `step_outcome`.
    pub const CALL: u8 = 12;
    /// u8 (0 done, 1 refused), error code u32, u8 (1: the store was changed). On `step_outcome`.
    pub const ANSWER: u8 = 13;
    /// u8: 0 a record was lost, 1 a saga, 2 a transaction, 3 every id that the log does not know. On
    /// `in_doubt`.
    pub const DOUBT: u8 = 14;
}

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
    /// The work, to be done again at replay. Empty if nothing was changed.
    pub work: Arc<[u8]>,
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
        }
    }
}

impl std::error::Error for CodecError {}

// ---- writing ----

/// Up to `N` bytes of which the compiler knows where each part goes: they are put together and then
/// appended in one piece.
struct Fixed<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Fixed<N> {
    #[inline]
    fn of(id: OperationId) -> Fixed<N> {
        Fixed { bytes: [0; N], len: 0 }.put(&id.0.to_le_bytes())
    }

    #[inline]
    fn put<const M: usize>(mut self, part: &[u8; M]) -> Fixed<N> {
        self.bytes[self.len..self.len + M].copy_from_slice(part);
        self.len += M;
        self
    }

    #[inline]
    fn tag<const M: usize>(self, tag: u8, value: &[u8; M]) -> Fixed<N> {
        self.put(&tag_head(tag, M)).put(value)
    }

    #[inline]
    fn append(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.len]);
    }

    /// Appends it and goes on with extensions, of which it holds some.
    #[inline]
    fn tags(self, out: &mut Vec<u8>) -> Tags<'_> {
        self.append(out);
        Tags { out, begun: true }
    }
}

#[inline]
fn tag_head(tag: u8, len: usize) -> [u8; 3] {
    let len = u16::try_from(len).expect("parts are cut to fit");
    let [low, high] = len.to_le_bytes();
    [tag, low, high]
}

fn words(out: &mut Vec<u8>, id: OperationId, numbers: &[u32]) {
    out.extend_from_slice(&id.0.to_le_bytes());
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Writes extensions behind a prefix; the version byte comes with the first.
struct Tags<'a> {
    out: &'a mut Vec<u8>,
    begun: bool,
}

impl<'a> Tags<'a> {
    fn behind(out: &'a mut Vec<u8>) -> Tags<'a> {
        Tags { out, begun: false }
    }

    fn put(&mut self, tag: u8, value: &[u8]) -> &mut Self {
        let mut parts = value.chunks(usize::from(u16::MAX));
        let mut part = parts.next().unwrap_or(&[]);
        loop {
            self.head(tag, part.len());
            self.out.extend_from_slice(part);
            match parts.next() {
                Some(next) => part = next,
                None => return self,
            }
        }
    }

    /// How many bytes [`put`](Self::put) adds for a value, the version byte aside.
    fn bytes(value: usize) -> usize {
        TAG_HEAD_BYTES * value.div_ceil(usize::from(u16::MAX)).max(1) + value
    }

    fn head(&mut self, tag: u8, len: usize) {
        if !self.begun {
            self.out.push(EXTENSION_VERSION);
            self.begun = true;
        }
        self.out.extend_from_slice(&tag_head(tag, len));
    }

    fn participants(&mut self, list: impl ExactSizeIterator<Item = Member>) {
        // At most 64 participants of 76 bytes: one part.
        let bytes = list.len() * PARTICIPANT_BYTES;
        self.head(tag::PARTICIPANTS, bytes);
        let at = self.out.len();
        self.out.resize(at + bytes, 0);
        let entries = self.out[at..].as_chunks_mut::<PARTICIPANT_BYTES>().0;
        for (entry, Member { shard, node, store }) in entries.iter_mut().zip(list) {
            let (store, boot) = store.unwrap_or_default();
            entry[..32].copy_from_slice(&shard.0);
            entry[32..64].copy_from_slice(&node.0);
            entry[64..72].copy_from_slice(&store.0.to_le_bytes());
            entry[72..].copy_from_slice(&boot.0.to_le_bytes());
        }
    }
}

const PARTICIPANT_BYTES: usize = 76;
/// A tag and a length.
const TAG_HEAD_BYTES: usize = 3;
/// An id, a coordinator's name and the version of the extensions.
const PARTICIPANTS_PREFIX_BYTES: usize = 8 + 32 + 1;

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
pub fn step_outcome_bytes(work: usize) -> usize {
    let (call, answer) = (Tags::bytes(21), Tags::bytes(6));
    PARTICIPANTS_PREFIX_BYTES + call + answer + Tags::bytes(work)
}

/// Writes the payload of a saga's event, and says which it is.
pub fn encode_saga(id: OperationId, event: &saga::Event, out: &mut Vec<u8>) -> EventType {
    use saga::Event;
    match event {
        Event::Created { coordinator, nonce, request_key } => {
            words(out, id, &[]);
            out.extend_from_slice(&coordinator.0);
            let mut tags = Tags::behind(out);
            tags.put(tag::NONCE, &nonce.to_le_bytes());
            if let Some(key) = request_key {
                tags.put(tag::REQUEST_KEY, key.as_bytes());
            }
            EventType::SAGA_CREATED
        }
        Event::StepAdded { step, action, dependencies, node, body } => {
            words(out, id, &[*step]);
            out.push(action.code());
            let mut tags = Tags::behind(out);
            if let Some(dependencies) = dependencies {
                let bytes: Vec<u8> = dependencies.iter().flat_map(|d| d.to_le_bytes()).collect();
                tags.put(tag::DEPENDENCIES, &bytes);
            }
            tags.put(tag::NODE, &node.0).put(tag::BODY, body);
            EventType::SAGA_STEP_ADDED
        }
        Event::ExecuteStart => {
            words(out, id, &[]);
            EventType::SAGA_EXECUTE_START
        }
        Event::StepSucceeded { step } => {
            words(out, id, &[*step]);
            EventType::SAGA_STEP_SUCCEEDED
        }
        Event::StepFailed { step, error_code, effect } => {
            words(out, id, &[*step, *error_code]);
            if *effect == FailedEffect::Maybe {
                Tags::behind(out).put(tag::EFFECT, &[1]);
            }
            EventType::SAGA_STEP_FAILED
        }
        Event::CompensationStart { cause } => {
            words(out, id, &[cause.unwrap_or(u32::MAX)]);
            EventType::SAGA_COMPENSATION_START
        }
        Event::CompensationSucceeded { step } => {
            words(out, id, &[*step]);
            EventType::SAGA_COMPENSATION_SUCCEEDED
        }
        Event::CompensationFailed { step, attempt } => {
            words(out, id, &[*step, *attempt]);
            EventType::SAGA_COMPENSATION_FAILED
        }
        Event::Completed => {
            words(out, id, &[]);
            EventType::SAGA_COMPLETED
        }
        Event::Compensated => {
            words(out, id, &[]);
            EventType::SAGA_COMPENSATED
        }
        Event::Aborted => {
            words(out, id, &[]);
            EventType::SAGA_ABORTED
        }
    }
}

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
        Event::Created { coordinator, request_key } => {
            Fixed::<40>::of(id).put(&coordinator.0).append(out);
            if let Some(key) = request_key {
                Tags::behind(out).put(tag::REQUEST_KEY, key.as_bytes());
            }
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
            let vote = u8::from(*vote == Vote::Commit);
            Fixed::<41>::of(id).put(&shard.0).put(&[vote]).append(out);
            EventType::TX_VOTE_RECEIVED
        }
        Event::CommitStart { members } => {
            out.reserve(12 + members.len() * PARTICIPANT_BYTES);
            words(out, id, &[]);
            Tags::behind(out).participants(members.iter().copied());
            EventType::TX_COMMIT_START
        }
        Event::PrepareStart => bare(EventType::TX_PREPARE_START),
        Event::CommitComplete => bare(EventType::TX_COMMIT_COMPLETE),
        Event::AbortStart => bare(EventType::TX_ABORT_START),
        Event::AbortComplete => bare(EventType::TX_ABORT_COMPLETE),
        Event::RollbackStart => bare(EventType::TX_ROLLBACK_START),
        Event::RollbackComplete => bare(EventType::TX_ROLLBACK_COMPLETE),
    }
}

/// How long the payload is that [`encode_transaction`] writes, in bytes: for asking whether there is
/// room without writing anything.
#[must_use]
pub fn transaction_payload_bytes(event: &twopc::coordinator::Event) -> usize {
    use twopc::coordinator::Event;
    const ID: usize = 8;
    const NAME: usize = 32;
    const VERSION: usize = 1;
    ID + match event {
        Event::Created { request_key: None, .. } => NAME,
        Event::Created { request_key: Some(key), .. } => {
            NAME + VERSION + Tags::bytes(key.as_bytes().len())
        }
        Event::ParticipantAdded(Member { store: None, .. }) => 2 * NAME,
        Event::ParticipantAdded(Member { store: Some(_), .. }) => {
            2 * NAME + VERSION + Tags::bytes(12)
        }
        Event::VoteReceived { .. } => NAME + 1,
        Event::CommitStart { members } => VERSION + Tags::bytes(members.len() * PARTICIPANT_BYTES),
        Event::PrepareStart
        | Event::CommitComplete
        | Event::AbortStart
        | Event::AbortComplete
        | Event::RollbackStart
        | Event::RollbackComplete => 0,
    }
}

/// Writes the payload of a participant's event, and says which it is.
pub fn encode_participant(event: &twopc::participant::Event, out: &mut Vec<u8>) -> EventType {
    use twopc::participant::Event;
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
        Event::Aborted { key, promised } => {
            let branch = branch(key);
            let whole = if *promised { branch.tag(tag::PROMISED, &[1]) } else { branch };
            whole.append(out);
            EventType::TX_PARTICIPANT_ABORTED
        }
        Event::CoordinatorSeen { coordinator, epoch } => {
            let front = front(OperationId(0), coordinator);
            front.tag(tag::EPOCH, &epoch.value().to_le_bytes()).append(out);
            EventType::COORDINATOR_SEEN
        }
    }
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
    if outcome.changed {
        tags.put(tag::BODY, &outcome.work);
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

// ---- reading ----

/// A payload, read from the front.
struct Reader<'a> {
    event: EventType,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(CodecError::Short(self.event))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    fn coordinator(&mut self) -> Result<CoordinatorId, CodecError> {
        self.array().map(CoordinatorId)
    }

    /// What stands behind the prefix, checked as a whole: each (tag, value).
    fn extensions(&self) -> Result<Extensions<'a>, CodecError> {
        let bad = CodecError::Extensions(self.event);
        let Some((version, tags)) = self.rest.split_first() else {
            return Ok(Extensions(&[]));
        };
        if *version != EXTENSION_VERSION {
            return Err(bad);
        }
        let mut rest = tags;
        while !rest.is_empty() {
            let (_, behind) = split_tag(rest).ok_or(bad)?;
            rest = behind;
        }
        Ok(Extensions(tags))
    }
}

type TaggedValue<'a> = ((u8, &'a [u8]), &'a [u8]);

fn split_tag(bytes: &[u8]) -> Option<TaggedValue<'_>> {
    let (&[tag, low, high], rest) = bytes.split_first_chunk::<3>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    Some(((tag, value), rest))
}

/// Extensions that were checked to be whole.
#[derive(Clone, Copy)]
struct Extensions<'a>(&'a [u8]);

impl<'a> Extensions<'a> {
    fn iter(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (entry, behind) = split_tag(rest)?;
            rest = behind;
            Some(entry)
        })
    }

    fn find(self, tag: u8) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    fn array<const N: usize>(
        self,
        tag: u8,
        event: EventType,
    ) -> Result<Option<[u8; N]>, CodecError> {
        let bad = CodecError::Extensions(event);
        self.find(tag).map(|value| value.try_into().map_err(|_| bad)).transpose()
    }

    /// A value that may stand in parts.
    fn bytes(self, tag: u8) -> Arc<[u8]> {
        let mut parts = self.iter().filter(|(found, _)| *found == tag).map(|(_, value)| value);
        let first = parts.next().unwrap_or(&[]);
        match parts.next() {
            None => first.into(),
            Some(second) => {
                let mut whole = [first, second].concat();
                parts.for_each(|part| whole.extend_from_slice(part));
                whole.into()
            }
        }
    }

    fn request_key(self, event: EventType) -> Result<Option<RequestKey>, CodecError> {
        let bad = CodecError::Extensions(event);
        self.find(tag::REQUEST_KEY).map(|key| RequestKey::new(key).map_err(|_| bad)).transpose()
    }

    fn epoch(self, event: EventType) -> Result<Epoch, CodecError> {
        let value = self.array(tag::EPOCH, event)?.map_or(0, u32::from_le_bytes);
        if value > Epoch::MAX.value() {
            return Err(CodecError::Value(event));
        }
        Ok(Epoch::new(value))
    }

    fn participants(self, event: EventType) -> Result<Vec<Member>, CodecError> {
        let list = self.find(tag::PARTICIPANTS).unwrap_or(&[]);
        let (list, rest) = list.as_chunks::<PARTICIPANT_BYTES>();
        if !rest.is_empty() {
            return Err(CodecError::Extensions(event));
        }
        list.iter()
            .map(|bytes| {
                let mut reader = Reader { event, rest: bytes };
                let (shard, node) = (ShardId(reader.array()?), NodeName(reader.array()?));
                let (store, boot) = (StoreId(reader.u64()?), BootCount(reader.u32()?));
                Ok(Member { shard, node, store: (boot.0 > 0).then_some((store, boot)) })
            })
            .collect()
    }
}

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
        decode_saga(event, reader).map(|event| Fact::Saga { id, event })
    } else if event.is_transaction() {
        decode_transaction(event, reader).map(|event| Fact::Transaction { id, event })
    } else {
        decode_participant(event, id, reader)
    }
}

fn decode_saga(event: EventType, mut reader: Reader<'_>) -> Result<saga::Event, CodecError> {
    use saga::Event;
    Ok(match event {
        EventType::SAGA_CREATED => {
            let coordinator = reader.coordinator()?;
            let tags = reader.extensions()?;
            let nonce = tags.array(tag::NONCE, event)?.map_or(0, u128::from_le_bytes);
            Event::Created { coordinator, nonce, request_key: tags.request_key(event)? }
        }
        EventType::SAGA_STEP_ADDED => {
            let step = reader.u32()?;
            let [action] = reader.array()?;
            let tags = reader.extensions()?;
            let dependencies = match tags.find(tag::DEPENDENCIES) {
                None => None,
                Some(list) => {
                    let (list, rest) = list.as_chunks::<4>();
                    if !rest.is_empty() {
                        return Err(CodecError::Extensions(event));
                    }
                    Some(list.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
                }
            };
            let node = NodeName(tags.array(tag::NODE, event)?.unwrap_or_default());
            let (action, body) = (Action::from_code(action), tags.bytes(tag::BODY));
            Event::StepAdded { step, action, dependencies, node, body }
        }
        EventType::SAGA_EXECUTE_START => Event::ExecuteStart,
        EventType::SAGA_STEP_SUCCEEDED => Event::StepSucceeded { step: reader.u32()? },
        EventType::SAGA_STEP_FAILED => {
            let (step, error_code) = (reader.u32()?, reader.u32()?);
            let effect = match reader.extensions()?.array(tag::EFFECT, event)? {
                None | Some([0]) => FailedEffect::None,
                Some([1]) => FailedEffect::Maybe,
                Some(_) => return Err(CodecError::Value(event)),
            };
            Event::StepFailed { step, error_code, effect }
        }
        EventType::SAGA_COMPENSATION_START => {
            let cause = reader.u32()?;
            Event::CompensationStart { cause: (cause != u32::MAX).then_some(cause) }
        }
        EventType::SAGA_COMPENSATION_SUCCEEDED => {
            Event::CompensationSucceeded { step: reader.u32()? }
        }
        EventType::SAGA_COMPENSATION_FAILED => {
            Event::CompensationFailed { step: reader.u32()?, attempt: reader.u32()? }
        }
        EventType::SAGA_COMPLETED => Event::Completed,
        EventType::SAGA_COMPENSATED => Event::Compensated,
        EventType::SAGA_ABORTED => Event::Aborted,
        _ => return Err(CodecError::UnknownEvent(event)),
    })
}

fn decode_transaction(
    event: EventType,
    mut reader: Reader<'_>,
) -> Result<twopc::coordinator::Event, CodecError> {
    use twopc::coordinator::Event;
    Ok(match event {
        EventType::TX_CREATED => {
            let coordinator = reader.coordinator()?;
            let request_key = reader.extensions()?.request_key(event)?;
            Event::Created { coordinator, request_key }
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
        EventType::TX_PREPARE_START => Event::PrepareStart,
        EventType::TX_VOTE_RECEIVED => {
            let shard = ShardId(reader.array()?);
            let vote = match reader.array()? {
                [0] => Vote::Abort,
                [1] => Vote::Commit,
                _ => return Err(CodecError::Value(event)),
            };
            Event::VoteReceived { shard, vote }
        }
        EventType::TX_COMMIT_START => {
            Event::CommitStart { members: reader.extensions()?.participants(event)? }
        }
        EventType::TX_COMMIT_COMPLETE => Event::CommitComplete,
        EventType::TX_ABORT_START => Event::AbortStart,
        EventType::TX_ABORT_COMPLETE => Event::AbortComplete,
        EventType::TX_ROLLBACK_START => Event::RollbackStart,
        EventType::TX_ROLLBACK_COMPLETE => Event::RollbackComplete,
        _ => return Err(CodecError::UnknownEvent(event)),
    })
}

fn decode_participant(
    event: EventType,
    id: OperationId,
    mut reader: Reader<'_>,
) -> Result<Fact, CodecError> {
    use twopc::participant::Event;
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
        EventType::TX_PARTICIPANT_COMMITTED => {
            Fact::Participant(Event::Committed { key, epoch: tags.epoch(event)? })
        }
        EventType::TX_PARTICIPANT_ABORTED => {
            let promised = tags.array(tag::PROMISED, event)? == Some([1]);
            Fact::Participant(Event::Aborted { key, promised })
        }
        EventType::COORDINATOR_SEEN => {
            Fact::Participant(Event::CoordinatorSeen { coordinator, epoch: tags.epoch(event)? })
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

#[cfg(test)]
mod tests {
    use super::*;
    use twopc::participant::Event;

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
                work,
            };
            payload.clear();
            encode_step(&outcome, &mut payload);
            assert_eq!(payload.len(), step_outcome_bytes(bytes));
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
            Tx::Created { coordinator, request_key: None },
            Tx::ParticipantAdded(member),
            Tx::PrepareStart,
            Tx::VoteReceived { shard: member.shard, vote: Vote::Commit },
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
            events.push(Tx::Created { coordinator, request_key });
        }
        for event in events {
            let mut payload = Vec::new();
            encode_transaction(OperationId(6), &event, &mut payload);
            assert_eq!(payload.len(), transaction_payload_bytes(&event), "{event:?}");
        }
    }
}
