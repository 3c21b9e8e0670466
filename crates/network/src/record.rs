//! What the network knows of a file: its manifest, and who holds what.

use crate::message::RECORD_BYTES_MAX;
use base::NodeName;
use base::bytes::{Malformed, Reader, Writer};
use repair::StripeId;
use store::{Digest, Manifest};

/// One version of what is known of a file. It is itself kept by some nodes, its keepers, as bytes under
/// their digest; a version counts once a transaction has made it the current one at all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// The file's name, hashed.
    pub file: Digest,
    /// 1 at first. Each repair makes one more.
    pub version: u64,
    /// Who keeps this record, the one who sees to repairs first.
    pub keepers: Vec<NodeName>,
    /// The manifest.
    pub manifest: Manifest,
    /// Who holds each shard: by chunk, then by place.
    pub holders: Vec<Vec<NodeName>>,
}

const MAGIC: [u8; 4] = *b"TRFR";
const KEEPERS_MAX: u32 = 64;

impl FileRecord {
    /// Its bytes: `TRFR`, file 32, version 8, keepers, manifest, and 32 bytes for each shard's holder.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.raw(&MAGIC).raw(&self.file.0).u64(self.version).len(self.keepers.len());
        self.keepers.iter().for_each(|node| {
            to.node(*node);
        });
        to.bytes(&self.manifest.encode());
        self.holders.iter().flatten().for_each(|node| {
            to.node(*node);
        });
        to.finish()
    }

    /// The record of these bytes.
    ///
    /// # Errors
    /// [`Malformed`]: they are none, or say what contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<FileRecord, Malformed> {
        let mut from = Reader::new(bytes);
        if from.array()? != MAGIC {
            return Err(from.wrong("not a file's record"));
        }
        let (file, version) = (Digest(from.array()?), from.u64()?);
        let count = from.len(KEEPERS_MAX, 32)?;
        let keepers = (0..count).map(|_| from.node()).collect::<Result<_, Malformed>>()?;
        let manifest = Manifest::decode(from.bytes(RECORD_BYTES_MAX)?);
        let manifest = manifest.map_err(|_| from.wrong("not a manifest"))?;
        let mut holders = Vec::with_capacity(manifest.chunks().len());
        for _ in manifest.chunks() {
            let places = (0..manifest.scheme().total()).map(|_| from.node());
            holders.push(places.collect::<Result<Vec<NodeName>, Malformed>>()?);
        }
        from.end()?;
        Ok(FileRecord { file, version, keepers, manifest, holders })
    }

    /// Every shard: its stripe, its place there, its digest and Merkle root, and who holds it.
    pub fn shards(&self) -> impl Iterator<Item = (StripeId, u16, store::ShardEntry, NodeName)> {
        let manifest = self.manifest.id();
        let chunks = (0u32..).zip(self.manifest.chunks().iter().zip(&self.holders));
        chunks.flat_map(move |(chunk, (entry, nodes))| {
            let places = (0u16..).zip(entry.shards.iter().zip(nodes));
            places.map(move |(index, (shard, node))| {
                (StripeId { manifest, chunk }, index, *shard, *node)
            })
        })
    }

    /// The first keeper that is there.
    #[must_use]
    pub fn chief(&self, is_there: impl Fn(NodeName) -> bool) -> Option<NodeName> {
        self.keepers.iter().copied().find(|node| is_there(*node))
    }
}
