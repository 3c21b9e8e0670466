//! G8: no input makes reading a log panic, hang, or need more than 64 MiB.
//!
//! One test in a process of its own: it counts every allocation of the process.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

#[path = "../it/forge.rs"]
mod forge;
mod target;

use std::collections::BTreeMap;

use base::Time;
use peak_alloc::PeakAlloc;
use wal_core::{
    Config, EventType, MemoryStorage, OpenMode, Opening, ScanConfig, SegmentId, Storage,
};

use forge::{Batch, LOG_ID, Seal, batch, header_copy, record};
use target::{Outcome, Told};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// What the target takes an input for, by its first byte.
const KINDS: [&str; 4] = ["a record", "a raw stream", "a log", "a log"];

/// What reading may need, beyond what the caller keeps of the records.
const LIMIT: usize = 64 << 20;

/// The most that was allocated at once by `work`, above what was before.
fn peak(work: impl FnOnce()) -> usize {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    work();
    ALLOCATED.peak_usage().saturating_sub(before)
}

/// Small, repeatable choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A log of a few segments.
fn real_log(choices: &mut Choices, log_id: u64) -> MemoryStorage {
    let config = Config {
        max_payload: 900,
        segment_bytes_first: 4096,
        segment_bytes_max: 4096,
        batch_bytes_max: 3072,
        buffered_bytes_max: 8192,
        ..Config::default()
    };
    let mut storage = MemoryStorage::new();
    for life in 0..2 {
        let mode = if choices.below(3) == 0 { OpenMode::TakeOver } else { OpenMode::Exclusive };
        let opened = wal_core::open(&mut storage, &config, mode, log_id, Time::ZERO, &mut ());
        let mut log = opened.unwrap().0;
        for n in 0..choices.below(16) {
            let payload = vec![n as u8; choices.below(300)];
            let sequence = log.append(EventType(n as u8), 0, &payload).unwrap();
            if choices.below(2) == 0 {
                log.force(sequence);
                wal_core::drive(&mut storage, &mut log, Time::ZERO);
            }
        }
        if life == 1 || choices.below(2) == 0 {
            wal_core::close(&mut storage, &mut log, Time::ZERO);
        }
    }
    storage
}

/// A log of one segment, all of whose checksums are right, and whose fields are anything.
fn forged_log(choices: &mut Choices) -> MemoryStorage {
    const ANY: [u64; 9] = [0, 1, 2, 3, 7, 1 << 32, 1 << 63, (1 << 63) + 1, u64::MAX - 1];
    let mut any = |usual: u64| if choices.below(6) == 0 { ANY[choices.below(9)] } else { usual };
    let seal = Seal {
        flags: any(0) as u8,
        segment: any(0),
        length: any(0),
        last: any(0),
        guard: any(0) as u32,
    };
    let mut bytes = header_copy(1, any(5) as u32, 1 << 20, &seal).repeat(2);
    let (mut next, mut chain) = (seal.last.wrapping_add(1), seal.guard);
    for _ in 0..any(3).min(40) {
        let records: Vec<Vec<u8>> = (0..any(2).min(9))
            .map(|n| {
                record(any(next.wrapping_add(n)), n as i64, &vec![n as u8; any(9) as u8 as usize])
            })
            .collect();
        let (segment, epoch, offset) = (any(1), any(5) as u32, bytes.len() as u64);
        let (first, watermark, chain_said) =
            (any(next), any(next.wrapping_sub(1)), any(chain.into()));
        let mark = any(8) as u8 as usize % 520 + 1;
        let records = &records[..];
        let chain_said = chain_said as u32;
        let forged =
            Batch { segment, epoch, offset, first, records, watermark, chain: chain_said, mark };
        let (forged, checksum) = batch(&forged);
        bytes.extend_from_slice(&forged);
        (next, chain) = (next.wrapping_add(records.len() as u64), checksum);
    }
    let mut storage = MemoryStorage::new();
    *storage.file_mut(SegmentId::FIRST) = bytes;
    storage
}

/// Some bytes changed, moved, repeated or taken away, here and there.
fn mutate(bytes: &mut Vec<u8>, choices: &mut Choices) {
    for _ in 0..=choices.below(5) {
        if bytes.is_empty() {
            return;
        }
        let (from, to) = (choices.below(bytes.len()), choices.below(bytes.len()));
        let n = choices.below(700).min(bytes.len() - from.max(to));
        match choices.below(7) {
            0 => bytes[from..from + n].fill(0),
            1 => bytes[from] ^= 1 << choices.below(8),
            2 => bytes.copy_within(from..from + n, to),
            3 => bytes.truncate(from),
            4 => drop(bytes.drain(from..from + n)),
            5 => {
                let copied = bytes[from..from + n].to_vec();
                drop(bytes.splice(to..to, copied));
            }
            _ => bytes[from..from + n].iter_mut().for_each(|byte| *byte = choices.below(256) as u8),
        }
    }
}

/// An input of the target's: random, a real log changed, two spliced, or forged.
fn input(choices: &mut Choices) -> Vec<u8> {
    let joined = |storage: &MemoryStorage| {
        let files: Vec<&[u8]> = storage.files().map(|(_, bytes)| bytes).collect();
        [&[2], &files.join(&target::NEXT_SEGMENT[..])[..]].concat()
    };
    let raw = |storage: &MemoryStorage, kind: u8| {
        let mut raw = vec![kind];
        wal_core::scan(storage, &ScanConfig::default(), &mut raw).unwrap();
        raw
    };
    let mut bytes = match choices.below(8) {
        0 => (0..choices.below(3000)).map(|_| choices.below(256) as u8).collect(),
        1 => raw(&real_log(choices, LOG_ID), 0),
        2 => raw(&real_log(choices, LOG_ID), 1),
        3 => {
            let (one, two) = (real_log(choices, LOG_ID), real_log(choices, LOG_ID ^ 1));
            let (one, two) = (joined(&one), joined(&two));
            let cut = choices.below(one.len());
            [&one[..cut], &two[choices.below(two.len())..]].concat()
        }
        4 => joined(&forged_log(choices)),
        _ => joined(&real_log(choices, LOG_ID)),
    };
    if choices.below(4) > 0 && bytes.len() > 1 {
        let kind = bytes.remove(0);
        mutate(&mut bytes, choices);
        bytes.insert(0, kind);
    }
    bytes
}

/// A segment of one log: a header, and batches one behind the other, of which no watermark covers any.
fn unproven(batch_bytes_max: u32, batches: impl Iterator<Item = Vec<Vec<u8>>>) -> MemoryStorage {
    let mut bytes = header_copy(1, 1, batch_bytes_max, &Seal::NOTHING).repeat(2);
    let (mut first, mut chain) = (1, 0);
    for records in batches {
        let (offset, records) = (bytes.len() as u64, &records[..]);
        let (segment, epoch, watermark, mark) = (1, 1, 0, 8);
        let (one, checksum) =
            batch(&Batch { segment, epoch, offset, first, records, watermark, chain, mark });
        assert!(one.len() <= batch_bytes_max as usize, "{}", one.len());
        bytes.extend_from_slice(&one);
        first += records.len() as u64;
        chain = checksum;
    }
    let mut storage = MemoryStorage::new();
    *storage.file_mut(SegmentId::FIRST) = bytes;
    storage
}

/// Records of some length, numbered from `first`.
fn records(first: u64, count: u64, payload: usize) -> Vec<Vec<u8>> {
    (first..first + count).map(|n| record(n, 0, &vec![1; payload])).collect()
}

/// What opening a log for writing allocates: its operations and all. None of them is performed here,
/// since a disk in memory would be counted too.
fn opening_peak(storage: &MemoryStorage, expected: u64) -> usize {
    let mut with_claim = storage.clone();
    let mut opening =
        Opening::scan(storage, Config::default(), OpenMode::Exclusive, &mut ()).unwrap();
    with_claim.perform_all(&opening.claim(base::Epoch::NONE, 1).unwrap()).unwrap();
    assert_eq!(opening.scanned().records, expected);
    peak(|| drop(opening.read_tail(&with_claim, &mut ()).unwrap()))
}

/// The largest logs that a reader may be given, as far as its memory is concerned.
fn worst_cases(report: &mut dyn FnMut(&str, usize)) {
    let scan = |storage: &MemoryStorage, records: u64, corrupt: bool| {
        peak(|| {
            let mut told = Told::default();
            let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut told).unwrap();
            assert_eq!((told.records, scanned.is_corrupt()), (records, corrupt));
        })
    };
    const LONGEST: u32 = 16 << 20;
    let longest = unproven(LONGEST, [records(1, 570_000, 0)].into_iter());
    report("the longest batch, of the shortest records, read", scan(&longest, 570_000, false));
    drop(longest);

    // Each is longer than the one before; the last is the longest.
    let long = [130, 230, 250].into_iter().scan(1, |first, count| {
        *first += count;
        Some(records(*first - count, count, 65_000))
    });
    let long = unproven(LONGEST, long);
    report("an unproven tail of the longest batches, read", scan(&long, 610, false));
    report("... and opened", opening_peak(&long, 610));
    drop(long);

    for payload in [60_000, 30_000, 1_000] {
        let count = 41_500_000 / (payload as u64 + 250);
        let short = unproven(1 << 20, (0..count).map(|n| records(1 + n, 1, payload)));
        report("an unproven tail of short batches, opened", opening_peak(&short, count));
    }

    // Every second batch is damaged: so many places, and more than are listed.
    let mut damaged = unproven(4096, (0..230_000).map(|n| records(1 + n, 1, 0)));
    let file = damaged.file_mut(SegmentId::FIRST);
    let heads: Vec<usize> =
        (1024..file.len() - 5).filter(|at| file[*at..at + 5] == *b"WAL!\xF1").collect();
    assert_eq!(heads.len(), 230_000);
    heads.iter().skip(1).step_by(2).for_each(|at| file[at + 20] ^= 1);
    report("a hole behind every record", scan(&damaged, 115_000, true));
    drop(damaged);

    let mut stream = Vec::new();
    for n in 1..=400_000 {
        let mut bytes = record(n, 0, b"12");
        bytes[29] ^= u8::from(n % 2 == 0);
        stream.extend_from_slice(&bytes);
    }
    report(
        "a raw stream with a hole behind every record",
        peak(|| assert_eq!(target::stream(&stream), Outcome::Damaged)),
    );
    stream.clear();
    stream.resize(100 << 20, b'W');
    report(
        "a raw stream of 100 MiB that is none",
        peak(|| assert_eq!(target::stream(&stream), Outcome::NoLog)),
    );
    drop(stream);

    let mut starts = MemoryStorage::new();
    for id in 1..=100_000 {
        *starts.file_mut(SegmentId(id)) = Vec::new();
    }
    report("100,000 starts that came to nothing", scan(&starts, 0, false));
    drop(starts);

    let mut idle = MemoryStorage::new();
    for id in 1..=140_000 {
        let copy = header_copy(id, id as u32, 1 << 20, &Seal::NOTHING);
        *idle.file_mut(SegmentId(id)) = copy.repeat(2);
    }
    report("140,000 starts that wrote nothing", scan(&idle, 0, false));
}

/// G8. No input makes recovery panic, hang, or allocate more than 64 MiB beyond what its caller keeps:
/// inputs at random, real logs changed and spliced, and forged ones whose checksums are right; then the
/// largest that there can be.
#[test]
fn g8_no_input_makes_reading_panic_hang_or_grow() {
    let said = std::env::var("WAL_FUZZ_ROUNDS").ok();
    let rounds: u64 = said.map_or(15_000, |said| said.parse().unwrap());
    let mut most = 0;
    let mut outcomes = BTreeMap::<_, u64>::new();
    for round in 1..=rounds {
        let mut choices = Choices(round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let bytes = input(&mut choices);
        let run = std::panic::AssertUnwindSafe(|| {
            let mut outcome = None;
            most = most.max(peak(|| outcome = Some(target::target(&bytes))));
            let kind = bytes.first().map_or("nothing", |kind| KINDS[usize::from(*kind % 4)]);
            *outcomes.entry((kind, outcome)).or_default() += 1;
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("round {round} of WAL_FUZZ_ROUNDS, {} bytes", bytes.len());
            std::panic::resume_unwind(panic);
        }
    }
    eprintln!("{rounds} inputs: at most {most} bytes; {outcomes:?}");
    for kind in &KINDS[..3] {
        for outcome in [Outcome::NoLog, Outcome::Damaged, Outcome::Whole] {
            let seen = outcomes.get(&(kind, Some(outcome))).copied().unwrap_or_default();
            assert!(seen > rounds / 300, "{seen} of {rounds} are {outcome:?} as {kind}");
        }
    }
    assert!(most < LIMIT / 4, "{most}");

    let mut failed = Vec::new();
    worst_cases(&mut |what, bytes| {
        eprintln!("{:>6.1} MiB: {what}", bytes as f64 / f64::from(1 << 20));
        if bytes > LIMIT {
            failed.push(what.to_owned());
        }
    });
    assert!(failed.is_empty(), "more than 64 MiB: {failed:?}");
}
