use crate::disks::FileDisks;
use crate::network::Network;
use crate::operator::{Stuck, stuck};
use crate::scrubber::{NoScrubber, Scrubber};
use crate::stats::{Observer, Stats, stats_of};
use base::prng::Key;
use base::{Latency, NodeName, OperationId, RequestKey, Time};
use node::{
    Config, Doubtful, Force, ForceError, Input, Intervention, LogSlot, Message, Node, OrderError,
    Outcome, Output, RecoveryReport, Request,
};
use saga::{Order, StepInput};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use wal_core::{DiskOp, FileError, OpenMode, ScrubConfig, Writes};

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, the same at every start of this directory.
    pub name: NodeName,
    /// How both logs are kept.
    pub log: wal_core::Config,
    /// What is owed and unanswered is sent again after this long, then after twice as long, …
    pub resend_after: Duration,
    /// A compensation that failed so often is parked; `None`: as often as the coordinator's default.
    pub undo_attempts_max: Option<u32>,
    /// How the sealed segments of its logs are read again in the background, each log by itself; `None`: they are
    /// not. What is found damaged is an error event of `tracing`, and stands in [`LogStats`](crate::LogStats).
    pub scrub: Option<ScrubConfig>,
    /// How what is written reaches the disk.
    pub writes: Writes,
}

impl Options {
    /// The defaults: a coordinator and a participant, 500 ms, a scrub of 4 MiB a second that rests for an hour.
    #[must_use]
    pub fn new(name: NodeName) -> Options {
        let (log, resend_after) = (wal_core::Config::default(), Duration::from_millis(500));
        let scrub = Some(ScrubConfig::default());
        let writes = Writes::default();
        Options { name, log, resend_after, undo_attempts_max: None, scrub, writes }
    }
}

/// Why a node did not start. Nothing of what its logs hold is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A directory is in use by another process, or cannot be used: its text says which, and why.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The system has no randomness or no thread to give: try again later.
    #[error("the system gave no {what}: {reason}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// A log cannot be opened, such as a damaged one: look at it with `trinity wal recover`.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The node runs no more. Whether a request that was not answered is done is not known: start the node
/// again, and ask with the same key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has stopped: {reason}")]
pub struct Stopped {
    /// Why.
    pub reason: String,
}

/// What comes to a node's thread.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message { from: NodeName, message: Message },
    Submit { request: Request, answer: oneshot::Sender<Result<Outcome, Stopped>> },
    Cancel { key: RequestKey },
    Value { cell: u64, answer: oneshot::Sender<Result<i64, Stopped>> },
    Quiet { answer: oneshot::Sender<Result<(), Stopped>> },
    Stats { answer: oneshot::Sender<Stats> },
    Status { key: RequestKey, answer: oneshot::Sender<Result<Status, Stopped>> },
    Outputs { key: RequestKey, answer: oneshot::Sender<Result<Vec<StepInput>, Stopped>> },
    Stuck { answer: oneshot::Sender<Result<Stuck, Stopped>> },
    Order { id: OperationId, step: u32, order: Box<Order>, answer: Ordered },
    Intervene { what: Box<Intervention>, answer: Forcing },
    Stop,
}

/// Who waits for what becomes of an order.
type Ordered = oneshot::Sender<Result<Result<(), OrderError>, Stopped>>;

/// Who waits for what becomes of an intervention.
type Forcing = oneshot::Sender<Result<Result<(), ForceError>, Stopped>>;

/// What an operation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// A saga that has not ended: `created`, `executing` or `compensating`.
    Saga {
        /// Where it stands.
        state: &'static str,
    },
    /// A transaction that has not ended: `created`, `preparing`, `delegated` (its only participant
    /// decides it), `committing`, `aborting` or `rolling_back`.
    Transaction {
        /// Where it stands.
        state: &'static str,
    },
    /// It has ended, waits for its participants to announce themselves, or was never asked for.
    NotRunning,
}

/// Who carries a node's messages.
pub(crate) trait Post: Send {
    /// Takes a message, or loses it. `node` is who sends it.
    fn send(&mut self, node: &Node, to: NodeName, message: Message);
}

/// A running node. Dropping it stops the node, as a crash would.
#[derive(Debug)]
pub struct Handle {
    pub(crate) inbox: Sender<Arrival>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// Asks for a saga or a transaction, and waits for its outcome. A request of a key that is known
    /// already is not done again: it is answered as the first one was, or will be.
    ///
    /// # Errors
    /// [`Stopped`]: what became of it is not known.
    pub async fn submit(&self, request: Request) -> Result<Outcome, Stopped> {
        self.ask(|answer| Arrival::Submit { request, answer }).await
    }

    /// Cancels what was asked for under this key, unless it is too late: a saga is compensated, a
    /// transaction without a decision is aborted. Whoever waits for its outcome is told.
    pub fn cancel(&self, key: RequestKey) {
        // A node that has stopped does nothing more of it anyway.
        let _ = self.inbox.send(Arrival::Cancel { key });
    }

    /// Waits until this node has nothing unfinished: everything that it coordinates has ended at every
    /// participant, and it has promised nothing whose outcome it does not know. An outcome is told as
    /// soon as it is durable, which is earlier.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn quiet(&self) -> Result<(), Stopped> {
        self.ask(|answer| Arrival::Quiet { answer }).await
    }

    /// What a cell of this node holds now. What is decided and not yet done here is not counted: see
    /// [`quiet`](Self::quiet).
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn value(&self, cell: u64) -> Result<i64, Stopped> {
        self.ask(|answer| Arrival::Value { cell, answer }).await
    }

    /// What asks for its [`Stats`], also for others, such as a server of metrics.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer { inbox: self.inbox.clone() }
    }

    pub(crate) async fn ask<T>(
        &self,
        arrival: impl FnOnce(oneshot::Sender<Result<T, Stopped>>) -> Arrival,
    ) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let gone = || Stopped { reason: "its thread has ended".into() };
        self.inbox.send(arrival(answer)).map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Handle {
    /// Waits until the node's thread has let go of its files.
    fn drop(&mut self) {
        let _ = self.inbox.send(Arrival::Stop);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Starts a node over the logs in `folder` (created if they are not there), and waits until it has
/// recovered. Also says what it found in each of its logs.
///
/// # Errors
/// [`StartError`]
pub async fn start(
    folder: &Path,
    options: Options,
    network: &Network,
) -> Result<(Handle, Vec<RecoveryReport>), StartError> {
    let (inbox, arrivals) = mpsc::channel();
    let post = Neighbours { name: options.name, network: network.clone() };
    let name = options.name;
    let (handle, started) =
        launch(folder, options, Parts::Both, (inbox.clone(), arrivals), Box::new(post))?;
    network.join(name, inbox);
    Ok((handle, ready(started).await?))
}

/// Which parts a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    Both,
    Coordinator,
}

/// Where the first words of a node's thread arrive.
pub(crate) type Started = oneshot::Receiver<Result<Vec<RecoveryReport>, Stopped>>;

/// Waits until a node that was launched has recovered.
pub(crate) async fn ready(started: Started) -> Result<Vec<RecoveryReport>, StartError> {
    match started.await {
        Ok(reports) => Ok(reports?),
        Err(_) => Err(Stopped { reason: "its thread has ended".into() }.into()),
    }
}

/// Starts a node's thread. What its logs hold is recovered once [`ready`] says so.
pub(crate) fn launch(
    folder: &Path,
    options: Options,
    parts: Parts,
    (inbox, arrivals): (Sender<Arrival>, Receiver<Arrival>),
    post: Box<dyn Post>,
) -> Result<(Handle, Started), StartError> {
    let disks = FileDisks::open(folder, options.log.segment_bytes_first, options.writes)?;
    let clock = Clock::start();
    let slots = match parts {
        Parts::Both => vec![LogSlot::Coordinator, LogSlot::Participant],
        Parts::Coordinator => vec![LogSlot::Coordinator],
    };
    let logs = slots.into_iter().map(|slot| (slot, FileDisks::path(folder, slot))).collect();
    let scrubber = options.scrub.as_ref().map(|scrub| Scrubber::start(logs, scrub, clock));
    let scrubber = scrubber.transpose().map_err(|error| match error {
        NoScrubber::Files(error) => StartError::Files(error),
        NoScrubber::Thread(error) => no_thread(&error),
    })?;
    let mut config = configure(options, &clock)?;
    if parts == Parts::Coordinator {
        config.participant = None;
    }
    let (ready, started) = oneshot::channel();
    let name = config.name;
    let mut process = Process {
        disks,
        scrubber,
        clock,
        post,
        waiting: BTreeMap::new(),
        orders: BTreeMap::new(),
        forcing: BTreeMap::new(),
        quiet: Vec::new(),
        arrived: None,
        flushes: VecDeque::new(),
        flush_times: Default::default(),
        outputs: Vec::new(),
        reports: Vec::new(),
        ready: Some(ready),
    };
    let run = move || {
        let reason = process.run(config, &arrivals);
        tracing::debug!(%name, %reason, "node stopped");
        process.tell_all(&reason);
    };
    let thread = std::thread::Builder::new()
        .name("trinity-node".into())
        .spawn(run)
        .map_err(|error| no_thread(&error))?;
    Ok((Handle { inbox, thread: Some(thread) }, started))
}

fn no_thread(error: &std::io::Error) -> StartError {
    StartError::System { what: "thread", reason: error.to_string() }
}

/// The nodes of one process.
struct Neighbours {
    name: NodeName,
    network: Network,
}

impl Post for Neighbours {
    fn send(&mut self, _: &Node, to: NodeName, message: Message) {
        self.network.send(self.name, to, message);
    }
}

fn configure(options: Options, clock: &Clock) -> Result<Config, StartError> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed)
        .map_err(|error| StartError::System { what: "randomness", reason: error.to_string() })?;
    let [id, key] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| seed[at + i])));
    let mut config = Config::both(options.name, id, Key::root(key));
    config.log = options.log;
    if let Some(coordinator) = &mut config.coordinator {
        coordinator.resend_after = options.resend_after;
        if let Some(attempts) = options.undo_attempts_max {
            coordinator.undo_attempts_max = attempts;
        }
        coordinator.unix_ms_at_zero = clock.unix_ms_at_zero;
    }
    if let Some(participant) = &mut config.participant {
        participant.unix_ms_at_zero = clock.unix_ms_at_zero;
    }
    Ok(config)
}

/// The clocks of the system, read here and nowhere else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    zero: Instant,
    unix_ms_at_zero: i64,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the shell that reads the clock")]
    fn start() -> Clock {
        Clock { zero: Instant::now(), unix_ms_at_zero: Clock::unix_ms() }
    }

    /// What people's clocks say, in milliseconds of the Unix clock.
    #[expect(clippy::disallowed_methods, reason = "this is the shell that reads the clock")]
    pub(crate) fn unix_ms() -> i64 {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
    }

    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.zero.elapsed()
    }
}

/// So many arrivals are taken at most before the disk is asked again.
const ARRIVALS_PER_FLUSH: usize = 4_096;

/// What a node's thread works with.
struct Process {
    disks: FileDisks,
    scrubber: Option<Scrubber>,
    clock: Clock,
    post: Box<dyn Post>,
    waiting: BTreeMap<RequestKey, Vec<oneshot::Sender<Result<Outcome, Stopped>>>>,
    /// Who waits for what becomes of an order about a step, the first that was given first.
    orders: BTreeMap<(OperationId, u32), VecDeque<Ordered>>,
    /// Who waits for what becomes of an intervention, the first that was given first.
    forcing: BTreeMap<(Doubtful, Force), VecDeque<Forcing>>,
    /// Who waits until nothing is unfinished.
    quiet: Vec<oneshot::Sender<Result<(), Stopped>>>,
    /// What ended a wait, to be taken with whatever else is there by then.
    arrived: Option<Arrival>,
    /// Handed out and not begun: at most one per log.
    flushes: VecDeque<(LogSlot, Vec<DiskOp>)>,
    /// How long flushes took, by log.
    flush_times: [Latency; 2],
    outputs: Vec<Output>,
    reports: Vec<RecoveryReport>,
    ready: Option<oneshot::Sender<Result<Vec<RecoveryReport>, Stopped>>>,
}

impl Process {
    /// Runs a node until it is told to stop or its log fails, and says why it ended.
    fn run(&mut self, config: Config, arrivals: &Receiver<Arrival>) -> String {
        let now = self.clock.now();
        let mut node =
            Node::start(config, OpenMode::Exclusive, now, &self.disks, &mut self.outputs);
        loop {
            if let Err(reason) = self.round(&mut node, arrivals) {
                return reason;
            }
            if node.is_ready()
                && let Some(ready) = self.ready.take()
            {
                // Whoever started it may have lost interest: the handle's drop will stop it.
                let _ = ready.send(Ok(std::mem::take(&mut self.reports)));
            }
            if !self.quiet.is_empty() && self.flushes.is_empty() && is_quiet(&node) {
                for answer in self.quiet.drain(..) {
                    // Whoever asked may have lost interest.
                    let _ = answer.send(Ok(()));
                }
            }
            let input = match self.flushes.pop_front() {
                Some((slot, ops)) => {
                    let begun = self.clock.now();
                    let result = self.disks.perform(slot, &ops);
                    self.flush_times[slot as usize].observe(self.clock.now() - begun);
                    node.reuse(slot, ops);
                    self.make_ahead(&mut node, slot);
                    Some(Input::Flushed { slot, result })
                }
                None => self.wait(&mut node, arrivals),
            };
            if let Some(input) = input {
                self.tell(&mut node, input);
            }
        }
    }

    /// Takes what has arrived, and what that leads to in this process, and only then lets the logs write:
    /// all of it shares a flush.
    ///
    /// # Errors
    /// Why the node must stop.
    fn round(&mut self, node: &mut Node, arrivals: &Receiver<Arrival>) -> Result<(), String> {
        self.perform(node)?;
        let waited = self.arrived.take();
        for arrival in waited.into_iter().chain(arrivals.try_iter()).take(ARRIVALS_PER_FLUSH) {
            self.take(node, arrival)?;
            self.perform(node)?;
        }
        // Whoever is busy has timers too: arrivals alone would keep them from ever going off.
        if node.next_wake().is_some_and(|wake| wake <= self.clock.now()) {
            self.tell(node, Input::Wake);
        }
        node.end_round(self.clock.now(), &mut self.outputs);
        self.perform(node)
    }

    fn make_ahead(&mut self, node: &mut Node, slot: LogSlot) {
        let Some(log) = node.log(slot) else { return };
        let refused = self.disks.make_ahead(slot, log, self.clock.now());
        node.confine_log(slot, refused);
    }

    /// Waits for something to do.
    fn wait(&mut self, node: &mut Node, arrivals: &Receiver<Arrival>) -> Option<Input> {
        // A disk that was full is asked again, whoever has something to write.
        let now = self.clock.now();
        let due = self.disks.refused().find(|(_, again)| *again <= now);
        if let Some((slot, _)) = due {
            self.make_ahead(node, slot);
        }
        let again = self.disks.refused().map(|(_, again)| again).min();
        let arrival = match Time::earliest(node.next_wake(), again) {
            None => arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wake) => arrivals.recv_timeout(wake - self.clock.now()),
        };
        match arrival {
            Ok(arrival) => self.arrived = Some(arrival),
            Err(RecvTimeoutError::Timeout) => return Some(Input::Wake),
            Err(RecvTimeoutError::Disconnected) => self.arrived = Some(Arrival::Stop),
        }
        None
    }

    /// # Errors
    /// It is to stop.
    fn take(&mut self, node: &mut Node, arrival: Arrival) -> Result<(), String> {
        match arrival {
            Arrival::Message { from, message } => {
                self.tell(node, Input::Message { from, message });
            }
            Arrival::Submit { request, answer } => {
                self.waiting.entry(request.key.clone()).or_default().push(answer);
                self.tell(node, Input::Submit(request));
            }
            Arrival::Cancel { key } => self.tell(node, Input::Cancel(key)),
            Arrival::Value { cell, answer } => {
                let value = node.participant().map_or(0, |host| host.store().value(cell));
                // Whoever asked may have lost interest.
                let _ = answer.send(Ok(value));
            }
            Arrival::Quiet { answer } => self.quiet.push(answer),
            Arrival::Stats { answer } => {
                // Whoever asked may have lost interest.
                let _ = answer.send(self.stats(node));
            }
            Arrival::Status { key, answer } => {
                // Whoever asked may have lost interest.
                let _ = answer.send(Ok(status(node, &key)));
            }
            Arrival::Outputs { key, answer } => {
                let outputs = node.coordinator().map(|engine| engine.outputs(&key));
                // Whoever asked may have lost interest.
                let _ = answer.send(Ok(outputs.unwrap_or_default()));
            }
            Arrival::Stuck { answer } => {
                // Whoever asked may have lost interest.
                let _ = answer.send(Ok(stuck(node)));
            }
            Arrival::Order { id, step, order, answer } => {
                self.orders.entry((id, step)).or_default().push_back(answer);
                self.tell(node, Input::Order { id, step, order });
            }
            Arrival::Intervene { what, answer } => {
                self.forcing.entry((what.of, what.force)).or_default().push_back(answer);
                self.tell(node, Input::Intervene(what));
            }
            Arrival::Stop => return Err("it was asked to".into()),
        }
        Ok(())
    }

    fn stats(&self, node: &Node) -> Stats {
        let scrubbed = self.scrubber.as_ref().map(Scrubber::scrubbed).unwrap_or_default();
        stats_of(node, self.clock.now(), &self.flush_times, scrubbed)
    }

    fn tell(&mut self, node: &mut Node, input: Input) {
        node.take(self.clock.now(), input, &self.disks, &mut self.outputs);
    }

    /// Performs what the node wants, in order; flushes are begun later, and nothing that rests on one
    /// is among what is performed before.
    ///
    /// # Errors
    /// Why the node must stop.
    fn perform(&mut self, node: &Node) -> Result<(), String> {
        for output in self.outputs.drain(..) {
            match output {
                Output::Disk { slot, ops } => self.flushes.push_back((slot, ops)),
                Output::Send { to, message } => self.post.send(node, to, message),
                // Whoever came last was refused; the one that has the key goes on.
                Output::Reply {
                    key,
                    outcome: outcome @ Outcome::Refused(node::Refusal::KeyTaken),
                } => {
                    let answer = self.waiting.get_mut(&key).and_then(Vec::pop);
                    let _ = answer.map(|answer| answer.send(Ok(outcome)));
                }
                Output::Reply { key, outcome } => {
                    for answer in self.waiting.remove(&key).unwrap_or_default() {
                        // Whoever asked may have lost interest.
                        let _ = answer.send(Ok(outcome.clone()));
                    }
                }
                Output::Appended { .. } => {}
                Output::Parked { id, step, attempts } => {
                    tracing::warn!(saga = id.0, step, attempts, "a step waits for an operator");
                }
                Output::Operated(told) => {
                    let place = (told.id, told.step);
                    let Some(waiting) = self.orders.get_mut(&place) else { continue };
                    // A refusal is told at once, before orders that wait for the disk: it is that of
                    // the order that came last.
                    let answer = match told.result {
                        Ok(()) => waiting.pop_front(),
                        Err(_) => waiting.pop_back(),
                    };
                    if waiting.is_empty() {
                        self.orders.remove(&place);
                    }
                    // Whoever asked may have lost interest.
                    let _ = answer.map(|answer| answer.send(Ok(told.result)));
                }
                Output::Heuristic { id, node, heuristic, .. } => {
                    tracing::warn!(
                        transaction = id.0,
                        %node,
                        %heuristic,
                        "a branch ended otherwise than its transaction"
                    );
                }
                Output::Intervened(told) => {
                    let place = (told.of, told.force);
                    let Some(waiting) = self.forcing.get_mut(&place) else { continue };
                    // As of orders.
                    let answer = match told.result {
                        Ok(()) => waiting.pop_front(),
                        Err(_) => waiting.pop_back(),
                    };
                    if waiting.is_empty() {
                        self.forcing.remove(&place);
                    }
                    // Whoever asked may have lost interest.
                    let _ = answer.map(|answer| answer.send(Ok(told.result)));
                }
                Output::Recovered { report, .. } => self.reports.push(*report),
                Output::Died { reason, .. } => return Err(reason),
            }
        }
        Ok(())
    }

    fn tell_all(&mut self, reason: &str) {
        let stopped = Stopped { reason: reason.to_owned() };
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(stopped.clone()));
        }
        for answer in self.quiet.drain(..) {
            let _ = answer.send(Err(stopped.clone()));
        }
        for answer in std::mem::take(&mut self.orders).into_values().flatten() {
            let _ = answer.send(Err(stopped.clone()));
        }
        for answer in std::mem::take(&mut self.forcing).into_values().flatten() {
            let _ = answer.send(Err(stopped.clone()));
        }
        for answer in std::mem::take(&mut self.waiting).into_values().flatten() {
            let _ = answer.send(Err(stopped.clone()));
        }
    }
}

fn status(node: &Node, key: &RequestKey) -> Status {
    let Some(engine) = node.coordinator() else { return Status::NotRunning };
    let mut sagas = engine.active_sagas();
    if let Some(saga) = sagas.find(|saga| saga.request_key() == Some(key)) {
        return Status::Saga { state: saga.phase().name() };
    }
    let mut transactions = engine.active_transactions();
    let found = transactions.find(|transaction| transaction.request_key() == Some(key));
    found.map_or(Status::NotRunning, |found| Status::Transaction { state: found.state() })
}

fn is_quiet(node: &Node) -> bool {
    node.is_ready()
        && node.coordinator().is_none_or(|engine| engine.active() == 0)
        && node.participant().is_none_or(|host| host.participant().prepared().next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::work::{self, Change};
    use node::{Branch, Work};

    fn request(key: u64, to: NodeName) -> Request {
        let work = work::encode(&[Change::Add { cell: key, amount: 1 }]);
        let branch = Branch { shard: base::ShardId(to.0), node: to, work };
        let key = RequestKey::new(&key.to_le_bytes()).expect("eight bytes are no long key");
        Request { key, work: Work::Transaction(vec![branch]) }
    }

    /// Nobody answers the first message to a node that is not there; a timer sends it again, also while
    /// a long line of requests leaves the node no pause.
    #[tokio::test]
    async fn timers_go_off_under_load() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let (a, b, network) = (NodeName::numbered(1), NodeName::numbered(2), Network::default());
        let (inbox, arrived) = mpsc::channel();
        network.join(b, inbox);
        let mut options = Options::new(a);
        options.resend_after = Duration::from_millis(1);
        let (handle, _) = start(folder.path(), options, &network).await?;
        let submit = |request| Arrival::Submit { request, answer: oneshot::channel().0 };
        let line: Vec<Arrival> = (1..50_000).map(|key| submit(request(key, a))).collect();
        handle.inbox.send(submit(request(0, b)))?;
        for arrival in line {
            handle.inbox.send(arrival)?;
        }
        // Whoever asks now is answered once the line is through.
        handle.value(0).await?;
        let hellos = arrived
            .try_iter()
            .filter(|arrival| matches!(arrival, Arrival::Message { message: Message::Hello, .. }));
        let hellos = hellos.count();
        assert!(hellos > 1, "{hellos}: the timer waited for the end of the line");
        Ok(())
    }
}
