//! What was agreed on about a saga and its steps besides the graph: names, versions, patience, and
//! what flows from step to step.

use crate::kind::StepKind;
use crate::performer::{Performer, Undo};
use base::ParentStep;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A name in a definition, at most [`Label::BYTES_MAX`] bytes of UTF-8 and not empty: of the
/// definition, of a step's action.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

/// A name in a definition was empty, or longer than [`Label::BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name of {bytes} bytes: it has to have 1 to {}", Label::BYTES_MAX)]
pub struct LabelLength {
    /// Its length in bytes.
    pub bytes: u64,
}

impl Label {
    /// The longest name, in bytes.
    pub const BYTES_MAX: u32 = 64;

    /// # Errors
    /// [`LabelLength`]: choose a shorter name, or one at all.
    pub fn new(name: &str) -> Result<Label, LabelLength> {
        if name.is_empty() || name.len() > Self::BYTES_MAX as usize {
            return Err(LabelLength { bytes: name.len() as u64 });
        }
        Ok(Label(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which definition a saga was made from. The graph itself is in the saga's log, so a saga goes on as
/// it began, whatever the definition has become since; only the code is looked up, by the actions'
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionName {
    /// Its name.
    pub name: Label,
    /// Its version, from 1.
    pub version: u32,
}

/// What saga_created says about the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SagaTerms {
    /// The definition's name and version, if it has them.
    pub definition: Option<DefinitionName>,
    /// The definition's [fingerprint](crate::Definition::fingerprint), the asked-for bodies
    /// included: by it a request is known again.
    pub fingerprint: Option<u128>,
    /// It is undone if it is not done so long after it was started, or resumed. `None`: as the shell
    /// has it.
    pub timeout: Option<Duration>,
    /// The step of another saga that it is, if it is no client's.
    pub parent: Option<ParentStep>,
}

/// What saga_step_added says about a step, besides where it stands and what is asked of whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepTerms {
    /// Whether it can fail, and whether it can be undone.
    pub kind: StepKind,
    /// It is Unknown for good if it is not answered so long after it was called first. `None`: as the
    /// shell has it. Without effect on a step that cannot fail.
    pub timeout: Option<Duration>,
    /// The name by which its code is found. A saga with a step whose action nobody knows waits.
    pub action_name: Option<Label>,
    /// The name by which the code of its compensation is found. Likewise.
    pub undo_name: Option<Label>,
    /// The earlier steps whose outputs it is given, in this order.
    pub inputs: Vec<u32>,
    /// What its success brings; `None`: nothing.
    pub output: Option<ValueType>,
    /// Who does it.
    pub performer: Performer,
    /// Who undoes it, if it has an undo.
    pub undo: Undo,
    /// After so many transactions that were voted down it is refused. `None`: as the shell has it.
    pub attempts: Option<u32>,
}

/// What kind of bytes an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ValueType {
    /// Any bytes. Code 0.
    Bytes,
    /// UTF-8. Code 1.
    Text,
    /// 8 bytes, little-endian. Code 2.
    U64,
    /// 8 bytes, little-endian, two's complement. Code 3.
    I64,
    /// One byte, 0 or 1. Code 4.
    Bool,
}

impl StepTerms {
    /// The names by which its code is found.
    pub fn action_names(&self) -> impl Iterator<Item = &Label> {
        self.action_name.iter().chain(&self.undo_name)
    }
}

impl ValueType {
    /// Every type; a type's code is its index.
    pub const ALL: [ValueType; 5] =
        [ValueType::Bytes, ValueType::Text, ValueType::U64, ValueType::I64, ValueType::Bool];

    /// The log's byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            ValueType::Bytes => 0,
            ValueType::Text => 1,
            ValueType::U64 => 2,
            ValueType::I64 => 3,
            ValueType::Bool => 4,
        }
    }

    /// The type of a log's byte; `None` for one that this version does not know.
    #[must_use]
    pub fn from_code(code: u8) -> Option<ValueType> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// `"bytes"`, `"text"`, `"u64"`, `"i64"` or `"bool"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ValueType::Bytes => "bytes",
            ValueType::Text => "text",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::Bool => "bool",
        }
    }

    /// The type of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<ValueType> {
        Self::ALL.into_iter().find(|found| found.name() == name)
    }

    /// Whether these bytes are of this type.
    #[must_use]
    pub fn admits(self, bytes: &[u8]) -> bool {
        match self {
            ValueType::Bytes => true,
            ValueType::Text => std::str::from_utf8(bytes).is_ok(),
            ValueType::U64 | ValueType::I64 => bytes.len() == 8,
            ValueType::Bool => matches!(bytes, [0 | 1]),
        }
    }
}

/// What a step's success brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The bytes themselves.
    Inline(Arc<[u8]>),
    /// Too many bytes for a log: they stay where the step ran, and are known by their hash.
    Hashed {
        /// Of the participants' choosing; 32 bytes of a cryptographic hash.
        hash: [u8; 32],
        /// How many bytes it is of.
        bytes: u64,
    },
}

impl Output {
    /// Whether it may be an output of this type. Only bytes and text are ever given by their hash.
    #[must_use]
    pub fn is_of(&self, wanted: ValueType) -> bool {
        match self {
            Output::Inline(bytes) => wanted.admits(bytes),
            Output::Hashed { .. } => matches!(wanted, ValueType::Bytes | ValueType::Text),
        }
    }
}

/// An output on its way to a step that needs it, or to the undo of the step that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepInput {
    /// Which step gave it.
    pub step: u32,
    /// What it gave.
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_read_back() {
        for (code, kind) in (0..).zip(StepKind::ALL) {
            assert_eq!((kind.code(), StepKind::from_code(code)), (code, Some(kind)));
            assert_eq!(StepKind::from_name(kind.name()), Some(kind));
        }
        for (code, value) in (0..).zip(ValueType::ALL) {
            assert_eq!((value.code(), ValueType::from_code(code)), (code, Some(value)));
            assert_eq!(ValueType::from_name(value.name()), Some(value));
        }
        assert_eq!((StepKind::from_code(4), ValueType::from_code(5)), (None, None));
        assert_eq!((StepKind::from_name(""), ValueType::from_name("u8")), (None, None));
    }

    #[test]
    fn a_type_admits_its_own_bytes_only() {
        let eight = 7u64.to_le_bytes();
        for (value, good, bad) in [
            (ValueType::Text, &b"\xc3\xa4"[..], Some(&b"\xc3"[..])),
            (ValueType::U64, &eight, Some(&eight[1..])),
            (ValueType::I64, &eight, Some(&[])),
            (ValueType::Bool, &[1], Some(&[2])),
            (ValueType::Bytes, &[0xff], None),
        ] {
            assert!(Output::Inline(good.into()).is_of(value), "{value:?}");
            assert!(bad.is_none_or(|bad| !Output::Inline(bad.into()).is_of(value)), "{value:?}");
        }
        let hashed = Output::Hashed { hash: [1; 32], bytes: 1 << 40 };
        let may_be = |value: &ValueType| hashed.is_of(*value);
        let hashed: Vec<_> = ValueType::ALL.into_iter().filter(may_be).collect();
        assert_eq!(hashed, [ValueType::Bytes, ValueType::Text]);
    }

    #[test]
    fn a_name_is_neither_empty_nor_long() {
        assert_eq!(Label::new(""), Err(LabelLength { bytes: 0 }));
        assert_eq!(Label::new(&"x".repeat(65)), Err(LabelLength { bytes: 65 }));
        assert_eq!(Label::new(&"x".repeat(64)).unwrap().as_str().len(), 64);
    }
}
