//! Disks: of logs, on which syncs take time and may fail, and of shards.

use super::World;
use super::agenda::Event;
use super::machine::LEDGER;
use crate::disk::Reach;
use crate::net::nanos;
use crate::storage::disk::ShardDisk;
use crate::storage::plan;
use network::{Input, ShardDone};
use node::LogSlot;
use std::io;
use std::time::Duration;
use wal_core::{DiskError, DiskOp, SegmentId};

/// A process that stopped is started again after this long.
const DIED_PAUSE: Duration = Duration::from_millis(50);

impl World<'_> {
    pub(super) fn flush(
        &mut self,
        node: u32,
        id: u32,
        lane: usize,
        ops: Vec<DiskOp>,
        heard: &mut Vec<Input>,
    ) {
        let Some(process) = self.process(node, id) else { return };
        let at = &mut process.lanes[lane];
        assert!(!at.busy, "a log has one flush in flight");
        (at.busy, at.ops) = (true, ops.into());
        heard.extend(self.lane_goes_on(node, id, lane));
    }

    /// Performs a log's operations until a sync has to be waited for; what the node is told at their end.
    fn lane_goes_on(&mut self, node: u32, id: u32, lane: usize) -> Option<Input> {
        let machine = &mut self.machines[node as usize];
        let process = machine.process.as_mut().filter(|process| process.id == id)?;
        let at = &mut process.lanes[lane];
        let disk = &mut machine.disks.0[lane];
        let told = |result: Result<(), DiskError>| match lane {
            0 => Input::Flushed { slot: LogSlot::Coordinator, result },
            1 => Input::Flushed { slot: LogSlot::Participant, result },
            _ => Input::LedgerFlushed(result),
        };
        while let Some(op) = at.ops.pop_front() {
            let syncs = match op {
                DiskOp::Sync(segment) => Some(Some(segment)),
                DiskOp::SyncDirectory => Some(None),
                op => {
                    if let Err(error) = disk.perform(op) {
                        at.ops.clear();
                        at.busy = false;
                        return Some(told(Err(error)));
                    }
                    None
                }
            };
            if let Some(segment) = syncs {
                at.syncing = Some((segment, disk.begin_sync()));
                machine.syncs += 1;
                let (low, high) = nanos(self.scenario.disk.sync);
                let key = self.root.child("sync").keyed(u64::from(node) << 2 | lane as u64);
                let takes = key.draw(machine.syncs, 0).between(low, high);
                let at = self.now + Duration::from_nanos(takes);
                self.flushes[lane].observe(Duration::from_nanos(takes));
                self.schedule(at, node, Event::SyncDone { process: id, lane });
                return None;
            }
        }
        at.busy = false;
        Some(told(Ok(())))
    }

    pub(super) fn sync_done(&mut self, node: u32, id: u32, lane: usize) {
        let machine = &mut self.machines[node as usize];
        let Some(process) = machine.process.as_mut().filter(|process| process.id == id) else {
            return;
        };
        let Some((segment, reach)) = process.lanes[lane].syncing.take() else { return };
        if let Some(entry) = machine.sync_fails.take() {
            return self.sync_fails(node, id, lane, (segment, reach), entry);
        }
        match segment {
            Some(segment) => machine.disks.0[lane].synced(segment, reach),
            None => machine.disks.0[lane].directory_synced(reach),
        }
        if let Some(input) = self.lane_goes_on(node, id, lane) {
            self.feed(node, id, input);
        }
    }

    /// A sync has failed: what it was to reach meets the fates of a power failure, and nobody says so again.
    fn sync_fails(
        &mut self,
        node: u32,
        id: u32,
        lane: usize,
        (segment, reach): (Option<SegmentId>, Reach),
        entry: plan::Entry,
    ) {
        self.befell(Some(node), || format!("{entry}: of a log of n{node}"));
        *self.totals.faults.entry("syncs failed").or_default() += 1;
        let key = self.root.child("sync.fails").keyed(u64::from(node) << 2 | lane as u64);
        let fates = self.scenario.disk.fates();
        let machine = &mut self.machines[node as usize];
        let syncs = machine.syncs;
        if let Some(segment) = segment {
            let dropped = key.draw(syncs, u64::MAX).below(2) == 0;
            let draw = |serial| key.draw(syncs, serial);
            machine.disks.0[lane].sync_failed(segment, reach, dropped, fates, draw);
        }
        let Some(process) = machine.process.as_mut().filter(|process| process.id == id) else {
            return;
        };
        process.stricken = true;
        let at = &mut process.lanes[lane];
        at.ops.clear();
        at.busy = false;
        let result = Err(io::Error::other("the sync fails").into());
        let input = match lane {
            LEDGER => Input::LedgerFlushed(result),
            0 => Input::Flushed { slot: LogSlot::Coordinator, result },
            _ => Input::Flushed { slot: LogSlot::Participant, result },
        };
        self.feed(node, id, input);
    }

    /// A process cannot go on with one of its logs: it is started again, if it had a reason to stop.
    pub(super) fn died(&mut self, node: u32, reason: &str) {
        let process = self.machines[node as usize].process.as_ref();
        if process.is_some_and(|process| process.stricken) {
            self.befell(Some(node), || format!("n{node} stops: {reason}"));
            return self.crash(node, false, Some(DIED_PAUSE));
        }
        let what = format!("n{node} stops without need: {reason}");
        self.judge.object("process", self.now, what);
    }

    pub(super) fn shard_later(&mut self, node: u32, id: u32) {
        let machine = &mut self.machines[node as usize];
        machine.shard_ops += 1;
        let key = self.root.child("shard.disk").keyed(u64::from(node));
        let mut takes =
            Self::between(key.draw(machine.shard_ops, 0), self.scenario.storage.shard_disk);
        if machine.slow && !self.healed {
            takes *= 1_000;
        }
        self.schedule(self.now + takes, node, Event::ShardDone { process: id });
    }

    pub(super) fn shard_done(&mut self, node: u32, id: u32) {
        if self.process(node, id).is_none() {
            return;
        }
        let now = self.now;
        let machine = &mut self.machines[node as usize];
        let removes = machine.shards.next_removal();
        let done = machine.shards.done(now);
        match &done {
            Some(ShardDone::Written { digest, .. }) => drop(machine.removed.remove(digest)),
            _ => machine.removed.extend(removes),
        }
        if let Some(digest) = removes {
            self.hurt_one(digest, "removed");
        }
        if self.machines[node as usize].shards.is_busy() {
            self.shard_later(node, id);
        }
        if let Some(done) = done {
            if let ShardDone::Loaded { .. } = done {
                self.trace.word(u64::from(node));
            }
            self.feed(node, id, Input::Shards(done));
        }
    }

    /// The disks of all nodes that have not left.
    pub(super) fn disks(&self) -> Vec<(u32, &ShardDisk)> {
        let there = (0u32..).zip(&self.machines).filter(|(_, machine)| !machine.gone);
        there.map(|(node, machine)| (node, &machine.shards)).collect()
    }
}
