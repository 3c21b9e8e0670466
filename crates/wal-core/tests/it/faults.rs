//! G5: a disk that fails: reads, writes, syncs, and space that runs out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;

use base::Time;
use wal_core::{
    Directory, DiskError, DiskOp, EventType, Log, MemoryStorage, OpenError, OpenMode, ScanError,
    SegmentId, Storage,
};

use crate::support::{
    Choices, Entry, Journal, Seen, config, in_parallel, open, payload, rounds, scan, sector_parts,
};

/// Every way in which this disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// A read fails.
    Read,
    /// The operation fails and has done nothing.
    Refused,
    /// The operation fails and has done all of it.
    DoneAll,
    /// A write fails behind its first bytes: no space is left.
    Short,
    /// A write fails, and some of its sectors are there.
    Torn,
    /// A sync fails; what was dirty is gone, and can be read until the machine crashes.
    SyncFailed,
    /// A sync fails; what was dirty is gone, and seen to be.
    SyncForgot,
}

const FAULTS: usize = 7;

/// A disk that fails now and then.
struct Faulty {
    journal: Journal,
    choices: RefCell<Choices>,
    /// One operation in so many fails; 0: none.
    one_in: usize,
    /// No file grows beyond so many bytes of all files together.
    space: usize,
    fired: RefCell<BTreeMap<Fault, u64>>,
    /// Whether anything has failed since somebody looked.
    failed: Cell<bool>,
}

impl Faulty {
    fn new(choices: Choices) -> Faulty {
        let (choices, fired) = (RefCell::new(choices), RefCell::default());
        let journal = Journal::over(MemoryStorage::new());
        Faulty { journal, choices, one_in: 0, space: usize::MAX, fired, failed: Cell::new(false) }
    }

    fn below(&self, bound: usize) -> usize {
        self.choices.borrow_mut().below(bound)
    }

    fn strikes(&self) -> bool {
        self.one_in > 0 && self.below(self.one_in) == 0
    }

    fn fail(&self, fault: Fault, kind: io::ErrorKind) -> io::Error {
        *self.fired.borrow_mut().entry(fault).or_default() += 1;
        self.failed.set(true);
        io::Error::new(kind, format!("injected: {fault:?}"))
    }

    fn bytes(&self) -> usize {
        self.journal.visible.files().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Performs an operation in part, and fails.
    fn strike(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        let io = io::ErrorKind::Other;
        let error = match op {
            DiskOp::Write { segment, offset, bytes } => match self.below(4) {
                0 => self.fail(Fault::Refused, io),
                1 => {
                    self.journal.perform(op)?;
                    self.fail(Fault::DoneAll, io)
                }
                2 => {
                    let len = self.below(bytes.len() + 1);
                    self.write_parts(*segment, *offset, bytes, &[(0, len)])?;
                    self.fail(Fault::Short, io::ErrorKind::StorageFull)
                }
                _ => {
                    let mut parts = sector_parts(*offset as usize, bytes.len());
                    parts.retain(|_| self.below(2) == 0);
                    self.write_parts(*segment, *offset, bytes, &parts)?;
                    self.fail(Fault::Torn, io)
                }
            },
            DiskOp::Sync(segment) => {
                if self.below(2) == 0 {
                    self.journal.entries.push(Entry::FailedSync(*segment));
                    self.fail(Fault::SyncFailed, io)
                } else {
                    self.journal.forget_unsynced(*segment);
                    self.fail(Fault::SyncForgot, io)
                }
            }
            DiskOp::Create(_) | DiskOp::Truncate { .. } if self.below(2) == 0 => {
                self.journal.perform(op)?;
                self.fail(Fault::DoneAll, io)
            }
            _ => self.fail(Fault::Refused, io::ErrorKind::StorageFull),
        };
        Err(error.into())
    }

    fn write_parts(
        &mut self,
        segment: SegmentId,
        offset: u64,
        bytes: &[u8],
        parts: &[(usize, usize)],
    ) -> Result<(), DiskError> {
        for &(from, to) in parts.iter().filter(|(from, to)| from < to) {
            let (offset, bytes) = (offset + from as u64, bytes[from..to].to_vec());
            let part = DiskOp::Write { segment, offset, bytes };
            self.journal.visible.perform(&part)?;
            self.journal.entries.push(Entry::Part(part));
        }
        Ok(())
    }
}

impl Directory for Faulty {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        if self.strikes() {
            return Err(self.fail(Fault::Read, io::ErrorKind::Other));
        }
        self.journal.segments()
    }
    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        self.journal.len(segment)
    }
    fn read_at(&self, segment: SegmentId, at: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.strikes() {
            return Err(self.fail(Fault::Read, io::ErrorKind::Other));
        }
        self.journal.read_at(segment, at, into)
    }
}

impl Storage for Faulty {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if self.strikes() {
            return self.strike(op);
        }
        if let DiskOp::Write { segment, offset, bytes } = op {
            let there = self.journal.len(*segment)?;
            let grows = (offset + bytes.len() as u64).saturating_sub(there) as usize;
            let lacking = (self.bytes() + grows).saturating_sub(self.space);
            if lacking > 0 {
                let parts = [(0, bytes.len().saturating_sub(lacking))];
                self.write_parts(*segment, *offset, bytes, &parts)?;
                return Err(self.fail(Fault::Short, io::ErrorKind::StorageFull).into());
            }
        }
        self.journal.perform(op)
    }
}

/// A poisoned log acknowledges nothing, takes nothing and asks for nothing.
fn assert_dead(log: &mut Log, now: Time) {
    let durable = log.durable();
    assert!(log.poisoned().is_some());
    assert!(log.next_flush(now + config().idle_guard_after * 9).is_none());
    assert!(log.append(EventType::TX_CREATED, 0, b"").is_err());
    log.force(log.last());
    assert!(log.next_wake().is_none() && log.next_flush(now).is_none());
    assert!(log.close().ops.is_empty());
    assert_eq!(log.durable(), durable);
}

/// One log on a failing disk, over several lives: acknowledged implies durable, however a life ends.
/// Returns how often each fault fired.
fn failing_lives(seed: u64) -> BTreeMap<Fault, u64> {
    let mut disk = Faulty::new(Choices::seeded(seed));
    // What must be there, and what may be there behind it.
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut appended: Vec<Vec<u8>> = Vec::new();
    let mut unique = 0u64;
    for life in 0..9 {
        let last_life = life == 8;
        disk.one_in = if last_life { 0 } else { [0, 9, 25, 60, 200][disk.below(5)] };
        disk.failed.set(false);
        let what = format!("seed {seed}, life {life}");
        let mut seen = Seen::default();
        let mode = if disk.below(6) == 0 { OpenMode::TakeOver } else { OpenMode::Exclusive };
        let opened = wal_core::open(&mut disk, &config(), mode, seed, Time::ZERO, &mut seen);
        match opened {
            Ok((mut log, scanned)) => {
                let seen = seen.payloads;
                assert!(!scanned.is_corrupt(), "{what}: {:?}", scanned.corruption);
                assert!(seen.starts_with(&kept), "{what}: {} of {}", seen.len(), kept.len());
                assert!(appended.starts_with(&seen), "{what}: more than was appended");
                assert_eq!(log.last().0, seen.len() as u64, "{what}");
                kept.clone_from(&seen);
                appended = seen;
                let mut now = Time::ZERO;
                for _ in 0..disk.below(25) {
                    unique += 1;
                    let mut payload = payload(disk.below(64) as u64);
                    payload.truncate(890);
                    payload.extend_from_slice(&unique.to_le_bytes());
                    let Ok(sequence) = log.append(EventType::TX_CREATED, 0, &payload) else {
                        break;
                    };
                    appended.push(payload);
                    if disk.below(2) == 0 {
                        log.force(sequence);
                    }
                    now += config().idle_guard_after / 2;
                    while disk.below(6) != 0 && wal_core::drive(&mut disk, &mut log, now) {}
                }
                if log.poisoned().is_some() {
                    assert!(disk.failed.get(), "{what}: nothing has failed");
                    assert_dead(&mut log, now);
                } else if last_life || disk.below(3) == 0 {
                    wal_core::close(&mut disk, &mut log, now);
                    assert!(log.poisoned().is_none() || disk.failed.get(), "{what}");
                }
                let durable = log.durable().0 as usize;
                if durable > kept.len() {
                    kept = appended[..durable].to_vec();
                }
            }
            Err(
                OpenError::Disk(_)
                | OpenError::Scan(ScanError::Io(_))
                | OpenError::ClaimedMeanwhile,
            ) => {
                assert!(disk.failed.get(), "{what}: nothing has failed");
            }
            Err(error) => panic!("{what}: {error}"),
        }
        if disk.below(2) == 0 {
            disk.journal = disk.journal.power_loss(&mut disk.choices.borrow_mut());
        }
    }
    // The last life had no fault: it closed the log, and everything is there.
    let (seen, scanned) = scan(&disk.journal);
    assert!(!scanned.is_corrupt() && scanned.torn_tail_bytes == 0, "seed {seed}: {scanned:?}");
    assert_eq!(seen.payloads, appended, "seed {seed}");
    disk.fired.take()
}

/// G5. Whatever the disk fails at, what was acknowledged is there afterwards; what was not may be, as a
/// prefix; the log that met the failure acknowledges nothing more; and it can be opened again.
#[test]
fn g5_on_a_failing_disk_acknowledged_means_durable() {
    let count = rounds("WAL_CRASH_ROUNDS", 150) as usize;
    let fired = std::sync::Mutex::new(BTreeMap::<Fault, u64>::new());
    in_parallel(count, |range| {
        for seed in range {
            for (fault, times) in failing_lives(seed as u64) {
                *fired.lock().unwrap().entry(fault).or_default() += times;
            }
        }
        0
    });
    let fired = fired.into_inner().unwrap();
    eprintln!("{count} rounds: {fired:?}");
    assert_eq!(fired.len(), FAULTS, "each fault fires: {fired:?}");
    assert!(fired.values().sum::<u64>() > count as u64, "{fired:?}");
}

/// G5. The space runs out at any byte: nothing that was acknowledged is lost, the log can be read while
/// the disk is full, and it goes on once there is space again.
#[test]
fn g5_a_log_goes_on_once_there_is_space_again() {
    let (mut refused, mut poisoned) = (0, 0);
    for space in (0..14_000).step_by(67) {
        let mut disk = Faulty::new(Choices::seeded(space as u64));
        disk.space = space;
        let mut appended = Vec::new();
        let mut acknowledged = 0;
        for life in 0..2 {
            let Ok((mut log, _, seen)) = open(&mut disk) else {
                assert!(disk.failed.get(), "space {space}");
                refused += 1;
                continue;
            };
            assert!(appended.starts_with(&seen.payloads) && seen.payloads.len() >= acknowledged);
            appended = seen.payloads;
            for n in 0..30 {
                let payload = payload(n + life);
                let Ok(sequence) = log.append(EventType::TX_CREATED, 0, &payload) else { break };
                appended.push(payload);
                log.force(sequence);
                wal_core::drive(&mut disk, &mut log, Time::ZERO);
            }
            acknowledged = log.durable().0 as usize;
            if let Some(error) = log.poisoned() {
                assert!(error.to_string().contains("injected: Short"), "space {space}: {error}");
                assert_dead(&mut log, Time::ZERO);
                poisoned += 1;
            }
        }
        let (seen, scanned) = scan(&disk.journal);
        assert!(!scanned.is_corrupt() && seen.payloads.len() >= acknowledged, "space {space}");
        disk.space = usize::MAX;
        let (mut log, _, seen) = open(&mut disk).unwrap();
        assert!(appended.starts_with(&seen.payloads) && seen.payloads.len() >= acknowledged);
        let sequence = log.append(EventType::TX_CREATED, 0, b"space again").unwrap();
        log.force(sequence);
        wal_core::drive(&mut disk, &mut log, Time::ZERO);
        assert_eq!(log.durable(), sequence, "space {space}");
    }
    assert!(refused > 20 && poisoned > 100, "{refused} {poisoned}");
}
