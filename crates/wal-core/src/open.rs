//! Opening a log for writing, as steps: between any two of their operations a machine may crash, and
//! opening again goes on from whatever is there.
//!
//! 1. [`Opening::scan`] reads what is there.
//! 2. [`Opening::claim`] makes a new segment with a higher epoch durable. From here on the old writer,
//!    if there still is one, finds out before it acknowledges anything.
//! 3. [`Opening::read_tail`] reads what it wrote in the meantime, decides where the log ends, and mends:
//!    a torn tail is zeroed, what is kept but unproven is written again and synced (after a failed sync
//!    the page cache may show what the disk does not have), and only then the new segment seals the old.
//! 4. [`Opening::finish`] looks whether somebody newer has come, and gives the log.

use std::io;

use base::{Epoch, Sequence, Time};

use crate::compact::Compaction;
use crate::guard::{Batch, HEAD_BYTES, Seed, decode_head};
use crate::log::{Config, ConfigError, Log, Opened, claim_ops, seal_ops};
use crate::scan::{
    Ending, Held, NotUnderstood, Progress, ScanConfig, ScanError, Scanned, Scanner, Survey, Tail,
    Visitor, is_valid, survey,
};
use crate::segment::{Claim, HEADER_BYTES, Part, SECTOR, Seal, encode_copy};
use crate::storage::{Directory, DiskError, DiskOp, SegmentId};
use crate::window::Window;

/// Who else may be writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Nobody: an exclusive lock is held.
    Exclusive,
    /// The old writer may still be at work, on shared storage. Nothing of it is cut or mended; the seal
    /// decides what counts.
    TakeOver,
}

/// Why a log could not be opened for writing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The log is damaged. It was left untouched; salvage what is provable into a new one.
    #[error(
        "the log is damaged: {}; `trinity wal salvage` copies what it proves into a new one",
        first_of(.0)
    )]
    Corrupt(Box<Scanned>),
    /// A newer version has written what no reader may pass over. Nothing was changed: open the log with that
    /// version, or a later one.
    #[error(
        "{0}, and must not pass over: open the log with the version that wrote it, or a later one"
    )]
    Newer(NotUnderstood),
    /// Somebody newer is opening the log, or has opened it. Give up.
    #[error("another writer has claimed the log")]
    Fenced,
    /// Somebody else created the segment that was to be claimed, or has sealed less than was read. Open
    /// again, with a fresh visitor.
    #[error("another writer claimed the log at the same moment: open it again")]
    ClaimedMeanwhile,
    /// The disk failed while the log was being opened. Open it again.
    #[error(transparent)]
    Disk(DiskError),
    /// 2^24 - 1 starts.
    #[error("the log has used up its epochs")]
    EpochsExhausted,
    /// More of the log's end is unproven than any writer leaves; it cannot be rewritten.
    #[error("{bytes} bytes at the log's end are proved by no watermark: at most {max} can be")]
    TailTooLong {
        /// How much.
        bytes: u64,
        /// The most.
        max: u64,
    },
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::Scan(ScanError::Io(error))
    }
}

impl OpenError {
    /// What an operation of [`Opening::claim`] has come to.
    pub(crate) fn of_claim(error: DiskError) -> OpenError {
        if error.is_already_there() { OpenError::ClaimedMeanwhile } else { OpenError::of(error) }
    }

    /// What an operation of [`Opening::read_tail`] has come to.
    pub(crate) fn of(error: DiskError) -> OpenError {
        match error {
            DiskError::Fenced => OpenError::Fenced,
            error @ DiskError::Io(_) => OpenError::Disk(error),
        }
    }
}

fn refuse_newer(visitor: &dyn Visitor) -> Result<(), OpenError> {
    visitor.not_understood().map_or(Ok(()), |found| Err(OpenError::Newer(found)))
}

fn first_of(scanned: &Scanned) -> String {
    scanned.corruption.first().map_or_else(String::new, ToString::to_string)
}

/// A log being opened for writing. See the steps at the top of this module's page.
#[derive(Clone, Debug)]
pub struct Opening {
    config: Config,
    mode: OpenMode,
    progress: Progress,
    newest: Option<SegmentId>,
    /// The newest segment may have a name that is not durable yet.
    name_unproven: bool,
    claim: Option<Claim>,
    /// The oldest segment that counts, and what an earlier recycling has left in front of a gap.
    oldest: Option<SegmentId>,
    remainders: Vec<SegmentId>,
    sealed: bool,
}

impl Opening {
    /// The most that is rewritten at the log's end: what a writer may have had unsynced. That is what it
    /// has written, as much again that is written and synced with it, and the guards. Together with one
    /// batch being read it is all that an opening holds, and less than 64 MiB.
    const TAIL_BYTES_MAX: u64 = 5 * Config::BUFFERED_BYTES_LIMIT / 2;
    const REWRITE_BYTES: u64 = 1 << 20;

    /// Reads the log, and tells `visitor` what it holds. A log that is not there yet is an empty one.
    ///
    /// With [`OpenMode::TakeOver`] the very end is left to [`Opening::read_tail`].
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] after all of it was told, and [`OpenError::Newer`]; [`OpenError::Scan`],
    /// [`OpenError::Config`].
    pub fn scan(
        directory: &dyn Directory,
        config: Config,
        mode: OpenMode,
        visitor: &mut dyn Visitor,
    ) -> Result<Opening, OpenError> {
        config.validate()?;
        let survey = survey(directory, None)?;
        let scan_config = config.replay_config();
        let mut scanner = Scanner::new(directory, &scan_config, visitor, Progress::new());
        let ending = match mode {
            OpenMode::Exclusive => Ending::Decide,
            OpenMode::TakeOver => Ending::Defer,
        };
        scanner.read(&survey, None, ending)?;
        let progress = scanner.progress;
        if mode == OpenMode::TakeOver {
            refuse_corrupt_tail(directory, &scan_config, &progress)?;
        }
        let newest = survey.newest().map(|view| view.id);
        // A name is durable before its segment's first batch. One without may be a crash's.
        let held = progress.held.map(|held| held.segment);
        let opening = Opening {
            config,
            mode,
            name_unproven: newest.is_some() && newest != held,
            newest,
            progress,
            oldest: None,
            remainders: Vec::new(),
            claim: None,
            sealed: false,
        };
        opening.refuse_corrupt()?;
        refuse_newer(visitor)?;
        Ok(opening)
    }

    /// The operations that claim the log: a new segment with a new epoch, at least `floor`. A log that
    /// has no id yet gets `new_log_id`.
    ///
    /// If its `Create` fails with `AlreadyExists` somebody else was faster: start over with
    /// [`Opening::scan`]. If its `CheckEpoch` fails somebody newer has claimed the log: give up.
    ///
    /// # Errors
    /// [`OpenError::EpochsExhausted`].
    pub fn claim(&mut self, floor: Epoch, new_log_id: u64) -> Result<Vec<DiskOp>, OpenError> {
        let scanned = &self.progress.scanned;
        let epoch = scanned.epoch.next().ok_or(OpenError::EpochsExhausted)?.max(floor);
        let claim = Claim {
            log_id: scanned.log_id.unwrap_or(new_log_id),
            segment: self.newest.map_or(SegmentId::FIRST, SegmentId::next),
            epoch,
            max_payload: self.config.max_payload,
            batch_bytes_max: self.config.batch_bytes_max,
        };
        self.claim = Some(claim);
        let mut ops = Vec::new();
        if self.name_unproven {
            // Two new names may become durable in either order, and one alone would be a gap.
            ops.push(DiskOp::SyncDirectory);
        }
        claim_ops(&claim, &mut ops);
        Ok(ops)
    }

    /// Lets a log that is new begin with the record `first`, as if older segments had been recycled: its
    /// first record has to be the first part of a snapshot. For a copy of such a log.
    ///
    /// # Panics
    /// If the log is not new, or was claimed already.
    pub fn begin_at(&mut self, first: Sequence) {
        assert!(self.newest.is_none() && self.claim.is_none(), "the log is new");
        // The first segment is one that has gone.
        self.newest = Some(SegmentId::FIRST);
        self.progress.held = Some(Held { segment: SegmentId::FIRST, end: HEADER_BYTES });
        (self.progress.next, self.progress.first) = (first, first);
    }

    /// The segment that was [claimed](Self::claim). While the directory holds none that is newer,
    /// nobody has taken the log over from this opening.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentId> {
        self.claim.map(|claim| claim.segment)
    }

    /// Once the claim's operations are done: reads on, decides where the log ends, and returns the
    /// operations that make it so.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`], [`OpenError::Newer`], [`OpenError::TailTooLong`], [`OpenError::Scan`];
    /// [`OpenError::ClaimedMeanwhile`]: start over with [`Opening::scan`].
    ///
    /// # Panics
    /// If nothing was claimed.
    pub fn read_tail(
        &mut self,
        directory: &dyn Directory,
        visitor: &mut dyn Visitor,
    ) -> Result<Vec<DiskOp>, OpenError> {
        let claim = self.claim.expect("a log is claimed before its tail is read");
        let survey = survey(directory, Some(claim.segment))?;
        let scan_config = self.config.replay_config();
        self.oldest = survey.views.first().map(|view| view.id);
        self.remainders = survey.remainders.clone();
        let resume = self.progress.tail.take().map(|tail| (tail.segment, tail.end));
        if resume.is_some_and(|(segment, end)| !survey.still_counts(segment, end)) {
            // What was told is none of the log any more: another one who took over has read less.
            return Err(OpenError::ClaimedMeanwhile);
        }
        let progress = std::mem::replace(&mut self.progress, Progress::new());
        let mut scanner = Scanner::new(directory, &scan_config, visitor, progress);
        let read = scanner.read(&survey, resume, Ending::Decide);
        self.progress = scanner.progress;
        read?;
        self.refuse_corrupt()?;
        refuse_newer(visitor)?;
        let mut ops = Vec::new();
        if self.mode == OpenMode::Exclusive {
            mend_headers(&survey, &mut ops);
        }
        if let Some(tail) = self.progress.tail {
            let mut window = Window::new(directory);
            window.open(tail.segment)?;
            let file_bytes = window.file_bytes();
            if self.mode == OpenMode::Exclusive && tail.torn {
                cut(&mut window, &tail, &mut ops)?;
            }
            rewrite(&mut window, &tail, &mut ops)?;
            if self.mode == OpenMode::Exclusive && file_bytes > tail.end {
                // Before the seal, which says that nothing is there: an opening whose sync has failed may
                // have left zeros in the page cache, over a torn tail that the disk still has.
                ops.push(DiskOp::Truncate { segment: tail.segment, len: tail.end });
                ops.push(DiskOp::Sync(tail.segment));
            }
        }
        let held = self.progress.held.map(|held| held.segment);
        let take_over = self.mode == OpenMode::TakeOver || survey.was_taken_over(held);
        let seal = self.seal(take_over);
        seal_ops(&claim, &seal, &mut ops);
        let scanned = &mut self.progress.scanned;
        scanned.segments += 1;
        scanned.log_id = Some(claim.log_id);
        if scanned.epoch > Epoch::NONE {
            scanned.stats.recoveries += 1;
        }
        scanned.epoch = claim.epoch;
        self.sealed = true;
        Ok(ops)
    }

    fn seal(&self, take_over: bool) -> Seal {
        match self.progress.held {
            None => Seal { take_over, ..Seal::NOTHING },
            Some(held) => Seal {
                segment: held.segment,
                length: held.end,
                last: self.progress.last(),
                guard: self.progress.chain,
                take_over,
            },
        }
    }

    fn refuse_corrupt(&self) -> Result<(), OpenError> {
        if self.progress.scanned.is_corrupt() {
            return Err(OpenError::Corrupt(Box::new(self.progress.scanned.clone())));
        }
        Ok(())
    }

    /// Once the tail's operations are done: looks whether a newer segment has come, and gives the log.
    ///
    /// # Errors
    /// [`OpenError::Fenced`], [`OpenError::Scan`].
    ///
    /// # Panics
    /// If the tail was not read.
    pub fn finish(self, directory: &dyn Directory, now: Time) -> Result<Log, OpenError> {
        assert!(self.sealed, "a log's tail is read before it is written");
        let claim = self.claim.expect("what was sealed was claimed");
        if directory.segments()?.last() != Some(&claim.segment) {
            return Err(OpenError::Fenced);
        }
        let compaction = Compaction::found(
            self.oldest.unwrap_or(claim.segment),
            self.remainders,
            self.progress.first,
            &self.progress.snapshots,
        );
        let opened = Opened {
            compaction,
            last: self.progress.last(),
            chain: if self.progress.held.is_some() { self.progress.chain } else { 0 },
            stats: self.progress.scanned.stats.clone(),
            config: self.config,
            claim,
        };
        Ok(Log::opened(opened, now))
    }

    /// What was found.
    #[must_use]
    pub fn scanned(&self) -> &Scanned {
        &self.progress.scanned
    }

    /// The epoch that was claimed; [`Epoch::NONE`] before.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.claim.map_or(Epoch::NONE, |claim| claim.epoch)
    }

    /// The log's id; `None` before it was claimed, if it is new.
    #[must_use]
    pub fn log_id(&self) -> Option<u64> {
        self.claim.map(|claim| claim.log_id).or(self.progress.scanned.log_id)
    }
}

/// Before anything is claimed: once a claim stands behind it, what is damaged there may look like what an
/// opening has half written. The old writer may be at work, and what is read while it writes may look like
/// anything: damage stays, so it is looked at again.
fn refuse_corrupt_tail(
    directory: &dyn Directory,
    config: &ScanConfig,
    progress: &Progress,
) -> Result<(), OpenError> {
    const LOOKS: u32 = 3;
    let mut look = 1;
    loop {
        let mut progress = progress.clone();
        let resume = progress.tail.take().map(|tail| (tail.segment, tail.end));
        let survey = survey(directory, None)?;
        let counts = resume.is_none_or(|(segment, end)| survey.still_counts(segment, end));
        if resume.is_none() || !counts {
            return Ok(());
        }
        let mut nobody = ();
        let mut scanner = Scanner::new(directory, config, &mut nobody, progress);
        scanner.read(&survey, resume, Ending::Decide)?;
        let scanned = scanner.progress.scanned;
        if !scanned.is_corrupt() {
            return Ok(());
        }
        if look == LOOKS {
            return Err(OpenError::Corrupt(Box::new(scanned)));
        }
        look += 1;
    }
}

/// Rewrites header copies that a crash has cut short, and clears those of an abandoned start.
fn mend_headers(survey: &Survey, ops: &mut Vec<DiskOp>) {
    const ZEROS: [u8; SECTOR as usize] = [0; SECTOR as usize];
    for view in &survey.views {
        let segment = view.id;
        let good = match view.header.claim {
            Some(claim) => encode_copy(&claim, view.header.seal.as_ref()),
            None => ZEROS,
        };
        for (index, copy) in view.copies.odd().iter().enumerate() {
            let unsealed = view.header.seal.is_some() && copy.seal == Part::Absent;
            if !view.header.lost[index] && !unsealed {
                continue;
            }
            let offset = index as u64 * SECTOR;
            if copy.needs_zeroing {
                // Else a write cut short could leave a copy whose both ends look whole.
                ops.push(DiskOp::Write { segment, offset, bytes: ZEROS.to_vec() });
                ops.push(DiskOp::Sync(segment));
            }
            ops.push(DiskOp::Write { segment, offset, bytes: good.to_vec() });
            ops.push(DiskOp::Sync(segment));
        }
    }
}

/// Zeroes a torn tail: its beginning first, so that it is torn at the same place whenever a crash comes.
fn cut(window: &mut Window<'_>, tail: &Tail, ops: &mut Vec<DiskOp>) -> io::Result<()> {
    let Some(last) = window.last_nonzero(tail.end)? else { return Ok(()) };
    let sector_end = (tail.end / SECTOR + 1) * SECTOR;
    let mut at = tail.end;
    let segment = tail.segment;
    while at <= last {
        let to =
            if at < sector_end { sector_end } else { (at + Opening::REWRITE_BYTES).min(last + 1) };
        ops.push(DiskOp::Write { segment, offset: at, bytes: vec![0; (to - at) as usize] });
        if at < sector_end {
            ops.push(DiskOp::Sync(segment));
        }
        at = to;
    }
    if at > sector_end {
        ops.push(DiskOp::Sync(segment));
    }
    Ok(())
}

/// Writes again what is kept and no watermark proves. What is read for it is verified once more: a
/// read gone wrong must not become a write.
///
/// What is there is synced first. A writer that died may have left it unsynced, and two writes of the
/// same bytes can end half each when the power fails: one torn by sector, the other cut at a byte. No
/// single write ends like that, so it would look like damage.
fn rewrite(window: &mut Window<'_>, tail: &Tail, ops: &mut Vec<DiskOp>) -> Result<(), OpenError> {
    let bytes = tail.end - tail.unproven_from;
    let max = Opening::TAIL_BYTES_MAX;
    if bytes > max {
        return Err(OpenError::TailTooLong { bytes, max });
    }
    let (segment, seed) = (tail.segment, Seed::of(&tail.claim));
    if bytes > 0 {
        ops.push(DiskOp::Sync(segment));
    }
    let mut at = tail.unproven_from;
    while at < tail.end {
        let head = window.at(at, HEAD_BYTES as u64)?;
        let guard = decode_head(head, seed, at, tail.claim.batch_bytes_max).ok_or_else(changed)?;
        let (bytes, known) = window.batch(at, u64::from(guard.batch_bytes))?;
        let max_payload = tail.claim.max_payload;
        if !is_valid(&Batch { guard, offset: at, bytes, max_payload, known }) {
            return Err(changed().into());
        }
        match ops.last_mut() {
            Some(DiskOp::Write { offset, bytes: chunk, .. })
                if at > tail.unproven_from
                    && *offset + chunk.len() as u64 == at
                    && (chunk.len() as u64) < Opening::REWRITE_BYTES =>
            {
                chunk.extend_from_slice(bytes);
            }
            last => {
                if let Some(DiskOp::Write { bytes: chunk, .. }) = last {
                    chunk.shrink_to_fit();
                }
                ops.push(DiskOp::Write { segment, offset: at, bytes: bytes.to_vec() });
            }
        }
        at += u64::from(guard.batch_bytes);
    }
    if bytes > 0 {
        ops.push(DiskOp::Sync(segment));
    }
    Ok(())
}

fn changed() -> io::Error {
    io::Error::other("the log's end reads differently than a moment ago")
}
