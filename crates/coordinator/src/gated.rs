use crate::gate::{Gate, push_made};
use crate::output::{LogSlot, Output};
use crate::snapshot::{Frame, Trail};
use base::{Sequence, Time};
use wal_core::{AppendError, Appended, DiskError, DiskOp, EventType, Log};

/// A log and the gate behind it: what is appended here, and what may leave once it is durable.
///
/// An append is forced if and only if an effect waits for it.
#[derive(Clone, Debug)]
pub struct GatedLog {
    slot: LogSlot,
    log: Log,
    gate: Gate<Output>,
    unix_ms_at_zero: i64,
}

impl GatedLog {
    /// A gate behind an opened log. `unix_ms_at_zero` is the wall clock at [`Time::ZERO`], in
    /// milliseconds: for the timestamps that people read.
    #[must_use]
    pub fn new(slot: LogSlot, log: Log, unix_ms_at_zero: i64) -> GatedLog {
        GatedLog { slot, log, gate: Gate::default(), unix_ms_at_zero }
    }

    /// Appends one record, whose payload `encode` writes behind what is in the buffer: see
    /// [`Log::append_with`]. It becomes durable with the next force.
    ///
    /// # Errors
    /// What the log says; nothing was appended.
    pub fn append(
        &mut self,
        now: Time,
        out: &mut Vec<Output>,
        encode: impl FnOnce(&mut Vec<u8>) -> EventType,
    ) -> Result<Sequence, AppendError> {
        let timestamp_ms = self.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
        let Appended { event, sequence, .. } = self.log.append_with(timestamp_ms, encode)?;
        push_made(out, || Output::Appended { slot: self.slot, event, sequence });
        Ok(sequence)
    }

    /// As [`append`](Self::append), and the record is added to its operation's trail.
    pub(crate) fn append_kept(
        &mut self,
        now: Time,
        trail: &mut Trail,
        out: &mut Vec<Output>,
        encode: impl FnOnce(&mut Vec<u8>) -> EventType,
    ) -> Result<Sequence, AppendError> {
        let timestamp_ms = self.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
        let appended = self.log.append_with(timestamp_ms, encode)?;
        let Appended { event, sequence, payload } = appended;
        trail.push(&Frame { sequence, timestamp_ms, event, payload });
        push_made(out, || Output::Appended { slot: self.slot, event, sequence });
        Ok(sequence)
    }

    /// Appends the next part of a snapshot: see [`Log::append_part`].
    ///
    /// # Errors
    /// What the log says; nothing was appended.
    ///
    /// # Panics
    /// As `Log::append_part`.
    pub fn append_part(
        &mut self,
        now: Time,
        counts: (u64, u64),
        last: bool,
        part: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), AppendError> {
        let timestamp_ms = self.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
        let encode = |payload: &mut Vec<u8>| payload.extend_from_slice(part);
        let sequence = self.log.append_part(timestamp_ms, counts, last, encode)?;
        let event = EventType::CHECKPOINT;
        out.push(Output::Appended { slot: self.slot, event, sequence });
        Ok(())
    }

    /// Lets `effect` leave once `after` is durable, and forces the log if it is not yet.
    #[inline]
    pub fn owe(&mut self, after: Sequence, effect: Output, out: &mut Vec<Output>) {
        self.owe_made(after, out, || effect);
    }

    /// As [`owe`](Self::owe), of an effect that is made where it leaves or is held.
    #[inline]
    pub fn owe_made(
        &mut self,
        after: Sequence,
        out: &mut Vec<Output>,
        effect: impl FnOnce() -> Output,
    ) {
        if self.is_durable(after) {
            push_made(out, effect);
        } else {
            self.gate.hold_made(after, effect);
            self.log.force(after);
        }
    }

    /// Makes `sequence` durable soon, without an effect that waits for it.
    pub fn force(&mut self, sequence: Sequence) {
        self.log.force(sequence);
    }

    /// Has the next flush look whether somebody else has taken the log over: see [`Log::check_epoch`].
    pub fn check_epoch(&mut self) {
        self.log.check_epoch();
    }

    /// True if the record has survived whatever may come now. Of a poisoned log nothing is newly so.
    #[must_use]
    pub fn is_durable(&self, sequence: Sequence) -> bool {
        sequence <= self.log.durable()
    }

    /// The flush that was handed out is done, or has failed.
    pub fn flushed(&mut self, now: Time, result: Result<(), DiskError>, out: &mut Vec<Output>) {
        self.log.flushed(now, result);
        if let Some(reason) = self.log.poisoned() {
            out.push(Output::Died { slot: self.slot, reason: reason.to_string() });
            return;
        }
        self.gate.release(self.log.durable(), out);
    }

    /// Hands out the next flush, if one is due and none is under way.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Some(flush) = self.log.next_flush(now) {
            out.push(Output::Disk { slot: self.slot, ops: flush.ops });
        }
    }

    /// Takes the operations of a flush back once they were performed: see [`Log::reuse`].
    pub fn reuse(&mut self, spent: Vec<DiskOp>) {
        self.log.reuse(spent);
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether the disk has room for the log's current segment only: see [`Log::confine`].
    pub fn confine(&mut self, confined: bool) {
        self.log.confine(confined);
    }

    /// How many effects wait for the disk.
    #[must_use]
    pub fn held(&self) -> usize {
        self.gate.len()
    }
}
