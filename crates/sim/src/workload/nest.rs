//! Steps that are transactions or sagas of their own.
//!
//! What undoes such a step takes back exactly what does it, so that a saga that is compensated leaves nothing.

use super::Workload;
use crate::scenario::Share;
use base::prng::Stream;
use base::{NodeName, ShardId};
use node::Branch;
use node::work::{self, Change};
use saga::{Action, Definition, Performer, Step, StepKind};
use std::collections::BTreeMap;

/// Sagas within sagas, the outermost included.
const DEPTH_MAX: u32 = 3;

impl Workload {
    /// The step, perhaps done by a transaction or a saga instead of its node. Its kind and its place in the
    /// graph stay; a step that gives or takes something, or that only looks, stays as it is.
    pub(super) fn nest(&self, step: Step, refuse: Share, s: &mut Stream) -> Step {
        if !self.nests.0.holds(&s.draw()) {
            return step;
        }
        let moves = step.output.is_some() || !step.inputs.is_empty();
        if moves || step.kind == StepKind::ReadOnly {
            return step;
        }
        let nested = self.operation(step.kind, refuse, 1, s);
        Step { kind: step.kind, dependencies: step.dependencies, ..nested }
    }

    fn operation(&self, kind: StepKind, refuse: Share, depth: u32, s: &mut Stream) -> Step {
        if depth < DEPTH_MAX && s.below(2) == 0 {
            self.sub_saga(kind, refuse, depth + 1, s)
        } else {
            self.step_transaction(kind, refuse, s)
        }
    }

    fn step_transaction(&self, kind: StepKind, refuse: Share, s: &mut Stream) -> Step {
        let most = u64::from(self.participants.min(self.nodes));
        let count = s.between(1, most) as u32;
        let nodes = s.distinct(count, self.nodes);
        let branches: Vec<Branch> = nodes
            .into_iter()
            .map(|node| {
                let more = &mut Some(self.key.keyed(s.draw().u64()).stream());
                branch(NodeName::numbered(node.into()), self.work(refuse, s, more))
            })
            .collect();
        let step = Step::transaction(branches.clone());
        if kind != StepKind::Compensatable {
            return step;
        }
        match &branches[..] {
            // Its node is called, and undoes what the call says.
            [only] if s.below(2) == 0 => step.undone_at(only.node, work::encode(&adds(&only.work))),
            _ => step
                .undone_by_transaction(taken_back(branches.iter().map(|it| (it.node, &*it.work)))),
        }
    }

    fn sub_saga(&self, kind: StepKind, refuse: Share, depth: u32, s: &mut Stream) -> Step {
        // One that is undone as a whole may go past a point of no return.
        let reversible = kind == StepKind::Compensatable && s.below(4) > 0;
        let pivot = !reversible && s.below(2) == 0;
        let count = s.between(1, 3);
        let mut builder = Definition::builder();
        let mut last: Option<u32> = None;
        for number in 1..=count {
            let pivot = pivot && number == count;
            let kind = if pivot { StepKind::Pivot } else { StepKind::Compensatable };
            let step = if s.below(3) == 0 {
                self.operation(kind, refuse, depth, s)
            } else {
                let node = NodeName::numbered(s.below(u64::from(self.nodes)));
                let more = &mut Some(self.key.keyed(s.draw().u64()).stream());
                Step::new(Action::Custom, node, self.work(refuse, s, more))
            };
            // In a row, or side by side; the pivot comes after all.
            let row = pivot || s.below(2) == 0;
            let step = match last {
                Some(last) if pivot => (0..=last).fold(step, Step::after),
                Some(last) if row => step.after(last),
                _ => step,
            };
            last = Some(builder.step(step.kind(kind)));
        }
        let definition =
            builder.build().expect("steps that go together, a pivot behind all others");
        let mut all = Vec::new();
        collect(&definition, &mut all);
        let step = Step::saga(definition);
        if kind != StepKind::Compensatable || reversible {
            return step;
        }
        step.undone_by_transaction(taken_back(all.iter().map(|(node, work)| (*node, &work[..]))))
    }
}

fn branch(node: NodeName, work: std::sync::Arc<[u8]>) -> Branch {
    Branch { shard: ShardId::numbered(node.number()), node, work }
}

/// What of this work changes something.
fn adds(work: &[u8]) -> Vec<Change> {
    let changes = work::decode(work).filter_map(Result::ok);
    changes.filter(|change| matches!(change, Change::Add { .. })).collect()
}

/// A branch for each node, which takes back what all of this has added there.
fn taken_back<'a>(all: impl Iterator<Item = (NodeName, &'a [u8])>) -> Vec<Branch> {
    let mut nodes: BTreeMap<NodeName, Vec<Change>> = BTreeMap::new();
    for (node, work) in all {
        for change in adds(work) {
            if let Change::Add { cell, amount } = change {
                let back = Change::Add { cell, amount: -amount };
                nodes.entry(node).or_default().push(back);
            }
        }
    }
    nodes.into_iter().map(|(node, changes)| branch(node, work::encode(&changes))).collect()
}

/// What a saga of this definition does, and where.
fn collect(definition: &Definition, all: &mut Vec<(NodeName, std::sync::Arc<[u8]>)>) {
    for step in definition.steps() {
        match &step.performer {
            Performer::Transaction(branches) => {
                all.extend(branches.iter().map(|branch| (branch.node, branch.work.clone())));
            }
            Performer::Saga(inner) => collect(inner, all),
            _ => all.push((step.node, step.body.clone())),
        }
    }
}
