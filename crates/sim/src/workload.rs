//! Clients: what they ask for, of whom, and what they have heard.
//!
//! An operation is a function of the seed and its number. A client that hears nothing asks again
//! with the same request key when its coordinator has recovered, so that every operation ends with
//! an answer.

mod nest;

use crate::scenario::{Kind, Scenario, Shape, Share};
use base::prng::{Key, Stream};
use base::{NodeName, RequestKey, ShardId};
use node::work::{self, Change};
use node::{Branch, Outcome, Request, Work};
use saga::{Action, Definition, Step, StepKind, ValueType};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a client knows of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Asked,
    Answered {
        /// By what is durable: it is the answer for ever.
        for_ever: bool,
    },
    /// Nobody asks for it: only some of the operations take place.
    LeftOut,
}

/// All clients of a world.
#[derive(Clone, Debug)]
pub struct Workload {
    key: Key,
    kind: Kind,
    shape: Shape,
    nodes: u32,
    coordinators: u32,
    participants: u32,
    steps: u32,
    cells: u32,
    vote_no: Share,
    alone: Share,
    looks: Share,
    refuse: Share,
    kinds: bool,
    feeds: Share,
    stuck: Share,
    nests: Share,
    cancels: Share,
    asks_again: Share,
    changes: u32,
    states: Vec<State>,
    /// Of the operations only these are asked for, unless it is empty.
    only: BTreeSet<u32>,
    next: u32,
    /// The first operation that is not to be started yet: the end of the wave.
    gate: u32,
    waves: Vec<u32>,
    in_flight: u32,
    asked: u32,
    answered: u32,
}

impl Workload {
    /// The clients of a scenario.
    #[must_use]
    pub fn new(scenario: &Scenario, key: &Key) -> Workload {
        let workload = &scenario.workload;
        let mut waves = workload.waves.get_ref().clone();
        waves.reverse();
        let gate = waves.pop().unwrap_or(*workload.operations.get_ref());
        Workload {
            key: key.child("workload").child("operation"),
            kind: workload.kind,
            shape: workload.shape,
            nodes: *scenario.cluster.nodes.get_ref(),
            coordinators: *scenario.cluster.coordinators.get_ref(),
            participants: *workload.participants.get_ref(),
            steps: *workload.steps.get_ref(),
            cells: *workload.cells.get_ref(),
            vote_no: workload.vote_no,
            alone: workload.alone,
            looks: workload.looks,
            refuse: workload.refuse,
            kinds: workload.kinds,
            feeds: workload.feeds,
            stuck: workload.stuck,
            nests: workload.nests,
            cancels: workload.cancels,
            asks_again: workload.asks_again,
            changes: *workload.changes.get_ref(),
            states: vec![State::Waiting; *workload.operations.get_ref() as usize],
            only: workload.only.get_ref().iter().copied().collect(),
            next: 0,
            gate,
            waves,
            in_flight: *workload.in_flight.get_ref(),
            asked: 0,
            answered: 0,
        }
    }

    /// The operation that a client begins with now, if there is room for one more.
    pub fn start(&mut self) -> Option<u32> {
        while !self.only.is_empty() && self.next < self.gate && !self.only.contains(&self.next) {
            self.states[self.next as usize] = State::LeftOut;
            self.next += 1;
            self.asked += 1;
            self.answered += 1;
        }
        if self.next >= self.gate || self.asked - self.answered >= self.in_flight {
            return None;
        }
        let operation = self.next;
        self.next += 1;
        self.asked += 1;
        self.states[operation as usize] = State::Asked;
        Some(operation)
    }

    /// True if every operation of the wave is answered and another wave waits.
    #[must_use]
    pub fn wave_is_answered(&self) -> bool {
        self.answered == self.gate && !self.waves.is_empty()
    }

    /// Lets the next wave begin.
    pub fn next_wave(&mut self) {
        if let Some(wave) = self.waves.pop() {
            self.gate += wave;
        }
    }

    /// A client heard how its operation ended, perhaps for ever. `None` if it had heard before.
    pub fn answered(&mut self, key: &RequestKey, for_ever: bool) -> Option<u32> {
        let operation = Self::operation_of(key)?;
        let state = self.states.get_mut(operation as usize)?;
        if let State::Answered { for_ever: before } = state {
            *before |= for_ever;
        }
        if *state != State::Asked {
            return None;
        }
        *state = State::Answered { for_ever };
        self.answered += 1;
        Some(operation)
    }

    /// True if nobody waits for an answer and nobody will ask.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.answered as usize == self.states.len()
    }

    /// How many operations are answered.
    #[must_use]
    pub fn answers(&self) -> u32 {
        self.answered
    }

    /// The operations of a coordinator whose clients still wait.
    pub fn unanswered(&self, coordinator: u32) -> impl Iterator<Item = u32> {
        let its = (coordinator..self.next).step_by(self.coordinators as usize);
        its.filter(|operation| self.is_waiting(*operation))
    }

    /// True if a client of this operation waits for an answer.
    #[must_use]
    pub fn is_waiting(&self, operation: u32) -> bool {
        self.states[operation as usize] == State::Asked
    }

    /// The operations of a coordinator whose clients were answered, if they ever ask again.
    pub fn answered_by(&self, coordinator: u32) -> impl Iterator<Item = u32> {
        let asks_again = self.asks_again != Share::default();
        let its = (coordinator..self.next).step_by(self.coordinators as usize);
        its.filter(move |operation| {
            asks_again && matches!(self.states[*operation as usize], State::Answered { .. })
        })
    }

    /// True if the client of this operation was told what is so for ever.
    #[must_use]
    pub fn is_answered_for_ever(&self, operation: u32) -> bool {
        self.states[operation as usize] == State::Answered { for_ever: true }
    }

    /// How long after the `time`th occasion its client asks again, if it does, and whether for something
    /// else under the same key.
    #[must_use]
    pub fn asks_again_after(&self, operation: u32, time: u32) -> Option<(Duration, bool)> {
        if self.asks_again == Share::default() {
            return None;
        }
        let key = self.key.keyed(u64::from(operation)).child("again");
        let mut stream = key.keyed(u64::from(time)).stream();
        let asks = self.asks_again.0.holds(&stream.draw());
        asks.then(|| (Duration::from_micros(stream.below(200_000)), stream.below(3) == 0))
    }

    /// The coordinator that an operation is asked of.
    #[must_use]
    pub fn coordinator(&self, operation: u32) -> u32 {
        operation % self.coordinators
    }

    /// The operation of a request key.
    #[must_use]
    pub fn operation_of(key: &RequestKey) -> Option<u32> {
        key.as_bytes().try_into().ok().map(u32::from_le_bytes)
    }

    /// The request key of an operation.
    ///
    /// # Panics
    /// Never: four bytes are few.
    #[must_use]
    pub fn key_of(operation: u32) -> RequestKey {
        RequestKey::new(&operation.to_le_bytes()).expect("four bytes are few")
    }

    /// What a client asks for.
    #[must_use]
    pub fn request(&self, operation: u32) -> Request {
        Request { key: Self::key_of(operation), work: self.work_of(operation) }
    }

    /// Something else under the same key; `None` if chance has made it the same.
    #[must_use]
    pub fn another_request(&self, operation: u32) -> Option<Request> {
        let work = self.work_of(u32::MAX - operation);
        let key = Self::key_of(operation);
        (work != self.work_of(operation)).then_some(Request { key, work })
    }

    fn work_of(&self, operation: u32) -> Work {
        let mut stream = self.key.keyed(u64::from(operation)).stream();
        let is_saga = match self.kind {
            Kind::Saga => true,
            Kind::Twopc => false,
            Kind::Mixed => (operation / self.coordinators).is_multiple_of(2),
        };
        if is_saga {
            self.saga(operation, &mut stream)
        } else {
            self.transaction(operation, &mut stream)
        }
    }

    /// What else a piece of work changes, drawn apart; nothing where each changes one thing.
    fn more(&self, operation: u32) -> Option<Stream> {
        (self.changes > 1).then(|| self.key.keyed(u64::from(operation)).child("changes").stream())
    }

    fn transaction(&self, operation: u32, stream: &mut Stream) -> Work {
        let more = &mut self.more(operation);
        let mut nodes = stream.distinct(self.participants, self.nodes);
        // What was added to transactions later is drawn apart, so that the others stay as they are.
        let special = self.alone != Share::default() || self.looks != Share::default();
        let terms = || self.key.keyed(u64::from(operation)).child("terms").stream();
        let mut terms = special.then(terms);
        let mut holds =
            |share: Share| terms.as_mut().is_some_and(|terms| share.0.holds(&terms.draw()));
        if holds(self.alone) {
            nodes.truncate(1);
        }
        let mut branch = |node: u32| {
            let mut work = self.work(self.vote_no, stream, more);
            if holds(self.looks) {
                work = Self::only_looks(&work);
            }
            let (shard, node) =
                (ShardId::numbered(u64::from(node)), NodeName::numbered(u64::from(node)));
            Branch { shard, node, work }
        };
        Work::Transaction(nodes.into_iter().map(&mut branch).collect())
    }

    /// The same work without anything that changes a cell: it looks at those that it would have.
    fn only_looks(work: &[u8]) -> std::sync::Arc<[u8]> {
        let looks = work::decode(work).filter_map(Result::ok).map(|change| match change {
            Change::Require { cell, at_least } => Change::Look { cell, at_least },
            change => Change::Look { cell: change.cell(), at_least: i64::MIN },
        });
        work::encode(&looks.collect::<Vec<_>>())
    }

    /// How long after it was asked its client cancels the operation, if it does.
    #[must_use]
    pub fn cancels_after(&self, operation: u32) -> Option<Duration> {
        if self.cancels == Share::default() {
            return None;
        }
        let mut stream = self.key.keyed(u64::from(operation)).child("cancel").stream();
        let cancels = self.cancels.0.holds(&stream.draw());
        cancels.then(|| Duration::from_micros(stream.below(100_000)))
    }

    fn saga(&self, operation: u32, stream: &mut Stream) -> Work {
        let mut builder = Definition::builder();
        let mut limits = saga::Limits::default();
        limits.dependencies_max = limits.steps_max;
        builder.limits(limits);
        // What was added to sagas later is drawn apart, so that the others stay as they are.
        let mut terms = self.key.keyed(u64::from(operation)).child("terms").stream();
        let (terms, more) = (&mut terms, &mut self.more(operation));
        let nests = &mut self.key.keyed(u64::from(operation)).child("nests").stream();
        let pivot = (self.kinds && terms.below(4) > 0)
            .then(|| terms.below(u64::from(self.steps)) as u32)
            .map(|pivot| if self.shape == Shape::Join { self.steps - 1 } else { pivot });
        let mut steps: Vec<Step> = Vec::new();
        for number in 0..self.steps {
            let kind = match pivot {
                Some(pivot) if number == pivot => StepKind::Pivot,
                _ if self.kinds && terms.below(4) == 0 => StepKind::ReadOnly,
                Some(pivot) if number > pivot => StepKind::Retriable,
                _ => StepKind::Compensatable,
            };
            let behind = pivot.is_some_and(|pivot| number > pivot);
            let node = NodeName::numbered(stream.below(u64::from(self.nodes)));
            let action = Action::from_code(stream.below(10) as u8);
            // Behind the pivot nothing may be impossible: it would be tried for ever.
            let refuse = if behind { Share::default() } else { self.refuse };
            let body = self.work(refuse, stream, more);
            let mut before: Vec<u32> = match self.shape {
                Shape::Row => number.checked_sub(1).into_iter().collect(),
                Shape::Join if number + 1 == self.steps => (0..number).collect(),
                Shape::Join => Vec::new(),
                Shape::Random => {
                    let most = number.min(3);
                    let count = stream.below(u64::from(most) + 1) as u32;
                    let mut chosen = stream.distinct(count, number);
                    chosen.sort_unstable();
                    chosen
                }
            };
            if kind == StepKind::Pivot {
                let last = |on: &u32| !steps.iter().any(|step| step.dependencies.contains(on));
                before.extend((0..number).filter(last));
            } else if behind && !before.iter().any(|on| Some(*on) >= pivot) {
                before.extend(pivot);
            }
            before.sort_unstable();
            before.dedup();
            let step = Step::new(action, node, body).kind(kind);
            let step = before.into_iter().fold(step, Step::after);
            let step = self.feed(step, &steps, terms);
            let step = self.nest(step, refuse, nests);
            builder.step(step.clone());
            steps.push(step);
        }
        let definition = builder.build();
        Work::Saga(definition.expect("a step waits only for earlier ones, within the limits"))
    }

    /// The step, perhaps with something that it gives, takes, or that its undo asks for in vain.
    fn feed(&self, mut step: Step, before: &[Step], terms: &mut Stream) -> Step {
        let mut changes: Vec<Change> = work::decode(&step.body).filter_map(Result::ok).collect();
        if step.kind == StepKind::ReadOnly {
            // Only what it looks at.
            changes.retain(|change| matches!(change, Change::Require { .. }));
            let cell = terms.below(u64::from(self.cells));
            changes.push(Change::Require { cell, at_least: i64::MIN });
        }
        if step.kind == StepKind::Compensatable && self.stuck.0.holds(&terms.draw()) {
            let cell = terms.below(u64::from(self.cells));
            changes.push(Change::RequireToUndo { cell, at_least: i64::MAX });
        }
        let cell = terms.below(u64::from(self.cells));
        if self.feeds.0.holds(&terms.draw()) {
            changes.push(Change::Give { cell });
            step = step.gives(ValueType::I64);
        }
        let (takes, from) = (self.feeds.0.holds(&terms.draw()), terms.draw());
        if takes && step.kind != StepKind::ReadOnly {
            let mut ancestors = step.dependencies.clone();
            let mut at = 0;
            while let Some(&on) = ancestors.get(at) {
                for further in &before[on as usize].dependencies {
                    if !ancestors.contains(further) {
                        ancestors.push(*further);
                    }
                }
                at += 1;
            }
            ancestors.retain(|on| before[*on as usize].output.is_some());
            ancestors.sort_unstable();
            if !ancestors.is_empty() {
                let from = ancestors[from.below(ancestors.len() as u64) as usize];
                changes.push(Change::AddInput { cell, step: from });
                step = step.takes(from, ValueType::I64);
            }
        }
        step.body = work::encode(&changes);
        step
    }

    /// Adds to a cell, or to several; one that cannot be done also asks for what no cell ever holds.
    fn work(
        &self,
        impossible: Share,
        stream: &mut Stream,
        more: &mut Option<Stream>,
    ) -> std::sync::Arc<[u8]> {
        let add = |stream: &mut Stream| {
            let cell = stream.below(u64::from(self.cells));
            (cell, Change::Add { cell, amount: stream.between(1, 1_000) as i64 })
        };
        let (cell, first) = add(stream);
        let possible = !impossible.0.holds(&stream.draw());
        let Some(more) = more.as_mut().filter(|_| self.changes > 1) else {
            let require = Change::Require { cell, at_least: i64::MAX };
            let both = [first, require];
            return work::encode(if possible { &both[..1] } else { &both });
        };
        let mut changes = vec![first];
        if !possible {
            changes.push(Change::Require { cell, at_least: i64::MAX });
        }
        let others = more.below(u64::from(self.changes));
        changes.extend((0..others).map(|_| add(more).1));
        work::encode(&changes)
    }
}

/// How operations ended, as clients heard it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Transactions.
    pub committed: u64,
    /// Transactions.
    pub aborted: u64,
    /// Transactions in which nobody had anything to change.
    pub read_only: u64,
    /// Sagas.
    pub completed: u64,
    /// Sagas.
    pub compensated: u64,
    /// Sagas of which nothing ran.
    pub saga_aborted: u64,
}

impl Answers {
    /// Counts an answer.
    pub fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Committed => self.committed += 1,
            Outcome::Aborted => self.aborted += 1,
            Outcome::ReadOnly => self.read_only += 1,
            Outcome::Completed => self.completed += 1,
            Outcome::Compensated => self.compensated += 1,
            Outcome::SagaAborted => self.saga_aborted += 1,
            // Judges object to the second.
            Outcome::Refused(_) | Outcome::InDoubt => {}
        }
    }
}
