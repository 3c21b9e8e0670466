//! Scenario files: what is simulated, what goes wrong, and what is expected, in TOML.
//!
//! An error names the file, the line and the column, what was expected, and the nearest valid word.

mod checks;
mod errors;
mod faults;
mod values;

use crate::plan::Fault;
use crate::swarm::Swarm;
use checks::{Wrong, check_format};
pub use errors::{ScenarioError, nearest};
use errors::{in_words, printable, shown, suggestion};
pub use faults::FaultEntry;
use miette::NamedSource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;
use values::file_name;
pub use values::{Between, Latency, Share, Span};

/// The version of the format that this code reads.
pub const FORMAT: u32 = 1;

/// A whole scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The format's version.
    pub format: Spanned<u32>,
    /// Its name.
    #[serde(deserialize_with = "file_name")]
    pub name: String,
    /// What it shows, for people.
    #[serde(default)]
    pub about: String,
    /// The seed that it runs with if none is given.
    #[serde(default = "one")]
    pub seed: u64,
    /// The version of the randomness that its seed was found with; a build of another one refuses it.
    #[serde(default)]
    pub derivation: Option<Spanned<u32>>,
    /// The nodes.
    pub cluster: Cluster,
    /// What clients ask for.
    pub workload: Workload,
    /// The network.
    #[serde(default)]
    pub network: Network,
    /// The disks.
    #[serde(default)]
    pub disk: Disk,
    /// The clocks.
    #[serde(default)]
    pub clock: Clocks,
    /// Time-outs and limits of the nodes.
    #[serde(default)]
    pub node: NodeTimes,
    /// Faults drawn at random from the seed.
    #[serde(default)]
    pub chaos: Chaos,
    /// Of which settings each seed draws how strong they are.
    #[serde(default)]
    pub swarm: Swarm,
    /// Faults by name.
    #[serde(default)]
    pub fault: Vec<Spanned<FaultEntry>>,
    /// How long everything may take once faults are healed.
    #[serde(default)]
    pub liveness: Liveness,
    /// What has to come out.
    #[serde(default)]
    pub expect: Expect,
    /// When to give up.
    #[serde(default)]
    pub budget: Budget,
    /// In a file that repeats a failure: what it repeats.
    #[serde(default)]
    pub repeats: Option<Repeats>,
}

fn one() -> u64 {
    1
}

/// `[cluster]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// How many nodes; each takes part in transactions and runs steps.
    pub nodes: Spanned<u32>,
    /// How many of them coordinate: the first ones.
    #[serde(default = "one_spanned")]
    pub coordinators: Spanned<u32>,
    /// Over how many regions they are spread, in turn.
    #[serde(default = "one_spanned")]
    pub regions: Spanned<u32>,
}

fn one_spanned() -> Spanned<u32> {
    Spanned::new(0..0, 1)
}

/// What kind of operation clients ask for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Sagas.
    Saga,
    /// Transactions.
    Twopc,
    /// Both in turn.
    Mixed,
}

/// How a saga's steps hang together.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// In a row.
    #[default]
    Row,
    /// All but the last at once, then the last.
    Join,
    /// Any graph.
    Random,
}

/// `[workload]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// What clients ask for.
    pub kind: Kind,
    /// How many operations.
    pub operations: Spanned<u32>,
    /// Participants of a transaction.
    #[serde(default = "three_spanned")]
    pub participants: Spanned<u32>,
    /// Steps of a saga.
    #[serde(default = "three_spanned")]
    pub steps: Spanned<u32>,
    /// How they hang together.
    #[serde(default)]
    pub shape: Shape,
    /// How many operations are under way at once, over all coordinators.
    #[serde(default = "sixteen")]
    pub in_flight: Spanned<u32>,
    /// How often a participant cannot do its part of a transaction.
    #[serde(default)]
    pub vote_no: Share,
    /// How often a transaction has one participant only.
    #[serde(default)]
    pub alone: Share,
    /// How often a participant of a transaction has nothing to change.
    #[serde(default)]
    pub looks: Share,
    /// How often a step cannot be done.
    #[serde(default)]
    pub refuse: Share,
    /// Whether sagas have pivots, retriable and read-only steps.
    #[serde(default)]
    pub kinds: bool,
    /// How often a step gives something, and how often one takes it.
    #[serde(default)]
    pub feeds: Share,
    /// How often a step's compensation fails whenever it is called: an operator has to see to it.
    #[serde(default)]
    pub stuck: Share,
    /// How often a step is a transaction or a saga of its own, of which steps may be so too. Steps that give or
    /// take something, or only look, are none.
    #[serde(default)]
    pub nests: Share,
    /// How often an operator who looks, four times a second, ends a branch of a transaction that has promised
    /// and waits for its outcome: to commit or to abort, as it is drawn.
    #[serde(default)]
    pub forces: Share,
    /// How often a client cancels what it has asked for.
    #[serde(default)]
    pub cancels: Share,
    /// How often a client that was answered asks again, now and after each restart of its coordinator:
    /// with the same request, or with another one under the same key.
    #[serde(default)]
    pub asks_again: Share,
    /// The most cells that one piece of work changes.
    #[serde(default = "one_spanned")]
    pub changes: Spanned<u32>,
    /// Cells of each node that the operations touch: the fewer, the more they get in each other's
    /// way.
    #[serde(default = "cells")]
    pub cells: Spanned<u32>,
    /// The operations come in waves of these sizes; the next begins when the one before has ended
    /// everywhere.
    #[serde(default = "no_waves")]
    pub waves: Spanned<Vec<u32>>,
    /// Of the operations only these are asked for, by number from 0; none listed: all of them. An
    /// operation is what it is without the others, so that a failure can be repeated with those that
    /// matter.
    #[serde(default = "no_waves")]
    pub only: Spanned<Vec<u32>>,
}

fn no_waves() -> Spanned<Vec<u32>> {
    Spanned::new(0..0, Vec::new())
}

fn three_spanned() -> Spanned<u32> {
    Spanned::new(0..0, 3)
}

fn sixteen() -> Spanned<u32> {
    Spanned::new(0..0, 16)
}

fn cells() -> Spanned<u32> {
    Spanned::new(0..0, 1_000)
}

/// `[network]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// How long messages travel.
    pub latency: Latency,
    /// How many are lost.
    pub loss: Share,
    /// How many come twice.
    pub duplicate: Share,
    /// How many are overtaken: they take up to ten times as long.
    pub reorder: Share,
}

impl Default for Network {
    fn default() -> Self {
        let latency = Latency::Range(Between(Duration::from_millis(1), Duration::from_millis(10)));
        let (loss, duplicate, reorder) = Default::default();
        Network { latency, loss, duplicate, reorder }
    }
}

/// How an unsynced write may end when the power fails, besides being kept whole.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Torn {
    /// Whole or not at all.
    No,
    /// Cut at a byte.
    Byte,
    /// Each sector for itself.
    Sector,
    /// Either.
    Both,
}

/// Which faults disks have.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DiskMode {
    /// Only those that the protocol promises to survive.
    #[default]
    Atlas,
    /// Those too that it only promises to notice: whether everything ends is not asked.
    Unrestricted,
}

/// Which judges watch.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Invariants {
    /// All of them.
    #[default]
    All,
}

/// `[disk]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Which faults it has.
    pub mode: DiskMode,
    /// How long a sync takes.
    pub sync: Between,
    /// How unsynced writes may be torn.
    pub torn: Torn,
    /// Whether unsynced writes and names may be lost.
    pub lost_unsynced: bool,
    /// The first segment's size, in bytes; they double up to `segment_bytes_max`.
    pub segment_bytes_first: Spanned<u64>,
    /// The largest segment's size, in bytes.
    pub segment_bytes_max: u64,
    /// The longest batch, in bytes. What is written together is cut into several where it is longer.
    pub batch_bytes_max: u32,
    /// Records between two checkpoint markers.
    pub checkpoint_interval: u64,
    /// From so many records on a log is compacted.
    pub max_records: u64,
    /// What nobody waits for is written after this long, and an idle log says how far it is synced.
    pub idle_guard: Span,
}

impl Default for Disk {
    fn default() -> Self {
        Disk {
            mode: DiskMode::Atlas,
            sync: Between(Duration::from_micros(200), Duration::from_millis(5)),
            torn: Torn::Both,
            lost_unsynced: true,
            segment_bytes_first: Spanned::new(0..0, 32 << 10),
            segment_bytes_max: 32 << 10,
            batch_bytes_max: 16 << 10,
            checkpoint_interval: 1_000,
            max_records: 10_000,
            idle_guard: Span(Duration::from_millis(20)),
        }
    }
}

impl Disk {
    /// How logs are kept on it: in small segments, so that a run sees many of them.
    #[must_use]
    pub fn log(&self) -> wal_core::Config {
        wal_core::Config {
            max_payload: self.batch_bytes_max / 2,
            max_records: self.max_records,
            batch_bytes_max: self.batch_bytes_max,
            buffered_bytes_max: 256 << 10,
            segment_bytes_first: *self.segment_bytes_first.get_ref(),
            segment_bytes_max: self.segment_bytes_max,
            checkpoint_interval: self.checkpoint_interval,
            idle_guard_after: self.idle_guard.0,
            ..wal_core::Config::default()
        }
    }

    /// How unsynced writes may end.
    #[must_use]
    pub fn fates(&self) -> crate::disk::Fates {
        crate::disk::Fates {
            lost: self.lost_unsynced,
            cut: matches!(self.torn, Torn::Byte | Torn::Both),
            torn: matches!(self.torn, Torn::Sector | Torn::Both),
        }
    }
}

/// `[clock]`: how far nodes' clocks are from the world's time.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clocks {
    /// The most by which a calendar is off, either way.
    pub offset: Span,
    /// The most by which a clock runs faster or slower, in millionths, up to 500000.
    pub drift_ppm: u32,
}

/// `[node]`: shorter than the specification's defaults, so that a run shows what happens after
/// them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeTimes {
    /// What is owed and unanswered is sent again after this long.
    pub resend: Span,
    /// A transaction without all votes is aborted after this long.
    pub prepare_timeout: Span,
    /// A step without an answer counts as failed after this long.
    pub step_timeout: Span,
    /// A saga that is not done is compensated after this long.
    pub saga_timeout: Span,
    /// A promise without an outcome is asked about after this long.
    pub inquire: Span,
    /// A compensation that failed so often waits for an operator; 0: never.
    pub undo_attempts: u32,
    /// By up to so many hundredths each wait is cut at random.
    pub jitter_percent: u32,
}

impl Default for NodeTimes {
    fn default() -> Self {
        NodeTimes {
            resend: Span(Duration::from_millis(500)),
            prepare_timeout: Span(Duration::from_secs(5)),
            step_timeout: Span(Duration::from_secs(20)),
            saga_timeout: Span(Duration::from_secs(60)),
            inquire: Span(Duration::from_secs(1)),
            undo_attempts: 0,
            jitter_percent: 0,
        }
    }
}

/// `[chaos]`: how many faults of each kind are drawn, at moments in the window.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chaos {
    /// Power losses of coordinators' nodes, each between two outputs.
    pub coordinator_crashes: u32,
    /// How many of those are hit again while they recover, up to three deep.
    pub recovery_crashes: u32,
    /// Power losses of other nodes.
    pub participant_crashes: u32,
    /// Power losses of any nodes while one of their logs is compacted.
    pub compaction_crashes: u32,
    /// Crashes of processes whose page cache survives.
    pub process_crashes: u32,
    /// Coordinators' processes that stop, are replaced, and come back.
    pub zombies: u32,
    /// Processes that stop and go on.
    pub pauses: u32,
    /// Partitions.
    pub partitions: u32,
    /// Times in which one kind of message is lost.
    pub drops: u32,
    /// Moments at which every partition and drop ends.
    pub heals: u32,
    /// Syncs that fail.
    pub sync_errors: u32,
    /// Writes that fail, half of them after a part was written.
    pub write_errors: u32,
    /// Times in which a disk cannot be read.
    pub read_errors: u32,
    /// Times in which a disk is full.
    pub disks_full: u32,
    /// Times in which a disk's syncs are not done.
    pub stalls: u32,
    /// Bits that change of what is durable: only where `mode` in `[disk]` is `unrestricted`.
    pub bit_rot: u32,
    /// Times at which a clock goes forward at once.
    pub clock_jumps: u32,
    /// Sectors of what is durable that read as zeros, …
    pub zeroed_sectors: u32,
    /// … or as they were before they were written last, …
    pub stale_sectors: u32,
    /// … or that were written over another, all three only where `mode` is `unrestricted`.
    pub misdirected_writes: u32,
    /// Times in which links deliver nothing, after which they deliver everything.
    pub clogs: u32,
    /// Syncs of recoveries that fail.
    pub recovery_sync_errors: u32,
    /// Times in which there is no room for a log's next segment, and the node knows.
    pub logs_confined: u32,
    /// When faults begin: between these two moments.
    pub window: Between,
    /// How long nodes are down, partitions last, …
    pub lasts: Between,
}

impl Default for Chaos {
    fn default() -> Self {
        Chaos {
            coordinator_crashes: 0,
            recovery_crashes: 0,
            participant_crashes: 0,
            compaction_crashes: 0,
            process_crashes: 0,
            zombies: 0,
            pauses: 0,
            partitions: 0,
            drops: 0,
            heals: 0,
            sync_errors: 0,
            write_errors: 0,
            read_errors: 0,
            disks_full: 0,
            stalls: 0,
            bit_rot: 0,
            clock_jumps: 0,
            zeroed_sectors: 0,
            stale_sectors: 0,
            misdirected_writes: 0,
            clogs: 0,
            recovery_sync_errors: 0,
            logs_confined: 0,
            window: Between(Duration::ZERO, Duration::from_secs(5)),
            lasts: Between(Duration::from_millis(10), Duration::from_secs(2)),
        }
    }
}

/// `[liveness]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Liveness {
    /// Once faults are over and healed, everything ends within this time.
    pub budget: Span,
    /// When the world heals, and faults that have not struck strike no more.
    pub heals: Heals,
}

/// When the world heals.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Heals {
    /// Once every client has its answer, or no fault is left that could strike in time.
    #[default]
    Answered,
    /// Once nothing is owed either and every log is durable to its last record, so that a fault may
    /// wait for an operation's very last step.
    Rest,
}

impl Default for Liveness {
    fn default() -> Self {
        Liveness { budget: Span(Duration::from_secs(120)), heals: Heals::default() }
    }
}

/// `[expect]`; every bound is of the whole run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Which invariants hold throughout.
    pub invariants: Invariants,
    /// Transactions that clients heard were committed: exactly, …
    pub committed: Option<u64>,
    /// … or at least.
    pub min_committed: Option<u64>,
    /// Transactions that clients heard were aborted.
    pub aborted: Option<u64>,
    /// Sagas that clients heard were completed: exactly, …
    pub completed: Option<u64>,
    /// … or at least.
    pub min_completed: Option<u64>,
    /// Sagas that clients heard were compensated.
    pub compensated: Option<u64>,
    /// What the coordinators' recoveries found to do, by the names of the actions: exactly.
    pub recovered: Option<Spanned<BTreeMap<String, u64>>>,
    /// Corrupted records in all recoveries.
    pub corrupted: Option<u64>,
    /// Checkpoint markers that the last coordinator's recovery found.
    pub checkpoints: Option<u64>,
    /// Crashes of coordinators, at least.
    pub min_coordinator_crashes: Option<u64>,
    /// Crashes while recovering, at least.
    pub min_recovery_crashes: Option<u64>,
    /// Conditions that have to come up at least once.
    pub sometimes: Vec<Spanned<String>>,
}

/// `[budget]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Events in all, those that still wait included.
    pub events: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { events: 10_000_000 }
    }
}

/// `[repeats]`: what a failure file repeats.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Repeats {
    /// The derivation of randomness that it was made with.
    pub derivation: u32,
    /// The rule that was violated, or the expectation that was not met: its key, such as
    /// `expect.committed`, or which named fault never struck.
    pub invariant: String,
    /// The event at which it was.
    pub event: u64,
    /// Entries of the plan that were drawn and did not strike then either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<u32>,
}

impl Scenario {
    /// Reads a scenario; `name` is what errors call the file.
    ///
    /// # Errors
    /// [`ScenarioError`], with the place.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let error = |wrong: Wrong| ScenarioError {
            label: if wrong.message.starts_with("unknown") { "not known here" } else { "here" }
                .to_owned(),
            message: printable(&wrong.message),
            source_code: Arc::new(NamedSource::new(name, shown(text))),
            span: Some(wrong.place.into()),
            help: wrong.help,
        };
        // Before anything else: of another format every key may be another.
        check_format(text).map_err(error)?;
        let scenario: Scenario = toml::from_str(text).map_err(|found| {
            error(Wrong {
                message: in_words(found.message()),
                place: found.span().unwrap_or(0..0),
                help: suggestion(found.message()),
            })
        })?;
        scenario.check(text).map_err(error)?;
        Ok(scenario)
    }

    /// The faults that are named in the file.
    ///
    /// # Panics
    /// Never for a scenario that was parsed: they were checked then.
    #[must_use]
    pub fn named_faults(&self) -> Vec<Fault> {
        // In a failure file every fault is named, those too that were drawn from the seed. Of these
        // the ones that never struck did not matter then and need not now.
        let idle = self.repeats.as_ref().map_or(&[][..], |repeats| &repeats.idle);
        let entries = (0..).zip(&self.fault);
        entries
            .map(|(number, entry)| {
                let fault = entry.get_ref().fault().expect("faults were checked when parsed");
                Fault { named: !idle.contains(&number), ..fault }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::faults::{Group, When};
    use super::*;
    use miette::{Diagnostic, NarratableReportHandler};

    const GOOD: &str = r#"
format = 1
name = "good"
[cluster]
nodes = 5
regions = 2
[workload]
kind = "mixed"
operations = 10
participants = 3
[[fault]]
on = "append(tx_commit_start)#3@n0"
kind = "power-loss"
down = "20ms"
"#;

    fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse("scenario.toml", text)
    }

    /// The good scenario with `from` replaced by `to` is refused at `place`, with these words.
    fn check(from: &str, to: &str, place: &str, words: &[&str]) {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replace(from, to);
        let error = parse(&text).expect_err(to);
        let span = error.span.unwrap_or_else(|| panic!("{error} has no place"));
        let found = &text[span.offset()..span.offset() + span.len()];
        assert!(found.contains(place), "{error}: at {found:?}, not {place:?}");
        let mut said = String::new();
        NarratableReportHandler::new()
            .render_report(&mut said, &error as &dyn Diagnostic)
            .expect("a report prints");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        assert!(said.contains("scenario.toml"), "{said}");
    }

    #[test]
    fn an_error_names_the_place_what_was_expected_and_the_nearest_word() {
        parse(GOOD).expect("it is good");
        check("regions", "regoins", "regoins", &["line 6", "did you mean `regions`?"]);
        check("[workload]", "[wrokload]", "wrokload", &["did you mean `workload`?"]);
        check("= 5", "= \"5\"", "\"5\"", &["expected a whole number from 0"]);
        check("= 5", "= -5", "-5", &["-5"]);
        check("participants = 3", "participants = 6", "6", &["1 to 5 participants"]);
        check("regions = 2", "regions = 10", "10", &["1 to 9 regions"]);
        check("operations = 10", "operations = 0", "0", &["from 1 to"]);
        check("operations = 10", "operations = 10\nwaves = [3, 3]", "[3, 3]", &["6 operations"]);
        check("\"mixed\"", "\"mixd\"", "mixd", &["did you mean `mixed`?"]);
        check("power-loss", "powerloss", "powerloss", &["did you mean `power-loss`?"]);
        check("tx_commit_start", "tx_comit", "tx_comit", &["unknown event"]);
        check("append(", "apend(", "apend", &["did you mean `append`?"]);
        check("#3", "#0", "#0", &["the first one is #1"]);
        check("@n0", "@n5", "", &["n0 to n4"]);
        check("20ms", "20", "20", &["no length of time"]);
        check("down = \"20ms\"", "", "[[fault]]", &["a power-loss needs `down`"]);
        check("down = \"20ms\"", "down = \"1s\"\nagain = [1, 2, 3, 4]", "", &["at most three"]);
        check("format = 1", "format = 2", "2", &["reads format 1"]);
        check("[cluster]", "[cluster", "", &[]);
        check("name = \"good\"", "", "", &["missing field `name`"]);
    }

    #[test]
    fn times_and_groups_print_as_they_parse() {
        for text in ["1ns", "20ms", "1500us", "3s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("1.5s".parse::<Span>().unwrap().to_string(), "1500ms");
        for text in ["", "s", "1", "1d", "-1s", "1.s.", "99999999999s", "1ms.."] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for text in ["rest", "region:3", "n0", "n3,n4"] {
            assert_eq!(text.parse::<Group>().unwrap().to_string(), text);
        }
        for text in ["append(tx_prepared)#3@n4", "send(ack)#1@n0", "recovery#2@n7"] {
            assert_eq!(text.parse::<When>().unwrap().to_string(), text);
        }
        assert!("5ms..1ms".parse::<Between>().is_err());
    }

    #[test]
    fn a_plan_goes_through_a_file_and_comes_back() {
        let text = format!(
            "{GOOD}[chaos]\ncoordinator_crashes = 5\nrecovery_crashes = 3\nzombies = 2\n\
            pauses = 2\npartitions = 4\ndrops = 3\nparticipant_crashes = 3\nprocess_crashes = 2\n\
            compaction_crashes = 8\nsync_errors = 2\nwrite_errors = 2\nread_errors = 2\n\
            disks_full = 2\nstalls = 2\nbit_rot = 2\nclock_jumps = 2\n\
            zeroed_sectors = 2\nstale_sectors = 2\nmisdirected_writes = 2\nclogs = 3\n\
            recovery_sync_errors = 2\nlogs_confined = 2\n\
            [disk]\nmode = \"unrestricted\"\n"
        );
        let scenario = parse(&text).unwrap();
        let plan = crate::plan::Plan::generate(&scenario, 7);
        assert_eq!(plan.faults.len(), 57);
        for fault in &plan.faults {
            let entry = FaultEntry::of(fault);
            let text = toml::to_string(&entry).unwrap();
            let back: FaultEntry = toml::from_str(&text).unwrap();
            let back = back.fault().unwrap();
            assert_eq!((&back.trigger, &back.action), (&fault.trigger, &fault.action), "{text}");
        }
    }
}
