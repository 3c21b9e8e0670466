//! The log itself, as a value: it is told what to append and what became of its flushes, and says what
//! is to be written.

use std::time::Duration;

use base::{Epoch, Sequence, Time};

use crate::compact::{Compaction, SnapshotPart};
use crate::guard::{Framing, HEAD_BYTES, MARK_BYTES, Seed, frame_batch, guard_bytes};
use crate::record::{EventType, RECORD_HEADER_BYTES, encode_header};
use crate::scan::ScanConfig;
use crate::segment::{
    BATCH_BYTES_LIMIT, Claim, HEADER_BYTES, SECTOR, Seal, encode_claim, encode_copy,
};
use crate::stats::Stats;
use crate::storage::{DiskError, DiskOp, SegmentId};

/// How a log is kept. Every size is in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest payload of a record. Nodes that work together are to have the same: a coordinator
    /// takes it for its participants' limit too, and starts nothing of which a record would not fit.
    pub max_payload: u32,
    /// From so many records on a log is to be compacted: see [`Log::compaction_due`].
    pub max_records: u64,
    /// A marker is due after so many records.
    pub checkpoint_interval: u64,
    /// Whether `verify`, `dump` and a scrub look at the CRC-32 of each record too. Opening does not: its
    /// batch proves a record without.
    pub enable_checksums: bool,
    /// The size of the first segment of each open; each rotation doubles it.
    pub segment_bytes_first: u64,
    /// The size that segments grow to.
    pub segment_bytes_max: u64,
    /// The longest batch, guard included. Reading the log needs memory for one.
    pub batch_bytes_max: u32,
    /// Appended records that wait for a flush, and records written but not synced, are at most so much
    /// each (and one batch more).
    pub buffered_bytes_max: u64,
    /// An unforced record is written, and an idle log closes its unproven window, after so long.
    pub idle_guard_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_payload: 64 << 10,
            max_records: 10_000,
            checkpoint_interval: 1_000,
            enable_checksums: true,
            segment_bytes_first: 1 << 20,
            segment_bytes_max: 64 << 20,
            batch_bytes_max: 1 << 20,
            buffered_bytes_max: 8 << 20,
            idle_guard_after: Duration::from_millis(5),
        }
    }
}

/// A configuration that cannot work. Change what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A batch must hold the longest record, its guard and its mark.
    #[error("batch_bytes_max is {batch}: a record of max_payload needs {needed}")]
    BatchTooSmall {
        /// What is configured.
        batch: u32,
        /// What the longest record needs.
        needed: u64,
    },
    /// Readers do not trust longer batches than the format's limit.
    #[error("batch_bytes_max is {batch}: the format allows {max}")]
    BatchTooLarge {
        /// What is configured.
        batch: u32,
        /// The format's limit.
        max: u32,
    },
    /// The buffer must hold a batch, and be rewritable by the next opening.
    #[error("buffered_bytes_max is {bytes}: allowed are {min} (batch_bytes_max) to {max}")]
    Buffer {
        /// What is configured.
        bytes: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A segment must hold more than its header.
    #[error(
        "segments of {first} to {max} bytes: at least 4096, and the first not above the largest"
    )]
    Segment {
        /// `segment_bytes_first`
        first: u64,
        /// `segment_bytes_max`
        max: u64,
    },
    /// A marker after no record at all would never end.
    #[error("checkpoint_interval is 0")]
    NoInterval,
}

impl Config {
    /// The most that [`Config::buffered_bytes_max`] may be.
    pub const BUFFERED_BYTES_LIMIT: u64 = 16 << 20;

    /// # Errors
    /// [`ConfigError`] names the first field that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (batch, max) = (self.batch_bytes_max, BATCH_BYTES_LIMIT);
        let needed = u64::from(RECORD_HEADER_BYTES) + u64::from(self.max_payload);
        let needed = needed + frame_overhead(needed);
        if u64::from(batch) < needed {
            return Err(ConfigError::BatchTooSmall { batch, needed });
        }
        if batch > max {
            return Err(ConfigError::BatchTooLarge { batch, max });
        }
        let (bytes, min, max) =
            (self.buffered_bytes_max, u64::from(batch), Self::BUFFERED_BYTES_LIMIT);
        if bytes < min || bytes > max {
            return Err(ConfigError::Buffer { bytes, min, max });
        }
        let (first, max) = (self.segment_bytes_first, self.segment_bytes_max);
        if first < 4096 || max < first {
            return Err(ConfigError::Segment { first, max });
        }
        if self.checkpoint_interval == 0 {
            return Err(ConfigError::NoInterval);
        }
        Ok(())
    }

    /// For replay, which needs no record's own checksum.
    pub(crate) fn replay_config(&self) -> ScanConfig {
        ScanConfig { max_payload: self.max_payload, enable_checksums: false }
    }

    /// How many bytes of records a batch has room for, wherever it begins.
    fn batch_room(&self) -> u64 {
        u64::from(self.batch_bytes_max) - frame_overhead(u64::from(self.batch_bytes_max))
    }
}

/// At least what a batch of `bytes` needs for guard and mark, wherever it begins.
const fn frame_overhead(bytes: u64) -> u64 {
    (HEAD_BYTES + MARK_BYTES) as u64 + 4 * (bytes / SECTOR + 3)
}

const HEADER: usize = RECORD_HEADER_BYTES as usize;

/// Why a record was not appended. The log is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The caller's payload is too long.
    #[error("a payload of {bytes} bytes is longer than max_payload, {max}")]
    PayloadTooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u32,
    },
    /// The caller used the code of a batch guard.
    #[error("event code 0xf1 belongs to the log itself")]
    Reserved,
    /// Too much waits to be written. Flush, and append again.
    #[error("more than {max} bytes wait to be written: flush first")]
    Full {
        /// `buffered_bytes_max`
        max: u64,
    },
    /// The disk has no room for the next segment, and the record does not fit into this one. Nothing is
    /// lost: make room on the disk, and append again.
    #[error("the disk has no room for the log's next segment: make room, and append again")]
    NoSpace,
    /// The disk failed, or another writer took over. Drop the log and open it again.
    #[error("the log is poisoned by a failed flush: open it again")]
    Poisoned,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// A record as it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended<'a> {
    /// What it says.
    pub event: EventType,
    /// Its number.
    pub sequence: Sequence,
    /// Its payload, where it waits for a flush.
    pub payload: &'a [u8],
}

/// What is to be written now: every operation, strictly in order, up to the first that fails. Then the
/// log is told, by [`Log::flushed`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// The operations. A shell may take them out.
    pub ops: Vec<DiskOp>,
    /// Whether it is synced at its end: [`Log::durable`] advances when it is done.
    pub forced: bool,
    /// How many records it writes.
    pub records: u64,
    /// The first of them; [`Sequence::NONE`] if there are none.
    pub first: Sequence,
    /// The last of them; [`Sequence::NONE`] if there are none.
    pub last: Sequence,
}

/// Records that wait for a flush: one batch, with space for its guard in front.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// What is behind `end` belongs to an append that came to nothing.
    bytes: Vec<u8>,
    gap: usize,
    end: usize,
    first: Sequence,
    records: u32,
    /// It begins with the first part of a snapshot, and so it begins a segment.
    begins_snapshot: bool,
}

impl Pending {
    fn records_bytes(&self) -> usize {
        self.end - self.gap
    }
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// What is written once it is done.
    written: Sequence,
    synced: bool,
    closing: bool,
    recycling: bool,
}

/// A log that is open for writing, as a value: it performs nothing itself.
///
/// - *Commands*: [`append`](Log::append), [`force`](Log::force), [`close`](Log::close).
/// - *What it wants*: [`next_flush`](Log::next_flush), at the latest at
///   [`next_wake`](Log::next_wake); one flush is in flight at a time, and what is appended meanwhile
///   shares the next one.
/// - *What became of it*: [`flushed`](Log::flushed).
/// - *Questions*: the rest.
///
/// It is made by [`Opening::finish`](crate::Opening::finish).
#[derive(Clone, Debug)]
pub struct Log {
    config: Config,
    /// How many bytes of records a batch of it has room for.
    batch_room: u64,
    claim: Claim,
    seed: Seed,
    /// Where the next batch goes.
    offset: u64,
    segment_bytes: u64,
    holds_batch: bool,
    /// There is no room for another segment.
    confined: bool,
    chain: u32,
    last: Sequence,
    /// The last record that was put into a flush.
    written: Sequence,
    durable: Sequence,
    forced: Sequence,
    /// The watermark of the last guard.
    guarded: Sequence,
    /// The batch that is appended to. It has no record if and only if nothing is pending.
    pending: Pending,
    /// Pending batches before that one, which are full.
    full: Vec<Pending>,
    /// The records of all of them, in bytes.
    pending_bytes: u64,
    /// How long the records of the batch before were: a guess at the next one.
    usual_bytes: usize,
    unsynced_bytes: u64,
    in_flight: Option<InFlight>,
    /// Since when the oldest pending record is known to wait.
    waiting_since: Option<Time>,
    quiet_since: Time,
    closed: bool,
    /// The next flush looks whether somebody else has the log by now.
    looks: bool,
    poison: Option<DiskError>,
    stats: Stats,
    compaction: Compaction,
    /// Begins every CRC-32: to make one asks what the processor can do.
    crc32: crc32fast::Hasher,
    spare_ops: Vec<DiskOp>,
    spare_bytes: Vec<Vec<u8>>,
}

/// What an opening hands over.
pub(crate) struct Opened {
    pub config: Config,
    pub claim: Claim,
    pub last: Sequence,
    pub chain: u32,
    pub stats: Stats,
    pub compaction: Compaction,
}

impl Log {
    const SPARE_MAX: usize = 8;

    pub(crate) fn opened(opened: Opened, now: Time) -> Log {
        let Opened { config, claim, last, chain, stats, compaction } = opened;
        Log {
            batch_room: config.batch_room(),
            seed: Seed::of(&claim),
            offset: HEADER_BYTES,
            segment_bytes: config.segment_bytes_first,
            holds_batch: false,
            confined: false,
            chain,
            last,
            written: last,
            durable: last,
            forced: Sequence::NONE,
            guarded: last,
            pending: Pending::default(),
            full: Vec::new(),
            pending_bytes: 0,
            usual_bytes: 0,
            unsynced_bytes: 0,
            in_flight: None,
            waiting_since: None,
            quiet_since: now,
            closed: false,
            looks: false,
            poison: None,
            stats,
            compaction,
            crc32: crc32fast::Hasher::new(),
            spare_ops: Vec::new(),
            spare_bytes: Vec::new(),
            config,
            claim,
        }
    }

    /// Appends a record, lazily: it is written with a later flush, in order, and durable once
    /// [`Log::durable`] has reached the sequence that is returned.
    ///
    /// # Errors
    /// [`AppendError`]; the log is as it was.
    pub fn append(
        &mut self,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Result<Sequence, AppendError> {
        self.check_writable()?;
        if event != EventType::GUARD {
            self.check_length(payload.len())?;
        }
        let appended = self.append_with(timestamp_ms, |out| {
            out.extend_from_slice(payload);
            event
        })?;
        Ok(appended.sequence)
    }

    /// As [`append`](Log::append), for a payload that `encode` writes in its place, behind what is in
    /// the buffer already; it says which event that is.
    ///
    /// # Errors
    /// [`AppendError`]; the log is as it was.
    ///
    /// # Panics
    /// If `encode` takes away what was in the buffer before.
    #[inline]
    pub fn append_with(
        &mut self,
        timestamp_ms: i64,
        encode: impl FnOnce(&mut Vec<u8>) -> EventType,
    ) -> Result<Appended<'_>, AppendError> {
        self.check_writable()?;
        self.begin_record();
        let event = encode(&mut self.pending.bytes);
        let payload_bytes = self.end_record(event, timestamp_ms, false)?;
        let Pending { bytes, end, .. } = &self.pending;
        Ok(Appended { event, sequence: self.last, payload: &bytes[end - payload_bytes..*end] })
    }

    /// Whether such a record can be appended, room aside; and how many bytes it takes.
    ///
    /// # Errors
    /// [`AppendError`], as of [`append`](Log::append), but never [`AppendError::Full`].
    pub fn check(&self, event: EventType, payload_bytes: usize) -> Result<u64, AppendError> {
        self.check_writable()?;
        if event == EventType::GUARD {
            return Err(AppendError::Reserved);
        }
        self.check_length(payload_bytes)?;
        Ok((HEADER + payload_bytes) as u64)
    }

    #[inline]
    fn check_writable(&self) -> Result<(), AppendError> {
        if self.poison.is_some() {
            return Err(AppendError::Poisoned);
        }
        if self.closed { Err(AppendError::Closed) } else { Ok(()) }
    }

    fn check_length(&self, payload: usize) -> Result<(), AppendError> {
        let (bytes, max) = (payload as u64, self.config.max_payload);
        if bytes > u64::from(max) {
            return Err(AppendError::PayloadTooLarge { bytes, max });
        }
        Ok(())
    }

    /// Leaves space for a record's header behind the pending records.
    #[inline]
    fn begin_record(&mut self) {
        if self.pending.records == 0 {
            self.begin_batch();
        }
        let Pending { bytes, end, .. } = &mut self.pending;
        bytes.truncate(*end);
        bytes.extend_from_slice(&[0; HEADER]);
    }

    fn begin_batch(&mut self) {
        // As much space as the guard of a usual batch needs behind the last one; moved if wrong.
        let gap = guard_bytes(self.offset, self.usual_bytes);
        let batch = &mut self.pending;
        if batch.bytes.capacity() == 0 {
            batch.bytes = self.spare_bytes.pop().unwrap_or_else(|| {
                // Of a few sizes, so that all logs of a process pass the same memory on.
                let usual = (gap + self.usual_bytes + MARK_BYTES).next_power_of_two();
                Vec::with_capacity(usual.clamp(4096, 1 << 20))
            });
        }
        batch.bytes.clear();
        batch.bytes.resize(gap, 0);
        (batch.gap, batch.end) = (gap, gap);
        batch.first = self.last.next();
        batch.begins_snapshot = false;
    }

    /// Makes a record of what was written behind the space for its header. Says how long the payload is.
    fn end_record(
        &mut self,
        event: EventType,
        timestamp_ms: i64,
        part: bool,
    ) -> Result<usize, AppendError> {
        let at = self.pending.end + HEADER;
        assert!(self.pending.bytes.len() >= at, "a payload is written behind what is there");
        let payload_bytes = self.pending.bytes.len() - at;
        if event == EventType::GUARD {
            return Err(AppendError::Reserved);
        }
        self.check_length(payload_bytes)?;
        let bytes = HEADER + payload_bytes;
        if self.pending_bytes + bytes as u64 > self.config.buffered_bytes_max {
            return Err(AppendError::Full { max: self.config.buffered_bytes_max });
        }
        if self.confined && bytes as u64 > self.segment_room(1) {
            return Err(AppendError::NoSpace);
        }
        if self.pending.records > 0
            && (self.pending.records_bytes() + bytes) as u64 > self.batch_room
        {
            self.split_batch();
        }
        let sequence = self.last.next();
        let batch = &mut self.pending;
        let (header, payload) = batch.bytes[batch.end..].split_at_mut(HEADER);
        let mut crc32 = self.crc32.clone();
        crc32.update(payload);
        let (length, crc32) = (payload_bytes as u32, crc32.finalize());
        header.copy_from_slice(&encode_header(event, sequence, timestamp_ms, length, crc32));
        batch.end = batch.bytes.len();
        batch.records += 1;
        self.pending_bytes += bytes as u64;
        self.last = sequence;
        self.stats.count(sequence, event, bytes as u64, part);
        Ok(payload_bytes)
    }

    /// The pending batch is full: takes what is behind its end over into a new one.
    #[cold]
    fn split_batch(&mut self) {
        let mut full = std::mem::take(&mut self.pending);
        self.begin_batch();
        self.pending.bytes.extend_from_slice(&full.bytes[full.end..]);
        full.bytes.truncate(full.end);
        self.full.push(full);
    }

    /// How many bytes, headers included, so many records may have to be appended one after the other
    /// without [`AppendError::Full`] or [`AppendError::NoSpace`]. What has to go in as a whole is checked
    /// against it first.
    #[must_use]
    pub fn room(&self, records: u64) -> u64 {
        let buffer = self.config.buffered_bytes_max.saturating_sub(self.pending_bytes);
        if self.confined { buffer.min(self.segment_room(records)) } else { buffer }
    }

    /// How many bytes of so many records the current segment still takes, whatever batches they come in.
    fn segment_room(&self, records: u64) -> u64 {
        // Each record may come in a batch of its own, with a guard of an idle log behind it; and the log
        // must be able to close.
        const GUARD: u64 = 2 * frame_overhead(0);
        let records = u64::from(self.pending.records)
            + self.full.iter().map(|batch| u64::from(batch.records)).sum::<u64>()
            + records;
        let left = self.segment_bytes.saturating_sub(self.offset);
        let reserved = self.pending_bytes + self.pending_bytes / 64 + GUARD * records + 4 * SECTOR;
        // Each sector of records has an entry of four bytes in the guard.
        left.saturating_sub(reserved) * 64 / 65
    }

    /// Whether the disk has no room for another segment, as the shell knows that makes them ahead of time.
    /// While it has not, what does not fit into the current one is refused with
    /// [`AppendError::NoSpace`]: before it is accepted, not when it is written.
    pub fn confine(&mut self, confined: bool) {
        self.confined = confined;
    }

    /// Somebody waits for `upto`: the next flush contains it and is synced. Without effect if it is
    /// durable already.
    ///
    /// # Panics
    /// If nothing was appended under that sequence yet.
    pub fn force(&mut self, upto: Sequence) {
        assert!(upto <= self.last, "only what was appended can be forced");
        self.forced = self.forced.max(upto);
    }

    /// Has the next flush look whether somebody else has taken the log over, whatever else it does. That is for
    /// whoever waits long for others, and has nothing to append meanwhile: replaced, it would be refused by
    /// everybody and never know. It is told as behind a sync, by [`DiskError::Fenced`].
    pub fn check_epoch(&mut self) {
        self.looks = true;
    }

    /// What is to be written now, if anything.
    ///
    /// `None` while a flush is in flight, after a failure, and when nothing is due. A forced record is
    /// due at once: everything pending is written, synced, and the epoch checked. Unforced ones are due
    /// after `idle_guard_after`, or when a batch of them is full: they are written, not synced. A log
    /// that has been idle for as long writes a guard, so that what was synced is proved to have been.
    #[inline]
    pub fn next_flush(&mut self, now: Time) -> Option<Flush> {
        if self.in_flight.is_some() || self.poison.is_some() || self.closed {
            return None;
        }
        if self.waiting_since.is_none() && self.pending.records > 0 {
            self.waiting_since = Some(now);
        }
        if self.compaction.recycling_due(self.durable) {
            return Some(self.recycle());
        }
        let due = self.due_at().is_some_and(|at| at <= now);
        due.then(|| self.flush_now())
    }

    /// Apart, since [`next_flush`](Self::next_flush) is asked far more often than something is due.
    #[inline(never)]
    fn flush_now(&mut self) -> Flush {
        let forced = self.must_sync();
        let mut ops = std::mem::take(&mut self.spare_ops);
        let writes = 1 + self.full.len();
        ops.reserve_exact(if forced { writes + 2 } else { writes });
        let mut rotated = false;
        let mut flush = Flush::default();
        if self.pending.records > 0 || forced {
            rotated = self.write_pending(&mut ops, &mut flush);
        } else if self.owes_guard() {
            self.write_idle_guard(&mut ops);
        }
        flush.forced = forced || rotated;
        if flush.forced {
            self.sync(&mut ops);
        } else if self.looks {
            ops.push(DiskOp::CheckEpoch { newest: self.claim.segment });
        }
        self.looks = false;
        flush.ops = ops;
        self.hand_out(&mut flush, false);
        flush
    }

    /// When [`Log::next_flush`] has something to hand out, if nothing is appended before: now
    /// ([`Time::ZERO`]) if something is forced or has not been looked at yet, `None` while a flush is in
    /// flight and if nothing is owed.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        if self.in_flight.is_some() || self.poison.is_some() || self.closed {
            return None;
        }
        self.due_at()
    }

    fn due_at(&self) -> Option<Time> {
        if self.must_sync() || self.looks || self.compaction.recycling_due(self.durable) {
            return Some(Time::ZERO);
        }
        if self.pending.records > 0 {
            let full =
                !self.full.is_empty() || self.pending_bytes >= self.config.buffered_bytes_max / 2;
            return match self.waiting_since {
                Some(since) if !full => Some(since + self.config.idle_guard_after),
                _ => Some(Time::ZERO),
            };
        }
        self.owes_guard().then(|| self.quiet_since + self.config.idle_guard_after)
    }

    /// Nothing in the log proves yet that all of it that is durable is.
    fn owes_guard(&self) -> bool {
        self.durable > self.guarded && self.holds_batch
    }

    /// Somebody waits, or so much is unsynced that the next opening would have too much to rewrite.
    fn must_sync(&self) -> bool {
        self.forced > self.durable
            || (self.unsynced_bytes > 0
                && self.unsynced_bytes + self.pending_bytes > self.config.buffered_bytes_max)
    }

    /// Tells the log that its flush is done: every operation was performed, or one failed, and then
    /// none after it.
    ///
    /// A failure poisons the log for good. Nothing is retried: after a failed sync a page cache may
    /// show what the disk does not have. Opening the log again finds out.
    ///
    /// # Panics
    /// If no flush is in flight.
    pub fn flushed(&mut self, now: Time, result: Result<(), DiskError>) {
        let flight = self.in_flight.take().expect("only a flush that was handed out can be done");
        self.quiet_since = now;
        match result {
            Ok(()) => {
                if flight.synced {
                    assert!(flight.written >= self.durable, "durability never goes back");
                    self.durable = flight.written;
                    self.unsynced_bytes = 0;
                }
                if flight.recycling {
                    let (segments, compacted) = self.compaction.recycled(self.durable);
                    self.stats.segments_recycled += segments;
                    self.stats.compactions += u64::from(compacted);
                }
                self.closed |= flight.closing;
            }
            Err(error) => {
                tracing::error!(%error, last = %self.last, durable = %self.durable, "log poisoned");
                self.poison = Some(error);
            }
        }
    }

    /// Gives a flush's operations back after they were performed, for their buffers. Optional: it saves
    /// allocations, and of long batches the clearing of fresh pages. Four batches' worth is kept at most.
    pub fn reuse(&mut self, mut spent: Vec<DiskOp>) {
        for op in spent.drain(..) {
            if let DiskOp::Write { mut bytes, .. } = op {
                let held: usize = self.spare_bytes.iter().map(Vec::capacity).sum();
                let most = 4 * self.config.batch_bytes_max as usize;
                if held + bytes.capacity() <= most && self.spare_bytes.len() < Self::SPARE_MAX {
                    bytes.clear();
                    self.spare_bytes.push(bytes);
                }
            }
        }
        self.spare_ops = spent;
    }

    /// The last flush: everything pending, synced, and two guards that prove it, synced. When it is
    /// done the log is closed. Without operations if there is nothing to do.
    ///
    /// # Panics
    /// If a flush is in flight: it must be [`flushed`](Log::flushed) first.
    pub fn close(&mut self) -> Flush {
        assert!(self.in_flight.is_none(), "the flush in flight must be done first");
        let mut flush = Flush::default();
        if self.poison.is_none() && !self.closed {
            let mut ops = std::mem::take(&mut self.spare_ops);
            self.write_pending(&mut ops, &mut flush);
            if self.holds_batch {
                self.sync(&mut ops);
                let watermark = self.written;
                let mut guards = self.guard_alone(watermark, true);
                let offset = self.offset - guards.len() as u64;
                guards.append(&mut self.guard_alone(watermark, false));
                ops.push(DiskOp::Write { segment: self.claim.segment, offset, bytes: guards });
                ops.push(DiskOp::Sync(self.claim.segment));
                // What a shell made ahead of time, and nobody will write.
                ops.push(DiskOp::Truncate { segment: self.claim.segment, len: self.offset });
            }
            flush.ops = ops;
            flush.forced = true;
        }
        self.hand_out(&mut flush, true);
        flush
    }

    fn hand_out(&mut self, flush: &mut Flush, closing: bool) {
        if flush.records > 0 {
            flush.last = self.written;
        }
        self.stats.flushes += 1;
        self.stats.syncs += u64::from(flush.forced);
        let (written, synced) = (self.written, flush.forced);
        self.in_flight = Some(InFlight { written, synced, closing, recycling: false });
    }

    fn sync(&self, ops: &mut Vec<DiskOp>) {
        ops.push(DiskOp::Sync(self.claim.segment));
        ops.push(DiskOp::CheckEpoch { newest: self.claim.segment });
    }

    /// Writes every pending batch; true if the log went on in a new segment.
    fn write_pending(&mut self, ops: &mut Vec<DiskOp>, flush: &mut Flush) -> bool {
        let mut rotated = false;
        if self.pending.records == 0 {
            return rotated;
        }
        for batch in std::mem::take(&mut self.full) {
            rotated |= self.write_batch(ops, flush, batch);
        }
        let batch = std::mem::take(&mut self.pending);
        self.usual_bytes = batch.records_bytes();
        rotated |= self.write_batch(ops, flush, batch);
        self.pending_bytes = 0;
        self.waiting_since = None;
        rotated
    }

    /// Writes one batch, in a new segment if this one is full: then true.
    fn write_batch(&mut self, ops: &mut Vec<DiskOp>, flush: &mut Flush, batch: Pending) -> bool {
        let full = !self.fits(batch.records_bytes());
        let rotates = self.holds_batch && (full || batch.begins_snapshot);
        if rotates {
            // What a snapshot ends need not have been full.
            self.rotate(full, ops);
        }
        let Pending { mut bytes, gap, end, first, records, begins_snapshot } = batch;
        if begins_snapshot {
            self.compaction.begins(self.claim.segment);
        }
        assert_eq!(first, self.written.next(), "batches are written in order, without a gap");
        if flush.records == 0 {
            flush.first = first;
        }
        flush.records += u64::from(records);
        self.written = Sequence(self.written.0 + u64::from(records));
        let offset = self.offset;
        let durable = self.durable;
        bytes.truncate(end);
        self.frame(&mut bytes, gap, first, records, durable, false);
        self.unsynced_bytes += bytes.len() as u64;
        ops.push(DiskOp::Write { segment: self.claim.segment, offset, bytes });
        rotates
    }

    /// Whether a batch of so many bytes of records ends before the segment does.
    fn fits(&self, records_bytes: usize) -> bool {
        let end = self.offset + (records_bytes + MARK_BYTES) as u64;
        end + guard_bytes(self.offset, records_bytes) as u64 <= self.segment_bytes
    }

    /// Makes a batch of `bytes`, and counts it as written.
    fn frame(
        &mut self,
        bytes: &mut Vec<u8>,
        gap: usize,
        first: Sequence,
        records: u32,
        watermark: Sequence,
        padded: bool,
    ) {
        let framing = Framing {
            seed: self.seed,
            offset: self.offset,
            first,
            records,
            watermark,
            chain: self.chain,
            padded,
        };
        self.chain = frame_batch(bytes, gap, &framing, &self.crc32);
        self.guarded = watermark;
        self.offset += bytes.len() as u64;
        self.holds_batch = true;
    }

    /// A batch without records.
    fn guard_alone(&mut self, watermark: Sequence, padded: bool) -> Vec<u8> {
        let mut bytes = self.spare_bytes.pop().unwrap_or_default();
        bytes.reserve(guard_bytes(self.offset, 0) + MARK_BYTES);
        let first = self.written.next();
        self.frame(&mut bytes, 0, first, 0, watermark, padded);
        bytes
    }

    fn write_idle_guard(&mut self, ops: &mut Vec<DiskOp>) {
        let offset = self.offset;
        let bytes = self.guard_alone(self.durable, false);
        ops.push(DiskOp::Write { segment: self.claim.segment, offset, bytes });
    }

    /// Goes on in a new segment. The order is what makes it safe to crash anywhere:
    ///
    /// 1. what is in the old segment is synced, so that the seal will say the truth;
    /// 2. the new one's claim and name are made durable: until a seal is there it holds nothing, and
    ///    the old one is still where the log ends;
    /// 3. the seal is written to one copy and synced before the other is touched, so that one of them
    ///    is whole at any time;
    /// 4. only then comes the first batch: a segment that holds one has both copies.
    fn rotate(&mut self, larger: bool, ops: &mut Vec<DiskOp>) {
        let old = self.claim.segment;
        ops.push(DiskOp::Sync(old));
        let seal = Seal {
            segment: old,
            length: self.offset,
            last: self.written,
            guard: self.chain,
            take_over: false,
        };
        self.claim.segment = old.next();
        self.seed = Seed::of(&self.claim);
        claim_ops(&self.claim, ops);
        seal_ops(&self.claim, &seal, ops);
        if larger {
            self.segment_bytes = self.next_segment_bytes();
        }
        self.offset = HEADER_BYTES;
        self.holds_batch = false;
    }

    /// Everything up to here is on the disk, for good.
    #[must_use]
    pub fn durable(&self) -> Sequence {
        self.durable
    }

    /// The last record that was appended.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// What has poisoned the log, if anything has.
    #[must_use]
    pub fn poisoned(&self) -> Option<&DiskError> {
        self.poison.as_ref()
    }

    /// Whether the log was closed and its last flush is done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a flush was handed out that is not done yet.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether `checkpoint_interval` records were appended since the last marker, restarts included. The
    /// log writes none itself.
    #[must_use]
    pub fn marker_due(&self) -> bool {
        self.stats.records_since_checkpoint >= self.config.checkpoint_interval
    }

    /// Whether the log holds at least `max_records` records and has grown to twice its last snapshot,
    /// and no snapshot is on its way: it is time for the next one. The log begins none itself.
    #[must_use]
    pub fn compaction_due(&self) -> bool {
        let usable = self.poison.is_none() && !self.closed && !self.confined;
        usable && self.compaction.is_due(self.last, self.stats.bytes, self.config.max_records)
    }

    /// Whether a snapshot was begun whose last part is still to come.
    #[must_use]
    pub fn is_compacting(&self) -> bool {
        self.compaction.is_begun()
    }

    /// How many records the log holds, those aside that a snapshot has made superfluous.
    #[must_use]
    pub fn records_held(&self) -> u64 {
        self.compaction.held(self.last, self.stats.bytes).0
    }

    /// Appends the next part of a snapshot, the first if none is begun: see
    /// [`compaction_due`](Self::compaction_due). What `encode` writes is its writer's: extensions, each a
    /// tag, a length and a value, behind `sagas` and `transactions`, a marker's counts. Ordinary records
    /// may be appended between the parts.
    ///
    /// All parts together must say whatever the records in front of the first one say that is still
    /// needed: once the last one is durable the segments in front of the first one are
    /// [retired](DiskOp::Retire), with the next flush. A part that is appended as the last is forced.
    ///
    /// # Errors
    /// [`AppendError`]; the log is as it was.
    ///
    /// # Panics
    /// If a snapshot is whole and what is older has not gone yet.
    pub fn append_part(
        &mut self,
        timestamp_ms: i64,
        (sagas, transactions): (u64, u64),
        last: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Sequence, AppendError> {
        self.check_writable()?;
        let number = self.compaction.next_part();
        if number == 0 {
            assert!(!self.compaction.is_whole(), "one snapshot goes after the other");
            if self.confined {
                return Err(AppendError::NoSpace);
            }
            if self.pending.records > 0 {
                self.full.push(std::mem::take(&mut self.pending));
            }
        }
        let bytes_before = self.stats.bytes;
        let part = SnapshotPart { number, last };
        self.begin_record();
        part.encode(sagas, transactions, &mut self.pending.bytes);
        encode(&mut self.pending.bytes);
        self.end_record(EventType::CHECKPOINT, timestamp_ms, true)?;
        let sequence = self.last;
        self.pending.begins_snapshot |= number == 0;
        let bytes = self.stats.bytes - bytes_before;
        self.compaction.appended(last, sequence, bytes, bytes_before);
        if last {
            self.force(sequence);
        }
        Ok(sequence)
    }

    /// The flush that takes out of the log what a snapshot has made superfluous. It writes no record.
    fn recycle(&mut self) -> Flush {
        let mut flush = Flush::default();
        self.compaction.recycle(self.claim.segment, self.durable, &mut flush.ops);
        self.stats.flushes += 1;
        let (written, synced, closing) = (self.written, false, false);
        self.in_flight = Some(InFlight { written, synced, closing, recycling: true });
        flush
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// This start's epoch: higher than any before.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.claim.epoch
    }

    /// The log's id: it changes only when the disk is new.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.claim.log_id
    }

    /// The segment that the next batch goes to, or the one before it.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.claim.segment
    }

    /// How many bytes the next segment may have, once the current one is so full that it will be needed:
    /// a shell may make it ahead of time.
    #[must_use]
    pub fn next_segment_due(&self) -> Option<u64> {
        (self.offset > self.segment_bytes / 2).then(|| self.next_segment_bytes())
    }

    fn next_segment_bytes(&self) -> u64 {
        (self.segment_bytes * 2).min(self.config.segment_bytes_max)
    }

    /// How it is kept.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// Creates a segment and makes its claim and its name durable.
///
/// A replaced writer may get so far after its successors have taken a segment of that name out of the log.
/// So it looks again before it writes anything: a reader knows by the file without a header that it is
/// none of the log. What takes the name away later takes the open file with it.
pub(crate) fn claim_ops(claim: &Claim, ops: &mut Vec<DiskOp>) {
    let segment = claim.segment;
    ops.push(DiskOp::Create(segment));
    ops.push(DiskOp::CheckEpoch { newest: segment });
    ops.push(DiskOp::Write { segment, offset: 0, bytes: encode_claim(claim) });
    ops.push(DiskOp::Sync(segment));
    ops.push(DiskOp::SyncDirectory);
}

/// Seals what is in front of a segment: one copy after the other.
pub(crate) fn seal_ops(claim: &Claim, seal: &Seal, ops: &mut Vec<DiskOp>) {
    let copy = encode_copy(claim, Some(seal));
    for offset in [0, SECTOR] {
        let segment = claim.segment;
        ops.push(DiskOp::Write { segment, offset, bytes: copy.to_vec() });
        ops.push(DiskOp::Sync(segment));
    }
}
