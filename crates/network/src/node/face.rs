//! What a node is told, and what it wants of its shell.

use crate::message::Message;
use base::{NodeName, RequestKey, ShardId};
use incentives::Ask;
use node::{Disks, Outcome};
use store::{Assembly, Digest, EncodedShard, Manifest, Op};
use wal_core::{DiskError, DiskOp};

/// A client's request.
#[derive(Clone, Debug)]
pub enum Request {
    /// Store a file. Asked again, with the same manifest, it is the same upload.
    Put {
        /// The client's number.
        number: u64,
        /// The file's name, hashed.
        file: Digest,
        /// The manifest that its owner made.
        manifest: Manifest,
        /// All of its shards.
        shards: Vec<EncodedShard>,
    },
    /// Fetch a file.
    Get {
        /// The client's number.
        number: u64,
        /// The file's name, hashed.
        file: Digest,
    },
    /// Take locks at a table, make what each guards one more, all at once, and give them back. Asked again after
    /// the node has crashed it may be done twice.
    Lock {
        /// The client's number.
        number: u64,
        /// Whose table: the same for whoever takes one of these locks.
        table: NodeName,
        /// Which, and on which node is what each guards: at most 64.
        shards: Vec<(ShardId, NodeName)>,
    },
    /// Something is wanted of the ledger, by this node. Asked again under its number it is done once, also
    /// after a crash, for as long as the ledger remembers ([`incentives::Config::request_kept`]).
    Ledger {
        /// The client's number: another one for each thing that it wants.
        number: u64,
        /// What.
        ask: Ask,
    },
    /// Leave in order: take no new work, finish what is under way, and hold nothing that a record needs.
    /// Asked again after a restart, it goes on.
    Leave {
        /// The client's number.
        number: u64,
    },
    /// A saga or a transaction of a client's own.
    Submit(node::Request),
}

/// What a client hears.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The file is stored: all of its shards are durable, and it is found.
    Stored {
        /// The current version of its record.
        version: u64,
    },
    /// Another file has this name.
    NameTaken,
    /// Enough shards of the file to decode it.
    Got(Box<Assembly>),
    /// Nobody has a record of such a file.
    NotFound,
    /// The locks were had, what they guard was written, durably, and they were given back.
    Locked {
        /// How many.
        locks: u32,
    },
    /// The ledger has done it durably, or refuses it.
    Ledger {
        /// Which of the two.
        done: bool,
    },
    /// How a saga or a transaction of its own has ended.
    Ended {
        /// Its key.
        key: RequestKey,
        /// How.
        outcome: Outcome,
    },
    /// This node is about to leave: ask another one. What was begun here before goes on, and is told.
    Leaving,
    /// The node has left: its process may be ended, and its disks may go.
    Left,
    /// It was tried often enough. It may be asked again.
    Failed,
}

/// What the shell has done for the store.
#[derive(Clone, Debug)]
pub enum ShardDone {
    /// An [`Op::Write`] is durable, or was not kept.
    Written {
        /// Of which shard.
        digest: Digest,
        /// Whether it is.
        durable: bool,
    },
    /// What an [`Op::Read`] gave.
    Loaded {
        /// Of which shard.
        digest: Digest,
        /// The bytes, if there are any.
        bytes: Option<Vec<u8>>,
    },
    /// An [`Op::Pin`] is durable.
    Pinned {
        /// Of which shard.
        digest: Digest,
    },
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message arrived.
    Message {
        /// From whom it really came.
        from: NodeName,
        /// What.
        message: Message,
    },
    /// The last flush of one of the transactions' logs is done.
    Flushed {
        /// Which log.
        slot: node::LogSlot,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// The last flush of the ledger's log is done.
    LedgerFlushed(Result<(), DiskError>),
    /// The store's disk has done something.
    Shards(ShardDone),
    /// The time that [`StorageNode::next_wake`](super::StorageNode::next_wake) named has come.
    Wake,
    /// A client wants something.
    Request(Request),
}

/// What a node wants of its shell, which performs it strictly in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// For the transactions' logs, and what they tell. Messages and replies are not among these.
    Transactions(node::Output),
    /// For the ledger's log: perform these in order, and report the end.
    Ledger(Vec<DiskOp>),
    /// The ledger's log cannot be opened or written any more. Nothing that was asked of the ledger and not answered
    /// may count as done: end the process, and start the node again.
    LedgerDied {
        /// What its disk said.
        reason: String,
    },
    /// For the disk of shards.
    Shards(Op),
    /// Send it. It may be lost, doubled or late.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        message: Message,
    },
    /// Tell the client with this number.
    Tell {
        /// The client's number; 0 with [`Answer::Ended`].
        number: u64,
        /// What.
        answer: Answer,
    },
}

/// The read side of a node's disks.
pub trait StorageDisks: Disks {
    /// Where the ledger's log is.
    fn ledger(&self) -> &dyn wal_core::Directory;
}

/// What a node has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Shards that were rebuilt, placed, and read again by their new holder.
    pub repaired: u64,
    /// Repairs of a stripe that were given up.
    pub gave_up: u64,
    /// Of these, for want of good shards …
    pub without_sources: u64,
    /// … of a node that takes, keeps and verifies one …
    pub without_place: u64,
    /// … and because the manifest does not fit its shards.
    pub inconsistent: u64,
    /// Attempts at a repair whose sources rebuilt something else than the manifest says.
    pub mismatched: u64,
    /// Bytes that repairs have moved.
    pub repair_bytes: u64,
    /// Bytes that repairs without any failure would have moved.
    pub repair_bytes_min: u64,
    /// Shards that lay in the wrong place, and were moved and read again there …
    pub moved: u64,
    /// … the bytes that this took, which are not among those of repairs …
    pub moved_bytes: u64,
    /// … and moves that came to nothing.
    pub not_moved: u64,
    /// Files that were given another encoding …
    pub reencoded: u64,
    /// … the bytes that this took, which are counted nowhere else …
    pub reencoded_bytes: u64,
    /// … and how often that came to nothing.
    pub not_reencoded: u64,
    /// Versions of records that were made current here.
    pub versions: u64,
    /// Versions that were not, since another one came first or a keeper was missing.
    pub superseded: u64,
    /// Promises to coordinators that are gone, and that were kept.
    pub orphans: u64,
    /// Of these, since most keepers were known to be in doubt, or another participant had kept its own.
    pub orphans_shared: u64,
    /// Participants that its decided transactions do not wait for any more, since they are gone for good.
    pub given_up: u64,
    /// Shards and records that nobody needed, and that were let go.
    pub let_go: u64,
    /// Messages that were no messages.
    pub malformed: u64,
    /// Values that were written under locks.
    pub guarded: u64,
    /// Writes that were refused here, since a higher token was seen.
    pub fenced: u64,
    /// Proofs that were refused: wrong, or missing.
    pub failed_proofs: u64,
    /// Of the authority: bytes of transfers that count, by what both ends say …
    pub agreed_bytes: u64,
    /// … transfers whose ends do not say the same …
    pub disputed: u64,
    /// … and those of which one end has said nothing.
    pub unconfirmed: u64,
}
