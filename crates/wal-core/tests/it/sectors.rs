//! G3: crash states rebuilt from what the disk was asked, sector by sector, over lives with rotations and
//! failed syncs.

use base::Time;
use wal_core::{EventType, MemoryStorage};

use crate::crash::check;
use crate::support::{Choices, Entry, Journal, config, in_parallel, open, payload, rounds, scan};

/// A history without a crash, told by the disk's operations.
struct History {
    journal: Journal,
    /// What was acknowledged when the journal was so long.
    marks: Vec<(usize, u64)>,
    /// What each life had appended, and how long the journal was when it began.
    lives: Vec<(usize, Vec<Vec<u8>>)>,
    failed_syncs: usize,
}

/// Lives that end in failed syncs, in clean closes and in neither.
fn history(seed: u64) -> History {
    let mut choices = Choices::seeded(seed);
    let mut journal = Journal::over(MemoryStorage::new());
    let (mut marks, mut lives) = (Vec::new(), Vec::new());
    let mut unique = 0u64;
    for _ in 0..5 {
        journal.fail_sync_in = (choices.below(3) > 0).then(|| choices.below(30) as u32);
        let from = journal.entries.len();
        let Ok((mut log, _, seen)) = open(&mut journal) else { continue };
        let mut appended = seen.payloads;
        let mut now = Time::ZERO;
        marks.push((journal.entries.len(), log.durable().0));
        for _ in 0..choices.below(28) {
            unique += 1;
            let mut payload = payload(choices.below(64) as u64);
            payload.truncate(890);
            payload.extend_from_slice(&unique.to_le_bytes());
            let Ok(sequence) = log.append(EventType::SAGA_CREATED, 0, &payload) else { break };
            appended.push(payload);
            if choices.below(3) == 0 {
                log.force(sequence);
            }
            now += config().idle_guard_after / 2;
            while choices.below(4) != 0 && wal_core::drive(&mut journal, &mut log, now) {
                marks.push((journal.entries.len(), log.durable().0));
            }
        }
        if choices.below(3) == 0 {
            wal_core::close(&mut journal, &mut log, now);
            marks.push((journal.entries.len(), log.durable().0));
        }
        lives.push((from, appended));
    }
    let failed = |entry: &&Entry| matches!(entry, Entry::FailedSync(_));
    let failed_syncs = journal.entries.iter().filter(failed).count();
    History { journal, marks, lives, failed_syncs }
}

impl History {
    fn acknowledged(&self, done: usize) -> u64 {
        let marks = self.marks.iter().filter(|(entries, _)| *entries <= done);
        marks.map(|(_, durable)| *durable).max().unwrap_or(0)
    }

    /// What a crash after so many operations may leave a prefix of.
    fn appended(&self, done: usize) -> &[Vec<u8>] {
        let begun = self.lives.iter().rfind(|(from, _)| *from <= done);
        begun.map_or(&[], |(_, appended)| appended)
    }
}

/// G3. Every subset of the unsynced sectors where there are few, a sample where there are many, lost
/// names among them, and dirty data gone after a failed sync: what is read is a prefix with every
/// acknowledged record, and the log goes on.
#[test]
fn g3_every_combination_of_sectors_leaves_a_prefix() {
    let histories = rounds("WAL_CRASH_ROUNDS", 400) as usize / 10;
    let (mut rotations, mut failed_syncs) = (0, 0);
    let states = in_parallel(histories, |range| {
        let mut states = 0;
        for seed in range {
            let history = history(seed as u64);
            for done in 0..=history.journal.entries.len() {
                let at_least = history.acknowledged(done);
                let mut choices = Choices::seeded((seed * 10_000 + done) as u64);
                history.journal.sector_states(done, 8, &mut choices, |state, fates| {
                    states += 1;
                    let what = || format!("history {seed}, behind operation {done}, {fates:?}");
                    check(state, history.appended(done), at_least, &what);
                });
            }
        }
        states
    });
    for seed in 0..histories {
        let history = history(seed as u64);
        let whole = scan(&history.journal).1;
        rotations += whole.segments - whole.epoch.value() as u64;
        failed_syncs += history.failed_syncs;
    }
    eprintln!(
        "{states} states of {histories} histories, {rotations} rotations, {failed_syncs} failed syncs"
    );
    let few = histories as u64;
    assert!(states > 250 * few, "{states} states");
    assert!(rotations > few && failed_syncs as u64 > few, "{rotations}, {failed_syncs}");
}
