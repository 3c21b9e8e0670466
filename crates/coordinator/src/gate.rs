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
        self.hold_made(after, || effect);
    }

    /// As [`hold`](Self::hold), of an effect that is made where it is held.
    #[inline]
    pub fn hold_made(&mut self, after: Sequence, effect: impl FnOnce() -> T) {
        if self.held.capacity() == 0 {
            self.held.reserve(FIRST);
        }
        // Nearly always it waits for the newest record, so nearly always it belongs at the back.
        let in_order = self.after.last().is_none_or(|last| *last <= after);
        self.after.push(after);
        push_made(&mut self.held, effect);
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
                if out.is_empty() && released > KEPT {
                    // Many are handed over with their memory, and the next ones held in that of the last.
                    std::mem::swap(out, &mut self.held);
                } else {
                    out.append(&mut self.held);
                }
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

/// Pushes what `make` makes. It is made in its place: effects are large, and one that is pushed is first made
/// somewhere else and then moved.
#[inline]
pub(crate) fn push_made<T>(to: &mut Vec<T>, make: impl FnOnce() -> T) {
    to.extend(std::iter::once_with(make));
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

    #[test]
    fn many_leave_in_order_whoever_leaves_before_them() {
        let mut gate = Gate::default();
        let mut left = Vec::new();
        for round in 0..4 {
            // Some have left before, or none.
            if round % 2 == 0 {
                left.clear();
            }
            let before = left.clone();
            let many = round * 1_000..round * 1_000 + 200;
            many.clone().for_each(|effect| gate.hold(Sequence(effect), effect));
            assert_eq!(gate.len(), 200);
            gate.release(Sequence(many.end), &mut left);
            assert_eq!(left, before.into_iter().chain(many).collect::<Vec<_>>());
            assert!(gate.is_empty());
        }
        assert!(gate.held.capacity() <= 800, "{}: as much as is used", gate.held.capacity());
    }
}
