use crate::{Digest, Manifest};
use base::NodeName;
use std::collections::{BTreeMap, BTreeSet};

/// Who holds each shard durably, by chunk and index.
pub type Holders = BTreeMap<(u32, u16), BTreeSet<NodeName>>;

/// How an upload is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Answers are missing.
    Waiting,
    /// Enough shards of each chunk are durable on nodes of their own: [`Upload::finish`] gives the
    /// manifest.
    Durable,
    /// So many shards were refused that it cannot become durable, unless others are asked: place the
    /// refused ones elsewhere, or give up.
    Stuck {
        /// The first chunk that lacks shards.
        chunk: u32,
    },
}

/// Counts the shards of a file that nodes say they hold durably, and keeps the manifest back until they
/// are enough.
///
/// Two shards of a chunk on one node count once: they are lost together.
#[derive(Clone, Debug)]
pub struct Upload {
    manifest: Manifest,
    needed: u16,
    /// Who holds which shard, durably.
    held: Holders,
    /// Shards that are refused and held by nobody.
    refused: BTreeSet<(u32, u16)>,
}

impl Upload {
    /// Nothing is stored yet. Each chunk needs `spare` shards above `k`, at most `m`: how many of them
    /// may be lost before repair.
    #[must_use]
    pub fn new(manifest: Manifest, spare: u16) -> Upload {
        let scheme = manifest.scheme();
        let needed = scheme.data() + spare.min(scheme.parity());
        Upload { manifest, needed, held: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// A node says that it holds a shard durably. A shard that the file does not have is nothing.
    pub fn stored(&mut self, chunk: u32, index: u16, digest: Digest, node: NodeName) -> Progress {
        if self.is_shard(chunk, index, digest) {
            self.held.entry((chunk, index)).or_default().insert(node);
            self.refused.remove(&(chunk, index));
        }
        self.progress()
    }

    /// A node refused a shard, or did not answer in time.
    pub fn refused(&mut self, chunk: u32, index: u16, digest: Digest) -> Progress {
        if self.is_shard(chunk, index, digest) && !self.held.contains_key(&(chunk, index)) {
            self.refused.insert((chunk, index));
        }
        self.progress()
    }

    /// How it is doing.
    pub fn progress(&self) -> Progress {
        let mut all = true;
        for (chunk, _) in (0u32..).zip(self.manifest.chunks()) {
            let shards = (chunk, 0)..=(chunk, u16::MAX);
            let distinct = matched(self.held.range(shards.clone()).map(|(_, nodes)| nodes));
            let refused = self.refused.range(shards).count();
            if usize::from(self.manifest.scheme().total()) - refused < usize::from(self.needed) {
                return Progress::Stuck { chunk };
            }
            all &= distinct >= usize::from(self.needed);
        }
        if all { Progress::Durable } else { Progress::Waiting }
    }

    /// The manifest, which is now worth something, and who holds what.
    ///
    /// # Errors
    /// The upload itself, if it is not durable: there is no manifest of a file that is not stored.
    #[allow(clippy::result_large_err, reason = "the caller goes on with what it had")]
    pub fn finish(self) -> Result<(Manifest, Holders), Upload> {
        match self.progress() {
            Progress::Durable => Ok((self.manifest, self.held)),
            _ => Err(self),
        }
    }

    fn is_shard(&self, chunk: u32, index: u16, digest: Digest) -> bool {
        let chunk = self.manifest.chunks().get(chunk as usize);
        let shard = chunk.and_then(|chunk| chunk.shards.get(usize::from(index)));
        shard.is_some_and(|shard| shard.digest == digest)
    }
}

/// How many shards can be given a node of their own: a greatest matching, by augmenting paths (Kuhn).
fn matched<'a>(shards: impl Iterator<Item = &'a BTreeSet<NodeName>>) -> usize {
    let shards: Vec<&BTreeSet<NodeName>> = shards.collect();
    let mut taken: BTreeMap<NodeName, usize> = BTreeMap::new();
    (0..shards.len()).filter(|&at| augment(&shards, at, &mut taken, &mut BTreeSet::new())).count()
}

fn augment(
    shards: &[&BTreeSet<NodeName>],
    at: usize,
    taken: &mut BTreeMap<NodeName, usize>,
    tried: &mut BTreeSet<NodeName>,
) -> bool {
    for &node in shards[at] {
        if tried.insert(node) {
            let holder = taken.get(&node).copied();
            if holder.is_none_or(|holder| augment(shards, holder, taken, tried)) {
                taken.insert(node, at);
                return true;
            }
        }
    }
    false
}
