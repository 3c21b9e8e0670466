//! A log on files that many threads share. Group commit: whoever needs a record durable and finds no
//! flush under way performs one, for everybody whose records wait; the others sleep until it is done.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use base::{Epoch, Sequence, Time};

use crate::drive;
use crate::file::{FileError, FileStorage};
use crate::log::{AppendError, Config, Flush, Log};
use crate::open::OpenMode;
use crate::record::EventType;
use crate::scan::{Scanned, Visitor};
use crate::stats::Stats;
use crate::storage::Storage;

/// Why a record is not known to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// The record was not appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A flush failed, or another writer took over, before the record was known to be durable: it may
    /// or may not survive. Opening the log again tells.
    #[error("the log failed before record {0} was known to be durable")]
    Unknown(Sequence),
}

/// A log on files, open for writing; a handle that threads share by reference or in an `Arc`.
///
/// Dropping it closes it as [`FileLog::close`] does, without saying whether that worked.
#[derive(Debug)]
pub struct FileLog {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A flush is done.
    done: Condvar,
    /// The flusher has something to wait for, or is to stop.
    work: Condvar,
    storage: Mutex<FileStorage>,
    started: Instant,
}

#[derive(Debug)]
struct State {
    log: Log,
    flusher_sleeps: bool,
    stopping: bool,
}

impl FileLog {
    /// Opens the log in a directory for writing, alone; both are created if they are not there. The
    /// visitor is told what the log holds.
    ///
    /// # Errors
    /// [`FileError`]: in use, not openable, damaged.
    pub fn open(
        directory: &Path,
        config: &Config,
        visitor: &mut dyn Visitor,
    ) -> Result<(FileLog, Scanned), FileError> {
        let mut storage = FileStorage::write(directory)?;
        let mode = OpenMode::Exclusive;
        let (log, scanned) =
            drive::open(&mut storage, config, mode, random_id(), Time::ZERO, visitor)?;
        Ok((FileLog::new(storage, log), scanned))
    }

    /// A shared handle over a log that was opened step by step. The log's clock starts here.
    #[must_use]
    pub fn new(storage: FileStorage, log: Log) -> FileLog {
        // A shell may read the clock: it tells the log what time it is.
        #[expect(clippy::disallowed_methods)]
        let started = Instant::now();
        let shared = Arc::new(Shared {
            state: Mutex::new(State { log, flusher_sleeps: false, stopping: false }),
            done: Condvar::new(),
            work: Condvar::new(),
            storage: Mutex::new(storage),
            started,
        });
        let for_flusher = Arc::clone(&shared);
        // A shell may start a thread: this one writes what nobody waits for.
        #[expect(clippy::disallowed_methods)]
        let flusher = std::thread::spawn(move || for_flusher.flush_when_due());
        FileLog { shared, flusher: Some(flusher) }
    }

    /// Appends a record lazily. It is written within `idle_guard_after`, and durable with the next
    /// record that somebody waits for.
    ///
    /// Waits for a flush if too much is buffered.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(
        &self,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Result<Sequence, AppendError> {
        let mut state = self.shared.lock();
        loop {
            match state.log.append(event, timestamp_ms, payload) {
                Err(AppendError::Full { .. }) => state = self.shared.make_room(state),
                result => {
                    self.shared.wake_flusher(&state);
                    return result;
                }
            }
        }
    }

    /// Appends a record and waits until it is durable.
    ///
    /// # Errors
    /// [`DurableError`].
    pub fn append_durable(
        &self,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Result<Sequence, DurableError> {
        let sequence = self.append(event, timestamp_ms, payload)?;
        self.wait(sequence)?;
        Ok(sequence)
    }

    /// Waits until a record that was appended, and every one before it, is durable.
    ///
    /// # Errors
    /// [`DurableError::Unknown`].
    ///
    /// # Panics
    /// If nothing was appended under that sequence yet.
    pub fn wait(&self, sequence: Sequence) -> Result<(), DurableError> {
        let mut state = self.shared.lock();
        state.log.force(sequence);
        loop {
            if state.log.durable() >= sequence {
                return Ok(());
            }
            if state.log.poisoned().is_some() || state.log.is_closed() {
                return Err(DurableError::Unknown(sequence));
            }
            state = self.shared.flush_or_wait(state);
        }
    }

    /// Everything up to here is on the disk.
    #[must_use]
    pub fn durable(&self) -> Sequence {
        self.shared.lock().log.durable()
    }

    /// The last record that was appended.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.shared.lock().log.last()
    }

    /// Whether a marker is due; see [`Log::marker_due`].
    #[must_use]
    pub fn marker_due(&self) -> bool {
        self.shared.lock().log.marker_due()
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().log.stats().clone()
    }

    /// What made the log fail, if it did, in words: an error of the disk with its file, or another
    /// writer.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.lock().log.poisoned().map(ToString::to_string)
    }

    /// This start's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.lock().log.epoch()
    }

    /// The log's id.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.shared.lock().log.log_id()
    }

    /// Makes everything durable and closes the log, so that the next opening finds it proved to its
    /// end.
    ///
    /// # Errors
    /// [`DurableError::Unknown`] if a flush failed, this one or an earlier one.
    pub fn close(mut self) -> Result<(), DurableError> {
        self.close_once()
    }

    fn close_once(&mut self) -> Result<(), DurableError> {
        let Some(flusher) = self.flusher.take() else { return Ok(()) };
        let mut state = self.shared.lock();
        state.stopping = true;
        self.shared.work.notify_all();
        while state.log.is_flushing() {
            state = self.shared.wait_done(state);
        }
        let flush = state.log.close();
        let state = self.shared.perform(state, flush);
        let failed = state.log.poisoned().is_some();
        let last = state.log.last();
        drop(state);
        // It holds no lock while it runs no flush, and runs none after `stopping`.
        let flusher_failed = flusher.join().is_err();
        if failed || flusher_failed { Err(DurableError::Unknown(last)) } else { Ok(()) }
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        if let Err(error) = self.close_once() {
            tracing::warn!(%error, "the log was dropped and could not be closed");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is one of the log's own assertions; its poison is the log's.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        let nanos = self.started.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn wait_done<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.done.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs the flush that is due, or waits for the one under way.
    fn flush_or_wait<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        match state.log.next_flush(self.now()) {
            Some(flush) => self.perform(state, flush),
            None => self.wait_done(state),
        }
    }

    fn make_room<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        match state.log.next_flush(self.now()) {
            Some(flush) => self.perform(state, flush),
            None if state.log.is_flushing() => self.wait_done(state),
            // Too full for one more record and not full enough to be due: make it due.
            None => {
                let last = state.log.last();
                state.log.force(last);
                state
            }
        }
    }

    /// Performs a flush without the lock, so that others append meanwhile.
    fn perform<'s>(&'s self, state: MutexGuard<'s, State>, flush: Flush) -> MutexGuard<'s, State> {
        drop(state);
        let result = {
            let mut storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner);
            storage.perform_all(&flush.ops)
        };
        let mut state = self.lock();
        state.log.flushed(self.now(), result);
        state.log.reuse(flush);
        self.done.notify_all();
        self.wake_flusher(&state);
        state
    }

    fn wake_flusher(&self, state: &State) {
        if state.flusher_sleeps {
            self.work.notify_one();
        }
    }

    /// The flusher's life: writes lazily appended records, and the idle guard, when they are due.
    fn flush_when_due(&self) {
        let mut state = self.lock();
        while !state.stopping {
            let now = self.now();
            if let Some(flush) = state.log.next_flush(now) {
                state = self.perform(state, flush);
                continue;
            }
            state = match state.log.next_wake() {
                Some(due) if due > now => {
                    let waited = self.work.wait_timeout(state, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => state,
                // Somebody else flushes, perhaps over and over: look again later, unasked.
                None if state.log.is_flushing() => {
                    let pause = state.log.config().idle_guard_after;
                    let waited = self.work.wait_timeout(state, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    state.flusher_sleeps = true;
                    let mut state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.flusher_sleeps = false;
                    state
                }
            };
        }
    }
}

/// A random log id, from the same source that seeds the standard library's hash maps.
fn random_id() -> u64 {
    RandomState::new().build_hasher().finish()
}
