//! Logs and states as a checker wants them: small, equal if they mean the same, and without numbers
//! that only grow.

use base::{CoordinatorId, Epoch, NodeName, OperationId, ShardId};
use std::sync::Arc;
use twopc::participant::PromiseKey;
use twopc::{Peer, TxKey, Vote, coordinator, participant};

/// At most this many participants.
pub const PARTICIPANTS_MAX: usize = 3;
/// At most this many transactions.
pub const TRANSACTIONS_MAX: usize = 2;

pub fn tx_key(transaction: usize) -> TxKey {
    let id = OperationId::draw(Epoch::new(1), transaction as u64 + 1);
    let id = id.expect("an epoch has more than two ids");
    TxKey { coordinator: CoordinatorId::numbered(9), id }
}

pub fn transaction_of(key: TxKey) -> usize {
    (0..TRANSACTIONS_MAX).find(|t| tx_key(*t) == key).expect("only these transactions exist")
}

pub fn shard(participant: usize) -> ShardId {
    ShardId::numbered(participant as u64)
}

pub fn node(participant: usize) -> NodeName {
    NodeName::numbered(participant as u64)
}

pub fn index_of(shard: ShardId) -> usize {
    (0..PARTICIPANTS_MAX).find(|p| self::shard(*p) == shard).expect("only these shards exist")
}

/// What a coordinator's record says, in seven bits: transaction, kind, participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoordinatorRecord {
    pub transaction: usize,
    pub kind: Kind,
    /// Of `Added` and of votes; else 0.
    pub participant: usize,
}

/// In the order in which a transaction's durable records are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Created,
    Added,
    PrepareStart,
    VotedNo,
    VotedYes,
    VotedReadOnly,
    CommitStart,
    CommitComplete,
    ReadOnlyComplete,
    AbortStart,
    AbortComplete,
}

const KINDS: [Kind; 11] = [
    Kind::Created,
    Kind::Added,
    Kind::PrepareStart,
    Kind::VotedNo,
    Kind::VotedYes,
    Kind::VotedReadOnly,
    Kind::CommitStart,
    Kind::CommitComplete,
    Kind::ReadOnlyComplete,
    Kind::AbortStart,
    Kind::AbortComplete,
];

impl CoordinatorRecord {
    pub fn of(transaction: usize, event: &coordinator::Event) -> Self {
        use coordinator::Event;
        let (kind, participant) = match event {
            Event::Created { .. } => (Kind::Created, 0),
            Event::ParticipantAdded(member) => (Kind::Added, index_of(member.shard)),
            Event::PrepareStart => (Kind::PrepareStart, 0),
            Event::VoteReceived { shard, vote: Vote::Commit } => (Kind::VotedYes, index_of(*shard)),
            Event::VoteReceived { shard, vote: Vote::Abort } => (Kind::VotedNo, index_of(*shard)),
            Event::VoteReceived { shard, vote: Vote::ReadOnly } => {
                (Kind::VotedReadOnly, index_of(*shard))
            }
            Event::CommitStart { .. } => (Kind::CommitStart, 0),
            Event::ReadOnlyComplete => (Kind::ReadOnlyComplete, 0),
            Event::OnePhaseStart => unreachable!("there are two phases here"),
            Event::ForcedCommit { .. } | Event::ForcedAbort { .. } => {
                unreachable!("no operator forces anything here")
            }
            Event::CommitComplete => (Kind::CommitComplete, 0),
            Event::AbortStart => (Kind::AbortStart, 0),
            Event::AbortComplete => (Kind::AbortComplete, 0),
            Event::RollbackStart | Event::RollbackComplete => {
                unreachable!("only published logs hold {}", event.name())
            }
        };
        CoordinatorRecord { transaction, kind, participant }
    }

    pub fn event(self, peers: &[Peer]) -> coordinator::Event {
        use coordinator::{Event, Member};
        let shard = shard(self.participant);
        match self.kind {
            Kind::Created => {
                let coordinator = tx_key(self.transaction).coordinator;
                let (request_key, fingerprint, parent) = (None, None, None);
                Event::Created { coordinator, request_key, fingerprint, parent }
            }
            Kind::Added => Event::ParticipantAdded(Member::at(peers[self.participant])),
            Kind::PrepareStart => Event::PrepareStart,
            Kind::VotedNo => Event::VoteReceived { shard, vote: Vote::Abort },
            Kind::VotedYes => Event::VoteReceived { shard, vote: Vote::Commit },
            Kind::VotedReadOnly => Event::VoteReceived { shard, vote: Vote::ReadOnly },
            Kind::ReadOnlyComplete => Event::ReadOnlyComplete,
            Kind::CommitStart => {
                let members = peers.iter().copied().map(Member::at).collect();
                Event::CommitStart { members }
            }
            Kind::CommitComplete => Event::CommitComplete,
            Kind::AbortStart => Event::AbortStart,
            Kind::AbortComplete => Event::AbortComplete,
        }
    }
}

impl Packed for CoordinatorRecord {
    fn pack(self) -> u8 {
        let kind = KINDS.iter().position(|kind| *kind == self.kind).expect("every kind is listed");
        (self.transaction << 6 | kind << 2 | self.participant) as u8
    }

    fn unpack(code: u8) -> Self {
        let code = usize::from(code);
        let (kind, participant) = (KINDS[code >> 2 & 15], code & 3);
        CoordinatorRecord { transaction: code >> 6, kind, participant }
    }
}

/// What a participant's record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParticipantRecord {
    Prepared {
        transaction: usize,
        epoch: u8,
    },
    Committed {
        transaction: usize,
        epoch: u8,
    },
    /// Whether a NO was promised to a peer changes nothing for the machine, and is left out.
    Aborted {
        transaction: usize,
    },
    ReadOnly {
        transaction: usize,
    },
    Seen {
        epoch: u8,
    },
}

impl ParticipantRecord {
    pub fn of(event: &participant::Event) -> Self {
        use participant::Event;
        let number = |epoch: &Epoch| epoch.value() as u8;
        match event {
            Event::Prepared { key, epoch, .. } => {
                let transaction = transaction_of(key.tx);
                ParticipantRecord::Prepared { transaction, epoch: number(epoch) }
            }
            Event::Committed { key, epoch } => {
                let transaction = transaction_of(key.tx);
                ParticipantRecord::Committed { transaction, epoch: number(epoch) }
            }
            Event::Aborted { key, .. } => {
                ParticipantRecord::Aborted { transaction: transaction_of(key.tx) }
            }
            Event::ReadOnly { key } => {
                ParticipantRecord::ReadOnly { transaction: transaction_of(key.tx) }
            }
            Event::OnePhase { .. } => unreachable!("there are two phases here"),
            Event::Forced { .. } | Event::Heuristic { .. } => {
                unreachable!("no operator forces anything here")
            }
            Event::CoordinatorSeen { epoch, .. } => {
                ParticipantRecord::Seen { epoch: number(epoch) }
            }
            Event::Finished { .. } => unreachable!("nobody is told what is finished here"),
        }
    }

    pub fn event(self, participant: usize, peers: &Arc<[Peer]>) -> participant::Event {
        use participant::Event;
        let key = |t| PromiseKey { tx: tx_key(t), shard: shard(participant) };
        let number = |epoch| Epoch::new(u32::from(epoch));
        match self {
            ParticipantRecord::Prepared { transaction, epoch } => Event::Prepared {
                key: key(transaction),
                epoch: number(epoch),
                peers: peers.clone(),
                work: [].into(),
            },
            ParticipantRecord::Committed { transaction, epoch } => {
                Event::Committed { key: key(transaction), epoch: number(epoch) }
            }
            ParticipantRecord::Aborted { transaction } => {
                Event::Aborted { key: key(transaction), promised: false }
            }
            ParticipantRecord::ReadOnly { transaction } => {
                Event::ReadOnly { key: key(transaction) }
            }
            ParticipantRecord::Seen { epoch } => {
                let coordinator = tx_key(0).coordinator;
                Event::CoordinatorSeen { coordinator, epoch: number(epoch) }
            }
        }
    }

    /// The epoch that it carries, 0 if none.
    pub fn epoch(self) -> u8 {
        match self {
            ParticipantRecord::Prepared { epoch, .. }
            | ParticipantRecord::Committed { epoch, .. }
            | ParticipantRecord::Seen { epoch } => epoch,
            ParticipantRecord::Aborted { .. } | ParticipantRecord::ReadOnly { .. } => 0,
        }
    }
}

impl Packed for ParticipantRecord {
    fn pack(self) -> u8 {
        let (kind, transaction, epoch) = match self {
            ParticipantRecord::Prepared { transaction, epoch } => (0, transaction, epoch),
            ParticipantRecord::Committed { transaction, epoch } => (1, transaction, epoch),
            ParticipantRecord::Aborted { transaction } => (2, transaction, 0),
            ParticipantRecord::Seen { epoch } => (3, 0, epoch),
            ParticipantRecord::ReadOnly { transaction } => (4, transaction, 0),
        };
        kind << 4 | (transaction as u8) << 3 | epoch
    }

    fn unpack(code: u8) -> Self {
        let (transaction, epoch) = (usize::from(code >> 3 & 1), code & 7);
        match code >> 4 {
            0 => ParticipantRecord::Prepared { transaction, epoch },
            1 => ParticipantRecord::Committed { transaction, epoch },
            2 => ParticipantRecord::Aborted { transaction },
            4 => ParticipantRecord::ReadOnly { transaction },
            _ => ParticipantRecord::Seen { epoch },
        }
    }
}

/// A record as a byte below 255.
pub trait Packed: Copy + Ord {
    fn pack(self) -> u8;
    fn unpack(code: u8) -> Self;
}

/// Up to sixteen records in one word. What is not taken is 0, so equal logs are equal words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedLog(u128);

impl PackedLog {
    pub fn len(self) -> u8 {
        (16 - self.0.leading_zeros() / 8) as u8
    }

    pub fn push(&mut self, record: impl Packed) {
        let len = self.len();
        assert!(len < 16, "a log of this model has at most sixteen records");
        self.0 |= (u128::from(record.pack()) + 1) << (u32::from(len) * 8);
    }

    pub fn records<R: Packed>(self) -> impl Iterator<Item = R> {
        let bytes = self.0.to_le_bytes();
        (0..usize::from(self.len())).map(move |at| R::unpack(bytes[at] - 1))
    }

    pub fn first(self, records: u8) -> PackedLog {
        match records {
            16.. => self,
            _ => PackedLog(self.0 & ((1 << (u32::from(records) * 8)) - 1)),
        }
    }

    /// The records in `kept`, and behind them those from `from` on.
    pub fn rebuild<R: Packed>(
        self,
        kept: impl IntoIterator<Item = R>,
        from: u8,
    ) -> (PackedLog, u8) {
        let mut log = PackedLog::default();
        kept.into_iter().for_each(|record| log.push(record));
        let durable = log.len();
        self.records::<R>().skip(usize::from(from)).for_each(|record| log.push(record));
        (log, durable)
    }
}

/// A message to a participant, by its bit in [`Participant::inbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToParticipant {
    /// Only the first epoch sends it: what a transaction is to do is lost with its coordinator.
    Prepare,
    Commit {
        epoch: u8,
    },
    Abort {
        epoch: u8,
    },
    Committed {
        epoch: u8,
    },
    Aborted {
        epoch: u8,
    },
    Pending {
        epoch: u8,
    },
}

impl ToParticipant {
    pub fn bit(self) -> u8 {
        match self {
            Self::Prepare => 0,
            Self::Commit { epoch } => epoch,
            Self::Abort { epoch } => 3 + epoch,
            Self::Committed { epoch } => 6 + epoch,
            Self::Aborted { epoch } => 9 + epoch,
            Self::Pending { epoch } => 12 + epoch,
        }
    }

    pub fn from_bit(bit: u8) -> Self {
        let epoch = bit.wrapping_sub(1) % 3 + 1;
        match bit {
            0 => Self::Prepare,
            1..=3 => Self::Commit { epoch },
            4..=6 => Self::Abort { epoch },
            7..=9 => Self::Committed { epoch },
            10..=12 => Self::Aborted { epoch },
            _ => Self::Pending { epoch },
        }
    }

    pub fn epoch(self) -> u8 {
        match self {
            Self::Prepare => 1,
            Self::Commit { epoch }
            | Self::Abort { epoch }
            | Self::Committed { epoch }
            | Self::Aborted { epoch }
            | Self::Pending { epoch } => epoch,
        }
    }
}

/// A message of a participant, by its bit in [`Participant::outbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FromParticipant {
    VotedYes,
    VotedNo,
    VotedReadOnly,
    Ack {
        heuristic: bool,
    },
    Inquiry,
    PeerInquiry {
        peer: usize,
    },
    /// 0 committed, 1 aborted, 2 prepared, 3 unknown.
    PeerAnswer {
        peer: usize,
        verdict: u8,
    },
}

impl FromParticipant {
    /// Those that name no other participant.
    pub const NAMELESS: u32 = 0b1_1111 | 1 << Self::READ_ONLY_BIT;
    const READ_ONLY_BIT: u8 = 20;

    pub fn bit(self) -> u8 {
        match self {
            Self::VotedYes => 0,
            Self::VotedNo => 1,
            Self::VotedReadOnly => Self::READ_ONLY_BIT,
            Self::Ack { heuristic } => 2 + u8::from(heuristic),
            Self::Inquiry => 4,
            Self::PeerInquiry { peer } => 5 + peer as u8,
            Self::PeerAnswer { peer, verdict } => 8 + 4 * peer as u8 + verdict,
        }
    }

    pub fn from_bit(bit: u8) -> Self {
        match bit {
            0 => Self::VotedYes,
            1 => Self::VotedNo,
            Self::READ_ONLY_BIT => Self::VotedReadOnly,
            2 | 3 => Self::Ack { heuristic: bit == 3 },
            4 => Self::Inquiry,
            5..=7 => Self::PeerInquiry { peer: usize::from(bit) - 5 },
            _ => Self::PeerAnswer { peer: usize::from(bit - 8) / 4, verdict: (bit - 8) % 4 },
        }
    }
}

/// The coordinator: its log, and what a crash takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinator {
    pub log: PackedLog,
    pub durable: u8,
    pub epoch: u8,
    /// By transaction: who has acknowledged the commit, a bit each. Volatile.
    pub acknowledged: [u8; TRANSACTIONS_MAX],
    /// By transaction: bit 0 if the client heard "committed", bit 1 if "aborted", bit 2 if "read-only".
    pub told: [u8; TRANSACTIONS_MAX],
}

/// A participant: its log, and every message that was ever sent to it or by it. Those stay deliverable
/// for ever, in any order: loss, duplication and reordering at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Participant {
    pub log: PackedLog,
    pub durable: u8,
    pub boot: u8,
    /// By transaction: see [`ToParticipant`].
    pub inbox: [u16; TRANSACTIONS_MAX],
    /// By transaction: see [`FromParticipant`].
    pub outbox: [u32; TRANSACTIONS_MAX],
}

/// A rule that an action broke: what cannot be seen any more in the state that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// ABORT was sent although a commit decision is durable.
    AbortAfterCommit,
    /// A participant acted on an epoch lower than one that its log holds for good.
    LowerEpoch,
    /// Something left before the record that it rests on was durable.
    Gate,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub coordinator: Coordinator,
    pub participants: [Participant; PARTICIPANTS_MAX],
    pub broken: Option<Broken>,
}

impl State {
    /// The same state with its participants renamed: the one at `order[n]` becomes number `n`.
    pub fn renamed(&self, order: &[usize]) -> State {
        let mut new_name = [0, 1, 2];
        for (new, old) in order.iter().enumerate() {
            new_name[*old] = new;
        }
        let mut renamed = *self;
        let records = self.coordinator.log.records::<CoordinatorRecord>().map(|mut record| {
            let names = [Kind::Added, Kind::VotedNo, Kind::VotedYes, Kind::VotedReadOnly];
            if names.contains(&record.kind) {
                record.participant = new_name[record.participant];
            }
            record
        });
        let records: Vec<_> = records.collect();
        renamed.coordinator.log = self.coordinator.log.rebuild(records, 16).0;
        for acknowledged in &mut renamed.coordinator.acknowledged {
            let before = *acknowledged;
            *acknowledged = (0..PARTICIPANTS_MAX)
                .filter(|old| before >> old & 1 == 1)
                .fold(0, |bits, old| bits | 1 << new_name[old]);
        }
        for (new, old) in order.iter().enumerate() {
            renamed.participants[new] = self.participants[*old];
            for outbox in &mut renamed.participants[new].outbox {
                let (before, mut after) = (*outbox, *outbox & FromParticipant::NAMELESS);
                for (old, new) in new_name.iter().enumerate() {
                    after |= (before >> (5 + old) & 1) << (5 + new);
                    after |= (before >> (8 + 4 * old) & 15) << (8 + 4 * new);
                }
                *outbox = after;
            }
        }
        renamed.coordinator.sort_durable();
        renamed
    }

    /// One state for all that differ only in the names of the participants: nothing in the protocol
    /// depends on these.
    pub fn canonical(mut self, participants: usize) -> State {
        self.coordinator.sort_durable();
        let local = |p: &Participant| {
            let outbox = p.outbox.map(|bits| bits & FromParticipant::NAMELESS);
            (p.log, p.durable, p.boot, p.inbox, outbox)
        };
        let key = |n: &usize| local(&self.participants[*n]);
        let mut order: Vec<usize> = (0..participants).collect();
        order.sort_by_key(key);
        let ties = order.windows(2).any(|pair| key(&pair[0]) == key(&pair[1]));
        if !ties {
            return if order.is_sorted() { self } else { self.renamed(&order) };
        }
        let all: &[&[usize]] = match participants {
            2 => &[&[0, 1], &[1, 0]],
            3 => &[&[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
            _ => &[&[0]],
        };
        let sorted = all.iter().filter(|order| order.windows(2).all(|p| key(&p[0]) <= key(&p[1])));
        sorted.map(|order| self.renamed(order)).min().unwrap_or(self)
    }
}

impl Coordinator {
    /// The order of durable records decides nothing any more. Of what is aborted, or will be since its
    /// coordinator has restarted without a decision, neither do the votes for it.
    pub fn sort_durable(&mut self) {
        let all: Vec<CoordinatorRecord> = self.log.records().collect();
        let aborts: [bool; TRANSACTIONS_MAX] = std::array::from_fn(|t| {
            let mut of = all.iter().filter(|record| record.transaction == t);
            let decides = |record: &CoordinatorRecord| record.kind >= Kind::CommitStart;
            of.find(|record| decides(record))
                .map_or(self.epoch > 1, |decision| decision.kind >= Kind::AbortStart)
        });
        let is_kept = |record: &&CoordinatorRecord| {
            let t = record.transaction;
            // These stay: who voted so is sent no ABORT.
            let left_out = [Kind::VotedNo, Kind::VotedReadOnly];
            let refused = all.iter().any(|r| r.transaction == t && left_out.contains(&r.kind));
            let idle =
                record.kind == Kind::VotedYes || record.kind == Kind::PrepareStart && !refused;
            !(idle && aborts[t])
        };
        let (durable, rest) = all.split_at(usize::from(self.durable));
        let mut kept: Vec<CoordinatorRecord> = durable.iter().filter(is_kept).copied().collect();
        kept.sort_unstable();
        let mut log = PackedLog::default();
        kept.iter().for_each(|record| log.push(*record));
        self.durable = log.len();
        rest.iter().filter(is_kept).for_each(|record| log.push(*record));
        self.log = log;
    }
}

impl Participant {
    /// What is durable, said in as few records as say it: the outcome or else the promise of each
    /// transaction, then the highest epoch.
    pub fn sort_durable(&mut self) {
        let durable: Vec<ParticipantRecord> = self.log.first(self.durable).records().collect();
        let highest = durable.iter().map(|record| record.epoch()).max().unwrap_or(0);
        let mut kept = Vec::new();
        let mut carried = 0;
        for transaction in 0..TRANSACTIONS_MAX {
            let of = |record: &&ParticipantRecord| match **record {
                ParticipantRecord::Prepared { transaction: t, .. }
                | ParticipantRecord::Committed { transaction: t, .. }
                | ParticipantRecord::ReadOnly { transaction: t }
                | ParticipantRecord::Aborted { transaction: t } => t == transaction,
                ParticipantRecord::Seen { .. } => false,
            };
            let aborted = ParticipantRecord::Aborted { transaction };
            if durable.contains(&aborted) {
                kept.push(aborted);
                continue;
            }
            for record in durable.iter().filter(of) {
                kept.push(match *record {
                    ParticipantRecord::Committed { transaction, .. } => {
                        ParticipantRecord::Committed { transaction, epoch: 1 }
                    }
                    other => other,
                });
                carried = carried.max(record.epoch().min(1));
            }
        }
        if highest > carried {
            kept.push(ParticipantRecord::Seen { epoch: highest });
        }
        (self.log, self.durable) = self.log.rebuild(kept, self.durable);
    }

    pub fn durable_records(&self) -> impl Iterator<Item = ParticipantRecord> {
        self.log.first(self.durable).records()
    }

    /// How the transaction ended here for good: true for a commit.
    pub fn ended(&self, transaction: usize) -> Option<bool> {
        self.durable_records().find_map(|record| match record {
            ParticipantRecord::Committed { transaction: t, .. } => {
                (t == transaction).then_some(true)
            }
            ParticipantRecord::Aborted { transaction: t } => (t == transaction).then_some(false),
            _ => None,
        })
    }
}
