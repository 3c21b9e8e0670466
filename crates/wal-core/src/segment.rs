//! A segment's header: the claim (whose segment it is), the seal (where the log before it ends), and
//! what two copies of both say together. Bytes and rules: FORMAT.md, "Header copy" and "Headers".

use base::{Epoch, Sequence};

use crate::checksum::crc32c;
use crate::record::{SEQUENCE_MAX, u32_at, u64_at};
use crate::scan::Damage;
use crate::storage::SegmentId;

/// The sector of the format, in bytes: what a disk writes whole or not at all.
pub(crate) const SECTOR: u64 = 512;
/// Where a segment's first batch begins, in bytes.
pub(crate) const HEADER_BYTES: u64 = 2 * SECTOR;
/// The version of the format that this crate reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// No batch of any segment is longer, in bytes.
pub(crate) const BATCH_BYTES_LIMIT: u32 = 16 << 20;

const COPY: usize = SECTOR as usize;
const MAGIC: &[u8; 7] = b"TRINWAL";
const CLAIM_FIRST: u8 = 0xC7;
const CLAIM_LAST: u8 = 0xE9;
const CLAIM: std::ops::Range<usize> = 0..48;
const CLAIM_CHECKSUM: std::ops::Range<usize> = 12..16;
const SEAL_FIRST: u8 = 0xD3;
const SEAL_LAST: u8 = 0xE9;
const SEAL: std::ops::Range<usize> = 64..120;
const SEAL_CHECKSUM: std::ops::Range<usize> = 68..72;
const TAKE_OVER: u8 = 1;

/// Whose a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub log_id: u64,
    pub segment: SegmentId,
    pub epoch: Epoch,
    pub max_payload: u32,
    pub batch_bytes_max: u32,
}

/// Where the log in front of a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// The newest older segment that held a batch; 0 if none did.
    pub segment: SegmentId,
    /// Where its last batch ends, in bytes; 0 if there is none.
    pub length: u64,
    /// The log's last record up to there.
    pub last: Sequence,
    /// Its last guard's checksum.
    pub guard: u32,
    /// The sealed writer may still have been writing: what is behind the length is none of the log.
    pub take_over: bool,
}

impl Seal {
    /// The seal of a log without any batch.
    pub(crate) const NOTHING: Seal =
        Seal { segment: SegmentId(0), length: 0, last: Sequence::NONE, guard: 0, take_over: false };
}

/// A header copy's 512 bytes; without a seal that part is zero.
pub(crate) fn encode_copy(claim: &Claim, seal: Option<&Seal>) -> [u8; COPY] {
    let mut copy = [0; COPY];
    copy[0] = CLAIM_FIRST;
    copy[1..8].copy_from_slice(MAGIC);
    copy[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    copy[16..24].copy_from_slice(&claim.log_id.to_le_bytes());
    copy[24..32].copy_from_slice(&claim.segment.0.to_le_bytes());
    copy[32..36].copy_from_slice(&claim.epoch.value().to_le_bytes());
    copy[36..40].copy_from_slice(&claim.max_payload.to_le_bytes());
    copy[40..44].copy_from_slice(&claim.batch_bytes_max.to_le_bytes());
    copy[47] = CLAIM_LAST;
    let checksum = claim_checksum(&copy);
    copy[CLAIM_CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    if let Some(seal) = seal {
        copy[64] = SEAL_FIRST;
        copy[65] = if seal.take_over { TAKE_OVER } else { 0 };
        copy[72..80].copy_from_slice(&seal.segment.0.to_le_bytes());
        copy[80..88].copy_from_slice(&seal.length.to_le_bytes());
        copy[88..96].copy_from_slice(&seal.last.0.to_le_bytes());
        copy[96..100].copy_from_slice(&seal.guard.to_le_bytes());
        copy[104..112].copy_from_slice(&seal.last.next().0.to_le_bytes());
        copy[119] = SEAL_LAST;
        let checksum = seal_checksum(&copy);
        copy[SEAL_CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    }
    copy
}

/// Both copies of a claim without a seal, one behind the other.
pub(crate) fn encode_claim(claim: &Claim) -> Vec<u8> {
    let copy = encode_copy(claim, None);
    [copy, copy].concat()
}

fn claim_checksum(copy: &[u8; COPY]) -> u32 {
    let mut claim = [0; CLAIM.end];
    claim.copy_from_slice(&copy[CLAIM]);
    claim[CLAIM_CHECKSUM].fill(0);
    crc32c(&claim)
}

fn seal_checksum(copy: &[u8; COPY]) -> u32 {
    let mut both = [0; CLAIM.end + SEAL.end - SEAL.start];
    let (claim, seal) = both.split_at_mut(CLAIM.end);
    claim.copy_from_slice(&copy[CLAIM]);
    seal.copy_from_slice(&copy[SEAL]);
    seal[SEAL_CHECKSUM.start - SEAL.start..SEAL_CHECKSUM.end - SEAL.start].fill(0);
    crc32c(&both)
}

/// One part of one copy, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<T> {
    Absent,
    Lost,
    Valid(T),
    Corrupt,
}

impl<T> Part<T> {
    fn valid(self) -> Option<T> {
        match self {
            Part::Valid(value) => Some(value),
            _ => None,
        }
    }
}

/// One header copy, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderCopy {
    pub claim: Part<Claim>,
    pub seal: Part<Seal>,
    /// What the claim says where its checksum does not: good enough to try to read batches with.
    pub guess: Claim,
    /// All its bytes are zero.
    pub zero: bool,
    /// The claim's last byte is not zero, although it is lost: no crash leaves that.
    pub needs_zeroing: bool,
    /// A claim that verifies, of a version that is not ours.
    pub newer_version: Option<u32>,
    /// It looks like a header, damaged or not.
    pub resembles_header: bool,
}

/// Reads one header copy.
pub(crate) fn decode_copy(copy: &[u8; COPY]) -> HeaderCopy {
    let guess = Claim {
        log_id: u64_at(copy, 16),
        segment: SegmentId(u64_at(copy, 24)),
        epoch: Epoch::new(u32_at(copy, 32) & Epoch::MAX.value()),
        max_payload: u32_at(copy, 36),
        batch_bytes_max: u32_at(copy, 40),
    };
    let verifies = u32_at(copy, 12) == claim_checksum(copy)
        && (copy[0], copy[47]) == (CLAIM_FIRST, CLAIM_LAST)
        && &copy[1..8] == MAGIC;
    let version = u32_at(copy, 8);
    let flipped_bits: u32 = copy[1..8].iter().zip(MAGIC).map(|(a, b)| (a ^ b).count_ones()).sum();
    let rest_is_zero = is_zero(&copy[CLAIM.end..SEAL.start]) && is_zero(&copy[SEAL.end..]);
    let claim = if copy[0] == 0 || copy[47] == 0 {
        Part::Lost
    } else if verifies
        && version == FORMAT_VERSION
        && rest_is_zero
        && is_zero(&copy[44..47])
        && u32_at(copy, 32) == guess.epoch.value()
        && guess.epoch > Epoch::NONE
        && guess.batch_bytes_max <= BATCH_BYTES_LIMIT
    {
        Part::Valid(guess)
    } else {
        Part::Corrupt
    };
    HeaderCopy {
        claim,
        seal: if matches!(claim, Part::Valid(_)) { decode_seal(copy) } else { Part::Absent },
        guess,
        zero: is_zero(copy),
        needs_zeroing: copy[0] == 0 && copy[47] != 0,
        newer_version: (verifies && version > FORMAT_VERSION).then_some(version),
        resembles_header: flipped_bits <= 8,
    }
}

fn decode_seal(copy: &[u8; COPY]) -> Part<Seal> {
    let bytes = &copy[SEAL];
    if is_zero(bytes) {
        return Part::Absent;
    }
    if copy[64] == 0 || copy[119] == 0 {
        return Part::Lost;
    }
    let seal = Seal {
        segment: SegmentId(u64_at(copy, 72)),
        length: u64_at(copy, 80),
        last: Sequence(u64_at(copy, 88)),
        guard: u32_at(copy, 96),
        take_over: copy[65] == TAKE_OVER,
    };
    let fixed = (copy[64], copy[119]) == (SEAL_FIRST, SEAL_LAST)
        && copy[65] & !TAKE_OVER == 0
        && is_zero(&copy[66..68])
        && is_zero(&copy[100..104])
        && is_zero(&copy[112..119])
        && seal.last <= SEQUENCE_MAX
        && u64_at(copy, 104) == seal.last.next().0;
    let own = Seal { take_over: seal.take_over, ..Seal::NOTHING };
    let consistent = if seal.segment == SegmentId(0) {
        seal == own
    } else {
        seal.segment.0 < u64_at(copy, 24) && seal.length >= HEADER_BYTES
    };
    if fixed && consistent && u32_at(copy, 68) == seal_checksum(copy) {
        Part::Valid(seal)
    } else {
        Part::Corrupt
    }
}

/// What a segment's two header copies say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whose it is; `None` for an abandoned start, or if no copy tells.
    pub claim: Option<Claim>,
    /// Where the log before it ends, if any copy tells.
    pub seal: Option<Seal>,
    /// Nobody ever wrote a batch here, nor will: both copies are lost and nothing follows them.
    pub abandoned: bool,
    /// Which copies were lost without harm; opening for writing rewrites them.
    pub lost: [bool; 2],
    /// What is wrong: which copies (0, 1, or 2 for both), what, and whether it may hide records.
    pub damage: Vec<(u8, Damage, bool)>,
}

impl Header {
    /// Decides by the table in FORMAT.md, "Headers".
    pub(crate) fn of(copies: &[HeaderCopy; 2], holds_batch: bool) -> Header {
        let mut header = Header {
            claim: None,
            seal: None,
            abandoned: false,
            lost: [false; 2],
            damage: Vec::new(),
        };
        let lost = copies.map(|copy| copy.claim == Part::Lost);
        if lost == [true; 2] {
            if holds_batch {
                header.damage.push((2, Damage::BatchesWithoutHeader, true));
            } else {
                header.abandoned = true;
                header.lost = copies.map(|copy| !copy.zero);
            }
            return header;
        }
        for (index, copy) in copies.iter().enumerate() {
            let index = index as u8;
            match copy.claim {
                Part::Valid(_) => {}
                Part::Lost if holds_batch => {
                    header.damage.push((index, Damage::HeaderCopyLost, false));
                }
                Part::Lost => header.lost[usize::from(index)] = true,
                _ => header.damage.push((index, Damage::HeaderCopyCorrupt, false)),
            }
        }
        let claims = copies.map(|copy| copy.claim.valid());
        header.claim = claims[0].or(claims[1]);
        if header.claim.is_none() {
            for damage in &mut header.damage {
                damage.2 = true;
            }
            return header;
        }
        if claims[0].is_some() && claims[1].is_some() && claims[0] != claims[1] {
            header.damage.push((2, Damage::HeaderCopiesDiffer, true));
        }
        header.read_seals(copies, holds_batch);
        header
    }

    fn read_seals(&mut self, copies: &[HeaderCopy; 2], holds_batch: bool) {
        let seals = copies.map(|copy| copy.seal.valid());
        self.seal = seals[0].or(seals[1]);
        let hides = self.seal.is_none();
        if seals[0].is_some() && seals[1].is_some() && seals[0] != seals[1] {
            self.damage.push((2, Damage::HeaderCopiesDiffer, true));
        }
        for (index, copy) in copies.iter().enumerate() {
            if !matches!(copy.claim, Part::Valid(_)) {
                continue;
            }
            match copy.seal {
                Part::Valid(_) => {}
                Part::Corrupt => self.damage.push((index as u8, Damage::SealCorrupt, hides)),
                _ if holds_batch => self.damage.push((index as u8, Damage::SealMissing, hides)),
                Part::Lost => self.lost[index] = true,
                Part::Absent => {}
            }
        }
    }
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let chunks = bytes.chunks_exact(16);
    let rest = chunks.remainder();
    chunks.into_iter().all(|chunk| chunk == [0; 16]) && rest.iter().all(|&b| b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim {
            log_id: 0x1122_3344_5566_7788,
            segment: SegmentId(4),
            epoch: Epoch::new(3),
            max_payload: 64 << 10,
            batch_bytes_max: 1 << 20,
        }
    }

    fn seal() -> Seal {
        Seal {
            segment: SegmentId(2),
            length: 5000,
            last: Sequence(41),
            guard: 0xAABB_CCDD,
            take_over: true,
        }
    }

    #[test]
    fn a_header_reads_as_written() {
        let copy = decode_copy(&encode_copy(&claim(), Some(&seal())));
        assert_eq!((copy.claim, copy.seal), (Part::Valid(claim()), Part::Valid(seal())));
        let copy = decode_copy(&encode_copy(&claim(), None));
        assert_eq!((copy.claim, copy.seal), (Part::Valid(claim()), Part::Absent));
    }

    #[test]
    fn no_flip_of_one_or_two_bits_passes() {
        for seal in [None, Some(seal())] {
            let good = encode_copy(&claim(), seal.as_ref());
            let flips =
                |range: std::ops::Range<usize>| range.flat_map(|at| (0..8).map(move |b| (at, b)));
            for (at, bit) in flips(0..COPY) {
                let mut one = good;
                one[at] ^= 1 << bit;
                let read = decode_copy(&one);
                let as_before = decode_copy(&good);
                assert_ne!((read.claim, read.seal), (as_before.claim, as_before.seal));
                assert_ne!(read.claim, Part::Lost, "byte {at} bit {bit}");
                assert!(
                    !matches!(read.seal, Part::Valid(_))
                        || Some(read.seal) == seal.map(Part::Valid)
                );
                for (at, bit) in flips(0..120).step_by(7) {
                    let mut two = one;
                    two[at] ^= 1 << bit;
                    if two == good {
                        continue;
                    }
                    let read = decode_copy(&two);
                    assert_ne!((read.claim, read.seal), (as_before.claim, as_before.seal));
                    assert_ne!(read.claim, Part::Lost);
                }
            }
        }
    }

    #[test]
    fn a_write_cut_at_a_byte_is_never_corrupt() {
        let zero = [0; COPY];
        let claimed = encode_copy(&claim(), None);
        let sealed = encode_copy(&claim(), Some(&seal()));
        for (old, new) in [(zero, claimed), (claimed, sealed), (zero, sealed), (sealed, sealed)] {
            for cut in 0..=COPY {
                let mut torn = old;
                torn[..cut].copy_from_slice(&new[..cut]);
                let read = decode_copy(&torn);
                assert_ne!(read.claim, Part::Corrupt, "cut at {cut}");
                assert_ne!(read.seal, Part::Corrupt, "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut copy = encode_copy(&claim(), None);
        copy[8] = 2;
        assert_eq!(decode_copy(&copy).newer_version, None);
        let checksum = claim_checksum(&copy);
        copy[CLAIM_CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode_copy(&copy).newer_version, Some(2));
    }

    /// The table of FORMAT.md, over every pair of copies.
    #[test]
    fn two_copies_together() {
        let zero = decode_copy(&[0; COPY]);
        let claimed = decode_copy(&encode_copy(&claim(), None));
        let sealed = decode_copy(&encode_copy(&claim(), Some(&seal())));
        let torn_seal = {
            let mut copy = encode_copy(&claim(), Some(&seal()));
            copy[100..].fill(0);
            decode_copy(&copy)
        };
        let corrupt = {
            let mut copy = encode_copy(&claim(), Some(&seal()));
            copy[20] ^= 4;
            decode_copy(&copy)
        };
        let other = decode_copy(&encode_copy(&claim(), Some(&Seal { guard: 1, ..seal() })));
        // (copies, without a batch: clean, claim, seal, lost; with one: clean)
        let table = [
            ([zero, zero], true, false, false, 0, false),
            ([claimed, claimed], true, true, false, 0, false),
            ([claimed, zero], true, true, false, 1, false),
            ([zero, claimed], true, true, false, 1, false),
            ([sealed, sealed], true, true, true, 0, true),
            ([sealed, claimed], true, true, true, 0, false),
            ([torn_seal, claimed], true, true, false, 1, false),
            ([sealed, torn_seal], true, true, true, 1, false),
            ([sealed, zero], true, true, true, 1, false),
            ([zero, sealed], true, true, true, 1, false),
            ([sealed, corrupt], false, true, true, 0, false),
            ([corrupt, sealed], false, true, true, 0, false),
            ([corrupt, corrupt], false, false, false, 0, false),
            ([sealed, other], false, true, true, 0, false),
            ([corrupt, zero], false, false, false, 1, false),
        ];
        for (copies, clean, has_claim, has_seal, lost, clean_with_batch) in table {
            let header = Header::of(&copies, false);
            assert_eq!(header.damage.is_empty(), clean, "{copies:?}");
            assert_eq!(header.claim.is_some(), has_claim, "{copies:?}");
            assert_eq!(header.seal.is_some(), has_seal, "{copies:?}");
            assert_eq!(header.lost.iter().filter(|l| **l).count(), lost, "{copies:?}");
            let header = Header::of(&copies, true);
            assert_eq!(header.damage.is_empty(), clean_with_batch, "{copies:?}");
        }
        assert!(Header::of(&[zero, zero], false).abandoned);
    }
}
