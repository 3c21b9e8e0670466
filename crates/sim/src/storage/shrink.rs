//! Makes a failing run of a world of storage nodes smaller: fewer faults, fewer clients, no bad luck beside them,
//! fewer nodes. As with [the other worlds](crate::shrink) a smaller run counts only if it fails in the same
//! way, and what is left is 1-minimal in its faults and clients if the time was enough.

use super::plan::{Entry, happening};
use super::report::Report;
use super::scenario::Scenario;
use super::world::{Ending, run_while};
use crate::shrink::{Progress, Shrunk, Size, minimize, smaller, words_of};
use toml::{Table, Value};

/// What makes two failures the same: the rule, and what was said without its numbers and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature(&'static str, String);

impl Signature {
    /// Of a failure; `None`: it is none.
    #[must_use]
    pub fn of(report: &Report) -> Option<Signature> {
        let what = match (&report.finding, &report.unmet) {
            (Some(finding), _) => &finding.what,
            (None, Some(unmet)) => unmet,
            (None, None) => return None,
        };
        Some(Signature(report.rule()?, words_of(what)))
    }
}

/// Why a run cannot be made smaller.
#[derive(Debug, thiserror::Error)]
pub enum NotShrunk {
    /// It does not fail.
    #[error("it runs clean")]
    Clean,
    /// The scenario demands that something happens. Whatever is smaller fails that too, and says less.
    #[error("`{0}`: every smaller run fails that too")]
    Absence(String),
    /// The text is no scenario.
    #[error("{0}")]
    Scenario(String),
}

/// Makes the failing run that `report` tells of smaller, `text` being its scenario's file. Between runs, and
/// during long ones, `goes_on` is asked whether there is time left.
///
/// # Errors
/// [`NotShrunk`].
pub fn shrink(
    text: &str,
    report: Report,
    goes_on: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Shrunk<Report>, NotShrunk> {
    let Some(signature) = Signature::of(&report) else { return Err(NotShrunk::Clean) };
    if report.rule() == Some("expectation") {
        return Err(NotShrunk::Absence(report.what()));
    }
    let mut table: Table = text.parse().map_err(|error| NotShrunk::Scenario(format!("{error}")))?;
    table.remove("repeats");
    let seed = i64::try_from(report.seed).expect("a file's seeds are below 2^63");
    table.insert("seed".into(), Value::Integer(seed));
    let scenario = parse(&table).map_err(NotShrunk::Scenario)?;
    let before = size(&scenario, &report);
    // What has no end is not waited for.
    let events_max = (report.ending == Ending::Violation)
        .then(|| report.totals.events.saturating_mul(4).saturating_add(50_000));
    let mut hunt =
        Hunt { table, report, signature, events_max, runs: 0, left: 0, goes_on, over: false };
    loop {
        let before = hunt.table.clone();
        hunt.fewer_entries();
        hunt.calmer();
        hunt.fewer_nodes();
        if hunt.over || hunt.table == before {
            break;
        }
    }
    let Hunt { table, report, runs, over, .. } = hunt;
    let after = size(&parse(&table).map_err(NotShrunk::Scenario)?, &report);
    Ok(Shrunk { report, text: table.to_string(), before, after, runs, finished: !over })
}

fn parse(table: &Table) -> Result<Scenario, String> {
    Scenario::parse(&table.to_string())
}

fn size(scenario: &Scenario, report: &Report) -> Size {
    let entries = happening(scenario);
    let clients = entries.iter().filter(|entry| entry.is_client()).count();
    Size {
        entries: (entries.len() - clients) as u32,
        operations: clients as u32,
        nodes: scenario.storage.nodes,
        events: report.totals.events,
    }
}

/// The best case so far, and how to look for a better one.
struct Hunt<'a> {
    /// The scenario's file.
    table: Table,
    report: Report,
    signature: Signature,
    events_max: Option<u64>,
    runs: u32,
    left: u32,
    goes_on: &'a mut dyn FnMut(&Progress) -> bool,
    /// The time is over.
    over: bool,
}

impl Hunt<'_> {
    /// Takes what is simpler, if it fails in the same way.
    fn accept(&mut self, table: Table) -> bool {
        if self.over || table == self.table {
            return false;
        }
        let Ok(mut scenario) = parse(&table) else { return false };
        if let Some(most) = self.events_max {
            scenario.storage.events = scenario.storage.events.min(most);
        }
        self.runs += 1;
        let progress = Progress { runs: self.runs, entries: self.left };
        let report = run_while(&scenario, scenario.seed, &mut || (self.goes_on)(&progress));
        self.over = !(self.goes_on)(&progress);
        match report {
            Some(report) if Signature::of(&report).as_ref() == Some(&self.signature) => {
                (self.table, self.report) = (table, report);
                true
            }
            _ => false,
        }
    }

    /// The same with one change in one of the file's tables.
    fn change(&mut self, of: &str, change: impl FnOnce(&mut Table)) -> bool {
        let mut table = self.table.clone();
        let part = table.entry(of).or_insert_with(|| Value::Table(Table::new()));
        let Some(part) = part.as_table_mut() else { return false };
        change(part);
        if part.is_empty() {
            table.remove(of);
        }
        self.accept(table)
    }

    fn set(&mut self, of: &str, key: &str, value: impl Into<Value>) -> bool {
        self.change(of, |table| _ = table.insert(key.to_owned(), value.into()))
    }

    fn number(&self, of: &str, key: &str) -> Option<u32> {
        u32::try_from(self.table.get(of)?.get(key)?.as_integer()?).ok()
    }

    fn fewer_entries(&mut self) {
        let Ok(scenario) = parse(&self.table) else { return };
        let (clients, faults): (Vec<Entry>, Vec<Entry>) =
            happening(&scenario).into_iter().partition(Entry::is_client);
        let faults = minimize(&faults, |some| self.try_only(some, &clients));
        let clients = minimize(&clients, |some| match some {
            // There is nothing without them.
            [] => Some(false),
            some => self.try_only(&faults, some),
        });
        self.left = (faults.len() + clients.len()) as u32;
    }

    fn try_only(&mut self, faults: &[Entry], clients: &[Entry]) -> Option<bool> {
        if self.over {
            return None;
        }
        self.left = (faults.len() + clients.len()) as u32;
        let names = faults.iter().chain(clients).map(|entry| Value::String(entry.to_string()));
        let mut table = self.table.clone();
        table.insert("only".into(), Value::Array(names.collect()));
        let same = table == self.table;
        let holds = same || self.accept(table);
        (!self.over).then_some(holds)
    }

    /// What goes wrong by itself is turned off, and what is set for no reason is left out.
    fn calmer(&mut self) {
        for of in ["network", "disk", "expect"] {
            let mut table = self.table.clone();
            table.remove(of);
            self.accept(table);
        }
        let once = ["region", "forged_claims", "spend_twice", "disputes", "churn", "active_max"];
        let drawn = ["clients_leave", "departs", "drain", "liars_after", "rot_nodes"];
        for key in once.into_iter().chain(drawn) {
            self.change("faults", |table| _ = table.remove(key));
        }
        for key in ["loss", "duplicate", "reorder", "latency"] {
            self.change("network", |table| _ = table.remove(key));
        }
        self.set("network", "latency", "1ms");
        self.set("disk", "torn", "no");
        self.set("storage", "stake", 0);
    }

    fn fewer_nodes(&mut self) {
        for key in ["keepers", "participants", "nodes"] {
            let Some(now) = self.number("storage", key) else { continue };
            smaller(now).find(|less| self.set("storage", key, i64::from(*less)));
        }
    }
}
