use base::Sequence;
use std::collections::VecDeque;

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
        // Nearly always the newest record, so nearly always the back.
        let at = if self.held.back().is_none_or(|(last, _)| *last <= after) {
            self.held.len()
        } else {
            self.held.partition_point(|(held, _)| *held <= after)
        };
        self.held.insert(at, (after, effect));
    }

    /// The next effect that may leave, now that everything up to `durable` is.
    pub fn release(&mut self, durable: Sequence) -> Option<T> {
        let open = self.held.front().is_some_and(|(after, _)| *after <= durable);
        if open { self.held.pop_front().map(|(_, effect)| effect) } else { None }
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
        assert_eq!(gate.release(Sequence(2)), None);
        let mut left = Vec::new();
        while let Some(effect) = gate.release(Sequence(4)) {
            left.push(effect);
        }
        assert_eq!(left, ["b", "e", "d"]);
        assert_eq!(gate.release(Sequence(5)), Some("a"));
        assert_eq!(gate.len(), 1);
        assert_eq!(gate.release(Sequence(9)), Some("c"));
        assert!(gate.is_empty());
    }
}
