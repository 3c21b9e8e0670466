use base::Sequence;

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
    /// What each of those held waits for, ascending.
    after: Vec<Sequence>,
    /// Apart from that, so that all of them leave in one piece: effects are large.
    held: Vec<T>,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Gate { after: Vec::new(), held: Vec::new() }
    }
}

impl<T> Gate<T> {
    /// Holds `effect` until `after` is durable.
    #[inline]
    pub fn hold(&mut self, after: Sequence, effect: T) {
        if self.held.capacity() == 0 {
            self.held.reserve(FIRST);
        }
        // Nearly always it waits for the newest record, so nearly always it belongs at the back.
        let in_order = self.after.last().is_none_or(|last| *last <= after);
        self.after.push(after);
        self.held.push(effect);
        if !in_order {
            self.move_last();
        }
    }

    /// The last one goes to its place among those that wait for other records.
    #[cold]
    fn move_last(&mut self) {
        let [earlier @ .., after] = &self.after[..] else { return };
        let at = earlier.partition_point(|held| held <= after);
        self.after[at..].rotate_right(1);
        self.held[at..].rotate_right(1);
    }

    /// Lets go, in order, of every effect that may leave now that everything up to `durable` is.
    pub fn release(&mut self, durable: Sequence, out: &mut Vec<T>) {
        match self.after.last() {
            Some(last) if *last <= durable => {
                let released = self.after.len();
                out.append(&mut self.held);
                self.after.clear();
                // An empty gate begins again in the memory that it used last; but it gives back that of a rare
                // burst.
                if self.held.capacity() > KEPT.max(4 * released) {
                    let kept = KEPT.max(2 * released);
                    self.held.shrink_to(kept);
                    self.after.shrink_to(kept);
                }
            }
            Some(_) => {
                let open = self.after.partition_point(|after| *after <= durable);
                out.extend(self.held.drain(..open));
                self.after.drain(..open);
            }
            None => {}
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
