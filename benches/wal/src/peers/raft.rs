//! raft-engine: every caller is a Raft group of its own, as it is meant to be used.

use std::path::Path;

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt};

use crate::log::{Log, Multiplexed, Payload, Trouble, number, payload};
use crate::replay::Seen;

pub const NAME: &str = "raft-engine";

/// An entry is a payload; its index is the payload's number.
struct Entry;

impl MessageExt for Entry {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        number(entry.get_value())
    }
}

fn entry(payload: &[u8]) -> BytesValue {
    let mut entry = BytesValue::new();
    entry.set_value(payload.to_vec());
    entry
}

fn engine(directory: &Path) -> Result<Engine, Trouble> {
    let dir = directory.to_str().ok_or("raft-engine wants paths in UTF-8")?.to_owned();
    Ok(Engine::open(Config { dir, ..Config::default() })?)
}

struct Raft(Engine);

pub fn open(directory: &Path) -> Result<Box<dyn Log>, Trouble> {
    Ok(Box::new(Raft(engine(directory)?)))
}

impl Log for Raft {
    fn append(&self, caller: usize, payload: &Payload) -> Result<(), Trouble> {
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entry>(caller as u64 + 1, &[entry(payload)])?;
        self.0.write(&mut batch, true)?;
        Ok(())
    }
}

/// What is in flight on one thread is one batch of one group, which is durable as a whole.
struct Batching {
    engine: Engine,
    last: u64,
    entries: Vec<BytesValue>,
    tokens: Vec<usize>,
}

pub fn multiplexed(directory: &Path) -> Result<Box<dyn Multiplexed>, Trouble> {
    let engine = engine(directory)?;
    Ok(Box::new(Batching { engine, last: 0, entries: Vec::new(), tokens: Vec::new() }))
}

impl Multiplexed for Batching {
    fn submit(&mut self, token: usize, payload: &Payload) -> Result<(), Trouble> {
        // A group's indexes have no gaps: it counts for all callers.
        self.last += 1;
        let mut payload = *payload;
        payload[..8].copy_from_slice(&self.last.to_le_bytes());
        self.entries.push(entry(&payload));
        self.tokens.push(token);
        Ok(())
    }

    fn completed(&mut self, tokens: &mut Vec<usize>) -> Result<(), Trouble> {
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entry>(1, &self.entries)?;
        self.engine.write(&mut batch, true)?;
        self.entries.clear();
        tokens.append(&mut self.tokens);
        Ok(())
    }
}

pub fn build(directory: &Path, records: u64) -> Result<(), Trouble> {
    let engine = engine(directory)?;
    let mut batch = LogBatch::default();
    for first in (1..=records).step_by(16) {
        let numbers = first..(first + 16).min(records + 1);
        let entries: Vec<BytesValue> = numbers.map(|number| entry(&payload(number))).collect();
        batch.add_entries::<Entry>(1, &entries)?;
        engine.write(&mut batch, false)?;
    }
    Ok(engine.sync()?)
}

/// Opening reads and checks every batch, and makes the index of the entries; no entry is decoded.
pub fn replay(directory: &Path) -> Result<Seen, Trouble> {
    let engine = engine(directory)?;
    let first = engine.first_index(1).unwrap_or(0);
    let last = engine.last_index(1).unwrap_or(0);
    let records = (last + 1).saturating_sub(first.max(1));
    // It has seen no payload; the indexes are what it vouches for.
    Ok(Seen { records, sum: crate::replay::sum(records), open: Box::new(engine) })
}
