//! Streams: several independent logs in one directory, one for each shard or region, say. Each is a log
//! like any other, with its own sequence; the directory is what has one lock, one epoch and one id.
//!
//! An operation lives in the stream that its id chooses ([`Streams::of`]), so that what is said of it
//! stands in one order, and a damaged stream leaves the operations of the others alone. Between streams
//! there is no order.
//!
//! Every stream is claimed, durably, before any of them takes a record. Hence a batch under some epoch
//! proves that each stream had a segment of that epoch: one that has none has lost it ([`faults`]), as a
//! log by itself could not know. The epoch that is claimed is above every stream's, so that two openings
//! never share one, whatever was claimed when the earlier one was cut short.

use std::fmt;

use base::{Epoch, OperationId, Time};

use crate::log::{Config, Log};
use crate::open::{OpenError, OpenMode, Opening};
use crate::scan::{Scanned, Visitor};
use crate::storage::Storage;

/// A stream's number in its directory: 0, 1, ...
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u16);

impl StreamId {
    /// The id of this stream's log in a directory of that id: by it a stream that was put into another's
    /// place, or another directory's, is found out.
    #[must_use]
    pub fn log_id(self, directory_id: u64) -> u64 {
        directory_id.wrapping_add(u64::from(self.0))
    }
}

/// The number, in decimal.
impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many streams a directory has. It never changes: which of them an operation lives in depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Streams(u16);

impl Streams {
    /// The most that a directory may have.
    pub const MAX: u16 = 256;

    /// So many; `None` for 0 and for more than [`MAX`](Self::MAX).
    #[must_use]
    pub fn new(count: u16) -> Option<Streams> {
        (1..=Self::MAX).contains(&count).then_some(Streams(count))
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u16 {
        self.0
    }

    /// Each of them, ascending.
    pub fn ids(self) -> impl DoubleEndedIterator<Item = StreamId> {
        (0..self.0).map(StreamId)
    }

    /// The stream in which an operation lives: its id modulo the number of streams.
    #[must_use]
    pub fn of(self, operation: OperationId) -> StreamId {
        let stream = operation.0 % u64::from(self.0);
        StreamId(u16::try_from(stream).expect("it is below a number of 16 bits"))
    }

    /// The name of a stream's own directory, such as `stream-3-of-8`. It says how many there are, so that a
    /// missing one is missed.
    #[must_use]
    pub fn folder_name(self, stream: StreamId) -> String {
        format!("stream-{stream}-of-{}", self.0)
    }

    /// What such a name says; `None` for every other name.
    #[must_use]
    pub fn from_folder_name(name: &str) -> Option<(Streams, StreamId)> {
        let (stream, count) = name.strip_prefix("stream-")?.split_once("-of-")?;
        let streams = Streams::new(count.parse().ok()?)?;
        let stream = StreamId(stream.parse().ok()?);
        // One name for each, without a sign or zeros in front.
        (stream.0 < streams.0 && streams.folder_name(stream) == name).then_some((streams, stream))
    }
}

/// What a stream says that does not go with what the others say. The log in it may be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamFault {
    /// Its newest segments are gone, or all of them: it had one of the epoch under which another stream
    /// was written. What it held is in doubt; put its directory back.
    #[error(
        "stream {stream} has lost its end: its last epoch is {epoch}, and another stream was \
         written under epoch {written}"
    )]
    Behind {
        /// Which.
        stream: StreamId,
        /// The highest epoch that it knows; [`Epoch::NONE`] if it holds nothing at all.
        epoch: Epoch,
        /// The highest epoch under which any stream holds a batch.
        written: Epoch,
    },
    /// Its log is that of another stream, or of another directory. Put the right one back.
    #[error("stream {stream} holds the log of another stream or directory")]
    Foreign {
        /// Which.
        stream: StreamId,
    },
}

impl StreamFault {
    /// The stream that does not go with the others.
    #[must_use]
    pub fn stream(self) -> StreamId {
        match self {
            StreamFault::Behind { stream, .. } | StreamFault::Foreign { stream } => stream,
        }
    }
}

/// Why streams could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// One of the logs cannot be opened. None of them was.
    #[error("stream {stream}: {error}")]
    Stream {
        /// Which.
        stream: StreamId,
        /// Why.
        error: OpenError,
    },
    /// They do not belong together. Nothing was changed.
    #[error(transparent)]
    Fault(#[from] StreamFault),
}

/// What is wrong between the streams of a directory: what was found in each, in order.
#[must_use]
pub fn faults(scanned: &[&Scanned]) -> Vec<StreamFault> {
    let written = scanned.iter().map(|stream| stream.written_epoch).max().unwrap_or(Epoch::NONE);
    let id = directory_id(scanned);
    let mut faults = Vec::new();
    for (stream, found) in (0..).map(StreamId).zip(scanned) {
        if found.log_id.is_some_and(|log| id != Some(directory_id_of(stream, log))) {
            faults.push(StreamFault::Foreign { stream });
        } else if found.epoch < written {
            faults.push(StreamFault::Behind { stream, epoch: found.epoch, written });
        }
    }
    faults
}

/// The directory's id, as the first stream that knows its own says.
fn directory_id(scanned: &[&Scanned]) -> Option<u64> {
    let streams = (0..).map(StreamId).zip(scanned);
    streams.into_iter().find_map(|(stream, found)| Some(directory_id_of(stream, found.log_id?)))
}

/// The id of a stream's log is the directory's and the stream's number.
fn directory_id_of(stream: StreamId, log_id: u64) -> u64 {
    log_id.wrapping_sub(u64::from(stream.0))
}

/// Streams that are open for writing.
#[derive(Debug)]
pub struct OpenStreams {
    /// The logs, in order.
    pub logs: Vec<Log>,
    /// What was found in each.
    pub scanned: Vec<Scanned>,
    /// The epoch that all of them were claimed with.
    pub epoch: Epoch,
    /// The directory's id: the same as long as it is the same directory.
    pub id: u64,
}

/// Opens the streams of a directory in one go, one after the other: every storage is one stream's, in
/// order. A directory that is new gets `new_id`, which should be random.
///
/// # Errors
/// [`StreamsError`]. No stream was opened then, though some may have been claimed: open again, with fresh
/// visitors.
///
/// # Panics
/// Unless there are as many visitors as storages.
pub fn open_streams<S: Storage + Send, V: Visitor + Send>(
    storages: &mut [S],
    config: &Config,
    mode: OpenMode,
    new_id: u64,
    now: Time,
    visitors: &mut [V],
) -> Result<OpenStreams, StreamsError> {
    open_with(&OneAfterTheOther, storages, config, mode, new_id, now, visitors)
}

/// How something is done to each stream. What comes of it does not depend on that.
pub(crate) trait ForEach {
    fn each<T: Send, R: Send>(&self, all: &mut [T], act: impl Fn(&mut T) -> R + Sync) -> Vec<R>;
}

struct OneAfterTheOther;

impl ForEach for OneAfterTheOther {
    fn each<T: Send, R: Send>(&self, all: &mut [T], act: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
        all.iter_mut().map(act).collect()
    }
}

struct One<'a, S, V> {
    stream: StreamId,
    storage: &'a mut S,
    visitor: &'a mut V,
    opening: Opening,
}

pub(crate) fn open_with<S: Storage + Send, V: Visitor + Send>(
    shell: &impl ForEach,
    storages: &mut [S],
    config: &Config,
    mode: OpenMode,
    new_id: u64,
    now: Time,
    visitors: &mut [V],
) -> Result<OpenStreams, StreamsError> {
    assert_eq!(storages.len(), visitors.len(), "each stream has a visitor");
    let mut closed: Vec<_> =
        (0..).map(StreamId).zip(storages.iter_mut().zip(visitors)).map(Some).collect();
    let scanned = shell.each(&mut closed, |one| {
        let (stream, (storage, visitor)) = one.take().expect("each is scanned once");
        let scanned = Opening::scan(&*storage, config.clone(), mode, visitor);
        let opening = scanned.map_err(|error| StreamsError::Stream { stream, error })?;
        Ok(One { stream, storage, visitor, opening })
    });
    let mut streams = scanned.into_iter().collect::<Result<Vec<_>, StreamsError>>()?;
    let found: Vec<&Scanned> = streams.iter().map(|one| one.opening.scanned()).collect();
    if let Some(fault) = faults(&found).first() {
        return Err((*fault).into());
    }
    let highest = found.iter().map(|scanned| scanned.epoch).max().unwrap_or(Epoch::NONE);
    let id = directory_id(&found).unwrap_or(new_id);
    let exhausted = StreamsError::Stream { stream: StreamId(0), error: OpenError::EpochsExhausted };
    let epoch = highest.next().ok_or(exhausted)?;

    let claim = |one: &mut One<'_, S, V>| {
        let ops = one.opening.claim(epoch, one.stream.log_id(id))?;
        one.storage.perform_all(&ops).map_err(OpenError::of_claim)
    };
    // Of two that open at once, whoever has claimed the first stream goes on.
    let (first, others) = streams.split_at_mut(1);
    on_each(&OneAfterTheOther, first, claim)?;
    on_each(shell, others, claim)?;
    on_each(shell, &mut streams, |one| {
        let ops = one.opening.read_tail(&*one.storage, one.visitor)?;
        one.storage.perform_all(&ops).map_err(OpenError::of)
    })?;

    let mut opened = OpenStreams { logs: Vec::new(), scanned: Vec::new(), epoch, id };
    for One { stream, storage, opening, .. } in streams {
        opened.scanned.push(opening.scanned().clone());
        let log = opening.finish(&*storage, now);
        opened.logs.push(log.map_err(|error| StreamsError::Stream { stream, error })?);
    }
    Ok(opened)
}

fn on_each<S: Send, V: Send>(
    shell: &impl ForEach,
    streams: &mut [One<'_, S, V>],
    act: impl Fn(&mut One<'_, S, V>) -> Result<(), OpenError> + Sync,
) -> Result<(), StreamsError> {
    let done = shell.each(streams, |one| {
        act(one).map_err(|error| StreamsError::Stream { stream: one.stream, error })
    });
    done.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_of_how_many() {
        let streams = Streams::new(8).unwrap();
        assert_eq!(streams.folder_name(StreamId(3)), "stream-3-of-8");
        let read = Streams::from_folder_name("stream-3-of-8");
        assert_eq!(read, Some((streams, StreamId(3))));
        for foreign in [
            "stream-8-of-8",
            "stream-0-of-0",
            "stream-0-of-257",
            "stream-03-of-8",
            "stream-+3-of-8",
            "stream-3-of-8~",
            "stream-3-of-",
            "stream-of-8",
            "stream-3",
            "Stream-3-of-8",
        ] {
            assert_eq!(Streams::from_folder_name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn an_id_chooses_one_stream_and_neighbours_choose_all() {
        for count in [1, 3, 8, Streams::MAX] {
            let streams = Streams::new(count).unwrap();
            for epoch in [1, 2, Epoch::MAX.value()] {
                let draw = |counter| OperationId::draw(Epoch::new(epoch), counter).unwrap();
                let mut chosen: Vec<_> =
                    (0..u64::from(count)).map(|counter| streams.of(draw(counter))).collect();
                chosen.sort_unstable();
                assert!(chosen.into_iter().eq(streams.ids()), "{count} streams");
            }
        }
    }
}
