//! The segment behind the current one, made ahead of time.

use std::time::Duration;

use base::Time;

use super::{Shared, State};
use crate::segment_ahead::is_no_room;
use crate::storage::{Storage, Zeros};
use crate::sync::{Arc, JoinHandle, Ordering, spawn};

/// The segment behind the current one, zero-filled ahead of time.
#[derive(Debug)]
pub(super) enum NextSegment {
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

impl NextSegment {
    pub(super) fn is_being_made(&self) -> bool {
        matches!(self, NextSegment::Making(_))
    }
}

impl<S: Storage + Send + 'static> Shared<S> {
    /// A disk without room for the next segment is asked again after this long, then after twice as long, …
    const RETRY_FIRST: Duration = Duration::from_millis(50);
    /// … but never later than this.
    const RETRY_MAX: Duration = Duration::from_secs(2);

    /// Zero-fills the next segment once the current one is half full, on a thread of its own. Until there
    /// is one the log takes no more than the current one holds: what a full disk refuses is refused before
    /// it is accepted.
    pub(super) fn make_next_segment(self: &Arc<Shared<S>>, state: &mut State) {
        let Some(bytes) = state.log.next_segment_due() else {
            // The log has gone on: in it, or, where there was no room for it, in a file that grew.
            match state.spare {
                NextSegment::Settled => state.spare = NextSegment::None,
                NextSegment::Refused { .. } => {
                    state.log.confine(false);
                    state.spare = NextSegment::None;
                }
                NextSegment::None | NextSegment::Making(_) => {}
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
            state.spare = match made {
                Err(error) if is_no_room(&error) => {
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
