//! wal-core, as its users see it. This is the only file that knows it.

use std::collections::VecDeque;
use std::path::Path;

use wal_core::{
    Config, EventType, FileLog, FileStorage, Guard, Place, Record, ScanConfig, Ticket, Visitor,
    Writes,
};

use crate::log::{Buffered, Log, Multiplexed, Payload, Trouble};
use crate::replay::Seen;

/// The name of this log in every table.
pub const NAME: &str = "wal-core";

/// The same, written past the page cache.
pub const DIRECT: &str = "wal-core, O_DIRECT";

const EVENT: EventType = EventType::TX_COMMIT_START;

/// A log whose segments all have this size, in bytes; by default they grow.
pub fn open_segments(directory: &Path, bytes: u64) -> Result<FileLog, Trouble> {
    let config =
        Config { segment_bytes_first: bytes, segment_bytes_max: bytes, ..Config::default() };
    Ok(FileLog::open(directory, &config, &mut ())?.0)
}

pub fn open(directory: &Path) -> Result<Box<dyn Log>, Trouble> {
    Ok(Box::new(FileLog::open(directory, &Config::default(), &mut ())?.0))
}

/// Written past the page cache; an error where the file system has no such thing.
pub fn open_direct(directory: &Path) -> Result<Box<dyn Log>, Trouble> {
    Ok(Box::new(direct(directory)?))
}

fn direct(directory: &Path) -> Result<FileLog, Trouble> {
    let (log, _) = FileLog::open_with(directory, &Config::default(), Writes::Direct, &mut ())?;
    match log.writes() {
        Writes::Direct => Ok(log),
        Writes::Cached => Err("this file system does not write past the page cache".into()),
    }
}

impl Log for FileLog {
    fn append(&self, _: usize, payload: &Payload) -> Result<(), Trouble> {
        self.append_durable(EVENT, 0, payload)?;
        Ok(())
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.stats().syncs)
    }

    fn close(self: Box<Self>) -> Result<(), Trouble> {
        Ok(FileLog::close(*self)?)
    }
}

/// A log that its first caller compacts whenever that is due, as a coordinator does: with what a thousand
/// of its records hold, in parts.
pub struct Compacted(FileLog);

const PARTS: usize = 16;
const PART_BYTES: usize = 1_000 * crate::log::PAYLOAD / PARTS;

impl Compacted {
    /// Segments of that size, in bytes; looked at from twenty thousand records on, which is some times a
    /// second.
    pub fn open(directory: &Path, segment_bytes: u64) -> Result<Compacted, Trouble> {
        let config = Config {
            segment_bytes_first: segment_bytes,
            segment_bytes_max: segment_bytes,
            max_records: 20_000,
            ..Config::default()
        };
        Ok(Compacted(FileLog::open(directory, &config, &mut ())?.0))
    }

    /// How many snapshots have taken effect.
    pub fn compactions(&self) -> u64 {
        self.0.stats().compactions
    }
}

impl Log for Compacted {
    fn append(&self, caller: usize, payload: &Payload) -> Result<(), Trouble> {
        self.0.append_durable(EVENT, 0, payload)?;
        if caller == 0 && self.0.compaction_due() {
            for part in 1..=PARTS {
                self.0.append_part(0, (0, 0), part == PARTS, &[0xA5; PART_BYTES])?;
            }
        }
        Ok(())
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.0.stats().syncs)
    }

    fn close(self: Box<Self>) -> Result<(), Trouble> {
        Ok(self.0.close()?)
    }
}

/// How many segments of this size a log has filled at least.
pub fn rotations(log: &FileLog, segment_bytes: u64) -> u64 {
    log.stats().bytes / segment_bytes
}

/// How a log is opened to which one thread appends without waiting.
type OpenMultiplexed = fn(&Path) -> Result<Box<dyn Multiplexed>, Trouble>;

/// With tickets, each waited for in the order of appending: records become durable in that order.
pub const MULTIPLEXED: Option<OpenMultiplexed> = Some(|directory| {
    let (log, _) = FileLog::open(directory, &Config::default(), &mut ())?;
    Ok(Box::new(Tickets { log, under_way: VecDeque::new() }))
});

/// The same, written past the page cache.
pub fn multiplexed_direct(directory: &Path) -> Result<Box<dyn Multiplexed>, Trouble> {
    Ok(Box::new(Tickets { log: direct(directory)?, under_way: VecDeque::new() }))
}

struct Tickets {
    log: FileLog,
    under_way: VecDeque<(usize, Ticket)>,
}

impl Multiplexed for Tickets {
    fn submit(&mut self, token: usize, payload: &Payload) -> Result<(), Trouble> {
        let ticket = self.log.submit(EVENT, 0, payload)?;
        self.under_way.push_back((token, ticket));
        Ok(())
    }

    fn completed(&mut self, tokens: &mut Vec<usize>) -> Result<(), Trouble> {
        let (token, oldest) = self.under_way.pop_front().ok_or("nothing is under way")?;
        oldest.wait()?;
        tokens.push(token);
        while self.under_way.front().is_some_and(|(_, ticket)| ticket.is_durable()) {
            tokens.extend(self.under_way.pop_front().map(|(token, _)| token));
        }
        Ok(())
    }
}

struct Lazy(FileLog);

pub fn buffered(directory: &Path) -> Result<Box<dyn Buffered>, Trouble> {
    Ok(Box::new(Lazy(FileLog::open(directory, &Config::default(), &mut ())?.0)))
}

impl Buffered for Lazy {
    fn append(&mut self, payload: &Payload) -> Result<(), Trouble> {
        self.0.append(EVENT, 0, payload)?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Trouble> {
        Ok(self.0.close()?)
    }
}

/// Batches hold 16 records of 129 bytes, and have no room for a 17th: the hardest case that the bar
/// speaks of.
fn batches_of_16() -> Config {
    Config { max_payload: 2_000, batch_bytes_max: 2_184, ..Config::default() }
}

pub fn build(directory: &Path, records: u64) -> Result<(), Trouble> {
    let (log, _) = FileLog::open(directory, &batches_of_16(), &mut ())?;
    for number in 1..=records {
        log.append(EVENT, 0, &crate::log::payload(number))?;
    }
    Ok(log.close()?)
}

#[derive(Default)]
struct Replay {
    records: u64,
    sum: u64,
    batches: u64,
}

impl Visitor for Replay {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        self.records += 1;
        self.sum = self.sum.wrapping_add(crate::log::number(record.payload));
    }

    fn guard(&mut self, _: &Guard, _: Place) {
        self.batches += 1;
    }
}

/// Only reads, as the others here do: opening for writing would make and sync the next segment too, and
/// measure the disk. `each_checksum` is what replay does not need and `trinity wal verify` does.
pub fn replay(directory: &Path, each_checksum: bool) -> Result<Seen, Trouble> {
    let mut replay = Replay::default();
    let storage = FileStorage::read(directory)?;
    let config = ScanConfig { enable_checksums: each_checksum, ..ScanConfig::default() };
    let scanned = wal_core::scan(&storage, &config, &mut replay)?;
    if scanned.is_corrupt() {
        return Err("the log is damaged".into());
    }
    let Replay { records, sum, batches } = replay;
    // A flush may end with a shorter batch, and there are some thousands of flushes.
    if records > 16 * batches || 11 * records < 10 * 16 * batches {
        return Err(
            format!("{records} records in {batches} batches: 16 were wanted in each").into()
        );
    }
    Ok(Seen { records, sum, open: Box::new(storage) })
}
