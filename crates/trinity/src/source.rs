//! What a path names: a log's directory, or a file that holds a raw stream.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use wal_core::{
    Directory, FileError, FileStorage, MemoryStorage, ScanConfig, Scanned, SegmentId, Streams,
    Visitor,
};

use crate::error::Error;
use crate::terminal::Brake;

/// A log to be read. A directory's lock is held, shared, as long as this lives.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
    is_one_of_several: bool,
}

#[derive(Debug)]
enum Kind {
    Log(FileStorage),
    /// A stream of several whose directory is not there: it holds nothing.
    Lost,
    Stream {
        beginning: Vec<u8>,
        rest: File,
        read: bool,
    },
}

impl Source {
    /// Opens a path for reading.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InUse`], [`Error::NotALog`].
    pub fn open(path: &Path) -> Result<Source, Error> {
        let metadata = path.metadata().map_err(|error| Error::io(path, error))?;
        let kind = if metadata.is_dir() { directory(path)? } else { stream(path)? };
        Ok(Source { path: path.to_owned(), kind, is_one_of_several: false })
    }

    /// One stream of several, in its own directory; `None` if that is not there.
    pub fn of_stream(path: PathBuf, storage: Option<FileStorage>) -> Source {
        let kind = storage.map_or(Kind::Lost, Kind::Log);
        Source { path, kind, is_one_of_several: true }
    }

    /// As [`Source::open`], of what must be a log's directory.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InUse`], [`Error::NotALog`].
    pub fn open_directory(path: &Path) -> Result<Source, Error> {
        let source = Source::open(path)?;
        match source.kind {
            Kind::Log(_) | Kind::Lost => Ok(source),
            Kind::Stream { .. } => Err(Error::NotALog {
                path: path.to_owned(),
                why: "it is a file, not a log's directory",
                remedy: "a raw stream is what `trinity wal export` writes".to_owned(),
            }),
        }
    }

    /// The directory of segments that it is, if it is one.
    pub fn directory(&self) -> Option<&FileStorage> {
        match &self.kind {
            Kind::Log(storage) => Some(storage),
            Kind::Lost | Kind::Stream { .. } => None,
        }
    }

    /// What its files are called.
    pub fn file_names(&self) -> FileNames {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        FileNames { own: name.to_string_lossy().into_owned(), folder: self.is_one_of_several }
    }

    /// Reads it to its end, or until the brake is pulled: then the error means nothing. It can be read
    /// again, if it is no pipe.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotALog`], [`Error::NewerFormat`], [`Error::NewerRecord`]. Damage is none.
    pub fn scan(&mut self, brake: &Brake, visitor: &mut dyn Visitor) -> Result<Scanned, Error> {
        let config = ScanConfig::default();
        let scanned = match &mut self.kind {
            Kind::Log(storage) => {
                wal_core::scan(&Braked { brake, inner: storage }, &config, visitor)
            }
            Kind::Lost => wal_core::scan(&MemoryStorage::new(), &config, visitor),
            Kind::Stream { beginning, rest, read } => {
                if std::mem::replace(read, true) {
                    let start = SeekFrom::Start(beginning.len() as u64);
                    rest.seek(start).map_err(|error| Error::io(&self.path, error))?;
                }
                let mut reader = Cursor::new(beginning).chain(Braked { brake, inner: rest });
                wal_core::scan_stream(&mut reader, &config, visitor)
            }
        };
        let scanned = scanned.map_err(|error| Error::scan(&self.path, error))?;
        match visitor.not_understood() {
            Some(found) => Err(Error::NewerRecord { path: self.path.clone(), found }),
            None => Ok(scanned),
        }
    }
}

/// What the files of a log are called.
#[derive(Clone, Debug)]
pub struct FileNames {
    own: String,
    /// Whether the segments' names need their directory's in front.
    folder: bool,
}

impl FileNames {
    /// The name of a segment's file; a raw stream, whose places have no segment, has its own.
    pub fn of(&self, segment: SegmentId) -> Cow<'_, str> {
        match segment {
            SegmentId(0) => Cow::Borrowed(&self.own),
            segment if self.folder => Cow::Owned(format!("{}/{segment}", self.own)),
            segment => Cow::Owned(segment.file_name()),
        }
    }
}

fn directory(path: &Path) -> Result<Kind, Error> {
    let storage = FileStorage::read(path).map_err(|error| Error::file(path, error))?;
    let segments = storage.segments().map_err(|error| Error::io(path, error))?;
    if segments.is_empty() && !is_before_first_segment(path).map_err(|e| Error::io(path, e))? {
        return Err(Error::not_a_log(path, "the directory holds no segments"));
    }
    Ok(Kind::Log(storage))
}

/// Whether there is a log to append to in that directory; if not, one may be created there.
///
/// # Errors
/// [`Error::Io`]; [`Error::NotALog`] if something else is in it: beside files that are not known, a
/// log would be created where nobody looks for one, and the path is perhaps not the one that was meant.
pub fn has_log(dir: &Path) -> Result<bool, Error> {
    let io = |error| Error::io(dir, error);
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(io)?,
    };
    let mut foreign = false;
    for entry in entries {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if name.to_str().and_then(SegmentId::from_file_name).is_some() {
            return Ok(true);
        }
        if let Some((streams, _)) = name.to_str().and_then(Streams::from_folder_name) {
            let path = dir.to_owned();
            return Err(Error::file(dir, FileError::HoldsStreams { path, streams }));
        }
        foreign |=
            !FileStorage::is_beside_segments(&name) || !entry.file_type().map_err(io)?.is_file();
    }
    if foreign {
        return Err(Error::NotALog {
            path: dir.to_owned(),
            why: "the directory holds other files, and no segments",
            remedy:
                "nothing was written; name a log's directory, or one that is empty or not there \
                     yet, such as a new one in this directory"
                    .to_owned(),
        });
    }
    Ok(false)
}

/// A crash in the first opening may leave the lock file, and the first segment half made ahead of its name,
/// and nothing else: a log without records.
fn is_before_first_segment(path: &Path) -> io::Result<bool> {
    let mut lock = false;
    for entry in path.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        if !FileStorage::is_beside_segments(&name) || !entry.file_type()?.is_file() {
            return Ok(false);
        }
        lock |= name == FileStorage::LOCK;
    }
    Ok(lock)
}

fn stream(path: &Path) -> Result<Kind, Error> {
    let io = |error| Error::io(path, error);
    let mut rest = File::open(path).map_err(io)?;
    let mut beginning = Vec::new();
    (&mut rest).take(1024).read_to_end(&mut beginning).map_err(io)?;
    if is_segment(&beginning) {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        return Err(Error::NotALog {
            path: path.to_owned(),
            why: "it is one segment of a log",
            remedy: format!("name the directory that holds it: {}", directory.display()),
        });
    }
    Ok(Kind::Stream { beginning, rest, read: false })
}

/// One of the two header copies has a segment's magic.
fn is_segment(beginning: &[u8]) -> bool {
    [0, 512].iter().any(|&copy| beginning.get(copy + 1..copy + 8) == Some(b"TRINWAL"))
}

struct Braked<'a, T> {
    brake: &'a Brake,
    inner: T,
}

impl<R: Read> Read for Braked<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.brake.check()?;
        self.inner.read(into)
    }
}

impl Directory for Braked<'_, &mut FileStorage> {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        self.inner.segments()
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        self.inner.len(segment)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.brake.check()?;
        self.inner.read_at(segment, offset, into)
    }
}
