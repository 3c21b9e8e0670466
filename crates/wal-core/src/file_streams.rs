//! Streams on files: a directory with a lock and, for each stream, a directory of its segments. Threads
//! read and mend the streams side by side.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base::{Epoch, OperationId, Time};

use crate::file::{
    FileError, FileStorage, Writes, absolute, check, create_durably, holds_segments, lock_shared,
    locked, open_lock, remove_spares, streams_in,
};
use crate::log::Config;
use crate::memory::MemoryStorage;
use crate::open::OpenMode;
use crate::scan::{ScanConfig, ScanError, Scanned, Visitor, scan};
use crate::shared_log::{DurableError, FileLog, random_id};
use crate::storage::Directory;
use crate::streams::{ForEach, StreamId, Streams, StreamsError, open_with};

/// Why a directory could not be used as one of streams.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileStreamsError {
    /// The directory, its lock or a stream's directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// It has another number of streams than was asked for, and keeps it: which stream an operation lives
    /// in depends on it.
    #[error("{} has {} streams and cannot be opened with {asked}", path.display(), there.count())]
    OtherCount {
        /// The directory.
        path: PathBuf,
        /// How many it has.
        there: Streams,
        /// How many were asked for.
        asked: usize,
    },
    /// A directory has 1 to 256 streams.
    #[error("{asked} streams: a directory has 1 to {}", Streams::MAX)]
    Count {
        /// How many were asked for.
        asked: usize,
    },
    /// It holds segments of its own: it is one log. Open it as that.
    #[error("{} holds one log, not streams", path.display())]
    OneLog {
        /// The directory.
        path: PathBuf,
    },
    /// It holds no stream.
    #[error("{} holds no streams", path.display())]
    NoStreams {
        /// The directory.
        path: PathBuf,
    },
    /// The logs in it cannot be opened.
    #[error("{}: {error}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Which stream, and why.
        error: StreamsError,
    },
    /// A stream failed when it was closed, or before: what was not acknowledged of it may or may not
    /// survive. The other streams are closed.
    #[error("stream {stream}: {error}")]
    Close {
        /// The first that failed.
        stream: StreamId,
        /// What is not known.
        error: DurableError,
    },
}

/// The streams of a directory, open for writing: a [`FileLog`] each.
///
/// ```
/// use base::OperationId;
/// use wal_core::{Config, EventType, FileStreams};
///
/// let directory = tempfile::tempdir()?;
/// let (streams, _) = FileStreams::open(directory.path(), &Config::default(), &mut [(); 4])?;
/// let id = OperationId(7);
/// streams.of(id).append_durable(EventType::TX_COMMIT_START, 0, &id.0.to_le_bytes())?;
/// streams.close()?;
///
/// let (streams, scanned) = FileStreams::open(directory.path(), &Config::default(), &mut [(); 4])?;
/// assert_eq!(scanned.iter().map(|stream| stream.records).collect::<Vec<_>>(), [0, 0, 0, 1]);
/// assert_eq!(streams.epoch().value(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileStreams {
    streams: Streams,
    logs: Vec<FileLog>,
    epoch: Epoch,
    id: u64,
}

impl FileStreams {
    /// Opens the streams in a directory for writing, alone, and as many as there are visitors: each is told
    /// what its stream holds, on some thread. Directory and streams are created if there are none.
    ///
    /// # Errors
    /// [`FileStreamsError`]: in use, of another number, damaged, or not belonging together.
    pub fn open<V: Visitor + Send>(
        directory: &Path,
        config: &Config,
        visitors: &mut [V],
    ) -> Result<(FileStreams, Vec<Scanned>), FileStreamsError> {
        FileStreams::open_with(directory, config, Writes::default(), visitors)
    }

    /// As [`open`](Self::open), and says how what is written reaches the disk.
    ///
    /// # Errors
    /// [`FileStreamsError`]: in use, of another number, damaged, or not belonging together.
    pub fn open_with<V: Visitor + Send>(
        directory: &Path,
        config: &Config,
        writes: Writes,
        visitors: &mut [V],
    ) -> Result<(FileStreams, Vec<Scanned>), FileStreamsError> {
        let asked = visitors.len();
        let count = u16::try_from(asked).ok().and_then(Streams::new);
        let streams = count.ok_or(FileStreamsError::Count { asked })?;
        let path = absolute(directory)?;
        let mut storages = storages(&path, streams)?;
        for storage in &mut storages {
            remove_spares(storage.path());
            storage.write_by(writes);
            storage.zero_fill_next(config.segment_bytes_first);
        }
        let mode = OpenMode::Exclusive;
        let opened =
            open_with(&Threads, &mut storages, config, mode, random_id(), Time::ZERO, visitors)
                .map_err(|error| FileStreamsError::Open { path, error })?;
        let logs = storages.into_iter().zip(opened.logs);
        let logs = logs.map(|(storage, log)| FileLog::new(storage, log)).collect();
        let (epoch, id) = (opened.epoch, opened.id);
        Ok((FileStreams { streams, logs, epoch, id }, opened.scanned))
    }

    /// The log of the stream in which an operation lives.
    #[must_use]
    pub fn of(&self, operation: OperationId) -> &FileLog {
        &self.logs[usize::from(self.streams.of(operation).0)]
    }

    /// Every log, with its stream's number.
    pub fn logs(&self) -> impl Iterator<Item = (StreamId, &FileLog)> {
        self.streams.ids().zip(&self.logs)
    }

    /// How many there are.
    #[must_use]
    pub fn streams(&self) -> Streams {
        self.streams
    }

    /// This start's epoch, which is that of every stream: higher than any before.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The directory's id: it changes only when the disk is new.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Makes everything durable and closes every stream.
    ///
    /// # Errors
    /// [`FileStreamsError::Close`] for the first stream of which a flush failed, this one or an earlier one;
    /// the others are closed all the same.
    pub fn close(self) -> Result<(), FileStreamsError> {
        let mut closed = Ok(());
        for (stream, log) in self.streams.ids().zip(self.logs) {
            let result = log.close().map_err(|error| FileStreamsError::Close { stream, error });
            closed = closed.and(result);
        }
        closed
    }
}

/// Where the streams of a directory are kept, which nobody else uses. What is not there is made: that a
/// stream was lost is found out from the others.
fn storages(path: &Path, streams: Streams) -> Result<Vec<FileStorage>, FileStreamsError> {
    let to_path = || path.to_owned();
    check(path, create_durably(path))?;
    let lock = open_lock(path)?;
    locked(path, lock.try_lock())?;
    match streams_in(path)? {
        Some((there, _)) if there != streams => {
            let asked = usize::from(streams.count());
            return Err(FileStreamsError::OtherCount { path: to_path(), there, asked });
        }
        None if check(path, holds_segments(path))? => {
            return Err(FileStreamsError::OneLog { path: to_path() });
        }
        _ => {}
    }
    let lock = Some(Arc::new(lock));
    let each = streams.ids().map(|stream| {
        let folder = path.join(streams.folder_name(stream));
        check(&folder, create_durably(&folder))?;
        Ok(FileStorage::locked_by(folder, lock.clone()))
    });
    each.collect()
}

/// The streams of a directory, to be read: its lock is held, shared, as long as this lives.
#[derive(Debug)]
pub struct StreamFiles {
    path: PathBuf,
    streams: Streams,
    /// `None`: its directory is not there.
    storages: Vec<Option<FileStorage>>,
    _lock: Option<Arc<File>>,
}

impl StreamFiles {
    /// How many streams a directory has to have, by the names in it; `None` if it is none of streams.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn count(directory: &Path) -> Result<Option<Streams>, FileError> {
        Ok(streams_in(directory)?.map(|(streams, _)| streams))
    }

    /// Makes a directory of streams for new logs to be written into, by whoever makes logs by hand; it is
    /// excluded from everybody else's use as long as one of these lives.
    ///
    /// # Errors
    /// [`FileStreamsError`]: in use, or it holds something else.
    pub fn create(
        directory: &Path,
        streams: Streams,
    ) -> Result<Vec<FileStorage>, FileStreamsError> {
        storages(&absolute(directory)?, streams)
    }

    /// Opens a directory of streams for reading, excluding writers. A stream whose directory is not there
    /// reads as one without any segment.
    ///
    /// # Errors
    /// [`FileStreamsError::NoStreams`]; [`FileStreamsError::File`] if a writer is at work.
    pub fn read(directory: &Path) -> Result<StreamFiles, FileStreamsError> {
        let path = absolute(directory)?;
        let lock = lock_shared(&path)?;
        let Some((streams, there)) = streams_in(&path)? else {
            return Err(FileStreamsError::NoStreams { path });
        };
        let storages = streams.ids().map(|stream| {
            let folder = path.join(streams.folder_name(stream));
            let here = there.contains(&stream);
            here.then(|| FileStorage::locked_by(folder, lock.clone()))
        });
        let storages = storages.collect();
        Ok(StreamFiles { path, streams, storages, _lock: lock })
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many there are to be.
    #[must_use]
    pub fn streams(&self) -> Streams {
        self.streams
    }

    /// Each stream's directory by itself, in order; `None` for one that is not there. Each holds the lock.
    #[must_use]
    pub fn into_storages(self) -> Vec<(StreamId, Option<FileStorage>)> {
        self.streams.ids().zip(self.storages).collect()
    }

    /// Reads every stream, each on some thread and with its own visitor, and gives what was found in each,
    /// in order. What they say of each other is [`faults`](crate::faults).
    ///
    /// # Errors
    /// The first stream's that cannot be read. Damage is none.
    ///
    /// # Panics
    /// Unless there are as many visitors as streams.
    pub fn scan<V: Visitor + Send>(
        &self,
        config: &ScanConfig,
        visitors: &mut [V],
    ) -> Result<Vec<Scanned>, (StreamId, ScanError)> {
        assert_eq!(visitors.len(), self.storages.len(), "each stream has a visitor");
        let lost = MemoryStorage::new();
        let mut each: Vec<_> = self.streams.ids().zip(self.storages.iter().zip(visitors)).collect();
        let scanned = Threads.each(&mut each, |(stream, (storage, visitor))| {
            let directory: &dyn Directory = match storage {
                Some(storage) => storage,
                None => &lost,
            };
            scan(directory, config, *visitor).map_err(|error| (*stream, error))
        });
        scanned.into_iter().collect()
    }
}

/// As many threads as there are processors, and two at least: reading waits for the disk too.
struct Threads;

impl ForEach for Threads {
    fn each<T: Send, R: Send>(&self, all: &mut [T], act: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
        let threads = threads.min(all.len());
        let left = Mutex::new(all.iter_mut().enumerate());
        let done = Mutex::new(Vec::new());
        // Whoever panics under one of these locks ends the whole scope.
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((index, one)) = next() {
                        let result = act(one);
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.push((index, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}
