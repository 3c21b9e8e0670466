//! Clients and operators: who asks, asks again, cancels, orders and forces.

use super::agenda::What;
use super::observe::client;
use super::{OPERATOR_PAUSE, REFUSED_PAUSE, WAVE_PAUSE, World, is_a_promise};
use crate::recording::Happening;
use crate::scenario::Share;
use crate::workload::Workload;
use node::work::Change;
use node::{Doubtful, Force, Input, Intervention, Outcome, work};
use saga::{Direction, Order, Output as SagaOutput, Saga, StepState, What as Ordered};
use std::collections::BTreeSet;
use std::sync::Arc;
use twopc::Audit;

impl World<'_> {
    pub(super) fn reply(&mut self, key: &base::RequestKey, outcome: &Outcome) {
        if let Some((of, heard)) = &mut self.listens
            && of == key
        {
            heard.push(outcome.clone());
        }
        if let Outcome::Refused(_) = outcome {
            // Too busy: the client waits and asks again.
            if let Some(operation) = Workload::operation_of(key) {
                self.agenda.schedule(self.now + REFUSED_PAUSE, operation, What::Ask);
            }
            return;
        }
        let moment = self.moment();
        for judge in &mut self.judges {
            judge.replied(moment, key, outcome, &mut self.findings);
        }
        let for_ever = is_a_promise(outcome) || *outcome == Outcome::SagaAborted;
        if let Some(operation) = self.workload.answered(key, for_ever) {
            self.will_ask_again(operation, 0);
            self.note(None, || format!("{} hears {outcome:?}", client(key)));
            self.happened(|| Happening::Told { operation, outcome: format!("{outcome:?}") });
            self.counters.answers.count(outcome);
            self.progress = self.now;
            self.clients_go_on();
        }
    }

    // ---- clients ----

    pub(super) fn clients_go_on(&mut self) {
        while let Some(operation) = self.workload.start() {
            self.agenda.schedule(self.now, operation, What::Ask);
        }
        if self.workload.wave_is_answered() {
            // The wave has ended everywhere once nothing is owed; until then, look again.
            if self.nothing_is_owed() {
                self.workload.next_wave();
                self.clients_go_on();
            } else {
                self.agenda.schedule(self.now + WAVE_PAUSE, 0, What::NextWave);
            }
        }
    }

    pub(super) fn ask(&mut self, operation: u32) {
        if !self.workload.is_waiting(operation) {
            return;
        }
        let node = self.workload.coordinator(operation);
        let Some(process) = &self.machines[node as usize].process else { return };
        if process.node.coordinator().is_none() {
            // It recovers: clients ask again once it has.
            return;
        }
        let id = process.id;
        let request = self.workload.request(operation);
        let moment = self.moment();
        for judge in &mut self.judges {
            judge.submitted(moment, node, &request);
        }
        self.happened(|| Happening::Asked { operation, node });
        self.feed(node, id, Input::Submit(request));
        if let Some(after) = self.workload.cancels_after(operation) {
            self.agenda.schedule(self.now + after, operation, What::Cancel);
        }
    }

    pub(super) fn will_ask_again(&mut self, operation: u32, time: u32) {
        if let Some((after, other)) = self.workload.asks_again_after(operation, time) {
            self.agenda.schedule(self.now + after, operation, What::AskAgain { other });
        }
    }

    /// A client that was answered asks again, perhaps for something else under the same key: it hears the
    /// same, or that the key is taken, at once.
    pub(super) fn ask_again(&mut self, operation: u32, other: bool) {
        let node = self.workload.coordinator(operation);
        let Some(process) = &self.machines[node as usize].process else { return };
        if process.paused || process.node.coordinator().is_none() {
            return;
        }
        let id = process.id;
        // What was not told for ever may be forgotten, and then the other request would be the first one.
        let other = other && self.workload.is_answered_for_ever(operation);
        let request = if other {
            let Some(request) = self.workload.another_request(operation) else { return };
            request
        } else {
            self.workload.request(operation)
        };
        let key = request.key.clone();
        self.listens = Some((key.clone(), Vec::new()));
        self.feed(node, id, Input::Submit(request));
        let heard = self.listens.take().map_or_else(Vec::new, |(_, heard)| heard);
        let process = self.machines[node as usize].process.as_ref();
        // A fault may have struck before the answer left.
        if process.is_some_and(|process| process.id == id && !process.paused) {
            let moment = self.moment();
            for judge in &mut self.judges {
                judge.asked_again(moment, &key, other, &heard, &mut self.findings);
            }
        }
    }

    pub(super) fn cancel(&mut self, operation: u32) {
        if !self.workload.is_waiting(operation) {
            return;
        }
        let node = self.workload.coordinator(operation);
        let Some(process) = &self.machines[node as usize].process else { return };
        let (id, key) = (process.id, Workload::key_of(operation));
        self.feed(node, id, Input::Cancel(key));
    }

    /// An operator sees to every branch that waits, each time in a way that is drawn anew, and now and
    /// then gives up a participant that does not answer.
    pub(super) fn operate(&mut self, node: u32) {
        self.agenda.schedule(self.now + OPERATOR_PAUSE, node, What::Operate);
        self.force(node);
        let Some(process) = &self.machines[node as usize].process else { return };
        let Some(engine) = process.node.coordinator() else { return };
        let id = process.id;
        let key = self.node_key.child("operator");
        let mut orders = Vec::new();
        for saga in engine.active_sagas() {
            for step in saga.steps() {
                let draw = key.draw(saga.id().0 ^ u64::from(step.number()), self.now.as_nanos());
                let what = match (step.is_parked(), step.is_marked_done()) {
                    (true, _) => match (draw.below(4), step.undo()) {
                        (0, _) => Ordered::RetryNow,
                        // The same once more, so that it takes back exactly what was done.
                        (1, saga::Undo::Transaction(branches)) => {
                            Ordered::Instead { branches: branches.clone() }
                        }
                        (1, _) => Ordered::Override { body: without_conditions(saga, step) },
                        _ => Ordered::MarkDone,
                    },
                    (_, true) if draw.below(4) == 0 => Ordered::CloseUnanswered,
                    // Mostly it is too early or too late for this, and he hears so.
                    (false, false) if draw.nth(1).below(16) == 0 => Ordered::MarkDone,
                    _ => continue,
                };
                let (who, why) = ("operator".into(), "it waits".into());
                orders.push((saga.id(), step.number(), Order { who, why, what }));
            }
        }
        for (saga, step, order) in orders {
            let order = Box::new(order);
            self.feed(node, id, Input::Order { id: saga, step, order });
        }
    }

    /// An operator ends branches that have promised and wait, each in a way that is drawn, and sees to what
    /// came of it.
    fn force(&mut self, node: u32) {
        let forces = self.scenario.workload.forces;
        let Some(process) = &self.machines[node as usize].process else { return };
        if forces == Share::default() {
            return;
        }
        let key = self.node_key.child("forces");
        let own = |at: u64| at << 16 | u64::from(node);
        let now = self.now.as_nanos();
        let mut interventions = Vec::new();
        if let Some(host) = process.node.participant() {
            let participant = host.participant();
            for (branch, at) in participant.prepared() {
                let draw = key.draw(own(at.0), now);
                if forces.0.holds(&draw) {
                    let commits = draw.nth(1).below(2) == 0;
                    let force = if commits { Force::Commit } else { Force::Abort };
                    interventions.push((Doubtful::Branch(branch), force));
                }
            }
            let listed = participant.forced().filter(|(_, it)| it.forgotten.is_none());
            for (branch, forced) in listed {
                // Now and then one of which nobody knows yet what it comes to.
                let patience = if forced.noted.is_some() { 4 } else { 64 };
                if key.draw(own(forced.at.0), now).nth(2).below(patience) == 0 {
                    interventions.push((Doubtful::Branch(branch), Force::Forget));
                }
            }
        }
        if let Some(engine) = process.node.coordinator() {
            let listed: BTreeSet<_> = engine.heuristics().map(|(id, ..)| id).collect();
            let seen_to = listed.into_iter().filter(|id| key.draw(id.0, now).nth(3).below(8) == 0);
            interventions.extend(seen_to.map(|id| (Doubtful::Transaction(id), Force::Forget)));
        }
        let (process, at_ms) = (process.id, i64::try_from(now / 1_000_000).unwrap_or(i64::MAX));
        for (of, force) in interventions {
            let (who, why) = ("operator".into(), "nobody answers".into());
            let audit = Arc::new(Audit { at_ms, who, why });
            let what = Box::new(Intervention { of, force, audit });
            self.feed(node, process, Input::Intervene(what));
        }
    }
}

/// What a step has done, as an operator would have it undone: by the coordinator's log, and whatever
/// the definition asks for besides.
fn without_conditions(saga: &Saga, step: &StepState) -> Arc<[u8]> {
    let inputs = saga.inputs(step.number(), Direction::Forward);
    let given = |of: u32| {
        let input = inputs.iter().find(|input| input.step == of)?;
        match &input.output {
            SagaOutput::Inline(bytes) => Some(i64::from_le_bytes((**bytes).try_into().ok()?)),
            SagaOutput::Hashed { .. } => None,
        }
    };
    let mut changes = Vec::new();
    for change in work::decode(step.body()).filter_map(Result::ok) {
        match change {
            Change::Add { cell, amount } => changes.push(Change::Add { cell, amount }),
            Change::AddInput { cell, step } => {
                if let Some(amount) = given(step) {
                    changes.push(Change::Added { cell, amount });
                }
            }
            _ => {}
        }
    }
    work::encode(&changes)
}
