//! FORMAT.md, field by field, written down a second time: whoever changes the bytes changes the document
//! and this test, or neither.

use base::{Epoch, Time};
use wal_core::{Config, EventType, MemoryStorage, OpenMode, Opening, SegmentId, Storage};

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

/// Fields, one behind the other.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u8(mut self, value: u8) -> Bytes {
        self.0.push(value);
        self
    }
    fn u32(mut self, value: u32) -> Bytes {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Bytes {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn raw(mut self, bytes: &[u8]) -> Bytes {
        self.0.extend_from_slice(bytes);
        self
    }
    fn zeros(mut self, count: usize) -> Bytes {
        self.0.resize(self.0.len() + count, 0);
        self
    }
    fn up_to(self, len: usize) -> Bytes {
        let missing = len - self.0.len();
        self.zeros(missing)
    }
}

const LOG_ID: u64 = 0x0102_0304_0506_0708;

struct Seal {
    flags: u8,
    segment: u64,
    length: u64,
    last: u64,
    guard: u32,
}

fn header_copy(segment: u64, epoch: u32, seal: &Seal) -> Vec<u8> {
    let claim = |checksum| {
        Bytes::default()
            .u8(0xC7)
            .raw(b"TRINWAL")
            .u32(1)
            .u32(checksum)
            .u64(LOG_ID)
            .u64(segment)
            .u32(epoch)
            .u32(64 << 10)
            .u32(1 << 20)
            .zeros(3)
            .u8(0xE9)
    };
    let claim = claim(crc32c(&claim(0).0));
    assert_eq!(claim.0.len(), 48);
    let seal = |checksum| {
        Bytes::default()
            .u8(0xD3)
            .u8(seal.flags)
            .zeros(2)
            .u32(checksum)
            .u64(seal.segment)
            .u64(seal.length)
            .u64(seal.last)
            .u32(seal.guard)
            .zeros(4)
            .u64(seal.last + 1)
            .zeros(7)
            .u8(0xE9)
    };
    let checksum = crc32c(&[&claim.0[..], &seal(0).0].concat());
    claim.up_to(64).raw(&seal(checksum).0).up_to(512).0
}

fn record(sequence: u64, timestamp: i64, payload: &[u8]) -> Vec<u8> {
    Bytes::default()
        .raw(b"WAL!")
        .u8(0x14)
        .u64(sequence)
        .u64(timestamp as u64)
        .u32(payload.len() as u32)
        .u32(crc32(payload))
        .raw(payload)
        .0
}

struct Batch<'a> {
    segment: u64,
    epoch: u32,
    offset: u64,
    first: u64,
    records: &'a [Vec<u8>],
    watermark: u64,
    chain: u32,
    mark: usize,
}

/// The batch and its head checksum.
fn batch(b: &Batch<'_>) -> (Vec<u8>, u32) {
    let records = b.records.concat();
    let sectors = |len: u64| (b.offset + len - 1) / 512 - b.offset / 512 + 1;
    let len = |n: u64| 58 + 4 * n + (records.len() + b.mark) as u64;
    let n = (1..).find(|&n| sectors(len(n)) == n).unwrap();
    let body = [&records[..], &vec![0xDB; b.mark]].concat();
    let body_at = b.offset + 58 + 4 * n;
    let mut list = Bytes::default();
    for sector in b.offset / 512..b.offset / 512 + n {
        let in_sector = |at: usize| (body_at + at as u64) / 512 == sector;
        let part: Vec<u8> =
            (0..body.len()).filter(|&at| in_sector(at)).map(|at| body[at]).collect();
        list = list.u32(if part.is_empty() { 0 } else { crc32c(&part) });
    }
    let head = |crc: u32, checksum: u32| {
        Bytes::default()
            .raw(b"WAL!")
            .u8(0xF1)
            .u64(b.first)
            .u64(0)
            .u32(29 + 4 * n as u32)
            .u32(crc)
            .u32(len(n) as u32)
            .u32(b.records.len() as u32)
            .u64(b.watermark)
            .u32(b.chain)
            .u32(crc32c(&list.0))
            .u32(checksum)
            .u8(0xB7)
            .0
    };
    let seed = Bytes::default().u64(LOG_ID).u64(b.segment).u32(b.epoch).u64(b.offset);
    let checksum = crc32c(&seed.raw(&head(0, 0)).0);
    let crc = crc32(&[&head(0, checksum)[29..], &list.0].concat());
    ([head(crc, checksum), list.0, body].concat(), checksum)
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

    let nothing = Seal { flags: 0, segment: 0, length: 0, last: 0, guard: 0 };
    let mut expected = header_copy(1, 5, &nothing).repeat(2);
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

    let mode = OpenMode::TakeOver;
    let (log, _) = wal_core::open(&mut storage, &config, mode, 9, Time::ZERO, &mut ()).unwrap();
    assert_eq!(log.segment().file_name(), "0000000000000002.wal");
    let length = expected.len() as u64;
    let seal = Seal { flags: 1, segment: 1, length, last: 3, guard: chain };
    assert_eq!(storage.file_mut(SegmentId(2)), &header_copy(2, 6, &seal).repeat(2));
    assert_eq!(storage.file_mut(SegmentId(1)), &expected);
}
