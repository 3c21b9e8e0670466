//! Files, manifests, uploads.

use base::NodeName;
use base::prng::Key as Seed;
use erasure::{Codec, Scheme};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use store::{
    Assembly, Config, DecodeError, Digest, EncodeError, EncodedShard, Key, Manifest, ManifestError,
    Progress, Salt, Upload, encode, merkle,
};

fn config(k: u16, m: u16, shard_bytes: u32) -> Config {
    let scheme = Scheme::new(k, m).expect("these tests use schemes that exist");
    Config { shard_bytes, ..Config::new(scheme) }
}

fn key() -> Key {
    Key::new([9; 32])
}

/// Half noise, half zeros: some chunks shrink and some do not.
fn file(bytes: usize, seed: u64) -> Vec<u8> {
    let mut stream = Seed::root(seed).stream();
    let noise = |at: usize| if (at / 1_000).is_multiple_of(2) { 0xFF } else { 0 };
    (0..bytes).map(|at| stream.next_u64() as u8 & noise(at)).collect()
}

fn encoded(config: &Config, file: &[u8]) -> (Manifest, Vec<EncodedShard>) {
    encode(config, &mut Codec::new(), &key(), Salt([3; 16]), file).expect("it can be encoded")
}

fn decoded<'a>(
    manifest: &Manifest,
    shards: impl IntoIterator<Item = &'a EncodedShard>,
) -> Result<Vec<u8>, DecodeError> {
    let mut assembly = Assembly::new(manifest.clone());
    for shard in shards {
        assembly.offer(shard.digest, shard.bytes.clone()).expect("its digest is right");
    }
    assembly.decode(&mut Codec::new(), &key())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any file, any scheme, any `k` shards of each chunk: the file. One fewer of some chunk: told which.
    #[test]
    fn any_k_shards_of_each_chunk_are_the_file(
        bytes in prop_oneof![0usize..600, 0usize..20_000],
        k in 1u16..9, m in 1u16..9, half in 128u32..600, compressed: bool, seed: u64,
    ) {
        let mut config = config(k, m, half * 2);
        config.compression = compressed.then_some(3);
        let file = file(bytes, seed);
        let (manifest, shards) = encoded(&config, &file);
        prop_assert_eq!(&Manifest::decode(&manifest.encode()).unwrap(), &manifest);
        let total: usize = shards.iter().map(|shard| shard.bytes.len()).sum();
        prop_assert!(total as u64 <= config.stored_bytes_max(bytes as u64));
        for shard in &shards {
            prop_assert!(shard.bytes.len() <= config.shard_bytes as usize);
            let named: [u8; 32] = Sha256::digest(&shard.bytes).into();
            let entry = manifest.chunks()[shard.chunk as usize].shards[usize::from(shard.index)];
            prop_assert_eq!(entry.digest, Digest(named));
            prop_assert_eq!(entry.root, merkle::root(&shard.bytes));
        }
        let mut stream = Seed::root(seed).child("kept").stream();
        let mut kept: BTreeSet<(u32, u16)> = BTreeSet::new();
        for chunk in 0..manifest.chunks().len() as u32 {
            let some = stream.distinct(u32::from(k), u32::from(k + m));
            kept.extend(some.into_iter().map(|index| (chunk, index as u16)));
        }
        let left = |shard: &&EncodedShard| kept.contains(&(shard.chunk, shard.index));
        prop_assert_eq!(decoded(&manifest, shards.iter().filter(left)).unwrap(), file);
        let Some((chunk, _)) = kept.pop_first() else { return Ok(()) };
        let left = |shard: &&EncodedShard| kept.contains(&(shard.chunk, shard.index));
        // Equal shards take each other's place, also that of one that was never kept: copies, and the
        // zeros behind a short chunk.
        let there: BTreeSet<_> = shards.iter().filter(left).map(|shard| shard.digest).collect();
        let places = manifest.chunks()[chunk as usize].shards.iter();
        let found = places.filter(|place| there.contains(&place.digest)).count() as u16;
        if found < k {
            let missing = DecodeError::Missing { chunk, found, needed: k };
            prop_assert_eq!(decoded(&manifest, shards.iter().filter(left)), Err(missing));
        }
    }

    /// One bit of a manifest: refused by its digest. With the digest made to match, refused by the seal,
    /// and no byte of it makes anything panic.
    #[test]
    fn a_changed_manifest_is_refused(at: u32, bit in 0u8..8) {
        let (manifest, shards) = encoded(&config(3, 2, 256), &file(2_500, 1));
        let mut bytes = manifest.encode();
        let at = at as usize % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Manifest::decode(&bytes).is_err());
        let covered = bytes.len() - 32;
        if at < covered {
            let digest = Digest::of(&bytes[..covered]);
            bytes[covered..].copy_from_slice(&digest.0);
            if let Ok(forged) = Manifest::decode(&bytes) {
                prop_assert!(!forged.is_sealed_by(&key()));
                prop_assert_eq!(decoded(&forged, &shards), Err(DecodeError::Seal));
                let name = Manifest::decode_named(manifest.id(), &bytes);
                let (expected, found) = (manifest.id(), forged.id());
                prop_assert_eq!(name, Err(ManifestError::Another { expected, found }));
            }
        }
    }

    #[test]
    fn no_bytes_are_a_manifest_by_chance(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(Manifest::decode(&bytes), Err(ManifestError::NotAManifest));
        // And none make it panic or ask for more memory than they have bytes.
        bytes.splice(0..0, *b"TRMF\x01\0");
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(&digest.0);
        let _ = Manifest::decode(&bytes);
    }
}

#[test]
fn lengths_at_every_edge_come_back() {
    for (k, m) in [(1, 1), (4, 2), (16, 16)] {
        let config = config(k, m, 256);
        let full = usize::from(k) * 256 - 16;
        for bytes in [0, 1, 2, full - 1, full, full + 1, 2 * full, 2 * full + 1] {
            let file = file(bytes, 5);
            let (manifest, shards) = encoded(&config, &file);
            assert_eq!(decoded(&manifest, &shards).unwrap(), file, "RS({k},{m}), {bytes} bytes");
        }
    }
}

#[test]
fn a_file_may_have_more_than_256_shards() {
    let file = file(100_000, 6);
    let (manifest, shards) = encoded(&config(4, 2, 256), &file);
    assert!(shards.len() > 300);
    assert_eq!(decoded(&manifest, &shards).unwrap(), file);
    let wide = config(300, 300, 256);
    let (manifest, shards) = encoded(&wide, &file);
    assert!(manifest.chunks()[0].shards.len() == 600);
    assert_eq!(decoded(&manifest, shards.iter().filter(|s| s.index >= 300)).unwrap(), file);
}

#[test]
fn compression_is_recorded_chunk_by_chunk() {
    let mut mixed = file(0, 0);
    mixed.extend(vec![b'a'; 1_008]);
    mixed.extend((0..1_008).map(|at| Seed::root(1).draw(at, 0).u64() as u8));
    let (manifest, shards) = encoded(&config(4, 2, 256), &mixed);
    let flags: Vec<bool> = manifest.chunks().iter().map(|chunk| chunk.compressed).collect();
    assert_eq!(flags, [true, false]);
    assert!(manifest.shard_bytes(&manifest.chunks()[0]) < 32);
    assert_eq!(decoded(&manifest, &shards).unwrap(), mixed);
}

/// Two encodings of one file under one key and salt never share a cipher key unless the bytes are equal.
#[test]
fn another_layout_makes_other_keys_and_the_same_one_the_same_shards() {
    // All of it can be compressed, so that another layout means other bytes everywhere.
    let file: Vec<u8> = (0..3_000).map(|at| (at / 50) as u8).collect();
    let (first, shards) = encoded(&config(4, 2, 256), &file);
    let (again, same) = encoded(&config(4, 2, 256), &file);
    assert_eq!((&first, &shards), (&again, &same));
    let mut sivs: BTreeSet<[u8; 32]> = first.chunks().iter().map(|chunk| chunk.siv).collect();
    let mut longer = file.clone();
    longer.push(0);
    let plain = Config { compression: None, ..config(4, 2, 256) };
    let others = [(config(8, 2, 256), &file), (plain, &file), (config(4, 2, 256), &longer)];
    for (config, file) in others {
        for chunk in encoded(&config, file).0.chunks() {
            assert!(sivs.insert(chunk.siv), "a key is used for other bytes");
        }
    }
}

#[test]
fn a_shard_that_lies_and_a_stranger_are_told_apart() {
    let (manifest, shards) = encoded(&config(2, 1, 256), &file(700, 1));
    let mut assembly = Assembly::new(manifest);
    let mut bytes = shards[0].bytes.clone();
    bytes[7] ^= 1;
    let lies = assembly.offer(shards[0].digest, bytes.clone()).unwrap_err();
    assert_eq!((lies.claimed, lies.found), (shards[0].digest, Digest::of(&bytes)));
    assert_eq!(assembly.offer(lies.found, bytes), Ok(false), "a shard of no file that it knows");
    let wanted = assembly.wanted().count();
    assert_eq!(wanted, shards.len());
    assert_eq!(assembly.offer(shards[0].digest, shards[0].bytes.clone()), Ok(true));
    assert_eq!(assembly.offer(shards[0].digest, shards[0].bytes.clone()), Ok(false), "twice");
    assert_eq!(assembly.wanted().count(), wanted - 1);
    let other = assembly.decode(&mut Codec::new(), &Key::new([1; 32]));
    assert_eq!(other, Err(DecodeError::Seal));
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let refused = |config: &Config, bytes: usize| {
        encode(config, &mut Codec::new(), &key(), Salt([0; 16]), &vec![0; bytes]).unwrap_err()
    };
    for shard_bytes in [0, 254, 257, (16 << 20) + 2] {
        let error = refused(&config(2, 1, shard_bytes), 10);
        assert_eq!(error, EncodeError::ShardBytes { shard_bytes });
    }
    let small = Config { file_bytes_max: 9, ..config(2, 1, 256) };
    assert_eq!(refused(&small, 10), EncodeError::TooLarge { bytes: 10, bytes_max: 9 });
}

#[test]
fn a_manifest_is_given_out_when_enough_shards_are_durable_on_nodes_of_their_own() {
    let (manifest, shards) = encoded(&config(2, 2, 256), &file(400, 1));
    assert_eq!(shards.len(), 4);
    let upload = Upload::new(manifest.clone(), 1);
    assert!(upload.clone().finish().is_err(), "nothing is stored");
    let stored = |upload: &mut Upload, index: u16, node| {
        let shard = &shards[usize::from(index)];
        upload.stored(0, index, shard.digest, NodeName::numbered(node))
    };
    let mut one = upload.clone();
    assert_eq!(stored(&mut one, 0, 1), Progress::Waiting);
    assert_eq!(stored(&mut one, 1, 1), Progress::Waiting);
    assert_eq!(stored(&mut one, 2, 1), Progress::Waiting, "three shards, one node");
    assert_eq!(stored(&mut one, 2, 2), Progress::Waiting);
    assert_eq!(one.stored(0, 3, shards[0].digest, NodeName::numbered(3)), Progress::Waiting);
    assert_eq!(stored(&mut one, 0, 3), Progress::Durable);
    assert_eq!(one.finish().unwrap().0, manifest);

    let mut stuck = upload;
    let _ = stuck.refused(0, 0, shards[0].digest);
    assert_eq!(stuck.progress(), Progress::Waiting);
    assert_eq!(stuck.refused(0, 1, shards[1].digest), Progress::Stuck { chunk: 0 });
    assert_eq!(stored(&mut stuck, 1, 9), Progress::Waiting, "placed elsewhere");
}

/// The encoding is durable: what is stored today is read by every later version.
#[test]
fn golden_manifest() {
    let plain = Config { compression: None, ..config(2, 1, 256) };
    let (manifest, shards) = encoded(&plain, b"golden");
    let bytes = manifest.encode();
    assert_eq!(bytes.len(), 38 + 41 + 3 * 64 + 64);
    assert_eq!(format!("{}", manifest.id()), GOLDEN);
    assert_eq!(decoded(&Manifest::decode(&bytes).unwrap(), &shards).unwrap(), b"golden");
}

const GOLDEN: &str = "f57c987f11e1585896baebc9639b9c4611f67429640ef303d8889523a5b0cdcc";
