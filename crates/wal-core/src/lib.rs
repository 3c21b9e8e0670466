//! The durable log under Trinity's coordinators and participants.

mod drive;
mod end;
mod file;
mod file_log;
mod guard;
mod log;
mod memory;
mod open;
mod payload;
mod record;
mod scan;
mod segment;
mod stats;
mod storage;
mod stream;
mod window;

pub use drive::{close, drive, open};
pub use file::{FileError, FileStorage};
pub use file_log::{DurableError, FileLog};
pub use guard::Guard;
pub use log::{AppendError, Config, ConfigError, Flush, Log};
pub use memory::MemoryStorage;
pub use open::{OpenError, OpenMode, Opening};
pub use payload::{
    ExtensionIter, Extensions, Payload, PayloadError, Prefix, encode_extension, extensions,
    prefix_bytes,
};
pub use record::{
    Decoded, EventType, MAGIC, RECORD_HEADER_BYTES, Record, RecordError, decode_record,
    encode_record,
};
pub use scan::{
    Corruption, Damage, Integrity, Place, ScanConfig, ScanError, Scanned, Visitor, scan,
};
pub use stats::Stats;
pub use storage::{Directory, DiskError, DiskOp, SegmentId, Storage};
pub use stream::scan_stream;
