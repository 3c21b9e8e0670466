use crate::Holder;
use base::prng::{Key, Stream};
use base::{Ratio, ShardId};
use std::fmt;

const WORDS: usize = 16;

/// 1,024 trits, each -1, 0 or +1.
///
/// Kept as two planes of bits: which trits are not zero, and which are below it. Random vectors of
/// this width are nearly orthogonal to each other, so a comparison by cosine tells one from all
/// others, and still knows it when a part of its trits is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hypervector {
    nonzero: [u64; WORDS],
    /// A trit that is zero has no sign.
    negative: [u64; WORDS],
}

impl Hypervector {
    /// How many trits it has.
    pub const TRITS: u32 = 1_024;
    /// How many bytes [`Hypervector::to_bytes`] gives.
    pub const BYTES: usize = 256;

    /// Random trits, each of the three values equally often: an item, such as a shard.
    #[must_use]
    pub fn item(key: &Key) -> Hypervector {
        let mut stream = key.stream();
        let mut vector = Hypervector { nonzero: [0; WORDS], negative: [0; WORDS] };
        for (nonzero, negative) in vector.nonzero.iter_mut().zip(&mut vector.negative) {
            // Two bits are one of four values; trits that drew the fourth draw again.
            let mut lanes = u64::MAX;
            while lanes != 0 {
                let (one, two) = (stream.next_u64(), stream.next_u64());
                let drawn = lanes & !(one & two);
                *nonzero |= drawn & (one ^ two);
                *negative |= drawn & two & !one;
                lanes &= !drawn;
            }
        }
        vector
    }

    /// Random trits without zeros: a key. Whatever is bound to it is unbound exactly.
    #[must_use]
    pub fn key(key: &Key) -> Hypervector {
        let mut stream: Stream = key.stream();
        Hypervector {
            nonzero: [u64::MAX; WORDS],
            negative: std::array::from_fn(|_| stream.next_u64()),
        }
    }

    /// The product, trit by trit. It looks like neither of the two.
    #[must_use]
    pub fn bind(&self, other: &Hypervector) -> Hypervector {
        let nonzero: [u64; WORDS] = std::array::from_fn(|at| self.nonzero[at] & other.nonzero[at]);
        let negative =
            std::array::from_fn(|at| (self.negative[at] ^ other.negative[at]) & nonzero[at]);
        Hypervector { nonzero, negative }
    }

    /// What was bound to `key`: binding once more, since the square of -1 and of +1 is +1. Exact
    /// where `key` has no zeros.
    #[must_use]
    pub fn unbind(&self, key: &Hypervector) -> Hypervector {
        self.bind(key)
    }

    /// The sum of the products, from -1,024 to 1,024.
    #[must_use]
    pub fn dot(&self, other: &Hypervector) -> i64 {
        let product = self.bind(other);
        let ones =
            |plane: &[u64; WORDS]| plane.iter().map(|word| i64::from(word.count_ones())).sum();
        let (all, negative): (i64, i64) = (ones(&product.nonzero), ones(&product.negative));
        all - 2 * negative
    }

    /// How many trits are not zero: the square of the length.
    #[must_use]
    pub fn norm_squared(&self) -> u64 {
        self.nonzero.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether the cosine of the angle between the two is at least `threshold`, exactly: squares are
    /// compared, and nothing is rounded. A vector of zeros is like none, itself included.
    #[must_use]
    pub fn similar(&self, other: &Hypervector, threshold: Ratio) -> bool {
        let dot = self.dot(other);
        let lengths = self.norm_squared() * other.norm_squared();
        if lengths == 0 || dot < 0 {
            return false;
        }
        let square = |number: u64| u128::from(number) * u128::from(number);
        let parts = u64::from(threshold.parts_per_million());
        square(dot.unsigned_abs()) * square(1_000_000) >= square(parts) * u128::from(lengths)
    }

    /// The trit at a place below [`Hypervector::TRITS`].
    ///
    /// # Panics
    /// Beyond.
    #[must_use]
    pub fn trit(&self, at: u32) -> i8 {
        let (word, bit) = (at as usize / 64, at % 64);
        let set = |plane: &[u64; WORDS]| (plane[word] >> bit & 1) as i8;
        set(&self.nonzero) - 2 * set(&self.negative)
    }

    /// The same with another trit at a place below [`Hypervector::TRITS`]: above zero, below it, or
    /// zero.
    ///
    /// # Panics
    /// Beyond.
    #[must_use]
    pub fn with_trit(mut self, at: u32, trit: i8) -> Hypervector {
        let (word, bit) = (at as usize / 64, 1 << (at % 64));
        self.nonzero[word] &= !bit;
        self.negative[word] &= !bit;
        if trit != 0 {
            self.nonzero[word] |= bit;
        }
        if trit < 0 {
            self.negative[word] |= bit;
        }
        self
    }

    /// Its bytes: the plane of what is not zero, then the plane of what is below it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Hypervector::BYTES] {
        let mut bytes = [0; Hypervector::BYTES];
        let words = self.nonzero.iter().chain(&self.negative);
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The vector that has these bytes; `None` if one of its zeros has a sign.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Hypervector::BYTES]) -> Option<Hypervector> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let nonzero: [u64; WORDS] = std::array::from_fn(word);
        let negative: [u64; WORDS] = std::array::from_fn(|at| word(WORDS + at));
        let sound =
            nonzero.iter().zip(&negative).all(|(nonzero, negative)| negative & !nonzero == 0);
        sound.then_some(Hypervector { nonzero, negative })
    }
}

impl fmt::Debug for Hypervector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hypervector({:016x}…, {} not zero)", self.negative[0], self.norm_squared())
    }
}

/// The vectors of shards and holders, by their names.
///
/// Each has a domain of its own, so `(shard 1, holder 2)` and `(shard 2, holder 1)` have nothing in
/// common, as their exclusive-or has. Every bit of a name counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vectors {
    shards: Key,
    holders: Key,
}

impl Vectors {
    /// Those of one key. Tables of different keys do not know each other's tags.
    #[must_use]
    pub fn new(key: &Key) -> Vectors {
        Vectors { shards: key.child("locks.shard"), holders: key.child("locks.holder") }
    }

    /// A shard's: an item, a third of it zeros.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Hypervector {
        Hypervector::item(&named(self.shards, &shard.0))
    }

    /// A holder's: a key, without zeros.
    #[must_use]
    pub fn holder(&self, holder: Holder) -> Hypervector {
        Hypervector::key(&named(self.holders, &holder.node.0).keyed(holder.operation))
    }

    /// What a grant carries.
    #[must_use]
    pub fn tag(&self, shard: ShardId, holder: Holder) -> Hypervector {
        self.shard(shard).bind(&self.holder(holder))
    }

    /// Whether `tag` is that of this shard and this holder: unbound from the holder it has to be
    /// like the shard.
    #[must_use]
    pub fn verify(
        &self,
        tag: &Hypervector,
        shard: ShardId,
        holder: Holder,
        threshold: Ratio,
    ) -> bool {
        tag.unbind(&self.holder(holder)).similar(&self.shard(shard), threshold)
    }
}

fn named(key: Key, name: &[u8; 32]) -> Key {
    name.chunks_exact(8).fold(key, |key, word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        key.keyed(u64::from_le_bytes(bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::NodeName;
    use proptest::prelude::*;

    fn trits(vector: &Hypervector) -> Vec<i32> {
        (0..Hypervector::TRITS).map(|at| i32::from(vector.trit(at))).collect()
    }

    /// The judge multiplies small numbers and takes roots in floating point.
    fn cosine(one: &[i32], two: &[i32]) -> f64 {
        let dot = |one: &[i32], two: &[i32]| -> f64 {
            one.iter().zip(two).map(|(a, b)| f64::from(a * b)).sum()
        };
        dot(one, two) / (dot(one, one).sqrt() * dot(two, two).sqrt())
    }

    #[test]
    fn trits_come_equally_often_and_keys_have_no_zeros() {
        let mut counts = [0u32; 3];
        for number in 0..200 {
            for trit in trits(&Hypervector::item(&Key::root(number))) {
                counts[(trit + 1) as usize] += 1;
            }
        }
        // 204,800 trits: a third each, within four standard deviations (853).
        assert!(counts.iter().all(|count| count.abs_diff(68_267) < 853), "{counts:?}");
        assert_eq!(Hypervector::key(&Key::root(1)).norm_squared(), 1_024);
    }

    #[test]
    fn exchanged_and_combined_names_do_not_collide() {
        let vectors = Vectors::new(&Key::root(1));
        let holder = |number| Holder { node: NodeName::numbered(number), operation: 0 };
        let tag = |shard, node| vectors.tag(ShardId::numbered(shard), holder(node));
        // By exclusive-or, each of these is 3.
        let pairs = [(1, 2), (2, 1), (3, 0), (0, 3), (5, 6), (7, 4)];
        for (at, one) in pairs.iter().enumerate() {
            for two in &pairs[at + 1..] {
                let (one, two) = (tag(one.0, one.1), tag(two.0, two.1));
                assert!(!one.similar(&two, Ratio::percent(20)));
            }
        }
        // Only the last byte of the name is another.
        let (mut near, far) = (ShardId::numbered(1), ShardId::numbered(1));
        near.0[31] = 1;
        let (one, two) = (vectors.tag(near, holder(1)), vectors.tag(far, holder(1)));
        assert!(!one.similar(&two, Ratio::percent(20)));
    }

    #[test]
    fn the_threshold_is_exact() {
        // 20 of 20 trits against 17 of them and 3 of the other sign: 14/20.
        let zero = Hypervector { nonzero: [0; WORDS], negative: [0; WORDS] };
        let one = (0..20).fold(zero, |vector, at| vector.with_trit(at, 1));
        let two = (0..3).fold(one, |vector, at| vector.with_trit(at, -1));
        assert!(one.similar(&two, Ratio::percent(70)));
        assert!(!one.similar(&two, Ratio::per_million(700_001)));
        assert!(!zero.similar(&zero, Ratio::ZERO));
        let minus = (0..20).fold(zero, |vector, at| vector.with_trit(at, -1));
        assert!(!one.similar(&minus, Ratio::percent(85)), "the square of a cosine has no sign");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn it_computes_what_small_numbers_do(a in any::<u64>(), b in any::<u64>(), parts in 0..=1_000_000u32) {
            let (item, key) = (Hypervector::item(&Key::root(a)), Hypervector::key(&Key::root(b)));
            let bound = item.bind(&key);
            prop_assert_eq!(bound.unbind(&key), item);
            let product: Vec<i32> =
                trits(&item).iter().zip(trits(&key)).map(|(one, two)| one * two).collect();
            prop_assert_eq!(trits(&bound), product);
            prop_assert_eq!(Hypervector::from_bytes(&bound.to_bytes()), Some(bound));
            // Mixed with itself at some places, so that the angles are not all right ones.
            let mixed = (0..Hypervector::TRITS).filter(|at| b >> (at % 61) & 1 == 0);
            let mixed = mixed.fold(item, |vector, at| vector.with_trit(at, bound.trit(at)));
            let exact = cosine(&trits(&item), &trits(&mixed));
            let threshold = f64::from(parts) / 1e6;
            if (exact - threshold).abs() > 1e-9 {
                let similar = item.similar(&mixed, Ratio::per_million(parts));
                prop_assert_eq!(similar, exact > threshold);
            }
        }
    }
}
