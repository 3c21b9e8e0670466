//! CRC-32C, and what lets one pass over a batch stand for one over each of its sectors.

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

/// The CRC-32C of a whole sector behind bytes that have the CRC-32C `before`, the sector's own being
/// `sector`.
#[inline]
pub(crate) fn behind(before: u32, sector: u32) -> u32 {
    let [a, b, c, d] = before.to_le_bytes().map(usize::from);
    let [of_a, of_b, of_c, of_d] = &BEHIND_SECTOR;
    of_a[a] ^ of_b[b] ^ of_c[c] ^ of_d[d] ^ sector
}

/// What each byte of a CRC-32C becomes, in its place, when a sector of zeros follows. A CRC is linear: the
/// four together are what the checksum becomes.
static BEHIND_SECTOR: [[u32; 256]; 4] = {
    let zeros = behind_sector();
    let mut tables = [[0; 256]; 4];
    let mut place = 0;
    while place < 4 {
        let mut byte = 0;
        while byte < 256 {
            tables[place][byte] = times(&zeros, (byte as u32) << (8 * place));
            byte += 1;
        }
        place += 1;
    }
    tables
};

/// As a matrix: what each bit of a CRC-32C becomes when a sector of zeros follows.
const fn behind_sector() -> [u32; 32] {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    // One zero bit: a shift, and the polynomial if a one falls out.
    let mut zeros = [0; 32];
    zeros[0] = POLYNOMIAL;
    let mut bit = 1;
    while bit < 32 {
        zeros[bit] = 1 << (bit - 1);
        bit += 1;
    }
    let mut bits = 1;
    while bits < 8 * SECTOR {
        let mut twice = [0; 32];
        let mut bit = 0;
        while bit < 32 {
            twice[bit] = times(&zeros, zeros[bit]);
            bit += 1;
        }
        zeros = twice;
        bits *= 2;
    }
    zeros
}

const fn times(matrix: &[u32; 32], vector: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 32 {
        if vector >> bit & 1 == 1 {
            sum ^= matrix[bit];
        }
        bit += 1;
    }
    sum
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
    fn the_sectors_checksums_are_that_of_all() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| ((i * 7) >> 2) as u8).collect();
        for before in [0, 1, 100, 511, 512, 700] {
            let mut checksum = crc32c(&bytes[..before]);
            for sector in bytes[before..].as_chunks::<{ SECTOR as usize }>().0 {
                checksum = behind(checksum, crc32c(sector));
            }
            let whole = (bytes.len() - before) / SECTOR as usize * SECTOR as usize;
            assert_eq!(checksum, crc32c(&bytes[..before + whole]));
        }
    }
}
