//! Operations of this node's own coordinator: who waits for each, and what is asked again.

use crate::StorageDisks;
use crate::node::StorageNode;
use crate::transfer::TransferId;
use base::{NodeName, RequestKey, Time};
use node::{Outcome, Refusal, Request, Work};
use std::collections::{BTreeMap, VecDeque};
use store::Digest;

/// Who waits for an operation.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// An upload: a batch of its shards, or its record.
    Upload { id: TransferId, number: u64 },
    /// The 2PC that makes an upload's record the current one.
    Publish { id: TransferId, number: u64 },
    /// An upload's attempt has come to nothing, and is not gone on with after a start either.
    GivenUp { number: u64 },
    /// A shard that repair has rebuilt.
    Rebuilt { plan: repair::PlanId, index: u16, node: NodeName, shard: Digest },
    /// A batch of shards of a file's next encoding, by its note.
    Encoded { note: Digest },
    /// A record's next version, at its keepers.
    NextKept { file: Digest },
    /// It becomes current.
    NextHead { file: Digest },
    /// What is guarded by locks is written, or its tokens are shown.
    Guarded { operation: u64, attempt: u64 },
    /// Something is released: nobody waits.
    Release,
}

/// How an operation has ended, as far as what it was for is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All of it is done.
    Done,
    /// Nothing of it is, or not any more.
    Undone,
    /// Nobody can say. Whatever it may have done has to stay.
    Unknown,
}

/// Operations that somebody here waits for, by their keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operations {
    under_way: BTreeMap<Vec<u8>, (Purpose, Work)>,
    /// Those that the coordinator had no room for, and when they are asked for again: what they come after
    /// is done, so only the same key may be asked, and it is not given up.
    later: VecDeque<(Time, RequestKey)>,
}

impl Operations {
    pub(crate) fn due(&self) -> Option<Time> {
        self.later.front().map(|(at, _)| *at)
    }

    /// Whether the coordinator has still to be asked for something.
    pub(crate) fn waits(&self) -> bool {
        !self.later.is_empty()
    }
}

impl StorageNode {
    /// Has something done for a purpose. Under the same key it is done once.
    pub(crate) fn operate(
        &mut self,
        now: Time,
        key: RequestKey,
        purpose: Purpose,
        work: Work,
        disks: &dyn StorageDisks,
    ) {
        self.operations.under_way.insert(key.as_bytes().to_vec(), (purpose, work.clone()));
        self.feed(now, node::Input::Submit(Request { key, work }), disks);
    }

    /// How an operation has ended; false if it is none of this node's own.
    pub(crate) fn replied(&mut self, now: Time, key: &RequestKey, outcome: &Outcome) -> bool {
        let Some((purpose, work)) = self.operations.under_way.remove(key.as_bytes()) else {
            return false;
        };
        let ended = match outcome {
            Outcome::Completed | Outcome::Committed | Outcome::ReadOnly => Ended::Done,
            Outcome::Compensated | Outcome::SagaAborted | Outcome::Aborted => Ended::Undone,
            Outcome::Refused(Refusal::TooManyActive { .. } | Refusal::LogBusy) => {
                self.operations.under_way.insert(key.as_bytes().to_vec(), (purpose, work));
                let at = now + self.config.patience / 5;
                self.operations.later.push_back((at, key.clone()));
                return true;
            }
            // Another operation has this key, and may have done anything.
            Outcome::Refused(Refusal::KeyTaken) | Outcome::InDoubt => Ended::Unknown,
            Outcome::Refused(_) => Ended::Undone,
        };
        match purpose {
            Purpose::Upload { id, number } => self.batch_ended(now, id, number, ended),
            Purpose::Publish { id, number } => self.published(now, id, number, ended),
            Purpose::GivenUp { number } => self.given_up(number, ended),
            Purpose::Rebuilt { plan, index, node, shard } => {
                self.rebuilt_kept(now, plan, index, (node, shard), ended);
            }
            Purpose::Encoded { note } => self.encoded_kept(now, note, ended),
            Purpose::NextKept { file } => self.next_kept(now, file, ended),
            Purpose::NextHead { file } => self.next_headed(now, file, ended),
            Purpose::Guarded { operation, attempt } => {
                self.guarded_ended(now, operation, attempt, ended);
            }
            Purpose::Release => {}
        }
        true
    }

    /// Asks once more for what there was no room for.
    pub(crate) fn operations_wake(&mut self, now: Time, disks: &dyn StorageDisks) {
        while self.operations.due().is_some_and(|at| at <= now)
            && let Some((_, key)) = self.operations.later.pop_front()
        {
            let work = self.operations.under_way.get(key.as_bytes()).map(|(_, work)| work.clone());
            if let Some(work) = work {
                self.feed(now, node::Input::Submit(Request { key, work }), disks);
            }
        }
    }
}
