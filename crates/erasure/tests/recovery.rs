//! Any `k` shards give back all `k + m`: checked for each scheme that the policy offers by default, and
//! for all others of up to 14 shards.
//!
//! | judge | what it decides |
//! |---|---|
//! | [`gf256`] | a plain codec over GF(2^8), of another field and another matrix: it must recover from the same losses to the same data, so that both agree on what can be recovered |
//! | [`definition`] | the library's parity, symbol by symbol, from the definition of its code: linear algebra over its field, none of its transforms |
//! | golden values | that the matrix stays what it is: parity is stored for years |
//!
//! The judge can object: given the matrix of the published implementation, powers of row numbers under
//! an identity, `gf256` finds the losses from which it does not recover.
//!
//! `ERASURE_ROUNDS` says how many random losses of each scheme above 14 shards are tried, and from 10,000
//! on every combination below: `cargo xtask recovery erasure`.

use base::prng::Key;
use erasure::{Codec, Config, Scheme, SchemePolicy};
use proptest::prelude::*;
use reed_solomon_simd::engine::{Naive, NoSimd};
use reed_solomon_simd::rate::{DefaultRateEncoder, RateEncoder};

/// Random losses of a scheme above 14 shards.
fn rounds() -> u64 {
    let rounds = std::env::var("ERASURE_ROUNDS").ok();
    rounds.map_or(200, |rounds| rounds.parse().expect("ERASURE_ROUNDS is a number"))
}

fn scheme(k: u16, m: u16) -> Scheme {
    Scheme::new(k, m).expect("these tests use schemes that exist")
}

fn offers() -> Vec<Scheme> {
    let policy = SchemePolicy::new(Config::default()).expect("the defaults fit together");
    policy.offers().into_iter().collect()
}

/// Data shards of random bytes.
fn data(scheme: Scheme, bytes: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut stream = Key::root(seed).child("erasure.test").stream();
    let mut shard = || (0..bytes).map(|_| stream.next_u64() as u8).collect();
    (0..scheme.data()).map(|_| shard()).collect()
}

/// All `k + m` shards by the library.
fn codeword(codec: &mut Codec, scheme: Scheme, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let parity = codec.encode(scheme, data).expect("it is data of this scheme");
    data.iter().cloned().chain(parity.iter().map(<[u8]>::to_vec)).collect()
}

/// Every set of `m` of `n` indexes, the lexically first one first.
fn combinations(n: u16, m: u16, mut each: impl FnMut(&[u16])) {
    let mut chosen: Vec<u16> = (0..m).collect();
    loop {
        each(&chosen);
        let movable = (0..usize::from(m)).rev().find(|&at| chosen[at] < n - m + at as u16);
        let Some(at) = movable else { return };
        chosen[at] += 1;
        for next in at + 1..usize::from(m) {
            chosen[next] = chosen[next - 1] + 1;
        }
    }
}

/// The two codecs recover everything from this loss, and agree.
fn recovers(
    codec: &mut Codec,
    scheme: Scheme,
    ours: &[Vec<u8>],
    plain: &gf256::Code,
    plains: &[Vec<u8>],
    lost: &[u16],
) {
    let kept = |index: &u16| !lost.contains(index);
    let left: Vec<u16> = (0..scheme.total()).filter(kept).collect();
    let present: Vec<(u16, &[u8])> =
        left.iter().map(|&index| (index, ours[usize::from(index)].as_slice())).collect();
    let rebuilt = codec.rebuild(scheme, &present, lost).expect("any k shards do");
    for (index, shard) in lost.iter().zip(&rebuilt) {
        assert_eq!(*shard, ours[usize::from(*index)], "{scheme}: shard {index} of losses {lost:?}");
    }
    let judged = plain.recover(&left, plains).expect("a Cauchy matrix recovers from any loss");
    assert_eq!(judged, ours[..usize::from(scheme.data())], "{scheme}: losses {lost:?}");
}

/// Every combination of `m` losses, for all schemes of up to 14 shards in a heavy run, and for those
/// on offer always.
#[test]
fn every_combination_of_m_losses_up_to_14_shards() {
    let mut codec = Codec::new();
    let heavy = rounds() >= 10_000;
    let (mut schemes, mut losses) = (0, 0u64);
    for k in 1..14 {
        for m in 1..=14 - k {
            let scheme = scheme(k, m);
            if !heavy && !offers().contains(&scheme) && (k, m) != (4, 3) && (k, m) != (10, 4) {
                continue;
            }
            let data = data(scheme, 6, u64::from(k) << 8 | u64::from(m));
            let ours = codeword(&mut codec, scheme, &data);
            let plain = gf256::Code::cauchy(k, m);
            let plains = plain.encode(&data);
            combinations(scheme.total(), m, |lost| {
                recovers(&mut codec, scheme, &ours, &plain, &plains, lost);
                losses += 1;
            });
            schemes += 1;
        }
    }
    println!("{schemes} schemes, {losses} losses");
    // Of 1..=14 choose k with each k from 1 to n - 1: the sum of 2^n - 2.
    let all = (2..=14).map(|n| (1u64 << n) - 2).sum::<u64>();
    assert!(if heavy { (schemes, losses) == (91, all) } else { losses > 4_000 });
}

#[test]
fn random_losses_above_14_shards() {
    let mut codec = Codec::new();
    let mut schemes = 0;
    for scheme in offers().into_iter().filter(|scheme| scheme.total() > 14) {
        let (k, m) = (scheme.data(), scheme.parity());
        let data = data(scheme, 6, u64::from(k) << 8 | u64::from(m));
        let ours = codeword(&mut codec, scheme, &data);
        let plain = gf256::Code::cauchy(k, m);
        let plains = plain.encode(&data);
        let mut stream = Key::root(7).child("losses").keyed(u64::from(m)).stream();
        for _ in 0..rounds() {
            let lost = stream.distinct(u32::from(m), u32::from(scheme.total()));
            let lost: Vec<u16> = lost.into_iter().map(|index| index as u16).collect();
            recovers(&mut codec, scheme, &ours, &plain, &plains, &lost);
        }
        schemes += 1;
    }
    assert!(schemes >= 4, "RS(16,6), (16,8), (16,12), (16,16)");
}

/// The published code failed here. And the judge sees that it does.
#[test]
fn the_published_codes_failures_are_not_ours() {
    let mut codec = Codec::new();
    for (k, m) in [(4, 3), (10, 4)] {
        let scheme = scheme(k, m);
        let data = data(scheme, 64, 1);
        let ours = codeword(&mut codec, scheme, &data);
        let cauchy = gf256::Code::cauchy(k, m);
        recovers(&mut codec, scheme, &ours, &cauchy, &cauchy.encode(&data), &[0, 1, 3]);

        // The published code does not recover from these, if parity shards 0, 1 and 2 are what is left.
        let published = gf256::Code::powers_under_an_identity(k, m);
        let lost: Vec<u16> = [0, 1, 3].into_iter().chain(k + 3..k + m).collect();
        let left: Vec<u16> = (0..k + m).filter(|index| !lost.contains(index)).collect();
        assert_eq!(left.len(), usize::from(k));
        assert_eq!(published.recover(&left, &published.encode(&data)), None, "RS({k},{m})");
        recovers(&mut codec, scheme, &ours, &cauchy, &cauchy.encode(&data), &lost);
    }
}

/// Symbol by symbol, for every scheme on offer and some of other shapes.
#[test]
fn parity_is_what_the_code_defines() {
    let mut codec = Codec::new();
    let others =
        [(1, 3), (3, 1), (3, 2), (2, 3), (5, 7), (7, 5), (10, 4), (4, 10), (9, 16), (33, 5)];
    for scheme in offers().into_iter().chain(others.map(|(k, m)| scheme(k, m))) {
        for bytes in [2, 4, 62, 64, 66, 130] {
            let data = data(scheme, bytes, bytes as u64);
            let parity = codec.encode(scheme, &data).unwrap();
            let parity: Vec<&[u8]> = parity.iter().collect();
            for symbol in 0..bytes / 2 {
                let word = |shard: &[u8]| definition::symbol(shard, symbol);
                let words: Vec<u16> = data.iter().map(|shard| word(shard)).collect();
                let expected = definition::parity(scheme.parity(), &words);
                let found: Vec<u16> = parity.iter().map(|shard| word(shard)).collect();
                assert_eq!(found, expected, "{scheme}, {bytes} bytes, symbol {symbol}");
            }
        }
    }
}

/// Machines without vector instructions make the same parity.
#[test]
fn every_instruction_set_makes_the_same_parity() {
    let mut codec = Codec::new();
    for scheme in offers() {
        let (k, m) = (usize::from(scheme.data()), usize::from(scheme.parity()));
        let data = data(scheme, 194, 3);
        let ours = codeword(&mut codec, scheme, &data);
        let mut plain = DefaultRateEncoder::new(k, m, 194, NoSimd::new(), None).unwrap();
        let mut naive = DefaultRateEncoder::new(k, m, 194, Naive::new(), None).unwrap();
        for shard in &data {
            plain.add_original_shard(shard).unwrap();
            naive.add_original_shard(shard).unwrap();
        }
        assert!(plain.encode().unwrap().recovery_iter().eq(&ours[k..]), "{scheme}");
        assert!(naive.encode().unwrap().recovery_iter().eq(&ours[k..]), "{scheme}");
    }
}

/// What is stored today must be readable with every later version.
#[test]
fn golden_parity() {
    let mut codec = Codec::new();
    let parity = |codec: &mut Codec, k: u16, m: u16| {
        let data: Vec<[u8; 2]> = (0..k).map(|index| [index as u8 + 1, 0xA0]).collect();
        let parity = codec.encode(scheme(k, m), &data).unwrap();
        parity.iter().flatten().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let got = [
        parity(&mut codec, 4, 2),
        parity(&mut codec, 4, 4),
        parity(&mut codec, 10, 4),
        parity(&mut codec, 16, 6),
    ];
    assert_eq!(got, GOLDEN);
}

const GOLDEN: [&str; 4] =
    ["0a000e00", "08a000a003a00fa0", "9cbc9bbc9a1c961c", "f0003900bb003100a7005500"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any shape, any even length, any set of at least `k` shards.
    #[test]
    fn any_k_of_any_shape(
        k in 1u16..40, m in 1u16..40, pairs in 1usize..100, seed in any::<u64>(), spare in 0u16..4
    ) {
        let scheme = scheme(k, m);
        let mut codec = Codec::new();
        let ours = codeword(&mut codec, scheme, &data(scheme, pairs * 2, seed));
        let kept = (k + spare).min(scheme.total());
        let mut stream = Key::root(seed).stream();
        let kept = stream.distinct(u32::from(kept), u32::from(scheme.total()));
        let present: Vec<(u16, &[u8])> =
            kept.iter().map(|&index| (index as u16, ours[index as usize].as_slice())).collect();
        let all: Vec<u16> = (0..scheme.total()).collect();
        prop_assert_eq!(codec.rebuild(scheme, &present, &all).unwrap(), ours);
    }
}

/// A codec of textbook arithmetic: GF(2^8) with the polynomial 0x11D, and Gaussian elimination.
mod gf256 {
    pub struct Code {
        /// A row for each of the `k + m` shards.
        rows: Vec<Vec<u8>>,
        k: usize,
    }

    fn mul(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b > 0 {
            if b & 1 == 1 {
                product ^= a;
            }
            let carry = a & 0x80;
            a <<= 1;
            if carry != 0 {
                a ^= 0x1D;
            }
            b >>= 1;
        }
        product
    }

    /// By Fermat: a^254.
    fn inverse(a: u8) -> u8 {
        assert_ne!(a, 0);
        (0..254).fold(1, |power, _| mul(power, a))
    }

    fn times(row: &[u8], shards: &[Vec<u8>]) -> Vec<u8> {
        let mut sum = vec![0; shards[0].len()];
        for (&factor, shard) in row.iter().zip(shards) {
            for (to, &byte) in sum.iter_mut().zip(shard) {
                *to ^= mul(factor, byte);
            }
        }
        sum
    }

    impl Code {
        fn new(k: u16, parity: Vec<Vec<u8>>) -> Code {
            let k = usize::from(k);
            let identity = (0..k).map(|row| (0..k).map(|col| u8::from(row == col)).collect());
            Code { rows: identity.chain(parity).collect(), k }
        }

        /// Parity rows 1 / (x + y) with different x and y: each square part of it is invertible.
        pub fn cauchy(k: u16, m: u16) -> Code {
            let row = |x: u16| (0..k).map(|y| inverse((x + k) as u8 ^ y as u8)).collect();
            Code::new(k, (0..m).map(row).collect())
        }

        /// What the published implementation does: parity row `i` holds `(i + 1)^j`.
        pub fn powers_under_an_identity(k: u16, m: u16) -> Code {
            let power = |base: u8, to: u16| (0..to).fold(1, |power, _| mul(power, base));
            let row = |i: u16| (0..k).map(|j| power(i as u8 + 1, j)).collect();
            Code::new(k, (0..m).map(row).collect())
        }

        pub fn encode(&self, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
            self.rows.iter().map(|row| times(row, data)).collect()
        }

        /// The data from the shards that are left, or none if their rows do not span it.
        pub fn recover(&self, left: &[u16], shards: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
            let (mut matrix, mut values): (Vec<Vec<u8>>, Vec<Vec<u8>>) = left
                .iter()
                .map(|&index| usize::from(index))
                .map(|index| (self.rows[index].clone(), shards[index].clone()))
                .unzip();
            for column in 0..self.k {
                let pivot = (column..matrix.len()).find(|&row| matrix[row][column] != 0)?;
                matrix.swap(column, pivot);
                values.swap(column, pivot);
                let factor = inverse(matrix[column][column]);
                for row in [&mut matrix[column], &mut values[column]] {
                    for byte in row.iter_mut() {
                        *byte = mul(*byte, factor);
                    }
                }
                let (pivot_row, pivot_value) = (matrix[column].clone(), values[column].clone());
                for row in (0..matrix.len()).filter(|&row| row != column) {
                    let factor = matrix[row][column];
                    for (to, &byte) in matrix[row].iter_mut().zip(&pivot_row) {
                        *to ^= mul(factor, byte);
                    }
                    for (to, &byte) in values[row].iter_mut().zip(&pivot_value) {
                        *to ^= mul(factor, byte);
                    }
                }
            }
            values.truncate(self.k);
            Some(values)
        }
    }
}

/// The library's code as its authors define it: Reed-Solomon over GF(2^16), elements written in a
/// Cantor basis (Lin, Chung, Han 2014), shard `i` of a codeword at the field's element `i`.
///
/// - Low rate: data at the points `0..c`, where `c` is `k` rounded up to a power of two and what is
///   missing is zero; parity at `c..c + m` is the polynomial of degree below `c` through them.
/// - High rate: parity at `0..c`, where `c` is `m` rounded up, data from `c` on; the word is orthogonal
///   to all polynomials of degree below `c`. Parity shards from `m` on exist and are not stored.
/// - Which of the two: the smaller part is rounded up; of equal ones, high rate unless `k > m`.
mod definition {
    const BASIS: [u16; 16] = [
        0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012, 0x6C98, 0x10D8, 0x6A72,
        0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E,
    ];

    /// The symbol at this place: 32 low bytes, then the 32 high ones; a shorter end likewise in halves.
    pub fn symbol(shard: &[u8], at: usize) -> u16 {
        let block = &shard[at / 32 * 64..shard.len().min(at / 32 * 64 + 64)];
        u16::from_le_bytes([block[at % 32], block[block.len() / 2 + at % 32]])
    }

    /// From coordinates in the Cantor basis to a polynomial over GF(2).
    fn element(coordinates: u16) -> u16 {
        (0..16).filter(|bit| coordinates >> bit & 1 == 1).fold(0, |sum, bit| sum ^ BASIS[bit])
    }

    /// By search through what a bit can change: the basis is one, so there is exactly one.
    fn coordinates(element: u16) -> u16 {
        // Gaussian elimination over GF(2), on 16 rows.
        let mut rows: Vec<(u16, u16)> =
            BASIS.iter().enumerate().map(|(bit, &value)| (value, 1 << bit)).collect();
        let (mut rest, mut found) = (element, 0);
        for bit in (0..16).rev() {
            let at = rows.iter().position(|(value, _)| value >> bit & 1 == 1);
            let (value, which) = rows.remove(at.expect("it is a basis"));
            for (other, combined) in &mut rows {
                if *other >> bit & 1 == 1 {
                    *other ^= value;
                    *combined ^= which;
                }
            }
            if rest >> bit & 1 == 1 {
                rest ^= value;
                found ^= which;
            }
        }
        assert_eq!(rest, 0);
        found
    }

    fn mul(a: u16, b: u16) -> u16 {
        let (mut product, mut a) = (0u32, u32::from(a));
        for bit in 0..16 {
            if b >> bit & 1 == 1 {
                product ^= a;
            }
            a <<= 1;
            if a & 0x1_0000 != 0 {
                a ^= 0x1_002D;
            }
        }
        product as u16
    }

    fn inverse(a: u16) -> u16 {
        assert_ne!(a, 0);
        // a^(2^16 - 2), the product of a^(2^i) for i from 1 to 15.
        let (mut power, mut product) = (a, 1);
        for _ in 1..16 {
            power = mul(power, power);
            product = mul(product, power);
        }
        product
    }

    pub fn parity(m: u16, data: &[u16]) -> Vec<u16> {
        let (k, m) = (data.len(), usize::from(m));
        let data: Vec<u16> = data.iter().map(|&word| element(word)).collect();
        let (k2, m2) = (k.next_power_of_two(), m.next_power_of_two());
        let high = k2 > m2 || (k2 == m2 && k <= m);
        let values = if high { high_rate(m2, m, &data) } else { low_rate(k2, m, &data) };
        values.into_iter().map(coordinates).collect()
    }

    fn point(at: usize) -> u16 {
        element(at as u16)
    }

    /// Lagrange's formula.
    fn low_rate(c: usize, m: usize, data: &[u16]) -> Vec<u16> {
        let value = |x: u16| {
            let mut sum = 0;
            for (at, &word) in data.iter().enumerate() {
                let mut term = word;
                for other in (0..c).filter(|&other| other != at) {
                    term = mul(term, x ^ point(other));
                    term = mul(term, inverse(point(at) ^ point(other)));
                }
                sum ^= term;
            }
            sum
        };
        (c..c + m).map(point).map(value).collect()
    }

    /// Solves `sum of parity[j] * x_j^t = sum of data[i] * x_i^t` for all `t` below `c`.
    fn high_rate(c: usize, m: usize, data: &[u16]) -> Vec<u16> {
        let power = |x: u16, t: usize| (0..t).fold(1, |power, _| mul(power, x));
        let mut rows: Vec<Vec<u16>> = (0..c)
            .map(|t| {
                let known = data.iter().enumerate();
                let sum = known.fold(0, |sum, (i, &w)| sum ^ mul(w, power(point(c + i), t)));
                (0..c).map(|j| power(point(j), t)).chain([sum]).collect()
            })
            .collect();
        for column in 0..c {
            let pivot = (column..c).find(|&row| rows[row][column] != 0).expect("Vandermonde");
            rows.swap(column, pivot);
            let factor = inverse(rows[column][column]);
            rows[column].iter_mut().for_each(|value| *value = mul(*value, factor));
            let pivot = rows[column].clone();
            for row in (0..c).filter(|&row| row != column) {
                let factor = rows[row][column];
                for (to, &value) in rows[row].iter_mut().zip(&pivot) {
                    *to ^= mul(factor, value);
                }
            }
        }
        rows.iter().take(m).map(|row| row[c]).collect()
    }
}
