use crate::work;
use base::{CoordinatorId, OperationId, Sequence, Token};
use coordinator::{Answered, SagaKey, StepAnswer, StepOutcome};
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
    token: Token,
    output: Option<Output>,
    /// What it did, if that was not what it was asked.
    work: Option<Arc<[u8]>>,
}

impl Calls {
    fn answered(&self, key: SagaKey, step: u32) -> Answered {
        let answer = |recorded: Option<Recorded>| recorded.map(|it| (it.answer, it.at));
        Answered { key, step, answers: [answer(self.forward), answer(self.backward)] }
    }
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
                let brought = Brought { token: outcome.token, output, work };
                let something = brought.output.is_some() || brought.work.is_some();
                calls.brought = something.then(|| Box::new(brought));
            }
            Direction::Backward => calls.backward = recorded,
        }
    }

    /// What each step was answered, by saga and step: for a snapshot.
    pub fn answered(&self) -> impl Iterator<Item = Answered> + '_ {
        self.calls.iter().map(|((key, step), calls)| calls.answered(*key, *step))
    }

    /// The steps of which more is kept than how they were answered.
    pub fn brought(&self) -> impl Iterator<Item = (SagaKey, u32)> + '_ {
        let with = self.calls.iter().filter(|(_, calls)| calls.brought.is_some());
        with.map(|(step, _)| *step)
    }

    /// What is kept of one of these, for a snapshot: its outcome without what it did to the data, and the
    /// number of its record.
    #[must_use]
    pub fn kept(&self, key: SagaKey, step: u32) -> Option<(Sequence, StepOutcome)> {
        let calls = self.calls.get(&(key, step))?;
        let (Recorded { answer, at }, brought) = (calls.forward?, calls.brought.as_ref()?);
        let outcome = StepOutcome {
            key,
            step,
            direction: Direction::Forward,
            token: brought.token,
            answer,
            changed: false,
            work: brought.work.clone().unwrap_or_default(),
            output: brought.output.clone(),
            marked: false,
        };
        Some((at, outcome))
    }

    /// What one step was answered, if anything.
    #[must_use]
    pub fn of(&self, key: SagaKey, step: u32) -> Option<Answered> {
        self.calls.get(&(key, step)).map(|calls| calls.answered(key, step))
    }

    /// Takes what a snapshot says. A record that stands between the snapshot's parts may have said it too.
    pub fn restore(&mut self, answered: &Answered) {
        let calls = self.calls.entry((answered.key, answered.step)).or_default();
        let recorded = |(answer, at)| Recorded { answer, at };
        let [forward, backward] = answered.answers;
        calls.forward = forward.map(recorded).or(calls.forward);
        calls.backward = backward.map(recorded).or(calls.backward);
    }

    /// Forgets the steps of those sagas of a coordinator.
    pub fn forget(&mut self, coordinator: CoordinatorId, finished: impl Fn(OperationId) -> bool) {
        self.calls.retain(|(key, _), _| key.coordinator != coordinator || !finished(key.id));
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
