//! What the log asks of a disk: a directory of segments to read, and operations performed in order.

use std::fmt;
use std::io;
use std::ops::Range;

use crate::file::Spare;
use crate::read_ahead::ReadAhead;

/// A segment's number in its log: 1, 2, ...
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// The first segment of every log.
    pub const FIRST: SegmentId = SegmentId(1);

    /// The id after this one.
    ///
    /// # Panics
    /// After 2^64 - 1 segments, which no disk holds.
    #[must_use]
    pub fn next(self) -> SegmentId {
        SegmentId(self.0.checked_add(1).expect("a log has fewer than 2^64 segments"))
    }

    /// The segment's file name: sixteen lower-case hexadecimal digits and `.wal`.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{:016x}.wal", self.0)
    }

    /// The segment of that [`file_name`](Self::file_name), or `None` for a file that is foreign to
    /// the log: no log reaches the last id, and a file of that name must not make anybody ask for
    /// the one behind it.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<SegmentId> {
        let digits = name.strip_suffix(".wal")?;
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 16 || !digits.bytes().all(lower) {
            return None;
        }
        let id = u64::from_str_radix(digits, 16).ok()?;
        (1..u64::MAX).contains(&id).then_some(SegmentId(id))
    }
}

/// The segment's file name.
impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.wal", self.0)
    }
}

/// The read side of a log's directory.
///
/// An error is an I/O error, never an end of log.
pub trait Directory {
    /// The ids of the segments that are there, ascending. Foreign files are not listed.
    ///
    /// # Errors
    /// Whatever the disk answers.
    fn segments(&self) -> io::Result<Vec<SegmentId>>;

    /// The length of a segment's file, in bytes.
    ///
    /// # Errors
    /// Whatever the disk answers; `NotFound` if the segment is not there.
    fn len(&self, segment: SegmentId) -> io::Result<u64>;

    /// Reads from `offset` on into `into`, and says how many bytes it read: fewer than `into` holds
    /// only at the end of the file.
    ///
    /// # Errors
    /// Whatever the disk answers; `NotFound` if the segment is not there.
    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// What reads a long part of a segment ahead of a scan. `None` if this disk has no use for that: then
    /// all is read with [`read_at`](Self::read_at).
    fn read_ahead(&self, segment: SegmentId, span: Range<u64>) -> Option<ReadAhead> {
        let _ = (segment, span);
        None
    }
}

/// Everything that the log ever asks of a disk. A list of them is performed strictly in order, and
/// after the first error nothing more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Creates the segment's file, empty. Fails with `AlreadyExists` if it is there.
    Create(SegmentId),
    /// Writes all of `bytes` at `offset`; the file grows as needed.
    Write {
        /// Whose file.
        segment: SegmentId,
        /// Where, in bytes from the file's beginning.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Makes everything written to the segment durable (`fdatasync`).
    Sync(SegmentId),
    /// Makes the names in the directory durable.
    SyncDirectory,
    /// Cuts the segment's file to `len` bytes; it may be longer, never shorter.
    Truncate {
        /// Whose file.
        segment: SegmentId,
        /// Its new length in bytes.
        len: u64,
    },
    /// Takes the segment's file out of the log, by another name that is foreign to it: for good once the
    /// directory is synced. Nothing reads it any more. Without effect if it has left already. On storage that others may use, only whoever holds
    /// the log's lock may do so: a replaced writer that lives looks for the segment behind its own. For
    /// anybody else it is done without effect.
    Retire(SegmentId),
    /// What a retired segment held may be overwritten: its file may become a later segment's, once it is
    /// zeros throughout and synced. Asked for only behind the sync of the directory that has made the
    /// retiring durable. Without effect if the file is gone.
    Blank(SegmentId),
    /// Fails with [`DiskError::Fenced`] if the directory holds a segment newer than `newest`, which is
    /// the newest one that is the log's own: somebody has taken the log over.
    CheckEpoch {
        /// The newest segment of the asking log.
        newest: SegmentId,
    },
}

/// Why an operation failed. The first one poisons the log that asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The disk failed. Close the log and open it again: what was not acknowledged may or may not
    /// be there.
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
    /// Another writer has taken the log over. This one must not act any more.
    #[error("the log was taken over by another writer")]
    Fenced,
}

/// The copy of an I/O error has its kind and its words, or its number if it came from the system.
impl Clone for DiskError {
    fn clone(&self) -> Self {
        match self {
            Self::Io(error) => Self::Io(match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            Self::Fenced => Self::Fenced,
        }
    }
}

impl DiskError {
    /// Whether a `Create` found its segment there already: somebody else was faster.
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        matches!(self, DiskError::Io(error) if error.kind() == io::ErrorKind::AlreadyExists)
    }
}

/// A disk that performs operations.
pub trait Storage: Directory {
    /// Performs one operation. When it returns, its effect is visible to [`Directory`]; only what
    /// was synced is durable.
    ///
    /// # Errors
    /// [`DiskError`]. The operation may then have had its effect in part or whole.
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError>;

    /// Performs a list of operations in order, up to the first error.
    ///
    /// # Errors
    /// The first operation's that failed.
    fn perform_all(&mut self, ops: &[DiskOp]) -> Result<(), DiskError> {
        ops.iter().try_for_each(|op| self.perform(op))
    }

    /// What makes the next segment's file ahead of time, zeros throughout, for a shell to call on a thread
    /// of its own; what comes of it goes to [`keep_ahead`](Self::keep_ahead). `None` if this disk has no
    /// use for that.
    fn make_ahead(&self, bytes: u64, zeros: Zeros) -> Option<MakeAhead> {
        let _ = (bytes, zeros);
        None
    }

    /// Takes a file that was made ahead of time: the next segment that is created is made of it.
    fn keep_ahead(&mut self, spare: Spare) {
        drop(spare);
    }
}

/// How a file that is made ahead of time comes by its zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// They are written: every later sync has only data to write, and is as fast as the disk.
    Written,
    /// The file system sets blocks aside that read as zeros, if it can; else they are written. The disk
    /// writes half as much, and each sync notes which blocks were used: for segments that are seldom
    /// synced.
    Reserved,
}

/// Makes a file ahead of time, unless it is told to stop.
pub type MakeAhead = Box<dyn FnOnce(&dyn Fn() -> bool) -> io::Result<Spare> + Send>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_segments() {
        assert_eq!(SegmentId(0x1f).file_name(), "000000000000001f.wal");
        assert_eq!(SegmentId::from_file_name("000000000000001f.wal"), Some(SegmentId(0x1f)));
        for foreign in [
            "lock",
            "1f.wal",
            "000000000000001F.wal",
            "0000000000000000.wal",
            "ffffffffffffffff.wal",
            "+00000000000001f.wal",
            "000000000000001f.wal~",
            "000000000000001f.WAL",
            "é00000000000001f.wal",
        ] {
            assert_eq!(SegmentId::from_file_name(foreign), None, "{foreign}");
        }
    }
}
