use std::fmt;

/// How a codeword is made: `k` data shards and `m` parity shards. Any `k` of the `k + m` give the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheme {
    data: u16,
    parity: u16,
}

/// No scheme has these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no scheme has {data} data and {parity} parity shards: both must be at least 1, and together at \
     most {}",
    Scheme::SHARDS_MAX
)]
pub struct SchemeError {
    /// How many data shards were asked for.
    pub data: u16,
    /// How many parity shards were asked for.
    pub parity: u16,
}

/// The shards and the padding do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// There are more or fewer than `k` data shards.
    #[error("{found} data shards where the scheme has {expected}")]
    Count {
        /// `k`.
        expected: u16,
        /// How many there are.
        found: u64,
    },
    /// The shards have different lengths.
    #[error("data shard {index} has another length than the first")]
    Length {
        /// The first that differs.
        index: u16,
    },
    /// More padding than there are bytes.
    #[error("{padding} bytes of padding in {bytes} bytes of data shards")]
    Padding {
        /// What was recorded as padding, in bytes.
        padding: u64,
        /// All that the data shards hold, in bytes.
        bytes: u64,
    },
}

impl Scheme {
    /// The most shards that a codeword may have, data and parity together. The field has 65,536
    /// elements, and the library rounds the smaller part up to a power of two.
    pub const SHARDS_MAX: u16 = 32_768;

    /// # Errors
    /// [`SchemeError`] without data or parity shards, and above [`Scheme::SHARDS_MAX`] together.
    pub const fn new(data: u16, parity: u16) -> Result<Scheme, SchemeError> {
        match data.checked_add(parity) {
            Some(total) if data > 0 && parity > 0 && total <= Self::SHARDS_MAX => {
                Ok(Scheme { data, parity })
            }
            _ => Err(SchemeError { data, parity }),
        }
    }

    /// `k`: how many shards hold data, and how many give it back.
    #[must_use]
    pub const fn data(self) -> u16 {
        self.data
    }

    /// `m`: how many shards may be lost.
    #[must_use]
    pub const fn parity(self) -> u16 {
        self.parity
    }

    /// `k + m`.
    #[must_use]
    pub const fn total(self) -> u16 {
        self.data + self.parity
    }

    /// The length that each shard of `bytes` bytes of data has: even, at least 2.
    #[must_use]
    pub const fn shard_bytes(self, bytes: u64) -> u64 {
        let each = bytes.div_ceil(self.data as u64);
        let even = each + each % 2;
        if even == 0 { 2 } else { even }
    }

    /// Cuts bytes into `k` shards of [`Scheme::shard_bytes`], zeros at the end of the last ones, and
    /// says how many zeros: whoever keeps the shards keeps that number, for [`Scheme::join`].
    #[must_use]
    pub fn split(self, bytes: &[u8]) -> (Vec<Vec<u8>>, u64) {
        let length = bytes.len() as u64;
        let each = self.shard_bytes(length) as usize;
        let mut shards = Vec::with_capacity(usize::from(self.total()));
        let mut rest = bytes;
        for _ in 0..self.data {
            let (part, behind) = rest.split_at(each.min(rest.len()));
            let mut shard = Vec::with_capacity(each);
            shard.extend_from_slice(part);
            shard.resize(each, 0);
            shards.push(shard);
            rest = behind;
        }
        assert!(rest.is_empty(), "k shards of ceil(length / k) bytes hold all of them");
        (shards, each as u64 * u64::from(self.data) - length)
    }

    /// The bytes that [`Scheme::split`] cut, from the `k` data shards in their order.
    ///
    /// # Errors
    /// [`SplitError`]: the shards are not `k`, not of one length, or shorter than the padding. They
    /// are not what `split` made; check where they come from.
    pub fn join<S: AsRef<[u8]>>(self, shards: &[S], padding: u64) -> Result<Vec<u8>, SplitError> {
        if shards.len() != usize::from(self.data) {
            let found = shards.len() as u64;
            return Err(SplitError::Count { expected: self.data, found });
        }
        let each = shards[0].as_ref().len();
        for (index, shard) in (0..self.data).zip(shards) {
            if shard.as_ref().len() != each {
                return Err(SplitError::Length { index });
            }
        }
        let bytes = each as u64 * u64::from(self.data);
        let Some(length) = bytes.checked_sub(padding) else {
            return Err(SplitError::Padding { padding, bytes });
        };
        let mut joined = Vec::with_capacity(bytes as usize);
        for shard in shards {
            joined.extend_from_slice(shard.as_ref());
        }
        joined.truncate(length as usize);
        Ok(joined)
    }
}

/// `RS(k,m)`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RS({},{})", self.data, self.parity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_scheme_needs_both_parts_and_has_a_limit() {
        assert!(Scheme::new(0, 1).is_err());
        assert!(Scheme::new(1, 0).is_err());
        assert!(Scheme::new(u16::MAX, 1).is_err());
        assert!(Scheme::new(16_384, 16_385).is_err());
        assert_eq!(Scheme::new(16_384, 16_384).map(Scheme::total), Ok(Scheme::SHARDS_MAX));
        assert_eq!(Scheme::new(10, 4).unwrap().to_string(), "RS(10,4)");
    }

    #[test]
    fn shards_that_split_did_not_make_are_refused() {
        let scheme = Scheme::new(2, 1).unwrap();
        let join = |shards: &[&[u8]], padding| scheme.join(shards, padding);
        assert_eq!(join(&[b"ab"], 0), Err(SplitError::Count { expected: 2, found: 1 }));
        assert_eq!(join(&[b"ab", b"c"], 0), Err(SplitError::Length { index: 1 }));
        let padding = SplitError::Padding { padding: 5, bytes: 4 };
        assert_eq!(join(&[b"ab", b"cd"], 5), Err(padding));
        assert_eq!(join(&[b"ab", b"cd"], 4), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn joining_undoes_splitting(
            bytes in prop::collection::vec(any::<u8>(), 0..600), data in 1u16..40
        ) {
            let scheme = Scheme::new(data, 1).unwrap();
            let (shards, padding) = scheme.split(&bytes);
            prop_assert_eq!(shards.len(), usize::from(data));
            for shard in &shards {
                prop_assert!(shard.len() >= 2 && shard.len() % 2 == 0);
                prop_assert_eq!(shard.len() as u64, scheme.shard_bytes(bytes.len() as u64));
            }
            // No shard is longer than it has to be.
            prop_assert!(padding < 2 * u64::from(data) || bytes.is_empty());
            prop_assert_eq!(scheme.join(&shards, padding).unwrap(), bytes);
        }
    }
}
