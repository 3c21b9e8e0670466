//! Raw streams of the published format: records one behind the other and nothing that proves them but
//! a CRC-32 per payload. Rules: FORMAT.md, "Raw stream".

use std::io::Read;

use base::Sequence;

use crate::record::{
    Decoded, EventType, MAGIC, RECORD_HEADER_BYTES, RecordError, SEQUENCE_MAX, decode_record,
    u32_at, u64_at,
};
use crate::scan::{Corruption, Damage, Integrity, Place, ScanConfig, ScanError, Scanned, Visitor};
use crate::segment::is_zero;
use crate::storage::SegmentId;
use crate::window::find;

const HEADER: u64 = RECORD_HEADER_BYTES as u64;
const READ_BYTES: usize = 64 << 10;

/// Reads a raw stream to its end, holding two records' worth of it at a time.
///
/// # Errors
/// [`ScanError::NotALog`] if there are bytes and no record among them, not even a damaged one; [`ScanError::Io`]. Damage is no
/// error: see [`Scanned::corruption`].
pub fn scan_stream(
    reader: &mut dyn Read,
    config: &ScanConfig,
    visitor: &mut dyn Visitor,
) -> Result<Scanned, ScanError> {
    let mut scan = StreamScan {
        source: Source { reader, bytes: Vec::new(), consumed: 0, offset: 0, ended: false },
        max_payload: config.max_payload,
        next: Sequence::FIRST,
        recognised: false,
        scanned: Scanned::new(Integrity::Unprotected),
        visitor,
    };
    scan.run()?;
    let scanned = scan.scanned;
    if !scan.recognised && scan.source.offset > 0 {
        return Err(ScanError::NotALog);
    }
    Ok(scanned)
}

/// The stream, as far as it is at hand.
struct Source<'r> {
    reader: &'r mut dyn Read,
    bytes: Vec<u8>,
    /// How many of `bytes` are behind us.
    consumed: usize,
    /// The offset in the stream of what is ahead.
    offset: u64,
    ended: bool,
}

impl Source<'_> {
    /// What is ahead: at least `len` bytes, or all there are.
    fn ahead(&mut self, len: u64) -> std::io::Result<&[u8]> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        while !self.ended && self.bytes.len() - self.consumed < len {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
            let filled = self.bytes.len();
            self.bytes.resize(filled + READ_BYTES, 0);
            let read = loop {
                match self.reader.read(&mut self.bytes[filled..]) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            self.bytes.truncate(filled + *read.as_ref().unwrap_or(&0));
            self.ended = read? == 0;
        }
        Ok(&self.bytes[self.consumed..])
    }

    fn consume(&mut self, len: u64) {
        self.consumed += len as usize;
        self.offset += len;
    }
}

/// What begins at an offset.
enum Found {
    /// A record with a right CRC, so many bytes long.
    Record(Sequence, u64),
    /// A record with a wrong CRC.
    Damaged(Sequence, u64),
    /// The stream ends inside what could be the record that comes next.
    Cut,
    Nothing,
}

struct StreamScan<'s, 'r> {
    source: Source<'r>,
    max_payload: u32,
    next: Sequence,
    /// Something was a record of ours, whole or damaged.
    recognised: bool,
    scanned: Scanned,
    visitor: &'s mut dyn Visitor,
}

impl StreamScan<'_, '_> {
    fn record_max(&self) -> u64 {
        HEADER + u64::from(self.max_payload)
    }

    fn run(&mut self) -> Result<(), ScanError> {
        loop {
            let two = 2 * self.record_max();
            let max_payload = self.max_payload;
            let bytes = self.source.ahead(two)?;
            if bytes.is_empty() {
                return Ok(());
            }
            match find_at(bytes, max_payload) {
                Found::Record(sequence, len) if self.is_next(sequence) => self.tell(len)?,
                Found::Damaged(sequence, len)
                    if sequence == self.next && self.goes_on_at(len, sequence.next())? =>
                {
                    self.tell_damaged(len)?;
                }
                Found::Cut if self.cut_is_of_next()? => {
                    if !self.skip(true)? {
                        return Ok(());
                    }
                }
                _ if self.follows_as_if_whole()? => self.skip_body()?,
                _ => {
                    if !self.skip(false)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A stream begins with record 1, or with the checkpoint that its log was compacted to.
    fn is_next(&self, sequence: Sequence) -> bool {
        let bytes = &self.source.bytes[self.source.consumed..];
        let compacted = self.source.offset == 0 && bytes[4] == EventType::CHECKPOINT.0;
        sequence == self.next || (compacted && sequence > Sequence::NONE)
    }

    /// A record begins `len` bytes ahead with that sequence, or only zeros or nothing follow there.
    fn goes_on_at(&mut self, len: u64, sequence: Sequence) -> Result<bool, ScanError> {
        let max_payload = self.max_payload;
        let record_max = self.record_max();
        let bytes = self.source.ahead(len + record_max)?;
        let behind = &bytes[(len as usize).min(bytes.len())..];
        let zeros = is_zero(behind);
        match find_at(behind, max_payload) {
            Found::Record(found, _) => Ok(found == sequence),
            _ => Ok(zeros && self.source.ended),
        }
    }

    /// The cut header, as far as it is there, is the next record's.
    fn cut_is_of_next(&mut self) -> Result<bool, ScanError> {
        let next = self.next.0.to_le_bytes();
        let any_sequence = self.source.offset == 0;
        let bytes = self.source.ahead(HEADER)?;
        let there = bytes.len().clamp(5, 13) - 5;
        Ok(any_sequence || bytes.len() <= 5 || bytes[5..5 + there] == next[..there])
    }

    fn tell(&mut self, len: u64) -> Result<(), ScanError> {
        let offset = self.source.offset;
        let bytes = self.source.ahead(len)?;
        let Ok(decoded) = decode_record(bytes, u32::MAX) else {
            unreachable!("the same bytes were decoded just now");
        };
        let place = Place { segment: SegmentId(0), offset, len: decoded.len, crc_ok: true };
        self.recognised = true;
        self.scanned.count(&decoded.record);
        self.visitor.record(&decoded.record, place);
        self.next = decoded.record.sequence.next();
        self.source.consume(len);
        self.scanned.end = Some((SegmentId(0), self.source.offset));
        Ok(())
    }

    fn tell_damaged(&mut self, len: u64) -> Result<(), ScanError> {
        let offset = self.source.offset;
        let bytes = self.source.ahead(len)?;
        if let Ok(Decoded { record, len, .. }) = decode_record(bytes, u32::MAX) {
            let place = Place { segment: SegmentId(0), offset, len, crc_ok: false };
            self.visitor.damaged(&record, place);
        }
        self.recognised = true;
        self.report(offset, len, Damage::RecordCrc);
        self.scanned.hide(1);
        self.next = self.next.next();
        self.source.consume(len);
        Ok(())
    }

    fn report(&mut self, offset: u64, bytes: u64, what: Damage) {
        let corruption = Corruption {
            segment: None,
            offset,
            bytes,
            what,
            last_sequence_before: Sequence(self.next.0 - 1),
            hides_records: true,
        };
        self.scanned.report(corruption, self.visitor);
    }

    /// Whatever is wrong with the header ahead, its length leads to the record after the next one, or
    /// to the end if the rest of the header is the next one's. Then the payload need not be searched,
    /// where records could be forged.
    fn follows_as_if_whole(&mut self) -> Result<bool, ScanError> {
        let max_payload = self.max_payload;
        let (next, after_next) = (self.next.0, self.next.next());
        let bytes = self.source.ahead(HEADER)?;
        if (bytes.len() as u64) < HEADER {
            return Ok(false);
        }
        let len = u32_at(bytes, 21);
        let is_next = bytes.starts_with(&MAGIC) || u64_at(bytes, 5) == next;
        if len > max_payload {
            return Ok(false);
        }
        let len = HEADER + u64::from(len);
        let two = len + self.record_max();
        let bytes = self.source.ahead(two)?;
        let Some(behind) = bytes.get(len as usize..) else { return Ok(false) };
        let zeros = is_zero(behind);
        Ok(match find_at(behind, max_payload) {
            Found::Record(found, _) => found == after_next,
            _ => is_next && zeros && self.source.ended,
        })
    }

    /// Passes over a damaged record by its length.
    fn skip_body(&mut self) -> Result<(), ScanError> {
        let len = HEADER + u64::from(u32_at(self.source.ahead(HEADER)?, 21));
        self.recognised = true;
        self.report(self.source.offset, len, Damage::NotARecord);
        self.scanned.hide(1);
        self.next = self.next.next();
        self.source.consume(len);
        Ok(())
    }

    /// Looks for the next record to go on with. False if the stream has ended: torn, if only zeros
    /// followed or it was cut inside a record, else with a hole.
    fn skip(&mut self, cut: bool) -> Result<bool, ScanError> {
        let from = self.source.offset;
        let next = self.next;
        let header = self.source.ahead(HEADER)?;
        let whole = header.len() as u64 >= HEADER;
        // If this is the next record, damaged, another one of its number can only be forged.
        let is_next = whole && header.starts_with(&MAGIC) && u64_at(header, 5) == next.0;
        let at_least = if is_next { next.next() } else { next };
        let mut last_nonzero = None;
        loop {
            let two = 2 * self.record_max() + HEADER;
            let base = self.source.offset;
            let bytes = self.source.ahead(two)?;
            if bytes.is_empty() {
                break;
            }
            let Some(at) = find(bytes, &MAGIC) else {
                // The magic may begin in the last bytes at hand, if more follow.
                let keep = if self.source.ended { 0 } else { MAGIC.len() as u64 - 1 };
                let bytes = &self.source.bytes[self.source.consumed..];
                let len = bytes.len() as u64 - keep;
                let nonzero = bytes[..len as usize].iter().rposition(|&b| b != 0);
                last_nonzero = nonzero.map(|at| base + at as u64).or(last_nonzero);
                self.source.consume(len);
                continue;
            };
            self.source.consume(at as u64);
            if cut && self.is_good(at_least)? {
                // The length that runs over the end is wrong, or records are forged in this one's
                // payload: nothing here can be told, and it is no torn tail.
                return self.give_up(from);
            }
            if !cut && self.is_good(at_least)? {
                let to = self.source.offset;
                let what = if to == from { Damage::RecordsMissing } else { Damage::NotARecord };
                self.report(from, to - from, what);
                self.resume();
                return Ok(true);
            }
            last_nonzero = Some(self.source.offset);
            self.source.consume(1);
        }
        let bytes = last_nonzero.map_or(0, |last| last + 1 - from);
        if cut || last_nonzero.is_none() {
            self.scanned.tear(bytes);
        } else {
            self.report(from, bytes, Damage::NotARecord);
        }
        Ok(false)
    }

    /// A hole from `from` to the stream's end.
    fn give_up(&mut self, from: u64) -> Result<bool, ScanError> {
        self.recognised = true;
        loop {
            let at_hand = self.source.ahead(1)?.len() as u64;
            if at_hand == 0 {
                break;
            }
            self.source.consume(at_hand);
        }
        self.report(from, self.source.offset - from, Damage::NotARecord);
        Ok(false)
    }

    /// Whether a record that verifies begins ahead, not below `next`, and one or the end follows it.
    fn is_good(&mut self, next: Sequence) -> Result<bool, ScanError> {
        let two = 2 * self.record_max();
        let max_payload = self.max_payload;
        let bytes = self.source.ahead(two)?;
        match find_at(bytes, max_payload) {
            Found::Record(sequence, len) if sequence >= next => {
                self.goes_on_at(len, sequence.next())
            }
            _ => Ok(false),
        }
    }

    /// Goes on at the record ahead: what its number skips is hidden.
    fn resume(&mut self) {
        let bytes = &self.source.bytes[self.source.consumed..];
        let sequence = u64_at(bytes, 5);
        self.scanned.hide(sequence - self.next.0);
        self.next = Sequence(sequence);
    }
}

fn find_at(bytes: &[u8], max_payload: u32) -> Found {
    match decode_record(bytes, max_payload) {
        Ok(Decoded { record, .. })
            if record.event == EventType::GUARD || record.sequence > SEQUENCE_MAX =>
        {
            Found::Nothing
        }
        Ok(Decoded { record, len, crc_ok: true }) => Found::Record(record.sequence, u64::from(len)),
        Ok(Decoded { record, len, .. }) => Found::Damaged(record.sequence, u64::from(len)),
        Err(RecordError::Short { .. }) => Found::Cut,
        Err(_) => Found::Nothing,
    }
}
