//! A simulated disk, and what may go wrong with it.
//!
//! A write is visible at once (page cache) and durable once a sync of its file that began after it
//! is done. What is not durable when the power fails meets one of these fates, each by a keyed
//! draw:
//!
//! - *lost*: nothing of it is there;
//! - *kept*: all of it is there, although nobody synced it;
//! - *cut*: a prefix of it is there, down to the byte;
//! - *torn*: each sector of 512 bytes is there or not; where the file grew, what is missing reads
//!   as zeros, and the file may have its full length or end with the last sector that is there.
//!
//! One write is cut or torn, never both. Writes meet their fates independently, and those that
//! overlap in any order: that is every order in which a disk may have done them. Now and then all
//! of a file's writes are lost, or all are kept. An unsynced truncation is lost or kept. A new
//! file's name is there after a crash if the directory was synced since, else perhaps, each name
//! for itself. So is a name that was taken away: the file has left, or is there as it is by then. When only the process dies, the page cache lives on, and what was not synced still
//! is not.
//!
//! These are the faults that the protocol promises to survive (*atlas* mode): nothing is acted upon
//! before a sync of it was done.
//!
//! A sync may fail. Then what it was to reach is durable as if the power had failed, no later sync makes
//! any more of it durable, and the page cache shows what there is or goes on showing what was written.
//! A bit of what is durable may change, or a sector, in *unrestricted* mode: then only safety is promised.
//! A sector may read as zeros, as it was before it was written last, or as another that was written over it.

use crate::plan::Damage;
use crate::shared::Shared;
use base::prng::{Draw, Key};
use std::borrow::Cow;
use std::io;
use std::ops::Range;
use wal_core::{Directory, DiskError, DiskOp, SegmentId};

const SECTOR: usize = 512;
/// Behind a segment's two header copies.
const FIRST_BATCH: usize = 1024;
/// Room for what most small worlds write to a file, taken when it is created.
const ROOM_FIRST: usize = 4 << 10;
/// Room for a segment of the simulator's usual size, taken when that is not enough.
const ROOM: usize = 32 << 10;

/// How unsynced writes end when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fates {
    /// It may not be there.
    pub lost: bool,
    /// A prefix of it may be there.
    pub cut: bool,
    /// Some of its sectors may be there.
    pub torn: bool,
}

#[derive(Clone, Debug)]
enum Change {
    /// A write at the end of the file as it was: what is there from `offset` on, once the changes
    /// behind it are undone.
    Append {
        offset: usize,
    },
    /// `old` is what it overwrote, up to the end of the file as it was.
    Write {
        offset: usize,
        new: Vec<u8>,
        old: Vec<u8>,
        old_len: usize,
    },
    Truncate {
        old_tail: Vec<u8>,
        len: usize,
    },
}

#[derive(Clone, Debug)]
struct Unsynced {
    /// The disk's number of this change.
    serial: u64,
    /// A sync of it has failed: no later one reaches it.
    forsaken: bool,
    change: Change,
}

#[derive(Clone, Debug)]
struct File {
    id: SegmentId,
    /// Copies of the disk share what is written until one of them goes on writing.
    bytes: Shared<Vec<u8>>,
    /// The change that gave it its name, until that is durable.
    unsynced_name: Option<u64>,
    unsynced: Vec<Unsynced>,
    /// How long it was after each sync since it was written over last.
    ends: Vec<usize>,
}

/// What became of a disk when the power failed, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Unsynced writes that are not there.
    pub writes_lost: u64,
    /// Unsynced writes that are there all the same.
    pub writes_kept: u64,
    /// Unsynced writes of which a prefix is there.
    pub writes_cut: u64,
    /// Unsynced writes of which some sectors are there.
    pub writes_torn: u64,
    /// Files that are not there because their directory was not synced.
    pub names_lost: u64,
}

/// What is left of everything unsynced when the power fails, said outright instead of drawn: for
/// crashes that are enumerated.
///
/// A node's unsynced bytes are one stream for this: the coordinator's log's in the order in which they
/// were written, then the participant's. A truncation counts as one byte and one sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFate {
    /// Nothing, and no new name.
    Lost,
    /// All.
    Kept,
    /// The names, and the first so many bytes.
    Cut(u64),
    /// The names, and those sectors whose bit is set, the first one's the lowest; behind the 64th,
    /// none.
    Torn {
        /// A bit for each sector.
        sectors: u64,
        /// Files have their full length, and zeros where a sector is missing; else they end with
        /// the last sector that is there.
        zeros: bool,
    },
}

impl DiskFate {
    /// The word for it, without its number.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Kept => "kept",
            Self::Cut(_) => "cut",
            Self::Torn { .. } => "torn",
        }
    }

    /// How many bytes are there of a piece that begins behind so much.
    fn whole_or_part(self, at: Unsafe, len: u64) -> u64 {
        match self {
            Self::Lost => 0,
            Self::Kept => len,
            Self::Cut(bytes) => bytes.saturating_sub(at.bytes).min(len),
            Self::Torn { sectors, .. } if at.sectors < 64 && sectors >> at.sectors & 1 == 1 => len,
            Self::Torn { .. } => 0,
        }
    }
}

/// How much is unsynced: what a power failure may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsafe {
    /// New files' names.
    pub names: u64,
    /// Bytes.
    pub bytes: u64,
    /// Pieces of a write that lie in one sector.
    pub sectors: u64,
}

impl Unsafe {
    /// True if the power may fail without any loss.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.names == 0 && self.bytes == 0
    }
}

/// How far a sync reaches: every change that was made before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach(u64);

/// One log's directory on a simulated disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    /// Ascending by id.
    files: Vec<File>,
    /// Files of segments that were taken out of the log.
    retired: Vec<Retired>,
    changes: u64,
}

/// A file that has left the log, and is used again once it is blank.
#[derive(Clone, Debug)]
struct Retired {
    file: File,
    /// The change that gave it its new name, until that is durable.
    unsynced_name: Option<u64>,
    blank: bool,
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl SimDisk {
    /// Performs everything but syncs, which take time: see [`begin_sync`](Self::begin_sync).
    ///
    /// # Errors
    /// What a file system says: the file is there already, or is not there; the log was taken over.
    pub fn perform(&mut self, op: DiskOp) -> Result<(), DiskError> {
        self.changes += 1;
        let serial = self.changes;
        match op {
            DiskOp::Create(id) => {
                let at = match self.files.binary_search_by_key(&id, |file| file.id) {
                    Ok(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists).into()),
                    Err(at) => at,
                };
                let blank = self.retired.iter().position(|retired| retired.blank);
                let bytes = match blank {
                    Some(at) => self.retired.swap_remove(at).file.bytes,
                    None => Vec::with_capacity(ROOM_FIRST).into(),
                };
                // What a process that is gone has left, nobody will use.
                self.retired.retain(|retired| retired.blank || retired.unsynced_name.is_some());
                let file = File {
                    id,
                    bytes,
                    unsynced_name: Some(serial),
                    unsynced: Vec::new(),
                    ends: Vec::new(),
                };
                self.files.insert(at, file);
            }
            DiskOp::Write { segment, .. } if self.has_left(segment) => {}
            DiskOp::Write { segment, offset, bytes } => {
                let file = self.file_mut(segment).ok_or_else(not_found)?;
                let (start, old_len) = (offset as usize, file.bytes.len());
                let end = start + bytes.len();
                let change = if start == old_len {
                    file.append(&bytes);
                    Change::Append { offset: start }
                } else {
                    let old = file.bytes.get(start..end.min(old_len)).unwrap_or(&[]).to_vec();
                    if end > old_len {
                        file.bytes.resize(end, 0);
                    }
                    file.bytes[start..end].copy_from_slice(&bytes);
                    file.ends.retain(|end| *end <= start);
                    Change::Write { offset: start, new: bytes, old, old_len }
                };
                file.unsynced.push(Unsynced { serial, forsaken: false, change });
            }
            DiskOp::Truncate { segment, .. } if self.has_left(segment) => {}
            DiskOp::Truncate { segment, len } => {
                let file = self.file_mut(segment).ok_or_else(not_found)?;
                let len = len as usize;
                file.ends.retain(|end| *end <= len);
                if len < file.bytes.len() {
                    let change = Change::Truncate { old_tail: file.bytes.split_off(len), len };
                    file.unsynced.push(Unsynced { serial, forsaken: false, change });
                }
            }
            DiskOp::Retire(id) => {
                if let Ok(at) = self.files.binary_search_by_key(&id, |file| file.id) {
                    let file = self.files.remove(at);
                    self.retired.push(Retired { file, unsynced_name: Some(serial), blank: false });
                }
            }
            DiskOp::Blank(id) => {
                if let Some(retired) = self.retired.iter_mut().find(|it| it.file.id == id) {
                    // Its content is gone under whatever name it has when the power fails.
                    retired.file.bytes.fill(0);
                    retired.file.unsynced.clear();
                    retired.blank = true;
                }
            }
            DiskOp::CheckEpoch { newest } => {
                if self.files.last().is_some_and(|last| last.id > newest) {
                    return Err(DiskError::Fenced);
                }
            }
            DiskOp::Sync(segment) => {
                let reach = self.begin_sync();
                self.synced(segment, reach);
            }
            DiskOp::SyncDirectory => {
                let reach = self.begin_sync();
                self.directory_synced(reach);
            }
        }
        Ok(())
    }

    /// Whether a successor has taken the segment out of the log. A replaced writer that has its file open
    /// writes where nobody reads.
    fn has_left(&self, segment: SegmentId) -> bool {
        self.file(segment).is_none() && self.files.last().is_some_and(|last| last.id > segment)
    }

    /// Gives up what segments have left, as where a replaced writer may still write to it.
    pub fn reuse_nothing(&mut self) {
        self.retired.retain(|retired| !retired.blank);
    }

    /// A sync begins: it reaches what was changed so far.
    #[must_use]
    pub fn begin_sync(&self) -> Reach {
        Reach(self.changes)
    }

    /// A sync of a file is done.
    pub fn synced(&mut self, segment: SegmentId, Reach(reach): Reach) {
        let Some(file) = self.file_mut(segment) else { return };
        if file.unsynced.iter().any(|change| change.forsaken) {
            file.synced_around(reach);
        } else if file.unsynced.last().is_some_and(|change| change.serial <= reach) {
            file.unsynced.clear();
            if file.ends.last() != Some(&file.bytes.len()) {
                file.ends.push(file.bytes.len());
            }
        } else {
            file.unsynced.retain(|change| change.serial > reach);
        }
    }

    /// A sync of a file has failed. What it was to reach is not durable, and no later sync makes it so: it
    /// counts as clean. If `dropped`, the page cache has given it up too, and shows what there is, as
    /// after a power failure; else it goes on showing what was written.
    pub fn sync_failed(
        &mut self,
        segment: SegmentId,
        Reach(reach): Reach,
        dropped: bool,
        fates: Fates,
        draw: impl Fn(u64) -> Draw,
    ) -> Losses {
        let mut losses = Losses::default();
        let Some(file) = self.file_mut(segment) else { return losses };
        // A file's length is in the journal: it is not forgotten.
        for Unsynced { serial, forsaken, change } in &mut file.unsynced {
            *forsaken |= *serial <= reach && !matches!(change, Change::Truncate { .. });
        }
        // What was written since by somebody else is not to be lost with it.
        if dropped && file.unsynced.iter().all(|change| change.forsaken) {
            file.fall_back(fates, &mut losses, draw);
        }
        losses
    }

    /// Changes one bit of what a file holds for good, and says where; nothing if no file holds a batch.
    pub fn rots(&mut self, draw: &Draw) -> Option<(SegmentId, u64)> {
        let old = |file: &&mut File| file.unsynced.is_empty() && file.bytes.len() > FIRST_BATCH;
        let mut files: Vec<&mut File> = self.files.iter_mut().filter(old).collect();
        let count = files.len() as u64;
        let file = files.get_mut(draw.nth(1).below(count.max(1)) as usize)?;
        // Behind the last byte that is not zero, nothing was ever written.
        let end = file.bytes.iter().rposition(|byte| *byte != 0)?;
        let at =
            FIRST_BATCH + draw.nth(2).below((end.checked_sub(FIRST_BATCH)? + 1) as u64) as usize;
        file.bytes[at] ^= 1 << draw.nth(3).below(8);
        Some((file.id, at as u64))
    }

    /// Damages a sector of what a file holds for good, and says where it is other than it was; nothing if
    /// there is none whose change the log has to tell: one below the end of what had been synced before
    /// a later write began that is synced as well, since that write says how far the log was durable.
    pub fn damages(&mut self, how: Damage, draw: &Draw) -> Vec<(SegmentId, u64)> {
        let before = |file: &File, at: usize| match how {
            Damage::Zeroed => vec![0; SECTOR],
            Damage::Stale | Damage::Misdirected => file.before(at),
        };
        let mut all: Vec<(SegmentId, usize)> = Vec::new();
        for file in &self.files {
            let end = file.ends.len().checked_sub(3).map_or(0, |nth| file.ends[nth]);
            let sectors = (FIRST_BATCH / SECTOR..end / SECTOR).map(|sector| sector * SECTOR);
            let differs = |at: &usize| before(file, *at) != file.bytes[*at..*at + SECTOR];
            all.extend(sectors.filter(differs).map(|at| (file.id, at)));
        }
        let pick = |nth: u64, of: &[(SegmentId, usize)]| {
            of.get(draw.nth(nth).below(of.len().max(1) as u64) as usize).copied()
        };
        let Some((id, at)) = pick(1, &all) else { return Vec::new() };
        let file = self.file(id).expect("it is one of the files");
        let mut changes = vec![(id, at, before(file, at))];
        if how == Damage::Misdirected {
            all.retain(|other| *other != (id, at));
            let Some((other, to)) = pick(2, &all) else { return Vec::new() };
            changes.push((other, to, file.bytes[at..at + SECTOR].to_vec()));
        }
        let mut changed = Vec::new();
        for (id, at, bytes) in changes {
            let Some(file) = self.file_mut(id) else { continue };
            let sector = &mut file.bytes[at..at + SECTOR];
            let first = sector.iter().zip(&bytes).position(|(old, new)| old != new);
            sector.copy_from_slice(&bytes);
            changed.extend(first.map(|first| (id, (at + first) as u64)));
        }
        changed
    }

    /// Whether a segment is part of the log: what is in front of a gap is not.
    #[must_use]
    pub fn holds(&self, segment: SegmentId) -> bool {
        let newest = self.files.last().map_or(0, |file| file.id.0);
        (segment.0..=newest).all(|id| self.file(SegmentId(id)).is_some())
    }

    /// Whether this would make a file longer, or be a new one.
    #[must_use]
    pub fn takes_room(&self, op: &DiskOp) -> bool {
        match op {
            DiskOp::Create(_) => true,
            DiskOp::Write { segment, offset, bytes } => {
                let end = *offset as usize + bytes.len();
                self.file(*segment).is_some_and(|file| end > file.bytes.len())
            }
            _ => false,
        }
    }

    /// A sync of the directory is done.
    pub fn directory_synced(&mut self, Reach(reach): Reach) {
        for file in &mut self.files {
            if file.unsynced_name.is_some_and(|serial| serial <= reach) {
                file.unsynced_name = None;
            }
        }
        for retired in &mut self.retired {
            if retired.unsynced_name.is_some_and(|serial| serial <= reach) {
                retired.unsynced_name = None;
            }
        }
    }

    /// The power fails. `disk` and `failure` tell this failure from others.
    pub fn power_fails(&mut self, fates: Fates, key: &Key, disk: u64, failure: u64) -> Losses {
        let mut losses = Losses::default();
        let question = |id: SegmentId, serial: u64| {
            key.draw(disk << 32 | failure, id.0 << 40 | serial & 0xFF_FFFF_FFFF)
        };
        // A file whose new name is lost has its old one; what has left for good is gone.
        for Retired { file, unsynced_name, .. } in std::mem::take(&mut self.retired) {
            if let Some(serial) = unsynced_name
                && fates.lost
                && question(file.id, serial).nth(1).below(2) == 0
                && let Err(at) = self.files.binary_search_by_key(&file.id, |other| other.id)
            {
                losses.names_lost += 1;
                self.files.insert(at, file);
            }
        }
        self.files.retain_mut(|file| {
            if let Some(serial) = file.unsynced_name.take()
                && fates.lost
                && question(file.id, serial).nth(1).below(2) == 0
            {
                losses.names_lost += 1;
                return false;
            }
            if !file.unsynced.is_empty() {
                let id = file.id;
                file.fall_back(fates, &mut losses, |serial| question(id, serial));
            }
            true
        });
        losses
    }

    /// What is unsynced, added to what is unsynced elsewhere.
    pub fn add_unsynced(&self, to: &mut Unsafe) {
        for file in &self.files {
            to.names += u64::from(file.unsynced_name.is_some());
            // What was appended last begins where the one before ends.
            let mut end = file.bytes.len();
            for Unsynced { change, .. } in file.unsynced.iter().rev() {
                let (bytes, sectors) = match change {
                    Change::Append { offset } => {
                        (end - offset, pieces(*offset, end - offset).count())
                    }
                    Change::Write { offset, new, .. } => {
                        (new.len(), pieces(*offset, new.len()).count())
                    }
                    Change::Truncate { .. } => (1, 1),
                };
                end = match change {
                    Change::Append { offset } => *offset,
                    Change::Write { old_len, .. } => *old_len,
                    Change::Truncate { old_tail, len } => len + old_tail.len(),
                };
                to.bytes += bytes as u64;
                to.sectors += sectors as u64;
            }
        }
    }

    /// The power fails, and this is left. `before` is what of the node's stream came before this
    /// disk; what this one had is added.
    pub fn fails_as(&mut self, fate: DiskFate, before: &mut Unsafe) -> Losses {
        let mut losses = Losses::default();
        let mut changes = Vec::new();
        for (at, file) in self.files.iter_mut().enumerate() {
            let taken = file.take_back();
            changes.extend(taken.into_iter().map(|one| (one.serial, at, one.change)));
        }
        changes.sort_unstable_by_key(|(serial, ..)| *serial);
        for (_, at, change) in changes {
            self.files[at].end_as(fate, change, before, &mut losses);
        }
        self.files.retain_mut(|file| {
            let named = file.unsynced_name.take().is_none() || fate != DiskFate::Lost;
            losses.names_lost += u64::from(!named);
            named
        });
        losses
    }

    /// What is durable of it now: what a power failure would leave for certain.
    #[must_use]
    pub fn durable(&self) -> Durable<'_> {
        Durable(self)
    }

    /// The newest files are the ones that are used.
    fn file(&self, segment: SegmentId) -> Option<&File> {
        self.files.iter().rev().find(|file| file.id == segment)
    }

    fn file_mut(&mut self, segment: SegmentId) -> Option<&mut File> {
        self.files.iter_mut().rev().find(|file| file.id == segment)
    }
}

impl File {
    fn append(&mut self, bytes: &[u8]) {
        let to = &mut *self.bytes;
        if to.len() + bytes.len() > to.capacity() && to.len() < ROOM {
            to.reserve_exact(ROOM.max(to.len() + bytes.len()) - to.len());
        }
        to.extend_from_slice(bytes);
    }

    /// A sector as it was before it was written last: it ended where a sync found the file's end.
    fn before(&self, at: usize) -> Vec<u8> {
        let inside = self.ends.iter().filter(|end| (at + 1..at + SECTOR).contains(end));
        let end = inside.max().copied().unwrap_or(at);
        let mut bytes = self.bytes[at..end].to_vec();
        bytes.resize(SECTOR, 0);
        bytes
    }

    /// As [`SimDisk::synced`] where an earlier sync has failed: what that one was to reach stays as it is,
    /// but where newer writes lie over it.
    fn synced_around(&mut self, reach: u64) {
        let (reached, left): (Vec<Unsynced>, Vec<Unsynced>) =
            self.take_back().into_iter().partition(|it| !it.forsaken && it.serial <= reach);
        let mut written: Vec<(u64, Range<usize>)> = Vec::new();
        for Unsynced { serial, change, .. } in reached {
            match change {
                Change::Truncate { len, .. } => {
                    self.bytes.truncate(len);
                    written.push((serial, len..usize::MAX));
                }
                Change::Write { offset, new, .. } => {
                    self.put(offset, &new);
                    written.push((serial, offset..offset + new.len()));
                }
                Change::Append { .. } => unreachable!("it was made a write when it was undone"),
            }
        }
        for Unsynced { serial, forsaken, change } in left {
            match change {
                Change::Truncate { len, .. } if len < self.bytes.len() => {
                    let change = Change::Truncate { old_tail: self.bytes.split_off(len), len };
                    self.unsynced.push(Unsynced { serial, forsaken, change });
                }
                Change::Truncate { .. } => {}
                Change::Write { offset, new, .. } => {
                    let newer = written.iter().filter(|(at, _)| *at > serial);
                    let whole = offset..offset + new.len();
                    let mut pieces: Vec<Range<usize>> = std::iter::once(whole).collect();
                    for (_, over) in newer {
                        let around = |piece: Range<usize>| {
                            let before = piece.start..piece.end.min(over.start);
                            [before, piece.start.max(over.end)..piece.end]
                        };
                        pieces = pieces.into_iter().flat_map(around).collect();
                        pieces.retain(|piece| !piece.is_empty());
                    }
                    for piece in pieces {
                        let bytes = &new[piece.start - offset..piece.end - offset];
                        self.write_again(serial, forsaken, piece.start, bytes);
                    }
                }
                Change::Append { .. } => unreachable!("it was made a write when it was undone"),
            }
        }
    }

    /// A write that was taken back is there again, and still not durable.
    fn write_again(&mut self, serial: u64, forsaken: bool, offset: usize, new: &[u8]) {
        let (end, old_len) = (offset + new.len(), self.bytes.len());
        let old = self.bytes.get(offset..end.min(old_len)).unwrap_or(&[]).to_vec();
        self.put(offset, new);
        let change = Change::Write { offset, new: new.to_vec(), old, old_len };
        self.unsynced.push(Unsynced { serial, forsaken, change });
    }

    /// Takes every unsynced change back, and says what they were: none is an append any more.
    fn take_back(&mut self) -> Vec<Unsynced> {
        let mut unsynced = std::mem::take(&mut self.unsynced);
        for Unsynced { change, .. } in unsynced.iter_mut().rev() {
            if let Change::Append { offset } = *change {
                let (new, old) = (self.bytes.split_off(offset), Vec::new());
                *change = Change::Write { offset, new, old, old_len: offset };
            } else {
                undo(change, &mut self.bytes);
            }
        }
        unsynced
    }

    /// A change that was taken back ends as it is told.
    fn end_as(&mut self, fate: DiskFate, change: Change, at: &mut Unsafe, losses: &mut Losses) {
        let (offset, new) = match change {
            Change::Truncate { len, .. } => {
                if fate.whole_or_part(*at, 1) == 1 {
                    self.bytes.truncate(len);
                }
                at.bytes += 1;
                at.sectors += 1;
                return;
            }
            Change::Write { offset, new, .. } => (offset, new),
            Change::Append { .. } => unreachable!("it was made a write when it was undone"),
        };
        if let DiskFate::Torn { zeros: true, .. } = fate
            && self.bytes.len() < offset + new.len()
        {
            self.bytes.resize(offset + new.len(), 0);
        }
        let mut there = 0;
        for piece in pieces(offset, new.len()) {
            let count = fate.whole_or_part(*at, piece.len() as u64);
            self.put(offset + piece.start, &new[piece.start..piece.start + count as usize]);
            there += count as usize;
            at.bytes += piece.len() as u64;
            at.sectors += 1;
        }
        let counter = match fate {
            _ if there == new.len() => &mut losses.writes_kept,
            _ if there == 0 => &mut losses.writes_lost,
            DiskFate::Torn { .. } => &mut losses.writes_torn,
            _ => &mut losses.writes_cut,
        };
        *counter += 1;
    }

    /// Takes every unsynced change back, then lets each meet its fate.
    fn fall_back(&mut self, fates: Fates, losses: &mut Losses, draw: impl Fn(u64) -> Draw) {
        let mut unsynced = self.take_back();
        // All alike, one time in three.
        let together = draw(0);
        if together.nth(1).below(4) == 0 {
            unsynced.sort_by_key(|change| draw(change.serial).nth(3).u64());
        }
        for Unsynced { serial, change, .. } in unsynced {
            let own = draw(serial);
            let kind = match together.nth(2).below(6) {
                0 if fates.lost => Kind::Lost,
                1 => Kind::Kept,
                _ => fates.kind(&own),
            };
            match change {
                Change::Truncate { len, .. } => {
                    if kind != Kind::Lost {
                        self.bytes.truncate(len);
                    }
                }
                Change::Write { offset, new, .. } => self.end(kind, offset, &new, &own, losses),
                Change::Append { .. } => unreachable!("it was made a write when it was undone"),
            }
        }
    }

    fn end(&mut self, kind: Kind, offset: usize, new: &[u8], own: &Draw, losses: &mut Losses) {
        match kind {
            Kind::Lost => losses.writes_lost += 1,
            Kind::Kept => {
                losses.writes_kept += 1;
                self.put(offset, new);
            }
            Kind::Cut => {
                losses.writes_cut += 1;
                let count = own.nth(4).below(new.len() as u64 + 1) as usize;
                self.put(offset, &new[..count]);
            }
            Kind::Torn => {
                losses.writes_torn += 1;
                if own.nth(5).below(2) == 0 && self.bytes.len() < offset + new.len() {
                    self.bytes.resize(offset + new.len(), 0);
                }
                for piece in pieces(offset, new.len()) {
                    if own.nth(16 + piece.start as u64).below(2) == 0 {
                        self.put(offset + piece.start, &new[piece]);
                    }
                }
            }
        }
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if !bytes.is_empty() && end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        if !bytes.is_empty() {
            self.bytes[offset..end].copy_from_slice(bytes);
        }
    }
}

/// A write's pieces, each within one sector, as ranges of the write.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let sector_end = ((offset + from) / SECTOR + 1) * SECTOR;
        let piece = from..len.min(sector_end - offset);
        from = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

fn undo(change: &Change, bytes: &mut Vec<u8>) {
    match change {
        Change::Append { offset } => bytes.truncate(*offset),
        Change::Write { offset, old, old_len, .. } => {
            bytes.truncate(*old_len);
            if !old.is_empty() {
                bytes[*offset..*offset + old.len()].copy_from_slice(old);
            }
        }
        Change::Truncate { old_tail, len } => {
            bytes.truncate(*len);
            bytes.extend_from_slice(old_tail);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kept,
    Lost,
    Cut,
    Torn,
}

impl Fates {
    fn kind(self, draw: &Draw) -> Kind {
        let open = [
            (true, Kind::Kept),
            (self.lost, Kind::Lost),
            (self.cut, Kind::Cut),
            (self.torn, Kind::Torn),
        ];
        let count = open.iter().filter(|(on, _)| *on).count() as u64;
        let pick = draw.nth(2).below(count) as usize;
        let chosen = open.iter().filter(|(on, _)| *on).nth(pick);
        chosen.map_or(Kind::Kept, |(_, kind)| *kind)
    }
}

impl Directory for SimDisk {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        Ok(self.files.iter().map(|file| file.id).collect())
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        self.file(segment).map(|file| file.bytes.len() as u64).ok_or_else(not_found)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.file(segment).ok_or_else(not_found)?;
        Ok(read(&file.bytes, offset, into))
    }
}

fn read(bytes: &[u8], offset: u64, into: &mut [u8]) -> usize {
    let from = bytes.get(offset as usize..).unwrap_or(&[]);
    let count = from.len().min(into.len());
    into[..count].copy_from_slice(&from[..count]);
    count
}

/// A disk as it would be if the power failed now and every unsynced change were lost.
#[derive(Clone, Copy, Debug)]
pub struct Durable<'a>(&'a SimDisk);

impl<'a> Durable<'a> {
    /// The newest segment.
    #[must_use]
    pub fn newest(&self) -> Option<SegmentId> {
        let files = self.0.files.iter().rev();
        files.filter(|file| file.unsynced_name.is_none()).map(|file| file.id).next()
    }

    /// A segment's bytes from an offset on, none if it is not as long. They are copied only if what
    /// stands there now is something else.
    ///
    /// # Errors
    /// There is no such segment.
    pub fn tail(&self, segment: SegmentId, offset: u64) -> io::Result<Cow<'a, [u8]>> {
        let file = self.0.file(segment).ok_or_else(not_found)?;
        let offset = offset as usize;
        Ok(match Self::bytes(file) {
            Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(offset..).unwrap_or(&[])),
            Cow::Owned(mut bytes) => Cow::Owned(bytes.drain(offset.min(bytes.len())..).collect()),
        })
    }

    fn bytes(file: &File) -> Cow<'_, [u8]> {
        if file.unsynced.is_empty() {
            return Cow::Borrowed(&file.bytes);
        }
        let mut bytes = file.bytes.to_vec();
        file.unsynced.iter().rev().for_each(|unsynced| undo(&unsynced.change, &mut bytes));
        Cow::Owned(bytes)
    }
}

impl Directory for Durable<'_> {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        let named = self.0.files.iter().filter(|file| file.unsynced_name.is_none());
        Ok(named.map(|file| file.id).collect())
    }

    fn len(&self, segment: SegmentId) -> io::Result<u64> {
        let file = self.0.file(segment).ok_or_else(not_found)?;
        Ok(Self::bytes(file).len() as u64)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.0.file(segment).ok_or_else(not_found)?;
        Ok(read(&Self::bytes(file), offset, into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Fates = Fates { lost: true, cut: true, torn: true };
    const ID: SegmentId = SegmentId::FIRST;

    fn write(offset: u64, bytes: &[u8]) -> DiskOp {
        DiskOp::Write { segment: ID, offset, bytes: bytes.to_vec() }
    }

    fn contents(directory: &dyn Directory) -> Vec<u8> {
        let mut bytes = vec![0; directory.len(ID).unwrap() as usize];
        assert_eq!(directory.read_at(ID, 0, &mut bytes).unwrap(), bytes.len());
        bytes
    }

    fn disk() -> SimDisk {
        let mut disk = SimDisk::default();
        for op in [DiskOp::Create(ID), write(0, b"synced"), DiskOp::Sync(ID), DiskOp::SyncDirectory]
        {
            disk.perform(op).unwrap();
        }
        disk
    }

    #[test]
    fn what_is_synced_survives_and_what_is_not_meets_every_fate() {
        let mut base = disk();
        base.perform(write(6, &[b'x'; 1200])).unwrap();
        base.perform(write(2, b"NC")).unwrap();
        assert_eq!(contents(&base.durable()), b"synced");
        let mut lengths = std::collections::BTreeSet::new();
        let mut heads = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let mut disk = base.clone();
            disk.power_fails(ALL, &Key::root(seed), 1, 1);
            let bytes = contents(&disk);
            assert!(bytes.starts_with(b"sy") && bytes[4..6] == *b"ed", "{bytes:?}");
            assert!(bytes[6..].iter().all(|b| *b == b'x' || *b == 0));
            assert_eq!(contents(&disk.durable()), bytes, "all that is left is durable");
            heads.insert(bytes[..6].to_vec());
            lengths.insert(bytes.len());
        }
        assert!(heads.len() >= 3, "kept, lost and cut: {heads:?}");
        assert!(lengths.contains(&6) && lengths.contains(&1206) && lengths.len() > 20);
    }

    #[test]
    fn a_sync_reaches_only_what_was_there_when_it_began() {
        let mut disk = disk();
        disk.perform(write(6, b"early")).unwrap();
        let reach = disk.begin_sync();
        disk.perform(write(11, b"late")).unwrap();
        disk.synced(ID, reach);
        // A second sync that began before the late write reaches no further.
        disk.synced(ID, reach);
        assert_eq!(contents(&disk.durable()), b"syncedearly");
        assert_eq!(*disk.durable().tail(ID, 0).unwrap(), *b"syncedearly");
        assert_eq!(contents(&disk), b"syncedearlylate");
        disk.synced(ID, disk.begin_sync());
        assert_eq!(*disk.durable().tail(ID, 6).unwrap(), *b"earlylate");
    }

    #[test]
    fn what_a_sync_has_failed_to_reach_no_later_one_reaches() {
        let mut base = disk();
        base.perform(write(6, b"forsaken")).unwrap();
        let reach = base.begin_sync();
        base.sync_failed(ID, reach, false, ALL, |_| Key::root(1).draw(0, 0));
        assert_eq!(contents(&base), b"syncedforsaken", "the page cache shows it");
        base.perform(write(14, b"late")).unwrap();
        base.synced(ID, base.begin_sync());
        let durable = contents(&base.durable());
        assert_eq!(
            (&durable[..6], &durable[6..14], &durable[14..]),
            (&b"synced"[..], &[0; 8][..], &b"late"[..])
        );
        assert_eq!(contents(&base), b"syncedforsakenlate");
        // Written again, in part, it is durable in part.
        base.perform(write(6, b"FORSA")).unwrap();
        base.synced(ID, base.begin_sync());
        assert_eq!(contents(&base), b"syncedFORSAkenlate");
        assert_eq!(contents(&base.durable()), b"syncedFORSA\0\0\0late");
        base.perform(write(11, b"KEN")).unwrap();
        base.synced(ID, base.begin_sync());
        assert_eq!(contents(&base.durable()), b"syncedFORSAKENlate");
        // The page cache may give it up as well.
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut disk = disk();
            disk.perform(write(6, b"forsaken")).unwrap();
            let draw = |serial| Key::root(seed).draw(1, serial);
            disk.sync_failed(ID, disk.begin_sync(), true, ALL, draw);
            assert_eq!(contents(&disk), contents(&disk.durable()));
            lengths.insert(contents(&disk).len());
        }
        assert!(lengths.contains(&6) && lengths.contains(&14) && lengths.len() > 3, "{lengths:?}");
    }

    #[test]
    fn a_bit_rots_behind_the_headers_and_in_front_of_the_end() {
        let mut disk = disk();
        assert_eq!(disk.rots(&Key::root(1).draw(0, 0)), None, "there is no batch");
        disk.perform(write(0, &[0; 1024])).unwrap();
        disk.perform(write(1024, &[7; 40])).unwrap();
        disk.perform(write(1064, &[0; 100])).unwrap();
        disk.synced(ID, disk.begin_sync());
        let before = contents(&disk);
        for seed in 0..50 {
            let mut disk = disk.clone();
            let (segment, at) = disk.rots(&Key::root(seed).draw(0, 0)).unwrap();
            assert!(segment == ID && (1024..1064).contains(&at), "{at}");
            let changed = before.iter().zip(contents(&disk)).filter(|(a, b)| **a != *b).count();
            assert_eq!(changed, 1);
        }
    }

    #[test]
    fn a_name_is_lost_or_kept_until_its_directory_is_synced() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..50 {
            let mut disk = disk();
            disk.perform(DiskOp::Create(ID.next())).unwrap();
            assert_eq!(disk.durable().segments().unwrap(), [ID]);
            assert_eq!(disk.durable().newest(), Some(ID));
            match disk.power_fails(ALL, &Key::root(seed), 1, 1).names_lost {
                0 => kept += 1,
                _ => lost += 1,
            }
        }
        assert!(lost > 5 && kept > 5, "{lost} lost, {kept} kept");
    }

    #[test]
    fn a_truncation_comes_back_or_stays() {
        let mut base = disk();
        base.perform(DiskOp::Truncate { segment: ID, len: 3 }).unwrap();
        assert_eq!(contents(&base), b"syn");
        assert_eq!(contents(&base.durable()), b"synced");
        let left: std::collections::BTreeSet<Vec<u8>> = (0..50)
            .map(|seed| {
                let mut disk = base.clone();
                disk.power_fails(ALL, &Key::root(seed), 1, 1);
                contents(&disk)
            })
            .collect();
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn what_is_left_can_be_said_outright() {
        let mut base = disk();
        base.perform(write(6, &[b'x'; 1200])).unwrap();
        base.perform(write(2, b"NC")).unwrap();
        let mut there = Unsafe::default();
        base.add_unsynced(&mut there);
        assert_eq!(there, Unsafe { names: 0, bytes: 1202, sectors: 4 });
        let after = |fate| {
            let (mut disk, mut before) = (base.clone(), Unsafe::default());
            let losses = disk.fails_as(fate, &mut before);
            assert_eq!(before, Unsafe { names: 0, ..there }, "all of it met its fate");
            assert_eq!(contents(&disk.durable()), contents(&disk));
            (contents(&disk), losses)
        };
        let torn = |sectors, zeros| after(DiskFate::Torn { sectors, zeros }).0;
        assert_eq!(after(DiskFate::Lost).0, b"synced");
        assert_eq!(after(DiskFate::Kept).0, contents(&base));
        assert_eq!(after(DiskFate::Cut(3)).0, b"syncedxxx");
        let (bytes, losses) = after(DiskFate::Cut(1201));
        assert_eq!((&bytes[..6], bytes.len()), (&b"syNced"[..], 1206));
        assert_eq!((losses.writes_kept, losses.writes_cut), (1, 1));
        // Sectors: 506 bytes, 512, 182, and the later write's two.
        assert_eq!(torn(0b1000, false), b"syNCed");
        assert_eq!(torn(0b0001, false).len(), 512);
        let holed = torn(0b0100, false);
        assert_eq!((holed.len(), holed[6], holed[1023], holed[1024]), (1206, 0, 0, b'x'));
        assert_eq!((torn(0, true).len(), torn(0, false).len()), (1206, 6));
        // Behind other disks' bytes: nothing of the cut is left for this one.
        let (mut disk, mut before) = (base.clone(), Unsafe { names: 0, bytes: 7, sectors: 1 });
        disk.fails_as(DiskFate::Cut(7), &mut before);
        assert_eq!(contents(&disk), b"synced");
    }

    #[test]
    fn a_name_and_a_truncation_end_as_they_are_told() {
        let mut base = disk();
        base.perform(DiskOp::Truncate { segment: ID, len: 3 }).unwrap();
        base.perform(DiskOp::Create(ID.next())).unwrap();
        let mut there = Unsafe::default();
        base.add_unsynced(&mut there);
        assert_eq!(there, Unsafe { names: 1, bytes: 1, sectors: 1 });
        for (fate, len, names) in [
            (DiskFate::Lost, 6, 1),
            (DiskFate::Kept, 3, 2),
            (DiskFate::Cut(0), 6, 2),
            (DiskFate::Cut(1), 3, 2),
            (DiskFate::Torn { sectors: 0, zeros: true }, 6, 2),
        ] {
            let mut disk = base.clone();
            disk.fails_as(fate, &mut Unsafe::default());
            assert_eq!(contents(&disk).len(), len, "{fate:?}");
            assert_eq!(disk.segments().unwrap().len(), names, "{fate:?}");
        }
    }

    #[test]
    fn a_retired_segment_comes_back_until_the_directory_is_synced() {
        let (mut back, mut gone) = (0, 0);
        for seed in 0..50 {
            let mut disk = disk();
            disk.perform(DiskOp::Retire(ID)).unwrap();
            assert!(disk.segments().unwrap().is_empty());
            if seed % 2 == 0 {
                // Too early: whoever does this finds zeros.
                disk.perform(DiskOp::Blank(ID)).unwrap();
            }
            disk.power_fails(ALL, &Key::root(seed), 1, 1);
            match disk.segments().unwrap().len() {
                0 => gone += 1,
                _ if seed % 2 == 0 => assert_eq!(contents(&disk), [0; 6]),
                _ => {
                    assert_eq!(contents(&disk), b"synced");
                    back += 1;
                }
            }
            let mut disk = self::disk();
            for op in [DiskOp::Retire(ID), DiskOp::SyncDirectory] {
                disk.perform(op).unwrap();
            }
            disk.power_fails(ALL, &Key::root(seed), 1, 1);
            assert!(disk.segments().unwrap().is_empty());
        }
        assert!(back > 5 && gone > 10, "{back} {gone}");
    }

    #[test]
    fn a_file_is_used_again_once_it_is_blank() {
        let mut disk = disk();
        for op in [DiskOp::Retire(ID), DiskOp::SyncDirectory, DiskOp::Create(ID.next())] {
            disk.perform(op).unwrap();
        }
        assert_eq!(disk.len(ID.next()).unwrap(), 0, "it is not");
        disk.perform(DiskOp::Blank(ID)).unwrap();
        let third = ID.next().next();
        let mut disk = self::disk();
        let ops = [DiskOp::Retire(ID), DiskOp::SyncDirectory, DiskOp::Blank(ID)];
        ops.into_iter().for_each(|op| disk.perform(op).unwrap());
        disk.perform(DiskOp::Create(third)).unwrap();
        let mut bytes = [1; 6];
        assert_eq!(disk.read_at(third, 0, &mut bytes).unwrap(), 6);
        assert_eq!(bytes, [0; 6]);
    }

    #[test]
    fn a_newer_segment_fences() {
        let mut disk = disk();
        assert!(disk.perform(DiskOp::CheckEpoch { newest: ID }).is_ok());
        disk.perform(DiskOp::Create(ID.next())).unwrap();
        let fenced = disk.perform(DiskOp::CheckEpoch { newest: ID });
        assert!(matches!(fenced, Err(DiskError::Fenced)));
        let again = disk.perform(DiskOp::Create(ID));
        assert!(again.is_err_and(|error| error.is_already_there()));
    }
}
