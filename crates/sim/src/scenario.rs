//! Scenario files: what is simulated, what goes wrong, and what is expected, in TOML.
//!
//! An error names the file, the line and the column, what was expected, and the nearest valid word.

use crate::plan::{Action, Fault, NodeSet, Signal, Trigger};
use base::{Ratio, Time};
use miette::{Diagnostic, NamedSource, SourceSpan};
use node::MessageKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
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
#[diagnostic(code(scenario))]
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
        u64::try_from(nanos).map(|nanos| Span(Duration::from_nanos(nanos))).map_err(|_| bad())
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

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

as_text!(Span, Between, Latency, Share, When, Group);

/// A whole scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The format's version.
    pub format: Spanned<u32>,
    /// Its name.
    pub name: String,
    /// What it shows, for people.
    #[serde(default)]
    pub about: String,
    /// The seed that it runs with if none is given.
    #[serde(default = "one")]
    pub seed: u64,
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
    /// Time-outs and limits of the nodes.
    #[serde(default)]
    pub node: NodeTimes,
    /// Faults drawn at random from the seed.
    #[serde(default)]
    pub chaos: Chaos,
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
    /// How often a step cannot be done.
    #[serde(default)]
    pub refuse: Share,
    /// Cells of each node that the operations touch: the fewer, the more they get in each other's
    /// way.
    #[serde(default = "cells")]
    pub cells: Spanned<u32>,
    /// The operations come in waves of these sizes; the next begins when the one before has ended
    /// everywhere.
    #[serde(default = "no_waves")]
    pub waves: Spanned<Vec<u32>>,
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
            max_records: 200,
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
}

impl Default for NodeTimes {
    fn default() -> Self {
        NodeTimes {
            resend: Span(Duration::from_millis(500)),
            prepare_timeout: Span(Duration::from_secs(5)),
            step_timeout: Span(Duration::from_secs(20)),
            saga_timeout: Span(Duration::from_secs(60)),
            inquire: Span(Duration::from_secs(1)),
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
            process_crashes: 0,
            zombies: 0,
            pauses: 0,
            partitions: 0,
            drops: 0,
            heals: 0,
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

const SIGNALS: [&str; 7] = ["append", "durable", "send", "write", "sync", "output", "recovery"];

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
            Signal::Output => f.write_str("output")?,
            Signal::Recovery => f.write_str("recovery")?,
        }
        write!(f, "#{}@n{}", self.nth, self.node)
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
}

impl FaultEntry {
    fn fault(&self) -> Result<Fault, String> {
        let trigger = match (self.at, self.on) {
            (Some(Span(at)), None) => Trigger::At(Time::ZERO + at),
            (at, Some(When { signal, nth, node })) => {
                let from = Time::ZERO + at.unwrap_or_default().0;
                Trigger::On { signal, node, nth, from }
            }
            (None, None) => return Err("a fault needs `at`, `on`, or both".into()),
        };
        let node =
            || self.node.or(self.on.map(|on| on.node)).ok_or("this fault needs `node`".to_owned());
        let down = || self.down.map(|Span(down)| down).ok_or("this fault needs `down`".to_owned());
        let lasts = || self.lasts.map(|Span(l)| l).ok_or("this fault needs `for`".to_owned());
        let pair = || match &self.between {
            Some([Group(from), Group(to)]) => (from.clone(), to.clone()),
            None => (NodeSet::Rest, NodeSet::Rest),
        };
        let action = match self.kind {
            FaultKind::PowerLoss => {
                Action::PowerLoss { node: node()?, down: down()?, again: self.again.clone() }
            }
            FaultKind::ProcessCrash => Action::ProcessCrash { node: node()?, down: down()? },
            FaultKind::Pause => Action::Pause { node: node()?, lasts: lasts()? },
            FaultKind::Zombie => {
                let need = |span: Option<Span>, name| {
                    span.map(|Span(s)| s).ok_or(format!("this fault needs `{name}`"))
                };
                let successor = need(self.successor, "successor")?;
                let resume = need(self.resume, "resume")?;
                Action::Zombie { node: node()?, successor, resume }
            }
            FaultKind::Partition => {
                if self.between.is_none() {
                    return Err("this fault needs `between`".into());
                }
                let (from, to) = pair();
                let symmetric = self.symmetric.unwrap_or(true);
                Action::Partition { from, to, symmetric, lasts: lasts()? }
            }
            FaultKind::Heal => Action::Heal,
            FaultKind::Drop => {
                let name = self.message.as_deref().ok_or("this fault needs `message`")?;
                let (kind, (from, to)) = (message_kind(name)?, pair());
                Action::Drop { kind, from, to, lasts: lasts()? }
            }
        };
        Ok(Fault { trigger, action, named: true })
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
            successor: None,
            resume: None,
            between: None,
            symmetric: None,
            message: None,
            lasts: None,
        };
        match fault.action.clone() {
            Action::PowerLoss { node, down, again } => {
                (entry.node, entry.down, entry.again) = (Some(node), Some(Span(down)), again);
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
}

impl Default for Liveness {
    fn default() -> Self {
        Liveness { budget: Span(Duration::from_secs(120)) }
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
    pub sometimes: Vec<String>,
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
    /// The rule that was violated.
    pub invariant: String,
    /// The event at which it was.
    pub event: u64,
}

fn unknown<'a>(what: &str, word: &str, valid: impl Iterator<Item = &'a str>) -> String {
    let valid: Vec<&str> = valid.collect();
    match nearest(word, &valid) {
        Some(near) => format!("unknown {what} `{word}`: did you mean `{near}`?"),
        None => format!("unknown {what} `{word}`: expected one of {}", valid.join(", ")),
    }
}

fn nearest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let distance = |v: &&str| strsim::damerau_levenshtein(word, v);
    let best = valid.iter().min_by_key(|v| distance(v))?;
    (distance(best) <= word.len().max(3) / 2).then_some(*best)
}

impl Scenario {
    /// Reads a scenario; `name` is what errors call the file.
    ///
    /// # Errors
    /// [`ScenarioError`], with the place.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let error =
            |message: String, span: Option<Range<usize>>, help: Option<String>| ScenarioError {
                label: if message.starts_with("unknown") { "not known here" } else { "here" }
                    .to_owned(),
                message,
                source_code: Arc::new(NamedSource::new(name, text.to_owned())),
                span: span.map(Into::into),
                help,
            };
        let scenario: Scenario = toml::from_str(text).map_err(|found| {
            let message = found.message().to_owned();
            let help = suggestion(&message);
            error(message, found.span(), help)
        })?;
        match scenario.check() {
            Ok(()) => Ok(scenario),
            Err((message, span)) => Err(error(message, Some(span), None)),
        }
    }

    /// The faults that are named in the file.
    ///
    /// # Panics
    /// Never for a scenario that was parsed: they were checked then.
    #[must_use]
    pub fn named_faults(&self) -> Vec<Fault> {
        self.fault
            .iter()
            .map(|entry| entry.get_ref().fault().expect("faults were checked when parsed"))
            .collect()
    }

    fn check(&self) -> Result<(), (String, Range<usize>)> {
        let fail = |message: String, span: Range<usize>| Err((message, span));
        if *self.format.get_ref() != FORMAT {
            let format = self.format.get_ref();
            let message = format!("format {format}: this build reads format {FORMAT}");
            return fail(message, self.format.span());
        }
        let nodes = *self.cluster.nodes.get_ref();
        if nodes == 0 || nodes > 100_000 {
            return fail("a cluster has 1 to 100000 nodes".into(), self.cluster.nodes.span());
        }
        let coordinators = &self.cluster.coordinators;
        if *coordinators.get_ref() == 0 || *coordinators.get_ref() > nodes {
            let message =
                format!("expected 1 to {nodes} coordinators: the cluster has {nodes} nodes");
            return fail(message, coordinators.span());
        }
        let regions = &self.cluster.regions;
        if *regions.get_ref() == 0 || *regions.get_ref() > crate::net::REGIONS {
            let message = format!("expected 1 to {} regions", crate::net::REGIONS);
            return fail(message, regions.span());
        }
        for (name, number) in [
            ("operations", &self.workload.operations),
            ("in_flight", &self.workload.in_flight),
            ("cells", &self.workload.cells),
        ] {
            if !(1..=10_000_000).contains(number.get_ref()) {
                return fail(format!("expected {name} from 1 to 10000000"), number.span());
            }
        }
        let participants = &self.workload.participants;
        if *participants.get_ref() == 0 || *participants.get_ref() > nodes.min(64) {
            let message = format!(
                "expected 1 to {} participants: the cluster has {nodes} nodes, and a transaction at \
                 most 64 participants",
                nodes.min(64)
            );
            return fail(message, participants.span());
        }
        let steps = &self.workload.steps;
        if *steps.get_ref() == 0 || *steps.get_ref() > 32 {
            return fail("expected 1 to 32 steps".into(), steps.span());
        }
        let log = self.disk.log();
        if let Err(error) = log.validate() {
            return fail(format!("[disk]: {error}"), self.disk.segment_bytes_first.span());
        }
        let waves = &self.workload.waves;
        let sum: u64 = waves.get_ref().iter().map(|wave| u64::from(*wave)).sum();
        if !waves.get_ref().is_empty() && sum != u64::from(*self.workload.operations.get_ref()) {
            let operations = self.workload.operations.get_ref();
            let message = format!("the waves hold {sum} operations, the workload {operations}");
            return fail(message, waves.span());
        }
        if let Some(recovered) = &self.expect.recovered {
            let names: Vec<&str> =
                coordinator::RecoveryAction::ALL.iter().map(|action| action.name()).collect();
            let strange = recovered.get_ref().keys().find(|name| !names.contains(&name.as_str()));
            if let Some(name) = strange {
                return fail(unknown("action", name, names.into_iter()), recovered.span());
            }
        }
        for entry in &self.fault {
            let fault = match entry.get_ref().fault() {
                Ok(fault) => fault,
                Err(message) => return fail(message, entry.span()),
            };
            if let Action::PowerLoss { again, .. } = &fault.action
                && again.len() > 3
            {
                let message = "expected at most three entries in `again`".to_owned();
                return fail(message, entry.span());
            }
            if let Action::Partition { from, to, .. } | Action::Drop { from, to, .. } =
                &fault.action
            {
                let regions = *self.cluster.regions.get_ref();
                let strange =
                    |set: &NodeSet| matches!(set, NodeSet::Region(region) if *region >= regions);
                if strange(from) || strange(to) {
                    let message = format!("there are only the regions 0 to {}", regions - 1);
                    return fail(message, entry.span());
                }
            }
            let named = |set: &NodeSet| match set {
                NodeSet::Nodes(nodes) => nodes.clone(),
                NodeSet::Rest | NodeSet::Region(_) => Vec::new(),
            };
            let mut touched = match &fault.action {
                Action::PowerLoss { node, .. }
                | Action::ProcessCrash { node, .. }
                | Action::Zombie { node, .. }
                | Action::Pause { node, .. } => vec![*node],
                Action::Heal => Vec::new(),
                Action::Partition { from, to, .. } | Action::Drop { from, to, .. } => {
                    [named(from), named(to)].concat()
                }
            };
            if let Trigger::On { node, .. } = fault.trigger {
                touched.push(node);
            }
            if let Some(node) = touched.into_iter().find(|node| *node >= nodes) {
                let message =
                    format!("there is no node n{node}: the cluster has n0 to n{}", nodes - 1);
                return fail(message, entry.span());
            }
        }
        Ok(())
    }
}

/// The nearest word to one that serde does not know.
fn suggestion(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next().filter(|_| message.starts_with("unknown"))?;
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
        check("= 5", "= \"5\"", "\"5\"", &["expected u32"]);
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
        check("down = \"20ms\"", "", "[[fault]]", &["needs `down`"]);
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
            pauses = 2\npartitions = 4\ndrops = 3\nparticipant_crashes = 3\nprocess_crashes = 2\n"
        );
        let scenario = parse(&text).unwrap();
        let plan = crate::plan::Plan::generate(&scenario, 7);
        assert_eq!(plan.faults.len(), 22);
        for fault in &plan.faults {
            let entry = FaultEntry::of(fault);
            let text = toml::to_string(&entry).unwrap();
            let back: FaultEntry = toml::from_str(&text).unwrap();
            let back = back.fault().unwrap();
            assert_eq!((&back.trigger, &back.action), (&fault.trigger, &fault.action), "{text}");
        }
    }
}
