//! The lanes in which processes' disk operations are performed, one behind the other; syncs take time.

use super::agenda::What;
use super::ailing::io_error;
use super::{Machine, Syncing, World, find};
use crate::disk::Losses;
use node::{Input, LogSlot};
use std::time::Duration;
use wal_core::{DiskError, DiskOp, OpenMode};

/// What one log's disk has still to do for a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    pub(super) ops: Option<std::vec::IntoIter<DiskOp>>,
    syncing: Option<Syncing>,
    /// Whether the log's lock was had when it was last asked for, at an epoch check.
    pub(super) locked: bool,
}

impl World<'_> {
    // ---- disks ----

    /// Performs a log's disk operations in order, until a sync has to be waited for. The result,
    /// once the last is done or one has failed.
    pub(super) fn disk_goes_on(
        &mut self,
        node: u32,
        id: u32,
        slot: LogSlot,
    ) -> Option<Result<(), DiskError>> {
        loop {
            let watched = self.is_watched(node);
            if watched {
                self.signals_next_op(node, id, slot);
            }
            let Machine { process, zombies, disks, syncs, recycled_behind, ails, .. } =
                &mut self.machines[node as usize];
            let replaced = process.as_ref().is_some_and(|process| process.id != id);
            // The lock is the oldest process's, as long as that lives.
            let older = process.iter().chain(zombies.iter()).any(|other| other.id < id);
            let process = find(process, zombies, id)?;
            let lane = &mut process.lanes[slot as usize];
            if process.paused || lane.syncing.is_some() {
                return None;
            }
            let disk = &mut disks.0[slot as usize];
            let ops = lane.ops.as_mut()?;
            let segment = loop {
                let Some(op) = ops.next() else {
                    lane.ops = None;
                    return Some(Ok(()));
                };
                self.trace.word(OpKind::of(&op) as u64);
                if let DiskOp::CheckEpoch { .. } = op {
                    lane.locked = !older;
                }
                match op {
                    DiskOp::Sync(segment) => break Some(Some(segment)),
                    DiskOp::SyncDirectory => break Some(None),
                    DiskOp::Retire(_) | DiskOp::Blank(_) if !lane.locked => {}
                    op => {
                        let (retires, blanks) =
                            (matches!(op, DiskOp::Retire(_)), matches!(op, DiskOp::Blank(_)));
                        self.counters.segments_recycled += u64::from(retires);
                        recycled_behind[slot as usize] |= retires && replaced;
                        let refused = ails.as_mut().and_then(|ails| ails.refuses(&op, disk));
                        if let Some((entry, error)) = refused {
                            lane.ops = None;
                            process.stricken = true;
                            self.took_effect(entry);
                            return Some(Err(error));
                        }
                        let done = disk.perform(op);
                        if blanks && self.mode == OpenMode::TakeOver {
                            disk.reuse_nothing();
                        }
                        if done.is_err() {
                            lane.ops = None;
                            return Some(done);
                        }
                    }
                }
                if watched {
                    break None;
                }
            };
            if let Some(segment) = segment {
                lane.syncing = Some(Syncing { segment, reach: disk.begin_sync() });
                *syncs += 1;
                let draw = self.disk_key.draw(u64::from(node) << 1 | slot as u64, *syncs);
                let mut at =
                    self.now + Duration::from_nanos(draw.between(self.sync.0, self.sync.1));
                let stalls = ails.as_ref().map_or(&[][..], |ails| &ails.stalls);
                if let Some((entry, until)) = stalls.iter().max_by_key(|(_, until)| *until)
                    && *until > at
                {
                    at = *until;
                    let entry = *entry;
                    self.took_effect(entry);
                }
                self.counters.syncs += 1;
                self.flushes[slot as usize].observe(at.since(self.now));
                self.agenda.schedule(at, node, What::SyncDone { process: id, slot });
                return None;
            }
        }
    }

    /// A fault may strike before the next disk operation of a log.
    fn signals_next_op(&mut self, node: u32, id: u32, slot: LogSlot) {
        let Some(process) = self.machines[node as usize].process(id) else { return };
        let lane = &process.lanes[slot as usize];
        if process.paused || lane.syncing.is_some() {
            return;
        }
        let next = lane.ops.as_ref().and_then(|ops| ops.as_slice().first());
        if let Some(kind) = next.map(OpKind::of) {
            self.signals_op(node, id, slot, kind);
        }
    }

    pub(super) fn sync_done(&mut self, node: u32, id: u32, slot: LogSlot) {
        let moment = self.moment();
        let machine = &mut self.machines[node as usize];
        let Some(process) = machine.process(id) else { return };
        let Some(sync) = process.lanes[slot as usize].syncing.take() else { return };
        if machine.ails.as_ref().is_some_and(|ails| !ails.sync_errors.is_empty()) {
            self.sync_fails(node, id, slot, sync);
            return;
        }
        let disk = &mut machine.disks.0[slot as usize];
        match sync.segment {
            Some(segment) => {
                disk.synced(segment, sync.reach);
                let disk = disk.durable();
                for judge in &mut self.judges {
                    judge.synced(moment, node, slot, segment, disk, &mut self.findings);
                }
            }
            None => disk.directory_synced(sync.reach),
        }
        if let Some(result) = self.disk_goes_on(node, id, slot) {
            self.feed(node, id, Input::Flushed { slot, result });
        }
    }

    /// A sync has failed: what it was to reach meets the fates of a power failure, and nobody says so
    /// again.
    fn sync_fails(&mut self, node: u32, id: u32, slot: LogSlot, sync: Syncing) {
        let fates = self.fates;
        let key = self.disk_key.child("failure").keyed(u64::from(node) << 1 | slot as u64);
        let machine = &mut self.machines[node as usize];
        let syncs = machine.syncs;
        let entry = machine.ails.as_mut().and_then(|ails| ails.sync_errors.pop());
        if let Some(segment) = sync.segment {
            let dropped = key.draw(syncs, u64::MAX).below(2) == 0;
            let disk = &mut machine.disks.0[slot as usize];
            let draw = |serial| key.draw(syncs, serial);
            let losses = disk.sync_failed(segment, sync.reach, dropped, fates, draw);
            self.counters.disk_losses(losses);
            if losses != Losses::default() {
                // Whoever has just read there sees it change.
                let all = machine.process.iter_mut().chain(&mut machine.zombies);
                all.for_each(|process| process.stricken = true);
            }
        }
        if let Some(process) = machine.process(id) {
            process.stricken = true;
            process.lanes[slot as usize].ops = None;
        }
        if let Some(entry) = entry {
            self.took_effect(entry);
        }
        let result = Err(io_error("the sync fails").into());
        self.feed(node, id, Input::Flushed { slot, result });
    }
}

/// Which log's flush is done, if that is what the input says.
pub(super) fn flushed_slot(input: &Input) -> Option<LogSlot> {
    match input {
        Input::Flushed { slot, result: Ok(()) } => Some(*slot),
        _ => None,
    }
}

/// The kinds of disk operation, for traces and triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum OpKind {
    Create = 1,
    Write,
    Sync,
    SyncDirectory,
    Truncate,
    CheckEpoch,
    Retire,
    Blank,
}

impl OpKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::SyncDirectory => "sync directory",
            Self::Truncate => "truncate",
            Self::CheckEpoch => "check epoch",
            Self::Retire => "retire",
            Self::Blank => "blank",
        }
    }

    pub(super) fn of(op: &DiskOp) -> OpKind {
        match op {
            DiskOp::Create(_) => Self::Create,
            DiskOp::Write { .. } => Self::Write,
            DiskOp::Sync(_) => Self::Sync,
            DiskOp::SyncDirectory => Self::SyncDirectory,
            DiskOp::Truncate { .. } => Self::Truncate,
            DiskOp::CheckEpoch { .. } => Self::CheckEpoch,
            DiskOp::Retire(_) => Self::Retire,
            DiskOp::Blank(_) => Self::Blank,
        }
    }
}
