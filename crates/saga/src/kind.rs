//! What may become of a step: whether it can fail, and whether it can be undone.

use crate::definition::{DefinitionError, Step};

/// What may become of a step, checked when a definition is built.
///
/// The pivot is the point of no return: what comes before it can be undone, what comes after it
/// cannot fail. So a saga with a pivot is *compensatable … pivot … retriable*, and one without is
/// compensatable throughout (Garcia-Molina and Salem call it backward recovery, then forward).
/// Read-only steps may stand anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StepKind {
    /// It has an undo. Code 0, and every step of a published log.
    #[default]
    Compensatable,
    /// It has no undo, and once it may have been started the saga only goes forward. Only a refusal
    /// fails it: it is then known to have no effect. Code 1.
    Pivot,
    /// It has no undo and never fails for good: it is called until it is done. Code 2.
    Retriable,
    /// It has no effect, so nothing is to be undone. Code 3.
    ReadOnly,
}

impl StepKind {
    /// Every kind; a kind's code is its index.
    pub const ALL: [StepKind; 4] =
        [StepKind::Compensatable, StepKind::Pivot, StepKind::Retriable, StepKind::ReadOnly];

    /// The log's byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            StepKind::Compensatable => 0,
            StepKind::Pivot => 1,
            StepKind::Retriable => 2,
            StepKind::ReadOnly => 3,
        }
    }

    /// The kind of a log's byte; `None` for one that this version does not know.
    #[must_use]
    pub fn from_code(code: u8) -> Option<StepKind> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// `"compensatable"`, `"pivot"`, `"retriable"` or `"read-only"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StepKind::Compensatable => "compensatable",
            StepKind::Pivot => "pivot",
            StepKind::Retriable => "retriable",
            StepKind::ReadOnly => "read-only",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<StepKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether a step of this kind is undone when its saga goes backward.
    #[must_use]
    pub const fn has_undo(self) -> bool {
        matches!(self, StepKind::Compensatable)
    }

    /// Whether a step of this kind fails when nobody knows what became of it.
    #[must_use]
    pub const fn fails_unanswered(self) -> bool {
        matches!(self, StepKind::Compensatable | StepKind::ReadOnly)
    }
}

/// Checks that there is at most one pivot, that every other step is its ancestor or its descendant,
/// that ancestors are compensatable or read-only, and descendants retriable or read-only. The
/// dependencies have been checked to be earlier steps.
pub(crate) fn check(steps: &[Step]) -> Result<(), DefinitionError> {
    let pivots = || (0..).zip(steps).filter(|(_, step)| step.kind == StepKind::Pivot);
    let mut numbers = pivots().map(|(number, _)| number);
    let (pivot, second) = (numbers.next(), numbers.next());
    let Some(pivot) = pivot else {
        let retriable = steps.iter().position(|step| step.kind == StepKind::Retriable);
        return match retriable {
            None => Ok(()),
            Some(step) => Err(DefinitionError::RetriableWithoutPivot { step: step as u32 }),
        };
    };
    if let Some(second) = second {
        return Err(DefinitionError::SecondPivot { first: pivot, second });
    }
    let at = pivot as usize;
    let mut before = vec![false; steps.len()];
    before[at] = true;
    for number in (0..=at).rev() {
        if before[number] {
            steps[number].dependencies.iter().for_each(|&on| before[on as usize] = true);
        }
    }
    let mut behind = vec![false; steps.len()];
    for (number, step) in steps.iter().enumerate().skip(at + 1) {
        behind[number] = step.dependencies.iter().any(|&on| on == pivot || behind[on as usize]);
    }
    for (number, step) in (0..).zip(steps) {
        let (index, kind) = (number as usize, step.kind);
        if number == pivot {
            continue;
        }
        let fits = match (before[index], behind[index]) {
            (true, _) => matches!(kind, StepKind::Compensatable | StepKind::ReadOnly),
            (_, true) => matches!(kind, StepKind::Retriable | StepKind::ReadOnly),
            _ => return Err(DefinitionError::BesidePivot { step: number, pivot }),
        };
        if !fits {
            return Err(match before[index] {
                true => DefinitionError::AheadOfPivot { step: number, pivot, kind },
                false => DefinitionError::BehindPivot { step: number, pivot, kind },
            });
        }
    }
    Ok(())
}
