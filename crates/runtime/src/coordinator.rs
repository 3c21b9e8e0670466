//! A coordinator in a process of the embedder's.

use crate::action::{Action, Answer, AnyAction, Call};
use crate::participant::{AnyParticipant, Mail, Participant, Seat, StoreError, shard_of};
use crate::process::{
    Arrival, Handle, Options, Parts, Post, StartError, Status, Stopped, launch, ready,
};
use crate::stats::Observer;
use ::coordinator::{StepAnswer, UndoOrder};
use base::{NodeName, RequestKey, Token};
use node::{Branch, Message, Node, Outcome, RecoveryReport, Request, Work};
use saga::{Definition, Direction, Performer, Step, StepInput, Undo};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::{mpsc as async_mpsc, oneshot, watch};
use wal_core::{ScrubConfig, Writes};

/// A name that does not do: of an action, a participant or a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{name}\" is no name: it takes 1 to 32 bytes of printable ASCII without a space")]
pub struct NameError {
    /// The name.
    pub name: String,
}

pub(crate) fn name_of(text: &str) -> Result<NodeName, NameError> {
    let fits = (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        return Err(NameError { name: text.to_owned() });
    }
    let mut name = [0; 32];
    name[..text.len()].copy_from_slice(text.as_bytes());
    Ok(NodeName(name))
}

pub(crate) fn text_of(name: &NodeName) -> String {
    let end = name.0.iter().position(|byte| *byte == 0).unwrap_or(name.0.len());
    String::from_utf8_lossy(&name.0[..end]).into_owned()
}

/// A saga's step: the action of this name, with this input. The name stands in the log, and finds the
/// action after a restart too.
///
/// # Errors
/// [`NameError`]
pub fn step(action: &str, input: impl Into<Arc<[u8]>>) -> Result<Step, NameError> {
    Ok(Step::new(saga::Action::Custom, name_of(action)?, input))
}

/// The branches of a transaction: of [`transaction_step`] and [`Step::undone_by_transaction`].
///
/// # Errors
/// [`NameError`]
pub fn branches(build: impl FnOnce(&mut Transaction)) -> Result<Vec<Branch>, NameError> {
    let mut transaction = Transaction { branches: Vec::new() };
    build(&mut transaction);
    let named = transaction.branches.into_iter().map(|(name, work)| {
        let node = name_of(&name)?;
        Ok(Branch { shard: shard_of(node), node, work })
    });
    named.collect()
}

/// A saga's step that is a transaction: it is done when all of its branches are, and refused when none is. If
/// it can be undone, say by what: [`Step::undone_by_transaction`] with [`branches`], or [`undone_by`].
///
/// # Errors
/// [`NameError`]
pub fn transaction_step(build: impl FnOnce(&mut Transaction)) -> Result<Step, NameError> {
    Ok(Step::transaction(branches(build)?))
}

/// The same step, a transaction's or a saga's, undone by the action of this name: that is
/// [run](Action::run) with this input, under a token of its own, until it is done.
///
/// # Errors
/// [`NameError`]
pub fn undone_by(step: Step, action: &str, input: impl Into<Arc<[u8]>>) -> Result<Step, NameError> {
    Ok(step.undone_at(name_of(action)?, input))
}

/// Why a coordinator did not open. Nothing that is in its log or in a store is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A name is unfit.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two actions, or two participants, have the same name, or a participant has the coordinator's.
    #[error("the name \"{name}\" is given twice")]
    NamedTwice {
        /// The name.
        name: String,
    },
    /// The folder or its log.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A participant's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no tokio runtime here: open it inside of one.
    #[error("a coordinator is opened inside of a tokio runtime: {reason}")]
    NoRuntime {
        /// What tokio says.
        reason: String,
    },
}

/// Why a request was not taken. Nothing of it is logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The request key is too long: use a hash of it.
    #[error(transparent)]
    Key(#[from] base::RequestKeyTooLong),
    /// A name is unfit.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A step names an action that this coordinator was opened without.
    #[error("there is no action \"{name}\": open the coordinator with it")]
    UnknownAction {
        /// Its name.
        name: String,
    },
    /// A branch names a participant that this coordinator was opened without.
    #[error("there is no participant \"{name}\": open the coordinator with it")]
    UnknownParticipant {
        /// Its name.
        name: String,
    },
    /// It is being shut down.
    #[error("the coordinator is shutting down")]
    ShuttingDown,
    /// It runs no more.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything that was submitted has ended, at every participant.
    Whole,
    /// Patience ran out. What is unfinished goes on at the next start.
    Cut,
}

/// What a coordinator is opened with: see [`Coordinator::open`].
#[derive(Debug)]
#[must_use = "it opens with `start`"]
pub struct Builder {
    folder: PathBuf,
    name: String,
    log: Option<wal_core::Config>,
    resend_after: Duration,
    undo_attempts_max: Option<u32>,
    scrub: Option<ScrubConfig>,
    writes: Writes,
    actions: Vec<(String, Arc<dyn AnyAction>)>,
    participants: Vec<(String, Arc<dyn AnyParticipant>)>,
}

impl Builder {
    /// Another name than `coordinator`. Participants know a coordinator by its name: two that share a
    /// participant need two names, and one that has lost its folder a new one.
    pub fn name(mut self, name: &str) -> Builder {
        name.clone_into(&mut self.name);
        self
    }

    /// Another configuration of the log than the default.
    pub fn log(mut self, config: wal_core::Config) -> Builder {
        self.log = Some(config);
        self
    }

    /// What is owed and unanswered is done again after this long (500 ms unless told), then after twice
    /// as long, …, and promises without an outcome are asked about as often.
    pub fn resend_after(mut self, after: Duration) -> Builder {
        self.resend_after = after;
        self
    }

    /// A compensation that was refused or not answered so often (16 unless told; at least 1) is parked: it waits
    /// for an operator, and the saga's other branches go on. See [`Coordinator::stuck`].
    pub fn undo_attempts_max(mut self, attempts: u32) -> Builder {
        self.undo_attempts_max = Some(attempts.max(1));
        self
    }

    /// How the log's sealed segments are read again in the background (4 MiB a second, and an hour's rest when all
    /// were read, unless told); `None`: they are not. Damage is an error event of `tracing`, and stands in the
    /// [`LogStats`](crate::LogStats) of an [observer](Coordinator::observer).
    pub fn scrub(mut self, scrub: Option<ScrubConfig>) -> Builder {
        self.scrub = scrub;
        self
    }

    /// How what is written reaches the disk: through the page cache, unless told.
    pub fn writes(mut self, writes: Writes) -> Builder {
        self.writes = writes;
        self
    }

    /// Binds an action. Steps that name it run it, those of sagas found in the log too.
    pub fn action(mut self, name: &str, action: impl Action) -> Builder {
        self.actions.push((name.to_owned(), Arc::new(action)));
        self
    }

    /// Binds a participant. Branches that name it are done there.
    pub fn participant(mut self, name: &str, participant: impl Participant) -> Builder {
        self.participants.push((name.to_owned(), Arc::new(participant)));
        self
    }

    /// Opens the log and the participants' stores, recovers them, and goes on with what is unfinished.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn start(self) -> Result<Coordinator, OpenError> {
        let tokio = tokio::runtime::Handle::try_current()
            .map_err(|error| OpenError::NoRuntime { reason: error.to_string() })?;
        let me = name_of(&self.name)?;
        let actions = by_name(self.actions, None)?;
        let stores = by_name(self.participants, Some(me))?;
        let (inbox, arrivals) = mpsc::channel();
        let (stop, stopped) = watch::channel(false);
        let mut seats = BTreeMap::new();
        let mut inboxes = Vec::new();
        for name in stores.keys() {
            let (seat, messages) = async_mpsc::unbounded_channel();
            seats.insert(*name, seat);
            inboxes.push(messages);
        }
        let known = Known {
            actions: actions.keys().copied().collect(),
            participants: stores.keys().copied().collect(),
        };
        let inboxes_of_seats = seats.clone();
        let others: Vec<_> = seats.iter().map(|(name, seat)| (*name, seat.clone())).collect();
        // The log is claimed before any store is opened: a second process gives up here, and opens none.
        let mut options = Options::new(me);
        options.resend_after = self.resend_after;
        options.log = self.log.unwrap_or(options.log);
        options.undo_attempts_max = self.undo_attempts_max;
        options.scrub = self.scrub;
        options.writes = self.writes;
        let post = Desk {
            actions,
            seats,
            running: Arc::default(),
            inbox: inbox.clone(),
            tokio: tokio.clone(),
            unbound: BTreeSet::new(),
        };
        let (handle, started) = launch(
            &self.folder,
            options,
            Parts::Coordinator,
            (inbox.clone(), arrivals),
            Box::new(post),
        )?;
        let recovered = ready(started).await?;
        let mut tasks = Vec::new();
        let mut openings = Vec::new();
        for ((node, store), messages) in stores.into_iter().zip(inboxes) {
            let seat = Seat {
                node,
                name: text_of(&node),
                store,
                inbox: messages,
                coordinator: (me, inbox.clone()),
                others: others.clone(),
                stop: stopped.clone(),
                inquire_every: self.resend_after,
            };
            let (opened, opening) = oneshot::channel();
            tasks.push(tokio.spawn(seat.run(opened)));
            openings.push((text_of(&node), opening));
        }
        let coordinator = Coordinator {
            handle,
            known,
            seats: inboxes_of_seats,
            stop,
            tasks: Mutex::new(tasks),
            recovered,
            closing: AtomicBool::new(false),
        };
        for (name, opening) in openings {
            let gone = || StoreError::NotOpened { name, reason: "its task has ended".into() };
            opening.await.unwrap_or_else(|_| Err(gone()))?;
        }
        Ok(coordinator)
    }
}

fn by_name<T>(
    list: Vec<(String, T)>,
    taken: Option<NodeName>,
) -> Result<BTreeMap<NodeName, T>, OpenError> {
    let mut named = BTreeMap::new();
    for (name, value) in list {
        let key = name_of(&name)?;
        if taken == Some(key) || named.insert(key, value).is_some() {
            return Err(OpenError::NamedTwice { name });
        }
    }
    Ok(named)
}

#[derive(Debug)]
struct Known {
    actions: BTreeSet<NodeName>,
    participants: BTreeSet<NodeName>,
}

impl Known {
    /// Whether everybody is bound whom a saga asks for something, in steps that are sagas too.
    fn check(&self, saga: &Definition) -> Result<(), SubmitError> {
        for step in saga.steps() {
            let mut called = matches!(step.performer, Performer::Node);
            match &step.performer {
                Performer::Transaction(branches) => self.check_branches(branches)?,
                Performer::Saga(inner) => self.check(inner)?,
                _ => {}
            }
            match &step.undo {
                Some(Undo::Transaction(branches)) => self.check_branches(branches)?,
                Some(Undo::Call) => called = true,
                _ => {}
            }
            if called && !self.actions.contains(&step.node) {
                return Err(SubmitError::UnknownAction { name: text_of(&step.node) });
            }
        }
        Ok(())
    }

    fn check_branches(&self, branches: &[Branch]) -> Result<(), SubmitError> {
        let mut names = branches.iter().map(|branch| branch.node);
        match names.find(|name| !self.participants.contains(name)) {
            Some(name) => Err(SubmitError::UnknownParticipant { name: text_of(&name) }),
            None => Ok(()),
        }
    }
}

/// Sagas and transactions of this process, over a log in a folder.
///
/// Dropping it is as good as a crash: nothing is lost, and the next start goes on.
/// [`shutdown`](Self::shutdown) waits for what is unfinished.
#[derive(Debug)]
pub struct Coordinator {
    pub(crate) handle: Handle,
    known: Known,
    pub(crate) seats: BTreeMap<NodeName, async_mpsc::UnboundedSender<Mail>>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    recovered: Vec<RecoveryReport>,
    closing: AtomicBool,
}

impl Coordinator {
    /// A coordinator whose log is in this folder, made if it is not there. Bind its actions and
    /// participants, then [`start`](Builder::start) it.
    pub fn open(folder: impl AsRef<Path>) -> Builder {
        Builder {
            folder: folder.as_ref().to_owned(),
            name: "coordinator".to_owned(),
            log: None,
            resend_after: Duration::from_millis(500),
            undo_attempts_max: None,
            scrub: Some(ScrubConfig::default()),
            writes: Writes::default(),
            actions: Vec::new(),
            participants: Vec::new(),
        }
    }

    /// Submits a saga under a name of the caller's. The same key is the same operation, before and after a
    /// crash: a key that is known starts nothing, and its handle has the outcome of the first.
    ///
    /// # Errors
    /// [`SubmitError`]: nothing was started. What only the coordinator can refuse, such as too many at
    /// once, is an [`Outcome::Refused`].
    pub fn submit(
        &self,
        key: impl AsRef<[u8]>,
        saga: Definition,
    ) -> Result<Operation, SubmitError> {
        self.known.check(&saga)?;
        self.begin(key.as_ref(), Work::Saga(saga))
    }

    /// Submits a transaction: all of its branches are done, or none.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn transaction(
        &self,
        key: impl AsRef<[u8]>,
        build: impl FnOnce(&mut Transaction),
    ) -> Result<Operation, SubmitError> {
        let branches = branches(build)?;
        self.known.check_branches(&branches)?;
        self.begin(key.as_ref(), Work::Transaction(branches))
    }

    /// Cancels the operation of this key, unless it is too late: a saga is undone, a transaction without a
    /// decision aborted. Whoever waits for its outcome is told that.
    ///
    /// # Errors
    /// The key is longer than any that was submitted.
    pub fn cancel(&self, key: impl AsRef<[u8]>) -> Result<(), base::RequestKeyTooLong> {
        self.handle.cancel(RequestKey::new(key.as_ref())?);
        Ok(())
    }

    /// What the log was found to hold at this start: each unfinished operation, what is done about it, and
    /// the record that proves it.
    #[must_use]
    pub fn recovered(&self) -> &[RecoveryReport] {
        &self.recovered
    }

    /// What asks for its [`Stats`](crate::Stats), such as a server of metrics.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.handle.observer()
    }

    /// Waits until nothing is unfinished. What is submitted meanwhile is waited for too.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn quiet(&self) -> Result<(), Stopped> {
        self.handle.quiet().await
    }

    /// Takes nothing new, waits for what is unfinished, but no longer than `patience`, and stops. The log
    /// is let go of when the coordinator is dropped.
    ///
    /// # Errors
    /// [`Stopped`]: it had stopped already.
    pub async fn shutdown(&self, patience: Duration) -> Result<Drained, Stopped> {
        self.closing.store(true, Ordering::Release);
        let drained = tokio::time::timeout(patience, self.handle.quiet()).await;
        let _ = self.stop.send(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // A seat that panicked has said so where it did.
            let _ = task.await;
        }
        // One that has stopped already needs no order to.
        let _ = self.handle.inbox.send(Arrival::Stop);
        match drained {
            Ok(quiet) => quiet.map(|()| Drained::Whole),
            Err(_) => Ok(Drained::Cut),
        }
    }

    fn begin(&self, key: &[u8], work: Work) -> Result<Operation, SubmitError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(SubmitError::ShuttingDown);
        }
        let key = RequestKey::new(key)?;
        let (answer, answered) = oneshot::channel();
        let inbox = self.handle.inbox.clone();
        let request = Request { key: key.clone(), work };
        let sent = inbox.send(Arrival::Submit { request, answer });
        sent.map_err(|_| gone())?;
        Ok(Operation { key, inbox, answer: Awaited::Answer(answered) })
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

fn gone() -> Stopped {
    Stopped { reason: "its thread has ended".into() }
}

/// Collects the branches of a transaction: see [`Coordinator::transaction`].
#[derive(Debug)]
pub struct Transaction {
    branches: Vec<(String, Arc<[u8]>)>,
}

impl Transaction {
    /// Asks a participant, by its name, for its part. Each participant at most once.
    pub fn at(&mut self, participant: &str, work: impl Into<Arc<[u8]>>) -> &mut Transaction {
        self.branches.push((participant.to_owned(), work.into()));
        self
    }
}

/// An operation that was submitted. Dropping it changes nothing about the operation.
#[derive(Debug)]
pub struct Operation {
    key: RequestKey,
    inbox: mpsc::Sender<Arrival>,
    answer: Awaited,
}

#[derive(Debug)]
enum Awaited {
    Answer(oneshot::Receiver<Result<Outcome, Stopped>>),
    Told(Result<Outcome, Stopped>),
}

impl Operation {
    /// The name under which it was submitted.
    #[must_use]
    pub fn key(&self) -> &RequestKey {
        &self.key
    }

    /// Waits for the outcome, which is durable then. May be asked again, and given up.
    ///
    /// # Errors
    /// [`Stopped`]: what became of it is not known. Start again, and submit the same under the same key.
    pub async fn outcome(&mut self) -> Result<Outcome, Stopped> {
        if let Awaited::Answer(answer) = &mut self.answer {
            let told = answer.await.unwrap_or_else(|_| Err(gone()));
            self.answer = Awaited::Told(told);
        }
        match &self.answer {
            Awaited::Told(told) => told.clone(),
            Awaited::Answer(_) => unreachable!("the answer has just been put there"),
        }
    }

    /// What it is doing.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn status(&self) -> Result<Status, Stopped> {
        let (answer, answered) = oneshot::channel();
        let asked = self.inbox.send(Arrival::Status { key: self.key.clone(), answer });
        asked.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// What the steps of a saga have brought so far, or had by its end, by their numbers. Of a saga that has
    /// ended it is known for as long as its result is, over restarts too: submit it again under its key, and
    /// ask the handle.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn outputs(&self) -> Result<Vec<StepInput>, Stopped> {
        let (answer, answered) = oneshot::channel();
        let asked = self.inbox.send(Arrival::Outputs { key: self.key.clone(), answer });
        asked.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Cancels it, unless it is too late: see [`Coordinator::cancel`]. The outcome tells which.
    pub fn cancel(&self) {
        // A coordinator that has stopped does nothing more of it anyway.
        let _ = self.inbox.send(Arrival::Cancel { key: self.key.clone() });
    }
}

/// The calls that are under way: none is made twice at once.
type Running = Arc<Mutex<BTreeSet<Token>>>;

/// Carries what the coordinator says to actions and participants.
struct Desk {
    actions: BTreeMap<NodeName, Arc<dyn AnyAction>>,
    seats: BTreeMap<NodeName, async_mpsc::UnboundedSender<Mail>>,
    running: Running,
    inbox: mpsc::Sender<Arrival>,
    tokio: tokio::runtime::Handle,
    /// Names that the log knows and this start does not. Each is told once.
    unbound: BTreeSet<NodeName>,
}

impl Post for Desk {
    fn send(&mut self, node: &Node, to: NodeName, message: Message) {
        match message {
            Message::StepCall { .. } => self.call(node, to, message),
            Message::Transaction(message) => {
                let from = message.key().coordinator_node();
                self.deliver(to, from, message);
            }
            // A seat announces itself when it opens, and that is heard. Only one that this start was
            // opened without is asked in vain.
            Message::Hello if !self.seats.contains_key(&to) => self.miss(to),
            // A seat keeps what its store keeps, and asks nobody what is finished.
            Message::Hello
            | Message::StepReply { .. }
            | Message::Announce { .. }
            | Message::AskFinished
            | Message::Finished { .. } => {}
        }
    }
}

impl Desk {
    fn deliver(&mut self, to: NodeName, from: NodeName, message: twopc::Message) {
        match self.seats.get(&to) {
            // One that has stopped asks when it starts again.
            Some(seat) => drop(seat.send(Mail::Message(from, message))),
            None => self.miss(to),
        }
    }

    fn miss(&mut self, name: NodeName) {
        if self.unbound.insert(name) {
            tracing::warn!(name = %text_of(&name), "nothing of this name is bound: its work waits");
        }
    }

    fn call(&mut self, node: &Node, to: NodeName, message: Message) {
        let Message::StepCall { key, token: attempt, body, call, .. } = message else {
            return;
        };
        let (step, direction) = (call.step, call.direction);
        let Some(action) = self.actions.get(&to).cloned() else { return self.miss(to) };
        let mut sagas = node.coordinator().into_iter().flat_map(|engine| engine.active_sagas());
        let Some(saga) = sagas.find(|saga| saga.id() == key.id) else { return };
        let token = saga.token(step, Direction::Forward);
        if !self.with_running(|running| running.insert(attempt)) {
            return;
        }
        let (inbox, running) = (self.inbox.clone(), self.running.clone());
        let order = call.order;
        let overridden = order == UndoOrder::Override;
        let given = call.inputs;
        let call = Call { saga: key.id, step, token, input: body, given, overridden };
        let name = text_of(&to);
        self.tokio.spawn(async move {
            // Whatever becomes of it, a panic too, it is not under way any more.
            let _under_way = UnderWay { running, attempt };
            let answer = match (direction, order) {
                (Direction::Forward, _) => action.run(call).await,
                // It is what undoes a transaction or a saga, and is done as any other.
                (Direction::Backward, UndoOrder::Alone) => {
                    action.run(Call { token: attempt, ..call }).await
                }
                (Direction::Backward, UndoOrder::MarkDone) => action.mark_undone(call).await,
                (Direction::Backward, _) => action.undo(call).await,
            };
            let (answer, output) = match answer {
                Ok(Answer::Done) => (StepAnswer::Done, None),
                Ok(Answer::Gave(bytes)) => {
                    (StepAnswer::Done, Some(Box::new(saga::Output::Inline(bytes))))
                }
                Ok(Answer::Refused { code }) => (StepAnswer::Refused { code }, None),
                Err(error) => {
                    tracing::warn!(action = %name, step, %error, "a call failed");
                    return;
                }
            };
            let token = attempt;
            let message = Message::StepReply { key, step, direction, token, answer, output };
            // A coordinator that has stopped calls again when it starts.
            let _ = inbox.send(Arrival::Message { from: to, message });
        });
    }

    fn with_running<T>(&self, act: impl FnOnce(&mut BTreeSet<Token>) -> T) -> T {
        // A set of tokens is never half changed.
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct UnderWay {
    running: Running,
    attempt: Token,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.attempt);
    }
}
