//! What is measured, row by row, and what against what. Within a row, the logs take turns: all of them
//! once, then all of them again, so that the machine's moods meet them alike.

use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use crate::ceiling::{Copying, Gather, Mode, Raw, Writer};
use crate::log::{Buffered, Closures, Log, Multiplexed, Trouble};
use crate::machine::Usage;
use crate::place::Place;
use crate::sample::{Measured, Sample};
use crate::workload::{self, Times};
use crate::{ours, peers, replay};

pub const CEILING: &str = "ceiling: pwrite + fdatasync";
pub const CEILING_GATHER: &str = "ceiling: the same, with gather";
pub const CEILING_DIRECT: &str = "ceiling: O_DIRECT + O_DSYNC";
pub const CEILING_TWO: &str = "ceiling: O_DIRECT, two in flight";
pub const RAW: &str = "raw pwrite + fdatasync";
pub const COPYING: &str = "memcpy + CRC + write";
pub const WITH_ROTATION: &str = "wal-core, 1 MiB segments";
pub const WITHOUT_ROTATION: &str = "wal-core, one segment";
pub const COMPACTED: &str = "wal-core, 1 MiB segments, compacted";

/// Why something has no figures though nothing failed.
pub const NOT_BUILT: &str = "not built yet";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowName {
    /// One thread that waits for each record.
    #[value(name = "callers-1")]
    #[serde(rename = "callers-1")]
    Callers1,
    /// Eight such threads.
    #[value(name = "callers-8")]
    #[serde(rename = "callers-8")]
    Callers8,
    /// Sixty-four.
    #[value(name = "callers-64")]
    #[serde(rename = "callers-64")]
    Callers64,
    /// Five hundred and twelve.
    #[value(name = "callers-512")]
    #[serde(rename = "callers-512")]
    Callers512,
    /// Sixty-four records in flight on one thread.
    Multiplexed,
    /// One thread that waits for nothing.
    Buffered,
    /// Reading a log from its start.
    Replay,
    /// Sixty-four threads, with small segments, with these and compaction, and with one segment.
    Rotation,
}

impl RowName {
    pub const ALL: &[RowName] = &[
        RowName::Callers1,
        RowName::Callers8,
        RowName::Callers64,
        RowName::Callers512,
        RowName::Multiplexed,
        RowName::Buffered,
        RowName::Replay,
        RowName::Rotation,
    ];

    pub fn title(self) -> &'static str {
        match self {
            RowName::Callers1 => "Durable appends, 1 caller",
            RowName::Callers8 => "Durable appends, 8 callers",
            RowName::Callers64 => "Durable appends, 64 callers",
            RowName::Callers512 => "Durable appends, 512 callers",
            RowName::Multiplexed => "Durable appends, 64 in flight on one thread",
            RowName::Buffered => "Buffered appends, one thread",
            RowName::Replay => "Replay, batches of 16",
            RowName::Rotation => "Rotation, 64 callers",
        }
    }
}

/// A row's figures.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: RowName,
    /// The part of all processors' time that others took meanwhile, from 0 to 1.
    pub others: Option<f64>,
    pub systems: Vec<Measured>,
    pub left_out: Vec<LeftOut>,
}

/// A log that has no figures in a row, and why.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    pub name: &'static str,
    pub why: String,
}

impl Row {
    pub fn system(&self, name: &str) -> Option<&Measured> {
        self.systems.iter().find(|system| system.name == name)
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub repetitions: usize,
    pub times: Times,
    pub replayed: u64,
}

type Run<'a> = Box<dyn FnMut() -> Result<Sample, Trouble> + 'a>;

/// Measures one row. Told each log's name before it is measured.
pub fn measure(
    name: RowName,
    place: &Place,
    extent: Extent,
    progress: &mut dyn FnMut(RowName, usize, &str),
) -> Row {
    let times = extent.times;
    let mut left_out = Vec::new();
    let mut runs: Vec<(&'static str, Run<'_>)> = Vec::new();
    match name {
        RowName::Callers1 => runs = durable(place, 1, times),
        RowName::Callers8 => runs = durable(place, 8, times),
        RowName::Callers64 => runs = durable(place, 64, times),
        RowName::Callers512 => runs = durable(place, 512, times),
        RowName::Multiplexed => {
            runs = multiplexed(place, times);
            if ours::MULTIPLEXED.is_none() {
                left_out.push(LeftOut { name: ours::NAME, why: NOT_BUILT.into() });
            }
        }
        RowName::Buffered => runs = buffered(place, times),
        RowName::Replay => {
            for replayed in replay::ALL {
                progress(name, 0, replayed.name);
                match replayed.prepare(place.path(), extent.replayed) {
                    Ok(()) => runs.push((
                        replayed.name,
                        Box::new(move || replayed.measure(place.path(), extent.replayed)),
                    )),
                    Err(why) => {
                        left_out.push(LeftOut { name: replayed.name, why: why.to_string() });
                    }
                }
            }
        }
        RowName::Rotation => {
            // The larger is as large as segments grow, and more than a cell writes.
            for (name, bytes) in [(WITH_ROTATION, 1 << 20), (WITHOUT_ROTATION, 64 << 20)] {
                runs.push((name, Box::new(move || rotation(place, bytes, times))));
            }
            runs.push((COMPACTED, Box::new(move || compaction(place, times))));
        }
    }
    let before = Usage::now();
    let mut row = interleaved(name, runs, extent.repetitions, progress);
    row.others = before.zip(Usage::now()).map(|(before, now)| before.others(now));
    row.left_out.append(&mut left_out);
    row
}

fn interleaved(
    name: RowName,
    mut runs: Vec<(&'static str, Run<'_>)>,
    repetitions: usize,
    progress: &mut dyn FnMut(RowName, usize, &str),
) -> Row {
    let mut systems: Vec<Measured> =
        runs.iter().map(|(name, _)| Measured { name, samples: Vec::new() }).collect();
    let mut left_out: Vec<LeftOut> = Vec::new();
    for repetition in 1..=repetitions {
        for ((system, run), measured) in runs.iter_mut().zip(&mut systems) {
            if left_out.iter().any(|out| out.name == *system) {
                continue;
            }
            progress(name, repetition, system);
            match run() {
                Ok(sample) => measured.samples.push(sample),
                Err(why) => left_out.push(LeftOut { name: system, why: why.to_string() }),
            }
        }
    }
    // What failed once has figures of some repetitions only, which are comparable with nothing.
    systems.retain(|system| left_out.iter().all(|out| out.name != system.name));
    Row { name, others: None, systems, left_out }
}

type Open<'a> = Box<dyn Fn(&Path) -> Result<Box<dyn Log>, Trouble> + 'a>;

fn durable<'a>(place: &'a Place, callers: usize, times: Times) -> Vec<(&'static str, Run<'a>)> {
    let writer = |mode, gather| -> Open<'a> {
        Box::new(move |_| {
            let file = if mode == Mode::Direct { place.direct() } else { place.synced() };
            Ok(Box::new(Writer::open(&file, mode, gather)?))
        })
    };
    let mut logs: Vec<(&'static str, Open<'a>)> = vec![
        (ours::NAME, Box::new(ours::open)),
        (ours::DIRECT, Box::new(ours::open_direct)),
        (CEILING, writer(Mode::Synced, Gather::Never)),
        (CEILING_GATHER, writer(Mode::Synced, Gather::Adaptive)),
        (CEILING_DIRECT, writer(Mode::Direct, Gather::Never)),
        (
            CEILING_TWO,
            Box::new(|_| {
                let (one, other) = (place.direct(), place.direct_too());
                Ok(Box::new(Writer::with_files(&[&one, &other], Mode::Direct, Gather::Never)?))
            }),
        ),
        (peers::raft::NAME, Box::new(peers::raft::open)),
        (peers::okay_wal::NAME, Box::new(peers::okay_wal::open)),
        (peers::sqlite::NAME, Box::new(peers::sqlite::open)),
    ];
    if callers == 1 {
        logs.insert(2, (RAW, Box::new(|_| Raw::open(&place.synced()))));
    }
    let run = |open: Open<'a>| -> Run<'a> {
        Box::new(move || {
            let directory = place.fresh()?;
            let log = open(directory.path())?;
            let sample = workload::durable(&*log, callers, times)?;
            log.close()?;
            Ok(sample)
        })
    };
    logs.into_iter().map(|(name, open)| (name, run(open))).collect()
}

fn multiplexed(place: &Place, times: Times) -> Vec<(&'static str, Run<'_>)> {
    fn run<'a>(
        place: &'a Place,
        times: Times,
        open: impl Fn(&Path) -> Result<Box<dyn Multiplexed>, Trouble> + 'a,
    ) -> Run<'a> {
        Box::new(move || {
            let directory = place.fresh()?;
            workload::multiplexed(&mut *open(directory.path())?, 64, times)
        })
    }
    let writer = |gather| {
        run(place, times, move |_| {
            let writer = Writer::open(&place.synced(), Mode::Synced, gather)?;
            Ok(Box::new(Closures::new(move |payload, done| writer.submit(payload, done))))
        })
    };
    let mut runs = vec![
        (CEILING, writer(Gather::Never)),
        (CEILING_GATHER, writer(Gather::Adaptive)),
        (peers::raft::NAME, run(place, times, peers::raft::multiplexed)),
        (peers::okay_wal::NAME, run(place, times, peers::okay_wal::multiplexed)),
    ];
    if let Some(open) = ours::MULTIPLEXED {
        runs.insert(0, (ours::NAME, run(place, times, open)));
        runs.insert(1, (ours::DIRECT, run(place, times, ours::multiplexed_direct)));
    }
    runs
}

fn buffered(place: &Place, times: Times) -> Vec<(&'static str, Run<'_>)> {
    fn run<'a>(
        place: &'a Place,
        times: Times,
        open: impl Fn(&Path) -> Result<Box<dyn Buffered>, Trouble> + 'a,
    ) -> Run<'a> {
        Box::new(move || {
            let directory = place.fresh()?;
            workload::buffered(open(directory.path())?, times)
        })
    }
    vec![
        (ours::NAME, run(place, times, ours::buffered)),
        (COPYING, run(place, times, |_| Copying::open(&place.synced()))),
        (peers::commit_log::NAME, run(place, times, peers::commit_log::buffered)),
        (replay::SPACETIME, run(place, times, peers::spacetime::buffered)),
    ]
}

fn rotation(place: &Place, segment_bytes: u64, times: Times) -> Result<Sample, Trouble> {
    let directory = place.fresh()?;
    let log = ours::open_segments(directory.path(), segment_bytes)?;
    let sample = workload::durable(&log, 64, times)?;
    let rotations = ours::rotations(&log, segment_bytes);
    if (rotations > 0) != (segment_bytes == 1 << 20) {
        return Err(format!("{rotations} rotations in segments of {segment_bytes} bytes").into());
    }
    Box::new(log).close()?;
    Ok(sample)
}

fn compaction(place: &Place, times: Times) -> Result<Sample, Trouble> {
    let directory = place.fresh()?;
    let log = ours::Compacted::open(directory.path(), 1 << 20)?;
    let sample = workload::durable(&log, 64, times)?;
    if log.compactions() == 0 {
        return Err("nothing was compacted".into());
    }
    Box::new(log).close()?;
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_take_turns_and_one_that_fails_is_left_out() {
        let order = std::cell::RefCell::new(String::new());
        let run = |letter: char, fails_at: usize| -> Run<'_> {
            let order = &order;
            let mut calls = 0;
            Box::new(move || {
                order.borrow_mut().push(letter);
                calls += 1;
                if calls == fails_at { Err("no".into()) } else { Ok(Sample::default()) }
            })
        };
        let runs = vec![("a", run('a', 0)), ("b", run('b', 2)), ("c", run('c', 0))];
        let row = interleaved(RowName::Buffered, runs, 3, &mut |_, _, _| ());
        assert_eq!(*order.borrow(), "abcabcac");
        let names: Vec<_> = row.systems.iter().map(|s| (s.name, s.samples.len())).collect();
        assert_eq!(names, [("a", 3), ("c", 3)]);
        assert_eq!(row.left_out[0].name, "b");
    }
}
