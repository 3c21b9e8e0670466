//! The judges: what must hold, seen from outside.
//!
//! A judge shares no code with what it judges. It sees messages as they leave, bytes as they become
//! durable or survive a crash, what clients are told, and what a node says it recovered; it never asks
//! a machine for its opinion.

mod cells;
mod court;
mod facts;
mod forced;
mod ids;
mod ledger;
pub mod model;
mod nested;
pub(crate) mod payload;
pub mod reader;
mod survey;

pub use crate::disk::Durable;
pub use court::Court;
pub use ids::IdMap;

use base::{RequestKey, Time};
use coordinator::{LogSlot, Message, Outcome, RecoveryReport, Request};
use node::Node;
use std::collections::BTreeMap;
use std::fmt;
use wal_core::Directory;

/// When something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// In simulated time.
    pub now: Time,
    /// As the number of the event in its run.
    pub event: u64,
}

/// Something that must never happen has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule: `I1` to `I12`, `G1` to `G24`, or a name.
    pub invariant: &'static str,
    /// When.
    pub at: Moment,
    /// What happened, for people.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { invariant, at, what } = self;
        write!(f, "{invariant} at {} (event {}): {what}", at.now, at.event)
    }
}

/// What the judges have found; the first violation ends a run.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The violations, in the order found.
    pub violations: Vec<Violation>,
}

impl Findings {
    /// Objects.
    pub fn object(&mut self, invariant: &'static str, at: Moment, what: impl Into<String>) {
        self.violations.push(Violation { invariant, at, what: what.into() });
    }
}

/// Every judge, for one run of this scenario.
#[must_use]
pub fn all(scenario: &crate::scenario::Scenario) -> Vec<Box<dyn Judge>> {
    vec![Box::new(Court::new(*scenario.cluster.nodes.get_ref()))]
}

impl Clone for Box<dyn Judge> {
    fn clone(&self) -> Self {
        self.copied()
    }
}

/// One judge. Every method is called in the order in which things happen. Nodes are numbered from 0;
/// node `n`'s name is [`base::NodeName::numbered`]`(n)`.
pub trait Judge {
    /// A client's request is handed to a coordinator's node, perhaps not for the first time.
    fn submitted(&mut self, _at: Moment, _node: u32, _request: &Request) {}

    /// A message leaves a node (whether or not the network then loses it).
    fn sent(
        &mut self,
        _at: Moment,
        _from: u32,
        _to: u32,
        _message: &Message,
        _found: &mut Findings,
    ) {
    }

    /// A sync of one of a node's logs is done: everything written to that segment before it is durable,
    /// and `_disk` shows it.
    fn synced(
        &mut self,
        _at: Moment,
        _node: u32,
        _slot: LogSlot,
        _segment: wal_core::SegmentId,
        _disk: Durable<'_>,
        _found: &mut Findings,
    ) {
    }

    /// A client is told how its request ended.
    fn replied(
        &mut self,
        _at: Moment,
        _key: &RequestKey,
        _outcome: &Outcome,
        _found: &mut Findings,
    ) {
    }

    /// A client that was told how its request ended has asked again, with the same request or with another
    /// one under its key, of a process that goes on; this is what it has heard at once.
    fn asked_again(
        &mut self,
        _at: Moment,
        _key: &RequestKey,
        _other: bool,
        _heard: &[Outcome],
        _found: &mut Findings,
    ) {
    }

    /// An operator is told what became of an order.
    fn operated(
        &mut self,
        _at: Moment,
        _node: u32,
        _told: &coordinator::Operated,
        _found: &mut Findings,
    ) {
    }

    /// An operator is told what became of an intervention.
    fn intervened(
        &mut self,
        _at: Moment,
        _node: u32,
        _told: &coordinator::Intervened,
        _found: &mut Findings,
    ) {
    }

    /// A node's process is gone; if its power failed, `power` is true and `disk` is what survived.
    fn crashed(
        &mut self,
        _at: Moment,
        _node: u32,
        _slot: LogSlot,
        _power: bool,
        _disk: &dyn Directory,
        _found: &mut Findings,
    ) {
    }

    /// A node has replayed one of its logs, and reports what it found before it acts on it. `disk` is
    /// what it read: the log ends where the newest segment's seal says. `recycled`: a process that it
    /// replaced has taken segments away since it started, which it may have read before.
    #[expect(clippy::too_many_arguments, reason = "each is another thing that is seen")]
    fn recovered(
        &mut self,
        _at: Moment,
        _node: u32,
        _slot: LogSlot,
        _report: &RecoveryReport,
        _disk: &dyn Directory,
        _recycled: bool,
        _found: &mut Findings,
    ) {
    }

    /// A copy that goes on for itself, for a copy of the world.
    fn copied(&self) -> Box<dyn Judge>;

    /// Adds how often each condition that a run should sometimes reach was seen, by its name.
    fn observed(&self, _into: &mut BTreeMap<&'static str, u64>) {}

    /// Faults are healed, the time to finish is over or nothing is left to do.
    fn ended(&mut self, _at: Moment, _nodes: &[Option<&Node>], _found: &mut Findings) {}
}
