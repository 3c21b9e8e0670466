//! What those who wait for a flush look at, without the lock.

use base::Sequence;

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, Word};

/// So many flushes can be waited for at once without one waking another's waiters: the one in flight,
/// the next, and some whose waiters have not run yet.
pub(super) const ROUNDS: usize = 4;

/// What waiters look at without the lock.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) durable: AtomicU64,
    /// How many flushes are done.
    pub(super) flushed: AtomicU64,
    /// The log has failed or is closed: no flush will come any more.
    pub(super) ended: AtomicBool,
    /// How many asked to be in the next flush.
    pub(super) asked: AtomicU32,
    /// One word for each flush, in turn: it changes when the flush is done.
    pub(super) rounds: [Word; ROUNDS],
}

impl Progress {
    pub(super) fn durable(&self) -> Sequence {
        Sequence(self.durable.load(Ordering::Acquire))
    }

    fn round(&self, flush: u64) -> &Word {
        &self.rounds[(flush % ROUNDS as u64) as usize]
    }

    /// Waits until a flush is done or none will come.
    pub(super) fn wait(&self, flush: u64) {
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

    pub(super) fn wake(&self, flush: u64) {
        self.round(flush).advance();
    }
}
