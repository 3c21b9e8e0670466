//! Fields of records' payloads, read from the format's document alone.

use base::{CoordinatorId, NodeName, OperationId, RequestKey, ShardId};

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
}

/// A participant as `tx_commit_start` lists it, 76 bytes: shard, node, store, boot count.
pub const PARTICIPANT_BYTES: usize = 76;

/// A payload, read field by field from the front.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// An operation's id.
    pub fn id(&mut self) -> Option<OperationId> {
        self.u64().map(OperationId)
    }

    /// A coordinator's name.
    pub fn coordinator(&mut self) -> Option<CoordinatorId> {
        self.array().map(CoordinatorId)
    }

    /// A shard's name.
    pub fn shard(&mut self) -> Option<ShardId> {
        self.array().map(ShardId)
    }

    /// A node's name.
    pub fn node(&mut self) -> Option<NodeName> {
        self.array().map(NodeName)
    }

    /// What stands behind the fixed fields; `None` if it is cut, or of another version.
    #[must_use]
    pub fn tags(self) -> Option<Tags<'a>> {
        let Some((version, tags)) = self.0.split_first() else { return Some(Tags(&[])) };
        let mut rest = tags;
        while !rest.is_empty() {
            rest = split(rest)?.1;
        }
        (*version == 1).then_some(Tags(tags))
    }
}

/// Extensions that are whole.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a>(&'a [u8]);

type Tagged<'a> = (u8, &'a [u8]);

fn split(bytes: &[u8]) -> Option<(Tagged<'_>, &[u8])> {
    let (&[tag, low, high], rest) = bytes.split_first_chunk::<3>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    Some(((tag, value), rest))
}

impl<'a> Tags<'a> {
    /// The first value of a tag.
    #[must_use]
    pub fn find(self, tag: u8) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let Some(((found, value), behind)) = split(rest) {
            if found == tag {
                return Some(value);
            }
            rest = behind;
        }
        None
    }

    /// The first value of a tag, if it has this length.
    #[must_use]
    pub fn array<const N: usize>(self, tag: u8) -> Option<[u8; N]> {
        self.find(tag)?.try_into().ok()
    }

    /// A value of four bytes.
    #[must_use]
    pub fn u32(self, tag: u8) -> Option<u32> {
        self.array(tag).map(u32::from_le_bytes)
    }

    /// The user's name for an operation, as it stands in the log.
    #[must_use]
    pub fn request_key(self) -> Option<&'a [u8]> {
        self.find(tag::REQUEST_KEY).filter(|key| key.len() <= RequestKey::BYTES_MAX as usize)
    }
}

/// A change that a piece of work asks for: 17 bytes, kind (1 add, 2 require), cell, amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which cell.
    pub cell: u64,
    /// What to add, or the least that it must hold.
    pub amount: i64,
    /// It is a condition.
    pub condition: bool,
}

/// The changes of a piece of work; what is none ends them.
pub fn changes(work: &[u8]) -> impl Iterator<Item = Change> + '_ {
    work.as_chunks::<17>().0.iter().map_while(|bytes| {
        let mut fields = Fields(&bytes[1..]);
        let (cell, amount) = (fields.u64()?, fields.u64()? as i64);
        matches!(bytes[0], 1 | 2).then_some(Change { cell, amount, condition: bytes[0] == 2 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_whole_or_nothing() {
        let whole = [1, 9, 4, 0, 7, 0, 0, 0, 11, 1, 0, 1];
        let tags = Fields(&whole).tags().unwrap();
        assert_eq!(tags.u32(tag::EPOCH), Some(7));
        assert_eq!(tags.array(tag::PROMISED), Some([1]));
        assert_eq!(tags.find(tag::SHARD), None);
        assert_eq!(tags.array::<2>(tag::PROMISED), None);
        for cut in 1..whole.len() {
            let tags = Fields(&whole[..cut]).tags();
            assert_eq!(tags.is_some(), cut == 1 || cut == 8, "cut at {cut}");
        }
        assert!(Fields(&[2]).tags().is_none(), "another version");
        assert!(Fields(&[]).tags().is_some());
    }

    #[test]
    fn work_is_read_as_it_is_documented() {
        let change = |cell, amount| node::work::Change::Add { cell, amount };
        let require = node::work::Change::Require { cell: 4, at_least: -9 };
        let bytes = node::work::encode(&[change(3, 5), require, change(u64::MAX, i64::MIN)]);
        let read: Vec<Change> = changes(&bytes).collect();
        let expected = [(3, 5, false), (4, -9, true), (u64::MAX, i64::MIN, false)]
            .map(|(cell, amount, condition)| Change { cell, amount, condition });
        assert_eq!(read, expected);
    }
}
