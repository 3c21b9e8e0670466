//! What such a world does, written down as it happens, for pages and tools: see [`crate::recording`]. It changes
//! nothing.

use super::agenda::Event;
use super::observe;
use super::{Report, Scenario, World};
use crate::queue::Entry;
use crate::recording::{self, Happening, LogLine, Recording, Role, Wanted};
use base::Time;
use network::{Message, StorageDisks, StorageNode};
use node::{Disks, LogSlot, RecoveryReport};
use std::collections::{BTreeMap, BTreeSet};
use store::Digest;

/// In worlds of so many nodes who is there is most of what is sent, and would leave no place for all else.
const MANY: u32 = 100;

/// What is written down, and what has to be known for that.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorder {
    recording: Recording,
    /// The copies of messages that are on their way.
    copies: BTreeSet<u64>,
    /// The version of each file's record that is current at a node.
    versions: BTreeMap<(u32, Digest), u64>,
    /// Up to where a node's logs were durable.
    durable: BTreeMap<(u32, Role), u64>,
}

impl World<'_> {
    /// Begins to write down what happens.
    pub fn record(&mut self) {
        let recording = Recording::new(Wanted::Happenings);
        self.recorder = Some(Box::new(Recorder { recording, ..Recorder::default() }));
    }

    /// What was written down, and the logs as they are; nothing if nobody asked.
    pub fn recording(&mut self) -> Recording {
        let Some(recorder) = self.recorder.take() else { return Recording::default() };
        let mut recording = recorder.recording;
        let logs = (0u32..).zip(&self.machines).map(|(node, machine)| {
            let lines = |name, disk| (name, recording::log_lines(disk));
            let mut logs: Vec<(&'static str, Vec<LogLine>)> = Vec::new();
            if !machine.gone {
                logs.push(lines("coordinator", machine.disks.directory(LogSlot::Coordinator)));
                logs.push(lines("participant", machine.disks.directory(LogSlot::Participant)));
            }
            if node == 0 {
                logs.push(lines("ledger", machine.disks.ledger()));
            }
            logs
        });
        recording.logs = logs.collect();
        recording
    }

    /// The region of each node that there has been.
    #[must_use]
    pub fn regions(&self) -> Vec<u32> {
        (0..self.machines.len() as u32).map(|node| self.region_of(node)).collect()
    }

    /// Something happened: for the record, if it is wanted.
    pub(super) fn happened(&mut self, what: impl FnOnce() -> Happening) {
        let moment = self.moment();
        if let Some(recorder) = &mut self.recorder {
            recorder.recording.happenings.push((moment, what()));
        }
    }

    /// What the record says of a message: its kind, and the operation that it is about. `None`: nothing.
    pub(super) fn recorded_as(&mut self, message: &Message) -> Option<(&'static str, Option<u64>)> {
        let recorder = self.recorder.as_mut()?;
        if matches!(message, Message::Membership(_)) && self.scenario.storage.nodes >= MANY {
            recorder.recording.left_out += 1;
            return None;
        }
        let about = match message {
            Message::Transaction(message) => recording::about(message),
            _ => None,
        };
        Some((observe::kind(message), about))
    }

    pub(super) fn record_sent(
        &mut self,
        from: u32,
        to: u32,
        (kind, about): (&'static str, Option<u64>),
        arrives: Vec<(u64, Time)>,
    ) {
        if let Some(recorder) = &mut self.recorder {
            recorder.copies.extend(arrives.iter().map(|(copy, _)| *copy));
        }
        self.happened(|| Happening::Sent { from, to, kind, about, arrives });
    }

    /// What is about to happen, if it is that a message arrives. One that comes again, since its addressee stands
    /// still, has arrived before.
    pub(super) fn record_arrival(&mut self, entry: &Entry, event: &Event) {
        let (Event::Arrives { from, cargo }, Some(recorder)) = (event, &mut self.recorder) else {
            return;
        };
        if !recorder.copies.remove(&entry.tie) {
            return;
        }
        let (copy, from, to) = (entry.tie, *from, entry.target);
        let kind = self.kind_of(cargo);
        let heard = self.machines[to as usize].process.is_some();
        self.happened(|| Happening::Arrived { copy, from, to, kind, heard });
    }

    pub(super) fn record_recovered(&mut self, node: u32, slot: LogSlot, report: &RecoveryReport) {
        if self.recorder.is_none() {
            return;
        }
        let disk = self.machines[node as usize].disks.directory(slot);
        let (role, records) = (Role::of(slot), report.scanned.records);
        let (found, truth) = (recording::found(report), recording::truth(role, disk));
        self.happened(|| Happening::Recovered { node, role, records, found, truth });
    }

    /// A node has done something: which versions of records have become current there, and what is durable.
    pub(super) fn record_progress(&mut self, node: u32) {
        let Some(recorder) = &mut self.recorder else { return };
        let process = self.machines[node as usize].process.as_ref();
        let Some(running) = process.map(|process| &*process.node) else { return };
        let mut news = Vec::new();
        for record in running.records() {
            let seen = recorder.versions.insert((node, record.file), record.version);
            if seen != Some(record.version) {
                let (version, scheme) = (record.version, record.manifest.scheme().to_string());
                news.push((record.file, version, scheme));
            }
        }
        for (role, durable) in durable(running) {
            let seen = recorder.durable.insert((node, role), durable).unwrap_or(0);
            if durable > seen {
                let what = Happening::Durable { node, role, through: durable };
                let moment = crate::judge::Moment { now: self.now, event: self.trace.events() };
                recorder.recording.happenings.push((moment, what));
            }
        }
        for (file, version, scheme) in news {
            let file = self.file_called(file);
            self.happened(|| Happening::Version { node, file, version, scheme });
        }
    }
}

/// Up to where a node's logs are durable.
fn durable(running: &StorageNode) -> impl Iterator<Item = (Role, u64)> {
    let transactions = running.transactions();
    let coordinator =
        transactions.coordinator().map(|it| (Role::Coordinator, it.log().durable().0));
    let participant =
        transactions.participant().map(|it| (Role::Participant, it.log().durable().0));
    coordinator.into_iter().chain(participant)
}

/// One run, what happened in it, and in which region each of its nodes was.
#[must_use]
pub fn run_recorded(scenario: &Scenario, seed: u64) -> (Report, Recording, Vec<u32>) {
    let mut world = World::new(scenario, seed);
    world.record();
    let report = world.finish();
    (report, world.recording(), world.regions())
}
