//! Sagas: submitted, told, advanced, called on and timed.

use super::desk::{Desk, Pace, Sent};
use super::steps::{Errand, Origin};
use super::{Asked, EndedAs, Engine, Known, OpRef, steps};
use crate::codec;
use crate::message::{Call, Message, SagaKey, UndoOrder};
use crate::output::{Output, Refusal};
use crate::snapshot::{Ended, EndedHow, Trail};
use base::{OperationId, RequestKey, Time, Token};
use saga::{Direction, Label, Saga};
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::time::Duration;
use wal_core::EventType;

#[derive(Clone, Debug)]
pub(super) struct SagaOp {
    pub(super) machine: Saga,
    /// The client's saga that it is, or is a part of; `None`: that is not active.
    pub(super) root: Option<OperationId>,
    pub(super) sent: Sent,
    pub(super) pace: Pace,
    /// The calls that are made and not answered.
    pub(super) calls: Vec<Called>,
    /// The action of one of its steps for which there is no code: nothing of it is called.
    pub(super) held: Option<Label>,
    /// Its records, for the next snapshot.
    pub(super) trail: Trail,
}

/// A call of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called {
    pub(super) step: u32,
    pub(super) direction: Direction,
    /// When it was first called.
    pub(super) since: Time,
    pub(super) attempts: u32,
    /// How many transactions on its behalf have been voted down.
    pub(super) refused: u32,
    /// Nobody waits any longer for what runs on its behalf: it is being ended.
    pub(super) given_up: bool,
}

impl SagaOp {
    pub(super) fn new(
        machine: Saga,
        root: Option<OperationId>,
        now: Time,
        actions: Option<&BTreeSet<Label>>,
        trail: Trail,
    ) -> SagaOp {
        let held = actions.and_then(|known| missing_action(&machine, known));
        let (sent, pace) = (Sent::default(), Pace::new(now));
        SagaOp { machine, root, sent, pace, calls: Vec::new(), held, trail }
    }

    /// What an outcome tells the machine: an undo that is refused for the last time is given up.
    pub(super) fn input_of(
        &self,
        step: u32,
        direction: Direction,
        outcome: saga::Outcome,
        attempts_max: u32,
    ) -> saga::Input {
        if let (saga::Outcome::Refused { .. }, Direction::Backward) = (&outcome, direction) {
            let tries = self.machine.step(step).map_or(0, saga::StepState::tries);
            if tries.saturating_add(1) >= attempts_max {
                return saga::Input::GiveUpUndo { step };
            }
        }
        saga::Input::Outcome { step, direction, outcome }
    }

    fn is_owed(machine: &Saga, call: &Called) -> bool {
        let step = machine.step(call.step);
        step.is_some_and(|step| match call.direction {
            Direction::Forward => {
                let executing = machine.phase() == saga::Phase::Executing;
                executing && step.outcome().is_none() && !step.is_parked()
            }
            Direction::Backward => step.compensated().is_none() && !step.is_parked(),
        })
    }

    /// A call is made, perhaps again.
    pub(super) fn called(&mut self, step: u32, direction: Direction, now: Time) {
        let known = |call: &&mut Called| call.step == step && call.direction == direction;
        match self.calls.iter_mut().find(known) {
            Some(call) => call.attempts = call.attempts.saturating_add(1),
            None => self.called_first(step, direction, now),
        }
    }

    /// A call is made that is not among those that wait for an answer.
    fn called_first(&mut self, step: u32, direction: Direction, now: Time) {
        let (refused, given_up) = (0, false);
        self.calls.push(Called { step, direction, since: now, attempts: 1, refused, given_up });
    }

    /// What is owed of the step is asked for as if for the first time.
    pub(super) fn called_anew(&mut self, step: u32) {
        for slot in [1, 2] {
            self.sent.forget(slot + 2 * u64::from(step));
        }
        self.calls.retain(|call| call.step != step);
    }

    /// Until when a step is waited for; `None`: it cannot fail, however long it takes.
    pub(super) fn deadline(machine: &Saga, call: &Called, usual: Duration) -> Option<Time> {
        let terms = machine.step(call.step)?.terms();
        let may_fail = terms.kind.fails_unanswered() && machine.past_pivot().is_none();
        let forward = call.direction == Direction::Forward && !call.given_up;
        (forward && may_fail).then(|| call.since + terms.timeout.unwrap_or(usual))
    }
}

/// The payloads of an admission, before anything of it is logged: for asking whether there is room, and then
/// for the log. It keeps its memory for the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    /// What each is, and where it ends.
    ends: Vec<(EventType, usize)>,
}

impl Encoded {
    fn encode(&mut self, id: OperationId, events: &[saga::Event]) {
        self.bytes.clear();
        self.ends.clear();
        for event in events {
            let event = codec::encode_saga(id, event, &mut self.bytes);
            self.ends.push((event, self.bytes.len()));
        }
    }

    fn payloads(&self) -> impl ExactSizeIterator<Item = (EventType, &[u8])> {
        let mut begin = 0;
        self.ends.iter().map(move |(event, end)| {
            let payload = &self.bytes[begin..*end];
            begin = *end;
            (*event, payload)
        })
    }
}

/// The action of a step that is not among those that are known.
fn missing_action(machine: &Saga, known: &BTreeSet<Label>) -> Option<Label> {
    let mut names = machine.steps().flat_map(|step| step.terms().action_names());
    names.find(|name| !known.contains(*name)).cloned()
}

impl Engine {
    // ---- starting ----

    pub(super) fn submit_saga(
        &mut self,
        now: Time,
        key: &RequestKey,
        definition: &saga::Definition,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let active_max = self.desk.config.active_sagas_max;
        debug_assert_eq!(self.desk.admitted, self.count_admitted());
        // One that waits for an operator does not keep others waiting, wherever in it that is; and one that
        // is a step of another was let in with that one.
        if self.desk.admitted.count() >= active_max {
            return Err(Refusal::TooManyActive { active_max });
        }
        self.check_definition(definition)?;
        self.start_saga(now, Origin::Client(key.clone()), definition, out)
    }

    /// Its definition was checked.
    pub(super) fn start_saga(
        &mut self,
        now: Time,
        origin: Origin,
        definition: &saga::Definition,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let id = self.draw_id()?;
        let nonce = base::prng::keyed_hash(
            u128::from(self.desk.config.key.draw(id.0, 0).u64()),
            self.desk.config.key.draw(id.0, 1).u64(),
            id.0,
        );
        let coordinator = self.desk.config.id;
        let admission = |key| Saga::admission(definition, coordinator, nonce, key);
        let events = match &origin {
            Origin::Client(key) => admission(Some(key.clone())),
            Origin::Step(parent) => Saga::on_behalf_of(*parent, admission(None)),
        };
        let mut encoded = std::mem::take(&mut self.desk.encoded);
        encoded.encode(id, &events);
        let fingerprint = definition.fingerprint();
        let begun = self.admit_saga(now, (origin, fingerprint), id, (&events, &encoded), out);
        self.desk.encoded = encoded;
        begun
    }

    fn admit_saga(
        &mut self,
        now: Time,
        (origin, fingerprint): (Origin, u128),
        id: OperationId,
        (events, encoded): (&[saga::Event], &Encoded),
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        self.desk.check_admission(encoded.payloads().map(|(_, payload)| payload.len()))?;
        let mut payloads = encoded.payloads();
        let [created, events @ ..] = events else {
            unreachable!("an admission begins with a creation");
        };
        // Each step succeeds, and the end is the last record: room for all of it is made at once.
        let steps = events.len() - 1;
        let more = steps * codec::SUCCESS_PAYLOAD_BYTES + codec::END_PAYLOAD_BYTES;
        let records = encoded.payloads().len() + steps + 1;
        let mut trail = self.desk.spare_trails.begin(records, encoded.bytes.len() + more);
        let mut encode = |payload: &mut Vec<u8>| {
            let (event, bytes) = payloads.next().expect("each event was encoded");
            payload.extend_from_slice(bytes);
            event
        };
        let appended = self.desk.log.append_kept(now, &mut trail, out, &mut encode);
        let at = appended.map_err(|_| Refusal::LogBusy)?;
        let mut machine =
            Saga::created(id, at, created).expect("the first event of an admission is a creation");
        machine.expect_steps(steps);
        let root = self.root_of(id, machine.terms().parent);
        let op = SagaOp::new(machine, root, now, None, trail);
        self.desk.admitted.enters(&op);
        let op = self.sagas.entry(id).or_insert_with(|| Box::new(op));
        let child = OpRef::Saga(id);
        match origin {
            Origin::Client(key) => {
                let (known, fingerprint) = (Known::Active(child), Some(fingerprint));
                self.requests.insert(key, Asked { known, fingerprint });
            }
            Origin::Step(parent) => _ = self.children.insert(parent, child),
        }
        for event in events {
            let appended = self.desk.log.append_kept(now, &mut op.trail, out, &mut encode);
            let at = appended.expect("the log had room for the whole admission");
            op.machine.apply(at, event).expect("an admission is legal");
        }
        // A definition that a log holds may name what this start has no code for.
        op.held =
            self.desk.config.actions.as_ref().and_then(|known| missing_action(&op.machine, known));
        self.advance_saga(now, id, out);
        Ok(())
    }

    // ---- sagas ----

    /// What a node answers to a call.
    pub(super) fn receive_step(
        &mut self,
        now: Time,
        key: SagaKey,
        (step, direction, token): (u32, Direction, Token),
        outcome: impl FnOnce(&Desk) -> saga::Outcome,
        out: &mut Vec<Output>,
    ) {
        if key.coordinator != self.desk.config.id {
            return;
        }
        let Some(op) = self.sagas.get_mut(&key.id) else { return };
        if op.machine.token(step, direction) != token {
            return;
        }
        // Nobody was called who could answer.
        if !op.machine.step(step).is_some_and(|step| steps::is_called(step, direction)) {
            return;
        }
        let attempts_max = self.desk.config.undo_attempts_max;
        let input = op.input_of(step, direction, outcome(&self.desk), attempts_max);
        self.desk.tell_saga(now, op, &input, out);
        if let saga::Phase::Ended(_) = op.machine.phase() {
            self.end_saga(now, key.id);
        }
    }

    /// True if the input was worth a fact.
    pub(super) fn tell_saga(
        &mut self,
        now: Time,
        id: OperationId,
        input: &saga::Input,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(op) = self.sagas.get_mut(&id) else { return false };
        let told = self.desk.tell_saga(now, op, input, out);
        self.end_saga(now, id);
        told
    }

    /// As [`Desk::advance_saga`], with whatever has come since this was last done.
    pub(super) fn advance_saga(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.sagas.get_mut(&id) else { return };
        self.desk.advance_saga(now, op, None, out);
        self.end_saga(now, id);
    }

    /// If it has ended: what is kept of it.
    fn end_saga(&mut self, now: Time, id: OperationId) {
        let Entry::Occupied(entry) = self.sagas.entry(id) else { return };
        if let saga::Phase::Ended(how) = entry.get().machine.phase() {
            let op = entry.remove();
            self.desk.forget_timer(&op.pace, OpRef::Saga(id));
            self.desk.admitted.leaves(&op);
            if let Some(parent) = op.machine.terms().parent {
                self.forget_child(parent, OpRef::Saga(id));
            }
            self.release_children(id);
            let at = op.machine.last();
            let request_key = op.machine.request_key().cloned();
            let fingerprint = op.machine.terms().fingerprint;
            if let Some(key) = &request_key {
                if op.machine.outputs().next().is_some() {
                    self.outputs.insert(key.clone(), op.trail.outputs());
                }
                let outcome = EndedAs::Saga(how);
                self.end_request(key, Known::Ended { at, told_after: at, outcome });
            }
            self.desk.spare_trails.keep(op.trail);
            self.remember(
                now,
                Ended { id, how: EndedHow::Saga(how), at, request_key, fingerprint },
            );
            match how {
                saga::End::Completed => self.desk.stats.completed += 1,
                saga::End::Compensated => self.desk.stats.compensated += 1,
                saga::End::Aborted => self.desk.stats.saga_aborted += 1,
            }
        }
    }

    pub(super) fn wake_saga(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        if self.sagas.get(&id).is_some_and(|op| op.machine.settle().is_some()) {
            // The log had no room for what is owed, and nobody may say anything of the saga any more.
            self.advance_saga(now, id, out);
            let Some(op) = self.sagas.get_mut(&id) else { return };
            if op.machine.settle().is_some() {
                self.desk.schedule(&mut op.pace, now, OpRef::Saga(id));
                return;
            }
        }
        let Some(op) = self.sagas.get_mut(&id) else { return };
        if op.held.is_none() && op.machine.phase() == saga::Phase::Executing {
            let usual = self.desk.config.saga_timeout;
            if now >= op.pace.started + op.machine.terms().timeout.unwrap_or(usual)
                && self.tell_saga(now, id, &saga::Input::TimedOut, out)
            {
                return;
            }
            let Some(op) = self.sagas.get_mut(&id) else { return };
            let usual = self.desk.config.step_timeout;
            let late = op.calls.iter().find(|call| {
                let deadline = SagaOp::deadline(&op.machine, call, usual);
                deadline.is_some_and(|deadline| now >= deadline)
            });
            if let Some(&Called { step, .. }) = late {
                let called = op.machine.step(step);
                let called = called.is_some_and(|it| steps::is_called(it, Direction::Forward));
                // What a step's operation is told does not wake its saga again: the other calls go on below.
                if !called {
                    self.give_up_step(now, id, step, out);
                } else if self.tell_saga(now, id, &saga::Input::StepTimedOut { step }, out) {
                    return;
                }
            }
        }
        let Some(op) = self.sagas.get_mut(&id) else { return };
        if steps::waits_for_parent(&op.machine) {
            self.desk.errands.push_back(Errand::Child(OpRef::Saga(id)));
        }
        // Every compensation that nobody answers: each parks its own branch, and the others go on.
        let attempts_max = self.desk.config.undo_attempts_max;
        while let Some(op) = self.sagas.get_mut(&id) {
            let given_up = op.calls.iter().find_map(|call| {
                let input = saga::Input::GiveUpUndo { step: call.step };
                let called = op.machine.step(call.step);
                let called = called.is_some_and(|it| steps::is_called(it, call.direction));
                let last = call.direction == Direction::Backward && call.attempts >= attempts_max;
                (last && called && op.machine.decide(&input).is_some()).then_some(input)
            });
            let Some(input) = given_up else { break };
            if !self.tell_saga(now, id, &input, out) {
                break;
            }
        }
        let Some(op) = self.sagas.get_mut(&id) else { return };
        self.desk.send_saga_again(now, op, out);
    }
}

impl Desk {
    /// True if the input was worth a fact.
    pub(super) fn tell_saga(
        &mut self,
        now: Time,
        op: &mut SagaOp,
        input: &saga::Input,
        out: &mut Vec<Output>,
    ) -> bool {
        let fact = op.machine.decide(input);
        if let Some(event) = &fact
            && !self.record_saga(now, op, event, out)
        {
            return false;
        }
        if fact.is_some() || matches!(input, saga::Input::Restarted { .. }) {
            self.advance_saga(now, op, fact.as_ref(), out);
        }
        fact.is_some()
    }

    /// Settles, and sends what has come to be owed: by `fact`, if that is all that has come since this was last
    /// done.
    fn advance_saga(
        &mut self,
        now: Time,
        op: &mut SagaOp,
        mut fact: Option<&saga::Event>,
        out: &mut Vec<Output>,
    ) {
        while let Some(event) = op.machine.settle() {
            if !self.record_saga(now, op, &event, out) {
                // The log had no room for it. Where nothing else is waited for, nothing else would come again.
                self.look_again(&mut op.pace, now, OpRef::Saga(op.machine.id()));
                return;
            }
            fact = None;
        }
        self.send_saga_news(now, op, fact, out);
        if steps::waits_for_parent(&op.machine) {
            self.errands.push_back(Errand::Child(OpRef::Saga(op.machine.id())));
        }
    }

    /// See [`Desk::record_transaction`].
    pub(super) fn record_saga(
        &mut self,
        now: Time,
        op: &mut SagaOp,
        event: &saga::Event,
        out: &mut Vec<Output>,
    ) -> bool {
        let id = op.machine.id();
        let encode = |payload: &mut Vec<u8>| codec::encode_saga(id, event, payload);
        let appended = self.log.append_kept(now, &mut op.trail, out, encode);
        let Ok(sequence) = appended else { return false };
        let before = op.machine.parked_count() > 0;
        op.machine.apply(sequence, event).expect("a machine decides only what it may apply");
        let after = op.machine.parked_count() > 0;
        if before != after {
            self.admitted.turns(op.root, before, after);
        }
        match event {
            saga::Event::CompensationFailed { step, note: saga::AttemptNote::Parked, .. } => {
                self.stats.parked += 1;
                let attempts = op.machine.step(*step).map_or(0, saga::StepState::attempts);
                let parked = Output::Parked { id, step: *step, attempts };
                self.log.owe(sequence, parked, out);
            }
            saga::Event::CompensationSucceeded { heuristic: true, .. } => self.stats.heuristic += 1,
            _ => {}
        }
        true
    }

    /// Sends what a saga owes and was never sent. If `fact` is the only record since this was last done, that
    /// is what the fact has brought.
    fn send_saga_news(
        &mut self,
        now: Time,
        op: &mut SagaOp,
        fact: Option<&saga::Event>,
        out: &mut Vec<Output>,
    ) {
        let mut owed = std::mem::take(&mut self.owed_saga);
        match fact {
            Some(fact) => op.machine.pending_by(fact, &mut owed),
            None => op.machine.pending(&mut owed),
        }
        if let (Some(saga::Event::StepSucceeded { step, .. }), []) = (fact, &owed[..]) {
            // Steps beside it are waited for as before. Of it itself there is one call at most: a saga that has
            // turned calls no step forward.
            let answered = op.calls.iter().position(|call| call.step == *step);
            answered.into_iter().for_each(|at| _ = op.calls.remove(at));
        } else {
            op.pace.attempt = 0;
            self.send_saga(now, op, &mut owed, false, out);
        }
        self.owed_saga = owed;
    }

    /// Sends all that a saga owes, again.
    fn send_saga_again(&mut self, now: Time, op: &mut SagaOp, out: &mut Vec<Output>) {
        let mut owed = std::mem::take(&mut self.owed_saga);
        op.machine.pending(&mut owed);
        self.send_saga(now, op, &mut owed, true, out);
        self.owed_saga = owed;
    }

    /// Sends this: what was never sent, or, to `resend`, all of it.
    fn send_saga(
        &mut self,
        now: Time,
        op: &mut SagaOp,
        owed: &mut Vec<saga::Effect>,
        resend: bool,
        out: &mut Vec<Output>,
    ) {
        use saga::Effect;
        let id = op.machine.id();
        let (key, epoch) = (SagaKey { coordinator: self.config.id, id }, self.epoch);
        for effect in owed.drain(..) {
            let slot = effect.slot();
            let fresh = op.sent.mark(slot);
            if !fresh && !resend {
                continue;
            }
            let (step, direction, token, after, order) = match effect {
                Effect::Tell { end, after } => {
                    if let (true, Some(key)) = (fresh, op.machine.request_key()) {
                        let reply = Output::Reply { key: key.clone(), outcome: end.into() };
                        self.log.owe(after, reply, out);
                    }
                    continue;
                }
                _ if op.held.is_some() => continue,
                Effect::Run { step, token, after } => {
                    (step, Direction::Forward, token, after, UndoOrder::None)
                }
                Effect::Compensate { step, token, after } => {
                    let overridden = op.machine.step(step).is_some_and(|s| s.is_overridden());
                    let order = if overridden { UndoOrder::Override } else { UndoOrder::None };
                    (step, Direction::Backward, token, after, order)
                }
                Effect::MarkDone { step, token, after } => {
                    (step, Direction::Backward, token, after, UndoOrder::MarkDone)
                }
            };
            let Some(spec) = op.machine.step(step) else { continue };
            if !steps::is_called(spec, direction) {
                self.errands.push_back(Errand::Step { saga: id, step, direction });
                continue;
            }
            if !fresh && !self.log.is_durable(after) {
                continue;
            }
            let alone = !matches!(spec.performer(), saga::Performer::Node);
            let order =
                if alone && order != UndoOrder::MarkDone { UndoOrder::Alone } else { order };
            let (to, kind) = (spec.node(), spec.kind());
            let body = match direction {
                Direction::Forward => spec.body().clone(),
                Direction::Backward => spec.undo_body().clone(),
            };
            let inputs = op.machine.inputs(step, direction);
            let cannot_fail = op.machine.cannot_fail(step);
            match direction {
                // Whoever forgets that it was sent forgets the call, too.
                Direction::Forward if fresh => op.called_first(step, direction, now),
                _ => op.called(step, direction, now),
            }
            self.log.owe_made(after, out, || {
                let call = Call { step, direction, kind, cannot_fail, order, inputs };
                let message = Message::StepCall { key, epoch, token, body, call };
                Output::Send { to, message }
            });
        }
        let machine = &op.machine;
        if let saga::Phase::Ended(_) = machine.phase() {
            return;
        }
        op.calls.retain(|call| SagaOp::is_owed(machine, call));
        self.schedule(&mut op.pace, now, OpRef::Saga(id));
        // A deadline that this wake found passed, and could not log, is tried again in time.
        self.watch_deadlines(op, |deadline| !resend || deadline > now);
    }

    /// The saga is looked at no later than its next time-out.
    pub(super) fn watch_saga(&mut self, now: Time, op: &mut SagaOp) {
        self.watch_deadlines(op, |deadline| deadline > now);
    }

    fn watch_deadlines(&mut self, op: &mut SagaOp, counts: impl Fn(Time) -> bool) {
        if op.held.is_some() || op.machine.phase() != saga::Phase::Executing {
            return;
        }
        let machine = &op.machine;
        let usual = self.config.step_timeout;
        let steps = op.calls.iter().filter_map(|call| SagaOp::deadline(machine, call, usual));
        let usual = self.config.saga_timeout;
        let whole = (machine.past_pivot().is_none() && machine.through().is_none())
            .then(|| op.pace.started + machine.terms().timeout.unwrap_or(usual));
        let deadline = steps.chain(whole).min();
        if let Some(deadline) = deadline.filter(|deadline| counts(*deadline)) {
            self.not_later_than(&mut op.pace, deadline, OpRef::Saga(op.machine.id()));
        }
    }
}
