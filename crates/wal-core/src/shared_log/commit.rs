//! The commit path: who performs a flush, for whom, and who waits for it.

use std::task::Waker;

use base::{Sequence, Time};

use super::next_segment::NextSegment;
use super::progress::ROUNDS;
use super::{Company, DurableError, Flying, NewRecord, Shared, State, Writer};
use crate::log::{AppendError, Flush};
use crate::storage::Storage;
use crate::sync::{Arc, MutexGuard, Ordering, PoisonError, yield_now};

impl State {
    pub(super) fn has_ended(&self) -> bool {
        self.log.poisoned().is_some() || self.log.is_closed()
    }

    /// The flush that makes a forced record durable.
    pub(super) fn flush_of(&self, sequence: Sequence) -> u64 {
        match self.flying {
            Some(flying) if flying.covers >= sequence => flying.number,
            _ => self.flushes + 1,
        }
    }
}

impl<S: Storage + Send + 'static> Shared<S> {
    /// So often in a row the writer has to see nobody come before it stops gathering.
    const QUIET_LOOKS: u32 = 24;

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is one of the log's own assertions; its poison is the log's.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn storage(&self) -> MutexGuard<'_, S> {
        // Whoever panicked in it has left the log poisoned or in flight for ever.
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(super) fn append(
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
    pub(super) fn wait<'s>(
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
    pub(super) fn ask(&self, state: &mut State) {
        state.asked += 1;
        self.progress.asked.store(state.asked, Ordering::Relaxed);
    }

    /// Makes sure that somebody performs the next flush.
    pub(super) fn call_writer(&self, state: &mut State) {
        if state.flying.is_none() && state.writer != Writer::AtWork {
            state.writer = Writer::AtWork;
            self.work.notify_one();
        }
    }

    /// An idle writer does not know of timers that were set since.
    pub(super) fn tell_of_timers(&self, state: &mut State) {
        if state.writer == Writer::Idle {
            state.writer = Writer::Asleep;
            self.work.notify_one();
        }
    }

    pub(super) fn wait_for_done<'s>(
        &self,
        mut state: MutexGuard<'s, State>,
    ) -> MutexGuard<'s, State> {
        state.waiting_for_done += 1;
        let mut state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting_for_done -= 1;
        state
    }

    /// Waits for the flush in flight, or for one of what is buffered.
    pub(super) fn make_room<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
    ) -> MutexGuard<'s, State> {
        if state.has_ended() {
            return state;
        }
        let last = state.log.last();
        state.log.force(last);
        self.call_writer(&mut state);
        self.wait_for_done(state)
    }

    pub(super) fn hand_out(&self, state: &mut State) -> Option<Flush> {
        let flush = state.log.next_flush(self.now())?;
        self.takes_off(state, &flush);
        Some(flush)
    }

    /// A flush was handed out, with everything that had been appended.
    pub(super) fn takes_off(&self, state: &mut State, flush: &Flush) {
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
    pub(super) fn perform(self: &Arc<Shared<S>>, flush: Flush) {
        let Flush { forced, records, first, last, .. } = flush;
        let span = tracing::debug_span!("flush", forced, records, first = first.0, last = last.0);
        let began = self.now();
        let result = span.in_scope(|| self.storage().perform_all(&flush.ops));
        let mut state = self.lock();
        let ended = self.now();
        state.log.flushed(ended, result);
        state.log.reuse(flush.ops);
        let flying = state.flying.take().expect("only a flush that took off is performed");
        let number = flying.number;
        let came = state.asked;
        state.company.flushed(forced.then(|| ended - began), flying.asked, came);
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
    pub(super) fn end(&self) {
        self.progress.ended.store(true, Ordering::Release);
        (0..ROUNDS as u64).for_each(|round| self.progress.wake(round));
        self.done.notify_all();
        let wakers = std::mem::take(&mut self.lock().wakers);
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// The writer's life: every flush while callers overlap, and, when they are due, those that nobody
    /// waits for.
    pub(super) fn write(self: &Arc<Shared<S>>) {
        let mut state = self.lock();
        while !state.stopping {
            if state.flying.is_none()
                && let Some(flush) = self.hand_out(&mut state)
            {
                state.writer = Writer::AtWork;
                drop(state);
                self.perform(flush);
                state = self.gather(self.lock());
                continue;
            }
            self.make_next_segment(&mut state);
            state = self.sleep(state);
        }
    }

    /// Lets the others run until all who are expected have asked, or nobody comes any more.
    ///
    /// Those whom the flush before has woken are about to come again, and who came meanwhile is here. With all
    /// of them in one flush nobody waits for two. How long that may take depends on the processors: where it
    /// has been worth it, up to half of what a flush takes, and never long.
    pub(super) fn gather<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let Company { expected, patience, .. } = state.company;
        let here = state.asked;
        if expected < 2 || here >= expected || state.stopping {
            return state;
        }
        drop(state);
        let until = self.now() + patience;
        let (mut came, mut quiet) = (here, 0);
        while came < expected {
            yield_now();
            let asked = self.progress.asked.load(Ordering::Relaxed);
            quiet = if asked > came { 0 } else { quiet + 1 };
            came = asked;
            if quiet >= Self::QUIET_LOOKS && self.now() >= until {
                break;
            }
        }
        let mut state = self.lock();
        state.company.gathered(came > here);
        state
    }

    pub(super) fn sleep<'s>(&self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
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
}
