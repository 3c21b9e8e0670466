//! The next segment's file, made ahead of time.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::positioned::write_all;
use crate::storage::Zeros;

/// A file of zeros, all of them on the disk: the next segment, made ahead of time. A write into it
/// changes no length and allocates nothing, so that a sync has only the data to write. Made by
/// [`Storage::make_ahead`](crate::Storage::make_ahead), and given to [`Storage::keep_ahead`](crate::Storage::keep_ahead); until then it is in nobody's way, and the
/// next opening removes it.
#[derive(Debug)]
pub struct Spare {
    path: PathBuf,
    file: File,
}

/// The file of a segment that is none any more.
#[derive(Debug)]
pub(super) struct Retired {
    /// Its foreign name.
    pub path: PathBuf,
    /// Whatever stands behind this offset is zero.
    pub written: u64,
}

impl Spare {
    /// What its name begins with, before it is a segment's.
    pub(super) const PREFIX: &'static str = "spare-";
    const CHUNK: usize = 256 << 10;
    /// Synced so often while it is made, so that no sync of the log's has to wait for all of it.
    const SYNC_EVERY: u64 = 2 << 20;

    /// Makes one in a log's directory.
    ///
    /// # Errors
    /// What the system says, such as that the disk is full; `Interrupted` once `stop` says so. Then
    /// nothing is left of it.
    pub(super) fn make(
        directory: &Path,
        bytes: u64,
        retired: Option<&Retired>,
        zeros: Zeros,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Spare> {
        let path = directory.join(format!("{}{bytes:x}", Spare::PREFIX));
        // A retired segment's blocks are there already: only what they hold has to go.
        let recycled = retired.filter(|retired| std::fs::rename(&retired.path, &path).is_ok());
        let options =
            OpenOptions::new().write(true).create(true).truncate(recycled.is_none()).open(&path);
        let spare = Spare { path, file: options? };
        let filled = match zeros {
            Zeros::Reserved if recycled.is_none() && spare.reserve(bytes)? => Ok(()),
            Zeros::Reserved | Zeros::Written => {
                spare.fill(recycled.map_or(0, |retired| retired.written), bytes, stop)
            }
        };
        if filled.is_err() {
            spare.remove();
        }
        filled.map(|()| spare)
    }

    /// Whether the file system has set the blocks aside.
    ///
    /// # Errors
    /// What the system says; then nothing is left of it. That it cannot do so is none.
    #[cfg(unix)]
    fn reserve(&self, bytes: u64) -> io::Result<bool> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;

        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // Its length, too.
            Ok(()) => self.file.sync_all().map(|()| true).inspect_err(|_| self.remove()),
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => Ok(false),
            Err(error) => {
                self.remove();
                Err(error.into())
            }
        }
    }

    #[cfg(not(unix))]
    fn reserve(&self, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    /// Writes zeros over what holds something else, which is before `written`, and where the file ends too early.
    fn fill(&self, written: u64, bytes: u64, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let zeros = vec![0; Spare::CHUNK];
        let blank = written.min(bytes)..self.file.metadata()?.len().min(bytes);
        let (mut at, mut unsynced) = (0, 0);
        while at < bytes {
            if blank.contains(&at) {
                at = blank.end;
                continue;
            }
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let until = if at < blank.start { blank.start } else { bytes };
            let len = (until - at).min(Spare::CHUNK as u64);
            write_all(&self.file, &zeros[..len as usize], at)?;
            at += len;
            unsynced += len;
            if unsynced >= Spare::SYNC_EVERY {
                self.file.sync_data()?;
                unsynced = 0;
            }
        }
        // Its length too, which a retired segment's may exceed.
        self.file.set_len(bytes)?;
        self.file.sync_all()
    }

    pub(super) fn remove(&self) {
        // A file that stays is in nobody's way, and is removed at the next opening.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Gives it a segment's name, unless that is taken; durable once the directory is synced.
    pub(super) fn become_segment(self, path: &Path) -> io::Result<File> {
        // Not a rename: that would replace what is there.
        let named = std::fs::hard_link(&self.path, path);
        self.remove();
        named.map(|()| self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A retired file of so many bytes, written in front of `written` and zero behind, makes a spare of so many.
    #[test]
    fn of_a_retired_file_only_what_was_written_is_written_again() {
        const CHUNK: u64 = Spare::CHUNK as u64;
        let directory = tempfile::tempdir().unwrap();
        let make = |len: u64, written: u64, marked: bool, bytes: u64| {
            let path = directory.path().join("retired-1");
            let mut content = vec![0xA5; written as usize];
            content.resize(len as usize, 0);
            if let (true, Some(last)) = (marked, content.last_mut()) {
                // Against what is promised: so it shows whether the byte is written again.
                *last = 0x5A;
            }
            std::fs::write(&path, &content).unwrap();
            let retired = Retired { path, written };
            let made =
                Spare::make(directory.path(), bytes, Some(&retired), Zeros::Written, &|| false);
            let spare = made.unwrap();
            assert!(!retired.path.exists());
            let content = std::fs::read(&spare.path).unwrap();
            spare.remove();
            content
        };
        let sizes =
            [0, 1, 511, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77, 9 * CHUNK, 9 * CHUNK + 5];
        for len in sizes {
            for written in sizes.into_iter().filter(|written| *written <= len) {
                for bytes in &sizes[1..] {
                    let made = make(len, written, false, *bytes);
                    assert_eq!(made.len() as u64, *bytes);
                    let wrong = made.iter().position(|byte| *byte != 0);
                    assert_eq!(wrong, None, "{written} of {len} written, {bytes} wanted");
                }
            }
        }
        let made = make(3 * CHUNK, CHUNK + 9, true, 4 * CHUNK);
        let kept: Vec<usize> = (0..made.len()).filter(|at| made[*at] != 0).collect();
        assert_eq!(kept, [3 * CHUNK as usize - 1], "what is blank is left alone");
    }
}
