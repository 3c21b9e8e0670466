//! A world of storage nodes seen from outside, for people: what happens, what is on its way, and the state of
//! each node at an event. Nothing here changes a run.

use super::agenda::{Cargo, Event};
use super::machine::Machine;
use super::{Ending, Report, World};
use crate::judge::{Moment, reader};
use crate::net::Fate;
use crate::queue::Queue;
use crate::recording::Happening;
use crate::storage::Scenario;
use crate::world::{Group, LogView, NodeView, Note};
use base::Time;
use network::{LockAnswer, Message, StorageDisks, StorageNode};
use node::{Disks, LogSlot};
use placement::{DirectoryMessage, Status};
use std::fmt::Write;
use store::Digest;
use wal_core::{Directory, EventType};

/// How many events pass between two looks of whoever follows a run.
const FOLLOWED: u64 = 256;

impl<'a> World<'a> {
    /// Begins to note what happens; see [`take_notes`](Self::take_notes). It takes memory and time.
    pub fn note_all(&mut self) {
        self.story.get_or_insert_default();
        self.notes_all = true;
    }

    /// Begins to note what goes wrong, and what clients ask for and are told.
    pub fn note_story(&mut self) {
        self.story.get_or_insert_default();
    }

    /// Notes nothing any more.
    pub fn stop_notes(&mut self) {
        (self.story, self.notes_all) = (None, false);
    }

    /// What was noted since the last call, in order.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.story.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Lets events happen until so many have, or the run is over. `None` if it is not.
    pub fn run_to(&mut self, event: u64) -> Option<Ending> {
        while self.judge.finding.is_none() && self.trace.events() < event {
            if let ended @ Some(_) = self.step() {
                return ended;
            }
        }
        self.judge.finding.is_some().then_some(Ending::Violation)
    }

    /// Runs to the end, from wherever it is, and says what came of it.
    #[must_use]
    pub fn finish(&mut self) -> Report {
        self.report_while(&mut |_| true).expect("nobody stops it")
    }

    /// Runs to the end, and is handed over every now and then, and at the end: for those who follow it.
    #[must_use]
    pub fn finish_each(&mut self, each: &mut dyn FnMut(&mut World<'a>)) -> Report {
        let report = self.report_in_steps(FOLLOWED, &mut |world| {
            each(world);
            true
        });
        each(self);
        report.expect("nobody stops it")
    }

    /// Where the run is.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { now: self.now, event: self.trace.events() }
    }

    /// The hash of everything that has happened.
    #[must_use]
    pub fn hash(&self) -> u128 {
        self.trace.hash()
    }

    /// The scenario that it was made of.
    #[must_use]
    pub fn scenario(&self) -> &'a Scenario {
        self.scenario
    }

    /// Messages that will arrive, earliest first: when, from whom, to whom, and what.
    #[must_use]
    pub fn in_flight(&self) -> Vec<(Time, u32, u32, String)> {
        let waiting = self.queue.waiting().into_iter();
        let messages = waiting.filter_map(|entry| match self.events.get(entry.what).1 {
            Event::Arrives { from, cargo } => {
                Some((entry.at, *from, entry.target, self.brief(cargo)))
            }
            _ => None,
        });
        messages.collect()
    }

    /// A node as it is now; `None` if there was never one of this number.
    #[must_use]
    pub fn view(&self, node: u32) -> Option<NodeView> {
        let machine = self.machines.get(node as usize)?;
        let running = machine.process.as_ref().map(|process| &*process.node);
        let mut logs = vec![
            log(machine, machine.disks.directory(LogSlot::Coordinator), "coordinator"),
            log(machine, machine.disks.directory(LogSlot::Participant), "participant"),
        ];
        if node == 0 {
            // Nobody but the authority keeps a ledger.
            logs.push(log(machine, machine.disks.ledger(), "ledger"));
        }
        if machine.gone {
            logs.clear();
        }
        Some(NodeView {
            node,
            state: self.state(node, machine),
            open: running.map(|running| self.open_at(running)).unwrap_or_default(),
            keeps: self.keeps(node, machine, running),
            logs,
        })
    }

    fn state(&self, node: u32, machine: &Machine) -> String {
        let mut state = match &machine.process {
            None if machine.gone => "has left for good".to_owned(),
            None => "down".to_owned(),
            Some(_) if machine.stalled > self.now => {
                format!("stands still until {}", machine.stalled)
            }
            Some(process) if !process.node.transactions().is_ready() => "recovers".to_owned(),
            Some(_) => "runs".to_owned(),
        };
        let _ = write!(state, ", start {}", machine.boots);
        let roles = [
            (node == 0, "the authority"),
            (machine.liar, "lies"),
            (machine.boasts, "boasts"),
            (machine.slow && !self.healed, "has a slow disk of shards"),
            (machine.full, "keeps nothing that it is given"),
            (machine.drains && !machine.gone, "is asked to leave in order"),
            (machine.strike.is_some(), "is about to be struck"),
            (machine.sync_fails.is_some(), "its next sync fails"),
        ];
        for (_, role) in roles.into_iter().filter(|(is, _)| *is) {
            let _ = write!(state, ", {role}");
        }
        let _ = write!(state, ", region {}", self.region_of(node));
        state
    }

    /// What a node has not ended.
    fn open_at(&self, running: &StorageNode) -> Vec<String> {
        let mut open = Vec::new();
        if let Some(engine) = running.transactions().coordinator() {
            for tx in engine.active_transactions() {
                let (votes, members) = (tx.votes().count(), tx.members().len());
                let state = tx.state();
                open.push(format!("transaction {} {state}, {votes} of {members} votes", tx.id()));
            }
            for saga in engine.active_sagas() {
                open.push(format!("saga {} {}", saga.id(), saga.phase().name()));
            }
        }
        if let Some(host) = running.transactions().participant() {
            for (key, at) in host.participant().prepared() {
                let by = key.tx.coordinator.number();
                open.push(format!("promised to n{by}'s transaction {} in record {at}", key.tx.id));
            }
            for (cell, grant) in host.locks().held(self.now) {
                open.push(format!("cell {cell:016x} locked by record {}", grant.holder));
            }
        }
        for (shard, holder, token, until) in running.locks().held(self.now) {
            let shard = shard.number();
            open.push(format!(
                "lock {shard} is {holder:?}'s under token {} until {until}",
                token.0
            ));
        }
        if let waiting @ 1.. = running.locks().waiting() {
            open.push(format!("{waiting} requests wait for locks"));
        }
        let unrest = running.unrest(self.now);
        if !unrest.is_empty() {
            open.push(format!("under way: {}", unrest.join(", ")));
        }
        open
    }

    /// What a node keeps: whom it sees, its files' records, the shards on its disk and what locks guard there.
    fn keeps(&self, node: u32, machine: &Machine, running: Option<&StorageNode>) -> Vec<Group> {
        let mut keeps = Vec::new();
        if let Some(running) = running {
            keeps.push(Group { name: "members", lines: members(running) });
            let records = running.records().map(|record| {
                let keepers: Vec<String> =
                    record.keepers.iter().map(|keeper| format!("n{}", keeper.number())).collect();
                let right = record.shards().filter(|(.., shard, at)| self.has_at(*at, shard.digest));
                let (right, all) = (right.count(), record.shards().count());
                let (file, version) = (self.file_called(record.file), record.version);
                let scheme = record.manifest.scheme();
                let keepers = keepers.join(" ");
                format!("{file}: version {version}, {scheme}, keepers {keepers}, {right} of {all} shards right")
            });
            keeps.push(Group { name: "records", lines: records.collect() });
        }
        let cells = running.and_then(|running| running.transactions().participant());
        let cells = cells.map(|host| host.store());
        let shards = machine.shards.shards().map(|(digest, bytes)| {
            let what = match (machine.shards.read(digest), self.judge.file_of(digest)) {
                (Some(bytes), _) if network::is_note(bytes) => "a note".to_owned(),
                (_, Some(file)) => format!("of file {file}"),
                (_, None) => "of no file".to_owned(),
            };
            let mut line = format!("{} {what}, {bytes} bytes", short(digest));
            if !machine.shards.is_right(digest) {
                line.push_str(", NOT what it is called");
            }
            if let Some(cells) = cells {
                let _ = write!(line, ", needed {}", cells.value(network::work::needed(digest)));
            }
            if machine.shards.is_pinned(digest) {
                line.push_str(", pinned");
            }
            line
        });
        keeps.push(Group { name: "shards", lines: shards.collect() });
        if let Some(cells) = cells {
            let mut lines = Vec::new();
            for (number, file) in self.files.iter().enumerate() {
                if let head @ 1.. = cells.value(network::work::head(file.name)) {
                    lines.push(format!("head of file {number}: version {head}"));
                }
            }
            for (shard, _) in self.guarded.iter().filter(|(_, at)| *at == node) {
                lines.push(format!(
                    "guarded {}: value {}, written {} times, highest token {}",
                    shard.number(),
                    cells.value(network::work::guarded(*shard)),
                    cells.value(network::work::writes(*shard)),
                    cells.value(network::work::fence(*shard))
                ));
            }
            keeps.push(Group { name: "cells", lines });
        }
        if let Some(bank) = running.and_then(StorageNode::bank) {
            let accounts = bank.ledger().accounts();
            let lines = accounts.map(|(account, units)| format!("{account:?}: {} units", units.0));
            keeps.push(Group { name: "accounts", lines: lines.collect() });
        }
        keeps.retain(|group| !group.lines.is_empty());
        keeps
    }

    /// A file by the number that clients know it by.
    pub(super) fn file_called(&self, name: Digest) -> String {
        match self.files.iter().position(|file| file.name == name) {
            Some(number) => format!("file {number}"),
            None => format!("the file called {}", short(name)),
        }
    }

    /// A client asked or was told, or something else happened that the story tells.
    pub(super) fn note(&mut self, node: Option<u32>, what: impl FnOnce() -> String) {
        let at = self.moment();
        if let Some(story) = &mut self.story {
            story.push(Note { at, node, what: what() });
        }
    }

    /// Something went wrong, or is over.
    pub(super) fn befell(&mut self, node: Option<u32>, what: impl FnOnce() -> String) {
        if self.story.is_some() || self.recorder.is_some() {
            let what = what();
            self.happened(|| Happening::Befell { node, what: what.clone() });
            self.note(node, || what);
        }
    }

    /// Something happened that only those want to read who follow each event.
    pub(super) fn note_detail(&mut self, node: u32, what: impl FnOnce(&Self) -> String) {
        if self.notes_all {
            let what = what(self);
            self.note(Some(node), || what);
        }
    }

    /// The event that has just begun.
    pub(super) fn note_event(&mut self, target: u32, event: &Event) {
        if self.notes_all {
            let (node, what) = self.describe(target, event);
            self.note(node, || what);
        }
    }

    fn describe(&self, target: u32, event: &Event) -> (Option<u32>, String) {
        let text = match event {
            Event::Nothing => return (None, "nothing".to_owned()),
            Event::Arrives { from, cargo } => {
                let nobody = self.machines[target as usize].process.is_none();
                let nobody = if nobody { ", to nobody" } else { "" };
                format!("{} from {} arrives{nobody}", self.brief(cargo), sender(*from))
            }
            Event::SyncDone { lane, .. } => format!("a sync of its {} log is done", LOGS[*lane]),
            Event::ShardDone { .. } => "its disk of shards has done something".to_owned(),
            Event::Wake { .. } => "a timer".to_owned(),
            Event::Start => "a start is due".to_owned(),
            Event::Client(number) => return (None, format!("client {number} would ask")),
            Event::Crash(strike) => format!("{} becomes due", strike.entry),
            Event::SyncFails(entry) => format!("{entry} becomes due"),
            Event::Partition { number, .. } => {
                return (None, format!("partition {number} becomes due"));
            }
            Event::Unite { .. } => return (None, "those who were cut off are united".to_owned()),
            Event::Rot { number } => return (None, format!("rot {number} becomes due")),
            Event::CutRegion { region, .. } => {
                return (None, format!("region {region} is to be cut off"));
            }
            Event::Leave { number } => return (None, format!("leave {number} becomes due")),
            Event::Join { number } => return (None, format!("join {number} becomes due")),
            Event::Lie => "it turns liar".to_owned(),
            Event::Drain { .. } => "has it left in order?".to_owned(),
            Event::Ledger { stage } => {
                return (None, format!("stage {stage} of what is asked of the ledger"));
            }
            Event::Download { number } => return (None, format!("download {number} becomes due")),
            Event::Heal => return (None, "faults are to end".to_owned()),
            Event::Look => return (None, "is everything at rest?".to_owned()),
        };
        (Some(target), text)
    }

    pub(super) fn note_sent(&mut self, from: u32, to: u32, what: &str, fate: Fate) {
        self.note_detail(from, |_| {
            let mut text = format!("sends {what} to n{to}: ");
            let _ = match fate {
                Fate { first: None, .. } => write!(text, "lost"),
                Fate { first: Some(at), second: None } => write!(text, "there at {at}"),
                Fate { first: Some(at), second: Some(again) } => {
                    write!(text, "there at {at} and again at {again}")
                }
            };
            text
        });
    }

    /// What a node wants of its disk of shards.
    pub(super) fn shard_op(&self, op: &store::Op) -> String {
        let (what, digest) = match op {
            store::Op::Write { digest, .. } => ("write", digest),
            store::Op::Read { digest } => ("read", digest),
            store::Op::Remove { digest } => ("remove", digest),
            store::Op::Pin { digest } => ("pin", digest),
            store::Op::Unpin { digest } => ("unpin", digest),
        };
        let of = self.judge.file_of(*digest).map(|file| format!(" of file {file}"));
        format!("has its disk of shards {what} {}{}", short(*digest), of.unwrap_or_default())
    }

    fn brief(&self, cargo: &Cargo) -> String {
        match cargo {
            Cargo::Transaction(message) => crate::world::brief(message),
            Cargo::Bytes(bytes) => match Message::decode(bytes) {
                Ok(message) => self.brief_of(&message),
                Err(malformed) => format!("what is no message: {malformed}"),
            },
        }
    }

    /// The kind of a message on its way.
    pub(super) fn kind_of(&self, cargo: &Cargo) -> &'static str {
        match cargo {
            Cargo::Transaction(message) => message.kind().name(),
            Cargo::Bytes(bytes) => Message::decode(bytes).map_or("malformed", |it| kind(&it)),
        }
    }

    /// A message in a few words.
    pub(super) fn brief_of(&self, message: &Message) -> String {
        let kind = kind(message);
        let of = |digest: &Digest| match self.judge.file_of(*digest) {
            Some(file) => format!("{} of file {file}", short(*digest)),
            None => short(*digest),
        };
        match message {
            Message::Transaction(message) => crate::world::brief(message),
            Message::Get { digest, number } => format!("{kind} {number}: {}", of(digest)),
            Message::Bytes { digest, bytes: Some(bytes), number } => {
                format!("{kind} {number}: {} bytes of {}", bytes.len(), of(digest))
            }
            Message::Bytes { digest, bytes: None, number } => {
                format!("{kind} {number}: {} is not here", of(digest))
            }
            Message::Challenge(challenge) => format!("{kind} of {}", of(&challenge.shard)),
            Message::Proof(answer) => {
                let none = if answer.proof.is_none() { ": none" } else { "" };
                format!("{kind}{none}")
            }
            Message::Scrub { digest } => format!("{kind} of {}", of(digest)),
            Message::Scrubbed { digest, healthy } => {
                let found = if *healthy { "right" } else { "bad" };
                format!("{kind}: {} is {found}", of(digest))
            }
            Message::Lock(message) => format!("{kind}: {}", words(message)),
            Message::Locked(answer) => match answer {
                LockAnswer::Granted { holder, leases } => {
                    format!("{kind}: {} granted to {holder:?}", leases.len())
                }
                other => format!("{kind}: {}", words(other)),
            },
            Message::Ask { number, ask, .. } => format!("{kind} {number}: {ask:?}"),
            Message::Asked { number, done, .. } => {
                format!("{kind} {number}: {}", if *done { "done" } else { "refused" })
            }
            Message::Doubts(all) => format!("{kind}: {}", all.len()),
            Message::Claims(all) => format!("{kind}: {}", all.len()),
            Message::Moved(all) => format!("{kind}: {}", all.len()),
            Message::Version { file, has } => {
                format!("{kind} {} of {}", has.version, self.file_called(*file))
            }
            Message::Astray { file, than, has } => {
                let (file, has, than) = (self.file_called(*file), has.version, than.version);
                format!("{kind}: {file} is at {has}, not {than}")
            }
            Message::Orphan { tx, says, .. } => {
                format!("{kind} {} of n{}: {}", tx.id.0, tx.coordinator.number(), words(says))
            }
            Message::Read { shard, .. } => format!("{kind} of {}", shard.number()),
            Message::Value { shard, value, .. } => format!("{kind} of {}: {value}", shard.number()),
            Message::Advice(scheme) => format!("{kind}: {scheme}"),
            Message::Membership(_)
            | Message::Directory(_)
            | Message::Report(_)
            | Message::Leaving => kind.to_owned(),
        }
    }
}

const LOGS: [&str; 3] = ["coordinator", "participant", "ledger"];

fn sender(node: u32) -> String {
    if node == super::FORGER { "a forger".to_owned() } else { format!("n{node}") }
}

/// The first eight digits, as people tell digests apart.
fn short(digest: Digest) -> String {
    let mut text = digest.to_string();
    text.truncate(8);
    text
}

/// The name of a variant, which is where its debug form begins.
fn words(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    text[..end].to_lowercase()
}

/// A message's kind, as people and pages call it.
pub(super) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Transaction(message) => message.kind().name(),
        Message::Get { .. } => "get",
        Message::Bytes { .. } => "bytes",
        Message::Challenge(_) => "challenge",
        Message::Proof(_) => "proof",
        Message::Scrub { .. } => "scrub",
        Message::Scrubbed { .. } => "scrubbed",
        Message::Membership(message) => match message {
            placement::Message::Heartbeat { .. } => "heartbeat",
            placement::Message::Unwatch => "unwatch",
            placement::Message::Missed { .. } => "missed",
            placement::Message::Join { .. } => "join",
            placement::Message::Compare { .. } => "compare",
            placement::Message::Members { .. } => "members",
        },
        Message::Directory(message) => match message {
            DirectoryMessage::Find { .. } => "find",
            DirectoryMessage::Found { .. } => "found",
            DirectoryMessage::Store { .. } => "store",
            DirectoryMessage::Stored { .. } => "stored",
        },
        Message::Lock(_) => "lock",
        Message::Locked(_) => "locked",
        Message::Ask { .. } => "ask",
        Message::Asked { .. } => "asked",
        Message::Report(_) => "report",
        Message::Leaving => "leaving",
        Message::Doubts(_) => "doubts",
        Message::Claims(_) => "claims",
        Message::Version { .. } => "version",
        Message::Astray { .. } => "astray",
        Message::Orphan { .. } => "orphan",
        Message::Moved(_) => "moved",
        Message::Read { .. } => "read",
        Message::Value { .. } => "value",
        Message::Advice(_) => "advice",
    }
}

fn members(running: &StorageNode) -> Vec<String> {
    let membership = running.membership();
    let of = |status: Status| {
        let all = membership.members().filter(move |member| member.status == status);
        all.map(|member| member.announcement.node.number()).collect::<Vec<u64>>()
    };
    let [alive, suspected, dead] = [Status::Alive, Status::Suspected, Status::Dead].map(of);
    let mut lines = vec![format!("{} alive", alive.len())];
    for (nodes, what) in [(suspected, "suspected"), (dead, "dead")] {
        if !nodes.is_empty() {
            let names: Vec<String> = nodes.iter().map(|node| format!("n{node}")).collect();
            lines.push(format!("{what}: {}", names.join(" ")));
        }
    }
    lines
}

fn log(machine: &Machine, disk: &dyn Directory, name: &'static str) -> LogView {
    let node = machine.process.as_ref().map(|process| &*process.node);
    let durable = node.and_then(|node| match name {
        "coordinator" => Some(node.transactions().coordinator()?.log().durable().0),
        "participant" => Some(node.transactions().participant()?.log().durable().0),
        _ => None,
    });
    let mut records = Vec::new();
    let read = reader::read_log(disk, &mut |record| {
        records.push((record.sequence, EventType(record.event).to_string()));
    });
    LogView { name, durable, records, flaw: read.err().map(|flaw| flaw.to_string()) }
}
