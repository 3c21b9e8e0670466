//! The sealed segments of a node's logs are read again in the background: what a disk has damaged is told
//! while the node runs, and not first by the opening that needs it.
//!
//! On a thread of its own, since a read may take as long as the disk likes. It takes no lock, and changes nothing.

use crate::process::Clock;
use base::Time;
use node::LogSlot;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use wal_core::{Corruption, FileError, FileStorage, ScanError, Scrub, ScrubConfig, ScrubStats};

/// What reading a log's sealed segments again has found since the node started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// How much was read, and how often.
    pub stats: ScrubStats,
    /// Damaged places in the order in which they were found, each once, and at most
    /// [64](Scrubbed::DAMAGED_MAX): look at them, and for more, with `trinity wal verify`. The node goes on: what
    /// its memory holds is whole. Its next start may not be able to read what stands there.
    pub damaged: Vec<Corruption>,
    /// What the disk said when it last did not let a segment be read.
    pub unreadable: Option<String>,
}

impl Scrubbed {
    /// So many damaged places are kept.
    pub const DAMAGED_MAX: usize = 64;
}

/// What was found so far, by log.
type Findings = Arc<Mutex<BTreeMap<LogSlot, Scrubbed>>>;

/// What a log is called.
pub(crate) fn name(slot: LogSlot) -> &'static str {
    match slot {
        LogSlot::Coordinator => "coordinator",
        LogSlot::Participant => "participant",
    }
}

/// Reads logs again until it is dropped.
#[derive(Debug)]
pub(crate) struct Scrubber {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    findings: Findings,
}

/// Why nothing reads them.
pub(crate) enum NoScrubber {
    Files(FileError),
    Thread(std::io::Error),
}

impl Scrubber {
    /// Of the logs in these folders, which are there.
    pub(crate) fn start(
        logs: Vec<(LogSlot, PathBuf)>,
        config: &ScrubConfig,
        clock: Clock,
    ) -> Result<Scrubber, NoScrubber> {
        let lane = |(slot, path): (LogSlot, PathBuf)| {
            let files = FileStorage::beside(&path)?;
            Ok(Lane { slot, files, scrub: Scrub::new(config.clone(), clock.now()) })
        };
        let lanes: Result<Vec<Lane>, FileError> = logs.into_iter().map(lane).collect();
        let lanes = lanes.map_err(NoScrubber::Files)?;
        let (stop, stopped) = mpsc::channel();
        let findings = Findings::default();
        let to = findings.clone();
        let thread = std::thread::Builder::new()
            .name("trinity-scrub".into())
            .spawn(move || run(lanes, clock, &stopped, &to))
            .map_err(NoScrubber::Thread)?;
        Ok(Scrubber { stop: Some(stop), thread: Some(thread), findings })
    }

    /// What was found so far, by log.
    pub(crate) fn scrubbed(&self) -> BTreeMap<LogSlot, Scrubbed> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Scrubber {
    /// Waits until it has let go of its files: one step.
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// One log.
struct Lane {
    slot: LogSlot,
    files: FileStorage,
    scrub: Scrub,
}

fn run(mut lanes: Vec<Lane>, clock: Clock, stopped: &Receiver<()>, findings: &Findings) {
    while let Some(lane) = lanes.iter_mut().min_by_key(|lane| lane.scrub.due()) {
        match stopped.recv_timeout(lane.scrub.due() - clock.now()) {
            Err(RecvTimeoutError::Timeout) => lane.step(clock.now(), findings),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Lane {
    fn step(&mut self, now: Time, findings: &Findings) {
        let log = name(self.slot);
        let step = self.scrub.step(&self.files, now);
        let mut all = findings.lock().unwrap_or_else(PoisonError::into_inner);
        let told = all.entry(self.slot).or_default();
        told.stats = self.scrub.stats().clone();
        match step {
            Ok(found) => {
                for damaged in found {
                    // Each round finds it again.
                    if told.damaged.len() < Scrubbed::DAMAGED_MAX
                        && !told.damaged.contains(&damaged)
                    {
                        tracing::error!(log, %damaged, "a sealed segment of the log is damaged");
                        told.damaged.push(damaged);
                    }
                }
            }
            Err(error) => {
                let reason = ScanError::to_string(&error);
                if told.unreadable.as_ref() != Some(&reason) {
                    tracing::error!(log, reason, "a sealed segment of the log cannot be read");
                    told.unreadable = Some(reason);
                }
            }
        }
    }
}
