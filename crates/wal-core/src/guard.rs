//! The batch guard: what proves that a batch is whole, is in its place and follows the one before it.
//! Bytes: FORMAT.md, "Batch".

use base::Sequence;

use crate::checksum::{KnownSectors, Sector, crc32c, each_sector, side_by_side};
use crate::record::{EventType, MAGIC, RECORD_HEADER_BYTES, SEQUENCE_MAX, u32_at, u64_at};
use crate::segment::{Claim, SECTOR, is_zero};

/// The guard's fixed head, in bytes.
pub(crate) const HEAD_BYTES: usize = 58;
/// The mark behind a batch's records, in bytes; a padded one is longer.
pub(crate) const MARK_BYTES: usize = 8;
const MARK_BYTES_MAX: usize = MARK_BYTES + SECTOR as usize - 1;
const MARK: u8 = 0xDB;
const HEAD_LAST: u8 = 0xB7;
const RECORD_HEADER: usize = RECORD_HEADER_BYTES as usize;
/// What a head begins with.
pub(crate) const HEAD_MAGIC: [u8; 5] = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], EventType::GUARD.0];

/// A batch guard that verified. It is framed like a record and is none: it is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The sequence of the batch's first record; without records, of the next one.
    pub first: Sequence,
    /// How many records the batch holds.
    pub records: u32,
    /// The whole batch's length in bytes.
    pub batch_bytes: u32,
    /// The highest sequence known synced when the batch was written.
    pub watermark: Sequence,
    /// The checksum of the guard before.
    pub chain: u32,
    /// The checksum of the list of sector checksums, and so of everything in the batch.
    pub list_checksum: u32,
    /// The head's own checksum, which the next guard repeats.
    pub checksum: u32,
}

impl Guard {
    /// The last sequence that the batch holds; without records, the one before [`Guard::first`].
    #[must_use]
    pub fn last(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(u64::from(self.records)).saturating_sub(1))
    }
}

/// A head checksum covers its seed, the batch's place and the head itself.
const PLACE: usize = 20;
const PLACED_HEAD: usize = PLACE + 8;
type Placed = [u8; PLACED_HEAD + HEAD_BYTES];

/// What a segment's heads are seeded with, the offset aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed([u8; PLACE]);

impl Seed {
    pub(crate) fn of(claim: &Claim) -> Seed {
        let mut bytes = [0; PLACE];
        bytes[..8].copy_from_slice(&claim.log_id.to_le_bytes());
        bytes[8..16].copy_from_slice(&claim.segment.0.to_le_bytes());
        bytes[16..].copy_from_slice(&claim.epoch.value().to_le_bytes());
        Seed(bytes)
    }

    /// Seed and offset, with zeros where the head goes.
    fn placed(self, offset: u64) -> Placed {
        let mut placed = [0; PLACED_HEAD + HEAD_BYTES];
        placed[..PLACE].copy_from_slice(&self.0);
        placed[PLACE..PLACED_HEAD].copy_from_slice(&offset.to_le_bytes());
        placed
    }

    fn checksum(self, offset: u64, head: &[u8]) -> u32 {
        let mut placed = self.placed(offset);
        let to = &mut placed[PLACED_HEAD..];
        to.copy_from_slice(&head[..HEAD_BYTES]);
        to[25..29].fill(0);
        to[53..57].fill(0);
        crc32c(&placed)
    }
}

/// How many sectors `bytes` bytes at `offset` touch.
pub(crate) fn sectors(offset: u64, bytes: u64) -> u64 {
    if bytes == 0 { 0 } else { (offset + bytes - 1) / SECTOR - offset / SECTOR + 1 }
}

/// A batch's guard as far as its place and its guard before decide it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framing {
    pub seed: Seed,
    pub offset: u64,
    pub first: Sequence,
    pub records: u32,
    pub watermark: Sequence,
    pub chain: u32,
    /// Make the mark so long that the batch ends where a sector does.
    pub padded: bool,
}

/// How long the guard of a batch is that begins at `offset`.
pub(crate) fn guard_bytes(offset: u64, records_bytes: usize) -> usize {
    let mut list = 1;
    loop {
        let bytes = HEAD_BYTES as u64 + 4 * list + (records_bytes + MARK_BYTES) as u64;
        let needed = sectors(offset, bytes);
        if needed == list {
            return HEAD_BYTES + 4 * list as usize;
        }
        list = needed;
    }
}

/// Turns `gap` bytes of space with records behind them into a batch, and returns its guard's checksum.
/// The records are moved only if the space is not what the guard needs. `crc32` has seen nothing yet:
/// to make one asks what the processor can do.
pub(crate) fn frame_batch(
    bytes: &mut Vec<u8>,
    gap: usize,
    framing: &Framing,
    crc32: &crc32fast::Hasher,
) -> u32 {
    let space = guard_bytes(framing.offset, bytes.len() - gap);
    move_records(bytes, gap, space);
    bytes.extend_from_slice(&[MARK; MARK_BYTES]);
    if framing.padded {
        let past = (framing.offset + bytes.len() as u64) % SECTOR;
        bytes.resize(bytes.len() + ((SECTOR - past) % SECTOR) as usize, MARK);
    }
    let batch_bytes = u32::try_from(bytes.len()).expect("a batch has a limit far below 4 GiB");
    let (guard, guarded) = bytes.split_at_mut(space);
    let (head, list) = guard.split_at_mut(HEAD_BYTES);
    let mut entries = list.as_chunks_mut::<4>().0.iter_mut();
    let mut enter = |checksum: u32| {
        let entry = entries.next().expect("an entry for each sector that the batch touches");
        *entry = checksum.to_le_bytes();
    };
    let parts = Parts::of(framing.offset, space, guarded);
    (0..parts.guard_only).for_each(|_| enter(0));
    let [first, last] = parts.ends();
    first.into_iter().for_each(&mut enter);
    each_sector(parts.whole, &mut enter);
    last.into_iter().for_each(enter);
    // The head's checksum has zeros where both checksums go.
    let mut placed = framing.seed.placed(framing.offset);
    let fields = &mut placed[PLACED_HEAD..];
    fields[..5].copy_from_slice(&HEAD_MAGIC);
    fields[5..13].copy_from_slice(&framing.first.0.to_le_bytes());
    fields[21..25].copy_from_slice(&((space - 29) as u32).to_le_bytes());
    fields[29..33].copy_from_slice(&batch_bytes.to_le_bytes());
    fields[33..37].copy_from_slice(&framing.records.to_le_bytes());
    fields[37..45].copy_from_slice(&framing.watermark.0.to_le_bytes());
    fields[45..49].copy_from_slice(&framing.chain.to_le_bytes());
    fields[49..53].copy_from_slice(&crc32c(list).to_le_bytes());
    fields[57] = HEAD_LAST;
    let checksum = crc32c(&placed);
    placed[PLACED_HEAD + 53..PLACED_HEAD + 57].copy_from_slice(&checksum.to_le_bytes());
    head.copy_from_slice(&placed[PLACED_HEAD..]);
    let mut crc32 = crc32.clone();
    crc32.update(&guard[29..]);
    guard[25..29].copy_from_slice(&crc32.finalize().to_le_bytes());
    checksum
}

/// Moves what is behind `from` bytes to behind `to` bytes.
fn move_records(bytes: &mut Vec<u8>, from: usize, to: usize) {
    if to == from {
        return;
    }
    let records_bytes = bytes.len() - from;
    bytes.resize(from.max(to) + records_bytes, 0);
    bytes.copy_within(from..from + records_bytes, to);
    bytes.truncate(to + records_bytes);
}

/// What a batch has in each sector behind its guard: what the list's entries are the checksums of.
struct Parts<'a> {
    /// So many sectors have nothing but guard in them, in front of all others.
    guard_only: u64,
    /// In the sector that has guard and more in it, or in which all of the rest is; perhaps nothing.
    first: &'a [u8],
    /// Sectors with nothing but rest in them.
    whole: &'a [Sector],
    /// In the sector in which the rest ends; perhaps nothing.
    last: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Of a batch at `offset`, with a guard of `space` bytes and `rest` behind it.
    fn of(offset: u64, space: usize, rest: &'a [u8]) -> Parts<'a> {
        let begin = offset + space as u64;
        let in_sector = begin % SECTOR;
        let to_end = if in_sector == 0 { 0 } else { (SECTOR - in_sector) as usize };
        let (first, behind) = rest.split_at(to_end.min(rest.len()));
        let (whole, last) = behind.as_chunks();
        Parts { guard_only: begin / SECTOR - offset / SECTOR, first, whole, last }
    }

    /// The first one's checksum and the last one's, as far as there is anything.
    fn ends(&self) -> [Option<u32>; 2] {
        let ends = [self.first, self.last];
        let checksums = side_by_side(ends);
        [0, 1].map(|end| (!ends[end].is_empty()).then_some(checksums[end]))
    }
}

/// The part of the file's `sector` that lies in `from..to` of a batch at `offset`, as a range in the
/// batch; empty (or the wrong way round) if there is none.
fn sector_part(offset: u64, sector: u64, from: usize, to: usize) -> (usize, usize) {
    let begin = (sector * SECTOR).saturating_sub(offset) as usize;
    let end = ((sector + 1) * SECTOR - offset) as usize;
    (begin.max(from), end.min(to))
}

/// Reads the head at the beginning of `bytes`, which holds at least [`HEAD_BYTES`]: `Some` if it
/// verifies at `offset`.
pub(crate) fn decode_head(
    bytes: &[u8],
    seed: Seed,
    offset: u64,
    batch_bytes_max: u32,
) -> Option<Guard> {
    if bytes[..5] != HEAD_MAGIC || bytes[57] != HEAD_LAST {
        return None;
    }
    let guard = Guard {
        first: Sequence(u64_at(bytes, 5)),
        records: u32_at(bytes, 33),
        batch_bytes: u32_at(bytes, 29),
        watermark: Sequence(u64_at(bytes, 37)),
        chain: u32_at(bytes, 45),
        list_checksum: u32_at(bytes, 49),
        checksum: u32_at(bytes, 53),
    };
    if guard.checksum != seed.checksum(offset, bytes) || guard.batch_bytes > batch_bytes_max {
        return None;
    }
    let list_bytes = 4 * sectors(offset, u64::from(guard.batch_bytes));
    let fits = u64::from(guard.batch_bytes) >= (HEAD_BYTES + MARK_BYTES) as u64 + list_bytes
        && u64::from(u32_at(bytes, 21)) == 29 + list_bytes
        && is_zero(&bytes[13..21])
        && guard.watermark < guard.first
        && guard.first <= SEQUENCE_MAX;
    fits.then_some(guard)
}

/// A batch whose head verified, with all its bytes (zeros where the file has ended).
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub guard: Guard,
    pub offset: u64,
    pub bytes: &'a [u8],
    pub max_payload: u32,
    /// What whoever has read the bytes knows of them already.
    pub known: KnownSectors<'a>,
}

impl<'a> Batch<'a> {
    fn first_sector(&self) -> u64 {
        self.offset / SECTOR
    }

    fn list_end(&self) -> usize {
        HEAD_BYTES + 4 * sectors(self.offset, self.bytes.len() as u64) as usize
    }

    /// Whether the list is the one that the head was written with.
    pub(crate) fn list_verifies(&self) -> bool {
        crc32c(&self.bytes[HEAD_BYTES..self.list_end()]) == self.guard.list_checksum
    }

    /// Whether the CRC-32 in the guard's record header is right.
    pub(crate) fn crc_verifies(&self) -> bool {
        crc32fast::hash(&self.bytes[29..self.list_end()]) == u32_at(self.bytes, 25)
    }

    /// Of the list's entries, in order: the sector, and whether its checksum is right.
    fn checked_sectors(&self) -> impl Iterator<Item = (u64, bool)> {
        let batch = *self;
        let first = self.first_sector();
        let space = self.list_end();
        (HEAD_BYTES..space).step_by(4).zip(first..).map(move |(at, sector)| {
            let (from, to) = sector_part(batch.offset, sector, space, batch.bytes.len());
            let checksum = if from < to { crc32c(&batch.bytes[from..to]) } else { 0 };
            (sector, checksum == u32_at(batch.bytes, at))
        })
    }

    /// The sectors that do not verify, in order. Only if the list verifies.
    pub(crate) fn failing_sectors(&self) -> impl Iterator<Item = u64> {
        self.checked_sectors().filter(|(_, verifies)| !verifies).map(|(sector, _)| sector)
    }

    /// Whether every sector verifies. Only if the list does.
    pub(crate) fn sectors_verify(&self) -> bool {
        let space = self.list_end();
        let parts = Parts::of(self.offset, space, &self.bytes[space..]);
        let entries = self.bytes[HEAD_BYTES..space].as_chunks::<4>().0;
        let mut entries = entries.iter().map(|entry| u32::from_le_bytes(*entry));
        // A sector with nothing but guard in it has the checksum of nothing.
        let mut all = entries.by_ref().take(parts.guard_only as usize).all(|entry| entry == 0);
        let mut is_next = |checksum: u32| all &= entries.next() == Some(checksum);
        let [first, last] = parts.ends();
        first.into_iter().for_each(&mut is_next);
        let first_whole = (self.offset + space as u64).div_ceil(SECTOR);
        match self.known.get(first_whole, parts.whole.len()) {
            Some(known) => known.iter().for_each(|&checksum| is_next(checksum)),
            None => each_sector(parts.whole, &mut is_next),
        }
        last.into_iter().for_each(is_next);
        all && entries.next().is_none()
    }

    /// Whether what the batch has in that sector is zero.
    fn is_zero_in(&self, sector: u64) -> bool {
        let (from, to) = sector_part(self.offset, sector, 0, self.bytes.len());
        is_zero(&self.bytes[from..to])
    }

    /// From where on the batch is zero to its end, in bytes from its beginning.
    fn zero_from(&self) -> usize {
        self.bytes.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1)
    }

    /// A sector that the list touches, behind the last that the head touches, is zero.
    pub(crate) fn list_sector_is_lost(&self) -> bool {
        let head_last = (self.offset + HEAD_BYTES as u64 - 1) / SECTOR;
        let list_last = (self.offset + self.list_end() as u64 - 1) / SECTOR;
        (head_last + 1..=list_last).any(|sector| self.is_zero_in(sector))
    }

    /// The batch is zero from a byte of the list to its end.
    pub(crate) fn is_cut_in_list(&self) -> bool {
        self.zero_from() < self.list_end()
    }

    /// Some sector fails, and every one that does is zero.
    pub(crate) fn lost_sectors_only(&self) -> bool {
        let mut some = false;
        self.checked_sectors().all(|(sector, verifies)| {
            some |= !verifies;
            verifies || self.is_zero_in(sector)
        }) && some
    }

    /// The batch is zero from some byte to its end, and every failing sector before that byte's is
    /// zero.
    pub(crate) fn is_cut(&self) -> bool {
        let cut = self.zero_from();
        if cut == self.bytes.len() {
            return false;
        }
        let cut_sector = (self.offset + cut as u64) / SECTOR;
        self.checked_sectors()
            .take_while(|(sector, _)| *sector < cut_sector)
            .all(|(sector, verifies)| verifies || self.is_zero_in(sector))
    }

    /// Some sector that the list touches ends in a zero.
    pub(crate) fn list_sector_ends_in_zero(&self) -> bool {
        let head_last = (self.offset + HEAD_BYTES as u64 - 1) / SECTOR;
        let list_last = (self.offset + self.list_end() as u64 - 1) / SECTOR;
        (head_last..=list_last).any(|sector| self.ends_in_zero(sector))
    }

    /// Some sector fails, and every one that does ends in a zero.
    pub(crate) fn failing_sectors_end_in_zero(&self) -> bool {
        let mut failing = self.failing_sectors().peekable();
        failing.peek().is_some() && failing.all(|sector| self.ends_in_zero(sector))
    }

    /// The last byte of the batch in that sector is zero.
    fn ends_in_zero(&self, sector: u64) -> bool {
        let end = ((sector + 1) * SECTOR - self.offset).min(self.bytes.len() as u64);
        self.bytes[end as usize - 1] == 0
    }

    /// Whether exactly the guard's records lie between the list and the mark.
    pub(crate) fn records_fit(&self) -> bool {
        let mut rest = &self.bytes[self.list_end()..];
        let mut next = self.guard.first;
        for _ in 0..self.guard.records {
            let Some((header, behind)) = rest.split_first_chunk::<RECORD_HEADER>() else {
                return false;
            };
            let len = u32_at(header, 21);
            let is_next = header.first_chunk() == Some(&MAGIC)
                && u64_at(header, 5) == next.0
                && header[4] != EventType::GUARD.0
                && len <= self.max_payload;
            let Some(behind) = behind.get(len as usize..).filter(|_| is_next) else {
                return false;
            };
            rest = behind;
            // A head's sequence is far from the last number.
            next = Sequence(next.0 + 1);
        }
        let mark = rest;
        (MARK_BYTES..=MARK_BYTES_MAX).contains(&mark.len()) && mark.iter().all(|&b| b == MARK)
    }

    /// Where the records begin, in bytes from the batch's beginning.
    pub(crate) fn records_begin(&self) -> usize {
        self.list_end()
    }

    /// Up to where the batch is proved by its list, in bytes from its beginning: the first failing
    /// sector, or its end. Only if the list verifies.
    pub(crate) fn proved_bytes(&self) -> usize {
        match self.checked_sectors().find(|(_, verifies)| !verifies) {
            Some((sector, _)) => (sector * SECTOR).saturating_sub(self.offset) as usize,
            None => self.bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, encode_record};
    use crate::storage::SegmentId;
    use base::Epoch;

    fn claim() -> Claim {
        Claim {
            log_id: 9,
            segment: SegmentId(1),
            epoch: Epoch::new(1),
            max_payload: 4096,
            batch_bytes_max: 1 << 16,
        }
    }

    fn batch(offset: u64, payload: usize, gap: usize, padded: bool) -> (Vec<u8>, u32) {
        let mut bytes = vec![0xEE; gap];
        let payload = vec![0x5A; payload];
        let event = EventType::TX_CREATED;
        let record = Record { sequence: Sequence(5), event, timestamp_ms: 1, payload: &payload };
        encode_record(&record, &mut bytes);
        let seed = Seed::of(&claim());
        let framing = Framing {
            seed,
            offset,
            first: Sequence(5),
            records: 1,
            watermark: Sequence(3),
            chain: 77,
            padded,
        };
        let checksum = frame_batch(&mut bytes, gap, &framing, &crc32fast::Hasher::new());
        (bytes, checksum)
    }

    #[test]
    fn a_batch_verifies_wherever_it_begins_and_whatever_the_gap_was() {
        for offset in (1024..1024 + 512).step_by(31) {
            for payload in [0, 1, 300, 500, 2000] {
                for padded in [false, true] {
                    let (bytes, checksum) = batch(offset, payload, 0, padded);
                    for gap in [62, 66, 200] {
                        assert_eq!(batch(offset, payload, gap, padded).0, bytes);
                    }
                    let seed = Seed::of(&claim());
                    let guard = decode_head(&bytes, seed, offset, 1 << 16).unwrap();
                    assert_eq!(guard.checksum, checksum);
                    assert_eq!(guard.batch_bytes as usize, bytes.len());
                    assert!(!padded || (offset + bytes.len() as u64).is_multiple_of(SECTOR));
                    let known = KnownSectors::default();
                    let bytes = &bytes;
                    let batch = Batch { guard, offset, bytes, max_payload: 4096, known };
                    assert!(batch.list_verifies() && batch.crc_verifies());
                    assert!(batch.sectors_verify() && batch.records_fit());
                    assert_eq!(batch.proved_bytes(), bytes.len());
                    assert!(!batch.is_cut() && !batch.lost_sectors_only());
                }
            }
        }
    }

    #[test]
    fn a_head_verifies_only_in_its_place() {
        let (bytes, _) = batch(1024, 100, 0, false);
        let head = |claim: &Claim, offset| decode_head(&bytes, Seed::of(claim), offset, 1 << 16);
        assert!(head(&claim(), 1024).is_some());
        assert!(head(&claim(), 1025).is_none());
        assert!(head(&claim(), 1536).is_none());
        assert!(head(&Claim { log_id: 8, ..claim() }, 1024).is_none());
        assert!(head(&Claim { segment: SegmentId(2), ..claim() }, 1024).is_none());
        assert!(head(&Claim { epoch: Epoch::new(2), ..claim() }, 1024).is_none());
    }
}
