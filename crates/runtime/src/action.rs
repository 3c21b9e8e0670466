//! What a saga's step does: code of the embedder's, found by its name.

use base::{OperationId, Token};
use saga::{Output, StepInput};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// One call of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The saga, as the coordinator's log names it.
    pub saga: OperationId,
    /// The step's number in it.
    pub step: u32,
    /// The name of the step's *effect*: the same in every attempt, over every restart, and the same for
    /// [`run`](Action::run) and [`undo`](Action::undo). No other step has it.
    pub token: Token,
    /// What the step was given when the saga was submitted; of an undo that an operator has replaced, what
    /// the operator asks for.
    pub input: Arc<[u8]>,
    /// Of a run: what the steps have brought that this one [takes](saga::Step::takes), by their numbers. Of
    /// an undo: what this step itself has brought, if that is known.
    pub given: Arc<[StepInput]>,
    /// An operator has replaced what the undo is to do: it is [`input`](Self::input).
    pub overridden: bool,
}

impl Call {
    /// What the step of this number has brought, if this call is given that.
    #[must_use]
    pub fn given_by(&self, step: u32) -> Option<&[u8]> {
        let found = self.given.iter().find(|given| given.step == step)?;
        match &found.output {
            Output::Inline(bytes) => Some(bytes),
            Output::Hashed { .. } => None,
        }
    }
}

/// What became of a call. It must be durable before it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The effect of the token is there; of an undo: it is not, and never will be.
    Done,
    /// As `Done`, of a run whose step [gives](saga::Step::gives) something: this, of the declared type, and
    /// the same whenever the token is asked for again. At most 4,096 bytes. Whatever does not fit is
    /// taken for no answer, and the call is repeated.
    Gave(Arc<[u8]>),
    /// No call with this token will ever have an effect: the saga goes back. Of an undo: this attempt
    /// failed, and it is tried again.
    Refused {
        /// The reason, for the log.
        code: u32,
    },
}

/// Code of a saga's step.
///
/// A call may come twice, after a restart too, and `undo` may come for a step whose `run` never arrived, or
/// arrives later. So an action that changes something keeps `call.token` in the same local transaction as the
/// change, and looks there first:
///
/// | what is kept of the token | `run` | `undo` |
/// |---|---|---|
/// | nothing | does it, keeps *done* | keeps *undone*, answers `Done` |
/// | *done* | answers `Done` | takes it back, keeps *undone* |
/// | *undone* | answers `Refused` | answers `Done` |
///
/// An error, or a panic, says that nothing is known of the outcome: the call is repeated with growing
/// patience. Say [`Answer::Refused`] only if it is certain that there is no effect and never will be.
pub trait Action: Send + Sync + 'static {
    /// Does it.
    fn run(
        &self,
        call: Call,
    ) -> impl Future<Output = Result<Answer, Box<dyn Error + Send + Sync>>> + Send;

    /// Takes it back.
    fn undo(
        &self,
        call: Call,
    ) -> impl Future<Output = Result<Answer, Box<dyn Error + Send + Sync>>> + Send;

    /// An operator has taken it back by hand: keeps *undone* of the token, and changes nothing, so that
    /// neither a late run nor a late undo does anything. Unless an action says otherwise this is an error,
    /// and the operator can only have the step
    /// [closed unanswered](saga::What::CloseUnanswered).
    fn mark_undone(
        &self,
        _call: Call,
    ) -> impl Future<Output = Result<Answer, Box<dyn Error + Send + Sync>>> + Send {
        async { Err("this action does not keep what was undone by hand".into()) }
    }
}

pub(crate) type Answered<'a> =
    Pin<Box<dyn Future<Output = Result<Answer, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// An [`Action`] of any type.
pub(crate) trait AnyAction: Send + Sync {
    fn run(&self, call: Call) -> Answered<'_>;
    fn undo(&self, call: Call) -> Answered<'_>;
    fn mark_undone(&self, call: Call) -> Answered<'_>;
}

impl<A: Action> AnyAction for A {
    fn run(&self, call: Call) -> Answered<'_> {
        Box::pin(Action::run(self, call))
    }

    fn undo(&self, call: Call) -> Answered<'_> {
        Box::pin(Action::undo(self, call))
    }

    fn mark_undone(&self, call: Call) -> Answered<'_> {
        Box::pin(Action::mark_undone(self, call))
    }
}

impl fmt::Debug for dyn AnyAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an action")
    }
}
