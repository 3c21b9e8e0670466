//! Where a participant keeps its promises: a few bytes each, those of one coordinator side by side.
//!
//! A participant remembers every transaction that it ever heard of, and touches each of them a few
//! times, long apart: what it touches is not in a cache any more. So a look-up visits as little memory
//! as it can, and only promises without an outcome have more than 24 bytes.

use crate::TxKey;
use crate::participant::{Ending, Prepared, Promise, PromiseKey};
use crate::watermark::Watermark;
use base::{CoordinatorId, Epoch, OperationId, Sequence, ShardId};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A branch as it was found: what is known of it, and where that is kept or will be. Good until
/// something of another branch is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// [`UNHEARD`] if nothing was known of its coordinator.
    ward: u32,
    /// Its place among the ward's recent entries, or [`OLDER`].
    entry: u32,
    pub(crate) known: Option<Known>,
}

impl Found {
    /// Nothing is known of its coordinator.
    pub(crate) const NOTHING: Found = Found { ward: UNHEARD, entry: 0, known: None };
}

/// The ward of a coordinator of which nothing is known yet.
const UNHEARD: u32 = u32::MAX;
/// The place of a branch that is among the older ones, or belongs there.
const OLDER: u32 = u32::MAX;

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
    ReadOnly,
}

/// What is known of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The record that says it.
    pub at: Sequence,
    mark: u32,
}

/// The mark of a branch that has committed. Those of branches that wait are their slots.
const COMMITTED: u32 = u32::MAX;
/// The mark of one that has aborted.
const ABORTED: u32 = u32::MAX - 1;
/// The mark of one that voted read-only.
const READ_ONLY: u32 = u32::MAX - 2;

impl Ending {
    fn mark(self) -> u32 {
        match self {
            Ending::Committed => COMMITTED,
            Ending::Aborted => ABORTED,
            Ending::ReadOnly => READ_ONLY,
        }
    }
}

impl Known {
    pub fn standing(self) -> Standing {
        match self.mark {
            COMMITTED => Standing::Committed,
            ABORTED => Standing::Aborted,
            READ_ONLY => Standing::ReadOnly,
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
    /// Which of its operations it has said to be finished.
    finished: Option<Box<Watermark>>,
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
    /// The wards, ascending by name.
    order: Vec<u32>,
    index: Index,
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
    /// What is known of a branch.
    pub fn find(&self, tx: &TxKey, shard: &ShardId) -> Found {
        let Some(number) = self.ward(&tx.coordinator) else {
            return Found::NOTHING;
        };
        let ward = &self.wards[number as usize];
        let (entry, known) = match ward.search(&self.shards, tx.id, shard) {
            Ok(at) => {
                let Entry { at: sequence, mark, .. } = ward.recent[at];
                (at as u32, Some(Known { at: sequence, mark }))
            }
            // Older ones may be left where recent ones were forgotten.
            Err(0) if !self.older.is_empty() => {
                let key = PromiseKey { tx: *tx, shard: *shard };
                match self.older.get(&key) {
                    // Behind all of the older ones it is a recent one, even if it is the only one.
                    None if ward.recent.is_empty() && !self.any_older(&key) => (0, None),
                    known => (OLDER, known.copied()),
                }
            }
            Err(at) => (at as u32, None),
        };
        Found { ward: number, entry, known }
    }

    /// What is known of a branch, with all that belongs to it.
    pub fn promise(&self, key: &PromiseKey) -> Option<Promise<'_>> {
        Some(self.whole(self.find(&key.tx, &key.shard).known?))
    }

    /// The highest epoch seen of a coordinator.
    pub fn epoch(&self, coordinator: &CoordinatorId) -> Epoch {
        let ward = self.ward(coordinator);
        ward.map_or(Epoch::NONE, |ward| self.wards[ward as usize].epoch)
    }

    /// The highest epoch seen of the coordinator of a branch.
    pub fn epoch_at(&self, found: &Found) -> Epoch {
        self.wards.get(found.ward as usize).map_or(Epoch::NONE, |ward| ward.epoch)
    }

    /// True if the epoch is higher than any seen of its coordinator: now it is the highest.
    pub fn saw(&mut self, coordinator: &CoordinatorId, epoch: Epoch) -> bool {
        let ward = self.ward_or_new(coordinator);
        self.wards[ward as usize].saw(epoch)
    }

    /// As [`saw`](Self::saw), of the coordinator of a branch that was applied.
    pub fn saw_at(&mut self, found: &Found, epoch: Epoch) -> bool {
        self.wards[found.ward as usize].saw(epoch)
    }

    /// The finished-watermark of a coordinator, if it has told one.
    pub fn watermark(&self, coordinator: &CoordinatorId) -> Option<&Watermark> {
        let ward = self.ward(coordinator)?;
        self.wards[ward as usize].finished.as_deref()
    }

    /// Whether the coordinator of a branch that was looked for has said that `id` is finished.
    pub fn is_finished(&self, found: &Found, id: OperationId) -> bool {
        let ward = self.wards.get(found.ward as usize);
        ward.and_then(|ward| ward.finished.as_deref()).is_some_and(|mark| mark.covers(id))
    }

    /// Takes a watermark, unless a newer one is known, and forgets the outcomes that it covers. A promise
    /// without an outcome stays, and so does a branch that is to be kept.
    pub fn finish(
        &mut self,
        coordinator: &CoordinatorId,
        mark: Watermark,
        keep: impl Fn(&PromiseKey) -> bool,
    ) {
        let ward = self.ward_or_new(coordinator);
        let ward = &mut self.wards[ward as usize];
        if ward.finished.as_deref().is_some_and(|known| !mark.is_newer_than(known)) {
            return;
        }
        let ended = |mark: u32| mark >= READ_ONLY;
        let (shards, tx) = (&self.shards, |id| TxKey { coordinator: *coordinator, id });
        ward.recent.retain(|entry| {
            let branch = || PromiseKey { tx: tx(entry.id), shard: *shards.name(entry.shard) };
            !(ended(entry.mark) && mark.covers(entry.id)) || keep(&branch())
        });
        let key = |id| PromiseKey {
            tx: TxKey { coordinator: *coordinator, id },
            shard: ShardId([0; 32]),
        };
        // None of them has an id above the highest that may be finished.
        let end = key(OperationId(mark.highest().0.saturating_add(1)));
        let covered: Vec<PromiseKey> = self
            .older
            .range(key(OperationId(0))..end)
            .filter(|(key, known)| ended(known.mark) && mark.covers(key.tx.id) && !keep(key))
            .map(|(key, _)| *key)
            .collect();
        for key in covered {
            self.older.remove(&key);
        }
        ward.finished = Some(Box::new(mark));
    }

    /// Takes a promise of a branch of which nothing is known.
    pub fn prepare(&mut self, found: &mut Found, key: &PromiseKey, prepared: Prepared) -> Waiting {
        assert!(found.known.is_none(), "a branch promises once");
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = number(self.open.len());
            assert!(slot < READ_ONLY, "fewer than 2^32 - 3 promises wait for their outcome");
            self.open.push(None);
            slot
        });
        let at = prepared.at;
        self.put(found, key, Known { at, mark: slot });
        let ward = &mut self.wards[found.ward as usize];
        ward.waiting += 1;
        let shard = self.shards.number(&key.shard);
        self.open[slot as usize] = Some(Open { id: key.tx.id, ward: found.ward, shard, prepared });
        Waiting { at, slot }
    }

    /// Takes the outcome of a branch. Gives back the promise that it ends.
    pub fn end(
        &mut self,
        found: &mut Found,
        key: &PromiseKey,
        at: Sequence,
        how: Ending,
    ) -> Option<Prepared> {
        let before = found.known;
        self.put(found, key, Known { at, mark: how.mark() });
        let slot = before?.mark;
        let open = self.open.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        self.wards[open.ward as usize].waiting -= 1;
        Some(open.prepared)
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
        self.order.iter().map(|ward| &self.wards[*ward as usize])
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
            READ_ONLY => Promise::ReadOnly { at },
            slot => {
                let open = self.open[slot as usize].as_ref();
                let open = open.expect("the slot of a promise is free only after its outcome");
                let Prepared { peers, work, .. } = &open.prepared;
                Promise::Prepared { at, peers, work }
            }
        }
    }

    fn put(&mut self, found: &mut Found, key: &PromiseKey, known: Known) {
        if found.ward == UNHEARD {
            found.ward = self.ward_or_new(&key.tx.coordinator);
        }
        debug_assert_eq!(self.find(&key.tx, &key.shard), *found, "found is what is there");
        let before = found.known.replace(known);
        if found.entry == OLDER {
            self.older.insert(*key, known);
            return;
        }
        let ward = &mut self.wards[found.ward as usize];
        let Known { at, mark } = known;
        if before.is_some() {
            let entry = &mut ward.recent[found.entry as usize];
            (entry.at, entry.mark) = (at, mark);
            return;
        }
        let shard = self.shards.number(&key.shard);
        ward.recent.insert(found.entry as usize, Entry { id: key.tx.id, at, shard, mark });
        if ward.recent.len() > RECENT_MAX {
            for entry in ward.recent.drain(..RECENT_MIN) {
                let tx = TxKey { coordinator: ward.name, id: entry.id };
                let key = PromiseKey { tx, shard: *self.shards.name(entry.shard) };
                self.older.insert(key, Known { at: entry.at, mark: entry.mark });
            }
            found.entry = found.entry.checked_sub(RECENT_MIN as u32).unwrap_or(OLDER);
        }
    }

    /// Whether an older branch of the same coordinator stands behind this one.
    fn any_older(&self, key: &PromiseKey) -> bool {
        let tx = TxKey { coordinator: key.tx.coordinator, id: OperationId(u64::MAX) };
        let last = PromiseKey { tx, shard: ShardId([u8::MAX; 32]) };
        self.older.range(*key..=last).next().is_some()
    }

    fn ward(&self, name: &CoordinatorId) -> Option<u32> {
        let place = self.index.find(name, |ward| self.wards[ward as usize].name == *name);
        place.unwrap_or_else(|| self.in_order(name).ok())
    }

    /// The ward of a coordinator, or where it belongs in the order.
    fn in_order(&self, name: &CoordinatorId) -> Result<u32, usize> {
        let cmp = |ward: &u32| self.wards[*ward as usize].name.cmp(name);
        self.order.binary_search_by(cmp).map(|at| self.order[at])
    }

    fn ward_or_new(&mut self, name: &CoordinatorId) -> u32 {
        if let Some(ward) = self.ward(name) {
            return ward;
        }
        match self.in_order(name) {
            Ok(ward) => ward,
            Err(place) => {
                let ward = number(self.wards.len());
                let (epoch, recent) = (Epoch::NONE, Vec::new());
                self.wards.push(Ward { name: *name, epoch, waiting: 0, recent, finished: None });
                self.order.insert(place, ward);
                self.index.add(&self.wards);
                ward
            }
        }
    }
}

/// The wards by name, for look-ups: one place in memory for one name, where a binary search visits
/// many.
#[derive(Clone, Debug, Default)]
struct Index {
    /// A power of two, more than half as many again as there are names: the upper half of a name's
    /// hash, and its ward. A name is at the place that its hash's upper bits say, or in one of the
    /// next ones.
    places: Vec<(u32, u32)>,
}

/// How many places a name may be away from its own. One that found them all taken is not in the
/// index, and those who look for it have to search for it elsewhere: names that were chosen to meet
/// in one place cost no more than that.
const PROBES: usize = 16;
const EMPTY: (u32, u32) = (0, u32::MAX);

impl Index {
    /// The ward of a name, or that it has none; `None` if this index does not know.
    fn find(&self, name: &CoordinatorId, is: impl Fn(u32) -> bool) -> Option<Option<u32>> {
        if self.places.is_empty() {
            return Some(None);
        }
        let tag = hash(name);
        for place in self.probes(tag) {
            let (other, ward) = self.places[place];
            if ward == EMPTY.1 {
                return Some(None);
            }
            if other == tag && is(ward) {
                return Some(Some(ward));
            }
        }
        None
    }

    /// Adds the last of these wards.
    fn add(&mut self, wards: &[Ward]) {
        let mut from = wards.len() - 1;
        if wards.len() * 3 > self.places.len() * 2 {
            let size = (self.places.len() * 2).max(8);
            self.places = vec![EMPTY; size];
            from = 0;
        }
        for (ward, Ward { name, .. }) in wards.iter().enumerate().skip(from) {
            self.put(hash(name), number(ward));
        }
    }

    fn put(&mut self, tag: u32, ward: u32) {
        let free = self.probes(tag).find(|place| self.places[*place].1 == EMPTY.1);
        if let Some(place) = free {
            self.places[place] = (tag, ward);
        }
    }

    fn probes(&self, tag: u32) -> impl Iterator<Item = usize> + use<> {
        let size = self.places.len();
        let first = tag >> (32 - size.trailing_zeros());
        (0..PROBES).map(move |step| (first as usize + step) & (size - 1))
    }
}

/// The upper half of a name's hash. Nothing but the speed of look-ups depends on it.
fn hash(name: &CoordinatorId) -> u32 {
    let mut hash = 0u64;
    for word in name.0.as_chunks::<8>().0 {
        hash =
            (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    (hash >> 32) as u32
}

impl Ward {
    fn saw(&mut self, epoch: Epoch) -> bool {
        let newer = epoch > self.epoch;
        if newer {
            self.epoch = epoch;
        }
        newer
    }

    /// Where a branch is among the recent ones, or belongs.
    fn search(&self, shards: &Shards, id: OperationId, shard: &ShardId) -> Result<usize, usize> {
        let recent = &self.recent;
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
    /// The one that was named first, mostly the only one: at hand.
    first: Option<ShardId>,
    /// The others, in the order in which they were first named.
    others: Vec<ShardId>,
    /// Their numbers, ascending by name.
    order: Vec<u32>,
}

impl Shards {
    fn name(&self, number: u32) -> &ShardId {
        match (number.checked_sub(1), &self.first) {
            (Some(other), _) => &self.others[other as usize],
            (None, first) => first.as_ref().expect("a number is given to a name"),
        }
    }

    fn number(&mut self, name: &ShardId) -> u32 {
        let first = self.first.get_or_insert(*name);
        if first == name {
            return 0;
        }
        let found = self.order.binary_search_by(|number| self.name(*number).cmp(name));
        match found {
            Ok(at) => self.order[at],
            Err(at) => {
                self.others.push(*name);
                let new = number(self.others.len());
                self.order.insert(at, new);
                new
            }
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a participant hears of fewer than 2^32 names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::prng::Key;
    use std::collections::BTreeSet;

    fn key(coordinator: CoordinatorId, id: u64, shard: u64) -> PromiseKey {
        PromiseKey {
            tx: TxKey { coordinator, id: OperationId(id) },
            shard: ShardId::numbered(shard),
        }
    }

    fn standing(promise: Promise<'_>) -> (Sequence, Standing) {
        match promise {
            Promise::Prepared { at, .. } => (at, Standing::Prepared),
            Promise::Committed { at } => (at, Standing::Committed),
            Promise::Aborted { at } => (at, Standing::Aborted),
            Promise::ReadOnly { at } => (at, Standing::ReadOnly),
        }
    }

    /// All that is known, and what waits, are as in a map.
    fn assert_same(promises: &Promises, model: &BTreeMap<PromiseKey, (Sequence, Standing)>) {
        let all: Vec<_> = promises.iter().map(|(key, p)| (key, standing(p))).collect();
        let expected: Vec<_> = model.iter().map(|(key, known)| (*key, *known)).collect();
        assert_eq!(all, expected);
        let waiting: Vec<_> = promises.all_waiting().map(|(key, w)| (key, w.at)).collect();
        let open = expected.iter().filter(|(_, (_, how))| *how == Standing::Prepared);
        let open: Vec<_> = open.map(|(key, (at, _))| (*key, *at)).collect();
        assert_eq!(waiting, open);
        assert!(promises.all_waiting().all(|(_, waiting)| promises.is_waiting(waiting)));
    }

    /// Against an ordinary map, with ids in an order that no coordinator gives them, shards of one
    /// transaction in any order, and names that begin alike. Coordinators finish some of them meanwhile.
    #[test]
    fn promises_are_found_whatever_order_they_come_in() {
        let mut alike = [7; 32];
        alike[31] = 8;
        let mut names = vec![CoordinatorId([7; 32]), CoordinatorId(alike)];
        names.extend((0..30).map(CoordinatorId::numbered));
        let mut stream = Key::root(3).stream();
        let (mut promises, mut model) = (Promises::default(), BTreeMap::new());
        let mut marks: BTreeMap<CoordinatorId, Watermark> = BTreeMap::new();
        let mut waits: BTreeMap<PromiseKey, Waiting> = BTreeMap::new();
        let mut ended: Option<Waiting> = None;
        let mut older = 0;
        let keep = |key: &PromiseKey| key.tx.id.0.is_multiple_of(7);
        for step in 1..=20_000 {
            let near = if stream.below(4) == 0 { 0 } else { step / 4 };
            let id = near + stream.below(if near == 0 { 5_000 } else { 20 });
            // One of them has so many that most are put aside.
            let name = match stream.below(3) {
                0 => names[0],
                _ => names[stream.below(names.len() as u64) as usize],
            };
            if stream.below(400) == 0 {
                let highest = stream.below(step / 4 + 20);
                let active: BTreeSet<_> = (0..stream.below(5))
                    .map(|_| OperationId(highest.saturating_sub(stream.below(40))))
                    .collect();
                let mark = Watermark::new(OperationId(highest), active.into_iter());
                older = older.max(promises.older.len());
                promises.finish(&name, mark.clone(), keep);
                if marks.get(&name).is_none_or(|known| mark.is_newer_than(known)) {
                    model.retain(|key: &PromiseKey, (_, how): &mut (Sequence, Standing)| {
                        let waits = key.tx.coordinator != name || *how == Standing::Prepared;
                        waits || !mark.covers(key.tx.id) || keep(key)
                    });
                    marks.insert(name, mark);
                }
                assert_same(&promises, &model);
            }
            let (key, at) = (key(name, id, stream.below(3)), Sequence(step));
            let mut found = promises.find(&key.tx, &key.shard);
            let expected: Option<&(Sequence, Standing)> = model.get(&key);
            let known = found.known.map(|known| (known.at, known.standing()));
            assert_eq!(known.as_ref(), expected);
            assert_eq!(promises.promise(&key).map(standing).as_ref(), expected);
            assert_eq!(promises.watermark(&name), marks.get(&name));
            let finished = marks.get(&name).is_some_and(|mark| mark.covers(key.tx.id));
            assert_eq!(promises.is_finished(&found, key.tx.id), finished);
            match expected {
                None if stream.below(3) > 0 => {
                    let prepared = Prepared { at, peers: [].into(), work: [1].into() };
                    let waiting = promises.prepare(&mut found, &key, prepared);
                    assert_eq!(promises.waiting(waiting).map(|(key, ..)| key), Some(key));
                    waits.insert(key, waiting);
                    model.insert(key, (at, Standing::Prepared));
                }
                None => {
                    let (how, stands) = match stream.below(2) {
                        0 => (Ending::Aborted, Standing::Aborted),
                        _ => (Ending::ReadOnly, Standing::ReadOnly),
                    };
                    assert_eq!(promises.end(&mut found, &key, at, how), None);
                    model.insert(key, (at, stands));
                }
                Some((promised, Standing::Prepared)) => {
                    let outcome = promises.end(&mut found, &key, at, Ending::Committed);
                    assert_eq!(outcome.map(|prepared| prepared.at), Some(*promised));
                    ended = waits.remove(&key);
                    model.insert(key, (at, Standing::Committed));
                }
                Some(_) => {}
            }
            assert_eq!(promises.find(&key.tx, &key.shard), found);
            // Its place may be another promise's now; the name is not.
            if let Some(ended) = ended {
                assert!(!promises.is_waiting(ended));
                assert_eq!(promises.waiting(ended), None);
            }
        }
        assert!(older > 1_000, "many have been put aside");
        assert!(marks.len() > 10, "some have been finished");
        assert_same(&promises, &model);
    }

    /// Names that all belong in one place of the index are found elsewhere.
    #[test]
    fn names_that_meet_in_one_place_are_found_all_the_same() {
        let all = || (0..).map(CoordinatorId::numbered);
        // Of a small index and of any: some are left out of the small one, and get in later.
        let names = all().filter(|name| hash(name) >> 27 == 5).take(40);
        let names: Vec<_> =
            names.chain(all().filter(|name| hash(name) >> 21 == 77).take(40)).collect();
        let mut promises = Promises::default();
        for (at, name) in names.iter().enumerate() {
            assert_eq!(promises.epoch(name), Epoch::NONE);
            assert!(promises.saw(name, Epoch::new(at as u32 + 1)));
            assert!(!promises.saw(name, Epoch::new(at as u32 + 1)));
            for (at, name) in names[..at].iter().enumerate() {
                assert_eq!(promises.epoch(name), Epoch::new(at as u32 + 1));
            }
        }
        let found: Vec<_> = promises.epochs().map(|(name, _)| name).collect();
        let mut expected = names;
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}
