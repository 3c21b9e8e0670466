//! What a transaction's branch or a saga's step does at a node: changes to numbered cells.

use std::fmt;
use std::sync::Arc;

/// One change, or a condition for all the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds to a cell (it begins at 0). Amounts wrap, so that taking back always cancels.
    Add {
        /// Which cell.
        cell: u64,
        /// How much; negative to take away.
        amount: i64,
    },
    /// The cell must hold at least this much, or nothing of the work is done.
    Require {
        /// Which cell.
        cell: u64,
        /// The least that it must hold.
        at_least: i64,
    },
}

impl Change {
    /// The cell that it touches or reads.
    #[must_use]
    pub fn cell(&self) -> u64 {
        match self {
            Self::Add { cell, .. } | Self::Require { cell, .. } => *cell,
        }
    }
}

/// Bytes that are no work: the sender and this node do not speak the same version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWork;

impl fmt::Display for NotWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these bytes describe no work")
    }
}

impl std::error::Error for NotWork {}

const CHANGE_BYTES: usize = 17;
const ADD: u8 = 1;
const REQUIRE: u8 = 2;

/// The changes as bytes: for each, a kind (1: add, 2: require), the cell and the amount, both of 8
/// bytes, little-endian.
#[must_use]
pub fn encode(changes: &[Change]) -> Arc<[u8]> {
    let mut bytes = Vec::with_capacity(changes.len() * CHANGE_BYTES);
    for change in changes {
        let (kind, cell, amount) = match *change {
            Change::Add { cell, amount } => (ADD, cell, amount),
            Change::Require { cell, at_least } => (REQUIRE, cell, at_least),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&cell.to_le_bytes());
        bytes.extend_from_slice(&amount.to_le_bytes());
    }
    bytes.into()
}

/// The changes that the bytes describe, one by one.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Result<Change, NotWork>> + Clone + '_ {
    bytes.chunks(CHANGE_BYTES).map(|chunk| {
        let chunk: &[u8; CHANGE_BYTES] = chunk.try_into().map_err(|_| NotWork)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&chunk[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (cell, amount) = (word(1), word(9) as i64);
        match chunk[0] {
            ADD => Ok(Change::Add { cell, amount }),
            REQUIRE => Ok(Change::Require { cell, at_least: amount }),
            _ => Err(NotWork),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_survives_the_wire_and_nonsense_is_refused() {
        let changes = [
            Change::Add { cell: u64::MAX, amount: i64::MIN },
            Change::Require { cell: 0, at_least: -1 },
        ];
        let bytes = encode(&changes);
        let back: Result<Vec<_>, _> = decode(&bytes).collect();
        assert_eq!(back, Ok(changes.to_vec()));
        let cut: Result<Vec<_>, _> = decode(&bytes[..20]).collect();
        assert_eq!(cut, Err(NotWork));
        assert_eq!(decode(&[9; 17]).next(), Some(Err(NotWork)));
    }
}
