//! Sealed segments are read again, at a paced rate, beside the writer; what is damaged is told and left.

use std::io;
use std::time::Duration;

use base::Time;
use wal_core::{
    Config, Corruption, Damage, Directory, EventType, FileLog, FileStorage, MemoryStorage, Place,
    Record, ScanConfig, Scrub, ScrubConfig, SegmentExtent, SegmentId, SegmentInfo, Visitor,
};

use crate::files::directory;
use crate::support::{open, payload, scan};

const EVENT: EventType = EventType::TX_CREATED;

/// Steps through one round on a clock that does as it is told; and how long the round took.
fn round(scrub: &mut Scrub, log: &dyn Directory, now: &mut Time) -> (Vec<Corruption>, Duration) {
    let (mut found, rounds, began) = (Vec::new(), scrub.stats().rounds, *now);
    loop {
        *now = (*now).max(scrub.due());
        let (before, at) = (scrub.stats().bytes, *now);
        found.extend(scrub.step(log, at).unwrap());
        let bytes = scrub.stats().bytes - before;
        assert!(bytes <= Scrub::STEP_BYTES + (1 << 20), "{bytes} bytes at once");
        if scrub.stats().rounds > rounds {
            return (found, at - began);
        }
        assert!(at - began < Duration::from_secs(100_000), "it comes to no end");
    }
}

/// How many bytes of batches sealed segments hold.
struct SealedBytes(u64);

impl Visitor for SealedBytes {
    fn record(&mut self, _: &Record<'_>, _: Place) {}

    fn segment(&mut self, segment: &SegmentInfo) {
        if let SegmentExtent::Sealed(length) = segment.extent {
            self.0 += length - 1024;
        }
    }
}

#[test]
fn a_flip_in_a_sealed_segment_is_told_beside_the_writer_and_left() {
    let directory = directory();
    let segments = Config {
        max_payload: 2 << 10,
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 1 << 20,
        batch_bytes_max: 16 << 10,
        buffered_bytes_max: 16 << 10,
        ..Config::default()
    };
    let (log, _) = FileLog::open(directory.path(), &segments, &mut ()).unwrap();
    for n in 0..1500_u32 {
        log.append(EVENT, 0, &[n as u8; 1400]).unwrap();
    }
    log.wait(log.last()).unwrap();
    let files = FileStorage::beside(directory.path()).unwrap();
    let sealed = files.segments().unwrap().len() as u64 - 1;
    assert!(sealed >= 4, "{sealed} segments are sealed");
    let rate = 1 << 20;
    let config = ScrubConfig { bytes_per_second: rate, ..ScrubConfig::default() };
    let mut now = Time::ZERO;
    let mut scrub = Scrub::new(config.clone(), now);
    let (found, took) = round(&mut scrub, &files, &mut now);
    assert_eq!((found, scrub.stats().segments), (vec![], sealed));
    // All of it was read, and no faster than was asked; headers are the round's own.
    let mut sealed_bytes = SealedBytes(0);
    wal_core::scan(&files, &ScanConfig::default(), &mut sealed_bytes).unwrap();
    let read = scrub.stats().bytes;
    assert_eq!(read, sealed_bytes.0);
    let wanted = Duration::from_nanos(read * 1_000_000_000 / rate);
    assert!(took >= wanted && took < wanted + Duration::from_secs(1), "{took:?} for {wanted:?}");
    let idle = scrub.step(&files, now).unwrap();
    assert_eq!((idle, scrub.stats().bytes), (vec![], read), "it rests");
    assert_eq!(scrub.due(), now + config.pause);

    let path = directory.path().join(SegmentId(3).file_name());
    let mut content = std::fs::read(&path).unwrap();
    let at = content.len() / 3;
    content[at] ^= 0x10;
    std::fs::write(&path, &content).unwrap();
    let (found, _) = round(&mut scrub, &files, &mut now);
    let [damage] = &found[..] else { panic!("{found:?}") };
    assert_eq!((damage.segment, damage.what), (Some(SegmentId(3)), Damage::BatchDamaged));
    let there = damage.offset..damage.offset + damage.bytes;
    assert!(there.contains(&(at as u64)), "{at} is not in {there:?}");
    assert_eq!((scrub.stats().damaged, scrub.stats().rounds), (1, 2));
    assert_eq!(std::fs::read(&path).unwrap(), content, "nothing was repaired");
    // It is told again as long as it is there, and the log goes on.
    assert_eq!(round(&mut scrub, &files, &mut now).0.len(), 1);
    log.append_durable(EVENT, 0, b"behind").unwrap();
    log.close().unwrap();
}

/// Some segments, of which all but the newest are sealed.
fn small_log() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    for life in 0..3 {
        let (mut log, _, _) = open(&mut storage).unwrap();
        for n in 0..4 {
            let sequence = log.append(EVENT, -1, &payload(n + life)).unwrap();
            log.force(sequence);
            wal_core::drive(&mut storage, &mut log, Time::ZERO);
        }
    }
    storage
}

fn scrubbed(log: &dyn Directory) -> Vec<Corruption> {
    let mut now = Time::ZERO;
    round(&mut Scrub::new(ScrubConfig::default(), now), log, &mut now).0
}

#[test]
fn every_flip_in_a_sealed_segment_is_told_with_its_segment() {
    let mut log = small_log();
    assert_eq!(scrubbed(&log), []);
    let ids = log.segments().unwrap();
    assert_eq!(ids.len(), 3);
    for id in [SegmentId(1), SegmentId(2)] {
        for at in 0..log.file_mut(id).len() {
            log.file_mut(id)[at] ^= 1 << (at % 8);
            let found = scrubbed(&log);
            let here = |one: &Corruption| {
                one.segment == Some(id)
                    && one.offset <= at as u64
                    && at as u64 <= one.offset + one.bytes
            };
            assert!(found.iter().any(here), "{id} {at}: {found:?}");
            assert!(found.iter().all(|one| one.segment == Some(id)), "{found:?}");
            log.file_mut(id)[at] ^= 1 << (at % 8);
        }
    }
    // The open one is the next opening's.
    let end = log.file_mut(SegmentId(3)).len();
    log.file_mut(SegmentId(3))[end - 1] ^= 1;
    assert_eq!(scrubbed(&log), []);
    assert!(scan(&log).1.is_corrupt());
}

/// The first segments' files are read as zeros once they are recycled: listed no more, or not there at all.
struct Recycled {
    log: MemoryStorage,
    gone: std::cell::Cell<bool>,
    readable: bool,
}

impl Directory for Recycled {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        let mut ids = self.log.segments()?;
        ids.retain(|id| *id > SegmentId(1) || !self.gone.get());
        Ok(ids)
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        if self.gone.get() && segment == SegmentId(1) && !self.readable {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.log.len(segment)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let read = self.log.read_at(segment, offset, into)?;
        if self.gone.get() && segment == SegmentId(1) {
            into[..read].fill(0);
        }
        Ok(read)
    }
}

#[test]
fn a_segment_that_is_recycled_meanwhile_is_none_of_the_logs() {
    for readable in [true, false] {
        let gone = std::cell::Cell::new(false);
        let log = Recycled { log: small_log(), gone, readable };
        let mut now = Time::ZERO;
        let mut scrub = Scrub::new(ScrubConfig::default(), now);
        assert_eq!(scrub.step(&log, now).unwrap(), [], "the round has begun");
        log.gone.set(true);
        let (found, _) = round(&mut scrub, &log, &mut now);
        assert_eq!((found, scrub.stats().segments), (vec![], 1));
    }
}

/// A disk that cannot read a segment is not a log that is damaged.
#[test]
fn an_error_is_told_and_the_round_goes_on() {
    struct Broken(MemoryStorage, std::cell::Cell<bool>);
    impl Directory for Broken {
        fn segments(&self) -> io::Result<Vec<SegmentId>> {
            self.0.segments()
        }
        fn len(&self, segment: SegmentId) -> io::Result<u64> {
            self.0.len(segment)
        }
        fn read_at(&self, segment: SegmentId, at: u64, into: &mut [u8]) -> io::Result<usize> {
            if self.1.get() && segment == SegmentId(1) {
                return Err(io::Error::other("bad sector"));
            }
            self.0.read_at(segment, at, into)
        }
    }
    let log = Broken(small_log(), std::cell::Cell::new(false));
    let mut now = Time::ZERO;
    let mut scrub = Scrub::new(ScrubConfig::default(), now);
    assert_eq!(scrub.step(&log, now).unwrap(), []);
    log.1.set(true);
    let error = scrub.step(&log, now).unwrap_err();
    assert!(error.to_string().contains("bad sector"));
    assert!(scrub.due() > now, "not at once again");
    assert_eq!(round(&mut scrub, &log, &mut now).0, []);
    let stats = scrub.stats();
    assert_eq!((stats.unreadable, stats.segments, stats.damaged), (1, 1, 0));
}
