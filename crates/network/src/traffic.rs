//! Bytes that were moved, by what both ends of each transfer say.
//!
//! Each end notes a transfer when it is over for it: whoever gives the bytes when they leave, whoever has asked for
//! them when they have come in time and are what was asked for. What was noted is reported to the authority once in
//! a period, all in one message, and in none if there is nothing. The authority holds the two reports of a transfer
//! against each other ([`placement::Bandwidth`]): what one end says alone counts for nothing, and of two that
//! disagree the lower counts and both have kept less than they said. The part that a node has kept in a window is what
//! its reputation's third part is made of. Reports that are lost are not sent again: then nothing counts, and nobody
//! is blamed. Two that agree to lie about what goes between them are believed: nobody else has
//! seen it.

use crate::message::Message;
use crate::node::{Config, StorageNode};
use base::prng::keyed_hash;
use base::{NodeName, Time, Token};
use incentives::Observation;
use placement::{Bandwidth, BandwidthConfig, Moved, Reconciled, TransferReport};
use std::collections::BTreeMap;

/// So many transfers are reported in one message at most; then it is sent before its time.
pub(crate) const BATCH_MAX: usize = 1_024;

/// A transfer, as one of its ends reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Both ends know it.
    pub token: Token,
    /// The other end.
    pub other: NodeName,
    /// Whether the bytes went to that one, and did not come from it.
    pub sent: bool,
    /// How many.
    pub bytes: u64,
}

/// The token of a transfer: who asked for it, and under which number.
fn token(asker: NodeName, number: u64) -> Token {
    let mut name = [0; 16];
    name.copy_from_slice(&asker.0[..16]);
    Token::new(keyed_hash(u128::from_le_bytes(name), asker.number(), number))
}

/// What a node has moved and not reported; at the authority, what all have reported.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// Nothing is noted where nothing is reported.
    reports: bool,
    noted: Vec<Transfer>,
    books: Option<Books>,
}

#[derive(Clone, Debug)]
struct Books {
    bandwidth: Bandwidth,
    /// What counts of each node, since this one started.
    all: BTreeMap<NodeName, Moved>,
}

impl Traffic {
    pub(crate) fn new(config: &Config, now: Time) -> Traffic {
        let is_authority = config.authority == config.transactions.name;
        let books = config.report_every.filter(|_| is_authority).map(|every| {
            // Each end reports once in a period, somewhere in it.
            let confirm = 2 * every + config.patience;
            let bandwidth = BandwidthConfig { window: every, confirm, ..Default::default() };
            Books { bandwidth: Bandwidth::new(bandwidth, now), all: BTreeMap::new() }
        });
        Traffic { reports: config.report_every.is_some(), noted: Vec::new(), books }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        self.books.as_ref().and_then(|books| books.bandwidth.due())
    }
}

impl StorageNode {
    /// Bytes leave for whoever asked for them.
    pub(crate) fn moved_to(&mut self, to: NodeName, number: u64, bytes: usize) {
        let token = token(to, number);
        self.note_moved(Transfer { token, other: to, sent: true, bytes: bytes as u64 });
    }

    /// Bytes that this node has asked for have come, and are right.
    pub(crate) fn moved_from(&mut self, from: NodeName, number: u64, bytes: usize) {
        let token = token(self.name, number);
        self.note_moved(Transfer { token, other: from, sent: false, bytes: bytes as u64 });
    }

    fn note_moved(&mut self, transfer: Transfer) {
        // What goes from a node to itself goes over no line.
        if !self.traffic.reports || transfer.other == self.name {
            return;
        }
        self.traffic.noted.push(transfer);
        if self.traffic.noted.len() >= BATCH_MAX {
            self.report_moved();
        }
    }

    /// Tells the authority what was moved since it was told last, if anything was.
    pub(crate) fn report_moved(&mut self) {
        let noted = std::mem::take(&mut self.traffic.noted);
        if !noted.is_empty() {
            self.send(self.config.authority, Message::Moved(noted));
        }
    }

    /// A node reports what it has moved.
    pub(crate) fn moved_reported(&mut self, now: Time, by: NodeName, transfers: &[Transfer]) {
        let Some(books) = &mut self.traffic.books else { return };
        let mut out = Vec::new();
        for &Transfer { token: transfer, other, sent, bytes } in transfers {
            let (from, to) = if sent { (by, other) } else { (other, by) };
            let report = TransferReport { transfer, from, to, bytes };
            // What is refused is not counted: it came twice, say, or too many wait.
            let _ = books.bandwidth.report(now, by, report, &mut out);
        }
        self.reconciled(now, out);
    }

    /// Time has passed: a window may be over.
    pub(crate) fn traffic_wake(&mut self, now: Time) {
        let Some(books) = &mut self.traffic.books else { return };
        let mut out = Vec::new();
        books.bandwidth.tick(now, &mut out);
        self.reconciled(now, out);
    }

    fn reconciled(&mut self, now: Time, found: Vec<Reconciled>) {
        let Some(books) = &mut self.traffic.books else { return };
        for found in found {
            let (from, to, bytes) = match found {
                Reconciled::Agreed { from, to, bytes } => (from, to, bytes),
                Reconciled::Disputed { from, to, sent, received } => {
                    self.stats.disputed += 1;
                    (from, to, sent.min(received))
                }
                // Either report may be lost, and so may the bytes.
                Reconciled::Unconfirmed { .. } => {
                    self.stats.unconfirmed += 1;
                    continue;
                }
                Reconciled::Moved { node, moved } => {
                    let delivered = moved.kept();
                    let reputation = &mut self.keeping.reputation;
                    reputation.observe(now, node, Observation::Bandwidth { delivered });
                    self.membership.set_reputation(node, reputation.score(now, node));
                    continue;
                }
            };
            self.stats.agreed_bytes += bytes;
            books.all.entry(from).or_default().sent_bytes += bytes;
            books.all.entry(to).or_default().received_bytes += bytes;
        }
    }

    /// Of the authority: what each node has moved since this one started, by what both ends say.
    pub fn reconciled_bytes(&self) -> impl Iterator<Item = (NodeName, Moved)> {
        let books = self.traffic.books.iter();
        books.flat_map(|books| &books.all).map(|(node, moved)| (*node, *moved))
    }
}
