//! What a run has drawn: each fault and each client by a name of its own.
//!
//! A scenario says how many there are of a kind, and each draws for itself when it strikes, whom and how. So
//! one that is left out takes nothing from the others, and a failure is what is left: the file's `only`.

use super::scenario::Scenario;
use super::workload;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use toml::{Table, Value};

/// What is drawn by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A node loses its power.
    PowerLoss,
    /// A node's process dies.
    ProcessCrash,
    /// The node that keeps the ledger loses its power while clients ask.
    LedgerLoss,
    /// A sync of a log fails.
    SyncError,
    /// Some nodes are cut off.
    Partition,
    /// A bit of a shard changes.
    Rot,
    /// A node leaves for good, and another one comes.
    Leave,
    /// A node comes, and none leaves for it.
    Join,
    /// A node lies.
    Liar,
    /// A node's disk of shards is slow.
    SlowDisk,
    /// A node says that it has moved more than it has.
    Boaster,
    /// Whoever has read under locks stands still, perhaps until they are somebody else's.
    HolderStall,
    /// Whoever writes under locks loses its power.
    HolderCrash,
    /// A client fetches a file while faults strike.
    Download,
    /// A client wants something.
    Client,
}

const KINDS: [(Kind, &str); 15] = [
    (Kind::PowerLoss, "power-loss"),
    (Kind::ProcessCrash, "process-crash"),
    (Kind::LedgerLoss, "ledger-loss"),
    (Kind::SyncError, "sync-error"),
    (Kind::Partition, "partition"),
    (Kind::Rot, "rot"),
    (Kind::Leave, "leave"),
    (Kind::Join, "join"),
    (Kind::Liar, "liar"),
    (Kind::SlowDisk, "slow-disk"),
    (Kind::Boaster, "boaster"),
    (Kind::HolderStall, "holder-stall"),
    (Kind::HolderCrash, "holder-crash"),
    (Kind::Download, "download"),
    (Kind::Client, "client"),
];

/// One thing that was drawn, such as `power-loss 3`. Faults count from 0, clients from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// What.
    pub kind: Kind,
    /// Which of them.
    pub number: u32,
}

impl Entry {
    /// The one of a kind and a number.
    #[must_use]
    pub fn new(kind: Kind, number: u32) -> Entry {
        Entry { kind, number }
    }

    /// Whether somebody wants it, and it is no fault.
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.kind == Kind::Client
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, word)| word);
        write!(f, "{word} {}", self.number)
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Entry, String> {
        let words: Vec<&str> = KINDS.iter().map(|(_, word)| *word).collect();
        let (word, number) = text.split_once(' ').unwrap_or((text, ""));
        let Some((kind, _)) = KINDS.iter().find(|(_, known)| *known == word) else {
            let near = crate::nearest(word, &words).map(|near| format!(": did you mean {near}?"));
            let all = || format!(": expected one of {}", words.join(", "));
            return Err(format!(
                "nothing that is drawn is called `{word}`{}",
                near.unwrap_or_else(all)
            ));
        };
        let number = number.parse().map_err(|_| format!("expected a number behind `{word}`"))?;
        Ok(Entry { kind: *kind, number })
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// All that a scenario draws, ascending.
#[must_use]
pub fn drawn(scenario: &Scenario) -> Vec<Entry> {
    let faults = &scenario.faults;
    let counts = [
        (Kind::PowerLoss, faults.power_losses),
        (Kind::ProcessCrash, faults.process_crashes),
        (Kind::LedgerLoss, faults.ledger_losses),
        (Kind::SyncError, faults.sync_errors),
        (Kind::Partition, faults.partitions),
        (Kind::Rot, faults.rot),
        (Kind::Leave, leaving(scenario)),
        (Kind::Join, faults.joins),
        (Kind::Liar, faults.liars),
        (Kind::SlowDisk, faults.slow_disks.min(scenario.storage.nodes)),
        (Kind::Boaster, faults.boasters.min(scenario.storage.nodes - 1)),
        (Kind::HolderStall, faults.holder_stalls),
        (Kind::HolderCrash, faults.holder_crashes),
        (Kind::Download, scenario.storage.downloads),
    ];
    let faults =
        counts.into_iter().flat_map(|(kind, count)| (0..count).map(move |n| Entry::new(kind, n)));
    let clients = (1..).zip(workload::wants_first(scenario));
    faults.chain(clients.map(|(number, _)| Entry::new(Kind::Client, number))).collect()
}

/// What is drawn of a scenario and happens, ascending.
#[must_use]
pub fn happening(scenario: &Scenario) -> Vec<Entry> {
    let mut entries = scenario.only.clone().unwrap_or_else(|| drawn(scenario));
    entries.sort_unstable();
    entries
}

/// The file `text` of a scenario, changed so that just these entries happen: they are its `only`, and of each kind as
/// many are drawn as there have to be. What was drawn before is drawn as it was.
///
/// # Errors
/// What is wrong with that scenario, such as a client that wants nothing.
pub fn just(text: &str, entries: &[Entry]) -> Result<Table, String> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let scenario = Scenario::parse(text)?;
    let drawn = drawn(&scenario);
    for entry in entries.iter().filter(|entry| drawn.binary_search(entry).is_err()) {
        let (of, key, before) = match entry.kind {
            Kind::PowerLoss => ("faults", "power_losses", 0),
            Kind::ProcessCrash => ("faults", "process_crashes", 0),
            Kind::LedgerLoss => ("faults", "ledger_losses", 0),
            Kind::SyncError => ("faults", "sync_errors", 0),
            Kind::Partition => ("faults", "partitions", 0),
            Kind::Rot => ("faults", "rot", 0),
            // Some leave by the share of all that does.
            Kind::Leave => ("faults", "leaves", leaving(&scenario) - scenario.faults.leaves),
            Kind::Join => ("faults", "joins", 0),
            Kind::Liar => ("faults", "liars", 0),
            Kind::SlowDisk => ("faults", "slow_disks", 0),
            Kind::Boaster => ("faults", "boasters", 0),
            Kind::HolderStall => ("faults", "holder_stalls", 0),
            Kind::HolderCrash => ("faults", "holder_crashes", 0),
            Kind::Download => ("storage", "downloads", 0),
            // What clients want is what the scenario is about.
            Kind::Client => return Err(format!("`{entry}` is not drawn")),
        };
        let part = table.entry(of).or_insert_with(|| Value::Table(Table::new()));
        let part = part.as_table_mut().ok_or_else(|| format!("{of}: expected a table"))?;
        let most = i64::from(entry.number - before.min(entry.number)) + 1;
        let now = part.get(key).and_then(Value::as_integer).unwrap_or(0);
        part.insert(key.to_owned(), Value::Integer(most.max(now)));
    }
    let names = entries.iter().map(|entry| Value::String(entry.to_string())).collect();
    table.insert("only".to_owned(), Value::Array(names));
    Scenario::parse(&table.to_string())?;
    Ok(table)
}

/// How many nodes leave.
#[must_use]
pub fn leaving(scenario: &Scenario) -> u32 {
    let parts = u64::from(scenario.faults.churn.0.parts_per_million());
    let hours = scenario.storage.lasts.0.as_nanos() as u64 / 1_000_000_000;
    let by_share = u64::from(scenario.storage.nodes) * parts * hours / 3_600 / 1_000_000;
    u32::try_from(by_share).unwrap_or(u32::MAX).saturating_add(scenario.faults.leaves)
}

/// Those of the drawn entries that are to happen.
#[derive(Clone, Debug, Default)]
pub struct Plan(Option<BTreeSet<Entry>>);

impl Plan {
    /// The plan of a scenario: all that it draws, or what its `only` names.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Plan {
        Plan(scenario.only.as_ref().map(|only| only.iter().copied().collect()))
    }

    /// The numbers of a kind that happen, of so many that are drawn.
    #[must_use]
    pub fn numbers(&self, kind: Kind, count: u32) -> Vec<u32> {
        (0..count).filter(|number| self.has(kind, *number)).collect()
    }

    /// Whether an entry happens.
    #[must_use]
    pub fn has(&self, kind: Kind, number: u32) -> bool {
        self.0.as_ref().is_none_or(|only| only.contains(&Entry { kind, number }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for (kind, _) in KINDS {
            let entry = Entry::new(kind, 17);
            assert_eq!(entry.to_string().parse(), Ok(entry));
        }
        let error = |text: &str| text.parse::<Entry>().unwrap_err();
        assert!(error("powerloss 3").ends_with("did you mean power-loss?"));
        assert!(error("nonsense").contains("expected one of power-loss, process-crash"));
        assert_eq!(error("rot"), "expected a number behind `rot`");
        assert_eq!(error("rot x"), "expected a number behind `rot`");
    }
}
