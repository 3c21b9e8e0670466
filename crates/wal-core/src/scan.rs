//! Reading a whole log: every segment in order, batch by batch, to the place where it ends.
//!
//! A scan never writes. It reads a block or a batch at a time, whatever the log's size, and believes
//! no length before a checksum has proved it.

mod scrub;

pub use scrub::{Scrub, ScrubConfig, ScrubStats};

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;

use base::{Epoch, Sequence};

use crate::checksum::KnownSectors;
use crate::compact::{SnapshotPart, Snapshots};
use crate::end::{Conditions, End, Reason, decide};
use crate::guard::{Batch, Guard, HEAD_BYTES, Seed, decode_head};
use crate::record::{
    EventType, RECORD_HEADER_BYTES, Record, decode_record, decode_unchecked, split_record,
};
use crate::segment::{
    BATCH_BYTES_LIMIT, Claim, HEADER_BYTES, Header, HeaderCopy, Part, SECTOR, decode_copy,
};
use crate::stats::{Run, Stats};
use crate::storage::{Directory, SegmentId};
use crate::window::Window;

/// Where something is in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment; 0 in a raw stream.
    pub segment: SegmentId,
    /// The offset in the segment's file or the stream, in bytes.
    pub offset: u64,
    /// The length in bytes, header included.
    pub len: u32,
    /// False if the record's own CRC-32 is wrong. True if it is right, and also if it was not
    /// looked at because checks are off and the batch's checksums prove the record.
    pub crc_ok: bool,
}

/// Told what a scan finds, in the log's order.
pub trait Visitor {
    /// A record that is proved: by its batch in a log, by its CRC-32 in a raw stream.
    fn record(&mut self, record: &Record<'_>, place: Place);

    /// A record whose own CRC-32 is wrong. It must not be acted on; a [`hole`](Self::hole) follows.
    fn damaged(&mut self, record: &Record<'_>, place: Place) {
        let _ = (record, place);
    }

    /// A batch's guard, before the batch's records.
    fn guard(&mut self, guard: &Guard, place: Place) {
        let _ = (guard, place);
    }

    /// Records may be hidden here: between those told before and those told after.
    fn hole(&mut self, hole: &Corruption) {
        let _ = hole;
    }

    /// A segment, before what it holds.
    fn segment(&mut self, segment: &SegmentInfo) {
        let _ = segment;
    }

    /// Of a damaged batch whose guard still says what it was: a sector that is not as it was written.
    /// The [`hole`](Self::hole) that this makes follows.
    fn damaged_sector(&mut self, segment: SegmentId, offset: u64) {
        let _ = (segment, offset);
    }

    /// A record that was told, and that says something which whoever reads it must understand and does not.
    /// A log with one is not opened for writing: see [`OpenError::Newer`](crate::OpenError::Newer).
    fn not_understood(&self) -> Option<NotUnderstood> {
        None
    }
}

/// A record of a newer version, which this one must not pass over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Its number.
    pub sequence: Sequence,
    /// What it is.
    pub event: EventType,
    /// The tag of what it says.
    pub tag: u8,
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotUnderstood { sequence, event, tag } = self;
        write!(
            f,
            "record {sequence}, {event}, says under tag {tag} what this version does not know"
        )
    }
}

/// What a segment's header says, and how far the segment counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Which.
    pub segment: SegmentId,
    /// Its file's length in bytes.
    pub file_bytes: u64,
    /// The epoch of the writer that claimed it; `None` if neither header copy tells.
    pub epoch: Option<Epoch>,
    /// Both header copies, as found.
    pub copies: [CopyState; 2],
    /// Where the log in front of it ended, if it says so.
    pub seal: Option<SealInfo>,
    /// Up to where it is part of the log.
    pub extent: SegmentExtent,
}

/// A header copy, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// It verifies, seal included.
    Sealed,
    /// It verifies and has no seal: its writer never came to write a batch, or a crash left it so.
    Unsealed,
    /// It is gone, as a crash leaves it.
    Lost,
    /// It, or its seal, does not verify.
    Corrupt,
}

/// Where a header says that the log in front of its segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealInfo {
    /// The newest older segment that held a batch; 0 if none did.
    pub segment: SegmentId,
    /// Where that one's last batch ends, in bytes; 0 if there is none.
    pub length: u64,
    /// The last record up to there.
    pub last: Sequence,
    /// Whether the writer before was replaced while it may still have been writing.
    pub take_over: bool,
}

/// Up to where a segment is part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentExtent {
    /// The log ends in it.
    Open,
    /// It is part of the log up to that offset.
    Sealed(u64),
    /// It was sealed without a batch.
    Empty,
    /// It holds nothing, and nothing seals it.
    Passed,
    /// What would say where it ends is damaged.
    Unproven,
}

/// Looks at nothing: for when only [`Scanned`] matters.
impl Visitor for () {
    fn record(&mut self, _: &Record<'_>, _: Place) {}
}

/// Collects every proved record's bytes: a raw stream.
impl Visitor for Vec<u8> {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        crate::record::encode_record(record, self);
    }
}

/// How to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanConfig {
    /// The longest payload that a raw stream may hold, in bytes. A segment's header says it itself.
    pub max_payload: u32,
    /// Whether to look at the CRC-32 of each record of a log too. Its batches prove them without; raw
    /// streams are always looked at.
    pub enable_checksums: bool,
}

impl Default for ScanConfig {
    fn default() -> ScanConfig {
        ScanConfig { max_payload: 64 << 10, enable_checksums: true }
    }
}

/// What proves a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// Batch guards: any flipped bit and any missing record is seen.
    Guarded,
    /// Nothing but a CRC-32 per payload: a raw stream.
    Unprotected,
}

/// What is wrong at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// One header copy of a segment that holds batches is gone.
    HeaderCopyLost,
    /// A header copy does not verify.
    HeaderCopyCorrupt,
    /// Both header copies verify and they differ.
    HeaderCopiesDiffer,
    /// A seal does not verify.
    SealCorrupt,
    /// A segment holds batches, and one of its header copies has no seal.
    SealMissing,
    /// There are batches, and both header copies are gone.
    BatchesWithoutHeader,
    /// A segment is not there.
    SegmentsMissing,
    /// The segment is another log's, another file's, or of an older epoch than one before it.
    ForeignSegment,
    /// The log does not end where, or with what, the next segment's seal says.
    SealMismatch,
    /// Something is written behind a sealed segment's end.
    BehindSeal,
    /// A batch that was synced does not verify.
    BatchDamaged,
    /// A batch verifies that is not the next one.
    BatchOutOfOrder,
    /// In the last batch, which nothing proves to have been synced, something is changed that no
    /// crash changes.
    TailDamaged,
    /// A record's CRC-32 is wrong.
    RecordCrc,
    /// Bytes that are no record.
    NotARecord,
    /// Records are missing: the numbers jump.
    RecordsMissing,
    /// The log begins with a snapshot that is not whole: what stood before it is lost.
    SnapshotIncomplete,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::HeaderCopyLost => "a header copy is zero in a segment that holds batches",
            Damage::HeaderCopyCorrupt => "a header copy does not verify",
            Damage::HeaderCopiesDiffer => "the two header copies differ",
            Damage::SealCorrupt => "a seal does not verify",
            Damage::SealMissing => "a header copy has no seal in a segment that holds batches",
            Damage::BatchesWithoutHeader => "batches without a header",
            Damage::SegmentsMissing => "one or more segments are missing",
            Damage::ForeignSegment => "the segment belongs to another log, place or time",
            Damage::SealMismatch => "the segment does not end as the next one's seal says",
            Damage::BehindSeal => "something is written behind the sealed end",
            Damage::BatchDamaged => "a batch that was synced does not verify",
            Damage::BatchOutOfOrder => "a batch that is not the next one",
            Damage::TailDamaged => "the last batch is changed in a way that no crash leaves",
            Damage::RecordCrc => "a record's checksum is wrong",
            Damage::NotARecord => "bytes that are no record",
            Damage::RecordsMissing => "records are missing",
            Damage::SnapshotIncomplete => "the snapshot that the log begins with is not whole",
        })
    }
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The segment; `None` in a raw stream.
    pub segment: Option<SegmentId>,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How many bytes it spans; 0 if something is missing rather than damaged.
    pub bytes: u64,
    /// What is wrong.
    pub what: Damage,
    /// The last record before it.
    pub last_sequence_before: Sequence,
    /// Whether records may be hidden by it. A damaged header copy hides none if the other is whole.
    pub hides_records: bool,
}

/// The place, what is wrong, and behind which record.
impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(segment) = self.segment {
            write!(f, "{segment} ")?;
        }
        write!(
            f,
            "offset {}, {} bytes, behind record {}: {}",
            self.offset, self.bytes, self.last_sequence_before, self.what
        )
    }
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// What proves the log.
    pub integrity: Integrity,
    /// How many records were told.
    pub records: u64,
    /// The last record's sequence.
    pub last_sequence: Sequence,
    /// Records that damage is known to hide or to have changed. 0 does not mean none.
    pub corrupted_records: u64,
    /// From the cut to the last byte that is not zero, in bytes; 0 without a torn tail.
    pub torn_tail_bytes: u64,
    /// What is damaged, in the log's order: at most [`Scanned::CORRUPTION_MAX`] entries.
    pub corruption: Vec<Corruption>,
    /// How many more there are.
    pub corruption_left_out: u64,
    /// Header copies that a crash has cut short. The log is whole; opening it for writing mends them.
    pub lost_header_copies: u64,
    /// Segments that a crash has left without a header, and without anything else.
    pub abandoned_starts: u64,
    /// Bytes that a fenced writer wrote behind a take-over's seal. They are none of the log.
    pub fenced_bytes: u64,
    /// The highest epoch of any segment.
    pub epoch: Epoch,
    /// The epoch of the newest segment that holds a batch; [`Epoch::NONE`] if none does.
    pub written_epoch: Epoch,
    /// The log's id, if any segment tells.
    pub log_id: Option<u64>,
    /// Segments that are there and count.
    pub segments: u64,
    /// The segment that the log begins with, if it is not the first of all: older ones were recycled,
    /// and it begins with a snapshot.
    pub base: Option<SegmentId>,
    /// Whether that snapshot is whole.
    pub base_is_whole: bool,
    /// Older segments that a recycling has left when it was cut short. They do not count, and opening the
    /// log for writing takes them out of it.
    pub remainders: u64,
    /// Where the log ends: behind its last batch.
    pub end: Option<(SegmentId, u64)>,
    /// The highest sequence that some batch proves to have been synced.
    pub watermark: Sequence,
    /// Counts.
    pub stats: Stats,
}

impl Scanned {
    /// The most entries of [`Scanned::corruption`].
    pub const CORRUPTION_MAX: usize = 100_000;

    pub(crate) fn new(integrity: Integrity) -> Scanned {
        Scanned {
            integrity,
            records: 0,
            last_sequence: Sequence::NONE,
            corrupted_records: 0,
            torn_tail_bytes: 0,
            corruption: Vec::new(),
            corruption_left_out: 0,
            lost_header_copies: 0,
            abandoned_starts: 0,
            fenced_bytes: 0,
            epoch: Epoch::NONE,
            written_epoch: Epoch::NONE,
            log_id: None,
            segments: 0,
            base: None,
            base_is_whole: false,
            remainders: 0,
            end: None,
            watermark: Sequence::NONE,
            stats: Stats::default(),
        }
    }

    /// Whether anything is damaged. A torn tail and a lost header copy are not damage.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        !self.corruption.is_empty()
    }

    /// No segment's epoch can have been higher, as far as can be told: a header that cannot be read may
    /// have been that of one start more.
    #[must_use]
    pub fn highest_epoch(&self) -> Epoch {
        let unread = self.corruption.iter().filter(|damage| {
            matches!(
                damage.what,
                Damage::HeaderCopyCorrupt
                    | Damage::HeaderCopiesDiffer
                    | Damage::BatchesWithoutHeader
                    | Damage::ForeignSegment
            )
        });
        let starts = u32::try_from(unread.count()).unwrap_or(u32::MAX);
        Epoch::new(self.epoch.value().saturating_add(starts).min(Epoch::MAX.value()))
    }

    pub(crate) fn count(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.last_sequence = record.sequence;
        let part = SnapshotPart::of(record.event, record.payload).is_some();
        self.stats.count(record.sequence, record.event, record.encoded_bytes(), part);
    }

    pub(crate) fn report(&mut self, corruption: Corruption, visitor: &mut dyn Visitor) {
        if corruption.hides_records {
            visitor.hole(&corruption);
        }
        if self.corruption.len() < Self::CORRUPTION_MAX {
            self.corruption.push(corruption);
        } else {
            self.corruption_left_out += 1;
        }
    }

    pub(crate) fn hide(&mut self, records: u64) {
        self.corrupted_records = self.corrupted_records.saturating_add(records);
        self.stats.corrupted_records = self.corrupted_records;
    }

    pub(crate) fn tear(&mut self, bytes: u64) {
        self.torn_tail_bytes = bytes;
        self.stats.torn_bytes = bytes;
    }
}

/// Why a log could not be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The disk failed. This is never an end of log: try again, or repair the disk.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The files are no log of ours, damaged or not. Check the path.
    #[error("not a Trinity log")]
    NotALog,
    /// The log was written by a newer version. Use that one.
    #[error("the log has format version {version}, which is newer than this program's")]
    NewerFormat {
        /// The log's version.
        version: u32,
    },
}

/// Reads a log, without changing it.
///
/// A directory without segments is a log without records. Memory is bounded by the longest batch,
/// whatever the log's size.
///
/// # Errors
/// [`ScanError`]. Damage is no error: see [`Scanned::corruption`].
pub fn scan(
    directory: &dyn Directory,
    config: &ScanConfig,
    visitor: &mut dyn Visitor,
) -> Result<Scanned, ScanError> {
    let survey = survey(directory, None)?;
    let mut scanner = Scanner::new(directory, config, visitor, Progress::new());
    scanner.read(&survey, None, Ending::Decide)?;
    Ok(scanner.progress.scanned)
}

// ---------------------------------------------------------------------------------------------
// Headers: which segments there are, and up to where each is part of the log.

/// Up to where a segment is part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// It holds nothing.
    Passed,
    /// The log ends here.
    Open,
    /// It does not end the log, but what would say where it ends is damaged.
    Unproven,
    /// It ends at `length` with that record and that guard.
    Sealed { length: u64, last: Sequence, guard: u32, take_over: bool },
    /// It was sealed without a batch.
    Empty { take_over: bool },
}

/// One segment before its batches are read.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub id: SegmentId,
    pub file_bytes: u64,
    pub header: Header,
    pub copies: Copies,
    holds_batch: bool,
    /// Of a header that does not tell whose the segment is: the guess that reads its first batch.
    guess: Option<Box<Claim>>,
    foreign: bool,
    extent: Extent,
}

/// A header's two copies. A log may have as many segments as it was ever opened, and nearly all have
/// nothing to be told about them.
#[derive(Clone, Debug)]
pub(crate) enum Copies {
    /// Both verify, and are sealed.
    Sealed,
    /// Both are zero throughout.
    Zero,
    /// Anything else.
    Odd(Box<[HeaderCopy; 2]>),
}

impl Copies {
    fn of(copies: [HeaderCopy; 2]) -> Copies {
        let sealed =
            |copy: &HeaderCopy| matches!((copy.claim, copy.seal), (Part::Valid(_), Part::Valid(_)));
        if copies.iter().all(sealed) {
            Copies::Sealed
        } else if copies.iter().all(|copy| copy.zero) {
            Copies::Zero
        } else {
            Copies::Odd(Box::new(copies))
        }
    }

    /// Both, if there is anything to be told about them.
    pub(crate) fn odd(&self) -> &[HeaderCopy] {
        match self {
            Copies::Sealed | Copies::Zero => &[],
            Copies::Odd(copies) => &copies[..],
        }
    }

    fn states(&self) -> [CopyState; 2] {
        let state = |copy: &HeaderCopy| match (copy.claim, copy.seal) {
            (Part::Valid(_), Part::Valid(_)) => CopyState::Sealed,
            (Part::Valid(_), Part::Absent | Part::Lost) => CopyState::Unsealed,
            (Part::Absent | Part::Lost, _) => CopyState::Lost,
            (Part::Corrupt, _) | (_, Part::Corrupt) => CopyState::Corrupt,
        };
        match self {
            Copies::Sealed => [CopyState::Sealed; 2],
            Copies::Zero => [CopyState::Lost; 2],
            Copies::Odd(copies) => [state(&copies[0]), state(&copies[1])],
        }
    }
}

impl View {
    /// The claim, or the best guess at it that reads the first batch.
    fn claim(&self) -> Option<Claim> {
        self.header.claim.or(self.guess.as_deref().copied())
    }

    fn info(&self) -> SegmentInfo {
        SegmentInfo {
            segment: self.id,
            file_bytes: self.file_bytes,
            epoch: self.header.claim.map(|claim| claim.epoch),
            copies: self.copies.states(),
            seal: self.header.seal.map(|seal| SealInfo {
                segment: seal.segment,
                length: seal.length,
                last: seal.last,
                take_over: seal.take_over,
            }),
            extent: match self.extent {
                Extent::Passed => SegmentExtent::Passed,
                Extent::Open => SegmentExtent::Open,
                Extent::Unproven => SegmentExtent::Unproven,
                Extent::Sealed { length, .. } => SegmentExtent::Sealed(length),
                Extent::Empty { .. } => SegmentExtent::Empty,
            },
        }
    }
}

/// All segments before their batches are read.
pub(crate) struct Survey {
    pub views: Vec<View>,
    /// Segments in front of where the log begins, which do not count; ascending.
    pub remainders: Vec<SegmentId>,
}

impl Survey {
    pub(crate) fn newest(&self) -> Option<&View> {
        self.views.last()
    }

    /// Whether a take-over has sealed one of the segments from `held` on (or any). Its writer may still
    /// be writing behind that seal, so whoever seals the same segments again must say so too.
    pub(crate) fn was_taken_over(&self, held: Option<SegmentId>) -> bool {
        let covered = self.views.iter().filter(|view| held.is_none_or(|held| view.id >= held));
        covered.map(|view| view.extent).any(|extent| match extent {
            Extent::Sealed { take_over, .. } | Extent::Empty { take_over } => take_over,
            Extent::Passed | Extent::Open | Extent::Unproven => false,
        })
    }

    /// Whether a segment still counts as far as it was read before. Not if another one who takes over has
    /// sealed it further in front meanwhile, or if it was recycled.
    pub(crate) fn still_counts(&self, segment: SegmentId, end: u64) -> bool {
        let view = self.views.iter().find(|view| view.id == segment);
        view.is_some_and(|view| match view.extent {
            Extent::Sealed { length, .. } => end <= length,
            Extent::Empty { .. } => end <= HEADER_BYTES,
            Extent::Open | Extent::Unproven | Extent::Passed => true,
        })
    }

    pub(crate) fn epoch(&self) -> Epoch {
        // Of a damaged header, the guess that has read the first batch.
        let claims = self.views.iter().filter_map(View::claim);
        claims.map(|claim| claim.epoch).max().unwrap_or(Epoch::NONE)
    }

    pub(crate) fn log_id(&self) -> Option<u64> {
        self.views.iter().find_map(|view| view.header.claim).map(|claim| claim.log_id)
    }
}

/// Reads the headers of every segment (below `below`), and decides by the seals how far each counts.
pub(crate) fn survey(
    directory: &dyn Directory,
    below: Option<SegmentId>,
) -> Result<Survey, ScanError> {
    let mut ids = directory.segments()?;
    ids.retain(|&id| below.is_none_or(|below| id < below));
    debug_assert!(ids.is_sorted());
    let survey = survey_of(directory, ids)?;
    let begins = beginning(&survey.views);
    if begins == 0 {
        return Ok(survey);
    }
    let ids = survey.views.iter().map(|view| view.id);
    let (remainders, counting) = (ids.clone().take(begins).collect(), ids.skip(begins).collect());
    let behind = survey_of(directory, counting)?;
    if !begins_with_whole_snapshot(directory, &behind)? {
        return Ok(survey);
    }
    Ok(Survey { remainders, ..behind })
}

/// Where a log may begin behind what counts no more: 0 if there is no sign of it.
///
/// A recycling takes the newest segment first. If one was cut short, there is a gap behind what it has
/// left, and the log begins behind the gap, with a whole snapshot. Any other gap is damage, and what is in
/// front of it counts.
///
/// A replaced writer may have made a segment anew that was recycled. It writes nothing there. That may be in
/// front of the snapshot without a gap, or in the gap: the seal behind it names a segment that held a batch.
fn beginning(views: &[View]) -> usize {
    let made_anew = |view: &View, next: &View| {
        view.header.abandoned && next.header.seal.is_some_and(|seal| seal.segment == view.id)
    };
    let gap = views
        .windows(2)
        .rposition(|two| two[1].id != two[0].id.next() || made_anew(&two[0], &two[1]));
    let begins = gap.map_or(0, |gap| gap + 1);
    let empty = views[begins.min(views.len())..].iter().take_while(|view| view.header.abandoned);
    // The newest one may be where a start was given up.
    (begins + empty.count()).min(views.len().saturating_sub(1))
}

fn begins_with_whole_snapshot(directory: &dyn Directory, survey: &Survey) -> io::Result<bool> {
    let config = ScanConfig { enable_checksums: false, ..ScanConfig::default() };
    let mut nobody = ();
    let mut scanner = Scanner::new(directory, &config, &mut nobody, Progress::new());
    if !scanner.begins_with_snapshot(&survey.views[0])? {
        return Ok(false);
    }
    scanner.read(survey, None, Ending::Defer)?;
    Ok(scanner.progress.snapshots.base_is_whole)
}

fn survey_of(directory: &dyn Directory, ids: Vec<SegmentId>) -> Result<Survey, ScanError> {
    let mut window = Window::new(directory);
    let mut views = Vec::with_capacity(ids.len());
    for id in ids {
        views.push(view(&mut window, id)?);
    }
    if is_no_log(&views) {
        return Err(ScanError::NotALog);
    }
    find_foreign(&mut views);
    guess_claims(&mut window, &mut views)?;
    decide_extents(&mut views);
    Ok(Survey { views, remainders: Vec::new() })
}

/// There is something, and none of it looks like a header, not even like one that is gone.
fn is_no_log(views: &[View]) -> bool {
    let mut something = views.iter().filter(|view| !view.header.abandoned).peekable();
    something.peek().is_some()
        && something.all(|view| {
            let strange = |c: &HeaderCopy| c.claim == Part::Corrupt && !c.resembles_header;
            let copies = view.copies.odd();
            !copies.is_empty() && copies.iter().all(strange)
        })
}

fn view(window: &mut Window<'_>, id: SegmentId) -> Result<View, ScanError> {
    // Content before header: a writer that is still at work writes them the other way round, so
    // whoever sees a batch sees its seal too.
    window.open(id)?;
    let holds_batch = !window.is_zero_from(HEADER_BYTES)?;
    window.open(id)?;
    let file_bytes = window.file_bytes();
    let bytes = window.at(0, HEADER_BYTES)?;
    let (first, second) = bytes.split_at(SECTOR as usize);
    let copies = [first, second].map(|copy| {
        let copy: &[u8; SECTOR as usize] = copy.try_into().expect("a sector is 512 bytes");
        decode_copy(copy)
    });
    if let Some(version) = copies.iter().find_map(|copy| copy.newer_version) {
        return Err(ScanError::NewerFormat { version });
    }
    let header = Header::of(&copies, holds_batch);
    let (copies, guess) = (Copies::of(copies), None);
    let extent = Extent::Passed;
    Ok(View { id, file_bytes, header, copies, holds_batch, guess, foreign: false, extent })
}

/// Marks segments that cannot be where they are.
fn find_foreign(views: &mut [View]) {
    let mut log_id = None;
    let mut epoch = Epoch::NONE;
    for view in views {
        let Some(claim) = view.header.claim else { continue };
        let log_id = *log_id.get_or_insert(claim.log_id);
        view.foreign = claim.log_id != log_id || claim.segment != view.id || claim.epoch < epoch;
        epoch = epoch.max(claim.epoch);
    }
}

/// Where both copies of a header are damaged, what they and the neighbours say is enough to read the
/// batches with: a guess that is wrong verifies nothing.
fn guess_claims(window: &mut Window<'_>, views: &mut [View]) -> io::Result<()> {
    let unknown = |view: &View| view.header.claim.is_none() && view.holds_batch;
    if !views.iter().any(unknown) {
        return Ok(());
    }
    let known: Vec<Option<Claim>> = views.iter().map(|view| view.header.claim).collect();
    for (index, view) in views.iter_mut().enumerate() {
        if !unknown(view) {
            continue;
        }
        let before = known[..index].iter().rev().find_map(|claim| *claim);
        let after = known[index + 1..].iter().find_map(|claim| *claim);
        let sources: Vec<Claim> =
            view.copies.odd().iter().map(|copy| copy.guess).chain(before).chain(after).collect();
        let successor = before.and_then(|claim| claim.epoch.next());
        let epochs: BTreeSet<Epoch> =
            sources.iter().map(|claim| claim.epoch).chain(successor).collect();
        window.open(view.id)?;
        let head: Vec<u8> = window.at(HEADER_BYTES, HEAD_BYTES as u64)?.to_vec();
        let guesses =
            sources.iter().flat_map(|source| epochs.iter().map(move |&epoch| (source, epoch)));
        view.guess = guesses
            .map(|(source, epoch)| Claim {
                log_id: source.log_id,
                segment: view.id,
                epoch,
                max_payload: BATCH_BYTES_LIMIT,
                batch_bytes_max: BATCH_BYTES_LIMIT,
            })
            .find(|claim| {
                decode_head(&head, Seed::of(claim), HEADER_BYTES, BATCH_BYTES_LIMIT).is_some()
            })
            .map(Box::new);
    }
    Ok(())
}

/// From the newest segment down: whoever has a seal seals the segment it names, and every one between
/// as empty; then that one's own seal counts.
fn decide_extents(views: &mut [View]) {
    let mut cover = None;
    let mut open_found = false;
    for view in views.iter_mut().rev() {
        let seal = if view.foreign { None } else { view.header.seal };
        match cover {
            Some(crate::segment::Seal { segment, take_over, .. }) if view.id > segment => {
                view.extent = Extent::Empty { take_over };
            }
            Some(crate::segment::Seal { segment, length, last, guard, take_over })
                if view.id == segment =>
            {
                view.extent = Extent::Sealed { length, last, guard, take_over };
                cover = seal;
            }
            _ if seal.is_none() && !view.holds_batch => view.extent = Extent::Passed,
            _ => {
                view.extent = if open_found { Extent::Unproven } else { Extent::Open };
                open_found = true;
                cover = seal;
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Batches.

/// The newest segment that holds a batch, and where its last one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub segment: SegmentId,
    pub end: u64,
}

/// The open segment: where it was read up to, and from where on no watermark proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub segment: SegmentId,
    pub claim: Claim,
    pub end: u64,
    pub unproven_from: u64,
    pub torn: bool,
}

/// How far a scan has come. It can be gone on with later.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub scanned: Scanned,
    /// The next record's sequence.
    pub next: Sequence,
    /// The last guard's checksum.
    pub chain: u32,
    pub held: Option<Held>,
    pub tail: Option<Tail>,
    /// Batches of the segment being read that no watermark covers yet: where each begins, and which
    /// watermark will cover it.
    uncovered: VecDeque<(u64, Sequence)>,
    /// A hole has just been reported: a jump of the numbers is no news.
    broken: bool,
    pub snapshots: Snapshots,
    /// The first record that counts.
    pub first: Sequence,
}

impl Progress {
    /// So many uncovered batches are told apart; more count as part of the last.
    const UNCOVERED_MAX: usize = 4096;

    pub(crate) fn new() -> Progress {
        Progress {
            scanned: Scanned::new(Integrity::Guarded),
            next: Sequence::FIRST,
            chain: 0,
            held: None,
            tail: None,
            uncovered: VecDeque::new(),
            broken: false,
            snapshots: Snapshots::default(),
            first: Sequence::FIRST,
        }
    }

    /// The last record's sequence, hidden ones included.
    pub(crate) fn last(&self) -> Sequence {
        Sequence(self.next.0 - 1)
    }

    fn accept(&mut self, segment: SegmentId, offset: u64, guard: &Guard) {
        self.scanned.watermark = self.scanned.watermark.max(guard.watermark);
        let watermark = self.scanned.watermark;
        while self.uncovered.front().is_some_and(|&(_, covered_by)| covered_by <= watermark) {
            self.uncovered.pop_front();
        }
        let covered_by = if guard.records > 0 { guard.last() } else { guard.first };
        let full = self.uncovered.len() >= Self::UNCOVERED_MAX;
        match self.uncovered.back_mut() {
            Some(last) if full => last.1 = covered_by,
            _ => self.uncovered.push_back((offset, covered_by)),
        }
        self.next = guard.last().next();
        self.chain = guard.checksum;
        self.held = Some(Held { segment, end: offset + u64::from(guard.batch_bytes) });
        self.broken = false;
    }

    /// Goes on at another sequence and guard: what lies between is hidden.
    fn jump(&mut self, next: Sequence, chain: u32) {
        self.scanned.hide(next.0.saturating_sub(self.next.0));
        self.next = self.next.max(next);
        self.chain = chain;
    }
}

/// What to do at the end of the open segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Decide what it is.
    Decide,
    /// Stop there: a writer may be at work, and somebody will look again.
    Defer,
}

/// What a search behind B has found.
struct Search {
    covered: bool,
    resume: Option<(u64, Guard)>,
}

pub(crate) struct Scanner<'a> {
    window: Window<'a>,
    config: &'a ScanConfig,
    visitor: &'a mut dyn Visitor,
    pub progress: Progress,
    /// Behind the open segment stands one that was claimed by a later opening and seals nothing.
    claimed_behind: bool,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(
        directory: &'a dyn Directory,
        config: &'a ScanConfig,
        visitor: &'a mut dyn Visitor,
        progress: Progress,
    ) -> Scanner<'a> {
        Scanner { window: Window::new(directory), config, visitor, progress, claimed_behind: false }
    }

    /// Reads the surveyed segments: all of them, or from `resume` on.
    pub(crate) fn read(
        &mut self,
        survey: &Survey,
        resume: Option<(SegmentId, u64)>,
        ending: Ending,
    ) -> io::Result<()> {
        let scanned = &mut self.progress.scanned;
        scanned.segments = survey.views.len() as u64;
        scanned.remainders = survey.remainders.len() as u64;
        scanned.epoch = survey.epoch();
        scanned.log_id = survey.log_id();
        let claims = survey.views.iter().filter_map(|view| view.header.claim);
        let epochs: BTreeSet<Epoch> = claims.map(|claim| claim.epoch).collect();
        scanned.stats.recoveries = (epochs.len() as u64).saturating_sub(1);
        scanned.lost_header_copies = 0;
        scanned.abandoned_starts = 0;
        let behind = survey.views.iter().rev().take_while(|view| view.extent == Extent::Passed);
        let open = survey.views.iter().find(|view| view.extent == Extent::Open);
        let written = open.and_then(View::claim).map_or(Epoch::NONE, |claim| claim.epoch);
        // A rotation claims with its own epoch, and writes nothing again.
        self.claimed_behind =
            behind.filter_map(|view| view.header.claim).any(|claim| claim.epoch > written);
        let mut expected = SegmentId::FIRST;
        for view in &survey.views {
            let start = match resume {
                Some((segment, _)) if view.id < segment => None,
                Some((segment, offset)) if view.id == segment => Some(offset),
                _ => Some(HEADER_BYTES),
            };
            if let Some(start) = start {
                let resumes = start != HEADER_BYTES;
                let begins = expected == SegmentId::FIRST
                    && view.id != expected
                    && (resumes || self.begins_with_snapshot(view)?);
                if view.id != expected && !begins {
                    self.report(expected, 0, 0, Damage::SegmentsMissing, true);
                }
                self.read_segment(view, start, resumes, ending)?;
            }
            let scanned = &mut self.progress.scanned;
            scanned.lost_header_copies +=
                view.header.lost.iter().filter(|lost| **lost).count() as u64;
            scanned.abandoned_starts += u64::from(view.header.abandoned);
            expected = view.id.next();
        }
        self.progress.scanned.base_is_whole = self.progress.snapshots.base_is_whole;
        if let (Some(base), Ending::Decide) = (self.progress.snapshots.base, ending)
            && !self.progress.snapshots.base_is_whole
        {
            self.report(base, HEADER_BYTES, 0, Damage::SnapshotIncomplete, true);
        }
        let held = self.progress.held;
        self.progress.scanned.end = held.map(|held| (held.segment, held.end));
        Ok(())
    }

    fn report(&mut self, segment: SegmentId, offset: u64, bytes: u64, what: Damage, hides: bool) {
        self.progress.broken |= hides;
        if hides {
            self.progress.snapshots.broken();
        }
        let corruption = Corruption {
            segment: Some(segment),
            offset,
            bytes,
            what,
            last_sequence_before: self.progress.last(),
            hides_records: hides,
        };
        tracing::warn!(%corruption, "the log is damaged");
        self.progress.scanned.report(corruption, self.visitor);
    }

    fn read_segment(
        &mut self,
        view: &View,
        start: u64,
        resumed: bool,
        ending: Ending,
    ) -> io::Result<()> {
        if !resumed {
            self.visitor.segment(&view.info());
            for &(copy, what, hides) in &view.header.damage {
                let (offset, bytes) =
                    if copy == 2 { (0, HEADER_BYTES) } else { (u64::from(copy) * SECTOR, SECTOR) };
                self.report(view.id, offset, bytes, what, hides);
            }
        }
        self.window.open(view.id)?;
        if view.foreign {
            self.report(view.id, 0, view.file_bytes, Damage::ForeignSegment, true);
            return Ok(());
        }
        match view.extent {
            Extent::Passed => Ok(()),
            Extent::Empty { take_over } => self.look_behind(view.id, HEADER_BYTES, take_over),
            Extent::Open | Extent::Unproven | Extent::Sealed { .. } => {
                self.read_batches(view, start, resumed, ending)
            }
        }
    }

    fn read_batches(
        &mut self,
        view: &View,
        start: u64,
        resumed: bool,
        ending: Ending,
    ) -> io::Result<()> {
        let Some(claim) = view.claim() else { return Ok(()) };
        if !resumed {
            // Not for a segment that is passed over: who goes on behind it later still has to know
            // what is unproven before it.
            self.progress.uncovered.clear();
            self.begin_segment(view);
            self.progress.snapshots.segment_begins = self.progress.next;
        }
        let limit = match view.extent {
            Extent::Sealed { length, .. } => length,
            _ => u64::MAX,
        };
        let mut reader = SegmentReader {
            id: view.id,
            seed: Seed::of(&claim),
            claim,
            limit,
            at: start,
            last_nonzero: None,
            damaged: false,
        };
        self.window.read_ahead(start);
        let torn = loop {
            while reader.at < limit && self.read_batch(&mut reader)? {}
            if reader.at >= limit {
                break false;
            }
            if view.extent == Extent::Open && ending == Ending::Defer {
                break false;
            }
            match self.end_of(view.extent, &mut reader)? {
                Some(torn) => break torn,
                None => continue,
            }
        };
        if self.progress.held.is_some_and(|held| held.segment == view.id) {
            self.progress.scanned.written_epoch = claim.epoch;
        }
        match view.extent {
            Extent::Sealed { length, last, guard, take_over } => {
                self.check_seal(&reader, length, last, guard);
                self.look_behind(view.id, length, take_over)
            }
            Extent::Open => {
                let unproven_from =
                    self.progress.uncovered.front().map_or(reader.at, |&(at, _)| at);
                let (segment, end) = (view.id, reader.at);
                let tail = Tail { segment, claim, end, unproven_from, torn };
                self.progress.tail = Some(tail);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a log may begin with this segment although it is not the first of all: its first record is
    /// the first part of a snapshot. Then it is gone on with as its seal says.
    fn begins_with_snapshot(&mut self, view: &View) -> io::Result<bool> {
        let (Some(seal), Some(claim)) = (view.header.seal, view.header.claim) else {
            return Ok(false);
        };
        if view.foreign || !view.holds_batch || !view.header.damage.is_empty() {
            return Ok(false);
        }
        self.window.open(view.id)?;
        let head = self.window.at(HEADER_BYTES, HEAD_BYTES as u64)?;
        let seed = Seed::of(&claim);
        let Some(guard) = decode_head(head, seed, HEADER_BYTES, claim.batch_bytes_max) else {
            return Ok(false);
        };
        if (guard.first, guard.chain) != (seal.last.next(), seal.guard) || guard.records == 0 {
            return Ok(false);
        }
        let (bytes, known) = self.window.batch(HEADER_BYTES, u64::from(guard.batch_bytes))?;
        let (offset, max_payload) = (HEADER_BYTES, claim.max_payload);
        let batch = Batch { guard, offset, bytes, max_payload, known };
        if !is_valid(&batch) {
            return Ok(false);
        }
        let first = decode_unchecked(&bytes[batch.records_begin()..], claim.max_payload);
        let part =
            first.ok().and_then(|first| SnapshotPart::of(first.record.event, first.record.payload));
        if part.is_none_or(|part| part.number > 0) {
            return Ok(false);
        }
        let progress = &mut self.progress;
        (progress.next, progress.chain) = (seal.last.next(), seal.guard);
        progress.first = progress.next;
        progress.snapshots.base = Some(view.id);
        progress.scanned.base = Some(view.id);
        Ok(true)
    }

    /// Checks what was read before against what this segment's seal says of it.
    fn begin_segment(&mut self, view: &View) {
        let Some(seal) = view.header.seal else { return };
        let progress = &self.progress;
        if (seal.last.next(), seal.guard) == (progress.next, progress.chain) {
            return;
        }
        if !progress.broken {
            self.report(view.id, 0, 0, Damage::SealMismatch, true);
        }
        self.progress.jump(seal.last.next(), seal.guard);
    }

    /// Checks that a sealed segment has ended as its seal says.
    fn check_seal(&mut self, reader: &SegmentReader, length: u64, last: Sequence, guard: u32) {
        let progress = &self.progress;
        if reader.at == length && (progress.last(), progress.chain) == (last, guard) {
            return;
        }
        if !progress.broken {
            self.report(reader.id, length, 0, Damage::SealMismatch, true);
        }
        self.progress.jump(last.next(), guard);
    }

    /// Reports what is written behind a sealed end.
    fn look_behind(&mut self, id: SegmentId, from: u64, take_over: bool) -> io::Result<()> {
        if let Some(last) = self.window.last_nonzero(from)? {
            let bytes = last + 1 - from;
            if take_over {
                self.progress.scanned.fenced_bytes += bytes;
            } else {
                self.report(id, from, bytes, Damage::BehindSeal, false);
            }
        }
        Ok(())
    }

    /// Reads the batch at `reader.at`, if a valid one begins there.
    fn read_batch(&mut self, reader: &mut SegmentReader) -> io::Result<bool> {
        let head = self.window.at(reader.at, HEAD_BYTES as u64)?;
        let Some(guard) = reader.decode_head(head, reader.at) else { return Ok(false) };
        let in_order = (guard.first, guard.chain) == (self.progress.next, self.progress.chain);
        let end = reader.at + u64::from(guard.batch_bytes);
        if !in_order || end > reader.limit {
            return Ok(false);
        }
        let read = self.window.batch(reader.at, u64::from(guard.batch_bytes))?;
        let batch = reader.batch(guard, reader.at, read);
        if !is_valid(&batch) {
            return Ok(false);
        }
        let place =
            Place { segment: reader.id, offset: reader.at, len: guard.batch_bytes, crc_ok: true };
        self.visitor.guard(&guard, place);
        let mut teller = Teller {
            segment: reader.id,
            enable_checksums: self.config.enable_checksums,
            scanned: &mut self.progress.scanned,
            snapshots: &mut self.progress.snapshots,
            visitor: self.visitor,
        };
        if self.config.enable_checksums {
            teller.tell(&batch, batch.bytes.len());
        } else {
            teller.tell_valid(&batch);
        }
        self.progress.accept(reader.id, reader.at, &guard);
        reader.at = end;
        Ok(true)
    }

    /// No valid batch begins at `reader.at`: decides what that is. `Some` at the segment's end (true
    /// if it is torn); `None` if the reader stands where a batch begins again.
    fn end_of(&mut self, extent: Extent, reader: &mut SegmentReader) -> io::Result<Option<bool>> {
        let last_nonzero = self.last_nonzero(reader)?;
        if last_nonzero.is_none() && !matches!(extent, Extent::Sealed { .. }) {
            return Ok(Some(false));
        }
        let open = extent == Extent::Open;
        let search = self.search(reader, open && !reader.damaged)?;
        let what = if open {
            let mut conditions = self.conditions(reader)?;
            conditions.covered = search.covered || (reader.damaged && search.resume.is_some());
            match decide(&conditions) {
                End::Clean => return Ok(Some(false)),
                End::Torn => {
                    let end = last_nonzero.map_or(reader.at, |last| last + 1);
                    self.progress.scanned.tear(end - reader.at);
                    return Ok(Some(true));
                }
                End::Corrupt(Reason::Synced) => Damage::BatchDamaged,
                End::Corrupt(Reason::OutOfOrder) => Damage::BatchOutOfOrder,
                End::Corrupt(Reason::Head | Reason::List | Reason::Crc | Reason::Body) => {
                    Damage::TailDamaged
                }
            }
        } else {
            Damage::BatchDamaged
        };
        reader.damaged = true;
        let proved = self.tell_proved(reader)?;
        let hole_from = reader.at + proved;
        let file_end = match extent {
            Extent::Sealed { length, .. } => length,
            _ => last_nonzero.map_or(reader.at, |last| last + 1),
        };
        match search.resume {
            Some((offset, guard)) => {
                let bytes = offset.saturating_sub(hole_from);
                self.report(reader.id, hole_from.min(offset), bytes, what, true);
                self.progress.jump(guard.first, guard.chain);
                reader.at = offset;
                Ok(None)
            }
            None => {
                let bytes = file_end.saturating_sub(hole_from);
                self.report(reader.id, hole_from, bytes, what, true);
                if open {
                    self.hide_known(reader)?;
                }
                Ok(Some(false))
            }
        }
    }

    /// The last byte from `reader.at` on that is not zero. The file is looked through once, however
    /// many holes it has.
    fn last_nonzero(&mut self, reader: &mut SegmentReader) -> io::Result<Option<u64>> {
        let last = match reader.last_nonzero {
            Some(last) => last,
            None => self.window.last_nonzero(reader.at)?,
        };
        reader.last_nonzero = Some(last);
        Ok(last.filter(|&last| last >= reader.at))
    }

    /// What the table of ends asks, but for what lies behind the batch.
    ///
    /// After a failed sync the page cache may show more than the disk has. Then the next opening has read a
    /// batch whole and written it again over one that lacks sectors; where the power has failed meanwhile,
    /// that write may be cut inside a sector. Only one whose claim is there writes so, and only until it seals.
    fn conditions(&mut self, reader: &SegmentReader) -> io::Result<Conditions> {
        let head = self.window.at(reader.at, HEAD_BYTES as u64)?;
        let head_edge_zero = head[0] == 0 || head[HEAD_BYTES - 1] == 0;
        let Some(guard) = reader.decode_head(head, reader.at) else {
            let in_first_sector = (SECTOR - reader.at % SECTOR) as usize;
            let ends_in_zero = in_first_sector < HEAD_BYTES && head[in_first_sector - 1] == 0;
            let head_half_rewritten = self.claimed_behind && ends_in_zero;
            return Ok(Conditions { head_edge_zero, head_half_rewritten, ..Conditions::default() });
        };
        let in_order = (guard.first, guard.chain) == (self.progress.next, self.progress.chain);
        let read = self.window.batch(reader.at, u64::from(guard.batch_bytes))?;
        let batch = reader.batch(guard, reader.at, read);
        Ok(Conditions {
            all_zero: false,
            head_half_rewritten: false,
            covered: false,
            head: true,
            in_order,
            head_edge_zero,
            list: batch.list_verifies(),
            list_sector_lost: batch.list_sector_is_lost(),
            cut_in_list: batch.is_cut_in_list(),
            list_half_rewritten: self.claimed_behind && batch.list_sector_ends_in_zero(),
            crc: batch.crc_verifies(),
            lost_sectors_only: batch.lost_sectors_only(),
            cut: batch.is_cut(),
            half_rewritten: self.claimed_behind && batch.failing_sectors_end_in_zero(),
        })
    }

    /// Looks behind B for a head whose watermark covers it (if asked), and for the first whole batch
    /// to go on with. Inside a batch whose head verifies nothing is looked for: those are its records.
    fn search(&mut self, reader: &SegmentReader, ask_covered: bool) -> io::Result<Search> {
        let next = self.progress.next;
        let mut search = Search { covered: false, resume: None };
        let mut at = reader.at;
        let max = reader.claim.batch_bytes_max;
        while let Some((offset, guard)) =
            self.window.find_head(at, reader.limit, reader.seed, max)?
        {
            at = offset + u64::from(guard.batch_bytes);
            search.covered |= offset > reader.at && guard.watermark >= next;
            if search.resume.is_none() && guard.first >= next && at <= reader.limit {
                let read = self.window.batch(offset, u64::from(guard.batch_bytes))?;
                if is_valid(&reader.batch(guard, offset, read)) {
                    search.resume = Some((offset, guard));
                }
            }
            if search.resume.is_some() && (search.covered || !ask_covered) {
                break;
            }
        }
        Ok(search)
    }

    /// Tells the records of a damaged batch that lie before its first failing sector, and returns how
    /// many of its bytes are good.
    fn tell_proved(&mut self, reader: &SegmentReader) -> io::Result<u64> {
        let head = self.window.at(reader.at, HEAD_BYTES as u64)?;
        let Some(guard) = reader.decode_head(head, reader.at) else { return Ok(0) };
        let in_order = (guard.first, guard.chain) == (self.progress.next, self.progress.chain);
        if !in_order {
            return Ok(0);
        }
        let read = self.window.batch(reader.at, u64::from(guard.batch_bytes))?;
        let batch = reader.batch(guard, reader.at, read);
        if !batch.list_verifies() || !batch.crc_verifies() {
            return Ok(0);
        }
        for sector in batch.failing_sectors() {
            self.visitor.damaged_sector(reader.id, (sector * SECTOR).max(reader.at));
        }
        let mut teller = Teller {
            segment: reader.id,
            enable_checksums: self.config.enable_checksums,
            scanned: &mut self.progress.scanned,
            snapshots: &mut self.progress.snapshots,
            visitor: self.visitor,
        };
        let (end, next) = teller.tell(&batch, batch.proved_bytes());
        self.progress.next = next;
        Ok(if next > guard.first { end as u64 } else { 0 })
    }

    /// Counts the records that the damaged last batch is known to have held.
    fn hide_known(&mut self, reader: &SegmentReader) -> io::Result<()> {
        let head = self.window.at(reader.at, HEAD_BYTES as u64)?;
        if let Some(guard) = reader.decode_head(head, reader.at) {
            let hidden = guard.last().0.saturating_sub(self.progress.last().0);
            self.progress.scanned.hide(hidden.min(u64::from(guard.records)));
        }
        Ok(())
    }
}

/// The segment being read.
#[derive(Debug)]
struct SegmentReader {
    id: SegmentId,
    seed: Seed,
    claim: Claim,
    /// No batch goes beyond this offset.
    limit: u64,
    at: u64,
    last_nonzero: Option<Option<u64>>,
    /// Damage was already found in this segment.
    damaged: bool,
}

impl SegmentReader {
    fn decode_head(&self, head: &[u8], offset: u64) -> Option<Guard> {
        decode_head(head, self.seed, offset, self.claim.batch_bytes_max)
    }

    /// What was read of a batch, and what is known of it already.
    fn batch<'b>(
        &self,
        guard: Guard,
        offset: u64,
        (bytes, known): (&'b [u8], KnownSectors<'b>),
    ) -> Batch<'b> {
        Batch { guard, offset, bytes, max_payload: self.claim.max_payload, known }
    }
}

/// Whether everything in a batch whose head verifies is as it was written.
pub(crate) fn is_valid(batch: &Batch<'_>) -> bool {
    batch.list_verifies() && batch.crc_verifies() && batch.sectors_verify() && batch.records_fit()
}

/// Tells a visitor a batch's records.
struct Teller<'a> {
    segment: SegmentId,
    enable_checksums: bool,
    scanned: &'a mut Scanned,
    snapshots: &'a mut Snapshots,
    visitor: &'a mut dyn Visitor,
}

impl Teller<'_> {
    /// Tells the records that lie in the first `proved` bytes. Returns where the last one ends, in bytes
    /// from the batch's beginning, and the sequence after it.
    fn tell(&mut self, batch: &Batch<'_>, proved: usize) -> (usize, Sequence) {
        let bytes = &batch.bytes[..proved];
        let mut at = batch.records_begin();
        let mut next = batch.guard.first;
        let mut run = Run::default();
        for _ in 0..batch.guard.records {
            let Some(rest) = bytes.get(at..) else { break };
            let decoded = if self.enable_checksums {
                decode_record(rest, batch.max_payload)
            } else {
                decode_unchecked(rest, batch.max_payload)
            };
            let Ok(decoded) = decoded else { break };
            let record = decoded.record;
            if record.sequence != next || record.event == EventType::GUARD {
                break;
            }
            let place = Place {
                segment: self.segment,
                offset: batch.offset + at as u64,
                len: decoded.len,
                crc_ok: decoded.crc_ok,
            };
            if !decoded.crc_ok {
                self.count(&mut run, next);
                self.tell_damaged(&record, place);
            } else {
                if record.event == EventType::CHECKPOINT {
                    self.count(&mut run, next);
                    self.snapshots.read(&record, self.segment, self.scanned.stats.bytes);
                    self.scanned.count(&record);
                } else {
                    run.count(record.event, u64::from(decoded.len));
                }
                self.visitor.record(&record, place);
            }
            at += decoded.len as usize;
            next = Sequence(next.0 + 1);
        }
        self.count(&mut run, next);
        (at, next)
    }

    /// As [`tell`](Self::tell) all of a batch that [`is_valid`], without asking for the records' own
    /// checksums. Nearly all of a replay goes by here.
    fn tell_valid(&mut self, batch: &Batch<'_>) {
        let mut at = batch.records_begin();
        let mut rest = &batch.bytes[at..];
        let mut run = Run::default();
        for _ in 0..batch.guard.records {
            let record;
            (record, rest) = split_record(rest);
            // A batch is shorter than 4 GiB.
            let len = RECORD_HEADER_BYTES + record.payload.len() as u32;
            let offset = batch.offset + at as u64;
            let place = Place { segment: self.segment, offset, len, crc_ok: true };
            if record.event == EventType::CHECKPOINT {
                self.count(&mut run, record.sequence);
                self.snapshots.read(&record, self.segment, self.scanned.stats.bytes);
                self.scanned.count(&record);
            } else {
                run.count(record.event, u64::from(len));
            }
            self.visitor.record(&record, place);
            at += len as usize;
        }
        self.count(&mut run, batch.guard.last().next());
    }

    /// Counts what was told in front of `next`, and begins anew.
    fn count(&mut self, run: &mut Run, next: Sequence) {
        if run.records > 0 {
            self.scanned.records += run.records;
            self.scanned.last_sequence = Sequence(next.0 - 1);
            self.scanned.stats.count_run(run, self.scanned.last_sequence);
            *run = Run::default();
        }
    }

    fn tell_damaged(&mut self, record: &Record<'_>, place: Place) {
        self.visitor.damaged(record, place);
        self.scanned.hide(1);
        let corruption = Corruption {
            segment: Some(self.segment),
            offset: place.offset,
            bytes: u64::from(place.len),
            what: Damage::RecordCrc,
            last_sequence_before: Sequence(record.sequence.0 - 1),
            hides_records: true,
        };
        self.scanned.report(corruption, self.visitor);
    }
}
