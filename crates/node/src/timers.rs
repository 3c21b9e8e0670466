use base::Time;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use twopc::participant::Waiting;

/// When a promise is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timer {
    pub due: Time,
    /// Ascending: of one moment, what was set earlier comes first.
    tie: u64,
    pub promise: Waiting,
    /// How often it was asked about.
    pub asked: u32,
}

impl Ord for Timer {
    /// Earlier is greater: the standard heap gives its greatest first.
    fn cmp(&self, other: &Timer) -> Ordering {
        (other.due, other.tie).cmp(&(self.due, self.tie))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Timer) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The promises without an outcome, by when they are asked about.
///
/// Nearly all have their outcome before they are asked about once, and the first wait is the same for
/// all: those stand in a queue, and only the others are sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    /// Ascending.
    queue: VecDeque<Timer>,
    others: BinaryHeap<Timer>,
    set: u64,
    /// When the first one is due: asked for after each input, and at hand.
    due: Option<Time>,
}

impl Timers {
    /// Sets a timer.
    pub fn set(&mut self, due: Time, promise: Waiting, asked: u32) {
        self.set += 1;
        let timer = Timer { due, tie: self.set, promise, asked };
        if asked == 0 && self.queue.back().is_none_or(|last| last.due <= due) {
            self.queue.push_back(timer);
        } else {
            self.others.push(timer);
        }
        self.due = Some(self.due.map_or(due, |first| first.min(due)));
    }

    /// When the first one is due.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// The one that is due first.
    pub fn first(&self) -> Option<&Timer> {
        match (self.queue.front(), self.others.peek()) {
            (Some(queued), Some(other)) => Some(queued.max(other)),
            (queued, other) => queued.or(other),
        }
    }

    /// Takes the one that is due first.
    pub fn pop(&mut self) -> Option<Timer> {
        let taken = match (self.queue.front(), self.others.peek()) {
            (Some(queued), Some(other)) if other > queued => self.others.pop(),
            (Some(_), _) => self.queue.pop_front(),
            (None, _) => self.others.pop(),
        };
        self.due = self.first().map(|timer| timer.due);
        taken
    }
}
