//! Merkle trees over a shard's blocks: a prover shows a range of blocks to a verifier that holds only
//! the root.
//!
//! Leaves, nodes and the root are hashed under different first bytes, so that none passes for another;
//! the root covers the shard's length, so that a prover cannot choose how many blocks there are. A node
//! without a neighbour goes up as it is.

use crate::Digest;
use sha2::{Digest as _, Sha256};

/// The length of a block in bytes; the last one may be shorter.
pub const BLOCK_BYTES: u64 = 256;

/// The blocks of a range, and what else is needed to compute the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The shard's length in bytes.
    pub shard_bytes: u64,
    /// The first block of the range.
    pub first: u64,
    /// The blocks' bytes.
    pub blocks: Vec<Vec<u8>>,
    /// The hashes beside the range, from the leaves up, the left one of a level first.
    pub beside: Vec<Digest>,
}

/// How many blocks a shard of this length has.
#[must_use]
pub fn blocks(shard_bytes: u64) -> u64 {
    shard_bytes.div_ceil(BLOCK_BYTES)
}

/// The root of a shard.
#[must_use]
pub fn root(shard: &[u8]) -> Digest {
    let mut level: Vec<Digest> = shard.chunks(BLOCK_BYTES as usize).map(leaf).collect();
    while level.len() > 1 {
        level = up(&level);
    }
    top(shard.len() as u64, level.first())
}

/// The proof for `count` blocks from `first` on; `None` if the shard does not have them.
#[must_use]
pub fn prove(shard: &[u8], first: u64, count: u64) -> Option<Proof> {
    let end = first.checked_add(count)?;
    if count == 0 || end > blocks(shard.len() as u64) {
        return None;
    }
    let mut level: Vec<Digest> = shard.chunks(BLOCK_BYTES as usize).map(leaf).collect();
    let (mut low, mut high) = (first as usize, end as usize);
    let chunks = shard.chunks(BLOCK_BYTES as usize).skip(low).take(high - low);
    let blocks = chunks.map(<[u8]>::to_vec).collect();
    let mut beside = Vec::new();
    while level.len() > 1 {
        if low % 2 == 1 {
            beside.push(level[low - 1]);
        }
        if high % 2 == 1 && high < level.len() {
            beside.push(level[high]);
        }
        (low, high) = (low / 2, high.div_ceil(2));
        level = up(&level);
    }
    Some(Proof { shard_bytes: shard.len() as u64, first, blocks, beside })
}

/// Whether the proof shows these blocks of a shard with this root. It says nothing about when it was
/// made, or which range was asked for: compare [`Proof::first`] and the number of blocks.
#[must_use]
pub fn verify(root: Digest, proof: &Proof) -> bool {
    let Proof { shard_bytes, first, blocks: shown, beside } = proof;
    let all = blocks(*shard_bytes);
    let Some(end) = first.checked_add(shown.len() as u64) else { return false };
    if shown.is_empty() || end > all {
        return false;
    }
    for (at, block) in (*first..end).zip(shown) {
        if block.len() as u64 != BLOCK_BYTES.min(shard_bytes - at * BLOCK_BYTES) {
            return false;
        }
    }
    let mut level: Vec<Digest> = shown.iter().map(|block| leaf(block)).collect();
    let (mut low, mut high, mut width) = (*first, end, all);
    let mut beside = beside.iter().copied();
    while width > 1 {
        if low % 2 == 1 {
            let Some(left) = beside.next() else { return false };
            level.insert(0, left);
        }
        if high % 2 == 1 && high < width {
            let Some(right) = beside.next() else { return false };
            level.push(right);
        }
        level = up(&level);
        (low, high, width) = (low / 2, high.div_ceil(2), width.div_ceil(2));
    }
    beside.next().is_none() && level.len() == 1 && top(*shard_bytes, level.first()) == root
}

fn up(level: &[Digest]) -> Vec<Digest> {
    let parent = |pair: &[Digest]| match pair {
        [left, right] => hash(1, &[&left.0, &right.0]),
        alone => alone[0],
    };
    level.chunks(2).map(parent).collect()
}

fn leaf(block: &[u8]) -> Digest {
    hash(0, &[block])
}

fn top(shard_bytes: u64, top: Option<&Digest>) -> Digest {
    let tree = top.map_or(&[][..], |digest| &digest.0);
    hash(2, &[&shard_bytes.to_le_bytes(), tree])
}

fn hash(kind: u8, parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new_with_prefix([kind]);
    for part in parts {
        hash.update(part);
    }
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The root by recursion over the largest power of two below the width, as RFC 6962 splits a tree.
    fn by_recursion(blocks: &[&[u8]]) -> [u8; 32] {
        if let [block] = blocks {
            return Sha256::digest([&[0], *block].concat()).into();
        }
        let left = blocks.len().next_power_of_two() / 2;
        let (left, right) = (by_recursion(&blocks[..left]), by_recursion(&blocks[left..]));
        Sha256::digest([&[1], &left[..], &right[..]].concat()).into()
    }

    #[test]
    fn every_range_of_every_small_tree() {
        for length in (1..14).map(|blocks| blocks * 256).chain([1, 255, 257, 2_049]) {
            let shard: Vec<u8> = (0..length).map(|at| (at * 7 / 3) as u8).collect();
            let root = root(&shard);
            let tree = by_recursion(&shard.chunks(256).collect::<Vec<_>>());
            let expected = [&[2], &(length as u64).to_le_bytes()[..], &tree].concat();
            assert_eq!(root, Digest::of(&expected));
            let all = blocks(length as u64);
            for first in 0..all {
                for count in 1..=all - first {
                    let proof = prove(&shard, first, count).unwrap();
                    assert!(verify(root, &proof), "{length}: {first} + {count}");
                    let moved = Proof { first: first + 1, ..proof.clone() };
                    assert!(!verify(root, &moved), "another place");
                    for at in 0..proof.beside.len() {
                        let mut proof = proof.clone();
                        proof.beside.remove(at);
                        assert!(!verify(root, &proof), "a hash is missing");
                    }
                }
            }
            assert_eq!(prove(&shard, 0, all + 1), None);
            assert_eq!(prove(&shard, u64::MAX, 2), None);
            assert_eq!(prove(&shard, 0, 0), None);
        }
    }

    proptest! {
        #[test]
        fn a_changed_proof_fails(
            length in 1usize..4_000, at in any::<(u16, u16, u16)>(), bit in 0u8..8
        ) {
            let shard: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let root = root(&shard);
            let first = u64::from(at.0) % blocks(length as u64);
            let count = 1 + u64::from(at.1) % (blocks(length as u64) - first);
            let good = prove(&shard, first, count).unwrap();
            let mut proof = good.clone();
            let block = usize::from(at.2) % proof.blocks.len();
            let byte = usize::from(at.0) % proof.blocks[block].len();
            proof.blocks[block][byte] ^= 1 << bit;
            prop_assert!(!verify(root, &proof));
            for change in [1, 256, u64::MAX] {
                let shard_bytes = good.shard_bytes.wrapping_add(change);
                let proof = Proof { shard_bytes, ..good.clone() };
                prop_assert!(!verify(root, &proof));
            }
            let mut proof = good.clone();
            proof.beside.push(Digest([0; 32]));
            prop_assert!(!verify(root, &proof));
        }
    }
}
