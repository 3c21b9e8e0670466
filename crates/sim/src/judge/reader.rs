//! A second reader of logs, written from the format's document alone, for judges.
//!
//! It reads what a healthy disk holds: the log ends at the first batch that does not verify, and
//! nothing is looked for behind it. What must verify and does not is [`Unreadable`]. It has two ways
//! in: [`read_log`] reads a whole log, headers and seals first; a [`Cursor`] goes on from where a log
//! was read to, so that what a sync adds costs as much as it is long.

use std::fmt;
use std::io;
use wal_core::{Directory, SegmentId};

const SECTOR: usize = 512;
/// Two header copies stand before the first batch.
pub const FIRST_BATCH: u64 = 1024;
const HEADER: usize = 29;
const HEAD: usize = 58;
const MARK: u8 = 0xDB;
const MARK_MIN: usize = 8;
const MARK_MAX: usize = 519;
const BATCH_LIMIT: u32 = 16 << 20;
const GUARD: u8 = 0xF1;

/// A record, as the log holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Its number.
    pub sequence: u64,
    /// The event's code.
    pub event: u8,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
    /// What it says.
    pub payload: &'a [u8],
    /// The record's fingerprint: of its header, which holds the payload's CRC-32.
    pub sum: u32,
}

/// The claim of a segment: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The log's id.
    pub log_id: u64,
    /// The segment's id.
    pub segment: u64,
    /// Under which epoch it was created.
    pub epoch: u32,
    /// No record's payload is longer.
    pub max_payload: u32,
    /// No batch is longer.
    pub batch_bytes_max: u32,
}

/// The seal of a segment: where the log ended before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The newest older segment that held a batch; 0 if none did.
    pub segment: u64,
    /// Where its last batch ends.
    pub length: u64,
    /// The last record's number.
    pub last: u64,
    /// The head checksum of its last guard.
    pub guard: u32,
    /// It was set by a take-over: the old writer may still write.
    pub take_over: bool,
}

/// What should have verified and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// In which segment.
    pub segment: u64,
    /// At which offset.
    pub offset: u64,
    /// What.
    pub what: Flaw,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is, and `Display` says it in words")]
pub enum Flaw {
    Io,
    Gap,
    HeaderCorrupt,
    HeaderCopiesDiffer,
    HeaderCopyLost,
    NoHeader,
    NoSeal,
    OtherLog,
    OtherSegment,
    EpochBack,
    SealNamesNothing,
    FirstSequence,
    EndsEarly(NoBatch),
    EndsOtherwise,
    BytesBehindSeal,
    BytesBehindEnd(NoBatch),
    NoSnapshot,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} at {}: ", self.segment, self.offset)?;
        match self.what {
            Flaw::Io => f.write_str("it cannot be read"),
            Flaw::Gap => f.write_str("a segment is missing before it"),
            Flaw::HeaderCorrupt => f.write_str("a header copy is corrupt"),
            Flaw::HeaderCopiesDiffer => f.write_str("its header copies differ"),
            Flaw::HeaderCopyLost => f.write_str("it holds batches and has lost a header copy"),
            Flaw::NoHeader => f.write_str("it holds batches and has no header"),
            Flaw::NoSeal => f.write_str("it holds batches and seals nothing"),
            Flaw::OtherLog => f.write_str("its header names another log"),
            Flaw::OtherSegment => f.write_str("its header names another segment"),
            Flaw::EpochBack => f.write_str("its epoch is below an older segment's"),
            Flaw::SealNamesNothing => f.write_str("the seal names no older segment"),
            Flaw::FirstSequence => f.write_str("the seal names the wrong last record"),
            Flaw::EndsEarly(why) => write!(f, "it is sealed further than it reads: {why:?}"),
            Flaw::EndsOtherwise => f.write_str("the seal names another last batch"),
            Flaw::BytesBehindSeal => f.write_str("bytes behind a seal that no take-over set"),
            Flaw::NoSnapshot => f.write_str("the log begins here, and not with a whole snapshot"),
            Flaw::BytesBehindEnd(why) => write!(f, "bytes that are no batch: {why:?}"),
        }
    }
}

impl Unreadable {
    fn at(segment: u64, offset: u64, what: Flaw) -> Unreadable {
        Unreadable { segment, offset, what }
    }

    fn io(segment: u64) -> impl Fn(io::Error) -> Unreadable {
        move |_| Unreadable::at(segment, 0, Flaw::Io)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight"))
}

// ---- headers ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<T> {
    Absent,
    Lost,
    Valid(T),
    Corrupt,
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| *word == [0; 8]) && rest.iter().all(|byte| *byte == 0)
}

fn claim_of(copy: &[u8]) -> Part<Claim> {
    let part = &copy[..48];
    if part[0] == 0 || part[47] == 0 {
        return Part::Lost;
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&part[..12]), &[0; 4]);
    let sum = crc32c::crc32c_append(sum, &part[16..]);
    let claim = Claim {
        log_id: u64_at(part, 16),
        segment: u64_at(part, 24),
        epoch: u32_at(part, 32),
        max_payload: u32_at(part, 36),
        batch_bytes_max: u32_at(part, 40),
    };
    let valid = part[0] == 0xC7
        && &part[1..8] == b"TRINWAL"
        && u32_at(part, 8) == 1
        && u32_at(part, 12) == sum
        && (1..1 << 24).contains(&claim.epoch)
        && claim.batch_bytes_max <= BATCH_LIMIT
        && is_zero(&part[44..47])
        && part[47] == 0xE9;
    if valid { Part::Valid(claim) } else { Part::Corrupt }
}

fn seal_of(copy: &[u8]) -> Part<Seal> {
    let part = &copy[64..120];
    if is_zero(part) {
        return Part::Absent;
    }
    if part[0] == 0 || part[55] == 0 {
        return Part::Lost;
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&copy[..48]), &copy[64..68]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    let sum = crc32c::crc32c_append(sum, &copy[72..120]);
    let seal = Seal {
        segment: u64_at(copy, 72),
        length: u64_at(copy, 80),
        last: u64_at(copy, 88),
        guard: u32_at(copy, 96),
        take_over: copy[65] & 1 == 1,
    };
    let valid = part[0] == 0xD3
        && copy[65] & !1 == 0
        && is_zero(&copy[66..68])
        && u32_at(copy, 68) == sum
        && is_zero(&copy[100..104])
        && u64_at(copy, 104) == seal.last + 1
        && is_zero(&copy[112..119])
        && part[55] == 0xE9;
    if valid { Part::Valid(seal) } else { Part::Corrupt }
}

/// The first valid claim of a segment: what a writer has claimed, as far as it is on the disk.
///
/// # Errors
/// It cannot be read.
pub fn claim(disk: &dyn Directory, segment: SegmentId) -> Result<Option<Claim>, Unreadable> {
    let mut copies = [0; 1024];
    disk.read_at(segment, 0, &mut copies).map_err(Unreadable::io(segment.0))?;
    let of = |copy: &[u8]| match claim_of(copy) {
        Part::Valid(claim) => Some(claim),
        _ => None,
    };
    Ok(of(&copies[..SECTOR]).or_else(|| of(&copies[SECTOR..])))
}

/// What the two copies say together; `None`: an abandoned start.
type Header = Option<(Claim, Option<Seal>)>;

fn header(id: u64, bytes: &[u8], holds_batch: bool) -> Result<Header, Unreadable> {
    let mut padded = [0; 1024];
    let there = bytes.len().min(1024);
    padded[..there].copy_from_slice(&bytes[..there]);
    let mut claims = [Part::Lost; 2];
    let mut seals = [Part::Absent; 2];
    let flaw = |copy: usize, what| Unreadable::at(id, (copy * SECTOR) as u64, what);
    for copy in 0..2 {
        let bytes = &padded[copy * SECTOR..(copy + 1) * SECTOR];
        claims[copy] = claim_of(bytes);
        if claims[copy] != Part::Lost {
            seals[copy] = seal_of(bytes);
        }
        let foreign = !is_zero(&bytes[48..64]) || !is_zero(&bytes[120..]);
        if claims[copy] == Part::Corrupt || seals[copy] == Part::Corrupt || foreign {
            return Err(flaw(copy, Flaw::HeaderCorrupt));
        }
    }
    let claim = match claims {
        [Part::Valid(first), Part::Valid(second)] if first != second => {
            return Err(flaw(1, Flaw::HeaderCopiesDiffer));
        }
        [Part::Valid(claim), Part::Valid(_)] => claim,
        [Part::Valid(_), _] | [_, Part::Valid(_)] if holds_batch => {
            return Err(flaw(0, Flaw::HeaderCopyLost));
        }
        [Part::Valid(claim), _] | [_, Part::Valid(claim)] => claim,
        _ if holds_batch => return Err(flaw(0, Flaw::NoHeader)),
        _ => return Ok(None),
    };
    let seal = match seals {
        [Part::Valid(first), Part::Valid(second)] if first != second => {
            return Err(flaw(1, Flaw::HeaderCopiesDiffer));
        }
        [Part::Valid(seal), Part::Valid(_)] => Some(seal),
        _ if holds_batch => return Err(flaw(0, Flaw::NoSeal)),
        [Part::Valid(seal), _] | [_, Part::Valid(seal)] => Some(seal),
        _ => None,
    };
    Ok(Some((claim, seal)))
}

// ---- batches ----

/// Why no batch begins somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each names the field")]
pub enum NoBatch {
    /// Nothing but the end.
    End,
    Head,
    HeadChecksum,
    Length,
    Watermark,
    Sequence,
    Chain,
    ListChecksum,
    Crc,
    Sector,
    Record,
    RecordCrc,
    Mark,
}

/// Where a log was read to: what the next batch has to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    claim: Claim,
    /// CRC-32C of what of the claim goes into every head's checksum.
    seed: u32,
    /// Where the next batch begins.
    pub offset: u64,
    /// The number of the next record.
    pub next: u64,
    /// The head checksum of the guard before.
    pub chain: u32,
    /// The highest watermark that was read.
    pub watermark: u64,
    /// Also look at each record's own CRC.
    thorough: bool,
}

impl Cursor {
    /// The beginning of a segment that goes on behind record `last` and the guard of checksum
    /// `chain`.
    #[must_use]
    pub fn new(claim: Claim, last: u64, chain: u32) -> Cursor {
        let mut named = Aligned([0; 20]);
        named.0[..8].copy_from_slice(&claim.log_id.to_le_bytes());
        named.0[8..16].copy_from_slice(&claim.segment.to_le_bytes());
        named.0[16..].copy_from_slice(&claim.epoch.to_le_bytes());
        let (seed, offset, watermark) = (crc32c::crc32c(&named.0), FIRST_BATCH, 0);
        Cursor { claim, seed, offset, next: last + 1, chain, watermark, thorough: false }
    }

    /// The same place, to go on from without a look at each record's own CRC: the sectors' checksums
    /// are enough to trust them.
    #[must_use]
    pub fn quick(self) -> Cursor {
        Cursor { thorough: false, ..self }
    }

    /// The segment that it is in.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.claim.segment
    }

    /// Whose segment it is.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Reads whole batches from `bytes`, which begin at [`Self::offset`], tells each record, and says
    /// why it stopped. A batch's records are told only if all of it verifies.
    pub fn read<'a>(
        &mut self,
        mut bytes: &'a [u8],
        each: &mut impl FnMut(&LogRecord<'a>),
    ) -> NoBatch {
        loop {
            match self.batch(bytes, each) {
                Ok(length) => bytes = &bytes[length..],
                Err(stop) => return stop,
            }
        }
    }

    fn batch<'a>(
        &mut self,
        bytes: &'a [u8],
        each: &mut impl FnMut(&LogRecord<'a>),
    ) -> Result<usize, NoBatch> {
        if bytes.len() < HEAD + 4 + MARK_MIN {
            return Err(if is_zero(bytes) { NoBatch::End } else { NoBatch::Length });
        }
        let head: &[u8; HEAD] = bytes[..HEAD].try_into().expect("there are as many");
        if &head[..4] != b"WAL!" || head[4] != GUARD || head[57] != 0xB7 {
            let end = head[0] == 0 && is_zero(bytes);
            return Err(if end { NoBatch::End } else { NoBatch::Head });
        }
        let sum = self.head_sum(head);
        if u32_at(head, 53) != sum {
            return Err(NoBatch::HeadChecksum);
        }
        let length = u32_at(head, 29) as usize;
        if length > self.claim.batch_bytes_max as usize || length > bytes.len() || length < HEAD {
            return Err(NoBatch::Length);
        }
        let at = self.offset as usize;
        let sectors = (at + length - 1) / SECTOR - at / SECTOR + 1;
        let list_end = HEAD + 4 * sectors;
        if length < list_end + MARK_MIN || u32_at(head, 21) as usize != HEADER + 4 * sectors {
            return Err(NoBatch::Length);
        }
        let (sequence, watermark) = (u64_at(head, 5), u64_at(head, 37));
        if watermark >= sequence || u64_at(head, 13) != 0 {
            return Err(NoBatch::Watermark);
        }
        if sequence != self.next {
            return Err(NoBatch::Sequence);
        }
        if u32_at(head, 45) != self.chain {
            return Err(NoBatch::Chain);
        }
        let batch = &bytes[..length];
        let list = &batch[HEAD..list_end];
        if u32_at(head, 49) != crc32c_of_few(list) {
            return Err(NoBatch::ListChecksum);
        }
        if u32_at(head, 25) != crc32fast::hash(&batch[HEADER..list_end]) {
            return Err(NoBatch::Crc);
        }
        let mut from = list_end;
        for (sector, entry) in list.as_chunks::<4>().0.iter().enumerate() {
            let end = ((at / SECTOR + sector + 1) * SECTOR - at).min(length);
            let part = if end > from { &batch[from..end] } else { &[] };
            if u32::from_le_bytes(*entry) != crc32c::crc32c(part) {
                return Err(NoBatch::Sector);
            }
            from = from.max(end);
        }
        let count = u32_at(head, 33);
        let marked = self.check_records(batch, list_end, count)?;
        let mark = &batch[marked..];
        if !(MARK_MIN..=MARK_MAX).contains(&mark.len()) || mark.iter().any(|byte| *byte != MARK) {
            return Err(NoBatch::Mark);
        }
        let mut place = list_end;
        while place < marked {
            let record = record_at(batch, place);
            place += HEADER + record.payload.len();
            each(&record);
        }
        self.next += u64::from(count);
        self.offset += length as u64;
        self.chain = sum;
        self.watermark = self.watermark.max(watermark);
        Ok(length)
    }

    /// Where the records end, if there are so many and they are as they should be.
    fn check_records(&self, batch: &[u8], from: usize, count: u32) -> Result<usize, NoBatch> {
        let mut place = from;
        for number in 0..u64::from(count) {
            let rest = &batch[place..];
            if rest.len() < HEADER || &rest[..4] != b"WAL!" || rest[4] == GUARD {
                return Err(NoBatch::Record);
            }
            let length = u32_at(rest, 21) as usize;
            let fits = length <= self.claim.max_payload as usize && HEADER + length <= rest.len();
            if !fits || u64_at(rest, 5) != self.next + number {
                return Err(NoBatch::Record);
            }
            let payload = &rest[HEADER..HEADER + length];
            if self.thorough && u32_at(rest, 25) != crc32fast::hash(payload) {
                return Err(NoBatch::RecordCrc);
            }
            place += HEADER + length;
        }
        Ok(place)
    }

    fn head_sum(&self, head: &[u8; HEAD]) -> u32 {
        let mut seeded = Aligned([0; 8 + HEAD]);
        seeded.0[..8].copy_from_slice(&self.offset.to_le_bytes());
        seeded.0[8..].copy_from_slice(head);
        seeded.0[8 + 25..8 + 29].fill(0);
        seeded.0[8 + 53..8 + 57].fill(0);
        crc32c::crc32c_append(self.seed, &seeded.0)
    }
}

/// Bytes where words begin: a checksum of few bytes takes as long as those before the first word.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

/// CRC-32C, for so few bytes that to begin with words would take longer.
fn crc32c_of_few(bytes: &[u8]) -> u32 {
    let next = |sum: u32, byte: &u8| SUMS[(sum as u8 ^ byte) as usize] ^ sum >> 8;
    !bytes.iter().fold(!0, next)
}

/// What each byte adds to a CRC-32C.
static SUMS: [u32; 256] = {
    let mut sums = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
            bit += 1;
        }
        sums[byte] = sum;
        byte += 1;
    }
    sums
};

fn record_at(batch: &[u8], place: usize) -> LogRecord<'_> {
    let (header, rest) = batch[place..].split_first_chunk::<HEADER>().expect("it was checked");
    let length = u32_at(header, 21) as usize;
    LogRecord {
        sequence: u64_at(header, 5),
        event: header[4],
        timestamp_ms: u64_at(header, 13) as i64,
        payload: &rest[..length],
        sum: fingerprint(header),
    }
}

/// The fingerprint that a record has if this is what it says.
#[must_use]
pub fn sum_of(sequence: u64, event: u8, timestamp_ms: i64, payload: &[u8]) -> u32 {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(b"WAL!");
    header[4] = event;
    header[5..13].copy_from_slice(&sequence.to_le_bytes());
    header[13..21].copy_from_slice(&timestamp_ms.to_le_bytes());
    header[21..25].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[25..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    fingerprint(&header)
}

/// Tells a record from others that this reader reads, by all of its header. It is compared with
/// nothing that anybody else computes, so fixed arithmetic will do: what a short CRC costs is worth
/// ten of these.
fn fingerprint(header: &[u8; HEADER]) -> u32 {
    let folded = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    };
    let begin = folded(u64_at(header, 0) ^ 0x9E37_79B9_7F4A_7C15, u64_at(header, 8) ^ PRIME);
    let end = folded(u64_at(header, 16) ^ 0xD6E8_FEB8_6659_FD93, u64_at(header, 21) ^ PRIME);
    let both = folded(begin ^ 0xA24B_AED4_963E_E407, end ^ PRIME);
    (both ^ both >> 32) as u32
}

const PRIME: u64 = 0xBE54_66CF_34E9_0C6C;

// ---- whole logs ----

/// Where a whole log was read to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The open segment and what comes next in it; `None`: there is no segment with a header, so
    /// there is no log yet.
    pub cursor: Option<Cursor>,
    /// Bytes behind the last batch of the open segment up to the last that is not zero.
    pub torn_bytes: u64,
    /// Bytes that fenced writers wrote behind the seals of take-overs.
    pub fenced_bytes: u64,
    /// What was told.
    pub told: Told,
}

/// How many records of which kind a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// All of them.
    pub records: u64,
    /// Those of sagas.
    pub saga_events: u64,
    /// Those of transactions.
    pub transaction_events: u64,
    /// Markers.
    pub checkpoints: u64,
    /// Whether they begin with a snapshot.
    pub from_snapshot: bool,
    /// Whether more of them may have been read: a process that was replaced has taken segments away
    /// since.
    pub recycled: bool,
}

impl Told {
    fn count(&mut self, record: &LogRecord<'_>) {
        self.from_snapshot |= self.records == 0 && part(record).is_some();
        self.records += 1;
        self.saga_events += u64::from((0x01..=0x0B).contains(&record.event));
        self.transaction_events += u64::from((0x10..=0x19).contains(&record.event));
        let marker = record.event == 0xF0 && part(record).is_none();
        self.checkpoints += u64::from(marker);
    }
}

/// The part of a snapshot that a record is: its number, and whether it is the last. Behind the two counts
/// stand the extensions' version, and as the first of them tag 64, five bytes: u32, u8.
#[must_use]
pub fn part(record: &LogRecord<'_>) -> Option<(u32, bool)> {
    let head = record.payload.get(16..25)?;
    let snapshot = record.event == 0xF0 && head[..4] == [1, 64, 5, 0] && head[8] <= 1;
    snapshot.then(|| (u32_at(head, 4), head[8] == 1))
}

struct Segment {
    id: u64,
    claim: Claim,
    seal: Option<Seal>,
    bytes: Vec<u8>,
    /// Where it is sealed, and by which seal; `None`: it is open.
    sealed: Option<Sealed>,
}

#[derive(Clone, Copy)]
enum Sealed {
    Empty { take_over: bool },
    At(Seal),
}

/// Reads a log from its first record to its end, and tells each record.
///
/// # Errors
/// [`Unreadable`]: what no crash leaves behind. Records before it may have been told.
pub fn read_log(
    disk: &dyn Directory,
    each: &mut impl FnMut(&LogRecord<'_>),
) -> Result<End, Unreadable> {
    let (mut segments, recycled) = load(disk)?;
    settle_seals(&mut segments, recycled)?;
    let mut end = End { cursor: None, torn_bytes: 0, fenced_bytes: 0, told: Told::default() };
    // What the next batch has to follow.
    let (mut last, mut chain) = (0, 0);
    // The part that has to come, if the log begins with a snapshot.
    let mut due = None;
    if let Some(Segment { seal: Some(seal), .. }) = segments.first()
        && recycled
    {
        (last, chain, due) = (seal.last, seal.guard, Some(0));
    }
    let (first, mut told) = (last + 1, Told::default());
    let each = &mut |record: &LogRecord<'_>| {
        match (due, part(record)) {
            (Some(next), Some((number, whole))) if number == next => {
                due = (!whole).then_some(next + 1);
            }
            // Another one never becomes whole.
            (Some(_), Some(_)) => due = Some(u32::MAX),
            // The first record is the first part.
            (Some(0), None) if record.sequence == first => due = Some(u32::MAX),
            _ => {}
        }
        told.count(record);
        each(record);
    };
    for segment in &segments {
        let Segment { id, claim, seal, bytes, sealed } = segment;
        let flaw = |offset, what| Unreadable::at(*id, offset, what);
        let mut cursor = Cursor { thorough: true, ..Cursor::new(*claim, last, chain) };
        let batches = bytes.get(FIRST_BATCH as usize..).unwrap_or(&[]);
        // Of two takers the later one's seal counts. The other gives up once its own seal is written:
        // that stays in a segment which is sealed as empty, and may say what a still older writer
        // wrote behind the seal that counts.
        let superseded = matches!(sealed, Some(Sealed::Empty { take_over: true }));
        if !superseded && seal.is_some_and(|seal| (seal.last, seal.guard) != (last, chain)) {
            return Err(flaw(0, Flaw::FirstSequence));
        }
        let behind = match *sealed {
            None => {
                cursor.read(batches, each);
                let behind = behind(bytes, cursor.offset);
                end.cursor = Some(cursor);
                end.torn_bytes = behind;
                continue;
            }
            Some(Sealed::Empty { take_over }) => (FIRST_BATCH, take_over),
            Some(Sealed::At(seal)) => {
                let length = (seal.length - FIRST_BATCH) as usize;
                let Some(batches) = batches.get(..length) else {
                    return Err(flaw(bytes.len() as u64, Flaw::EndsEarly(NoBatch::End)));
                };
                let stop = cursor.read(batches, each);
                if cursor.offset != seal.length {
                    return Err(flaw(cursor.offset, Flaw::EndsEarly(stop)));
                }
                if (cursor.next - 1, cursor.chain) != (seal.last, seal.guard) {
                    return Err(flaw(cursor.offset, Flaw::EndsOtherwise));
                }
                (last, chain) = (seal.last, seal.guard);
                (seal.length, seal.take_over)
            }
        };
        let (from, take_over) = behind;
        let left = self::behind(bytes, from);
        if left > 0 && !take_over {
            return Err(flaw(from, Flaw::BytesBehindSeal));
        }
        end.fenced_bytes += left;
    }
    end.told = told;
    match segments.first() {
        Some(begins) if due.is_some() => {
            Err(Unreadable::at(begins.id, FIRST_BATCH, Flaw::NoSnapshot))
        }
        _ => Ok(end),
    }
}

/// How many bytes there are from an offset to the last that is not zero.
fn behind(bytes: &[u8], from: u64) -> u64 {
    let rest = bytes.get(from as usize..).unwrap_or(&[]);
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

/// The segments that have a header, in order, and whether older ones were recycled.
fn load(disk: &dyn Directory) -> Result<(Vec<Segment>, bool), Unreadable> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut ids = disk.segments().map_err(Unreadable::io(0))?;
    // What stands in front of a gap was left by a recycling that was cut short.
    if let Some(gap) = ids.windows(2).rposition(|two| two[1].0 != two[0].0 + 1) {
        ids.drain(..=gap);
    }
    let mut recycled = ids.first().is_some_and(|id| id.0 > 1);
    for (at, id) in ids.into_iter().enumerate() {
        let length = disk.len(id).map_err(Unreadable::io(id.0))?;
        let mut bytes = vec![0; length as usize];
        let read = disk.read_at(id, 0, &mut bytes).map_err(Unreadable::io(id.0))?;
        bytes.truncate(read);
        let holds_batch = behind(&bytes, FIRST_BATCH) > 0;
        let Some((claim, seal)) = header(id.0, &bytes, holds_batch)? else { continue };
        if at == 0 && recycled && seal.is_none() {
            return Err(Unreadable::at(id.0, 0, Flaw::Gap));
        }
        let flaw = |what| Err(Unreadable::at(id.0, 0, what));
        if claim.segment != id.0 {
            return flaw(Flaw::OtherSegment);
        }
        if let Some(older) = segments.last() {
            if older.claim.log_id != claim.log_id {
                return flaw(Flaw::OtherLog);
            }
            if older.claim.epoch > claim.epoch {
                return flaw(Flaw::EpochBack);
            }
        }
        segments.push(Segment { id: id.0, claim, seal, bytes, sealed: None });
    }
    // A name that was taken out may be there again, by a replaced writer that wrote nothing under it.
    let first = segments.first().and_then(|first| first.seal);
    recycled |= first.is_some_and(|seal| seal.segment != 0);
    Ok((segments, recycled))
}

/// From the newest seal down: it seals the segment that it names, and those between as empty; then
/// the named one's own seal counts. What is newer than the open segment holds nothing yet.
fn settle_seals(segments: &mut Vec<Segment>, recycled: bool) -> Result<(), Unreadable> {
    // A claim without a seal holds no batch, and the log still ends before it.
    while segments.len() > 1 && segments.last().is_some_and(|newest| newest.seal.is_none()) {
        segments.pop();
    }
    let mut at = segments.len();
    while at > 0 {
        at -= 1;
        let Some(seal) = segments[at].seal else { continue };
        let mut named = None;
        for older in (0..at).rev() {
            let take_over = seal.take_over;
            if segments[older].id == seal.segment && seal.length >= FIRST_BATCH {
                segments[older].sealed = Some(Sealed::At(seal));
                named = Some(older);
                break;
            }
            segments[older].sealed = Some(Sealed::Empty { take_over });
        }
        match named {
            Some(older) => at = older + 1,
            None if seal.segment == 0 => break,
            // What the first one seals has gone.
            None if recycled && at == 0 => break,
            None => return Err(Unreadable::at(segments[at].id, 64, Flaw::SealNamesNothing)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_of_few_bytes_is_the_same_one() {
        for bytes in [&b""[..], b"\0", b"WAL!", b"123456789", &[0xFF; 40]] {
            assert_eq!(crc32c_of_few(bytes), crc32c::crc32c(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn records_are_told_apart_by_every_bit_of_their_headers() {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(b"WAL!");
        let mut sums = std::collections::BTreeSet::from([fingerprint(&header)]);
        for bit in 0..HEADER * 8 {
            let mut other = header;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(sums.insert(fingerprint(&other)), "bit {bit}");
        }
    }
}
