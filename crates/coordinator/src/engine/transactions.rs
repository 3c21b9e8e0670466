//! Transactions: submitted, told, decided, sent and ended; and those that wait for a participant that is not known yet.

use super::desk::{Desk, Pace, Sent};
use super::steps::{Errand, Origin};
use super::{Asked, EndedAs, Engine, Known, OpRef, steps};
use crate::codec;
use crate::message::Message;
use crate::output::{Branch, Outcome, Output, Refusal};
use crate::snapshot::{Ended, EndedHow, Trail};
use base::prng::Key;
use base::{BootCount, NodeName, OperationId, RequestKey, Sequence, StoreId, Time};
use std::sync::Arc;
use twopc::coordinator::{Decision, Member};
use twopc::{Peer, Transaction, TxKey, Verdict};

#[derive(Clone, Debug)]
pub(super) struct TransactionOp {
    pub(super) machine: Transaction,
    /// What each member is asked to do. Empty after a restart: nothing is prepared again then.
    pub(super) work: Vec<Arc<[u8]>>,
    pub(super) peers: Arc<[Peer]>,
    pub(super) sent: Sent,
    pub(super) pace: Pace,
    pub(super) aborts_sent: u32,
    /// It does a step of a saga's, which knows what it came to.
    pub(super) told_parent: bool,
    /// Its records, for the next snapshot.
    pub(super) trail: Trail,
}

#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) branches: Vec<Branch>,
    /// The places of their nodes.
    pub(super) places: Vec<u32>,
    /// How many of their nodes have not announced themselves.
    missing: u32,
    pub(super) fingerprint: u128,
    pub(super) pace: Pace,
}

/// Whether a node has announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    /// Not yet. These wait for it; some may have given up since.
    Expected(Vec<u64>),
    As(StoreId, BootCount),
}

impl Engine {
    pub(super) fn submit_transaction(
        &mut self,
        now: Time,
        key: &RequestKey,
        branches: Vec<Branch>,
        fingerprint: u128,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let active_max = self.desk.config.active_transactions_max;
        // One that does a step of a saga was let in with that one.
        let of_clients = || {
            let waiting = self.waiting.values().filter(|it| matches!(it.origin, Origin::Client(_)));
            let begun = self.transactions.values().filter(|op| op.machine.parent().is_none());
            waiting.count() + begun.count()
        };
        if self.transactions.len() + self.waiting.len() >= active_max as usize
            && of_clients() >= active_max as usize
        {
            return Err(Refusal::TooManyActive { active_max });
        }
        self.begin_or_wait(now, Origin::Client(key.clone()), branches, fingerprint, out)
    }

    /// Begins a transaction once every one of its nodes has announced itself.
    pub(super) fn begin_or_wait(
        &mut self,
        now: Time,
        origin: Origin,
        branches: Vec<Branch>,
        fingerprint: u128,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let nodes = &mut self.nodes;
        let places: Vec<u32> = branches.iter().map(|branch| nodes.place(branch.node)).collect();
        if places.iter().all(|place| nodes.has_announced(*place)) {
            return self.begin_transaction(now, origin, branches, &places, fingerprint, out);
        }
        let named = branches.iter().map(|branch| branch.node).zip(&places);
        let mut unknown: Vec<(NodeName, u32)> = named
            .filter(|(_, place)| !nodes.has_announced(**place))
            .map(|(node, place)| (node, *place))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        let number = self.waited;
        self.waited += 1;
        let missing = unknown.len() as u32;
        for (node, place) in unknown {
            // Whoever waits for it already has asked, and asks again.
            let known = &mut self.nodes.announced[place as usize];
            let Announced::Expected(others) = known else { continue };
            others.retain(|other| self.waiting.contains_key(other));
            if others.is_empty() {
                out.push(Output::Send { to: node, message: Message::Hello });
            }
            others.push(number);
        }
        let mut pace = Pace::new(now);
        self.desk.schedule(&mut pace, now, OpRef::Waiting(number));
        let known = Known::Active(OpRef::Waiting(number));
        match &origin {
            Origin::Client(key) => {
                let fingerprint = Some(fingerprint);
                self.requests.insert(key.clone(), Asked { known, fingerprint });
            }
            Origin::Step(parent) => _ = self.children.insert(*parent, OpRef::Waiting(number)),
        }
        let waiting = Waiting { origin, branches, places, missing, fingerprint, pace };
        self.waiting.insert(number, waiting);
        Ok(())
    }

    /// The list of peers is fixed here, before the first PREPARE leaves.
    fn begin_transaction(
        &mut self,
        now: Time,
        origin: Origin,
        branches: Vec<Branch>,
        places: &[u32],
        fingerprint: u128,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let announced = |(branch, place): (&Branch, &u32)| {
            let Announced::As(store, boot) = self.nodes.announced[*place as usize] else {
                unreachable!(
                    "a transaction begins once all of its nodes have announced themselves"
                );
            };
            Peer { shard: branch.shard, node: branch.node, store, boot }
        };
        let peers: Arc<[Peer]> = branches.iter().zip(places).map(announced).collect();
        let members: Vec<Member> = peers.iter().copied().map(Member::at).collect();
        let id = self.draw_id()?;
        let coordinator = self.desk.config.id;
        let (request_key, fingerprint) = match &origin {
            Origin::Client(key) => (Some(key.clone()), Some(fingerprint)),
            Origin::Step(_) => (None, None),
        };
        let events = match members[..] {
            [member] if self.desk.config.one_phase => {
                Transaction::one_phase_admission(coordinator, request_key, fingerprint, member)
            }
            _ => Transaction::admission(coordinator, request_key, fingerprint, &members)
                .map_err(Refusal::Participants)?,
        };
        let events = match origin {
            Origin::Client(_) => events,
            Origin::Step(parent) => Transaction::on_behalf_of(parent, events),
        };
        let decision = twopc::coordinator::Event::CommitStart { members };
        // Each branch votes, and the end is the last record: room for all of it is made at once.
        let more = branches.len() * codec::VOTE_PAYLOAD_BYTES + codec::END_PAYLOAD_BYTES;
        let mut room = (branches.len() + 1, more);
        let lengths = events.iter().chain([&decision]).map(codec::transaction_payload_bytes);
        self.desk.check_admission(lengths.inspect(|bytes| room = (room.0 + 1, room.1 + bytes)))?;
        let work = branches.iter().map(|branch| branch.work.len()).max();
        self.desk.check_payload(codec::prepared_bytes(work.unwrap_or(0), branches.len()))?;
        let [created, events @ ..] = &events[..] else {
            unreachable!("an admission begins with a creation");
        };
        let mut trail = self.desk.spare_trails.begin(room.0, room.1);
        let encode = |payload: &mut Vec<u8>| codec::encode_transaction(id, created, payload);
        let appended = self.desk.log.append_kept(now, &mut trail, out, encode);
        let at = appended.map_err(|_| Refusal::LogBusy)?;
        let op = TransactionOp {
            machine: Transaction::created(id, at, created)
                .expect("the first event of an admission is a creation"),
            work: branches.into_iter().map(|branch| branch.work).collect(),
            peers,
            sent: Sent::default(),
            pace: Pace::new(now),
            aborts_sent: 0,
            told_parent: false,
            trail,
        };
        let op = self.transactions.entry(id).or_insert_with(|| Box::new(op));
        let known = Known::Active(OpRef::Transaction(id));
        match origin {
            Origin::Client(key) => {
                self.requests.insert(key, Asked { known, fingerprint });
            }
            Origin::Step(parent) => {
                self.children.insert(parent, OpRef::Transaction(id));
            }
        }
        for event in events {
            let recorded = self.desk.record_transaction(now, op, event, out);
            assert!(recorded, "the log had room for the whole admission");
        }
        self.desk.advance_transaction(now, op, true, out);
        Ok(())
    }

    pub(super) fn announced(
        &mut self,
        now: Time,
        from: NodeName,
        store: StoreId,
        boot: BootCount,
        out: &mut Vec<Output>,
    ) {
        let place = self.nodes.place(from);
        let mut waiting = Vec::new();
        match &mut self.nodes.announced[place as usize] {
            Announced::As(known, newest) => {
                // A late announcement of an earlier start is worth less than a newer one.
                if *known != store || *newest < boot {
                    (*known, *newest) = (store, boot);
                }
            }
            expected @ Announced::Expected(_) => {
                let before = std::mem::replace(expected, Announced::As(store, boot));
                if let Announced::Expected(numbers) = before {
                    waiting = numbers;
                }
            }
        }
        let mut ready = Vec::new();
        for number in waiting {
            let Some(waiting) = self.waiting.get_mut(&number) else { continue };
            waiting.missing -= 1;
            if waiting.missing == 0 {
                ready.push(number);
            }
        }
        for number in ready {
            let Some(waiting) = self.waiting.remove(&number) else { continue };
            let Waiting { origin, branches, places, fingerprint, pace, .. } = waiting;
            self.desk.forget_timer(&pace, OpRef::Waiting(number));
            let of = origin.clone();
            let begun = self.begin_transaction(now, of, branches, &places, fingerprint, out);
            if let Err(refusal) = begun {
                if let Origin::Step(parent) = origin {
                    self.unbegun.insert(parent, refusal.clone());
                }
                self.forget_waiting(number, origin, Outcome::Refused(refusal), out);
            }
        }
    }

    // ---- transactions ----

    pub(super) fn receive_transaction(
        &mut self,
        now: Time,
        from: NodeName,
        message: &twopc::Message,
        out: &mut Vec<Output>,
    ) {
        let key = message.key();
        if key.coordinator != self.desk.config.id {
            return;
        }
        match *message {
            twopc::Message::Vote { shard, vote, store, boot, .. } => {
                let input = twopc::coordinator::Input::Vote { shard, vote };
                // The vote says which boot cast it: a NO of a restarted participant is how its
                // coordinator learns of the restart. Of one that is as the list says it learns nothing.
                let listed = Some((store, boot));
                if let Some(op) = self.transactions.get_mut(&key.id)
                    && op.machine.member(shard).is_some_and(|m| m.node == from && m.store == listed)
                {
                    self.desk.tell_transaction(now, op, &input, out);
                    if op.machine.ended().is_some() {
                        self.end_transaction(now, key.id);
                    }
                } else {
                    self.announced(now, from, store, boot, out);
                    self.tell_transaction(now, key.id, &input, out);
                }
            }
            twopc::Message::Ack { shard, heuristic, .. } => {
                if let Some(heuristic) = heuristic
                    && !self.report(now, from, (key, shard), heuristic, out)
                {
                    return;
                }
                self.acknowledged(now, key.id, shard, out);
            }
            twopc::Message::Inquiry { shard, .. } => {
                let Some(verdict) = self.verdict(key.id) else { return };
                let epoch = self.desk.epoch;
                let answer = twopc::Message::Answer { key, epoch, shard, verdict };
                out.push(Output::Send { to: from, message: Message::Transaction(answer) });
            }
            _ => {}
        }
    }

    /// What an inquiry is answered; nothing about an id of a later epoch: a successor drew it.
    pub(super) fn verdict(&self, id: OperationId) -> Option<Verdict> {
        if let Some(op) = self.transactions.get(&id) {
            return Some(match op.machine.decision() {
                Some(Decision::Commit) if self.desk.log.is_durable(op.machine.evidence()) => {
                    Verdict::Committed
                }
                Some(Decision::Commit) | None => Verdict::Pending,
                Some(Decision::Abort | Decision::ReadOnly) => Verdict::Aborted,
            });
        }
        if let Some(decision) = self.decided.get(&id) {
            return Some(match decision {
                Decision::Commit => Verdict::Committed,
                Decision::Abort | Decision::ReadOnly => Verdict::Aborted,
            });
        }
        if let Some(commit) = self.heuristics.decision(id) {
            // Long ended, and somebody may ask all the same: who was said to be gone for good.
            return Some(if commit { Verdict::Committed } else { Verdict::Aborted });
        }
        if self.transactions_in_doubt.contains_key(&id)
            || self.unknown_ids_up_to.is_some_and(|up_to| id.epoch() <= up_to)
        {
            return Some(Verdict::InDoubt);
        }
        // The log was replayed whole: of an earlier epoch it would hold a commit decision, had there
        // been one. Of this epoch whatever was drawn and is not known has ended long ago.
        let drawn = id.epoch() == self.desk.epoch && id.counter() <= self.ids_drawn;
        (id.epoch() < self.desk.epoch || drawn).then_some(Verdict::Aborted)
    }

    /// True if the input was worth a fact.
    pub(super) fn tell_transaction(
        &mut self,
        now: Time,
        id: OperationId,
        input: &twopc::coordinator::Input,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(op) = self.transactions.get_mut(&id) else { return false };
        let told = self.desk.tell_transaction(now, op, input, out);
        if op.machine.ended().is_some() {
            self.end_transaction(now, id);
        }
        told
    }

    /// What is kept of a transaction that has ended: the answers to those who ask late.
    pub(super) fn end_transaction(&mut self, now: Time, id: OperationId) {
        if let Some(op) = self.transactions.get(&id)
            && op.machine.parent().is_some()
            && !op.told_parent
        {
            // Its only participant has said so: whose step it does has still to be told.
            self.desk.errands.push_back(Errand::Child(OpRef::Transaction(id)));
            return;
        }
        let Some(op) = self.transactions.remove(&id) else { return };
        self.desk.forget_timer(&op.pace, OpRef::Transaction(id));
        let Some(decision) = op.machine.ended() else { return };
        self.decided.insert(id, decision);
        let at = op.machine.evidence();
        let request_key = op.machine.request_key().cloned();
        let mut fingerprint = None;
        if let Some(key) = &request_key {
            let told_after = op.machine.told_after(decision);
            let outcome = EndedAs::Transaction(decision);
            fingerprint = self.end_request(key, Known::Ended { at, told_after, outcome });
        }
        self.desk.spare_trails.keep(op.trail);
        let how = EndedHow::Transaction(decision);
        self.remember(now, Ended { id, how, at, request_key, fingerprint });
        match decision {
            Decision::Commit => self.desk.stats.committed += 1,
            Decision::Abort => self.desk.stats.aborted += 1,
            Decision::ReadOnly => self.desk.stats.read_only += 1,
        }
    }

    pub(super) fn wake_transaction(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.transactions.get_mut(&id) else { return };
        if op.machine.parent().is_some() && !op.told_parent {
            // Its saga may have had no room for it.
            self.desk.errands.push_back(Errand::Child(OpRef::Transaction(id)));
        }
        let late = now >= op.pace.started + self.desk.config.prepare_timeout;
        // With every vote in, it is not late: the log had no room for the decision.
        let is_voted = op.machine.settle().is_some();
        let input = match op.machine.decision() {
            None if late && !is_voted && !op.machine.is_delegated() => {
                twopc::coordinator::Input::TimedOut
            }
            // Whose step it does has to know first that an operator ended it: no other one may begin.
            Some(Decision::Abort)
                if op.aborts_sent >= self.desk.config.abort_sends_max
                    && !(op.machine.is_forced() && steps::owes_parent(op)) =>
            {
                twopc::coordinator::Input::AbortsSent
            }
            _ => {
                self.desk.send_transaction(now, op, true, out);
                self.desk.advance_transaction(now, op, false, out);
                if op.machine.ended().is_some() {
                    self.end_transaction(now, id);
                }
                return;
            }
        };
        if !self.tell_transaction(now, id, &input, out)
            && let Some(op) = self.transactions.get_mut(&id)
        {
            self.desk.schedule(&mut op.pace, now, OpRef::Transaction(id));
        }
    }

    /// What waited for its nodes has not begun. A step asks anew when its saga is looked at again.
    fn forget_waiting(
        &mut self,
        number: u64,
        origin: Origin,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        match origin {
            Origin::Client(key) => {
                self.requests.remove(&key);
                out.push(Output::Reply { key, outcome });
            }
            Origin::Step(parent) => self.forget_child(parent, OpRef::Waiting(number)),
        }
    }

    pub(super) fn wake_waiting(&mut self, now: Time, number: u64, out: &mut Vec<Output>) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        if now >= waiting.pace.started + self.desk.config.prepare_timeout {
            let Some(waiting) = self.waiting.remove(&number) else { return };
            self.forget_waiting(number, waiting.origin, Outcome::Aborted, out);
            return;
        }
        for (branch, place) in waiting.branches.iter().zip(&waiting.places) {
            if !self.nodes.has_announced(*place) {
                out.push(Output::Send { to: branch.node, message: Message::Hello });
            }
        }
        self.desk.schedule(&mut waiting.pace, now, OpRef::Waiting(number));
    }
}

/// By which the branches of a transaction are known again. It is in logs: it never changes.
pub(super) fn fingerprint_of(key: &Key, branches: &[Branch]) -> u128 {
    let mut hash = [branches.len() as u64, 1];
    let mut words = |first: u64, second: u64| {
        let draw = key.draw(hash[0] ^ first, hash[1] ^ second);
        hash = [draw.u64(), draw.nth(1).u64()];
    };
    for branch in branches {
        words(branch.work.len() as u64, 0);
        let mut whole = |bytes: [u8; 16]| {
            let whole = u128::from_le_bytes(bytes);
            words(whole as u64, (whole >> 64) as u64);
        };
        for name in [&branch.shard.0, &branch.node.0] {
            name.as_chunks().0.iter().for_each(|chunk| whole(*chunk));
        }
        let (chunks, rest) = branch.work.as_chunks();
        chunks.iter().for_each(|chunk| whole(*chunk));
        if !rest.is_empty() {
            let mut last = [0; 16];
            last[..rest.len()].copy_from_slice(rest);
            whole(last);
        }
    }
    u128::from(hash[0]) | u128::from(hash[1]) << 64
}

impl Desk {
    /// True if the input was worth a fact.
    pub(super) fn tell_transaction(
        &mut self,
        now: Time,
        op: &mut TransactionOp,
        input: &twopc::coordinator::Input,
        out: &mut Vec<Output>,
    ) -> bool {
        let fact = op.machine.decide(input);
        if let Some(event) = &fact
            && !self.record_transaction(now, op, event, out)
        {
            return false;
        }
        let restarted = matches!(input, twopc::coordinator::Input::Restarted { .. });
        let vote = matches!(fact, Some(twopc::coordinator::Event::VoteReceived { .. }));
        if fact.is_some() || restarted {
            self.advance_transaction(now, op, !vote, out);
        }
        fact.is_some()
    }

    /// Settles, and sends what has come to be owed. `owes_more`: the last fact added to it, which a
    /// vote or an acknowledgement alone never does.
    pub(super) fn advance_transaction(
        &mut self,
        now: Time,
        op: &mut TransactionOp,
        mut owes_more: bool,
        out: &mut Vec<Output>,
    ) {
        while let Some(event) = op.machine.settle() {
            let step = op.machine.parent().is_some();
            if step && !op.told_parent && steps::is_end(&event) {
                break;
            }
            if !self.record_transaction(now, op, &event, out) {
                return;
            }
            owes_more = true;
        }
        if op.machine.parent().is_some() && !op.told_parent {
            self.errands.push_back(Errand::Child(OpRef::Transaction(op.machine.id())));
        }
        if owes_more {
            op.pace.attempt = 0;
            self.send_transaction(now, op, false, out);
        }
    }

    /// Appends a fact and applies it. False if the log takes nothing more just now: then the machine
    /// still owes the fact, or the input comes again, and the operation's timer asks anew.
    pub(super) fn record_transaction(
        &mut self,
        now: Time,
        op: &mut TransactionOp,
        event: &twopc::coordinator::Event,
        out: &mut Vec<Output>,
    ) -> bool {
        let id = op.machine.id();
        let encode = |payload: &mut Vec<u8>| codec::encode_transaction(id, event, payload);
        let appended = self.log.append_kept(now, &mut op.trail, out, encode);
        let Ok(sequence) = appended else { return false };
        op.machine.apply(sequence, event).expect("a machine decides only what it may apply");
        true
    }

    /// Sends what a transaction owes: what was never sent, or, to `resend`, all of it.
    fn send_transaction(
        &mut self,
        now: Time,
        op: &mut TransactionOp,
        resend: bool,
        out: &mut Vec<Output>,
    ) {
        use twopc::coordinator::Effect;
        let id = op.machine.id();
        let (key, epoch) = (TxKey { coordinator: self.config.id, id }, self.epoch);
        let mut owed = std::mem::take(&mut self.owed_transaction);
        op.machine.pending(&mut owed);
        let mut aborts = 0;
        for effect in owed.drain(..) {
            let fresh = op.sent.mark(effect.slot());
            if !fresh && !resend {
                continue;
            }
            let (after, at) = match effect {
                Effect::Tell { decision, after } => {
                    if let (true, Some(key)) = (fresh, op.machine.request_key()) {
                        let reply = Output::Reply { key: key.clone(), outcome: decision.into() };
                        self.log.owe(after, reply, out);
                    }
                    continue;
                }
                Effect::Prepare { member } | Effect::Abort { member } => (Sequence::NONE, member),
                Effect::Delegate { member, after } | Effect::Commit { member, after } => {
                    // The first one still waits for the beginning, or the decision, to be durable.
                    if !fresh && !self.log.is_durable(after) {
                        continue;
                    }
                    (after, member)
                }
            };
            let Member { shard, node: to, .. } = op.machine.members()[at as usize];
            let send = |message| Output::Send { to, message: Message::Transaction(message) };
            let work = || op.work.get(at as usize).cloned();
            match effect {
                Effect::Tell { .. } => {}
                Effect::Prepare { .. } => {
                    let Some(work) = work() else { continue };
                    let (peers, one_phase) = (op.peers.clone(), false);
                    self.log.owe_made(after, out, || {
                        send(twopc::Message::Prepare { key, epoch, shard, peers, work, one_phase })
                    });
                }
                Effect::Delegate { .. } => {
                    let message = match work() {
                        Some(work) => {
                            let (peers, one_phase) = (op.peers.clone(), true);
                            twopc::Message::Prepare { key, epoch, shard, peers, work, one_phase }
                        }
                        None => twopc::Message::Resolve { key, epoch, shard },
                    };
                    self.log.owe(after, send(message), out);
                }
                Effect::Commit { .. } => {
                    let store = op.machine.store_to_commit(at);
                    self.log.owe_made(after, out, || {
                        send(twopc::Message::Commit { key, epoch, shard, store })
                    });
                }
                Effect::Abort { .. } => {
                    aborts += 1;
                    let abort = twopc::Message::Abort { key, epoch, shard };
                    self.log.owe(after, send(abort), out);
                }
            }
        }
        self.owed_transaction = owed;
        op.aborts_sent += u32::from(aborts > 0);
        if op.machine.decision() == Some(Decision::Abort) && aborts == 0 {
            op.aborts_sent = self.config.abort_sends_max;
        }
        // One that has ended goes on as long as the saga of its step has to be told.
        if op.machine.ended().is_some() && !steps::owes_parent(op) {
            return;
        }
        self.schedule(&mut op.pace, now, OpRef::Transaction(id));
        if op.machine.decision().is_none() && !op.machine.is_delegated() {
            let deadline = op.pace.started + self.config.prepare_timeout;
            // One that is past was not heeded since the log has no room: it is not looked at again at once.
            if deadline > now {
                self.not_later_than(&mut op.pace, deadline, OpRef::Transaction(id));
            }
        }
    }
}
