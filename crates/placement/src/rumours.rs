//! What a node still has to pass on, the newest first.

use base::NodeName;
use std::collections::{BTreeMap, BTreeSet};

/// About whom there is news, and how often each is still to be passed on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rumours {
    left: BTreeMap<NodeName, u32>,
    /// The same, ordered by it.
    by_left: BTreeSet<(u32, NodeName)>,
}

impl Rumours {
    /// From now on it is passed on so many times, whatever was left of older news of that node.
    pub(crate) fn insert(&mut self, about: NodeName, times: u32) {
        self.remove(about);
        if times > 0 {
            self.left.insert(about, times);
            self.by_left.insert((times, about));
        }
    }

    pub(crate) fn remove(&mut self, about: NodeName) {
        if let Some(left) = self.left.remove(&about) {
            self.by_left.remove(&(left, about));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// About whom they are, the newest first, which are those to be passed on most often.
    pub(crate) fn newest(&self) -> impl Iterator<Item = NodeName> {
        self.by_left.iter().rev().map(|(_, about)| *about)
    }

    /// The newest `max` of which none is about `to`: they count as passed on once more.
    pub(crate) fn pass_on(&mut self, max: usize, to: NodeName) -> Vec<NodeName> {
        let newest = self.by_left.iter().rev().filter(|(_, about)| *about != to);
        let told: Vec<(u32, NodeName)> = newest.take(max).copied().collect();
        for &(left, about) in &told {
            self.insert(about, left - 1);
        }
        told.into_iter().map(|(_, about)| about).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_each_so_often_but_not_to_whom_they_are_about() {
        let [one, two, three] = [1, 2, 3].map(NodeName::numbered);
        let mut rumours = Rumours::default();
        rumours.insert(one, 1);
        rumours.insert(two, 3);
        rumours.insert(three, 1);
        // The second is the newest; of those that are as new, the higher name.
        assert_eq!(rumours.pass_on(2, NodeName::numbered(9)), [two, three]);
        assert_eq!(
            rumours.pass_on(2, two),
            [one],
            "the third was passed on as often as it was to be"
        );
        rumours.insert(one, 2);
        assert_eq!(rumours.pass_on(9, three), [two, one]);
        rumours.remove(two);
        assert_eq!(rumours.pass_on(9, three), [one]);
        assert!(rumours.pass_on(9, three).is_empty());
        assert!(rumours.is_empty() && rumours.newest().next().is_none());
    }
}
