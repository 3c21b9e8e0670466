//! Files, manifests, uploads.

use base::NodeName;
use base::prng::Key as Seed;
use erasure::{Codec, Scheme};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use store::{
    Assembly, Config, DecodeError, Digest, EncodeError, EncodedShard, Key, Manifest, ManifestError,
    Progress, ReencodeError, Salt, Upload, encode, merkle,
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
                // The encoding is not sealed: a wrong one names other shards, or none that fit.
                let mut assembly = Assembly::new(forged.clone());
                for shard in &shards {
                    let _ = assembly.offer(shard.digest, shard.bytes.clone());
                }
                let had = assembly.decode(&mut Codec::new(), &key());
                if forged.content() == manifest.content() {
                    prop_assert!(forged.is_sealed_by(&key()));
                    prop_assert!(had.is_err() || had.unwrap() == file(2_500, 1));
                } else {
                    prop_assert!(!forged.is_sealed_by(&key()));
                    prop_assert_eq!(had, Err(DecodeError::Seal));
                }
                let name = Manifest::decode_named(manifest.id(), &bytes);
                let (expected, found) = (manifest.id(), forged.id());
                prop_assert_eq!(name, Err(ManifestError::Another { expected, found }));
            }
        }
    }

    #[test]
    fn no_bytes_are_a_manifest_by_chance(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(Manifest::decode(&bytes), Err(ManifestError::NotAManifest));
        // And none make it panic or ask for more memory than they have bytes.
        for version in [1, 2] {
            let mut bytes = [&b"TRMF"[..], &[version, 0], &bytes].concat();
            let digest = Digest::of(&bytes);
            bytes.extend_from_slice(&digest.0);
            let _ = Manifest::decode(&bytes);
        }
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
    assert_eq!(bytes.len(), 38 + 73 + 3 * 64 + 64);
    assert_eq!(format!("{}", manifest.id()), GOLDEN);
    assert_eq!(decoded(&Manifest::decode(&bytes).unwrap(), &shards).unwrap(), b"golden");
}

/// As the first version wrote it: sealed as a whole, so it has this encoding for good.
#[test]
fn a_manifest_of_version_1_is_read() {
    let bytes = unhex(GOLDEN_1);
    let manifest = Manifest::decode(&bytes).expect("it is one");
    assert_eq!(manifest.encode(), bytes);
    assert_eq!(manifest.content(), manifest.id());
    let mut assembly = Assembly::new(manifest);
    for shard in SHARDS_1.map(unhex) {
        let _ = assembly.offer(Digest::of(&shard), shard).expect("its digest is right");
    }
    let mut codec = Codec::new();
    assert_eq!(assembly.decode(&mut codec, &key()).unwrap(), b"golden");
    let other = Scheme::new(4, 2).expect("it exists");
    assert_eq!(assembly.reencode(&mut codec, other).err(), Some(ReencodeError::Whole));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whoever has k shards of each chunk, and no key, gives the file another scheme; and again another. Its owner
    /// has it from any of them, under its own seal.
    #[test]
    fn a_file_is_encoded_anew_without_its_key(
        bytes in 0usize..8_000, schemes in prop::collection::vec((1u16..9, 1u16..9), 2..5), seed: u64,
    ) {
        let (k, m) = schemes[0];
        let file = file(bytes, seed);
        let (mut manifest, mut shards) = encoded(&config(k, m, 512), &file);
        let (content, mut codec) = (manifest.content(), Codec::new());
        for (k, m) in &schemes[1..] {
            let mut assembly = Assembly::new(manifest.clone());
            // The last k of each chunk.
            let parity = manifest.scheme().parity();
            for shard in shards.iter().filter(|shard| shard.index >= parity) {
                assembly.offer(shard.digest, shard.bytes.clone()).unwrap();
            }
            let to = Scheme::new(*k, *m).unwrap();
            let (next, made) = assembly.reencode(&mut codec, to).unwrap();
            prop_assert_eq!(next.scheme(), to);
            prop_assert_eq!(next.content(), content);
            prop_assert!(next.is_sealed_by(&key()) && !next.is_sealed_by(&Key::new([8; 32])));
            prop_assert_eq!(&Manifest::decode(&next.encode()).unwrap(), &next);
            for shard in &made {
                let entry = next.chunks()[shard.chunk as usize].shards[usize::from(shard.index)];
                prop_assert_eq!(entry.digest, shard.digest);
                prop_assert_eq!(entry.root, merkle::root(&shard.bytes));
            }
            prop_assert_eq!(decoded(&next, &made).unwrap(), file.clone());
            (manifest, shards) = (next, made);
        }
    }
}

/// Whoever encoded it before made it wrong, in a manifest that fits itself: that is seen without the key.
#[test]
fn a_wrong_encoding_is_not_encoded_anew_and_is_never_another_file() {
    let (manifest, _) = encoded(&config(2, 1, 256), &file(400, 1));
    let (_, others) = encoded(&config(2, 1, 256), &file(400, 2));
    let mut forged = manifest.encode();
    let behind_seal = forged.len() - 32 - 3 * 64;
    for shard in &others {
        let at = behind_seal + usize::from(shard.index) * 64;
        forged[at..at + 32].copy_from_slice(&shard.digest.0);
        forged[at + 32..at + 64].copy_from_slice(&merkle::root(&shard.bytes).0);
    }
    let covered = forged.len() - 32;
    let name = Digest::of(&forged[..covered]);
    forged[covered..].copy_from_slice(&name.0);
    let forged = Manifest::decode(&forged).expect("it fits itself");
    assert!(forged.is_sealed_by(&key()) && forged.content() == manifest.content());
    let mut assembly = Assembly::new(forged.clone());
    for shard in &others {
        assembly.offer(shard.digest, shard.bytes.clone()).expect("its digest is right");
    }
    let other = Scheme::new(4, 2).expect("it exists");
    let refused = assembly.reencode(&mut Codec::new(), other).err();
    assert_eq!(refused, Some(ReencodeError::NotSealed { chunk: 0 }));
    let what = "decryption";
    assert_eq!(decoded(&forged, &others), Err(DecodeError::Chunk { chunk: 0, what }));
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

const GOLDEN: &str = "dcaf65f0510b6ae3852b623e84cea936fe4a104f9559726e81ede2cf33269fe3";

const GOLDEN_1: &str = "54524d460100020001000303030303030303030303030303030306000000000000000100000006000000000600000021\
     cac3a9775d6f5c520d7b9bebefc14560e639718063fb91c061946eff14166f168d236dadac6ab688189a927ff31731d2\
     b3b8f03f3cc01d01731ba01bd343e70b7f57396b2c339197a2b224f24b81e5f0edfddddb6a68167650f8f23b4b4499db\
     9be63864e53b2cb14dd3aa648c0ce80452a988395d39663b56c2bcb73683793487fe38c0fdb58bb310115bf229cc881d\
     3413ea6a0c33e3d9634c889164fc3958453d56c173d1e934a5bcf4223467ed5fdf20c9599d3292e8a53f869544458fe6\
     6d0b711ed848cefcf4bc7b655fa765ddd78556c149638cfede71b76f2934e479aebdeac6919f7633e58bf673aeac86b9\
     b5d05aa63c24d18097c4ca931745d8f57c987f11e1585896baebc9639b9c4611f67429640ef303d8889523a5b0cdcc";

const SHARDS_1: [&str; 3] =
    ["c3483c7cc53abaa535f1c010", "2d4421ae7361ae8b5d7d0000", "ee0c1dd2b65b142e688cc010"];
