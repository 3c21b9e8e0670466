//! A world seen from outside, for people: what happens, what is on its way, and the state of each
//! node at an event. Nothing here changes a run.

use super::{
    DELIVER, Envelope, Fate, IS_MESSAGE, KIND_SHIFT, Machine, Process, SLOTS, What, World,
};
use crate::judge::{Moment, reader};
use crate::plan::{Fault, Plan};
use crate::queue::{Entry, Queue};
use crate::scenario::Scenario;
use crate::workload::Workload;
use base::Time;
use node::{Disks, LogSlot, Message, RecoveryReport};
use saga::Direction;
use std::fmt::Write;
use wal_core::EventType;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: Moment,
    /// At which node; `None`: at none of them, such as a fault of the network.
    pub node: Option<u32>,
    /// What, in a few words.
    pub what: String,
}

/// A node at a moment.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its number.
    pub node: u32,
    /// Down, recovering, running or standing still, and how often it was started.
    pub state: String,
    /// What it has not ended: transactions, sagas, promises and locks, in a few words each.
    pub open: Vec<String>,
    /// What else it keeps, by kind: a storage node its members, records, shards and cells.
    pub keeps: Vec<Group>,
    /// Its two logs, the coordinator's first where it has one; of a storage node that keeps a ledger, that too.
    pub logs: Vec<LogView>,
}

/// Things of one kind that a node keeps.
#[derive(Clone, Debug)]
pub struct Group {
    /// The kind's name, such as `shards`.
    pub name: &'static str,
    /// Each in a few words.
    pub lines: Vec<String>,
}

/// A log as it stands on the disk, in the page cache or synced.
#[derive(Clone, Debug)]
pub struct LogView {
    /// `coordinator`, `participant` or `ledger`.
    pub name: &'static str,
    /// The last record that its process knows to be durable; `None`: there is no such process.
    pub durable: Option<u64>,
    /// Each record: its number and its event.
    pub records: Vec<(u64, String)>,
    /// Why it cannot be read to its end, if so: a write may be under way.
    pub flaw: Option<String>,
}

impl<'a> World<'a> {
    /// Begins to note what happens; see [`take_notes`](Self::take_notes). It takes memory and time.
    pub fn note_all(&mut self) {
        self.notes.get_or_insert_default();
    }

    /// Notes nothing any more.
    pub fn stop_notes(&mut self) {
        self.notes = None;
    }

    /// What was noted since the last call, in order.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.notes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Lets events happen until so many have, or the run is over. `None` if it is not.
    pub fn run_to(&mut self, event: u64) -> Option<super::Ending> {
        while self.trace.events() < event {
            if let Some(ending) = self.step() {
                return Some(self.end(ending));
            }
        }
        None
    }

    /// The scenario that it was made of.
    #[must_use]
    pub fn scenario(&self) -> &'a Scenario {
        self.scenario
    }

    /// The seed that it was made of.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What goes wrong in it.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether an entry of the plan has struck.
    #[must_use]
    pub fn has_struck(&self, entry: usize) -> bool {
        self.struck.get(entry).copied().unwrap_or(false)
    }

    /// One thing more goes wrong. What has come to pass stays as it is: a time that is gone by is now.
    pub fn add_fault(&mut self, fault: Fault) {
        let entry =
            u32::try_from(self.plan.faults.len()).expect("a plan has fewer than 2^32 entries");
        self.plan.faults.push(fault);
        self.struck.push(false);
        self.faults_until = self.plan.last_moment() + self.scenario.liveness.budget.0;
        let earliest = self.now;
        self.arm_from(entry, earliest);
    }

    /// An entry of the plan does not strike any more. One that has struck has struck: false then, and
    /// nothing is changed.
    pub fn take_fault_away(&mut self, entry: usize) -> bool {
        if entry >= self.struck.len() || self.struck[entry] {
            return false;
        }
        let number = entry as u32;
        for machine in self.machines.iter_mut() {
            machine.armed.retain(|armed| armed.entry != number);
        }
        // What is scheduled comes and finds it struck: see `strike`.
        self.struck[entry] = true;
        self.faults_open = self.faults_open.saturating_sub(1);
        true
    }

    /// Messages that will arrive, earliest first: when, from whom, to whom, and what.
    #[must_use]
    pub fn in_flight(&self) -> Vec<(Time, u32, u32, String)> {
        let waiting = self.agenda.queue.waiting().into_iter();
        let messages = waiting.filter(|entry| entry.what & IS_MESSAGE != 0);
        messages
            .map(|entry| {
                let (from, Envelope { message, .. }) =
                    self.agenda.messages.get(entry.what ^ IS_MESSAGE);
                (entry.at, from, entry.target, brief(message))
            })
            .collect()
    }

    /// The nodes that run, by number.
    pub fn nodes(&self) -> impl Iterator<Item = (u32, &node::Node)> {
        let all = (0u32..).zip(self.machines.iter());
        all.filter_map(|(number, machine)| Some((number, &*machine.process.as_ref()?.node)))
    }

    /// How long syncs of coordinators' logs have taken, and of participants', in simulated time.
    #[must_use]
    pub fn flushes(&self) -> &[base::Latency; 2] {
        &self.flushes
    }

    /// A node as it is now; `None` if there is none of this number.
    #[must_use]
    pub fn view(&self, node: u32) -> Option<NodeView> {
        let machine = self.machines.get(node as usize)?;
        let coordinates = node < *self.scenario.cluster.coordinators.get_ref();
        let slots = SLOTS.into_iter().filter(|slot| coordinates || *slot != LogSlot::Coordinator);
        Some(NodeView {
            node,
            state: state(machine),
            open: machine.process.as_ref().map(|process| self.open(process)).unwrap_or_default(),
            keeps: Vec::new(),
            logs: slots.map(|slot| log(machine, slot)).collect(),
        })
    }

    /// What was sent, and what became of it.
    #[cfg(test)]
    pub(crate) fn sent(&self) -> Vec<crate::net::Sent> {
        self.net.sent.clone()
    }

    fn open(&self, process: &Process) -> Vec<String> {
        let mut open = Vec::new();
        if let Some(engine) = process.node.coordinator() {
            for tx in engine.active_transactions() {
                let votes = tx.votes().count();
                let members = tx.members().len();
                open.push(format!(
                    "transaction {} {}, {votes} of {members} votes",
                    tx.id(),
                    tx.state()
                ));
            }
            for saga in engine.active_sagas() {
                open.push(format!("saga {} {}", saga.id(), saga.phase().name()));
            }
        }
        if let Some(host) = process.node.participant() {
            for (key, at) in host.participant().prepared() {
                let by = key.tx.coordinator.number();
                open.push(format!("promised to n{by}'s transaction {} in record {at}", key.tx.id));
            }
            for (cell, grant) in host.locks().held(self.now) {
                open.push(format!("cell {cell} locked by record {}", grant.holder));
            }
        }
        open
    }

    pub(super) fn note(&mut self, node: Option<u32>, what: impl FnOnce() -> String) {
        let at = Moment { now: self.now, event: self.trace.events() };
        if let Some(notes) = &mut self.notes {
            notes.push(Note { at, node, what: what() });
        }
    }

    /// The event that is about to happen: the trace has not counted it yet.
    pub(super) fn note_event(&mut self, entry: &Entry) {
        let at = Moment { now: self.now, event: self.trace.events() + 1 };
        let (node, what) = self.describe(entry);
        if let Some(notes) = &mut self.notes {
            notes.push(Note { at, node, what });
        }
    }

    fn describe(&self, entry: &Entry) -> (Option<u32>, String) {
        let target = entry.target;
        if entry.what & IS_MESSAGE != 0 {
            let (from, Envelope { message, .. }) =
                self.agenda.messages.get(entry.what ^ IS_MESSAGE);
            return (Some(target), format!("{} from n{from} arrives", brief(message)));
        }
        let text = match What::unpack(entry.what) {
            What::SyncDone { slot, .. } => format!("a sync of its {} log is done", name(slot)),
            What::Wake { .. } => "a timer".to_owned(),
            What::Fault => return (None, format!("the moment of fault {target}")),
            What::FaultEnds => return (None, format!("fault {target} ends")),
            What::Start { .. } => "a start is due".to_owned(),
            What::Resume { .. } => "its process goes on".to_owned(),
            What::Retire { .. } => "its old process ends".to_owned(),
            What::Ask => return (None, format!("the client of operation {target} asks")),
            What::NextWave => return (None, "has the wave ended?".to_owned()),
            What::Operate => "its operator looks".to_owned(),
            What::Cancel => return (None, format!("the client of operation {target} cancels")),
            What::AskAgain { .. } => {
                return (None, format!("the client of operation {target} asks again"));
            }
        };
        debug_assert!(u64::from(entry.what >> KIND_SHIFT) > DELIVER, "it is no message");
        (Some(target), text)
    }

    pub(super) fn note_sent(&mut self, from: u32, to: u32, message: &Message, fate: Fate) {
        self.note(Some(from), || {
            let mut what = format!("sends {} to n{to}: ", brief(message));
            let _ = match fate {
                Fate { first: None, .. } => write!(what, "lost"),
                Fate { first: Some(at), second: None } => write!(what, "there at {at}"),
                Fate { first: Some(at), second: Some(again) } => {
                    write!(what, "there at {at} and again at {again}")
                }
            };
            what
        });
    }
}

fn state(machine: &Machine) -> String {
    let mut state = match &machine.process {
        None => "down".to_owned(),
        Some(process) if process.paused => "stands still".to_owned(),
        Some(process) if !process.node.is_ready() => "recovers".to_owned(),
        Some(_) => "runs".to_owned(),
    };
    let _ = write!(state, ", start {}", machine.boots);
    match machine.zombies.len() {
        0 => {}
        1 => state.push_str(", an old process is still there"),
        many => {
            let _ = write!(state, ", {many} old processes are still there");
        }
    }
    state
}

fn log(machine: &Machine, slot: LogSlot) -> LogView {
    let log = machine.process.as_ref().and_then(|process| match slot {
        LogSlot::Coordinator => process.node.coordinator().map(|engine| engine.log()),
        LogSlot::Participant => process.node.participant().map(|host| host.log()),
    });
    let mut records = Vec::new();
    let read = reader::read_log(machine.disks.directory(slot), &mut |record| {
        records.push((record.sequence, EventType(record.event).to_string()));
    });
    LogView {
        name: name(slot),
        durable: log.map(|log| log.durable().0),
        records,
        flaw: read.err().map(|flaw| flaw.to_string()),
    }
}

fn name(slot: LogSlot) -> &'static str {
    match slot {
        LogSlot::Coordinator => "coordinator",
        LogSlot::Participant => "participant",
    }
}

/// What a recovery found, in a line.
pub(crate) fn recovered_in_words(slot: LogSlot, report: &RecoveryReport) -> String {
    format!("has recovered its {} log: {report}", name(slot))
}

/// An operation as people call it: by the number that its client asked with.
pub(super) fn client(key: &base::RequestKey) -> String {
    match Workload::operation_of(key) {
        Some(operation) => format!("the client of operation {operation}"),
        None => format!("the client of {key:?}"),
    }
}

/// A message in a few words.
pub(crate) fn brief(message: &Message) -> String {
    let kind = message.kind().name();
    match message {
        Message::Transaction(tx) => {
            let key = tx.key();
            let mut text =
                format!("{kind} of n{}'s transaction {}", key.coordinator.number(), key.id);
            let _ = match tx {
                twopc::Message::Vote { vote, .. } => write!(text, " ({vote:?})"),
                twopc::Message::Answer { verdict, .. } => write!(text, " ({verdict:?})"),
                twopc::Message::PeerAnswer { verdict, .. } => write!(text, " ({verdict:?})"),
                _ => Ok(()),
            };
            text
        }
        Message::StepCall { key, call, .. } => {
            let undo = if call.direction == Direction::Backward { "undo of " } else { "" };
            let step = call.step;
            format!("{kind}: {undo}step {step} of n{}'s saga {}", key.coordinator.number(), key.id)
        }
        Message::StepReply { key, step, direction, answer, .. } => {
            let undo = if *direction == Direction::Backward { "undo of " } else { "" };
            let by = key.coordinator.number();
            format!("{kind}: {undo}step {step} of n{by}'s saga {} ({answer:?})", key.id)
        }
        Message::Hello | Message::AskFinished => kind.to_owned(),
        Message::Finished { watermark, .. } => {
            format!("{kind} (up to {})", watermark.highest())
        }
        Message::Announce { boot, .. } => format!("{kind} (start {})", boot.0),
    }
}
