//! A record as a line of JSON: what `dump` writes and `import` reads.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base::{CoordinatorId, NodeName, OperationId, ShardId};
use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use wal_core::{EventType, Extensions, Payload, Prefix, Record};

/// The name under which a batch's guard is dumped. It is no event.
pub const GUARD: &str = "guard";

/// The CRC-32 of a record's payload: the field that its header has for it.
pub fn checksum(record: &Record<'_>, scratch: &mut Vec<u8>) -> Checksum {
    scratch.clear();
    wal_core::encode_record(record, scratch);
    let mut field = [0; 4];
    field.copy_from_slice(&scratch[25..29]);
    Checksum(u32::from_le_bytes(field))
}

/// Eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(pub u32);

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A record as it is dumped.
#[derive(Debug, Serialize)]
pub struct Dumped<'a> {
    pub seq: u64,
    #[serde(rename = "type")]
    pub event: EventName,
    pub timestamp_ms: i64,
    pub file: &'a str,
    pub off: u64,
    pub len: u32,
    pub crc_ok: bool,
    pub hash: Checksum,
    pub payload: Fields,
}

/// A guard as it is dumped; `len` is the whole batch's.
#[derive(Debug, Serialize)]
pub struct DumpedGuard<'a> {
    pub seq: u64,
    #[serde(rename = "type")]
    pub event: &'static str,
    pub timestamp_ms: i64,
    pub file: &'a str,
    pub off: u64,
    pub len: u32,
    pub crc_ok: bool,
    pub payload: GuardFields,
}

/// What a guard says.
#[derive(Debug, Serialize)]
pub struct GuardFields {
    pub records: u32,
    pub watermark: u64,
    pub chain: Checksum,
    pub list: Checksum,
    pub checksum: Checksum,
}

/// An event to be appended.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// What the line says that its sequence is.
    pub sequence: Option<u64>,
    pub event: EventType,
    pub timestamp_ms: i64,
    pub payload: Vec<u8>,
}

/// Why a line is no event.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where, in bytes from 1.
    pub column: u64,
    pub what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    seq: Option<u64>,
    #[serde(rename = "type")]
    event: EventName,
    timestamp_ms: i64,
    #[serde(default, deserialize_with = "object")]
    payload: Option<Fields>,
    raw: Option<Hex>,
    crc_ok: Option<bool>,
    #[serde(rename = "file")]
    _file: Option<IgnoredAny>,
    #[serde(rename = "off")]
    _off: Option<IgnoredAny>,
    #[serde(rename = "len")]
    _len: Option<IgnoredAny>,
    #[serde(rename = "hash")]
    _hash: Option<IgnoredAny>,
}

/// An object or null. What is derived would also take an array, its values for the fields in their
/// order: nobody means that, and a line with its brackets mixed up must not become an event.
fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }

    from.deserialize_any(Object(PhantomData))
}

/// Reads a line; `None` of a guard's, which is no event.
///
/// # Errors
/// [`Malformed`].
pub fn parse(text: &[u8]) -> Result<Option<Event>, Malformed> {
    // What is derived would take an array's values for the fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Malformed { column: 1, what: "expected a JSON object".to_owned() });
    }
    let line: Line = match serde_json::from_slice(text) {
        Ok(line) => line,
        Err(_) if is_guard(text) => return Ok(None),
        Err(error) => return Err(malformed(text, &error)),
    };
    let at = |field: &str, what: String| Malformed { column: column_of(text, field), what };
    if line.crc_ok == Some(false) {
        return Err(at("crc_ok", "the record was read with a wrong checksum: refused".to_owned()));
    }
    let fields = match (line.payload, line.raw) {
        (Some(fields), None) => fields,
        (None, Some(raw)) => Fields { raw: Some(raw), ..Fields::default() },
        (None, None) => return Err(at("type", "missing field `payload`".to_owned())),
        (Some(_), Some(_)) => return Err(at("raw", "`payload` or `raw`, not both".to_owned())),
    };
    let event = line.event.0;
    let payload = fields.into_payload(event).map_err(|wrong| at(wrong.field, wrong.to_string()))?;
    Ok(Some(Event { sequence: line.seq, event, timestamp_ms: line.timestamp_ms, payload }))
}

fn is_guard(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(rename = "type", borrow)]
        event: Cow<'a, str>,
    }
    serde_json::from_slice::<Typed<'_>>(text).is_ok_and(|typed| typed.event == GUARD)
}

fn malformed(text: &[u8], error: &serde_json::Error) -> Malformed {
    let what = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = in_words(what.strip_suffix(&place).unwrap_or(&what));
    let column = (error.column() as u64).clamp(1, text.len() as u64 + 1);
    Malformed { column, what }
}

/// What a type of this program's is called in an error, for people who do not write programs.
fn in_words(what: &str) -> String {
    let words = [
        ("expected u64", "expected a whole number from 0 to 18446744073709551615"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected i64", "expected a whole number of milliseconds, 64 bits wide"),
        ("expected a boolean", "expected true or false"),
        ("expected a tuple of size 2", "expected [TAG,\"HEX\"]"),
    ];
    match words.iter().find_map(|(name, words)| Some((what.strip_suffix(name)?, words))) {
        Some((before, words)) => format!("{before}{words}"),
        None => what.to_owned(),
    }
}

/// Where a field's name stands; where the payload begins, or the line, if it does not.
fn column_of(text: &[u8], field: &str) -> u64 {
    let place = |name: &str| {
        let quoted = format!("\"{name}\"");
        text.windows(quoted.len()).position(|window| window == quoted.as_bytes())
    };
    place(field).or_else(|| place("payload")).map_or(1, |at| at as u64 + 1)
}

/// An event's name, or its code as `"0x2a"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventName(pub EventType);

impl Serialize for EventName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EventName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EventName, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = EventName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event's name such as \"tx_created\", or its code such as \"0x2a\"")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<EventName, E> {
                let event = EventType::from_name(name).or_else(|| code(name));
                event.map(EventName).ok_or_else(|| E::custom(unknown_event(name)))
            }
        }

        deserializer.deserialize_str(Name)
    }
}

/// With the nearest name, if one is near; else with what a name looks like.
fn unknown_event(name: &str) -> String {
    let named = || EventType::NAMED.iter().filter_map(|event| event.name());
    let lower = name.to_ascii_lowercase();
    // A long word is near nothing, and comparing it takes long.
    let near = named().filter(|_| name.len() <= 64).map(|valid| {
        let distance = strsim::damerau_levenshtein(&lower, valid);
        (distance, valid)
    });
    let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    match near.min().filter(|(distance, _)| *distance <= name.len() / 3) {
        Some((_, valid)) => format!("unknown event type `{shown}`: did you mean `{valid}`?"),
        None => format!(
            "unknown event type `{shown}`: expected a name such as \"tx_created\", or a code such as \
             \"0x2a\""
        ),
    }
}

fn code(name: &str) -> Option<EventType> {
    let digits = name.strip_prefix("0x")?;
    let hexadecimal =
        matches!(digits.len(), 1 | 2) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let code = u8::from_str_radix(digits, 16).ok()?;
    hexadecimal.then_some(EventType(code))
}

/// Bytes as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hex, D::Error> {
        struct Digits;

        impl Visitor<'_> for Digits {
            type Value = Hex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string of hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, digits: &str) -> Result<Hex, E> {
                decode_hex(digits).map(Hex).ok_or_else(|| {
                    E::custom("expected hexadecimal digits, two for each byte".to_owned())
                })
            }
        }

        deserializer.deserialize_str(Digits)
    }
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// A value of 32 bytes as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name([u8; 32]);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let Hex(bytes) = Hex::deserialize(deserializer)?;
        let wrong = |bytes: Vec<u8>| {
            let digits = 2 * bytes.len();
            de::Error::custom(format!("expected 64 hexadecimal digits, found {digits}"))
        };
        bytes.try_into().map(Name).map_err(wrong)
    }
}

/// A participant's vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vote {
    Abort = 0,
    Commit = 1,
}

/// What is derived calls a vote that is no string "expected value".
impl<'de> Deserialize<'de> for Vote {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vote, D::Error> {
        struct Word;

        impl Visitor<'_> for Word {
            type Value = Vote;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`abort` or `commit`")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Vote, E> {
                match word {
                    "abort" => Ok(Vote::Abort),
                    "commit" => Ok(Vote::Commit),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }

        deserializer.deserialize_str(Word)
    }
}

/// What stands behind the fixed fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ext {
    pub version: u8,
    pub tags: Vec<(u8, Hex)>,
}

/// A payload: the fields that its event has, and no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vote: Option<Vote>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_sagas: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_txs: Option<u64>,
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    ext: Option<Ext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Hex>,
}

/// A field that is wrong for its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event}: `{field}` {what}")]
pub struct WrongField {
    event: EventType,
    field: &'static str,
    what: &'static str,
}

impl Fields {
    /// A payload's fields. One that they cannot say to the last byte stands as it is, `raw`.
    pub fn of(event: EventType, payload: &[u8]) -> Fields {
        let raw = || Fields { raw: Some(Hex(payload.to_vec())), ..Fields::default() };
        let Ok(decoded) = Payload::decode(event, payload) else { return raw() };
        let fields = Fields::of_decoded(decoded);
        // 41 bytes may be a vote that is neither commit nor abort; and whatever else is read, it
        // must be possible to write it again.
        match fields.clone().into_payload(event) {
            Ok(written) if written == payload => fields,
            _ => raw(),
        }
    }

    fn of_decoded(payload: Payload) -> Fields {
        let mut fields = Fields { id: payload.prefix.id().map(|id| id.0), ..Fields::default() };
        match payload.prefix {
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
            | Prefix::TxHeuristic { coordinator, .. } => {
                fields.coordinator = Some(Name(coordinator.0));
            }
            Prefix::SagaStepAdded { step, action, .. } => {
                (fields.step, fields.action) = (Some(step), Some(action));
            }
            Prefix::SagaStepSucceeded { step, .. }
            | Prefix::SagaCompensationStart { step, .. }
            | Prefix::SagaCompensationSucceeded { step, .. } => fields.step = Some(step),
            Prefix::SagaStepFailed { step, error_code, .. } => {
                (fields.step, fields.error_code) = (Some(step), Some(error_code));
            }
            Prefix::SagaCompensationFailed { step, attempt, .. } => {
                (fields.step, fields.attempt) = (Some(step), Some(attempt));
            }
            Prefix::TxParticipantAdded { shard, node, .. } => {
                (fields.shard, fields.node) = (Some(Name(shard.0)), Some(Name(node.0)));
            }
            Prefix::TxVoteReceived { shard, vote, .. } => {
                fields.shard = Some(Name(shard.0));
                fields.vote = Some(if vote == 0 { Vote::Abort } else { Vote::Commit });
            }
            Prefix::Checkpoint { active_sagas, active_transactions } => {
                fields.active_sagas = Some(active_sagas);
                fields.active_txs = Some(active_transactions);
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
        fields.ext = payload.extensions.map(|extensions| Ext {
            version: extensions.version,
            tags: extensions.tags.into_iter().map(|(tag, value)| (tag, Hex(value))).collect(),
        });
        fields
    }

    /// The payload's bytes.
    ///
    /// # Errors
    /// [`WrongField`]: one that is missing, one that the event does not have, one that is too long.
    pub fn into_payload(mut self, event: EventType) -> Result<Vec<u8>, WrongField> {
        let wrong = |field, what| WrongField { event, field, what };
        if let Some(Hex(raw)) = self.raw.take() {
            return match self.any() {
                Some(field) => Err(wrong(field, "and `raw` exclude each other")),
                None => Ok(raw),
            };
        }
        let extensions = self.ext.take().map(|ext| Extensions {
            version: ext.version,
            tags: ext.tags.into_iter().map(|(tag, Hex(value))| (tag, value)).collect(),
        });
        let tags = extensions.iter().flat_map(|extensions| &extensions.tags);
        if tags.into_iter().any(|(_, value)| value.len() > usize::from(u16::MAX)) {
            return Err(wrong("ext", "has a value longer than 65,535 bytes: split it"));
        }
        let mut taker = Taker { event, fields: self };
        let prefix = taker.prefix()?;
        if let Some(field) = taker.fields.any() {
            return Err(wrong(field, "is none of its fields"));
        }
        let mut payload = Vec::new();
        Payload { prefix, extensions }.encode(&mut payload);
        Ok(payload)
    }

    /// The name of some field that is there.
    fn any(&self) -> Option<&'static str> {
        self.entries().next().map(|(name, _)| name)
    }

    /// The fields that are there, with their values for people to read.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String)> {
        let ext = |ext: &Ext| {
            let mut text = format!("v{}", ext.version);
            for (tag, Hex(value)) in &ext.tags {
                text += &format!(",{tag}:{}B", value.len());
            }
            text
        };
        let vote = |vote: &Vote| match vote {
            Vote::Abort => "abort".to_owned(),
            Vote::Commit => "commit".to_owned(),
        };
        let action = |&code: &u8| match saga::Action::from_code(code).name() {
            Some(name) => name.to_owned(),
            None => code.to_string(),
        };
        let step = |&step: &u32| if step == u32::MAX { "-".to_owned() } else { step.to_string() };
        [
            ("id", self.id.as_ref().map(ToString::to_string)),
            ("coordinator", self.coordinator.as_ref().map(Name::short)),
            ("step", self.step.as_ref().map(step)),
            ("action", self.action.as_ref().map(action)),
            ("error_code", self.error_code.as_ref().map(ToString::to_string)),
            ("attempt", self.attempt.as_ref().map(ToString::to_string)),
            ("shard", self.shard.as_ref().map(Name::short)),
            ("node", self.node.as_ref().map(Name::short)),
            ("vote", self.vote.as_ref().map(vote)),
            ("active_sagas", self.active_sagas.as_ref().map(ToString::to_string)),
            ("active_txs", self.active_txs.as_ref().map(ToString::to_string)),
            ("ext", self.ext.as_ref().map(ext)),
            ("raw", self.raw.as_ref().map(ToString::to_string)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

impl From<[u8; 32]> for Name {
    fn from(bytes: [u8; 32]) -> Name {
        Name(bytes)
    }
}

impl Name {
    /// Its beginning and its end; JSON has it whole.
    pub fn short(&self) -> String {
        let whole = self.to_string();
        format!("{}..{}", &whole[..8], &whole[56..])
    }
}

/// Takes an event's fields out of a payload; what is left in it then does not belong there.
struct Taker {
    event: EventType,
    fields: Fields,
}

impl Taker {
    fn prefix(&mut self) -> Result<Prefix, WrongField> {
        Ok(match self.event {
            EventType::SAGA_CREATED => {
                Prefix::SagaCreated { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::SAGA_STEP_ADDED => {
                let action = self.fields.action.take();
                let action = self.needed("action", action)?;
                Prefix::SagaStepAdded { id: self.id()?, step: self.step()?, action }
            }
            EventType::SAGA_EXECUTE_START => Prefix::SagaExecuteStart { id: self.id()? },
            EventType::SAGA_STEP_SUCCEEDED => {
                Prefix::SagaStepSucceeded { id: self.id()?, step: self.step()? }
            }
            EventType::SAGA_STEP_FAILED => {
                let error_code = self.fields.error_code.take();
                let error_code = self.needed("error_code", error_code)?;
                Prefix::SagaStepFailed { id: self.id()?, step: self.step()?, error_code }
            }
            EventType::SAGA_COMPENSATION_START => {
                Prefix::SagaCompensationStart { id: self.id()?, step: self.step()? }
            }
            EventType::SAGA_COMPENSATION_SUCCEEDED => {
                Prefix::SagaCompensationSucceeded { id: self.id()?, step: self.step()? }
            }
            EventType::SAGA_COMPENSATION_FAILED => {
                let attempt = self.fields.attempt.take();
                let attempt = self.needed("attempt", attempt)?;
                Prefix::SagaCompensationFailed { id: self.id()?, step: self.step()?, attempt }
            }
            EventType::SAGA_COMPLETED => Prefix::SagaCompleted { id: self.id()? },
            EventType::SAGA_COMPENSATED => Prefix::SagaCompensated { id: self.id()? },
            EventType::SAGA_ABORTED => Prefix::SagaAborted { id: self.id()? },
            EventType::TX_CREATED => {
                Prefix::TxCreated { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::TX_PARTICIPANT_ADDED => {
                let node = NodeName(self.fields.node.take().unwrap_or_default().0);
                Prefix::TxParticipantAdded { id: self.id()?, shard: self.shard(), node }
            }
            EventType::TX_PREPARE_START => Prefix::TxPrepareStart { id: self.id()? },
            EventType::TX_VOTE_RECEIVED => {
                let vote = self.fields.vote.take();
                let vote = self.needed("vote", vote)? as u8;
                Prefix::TxVoteReceived { id: self.id()?, shard: self.shard(), vote }
            }
            EventType::TX_COMMIT_START => Prefix::TxCommitStart { id: self.id()? },
            EventType::TX_COMMIT_COMPLETE => Prefix::TxCommitComplete { id: self.id()? },
            EventType::TX_ABORT_START => Prefix::TxAbortStart { id: self.id()? },
            EventType::TX_ABORT_COMPLETE => Prefix::TxAbortComplete { id: self.id()? },
            EventType::TX_ROLLBACK_START => Prefix::TxRollbackStart { id: self.id()? },
            EventType::TX_ROLLBACK_COMPLETE => Prefix::TxRollbackComplete { id: self.id()? },
            EventType::TX_PREPARED => {
                Prefix::TxPrepared { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::TX_PARTICIPANT_COMMITTED => {
                Prefix::TxParticipantCommitted { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::TX_PARTICIPANT_ABORTED => {
                Prefix::TxParticipantAborted { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::TX_PARTICIPANT_READ_ONLY => {
                Prefix::TxParticipantReadOnly { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::COORDINATOR_SEEN => {
                Prefix::CoordinatorSeen { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::IN_DOUBT => {
                Prefix::InDoubt { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::STEP_OUTCOME => {
                Prefix::StepOutcome { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::TX_PARTICIPANT_HEURISTIC => {
                let (id, coordinator) = (self.id()?, self.coordinator());
                Prefix::TxParticipantHeuristic { id, coordinator }
            }
            EventType::TX_HEURISTIC => {
                Prefix::TxHeuristic { id: self.id()?, coordinator: self.coordinator() }
            }
            EventType::CHECKPOINT => {
                let (sagas, txs) = (self.fields.active_sagas.take(), self.fields.active_txs.take());
                Prefix::Checkpoint {
                    active_sagas: self.needed("active_sagas", sagas)?,
                    active_transactions: self.needed("active_txs", txs)?,
                }
            }
            event => {
                let what = "is missing: only bytes are known of this event";
                return Err(WrongField { event, field: "raw", what });
            }
        })
    }

    fn needed<T>(&self, field: &'static str, value: Option<T>) -> Result<T, WrongField> {
        value.ok_or(WrongField { event: self.event, field, what: "is missing" })
    }

    fn id(&mut self) -> Result<OperationId, WrongField> {
        let id = self.fields.id.take();
        self.needed("id", id).map(OperationId)
    }

    fn step(&mut self) -> Result<u32, WrongField> {
        let step = self.fields.step.take();
        self.needed("step", step)
    }

    fn coordinator(&mut self) -> CoordinatorId {
        CoordinatorId(self.fields.coordinator.take().unwrap_or_default().0)
    }

    fn shard(&mut self) -> ShardId {
        ShardId(self.fields.shard.take().unwrap_or_default().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(line: &str, place: &str, what: &str) {
        let refused = parse(line.as_bytes()).unwrap_err();
        assert!(refused.what.contains(what), "{line}: {}", refused.what);
        let from = line.find(place).unwrap() as u64;
        let inside = from + 1..=from + place.len() as u64 + 1;
        assert!(inside.contains(&refused.column), "{line}: column {}", refused.column);
    }

    #[test]
    fn every_event_reads_as_written() {
        for &event in EventType::NAMED {
            let len = wal_core::prefix_bytes(event).unwrap() as usize;
            let mut payload: Vec<u8> = (1..=len as u8).collect();
            if event == EventType::TX_VOTE_RECEIVED {
                payload[40] = 1;
            }
            for extensions in [&[][..], &[1], &[1, 7, 2, 0, 8, 9, 7, 0, 0]] {
                let payload = [&payload[..], extensions].concat();
                let fields = Fields::of(event, &payload);
                assert_eq!(fields.raw, None, "{event}");
                assert_eq!(fields.ext.is_some(), !extensions.is_empty());
                let text = serde_json::to_string(&fields).unwrap();
                let line = format!(
                    r#"{{"seq":9,"type":"{event}","timestamp_ms":-1,"payload":{text},"off":1.5}}"#
                );
                let expected = Event { sequence: Some(9), event, timestamp_ms: -1, payload };
                assert_eq!(parse(line.as_bytes()), Ok(Some(expected)), "{line}");
            }
        }
    }

    #[test]
    fn what_fields_cannot_say_stands_as_it_is() {
        let vote = [7; 41];
        for (event, payload) in [
            (EventType::TX_VOTE_RECEIVED, &vote[..]),
            (EventType::SAGA_COMPLETED, &[1, 2, 3]),
            (EventType::SAGA_COMPLETED, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 7, 2, 0, 8]),
            (EventType(0x2A), &[]),
        ] {
            let fields = Fields::of(event, payload);
            assert_eq!(fields.raw, Some(Hex(payload.to_vec())));
            let text = serde_json::to_string(&fields).unwrap();
            for line in [
                format!(r#"{{"type":"{event}","timestamp_ms":0,"payload":{text}}}"#),
                format!(
                    r#"{{"type":"{event}","timestamp_ms":0,"raw":"{}"}}"#,
                    Hex(payload.to_vec())
                ),
            ] {
                assert_eq!(parse(line.as_bytes()).unwrap().unwrap().payload, payload);
            }
        }
    }

    #[test]
    fn names_may_be_missing_and_numbers_are_exact() {
        let line = br#"{"type":"tx_created","timestamp_ms":-9223372036854775808,
            "payload":{"id":18446744073709551615}}"#;
        let event = parse(line).unwrap().unwrap();
        assert_eq!(event.timestamp_ms, i64::MIN);
        assert_eq!(event.payload, [&[0xFF; 8][..], &[0; 32]].concat());
    }

    #[test]
    fn a_wrong_line_is_told_with_its_place() {
        // The line, a piece of it that holds the column, and what is said.
        for (line, place, what) in [
            (r#"{"type":"tx_created"#, "created", "EOF while parsing a string"),
            (
                r#"{"type":"saga_completed","timestamp_ms":0}"#,
                r#""type""#,
                "missing field `payload`",
            ),
            (r#"{"type":"saga_complete"}"#, r#""saga_complete""#, "unknown event type"),
            (r#"{"type":"tx_commit_strat"}"#, r#"strat""#, "did you mean `tx_commit_start`?"),
            (r#"{"type":"TX_CREATED"}"#, r#"CREATED""#, "did you mean `tx_created`?"),
            (r#"{"type":"nonsense"}"#, r#"nonsense""#, r#"such as "tx_created""#),
            (r#"{"type":"\u001b[2J"}"#, r#"2J""#, r"unknown event type `\u{1b}[2J`"),
            (r#"{"type":"0x+2"}"#, r#""0x+2""#, "unknown event type `0x+2`"),
            (r#"{"kind":1}"#, r#""kind""#, "unknown field `kind`"),
            ("[]", "[]", "expected a JSON object"),
            ("nonsense", "nonsense", "expected a JSON object"),
        ] {
            check_refused(line, place, what);
        }
        for (payload, place, what) in [
            (r#"{"ix":1}"#, r#""ix""#, "unknown field `ix`"),
            (r#"{"id":1.0}"#, "1.0", "floating point"),
            (
                r#"{"id":-1}"#,
                "-1",
                "integer `-1`, expected a whole number from 0 to 18446744073709551615",
            ),
            (r#"{"step":4294967296}"#, "4294967296", "from 0 to 4294967295"),
            (r#"{"action":256}"#, "256", "from 0 to 255"),
            (r#"{"vote":true}"#, "true", "boolean `true`, expected `abort` or `commit`"),
            (
                r#"[1,null,null,null,null,null,null,null,null,null,null,null,null]"#,
                "[",
                "a JSON object",
            ),
            (r#"{"id":1,"ext":[1,[]]}"#, "[1,", "expected a JSON object"),
            (r#"{"ext":{"version":1,"tags":[[7]]}}"#, "[7]", r#"expected [TAG,"HEX"]"#),
            (r#"{"id":18446744073709551616}"#, "18446744073709551616", "floating point"),
            (r#"{"id":1,"step":2}"#, r#""step""#, "tx_created: `step` is none of its fields"),
            (r#"{}"#, r#""payload""#, "tx_created: `id` is missing"),
            (r#"{"raw":"0"}"#, r#""0""#, "two for each byte"),
            (r#"{"raw":"0\u00e9"}"#, r#""0\u00e9""#, "two for each byte"),
            (r#"{"raw":"00","id":3}"#, r#""id""#, "`id` and `raw` exclude each other"),
            (r#"{"id":1,"coordinator":"00"}"#, r#""00""#, "64 hexadecimal digits, found 2"),
            (r#"{"id":1,"vote":"yes"}"#, r#""yes""#, "expected `abort` or `commit`"),
            (r#"{"id":1},"crc_ok":false"#, r#""crc_ok""#, "wrong checksum"),
            (r#"{"id":1},"raw":"00""#, r#""raw""#, "not both"),
        ] {
            let head = r#"{"type":"tx_created","timestamp_ms":7"#;
            check_refused(&format!(r#"{head},"payload":{payload}}}"#), place, what);
        }
        let unknown = r#"{"type":"0x2a","timestamp_ms":7,"payload":{}}"#;
        check_refused(unknown, r#""payload""#, "0x2a: `raw` is missing");
        let long = Hex(vec![0; 65_536]);
        let long = format!(r#"{{"id":1,"ext":{{"version":1,"tags":[[1,"{long}"]]}}}}"#);
        let long = format!(r#"{{"type":"tx_created","timestamp_ms":7,"payload":{long}}}"#);
        check_refused(&long, r#""ext""#, "longer than 65,535 bytes");
    }

    #[test]
    fn a_guard_is_no_event() {
        assert_eq!(parse(br#"{"seq":1,"type":"guard","payload":{"records":0}}"#), Ok(None));
    }
}
