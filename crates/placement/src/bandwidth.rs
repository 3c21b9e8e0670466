//! How many bytes went from whom to whom, by what both ends say.

use base::{NodeName, Ratio, Time, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The numbers of bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandwidthConfig {
    /// Over which time bytes are added up, and how long one end's report waits for the other's: 60 s.
    pub window: Duration,
    /// How far the two may be apart, as a part of the larger: 0.05.
    pub tolerance: Ratio,
    /// How many reports wait at most: 65,536.
    pub waiting_max: u32,
}

impl Default for BandwidthConfig {
    fn default() -> BandwidthConfig {
        BandwidthConfig {
            window: Duration::from_secs(60),
            tolerance: Ratio::percent(5),
            waiting_max: 65_536,
        }
    }
}

/// What one end says of a transfer that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferReport {
    /// Which transfer: both ends know its token.
    pub transfer: Token,
    /// Who sent.
    pub from: NodeName,
    /// Who received.
    pub to: NodeName,
    /// How many bytes.
    pub bytes: u64,
}

/// What follows from reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// Both ends say about the same. The lower number counts.
    Agreed {
        /// Who sent.
        from: NodeName,
        /// Who received.
        to: NodeName,
        /// How many bytes count.
        bytes: u64,
    },
    /// They do not. The lower number counts, and one of them is wrong.
    Disputed {
        /// Who sent.
        from: NodeName,
        /// Who received.
        to: NodeName,
        /// How many bytes the sender says.
        sent: u64,
        /// How many the receiver says.
        received: u64,
    },
    /// The other end has said nothing in time. Nothing counts.
    Unconfirmed {
        /// Who has reported.
        by: NodeName,
        /// Who has not.
        other: NodeName,
    },
}

/// A report is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Only the two ends of a transfer report it, and they are two.
    #[error("it comes from neither end of the transfer, or both ends are one")]
    NotAnEnd,
    /// It has reported that transfer.
    #[error("this end has reported the transfer")]
    Twice,
    /// The other end says that others took part.
    #[error("the other end names other ends")]
    OtherEnds,
    /// Try again when some have been confirmed.
    #[error("{max} reports wait for their other end")]
    Crowded {
        /// How many may.
        max: u32,
    },
}

/// How much a node has moved within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes sent, by what both ends say.
    pub sent_bytes: u64,
    /// Bytes received, likewise.
    pub received_bytes: u64,
}

/// Adds up transfers that both ends have reported. What one end says alone is worth nothing: else
/// everybody would be as fast as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    config: BandwidthConfig,
    waiting: BTreeMap<Token, (NodeName, TransferReport, Time)>,
    by_end: BTreeSet<(Time, Token)>,
    /// Transfers that were counted, as long as a copy of a report could come.
    counted: BTreeMap<Token, Time>,
    window_ends: Time,
    current: BTreeMap<NodeName, Moved>,
    last: BTreeMap<NodeName, Moved>,
}

impl Bandwidth {
    /// Nothing yet.
    #[must_use]
    pub fn new(config: BandwidthConfig, now: Time) -> Bandwidth {
        Bandwidth {
            config,
            waiting: BTreeMap::new(),
            by_end: BTreeSet::new(),
            counted: BTreeMap::new(),
            window_ends: now + config.window,
            current: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    /// One end's report has come. `by` is whom it really came from.
    ///
    /// # Errors
    /// [`ReportError`]: it is not counted.
    pub fn report(
        &mut self,
        now: Time,
        by: NodeName,
        report: TransferReport,
        out: &mut Vec<Reconciled>,
    ) -> Result<(), ReportError> {
        self.tick(now, out);
        if report.from == report.to || by != report.from && by != report.to {
            return Err(ReportError::NotAnEnd);
        }
        if self.counted.contains_key(&report.transfer) {
            return Err(ReportError::Twice);
        }
        let TransferReport { transfer, from, to, bytes } = report;
        let Some(&(other, first, until)) = self.waiting.get(&transfer) else {
            let max = self.config.waiting_max;
            if self.waiting.len() >= max as usize {
                return Err(ReportError::Crowded { max });
            }
            let until = now + self.config.window;
            self.waiting.insert(transfer, (by, report, until));
            self.by_end.insert((until, transfer));
            return Ok(());
        };
        if (first.from, first.to) != (from, to) {
            return Err(ReportError::OtherEnds);
        }
        if other == by {
            return Err(ReportError::Twice);
        }
        self.waiting.remove(&transfer);
        self.by_end.remove(&(until, transfer));
        // The same place in the list of ends tells when it can be forgotten.
        let forget = now + self.config.window;
        self.counted.insert(transfer, forget);
        self.by_end.insert((forget, transfer));
        let (sent, received) = if by == from { (bytes, first.bytes) } else { (first.bytes, bytes) };
        let (low, high) = (sent.min(received), sent.max(received));
        let tolerance = u128::from(self.config.tolerance.parts_per_million());
        let apart = u128::from(high - low) * 1_000_000 > u128::from(high) * tolerance;
        let sender = self.current.entry(from).or_default();
        sender.sent_bytes = sender.sent_bytes.saturating_add(low);
        let receiver = self.current.entry(to).or_default();
        receiver.received_bytes = receiver.received_bytes.saturating_add(low);
        out.push(if apart {
            Reconciled::Disputed { from, to, sent, received }
        } else {
            Reconciled::Agreed { from, to, bytes: low }
        });
        Ok(())
    }

    /// Time has passed: a window may be over, and reports without their other end are worth nothing.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Reconciled>) {
        while let Some(&(until, transfer)) = self.by_end.first()
            && until <= now
        {
            self.by_end.remove(&(until, transfer));
            if self.counted.remove(&transfer).is_none()
                && let Some((by, report, _)) = self.waiting.remove(&transfer)
            {
                let other = if by == report.from { report.to } else { report.from };
                out.push(Reconciled::Unconfirmed { by, other });
            }
        }
        if self.window_ends <= now {
            let next = self.window_ends + self.config.window;
            let current = std::mem::take(&mut self.current);
            // After a silence of more than a window the last one is empty.
            self.last = if next > now { current } else { BTreeMap::new() };
            self.window_ends = if next > now { next } else { now + self.config.window };
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Time {
        self.by_end.first().map_or(self.window_ends, |(until, _)| self.window_ends.min(*until))
    }

    /// What the node has moved in the last whole window.
    #[must_use]
    pub fn moved(&self, node: NodeName) -> Moved {
        self.last.get(&node).copied().unwrap_or_default()
    }
}
