//! How many bytes went from whom to whom, by what both ends say.

use base::{NodeName, Ratio, Time, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The numbers of bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandwidthConfig {
    /// Over which time bytes are added up: 60 s.
    pub window: Duration,
    /// How long one end's report waits for the other's: 150 s, two windows and some time on the way, since each end
    /// reports once in a window.
    pub confirm: Duration,
    /// How far the two may be apart, as a part of the larger: 0.05.
    pub tolerance: Ratio,
    /// How many reports wait at most: 65,536.
    pub waiting_max: u32,
}

impl Default for BandwidthConfig {
    fn default() -> BandwidthConfig {
        BandwidthConfig {
            window: Duration::from_secs(60),
            confirm: Duration::from_secs(150),
            tolerance: Ratio::percent(5),
            waiting_max: 65_536,
        }
    }
}

/// What one end says of a transfer that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferReport {
    /// Which transfer of these two: both ends know its token.
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
    /// A window is over, and this is what a node has moved in it.
    Moved {
        /// Who.
        node: NodeName,
        /// What.
        moved: Moved,
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
    /// Bytes of the same transfers by what those say that say more: all that count, if nobody is wrong.
    pub claimed_bytes: u64,
}

impl Moved {
    /// Which part of what was claimed counts. Both ends of a dispute have less than all: one is wrong, and who is
    /// wrong in every transfer has least.
    #[must_use]
    pub fn kept(&self) -> Ratio {
        let counts = u128::from(self.sent_bytes) + u128::from(self.received_bytes);
        let claimed = u128::from(self.claimed_bytes).max(counts);
        let parts = (counts * 1_000_000).checked_div(claimed).unwrap_or(1_000_000);
        Ratio::per_million(u32::try_from(parts).expect("a part of what is at least as much"))
    }
}

/// A transfer: its ends, and their token for it. Who names other ends speaks of another one.
type Key = (NodeName, NodeName, Token);

/// Adds up transfers that both ends have reported. What one end says alone is worth nothing: else
/// everybody would be as fast as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    config: BandwidthConfig,
    /// Who has reported how many bytes, and until when the other end may.
    waiting: BTreeMap<Key, (NodeName, u64, Time)>,
    by_end: BTreeSet<(Time, Key)>,
    /// Transfers that were counted, as long as a copy of a report could come.
    counted: BTreeSet<Key>,
    window_ends: Time,
    current: BTreeMap<NodeName, Moved>,
}

impl Bandwidth {
    /// Nothing yet.
    #[must_use]
    pub fn new(config: BandwidthConfig, now: Time) -> Bandwidth {
        Bandwidth {
            config,
            waiting: BTreeMap::new(),
            by_end: BTreeSet::new(),
            counted: BTreeSet::new(),
            window_ends: now + config.window,
            current: BTreeMap::new(),
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
        let TransferReport { transfer, from, to, bytes } = report;
        let key = (from, to, transfer);
        if self.counted.contains(&key) {
            return Err(ReportError::Twice);
        }
        let Some(&(other, first, until)) = self.waiting.get(&key) else {
            let max = self.config.waiting_max;
            if self.waiting.len() >= max as usize {
                return Err(ReportError::Crowded { max });
            }
            let until = now + self.config.confirm;
            self.waiting.insert(key, (by, bytes, until));
            self.by_end.insert((until, key));
            return Ok(());
        };
        if other == by {
            return Err(ReportError::Twice);
        }
        self.waiting.remove(&key);
        self.by_end.remove(&(until, key));
        // The same place in the list of ends tells when it can be forgotten.
        self.counted.insert(key);
        self.by_end.insert((now + self.config.confirm, key));
        let (sent, received) = if by == from { (bytes, first) } else { (first, bytes) };
        let (low, high) = (sent.min(received), sent.max(received));
        let tolerance = u128::from(self.config.tolerance.parts_per_million());
        let apart = u128::from(high - low) * 1_000_000 > u128::from(high) * tolerance;
        let claimed = if apart { high } else { low };
        let sender = self.current.entry(from).or_default();
        sender.sent_bytes = sender.sent_bytes.saturating_add(low);
        sender.claimed_bytes = sender.claimed_bytes.saturating_add(claimed);
        let receiver = self.current.entry(to).or_default();
        receiver.received_bytes = receiver.received_bytes.saturating_add(low);
        receiver.claimed_bytes = receiver.claimed_bytes.saturating_add(claimed);
        out.push(if apart {
            Reconciled::Disputed { from, to, sent, received }
        } else {
            Reconciled::Agreed { from, to, bytes: low }
        });
        Ok(())
    }

    /// Time has passed: a window may be over, and reports without their other end are worth nothing.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Reconciled>) {
        while let Some(&(until, key)) = self.by_end.first()
            && until <= now
        {
            self.by_end.remove(&(until, key));
            if !self.counted.remove(&key)
                && let Some((by, ..)) = self.waiting.remove(&key)
            {
                let other = if by == key.0 { key.1 } else { key.0 };
                out.push(Reconciled::Unconfirmed { by, other });
            }
        }
        if self.window_ends <= now {
            let next = self.window_ends + self.config.window;
            let over = std::mem::take(&mut self.current).into_iter();
            out.extend(over.map(|(node, moved)| Reconciled::Moved { node, moved }));
            self.window_ends = if next > now { next } else { now + self.config.window };
        }
    }

    /// When [`tick`](Self::tick) has something to do; `None` while nothing was reported.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let window = (!self.current.is_empty()).then_some(self.window_ends);
        Time::earliest(window, self.by_end.first().map(|(until, _)| *until))
    }
}
