//! What is written is FORMAT.md, field by field, as [`crate::forge`] writes it down a second time: whoever changes the bytes changes the document
//! and this test, or neither.

use base::{Epoch, Time};
use wal_core::{Config, EventType, MemoryStorage, OpenMode, Opening, SegmentId, Storage};

use crate::forge::{Batch, LOG_ID, Seal, batch, header_copy, record};

/// Bit by bit, from the definition.
fn crc(polynomial: u32, bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 };
        }
    }
    !crc
}

fn crc32(bytes: &[u8]) -> u32 {
    crc(0xEDB8_8320, bytes)
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc(0x82F6_3B78, bytes)
}

#[test]
fn a_log_is_what_the_document_says() {
    assert_eq!((crc32(b"123456789"), crc32c(b"123456789")), (0xCBF4_3926, 0xE306_9283));
    let mut storage = MemoryStorage::new();
    let config = Config::default();
    let mut opening =
        Opening::scan(&storage, config.clone(), OpenMode::Exclusive, &mut ()).unwrap();
    storage.perform_all(&opening.claim(Epoch::new(5), LOG_ID).unwrap()).unwrap();
    storage.perform_all(&opening.read_tail(&storage, &mut ()).unwrap()).unwrap();
    let mut log = opening.finish(&storage, Time::ZERO).unwrap();
    let payloads = [b"short".to_vec(), vec![0x33; 1500], Vec::new()];
    for (n, payload) in payloads.iter().enumerate() {
        let sequence = log.append(EventType::TX_COMMIT_START, -(n as i64), payload).unwrap();
        if n != 1 {
            log.force(sequence);
            assert!(wal_core::drive(&mut storage, &mut log, Time::ZERO));
        }
    }
    wal_core::close(&mut storage, &mut log, Time::ZERO);

    let mut expected = header_copy(1, 5, 1 << 20, &Seal::NOTHING).repeat(2);
    let records: Vec<Vec<u8>> =
        payloads.iter().zip(1..).map(|(p, n)| record(n, 1 - n as i64, p)).collect();
    let mut chain = 0;
    // Sequence of the first record, records, watermark.
    let batches = [(1, &records[..1], 0), (2, &records[1..], 1), (4, &[], 3), (4, &[], 3)];
    for (index, (first, records, watermark)) in batches.into_iter().enumerate() {
        let offset = expected.len() as u64;
        let mut b =
            Batch { segment: 1, epoch: 5, offset, first, records, watermark, chain, mark: 8 };
        if index == 2 {
            let end = offset as usize + batch(&b).0.len();
            b.mark += (512 - end % 512) % 512;
        }
        let (bytes, checksum) = batch(&b);
        expected.extend_from_slice(&bytes);
        chain = checksum;
        assert!(index != 2 || expected.len().is_multiple_of(512));
    }
    assert_eq!(storage.file_mut(SegmentId(1)), &expected);
    // The libraries' checksums are those of the definition.
    assert_eq!(crc32(&expected), crc32fast::hash(&expected));
    assert_eq!(crc32c(&expected), crc32c::crc32c(&expected));

    let mode = OpenMode::TakeOver;
    let (log, _) = wal_core::open(&mut storage, &config, mode, 9, Time::ZERO, &mut ()).unwrap();
    assert_eq!(log.segment().file_name(), "0000000000000002.wal");
    let length = expected.len() as u64;
    let seal = Seal { flags: 1, segment: 1, length, last: 3, guard: chain };
    assert_eq!(storage.file_mut(SegmentId(2)), &header_copy(2, 6, 1 << 20, &seal).repeat(2));
    assert_eq!(storage.file_mut(SegmentId(1)), &expected);
}
