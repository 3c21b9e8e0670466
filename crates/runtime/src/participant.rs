//! A participant of transactions whose data are the embedder's: its promises and its effects are in one
//! store, and change together.

use crate::force::{Branches, branches};
use crate::process::Arrival;
use ::coordinator::codec::{self, Fact};
use base::{BootCount, NodeName, Sequence, ShardId, StoreId};
use node::{Force, ForceError, Message};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use twopc::Audit;
use twopc::participant::{self, Event, Promise, PromiseKey, Resources, Ruling};
use wal_core::EventType;

/// A record of a participant's own: opaque to the embedder, who keeps it under its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: 1, 2, 3, …
    pub sequence: u64,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// What a store holds when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Drawn at random when the store was made, and never changed.
    pub store: u64,
    /// How often it has been opened, this time included: 1 for the first.
    pub boot: u32,
    /// Every entry that was written, in the order of their numbers.
    pub entries: Vec<Entry>,
}

/// What belongs to the entries that it is written with.
///
/// A promise is named by the number of the entry that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Make sure that `work` can be done whatever comes, and hold what it needs; or refuse.
    Promise {
        /// The promise.
        promise: u64,
        /// What the transaction wants done here.
        work: Arc<[u8]>,
    },
    /// Do this now: nobody else takes part, so that there is nothing to wait for. Or refuse.
    Do {
        /// What the transaction wants done.
        work: Arc<[u8]>,
    },
    /// Do what was promised.
    Commit {
        /// The promise.
        promise: u64,
        /// The same work.
        work: Arc<[u8]>,
    },
    /// Let go of what was held for a promise.
    Abort {
        /// The promise.
        promise: u64,
        /// The same work.
        work: Arc<[u8]>,
    },
}

/// Written together, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The boot count that [`Participant::open`] gave. A store that was opened again since must answer with
    /// an error: this write comes from somebody who was replaced.
    pub boot: u32,
    /// To be kept.
    pub entries: Vec<Entry>,
    /// To be done.
    pub change: Change,
}

/// How a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Entries and change are durable.
    Done,
    /// Nothing was written: the work cannot be done here. Only of [`Change::Promise`] and [`Change::Do`];
    /// anything else was promised before.
    Refused,
    /// Nothing was written, since the work changes nothing: the vote is read-only, nothing is held, and how
    /// the transaction ends is not told. What was read may change before it does; answer
    /// so only where that does no harm. Only of [`Change::Promise`] and [`Change::Do`].
    ReadOnly,
}

/// A store that takes part in transactions.
///
/// Two functions, each one local transaction of the store. That is enough for two-phase commit: a promise is
/// durable together with what it holds, an outcome together with its effects, and a crash finds both or
/// neither.
pub trait Participant: Send + Sync + 'static {
    /// Opens the store, counts that, durably, and reads what is kept. Called at the start, and again
    /// after a write that failed.
    fn open(&self) -> impl Future<Output = Result<Opened, Box<dyn Error + Send + Sync>>> + Send;

    /// Keeps the entries and makes the change in one transaction that is durable when this returns.
    /// Calls come one at a time.
    fn write(
        &self,
        write: Write,
    ) -> impl Future<Output = Result<Written, Box<dyn Error + Send + Sync>>> + Send;
}

type Boxed<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// A [`Participant`] of any type.
pub(crate) trait AnyParticipant: Send + Sync {
    fn open(&self) -> Boxed<'_, Opened>;
    fn write(&self, write: Write) -> Boxed<'_, Written>;
}

impl<P: Participant> AnyParticipant for P {
    fn open(&self) -> Boxed<'_, Opened> {
        Box::pin(Participant::open(self))
    }

    fn write(&self, write: Write) -> Boxed<'_, Written> {
        Box::pin(Participant::write(self, write))
    }
}

impl fmt::Debug for dyn AnyParticipant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a participant")
    }
}

/// What a participant holds is not what one wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store said so. Nothing is lost: start again once it can be opened.
    #[error("the store of participant {name} cannot be opened: {reason}")]
    NotOpened {
        /// The participant.
        name: String,
        /// What it said.
        reason: String,
    },
    /// An entry is missing, or is none of a participant's, or contradicts an earlier one: the store was
    /// damaged or changed by somebody else. Restore it; do not start without it.
    #[error("entry {sequence} in the store of participant {name} is wrong: {reason}")]
    Entry {
        /// The participant.
        name: String,
        /// The entry's number.
        sequence: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// A participant's machine and the number of its last entry.
struct Held {
    machine: twopc::Participant,
    last: u64,
    boot: u32,
}

/// Whether work is possible is asked of the store, which answers by writing the promise or not: before
/// that it is taken to be.
#[derive(Clone, Copy)]
struct Taken {
    possible: bool,
    read_only: bool,
}

impl Resources for Taken {
    fn can_prepare(&self, _: &PromiseKey, _: &[u8]) -> bool {
        self.possible
    }

    fn is_read_only(&self, _: &PromiseKey, _: &[u8]) -> bool {
        self.read_only
    }
}

/// What a message is worth to the log; `None` if its coordinator was replaced.
fn worth(
    machine: &twopc::Participant,
    message: &twopc::Message,
    taken: Taken,
) -> Option<Vec<Event>> {
    let Ruling::Heard { seen, fact, .. } = machine.rule(message, &taken) else {
        return None;
    };
    let coordinator = message.key().coordinator;
    let seen = seen.map(|epoch| Event::CoordinatorSeen { coordinator, epoch });
    Some(seen.into_iter().chain(fact).collect())
}

/// Whether an event needs an entry. That it voted read-only a store has to remember no longer than it is
/// open: the next boot promises nothing for transactions of this one.
fn is_kept(event: &Event) -> bool {
    !matches!(event, Event::ReadOnly { .. })
}

/// What comes to a participant's task.
pub(crate) enum Mail {
    Message(NodeName, twopc::Message),
    /// What waits, and what was forced?
    Branches {
        answer: oneshot::Sender<Branches>,
    },
    /// An operator ends a branch, or forgets what came of that.
    Intervene {
        key: PromiseKey,
        force: Force,
        audit: Arc<Audit>,
        answer: Forcing,
    },
}

/// Who waits for what becomes of an intervention; the text is the store's.
type Forcing = oneshot::Sender<Result<Result<(), ForceError>, String>>;

/// What a participant's task works with.
pub(crate) struct Seat {
    /// Its name, where messages reach it.
    pub node: NodeName,
    pub name: String,
    pub store: Arc<dyn AnyParticipant>,
    pub inbox: mpsc::UnboundedReceiver<Mail>,
    /// Where its messages go: the coordinator, and the others.
    pub coordinator: (NodeName, std::sync::mpsc::Sender<Arrival>),
    pub others: Vec<(NodeName, mpsc::UnboundedSender<Mail>)>,
    pub stop: watch::Receiver<bool>,
    /// A promise without an outcome is asked about this often.
    pub inquire_every: Duration,
}

impl Seat {
    /// Opens the store, reads its entries, and tells the coordinator of this boot.
    async fn open(&self) -> Result<Held, StoreError> {
        let opened = self.store.open().await.map_err(|error| StoreError::NotOpened {
            name: self.name.clone(),
            reason: error.to_string(),
        })?;
        let (store, boot) = (StoreId(opened.store), BootCount(opened.boot));
        let mut machine = twopc::Participant::new(self.node, store, boot);
        let mut last = 0;
        for Entry { sequence, bytes } in opened.entries {
            let wrong =
                |reason: String| StoreError::Entry { name: self.name.clone(), sequence, reason };
            if sequence != last + 1 {
                return Err(wrong(format!("the one before it is {last}")));
            }
            last = sequence;
            let (event, payload) =
                bytes.split_first().ok_or_else(|| wrong("it is empty".into()))?;
            match codec::decode(EventType(*event), payload) {
                Ok(Fact::Participant(event)) => {
                    let applied = machine.apply(Sequence(sequence), &event);
                    applied.map_err(|error| wrong(error.to_string()))?;
                }
                Ok(_) => return Err(wrong("it is no record of a participant".into())),
                Err(error) => return Err(wrong(error.to_string())),
            }
        }
        let message = Message::Announce { store, boot };
        self.to_coordinator(message);
        Ok(Held { machine, last, boot: opened.boot })
    }

    /// Opens, and then serves until it is told to stop. Says how the opening went.
    pub async fn run(mut self, opened: oneshot::Sender<Result<(), StoreError>>) {
        let mut held = match self.open().await {
            Ok(held) => {
                // Whoever starts this may have given up: then it is told to stop.
                let _ = opened.send(Ok(()));
                held
            }
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        let mut patience = Patience::default();
        let mut asked = 0;
        let mut ask_at = Instant::now();
        while !*self.stop.borrow() {
            let arrival = tokio::time::timeout_at(ask_at, async {
                let mut stop = self.stop.clone();
                let stopped = std::pin::pin!(stop.wait_for(|stop| *stop));
                first(self.inbox.recv(), stopped).await
            });
            let worked = match arrival.await {
                Ok(Some(Mail::Message(from, message))) => {
                    self.take(&mut held, from, &message).await
                }
                Ok(Some(Mail::Branches { answer })) => {
                    // Whoever asked may have lost interest.
                    let _ = answer.send(branches(self.node, &held.machine));
                    Ok(())
                }
                Ok(Some(Mail::Intervene { key, force, audit, answer })) => {
                    let done = self.intervene(&mut held, &key, force, &audit).await;
                    let (told, failed) = match done {
                        Ok(told) => (Ok(told), Ok(())),
                        Err(error) => (Err(error.to_string()), Err(error)),
                    };
                    // Whoever asked may have lost interest.
                    let _ = answer.send(told);
                    failed
                }
                Ok(None) => return,
                Err(_) => {
                    let waits = self.ask(&held, asked > 0);
                    asked = if waits { asked + 1 } else { 0 };
                    ask_at = Instant::now() + self.inquire_every;
                    Ok(())
                }
            };
            // What the store now holds is not known: it is read again, under a new boot.
            let Err(error) = worked else {
                patience = Patience::default();
                continue;
            };
            tracing::error!(participant = %self.name, %error, "a write failed");
            loop {
                tokio::time::sleep(patience.next()).await;
                if *self.stop.borrow() {
                    return;
                }
                match self.open().await {
                    Ok(again) => {
                        held = again;
                        break;
                    }
                    Err(error) => tracing::error!(%error, "the store is not to be opened"),
                }
            }
        }
    }

    /// Does what a message is worth, and answers it.
    async fn take(
        &self,
        held: &mut Held,
        from: NodeName,
        message: &twopc::Message,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut taken = Taken { possible: true, read_only: false };
        let Some(mut events) = worth(&held.machine, message, taken) else { return Ok(()) };
        if !events.is_empty() {
            match self.write(held, &events).await? {
                Written::Done => {}
                refused_or_read_only => {
                    taken.possible = refused_or_read_only == Written::ReadOnly;
                    taken.read_only = taken.possible;
                    events = worth(&held.machine, message, taken).unwrap_or_default();
                    if self.write(held, &events).await? != Written::Done {
                        return Err("what promises nothing was not written".into());
                    }
                }
            }
            for event in &events {
                held.last += u64::from(is_kept(event));
                let applied = held.machine.apply(Sequence(held.last), event);
                applied.map_err(|error| error.to_string())?;
            }
        }
        if let Some(reply) = held.machine.reply(from, message) {
            assert!(reply.after.0 <= held.last, "what was applied is durable");
            self.send(reply.to, reply.message);
        }
        Ok(())
    }

    /// Does what an operator orders, as far as the machine allows it.
    async fn intervene(
        &self,
        held: &mut Held,
        key: &PromiseKey,
        force: Force,
        audit: &Arc<Audit>,
    ) -> Result<Result<(), ForceError>, Box<dyn Error + Send + Sync>> {
        let event = match force {
            Force::Commit => held.machine.force(key, true, audit),
            Force::Abort => held.machine.force(key, false, audit),
            Force::Forget => held.machine.forget(key, audit).map(Some),
            Force::Gone(_) => Err(twopc::ForceRefusal::NotAwaited),
        };
        let event = match event {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Ok(())),
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let events = [event];
        if self.write(held, &events).await? != Written::Done {
            return Err("what was promised before was not written".into());
        }
        held.last += 1;
        let applied = held.machine.apply(Sequence(held.last), &events[0]);
        applied.map_err(|error| error.to_string())?;
        Ok(Ok(()))
    }

    /// Writes facts behind the last one, with what belongs to them.
    async fn write(
        &self,
        held: &Held,
        events: &[Event],
    ) -> Result<Written, Box<dyn Error + Send + Sync>> {
        let mut change = Change::None;
        let mut entries = Vec::with_capacity(events.len());
        for (sequence, event) in (held.last + 1..).zip(events.iter().filter(|e| is_kept(e))) {
            let mut bytes = vec![0];
            let kind = codec::encode_participant(event, &mut bytes);
            bytes[0] = kind.0;
            entries.push(Entry { sequence, bytes });
            let promised = |key: &PromiseKey| match held.machine.promise(key) {
                Some(Promise::Prepared { at, work, .. }) => Some((at.0, work.clone())),
                _ => None,
            };
            match event {
                Event::Prepared { work, .. } => {
                    change = Change::Promise { promise: sequence, work: work.clone() };
                }
                Event::OnePhase { work, .. } => change = Change::Do { work: work.clone() },
                Event::Committed { key, .. } | Event::Forced { key, commit: true, .. } => {
                    if let Some((promise, work)) = promised(key) {
                        change = Change::Commit { promise, work };
                    }
                }
                Event::Aborted { key, .. } | Event::Forced { key, .. } => {
                    if let Some((promise, work)) = promised(key) {
                        change = Change::Abort { promise, work };
                    }
                }
                Event::ReadOnly { .. }
                | Event::Heuristic { .. }
                | Event::CoordinatorSeen { .. }
                | Event::Finished { .. } => {}
            }
        }
        if entries.is_empty() {
            return Ok(Written::Done);
        }
        self.store.write(Write { boot: held.boot, entries, change }).await
    }

    /// Asks about every promise without an outcome. False if there is none.
    fn ask(&self, held: &Held, peers: bool) -> bool {
        let mut owed = Vec::new();
        for (key, _) in held.machine.prepared() {
            held.machine.pending(&key, peers, &mut owed);
        }
        for key in held.machine.unsettled() {
            held.machine.pending(&key, false, &mut owed);
        }
        let waits = !owed.is_empty();
        for participant::Reply { to, message, .. } in owed {
            self.send(to, message);
        }
        waits
    }

    fn send(&self, to: NodeName, message: twopc::Message) {
        if to == self.coordinator.0 {
            self.to_coordinator(Message::Transaction(message));
        } else if let Some((_, inbox)) = self.others.iter().find(|(name, _)| *name == to) {
            // Whoever has stopped asks when it starts again.
            let _ = inbox.send(Mail::Message(self.node, message));
        }
    }

    fn to_coordinator(&self, message: Message) {
        // A coordinator that has stopped asks when it starts again.
        let _ = self.coordinator.1.send(Arrival::Message { from: self.node, message });
    }
}

/// The shard of a participant: each has one.
pub(crate) fn shard_of(node: NodeName) -> ShardId {
    ShardId(node.0)
}

/// Longer each time, up to some seconds.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    fn next(&mut self) -> Duration {
        let wait = Duration::from_millis(50 << self.0.min(7));
        self.0 += 1;
        wait
    }
}

/// The first of two: a message, or nothing any more.
async fn first<T, U>(
    message: impl Future<Output = Option<T>>,
    mut stopped: Pin<&mut impl Future<Output = U>>,
) -> Option<T> {
    let mut message = std::pin::pin!(message);
    std::future::poll_fn(|context| {
        if stopped.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(None);
        }
        message.as_mut().poll(context)
    })
    .await
}
