//! A map from operation ids that costs two look-ups in vectors.

use base::OperationId;
use std::collections::BTreeMap;

/// Values by operation id. The ids that a coordinator draws are dense within an epoch, so they are
/// indices; any other id has its place in a tree.
#[derive(Clone, Debug)]
pub struct IdMap<V> {
    /// By epoch, then by counter: the value's place plus one, 0 for none.
    dense: Vec<Vec<u32>>,
    sparse: BTreeMap<OperationId, u32>,
    /// In the order of insertion.
    values: Vec<(OperationId, V)>,
}

impl<V> Default for IdMap<V> {
    fn default() -> Self {
        IdMap { dense: Vec::new(), sparse: BTreeMap::new(), values: Vec::new() }
    }
}

/// Epochs from here on are not dense.
const EPOCHS_MAX: usize = 1 << 14;
/// A counter may be so far behind the highest one of its epoch and still be dense.
const GAP_MAX: usize = 1 << 12;

impl<V> IdMap<V> {
    /// The value of an id.
    #[must_use]
    pub fn get(&self, id: OperationId) -> Option<&V> {
        self.place(id).map(|place| &self.values[place].1)
    }

    /// The value of an id, to be changed.
    pub fn get_mut(&mut self, id: OperationId) -> Option<&mut V> {
        self.place(id).map(|place| &mut self.values[place].1)
    }

    /// The value of an id, which is made if it is not there.
    pub fn entry(&mut self, id: OperationId, make: impl FnOnce() -> V) -> &mut V {
        self.place_or_make(id, make).1
    }

    /// The place of an id, which it keeps, and its value, which is made if it is not there.
    pub fn place_or_make(&mut self, id: OperationId, make: impl FnOnce() -> V) -> (u32, &mut V) {
        let place = match self.place(id) {
            Some(place) => place,
            None => {
                self.values.push((id, make()));
                let place = self.values.len() - 1;
                self.note(id, u32::try_from(place + 1).expect("fewer than 2^32 operations"));
                place
            }
        };
        (place as u32, &mut self.values[place].1)
    }

    /// The id at a place.
    ///
    /// # Panics
    /// If there is no such place.
    #[must_use]
    pub fn id_at(&self, place: u32) -> OperationId {
        self.values[place as usize].0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Every id and its value, in the order of insertion.
    pub fn iter(&self) -> impl Iterator<Item = (OperationId, &V)> {
        self.values.iter().map(|(id, value)| (*id, value))
    }

    fn place(&self, id: OperationId) -> Option<usize> {
        let (epoch, counter) = (id.epoch().value() as usize, id.counter() as usize);
        let dense = self.dense.get(epoch).and_then(|counters| counters.get(counter));
        match dense {
            Some(&place) if place > 0 => Some(place as usize - 1),
            _ if self.sparse.is_empty() => None,
            _ => self.sparse.get(&id).map(|&place| place as usize - 1),
        }
    }

    fn note(&mut self, id: OperationId, place: u32) {
        let (epoch, counter) = (id.epoch().value() as usize, id.counter() as usize);
        let known = self.dense.get(epoch).map_or(0, Vec::len);
        if epoch >= EPOCHS_MAX || counter > known + GAP_MAX {
            self.sparse.insert(id, place);
            return;
        }
        if self.dense.len() <= epoch {
            self.dense.resize_with(epoch + 1, Vec::new);
        }
        let counters = &mut self.dense[epoch];
        if counters.len() <= counter {
            counters.resize(counter + 1, 0);
        }
        counters[counter] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Epoch;

    #[test]
    fn dense_and_far_away_ids_are_all_found() {
        let drawn = |epoch, counter| OperationId::draw(Epoch::new(epoch), counter).unwrap();
        let ids = [
            OperationId(0),
            OperationId(1),
            drawn(3, 1),
            drawn(3, 4_000),
            drawn(3, 9_000),
            drawn(1 << 20, 1),
            OperationId(u64::MAX),
        ];
        let mut map = IdMap::default();
        for (n, id) in ids.into_iter().enumerate() {
            assert!(map.get(id).is_none());
            *map.entry(id, || 0) += n + 1;
            *map.entry(id, || 0) += 100;
        }
        for (n, id) in ids.into_iter().enumerate() {
            assert_eq!(map.get(id), Some(&(n + 101)));
        }
        for id in ids {
            let (place, value) = map.place_or_make(id, || 0);
            let value = *value;
            assert_eq!((map.id_at(place), map.get(id)), (id, Some(&value)));
        }
        assert_eq!(map.len(), ids.len());
        assert_eq!(map.get(drawn(3, 2)), None);
        assert!(map.iter().map(|(id, _)| id).eq(ids));
    }
}
