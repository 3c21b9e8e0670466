//! Real files: a directory with one file per segment and a lock.

mod direct;
mod positioned;
mod spare;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use self::direct::Direct;
pub(crate) use self::positioned::read_full;
use self::positioned::{write_all, write_all_of};
use self::spare::Retired;
pub use self::spare::Spare;
use crate::open::OpenError;
use crate::read_ahead::ReadAhead;
use crate::storage::{Directory, DiskError, DiskOp, MakeAhead, SegmentId, Storage, Zeros};
use crate::streams::{StreamId, Streams};

/// Why a directory of files could not be opened as a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Another process (or another handle of this one) holds the lock: a writer excludes everybody,
    /// readers exclude writers. Wait for it, or stop it.
    #[error("the log in {} is in use", path.display())]
    InUse {
        /// The log's directory.
        path: PathBuf,
    },
    /// The directory or its lock file cannot be used.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The log in it cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory is that of several streams, and holds no log itself. Open it as
    /// [`FileStreams`](crate::FileStreams), or read one of its streams.
    #[error(
        "{} holds {} streams, and no log of its own: open them together, or read one of them, \
         such as {}",
        path.display(),
        streams.count(),
        streams.folder_name(StreamId(0))
    )]
    HoldsStreams {
        /// The directory.
        path: PathBuf,
        /// How many.
        streams: Streams,
    },
    /// The directory is one stream's, by its name. It is written only together with the others: open the
    /// directory above it.
    #[error("{} is one stream of several: open the directory above it", path.display())]
    OneStream {
        /// The stream's directory.
        path: PathBuf,
    },
}

/// A directory of files.
///
/// A write is complete or an error: short writes and `EINTR` are gone on with. A sync is `fdatasync`, or
/// part of the write ([`Writes`]); the directory is synced on its own.
///
/// A writer holds an exclusive lock on the file `lock` as long as this value lives, a reader a shared
/// one. The locks are advisory: they keep out programs that ask for them.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    lock: Option<Arc<File>>,
    locked: bool,
    /// The file read last.
    reading: Mutex<Option<(SegmentId, File)>>,
    /// The files written last.
    writing: BTreeMap<SegmentId, Writing>,
    writes: Writes,
    spare: Option<Spare>,
    /// How far each segment that was created through this has been written: behind that it holds zeros only.
    written: BTreeMap<SegmentId, u64>,
    /// Files of segments that were retired and may be overwritten: spares are made of them.
    retired: Mutex<Vec<Retired>>,
    /// Whether they are used again. Not where a replaced writer may live that still has one of them open: what
    /// it writes must go nowhere.
    reuses: bool,
    /// The next segment that is created is zero-filled to so many bytes, if no spare is at hand.
    zeros_next: Option<u64>,
}

/// How what is written reaches the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// Through the page cache: `pwrite`, and `fdatasync` for each [`DiskOp::Sync`].
    #[default]
    Cached,
    /// Past it (`O_DIRECT`), in whole blocks, and durable with the write itself (`RWF_DSYNC`) where a sync
    /// follows it. Fewer microseconds of processor time for each record and shorter long waits where the
    /// disk is fast and many write; each flush writes 4 KiB at least. Only Linux has it, and not on every
    /// file system: where it is refused, all goes through the page cache.
    Direct,
}

/// A segment's file that is open for writing.
#[derive(Debug)]
enum Writing {
    Cached(File),
    Direct(Box<Direct<File>>),
}

impl Writing {
    fn sync(&mut self) -> io::Result<()> {
        match self {
            Writing::Cached(file) => file.sync_data(),
            Writing::Direct(file) => file.sync(),
        }
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        match self {
            Writing::Cached(file) => file.set_len(len),
            Writing::Direct(file) => file.cut(len),
        }
    }
}

impl FileStorage {
    /// The lock file's name.
    pub const LOCK: &'static str = "lock";
    const WRITING_MAX: usize = 4;
    /// So many writes go to the system at once: as many as it takes.
    const PARTS_MAX: usize = 1024;
    /// What the name of a retired segment's file begins with.
    const RETIRED: &'static str = "retired-";
    /// So many of them are kept.
    const RETIRED_MAX: usize = 2;

    /// Opens a directory for reading, excluding writers. A directory without a lock file never had a
    /// writer here (it may be a copy on a read-only disk) and is read without a lock.
    ///
    /// # Errors
    /// [`FileError::InUse`] if a writer is at work; [`FileError::Io`], `NotFound` included.
    pub fn read(path: &Path) -> Result<FileStorage, FileError> {
        let path = absolute(path)?;
        refuse_streams(&path)?;
        // The lock of a stream is that of all.
        let above = path.parent().filter(|_| is_one_stream(&path));
        let lock = lock_shared(above.unwrap_or(&path))?;
        Ok(FileStorage::new(path, lock, true))
    }

    /// A directory whose lock is held elsewhere: one stream of several.
    pub(crate) fn locked_by(path: PathBuf, lock: Option<Arc<File>>) -> FileStorage {
        FileStorage::new(path, lock, true)
    }

    /// Opens a directory for reading beside a writer that may be at work: without a lock. Sealed segments do
    /// not change any more until they are taken out of the log; of the open one, what is read is what
    /// happens to be there. For a [`Scrub`](crate::Scrub).
    ///
    /// # Errors
    /// [`FileError::Io`], `NotFound` included.
    pub fn beside(path: &Path) -> Result<FileStorage, FileError> {
        let path = absolute(path)?;
        check(&path, path.read_dir().map(drop))?;
        Ok(FileStorage::new(path, None, true))
    }

    /// Opens a directory for writing, excluding everybody else. It is created, durably, if it is not
    /// there.
    ///
    /// # Errors
    /// [`FileError::InUse`] if anybody else is at work; [`FileError::Io`].
    pub fn write(path: &Path) -> Result<FileStorage, FileError> {
        let (path, lock) = FileStorage::for_writing(path)?;
        locked(&path, lock.try_lock())?;
        remove_spares(&path);
        Ok(FileStorage::new(path, Some(Arc::new(lock)), true))
    }

    /// Opens a directory for taking its log over: the old writer may still hold the lock. It is asked
    /// for again at every epoch check, until it is had.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn take_over(path: &Path) -> Result<FileStorage, FileError> {
        let (path, lock) = FileStorage::for_writing(path)?;
        let has_lock = lock.try_lock().is_ok();
        let mut storage = FileStorage::new(path, Some(Arc::new(lock)), has_lock);
        storage.reuses = false;
        Ok(storage)
    }

    fn for_writing(path: &Path) -> Result<(PathBuf, File), FileError> {
        let path = absolute(path)?;
        if is_one_stream(&path) {
            return Err(FileError::OneStream { path });
        }
        check(&path, create_durably(&path))?;
        refuse_streams(&path)?;
        let lock = open_lock(&path)?;
        Ok((path, lock))
    }

    fn new(path: PathBuf, lock: Option<Arc<File>>, locked: bool) -> FileStorage {
        let reading = Mutex::new(None);
        FileStorage {
            path,
            lock,
            locked,
            reading,
            writing: BTreeMap::new(),
            writes: Writes::default(),
            spare: None,
            written: BTreeMap::new(),
            retired: Mutex::new(Vec::new()),
            reuses: true,
            zeros_next: None,
        }
    }

    /// The next segment that is created begins as so many zeros, which are on the disk before it is used:
    /// it is fast from its first write on. One that outgrows them grows as it is written; one for which
    /// they cannot be had, as on a full disk, from the beginning.
    pub fn zero_fill_next(&mut self, bytes: u64) {
        self.zeros_next = Some(bytes);
    }

    /// How everything is written from now on. A directory that was opened to take its log over is written
    /// through the page cache, whatever is asked for: a replaced writer that lives must not write back what it
    /// believes to be the rest of a block.
    pub fn write_by(&mut self, writes: Writes) {
        if self.reuses {
            self.writes = writes;
            self.writing.clear();
        }
    }

    /// How everything is written: as it was asked for, unless the file system refuses that.
    #[must_use]
    pub fn writes(&self) -> Writes {
        self.writes
    }

    fn drop_spare(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.remove();
        }
    }

    fn create(&mut self, segment: SegmentId) -> io::Result<()> {
        let path = self.file_path(segment);
        if let (None, Some(bytes)) = (&self.spare, self.zeros_next.take()) {
            // Without it the segment is slower, and no less safe.
            let retired = self.retired.get_mut().unwrap_or_else(PoisonError::into_inner).pop();
            let zeros = Zeros::Written;
            self.spare = Spare::make(&self.path, bytes, retired.as_ref(), zeros, &|| false).ok();
        }
        let made = match self.spare.take().map(|spare| spare.become_segment(&path)) {
            Some(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Some(Ok(file)) => Ok(file),
            // No spare, or a file system without links.
            _ => OpenOptions::new().write(true).create_new(true).open(path),
        };
        self.keep(segment, made?, true);
        self.written.insert(segment, 0);
        Ok(())
    }

    /// Whether a log's directory may hold a file of this name beside its segments: the lock, and what a
    /// process that died has left of segments that were made ahead of time or retired. A crash in the first
    /// opening of all leaves such files and no segment: a log without records.
    #[must_use]
    pub fn is_beside_segments(name: &OsStr) -> bool {
        name == Self::LOCK || is_spare(name)
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a segment's file out of the log. Its new name is foreign to it.
    ///
    /// Not while a replaced writer still holds the lock: it finds out that it was replaced by the segment
    /// behind its own, which must not go. What stays is in nobody's way, and goes after the next opening.
    fn retire(&mut self, segment: SegmentId) -> io::Result<()> {
        // Asked for at the epoch check in front, and not again in between: all of them go, or none.
        if !self.locked {
            return Ok(());
        }
        self.writing.remove(&segment);
        let reading = self.reading.get_mut().unwrap_or_else(PoisonError::into_inner);
        reading.take_if(|(open, _)| *open == segment);
        match std::fs::rename(self.file_path(segment), self.retired_path(segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    /// Keeps a retired segment's file to be used again, if one is wanted; else it goes.
    fn blank(&mut self, segment: SegmentId) {
        let path = self.retired_path(segment);
        if !path.exists() {
            return;
        }
        let retired = self.retired.get_mut().unwrap_or_else(PoisonError::into_inner);
        // One that was there before may still be open in a writer that was replaced.
        match self.written.remove(&segment) {
            Some(written) if self.reuses && retired.len() < Self::RETIRED_MAX => {
                retired.push(Retired { path, written });
            }
            // One that stays is in nobody's way, and is removed at the next opening.
            _ => drop(std::fs::remove_file(path)),
        }
    }

    fn retired_path(&self, segment: SegmentId) -> PathBuf {
        self.path.join(format!("{}{:016x}", Self::RETIRED, segment.0))
    }

    fn file_path(&self, segment: SegmentId) -> PathBuf {
        self.path.join(segment.file_name())
    }

    fn with_reading<T>(
        &self,
        segment: SegmentId,
        read: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        // Whoever panicked here left nothing half done: a file handle at most.
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match &*reading {
            Some((open, file)) if *open == segment => read(file).map_err(|e| of(segment, &e)),
            _ => {
                let file = File::open(self.file_path(segment)).map_err(|e| of(segment, &e))?;
                let result = read(&file);
                *reading = Some((segment, file));
                result.map_err(|e| of(segment, &e))
            }
        }
    }

    fn writable(&mut self, segment: SegmentId) -> io::Result<&mut Writing> {
        if !self.writing.contains_key(&segment) {
            let file = OpenOptions::new().write(true).open(self.file_path(segment))?;
            self.keep(segment, file, false);
        }
        Ok(self.writing.get_mut(&segment).expect("it is there, or was just put there"))
    }

    /// Keeps a file open; `is_blank` if it holds nothing but zeros.
    fn keep(&mut self, segment: SegmentId, file: File, is_blank: bool) {
        while self.writing.len() >= Self::WRITING_MAX {
            self.writing.pop_first();
        }
        let mut writing = Writing::Cached(file);
        if self.writes == Writes::Direct {
            match direct::open(&self.file_path(segment)) {
                Ok(file) => writing = Writing::Direct(Box::new(Direct::new(file, is_blank))),
                Err(error) => self.goes_through_the_cache(&error),
            }
        }
        self.writing.insert(segment, writing);
    }

    fn goes_through_the_cache(&mut self, error: &io::Error) {
        self.writes = Writes::Cached;
        let path = self.path.display();
        tracing::warn!(%error, %path, "the log cannot be written past the page cache");
    }

    /// Writes parts of a segment one behind the other; says whether everything of it is durable. `synced` if
    /// a sync of it follows.
    fn write_parts<'a>(
        &mut self,
        segment: SegmentId,
        offset: u64,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        synced: bool,
    ) -> io::Result<bool> {
        if let Some(written) = self.written.get_mut(&segment) {
            // Whatever comes of it: of a write that fails, a part may be there.
            let end = parts.clone().fold(offset, |end, part| end + part.len() as u64);
            *written = end.max(*written);
        }
        if let Writing::Direct(file) = self.writable(segment)? {
            match file.write(parts.clone(), offset, synced) {
                Err(error) if direct::is_refused(&error) => {
                    self.goes_through_the_cache(&error);
                    self.writing.clear();
                }
                written => return written,
            }
        }
        let Writing::Cached(file) = self.writable(segment)? else {
            unreachable!("nothing is written past the page cache any more")
        };
        let mut all = parts.clone();
        match (all.next(), all.next()) {
            (Some(only), None) => write_all(file, only, offset)?,
            _ => {
                let mut parts: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
                write_all_of(file, &mut parts, offset)?;
            }
        }
        Ok(false)
    }
}

/// An error, with the file that it is about: a log has many.
fn of(segment: SegmentId, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{segment}: {error}"))
}

/// Which streams a directory holds, by the names in it: how many there are to be, and which are there.
///
/// # Errors
/// [`FileError::Io`]: also if the names contradict each other.
pub(crate) fn streams_in(path: &Path) -> Result<Option<(Streams, Vec<StreamId>)>, FileError> {
    let mut found: Option<(Streams, Vec<StreamId>)> = None;
    for entry in check(path, path.read_dir())? {
        let name = check(path, entry)?.file_name();
        let Some((streams, stream)) = name.to_str().and_then(Streams::from_folder_name) else {
            continue;
        };
        let (counted, there) = found.get_or_insert_with(|| (streams, Vec::new()));
        if *counted != streams {
            let what = format!(
                "it holds streams of {} and of {}: take away those that are not its own",
                counted.count(),
                streams.count()
            );
            let error = io::Error::new(io::ErrorKind::InvalidData, what);
            return Err(FileError::Io { path: path.to_owned(), error });
        }
        there.push(stream);
    }
    if let Some((_, there)) = &mut found {
        there.sort_unstable();
    }
    Ok(found)
}

fn is_one_stream(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(Streams::from_folder_name).is_some()
}

fn refuse_streams(path: &Path) -> Result<(), FileError> {
    match streams_in(path)? {
        Some((streams, _)) => Err(FileError::HoldsStreams { path: path.to_owned(), streams }),
        None => Ok(()),
    }
}

/// Opens a directory's lock file, which is created if it is not there.
pub(crate) fn open_lock(path: &Path) -> Result<File, FileError> {
    let path = path.join(FileStorage::LOCK);
    let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    options.map_err(|error| FileError::Io { path, error })
}

/// Locks a directory for reading; without effect if it has no lock file.
pub(crate) fn lock_shared(path: &Path) -> Result<Option<Arc<File>>, FileError> {
    let lock_path = path.join(FileStorage::LOCK);
    let lock = match File::open(&lock_path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::Io { path: lock_path, error }),
    };
    locked(path, lock.try_lock_shared())?;
    Ok(Some(Arc::new(lock)))
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(path).map_err(|error| FileError::Io { path: path.to_owned(), error })
}

pub(crate) fn check<T>(path: &Path, result: io::Result<T>) -> Result<T, FileError> {
    result.map_err(|error| FileError::Io { path: path.to_owned(), error })
}

pub(crate) fn locked(path: &Path, result: Result<(), TryLockError>) -> Result<(), FileError> {
    result.map_err(|error| match error {
        TryLockError::WouldBlock => FileError::InUse { path: path.to_owned() },
        TryLockError::Error(error) => FileError::Io { path: path.to_owned(), error },
    })
}

/// A file that no segment is, of this module's own making.
fn is_spare(name: &OsStr) -> bool {
    let ours = [Spare::PREFIX, FileStorage::RETIRED];
    name.to_str().is_some_and(|name| ours.iter().any(|prefix| name.starts_with(prefix)))
}

/// What a process that died has left of segments that were made ahead of time or retired.
pub(crate) fn remove_spares(path: &Path) {
    let Ok(entries) = path.read_dir() else { return };
    for entry in entries.flatten() {
        if is_spare(&entry.file_name()) {
            // One that stays is in nobody's way.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Creates the directory and those above it, and makes each name durable.
pub(crate) fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        // Whoever created it may have died before its name was durable; then it has got no further.
        return match path.parent() {
            Some(parent) if !holds_segments(path)? => match sync_directory(parent) {
                // One that may be passed through and not read, or into which this is mounted and which
                // knows of no syncing: then nothing was created here.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied
                            | io::ErrorKind::ReadOnlyFilesystem
                            | io::ErrorKind::InvalidInput
                            | io::ErrorKind::Unsupported
                    ) =>
                {
                    Ok(())
                }
                synced => synced,
            },
            _ => Ok(()),
        };
    }
    if let Some(parent) = path.parent() {
        create_durably(parent)?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        return sync_directory(parent);
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Whether some file in it has a segment's name.
pub(crate) fn holds_segments(path: &Path) -> io::Result<bool> {
    for entry in path.read_dir()? {
        if entry?.file_name().to_str().and_then(SegmentId::from_file_name).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    // Names are durable with their files where directories cannot be opened.
    Ok(())
}

/// How many of these operations, from the first on, are writes to one segment, each where the one before it
/// ends.
fn writes_in_a_row(ops: &[DiskOp]) -> usize {
    let mut expected = None;
    let in_a_row = ops.iter().take_while(|op| {
        let DiskOp::Write { segment, offset, bytes } = op else { return false };
        let goes_on = expected.is_none_or(|expected| expected == (*segment, *offset));
        expected = Some((*segment, offset + bytes.len() as u64));
        goes_on
    });
    in_a_row.take(FileStorage::PARTS_MAX).count()
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        self.drop_spare();
    }
}

impl Directory for FileStorage {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            segments.extend(name.to_str().and_then(SegmentId::from_file_name));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        self.with_reading(segment, |file| Ok(file.metadata()?.len()))
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.with_reading(segment, |file| read_full(file, into, offset))
    }

    fn read_ahead(&self, segment: SegmentId, span: Range<u64>) -> Option<ReadAhead> {
        let file = self.with_reading(segment, File::try_clone).ok()?;
        ReadAhead::start(file, span)
    }
}

impl Storage for FileStorage {
    fn make_ahead(&self, bytes: u64, zeros: Zeros) -> Option<MakeAhead> {
        let directory = self.path.clone();
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let retired = retired.pop();
        Some(Box::new(move |stop| Spare::make(&directory, bytes, retired.as_ref(), zeros, stop)))
    }

    fn keep_ahead(&mut self, spare: Spare) {
        self.drop_spare();
        self.spare = Some(spare);
    }

    /// Writes that go on where the one before ended are one to the system: fewer calls, and a page cache in
    /// larger pieces, which is quicker to read again.
    fn perform_all(&mut self, ops: &[DiskOp]) -> Result<(), DiskError> {
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let (now, behind) = rest.split_at(writes_in_a_row(rest).max(1));
            rest = behind;
            let DiskOp::Write { segment, offset, .. } = first else {
                self.perform(first)?;
                continue;
            };
            let parts = now.iter().filter_map(|op| match op {
                DiskOp::Write { bytes, .. } => Some(bytes.as_slice()),
                _ => None,
            });
            let sync = behind.first() == Some(&DiskOp::Sync(*segment));
            let written = self.write_parts(*segment, *offset, parts, sync);
            if written.map_err(|error| of(*segment, &error))? && sync {
                rest = &behind[1..];
            }
        }
        Ok(())
    }

    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        let on = |&segment: &SegmentId| move |error: io::Error| of(segment, &error);
        match op {
            DiskOp::Create(segment) => self.create(*segment).map_err(on(segment))?,
            DiskOp::Write { segment, offset, bytes } => {
                let parts = std::iter::once(bytes.as_slice());
                self.write_parts(*segment, *offset, parts, false).map_err(on(segment))?;
            }
            DiskOp::Sync(segment) => {
                self.writable(*segment).and_then(Writing::sync).map_err(on(segment))?;
            }
            DiskOp::SyncDirectory => sync_directory(&self.path)?,
            DiskOp::Truncate { segment, len } => {
                let cut = self.writable(*segment).and_then(|file| file.cut(*len));
                cut.map_err(on(segment))?;
            }
            DiskOp::Retire(segment) => self.retire(*segment).map_err(on(segment))?,
            DiskOp::Blank(segment) => self.blank(*segment),
            DiskOp::CheckEpoch { newest } => {
                // Whoever takes over creates the very next segment, and it stays for as long as the lock is
                // had: nobody else recycles. Without the lock it may have gone by now, and a later one is there.
                // The lock is asked for first: it may come free, and somebody else recycle, while this looks.
                let had = self.locked;
                if let (false, Some(lock)) = (had, &self.lock) {
                    self.locked = lock.try_lock().is_ok();
                }
                let next = self.file_path(newest.next()).try_exists()?;
                if next || (!had && self.segments()?.last() > Some(newest)) {
                    return Err(DiskError::Fenced);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two segments, gaps, a write that goes back, a run longer than the system takes at once, and what is
    /// not written in between: the files are as if each operation had been performed on its own.
    #[test]
    fn writes_in_a_row_are_written_where_each_belongs() {
        let (one, other) = (SegmentId(1), SegmentId(2));
        let write = |segment, offset: u64, bytes: &[u8]| DiskOp::Write {
            segment,
            offset,
            bytes: bytes.to_vec(),
        };
        let mut ops = vec![
            DiskOp::Create(one),
            DiskOp::Create(other),
            write(one, 0, b"abc"),
            write(one, 3, b""),
            write(one, 3, b"defg"),
            write(other, 7, b"hij"),
            write(other, 11, b"kl"),
            write(other, 8, b"mno"),
            DiskOp::Truncate { segment: other, len: 10 },
            write(other, 11, b"pq"),
            DiskOp::Sync(other),
            write(one, 2, b"rs"),
        ];
        let many = 2 * FileStorage::PARTS_MAX as u64 + 3;
        ops.extend((0..many).map(|n| write(one, 4 + 3 * n, &n.to_le_bytes()[..3])));
        let files = |writes, perform: &dyn Fn(&mut FileStorage) -> Result<(), DiskError>| {
            let directory = tempfile::tempdir().unwrap();
            let mut storage = FileStorage::write(directory.path()).unwrap();
            storage.write_by(writes);
            perform(&mut storage).unwrap();
            [one, other].map(|segment| std::fs::read(storage.file_path(segment)).unwrap())
        };
        let by_one = |storage: &mut FileStorage| ops.iter().try_for_each(|op| storage.perform(op));
        let alone = files(Writes::Cached, &by_one);
        assert!(files(Writes::Cached, &|storage| storage.perform_all(&ops)) == alone);
        // In whole blocks there are more zeros at the end.
        for direct in
            [files(Writes::Direct, &by_one), files(Writes::Direct, &|s| s.perform_all(&ops))]
        {
            for (direct, alone) in direct.iter().zip(&alone) {
                let (content, zeros) = direct.split_at(alone.len());
                assert!(content == alone && zeros.iter().all(|byte| *byte == 0));
            }
        }
        assert_eq!(
            alone[1],
            b"\0\0\0\0\0\0\0hmno"[..10].iter().copied().chain(*b"\0pq").collect::<Vec<u8>>()
        );

        // The first that fails is the last.
        let directory = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::write(directory.path()).unwrap();
        let ops = [
            DiskOp::Create(one),
            write(one, 0, b"ab"),
            write(other, 2, b"cd"),
            write(one, 2, b"e"),
        ];
        assert!(storage.perform_all(&ops).is_err());
        assert_eq!(std::fs::read(storage.file_path(one)).unwrap(), b"ab");
    }

    /// A file of the system's that takes no such write stands for a file system that refuses it. What was to
    /// be written is written, through the page cache.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_refused_write_goes_through_the_page_cache() {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::write(directory.path()).unwrap();
        storage.write_by(Writes::Direct);
        let segment = SegmentId(1);
        storage.perform(&DiskOp::Create(segment)).unwrap();
        let refuses = OpenOptions::new().write(true).open("/proc/self/clear_refs").unwrap();
        let refuses = Writing::Direct(Box::new(Direct::new(refuses, true)));
        storage.writing.insert(segment, refuses);
        storage.writes = Writes::Direct;
        let write = |offset, bytes: &[u8]| DiskOp::Write { segment, offset, bytes: bytes.to_vec() };
        let ops = [write(0, b"abc"), write(3, b"def"), DiskOp::Sync(segment)];
        storage.perform_all(&ops).unwrap();
        assert_eq!(storage.writes(), Writes::Cached);
        storage.perform(&write(6, b"g")).unwrap();
        assert_eq!(std::fs::read(storage.file_path(segment)).unwrap(), b"abcdefg");
    }

    /// A replaced writer that lives would write back the rest of a block as it was.
    #[test]
    fn a_log_that_is_taken_over_is_not_written_past_the_page_cache() {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::take_over(directory.path()).unwrap();
        storage.write_by(Writes::Direct);
        assert_eq!(storage.writes(), Writes::Cached);
    }
}
