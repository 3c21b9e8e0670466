use crate::table::Table;
use crate::work::{self, Change, NotWork};

/// The data that a node keeps: numbered cells. Rebuilt from the participant's log at each start.
#[derive(Clone, Debug, Default)]
pub struct Store {
    cells: Table<i64>,
    changes: u64,
}

impl Store {
    /// How often anything here was set or added to since the start. While it stays the same, every cell does.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What a cell holds; 0 if nothing was ever added.
    #[must_use]
    pub fn value(&self, cell: u64) -> i64 {
        self.cells.get(cell).copied().unwrap_or(0)
    }

    /// Every cell that was ever added to, in their order.
    pub fn cells(&self) -> impl Iterator<Item = (u64, i64)> + '_ {
        self.cells.iter().map(|(cell, value)| (cell, *value))
    }

    /// True if every condition of the work holds now.
    ///
    /// # Errors
    /// [`NotWork`]: refuse it.
    pub fn allows(&self, bytes: &[u8]) -> Result<bool, NotWork> {
        let mut allowed = true;
        for change in work::decode(bytes) {
            allowed &= self.meets(&change?);
        }
        Ok(allowed)
    }

    /// True if the work may be taken back now.
    pub(crate) fn allows_undo(&self, bytes: &[u8]) -> bool {
        work::decode(bytes).all(|change| match change {
            Ok(Change::RequireToUndo { cell, at_least }) => self.value(cell) >= at_least,
            _ => true,
        })
    }

    /// True unless it is a condition that does not hold now, or asks for what only a saga has.
    pub(crate) fn meets(&self, change: &Change) -> bool {
        match *change {
            Change::Require { cell, at_least } | Change::Look { cell, at_least } => {
                self.value(cell) >= at_least
            }
            Change::AddInput { .. } => false,
            Change::Add { .. }
            | Change::Added { .. }
            | Change::RequireToUndo { .. }
            | Change::Give { .. } => true,
        }
    }

    /// What a cell will hold once the work is done.
    pub(crate) fn value_after(&self, cell: u64, bytes: &[u8]) -> i64 {
        work::decode(bytes).fold(self.value(cell), |value, change| match change {
            Ok(Change::Add { cell: of, amount } | Change::Added { cell: of, amount })
                if of == cell =>
            {
                value.wrapping_add(amount)
            }
            _ => value,
        })
    }

    /// Sets what a cell holds, as a snapshot says it.
    pub(crate) fn set(&mut self, cell: u64, value: i64) {
        self.changes += 1;
        self.cells.insert(cell, value);
    }

    /// Does the work.
    pub fn apply(&mut self, bytes: &[u8]) {
        self.add(bytes, false);
    }

    /// Takes the work back.
    pub fn undo(&mut self, bytes: &[u8]) {
        self.add(bytes, true);
    }

    fn add(&mut self, bytes: &[u8], negated: bool) {
        for change in work::decode(bytes) {
            if let Ok(Change::Add { cell, amount } | Change::Added { cell, amount }) = change {
                let amount = if negated { amount.wrapping_neg() } else { amount };
                self.changes += 1;
                match self.cells.get_mut(cell) {
                    Some(value) => *value = value.wrapping_add(amount),
                    None => self.cells.insert(cell, amount),
                }
            }
        }
    }
}
