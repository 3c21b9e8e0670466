//! okaywal.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use okaywal::{Configuration, Entry, EntryId, LogManager, LogVoid, SegmentReader, WriteAheadLog};

use crate::log::{Log, Multiplexed, Payload, Trouble, number, payload};
use crate::replay::Seen;

pub const NAME: &str = "okaywal";

struct Okay(WriteAheadLog);

fn log(directory: &Path) -> io::Result<WriteAheadLog> {
    Configuration::default_for(directory).open(LogVoid)
}

pub fn open(directory: &Path) -> Result<Box<dyn Log>, Trouble> {
    Ok(Box::new(Okay(log(directory)?)))
}

impl Log for Okay {
    fn append(&self, _: usize, payload: &Payload) -> Result<(), Trouble> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Trouble> {
        Ok(self.0.shutdown()?)
    }
}

/// What is in flight on one thread is one entry, which is durable as a whole.
struct Batching {
    log: WriteAheadLog,
    waiting: Vec<(usize, Payload)>,
}

pub fn multiplexed(directory: &Path) -> Result<Box<dyn Multiplexed>, Trouble> {
    Ok(Box::new(Batching { log: log(directory)?, waiting: Vec::new() }))
}

impl Multiplexed for Batching {
    fn submit(&mut self, token: usize, payload: &Payload) -> Result<(), Trouble> {
        self.waiting.push((token, *payload));
        Ok(())
    }

    fn completed(&mut self, tokens: &mut Vec<usize>) -> Result<(), Trouble> {
        let mut entry = self.log.begin_entry()?;
        for (token, payload) in self.waiting.drain(..) {
            entry.write_chunk(&payload)?;
            tokens.push(token);
        }
        entry.commit()?;
        Ok(())
    }
}

/// One segment that is never checkpointed: a checkpoint would discard what is to be replayed.
fn kept(directory: &Path) -> Configuration {
    Configuration::default_for(directory)
        .preallocate_bytes(64 << 20)
        .checkpoint_after_bytes(u64::MAX)
}

pub fn build(directory: &Path, records: u64) -> Result<(), Trouble> {
    let log = kept(directory).open(LogVoid)?;
    // Each commit is a sync, so that entries are long; the time to read is that of chunks.
    for first in (1..=records).step_by(65_536) {
        let mut entry = log.begin_entry()?;
        for number in first..(first + 65_536).min(records + 1) {
            entry.write_chunk(&payload(number))?;
        }
        entry.commit()?;
    }
    Ok(log.shutdown()?)
}

#[derive(Debug, Default)]
struct Replay(Arc<Mutex<(u64, u64)>>);

impl LogManager for Replay {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in entry.read_all_chunks()?.into_iter().flatten() {
            seen.0 += 1;
            seen.1 = seen.1.wrapping_add(number(&chunk));
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

pub fn replay(directory: &Path) -> Result<Seen, Trouble> {
    let seen = Arc::default();
    let log = kept(directory).open(Replay(Arc::clone(&seen)))?;
    let (records, sum) = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Seen { records, sum, open: Box::new(log) })
}
