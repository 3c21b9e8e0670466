//! Segments whose checksums are all right and which do not fit together.

use std::collections::BTreeMap;

use base::Sequence;
use wal_core::{
    Corruption, Damage, MemoryStorage, OpenError, Place, Record, ScanConfig, Scanned, SegmentId,
    Visitor,
};

use crate::forge::{Batch, Seal, batch, header_copy, record};
use crate::support::open;

const EPOCH: u32 = 1;
const BATCH_BYTES_MAX: u32 = 3072;

/// What is told, by sequence.
#[derive(Default)]
struct Told(BTreeMap<u64, Vec<u8>>);

impl Visitor for Told {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        assert_eq!(self.0.insert(record.sequence.0, record.payload.to_vec()), None);
    }
}

/// The first segment's end and its last guard's checksum, with records 1 and 2 in two batches; and where
/// the first of them ends.
struct First {
    bytes: Vec<u8>,
    one_batch: u64,
    length: u64,
    guards: [u32; 2],
}

fn first_segment() -> First {
    let mut bytes = header_copy(1, EPOCH, BATCH_BYTES_MAX, &Seal::NOTHING).repeat(2);
    let (mut chain, mut ends, mut guards) = (0, [0; 2], [0; 2]);
    for n in 0..2 {
        let (offset, first) = (bytes.len() as u64, n as u64 + 1);
        let records = &[record(first, 0, b"in the first")];
        let b = Batch {
            segment: 1,
            epoch: EPOCH,
            offset,
            first,
            records,
            watermark: n as u64,
            chain,
            mark: 8,
        };
        let (batch, checksum) = batch(&b);
        bytes.extend_from_slice(&batch);
        (chain, guards[n], ends[n]) = (checksum, checksum, bytes.len() as u64);
    }
    First { bytes, one_batch: ends[0], length: ends[1], guards }
}

/// A second segment behind it, with one record that follows what its seal says.
fn log(seal: &Seal) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    *storage.file_mut(SegmentId(1)) = first_segment().bytes;
    let mut bytes = header_copy(2, EPOCH, BATCH_BYTES_MAX, seal).repeat(2);
    let first = seal.last + 1;
    let b = Batch {
        segment: 2,
        epoch: EPOCH,
        offset: 1024,
        first,
        records: &[record(first, 0, b"in the second")],
        watermark: 0,
        chain: seal.guard,
        mark: 8,
    };
    bytes.extend_from_slice(&batch(&b).0);
    *storage.file_mut(SegmentId(2)) = bytes;
    storage
}

fn read(storage: &mut MemoryStorage) -> (Vec<u64>, Scanned) {
    let mut told = Told::default();
    let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut told).unwrap();
    let before = storage.clone();
    match open(storage) {
        Ok(_) => assert!(!scanned.is_corrupt()),
        Err(OpenError::Corrupt(_)) => assert!(scanned.is_corrupt() && *storage == before),
        Err(other) => panic!("{other}"),
    }
    (told.0.into_keys().collect(), scanned)
}

fn mismatch(offset: u64) -> Corruption {
    Corruption {
        segment: Some(SegmentId(1)),
        offset,
        bytes: 0,
        what: Damage::SealMismatch,
        last_sequence_before: Sequence(2),
        hides_records: true,
    }
}

#[test]
fn a_segment_has_to_end_as_its_seal_says() {
    let First { length, guards, one_batch, .. } = first_segment();
    let right = |last, guard| Seal { flags: 0, segment: 1, length, last, guard };
    let (told, scanned) = read(&mut log(&right(2, guards[1])));
    assert_eq!((told, scanned.corruption), (vec![1, 2, 3], vec![]));

    // Three records more than are there, and one less.
    let (told, scanned) = read(&mut log(&right(5, guards[1])));
    assert_eq!((told, scanned.corrupted_records), (vec![1, 2, 6], 3));
    assert_eq!(scanned.corruption, [mismatch(length)]);
    let (told, scanned) = read(&mut log(&right(1, guards[1])));
    assert_eq!(scanned.corruption[0], mismatch(length));
    assert_eq!(told, [1, 2], "no other record takes a record's place");

    // Another guard than the last.
    for guard in [guards[0], guards[1] ^ 1, 0] {
        let (told, scanned) = read(&mut log(&right(2, guard)));
        assert_eq!(scanned.corruption, [mismatch(length)]);
        assert_eq!(told, [1, 2, 3]);
    }

    // A length with one batch less than the last record says.
    let early = Seal { length: one_batch, ..right(2, guards[1]) };
    let (told, scanned) = read(&mut log(&early));
    assert_eq!(told, [1, 3]);
    let what: Vec<Damage> = scanned.corruption.iter().map(|one| one.what).collect();
    assert_eq!(what, [Damage::SealMismatch, Damage::BehindSeal]);
    // A length in the middle of a batch: what the batch itself proves is still true.
    let amid = Seal { length: length - 1, ..right(2, guards[1]) };
    let (told, scanned) = read(&mut log(&amid));
    assert!(scanned.is_corrupt());
    assert_eq!(told, [1, 2, 3]);
}

/// Whoever believed a head with such a number would run out of numbers behind it.
#[test]
fn no_head_counts_further_than_a_log_can() {
    let First { length, guards, .. } = first_segment();
    let most = 1 << 63;
    for (last, believed) in [(most - 1, true), (most, false)] {
        let seal = Seal { flags: 0, segment: 1, length, last, guard: guards[1] };
        let (told, scanned) = read(&mut log(&seal));
        let expected: &[u64] = if believed { &[1, 2, most] } else { &[1, 2] };
        assert_eq!(told, expected);
        assert_eq!(scanned.corruption[0], mismatch(length));
        let tail = scanned.corruption.get(1).map(|one| (one.segment, one.offset, one.what));
        let damaged = (Some(SegmentId(2)), 1024, Damage::TailDamaged);
        assert_eq!(tail, (!believed).then_some(damaged));
    }
}
