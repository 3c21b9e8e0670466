//! What steps of sagas and branches of transactions ask of a node of the storage network.
//!
//! A node's participant keeps numbered cells, durable and undone with their step: see [`node::work`].
//! Here a cell counts how many records need a shard on this node, and three say which version of a
//! file's record is current, and which record of that version. A body is the network's; what the participant is given is its translation,
//! once what it asks for is true.

use base::bytes::{Malformed, Reader, Writer};
use base::{NodeName, ShardId};
use locks::{Fence, Fenced, FencingToken};
use node::work::{self, Change};
use std::sync::Arc;
use store::Digest;

/// What a step or a branch asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Hold these bytes, durably; they can be had from that node. Undone: they are not needed any more.
    Keep {
        /// Which.
        digest: Digest,
        /// From whom.
        from: NodeName,
    },
    /// These bytes are not needed any more.
    Release {
        /// Which.
        digest: Digest,
    },
    /// Make this version of a file's record the current one, if that one is now.
    Head {
        /// Which file.
        file: Digest,
        /// The record, of which this node holds the bytes; its version is `to`.
        record: Digest,
        /// The record that has to be current; version 0: none, or one that this node kept before others did.
        was: Current,
        /// The version that becomes it.
        to: u64,
    },
    /// Keep a file's record no longer: others do, by this next version of it.
    Retire {
        /// Which file.
        file: Digest,
        /// The record that has to be current.
        was: Current,
        /// The version that others have from now on.
        to: u64,
    },
    /// Change what a lock guards here, under the token of whoever has the lock. One that is lower than the highest
    /// that was seen here is refused.
    Guarded {
        /// On what the lock is.
        shard: ShardId,
        /// The token of its grant.
        token: FencingToken,
        /// What is guarded becomes this; nothing: no lower token is taken from now on, and that is all.
        value: Option<i64>,
    },
}

const KEEP: u8 = 0xA1;
const RELEASE: u8 = 0xA2;
const HEAD: u8 = 0xA3;
const GUARDED: u8 = 0xA4;
const RETIRE: u8 = 0xA5;

/// A file's three cells are told from the cell of a shard by their lowest bits.
fn cell(digest: Digest, which: u64) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest.0[..8]);
    u64::from_le_bytes(first) << 2 | which
}

/// The cell that counts how often a shard is needed. Two digests whose first 62 bits are equal share one:
/// then their bytes stay longer than they are needed, and are not lost.
#[must_use]
pub fn needed(digest: Digest) -> u64 {
    cell(digest, 0)
}

/// The cell that says which version of a file's record is current.
#[must_use]
pub fn head(file: Digest) -> u64 {
    cell(file, 1)
}

/// It again, negated: a version is exactly `n` if this cell is at least `-n` and the other at least `n`.
fn negated_head(file: Digest) -> u64 {
    cell(file, 2)
}

/// The cell that says which record is current: versions of one number may have been made by two uploads, or
/// by one that began anew, and a keeper may hold the bytes of both.
#[must_use]
pub fn head_record(file: Digest) -> u64 {
    cell(file, 3)
}

/// What stands for a record in that cell: the first 62 bits of its digest.
#[must_use]
pub fn mark(record: Digest) -> i64 {
    (cell(record, 0) >> 2) as i64
}

/// Which record of a file is current at a node. Of two, the greater one has the higher version, or the greater mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Current {
    /// Its version; 0: none.
    pub version: u64,
    /// Its [`mark`]; 0: the node has given the record up that had this version, or was to have it.
    pub mark: i64,
}

impl Current {
    /// That one: a version, and the record's digest.
    #[must_use]
    pub fn of(version: u64, record: Digest) -> Current {
        Current { version, mark: mark(record) }
    }

    pub(crate) fn write(self, to: &mut Writer) {
        to.u64(self.version).u64(self.mark.cast_unsigned());
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Current, Malformed> {
        Ok(Current { version: from.u64()?, mark: from.u64()?.cast_signed() })
    }
}

/// What a lock is on has cells of its own.
fn guarded_cell(shard: ShardId, which: u64) -> u64 {
    let mut name = *b"guarded ________________________________";
    name[8..].copy_from_slice(&shard.0);
    cell(Digest::of(&name), which)
}

/// The cell that a lock guards.
#[must_use]
pub fn guarded(shard: ShardId) -> u64 {
    guarded_cell(shard, 1)
}

/// The cell that holds the highest token that was seen there.
#[must_use]
pub fn fence(shard: ShardId) -> u64 {
    guarded_cell(shard, 2)
}

/// The cell that counts how often it was written.
#[must_use]
pub fn writes(shard: ShardId) -> u64 {
    guarded_cell(shard, 3)
}

/// All three.
pub(crate) fn guarded_cells(shard: ShardId) -> [u64; 3] {
    [guarded(shard), fence(shard), writes(shard)]
}

/// What the participant does to change what a lock guards: in one record the token is seen, and the value is another.
///
/// # Errors
/// [`Fenced`]: a higher token was seen.
pub fn guard(
    cells: &node::Store,
    shard: ShardId,
    token: FencingToken,
    value: Option<i64>,
) -> Result<Arc<[u8]>, Fenced> {
    let seen = cells.value(fence(shard));
    let mut fenced = Fence::at(FencingToken(seen.cast_unsigned()));
    fenced.admit(token)?;
    let seen_now = fenced.highest().0.cast_signed();
    let mut changes = vec![Change::Add { cell: fence(shard), amount: seen_now.wrapping_sub(seen) }];
    if let Some(value) = value {
        let cell = guarded(shard);
        changes.push(Change::Add { cell, amount: value.wrapping_sub(cells.value(cell)) });
        changes.push(Change::Add { cell: writes(shard), amount: 1 });
    }
    Ok(work::encode(&changes))
}

/// What the participant does to have another version of a file's record current, if this one is.
fn turned(file: Digest, (was, to): (u64, u64), mark: i64) -> Arc<[u8]> {
    let (head, negated) = (head(file), negated_head(file));
    let [was, to] = [was, to].map(|version| version as i64);
    work::encode(&[
        Change::Require { cell: head, at_least: was },
        Change::Require { cell: negated, at_least: -was },
        Change::Add { cell: head, amount: to - was },
        Change::Add { cell: negated, amount: was - to },
        // Right whenever the version is: the two change together.
        Change::Add { cell: head_record(file), amount: mark },
    ])
}

/// Of what makes another version of a file's record current, as the participant has it: the cell that says which is,
/// which has to be, and which becomes it.
pub(crate) fn turns(work: &[u8]) -> Option<(u64, u64, u64)> {
    let changes: Vec<Change> = work::decode(work).collect::<Result<_, _>>().ok()?;
    let Some(Change::Require { cell, at_least: was }) = changes.first().copied() else {
        return None;
    };
    let amount = changes.iter().find_map(|change| match *change {
        Change::Add { cell: other, amount } if other == cell => Some(amount),
        _ => None,
    })?;
    Some((cell, u64::try_from(was).ok()?, u64::try_from(was.checked_add(amount)?).ok()?))
}

impl Work {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Arc<[u8]> {
        let mut to = Writer::default();
        match self {
            Work::Keep { digest, from } => to.u8(KEEP).raw(&digest.0).node(*from),
            Work::Release { digest } => to.u8(RELEASE).raw(&digest.0),
            Work::Head { file, record, was, to: version } => {
                was.write(to.u8(HEAD).raw(&file.0).raw(&record.0));
                to.u64(*version)
            }
            Work::Retire { file, was, to: version } => {
                was.write(to.u8(RETIRE).raw(&file.0));
                to.u64(*version)
            }
            Work::Guarded { shard, token, value } => {
                to.u8(GUARDED).raw(&shard.0).u64(token.0).bool(value.is_some());
                to.u64(value.unwrap_or_default().cast_unsigned())
            }
        };
        to.finish().into()
    }

    /// The work of these bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Work, Malformed> {
        let mut from = Reader::new(bytes);
        let work = match from.u8()? {
            KEEP => Work::Keep { digest: Digest(from.array()?), from: from.node()? },
            RELEASE => Work::Release { digest: Digest(from.array()?) },
            HEAD => Work::Head {
                file: Digest(from.array()?),
                record: Digest(from.array()?),
                was: Current::read(&mut from)?,
                to: from.u64()?,
            },
            RETIRE => {
                let (file, was) = (Digest(from.array()?), Current::read(&mut from)?);
                Work::Retire { file, was, to: from.u64()? }
            }
            GUARDED => {
                let (shard, token) = (from.shard()?, FencingToken(from.u64()?));
                let (is_some, value) = (from.bool()?, from.u64()?.cast_signed());
                Work::Guarded { shard, token, value: is_some.then_some(value) }
            }
            _ => return Err(from.wrong("no work of the storage network")),
        };
        from.end()?;
        Ok(work)
    }

    /// What the participant does for it, once what it asks for is true. `current` is the file's record that
    /// is current here, of which only [`Work::Head`] and [`Work::Retire`] know.
    #[must_use]
    pub fn translated(&self, current: Current) -> Arc<[u8]> {
        match *self {
            Work::Keep { digest, .. } => {
                work::encode(&[Change::Add { cell: needed(digest), amount: 1 }])
            }
            Work::Release { digest } => {
                work::encode(&[Change::Add { cell: needed(digest), amount: -1 }])
            }
            // It was promised before, and kept: whoever asks again has not heard of that.
            Work::Head { record, to, .. } if current == Current::of(to, record) => {
                work::encode(&[])
            }
            Work::Head { file, record, was, to } => {
                // Whoever becomes a keeper again has an old version, and nobody knows which.
                let is_any = was.version == 0 && current.version < to;
                let was = if is_any { current } else { was };
                if was.version > 0 && was.mark != current.mark {
                    // Another record of the same number: this one is made of what this node does not have.
                    return self.impossible();
                }
                turned(file, (was.version, to), mark(record) - current.mark)
            }
            Work::Retire { was, .. } if was.mark != current.mark => self.impossible(),
            // No record has this mark.
            Work::Retire { file, was, to } => turned(file, (was.version, to), -current.mark),
            // It takes the cells as they are: see `guard`.
            Work::Guarded { .. } => self.impossible(),
        }
    }

    /// What the participant does to have a file's record neither needed nor current any more: as if there had been none.
    pub(crate) fn unmade(file: Digest, record: Digest, version: u64) -> Arc<[u8]> {
        let version = version as i64;
        work::encode(&[
            Change::Add { cell: needed(record), amount: -1 },
            Change::Add { cell: head(file), amount: -version },
            Change::Add { cell: negated_head(file), amount: version },
            Change::Add { cell: head_record(file), amount: -mark(record) },
        ])
    }

    /// What the participant refuses in its place, for good.
    #[must_use]
    pub fn impossible(&self) -> Arc<[u8]> {
        let cell = match *self {
            Work::Keep { digest, .. } | Work::Release { digest } => needed(digest),
            Work::Head { file, .. } | Work::Retire { file, .. } => head(file),
            Work::Guarded { shard, .. } => guarded(shard),
        };
        work::encode(&[Change::Require { cell, at_least: i64::MAX }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Whoever has lost the lock does not write any more, and the tokens come back with the cells.
    #[test]
    fn a_write_under_an_old_token_is_refused_and_a_snapshot_knows_it() {
        let shard = ShardId::numbered(4);
        let mut cells = node::Store::default();
        let token = |n| FencingToken(n);
        for (at, value) in [(3, None), (3, Some(7)), (5, None)] {
            cells.apply(&guard(&cells, shard, token(at), value).unwrap());
        }
        let fenced = Err(Fenced { highest: token(5) });
        assert_eq!(guard(&cells, shard, token(4), Some(8)), fenced);
        assert_eq!(guard(&cells, shard, token(4), None), fenced);
        assert_eq!((cells.value(guarded(shard)), cells.value(writes(shard))), (7, 1));
        assert!(guard(&cells, shard, token(u64::MAX), Some(8)).is_ok());
        assert!(guard(&cells, ShardId::numbered(5), token(1), Some(8)).is_ok());
        let work = Work::Guarded { shard, token: token(9), value: Some(-1) };
        assert_eq!(Work::decode(&work.encode()), Ok(work));
    }

    /// Of two records of one version the cells name the one that became current.
    #[test]
    fn the_cells_tell_records_of_one_version_apart() {
        let file = Digest::of(b"file");
        let mut marks = BTreeSet::new();
        let mut cells = node::Store::default();
        for (to, name) in (1..).zip([b"one", b"two", b"six"]) {
            let record = Digest::of(name);
            assert!(mark(record) > 0 && marks.insert(mark(record)));
            let version = u64::try_from(cells.value(head(file))).expect("it only grows");
            let current = Current { version, mark: cells.value(head_record(file)) };
            let work = Work::Head { file, record, was: current, to };
            cells.apply(&work.translated(current));
            assert_eq!(cells.value(head(file)), to as i64);
            assert_eq!(cells.value(head_record(file)), mark(record));
        }
    }

    /// Who is asked again for what is current there promises it again, and nothing changes; what an upload is not to have
    /// made current leaves nothing.
    #[test]
    fn what_is_current_is_promised_again_and_what_is_unmade_is_not() {
        let [file, record, other] = [b"file", b"reco", b"othe"].map(|name| Digest::of(name));
        let mut cells = node::Store::default();
        let ask = |record| Work::Head { file, record, was: Current::default(), to: 1 };
        cells.apply(
            &Work::Keep { digest: record, from: NodeName::numbered(1) }
                .translated(Current::default()),
        );
        cells.apply(&ask(record).translated(Current::default()));
        let here = Current::of(1, record);
        assert_eq!(cells.allows(&ask(record).translated(here)), Ok(true));
        cells.apply(&ask(record).translated(here));
        assert_eq!((cells.value(head(file)), cells.value(head_record(file))), (1, mark(record)));
        assert_eq!(cells.allows(&ask(other).translated(here)), Ok(false), "another upload's");
        cells.apply(&Work::unmade(file, record, 1));
        let all = [needed(record), head(file), negated_head(file), head_record(file)];
        assert_eq!(all.map(|cell| cells.value(cell)), [0; 4]);
        assert_eq!(cells.allows(&ask(other).translated(Current::default())), Ok(true));
    }

    /// Whoever has another record of the number that a version is made of takes no part in that: nothing is built on
    /// what it does not have.
    #[test]
    fn a_version_is_made_of_a_record_and_not_of_a_number() {
        let [file, record, other, next] =
            [b"file", b"reco", b"othe", b"next"].map(|name| Digest::of(name));
        let mut cells = node::Store::default();
        let here = Current::of(4, record);
        let first = Work::Head { file, record, was: Current::default(), to: 4 };
        cells.apply(&first.translated(Current::default()));
        let allows = |work: Work| cells.allows(&work.translated(here)) == Ok(true);
        for (was, well) in [(here, true), (Current::of(4, other), false)] {
            let head = Work::Head { file, record: next, was, to: 5 };
            assert_eq!(Work::decode(&head.encode()), Ok(head));
            assert_eq!(allows(head), well);
            assert_eq!(allows(Work::Retire { file, was, to: 5 }), well);
        }
        assert!(!allows(Work::Head { file, record: next, was: Current::of(3, record), to: 5 }));
    }

    /// Whoever keeps a record no longer has none that is current, and takes part in no version that others make of
    /// the one that it had.
    #[test]
    fn who_keeps_a_record_no_longer_knows_which_version_that_was() {
        let (file, record) = (Digest::of(b"file"), Digest::of(b"one"));
        let mut cells = node::Store::default();
        let at = |cells: &node::Store| {
            let version = u64::try_from(cells.value(head(file))).expect("it only grows");
            Current { version, mark: cells.value(head_record(file)) }
        };
        let (none, was) = (Current::default(), Current::of(4, record));
        cells.apply(&Work::Head { file, record, was: none, to: 4 }.translated(at(&cells)));
        let retire = Work::Retire { file, was, to: 5 };
        assert_eq!(Work::decode(&retire.encode()), Ok(retire));
        let done = retire.translated(at(&cells));
        assert_eq!(cells.allows(&done), Ok(true));
        cells.apply(&done);
        assert_eq!(at(&cells), Current { version: 5, mark: 0 });
        assert_eq!(cells.allows(&retire.translated(at(&cells))), Ok(false), "once");
        let other = Work::Head { file, record, was, to: 5 };
        assert_eq!(
            cells.allows(&other.translated(at(&cells))),
            Ok(false),
            "it does not have that version"
        );
        // It may become a keeper again, of a later one.
        let again = Work::Head { file, record, was: none, to: 6 };
        cells.apply(&again.translated(at(&cells)));
        assert_eq!(at(&cells), Current { version: 6, mark: mark(record) });
    }
}
