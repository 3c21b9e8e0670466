//! Scenario files: what is simulated, what goes wrong, and what is expected, in TOML.
//!
//! An error names the file, the line and the column, what was expected, and the nearest valid word.

use crate::disk::DiskFate;
use crate::plan::{Action, Damage, Fault, NodeSet, Signal, Trigger};
use crate::swarm::{self, Swarm};
use base::prng::DERIVATION_VERSION;
use base::{Ratio, Time};
use miette::{Diagnostic, NamedSource, SourceSpan};
use node::MessageKind;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;
use wal_core::EventType;

/// The version of the format that this code reads.
pub const FORMAT: u32 = 1;

/// A scenario file that cannot be used.
#[derive(Debug, Diagnostic, thiserror::Error)]
#[error("{message}")]
#[diagnostic()]
pub struct ScenarioError {
    message: String,
    #[source_code]
    source_code: Arc<NamedSource<String>>,
    #[label("{label}")]
    span: Option<SourceSpan>,
    label: String,
    #[help]
    help: Option<String>,
}

/// A length of time, written as a whole or decimal number and `ns`, `us`, `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// A year. Sums of a few of them are still times that the simulator can count.
    const MAX: Duration = Duration::from_secs(365 * 24 * 3600);
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let bad =
            || format!("\"{text}\" is no length of time: expected one such as \"20ms\", \"1.5s\"");
        let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(split);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str, most| s.len() <= most && s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole, 19) || !digits(decimals, 9) {
            return Err(bad());
        }
        let parse = |s: &str| s.parse::<u128>().map_err(|_| bad());
        let mut nanos = parse(whole)? * unit;
        if !decimals.is_empty() {
            nanos += parse(decimals)? * unit / 10u128.pow(decimals.len() as u32);
        }
        let span = u64::try_from(nanos).map(Duration::from_nanos).ok();
        let too_long = || format!("\"{text}\" is longer than a year, 8760h");
        span.filter(|span| *span <= Self::MAX).map(Span).ok_or_else(too_long)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
            if nanos >= size && nanos.is_multiple_of(size) {
                return write!(f, "{}{unit}", nanos / size);
            }
        }
        write!(f, "{nanos}ns")
    }
}

/// From the shortest to the longest, both included: `"1ms..10ms"`, or one length for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between(pub Duration, pub Duration);

impl FromStr for Between {
    type Err = String;

    fn from_str(text: &str) -> Result<Between, String> {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let (Span(low), Span(high)) = (low.parse()?, high.parse()?);
        if low > high {
            return Err(format!("\"{text}\" runs backwards: the shorter time comes first"));
        }
        Ok(Between(low, high))
    }
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", Span(self.0), Span(self.1))
    }
}

/// How long messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// As long as between the nodes' regions, and up to a tenth more.
    Regions,
    /// Anything in this range.
    Range(Between),
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Latency, String> {
        if text == "regions" {
            return Ok(Latency::Regions);
        }
        text.parse().map(Latency::Range).map_err(|error: String| format!("{error}, or \"regions\""))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regions => f.write_str("regions"),
            Self::Range(range) => range.fmt(f),
        }
    }
}

/// A ratio as it stands in a file: `"1%"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(pub Ratio);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        text.parse()
            .map(Share)
            .map_err(|error: base::ParseRatioError| format!("\"{text}\": {error}"))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Takes a text only, and says what is expected instead of anything else.
struct Text<T>(&'static str, PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($($type:ty: $expected:literal),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text($expected, PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

as_text!(
    Span: "a length of time such as \"20ms\"",
    Between: "lengths of time such as \"1ms..10ms\"",
    Latency: "lengths of time such as \"1ms..10ms\", or \"regions\"",
    Share: "a share such as \"1%\"",
    When: "a trigger such as \"append(tx_commit_start)#3@n0\"",
    DiskFate: "\"lost\", \"kept\", \"cut@137\" or \"torn@101\"",
    Group: "nodes such as \"n0\", \"n3,n4\", \"region:2\" or \"rest\""
);

/// A failure file is called after its scenario.
fn file_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(de::Error::custom(format!(
            "{name:?} is no name: expected up to 100 letters, digits, `-`, `_` and `.`, because \
             failure files are called after it"
        )));
    }
    Ok(name)
}

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
            window: Between(Duration::ZERO, Duration::from_secs(5)),
            lasts: Between(Duration::from_millis(10), Duration::from_secs(2)),
        }
    }
}

/// A signal of a node, as it stands in a file: `append(tx_commit_start)#3@n0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// Which signal.
    pub signal: Signal,
    /// Which of them, from 1.
    pub nth: u32,
    /// Whose.
    pub node: u32,
}

const SIGNALS: [&str; 9] =
    ["append", "durable", "send", "write", "sync", "retire", "blank", "output", "recovery"];

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<When, String> {
        let bad = || {
            format!(
                "\"{text}\" is no trigger: expected SIGNAL#NTH@nNODE, such as \
                 \"append(tx_commit_start)#3@n0\" or \"output#7@n2\""
            )
        };
        let (what, place) = text.split_once('#').ok_or_else(bad)?;
        let (nth, node) = place.split_once("@n").ok_or_else(bad)?;
        let nth: u32 = nth.parse().map_err(|_| bad())?;
        let node = node.parse().map_err(|_| bad())?;
        if nth == 0 {
            return Err(format!("\"{text}\": the first one is #1"));
        }
        let (name, argument) = match what.split_once('(') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(')').ok_or_else(bad)?)),
            None => (what, None),
        };
        let event = |argument: &str| {
            EventType::from_name(argument).ok_or_else(|| {
                let names = EventType::NAMED.iter().filter_map(|event| event.name());
                unknown("event", argument, names)
            })
        };
        let signal = match (name, argument) {
            ("append", Some(argument)) => Signal::Append(event(argument)?),
            ("durable", Some(argument)) => Signal::Durable(event(argument)?),
            ("send", Some(argument)) => Signal::Send(message_kind(argument)?),
            ("write", None) => Signal::Write,
            ("sync", None) => Signal::Sync,
            ("retire", None) => Signal::Retire,
            ("blank", None) => Signal::Blank,
            ("output", None) => Signal::Output,
            ("recovery", None) => Signal::Recovery,
            (name, _) if SIGNALS.contains(&name) => return Err(bad()),
            (name, _) => return Err(unknown("signal", name, SIGNALS.into_iter())),
        };
        Ok(When { signal, nth, node })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signal {
            Signal::Append(event) => write!(f, "append({event})")?,
            Signal::Durable(event) => write!(f, "durable({event})")?,
            Signal::Send(kind) => write!(f, "send({})", kind.name())?,
            Signal::Write => f.write_str("write")?,
            Signal::Sync => f.write_str("sync")?,
            Signal::Retire => f.write_str("retire")?,
            Signal::Blank => f.write_str("blank")?,
            Signal::Output => f.write_str("output")?,
            Signal::Recovery => f.write_str("recovery")?,
        }
        write!(f, "#{}@n{}", self.nth, self.node)
    }
}

/// As in a scenario file.
impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Trigger::At(at) => write!(f, "at {}", Span(at - Time::ZERO)),
            Trigger::On { signal, node, nth, from } => {
                write!(f, "on {}", When { signal, nth, node })?;
                if from > Time::ZERO {
                    write!(f, ", counted from {} on", Span(from - Time::ZERO))?;
                }
                Ok(())
            }
        }
    }
}

fn message_kind(name: &str) -> Result<MessageKind, String> {
    MessageKind::from_name(name)
        .ok_or_else(|| unknown("message", name, MessageKind::ALL.iter().map(|kind| kind.name())))
}

/// Some of the nodes, as they stand in a file: `rest`, `region:2`, `n0`, `n3,n4`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(pub NodeSet);

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Group, String> {
        let bad = || {
            format!(
                "\"{text}\" names no nodes: expected \"rest\", \"region:2\", \"n0\" or \"n3,n4\""
            )
        };
        if text == "rest" {
            return Ok(Group(NodeSet::Rest));
        }
        if let Some(region) = text.strip_prefix("region:") {
            return region.parse().map(|region| Group(NodeSet::Region(region))).map_err(|_| bad());
        }
        let number = |part: &str| part.trim().strip_prefix('n')?.parse().ok();
        let nodes: Option<Vec<u32>> = text.split(',').map(number).collect();
        nodes.map(|nodes| Group(NodeSet::Nodes(nodes))).ok_or_else(bad)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            NodeSet::Rest => f.write_str("rest"),
            NodeSet::Region(region) => write!(f, "region:{region}"),
            NodeSet::Nodes(nodes) => {
                for (at, node) in nodes.iter().enumerate() {
                    write!(f, "{}n{node}", if at > 0 { "," } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// As in a scenario file: `lost`, `kept`, `cut@137` (so many bytes are left), `torn@101` (a digit for
/// each sector, the first one first), `torn@101+zeros` (and files have their full length).
impl FromStr for DiskFate {
    type Err = String;

    fn from_str(text: &str) -> Result<DiskFate, String> {
        let bad = || {
            format!(
                "\"{text}\" does not say what is left: expected \"lost\", \"kept\", \"cut@137\" \
                 (the first 137 bytes), \"torn@101\" (the first and third sector) or \
                 \"torn@101+zeros\" (and zeros for what is missing)"
            )
        };
        match text.split_once('@') {
            None if text == "lost" => Ok(DiskFate::Lost),
            None if text == "kept" => Ok(DiskFate::Kept),
            Some(("cut", bytes)) => bytes.parse().map(DiskFate::Cut).map_err(|_| bad()),
            Some(("torn", digits)) => {
                let (digits, zeros) = match digits.strip_suffix("+zeros") {
                    Some(digits) => (digits, true),
                    None => (digits, false),
                };
                let known = digits.bytes().all(|digit| matches!(digit, b'0' | b'1'));
                if digits.is_empty() || digits.len() > 64 || !known {
                    return Err(bad());
                }
                let set = digits.bytes().enumerate().filter(|(_, digit)| *digit == b'1');
                let sectors = set.fold(0, |sectors, (at, _)| sectors | 1 << at);
                Ok(DiskFate::Torn { sectors, zeros })
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for DiskFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Lost | Self::Kept => f.write_str(self.name()),
            Self::Cut(bytes) => write!(f, "cut@{bytes}"),
            Self::Torn { sectors, zeros } => {
                f.write_str("torn@")?;
                for at in 0..(64 - sectors.leading_zeros()).max(1) {
                    f.write_str(if sectors >> at & 1 == 1 { "1" } else { "0" })?;
                }
                f.write_str(if zeros { "+zeros" } else { "" })
            }
        }
    }
}

/// The kinds of fault that a scenario may name.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The node loses its power.
    PowerLoss,
    /// The process dies.
    ProcessCrash,
    /// The process stops, is replaced, and comes back.
    Zombie,
    /// The process stops, and goes on.
    Pause,
    /// Nothing passes between two groups.
    Partition,
    /// Partitions and drops end.
    Heal,
    /// One kind of message is lost.
    Drop,
    /// The next sync fails.
    SyncError,
    /// The next write fails.
    WriteError,
    /// Nothing can be read.
    ReadError,
    /// The disk has no room.
    DiskFull,
    /// Syncs are not done.
    Stall,
    /// A bit changes of what is durable.
    BitRot,
    /// A sector of it reads as zeros.
    ZeroedSector,
    /// A sector of it reads as it was before it was written last.
    StaleSector,
    /// A sector was written over another.
    MisdirectedWrite,
    /// Links deliver nothing, and then everything.
    Clog,
    /// The clock goes forward at once.
    ClockJump,
}

impl FaultKind {
    /// Its name, and the keys that say more about it.
    fn keys(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::PowerLoss => ("power-loss", &["node", "down", "again", "unsynced"]),
            Self::ProcessCrash => ("process-crash", &["node", "down"]),
            Self::Zombie => ("zombie", &["node", "successor", "resume"]),
            Self::Pause => ("pause", &["node", "for"]),
            Self::Partition => ("partition", &["between", "symmetric", "for"]),
            Self::Heal => ("heal", &[]),
            Self::Drop => ("drop", &["message", "between", "for"]),
            Self::SyncError => ("sync-error", &["node"]),
            Self::WriteError => ("write-error", &["node", "short"]),
            Self::ReadError => ("read-error", &["node", "for"]),
            Self::DiskFull => ("disk-full", &["node", "for"]),
            Self::Stall => ("stall", &["node", "for"]),
            Self::BitRot => ("bit-rot", &["node"]),
            Self::ZeroedSector => ("zeroed-sector", &["node"]),
            Self::StaleSector => ("stale-sector", &["node"]),
            Self::MisdirectedWrite => ("misdirected-write", &["node"]),
            Self::Clog => ("clog", &["between", "symmetric", "for"]),
            Self::ClockJump => ("clock-jump", &["node", "by", "back"]),
        }
    }
}

/// Why a `[[fault]]` is none, and at which of its keys.
#[derive(Debug)]
struct Misfit {
    key: Option<&'static str>,
    message: String,
}

impl Misfit {
    fn at(key: &'static str, message: String) -> Misfit {
        Misfit { key: Some(key), message }
    }

    fn missing(kind: FaultKind, key: &'static str, example: &str) -> Misfit {
        let message = format!("a {} needs `{key}`, such as {key} = {example}", kind.keys().0);
        Misfit { key: None, message }
    }
}

/// `[[fault]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FaultEntry {
    /// At this time; with `on`, the signals are counted from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Span>,
    /// At a node's signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<When>,
    /// What goes wrong.
    pub kind: FaultKind,
    /// With whom; by default the node of `on`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// How long it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<Span>,
    /// At which disk operations of the recoveries that follow it is hit again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub again: Vec<u32>,
    /// What is left of what it had not synced, instead of what would be drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsynced: Option<DiskFate>,
    /// When the successor of a zombie starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<Span>,
    /// When the zombie wakes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Span>,
    /// From the first group to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between: Option<[Group; 2]>,
    /// And back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    /// Which messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How long it lasts.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Span>,
    /// A part of the write that fails is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short: Option<bool>,
    /// How far a clock goes forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Span>,
    /// And its calendar back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<bool>,
}

impl FaultEntry {
    fn fault(&self) -> Result<Fault, Misfit> {
        let kind = self.kind;
        let trigger = match (self.at, self.on) {
            (Some(Span(at)), None) => Trigger::At(Time::ZERO + at),
            (at, Some(When { signal, nth, node })) => {
                let from = Time::ZERO + at.unwrap_or_default().0;
                Trigger::On { signal, node, nth, from }
            }
            (None, None) => {
                let message = "a fault needs `at` (a time), `on` (a trigger), or both".into();
                return Err(Misfit { key: None, message });
            }
        };
        self.check_keys()?;
        let node = || {
            let node = self.node.or(self.on.map(|on| on.node));
            node.ok_or_else(|| Misfit::missing(kind, "node", "0"))
        };
        let need = |span: Option<Span>, key, example| {
            span.map(|Span(span)| span).ok_or_else(|| Misfit::missing(kind, key, example))
        };
        let down = || need(self.down, "down", "\"20ms\"");
        let lasts = || need(self.lasts, "for", "\"800ms\"");
        let pair = || match &self.between {
            Some([Group(from), Group(to)]) => (from.clone(), to.clone()),
            None => (NodeSet::Rest, NodeSet::Rest),
        };
        let action = match kind {
            FaultKind::PowerLoss => {
                let (again, unsynced) = (self.again.clone(), self.unsynced);
                Action::PowerLoss { node: node()?, down: down()?, again, unsynced }
            }
            FaultKind::ProcessCrash => Action::ProcessCrash { node: node()?, down: down()? },
            FaultKind::Pause => Action::Pause { node: node()?, lasts: lasts()? },
            FaultKind::Zombie => {
                let successor = need(self.successor, "successor", "\"50ms\"")?;
                let resume = need(self.resume, "resume", "\"200ms\"")?;
                Action::Zombie { node: node()?, successor, resume }
            }
            FaultKind::Partition => {
                if self.between.is_none() {
                    return Err(Misfit::missing(kind, "between", "[\"n0\", \"rest\"]"));
                }
                let (from, to) = pair();
                let symmetric = self.symmetric.unwrap_or(true);
                Action::Partition { from, to, symmetric, lasts: lasts()? }
            }
            FaultKind::Heal => Action::Heal,
            FaultKind::Drop => {
                let name = self.message.as_deref();
                let name = name.ok_or_else(|| Misfit::missing(kind, "message", "\"commit\""))?;
                let message = message_kind(name).map_err(|what| Misfit::at("message", what))?;
                let (from, to) = pair();
                Action::Drop { kind: message, from, to, lasts: lasts()? }
            }
            FaultKind::SyncError => Action::SyncError { node: node()? },
            FaultKind::WriteError => {
                Action::WriteError { node: node()?, short: self.short.unwrap_or(false) }
            }
            FaultKind::ReadError => Action::ReadError { node: node()?, lasts: lasts()? },
            FaultKind::DiskFull => Action::DiskFull { node: node()?, lasts: lasts()? },
            FaultKind::Stall => Action::Stall { node: node()?, lasts: lasts()? },
            FaultKind::BitRot => Action::BitRot { node: node()? },
            FaultKind::ZeroedSector => Action::Damage { node: node()?, how: Damage::Zeroed },
            FaultKind::StaleSector => Action::Damage { node: node()?, how: Damage::Stale },
            FaultKind::MisdirectedWrite => {
                Action::Damage { node: node()?, how: Damage::Misdirected }
            }
            FaultKind::Clog => {
                if self.between.is_none() {
                    return Err(Misfit::missing(kind, "between", "[\"n0\", \"rest\"]"));
                }
                let (from, to) = pair();
                let symmetric = self.symmetric.unwrap_or(true);
                Action::Clog { from, to, symmetric, lasts: lasts()? }
            }
            FaultKind::ClockJump => {
                let by = need(self.by, "by", "\"2s\"")?;
                Action::ClockJump { node: node()?, by, back: self.back.unwrap_or(false) }
            }
        };
        Ok(Fault { trigger, action, named: true })
    }

    /// A key that its kind does not look at is a mistake, not a remark.
    fn check_keys(&self) -> Result<(), Misfit> {
        let (name, keys) = self.kind.keys();
        let given = [
            ("node", self.node.is_some()),
            ("down", self.down.is_some()),
            ("again", !self.again.is_empty()),
            ("unsynced", self.unsynced.is_some()),
            ("successor", self.successor.is_some()),
            ("resume", self.resume.is_some()),
            ("between", self.between.is_some()),
            ("symmetric", self.symmetric.is_some()),
            ("message", self.message.is_some()),
            ("for", self.lasts.is_some()),
            ("short", self.short.is_some()),
            ("by", self.by.is_some()),
            ("back", self.back.is_some()),
        ];
        match given.into_iter().find(|(key, given)| *given && !keys.contains(key)) {
            None => Ok(()),
            Some((key, _)) if keys.is_empty() => {
                Err(Misfit::at(key, format!("a {name} has no `{key}`: only `at` and `on`")))
            }
            Some((key, _)) => {
                let keys = keys.join("`, `");
                Err(Misfit::at(key, format!("a {name} has no `{key}`: only `at`, `on`, `{keys}`")))
            }
        }
    }

    /// The entry that describes a fault.
    #[must_use]
    pub fn of(fault: &Fault) -> FaultEntry {
        let (at, on) = match fault.trigger {
            Trigger::At(at) => (Some(Span(at - Time::ZERO)), None),
            Trigger::On { signal, node, nth, from } => {
                let at = (from > Time::ZERO).then(|| Span(from - Time::ZERO));
                (at, Some(When { signal, nth, node }))
            }
        };
        let mut entry = FaultEntry {
            at,
            on,
            kind: FaultKind::PowerLoss,
            node: None,
            down: None,
            again: Vec::new(),
            unsynced: None,
            successor: None,
            resume: None,
            between: None,
            symmetric: None,
            message: None,
            lasts: None,
            short: None,
            by: None,
            back: None,
        };
        match fault.action.clone() {
            Action::PowerLoss { node, down, again, unsynced } => {
                (entry.node, entry.down, entry.again) = (Some(node), Some(Span(down)), again);
                entry.unsynced = unsynced;
            }
            Action::ProcessCrash { node, down } => {
                entry.kind = FaultKind::ProcessCrash;
                (entry.node, entry.down) = (Some(node), Some(Span(down)));
            }
            Action::Zombie { node, successor, resume } => {
                entry.kind = FaultKind::Zombie;
                entry.node = Some(node);
                (entry.successor, entry.resume) = (Some(Span(successor)), Some(Span(resume)));
            }
            Action::Pause { node, lasts } => {
                entry.kind = FaultKind::Pause;
                (entry.node, entry.lasts) = (Some(node), Some(Span(lasts)));
            }
            Action::Partition { from, to, symmetric, lasts } => {
                entry.kind = FaultKind::Partition;
                entry.between = Some([Group(from), Group(to)]);
                (entry.symmetric, entry.lasts) = (Some(symmetric), Some(Span(lasts)));
            }
            Action::Heal => entry.kind = FaultKind::Heal,
            Action::Drop { kind, from, to, lasts } => {
                entry.kind = FaultKind::Drop;
                entry.between = Some([Group(from), Group(to)]);
                (entry.message, entry.lasts) = (Some(kind.name().to_owned()), Some(Span(lasts)));
            }
            Action::SyncError { node } => {
                (entry.kind, entry.node) = (FaultKind::SyncError, Some(node));
            }
            Action::WriteError { node, short } => {
                (entry.kind, entry.node) = (FaultKind::WriteError, Some(node));
                entry.short = Some(short);
            }
            Action::ReadError { node, lasts } => {
                entry.kind = FaultKind::ReadError;
                (entry.node, entry.lasts) = (Some(node), Some(Span(lasts)));
            }
            Action::DiskFull { node, lasts } => {
                entry.kind = FaultKind::DiskFull;
                (entry.node, entry.lasts) = (Some(node), Some(Span(lasts)));
            }
            Action::Stall { node, lasts } => {
                entry.kind = FaultKind::Stall;
                (entry.node, entry.lasts) = (Some(node), Some(Span(lasts)));
            }
            Action::BitRot { node } => {
                (entry.kind, entry.node) = (FaultKind::BitRot, Some(node));
            }
            Action::Damage { node, how } => {
                entry.node = Some(node);
                entry.kind = match how {
                    Damage::Zeroed => FaultKind::ZeroedSector,
                    Damage::Stale => FaultKind::StaleSector,
                    Damage::Misdirected => FaultKind::MisdirectedWrite,
                };
            }
            Action::Clog { from, to, symmetric, lasts } => {
                entry.kind = FaultKind::Clog;
                entry.between = Some([Group(from), Group(to)]);
                (entry.symmetric, entry.lasts) = (Some(symmetric), Some(Span(lasts)));
            }
            Action::ClockJump { node, by, back } => {
                (entry.kind, entry.node) = (FaultKind::ClockJump, Some(node));
                (entry.by, entry.back) = (Some(Span(by)), Some(back));
            }
        }
        entry
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

fn unknown<'a>(what: &str, word: &str, valid: impl Iterator<Item = &'a str>) -> String {
    let valid: Vec<&str> = valid.collect();
    match nearest(word, &valid) {
        Some(near) => format!("unknown {what} `{word}`: did you mean `{near}`?"),
        None => format!("unknown {what} `{word}`: expected one of {}", valid.join(", ")),
    }
}

/// The valid word that is nearest to another, if any is near.
#[must_use]
pub fn nearest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let distance = |v: &&str| strsim::damerau_levenshtein(word, v);
    let best = valid.iter().min_by_key(|v| distance(v))?;
    (distance(best) <= word.len().max(3) / 2).then_some(*best)
}

/// What is wrong with a scenario whose text can be read, and where.
struct Wrong {
    message: String,
    place: Range<usize>,
    help: Option<String>,
}

impl Wrong {
    fn new(message: impl Into<String>, place: Range<usize>) -> Wrong {
        Wrong { message: message.into(), place, help: None }
    }
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

    fn check(&self, text: &str) -> Result<(), Wrong> {
        if let Some(derivation) = &self.derivation
            && *derivation.get_ref() != DERIVATION_VERSION
        {
            let message = format!(
                "version {} of the randomness: this build has version {DERIVATION_VERSION}, and the seed \
                 means another run here",
                derivation.get_ref()
            );
            let help =
                "use the build that the file was written for, or look for it anew with this one";
            return Err(Wrong { message, place: derivation.span(), help: Some(help.to_owned()) });
        }
        self.check_cluster()?;
        self.check_workload(text)?;
        self.check_disk(text)?;
        self.check_times(text)?;
        self.check_stuck(text)?;
        self.check_chaos(text)?;
        let valid = || swarm::NAMES.into_iter().chain(swarm::KINDS);
        let strange = |name: &&Spanned<String>| valid().all(|valid| valid != name.get_ref());
        if let Some(name) = self.swarm.vary.iter().find(strange) {
            return Err(Wrong::new(unknown("setting", name.get_ref(), valid()), name.span()));
        }
        for entry in &self.fault {
            self.check_fault(entry.get_ref()).map_err(|Misfit { key, message }| {
                let header = entry.span();
                let place = key.and_then(|key| value_below(text, header.end, key));
                Wrong::new(message, place.unwrap_or(header))
            })?;
        }
        self.check_expect()
    }

    fn check_cluster(&self) -> Result<(), Wrong> {
        let Cluster { nodes, coordinators, regions } = &self.cluster;
        let count = *nodes.get_ref();
        if count == 0 || count > 100_000 {
            return Err(Wrong::new("expected 1 to 100000 nodes", nodes.span()));
        }
        if *coordinators.get_ref() == 0 || *coordinators.get_ref() > count {
            let message =
                format!("expected 1 to {count} coordinators: the cluster has {count} nodes");
            return Err(Wrong::new(message, coordinators.span()));
        }
        if *regions.get_ref() == 0 || *regions.get_ref() > crate::net::REGIONS {
            let message = format!("expected 1 to {} regions", crate::net::REGIONS);
            return Err(Wrong::new(message, regions.span()));
        }
        Ok(())
    }

    fn check_workload(&self, text: &str) -> Result<(), Wrong> {
        let workload = &self.workload;
        for (name, number) in [
            ("operations", &workload.operations),
            ("in_flight", &workload.in_flight),
            ("cells", &workload.cells),
        ] {
            if !(1..=10_000_000).contains(number.get_ref()) {
                let message = format!("expected {name} from 1 to 10000000");
                return Err(Wrong::new(message, number.span()));
            }
        }
        let nodes = *self.cluster.nodes.get_ref();
        let participants = *workload.participants.get_ref();
        let most = nodes.min(64);
        if place_of(text, "workload", "participants").is_none() {
            // Nobody has asked for the default where no transaction will be.
            if workload.kind != Kind::Saga && participants > most {
                let message = format!(
                    "the cluster has {nodes} nodes: a transaction has {participants} participants \
                     unless `participants` in [workload] says otherwise"
                );
                return Err(Wrong::new(message, self.cluster.nodes.span()));
            }
        } else if participants == 0 || participants > most {
            let message = format!(
                "expected 1 to {most} participants: the cluster has {nodes} nodes, and a transaction \
                 at most 64 participants"
            );
            return Err(Wrong::new(message, workload.participants.span()));
        }
        let steps = &workload.steps;
        if *steps.get_ref() == 0 || *steps.get_ref() > 32 {
            return Err(Wrong::new("expected 1 to 32 steps", steps.span()));
        }
        let changes = &workload.changes;
        if *changes.get_ref() == 0 || *changes.get_ref() > 8 {
            return Err(Wrong::new("expected 1 to 8 changes", changes.span()));
        }
        let waves = &workload.waves;
        let sum: u64 = waves.get_ref().iter().map(|wave| u64::from(*wave)).sum();
        if !waves.get_ref().is_empty() && sum != u64::from(*workload.operations.get_ref()) {
            let operations = workload.operations.get_ref();
            let message = format!("the waves hold {sum} operations, the workload {operations}");
            return Err(Wrong::new(message, waves.span()));
        }
        if waves.get_ref().contains(&0) {
            return Err(Wrong::new("expected waves of at least one operation", waves.span()));
        }
        let operations = *workload.operations.get_ref();
        let only = &workload.only;
        if let Some(strange) = only.get_ref().iter().find(|number| **number >= operations) {
            let message = format!(
                "there is no operation {strange}: they are numbered 0 to {}",
                operations - 1
            );
            return Err(Wrong::new(message, only.span()));
        }
        Ok(())
    }

    fn check_disk(&self, text: &str) -> Result<(), Wrong> {
        self.disk.log().validate().map_err(|error| {
            let message = error.to_string();
            // The configuration's fields are called as the keys, and named by the error.
            let keys = ["checkpoint_interval", "batch_bytes_max", "segment_bytes_first"];
            let named = keys.into_iter().filter(|key| message.contains(key));
            let others = ["segment_bytes_first", "segment_bytes_max"];
            let mut places = named.chain(others).filter_map(|key| place_of(text, "disk", key));
            Wrong::new(message.as_str(), places.next().unwrap_or(0..0))
        })
    }

    /// Times that must go by: what is due again at once keeps the simulator at one moment for ever.
    fn check_times(&self, text: &str) -> Result<(), Wrong> {
        let node = &self.node;
        for (table, key, Span(span)) in [
            ("node", "resend", node.resend),
            ("node", "prepare_timeout", node.prepare_timeout),
            ("node", "step_timeout", node.step_timeout),
            ("node", "saga_timeout", node.saga_timeout),
            ("node", "inquire", node.inquire),
            ("disk", "idle_guard", self.disk.idle_guard),
            ("liveness", "budget", self.liveness.budget),
        ] {
            if span.is_zero() {
                let place = place_of(text, table, key).unwrap_or(0..0);
                return Err(Wrong::new(format!("expected `{key}` above zero"), place));
            }
        }
        if self.clock.drift_ppm > 500_000 {
            let place = place_of(text, "clock", "drift_ppm").unwrap_or(0..0);
            return Err(Wrong::new("expected a drift of at most 500000 millionths", place));
        }
        if self.budget.events == 0 {
            let place = place_of(text, "budget", "events").unwrap_or(0..0);
            return Err(Wrong::new("expected a budget of at least one event", place));
        }
        Ok(())
    }

    /// What never succeeds by itself is somebody's to see to.
    fn check_stuck(&self, text: &str) -> Result<(), Wrong> {
        let stuck = self.workload.stuck != Share::default();
        if stuck && self.node.undo_attempts == 0 {
            let message = "compensations are stuck for ever unless `undo_attempts` in [node] says \
                           after how many attempts an operator sees to them";
            let place = place_of(text, "workload", "stuck").unwrap_or(0..0);
            return Err(Wrong::new(message, place));
        }
        if self.node.jitter_percent > 100 {
            let place = place_of(text, "node", "jitter_percent").unwrap_or(0..0);
            return Err(Wrong::new("expected at most 100 hundredths", place));
        }
        Ok(())
    }

    fn check_chaos(&self, text: &str) -> Result<(), Wrong> {
        const MOST: u32 = 100_000;
        let chaos = &self.chaos;
        for (key, count) in [
            ("coordinator_crashes", chaos.coordinator_crashes),
            ("recovery_crashes", chaos.recovery_crashes),
            ("participant_crashes", chaos.participant_crashes),
            ("compaction_crashes", chaos.compaction_crashes),
            ("process_crashes", chaos.process_crashes),
            ("zombies", chaos.zombies),
            ("pauses", chaos.pauses),
            ("partitions", chaos.partitions),
            ("drops", chaos.drops),
            ("heals", chaos.heals),
            ("sync_errors", chaos.sync_errors),
            ("write_errors", chaos.write_errors),
            ("read_errors", chaos.read_errors),
            ("disks_full", chaos.disks_full),
            ("stalls", chaos.stalls),
            ("bit_rot", chaos.bit_rot),
            ("clock_jumps", chaos.clock_jumps),
            ("zeroed_sectors", chaos.zeroed_sectors),
            ("stale_sectors", chaos.stale_sectors),
            ("misdirected_writes", chaos.misdirected_writes),
            ("clogs", chaos.clogs),
            ("recovery_sync_errors", chaos.recovery_sync_errors),
        ] {
            let place = || place_of(text, "chaos", key).unwrap_or(0..0);
            if count > MOST {
                return Err(Wrong::new(format!("expected at most {MOST} {key}"), place()));
            }
            let damages =
                ["bit_rot", "zeroed_sectors", "stale_sectors", "misdirected_writes"].contains(&key);
            if damages && count > 0 && self.disk.mode == DiskMode::Atlas {
                return Err(Wrong::new(NO_ROT, place()));
            }
            if key == "recovery_crashes" && count > chaos.coordinator_crashes {
                let message = format!(
                    "expected at most as many recovery_crashes as coordinator_crashes, {}: each hits \
                     one of those again",
                    chaos.coordinator_crashes
                );
                return Err(Wrong::new(message, place()));
            }
        }
        Ok(())
    }

    fn check_fault(&self, entry: &FaultEntry) -> Result<(), Misfit> {
        let nodes = *self.cluster.nodes.get_ref();
        let regions = *self.cluster.regions.get_ref();
        let fault = entry.fault()?;
        let check_node = |key, node: u32| {
            let message =
                || format!("there is no node n{node}: the cluster has n0 to n{}", nodes - 1);
            if node < nodes { Ok(()) } else { Err(Misfit::at(key, message())) }
        };
        if let Trigger::On { node, .. } = fault.trigger {
            check_node("on", node)?;
        }
        match &fault.action {
            Action::PowerLoss { node, again, .. } => {
                check_node("node", *node)?;
                if again.len() > 3 || again.contains(&0) {
                    let message =
                        "expected at most three entries in `again`, counted from 1".into();
                    return Err(Misfit::at("again", message));
                }
            }
            Action::ProcessCrash { node, .. }
            | Action::Zombie { node, .. }
            | Action::Pause { node, .. }
            | Action::SyncError { node }
            | Action::WriteError { node, .. }
            | Action::ReadError { node, .. }
            | Action::DiskFull { node, .. }
            | Action::Stall { node, .. }
            | Action::ClockJump { node, .. } => check_node("node", *node)?,
            Action::BitRot { node } | Action::Damage { node, .. } => {
                check_node("node", *node)?;
                if self.disk.mode == DiskMode::Atlas {
                    return Err(Misfit::at("kind", NO_ROT.into()));
                }
            }
            Action::Heal => {}
            Action::Partition { from, to, .. }
            | Action::Clog { from, to, .. }
            | Action::Drop { from, to, .. } => {
                for set in [from, to] {
                    match set {
                        NodeSet::Rest => {}
                        NodeSet::Region(region) if *region < regions => {}
                        NodeSet::Region(region) => {
                            let message = format!(
                                "there is no region {region}: the cluster has the regions 0 to {}",
                                regions - 1
                            );
                            return Err(Misfit::at("between", message));
                        }
                        NodeSet::Nodes(listed) => {
                            listed.iter().try_for_each(|node| check_node("between", *node))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn check_expect(&self) -> Result<(), Wrong> {
        if let Some(recovered) = &self.expect.recovered {
            let names: Vec<&str> =
                coordinator::RecoveryAction::ALL.iter().map(|action| action.name()).collect();
            let strange = recovered.get_ref().keys().find(|name| !names.contains(&name.as_str()));
            if let Some(name) = strange {
                return Err(Wrong::new(
                    unknown("action", name, names.into_iter()),
                    recovered.span(),
                ));
            }
        }
        if self.expect.sometimes.is_empty() {
            return Ok(());
        }
        // Whoever counts a condition names it before anything has happened.
        let mut counters = crate::report::Counters::default();
        for judge in crate::judge::all(self) {
            judge.observed(&mut counters.sometimes);
        }
        let conditions = counters.conditions();
        let mut sometimes = self.expect.sometimes.iter();
        match sometimes.find(|name| !conditions.contains_key(name.get_ref().as_str())) {
            None => Ok(()),
            Some(name) => {
                let message = unknown("condition", name.get_ref(), conditions.keys().copied());
                Err(Wrong::new(message, name.span()))
            }
        }
    }
}

/// Why a bit may not rot.
const NO_ROT: &str = "a log that rots is not opened again, so nothing would end: expected mode = \
                      \"unrestricted\" in [disk], where only safety is asked for";

fn check_format(text: &str) -> Result<(), Wrong> {
    #[derive(Deserialize)]
    struct Header {
        format: Spanned<u32>,
    }
    // What is no such header is told by whoever reads the whole.
    let Ok(Header { format }) = toml::from_str(text) else { return Ok(()) };
    if *format.get_ref() == FORMAT {
        return Ok(());
    }
    let message = format!("format {}: this build reads format {FORMAT}", format.get_ref());
    let help = "use the build that the file was written for, or write it anew for this one";
    Err(Wrong { message, place: format.span(), help: Some(help.to_owned()) })
}

/// Where the value of a key stands that is written below the table's header, one key to a line.
fn place_of(text: &str, table: &str, key: &str) -> Option<Range<usize>> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        let header = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if header.is_some_and(|(name, _)| name.trim() == table) {
            return value_below(text, at, key);
        }
    }
    None
}

/// The same from an offset on.
fn value_below(text: &str, from: usize, key: &str) -> Option<Range<usize>> {
    let mut at = from;
    for line in text.get(from..)?.split_inclusive('\n') {
        if line.starts_with('[') {
            return None;
        }
        if let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            let end = at + line.trim_end().len();
            return Some(end - value.trim().len()..end);
        }
        at += line.len();
    }
    None
}

/// A message without what a terminal would take for a command.
fn printable(message: &str) -> String {
    let mut printed = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() && c != '\n' {
            printed.extend(c.escape_debug());
        } else {
            printed.push(c);
        }
    }
    printed
}

/// The text as it is shown around a place: the same, byte for byte, but for control characters.
fn shown(text: &str) -> String {
    let stands = |c: char| match c {
        '\n' | '\r' | '\t' => c,
        c if c.is_control() && c.len_utf8() == 1 => '?',
        // The others of them have two bytes each.
        c if c.is_control() => '\u{bf}',
        c => c,
    };
    text.chars().map(stands).collect()
}

/// What a type of this program's is called in an error, for people who do not write programs.
fn in_words(message: &str) -> String {
    let words = [
        ("expected u64", "expected a whole number, not below 0"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected a string", "expected a text in quotes"),
        ("expected a boolean", "expected true or false"),
        ("expected an array of length 2", "expected two groups such as [\"n0\", \"rest\"]"),
    ];
    match words.iter().find_map(|(name, words)| Some((message.strip_suffix(name)?, words))) {
        Some((before, words)) => format!("{before}{words}"),
        None => message.to_owned(),
    }
}

/// The nearest word to one that serde does not know.
fn suggestion(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let own = message.contains("did you mean");
    let unknown = words.next().filter(|_| message.starts_with("unknown") && !own)?;
    let valid: Vec<&str> = words.collect();
    nearest(unknown, &valid).map(|near| format!("did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
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
            recovery_sync_errors = 2\n\
            [disk]\nmode = \"unrestricted\"\n"
        );
        let scenario = parse(&text).unwrap();
        let plan = crate::plan::Plan::generate(&scenario, 7);
        assert_eq!(plan.faults.len(), 55);
        for fault in &plan.faults {
            let entry = FaultEntry::of(fault);
            let text = toml::to_string(&entry).unwrap();
            let back: FaultEntry = toml::from_str(&text).unwrap();
            let back = back.fault().unwrap();
            assert_eq!((&back.trigger, &back.action), (&fault.trigger, &fault.action), "{text}");
        }
    }
}
