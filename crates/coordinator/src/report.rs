use base::{CoordinatorId, Epoch, OperationId, ParentStep, Sequence, ShardId};
use saga::End;
use std::collections::BTreeMap;
use std::fmt;
use twopc::Vote;
use twopc::coordinator::{Decision, Member};
use twopc::heuristic::{Forced, Reported};
use twopc::participant::PromiseKey;
use wal_core::Scanned;

/// The specification's five recovery actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecoveryAction {
    /// Go on with the steps that have not succeeded.
    SagaResumeExecute,
    /// Go on undoing.
    SagaResumeCompensate,
    /// Send COMMIT to every participant, until each has acknowledged it.
    TxResumeCommit,
    /// Abort, and tell the participants.
    TxResumeAbort,
    /// Nothing to do.
    None,
}

impl RecoveryAction {
    /// Every action.
    pub const ALL: [RecoveryAction; 5] = [
        Self::SagaResumeExecute,
        Self::SagaResumeCompensate,
        Self::TxResumeCommit,
        Self::TxResumeAbort,
        Self::None,
    ];

    /// Its name in the specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SagaResumeExecute => "saga_resume_execute",
            Self::SagaResumeCompensate => "saga_resume_compensate",
            Self::TxResumeCommit => "tx_resume_commit",
            Self::TxResumeAbort => "tx_resume_abort",
            Self::None => "none",
        }
    }
}

impl From<saga::RecoveryAction> for RecoveryAction {
    fn from(action: saga::RecoveryAction) -> RecoveryAction {
        match action {
            saga::RecoveryAction::SagaResumeExecute => Self::SagaResumeExecute,
            saga::RecoveryAction::SagaResumeCompensate => Self::SagaResumeCompensate,
            saga::RecoveryAction::None => Self::None,
        }
    }
}

/// An operation that the log leaves unfinished, or in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationReport {
    /// Its id.
    pub id: OperationId,
    /// What it is.
    pub kind: OperationKind,
    /// Its state's name: `executing`, `compensating`, `committing`, `preparing`, …
    pub state: &'static str,
    /// What recovery does with it.
    pub action: RecoveryAction,
    /// A hole in the log may hide what would change its class, or a promise waits for its outcome:
    /// it is reported and not acted upon on its own.
    pub in_doubt: bool,
    /// The record that proves the class.
    pub evidence: Sequence,
    /// Its last record.
    pub last: Sequence,
    /// The timestamp of its creation, Unix milliseconds; `None` where the log does not hold it.
    pub created_ms: Option<i64>,
    /// The step of a saga in this log that it does or undoes; `None` if it is a client's.
    pub parent: Option<ParentStep>,
}

/// What an unfinished operation is, and what its kind has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// A saga.
    Saga {
        /// How many steps it has.
        steps: u32,
        /// The step that goes on first.
        next_step: Option<u32>,
        /// The steps that may be running, ascending.
        run: Vec<u32>,
        /// The steps to be undone, in the order in which that happens.
        undo: Vec<u32>,
        /// Those of them that wait for an operator.
        parked: Vec<u32>,
    },
    /// A transaction.
    Transaction {
        /// Its participants.
        members: Vec<Member>,
        /// The votes that are in.
        votes: Vec<(ShardId, Vote)>,
    },
    /// A promise of this log's participant, without an outcome.
    Promise {
        /// Who coordinates it.
        coordinator: CoordinatorId,
        /// For which shard.
        shard: ShardId,
    },
}

/// An event in the log that does not follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its record.
    pub sequence: Sequence,
    /// What is wrong with it.
    pub what: String,
}

/// A list that holds at most [`Capped::ENTRIES_MAX`] entries and counts the rest, so that no log
/// makes recovery run out of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capped<T> {
    /// The first entries.
    pub entries: Vec<T>,
    /// How many more there were.
    pub left_out: u64,
}

impl<T> Default for Capped<T> {
    fn default() -> Self {
        Capped { entries: Vec::new(), left_out: 0 }
    }
}

impl<T> Capped<T> {
    /// The most that is kept.
    pub const ENTRIES_MAX: usize = 100_000;

    /// Adds one, or counts it.
    pub fn push(&mut self, entry: T) {
        if self.entries.len() < Self::ENTRIES_MAX {
            self.entries.push(entry);
        } else {
            self.left_out += 1;
        }
    }

    /// How many there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.entries.len() as u64 + self.left_out
    }
}

/// What a log says, before anything acts on it.
#[derive(Clone, Debug)]
pub struct RecoveryReport {
    /// What the scan of the bytes found: counts, cut, corruption.
    pub scanned: Scanned,
    /// What is unfinished or in doubt: sagas, then transactions, then promises, each by id.
    pub operations: Vec<OperationReport>,
    /// Sagas that ended.
    pub completed_sagas: Capped<(OperationId, End)>,
    /// Transactions that ended.
    pub completed_transactions: Capped<(OperationId, Decision)>,
    /// Events that do not follow.
    pub anomalies: Capped<Anomaly>,
    /// Branches that ended otherwise than their transactions, by the coordinator's log: those that no operator
    /// has forgotten.
    pub heuristics: Vec<(OperationId, ShardId, Reported)>,
    /// Branches whose outcome an operator has forced, by the participant's log.
    pub forced: Vec<(PromiseKey, Forced)>,
    /// Ids that the log does not know may belong to operations that a hole hides.
    pub unknown_ids_in_doubt: bool,
    /// If so: none of them is of a later epoch than this.
    pub unknown_ids_up_to: Option<Epoch>,
}

impl RecoveryReport {
    /// How many operations each action is for.
    #[must_use]
    pub fn actions(&self) -> BTreeMap<RecoveryAction, u64> {
        let mut counts = BTreeMap::new();
        for operation in &self.operations {
            *counts.entry(operation.action).or_default() += 1;
        }
        counts
    }
}

/// One line for people.
impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.scanned.stats.records)?;
        for (action, count) in self.actions() {
            write!(f, ", {count} x {}", action.name())?;
        }
        let doubt = self.operations.iter().filter(|operation| operation.in_doubt).count();
        if doubt > 0 {
            write!(f, ", {doubt} in doubt")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let mut list = Capped::default();
        let most = Capped::<u32>::ENTRIES_MAX as u32;
        for entry in 0..most + 3 {
            assert_eq!(
                (list.total(), list.left_out),
                (u64::from(entry), u64::from(entry.saturating_sub(most)))
            );
            list.push(entry);
        }
        assert!(list.entries.iter().copied().eq(0..most), "the first ones are listed");
        assert_eq!((list.total(), list.left_out), (u64::from(most) + 3, 3));
    }
}
