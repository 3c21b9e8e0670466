//! A participant's cells, each found in about one step.

/// Which promise holds a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lock {
    /// None.
    #[default]
    Free,
    /// That of a coordinator's transaction, of a branch of it, each by its place.
    Of(u32, u32, u32),
}

/// What is known of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What the log's records add up to.
    pub value: i64,
    /// Who holds it.
    pub lock: Lock,
}

/// Cells by their number. Most are cold when they are asked for, so one must be found where it is
/// first looked for, with no more beside it than must be: a table with open addressing, and fixed
/// arithmetic to spread the numbers.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    /// As many as a power of two, at least a quarter of them free, or none at all.
    slots: Vec<Option<(u64, Cell)>>,
    used: usize,
}

const SLOTS_FIRST: usize = 16;

impl Cells {
    /// A cell, to be changed; at first it is empty and free.
    pub fn at(&mut self, number: u64) -> &mut Cell {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let place = self.place(number);
        let slot = &mut self.slots[place];
        self.used += usize::from(slot.is_none());
        &mut slot.get_or_insert_with(|| (number, Cell::default())).1
    }

    /// A cell as it is, perhaps untouched.
    #[must_use]
    pub fn get(&self, number: u64) -> Cell {
        if self.slots.is_empty() {
            return Cell::default();
        }
        self.slots[self.place(number)].map_or_else(Cell::default, |(_, cell)| cell)
    }

    /// Every cell, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Cell)> {
        self.slots.iter().flatten().copied()
    }

    /// True if these are the cells that hold something, and what they hold. None is named twice.
    #[must_use]
    pub fn hold(&self, all: impl Iterator<Item = (u64, i64)>) -> bool {
        let mut left = self.iter().filter(|(_, cell)| cell.value != 0).count();
        for (number, value) in all {
            if value == 0 || self.get(number).value != value {
                return false;
            }
            left -= 1;
        }
        left == 0
    }

    /// Where a cell is, or would be.
    fn place(&self, number: u64) -> usize {
        let last = self.slots.len() - 1;
        let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut place = (hash >> 32) as usize & last;
        // There is always a free one.
        while let Some((other, _)) = &self.slots[place]
            && *other != number
        {
            place = (place + 1) & last;
        }
        place
    }

    fn grow(&mut self) {
        let larger = vec![None; (self.slots.len() * 2).max(SLOTS_FIRST)];
        for slot in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
            let place = self.place(slot.0);
            self.slots[place] = Some(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_cell_is_found_again() {
        let (mut cells, mut expected) = (Cells::default(), BTreeMap::new());
        assert_eq!(cells.get(0), Cell::default());
        assert_eq!(cells.iter().count(), 0);
        // Neighbours, one end and the other, and numbers that begin in one place.
        let numbers = (0..300).chain([u64::MAX, u64::MAX - 1]).chain((1..200).map(|n| n << 52));
        for (value, number) in (-150..).zip(numbers) {
            let lock = Lock::Of(1, 2, (value + 150) as u32);
            cells.at(number).value = value;
            cells.at(number).lock = lock;
            expected.insert(number, Cell { value, lock });
        }
        for (number, cell) in &expected {
            assert_eq!(cells.get(*number), *cell);
        }
        assert_eq!(cells.get(1_000), Cell::default(), "one that nobody touched");
        let held = || expected.iter().map(|(number, cell)| (*number, cell.value));
        assert!(cells.hold(held().filter(|(_, value)| *value != 0)));
        assert!(!cells.hold(held()), "zeros are nothing");
        assert!(!cells.hold(held().filter(|(number, _)| *number > 0)), "one is missing");
        assert!(!cells.hold(std::iter::once((1_000, 1))), "one too many");
        let all: BTreeMap<u64, Cell> = cells.iter().collect();
        assert_eq!((cells.iter().count(), all), (expected.len(), expected));
    }
}
