//! What will happen, each event as it waits in the queue.

use super::World;
use crate::queue::{Entry, Queue};
use crate::storage::plan;
use base::Time;
use std::time::Duration;

/// Something that will happen.
#[derive(Clone, Debug, Default)]
pub(super) enum Event {
    #[default]
    Nothing,
    Arrives {
        from: u32,
        cargo: Cargo,
    },
    SyncDone {
        process: u32,
        lane: usize,
    },
    ShardDone {
        process: u32,
    },
    Wake {
        process: u32,
    },
    Start,
    /// A client asks, or asks again.
    Client(u64),
    /// A crash becomes due: before one of the outputs that follow.
    Crash(Strike),
    /// The next sync of one of its logs fails.
    SyncFails(plan::Entry),
    Partition {
        number: u32,
        lasts: Duration,
    },
    Unite {
        number: u32,
    },
    Rot {
        number: u32,
    },
    CutRegion {
        region: u32,
        lasts: Duration,
    },
    Leave {
        number: u32,
    },
    /// A node comes.
    Join {
        number: u32,
    },
    /// A node throws its shards away, and lies from now on.
    Lie,
    /// A node that leaves in order may have done so.
    Drain {
        process: u32,
        since: Time,
    },
    /// Slashes are disputed (0), and voted on (1); units are given (2), and spent twice (3).
    Ledger {
        stage: u32,
    },
    /// Somebody fetches a file while faults strike.
    Download {
        number: u32,
    },
    /// Faults end.
    Heal,
    /// Is everything at rest?
    Look,
}

impl Event {
    pub(super) fn kind(&self) -> u64 {
        match self {
            Event::Nothing => 0,
            Event::Arrives { .. } => 1,
            Event::SyncDone { .. } => 2,
            Event::ShardDone { .. } => 3,
            Event::Wake { .. } => 4,
            Event::Start => 5,
            Event::Client(_) => 6,
            Event::Crash(_) => 7,
            Event::Partition { .. } => 8,
            Event::Unite { .. } => 9,
            Event::Rot { .. } => 10,
            Event::CutRegion { .. } => 11,
            Event::Leave { .. } => 12,
            Event::Heal => 13,
            Event::Look => 14,
            Event::Ledger { .. } => 15,
            Event::Drain { .. } => 16,
            Event::Lie => 17,
            Event::SyncFails(_) => 18,
            Event::Download { .. } => 19,
            Event::Join { .. } => 20,
        }
    }
}

/// A node goes down before so many more outputs: for a while, or for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strike {
    pub(super) entry: plan::Entry,
    pub(super) outputs: u32,
    pub(super) down: Option<Duration>,
}

/// A message on its way: a transaction's as it is, all others as bytes.
#[derive(Clone, Debug)]
pub(super) enum Cargo {
    Transaction(Box<node::Message>),
    Bytes(Vec<u8>),
}

impl World<'_> {
    pub(super) fn schedule(&mut self, at: Time, target: u32, event: Event) {
        let (place, slot) = self.events.take(target);
        *slot = event;
        self.scheduled += 1;
        self.queue.push(Entry { at: at.max(self.now), tie: self.scheduled, target, what: place });
    }
}
