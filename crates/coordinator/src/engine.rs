//! The engine: every saga and transaction of one coordinator, on one log.

mod compaction;
mod force;
mod operator;
mod steps;

use crate::codec;
use crate::gated::GatedLog;
use crate::message::{Call, Message, SagaKey, StepAnswer, UndoOrder};
use crate::output::{Branch, LogSlot, Outcome, Output, Refusal, Request, Work};
use crate::replay::{EndedOperation, InDoubt, Replay};
use crate::snapshot::{DoubtfulTrail, Ended, EndedHow, Trail};
use base::prng::Key;
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey};
use base::{Sequence, StoreId, Time};
pub use operator::{CancelRefusal, Retrying};
use saga::{Direction, Label, Saga};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
pub use steps::StepOperation;
use steps::{Errand, Origin};
use twopc::coordinator::{Decision, Member};
use twopc::heuristic::Heuristics;
use twopc::{Peer, Transaction, TxKey, Verdict};
use wal_core::{DiskError, Log, RECORD_HEADER_BYTES};

/// Who has sent so often what is owed, without an answer, has waited long.
const LONG: u32 = 3;

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

/// Which of the things that an operation owes have been sent at least once, by their slots. Our own
/// operations use slots below 256; a foreign log's may use any.
#[derive(Clone, Debug, Default)]
struct Sent {
    low: [u64; 4],
    high: BTreeSet<u64>,
}

impl Sent {
    /// True if it had not been marked.
    fn mark(&mut self, slot: u64) -> bool {
        let Some(word) = self.low.get_mut((slot / 64).min(4) as usize) else {
            return self.high.insert(slot);
        };
        let fresh = *word >> (slot % 64) & 1 == 0;
        *word |= 1 << (slot % 64);
        fresh
    }

    /// As if it had never been sent.
    fn forget(&mut self, slot: u64) {
        match self.low.get_mut((slot / 64).min(4) as usize) {
            Some(word) => *word &= !(1 << (slot % 64)),
            None => {
                self.high.remove(&slot);
            }
        }
    }
}

/// When an operation is looked at again, and how patient it has become.
#[derive(Clone, Debug)]
struct Pace {
    wake: Time,
    attempt: u32,
    /// How many waits have had their jitter drawn.
    waits: u32,
    started: Time,
}

impl Pace {
    fn new(now: Time) -> Pace {
        Pace { wake: Time::NEVER, attempt: 0, waits: 0, started: now }
    }
}

#[derive(Clone, Debug)]
struct TransactionOp {
    machine: Transaction,
    /// What each member is asked to do. Empty after a restart: nothing is prepared again then.
    work: Vec<Arc<[u8]>>,
    peers: Arc<[Peer]>,
    sent: Sent,
    pace: Pace,
    aborts_sent: u32,
    /// It does a step of a saga's, which knows what it came to.
    told_parent: bool,
    /// Its records, for the next snapshot.
    trail: Trail,
}

#[derive(Clone, Debug)]
struct SagaOp {
    machine: Saga,
    /// The client's saga that it is, or is a part of; `None`: that is not active.
    root: Option<OperationId>,
    sent: Sent,
    pace: Pace,
    /// The calls that are made and not answered.
    calls: Vec<Called>,
    /// The action of one of its steps for which there is no code: nothing of it is called.
    held: Option<Label>,
    /// Its records, for the next snapshot.
    trail: Trail,
}

/// A call of a step.
#[derive(Clone, Copy, Debug)]
struct Called {
    step: u32,
    direction: Direction,
    /// When it was first called.
    since: Time,
    attempts: u32,
    /// How many transactions on its behalf have been voted down.
    refused: u32,
    /// Nobody waits any longer for what runs on its behalf: it is being ended.
    given_up: bool,
}

impl SagaOp {
    fn new(
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
    fn input_of(
        &self,
        step: u32,
        direction: Direction,
        outcome: saga::Outcome,
        attempts_max: u32,
    ) -> saga::Input {
        let refused = matches!(outcome, saga::Outcome::Refused { .. });
        let tries = self.machine.step(step).map_or(0, saga::StepState::tries);
        let last = tries.saturating_add(1) >= attempts_max;
        if refused && direction == Direction::Backward && last {
            saga::Input::GiveUpUndo { step }
        } else {
            saga::Input::Outcome { step, direction, outcome }
        }
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
    fn called(&mut self, step: u32, direction: Direction, now: Time) {
        let known = |call: &&mut Called| call.step == step && call.direction == direction;
        match self.calls.iter_mut().find(known) {
            Some(call) => call.attempts = call.attempts.saturating_add(1),
            None => {
                let (refused, given_up) = (0, false);
                let call = Called { step, direction, since: now, attempts: 1, refused, given_up };
                self.calls.push(call);
            }
        }
    }

    /// What is owed of the step is asked for as if for the first time.
    fn called_anew(&mut self, step: u32) {
        for slot in [1, 2] {
            self.sent.forget(slot + 2 * u64::from(step));
        }
        self.calls.retain(|call| call.step != step);
    }

    /// Until when a step is waited for; `None`: it cannot fail, however long it takes.
    fn deadline(machine: &Saga, call: &Called, usual: Duration) -> Option<Time> {
        let terms = machine.step(call.step)?.terms();
        let may_fail = terms.kind.fails_unanswered() && machine.past_pivot().is_none();
        let forward = call.direction == Direction::Forward && !call.given_up;
        (forward && may_fail).then(|| call.since + terms.timeout.unwrap_or(usual))
    }
}

/// The action of a step that is not among those that are known.
fn missing_action(machine: &Saga, known: &BTreeSet<Label>) -> Option<Label> {
    let mut names = machine.steps().flat_map(|step| step.terms().action_names());
    names.find(|name| !known.contains(*name)).cloned()
}

#[derive(Clone, Debug)]
struct Waiting {
    origin: Origin,
    branches: Vec<Branch>,
    /// The places of their nodes.
    places: Vec<u32>,
    /// How many of their nodes have not announced themselves.
    missing: u32,
    fingerprint: u128,
    pace: Pace,
}

/// Whether a node has announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Announced {
    /// Not yet. These wait for it; some may have given up since.
    Expected(Vec<u64>),
    As(StoreId, BootCount),
}

/// The nodes that were asked for or heard of. Each has a place, so that its name is looked up once.
#[derive(Clone, Debug, Default)]
struct Nodes {
    places: BTreeMap<NodeName, u32>,
    announced: Vec<Announced>,
}

impl Nodes {
    fn place(&mut self, node: NodeName) -> u32 {
        let Nodes { places, announced } = self;
        *places.entry(node).or_insert_with(|| {
            announced.push(Announced::Expected(Vec::new()));
            u32::try_from(announced.len() - 1).expect("fewer than 2^32 nodes have a name")
        })
    }

    fn has_announced(&self, place: u32) -> bool {
        matches!(self.announced[place as usize], Announced::As(..))
    }
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

/// The parts of an engine that operations use while one of them is borrowed.
#[derive(Clone, Debug)]
struct Desk {
    config: Config,
    epoch: Epoch,
    log: GatedLog,
    timers: BinaryHeap<Reverse<(Time, OpRef)>>,
    stats: Stats,
    admitted: Admitted,
    owed_transaction: Vec<twopc::coordinator::Effect>,
    owed_saga: Vec<saga::Effect>,
    /// What operations owe each other.
    errands: VecDeque<Errand>,
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
                timers: BinaryHeap::new(),
                stats: Stats::default(),
                admitted: Admitted::default(),
                owed_transaction: Vec::new(),
                owed_saga: Vec::new(),
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
        match started {
            Ok(()) => {
                if let Some(asked) = self.requests.get_mut(&key) {
                    asked.fingerprint = Some(fingerprint);
                }
            }
            Err(refusal) => out.push(Output::Reply { key, outcome: Outcome::Refused(refusal) }),
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
                let attempts_max = self.desk.config.undo_attempts_max;
                let Some(op) = self.saga_of(*key) else { return };
                if op.machine.token(*step, *direction) != *token {
                    return;
                }
                let (step, direction) = (*step, *direction);
                // Nobody was called who could answer.
                if !op.machine.step(step).is_some_and(|step| steps::is_called(step, direction)) {
                    return;
                }
                let outcome = match (*answer, output) {
                    (StepAnswer::Done, None) => saga::Outcome::Done,
                    (StepAnswer::Done, Some(output)) => {
                        // One that is too long is as good as none: a later step may need it.
                        let bytes_max = self.desk.config.output_bytes_max as usize;
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
                let input = op.input_of(step, direction, outcome, attempts_max);
                self.tell_saga(now, key.id, &input, out);
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
            let due = self.desk.timers.peek().is_some_and(|Reverse((at, _))| *at <= now);
            if self.dead || !due {
                break;
            }
            let Some(Reverse((at, op))) = self.desk.timers.pop() else { break };
            if !self.is_set(at, op) {
                continue;
            }
            match op {
                OpRef::Transaction(id) => self.wake_transaction(now, id, out),
                OpRef::Saga(id) => self.wake_saga(now, id, out),
                OpRef::Waiting(number) => self.wake_waiting(now, number, out),
            }
            self.run_errands(now, out);
        }
    }

    /// Whether an operation is to be looked at at this moment: it has not ended, and its timer was not set anew.
    fn is_set(&self, at: Time, op: OpRef) -> bool {
        let pace = match op {
            OpRef::Transaction(id) => self.transactions.get(&id).map(|op| &op.pace),
            OpRef::Saga(id) => self.sagas.get(&id).map(|op| &op.pace),
            OpRef::Waiting(number) => self.waiting.get(&number).map(|waiting| &waiting.pace),
        };
        pace.is_some_and(|pace| pace.wake == at)
    }

    /// Nobody is woken for an operation that has ended.
    fn forget_timers(&mut self) {
        while let Some(&Reverse((at, op))) = self.desk.timers.peek()
            && !self.is_set(at, op)
        {
            self.desk.timers.pop();
        }
    }

    /// Ends a round of inputs: hands out the next flush, if one is due.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        self.forget_timers();
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
        let timer = self.desk.timers.peek().map(|Reverse((at, _))| *at);
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

    // ---- starting ----

    fn submit_saga(
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

    /// Its definition was checked.
    fn start_saga(
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
        let mut scratch = Vec::new();
        self.desk.check_admission(events.iter().map(|event| {
            scratch.clear();
            codec::encode_saga(id, event, &mut scratch);
            scratch.len()
        }))?;
        let mut events = events.into_iter();
        let created = events.next().expect("an admission begins with a creation");
        let mut trail = Trail::default();
        let encode = |payload: &mut Vec<u8>| codec::encode_saga(id, &created, payload);
        let appended = self.desk.log.append_kept(now, &mut trail, out, encode);
        let at = appended.map_err(|_| Refusal::LogBusy)?;
        let machine =
            Saga::created(id, at, &created).expect("the first event of an admission is a creation");
        let root = self.root_of(id, machine.terms().parent);
        let op = SagaOp::new(machine, root, now, None, trail);
        self.desk.admitted.enters(&op);
        let op = self.sagas.entry(id).or_insert_with(|| Box::new(op));
        let child = OpRef::Saga(id);
        match origin {
            Origin::Client(key) => {
                self.requests.insert(key, Asked { known: Known::Active(child), fingerprint: None });
            }
            Origin::Step(parent) => _ = self.children.insert(parent, child),
        }
        for event in events {
            let recorded = self.desk.record_saga(now, op, &event, out);
            assert!(recorded, "the log had room for the whole admission");
        }
        // A definition that a log holds may name what this start has no code for.
        op.held =
            self.desk.config.actions.as_ref().and_then(|known| missing_action(&op.machine, known));
        self.advance_saga(now, id, out);
        Ok(())
    }

    fn submit_transaction(
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
    fn begin_or_wait(
        &mut self,
        now: Time,
        origin: Origin,
        branches: Vec<Branch>,
        fingerprint: u128,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let nodes = &mut self.nodes;
        let places: Vec<u32> = branches.iter().map(|branch| nodes.place(branch.node)).collect();
        let named = branches.iter().map(|branch| branch.node).zip(&places);
        let mut unknown: Vec<(NodeName, u32)> = named
            .filter(|(_, place)| !nodes.has_announced(**place))
            .map(|(node, place)| (node, *place))
            .collect();
        if unknown.is_empty() {
            return self.begin_transaction(now, origin, branches, &places, fingerprint, out);
        }
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
                self.requests.insert(key.clone(), Asked { known, fingerprint: None });
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
        let mut peers = Vec::with_capacity(branches.len());
        for (branch, place) in branches.iter().zip(places) {
            let Announced::As(store, boot) = self.nodes.announced[*place as usize] else {
                unreachable!(
                    "a transaction begins once all of its nodes have announced themselves"
                );
            };
            peers.push(Peer { shard: branch.shard, node: branch.node, store, boot });
        }
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
        let lengths = || events.iter().chain([&decision]).map(codec::transaction_payload_bytes);
        self.desk.check_admission(lengths())?;
        // Each branch votes, and the end is the last record: room for all of it is made at once.
        let more = branches.len() * codec::VOTE_PAYLOAD_BYTES + codec::END_PAYLOAD_BYTES;
        let room = (lengths().count() + branches.len() + 1, lengths().sum::<usize>() + more);
        let work = branches.iter().map(|branch| branch.work.len()).max();
        self.desk.check_payload(codec::prepared_bytes(work.unwrap_or(0), branches.len()))?;
        let mut events = events.into_iter();
        let created = events.next().expect("an admission begins with a creation");
        let mut trail = Trail::with_room(room.0, room.1);
        let encode = |payload: &mut Vec<u8>| codec::encode_transaction(id, &created, payload);
        let appended = self.desk.log.append_kept(now, &mut trail, out, encode);
        let at = appended.map_err(|_| Refusal::LogBusy)?;
        let op = TransactionOp {
            machine: Transaction::created(id, at, &created)
                .expect("the first event of an admission is a creation"),
            work: branches.into_iter().map(|branch| branch.work).collect(),
            peers: peers.into(),
            sent: Sent::default(),
            pace: Pace::new(now),
            aborts_sent: 0,
            told_parent: false,
            trail,
        };
        let op = self.transactions.entry(id).or_insert_with(|| Box::new(op));
        let known = Known::Active(OpRef::Transaction(id));
        match origin {
            Origin::Client(key) => match self.requests.get_mut(&key) {
                Some(asked) => asked.known = known,
                None => {
                    self.requests.insert(key, Asked { known, fingerprint: None });
                }
            },
            Origin::Step(parent) => {
                self.children.insert(parent, OpRef::Transaction(id));
            }
        }
        for event in events {
            let recorded = self.desk.record_transaction(now, op, &event, out);
            assert!(recorded, "the log had room for the whole admission");
        }
        self.desk.advance_transaction(now, op, true, out);
        Ok(())
    }

    fn draw_id(&mut self) -> Result<OperationId, Refusal> {
        let id = OperationId::draw(self.desk.epoch, self.ids_drawn + 1).ok_or(Refusal::OutOfIds)?;
        self.ids_drawn += 1;
        Ok(id)
    }

    fn announced(
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
            let Waiting { origin, branches, places, fingerprint, .. } = waiting;
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

    fn receive_transaction(
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
                let Some(op) = self.transactions.get_mut(&key.id) else { return };
                if op.machine.acknowledge(shard) {
                    self.desk.advance_transaction(now, op, false, out);
                    if op.machine.ended().is_some() {
                        self.end_transaction(now, key.id);
                    }
                }
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
    fn verdict(&self, id: OperationId) -> Option<Verdict> {
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
    fn tell_transaction(
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
    fn end_transaction(&mut self, now: Time, id: OperationId) {
        if let Some(op) = self.transactions.get(&id)
            && op.machine.parent().is_some()
            && !op.told_parent
        {
            // Its only participant has said so: whose step it does has still to be told.
            self.desk.errands.push_back(Errand::Child(OpRef::Transaction(id)));
            return;
        }
        let Some(op) = self.transactions.remove(&id) else { return };
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
        let how = EndedHow::Transaction(decision);
        self.remember(now, Ended { id, how, at, request_key, fingerprint });
        match decision {
            Decision::Commit => self.desk.stats.committed += 1,
            Decision::Abort => self.desk.stats.aborted += 1,
            Decision::ReadOnly => self.desk.stats.read_only += 1,
        }
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

    fn wake_transaction(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.transactions.get_mut(&id) else { return };
        if op.machine.parent().is_some() && !op.told_parent {
            // Its saga may have had no room for it.
            self.desk.errands.push_back(Errand::Child(OpRef::Transaction(id)));
        }
        let late = now >= op.pace.started + self.desk.config.prepare_timeout;
        let input = match op.machine.decision() {
            None if late && !op.machine.is_delegated() => twopc::coordinator::Input::TimedOut,
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

    fn wake_waiting(&mut self, now: Time, number: u64, out: &mut Vec<Output>) {
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

    // ---- sagas ----

    fn saga_of(&self, key: SagaKey) -> Option<&SagaOp> {
        if key.coordinator != self.desk.config.id {
            return None;
        }
        self.sagas.get(&key.id).map(Box::as_ref)
    }

    /// True if the input was worth a fact.
    fn tell_saga(
        &mut self,
        now: Time,
        id: OperationId,
        input: &saga::Input,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(op) = self.sagas.get_mut(&id) else { return false };
        let fact = op.machine.decide(input);
        if let Some(event) = &fact
            && !self.desk.record_saga(now, op, event, out)
        {
            return false;
        }
        if fact.is_some() || matches!(input, saga::Input::Restarted { .. }) {
            self.advance_saga(now, id, out);
        }
        fact.is_some()
    }

    fn advance_saga(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.sagas.get_mut(&id) else { return };
        while let Some(event) = op.machine.settle() {
            if !self.desk.record_saga(now, op, &event, out) {
                return;
            }
        }
        op.pace.attempt = 0;
        self.desk.send_saga(now, op, false, out);
        if steps::waits_for_parent(&op.machine) {
            self.desk.errands.push_back(Errand::Child(OpRef::Saga(id)));
        }
        if let saga::Phase::Ended(how) = op.machine.phase() {
            let Some(op) = self.sagas.remove(&id) else { return };
            self.desk.admitted.leaves(&op);
            if let Some(parent) = op.machine.terms().parent {
                self.forget_child(parent, OpRef::Saga(id));
            }
            self.release_children(id);
            let at = op.machine.last();
            let request_key = op.machine.request_key().cloned();
            let fingerprint = op.machine.terms().fingerprint;
            if let Some(key) = &request_key {
                let outputs = op.trail.outputs();
                if !outputs.bytes().is_empty() {
                    self.outputs.insert(key.clone(), outputs);
                }
                let outcome = EndedAs::Saga(how);
                self.end_request(key, Known::Ended { at, told_after: at, outcome });
            }
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

    fn wake_saga(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
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
        self.desk.send_saga(now, op, true, out);
    }
}

/// By which the branches of a transaction are known again. It is in logs: it never changes.
fn fingerprint_of(key: &Key, branches: &[Branch]) -> u128 {
    let mut hash = [branches.len() as u64, 1];
    let mut words = |first: u64, second: u64| {
        let draw = key.draw(hash[0] ^ first, hash[1] ^ second);
        hash = [draw.u64(), draw.nth(1).u64()];
    };
    for branch in branches {
        words(branch.work.len() as u64, 0);
        for bytes in [&branch.shard.0[..], &branch.node.0, &branch.work] {
            for chunk in bytes.chunks(16) {
                let mut whole = [0; 16];
                whole[..chunk.len()].copy_from_slice(chunk);
                let whole = u128::from_le_bytes(whole);
                words(whole as u64, (whole >> 64) as u64);
            }
        }
    }
    u128::from(hash[0]) | u128::from(hash[1]) << 64
}

impl Desk {
    /// True if the input was worth a fact.
    fn tell_transaction(
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
    fn advance_transaction(
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
    fn record_transaction(
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

    /// See [`Desk::record_transaction`].
    fn record_saga(
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
        self.admitted.turns(op.root, before, op.machine.parked_count() > 0);
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
            let (member, after, message) = match effect {
                Effect::Tell { decision, after } => {
                    if let (true, Some(key)) = (fresh, op.machine.request_key()) {
                        let reply = Output::Reply { key: key.clone(), outcome: decision.into() };
                        self.log.owe(after, reply, out);
                    }
                    continue;
                }
                Effect::Prepare { member } => {
                    let Some(work) = op.work.get(member as usize).cloned() else { continue };
                    let shard = op.machine.members()[member as usize].shard;
                    let peers = op.peers.clone();
                    let one_phase = false;
                    let prepare =
                        twopc::Message::Prepare { key, epoch, shard, peers, work, one_phase };
                    (member, Sequence::NONE, prepare)
                }
                Effect::Delegate { member, after } => {
                    // The first one still waits for the beginning to be durable.
                    if !fresh && !self.log.is_durable(after) {
                        continue;
                    }
                    let shard = op.machine.members()[member as usize].shard;
                    let message = match op.work.get(member as usize).cloned() {
                        Some(work) => {
                            let (peers, one_phase) = (op.peers.clone(), true);
                            twopc::Message::Prepare { key, epoch, shard, peers, work, one_phase }
                        }
                        None => twopc::Message::Resolve { key, epoch, shard },
                    };
                    (member, after, message)
                }
                Effect::Commit { member, after } => {
                    // The first one still waits for the decision to be durable.
                    if !fresh && !self.log.is_durable(after) {
                        continue;
                    }
                    let shard = op.machine.members()[member as usize].shard;
                    let store = op.machine.store_to_commit(member);
                    (member, after, twopc::Message::Commit { key, epoch, shard, store })
                }
                Effect::Abort { member } => {
                    aborts += 1;
                    let shard = op.machine.members()[member as usize].shard;
                    (member, Sequence::NONE, twopc::Message::Abort { key, epoch, shard })
                }
            };
            let to = op.machine.members()[member as usize].node;
            let message = Message::Transaction(message);
            self.log.owe(after, Output::Send { to, message }, out);
        }
        self.owed_transaction = owed;
        op.aborts_sent += u32::from(aborts > 0);
        if op.machine.decision() == Some(Decision::Abort) && aborts == 0 {
            op.aborts_sent = self.config.abort_sends_max;
        }
        self.schedule(&mut op.pace, now, OpRef::Transaction(id));
        if op.machine.decision().is_none() && !op.machine.is_delegated() {
            let deadline = op.pace.started + self.config.prepare_timeout;
            self.not_later_than(&mut op.pace, deadline, OpRef::Transaction(id));
        }
    }

    /// Sends what a saga owes: what was never sent, or, to `resend`, all of it.
    fn send_saga(&mut self, now: Time, op: &mut SagaOp, resend: bool, out: &mut Vec<Output>) {
        use saga::Effect;
        let id = op.machine.id();
        let (key, epoch) = (SagaKey { coordinator: self.config.id, id }, self.epoch);
        let mut owed = std::mem::take(&mut self.owed_saga);
        op.machine.pending(&mut owed);
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
            op.called(step, direction, now);
            let Some(spec) = op.machine.step(step) else { continue };
            let (to, kind) = (spec.node(), spec.kind());
            let body = match direction {
                Direction::Forward => spec.body().clone(),
                Direction::Backward => spec.undo_body().clone(),
            };
            let inputs = op.machine.inputs(step, direction).into();
            let cannot_fail = op.machine.cannot_fail(step);
            let call = Call { step, direction, kind, cannot_fail, order, inputs };
            let message = Message::StepCall { key, epoch, token, body, call: Box::new(call) };
            self.log.owe(after, Output::Send { to, message }, out);
        }
        self.owed_saga = owed;
        let machine = &op.machine;
        op.calls.retain(|call| SagaOp::is_owed(machine, call));
        self.schedule(&mut op.pace, now, OpRef::Saga(id));
        // A deadline that this wake found passed, and could not log, is tried again in time.
        self.watch_deadlines(op, |deadline| !resend || deadline > now);
    }

    /// The saga is looked at no later than its next time-out.
    fn watch_saga(&mut self, now: Time, op: &mut SagaOp) {
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

    /// Sets the operation's timer by its patience, which doubles.
    fn schedule(&mut self, pace: &mut Pace, now: Time, op: OpRef) {
        let doubled = self.config.resend_after.saturating_mul(1 << pace.attempt.min(16));
        let mut wait = doubled.min(self.config.resend_after_max);
        let percent = u64::from(self.config.jitter_percent.min(100));
        if percent > 0 {
            let id = match op {
                OpRef::Saga(id) | OpRef::Transaction(id) => id.0,
                OpRef::Waiting(number) => number,
            };
            pace.waits += 1;
            let draw = self.config.key.draw(id, u64::from(pace.waits) << 8 | 0xFF).nth(7);
            let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
            wait -= Duration::from_nanos(draw.between(0, nanos / 100 * percent));
        }
        pace.wake = now + wait;
        if pace.attempt >= LONG {
            // Perhaps nobody answers because somebody else has the log by now.
            self.log.check_epoch();
        }
        pace.attempt += 1;
        self.timers.push(Reverse((pace.wake, op)));
    }

    fn not_later_than(&mut self, pace: &mut Pace, deadline: Time, op: OpRef) {
        if deadline < pace.wake {
            pace.wake = deadline;
            self.timers.push(Reverse((deadline, op)));
        }
    }

    /// Refuses an operation before anything of it is logged: a record too large, or a log whose buffer
    /// could not take the whole admission as one unit.
    fn check_admission(&self, payloads: impl Iterator<Item = usize>) -> Result<(), Refusal> {
        let (mut records, mut total) = (0, 0);
        for bytes in payloads {
            self.check_payload(bytes)?;
            records += 1;
            total += u64::from(RECORD_HEADER_BYTES) + bytes as u64;
        }
        if total > self.log.log().room(records) { Err(Refusal::LogBusy) } else { Ok(()) }
    }

    /// Refuses what a participant could not log: it would never vote, and a step be called for ever.
    /// Participants are taken to have the same limit as this coordinator.
    fn check_payload(&self, bytes: usize) -> Result<(), Refusal> {
        let payload_bytes_max = self.log.log().config().max_payload;
        let fits = bytes <= payload_bytes_max as usize;
        if fits { Ok(()) } else { Err(Refusal::TooLarge { payload_bytes_max }) }
    }
}
