//! Messages as bytes, for nodes that are not in one process.
//!
//! A message is a version, the code of its [`MessageKind`], and its fields in the order in which the list
//! below has them; nothing stands behind them. Numbers are little-endian; names, shards and tokens are
//! their bytes; a coordinator's id is 32 bytes, an operation's 8. A *list* or *bytes* are a u32 count
//! and what it counts. An optional value is a byte, 0 or 1, and behind a 1 the value.
//!
//! | kind | fields |
//! |---|---|
//! | `prepare` | key, epoch, shard, list of peers (shard, node, store u64, boot u32), work bytes, one-phase u8 |
//! | `resolve` | key, epoch, shard |
//! | `vote` | key, shard, vote u8 (0 abort, 1 commit, 2 read-only), store, boot |
//! | `commit` | key, epoch, shard, optional store |
//! | `ack` | key, shard, store, heuristic u8 (0 none, 1 lost, 2 aborted, 3 committed) |
//! | `noted` | key, epoch, shard |
//! | `abort` | key, epoch, shard |
//! | `inquiry` | key, shard, store |
//! | `answer` | key, epoch, shard, verdict u8 (0 committed, 1 aborted, 2 pending, 3 in doubt) |
//! | `peer_inquiry` | key, shard, peer |
//! | `peer_answer` | key, shard, verdict u8 (0 committed, 1 aborted, 2 prepared, 3 unknown, 4 finished) |
//! | `step` | key, epoch, token, body bytes, step u32, direction u8, kind u8, cannot-fail u8, order u8 (0 none, 1 override, 2 mark done), list of inputs (step u32, output) |
//! | `step_reply` | key, step u32, direction u8, token, answer u8 (0 done, 1 refused: code u32, 2 not now), optional output |
//! | `hello`, `ask_finished` | none |
//! | `announce` | store, boot |
//! | `finished` | coordinator, epoch, highest id, list of active ids |
//!
//! A key is a coordinator and an id, an epoch a u32 below 2^24, a direction 0 forward or 1 backward, an
//! output 0 and its bytes, or 1, a hash of 32 bytes and a u64.
//!
//! Guaranteed: what [`encode`] wrote [`decode`] reads as the same message; any other bytes are an error,
//! never a panic, and no allocation is larger than what arrived. Not guaranteed: that who sent it is who it
//! says, or that bits did not flip on the way; that is the transport's to see to.
//!
//! ```
//! use base::{BootCount, StoreId};
//! use coordinator::{Message, wire};
//!
//! let message = Message::Announce { store: StoreId(7), boot: BootCount(2) };
//! let mut bytes = Vec::new();
//! wire::encode(&message, &mut bytes);
//! assert_eq!(wire::decode(&bytes), Ok(message));
//! assert_eq!(wire::decode(&bytes[1..]), Err(wire::WireError::Version(13)));
//! ```

use crate::message::{Call, Message, MessageKind, SagaKey, StepAnswer, UndoOrder};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, ShardId, StoreId, Token};
use saga::{Direction, Output, StepInput, StepKind};
use std::fmt;
use std::sync::Arc;
use twopc::{Heuristic, Peer, PeerVerdict, TxKey, Verdict, Vote, Watermark};

/// The version of this encoding, the first byte of every message.
pub const VERSION: u8 = 4;

/// Bytes that are no message. Whoever sent them is of another version, or does not speak this protocol:
/// close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// Of another version, or nothing at all (0).
    Version(u8),
    /// No message has this kind.
    Kind(u8),
    /// It ends within a field.
    Short,
    /// There are bytes behind its last field.
    Long,
    /// A field has a value that it cannot have.
    Value,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => {
                write!(f, "a message of version {found}: this build speaks version {VERSION}")
            }
            Self::Kind(found) => write!(f, "no message is of kind {found}"),
            Self::Short => write!(f, "a message ends within a field"),
            Self::Long => write!(f, "bytes follow behind a message's last field"),
            Self::Value => write!(f, "a field of a message has a value that it cannot have"),
        }
    }
}

impl std::error::Error for WireError {}

// ---- writing ----

/// Appends a message's bytes.
///
/// # Panics
/// If a body or a list counts 2^32 or more: no log takes a record of that size, so none is asked for.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let mut to = Writer(out);
    to.bytes(&[VERSION, message.kind() as u8]);
    match message {
        Message::Transaction(message) => transaction(&mut to, message),
        Message::StepCall { key, epoch, token, body, call } => {
            to.saga(*key).epoch(*epoch).bytes(&token.0).counted(body);
            to.u32(call.step).bytes(&[
                direction_code(call.direction),
                call.kind.code(),
                u8::from(call.cannot_fail),
                match call.order {
                    UndoOrder::None => 0,
                    UndoOrder::Override => 1,
                    UndoOrder::MarkDone => 2,
                    UndoOrder::Alone => 3,
                },
            ]);
            to.count(call.inputs.len());
            for input in call.inputs.iter() {
                to.u32(input.step).output(&input.output);
            }
        }
        Message::StepReply { key, step, direction, token, answer, output } => {
            to.saga(*key).u32(*step).bytes(&[direction_code(*direction)]).bytes(&token.0);
            match answer {
                StepAnswer::Done => to.bytes(&[0]),
                StepAnswer::Refused { code } => to.bytes(&[1]).u32(*code),
                StepAnswer::NotNow => to.bytes(&[2]),
            };
            to.bytes(&[u8::from(output.is_some())]);
            if let Some(output) = output {
                to.output(output);
            }
        }
        Message::Hello | Message::AskFinished => {}
        Message::Announce { store, boot } => {
            to.u64(store.0).u32(boot.0);
        }
        Message::Finished { coordinator, epoch, watermark } => {
            to.bytes(&coordinator.0).epoch(*epoch).u64(watermark.highest().0);
            to.count(watermark.active().len());
            for id in watermark.active() {
                to.u64(id.0);
            }
        }
    }
}

fn transaction(to: &mut Writer<'_>, message: &twopc::Message) {
    use twopc::Message;
    let TxKey { coordinator, id } = message.key();
    to.bytes(&coordinator.0).u64(id.0);
    match message {
        Message::Prepare { key: _, epoch, shard, peers, work, one_phase } => {
            to.epoch(*epoch).bytes(&shard.0).count(peers.len());
            for peer in peers.iter() {
                to.peer(peer);
            }
            to.counted(work).bytes(&[u8::from(*one_phase)]);
        }
        Message::Commit { key: _, epoch, shard, store } => {
            to.epoch(*epoch).bytes(&shard.0).bytes(&[u8::from(store.is_some())]);
            if let Some(store) = store {
                to.u64(store.0);
            }
        }
        Message::Abort { key: _, epoch, shard }
        | Message::Resolve { key: _, epoch, shard }
        | Message::Noted { key: _, epoch, shard } => {
            to.epoch(*epoch).bytes(&shard.0);
        }
        Message::Answer { key: _, epoch, shard, verdict } => {
            let code = VERDICTS.iter().position(|known| known == verdict);
            to.epoch(*epoch).bytes(&shard.0).code(code);
        }
        Message::Vote { key: _, shard, vote, store, boot } => {
            let code = VOTES.iter().position(|known| known == vote);
            to.bytes(&shard.0).code(code).u64(store.0).u32(boot.0);
        }
        Message::Ack { key: _, shard, store, heuristic } => {
            let code = heuristic.map_or(0, Heuristic::code);
            to.bytes(&shard.0).u64(store.0).bytes(&[code]);
        }
        Message::Inquiry { key: _, shard, store } => {
            to.bytes(&shard.0).u64(store.0);
        }
        Message::PeerInquiry { key: _, shard, peer } => {
            to.bytes(&shard.0).peer(peer);
        }
        Message::PeerAnswer { key: _, shard, verdict } => {
            let code = PEER_VERDICTS.iter().position(|known| known == verdict);
            to.bytes(&shard.0).code(code);
        }
    }
}

/// A code is its index.
const VOTES: [Vote; 3] = [Vote::Abort, Vote::Commit, Vote::ReadOnly];
/// Likewise.
const VERDICTS: [Verdict; 4] =
    [Verdict::Committed, Verdict::Aborted, Verdict::Pending, Verdict::InDoubt];
/// Likewise.
const PEER_VERDICTS: [PeerVerdict; 5] = [
    PeerVerdict::Committed,
    PeerVerdict::Aborted,
    PeerVerdict::Prepared,
    PeerVerdict::Unknown,
    PeerVerdict::Finished,
];

fn direction_code(direction: Direction) -> u8 {
    match direction {
        Direction::Forward => 0,
        Direction::Backward => 1,
    }
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    fn code(&mut self, code: Option<usize>) -> &mut Self {
        let code = code.expect("the list of codes has every value");
        self.bytes(&[u8::try_from(code).expect("no list has 256 values")])
    }

    fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).expect("no message counts 2^32 of anything"))
    }

    fn counted(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).bytes(bytes)
    }

    fn epoch(&mut self, epoch: Epoch) -> &mut Self {
        self.u32(epoch.value())
    }

    fn saga(&mut self, key: SagaKey) -> &mut Self {
        self.bytes(&key.coordinator.0).u64(key.id.0)
    }

    fn peer(&mut self, peer: &Peer) -> &mut Self {
        self.bytes(&peer.shard.0).bytes(&peer.node.0).u64(peer.store.0).u32(peer.boot.0)
    }

    fn output(&mut self, output: &Output) -> &mut Self {
        match output {
            Output::Inline(bytes) => self.bytes(&[0]).counted(bytes),
            Output::Hashed { hash, bytes } => self.bytes(&[1]).bytes(hash).u64(*bytes),
        }
    }
}

// ---- reading ----

/// Reads one message, which the bytes have to be as a whole.
///
/// # Errors
/// [`WireError`]
pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    let mut from = Reader(bytes);
    match from.u8() {
        Ok(VERSION) => {}
        found => return Err(WireError::Version(found.unwrap_or(0))),
    }
    let code = from.u8()?;
    let kind = MessageKind::ALL.into_iter().find(|kind| *kind as u8 == code);
    let message = message(kind.ok_or(WireError::Kind(code))?, &mut from)?;
    if !from.0.is_empty() {
        return Err(WireError::Long);
    }
    Ok(message)
}

fn message(kind: MessageKind, from: &mut Reader<'_>) -> Result<Message, WireError> {
    use twopc::Message as Tx;
    // Fields are read in the order in which an expression names them.
    let transaction = match kind {
        MessageKind::Prepare => Tx::Prepare {
            key: from.key()?,
            epoch: from.epoch()?,
            shard: from.shard()?,
            peers: from.list(PEER_BYTES, Reader::peer)?.into(),
            work: from.counted()?.into(),
            one_phase: from.flag()?,
        },
        MessageKind::Resolve => {
            Tx::Resolve { key: from.key()?, epoch: from.epoch()?, shard: from.shard()? }
        }
        MessageKind::Vote => Tx::Vote {
            key: from.key()?,
            shard: from.shard()?,
            vote: from.one_of(&VOTES)?,
            store: from.store()?,
            boot: from.boot()?,
        },
        MessageKind::Commit => Tx::Commit {
            key: from.key()?,
            epoch: from.epoch()?,
            shard: from.shard()?,
            store: if from.flag()? { Some(from.store()?) } else { None },
        },
        MessageKind::Ack => Tx::Ack {
            key: from.key()?,
            shard: from.shard()?,
            store: from.store()?,
            heuristic: match from.u8()? {
                0 => None,
                code => Some(Heuristic::from_code(code).ok_or(WireError::Value)?),
            },
        },
        MessageKind::Noted => {
            Tx::Noted { key: from.key()?, epoch: from.epoch()?, shard: from.shard()? }
        }
        MessageKind::Abort => {
            Tx::Abort { key: from.key()?, epoch: from.epoch()?, shard: from.shard()? }
        }
        MessageKind::Inquiry => {
            Tx::Inquiry { key: from.key()?, shard: from.shard()?, store: from.store()? }
        }
        MessageKind::Answer => Tx::Answer {
            key: from.key()?,
            epoch: from.epoch()?,
            shard: from.shard()?,
            verdict: from.one_of(&VERDICTS)?,
        },
        MessageKind::PeerInquiry => {
            Tx::PeerInquiry { key: from.key()?, shard: from.shard()?, peer: Box::new(from.peer()?) }
        }
        MessageKind::PeerAnswer => Tx::PeerAnswer {
            key: from.key()?,
            shard: from.shard()?,
            verdict: from.one_of(&PEER_VERDICTS)?,
        },
        MessageKind::Step => return step_call(from),
        MessageKind::StepReply => return step_reply(from),
        MessageKind::Hello => return Ok(Message::Hello),
        MessageKind::AskFinished => return Ok(Message::AskFinished),
        MessageKind::Announce => {
            return Ok(Message::Announce { store: from.store()?, boot: from.boot()? });
        }
        MessageKind::Finished => return finished(from),
    };
    Ok(Message::Transaction(transaction))
}

fn step_call(from: &mut Reader<'_>) -> Result<Message, WireError> {
    let (key, epoch, token) = (from.saga()?, from.epoch()?, Token(from.array()?));
    let body = from.counted()?.into();
    let call = Call {
        step: from.u32()?,
        direction: from.direction()?,
        kind: StepKind::from_code(from.u8()?).ok_or(WireError::Value)?,
        cannot_fail: from.flag()?,
        order: from.one_of(&[
            UndoOrder::None,
            UndoOrder::Override,
            UndoOrder::MarkDone,
            UndoOrder::Alone,
        ])?,
        inputs: from.list(INPUT_BYTES_MIN, Reader::input)?.into(),
    };
    Ok(Message::StepCall { key, epoch, token, body, call })
}

fn step_reply(from: &mut Reader<'_>) -> Result<Message, WireError> {
    Ok(Message::StepReply {
        key: from.saga()?,
        step: from.u32()?,
        direction: from.direction()?,
        token: Token(from.array()?),
        answer: match from.u8()? {
            0 => StepAnswer::Done,
            1 => StepAnswer::Refused { code: from.u32()? },
            2 => StepAnswer::NotNow,
            _ => return Err(WireError::Value),
        },
        output: if from.flag()? { Some(Box::new(from.output()?)) } else { None },
    })
}

fn finished(from: &mut Reader<'_>) -> Result<Message, WireError> {
    let (coordinator, epoch) = (CoordinatorId(from.array()?), from.epoch()?);
    let highest = from.id()?;
    let active = from.list(8, Reader::id)?;
    // Only what a coordinator can have said: else what is read would not be what was written.
    let ascends = active.is_sorted_by(|a, b| a < b);
    let within = active.last().is_none_or(|last| *last <= highest);
    if !ascends || !within || active.len() > Watermark::ACTIVE_MAX {
        return Err(WireError::Value);
    }
    let watermark = Arc::new(Watermark::new(highest, active.into_iter()));
    Ok(Message::Finished { coordinator, epoch, watermark })
}

const PEER_BYTES: usize = 32 + 32 + 8 + 4;
/// A step, and of an output the kind and the count.
const INPUT_BYTES_MIN: usize = 4 + 1 + 4;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> Result<T, WireError> {
        values.get(usize::from(self.u8()?)).copied().ok_or(WireError::Value)
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        self.one_of(&[false, true])
    }

    fn direction(&mut self) -> Result<Direction, WireError> {
        self.one_of(&[Direction::Forward, Direction::Backward])
    }

    fn counted(&mut self) -> Result<&'a [u8], WireError> {
        // Where a count does not fit the machine's own word, the bytes are not there either.
        let count = usize::try_from(self.u32()?).map_err(|_| WireError::Short)?;
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A list of entries that have at least so many bytes each: no room is made for more of them than
    /// could be there.
    fn list<T>(
        &mut self,
        bytes_min: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = usize::try_from(self.u32()?).map_err(|_| WireError::Short)?;
        if count > self.0.len() / bytes_min {
            return Err(WireError::Short);
        }
        (0..count).map(|_| entry(self)).collect()
    }

    fn epoch(&mut self) -> Result<Epoch, WireError> {
        let value = self.u32()?;
        (value <= Epoch::MAX.value()).then(|| Epoch::new(value)).ok_or(WireError::Value)
    }

    fn id(&mut self) -> Result<OperationId, WireError> {
        self.u64().map(OperationId)
    }

    fn shard(&mut self) -> Result<ShardId, WireError> {
        self.array().map(ShardId)
    }

    fn store(&mut self) -> Result<StoreId, WireError> {
        self.u64().map(StoreId)
    }

    fn boot(&mut self) -> Result<BootCount, WireError> {
        self.u32().map(BootCount)
    }

    fn key(&mut self) -> Result<TxKey, WireError> {
        Ok(TxKey { coordinator: CoordinatorId(self.array()?), id: self.id()? })
    }

    fn saga(&mut self) -> Result<SagaKey, WireError> {
        Ok(SagaKey { coordinator: CoordinatorId(self.array()?), id: self.id()? })
    }

    fn peer(&mut self) -> Result<Peer, WireError> {
        let (shard, node) = (self.shard()?, NodeName(self.array()?));
        Ok(Peer { shard, node, store: self.store()?, boot: self.boot()? })
    }

    fn output(&mut self) -> Result<Output, WireError> {
        Ok(match self.flag()? {
            false => Output::Inline(self.counted()?.into()),
            true => Output::Hashed { hash: self.array()?, bytes: self.u64()? },
        })
    }

    fn input(&mut self) -> Result<StepInput, WireError> {
        Ok(StepInput { step: self.u32()?, output: self.output()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How long a list may be is judged by the least that each of what it lists takes.
    #[test]
    fn the_least_that_a_list_takes_is_known() {
        let len = |message: &Message| {
            let mut bytes = Vec::new();
            encode(message, &mut bytes);
            bytes.len()
        };
        let (coordinator, id) = (CoordinatorId([1; 32]), OperationId(2));
        let (epoch, shard) = (Epoch::new(3), ShardId([4; 32]));
        let node = NodeName([5; 32]);
        let peer = Peer { shard, node, store: StoreId(6), boot: BootCount(7) };
        let prepare = |peers: usize| {
            let (key, peers, work) = (TxKey { coordinator, id }, vec![peer; peers], [].into());
            let peers = peers.into();
            let one_phase = false;
            let message = twopc::Message::Prepare { key, epoch, shard, peers, work, one_phase };
            len(&Message::Transaction(message))
        };
        assert_eq!(prepare(3) - prepare(2), PEER_BYTES);
        let call = |inputs: usize| {
            let (key, token, body) = (SagaKey { coordinator, id }, Token([1; 16]), [].into());
            let input = StepInput { step: u32::MAX, output: Output::Inline([].into()) };
            let call = Call {
                step: 1,
                direction: Direction::Forward,
                kind: StepKind::Retriable,
                cannot_fail: true,
                order: UndoOrder::None,
                inputs: vec![input; inputs].into(),
            };
            len(&Message::StepCall { key, epoch, token, body, call })
        };
        assert_eq!(call(3) - call(2), INPUT_BYTES_MIN);
    }

    fn outputs() -> impl Strategy<Value = Output> {
        let bytes = any::<Vec<u8>>().prop_map(|bytes| Output::Inline(bytes.into()));
        let hash = any::<([u8; 32], u64)>();
        prop_oneof![bytes, hash.prop_map(|(hash, bytes)| Output::Hashed { hash, bytes })]
    }

    fn epochs() -> impl Strategy<Value = Epoch> {
        (0..=Epoch::MAX.value()).prop_map(Epoch::new)
    }

    fn names() -> impl Strategy<Value = [u8; 32]> {
        any::<[u8; 32]>()
    }

    fn peers() -> impl Strategy<Value = Peer> {
        (names(), names(), any::<(u64, u32)>()).prop_map(|(shard, node, (store, boot))| {
            let (store, boot) = (StoreId(store), BootCount(boot));
            Peer { shard: ShardId(shard), node: NodeName(node), store, boot }
        })
    }

    fn directions() -> impl Strategy<Value = Direction> {
        prop_oneof![Just(Direction::Forward), Just(Direction::Backward)]
    }

    fn calls() -> impl Strategy<Value = Call> {
        let input = (any::<u32>(), outputs()).prop_map(|(step, output)| StepInput { step, output });
        let order = prop_oneof![
            Just(UndoOrder::None),
            Just(UndoOrder::Override),
            Just(UndoOrder::MarkDone),
            Just(UndoOrder::Alone)
        ];
        let kind = prop::sample::select(StepKind::ALL.to_vec());
        let inputs = prop::collection::vec(input, 0..4);
        (any::<(u32, bool)>(), directions(), kind, order, inputs).prop_map(
            |((step, cannot_fail), direction, kind, order, inputs)| {
                let inputs = inputs.into();
                Call { step, direction, kind, cannot_fail, order, inputs }
            },
        )
    }

    /// Every kind, with any values that it can have.
    fn messages() -> impl Strategy<Value = Message> {
        let about = (names(), any::<u64>(), epochs(), names(), any::<(u64, u32, bool)>());
        let lists = (prop::collection::vec(peers(), 1..5), any::<Vec<u8>>(), calls());
        let ids = prop::collection::btree_set(any::<u64>(), 0..Watermark::ACTIVE_MAX);
        let reply = (any::<[u8; 16]>(), any::<Option<u32>>(), prop::option::of(outputs()), ids);
        let kinds = prop::sample::select(MessageKind::ALL.to_vec());
        (kinds, about, lists, reply).prop_map(|(kind, about, lists, reply)| {
            let (coordinator, id, epoch, shard, (store, boot, flag)) = about;
            let (peers, work, call) = lists;
            let (token, code, output, ids) = reply;
            let (coordinator, id) = (CoordinatorId(coordinator), OperationId(id));
            let (key, shard) = (TxKey { coordinator, id }, ShardId(shard));
            let saga = SagaKey { coordinator, id };
            let (store, boot, token) = (StoreId(store), BootCount(boot), Token(token));
            let any_of = u64::from(boot.0) as usize;
            use twopc::Message as Tx;
            Message::Transaction(match kind {
                MessageKind::Prepare => {
                    let (peers, work, one_phase) = (peers.into(), work.into(), flag);
                    Tx::Prepare { key, epoch, shard, peers, work, one_phase }
                }
                MessageKind::Resolve => Tx::Resolve { key, epoch, shard },
                MessageKind::Vote => {
                    Tx::Vote { key, shard, vote: VOTES[any_of % VOTES.len()], store, boot }
                }
                MessageKind::Commit => {
                    Tx::Commit { key, epoch, shard, store: flag.then_some(store) }
                }
                MessageKind::Ack => {
                    let heuristic = Heuristic::from_code((any_of % 4) as u8);
                    Tx::Ack { key, shard, store, heuristic }
                }
                MessageKind::Noted => Tx::Noted { key, epoch, shard },
                MessageKind::Abort => Tx::Abort { key, epoch, shard },
                MessageKind::Inquiry => Tx::Inquiry { key, shard, store },
                MessageKind::Answer => {
                    Tx::Answer { key, epoch, shard, verdict: VERDICTS[any_of % VERDICTS.len()] }
                }
                MessageKind::PeerInquiry => {
                    Tx::PeerInquiry { key, shard, peer: Box::new(peers[0]) }
                }
                MessageKind::PeerAnswer => {
                    let verdict = PEER_VERDICTS[any_of % PEER_VERDICTS.len()];
                    Tx::PeerAnswer { key, shard, verdict }
                }
                MessageKind::Step => {
                    let body = work.into();
                    return Message::StepCall { key: saga, epoch, token, body, call };
                }
                MessageKind::StepReply => {
                    let answer = match code {
                        Some(code) => StepAnswer::Refused { code },
                        None if flag => StepAnswer::NotNow,
                        None => StepAnswer::Done,
                    };
                    let (step, direction) = (call.step, call.direction);
                    let output = output.map(Box::new);
                    return Message::StepReply {
                        key: saga,
                        step,
                        direction,
                        token,
                        answer,
                        output,
                    };
                }
                MessageKind::Hello => return Message::Hello,
                MessageKind::AskFinished => return Message::AskFinished,
                MessageKind::Announce => return Message::Announce { store, boot },
                MessageKind::Finished => {
                    let highest = ids.last().map_or(id, |last| OperationId(*last));
                    let active = ids.into_iter().map(OperationId);
                    let watermark = Arc::new(Watermark::new(highest, active));
                    return Message::Finished { coordinator, epoch, watermark };
                }
            })
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(message in messages()) {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(message));
        }

        /// A message is its own end: no part of it is one, and nothing may follow.
        #[test]
        fn a_part_is_refused_and_so_is_more(message in messages()) {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes[..cut]).is_err(), "cut at {}", cut);
            }
            bytes.push(0);
            prop_assert_eq!(decode(&bytes), Err(WireError::Long));
        }

        /// One message has one encoding: what is taken for a message is written as it was read.
        #[test]
        fn whatever_is_read_is_written_alike(
            message in messages(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = decode(&bytes) {
                let mut again = Vec::new();
                encode(&read, &mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn noise_is_no_message_or_one_that_is_written_alike(noise in any::<Vec<u8>>()) {
            let bytes = [&[VERSION][..], &noise].concat();
            if let Ok(read) = decode(&bytes) {
                let mut again = Vec::new();
                encode(&read, &mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn a_count_of_what_is_not_there_takes_no_room() {
        let mut bytes = vec![VERSION, MessageKind::Prepare as u8];
        bytes.extend([0; 32 + 8 + 4 + 32]);
        bytes.extend(u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes), Err(WireError::Short));
        assert_eq!(decode(&[]), Err(WireError::Version(0)));
        assert_eq!(decode(&[VERSION, 0]), Err(WireError::Kind(0)));
        assert_eq!(decode(&[VERSION + 1, 1]), Err(WireError::Version(VERSION + 1)));
    }

    /// The bytes of each kind are those of this version: whoever changes them changes the version.
    #[test]
    fn the_encoding_of_this_version_does_not_change() {
        let key = SagaKey { coordinator: CoordinatorId::numbered(1), id: OperationId(2) };
        let call = Call {
            step: 3,
            direction: Direction::Backward,
            kind: StepKind::Retriable,
            cannot_fail: true,
            order: UndoOrder::Override,
            inputs: [StepInput { step: 4, output: Output::Inline([5].into()) }].into(),
        };
        let (epoch, token, body) = (Epoch::new(6), Token([7; 16]), [8, 9].into());
        let mut bytes = Vec::new();
        encode(&Message::StepCall { key, epoch, token, body, call }, &mut bytes);
        let expected = [
            &[VERSION, 10][..],
            &CoordinatorId::numbered(1).0,
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 0, 0],
            &[7; 16],
            &[2, 0, 0, 0, 8, 9],
            &[3, 0, 0, 0, 1, 2, 1, 1],
            &[1, 0, 0, 0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 5],
        ];
        assert_eq!(bytes, expected.concat());
    }
}
