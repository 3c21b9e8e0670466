//! One node of the storage network: shards, files' records, scrubbing, proofs, repair, locks and the
//! ledger, around the transactions that make them safe; behind one inbox and one outbox.
//!
//! A [`StorageNode`] is a value. It is told `(now, input)` and says what it wants done; it reads no clock,
//! no socket and no global randomness, and looks at disks only while it recovers. What it is made of are
//! the values of the crates below it, each with one job; here is who tells whom.
//!
//! # A file
//!
//! | step | how |
//! |---|---|
//! | its owner encodes it | `store::encode`: neither key nor content reaches a node |
//! | a node is given manifest and shards ([`Request::Put`]) | it looks the file up, by asking: who answers closest to its name become its *keepers* |
//! | shards are placed and kept | a **saga**, a step per shard: its node gets the bytes, makes them durable, and counts in its own log that they are needed; undone, they are not |
//! | the record ([`FileRecord`]: manifest and holders) is kept | as bytes like any shard, pinned, by steps of the same saga |
//! | it becomes the current version | a **2PC** of the keepers, each of which votes no if its current version is another, or if it lacks the bytes |
//! | the client is told | so what it has been told of has all of its shards, durably, and is found |
//! | later | the first keeper that is there asks holders for proofs; what is bad, or on nodes that are gone, is rebuilt from any k, kept by a saga, read again, and a next version is made current by 2PC; then what is not needed any more is released |
//! | when it lies in the wrong place, or another scheme is advised | the same way: a saga, a look, a next version by 2PC, and then the old shards are released |
//!
//! A download asks, of each chunk, the k holders that the router puts first by what came of asking them before, and
//! another one for each that is silent, slow or wrong. Bytes are always asked for, over [connections](placement::Connections): four
//! to a peer, each with one request and its answer at a time; the others wait in a line with an end.
//!
//! # What locks guard
//!
//! A client has values changed under locks of a table ([`Request::Lock`]): they are taken, their fencing tokens are shown
//! to the nodes that keep the values, which take no lower ones from then on; the values are read, written and the
//! locks given back. What is written and the token under which it is are one record of the node's log.
//!
//! # What it guarantees
//!
//! - Of two that think they have a lock only the one with the higher token writes, whatever stood still or crashed.
//! - What a node has moved is what both ends of each transfer say, if they do not agree to lie.
//! - A shard is removed only once the log of its node says, durably, that no record needs it.
//! - Two repairs of one file at the same time do not lose shards: one of them is aborted.
//! - A node that leaves in order goes when no record needs what it holds.
//! - Whatever is asked twice has its effect once: by token, by key, by number or by digest.
//!
//! # What it does not
//!
//! - What was reconciled of bandwidth is known to the authority alone, which makes reputations of it for the network's
//!   health; other nodes think of each other by proofs and by who was there.
//! - A client whose node crashes while it writes under locks, and that asks again, may have it done twice.
//! - A node that runs an upload and never comes back leaves shards that no record names. They take room;
//!   nothing is lost. One that comes back finishes or undoes it, with or without its client.
//! - A coordinator that is away for ten times as long as a silent node may live counts as gone for good, and what was
//!   promised to it as committed. If it comes back after that, from the other side of a partition, it may have decided
//!   otherwise. Of a record's next version two different ones may have the same number then, as they may if a keeper alone
//!   has heard that most are in doubt, keeps the version, and is cut off before the coordinator comes back: until they have
//!   heard of each other, and one of them is given up (`keeper/versions.rs`). An upload that its node was about to run again
//!   it finds done; but if it has aborted it while it was cut off, or another encoding, then it releases what it named: of an
//!   upload that no client was told of, and while it does, a client that asks for the same file may be told that it is stored.
//! - Two uploads of one file at the same time may find other nodes closest to its name, since some do not answer: then both
//!   are told that it is stored, each with keepers of its own, and both versions go on, whole, until one of them names a
//!   keeper of the other. Either is found.
//! - Messages of transactions have no bytes here: see [`Message`].

mod fetches;
mod holder;
mod intent;
mod keeper;
mod leaving;
mod ledger;
mod locker;
mod message;
mod node;
mod operation;
mod orphans;
mod record;
mod routing;
mod sweep;
mod traffic;
mod transfer;
pub mod work;

pub use fetches::FetchStats;
pub use intent::is_note;
pub use ledger::LEDGER_EVENT;
pub use message::{InDoubt, LockAnswer, Message, Observed, RECORD_BYTES_MAX, SHARD_BYTES_MAX};
pub use node::{
    Answer, Config, EncodingConfig, Input, Output, Request, ShardDone, Stats, StorageDisks,
    StorageNode,
};
pub use record::FileRecord;
pub use routing::Regret;
pub use sweep::{Claim, Doubt};
pub use traffic::Transfer;
