//! A file that is written past the page cache, in whole blocks of the disk.
//!
//! A block that is full in part is written again with what comes next: what was in it stays as it was, byte
//! for byte, so a write that is torn at a sector changes nothing of it.

use std::io;

use super::positioned::Positioned;

/// Every block begins at a multiple of this, in the file and in memory. No disk asks for more.
const BLOCK: usize = 4096;

/// What is asked of a file that is open past the page cache, all of it in whole blocks.
pub(super) trait Blocks: Positioned {
    /// As [`Positioned::write_some`], and what it wrote is durable.
    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes durable whatever is not.
    fn sync(&self) -> io::Result<()>;

    /// Cuts the file.
    fn cut(&self, len: u64) -> io::Result<()>;
}

/// A file that nobody else writes to.
#[derive(Debug)]
pub(super) struct Direct<F> {
    file: F,
    /// Aligned from `start` on.
    memory: Vec<u8>,
    start: usize,
    /// The block that the memory begins with, if that is as the file has it.
    held: Option<u64>,
    /// From here on the file holds nothing but zeros, if that is known.
    blank_from: Option<u64>,
    /// Whether anything may not be durable.
    unsynced: bool,
}

impl<F: Blocks> Direct<F> {
    /// A file, and whether it is known to hold nothing but zeros.
    pub(super) fn new(file: F, is_blank: bool) -> Direct<F> {
        let blank_from = is_blank.then_some(0);
        Direct { file, memory: Vec::new(), start: 0, held: None, blank_from, unsynced: true }
    }

    /// Writes parts one behind the other, durably if that is asked for and nothing else has to become durable
    /// first; says whether everything is.
    ///
    /// # Errors
    /// What the system says: [`is_refused`] tells those that mean that such a write is none of this file's.
    pub(super) fn write<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        offset: u64,
        durably: bool,
    ) -> io::Result<bool> {
        let len: usize = parts.clone().map(<[u8]>::len).sum();
        if len == 0 {
            return Ok(!self.unsynced);
        }
        let block = BLOCK as u64;
        let (first, end) = (offset - offset % block, offset + len as u64);
        let behind = end.next_multiple_of(block);
        let last = behind - block;
        // Until it is done, neither block is known.
        let held = self.held.take();
        self.make_room((behind - first) as usize);
        if held != Some(first) && (offset > first || end < first + block) {
            self.load(first, 0)?;
        }
        if last > first && end < behind {
            self.load(last, (last - first) as usize)?;
        }
        let mut at = self.start + (offset - first) as usize;
        for part in parts {
            self.memory[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let durably = durably && !self.unsynced;
        self.unsynced |= !durably;
        self.write_blocks(first, (behind - first) as usize, durably)?;
        self.blank_from = self.blank_from.map(|from| from.max(end));
        let kept = self.start + (last - first) as usize;
        self.memory.copy_within(kept..kept + BLOCK, self.start);
        self.held = Some(last);
        Ok(!self.unsynced)
    }

    /// Makes durable what is not.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Cuts the file to so many bytes.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn cut(&mut self, len: u64) -> io::Result<()> {
        (self.held, self.unsynced) = (None, true);
        self.file.cut(len)?;
        self.blank_from = Some(self.blank_from.map_or(len, |from| from.min(len)));
        Ok(())
    }

    /// Aligned memory for so many bytes; its first block stays.
    fn make_room(&mut self, bytes: usize) {
        if self.memory.len() >= self.start + bytes {
            return;
        }
        let mut memory = vec![0; (2 * bytes).max(16 * BLOCK) + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        if let Some(held) = self.memory.get(self.start..self.start + BLOCK) {
            memory[start..start + BLOCK].copy_from_slice(held);
        }
        (self.memory, self.start) = (memory, start);
    }

    /// Reads a block, to so far behind the first one in memory.
    fn load(&mut self, block: u64, to: usize) -> io::Result<()> {
        let into = &mut self.memory[self.start + to..][..BLOCK];
        let is_blank = self.blank_from.is_some_and(|from| block >= from);
        let read = loop {
            match if is_blank { Ok(0) } else { self.file.read_some(into, block) } {
                // Less than a block is read only where the file ends.
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        into[read..].fill(0);
        Ok(())
    }

    /// Writes the first so many bytes that are in memory, however often it is interrupted or cut short.
    fn write_blocks(&mut self, offset: u64, bytes: usize, durably: bool) -> io::Result<()> {
        let mut done = 0;
        while done < bytes {
            let rest = &self.memory[self.start + done..self.start + bytes];
            let at = offset + done as u64;
            let written = match durably {
                true => self.file.write_durably(rest, at),
                false => self.file.write_some(rest, at),
            };
            match written {
                // Of a block that was written in part, all is written again.
                Ok(written) if written == rest.len() || written >= BLOCK => {
                    done += written - if written < rest.len() { written % BLOCK } else { 0 };
                }
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a file system says that it does not write past the page cache, or not like this: nothing was
/// written.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{File, OpenOptions};
    use std::io::{self, IoSlice};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use rustix::fs::OFlags;
    use rustix::io::ReadWriteFlags;

    use super::Blocks;

    impl Blocks for File {
        fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            let parts = [IoSlice::new(bytes)];
            Ok(rustix::io::pwritev2(self, &parts, offset, ReadWriteFlags::DSYNC)?)
        }

        fn sync(&self) -> io::Result<()> {
            self.sync_data()
        }

        fn cut(&self, len: u64) -> io::Result<()> {
            self.set_len(len)
        }
    }

    /// Opens a file that is there.
    ///
    /// # Errors
    /// What the system says: `InvalidInput` where the file system has no such thing.
    pub(in super::super) fn open(path: &Path) -> io::Result<File> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::open;

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use super::Blocks;

    impl Blocks for File {
        fn write_durably(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync(&self) -> io::Result<()> {
            self.sync_data()
        }

        fn cut(&self, len: u64) -> io::Result<()> {
            self.set_len(len)
        }
    }

    pub(in super::super) fn open(_: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::open;

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    use super::*;

    /// A file that takes whole blocks only, from memory that begins with one.
    #[derive(Default)]
    struct Blockwise {
        seen: RefCell<Vec<u8>>,
        durable: RefCell<Vec<u8>>,
        /// What comes of the next writes: so many bytes at most, or an error. Then all of it.
        answers: RefCell<VecDeque<Result<usize, io::ErrorKind>>>,
        reads: Cell<usize>,
        writes: Cell<usize>,
        syncs: Cell<usize>,
    }

    impl Blockwise {
        fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            self.writes.set(self.writes.get() + 1);
            assert!(bytes.as_ptr().align_offset(BLOCK) == 0, "memory begins with a block");
            assert!(bytes.len().is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64));
            let len = self.answers.borrow_mut().pop_front().unwrap_or(Ok(bytes.len()))?;
            let len = len.min(bytes.len());
            put(&mut self.seen.borrow_mut(), offset as usize, &bytes[..len]);
            Ok(len)
        }
    }

    fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        file.resize(file.len().max(offset + bytes.len()), 0);
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    impl Positioned for Blockwise {
        fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            self.reads.set(self.reads.get() + 1);
            assert!(into.as_ptr().align_offset(BLOCK) == 0, "memory begins with a block");
            let seen = self.seen.borrow();
            let there = &seen[seen.len().min(offset as usize)..];
            let len = into.len().min(there.len());
            into[..len].copy_from_slice(&there[..len]);
            Ok(len)
        }

        fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            self.write(bytes, offset)
        }
    }

    impl Blocks for Blockwise {
        fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            let len = self.write(bytes, offset)?;
            put(&mut self.durable.borrow_mut(), offset as usize, &bytes[..len]);
            Ok(len)
        }

        fn sync(&self) -> io::Result<()> {
            self.syncs.set(self.syncs.get() + 1);
            self.durable.borrow_mut().clone_from(&self.seen.borrow());
            Ok(())
        }

        fn cut(&self, len: u64) -> io::Result<()> {
            self.seen.borrow_mut().resize(len as usize, 0);
            Ok(())
        }
    }

    /// Bytes that are none of zeros, and differ from write to write.
    fn bytes(salt: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| (1 + (at * 7 + salt * 31) % 251) as u8).collect()
    }

    /// A file's bytes without the zeros at its end.
    fn content(bytes: &[u8]) -> &[u8] {
        &bytes[..bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)]
    }

    /// Writes, rewrites, cuts and syncs with keyed chance, in files that were there and new ones: the file
    /// holds what was written where it was written, and what is said to be durable is.
    #[test]
    fn a_file_is_as_if_each_byte_had_been_written() {
        let key = base::prng::Key::root(7);
        for case in 0..400_u64 {
            let is_blank = case % 2 == 0;
            let before = if is_blank { Vec::new() } else { bytes(9, 10_000 + case as usize) };
            let file = Blockwise { seen: before.clone().into(), ..Blockwise::default() };
            let mut direct = Direct::new(file, is_blank);
            let mut expected = before;
            let mut end = expected.len() as u64;
            for step in 0..40_u64 {
                let draw = key.keyed(case).draw(step, 0);
                let len =
                    draw.nth(1).below([10, 600, 9_000, 150_000][draw.nth(2).below(4) as usize]);
                let content_of_it = bytes(step as usize, len as usize);
                // Mostly it goes on where the last one ended.
                let offset = match draw.nth(3).below(8) {
                    0 => draw.nth(4).below(end + 1),
                    1 => end + draw.nth(4).below(9_000),
                    _ => end,
                };
                if draw.nth(5).below(12) == 0 {
                    let len = draw.nth(6).below(end + 1);
                    direct.cut(len).unwrap();
                    expected.resize(len as usize, 0);
                    end = len;
                }
                let (some, rest) = content_of_it.split_at(draw.nth(7).below(len + 1) as usize);
                let durably = draw.nth(8).below(3) > 0;
                let done = direct.write([some, rest].into_iter(), offset, durably).unwrap();
                put(&mut expected, offset as usize, &content_of_it);
                end = end.max(offset + len);
                let is_durable = done || draw.nth(9).below(4) == 0;
                if is_durable && !done {
                    direct.sync().unwrap();
                }
                assert!(content(&direct.file.seen.borrow()) == content(&expected), "{case} {step}");
                if is_durable {
                    let durable = direct.file.durable.borrow();
                    assert!(content(&durable) == content(&expected), "{case} {step}: durable");
                }
            }
        }
    }

    /// What a log does all day: no block is read, and nothing is synced but once.
    #[test]
    fn a_log_is_written_without_reading_it_and_without_syncs() {
        let mut direct = Direct::new(Blockwise::default(), true);
        let mut end = 0;
        for n in 0..200_usize {
            let bytes = bytes(n, 90 + 37 * n);
            let done = direct.write(std::iter::once(&bytes[..]), end, true).unwrap();
            assert_eq!(done, n > 0, "the file itself has to become durable first");
            direct.sync().unwrap();
            end += bytes.len() as u64;
        }
        let Blockwise { reads, writes, syncs, .. } = &direct.file;
        assert_eq!((reads.get(), writes.get(), syncs.get()), (0, 200, 1));
        // What is not asked to be durable makes the next write wait for a sync.
        assert!(!direct.write(std::iter::once(&b"lazy"[..]), end, false).unwrap());
        assert!(!direct.write(std::iter::once(&b"forced"[..]), end + 4, true).unwrap());
        direct.sync().unwrap();
        assert!(direct.write(std::iter::once(&b"forced"[..]), end + 10, true).unwrap());
    }

    #[test]
    fn a_write_goes_on_where_the_system_stopped() {
        let eintr = Err(io::ErrorKind::Interrupted);
        let data = bytes(3, 5 * BLOCK + 100);
        for first in [BLOCK, BLOCK + 1, 2 * BLOCK - 1, 3 * BLOCK, 5 * BLOCK + 99, 6 * BLOCK - 1] {
            for durably in [false, true] {
                let file = Blockwise::default();
                let mut direct = Direct::new(file, true);
                direct.write(std::iter::once(&b"begun"[..]), 0, true).unwrap();
                direct.sync().unwrap();
                *direct.file.answers.borrow_mut() = [eintr, Ok(first), eintr].into();
                let done = direct.write(std::iter::once(&data[..]), 5, durably).unwrap();
                assert_eq!(done, durably);
                let expected = [b"begun", &data[..]].concat();
                assert!(content(&direct.file.seen.borrow()) == expected, "{first}");
                assert!(!durably || content(&direct.file.durable.borrow()) == expected, "{first}");
            }
        }
    }

    #[test]
    fn an_error_is_told_and_the_block_is_read_again() {
        for answer in [Ok(0), Ok(BLOCK - 1), Err(io::ErrorKind::StorageFull)] {
            let mut direct = Direct::new(Blockwise::default(), true);
            direct.write(std::iter::once(&[1; 100][..]), 0, true).unwrap();
            direct.sync().unwrap();
            direct.file.answers.borrow_mut().push_back(answer);
            let failed = direct.write(std::iter::once(&[2; 5000][..]), 100, true).unwrap_err();
            assert_eq!(failed.kind(), answer.err().unwrap_or(io::ErrorKind::WriteZero));
            assert!(!is_refused(&failed));
            let there = direct.file.seen.borrow().clone();
            direct.write(std::iter::once(&[3; 10][..]), 90, true).unwrap();
            let mut expected = there;
            put(&mut expected, 90, &[3; 10]);
            assert!(content(&direct.file.seen.borrow()) == content(&expected), "{answer:?}");
        }
    }

    #[test]
    fn what_a_file_system_refuses_is_told_from_what_fails() {
        let of = |number| is_refused(&io::Error::from_raw_os_error(number));
        #[cfg(target_os = "linux")]
        assert_eq!([22, 95, 5, 28, 4].map(of), [true, true, false, false, false]);
        assert!(is_refused(&io::ErrorKind::Unsupported.into()));
    }
}
