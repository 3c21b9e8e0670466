//! What a run did, written down as it happens: for those who look at one run closely. It changes
//! nothing: a run that is recorded has the hash of one that is not.

use crate::disk::Unsafe;
use crate::judge::model::{Model, Rules};
use crate::judge::payload::{Fields, array, tag};
use crate::judge::{Moment, reader};
use crate::plan::Signal;
use base::{OperationId, ShardId, Time};
use coordinator::{OperationKind, OperationReport, RecoveryReport};
use node::{LogSlot, Message, MessageKind, Node};
use std::collections::BTreeSet;
use wal_core::{Directory, EventType};

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
            | MessageKind::Resolve
            | MessageKind::Noted
            | MessageKind::Answer
            | MessageKind::Step
            | MessageKind::Finished
            | MessageKind::Hello => Self::Coordinator,
            MessageKind::Vote
            | MessageKind::Ack
            | MessageKind::Inquiry
            | MessageKind::PeerInquiry
            | MessageKind::PeerAnswer
            | MessageKind::StepReply
            | MessageKind::AskFinished
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

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A client asks for its operation.
    Asked {
        /// The workload's number of it.
        operation: u32,
        /// Whom.
        node: u32,
    },
    /// A client is told how its operation ended.
    Told {
        /// The workload's number of it.
        operation: u32,
        /// How.
        outcome: String,
    },
    /// A message leaves.
    Sent {
        /// From whom.
        from: u32,
        /// To whom.
        to: u32,
        /// Its kind's name.
        kind: &'static str,
        /// The operation that it is about.
        about: Option<u64>,
        /// Each copy that will arrive: its number in the run, and when.
        arrives: Vec<(u64, Time)>,
    },
    /// A copy of a message arrives.
    Arrived {
        /// The copy's number.
        copy: u64,
        /// From whom.
        from: u32,
        /// To whom.
        to: u32,
        /// Its kind's name.
        kind: &'static str,
        /// Somebody is there who listens.
        heard: bool,
    },
    /// A process starts.
    Started {
        /// Whose.
        node: u32,
        /// For the so-manieth time, from 1.
        boot: u32,
    },
    /// A log was recovered.
    Recovered {
        /// Whose.
        node: u32,
        /// Which.
        role: Role,
        /// Records in it.
        records: u64,
        /// What the node says is unfinished.
        found: Vec<String>,
        /// What the bytes say, read by the judges' reader and model.
        truth: Option<Vec<String>>,
    },
    /// A node's process is gone.
    Crashed {
        /// Whose.
        node: u32,
        /// With what it had not synced: its power failed.
        power: bool,
    },
    /// A process stops by itself.
    Stopped {
        /// Whose.
        node: u32,
        /// Why.
        reason: String,
    },
    /// A process that stood still goes on.
    Resumed {
        /// Whose.
        node: u32,
    },
    /// A record was appended.
    Appended {
        /// Whose.
        node: u32,
        /// To which log.
        role: Role,
        /// What.
        event: EventType,
        /// Its number.
        sequence: u64,
    },
    /// Records have become durable.
    Durable {
        /// Whose.
        node: u32,
        /// Of which log.
        role: Role,
        /// The last one.
        through: u64,
    },
    /// Another version of a file's record is current at a node.
    Version {
        /// At which.
        node: u32,
        /// Which file.
        file: String,
        /// Which version.
        version: u64,
        /// The scheme that the file has by it.
        scheme: String,
    },
    /// Something goes wrong, or is over, that has no number in a plan.
    Befell {
        /// Whom, if it is one node.
        node: Option<u32>,
        /// What, in words.
        what: String,
    },
    /// A fault strikes.
    Fault {
        /// Its number in the plan.
        entry: u32,
        /// Its kind.
        kind: &'static str,
        /// Whom it strikes, if it is one node.
        node: Option<u32>,
    },
}

impl Happening {
    /// The node where it happens: for a message the sender, on arrival the addressee.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        match self {
            Self::Asked { node, .. }
            | Self::Started { node, .. }
            | Self::Recovered { node, .. }
            | Self::Crashed { node, .. }
            | Self::Stopped { node, .. }
            | Self::Resumed { node }
            | Self::Appended { node, .. }
            | Self::Durable { node, .. }
            | Self::Version { node, .. } => Some(*node),
            Self::Sent { from, .. } => Some(*from),
            Self::Arrived { to, .. } => Some(*to),
            Self::Fault { node, .. } | Self::Befell { node, .. } => *node,
            Self::Told { .. } => None,
        }
    }
}

/// A record of a node's log as it is when the run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its number.
    pub sequence: u64,
    /// What it says.
    pub event: EventType,
    /// The operation that it is about; of a marker: nothing that means anything.
    pub about: Option<u64>,
    /// Its payload's length.
    pub bytes: u32,
}

/// What is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Where faults may strike.
    #[default]
    Points,
    /// What happens.
    Happenings,
}

/// The record of one run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    wanted: Wanted,
    /// How often each node has given each signal.
    counts: Vec<Vec<(Signal, u32)>>,
    /// Where faults may strike, if that is wanted.
    pub points: Vec<Point>,
    /// What happened, in order, if that is wanted.
    pub happenings: Vec<(Moment, Happening)>,
    /// Messages that are not among these, for there were too many of their kind.
    pub left_out: u64,
    /// Each node's logs at the end, by name, if happenings are wanted: the coordinator's, the participant's.
    pub logs: Vec<Vec<(&'static str, Vec<LogLine>)>>,
}

impl Recording {
    /// Nothing yet.
    #[must_use]
    pub fn new(wanted: Wanted) -> Recording {
        Recording { wanted, ..Recording::default() }
    }

    /// True if what happens is written down.
    #[must_use]
    pub fn wants_happenings(&self) -> bool {
        self.wanted == Wanted::Happenings
    }

    /// True if points are.
    #[must_use]
    pub fn wants_points(&self) -> bool {
        self.wanted == Wanted::Points
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

/// The operation that a message is about.
#[must_use]
pub fn about(message: &Message) -> Option<u64> {
    match message {
        Message::Transaction(message) => Some(message.key().id.0),
        Message::StepCall { key, .. } | Message::StepReply { key, .. } => Some(key.id.0),
        Message::Hello
        | Message::Announce { .. }
        | Message::AskFinished
        | Message::Finished { .. } => None,
    }
}

/// A log's records, read by the judges' reader. What does not read is left out.
#[must_use]
pub fn log_lines(disk: &dyn Directory) -> Vec<LogLine> {
    let mut lines = Vec::new();
    let _ = reader::read_log(disk, &mut |record| {
        let event = EventType(record.event);
        let id = Fields(record.payload).u64();
        let about = id.filter(|_| event != EventType::CHECKPOINT);
        let bytes = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
        lines.push(LogLine { sequence: record.sequence, event, about, bytes });
    });
    lines
}

/// What a node's recovery says is unfinished, one line each.
#[must_use]
pub fn found(report: &RecoveryReport) -> Vec<String> {
    report.operations.iter().map(operation).collect()
}

fn operation(operation: &OperationReport) -> String {
    let OperationReport { id, kind, state, action, .. } = operation;
    let (what, more) = match kind {
        OperationKind::Saga { run, undo, .. } if undo.is_empty() => {
            ("saga", format!(", run {run:?}"))
        }
        OperationKind::Saga { undo, .. } => ("saga", format!(", undo {undo:?}")),
        OperationKind::Transaction { members, votes } => {
            ("tx", format!(", {} of {} votes", votes.len(), members.len()))
        }
        OperationKind::Promise { coordinator, shard } => {
            let (coordinator, shard) = (coordinator.number(), shard.number());
            ("promise", format!(", of n{coordinator} for shard {shard}"))
        }
    };
    format!("{what} {id}: {state}, {}{more}", action.name())
}

/// What a log's bytes say is unfinished, in the same words, by code that recovery has no part in. `None` if
/// the log begins with a snapshot: the model here reads none, and judges such a log by its whole history.
#[must_use]
pub fn truth(role: Role, disk: &dyn Directory) -> Option<Vec<String>> {
    let (mut first, mut compacted) = (true, false);
    // What does not read is told below.
    let _ = reader::read_log(disk, &mut |record| {
        compacted |= first && reader::part(record).is_some();
        first = false;
    });
    (!compacted).then(|| unfinished(role, disk))
}

fn unfinished(role: Role, disk: &dyn Directory) -> Vec<String> {
    match role {
        Role::Coordinator => {
            let mut model = Model::default();
            let read = reader::read_log(disk, &mut |record| {
                let event = EventType(record.event);
                model.take(record.sequence, event, record.timestamp_ms, record.payload);
            });
            if let Err(flaw) = read {
                return vec![format!("it does not read: {flaw}")];
            }
            let rules = Rules::default();
            let sagas = model.sagas.iter().filter_map(|(id, saga)| saga.report(id, &rules));
            let mut sagas: Vec<OperationReport> = sagas.collect();
            sagas.sort_unstable_by_key(|operation| operation.id);
            let transactions = model.transactions.iter();
            let transactions =
                transactions.filter_map(|(id, tx)| tx.report(id, &rules, &model.names));
            let mut transactions: Vec<OperationReport> = transactions.collect();
            transactions.sort_unstable_by_key(|operation| operation.id);
            sagas.iter().chain(&transactions).map(operation).collect()
        }
        Role::Participant => {
            let mut open: BTreeSet<(u64, OperationId, u64)> = BTreeSet::new();
            let read = reader::read_log(disk, &mut |record| {
                let mut fields = Fields(record.payload);
                let (Some(id), Some(by)) = (fields.id(), fields.coordinator()) else { return };
                let shard = fields.extensions([tag::SHARD]).and_then(|[shard]| array(shard));
                let key = (by.number(), id, shard.map_or(0, |shard| ShardId(shard).number()));
                match EventType(record.event) {
                    EventType::TX_PREPARED => {
                        open.insert(key);
                    }
                    EventType::TX_PARTICIPANT_COMMITTED | EventType::TX_PARTICIPANT_ABORTED => {
                        open.remove(&key);
                    }
                    _ => {}
                }
            });
            if let Err(flaw) = read {
                return vec![format!("it does not read: {flaw}")];
            }
            let line = |(by, id, shard): &(u64, OperationId, u64)| {
                format!("promise {id}: prepared, none, of n{by} for shard {shard}")
            };
            open.iter().map(line).collect()
        }
    }
}
