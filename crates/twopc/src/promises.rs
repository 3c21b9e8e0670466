//! Where a participant keeps its promises: a few bytes each, those of one coordinator side by side.
//!
//! A participant remembers every transaction that it ever heard of, and touches each of them a few
//! times, long apart: what it touches is not in a cache any more. So a look-up visits as little memory
//! as it can, and only promises without an outcome have more than 24 bytes.

use crate::TxKey;
use crate::participant::{Prepared, Promise, PromiseKey};
use base::{CoordinatorId, Epoch, OperationId, Sequence, ShardId};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Where a promise is, or would be: a hint that spares a search. A wrong one costs a search, no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    ward: u32,
    entry: u32,
}

impl Place {
    /// No hint.
    pub const UNKNOWN: Place = Place { ward: u32::MAX, entry: u32::MAX };
}

/// A promise without an outcome: a short name for as long as it has none. It is never given to another
/// promise, since no two have the same record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiting {
    /// The promise's record.
    pub at: Sequence,
    /// Where it is kept.
    slot: u32,
}

/// How a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Prepared,
    Committed,
    Aborted,
}

/// What is known of a branch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The record that says it.
    pub at: Sequence,
    mark: u32,
}

/// The mark of a branch that has committed. Those of branches that wait are their slots.
const COMMITTED: u32 = u32::MAX;
/// The mark of one that has aborted.
const ABORTED: u32 = u32::MAX - 1;

impl Known {
    pub fn standing(self) -> Standing {
        match self.mark {
            COMMITTED => Standing::Committed,
            ABORTED => Standing::Aborted,
            _ => Standing::Prepared,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: OperationId,
    at: Sequence,
    shard: u32,
    mark: u32,
}

/// What a participant knows of one coordinator.
#[derive(Clone, Debug)]
struct Ward {
    name: CoordinatorId,
    /// The highest epoch seen, [`Epoch::NONE`] if its messages came without one.
    epoch: Epoch,
    /// How many of its promises wait for their outcome.
    waiting: u32,
    /// Its newest branches, ascending by id, then by the shard's name.
    recent: Vec<Entry>,
}

/// From so many on, a ward has branches among the older ones, or may have.
const RECENT_MIN: usize = 256;
/// So many may be among the recent ones.
const RECENT_MAX: usize = 2 * RECENT_MIN;

/// A promise that waits for its outcome.
#[derive(Clone, Debug)]
struct Open {
    id: OperationId,
    ward: u32,
    shard: u32,
    prepared: Prepared,
}

/// Every promise of a participant, and the coordinators whose they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    /// In the order in which they were first heard of.
    wards: Vec<Ward>,
    /// The wards by name, ascending: the name's first eight bytes, which mostly tell it from the
    /// others, and the ward.
    order: Vec<(u64, u32)>,
    shards: Shards,
    /// A coordinator draws its ids in ascending order, so that a new one belongs at the end of the
    /// recent ones, or a few places before. Whatever order they come in, no more than
    /// [`RECENT_MAX`] move: the others are here.
    older: BTreeMap<PromiseKey, Known>,
    /// By slot.
    open: Vec<Option<Open>>,
    /// The slots without a promise.
    free: Vec<u32>,
}

impl Promises {
    /// What is known of a branch, and the place to look first the next time.
    pub fn find(&self, hint: Place, tx: &TxKey, shard: &ShardId) -> (Place, Option<Known>) {
        let Ok(number) = self.ward(hint, &tx.coordinator) else { return (Place::UNKNOWN, None) };
        let ward = &self.wards[number as usize];
        let found = ward.search(&self.shards, hint.entry, tx.id, shard);
        let (entry, known) = match found {
            Ok(at) => (at, Some(Known { at: ward.recent[at].at, mark: ward.recent[at].mark })),
            Err(0) if ward.recent.len() >= RECENT_MIN => {
                (0, self.older.get(&PromiseKey { tx: *tx, shard: *shard }).copied())
            }
            Err(at) => (at, None),
        };
        (Place { ward: number, entry: entry as u32 }, known)
    }

    /// What is known of a branch.
    pub fn known(&self, hint: Place, tx: &TxKey, shard: &ShardId) -> Option<Known> {
        self.find(hint, tx, shard).1
    }

    /// What is known of a branch, with all that belongs to it.
    pub fn promise(&self, key: &PromiseKey) -> Option<Promise<'_>> {
        Some(self.whole(self.known(Place::UNKNOWN, &key.tx, &key.shard)?))
    }

    /// The highest epoch seen of a coordinator.
    pub fn epoch(&self, hint: Place, coordinator: &CoordinatorId) -> Epoch {
        let ward = self.ward(hint, coordinator);
        ward.map_or(Epoch::NONE, |ward| self.wards[ward as usize].epoch)
    }

    /// True if the epoch is higher than any seen of its coordinator: now it is the highest.
    pub fn saw(&mut self, hint: Place, coordinator: &CoordinatorId, epoch: Epoch) -> bool {
        let ward = self.ward_or_new(hint, coordinator);
        let highest = &mut self.wards[ward as usize].epoch;
        let newer = epoch > *highest;
        if newer {
            *highest = epoch;
        }
        newer
    }

    /// Takes a promise of a branch of which nothing is known.
    pub fn prepare(&mut self, hint: Place, key: &PromiseKey, prepared: Prepared) -> Waiting {
        let ward = self.ward_or_new(hint, &key.tx.coordinator);
        let shard = self.shards.number(&key.shard);
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = number(self.open.len());
            assert!(slot < ABORTED, "fewer than 2^32 - 2 promises wait for their outcome");
            self.open.push(None);
            slot
        });
        let at = prepared.at;
        self.open[slot as usize] = Some(Open { id: key.tx.id, ward, shard, prepared });
        self.wards[ward as usize].waiting += 1;
        self.put(Place { ward, ..hint }, key, Known { at, mark: slot });
        Waiting { at, slot }
    }

    /// Takes the outcome of a branch, in place of what was `known` of it.
    pub fn end(
        &mut self,
        hint: Place,
        key: &PromiseKey,
        known: Option<Known>,
        at: Sequence,
        committed: bool,
    ) -> Option<Prepared> {
        self.put(hint, key, Known { at, mark: if committed { COMMITTED } else { ABORTED } });
        let slot = known?.mark;
        let Open { ward, prepared, .. } = self.open.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        self.wards[ward as usize].waiting -= 1;
        Some(prepared)
    }

    /// Whose promise that is and what belongs to it, while it has no outcome.
    pub fn waiting(&self, name: Waiting) -> Option<(PromiseKey, &Prepared)> {
        let open = self.open.get(name.slot as usize)?.as_ref();
        let open = open.filter(|open| open.prepared.at == name.at)?;
        let coordinator = self.wards[open.ward as usize].name;
        let tx = TxKey { coordinator, id: open.id };
        Some((PromiseKey { tx, shard: *self.shards.name(open.shard) }, &open.prepared))
    }

    /// True while that promise has no outcome.
    pub fn is_waiting(&self, name: Waiting) -> bool {
        let open = self.open.get(name.slot as usize);
        open.is_some_and(|open| open.as_ref().is_some_and(|open| open.prepared.at == name.at))
    }

    /// Every branch, by key.
    pub fn iter(&self) -> impl Iterator<Item = (PromiseKey, Promise<'_>)> {
        let branches = self.by_name().flat_map(|ward| self.branches(ward));
        branches.map(|(key, known)| (key, self.whole(known)))
    }

    /// Every promise without an outcome, by key.
    pub fn all_waiting(&self) -> impl Iterator<Item = (PromiseKey, Waiting)> {
        let wards = self.by_name().filter(|ward| ward.waiting > 0);
        wards.flat_map(|ward| self.branches(ward)).filter_map(|(key, known)| {
            let waits = known.standing() == Standing::Prepared;
            waits.then_some((key, Waiting { at: known.at, slot: known.mark }))
        })
    }

    /// The coordinators and the highest epoch seen of each, by name.
    pub fn epochs(&self) -> impl Iterator<Item = (CoordinatorId, Epoch)> {
        self.by_name().map(|ward| (ward.name, ward.epoch))
    }

    fn by_name(&self) -> impl Iterator<Item = &Ward> {
        self.order.iter().map(|(_, ward)| &self.wards[*ward as usize])
    }

    fn branches(&self, ward: &Ward) -> impl Iterator<Item = (PromiseKey, Known)> {
        let coordinator = ward.name;
        let key = move |id, shard| PromiseKey { tx: TxKey { coordinator, id }, shard };
        let first = key(OperationId(0), ShardId([0; 32]));
        let last = key(OperationId(u64::MAX), ShardId([u8::MAX; 32]));
        let older = self.older.range(first..=last).map(|(key, known)| (*key, *known));
        older.chain(ward.recent.iter().map(move |entry| {
            let known = Known { at: entry.at, mark: entry.mark };
            (key(entry.id, *self.shards.name(entry.shard)), known)
        }))
    }

    fn whole(&self, known: Known) -> Promise<'_> {
        let at = known.at;
        match known.mark {
            COMMITTED => Promise::Committed { at },
            ABORTED => Promise::Aborted { at },
            slot => {
                let open = self.open[slot as usize].as_ref();
                let open = open.expect("the slot of a promise is free only after its outcome");
                let Prepared { peers, work, .. } = &open.prepared;
                Promise::Prepared { at, peers, work }
            }
        }
    }

    fn put(&mut self, hint: Place, key: &PromiseKey, known: Known) {
        let Known { at, mark } = known;
        let number = self.ward_or_new(hint, &key.tx.coordinator);
        let ward = &mut self.wards[number as usize];
        match ward.search(&self.shards, hint.entry, key.tx.id, &key.shard) {
            Ok(found) => {
                let entry = &mut ward.recent[found];
                (entry.at, entry.mark) = (at, mark);
            }
            Err(0) if ward.recent.len() >= RECENT_MIN => {
                self.older.insert(*key, known);
            }
            Err(place) => {
                let shard = self.shards.number(&key.shard);
                ward.recent.insert(place, Entry { id: key.tx.id, at, shard, mark });
                if ward.recent.len() > RECENT_MAX {
                    for entry in ward.recent.drain(..RECENT_MIN) {
                        let tx = TxKey { coordinator: ward.name, id: entry.id };
                        let key = PromiseKey { tx, shard: *self.shards.name(entry.shard) };
                        self.older.insert(key, Known { at: entry.at, mark: entry.mark });
                    }
                }
            }
        }
    }

    /// The ward of a coordinator, or where it belongs in the order.
    fn ward(&self, hint: Place, name: &CoordinatorId) -> Result<u32, usize> {
        if self.wards.get(hint.ward as usize).is_some_and(|ward| ward.name == *name) {
            return Ok(hint.ward);
        }
        let word = first_word(name);
        let from = self.order.partition_point(|(first, _)| *first < word);
        match self.order.get(from) {
            Some((first, ward)) if *first == word => {
                if self.wards[*ward as usize].name == *name {
                    return Ok(*ward);
                }
            }
            _ => return Err(from),
        }
        // Names that begin alike.
        let cmp = |(_, ward): &(u64, u32)| self.wards[*ward as usize].name.cmp(name);
        self.order.binary_search_by(cmp).map(|at| self.order[at].1)
    }

    fn ward_or_new(&mut self, hint: Place, name: &CoordinatorId) -> u32 {
        self.ward(hint, name).unwrap_or_else(|place| {
            let ward = number(self.wards.len());
            self.order.insert(place, (first_word(name), ward));
            let (epoch, recent) = (Epoch::NONE, Vec::new());
            self.wards.push(Ward { name: *name, epoch, waiting: 0, recent });
            ward
        })
    }
}

impl Ward {
    fn search(
        &self,
        shards: &Shards,
        hint: u32,
        id: OperationId,
        shard: &ShardId,
    ) -> Result<usize, usize> {
        let recent = &self.recent;
        if let Some(entry) = recent.get(hint as usize)
            && entry.id == id
            && shards.name(entry.shard) == shard
        {
            return Ok(hint as usize);
        }
        if recent.last().is_none_or(|last| last.id < id) {
            return Err(recent.len());
        }
        let mut at = recent.partition_point(|entry| entry.id < id);
        while let Some(entry) = recent.get(at)
            && entry.id == id
        {
            match shards.name(entry.shard).cmp(shard) {
                Ordering::Less => at += 1,
                Ordering::Equal => return Ok(at),
                Ordering::Greater => break,
            }
        }
        Err(at)
    }
}

/// The shards that this participant serves: few, and named often.
#[derive(Clone, Debug, Default)]
struct Shards {
    /// In the order in which they were first named.
    names: Vec<ShardId>,
    /// Their numbers, ascending by name.
    order: Vec<u32>,
}

impl Shards {
    fn name(&self, number: u32) -> &ShardId {
        &self.names[number as usize]
    }

    fn number(&mut self, name: &ShardId) -> u32 {
        let found = self.order.binary_search_by(|number| self.name(*number).cmp(name));
        match found {
            Ok(at) => self.order[at],
            Err(at) => {
                let new = number(self.names.len());
                self.names.push(*name);
                self.order.insert(at, new);
                new
            }
        }
    }
}

fn first_word(name: &CoordinatorId) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&name.0[..8]);
    u64::from_be_bytes(word)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a participant hears of fewer than 2^32 names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::prng::Key;

    fn key(coordinator: CoordinatorId, id: u64, shard: u64) -> PromiseKey {
        PromiseKey {
            tx: TxKey { coordinator, id: OperationId(id) },
            shard: ShardId::numbered(shard),
        }
    }

    /// Against an ordinary map, with ids in an order that no coordinator gives them, shards of one
    /// transaction in any order, and names that begin alike.
    #[test]
    fn promises_are_found_whatever_order_they_come_in() {
        let mut alike = [7; 32];
        alike[31] = 8;
        let names = [CoordinatorId([7; 32]), CoordinatorId::numbered(1), CoordinatorId(alike)];
        let mut stream = Key::root(3).stream();
        let (mut promises, mut model) = (Promises::default(), BTreeMap::new());
        let mut hint = Place::UNKNOWN;
        for step in 1..=20_000 {
            let near = if stream.below(4) == 0 { 0 } else { step / 4 };
            let id = near + stream.below(if near == 0 { 5_000 } else { 20 });
            let key = key(names[stream.below(3) as usize], id, stream.below(3));
            let at = Sequence(step);
            // Hints of other branches do no harm.
            let (place, known) = promises.find(hint, &key.tx, &key.shard);
            let expected: Option<&(Sequence, Standing)> = model.get(&key);
            let found = known.map(|known| (known.at, known.standing()));
            assert_eq!(found.as_ref(), expected);
            match expected {
                None if stream.below(3) > 0 => {
                    let prepared = Prepared { at, peers: [].into(), work: [1].into() };
                    let waiting = promises.prepare(hint, &key, prepared);
                    assert_eq!(promises.waiting(waiting).map(|(key, ..)| key), Some(key));
                    model.insert(key, (at, Standing::Prepared));
                }
                None => {
                    assert_eq!(promises.end(place, &key, known, at, false), None);
                    model.insert(key, (at, Standing::Aborted));
                }
                Some((promised, Standing::Prepared)) => {
                    let ended = promises.end(place, &key, known, at, true);
                    assert_eq!(ended.map(|prepared| prepared.at), Some(*promised));
                    model.insert(key, (at, Standing::Committed));
                }
                Some(_) => {}
            }
            hint = place;
        }
        assert!(!promises.older.is_empty(), "some have been put aside");
        let standing = |promise| match promise {
            Promise::Prepared { at, .. } => (at, Standing::Prepared),
            Promise::Committed { at } => (at, Standing::Committed),
            Promise::Aborted { at } => (at, Standing::Aborted),
        };
        let all: Vec<_> = promises.iter().map(|(key, p)| (key, standing(p))).collect();
        let expected: Vec<_> = model.iter().map(|(key, known)| (*key, *known)).collect();
        assert_eq!(all, expected);
        let waiting: Vec<_> = promises.all_waiting().map(|(key, w)| (key, w.at)).collect();
        let open = expected.iter().filter(|(_, (_, how))| *how == Standing::Prepared);
        let open: Vec<_> = open.map(|(key, (at, _))| (*key, *at)).collect();
        assert_eq!(waiting, open);
        assert!(promises.all_waiting().all(|(_, waiting)| promises.is_waiting(waiting)));
    }
}
