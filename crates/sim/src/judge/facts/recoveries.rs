//! What a start has found, and what operators are told.

use super::super::ledger::{Checked, Objection};
use super::super::reader::Told;
use super::participants::Open;
use super::{Facts, ensure};
use coordinator::{Intervened, Operated, OperationKind, RecoveryAction, RecoveryReport};
use std::collections::BTreeSet;
use twopc::Vote;

impl Facts {
    // ---- operators ----

    /// An operator is told that an order is taken: it is durable.
    ///
    /// # Errors
    /// It is not.
    pub fn operated(&self, node: u32, told: &Operated) -> Checked {
        let Operated { id, step, result } = told;
        if result.is_err() {
            return Ok(());
        }
        let ordered = self.saga(node, *id).is_some_and(|saga| {
            let index = saga.index(*step);
            saga.orders.iter().any(|(at, _)| Some(usize::from(*at)) == index)
        });
        ensure(ordered, "gate", || {
            format!(
                "n{node} tells an operator that an order about step {step} of saga {id} is taken"
            )
        })
    }

    /// An operator is told that what he has ended, or seen to, is so: it is durable.
    ///
    /// # Errors
    /// It is not.
    pub fn intervened(&self, node: u32, told: &Intervened) -> Checked {
        if told.result.is_err() {
            return Ok(());
        }
        ensure(self.has_intervened(node, told), "gate", || {
            format!("n{node} tells an operator that {told:?}: not durably so")
        })
    }

    // ---- recovery ----

    /// A coordinator's log was recovered, and this is what its node found in it.
    ///
    /// # Errors
    /// The model finds something else in the same bytes.
    pub fn coordinator_recovered(
        &mut self,
        node: u32,
        report: &RecoveryReport,
        told: &Told,
    ) -> Checked {
        let model = &self.coordinators[node as usize].model;
        for operation in &report.operations {
            if let OperationKind::Transaction { members, votes } = &operation.kind {
                let yes = votes.iter().filter(|(_, vote)| *vote != Vote::Abort).count();
                let undecided = operation.action == RecoveryAction::TxResumeAbort;
                self.seen.recovered_all_yes +=
                    u64::from(undecided && yes > 0 && yes == members.len());
            }
        }
        let found: BTreeSet<_> =
            report.heuristics.iter().map(|(id, shard, _)| (*id, shard.number())).collect();
        let listed = &self.coordinators[node as usize].listed;
        ensure(found == *listed, "I7", || {
            format!(
                "n{node} recovers the branches {found:?} as ended otherwise; its log says {listed:?}"
            )
        })?;
        model.compare_with(report, told).map_err(|what| {
            Objection::new("I7", format!("n{node} recovers its coordinator otherwise: {what}"))
        })
    }

    /// A participant's log was recovered.
    ///
    /// # Errors
    /// The promises that its records leave open are not those that are reported.
    pub fn participant_recovered(
        &mut self,
        node: u32,
        report: &RecoveryReport,
        told: &Told,
    ) -> Checked {
        let participant = &self.participants[node as usize];
        let wrong = |what: String| {
            Err(Objection::new("I7", format!("n{node} recovers its participant otherwise: {what}")))
        };
        self.seen.recovered_promise += u64::from(participant.open);
        crate::judge::forced::recovered(&participant.forced, report).or_else(wrong)?;
        let mut found = Vec::with_capacity(report.operations.len());
        for operation in &report.operations {
            let OperationKind::Promise { coordinator, shard } = &operation.kind else {
                return wrong(format!("{operation:?} is no promise"));
            };
            let key = (coordinator.number(), operation.id, shard.number());
            let ms = operation.created_ms.unwrap_or(i64::MIN);
            let as_promised = operation.state == "prepared"
                && operation.action == RecoveryAction::None
                && operation.in_doubt
                && operation.last == operation.evidence;
            if !as_promised {
                return wrong(format!("{operation:?} is no promise that waits"));
            }
            found.push(Open { key, at: operation.evidence.0, ms });
        }
        found.sort_unstable_by_key(|open| open.key);
        let twice = found.windows(2).any(|two| two[0].key == two[1].key);
        let as_logged = found.iter().all(|open| self.open(node, open.key) == Some(*open));
        if twice || !as_logged || found.len() != participant.open as usize {
            return wrong(format!("expected {:?}, found {found:?}", self.all_open(node)));
        }
        let (records, read) = (told.records, report.scanned.records);
        let more = told.recycled && told.from_snapshot && read > records;
        if records != read && !more || report.anomalies.total() > 0 {
            return wrong(format!(
                "{read} records of {records}, {} anomalies",
                report.anomalies.total()
            ));
        }
        Ok(())
    }
}
