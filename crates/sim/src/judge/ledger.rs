//! What one log has on its disk for good, as the judges know it.
//!
//! A record counts once a sync of it is done while no newer segment's name is durable: whoever takes
//! the log over later reads it. What is synced behind a successor's back counts only if a recovery
//! keeps it. Since nothing is ever taken back, the ledger of a log is a list of fingerprints that
//! only grows.

use super::Durable;
use super::payload::Fields;
use super::reader::{self, Cursor, End, LogRecord, NoBatch};
use wal_core::{Directory, SegmentId};

/// What a rule has against something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The rule.
    pub invariant: &'static str,
    /// What happened, for people.
    pub what: String,
}

impl Objection {
    /// An objection. It is rare, and in a box, so that a check that passes hands little back.
    #[cold]
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Box<Objection> {
        Box::new(Objection { invariant, what: what.into() })
    }
}

/// Nothing, or what a rule has against it.
pub type Checked = Result<(), Box<Objection>>;

/// One log's durable records.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    cursor: Option<Cursor>,
    /// The fingerprint of every durable record, from sequence 1.
    sums: Vec<u32>,
    /// What a snapshot has begun to carry of an operation.
    carried: Vec<u8>,
}

/// Who has opened a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The log's id, known from its first recovery on.
    pub log_id: u64,
    /// The highest epoch that opened it.
    pub epoch: u32,
}

/// Holds what a part of a snapshot carries against what was durable: an operation's records are the very
/// ones that the log held under their numbers. `carried` is what earlier parts have begun.
fn carries(record: &LogRecord<'_>, carried: &mut Vec<u8>, sums: &[u32]) -> Checked {
    /// Whose records follow; records; what a participant carries.
    const OPERATION: u8 = 65;
    const RECORDS: u8 = 66;
    const PROMISE: u8 = 3;
    const STEP: u8 = 4;
    const FORCED: u8 = 5;
    let Some((number, _)) = reader::part(record) else { return Ok(()) };
    if number == 0 {
        carried.clear();
    }
    let what = |what: &str| {
        Objection::new("G11", format!("part {number}, record {}: {what}", record.sequence))
    };
    let (mut rest, mut more) = (Fields(&record.payload[25..]), false);
    let mut kind = 0;
    while !rest.0.is_empty() {
        let (Some(tag), Some([low, high])) = (rest.u8(), rest.array()) else {
            return Err(what("a tag is cut"));
        };
        let length = usize::from(u16::from_le_bytes([low, high]));
        let Some((value, behind)) = rest.0.split_at_checked(length) else {
            return Err(what("a value is cut"));
        };
        rest = Fields(behind);
        match (tag, value) {
            (OPERATION, [first, .., flags]) => (kind, more) = (*first, flags & 1 == 1),
            (RECORDS, value) => carried.extend_from_slice(value),
            _ => {}
        }
    }
    if more {
        return Ok(());
    }
    let all = std::mem::take(carried);
    let mut rest = Fields(&all);
    while !rest.0.is_empty() {
        let (Some(sequence), Some(ms), Some(event), Some(length)) =
            (rest.u64(), rest.u64(), rest.u8(), rest.u32())
        else {
            return Err(what("a record is cut"));
        };
        let Some((payload, behind)) = rest.0.split_at_checked(length as usize) else {
            return Err(what("a record is cut"));
        };
        rest = Fields(behind);
        let known = sequence.checked_sub(1).and_then(|at| sums.get(at as usize));
        let sum = reader::sum_of(sequence, event, ms as i64, payload);
        // What a participant carries is written anew: see `survey`.
        if ![PROMISE, STEP, FORCED].contains(&kind) && known != Some(&sum) {
            return Err(what(&format!("record {sequence} was another one")));
        }
    }
    Ok(())
}

impl Ledger {
    /// How many records are durable: the last one's sequence.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.sums.len() as u64
    }

    /// A sync of a segment is done; `disk` shows what is durable. Tells each record that is newly so,
    /// and costs as much as is new.
    ///
    /// # Errors
    /// What was synced does not read.
    pub fn synced(
        &mut self,
        segment: SegmentId,
        disk: Durable<'_>,
        each: &mut impl FnMut(&LogRecord<'_>),
    ) -> Checked {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        let superseded = disk.newest().is_some_and(|newest| newest > segment);
        if superseded || segment.0 < cursor.segment() {
            return Ok(());
        }
        if segment.0 > cursor.segment() {
            let unreadable = |flaw: reader::Unreadable| Objection::new("G3", flaw.to_string());
            let Some(claim) = reader::claim(&disk, segment).map_err(unreadable)? else {
                return Ok(());
            };
            *cursor = Cursor::new(claim, cursor.next - 1, cursor.chain);
        }
        let bytes = disk.tail(segment, cursor.offset).map_err(|error| {
            Objection::new("G3", format!("{segment:?} cannot be read: {error}"))
        })?;
        let (offset, durable) = (cursor.offset, self.sums.len() as u64);
        let (sums, carried) = (&mut self.sums, &mut self.carried);
        let mut held = Ok(());
        let stop = cursor.read(&bytes, &mut |record| {
            sums.push(record.sum);
            if record.event == 0xF0 && held.is_ok() {
                held = carries(record, carried, sums);
            }
            each(record);
        });
        held?;
        if stop != NoBatch::End {
            let at = cursor.offset;
            let what = format!("{segment:?} at {at}: synced bytes are no batch ({stop:?})");
            return Err(Objection::new("G3", what));
        }
        if cursor.watermark > durable {
            let mark = cursor.watermark;
            let what = format!(
                "{segment:?} behind {offset}: a watermark says that {mark} records are durable, \
                 {durable} were"
            );
            return Err(Objection::new("G9", what));
        }
        Ok(())
    }

    /// A recovery has read the log, and has sealed what it read. Tells each record that counts from
    /// now on.
    ///
    /// # Errors
    /// A record that counted is gone or another, or the log does not read.
    pub fn recovered(
        &mut self,
        disk: &dyn Directory,
        each: &mut impl FnMut(&LogRecord<'_>),
    ) -> Result<End, Box<Objection>> {
        let mut changed = None;
        let durable = self.sums.len() as u64;
        let (sums, carried) = (&mut self.sums, &mut self.carried);
        let mut held = Ok(());
        let read = reader::read_log(disk, &mut |record| {
            if record.sequence > durable {
                if changed.is_none() {
                    sums.push(record.sum);
                    if record.event == 0xF0 && held.is_ok() {
                        held = carries(record, carried, sums);
                    }
                    each(record);
                }
            } else if sums[record.sequence as usize - 1] != record.sum {
                changed.get_or_insert(record.sequence);
            }
        });
        let end = read.map_err(|flaw| Objection::new("G3", flaw.to_string()))?;
        held?;
        if let Some(sequence) = changed {
            let what = format!("record {sequence} was durable and is another one now");
            return Err(Objection::new("G6", what));
        }
        let last = end.cursor.map_or(0, |cursor| cursor.next - 1);
        if last < durable {
            let what = format!("{durable} records were durable, recovery kept {last}");
            return Err(Objection::new("G1", what));
        }
        self.cursor = end.cursor.map(Cursor::quick);
        Ok(end)
    }

    /// Who has opened it, as its newest segment says; nothing before its first recovery.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        let claim = self.cursor.as_ref()?.claim();
        Some(Opened { log_id: claim.log_id, epoch: claim.epoch })
    }
}
