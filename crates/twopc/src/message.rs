use crate::Heuristic;
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, ShardId, StoreId};
use std::sync::Arc;

/// A transaction as participants know it. Three coordinators may draw the same ids, so the
/// coordinator is part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxKey {
    /// Who coordinates it. A coordinator's id is also the name of the node where it listens.
    pub coordinator: CoordinatorId,
    /// The id that the coordinator drew.
    pub id: OperationId,
}

impl TxKey {
    /// Where the coordinator listens.
    #[must_use]
    pub fn coordinator_node(&self) -> NodeName {
        NodeName(self.coordinator.0)
    }
}

/// One participant of a transaction, as the list in every PREPARE names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// What it votes for.
    pub shard: ShardId,
    /// Where it listens.
    pub node: NodeName,
    /// Its store when the list was fixed.
    pub store: StoreId,
    /// How often that store had been opened then.
    pub boot: BootCount,
}

/// A participant's vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vote {
    /// Ready to commit, and durably so; in one phase, it has committed.
    Commit,
    /// It never will.
    Abort,
    /// It has nothing to change and holds nothing: however the transaction ends, it need not be told.
    ReadOnly,
}

/// What a coordinator answers to an inquiry. Only the first two let a participant act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A durable commit decision is in the log.
    Committed,
    /// It is aborted and can no longer be committed.
    Aborted,
    /// Not decided, or not durably.
    Pending,
    /// A hole in the log may hide the decision.
    InDoubt,
}

/// What a peer answers to an inquiry. Only the first two let a participant act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerVerdict {
    /// The peer has committed.
    Committed,
    /// The peer has aborted, or has just durably promised never to vote yes.
    Aborted,
    /// The peer is prepared too and knows no more.
    Prepared,
    /// The peer's log holds nothing, and it is not the same store and boot as the list names; or it voted
    /// read-only, and will never know.
    Unknown,
    /// The coordinator has said that it is finished, and the peer remembers no more. This decides nothing:
    /// the coordinator is to be asked.
    Finished,
}

/// What travels between a coordinator and participants, and among participants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Coordinator to participant: get ready and vote.
    Prepare {
        /// The transaction.
        key: TxKey,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The addressee's shard.
        shard: ShardId,
        /// Every participant, the addressee included; fixed before the first PREPARE leaves.
        peers: Arc<[Peer]>,
        /// What the addressee is asked to do; opaque here.
        work: Arc<[u8]>,
        /// The addressee is the only participant, and decides by itself: its YES says that it has committed.
        one_phase: bool,
    },
    /// Coordinator to participant, in one phase: what have you decided? Whoever has decided nothing never
    /// commits from now on, and says NO.
    Resolve {
        /// The transaction.
        key: TxKey,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The addressee's shard.
        shard: ShardId,
    },
    /// Coordinator to participant: the decision is commit.
    Commit {
        /// The transaction.
        key: TxKey,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The addressee's shard.
        shard: ShardId,
        /// The store that voted, if the coordinator knows it.
        store: Option<StoreId>,
    },
    /// Coordinator to participant: the decision is abort.
    Abort {
        /// The transaction.
        key: TxKey,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The addressee's shard.
        shard: ShardId,
    },
    /// Coordinator to participant: the answer to an inquiry.
    Answer {
        /// The transaction.
        key: TxKey,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The addressee's shard.
        shard: ShardId,
        /// What the coordinator can say.
        verdict: Verdict,
    },
    /// Participant to coordinator: the vote, and who casts it.
    Vote {
        /// The transaction.
        key: TxKey,
        /// The voter's shard.
        shard: ShardId,
        /// The vote.
        vote: Vote,
        /// The voter's store.
        store: StoreId,
        /// The voter's boot count.
        boot: BootCount,
    },
    /// Participant to coordinator: the commit is durable here. Or the branch has ended otherwise than the
    /// transaction, which is said until it is [`Noted`](Message::Noted).
    Ack {
        /// The transaction.
        key: TxKey,
        /// The participant's shard.
        shard: ShardId,
        /// The participant's store.
        store: StoreId,
        /// How it ended otherwise. Where the transaction commits it counts as an acknowledgement, and is
        /// reported.
        heuristic: Option<Heuristic>,
    },
    /// Coordinator to participant: that your branch has ended otherwise is in my log, for my operator.
    Noted {
        /// The transaction.
        key: TxKey,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The addressee's shard.
        shard: ShardId,
    },
    /// Participant to coordinator: what became of it?
    Inquiry {
        /// The transaction.
        key: TxKey,
        /// The asker's shard.
        shard: ShardId,
        /// The asker's store.
        store: StoreId,
    },
    /// Participant to participant: what do you know of it?
    PeerInquiry {
        /// The transaction.
        key: TxKey,
        /// The asker's shard.
        shard: ShardId,
        /// The addressee, as the list that the asker holds names it. Seldom sent, and the largest of
        /// all: boxed, so that the others stay small.
        peer: Box<Peer>,
    },
    /// Participant to participant: this is what I know.
    PeerAnswer {
        /// The transaction.
        key: TxKey,
        /// The shard of the participant that had asked.
        shard: ShardId,
        /// What the peer can say.
        verdict: PeerVerdict,
    },
}

impl Message {
    /// The transaction that it is about.
    #[must_use]
    pub fn key(&self) -> TxKey {
        match self {
            Self::Prepare { key, .. }
            | Self::Resolve { key, .. }
            | Self::Commit { key, .. }
            | Self::Abort { key, .. }
            | Self::Answer { key, .. }
            | Self::Vote { key, .. }
            | Self::Ack { key, .. }
            | Self::Noted { key, .. }
            | Self::Inquiry { key, .. }
            | Self::PeerInquiry { key, .. }
            | Self::PeerAnswer { key, .. } => *key,
        }
    }

    /// The coordinator's epoch, in messages that a coordinator sends. Those of a lower epoch than
    /// the participant has seen are refused; peers' inquiries and answers are exempt.
    #[must_use]
    pub fn coordinator_epoch(&self) -> Option<Epoch> {
        match self {
            Self::Prepare { epoch, .. }
            | Self::Resolve { epoch, .. }
            | Self::Commit { epoch, .. }
            | Self::Abort { epoch, .. }
            | Self::Noted { epoch, .. }
            | Self::Answer { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }
}
