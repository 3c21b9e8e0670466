//! Reading sealed segments again, at leisure: what a disk has damaged is found while whatever else knows
//! of it (a peer, a backup, the disk's own second copy) still does.
//!
//! This is a value like the log: it is told the time and says when it wants to go on. Whoever runs it reads
//! beside the log's writer, with [`FileStorage::beside`](crate::FileStorage::beside), on a thread of its own
//! or between other things.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use base::{Epoch, Time};

use super::{
    Corruption, Damage, Extent, HEADER_BYTES, Progress, SECTOR, ScanConfig, ScanError, Scanner,
    Seed, SegmentReader, View, survey,
};
use crate::segment::Claim;
use crate::storage::{Directory, SegmentId};

/// How sealed segments are read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// So many bytes a second are read on average, and never more than [`Scrub::STEP_BYTES`] and a batch at
    /// once. 0 counts as 1.
    pub bytes_per_second: u64,
    /// How long it rests when every sealed segment was read.
    pub pause: Duration,
    /// Whether to look at the CRC-32 of each record too. Its batch proves it without.
    pub enable_checksums: bool,
}

impl Default for ScrubConfig {
    fn default() -> ScrubConfig {
        ScrubConfig {
            bytes_per_second: 4 << 20,
            pause: Duration::from_secs(3600),
            enable_checksums: true,
        }
    }
}

/// What a [`Scrub`] has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    /// How often every sealed segment was read.
    pub rounds: u64,
    /// Segments that were read to their end.
    pub segments: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Damaged places that were reported, each in every round anew.
    pub damaged: u64,
    /// Segments that the disk would not read.
    pub unreadable: u64,
}

/// Reads the sealed segments of a log over and over, a little at a time, and tells what is damaged.
///
/// Nothing is ever repaired or changed: a log that heals itself in silence hides a dying disk. The open
/// segment is left alone; the next opening reads it.
#[derive(Debug)]
pub struct Scrub {
    config: ScrubConfig,
    due: Time,
    round: Option<Round>,
    stats: ScrubStats,
}

#[derive(Debug)]
struct Round {
    /// Sealed segments that are still to be read.
    left: VecDeque<View>,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    view: View,
    reader: SegmentReader,
    progress: Progress,
}

impl Scrub {
    /// What is read at once, in bytes; one batch more at most.
    pub const STEP_BYTES: u64 = 256 << 10;
    /// After this long a directory that changed while it was looked at is looked at again.
    const AGAIN: Duration = Duration::from_secs(1);

    /// One that begins at once.
    #[must_use]
    pub fn new(config: ScrubConfig, now: Time) -> Scrub {
        Scrub { config, due: now, round: None, stats: ScrubStats::default() }
    }

    /// When [`step`](Self::step) goes on; before that it does nothing.
    #[must_use]
    pub fn due(&self) -> Time {
        self.due
    }

    /// The segment that the next step goes on in; `None` between two.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentId> {
        self.round.as_ref()?.under_way.as_ref().map(|under_way| under_way.view.id)
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> &ScrubStats {
        &self.stats
    }

    /// Reads on, if it is time to, and tells what is damaged in what it read. A step that comes late does
    /// not make up for it.
    ///
    /// A segment that is taken out of the log meanwhile is none of the log any more: nothing is said of it.
    ///
    /// # Errors
    /// [`ScanError`]. A segment that the disk does not read is left for the next round; step again.
    pub fn step(
        &mut self,
        directory: &dyn Directory,
        now: Time,
    ) -> Result<Vec<Corruption>, ScanError> {
        if now < self.due {
            return Ok(Vec::new());
        }
        // Whatever goes wrong below is not tried again at once.
        self.due = now + Self::AGAIN;
        let Some(round) = &mut self.round else {
            match begin(directory) {
                Ok(round) => {
                    self.round = Some(round);
                    self.due = now;
                }
                Err(ScanError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            return Ok(Vec::new());
        };
        let Some(mut now_read) = round.under_way.take().or_else(|| next(&mut round.left)) else {
            self.round = None;
            self.stats.rounds += 1;
            self.due = now + self.config.pause;
            return Ok(Vec::new());
        };
        let id = now_read.view.id;
        let from = now_read.reader.at;
        let ended = match now_read.read(directory, self.config.enable_checksums) {
            Ok(ended) => ended,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                self.stats.unreadable += 1;
                return Err(error.into());
            }
        };
        let bytes = now_read.reader.at.saturating_sub(from).max(SECTOR);
        self.stats.bytes += bytes;
        self.due = now + self.takes(bytes);
        let mut found = std::mem::take(&mut now_read.progress.scanned.corruption);
        if !found.is_empty() && !directory.segments()?.contains(&id) {
            // Its file was recycled while it was read.
            found.clear();
        } else if ended {
            self.stats.segments += 1;
        } else if let Some(round) = &mut self.round {
            round.under_way = Some(now_read);
        }
        self.stats.damaged += found.len() as u64;
        Ok(found)
    }

    /// How long so many bytes may take.
    fn takes(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(u128::from(self.config.bytes_per_second.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn begin(directory: &dyn Directory) -> Result<Round, ScanError> {
    let mut left = VecDeque::from(survey(directory, None)?.views);
    left.retain(|view| matches!(view.extent, Extent::Sealed { .. }));
    Ok(Round { left, under_way: None })
}

/// Turns to the next segment, with what its header has to say.
fn next(left: &mut VecDeque<View>) -> Option<UnderWay> {
    let view = left.pop_front()?;
    let Extent::Sealed { length, .. } = view.extent else {
        unreachable!("no other segment is in a round");
    };
    let mut progress = Progress::new();
    // Without a seal of its own nothing says what it begins with; the header's damage is all there is to
    // tell then.
    let readable = view.claim().zip(view.header.seal).filter(|_| !view.foreign);
    let (claim, at) = match readable {
        Some((claim, seal)) => {
            progress.next = seal.last.next();
            progress.chain = seal.guard;
            (claim, HEADER_BYTES)
        }
        None => (nobodys(view.id), length),
    };
    let seed = Seed::of(&claim);
    let id = view.id;
    let reader =
        SegmentReader { id, seed, claim, limit: length, at, last_nonzero: None, damaged: false };
    Some(UnderWay { view, reader, progress })
}

/// A claim with which no batch is read.
fn nobodys(segment: SegmentId) -> Claim {
    Claim { log_id: 0, segment, epoch: Epoch::NONE, max_payload: 0, batch_bytes_max: 0 }
}

impl UnderWay {
    /// Reads one step; true at the segment's end.
    fn read(&mut self, directory: &dyn Directory, enable_checksums: bool) -> io::Result<bool> {
        let UnderWay { view, reader, progress } = self;
        let Extent::Sealed { length, last, guard, take_over } = view.extent else {
            unreachable!("no other segment is in a round");
        };
        let config = ScanConfig { enable_checksums, ..ScanConfig::default() };
        let mut visitor = ();
        let so_far = std::mem::replace(progress, Progress::new());
        let mut scanner = Scanner::new(directory, &config, &mut visitor, so_far);
        let read = scanner.scrub(view, reader, (length, last, guard, take_over));
        *progress = scanner.progress;
        read
    }
}

impl Scanner<'_> {
    fn scrub(
        &mut self,
        view: &View,
        reader: &mut SegmentReader,
        (length, last, guard, take_over): (u64, base::Sequence, u32, bool),
    ) -> io::Result<bool> {
        self.window.open(view.id)?;
        let header_only = view.foreign || view.header.seal.is_none() || view.claim().is_none();
        if reader.at == HEADER_BYTES || header_only {
            self.tell_header(view);
        }
        if header_only {
            return Ok(true);
        }
        let until = reader.at + Scrub::STEP_BYTES;
        let mut ended = reader.at >= length;
        while !ended && reader.at < until {
            ended = if self.read_batch(reader)? {
                reader.at >= length
            } else {
                self.end_of(view.extent, reader)?.is_some()
            };
        }
        if ended {
            self.check_seal(reader, length, last, guard);
            self.look_behind(view.id, length, take_over)?;
        }
        Ok(ended)
    }

    fn tell_header(&mut self, view: &View) {
        for &(copy, what, hides) in &view.header.damage {
            let (offset, bytes) =
                if copy == 2 { (0, HEADER_BYTES) } else { (u64::from(copy) * SECTOR, SECTOR) };
            self.report(view.id, offset, bytes, what, hides);
        }
        if view.foreign {
            self.report(view.id, 0, view.file_bytes, Damage::ForeignSegment, true);
        }
    }
}
