//! Several logs in one directory: what holds them together, and what a crash makes of two of them.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base::{Epoch, OperationId, Time};
use wal_core::{
    Config, DiskError, DiskOp, EventType, FileError, FileLog, FileStorage, FileStreams,
    FileStreamsError, MemoryStorage, OpenError, OpenMode, OpenStreams, ScanConfig, Scanned,
    SegmentId, Storage, StreamFault, StreamFiles, StreamId, StreamsError, faults, open_streams,
};

use crate::support::{Choices, Journal, Seen, config, payload, reads_as, scan};

const ID: u64 = u64::MAX;

fn open<S: Storage + Send>(storages: &mut [S]) -> Result<(OpenStreams, Vec<Seen>), StreamsError> {
    let mut seen = vec![Seen::default(); storages.len()];
    let mode = OpenMode::Exclusive;
    let opened = open_streams(storages, &config(), mode, ID, Time::ZERO, &mut seen)?;
    Ok((opened, seen))
}

fn faults_of(scanned: &[Scanned]) -> Vec<StreamFault> {
    faults(&scanned.iter().collect::<Vec<_>>())
}

// ---- In memory: crashes ----

/// One stream's disk, which tells in which order all of them were asked.
struct Ordered {
    stream: usize,
    journal: Journal,
    order: Arc<Mutex<Vec<usize>>>,
}

reads_as!(Ordered, journal);

impl Storage for Ordered {
    fn perform(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        self.journal.perform(op)?;
        self.order.lock().unwrap().push(self.stream);
        Ok(())
    }
}

/// When so many operations were done: what each stream had acknowledged, and the directory's epoch.
struct Mark {
    operations: usize,
    durable: [u64; 2],
    epoch: Epoch,
}

struct Run {
    disks: Vec<Ordered>,
    order: Vec<usize>,
    appended: [Vec<Vec<u8>>; 2],
    marks: Vec<Mark>,
}

/// Three lives of two streams that take turns: lazy and forced records, rotations, a clean close of one or
/// both or none.
fn run(base: [MemoryStorage; 2]) -> Run {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut disks: Vec<Ordered> = base
        .into_iter()
        .enumerate()
        .map(|(stream, base)| Ordered {
            stream,
            journal: Journal::over(base),
            order: Arc::clone(&order),
        })
        .collect();
    let mut appended = [Vec::new(), Vec::new()];
    let mut marks = Vec::new();
    for life in 0..3 {
        let (mut opened, seen) = open(&mut disks).unwrap();
        assert!(seen.iter().map(|seen| &seen.payloads).eq(&appended));
        let epoch = opened.epoch;
        let mut mark = |logs: &[wal_core::Log]| {
            let operations = order.lock().unwrap().len();
            let durable = [logs[0].durable().0, logs[1].durable().0];
            marks.push(Mark { operations, durable, epoch });
        };
        mark(&opened.logs);
        let mut now = Time::ZERO;
        for n in 0..24_u64 {
            let stream = usize::from(n % 3 == 1 || n % 7 == 3);
            let payload = payload(n + 5 * stream as u64);
            let log = &mut opened.logs[stream];
            let sequence = log.append(EventType::SAGA_CREATED, 1, &payload).unwrap();
            appended[stream].push(payload);
            if n % 4 == 1 {
                log.force(sequence);
            }
            now += config().idle_guard_after;
            for (stream, disk) in disks.iter_mut().enumerate() {
                while wal_core::drive(disk, &mut opened.logs[stream], now) {
                    mark(&opened.logs);
                }
            }
        }
        now += config().idle_guard_after;
        for (stream, disk) in disks.iter_mut().enumerate() {
            while wal_core::drive(disk, &mut opened.logs[stream], now) {}
            if life != stream {
                wal_core::close(disk, &mut opened.logs[stream], now);
                mark(&opened.logs);
            }
        }
    }
    let order = order.lock().unwrap().clone();
    Run { disks, order, appended, marks }
}

/// G1, G3 and the one epoch: whatever a crash leaves of two streams, each is a prefix with all that it has
/// acknowledged, they belong together, and opening them gives both a new epoch.
#[test]
fn g1_streams_survive_a_crash_at_any_operation_of_any_of_them() {
    let run = run([MemoryStorage::new(), MemoryStorage::new()]);
    let mut choices = Choices(0xBEEF_1234_5678);
    let (mut states, mut between) = (0_u64, 0_u64);
    for done in 0..=run.order.len() {
        let reached = run.marks.iter().filter(|mark| mark.operations <= done);
        let mut durable = [0; 2];
        let mut epoch = Epoch::NONE;
        for mark in reached {
            durable = [0, 1].map(|stream: usize| durable[stream].max(mark.durable[stream]));
            epoch = epoch.max(mark.epoch);
        }
        let mut left: [Vec<MemoryStorage>; 2] = [Vec::new(), Vec::new()];
        for (stream, states) in left.iter_mut().enumerate() {
            let of_stream = run.order[..done].iter().filter(|of| **of == stream).count();
            let mut fates = Choices(done as u64 + 1);
            run.disks[stream].journal.crash_states(of_stream, &mut fates, |state, _| {
                states.push(state);
            });
        }
        for _ in 0..40 {
            let mut pick = |stream: usize| left[stream][choices.below(left[stream].len())].clone();
            let state = [pick(0), pick(1)];
            let epochs = [0, 1].map(|stream: usize| scan(&state[stream]).1.epoch);
            between += u64::from(epochs[0] != epochs[1]);
            let opened = check(state, &run.appended, durable, epoch);
            states += 1;
            if choices.below(100) == 0 {
                crash_again(&opened, &run.appended, durable, epoch, &mut choices);
            }
        }
    }
    assert!(states > 4_000 && between > 300, "{states} states, {between} between two claims");
}

/// Opens what a crash has left, and returns it as it was before.
fn check(
    state: [MemoryStorage; 2],
    appended: &[Vec<Vec<u8>>; 2],
    durable: [u64; 2],
    before: Epoch,
) -> [MemoryStorage; 2] {
    let left = state.clone();
    let found: Vec<(Seen, Scanned)> = state.iter().map(|stream| scan(stream)).collect();
    for (stream, (seen, scanned)) in found.iter().enumerate() {
        assert!(!scanned.is_corrupt(), "stream {stream}: {:?}", scanned.corruption);
        assert!(seen.payloads.len() as u64 >= durable[stream], "stream {stream}: a record is gone");
        assert!(appended[stream].starts_with(&seen.payloads), "stream {stream}: no prefix");
    }
    let scanned: Vec<&Scanned> = found.iter().map(|(_, scanned)| scanned).collect();
    assert_eq!(faults(&scanned), []);
    let highest = scanned.iter().map(|scanned| scanned.epoch).max().unwrap();
    assert!(highest >= before, "an epoch was forgotten");
    let mut state = state;
    let (mut opened, seen) = open(&mut state).unwrap();
    assert!(seen.iter().eq(found.iter().map(|(seen, _)| seen)));
    assert_eq!((opened.epoch, opened.id), (highest.next().unwrap(), ID));
    for (stream, log) in opened.logs.iter_mut().enumerate() {
        assert_eq!(log.epoch(), opened.epoch, "one epoch for all");
        assert_eq!(log.log_id(), ID.wrapping_add(stream as u64));
        let sequence = log.append(EventType::SAGA_COMPLETED, 2, b"behind the crash").unwrap();
        log.force(sequence);
        assert!(wal_core::drive(&mut state[stream], log, Time::ZERO));
        let (after, scanned) = scan(&state[stream]);
        assert!(!scanned.is_corrupt(), "{:?}", scanned.corruption);
        assert_eq!(after.payloads.len(), seen[stream].payloads.len() + 1);
    }
    left
}

/// Crashes at every operation of the recovery too.
fn crash_again(
    state: &[MemoryStorage; 2],
    appended: &[Vec<Vec<u8>>; 2],
    durable: [u64; 2],
    before: Epoch,
    choices: &mut Choices,
) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let [first, second] = [0, 1].map(|stream: usize| Ordered {
        stream,
        journal: Journal::over(state[stream].clone()),
        order: Arc::clone(&order),
    });
    let mut disks = [first, second];
    open(&mut disks).unwrap();
    let order = order.lock().unwrap().clone();
    for done in 0..=order.len() {
        let left = [0, 1].map(|stream: usize| {
            let of_stream = order[..done].iter().filter(|of| **of == stream).count();
            let mut states = Vec::new();
            let mut fates = Choices(choices.0);
            let journal = &disks[stream].journal;
            journal.crash_states(of_stream, &mut fates, |state, _| states.push(state));
            states
        });
        for _ in 0..8 {
            let pick = |states: &Vec<MemoryStorage>, choices: &mut Choices| {
                states[choices.below(states.len())].clone()
            };
            let state = [pick(&left[0], choices), pick(&left[1], choices)];
            check(state, appended, durable, before);
        }
    }
}

fn written(records: u64) -> [MemoryStorage; 2] {
    let mut disks = [MemoryStorage::new(), MemoryStorage::new()];
    add(&mut disks, records);
    disks
}

fn add(disks: &mut [MemoryStorage; 2], records: u64) {
    let (mut opened, _) = open(disks).unwrap();
    for (disk, log) in disks.iter_mut().zip(&mut opened.logs) {
        for n in 0..records {
            log.append(EventType::SAGA_CREATED, 0, &payload(n)).unwrap();
        }
        wal_core::close(disk, log, Time::ZERO);
    }
}

/// A stream that is gone, or an older copy of it, is whole by itself: the others know better.
#[test]
fn g7_a_stream_that_has_lost_its_end_is_found_out_by_the_others() {
    let older = written(3);
    let mut newer = older.clone();
    add(&mut newer, 2);
    let behind = |state: &mut [MemoryStorage; 2]| {
        let scanned = [scan(&state[0]).1, scan(&state[1]).1];
        let found = faults_of(&scanned);
        match open(state) {
            Err(StreamsError::Fault(fault)) => {
                assert_eq!(found, [fault]);
                fault
            }
            other => panic!("{:?}", other.map(|(opened, _)| opened.epoch)),
        }
    };
    let (one, two) = (Epoch::new(1), Epoch::new(2));
    for stream in [0, 1_u16] {
        let lost = StreamId(stream);
        let mut state = newer.clone();
        state[usize::from(stream)] = older[usize::from(stream)].clone();
        let fault = behind(&mut state);
        assert_eq!(fault, StreamFault::Behind { stream: lost, epoch: one, written: two });
        state[usize::from(stream)] = MemoryStorage::new();
        let fault = behind(&mut state);
        assert_eq!(fault, StreamFault::Behind { stream: lost, epoch: Epoch::NONE, written: two });
    }
    // All of them as they were before: nothing on the disk knows better.
    let mut state = older.clone();
    assert_eq!(open(&mut state).unwrap().0.epoch, two);
}

#[test]
fn g7_streams_in_each_others_place_are_refused() {
    let mut state = written(3);
    state.swap(0, 1);
    let fault = open(&mut state).map(|_| ()).unwrap_err();
    let foreign = StreamFault::Foreign { stream: StreamId(1) };
    assert!(matches!(fault, StreamsError::Fault(fault) if fault == foreign), "{fault}");
}

// ---- On files ----

fn streams(
    path: &Path,
    count: usize,
) -> Result<(FileStreams, Vec<Scanned>, Vec<Seen>), FileStreamsError> {
    let mut seen = vec![Seen::default(); count];
    let (streams, scanned) = FileStreams::open(path, &Config::default(), &mut seen)?;
    Ok((streams, scanned, seen))
}

fn append(streams: &FileStreams, ids: std::ops::Range<u64>) {
    for id in ids {
        let log = streams.of(OperationId(id));
        log.append(EventType::TX_CREATED, 0, &id.to_le_bytes()).unwrap();
    }
}

#[test]
fn an_operation_lives_in_the_stream_that_its_id_chooses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new").join("streams");
    let (open, scanned, _) = streams(&path, 5).unwrap();
    assert!(scanned.iter().all(|stream| stream.records == 0));
    let id = open.id();
    append(&open, 0..1000);
    open.close().unwrap();
    let (open, scanned, seen) = streams(&path, 5).unwrap();
    assert_eq!((open.epoch(), open.id()), (Epoch::new(2), id));
    assert!(open.logs().all(|(_, log)| log.epoch() == open.epoch()));
    for (stream, (seen, scanned)) in (0..).zip(seen.iter().zip(&scanned)) {
        assert_eq!(scanned.epoch, open.epoch(), "the one that was claimed");
        let ids = seen.payloads.iter().map(|id| u64::from_le_bytes(id[..].try_into().unwrap()));
        assert!(ids.eq((0..1000).filter(|id| id % 5 == stream)));
    }
    open.close().unwrap();
    let files = StreamFiles::read(&path).unwrap();
    let mut again = vec![Seen::default(); 5];
    let scanned = files.scan(&ScanConfig::default(), &mut again).unwrap();
    assert_eq!(again, seen, "threads find what the opening found");
    assert_eq!(faults_of(&scanned), []);
}

#[test]
fn one_lock_is_for_all_streams() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (open, _, _) = streams(path, 2).unwrap();
    let one = path.join("stream-1-of-2");
    let in_use = |error: &FileError| matches!(error, FileError::InUse { .. });
    assert!(matches!(streams(path, 2), Err(FileStreamsError::File(ref error)) if in_use(error)));
    assert!(
        matches!(StreamFiles::read(path), Err(FileStreamsError::File(ref error)) if in_use(error))
    );
    assert!(in_use(&FileStorage::read(&one).unwrap_err()), "nor one of them by itself");
    open.close().unwrap();
    let reader = FileStorage::read(&one).unwrap();
    assert!(matches!(streams(path, 2), Err(FileStreamsError::File(ref error)) if in_use(error)));
    drop(reader);
    streams(path, 2).unwrap().0.close().unwrap();
}

#[test]
fn a_directory_is_one_log_or_so_many_streams_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("streams");
    streams(&path, 3).unwrap().0.close().unwrap();
    let other = streams(&path, 4).map(|_| ()).unwrap_err();
    assert!(matches!(other, FileStreamsError::OtherCount { asked: 4, .. }), "{other}");
    for asked in [0, 257] {
        let count = streams(&path, asked).map(|_| ()).unwrap_err();
        assert!(matches!(count, FileStreamsError::Count { .. }), "{count}");
    }
    let holds = |result: FileError| matches!(result, FileError::HoldsStreams { streams, .. } if streams.count() == 3);
    assert!(holds(FileStorage::read(&path).unwrap_err()));
    assert!(holds(FileStorage::write(&path).unwrap_err()));
    assert!(holds(FileLog::open(&path, &Config::default(), &mut ()).map(|_| ()).unwrap_err()));
    let one = path.join("stream-0-of-3");
    let alone = FileLog::open(&one, &Config::default(), &mut ()).map(|_| ()).unwrap_err();
    assert!(matches!(alone, FileError::OneStream { .. }), "{alone}");
    assert!(!one.join(FileStorage::LOCK).exists(), "it was left as it is");

    let log = directory.path().join("log");
    FileLog::open(&log, &Config::default(), &mut ()).unwrap().0.close().unwrap();
    let one_log = streams(&log, 3).map(|_| ()).unwrap_err();
    assert!(matches!(one_log, FileStreamsError::OneLog { .. }), "{one_log}");
    let none = StreamFiles::read(&log).map(|_| ()).unwrap_err();
    assert!(matches!(none, FileStreamsError::NoStreams { .. }), "{none}");

    std::fs::create_dir(path.join("stream-0-of-4")).unwrap();
    let both = streams(&path, 3).map(|_| ()).unwrap_err();
    assert!(
        both.to_string().contains("streams of 3 and of 4")
            || both.to_string().contains("streams of 4 and of 3"),
        "{both}"
    );
}

#[test]
fn a_lost_directory_is_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (open, _, _) = streams(directory.path(), 3).unwrap();
    append(&open, 0..9);
    open.close().unwrap();
    let one = directory.path().join("stream-1-of-3");
    std::fs::rename(&one, directory.path().join("elsewhere")).unwrap();
    let files = StreamFiles::read(directory.path()).unwrap();
    let scanned = files.scan(&ScanConfig::default(), &mut [(); 3]).unwrap();
    let lost =
        StreamFault::Behind { stream: StreamId(1), epoch: Epoch::NONE, written: Epoch::new(1) };
    assert_eq!(faults_of(&scanned), [lost]);
    drop(files);
    let error = streams(directory.path(), 3).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, FileStreamsError::Open { error: StreamsError::Fault(fault), .. } if *fault == lost),
        "{error}"
    );
    // An empty directory in its place says no more than none; with its own everything is there again.
    std::fs::remove_dir(&one).unwrap();
    std::fs::rename(directory.path().join("elsewhere"), &one).unwrap();
    let (_, scanned, _) = streams(directory.path(), 3).unwrap();
    assert!(scanned.iter().all(|stream| stream.records == 3));
}

#[test]
fn damage_in_one_stream_names_it_and_spares_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let (open, _, _) = streams(directory.path(), 2).unwrap();
    append(&open, 0..200);
    open.close().unwrap();
    let file = directory.path().join("stream-1-of-2").join(SegmentId::FIRST.file_name());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[2000] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let error = streams(directory.path(), 2).map(|_| ()).unwrap_err();
    let FileStreamsError::Open { error: StreamsError::Stream { stream, error }, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(stream, StreamId(1));
    assert!(matches!(error, OpenError::Corrupt(_)), "{error}");
    let files = StreamFiles::read(directory.path()).unwrap();
    let mut seen = vec![Seen::default(); 2];
    let scanned = files.scan(&ScanConfig::default(), &mut seen).unwrap();
    assert_eq!([scanned[0].is_corrupt(), scanned[1].is_corrupt()], [false, true]);
    assert_eq!(seen[0].payloads.len(), 100);
    assert_eq!(scanned[0].epoch, Epoch::new(1), "nothing was claimed");
}

/// The first opening was cut short after some of the claims: nothing was ever promised.
#[test]
fn a_first_opening_that_was_cut_short_is_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    streams(directory.path(), 3).unwrap().0.close().unwrap();
    let second = directory.path().join("stream-1-of-3");
    std::fs::remove_dir_all(second).unwrap();
    let (open, _, _) = streams(directory.path(), 3).unwrap();
    assert_eq!(open.epoch(), Epoch::new(2));
    append(&open, 0..3);
    open.close().unwrap();
    assert!(streams(directory.path(), 3).unwrap().1.iter().all(|stream| stream.records == 1));
}
