//! Files as encrypted, erasure-coded shards with a manifest, and the store that holds shards.
//!
//! | part | what |
//! |---|---|
//! | [`encode`], [`Assembly`] | file -> chunks -> compressed if that is smaller -> encrypted -> shards, and back from any `k` shards of each chunk |
//! | [`Manifest`] | which shards a file has: durable, checks itself, sealed by the key's owner |
//! | [`Upload`] | says when enough shards are durable that the manifest may be given out |
//! | [`ShardStore`] | one node's shards by their SHA-256, within a capacity |
//! | [`merkle`] | roots over a shard's blocks, and proofs for a verifier that holds only the root |
//!
//! ```
//! use erasure::{Codec, Scheme};
//! use store::{Assembly, Config, Key, Salt, encode};
//!
//! let (key, mut codec) = (Key::new([7; 32]), Codec::new());
//! let config = Config { shard_bytes: 256, ..Config::new(Scheme::new(4, 2)?) };
//! let file = b"a letter that outlives two of the six nodes that hold it".repeat(100);
//! let (manifest, shards) = encode(&config, &mut codec, &key, Salt([1; 16]), &file)?;
//!
//! // The first two shards of each chunk are lost; the manifest went over a wire.
//! let manifest = store::Manifest::decode(&manifest.encode())?;
//! let mut assembly = Assembly::new(manifest);
//! for shard in shards.iter().filter(|shard| shard.index >= 2) {
//!     assembly.offer(shard.digest, shard.bytes.clone())?;
//! }
//! assert_eq!(assembly.decode(&mut codec, &key)?, file);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it guarantees
//!
//! - What comes back is the file, byte for byte, or an error. Every shard is checked against its digest
//!   before it is used, every chunk is authenticated together with its place in the file.
//! - **No nonce is used twice with one key.** Each chunk is encrypted under a key of its own, which is
//!   derived (HMAC-SHA-256) from the owner's key and from a MAC of what is encrypted, its place and the
//!   salt; the nonce is zero. Other bytes, another place or another salt mean another key; the same
//!   ones mean the same ciphertext, so that an upload that is tried again makes the same shards. Whoever
//!   repeats a salt only lets others see which chunks are equal.
//! - A file can be given another scheme by whoever has enough of its shards ([`Assembly::reencode`]): its owner has
//!   sealed what is cut into shards, and not how.
//! - A store says that it has a shard only when the shell has reported it durable, never gives out bytes
//!   that are not what they are called, and evicts nothing of which it may be the last holder.
//! - No input makes anything here panic, a manifest made by an enemy included.
//!
//! # What it does not
//!
//! No clock, thread, file or socket; those are the shell's. Keys and salts come from the caller, who has
//! the entropy. A file is held in memory as a whole; lengths are not hidden.

mod cipher;
mod digest;
mod file;
mod manifest;
pub mod merkle;
mod shard_store;
mod upload;

pub use cipher::{Key, Salt};
pub use digest::Digest;
pub use file::{
    Assembly, Config, DecodeError, EncodeError, EncodedShard, Lies, ReencodeError, encode,
};
pub use manifest::{Chunk, Manifest, ManifestError, ShardEntry};
pub use shard_store::{
    Absent, Mismatch, NotKept, Op, Put, Refusal, ShardStore, Stats, StoreConfig,
};
pub use upload::{Holders, Progress, Upload};
