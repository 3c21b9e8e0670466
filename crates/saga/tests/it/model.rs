//! A naive model: every question is answered from the raw history by the formula that defines it.
//! It keeps no state, shares no code with the machine and is as slow as it looks.

use crate::{succeeded, undo_failed, undone};
use base::Sequence;
use saga::{
    AttemptNote, Direction, Effect, End, Event, FailedEffect, Input, Outcome, Saga, StepKind, What,
};
use std::collections::{BTreeMap, BTreeSet};

/// The legal events so far; the first has sequence 1.
#[derive(Clone, Debug)]
pub struct History(pub Vec<Event>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Created,
    Forward,
    Backward,
    Over(End),
}

impl History {
    fn position(&self, wanted: impl Fn(&Event) -> bool) -> Option<usize> {
        self.0.iter().position(wanted)
    }

    fn has(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.position(wanted).is_some()
    }

    /// Every step with what it depends on. "In sequence" is "after the next lower number".
    pub fn graph(&self) -> BTreeMap<u32, BTreeSet<u32>> {
        let mut numbers = BTreeSet::new();
        for event in &self.0 {
            if let Event::StepAdded { step, .. } = event {
                numbers.insert(*step);
            }
        }
        let mut graph = BTreeMap::new();
        for event in &self.0 {
            if let Event::StepAdded { step, dependencies, .. } = event {
                let on = match dependencies {
                    Some(given) => given.iter().copied().collect(),
                    None => numbers.range(..step).next_back().into_iter().copied().collect(),
                };
                graph.insert(*step, on);
            }
        }
        graph
    }

    pub fn kind(&self, of: u32) -> StepKind {
        let kind = self.0.iter().find_map(|e| match e {
            Event::StepAdded { step, terms, .. } if *step == of => Some(terms.kind),
            _ => None,
        });
        kind.expect("it was added")
    }

    fn pivot(&self) -> Option<u32> {
        self.0.iter().find_map(|e| match e {
            Event::StepAdded { step, terms, .. } if terms.kind == StepKind::Pivot => Some(*step),
            _ => None,
        })
    }

    /// It goes forward, and everything that the pivot depends on has succeeded.
    fn past_pivot(&self) -> bool {
        let graph = self.graph();
        let ready = |pivot: u32| graph[&pivot].iter().all(|on| self.success(*on).is_some());
        self.stage() == Stage::Forward && self.pivot().is_some_and(ready)
    }

    fn may_fail(&self, step: u32, effect: FailedEffect) -> bool {
        match self.kind(step) {
            StepKind::Retriable => false,
            StepKind::Pivot => effect == FailedEffect::None,
            _ => !self.past_pivot(),
        }
    }

    /// Everything that a step depends on, be it through others.
    fn ancestors(&self, step: u32) -> BTreeSet<u32> {
        let graph = self.graph();
        let mut found = graph[&step].clone();
        loop {
            let more: BTreeSet<u32> = found.iter().flat_map(|on| graph[on].clone()).collect();
            if more.is_subset(&found) {
                return found;
            }
            found.extend(more);
        }
    }

    /// What the notes say of a step that is to be undone: `"undo"`, `"parked"` or `"mark"`.
    pub fn care(&self, of: u32) -> &'static str {
        let mut care = "undo";
        for event in &self.0 {
            if let Event::CompensationFailed { step, note, .. } = event
                && *step == of
            {
                care = match note {
                    AttemptNote::Retried => care,
                    AttemptNote::Parked => "parked",
                    AttemptNote::Ordered(order) => match order.what {
                        What::RetryNow | What::Override { .. } | What::Instead { .. } => "undo",
                        What::MarkDone => "mark",
                        What::CloseUnanswered => care,
                    },
                };
            }
        }
        care
    }

    fn orders(&self, of: u32) -> impl Iterator<Item = (usize, &What)> {
        self.0.iter().enumerate().filter_map(move |(at, event)| match event {
            Event::CompensationFailed { step, note: AttemptNote::Ordered(order), .. }
                if *step == of =>
            {
                Some((at, &order.what))
            }
            _ => None,
        })
    }

    fn closed(&self, step: u32) -> bool {
        self.orders(step).any(|(_, what)| *what == What::CloseUnanswered)
    }

    fn started(&self) -> Option<usize> {
        self.position(|e| *e == Event::ExecuteStart)
    }

    /// The record that turned an executing saga.
    fn turned(&self) -> Option<usize> {
        let started = self.started()?;
        self.0.iter().enumerate().position(|(at, e)| {
            at > started
                && matches!(
                    e,
                    Event::StepFailed { .. } | Event::CompensationStart { .. } | Event::Aborted
                )
        })
    }

    fn success(&self, step: u32) -> Option<usize> {
        self.position(|e| matches!(e, Event::StepSucceeded { step: s, .. } if *s == step))
    }

    fn failure(&self, step: u32, with: FailedEffect) -> Option<usize> {
        self.position(|e| {
            matches!(e, Event::StepFailed { step: s, effect, .. } if *s == step && *effect == with)
        })
    }

    fn outcome_missing(&self, step: u32) -> bool {
        self.success(step).is_none()
            && self.failure(step, FailedEffect::None).is_none()
            && self.failure(step, FailedEffect::Maybe).is_none()
    }

    fn undone(&self, step: u32) -> Option<usize> {
        self.position(|e| matches!(e, Event::CompensationSucceeded { step: s, .. } if *s == step))
    }

    /// Steps whose dependencies had all succeeded at the turn (now, if it has not turned) and whose
    /// own outcome is missing.
    fn maybe_started(&self) -> BTreeSet<u32> {
        let turn = self.turned().unwrap_or(self.0.len());
        let done = |step: &u32| self.success(*step).is_some_and(|at| at < turn);
        let all_done = |on: &BTreeSet<u32>| on.iter().all(done);
        let graph = self.graph();
        graph
            .iter()
            .filter(|(s, on)| all_done(on) && self.outcome_missing(**s))
            .map(|s| *s.0)
            .collect()
    }

    /// Succeeded + failed with `maybe` + maybe-started, minus compensated.
    pub fn undo(&self) -> BTreeSet<u32> {
        let maybe_started = self.maybe_started();
        let effect_may_be = |s: &u32| {
            self.success(*s).is_some()
                || self.failure(*s, FailedEffect::Maybe).is_some()
                || maybe_started.contains(s)
        };
        let steps = self.graph().into_keys();
        let has_undo = |s: &u32| self.kind(*s) == StepKind::Compensatable;
        steps.filter(has_undo).filter(effect_may_be).filter(|s| self.undone(*s).is_none()).collect()
    }

    pub fn stage(&self) -> Stage {
        let last = self.0.last().expect("at least created");
        match last {
            Event::Completed => Stage::Over(End::Completed),
            Event::Compensated => Stage::Over(End::Compensated),
            Event::Aborted if self.started().is_none() || self.undo().is_empty() => {
                Stage::Over(End::Aborted)
            }
            _ if self.turned().is_some() => Stage::Backward,
            _ if self.started().is_some() => Stage::Forward,
            _ => Stage::Created,
        }
    }

    /// The steps on the undo list on which none on the undo list depends.
    fn next_to_undo(&self) -> BTreeSet<u32> {
        let undo = self.undo();
        let free = |s: &u32| !undo.iter().any(|later| self.ancestors(*later).contains(s));
        undo.iter().copied().filter(free).collect()
    }

    fn all_succeeded(&self) -> bool {
        self.graph().keys().all(|s| self.success(*s).is_some())
    }

    /// The table of legal transitions.
    pub fn allows(&self, event: &Event) -> bool {
        let stage = self.stage();
        let (forward, backward) = (stage == Stage::Forward, stage == Stage::Backward);
        if matches!(stage, Stage::Over(_)) {
            return false;
        }
        match event {
            Event::Created { .. } => false,
            Event::StepAdded { step, dependencies, terms, .. } => {
                let graph = self.graph();
                let earlier = |on: &u32| on < step && graph.contains_key(on);
                let second = terms.kind == StepKind::Pivot && self.pivot().is_some();
                !second
                    && terms.inputs.iter().all(earlier)
                    && stage == Stage::Created
                    && !graph.contains_key(step)
                    && dependencies.iter().flat_map(|numbers| &numbers[..]).all(earlier)
            }
            Event::ExecuteStart => stage == Stage::Created,
            Event::StepSucceeded { step, .. } => self.outcome_is_news(*step),
            Event::StepFailed { step, effect, .. } => {
                self.outcome_is_news(*step) && self.may_fail(*step, *effect)
            }
            Event::CompensationStart { .. } => {
                let announced = self.has(|e| matches!(e, Event::CompensationStart { .. }));
                (forward || backward) && !announced && !self.past_pivot()
            }
            Event::CompensationSucceeded { step, heuristic } => {
                backward && self.next_to_undo().contains(step) && (!heuristic || self.closed(*step))
            }
            Event::CompensationFailed { step, note, .. } => {
                let closes = matches!(note, AttemptNote::Ordered(order)
                    if order.what == What::CloseUnanswered);
                backward && self.undo().contains(step) && (!closes || self.care(*step) == "mark")
            }
            Event::Completed => forward && self.all_succeeded(),
            Event::Compensated => backward && self.undo().is_empty(),
            Event::Aborted => !self.past_pivot(),
        }
    }

    /// The step may be running, and what became of it is not known.
    fn outcome_is_news(&self, step: u32) -> bool {
        let running = self.maybe_started().contains(&step);
        match self.stage() {
            Stage::Forward => running,
            Stage::Backward => running && self.undo().contains(&step),
            _ => false,
        }
    }

    /// The one fact that an input is worth.
    pub fn worth(&self, input: &Input) -> Option<Event> {
        let stage = self.stage();
        match input {
            Input::Cancel | Input::TimedOut => match stage {
                Stage::Created => Some(Event::Aborted),
                Stage::Forward if self.past_pivot() => None,
                Stage::Forward => Some(Event::CompensationStart { cause: None }),
                Stage::Backward | Stage::Over(_) => None,
            },
            Input::Restarted { .. } => (stage == Stage::Created).then_some(Event::Aborted),
            &Input::StepTimedOut { step } if stage == Stage::Forward => {
                let effect = FailedEffect::Maybe;
                (self.outcome_is_news(step) && self.may_fail(step, effect))
                    .then_some(Event::StepFailed { step, error_code: 0xFFFF_FFFF, effect })
            }
            Input::Outcome { step, direction: Direction::Forward, outcome }
                if self.outcome_is_news(*step) =>
            {
                let (step, effect) = (*step, FailedEffect::None);
                match outcome {
                    Outcome::Done | Outcome::DoneWith(_) => Some(succeeded(step)),
                    Outcome::Refused { code: error_code } => {
                        let error_code = *error_code;
                        self.may_fail(step, effect).then_some(Event::StepFailed {
                            step,
                            error_code,
                            effect,
                        })
                    }
                    Outcome::Unknown => None,
                }
            }
            Input::Outcome { step, direction: Direction::Backward, outcome }
                if stage == Stage::Backward && self.next_to_undo().contains(step) =>
            {
                match outcome {
                    Outcome::Done | Outcome::DoneWith(_) => Some(undone(*step)),
                    Outcome::Refused { .. } if self.care(*step) == "undo" => {
                        Some(undo_failed(*step, self.attempts(*step).saturating_add(1)))
                    }
                    _ => None,
                }
            }
            &Input::GiveUpUndo { step }
                if stage == Stage::Backward
                    && self.next_to_undo().contains(&step)
                    && self.care(step) == "undo" =>
            {
                let attempt = self.attempts(step).saturating_add(1);
                Some(Event::CompensationFailed { step, attempt, note: AttemptNote::Parked })
            }
            Input::Ordered { step, order }
                if stage == Stage::Backward && self.next_to_undo().contains(step) =>
            {
                let (step, attempt) = (*step, self.attempts(*step));
                let note = AttemptNote::Ordered(order.clone());
                (order.what != What::CloseUnanswered || self.care(step) == "mark")
                    .then_some(Event::CompensationFailed { step, attempt, note })
            }
            _ => None,
        }
    }

    fn attempts(&self, of: u32) -> u32 {
        let failed = self.0.iter().filter_map(|e| match e {
            Event::CompensationFailed { step, attempt, .. } if *step == of => Some(*attempt),
            _ => None,
        });
        failed.max().unwrap_or(0)
    }

    fn owes(&self) -> Option<Event> {
        match self.stage() {
            Stage::Forward if self.all_succeeded() => Some(Event::Completed),
            Stage::Backward if self.undo().is_empty() => Some(Event::Compensated),
            Stage::Backward => {
                let step = self.next_to_undo().into_iter().find(|step| self.closed(*step))?;
                Some(Event::CompensationSucceeded { step, heuristic: true })
            }
            _ => None,
        }
    }

    /// Everything that must be durable before each debt is paid: (kind, step, sequence).
    fn debts(&self) -> Vec<(&'static str, u32, u64)> {
        let graph = self.graph();
        let sequence = |at: Option<usize>| at.map_or(0, |at| at as u64 + 1);
        match self.stage() {
            Stage::Created => vec![],
            Stage::Over(end) => vec![(end.name(), 0, self.0.len() as u64)],
            Stage::Forward => {
                let rests_on = |s: &u32| {
                    let successes = graph[s].iter().map(|on| sequence(self.success(*on)));
                    successes.fold(sequence(self.started()), u64::max)
                };
                self.maybe_started().iter().map(|s| ("run", *s, rests_on(s))).collect()
            }
            Stage::Backward => {
                let rests_on = |s: &u32| {
                    let dependents = graph.keys().filter(|later| {
                        self.kind(**later) == StepKind::Compensatable
                            && self.ancestors(**later).contains(s)
                    });
                    let orders = self.orders(*s).map(|(at, _)| sequence(Some(at)));
                    let since = orders.fold(sequence(self.turned()), u64::max);
                    dependents.fold(since, |last, later| {
                        last.max(sequence(self.undone(*later)))
                            .max(sequence(self.failure(*later, FailedEffect::None)))
                    })
                };
                let steps = self.next_to_undo().into_iter().rev();
                let called = steps.filter(|s| self.care(*s) != "parked");
                called.map(|s| (self.care(s), s, rests_on(&s))).collect()
            }
        }
    }

    /// Asserts that the machine says about this history what the formulas say.
    pub fn assert_agrees(&self, saga: &Saga) {
        let stage = self.stage();
        let class = saga.classification();
        let sequence = |at: Option<usize>| Sequence(at.map_or(0, |at| at as u64 + 1));
        let (state, action, evidence) = match stage {
            Stage::Created => ("created", "none", Sequence(1)),
            Stage::Forward => ("executing", "saga_resume_execute", sequence(self.started())),
            Stage::Backward => ("compensating", "saga_resume_compensate", sequence(self.turned())),
            Stage::Over(end) => (end.name(), "none", Sequence(self.0.len() as u64)),
        };
        assert_eq!((class.state, class.action.name()), (state, action), "{self:?}");
        assert_eq!((class.evidence, class.last), (evidence, Sequence(self.0.len() as u64)));
        let run = if stage == Stage::Forward { self.maybe_started() } else { BTreeSet::new() };
        let undo = if stage == Stage::Backward { self.undo() } else { BTreeSet::new() };
        assert_eq!(class.run, Vec::from_iter(run), "{self:?}");
        assert_eq!(class.undo, Vec::from_iter(undo.into_iter().rev()), "{self:?}");
        assert_eq!(class.next_step, class.run.iter().chain(&class.undo).next().copied());
        assert_eq!(saga.settle(), self.owes(), "{self:?}");
        let mut pending = Vec::new();
        saga.pending(&mut pending);
        let debts: Vec<_> = pending
            .iter()
            .map(|effect| match effect {
                Effect::Run { step, token, after } => {
                    assert_eq!(*token, saga.token(*step, Direction::Forward));
                    ("run", *step, after.0)
                }
                Effect::Compensate { step, token, after } => {
                    assert_eq!(*token, saga.token(*step, Direction::Backward));
                    ("undo", *step, after.0)
                }
                Effect::MarkDone { step, token, after } => {
                    assert_eq!(*token, saga.token(*step, Direction::Backward));
                    ("mark", *step, after.0)
                }
                Effect::Tell { end, after } => (end.name(), 0, after.0),
            })
            .collect();
        assert_eq!(debts, self.debts(), "{self:?}");
        for step in self.graph().into_keys() {
            let state = saga.step(step).expect("added");
            assert_eq!(state.attempts(), self.attempts(step));
            assert_eq!(state.compensated().is_some(), self.undone(step).is_some());
            assert_eq!(state.outcome().is_none(), self.outcome_missing(step));
        }
        let parked = self.undo().into_iter().filter(|step| self.care(*step) == "parked");
        let parked: Vec<u32> = if stage == Stage::Backward { parked.collect() } else { vec![] };
        assert_eq!(saga.parked().collect::<Vec<_>>(), parked, "{self:?}");
        assert_eq!((saga.parked_count() as usize, &class.parked), (parked.len(), &parked));
        assert_eq!(saga.step_count() as usize, self.graph().len());
    }

    /// Offers the event to both: they agree on whether it is legal, and a refusal changes nothing.
    pub fn offer(&mut self, saga: &mut Saga, event: &Event) -> bool {
        let sequence = Sequence(self.0.len() as u64 + 1);
        let legal = self.allows(event);
        let before = saga.clone();
        let applied = saga.apply(sequence, event);
        assert_eq!(applied.is_ok(), legal, "{event:?} after {self:?}: {applied:?}");
        if legal {
            self.0.push(event.clone());
            assert_brought(&before, saga, event);
        } else {
            assert!(*saga == before, "a refusal changed the state: {event:?} after {self:?}");
        }
        legal
    }
}

/// What a record has brought is of what is pending, and nothing of that is left out that was not pending before.
fn assert_brought(before: &Saga, saga: &Saga, event: &Event) {
    let [mut earlier, mut pending, mut brought] = [const { Vec::new() }; 3];
    before.pending(&mut earlier);
    saga.pending(&mut pending);
    saga.pending_by(event, &mut brought);
    assert!(brought.iter().all(|effect| pending.contains(effect)), "{event:?}: {brought:?}");
    let missing = |effect: &&Effect| !earlier.contains(effect) && !brought.contains(effect);
    assert_eq!(pending.iter().find(missing), None, "{event:?} has brought it: {brought:?}");
}
