//! What people see of many runs.

use crate::clock::Watch;
use sim::{Report, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Many runs, added up.
#[derive(Default)]
pub struct Tally {
    runs: u64,
    clean: u64,
    events: u64,
    messages: u64,
    simulated_ms: u64,
    coordinator_crashes: u64,
    participant_crashes: u64,
    recoveries: u64,
    faults: BTreeMap<&'static str, u64>,
    recovered: BTreeMap<&'static str, u64>,
    ended: BTreeMap<&'static str, u64>,
    sometimes: BTreeMap<&'static str, u64>,
    verdicts: BTreeMap<&'static str, u64>,
    never_struck: u64,
    hash: u128,
}

impl Tally {
    /// How many runs were added.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        let c = &report.counters;
        self.runs += 1;
        self.clean += u64::from(report.verdict == Verdict::Clean);
        self.events += c.events;
        self.messages += c.delivered;
        self.simulated_ms += c.simulated.as_millis() as u64;
        self.coordinator_crashes += c.coordinator_crashes;
        self.participant_crashes += c.participant_crashes;
        self.recoveries += c.recoveries;
        self.never_struck += report.never_struck.len() as u64;
        let add = |into: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>| {
            from.iter().for_each(|(name, count)| *into.entry(name).or_default() += count);
        };
        add(&mut self.faults, &c.faults_by_kind());
        add(&mut self.recovered, &c.recovered);
        add(&mut self.sometimes, &c.conditions());
        for (name, count) in [
            ("committed", c.answers.committed),
            ("aborted", c.answers.aborted),
            ("read-only", c.answers.read_only),
            ("completed", c.answers.completed),
            ("compensated", c.answers.compensated),
            ("given up before anything ran", c.answers.saga_aborted),
            ("unanswered", u64::from(c.unanswered)),
        ] {
            if count > 0 {
                *self.ended.entry(name).or_default() += count;
            }
        }
        *self.verdicts.entry(report.verdict.name()).or_default() += 1;
        // Of several runs, a hash that does not depend on their order.
        self.hash = self.hash.wrapping_add(report.hash);
    }

    /// The table.
    pub fn table(&self, name: &str, watch: &Watch) -> String {
        let mut text = String::new();
        let seconds = watch.wall().as_secs_f64();
        let cpu = watch.cpu().as_secs_f64();
        let rate = self.messages as f64 / cpu.max(1e-9) / 1e6;
        let list = |map: &BTreeMap<&'static str, u64>| {
            let entries: Vec<String> = map
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(name, count)| format!("{count} {name}"))
                .collect();
            if entries.is_empty() { "none".to_owned() } else { entries.join(", ") }
        };
        let mut row = |label: &str, value: String| {
            let mut lines = wrap(&value, 78).into_iter();
            let _ = writeln!(text, "  {label:<20}{}", lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(text, "  {:<20}{line}", "");
            }
        };
        row("runs", format!("{} of {name}, in {seconds:.2} s", self.runs));
        row("events", format!("{}", self.events));
        row(
            "messages",
            format!("{} delivered, {rate:.2} M per second of processor time", self.messages),
        );
        row("simulated", format!("{:.3} s", self.simulated_ms as f64 / 1000.0));
        row(
            "crashes",
            format!(
                "{} of coordinators, {} of other nodes",
                self.coordinator_crashes, self.participant_crashes
            ),
        );
        row("faults", list(&self.faults));
        if self.never_struck > 0 {
            row("never struck", format!("{} entries of plans", self.never_struck));
        }
        row("recoveries", format!("{} of coordinators' logs after a crash", self.recoveries));
        row("found there", list(&self.recovered));
        row("operations", list(&self.ended));
        row("seen", list(&self.sometimes));
        let unseen: Vec<&str> = self
            .faults
            .iter()
            .chain(&self.sometimes)
            .filter(|(_, count)| **count == 0)
            .map(|(name, _)| *name)
            .collect();
        if !unseen.is_empty() {
            row("never seen", unseen.join(", "));
        }
        row("verdict", list(&self.verdicts));
        row("run hash", format!("{:032x}", self.hash));
        text
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
