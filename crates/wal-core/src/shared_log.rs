//! A log that many threads share: group commit.
//!
//! Whoever needs a record durable while nobody else does performs the flush itself. Once callers overlap,
//! a thread of the log's own takes over: it performs one flush after the other, each for everybody who
//! asked meanwhile. Callers wait on a word of their flush, not on a lock; each flush wakes its own, once.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::{Epoch, Sequence, Time};

use crate::drive;
use crate::file::{FileError, FileStorage};
use crate::log::{AppendError, Config, Flush, Log};
use crate::open::OpenMode;
use crate::record::EventType;
use crate::scan::{Scanned, Visitor};
use crate::stats::Stats;
use crate::storage::{Storage, Zeros};
use crate::sync::{
    Arc, AtomicBool, AtomicU32, AtomicU64, Clock, Condvar, JoinHandle, Mutex, MutexGuard, Ordering,
    PoisonError, Word, spawn, yield_now,
};

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

/// A record that was appended and is on its way to the disk.
///
/// A future, too: it is ready once the record is durable, and needs no particular runtime. Dropping it
/// changes nothing: the record becomes durable all the same.
#[derive(Debug)]
pub struct Ticket<S: Storage + Send + 'static = FileStorage> {
    shared: Arc<Shared<S>>,
    sequence: Sequence,
    /// The flush that it was last registered for, and whom that wakes.
    registered: Option<(u64, Waker)>,
}

/// So many flushes can be waited for at once without one waking another's waiters: the one in flight,
/// the next, and some whose waiters have not run yet.
const ROUNDS: usize = 4;

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

/// What waiters look at without the lock.
#[derive(Debug, Default)]
struct Progress {
    durable: AtomicU64,
    /// How many flushes are done.
    flushed: AtomicU64,
    /// The log has failed or is closed: no flush will come any more.
    ended: AtomicBool,
    /// How many asked to be in the next flush.
    asked: AtomicU32,
    /// One word for each flush, in turn: it changes when the flush is done.
    rounds: [Word; ROUNDS],
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

/// The segment behind the current one, zero-filled ahead of time.
#[derive(Debug)]
enum NextSegment {
    /// Not thought of yet.
    None,
    Making(JoinHandle<()>),
    /// There was no room for it on the disk; when that is tried again, and how patient that has become.
    Refused {
        again: Time,
        pause: Duration,
    },
    /// Made; or it cannot be, for another reason than room: then the next segment grows as it is written.
    Settled,
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
        storage.zero_fill_next(config.segment_bytes_first);
        let (log, scanned) =
            drive::open(&mut storage, config, mode, random_id(), Time::ZERO, visitor)?;
        Ok((FileLog::new(storage, log), scanned))
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

impl<S: Storage + Send + 'static> Ticket<S> {
    /// The record's number.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Whether it is durable by now.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.shared.progress.durable() >= self.sequence
    }

    /// Waits until it is durable, and gives its number.
    ///
    /// # Errors
    /// [`DurableError::Unknown`].
    pub fn wait(self) -> Result<Sequence, DurableError> {
        if !self.is_durable() {
            self.shared.wait(self.shared.lock(), self.sequence, false)?;
        }
        Ok(self.sequence)
    }
}

impl<S: Storage + Send + 'static> Future for Ticket<S> {
    type Output = Result<Sequence, DurableError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ticket { shared, sequence, registered } = self.get_mut();
        if shared.progress.durable() >= *sequence {
            return Poll::Ready(Ok(*sequence));
        }
        let mut state = shared.lock();
        // It may have become durable just before the lock was had.
        if state.log.durable() >= *sequence {
            return Poll::Ready(Ok(*sequence));
        }
        if state.has_ended() {
            return Poll::Ready(Err(DurableError::Unknown(*sequence)));
        }
        let flush = state.flush_of(*sequence);
        let waker = context.waker();
        let known = registered.as_ref();
        if !known.is_some_and(|(number, known)| *number == flush && known.will_wake(waker)) {
            state.wakers.push((flush, waker.clone()));
            *registered = Some((flush, waker.clone()));
        }
        shared.call_writer(&mut state);
        Poll::Pending
    }
}

impl State {
    fn has_ended(&self) -> bool {
        self.log.poisoned().is_some() || self.log.is_closed()
    }

    /// The flush that makes a forced record durable.
    fn flush_of(&self, sequence: Sequence) -> u64 {
        match self.flying {
            Some(flying) if flying.covers >= sequence => flying.number,
            _ => self.flushes + 1,
        }
    }
}

impl NextSegment {
    fn is_being_made(&self) -> bool {
        matches!(self, NextSegment::Making(_))
    }
}

impl Progress {
    fn durable(&self) -> Sequence {
        Sequence(self.durable.load(Ordering::Acquire))
    }

    fn round(&self, flush: u64) -> &Word {
        &self.rounds[(flush % ROUNDS as u64) as usize]
    }

    /// Waits until a flush is done or none will come.
    fn wait(&self, flush: u64) {
        let round = self.round(flush);
        loop {
            // Read before the condition is looked at: what changes it changes this word afterwards.
            let seen = round.value();
            let done = self.flushed.load(Ordering::Acquire) >= flush;
            if done || self.ended.load(Ordering::Acquire) {
                return;
            }
            round.wait_while(seen);
        }
    }

    fn wake(&self, flush: u64) {
        self.round(flush).advance();
    }
}

impl<S: Storage + Send + 'static> Shared<S> {
    /// How often in a row the writer sees nobody come before it stops gathering.
    const QUIET_LOOKS: u32 = 24;
    /// A disk without room for the next segment is asked again after this long, then after twice as long, …
    const RETRY_FIRST: Duration = Duration::from_millis(50);
    /// … but never later than this.
    const RETRY_MAX: Duration = Duration::from_secs(2);

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is one of the log's own assertions; its poison is the log's.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn storage(&self) -> MutexGuard<'_, S> {
        // Whoever panicked in it has left the log poisoned or in flight for ever.
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn append(
        &self,
        record: NewRecord<'_>,
    ) -> Result<(MutexGuard<'_, State>, Sequence), AppendError> {
        let NewRecord { event, timestamp_ms, payload } = record;
        let mut state = self.lock();
        loop {
            match state.log.append(event, timestamp_ms, payload) {
                Err(AppendError::Full { .. }) => state = self.make_room(state),
                Err(AppendError::NoSpace) if state.spare.is_being_made() => {
                    state = self.wait_for_done(state);
                }
                result => return result.map(|sequence| (state, sequence)),
            }
        }
    }

    /// Waits until a record is durable: in its flush, or by performing that.
    fn wait<'s>(
        self: &'s Arc<Shared<S>>,
        mut state: MutexGuard<'s, State>,
        sequence: Sequence,
        mut asks: bool,
    ) -> Result<(), DurableError> {
        loop {
            if state.log.durable() >= sequence {
                return Ok(());
            }
            if state.has_ended() {
                return Err(DurableError::Unknown(sequence));
            }
            state.log.force(sequence);
            if std::mem::take(&mut asks) {
                self.ask(&mut state);
            }
            if state.flying.is_none() && state.writer != Writer::AtWork {
                let flush = self.hand_out(&mut state).expect("what is forced is due");
                drop(state);
                self.perform(flush);
            } else {
                let flush = state.flush_of(sequence);
                match &mut state.flying {
                    Some(flying) if flying.number == flush => flying.waiters += 1,
                    _ => state.waiters += 1,
                }
                drop(state);
                self.progress.wait(flush);
            }
            if self.progress.durable() >= sequence {
                return Ok(());
            }
            state = self.lock();
        }
    }

    /// Somebody asks to be in the next flush.
    fn ask(&self, state: &mut State) {
        state.asked += 1;
        self.progress.asked.store(state.asked, Ordering::Relaxed);
    }

    /// Makes sure that somebody performs the next flush.
    fn call_writer(&self, state: &mut State) {
        if state.flying.is_none() && state.writer != Writer::AtWork {
            state.writer = Writer::AtWork;
            self.work.notify_one();
        }
    }

    /// An idle writer does not know of timers that were set since.
    fn tell_of_timers(&self, state: &mut State) {
        if state.writer == Writer::Idle {
            state.writer = Writer::Asleep;
            self.work.notify_one();
        }
    }

    fn wait_for_done<'s>(&self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        state.waiting_for_done += 1;
        let mut state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting_for_done -= 1;
        state
    }

    /// Waits for the flush in flight, or for one of what is buffered.
    fn make_room<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        if state.has_ended() {
            return state;
        }
        let last = state.log.last();
        state.log.force(last);
        self.call_writer(&mut state);
        self.wait_for_done(state)
    }

    fn hand_out(&self, state: &mut State) -> Option<Flush> {
        let flush = state.log.next_flush(self.now())?;
        self.takes_off(state, &flush);
        Some(flush)
    }

    /// A flush was handed out, with everything that had been appended.
    fn takes_off(&self, state: &mut State, flush: &Flush) {
        state.flushes += 1;
        let covers = if flush.forced { state.log.last() } else { Sequence::NONE };
        let (asked, waiters) =
            (std::mem::take(&mut state.asked), std::mem::take(&mut state.waiters));
        self.progress.asked.store(0, Ordering::Relaxed);
        let (forced, all) = &mut state.forced_of_segment;
        (*forced, *all) = (*forced + u32::from(asked > 0), *all + 1);
        state.flying = Some(Flying { number: state.flushes, covers, asked, waiters });
    }

    /// Performs a flush without the lock, so that others append meanwhile, and tells whoever waits for
    /// it.
    fn perform(self: &Arc<Shared<S>>, flush: Flush) {
        let Flush { forced, records, first, last, .. } = flush;
        let span = tracing::debug_span!("flush", forced, records, first = first.0, last = last.0);
        let result = span.in_scope(|| self.storage().perform_all(&flush.ops));
        let mut state = self.lock();
        state.log.flushed(self.now(), result);
        state.log.reuse(flush);
        let flying = state.flying.take().expect("only a flush that took off is performed");
        let number = flying.number;
        self.progress.durable.store(state.log.durable().0, Ordering::Release);
        self.progress.flushed.store(number, Ordering::Release);
        let failed = state.log.poisoned().is_some();
        let mut woken = Vec::new();
        if !state.wakers.is_empty() {
            let due = |(flush, _): &mut (u64, Waker)| failed || *flush <= number;
            woken.extend(state.wakers.extract_if(.., due).map(|(_, waker)| waker));
        }
        // Who came meanwhile is served by the writer.
        if state.asked > 0 || state.waiters > 0 || state.waiting_for_done > 0 {
            self.call_writer(&mut state);
        } else {
            self.tell_of_timers(&mut state);
        }
        if state.waiting_for_done > 0 {
            self.done.notify_all();
        }
        self.make_next_segment(&mut state);
        drop(state);
        if failed {
            self.end();
        } else if flying.waiters > 0 {
            self.progress.wake(number);
        }
        woken.into_iter().for_each(Waker::wake);
    }

    /// No flush will come any more: whoever waits for one is woken.
    fn end(&self) {
        self.progress.ended.store(true, Ordering::Release);
        (0..ROUNDS as u64).for_each(|round| self.progress.wake(round));
        self.done.notify_all();
        let wakers = std::mem::take(&mut self.lock().wakers);
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// The writer's life: every flush while callers overlap, and, when they are due, those that nobody
    /// waits for.
    fn write(self: &Arc<Shared<S>>) {
        let mut state = self.lock();
        while !state.stopping {
            if state.flying.is_none()
                && let Some(flush) = self.hand_out(&mut state)
            {
                let crowd = state.flying.map_or(0, |flying| flying.asked);
                state.writer = Writer::AtWork;
                drop(state);
                self.perform(flush);
                // Those who were just woken are about to come again.
                if crowd > 1 {
                    self.gather(crowd);
                }
                state = self.lock();
                continue;
            }
            self.make_next_segment(&mut state);
            state = self.sleep(state);
        }
    }

    /// Lets the others run until as many have asked again, or nobody comes any more.
    fn gather(&self, crowd: u32) {
        let (mut came, mut quiet) = (0, 0);
        while came < crowd && quiet < Self::QUIET_LOOKS {
            yield_now();
            let asked = self.progress.asked.load(Ordering::Relaxed);
            quiet = if asked > came { 0 } else { quiet + 1 };
            came = asked;
        }
    }

    fn sleep<'s>(&self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let now = self.now();
        let again = match state.spare {
            NextSegment::Refused { again, .. } => Some(again),
            _ => None,
        };
        let due = match Time::earliest(state.log.next_wake(), again) {
            Some(due) if due <= now => return state,
            Some(due) => Some(due - now),
            // Somebody else flushes, perhaps over and over: look again later, unasked.
            None if state.flying.is_some() => Some(state.log.config().idle_guard_after),
            None => None,
        };
        let mut state = match due {
            Some(pause) => {
                state.writer = Writer::Asleep;
                let waited = self.work.wait_timeout(state, pause);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                state.writer = Writer::Idle;
                self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
            }
        };
        // Awake, but at work only if it was called: a lone caller need not wait for it.
        if state.writer == Writer::Idle {
            state.writer = Writer::Asleep;
        }
        state
    }

    /// Zero-fills the next segment once the current one is half full, on a thread of its own. Until there
    /// is one the log takes no more than the current one holds: what a full disk refuses is refused before
    /// it is accepted.
    fn make_next_segment(self: &Arc<Shared<S>>, state: &mut State) {
        let Some(bytes) = state.log.next_segment_due() else {
            // The log has gone on in it.
            if let NextSegment::Settled = state.spare {
                state.spare = NextSegment::None;
            }
            return;
        };
        let pause = match state.spare {
            NextSegment::None => Self::RETRY_FIRST,
            NextSegment::Refused { again, pause } if again <= self.now() => {
                (2 * pause).min(Self::RETRY_MAX)
            }
            _ => return,
        };
        // Where most flushes were for nobody, a sync is rare.
        let (forced, all) = std::mem::take(&mut state.forced_of_segment);
        let zeros = if 2 * forced < all { Zeros::Reserved } else { Zeros::Written };
        let Some(make) = self.storage().make_ahead(bytes, zeros) else {
            state.spare = NextSegment::Settled;
            return;
        };
        state.log.confine(true);
        let shared = Arc::clone(self);
        let maker = spawn(move || {
            let stop = || shared.progress.ended.load(Ordering::Relaxed);
            let made = make(&stop).map(|spare| shared.storage().keep_ahead(spare));
            let mut state = shared.lock();
            let no_space = |error: &io::Error| {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            };
            state.spare = match made {
                Err(error) if no_space(&error) => {
                    tracing::error!(%error, bytes, "no room for the log's next segment");
                    NextSegment::Refused { again: shared.now() + pause, pause }
                }
                made => {
                    if let Err(error) = made
                        && !stop()
                    {
                        tracing::warn!(%error, bytes, "no segment could be made ahead of time");
                    }
                    state.log.confine(false);
                    NextSegment::Settled
                }
            };
            shared.tell_of_timers(&mut state);
            shared.done.notify_all();
        });
        state.spare = NextSegment::Making(maker);
    }
}

/// A random log id, from the same source that seeds the standard library's hash maps.
pub(crate) fn random_id() -> u64 {
    RandomState::new().build_hasher().finish()
}
