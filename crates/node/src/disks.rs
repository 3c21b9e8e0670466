use coordinator::LogSlot;
use wal_core::{Directory, DiskError, DiskOp, MemoryStorage, Storage};

/// The read side of a node's disks: looked at only while the node recovers.
pub trait Disks {
    /// The directory of one of its logs.
    fn directory(&self, slot: LogSlot) -> &dyn Directory;
}

/// Two logs in memory, for examples and tests: every operation is durable at once.
#[derive(Debug, Default)]
pub struct MemoryDisks {
    coordinator: MemoryStorage,
    participant: MemoryStorage,
}

impl MemoryDisks {
    /// Performs operations in order, until one fails.
    ///
    /// # Errors
    /// That of the first operation that failed.
    pub fn perform(&mut self, slot: LogSlot, ops: &[DiskOp]) -> Result<(), DiskError> {
        let storage = match slot {
            LogSlot::Coordinator => &mut self.coordinator,
            LogSlot::Participant => &mut self.participant,
        };
        ops.iter().try_for_each(|op| storage.perform(op))
    }
}

impl Disks for MemoryDisks {
    fn directory(&self, slot: LogSlot) -> &dyn Directory {
        match slot {
            LogSlot::Coordinator => &self.coordinator,
            LogSlot::Participant => &self.participant,
        }
    }
}
