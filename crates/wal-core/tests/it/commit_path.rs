//! Many callers on one log of files: tickets, units, room, failure, and segments made ahead of time.

use crate::files::directory;
use crate::support::{Seen, reads_as, scan};
use base::{Sequence, Time};
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use wal_core::{
    AppendError, Config, Directory, DiskError, DiskOp, DurableError, EventType, FileLog,
    FileStorage, MakeAhead, NewRecord, OpenMode, SegmentId, SharedLog, Spare, Storage, Zeros,
};

const EVENT: EventType = EventType::TX_CREATED;

fn open(path: &Path, config: &Config) -> FileLog {
    FileLog::open(path, config, &mut ()).unwrap().0
}

fn small() -> Config {
    Config {
        max_payload: 2 << 10,
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 256 << 10,
        batch_bytes_max: 16 << 10,
        buffered_bytes_max: 16 << 10,
        ..Config::default()
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn tickets_become_durable_in_order() {
    let directory = directory();
    let log = open(directory.path(), &Config::default());
    let tickets: Vec<_> =
        (0..100u32).map(|n| log.submit(EVENT, 0, &n.to_le_bytes()).unwrap()).collect();
    let sequences: Vec<u64> = tickets.iter().map(|ticket| ticket.sequence().0).collect();
    assert_eq!(sequences, (1..=100).collect::<Vec<u64>>());
    let mut waited = 0;
    for (at, ticket) in tickets.into_iter().enumerate() {
        waited += u32::from(!ticket.is_durable());
        let sequence = if at % 2 == 0 { ticket.wait() } else { block_on(ticket) };
        assert!(log.durable() >= sequence.unwrap());
    }
    assert!(waited > 0, "the first ones at least were not durable at once");
    assert!(log.stats().syncs < 50, "{}: they shared flushes", log.stats().syncs);
    log.close().unwrap();
    assert_eq!(scan(&FileStorage::read(directory.path()).unwrap()).0.payloads.len(), 100);
}

#[test]
fn a_ticket_needs_nobody_who_waits() {
    let directory = directory();
    let log = open(directory.path(), &Config::default());
    drop(log.submit(EVENT, 0, b"dropped").unwrap());
    let ticket = log.submit(EVENT, 0, b"polled once").unwrap();
    let mut looks = 0;
    while !ticket.is_durable() {
        looks += 1;
        assert!(looks < 5_000, "nobody has flushed it");
        #[expect(clippy::disallowed_methods)]
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(log.durable(), Sequence(2));
    // One that outlives the log knows how that ended.
    let late = log.submit(EVENT, 0, b"late").unwrap();
    log.close().unwrap();
    assert_eq!(block_on(late), Ok(Sequence(3)));
}

#[test]
fn a_unit_is_appended_whole_or_not_at_all() {
    let directory = directory();
    let log = Arc::new(open(directory.path(), &small()));
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                for _ in 0..20 {
                    let payload = [thread; 700];
                    let record = NewRecord { event: EVENT, timestamp_ms: 0, payload: &payload };
                    let unit = log.append_all(&[record; 7]).unwrap();
                    assert_eq!(unit.end().0 - unit.start().0, 6);
                    log.wait(*unit.end()).unwrap();
                }
            });
        }
    });
    let [good, long] = [&[1; 10][..], &[2; 3000]].map(|payload| NewRecord {
        event: EVENT,
        timestamp_ms: 0,
        payload,
    });
    let last = log.last();
    let too_long = AppendError::PayloadTooLarge { bytes: 3000, max: 2048 };
    assert_eq!(log.append_all(&[good, long]), Err(too_long));
    let many = vec![NewRecord { payload: &[0; 2000], ..good }; 9];
    assert_eq!(log.append_all(&many), Err(AppendError::Full { max: 16 << 10 }), "never fits");
    assert_eq!(log.last(), last, "nothing of it");
    let next = last.next();
    assert_eq!(log.append_all(&[good]), Ok(next..=next));
    Arc::into_inner(log).unwrap().close().unwrap();
    let payloads = scan(&FileStorage::read(directory.path()).unwrap()).0.payloads;
    assert_eq!(payloads.len(), 4 * 20 * 7 + 1);
    for unit in payloads[..560].chunks(7) {
        assert!(unit.iter().all(|payload| payload == &unit[0]), "units stay together");
    }
}

#[test]
fn who_must_not_wait_is_told_that_there_is_no_room() {
    let directory = directory();
    let log = open(directory.path(), &small());
    let (mut tickets, mut full) = (VecDeque::new(), 0);
    while log.last().0 < 200 {
        match log.try_submit(EVENT, 0, &[7; 2000]) {
            Ok(ticket) => tickets.push_back(ticket),
            Err(AppendError::Full { .. }) => {
                full += 1;
                // The segment behind the first half of this one may still be in the making.
                match tickets.pop_front() {
                    Some(oldest) => drop(wal_core::Ticket::wait(oldest).unwrap()),
                    None => std::thread::yield_now(),
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(full > 0, "the buffer holds eight of them");
    // Who may wait gets room.
    for _ in 0..50 {
        tickets.push_back(log.submit(EVENT, 0, &[8; 2000]).unwrap());
    }
    let appended = log.last().0;
    assert_eq!(appended, 250);
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(log.durable().0, appended);
}

/// A flush that fails fails everybody who waits for it, and for the next one.
#[test]
fn failure_reaches_everybody_who_waits() {
    let directory = directory();
    let old = Arc::new(open(directory.path(), &small()));
    old.append_durable(EVENT, 0, b"before").unwrap();
    let mut storage = FileStorage::take_over(directory.path()).unwrap();
    let mode = OpenMode::TakeOver;
    let opened = wal_core::open(&mut storage, &small(), mode, 1, Time::ZERO, &mut Seen::default());
    drop(opened.unwrap());
    let outcomes: BTreeSet<String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..16u8)
            .map(|caller| {
                let log = Arc::clone(&old);
                scope.spawn(move || {
                    let outcome = if caller.is_multiple_of(2) {
                        log.append_durable(EVENT, 0, &[caller; 100])
                    } else {
                        log.submit(EVENT, 0, &[caller; 100])
                            .map_err(DurableError::from)
                            .and_then(block_on)
                    };
                    match outcome.expect_err("a replaced writer acknowledges nothing") {
                        DurableError::Unknown(_) => "unknown".to_owned(),
                        other => other.to_string(),
                    }
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(outcomes.contains("unknown"), "{outcomes:?}");
    let poisoned = AppendError::Poisoned.to_string();
    assert!(outcomes.iter().all(|one| one == "unknown" || *one == poisoned), "{outcomes:?}");
    assert_eq!(old.durable(), Sequence(1));
    assert!(old.failure().is_some_and(|why| why.contains("another writer")));
    assert_eq!(old.append(EVENT, 0, b"after"), Err(AppendError::Poisoned));
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn segments_are_made_ahead_of_time() {
    let directory = directory();
    // What a process that died had not finished.
    std::fs::write(directory.path().join("spare-10000"), [1; 100]).unwrap();
    let log = open(directory.path(), &small());
    let length = |segment: u64| {
        let name = SegmentId(segment).file_name();
        std::fs::metadata(directory.path().join(name)).map_or(0, |file| file.len())
    };
    assert_eq!(length(1), 64 << 10, "the first one is there before its first record");
    let mut ahead = false;
    for _ in 0..600 {
        log.append_durable(EVENT, 0, &[7; 1500]).unwrap();
        ahead |= names(directory.path()).iter().any(|name| name.starts_with("spare-"));
    }
    assert!(ahead, "never was there a segment in waiting");
    let last = (1..).take_while(|segment| length(*segment) > 0).last().unwrap();
    assert!(last >= 4, "{last} segments");
    assert!(length(2) >= 64 << 10 && length(3) >= 128 << 10);
    log.close().unwrap();
    assert!(length(last) < 256 << 10, "what nobody will write is given back");
    let left = names(directory.path());
    assert!(left.iter().all(|name| name == "lock" || name.ends_with(".wal")), "{left:?}");
    let (seen, scanned) = scan(&FileStorage::read(directory.path()).unwrap());
    assert_eq!(
        (seen.payloads.len(), scanned.is_corrupt(), scanned.torn_tail_bytes),
        (600, false, 0)
    );
}

/// Files on a disk that has no room for another segment while it is `full`.
pub struct Tight {
    pub files: FileStorage,
    pub full: Arc<AtomicBool>,
}

reads_as!(Tight, files);

impl Storage for Tight {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        self.files.perform(op)
    }

    fn make_ahead(&self, bytes: u64, zeros: Zeros) -> Option<MakeAhead> {
        if self.full.load(Ordering::Relaxed) {
            return Some(Box::new(|_| Err(std::io::ErrorKind::StorageFull.into())));
        }
        self.files.make_ahead(bytes, zeros)
    }

    fn keep_ahead(&mut self, spare: Spare) {
        self.files.keep_ahead(spare);
    }
}

/// G5: a disk without room is told before a record is accepted, and the log goes on when room returns.
#[test]
fn a_full_disk_refuses_before_it_accepts() {
    let directory = directory();
    let full = Arc::new(AtomicBool::new(true));
    let mut files = FileStorage::write(directory.path()).unwrap();
    files.zero_fill_next(small().segment_bytes_first);
    let mut tight = Tight { files, full: Arc::clone(&full) };
    let mode = OpenMode::Exclusive;
    let (log, _) = wal_core::open(&mut tight, &small(), mode, 1, Time::ZERO, &mut ()).unwrap();
    let log = SharedLog::new(tight, log);
    let mut accepted = 0;
    let refused = loop {
        match log.append_durable(EVENT, 0, &[7; 1500]) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100, "a segment of 64 KiB does not hold so many");
    };
    assert_eq!(refused, DurableError::Append(AppendError::NoSpace));
    assert!(accepted >= 30, "{accepted}: the segment it has is used");
    let record = NewRecord { event: EVENT, timestamp_ms: 0, payload: &[7; 1500] };
    assert_eq!(log.append(EVENT, 0, &[7; 1500]), Err(AppendError::NoSpace));
    assert_eq!(log.append_all(&[record]), Err(AppendError::NoSpace));
    assert_eq!(log.try_submit(EVENT, 0, &[7; 1500]).map(drop), Err(AppendError::NoSpace));
    assert_eq!((log.failure(), log.durable().0, log.last().0), (None, accepted, accepted));
    let segment = directory.path().join(SegmentId::FIRST.file_name());
    assert_eq!(std::fs::metadata(segment).unwrap().len(), 64 << 10, "it did not grow");

    full.store(false, Ordering::Relaxed);
    let mut looks = 0;
    while log.append(EVENT, 0, &[8; 1500]).is_err() {
        looks += 1;
        assert!(looks < 5_000, "it never goes on");
        #[expect(clippy::disallowed_methods)]
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for _ in 0..100 {
        log.append_durable(EVENT, 0, &[8; 1500]).unwrap();
    }
    log.close().unwrap();
    let (seen, scanned) = scan(&FileStorage::read(directory.path()).unwrap());
    assert_eq!(seen.payloads.len() as u64, accepted + 101);
    assert!(!scanned.is_corrupt());
}

/// Whatever is accepted while there is no room for another segment fits into the one that there is,
/// closing guards included.
#[test]
fn what_a_confined_log_accepts_fits() {
    for payload in [0, 1, 60, 400, 1900] {
        for together in [1, 3, 50] {
            let mut storage = wal_core::MemoryStorage::new();
            let mode = OpenMode::Exclusive;
            let (mut log, _) =
                wal_core::open(&mut storage, &small(), mode, 1, Time::ZERO, &mut ()).unwrap();
            log.confine(true);
            let mut now = Time::ZERO;
            let refused = 'full: loop {
                for _ in 0..together {
                    match log.append(EVENT, 0, &vec![7; payload]) {
                        Ok(sequence) => log.force(sequence),
                        Err(AppendError::Full { .. }) => break,
                        Err(error) => break 'full error,
                    }
                }
                assert!(wal_core::drive(&mut storage, &mut log, now));
                // An idle log proves what it has synced.
                now += Config::default().idle_guard_after * 2;
                wal_core::drive(&mut storage, &mut log, now);
            };
            assert_eq!(refused, AppendError::NoSpace);
            let room = log.room(1);
            wal_core::close(&mut storage, &mut log, now);
            assert!(room < 29 + payload as u64, "{payload} {together}: {room} left");
            assert_eq!(storage.segments().unwrap().len(), 1);
            let bytes = storage.len(SegmentId::FIRST).unwrap();
            assert!((40 << 10..=64 << 10).contains(&bytes), "{payload} {together}: {bytes}");
        }
    }
}

/// A disk without room for a segment made ahead of time, whose writes can be held up.
struct Held {
    files: FileStorage,
    hold: Arc<AtomicBool>,
    waits: Arc<AtomicBool>,
}

reads_as!(Held, files);

impl Storage for Held {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        while self.hold.load(Ordering::Relaxed) {
            self.waits.store(true, Ordering::Relaxed);
            std::thread::yield_now();
        }
        self.files.perform(op)
    }
    fn make_ahead(&self, _: u64, _: Zeros) -> Option<MakeAhead> {
        Some(Box::new(|_| Err(std::io::ErrorKind::StorageFull.into())))
    }
    fn keep_ahead(&mut self, _: Spare) {}
}

/// More than the rest of a segment is buffered already when the flush under way fills half of it. There is no
/// room for the next one ahead of time, and the log goes on in a file that grows: then nobody waits for that
/// room any more.
#[test]
fn a_log_goes_on_behind_a_segment_that_there_was_no_room_for() {
    let directory = directory();
    let files = FileStorage::write(directory.path()).unwrap();
    let [hold, waits] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let mut held = Held { files, hold: Arc::clone(&hold), waits: Arc::clone(&waits) };
    let config = Config { buffered_bytes_max: 128 << 10, ..small() };
    let mode = OpenMode::Exclusive;
    let (log, _) = wal_core::open(&mut held, &config, mode, 1, Time::ZERO, &mut ()).unwrap();
    let log = Arc::new(SharedLog::new(held, log));
    for _ in 0..19 {
        log.append_durable(EVENT, 0, &[7; 1500]).unwrap();
    }
    hold.store(true, Ordering::Relaxed);
    let mut tickets = vec![log.submit(EVENT, 0, &[8; 2000]).unwrap()];
    while !waits.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    tickets.extend((0..30).map(|_| log.submit(EVENT, 0, &[9; 1500]).unwrap()));
    hold.store(false, Ordering::Relaxed);
    for ticket in tickets {
        block_on(ticket).unwrap();
    }
    // Longer than a refused segment is first waited for.
    #[expect(clippy::disallowed_methods)]
    std::thread::sleep(std::time::Duration::from_millis(200));
    let (told, hears) = std::sync::mpsc::channel();
    let other = Arc::clone(&log);
    #[expect(clippy::disallowed_methods)]
    std::thread::spawn(move || told.send(other.append(EVENT, 0, b"more").map(|_| ())));
    let heard = hears.recv_timeout(std::time::Duration::from_secs(10));
    if heard.is_err() {
        // It would be waited for without end.
        std::mem::forget(log);
    }
    assert_eq!(heard, Ok(Ok(())));
}
