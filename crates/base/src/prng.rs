//! Keyed randomness: an answer is a function of the key, the entity asked about and how often it was
//! asked before, never of what else was drawn. After one more fault in a plan every other message
//! keeps its fate.
//!
//! [`Key::root`] turns a seed into a key with ChaCha8, [`Key::child`] derives one key per purpose
//! ("net.loss", "disk"), also with ChaCha8; both are cold. [`Key::draw`] is hot (several per simulated
//! message) and mixes the key with its two arguments by two rounds of a 64 x 64 -> 128 bit multiply;
//! it is not for secrets. What each gives is pinned by golden tests; [`DERIVATION_VERSION`] is stored
//! in every file that repeats a failure.

use rand::SeedableRng;
use rand::rand_core::Rng;
use rand_chacha::ChaCha8Rng;

/// The version of the derivation of keys and draws. It changes when any golden value below does.
pub const DERIVATION_VERSION: u32 = 1;

/// A key: one purpose's source of draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 4]);

impl Key {
    /// The key of a whole run.
    #[must_use]
    pub fn root(seed: u64) -> Key {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..24].copy_from_slice(b"trinity root key");
        Key::from_chacha(bytes)
    }

    /// The key of one purpose within this one, named by a path such as `"disk.sync"`.
    #[must_use]
    pub fn child(&self, path: &str) -> Key {
        let mut key = *self;
        for chunk in path.as_bytes().chunks(16) {
            let mut bytes = key.bytes();
            for (at, byte) in chunk.iter().enumerate() {
                bytes[at] ^= byte;
            }
            bytes[31] ^= 0x80 | chunk.len() as u8;
            key = Key::from_chacha(bytes);
        }
        key
    }

    /// The key of one of many numbered things within this one.
    #[must_use]
    pub fn keyed(&self, number: u64) -> Key {
        let mut bytes = self.bytes();
        for (at, byte) in number.to_le_bytes().into_iter().enumerate() {
            bytes[at] ^= byte;
        }
        // No path does this: see `child`.
        bytes[30] ^= 0xFF;
        Key::from_chacha(bytes)
    }

    /// The draw for `entity` (a node, a link, an operation) at its `occurrence`-th time of asking.
    #[must_use]
    #[inline]
    pub fn draw(&self, entity: u64, occurrence: u64) -> Draw {
        let [k0, k1, k2, k3] = self.0;
        let first = fold(entity ^ k0, occurrence ^ k1);
        Draw(fold(first ^ k2, entity.rotate_left(32) ^ occurrence ^ k3))
    }

    /// A sequential stream for cold uses (building a plan), where the draws belong together.
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream(ChaCha8Rng::from_seed(self.bytes()))
    }

    fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (part, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_chacha(seed: [u8; 32]) -> Key {
        let [first, second, third, fourth, ..] = chacha8_block(seed);
        Key([first, second, third, fourth])
    }
}

/// Both halves of the 128-bit product, xored. The odd constants keep a zero on one side from
/// swallowing the other.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9E37_79B9_7F4A_7C15) * u128::from(b ^ 0xD1B5_4A32_D192_ED03);
    (product as u64) ^ (product >> 64) as u64 ^ a.rotate_left(29) ^ b
}

/// One keyed draw: 64 bits, and more by [`Draw::nth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(u64);

impl Draw {
    /// The 64 bits.
    #[must_use]
    #[inline]
    pub fn u64(&self) -> u64 {
        self.0
    }

    /// A number below `bound`, by a widening multiply (its bias is at most `bound` / 2^64).
    ///
    /// # Panics
    /// If `bound` is 0: there is no such number.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        ((u128::from(self.0) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// If `low` is above `high`.
    #[must_use]
    pub fn between(&self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range");
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.0,
        }
    }

    /// A further draw of the same question: independent bits for another use of the same occasion.
    #[must_use]
    #[inline]
    pub fn nth(&self, n: u64) -> Draw {
        Draw(fold(self.0, n.wrapping_mul(0xA24B_AED4_963E_E407) ^ 0x9FB2_1C65_1E98_DF25))
    }
}

/// A sequential source, for cold uses where the draws belong together.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// The next 128 bits.
    pub fn next_u128(&mut self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }

    /// The next draw.
    pub fn draw(&mut self) -> Draw {
        Draw(self.next_u64())
    }

    /// A number below `bound`: see [`Draw::below`].
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw().below(bound)
    }

    /// A number in `low..=high`: see [`Draw::between`].
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.draw().between(low, high)
    }

    /// `count` different numbers below `bound`, in the order drawn.
    ///
    /// # Panics
    /// If `count` is above `bound`.
    pub fn distinct(&mut self, count: u32, bound: u32) -> Vec<u32> {
        assert!(count <= bound, "cannot draw {count} different numbers below {bound}");
        // Floyd's algorithm: no rejection, and O(count) draws.
        let mut chosen: Vec<u32> = Vec::with_capacity(count as usize);
        for top in bound - count..bound {
            let pick = self.below(u64::from(top) + 1) as u32;
            chosen.push(if chosen.contains(&pick) { top } else { pick });
        }
        chosen
    }
}

/// A 128-bit value that depends on every bit of `key` and on `a` and `b`: the idempotency tokens'
/// hash. ChaCha8 keyed with the operation's nonce is a pseudo-random function of (a, b).
#[must_use]
pub fn keyed_hash(key: u128, a: u64, b: u64) -> u128 {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&key.to_le_bytes());
    seed[16..24].copy_from_slice(&a.to_le_bytes());
    seed[24..].copy_from_slice(&b.to_le_bytes());
    let [low, high, ..] = chacha8_block(seed);
    u128::from(low) | u128::from(high) << 64
}

/// What a `ChaCha8Rng` of that seed begins with. The crate makes four blocks at a time and a buffer for
/// them, to give out a long stream; of a key or a token one block is used, and a definition's fingerprint
/// is a chain of a hundred.
///
/// Source: Bernstein, *ChaCha, a variant of Salsa20*; block 0, nonce 0.
#[inline(always)]
fn chacha8_block(seed: [u8; 32]) -> [u64; 8] {
    type Row = [u32; 4];
    #[inline(always)]
    fn add_xor_rotate<const LEFT: u32>(to: &mut Row, from: &Row, mixed: &mut Row) {
        for ((to, from), mixed) in to.iter_mut().zip(from).zip(mixed) {
            *to = to.wrapping_add(*from);
            *mixed = (*mixed ^ *to).rotate_left(LEFT);
        }
    }
    #[inline(always)]
    fn quarter_rounds([a, b, c, d]: &mut [Row; 4]) {
        add_xor_rotate::<16>(a, b, d);
        add_xor_rotate::<12>(c, d, b);
        add_xor_rotate::<8>(a, b, d);
        add_xor_rotate::<7>(c, d, b);
    }
    #[inline(always)]
    fn double_round(mut rows: [Row; 4]) -> [Row; 4] {
        quarter_rounds(&mut rows);
        // The diagonals, as columns.
        let [a, [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]] = rows;
        rows = [a, [b1, b2, b3, b0], [c2, c3, c0, c1], [d3, d0, d1, d2]];
        quarter_rounds(&mut rows);
        let [a, [b1, b2, b3, b0], [c2, c3, c0, c1], [d3, d0, d1, d2]] = rows;
        [a, [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]]
    }
    let word = |at: usize| u32::from_le_bytes([seed[at], seed[at + 1], seed[at + 2], seed[at + 3]]);
    let begin: [Row; 4] = [
        [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574],
        [word(0), word(4), word(8), word(12)],
        [word(16), word(20), word(24), word(28)],
        [0; 4],
    ];
    // Not a loop: of the last round only what is used is computed.
    let rows = double_round(double_round(double_round(double_round(begin))));
    std::array::from_fn(|pair| {
        let (row, at) = (pair / 2, pair % 2 * 2);
        let word = |at: usize| u64::from(rows[row][at].wrapping_add(begin[row][at]));
        word(at) | word(at + 1) << 32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes one of these changes [`DERIVATION_VERSION`] too: old repeat files depend on them.
    #[test]
    fn golden_values() {
        let root = Key::root(1);
        let child = root.child("net.loss");
        let mut stream = child.stream();
        let got = [
            root.0[0],
            child.0[0],
            root.child("a path of more than sixteen bytes").0[0],
            child.draw(0, 0).u64(),
            child.draw(599, 1 << 40).u64(),
            child.draw(599, 1 << 40).nth(3).u64(),
            stream.next_u64(),
            keyed_hash(1, 2, 3) as u64,
        ];
        assert_eq!(got, GOLDEN, "{got:#018x?}");
    }

    #[test]
    fn a_block_is_what_the_stream_begins_with() {
        let mut seeds = Key::root(7).stream();
        for _ in 0..1_000 {
            let mut seed = [0; 32];
            for part in seed.as_chunks_mut::<8>().0 {
                *part = seeds.next_u64().to_le_bytes();
            }
            let mut stream = ChaCha8Rng::from_seed(seed);
            assert_eq!(chacha8_block(seed), std::array::from_fn(|_| stream.next_u64()));
        }
    }

    const GOLDEN: [u64; 8] = [
        0xd46d_c44c_5aa7_9c9d,
        0x7689_dd32_ea56_4da7,
        0xafba_a0c3_e363_4ae2,
        0xc2e7_fe5e_108c_ffc4,
        0x89c6_19a5_608d_1dab,
        0x56c5_7fce_f390_2f16,
        0x9623_1ab8_1b61_8ba9,
        0x2a47_f3da_31e7_3396,
    ];

    #[test]
    fn paths_do_not_collide_by_splitting() {
        let root = Key::root(9);
        assert_ne!(root.child("ab"), root.child("a").child("b"));
        assert_ne!(root.child(""), root.child("a"));
        assert_ne!(root.keyed(0), root.keyed(1));
        assert_ne!(root.keyed(0x61), root.child("a"));
        assert_ne!(root.child("0123456789abcdef"), root.child("0123456789abcdef\0"));
    }

    /// Chi-squared over neighbouring questions: every bit of a draw is set about half the time, and
    /// neighbours differ in about half their bits.
    #[test]
    fn draws_of_neighbouring_questions_are_unlike() {
        let key = Key::root(3).child("test");
        let mut set = [0u32; 64];
        let mut flips = 0u64;
        let n = 20_000u64;
        for i in 0..n {
            let a = key.draw(i % 600, i / 600);
            let b = key.draw(i % 600, i / 600 + 1);
            flips += u64::from((a.u64() ^ b.u64()).count_ones());
            for (bit, count) in set.iter_mut().enumerate() {
                *count += (a.u64() >> bit & 1) as u32;
            }
        }
        for count in set {
            assert!((9_600..=10_400).contains(&count), "{set:?}");
        }
        assert!((31 * n..=33 * n).contains(&flips), "{flips}");
    }

    #[test]
    fn distinct_numbers_are_distinct_and_reach_the_ends() {
        let mut stream = Key::root(4).stream();
        for _ in 0..200 {
            let mut drawn = stream.distinct(8, 9);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), 8);
        }
        assert_eq!(stream.distinct(0, 0), []);
    }

    #[test]
    fn a_range_reaches_both_ends() {
        let mut seen = [false; 3];
        let key = Key::root(5);
        for i in 0..100 {
            seen[(key.draw(i, 0).between(10, 12) - 10) as usize] = true;
        }
        assert_eq!(seen, [true; 3]);
        assert_eq!(key.draw(1, 1).between(0, u64::MAX), key.draw(1, 1).u64());
    }
}
