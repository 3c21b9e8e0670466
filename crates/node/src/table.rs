//! A map from cells to small values, for look-ups that are far apart in time: each visits one place in
//! memory, where a tree's path is several, none of them in a cache any more.

use std::collections::BTreeMap;

/// Values by cell. What it says of itself is in the order of the cells, so that nothing depends on
/// where they are kept.
#[derive(Clone, Debug)]
pub(crate) struct Table<V> {
    /// A power of two of places, at most three quarters of them taken. A cell is at its own place or
    /// in one of the next ones, with no free place between.
    places: Vec<Option<(u64, V)>>,
    /// How many places are taken.
    taken: usize,
    /// The cells that found [`PROBES`] places taken: none, unless they were chosen to meet in one
    /// place.
    crowded: BTreeMap<u64, V>,
}

/// How many places are looked at, for any cell.
const PROBES: usize = 32;
const PLACES_MIN: usize = 16;

impl<V> Default for Table<V> {
    fn default() -> Table<V> {
        Table { places: Vec::new(), taken: 0, crowded: BTreeMap::new() }
    }
}

impl<V: PartialEq> PartialEq for Table<V> {
    fn eq(&self, other: &Table<V>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<V: Eq> Eq for Table<V> {}

impl<V> Table<V> {
    /// The value of a cell.
    pub fn get(&self, cell: u64) -> Option<&V> {
        match self.find(cell) {
            Some(place) => self.places[place].as_ref().map(|(_, value)| value),
            None if self.crowded.is_empty() => None,
            None => self.crowded.get(&cell),
        }
    }

    /// The value of a cell, to be changed.
    pub fn get_mut(&mut self, cell: u64) -> Option<&mut V> {
        match self.find(cell) {
            Some(place) => self.places[place].as_mut().map(|(_, value)| value),
            None if self.crowded.is_empty() => None,
            None => self.crowded.get_mut(&cell),
        }
    }

    /// Sets the value of a cell.
    pub fn insert(&mut self, cell: u64, value: V) {
        if let Some(known) = self.get_mut(cell) {
            *known = value;
            return;
        }
        if (self.taken + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        self.put(cell, value);
    }

    /// Forgets a cell.
    pub fn remove(&mut self, cell: u64) {
        let Some(mut free) = self.find(cell) else {
            self.crowded.remove(&cell);
            return;
        };
        self.places[free] = None;
        self.taken -= 1;
        // Those behind move up, so that no free place stands between a cell and its own place.
        let mask = self.places.len() - 1;
        let mut next = (free + 1) & mask;
        while let Some((cell, _)) = &self.places[next] {
            let away = next.wrapping_sub(self.own(*cell)) & mask;
            if away >= next.wrapping_sub(free) & mask {
                self.places.swap(free, next);
                free = next;
            }
            next = (next + 1) & mask;
        }
    }

    /// Every cell and its value, by cell.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        let places = if self.taken == 0 { &[] } else { &self.places[..] };
        let placed = places.iter().flatten().map(|(cell, value)| (*cell, value));
        let crowded = self.crowded.iter().map(|(cell, value)| (*cell, value));
        let mut all: Vec<(u64, &V)> = placed.chain(crowded).collect();
        all.sort_unstable_by_key(|(cell, _)| *cell);
        all.into_iter()
    }

    fn find(&self, cell: u64) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let mask = self.places.len() - 1;
        let own = self.own(cell);
        for step in 0..PROBES {
            let place = (own + step) & mask;
            match &self.places[place] {
                Some((other, _)) if *other == cell => return Some(place),
                Some(_) => {}
                None => break,
            }
        }
        None
    }

    /// Where a cell belongs, by the upper bits of a product (Fibonacci hashing): cells in a row, or
    /// with the same distance between each two, are spread evenly.
    fn own(&self, cell: u64) -> usize {
        let bits = self.places.len().trailing_zeros();
        (cell.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize
    }

    /// Takes the first place whose cell, if there is one, is nearer to its own place (Robin Hood
    /// hashing): so no cell is much further away than any other.
    fn put(&mut self, cell: u64, value: V) {
        let mask = self.places.len() - 1;
        let mut homeless = (cell, value);
        let (mut place, mut away) = (self.own(cell), 0);
        while away < PROBES {
            let Some((there, _)) = &self.places[place] else {
                self.places[place] = Some(homeless);
                self.taken += 1;
                return;
            };
            let nearer = place.wrapping_sub(self.own(*there)) & mask;
            if nearer < away
                && let Some(there) = &mut self.places[place]
            {
                std::mem::swap(there, &mut homeless);
                away = nearer;
            }
            place = (place + 1) & mask;
            away += 1;
        }
        let (cell, value) = homeless;
        self.crowded.insert(cell, value);
    }

    fn grow(&mut self) {
        let size = (self.places.len() * 2).max(PLACES_MIN);
        let mut places = Vec::with_capacity(size);
        places.resize_with(size, || None);
        let before = std::mem::replace(&mut self.places, places);
        self.taken = 0;
        let crowded = std::mem::take(&mut self.crowded);
        for (cell, value) in before.into_iter().flatten().chain(crowded) {
            self.put(cell, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::prng::Key;

    /// Against an ordinary map. Cells near each other, at random, and such as all belong in the first
    /// of 4,096 places.
    #[test]
    fn cells_are_found_until_they_are_removed() {
        let inverse = 0x9E37_79B9_7F4A_7C15u64;
        // Newton's iteration: twice as many bits are right after each step.
        let inverse = (0..6).fold(inverse, |x, _| {
            x.wrapping_mul(2u64.wrapping_sub(x.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        });
        let mut stream = Key::root(5).stream();
        for meet in [false, true] {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            let mut crowded = false;
            for step in 0..20_000u64 {
                let cell = match stream.below(3) {
                    0 => stream.below(100),
                    1 => stream.below(100) << 40,
                    _ if meet => stream.below(100).wrapping_mul(inverse),
                    _ => stream.below(u64::MAX),
                };
                if stream.below(2) == 0 {
                    table.insert(cell, step);
                    model.insert(cell, step);
                } else {
                    table.remove(cell);
                    model.remove(&cell);
                }
                assert_eq!(table.get(cell), model.get(&cell));
                crowded |= !table.crowded.is_empty();
            }
            assert_eq!(crowded, meet);
            assert!(table.iter().eq(model.iter().map(|(cell, value)| (*cell, value))));
            assert!(model.iter().all(|(cell, value)| table.get(*cell) == Some(value)));
            assert_eq!(table.taken + table.crowded.len(), model.len());
        }
    }
}
