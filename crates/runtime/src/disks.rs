use crate::scrubber;
use base::Time;
use node::{Disks, LogSlot};
use std::path::{Path, PathBuf};
use wal_core::{
    Directory, DiskError, DiskOp, FileError, FileStorage, Log, SegmentAhead, Storage, Writes,
};

/// A node's logs, each in a directory of its own.
#[derive(Debug)]
pub(crate) struct FileDisks {
    coordinator: FileStorage,
    participant: FileStorage,
    /// The next segment of each log.
    ahead: [SegmentAhead; 2],
}

impl FileDisks {
    /// Locks both directories for the life of this value. The first segment of each log is zero-filled to
    /// so many bytes.
    pub(crate) fn open(
        folder: &Path,
        segment_bytes: u64,
        writes: Writes,
    ) -> Result<FileDisks, FileError> {
        let open = |slot| {
            let mut storage = FileStorage::write(&FileDisks::path(folder, slot))?;
            storage.write_by(writes);
            storage.zero_fill_next(segment_bytes);
            Ok::<FileStorage, FileError>(storage)
        };
        let (coordinator, participant) = (open(LogSlot::Coordinator)?, open(LogSlot::Participant)?);
        Ok(FileDisks { coordinator, participant, ahead: Default::default() })
    }

    /// Where a log is.
    pub(crate) fn path(folder: &Path, slot: LogSlot) -> PathBuf {
        folder.join(scrubber::name(slot))
    }

    /// Performs operations in order, until one fails.
    pub(crate) fn perform(&mut self, slot: LogSlot, ops: &[DiskOp]) -> Result<(), DiskError> {
        match slot {
            LogSlot::Coordinator => self.coordinator.perform_all(ops),
            LogSlot::Participant => self.participant.perform_all(ops),
        }
    }

    /// Has the next segment of a log made ahead of time, when it is time to.
    pub(crate) fn make_ahead(&mut self, slot: LogSlot, log: &Log, now: Time) {
        let storage = match slot {
            LogSlot::Coordinator => &mut self.coordinator,
            LogSlot::Participant => &mut self.participant,
        };
        self.ahead[slot as usize].go_on(log, storage, now);
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
