//! What the disk and the machine allow: logs with nothing in them but what a log cannot do without.
//! They are fixed in size, written over and over, and cannot be recovered from.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::log::{Buffered, Done, Log, PAYLOAD, Payload, Trouble};

/// A recycled file's size: written once with zeros, then over and over.
pub const FILE_BYTES: u64 = 64 << 20;

/// What each record costs on the disk: length, checksum, payload.
const FRAME: usize = 8 + PAYLOAD;

/// Every block of a disk begins at a multiple of this, as does memory that goes to it directly.
const BLOCK: usize = 4096;

/// More than any workload here has in flight at once.
const BATCH_MAX: usize = 4096 * FRAME;

/// Makes a recycled file, if it is not there: on the disk, its length included.
pub fn prepare(path: &Path) -> io::Result<()> {
    if path.metadata().is_ok_and(|there| there.len() == FILE_BYTES) {
        return Ok(());
    }
    let file = File::create(path)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()
}

fn frame(into: &mut Vec<u8>, payload: &Payload) {
    into.extend_from_slice(&(PAYLOAD as u32).to_le_bytes());
    into.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    into.extend_from_slice(payload);
}

/// How a batch reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A write into the page cache, and an `fdatasync`.
    Synced,
    /// A write past the page cache that returns when it is durable.
    Direct,
}

/// A recycled file, written from its start to its end and again.
struct Recycled {
    file: File,
    mode: Mode,
    offset: u64,
}

impl Recycled {
    fn open(path: &Path, mode: Mode) -> io::Result<Recycled> {
        prepare(path)?;
        let mut options = OpenOptions::new();
        options.write(true);
        if mode == Mode::Direct {
            options.custom_flags(direct()?);
        }
        Ok(Recycled { file: options.open(path)?, mode, offset: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.offset + bytes.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        match self.mode {
            Mode::Synced => self.file.sync_data(),
            Mode::Direct => Ok(()),
        }
    }
}

#[cfg(target_os = "linux")]
fn direct() -> io::Result<i32> {
    use rustix::fs::OFlags;
    Ok((OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed())
}

#[cfg(not(target_os = "linux"))]
fn direct() -> io::Result<i32> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "O_DIRECT is Linux's"))
}

/// One caller, no second thread: a write and a sync.
pub struct Raw(Mutex<(Recycled, Vec<u8>)>);

impl Raw {
    pub fn open(path: &Path) -> Result<Box<dyn Log>, Trouble> {
        Ok(Box::new(Raw(Mutex::new((Recycled::open(path, Mode::Synced)?, Vec::new())))))
    }
}

impl Log for Raw {
    fn append(&self, _: usize, payload: &Payload) -> Result<(), Trouble> {
        let (file, bytes) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.clear();
        frame(bytes, payload);
        Ok(file.write(bytes)?)
    }
}

/// Whether the writer waits for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// It takes whatever is there.
    Never,
    /// It waits for as many records as were in flight when the last sync ended, but no longer than a
    /// quarter of what a sync takes.
    Adaptive,
}

/// Many callers and a thread that writes and syncs for all of them.
pub struct Writer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    syncs: AtomicU64,
}

struct State {
    batch: Batch,
    /// The writer sleeps, and wants to be woken when the batch has so many records.
    wake_at: Option<usize>,
    /// How many writers sleep since there is nothing to write.
    asleep: usize,
    stopping: bool,
}

struct Batch {
    /// Aligned to a block from `start` on, for as long as it does not grow, which it never does.
    bytes: Vec<u8>,
    start: usize,
    records: usize,
    durable: Arc<OnceLock<Result<(), String>>>,
    told: Vec<Done>,
}

impl Batch {
    fn new() -> Batch {
        let mut bytes: Vec<u8> = Vec::with_capacity(BATCH_MAX + 2 * BLOCK);
        let start = bytes.as_ptr().align_offset(BLOCK);
        bytes.resize(start, 0);
        Batch { bytes, start, records: 0, durable: Arc::default(), told: Vec::new() }
    }

    fn clear(&mut self) {
        self.bytes.truncate(self.start);
        self.records = 0;
        self.durable = Arc::default();
    }

    fn write(&mut self, file: &mut Recycled) -> io::Result<()> {
        if file.mode == Mode::Direct {
            let length = (self.bytes.len() - self.start).next_multiple_of(BLOCK);
            self.bytes.resize(self.start + length, 0);
        }
        file.write(&self.bytes[self.start..])
    }
}

impl Writer {
    pub fn open(path: &Path, mode: Mode, gather: Gather) -> Result<Writer, Trouble> {
        Self::with_files(&[path], mode, gather)
    }

    /// A thread for each of several files, all of which may have a batch in flight: no order between them is
    /// kept, and none is recovered. More than a log with several batches in flight can do.
    pub fn with_files(paths: &[&Path], mode: Mode, gather: Gather) -> Result<Writer, Trouble> {
        let mut files = Vec::new();
        for path in paths {
            let mut file = Recycled::open(path, mode)?;
            // Some file systems take the flag and refuse the write.
            let mut probe = Batch::new();
            probe.bytes.push(0);
            probe.write(&mut file)?;
            files.push(file);
        }
        let state = State { batch: Batch::new(), wake_at: None, asleep: 0, stopping: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            syncs: AtomicU64::new(0),
        });
        let write = |file| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.write(file, gather))
        };
        let threads = files.into_iter().map(write).collect();
        Ok(Writer { shared, threads })
    }

    /// Hands a record in; the closure is told when it is durable, by the writer's thread.
    pub fn submit(&self, payload: &Payload, done: Done) -> Result<(), Trouble> {
        self.shared.put(payload, |batch| batch.told.push(done))
    }
}

impl Log for Writer {
    fn append(&self, _: usize, payload: &Payload) -> Result<(), Trouble> {
        let mut durable = None;
        self.shared.put(payload, |batch| durable = Some(Arc::clone(&batch.durable)))?;
        match durable.as_ref().map(|durable| durable.wait()) {
            Some(Err(error)) => Err(error.clone().into()),
            _ => Ok(()),
        }
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.shared.syncs.load(Relaxed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("wal-bench: a ceiling's writer panicked");
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, payload: &Payload, join: impl FnOnce(&mut Batch)) -> Result<(), Trouble> {
        let mut state = self.lock();
        let batch = &mut state.batch;
        if batch.bytes.len() - batch.start + FRAME > BATCH_MAX {
            return Err("more in flight than a ceiling is made for".into());
        }
        frame(&mut batch.bytes, payload);
        batch.records += 1;
        join(batch);
        let wake = state.wake_at.is_some_and(|records| state.batch.records >= records);
        if wake {
            state.wake_at = None;
        }
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    fn write(&self, mut file: Recycled, gather: Gather) {
        let mut batch = Batch::new();
        let mut in_flight = 1;
        let mut sync_takes = Duration::ZERO;
        loop {
            let mut state = self.lock();
            while state.batch.records == 0 {
                if state.stopping {
                    return;
                }
                state.wake_at = Some(1);
                state.asleep += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.asleep -= 1;
            }
            if gather == Gather::Adaptive {
                state = self.gather(state, in_flight, sync_takes / 4);
            }
            state.wake_at = (state.asleep > 0).then_some(1);
            std::mem::swap(&mut state.batch, &mut batch);
            drop(state);

            let began = Instant::now();
            let result = batch.write(&mut file).map_err(|error| error.to_string());
            sync_takes = (sync_takes * 7 + began.elapsed()) / 8;
            self.syncs.fetch_add(1, Relaxed);
            in_flight = batch.records + self.lock().batch.records;

            batch.told.drain(..).for_each(|done| done(result.clone()));
            // Nobody else sets it.
            let _ = batch.durable.set(result);
            batch.clear();
        }
    }

    fn gather<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        records: usize,
        at_most: Duration,
    ) -> MutexGuard<'s, State> {
        let until = Instant::now() + at_most;
        while state.batch.records < records && !state.stopping {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.wake_at = Some(records);
            let waited = self.work.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

/// One thread that copies, checksums and writes, 64 KiB at a time.
pub struct Copying {
    file: File,
    bytes: Vec<u8>,
    offset: u64,
}

impl Copying {
    pub fn open(path: &Path) -> Result<Box<dyn Buffered>, Trouble> {
        prepare(path)?;
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Box::new(Copying { file, bytes: Vec::with_capacity(Self::AT_ONCE + FRAME), offset: 0 }))
    }

    const AT_ONCE: usize = 64 << 10;

    fn write(&mut self) -> io::Result<()> {
        if self.offset + self.bytes.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(&self.bytes, self.offset)?;
        self.offset += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
}

impl Buffered for Copying {
    fn append(&mut self, payload: &Payload) -> Result<(), Trouble> {
        frame(&mut self.bytes, payload);
        if self.bytes.len() >= Self::AT_ONCE {
            self.write()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Trouble> {
        Ok(self.write()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::payload;

    /// The numbers of the records at the start of a recycled file, in order.
    fn numbers(path: &Path, from: usize, count: usize) -> Vec<u64> {
        let bytes = std::fs::read(path).unwrap();
        let frames = bytes[from..].chunks_exact(FRAME).take(count);
        frames.map(|frame| crate::log::number(&frame[8..])).collect()
    }

    #[test]
    fn what_a_ceiling_acknowledged_is_in_its_file() {
        let directory = tempfile::tempdir().unwrap();
        for gather in [Gather::Never, Gather::Adaptive] {
            let path = directory.path().join(format!("{gather:?}"));
            let log = Writer::open(&path, Mode::Synced, gather).unwrap();
            for number in 1..=3 {
                log.append(0, &payload(number)).unwrap();
            }
            // The probe's byte comes first.
            assert_eq!(numbers(&path, 1, 4), [1, 2, 3, 0]);
            assert_eq!(log.syncs(), Some(3));
        }
    }

    #[test]
    fn many_callers_share_syncs_and_none_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let log = Writer::open(&path, Mode::Synced, Gather::Adaptive).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..8 {
                let log = &log;
                scope.spawn(move || {
                    for number in 0..50 {
                        log.append(caller, &payload(1 + caller as u64 * 50 + number)).unwrap();
                    }
                });
            }
        });
        let mut found = numbers(&path, 1, 401);
        found.sort_unstable();
        assert_eq!(found, (0..=400).collect::<Vec<u64>>());
        assert!(log.syncs().unwrap() < 400);
    }

    #[test]
    fn a_raw_write_goes_round_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = Recycled::open(&path, Mode::Synced).unwrap();
        file.offset = FILE_BYTES - 1;
        file.write(b"ab").unwrap();
        assert_eq!(file.offset, 2);
        assert_eq!(path.metadata().unwrap().len(), FILE_BYTES);
    }
}
