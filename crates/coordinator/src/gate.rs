use base::Sequence;
use std::collections::VecDeque;

/// For how many effects an empty gate keeps its memory.
const KEPT: usize = 64;
/// For how many it has memory at first.
const FIRST: usize = 16;

/// Holds each effect back until the record that it rests on is durable.
///
/// This is the whole of "log first, act after": nothing that waits for a record has another way out.
/// Effects that rest on the same record leave in the order in which they came.
#[derive(Clone, Debug)]
pub struct Gate<T> {
    /// Ascending by sequence.
    held: VecDeque<(Sequence, T)>,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Gate { held: VecDeque::new() }
    }
}

impl<T> Gate<T> {
    /// Holds `effect` until `after` is durable.
    pub fn hold(&mut self, after: Sequence, effect: T) {
        if self.held.capacity() == 0 {
            self.held.reserve(FIRST);
        }
        // Nearly always the newest record, so nearly always the back.
        if self.held.back().is_none_or(|(last, _)| *last <= after) {
            self.held.push_back((after, effect));
        } else {
            let at = self.held.partition_point(|(held, _)| *held <= after);
            self.held.insert(at, (after, effect));
        }
    }

    /// Lets go, in order, of every effect that may leave now that everything up to `durable` is.
    pub fn release(&mut self, durable: Sequence, out: &mut Vec<T>) {
        let open = match self.held.back() {
            Some((last, _)) if *last <= durable => self.held.len(),
            Some(_) => self.held.partition_point(|(after, _)| *after <= durable),
            None => return,
        };
        // All at once, so that an empty gate begins again in the memory that it used last; but it gives
        // back that of a rare burst.
        out.extend(self.held.drain(..open).map(|(_, effect)| effect));
        if self.held.is_empty() && self.held.capacity() > KEPT {
            self.held.shrink_to(KEPT);
        }
    }

    /// How many effects wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True if none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_before_its_record_and_order_is_kept() {
        let mut gate = Gate::default();
        for (after, effect) in [(5, "a"), (3, "b"), (5, "c"), (4, "d"), (3, "e")] {
            gate.hold(Sequence(after), effect);
        }
        let mut left = Vec::new();
        gate.release(Sequence(2), &mut left);
        assert!(left.is_empty());
        gate.release(Sequence(4), &mut left);
        assert_eq!(left, ["b", "e", "d"]);
        gate.release(Sequence(5), &mut left);
        assert_eq!(left, ["b", "e", "d", "a", "c"]);
        assert!(gate.is_empty());
        gate.hold(Sequence(6), "f");
        assert_eq!(gate.len(), 1);
    }
}
