//! The participant's side of a node: promises, locks, data and the outcomes of steps, on one log.

use crate::locks::LockTable;
use crate::steps::{self, StepLedger};
use crate::store::Store;
use crate::work;
use base::{BootCount, Epoch, NodeName, Sequence, StoreId, Time};
use coordinator::{
    GatedLog, LogSlot, Message, Output, Replay, SagaKey, StepAnswer, StepOutcome, codec,
};
use saga::Direction;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;
use twopc::Participant;
use twopc::participant::{Event, Promise, PromiseKey, Reply, Resources};
use wal_core::{DiskError, Log};

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
    /// How long a lock is held for a branch that has not voted.
    pub lock_lease: Duration,
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
            lock_lease: Duration::from_secs(60),
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
}

/// The participant of one node.
///
/// Inputs: [`receive`](Self::receive), [`flushed`](Self::flushed), [`wake`](Self::wake);
/// [`flush`](Self::flush) ends a round. Views: the rest.
#[derive(Debug)]
pub struct Host {
    config: Config,
    log: GatedLog,
    participant: Participant,
    store: Store,
    locks: LockTable,
    steps: StepLedger,
    timers: BinaryHeap<Reverse<(Time, PromiseKey)>>,
    asked: BTreeMap<PromiseKey, u32>,
    replies: Vec<Reply>,
    stats: Stats,
    dead: bool,
}

/// What PREPARE is checked against.
struct At<'a> {
    now: Time,
    store: &'a Store,
    locks: &'a LockTable,
}

impl Resources for At<'_> {
    fn can_prepare(&self, key: &PromiseKey, work: &[u8]) -> bool {
        self.store.allows(work) == Ok(true)
            && self.locks.conflict(self.now, key, cells(work)).is_none()
    }
}

/// The cells that work touches or reads. One that it names twice comes twice: taking and giving back
/// a lock is idempotent for its holder.
fn cells(work: &[u8]) -> impl Iterator<Item = u64> + Clone + '_ {
    // What does not decode was refused before it was promised.
    work::decode(work).flatten().map(|change| change.cell())
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
        let (mut participant, history) = replay.into_participant();
        participant.opened(store_id, boot);
        let mut host = Host {
            log: GatedLog::new(LogSlot::Participant, log, config.unix_ms_at_zero),
            config,
            participant,
            store: Store::default(),
            locks: LockTable::default(),
            steps: StepLedger::default(),
            timers: BinaryHeap::new(),
            asked: BTreeMap::new(),
            replies: Vec::new(),
            stats: Stats::default(),
            dead: false,
        };
        for (sequence, effect) in history {
            match effect {
                coordinator::LocalEffect::Step(outcome) => host.take_step(sequence, &outcome),
                coordinator::LocalEffect::Committed(work) => host.store.apply(&work),
            }
        }
        let prepared: Vec<PromiseKey> = host.participant.prepared().map(|(key, _)| key).collect();
        for key in prepared {
            if let Some(Promise::Prepared { work, .. }) = host.participant.promise(&key) {
                let work = work.clone();
                host.lock(now, key, &work);
            }
            host.timers.push(Reverse((now, key)));
        }
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
            Message::StepCall { key, epoch, step, direction, token, body } => {
                if !self.admit(now, key.coordinator, *epoch, out) {
                    return;
                }
                let (answer, after) = self.call(now, *key, *step, *direction, *token, body, out);
                let after = after.max(self.participant.seen_at());
                let (key, step, direction, token) = (*key, *step, *direction, *token);
                let message = Message::StepReply { key, step, direction, token, answer };
                self.log.owe(after, Output::Send { to: from, message }, out);
            }
            Message::StepReply { .. } | Message::Announce { .. } => {}
        }
    }

    /// The flush that was handed out last is done, or has failed.
    pub fn flushed(&mut self, now: Time, result: Result<(), DiskError>, out: &mut Vec<Output>) {
        self.log.flushed(now, result, out);
        self.dead |= self.log.log().poisoned().is_some();
    }

    /// Time has passed: promises without an outcome are asked about.
    pub fn wake(&mut self, now: Time, out: &mut Vec<Output>) {
        while !self.dead && self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, key))) = self.timers.pop() else { break };
            if !matches!(self.participant.promise(&key), Some(Promise::Prepared { .. })) {
                self.asked.remove(&key);
                continue;
            }
            let asked = self.asked.entry(key).or_insert(0);
            let ask_peers = *asked >= self.config.inquiries_before_peers;
            let doubled = self.config.inquire_after.saturating_mul(1 << (*asked).min(16));
            *asked += 1;
            let next = now + doubled.min(self.config.inquire_after_max);
            self.timers.push(Reverse((next, key)));
            self.participant.pending(&key, ask_peers, &mut self.replies);
            for Reply { to, message, after } in self.replies.drain(..) {
                let message = Message::Transaction(message);
                self.log.owe(after, Output::Send { to, message }, out);
            }
        }
    }

    /// Ends a round of inputs: hands out the next flush, if one is due.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.dead {
            self.log.flush(now, out);
        }
    }

    /// When [`wake`](Self::wake) and [`flush`](Self::flush) are to be called next, at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        if self.dead {
            return None;
        }
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
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
        match self.participant.newer_epoch(coordinator, epoch) {
            None => true,
            Some(event) => match self.record(now, &event, out) {
                Some(sequence) => {
                    self.log.force(sequence);
                    true
                }
                None => false,
            },
        }
    }

    fn receive_transaction(
        &mut self,
        now: Time,
        from: NodeName,
        message: &twopc::Message,
        out: &mut Vec<Output>,
    ) {
        let coordinator = message.key().coordinator;
        if let Some(epoch) = message.coordinator_epoch()
            && self.participant.refuses(coordinator, epoch)
        {
            self.stats.stale_epochs += 1;
            return;
        }
        let at = At { now, store: &self.store, locks: &self.locks };
        let event = self.participant.decide(message, &at);
        let carries_epoch =
            event.as_ref().is_some_and(|event| !matches!(event, Event::Aborted { .. }));
        if let Some(epoch) = message.coordinator_epoch()
            && !carries_epoch
            && !self.admit(now, coordinator, epoch, out)
        {
            return;
        }
        if let Some(event) = event
            && !self.take(now, &event, out)
        {
            return;
        }
        if let Some(Reply { to, message, after }) = self.participant.reply(from, message) {
            if matches!(message, twopc::Message::Ack { heuristic: true, .. }) {
                self.stats.heuristic += 1;
            }
            let message = Message::Transaction(message);
            self.log.owe(after, Output::Send { to, message }, out);
        }
    }

    /// Logs a fact and does what follows from it. False if the log takes nothing just now: the message
    /// comes again.
    fn take(&mut self, now: Time, event: &Event, out: &mut Vec<Output>) -> bool {
        let work = match event {
            Event::Committed { key, .. } | Event::Aborted { key, .. } => {
                match self.participant.promise(key) {
                    Some(Promise::Prepared { work, .. }) => Some((*key, work.clone())),
                    _ => None,
                }
            }
            Event::Prepared { .. } | Event::CoordinatorSeen { .. } => None,
        };
        if self.record(now, event, out).is_none() {
            return false;
        }
        match (event, work) {
            (Event::Prepared { key, work, .. }, _) => {
                self.lock(now, *key, work);
                self.timers.push(Reverse((now + self.config.inquire_after, *key)));
            }
            (Event::Committed { .. }, Some((key, work))) => {
                self.store.apply(&work);
                self.locks.release(&key, cells(&work));
                self.forget_timers();
            }
            (Event::Aborted { .. }, Some((key, work))) => {
                self.locks.release(&key, cells(&work));
                self.forget_timers();
            }
            _ => {}
        }
        true
    }

    /// Nobody is woken for a promise that has its outcome.
    fn forget_timers(&mut self) {
        while let Some(Reverse((_, key))) = self.timers.peek()
            && !matches!(self.participant.promise(key), Some(Promise::Prepared { .. }))
        {
            self.asked.remove(key);
            self.timers.pop();
        }
    }

    fn record(&mut self, now: Time, event: &Event, out: &mut Vec<Output>) -> Option<Sequence> {
        let encode = |payload: &mut Vec<u8>| codec::encode_participant(event, payload);
        let sequence = self.log.append(now, out, encode).ok()?;
        self.participant
            .apply(sequence, event)
            .expect("a participant decides only what it may apply");
        Some(sequence)
    }

    /// A branch that was promised: what was checked before the promise is taken, and held.
    fn lock(&mut self, now: Time, key: PromiseKey, work: &[u8]) {
        let lease_until = now + self.config.lock_lease;
        self.locks
            .acquire(now, key, cells(work), lease_until)
            .expect("no promise is made, and none survives, for a lock that another one holds");
        self.locks.hold(&key, cells(work));
    }

    /// What a call of a step is answered, and after which record.
    #[expect(clippy::too_many_arguments, reason = "a call has that many parts")]
    fn call(
        &mut self,
        now: Time,
        key: SagaKey,
        step: u32,
        direction: Direction,
        token: base::Token,
        body: &Arc<[u8]>,
        out: &mut Vec<Output>,
    ) -> (StepAnswer, Sequence) {
        let not_now = (StepAnswer::NotNow, Sequence::NONE);
        let (answer, changed) = match self.steps.verdict(key, step, direction) {
            steps::Verdict::Known { answer, after } => return (answer, after),
            steps::Verdict::NothingToUndo => (StepAnswer::Done, false),
            steps::Verdict::Fresh => {
                if cells(body).any(|cell| !self.locks.is_free(now, cell)) {
                    self.stats.lock_conflicts += 1;
                    return not_now;
                }
                let allowed =
                    direction == Direction::Backward || self.store.allows(body) == Ok(true);
                if allowed {
                    (StepAnswer::Done, true)
                } else {
                    (StepAnswer::Refused { code: steps::CONDITION_FAILED }, false)
                }
            }
        };
        let work = if changed { body.clone() } else { Arc::new([]) };
        let outcome = StepOutcome { key, step, direction, token, answer, changed, work };
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
