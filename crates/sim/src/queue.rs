//! What is to come, earliest first.

use base::Time;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An event that was scheduled: small, because the queue moves it often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Time,
    /// Unique, ascending: events of the same moment happen in the order in which they were
    /// scheduled.
    pub tie: u64,
    /// Which node, or which entry of the plan, or which operation.
    pub target: u32,
    /// What kind of event, and its payload's index: the world's business.
    pub what: u32,
}

impl Entry {
    fn rank(&self) -> u128 {
        u128::from(self.at.as_nanos()) << 64 | u128::from(self.tie)
    }
}

impl Ord for Entry {
    /// Earlier is greater: the standard heap gives its greatest first.
    fn cmp(&self, other: &Entry) -> Ordering {
        other.rank().cmp(&self.rank())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A queue of events. Every one gives the same order, since no two entries have the same tie.
pub trait Queue {
    /// Adds an entry.
    fn push(&mut self, entry: Entry);
    /// Takes the earliest entry.
    fn pop(&mut self) -> Option<Entry>;
}

/// A binary heap.
#[derive(Clone, Debug, Default)]
pub struct Heap(BinaryHeap<Entry>);

impl Queue for Heap {
    fn push(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        self.0.pop()
    }
}

/// Payloads that wait for their event, each at an index that stays the same.
#[derive(Clone, Debug)]
pub struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps a payload, and says where.
    pub fn put(&mut self, payload: T) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.places[index as usize] = Some(payload);
                index
            }
            None => {
                self.places.push(Some(payload));
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 events wait at once")
            }
        }
    }

    /// Takes a payload out.
    ///
    /// # Panics
    /// If there is none: a payload is taken once.
    pub fn take(&mut self, index: u32) -> T {
        self.free.push(index);
        self.places[index as usize].take().expect("a payload is taken once, by its event")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_ties_keep_their_order() {
        let mut heap = Heap::default();
        for (tie, at) in [5, 3, 5, 1, 3].into_iter().enumerate() {
            let at = Time::from_nanos(at);
            heap.push(Entry { at, tie: tie as u64, target: 0, what: 0 });
        }
        let order: Vec<u64> = std::iter::from_fn(|| heap.pop()).map(|entry| entry.tie).collect();
        assert_eq!(order, [3, 1, 4, 0, 2]);
    }

    #[test]
    fn a_place_is_used_again() {
        let mut slab = Slab::default();
        let (a, b) = (slab.put("a"), slab.put("b"));
        assert_eq!(slab.take(a), "a");
        assert_eq!(slab.put("c"), a);
        assert_eq!((slab.take(b), slab.take(a)), ("b", "c"));
    }
}
