//! What the commit path waits with: the standard library's primitives, or, with `--cfg shuttle`, those of
//! a checker that runs it under one schedule after the other.

pub(crate) use primitives::{
    Arc, AtomicBool, AtomicU32, AtomicU64, Clock, Condvar, JoinHandle, Mutex, MutexGuard, Ordering,
    PoisonError, Word, spawn, yield_now,
};

#[cfg(not(shuttle))]
mod primitives {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
    pub(crate) use std::thread::{JoinHandle, yield_now};

    use base::Time;
    use std::time::Instant;

    // A shell may start a thread.
    #[expect(clippy::disallowed_methods)]
    pub(crate) fn spawn(act: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        std::thread::spawn(act)
    }

    /// A word that threads wait on.
    #[derive(Debug, Default)]
    pub(crate) struct Word(AtomicU32);

    impl Word {
        pub(crate) fn value(&self) -> u32 {
            self.0.load(Ordering::Acquire)
        }

        /// Waits while the word has this value; may return earlier.
        pub(crate) fn wait_while(&self, value: u32) {
            atomic_wait::wait(&self.0, value);
        }

        /// Changes the word, and wakes everybody who waits on it.
        pub(crate) fn advance(&self) {
            self.0.fetch_add(1, Ordering::Release);
            atomic_wait::wake_all(&self.0);
        }
    }

    /// The time since it was started.
    #[derive(Debug)]
    pub(crate) struct Clock(Instant);

    impl Clock {
        // A shell may read the clock: it tells the log what time it is.
        #[expect(clippy::disallowed_methods)]
        pub(crate) fn start() -> Clock {
            Clock(Instant::now())
        }

        pub(crate) fn now(&self) -> Time {
            let nanos = self.0.elapsed().as_nanos();
            Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        }
    }
}

#[cfg(shuttle)]
mod primitives {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(crate) use shuttle::thread::{JoinHandle, spawn, yield_now};
    pub(crate) use std::sync::PoisonError;

    use base::Time;

    /// As a lock and a condition behave: what a word's waiters rely on and no more.
    #[derive(Debug)]
    pub(crate) struct Word {
        value: Mutex<u32>,
        changed: Condvar,
    }

    impl Default for Word {
        fn default() -> Word {
            Word { value: Mutex::new(0), changed: Condvar::new() }
        }
    }

    impl Word {
        pub(crate) fn value(&self) -> u32 {
            *self.value.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn wait_while(&self, value: u32) {
            let now = self.value.lock().unwrap_or_else(PoisonError::into_inner);
            if *now == value {
                drop(self.changed.wait(now).unwrap_or_else(PoisonError::into_inner));
            }
        }

        pub(crate) fn advance(&self) {
            *self.value.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.changed.notify_all();
        }
    }

    /// Time passes whenever somebody looks.
    #[derive(Debug)]
    pub(crate) struct Clock(AtomicU64);

    impl Clock {
        pub(crate) fn start() -> Clock {
            Clock(AtomicU64::new(0))
        }

        pub(crate) fn now(&self) -> Time {
            Time::from_nanos(self.0.fetch_add(1_000_000, Ordering::Relaxed))
        }
    }
}
