//! What a transaction's branch or a saga's step does at a node: changes to numbered cells.

use saga::{Output, StepInput};
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
    /// The cell must hold at least this much when a step is undone, or the compensation fails.
    RequireToUndo {
        /// Which cell.
        cell: u64,
        /// The least that it must hold then.
        at_least: i64,
    },
    /// Adds to a cell what an earlier step of the saga gave, an i64.
    AddInput {
        /// Which cell.
        cell: u64,
        /// Which step.
        step: u32,
    },
    /// The step gives what this cell holds when the step is done, an i64.
    Give {
        /// Which cell.
        cell: u64,
    },
    /// What became of [`Change::AddInput`] where it was done: as [`Change::Add`].
    Added {
        /// Which cell.
        cell: u64,
        /// How much.
        amount: i64,
    },
    /// The cell must hold at least this much when a branch is asked to prepare. Unlike [`Change::Require`] it
    /// is not held until the outcome: a branch that only looks votes read-only, and others may change the
    /// cell before the transaction commits.
    Look {
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
            Self::Add { cell, .. }
            | Self::Require { cell, .. }
            | Self::RequireToUndo { cell, .. }
            | Self::AddInput { cell, .. }
            | Self::Give { cell }
            | Self::Added { cell, .. }
            | Self::Look { cell, .. } => *cell,
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
const REQUIRE_TO_UNDO: u8 = 3;
const ADD_INPUT: u8 = 4;
const GIVE: u8 = 5;
const ADDED: u8 = 6;
const LOOK: u8 = 7;

/// The changes as bytes: for each, a kind (1: add, 2: require, 3: require to undo, 4: add an input, 5:
/// give, 6: an added input, 7: look), the cell and the amount, both of 8 bytes, little-endian. With 4 the amount
/// is the step's number, with 5 it is 0.
#[must_use]
pub fn encode(changes: &[Change]) -> Arc<[u8]> {
    // Most work is a change or two: those need no memory but what they are kept in.
    let mut few = [0; 2 * CHANGE_BYTES];
    if let Some(few) = few.get_mut(..changes.len() * CHANGE_BYTES) {
        encode_to(changes, few);
        return (&*few).into();
    }
    let mut bytes = vec![0; changes.len() * CHANGE_BYTES];
    encode_to(changes, &mut bytes);
    bytes.into()
}

/// There is room for just so many.
fn encode_to(changes: &[Change], to: &mut [u8]) {
    for (change, to) in changes.iter().zip(to.as_chunks_mut::<CHANGE_BYTES>().0) {
        let (kind, cell, amount) = match *change {
            Change::Add { cell, amount } => (ADD, cell, amount),
            Change::Require { cell, at_least } => (REQUIRE, cell, at_least),
            Change::RequireToUndo { cell, at_least } => (REQUIRE_TO_UNDO, cell, at_least),
            Change::AddInput { cell, step } => (ADD_INPUT, cell, i64::from(step)),
            Change::Give { cell } => (GIVE, cell, 0),
            Change::Added { cell, amount } => (ADDED, cell, amount),
            Change::Look { cell, at_least } => (LOOK, cell, at_least),
        };
        to[0] = kind;
        to[1..9].copy_from_slice(&cell.to_le_bytes());
        to[9..].copy_from_slice(&amount.to_le_bytes());
    }
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
            REQUIRE_TO_UNDO => Ok(Change::RequireToUndo { cell, at_least: amount }),
            ADD_INPUT => {
                let step = u32::try_from(amount).map_err(|_| NotWork)?;
                Ok(Change::AddInput { cell, step })
            }
            GIVE if amount == 0 => Ok(Change::Give { cell }),
            ADDED => Ok(Change::Added { cell, amount }),
            LOOK => Ok(Change::Look { cell, at_least: amount }),
            _ => Err(NotWork),
        }
    })
}

/// What a step was given, by the step that gave it.
pub(crate) fn given(inputs: &[StepInput], step: u32) -> Option<i64> {
    let input = inputs.iter().find(|input| input.step == step)?;
    match &input.output {
        Output::Inline(bytes) => Some(i64::from_le_bytes((**bytes).try_into().ok()?)),
        Output::Hashed { .. } => None,
    }
}

/// The same work, with what it was given in the place of what it asks for. `None`: something that it
/// asks for was not given.
pub(crate) fn resolve(bytes: &Arc<[u8]>, inputs: &[StepInput]) -> Option<Arc<[u8]>> {
    let asks = |change: Result<Change, NotWork>| matches!(change, Ok(Change::AddInput { .. }));
    if !decode(bytes).any(asks) {
        return Some(Arc::clone(bytes));
    }
    let mut changes = Vec::new();
    for change in decode(bytes) {
        changes.push(match change.ok()? {
            Change::AddInput { cell, step } => Change::Added { cell, amount: given(inputs, step)? },
            change => change,
        });
    }
    Some(encode(&changes))
}

/// The cell that the work gives, if it gives one.
pub(crate) fn gives(bytes: &[u8]) -> Option<u64> {
    decode(bytes).find_map(|change| match change {
        Ok(Change::Give { cell }) => Some(cell),
        _ => None,
    })
}

/// Whether the work only looks. Work that asks for nothing at all does not: whoever sends it wants a promise.
pub(crate) fn only_looks(bytes: &[u8]) -> bool {
    !bytes.is_empty() && decode(bytes).all(|change| matches!(change, Ok(Change::Look { .. })))
}

/// Whether the work holds something that the step was given, which its asker does not know.
pub(crate) fn holds_inputs(bytes: &[u8]) -> bool {
    decode(bytes).any(|change| matches!(change, Ok(Change::Added { .. })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_survives_the_wire_and_nonsense_is_refused() {
        let changes = [
            Change::Add { cell: u64::MAX, amount: i64::MIN },
            Change::Require { cell: 0, at_least: -1 },
            Change::RequireToUndo { cell: 1, at_least: i64::MAX },
            Change::AddInput { cell: 2, step: u32::MAX },
            Change::Give { cell: 3 },
            Change::Added { cell: 4, amount: -4 },
            Change::Look { cell: 5, at_least: i64::MIN },
        ];
        let bytes = encode(&changes);
        let back: Result<Vec<_>, _> = decode(&bytes).collect();
        assert_eq!(back, Ok(changes.to_vec()));
        let cut: Result<Vec<_>, _> = decode(&bytes[..20]).collect();
        assert_eq!(cut, Err(NotWork));
        assert_eq!(decode(&[9; 17]).next(), Some(Err(NotWork)));
    }

    #[test]
    fn what_is_given_takes_the_place_of_what_is_asked_for() {
        let asked = encode(&[Change::AddInput { cell: 2, step: 5 }, Change::Give { cell: 2 }]);
        let input = |output| StepInput { step: 5, output };
        let seven = input(Output::Inline(7i64.to_le_bytes().into()));
        let done = [Change::Added { cell: 2, amount: 7 }, Change::Give { cell: 2 }];
        assert_eq!(resolve(&asked, &[seven]), Some(encode(&done)));
        assert_eq!(gives(&asked), Some(2));
        assert!(!holds_inputs(&asked) && holds_inputs(&encode(&done)));
        for missing in [
            vec![],
            vec![input(Output::Inline([1, 2].into()))],
            vec![input(Output::Hashed { hash: [0; 32], bytes: 8 })],
        ] {
            assert_eq!(resolve(&asked, &missing), None, "{missing:?}");
        }
        let plain = encode(&[Change::Add { cell: 1, amount: 1 }]);
        assert_eq!(resolve(&plain, &[]), Some(plain));
    }
}
