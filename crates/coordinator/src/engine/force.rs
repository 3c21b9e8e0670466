//! What an operator forces where nobody else can decide, and the branches that end otherwise.

use super::{Asked, Engine, Known, OpRef, Pace, Sent, TransactionOp};
use crate::codec;
use crate::message::Message;
use crate::output::{Doubtful, Force, ForceError, Intervened, Intervention, Output};
use crate::replay::begun;
use crate::snapshot::{Ended, EndedHow, Kind};
use base::{NodeName, OperationId, Sequence, ShardId, Time};
use saga::End;
use std::sync::Arc;
use twopc::heuristic::Reported;
use twopc::{Audit, ForceRefusal, Heuristic, TxKey, Verdict, heuristic};

impl Engine {
    /// An operator ends a transaction that nobody else decides, or a saga in doubt, or forgets what was reported
    /// of a transaction.
    /// It is logged, and forced; [`Output::Intervened`] tells once it is durable, or why it is not done.
    pub fn intervene(&mut self, now: Time, what: &Intervention, out: &mut Vec<Output>) {
        let Intervention { of, force, ref audit } = *what;
        let done = match of {
            _ if self.dead => Err(ForceError::LogBusy),
            Doubtful::Branch(_) => Err(ForceError::NotHere),
            Doubtful::Saga(id) => match force {
                Force::Commit => self.end_doubtful(now, id, End::Completed, audit, out),
                Force::Abort => self.end_doubtful(now, id, End::Compensated, audit, out),
                Force::Forget => Err(ForceRefusal::NotListed.into()),
                Force::Gone(_) => Err(ForceRefusal::NotAwaited.into()),
            },
            Doubtful::Transaction(id) => match force {
                Force::Commit => self.force(now, id, true, audit, out),
                Force::Abort => self.force(now, id, false, audit, out),
                Force::Forget => self.forget(now, id, audit, out),
                Force::Gone(shard) => self.participant_gone(now, id, shard, audit, out),
            },
        };
        let result = done.map(|_| ());
        let told = Output::Intervened(Box::new(Intervened { of, force, result }));
        self.run_errands(now, out);
        match done {
            Ok(after) => self.desk.log.owe(after, told, out),
            Err(_) => out.push(told),
        }
    }

    /// The record after which it is done.
    fn force(
        &mut self,
        now: Time,
        id: OperationId,
        commit: bool,
        audit: &Arc<Audit>,
        out: &mut Vec<Output>,
    ) -> Result<Sequence, ForceError> {
        if let Some(op) = self.transactions.get_mut(&id) {
            // Nobody in doubt: it ends by itself, unless its only participant decides.
            if op.machine.decision().is_none() && !op.machine.is_delegated() {
                return Err(ForceRefusal::NotInDoubt.into());
            }
            let Some(event) = op.machine.force(commit, audit)? else {
                return Ok(op.machine.evidence());
            };
            if !self.desk.record_transaction(now, op, &event, out) {
                return Err(ForceError::LogBusy);
            }
            let at = op.machine.evidence();
            // Whatever was sent of it was sent of one in one phase.
            op.sent = Sent::default();
            self.desk.advance_transaction(now, op, true, out);
            if op.machine.ended().is_some() {
                self.end_transaction(now, id);
            }
            return Ok(at);
        }
        if let Some(decision) = self.decided.get(&id) {
            let commit = *decision == twopc::coordinator::Decision::Commit;
            return Err(ForceRefusal::Decided { commit }.into());
        }
        if !self.transactions_in_doubt.contains_key(&id) {
            return Err(ForceRefusal::NotInDoubt.into());
        }
        self.force_doubtful(now, id, commit, audit, out)
    }

    /// One that is in doubt is from then on as active as any.
    fn force_doubtful(
        &mut self,
        now: Time,
        id: OperationId,
        commit: bool,
        audit: &Arc<Audit>,
        out: &mut Vec<Output>,
    ) -> Result<Sequence, ForceError> {
        // A snapshot that is being written may be past the active ones, and would leave it out.
        if self.desk.log.log().is_compacting() || self.snapshot.is_some() {
            return Err(ForceError::LogBusy);
        }
        let mine = |doubtful: &crate::snapshot::DoubtfulTrail| {
            doubtful.kind == Kind::Transaction && doubtful.id == id
        };
        let Some(place) = self.doubtful.iter().position(mine) else {
            unreachable!("what is in doubt has a trail, if an empty one");
        };
        let known = self.transactions_in_doubt.get(&id).and_then(Option::as_deref);
        let (machine, trail) = match known {
            // Whatever the log still says of an abort proves nothing, and nobody acted upon it.
            Some(machine) if machine.decision().is_none() => {
                (machine.clone(), self.doubtful[place].trail.clone())
            }
            Some(machine) => begun(id, machine.members(), machine.request_key().cloned()),
            None => begun(id, &[], None),
        };
        let event = machine.force(commit, audit)?.expect("nobody has decided it");
        let request_key = machine.request_key().cloned();
        let op = TransactionOp {
            machine,
            work: Vec::new(),
            peers: Arc::new([]),
            sent: Sent::default(),
            pace: Pace::new(now),
            aborts_sent: 0,
            told_parent: false,
            trail,
        };
        let op = self.transactions.entry(id).or_insert_with(|| Box::new(op));
        if !self.desk.record_transaction(now, op, &event, out) {
            self.transactions.remove(&id);
            return Err(ForceError::LogBusy);
        }
        let at = op.machine.evidence();
        self.doubtful.remove(place);
        self.transactions_in_doubt.remove(&id);
        if let Some(key) = request_key {
            let known = Known::Active(OpRef::Transaction(id));
            self.requests.insert(key, Asked { known, fingerprint: None });
        }
        if let Some(parent) = op.machine.parent() {
            // Whose step it did may be in doubt as well: then it waits until that has been seen to.
            self.children.entry(parent).or_insert(OpRef::Transaction(id));
        }
        self.desk.advance_transaction(now, op, true, out);
        if op.machine.ended().is_some() {
            self.end_transaction(now, id);
        }
        Ok(at)
    }

    /// How a saga in doubt has ended, an operator says; or one of which no record is left but those of what ran
    /// for its steps. Those end then.
    fn end_doubtful(
        &mut self,
        now: Time,
        id: OperationId,
        end: End,
        audit: &Arc<Audit>,
        out: &mut Vec<Output>,
    ) -> Result<Sequence, ForceError> {
        audit.check()?;
        let hidden = self.unknown_ids_up_to.is_some_and(|up_to| id.epoch() <= up_to);
        let known = self.sagas.contains_key(&id) || self.window.has_saga(id);
        let waited_for = hidden && !known && self.children_of(id).next().is_some();
        if !self.sagas_in_doubt.contains_key(&id) && !waited_for {
            return Err(ForceRefusal::NotInDoubt.into());
        }
        // A snapshot that is being written may be past what is in doubt.
        if self.desk.log.log().is_compacting() || self.snapshot.is_some() {
            return Err(ForceError::LogBusy);
        }
        let completed = end == End::Completed;
        let encode = |payload: &mut Vec<u8>| codec::encode_saga_end(id, completed, audit, payload);
        let at = self.desk.log.append(now, out, encode).map_err(|_| ForceError::LogBusy)?;
        let request_key = self.sagas_in_doubt.remove(&id).flatten();
        self.doubtful.retain(|it| (it.kind, it.id) != (Kind::Saga, id));
        let (mut fingerprint, how) = (None, EndedHow::Saga(end));
        if let Some(key) = &request_key {
            let (told_after, outcome) = (at, how.into());
            fingerprint = self.end_request(key, Known::Ended { at, told_after, outcome });
        }
        self.remember(now, Ended { id, how, at, request_key, fingerprint });
        self.release_children(id);
        Ok(at)
    }

    fn forget(
        &mut self,
        now: Time,
        id: OperationId,
        audit: &Arc<Audit>,
        out: &mut Vec<Output>,
    ) -> Result<Sequence, ForceError> {
        let event = self.heuristics.forget(id, audit)?;
        self.record_heuristic(now, &event, out).ok_or(ForceError::LogBusy)
    }

    /// A participant that is gone for good is not waited for any more. That is in the log before the end that rests on
    /// it, and so is known after a restart if the end is not.
    fn participant_gone(
        &mut self,
        now: Time,
        id: OperationId,
        shard: ShardId,
        audit: &Arc<Audit>,
        out: &mut Vec<Output>,
    ) -> Result<Sequence, ForceError> {
        audit.check()?;
        let op = self.transactions.get(&id);
        let Some(member) = op.and_then(|op| op.machine.awaited(shard)) else {
            return Err(ForceRefusal::NotAwaited.into());
        };
        let (node, heuristic) = (member.node, Heuristic::Lost);
        let at = match self.heuristics.get(id, shard) {
            // It has reported something itself, and has not been heard to acknowledge.
            Some(listed) => listed.at,
            None => {
                let event = heuristic::Event::Gone { id, shard, node, audit: audit.clone() };
                let recorded = self.record_heuristic(now, &event, out);
                let at = recorded.ok_or(ForceError::LogBusy)?;
                self.desk.stats.heuristic += 1;
                self.desk.log.owe(at, Output::Heuristic { id, shard, node, heuristic }, out);
                at
            }
        };
        self.acknowledged(now, id, shard, out);
        Ok(at)
    }

    /// A branch needs no COMMIT any more.
    pub(super) fn acknowledged(
        &mut self,
        now: Time,
        id: OperationId,
        shard: ShardId,
        out: &mut Vec<Output>,
    ) {
        let Some(op) = self.transactions.get_mut(&id) else { return };
        if op.machine.acknowledge(shard) {
            self.desk.advance_transaction(now, op, false, out);
            if op.machine.ended().is_some() {
                self.end_transaction(now, id);
            }
        }
    }

    fn record_heuristic(
        &mut self,
        now: Time,
        event: &heuristic::Event,
        out: &mut Vec<Output>,
    ) -> Option<Sequence> {
        let coordinator = self.desk.config.id;
        let encode = |payload: &mut Vec<u8>| codec::encode_heuristic(coordinator, event, payload);
        let at = self.desk.log.append(now, out, encode).ok()?;
        self.heuristics.apply(at, event).expect("what is decided may be applied");
        Some(at)
    }

    /// A participant says that its branch has ended otherwise: that is logged before it counts, and the
    /// participant hears that it is. False if nothing is to be done with it now; it comes again.
    pub(super) fn report(
        &mut self,
        now: Time,
        from: NodeName,
        (key, shard): (TxKey, ShardId),
        heuristic: Heuristic,
        out: &mut Vec<Output>,
    ) -> bool {
        let against = match self.verdict(key.id) {
            Some(Verdict::Committed) => heuristic.commits(),
            Some(Verdict::Aborted) => !heuristic.commits(),
            Some(Verdict::Pending | Verdict::InDoubt) | None => false,
        };
        if !against {
            return false;
        }
        let at = match self.heuristics.decide(key.id, shard, from, heuristic) {
            Some(event) => {
                let Some(at) = self.record_heuristic(now, &event, out) else { return false };
                self.desk.stats.heuristic += 1;
                let (id, node) = (key.id, from);
                self.desk.log.owe(at, Output::Heuristic { id, shard, node, heuristic }, out);
                at
            }
            None => self.heuristics.get(key.id, shard).map_or(Sequence::NONE, |it| it.at),
        };
        let noted = twopc::Message::Noted { key, epoch: self.desk.epoch, shard };
        let message = Message::Transaction(noted);
        self.desk.log.owe(at, Output::Send { to: from, message }, out);
        true
    }

    /// The branches that ended otherwise than their transactions, until an operator forgets them.
    pub fn heuristics(&self) -> impl Iterator<Item = (OperationId, ShardId, &Reported)> {
        self.heuristics.iter()
    }
}
