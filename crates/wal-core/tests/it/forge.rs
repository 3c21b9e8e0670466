//! FORMAT.md, field by field, written down a second time. Here are the bytes of headers and batches as the
//! document says them, whatever they claim: right ones, and forged ones whose checksums are right.

use crc32c::crc32c;
use crc32fast::hash as crc32;

/// Fields, one behind the other.
#[derive(Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn u8(mut self, value: u8) -> Bytes {
        self.0.push(value);
        self
    }
    pub fn u32(mut self, value: u32) -> Bytes {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub fn u64(mut self, value: u64) -> Bytes {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub fn raw(mut self, bytes: &[u8]) -> Bytes {
        self.0.extend_from_slice(bytes);
        self
    }
    pub fn zeros(mut self, count: usize) -> Bytes {
        self.0.resize(self.0.len() + count, 0);
        self
    }
    fn up_to(self, len: usize) -> Bytes {
        let missing = len - self.0.len();
        self.zeros(missing)
    }
}

pub const LOG_ID: u64 = 0x0102_0304_0506_0708;

pub struct Seal {
    pub flags: u8,
    pub segment: u64,
    pub length: u64,
    pub last: u64,
    pub guard: u32,
}

impl Seal {
    /// Of a log's first segment.
    pub const NOTHING: Seal = Seal { flags: 0, segment: 0, length: 0, last: 0, guard: 0 };
}

pub fn header_copy(segment: u64, epoch: u32, batch_bytes_max: u32, seal: &Seal) -> Vec<u8> {
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
            .u32(batch_bytes_max)
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

pub fn record(sequence: u64, timestamp: i64, payload: &[u8]) -> Vec<u8> {
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

#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub segment: u64,
    pub epoch: u32,
    pub offset: u64,
    pub first: u64,
    pub records: &'a [Vec<u8>],
    pub watermark: u64,
    pub chain: u32,
    pub mark: usize,
}

/// The batch and its head checksum.
pub fn batch(b: &Batch<'_>) -> (Vec<u8>, u32) {
    let records = b.records.concat();
    let sectors = |len: u64| (b.offset + len - 1) / 512 - b.offset / 512 + 1;
    let len = |n: u64| 58 + 4 * n + (records.len() + b.mark) as u64;
    let n = (1..).find(|&n| sectors(len(n)) == n).unwrap();
    let body = [&records[..], &vec![0xDB; b.mark]].concat();
    let body_at = b.offset + 58 + 4 * n;
    let mut list = Bytes::default();
    for sector in b.offset / 512..b.offset / 512 + n {
        let at = |offset: u64| (offset.saturating_sub(body_at) as usize).min(body.len());
        let part = &body[at(sector * 512)..at((sector + 1) * 512)];
        list = list.u32(if part.is_empty() { 0 } else { crc32c(part) });
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
