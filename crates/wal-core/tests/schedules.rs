//! The commit path under many schedules of its threads, some at random, some with a few chosen
//! preemptions. Only with `--cfg shuttle`: `cargo xtask schedules` runs it. A failure prints its schedule,
//! which `shuttle::replay` repeats.
//!
//! Seen to fail within a hundred schedules each: an acknowledgement before the flush is done; one waiter of a
//! flush that is not woken; a waiter that reads its word after the condition; wakers that are dropped; a
//! future that registers for the flush before its own; a failure that wakes nobody; a full buffer that nobody
//! flushes; those who wait for room and are not told. Not to be seen here, since a timer or the next look makes
//! up for it, and only time is lost: a flush that forgets who came meanwhile, a waiter that counts itself to a
//! flush that does not cover it, a future that does not look again under the lock.
#![cfg(shuttle)]
// A test's helpers may unwrap as its tests do: a failure is a failed test.
#![allow(clippy::unwrap_used)]

use base::{Sequence, Time};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use wal_core::{
    Config, Directory, DiskError, DiskOp, DurableError, EventType, MemoryStorage, NewRecord,
    OpenMode, Place, Record, ScanConfig, SegmentId, SharedLog, Storage, Visitor,
};

const EVENT: EventType = EventType::TX_CREATED;

/// A disk in memory that keeps what a power loss would leave for certain, and fails when it is told to.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    written: MemoryStorage,
    synced: MemoryStorage,
    /// How many operations go well from now on; `None`: all.
    left: Option<u32>,
}

impl Directory for Disk {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        self.0.lock().unwrap().written.segments()
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        self.0.lock().unwrap().written.len(segment)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap().written.read_at(segment, offset, into)
    }
}

impl Storage for Disk {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        // Others may run between any two operations.
        shuttle::thread::yield_now();
        let mut disk = self.0.lock().unwrap();
        match &mut disk.left {
            Some(0) => return Err(io::Error::other("the disk fails").into()),
            Some(left) => *left -= 1,
            None => {}
        }
        disk.written.perform(op)?;
        if matches!(op, DiskOp::Sync(_)) {
            disk.synced = disk.written.clone();
        }
        Ok(())
    }
}

#[derive(Default)]
struct Payloads(Vec<Vec<u8>>);

impl Visitor for Payloads {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        self.0.push(record.payload.to_vec());
    }
}

impl Disk {
    /// What would be there after a power loss.
    fn survivors(&self) -> Vec<Vec<u8>> {
        let mut payloads = Payloads::default();
        let synced = self.0.lock().unwrap().synced.clone();
        wal_core::scan(&synced, &ScanConfig::default(), &mut payloads).unwrap();
        payloads.0
    }

    fn fail_after(&self, operations: u32) {
        self.0.lock().unwrap().left = Some(operations);
    }

    fn open(&self) -> SharedLog<Disk> {
        let mut disk = self.clone();
        let config = Config {
            max_payload: 900,
            batch_bytes_max: 3072,
            buffered_bytes_max: 4096,
            segment_bytes_first: 4096,
            segment_bytes_max: 8192,
            ..Config::default()
        };
        let mode = OpenMode::Exclusive;
        let (log, _) = wal_core::open(&mut disk, &config, mode, 7, Time::ZERO, &mut ()).unwrap();
        SharedLog::new(disk, log)
    }
}

fn schedules(test: impl Fn() + Send + Sync + 'static) {
    let rounds = std::env::var("SCHEDULES").map_or(1_000, |rounds| rounds.parse().unwrap());
    let test = Arc::new(test);
    let again = Arc::clone(&test);
    shuttle::check_random(move || test(), rounds);
    shuttle::check_pct(move || again(), rounds, 3);
}

/// G1: whoever is told that a record is durable finds it on the disk, in each of the ways to be told.
#[test]
fn an_acknowledged_record_survives_whoever_flushed_it() {
    schedules(|| {
        let disk = Disk::default();
        let log = Arc::new(disk.open());
        let callers: Vec<_> = (0..4u8)
            .map(|caller| {
                let (log, disk) = (log.clone(), disk.clone());
                shuttle::thread::spawn(move || {
                    for round in 0..2u8 {
                        let payload = [caller, round];
                        let durable = match caller {
                            0 | 1 => log.append_durable(EVENT, 0, &payload).unwrap(),
                            2 => log.submit(EVENT, 0, &payload).unwrap().wait().unwrap(),
                            _ => {
                                let ticket = log.submit(EVENT, 0, &payload).unwrap();
                                shuttle::future::block_on(ticket).unwrap()
                            }
                        };
                        assert!(log.durable() >= durable);
                        assert!(disk.survivors().contains(&payload.to_vec()), "{payload:?}");
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert_eq!(log.last(), Sequence(8));
    });
}

/// Nobody else comes, so nobody else's flush wakes a future by the way: it is ready or it is woken.
#[test]
fn a_future_of_the_last_caller_is_woken() {
    schedules(|| {
        let log = Arc::new(Disk::default().open());
        let callers: Vec<_> = (0..2u8)
            .map(|caller| {
                let log = log.clone();
                shuttle::thread::spawn(move || {
                    let ticket = log.submit(EVENT, 0, &[caller]).unwrap();
                    let sequence = ticket.sequence();
                    assert_eq!(shuttle::future::block_on(ticket), Ok(sequence));
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
}

/// A buffer that is full makes callers wait, and lets them go on.
#[test]
fn room_comes_back_and_everything_is_written_once() {
    schedules(|| {
        let disk = Disk::default();
        let log = Arc::new(disk.open());
        let callers: Vec<_> = (0..3u8)
            .map(|caller| {
                let log = log.clone();
                shuttle::thread::spawn(move || {
                    let payload = [caller; 800];
                    let record = NewRecord { event: EVENT, timestamp_ms: 0, payload: &payload };
                    log.append(EVENT, 0, &payload).unwrap();
                    log.append_all(&[record, record, record]).unwrap();
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        let log = Arc::into_inner(log).unwrap();
        log.close().unwrap();
        assert_eq!(disk.survivors().len(), 12);
    });
}

/// G4: after a failure nothing is acknowledged, and nobody waits for ever.
#[test]
fn a_failure_reaches_everybody() {
    schedules(|| {
        let disk = Disk::default();
        let log = Arc::new(disk.open());
        disk.fail_after(shuttle::rand::Rng::gen_range(&mut shuttle::rand::thread_rng(), 0..8));
        let callers: Vec<_> = (0..4u8)
            .map(|caller| {
                let (log, disk) = (log.clone(), disk.clone());
                shuttle::thread::spawn(move || {
                    let outcome = if caller % 2 == 0 {
                        log.append_durable(EVENT, 0, &[caller])
                    } else {
                        let ticket = log.submit(EVENT, 0, &[caller]);
                        ticket.map_err(DurableError::from).and_then(shuttle::future::block_on)
                    };
                    let survives = disk.survivors().contains(&vec![caller]);
                    assert!(outcome.is_err() || survives, "acknowledged and not there");
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        let failed = log.failure().is_some();
        let log = Arc::into_inner(log).unwrap();
        assert!(log.close().is_err() || !failed);
    });
}

/// Closing waits for what is under way, and tickets that outlive the log are answered.
#[test]
fn a_close_answers_every_ticket() {
    schedules(|| {
        let disk = Disk::default();
        let log = disk.open();
        let tickets: Vec<_> = (0..3u8).map(|n| log.submit(EVENT, 0, &[n]).unwrap()).collect();
        let waiters: Vec<_> = tickets
            .into_iter()
            .map(|ticket| shuttle::thread::spawn(move || ticket.wait().unwrap().0))
            .collect();
        log.append(EVENT, 0, &[9]).unwrap();
        log.close().unwrap();
        let told: BTreeSet<u64> =
            waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        assert_eq!(told, BTreeSet::from([1, 2, 3]));
        assert_eq!(disk.survivors().len(), 4);
    });
}
