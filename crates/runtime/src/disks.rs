use node::{Disks, LogSlot};
use std::path::Path;
use wal_core::{Directory, DiskError, DiskOp, FileError, FileStorage, Storage};

/// A node's logs, each in a directory of its own.
#[derive(Debug)]
pub(crate) struct FileDisks {
    coordinator: FileStorage,
    participant: FileStorage,
}

impl FileDisks {
    /// Locks both directories for the life of this value. The first segment of each log is zero-filled to
    /// so many bytes.
    pub(crate) fn open(folder: &Path, segment_bytes: u64) -> Result<FileDisks, FileError> {
        let open = |log: &str| {
            let mut storage = FileStorage::write(&folder.join(log))?;
            storage.zero_fill_next(segment_bytes);
            Ok::<FileStorage, FileError>(storage)
        };
        Ok(FileDisks { coordinator: open("coordinator")?, participant: open("participant")? })
    }

    /// Performs operations in order, until one fails.
    pub(crate) fn perform(&mut self, slot: LogSlot, ops: &[DiskOp]) -> Result<(), DiskError> {
        match slot {
            LogSlot::Coordinator => self.coordinator.perform_all(ops),
            LogSlot::Participant => self.participant.perform_all(ops),
        }
    }
}

impl Disks for FileDisks {
    fn directory(&self, slot: LogSlot) -> &dyn Directory {
        match slot {
            LogSlot::Coordinator => &self.coordinator,
            LogSlot::Participant => &self.participant,
        }
    }
}
