//! Erasure coding: `k` data shards and `m` parity shards, of which any `k` give the data back, and the
//! policy that chooses `(k, m)` from the health of the network.
//!
//! - [`Scheme`]: a `(k, m)`, and how bytes are cut into `k` shards of one even length.
//! - [`Codec`]: parity from data, and what is missing from any `k` shards. A thin face of
//!   reed-solomon-simd: Reed-Solomon over GF(2^16), so that a codeword may have far more than 256
//!   shards.
//! - [`SchemePolicy`]: health -> [`Tier`] -> scheme, with hysteresis; says which files to re-encode.
//!
//! ```
//! use erasure::{Codec, Scheme};
//!
//! let scheme = Scheme::new(4, 2)?;
//! let mut codec = Codec::new();
//! let (mut shards, padding) = scheme.split(b"what must survive two lost shards");
//! assert_eq!((shards.len(), shards[0].len(), padding), (4, 10, 7));
//! let parity: Vec<Vec<u8>> = codec.encode(scheme, &shards)?.iter().map(<[u8]>::to_vec).collect();
//! shards.extend(parity);
//!
//! // Two shards are lost, a data shard and a parity shard; four others remain.
//! let present = [0, 2, 3, 5].map(|index: u16| (index, shards[usize::from(index)].as_slice()));
//! let rebuilt = codec.rebuild(scheme, &present, &[1, 4])?;
//! assert_eq!(rebuilt, [shards[1].clone(), shards[4].clone()]);
//! assert_eq!(scheme.join(&shards[..4], padding)?, b"what must survive two lost shards");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it guarantees
//!
//! - Any `k` shards of a codeword give back all `k + m`, for every scheme that there is (the code is
//!   MDS). The tests check this against codecs of their own: see `tests/recovery.rs`.
//! - The same data and scheme give the same parity on every machine and with every instruction set.
//!   Parity is stored for years, so golden values pin the library's matrix: an upgrade that changes
//!   it fails the tests.
//! - No input makes the codec panic.
//!
//! # What it does not
//!
//! It cannot tell a wrong shard from a right one: verify a shard's digest before it is given to the
//! codec.

mod codec;
mod engine;
mod health;
mod policy;
mod scheme;

pub use codec::{Codec, CodecError, Parity, Restored};
pub use health::{Health, HealthConfig, Observation};
pub use policy::{Advice, Config, ConfigError, Reencode, SchemePolicy, Tier};
pub use scheme::{Scheme, SchemeError, SplitError};
