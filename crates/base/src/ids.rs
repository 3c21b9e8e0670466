use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A record's sequence number in its log (the field's LSN).
///
/// Starts at 1 and grows by one per record. Once a record was acknowledged, or kept by a recovery,
/// its number names that record for ever. [`Sequence::NONE`] is "before the first record".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first record: everything is durable up to here from the start.
    pub const NONE: Sequence = Sequence(0);
    /// The first record of a log.
    pub const FIRST: Sequence = Sequence(1);

    /// The number of the record after this one.
    ///
    /// # Panics
    /// After 2^64 - 1 records, which no disk holds.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0.checked_add(1).expect("a log holds fewer than 2^64 records"))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A coordinator's start, counted: 1 at the first, one more at each later one, 24 bits wide.
///
/// A participant that has seen a higher epoch of a coordinator refuses a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// Before the first start.
    pub const NONE: Epoch = Epoch(0);
    /// The last epoch that an id can hold.
    pub const MAX: Epoch = Epoch((1 << 24) - 1);

    /// # Panics
    /// If `value` needs more than 24 bits.
    #[must_use]
    pub const fn new(value: u32) -> Epoch {
        assert!(value <= Self::MAX.0, "an epoch has 24 bits");
        Epoch(value)
    }

    /// The epoch after this one, or `None` after [`Epoch::MAX`].
    #[must_use]
    pub const fn next(self) -> Option<Epoch> {
        if self.0 == Self::MAX.0 { None } else { Some(Epoch(self.0 + 1)) }
    }

    /// The number, at most 2^24 - 1.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A saga's or a transaction's id within one log. Sagas and transactions are two name spaces.
///
/// To a reader of a log an id is opaque. Ids that our coordinator draws hold its [`Epoch`] in the high
/// 24 bits and a counter in the low 40.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

impl OperationId {
    const COUNTER_BITS: u32 = 40;

    /// The id of the `counter`-th operation of `epoch`, or `None` when the counter needs more than 40
    /// bits: that epoch has run out of ids.
    #[must_use]
    pub const fn draw(epoch: Epoch, counter: u64) -> Option<OperationId> {
        if counter >> Self::COUNTER_BITS == 0 {
            Some(OperationId((epoch.value() as u64) << Self::COUNTER_BITS | counter))
        } else {
            None
        }
    }

    /// The epoch that drew it, if our coordinator did.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> Self::COUNTER_BITS) as u32)
    }

    /// The counter under that epoch.
    #[must_use]
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// On behalf of which step of which saga an operation runs, and which way: a transaction or a saga that
/// is itself a step's doing or undoing, in the same log.
///
/// A step has one such operation after the other, never two that count: this names what they are for, and
/// [`OperationId`] which of them it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParentStep {
    /// The saga.
    pub saga: OperationId,
    /// Its step.
    pub step: u32,
    /// It undoes the step.
    pub undo: bool,
}

impl fmt::Display for ParentStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.undo { "the undo of step" } else { "step" };
        write!(f, "{way} {} of saga {}", self.step, self.saga)
    }
}

/// The first eight bytes, as the number that orders as they do.
#[inline]
fn first_word(name: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *name;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

macro_rules! name_of_32_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// A name for tests, examples and simulated worlds: `number` in the first eight bytes,
            /// little-endian, zeros behind.
            #[must_use]
            pub const fn numbered(number: u64) -> $name {
                let mut bytes = [0; 32];
                let low = number.to_le_bytes();
                let mut i = 0;
                while i < 8 {
                    bytes[i] = low[i];
                    i += 1;
                }
                $name(bytes)
            }

            /// The number of a [`numbered`](Self::numbered) name: its first eight bytes.
            #[must_use]
            pub const fn number(&self) -> u64 {
                let b = &self.0;
                u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
            }
        }

        /// The order of the bytes.
        impl Ord for $name {
            #[inline]
            fn cmp(&self, other: &$name) -> Ordering {
                // Maps are searched by names, and most differ in the first eight bytes: only the rest
                // is worth a call that compares bytes.
                let (one, two) = (first_word(&self.0), first_word(&other.0));
                if one != two {
                    one.cmp(&two)
                } else if self.0 == other.0 {
                    Ordering::Equal
                } else {
                    self.0.cmp(&other.0)
                }
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &$name) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.0[8..].iter().all(|&b| b == 0) {
                    write!(f, concat!(stringify!($name), "#{}"), self.number())
                } else {
                    write!(f, concat!(stringify!($name), "({})"), self)
                }
            }
        }
    };
}

name_of_32_bytes! {
    /// A coordinator's name. It stays the same over restarts and take-overs; its [`Epoch`] does not.
    CoordinatorId
}
name_of_32_bytes! {
    /// A shard's name: what a participant votes for in a transaction.
    ShardId
}
name_of_32_bytes! {
    /// A node's name: where messages go.
    NodeName
}

/// A participant's store: the log id of its log. It changes only when its disk is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

/// How often a participant's store was opened: its own log's epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootCount(pub u32);

/// An idempotency token: whatever it names has an effect at most once.
/// A number of 128 bits, kept as its little-endian bytes: messages that carry one stay small.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// The token of this number.
    #[must_use]
    pub const fn new(number: u128) -> Token {
        Token(number.to_le_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:032x})", u128::from_le_bytes(self.0))
    }
}

/// The name that a user gives an operation, at most [`RequestKey::BYTES_MAX`] bytes. The same key
/// submitted twice is the same operation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// The first eight bytes, with zeros behind a shorter name, as the number that orders as they do: a map
    /// looks at the names themselves only where these are the same.
    first: u64,
    bytes: Arc<[u8]>,
}

/// The order of the bytes.
impl Ord for RequestKey {
    #[inline]
    fn cmp(&self, other: &RequestKey) -> Ordering {
        self.first.cmp(&other.first).then_with(|| self.bytes.cmp(&other.bytes))
    }
}

impl PartialOrd for RequestKey {
    #[inline]
    fn partial_cmp(&self, other: &RequestKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A request key was longer than [`RequestKey::BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKeyTooLong {
    /// Its length in bytes.
    pub bytes: u64,
}

impl fmt::Display for RequestKeyTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a request key of {} bytes: at most {} are allowed",
            self.bytes,
            RequestKey::BYTES_MAX
        )
    }
}

impl std::error::Error for RequestKeyTooLong {}

impl RequestKey {
    /// The longest key, in bytes.
    pub const BYTES_MAX: u32 = 64;

    /// # Errors
    /// [`RequestKeyTooLong`] over [`RequestKey::BYTES_MAX`] bytes: choose a shorter name, or its hash.
    pub fn new(bytes: &[u8]) -> Result<RequestKey, RequestKeyTooLong> {
        if bytes.len() > Self::BYTES_MAX as usize {
            return Err(RequestKeyTooLong { bytes: bytes.len() as u64 });
        }
        let mut first = [0; 8];
        let known = bytes.len().min(first.len());
        first[..known].copy_from_slice(&bytes[..known]);
        Ok(RequestKey { first: u64::from_be_bytes(first), bytes: bytes.into() })
    }

    /// The bytes that the user chose.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestKey({})", self.bytes.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_its_epoch_and_counter() {
        let id = OperationId::draw(Epoch::MAX, (1 << 40) - 1).unwrap();
        assert_eq!(id.0, u64::MAX);
        assert_eq!(id.epoch(), Epoch::MAX);
        assert_eq!(OperationId::draw(Epoch::new(1), 1 << 40), None);
        assert_eq!(Epoch::MAX.next(), None);
    }

    #[test]
    fn a_request_key_has_a_limit() {
        assert!(RequestKey::new(&[7; 64]).is_ok());
        assert_eq!(RequestKey::new(&[7; 65]), Err(RequestKeyTooLong { bytes: 65 }));
    }

    #[test]
    fn request_keys_order_as_their_bytes_do() {
        let names =
            ["", "\0", "a", "a\0", "ab", "abcdefgh", "abcdefgh\0", "abcdefghi", "b", "\u{ff}"];
        for one in names {
            for two in names {
                let [first, second] =
                    [one, two].map(|name| RequestKey::new(name.as_bytes()).unwrap());
                assert_eq!(
                    first.cmp(&second),
                    one.as_bytes().cmp(two.as_bytes()),
                    "{one:?} {two:?}"
                );
                assert_eq!(first == second, one == two);
            }
        }
    }

    #[test]
    fn names_order_as_their_bytes_do() {
        let mut names = vec![[0; 32], [0xFF; 32]];
        for at in 0..32 {
            for byte in [1, 0x80, 0xFF] {
                let mut name = [0; 32];
                name[at] = byte;
                names.push(name);
                name[31 - at] ^= 7;
                names.push(name);
            }
        }
        for one in &names {
            for two in &names {
                assert_eq!(NodeName(*one).cmp(&NodeName(*two)), one.cmp(two));
            }
        }
    }

    #[test]
    fn a_numbered_name_gives_its_number_back() {
        assert_eq!(NodeName::numbered(599).number(), 599);
        assert_eq!(format!("{:?}", NodeName::numbered(599)), "NodeName#599");
    }
}
