//! Reading one segment through a buffer of bounded size. A file counts as followed by zeros.

use std::io;

use crate::checksum::KnownSectors;
use crate::guard::{Guard, HEAD_BYTES, HEAD_MAGIC, Seed, decode_head};
use crate::read_ahead::{Block, ReadAhead};
use crate::segment::{SECTOR, is_zero};
use crate::storage::{Directory, SegmentId};

/// What is read at once: little at first, since most logs of a small world are short, then as much as
/// is worth a call.
const BLOCK_BYTES: u64 = 64 << 10;
const BLOCK_BYTES_MAX: u64 = 256 << 10;

pub(crate) struct Window<'d> {
    directory: &'d dyn Directory,
    segment: SegmentId,
    file_bytes: u64,
    start: u64,
    /// What is at hand: so many bytes of the buffer, which is never made shorter, behind the first
    /// `front`.
    len: usize,
    front: usize,
    buffer: Vec<u8>,
    block_bytes: u64,
    /// Of what was read ahead, each whole sector's checksum, from that sector of the file on.
    checksums: Vec<u32>,
    first_sector: u64,
    /// Reads on behind what is at hand.
    ahead: Option<ReadAhead>,
}

impl<'d> Window<'d> {
    pub(crate) fn new(directory: &'d dyn Directory) -> Window<'d> {
        Window {
            directory,
            segment: SegmentId(0),
            file_bytes: 0,
            start: 0,
            len: 0,
            front: 0,
            buffer: Vec::new(),
            block_bytes: BLOCK_BYTES,
            checksums: Vec::new(),
            first_sector: 0,
            ahead: None,
        }
    }

    /// Turns to a segment, as long as it is now.
    pub(crate) fn open(&mut self, segment: SegmentId) -> io::Result<()> {
        self.file_bytes = self.directory.len(segment)?;
        self.segment = segment;
        self.start = 0;
        self.len = 0;
        self.ahead = None;
        Ok(())
    }

    /// From `offset` on the segment will be read to its end, or nearly.
    pub(crate) fn read_ahead(&mut self, offset: u64) {
        if self.file_bytes.saturating_sub(offset) < ReadAhead::SPAN_MIN {
            return;
        }
        self.ahead = self.directory.read_ahead(self.segment, offset..self.file_bytes);
        if self.ahead.is_some() {
            (self.start, self.len) = (offset, 0);
            self.checksums.clear();
        }
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The `len` bytes at `offset`.
    #[inline]
    pub(crate) fn at(&mut self, offset: u64, len: u64) -> io::Result<&[u8]> {
        if offset < self.start || offset + len > self.start + self.len as u64 {
            self.fetch(offset, len)?;
        }
        let from = self.front + (offset - self.start) as usize;
        Ok(&self.buffer[from..from + len as usize])
    }

    /// The `len` bytes at `offset`, and what is known of their sectors.
    #[inline]
    pub(crate) fn batch(&mut self, offset: u64, len: u64) -> io::Result<(&[u8], KnownSectors<'_>)> {
        self.at(offset, len)?;
        let from = self.front + (offset - self.start) as usize;
        let known = KnownSectors { first: self.first_sector, checksums: &self.checksums };
        Ok((&self.buffer[from..from + len as usize], known))
    }

    #[inline(never)]
    fn fetch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let left = self.file_bytes.saturating_sub(offset);
        if let Some(ahead) = self.ahead.take() {
            let here = self.start..=ahead.offset();
            if left >= len && here.contains(&offset) {
                return self.go_on(ahead, offset, len as usize);
            }
        }
        self.fill(offset, len.max(left.min(self.block_bytes)))?;
        self.block_bytes = (2 * self.block_bytes).min(BLOCK_BYTES_MAX);
        Ok(())
    }

    /// Takes what was read ahead: one block as it is, with what is left of the one before in front of it;
    /// or as many as hold `len` bytes.
    fn go_on(&mut self, mut ahead: ReadAhead, offset: u64, len: usize) -> io::Result<()> {
        let from = self.front + (offset - self.start) as usize;
        let end = self.front + self.len;
        let mut left = end - from;
        self.forget_checksums(offset);
        let mut begins = ahead.offset();
        let mut block = ahead.next_block()?;
        self.learn_checksums(begins, &block);
        if left <= ReadAhead::FRONT && left + block.bytes.len() - ReadAhead::FRONT >= len {
            self.front = ReadAhead::FRONT - left;
            block.bytes[self.front..ReadAhead::FRONT].copy_from_slice(&self.buffer[from..end]);
            self.len = block.bytes.len() - self.front;
            std::mem::swap(&mut self.buffer, &mut block.bytes);
            // One that was not a block may be far longer.
            block.bytes.truncate(ReadAhead::FRONT + ReadAhead::BLOCK);
            block.bytes.shrink_to(ReadAhead::FRONT + ReadAhead::BLOCK);
            ahead.give_back(block);
        } else {
            let mut bytes = Vec::with_capacity(len + ReadAhead::BLOCK);
            bytes.extend_from_slice(&self.buffer[from..end]);
            while block.bytes.len() > ReadAhead::FRONT {
                bytes.extend_from_slice(&block.bytes[ReadAhead::FRONT..]);
                ahead.give_back(block);
                if bytes.len() >= len {
                    break;
                }
                begins = ahead.offset();
                block = ahead.next_block()?;
                self.learn_checksums(begins, &block);
            }
            left = bytes.len();
            // The file has become shorter: what is not there is zero.
            bytes.resize(left.max(len), 0);
            (self.front, self.len) = (0, bytes.len());
            self.buffer = bytes;
        }
        self.start = offset;
        self.ahead = Some(ahead);
        Ok(())
    }

    /// What lies in front of `offset` is not asked for again.
    fn forget_checksums(&mut self, offset: u64) {
        let behind = (offset / SECTOR).saturating_sub(self.first_sector);
        let count = self.checksums.len().min(usize::try_from(behind).unwrap_or(usize::MAX));
        self.checksums.drain(..count);
        self.first_sector += count as u64;
    }

    /// A block comes behind those before.
    fn learn_checksums(&mut self, begins: u64, block: &Block) {
        if self.checksums.is_empty() {
            self.first_sector = begins / SECTOR;
        }
        self.checksums.extend_from_slice(&block.checksums);
    }

    fn fill(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.checksums.clear();
        let len = len as usize;
        if self.buffer.capacity() < len {
            // What was there is read over: it need not live beside what is longer, nor be moved there.
            self.len = 0;
            self.buffer = Vec::new();
            self.buffer.reserve_exact(len);
        }
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        // What is at hand already is not read again.
        let held = self.start..self.start + self.len as u64;
        let mut read = 0;
        if held.contains(&offset) {
            let in_held = (offset - self.start) as usize;
            let from = self.front + in_held;
            read = (self.len - in_held).min(len);
            self.buffer.copy_within(from..from + read, 0);
        }
        self.start = offset;
        self.len = 0;
        self.front = 0;
        let there = self.file_bytes.saturating_sub(offset).min(len as u64) as usize;
        while read < there {
            let into = &mut self.buffer[read..there];
            match self.directory.read_at(self.segment, offset + read as u64, into)? {
                // Cut while we read: what is not there is zero.
                0 => break,
                more => read += more,
            }
        }
        self.buffer[read..len].fill(0);
        self.len = len;
        Ok(())
    }

    /// Some bytes from `offset` on, before `end` and the file's end: as many as are at hand, but at
    /// least as many as a head has, if there are so many.
    fn chunk(&mut self, offset: u64, end: u64) -> io::Result<&[u8]> {
        let end = end.min(self.file_bytes);
        let left = end.saturating_sub(offset);
        let at_hand = (self.start + self.len as u64).saturating_sub(offset);
        let len = if offset >= self.start && at_hand >= HEAD_BYTES as u64 {
            left.min(at_hand)
        } else {
            left.min(self.block_bytes)
        };
        self.at(offset, len)
    }

    /// The last byte from `from` on that is not zero.
    pub(crate) fn last_nonzero(&mut self, from: u64) -> io::Result<Option<u64>> {
        let (mut at, mut last) = (from, None);
        while at < self.file_bytes {
            let chunk = self.chunk(at, u64::MAX)?;
            let len = chunk.len() as u64;
            if !is_zero(chunk) {
                last = chunk.iter().rposition(|&b| b != 0).map(|in_chunk| at + in_chunk as u64);
            }
            at += len;
        }
        Ok(last)
    }

    /// Whether every byte from `from` on is zero.
    pub(crate) fn is_zero_from(&mut self, from: u64) -> io::Result<bool> {
        let mut at = from;
        while at < self.file_bytes {
            let chunk = self.chunk(at, u64::MAX)?;
            if !is_zero(chunk) {
                return Ok(false);
            }
            at += chunk.len() as u64;
        }
        Ok(true)
    }

    /// The first offset in `from..end` at which a head verifies.
    pub(crate) fn find_head(
        &mut self,
        from: u64,
        end: u64,
        seed: Seed,
        batch_bytes_max: u32,
    ) -> io::Result<Option<(u64, Guard)>> {
        let mut at = from;
        loop {
            let chunk = self.chunk(at, end)?;
            if chunk.len() < HEAD_BYTES {
                return Ok(None);
            }
            match find(chunk, &HEAD_MAGIC) {
                Some(found) => {
                    let offset = at + found as u64;
                    let head = self.at(offset, HEAD_BYTES as u64)?;
                    if let Some(guard) = decode_head(head, seed, offset, batch_bytes_max) {
                        return Ok(Some((offset, guard)));
                    }
                    at = offset + 1;
                }
                None => at += (chunk.len() - (HEAD_MAGIC.len() - 1)) as u64,
            }
        }
    }
}

/// The first place of `what` in `bytes`.
pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&b| b == what[0]) {
        if bytes[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}
