//! G17: a replaced writer cannot write the log. A successor takes over between any two operations of
//! the old writer, which goes on afterwards as if nothing had happened.

use base::{Epoch, Time};
use wal_core::{
    Config, DiskError, DiskOp, EventType, Flush, Log, MemoryStorage, OpenError, OpenMode, Opening,
    SegmentId, Storage,
};

use crate::support::{Seen, config, open, payload, scan};

/// Steps of a taker: each is one of its disk operations, or a look at the disk between them.
struct Taker {
    opening: Option<Opening>,
    ops: Vec<DiskOp>,
    stage: u8,
    seen: Seen,
    log: Option<Log>,
    lost_the_race: bool,
}

impl Taker {
    fn new() -> Taker {
        Taker {
            opening: None,
            ops: Vec::new(),
            stage: 0,
            seen: Seen::default(),
            log: None,
            lost_the_race: false,
        }
    }

    /// Takes one step; false when there is none left.
    fn step(&mut self, disk: &mut MemoryStorage) -> bool {
        if let Some(op) = (!self.ops.is_empty()).then(|| self.ops.remove(0)) {
            match disk.perform(&op) {
                Ok(()) => return true,
                Err(error) if error.is_already_there() => {
                    self.lost_the_race = true;
                    *self = Taker { lost_the_race: true, ..Taker::new() };
                    return true;
                }
                Err(error) => panic!("{op:?}: {error}"),
            }
        }
        match self.stage {
            0 => {
                let mode = OpenMode::TakeOver;
                self.opening = Some(Opening::scan(disk, config(), mode, &mut self.seen).unwrap());
            }
            1 => self.ops = self.opening.as_mut().unwrap().claim(Epoch::NONE, 1).unwrap(),
            2 => {
                let opening = self.opening.as_mut().unwrap();
                self.ops = opening.read_tail(disk, &mut self.seen).unwrap();
            }
            3 => {
                let opening = self.opening.take().unwrap();
                self.log = Some(opening.finish(disk, Time::ZERO).unwrap());
            }
            _ => return false,
        }
        self.stage += 1;
        true
    }
}

/// The old writer, performing one operation at a time.
struct Writer {
    log: Log,
    flush: Option<(Flush, usize)>,
    appended: Vec<Vec<u8>>,
    now: Time,
}

impl Writer {
    fn step(&mut self, disk: &mut MemoryStorage) {
        if self.flush.is_none() {
            let n = self.appended.len() as u64;
            let payload = payload(n);
            if let Ok(sequence) = self.log.append(EventType::TX_CREATED, 0, &payload) {
                self.appended.push(payload);
                if n % 3 != 1 {
                    self.log.force(sequence);
                }
            }
            self.now += config().idle_guard_after;
            self.flush = self.log.next_flush(self.now).map(|flush| (flush, 0));
            return;
        }
        let Some((flush, done)) = &mut self.flush else { return };
        let result = disk.perform(&flush.ops[*done]);
        *done += 1;
        if result.is_err() || *done == flush.ops.len() {
            self.log.flushed(self.now, result);
            self.flush = None;
        }
    }
}

#[test]
fn a_zombie_acknowledges_nothing() {
    let mut fenced = 0;
    let mut behind_seals = 0;
    // The taker starts after `head_start` steps of the writer, then they alternate unevenly.
    for head_start in 0..120 {
        for (writer_steps, taker_steps) in [(0, 1), (1, 1), (2, 1), (3, 1), (5, 1), (1, 3), (9, 2)]
        {
            let mut disk = MemoryStorage::new();
            let (log, _, _) = open(&mut disk).unwrap();
            let mut writer = Writer { log, flush: None, appended: Vec::new(), now: Time::ZERO };
            for _ in 0..head_start {
                writer.step(&mut disk);
            }
            let mut taker = Taker::new();
            let mut running = true;
            let mut rounds = 0;
            while running {
                for _ in 0..writer_steps {
                    writer.step(&mut disk);
                }
                for _ in 0..taker_steps {
                    running &= taker.step(&mut disk);
                }
                rounds += 1;
                assert!(rounds < 3000, "the taker gets through");
            }
            let mut log = taker.log.take().unwrap();
            let kept = taker.seen.payloads;
            // Every record that the old writer acknowledged, ever, is in what the taker has read.
            for _ in 0..60 {
                writer.step(&mut disk);
            }
            let acknowledged = writer.log.durable().0 as usize;
            assert!(kept.len() >= acknowledged, "{head_start} {writer_steps}:{taker_steps}");
            assert!(writer.appended.starts_with(&kept));
            assert!(log.epoch() > writer.log.epoch());
            fenced += u32::from(matches!(writer.log.poisoned(), Some(DiskError::Fenced)));

            if head_start % 2 == 0 {
                let sequence = log.append(EventType::TX_CREATED, 0, b"new").unwrap();
                log.force(sequence);
                wal_core::drive(&mut disk, &mut log, Time::ZERO);
                assert_eq!(log.durable(), sequence);
            }
            let (seen, scanned) = scan(&disk);
            assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
            assert!(seen.payloads.starts_with(&kept) && seen.payloads.len() <= kept.len() + 1);
            behind_seals += u32::from(scanned.fenced_bytes > 0);

            // Another opening, and another take-over, find the same.
            let (log, _, again) = open(&mut disk).unwrap();
            assert_eq!(again.payloads, seen.payloads);
            drop(log);
            let (later, scanned) = scan(&disk);
            assert_eq!(later.payloads, seen.payloads);
            assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
        }
    }
    assert!(fenced > 300, "{fenced}");
    assert!(behind_seals > 50, "{behind_seals}");
}

#[test]
fn of_two_takers_one_wins() {
    let mut disk = MemoryStorage::new();
    open(&mut disk).unwrap();
    let mode = OpenMode::TakeOver;
    let mut openings: Vec<Opening> = (0..2)
        .map(|_| Opening::scan(&disk, Config { ..config() }, mode, &mut ()).unwrap())
        .collect();
    let ops: Vec<_> =
        openings.iter_mut().map(|opening| opening.claim(Epoch::NONE, 1).unwrap()).collect();
    disk.perform_all(&ops[1]).unwrap();
    assert!(disk.perform_all(&ops[0]).unwrap_err().is_already_there());
    let mut late = Opening::scan(&disk, config(), mode, &mut ()).unwrap();
    disk.perform_all(&late.claim(Epoch::new(9), 1).unwrap()).unwrap();
    assert_eq!(late.epoch(), Epoch::new(9));
    let mut first = openings.pop().unwrap();
    disk.perform_all(&first.read_tail(&disk, &mut ()).unwrap()).unwrap();
    assert!(matches!(first.finish(&disk, Time::ZERO), Err(OpenError::Fenced)));
    disk.perform_all(&late.read_tail(&disk, &mut ()).unwrap()).unwrap();
    let log = late.finish(&disk, Time::ZERO).unwrap();
    assert_eq!((log.epoch(), log.log_id()), (Epoch::new(9), 0xFEED_F00D_1234_5678));
}

/// What a writer wrote last may be in the page cache alone. Whoever seals it writes it again, also when
/// somebody else's claim, which holds nothing, lies between.
#[test]
fn a_claim_in_between_does_not_make_the_tail_proven() {
    let mut disk = MemoryStorage::new();
    let (mut log, ..) = open(&mut disk).unwrap();
    let sequence = log.append(EventType::TX_CREATED, 0, b"kept").unwrap();
    log.force(sequence);
    wal_core::drive(&mut disk, &mut log, Time::ZERO);
    let guard = log.next_flush(Time::ZERO + config().idle_guard_after).expect("the idle guard");
    assert!(!guard.forced);
    disk.perform_all(&guard.ops).unwrap();
    for claimed_before in [false, true] {
        let mut opening = Opening::scan(&disk, config(), OpenMode::TakeOver, &mut ()).unwrap();
        disk.perform_all(&opening.claim(Epoch::NONE, 1).unwrap()).unwrap();
        let ops = opening.read_tail(&disk, &mut ()).unwrap();
        let [DiskOp::Sync(before), DiskOp::Write { segment, bytes, .. }, DiskOp::Sync(after), ..] =
            ops.as_slice()
        else {
            panic!("nothing is rewritten (claimed before: {claimed_before}): {ops:?}");
        };
        assert_eq!([before, segment, after], [&SegmentId::FIRST; 3]);
        let [DiskOp::Write { bytes: written, .. }] = guard.ops.as_slice() else {
            panic!("an idle guard is one write: {:?}", guard.ops);
        };
        assert_eq!(bytes, written);
    }
}

/// A writer that has nothing to write never meets its successor, unless it looks.
#[test]
fn who_has_nothing_to_write_can_look() {
    let mut disk = MemoryStorage::new();
    let (mut log, ..) = open(&mut disk).unwrap();
    let sequence = log.append(EventType::TX_CREATED, 0, b"kept").unwrap();
    log.force(sequence);
    wal_core::drive(&mut disk, &mut log, Time::ZERO);
    let later = Time::ZERO + config().idle_guard_after;
    let guard = log.next_flush(later).expect("the idle guard");
    log.flushed(later, disk.perform_all(&guard.ops));
    assert!(log.next_flush(Time::NEVER).is_none(), "nothing is owed");
    // It looks, and writes nothing; nobody is there.
    log.check_epoch();
    assert_eq!(log.next_wake(), Some(Time::ZERO));
    let look = log.next_flush(later).expect("it was asked to look");
    assert!(matches!(look.ops[..], [DiskOp::CheckEpoch { .. }]), "{:?}", look.ops);
    log.flushed(later, disk.perform_all(&look.ops));
    assert!(log.poisoned().is_none() && log.next_flush(Time::NEVER).is_none());
    // Somebody is.
    let mut opening = Opening::scan(&disk, config(), OpenMode::TakeOver, &mut ()).unwrap();
    disk.perform_all(&opening.claim(Epoch::NONE, 1).unwrap()).unwrap();
    log.check_epoch();
    let look = log.next_flush(later).expect("it was asked to look");
    log.flushed(later, disk.perform_all(&look.ops));
    assert!(matches!(log.poisoned(), Some(DiskError::Fenced)));
}

/// What is written anyway is written, and looked for as well.
#[test]
fn a_look_goes_with_what_is_written() {
    let mut disk = MemoryStorage::new();
    let (mut log, ..) = open(&mut disk).unwrap();
    log.append(EventType::TX_CREATED, 0, b"lazy").unwrap();
    log.check_epoch();
    let flush = log.next_flush(Time::ZERO).expect("it was asked to look");
    assert!(!flush.forced && flush.records == 1, "{flush:?}");
    assert!(matches!(flush.ops[..], [DiskOp::Write { .. }, DiskOp::CheckEpoch { .. }]));
    log.flushed(Time::ZERO, disk.perform_all(&flush.ops));
    // Behind a sync it is looked once.
    log.force(log.last());
    log.check_epoch();
    let flush = log.next_flush(Time::ZERO).expect("it was forced");
    assert!(matches!(flush.ops[..], [.., DiskOp::Sync(_), DiskOp::CheckEpoch { .. }]));
    let looks = flush.ops.iter().filter(|op| matches!(op, DiskOp::CheckEpoch { .. })).count();
    log.flushed(Time::ZERO, disk.perform_all(&flush.ops));
    assert_eq!((looks, log.next_flush(Time::ZERO)), (1, None));
}
