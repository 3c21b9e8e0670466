use base::Sequence;

use crate::record::EventType;

/// What a log holds and what was done to it. Counted over the whole log, restarts included, where
/// the log itself can tell; since it was opened where only the writer can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records in the log.
    pub records: u64,
    /// Their bytes, headers included, guards not.
    pub bytes: u64,
    /// Those that tell of sagas (codes 01 to 0B).
    pub saga_events: u64,
    /// Those that tell of transactions (codes 10 to 19).
    pub transaction_events: u64,
    /// Checkpoint records that are markers.
    pub checkpoints: u64,
    /// Checkpoint records that are parts of a snapshot.
    pub snapshot_parts: u64,
    /// Records known to be damaged or hidden by damage.
    pub corrupted_records: u64,
    /// Bytes of torn tail that were found, up to the last that is not zero.
    pub torn_bytes: u64,
    /// How often the log was opened again after its first time.
    pub recoveries: u64,
    /// The last record's sequence.
    pub last_sequence: Sequence,
    /// The last marker's sequence.
    pub last_checkpoint: Sequence,
    /// Records behind the last marker, parts of snapshots aside; all, if there is none.
    pub records_since_checkpoint: u64,
    /// Flushes handed out since the log was opened.
    pub flushes: u64,
    /// Those of them that were synced: what the log costs a disk.
    pub syncs: u64,
    /// Snapshots that became effective since the log was opened.
    pub compactions: u64,
    /// Segments that were taken out of the log since it was opened: their files are used again.
    pub segments_recycled: u64,
}

impl Stats {
    /// Counts one record of `bytes` bytes, header included. `part`: it is part of a snapshot.
    #[inline]
    pub(crate) fn count(&mut self, sequence: Sequence, event: EventType, bytes: u64, part: bool) {
        self.records += 1;
        self.bytes += bytes;
        self.saga_events += u64::from(event.is_saga());
        self.transaction_events += u64::from(event.is_transaction());
        self.last_sequence = sequence;
        if part {
            self.snapshot_parts += 1;
        } else if event == EventType::CHECKPOINT {
            self.checkpoints += 1;
            self.last_checkpoint = sequence;
            self.records_since_checkpoint = 0;
        } else {
            self.records_since_checkpoint += 1;
        }
    }

    /// Counts a run of records, the last of which has that sequence.
    pub(crate) fn count_run(&mut self, run: &Run, last: Sequence) {
        self.records += run.records;
        self.bytes += run.bytes;
        self.saga_events += run.kinds.saga_events();
        self.transaction_events += run.kinds.transaction_events();
        self.last_sequence = last;
        self.records_since_checkpoint += run.records;
    }
}

/// Records one behind the other, none of them a checkpoint: counted apart, since few are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub records: u64,
    bytes: u64,
    kinds: Kinds,
}

impl Run {
    #[inline]
    pub(crate) fn count(&mut self, event: EventType, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
        self.kinds.0 += KINDS[usize::from(event.0)];
    }
}

/// How many records tell of sagas, and in the upper half how many of transactions: one addition for both.
/// A run is no longer than a batch, whose records are counted by a u32.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds(u64);

impl Kinds {
    fn saga_events(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }

    fn transaction_events(self) -> u64 {
        self.0 >> 32
    }
}

/// What each code counts as.
static KINDS: [u64; 256] = {
    let mut kinds = [0; 256];
    let mut code = 0_u8;
    loop {
        let event = EventType(code);
        kinds[code as usize] = event.is_saga() as u64 | (event.is_transaction() as u64) << 32;
        if code == u8::MAX {
            break kinds;
        }
        code += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_as_its_records_do() {
        let (mut one_by_one, mut together, mut run) =
            (Stats::default(), Stats::default(), Run::default());
        let codes = (0..=u8::MAX).map(EventType).filter(|&event| event != EventType::CHECKPOINT);
        let records = codes.chain([EventType::TX_COMMIT_START; 3]).zip(1..);
        let mut last = Sequence::NONE;
        for (event, number) in records {
            last = Sequence(number);
            one_by_one.count(last, event, 29 + number, false);
            run.count(event, 29 + number);
        }
        together.count_run(&run, last);
        assert_eq!(together, one_by_one);
        assert_eq!((together.saga_events, together.transaction_events), (11, 13));
    }
}
