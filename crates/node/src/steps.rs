use crate::work;
use base::Sequence;
use coordinator::{SagaKey, StepAnswer, StepOutcome};
use saga::{Direction, Output};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A step's code when it is refused because its compensation came first.
pub const COMPENSATED_ALREADY: u32 = 0xFFFF_FFFE;
/// A step's code when its own conditions do not hold.
pub const CONDITION_FAILED: u32 = 0xFFFF_FFFD;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    answer: StepAnswer,
    at: Sequence,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Calls {
    forward: Option<Recorded>,
    backward: Option<Recorded>,
    brought: Option<Box<Brought>>,
}

/// What is kept of a step that gave or was given something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Brought {
    output: Option<Output>,
    /// What it did, if that was not what it was asked.
    work: Option<Arc<[u8]>>,
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
        let calls = self.calls.get(&(key, step));
        let calls = calls.map_or((None, None), |calls| (calls.forward, calls.backward));
        let (forward, backward) = calls;
        let recorded = match direction {
            Direction::Forward => forward,
            Direction::Backward => backward,
        };
        match (recorded, direction, backward) {
            (Some(Recorded { answer, at }), ..) => Verdict::Known { answer, after: at },
            // The tombstone: the compensation's record refuses the forward token.
            (None, Direction::Forward, Some(tombstone)) => {
                let answer = StepAnswer::Refused { code: COMPENSATED_ALREADY };
                Verdict::Known { answer, after: tombstone.at }
            }
            (None, Direction::Forward, _) => Verdict::Fresh,
            (None, Direction::Backward, _) => match forward {
                Some(Recorded { answer: StepAnswer::Done, .. }) => Verdict::Fresh,
                _ => Verdict::NothingToUndo,
            },
        }
    }

    /// What a step that was done gave.
    #[must_use]
    pub fn output(&self, key: SagaKey, step: u32) -> Option<&Output> {
        self.calls.get(&(key, step))?.brought.as_ref()?.output.as_ref()
    }

    /// What a step did, if that was not what it was asked: something that it was given is in it.
    #[must_use]
    pub fn work(&self, key: SagaKey, step: u32) -> Option<&Arc<[u8]>> {
        self.calls.get(&(key, step))?.brought.as_ref()?.work.as_ref()
    }

    /// Takes a logged outcome: the only writer, live and in recovery.
    pub fn apply(&mut self, sequence: Sequence, outcome: &StepOutcome) {
        let calls = self.calls.entry((outcome.key, outcome.step)).or_default();
        let recorded = Some(Recorded { answer: outcome.answer, at: sequence });
        match outcome.direction {
            Direction::Forward => {
                calls.forward = recorded;
                let work = work::holds_inputs(&outcome.work).then(|| Arc::clone(&outcome.work));
                let output = outcome.output.clone();
                let brought = Brought { output, work };
                let something = brought.output.is_some() || brought.work.is_some();
                calls.brought = something.then(|| Box::new(brought));
            }
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
