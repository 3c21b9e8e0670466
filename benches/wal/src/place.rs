//! Where the logs are: a fresh folder on a real disk.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;

use crate::ceiling::{self, FILE_BYTES};
use crate::log::Trouble;

/// A folder for one run's logs, removed when this value is.
pub struct Place {
    folder: TempDir,
    pub disk: Disk,
}

/// What is under the folder.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    pub file_system: String,
    /// The median of a few hundred 4 KiB writes with `fdatasync` over a file that is there already.
    pub fdatasync_p50_us: f64,
}

impl Place {
    /// # Errors
    /// No folder can be made there, or it is in memory.
    pub fn new(beneath: &Path) -> Result<Place, Trouble> {
        let folder = tempfile::Builder::new().prefix("wal-bench-").tempdir_in(beneath)?;
        let file_system = file_system(folder.path())?;
        if matches!(file_system.as_str(), "tmpfs" | "ramfs") {
            let beneath = beneath.display();
            return Err(
                format!("{beneath} is in memory ({file_system}): name another --dir").into()
            );
        }
        let recycled = folder.path().join(SYNCED);
        ceiling::prepare(&recycled)?;
        let fdatasync_p50_us = fdatasync(&recycled)?.as_secs_f64() * 1e6;
        Ok(Place { folder, disk: Disk { file_system, fdatasync_p50_us } })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An empty folder, removed when the value is.
    pub fn fresh(&self) -> io::Result<TempDir> {
        tempfile::tempdir_in(self.folder.path())
    }

    /// The file that ceilings write over through the page cache.
    pub fn synced(&self) -> PathBuf {
        self.folder.path().join(SYNCED)
    }

    /// The file that ceilings write over directly.
    pub fn direct(&self) -> PathBuf {
        self.folder.path().join("recycled-direct")
    }

    /// Another one.
    pub fn direct_too(&self) -> PathBuf {
        self.folder.path().join("recycled-direct-too")
    }
}

const SYNCED: &str = "recycled";

fn fdatasync(path: &Path) -> io::Result<Duration> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut times = Vec::new();
    for n in 0..300_u64 {
        let began = Instant::now();
        file.write_all_at(&[0x55; 4096], n * 4096 % FILE_BYTES)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

#[cfg(target_os = "linux")]
fn file_system(path: &Path) -> io::Result<String> {
    Ok(named(rustix::fs::statfs(path)?.f_type as u64 & 0xFFFF_FFFF))
}

/// A file system's name, by its magic number.
#[cfg(target_os = "linux")]
fn named(magic: u64) -> String {
    match magic {
        0xEF53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683E => "btrfs".into(),
        0x2FC1_2FC1 => "zfs".into(),
        0xF2F5_2010 => "f2fs".into(),
        0x794C_7630 => "overlayfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x8584_58F6 => "ramfs".into(),
        other => format!("{other:#x}"),
    }
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> io::Result<String> {
    Ok("unknown".into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_disk() {
        assert_eq!(named(0x0102_1994), "tmpfs");
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        // Elsewhere the number above is all there is to check.
        if mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq(["/dev/shm", "tmpfs"])) {
            let error = Place::new(Path::new("/dev/shm")).err().expect("it is refused");
            assert!(error.to_string().contains("in memory (tmpfs)"), "{error}");
        }
    }
}
