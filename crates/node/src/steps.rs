use base::Sequence;
use coordinator::{SagaKey, StepAnswer, StepOutcome};
use saga::Direction;
use std::collections::BTreeMap;

/// A step's code when it is refused because its compensation came first.
pub const COMPENSATED_ALREADY: u32 = 0xFFFF_FFFE;
/// A step's code when its own conditions do not hold.
pub const CONDITION_FAILED: u32 = 0xFFFF_FFFD;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    answer: StepAnswer,
    at: Sequence,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Calls {
    forward: Option<Recorded>,
    backward: Option<Recorded>,
}

/// The outcome of every call that this node answered, by saga and step: the reason why a call that
/// comes twice, or after its compensation, has no effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepLedger {
    calls: BTreeMap<(SagaKey, u32), Calls>,
}

/// What to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer this, once the record is durable.
    Known {
        /// The answer.
        answer: StepAnswer,
        /// The record that it rests on.
        after: Sequence,
    },
    /// New: look whether it can be done.
    Fresh,
    /// A compensation of something that has no effect here: record it, and a late forward call is
    /// refused for ever.
    NothingToUndo,
}

impl StepLedger {
    /// What is known of a call.
    #[must_use]
    pub fn verdict(&self, key: SagaKey, step: u32, direction: Direction) -> Verdict {
        let calls = self.calls.get(&(key, step)).copied().unwrap_or_default();
        let recorded = match direction {
            Direction::Forward => calls.forward,
            Direction::Backward => calls.backward,
        };
        match (recorded, direction, calls) {
            (Some(Recorded { answer, at }), ..) => Verdict::Known { answer, after: at },
            // The tombstone: the compensation's record refuses the forward token.
            (None, Direction::Forward, Calls { backward: Some(tombstone), .. }) => {
                let answer = StepAnswer::Refused { code: COMPENSATED_ALREADY };
                Verdict::Known { answer, after: tombstone.at }
            }
            (None, Direction::Forward, _) => Verdict::Fresh,
            (None, Direction::Backward, Calls { forward, .. }) => match forward {
                Some(Recorded { answer: StepAnswer::Done, .. }) => Verdict::Fresh,
                _ => Verdict::NothingToUndo,
            },
        }
    }

    /// Takes a logged outcome: the only writer, live and in recovery.
    pub fn apply(&mut self, sequence: Sequence, outcome: &StepOutcome) {
        let calls = self.calls.entry((outcome.key, outcome.step)).or_default();
        let recorded = Some(Recorded { answer: outcome.answer, at: sequence });
        match outcome.direction {
            Direction::Forward => calls.forward = recorded,
            Direction::Backward => calls.backward = recorded,
        }
    }

    /// How many steps have an outcome here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// True if none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}
