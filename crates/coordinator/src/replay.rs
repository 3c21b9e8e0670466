//! Replay: a log's records, in order, through the same `apply` that a running engine uses.

mod parts;

use self::parts::Base;
use crate::codec::{self, CodecError, Doubt, Fact, StepOutcome};
use crate::report::{Anomaly, Capped, OperationKind, OperationReport};
use crate::report::{RecoveryAction, RecoveryReport};
use crate::snapshot::{Answered, DoubtfulTrail, Frame, Kind, Trail};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, RequestKey, Sequence, StoreId};
use saga::{End, Phase, Saga};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use twopc::coordinator::{Decision, Event as TransactionEvent, Member};
use twopc::heuristic::Heuristics;
use twopc::participant::{Change, Event as ParticipantEvent, Prepared};
use twopc::{IllegalTransition, Participant, Transaction};
use wal_core::{
    Corruption, EventType, Guard, NotUnderstood, Place, Record, Scanned, SnapshotPart, Visitor,
};

#[derive(Clone, Debug)]
struct Replayed<M> {
    machine: M,
    created_ms: Option<i64>,
    /// A hole may hide what would change its class.
    in_doubt: bool,
    /// Its records that count, for the next snapshot.
    trail: Trail,
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
    /// By which the same request is known again, if the log says it.
    pub fingerprint: Option<u128>,
}

/// An operation of which a hole hides the beginning.
#[derive(Clone, Debug)]
struct Orphan {
    first: Sequence,
    last: Sequence,
    /// An abort or a rollback was seen: a commit decision that follows is not the first decision.
    turned: bool,
}

/// An operation that is not acted upon: a lost record may say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// Its id.
    pub id: OperationId,
    /// The user's name for it, if the log still has it.
    pub request_key: Option<RequestKey>,
    /// Of a transaction: what the log still says of it.
    pub transaction: Option<Box<Transaction>>,
}

/// What [`Replay::into_operations`] gives: the machines to go on with, and what has ended.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Unfinished sagas.
    pub sagas: Vec<Saga>,
    /// Unfinished transactions.
    pub transactions: Vec<Transaction>,
    /// Ended sagas.
    pub ended_sagas: Vec<EndedOperation<End>>,
    /// Ended transactions.
    pub ended_transactions: Vec<EndedOperation<Decision>>,
    /// Sagas in doubt. They are among none of the others.
    pub sagas_in_doubt: Vec<InDoubt>,
    /// Transactions in doubt.
    pub transactions_in_doubt: Vec<InDoubt>,
    /// Branches that ended otherwise than their transactions, as far as no operator has forgotten them.
    pub heuristics: Heuristics,
    /// Up to which epoch an id that is in none of the lists is in doubt too; `None` if none is.
    pub unknown_ids_up_to: Option<Epoch>,
    /// What the steps of ended sagas have brought, of those that have brought something.
    pub(crate) outputs: BTreeMap<OperationId, Trail>,
    /// The records of the sagas, for the next snapshot.
    pub(crate) saga_trails: BTreeMap<OperationId, Trail>,
    /// Those of the transactions.
    pub(crate) transaction_trails: BTreeMap<OperationId, Trail>,
    /// Those of what is in doubt.
    pub(crate) doubtful: Vec<DoubtfulTrail>,
    /// Epochs under which there are ids.
    pub(crate) foreign_epochs: Vec<Epoch>,
}

/// Something that a participant's log did to its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEffect {
    /// A saga's step, or its compensation.
    Step(StepOutcome),
    /// A committed branch: its work.
    Committed(Arc<[u8]>),
    /// A snapshot's: what these cells hold now, whatever was done to them before.
    Cells(Vec<(u64, i64)>),
    /// A snapshot's: what a step was answered.
    Answered(Answered),
}

/// Rebuilds the state that a log describes. Give it to a scan as its visitor.
///
/// An event that does not follow is an anomaly: it is kept with its sequence number, changes nothing
/// and never panics. What has ended is moved out of the way, so memory grows with what is unfinished
/// and by a few bytes for each end.
#[derive(Clone, Debug)]
pub struct Replay {
    sagas: BTreeMap<OperationId, Replayed<Saga>>,
    transactions: BTreeMap<OperationId, Replayed<Transaction>>,
    ended_sagas: BTreeMap<OperationId, EndedOperation<End>>,
    ended_transactions: BTreeMap<OperationId, EndedOperation<Decision>>,
    /// What the steps of ended sagas have brought.
    outputs: BTreeMap<OperationId, Trail>,
    orphan_sagas: BTreeMap<OperationId, Orphan>,
    orphan_transactions: BTreeMap<OperationId, Orphan>,
    heuristics: Heuristics,
    participant: Participant,
    promised_ms: BTreeMap<twopc::participant::PromiseKey, i64>,
    effects: Vec<(Sequence, LocalEffect)>,
    anomalies: Capped<Anomaly>,
    epochs_of_ids: BTreeSet<Epoch>,
    last: Sequence,
    /// The last record of which a salvage says that it is lost.
    lost: Sequence,
    /// Damage was told, and no record since: if the next one's number is the next, nothing was hidden.
    hole_ahead: bool,
    /// Records are known to be missing.
    behind_a_hole: bool,
    /// Records are missing in this very log, and no salvage has said yet what is in doubt.
    damaged: bool,
    /// What a salvage says of ids that the log does not know.
    unknown_ids_up_to: Option<Epoch>,
    /// The snapshot that the log begins with, until it is whole.
    base: Option<Base>,
    /// The first record that has to be understood and is not.
    not_understood: Option<NotUnderstood>,
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
            outputs: BTreeMap::new(),
            orphan_sagas: BTreeMap::new(),
            orphan_transactions: BTreeMap::new(),
            heuristics: Heuristics::default(),
            participant: Participant::new(node, StoreId::default(), BootCount::default()),
            promised_ms: BTreeMap::new(),
            effects: Vec::new(),
            anomalies: Capped::default(),
            epochs_of_ids: BTreeSet::new(),
            last: Sequence::NONE,
            lost: Sequence::NONE,
            hole_ahead: false,
            behind_a_hole: false,
            damaged: false,
            unknown_ids_up_to: None,
            base: None,
            not_understood: None,
        }
    }

    /// The lowest epoch, from `candidate` on, under which the log holds no id yet, and no unknown id is
    /// in doubt: the one to open it with. `None` if there is none left.
    #[must_use]
    pub fn free_epoch(&self, candidate: Epoch) -> Option<Epoch> {
        let mut epoch = match self.unknown_ids_up_to {
            Some(doubtful) => candidate.max(doubtful.next()?),
            None => candidate,
        };
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
                    parked: class.parked,
                },
                state: class.state,
                action: class.action.into(),
                in_doubt: self.saga_in_doubt(saga),
                evidence: class.evidence,
                last: class.last,
                created_ms: saga.created_ms,
                parent: saga.machine.terms().parent,
            });
        }
        for (id, orphan) in &self.orphan_sagas {
            let (run, undo) = (Vec::new(), Vec::new());
            let parked = Vec::new();
            let kind = OperationKind::Saga { steps: 0, next_step: None, run, undo, parked };
            operations.push(orphan.report(*id, kind, RecoveryAction::None));
        }
        for (id, transaction) in &self.transactions {
            let machine = &transaction.machine;
            let action = match machine.decision() {
                Some(Decision::Commit) => RecoveryAction::TxResumeCommit,
                Some(Decision::Abort | Decision::ReadOnly) => RecoveryAction::TxResumeAbort,
                None if machine.is_delegated() => RecoveryAction::None,
                None => RecoveryAction::TxResumeAbort,
            };
            operations.push(OperationReport {
                id: *id,
                kind: OperationKind::Transaction {
                    members: machine.members().to_vec(),
                    votes: machine.votes().collect(),
                },
                state: machine.state(),
                action,
                in_doubt: self.transaction_in_doubt(transaction),
                evidence: machine.evidence(),
                last: machine.last(),
                created_ms: transaction.created_ms,
                parent: machine.parent(),
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
                parent: None,
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
            heuristics: self
                .heuristics
                .iter()
                .map(|(id, shard, it)| (id, shard, it.clone()))
                .collect(),
            forced: self.participant.forced().map(|(key, it)| (key, it.clone())).collect(),
            unknown_ids_in_doubt: self.behind_a_hole || self.is_open(),
            unknown_ids_up_to: self.unknown_ids(scanned.highest_epoch()),
        }
    }

    /// The sagas that have ended, by id.
    pub fn ended_sagas(&self) -> impl Iterator<Item = &EndedOperation<End>> {
        self.ended_sagas.values()
    }

    /// The transactions that have ended, by id.
    pub fn ended_transactions(&self) -> impl Iterator<Item = &EndedOperation<Decision>> {
        self.ended_transactions.values()
    }

    /// What a salvage has to say of this log: each operation that is in doubt, with its coordinator as far
    /// as it is known, and the ids that the log does not know. Nothing, if no record is missing; what an
    /// earlier salvage has said is still there.
    #[must_use]
    pub fn doubts(&self, scanned: &Scanned) -> Vec<(CoordinatorId, Doubt)> {
        let unknown = self.unknown_ids(scanned.highest_epoch());
        let Some(up_to) = unknown.filter(|_| self.damaged || self.is_open()) else {
            return Vec::new();
        };
        let nobody = CoordinatorId::default();
        let mut doubts = Vec::new();
        for (id, saga) in self.sagas.iter().filter(|(_, saga)| self.saga_in_doubt(saga)) {
            doubts.push((saga.machine.coordinator(), Doubt::Saga(*id)));
        }
        doubts.extend(self.orphan_sagas.keys().map(|id| (nobody, Doubt::Saga(*id))));
        for (id, transaction) in &self.transactions {
            if self.transaction_in_doubt(transaction) {
                doubts.push((transaction.machine.coordinator(), Doubt::Transaction(*id)));
            }
        }
        let orphans = self.orphan_transactions.keys();
        doubts.extend(orphans.map(|id| (nobody, Doubt::Transaction(*id))));
        doubts.push((nobody, Doubt::UnknownIds { up_to }));
        doubts
    }

    /// Records may be missing at the end of what was read: behind damage, or because the snapshot that the
    /// log begins with is not whole.
    fn is_open(&self) -> bool {
        self.hole_ahead || self.base.is_some()
    }

    fn saga_in_doubt(&self, saga: &Replayed<Saga>) -> bool {
        saga.in_doubt || self.is_open()
    }

    fn transaction_in_doubt(&self, transaction: &Replayed<Transaction>) -> bool {
        transaction.in_doubt || (self.is_open() && transaction.machine.decision().is_none())
    }

    /// Up to which epoch unknown ids are in doubt. Where no salvage says it, up to the highest that the
    /// log knows of: `highest`, or an id's.
    fn unknown_ids(&self, highest: Epoch) -> Option<Epoch> {
        if !self.behind_a_hole && !self.is_open() {
            return None;
        }
        let of_ids = self.epochs_of_ids.last().copied().unwrap_or(Epoch::NONE);
        match self.unknown_ids_up_to {
            Some(up_to) if !self.damaged && !self.is_open() => Some(up_to),
            said => Some(said.unwrap_or(Epoch::NONE).max(highest).max(of_ids)),
        }
    }

    /// A coordinator's part, to go on with. `epoch` is the one that goes on.
    #[must_use]
    pub fn into_operations(mut self, epoch: Epoch) -> Operations {
        if self.is_open() {
            (self.hole_ahead, self.base) = (false, None);
            self.hide_records();
        }
        let before = Epoch::new(epoch.value().saturating_sub(1));
        let unknown_ids_up_to = self.unknown_ids(before);
        let (mut sagas, mut sagas_in_doubt) = (Vec::new(), Vec::new());
        let (mut saga_trails, mut transaction_trails) = (BTreeMap::new(), BTreeMap::new());
        let mut doubtful = Vec::new();
        for (id, Replayed { machine, in_doubt, trail, .. }) in self.sagas {
            if in_doubt {
                let request_key = machine.request_key().cloned();
                sagas_in_doubt.push(InDoubt { id, request_key, transaction: None });
                doubtful.push(DoubtfulTrail { kind: Kind::Saga, id, trail, orphan: None });
            } else {
                saga_trails.insert(id, trail);
                sagas.push(machine);
            }
        }
        let (mut transactions, mut transactions_in_doubt) = (Vec::new(), Vec::new());
        for (id, Replayed { machine, in_doubt, trail, .. }) in self.transactions {
            if in_doubt {
                let request_key = machine.request_key().cloned();
                let transaction = Some(Box::new(machine));
                transactions_in_doubt.push(InDoubt { id, request_key, transaction });
                doubtful.push(DoubtfulTrail { kind: Kind::Transaction, id, trail, orphan: None });
            } else {
                transaction_trails.insert(id, trail);
                transactions.push(machine);
            }
        }
        for (kind, orphans) in
            [(Kind::Saga, &self.orphan_sagas), (Kind::Transaction, &self.orphan_transactions)]
        {
            doubtful.extend(orphans.iter().map(|(&id, &Orphan { first, last, turned })| {
                let trail = Trail::default();
                DoubtfulTrail { kind, id, trail, orphan: Some((first, last, turned)) }
            }));
        }
        let nameless = |id| InDoubt { id, request_key: None, transaction: None };
        sagas_in_doubt.extend(self.orphan_sagas.into_keys().map(nameless));
        transactions_in_doubt.extend(self.orphan_transactions.into_keys().map(nameless));
        Operations {
            sagas,
            transactions,
            ended_sagas: self.ended_sagas.into_values().collect(),
            ended_transactions: self.ended_transactions.into_values().collect(),
            outputs: self.outputs,
            sagas_in_doubt,
            transactions_in_doubt,
            heuristics: self.heuristics,
            unknown_ids_up_to,
            saga_trails,
            transaction_trails,
            doubtful,
            foreign_epochs: self.epochs_of_ids.into_iter().collect(),
        }
    }

    /// When the promises were made that wait for their outcome, by their records.
    pub fn promised(&self) -> impl Iterator<Item = (Sequence, i64)> + '_ {
        let waiting = self.participant.prepared();
        waiting.filter_map(|(key, at)| Some((at, *self.promised_ms.get(&key)?)))
    }

    /// Up to which epoch ids are in doubt that the log does not know, as a salvage has said it.
    #[must_use]
    pub fn unknown_ids_up_to(&self) -> Option<Epoch> {
        self.unknown_ids_up_to
    }

    /// A participant's part: its promises, and what was done to its data, in the order of the log.
    #[must_use]
    pub fn into_participant(self) -> (Participant, Vec<(Sequence, LocalEffect)>) {
        (self.participant, self.effects)
    }

    /// Of what cannot be read: whether it is something that nobody may pass over.
    fn note_unknown(&mut self, sequence: Sequence, error: CodecError) {
        if let CodecError::NotUnderstood(event, tag) = error {
            self.not_understood.get_or_insert(NotUnderstood { sequence, event, tag });
        }
    }

    fn anomaly(&mut self, sequence: Sequence, what: impl ToString) {
        self.anomalies.push(Anomaly { sequence, what: what.to_string() });
    }

    fn participant(&mut self, record: &Record<'_>, event: &ParticipantEvent) {
        match event {
            ParticipantEvent::Prepared { key, .. } => {
                self.promised_ms.insert(*key, record.timestamp_ms);
            }
            ParticipantEvent::Committed { key, .. }
            | ParticipantEvent::Aborted { key, .. }
            | ParticipantEvent::Forced { key, .. } => {
                self.promised_ms.remove(key);
            }
            ParticipantEvent::OnePhase { .. }
            | ParticipantEvent::ReadOnly { .. }
            | ParticipantEvent::Heuristic { .. }
            | ParticipantEvent::CoordinatorSeen { .. }
            | ParticipantEvent::Finished { .. } => {}
        }
        match (self.participant.apply(record.sequence, event), event) {
            (
                Ok(Change::Ended(Prepared { work, .. })),
                ParticipantEvent::Committed { .. } | ParticipantEvent::Forced { commit: true, .. },
            ) => {
                self.effects.push((record.sequence, LocalEffect::Committed(work)));
            }
            (Ok(Change::Done(work)), _) => {
                self.effects.push((record.sequence, LocalEffect::Committed(work)));
            }
            (Ok(_), _) => {}
            // The snapshot that the log begins with has not come to its promise yet.
            (
                Err(IllegalTransition::Unknown { .. }),
                ParticipantEvent::Committed { .. }
                | ParticipantEvent::Forced { .. }
                | ParticipantEvent::Heuristic { .. },
            ) if self.base.is_some() => {}
            (Err(illegal), _) => self.anomaly(record.sequence, illegal),
        }
    }

    fn saga(&mut self, record: &Record<'_>, id: OperationId, event: &saga::Event) {
        self.epochs_of_ids.insert(id.epoch());
        let sequence = record.sequence;
        if let Some(replayed) = self.sagas.get_mut(&id) {
            let applied = replayed.machine.apply(sequence, event);
            if applied.is_ok() {
                replayed.trail.push(&frame(record));
            }
            // Of one in doubt only an end that leaves nothing to undo is believed, and that whether it
            // follows or not: the steps before it may be hidden.
            let ended = match replayed.machine.phase() {
                _ if replayed.in_doubt => final_end(event),
                Phase::Ended(how) => Some(how),
                _ => None,
            };
            let explained = replayed.in_doubt && !matches!(event, saga::Event::Created { .. });
            if let Some(how) = ended {
                let (at, request_key) = (sequence, replayed.machine.request_key().cloned());
                let fingerprint = replayed.machine.terms().fingerprint;
                let outputs = replayed.trail.outputs();
                if !outputs.bytes().is_empty() {
                    self.outputs.insert(id, outputs);
                }
                self.sagas.remove(&id);
                let ended = EndedOperation { id, how, at, request_key, fingerprint };
                self.ended_sagas.insert(id, ended);
            }
            if let Err(illegal) = applied
                && !explained
            {
                self.anomaly(sequence, illegal);
            }
        } else if let Some(ended) = self.ended_sagas.get(&id) {
            let what = format!("saga {id}: an event after its end ({})", ended.how.name());
            self.anomaly(sequence, what);
        } else if let Some(orphan) = self.orphan_sagas.get_mut(&id) {
            orphan.last = sequence;
            if let Some(how) = final_end(event) {
                self.orphan_sagas.remove(&id);
                let ended =
                    EndedOperation { id, how, at: sequence, request_key: None, fingerprint: None };
                self.ended_sagas.insert(id, ended);
            }
        } else if matches!(event, saga::Event::Created { .. }) {
            match Saga::created(id, sequence, event) {
                Ok(machine) => {
                    let created_ms = Some(record.timestamp_ms);
                    let mut trail = Trail::default();
                    trail.push(&frame(record));
                    let replayed = Replayed { machine, created_ms, in_doubt: false, trail };
                    self.sagas.insert(id, replayed);
                }
                Err(illegal) => self.anomaly(sequence, illegal),
            }
        } else if self.base.is_some() && !self.behind_a_hole {
            // The snapshot has not come to it yet, or it has ended before that.
        } else if self.behind_a_hole {
            if let Some(how) = final_end(event) {
                let ended =
                    EndedOperation { id, how, at: sequence, request_key: None, fingerprint: None };
                self.ended_sagas.insert(id, ended);
            } else {
                self.orphan_sagas.insert(id, Orphan::at(sequence));
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
            if matches!(applied, Ok(()) | Err(IllegalTransition::UnbackedCommit)) {
                replayed.trail.push(&frame(record));
            }
            if was_in_doubt {
                if applied.is_err() && is_forced(event) {
                    // An operator decides what a hole leaves open, whatever is left of it.
                    let (members, key) =
                        (replayed.machine.members(), replayed.machine.request_key().cloned());
                    let (mut machine, mut trail) = begun(id, members, key);
                    applied = machine.apply(sequence, event);
                    trail.push(&frame(record));
                    (replayed.machine, replayed.trail) = (machine, trail);
                }
                if applied.is_err() && *event == TransactionEvent::CommitComplete {
                    // The decision lies in the hole, and everybody has acknowledged it.
                    let members = replayed.machine.members().to_vec();
                    let hidden = TransactionEvent::CommitStart { members };
                    let _ = replayed.machine.apply(sequence, &hidden);
                    let _ = replayed.machine.apply(sequence, event);
                }
                if let Err(
                    IllegalTransition::OutOfPlace { .. }
                    | IllegalTransition::UnknownShard
                    | IllegalTransition::UnbackedCommit,
                ) = applied
                {
                    // Votes may lie in the hole, and whatever else makes the event follow.
                    applied = Ok(());
                }
                // Sending COMMIT again is harmless. An abort that is found behind the hole proves
                // nothing: a commit may lie in it. An operator's abort knows that.
                replayed.in_doubt = replayed.machine.decision() != Some(Decision::Commit)
                    && !replayed.machine.is_forced();
            }
            if let Some(how) = replayed.machine.ended()
                && !replayed.in_doubt
            {
                let request_key = replayed.machine.request_key().cloned();
                let (at, fingerprint) =
                    (replayed.machine.evidence(), replayed.machine.fingerprint());
                self.transactions.remove(&id);
                let ended = EndedOperation { id, how, at, request_key, fingerprint };
                self.ended_transactions.insert(id, ended);
            }
            if let Err(illegal) = applied {
                self.anomaly(sequence, format!("transaction {id}: {illegal}"));
            }
        } else if self.ended_transactions.contains_key(&id) {
            let what = format!("transaction {id}: {} after its end", event.name());
            self.anomaly(sequence, what);
        } else if self.orphan_transactions.contains_key(&id) {
            self.orphan_transaction(sequence, id, event);
        } else if matches!(event, TransactionEvent::Created { .. }) {
            match Transaction::created(id, sequence, event) {
                Ok(machine) => {
                    let created_ms = Some(record.timestamp_ms);
                    let mut trail = Trail::default();
                    trail.push(&frame(record));
                    let replayed = Replayed { machine, created_ms, in_doubt: false, trail };
                    self.transactions.insert(id, replayed);
                }
                Err(illegal) => self.anomaly(sequence, illegal),
            }
        } else if self.base.is_some() && !self.behind_a_hole {
            // As of a saga.
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
        let applied = replayed.machine.apply(record.sequence, &decision);
        if matches!(applied, Ok(()) | Err(IllegalTransition::UnbackedCommit)) {
            // Whoever reads the snapshot is to find as much as was found here.
            let readable = &record.payload[..8];
            replayed.trail.push(&Frame { payload: readable, ..frame(record) });
        }
        replayed.in_doubt &= replayed.machine.decision() != Some(Decision::Commit);
    }

    /// A hole hides the beginning. A commit decision names its participants and stands by itself.
    fn orphan_transaction(
        &mut self,
        sequence: Sequence,
        id: OperationId,
        event: &TransactionEvent,
    ) {
        let orphan = self.orphan_transactions.entry(id).or_insert(Orphan::at(sequence));
        orphan.last = sequence;
        let commits = matches!(event, TransactionEvent::CommitStart { .. }) && !orphan.turned;
        match event {
            _ if is_forced(event) || commits => {
                let created = TransactionEvent::Created {
                    coordinator: CoordinatorId::default(),
                    request_key: None,
                    fingerprint: None,
                    parent: None,
                };
                let mut machine =
                    Transaction::created(id, sequence, &created).expect("a creation creates");
                let _ = machine.apply(sequence, event);
                self.orphan_transactions.remove(&id);
                // Whoever replays these finds a decision that stands although nobody is known to have voted.
                let mut trail = Trail::default();
                for event in [&created, event] {
                    let (mut payload, timestamp_ms) = (Vec::new(), i64::MIN);
                    let event = codec::encode_transaction(id, event, &mut payload);
                    trail.push(&Frame { sequence, timestamp_ms, event, payload: &payload });
                }
                let replayed = Replayed { machine, created_ms: None, in_doubt: false, trail };
                self.transactions.insert(id, replayed);
            }
            TransactionEvent::CommitComplete if !orphan.turned => {
                self.orphan_transactions.remove(&id);
                let (how, at) = (Decision::Commit, sequence);
                let ended = EndedOperation { id, how, at, request_key: None, fingerprint: None };
                self.ended_transactions.insert(id, ended);
            }
            TransactionEvent::AbortStart
            | TransactionEvent::AbortComplete
            | TransactionEvent::RollbackStart
            | TransactionEvent::RollbackComplete => orphan.turned = true,
            _ => {}
        }
    }

    /// What was reported of a branch, or forgotten.
    fn heuristic(&mut self, sequence: Sequence, event: &twopc::heuristic::Event) {
        self.epochs_of_ids.insert(event.id().epoch());
        if let Err(illegal) = self.heuristics.apply(sequence, event)
            && self.base.is_none()
        {
            // The snapshot that the log begins with would come to it, and says how it stands then.
            self.anomaly(sequence, illegal);
        }
    }

    /// The number that comes next behind the damage says whether a record is missing.
    fn look_over_the_hole(&mut self, next: Sequence) {
        if std::mem::take(&mut self.hole_ahead) && next != self.last.next() {
            self.damaged = true;
            self.hide_records();
        }
    }

    /// Records are missing in front of what comes next: what was unfinished and could be changed by one
    /// of them is in doubt from now on.
    fn hide_records(&mut self) {
        self.behind_a_hole = true;
        for saga in self.sagas.values_mut() {
            saga.in_doubt = true;
        }
        for transaction in self.transactions.values_mut() {
            transaction.in_doubt |= transaction.machine.decision().is_none();
        }
    }

    /// What a salvage says it could not prove.
    fn doubt(&mut self, sequence: Sequence, doubt: Doubt) {
        self.behind_a_hole = true;
        match doubt {
            Doubt::LostRecord => {
                // Between two lost records in a row nothing can have begun.
                if self.lost.next() != sequence {
                    self.hide_records();
                }
                self.lost = sequence;
            }
            Doubt::UnknownIds { up_to } => {
                let said = self.unknown_ids_up_to.unwrap_or(Epoch::NONE);
                self.unknown_ids_up_to = Some(said.max(up_to));
            }
            Doubt::Saga(id) => {
                self.epochs_of_ids.insert(id.epoch());
                if let Some(saga) = self.sagas.get_mut(&id) {
                    saga.in_doubt = true;
                } else if !self.ended_sagas.contains_key(&id) {
                    self.orphan_sagas.entry(id).or_insert(Orphan::at(sequence));
                }
            }
            Doubt::Transaction(id) => {
                self.epochs_of_ids.insert(id.epoch());
                if let Some(transaction) = self.transactions.get_mut(&id) {
                    let committing = transaction.machine.decision() == Some(Decision::Commit);
                    transaction.in_doubt |= !committing;
                } else if !self.ended_transactions.contains_key(&id) {
                    self.orphan_transactions.entry(id).or_insert(Orphan::at(sequence));
                }
            }
        }
    }
}

/// A transaction of which nothing is known but who may take part, and the records that say so.
pub(crate) fn begun(
    id: OperationId,
    members: &[Member],
    request_key: Option<RequestKey>,
) -> (Transaction, Trail) {
    let (coordinator, fingerprint, parent) = (CoordinatorId::default(), None, None);
    let created = TransactionEvent::Created { coordinator, request_key, fingerprint, parent };
    let joined = members.iter().copied().map(TransactionEvent::ParticipantAdded);
    let mut trail = Trail::default();
    let mut push = |event: &TransactionEvent| {
        let (mut payload, sequence, timestamp_ms) = (Vec::new(), Sequence::NONE, i64::MIN);
        let event = codec::encode_transaction(id, event, &mut payload);
        trail.push(&Frame { sequence, timestamp_ms, event, payload: &payload });
    };
    push(&created);
    let mut machine =
        Transaction::created(id, Sequence::NONE, &created).expect("a creation creates");
    for event in joined {
        push(&event);
        machine.apply(Sequence::NONE, &event).expect("who has joined once may join");
    }
    (machine, trail)
}

fn is_forced(event: &TransactionEvent) -> bool {
    matches!(event, TransactionEvent::ForcedCommit { .. } | TransactionEvent::ForcedAbort { .. })
}

fn frame<'a>(record: &Record<'a>) -> Frame<'a> {
    let Record { sequence, event, timestamp_ms, payload } = *record;
    Frame { sequence, timestamp_ms, event, payload }
}

/// An end behind which nothing can remain to be done, whatever a hole hides. `saga_aborted` is none:
/// it ends a saga only if nothing remains to be undone.
fn final_end(event: &saga::Event) -> Option<End> {
    match event {
        saga::Event::Completed => Some(End::Completed),
        saga::Event::Compensated => Some(End::Compensated),
        _ => None,
    }
}

impl Orphan {
    fn at(sequence: Sequence) -> Orphan {
        Orphan { first: sequence, last: sequence, turned: false }
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
            parent: None,
        }
    }
}

impl Visitor for Replay {
    fn record(&mut self, record: &Record<'_>, _place: Place) {
        self.look_over_the_hole(record.sequence);
        let first = self.last == Sequence::NONE;
        self.last = record.sequence;
        if let Some(part) = SnapshotPart::of(record.event, record.payload) {
            self.part(record, part, first);
            return;
        }
        match codec::decode(record.event, record.payload) {
            Ok(Fact::Saga { id, event }) => self.saga(record, id, &event),
            Ok(Fact::Transaction { id, event }) => self.transaction(record, id, &event),
            Ok(Fact::Participant(event)) => self.participant(record, &event),
            Ok(Fact::Heuristic(event)) => self.heuristic(record.sequence, &event),
            Ok(Fact::Step(outcome)) => {
                self.effects.push((record.sequence, LocalEffect::Step(outcome)));
            }
            Ok(Fact::Marker) => {}
            Ok(Fact::InDoubt(doubt)) => self.doubt(record.sequence, doubt),
            Err(error) => {
                self.anomaly(record.sequence, error);
                self.note_unknown(record.sequence, error);
                if error == CodecError::Extensions(EventType::TX_COMMIT_START) {
                    self.unreadable_commit(record);
                }
                if record.event == EventType::IN_DOUBT {
                    // It says that something is in doubt, and not what.
                    self.hide_records();
                }
            }
        }
    }

    fn guard(&mut self, guard: &Guard, _place: Place) {
        self.look_over_the_hole(guard.first);
    }

    fn not_understood(&self) -> Option<NotUnderstood> {
        self.not_understood
    }

    /// Records may be missing here. In a log whose batches prove the numbers of their records, none is
    /// if the next one's number is the next. In a raw stream nothing proves a number.
    fn hole(&mut self, hole: &Corruption) {
        if hole.segment.is_none() {
            self.damaged = true;
            self.hide_records();
        } else {
            self.hole_ahead = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ShardId;
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
                fingerprint: None,
                parent: None,
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

    /// An end without its promise is an anomaly; unless the log begins with a snapshot, of which the promise may be a
    /// later part.
    #[test]
    fn an_end_of_what_was_never_promised_is_an_anomaly() {
        let tx = twopc::TxKey { coordinator: CoordinatorId::numbered(1), id: OperationId(9) };
        let key = twopc::participant::PromiseKey { tx, shard: ShardId::numbered(1) };
        let mut payload = Vec::new();
        let of = ParticipantEvent::Committed { key, epoch: Epoch::new(1) };
        let event = codec::encode_participant(&of, &mut payload);
        let record = Record { sequence: Sequence(7), event, timestamp_ms: 0, payload: &payload };
        for (base, anomalies) in [(None, 1), (Some(Base::default()), 0)] {
            let mut replay = Replay { base, ..Replay::default() };
            replay.participant(&record, &of);
            assert_eq!(replay.anomalies.total(), anomalies);
        }
    }
}
