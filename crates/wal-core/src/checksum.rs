//! CRC-32C, of some bytes and of each of many sectors.

use crate::segment::SECTOR;

/// The CRC-32C of some bytes.
///
/// Of two implementations the one that is faster on this processor: crc-fast takes half the other's time with
/// AVX-512 and its carry-less multiplication, and a third more where an x86 has none.
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as detected;
        if !(detected!("avx512vl") && detected!("vpclmulqdq")) {
            return ::crc32c::crc32c(bytes);
        }
    }
    crc_fast::crc32_iscsi(bytes)
}

/// The bytes of a whole sector.
pub(crate) type Sector = [u8; SECTOR as usize];

/// Tells the CRC-32C of each of some sectors, in order: four in about the time of one.
#[inline]
pub(crate) fn each_sector(sectors: &[Sector], mut tell: impl FnMut(u32)) {
    let (fours, rest) = sectors.as_chunks::<4>();
    for four in fours {
        side_by_side(four.each_ref().map(|sector| &sector[..])).into_iter().for_each(&mut tell);
    }
    match rest {
        [] => {}
        [a] => side_by_side([&a[..]]).into_iter().for_each(tell),
        [a, b] => side_by_side([&a[..], b]).into_iter().for_each(tell),
        [a, b, c, ..] => side_by_side([&a[..], b, c]).into_iter().for_each(tell),
    }
}

/// The CRC-32C of each of `N` parts.
///
/// Each step of a checksum waits for the step before. Where a processor has an instruction for it, it can do
/// three or four steps of others meanwhile.
#[inline]
pub(crate) fn side_by_side<const N: usize>(parts: [&[u8]; N]) -> [u32; N] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        #[expect(
            unsafe_code,
            reason = "the only way to an instruction that not every processor has"
        )]
        // SAFETY: what the function asks for is the instruction, and the line above has found it here.
        return unsafe { by_instruction(parts) };
    }
    parts.map(crc32c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn by_instruction<const N: usize>(parts: [&[u8]; N]) -> [u32; N] {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    const LINE: usize = 64;
    let parts = parts.map(|part| part.as_chunks::<LINE>());
    let mut checksums = [u64::from(u32::MAX); N];
    // As far as all of them go, then each one's rest.
    let all = parts.iter().map(|(lines, _)| lines.len()).min().unwrap_or(0);
    for at in 0..all {
        let lines = parts.map(|(lines, _)| lines[at].as_chunks::<8>().0);
        for word in 0..LINE / 8 {
            for (checksum, words) in checksums.iter_mut().zip(lines) {
                *checksum = _mm_crc32_u64(*checksum, u64::from_le_bytes(words[word]));
            }
        }
    }
    for (checksum, (lines, rest)) in checksums.iter_mut().zip(parts) {
        let (words, bytes) = rest.as_chunks();
        for word in lines[all..].as_flattened().as_chunks().0.iter().chain(words) {
            *checksum = _mm_crc32_u64(*checksum, u64::from_le_bytes(*word));
        }
        for byte in bytes {
            // The instruction leaves the upper half zero.
            *checksum = u64::from(_mm_crc32_u8(*checksum as u32, *byte));
        }
    }
    checksums.map(|checksum| !(checksum as u32))
}

/// Checksums of sectors of a file that were computed already, each sector's behind the one's before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KnownSectors<'a> {
    /// The number of the first one's sector in its file.
    pub first: u64,
    pub checksums: &'a [u32],
}

impl<'a> KnownSectors<'a> {
    /// Those of `count` sectors from `first` on, if all of them are known.
    pub(crate) fn get(self, first: u64, count: usize) -> Option<&'a [u32]> {
        let from = usize::try_from(first.checked_sub(self.first)?).ok()?;
        self.checksums.get(from..from.checked_add(count)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_formats_whatever_the_length_and_the_alignment() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(b""), 0);
        let bytes: Vec<u8> = (0..5_000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        // Whichever this processor takes.
        let implementations: [fn(&[u8]) -> u32; 3] =
            [crc32c, crc_fast::crc32_iscsi, ::crc32c::crc32c];
        for from in [0, 1, 3, 8, 13] {
            for len in (0..600).chain((600..4_900).step_by(97)) {
                let part = &bytes[from..from + len];
                let wanted = bit_by_bit(part);
                for implementation in implementations {
                    assert_eq!(implementation(part), wanted, "{len} bytes from {from} on");
                }
            }
        }
    }

    /// As the polynomial defines it.
    fn bit_by_bit(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |checksum, &byte| {
            (0..8).fold(checksum ^ u32::from(byte), |checksum, _| {
                let polynomial = if checksum & 1 == 1 { 0x82F6_3B78 } else { 0 };
                checksum >> 1 ^ polynomial
            })
        })
    }

    #[test]
    fn parts_side_by_side_have_their_own_checksums_whatever_their_lengths() {
        let bytes: Vec<u8> = (0..2_000_u32).map(|i| ((i * i) >> 2) as u8).collect();
        let lengths = [0, 1, 7, 8, 9, 63, 64, 300, 511, 512, 700];
        for a in lengths {
            for b in lengths {
                let parts = [&bytes[3..3 + a], &bytes[700..700 + b], &bytes[20..90]];
                assert_eq!(side_by_side(parts), parts.map(bit_by_bit), "{a} and {b} bytes");
            }
        }
    }

    #[test]
    fn each_sector_has_its_own_checksum_however_many_there_are() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| ((i * i) >> 2) as u8).collect();
        for from in [0, 1, 100, 511] {
            for count in 0..=13 {
                let sectors = &bytes[from..].as_chunks::<{ SECTOR as usize }>().0[..count];
                let mut told = Vec::new();
                each_sector(sectors, |checksum| told.push(checksum));
                let wanted: Vec<u32> = sectors.iter().map(|sector| bit_by_bit(sector)).collect();
                assert_eq!(told, wanted, "{count} sectors from byte {from} on");
            }
        }
    }
}
