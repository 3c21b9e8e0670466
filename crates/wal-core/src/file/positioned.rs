//! One open file, read and written at positions: what the system leaves undone is gone on with.

use std::fs::File;
use std::io::{self, IoSlice};

/// What the system does for one open file when it is asked once: perhaps a part of it, perhaps nothing
/// since a signal came in between.
pub(crate) trait Positioned {
    /// How many bytes it read; 0 at the file's end.
    fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// How many bytes it wrote.
    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// How many bytes of these parts, one behind the other, it wrote.
    fn write_some_of(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        parts.first().map_or(Ok(0), |first| self.write_some(first, offset))
    }
}

#[cfg(unix)]
impl Positioned for File {
    fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, into, offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn write_some_of(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, parts, offset)?)
    }
}

#[cfg(windows)]
impl Positioned for File {
    fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, into, offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(self, bytes, offset)
    }
}

/// Reads until `into` is full or the file ends, however often it is interrupted.
pub(crate) fn read_full(file: &impl Positioned, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_some(&mut into[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Writes all of `bytes`, however often it is interrupted or cut short. A write that takes nothing and
/// says no error would go on for ever: that is an error.
pub(super) fn write_all(
    file: &impl Positioned,
    mut bytes: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_some(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes parts one behind the other, as [`write_all`] writes one.
pub(super) fn write_all_of(
    file: &impl Positioned,
    mut parts: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    // Parts of no length are behind.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_some_of(parts, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut parts, written);
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    use super::*;

    /// A file on a system that does as little as it may each time it is asked.
    #[derive(Default)]
    struct Grudging {
        bytes: RefCell<Vec<u8>>,
        /// What comes of the next calls: so many bytes at most, or an error. Then all of it.
        answers: RefCell<VecDeque<Result<usize, io::ErrorKind>>>,
        calls: Cell<usize>,
    }

    impl Grudging {
        fn new(bytes: &[u8], answers: &[Result<usize, io::ErrorKind>]) -> Grudging {
            Grudging {
                bytes: RefCell::new(bytes.to_vec()),
                answers: RefCell::new(answers.iter().copied().collect()),
                calls: Cell::new(0),
            }
        }

        fn answer(&self, asked: usize) -> io::Result<usize> {
            self.calls.set(self.calls.get() + 1);
            Ok(self.answers.borrow_mut().pop_front().unwrap_or(Ok(asked))?.min(asked))
        }
    }

    impl Positioned for Grudging {
        fn read_some(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            let bytes = self.bytes.borrow();
            let there = &bytes[bytes.len().min(offset as usize)..];
            let len = self.answer(into.len().min(there.len()))?;
            into[..len].copy_from_slice(&there[..len]);
            Ok(len)
        }

        fn write_some(&self, from: &[u8], offset: u64) -> io::Result<usize> {
            let len = self.answer(from.len())?;
            let mut bytes = self.bytes.borrow_mut();
            let end = offset as usize + len;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset as usize..end].copy_from_slice(&from[..len]);
            Ok(len)
        }

        fn write_some_of(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            self.write_some(&all, offset)
        }
    }

    const EINTR: Result<usize, io::ErrorKind> = Err(io::ErrorKind::Interrupted);

    /// Every way in which ten bytes come in three parts, with a signal before each part or not.
    fn answers() -> impl Iterator<Item = Vec<Result<usize, io::ErrorKind>>> {
        (1..9).flat_map(|first| (1..10 - first).map(move |second| [first, second])).flat_map(
            |parts| {
                (0..8_u32).map(move |signals| {
                    let mut answers = Vec::new();
                    for (n, part) in parts.into_iter().enumerate() {
                        answers.extend((signals >> n & 1 == 1).then_some(EINTR));
                        answers.push(Ok(part));
                    }
                    answers.extend((signals >> 2 == 1).then_some(EINTR));
                    answers
                })
            },
        )
    }

    #[test]
    fn a_write_goes_on_where_the_system_stopped() {
        for answers in answers() {
            let file = Grudging::new(b"..", &answers);
            write_all(&file, b"0123456789", 2).unwrap();
            assert_eq!(*file.bytes.borrow(), b"..0123456789", "{answers:?}");
            assert_eq!(file.calls.get(), answers.len() + 1, "no call too many");
        }
    }

    /// Wherever the parts begin and the system stops, and whether it takes more than one part at once or not.
    #[test]
    fn parts_are_written_as_one() {
        for answers in answers() {
            for (first, second) in (0..=10).flat_map(|first| (first..=10).map(move |s| (first, s)))
            {
                let whole = b"0123456789";
                let parts = [&whole[..first], &whole[first..second], &whole[second..]];
                let file = Grudging::new(b"..", &answers);
                write_all_of(&file, &mut parts.map(IoSlice::new), 2).unwrap();
                assert_eq!(*file.bytes.borrow(), b"..0123456789", "{answers:?} {first} {second}");
                assert_eq!(file.calls.get(), answers.len() + 1, "no call too many");
            }
        }
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let file = Grudging::new(b"", &[Ok(4), EINTR, Err(kind)]);
            let mut parts = [&b"01234"[..], b"56789"].map(IoSlice::new);
            assert_eq!(write_all_of(&file, &mut parts, 0).unwrap_err().kind(), kind);
            assert_eq!((file.bytes.borrow().as_slice(), file.calls.get()), (&b"0123"[..], 3));
        }
        let file = Grudging::new(b"", &[Ok(4), Ok(0)]);
        let stuck = write_all_of(&file, &mut [IoSlice::new(b"0123456789")], 0).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_read_goes_on_where_the_system_stopped_and_ends_with_the_file() {
        for answers in answers() {
            let file = Grudging::new(b"..0123456789", &answers);
            let mut into = [0; 10];
            assert_eq!(read_full(&file, &mut into, 2).unwrap(), 10);
            assert_eq!(&into, b"0123456789", "{answers:?}");
            let file = Grudging::new(b"..0123456789", &answers);
            let mut into = [0xEE; 12];
            assert_eq!(read_full(&file, &mut into, 2).unwrap(), 10);
            assert_eq!(&into, b"0123456789\xEE\xEE", "{answers:?}");
        }
    }

    #[test]
    fn an_error_is_told_after_a_part_and_nothing_is_tried_again() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let file = Grudging::new(b"", &[Ok(4), EINTR, Err(kind)]);
            assert_eq!(write_all(&file, b"0123456789", 0).unwrap_err().kind(), kind);
            assert_eq!((file.bytes.borrow().as_slice(), file.calls.get()), (&b"0123"[..], 3));
            let file = Grudging::new(b"0123456789", &[Ok(4), EINTR, Err(kind)]);
            assert_eq!(read_full(&file, &mut [0; 10], 0).unwrap_err().kind(), kind);
            assert_eq!(file.calls.get(), 3);
        }
        let file = Grudging::new(b"", &[Ok(4), Ok(0)]);
        let stuck = write_all(&file, b"0123456789", 0).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }
}
