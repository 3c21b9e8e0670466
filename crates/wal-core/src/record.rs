//! The published record, byte for byte: 29 bytes of header and a payload, and the codes of events.

use base::Sequence;
use std::fmt;

/// The four bytes that a record begins with.
pub const MAGIC: [u8; 4] = *b"WAL!";
/// The length of a record's header, in bytes: the payload follows.
pub const RECORD_HEADER_BYTES: u32 = 29;

const HEADER: usize = RECORD_HEADER_BYTES as usize;

/// What a record tells: its code in the log. Unknown codes are carried, never refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u8);

macro_rules! events {
    ($($(#[$doc:meta])* $constant:ident = $code:literal, $name:literal;)*) => {
        impl EventType {
            $($(#[$doc])* pub const $constant: EventType = EventType($code);)*

            /// Every code that has a name, in ascending order.
            pub const NAMED: &'static [EventType] = &[$(EventType($code)),*];

            /// The event's name in lower case, such as `"tx_commit_start"`; `None` for other codes.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some($name),)*
                    _ => None,
                }
            }

            /// The event of that [`name`](Self::name).
            #[must_use]
            pub fn from_name(name: &str) -> Option<EventType> {
                match name {
                    $($name => Some(EventType($code)),)*
                    _ => None,
                }
            }
        }
    };
}

events! {
    /// A saga was submitted.
    SAGA_CREATED = 0x01, "saga_created";
    /// One step of its graph.
    SAGA_STEP_ADDED = 0x02, "saga_step_added";
    /// Its steps may run from now on.
    SAGA_EXECUTE_START = 0x03, "saga_execute_start";
    /// A step had its effect.
    SAGA_STEP_SUCCEEDED = 0x04, "saga_step_succeeded";
    /// A step failed for good: the saga turns back.
    SAGA_STEP_FAILED = 0x05, "saga_step_failed";
    /// The saga turns back.
    SAGA_COMPENSATION_START = 0x06, "saga_compensation_start";
    /// A step was undone.
    SAGA_COMPENSATION_SUCCEEDED = 0x07, "saga_compensation_succeeded";
    /// An attempt to undo a step failed.
    SAGA_COMPENSATION_FAILED = 0x08, "saga_compensation_failed";
    /// The saga is done.
    SAGA_COMPLETED = 0x09, "saga_completed";
    /// The saga is undone.
    SAGA_COMPENSATED = 0x0A, "saga_compensated";
    /// The saga was given up.
    SAGA_ABORTED = 0x0B, "saga_aborted";
    /// A transaction was submitted.
    TX_CREATED = 0x10, "tx_created";
    /// One of its participants.
    TX_PARTICIPANT_ADDED = 0x11, "tx_participant_added";
    /// Its participants are asked to prepare.
    TX_PREPARE_START = 0x12, "tx_prepare_start";
    /// A participant's vote.
    TX_VOTE_RECEIVED = 0x13, "tx_vote_received";
    /// The decision to commit.
    TX_COMMIT_START = 0x14, "tx_commit_start";
    /// Every participant has committed.
    TX_COMMIT_COMPLETE = 0x15, "tx_commit_complete";
    /// The decision to abort.
    TX_ABORT_START = 0x16, "tx_abort_start";
    /// The abort is over.
    TX_ABORT_COMPLETE = 0x17, "tx_abort_complete";
    /// A rollback begins.
    TX_ROLLBACK_START = 0x18, "tx_rollback_start";
    /// A rollback is over.
    TX_ROLLBACK_COMPLETE = 0x19, "tx_rollback_complete";
    /// A participant's promise to commit if told so.
    TX_PREPARED = 0x1A, "tx_prepared";
    /// A participant has committed.
    TX_PARTICIPANT_COMMITTED = 0x1B, "tx_participant_committed";
    /// A participant has aborted, or promised never to vote.
    TX_PARTICIPANT_ABORTED = 0x1C, "tx_participant_aborted";
    /// The highest epoch that a participant has seen of a coordinator.
    COORDINATOR_SEEN = 0x1D, "coordinator_seen";
    /// An operation that a hole in the log has left in doubt.
    IN_DOUBT = 0x1E, "in_doubt";
    /// A participant had nothing to change, and voted so.
    TX_PARTICIPANT_READ_ONLY = 0x1F, "tx_participant_read_only";
    /// What a participant answered to a saga's step, durable before the answer left.
    STEP_OUTCOME = 0x20, "step_outcome";
    /// What has become of an outcome that an operator forced on a participant's branch.
    TX_PARTICIPANT_HEURISTIC = 0x21, "tx_participant_heuristic";
    /// A branch that ended otherwise than its transaction, as its coordinator was told; or that an operator
    /// has seen to it.
    TX_HEURISTIC = 0x22, "tx_heuristic";
    /// A marker, or a part of a snapshot.
    CHECKPOINT = 0xF0, "checkpoint";
}

impl EventType {
    /// The code of a batch guard, which is framed like a record and is none. No record may have it.
    pub const GUARD: EventType = EventType(0xF1);

    /// Whether it is one of the published saga events.
    #[must_use]
    pub const fn is_saga(self) -> bool {
        self.0 >= 0x01 && self.0 <= 0x0B
    }

    /// Whether it is one of the published transaction events.
    #[must_use]
    pub const fn is_transaction(self) -> bool {
        self.0 >= 0x10 && self.0 <= 0x19
    }
}

/// The name, or the code in hexadecimal such as `0x2a`.
impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#04x}", self.0),
        }
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One record, its payload borrowed from wherever it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the log.
    pub sequence: Sequence,
    /// What it tells.
    pub event: EventType,
    /// Unix milliseconds, for people only: order is by `sequence`.
    pub timestamp_ms: i64,
    /// The event's fixed fields and extensions; see [`Payload`](crate::Payload).
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Its length in the log: header and payload, in bytes.
    #[must_use]
    pub fn encoded_bytes(&self) -> u64 {
        u64::from(RECORD_HEADER_BYTES) + self.payload.len() as u64
    }
}

/// Appends the record's bytes to `out`.
///
/// # Panics
/// If the payload is 4 GiB or longer, which no length field can say.
pub fn encode_record(record: &Record<'_>, out: &mut Vec<u8>) {
    let Record { sequence, event, timestamp_ms, payload } = *record;
    let length = u32::try_from(payload.len()).expect("a payload is shorter than 4 GiB");
    let crc32 = crc32fast::hash(payload);
    out.extend_from_slice(&encode_header(event, sequence, timestamp_ms, length, crc32));
    out.extend_from_slice(payload);
}

/// The header of a record whose payload has that length and that CRC-32.
pub(crate) fn encode_header(
    event: EventType,
    sequence: Sequence,
    timestamp_ms: i64,
    length: u32,
    crc32: u32,
) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = event.0;
    header[5..13].copy_from_slice(&sequence.0.to_le_bytes());
    header[13..21].copy_from_slice(&timestamp_ms.to_le_bytes());
    header[21..25].copy_from_slice(&length.to_le_bytes());
    header[25..29].copy_from_slice(&crc32.to_le_bytes());
    header
}

/// A record as decoded, with its length and whether its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The record. Do not act on it unless `crc_ok`.
    pub record: Record<'a>,
    /// Its length in bytes: the next record begins so far behind it.
    pub len: u32,
    /// Whether the payload's CRC-32 is the one in the header. The header itself has no checksum.
    pub crc_ok: bool,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// They do not begin with `WAL!`.
    #[error("no record begins here: the magic is missing")]
    NoMagic,
    /// They end inside the record: `needed` bytes are needed, as far as one can tell.
    #[error("the bytes end inside a record: {needed} bytes are needed")]
    Short {
        /// How many bytes the record has, or at least has.
        needed: u64,
    },
    /// The length field is above the limit.
    #[error("a payload of {len} bytes is longer than the limit of {max}")]
    PayloadTooLong {
        /// What the length field says.
        len: u32,
        /// The limit.
        max: u32,
    },
}

/// Decodes the record at the beginning of `bytes`. Nothing is allocated, and the length field is
/// believed only up to `max_payload` and to the end of `bytes`.
///
/// # Errors
/// [`RecordError`], if no whole record is there. A wrong CRC is no error but [`Decoded::crc_ok`].
pub fn decode_record(bytes: &[u8], max_payload: u32) -> Result<Decoded<'_>, RecordError> {
    let mut decoded = decode_unchecked(bytes, max_payload)?;
    decoded.crc_ok = crc32fast::hash(decoded.record.payload) == u32_at(bytes, 25);
    Ok(decoded)
}

/// As [`decode_record`], without computing the CRC: `crc_ok` is true.
#[inline]
pub(crate) fn decode_unchecked(bytes: &[u8], max_payload: u32) -> Result<Decoded<'_>, RecordError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(decode_short(bytes));
    };
    if header.first_chunk() != Some(&MAGIC) {
        return Err(RecordError::NoMagic);
    }
    let len = u32_at(header, 21);
    if len > max_payload {
        return Err(RecordError::PayloadTooLong { len, max: max_payload });
    }
    let needed = u64::from(RECORD_HEADER_BYTES) + u64::from(len);
    let Some(payload) = rest.get(..len as usize) else {
        return Err(RecordError::Short { needed });
    };
    let record = Record {
        sequence: Sequence(u64_at(header, 5)),
        event: EventType(header[4]),
        timestamp_ms: u64_at(header, 13) as i64,
        payload,
    };
    let len =
        u32::try_from(needed).map_err(|_| RecordError::PayloadTooLong { len, max: max_payload })?;
    Ok(Decoded { record, len, crc_ok: true })
}

/// The record at the beginning of `bytes` and what follows it, where the caller knows that one is there.
///
/// # Panics
/// If the bytes end inside it. Its magic and its CRC are not looked at.
#[inline]
pub(crate) fn split_record(bytes: &[u8]) -> (Record<'_>, &[u8]) {
    let whole = "the caller knows that a whole record is there";
    let (header, rest) = bytes.split_first_chunk::<HEADER>().expect(whole);
    let (payload, rest) = rest.split_at_checked(u32_at(header, 21) as usize).expect(whole);
    let record = Record {
        sequence: Sequence(u64_at(header, 5)),
        event: EventType(header[4]),
        timestamp_ms: u64_at(header, 13) as i64,
        payload,
    };
    (record, rest)
}

/// What is wrong with bytes that end before a header does.
#[cold]
fn decode_short(bytes: &[u8]) -> RecordError {
    let magic_here = bytes.len().min(MAGIC.len());
    if bytes[..magic_here] != MAGIC[..magic_here] {
        return RecordError::NoMagic;
    }
    RecordError::Short { needed: u64::from(RECORD_HEADER_BYTES) }
}

/// No log counts further. A header that does is damaged or forged, and whoever reads on from it would
/// run out of numbers.
pub(crate) const SEQUENCE_MAX: Sequence = Sequence(1 << 63);

/// The u32 at `at`, which the caller has made sure is there.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has made sure of it"))
}

/// The u64 at `at`, which the caller has made sure is there.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has made sure of it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record<'static> {
        Record {
            sequence: Sequence(7),
            event: EventType::TX_COMMIT_START,
            timestamp_ms: -2,
            payload: b"123456789",
        }
    }

    #[test]
    fn a_record_is_the_published_bytes() {
        let mut bytes = Vec::new();
        encode_record(&sample(), &mut bytes);
        assert_eq!(
            bytes,
            [
                &b"WAL!\x14"[..],
                &[7, 0, 0, 0, 0, 0, 0, 0],
                &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
                &[9, 0, 0, 0],
                &[0x26, 0x39, 0xF4, 0xCB],
                b"123456789",
            ]
            .concat()
        );
        let decoded = decode_record(&bytes, 9).unwrap();
        assert_eq!(decoded, Decoded { record: sample(), len: 38, crc_ok: true });
    }

    #[test]
    fn the_length_is_not_believed() {
        let mut bytes = Vec::new();
        encode_record(&sample(), &mut bytes);
        assert_eq!(decode_record(&bytes, 8), Err(RecordError::PayloadTooLong { len: 9, max: 8 }));
        assert_eq!(decode_record(&bytes[..37], 9), Err(RecordError::Short { needed: 38 }));
        assert_eq!(decode_record(&bytes[..3], 9), Err(RecordError::Short { needed: 29 }));
        assert_eq!(decode_record(b"WAX!", 9), Err(RecordError::NoMagic));
        bytes[21..25].fill(0xFF);
        assert_eq!(
            decode_record(&bytes, u32::MAX),
            Err(RecordError::Short { needed: 29 + u64::from(u32::MAX) })
        );
    }

    #[test]
    fn a_wrong_payload_is_told() {
        let mut bytes = Vec::new();
        encode_record(&sample(), &mut bytes);
        bytes[30] ^= 1;
        assert!(!decode_record(&bytes, 9).unwrap().crc_ok);
    }

    #[test]
    fn names_and_codes_agree() {
        for &event in EventType::NAMED {
            assert_eq!(EventType::from_name(event.name().unwrap()), Some(event));
        }
        assert_eq!(EventType::NAMED.iter().filter(|e| e.is_saga()).count(), 11);
        assert_eq!(EventType::NAMED.iter().filter(|e| e.is_transaction()).count(), 10);
        assert_eq!(EventType(0x2A).to_string(), "0x2a");
        assert_eq!(EventType::GUARD.name(), None);
    }
}
