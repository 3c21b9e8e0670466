//! What a saga's step does: code of the embedder's, found by its name.

use base::{OperationId, Token};
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
    /// What the step was given when the saga was submitted.
    pub input: Arc<[u8]>,
}

/// What became of a call. It must be durable before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The effect of the token is there; of an undo: it is not, and never will be.
    Done,
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
}

pub(crate) type Answered<'a> =
    Pin<Box<dyn Future<Output = Result<Answer, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// An [`Action`] of any type.
pub(crate) trait AnyAction: Send + Sync {
    fn run(&self, call: Call) -> Answered<'_>;
    fn undo(&self, call: Call) -> Answered<'_>;
}

impl<A: Action> AnyAction for A {
    fn run(&self, call: Call) -> Answered<'_> {
        Box::pin(Action::run(self, call))
    }

    fn undo(&self, call: Call) -> Answered<'_> {
        Box::pin(Action::undo(self, call))
    }
}

impl fmt::Debug for dyn AnyAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an action")
    }
}
