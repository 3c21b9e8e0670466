//! Real files: a directory with one file per segment and a lock.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
/// A write is complete or an error: short writes and `EINTR` are gone on with. A sync is `fdatasync`;
/// the directory is synced on its own.
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
    writing: BTreeMap<SegmentId, File>,
    spare: Option<Spare>,
    /// Files of segments that were retired and may be overwritten: spares are made of them.
    retired: Mutex<Vec<PathBuf>>,
    /// Whether they are used again. Not where a replaced writer may live that still has one of them open: what
    /// it writes must go nowhere.
    reuses: bool,
    /// The first segment that was created through this.
    first_made: Option<SegmentId>,
    /// The next segment that is created is zero-filled to so many bytes, if no spare is at hand.
    zeros_next: Option<u64>,
}

/// A file of zeros, all of them on the disk: the next segment, made ahead of time. A write into it
/// changes no length and allocates nothing, so that a sync has only the data to write. Made by
/// [`Storage::make_ahead`], and given to [`Storage::keep_ahead`]; until then it is in nobody's way, and the
/// next opening removes it.
#[derive(Debug)]
pub struct Spare {
    path: PathBuf,
    file: File,
}

impl Spare {
    /// What its name begins with, before it is a segment's.
    const PREFIX: &'static str = "spare-";
    const CHUNK: usize = 256 << 10;
    /// Synced so often while it is made, so that no sync of the log's has to wait for all of it.
    const SYNC_EVERY: u64 = 2 << 20;

    /// Makes one in a log's directory.
    ///
    /// # Errors
    /// What the system says, such as that the disk is full; `Interrupted` once `stop` says so. Then
    /// nothing is left of it.
    fn make(
        directory: &Path,
        bytes: u64,
        retired: Option<&Path>,
        zeros: Zeros,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Spare> {
        let path = directory.join(format!("{}{bytes:x}", Spare::PREFIX));
        // A retired segment's blocks are there already: only what they hold has to go.
        let recycled = retired.is_some_and(|retired| std::fs::rename(retired, &path).is_ok());
        let options = OpenOptions::new().write(true).create(true).truncate(!recycled).open(&path);
        let spare = Spare { path, file: options? };
        let filled = match zeros {
            Zeros::Reserved if !recycled && spare.reserve(bytes)? => Ok(()),
            Zeros::Reserved | Zeros::Written => spare.fill(bytes, stop),
        };
        if filled.is_err() {
            spare.remove();
        }
        filled.map(|()| spare)
    }

    /// Whether the file system has set the blocks aside.
    ///
    /// # Errors
    /// What the system says; then nothing is left of it. That it cannot do so is none.
    #[cfg(unix)]
    fn reserve(&self, bytes: u64) -> io::Result<bool> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;

        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // Its length, too.
            Ok(()) => self.file.sync_all().map(|()| true).inspect_err(|_| self.remove()),
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => Ok(false),
            Err(error) => {
                self.remove();
                Err(error.into())
            }
        }
    }

    #[cfg(not(unix))]
    fn reserve(&self, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn fill(&self, bytes: u64, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let zeros = vec![0; Spare::CHUNK];
        let mut at = 0;
        while at < bytes {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = (bytes - at).min(Spare::CHUNK as u64);
            write_all(&self.file, &zeros[..len as usize], at)?;
            at += len;
            if at.is_multiple_of(Spare::SYNC_EVERY) {
                self.file.sync_data()?;
            }
        }
        // Its length too, which a retired segment's may exceed.
        self.file.set_len(bytes)?;
        self.file.sync_all()
    }

    fn remove(&self) {
        // A file that stays is in nobody's way, and is removed at the next opening.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Gives it a segment's name, unless that is taken; durable once the directory is synced.
    fn become_segment(self, path: &Path) -> io::Result<File> {
        // Not a rename: that would replace what is there.
        let named = std::fs::hard_link(&self.path, path);
        self.remove();
        named.map(|()| self.file)
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
            spare: None,
            retired: Mutex::new(Vec::new()),
            reuses: true,
            first_made: None,
            zeros_next: None,
        }
    }

    /// The next segment that is created begins as so many zeros, which are on the disk before it is used:
    /// it is fast from its first write on. One that outgrows them grows as it is written; one for which
    /// they cannot be had, as on a full disk, from the beginning.
    pub fn zero_fill_next(&mut self, bytes: u64) {
        self.zeros_next = Some(bytes);
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
            self.spare = Spare::make(&self.path, bytes, retired.as_deref(), zeros, &|| false).ok();
        }
        let made = match self.spare.take().map(|spare| spare.become_segment(&path)) {
            Some(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Some(Ok(file)) => Ok(file),
            // No spare, or a file system without links.
            _ => OpenOptions::new().write(true).create_new(true).open(path),
        };
        self.keep(segment, made?);
        self.first_made.get_or_insert(segment);
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
        let made_here = self.first_made.is_some_and(|first| segment >= first);
        if self.reuses && made_here && retired.len() < Self::RETIRED_MAX {
            retired.push(path);
        } else {
            // One that stays is in nobody's way, and is removed at the next opening.
            let _ = std::fs::remove_file(path);
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

    fn writable(&mut self, segment: SegmentId) -> io::Result<&File> {
        if !self.writing.contains_key(&segment) {
            let file = OpenOptions::new().write(true).open(self.file_path(segment))?;
            self.keep(segment, file);
        }
        Ok(&self.writing[&segment])
    }

    fn keep(&mut self, segment: SegmentId, file: File) {
        while self.writing.len() >= Self::WRITING_MAX {
            self.writing.pop_first();
        }
        self.writing.insert(segment, file);
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

/// What the system does for one open file when it is asked once: perhaps a part of it, perhaps nothing
/// since a signal came in between.
pub(crate) trait Positioned {
    /// How many bytes it read; 0 at the file's end.
    fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// How many bytes it wrote.
    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// How many bytes of these parts, one behind the other, it wrote.
    fn write_some_of(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        parts.first().map_or(Ok(0), |first| self.write_some(first, offset))
    }
}

#[cfg(unix)]
impl Positioned for File {
    fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, into, offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn write_some_of(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, parts, offset)?)
    }
}

#[cfg(windows)]
impl Positioned for File {
    fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, into, offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(self, bytes, offset)
    }
}

/// Reads until `into` is full or the file ends, however often it is interrupted.
pub(crate) fn read_full(file: &impl Positioned, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_some(&mut into[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Writes all of `bytes`, however often it is interrupted or cut short. A write that takes nothing and
/// says no error would go on for ever: that is an error.
fn write_all(file: &impl Positioned, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_some(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes parts one behind the other, as [`write_all`] writes one.
fn write_all_of(
    file: &impl Positioned,
    mut parts: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    // Parts of no length are behind.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_some_of(parts, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut parts, written);
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
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
        Some(Box::new(move |stop| Spare::make(&directory, bytes, retired.as_deref(), zeros, stop)))
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
            let (DiskOp::Write { segment, offset, .. }, 2..) = (first, now.len()) else {
                self.perform(first)?;
                continue;
            };
            let bytes = now.iter().filter_map(|op| match op {
                DiskOp::Write { bytes, .. } => Some(IoSlice::new(bytes)),
                _ => None,
            });
            let mut parts: Vec<IoSlice<'_>> = bytes.collect();
            let file = self.writable(*segment);
            let written = file.and_then(|file| write_all_of(file, &mut parts, *offset));
            written.map_err(|error| of(*segment, &error))?;
        }
        Ok(())
    }

    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        let on = |&segment: &SegmentId| move |error: io::Error| of(segment, &error);
        match op {
            DiskOp::Create(segment) => self.create(*segment).map_err(on(segment))?,
            DiskOp::Write { segment, offset, bytes } => {
                let written = self.writable(*segment).and_then(|f| write_all(f, bytes, *offset));
                written.map_err(on(segment))?;
            }
            DiskOp::Sync(segment) => {
                self.writable(*segment).and_then(File::sync_data).map_err(on(segment))?;
            }
            DiskOp::SyncDirectory => sync_directory(&self.path)?,
            DiskOp::Truncate { segment, len } => {
                let cut = self.writable(*segment).and_then(|file| file.set_len(*len));
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
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    use super::*;

    /// A file on a system that does as little as it may each time it is asked.
    #[derive(Default)]
    struct Grudging {
        bytes: RefCell<Vec<u8>>,
        /// What comes of the next calls: so many bytes at most, or an error. Then all of it.
        answers: RefCell<VecDeque<Result<usize, io::ErrorKind>>>,
        calls: Cell<usize>,
    }

    impl Grudging {
        fn new(bytes: &[u8], answers: &[Result<usize, io::ErrorKind>]) -> Grudging {
            Grudging {
                bytes: RefCell::new(bytes.to_vec()),
                answers: RefCell::new(answers.iter().copied().collect()),
                calls: Cell::new(0),
            }
        }

        fn answer(&self, asked: usize) -> io::Result<usize> {
            self.calls.set(self.calls.get() + 1);
            Ok(self.answers.borrow_mut().pop_front().unwrap_or(Ok(asked))?.min(asked))
        }
    }

    impl Positioned for Grudging {
        fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            let bytes = self.bytes.borrow();
            let there = &bytes[bytes.len().min(offset as usize)..];
            let len = self.answer(into.len().min(there.len()))?;
            into[..len].copy_from_slice(&there[..len]);
            Ok(len)
        }

        fn write_some(&self, from: &[u8], offset: u64) -> io::Result<usize> {
            let len = self.answer(from.len())?;
            let mut bytes = self.bytes.borrow_mut();
            let end = offset as usize + len;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset as usize..end].copy_from_slice(&from[..len]);
            Ok(len)
        }

        fn write_some_of(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            self.write_some(&all, offset)
        }
    }

    const EINTR: Result<usize, io::ErrorKind> = Err(io::ErrorKind::Interrupted);

    /// Every way in which ten bytes come in three parts, with a signal before each part or not.
    fn answers() -> impl Iterator<Item = Vec<Result<usize, io::ErrorKind>>> {
        (1..9).flat_map(|first| (1..10 - first).map(move |second| [first, second])).flat_map(
            |parts| {
                (0..8_u32).map(move |signals| {
                    let mut answers = Vec::new();
                    for (n, part) in parts.into_iter().enumerate() {
                        answers.extend((signals >> n & 1 == 1).then_some(EINTR));
                        answers.push(Ok(part));
                    }
                    answers.extend((signals >> 2 == 1).then_some(EINTR));
                    answers
                })
            },
        )
    }

    #[test]
    fn a_write_goes_on_where_the_system_stopped() {
        for answers in answers() {
            let file = Grudging::new(b"..", &answers);
            write_all(&file, b"0123456789", 2).unwrap();
            assert_eq!(*file.bytes.borrow(), b"..0123456789", "{answers:?}");
            assert_eq!(file.calls.get(), answers.len() + 1, "no call too many");
        }
    }

    /// Wherever the parts begin and the system stops, and whether it takes more than one part at once or not.
    #[test]
    fn parts_are_written_as_one() {
        for answers in answers() {
            for (first, second) in (0..=10).flat_map(|first| (first..=10).map(move |s| (first, s)))
            {
                let whole = b"0123456789";
                let parts = [&whole[..first], &whole[first..second], &whole[second..]];
                let file = Grudging::new(b"..", &answers);
                write_all_of(&file, &mut parts.map(IoSlice::new), 2).unwrap();
                assert_eq!(*file.bytes.borrow(), b"..0123456789", "{answers:?} {first} {second}");
                assert_eq!(file.calls.get(), answers.len() + 1, "no call too many");
            }
        }
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let file = Grudging::new(b"", &[Ok(4), EINTR, Err(kind)]);
            let mut parts = [&b"01234"[..], b"56789"].map(IoSlice::new);
            assert_eq!(write_all_of(&file, &mut parts, 0).unwrap_err().kind(), kind);
            assert_eq!((file.bytes.borrow().as_slice(), file.calls.get()), (&b"0123"[..], 3));
        }
        let file = Grudging::new(b"", &[Ok(4), Ok(0)]);
        let stuck = write_all_of(&file, &mut [IoSlice::new(b"0123456789")], 0).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }

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
        let files = |perform: &dyn Fn(&mut FileStorage) -> Result<(), DiskError>| {
            let directory = tempfile::tempdir().unwrap();
            let mut storage = FileStorage::write(directory.path()).unwrap();
            perform(&mut storage).unwrap();
            [one, other].map(|segment| std::fs::read(storage.file_path(segment)).unwrap())
        };
        let alone = files(&|storage| ops.iter().try_for_each(|op| storage.perform(op)));
        assert!(files(&|storage| storage.perform_all(&ops)) == alone);
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

    #[test]
    fn a_read_goes_on_where_the_system_stopped_and_ends_with_the_file() {
        for answers in answers() {
            let file = Grudging::new(b"..0123456789", &answers);
            let mut into = [0; 10];
            assert_eq!(read_full(&file, &mut into, 2).unwrap(), 10);
            assert_eq!(&into, b"0123456789", "{answers:?}");
            let file = Grudging::new(b"..0123456789", &answers);
            let mut into = [0xEE; 12];
            assert_eq!(read_full(&file, &mut into, 2).unwrap(), 10);
            assert_eq!(&into, b"0123456789\xEE\xEE", "{answers:?}");
        }
    }

    #[test]
    fn an_error_is_told_after_a_part_and_nothing_is_tried_again() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let file = Grudging::new(b"", &[Ok(4), EINTR, Err(kind)]);
            assert_eq!(write_all(&file, b"0123456789", 0).unwrap_err().kind(), kind);
            assert_eq!((file.bytes.borrow().as_slice(), file.calls.get()), (&b"0123"[..], 3));
            let file = Grudging::new(b"0123456789", &[Ok(4), EINTR, Err(kind)]);
            assert_eq!(read_full(&file, &mut [0; 10], 0).unwrap_err().kind(), kind);
            assert_eq!(file.calls.get(), 3);
        }
        let file = Grudging::new(b"", &[Ok(4), Ok(0)]);
        let stuck = write_all(&file, b"0123456789", 0).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }
}
