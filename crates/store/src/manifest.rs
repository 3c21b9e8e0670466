use crate::cipher::TAG_BYTES;
use crate::{Digest, Key, Salt};
use erasure::Scheme;

/// A shard of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    /// SHA-256 of its bytes: its name.
    pub digest: Digest,
    /// Its [Merkle root](crate::merkle), for proofs of storage.
    pub root: Digest,
}

/// A piece of a file, erasure-coded by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes of the file in it, at least 1.
    pub plain_bytes: u32,
    /// Whether what is encrypted is compressed (Zstandard).
    pub compressed: bool,
    /// Bytes that are encrypted: at most `plain_bytes`.
    pub body_bytes: u32,
    /// Names the key of this chunk: see the crate's head.
    pub siv: [u8; 32],
    /// The `k + m` shards, in their order.
    pub shards: Vec<ShardEntry>,
}

impl Chunk {
    /// Bytes that are cut into shards: what is encrypted, and its tag.
    #[must_use]
    pub fn sealed_bytes(&self) -> u64 {
        u64::from(self.body_bytes) + u64::from(TAG_BYTES)
    }
}

/// Which shards a file has, and how they become the file again.
///
/// Its name is the digest of its encoding: whoever asks for a manifest by name cannot be given
/// another. Its seal says that the owner of the key made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) scheme: Scheme,
    pub(crate) salt: Salt,
    pub(crate) file_bytes: u64,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) seal: [u8; 32],
}

/// These bytes are no manifest that this version reads. Ask somebody else for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// They do not begin as a manifest does.
    #[error("not a manifest")]
    NotAManifest,
    /// A version that this one does not know.
    #[error("a manifest of version {version}; this program reads version {}", Manifest::VERSION)]
    Version {
        /// What it says.
        version: u16,
    },
    /// It was cut, or changed.
    #[error("the manifest does not match its digest: it was cut or changed")]
    Digest,
    /// It is whole and another one.
    #[error("asked for manifest {expected}, got {found}")]
    Another {
        /// The name that was asked for.
        expected: Digest,
        /// Its own name.
        found: Digest,
    },
    /// Its digest matches, and what it says contradicts itself: it was made that way.
    #[error("the manifest contradicts itself at byte {offset}: {what}")]
    Contradiction {
        /// Where, in bytes from its beginning.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

const MAGIC: [u8; 4] = *b"TRMF";
const HEAD_BYTES: usize = 38;
const CHUNK_BYTES: usize = 41;
const SHARD_BYTES: usize = 64;

impl Manifest {
    /// The version of the encoding.
    pub const VERSION: u16 = 1;

    /// How the file is erasure-coded.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The file's length in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The file's pieces, in their order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The length of each shard of this chunk, in bytes.
    #[must_use]
    pub fn shard_bytes(&self, chunk: &Chunk) -> u64 {
        self.scheme.shard_bytes(chunk.sealed_bytes())
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.sealed())
    }

    /// Whether the owner of this key made it as it is.
    #[must_use]
    pub fn is_sealed_by(&self, key: &Key) -> bool {
        key.mac("manifest", &[&self.unsealed()]) == self.seal
    }

    pub(crate) fn seal(&mut self, key: &Key) {
        self.seal = key.mac("manifest", &[&self.unsealed()]);
    }

    /// Its bytes. Little-endian:
    ///
    /// | part | bytes |
    /// |---|---|
    /// | `TRMF`, version | 4, 2 |
    /// | k, m | 2, 2 |
    /// | salt | 16 |
    /// | file's length, number of chunks | 8, 4 |
    /// | each chunk: plain bytes, compressed (0 or 1), body bytes, siv | 4, 1, 4, 32 |
    /// | each of its k + m shards: digest, Merkle root | 32, 32 |
    /// | seal: a MAC of all before | 32 |
    /// | SHA-256 of all before: its name | 32 |
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.sealed();
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(&digest.0);
        bytes
    }

    /// All but the digest at its end.
    fn sealed(&self) -> Vec<u8> {
        let mut bytes = self.unsealed();
        bytes.extend_from_slice(&self.seal);
        bytes
    }

    fn unsealed(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&Self::VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.scheme.data().to_le_bytes());
        bytes.extend_from_slice(&self.scheme.parity().to_le_bytes());
        bytes.extend_from_slice(&self.salt.0);
        bytes.extend_from_slice(&self.file_bytes.to_le_bytes());
        let chunks =
            u32::try_from(self.chunks.len()).expect("encode and decode hold it to 32 bits");
        bytes.extend_from_slice(&chunks.to_le_bytes());
        assert_eq!(bytes.len(), HEAD_BYTES);
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.plain_bytes.to_le_bytes());
            bytes.push(u8::from(chunk.compressed));
            bytes.extend_from_slice(&chunk.body_bytes.to_le_bytes());
            bytes.extend_from_slice(&chunk.siv);
            for shard in &chunk.shards {
                bytes.extend_from_slice(&shard.digest.0);
                bytes.extend_from_slice(&shard.root.0);
            }
        }
        bytes
    }

    /// The manifest of these bytes, if they are one, whole and without a contradiction.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let Some(version) = bytes.strip_prefix(&MAGIC).and_then(<[u8]>::first_chunk) else {
            return Err(ManifestError::NotAManifest);
        };
        let version = u16::from_le_bytes(*version);
        if version != Self::VERSION {
            return Err(ManifestError::Version { version });
        }
        let Some((covered, digest)) = bytes.split_last_chunk::<32>() else {
            return Err(ManifestError::Digest);
        };
        if Digest::of(covered).0 != *digest || covered.len() < HEAD_BYTES + 32 {
            return Err(ManifestError::Digest);
        }
        let (body, seal) = covered.split_at(covered.len() - 32);
        let mut reader = Reader { bytes: body, offset: 6 };
        let (k, m) = (reader.u16()?, reader.u16()?);
        let scheme = Scheme::new(k, m).map_err(|_| reader.wrong("no scheme has this k and m"))?;
        let salt = Salt(reader.take()?);
        let file_bytes = reader.u64()?;
        let count = reader.u32()?;
        let each = (CHUNK_BYTES + SHARD_BYTES * usize::from(scheme.total())) as u64;
        if u64::from(count) * each != (body.len() - HEAD_BYTES) as u64 {
            return Err(reader.wrong("the number of chunks does not match the length"));
        }
        let mut chunks = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let plain_bytes = reader.u32()?;
            let compressed = match reader.take()? {
                [0] => false,
                [1] => true,
                _ => return Err(reader.wrong("compressed is neither 0 nor 1")),
            };
            let body_bytes = reader.u32()?;
            if plain_bytes == 0
                || body_bytes > plain_bytes
                || (body_bytes == plain_bytes) == compressed
            {
                return Err(reader.wrong("lengths of a chunk that encoding does not make"));
            }
            let siv = reader.take()?;
            let mut shards = Vec::with_capacity(usize::from(scheme.total()));
            for _ in 0..scheme.total() {
                let (digest, root) = (Digest(reader.take()?), Digest(reader.take()?));
                shards.push(ShardEntry { digest, root });
            }
            chunks.push(Chunk { plain_bytes, compressed, body_bytes, siv, shards });
        }
        if chunks.iter().map(|chunk| u64::from(chunk.plain_bytes)).sum::<u64>() != file_bytes {
            return Err(reader.wrong("the chunks are not as long as the file"));
        }
        let seal = seal.try_into().expect("split off as 32 bytes");
        Ok(Manifest { scheme, salt, file_bytes, chunks, seal })
    }

    /// As [`Manifest::decode`], of a manifest that was asked for by its name.
    ///
    /// # Errors
    /// [`ManifestError`]; [`ManifestError::Another`] if it has another name.
    pub fn decode_named(expected: Digest, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let manifest = Manifest::decode(bytes)?;
        let found = Digest::of(&bytes[..bytes.len() - 32]);
        if found == expected {
            Ok(manifest)
        } else {
            Err(ManifestError::Another { expected, found })
        }
    }

    /// What a chunk's ciphertext is bound to, beside the key: the file and the place in it.
    pub(crate) fn place(&self, chunk: u32, plain_bytes: u32, compressed: bool) -> Vec<u8> {
        let mut place = self.salt.0.to_vec();
        place.extend_from_slice(&self.file_bytes.to_le_bytes());
        place.extend_from_slice(&chunk.to_le_bytes());
        place.extend_from_slice(&plain_bytes.to_le_bytes());
        place.push(u8::from(compressed));
        place
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let taken = *rest.first_chunk().ok_or(self.wrong("it ends too early"))?;
        self.offset += N;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, ManifestError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ManifestError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ManifestError> {
        self.take().map(u64::from_le_bytes)
    }

    fn wrong(&self, what: &'static str) -> ManifestError {
        ManifestError::Contradiction { offset: self.offset as u64, what }
    }
}
