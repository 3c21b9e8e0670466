//! The members of a network, by name.

use crate::membership::Member;
use base::NodeName;
use base::prng::Key;

/// Members, ascending by name.
///
/// Each heartbeat brings sixteen names to be looked up, and hardly ever somebody new. A look-up visits one
/// place of a table and the member itself; what is on the way in a tree, or in a search by halves, is in no
/// cache any more when the next heartbeat comes.
#[derive(Clone, Debug)]
pub(crate) struct Roster {
    /// In no order.
    members: Vec<Member>,
    /// Where each is, by name.
    ascending: Vec<u32>,
    /// Where each is, and one more, at a place by its name's hash or behind that; 0: nobody. A power of two
    /// of places, at most half of them taken.
    places: Vec<u32>,
    /// Odd, and nobody else's, so that nobody chooses names that meet in one place.
    factors: [u64; 4],
}

const PLACES_MIN: usize = 16;

impl Roster {
    pub(crate) fn new(key: &Key) -> Roster {
        let key = key.child("roster");
        let factors = [0, 1, 2, 3].map(|nth| key.draw(nth, 0).u64() | 1);
        let (members, ascending) = (Vec::new(), Vec::new());
        Roster { members, ascending, places: vec![0; PLACES_MIN], factors }
    }

    fn own_place(&self, name: NodeName) -> usize {
        let (words, _) = name.0.as_chunks::<8>();
        let products = words.iter().zip(self.factors);
        let sum = products.fold(0u64, |sum, (word, factor)| {
            sum.wrapping_add(u64::from_le_bytes(*word).wrapping_mul(factor))
        });
        // The upper bits depend on all others.
        (sum >> (64 - self.places.len().trailing_zeros())) as usize
    }

    fn find(&self, name: NodeName) -> Option<usize> {
        let mask = self.places.len() - 1;
        let mut place = self.own_place(name);
        loop {
            let at = self.places[place].checked_sub(1)? as usize;
            if self.members[at].announcement.node == name {
                return Some(at);
            }
            place = (place + 1) & mask;
        }
    }

    pub(crate) fn get(&self, name: NodeName) -> Option<&Member> {
        self.find(name).map(|at| &self.members[at])
    }

    pub(crate) fn get_mut(&mut self, name: NodeName) -> Option<&mut Member> {
        self.find(name).map(|at| &mut self.members[at])
    }

    /// In the place of what was known under this name, if anything was.
    pub(crate) fn insert(&mut self, member: Member) {
        let name = member.announcement.node;
        if let Some(known) = self.get_mut(name) {
            *known = member;
            return;
        }
        let before = |at: &u32| self.members[*at as usize].announcement.node < name;
        let turn = self.ascending.partition_point(before);
        self.ascending.insert(turn, self.members.len() as u32);
        self.members.push(member);
        if 2 * self.members.len() > self.places.len() {
            self.find_places(2 * self.places.len());
        } else {
            self.take_place(self.members.len() - 1);
        }
    }

    /// All places are found anew: hardly ever is anybody forgotten.
    pub(crate) fn remove(&mut self, name: NodeName) {
        let Some(at) = self.find(name) else { return };
        self.members.swap_remove(at);
        let (gone, moved) = (at as u32, self.members.len() as u32);
        self.ascending.retain(|other| *other != gone);
        self.ascending.iter_mut().filter(|other| **other == moved).for_each(|it| *it = gone);
        self.find_places(self.places.len());
    }

    fn find_places(&mut self, places: usize) {
        self.places.clear();
        self.places.resize(places, 0);
        (0..self.members.len()).for_each(|at| self.take_place(at));
    }

    fn take_place(&mut self, at: usize) {
        let mask = self.places.len() - 1;
        let mut place = self.own_place(self.members[at].announcement.node);
        while self.places[place] != 0 {
            place = (place + 1) & mask;
        }
        self.places[place] = at as u32 + 1;
    }

    /// Those whose names have most leading bits in common with a key, the most first: whoever comes later is never
    /// closer to it, by exclusive or, than those with more bits that came before. Each with how many those are.
    pub(crate) fn around(&self, key: &[u8; 32]) -> impl Iterator<Item = (u32, &Member)> {
        let name = |turn: usize| &self.members[self.ascending[turn] as usize].announcement.node.0;
        let in_common = move |turn: usize| {
            let mut pairs = name(turn).iter().zip(key).map(|(one, other)| one ^ other);
            let zeros = pairs.by_ref().position(|byte| byte != 0).unwrap_or(32);
            let last = name(turn).get(zeros).zip(key.get(zeros));
            zeros as u32 * 8 + last.map_or(0, |(one, other)| (one ^ other).leading_zeros())
        };
        // Ascending names have the fewer bits in common with the key the further they are from its turn.
        let turn = self
            .ascending
            .partition_point(|at| self.members[*at as usize].announcement.node.0 < *key);
        let mut below = turn.checked_sub(1).map(|turn| (in_common(turn), turn));
        let mut above = (turn < self.ascending.len()).then(|| (in_common(turn), turn));
        std::iter::from_fn(move || {
            let down = below.map(|(bits, _)| bits) > above.map(|(bits, _)| bits);
            let (bits, turn) = if down {
                let it = below?;
                below = it.1.checked_sub(1).map(|turn| (in_common(turn), turn));
                it
            } else {
                let it = above?;
                let next = it.1 + 1;
                above = (next < self.ascending.len()).then(|| (in_common(next), next));
                it
            };
            Some((bits, &self.members[self.ascending[turn] as usize]))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.ascending.iter().map(|at| &self.members[*at as usize])
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Announcement, Region, Status};
    use base::{Ratio, Time};
    use std::collections::BTreeMap;

    /// Of names with few beginnings, and few ends.
    fn member(number: u64) -> Member {
        let mut node = NodeName::numbered(number % 3);
        node.0[20] = (number / 3 % 5) as u8;
        let (incarnation, region) = (number, Region::ALL[0]);
        let announcement =
            Announcement { node, incarnation, region, capacity_bytes: 0, free_bytes: 0 };
        let (status, since, reputation) = (Status::Alive, Time::ZERO, Ratio::ZERO);
        Member { announcement, status, since, reputation }
    }

    #[test]
    fn it_is_a_map_by_name() {
        let (mut roster, mut map) = (Roster::new(&Key::root(1)), BTreeMap::new());
        let mut stream = Key::root(1).stream();
        for _ in 0..2_000 {
            let member = member(stream.below(1_000));
            let name = member.announcement.node;
            if stream.below(2) == 0 {
                roster.insert(member);
                map.insert(name, member);
            } else {
                roster.remove(name);
                map.remove(&name);
            }
            assert_eq!(roster.len(), map.len());
            assert!(roster.iter().eq(map.values()));
            let key = Key::root(2).draw(stream.below(9), 0);
            let key: [u8; 32] = std::array::from_fn(|at| match at {
                // Close to names, and between them.
                20 => stream.below(5) as u8,
                _ => NodeName::numbered(key.u64() % 4).0[at],
            });
            let around: Vec<_> = roster.around(&key).collect();
            assert_eq!(around.len(), map.len());
            let bits = |member: &Member| {
                let bits = (0u32..256).take_while(|bit| {
                    let (byte, shift) = ((bit / 8) as usize, 7 - bit % 8);
                    (member.announcement.node.0[byte] ^ key[byte]) >> shift & 1 == 0
                });
                bits.count() as u32
            };
            assert!(around.iter().all(|(common, member)| *common == bits(member)));
            assert!(around.is_sorted_by(|one, two| one.0 >= two.0));
            for name in (0..15).map(|number| self::member(number).announcement.node) {
                assert_eq!(roster.get(name), map.get(&name));
                assert_eq!(roster.get_mut(name), map.get_mut(&name));
            }
        }
    }
}
