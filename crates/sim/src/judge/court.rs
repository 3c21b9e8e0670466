//! The court: every rule, over one reading of the logs.
//!
//! The rules share what the logs say, so they sit together: each sync is read once, each message is
//! looked up once.

use super::facts::Facts;
use super::ledger::{Checked, Ledger, Objection, Opened};
use super::reader::Told;
use super::{Durable, Findings, Judge, Moment};
use crate::shared::SharedVec;
use base::RequestKey;
use coordinator::{Intervened, LogSlot, Message, Operated, Outcome, RecoveryReport, Request};
use node::Node;
use std::collections::BTreeMap;
use wal_core::{Directory, SegmentId};

/// Judges a run by what its nodes' logs hold for good.
///
/// | rule | what is objected to |
/// |---|---|
/// | `G1`, `G3`, `G6` | a record that was durable is gone, or another one; a log that does not read; a log that says of another node what that node's log does not say |
/// | `G9` | a watermark that promises too much |
/// | `finished` | a coordinator says of an operation that it is finished whose end is not durable |
/// | `legal` | a record that does not follow from those before it in its log |
/// | `gate` | COMMIT, "committed", YES, ACK, a promised NO, a step's call, compensation or answer, the end told to a client, an order told to its operator, before the records that it rests on are durable; any answer to a coordinator before the epoch of the operation that it is about is |
/// | `G13`, `G14` | a commit without every durable YES; a promise broken or decided alone |
/// | `I1`, `I2`, `I3` | two ends of one transaction, at participants, to clients, in messages; unless an operator has ended a branch, and then its coordinator lists it |
/// | `I4`, `I5`, `G20` | a token with two effects, an effect behind its tombstone, an undo out of order, an end with effects missing or left |
/// | `nested` | an operation that runs on behalf of a step which it must not do or undo now, or while another one does; a step that succeeds, fails or is undone otherwise than its operation; an operation that ends before its saga knows how |
/// | `key` | one request key for two operations; a client that asks again is not told the same, or not that its key is taken |
/// | `I6`, `G15` | at a quiet end: a saga without an end, stores that differ from what clients were promised |
/// | `I7` | a recovery that finds another state than the model does in the same bytes |
/// | `I8`, `G17` | an effect of a replaced epoch; a command under an epoch that is not durable |
/// | `I12` | a cell with two holders, or changed under somebody's lock |
#[derive(Clone, Debug)]
pub struct Court {
    ledgers: SharedVec<[Ledger; 2]>,
    /// Who has opened each log: every message is held against it.
    opened: Vec<[Opened; 2]>,
    facts: Facts,
    recoveries: u64,
    kept_unsynced: u64,
    wrote_behind_a_seal: u64,
}

impl Court {
    /// A court for a world of so many nodes.
    #[must_use]
    pub fn new(nodes: u32) -> Court {
        Court {
            ledgers: SharedVec::alike(Default::default(), nodes as usize),
            opened: vec![Default::default(); nodes as usize],
            facts: Facts::new(nodes),
            recoveries: 0,
            kept_unsynced: 0,
            wrote_behind_a_seal: 0,
        }
    }
}

/// Keeps the first objection.
fn note(first: &mut Option<Box<Objection>>, checked: Checked) {
    if let Err(objection) = checked
        && first.is_none()
    {
        *first = Some(objection);
    }
}

fn settle(at: Moment, node: Option<u32>, objection: Option<Box<Objection>>, found: &mut Findings) {
    if let Some(objection) = objection {
        let Objection { invariant, what } = *objection;
        match node {
            Some(node) => found.object(invariant, at, format!("n{node}: {what}")),
            None => found.object(invariant, at, what),
        }
    }
}

impl Judge for Court {
    fn submitted(&mut self, _at: Moment, _node: u32, request: &Request) {
        self.facts.submitted(request);
    }

    fn sent(&mut self, at: Moment, from: u32, to: u32, message: &Message, found: &mut Findings) {
        if let Err(objection) = self.facts.sent(from, to, message, &self.opened) {
            settle(at, None, Some(objection), found);
        }
    }

    fn synced(
        &mut self,
        at: Moment,
        node: u32,
        slot: LogSlot,
        segment: SegmentId,
        disk: Durable<'_>,
        found: &mut Findings,
    ) {
        let (facts, mut first) = (&mut self.facts, None);
        let ledger = &mut self.ledgers[node as usize][slot as usize];
        let read = ledger.synced(segment, disk, &mut |record| {
            let checked = match slot {
                LogSlot::Coordinator => facts.coordinated(node, record),
                LogSlot::Participant => facts.taken(node, record),
            };
            note(&mut first, checked);
        });
        note(&mut first, read);
        settle(at, Some(node), first, found);
    }

    fn replied(&mut self, at: Moment, key: &RequestKey, outcome: &Outcome, found: &mut Findings) {
        settle(at, None, self.facts.replied(key, outcome).err(), found);
    }

    fn asked_again(
        &mut self,
        at: Moment,
        key: &RequestKey,
        other: bool,
        heard: &[Outcome],
        found: &mut Findings,
    ) {
        settle(at, None, self.facts.asked_again(key, other, heard).err(), found);
    }

    fn operated(&mut self, at: Moment, node: u32, told: &Operated, found: &mut Findings) {
        settle(at, None, self.facts.operated(node, told).err(), found);
    }

    fn intervened(&mut self, at: Moment, node: u32, told: &Intervened, found: &mut Findings) {
        settle(at, None, self.facts.intervened(node, told).err(), found);
    }

    fn recovered(
        &mut self,
        at: Moment,
        node: u32,
        slot: LogSlot,
        report: &RecoveryReport,
        disk: &dyn Directory,
        recycled: bool,
        found: &mut Findings,
    ) {
        self.recoveries += 1;
        let (facts, mut first) = (&mut self.facts, None);
        let ledger = &mut self.ledgers[node as usize][slot as usize];
        let before = ledger.durable();
        let mut told = Told::default();
        let read = ledger.recovered(disk, &mut |record| {
            let checked = match slot {
                LogSlot::Coordinator => facts.coordinated(node, record),
                LogSlot::Participant => facts.taken(node, record),
            };
            note(&mut first, checked);
        });
        self.kept_unsynced += u64::from(ledger.durable() > before);
        match read {
            Ok(end) => {
                told = Told { recycled, ..end.told };
                self.wrote_behind_a_seal += u64::from(end.fenced_bytes > 0);
                if let Some(opened) = ledger.opened() {
                    self.opened[node as usize][slot as usize] = opened;
                }
            }
            Err(objection) => note(&mut first, Err(objection)),
        }
        if first.is_none() {
            let checked = match slot {
                LogSlot::Coordinator => facts.coordinator_recovered(node, report, &told),
                LogSlot::Participant => facts.participant_recovered(node, report, &told),
            };
            note(&mut first, checked);
        }
        settle(at, Some(node), first, found);
    }

    fn copied(&self) -> Box<dyn Judge> {
        Box::new(self.clone())
    }

    fn observed(&self, into: &mut BTreeMap<&'static str, u64>) {
        self.facts.observed(into);
        *into.entry("kept_unsynced").or_default() += self.kept_unsynced;
        *into.entry("wrote_behind_a_seal").or_default() += self.wrote_behind_a_seal;
    }

    fn ended(&mut self, at: Moment, nodes: &[Option<&Node>], found: &mut Findings) {
        settle(at, None, self.facts.ended(nodes).err(), found);
    }
}
