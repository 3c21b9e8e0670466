//! What every operation of an engine needs: the log, the timers, and how often something is sent.

use super::sagas::Encoded;
use super::steps::Errand;
use super::transactions::Announced;
use super::{Admitted, Config, OpRef, Stats};
use crate::gated::GatedLog;
use crate::output::Refusal;
use crate::snapshot::SpareTrails;
use base::{Epoch, NodeName, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use wal_core::RECORD_HEADER_BYTES;

/// Who has sent so often what is owed, without an answer, has waited long.
const LONG: u32 = 3;

/// Which of the things that an operation owes have been sent at least once, by their slots. Our own
/// operations use slots below 256; a foreign log's may use any.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    low: [u64; 4],
    high: BTreeSet<u64>,
}

impl Sent {
    /// True if it had not been marked.
    pub(super) fn mark(&mut self, slot: u64) -> bool {
        let Some(word) = self.low.get_mut((slot / 64).min(4) as usize) else {
            return self.high.insert(slot);
        };
        let fresh = *word >> (slot % 64) & 1 == 0;
        *word |= 1 << (slot % 64);
        fresh
    }

    /// As if it had never been sent.
    pub(super) fn forget(&mut self, slot: u64) {
        match self.low.get_mut((slot / 64).min(4) as usize) {
            Some(word) => *word &= !(1 << (slot % 64)),
            None => {
                self.high.remove(&slot);
            }
        }
    }
}

/// When an operation is looked at again, and how patient it has become.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    pub(super) wake: Time,
    /// Under which time it stands among the timers, not later than `wake`: most operations are looked at
    /// again later and later until they end, and their timers need not be moved each time.
    pub(super) listed: Time,
    pub(super) attempt: u32,
    /// How many waits have had their jitter drawn.
    waits: u32,
    pub(super) started: Time,
}

impl Pace {
    pub(super) fn new(now: Time) -> Pace {
        Pace { wake: Time::NEVER, listed: Time::NEVER, attempt: 0, waits: 0, started: now }
    }
}

/// The nodes that were asked for or heard of. Each has a place, so that its name is looked up once.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    pub(super) places: BTreeMap<NodeName, u32>,
    pub(super) announced: Vec<Announced>,
}

impl Nodes {
    pub(super) fn place(&mut self, node: NodeName) -> u32 {
        if let Some(place) = self.places.get(&node) {
            return *place;
        }
        self.announced.push(Announced::Expected(Vec::new()));
        let place = u32::try_from(self.announced.len() - 1);
        let place = place.expect("fewer than 2^32 nodes have a name");
        self.places.insert(node, place);
        place
    }

    pub(super) fn has_announced(&self, place: u32) -> bool {
        matches!(self.announced[place as usize], Announced::As(..))
    }
}

/// The parts of an engine that operations use while one of them is borrowed.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) config: Config,
    pub(super) epoch: Epoch,
    pub(super) log: GatedLog,
    /// One for each operation that waits: see [`Pace::listed`].
    pub(super) timers: BTreeSet<(Time, OpRef)>,
    pub(super) stats: Stats,
    pub(super) admitted: Admitted,
    pub(super) owed_transaction: Vec<twopc::coordinator::Effect>,
    pub(super) owed_saga: Vec<saga::Effect>,
    pub(super) encoded: Encoded,
    pub(super) spare_trails: SpareTrails,
    /// What operations owe each other.
    pub(super) errands: VecDeque<Errand>,
}

impl Desk {
    /// Sets the operation's timer by its patience, which doubles.
    pub(super) fn schedule(&mut self, pace: &mut Pace, now: Time, op: OpRef) {
        let doubled = self.config.resend_after.saturating_mul(1 << pace.attempt.min(16));
        let mut wait = doubled.min(self.config.resend_after_max);
        let percent = u64::from(self.config.jitter_percent.min(100));
        if percent > 0 {
            let id = match op {
                OpRef::Saga(id) | OpRef::Transaction(id) => id.0,
                OpRef::Waiting(number) => number,
            };
            pace.waits += 1;
            let draw = self.config.key.draw(id, u64::from(pace.waits) << 8 | 0xFF).nth(7);
            let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
            wait -= Duration::from_nanos(draw.between(0, nanos / 100 * percent));
        }
        pace.wake = now + wait;
        if pace.attempt >= LONG {
            // Perhaps nobody answers because somebody else has the log by now.
            self.log.check_epoch();
        }
        pace.attempt += 1;
        self.list(pace, op);
    }

    /// The log had no room for what an operation owes it: it is looked at again soon, whatever else it waits for.
    pub(super) fn look_again(&mut self, pace: &mut Pace, now: Time, op: OpRef) {
        if pace.listed == Time::NEVER {
            self.schedule(pace, now, op);
        } else {
            self.not_later_than(pace, now + self.config.resend_after, op);
        }
    }

    pub(super) fn not_later_than(&mut self, pace: &mut Pace, deadline: Time, op: OpRef) {
        if deadline < pace.wake {
            pace.wake = deadline;
            self.list(pace, op);
        }
    }

    fn list(&mut self, pace: &mut Pace, op: OpRef) {
        if pace.wake < pace.listed {
            self.timers.remove(&(pace.listed, op));
            pace.listed = pace.wake;
            self.timers.insert((pace.listed, op));
        }
    }

    /// The operation has ended.
    pub(super) fn forget_timer(&mut self, pace: &Pace, op: OpRef) {
        self.timers.remove(&(pace.listed, op));
    }

    /// Refuses an operation before anything of it is logged: a record too large, or a log whose buffer
    /// could not take the whole admission as one unit.
    pub(super) fn check_admission(
        &self,
        payloads: impl Iterator<Item = usize>,
    ) -> Result<(), Refusal> {
        let (mut records, mut total) = (0, 0);
        for bytes in payloads {
            self.check_payload(bytes)?;
            records += 1;
            total += u64::from(RECORD_HEADER_BYTES) + bytes as u64;
        }
        if total > self.log.log().room(records) { Err(Refusal::LogBusy) } else { Ok(()) }
    }

    /// Refuses what a participant could not log: it would never vote, and a step be called for ever.
    /// Participants are taken to have the same limit as this coordinator.
    pub(super) fn check_payload(&self, bytes: usize) -> Result<(), Refusal> {
        let payload_bytes_max = self.log.log().config().max_payload;
        let fits = bytes <= payload_bytes_max as usize;
        if fits { Ok(()) } else { Err(Refusal::TooLarge { payload_bytes_max }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::prng::Key;

    /// As in a set, on both sides of where words end and where the words end.
    #[test]
    fn what_was_sent_is_known_until_it_is_forgotten() {
        let mut stream = Key::root(1).stream();
        let (mut sent, mut model) = (Sent::default(), BTreeSet::new());
        for _ in 0..20_000 {
            let near = [0, 63, 64, 128, 191, 255, 256, 1_000][stream.below(8) as usize];
            let slot = near + stream.below(3);
            if stream.below(2) == 0 {
                assert_eq!(sent.mark(slot), model.insert(slot), "{slot}");
            } else {
                sent.forget(slot);
                model.remove(&slot);
            }
        }
    }
}
