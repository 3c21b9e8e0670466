//! The durable log under Trinity's coordinators and participants.
//!
//! Records are those of the published format, byte for byte. Around them the log puts what that format
//! lacks: each group commit is a batch with a guard that proves every byte of it and that it is the next
//! one of this log; each segment's header proves where the log in front of it ends. The layout is in
//! `FORMAT.md`, precise enough to write another reader from.
//!
//! # What it guarantees
//!
//! - What [`Log::durable`] covers survives power loss, in order, each record once; so do the files' names.
//! - Reading finds a prefix of what was appended. A write that a crash cut short is a torn tail, counted,
//!   and cut when the log is opened for writing; a crash may come at any operation, opening included.
//! - Any flipped bit, and any missing, stale or misplaced batch that was proved by a later one, is
//!   reported as [`Corruption`], with its place; records on both sides are told, and such a log is not
//!   opened for writing.
//! - The first failed operation poisons the log: nothing is acknowledged after it. Opening it again
//!   rewrites and syncs what it cannot prove to be on the disk.
//! - Once a snapshot that its user wrote is durable ([`Log::append_part`]), older segments go, whatever crash
//!   comes when; their files are used again, and nothing of what they held is ever seen.
//! - A writer that was replaced ([`OpenMode::TakeOver`]) acknowledges nothing more.
//! - No input makes reading panic; its memory is bounded by the longest batch (16 MiB).
//!
//! - Several logs may share a directory, one lock and one epoch ([`FileStreams`]); one that has lost its end
//!   is found out by the others.
//!
//! # What it does not
//!
//! - It cannot see that a whole sector was zeroed, or the end rolled back, in batches that no later batch
//!   proves to have been synced: a crash leaves the same. An idle log and a clean close keep that window
//!   short.
//! - A checksum is no signature: whoever can write the files can forge them.
//! - A raw stream of the published format ([`scan_stream`]) has a CRC-32 per payload and nothing else.
//! - It knows records, not what they mean.
//!
//! # Shape
//!
//! [`Log`] and [`Opening`] are values. They read no clock and perform nothing: they are told the time and
//! hand out [`DiskOp`]s, which a shell performs in order. [`open`], [`drive`] and [`close`] are the
//! simplest shell; [`SharedLog`] is one for threads, and [`FileLog`] is that on files. Each of its flushes
//! is a `tracing` span, `flush`, with the records that it writes; a log that fails says so as an error
//! event. A [`Scrub`] is a value too: it reads sealed segments again at a paced rate, while the log is in use,
//! and tells what a disk has damaged since.
//!
//! ```
//! use wal_core::{Config, EventType, FileLog, Place, Record, Visitor};
//!
//! #[derive(Default)]
//! struct Replay(Vec<u64>);
//!
//! impl Visitor for Replay {
//!     fn record(&mut self, record: &Record<'_>, _: Place) {
//!         assert_eq!(record.event, EventType::TX_COMMIT_START);
//!         self.0.push(u64::from_le_bytes(record.payload.try_into().expect("an id")));
//!     }
//! }
//!
//! let directory = tempfile::tempdir()?;
//! let config = Config::default();
//!
//! let (log, _) = FileLog::open(directory.path(), &config, &mut Replay::default())?;
//! for id in [7u64, 8] {
//!     // When this returns, the record survives power loss.
//!     log.append_durable(EventType::TX_COMMIT_START, 1_700_000_000_000, &id.to_le_bytes())?;
//! }
//! log.close()?;
//!
//! let mut replay = Replay::default();
//! let (log, scanned) = FileLog::open(directory.path(), &config, &mut replay)?;
//! assert_eq!(replay.0, [7, 8]);
//! assert_eq!((scanned.torn_tail_bytes, scanned.is_corrupt()), (0, false));
//! assert_eq!(log.epoch().value(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod checksum;
mod compact;
mod drive;
mod end;
mod file;
mod file_streams;
mod guard;
mod log;
mod memory;
mod open;
mod payload;
mod read_ahead;
mod record;
mod scan;
mod segment;
mod segment_ahead;
mod shared_log;
mod stats;
mod storage;
mod stream;
mod streams;
mod sync;
mod window;

pub use compact::{SNAPSHOT_TAG, SnapshotPart};
pub use drive::{close, drive, open};
pub use file::{FileError, FileStorage, Spare, Writes};
pub use file_streams::{FileStreams, FileStreamsError, StreamFiles};
pub use guard::Guard;
pub use log::{AppendError, Appended, Config, ConfigError, Flush, Log};
pub use memory::MemoryStorage;
pub use open::{OpenError, OpenMode, Opening};
pub use payload::{
    ExtensionIter, Extensions, Payload, PayloadError, Prefix, encode_extension, extensions,
    prefix_bytes,
};
pub use read_ahead::ReadAhead;
pub use record::{
    Decoded, EventType, MAGIC, RECORD_HEADER_BYTES, Record, RecordError, decode_record,
    encode_record,
};
pub use scan::{
    CopyState, Corruption, Damage, Integrity, NotUnderstood, Place, ScanConfig, ScanError, Scanned,
    Scrub, ScrubConfig, ScrubStats, SealInfo, SegmentExtent, SegmentInfo, Visitor, scan,
};
pub use segment_ahead::SegmentAhead;
pub use shared_log::{DurableError, FileLog, NewRecord, SharedLog, Ticket};
pub use stats::Stats;
pub use storage::{Directory, DiskError, DiskOp, MakeAhead, SegmentId, Storage, Zeros};
pub use stream::scan_stream;
pub use streams::{
    OpenStreams, StreamFault, StreamId, Streams, StreamsError, faults, open_streams,
};
