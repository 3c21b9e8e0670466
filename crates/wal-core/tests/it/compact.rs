//! G11: snapshots, and the segments that go when one is effective.
//!
//! The log here holds a map from small keys to values. A record sets a key or takes it away; a part of a
//! snapshot says what a range of keys holds. Whatever a crash leaves, what is read is the map as it was
//! after the last record that is there.

use std::collections::BTreeMap;

use base::{Sequence, Time};
use wal_core::{
    Config, Corruption, Damage, Directory, DiskError, DiskOp, EventType, FileStorage,
    MemoryStorage, OpenError, OpenMode, Place, Record, ScanConfig, Scanned, SegmentId,
    SnapshotPart, Storage, Visitor, Zeros,
};

use crate::support::{Choices, Entry, Journal};

const KEYS: u8 = 12;
const RANGE: u8 = 3;

type Map = BTreeMap<u8, Vec<u8>>;

/// Replays the map. Before a snapshot is whole a part of it counts only if the log begins with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Replay {
    map: Map,
    first: Option<Sequence>,
    last: Sequence,
    /// The log begins with a snapshot that is not whole yet.
    base: bool,
    holes: u32,
}

impl Visitor for Replay {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        let first = self.first.is_none();
        self.first.get_or_insert(record.sequence);
        assert!(first || record.sequence == self.last.next() || self.holes > 0);
        self.last = record.sequence;
        let Some(part) = SnapshotPart::of(record.event, record.payload) else {
            let (key, value) = record.payload.split_first().unwrap();
            if value.is_empty() {
                self.map.remove(key);
            } else {
                self.map.insert(*key, value.to_vec());
            }
            return;
        };
        self.base |= first && part.number == 0;
        if !self.base {
            return;
        }
        let from = part.number as u8 * RANGE;
        self.map.retain(|key, _| !(from..from + RANGE).contains(key));
        let mut rest = SnapshotPart::contents(record.payload);
        while let [key, len, behind @ ..] = rest {
            let (value, behind) = behind.split_at(usize::from(*len));
            self.map.insert(*key, value.to_vec());
            rest = behind;
        }
        self.base = !part.last;
    }

    fn hole(&mut self, _: &Corruption) {
        self.holes += 1;
    }
}

fn config() -> Config {
    Config {
        max_payload: 1024,
        max_records: 40,
        segment_bytes_first: 4096,
        segment_bytes_max: 8192,
        batch_bytes_max: 2048,
        buffered_bytes_max: 8192,
        ..Config::default()
    }
}

fn open_as(
    storage: &mut dyn Storage,
    mode: OpenMode,
) -> Result<(wal_core::Log, Scanned, Replay), OpenError> {
    let mut replay = Replay::default();
    let (log, scanned) = wal_core::open(storage, &config(), mode, 7, Time::ZERO, &mut replay)?;
    Ok((log, scanned, replay))
}

fn open(storage: &mut dyn Storage) -> Result<(wal_core::Log, Scanned, Replay), OpenError> {
    open_as(storage, OpenMode::Exclusive)
}

fn read(storage: &dyn Storage) -> (Replay, Scanned) {
    let mut replay = Replay::default();
    let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut replay).unwrap();
    (replay, scanned)
}

/// A log in use: what it should hold after each of its records.
struct Life {
    journal: Journal,
    /// The map after record n.
    maps: BTreeMap<u64, Map>,
    /// How many records were durable when the journal was so long.
    marks: Vec<(usize, u64)>,
    compactions: u64,
    recycled: u64,
    segments_most: usize,
    next_part: u8,
}

impl Life {
    fn new() -> Life {
        Life {
            journal: Journal::default(),
            maps: BTreeMap::from([(0, Map::new())]),
            marks: Vec::new(),
            compactions: 0,
            recycled: 0,
            segments_most: 0,
            next_part: 0,
        }
    }

    fn run(&mut self, records: u64, choices: &mut Choices, mode: OpenMode) {
        let (mut log, _, replay) = open_as(&mut self.journal, mode).unwrap();
        assert_eq!(Some(&replay.map), self.maps.get(&log.last().0));
        let mut map = replay.map;
        let mut now = Time::ZERO;
        for n in 0..records {
            let key = choices.below(usize::from(KEYS)) as u8;
            let len = if choices.below(3) == 0 { 0 } else { choices.below(120) + 1 };
            let mut payload = vec![key];
            payload.resize(len + 1, n as u8 | 1);
            let sequence = log.append(EventType::SAGA_CREATED, 0, &payload).unwrap();
            match len {
                0 => map.remove(&key),
                _ => map.insert(key, payload[1..].to_vec()),
            };
            self.maps.insert(sequence.0, map.clone());
            if n % 3 == 0 {
                log.force(sequence);
            }
            // One part at a time: ordinary records lie between them.
            if log.compaction_due() || log.is_compacting() {
                let sequence = self.part(&mut log, &map);
                self.maps.insert(sequence.0, map.clone());
            }
            if n % 4 != 2 {
                now += config().idle_guard_after;
            }
            while wal_core::drive(&mut self.journal, &mut log, now) {
                self.marks.push((self.journal.entries.len(), log.durable().0));
                self.segments_most = self.segments_most.max(self.journal.visible.files().count());
            }
            assert!(log.poisoned().is_none());
        }
        // Else the next start would give the numbers to others.
        log.force(log.last());
        while wal_core::drive(&mut self.journal, &mut log, now) {
            self.marks.push((self.journal.entries.len(), log.durable().0));
        }
        let stats = log.stats();
        self.compactions += stats.compactions;
        self.recycled += stats.segments_recycled;
    }

    fn part(&mut self, log: &mut wal_core::Log, map: &Map) -> Sequence {
        let number = if log.is_compacting() { self.next_part } else { 0 };
        self.next_part = number + 1;
        let from = number * RANGE;
        let last = from + RANGE >= KEYS;
        let append = log.append_part(0, (1, 2), last, |out| {
            for (key, value) in map.range(from..from + RANGE) {
                out.extend_from_slice(&[*key, value.len() as u8]);
                out.extend_from_slice(value);
            }
        });
        append.unwrap()
    }

    fn acknowledged(&self, entries: usize) -> u64 {
        let marks = self.marks.iter().filter(|(at, _)| *at <= entries);
        marks.map(|(_, durable)| *durable).max().unwrap_or(0)
    }

    /// Reads and opens what a crash has left, and goes on with it.
    fn check(
        &self,
        state: MemoryStorage,
        at_least: u64,
        what: &dyn Fn() -> String,
    ) -> MemoryStorage {
        let (replay, scanned) = read(&state);
        assert!(!scanned.is_corrupt(), "{} {:?}", what(), scanned.corruption);
        assert!(scanned.last_sequence.0 >= at_least, "{}: acknowledged records are gone", what());
        assert_eq!(Some(&replay.map), self.maps.get(&scanned.last_sequence.0), "{}", what());
        assert!(!replay.base, "{}", what());
        let mut state = state;
        let (mut log, _, again) = open(&mut state).unwrap_or_else(|e| panic!("{} {e}", what()));
        assert_eq!(again, replay, "{}", what());
        let sequence = log.append(EventType::SAGA_COMPLETED, 0, b"\xFFx").unwrap();
        log.force(sequence);
        while wal_core::drive(&mut state, &mut log, Time::ZERO) {}
        assert!(log.durable() == sequence, "{} {:?}", what(), log.poisoned());
        let (mut after, scanned) = read(&state);
        assert!(!scanned.is_corrupt(), "{} {:?}", what(), scanned.corruption);
        assert_eq!(scanned.remainders, 0, "{}", what());
        assert_eq!(after.map.remove(&0xFF), Some(b"x".to_vec()));
        assert_eq!(after.map, replay.map, "{}", what());
        state
    }
}

/// G11. At every operation of several compactions, whatever becomes of each write, name and file that
/// was not synced: what is read is the map as it was, of all acknowledged records at least.
#[test]
fn g11_a_crash_at_any_operation_of_a_compaction_loses_nothing() {
    let mut life = Life::new();
    let mut choices = Choices::seeded(11);
    for records in [200, 3, 200, 3, 250] {
        life.run(records, &mut choices, OpenMode::Exclusive);
    }
    assert!(life.compactions >= 3 && life.recycled >= 5, "{}", life.compactions);
    let entries = life.journal.entries.len();
    let (mut states, mut begun_late, mut again) = (0u64, 0u64, 0u64);
    for done in 0..=entries {
        let at_least = life.acknowledged(done);
        life.journal.sector_states(done, 16, &mut Choices::seeded(done as u64), |state, fates| {
            states += 1;
            let what = || format!("crash behind operation {done} of {entries}, {fates:?}");
            begun_late += u64::from(state.files().next().is_some_and(|(id, _)| id.0 > 1));
            let retires = matches!(
                life.journal.entries.get(done),
                Some(Entry::Done(DiskOp::Retire(_) | DiskOp::Blank(_)))
            );
            if retires || choices.below(60) == 0 {
                again += 1;
                // The recovery crashes too, at each of its operations.
                let mut recovery = Journal::over(state.clone());
                let (mut log, ..) = open(&mut recovery).unwrap();
                while wal_core::drive(&mut recovery, &mut log, Time::ZERO) {}
                for done in 0..=recovery.entries.len() {
                    let seed = Choices::seeded(done as u64).0;
                    recovery.sector_states(done, 2, &mut Choices(seed), |state, _| {
                        states += 1;
                        life.check(state, at_least, &what);
                    });
                }
            }
            life.check(state, at_least, &what);
        });
    }
    assert!(states > 10_000 && begun_late > 500 && again > 50, "{states} {begun_late} {again}");
}

/// Operations come and go, and the disk holds no more than a few times what is needed.
#[test]
fn g11_the_disk_is_bounded_while_records_come_and_go() {
    let mut life = Life::new();
    let mut choices = Choices::seeded(3);
    for life_number in 0..30 {
        let mode = if life_number % 5 == 4 { OpenMode::TakeOver } else { OpenMode::Exclusive };
        life.run(300, &mut choices, mode);
        life.journal = Journal::over(life.journal.visible.clone());
        let last = *life.maps.last_key_value().unwrap().0;
        life.maps.retain(|sequence, _| *sequence == last);
    }
    assert!(life.compactions > 60, "{}", life.compactions);
    // The map takes 1,500 bytes at most, and each start has a segment of its own.
    assert!(life.segments_most <= 12, "{} segments", life.segments_most);
    let disk = &life.journal.visible;
    let bytes: u64 = disk.files().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(bytes + disk.retired_bytes() < 96 << 10, "{bytes} and {}", disk.retired_bytes());
}

/// A log of which the first segment is gone, and which does not begin with a whole snapshot, is damaged.
#[test]
fn g11_a_log_begins_with_its_first_segment_or_a_whole_snapshot() {
    let mut life = Life::new();
    let mut choices = Choices::seeded(5);
    while life.compactions == 0 {
        life.run(60, &mut choices, OpenMode::Exclusive);
    }
    let disk = life.journal.visible.clone();
    let (replay, scanned) = read(&disk);
    assert!(scanned.base.is_some() && !scanned.is_corrupt());
    assert!(replay.first > Some(Sequence::FIRST));
    let ids: Vec<_> = disk.files().map(|(id, _)| id).collect();
    for (at, id) in ids.iter().enumerate() {
        let mut without = disk.clone();
        without.remove(*id);
        if at + 1 == ids.len() {
            // The newest one: the log ends before, and nobody can tell.
            continue;
        }
        let (replay, scanned) = read(&without);
        let missing = |damage: &Corruption| damage.what == Damage::SegmentsMissing;
        assert!(scanned.corruption.iter().any(missing), "{id}: {:?}", scanned.corruption);
        assert!(replay.holes > 0 && open(&mut without).is_err());
    }
    // The snapshot's last part is cut away, in a log that nothing else is wrong with.
    let mut journal = Journal::over(MemoryStorage::new());
    let (mut log, ..) = open(&mut journal).unwrap();
    for key in [1, 2] {
        log.append(EventType::SAGA_CREATED, 0, &[key, 9]).unwrap();
    }
    wal_core::close(&mut journal, &mut log, Time::ZERO);
    let (mut log, ..) = open(&mut journal).unwrap();
    let sequence = log.append_part(0, (0, 0), false, |out| out.extend([1, 1, 9])).unwrap();
    log.force(sequence);
    wal_core::drive(&mut journal, &mut log, Time::ZERO);
    let mut disk = journal.visible.clone();
    let whole = read(&disk);
    assert!(!whole.1.is_corrupt() && whole.0.map.len() == 2, "it does not count yet");
    disk.remove(SegmentId::FIRST);
    let (replay, scanned) = read(&disk);
    let what: Vec<Damage> = scanned.corruption.iter().map(|damage| damage.what).collect();
    assert_eq!(what, [Damage::SnapshotIncomplete]);
    assert_eq!(replay.holes, 1);
    assert!(matches!(open(&mut disk), Err(OpenError::Corrupt(_))));
}

/// Whatever stands in front of a gap was left by a recycling that was cut short, if the log goes on
/// behind the gap with a whole snapshot. It does not count, and the next writer takes it away.
#[test]
fn g11_what_a_recycling_has_left_does_not_count() {
    let mut life = Life::new();
    let mut choices = Choices::seeded(6);
    life.run(60, &mut choices, OpenMode::Exclusive);
    let retires = |entry: &Entry| matches!(entry, Entry::Done(DiskOp::Retire(_)));
    let first = life.journal.entries.iter().position(retires).expect("it compacts");
    let mut cut_short = life.journal.clone();
    // One of several segments is gone, and its name durably so.
    cut_short.entries.truncate(first + 2);
    let mut left = 0;
    cut_short.crash_states(first + 2, &mut Choices(1), |state, _| {
        let (replay, scanned) = read(&state);
        assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
        assert_eq!(Some(&replay.map), life.maps.get(&scanned.last_sequence.0));
        left = left.max(scanned.remainders);
        if let (Some(base), 1..) = (scanned.base, scanned.remainders) {
            // A replaced writer has made the one in the gap anew, and has written nothing.
            let mut closed = state.clone();
            let gone = SegmentId(base.0 - 1);
            assert!(closed.file_mut(gone).is_empty());
            let (again, scanned) = read(&closed);
            assert!(!scanned.is_corrupt() && again == replay, "{:?}", scanned.corruption);
            life.check(closed, 0, &|| "cut short, and the gap closed".to_owned());
        }
        life.check(state, 0, &|| "cut short".to_owned());
    });
    assert!(left > 0, "nothing was left in front of a gap");
}

/// A replaced writer goes on into a new segment after its successor has come by that number and recycled
/// it. It finds out before it writes anything there, and the empty file is none of the log.
#[test]
fn g11_a_segment_made_anew_by_a_replaced_writer_does_not_count() {
    let mut life = Life::new();
    let mut choices = Choices::seeded(8);
    life.run(20, &mut choices, OpenMode::Exclusive);
    let (mut old, _, replay) = open(&mut life.journal).unwrap();
    let flush = loop {
        // The same as is there: the successor's map need not know of it.
        let (key, value) = replay.map.first_key_value().unwrap();
        let sequence =
            old.append(EventType::SAGA_CREATED, 0, &[&[*key], &value[..]].concat()).unwrap();
        life.maps.insert(sequence.0, replay.map.clone());
        old.force(sequence);
        let flush = old.next_flush(Time::ZERO).unwrap();
        if flush.ops.iter().any(|op| matches!(op, DiskOp::Create(_))) {
            break flush;
        }
        life.journal.perform_all(&flush.ops).unwrap();
        old.flushed(Time::ZERO, Ok(()));
        old.reuse(flush.ops);
    };
    while life.journal.segments().unwrap()[0] <= old.segment() {
        life.run(60, &mut choices, OpenMode::TakeOver);
    }
    let before = read(&life.journal.visible);
    // What stands in front goes to a file that is none of the log any more.
    let create = flush.ops.iter().position(|op| matches!(op, DiskOp::Create(_))).unwrap();
    let error = life.journal.perform_all(&flush.ops[create..]).unwrap_err();
    assert!(matches!(error, DiskError::Fenced), "{error}");
    let disk = &life.journal.visible;
    let (first, bytes) = disk.files().next().unwrap();
    assert!(first == old.segment() && bytes.iter().all(|byte| *byte == 0));

    let check = |disk: MemoryStorage, remainders: u64| {
        let (replay, scanned) = read(&disk);
        assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
        assert_eq!((&replay, scanned.base), (&before.0, before.1.base));
        assert_eq!(scanned.remainders, remainders);
        let after = life.check(disk, 0, &|| "a name was there again".to_owned());
        assert_eq!(after.segments().unwrap().first().copied(), before.1.base, "it was taken away");
    };
    check(disk.clone(), 1);
    // Directly in front of the snapshot, alone and behind a gap, and several.
    let base = before.1.base.unwrap();
    let in_front = |n: u64| SegmentId(base.0 - n);
    for names in [&[1][..], &[2, 1], &[3, 1], &[4, 2, 1]] {
        let mut disk = MemoryStorage::new();
        for (id, bytes) in life.journal.visible.files().filter(|(id, _)| *id >= base) {
            *disk.file_mut(id) = bytes.to_vec();
        }
        for &n in names {
            *disk.file_mut(in_front(n)) = vec![0; 3000 * (n as usize - 1)];
        }
        check(disk, names.len() as u64);
    }
    // With anything in it, it is damage: it cannot have come to be so.
    let mut disk = life.journal.visible.clone();
    disk.remove(old.segment());
    let mut bytes = vec![0; 3000];
    bytes[2000] = 1;
    *disk.file_mut(in_front(1)) = bytes;
    assert!(read(&disk).1.is_corrupt());
}

/// On files: what goes is used again, and nothing of what it held is ever seen.
#[test]
fn g11_files_are_recycled_as_zeros() {
    let directory = tempfile::tempdir().unwrap();
    let (mut reused, mut map) = (0u64, Map::new());
    for life in 0..4u8 {
        let mut storage = FileStorage::write(directory.path()).unwrap();
        let (mut log, scanned, replay) = open(&mut storage).unwrap();
        assert!(!scanned.is_corrupt());
        assert_eq!(replay.map, map);
        let (mut spare_of, mut parts) = (None, Life::new());
        for n in 0..200u64 {
            let (key, value) = ((n % u64::from(KEYS)) as u8, vec![life + 1; 60]);
            let mut payload = vec![key];
            payload.extend_from_slice(&value);
            let sequence = log.append(EventType::SAGA_CREATED, 0, &payload).unwrap();
            map.insert(key, value);
            log.force(sequence);
            if log.compaction_due() || log.is_compacting() {
                parts.part(&mut log, &map);
            }
            // What a shell of threads does, one thing after the other.
            match log.next_segment_due() {
                Some(bytes) if spare_of != Some(log.segment()) => {
                    spare_of = Some(log.segment());
                    let retired = count(directory.path(), "retired-");
                    let make = storage.make_ahead(bytes, Zeros::Written).unwrap();
                    let spare = make(&|| false).unwrap();
                    storage.keep_ahead(spare);
                    reused += u64::from(count(directory.path(), "retired-") < retired);
                    for spare in files(directory.path(), "spare-") {
                        let bytes = std::fs::read(spare).unwrap();
                        assert!(bytes.iter().all(|byte| *byte == 0), "a spare holds something");
                    }
                }
                _ => {}
            }
            while wal_core::drive(&mut storage, &mut log, Time::ZERO) {}
            assert!(log.poisoned().is_none(), "{:?}", log.poisoned());
            assert!(count(directory.path(), "") < 24);
        }
        let (replay, scanned) = read(&storage);
        assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
        assert_eq!(replay.map, map);
    }
    assert!(reused > 4, "{reused}");
}

fn files(directory: &std::path::Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let entries = directory.read_dir().unwrap().map(|entry| entry.unwrap());
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path()).collect()
}

fn count(directory: &std::path::Path, prefix: &str) -> usize {
    files(directory, prefix).len()
}
