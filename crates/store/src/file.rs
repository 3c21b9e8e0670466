use crate::cipher::TAG_BYTES;
use crate::manifest::{Chunk, ShardEntry};
use crate::{Digest, Key, Manifest, Salt, merkle};
use erasure::{Codec, CodecError, Scheme};
use std::collections::BTreeMap;

/// How a file is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Data and parity shards of each chunk.
    pub scheme: Scheme,
    /// The longest shard in bytes, even, from 256 to 16 MiB. Default 64 KiB. The shards of a file's last
    /// chunk, and of one that compresses well, are shorter.
    pub shard_bytes: u32,
    /// Zstandard's level, or none to leave files as they are. Default 3.
    pub compression: Option<i32>,
    /// The longest file in bytes; it is held in memory. Default 1 GiB.
    pub file_bytes_max: u64,
}

impl Config {
    /// The defaults with this scheme.
    #[must_use]
    pub fn new(scheme: Scheme) -> Config {
        Config { scheme, shard_bytes: 64 << 10, compression: Some(3), file_bytes_max: 1 << 30 }
    }

    /// The most bytes that the shards of a file of this length may take, all of them together: what to
    /// ask for before an upload begins.
    #[must_use]
    pub fn stored_bytes_max(&self, file_bytes: u64) -> u64 {
        let chunks = file_bytes.div_ceil(self.chunk_bytes().max(1));
        let sealed = file_bytes.saturating_add(chunks * u64::from(TAG_BYTES));
        // Each chunk's last byte costs an even shard: two bytes a shard more at most.
        let each = (sealed / u64::from(self.scheme.data())).saturating_add(2 * chunks);
        each.saturating_mul(u64::from(self.scheme.total()))
    }

    /// Bytes of the file in a full chunk.
    fn chunk_bytes(&self) -> u64 {
        let sealed = u64::from(self.shard_bytes) * u64::from(self.scheme.data());
        sealed.saturating_sub(u64::from(TAG_BYTES))
    }
}

/// The file was not encoded; nothing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// `shard_bytes` is odd, below 256, above 16 MiB, or makes chunks above 1 GiB.
    #[error(
        "shards of {shard_bytes} bytes: they must be even, from 256 bytes to 16 MiB, and a chunk's \
         data at most 1 GiB"
    )]
    ShardBytes {
        /// What was configured.
        shard_bytes: u32,
    },
    /// The file is too long: raise the limit, or store it in parts.
    #[error("a file of {bytes} bytes; at most {bytes_max} are taken")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Zstandard refused the level.
    #[error("Zstandard failed at level {level}: choose another, or none")]
    Compression {
        /// Which.
        level: i32,
    },
}

/// One shard that [`encode`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedShard {
    /// The chunk it is of.
    pub chunk: u32,
    /// Its place among the chunk's `k + m` shards.
    pub index: u16,
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A file's shards and its manifest. Do not give the manifest out before an [`Upload`](crate::Upload)
/// says that it is worth something.
///
/// # Errors
/// [`EncodeError`].
pub fn encode(
    config: &Config,
    codec: &mut Codec,
    key: &Key,
    salt: Salt,
    file: &[u8],
) -> Result<(Manifest, Vec<EncodedShard>), EncodeError> {
    let &Config { scheme, shard_bytes, .. } = config;
    let chunk_bytes = config.chunk_bytes();
    if !(256..=16 << 20).contains(&shard_bytes) || shard_bytes % 2 == 1 || chunk_bytes > 1 << 30 {
        return Err(EncodeError::ShardBytes { shard_bytes });
    }
    let (bytes, bytes_max) = (file.len() as u64, config.file_bytes_max);
    if bytes > bytes_max || bytes.div_ceil(chunk_bytes) > u64::from(u32::MAX) {
        return Err(EncodeError::TooLarge { bytes, bytes_max });
    }
    let mut shards = Vec::new();
    let (chunks, seal, id) = (Vec::new(), [0; 32], Digest([0; 32]));
    let version = Manifest::VERSION;
    let mut manifest = Manifest { version, scheme, salt, file_bytes: bytes, chunks, seal, id };
    for (index, plain) in (0u32..).zip(file.chunks(chunk_bytes as usize)) {
        let smaller = compress(config, plain)?;
        let compressed = smaller.is_some();
        let body = smaller.as_deref().unwrap_or(plain);
        // A chunk has at most 1 GiB.
        let (plain_bytes, body_bytes) = (plain.len() as u32, body.len() as u32);
        let (siv, sealed) = key.seal(&manifest.place(index, plain_bytes, compressed), body);
        let entries = cut(scheme, codec, index, &sealed, &mut shards);
        let sealed = Some(Digest::of(&sealed));
        let chunk = Chunk { plain_bytes, compressed, body_bytes, siv, sealed, shards: entries };
        manifest.chunks.push(chunk);
    }
    manifest.seal(key);
    Ok((manifest.complete(), shards))
}

/// Cuts a chunk's ciphertext into shards.
fn cut(
    scheme: Scheme,
    codec: &mut Codec,
    chunk: u32,
    sealed: &[u8],
    shards: &mut Vec<EncodedShard>,
) -> Vec<ShardEntry> {
    let (mut words, _) = scheme.split(sealed);
    let parity = codec.encode(scheme, &words).expect("split makes k shards of one even length");
    let parity: Vec<Vec<u8>> = parity.iter().map(<[u8]>::to_vec).collect();
    words.extend(parity);
    let mut entries = Vec::with_capacity(words.len());
    for (index, bytes) in (0u16..).zip(words) {
        let digest = Digest::of(&bytes);
        entries.push(ShardEntry { digest, root: merkle::root(&bytes) });
        shards.push(EncodedShard { chunk, index, digest, bytes });
    }
    entries
}

/// The bytes compressed, if that is smaller.
fn compress(config: &Config, plain: &[u8]) -> Result<Option<Vec<u8>>, EncodeError> {
    let Some(level) = config.compression else { return Ok(None) };
    let smaller = zstd::bulk::compress(plain, level);
    let smaller = smaller.map_err(|_| EncodeError::Compression { level })?;
    Ok((smaller.len() < plain.len()).then_some(smaller))
}

/// A shard's bytes are not what they are called. Whoever sent them has a bad copy, or lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("asked for shard {claimed}, got the bytes of {found}")]
pub struct Lies {
    /// The name that was given.
    pub claimed: Digest,
    /// The digest of the bytes.
    pub found: Digest,
}

/// The file cannot be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer than `k` shards of this chunk: get more of [`Assembly::wanted`].
    #[error("chunk {chunk} has {found} shards of the {needed} that it needs")]
    Missing {
        /// Which chunk.
        chunk: u32,
        /// How many shards are there.
        found: u16,
        /// `k`.
        needed: u16,
    },
    /// Another key sealed this manifest, or somebody changed it.
    #[error("the manifest was not sealed with this key")]
    Seal,
    /// The shards are what the manifest names, and not what encoding makes. Whoever made the manifest had
    /// the key and a fault.
    #[error("chunk {chunk} does not decode: {what}")]
    Chunk {
        /// Which chunk.
        chunk: u32,
        /// At which stage.
        what: &'static str,
    },
}

/// A file cannot be encoded anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReencodeError {
    /// Its shards do not give a chunk: they are too few, or do not fit.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The shards are what the manifest names, and give another ciphertext than its owner has sealed: whoever
    /// encoded it last made it wrong.
    #[error("chunk {chunk} is not what the file's owner has sealed")]
    NotSealed {
        /// Which chunk.
        chunk: u32,
    },
    /// Its manifest is of version 1, which its owner has sealed as a whole.
    #[error("a manifest of version 1 has one encoding for good")]
    Whole,
}

/// Collects a file's shards as they come, and puts the file together.
#[derive(Clone, Debug)]
pub struct Assembly {
    manifest: Manifest,
    /// What has come of each chunk, by place.
    chunks: Vec<BTreeMap<u16, Vec<u8>>>,
    /// Every place of each digest: shards may be equal, such as those of RS(1,1).
    places: BTreeMap<Digest, Vec<(u32, u16)>>,
}

impl Assembly {
    /// Of this file nothing has come yet.
    #[must_use]
    pub fn new(manifest: Manifest) -> Assembly {
        let mut places: BTreeMap<Digest, Vec<(u32, u16)>> = BTreeMap::new();
        for (chunk, entry) in (0..).zip(&manifest.chunks) {
            for (index, shard) in (0..).zip(&entry.shards) {
                places.entry(shard.digest).or_default().push((chunk, index));
            }
        }
        Assembly { chunks: vec![BTreeMap::new(); manifest.chunks.len()], manifest, places }
    }

    /// Takes a shard, and says whether it was of use: one that is of another file, or of a chunk that
    /// has `k` shards already, is not kept.
    ///
    /// # Errors
    /// [`Lies`]: the bytes have another digest. They are not kept.
    pub fn offer(&mut self, claimed: Digest, bytes: Vec<u8>) -> Result<bool, Lies> {
        let found = Digest::of(&bytes);
        if found != claimed {
            return Err(Lies { claimed, found });
        }
        let needed = usize::from(self.manifest.scheme.data());
        let mut used = false;
        for &(chunk, index) in self.places.get(&claimed).map_or(&[][..], Vec::as_slice) {
            let there = &mut self.chunks[chunk as usize];
            if there.len() < needed && !there.contains_key(&index) {
                there.insert(index, bytes.clone());
                used = true;
            }
        }
        Ok(used)
    }

    /// The shards of chunks that have fewer than `k`, by chunk and place, those that are there left out.
    pub fn wanted(&self) -> impl Iterator<Item = (u32, u16, Digest)> {
        let needed = usize::from(self.manifest.scheme.data());
        let chunks = (0u32..).zip(self.chunks.iter().zip(&self.manifest.chunks));
        chunks.filter(move |(_, (there, _))| there.len() < needed).flat_map(
            |(chunk, (there, entry))| {
                let all = (0u16..).zip(&entry.shards);
                all.filter(|(index, _)| !there.contains_key(index))
                    .map(move |(index, shard)| (chunk, index, shard.digest))
            },
        )
    }

    /// The same file in another scheme: its manifest, with the owner's seal as it is, and all of its shards. No key
    /// is needed, and nothing is decrypted.
    ///
    /// # Errors
    /// [`ReencodeError`].
    pub fn reencode(
        &self,
        codec: &mut Codec,
        to: Scheme,
    ) -> Result<(Manifest, Vec<EncodedShard>), ReencodeError> {
        let mut manifest = Manifest { scheme: to, ..self.manifest.clone() };
        let mut shards = Vec::new();
        for (chunk, entry) in (0..).zip(&mut manifest.chunks) {
            let sealed = self.sealed(codec, chunk)?;
            let owners = entry.sealed.ok_or(ReencodeError::Whole)?;
            if Digest::of(&sealed) != owners {
                return Err(ReencodeError::NotSealed { chunk });
            }
            entry.shards = cut(to, codec, chunk, &sealed, &mut shards);
        }
        Ok((manifest.complete(), shards))
    }

    /// A chunk's ciphertext.
    fn sealed(&self, codec: &mut Codec, chunk: u32) -> Result<Vec<u8>, DecodeError> {
        let scheme = self.manifest.scheme;
        let (there, entry) = (&self.chunks[chunk as usize], &self.manifest.chunks[chunk as usize]);
        let wrong = |what| DecodeError::Chunk { chunk, what };
        let sealed = reassemble(scheme, codec, entry, there).map_err(|error| match error {
            // At most k are kept.
            CodecError::TooFew { found, .. } => {
                DecodeError::Missing { chunk, found: found as u16, needed: scheme.data() }
            }
            _ => wrong("its shards have different lengths"),
        })?;
        sealed.ok_or(wrong("its shards have other lengths than it says"))
    }

    /// The manifest of what is collected.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The file.
    ///
    /// # Errors
    /// [`DecodeError`]: shards are missing, the key is another, or the manifest was made wrong.
    pub fn decode(&self, codec: &mut Codec, key: &Key) -> Result<Vec<u8>, DecodeError> {
        let file_bytes = self.manifest.file_bytes;
        if !self.manifest.is_sealed_by(key) {
            return Err(DecodeError::Seal);
        }
        let mut file = Vec::new();
        for (chunk, entry) in (0..).zip(&self.manifest.chunks) {
            let wrong = |what| DecodeError::Chunk { chunk, what };
            let sealed = self.sealed(codec, chunk)?;
            let place = self.manifest.place(chunk, entry.plain_bytes, entry.compressed);
            let body = key.open(&place, &entry.siv, &sealed).ok_or(wrong("decryption"))?;
            let plain = if entry.compressed {
                let plain = zstd::bulk::decompress(&body, entry.plain_bytes as usize);
                plain.map_err(|_| wrong("decompression"))?
            } else {
                body
            };
            if plain.len() != entry.plain_bytes as usize {
                return Err(wrong("its length"));
            }
            file.extend_from_slice(&plain);
        }
        assert_eq!(file.len() as u64, file_bytes, "the manifest's chunks sum up: see its decoding");
        Ok(file)
    }
}

/// The ciphertext of a chunk; none if its length is not what the chunk says.
fn reassemble(
    scheme: Scheme,
    codec: &mut Codec,
    entry: &Chunk,
    there: &BTreeMap<u16, Vec<u8>>,
) -> Result<Option<Vec<u8>>, CodecError> {
    let present: Vec<(u16, &[u8])> =
        there.iter().map(|(&index, bytes)| (index, bytes.as_slice())).collect();
    let data: Vec<u16> = (0..scheme.data()).collect();
    let data = codec.rebuild(scheme, &present, &data)?;
    let sealed = entry.sealed_bytes();
    if data[0].len() as u64 != scheme.shard_bytes(sealed) {
        return Ok(None);
    }
    let padding = data[0].len() as u64 * u64::from(scheme.data()) - sealed;
    Ok(scheme.join(&data, padding).ok())
}
