//! A thread that reads a file ahead of its reader.
//!
//! Most of what reading a long log costs is the kernel's: it copies each block out of the page cache. This
//! does that on a second processor while the reader checks the block before. What is read and in which
//! order does not depend on it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::file::read_full;

/// Reads a span of a file, a block at a time and ahead of whoever asks. It holds four blocks at most.
///
/// Dropping it ends its thread.
#[derive(Debug)]
pub struct ReadAhead {
    /// Where the next block begins.
    at: u64,
    to: u64,
    blocks: Option<Receiver<io::Result<Vec<u8>>>>,
    spent: Option<Sender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    /// A block's length in bytes; the last may be shorter.
    pub const BLOCK: usize = 256 << 10;
    /// In front of each block is so much space, for what its reader has left of the one before.
    pub const FRONT: usize = 64 << 10;
    /// A span has to be so long to be worth a thread.
    pub(crate) const SPAN_MIN: u64 = 4 << 20;
    const AHEAD: usize = 4;

    /// Begins to read. `None` where a thread cannot be had, or has no processor of its own.
    pub(crate) fn start(file: File, span: Range<u64>) -> Option<ReadAhead> {
        if !std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
            return None;
        }
        let (tell, blocks) = channel();
        let (spent, free) = channel();
        for _ in 0..Self::AHEAD {
            // Whoever has the other end is just below.
            let _ = spent.send(Vec::new());
        }
        let Range { start, end } = span;
        let read = move || read_blocks(&file, start..end, &free, &tell);
        let thread = std::thread::Builder::new().name("wal-read-ahead".into()).spawn(read).ok()?;
        let (blocks, spent, thread) = (Some(blocks), Some(spent), Some(thread));
        Some(ReadAhead { at: start, to: end, blocks, spent, thread })
    }

    /// Where the next block begins, in bytes from the file's beginning.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// How long the next block is; 0 at the span's end. It is shorter if the file has become so.
    #[must_use]
    pub fn next_bytes(&self) -> u64 {
        (self.to - self.at).min(Self::BLOCK as u64)
    }

    /// The next block, behind [`FRONT`](Self::FRONT) bytes of space; without any byte behind that where
    /// the span or the file ends.
    ///
    /// # Errors
    /// Whatever the disk answered.
    pub fn next_block(&mut self) -> io::Result<Vec<u8>> {
        let wanted = self.next_bytes();
        if wanted == 0 {
            return Ok(vec![0; Self::FRONT]);
        }
        let told = self.blocks.as_ref().and_then(|blocks| blocks.recv().ok());
        // Its thread has failed: an error, and never the end of a log.
        let block =
            told.ok_or_else(|| io::Error::other("the thread that reads ahead has died"))??;
        let bytes = (block.len() - Self::FRONT) as u64;
        self.at += bytes;
        if bytes < wanted {
            self.to = self.at;
        }
        Ok(block)
    }

    /// Gives a block back, to be read into again: one for each that was taken, or no more will come.
    pub fn give_back(&mut self, block: Vec<u8>) {
        if let Some(spent) = &self.spent {
            // At the span's end nobody wants it.
            let _ = spent.send(block);
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
    mut span: Range<u64>,
    free: &Receiver<Vec<u8>>,
    tell: &Sender<io::Result<Vec<u8>>>,
) {
    while span.start < span.end {
        let Ok(mut block) = free.recv() else { return };
        let bytes = (span.end - span.start).min(ReadAhead::BLOCK as u64) as usize;
        block.resize(ReadAhead::FRONT + bytes, 0);
        let read = read_full(file, &mut block[ReadAhead::FRONT..], span.start);
        let ended = !read.as_ref().is_ok_and(|&read| read == bytes);
        let told = tell.send(read.map(|read| {
            block.truncate(ReadAhead::FRONT + read);
            block
        }));
        if ended || told.is_err() {
            return;
        }
        span.start += bytes as u64;
    }
}
