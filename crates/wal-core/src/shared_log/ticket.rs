//! Records that were appended and are waited for later, or by a runtime.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use base::Sequence;

use super::{DurableError, Shared};
use crate::file::FileStorage;
use crate::storage::Storage;
use crate::sync::Arc;

/// A record that was appended and is on its way to the disk.
///
/// A future, too: it is ready once the record is durable, and needs no particular runtime. Dropping it
/// changes nothing: the record becomes durable all the same.
#[derive(Debug)]
pub struct Ticket<S: Storage + Send + 'static = FileStorage> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) sequence: Sequence,
    /// The flush that it was last registered for, and whom that wakes.
    pub(super) registered: Option<(u64, Waker)>,
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
