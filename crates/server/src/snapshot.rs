//! What is measured, as plain values: whoever is measured knows nothing of Prometheus.

use base::Latency;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a node, or a world of nodes, says of itself at one moment. Parts that it does not have are
/// `None`, and no metric of theirs is shown.
///
/// Everything named *so far* only grows while a process lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Whether requests are taken, and if not, why: a log is recovered, say, or has failed.
    pub health: Health,
    /// Sagas and transactions.
    pub operations: Option<Operations>,
    /// Each log by its name, such as `coordinator`.
    pub logs: BTreeMap<&'static str, Log>,
    /// The nodes around, and the messages between them.
    pub network: Option<Network>,
    /// Shards, and their repair.
    pub storage: Option<Storage>,
    /// What is at stake.
    pub ledger: Option<Ledger>,
}

/// Whether requests are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// They are.
    #[default]
    Ready,
    /// They are not, for this reason.
    NotReady(String),
}

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A saga.
    Saga,
    /// A transaction over several shards.
    Transaction,
}

/// Sagas and transactions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operations {
    /// How many are in which state, such as `executing`.
    pub active: BTreeMap<(Kind, &'static str), u64>,
    /// How many ended so far in which way, such as `committed`.
    pub ended: BTreeMap<(Kind, &'static str), u64>,
    /// How many cannot go on by themselves, since their outcome is elsewhere or lost.
    pub in_doubt: u64,
    /// For how long the oldest of them has been in doubt.
    pub in_doubt_oldest: Option<Duration>,
    /// How many branches of sagas wait for an operator.
    pub parked: u64,
    /// How many shards are locked.
    pub locks_held: u64,
}

/// One log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Records appended so far.
    pub records: u64,
    /// Bytes written so far, guards included.
    pub bytes: u64,
    /// Syncs so far.
    pub syncs: u64,
    /// The number of the last record.
    pub last_sequence: u64,
    /// The number of the last durable record.
    pub durable_sequence: u64,
    /// Records that damage had taken when the log was opened.
    pub corrupted_records: u64,
    /// Bytes of sealed segments that were read again so far.
    pub scrubbed_bytes: u64,
    /// Places that were found damaged then.
    pub damaged_places: u64,
    /// How long flushes took so far.
    pub flushes: Latency,
}

/// The nodes around, and the messages between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// How many nodes are in which state, such as `up`.
    pub nodes: BTreeMap<&'static str, u64>,
    /// What became of how many messages so far, such as `delivered`.
    pub messages: BTreeMap<&'static str, u64>,
    /// How many coordinators and participants crashed so far.
    pub crashes: BTreeMap<&'static str, u64>,
    /// Simulated time, in a simulated world.
    pub simulated: Option<Duration>,
}

/// Shards, and their repair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Storage {
    /// Bytes that shards take.
    pub used_bytes: u64,
    /// Bytes that there are room for.
    pub capacity_bytes: u64,
    /// How many shards are in which state, such as `healthy`.
    pub shards: BTreeMap<&'static str, u64>,
    /// How many repairs ended so far in which way, such as `verified`.
    pub repairs: BTreeMap<&'static str, u64>,
}

/// What is at stake, in the ledger's units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The balances of kinds of account, such as `staked`: their sum is the supply.
    pub units: BTreeMap<&'static str, u64>,
    /// Escrows that are not decided.
    pub escrows_open: u64,
}
