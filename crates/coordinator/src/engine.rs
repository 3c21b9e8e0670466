//! The engine: every saga and transaction of one coordinator, on one log.

mod compaction;
mod desk;
mod force;
mod operator;
mod sagas;
mod steps;
mod transactions;

use crate::codec;
use crate::gated::GatedLog;
use crate::message::{Message, StepAnswer};
use crate::output::{LogSlot, Outcome, Output, Refusal, Request, Work};
use crate::replay::{EndedOperation, InDoubt, Replay};
use crate::snapshot::{DoubtfulTrail, Ended, EndedHow, SpareTrails, Trail};
use base::prng::Key;
use base::{CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey};
use base::{Sequence, Time};
use desk::{Desk, Nodes, Pace, Sent};
pub use operator::{CancelRefusal, Retrying};
use saga::{Label, Saga};
use sagas::SagaOp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
pub use steps::StepOperation;
use transactions::{TransactionOp, Waiting, fingerprint_of};
use twopc::Transaction;
use twopc::coordinator::Decision;
use twopc::heuristic::Heuristics;
use wal_core::{DiskError, DiskOp, Log};

/// How an engine behaves. Every time and number is a limit, none is a promise of speed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The coordinator's name, and the name of the node where it listens.
    pub id: CoordinatorId,
    /// What is owed and unanswered is sent again after this long, then after twice as long, …
    pub resend_after: Duration,
    /// … but never later than this.
    pub resend_after_max: Duration,
    /// Each of these waits is cut by up to so many hundredths, at random, so that what failed together
    /// is not tried again together. At most 100.
    pub jitter_percent: u32,
    /// A transaction whose votes are not in by then is aborted.
    pub prepare_timeout: Duration,
    /// A step without an answer by then counts as failed, its effect unknown, unless it cannot fail or
    /// its definition says otherwise. Counted from its first call of this start.
    pub step_timeout: Duration,
    /// A saga that is not done by then is compensated, unless it is past its pivot or its definition
    /// says otherwise. Counted from its beginning, or from this start.
    pub saga_timeout: Duration,
    /// A compensation that was refused, or called without an answer, so often is parked: it waits for
    /// an operator, and the saga's other branches go on. At least 1.
    pub undo_attempts_max: u32,
    /// A saga may have at most so many steps.
    pub steps_max: u32,
    /// Steps that are sagas may nest so many definitions deep, the outermost included.
    pub depth_max: u32,
    /// A step that is a transaction is refused once so many of its transactions have been voted down, unless
    /// it cannot fail or its definition says otherwise. Counted from this start.
    pub step_transactions_max: u32,
    /// The most bytes that a step may bring. More stay where it ran, and are known by their hash.
    pub output_bytes_max: u32,
    /// How an operation ended is told to whoever asks with its key for so long, unless
    /// [`results_max`](Self::results_max) others have ended since; after that the key may be used anew.
    pub results_kept: Duration,
    /// The actions for which there is code, by name; `None`: whoever runs steps knows all. A saga with a
    /// step of another name is not begun, and one that the log holds waits.
    pub actions: Option<BTreeSet<Label>>,
    /// How often ABORT is sent, answers or none.
    pub abort_sends_max: u32,
    /// This many sagas may be active at once; those with a parked branch, their own or of a saga within one of
    /// their steps, do not count.
    pub active_sagas_max: u32,
    /// This many transactions may be active at once.
    pub active_transactions_max: u32,
    /// A transaction with one participant is decided by that one: it forces the log once instead of twice, and
    /// is sent one message instead of two.
    pub one_phase: bool,
    /// At most so many operations that ended last are answered for, the others' keys may be used anew. As many
    /// again that have no key, the operations of steps, are known to have ended. It bounds memory and snapshots,
    /// and wins over [`results_kept`](Self::results_kept).
    pub results_max: u32,
    /// Milliseconds of the Unix clock at [`Time::ZERO`], for the timestamps that people read.
    pub unix_ms_at_zero: i64,
    /// The key of this engine's randomness: the nonces of its sagas.
    pub key: Key,
}

impl Config {
    /// The specification's defaults.
    #[must_use]
    pub fn new(id: CoordinatorId, key: Key) -> Config {
        Config {
            id,
            resend_after: Duration::from_millis(500),
            resend_after_max: Duration::from_secs(8),
            jitter_percent: 25,
            prepare_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(60),
            saga_timeout: Duration::from_secs(300),
            undo_attempts_max: 16,
            steps_max: 32,
            depth_max: 4,
            step_transactions_max: 3,
            output_bytes_max: 4_096,
            results_kept: Duration::from_secs(24 * 3_600),
            actions: None,
            abort_sends_max: 3,
            active_sagas_max: 1_024,
            active_transactions_max: 256,
            one_phase: true,
            results_max: 8_192,
            unix_ms_at_zero: 0,
            key,
        }
    }
}

/// What an engine has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions that ended committed.
    pub committed: u64,
    /// Transactions that ended aborted.
    pub aborted: u64,
    /// Transactions in which nobody had anything to change.
    pub read_only: u64,
    /// Sagas of which every step succeeded.
    pub completed: u64,
    /// Sagas that were undone.
    pub compensated: u64,
    /// Sagas given up before anything ran.
    pub saga_aborted: u64,
    /// Branches that ended otherwise than their transactions, as they were reported. And steps that an
    /// operator closed without their participant's answer.
    pub heuristic: u64,
    /// Branches that were parked.
    pub parked: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OpRef {
    Saga(OperationId),
    Transaction(OperationId),
    /// A submission that waits until every participant has announced itself.
    Waiting(u64),
}

#[derive(Clone, Copy, Debug)]
enum Known {
    Active(OpRef),
    /// By the record `at`; it may be told once `told_after` is durable.
    Ended {
        at: Sequence,
        told_after: Sequence,
        outcome: EndedAs,
    },
    InDoubt,
}

/// What is known under a request's key.
#[derive(Clone, Copy, Debug)]
struct Asked {
    known: Known,
    /// By which the same request is known again: of a saga its definition's, of a transaction that of
    /// its branches. Both are in the log; older logs do not hold all of them.
    fingerprint: Option<u128>,
}

#[derive(Clone, Copy, Debug)]
enum EndedAs {
    Saga(saga::End),
    Transaction(Decision),
}

impl From<EndedHow> for EndedAs {
    fn from(how: EndedHow) -> EndedAs {
        match how {
            EndedHow::Saga(end) => EndedAs::Saga(end),
            EndedHow::Transaction(decision) => EndedAs::Transaction(decision),
        }
    }
}

impl From<EndedAs> for Outcome {
    fn from(ended: EndedAs) -> Outcome {
        match ended {
            EndedAs::Saga(end) => end.into(),
            EndedAs::Transaction(decision) => decision.into(),
        }
    }
}

/// How many sagas of clients are active, and which of them wait for an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Admitted {
    clients: u32,
    /// How many sagas with a parked branch each of them has, itself and those within its steps.
    waiting: BTreeMap<OperationId, u32>,
}

impl Admitted {
    /// Those that keep others from being admitted.
    fn count(&self) -> u32 {
        self.clients.saturating_sub(self.waiting.len() as u32)
    }

    /// A saga that was not known before is active.
    fn enters(&mut self, op: &SagaOp) {
        self.clients += u32::from(op.machine.terms().parent.is_none());
        self.turns(op.root, false, op.machine.parked_count() > 0);
    }

    /// A saga of this client's has a parked branch, or none any more.
    fn turns(&mut self, root: Option<OperationId>, before: bool, after: bool) {
        let Some(root) = root.filter(|_| before != after) else { return };
        let waiting = self.waiting.entry(root).or_default();
        *waiting = if after { *waiting + 1 } else { waiting.saturating_sub(1) };
        if *waiting == 0 {
            self.waiting.remove(&root);
        }
    }

    /// A saga has ended.
    fn leaves(&mut self, op: &SagaOp) {
        self.turns(op.root, op.machine.parked_count() > 0, false);
        if op.machine.terms().parent.is_none() {
            self.clients -= 1;
            self.waiting.remove(&op.machine.id());
        }
    }
}

/// All sagas and transactions of one coordinator, on one log.
///
/// Inputs: [`submit`](Self::submit), [`receive`](Self::receive), [`flushed`](Self::flushed),
/// [`wake`](Self::wake), [`cancel`](Self::cancel). Each takes the time and adds to `out` what the shell
/// has to do, in order; [`flush`](Self::flush) ends a round of inputs with what the disk has to do.
/// Views: the rest.
///
/// Once its log has failed ([`Output::Died`]) an engine does nothing any more, whatever it is told:
/// a new start recovers from the log.
#[derive(Clone, Debug)]
pub struct Engine {
    desk: Desk,
    transactions: BTreeMap<OperationId, Box<TransactionOp>>,
    sagas: BTreeMap<OperationId, Box<SagaOp>>,
    waiting: BTreeMap<u64, Waiting>,
    /// What runs on behalf of steps.
    children: BTreeMap<ParentStep, OpRef>,
    /// Steps for which nothing has begun, and why.
    unbegun: BTreeMap<ParentStep, Refusal>,
    requests: BTreeMap<RequestKey, Asked>,
    /// What the steps of ended sagas have brought, as long as their results are kept.
    outputs: BTreeMap<RequestKey, Trail>,
    /// Decisions of ended transactions, for inquiries that come late.
    decided: BTreeMap<OperationId, Decision>,
    /// What a salvage could not prove. Nothing is done about any of it.
    sagas_in_doubt: BTreeMap<OperationId, Option<RequestKey>>,
    transactions_in_doubt: BTreeMap<OperationId, Option<Box<Transaction>>>,
    /// Branches that ended otherwise than their transactions.
    heuristics: Heuristics,
    /// No id of these epochs that is not known is presumed aborted.
    unknown_ids_up_to: Option<Epoch>,
    /// Its records, for the next snapshot.
    doubtful: Vec<DoubtfulTrail>,
    /// Epochs under which the log held ids when it was opened, its own later ones among them.
    foreign_epochs: Vec<Epoch>,
    /// What has ended, as long as it is answered for.
    window: compaction::Window,
    /// How far the snapshot has come that is being written.
    snapshot: Option<compaction::Stage>,
    nodes: Nodes,
    /// Keys the fingerprints of transactions, always the same.
    fingerprints: Key,
    ids_drawn: u64,
    waited: u64,
    dead: bool,
}

impl Engine {
    /// Takes over what `replay` found in the log that was opened as `log`, and goes on with it:
    /// undecided transactions are aborted, decided ones are told, sagas resume. What is in doubt (the
    /// log was salvaged) is left alone: it is neither run, undone, decided nor answered for.
    ///
    /// The machines of `replay` are told [`Restarted`](twopc::coordinator::Input::Restarted), settle
    /// what they owe the log, and what is pending goes through the same gate as ever.
    pub fn resume(
        config: Config,
        replay: Replay,
        log: Log,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Engine {
        let epoch = log.epoch();
        let unix_ms_at_zero = config.unix_ms_at_zero;
        let mut engine = Engine {
            desk: Desk {
                config,
                epoch,
                log: GatedLog::new(LogSlot::Coordinator, log, unix_ms_at_zero),
                timers: BTreeSet::new(),
                stats: Stats::default(),
                admitted: Admitted::default(),
                owed_transaction: Vec::new(),
                owed_saga: Vec::new(),
                encoded: sagas::Encoded::default(),
                spare_trails: SpareTrails::default(),
                errands: VecDeque::new(),
            },
            transactions: BTreeMap::new(),
            sagas: BTreeMap::new(),
            waiting: BTreeMap::new(),
            children: BTreeMap::new(),
            unbegun: BTreeMap::new(),
            requests: BTreeMap::new(),
            outputs: BTreeMap::new(),
            decided: BTreeMap::new(),
            sagas_in_doubt: BTreeMap::new(),
            transactions_in_doubt: BTreeMap::new(),
            heuristics: Heuristics::default(),
            unknown_ids_up_to: None,
            doubtful: Vec::new(),
            foreign_epochs: Vec::new(),
            window: compaction::Window::default(),
            snapshot: None,
            nodes: Nodes::default(),
            fingerprints: Key::root(0),
            ids_drawn: 0,
            waited: 0,
            dead: false,
        };
        let mut found = replay.into_operations(epoch);
        engine.take_doubts(found.doubtful, found.foreign_epochs);
        engine.unknown_ids_up_to = found.unknown_ids_up_to;
        engine.heuristics = found.heuristics;
        let in_doubt = Asked { known: Known::InDoubt, fingerprint: None };
        for InDoubt { id, request_key, .. } in found.sagas_in_doubt {
            engine.sagas_in_doubt.insert(id, request_key.clone());
            engine.requests.extend(request_key.map(|key| (key, in_doubt)));
        }
        for InDoubt { id, request_key, transaction } in found.transactions_in_doubt {
            engine.transactions_in_doubt.insert(id, transaction);
            engine.requests.extend(request_key.map(|key| (key, in_doubt)));
        }
        let mut ended = Vec::new();
        for transaction in found.ended_transactions {
            let EndedOperation { id, how, at, request_key, fingerprint } = transaction;
            engine.decided.insert(id, how);
            let how = EndedHow::Transaction(how);
            ended.push(Ended { id, how, at, request_key, fingerprint });
        }
        for saga in found.ended_sagas {
            let EndedOperation { id, how, at, request_key, fingerprint } = saga;
            if let (Some(key), Some(outputs)) = (&request_key, found.outputs.remove(&id)) {
                engine.outputs.insert(key.clone(), outputs);
            }
            ended.push(Ended { id, how: EndedHow::Saga(how), at, request_key, fingerprint });
        }
        ended.sort_unstable_by_key(|ended| (ended.at, ended.id));
        for ended in ended {
            if let Some(key) = ended.request_key.clone() {
                // What was found in the log is durable.
                let (at, told_after) = (ended.at, Sequence::NONE);
                let known = Known::Ended { at, told_after, outcome: ended.how.into() };
                let fingerprint = ended.fingerprint;
                engine.requests.insert(key, Asked { known, fingerprint });
            }
            engine.window.push(now, ended);
        }
        for machine in found.transactions {
            let id = machine.id();
            if let Some(key) = machine.request_key() {
                let known = Known::Active(OpRef::Transaction(id));
                let fingerprint = machine.fingerprint();
                engine.requests.insert(key.clone(), Asked { known, fingerprint });
            }
            engine.transactions.insert(
                id,
                Box::new(TransactionOp {
                    machine,
                    work: Vec::new(),
                    peers: Arc::new([]),
                    sent: Sent::default(),
                    pace: Pace::new(now),
                    aborts_sent: 0,
                    told_parent: false,
                    trail: found.transaction_trails.remove(&id).unwrap_or_default(),
                }),
            );
            if let Some(op) = engine.transactions.get_mut(&id) {
                // Nobody will say more of these than the log does.
                let listed = engine.heuristics.of(id);
                listed.for_each(|(shard, _)| _ = op.machine.acknowledge(shard));
            }
            let restarted = twopc::coordinator::Input::Restarted { epoch };
            engine.tell_transaction(now, id, &restarted, out);
        }
        for machine in found.sagas {
            let id = machine.id();
            if let Some(key) = machine.request_key() {
                let known = Known::Active(OpRef::Saga(id));
                let fingerprint = machine.terms().fingerprint;
                engine.requests.insert(key.clone(), Asked { known, fingerprint });
            }
            let trail = found.saga_trails.remove(&id).unwrap_or_default();
            let root = engine.root_of(id, machine.terms().parent);
            let actions = engine.desk.config.actions.as_ref();
            let op = SagaOp::new(machine, root, now, actions, trail);
            engine.desk.admitted.enters(&op);
            engine.sagas.insert(id, Box::new(op));
            engine.tell_saga(now, id, &saga::Input::Restarted { epoch }, out);
        }
        engine.find_children();
        engine.run_errands(now, out);
        // Only now: whoever runs on behalf of a saga that has ended had to find that out.
        engine.forget_results(now);
        engine
    }

    /// Starts what a client asks for, or finds it by its key: then the client is told how it ended,
    /// or will be.
    pub fn submit(&mut self, now: Time, request: Request, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        self.forget_results(now);
        let fingerprint = match &request.work {
            Work::Saga(definition) => definition.fingerprint(),
            Work::Transaction(branches) => fingerprint_of(&self.fingerprints, branches),
        };
        let asked = self.requests.get(&request.key);
        if asked.and_then(|asked| asked.fingerprint).is_some_and(|known| known != fingerprint) {
            let outcome = Outcome::Refused(Refusal::KeyTaken);
            out.push(Output::Reply { key: request.key, outcome });
            return;
        }
        match asked.map(|asked| &asked.known) {
            Some(&Known::Active(op)) => {
                // Whoever asks again after the outcome was told, such as after a restart, hears it too.
                if let OpRef::Transaction(id) = op
                    && let Some(op) = self.transactions.get(&id)
                    && let Some(decision) = op.machine.decision()
                {
                    let after = op.machine.told_after(decision);
                    let reply = Output::Reply { key: request.key, outcome: decision.into() };
                    self.desk.log.owe(after, reply, out);
                }
                return;
            }
            Some(&Known::Ended { told_after, outcome, .. }) => {
                let reply = Output::Reply { key: request.key, outcome: outcome.into() };
                self.desk.log.owe(told_after, reply, out);
                return;
            }
            Some(&Known::InDoubt) => {
                out.push(Output::Reply { key: request.key, outcome: Outcome::InDoubt });
                return;
            }
            None => {}
        }
        let Request { key, work } = request;
        let started = match work {
            Work::Saga(definition) => self.submit_saga(now, &key, &definition, out),
            Work::Transaction(branches) => {
                self.submit_transaction(now, &key, branches, fingerprint, out)
            }
        };
        if let Err(refusal) = started {
            out.push(Output::Reply { key, outcome: Outcome::Refused(refusal) });
        }
        self.run_errands(now, out);
    }

    /// Cancels an operation by its key: a saga is compensated, a transaction without a decision is
    /// aborted. What comes of it is told as its outcome.
    ///
    /// # Errors
    /// [`CancelRefusal`]: nothing was changed.
    pub fn cancel(
        &mut self,
        now: Time,
        key: &RequestKey,
        out: &mut Vec<Output>,
    ) -> Result<(), CancelRefusal> {
        if self.dead {
            return Err(CancelRefusal::LogBusy);
        }
        match self.requests.get(key).map(|asked| &asked.known) {
            Some(&Known::Active(OpRef::Saga(id))) => {
                let Some(op) = self.sagas.get(&id) else { return Err(CancelRefusal::NotActive) };
                if let Some(step) = op.machine.past_pivot() {
                    return Err(CancelRefusal::PastPivot { step });
                }
                if op.machine.decide(&saga::Input::Cancel).is_none() {
                    return Err(CancelRefusal::TooLate);
                }
                let told = self.tell_saga(now, id, &saga::Input::Cancel, out);
                self.run_errands(now, out);
                if told { Ok(()) } else { Err(CancelRefusal::LogBusy) }
            }
            Some(&Known::Active(OpRef::Transaction(id))) => {
                let abort = twopc::coordinator::Input::AbortRequested;
                let told = self.tell_transaction(now, id, &abort, out);
                if told { Ok(()) } else { Err(CancelRefusal::TooLate) }
            }
            Some(&Known::Active(OpRef::Waiting(number))) => {
                self.waiting.remove(&number);
                self.requests.remove(key);
                out.push(Output::Reply { key: key.clone(), outcome: Outcome::Aborted });
                Ok(())
            }
            Some(Known::InDoubt) => Err(CancelRefusal::InDoubt),
            Some(Known::Ended { .. }) | None => Err(CancelRefusal::NotActive),
        }
    }

    /// A message from `from` arrived.
    pub fn receive(&mut self, now: Time, from: NodeName, message: &Message, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        match message {
            Message::Announce { store, boot } => self.announced(now, from, *store, *boot, out),
            Message::StepReply { key, step, direction, token, answer, output } => {
                let outcome = |desk: &Desk| match (*answer, output) {
                    (StepAnswer::Done, None) => saga::Outcome::Done,
                    (StepAnswer::Done, Some(output)) => {
                        // One that is too long is as good as none: a later step may need it.
                        let bytes_max = desk.config.output_bytes_max as usize;
                        match &**output {
                            saga::Output::Inline(bytes) if bytes.len() > bytes_max => {
                                saga::Outcome::Unknown
                            }
                            output => saga::Outcome::DoneWith(output.clone()),
                        }
                    }
                    (StepAnswer::Refused { code }, _) => saga::Outcome::Refused { code },
                    (StepAnswer::NotNow, _) => saga::Outcome::Unknown,
                };
                self.receive_step(now, *key, (*step, *direction, *token), outcome, out);
            }
            Message::Transaction(message) => self.receive_transaction(now, from, message, out),
            Message::AskFinished => self.tell_finished(from, out),
            Message::StepCall { .. } | Message::Hello | Message::Finished { .. } => {}
        }
        self.run_errands(now, out);
    }

    /// The flush that was handed out last is done, or has failed.
    pub fn flushed(&mut self, now: Time, result: Result<(), DiskError>, out: &mut Vec<Output>) {
        self.desk.log.flushed(now, result, out);
        self.dead |= self.desk.log.log().poisoned().is_some();
    }

    /// Time has passed: whatever is due by `now` is done.
    pub fn wake(&mut self, now: Time, out: &mut Vec<Output>) {
        self.forget_results(now);
        // A timer that is set meanwhile waits for the next call, due or not: each one ends.
        for _ in 0..self.desk.timers.len() {
            let Some(due) = self.first_timer().filter(|(at, _)| !self.dead && *at <= now) else {
                break;
            };
            self.desk.timers.remove(&due);
            let (_, op) = due;
            if let Some(pace) = self.pace(op) {
                pace.listed = Time::NEVER;
            }
            match op {
                OpRef::Transaction(id) => self.wake_transaction(now, id, out),
                OpRef::Saga(id) => self.wake_saga(now, id, out),
                OpRef::Waiting(number) => self.wake_waiting(now, number, out),
            }
            self.run_errands(now, out);
        }
    }

    fn pace(&mut self, op: OpRef) -> Option<&mut Pace> {
        match op {
            OpRef::Transaction(id) => self.transactions.get_mut(&id).map(|op| &mut op.pace),
            OpRef::Saga(id) => self.sagas.get_mut(&id).map(|op| &mut op.pace),
            OpRef::Waiting(number) => {
                self.waiting.get_mut(&number).map(|waiting| &mut waiting.pace)
            }
        }
    }

    /// Which operation is to be looked at first, and when. Those that were put off meanwhile are listed anew,
    /// and nobody is woken for one that has ended.
    fn first_timer(&mut self) -> Option<(Time, OpRef)> {
        loop {
            let first @ (at, op) = *self.desk.timers.first()?;
            let again = match self.pace(op) {
                Some(pace) if pace.listed == at && pace.wake == at => return Some(first),
                Some(pace) if pace.listed == at => {
                    pace.listed = pace.wake;
                    Some((pace.wake, op))
                }
                _ => None,
            };
            self.desk.timers.remove(&first);
            self.desk.timers.extend(again);
        }
    }

    /// Ends a round of inputs: hands out the next flush, if one is due.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        // Of what follows nothing sets a timer: `next_wake` finds the first one as it is now.
        self.first_timer();
        if self.desk.log.log().marker_due() {
            let (sagas, transactions) = (self.sagas.len() as u64, self.transactions.len() as u64);
            // Not a loss if the log is busy: it stays due.
            let _ = self
                .desk
                .log
                .append(now, out, |payload| codec::encode_marker(sagas, transactions, payload));
        }
        self.compact(now, out);
        self.desk.log.flush(now, out);
    }

    /// When [`wake`](Self::wake) and [`flush`](Self::flush) are to be called next, at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        if self.dead {
            return None;
        }
        let timer = self.desk.timers.first().map(|(at, _)| *at);
        let log = self.desk.log.log().next_wake();
        Time::earliest(timer, log)
    }

    /// The epoch of this start.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.desk.epoch
    }

    /// What was done since this start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.desk.stats
    }

    /// How many operations are neither ended nor refused.
    #[must_use]
    pub fn active(&self) -> usize {
        self.transactions.len() + self.sagas.len() + self.waiting.len()
    }

    /// The transactions that have not ended.
    pub fn active_transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions.values().map(|op| &op.machine)
    }

    /// The sagas that have not ended.
    pub fn active_sagas(&self) -> impl Iterator<Item = &Saga> {
        self.sagas.values().map(|op| &op.machine)
    }

    /// The sagas that a salvage of the log has left in doubt: an operator decides what becomes of them.
    pub fn sagas_in_doubt(&self) -> impl Iterator<Item = OperationId> {
        self.sagas_in_doubt.keys().copied()
    }

    /// The transactions that a salvage of the log has left in doubt.
    pub fn transactions_in_doubt(&self) -> impl Iterator<Item = OperationId> {
        self.transactions_in_doubt.keys().copied()
    }

    /// What the steps of a saga have brought so far, or had by its end, ascending by number. Of one that has
    /// ended it is known for as long as its result is, over restarts too.
    #[must_use]
    pub fn outputs(&self, key: &RequestKey) -> Vec<saga::StepInput> {
        match self.requests.get(key).map(|asked| &asked.known) {
            Some(Known::Active(OpRef::Saga(id))) => {
                self.sagas.get(id).map(|op| op.machine.outputs().collect()).unwrap_or_default()
            }
            _ => self.outputs.get(key).map(Trail::brought).unwrap_or_default(),
        }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.desk.log.log()
    }

    /// Takes the operations of an [`Output::Disk`] back once they were performed. Optional: the log's next
    /// flush writes from the same memory.
    pub fn reuse(&mut self, spent: Vec<DiskOp>) {
        self.desk.log.reuse(spent);
    }

    /// Whether the disk has room for the log's current segment only, as the shell knows. While it has, what does
    /// not fit is refused with [`Refusal::LogBusy`] or done later: see [`Log::confine`].
    pub fn confine_log(&mut self, confined: bool) {
        self.desk.log.confine(confined);
    }

    /// What is kept of it, counted anew.
    fn count_admitted(&self) -> Admitted {
        let mut admitted = Admitted::default();
        self.sagas.values().for_each(|op| admitted.enters(op));
        admitted
    }

    /// The client's saga that one is, or is a part of, if that is active.
    fn root_of(&self, id: OperationId, parent: Option<ParentStep>) -> Option<OperationId> {
        match parent {
            None => Some(id),
            Some(parent) => self.sagas.get(&parent.saga)?.root,
        }
    }

    fn draw_id(&mut self) -> Result<OperationId, Refusal> {
        let id = OperationId::draw(self.desk.epoch, self.ids_drawn + 1).ok_or(Refusal::OutOfIds)?;
        self.ids_drawn += 1;
        Ok(id)
    }

    /// What is known under a key from now on. Gives back the fingerprint of what was asked.
    fn end_request(&mut self, key: &RequestKey, ended: Known) -> Option<u128> {
        match self.requests.get_mut(key) {
            Some(asked) => {
                asked.known = ended;
                asked.fingerprint
            }
            None => {
                let asked = Asked { known: ended, fingerprint: None };
                self.requests.insert(key.clone(), asked);
                None
            }
        }
    }
}
