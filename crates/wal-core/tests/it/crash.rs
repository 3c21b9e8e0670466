//! G1-G4, G6, G21: a crash at any operation, whatever becomes of what was not synced.

use base::{Sequence, Time};
use wal_core::{
    Config, DiskOp, EventType, MemoryStorage, OpenError, OpenMode, Opening, Place, Record, Storage,
    Visitor,
};

use crate::support::{
    Choices, Entry, Journal, SECTOR, Seen, config, open, payload, scan, sector_parts,
};

/// What was promised when the journal was so long.
#[derive(Clone, Copy, Debug)]
struct Mark {
    entries: usize,
    durable: u64,
}

/// A run without a crash: everything appended, in order, and what was acknowledged when.
struct Run {
    journal: Journal,
    appended: Vec<Vec<u8>>,
    marks: Vec<Mark>,
}

impl Run {
    fn acknowledged(&self, entries: usize) -> u64 {
        let marks = self.marks.iter().filter(|mark| mark.entries <= entries);
        marks.map(|mark| mark.durable).max().unwrap_or(0)
    }
}

/// Several lives: lazy and forced records, idle guards, rotations, one clean close and one without.
fn run(base: MemoryStorage, records_per_life: u64, lives: u64) -> Run {
    let mut journal = Journal::over(base);
    let mut appended = scan(&journal).0.payloads;
    let mut marks = Vec::new();
    for life in 0..lives {
        let (mut log, _, seen) = open(&mut journal).unwrap();
        assert_eq!(seen.payloads, appended);
        let mut now = Time::ZERO;
        let mut mark = |log: &wal_core::Log, journal: &Journal| {
            marks.push(Mark { entries: journal.entries.len(), durable: log.durable().0 });
        };
        mark(&log, &journal);
        for n in 0..records_per_life {
            let payload = payload(appended.len() as u64);
            let sequence = log.append(EventType::SAGA_CREATED, 1, &payload).unwrap();
            appended.push(payload);
            if n % 4 == 1 || n % 7 == 0 {
                log.force(sequence);
            }
            if n % 3 != 2 {
                now += config().idle_guard_after;
            }
            while wal_core::drive(&mut journal, &mut log, now) {
                mark(&log, &journal);
            }
        }
        now += config().idle_guard_after;
        while wal_core::drive(&mut journal, &mut log, now) {}
        assert_eq!(scan(&journal).0.payloads, appended);
        if life % 2 == 0 {
            wal_core::close(&mut journal, &mut log, now);
        }
        mark(&log, &journal);
    }
    Run { journal, appended, marks }
}

/// Opens what a crash has left, goes on, and looks at what is there. Returns how many records of
/// before were kept.
pub fn check(
    state: MemoryStorage,
    appended: &[Vec<u8>],
    at_least: u64,
    what: &dyn Fn() -> String,
) -> u64 {
    let (seen, scanned) = scan(&state);
    assert!(!scanned.is_corrupt(), "{} {:?}", what(), scanned.corruption);
    assert!(seen.payloads.len() as u64 >= at_least, "{}: acknowledged records are gone", what());
    assert!(appended.starts_with(&seen.payloads), "{}: not a prefix", what());
    let mut state = state;
    let (mut log, _, again) = open(&mut state).unwrap_or_else(|e| panic!("{} {e}", what()));
    assert_eq!(again, seen, "{}", what());
    assert_eq!(log.last(), Sequence(seen.payloads.len() as u64));
    let sequence = log.append(EventType::SAGA_COMPLETED, 2, b"behind the crash").unwrap();
    log.force(sequence);
    assert!(wal_core::drive(&mut state, &mut log, Time::ZERO));
    assert_eq!(log.durable(), sequence);
    let (after, scanned) = scan(&state);
    assert!(!scanned.is_corrupt(), "{} {:?}", what(), scanned.corruption);
    assert_eq!(scanned.torn_tail_bytes, 0);
    assert_eq!((scanned.lost_header_copies, scanned.fenced_bytes), (0, 0), "{}", what());
    assert_eq!(after.payloads.split_last().unwrap().1, &seen.payloads[..]);
    seen.payloads.len() as u64
}

/// G1. What was acknowledged is there after the power failed, whatever was under way and whatever became
/// of each write that was not synced.
#[test]
fn g1_a_crash_at_any_operation_keeps_what_was_acknowledged() {
    let run = run(MemoryStorage::new(), 26, 3);
    let entries = run.journal.entries.len();
    assert!(run.journal.visible.files().count() >= 5, "it rotates");
    let mut choices = Choices(0x1234_5678_9ABC);
    let mut states = 0u64;
    let mut cut_short = 0u64;
    for done in 0..=entries {
        let at_least = run.acknowledged(done);
        run.journal.crash_states(done, &mut Choices(done as u64 + 1), |state, fates| {
            states += 1;
            let what = || format!("crash behind operation {done} of {entries}, {fates:?}");
            let again = choices.below(400) == 0;
            let copy = again.then(|| state.clone());
            let kept = check(state, &run.appended, at_least, &what);
            cut_short += u64::from(kept < run.appended.len() as u64);
            if let Some(state) = copy {
                crash_again(state, &run.appended, at_least, 2, &mut choices, &what);
            }
        });
    }
    assert!(states > 10_000 && cut_short > 5_000, "{states} states, {cut_short} cut short");
}

/// Crashes at every operation of the recovery from `state`, `deep` times.
fn crash_again(
    state: MemoryStorage,
    appended: &[Vec<u8>],
    at_least: u64,
    deep: u32,
    choices: &mut Choices,
    what: &dyn Fn() -> String,
) {
    let mut journal = Journal::over(state);
    let (log, _, seen) = open(&mut journal).unwrap();
    drop(log);
    let entries = journal.entries.len();
    for done in 0..=entries {
        // Once it is open, what recovery has kept is kept for ever.
        let at_least = if done == entries { seen.payloads.len() as u64 } else { at_least };
        let mut crash_choices = Choices(choices.0);
        journal.crash_states(done, &mut crash_choices, |state, fates| {
            let deeper = || format!("{}, then behind {done} of {entries}, {fates:?}", what());
            if deep > 1 && choices.below(2000) == 0 {
                crash_again(state.clone(), appended, at_least, deep - 1, choices, &deeper);
            }
            if choices.below(4) == 0 {
                check(state, appended, at_least, &deeper);
            }
        });
    }
}

/// G2. A file's name is as durable as what is in it: before a record is acknowledged the directory was
/// synced behind the creation of its segment, so that a crash that loses every other name loses nothing.
#[test]
fn g2_names_are_durable_before_anything_in_them_is_acknowledged() {
    let run = run(MemoryStorage::new(), 26, 3);
    let entries = &run.journal.entries;
    let mut lost_names = 0;
    for done in 0..=entries.len() {
        let state = run.journal.without_unsynced_names(done);
        let segments = |entries: &[Entry]| {
            entries.iter().filter(|e| matches!(e, Entry::Done(DiskOp::Create(_)))).count()
        };
        lost_names += segments(&entries[..done]).saturating_sub(state.files().count());
        let what = || format!("crash behind operation {done}, names lost");
        check(state, &run.appended, run.acknowledged(done), &what);
    }
    assert!(lost_names >= 10, "{lost_names}");

    let mut acknowledged = 0;
    for mark in &run.marks {
        let mut unsynced_names = Vec::new();
        for entry in &entries[..mark.entries] {
            match entry {
                Entry::Done(DiskOp::Create(segment)) => unsynced_names.push(*segment),
                Entry::Done(DiskOp::SyncDirectory) => unsynced_names.clear(),
                Entry::Done(DiskOp::Write { segment, offset, .. }) if *offset >= 1024 => {
                    assert!(!unsynced_names.contains(segment), "a batch in {segment}, unnamed");
                }
                _ => {}
            }
        }
        acknowledged += u64::from(mark.durable > 0);
    }
    assert!(acknowledged > 20, "{acknowledged}");
}

/// G4. The disk says that a sync failed and forgets what was dirty; the page cache shows it still.
/// Nothing is acknowledged any more, and whoever opens the log writes the tail again and syncs it.
#[test]
fn g4_a_failed_sync_poisons_and_reopening_makes_the_tail_durable() {
    let mut poisoned = 0;
    for failing in 0..40 {
        let mut journal = Journal::over(MemoryStorage::new());
        let (mut log, _, _) = open(&mut journal).unwrap();
        journal.fail_sync_in = Some(failing);
        let mut appended = Vec::new();
        let mut now = Time::ZERO;
        for n in 0..30 {
            let payload = payload(n);
            let Ok(sequence) = log.append(EventType::TX_CREATED, 0, &payload) else { break };
            appended.push(payload);
            log.force(sequence);
            now += config().idle_guard_after;
            wal_core::drive(&mut journal, &mut log, now);
        }
        let Some(error) = log.poisoned() else {
            assert!(journal.fail_sync_in.is_some(), "sync {failing} failed, and nobody cares");
            continue;
        };
        poisoned += 1;
        assert!(error.to_string().contains("the sync failed"));
        assert!(log.next_flush(now).is_none() && log.next_wake().is_none());
        assert!(log.append(EventType::TX_CREATED, 0, b"").is_err());
        let durable = log.durable().0;
        let failed_at = journal.entries.len();

        let (log, _, seen) = open(&mut journal).unwrap();
        assert!(seen.payloads.len() as u64 >= durable);
        drop(log);
        let opened_at = journal.entries.len();
        for done in [failed_at, opened_at] {
            let at_least = if done == opened_at { seen.payloads.len() as u64 } else { durable };
            let what = || format!("sync {failing} failed, crash behind {done}");
            journal.crash_states(done, &mut Choices(7), |state, _| {
                check(state, &appended, at_least, &what);
            });
        }
    }
    assert!(poisoned > 30, "{poisoned}");
}

/// G4, G21. A sync fails and the page cache goes on showing a batch of which the disk lacks sectors. The next
/// opening writes it again, and the power fails: that write is cut at any byte, over any of the sectors
/// that are there. The batch is there or not, and no log refuses to open.
#[test]
fn g4_a_batch_that_is_written_again_may_be_cut_over_what_the_disk_lacks() {
    let claimed_behind = |storage: &MemoryStorage| {
        let mode = OpenMode::Exclusive;
        let mut claimed = storage.clone();
        let mut opening = Opening::scan(&claimed, config(), mode, &mut ()).unwrap();
        claimed.perform_all(&opening.claim(base::Epoch::NONE, 1).unwrap()).unwrap();
        (opening.scanned().end.unwrap().0, claimed)
    };
    let mut refused_without = 0u64;
    let mut straddles = 0;
    // The last one's head lies in two sectors.
    for (records, bytes, before) in [(2, 700, 6), (40, 10, 6), (7, 200, 6), (7, 200, 360)] {
        let mut storage = MemoryStorage::new();
        let (mut log, ..) = open(&mut storage).unwrap();
        let mut appended = Vec::new();
        let mut flush = |log: &mut wal_core::Log, batch: &[Vec<u8>]| {
            for payload in batch {
                let sequence = log.append(EventType::TX_CREATED, 0, payload).unwrap();
                log.force(sequence);
                appended.push(payload.clone());
            }
            let before = storage.clone();
            assert!(wal_core::drive(&mut storage, log, Time::ZERO));
            before
        };
        flush(&mut log, &[vec![b'b'; before]]);
        // Zeros at the end of many sectors: what is cut there looks like what was written.
        let batch: Vec<Vec<u8>> = (0..records).map(|n| vec![n % 3; bytes]).collect();
        let before = flush(&mut log, &batch);
        let (segment, claimed) = claimed_behind(&storage);
        let whole = storage.clone().file_mut(segment).clone();
        let begins = before.clone().file_mut(segment).len();
        let parts = sector_parts(begins, whole.len() - begins);
        let parts: Vec<_> = parts.iter().map(|(from, to)| (begins + from, begins + to)).collect();
        assert!(parts.len() >= 3);
        straddles += u32::from(begins % SECTOR > SECTOR - 58);
        for there in 0..1u32 << parts.len() {
            let mut lacks = whole.clone();
            for (n, &(from, to)) in parts.iter().enumerate() {
                if there >> n & 1 == 0 {
                    lacks[from..to].fill(0);
                }
            }
            for cut in begins..=whole.len() {
                let mut state = claimed.clone();
                let left = [&whole[..cut], &lacks[cut..]].concat();
                *state.file_mut(segment) = left.clone();
                let what = || format!("{records} of {bytes}, {there:b} there, cut at {cut}");
                let whole_again = left == whole;
                let at_least = if whole_again { appended.len() as u64 } else { 1 };
                if cut % 7 == 0 || whole_again {
                    check(state, &appended, at_least, &what);
                } else {
                    let (seen, scanned) = scan(&state);
                    assert!(!scanned.is_corrupt(), "{} {:?}", what(), scanned.corruption);
                    assert!(seen.payloads.len() as u64 >= at_least);
                }
                let mut nobody_claimed = storage.clone();
                *nobody_claimed.file_mut(segment) = left;
                refused_without += u64::from(scan(&nobody_claimed).1.is_corrupt());
            }
        }
        // Without a sector that ends in a zero, a claim behind excuses nothing.
        for bit in begins * 8..whole.len() * 8 {
            let mut state = claimed.clone();
            state.file_mut(segment)[bit / 8] ^= 1 << (bit % 8);
            let sector = parts.iter().find(|(_, to)| bit / 8 < *to).unwrap();
            let ends_in_zero = state.file_mut(segment)[sector.1 - 1] == 0;
            let corrupt = scan(&state).1.is_corrupt();
            assert!(corrupt || ends_in_zero, "{records} of {bytes}: bit {bit}");
        }
    }
    assert!(straddles > 0);
    assert!(refused_without > 100, "{refused_without}: it is no state that only an opening leaves");
}

/// G7. Whoever takes a log over and finds its last batch damaged leaves no claim behind: with one, the next
/// reader would take the damage for what an opening has half written.
#[test]
fn g7_a_take_over_that_finds_damage_claims_nothing() {
    let mut storage = MemoryStorage::new();
    let (mut log, ..) = open(&mut storage).unwrap();
    let sequence = log.append(EventType::TX_CREATED, 0, &[0; 800]).unwrap();
    log.force(sequence);
    assert!(wal_core::drive(&mut storage, &mut log, Time::ZERO));
    let segment = log.segment();
    let end = storage.file_mut(segment).len();
    for at in [end - 700, end - 300] {
        let mut damaged = storage.clone();
        damaged.file_mut(segment)[at] ^= 4;
        for mode in [OpenMode::TakeOver, OpenMode::Exclusive] {
            let mut taken = damaged.clone();
            let opened = wal_core::open(&mut taken, &config(), mode, 1, Time::ZERO, &mut ());
            assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{mode:?}");
            assert_eq!(taken.files().count(), 1, "{mode:?}");
            assert!(scan(&taken).1.is_corrupt(), "{mode:?}: it is damage as before");
        }
    }
}

/// What a writer may leave unproven at most, an opening writes again.
#[test]
fn the_longest_tail_of_a_writer_can_be_rewritten() {
    let config = Config {
        buffered_bytes_max: Config::BUFFERED_BYTES_LIMIT,
        batch_bytes_max: 128 << 10,
        segment_bytes_first: 64 << 20,
        ..Config::default()
    };
    let mut storage = MemoryStorage::new();
    let mode = OpenMode::Exclusive;
    let opened = wal_core::open(&mut storage, &config, mode, 1, Time::ZERO, &mut ());
    let mut log = opened.unwrap().0;
    let mut now = Time::ZERO;
    for _ in 0..2 {
        while log.append(EventType::TX_CREATED, 0, &[7; 33 << 10]).is_ok() {}
        now += config.idle_guard_after;
        wal_core::drive(&mut storage, &mut log, now);
    }
    let written: usize = storage.files().map(|(_, bytes)| bytes.len()).sum();
    assert!(written > 32 << 20, "{written}");
    let (_, scanned) = scan(&storage);
    assert_eq!((scanned.watermark, scanned.last_sequence), (Sequence::NONE, log.last()));
    let opened = wal_core::open(&mut storage, &config, mode, 1, Time::ZERO, &mut ());
    assert_eq!(opened.unwrap().0.last(), log.last());
}

/// G11. A marker takes nothing away, and what an opening cuts behind the end of a log, at whatever
/// operation it crashes, holds no record that was told: each crash state has all of them, and so has
/// the one after the next opening.
#[test]
fn g11_markers_and_cuts_lose_nothing_at_any_crash_point() {
    let mut cuts = 0;
    for torn in 1..60 {
        let mut journal = Journal::over(MemoryStorage::new());
        let (mut log, ..) = open(&mut journal).unwrap();
        let mut appended = Vec::new();
        for n in 0..12 {
            let event = if n % 4 == 2 { EventType::CHECKPOINT } else { EventType::SAGA_CREATED };
            let payload = if n % 4 == 2 { vec![0; 16] } else { payload(n) };
            let sequence = log.append(event, 0, &payload).unwrap();
            appended.push(payload);
            log.force(sequence);
            wal_core::drive(&mut journal, &mut log, Time::ZERO);
        }
        // The last write was cut short.
        let mut disk = journal.visible.clone();
        let segment = log.segment();
        let file = disk.file_mut(segment);
        let len = file.len();
        file[len - torn * 9..].fill(0);
        let (told, scanned) = scan(&disk);
        assert!(!scanned.is_corrupt() && told.payloads.len() < 12, "{torn}");
        let mut opening = Journal::over(disk);
        let opened = open(&mut opening).unwrap();
        assert_eq!(opened.2.payloads, told.payloads);
        let entries = opening.entries.len();
        cuts += opening
            .entries
            .iter()
            .filter(|e| matches!(e, Entry::Done(DiskOp::Truncate { .. })))
            .count();
        for done in 0..=entries {
            opening.sector_states(done, 6, &mut Choices::seeded(done as u64), |state, fates| {
                let what = || format!("cut by {torn}, behind operation {done}, {fates:?}");
                check(state, &told.payloads, told.payloads.len() as u64, &what);
            });
        }
    }
    assert!(cuts > 40, "{cuts}");
}

/// G6. A number that was acknowledged, or kept by an opening, names one record for ever. One that was
/// cut away may come back as another record, never beside it. Numbers order records; their timestamps,
/// which go backwards here, never do.
#[test]
fn g6_a_number_names_one_record_for_ever() {
    let mut storage = MemoryStorage::new();
    let mut kept: Vec<(Sequence, i64)> = Vec::new();
    let mut cut_away = 0;
    for life in 0..30 {
        let mut seen = Numbered::default();
        let mode = OpenMode::Exclusive;
        let opened = wal_core::open(&mut storage, &config(), mode, 3, Time::ZERO, &mut seen);
        let mut log = opened.unwrap().0;
        assert!(seen.0.starts_with(&kept), "life {life}: {:?} of {kept:?}", seen.0);
        assert!(seen.0.iter().map(|(sequence, _)| sequence.0).eq(1..=seen.0.len() as u64));
        kept = seen.0;
        assert_eq!(log.last().0, kept.len() as u64, "life {life}");
        for n in 0..4 {
            let timestamp_ms = -(life * 10 + n);
            let sequence = log.append(EventType::TX_CREATED, timestamp_ms, b"x").unwrap();
            assert_eq!(sequence.0, kept.len() as u64 + 1);
            log.force(sequence);
            wal_core::drive(&mut storage, &mut log, Time::ZERO);
            kept.push((sequence, timestamp_ms));
        }
        if life % 2 == 0 {
            // The last batch is cut: it was written, and its sync never ended.
            let segment = log.segment();
            let file = storage.file_mut(segment);
            file.truncate(file.len() - 20);
            kept.pop();
            cut_away += 1;
        }
    }
    assert_eq!((cut_away, kept.len()), (15, 30 * 4 - 15));
}

/// Numbers and timestamps, as they are told.
#[derive(Default)]
struct Numbered(Vec<(Sequence, i64)>);

impl Visitor for Numbered {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        self.0.push((record.sequence, record.timestamp_ms));
    }
}

#[test]
fn a_number_that_was_never_acknowledged_is_used_again() {
    let mut storage = MemoryStorage::new();
    let (mut log, _, _) = open(&mut storage).unwrap();
    let kept = log.append(EventType::TX_CREATED, 0, b"kept").unwrap();
    log.force(kept);
    wal_core::drive(&mut storage, &mut log, Time::ZERO);
    let segment = log.segment();
    let length = storage.file_mut(segment).len();
    let lost = log.append(EventType::TX_CREATED, 0, b"lost").unwrap();
    log.force(lost);
    wal_core::drive(&mut storage, &mut log, Time::ZERO);
    let file = storage.file_mut(segment);
    file[length + 20..].fill(0);

    let (mut log, scanned, seen) = open(&mut storage).unwrap();
    assert_eq!(scanned.torn_tail_bytes, 6); // the rest of the twenty are zeros
    assert_eq!(seen.payloads, [b"kept".to_vec()]);
    assert_eq!(log.append(EventType::TX_CREATED, 0, b"new").unwrap(), lost);
    wal_core::close(&mut storage, &mut log, Time::ZERO);
    let (seen, scanned): (Seen, _) = scan(&storage);
    assert_eq!(seen.payloads, [b"kept".to_vec(), b"new".to_vec()]);
    assert_eq!(scanned.torn_tail_bytes, 0);
}

/// One log's long life: it is opened, written to and killed over and over, by power loss (what was not
/// synced meets its fate) or alone (the page cache stays), sometimes while it is opened, sometimes by a
/// take-over, sometimes after a failed sync.
fn long_life(seed: u64, lives: usize) {
    let mut choices = Choices(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut journal = Journal::over(MemoryStorage::new());
    // What must be there, and what may be there behind it.
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut appended: Vec<Vec<u8>> = Vec::new();
    let mut unique = 0u64;
    for life in 0..lives {
        if choices.below(4) == 0 {
            journal.fail_sync_in = Some(choices.below(25) as u32);
        }
        let mode = if choices.below(5) == 0 { OpenMode::TakeOver } else { OpenMode::Exclusive };
        let mut seen = Seen::default();
        let opened = wal_core::open(&mut journal, &config(), mode, seed, Time::ZERO, &mut seen);
        let what = format!("seed {seed}, life {life}, {mode:?}");
        let seen = seen.payloads;
        assert!(seen.starts_with(&kept), "{what}: {} of {}", seen.len(), kept.len());
        assert!(appended.starts_with(&seen), "{what}: {} of {}", seen.len(), appended.len());
        match opened {
            Ok((mut log, scanned)) => {
                assert!(!scanned.is_corrupt());
                kept.clone_from(&seen);
                appended = seen;
                let mut now = Time::ZERO;
                for _ in 0..choices.below(25) {
                    unique += 1;
                    let mut payload = payload(choices.below(64) as u64);
                    payload.truncate(890);
                    payload.extend_from_slice(&unique.to_le_bytes());
                    let Ok(sequence) = log.append(EventType::TX_CREATED, 0, &payload) else {
                        break;
                    };
                    appended.push(payload);
                    if choices.below(3) == 0 {
                        log.force(sequence);
                    }
                    now += config().idle_guard_after / 2;
                    while choices.below(5) != 0 && wal_core::drive(&mut journal, &mut log, now) {}
                }
                if choices.below(4) == 0 {
                    wal_core::close(&mut journal, &mut log, now);
                }
                let durable = log.durable().0 as usize;
                if durable > kept.len() {
                    kept = appended[..durable].to_vec();
                }
            }
            Err(error) => assert!(error.to_string().contains("the sync failed"), "{what}: {error}"),
        }
        journal.fail_sync_in = None;
        if choices.below(3) > 0 {
            journal = journal.power_loss(&mut choices);
        }
    }
}

/// G3. After every crash the log yields a prefix of what was appended, in order, each record once, and
/// every acknowledged record is in it.
#[test]
fn g3_many_lives_in_a_row_keep_a_prefix() {
    for seed in 1..150 {
        long_life(seed, 40);
    }
}
