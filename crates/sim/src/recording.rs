//! What a run did, written down as it happens: for those who look at one run closely. It changes
//! nothing: a run that is recorded has the hash of one that is not.

use crate::disk::Unsafe;
use crate::judge::Moment;
use crate::plan::Signal;
use node::{LogSlot, MessageKind, Node};
use wal_core::EventType;

/// What is about to happen at a point where a fault may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    /// A record was appended, in memory only.
    Append(EventType),
    /// A record has become durable, and what waited for that has not left.
    Durable(EventType),
    /// A message is about to leave.
    Send(MessageKind),
    /// An answer to a client is about to leave.
    Reply,
    /// A log's disk operation is about to be made.
    Disk(&'static str),
}

impl Doing {
    /// The signal that a fault waits for to strike at it.
    #[must_use]
    pub fn signal(self) -> Signal {
        match self {
            Self::Append(event) => Signal::Append(event),
            Self::Durable(event) => Signal::Durable(event),
            Self::Send(kind) => Signal::Send(kind),
            Self::Disk("write") => Signal::Write,
            Self::Disk("sync") => Signal::Sync,
            Self::Reply | Self::Disk(_) => Signal::Output,
        }
    }

    /// Its name, as in a scenario's trigger where there is one.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Append(event) => format!("append({event})"),
            Self::Durable(event) => format!("durable({event})"),
            Self::Send(kind) => format!("send({})", kind.name()),
            Self::Reply => "reply".to_owned(),
            Self::Disk(what) => what.to_owned(),
        }
    }
}

/// Which of a node's two machines a point belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Its coordinator.
    Coordinator,
    /// Its participant.
    Participant,
}

impl Role {
    /// In tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Participant => "participant",
        }
    }

    /// Of the machine behind a log.
    #[must_use]
    pub fn of(slot: LogSlot) -> Role {
        match slot {
            LogSlot::Coordinator => Self::Coordinator,
            LogSlot::Participant => Self::Participant,
        }
    }

    /// Of the machine that sends such messages.
    #[must_use]
    pub fn sending(kind: MessageKind) -> Role {
        match kind {
            MessageKind::Prepare
            | MessageKind::Commit
            | MessageKind::Abort
            | MessageKind::Answer
            | MessageKind::Step
            | MessageKind::Hello => Self::Coordinator,
            MessageKind::Vote
            | MessageKind::Ack
            | MessageKind::Inquiry
            | MessageKind::PeerInquiry
            | MessageKind::PeerAnswer
            | MessageKind::StepReply
            | MessageKind::Announce => Self::Participant,
        }
    }
}

/// A point of a run at which a crash can be planned, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Whose.
    pub node: u32,
    /// How often that node had been started: from 1.
    pub boot: u32,
    /// What is about to happen.
    pub doing: Doing,
    /// Which of that node's signals it is, from 1: of [`Doing::signal`].
    pub nth: u32,
    /// When.
    pub at: Moment,
    /// Which of its machines it is about.
    pub role: Role,
    /// In which state that is: an operation's, as the protocol names them.
    pub state: String,
    /// What the node has not synced.
    pub unsynced: Unsafe,
}

/// The record of one run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// How often each node has given each signal.
    counts: Vec<Vec<(Signal, u32)>>,
    /// Where faults may strike.
    pub points: Vec<Point>,
}

impl Recording {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Recording {
        Recording::default()
    }

    /// A signal was given once more; how often by now.
    fn count(&mut self, node: u32, signal: Signal) -> u32 {
        let node = node as usize;
        if self.counts.len() <= node {
            self.counts.resize(node + 1, Vec::new());
        }
        let counts = &mut self.counts[node];
        match counts.iter_mut().find(|(known, _)| *known == signal) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                counts.push((signal, 1));
                1
            }
        }
    }

    /// A fault may strike here. `point` lacks its number and its state, which is in `running`.
    pub fn point(&mut self, mut point: Point, running: &Node) {
        let (node, signal) = (point.node, point.doing.signal());
        point.nth = self.count(node, signal);
        // Messages and disk operations are outputs besides what they are.
        if matches!(signal, Signal::Send(_) | Signal::Write | Signal::Sync) {
            self.count(node, Signal::Output);
        }
        point.state = state(point.role, running, point.boot);
        self.points.push(point);
    }
}

/// The state of one of a node's machines: what its unfinished operations are in, each state once.
fn state(role: Role, node: &Node, boot: u32) -> String {
    let opening = if boot == 1 { "starting" } else { "recovering" };
    let mut states: Vec<&str> = Vec::new();
    match role {
        Role::Coordinator => {
            let Some(engine) = node.coordinator() else { return opening.to_owned() };
            states.extend(engine.active_transactions().map(|tx| tx.state()));
            states.extend(engine.active_sagas().map(|saga| saga.phase().name()));
        }
        Role::Participant => {
            let Some(host) = node.participant() else { return opening.to_owned() };
            let participant = host.participant();
            if participant.prepared().next().is_some() {
                states.push("prepared");
            }
        }
    }
    states.sort_unstable();
    states.dedup();
    if states.is_empty() { "at rest".to_owned() } else { states.join("+") }
}
