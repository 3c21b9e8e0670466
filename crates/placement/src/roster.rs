//! The members of a network, by name.

use crate::membership::Member;
use base::NodeName;

/// Members, ascending by name.
///
/// Each heartbeat brings sixteen names to be looked up, and hardly ever somebody new. So the beginnings of all
/// names lie side by side, and are searched first; who joins moves those behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    /// The first eight bytes of each name.
    heads: Vec<u64>,
    members: Vec<Member>,
}

fn head(name: NodeName) -> u64 {
    u64::from_be_bytes(*name.0.first_chunk().expect("a name is longer"))
}

impl Roster {
    /// Where a member is, or where it would be.
    fn find(&self, name: NodeName) -> Result<usize, usize> {
        let head = head(name);
        let mut at = self.heads.partition_point(|other| *other < head);
        while self.heads.get(at) == Some(&head) {
            let other = self.members[at].announcement.node;
            if other >= name {
                return if other == name { Ok(at) } else { Err(at) };
            }
            at += 1;
        }
        Err(at)
    }

    pub(crate) fn get(&self, name: NodeName) -> Option<&Member> {
        self.find(name).ok().map(|at| &self.members[at])
    }

    pub(crate) fn get_mut(&mut self, name: NodeName) -> Option<&mut Member> {
        self.find(name).ok().map(|at| &mut self.members[at])
    }

    /// In the place of what was known under this name, if anything was.
    pub(crate) fn insert(&mut self, member: Member) {
        let name = member.announcement.node;
        match self.find(name) {
            Ok(at) => self.members[at] = member,
            Err(at) => {
                self.heads.insert(at, head(name));
                self.members.insert(at, member);
            }
        }
    }

    pub(crate) fn remove(&mut self, name: NodeName) {
        if let Ok(at) = self.find(name) {
            self.heads.remove(at);
            self.members.remove(at);
        }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Member> {
        self.members.iter()
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
        let (mut roster, mut map) = (Roster::default(), BTreeMap::new());
        let mut stream = base::prng::Key::root(1).stream();
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
            assert_eq!(roster.heads.len(), map.len());
            for name in (0..15).map(|number| self::member(number).announcement.node) {
                assert_eq!(roster.get(name), map.get(&name));
                assert_eq!(roster.get_mut(name), map.get_mut(&name));
            }
        }
    }
}
