use crate::Scheme;
use crate::engine::Direct;
use reed_solomon_simd::rate::{DefaultRateDecoder, RateDecoder};
use reed_solomon_simd::{DecoderResult, EncoderResult, Error, ReedSolomonEncoder};
use std::collections::BTreeSet;
use std::fmt;

/// Makes parity shards, and shards that are missing.
///
/// It keeps the library's working memory between calls: keep one per thread.
#[derive(Default)]
pub struct Codec {
    encoder: Option<ReedSolomonEncoder>,
    decoder: Option<DefaultRateDecoder<Direct>>,
}

/// The shards that were given are no part of a codeword of this scheme. Nothing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Encoding needs exactly the `k` data shards.
    #[error("{found} data shards where {scheme} has {}", scheme.data())]
    DataShards {
        /// The scheme.
        scheme: Scheme,
        /// How many were given.
        found: u64,
    },
    /// Fewer than `k` different shards: get more of them.
    #[error("{found} shards are too few: {scheme} needs any {}", scheme.data())]
    TooFew {
        /// The scheme.
        scheme: Scheme,
        /// How many different shards were given.
        found: u64,
    },
    /// The scheme has no shard of this index.
    #[error("{scheme} has no shard {index}")]
    NoSuchShard {
        /// The scheme.
        scheme: Scheme,
        /// The index, which should be below `k + m`.
        index: u16,
    },
    /// A shard was given twice.
    #[error("shard {index} was given twice")]
    Twice {
        /// Which.
        index: u16,
    },
    /// A shard's length is zero or odd, or not the first one's.
    #[error("a shard of {found} bytes; all must have one even length, here {expected}")]
    Length {
        /// The first shard's length in bytes.
        expected: u64,
        /// What this one has.
        found: u64,
    },
}

impl Codec {
    /// A codec without working memory yet.
    #[must_use]
    pub fn new() -> Codec {
        Codec::default()
    }

    /// The `m` parity shards of `k` data shards. They are lent from the codec's working memory, so
    /// that whoever sends them need not copy them.
    ///
    /// # Errors
    /// [`CodecError`]: not `k` shards, or not of one even length.
    pub fn encode<S: AsRef<[u8]>>(
        &mut self,
        scheme: Scheme,
        data: &[S],
    ) -> Result<Parity<'_>, CodecError> {
        if data.len() != usize::from(scheme.data()) {
            return Err(CodecError::DataShards { scheme, found: data.len() as u64 });
        }
        let length = one_length(data.iter().map(AsRef::as_ref))?;
        let (k, m) = (usize::from(scheme.data()), usize::from(scheme.parity()));
        let encoder = match &mut self.encoder {
            Some(encoder) => {
                encoder.reset(k, m, length).unwrap_or_else(|error| impossible(&error));
                encoder
            }
            none => none.insert(
                ReedSolomonEncoder::new(k, m, length).unwrap_or_else(|error| impossible(&error)),
            ),
        };
        for shard in data {
            encoder.add_original_shard(shard).unwrap_or_else(|error| impossible(&error));
        }
        Ok(Parity(encoder.encode().unwrap_or_else(|error| impossible(&error))))
    }

    /// The data shards that are missing, from any `k` or more shards. Data shards have the indexes
    /// below `k`, parity shards those from `k` on.
    ///
    /// # Errors
    /// [`CodecError`]: too few shards, one twice, an index that the scheme does not have, or lengths
    /// that differ.
    pub fn restore<S: AsRef<[u8]>>(
        &mut self,
        scheme: Scheme,
        present: &[(u16, S)],
    ) -> Result<Restored<'_>, CodecError> {
        let mut seen = BTreeSet::new();
        for &(index, _) in present {
            if index >= scheme.total() {
                return Err(CodecError::NoSuchShard { scheme, index });
            }
            if !seen.insert(index) {
                return Err(CodecError::Twice { index });
            }
        }
        if seen.len() < usize::from(scheme.data()) {
            return Err(CodecError::TooFew { scheme, found: seen.len() as u64 });
        }
        let length = one_length(present.iter().map(|(_, shard)| shard.as_ref()))?;
        let (k, m) = (usize::from(scheme.data()), usize::from(scheme.parity()));
        let decoder = match &mut self.decoder {
            Some(decoder) => {
                decoder.reset(k, m, length).unwrap_or_else(|error| impossible(&error));
                decoder
            }
            none => none.insert(
                DefaultRateDecoder::new(k, m, length, Direct::default(), None)
                    .unwrap_or_else(|error| impossible(&error)),
            ),
        };
        for (index, shard) in present {
            let index = usize::from(*index);
            let added = match index.checked_sub(k) {
                None => decoder.add_original_shard(index, shard),
                Some(parity) => decoder.add_recovery_shard(parity, shard),
            };
            added.unwrap_or_else(|error| impossible(&error));
        }
        Ok(Restored(decoder.decode().unwrap_or_else(|error| impossible(&error))))
    }

    /// The shards `wanted`, data or parity, from any `k` or more others, in the order asked for.
    ///
    /// # Errors
    /// As [`Codec::restore`]; and [`CodecError::NoSuchShard`] if a shard is wanted that the scheme does
    /// not have.
    pub fn rebuild<S: AsRef<[u8]>>(
        &mut self,
        scheme: Scheme,
        present: &[(u16, S)],
        wanted: &[u16],
    ) -> Result<Vec<Vec<u8>>, CodecError> {
        for &index in wanted {
            if index >= scheme.total() {
                return Err(CodecError::NoSuchShard { scheme, index });
            }
        }
        let k = scheme.data();
        let mut data: Vec<Option<Vec<u8>>> = vec![None; usize::from(k)];
        for (index, shard) in present {
            if let Some(place) = data.get_mut(usize::from(*index)) {
                *place = Some(shard.as_ref().to_vec());
            }
        }
        for (index, shard) in self.restore(scheme, present)?.iter() {
            data[usize::from(index)] = Some(shard.to_vec());
        }
        let data: Vec<Vec<u8>> = data
            .into_iter()
            .map(|shard| shard.expect("each data shard was given, or the decoder restored it"))
            .collect();
        if wanted.iter().all(|&index| index < k) {
            return Ok(wanted.iter().map(|&index| data[usize::from(index)].clone()).collect());
        }
        let parity = self.encode(scheme, &data)?;
        let shard = |&index: &u16| match index.checked_sub(k) {
            None => data[usize::from(index)].clone(),
            Some(index) => parity.shard(index).expect("it is below m: checked above").to_vec(),
        };
        Ok(wanted.iter().map(shard).collect())
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

/// A copy starts without working memory: it holds no data between calls.
impl Clone for Codec {
    fn clone(&self) -> Codec {
        Codec::new()
    }
}

/// The length that all of these have.
fn one_length<'a>(shards: impl Iterator<Item = &'a [u8]>) -> Result<usize, CodecError> {
    let mut expected = None;
    for shard in shards {
        let first = *expected.get_or_insert(shard.len());
        if shard.len() != first || first == 0 || !first.is_multiple_of(2) {
            let (expected, found) = (first as u64, shard.len() as u64);
            return Err(CodecError::Length { expected, found });
        }
    }
    Ok(expected.expect("a scheme has at least one data shard"))
}

/// All that the library may refuse has been checked before it is called.
fn impossible<T>(error: &Error) -> T {
    panic!("the codec's own checks let through what the library refuses: {error}")
}

/// The parity shards of one encoding, lent from the codec.
pub struct Parity<'a>(EncoderResult<'a>);

impl Parity<'_> {
    /// The parity shard of this index among the parity shards (shard `k + index` of the codeword).
    #[must_use]
    pub fn shard(&self, index: u16) -> Option<&[u8]> {
        self.0.recovery(usize::from(index))
    }

    /// All `m` of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.recovery_iter()
    }
}

impl fmt::Debug for Parity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The data shards that were missing, lent from the codec.
pub struct Restored<'a>(DecoderResult<'a>);

impl Restored<'_> {
    /// The data shard of this index, if it was missing.
    #[must_use]
    pub fn shard(&self, index: u16) -> Option<&[u8]> {
        self.0.restored_original(usize::from(index))
    }

    /// Each with its index.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        // Indexes are below k, which has 16 bits.
        self.0.restored_original_iter().map(|(index, shard)| (index as u16, shard))
    }
}

impl fmt::Debug for Restored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_codeword_is_refused() {
        let scheme = Scheme::new(2, 1).unwrap();
        let mut codec = Codec::new();
        let encode = |codec: &mut Codec, data: &[&[u8]]| codec.encode(scheme, data).map(drop);
        assert_eq!(encode(&mut codec, &[b"ab"]), Err(CodecError::DataShards { scheme, found: 1 }));
        for (data, expected, found) in
            [([b"ab".as_slice(), b"abcd"], 2, 4), ([b"abc", b"abc"], 3, 3), ([b"", b""], 0, 0)]
        {
            assert_eq!(encode(&mut codec, &data), Err(CodecError::Length { expected, found }));
        }
        let restore = |codec: &mut Codec, present: &[(u16, &[u8])]| {
            codec.restore(scheme, present).map(drop).unwrap_err()
        };
        let twice = restore(&mut codec, &[(1, b"ab"), (1, b"ab")]);
        assert_eq!(twice, CodecError::Twice { index: 1 });
        let none = restore(&mut codec, &[(1, b"ab"), (3, b"ab")]);
        assert_eq!(none, CodecError::NoSuchShard { scheme, index: 3 });
        assert_eq!(restore(&mut codec, &[(2, b"ab")]), CodecError::TooFew { scheme, found: 1 });
        assert_eq!(restore(&mut codec, &[]), CodecError::TooFew { scheme, found: 0 });
        let length = restore(&mut codec, &[(0, b"ab"), (2, b"abcd")]);
        assert_eq!(length, CodecError::Length { expected: 2, found: 4 });
        let wanted = codec.rebuild(scheme, &[(0, b"ab"), (1, b"cd")], &[3]);
        assert_eq!(wanted, Err(CodecError::NoSuchShard { scheme, index: 3 }));
    }

    #[test]
    fn an_error_leaves_nothing_behind_in_the_codec() {
        let scheme = Scheme::new(2, 2).unwrap();
        let mut codec = Codec::new();
        let fresh: Vec<Vec<u8>> = parity(&mut Codec::new(), scheme, &[b"ab", b"cd"]);
        assert!(codec.encode(scheme, &[b"abcd".as_slice(), b"ab"]).is_err());
        assert_eq!(parity(&mut codec, scheme, &[b"ab", b"cd"]), fresh);
        assert!(codec.restore(scheme, &[(0, b"ab"), (0, b"xx")]).is_err());
        let rebuilt = codec.rebuild(scheme, &[(2, &fresh[0]), (3, &fresh[1])], &[1, 0]);
        assert_eq!(rebuilt, Ok(vec![b"cd".to_vec(), b"ab".to_vec()]));
    }

    fn parity(codec: &mut Codec, scheme: Scheme, data: &[&[u8]]) -> Vec<Vec<u8>> {
        codec.encode(scheme, data).unwrap().iter().map(<[u8]>::to_vec).collect()
    }
}
