//! Why an operation has its class, in a sentence: the row of the classification's table.

use crate::report::RecoveryAction;
use crate::report::{OperationKind, OperationReport};
use saga::End;
use twopc::Vote;
use twopc::coordinator::Decision;

impl OperationReport {
    /// Why the operation has its class, as a sentence without an end. The record that proves it is
    /// [`evidence`](Self::evidence).
    #[must_use]
    pub fn explanation(&self) -> &'static str {
        match &self.kind {
            OperationKind::Promise { .. } => {
                "a participant promised to commit if told so, and this log does not hold the outcome: \
                 only its coordinator or a peer can tell"
            }
            _ if self.in_doubt && self.state == "unknown" => {
                "lost records hold its beginning, and what is left of it proves no end: nothing is \
                 done about it"
            }
            OperationKind::Saga { .. } if self.in_doubt => {
                "it was unfinished where records are lost, and one of them may have turned or ended \
                 it: nothing is done about it"
            }
            OperationKind::Transaction { .. } if self.in_doubt => {
                "records are lost before any decision that is left, and one of them may be a commit: \
                 nothing is done about it"
            }
            OperationKind::Saga { run, undo, parked, .. } => match self.action {
                RecoveryAction::SagaResumeExecute if run.is_empty() && self.parent.is_some() => {
                    "every step has succeeded: it ends when the saga that it is a step of has ended, \
                     or cannot turn it any more"
                }
                RecoveryAction::SagaResumeExecute if run.is_empty() => {
                    "every step has succeeded and saga_completed is missing: only the end is left to \
                     write"
                }
                RecoveryAction::SagaResumeExecute => {
                    "it was started, and nothing has turned it back: steps without an outcome are \
                     called again"
                }
                RecoveryAction::SagaResumeCompensate if undo.is_empty() => {
                    "everything is undone and saga_compensated is missing: only the end is left to \
                     write"
                }
                RecoveryAction::SagaResumeCompensate if !parked.is_empty() => {
                    "this record turned it back, and what is not undone waits for an operator, or for \
                     a branch that does"
                }
                RecoveryAction::SagaResumeCompensate => {
                    "this record turned it back, and not everything that may have had an effect is \
                     undone"
                }
                _ => {
                    "saga_execute_start is missing, which is durable before the first step is called: \
                     nothing ran"
                }
            },
            OperationKind::Transaction { members, votes } => match self.state {
                "delegated" => {
                    "its only participant decides it by itself, and its answer is not in this log: it \
                     is asked, and whatever it has decided stands"
                }
                "committing" if self.parent.is_some() => {
                    "the decision to commit is durable: when everybody has acknowledged it, the saga \
                     whose step it is hears that it is done"
                }
                "aborting" | "rolling_back" if self.parent.is_some() => {
                    "it was decided to abort, and the end is missing: the saga whose step it is \
                     begins another one, unless it knows already"
                }
                "committing" => {
                    "the decision to commit is durable and not everybody is known to have heard it: it \
                     is sent until all have acknowledged it"
                }
                "aborting" | "rolling_back" => {
                    "it was decided to abort, and the end is missing: the participants are told again"
                }
                "preparing" if all_yes(members.len(), votes.iter().map(|(_, vote)| *vote)) => {
                    "every vote is yes and no decision is durable: an abort may have been told and \
                     its record lost, so it is aborted"
                }
                _ => "no decision is durable, so nobody was told to commit: it is aborted",
            },
        }
    }
}

fn all_yes(members: usize, votes: impl ExactSizeIterator<Item = Vote>) -> bool {
    votes.len() == members && votes.into_iter().all(|vote| vote != Vote::Abort)
}

/// Why there is nothing to do about a saga that ended so.
#[must_use]
pub fn explain_end(end: End) -> &'static str {
    match end {
        End::Completed => "every step has succeeded",
        End::Compensated => "everything that had an effect is undone",
        End::Aborted => "it was given up, and nothing had an effect that would have to be undone",
    }
}

/// Why there is nothing to do about a transaction that ended so.
#[must_use]
pub fn explain_decision(decision: Decision) -> &'static str {
    match decision {
        Decision::Commit => "it was decided to commit, and everybody has acknowledged it",
        Decision::Abort => "it was aborted: whoever asks for it is told so",
        Decision::ReadOnly => "everybody voted read-only: there was nothing to decide",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{OperationId, ParentStep, Sequence};
    use std::collections::BTreeSet;

    fn saga(state: &'static str, action: RecoveryAction, steps: &[u32]) -> OperationReport {
        let (run, undo) = match action {
            RecoveryAction::SagaResumeExecute => (steps.to_vec(), vec![]),
            _ => (vec![], steps.to_vec()),
        };
        let parked = vec![];
        report(state, action, OperationKind::Saga { steps: 2, next_step: None, run, undo, parked })
    }

    fn transaction(state: &'static str, votes: &[Vote]) -> OperationReport {
        let member = |n| {
            let (shard, node) = (base::ShardId::numbered(n), base::NodeName::numbered(n));
            twopc::coordinator::Member::new(shard, node)
        };
        let members = vec![member(1), member(2)];
        let votes = members.iter().map(|member| member.shard).zip(votes.iter().copied()).collect();
        let kind = OperationKind::Transaction { members, votes };
        report(state, RecoveryAction::TxResumeAbort, kind)
    }

    fn report(state: &'static str, action: RecoveryAction, kind: OperationKind) -> OperationReport {
        let (evidence, last) = (Sequence(1), Sequence(1));
        let (id, in_doubt, created_ms, parent) = (OperationId(1), false, None, None);
        OperationReport { id, kind, state, action, in_doubt, evidence, last, created_ms, parent }
    }

    #[test]
    fn each_end_has_its_sentence() {
        let ends = [End::Completed, End::Compensated, End::Aborted].map(explain_end);
        let decisions = [Decision::Commit, Decision::Abort, Decision::ReadOnly];
        let all = ends.into_iter().chain(decisions.map(explain_decision));
        let all: BTreeSet<_> = all.collect();
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|sentence| sentence.len() > 15), "{all:?}");
    }

    #[test]
    fn each_row_of_the_table_has_its_sentence() {
        use RecoveryAction::{None, SagaResumeCompensate, SagaResumeExecute};
        let (yes, no) = (Vote::Commit, Vote::Abort);
        let parent = Some(ParentStep { saga: OperationId(9), step: 2, undo: false });
        let rows = [
            OperationReport { parent, ..saga("executing", SagaResumeExecute, &[]) },
            OperationReport { parent, ..transaction("committing", &[yes, yes]) },
            OperationReport { parent, ..transaction("aborting", &[yes, no]) },
            saga("created", None, &[]),
            saga("executing", SagaResumeExecute, &[1]),
            saga("executing", SagaResumeExecute, &[]),
            saga("compensating", SagaResumeCompensate, &[1]),
            saga("compensating", SagaResumeCompensate, &[]),
            transaction("preparing", &[yes]),
            transaction("preparing", &[yes, yes]),
            transaction("aborting", &[yes, no]),
            transaction("committing", &[yes, yes]),
            transaction("delegated", &[]),
            OperationReport { in_doubt: true, ..saga("executing", SagaResumeExecute, &[1]) },
            OperationReport { in_doubt: true, ..saga("unknown", None, &[]) },
            OperationReport { in_doubt: true, ..transaction("preparing", &[yes, yes]) },
        ];
        let sentences: BTreeSet<_> = rows.iter().map(OperationReport::explanation).collect();
        assert_eq!(sentences.len(), rows.len(), "{sentences:?}");
        // The same row has the same one.
        for same in [transaction("created", &[]), transaction("preparing", &[yes, no])] {
            assert_eq!(same.explanation(), rows[8].explanation());
        }
        let rolling_back = transaction("rolling_back", &[yes]);
        assert_eq!(rolling_back.explanation(), rows[10].explanation());
    }
}
