//! Replay: a log's records, in order, through the same `apply` that a running engine uses.

use crate::codec::{self, CodecError, Fact, StepOutcome};
use crate::report::{Anomaly, Capped, OperationKind, OperationReport};
use crate::report::{RecoveryAction, RecoveryReport};
use base::{BootCount, Epoch, NodeName, OperationId, RequestKey, Sequence, StoreId};
use saga::{End, Phase, Saga};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use twopc::coordinator::{Decision, Event as TransactionEvent};
use twopc::participant::{Change, Event as ParticipantEvent, Prepared};
use twopc::{IllegalTransition, Participant, Transaction};
use wal_core::{Corruption, EventType, Place, Record, Scanned, Visitor};

#[derive(Debug)]
struct Replayed<M> {
    machine: M,
    created_ms: Option<i64>,
    /// A hole may hide what would change its class.
    in_doubt: bool,
}

/// An operation that has ended, as far as the log knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedOperation<H> {
    /// Its id.
    pub id: OperationId,
    /// How it ended.
    pub how: H,
    /// Its end's record; for a commit, the decision.
    pub at: Sequence,
    /// The user's name for it.
    pub request_key: Option<RequestKey>,
}

/// An operation of which a hole hides the beginning.
#[derive(Debug)]
struct Orphan {
    first: Sequence,
    last: Sequence,
}

/// What [`Replay::into_operations`] gives: the machines to go on with, and what has ended.
#[derive(Debug)]
pub struct Operations {
    /// Unfinished sagas.
    pub sagas: Vec<Saga>,
    /// Unfinished transactions.
    pub transactions: Vec<Transaction>,
    /// Ended sagas.
    pub ended_sagas: Vec<EndedOperation<End>>,
    /// Ended transactions.
    pub ended_transactions: Vec<EndedOperation<Decision>>,
}

/// Something that a participant's log did to its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEffect {
    /// A saga's step, or its compensation.
    Step(StepOutcome),
    /// A committed branch: its work.
    Committed(Arc<[u8]>),
}

/// Rebuilds the state that a log describes. Give it to a scan as its visitor.
///
/// An event that does not follow is an anomaly: it is kept with its sequence number, changes nothing
/// and never panics. What has ended is moved out of the way, so memory grows with what is unfinished
/// and by a few bytes for each end.
#[derive(Debug)]
pub struct Replay {
    sagas: BTreeMap<OperationId, Replayed<Saga>>,
    transactions: BTreeMap<OperationId, Replayed<Transaction>>,
    ended_sagas: BTreeMap<OperationId, EndedOperation<End>>,
    ended_transactions: BTreeMap<OperationId, EndedOperation<Decision>>,
    orphan_sagas: BTreeMap<OperationId, Orphan>,
    orphan_transactions: BTreeMap<OperationId, Orphan>,
    participant: Participant,
    promised_ms: BTreeMap<twopc::participant::PromiseKey, i64>,
    effects: Vec<(Sequence, LocalEffect)>,
    anomalies: Capped<Anomaly>,
    epochs_of_ids: BTreeSet<Epoch>,
    behind_a_hole: bool,
}

impl Default for Replay {
    fn default() -> Self {
        Self::new(NodeName::default())
    }
}

impl Replay {
    /// Nothing yet. `node` matters only for a participant's log: it is the participant's own name.
    #[must_use]
    pub fn new(node: NodeName) -> Replay {
        Replay {
            sagas: BTreeMap::new(),
            transactions: BTreeMap::new(),
            ended_sagas: BTreeMap::new(),
            ended_transactions: BTreeMap::new(),
            orphan_sagas: BTreeMap::new(),
            orphan_transactions: BTreeMap::new(),
            participant: Participant::new(node, StoreId::default(), BootCount::default()),
            promised_ms: BTreeMap::new(),
            effects: Vec::new(),
            anomalies: Capped::default(),
            epochs_of_ids: BTreeSet::new(),
            behind_a_hole: false,
        }
    }

    /// The lowest epoch, from `candidate` on, under which the log holds no id yet: the one to open it
    /// with. `None` if there is none left.
    #[must_use]
    pub fn free_epoch(&self, candidate: Epoch) -> Option<Epoch> {
        let mut epoch = candidate;
        while self.epochs_of_ids.contains(&epoch) {
            epoch = epoch.next()?;
        }
        Some(epoch)
    }

    /// What was found, as it stands before anything acts on it.
    #[must_use]
    pub fn report(&self, scanned: &Scanned) -> RecoveryReport {
        let mut operations = Vec::new();
        for (id, saga) in &self.sagas {
            let class = saga.machine.classification();
            operations.push(OperationReport {
                id: *id,
                kind: OperationKind::Saga {
                    steps: saga.machine.step_count(),
                    next_step: class.next_step,
                    run: class.run,
                    undo: class.undo,
                },
                state: class.state,
                action: class.action.into(),
                in_doubt: saga.in_doubt,
                evidence: class.evidence,
                last: class.last,
                created_ms: saga.created_ms,
            });
        }
        for (id, orphan) in &self.orphan_sagas {
            let (run, undo) = (Vec::new(), Vec::new());
            let kind = OperationKind::Saga { steps: 0, next_step: None, run, undo };
            operations.push(orphan.report(*id, kind, RecoveryAction::None));
        }
        for (id, transaction) in &self.transactions {
            let machine = &transaction.machine;
            let action = match machine.decision() {
                Some(Decision::Commit) => RecoveryAction::TxResumeCommit,
                Some(Decision::Abort) | None => RecoveryAction::TxResumeAbort,
            };
            operations.push(OperationReport {
                id: *id,
                kind: OperationKind::Transaction {
                    members: machine.members().to_vec(),
                    votes: machine.votes().collect(),
                },
                state: machine.state(),
                action,
                in_doubt: transaction.in_doubt,
                evidence: machine.evidence(),
                last: machine.last(),
                created_ms: transaction.created_ms,
            });
        }
        for (id, orphan) in &self.orphan_transactions {
            let kind = OperationKind::Transaction { members: Vec::new(), votes: Vec::new() };
            operations.push(orphan.report(*id, kind, RecoveryAction::TxResumeAbort));
        }
        for (key, at) in self.participant.prepared() {
            operations.push(OperationReport {
                id: key.tx.id,
                kind: OperationKind::Promise { coordinator: key.tx.coordinator, shard: key.shard },
                state: "prepared",
                action: RecoveryAction::None,
                in_doubt: true,
                evidence: at,
                last: at,
                created_ms: self.promised_ms.get(&key).copied(),
            });
        }
        let mut completed_sagas = Capped::default();
        self.ended_sagas.values().for_each(|ended| completed_sagas.push((ended.id, ended.how)));
        let mut completed_transactions = Capped::default();
        for ended in self.ended_transactions.values() {
            completed_transactions.push((ended.id, ended.how));
        }
        RecoveryReport {
            scanned: scanned.clone(),
            operations,
            completed_sagas,
            completed_transactions,
            anomalies: self.anomalies.clone(),
            unknown_ids_in_doubt: self.behind_a_hole,
        }
    }

    /// A coordinator's part, to go on with.
    #[must_use]
    pub fn into_operations(self) -> Operations {
        Operations {
            sagas: self.sagas.into_values().map(|replayed| replayed.machine).collect(),
            transactions: self
                .transactions
                .into_values()
                .map(|replayed| replayed.machine)
                .collect(),
            ended_sagas: self.ended_sagas.into_values().collect(),
            ended_transactions: self.ended_transactions.into_values().collect(),
        }
    }

    /// A participant's part: its promises, and what was done to its data, in the order of the log.
    #[must_use]
    pub fn into_participant(self) -> (Participant, Vec<(Sequence, LocalEffect)>) {
        (self.participant, self.effects)
    }

    fn anomaly(&mut self, sequence: Sequence, what: impl ToString) {
        self.anomalies.push(Anomaly { sequence, what: what.to_string() });
    }

    fn participant(&mut self, record: &Record<'_>, event: &ParticipantEvent) {
        match event {
            ParticipantEvent::Prepared { key, .. } => {
                self.promised_ms.insert(*key, record.timestamp_ms);
            }
            ParticipantEvent::Committed { key, .. } | ParticipantEvent::Aborted { key, .. } => {
                self.promised_ms.remove(key);
            }
            ParticipantEvent::CoordinatorSeen { .. } => {}
        }
        match (self.participant.apply(record.sequence, event), event) {
            (Ok(Change::Ended(Prepared { work, .. })), ParticipantEvent::Committed { .. }) => {
                self.effects.push((record.sequence, LocalEffect::Committed(work)));
            }
            (Ok(_), _) => {}
            (Err(illegal), _) => self.anomaly(record.sequence, illegal),
        }
    }

    fn saga(&mut self, record: &Record<'_>, id: OperationId, event: &saga::Event) {
        self.epochs_of_ids.insert(id.epoch());
        let sequence = record.sequence;
        if let Some(replayed) = self.sagas.get_mut(&id) {
            let applied = replayed.machine.apply(sequence, event);
            if let Phase::Ended(how) = replayed.machine.phase() {
                let (at, request_key) =
                    (replayed.machine.last(), replayed.machine.request_key().cloned());
                self.sagas.remove(&id);
                self.ended_sagas.insert(id, EndedOperation { id, how, at, request_key });
            }
            if let Err(illegal) = applied {
                self.anomaly(sequence, illegal);
            }
        } else if let Some(ended) = self.ended_sagas.get(&id) {
            let what = format!("saga {id}: an event after its end ({})", ended.how.name());
            self.anomaly(sequence, what);
        } else if matches!(event, saga::Event::Created { .. }) {
            match Saga::created(id, sequence, event) {
                Ok(machine) => {
                    let created_ms = Some(record.timestamp_ms);
                    let replayed = Replayed { machine, created_ms, in_doubt: false };
                    self.sagas.insert(id, replayed);
                }
                Err(illegal) => self.anomaly(sequence, illegal),
            }
        } else if self.behind_a_hole {
            let ended = match event {
                saga::Event::Completed => Some(End::Completed),
                saga::Event::Compensated => Some(End::Compensated),
                _ => None,
            };
            if let Some(how) = ended {
                self.orphan_sagas.remove(&id);
                let ended = EndedOperation { id, how, at: sequence, request_key: None };
                self.ended_sagas.insert(id, ended);
            } else {
                self.orphan_sagas.entry(id).or_insert(Orphan::at(sequence)).last = sequence;
            }
        } else {
            let what = format!("saga {id}: {} of a saga that was never created", record.event);
            self.anomaly(sequence, what);
        }
    }

    fn transaction(&mut self, record: &Record<'_>, id: OperationId, event: &TransactionEvent) {
        self.epochs_of_ids.insert(id.epoch());
        let sequence = record.sequence;
        if let Some(replayed) = self.transactions.get_mut(&id) {
            let was_in_doubt = replayed.in_doubt;
            let mut applied = replayed.machine.apply(sequence, event);
            match event {
                TransactionEvent::CommitStart { .. } if applied.is_ok() || was_in_doubt => {
                    // Votes may lie in the hole; sending COMMIT again is harmless.
                    if applied == Err(IllegalTransition::UnbackedCommit) {
                        applied = Ok(());
                    }
                    replayed.in_doubt = false;
                }
                TransactionEvent::CommitComplete if applied.is_err() && was_in_doubt => {
                    // The decision lies in the hole, and everybody has acknowledged it.
                    replayed.in_doubt = false;
                    let members = replayed.machine.members().to_vec();
                    let hidden = TransactionEvent::CommitStart { members };
                    let _ = replayed.machine.apply(sequence, &hidden);
                    applied = replayed.machine.apply(sequence, event);
                }
                _ => {}
            }
            if let Some(how) = replayed.machine.ended() {
                if replayed.in_doubt {
                    // An abort that ends behind the hole proves nothing: a commit may lie in it.
                    if applied.is_err() {
                        let what =
                            applied.map_or_else(|illegal| illegal.to_string(), |()| String::new());
                        self.anomaly(sequence, what);
                    }
                    return;
                }
                let request_key = replayed.machine.request_key().cloned();
                let at = replayed.machine.evidence();
                self.transactions.remove(&id);
                self.ended_transactions.insert(id, EndedOperation { id, how, at, request_key });
            }
            if let Err(illegal) = applied {
                self.anomaly(sequence, format!("transaction {id}: {illegal}"));
            }
        } else if self.ended_transactions.contains_key(&id) {
            let what = format!("transaction {id}: {} after its end", event.name());
            self.anomaly(sequence, what);
        } else if matches!(event, TransactionEvent::Created { .. }) {
            match Transaction::created(id, sequence, event) {
                Ok(machine) => {
                    let created_ms = Some(record.timestamp_ms);
                    let replayed = Replayed { machine, created_ms, in_doubt: false };
                    self.transactions.insert(id, replayed);
                }
                Err(illegal) => self.anomaly(sequence, illegal),
            }
        } else if self.behind_a_hole {
            self.orphan_transaction(sequence, id, event);
        } else {
            let what = format!("transaction {id}: {} of one never created", event.name());
            self.anomaly(sequence, what);
        }
    }

    /// A commit decision of which only the published prefix can be read. Someone may have been told,
    /// and the participants of whom the log knows otherwise are told again: were it left out, they
    /// would be told to abort.
    fn unreadable_commit(&mut self, record: &Record<'_>) {
        let Some((id, _)) = record.payload.split_first_chunk() else { return };
        let Some(replayed) = self.transactions.get_mut(&OperationId(u64::from_le_bytes(*id)))
        else {
            return;
        };
        let decision = TransactionEvent::CommitStart { members: Vec::new() };
        // Whether it follows or not, the record is an anomaly already.
        let _ = replayed.machine.apply(record.sequence, &decision);
        replayed.in_doubt &= replayed.machine.decision() != Some(Decision::Commit);
    }

    /// A hole hides the beginning. A commit decision names its participants and stands by itself.
    fn orphan_transaction(
        &mut self,
        sequence: Sequence,
        id: OperationId,
        event: &TransactionEvent,
    ) {
        match event {
            TransactionEvent::CommitStart { .. } => {
                let created = TransactionEvent::Created {
                    coordinator: base::CoordinatorId::default(),
                    request_key: None,
                };
                let mut machine =
                    Transaction::created(id, sequence, &created).expect("a creation creates");
                let _ = machine.apply(sequence, event);
                self.orphan_transactions.remove(&id);
                let replayed = Replayed { machine, created_ms: None, in_doubt: false };
                self.transactions.insert(id, replayed);
            }
            TransactionEvent::CommitComplete => {
                self.orphan_transactions.remove(&id);
                let (how, at) = (Decision::Commit, sequence);
                let ended = EndedOperation { id, how, at, request_key: None };
                self.ended_transactions.insert(id, ended);
            }
            _ => {
                self.orphan_transactions.entry(id).or_insert(Orphan::at(sequence)).last = sequence;
            }
        }
    }
}

impl Orphan {
    fn at(sequence: Sequence) -> Orphan {
        Orphan { first: sequence, last: sequence }
    }

    fn report(
        &self,
        id: OperationId,
        kind: OperationKind,
        action: RecoveryAction,
    ) -> OperationReport {
        OperationReport {
            id,
            kind,
            state: "unknown",
            action,
            in_doubt: true,
            evidence: self.first,
            last: self.last,
            created_ms: None,
        }
    }
}

impl Visitor for Replay {
    fn record(&mut self, record: &Record<'_>, _place: Place) {
        match codec::decode(record.event, record.payload) {
            Ok(Fact::Saga { id, event }) => self.saga(record, id, &event),
            Ok(Fact::Transaction { id, event }) => self.transaction(record, id, &event),
            Ok(Fact::Participant(event)) => self.participant(record, &event),
            Ok(Fact::Step(outcome)) => {
                self.effects.push((record.sequence, LocalEffect::Step(outcome)));
            }
            Ok(Fact::Marker) => {}
            Ok(Fact::InDoubt) => self.behind_a_hole = true,
            Err(error) => {
                self.anomaly(record.sequence, error);
                if error == CodecError::Extensions(EventType::TX_COMMIT_START) {
                    self.unreadable_commit(record);
                }
            }
        }
    }

    /// Records are missing here: what was unfinished and could be changed by a hidden record is in
    /// doubt from now on.
    fn hole(&mut self, _: &Corruption) {
        self.behind_a_hole = true;
        for saga in self.sagas.values_mut() {
            saga.in_doubt = true;
        }
        for transaction in self.transactions.values_mut() {
            let committing = transaction.machine.decision() == Some(Decision::Commit);
            transaction.in_doubt |= !committing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{CoordinatorId, ShardId};
    use twopc::Vote;
    use twopc::coordinator::Member;
    use wal_core::ScanConfig;

    #[test]
    fn a_commit_decision_that_cannot_be_read_to_its_end_stands() {
        let (id, shard) = (OperationId(9), ShardId::numbered(1));
        let member = Member::new(shard, NodeName::numbered(1));
        let events = [
            TransactionEvent::Created {
                coordinator: CoordinatorId::numbered(1),
                request_key: None,
            },
            TransactionEvent::ParticipantAdded(member),
            TransactionEvent::PrepareStart,
            TransactionEvent::VoteReceived { shard, vote: Vote::Commit },
            TransactionEvent::CommitStart { members: vec![member] },
        ];
        let mut stream = Vec::new();
        for (sequence, event) in (1..).zip(&events) {
            let mut payload = Vec::new();
            let event = codec::encode_transaction(id, event, &mut payload);
            if event == EventType::TX_COMMIT_START {
                // Extensions of a version that is yet to come.
                payload[8] += 1;
            }
            let sequence = Sequence(sequence);
            let record = Record { sequence, event, timestamp_ms: 0, payload: &payload };
            wal_core::encode_record(&record, &mut stream);
        }
        let mut replay = Replay::default();
        let config = ScanConfig::default();
        let scanned = wal_core::scan_stream(&mut stream.as_slice(), &config, &mut replay).unwrap();
        let report = replay.report(&scanned);
        assert_eq!(report.operations[0].action, RecoveryAction::TxResumeCommit);
        let OperationKind::Transaction { members, .. } = &report.operations[0].kind else {
            panic!("a transaction");
        };
        assert_eq!(*members, [member]);
        let anomalies: Vec<_> = report.anomalies.entries.iter().map(|a| a.sequence.0).collect();
        assert_eq!(anomalies, [5]);
    }
}
