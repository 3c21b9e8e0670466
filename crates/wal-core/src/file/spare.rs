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
        retired: Option<&Path>,
        zeros: Zeros,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Spare> {
        let path = directory.join(format!("{}{bytes:x}", Spare::PREFIX));
        // A retired segment's blocks are there already: only what they hold has to go.
        let recycled = retired.is_some_and(|retired| std::fs::rename(retired, &path).is_ok());
        let options = OpenOptions::new().write(true).create(true).truncate(!recycled).open(&path);
        let spare = Spare { path, file: options? };
        let filled = match zeros {
            Zeros::Reserved if !recycled && spare.reserve(bytes)? => Ok(()),
            Zeros::Reserved | Zeros::Written => spare.fill(bytes, stop),
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

    fn fill(&self, bytes: u64, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let zeros = vec![0; Spare::CHUNK];
        let mut at = 0;
        while at < bytes {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = (bytes - at).min(Spare::CHUNK as u64);
            write_all(&self.file, &zeros[..len as usize], at)?;
            at += len;
            if at.is_multiple_of(Spare::SYNC_EVERY) {
                self.file.sync_data()?;
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
