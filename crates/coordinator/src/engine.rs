//! The engine: every saga and transaction of one coordinator, on one log.

use crate::codec;
use crate::gated::GatedLog;
use crate::message::{Message, SagaKey, StepAnswer};
use crate::output::{Branch, LogSlot, Outcome, Output, Refusal, Request, Work};
use crate::replay::{InDoubt, Replay};
use base::prng::Key;
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, RequestKey, Sequence};
use base::{StoreId, Time};
use saga::Saga;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;
use twopc::coordinator::{Decision, Member};
use twopc::{Peer, Transaction, TxKey, Verdict};
use wal_core::{DiskError, Log, RECORD_HEADER_BYTES};

/// How an engine behaves. Every time and number is a limit, none is a promise of speed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The coordinator's name, and the name of the node where it listens.
    pub id: CoordinatorId,
    /// What is owed and unanswered is sent again after this long, then after twice as long, …
    pub resend_after: Duration,
    /// … but never later than this.
    pub resend_after_max: Duration,
    /// A transaction whose votes are not in by then is aborted.
    pub prepare_timeout: Duration,
    /// A step without an answer by then counts as failed, its effect unknown.
    pub step_timeout: Duration,
    /// A saga that is not done by then is compensated.
    pub saga_timeout: Duration,
    /// How often ABORT is sent, answers or none.
    pub abort_sends_max: u32,
    /// This many sagas may be active at once.
    pub active_sagas_max: u32,
    /// This many transactions may be active at once.
    pub active_transactions_max: u32,
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
            prepare_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(60),
            saga_timeout: Duration::from_secs(300),
            abort_sends_max: 3,
            active_sagas_max: 1_024,
            active_transactions_max: 256,
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
    /// Sagas of which every step succeeded.
    pub completed: u64,
    /// Sagas that were undone.
    pub compensated: u64,
    /// Sagas given up before anything ran.
    pub saga_aborted: u64,
    /// Acknowledgements of participants that could not commit: their disk was lost.
    pub heuristic: u64,
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
}

/// When an operation is looked at again, and how patient it has become.
#[derive(Clone, Debug)]
struct Pace {
    wake: Time,
    attempt: u32,
    started: Time,
}

impl Pace {
    fn new(now: Time) -> Pace {
        Pace { wake: Time::NEVER, attempt: 0, started: now }
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
}

#[derive(Clone, Debug)]
struct SagaOp {
    machine: Saga,
    sent: Sent,
    pace: Pace,
    /// Forward steps that were called, and when first.
    called: Vec<(u32, Time)>,
}

#[derive(Clone, Debug)]
struct Waiting {
    request_key: RequestKey,
    branches: Vec<Branch>,
    /// The places of their nodes.
    places: Vec<u32>,
    /// How many of their nodes have not announced themselves.
    missing: u32,
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
    Ended { at: Sequence, outcome: EndedAs },
    InDoubt,
}

#[derive(Clone, Copy, Debug)]
enum EndedAs {
    Saga(saga::End),
    Transaction(Decision),
}

impl From<EndedAs> for Outcome {
    fn from(ended: EndedAs) -> Outcome {
        match ended {
            EndedAs::Saga(end) => end.into(),
            EndedAs::Transaction(decision) => decision.into(),
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
    owed_transaction: Vec<twopc::coordinator::Effect>,
    owed_saga: Vec<saga::Effect>,
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
    requests: BTreeMap<RequestKey, Known>,
    /// Decisions of ended transactions, for inquiries that come late.
    decided: BTreeMap<OperationId, Decision>,
    /// What a salvage could not prove. Nothing is done about any of it.
    sagas_in_doubt: BTreeSet<OperationId>,
    transactions_in_doubt: BTreeSet<OperationId>,
    /// No id of these epochs that is not known is presumed aborted.
    unknown_ids_up_to: Option<Epoch>,
    nodes: Nodes,
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
                owed_transaction: Vec::new(),
                owed_saga: Vec::new(),
            },
            transactions: BTreeMap::new(),
            sagas: BTreeMap::new(),
            waiting: BTreeMap::new(),
            requests: BTreeMap::new(),
            decided: BTreeMap::new(),
            sagas_in_doubt: BTreeSet::new(),
            transactions_in_doubt: BTreeSet::new(),
            unknown_ids_up_to: None,
            nodes: Nodes::default(),
            ids_drawn: 0,
            waited: 0,
            dead: false,
        };
        let found = replay.into_operations(epoch);
        engine.unknown_ids_up_to = found.unknown_ids_up_to;
        for (in_doubt, listed) in [
            (found.sagas_in_doubt, &mut engine.sagas_in_doubt),
            (found.transactions_in_doubt, &mut engine.transactions_in_doubt),
        ] {
            for InDoubt { id, request_key } in in_doubt {
                listed.insert(id);
                engine.requests.extend(request_key.map(|key| (key, Known::InDoubt)));
            }
        }
        for ended in found.ended_transactions {
            engine.decided.insert(ended.id, ended.how);
            if let Some(key) = ended.request_key {
                let outcome = EndedAs::Transaction(ended.how);
                engine.requests.insert(key, Known::Ended { at: ended.at, outcome });
            }
        }
        for ended in found.ended_sagas {
            if let Some(key) = ended.request_key {
                let outcome = EndedAs::Saga(ended.how);
                engine.requests.insert(key, Known::Ended { at: ended.at, outcome });
            }
        }
        for machine in found.transactions {
            let id = machine.id();
            if let Some(key) = machine.request_key() {
                engine.requests.insert(key.clone(), Known::Active(OpRef::Transaction(id)));
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
                }),
            );
            let restarted = twopc::coordinator::Input::Restarted { epoch };
            engine.tell_transaction(now, id, &restarted, out);
        }
        for machine in found.sagas {
            let id = machine.id();
            if let Some(key) = machine.request_key() {
                engine.requests.insert(key.clone(), Known::Active(OpRef::Saga(id)));
            }
            let (sent, pace, called) = (Sent::default(), Pace::new(now), Vec::new());
            engine.sagas.insert(id, Box::new(SagaOp { machine, sent, pace, called }));
            engine.tell_saga(now, id, &saga::Input::Restarted { epoch }, out);
        }
        engine
    }

    /// Starts what a client asks for, or finds it by its key: then the client is told how it ended,
    /// or will be.
    pub fn submit(&mut self, now: Time, request: Request, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        match self.requests.get(&request.key) {
            Some(&Known::Active(op)) => {
                // Whoever asks again after the outcome was told, such as after a restart, hears it too.
                if let OpRef::Transaction(id) = op
                    && let Some(op) = self.transactions.get(&id)
                    && let Some(decision) = op.machine.decision()
                {
                    let after = match decision {
                        Decision::Commit => op.machine.evidence(),
                        Decision::Abort => Sequence::NONE,
                    };
                    let reply = Output::Reply { key: request.key, outcome: decision.into() };
                    self.desk.log.owe(after, reply, out);
                }
                return;
            }
            Some(&Known::Ended { at, outcome }) => {
                let reply = Output::Reply { key: request.key, outcome: outcome.into() };
                // An abort may be told at once; its records are never forced.
                let after = match outcome {
                    EndedAs::Transaction(Decision::Abort) => Sequence::NONE,
                    EndedAs::Transaction(Decision::Commit) | EndedAs::Saga(_) => at,
                };
                self.desk.log.owe(after, reply, out);
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
            Work::Transaction(branches) => self.submit_transaction(now, &key, branches, out),
        };
        if let Err(refusal) = started {
            out.push(Output::Reply { key, outcome: Outcome::Refused(refusal) });
        }
    }

    /// Cancels an operation by its key: a saga is compensated, a transaction without a decision is
    /// aborted. False if the key is unknown, or it is too late.
    pub fn cancel(&mut self, now: Time, key: &RequestKey, out: &mut Vec<Output>) -> bool {
        if self.dead {
            return false;
        }
        match self.requests.get(key) {
            Some(&Known::Active(OpRef::Saga(id))) => {
                self.tell_saga(now, id, &saga::Input::Cancel, out)
            }
            Some(&Known::Active(OpRef::Transaction(id))) => {
                let abort = twopc::coordinator::Input::AbortRequested;
                self.tell_transaction(now, id, &abort, out)
            }
            Some(&Known::Active(OpRef::Waiting(number))) => {
                self.waiting.remove(&number);
                self.requests.remove(key);
                out.push(Output::Reply { key: key.clone(), outcome: Outcome::Aborted });
                true
            }
            Some(Known::Ended { .. } | Known::InDoubt) | None => false,
        }
    }

    /// A message from `from` arrived.
    pub fn receive(&mut self, now: Time, from: NodeName, message: &Message, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        match message {
            Message::Announce { store, boot } => self.announced(now, from, *store, *boot, out),
            Message::StepReply { key, step, direction, token, answer } => {
                let Some(op) = self.saga_of(*key) else { return };
                if op.machine.token(*step, *direction) != *token {
                    return;
                }
                let outcome = match *answer {
                    StepAnswer::Done => saga::Outcome::Done,
                    StepAnswer::Refused { code } => saga::Outcome::Refused { code },
                    StepAnswer::NotNow => saga::Outcome::Unknown,
                };
                let input = saga::Input::Outcome { step: *step, direction: *direction, outcome };
                self.tell_saga(now, key.id, &input, out);
            }
            Message::Transaction(message) => self.receive_transaction(now, from, message, out),
            Message::StepCall { .. } | Message::Hello => {}
        }
    }

    /// The flush that was handed out last is done, or has failed.
    pub fn flushed(&mut self, now: Time, result: Result<(), DiskError>, out: &mut Vec<Output>) {
        self.desk.log.flushed(now, result, out);
        self.dead |= self.desk.log.log().poisoned().is_some();
    }

    /// Time has passed: whatever is due by `now` is done.
    pub fn wake(&mut self, now: Time, out: &mut Vec<Output>) {
        // A timer that is set meanwhile waits for the next call, due or not: each one ends.
        for _ in 0..self.desk.timers.len() {
            let due = self.desk.timers.peek().is_some_and(|Reverse((at, _))| *at <= now);
            if self.dead || !due {
                break;
            }
            let Some(Reverse((at, op))) = self.desk.timers.pop() else { break };
            match op {
                OpRef::Transaction(id) => {
                    if self.transactions.get(&id).is_some_and(|op| op.pace.wake == at) {
                        self.wake_transaction(now, id, out);
                    }
                }
                OpRef::Saga(id) => {
                    if self.sagas.get(&id).is_some_and(|op| op.pace.wake == at) {
                        self.wake_saga(now, id, out);
                    }
                }
                OpRef::Waiting(number) => {
                    if self.waiting.get(&number).is_some_and(|waiting| waiting.pace.wake == at) {
                        self.wake_waiting(now, number, out);
                    }
                }
            }
        }
    }

    /// Ends a round of inputs: hands out the next flush, if one is due.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.dead {
            return;
        }
        if self.desk.log.log().marker_due() {
            let (sagas, transactions) = (self.sagas.len() as u64, self.transactions.len() as u64);
            // Not a loss if the log is busy: it stays due.
            let _ = self
                .desk
                .log
                .append(now, out, |payload| codec::encode_marker(sagas, transactions, payload));
        }
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
        self.sagas_in_doubt.iter().copied()
    }

    /// The transactions that a salvage of the log has left in doubt.
    pub fn transactions_in_doubt(&self) -> impl Iterator<Item = OperationId> {
        self.transactions_in_doubt.iter().copied()
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
        if self.sagas.len() >= active_max as usize {
            return Err(Refusal::TooManyActive { active_max });
        }
        let id = self.draw_id()?;
        let nonce = base::prng::keyed_hash(
            u128::from(self.desk.config.key.draw(id.0, 0).u64()),
            self.desk.config.key.draw(id.0, 1).u64(),
            id.0,
        );
        let events = Saga::admission(definition, self.desk.config.id, nonce, Some(key.clone()));
        let mut scratch = Vec::new();
        self.desk.check_admission(events.iter().map(|event| {
            scratch.clear();
            codec::encode_saga(id, event, &mut scratch);
            scratch.len()
        }))?;
        let body = definition.steps().iter().map(|step| step.body.len()).max();
        self.desk.check_payload(codec::step_outcome_bytes(body.unwrap_or(0)))?;
        let mut events = events.into_iter();
        let created = events.next().expect("an admission begins with a creation");
        let at = self
            .desk
            .log
            .append(now, out, |payload| codec::encode_saga(id, &created, payload))
            .map_err(|_| Refusal::LogBusy)?;
        let machine =
            Saga::created(id, at, &created).expect("the first event of an admission is a creation");
        let (sent, pace, called) = (Sent::default(), Pace::new(now), Vec::new());
        let op = SagaOp { machine, sent, pace, called };
        let op = self.sagas.entry(id).or_insert_with(|| Box::new(op));
        self.requests.insert(key.clone(), Known::Active(OpRef::Saga(id)));
        for event in events {
            let recorded = self.desk.record_saga(now, op, &event, out);
            assert!(recorded, "the log had room for the whole admission");
        }
        self.advance_saga(now, id, out);
        Ok(())
    }

    fn submit_transaction(
        &mut self,
        now: Time,
        key: &RequestKey,
        branches: Vec<Branch>,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let active_max = self.desk.config.active_transactions_max;
        if self.transactions.len() + self.waiting.len() >= active_max as usize {
            return Err(Refusal::TooManyActive { active_max });
        }
        let nodes = &mut self.nodes;
        let places: Vec<u32> = branches.iter().map(|branch| nodes.place(branch.node)).collect();
        let named = branches.iter().map(|branch| branch.node).zip(&places);
        let mut unknown: Vec<(NodeName, u32)> = named
            .filter(|(_, place)| !nodes.has_announced(**place))
            .map(|(node, place)| (node, *place))
            .collect();
        if unknown.is_empty() {
            return self.begin_transaction(now, key, branches, &places, out);
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
        self.requests.insert(key.clone(), Known::Active(OpRef::Waiting(number)));
        let request_key = key.clone();
        self.waiting.insert(number, Waiting { request_key, branches, places, missing, pace });
        Ok(())
    }

    /// The list of peers is fixed here, before the first PREPARE leaves.
    fn begin_transaction(
        &mut self,
        now: Time,
        key: &RequestKey,
        branches: Vec<Branch>,
        places: &[u32],
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
        let events = Transaction::admission(self.desk.config.id, Some(key.clone()), &members)
            .map_err(Refusal::Participants)?;
        let decision = twopc::coordinator::Event::CommitStart { members };
        let records = events.iter().chain([&decision]);
        self.desk.check_admission(records.map(codec::transaction_payload_bytes))?;
        let work = branches.iter().map(|branch| branch.work.len()).max();
        self.desk.check_payload(codec::prepared_bytes(work.unwrap_or(0), branches.len()))?;
        let mut events = events.into_iter();
        let created = events.next().expect("an admission begins with a creation");
        let at = self
            .desk
            .log
            .append(now, out, |payload| codec::encode_transaction(id, &created, payload))
            .map_err(|_| Refusal::LogBusy)?;
        let op = TransactionOp {
            machine: Transaction::created(id, at, &created)
                .expect("the first event of an admission is a creation"),
            work: branches.into_iter().map(|branch| branch.work).collect(),
            peers: peers.into(),
            sent: Sent::default(),
            pace: Pace::new(now),
            aborts_sent: 0,
        };
        let op = self.transactions.entry(id).or_insert_with(|| Box::new(op));
        self.requests.insert(key.clone(), Known::Active(OpRef::Transaction(id)));
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
            let key = waiting.request_key;
            let begun = self.begin_transaction(now, &key, waiting.branches, &waiting.places, out);
            if let Err(refusal) = begun {
                self.requests.remove(&key);
                out.push(Output::Reply { key, outcome: Outcome::Refused(refusal) });
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
                        self.end_transaction(key.id);
                    }
                } else {
                    self.announced(now, from, store, boot, out);
                    self.tell_transaction(now, key.id, &input, out);
                }
            }
            twopc::Message::Ack { shard, heuristic, .. } => {
                let Some(op) = self.transactions.get_mut(&key.id) else { return };
                if op.machine.acknowledge(shard) {
                    self.desk.stats.heuristic += u64::from(heuristic);
                    self.desk.advance_transaction(now, op, false, out);
                    if op.machine.ended().is_some() {
                        self.end_transaction(key.id);
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
                Some(Decision::Abort) => Verdict::Aborted,
            });
        }
        if let Some(decision) = self.decided.get(&id) {
            return Some(match decision {
                Decision::Commit => Verdict::Committed,
                Decision::Abort => Verdict::Aborted,
            });
        }
        if self.transactions_in_doubt.contains(&id)
            || self.unknown_ids_up_to.is_some_and(|up_to| id.epoch() <= up_to)
        {
            return Some(Verdict::InDoubt);
        }
        // The log was replayed whole: of an earlier epoch it would hold a commit decision, had there
        // been one.
        (id.epoch() < self.desk.epoch).then_some(Verdict::Aborted)
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
            self.end_transaction(id);
        }
        told
    }

    /// What is kept of a transaction that has ended: the answers to those who ask late.
    fn end_transaction(&mut self, id: OperationId) {
        let Some(op) = self.transactions.remove(&id) else { return };
        let Some(decision) = op.machine.ended() else { return };
        self.decided.insert(id, decision);
        if let Some(key) = op.machine.request_key() {
            let (at, outcome) = (op.machine.evidence(), EndedAs::Transaction(decision));
            self.end_request(key, Known::Ended { at, outcome });
        }
        match decision {
            Decision::Commit => self.desk.stats.committed += 1,
            Decision::Abort => self.desk.stats.aborted += 1,
        }
    }

    fn end_request(&mut self, key: &RequestKey, ended: Known) {
        match self.requests.get_mut(key) {
            Some(known) => *known = ended,
            None => {
                self.requests.insert(key.clone(), ended);
            }
        }
    }

    fn wake_transaction(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.transactions.get_mut(&id) else { return };
        let late = now >= op.pace.started + self.desk.config.prepare_timeout;
        let input = match op.machine.decision() {
            None if late => twopc::coordinator::Input::TimedOut,
            Some(Decision::Abort) if op.aborts_sent >= self.desk.config.abort_sends_max => {
                twopc::coordinator::Input::AbortsSent
            }
            _ => {
                self.desk.send_transaction(now, op, true, out);
                self.desk.advance_transaction(now, op, false, out);
                if op.machine.ended().is_some() {
                    self.end_transaction(id);
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

    fn wake_waiting(&mut self, now: Time, number: u64, out: &mut Vec<Output>) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        if now >= waiting.pace.started + self.desk.config.prepare_timeout {
            let Some(waiting) = self.waiting.remove(&number) else { return };
            self.requests.remove(&waiting.request_key);
            out.push(Output::Reply { key: waiting.request_key, outcome: Outcome::Aborted });
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
        if let saga::Phase::Ended(how) = op.machine.phase() {
            let Some(op) = self.sagas.remove(&id) else { return };
            if let Some(key) = op.machine.request_key() {
                let (at, outcome) = (op.machine.last(), EndedAs::Saga(how));
                self.end_request(key, Known::Ended { at, outcome });
            }
            match how {
                saga::End::Completed => self.desk.stats.completed += 1,
                saga::End::Compensated => self.desk.stats.compensated += 1,
                saga::End::Aborted => self.desk.stats.saga_aborted += 1,
            }
        }
    }

    fn wake_saga(&mut self, now: Time, id: OperationId, out: &mut Vec<Output>) {
        let Some(op) = self.sagas.get_mut(&id) else { return };
        if op.machine.phase() == saga::Phase::Executing {
            if now >= op.pace.started + self.desk.config.saga_timeout
                && self.tell_saga(now, id, &saga::Input::TimedOut, out)
            {
                return;
            }
            let Some(op) = self.sagas.get_mut(&id) else { return };
            let limit = self.desk.config.step_timeout;
            let late = op.called.iter().find(|(_, since)| now >= *since + limit);
            if let Some(&(step, _)) = late
                && self.tell_saga(now, id, &saga::Input::StepTimedOut { step }, out)
            {
                return;
            }
        }
        let Some(op) = self.sagas.get_mut(&id) else { return };
        self.desk.send_saga(now, op, true, out);
    }
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
            if !self.record_transaction(now, op, &event, out) {
                return;
            }
            owes_more = true;
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
        let appended =
            self.log.append(now, out, |payload| codec::encode_transaction(id, event, payload));
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
        let appended = self.log.append(now, out, |payload| codec::encode_saga(id, event, payload));
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
                    let prepare = twopc::Message::Prepare { key, epoch, shard, peers, work };
                    (member, Sequence::NONE, prepare)
                }
                Effect::Commit { member, after } => {
                    // The first one still waits for the decision to be durable.
                    if !fresh && !self.log.is_durable(after) {
                        continue;
                    }
                    let Member { shard, store, .. } = op.machine.members()[member as usize];
                    let store = store.map(|(store, _)| store);
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
        if op.machine.decision().is_none() {
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
            let (step, direction, token, after) = match effect {
                Effect::Tell { end, after } => {
                    if let (true, Some(key)) = (fresh, op.machine.request_key()) {
                        let reply = Output::Reply { key: key.clone(), outcome: end.into() };
                        self.log.owe(after, reply, out);
                    }
                    continue;
                }
                Effect::Run { step, token, after } => {
                    (step, saga::Direction::Forward, token, after)
                }
                Effect::Compensate { step, token, after } => {
                    (step, saga::Direction::Backward, token, after)
                }
            };
            if !fresh && !self.log.is_durable(after) {
                continue;
            }
            if fresh && direction == saga::Direction::Forward {
                op.called.push((step, now));
            }
            let Some(spec) = op.machine.step(step) else { continue };
            let (to, body) = (spec.node(), spec.body().clone());
            let message = Message::StepCall { key, epoch, step, direction, token, body };
            self.log.owe(after, Output::Send { to, message }, out);
        }
        self.owed_saga = owed;
        self.schedule(&mut op.pace, now, OpRef::Saga(id));
        if op.machine.phase() == saga::Phase::Executing {
            let (machine, called) = (&op.machine, &mut op.called);
            called.retain(|(step, _)| machine.step(*step).is_some_and(|s| s.outcome().is_none()));
            let steps = called.iter().map(|(_, since)| *since + self.config.step_timeout);
            let whole = op.pace.started + self.config.saga_timeout;
            let deadline = steps.fold(whole, Time::min);
            // A deadline that this wake found passed, and could not log, is tried again in time.
            if !resend || deadline > now {
                self.not_later_than(&mut op.pace, deadline, OpRef::Saga(id));
            }
        }
    }

    /// Sets the operation's timer by its patience, which doubles.
    fn schedule(&mut self, pace: &mut Pace, now: Time, op: OpRef) {
        let doubled = self.config.resend_after.saturating_mul(1 << pace.attempt.min(16));
        pace.wake = now + doubled.min(self.config.resend_after_max);
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
