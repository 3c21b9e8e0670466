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
    /// A copy of everything that waits, earliest first: for people, not for runs.
    fn waiting(&self) -> Vec<Entry>;
}

/// Which queue a world keeps its events in. Runs are the same in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueKind {
    /// The calendar queue, [`Wheel`]: the fast one.
    #[default]
    Wheel,
    /// The binary heap, [`Heap`]: the reference.
    Heap,
}

impl QueueKind {
    /// The other one.
    #[must_use]
    pub fn other(self) -> QueueKind {
        match self {
            Self::Wheel => Self::Heap,
            Self::Heap => Self::Wheel,
        }
    }

    /// Its name on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wheel => "wheel",
            Self::Heap => "heap",
        }
    }
}

/// A queue of either kind.
#[derive(Clone, Debug)]
pub enum AnyQueue {
    /// A calendar queue.
    Wheel(Wheel),
    /// A binary heap.
    Heap(Heap),
}

impl AnyQueue {
    /// An empty one, for a world of so many nodes.
    #[must_use]
    pub fn new(kind: QueueKind, nodes: u32) -> AnyQueue {
        match kind {
            QueueKind::Wheel if nodes <= FEW_NODES => Self::Wheel(Wheel::of(SLOTS_FEW)),
            QueueKind::Wheel => Self::Wheel(Wheel::default()),
            QueueKind::Heap => Self::Heap(Heap::default()),
        }
    }
}

impl Queue for AnyQueue {
    #[inline]
    fn push(&mut self, entry: Entry) {
        match self {
            Self::Wheel(wheel) => wheel.push(entry),
            Self::Heap(heap) => heap.push(entry),
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Entry> {
        match self {
            Self::Wheel(wheel) => wheel.pop(),
            Self::Heap(heap) => heap.pop(),
        }
    }

    fn waiting(&self) -> Vec<Entry> {
        match self {
            Self::Wheel(wheel) => wheel.waiting(),
            Self::Heap(heap) => heap.waiting(),
        }
    }
}

/// A binary heap: slow where much waits, and the reference for what the order is.
#[derive(Clone, Debug, Default)]
pub struct Heap(BinaryHeap<Entry>);

impl Queue for Heap {
    fn push(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        self.0.pop()
    }

    fn waiting(&self) -> Vec<Entry> {
        in_order(self.0.iter().copied())
    }
}

fn in_order(entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_unstable_by_key(Entry::rank);
    entries
}

/// A slot's time: 8 us. Where much waits some dozens of entries share a slot: few enough to sort,
/// and so many that the ends of all slots in use stay in the cache.
const SLOT_BITS: u32 = 13;
/// So many slots are there, 34 ms in all: messages, syncs and idle logs' guards are within.
const SLOTS: u64 = 1 << 12;
/// In a world of few nodes little waits: there a wheel of few slots, made in no time, and the heap behind
/// it do as well.
const SLOTS_FEW: u64 = 1 << 8;
const FEW_NODES: u32 = 32;
const TIE_BITS: u32 = 64 - SLOT_BITS;

/// An entry within its slot: the time there in the high bits, the tie in the others.
#[derive(Clone, Copy, Debug)]
struct InSlot {
    rank: u64,
    target: u32,
    what: u32,
}

/// A calendar queue: a wheel of slots for what comes soon, each sorted when its time has come, and
/// a heap for what is further away.
///
/// Nothing is pushed that is earlier than what was popped last, and a tie has 51 bits.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// The number of the slot that is being emptied, counted from time zero.
    slot: u64,
    /// What was in it, ascending.
    current: Vec<InSlot>,
    /// What is left of that begins here.
    next: usize,
    /// The slots behind it, each at its number modulo their count, unsorted. There are 64 or a larger power
    /// of two.
    slots: Vec<Vec<InSlot>>,
    /// A bit for each slot that is not empty, and one for each word of such bits.
    used: [u64; (SLOTS / 64) as usize],
    used_words: u64,
    /// Emptied slots' memory, the warmest last.
    spare: Vec<Vec<InSlot>>,
    /// What is further away than the wheel goes.
    far: BinaryHeap<Entry>,
}

impl Default for Wheel {
    fn default() -> Self {
        Wheel::of(SLOTS)
    }
}

impl Wheel {
    /// An empty one of so many slots.
    fn of(slots: u64) -> Wheel {
        assert!(slots.is_power_of_two() && (64..=SLOTS).contains(&slots));
        Wheel {
            slot: 0,
            current: Vec::new(),
            next: 0,
            slots: vec![Vec::new(); slots as usize],
            used: [0; (SLOTS / 64) as usize],
            used_words: 0,
            spare: Vec::new(),
            far: BinaryHeap::new(),
        }
    }

    /// How many slots it has.
    #[inline]
    fn size(&self) -> u64 {
        self.slots.len() as u64
    }

    /// The place of a slot.
    #[inline]
    fn place(&self, slot: u64) -> u64 {
        slot & (self.size() - 1)
    }

    /// Keeps an entry whose slot is in the wheel, but not the one that is being emptied.
    #[inline]
    fn keep(&mut self, slot: u64, entry: InSlot) {
        let at = self.place(slot);
        let (word, bit) = (at / 64, at % 64);
        let entries = &mut self.slots[at as usize];
        if entries.is_empty() {
            self.used[word as usize] |= 1 << bit;
            self.used_words |= 1 << word;
            if let Some(spare) = self.spare.pop() {
                *entries = spare;
            }
        }
        entries.push(entry);
    }

    /// Keeps an entry of the slot that is being emptied, at its place in the order.
    fn insert(&mut self, entry: InSlot) {
        if self.next == self.current.len() {
            self.current.clear();
            self.next = 0;
        }
        let left = &self.current[self.next..];
        let before = left.partition_point(|other| other.rank < entry.rank);
        self.current.insert(self.next + before, entry);
    }

    /// The first slot of the wheel that holds something: it is less than a turn away.
    fn first_used(&self) -> Option<u64> {
        let at = self.place(self.slot);
        let (word, bit) = (at / 64, at % 64);
        // Behind the current slot in its own word, in the words behind, and then from the start.
        let here = self.used[word as usize] & (u64::MAX << bit);
        let (later, earlier) =
            (self.used_words & (u64::MAX << word << 1), self.used_words & !(u64::MAX << word << 1));
        let first = if here != 0 {
            word * 64 + u64::from(here.trailing_zeros())
        } else {
            let words = if later != 0 { later } else { earlier };
            if words == 0 {
                return None;
            }
            let word = u64::from(words.trailing_zeros());
            word * 64 + u64::from(self.used[word as usize].trailing_zeros())
        };
        Some(self.slot + self.place(first + self.size() - at))
    }

    /// Goes on to the next slot that holds something; false if none does.
    fn turn(&mut self) -> bool {
        let far = self.far.peek().map(|entry| slot_of(entry.at));
        // What is far is further away than what is in the wheel.
        let Some(slot) = self.first_used().or(far) else { return false };
        self.slot = slot;
        while let Some(entry) = self.far.peek().copied()
            && slot_of(entry.at) - slot < self.size()
        {
            self.far.pop();
            self.keep(slot_of(entry.at), in_slot(&entry));
        }
        let at = self.place(slot);
        let (word, bit) = (at / 64, at % 64);
        self.used[word as usize] &= !(1 << bit);
        if self.used[word as usize] == 0 {
            self.used_words &= !(1 << word);
        }
        let mut emptied = std::mem::take(&mut self.slots[at as usize]);
        emptied.sort_unstable_by_key(|entry| entry.rank);
        std::mem::swap(&mut self.current, &mut emptied);
        self.next = 0;
        emptied.clear();
        self.spare.push(emptied);
        true
    }
}

impl Queue for Wheel {
    #[inline]
    fn push(&mut self, entry: Entry) {
        assert!(entry.tie >> TIE_BITS == 0, "fewer than 2^51 events are scheduled");
        let slot = slot_of(entry.at);
        match slot.checked_sub(self.slot) {
            Some(0) => self.insert(in_slot(&entry)),
            Some(away) if away < self.size() => self.keep(slot, in_slot(&entry)),
            Some(_) => self.far.push(entry),
            None => unreachable!("nothing is earlier than what was popped last"),
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Entry> {
        if self.next == self.current.len() && !self.turn() {
            return None;
        }
        let entry = out_of_slot(self.slot, self.current[self.next]);
        self.next += 1;
        Some(entry)
    }

    fn waiting(&self) -> Vec<Entry> {
        let current = self.current[self.next..].iter().map(|entry| out_of_slot(self.slot, *entry));
        let near = (self.slot + 1..self.slot + self.size()).flat_map(|slot| {
            let entries = &self.slots[self.place(slot) as usize];
            entries.iter().map(move |entry| out_of_slot(slot, *entry))
        });
        in_order(current.chain(near).chain(self.far.iter().copied()))
    }
}

fn slot_of(at: Time) -> u64 {
    at.as_nanos() >> SLOT_BITS
}

fn in_slot(entry: &Entry) -> InSlot {
    // What is above the slot's own time falls out at the left.
    let rank = entry.at.as_nanos() << TIE_BITS | entry.tie;
    InSlot { rank, target: entry.target, what: entry.what }
}

#[inline]
fn out_of_slot(slot: u64, entry: InSlot) -> Entry {
    let InSlot { rank, target, what } = entry;
    let at = Time::from_nanos(slot << SLOT_BITS | rank >> TIE_BITS);
    Entry { at, tie: rank & ((1 << TIE_BITS) - 1), target, what }
}

/// Payloads that wait for their event, each at an index that stays the same. A place keeps its
/// payload's memory when it is free, and what was freed last is used first: it is still warm.
#[derive(Clone, Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    /// The place that was freed last, or `NONE`.
    free: u32,
}

/// It begins with a line of the cache. A payload whose words are of eight bytes leaves room for a small
/// one in front of it.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Place<T> {
    /// The place that was freed before this one, or `NONE`, or `TAKEN`.
    next: u32,
    word: u32,
    payload: T,
}

const NONE: u32 = u32::MAX;
const TAKEN: u32 = u32::MAX - 1;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: NONE }
    }
}

impl<T: Default> Slab<T> {
    /// Takes a place for a payload that a word goes with, and says which. The payload is the default.
    #[inline]
    pub fn take(&mut self, word: u32) -> (u32, &mut T) {
        let mut index = self.free;
        if index == NONE {
            index = u32::try_from(self.places.len()).unwrap_or(TAKEN);
            assert!(index < TAKEN, "fewer than 2^32 events wait at once");
            self.places.push(Place { payload: T::default(), word, next: NONE });
        }
        let place = &mut self.places[index as usize];
        self.free = std::mem::replace(&mut place.next, TAKEN);
        place.word = word;
        (index, &mut place.payload)
    }

    /// What is at a place, and its word.
    pub fn get(&self, index: u32) -> (u32, &T) {
        let place = &self.places[index as usize];
        (place.word, &place.payload)
    }

    /// The same, to take it out before the place is freed.
    pub fn get_mut(&mut self, index: u32) -> &mut T {
        &mut self.places[index as usize].payload
    }

    /// Frees a place; what is left there is dropped.
    ///
    /// # Panics
    /// If it is free.
    #[inline]
    pub fn free(&mut self, index: u32) {
        let place = &mut self.places[index as usize];
        assert!(place.next == TAKEN, "a place is freed once, by its event");
        place.payload = T::default();
        place.next = std::mem::replace(&mut self.free, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::prng::{Key, Stream};

    fn order_of(queue: &mut impl Queue) {
        for (tie, at) in [5, 3, 5, 1, 3].into_iter().enumerate() {
            let at = Time::from_nanos(at);
            queue.push(Entry { at, tie: tie as u64, target: 0, what: 0 });
        }
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|entry| entry.tie).collect();
        assert_eq!(order, [3, 1, 4, 0, 2]);
    }

    #[test]
    fn the_earliest_comes_first_and_ties_keep_their_order() {
        order_of(&mut Heap::default());
        order_of(&mut Wheel::default());
        order_of(&mut Wheel::of(64));
    }

    /// How far ahead an entry is pushed: now, in the same slot, near or at the wheel's end, far.
    fn ahead(stream: &mut Stream, slots: u64) -> u64 {
        let (slot, turn) = (1 << SLOT_BITS, slots << SLOT_BITS);
        match stream.below(12) {
            0 | 1 => 0,
            2 | 3 => stream.below(slot),
            4..=7 => stream.below(turn),
            8 => turn - slot + stream.below(2 * slot),
            9 => stream.below(20 * turn),
            10 => slot * stream.below(2 * slots),
            _ => stream.below(1 << 50),
        }
    }

    #[test]
    fn the_wheel_gives_the_order_of_the_heap() {
        for seed in 0..60 {
            let mut stream = Key::root(seed).stream();
            let slots = [SLOTS, SLOTS_FEW, 64][seed as usize % 3];
            let (mut heap, mut wheel) = (Heap::default(), Wheel::of(slots));
            let (mut now, mut tie) = (0, 0);
            // More is pushed than popped for a while, then the other way round, and again.
            for round in 0..4_000 {
                let pushes = if round / 500 % 2 == 0 { 3 } else { 1 };
                for _ in 0..stream.below(pushes + 1) {
                    let at = now + ahead(&mut stream, slots);
                    tie += stream.between(1, 3);
                    let (target, what) = (stream.below(9) as u32, tie as u32);
                    let entry = Entry { at: Time::from_nanos(at), tie, target, what };
                    heap.push(entry);
                    wheel.push(entry);
                }
                if stream.below(4) > 0 {
                    let (one, other) = (heap.pop(), wheel.pop());
                    assert_eq!(one, other, "seed {seed}, round {round}");
                    now = one.map_or(now, |entry| entry.at.as_nanos());
                }
                if round % 100 == 0 {
                    assert_eq!(heap.waiting(), wheel.waiting(), "seed {seed}, round {round}");
                }
            }
            while let Some(entry) = heap.pop() {
                assert_eq!(wheel.pop(), Some(entry), "seed {seed}");
            }
            assert_eq!(wheel.pop(), None);
        }
    }

    #[test]
    fn a_wheel_reaches_the_end_of_time() {
        let mut wheel = Wheel::default();
        let entry = |at, tie| Entry { at, tie, target: 1, what: 2 };
        let last = [entry(Time::from_nanos(u64::MAX - 1), 2), entry(Time::NEVER, 1)];
        wheel.push(last[1]);
        wheel.push(last[0]);
        assert_eq!([wheel.pop(), wheel.pop()], last.map(Some));
        wheel.push(entry(Time::NEVER, 3));
        assert_eq!(wheel.pop(), Some(entry(Time::NEVER, 3)));
        assert_eq!(wheel.pop(), None);
    }

    #[test]
    fn a_place_is_used_again() {
        let mut slab = Slab::default();
        let put = |slab: &mut Slab<String>, text: &str| {
            let (index, payload) = slab.take(text.len() as u32);
            assert_eq!(payload, "");
            payload.push_str(text);
            index
        };
        let (a, b) = (put(&mut slab, "a"), put(&mut slab, "bb"));
        assert_eq!(slab.get(a), (1, &"a".to_owned()));
        slab.free(a);
        assert_eq!(put(&mut slab, "c"), a);
        assert_eq!((slab.get(b).1.as_str(), slab.get(a).1.as_str()), ("bb", "c"));
        assert_eq!(slab.get(b).0, 2);
        slab.free(b);
        slab.free(a);
        assert_eq!((put(&mut slab, "d"), put(&mut slab, "e")), (a, b));
    }
}
