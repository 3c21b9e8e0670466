//! The durable log under Trinity's coordinators and participants.

mod record;
mod storage;

pub use record::{
    Decoded, EventType, MAGIC, RECORD_HEADER_BYTES, Record, RecordError, decode_record,
    encode_record,
};
pub use storage::{Directory, DiskError, DiskOp, SegmentId, Storage};
