//! What came out of a run.

use crate::disk;
use crate::judge::Violation;
use crate::net;
use crate::plan::{Action, Fault, Plan};
use crate::workload::Answers;
use node::{LogSlot, RecoveryReport};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What happened in a run, counted.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Events executed.
    pub events: u64,
    /// Messages that left a node.
    pub sent: u64,
    /// Messages that reached a node.
    pub delivered: u64,
    /// Messages that reached a node that was down.
    pub to_nobody: u64,
    /// Syncs begun.
    pub syncs: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// What the network did to messages.
    pub net: net::Losses,
    /// What power losses did to disks.
    pub disk: disk::Losses,
    /// Entries of the plan that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Crashes of nodes that coordinate.
    pub coordinator_crashes: u64,
    /// Crashes of other nodes.
    pub participant_crashes: u64,
    /// Crashes of nodes that were recovering.
    pub recovery_crashes: u64,
    /// Processes started again.
    pub restarts: u64,
    /// Processes that stopped because their log failed or was taken over.
    pub died: u64,
    /// Processes that were replaced while they were stopped.
    pub zombies: u64,
    /// Of those, how many noticed.
    pub zombies_fenced: u64,
    /// Of those, how many never did anything more.
    pub zombies_retired: u64,
    /// Recoveries of coordinators' logs after a crash.
    pub recoveries: u64,
    /// What those found to do, by action.
    pub recovered: BTreeMap<&'static str, u64>,
    /// Corrupted records in all recoveries.
    pub corrupted: u64,
    /// Recoveries that cut a torn tail.
    pub torn_tails: u64,
    /// Segments that were taken out of a log, to be used again.
    pub segments_recycled: u64,
    /// Recoveries of logs that begin with a snapshot.
    pub snapshots_read: u64,
    /// Recoveries of logs from which a crash has kept a recycling half done.
    pub recyclings_cut_short: u64,
    /// Snapshots that became effective.
    pub compactions: u64,
    /// Markers that the last recovery of a coordinator found.
    pub checkpoints: u64,
    /// How operations ended, as clients heard it.
    pub answers: Answers,
    /// Clients that heard nothing.
    pub unanswered: u32,
    /// Conditions that a run should sometimes reach.
    pub sometimes: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Counts a recovery.
    pub fn recovered(&mut self, slot: LogSlot, boot: u32, report: &RecoveryReport) {
        self.corrupted += report.scanned.corrupted_records;
        self.torn_tails += u64::from(report.scanned.torn_tail_bytes > 0);
        self.snapshots_read += u64::from(report.scanned.base.is_some());
        self.recyclings_cut_short += u64::from(report.scanned.remainders > 0);
        if slot == LogSlot::Coordinator && boot > 1 {
            self.recoveries += 1;
            self.checkpoints = report.scanned.stats.checkpoints;
            for (action, count) in report.actions() {
                *self.recovered.entry(action.name()).or_default() += count;
            }
        }
    }

    /// Counts what a power loss did.
    pub fn disk_losses(&mut self, losses: disk::Losses) {
        self.disk.writes_lost += losses.writes_lost;
        self.disk.writes_kept += losses.writes_kept;
        self.disk.writes_cut += losses.writes_cut;
        self.disk.writes_torn += losses.writes_torn;
        self.disk.names_lost += losses.names_lost;
    }

    /// Every kind of fault, by name, with how often it came up.
    #[must_use]
    pub fn faults_by_kind(&self) -> BTreeMap<&'static str, u64> {
        let mut faults: BTreeMap<&'static str, u64> =
            Action::NAMES.into_iter().map(|name| (name, 0)).collect();
        faults.extend(self.faults.iter().map(|(name, count)| (*name, *count)));
        faults.extend([
            ("crash-in-recovery", self.recovery_crashes),
            ("message-lost", self.net.lost),
            ("message-partitioned", self.net.partitioned),
            ("message-dropped", self.net.dropped),
            ("message-doubled", self.net.duplicated),
            ("message-overtaken", self.net.reordered),
            ("message-held-back", self.net.clogged),
            ("message-to-nobody", self.to_nobody),
            ("write-lost", self.disk.writes_lost),
            ("write-kept", self.disk.writes_kept),
            ("write-cut", self.disk.writes_cut),
            ("write-torn", self.disk.writes_torn),
            ("name-lost", self.disk.names_lost),
        ]);
        faults
    }

    /// Conditions that a run should sometimes reach, by name, with how often they came up: the
    /// judges' and the world's own.
    #[must_use]
    pub fn conditions(&self) -> BTreeMap<&'static str, u64> {
        let recovered = |name| self.recovered.get(name).copied().unwrap_or(0);
        let mut conditions = self.sometimes.clone();
        conditions.extend([
            ("recovered_commit", recovered("tx_resume_commit")),
            ("presumed_abort", recovered("tx_resume_abort")),
            ("recovered_forward", recovered("saga_resume_execute")),
            ("recovered_backward", recovered("saga_resume_compensate")),
            ("torn_tail_cut", self.torn_tails),
            ("zombie_fenced", self.zombies_fenced),
            ("recovery_crashed", self.recovery_crashes),
            ("compacted", self.compactions),
            ("segment_recycled", self.segments_recycled),
            ("recovered_from_snapshot", self.snapshots_read),
            ("recycling_cut_short", self.recyclings_cut_short),
        ]);
        conditions
    }
}

/// An expectation of the scenario that was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Which: the key, such as `expect.committed`, or the named fault that never struck.
    pub which: String,
    /// What was expected and what was found, for people.
    pub what: String,
}

/// How a run is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to object to.
    Clean,
    /// Something happened that must never happen.
    Violation(Violation),
    /// The scenario expected something else, or a named fault never struck.
    Expectation(Unmet),
    /// Faults were healed, and not everything ended.
    NoProgress(String),
}

impl Verdict {
    /// The exit code that it stands for.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Violation(_) | Self::Expectation(_) => 1,
            Self::NoProgress(_) => 2,
        }
    }

    /// One word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Violation(_) => "violation",
            Self::Expectation(_) => "expectation",
            Self::NoProgress(_) => "no progress",
        }
    }

    /// What is wrong, for people; nothing if nothing is.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Clean => String::new(),
            Self::Violation(violation) => violation.to_string(),
            Self::Expectation(Unmet { what, .. }) | Self::NoProgress(what) => what.clone(),
        }
    }

    /// What makes two failures the same: the rule, the expectation, or the word.
    #[must_use]
    pub fn signature(&self) -> &str {
        match self {
            Self::Violation(violation) => violation.invariant,
            Self::Expectation(Unmet { which, .. }) => which,
            Self::Clean | Self::NoProgress(_) => self.name(),
        }
    }

    /// True of the failure that a file with this signature repeats. Old files do not say which
    /// expectation was not met, and mean any.
    #[must_use]
    pub fn is_of(&self, signature: &str) -> bool {
        signature == self.signature()
            || matches!(self, Self::Expectation(_)) && signature == self.name()
    }
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What was planned.
    pub plan: Plan,
    /// Entries of the plan that never struck, by number.
    pub never_struck: Vec<(u32, Fault)>,
    /// What happened, counted.
    pub counters: Counters,
    /// The verdict.
    pub verdict: Verdict,
    /// The hash of everything that happened.
    pub hash: u128,
}

impl Report {
    /// One line of JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let c = &self.counters;
        let mut line = json!({
            "scenario": self.scenario,
            "seed": self.seed,
            "verdict": self.verdict.name(),
            "hash": format!("{:032x}", self.hash),
            "events": c.events,
            "messages": c.delivered,
            "simulated_ms": c.simulated.as_millis() as u64,
            "faults": c.faults_by_kind(),
            "never_struck": self.never_struck.len(),
            "coordinator_crashes": c.coordinator_crashes,
            "participant_crashes": c.participant_crashes,
            "recoveries": c.recoveries,
            "recovered": c.recovered,
            "committed": c.answers.committed,
            "aborted": c.answers.aborted,
            "read_only": c.answers.read_only,
            "completed": c.answers.completed,
            "compensated": c.answers.compensated + c.answers.saga_aborted,
            "sometimes": c.conditions(),
        });
        if self.verdict != Verdict::Clean {
            line["violation"] = Value::from(self.verdict.what());
            line["signature"] = Value::from(self.verdict.signature());
        }
        line
    }
}
