//! What a node still has to pass on, the newest first.

use base::NodeName;

/// About whom there is news, and how often each is still to be passed on: at least once, ascending by that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rumours(Vec<(u32, NodeName)>);

impl Rumours {
    /// From now on it is passed on so many times, whatever was left of older news of that node.
    pub(crate) fn insert(&mut self, about: NodeName, times: u32) {
        self.remove(about);
        if times > 0 {
            self.put(&[(times, about)]);
        }
    }

    pub(crate) fn remove(&mut self, about: NodeName) {
        if let Some(at) = self.0.iter().position(|(_, other)| *other == about) {
            self.0.remove(at);
        }
    }

    /// About whom they are, the newest first, which are those to be passed on most often.
    pub(crate) fn newest(&self) -> impl Iterator<Item = NodeName> {
        self.0.iter().rev().map(|(_, about)| *about)
    }

    /// The newest `max`: they count as passed on so many times more.
    pub(crate) fn pass_on(&mut self, max: usize, times: u32) -> Vec<NodeName> {
        let first = self.0.len().saturating_sub(max);
        let mut told = self.0.split_off(first);
        told.reverse();
        let left = |(left, about): &(u32, NodeName)| Some((left.checked_sub(times)?, *about));
        let mut back: Vec<_> = told.iter().filter_map(left).filter(|(left, _)| *left > 0).collect();
        back.reverse();
        self.put(&back);
        told.into_iter().map(|(_, about)| about).collect()
    }

    /// Puts some into their places, ascending: whatever is above them is moved once.
    fn put(&mut self, some: &[(u32, NodeName)]) {
        let mut end = self.0.len();
        self.0.extend(some);
        for (below, it) in some.iter().enumerate().rev() {
            let at = self.0[..end].partition_point(|other| other < it);
            self.0.copy_within(at..end, at + below + 1);
            self.0[at + below] = *it;
            end = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_each_so_often() {
        let [one, two, three] = [1, 2, 3].map(NodeName::numbered);
        let mut rumours = Rumours::default();
        rumours.insert(one, 2);
        rumours.insert(two, 5);
        rumours.insert(three, 2);
        // The second is the newest; of those that are as new, the higher name.
        assert_eq!(rumours.pass_on(2, 2), [two, three]);
        assert_eq!(
            rumours.pass_on(2, 1),
            [two, one],
            "the third was passed on as often as it was to be"
        );
        assert_eq!(rumours.pass_on(9, 1), [two, one]);
        rumours.insert(one, 7);
        assert_eq!(rumours.pass_on(9, 4), [one, two], "once more than was left");
        rumours.insert(two, 1);
        rumours.remove(one);
        assert_eq!(rumours.pass_on(9, 1), [two]);
        assert!(rumours.pass_on(9, 1).is_empty());
        assert!(rumours.0.is_empty());
    }

    #[test]
    fn those_that_were_passed_on_find_their_places() {
        let mut rumours = Rumours::default();
        let mut left = std::collections::BTreeMap::new();
        let mut stream = base::prng::Key::root(1).stream();
        for _ in 0..1_000 {
            let about = NodeName::numbered(stream.below(30));
            if stream.below(3) == 0 {
                let times = stream.below(12) as u32;
                rumours.insert(about, times);
                left.insert(about, times);
            } else {
                let (max, times) = (stream.below(9) as usize, 1 + stream.below(4) as u32);
                let mut newest: Vec<(u32, NodeName)> =
                    left.iter().map(|(other, times)| (*times, *other)).collect();
                newest.sort_unstable_by(|one, two| two.cmp(one));
                newest.truncate(max);
                let newest: Vec<NodeName> = newest.into_iter().map(|(_, other)| other).collect();
                assert_eq!(rumours.pass_on(max, times), newest);
                for other in newest {
                    let left = left.get_mut(&other).expect("it is left");
                    *left = left.saturating_sub(times);
                }
            }
            left.retain(|_, times| *times > 0);
            let mut all: Vec<_> = left.iter().map(|(about, times)| (*times, *about)).collect();
            all.sort_unstable();
            assert_eq!(rumours.0, all);
        }
    }
}
