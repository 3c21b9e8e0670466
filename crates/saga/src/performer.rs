//! Who does a step, and who undoes it: its node, a transaction, or a saga of its own.

use crate::definition::{Definition, DefinitionError, Step};
use crate::kind::StepKind;
use crate::terms::ValueType;
use base::{NodeName, ShardId};
use std::sync::Arc;

/// One participant's part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The shard that it touches; each at most once in a transaction.
    pub shard: ShardId,
    /// The node that serves it.
    pub node: NodeName,
    /// What it is asked to do; opaque here.
    pub work: Arc<[u8]>,
}

/// Who does a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Performer {
    /// Its node, which is called with what it is asked.
    #[default]
    Node,
    /// A transaction of the same coordinator's. The step is done when every participant has committed, and
    /// refused when the transaction is aborted: what became of it is never unknown.
    Transaction(Arc<[Branch]>),
    /// A saga of the same coordinator's, the *sub-saga*. The step is done when all of its steps are, and
    /// refused when it is compensated. It brings what the sub-saga's last step brings.
    Saga(Arc<Definition>),
}

/// Who undoes a step that has an undo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undo {
    /// The step's node, which is called with what it is asked. Of a step that its node does, that is what
    /// was asked to do it.
    #[default]
    Call,
    /// A transaction, begun anew until it commits. Of a step that a transaction or a sub-saga does.
    Transaction(Arc<[Branch]>),
    /// The compensations of the sub-saga's own steps, in reverse. Until the saga that it is a step of has
    /// ended, a sub-saga that is done can be turned for this, and does not end.
    Reverse,
}

impl Performer {
    /// `"node"`, `"transaction"` or `"saga"`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Performer::Node => "node",
            Performer::Transaction(_) => "transaction",
            Performer::Saga(_) => "saga",
        }
    }

    /// Whether an undo, if there is one, has to be named.
    pub(crate) fn needs_undo(&self) -> bool {
        self.usual_undo().is_none()
    }

    /// How it is undone if nobody says how; `None`: it has to be said.
    const fn usual_undo(&self) -> Option<Undo> {
        match self {
            Performer::Node => Some(Undo::Call),
            Performer::Transaction(_) => None,
            Performer::Saga(_) => Some(Undo::Reverse),
        }
    }
}

impl Step {
    /// A step that a transaction does. If it can be undone, say how: [`Step::undone_by_transaction`],
    /// [`Step::undone_at`].
    #[must_use]
    pub fn transaction(branches: impl Into<Arc<[Branch]>>) -> Step {
        let performer = Performer::Transaction(branches.into());
        Step { performer, ..Step::new(crate::Action::Custom, NodeName::default(), []) }
    }

    /// A step that is a saga of its own. Unless another undo is named, it is undone by the compensations
    /// of that saga's steps.
    ///
    /// A definition is a value, so that none can hold itself; how deep they nest is
    /// [limited](crate::Limits::depth_max).
    #[must_use]
    pub fn saga(definition: Definition) -> Step {
        let performer = Performer::Saga(Arc::new(definition));
        Step { performer, ..Step::new(crate::Action::Custom, NodeName::default(), []) }
    }

    /// The same step, undone by this transaction. Its branches should be such that they can be done at
    /// last: it is begun anew until it commits.
    #[must_use]
    pub fn undone_by_transaction(mut self, branches: impl Into<Arc<[Branch]>>) -> Step {
        self.undo = Some(Undo::Transaction(branches.into()));
        self
    }

    /// The same step, of which a transaction or a sub-saga does the doing, undone by a call of this node.
    #[must_use]
    pub fn undone_at(mut self, node: NodeName, body: impl Into<Arc<[u8]>>) -> Step {
        (self.node, self.body, self.undo) = (node, body.into(), Some(Undo::Call));
        self
    }

    /// The same step, refused once so many of its transactions in a row have been voted down. A crash, or
    /// a participant that does not vote in time, does not count.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Step {
        self.attempts = Some(attempts);
        self
    }

    /// How it is undone.
    pub(crate) fn undo_or_usual(&self) -> Undo {
        self.undo.clone().or(self.performer.usual_undo()).unwrap_or_default()
    }
}

/// Checks that what a step is and who does and undoes it go together. The kinds have been checked.
pub(crate) fn check(steps: &[Step], depth_max: u32) -> Result<(), DefinitionError> {
    for (number, step) in (0..).zip(steps) {
        check_step(number, step)?;
    }
    let depth = depth(steps);
    if depth > depth_max {
        return Err(DefinitionError::TooDeep { depth, depth_max });
    }
    Ok(())
}

/// How many definitions deep these steps nest: 1 if no step is a saga.
pub(crate) fn depth(steps: &[Step]) -> u32 {
    let below = steps.iter().map(|step| match &step.performer {
        Performer::Saga(definition) => definition.depth(),
        Performer::Node | Performer::Transaction(_) => 0,
    });
    1 + below.max().unwrap_or(0)
}

fn check_step(step: u32, asked: &Step) -> Result<(), DefinitionError> {
    let operation = !matches!(asked.performer, Performer::Node);
    if operation && asked.kind == StepKind::ReadOnly {
        return Err(DefinitionError::ReadOnlyOperation { step });
    }
    if operation && !asked.inputs.is_empty() {
        return Err(DefinitionError::OperationTakesInput { step });
    }
    if let Performer::Transaction(branches) = &asked.performer {
        check_branches(step, branches)?;
    }
    let brings = match &asked.performer {
        Performer::Node => asked.output,
        Performer::Transaction(_) => None,
        Performer::Saga(definition) => last_output(definition),
    };
    if let Some(expected) = asked.output.filter(|expected| brings != Some(*expected)) {
        return Err(DefinitionError::OperationOutput { step, expected, found: brings });
    }
    let undo = asked.undo.clone().or(asked.performer.usual_undo());
    match (&undo, &asked.performer) {
        _ if !asked.kind.has_undo() => Ok(()),
        (None, _) => Err(DefinitionError::NoUndo { step }),
        (Some(Undo::Call), _) => Ok(()),
        (Some(_), Performer::Node) | (Some(Undo::Reverse), Performer::Transaction(_)) => {
            Err(DefinitionError::UndoneOtherwise { step })
        }
        (Some(Undo::Transaction(branches)), _) => check_branches(step, branches),
        (Some(Undo::Reverse), Performer::Saga(definition)) => match irreversible(definition) {
            Some(inner) => Err(DefinitionError::Irreversible { step, inner }),
            None => Ok(()),
        },
    }
}

/// What a saga of this definition brings as a step: what its last step does.
fn last_output(definition: &Definition) -> Option<ValueType> {
    definition.steps().last().and_then(|last| last.output)
}

/// A step that keeps a finished saga from being undone.
fn irreversible(definition: &Definition) -> Option<u32> {
    let forward = |step: &Step| matches!(step.kind, StepKind::Pivot | StepKind::Retriable);
    definition.steps().iter().position(forward).map(|step| step as u32)
}

pub(crate) fn check_branches(step: u32, branches: &[Branch]) -> Result<(), DefinitionError> {
    if branches.is_empty() {
        return Err(DefinitionError::NoBranches { step });
    }
    for (at, branch) in branches.iter().enumerate() {
        if branches[..at].iter().any(|earlier| earlier.shard == branch.shard) {
            return Err(DefinitionError::DuplicateShard { step, shard: branch.shard });
        }
    }
    Ok(())
}
