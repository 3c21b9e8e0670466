//! A log that many threads share: group commit.
//!
//! Whoever needs a record durable while nobody else does performs the flush itself. Once callers overlap,
//! a thread of the log's own takes over: it performs one flush after the other, each for everybody who
//! asked meanwhile and for those whom the flush before has woken. Callers wait on a word of their flush, not
//! on a lock; each flush wakes its own, once.

mod commit;
mod company;
mod next_segment;
mod progress;
mod ticket;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::RangeInclusive;
use std::path::Path;
use std::task::Waker;

use base::{Epoch, Sequence, Time};

use self::company::Company;
use self::next_segment::NextSegment;
use self::progress::Progress;
pub use self::ticket::Ticket;
use crate::drive;
use crate::file::{FileError, FileStorage, Writes};
use crate::log::{AppendError, Config, Log};
use crate::open::OpenMode;
use crate::record::EventType;
use crate::scan::{Scanned, Visitor};
use crate::stats::Stats;
use crate::storage::Storage;
use crate::sync::{Arc, Clock, Condvar, JoinHandle, Mutex, MutexGuard, Ordering, spawn};

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

/// A record to be appended, its payload borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// What it tells.
    pub event: EventType,
    /// Unix milliseconds, for people only.
    pub timestamp_ms: i64,
    /// The event's fixed fields and extensions.
    pub payload: &'a [u8],
}

/// A log that is open for writing; a handle that threads share by reference or in an `Arc`.
///
/// Dropping it closes it as [`SharedLog::close`] does, without saying whether that worked.
#[derive(Debug)]
pub struct SharedLog<S: Storage + Send + 'static> {
    shared: Arc<Shared<S>>,
    writer: Option<JoinHandle<()>>,
}

/// A shared log on files.
pub type FileLog = SharedLog<FileStorage>;

#[derive(Debug)]
struct Shared<S> {
    state: Mutex<State>,
    /// The writer has something to do, or is to stop.
    work: Condvar,
    /// A flush is done: for those who wait for room or for the end, which is rare.
    done: Condvar,
    progress: Progress,
    storage: Mutex<S>,
    clock: Clock,
}

#[derive(Debug)]
struct State {
    log: Log,
    flying: Option<Flying>,
    /// How many flushes were handed out.
    flushes: u64,
    /// How many asked to be in the next one.
    asked: u32,
    /// How many threads wait for the next one.
    waiters: u32,
    /// How many flushes somebody asked for since a segment was last made ahead of time, and how many there
    /// were.
    forced_of_segment: (u32, u32),
    wakers: Vec<(u64, Waker)>,
    writer: Writer,
    /// How many threads wait for `done`.
    waiting_for_done: u32,
    spare: NextSegment,
    stopping: bool,
    company: Company,
}

/// The flush that somebody performs.
#[derive(Clone, Copy, Debug)]
struct Flying {
    number: u64,
    /// What it makes durable.
    covers: Sequence,
    /// How many asked for it.
    asked: u32,
    waiters: u32,
}

/// What the log's own thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// It sleeps until some timer is due: whoever asks alone performs the flush.
    Asleep,
    /// It sleeps and nothing is owed: it has to be told of timers too.
    Idle,
    /// It performs, or is about to perform, every flush.
    AtWork,
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
        FileLog::open_with(directory, config, Writes::default(), visitor)
    }

    /// As [`open`](Self::open), and says how what is written reaches the disk.
    ///
    /// # Errors
    /// [`FileError`]: in use, not openable, damaged.
    pub fn open_with(
        directory: &Path,
        config: &Config,
        writes: Writes,
        visitor: &mut dyn Visitor,
    ) -> Result<(FileLog, Scanned), FileError> {
        let mut storage = FileStorage::write(directory)?;
        storage.write_by(writes);
        let mode = OpenMode::Exclusive;
        storage.zero_fill_next(config.segment_bytes_first);
        let (log, scanned) =
            drive::open(&mut storage, config, mode, random_id(), Time::ZERO, visitor)?;
        Ok((FileLog::new(storage, log), scanned))
    }

    /// How what is written reaches the disk: as it was asked for, unless the file system refused that. Waits
    /// for a flush that is under way.
    #[must_use]
    pub fn writes(&self) -> Writes {
        self.shared.storage().writes()
    }
}

impl<S: Storage + Send + 'static> SharedLog<S> {
    /// A shared handle over a log that was opened step by step. The log's clock starts here.
    #[must_use]
    pub fn new(storage: S, log: Log) -> SharedLog<S> {
        let progress = Progress::default();
        progress.durable.store(log.durable().0, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                log,
                flying: None,
                flushes: 0,
                asked: 0,
                waiters: 0,
                forced_of_segment: (0, 0),
                wakers: Vec::new(),
                writer: Writer::AtWork,
                waiting_for_done: 0,
                spare: NextSegment::None,
                stopping: false,
                company: Company::default(),
            }),
            work: Condvar::new(),
            done: Condvar::new(),
            progress,
            storage: Mutex::new(storage),
            clock: Clock::start(),
        });
        let for_writer = Arc::clone(&shared);
        let writer = spawn(move || for_writer.write());
        SharedLog { shared, writer: Some(writer) }
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
        let record = NewRecord { event, timestamp_ms, payload };
        let (mut state, sequence) = self.shared.append(record)?;
        self.shared.tell_of_timers(&mut state);
        Ok(sequence)
    }

    /// Appends records lazily as one unit: next to each other, all of them or none. A crash may still
    /// leave only the first ones of what is not durable.
    ///
    /// Waits for a flush if too much is buffered.
    ///
    /// # Errors
    /// [`AppendError`] of the first record that cannot be appended; [`AppendError::Full`] if all of them
    /// are more than the buffer ever holds. Then nothing was appended.
    ///
    /// # Panics
    /// Without records.
    pub fn append_all(
        &self,
        records: &[NewRecord<'_>],
    ) -> Result<RangeInclusive<Sequence>, AppendError> {
        assert!(!records.is_empty(), "nothing has no sequence");
        let mut state = self.shared.lock();
        loop {
            let mut bytes = 0;
            for record in records {
                bytes += state.log.check(record.event, record.payload.len())?;
            }
            if bytes <= state.log.room(records.len() as u64) {
                break;
            }
            let max = state.log.config().buffered_bytes_max;
            if bytes > max {
                return Err(AppendError::Full { max });
            }
            if let NextSegment::Refused { .. } = state.spare {
                return Err(AppendError::NoSpace);
            }
            state = self.shared.make_room(state);
        }
        let mut appended = records.iter().map(|record| {
            let NewRecord { event, timestamp_ms, payload } = *record;
            state.log.append(event, timestamp_ms, payload).expect("all was checked under the lock")
        });
        let first = appended.next().expect("there is one at least");
        let last = appended.last().unwrap_or(first);
        self.shared.tell_of_timers(&mut state);
        Ok(first..=last)
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
        let record = NewRecord { event, timestamp_ms, payload };
        let (state, sequence) = self.shared.append(record)?;
        self.shared.wait(state, sequence, true)?;
        Ok(sequence)
    }

    /// Appends a record that is to become durable at once, and does not wait for it: the ticket tells.
    /// For callers that have many under way, or live in a runtime.
    ///
    /// Waits for a flush if too much is buffered; [`try_submit`](Self::try_submit) does not.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn submit(
        &self,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Result<Ticket<S>, AppendError> {
        let (state, sequence) = self.shared.append(NewRecord { event, timestamp_ms, payload })?;
        Ok(self.ticket_of(state, sequence))
    }

    /// As [`submit`](Self::submit), but never waits.
    ///
    /// # Errors
    /// [`AppendError`]; [`AppendError::Full`] if too much is buffered just now, or the next segment is not
    /// made yet: wait for an earlier ticket, or a moment, and submit again.
    pub fn try_submit(
        &self,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Result<Ticket<S>, AppendError> {
        let mut state = self.shared.lock();
        let sequence = match state.log.append(event, timestamp_ms, payload) {
            Err(AppendError::NoSpace) if state.spare.is_being_made() => {
                return Err(AppendError::Full { max: state.log.config().buffered_bytes_max });
            }
            appended => appended?,
        };
        Ok(self.ticket_of(state, sequence))
    }

    fn ticket_of(&self, mut state: MutexGuard<'_, State>, sequence: Sequence) -> Ticket<S> {
        state.log.force(sequence);
        self.shared.ask(&mut state);
        self.shared.call_writer(&mut state);
        drop(state);
        Ticket { shared: Arc::clone(&self.shared), sequence, registered: None }
    }

    /// Waits until a record that was appended, and every one before it, is durable.
    ///
    /// # Errors
    /// [`DurableError::Unknown`].
    ///
    /// # Panics
    /// If nothing was appended under that sequence yet.
    pub fn wait(&self, sequence: Sequence) -> Result<(), DurableError> {
        self.shared.wait(self.shared.lock(), sequence, true)
    }

    /// Everything up to here is on the disk.
    #[must_use]
    pub fn durable(&self) -> Sequence {
        self.shared.progress.durable()
    }

    /// The last record that was appended.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.shared.lock().log.last()
    }

    /// Whether it is time for a snapshot: see [`Log::compaction_due`].
    #[must_use]
    pub fn compaction_due(&self) -> bool {
        self.shared.lock().log.compaction_due()
    }

    /// Appends the next part of a snapshot: see [`Log::append_part`]. Waits while the buffer is full. The
    /// last one becomes durable soon, and then what is older goes; until that is done
    /// [`compaction_due`](Self::compaction_due) is false.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended.
    ///
    /// # Panics
    /// As `Log::append_part`.
    pub fn append_part(
        &self,
        timestamp_ms: i64,
        counts: (u64, u64),
        last: bool,
        contents: &[u8],
    ) -> Result<Sequence, AppendError> {
        let mut state = self.shared.lock();
        let sequence = loop {
            let encode = |out: &mut Vec<u8>| out.extend_from_slice(contents);
            match state.log.append_part(timestamp_ms, counts, last, encode) {
                Err(AppendError::Full { .. }) => state = self.shared.make_room(state),
                appended => break appended?,
            }
        };
        if last {
            self.shared.ask(&mut state);
            self.shared.call_writer(&mut state);
        } else {
            self.shared.tell_of_timers(&mut state);
        }
        Ok(sequence)
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
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let shared = &self.shared;
        let mut state = shared.lock();
        state.stopping = true;
        shared.work.notify_all();
        drop(state);
        // It performs no flush after `stopping`.
        let writer_failed = writer.join().is_err();
        let mut state = shared.lock();
        while state.flying.is_some() {
            state = shared.wait_for_done(state);
        }
        let flush = state.log.close();
        shared.takes_off(&mut state, &flush);
        drop(state);
        shared.perform(flush);
        shared.end();
        let mut state = shared.lock();
        let (failed, last) = (state.log.poisoned().is_some(), state.log.last());
        let spare = std::mem::replace(&mut state.spare, NextSegment::Settled);
        drop(state);
        if let NextSegment::Making(maker) = spare {
            // It stops soon, since the log has ended; its panic was printed where it happened.
            let _ = maker.join();
        }
        if failed || writer_failed { Err(DurableError::Unknown(last)) } else { Ok(()) }
    }
}

impl<S: Storage + Send + 'static> Drop for SharedLog<S> {
    fn drop(&mut self) {
        if let Err(error) = self.close_once() {
            tracing::warn!(%error, "the log was dropped and could not be closed");
        }
    }
}

/// A random log id, from the same source that seeds the standard library's hash maps.
pub(crate) fn random_id() -> u64 {
    RandomState::new().build_hasher().finish()
}
