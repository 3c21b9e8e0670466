//! Makes a failing run smaller: fewer faults, fewer operations, no bad luck on the network and the
//! disks, simpler parameters, fewer nodes. A smaller run counts only if it fails in the same way.
//!
//! Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE
//! TSE 28, 2002) over the plan and over the operations; for everything else one simpler value after
//! the other. What is left is 1-minimal in its faults if the time was enough: each of them is needed.

use crate::judge;
use crate::plan::Plan;
use crate::report::{Report, Unmet, Verdict};
use crate::run::finish_while;
use crate::scenario::{FaultEntry, Scenario, ScenarioError, Span};
use crate::world::World;
use std::collections::BTreeSet;
use std::time::Duration;
use toml::{Table, Value};

/// What makes two failures the same: the rule, and what was said without its numbers and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The rule that was violated, or the expectation that was not met.
    pub invariant: String,
    /// The words in which, for a violation.
    pub words: String,
}

impl Signature {
    /// Of a failure; `None`: it is none.
    #[must_use]
    pub fn of(verdict: &Verdict) -> Option<Signature> {
        let words = match verdict {
            Verdict::Clean => return None,
            Verdict::Violation(violation) => words_of(&violation.what),
            Verdict::Expectation(_) | Verdict::NoProgress(_) => String::new(),
        };
        Some(Signature { invariant: verdict.signature().to_owned(), words })
    }
}

/// A text without what differs from one run to the next: numbers, and everything in brackets.
pub fn words_of(what: &str) -> String {
    let mut depth = 0_u32;
    let flat: String = what
        .chars()
        .filter_map(|c| match c {
            '(' | '[' | '{' => {
                depth += 1;
                (depth == 1).then_some(' ')
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                None
            }
            c => (depth == 0).then_some(c),
        })
        .collect();
    let plain = |word: &&str| !word.contains(|c: char| c.is_ascii_digit());
    flat.split_whitespace().filter(plain).collect::<Vec<_>>().join(" ")
}

/// How large a failing run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Entries of the plan: faults.
    pub entries: u32,
    /// Operations that clients ask for; of storage nodes, clients.
    pub operations: u32,
    /// Nodes at the beginning.
    pub nodes: u32,
    /// Events until it fails.
    pub events: u64,
}

/// A smaller run that fails in the same way, of either kind of world.
#[derive(Debug)]
pub struct Shrunk<R = Report> {
    /// What came out of it. A report of coordinators has the plan that is left.
    pub report: R,
    /// Its scenario, as a file. Of coordinators, without the faults.
    pub text: String,
    /// How large the run was …
    pub before: Size,
    /// … and is.
    pub after: Size,
    /// How many runs it took.
    pub runs: u32,
    /// The time was enough to try everything.
    pub finished: bool,
}

/// Why a run cannot be made smaller.
#[derive(Debug, thiserror::Error)]
pub enum NotShrunk {
    /// It does not fail: nothing is to be found out.
    #[error("it runs clean")]
    Clean,
    /// The scenario demands that something happens. Whatever is smaller fails that too, and says less.
    #[error("`{0}` asks for something that has not happened: every smaller run fails that too")]
    Absence(String),
    /// The text is no scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
}

/// A scenario and its plan, to be changed.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    /// The scenario's file without `fault`, `chaos` and `repeats`.
    table: Table,
    faults: Vec<Value>,
}

impl Case {
    fn new(text: &str, report: &Report) -> Case {
        // A text that was parsed before.
        let mut table: Table = text.parse().unwrap_or_default();
        for key in ["fault", "chaos", "repeats"] {
            table.remove(key);
        }
        let seed = i64::try_from(report.seed).expect("a file's seeds are below 2^63");
        table.insert("seed".into(), Value::Integer(seed));
        Case { table, faults: values(&report.plan) }
    }

    fn scenario(&self) -> Result<Scenario, ScenarioError> {
        let mut table = self.table.clone();
        table.insert("fault".into(), Value::Array(self.faults.clone()));
        Scenario::parse("smaller", &table.to_string())
    }

    fn number(&self, table: &str, key: &str) -> Option<u32> {
        let value = self.table.get(table)?.get(key)?.as_integer()?;
        u32::try_from(value).ok()
    }

    fn set(&mut self, table: &str, key: &str, value: impl Into<Value>) {
        let of = self.table.entry(table).or_insert_with(|| Value::Table(Table::new()));
        if let Some(of) = of.as_table_mut() {
            of.insert(key.to_owned(), value.into());
        }
    }

    fn remove(&mut self, table: &str, key: &str) {
        if let Some(of) = self.table.get_mut(table).and_then(Value::as_table_mut) {
            of.remove(key);
        }
    }
}

fn values(plan: &Plan) -> Vec<Value> {
    let entries = plan.faults.iter().map(FaultEntry::of);
    entries
        .map(|entry| Value::try_from(entry).expect("an entry is made of numbers and texts"))
        .collect()
}

/// The best case so far, and how to look for a better one.
struct Hunt<'a> {
    case: Case,
    report: Report,
    signature: Signature,
    /// A run that goes on for so much longer than the first is given up.
    events_max: Option<u64>,
    runs: u32,
    goes_on: &'a mut dyn FnMut(&Progress) -> bool,
    /// The time is over.
    over: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Runs made.
    pub runs: u32,
    /// Entries of the plan that are left.
    pub entries: u32,
}

/// Makes the failing run that `report` tells of smaller, `text` being its scenario's file. Between
/// runs, and during long ones, `goes_on` is asked whether there is time left.
///
/// # Errors
/// [`NotShrunk`].
pub fn shrink(
    text: &str,
    report: Report,
    goes_on: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Shrunk, NotShrunk> {
    let Some(signature) = Signature::of(&report.verdict) else { return Err(NotShrunk::Clean) };
    let is_about_what_happened = match &report.verdict {
        Verdict::Expectation(Unmet { which, .. }) => {
            let exact = ["committed", "aborted", "completed", "compensated", "corrupted"];
            let least = ["min_committed", "min_completed"];
            let key = which.strip_prefix("expect.").unwrap_or_default();
            if !(exact.contains(&key) || least.contains(&key) || key.starts_with("recovered")) {
                return Err(NotShrunk::Absence(which.clone()));
            }
            false
        }
        _ => true,
    };
    let case = Case::new(text, &report);
    let before = size(&case.scenario()?, &report);
    // What was scheduled counts, not what has happened: some of it still waits when a run ends.
    let events_max = matches!(report.verdict, Verdict::Violation(_))
        .then(|| report.counters.events.saturating_mul(4).saturating_add(50_000));
    let mut hunt = Hunt { case, report, signature, events_max, runs: 0, goes_on, over: false };
    hunt.drop_idle();
    loop {
        let before = hunt.case.clone();
        hunt.fewer_faults();
        if is_about_what_happened {
            hunt.fewer_operations();
            hunt.fewer_nodes();
        }
        hunt.calmer(is_about_what_happened);
        hunt.simpler_faults();
        if hunt.over || hunt.case == before {
            break;
        }
    }
    let Hunt { case, report, runs, over, .. } = hunt;
    let after = size(&case.scenario()?, &report);
    Ok(Shrunk { report, text: case.table.to_string(), before, after, runs, finished: !over })
}

fn size(scenario: &Scenario, report: &Report) -> Size {
    let operations = match scenario.workload.only.get_ref().len() {
        0 => *scenario.workload.operations.get_ref(),
        some => some as u32,
    };
    Size {
        entries: report.plan.faults.len() as u32,
        operations,
        nodes: *scenario.cluster.nodes.get_ref(),
        events: report.counters.events,
    }
}

/// A time of one digit is as simple as it gets.
fn is_simple(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.chars().filter(|c| c.is_ascii_digit() && *c != '0').count() <= 1
}

/// The nearest time of one digit.
fn rounded(value: &Value) -> Option<Value> {
    let Span(span) = value.as_str()?.parse().ok()?;
    let nanos = u64::try_from(span.as_nanos()).ok()?;
    let unit = 10_u64.pow(nanos.checked_ilog10()?);
    let rounded = (nanos + unit / 2) / unit * unit;
    Some(Value::String(Span(Duration::from_nanos(rounded)).to_string()))
}

impl Hunt<'_> {
    /// Takes a case that is simpler, if it fails in the same way.
    fn accept(&mut self, case: Case) -> bool {
        if case == self.case {
            return false;
        }
        let Ok(mut scenario) = case.scenario() else { return false };
        if let Some(most) = self.events_max {
            scenario.budget.events = scenario.budget.events.min(most);
        }
        let plan = Plan::generate(&scenario, scenario.seed);
        let mut world = World::new(&scenario, scenario.seed, plan, judge::all(&scenario));
        self.runs += 1;
        let progress = Progress { runs: self.runs, entries: self.case.faults.len() as u32 };
        let report = finish_while(&mut world, &mut |_| (self.goes_on)(&progress));
        if !(self.goes_on)(&progress) {
            self.over = true;
        }
        match report {
            Some(report) if Signature::of(&report.verdict).as_ref() == Some(&self.signature) => {
                (self.case, self.report) = (case, report);
                true
            }
            _ => false,
        }
    }

    /// The same with one change.
    fn change(&mut self, change: impl FnOnce(&mut Case)) -> bool {
        if self.over {
            return false;
        }
        let mut case = self.case.clone();
        change(&mut case);
        self.accept(case)
    }

    /// Entries that have not struck when it fails had no part in it.
    fn drop_idle(&mut self) {
        let idle: BTreeSet<usize> =
            self.report.never_struck.iter().map(|(entry, _)| *entry as usize).collect();
        self.change(|case| {
            let mut number = 0..;
            case.faults.retain(|_| number.next().is_some_and(|entry| !idle.contains(&entry)));
        });
    }

    fn fewer_faults(&mut self) {
        let faults = self.case.faults.clone();
        minimize(&faults, |some| {
            let holds = self.change(|case| case.faults = some.to_vec());
            (!self.over).then_some(holds)
        });
    }

    fn fewer_operations(&mut self) {
        let only = self.case.table.get("workload").and_then(|workload| workload.get("only"));
        let all: Vec<Value> = match only.and_then(Value::as_array) {
            Some(some) => some.clone(),
            None => {
                let count = self.case.number("workload", "operations").unwrap_or(1);
                (0..count).map(|operation| Value::Integer(i64::from(operation))).collect()
            }
        };
        self.change(|case| case.remove("workload", "waves"));
        minimize(&all, |some| {
            // None is no workload.
            let holds =
                !some.is_empty() && self.change(|case| case.set("workload", "only", some.to_vec()));
            (!self.over).then_some(holds)
        });
        // The last that is left ends the list; if it is all of the list, no list is needed.
        let only = self.case.table.get("workload").and_then(|workload| workload.get("only"));
        let Some(only) = only.and_then(Value::as_array).cloned() else { return };
        let last = only.iter().filter_map(Value::as_integer).max().unwrap_or(0);
        self.change(|case| case.set("workload", "operations", last + 1));
        let all = i64::try_from(only.len()) == Ok(last + 1);
        if all {
            self.change(|case| case.remove("workload", "only"));
        }
    }

    fn fewer_nodes(&mut self) {
        for (table, key) in [
            ("workload", "participants"),
            ("workload", "steps"),
            ("workload", "in_flight"),
            ("cluster", "coordinators"),
            ("cluster", "regions"),
        ] {
            let Some(now) = self.case.number(table, key) else { continue };
            smaller(now).find(|less| self.change(|case| case.set(table, key, i64::from(*less))));
        }
        let Some(now) = self.case.number("cluster", "nodes") else { return };
        smaller(now).find(|less| {
            self.change(|case| {
                case.set("cluster", "nodes", i64::from(*less));
                for (table, key) in [("workload", "participants"), ("cluster", "coordinators")] {
                    if case.number(table, key).is_some_and(|count| count > *less) {
                        case.set(table, key, i64::from(*less));
                    }
                }
            })
        });
    }

    /// What goes wrong by itself is turned off, and what is set for no reason is left out.
    fn calmer(&mut self, all: bool) {
        self.change(|case| _ = case.table.remove("network"));
        for key in ["loss", "duplicate", "reorder", "latency"] {
            self.change(|case| case.remove("network", key));
        }
        self.change(|case| case.set("network", "latency", "1ms"));
        self.change(|case| case.set("disk", "torn", "no"));
        for key in ["sync", "segment_bytes_first", "segment_bytes_max", "batch_bytes_max"] {
            self.change(|case| case.remove("disk", key));
        }
        for key in ["checkpoint_interval", "idle_guard"] {
            self.change(|case| case.remove("disk", key));
        }
        self.change(|case| case.set("disk", "sync", "1ms"));
        self.change(|case| _ = case.table.remove("node"));
        for key in ["resend", "prepare_timeout", "step_timeout", "saga_timeout", "inquire"] {
            self.change(|case| case.remove("node", key));
        }
        if !all {
            return;
        }
        for key in ["about", "expect"] {
            self.change(|case| _ = case.table.remove(key));
        }
        for key in ["vote_no", "refuse", "shape", "cells"] {
            self.change(|case| case.remove("workload", key));
        }
        let mixed = |case: &Case| case.table["workload"]["kind"].as_str() == Some("mixed");
        for kind in ["twopc", "saga"] {
            if mixed(&self.case) {
                self.change(|case| case.set("workload", "kind", kind));
            }
        }
    }

    fn simpler_faults(&mut self) {
        for at in 0..self.case.faults.len() {
            for key in ["again", "at"] {
                let has = |case: &Case, key: &str| case.faults[at].get(key).is_some();
                if has(&self.case, key) && (key == "again" || has(&self.case, "on")) {
                    self.edit(at, |fault| _ = fault.remove(key));
                }
            }
            let count =
                |case: &Case| case.faults[at].get("on").and_then(Value::as_str).and_then(nth);
            if let Some((before, now, behind)) = count(&self.case) {
                smaller(now).find(|less| {
                    let on = format!("{before}#{less}{behind}");
                    self.edit(at, |fault| _ = fault.insert("on".into(), Value::String(on)))
                });
            }
            for key in ["down", "for", "successor", "resume", "at"] {
                let value = self.case.faults[at].get(key).filter(|value| !is_simple(value));
                if let Some(simple) = value.and_then(rounded) {
                    self.edit(at, |fault| _ = fault.insert(key.into(), simple));
                }
            }
        }
    }

    fn edit(&mut self, fault: usize, edit: impl FnOnce(&mut Table)) -> bool {
        self.change(|case| {
            if let Some(fault) = case.faults[fault].as_table_mut() {
                edit(fault);
            }
        })
    }
}

/// `append(tx_created)#3@n0` as what stands before the count, the count, and what is behind it.
fn nth(on: &str) -> Option<(String, u32, String)> {
    let (before, rest) = on.split_once('#')?;
    let (count, behind) = rest.split_once('@')?;
    Some((before.to_owned(), count.parse().ok()?, format!("@{behind}")))
}

/// Numbers from 1 to below another, at most a dozen of them: the small ones, then in ever larger steps.
pub fn smaller(than: u32) -> impl Iterator<Item = u32> {
    let steps = std::iter::successors(Some(1_u32), |last| last.checked_add((last / 3).max(1)));
    steps.take_while(move |step| *step < than).take(24)
}

/// Delta debugging: takes away as much of a list as can be. `holds` says whether some of the items, in
/// their order, are enough (all of them are), or `None` to stop. At the end each that is left is needed,
/// unless it was stopped.
pub fn minimize<T: Clone>(items: &[T], mut holds: impl FnMut(&[T]) -> Option<bool>) -> Vec<T> {
    let mut left = items.to_vec();
    // A loop of its own, so that whoever stops it gets what is left then.
    let _ = minimize_in(&mut left, &mut holds);
    left
}

fn minimize_in<T: Clone>(
    left: &mut Vec<T>,
    holds: &mut impl FnMut(&[T]) -> Option<bool>,
) -> Option<()> {
    if left.is_empty() {
        return Some(());
    }
    if holds(&[])? {
        left.clear();
        return Some(());
    }
    let mut parts = 2.min(left.len());
    'shorter: while left.len() >= 2 {
        let size = left.len().div_ceil(parts);
        let count = left.len().div_ceil(size);
        // One part alone, then all but one part.
        for at in 0..count {
            let part = &left[at * size..left.len().min((at + 1) * size)];
            if holds(part)? {
                (*left, parts) = (part.to_vec(), 2);
                continue 'shorter;
            }
        }
        for at in (0..count).filter(|_| count > 2) {
            let behind = left.len().min((at + 1) * size);
            let rest = [&left[..at * size], &left[behind..]].concat();
            if holds(&rest)? {
                (*left, parts) = (rest, (count - 1).max(2));
                continue 'shorter;
            }
        }
        if size == 1 {
            break;
        }
        parts = (2 * parts).min(left.len());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_left() {
        for needed in [&[][..], &[0], &[99], &[3, 57], &[0, 1, 2, 50, 98, 99]] {
            let mut asked = 0;
            let items: Vec<u32> = (0..100).collect();
            let left = minimize(&items, |some| {
                asked += 1;
                Some(needed.iter().all(|item| some.contains(item)))
            });
            assert_eq!(left, needed);
            assert!(asked < 200, "{needed:?} took {asked}");
        }
    }

    #[test]
    fn whoever_stops_gets_what_is_left() {
        let items: Vec<u32> = (0..100).collect();
        let mut asked = 0;
        let left = minimize(&items, |some| {
            asked += 1;
            (asked <= 3).then_some(some.contains(&70))
        });
        assert_eq!((left, asked), ((50..100).collect(), 4));
    }

    #[test]
    fn what_differs_between_runs_is_no_part_of_a_signature() {
        let one = words_of("n3: transaction 1099511627777 committed at 2 of 3 nodes {a: [4]}");
        assert_eq!(one, "transaction committed at of nodes");
        assert_eq!(one, words_of("n0: transaction 7 committed at 1 of 9 nodes (x)"));
        assert_ne!(one, words_of("n0: transaction 7 aborted at 1 of 9 nodes"));
    }

    #[test]
    fn times_get_rounder() {
        let text = |text: &str| Value::String(text.to_owned());
        assert_eq!(rounded(&text("299796395ns")), Some(text("300ms")));
        assert_eq!(rounded(&text("950us")), Some(text("1ms")));
        assert!(is_simple(&text("300ms")) && !is_simple(&text("1500us")));
        assert_eq!(smaller(1).count(), 0);
        assert_eq!(smaller(5).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
