//! Nodes that leave, without a word or in order, and those that come.

use super::agenda::{Event, Strike};
use super::machine::Machine;
use super::{LOOK_PAUSE, World};
use crate::recording::Happening;
use crate::storage::plan::{self, Kind};
use base::{NodeName, Time};
use network::{Input, Message, Output, Request, StorageNode};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Digest;

/// Who leaves without a word does so before one of so many more outputs.
const LEAVES_WITHIN: u64 = 40;
/// How long a node may take to leave in order.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);

impl World<'_> {
    /// A node leaves for good, with all that it has or in order, and another one joins.
    pub(super) fn leave(&mut self, number: u32) {
        if self.healed {
            return;
        }
        let draw = self.root.child("leave").draw(u64::from(number), 0);
        // The authority and those who have just come stay.
        let all: Vec<u32> = (1u32..)
            .zip(&self.machines[1..])
            .filter(|(_, machine)| !machine.gone && !machine.drains && machine.process.is_some())
            .filter(|(_, machine)| machine.stalled <= self.now)
            .map(|(node, _)| node)
            .collect();
        if all.is_empty() {
            return;
        }
        let node = all[draw.below(all.len() as u64) as usize];
        if self.scenario.faults.drain.0.holds(&draw.nth(1)) {
            let machine = &mut self.machines[node as usize];
            machine.drains = true;
            let process = machine.process.as_ref().map_or(0, |process| process.id);
            self.befell(Some(node), || {
                format!("leave {number}: n{node} is asked to leave in order")
            });
            self.feed(node, process, Input::Request(Request::Leave { number: 0 }));
            return self.schedule(
                self.now + LOOK_PAUSE,
                node,
                Event::Drain { process, since: self.now },
            );
        }
        let entry = plan::Entry { kind: Kind::Leave, number };
        if self.scenario.faults.departs.0.holds(&draw.nth(3)) {
            self.departs = Some(entry);
            return;
        }
        let outputs = draw.nth(2).between(1, LEAVES_WITHIN) as u32;
        self.machines[node as usize].strike = Some(Strike { entry, outputs, down: None });
    }

    /// Whoever is the next to tell others that a transaction is committed leaves before it has: they have promised
    /// it, and nobody is left who knows.
    pub(super) fn departs_before(&mut self, node: u32, output: &Output) {
        use coordinator::Message::Transaction;
        if self.departs.is_none() || node == 0 || self.healed {
            return;
        }
        let machine = &self.machines[node as usize];
        let stays = machine.drains || machine.process.is_none() || machine.stalled > self.now;
        if let Output::Send { to, message: Message::Transaction(Transaction(told)) } = output
            && matches!(told, twopc::Message::Commit { .. })
            && *to != NodeName::numbered(u64::from(node))
            && !stays
            && let Some(entry) = self.departs
        {
            if self.can_be_spared(node) {
                self.departs = None;
                self.strike(node, entry, None);
            } else if self.spared.insert((entry.number, node)) {
                *self.totals.faults.entry("nodes that a file could not spare").or_default() += 1;
            }
        }
    }

    /// Whether the network promises to go on without a node. Whoever tells what is committed is at work on a file that
    /// has lost somebody, and its neighbours take over from it: who strikes such nodes only would have all keepers of a
    /// file one after the other, faster than anybody is known to be dead. What is promised is that a file outlives all
    /// but one of those who have its newest record, and all but as many of its holders as it takes to decode it.
    fn can_be_spared(&self, node: u32) -> bool {
        let name = NodeName::numbered(u64::from(node));
        let machine = &self.machines[node as usize];
        let shards = machine.shards.shards().map(|(digest, _)| digest);
        let kept = machine.process.iter().flat_map(|process| process.node.records());
        let named = kept.filter_map(|record| Some(record.shards().next()?.2.digest));
        let files: BTreeSet<u32> =
            shards.chain(named).filter_map(|digest| self.judge.file_of(digest)).collect();
        files.into_iter().filter(|file| self.judge.is_stored(*file)).all(|file| {
            let called = self.files[file as usize].name;
            let records = self.nodes().filter_map(|node| node.record(called));
            let Some(record) = records.max_by_key(|record| record.version) else { return true };
            let others = record.keepers.iter().filter(|keeper| **keeper != name);
            let has_it = |keeper: &NodeName| {
                let there = self.machines[keeper.number() as usize].process.as_ref();
                there
                    .and_then(|it| it.node.record(called))
                    .is_some_and(|it| it.version == record.version)
            };
            let needed = usize::from(record.manifest.scheme().data());
            let mut right: BTreeMap<u32, usize> = BTreeMap::new();
            for (stripe, _, shard, holder) in record.shards() {
                let stays = holder != name && self.has_at(holder, shard.digest);
                *right.entry(stripe.chunk).or_default() += usize::from(stays);
            }
            others.copied().any(|keeper| has_it(&keeper))
                && right.values().all(|right| *right >= needed)
        })
    }

    /// Whether a node that leaves in order has done so: then it goes, and nothing may be missed. One that
    /// takes too long goes without.
    pub(super) fn drain(&mut self, node: u32, process: u32, since: Time) {
        if self.machines[node as usize].drained {
            let taken = (self.now - since).as_secs();
            self.totals.drained.0 += 1;
            self.totals.drained.1 = self.totals.drained.1.max(taken);
            let named = self.named_at(node);
            if !named.is_empty() {
                let what = format!("n{node} said that it has left, and records name it: {named:?}");
                self.judge.object("S8", self.now, what);
            }
            *self.totals.faults.entry("nodes left in order").or_default() += 1;
            self.goes(node);
        } else if since + DRAIN_MAX <= self.now {
            *self.totals.faults.entry("nodes left before they might").or_default() += 1;
            self.goes(node);
        } else {
            // After a restart it has to be told again.
            let up = self.machines[node as usize].process.as_ref().map(|up| up.id);
            if let Some(id) = up.filter(|id| *id != process) {
                self.feed(node, id, Input::Request(Request::Leave { number: 0 }));
            }
            let process = up.unwrap_or(process);
            self.schedule(self.now + LOOK_PAUSE, node, Event::Drain { process, since });
        }
    }

    /// The files whose current records name a node.
    fn named_at(&self, node: u32) -> Vec<u32> {
        let name = NodeName::numbered(u64::from(node));
        let mut newest: BTreeMap<Digest, &network::FileRecord> = BTreeMap::new();
        for record in self.nodes().flat_map(StorageNode::records) {
            match newest.get(&record.file) {
                Some(other) if other.version >= record.version => {}
                _ => drop(newest.insert(record.file, record)),
            }
        }
        let names = |record: &&network::FileRecord| {
            record.keepers.contains(&name) || record.holders.iter().flatten().any(|at| *at == name)
        };
        let shard = |record: &network::FileRecord| record.shards().next();
        let named = newest.values().filter(|record| names(record)).filter_map(|it| shard(it));
        named.filter_map(|(.., shard, _)| self.judge.file_of(shard.digest)).collect()
    }

    /// A node is gone for good with all that it has, and another one joins.
    pub(super) fn goes(&mut self, node: u32) {
        self.befell(Some(node), || format!("n{node} is gone"));
        self.happened(|| Happening::Stopped { node, reason: "it is gone for good".to_owned() });
        let lost: Vec<Digest> =
            self.machines[node as usize].shards.shards().map(|(digest, _)| digest).collect();
        let machine = &self.machines[node as usize];
        self.machines[node as usize] = Machine {
            gone: true,
            boots: machine.boots,
            moved: machine.moved,
            ..Machine::default()
        };
        for digest in lost {
            self.hurt_one(digest, "lost with its node");
        }
        self.comes(Machine::default());
    }

    pub(super) fn join(&mut self, number: u32) {
        if self.healed {
            return;
        }
        let full = number < self.scenario.faults.full;
        let what = if full { "nodes joined without room" } else { "nodes joined" };
        *self.totals.faults.entry(what).or_default() += 1;
        self.comes(Machine { full, ..Machine::default() });
    }

    fn comes(&mut self, machine: Machine) {
        let new = self.machines.len() as u32;
        self.befell(Some(new), || format!("n{new} comes"));
        self.machines.push(machine);
        self.schedule(self.now + Duration::from_secs(1), new, Event::Start);
    }
}
