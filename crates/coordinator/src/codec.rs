//! What the machines' events are in the log: the published prefix of each payload, and our extensions
//! behind it.
//!
//! A published log holds none of the extensions; a reader of the published format ignores them. Of the tags
//! that are not known here those in [`tag::MUST_UNDERSTAND`] keep a log from being opened, and all others are
//! skipped.

use crate::message::{SagaKey, StepAnswer};
use base::{
    BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey, ShardId,
};
use base::{StoreId, Token};
use saga::{Action, Branch, Definition, Direction, FailedEffect, Output, Performer, Undo};
use std::fmt;
use std::sync::Arc;
use twopc::coordinator::Member;
use twopc::participant::PromiseKey;
use twopc::{Audit, Heuristic, Peer, TxKey, Vote, Watermark, heuristic};
use wal_core::EventType;

/// The version of the extensions that this code writes, and the only one that it reads.
pub const EXTENSION_VERSION: u8 = 1;

/// The tags of our extensions. Values are little-endian; a value longer than 65,535 bytes stands in
/// parts, one behind the other under the same tag.
pub mod tag {
    /// A reader that does not know one of these must not go on with the log. None is in use.
    pub const MUST_UNDERSTAND: std::ops::RangeInclusive<u8> = 96..=127;
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
    /// u8: 0 compensatable, 1 pivot, 2 retriable, 3 read-only. On `saga_step_added`; without it 0.
    pub const KIND: u8 = 32;
    /// u64, nanoseconds. On `saga_created` and `saga_step_added`.
    pub const TIMEOUT: u8 = 33;
    /// UTF-8, 1 to 64 bytes: by what name a step's code is found. On `saga_step_added`.
    pub const ACTION_NAME: u8 = 34;
    /// u32 each: the steps whose outputs a step is given. On `saga_step_added`.
    pub const INPUTS: u8 = 35;
    /// u8: 0 bytes, 1 text, 2 u64, 3 i64, 4 bool. On `saga_step_added`; without it a step brings
    /// nothing.
    pub const OUTPUT_TYPE: u8 = 36;
    /// Version u32, name UTF-8 of 1 to 64 bytes: of the definition. On `saga_created`.
    pub const DEFINITION: u8 = 37;
    /// 16 bytes that tell the definition, bodies included, from any other. On `saga_created`; on
    /// `tx_created` those that tell the branches, their work included.
    pub const FINGERPRINT: u8 = 38;
    /// u8: 0, and the bytes behind it are what a step brought; 1, and behind it are their hash, 32
    /// bytes, and their number, u64. On `saga_step_succeeded` and `step_outcome`.
    pub const OUTPUT: u8 = 39;
    /// u8, 1: the branch waits for an operator. On `saga_compensation_failed`.
    pub const PARKED: u8 = 40;
    /// What u8 (0 retry now, 1 mark done, 2 close unanswered, 3 override: what is asked instead is under
    /// [`BODY`], 4 the transaction that undoes it instead is under [`UNDO`]), length of who u16, who, why: an
    /// operator's order, no attempt. On `saga_compensation_failed`.
    pub const ORDER: u8 = 41;
    /// u8, 1: an operator said so, not the participant. On `saga_compensation_succeeded`.
    pub const HEURISTIC: u8 = 42;
    /// UTF-8, 1 to 64 bytes: by what name a step's compensation is found. On `saga_step_added`.
    pub const UNDO_NAME: u8 = 44;
    /// u8, 1: an operator has undone it by hand; nothing was changed by this call. On `step_outcome`.
    pub const MARKED: u8 = 43;
    /// u8, 1: the vote is read-only; on the vote of such a one, whose published byte is 1, and on the
    /// `tx_abort_complete` of a transaction of which every vote is one. On `tx_vote_received` and
    /// `tx_abort_complete`.
    pub const READ_ONLY: u8 = 45;
    /// u8, 1: the only participant decides by itself. On `tx_prepare_start`, and on the
    /// `tx_participant_committed` that is such a decision: what it does is under [`BODY`].
    pub const ONE_PHASE: u8 = 46;
    /// When i64, Unix milliseconds, length of who u16, who, why: an operator ends what is in doubt, or has seen
    /// to what came of that. On `tx_commit_start`, `tx_abort_start`, `tx_participant_committed`,
    /// `tx_participant_aborted`, `tx_participant_heuristic`, `tx_heuristic`, `saga_completed` and
    /// `saga_compensated`.
    pub const FORCED: u8 = 47;
    /// u8: on `tx_participant_heuristic` 0 it is decided to abort, 1 to commit, 2 the coordinator has noted it,
    /// 3 an operator has seen to it; on `tx_heuristic` 1 the branch is lost, 2 it has aborted, 3 it has
    /// committed, 4 an operator has seen to it.
    pub const FOUND: u8 = 48;
    /// u8: 0 its node, 1 a transaction: its branches, 2 a saga: its definition. On `saga_step_added`; without
    /// it 0. What stands in both is in FORMAT.md.
    pub const PERFORMER: u8 = 49;
    /// u8: 0 a call, 1 a transaction: its branches, 2 the compensations of the sub-saga's own steps. On
    /// `saga_step_added`; without it 0. On `saga_compensation_failed` with an order that says so: 1.
    pub const UNDO: u8 = 50;
    /// u32: so many transactions are voted down before the step is refused. On `saga_step_added`.
    pub const ATTEMPTS: u8 = 51;
    /// Saga u64, step u32, u8 (0 it does the step, 1 it undoes it): on whose behalf an operation runs. On
    /// `saga_created` and `tx_created`.
    pub const PARENT: u8 = 52;
    /// Highest id u64, then the active ids up to it, u64 each, ascending: the finished-watermark. On
    /// `coordinator_seen`.
    pub const FINISHED: u8 = 75;
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
pub fn step_outcome_bytes(work: usize, output: Option<usize>) -> usize {
    let (call, answer) = (Tags::bytes(21), Tags::bytes(6));
    let output = output.map_or(0, |bytes| Tags::bytes(1 + bytes));
    PARTICIPANTS_PREFIX_BYTES + call + answer + Tags::bytes(work) + output
}

/// How long the payload of a `saga_step_succeeded` is that brings so many bytes.
#[must_use]
pub fn step_succeeded_bytes(output: usize) -> usize {
    8 + 4 + 1 + Tags::bytes(1 + output)
}

fn put_output(tags: &mut Tags<'_>, output: &Output) {
    match output {
        Output::Inline(bytes) => tags.put(tag::OUTPUT, &[&[0], &bytes[..]].concat()),
        Output::Hashed { hash, bytes } => {
            tags.put(tag::OUTPUT, &[&[1], &hash[..], &bytes.to_le_bytes()].concat())
        }
    };
}

fn put_timeout(tags: &mut Tags<'_>, timeout: Option<std::time::Duration>) {
    if let Some(timeout) = timeout {
        // Five hundred years are the most that the format can say.
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        tags.put(tag::TIMEOUT, &nanos.to_le_bytes());
    }
}

const PARENT_BYTES: usize = 13;

fn parent_bytes(parent: ParentStep) -> [u8; PARENT_BYTES] {
    let mut bytes = [0; PARENT_BYTES];
    bytes[..8].copy_from_slice(&parent.saga.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&parent.step.to_le_bytes());
    bytes[12] = u8::from(parent.undo);
    bytes
}

/// Behind the code of who does it or undoes it: for each branch its shard, its node, the length of its work
/// u32, and the work.
fn put_branches(tags: &mut Tags<'_>, tag: u8, code: u8, branches: &[Branch]) {
    let mut value = vec![code];
    for Branch { shard, node, work } in branches {
        value.extend_from_slice(&shard.0);
        value.extend_from_slice(&node.0);
        put_long(work, &mut value);
    }
    tags.put(tag, &value);
}

/// A length u32, and so many bytes.
fn put_long(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("a payload is far shorter than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Behind the code: the payloads of the `saga_created` and the `saga_step_added` that would begin a saga of
/// the definition, whose id, coordinator and nonce are 0, each behind its length u32.
fn put_definition(tags: &mut Tags<'_>, definition: &Definition) {
    let mut value = vec![SAGA];
    let nobody = CoordinatorId([0; 32]);
    for event in saga::Saga::admission(definition, nobody, 0, None) {
        if event != saga::Event::ExecuteStart {
            let mut payload = Vec::new();
            encode_saga(OperationId(0), &event, &mut payload);
            put_long(&payload, &mut value);
        }
    }
    tags.put(tag::PERFORMER, &value);
}

/// The codes of [`tag::PERFORMER`] and [`tag::UNDO`].
const CALL: u8 = 0;
const TRANSACTION: u8 = 1;
const SAGA: u8 = 2;

fn put_performer(tags: &mut Tags<'_>, terms: &saga::StepTerms) {
    match &terms.performer {
        Performer::Node => {}
        Performer::Transaction(branches) => {
            put_branches(tags, tag::PERFORMER, TRANSACTION, branches);
        }
        Performer::Saga(definition) => put_definition(tags, definition),
        _ => unreachable!("this version knows no other performer"),
    }
    match &terms.undo {
        Undo::Call => {}
        Undo::Transaction(branches) => put_branches(tags, tag::UNDO, TRANSACTION, branches),
        Undo::Reverse => {
            tags.put(tag::UNDO, &[SAGA]);
        }
        _ => unreachable!("this version knows no other undo"),
    }
    if let Some(attempts) = terms.attempts {
        tags.put(tag::ATTEMPTS, &attempts.to_le_bytes());
    }
}

fn put_order(tags: &mut Tags<'_>, order: &saga::Order) {
    let who = &order.who.as_bytes()[..order.who.len().min(usize::from(u16::MAX))];
    let head = u16::try_from(who.len()).expect("cut to fit").to_le_bytes();
    let what = [order.what.code()];
    tags.put(tag::ORDER, &[&what[..], &head, who, order.why.as_bytes()].concat());
    match &order.what {
        saga::What::Override { body } => _ = tags.put(tag::BODY, body),
        saga::What::Instead { branches } => put_branches(tags, tag::UNDO, TRANSACTION, branches),
        _ => {}
    }
}

fn put_audit(tags: &mut Tags<'_>, audit: &Audit) {
    let who = &audit.who.as_bytes()[..audit.who.len().min(Audit::TEXT_BYTES_MAX as usize)];
    let why = &audit.why.as_bytes()[..audit.why.len().min(Audit::TEXT_BYTES_MAX as usize)];
    let head = u16::try_from(who.len()).expect("cut to fit").to_le_bytes();
    tags.put(tag::FORCED, &[&audit.at_ms.to_le_bytes()[..], &head, who, why].concat());
}

/// Writes the payload of a saga's event, and says which it is.
pub fn encode_saga(id: OperationId, event: &saga::Event, out: &mut Vec<u8>) -> EventType {
    use saga::Event;
    match event {
        Event::Created { coordinator, nonce, request_key, terms } => {
            words(out, id, &[]);
            out.extend_from_slice(&coordinator.0);
            let mut tags = Tags::behind(out);
            tags.put(tag::NONCE, &nonce.to_le_bytes());
            if let Some(key) = request_key {
                tags.put(tag::REQUEST_KEY, key.as_bytes());
            }
            if let Some(saga::DefinitionName { name, version }) = &terms.definition {
                let named = [&version.to_le_bytes()[..], name.as_str().as_bytes()].concat();
                tags.put(tag::DEFINITION, &named);
            }
            if let Some(fingerprint) = terms.fingerprint {
                tags.put(tag::FINGERPRINT, &fingerprint.to_le_bytes());
            }
            put_timeout(&mut tags, terms.timeout);
            if let Some(parent) = terms.parent {
                tags.put(tag::PARENT, &parent_bytes(parent));
            }
            EventType::SAGA_CREATED
        }
        Event::StepAdded { step, action, dependencies, node, body, terms } => {
            words(out, id, &[*step]);
            out.push(action.code());
            let mut tags = Tags::behind(out);
            let bytes = |numbers: &[u32]| -> Vec<u8> {
                numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
            };
            if let Some(dependencies) = dependencies {
                tags.put(tag::DEPENDENCIES, &bytes(dependencies));
            }
            tags.put(tag::NODE, &node.0).put(tag::BODY, body);
            if terms.kind != saga::StepKind::Compensatable {
                tags.put(tag::KIND, &[terms.kind.code()]);
            }
            put_timeout(&mut tags, terms.timeout);
            if let Some(name) = &terms.action_name {
                tags.put(tag::ACTION_NAME, name.as_str().as_bytes());
            }
            if let Some(name) = &terms.undo_name {
                tags.put(tag::UNDO_NAME, name.as_str().as_bytes());
            }
            if !terms.inputs.is_empty() {
                tags.put(tag::INPUTS, &bytes(&terms.inputs));
            }
            if let Some(output) = terms.output {
                tags.put(tag::OUTPUT_TYPE, &[output.code()]);
            }
            put_performer(&mut tags, terms);
            EventType::SAGA_STEP_ADDED
        }
        Event::ExecuteStart => {
            words(out, id, &[]);
            EventType::SAGA_EXECUTE_START
        }
        Event::StepSucceeded { step, output } => {
            words(out, id, &[*step]);
            if let Some(output) = output {
                put_output(&mut Tags::behind(out), output);
            }
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
        Event::CompensationSucceeded { step, heuristic } => {
            words(out, id, &[*step]);
            if *heuristic {
                Tags::behind(out).put(tag::HEURISTIC, &[1]);
            }
            EventType::SAGA_COMPENSATION_SUCCEEDED
        }
        Event::CompensationFailed { step, attempt, note } => {
            words(out, id, &[*step, *attempt]);
            match note {
                saga::AttemptNote::Retried => {}
                saga::AttemptNote::Parked => {
                    Tags::behind(out).put(tag::PARKED, &[1]);
                }
                saga::AttemptNote::Ordered(order) => put_order(&mut Tags::behind(out), order),
            }
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

/// Writes the payload of a saga's end that an operator says of one in doubt, and says which event it is. Read
/// again it is an end like any other.
pub fn encode_saga_end(
    id: OperationId,
    completed: bool,
    audit: &Audit,
    out: &mut Vec<u8>,
) -> EventType {
    words(out, id, &[]);
    put_audit(&mut Tags::behind(out), audit);
    if completed { EventType::SAGA_COMPLETED } else { EventType::SAGA_COMPENSATED }
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
        Event::Created { coordinator, request_key, fingerprint, parent } => {
            Fixed::<40>::of(id).put(&coordinator.0).append(out);
            let mut tags = Tags::behind(out);
            if let Some(key) = request_key {
                tags.put(tag::REQUEST_KEY, key.as_bytes());
            }
            if let Some(fingerprint) = fingerprint {
                tags.put(tag::FINGERPRINT, &fingerprint.to_le_bytes());
            }
            if let Some(parent) = parent {
                tags.put(tag::PARENT, &parent_bytes(*parent));
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
            let agrees = u8::from(*vote != Vote::Abort);
            Fixed::<41>::of(id).put(&shard.0).put(&[agrees]).append(out);
            if *vote == Vote::ReadOnly {
                Tags::behind(out).put(tag::READ_ONLY, &[1]);
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
            Tags::behind(out).put(tag::ONE_PHASE, &[1]);
            EventType::TX_PREPARE_START
        }
        Event::ReadOnlyComplete => {
            words(out, id, &[]);
            Tags::behind(out).put(tag::READ_ONLY, &[1]);
            EventType::TX_ABORT_COMPLETE
        }
        Event::CommitComplete => bare(EventType::TX_COMMIT_COMPLETE),
        Event::AbortStart => bare(EventType::TX_ABORT_START),
        Event::AbortComplete => bare(EventType::TX_ABORT_COMPLETE),
        Event::RollbackStart => bare(EventType::TX_ROLLBACK_START),
        Event::RollbackComplete => bare(EventType::TX_ROLLBACK_COMPLETE),
    }
}

const ID: usize = 8;
const NAME: usize = 32;
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

fn audit_bytes(audit: &Audit) -> usize {
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
        heuristic::Event::Forgotten { audit, .. } => {
            put_audit(&mut prefix.tag(tag::FOUND, &[FORGOTTEN_BY_COORDINATOR]).tags(out), audit);
        }
    }
    EventType::TX_HEURISTIC
}

/// Behind the codes of what is found.
const FORGOTTEN_BY_COORDINATOR: u8 = 4;

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

    /// See [`put_long`].
    fn long(&mut self) -> Result<&'a [u8], CodecError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let short = CodecError::Short(self.event);
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = rest;
        Ok(bytes)
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
        let mut unknown = None;
        while !rest.is_empty() {
            let ((tag, _), behind) = split_tag(rest).ok_or(bad)?;
            unknown = unknown.or(tag::MUST_UNDERSTAND.contains(&tag).then_some(tag));
            rest = behind;
        }
        match unknown {
            Some(tag) => Err(CodecError::NotUnderstood(self.event, tag)),
            None => Ok(Extensions(tags)),
        }
    }

    /// Of a record that has no extensions in this version: whatever stands there is passed over if it may be.
    fn bare<T>(&self, said: T) -> Result<T, CodecError> {
        match self.extensions() {
            Err(error @ CodecError::NotUnderstood(..)) => Err(error),
            _ => Ok(said),
        }
    }
}

fn label(bytes: &[u8], event: EventType) -> Result<saga::Label, CodecError> {
    let name = std::str::from_utf8(bytes).ok().and_then(|name| saga::Label::new(name).ok());
    name.ok_or(CodecError::Value(event))
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

    fn label(self, tag: u8, event: EventType) -> Result<Option<saga::Label>, CodecError> {
        self.find(tag).map(|bytes| label(bytes, event)).transpose()
    }

    fn timeout(self, event: EventType) -> Result<Option<std::time::Duration>, CodecError> {
        let nanos = self.array(tag::TIMEOUT, event)?.map(u64::from_le_bytes);
        Ok(nanos.map(std::time::Duration::from_nanos))
    }

    fn numbers(self, tag: u8, event: EventType) -> Result<Option<Vec<u32>>, CodecError> {
        let Some(list) = self.find(tag) else { return Ok(None) };
        let (list, rest) = list.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(CodecError::Extensions(event));
        }
        Ok(Some(list.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()))
    }

    fn flag(self, tag: u8, event: EventType) -> Result<bool, CodecError> {
        match self.array(tag, event)? {
            None | Some([0]) => Ok(false),
            Some([1]) => Ok(true),
            Some(_) => Err(CodecError::Value(event)),
        }
    }

    fn output(self, event: EventType) -> Result<Option<Output>, CodecError> {
        if self.find(tag::OUTPUT).is_none() {
            return Ok(None);
        }
        let value = self.bytes(tag::OUTPUT);
        match value.split_first() {
            Some((0, bytes)) => Ok(Some(Output::Inline(bytes.into()))),
            Some((1, rest)) => {
                let mut reader = Reader { event, rest };
                let (hash, bytes) = (reader.array()?, reader.u64()?);
                Ok(Some(Output::Hashed { hash, bytes }))
            }
            _ => Err(CodecError::Value(event)),
        }
    }

    fn order(self, event: EventType) -> Result<Option<Box<saga::Order>>, CodecError> {
        let Some(value) = self.find(tag::ORDER) else { return Ok(None) };
        let mut reader = Reader { event, rest: value };
        let [code] = reader.array()?;
        let who = usize::from(u16::from_le_bytes(reader.array()?));
        let (who, why) = reader.rest.split_at_checked(who).ok_or(CodecError::Extensions(event))?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| CodecError::Value(event));
        let what = match code {
            0 => saga::What::RetryNow,
            1 => saga::What::MarkDone,
            2 => saga::What::CloseUnanswered,
            3 => saga::What::Override { body: self.bytes(tag::BODY) },
            4 => match self.undo(event)? {
                Undo::Transaction(branches) => saga::What::Instead { branches },
                _ => return Err(CodecError::Value(event)),
            },
            _ => return Err(CodecError::Value(event)),
        };
        let (who, why) = (text(who)?.into(), text(why)?.into());
        Ok(Some(Box::new(saga::Order { who, why, what })))
    }

    fn audit(self, event: EventType) -> Result<Option<Arc<Audit>>, CodecError> {
        let Some(value) = self.find(tag::FORCED) else { return Ok(None) };
        let mut reader = Reader { event, rest: value };
        let at_ms = i64::from_le_bytes(reader.array()?);
        let who = usize::from(u16::from_le_bytes(reader.array()?));
        let (who, why) = reader.rest.split_at_checked(who).ok_or(CodecError::Extensions(event))?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| CodecError::Value(event));
        let (who, why) = (text(who)?.into(), text(why)?.into());
        Ok(Some(Arc::new(Audit { at_ms, who, why })))
    }

    fn request_key(self, event: EventType) -> Result<Option<RequestKey>, CodecError> {
        let bad = CodecError::Extensions(event);
        self.find(tag::REQUEST_KEY).map(|key| RequestKey::new(key).map_err(|_| bad)).transpose()
    }

    fn parent(self, event: EventType) -> Result<Option<ParentStep>, CodecError> {
        let Some(value) = self.array::<PARENT_BYTES>(tag::PARENT, event)? else { return Ok(None) };
        let mut reader = Reader { event, rest: &value };
        let (saga, step) = (OperationId(reader.u64()?), reader.u32()?);
        match reader.array()? {
            [undo @ (0 | 1)] => Ok(Some(ParentStep { saga, step, undo: undo == 1 })),
            _ => Err(CodecError::Value(event)),
        }
    }

    fn performer(self, event: EventType, depth: u32) -> Result<Performer, CodecError> {
        let value = self.bytes(tag::PERFORMER);
        match value.split_first() {
            None if self.find(tag::PERFORMER).is_none() => Ok(Performer::Node),
            Some((&CALL, [])) => Ok(Performer::Node),
            Some((&TRANSACTION, rest)) => branches(event, rest).map(Performer::Transaction),
            Some((&SAGA, rest)) => {
                let definition = decode_definition(event, rest, depth + 1)?;
                Ok(Performer::Saga(Arc::new(definition)))
            }
            _ => Err(CodecError::Value(event)),
        }
    }

    fn undo(self, event: EventType) -> Result<Undo, CodecError> {
        let value = self.bytes(tag::UNDO);
        match value.split_first() {
            None if self.find(tag::UNDO).is_none() => Ok(Undo::Call),
            Some((&CALL, [])) => Ok(Undo::Call),
            Some((&TRANSACTION, rest)) => branches(event, rest).map(Undo::Transaction),
            Some((&SAGA, [])) => Ok(Undo::Reverse),
            _ => Err(CodecError::Value(event)),
        }
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

/// See [`put_branches`].
fn branches(event: EventType, value: &[u8]) -> Result<Arc<[Branch]>, CodecError> {
    let mut reader = Reader { event, rest: value };
    let mut branches = Vec::new();
    while !reader.rest.is_empty() {
        let (shard, node) = (ShardId(reader.array()?), NodeName(reader.array()?));
        branches.push(Branch { shard, node, work: reader.long()?.into() });
    }
    Ok(branches.into())
}

/// See [`put_definition`].
fn decode_definition(event: EventType, value: &[u8], depth: u32) -> Result<Definition, CodecError> {
    let bad = CodecError::Value(event);
    if depth > DEPTH_MAX {
        return Err(bad);
    }
    let mut whole = Reader { event, rest: value };
    let mut payloads = Vec::new();
    while !whole.rest.is_empty() {
        payloads.push(whole.long()?);
    }
    let mut events = payloads.into_iter().enumerate().map(|(at, payload)| {
        let event = if at == 0 { EventType::SAGA_CREATED } else { EventType::SAGA_STEP_ADDED };
        let mut payload = Reader { event, rest: payload };
        payload.u64()?;
        decode_saga(event, payload, depth)
    });
    let Some(saga::Event::Created { terms, .. }) = events.next().transpose()? else {
        return Err(bad);
    };
    let steps = events.collect::<Result<Vec<_>, _>>()?;
    Definition::from_log(&terms, &steps).ok_or(bad)
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
        decode_saga(event, reader, 0).map(|event| Fact::Saga { id, event })
    } else if event.is_transaction() {
        decode_transaction(event, reader).map(|event| Fact::Transaction { id, event })
    } else {
        decode_participant(event, id, reader)
    }
}

/// Sagas within sagas are read so deep, whatever a payload says.
pub(crate) const DEPTH_MAX: u32 = 16;

/// `depth`: how many definitions the payload lies in.
fn decode_saga(
    event: EventType,
    mut reader: Reader<'_>,
    depth: u32,
) -> Result<saga::Event, CodecError> {
    use saga::Event;
    Ok(match event {
        EventType::SAGA_CREATED => {
            let coordinator = reader.coordinator()?;
            let tags = reader.extensions()?;
            let nonce = tags.array(tag::NONCE, event)?.map_or(0, u128::from_le_bytes);
            let definition = match tags.find(tag::DEFINITION) {
                None => None,
                Some(value) => {
                    let mut value = Reader { event, rest: value };
                    let version = value.u32()?;
                    Some(saga::DefinitionName { name: label(value.rest, event)?, version })
                }
            };
            let fingerprint = tags.array(tag::FINGERPRINT, event)?.map(u128::from_le_bytes);
            let (timeout, parent) = (tags.timeout(event)?, tags.parent(event)?);
            let terms = saga::SagaTerms { definition, fingerprint, timeout, parent };
            Event::Created { coordinator, nonce, request_key: tags.request_key(event)?, terms }
        }
        EventType::SAGA_STEP_ADDED => {
            let step = reader.u32()?;
            let [action] = reader.array()?;
            let tags = reader.extensions()?;
            let dependencies = tags.numbers(tag::DEPENDENCIES, event)?;
            let node = NodeName(tags.array(tag::NODE, event)?.unwrap_or_default());
            let (action, body) = (Action::from_code(action), tags.bytes(tag::BODY));
            let kind = match tags.array(tag::KIND, event)? {
                None => saga::StepKind::Compensatable,
                Some([code]) => saga::StepKind::from_code(code).ok_or(CodecError::Value(event))?,
            };
            let output = match tags.array(tag::OUTPUT_TYPE, event)? {
                None => None,
                Some([code]) => {
                    Some(saga::ValueType::from_code(code).ok_or(CodecError::Value(event))?)
                }
            };
            let terms = saga::StepTerms {
                kind,
                timeout: tags.timeout(event)?,
                action_name: tags.label(tag::ACTION_NAME, event)?,
                undo_name: tags.label(tag::UNDO_NAME, event)?,
                inputs: tags.numbers(tag::INPUTS, event)?.unwrap_or_default(),
                output,
                performer: tags.performer(event, depth)?,
                undo: tags.undo(event)?,
                attempts: tags.array(tag::ATTEMPTS, event)?.map(u32::from_le_bytes),
            };
            Event::StepAdded { step, action, dependencies, node, body, terms }
        }
        EventType::SAGA_EXECUTE_START => reader.bare(Event::ExecuteStart)?,
        EventType::SAGA_STEP_SUCCEEDED => {
            let step = reader.u32()?;
            Event::StepSucceeded { step, output: reader.extensions()?.output(event)? }
        }
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
            reader.bare(Event::CompensationStart { cause: (cause != u32::MAX).then_some(cause) })?
        }
        EventType::SAGA_COMPENSATION_SUCCEEDED => {
            let step = reader.u32()?;
            let heuristic = reader.extensions()?.flag(tag::HEURISTIC, event)?;
            Event::CompensationSucceeded { step, heuristic }
        }
        EventType::SAGA_COMPENSATION_FAILED => {
            let (step, attempt) = (reader.u32()?, reader.u32()?);
            let tags = reader.extensions()?;
            let note = match (tags.order(event)?, tags.flag(tag::PARKED, event)?) {
                (Some(order), _) => saga::AttemptNote::Ordered(order),
                (None, true) => saga::AttemptNote::Parked,
                (None, false) => saga::AttemptNote::Retried,
            };
            Event::CompensationFailed { step, attempt, note }
        }
        EventType::SAGA_COMPLETED => reader.bare(Event::Completed)?,
        EventType::SAGA_COMPENSATED => reader.bare(Event::Compensated)?,
        EventType::SAGA_ABORTED => reader.bare(Event::Aborted)?,
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

fn decode_participant(
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
                heuristic::Event::Reported { id, shard, node, heuristic }
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
            let (dependencies, body) = (Some(vec![0, 2]), Arc::from([8; 20]));
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
            events.push(E::StepAdded { step: 3, action, dependencies, node, body, terms });
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
            facts.push(Fact::Heuristic(heuristic::Event::Forgotten { id, audit: audit.clone() }));
            for members in [vec![], vec![member; 64]] {
                let event =
                    twopc::coordinator::Event::ForcedCommit { members, audit: audit.clone() };
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
}
