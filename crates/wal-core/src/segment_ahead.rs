//! The next segment made ahead of time, for a shell that performs its log's operations itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base::Time;

use crate::file::Spare;
use crate::log::Log;
use crate::storage::{Storage, Zeros};

/// Zero-fills the segment behind the current one on a thread of its own, so that the log goes on in a file
/// whose length and blocks are on the disk: a sync there has only the data to write, which is about half of
/// what one in a file that grows costs.
///
/// [`SharedLog`](crate::SharedLog) does so by itself. A shell that drives a [`Log`] calls
/// [`go_on`](Self::go_on) after each flush; nothing is wrong if it does not, or if no segment can be made: the next one
/// grows as it is written. Dropped, it stops, and waits until its thread has let go.
#[derive(Debug, Default)]
pub struct SegmentAhead {
    state: State,
    stop: Arc<AtomicBool>,
    /// The disk had no room for it; when to look again.
    refused: Option<Time>,
}

#[derive(Debug, Default)]
enum State {
    /// Not thought of yet.
    #[default]
    None,
    Making(JoinHandle<io::Result<Spare>>),
    /// It could not be made; when that is tried again.
    Failed {
        again: Time,
    },
    /// Made, or it is not to be.
    Settled,
}

impl SegmentAhead {
    /// A disk that could not make one is asked again after this long.
    const RETRY: Duration = Duration::from_secs(2);
    /// What is made for a log that waits for it is looked for this often.
    const LOOK: Duration = Duration::from_millis(20);

    /// Whether its thread is at work.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        matches!(&self.state, State::Making(maker) if !maker.is_finished())
    }

    /// Begins once the current segment is half full, and gives what was made to the storage. Never waits.
    pub fn go_on<S: Storage>(&mut self, log: &Log, storage: &mut S, now: Time) {
        if let State::Making(maker) = &self.state
            && maker.is_finished()
            && let State::Making(maker) = std::mem::take(&mut self.state)
        {
            self.refused = None;
            self.state = match maker.join() {
                Ok(Ok(spare)) => {
                    storage.keep_ahead(spare);
                    State::Settled
                }
                Ok(Err(error)) => {
                    let again = now + Self::RETRY;
                    if is_no_room(&error) {
                        tracing::error!(%error, "no room for the log's next segment");
                        self.refused = Some(again);
                    } else {
                        tracing::warn!(%error, "no segment could be made ahead of time");
                    }
                    State::Failed { again }
                }
                // Its panic was printed where it happened.
                Err(_) => State::Settled,
            };
        }
        let Some(bytes) = log.next_segment_due() else {
            // The log has gone on: in it, or, where there was no room for it, in a file that grew.
            if let State::Settled | State::Failed { .. } = self.state {
                self.state = State::None;
                self.refused = None;
            }
            return;
        };
        match self.state {
            State::None => {}
            State::Failed { again } if again <= now => {}
            State::Making(_) => {
                self.refused = self.refused.map(|_| now + Self::LOOK);
                return;
            }
            State::Failed { .. } | State::Settled => return,
        }
        let Some(make) = storage.make_ahead(bytes, Zeros::Written) else {
            self.state = State::Settled;
            self.refused = None;
            return;
        };
        let stop = Arc::clone(&self.stop);
        let made = move || make(&|| stop.load(Ordering::Relaxed));
        let spawned = std::thread::Builder::new().name("wal-next-segment".into()).spawn(made);
        let (state, look) = match spawned {
            Ok(maker) => (State::Making(maker), now + Self::LOOK),
            Err(error) => {
                tracing::warn!(%error, "no thread to make a segment ahead of time");
                let again = now + Self::RETRY;
                (State::Failed { again }, again)
            }
        };
        self.state = state;
        self.refused = self.refused.map(|_| look);
    }

    /// If the disk had no room for the next segment: when to call [`go_on`](Self::go_on) again, also if nothing is
    /// flushed. While this says so the log is to be [confined](Log::confine): then what a full disk refuses is
    /// refused before it is accepted. Else the log grows into what room there is, and may fail there.
    #[must_use]
    pub fn refused(&self) -> Option<Time> {
        self.refused
    }
}

/// Whether a disk, or what somebody may have of it, is full.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Drop for SegmentAhead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let State::Making(maker) = std::mem::take(&mut self.state) {
            // What it made, the next opening removes.
            let _ = maker.join();
        }
    }
}
