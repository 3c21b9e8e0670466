//! What came out of a run of a world of storage nodes.

use super::judge::Finding;
use super::world::Ending;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Counts of one run.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Events that happened.
    pub events: u64,
    /// Messages that arrived.
    pub messages: u64,
    /// Bytes of storage messages that were sent.
    pub sent_bytes: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Power losses and crashes.
    pub crashes: u64,
    /// Other faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Nodes that are up at the end, and that have left.
    pub nodes: (u64, u64),
    /// Answers of clients, by kind.
    pub answers: BTreeMap<&'static str, u64>,
    /// Files that were stored, and how many of them were fetched and compared at the end.
    pub files: (u64, u64),
    /// Shards that were rebuilt and read again, and stripes that were given up.
    pub repaired: (u64, u64),
    /// Why: no good shards, no place, a manifest that does not fit.
    pub gave_up: [u64; 3],
    /// Bytes that repairs moved, and the fewest that they could have.
    pub repair_bytes: (u64, u64),
    /// Shards that lay in the wrong place and were moved, moves that came to nothing, and the bytes of both.
    pub moved: (u64, u64, u64),
    /// Files that were given another scheme, how often that came to nothing, and the bytes of both.
    pub reencoded: (u64, u64, u64),
    /// How many files have which scheme at the end.
    pub schemes: BTreeMap<String, u64>,
    /// At the end: in how many regions the stripe is that is in the fewest, and how much fuller the fullest
    /// node is than the emptiest one, in percent of what each can store.
    pub spread: (u64, u64),
    /// Promises to coordinators that were gone, and that were kept.
    pub orphans: u64,
    /// Of these, since most keepers were known to be in doubt, or another participant had kept its own.
    pub orphans_shared: u64,
    /// Participants that decided transactions do not wait for any more, since they are gone for good.
    pub given_up: u64,
    /// Versions of records that became current by repairs, and that did not.
    pub versions: (u64, u64),
    /// Proofs that ended, and that passed.
    pub proofs: (u64, u64),
    /// Shards that were read again, and that were bad.
    pub checked: (u64, u64),
    /// Operators with their whole stake behind them or in escrow.
    pub staked: u64,
    /// Slashes without a decision, and decided ones.
    pub escrows: (u64, u64),
    /// Regions with nodes, and how many nodes would first ask one in their own, in percent.
    pub regions: (u64, u64),
    /// How often repairs and downloads chose whom to ask, and by how many microseconds these were slower than the
    /// fastest that could have been asked; and whom the static score would have chosen.
    pub regret: (u64, u64, u64),
    /// Downloads while faults struck, how long they took together, and the slowest.
    pub downloads: (u64, Duration, Duration),
    /// Requests for bytes that were sent, had to wait for their turn, were refused since too many waited, and were not
    /// answered in time.
    pub fetches: (u64, u64, u64, u64),
    /// Bytes of transfers that count by what both ends say, and all that were moved.
    pub carried: (u64, u64),
    /// The same when all had come to rest, before files were fetched at the end.
    pub reconciled: (u64, u64),
    /// Values that were written under locks, and writes that were refused since a higher token was seen.
    pub guarded: (u64, u64),
    /// Transfers whose ends did not say the same, and of which one end said nothing.
    pub disputed: (u64, u64),
    /// Bytes that shards take, and that there is room for.
    pub space: (u64, u64),
    /// Shards and records that their holders let go, since nobody needed them.
    pub let_go: u64,
    /// Nodes that left in order, and how many seconds the slowest took.
    pub drained: (u64, u64),
    /// What lies on disks at the end without a current record that names it: shards and records, and bytes.
    pub left: (u64, u64),
    /// Units by kind of account.
    pub units: BTreeMap<&'static str, u64>,
}

/// How well the network is, by its authority, and which scheme it recommends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The tier's name.
    pub tier: String,
    /// The scheme.
    pub scheme: String,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub ending: Ending,
    /// What a judge found.
    pub finding: Option<Finding>,
    /// An expectation that was not met.
    pub unmet: Option<String>,
    /// Counts.
    pub totals: Totals,
    /// The network's health.
    pub health: Option<Health>,
    /// The hash of everything that happened.
    pub hash: u128,
}

impl Report {
    /// In a word.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (&self.finding, self.ending, &self.unmet) {
            (Some(_), ..) => "violation",
            (_, Ending::NoProgress, _) => "no progress",
            (.., Some(_)) => "expectation",
            _ => "clean",
        }
    }

    /// What was wrong.
    #[must_use]
    pub fn what(&self) -> String {
        match (&self.finding, &self.unmet) {
            (Some(finding), _) => {
                format!("{} at {}: {}", finding.rule, finding.at, finding.what)
            }
            (None, Some(unmet)) => unmet.clone(),
            (None, None) => String::new(),
        }
    }

    /// The rule that was violated, or `no progress`, or `expectation`; `None`: it ran clean.
    #[must_use]
    pub fn rule(&self) -> Option<&'static str> {
        match (&self.finding, self.ending, &self.unmet) {
            (Some(finding), ..) => Some(finding.rule),
            (_, Ending::NoProgress, _) => Some("no progress"),
            (.., Some(_)) => Some("expectation"),
            _ => None,
        }
    }

    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict() {
            "clean" => 0,
            "no progress" => 2,
            _ => 1,
        }
    }

    /// It as a table.
    #[must_use]
    pub fn table(&self, seconds: Duration) -> String {
        let t = &self.totals;
        let list = |counts: &BTreeMap<&'static str, u64>| -> String {
            let parts: Vec<String> =
                counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
        };
        let health = self.health.as_ref().map_or_else(
            || "not reported".to_owned(),
            |health| format!("{}; new files as {}", health.tier, health.scheme),
        );
        let mut rows = vec![
            ("processor time", format!("{:.2} s", seconds.as_secs_f64())),
            ("nodes", format!("{} up, {} gone, in {} regions", t.nodes.0, t.nodes.1, t.regions.0)),
            ("simulated", format!("{:.1} s", t.simulated.as_secs_f64())),
            ("events", format!("{}, {} messages arrived", t.events, t.messages)),
            ("faults", format!("{} crashes, {}", t.crashes, list(&t.faults))),
            ("clients", list(&t.answers)),
            ("files", format!("{} stored, {} fetched and compared", t.files.0, t.files.1)),
            ("proofs", format!("{} of {} passed", t.proofs.1, t.proofs.0)),
            ("scrubbed", format!("{} shards read again, {} bad", t.checked.0, t.checked.1)),
            (
                "repaired",
                format!(
                    "{} shards rebuilt and verified by a re-scrub, {} stripes given up {:?}, {} records \
                     turned, {} not; {} promises kept to coordinators that are gone, {} of them since most \
                     keepers were in doubt; {} participants that are gone for good waited for no more",
                    t.repaired.0,
                    t.repaired.1,
                    t.gave_up,
                    t.versions.0,
                    t.versions.1,
                    t.orphans,
                    t.orphans_shared,
                    t.given_up
                ),
            ),
            (
                "repair traffic",
                format!("{} bytes; at least {} were needed", t.repair_bytes.0, t.repair_bytes.1),
            ),
            (
                "moved",
                format!(
                    "{} shards that lay in the wrong place, {} not; {} bytes; each stripe in {} regions at \
                     least, the fullest node {} % fuller than the emptiest",
                    t.moved.0, t.moved.1, t.moved.2, t.spread.0, t.spread.1
                ),
            ),
            (
                "encoded anew",
                format!(
                    "{} files, {} not; {} bytes; at the end: {}",
                    t.reencoded.0,
                    t.reencoded.1,
                    t.reencoded.2,
                    match t.schemes.len() {
                        0 => "none".to_owned(),
                        _ => t
                            .schemes
                            .iter()
                            .map(|(scheme, files)| format!("{files} {scheme}"))
                            .collect::<Vec<String>>()
                            .join(", "),
                    }
                ),
            ),
            ("left in order", format!("{} nodes, in {} s at most", t.drained.0, t.drained.1)),
            (
                "left behind",
                format!(
                    "{} shards and records of {} bytes; {} let go by their holders",
                    t.left.0, t.left.1, t.let_go
                ),
            ),
            (
                "routing",
                format!(
                    "{} % of the nodes first ask one in their own region; of {} choices by reads the regret is \
                     {} ms, by the static score {} ms",
                    t.regions.1,
                    t.regret.0,
                    t.regret.1 / 1_000,
                    t.regret.2 / 1_000
                ),
            ),
            (
                "reads",
                format!(
                    "{} downloads while faults struck, in {} ms on the average and {} ms at most; {} requests for \
                     bytes, {} waited for their turn, {} refused, {} late",
                    t.downloads.0,
                    (t.downloads.1.as_millis() as u64).checked_div(t.downloads.0).unwrap_or(0),
                    t.downloads.2.as_millis(),
                    t.fetches.0,
                    t.fetches.1,
                    t.fetches.2,
                    t.fetches.3
                ),
            ),
            (
                "locks",
                format!(
                    "{} values written under them; {} writes refused: a higher token was seen",
                    t.guarded.0, t.guarded.1
                ),
            ),
            (
                "bandwidth",
                format!(
                    "{} of {} bytes reconciled by what both ends say; {} transfers disputed, {} unconfirmed",
                    t.carried.0, t.carried.1, t.disputed.0, t.disputed.1
                ),
            ),
            ("health", health),
        ];
        if !t.units.is_empty() {
            rows.push(("ledger", list(&t.units)));
            rows.push((
                "at stake",
                format!(
                    "{} operators with all of theirs; slashes: {} pending, {} decided",
                    t.staked, t.escrows.0, t.escrows.1
                ),
            ));
        }
        rows.push(("verdict", self.verdict().to_owned()));
        if self.verdict() != "clean" {
            rows.push(("", self.what()));
        }
        rows.push(("run hash", format!("{:032x}", self.hash)));
        let mut text = format!("{}: seed {}\n", self.scenario, self.seed);
        for (name, value) in rows {
            text.push_str(&format!("  {name:<19} {value}\n"));
        }
        text
    }

    /// It as one line of JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let t = &self.totals;
        json!({
            "scenario": self.scenario,
            "seed": self.seed,
            "verdict": self.verdict(),
            "violation": self.what(),
            "hash": format!("{:032x}", self.hash),
            "events": t.events,
            "messages": t.messages,
            "simulated_ms": t.simulated.as_millis() as u64,
            "crashes": t.crashes,
            "faults": t.faults,
            "answers": t.answers,
            "stored": t.files.0,
            "fetched": t.files.1,
            "repaired": t.repaired.0,
            "gave_up": t.repaired.1,
            "repair_bytes": t.repair_bytes.0,
            "repair_bytes_min": t.repair_bytes.1,
            "guarded": t.guarded.0,
            "fenced": t.guarded.1,
            "downloads": t.downloads.0,
            "download_ms": t.downloads.1.as_millis() as u64,
            "fetches": t.fetches.0,
            "fetches_waited": t.fetches.1,
            "fetches_late": t.fetches.3,
            "moved": t.moved.0,
            "moved_bytes": t.moved.2,
            "orphans": t.orphans,
            "orphans_shared": t.orphans_shared,
            "given_up": t.given_up,
            "reencoded": t.reencoded.0,
            "reencoded_bytes": t.reencoded.2,
            "left": t.left.0,
            "escrows": t.escrows.0,
        })
    }
}
