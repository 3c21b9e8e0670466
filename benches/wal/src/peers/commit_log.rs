//! commitlog. It has no group commit, so that it is measured where nobody waits for the disk.

use std::path::Path;

use commitlog::message::MessageSet;
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::log::{Buffered, Payload, Trouble, number, payload};
use crate::replay::Seen;

pub const NAME: &str = "commitlog";

struct Commit(CommitLog);

pub fn buffered(directory: &Path) -> Result<Box<dyn Buffered>, Trouble> {
    Ok(Box::new(Commit(CommitLog::new(LogOptions::new(directory))?)))
}

impl Buffered for Commit {
    fn append(&mut self, payload: &Payload) -> Result<(), Trouble> {
        self.0.append_msg(payload)?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Trouble> {
        Ok(self.0.flush()?)
    }
}

pub fn build(directory: &Path, records: u64) -> Result<(), Trouble> {
    let mut log = CommitLog::new(LogOptions::new(directory))?;
    for first in (1..=records).step_by(16) {
        let numbers = first..(first + 16).min(records + 1);
        let mut messages = commitlog::message::MessageBuf::default();
        for number in numbers {
            messages.push(payload(number)).map_err(|error| format!("{error:?}"))?;
        }
        log.append(&mut messages)?;
    }
    Ok(log.flush()?)
}

/// Reads a megabyte at a time; each message's hash is checked as it is read.
pub fn replay(directory: &Path) -> Result<Seen, Trouble> {
    let log = CommitLog::new(LogOptions::new(directory))?;
    let (mut records, mut sum) = (0, 0_u64);
    loop {
        let messages = log.read(records, ReadLimit::max_bytes(1 << 20))?;
        let before = records;
        for message in messages.iter() {
            records += 1;
            sum = sum.wrapping_add(number(message.payload()));
        }
        if records == before {
            return Ok(Seen { records, sum, open: Box::new(log) });
        }
    }
}
