//! Reading a log from its start to its end, in a process of its own: what that process grows by is the
//! memory that a replay needs.

use std::any::Any;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::log::{PAYLOAD, Trouble, number, payload};
use crate::sample::Sample;
use crate::{ours, peers};

/// What a reading found.
pub struct Seen {
    pub records: u64,
    /// Of the records' numbers, modulo 2^64.
    pub sum: u64,
    /// What reading has opened: ending it is no part of a replay.
    pub open: Box<dyn Any>,
}

/// A log that is written once and read in every repetition.
pub struct Replayed {
    pub name: &'static str,
    /// Two that read the same log name it the same.
    pub folder: &'static str,
    build: fn(&Path, u64) -> Result<(), Trouble>,
    read: fn(&Path) -> Result<Seen, Trouble>,
}

pub const OURS: &str = ours::NAME;
pub const OURS_EACH: &str = "wal-core, record checksums too";
pub const EACH: &str = "read + CRC per record";
/// The hand-written ceiling: what must be read and checked, and nothing else.
pub const SIXTEEN: &str = "read + CRC per 16 records";
pub const SPACETIME: &str = "spacetimedb-commitlog";

pub const ALL: &[Replayed] = &[
    Replayed {
        name: OURS,
        folder: "ours",
        build: ours::build,
        read: |directory| ours::replay(directory, false),
    },
    Replayed {
        name: OURS_EACH,
        folder: "ours",
        build: ours::build,
        read: |directory| ours::replay(directory, true),
    },
    Replayed { name: EACH, folder: "each", build: |d, n| frames(d, n, 1), read: |d| read(d, 1) },
    Replayed {
        name: SIXTEEN,
        folder: "sixteen",
        build: |d, n| frames(d, n, 16),
        read: |d| read(d, 16),
    },
    Replayed {
        name: SPACETIME,
        folder: "spacetime",
        build: peers::spacetime::build,
        read: peers::spacetime::replay,
    },
    Replayed {
        name: peers::commit_log::NAME,
        folder: "commitlog",
        build: peers::commit_log::build,
        read: peers::commit_log::replay,
    },
    Replayed {
        name: peers::sqlite::NAME,
        folder: "sqlite",
        build: peers::sqlite::build,
        read: peers::sqlite::replay,
    },
    Replayed {
        name: peers::okay_wal::NAME,
        folder: "okaywal",
        build: peers::okay_wal::build,
        read: peers::okay_wal::replay,
    },
    Replayed {
        name: peers::raft::NAME,
        folder: "raft-engine",
        build: peers::raft::build,
        read: peers::raft::replay,
    },
];

/// The sum of the numbers of so many records.
pub fn sum(records: u64) -> u64 {
    let sum = u128::from(records) * (u128::from(records) + 1) / 2;
    // Readers add up modulo 2^64.
    sum as u64
}

/// What the process that reads says on its standard output.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    records: u64,
    sum: u64,
    seconds: f64,
    grew_bytes: Option<u64>,
}

impl Replayed {
    /// Writes the log, if it is not there.
    pub fn prepare(&self, beneath: &Path, records: u64) -> Result<(), Trouble> {
        let directory = beneath.join(self.folder);
        if directory.is_dir() {
            return Ok(());
        }
        std::fs::create_dir(&directory)?;
        (self.build)(&directory, records).inspect_err(|_| drop(std::fs::remove_dir_all(&directory)))
    }

    /// Has a new process read it.
    pub fn measure(&self, beneath: &Path, records: u64) -> Result<Sample, Trouble> {
        let output = Command::new(std::env::current_exe()?)
            .args(["--replay", self.name, "--dir"])
            .arg(beneath.join(self.folder))
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }
        let told: Told = serde_json::from_slice(&output.stdout)?;
        if (told.records, told.sum) != (records, sum(records)) {
            return Err(format!("{} of {records} records came back", told.records).into());
        }
        Ok(Sample {
            per_second: records as f64 / told.seconds,
            memory_bytes: told.grew_bytes.map(|bytes| bytes as f64),
            ..Sample::default()
        })
    }
}

/// The other process.
pub fn child(name: &str, directory: &Path) -> Result<(), Trouble> {
    let replayed = ALL.iter().find(|replayed| replayed.name == name).ok_or("no such log")?;
    let before = peak_bytes();
    let began = Instant::now();
    let Seen { records, sum, open } = (replayed.read)(directory)?;
    let seconds = began.elapsed().as_secs_f64();
    let grew_bytes = before.zip(peak_bytes()).map(|(before, after)| after - before);
    drop(open);
    let told = Told { records, sum, seconds, grew_bytes };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &told)?;
    Ok(out.flush()?)
}

/// The most memory that this process has had at once.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Frames: the body's length and its checksum, 4 bytes each, then the body. A body is one payload, or
/// so many payloads with their lengths.
fn frames(directory: &Path, records: u64, per_frame: u64) -> Result<(), Trouble> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(directory.join("log"))?);
    let mut body = Vec::new();
    for first in (1..=records).step_by(usize::try_from(per_frame)?) {
        body.clear();
        for number in first..(first + per_frame).min(records + 1) {
            if per_frame > 1 {
                body.extend_from_slice(&(PAYLOAD as u32).to_le_bytes());
            }
            body.extend_from_slice(&payload(number));
        }
        file.write_all(&u32::try_from(body.len())?.to_le_bytes())?;
        file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
        file.write_all(&body)?;
    }
    Ok(file.into_inner()?.sync_all()?)
}

fn read(directory: &Path, per_frame: u64) -> Result<Seen, Trouble> {
    let mut file = File::open(directory.join("log"))?;
    let mut block = vec![0; 256 << 10];
    let (mut start, mut end) = (0, 0);
    let (mut records, mut sum) = (0, 0_u64);
    loop {
        while let Some((length, rest)) = block[start..end].split_first_chunk::<4>()
            && let Some((checksum, rest)) = rest.split_first_chunk::<4>()
            && let Some(mut body) = rest.get(..u32::from_le_bytes(*length) as usize)
        {
            if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
                return Err("a checksum is wrong".into());
            }
            start += 8 + body.len();
            if per_frame == 1 {
                records += 1;
                sum = sum.wrapping_add(number(black_box(body)));
                continue;
            }
            while let Some((length, rest)) = body.split_first_chunk::<4>() {
                let (payload, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
                records += 1;
                sum = sum.wrapping_add(number(black_box(payload)));
                body = rest;
            }
        }
        block.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        match file.read(&mut block[end..])? {
            0 if end == 0 => return Ok(Seen { records, sum, open: Box::new(file) }),
            0 => return Err("the last frame is cut".into()),
            more => end += more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_gives_back_what_it_was_given() {
        // Enough for several blocks, and no multiple of a batch.
        const RECORDS: u64 = 10_003;
        let directory = tempfile::tempdir().unwrap();
        for replayed in ALL {
            replayed.prepare(directory.path(), RECORDS).expect(replayed.name);
            let read = (replayed.read)(&directory.path().join(replayed.folder));
            let seen = read.expect(replayed.name);
            assert_eq!((seen.records, seen.sum), (RECORDS, sum(RECORDS)), "{}", replayed.name);
        }
    }

    #[test]
    fn a_flipped_bit_is_seen_by_the_baseline() {
        let directory = tempfile::tempdir().unwrap();
        frames(directory.path(), 100, 16).unwrap();
        let path = directory.path().join("log");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[500] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(read(directory.path(), 16).is_err());
    }
}
