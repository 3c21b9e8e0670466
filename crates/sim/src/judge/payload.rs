//! Fields of records' payloads, read from the format's document alone.

use base::{CoordinatorId, NodeName, OperationId, ShardId};

/// The tags of extensions.
pub mod tag {
    /// On the created records.
    pub const REQUEST_KEY: u8 = 1;
    /// u32 each, on `saga_step_added`.
    pub const DEPENDENCIES: u8 = 3;
    /// 32 bytes, on `saga_step_added`.
    pub const NODE: u8 = 4;
    /// What is asked.
    pub const BODY: u8 = 5;
    /// u8, 1: the failed step may have had an effect.
    pub const EFFECT: u8 = 6;
    /// 76 bytes each, on `tx_commit_start`.
    pub const PARTICIPANTS: u8 = 7;
    /// Store u64 and boot count u32, on `tx_participant_added`.
    pub const STORE: u8 = 8;
    /// u32, on the participant's records.
    pub const EPOCH: u8 = 9;
    /// 32 bytes, on the participant's records.
    pub const SHARD: u8 = 10;
    /// u8, 1: promised to a peer.
    pub const PROMISED: u8 = 11;
    /// Step u32, direction u8, token: on `step_outcome`.
    pub const CALL: u8 = 12;
    /// Refused u8, code u32, changed u8: on `step_outcome`.
    pub const ANSWER: u8 = 13;
    /// u8, on `saga_step_added`: 0 compensatable, 1 pivot, 2 retriable, 3 read-only.
    pub const KIND: u8 = 32;
    /// u32 each, on `saga_step_added`: whose outputs a step is given.
    pub const INPUTS: u8 = 35;
    /// u8, on `saga_step_added`: the step brings something.
    pub const OUTPUT_TYPE: u8 = 36;
    /// 0 and bytes, on `saga_step_succeeded` and `step_outcome`.
    pub const OUTPUT: u8 = 39;
    /// u8, 1, on `saga_compensation_failed`: the branch waits for an operator.
    pub const PARKED: u8 = 40;
    /// What u8 and more, on `saga_compensation_failed`: an operator's order.
    pub const ORDER: u8 = 41;
    /// u8, 1, on `saga_compensation_succeeded`: an operator said so.
    pub const HEURISTIC: u8 = 42;
    /// u8, 1, on `step_outcome`: undone by hand.
    pub const MARKED: u8 = 43;
    /// u64 each, on `coordinator_seen`: the highest id up to which operations are finished, and those up
    /// to it that are not.
    pub const FINISHED: u8 = 75;
    /// u8, 1, on `tx_vote_received` and `tx_abort_complete`: there is nothing to change.
    pub const READ_ONLY: u8 = 45;
    /// When i64, length of who u16, who, why: an operator's.
    pub const FORCED: u8 = 47;
    /// u8, on `tx_participant_heuristic` and `tx_heuristic`: what has become of what was forced.
    pub const FOUND: u8 = 48;
    /// u8, 1, on `tx_prepare_start` and `tx_participant_committed`: the only participant decides.
    pub const ONE_PHASE: u8 = 46;
    /// u8 and more, on `saga_step_added`: 0 its node does it, 1 a transaction, 2 a saga.
    pub const PERFORMER: u8 = 49;
    /// u8 and more, on `saga_step_added`: 0 a call undoes it, 1 a transaction, 2 the saga that did it.
    pub const UNDO: u8 = 50;
    /// Saga u64, step u32, undo u8, on the created records.
    pub const PARENT: u8 = 52;
}

/// A participant as `tx_commit_start` lists it, 76 bytes: shard, node, store, boot count.
pub const PARTICIPANT_BYTES: usize = 76;

/// A payload, read field by field from the front.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next byte.
    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// The next four bytes.
    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// An operation's id.
    #[inline]
    pub fn id(&mut self) -> Option<OperationId> {
        self.u64().map(OperationId)
    }

    /// A coordinator's name.
    #[inline]
    pub fn coordinator(&mut self) -> Option<CoordinatorId> {
        self.array().map(CoordinatorId)
    }

    /// A shard's name.
    #[inline]
    pub fn shard(&mut self) -> Option<ShardId> {
        self.array().map(ShardId)
    }

    /// A node's name.
    #[inline]
    pub fn node(&mut self) -> Option<NodeName> {
        self.array().map(NodeName)
    }

    /// The extensions behind the fixed fields: the first value of each tag that is asked for. `None`
    /// if any extension is cut, or they are of another version.
    #[must_use]
    #[inline]
    pub fn extensions<const N: usize>(self, tags: [u8; N]) -> Option<[Option<&'a [u8]>; N]> {
        let mut found = [None; N];
        let Some((version, mut rest)) = self.0.split_first() else { return Some(found) };
        while !rest.is_empty() {
            let ((tag, value), behind) = split(rest)?;
            for at in 0..N {
                if tags[at] == tag && found[at].is_none() {
                    found[at] = Some(value);
                }
            }
            rest = behind;
        }
        (*version == 1).then_some(found)
    }

    /// The same, of many tags.
    #[must_use]
    #[inline]
    pub fn extensions_of<const N: usize>(self, tags: &Tags<N>) -> Option<[Option<&'a [u8]>; N]> {
        let mut found = [None; N];
        let Some((version, mut rest)) = self.0.split_first() else { return Some(found) };
        while !rest.is_empty() {
            let ((tag, value), behind) = split(rest)?;
            if let Some(first @ None) = found.get_mut(usize::from(tags.places[usize::from(tag)])) {
                *first = Some(value);
            }
            rest = behind;
        }
        (*version == 1).then_some(found)
    }
}

/// Tags that are asked for together, each found in one step.
#[derive(Clone, Debug)]
pub struct Tags<const N: usize> {
    /// By the tag: its place among them, `N` for others.
    places: [u8; 256],
}

impl<const N: usize> Tags<N> {
    /// These.
    #[must_use]
    pub const fn of(tags: [u8; N]) -> Tags<N> {
        assert!(N < 256);
        let mut places = [N as u8; 256];
        let mut at = 0;
        while at < N {
            places[tags[at] as usize] = at as u8;
            at += 1;
        }
        Tags { places }
    }
}

type Tagged<'a> = (u8, &'a [u8]);

#[inline]
fn split(bytes: &[u8]) -> Option<(Tagged<'_>, &[u8])> {
    let (&[tag, low, high], rest) = bytes.split_first_chunk::<3>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    Some(((tag, value), rest))
}

/// An extension's value, if it is there and has this length.
#[must_use]
#[inline]
pub fn array<const N: usize>(value: Option<&[u8]>) -> Option<[u8; N]> {
    value?.try_into().ok()
}

/// A change that a piece of work asks for: 17 bytes, kind, cell, amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which cell.
    pub cell: u64,
    /// What to add; the least that it must hold; the step whose output is added.
    pub amount: i64,
    /// What it is.
    pub kind: ChangeKind,
}

/// What a change is; its byte is its place here, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Something is added.
    Add,
    /// A condition.
    Require,
    /// A condition of the undo.
    RequireToUndo,
    /// What another step gave is added.
    AddInput,
    /// The step gives what the cell holds.
    Give,
    /// What another step had given was added.
    Added,
    /// A condition that is not held.
    Look,
}

impl ChangeKind {
    const ALL: [ChangeKind; 7] = [
        ChangeKind::Add,
        ChangeKind::Require,
        ChangeKind::RequireToUndo,
        ChangeKind::AddInput,
        ChangeKind::Give,
        ChangeKind::Added,
        ChangeKind::Look,
    ];
}

impl Change {
    /// What it adds to its cell; nothing unless it is such a change.
    #[must_use]
    pub fn adds(&self) -> i64 {
        if matches!(self.kind, ChangeKind::Add | ChangeKind::Added) { self.amount } else { 0 }
    }
}

/// The changes of a piece of work; what is none ends them.
pub fn changes(work: &[u8]) -> impl Iterator<Item = Change> + '_ {
    work.as_chunks::<17>().0.iter().map_while(|bytes| {
        let mut fields = Fields(&bytes[1..]);
        let (cell, amount) = (fields.u64()?, fields.u64()? as i64);
        let kind = *ChangeKind::ALL.get(usize::from(bytes[0].checked_sub(1)?))?;
        Some(Change { cell, amount, kind })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_whole_or_nothing() {
        let whole = [1, 9, 4, 0, 7, 0, 0, 0, 11, 1, 0, 1];
        let tags = [tag::EPOCH, tag::PROMISED, tag::SHARD];
        let [epoch, promised, shard] = Fields(&whole).extensions(tags).unwrap();
        let many = Tags::of(tags);
        assert_eq!(Fields(&whole).extensions_of(&many), Some([epoch, promised, shard]));
        assert_eq!(array(epoch).map(u32::from_le_bytes), Some(7));
        assert_eq!(array(promised), Some([1]));
        assert_eq!(shard, None);
        assert_eq!(array::<2>(promised), None);
        for cut in 1..whole.len() {
            assert_eq!(
                Fields(&whole[..cut]).extensions_of(&many),
                Fields(&whole[..cut]).extensions(tags)
            );
            let tags = Fields(&whole[..cut]).extensions(tags);
            assert_eq!(tags.is_some(), cut == 1 || cut == 8, "cut at {cut}");
        }
        assert!(Fields(&[2]).extensions(tags).is_none(), "another version");
        assert!(Fields(&[2]).extensions_of(&many).is_none());
        assert_eq!(Fields(&[]).extensions_of(&many), Some([None; 3]));
        assert_eq!(Fields(&[]).extensions(tags), Some([None; 3]));
        let twice = [1, 11, 1, 0, 1, 11, 1, 0, 0];
        let first = Fields(&twice).extensions([tag::PROMISED]);
        assert_eq!(first, Some([Some(&[1][..])]), "the first counts");
        assert_eq!(Fields(&twice).extensions_of(&Tags::of([tag::PROMISED])), first);
    }

    #[test]
    fn work_is_read_as_it_is_documented() {
        let change = |cell, amount| node::work::Change::Add { cell, amount };
        let require = node::work::Change::Require { cell: 4, at_least: -9 };
        let bytes = node::work::encode(&[
            change(3, 5),
            require,
            change(u64::MAX, i64::MIN),
            node::work::Change::RequireToUndo { cell: 5, at_least: 6 },
            node::work::Change::AddInput { cell: 7, step: 8 },
            node::work::Change::Give { cell: 9 },
            node::work::Change::Added { cell: 10, amount: 11 },
            node::work::Change::Look { cell: 12, at_least: 13 },
        ]);
        let read: Vec<Change> = changes(&bytes).collect();
        let expected = [
            (3, 5, ChangeKind::Add),
            (4, -9, ChangeKind::Require),
            (u64::MAX, i64::MIN, ChangeKind::Add),
            (5, 6, ChangeKind::RequireToUndo),
            (7, 8, ChangeKind::AddInput),
            (9, 0, ChangeKind::Give),
            (10, 11, ChangeKind::Added),
            (12, 13, ChangeKind::Look),
        ]
        .map(|(cell, amount, kind)| Change { cell, amount, kind });
        assert_eq!(read, expected);
    }
}
