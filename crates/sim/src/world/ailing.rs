//! What goes wrong with a node's disks and its clock, besides what a crash does to what is unsynced.

use super::{LogSlot, NodeDisks};
use crate::disk::SimDisk;
use crate::scenario::{Clocks, Span};
use base::Time;
use base::prng::Key;
use std::io;
use wal_core::{Directory, DiskError, DiskOp, SegmentId};

/// The disk faults that wait or last at a node, each by its entry in the plan.
#[derive(Clone, Debug, Default)]
pub(super) struct Ailing {
    /// Syncs that are to fail.
    pub sync_errors: Vec<u32>,
    /// Writes that are to fail, and whether a part of each is written.
    pub write_errors: Vec<(u32, bool)>,
    /// While there is one, nothing can be read.
    pub read_errors: Vec<u32>,
    /// While there is one, there is no room.
    pub full: Vec<u32>,
    /// While there is one, there is no room for another segment of its logs, and the node is told.
    pub confined: Vec<u32>,
    /// No sync is done before that.
    pub stalls: Vec<(u32, Time)>,
    /// Bits that have changed: which log, where.
    pub rotten: Vec<(LogSlot, SegmentId, u64)>,
}

impl Ailing {
    /// Why an operation fails, and which entry is the cause; it may have been performed in part.
    pub fn refuses(&mut self, op: &DiskOp, disk: &mut SimDisk) -> Option<(u32, DiskError)> {
        if let Some(entry) = self.full.first()
            && disk.takes_room(op)
        {
            return Some((*entry, io::Error::from(io::ErrorKind::StorageFull).into()));
        }
        let DiskOp::Write { segment, offset, bytes } = op else { return None };
        let (entry, short) = self.write_errors.pop()?;
        if short {
            let bytes = bytes[..bytes.len() / 2].to_vec();
            let part = DiskOp::Write { segment: *segment, offset: *offset, bytes };
            // What fails now fails all the more.
            let _ = disk.perform(part);
        }
        Some((entry, io_error("the write fails").into()))
    }

    /// A fault that lasts is over.
    pub fn ends(&mut self, entry: u32) {
        self.read_errors.retain(|lasts| *lasts != entry);
        self.full.retain(|lasts| *lasts != entry);
        self.confined.retain(|lasts| *lasts != entry);
        self.stalls.retain(|(lasts, _)| *lasts != entry);
    }

    /// Everything is as it should be again, but for what has rotted.
    pub fn heals(&mut self) {
        *self = Ailing { rotten: std::mem::take(&mut self.rotten), ..Ailing::default() };
    }

    /// Whether a log has a changed bit in what it still holds.
    pub fn has_rotten(&self, disks: &NodeDisks) -> bool {
        self.rotten.iter().any(|(slot, segment, _)| disks.0[*slot as usize].holds(*segment))
    }
}

pub(super) fn io_error(what: &'static str) -> io::Error {
    io::Error::other(what)
}

/// A disk of which nothing can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable;

impl Directory for Unreadable {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        Err(io_error("the directory cannot be read"))
    }

    fn len(&self, _: SegmentId) -> io::Result<u64> {
        Err(io_error("the file cannot be read"))
    }

    fn read_at(&self, _: SegmentId, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Err(io_error("the file cannot be read"))
    }
}

/// How a node's clock runs, against the world's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeClock {
    /// So much faster, in millionths; slower if below zero.
    pub rate: i32,
    /// It has gone forward by so much at once, in nanoseconds.
    pub ahead: u64,
    /// By so many milliseconds its calendar is off.
    pub calendar_ms: i64,
}

const MILLION: i128 = 1_000_000;

impl NodeClock {
    /// What it shows.
    #[inline]
    pub fn shows(&self, now: Time) -> Time {
        if self.rate == 0 {
            return Time::from_nanos(now.as_nanos().saturating_add(self.ahead));
        }
        let nanos = i128::from(now.as_nanos());
        let shown = nanos * (MILLION + i128::from(self.rate)) / MILLION + i128::from(self.ahead);
        Time::from_nanos(u64::try_from(shown).unwrap_or(u64::MAX))
    }

    /// The first moment at which it shows this or more.
    #[inline]
    pub fn comes_to(&self, shown: Time) -> Time {
        if self.rate == 0 && self.ahead == 0 {
            return shown;
        }
        let behind = i128::from(shown.as_nanos().saturating_sub(self.ahead));
        let rate = MILLION + i128::from(self.rate);
        // Rounded up: what it shows is rounded down.
        let nanos = (behind * MILLION + rate - 1) / rate;
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Clocks {
    /// A node's clock, as it is at first.
    pub(super) fn of(&self, root: &Key, node: u32) -> NodeClock {
        if self.offset == Span::default() && self.drift_ppm == 0 {
            return NodeClock::default();
        }
        let draw = root.child("clock").draw(u64::from(node), 0);
        let most = i64::try_from(self.offset.0.as_millis()).unwrap_or(i64::MAX / 2);
        let around = |most: i64, nth| {
            if most == 0 { 0 } else { draw.nth(nth).below(2 * most as u64 + 1) as i64 - most }
        };
        let rate = around(i64::from(self.drift_ppm), 1) as i32;
        NodeClock { rate, ahead: 0, calendar_ms: around(most, 2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_comes_to_what_it_shows_and_never_earlier() {
        for rate in [-200_000, -37, 0, 1, 99_999] {
            for ahead in [0, 7, 3_000_000_000] {
                let clock = NodeClock { rate, ahead, calendar_ms: -5 };
                for nanos in [0, 1, 999, 1_000_001, 123_456_789_012] {
                    let shown = Time::from_nanos(nanos + ahead);
                    let at = clock.comes_to(shown);
                    assert!(clock.shows(at) >= shown, "{clock:?} {nanos}");
                    let before = at.as_nanos().checked_sub(1).map(Time::from_nanos);
                    assert!(
                        before.is_none_or(|before| clock.shows(before) < shown),
                        "{clock:?} {nanos}"
                    );
                }
            }
        }
    }
}
