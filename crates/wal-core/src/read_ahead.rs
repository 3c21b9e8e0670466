//! A thread that reads a file ahead of its reader.
//!
//! Most of what reading a long log costs is the kernel's: it copies each block out of the page cache. This
//! does that on a second processor while the reader checks the block before, and the checksum of each sector
//! with it. Where that processor has something else to do the reader does not wait for it: it takes the next
//! block itself. What is read and in which order does not depend on it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::checksum::each_sector;
use crate::file::read_full;
use crate::segment::SECTOR;

/// Reads a span of a file, a block at a time and ahead of whoever asks. It holds seven blocks at most.
///
/// Dropping it ends its thread.
#[derive(Debug)]
pub struct ReadAhead {
    file: Arc<File>,
    /// Where the next block begins.
    at: u64,
    to: u64,
    /// Where the next block begins that nobody has begun to read.
    unclaimed: Arc<AtomicU64>,
    blocks: Option<Receiver<io::Result<Block>>>,
    spent: Option<Sender<Block>>,
    /// Blocks that go back to the thread soon.
    back: Vec<Block>,
    /// For a block that is read by whoever asks.
    own: Option<Block>,
    thread: Option<JoinHandle<()>>,
}

/// A part of a file.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// Behind [`ReadAhead::FRONT`] bytes of space.
    pub bytes: Vec<u8>,
    /// Each whole sector's checksum; of none if the block does not begin where a sector does.
    pub checksums: Vec<u32>,
}

impl ReadAhead {
    /// A block's length in bytes; the last may be shorter.
    pub(crate) const BLOCK: usize = 256 << 10;
    /// In front of each block is so much space, for what its reader has left of the one before.
    pub(crate) const FRONT: usize = 64 << 10;
    /// A span has to be so long to be worth a thread.
    pub(crate) const SPAN_MIN: u64 = 4 << 20;
    const AHEAD: usize = 6;
    /// So many blocks go back to the thread at once: it is woken less often, and waking it costs as much as
    /// reading a good part of a block. It still has half of all blocks while its reader has the others.
    const BACK_AT_ONCE: usize = 3;

    /// Begins to read. `None` where a thread cannot be had, or has no processor of its own.
    pub(crate) fn start(file: File, span: Range<u64>) -> Option<ReadAhead> {
        if !std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
            return None;
        }
        let (tell, blocks) = channel();
        let (spent, free) = channel();
        for _ in 0..Self::AHEAD {
            // Whoever has the other end is just below.
            let _ = spent.send(Block::default());
        }
        let Range { start: at, end: to } = span;
        let (file, unclaimed) = (Arc::new(file), Arc::new(AtomicU64::new(at)));
        let (of_thread, claim) = (Arc::clone(&file), Arc::clone(&unclaimed));
        let read = move || read_blocks(&of_thread, &claim, to, &free, &tell);
        let thread = std::thread::Builder::new().name("wal-read-ahead".into()).spawn(read).ok()?;
        let (blocks, spent, thread) = (Some(blocks), Some(spent), Some(thread));
        let (back, own) = (Vec::new(), Some(Block::default()));
        Some(ReadAhead { file, at, to, unclaimed, blocks, spent, back, own, thread })
    }

    /// Where the next block begins, in bytes from the file's beginning.
    pub(crate) fn offset(&self) -> u64 {
        self.at
    }

    /// How long the next block is; 0 at the span's end. It is shorter if the file has become so.
    pub(crate) fn next_bytes(&self) -> u64 {
        (self.to - self.at).min(Self::BLOCK as u64)
    }

    /// The next block, behind [`FRONT`](Self::FRONT) bytes of space; without any byte behind that where
    /// the span or the file ends.
    ///
    /// # Errors
    /// Whatever the disk answered.
    pub(crate) fn next_block(&mut self) -> io::Result<Block> {
        let wanted = self.next_bytes();
        if wanted == 0 {
            return Ok(Block { bytes: vec![0; Self::FRONT], checksums: Vec::new() });
        }
        let block = match self.claim_own() {
            Some(block) => read_block(&self.file, self.at, wanted, block)?,
            None => {
                let told = self.blocks.as_ref().and_then(|blocks| blocks.recv().ok());
                // Its thread has failed: an error, and never the end of a log.
                told.ok_or_else(|| io::Error::other("the thread that reads ahead has died"))??
            }
        };
        let bytes = (block.bytes.len() - Self::FRONT) as u64;
        self.at += bytes;
        if bytes < wanted {
            self.to = self.at;
        }
        Ok(block)
    }

    /// Takes the next block from the thread, if that has not begun to read it: says into what to read it.
    fn claim_own(&mut self) -> Option<Block> {
        self.own.as_ref()?;
        let behind = self.at + Self::BLOCK as u64;
        let relaxed = Ordering::Relaxed;
        let claimed = self.unclaimed.compare_exchange(self.at, behind, relaxed, relaxed);
        self.own.take_if(|_| claimed.is_ok())
    }

    /// Gives a block back, to be read into again: one for each that was taken, or no more will come.
    pub(crate) fn give_back(&mut self, block: Block) {
        if self.own.is_none() {
            self.own = Some(block);
            return;
        }
        self.back.push(block);
        if let (Some(spent), Self::BACK_AT_ONCE) = (&self.spent, self.back.len()) {
            for block in self.back.drain(..) {
                // At the span's end nobody wants it.
                let _ = spent.send(block);
            }
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        // With either channel gone the thread ends.
        self.blocks = None;
        self.spent = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed where it happened.
            let _ = thread.join();
        }
    }
}

fn read_blocks(
    file: &File,
    unclaimed: &AtomicU64,
    end: u64,
    free: &Receiver<Block>,
    tell: &Sender<io::Result<Block>>,
) {
    while let Ok(block) = free.recv() {
        // Only the number is shared: each block's bytes go through the channel.
        let at = unclaimed.fetch_add(ReadAhead::BLOCK as u64, Ordering::Relaxed);
        if at >= end {
            return;
        }
        let bytes = (end - at).min(ReadAhead::BLOCK as u64);
        let read = read_block(file, at, bytes, block);
        let whole = (ReadAhead::FRONT as u64 + bytes) as usize;
        let ended = !read.as_ref().is_ok_and(|block| block.bytes.len() == whole);
        if tell.send(read).is_err() || ended {
            return;
        }
    }
}

/// Reads a block: as much of it as there is.
fn read_block(file: &File, at: u64, bytes: u64, mut block: Block) -> io::Result<Block> {
    let Block { bytes: into, checksums } = &mut block;
    into.resize(ReadAhead::FRONT + bytes as usize, 0);
    let read = read_full(file, &mut into[ReadAhead::FRONT..], at)?;
    into.truncate(ReadAhead::FRONT + read);
    checksums.clear();
    if at.is_multiple_of(SECTOR) {
        let sectors = into[ReadAhead::FRONT..].as_chunks().0;
        each_sector(sectors, |checksum| checksums.push(checksum));
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Whoever reads a block, each comes once and in its place; also if the reader is slow, or so fast that
    /// it reads them itself.
    #[test]
    fn blocks_come_in_order_whoever_reads_them() {
        let mut file = tempfile::tempfile().unwrap();
        let words = (0..ReadAhead::BLOCK as u64).flat_map(u64::to_le_bytes);
        let bytes: Vec<u8> = words.take(7 * ReadAhead::BLOCK + 1000).collect();
        file.write_all(&bytes).unwrap();
        let span = 1024..bytes.len() as u64;
        for pause in [0, 1, 50_000] {
            let Some(mut ahead) = ReadAhead::start(file.try_clone().unwrap(), span.clone()) else {
                // A machine with one processor.
                return;
            };
            let mut read = Vec::new();
            while ahead.next_bytes() > 0 {
                assert_eq!(ahead.offset(), 1024 + read.len() as u64);
                let block = ahead.next_block().unwrap();
                read.extend_from_slice(&block.bytes[ReadAhead::FRONT..]);
                ahead.give_back(block);
                (0..pause).for_each(|_| std::thread::yield_now());
            }
            assert!(read == bytes[1024..], "with {pause} pauses");
        }
    }

    #[test]
    fn a_block_is_as_long_as_the_file_still_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 * ReadAhead::BLOCK]).unwrap();
        let span = 0..5 * ReadAhead::BLOCK as u64;
        let Some(mut ahead) = ReadAhead::start(file, span) else { return };
        let mut blocks = Vec::new();
        while ahead.next_bytes() > 0 {
            let block = ahead.next_block().unwrap();
            blocks.push(block.bytes.len() - ReadAhead::FRONT);
            ahead.give_back(block);
        }
        assert_eq!(blocks, [ReadAhead::BLOCK, ReadAhead::BLOCK, ReadAhead::BLOCK, 0]);
    }
}
