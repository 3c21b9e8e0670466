//! A disk that remembers every operation, and what a crash can make of it.

use std::ops::Range;

use base::{Sequence, Time};
use wal_core::{
    Config, Directory, DiskError, DiskOp, EventType, Log, MemoryStorage, OpenError, OpenMode,
    Place, Record, ScanConfig, Scanned, SegmentId, Storage, Visitor,
};

pub const SECTOR: usize = 512;

pub fn config() -> Config {
    Config {
        max_payload: 900,
        segment_bytes_first: 4096,
        segment_bytes_max: 8192,
        batch_bytes_max: 3072,
        buffered_bytes_max: 8192,
        ..Config::default()
    }
}

/// A disk whose directory is that of the one that it wraps.
macro_rules! reads_as {
    ($disk:ty, $inner:ident) => {
        impl wal_core::Directory for $disk {
            fn segments(&self) -> std::io::Result<Vec<wal_core::SegmentId>> {
                self.$inner.segments()
            }
            fn len(&self, segment: wal_core::SegmentId) -> std::io::Result<u64> {
                self.$inner.len(segment)
            }
            fn read_at(
                &self,
                segment: wal_core::SegmentId,
                at: u64,
                into: &mut [u8],
            ) -> std::io::Result<usize> {
                self.$inner.read_at(segment, at, into)
            }
        }
    };
}
pub(crate) use reads_as;

/// The payload of every record, in order of its sequence, which it checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub payloads: Vec<Vec<u8>>,
    pub last: Sequence,
    pub holes: usize,
}

impl Visitor for Seen {
    fn record(&mut self, record: &Record<'_>, place: Place) {
        assert!(place.crc_ok && record.sequence > self.last, "in order, each once");
        self.last = record.sequence;
        self.payloads.push(record.payload.to_vec());
    }

    fn hole(&mut self, _: &wal_core::Corruption) {
        self.holes += 1;
    }
}

pub fn scan(storage: &dyn Directory) -> (Seen, Scanned) {
    let mut seen = Seen::default();
    let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut seen).unwrap();
    (seen, scanned)
}

pub fn open(storage: &mut dyn Storage) -> Result<(Log, Scanned, Seen), OpenError> {
    let mut seen = Seen::default();
    let mode = OpenMode::Exclusive;
    let (log, scanned) =
        wal_core::open(storage, &config(), mode, 0xFEED_F00D_1234_5678, Time::ZERO, &mut seen)?;
    Ok((log, scanned, seen))
}

/// The payload of the `n`-th record: of many lengths, some all zero, some with a record inside.
pub fn payload(n: u64) -> Vec<u8> {
    let len = [0, 1, 40, 700, 8, 250, 899, 90][(n % 8) as usize];
    let mut bytes: Vec<u8> = (0..len).map(|i| (n * 31 + i * 7) as u8).collect();
    if n % 5 == 3 {
        bytes.fill(0);
    }
    if n % 8 == 7 {
        bytes.clear();
        let record = Record {
            sequence: Sequence(n + 1),
            event: EventType::TX_COMMIT_START,
            timestamp_ms: 0,
            payload: b"forged",
        };
        wal_core::encode_record(&record, &mut bytes);
        wal_core::encode_record(&record, &mut bytes);
    }
    bytes
}

/// What the disk was asked, in order.
#[derive(Clone, Debug)]
pub enum Entry {
    /// It was performed.
    Done(DiskOp),
    /// It is what a write that failed has left. A disk cuts a write at a byte or tears it by sector, not
    /// both: this is there or not.
    Part(DiskOp),
    /// The sync failed: what was dirty is gone, though it can be read until the machine crashes.
    FailedSync(SegmentId),
}

/// A disk that shows what was written and remembers how it came about.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    pub base: MemoryStorage,
    pub visible: MemoryStorage,
    pub entries: Vec<Entry>,
    /// How many operations until a sync fails.
    pub fail_sync_in: Option<u32>,
}

impl Journal {
    pub fn over(base: MemoryStorage) -> Journal {
        Journal { visible: base.clone(), base, entries: Vec::new(), fail_sync_in: None }
    }
}

reads_as!(Journal, visible);

impl Storage for Journal {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if let DiskOp::Sync(segment) = op
            && let Some(left) = &mut self.fail_sync_in
        {
            if *left == 0 {
                self.fail_sync_in = None;
                self.entries.push(Entry::FailedSync(*segment));
                return Err(std::io::Error::other("the sync failed").into());
            }
            *left -= 1;
        }
        self.visible.perform(op)?;
        self.entries.push(Entry::Done(op.clone()));
        Ok(())
    }
}

/// What becomes of an operation that was not synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    Lost,
    /// So many bytes of the write are there.
    Cut(usize),
    /// Those sectors of the write are there, counted from its first.
    Sectors(u64),
}

/// How often a sampled test tries: `few` by default, and in a heavy run what its variable says
/// (`cargo xtask damage wal` and `cargo xtask crash wal` set them).
pub fn rounds(variable: &str, few: u64) -> u64 {
    let said = std::env::var(variable).ok();
    said.map_or(few, |said| said.parse().unwrap_or_else(|_| panic!("{variable}={said}")))
}

/// Does `0..count` in parts, one after the other on each processor, and adds up what they return.
pub fn in_parallel(count: usize, part: impl Fn(Range<usize>) -> u64 + Sync) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let bound = |index: usize| count * index / threads;
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|index| {
                let part = &part;
                scope.spawn(move || part(bound(index)..bound(index + 1)))
            })
            .collect();
        let join = |part: std::thread::ScopedJoinHandle<'_, u64>| match part.join() {
            Ok(sum) => sum,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        parts.into_iter().map(join).sum()
    })
}

/// Small, repeatable choices.
pub struct Choices(pub u64);

impl Choices {
    /// Near seeds give choices that have nothing in common.
    pub fn seeded(seed: u64) -> Choices {
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Choices((z ^ (z >> 31)) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

impl Journal {
    /// Every state (or many, if there are very many) that a crash after `done` operations, or during
    /// the one after them, can leave.
    pub fn crash_states(
        &self,
        done: usize,
        choices: &mut Choices,
        mut visit: impl FnMut(MemoryStorage, &[(usize, Fate)]),
    ) {
        let uncertain = self.uncertain(done);
        let mut fates: Vec<(usize, Fate)> =
            uncertain.iter().map(|&index| (index, Fate::Kept)).collect();
        let count = uncertain.len();
        let patterns: Vec<u32> = if count <= 6 {
            (0..1 << count).collect()
        } else {
            (0..64).map(|_| choices.below(1 << count.min(30)) as u32).collect()
        };
        for &pattern in &patterns {
            for (bit, fate) in fates.iter_mut().enumerate() {
                fate.1 = if pattern >> bit & 1 == 1 { Fate::Kept } else { Fate::Lost };
            }
            visit(self.state(done, &fates), &fates);
        }
        for (torn, &entry) in uncertain.iter().enumerate() {
            let Entry::Done(DiskOp::Write { offset, bytes, .. }) = &self.entries[entry] else {
                continue;
            };
            for others in [Fate::Kept, Fate::Lost] {
                for fate in tears(*offset as usize, bytes.len(), choices) {
                    for (index, (_, other)) in fates.iter_mut().enumerate() {
                        *other = if index == torn { fate.clone() } else { others.clone() };
                    }
                    visit(self.state(done, &fates), &fates);
                }
            }
        }
    }

    /// The states that a crash after `done` operations, or during the one after them, can leave if each
    /// sector of each unsynced write has a fate of its own: every one if there are few, else `samples`.
    pub fn sector_states(
        &self,
        done: usize,
        samples: usize,
        choices: &mut Choices,
        mut visit: impl FnMut(MemoryStorage, &[(usize, Fate)]),
    ) {
        const FEW: usize = 7;
        let uncertain = self.uncertain(done);
        let sectors = |index: usize| match &self.entries[index] {
            Entry::Done(DiskOp::Write { offset, bytes, .. }) => {
                sector_parts(*offset as usize, bytes.len()).len()
            }
            _ => 1,
        };
        let all: usize = uncertain.iter().map(|&index| sectors(index)).sum();
        let states = if all <= FEW { 1 << all } else { samples };
        for state in 0..states {
            // Few are kept, half of them, or nearly all.
            let kept_of_8 = [1, 4, 4, 7][state % 4];
            let mut bit = 0;
            let mut kept = || {
                bit += 1;
                if all <= FEW { state >> (bit - 1) & 1 == 1 } else { choices.below(8) < kept_of_8 }
            };
            let fates: Vec<(usize, Fate)> = uncertain
                .iter()
                .map(|&index| {
                    let bits = (0..sectors(index)).map(|sector| u64::from(kept()) << sector);
                    let mask: u64 = bits.sum();
                    match self.entries[index] {
                        Entry::Done(DiskOp::Write { .. }) => (index, Fate::Sectors(mask)),
                        _ => (index, if mask == 0 { Fate::Lost } else { Fate::Kept }),
                    }
                })
                .collect();
            visit(self.state(done, &fates), &fates);
        }
    }

    /// The state after everything if every name that no sync has made durable is lost, and nothing else.
    pub fn without_unsynced_names(&self, done: usize) -> MemoryStorage {
        let created =
            |&index: &usize| matches!(self.entries[index], Entry::Done(DiskOp::Create(_)));
        let names = self.uncertain(done).into_iter().filter(created);
        self.state(done, &names.map(|index| (index, Fate::Lost)).collect::<Vec<_>>())
    }

    /// A sync has failed, and what was dirty of the segment reads as if it had never been written.
    pub fn forget_unsynced(&mut self, segment: SegmentId) {
        let of_segment = |index: &usize| match &self.entries[*index] {
            Entry::Part(DiskOp::Write { segment: of, .. })
            | Entry::Done(
                DiskOp::Write { segment: of, .. } | DiskOp::Truncate { segment: of, .. },
            ) => *of == segment,
            _ => false,
        };
        let forgotten: Vec<usize> =
            self.uncertain(self.entries.len()).into_iter().filter(of_segment).collect();
        let mut index = 0;
        self.entries.retain(|_| {
            index += 1;
            !forgotten.contains(&(index - 1))
        });
        self.visible = self.state(self.entries.len(), &[]);
    }

    /// The power is lost after everything: one of the states that can be left, as a new disk.
    pub fn power_loss(&self, choices: &mut Choices) -> Journal {
        let done = self.entries.len();
        let mut fates = Vec::new();
        for index in self.uncertain(done) {
            let write = match &self.entries[index] {
                Entry::Done(DiskOp::Write { offset, bytes, .. }) => Some((*offset, bytes.len())),
                _ => None,
            };
            let fate = match (choices.below(4), write) {
                (0, _) => Fate::Lost,
                (1, _) | (_, None) => Fate::Kept,
                (2, Some((_, len))) => Fate::Cut(choices.below(len + 1)),
                (_, Some((offset, len))) => {
                    let sectors = sector_parts(offset as usize, len).len().min(62);
                    Fate::Sectors(choices.below(1 << sectors) as u64)
                }
            };
            fates.push((index, fate));
        }
        Journal::over(self.state(done, &fates))
    }

    /// The operations whose effect is not certain.
    fn uncertain(&self, done: usize) -> Vec<usize> {
        let end = (done + 1).min(self.entries.len());
        let certain = |index: usize, op: &DiskOp| {
            self.entries[index + 1..done.max(index + 1)].iter().find_map(|later| {
                match (op, later) {
                    (DiskOp::Create(_) | DiskOp::Retire(_), Entry::Done(DiskOp::SyncDirectory)) => {
                        Some(true)
                    }
                    (DiskOp::Create(_) | DiskOp::Retire(_), _) => None,
                    (
                        DiskOp::Write { segment, .. } | DiskOp::Truncate { segment, .. },
                        Entry::Done(DiskOp::Sync(synced)),
                    ) if segment == synced => Some(true),
                    (
                        DiskOp::Write { segment, .. } | DiskOp::Truncate { segment, .. },
                        Entry::FailedSync(failed),
                    ) if segment == failed => Some(false),
                    _ => None,
                }
            })
        };
        let changes = |entry: &Entry| match entry {
            Entry::Part(op)
            | Entry::Done(
                op @ (DiskOp::Create(_)
                | DiskOp::Retire(_)
                | DiskOp::Write { .. }
                | DiskOp::Truncate { .. }),
            ) => Some(op.clone()),
            _ => None,
        };
        (0..end)
            .filter(|&index| {
                changes(&self.entries[index]).is_some_and(|op| certain(index, &op) != Some(true))
            })
            .collect()
    }

    fn state(&self, done: usize, fates: &[(usize, Fate)]) -> MemoryStorage {
        let mut state = self.base.clone();
        let end = (done + 1).min(self.entries.len());
        for (index, entry) in self.entries[..end].iter().enumerate() {
            let (Entry::Done(op) | Entry::Part(op)) = entry else { continue };
            let fate = fates.iter().find(|(of, _)| *of == index).map_or(&Fate::Kept, |(_, f)| f);
            let (segment, from, all) = match op {
                DiskOp::Write { segment, offset, bytes } => (*segment, *offset, bytes),
                _ if *fate == Fate::Lost => continue,
                // A file whose new name was lost is overwritten under its old one.
                DiskOp::Blank(segment) if state.files().any(|(id, _)| id == *segment) => {
                    state.file_mut(*segment).fill(0);
                    continue;
                }
                _ => {
                    // A file whose name was lost is not there to be changed.
                    let _ = state.perform(op);
                    continue;
                }
            };
            let parts: Vec<(usize, usize)> = match fate {
                Fate::Lost => vec![],
                Fate::Kept => vec![(0, all.len())],
                Fate::Cut(len) => vec![(0, *len)],
                Fate::Sectors(mask) => sector_parts(from as usize, all.len())
                    .into_iter()
                    .enumerate()
                    .filter(|(bit, _)| mask >> bit & 1 == 1)
                    .map(|(_, part)| part)
                    .collect(),
            };
            for (begin, end) in parts {
                let bytes = all[begin..end].to_vec();
                let offset = from + begin as u64;
                let _ = state.perform(&DiskOp::Write { segment, offset, bytes });
            }
        }
        state
    }
}

/// The parts of a write that lie in one sector each, from and to.
pub fn sector_parts(offset: usize, len: usize) -> Vec<(usize, usize)> {
    let first = offset / SECTOR;
    let last = (offset + len - 1) / SECTOR;
    (first..=last)
        .map(|sector| {
            let from = (sector * SECTOR).max(offset) - offset;
            let to = ((sector + 1) * SECTOR).min(offset + len) - offset;
            (from, to)
        })
        .collect()
}

fn tears(offset: usize, len: usize, choices: &mut Choices) -> Vec<Fate> {
    let mut fates = Vec::new();
    let step = (len / 90).max(1);
    fates.extend((choices.below(step)..len).step_by(step).map(Fate::Cut));
    fates.extend((len.saturating_sub(12)..len).map(Fate::Cut));
    let sectors = sector_parts(offset, len).len();
    if sectors <= 5 {
        fates.extend((1..(1 << sectors) - 1).map(Fate::Sectors));
    } else {
        let all = (1u64 << sectors) - 1;
        for sector in 0..sectors {
            fates.push(Fate::Sectors(1 << sector));
            fates.push(Fate::Sectors(all & !(1 << sector)));
        }
        fates.extend((0..20).map(|_| Fate::Sectors(choices.below(all as usize) as u64)));
    }
    fates
}
