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
    /// SHA-256 of what is cut into shards, so that whoever encodes it anew sees that it is that. A manifest of
    /// version 1 does not say it.
    pub sealed: Option<Digest>,
    /// The `k + m` shards, in their order.
    pub shards: Vec<ShardEntry>,
}

impl Chunk {
    /// Bytes that are cut into shards: what is encrypted, and its tag.
    #[must_use]
    pub fn sealed_bytes(&self) -> u64 {
        u64::from(self.body_bytes) + u64::from(TAG_BYTES)
    }

    fn write_shards(&self, bytes: &mut Vec<u8>) {
        for shard in &self.shards {
            bytes.extend_from_slice(&shard.digest.0);
            bytes.extend_from_slice(&shard.root.0);
        }
    }
}

/// Which shards a file has, and how they become the file again.
///
/// Its name is the digest of its encoding: whoever asks for a manifest by name cannot be given
/// another. It has two parts. The *content* says which ciphertext each chunk is, and is sealed by the owner of the
/// key. The *encoding* says how that is cut into shards: whoever has enough of them can make another one,
/// with other parity, without any key ([`Assembly::reencode`](crate::Assembly::reencode)), and the seal goes with
/// the content. Whoever makes a wrong encoding makes a file that cannot be had, and never another file: each chunk is
/// authenticated when it is decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) version: u16,
    pub(crate) scheme: Scheme,
    pub(crate) salt: Salt,
    pub(crate) file_bytes: u64,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) seal: [u8; 32],
    /// The digest of all that, once it is complete: see [`Manifest::complete`].
    pub(crate) id: Digest,
}

/// These bytes are no manifest that this version reads. Ask somebody else for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// They do not begin as a manifest does.
    #[error("not a manifest")]
    NotAManifest,
    /// A version that this one does not know.
    #[error(
        "a manifest of version {version}; this program reads versions 1 to {}",
        Manifest::VERSION
    )]
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
/// In both versions: magic, version, k and m, salt, and the two lengths.
const HEAD_BYTES: usize = 38;
/// Of a chunk but for its shards, in each version.
const CHUNK_BYTES: [usize; 2] = [41, 73];
const SHARD_BYTES: usize = 64;

impl Manifest {
    /// The version of the encoding that is written. One of version 1 is sealed as a whole: it is read, and
    /// stays as it is.
    pub const VERSION: u16 = 2;

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
        self.id
    }

    /// Nothing of it is changed any more: it has a name.
    pub(crate) fn complete(mut self) -> Manifest {
        self.id = Digest::of(&self.named());
        self
    }

    /// What names the file's content, and the owner's seal of it, whatever shards it is cut into.
    #[must_use]
    pub fn content(&self) -> Digest {
        let mut bytes = self.under_seal();
        bytes.extend_from_slice(&self.seal);
        Digest::of(&bytes)
    }

    /// Whether the owner of this key made its content; in version 1, all of it as it is.
    #[must_use]
    pub fn is_sealed_by(&self, key: &Key) -> bool {
        self.mac(key) == self.seal
    }

    pub(crate) fn seal(&mut self, key: &Key) {
        self.seal = self.mac(key);
    }

    fn mac(&self, key: &Key) -> [u8; 32] {
        let purpose = if self.version == 1 { "manifest" } else { "content" };
        key.mac(purpose, &[&self.under_seal()])
    }

    /// Its bytes. Little-endian:
    ///
    /// | part | bytes |
    /// |---|---|
    /// | `TRMF`, version 2 | 4, 2 |
    /// | salt | 16 |
    /// | file's length, number of chunks | 8, 4 |
    /// | each chunk: plain bytes, compressed (0 or 1), body bytes, siv, SHA-256 of what is cut into shards | 4, 1, 4, 32, 32 |
    /// | seal: a MAC of all before | 32 |
    /// | k, m | 2, 2 |
    /// | of each chunk, each of its k + m shards: digest, Merkle root | 32, 32 |
    /// | SHA-256 of all before: its name | 32 |
    ///
    /// Version 1 has k and m before the salt, each chunk's shards behind its siv, no digest of what is cut, and the seal
    /// behind all that.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.named();
        bytes.extend_from_slice(&self.id.0);
        bytes
    }

    /// All but the digest at its end.
    fn named(&self) -> Vec<u8> {
        let mut bytes = self.under_seal();
        bytes.extend_from_slice(&self.seal);
        if self.version > 1 {
            self.write_scheme(&mut bytes);
            self.chunks.iter().for_each(|chunk| chunk.write_shards(&mut bytes));
        }
        bytes
    }

    /// What the seal is of: the content; in version 1, everything.
    fn under_seal(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.version.to_le_bytes());
        if self.version == 1 {
            self.write_scheme(&mut bytes);
        }
        bytes.extend_from_slice(&self.salt.0);
        bytes.extend_from_slice(&self.file_bytes.to_le_bytes());
        let chunks =
            u32::try_from(self.chunks.len()).expect("encode and decode hold it to 32 bits");
        bytes.extend_from_slice(&chunks.to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.plain_bytes.to_le_bytes());
            bytes.push(u8::from(chunk.compressed));
            bytes.extend_from_slice(&chunk.body_bytes.to_le_bytes());
            bytes.extend_from_slice(&chunk.siv);
            if let Some(sealed) = chunk.sealed {
                bytes.extend_from_slice(&sealed.0);
            }
            if self.version == 1 {
                chunk.write_shards(&mut bytes);
            }
        }
        bytes
    }

    fn write_scheme(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.scheme.data().to_le_bytes());
        bytes.extend_from_slice(&self.scheme.parity().to_le_bytes());
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
        if !(1..=Self::VERSION).contains(&version) {
            return Err(ManifestError::Version { version });
        }
        let Some((covered, digest)) = bytes.split_last_chunk::<32>() else {
            return Err(ManifestError::Digest);
        };
        let id = Digest::of(covered);
        if id.0 != *digest || covered.len() < HEAD_BYTES + 32 {
            return Err(ManifestError::Digest);
        }
        let mut reader = Reader { bytes: covered, offset: 6 };
        let mut scheme = None;
        if version == 1 {
            scheme = Some(reader.scheme()?);
        }
        let salt = Salt(reader.take()?);
        let file_bytes = reader.u64()?;
        let count = reader.u32()?;
        // What is left has at least so many bytes for each, whatever the scheme.
        let rest = (covered.len() - reader.offset) as u64;
        if u64::from(count) * CHUNK_BYTES[usize::from(version) - 1] as u64 > rest {
            return Err(reader.wrong("the number of chunks does not match the length"));
        }
        let mut chunks = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let mut chunk = reader.chunk(version)?;
            if let Some(scheme) = scheme {
                chunk.shards = reader.shards(scheme)?;
            }
            chunks.push(chunk);
        }
        if chunks.iter().map(|chunk| u64::from(chunk.plain_bytes)).sum::<u64>() != file_bytes {
            return Err(reader.wrong("the chunks are not as long as the file"));
        }
        let seal = reader.take()?;
        let scheme = match scheme {
            Some(scheme) => scheme,
            None => {
                let scheme = reader.scheme()?;
                for chunk in &mut chunks {
                    chunk.shards = reader.shards(scheme)?;
                }
                scheme
            }
        };
        if reader.offset != covered.len() {
            return Err(reader.wrong("the number of chunks does not match the length"));
        }
        Ok(Manifest { version, scheme, salt, file_bytes, chunks, seal, id })
    }

    /// As [`Manifest::decode`], of a manifest that was asked for by its name.
    ///
    /// # Errors
    /// [`ManifestError`]; [`ManifestError::Another`] if it has another name.
    pub fn decode_named(expected: Digest, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let manifest = Manifest::decode(bytes)?;
        let found = manifest.id;
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

    fn scheme(&mut self) -> Result<Scheme, ManifestError> {
        let (k, m) = (self.u16()?, self.u16()?);
        Scheme::new(k, m).map_err(|_| self.wrong("no scheme has this k and m"))
    }

    /// A chunk, but for its shards.
    fn chunk(&mut self, version: u16) -> Result<Chunk, ManifestError> {
        let plain_bytes = self.u32()?;
        let compressed = match self.take()? {
            [0] => false,
            [1] => true,
            _ => return Err(self.wrong("compressed is neither 0 nor 1")),
        };
        let body_bytes = self.u32()?;
        if plain_bytes == 0 || body_bytes > plain_bytes || (body_bytes == plain_bytes) == compressed
        {
            return Err(self.wrong("lengths of a chunk that encoding does not make"));
        }
        let siv = self.take()?;
        let sealed = if version > 1 { Some(Digest(self.take()?)) } else { None };
        Ok(Chunk { plain_bytes, compressed, body_bytes, siv, sealed, shards: Vec::new() })
    }

    fn shards(&mut self, scheme: Scheme) -> Result<Vec<ShardEntry>, ManifestError> {
        let rest = self.bytes.len() - self.offset;
        if usize::from(scheme.total()) * SHARD_BYTES > rest {
            return Err(self.wrong("it ends too early"));
        }
        let mut shards = Vec::with_capacity(usize::from(scheme.total()));
        for _ in 0..scheme.total() {
            let (digest, root) = (Digest(self.take()?), Digest(self.take()?));
            shards.push(ShardEntry { digest, root });
        }
        Ok(shards)
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
