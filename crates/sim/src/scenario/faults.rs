//! Faults as a scenario file, or a failure file, writes them: what strikes, when, and whom.

use super::errors::unknown;
use super::values::Span;
use crate::disk::DiskFate;
use crate::plan::{Action, Damage, Fault, NodeSet, Signal, Trigger};
use base::Time;
use node::MessageKind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use wal_core::EventType;

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
    /// The disk has no room for a log's next segment, and that is known.
    LogConfined,
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
    pub(super) fn keys(self) -> (&'static str, &'static [&'static str]) {
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
            Self::LogConfined => ("log-confined", &["node", "for"]),
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
pub(super) struct Misfit {
    pub(super) key: Option<&'static str>,
    pub(super) message: String,
}

impl Misfit {
    pub(super) fn at(key: &'static str, message: String) -> Misfit {
        Misfit { key: Some(key), message }
    }

    pub(super) fn missing(kind: FaultKind, key: &'static str, example: &str) -> Misfit {
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
    pub(super) fn fault(&self) -> Result<Fault, Misfit> {
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
            FaultKind::LogConfined => Action::LogConfined { node: node()?, lasts: lasts()? },
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
            Action::LogConfined { node, lasts } => {
                entry.kind = FaultKind::LogConfined;
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
