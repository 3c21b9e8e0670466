//! Records as the document of the format has them: the 21 events, the marker, and what is none of
//! them, byte by byte.

use base::Sequence;
use std::fmt;
use wal_core::{EventType, Record};

/// A participant of a transaction. Names of 32 bytes are one byte 32 times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Participant {
    pub shard: u8,
    pub node: u8,
    /// Store and boot count, if they are known.
    pub store: Option<(u64, u32)>,
}

/// What a record says of its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    SagaCreated,
    /// `needs` is the extension: without it steps are in sequence.
    StepAdded {
        step: u32,
        needs: Option<Vec<u32>>,
    },
    ExecuteStart,
    StepSucceeded {
        step: u32,
    },
    /// `maybe` is the extension: without it the step had no effect.
    StepFailed {
        step: u32,
        maybe: Option<bool>,
    },
    CompensationStart {
        cause: u32,
    },
    CompensationSucceeded {
        step: u32,
    },
    CompensationFailed {
        step: u32,
        attempt: u32,
    },
    Completed,
    Compensated,
    Aborted,
    TxCreated,
    ParticipantAdded(Participant),
    PrepareStart,
    Vote {
        shard: u8,
        yes: bool,
    },
    /// `list` is the extension: a published log has none.
    CommitStart {
        list: Option<Vec<Participant>>,
    },
    CommitComplete,
    AbortStart,
    AbortComplete,
    RollbackStart,
    RollbackComplete,
    Marker,
    /// A code that names no event.
    Unknown(u8),
}

/// What is wrong with a payload whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The last byte of the fixed prefix is missing.
    Short,
    /// A value that its field does not have: of a vote, of `effect`, of a list's length. Where there
    /// is no such field it is as [`Flaw::Cut`].
    Value,
    /// The extensions end inside one.
    Cut,
    /// The extensions are of another version.
    Version,
}

/// One record of a history.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: u64,
    pub event: Event,
    pub flaw: Option<Flaw>,
    /// Carries an extension that nobody knows.
    pub extra: bool,
}

/// One line, however it is asked for: a history that fails is read as a list.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { id, event, flaw, extra } = self;
        write!(f, "{id}: {event:?}")?;
        flaw.map_or(Ok(()), |flaw| write!(f, ", {flaw:?}"))?;
        f.write_str(if *extra { ", extended" } else { "" })
    }
}

/// `compensation_start` without a step: cancelled or timed out.
pub const CANCELLED: u32 = u32::MAX;

/// The 21 events and the marker.
pub const CODES: [u8; 22] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x10, 0x11, 0x12, 0x13, 0x14,
    0x15, 0x16, 0x17, 0x18, 0x19, 0xF0,
];

const COORDINATOR: u8 = 0xC0;
const CUSTOM_ACTION: u8 = 9;
const ERROR_CODE: u32 = 0x0BAD;
const TAG_NONCE: u8 = 2;
const TAG_NEEDS: u8 = 3;
const TAG_EFFECT: u8 = 6;
const TAG_PARTICIPANTS: u8 = 7;
const TAG_STORE: u8 = 8;
const TAG_NOBODY_KNOWS: u8 = 0xEE;

impl Event {
    pub fn code(&self) -> u8 {
        match self {
            Event::SagaCreated => 0x01,
            Event::StepAdded { .. } => 0x02,
            Event::ExecuteStart => 0x03,
            Event::StepSucceeded { .. } => 0x04,
            Event::StepFailed { .. } => 0x05,
            Event::CompensationStart { .. } => 0x06,
            Event::CompensationSucceeded { .. } => 0x07,
            Event::CompensationFailed { .. } => 0x08,
            Event::Completed => 0x09,
            Event::Compensated => 0x0A,
            Event::Aborted => 0x0B,
            Event::TxCreated => 0x10,
            Event::ParticipantAdded(_) => 0x11,
            Event::PrepareStart => 0x12,
            Event::Vote { .. } => 0x13,
            Event::CommitStart { .. } => 0x14,
            Event::CommitComplete => 0x15,
            Event::AbortStart => 0x16,
            Event::AbortComplete => 0x17,
            Event::RollbackStart => 0x18,
            Event::RollbackComplete => 0x19,
            Event::Marker => 0xF0,
            Event::Unknown(code) => *code,
        }
    }

    pub fn is_saga(&self) -> bool {
        (0x01..=0x0B).contains(&self.code())
    }

    pub fn is_transaction(&self) -> bool {
        (0x10..=0x19).contains(&self.code())
    }

    /// Whether extensions of ours may stand behind its prefix, so that a reader has to look there.
    pub fn is_extensible(&self) -> bool {
        matches!(
            self,
            Event::SagaCreated
                | Event::StepAdded { .. }
                | Event::StepFailed { .. }
                | Event::TxCreated
                | Event::ParticipantAdded(_)
                | Event::CommitStart { .. }
        )
    }
}

impl Entry {
    pub fn new(id: u64, event: Event) -> Entry {
        Entry { id, event, flaw: None, extra: false }
    }

    pub fn payload(&self) -> Vec<u8> {
        let mut prefix = Bytes(Vec::new());
        prefix.u64(self.id);
        let mut tags = Bytes(Vec::new());
        let bad_value = self.flaw == Some(Flaw::Value);
        match &self.event {
            Event::SagaCreated => {
                prefix.name(COORDINATOR);
                tags.tag(TAG_NONCE, &self.id.to_le_bytes().repeat(2));
            }
            Event::TxCreated => prefix.name(COORDINATOR),
            Event::StepAdded { step, needs } => {
                prefix.u32(*step);
                prefix.0.push(CUSTOM_ACTION);
                if let Some(needs) = needs {
                    let bytes: Vec<u8> = needs.iter().flat_map(|step| step.to_le_bytes()).collect();
                    tags.tag(TAG_NEEDS, &bytes);
                }
            }
            Event::StepFailed { step, maybe } => {
                prefix.u32(*step);
                prefix.u32(ERROR_CODE);
                match maybe {
                    _ if bad_value => tags.tag(TAG_EFFECT, &[2]),
                    None => {}
                    Some(maybe) => tags.tag(TAG_EFFECT, &[u8::from(*maybe)]),
                }
            }
            Event::StepSucceeded { step }
            | Event::CompensationStart { cause: step }
            | Event::CompensationSucceeded { step } => prefix.u32(*step),
            Event::CompensationFailed { step, attempt } => {
                prefix.u32(*step);
                prefix.u32(*attempt);
            }
            Event::ParticipantAdded(Participant { shard, node, store }) => {
                prefix.name(*shard);
                prefix.name(*node);
                if let Some((store, boot)) = store {
                    tags.tag(TAG_STORE, &[&store.to_le_bytes()[..], &boot.to_le_bytes()].concat());
                }
            }
            Event::Vote { shard, yes } => {
                prefix.name(*shard);
                prefix.0.push(if bad_value { 2 } else { u8::from(*yes) });
            }
            Event::CommitStart { list } => {
                let mut bytes = Bytes(Vec::new());
                for Participant { shard, node, store } in list.iter().flatten() {
                    let (store, boot) = store.unwrap_or_default();
                    bytes.name(*shard);
                    bytes.name(*node);
                    bytes.u64(store);
                    bytes.u32(boot);
                }
                if bad_value {
                    bytes.0.push(0);
                }
                if list.is_some() || bad_value {
                    tags.tag(TAG_PARTICIPANTS, &bytes.0);
                }
            }
            Event::Marker => prefix.u64(0),
            _ => {}
        }
        if self.extra {
            tags.tag(TAG_NOBODY_KNOWS, b"from a later version");
        }
        self.end(prefix.0, &tags.0)
    }

    fn end(&self, mut prefix: Vec<u8>, tags: &[u8]) -> Vec<u8> {
        let has_a_value = matches!(
            self.event,
            Event::StepFailed { .. } | Event::Vote { .. } | Event::CommitStart { .. }
        );
        match self.flaw {
            Some(Flaw::Short) => {
                prefix.pop();
                return prefix;
            }
            Some(Flaw::Version) => {
                prefix.push(2);
                prefix.extend_from_slice(tags);
                return prefix;
            }
            Some(Flaw::Value) if has_a_value => {}
            Some(Flaw::Cut | Flaw::Value) => {
                prefix.push(1);
                prefix.extend_from_slice(tags);
                // A tag whose value has one byte and should have nine.
                prefix.extend_from_slice(&[TAG_NOBODY_KNOWS, 9, 0, 7]);
                return prefix;
            }
            None => {}
        }
        if !tags.is_empty() {
            prefix.push(1);
            prefix.extend_from_slice(tags);
        }
        prefix
    }
}

/// A record's timestamp. It has nothing to do with the order, and goes back half the time.
pub fn timestamp_ms(sequence: u64) -> i64 {
    (sequence as i64 * 37) % 101 - 50
}

/// The raw stream of a history, and where each of its records ends.
pub fn stream(history: &[Entry]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for (sequence, entry) in (1..).zip(history) {
        let payload = entry.payload();
        let record = Record {
            sequence: Sequence(sequence),
            event: EventType(entry.event.code()),
            timestamp_ms: timestamp_ms(sequence),
            payload: &payload,
        };
        wal_core::encode_record(&record, &mut bytes);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// Fields, little-endian.
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn name(&mut self, byte: u8) {
        self.0.extend_from_slice(&[byte; 32]);
    }

    fn tag(&mut self, tag: u8, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("values in tests are short");
        self.0.push(tag);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(value);
    }
}
