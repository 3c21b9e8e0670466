//! A node's machine: its disks and shards, which stay, and its process, which may go.

use super::agenda::Strike;
use crate::disk::{Reach, SimDisk};
use crate::storage::disk::ShardDisk;
use crate::storage::plan;
use base::Time;
use network::{StorageDisks, StorageNode};
use node::{Disks, LogSlot};
use std::collections::{BTreeMap, BTreeSet};
use store::Digest;
use wal_core::{Directory, DiskOp, SegmentId};

#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    pub(super) ops: std::collections::VecDeque<DiskOp>,
    pub(super) busy: bool,
    pub(super) syncing: Option<(Option<SegmentId>, Reach)>,
}

pub(super) const LANES: usize = 3;
pub(super) const LEDGER: usize = 2;

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) node: Box<StorageNode>,
    /// A disk fault has struck it: it has a reason to stop.
    pub(super) stricken: bool,
    pub(super) id: u32,
    pub(super) armed: Time,
    pub(super) lanes: [Lane; LANES],
}

#[derive(Clone, Debug, Default)]
pub(super) struct NodeDisks(pub(super) [SimDisk; LANES]);

impl Disks for NodeDisks {
    fn directory(&self, slot: LogSlot) -> &dyn Directory {
        &self.0[slot as usize]
    }
}

impl StorageDisks for NodeDisks {
    fn ledger(&self) -> &dyn Directory {
        &self.0[LEDGER]
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) process: Option<Process>,
    pub(super) disks: NodeDisks,
    pub(super) shards: ShardDisk,
    pub(super) boots: u32,
    pub(super) syncs: u64,
    pub(super) shard_ops: u64,
    pub(super) failures: u64,
    pub(super) strike: Option<Strike>,
    /// Its next sync fails.
    pub(super) sync_fails: Option<plan::Entry>,
    pub(super) gone: bool,
    pub(super) slow: bool,
    pub(super) liar: bool,
    /// It says that it has moved more than it has.
    pub(super) boasts: bool,
    /// Bytes that others have had of it, and that it has had of others, in answer to what was asked in time: what
    /// may be counted of it.
    pub(super) moved: (u64, u64),
    /// It stands still until then: whatever happens to its process happens later.
    pub(super) stalled: Time,
    /// It keeps nothing that it is given.
    pub(super) full: bool,
    /// It was asked to leave.
    pub(super) drains: bool,
    /// It said that it has left.
    pub(super) drained: bool,
    /// Proofs that a liar has made while it was honest, by shard, if they do not show all of it; and for
    /// which shard it was asked last under which nonce.
    pub(super) proofs: BTreeMap<Digest, store::merkle::Proof>,
    pub(super) asked: BTreeMap<u128, Digest>,
    /// What it has been given to write, ever.
    pub(super) laid: BTreeSet<Digest>,
    /// What it has removed itself and not written again.
    pub(super) removed: BTreeSet<Digest>,
    /// It has started, and what it recovers has not been compared with that.
    pub(super) unchecked: bool,
}
