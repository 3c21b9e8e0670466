//! What a caller asks for: a graph of steps.
//!
//! A step may depend only on steps that were added before it, so a graph with a cycle cannot be
//! written down.

use base::NodeName;
use std::sync::Arc;

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
}

impl Step {
    /// A step that depends on nothing.
    #[must_use]
    pub fn new(action: Action, node: NodeName, body: impl Into<Arc<[u8]>>) -> Step {
        Step { action, dependencies: Vec::new(), node, body: body.into() }
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
}

impl Default for Limits {
    /// 32 steps with 8 dependencies each.
    fn default() -> Limits {
        Limits { steps_max: 32, dependencies_max: 8 }
    }
}

/// A checked saga: at least one step, no cycle, within its [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    steps: Vec<Step>,
}

impl Definition {
    /// Starts a definition under the default [`Limits`].
    #[must_use]
    pub fn builder() -> Builder {
        Builder { limits: Limits::default(), steps: Vec::new() }
    }

    /// The steps; a step's number is its index here.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// Collects steps; [`Builder::build`] checks them.
#[derive(Clone, Debug)]
pub struct Builder {
    limits: Limits,
    steps: Vec<Step>,
}

impl Builder {
    /// Other limits than the default ones.
    pub fn limits(&mut self, limits: Limits) -> &mut Builder {
        self.limits = limits;
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
        Ok(Definition { steps: self.steps })
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
            assert_eq!(build(Limits { steps_max: 4, dependencies_max: 2 }, steps), Err(error));
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
    fn the_limits_themselves_are_allowed() {
        let definition =
            build(Limits { steps_max: 3, dependencies_max: 2 }, &[&[], &[0], &[1, 0]]).unwrap();
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
