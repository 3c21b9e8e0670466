//! The participant's side of a node: promises, locks, data and the outcomes of steps, on one log.

mod compaction;
mod force;

use crate::locks::{Holder, LockTable};
use crate::steps::{self, StepLedger};
use crate::store::Store;
use crate::timers::{Timer, Timers};
use crate::work;
use base::{BootCount, Epoch, NodeName, Sequence, StoreId, Time};
use coordinator::{
    Call, GatedLog, LogSlot, Message, Output, Replay, SagaKey, StepAnswer, StepOutcome, UndoOrder,
    codec,
};
use saga::{Direction, StepKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use twopc::Participant;
use twopc::participant::{Change, Event, Found, PromiseKey, Reply, Resources, Ruling};
use wal_core::{DiskError, DiskOp, Log};

/// How a participant behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's name.
    pub node: NodeName,
    /// A promise without an outcome is asked about after this long, then after twice as long, …
    pub inquire_after: Duration,
    /// … but never later than this.
    pub inquire_after_max: Duration,
    /// The coordinator is asked alone this often before the peers are asked too.
    pub inquiries_before_peers: u32,
    /// Milliseconds of the Unix clock at [`Time::ZERO`], for the timestamps that people read.
    pub unix_ms_at_zero: i64,
}

impl Config {
    /// The defaults.
    #[must_use]
    pub fn new(node: NodeName) -> Config {
        Config {
            node,
            inquire_after: Duration::from_secs(1),
            inquire_after_max: Duration::from_secs(8),
            inquiries_before_peers: 1,
            unix_ms_at_zero: 0,
        }
    }
}

/// What a participant has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages of coordinators that a later epoch has replaced: refused.
    pub stale_epochs: u64,
    /// Branches refused because a lock was held.
    pub lock_conflicts: u64,
    /// Commits that came for a branch which had aborted, or of which the store knows nothing.
    pub heuristic: u64,
    /// Calls of steps of sagas that their coordinator has said to be finished: without effect.
    pub finished: u64,
}

/// The participant of one node.
///
/// Inputs: [`receive`](Self::receive), [`flushed`](Self::flushed), [`wake`](Self::wake);
/// [`flush`](Self::flush) ends a round. Views: the rest.
#[derive(Clone, Debug)]
pub struct Host {
    config: Config,
    log: GatedLog,
    participant: Participant,
    store: Store,
    locks: LockTable,
    steps: StepLedger,
    timers: Timers,
    replies: Vec<Reply>,
    stats: Stats,
    /// When each promise was made that waits for its outcome, by its record.
    promised_ms: BTreeMap<Sequence, i64>,
    /// What a salvage has said of ids that the log does not know.
    unknown_ids_up_to: Option<Epoch>,
    /// When branches whose outcome was forced are asked about next, or reported.
    unsettled_due: Option<Time>,
    /// How far the snapshot has come that is being written.
    snapshot: Option<compaction::Stage>,
    /// Coordinators were asked what is finished, for the snapshot behind so many.
    asked: Option<u64>,
    dead: bool,
}

/// What PREPARE is checked against.
struct At<'a> {
    now: Time,
    store: &'a Store,
    locks: &'a LockTable,
}

impl Resources for At<'_> {
    /// It holds nothing yet: whoever holds a lock that it needs is another one.
    fn can_prepare(&self, _: &PromiseKey, work: &[u8]) -> bool {
        work::decode(work).all(|change| {
            change.is_ok_and(|change| {
                self.locks.is_free(self.now, change.cell()) && self.store.meets(&change)
            })
        })
    }

    fn is_read_only(&self, _: &PromiseKey, work: &[u8]) -> bool {
        work::only_looks(work)
    }
}

/// The cells that work touches or reads. One that it names twice comes twice: taking and giving back
/// a lock is idempotent for its holder.
fn cells(work: &[u8]) -> impl Iterator<Item = u64> + Clone + '_ {
    // What does not decode was refused before it was promised.
    work::decode(work).filter_map(Result::ok).map(|change| change.cell())
}

impl Host {
    /// Takes over what `replay` found in the log that was opened as `log`: promises take their locks
    /// again and ask for their outcome; the data are rebuilt; coordinators hear of this boot.
    pub fn resume(
        config: Config,
        replay: Replay,
        log: Log,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Host {
        let (store_id, boot) = (StoreId(log.log_id()), BootCount(log.epoch().value()));
        let promised_ms = replay.promised().collect();
        let unknown_ids_up_to = replay.unknown_ids_up_to();
        let (mut participant, history) = replay.into_participant();
        participant.opened(store_id, boot);
        let mut host = Host {
            log: GatedLog::new(LogSlot::Participant, log, config.unix_ms_at_zero),
            config,
            participant,
            store: Store::default(),
            locks: LockTable::default(),
            steps: StepLedger::default(),
            timers: Timers::default(),
            replies: Vec::new(),
            stats: Stats::default(),
            promised_ms,
            unknown_ids_up_to,
            unsettled_due: None,
            snapshot: None,
            asked: None,
            dead: false,
        };
        for (sequence, effect) in history {
            match effect {
                coordinator::LocalEffect::Step(outcome) => host.take_step(sequence, &outcome),
                coordinator::LocalEffect::Committed(work) => host.store.apply(&work),
                coordinator::LocalEffect::Cells(cells) => {
                    cells.into_iter().for_each(|(cell, value)| host.store.set(cell, value));
                }
                coordinator::LocalEffect::Answered(answered) => host.steps.restore(&answered),
            }
        }
        let known: Vec<_> = host.participant.coordinators().collect();
        known.into_iter().for_each(|coordinator| host.forget_steps(coordinator));
        for (promise, work) in host.participant.waiting() {
            lock(&mut host.locks, now, promise.at, work);
            host.timers.set(now, promise, 0);
        }
        host.watch_unsettled(now);
        let announce = Message::Announce { store: store_id, boot };
        for coordinator in host.participant.coordinators() {
            let to = NodeName(coordinator.0);
            out.push(Output::Send { to, message: announce.clone() });
        }
        host
    }

    /// A message from `from` arrived.
    pub fn receive(&mut self, now: Time, from: NodeName, message: &Message, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        match message {
            Message::Hello => {
                let (store, boot) = (self.participant.store(), self.participant.boot());
                out.push(Output::Send { to: from, message: Message::Announce { store, boot } });
            }
            Message::Transaction(message) => self.receive_transaction(now, from, message, out),
            Message::StepCall { key, epoch, token, body, call } => {
                if !self.admit(now, key.coordinator, *epoch, out) {
                    return;
                }
                if self.participant.is_finished(key.coordinator, key.id) {
                    // Nobody waits for the answer, and it must have no effect.
                    self.stats.finished += 1;
                    return;
                }
                let (answer, after) = self.call(now, *key, *token, body, call, out);
                let after = after.max(self.participant.seen_at());
                let (key, token, step, direction) = (*key, *token, call.step, call.direction);
                let output = (direction == Direction::Forward && answer == StepAnswer::Done)
                    .then(|| self.steps.output(key, step).cloned().map(Box::new))
                    .flatten();
                let message = Message::StepReply { key, step, direction, token, answer, output };
                self.log.owe(after, Output::Send { to: from, message }, out);
            }
            Message::Finished { coordinator, epoch, watermark } => {
                if self.participant.refuses(*coordinator, *epoch) {
                    self.stats.stale_epochs += 1;
                    return;
                }
                let (coordinator, epoch) = (*coordinator, *epoch);
                let watermark = watermark.as_ref().clone();
                self.take_finished(now, Event::Finished { coordinator, epoch, watermark }, out);
            }
            Message::StepReply { .. } | Message::Announce { .. } | Message::AskFinished => {}
        }
    }

    /// The flush that was handed out last is done, or has failed.
    pub fn flushed(&mut self, now: Time, result: Result<(), DiskError>, out: &mut Vec<Output>) {
        self.log.flushed(now, result, out);
        self.dead |= self.log.log().poisoned().is_some();
    }

    /// Time has passed: promises without an outcome are asked about.
    pub fn wake(&mut self, now: Time, out: &mut Vec<Output>) {
        self.ask_unsettled(now, out);
        while !self.dead && self.timers.due().is_some_and(|due| due <= now) {
            let Some(Timer { promise, asked, .. }) = self.timers.pop() else { break };
            if !self.participant.is_waiting(promise) {
                continue;
            }
            let ask_peers = asked >= self.config.inquiries_before_peers;
            let doubled = self.config.inquire_after.saturating_mul(1 << asked.min(16));
            let next = now + doubled.min(self.config.inquire_after_max);
            self.timers.set(next, promise, asked.saturating_add(1));
            self.participant.pending_of(promise, ask_peers, &mut self.replies);
            for Reply { to, message, after } in self.replies.drain(..) {
                let message = Message::Transaction(message);
                self.log.owe(after, Output::Send { to, message }, out);
            }
        }
    }

    fn ask_unsettled(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.dead || self.unsettled_due.is_none_or(|due| due > now) {
            return;
        }
        for key in self.participant.unsettled() {
            self.participant.pending(&key, false, &mut self.replies);
        }
        for Reply { to, message, after } in self.replies.drain(..) {
            let message = Message::Transaction(message);
            self.log.owe(after, Output::Send { to, message }, out);
        }
        self.unsettled_due = None;
        self.watch_unsettled(now);
    }

    /// What was forced may turn out to be wrong: its coordinator is asked, and told, again and again, in no
    /// hurry.
    fn watch_unsettled(&mut self, now: Time) {
        if self.unsettled_due.is_none() && self.participant.unsettled().next().is_some() {
            self.unsettled_due = Some(now + self.config.inquire_after_max);
        }
    }

    /// Ends a round of inputs: hands out the next flush, if one is due.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.dead {
            self.compact(now, out);
            self.log.flush(now, out);
        }
    }

    /// When [`wake`](Self::wake) and [`flush`](Self::flush) are to be called next, at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        if self.dead {
            return None;
        }
        let timer = Time::earliest(self.timers.due(), self.unsettled_due);
        Time::earliest(timer, self.log.log().next_wake())
    }

    /// The promises and epochs.
    #[must_use]
    pub fn participant(&self) -> &Participant {
        &self.participant
    }

    /// The data.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The locks.
    #[must_use]
    pub fn locks(&self) -> &LockTable {
        &self.locks
    }

    /// The outcomes of steps.
    #[must_use]
    pub fn steps(&self) -> &StepLedger {
        &self.steps
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.log.log()
    }

    /// Whether the disk has room for the log's current segment only, as the shell knows. While it has, what does
    /// not fit is not promised, and asked for again: see [`Log::confine`].
    pub fn confine_log(&mut self, confined: bool) {
        self.log.confine(confined);
    }

    /// Takes the operations of an [`Output::Disk`] back once they were performed: see [`Log::reuse`].
    pub fn reuse(&mut self, spent: Vec<DiskOp>) {
        self.log.reuse(spent);
    }

    /// What was done since this start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// False for a replaced epoch of a coordinator. A higher one than seen so far is logged, and
    /// forced, before the message that brought it is acted upon: all that follows stands behind it in
    /// the same log.
    fn admit(
        &mut self,
        now: Time,
        coordinator: base::CoordinatorId,
        epoch: Epoch,
        out: &mut Vec<Output>,
    ) -> bool {
        if self.participant.refuses(coordinator, epoch) {
            self.stats.stale_epochs += 1;
            return false;
        }
        let newer = self.participant.newer_epoch(coordinator, epoch);
        newer.is_none_or(|event| self.see(now, &event, out))
    }

    fn receive_transaction(
        &mut self,
        now: Time,
        from: NodeName,
        message: &twopc::Message,
        out: &mut Vec<Output>,
    ) {
        let at = At { now, store: &self.store, locks: &self.locks };
        let Ruling::Heard { seen, fact, mut found } = self.participant.rule(message, &at) else {
            self.stats.stale_epochs += 1;
            return;
        };
        if let Some(epoch) = seen {
            let seen = Event::CoordinatorSeen { coordinator: message.key().coordinator, epoch };
            if !self.see(now, &seen, out) {
                return;
            }
        }
        if let Some(fact) = fact
            && !self.take(now, &mut found, fact, out)
        {
            return;
        }
        if let Some(Reply { to, message, after }) = self.participant.reply_at(&found, from, message)
        {
            if matches!(message, twopc::Message::Ack { heuristic: Some(_), .. }) {
                self.stats.heuristic += 1;
            }
            let message = Message::Transaction(message);
            self.log.owe(after, Output::Send { to, message }, out);
        }
    }

    /// Logs a coordinator's epoch, and forces it. False if the log takes nothing just now: the message
    /// comes again.
    fn see(&mut self, now: Time, event: &Event, out: &mut Vec<Output>) -> bool {
        let encode = |payload: &mut Vec<u8>| codec::encode_participant(event, payload);
        let Ok(sequence) = self.log.append(now, out, encode) else { return false };
        self.log.force(sequence);
        let applied = self.participant.apply(sequence, event);
        applied.expect("an epoch that was seen contradicts nothing");
        true
    }

    /// Logs a fact and does what follows from it. False if the log takes nothing just now.
    fn take(&mut self, now: Time, found: &mut Found, event: Event, out: &mut Vec<Output>) -> bool {
        let encode = |payload: &mut Vec<u8>| codec::encode_participant(&event, payload);
        let Ok(sequence) = self.log.append(now, out, encode) else { return false };
        let mut commits = false;
        match &event {
            Event::Prepared { work, .. } => {
                let ms = self.config.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
                self.promised_ms.insert(sequence, ms);
                lock(&mut self.locks, now, sequence, work);
            }
            Event::Committed { .. } | Event::Forced { commit: true, .. } => commits = true,
            // An operator is told once it is durable, and it is not asked for before.
            Event::Forced { .. } | Event::Heuristic { .. } => {}
            Event::OnePhase { .. } | Event::Aborted { .. } | Event::ReadOnly { .. } => {}
            Event::CoordinatorSeen { .. } => self.log.force(sequence),
            Event::Finished { .. } => {}
        }
        let forced = matches!(event, Event::Forced { .. });
        let change = self.participant.apply_at(found, sequence, event);
        if forced {
            self.watch_unsettled(now);
        }
        match change.expect("a participant decides only what it may apply") {
            Change::None => {}
            Change::Promised(promise) => {
                self.timers.set(now + self.config.inquire_after, promise, 0);
            }
            Change::Done(work) => self.store.apply(&work),
            Change::Ended(promise) => {
                self.promised_ms.remove(&promise.at);
                if commits {
                    self.store.apply(&promise.work);
                }
                self.locks.release(promise.at, cells(&promise.work));
                self.forget_timers();
            }
        }
        true
    }

    /// Nobody is woken for a promise that has its outcome.
    fn forget_timers(&mut self) {
        while self.timers.first().is_some_and(|timer| !self.participant.is_waiting(timer.promise)) {
            self.timers.pop();
        }
    }

    /// What a call of a step is answered, and after which record.
    fn call(
        &mut self,
        now: Time,
        key: SagaKey,
        token: base::Token,
        body: &Arc<[u8]>,
        call: &Call,
        out: &mut Vec<Output>,
    ) -> (StepAnswer, Sequence) {
        let Call { step, direction, kind, cannot_fail, order, ref inputs } = *call;
        let not_now = (StepAnswer::NotNow, Sequence::NONE);
        let verdict = self.steps.verdict(key, step, direction);
        let marked = order == UndoOrder::MarkDone && direction == Direction::Backward;
        let mut work = body.clone();
        let (answer, changed) = match verdict {
            steps::Verdict::Known { answer, after } => return (answer, after),
            // Whatever was done here, its operator has seen to it: from now on nothing is.
            _ if marked => (StepAnswer::Done, false),
            steps::Verdict::NothingToUndo if order != UndoOrder::Alone => (StepAnswer::Done, false),
            steps::Verdict::NothingToUndo | steps::Verdict::Fresh => {
                match direction {
                    Direction::Forward => match work::resolve(body, inputs) {
                        Some(resolved) => work = resolved,
                        None => return not_now,
                    },
                    Direction::Backward if order == UndoOrder::Override => {}
                    Direction::Backward => {
                        if let Some(done) = self.steps.work(key, step) {
                            work = done.clone();
                        }
                    }
                }
                if cells(&work).any(|cell| !self.locks.is_free(now, cell)) {
                    self.stats.lock_conflicts += 1;
                    return not_now;
                }
                match direction {
                    Direction::Forward if self.store.allows(&work) == Ok(true) => {
                        (StepAnswer::Done, kind != StepKind::ReadOnly)
                    }
                    // A refusal is for good, and this step cannot fail: it is put off.
                    Direction::Forward if cannot_fail => return not_now,
                    Direction::Forward => {
                        (StepAnswer::Refused { code: steps::CONDITION_FAILED }, false)
                    }
                    Direction::Backward if self.store.allows_undo(&work) => {
                        (StepAnswer::Done, true)
                    }
                    // This attempt has failed, and nothing is recorded: the next one may succeed.
                    Direction::Backward => {
                        let answer = StepAnswer::Refused { code: steps::CONDITION_FAILED };
                        return (answer, Sequence::NONE);
                    }
                }
            }
        };
        let gives = (direction == Direction::Forward && answer == StepAnswer::Done)
            .then(|| work::gives(&work))
            .flatten();
        let output = gives.map(|cell| {
            let value = self.store.value_after(cell, if changed { &work } else { &[] });
            saga::Output::Inline(value.to_le_bytes().into())
        });
        let work = if changed { work } else { Arc::new([]) };
        let outcome =
            StepOutcome { key, step, direction, token, answer, changed, work, output, marked };
        let encode = |payload: &mut Vec<u8>| codec::encode_step(&outcome, payload);
        let Ok(sequence) = self.log.append(now, out, encode) else { return not_now };
        self.take_step(sequence, &outcome);
        (answer, sequence)
    }

    /// Takes a logged outcome of a step: its effect, and the memory of it.
    fn take_step(&mut self, sequence: Sequence, outcome: &StepOutcome) {
        if outcome.changed {
            match outcome.direction {
                Direction::Forward => self.store.apply(&outcome.work),
                Direction::Backward => self.store.undo(&outcome.work),
            }
        }
        self.steps.apply(sequence, outcome);
    }
}

/// A branch that was promised: what was checked before the promise is taken, and held.
fn lock(locks: &mut LockTable, now: Time, promise: Holder, work: &[u8]) {
    locks
        .acquire_held(now, promise, cells(work))
        .expect("no promise is made, and none survives, for a lock that another one holds");
}
