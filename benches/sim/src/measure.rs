//! One measurement: a process of its own, so that nobody's memory or caches are another's.

use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::bare::{self, Careful, Careless};
use crate::ours::Ours;
use crate::protocol::{LARGE, START, TINY, Workload};
use crate::{mad, paused};

/// Whose worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    Ours,
    BareLoop,
    BareLoopWithCare,
    TokioPaused,
    Madsim,
}

impl System {
    pub const ALL: [System; 5] = [
        System::Ours,
        System::BareLoop,
        System::BareLoopWithCare,
        System::TokioPaused,
        System::Madsim,
    ];

    pub fn title(self) -> &'static str {
        match self {
            System::Ours => "Trinity's sim: nodes, logs, disks, every judge",
            System::BareLoop => "bare event loop",
            System::BareLoopWithCare => "the same with encoding, CRC, trace, one check",
            System::TokioPaused => "tokio on paused time",
            System::Madsim => "madsim",
        }
    }

    /// How many worlds of a small workload are measured together.
    fn worlds(self, row: Row) -> u64 {
        match (row, self) {
            (Row::Large, _) => 1,
            (Row::Start, _) => 20,
            (Row::Tiny, System::BareLoop | System::BareLoopWithCare) => 20_000,
            (Row::Tiny, _) => 2_000,
        }
    }

    fn run(self, workload: &Workload, seeds: std::ops::Range<u64>) -> u64 {
        match self {
            System::Ours => {
                let ours = Ours::new(workload);
                seeds.map(|seed| ours.run(seed)).sum()
            }
            System::BareLoop => seeds.map(|seed| bare::run(workload, seed, Careless)).sum(),
            System::BareLoopWithCare => {
                seeds.map(|seed| bare::run(workload, seed, Careful::default())).sum()
            }
            System::TokioPaused => seeds.map(|seed| paused::run(workload, seed)).sum(),
            System::Madsim => seeds.map(|seed| mad::run(workload, seed)).sum(),
        }
    }
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    Large,
    Start,
    Tiny,
}

impl Row {
    pub const ALL: [Row; 3] = [Row::Large, Row::Start, Row::Tiny];

    pub fn workload(self) -> &'static Workload {
        match self {
            Row::Large => &LARGE,
            Row::Start => &START,
            Row::Tiny => &TINY,
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Row::Large => {
                "600 nodes, 10,000 transactions of 8 participants, 1-10 ms, 1 % loss, 20 crashes"
            }
            Row::Start => "600 nodes that start, and one transaction",
            Row::Tiny => "9 nodes, one transaction of 8 participants, one crash",
        }
    }
}

/// What one process found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub worlds: u64,
    pub messages: u64,
    /// Processor time of the process while it ran worlds.
    pub cpu_seconds: f64,
    /// The most memory that the process held.
    pub peak_mib: f64,
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Measures here.
pub fn here(system: System, row: Row, seed: u64) -> Sample {
    let worlds = system.worlds(row);
    let before = cpu();
    let messages = system.run(row.workload(), seed..seed + worlds);
    let cpu_seconds = (cpu() - before).as_secs_f64();
    Sample { worlds, messages, cpu_seconds, peak_mib: peak_mib() }
}

/// Measures in a process of its own.
pub fn in_a_child(system: System, row: Row, seed: u64) -> Result<Sample, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    };
    let output = Command::new(this)
        .args(["--child", &name(system.to_possible_value()), &name(row.to_possible_value())])
        .args(["--seed", &seed.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}
