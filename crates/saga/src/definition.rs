//! What a caller asks for: a graph of steps.
//!
//! A step may depend only on steps that were added before it, so a graph with a cycle cannot be
//! written down.

use crate::event::Event;
use crate::kind::{self, StepKind};
use crate::performer::{self, Branch, Performer, Undo};
use crate::terms::{DefinitionName, Label, SagaTerms, StepTerms, ValueType};
use base::{NodeName, ShardId, prng};
use std::sync::Arc;
use std::time::Duration;

/// What kind of work a step does, as the log's `action` byte names it. The machine treats all
/// alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Code 0.
    ShardWrite,
    /// Code 1.
    ShardDelete,
    /// Code 2.
    LockAcquire,
    /// Code 3.
    LockRelease,
    /// Code 4.
    StakeLock,
    /// Code 5.
    StakeRelease,
    /// Code 6.
    EscrowCreate,
    /// Code 7.
    EscrowResolve,
    /// Code 8.
    RouteSelect,
    /// Code 9: whatever the step's body says.
    Custom,
    /// A code that this version does not know, kept as it is. [`Action::from_code`] never puts a
    /// known code here.
    Other(u8),
}

impl Action {
    const KNOWN: [(Action, &'static str); 10] = [
        (Action::ShardWrite, "shard_write"),
        (Action::ShardDelete, "shard_delete"),
        (Action::LockAcquire, "lock_acquire"),
        (Action::LockRelease, "lock_release"),
        (Action::StakeLock, "stake_lock"),
        (Action::StakeRelease, "stake_release"),
        (Action::EscrowCreate, "escrow_create"),
        (Action::EscrowResolve, "escrow_resolve"),
        (Action::RouteSelect, "route_select"),
        (Action::Custom, "custom"),
    ];

    /// The action of a log's byte; total, and the inverse of [`Action::code`].
    #[must_use]
    pub fn from_code(code: u8) -> Action {
        Self::KNOWN.get(usize::from(code)).map_or(Action::Other(code), |known| known.0)
    }

    /// The log's byte.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Action::ShardWrite => 0,
            Action::ShardDelete => 1,
            Action::LockAcquire => 2,
            Action::LockRelease => 3,
            Action::StakeLock => 4,
            Action::StakeRelease => 5,
            Action::EscrowCreate => 6,
            Action::EscrowResolve => 7,
            Action::RouteSelect => 8,
            Action::Custom => 9,
            Action::Other(code) => code,
        }
    }

    /// The action's name, `None` for a code that this version does not know.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::KNOWN.get(usize::from(self.code())).map(|known| known.1)
    }
}

/// One step of a saga: what is asked of whom, and after what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The kind of work.
    pub action: Action,
    /// The steps, by index, that must have succeeded before this one runs. Each is earlier than it.
    pub dependencies: Vec<u32>,
    /// Where it runs.
    pub node: NodeName,
    /// What is asked there; the machine never looks inside. The same body goes with the step's
    /// compensation.
    pub body: Arc<[u8]>,
    /// Whether it can fail, and whether it can be undone.
    pub kind: StepKind,
    /// It is given up so long after it was called first, unless it cannot fail. `None`: as the engine
    /// is configured.
    pub timeout: Option<Duration>,
    /// The name by which its code is found.
    pub action_name: Option<Label>,
    /// The name by which the code of its compensation is found.
    pub undo_name: Option<Label>,
    /// The earlier steps whose outputs it is given, and as what.
    pub inputs: Vec<(u32, ValueType)>,
    /// What its success brings; `None`: nothing.
    pub output: Option<ValueType>,
    /// Who does it.
    pub performer: Performer,
    /// Who undoes it. `None`: as is usual, that is, the same node, or the sub-saga's own compensations; a
    /// transaction's has to be named.
    pub undo: Option<Undo>,
    /// After so many transactions that were voted down it is refused. `None`: as the engine is configured.
    pub attempts: Option<u32>,
}

/// The longest that a record can say, in whole nanoseconds.
const TIMEOUT_MAX: Duration = Duration::from_nanos(u64::MAX);

impl Step {
    /// A step that depends on nothing, and can be undone.
    #[must_use]
    pub fn new(action: Action, node: NodeName, body: impl Into<Arc<[u8]>>) -> Step {
        Step {
            action,
            dependencies: Vec::new(),
            node,
            body: body.into(),
            kind: StepKind::Compensatable,
            timeout: None,
            action_name: None,
            undo_name: None,
            inputs: Vec::new(),
            output: None,
            performer: Performer::Node,
            undo: None,
            attempts: None,
        }
    }

    /// The same step, of another kind than [`StepKind::Compensatable`].
    #[must_use]
    pub fn kind(mut self, kind: StepKind) -> Step {
        self.kind = kind;
        self
    }

    /// The same step, given up so long after it was first called.
    ///
    /// Logs know no longer one than 2^64 ns: more is taken for that, which is 584 years.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Step {
        self.timeout = Some(timeout.min(TIMEOUT_MAX));
        self
    }

    /// The same step, its code found by this name.
    #[must_use]
    pub fn named(mut self, action: Label) -> Step {
        self.action_name = Some(action);
        self
    }

    /// The same step, the code of its compensation found by this name.
    #[must_use]
    pub fn undone_by(mut self, action: Label) -> Step {
        self.undo_name = Some(action);
        self
    }

    /// The same step, whose success brings a value.
    #[must_use]
    pub fn gives(mut self, output: ValueType) -> Step {
        self.output = Some(output);
        self
    }

    /// The same step, given the output of `step`, on which it depends, be it through others.
    #[must_use]
    pub fn takes(mut self, step: u32, value: ValueType) -> Step {
        self.inputs.push((step, value));
        self
    }

    /// What the log says about it besides the graph.
    fn terms(&self) -> StepTerms {
        StepTerms {
            kind: self.kind,
            timeout: self.timeout,
            action_name: self.action_name.clone(),
            undo_name: self.undo_name.clone(),
            inputs: self.inputs.iter().map(|(step, _)| *step).collect(),
            output: self.output,
            performer: self.performer.clone(),
            undo: self.undo_or_usual(),
            attempts: self.attempts,
        }
    }

    /// The same step, run only after `step` (an index that [`Builder::step`] returned) succeeded.
    #[must_use]
    pub fn after(mut self, step: u32) -> Step {
        self.dependencies.push(step);
        self
    }
}

/// How large a definition may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Steps in a definition, at most.
    pub steps_max: u32,
    /// Dependencies of one step, at most.
    pub dependencies_max: u32,
    /// How many definitions deep steps that are sagas may nest, at most: 1 for none.
    pub depth_max: u32,
}

impl Default for Limits {
    /// 32 steps with 8 dependencies each, 4 deep.
    fn default() -> Limits {
        Limits { steps_max: 32, dependencies_max: 8, depth_max: 4 }
    }
}

/// A checked saga: at least one step, no cycle, kinds of steps that go together, within its
/// [`Limits`].
///
/// A copy costs nothing: it is the same definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition(Arc<Built>);

#[derive(Debug, PartialEq, Eq)]
struct Built {
    name: Option<DefinitionName>,
    timeout: Option<Duration>,
    steps: Vec<Step>,
    /// What the log says of each step: every saga of this definition shares it.
    records: Vec<StepRecord>,
    /// Of name, time-out and steps: every submission asks for it.
    fingerprint: u128,
    depth: u32,
}

/// What of a step's record does not fit into the record itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StepRecord {
    pub(crate) dependencies: Arc<[u32]>,
    pub(crate) terms: Arc<StepTerms>,
}

impl Definition {
    /// Starts a definition under the default [`Limits`].
    #[must_use]
    pub fn builder() -> Builder {
        Builder { limits: Limits::default(), name: None, timeout: None, steps: Vec::new() }
    }

    /// Its name and version, if it has them.
    #[must_use]
    pub fn name(&self) -> Option<&DefinitionName> {
        self.0.name.as_ref()
    }

    /// How long a saga of it may take until it is undone; `None`: as the engine is configured.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.0.timeout
    }

    /// The steps; a step's number is its index here.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0.steps
    }

    /// 128 bits that depend on every part of it, the bodies included: two definitions that differ
    /// have different ones but for chance. (Not against somebody who looks for two that do not.)
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        self.0.fingerprint
    }

    /// How many definitions deep it nests: 1 if no step is a saga of its own.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.0.depth
    }

    /// The steps, each with what its record says.
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = (&Step, &StepRecord)> {
        self.0.steps.iter().zip(&self.0.records)
    }

    /// What the log says about it besides the steps.
    pub(crate) fn terms(&self) -> SagaTerms {
        let (definition, timeout) = (self.0.name.clone(), self.0.timeout);
        SagaTerms { definition, fingerprint: Some(self.fingerprint()), timeout, parent: None }
    }

    /// The definition that these terms and steps, read from a log, were written from. `None`: from none.
    #[must_use]
    pub fn from_log(terms: &SagaTerms, added: &[Event]) -> Option<Definition> {
        let mut steps: Vec<Step> = Vec::with_capacity(added.len());
        for (expected, event) in (0..).zip(added) {
            let Event::StepAdded { step, action, dependencies, node, body, terms } = event else {
                return None;
            };
            (*step == expected).then_some(())?;
            let input = |from: &u32| {
                let found = steps.get(*from as usize).and_then(|step| step.output);
                found.map(|value| (*from, value))
            };
            let inputs = terms.inputs.iter().map(input).collect::<Option<Vec<_>>>()?;
            let usual =
                Step { performer: terms.performer.clone(), ..Step::new(*action, *node, []) };
            let named = terms.performer.needs_undo() && terms.kind.has_undo();
            let undo = (named || usual.undo_or_usual() != terms.undo).then(|| terms.undo.clone());
            steps.push(Step {
                dependencies: dependencies.as_deref()?.to_vec(),
                body: Arc::clone(body),
                kind: terms.kind,
                timeout: terms.timeout,
                action_name: terms.action_name.clone(),
                undo_name: terms.undo_name.clone(),
                inputs,
                output: terms.output,
                undo,
                attempts: terms.attempts,
                ..usual
            });
        }
        let most = u32::MAX;
        let limits = Limits { steps_max: most, dependencies_max: most, depth_max: most };
        let name = terms.definition.clone();
        let built = Builder { limits, name, timeout: terms.timeout, steps }.build().ok()?;
        (terms.fingerprint == Some(built.fingerprint())).then_some(built)
    }
}

/// See [`Definition::fingerprint`].
fn fingerprint(name: Option<&DefinitionName>, timeout: Option<Duration>, steps: &[Step]) -> u128 {
    let mut hash = Fingerprint(u128::from_le_bytes(*b"saga definition1"));
    match name {
        None => hash.word(0, 0),
        Some(DefinitionName { name, version }) => {
            hash.word(1, u64::from(*version));
            hash.bytes(name.as_str().as_bytes());
        }
    }
    hash.duration(timeout);
    hash.word(2, steps.len() as u64);
    for step in steps {
        let output = step.output.map_or(u64::MAX, |value| u64::from(value.code()));
        hash.word(u64::from(step.action.code()) << 8 | u64::from(step.kind.code()), output);
        hash.word(step.dependencies.len() as u64, step.inputs.len() as u64);
        step.dependencies.iter().for_each(|&on| hash.word(3, u64::from(on)));
        for (from, value) in &step.inputs {
            hash.word(u64::from(*from), u64::from(value.code()));
        }
        hash.bytes(&step.node.0);
        hash.bytes(&step.body);
        hash.duration(step.timeout);
        for name in [&step.action_name, &step.undo_name] {
            hash.bytes(name.as_ref().map_or("", Label::as_str).as_bytes());
        }
        // What came later adds to it only where it is used: fingerprints are in logs.
        match &step.performer {
            Performer::Node => {}
            Performer::Transaction(branches) => hash.branches(7, branches),
            Performer::Saga(definition) => {
                let inner = definition.fingerprint();
                hash.word(8, 0);
                hash.word(inner as u64, (inner >> 64) as u64);
            }
        }
        match step.undo_or_usual() {
            Undo::Call => {}
            Undo::Transaction(branches) => hash.branches(9, &branches),
            Undo::Reverse => hash.word(10, 0),
        }
        if let Some(attempts) = step.attempts {
            hash.word(11, u64::from(attempts));
        }
    }
    hash.0
}

/// A chain of keyed hashes: each one's key is the one before.
struct Fingerprint(u128);

impl Fingerprint {
    fn word(&mut self, a: u64, b: u64) {
        self.0 = prng::keyed_hash(self.0, a, b);
    }

    /// The length goes with the bytes, so that what stands in two fields is not what stands in one.
    fn bytes(&mut self, bytes: &[u8]) {
        self.word(4, bytes.len() as u64);
        for chunk in bytes.chunks(16) {
            let mut whole = [0; 16];
            whole[..chunk.len()].copy_from_slice(chunk);
            let both = u128::from_le_bytes(whole);
            self.word(both as u64, (both >> 64) as u64);
        }
    }

    fn branches(&mut self, what: u64, branches: &[Branch]) {
        self.word(what, branches.len() as u64);
        for branch in branches {
            [&branch.shard.0[..], &branch.node.0, &branch.work]
                .into_iter()
                .for_each(|bytes| self.bytes(bytes));
        }
    }

    fn duration(&mut self, duration: Option<Duration>) {
        match duration {
            None => self.word(5, 0),
            Some(some) => self.word(6 + (some.subsec_nanos() as u64), some.as_secs()),
        }
    }
}

/// Collects steps; [`Builder::build`] checks them.
#[derive(Clone, Debug)]
pub struct Builder {
    limits: Limits,
    name: Option<DefinitionName>,
    timeout: Option<Duration>,
    steps: Vec<Step>,
}

impl Builder {
    /// Other limits than the default ones.
    pub fn limits(&mut self, limits: Limits) -> &mut Builder {
        self.limits = limits;
        self
    }

    /// Its name, and the version of what stands under this name: a new one for each change.
    pub fn name(&mut self, name: Label, version: u32) -> &mut Builder {
        self.name = Some(DefinitionName { name, version });
        self
    }

    /// How long a saga of it may take until it is undone; 584 years at most, as a [step](Step::timeout).
    pub fn timeout(&mut self, timeout: Duration) -> &mut Builder {
        self.timeout = Some(timeout.min(TIMEOUT_MAX));
        self
    }

    /// Adds a step and returns its index, for later steps to depend on.
    pub fn step(&mut self, step: Step) -> u32 {
        // Saturation is never seen: 2^32 steps need hundreds of gigabytes.
        let index = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.steps.push(step);
        index
    }

    /// Checks the graph.
    ///
    /// # Errors
    /// [`DefinitionError`]: the caller's mistake, and where it is. The first in step order.
    pub fn build(self) -> Result<Definition, DefinitionError> {
        if self.steps.is_empty() {
            return Err(DefinitionError::Empty);
        }
        if self.steps.len() > self.limits.steps_max as usize {
            let steps = self.steps.len() as u64;
            return Err(DefinitionError::TooManySteps { steps, steps_max: self.limits.steps_max });
        }
        for (step, definition) in (0..).zip(&self.steps) {
            check(step, &definition.dependencies, self.limits.dependencies_max)?;
        }
        kind::check(&self.steps)?;
        check_inputs(&self.steps)?;
        performer::check(&self.steps, self.limits.depth_max)?;
        let fingerprint = fingerprint(self.name.as_ref(), self.timeout, &self.steps);
        let Builder { name, timeout, steps, .. } = self;
        let record = |step: &Step| StepRecord {
            dependencies: step.dependencies.as_slice().into(),
            terms: Arc::new(step.terms()),
        };
        let (records, depth) = (steps.iter().map(record).collect(), performer::depth(&steps));
        Ok(Definition(Arc::new(Built { name, timeout, steps, records, fingerprint, depth })))
    }
}

fn check(step: u32, dependencies: &[u32], most: u32) -> Result<(), DefinitionError> {
    if dependencies.len() > most as usize {
        return Err(DefinitionError::TooManyDependencies {
            step,
            dependencies: dependencies.len() as u64,
            dependencies_max: most,
        });
    }
    for (at, &dependency) in dependencies.iter().enumerate() {
        if dependency >= step {
            return Err(DefinitionError::UnknownDependency { step, dependency });
        }
        if dependencies[..at].contains(&dependency) {
            return Err(DefinitionError::DuplicateDependency { step, dependency });
        }
    }
    Ok(())
}

/// An input comes from a step that has succeeded by then, and that gives what is expected.
fn check_inputs(steps: &[Step]) -> Result<(), DefinitionError> {
    for (step, definition) in (0..).zip(steps) {
        let mut before = vec![false; step as usize];
        definition.dependencies.iter().for_each(|&on| before[on as usize] = true);
        for number in (0..step as usize).rev() {
            if before[number] {
                steps[number].dependencies.iter().for_each(|&on| before[on as usize] = true);
            }
        }
        for (at, &(input, expected)) in definition.inputs.iter().enumerate() {
            if !before.get(input as usize).is_some_and(|before| *before) {
                return Err(DefinitionError::InputNotBefore { step, input });
            }
            if definition.inputs[..at].iter().any(|(other, _)| *other == input) {
                return Err(DefinitionError::DuplicateInput { step, input });
            }
            match steps[input as usize].output {
                None => return Err(DefinitionError::NoOutput { step, input }),
                Some(found) if found != expected => {
                    return Err(DefinitionError::InputType { step, input, expected, found });
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// A definition that cannot be run. The caller's mistake: correct the definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// There is nothing to do.
    #[error("a saga needs at least one step")]
    Empty,
    /// Split it, or raise [`Limits::steps_max`].
    #[error("{steps} steps: at most {steps_max} are allowed")]
    TooManySteps {
        /// How many there are.
        steps: u64,
        /// How many there may be.
        steps_max: u32,
    },
    /// Put a step that joins some of them before it, or raise [`Limits::dependencies_max`].
    #[error("step {step} depends on {dependencies} others: at most {dependencies_max} are allowed")]
    TooManyDependencies {
        /// The step's index.
        step: u32,
        /// How many there are.
        dependencies: u64,
        /// How many there may be.
        dependencies_max: u32,
    },
    /// A step may depend only on steps added before it.
    #[error("step {step} depends on {dependency}, which is not an earlier step")]
    UnknownDependency {
        /// The step's index.
        step: u32,
        /// What it names.
        dependency: u32,
    },
    /// A dependency is named once.
    #[error("step {step} names its dependency {dependency} twice")]
    DuplicateDependency {
        /// The step's index.
        step: u32,
        /// What it names.
        dependency: u32,
    },
    /// There is one point of no return. Make one of them compensatable, or, behind the other,
    /// retriable.
    #[error("steps {first} and {second} are both pivots: a saga has at most one")]
    SecondPivot {
        /// The first one's index.
        first: u32,
        /// The second one's index.
        second: u32,
    },
    /// It could still fail, or still be undone, when the pivot is done. Let one depend on the other.
    #[error("step {step} is neither before nor behind the pivot, step {pivot}")]
    BesidePivot {
        /// The step's index.
        step: u32,
        /// The pivot's index.
        pivot: u32,
    },
    /// Until the pivot is done everything may have to be undone: give it an undo, or make it
    /// read-only.
    #[error("step {step} is {}, and stands before the pivot, step {pivot}: it has to be \
             compensatable or read-only", .kind.name())]
    AheadOfPivot {
        /// The step's index.
        step: u32,
        /// The pivot's index.
        pivot: u32,
        /// What it is.
        kind: StepKind,
    },
    /// Behind the pivot the saga only goes forward: nothing there is undone, and nothing may fail.
    #[error("step {step} is {}, and stands behind the pivot, step {pivot}: it has to be \
             retriable or read-only", .kind.name())]
    BehindPivot {
        /// The step's index.
        step: u32,
        /// The pivot's index.
        pivot: u32,
        /// What it is.
        kind: StepKind,
    },
    /// What a step is given has to be there when it runs: let it depend on that step.
    #[error("step {step} takes the output of {input}, on which it does not depend")]
    InputNotBefore {
        /// The step's index.
        step: u32,
        /// What it names.
        input: u32,
    },
    /// An input is named once.
    #[error("step {step} takes the output of {input} twice")]
    DuplicateInput {
        /// The step's index.
        step: u32,
        /// What it names.
        input: u32,
    },
    /// The other step has to say what it gives.
    #[error("step {step} takes the output of {input}, which gives none")]
    NoOutput {
        /// The step's index.
        step: u32,
        /// What it names.
        input: u32,
    },
    /// Both have to name the same type.
    #[error("step {step} takes the output of {input} as {}, and it is {}", .expected.name(), .found.name())]
    InputType {
        /// The step's index.
        step: u32,
        /// What it names.
        input: u32,
        /// What is expected of it.
        expected: ValueType,
        /// What it gives.
        found: ValueType,
    },
    /// What a transaction or a sub-saga does can be seen: make it compensatable, a pivot or retriable.
    #[error("step {step} is a transaction or a saga, and cannot be read-only")]
    ReadOnlyOperation {
        /// The step's index.
        step: u32,
    },
    /// What a transaction or a sub-saga is asked is fixed when its saga is submitted. Let a step that its
    /// node does take the output.
    #[error("step {step} is a transaction or a saga, and takes no outputs")]
    OperationTakesInput {
        /// The step's index.
        step: u32,
    },
    /// A transaction brings nothing, and a sub-saga what its last step brings.
    #[error("step {step} gives {}, and what does it gives {}", .expected.name(), Found(*.found))]
    OperationOutput {
        /// The step's index.
        step: u32,
        /// What it is to give.
        expected: ValueType,
        /// What it would.
        found: Option<ValueType>,
    },
    /// Name the transaction or the action that undoes it, or let it be the pivot, or retriable behind it.
    #[error("step {step} is a transaction that can be undone, and nothing says how")]
    NoUndo {
        /// The step's index.
        step: u32,
    },
    /// What its node does its node undoes, since nobody else can refuse a call that comes late; and only a
    /// sub-saga has compensations of its own.
    #[error(
        "step {step} cannot be undone so: a call is undone by a call, and only a saga by its own \
             compensations"
    )]
    UndoneOtherwise {
        /// The step's index.
        step: u32,
    },
    /// Once it is done, a sub-saga with a pivot cannot go backward: name another undo, or let this step be
    /// the pivot, or retriable behind it.
    #[error("step {step} is undone by its own compensations, and its step {inner} has none")]
    Irreversible {
        /// The step's index.
        step: u32,
        /// The index of a pivot or a retriable step within the sub-saga.
        inner: u32,
    },
    /// A transaction has at least one participant.
    #[error("step {step} is a transaction without participants")]
    NoBranches {
        /// The step's index.
        step: u32,
    },
    /// A transaction would wait for itself.
    #[error("step {step} names shard {shard} twice in one transaction")]
    DuplicateShard {
        /// The step's index.
        step: u32,
        /// The shard.
        shard: ShardId,
    },
    /// Put the innermost steps into one saga, or raise [`Limits::depth_max`].
    #[error("sagas within sagas, {depth} deep: at most {depth_max} are allowed")]
    TooDeep {
        /// How deep they nest.
        depth: u32,
        /// How deep they may.
        depth_max: u32,
    },
    /// Without a pivot before it, its saga could go backward, and it has no undo.
    #[error("step {step} is retriable, and no pivot stands before it")]
    RetriableWithoutPivot {
        /// The step's index.
        step: u32,
    },
}

/// An output's type, for people.
struct Found(Option<ValueType>);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.map_or("nothing", ValueType::name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[u32] = &[];

    fn build(limits: Limits, steps: &[&[u32]]) -> Result<Definition, DefinitionError> {
        let mut builder = Definition::builder();
        builder.limits(limits);
        for (index, dependencies) in (0..).zip(steps) {
            let step = Step::new(Action::Custom, NodeName::numbered(1), []);
            let step = dependencies.iter().fold(step, |step, &on| step.after(on));
            assert_eq!(builder.step(step), index);
        }
        builder.build()
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        use DefinitionError::*;
        let check = |steps: &[&[u32]], error| {
            assert_eq!(
                build(Limits { steps_max: 4, dependencies_max: 2, ..Limits::default() }, steps),
                Err(error)
            );
        };
        check(&[], Empty);
        check(&[NONE; 5], TooManySteps { steps: 5, steps_max: 4 });
        check(&[&[0]], UnknownDependency { step: 0, dependency: 0 });
        check(&[&[], &[2], &[]], UnknownDependency { step: 1, dependency: 2 });
        check(&[&[], &[0, 0]], DuplicateDependency { step: 1, dependency: 0 });
        check(
            &[&[], &[], &[], &[0, 1, 2]],
            TooManyDependencies { step: 3, dependencies: 3, dependencies_max: 2 },
        );
    }

    #[test]
    fn kinds_go_together_or_are_named() {
        use DefinitionError::*;
        use StepKind::{Compensatable as C, Pivot as P, ReadOnly as O, Retriable as R};
        let build = |steps: &[(StepKind, &[u32])]| {
            let mut builder = Definition::builder();
            for (kind, on) in steps {
                let step = Step::new(Action::Custom, NodeName::numbered(1), []).kind(*kind);
                builder.step(on.iter().fold(step, |step, &on| step.after(on)));
            }
            builder.build().map(|_| ())
        };
        for good in [
            &[(C, NONE), (O, &[0]), (P, &[1]), (R, &[2]), (O, &[2]), (R, &[3, 4])][..],
            &[(P, NONE)],
            &[(O, NONE), (C, NONE)],
            &[(P, NONE), (R, &[0]), (R, &[0])],
            &[(C, NONE), (C, NONE), (P, &[0, 1])],
        ] {
            assert_eq!(build(good), Ok(()), "{good:?}");
        }
        for (bad, error) in [
            (&[(P, NONE), (P, &[0])][..], SecondPivot { first: 0, second: 1 }),
            (&[(C, NONE), (P, NONE)], BesidePivot { step: 0, pivot: 1 }),
            (&[(P, NONE), (O, NONE)], BesidePivot { step: 1, pivot: 0 }),
            (&[(R, NONE), (P, &[0])], AheadOfPivot { step: 0, pivot: 1, kind: R }),
            (&[(P, NONE), (C, &[0])], BehindPivot { step: 1, pivot: 0, kind: C }),
            (&[(P, NONE), (R, &[0]), (C, &[1])], BehindPivot { step: 2, pivot: 0, kind: C }),
            (&[(C, NONE), (R, &[0])], RetriableWithoutPivot { step: 1 }),
        ] {
            assert_eq!(build(bad), Err(error), "{bad:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn an_input_is_there_and_of_its_type() {
        use DefinitionError::*;
        let build = |third: Step| {
            let mut builder = Definition::builder();
            let step = || Step::new(Action::Custom, NodeName::numbered(1), []);
            builder.step(step().gives(ValueType::U64));
            builder.step(step().after(0));
            builder.step(third);
            builder.build().map(|_| ())
        };
        let step = || Step::new(Action::Custom, NodeName::numbered(1), []);
        let u64 = ValueType::U64;
        assert_eq!(build(step().after(1).takes(0, u64)), Ok(()));
        assert_eq!(build(step().takes(0, u64)), Err(InputNotBefore { step: 2, input: 0 }));
        assert_eq!(build(step().takes(2, u64)), Err(InputNotBefore { step: 2, input: 2 }));
        assert_eq!(build(step().after(1).takes(1, u64)), Err(NoOutput { step: 2, input: 1 }));
        let twice = step().after(0).takes(0, u64).takes(0, u64);
        assert_eq!(build(twice), Err(DuplicateInput { step: 2, input: 0 }));
        let (expected, found) = (ValueType::Text, u64);
        let other = build(step().after(0).takes(0, expected));
        assert_eq!(other, Err(InputType { step: 2, input: 0, expected, found }));
    }

    #[test]
    fn operations_fit_their_steps_or_are_named() {
        use DefinitionError::*;
        use StepKind::{Compensatable as C, Pivot as P, ReadOnly as O, Retriable as R};
        let at = NodeName::numbered;
        let call = |kind| Step::new(Action::Custom, at(1), []).kind(kind);
        let branch = |shard| Branch {
            shard: ShardId::numbered(shard),
            node: at(shard),
            work: Arc::from([]),
        };
        let two = || vec![branch(1), branch(2)];
        let row = |steps: Vec<Step>| {
            let mut builder = Definition::builder();
            let mut last: Option<u32> = None;
            for step in steps {
                last = Some(builder.step(last.into_iter().fold(step, Step::after)));
            }
            builder.build()
        };
        let whole = |steps| row(steps).unwrap();
        let back = || whole(vec![call(C), call(O).gives(ValueType::U64)]);
        let forth = || whole(vec![call(C), call(P), call(R)]);
        let transaction = || Step::transaction(two());
        for good in [
            vec![transaction().undone_by_transaction(two())],
            vec![transaction().undone_at(at(1), [1])],
            vec![transaction().kind(P), transaction().kind(R)],
            vec![Step::saga(back()), Step::saga(back()).gives(ValueType::U64)],
            vec![Step::saga(forth()).undone_at(at(1), [])],
            vec![Step::saga(forth()).undone_by_transaction(two())],
            vec![Step::saga(forth()).kind(P), Step::saga(forth()).kind(R)],
            vec![Step::saga(whole(vec![Step::saga(back())]))],
        ] {
            let definition = row(good.clone()).unwrap();
            let admission =
                crate::Saga::admission(&definition, base::CoordinatorId::numbered(1), 2, None);
            let [Event::Created { terms, .. }, added @ .., Event::ExecuteStart] = &admission[..]
            else {
                panic!("{admission:?}");
            };
            assert_eq!(Definition::from_log(terms, added).as_ref(), Some(&definition));
            // One step less, or a step from elsewhere, is another definition, or none.
            assert_eq!(Definition::from_log(terms, &added[1..]), None);
            assert_eq!(Definition::from_log(terms, &admission[..1]), None);
        }
        let shard = ShardId::numbered(1);
        let (expected, found) = (ValueType::Bool, Some(ValueType::U64));
        for (bad, error) in [
            (vec![transaction()], NoUndo { step: 0 }),
            (vec![call(C), transaction().kind(O)], ReadOnlyOperation { step: 1 }),
            (vec![Step::saga(back()).kind(O)], ReadOnlyOperation { step: 0 }),
            (vec![Step::transaction([]).kind(P)], NoBranches { step: 0 }),
            (vec![transaction().undone_by_transaction([])], NoBranches { step: 0 }),
            (
                vec![Step::transaction([branch(1), branch(2), branch(1)]).kind(P)],
                DuplicateShard { step: 0, shard },
            ),
            (
                vec![Step::saga(back()).undone_by_transaction([branch(1), branch(1)])],
                DuplicateShard { step: 0, shard },
            ),
            (vec![Step::saga(forth())], Irreversible { step: 0, inner: 1 }),
            (vec![call(C).undone_by_transaction(two())], UndoneOtherwise { step: 0 }),
            (
                vec![Step { undo: Some(Undo::Reverse), ..transaction() }],
                UndoneOtherwise { step: 0 },
            ),
            (vec![Step { undo: Some(Undo::Reverse), ..call(C) }], UndoneOtherwise { step: 0 }),
            (
                vec![transaction().kind(P).gives(expected)],
                OperationOutput { step: 0, expected, found: None },
            ),
            (
                vec![Step::saga(back()).gives(expected)],
                OperationOutput { step: 0, expected, found },
            ),
            (
                vec![call(C).gives(expected), Step::saga(back()).takes(0, expected)],
                OperationTakesInput { step: 1 },
            ),
        ] {
            assert_eq!(row(bad.clone()), Err(error), "{bad:?}");
            assert!(!error.to_string().is_empty());
        }
        // Four deep by default, however wide.
        let mut nested = back();
        for depth in 2..=4 {
            nested = whole(vec![Step::saga(nested), call(C)]);
            assert_eq!(nested.depth(), depth);
        }
        let too_deep = row(vec![call(C), Step::saga(nested)]);
        assert_eq!(too_deep, Err(TooDeep { depth: 5, depth_max: 4 }));
    }

    /// Whatever is changed in a definition changes its fingerprint.
    #[test]
    fn a_fingerprint_tells_definitions_apart() {
        type Edit = fn(&mut Builder, &mut [Step; 2]);
        fn branch(shard: u64, work: u8) -> Branch {
            let (shard, node) = (ShardId::numbered(shard), NodeName::numbered(1));
            Branch { shard, node, work: Arc::from([work]) }
        }
        fn inner(body: u8) -> Definition {
            let mut builder = Definition::builder();
            builder.step(Step::new(Action::Custom, NodeName::numbered(1), [body]));
            builder.build().unwrap()
        }
        let edits: [Edit; 20] = [
            |_, _| {},
            |builder, _| _ = builder.name(Label::new("a").unwrap(), 1),
            |builder, _| _ = builder.name(Label::new("a").unwrap(), 2),
            |builder, _| _ = builder.name(Label::new("b").unwrap(), 1),
            |builder, _| _ = builder.timeout(Duration::from_secs(1)),
            |_, steps| steps[0].body = Arc::from([0]),
            |_, steps| steps[0].body = Arc::from([0, 0]),
            |_, steps| steps[1].body = Arc::from([0]),
            |_, steps| steps[1].kind = StepKind::Pivot,
            |_, steps| steps[1].dependencies = vec![0],
            |_, steps| steps[1].node = NodeName::numbered(2),
            |_, steps| steps[1].timeout = Some(Duration::from_nanos(1)),
            |_, steps| steps[1].output = Some(ValueType::Bytes),
            |_, steps| {
                steps[1] = Step::transaction([branch(1, 1)]).undone_at(NodeName::numbered(1), [])
            },
            |_, steps| {
                steps[1] = Step::transaction([branch(1, 2)]).undone_at(NodeName::numbered(1), [])
            },
            |_, steps| {
                steps[1] = Step::transaction([branch(1, 1)]).undone_by_transaction([branch(1, 1)])
            },
            |_, steps| {
                let first = Step::transaction([branch(1, 1)]);
                steps[1] = first.undone_by_transaction([branch(1, 1)]).attempts(1);
            },
            |_, steps| steps[1] = Step::saga(inner(0)),
            |_, steps| steps[1] = Step::saga(inner(1)),
            |_, steps| steps[1] = Step::saga(inner(1)).undone_at(NodeName::default(), []),
        ];
        let mut found = Vec::new();
        for edit in edits {
            let mut builder = Definition::builder();
            let step = || Step::new(Action::Custom, NodeName::numbered(1), []);
            let mut steps = [step(), step()];
            edit(&mut builder, &mut steps);
            let steps =
                steps.map(|step| if step.kind == StepKind::Pivot { step.after(0) } else { step });
            steps.into_iter().for_each(|step| _ = builder.step(step));
            let definition = builder.build().unwrap();
            assert_eq!(definition.fingerprint(), definition.clone().fingerprint());
            found.push(definition.fingerprint());
        }
        let count = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), count);
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let definition = build(
            Limits { steps_max: 3, dependencies_max: 2, depth_max: 1 },
            &[&[], &[0], &[1, 0]],
        )
        .unwrap();
        assert_eq!(definition.steps().len(), 3);
        assert!(build(Limits::default(), &[NONE; 32]).is_ok());
        assert!(build(Limits::default(), &[NONE; 33]).is_err());
    }

    #[test]
    fn every_code_is_an_action_and_back() {
        for code in 0..=u8::MAX {
            let action = Action::from_code(code);
            assert_eq!(action.code(), code);
            assert_eq!(action.name().is_some(), code <= 9);
            assert_eq!(matches!(action, Action::Other(_)), code > 9);
        }
        assert_eq!(Action::from_code(9).name(), Some("custom"));
    }
}
