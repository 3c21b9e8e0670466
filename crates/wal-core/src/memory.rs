use std::collections::BTreeMap;
use std::io;

use crate::storage::{Directory, DiskError, DiskOp, SegmentId, Storage};

/// A directory in memory, for examples and tests: whatever is written is durable at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStorage {
    files: BTreeMap<SegmentId, Vec<u8>>,
    /// Files of segments that were retired, until they may be overwritten.
    retired: BTreeMap<SegmentId, Vec<u8>>,
    /// Files of zeros that they have become: the next segments are made of them.
    blank: Vec<Vec<u8>>,
}

impl MemoryStorage {
    /// So many files are kept to be used again.
    const BLANK_MAX: usize = 2;

    /// An empty directory.
    #[must_use]
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// The bytes of each segment, ascending.
    pub fn files(&self) -> impl Iterator<Item = (SegmentId, &[u8])> {
        self.files.iter().map(|(&id, bytes)| (id, bytes.as_slice()))
    }

    /// A segment's bytes, to look at or to damage; created if it is not there.
    pub fn file_mut(&mut self, segment: SegmentId) -> &mut Vec<u8> {
        self.files.entry(segment).or_default()
    }

    /// The bytes of the files that retired segments have left and no segment uses yet.
    pub fn retired_bytes(&self) -> u64 {
        let all = self.retired.values().chain(&self.blank);
        all.map(|bytes| bytes.len() as u64).sum()
    }

    /// Takes a segment away.
    pub fn remove(&mut self, segment: SegmentId) -> Option<Vec<u8>> {
        self.files.remove(&segment)
    }

    fn file(&self, segment: SegmentId) -> io::Result<&Vec<u8>> {
        self.files.get(&segment).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn existing_mut(&mut self, segment: SegmentId) -> io::Result<&mut Vec<u8>> {
        self.files.get_mut(&segment).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl Directory for MemoryStorage {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        Ok(self.files.keys().copied().collect())
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        Ok(self.file(segment)?.len() as u64)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.file(segment)?;
        let from = index(offset)?.min(file.len());
        let len = into.len().min(file.len() - from);
        into[..len].copy_from_slice(&file[from..from + len]);
        Ok(len)
    }
}

impl Storage for MemoryStorage {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        match op {
            DiskOp::Create(segment) => {
                if self.files.contains_key(segment) {
                    return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
                }
                let file = self.blank.pop().unwrap_or_default();
                self.files.insert(*segment, file);
            }
            DiskOp::Write { segment, offset, bytes } => {
                let from = index(*offset)?;
                let file = self.existing_mut(*segment)?;
                let end = from + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[from..end].copy_from_slice(bytes);
            }
            DiskOp::Sync(segment) => {
                self.file(*segment)?;
            }
            DiskOp::SyncDirectory => {}
            DiskOp::Truncate { segment, len } => {
                let len = index(*len)?;
                self.existing_mut(*segment)?.truncate(len);
            }
            DiskOp::Retire(segment) => {
                if let Some(file) = self.files.remove(segment) {
                    self.retired.insert(*segment, file);
                }
            }
            DiskOp::Blank(segment) => {
                if let Some(mut bytes) = self.retired.remove(segment) {
                    bytes.fill(0);
                    if self.blank.len() < Self::BLANK_MAX {
                        self.blank.push(bytes);
                    }
                }
            }
            DiskOp::CheckEpoch { newest } => {
                if self.files.keys().next_back().is_some_and(|id| id > newest) {
                    return Err(DiskError::Fenced);
                }
            }
        }
        Ok(())
    }
}
