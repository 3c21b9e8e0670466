//! Faults: when they are due, whom they strike, and how they end.

use super::agenda::{Cargo, Event, Strike};
use super::clients::LEDGER_PAUSE;
use super::outcome::add_moves;
use super::{LOOK_PAUSE, Phase, World};
use crate::net::REGIONS;
use crate::plan::NodeSet;
use crate::recording::Happening;
use crate::scenario::Between;
use crate::storage::judge::is_right;
use crate::storage::plan::{self, Kind};
use crate::storage::scenario::{Faults, Storage};
use base::{NodeName, Time};
use network::{Message, Output};
use std::collections::BTreeMap;
use std::time::Duration;
use store::Digest;

/// How long after clients have begun to ask the ledger is busy with them.
const LEDGER_ASKED: Between = Between(Duration::ZERO, Duration::from_secs(2));
/// The kind of a message that tells what locks guard.
const VALUE: u8 = 20;

impl World<'_> {
    /// Crashes and partitions are drawn at the beginning, each by its number.
    pub(super) fn plan_crashes(&mut self) {
        let Faults { power_losses, process_crashes, partitions, crash_window, down, .. } =
            self.scenario.faults.clone();
        let nodes = u64::from(self.scenario.storage.nodes);
        let kinds = [
            ("power", Kind::PowerLoss, power_losses),
            ("process", Kind::ProcessCrash, process_crashes),
        ];
        for (name, kind, count) in kinds {
            let key = self.root.child("crash").child(name);
            for number in self.plan.numbers(kind, count) {
                let draw = key.draw(u64::from(number), 0);
                let at = Time::ZERO + Self::between(draw, crash_window);
                let node = draw.nth(1).below(nodes) as u32;
                let outputs = draw.nth(2).between(1, 60) as u32;
                let down = Self::between(draw.nth(3), down);
                let entry = plan::Entry { kind, number };
                self.schedule(at, node, Event::Crash(Strike { entry, outputs, down: Some(down) }));
            }
        }
        let key = self.root.child("crash").child("ledger");
        for number in self.plan.numbers(Kind::LedgerLoss, self.scenario.faults.ledger_losses) {
            let draw = key.draw(u64::from(number), 0);
            let at = self.begin() + Self::between(draw, LEDGER_ASKED);
            let outputs = draw.nth(1).between(1, 60) as u32;
            let down = Self::between(draw.nth(2), down);
            let entry = plan::Entry { kind: Kind::LedgerLoss, number };
            self.schedule(at, 0, Event::Crash(Strike { entry, outputs, down: Some(down) }));
        }
        let key = self.root.child("sync.error");
        for number in self.plan.numbers(Kind::SyncError, self.scenario.faults.sync_errors) {
            let draw = key.draw(u64::from(number), 0);
            let at = Time::ZERO + Self::between(draw, crash_window);
            let node = draw.nth(1).below(nodes) as u32;
            let entry = plan::Entry { kind: Kind::SyncError, number };
            self.schedule(at, node, Event::SyncFails(entry));
        }
        let Storage { locks, lockers, .. } = self.scenario.storage;
        let often = u64::from(locks * lockers).max(1);
        let key = self.root.child("holder");
        for number in self.plan.numbers(Kind::HolderStall, self.scenario.faults.holder_stalls) {
            let draw = key.child("stall").draw(u64::from(number), 0);
            let lasts = Self::between(draw.nth(1), self.scenario.faults.stall);
            let entry = plan::Entry { kind: Kind::HolderStall, number };
            self.stalls.insert(draw.between(1, often), (entry, lasts));
        }
        for number in self.plan.numbers(Kind::HolderCrash, self.scenario.faults.holder_crashes) {
            let draw = key.child("crash").draw(u64::from(number), 0);
            let down = Self::between(draw.nth(1), self.scenario.faults.down);
            let entry = plan::Entry { kind: Kind::HolderCrash, number };
            self.holder_crashes.insert(draw.between(1, 2 * often), (entry, down));
        }
        let key = self.root.child("partition");
        for number in self.plan.numbers(Kind::Partition, partitions) {
            let draw = key.draw(u64::from(number), 0);
            let at = Time::ZERO + Self::between(draw, crash_window);
            let lasts = Self::between(draw.nth(1), down);
            self.schedule(at, 0, Event::Partition { number, lasts });
        }
    }

    pub(super) fn plan_faults(&mut self) {
        let Faults { rot, window, region, liars, disputes, spend_twice, .. } =
            self.scenario.faults.clone();
        let key = self.root.child("faults");
        for number in self.plan.numbers(Kind::Rot, rot) {
            let at = self.now + Self::between(key.child("rot").draw(u64::from(number), 0), window);
            self.schedule(at, 0, Event::Rot { number });
        }
        if let Some(region) = region {
            let lasts = window.1 - window.0;
            self.schedule(self.now + window.0, 0, Event::CutRegion { region, lasts });
        }
        for number in self.plan.numbers(Kind::Leave, plan::leaving(self.scenario)) {
            let draw = key.child("churn").draw(u64::from(number), 0);
            let after = draw.below(self.scenario.storage.lasts.0.as_nanos() as u64);
            let at = self.now + Duration::from_nanos(after);
            self.schedule(at, 0, Event::Leave { number });
        }
        for number in self.plan.numbers(Kind::Join, self.scenario.faults.joins) {
            let draw = key.child("join").draw(u64::from(number), 0);
            let after = draw.below(self.scenario.storage.lasts.0.as_nanos() as u64);
            self.schedule(self.now + Duration::from_nanos(after), 0, Event::Join { number });
        }
        if disputes.is_some() {
            self.schedule(self.now + window.1, 0, Event::Ledger { stage: 0 });
            self.schedule(self.now + window.1 + LEDGER_PAUSE, 0, Event::Ledger { stage: 1 });
        }
        if spend_twice {
            self.schedule(self.now, 0, Event::Ledger { stage: 2 });
            self.schedule(self.now + LEDGER_PAUSE, 0, Event::Ledger { stage: 3 });
        }
        for number in self.plan.numbers(Kind::Download, self.scenario.storage.downloads) {
            let draw = key.child("download").draw(u64::from(number), 0);
            let after = draw.below(self.scenario.storage.lasts.0.as_nanos() as u64);
            let at = self.now + Duration::from_nanos(after);
            self.schedule(at, 0, Event::Download { number });
        }
        let after = self.scenario.faults.liars_after.0;
        for liar in self.plan.numbers(Kind::Liar, liars) {
            // Not the authority.
            let node = 1 + liar;
            if after.is_zero() {
                self.turn_liar(node);
            } else {
                self.schedule(self.now + after, node, Event::Lie);
            }
        }
    }

    /// Whoever has just read under its locks stands still, before it hears what it has read.
    pub(super) fn stall_at(&mut self, node: u32, event: &Event) {
        let Event::Arrives { cargo: Cargo::Bytes(bytes), .. } = event else { return };
        // Whether there are stalls is looked at first: every message comes here.
        if self.stalls.is_empty() || self.healed {
            return;
        }
        let machine = &mut self.machines[node as usize];
        if bytes.first() != Some(&VALUE) || machine.stalled > self.now || machine.process.is_none()
        {
            return;
        }
        self.under_locks[0] += 1;
        if let Some((entry, lasts)) = self.stalls.remove(&self.under_locks[0]) {
            machine.stalled = self.now + lasts;
            *self.totals.faults.entry("holders stood still").or_default() += 1;
            self.befell(Some(node), || format!("{entry}: n{node} stands still for {lasts:?}"));
        }
    }

    /// Whoever asks for a write under its locks loses its power before.
    pub(super) fn holder_crashes_before(&mut self, node: u32, output: &Output) {
        let Output::Send { message: Message::Transaction(message), .. } = output else { return };
        let node::Message::Transaction(twopc::Message::Prepare { work, .. }) = message else {
            return;
        };
        if self.holder_crashes.is_empty()
            || self.healed
            || !matches!(network::work::Work::decode(work), Ok(network::work::Work::Guarded { .. }))
        {
            return;
        }
        self.under_locks[1] += 1;
        if let Some((entry, down)) = self.holder_crashes.remove(&self.under_locks[1]) {
            *self.totals.faults.entry("holders lost their power").or_default() += 1;
            self.befell(Some(node), || format!("{entry}: n{node}, which is down for {down:?}"));
            self.crash(node, true, Some(down));
        }
    }

    pub(super) fn part(&mut self, number: u32, lasts: Duration) {
        if self.healed {
            return;
        }
        let nodes = self.scenario.storage.nodes;
        let mut stream = self.root.child("partition.of").keyed(u64::from(number)).stream();
        let set = if stream.below(2) == 0 {
            NodeSet::Region(stream.below(u64::from(REGIONS)) as u32)
        } else {
            let few = (nodes / 3).max(1);
            NodeSet::Nodes(stream.distinct(few, nodes))
        };
        self.net.block(number, None, set.clone(), NodeSet::Rest);
        self.befell(None, || format!("partition {number}: {set:?} cut off for {lasts:?}"));
        if stream.below(3) > 0 {
            self.net.block(number, None, NodeSet::Rest, set);
        }
        *self.totals.faults.entry("partitions").or_default() += 1;
        self.schedule(self.now + lasts, 0, Event::Unite { number });
    }

    /// A bit of some shard's copy changes, if its stripe can spare it.
    pub(super) fn rot(&mut self, number: u32) {
        if self.healed {
            return;
        }
        let key = self.root.child("rot.which").keyed(u64::from(number));
        let few = self.scenario.faults.rot_nodes;
        let mut all: Vec<(u32, Digest)> = Vec::new();
        for (node, disk) in self.disks() {
            if few == 0 || node < few {
                all.extend(disk.shards().map(|(digest, _)| (node, digest)));
            }
        }
        for attempt in 0..64 {
            if all.is_empty() {
                return;
            }
            let draw = key.draw(attempt, 0);
            let (node, digest) = all[draw.below(all.len() as u64) as usize];
            let spare = self.spare(digest);
            // What has rotted already is left alone, so that each strike counts.
            if self.hurt.contains(&digest) || spare == 0 {
                continue;
            }
            if self.machines[node as usize].shards.rot(digest, draw.nth(1)) {
                self.hurt.insert(digest);
                *self.totals.faults.entry("shards rotted").or_default() += 1;
                let file = self.judge.file_of(digest);
                self.befell(Some(node), || match file {
                    Some(file) => format!("rot {number}: a shard of file {file} at n{node}"),
                    None => format!("rot {number}: a shard of no file at n{node}"),
                });
                self.trace.word(u64::from(node));
                return self.hurt_one(digest, "rotted");
            }
        }
    }

    /// How many more shards of a shard's stripe may be hurt: a copy that no record names is none, and a shard
    /// of which a copy is bad is not there. That copy may be the one that the next version names.
    fn spare(&self, digest: Digest) -> usize {
        let named = self.judge.file_of(digest).and_then(|file| {
            let name = self.files[file as usize].name;
            let records = self.nodes().filter_map(|node| node.record(name));
            records.max_by_key(|record| record.version)
        });
        let Some(record) = named else { return 0 };
        let holders: BTreeMap<Digest, NodeName> =
            record.shards().map(|(.., shard, node)| (shard.digest, node)).collect();
        let right = |digest| {
            let copies = self.lay.get(&digest).into_iter().flatten();
            let mut copies =
                copies.filter_map(|node| self.machines[*node as usize].shards.read(digest));
            holders.get(&digest).is_some_and(|node| self.has_at(*node, digest))
                && copies.all(|bytes| is_right(digest, Some(bytes)))
        };
        self.judge.spare(digest, record.manifest.scheme(), &right)
    }

    pub(super) fn strike(&mut self, node: u32, entry: plan::Entry, down: Option<Duration>) {
        let Some(down) = down else {
            self.check_repairs(node);
            *self.totals.faults.entry("nodes left without a word").or_default() += 1;
            self.befell(Some(node), || format!("{entry}: n{node} leaves without a word"));
            return self.goes(node);
        };
        self.befell(Some(node), || format!("{entry}: n{node}, which is down for {down:?}"));
        self.crash(node, entry.kind != Kind::ProcessCrash, Some(down));
    }

    pub(super) fn crash(&mut self, node: u32, power: bool, down: Option<Duration>) {
        self.check_repairs(node);
        self.happened(|| Happening::Crashed { node, power });
        if let Some(process) = &self.machines[node as usize].process {
            add_moves(&mut self.totals, process.node.stats());
        }
        let machine = &mut self.machines[node as usize];
        machine.strike = None;
        machine.process = None;
        machine.stalled = Time::ZERO;
        machine.failures += 1;
        let key = self.root.child("power").keyed(u64::from(node));
        if power {
            let fates = self.scenario.disk.fates();
            for (lane, disk) in (0u64..).zip(&mut machine.disks.0) {
                disk.power_fails(fates, &key, lane, machine.failures);
            }
        }
        machine.shards.fails(self.now, power, key.draw(1 << 40, machine.failures));
        self.totals.crashes += 1;
        self.trace.word(u64::from(node) | 1 << 41);
        if let Some(down) = down {
            self.schedule(self.now + down, node, Event::Start);
        }
    }

    /// Faults end; what is down comes back.
    pub(super) fn heal(&mut self) {
        self.befell(None, || "all faults end".to_owned());
        self.healed = true;
        self.net.heal();
        self.phase = Phase::Resting;
        self.rest_by = self.now + self.scenario.storage.budget.0;
        for node in 0..self.machines.len() as u32 {
            self.machines[node as usize].strike = None;
            self.machines[node as usize].sync_fails = None;
            if self.machines[node as usize].process.is_none() {
                self.schedule(self.now, node, Event::Start);
            }
        }
        self.schedule(self.now + LOOK_PAUSE, 0, Event::Look);
    }
}
