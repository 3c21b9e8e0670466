//! The plain, single-threaded driver: opens a log over a storage and performs its flushes.

use base::{Epoch, Time};

use crate::log::{Config, Log};
use crate::open::{OpenError, OpenMode, Opening};
use crate::scan::{Scanned, Visitor};
use crate::storage::Storage;

/// Opens a log over a storage in one go: every step of [`Opening`], each operation performed at once.
/// A log that is new gets `new_log_id`, which should be random.
///
/// # Errors
/// As the steps'; [`OpenError::ClaimedMeanwhile`] if somebody else created the segment that was to be
/// claimed: open again, with a fresh visitor.
pub fn open(
    storage: &mut dyn Storage,
    config: &Config,
    mode: OpenMode,
    new_log_id: u64,
    now: Time,
    visitor: &mut dyn Visitor,
) -> Result<(Log, Scanned), OpenError> {
    let mut opening = Opening::scan(&*storage, config.clone(), mode, visitor)?;
    let ops = opening.claim(Epoch::NONE, new_log_id)?;
    storage.perform_all(&ops).map_err(OpenError::of_claim)?;
    let ops = opening.read_tail(&*storage, visitor)?;
    storage.perform_all(&ops).map_err(OpenError::of)?;
    let scanned = opening.scanned().clone();
    Ok((opening.finish(&*storage, now)?, scanned))
}

/// Performs the log's flush if one is due, and tells the log. False if none was due.
///
/// A failure is no return value: it is in [`Log::poisoned`].
pub fn drive(storage: &mut dyn Storage, log: &mut Log, now: Time) -> bool {
    let Some(flush) = log.next_flush(now) else { return false };
    log.flushed(now, storage.perform_all(&flush.ops));
    log.reuse(flush.ops);
    true
}

/// Closes the log: performs what is left and the guards that prove it.
///
/// A failure is in [`Log::poisoned`].
pub fn close(storage: &mut dyn Storage, log: &mut Log, now: Time) {
    let flush = log.close();
    log.flushed(now, storage.perform_all(&flush.ops));
}
